package e2e

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/breakglassd/breakglass/internal/bgtest"
)

// One person who can write access.yaml adds a second person of her own, with a key of her own, to those who approve, and tries to get
// access without any other person. It is refused. When two people of the team that the policy in force names have signed, it is allowed.
func TestOneEditorOfThePolicyIsNoQuorum(t *testing.T) {
	d := newDaemon(t)
	policy := bgtest.Guarded()
	d.writePolicy(policy)
	d.start("")
	inForce := func() string {
		t.Helper()
		out := d.cli("dave", "policy", "show")
		return strings.Fields(out)[2]
	}
	// The first policy of a ledger is the operator's word alone, until two people have confirmed it.
	if out, _, code := d.try("dave", "findings"); code != 8 || !strings.Contains(out, "no two people of sre have agreed") {
		t.Errorf("nothing says that two people have not agreed to the first policy: exit code %d, %s", code, out)
	}
	d.cli("bob", "policy", "approve", inForce(), "--yes")
	d.cli("dave", "policy", "approve", inForce(), "--yes")
	if out, _, _ := d.try("dave", "findings"); strings.Contains(out, "have agreed") {
		t.Errorf("two people have confirmed it, and it is still a finding: %s", out)
	}

	seed := sha256.Sum256([]byte("alice's second key"))
	puppet := ed25519.NewKeyFromSeed(seed[:])
	signer, err := ssh.NewSignerFromKey(puppet)
	must(t, err)
	block, err := ssh.MarshalPrivateKey(puppet, "alice")
	must(t, err)
	d.file("puppet.key", string(pem.EncodeToMemory(block)))
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	edited := strings.Replace(policy, "teams:\n", fmt.Sprintf("  - {id: puppet, keys: [%q]}\nteams:\n", line), 1)
	edited = strings.Replace(edited, "members: [carol, erin]", "members: [carol, erin, puppet]", 1)
	was := inForce()
	d.writePolicy(edited)
	must(t, d.cmd.Process.Signal(syscall.SIGHUP))
	eventually(t, "the change waits", func() bool { return strings.Contains(d.cli("dave", "policy", "show"), "waiting") })
	waiting := func() string {
		t.Helper()
		_, rest, _ := strings.Cut(d.cli("dave", "policy", "show"), "waiting   ")
		digest, _, _ := strings.Cut(rest, ",")
		return digest
	}
	next := waiting()
	if _, _, code := d.try("puppet", "whoami"); code == 0 {
		t.Error("a person whom one editor added can sign in")
	}
	out, _, code := d.try("alice", "policy", "approve", next, "--yes") // alone
	if code != 0 || inForce() != was {
		t.Errorf("in force by one signature, or not taken: %s", out)
	}
	if _, _, code := d.try("alice", "policy", "approve", next, "--yes"); code != 0 || inForce() != was {
		t.Error("twice by one person is not once")
	}
	if _, _, code := d.try("carol", "policy", "approve", next, "--yes"); code == 0 {
		t.Error("carol, who is in no team that signs changes, has signed")
	}
	id := requestID.FindString(d.cli("alice", "request", "-p", "keys", "--reason", "nobody else is needed for this", "--no-wait"))
	if _, _, code := d.try("puppet", "approve", id, "--yes"); code == 0 {
		t.Error("the puppet approves")
	}
	if _, stderr, code := d.try("alice", "claim", id, "--out", filepath.Join(d.dir, "alice.kubeconfig")); code == 0 {
		t.Errorf("one person got cluster-admin: %s", stderr)
	}
	if diff := d.cli("dave", "policy", "diff"); !strings.Contains(diff, "+ team security: puppet added") {
		t.Errorf("the change in words: %s", diff)
	}
	d.cli("alice", "policy", "approve", next, "--yes", "--waive-cooling")
	d.cli("bob", "policy", "approve", next, "--yes", "--waive-cooling")
	if inForce() != next {
		t.Fatal("two people have signed, and it is not in force")
	}
	id = requestID.FindString(d.cli("alice", "request", "-p", "keys", "--reason", "two people have agreed to this", "--no-wait"))
	d.cli("puppet", "approve", id, "--yes")
	d.cli("bob", "approve", id, "--yes")
	d.cli("alice", "claim", id, "--out", filepath.Join(d.dir, "alice.kubeconfig"))
	d.stop()
	d.check()
}
