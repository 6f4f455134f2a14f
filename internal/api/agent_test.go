package api_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"net"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

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
