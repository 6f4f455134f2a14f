package api_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"net"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/bgtest"
)

// Many keys of others come first, and of hers the agent has only a certificate.
func TestKeyIsFoundInAFullAgentBehindACertificate(t *testing.T) {
	d := newDaemon(t)
	ring := agent.NewKeyring()
	for range 40 {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
			t.Fatal(err)
		}
	}
	cert := &ssh.Certificate{Key: bgtest.SSHKey("alice").PublicKey(), CertType: ssh.UserCert, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, bgtest.SSHKey("bob")); err != nil {
		t.Fatal(err)
	}
	if err := ring.Add(agent.AddedKey{PrivateKey: bgtest.PrivateKey("alice"), Certificate: cert}); err != nil {
		t.Fatal(err)
	}
	here, there := net.Pipe()
	defer here.Close()
	go func() { _ = agent.ServeAgent(ring, there) }()
	keys, err := agent.NewClient(here).Signers()
	if err != nil {
		t.Fatal(err)
	}
	me, err := d.client(t, keys...).Whoami(t.Context())
	if err != nil || me.Person != "alice" {
		t.Errorf("she is %q: %v", me.Person, err)
	}
}

// oldAgent takes no notice of the flags that ask for SHA-2.
type oldAgent struct{ agent.Agent }

func TestAgentThatSignsWithSHA1IsNamed(t *testing.T) {
	d := newDaemon(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		t.Fatal(err)
	}
	for old, want := range map[bool]string{true: "sha1", false: "unknown-person"} {
		held := ring
		if old {
			held = oldAgent{ring}
		}
		here, there := net.Pipe()
		go func() { _ = agent.ServeAgent(held, there) }()
		keys, err := agent.NewClient(here).Signers()
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.client(t, keys...).Whoami(t.Context())
		var e *api.Error
		if !errors.As(err, &e) || e.Code != want || old && !strings.Contains(e.Why, "SHA-1") {
			t.Errorf("old %v: %v, want %s", old, err, want)
		}
		here.Close()
	}
}
