package sshkeys

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// keyFile writes a new private key for its owner alone.
func keyFile(t *testing.T, path string) ssh.PublicKey {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestPrivateKeyThatOthersCanReadIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "id")
	keyFile(t, path)
	if _, private, err := Read(path); err != nil || private == nil {
		t.Fatalf("a key for its owner alone: %v", err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Read(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key for everybody: %v", err)
	}
}

func TestKeyFilesAreTriedInTheOrderOfSSH(t *testing.T) {
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	last := keyFile(t, filepath.Join(home, ".ssh", "id_rsa"))
	first := keyFile(t, filepath.Join(home, ".ssh", "id_ed25519"))
	keys := &Keys{Env: func(name string) string { return map[string]string{"HOME": home}[name] }}
	got, err := keys.Signers(t.Context())
	if err != nil || len(got) != 2 {
		t.Fatalf("%d keys, %v", len(got), err)
	}
	for n, want := range []ssh.PublicKey{first, last} {
		if !bytes.Equal(got[n].PublicKey().Marshal(), want.Marshal()) {
			t.Errorf("key %d is another one", n)
		}
	}
}
