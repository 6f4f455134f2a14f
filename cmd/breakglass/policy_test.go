package main

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// edit OLD NEW changes the access policy on disk and has the daemon read it; edit -accept-weaker OLD NEW has an operator restart the
// daemon with that word. What waits for two people is no error.
func edit(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	accept := len(args) == 3 && args[0] == "-accept-weaker"
	if accept {
		args = args[1:]
	}
	if len(args) != 2 || !strings.Contains(w.policy, args[0]) {
		ts.Fatalf("usage: edit [-accept-weaker] OLD NEW, with an OLD that is in the policy")
	}
	w.policy = strings.Replace(w.policy, args[0], args[1], 1)
	if accept {
		w.down()
		w.sys.RestartAs(w.policy, func(c *bgtest.Config) { c.AcceptWeaker = true })
		ts.Check(w.up())
		return
	}
	p, err := policy.Parse("access.yaml", []byte(w.policy))
	ts.Check(err)
	if _, err := w.sys.Service.InForce.Set(context.Background(), p); err != nil {
		if r, is := record.AsRefusal(err); !is || r.Code != policy.CodeWaits {
			ts.Check(err)
		}
	}
}

// digest VARIABLE sets a variable to the digest of the access policy that waits, or of the one in force if none does.
func digest(ts *testscript.TestScript, _ bool, args []string) {
	st, err := worldOf(ts).sys.Service.InForce.Standing(context.Background(), bgtest.ByKey("alice"))
	ts.Check(err)
	d := st.Policy.Digest
	if st.Waiting != nil {
		d = st.Waiting.Digest
	}
	ts.Setenv(args[0], d)
}

// unagreedExport is an export of a ledger in which somebody approved with a key that one editor had put into another's entry, a day
// after an operator had put that policy in force. Two people have agreed to the policies before and after.
func unagreedExport(t *testing.T) (dir, vkey string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "export")
	synctest.Test(t, func(t *testing.T) {
		s := bgtest.New(t, bgtest.Options{Policy: bgtest.Guarded()})
		vkey = s.VKey
		agree := func() {
			s.SignPolicy("alice", false)
			s.SignPolicy("bob", false)
		}
		agree()
		seed := sha256.Sum256([]byte("alice's key for bob"))
		puppet, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed[:]))
		if err != nil {
			t.Fatal(err)
		}
		line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(puppet.PublicKey())))
		edited := strings.Replace(bgtest.Guarded(), "user: U0BOB}], keys: [", "user: U0BOB}], keys: [\""+line+"\", ", 1)
		s.RestartAs(edited, func(c *bgtest.Config) { c.AcceptWeaker = true })
		time.Sleep(24 * time.Hour)
		r := s.Ask(bgtest.ByKey("alice"), "keys")
		by := record.Actor{Person: "bob", Channel: record.ChannelKey, Key: ssh.FingerprintSHA256(puppet.PublicKey())}
		if _, err := s.Service.Approve(t.Context(), by, r.ID, breakglass.Consent{Digest: r.Digest, Signature: bgtest.SignSSH(puppet,
			breakglass.ApprovalNamespace, breakglass.ApprovalText(r.ID, r.Digest, 0))}); err != nil {
			t.Fatal(err)
		}
		s.RestartWith(bgtest.Guarded())
		agree()
		if err := ledger.Export(t.Context(), s.Ledger, dir); err != nil {
			t.Fatal(err)
		}
	})
	return dir, vkey
}
