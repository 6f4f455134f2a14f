package breakglass_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/verify"
)

// slowCheck is a signer whose Check waits: in says that it has begun, out lets it end.
type slowCheck struct {
	breakglass.Signer
	in, out chan struct{}
}

func (c *slowCheck) Check(ctx context.Context, cluster, group string) error {
	c.in <- struct{}{}
	<-c.out
	return c.Signer.Check(ctx, cluster, group)
}

func TestAClaimUnderWayGoesByThePolicyInForce(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(policy string) string
		code   string
	}{
		"the requester may not ask any more": {func(p string) string {
			return strings.Replace(p, "members: [alice, bob, dave]", "members: [bob, dave]", 1)
		}, "policy/changed"},
		"an approver's key is gone":   {func(p string) string { return withoutKey(p, "bob") }, "policy/changed"},
		"the requester's key is gone": {func(p string) string { return withoutKey(p, "alice") }, "unknown-person"},
	} {
		t.Run(name, func(t *testing.T) {
			hold := &slowCheck{in: make(chan struct{}), out: make(chan struct{})}
			s := bgtest.New(t, bgtest.Options{Config: func(c *bgtest.Config) { hold.Signer = c.Signer; c.Signer = hold }})
			r := s.Grant("alice", "group")
			_, csr := bgtest.NewCSR()
			done := make(chan error, 1)
			go func() { _, err := s.Claim("alice", r.ID, csr); done <- err }()
			<-hold.in
			p, err := policy.Parse("access.yaml", []byte(tt.change(bgtest.Policy())))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Service.InForce.Set(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			close(hold.out)
			wantRefusal(t, <-done, tt.code)
			if n := s.CA.Calls(); n != 0 {
				t.Errorf("%d signing calls under a policy that does not allow them", n)
			}
			s.Check()
		})
	}
}

// withoutKey gives somebody another key than the kit's.
func withoutKey(policy, person string) string {
	key := func(of string) string {
		return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(bgtest.SSHKey(of).PublicKey())))
	}
	return strings.Replace(policy, key(person), key("a new laptop"), 1)
}

func TestATakenBackApprovalIsNotReplayed(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		r := s.Ask(byKey("alice"), "keys")
		r = s.Approve(byKey("carol"), r)
		old := bgtest.Consent(byKey("bob"), r)
		r = s.Approve(byKey("bob"), r)
		r, err := s.Service.TakeBack(t.Context(), byKey("bob"), r.ID)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Service.Approve(t.Context(), byKey("bob"), r.ID, old)
		wantRefusal(t, err, "signature")
		if r = s.Approve(byKey("bob"), r); r.State(time.Now()) != breakglass.StateApproved {
			t.Errorf("a new signature counts for nothing: %s", r.State(time.Now()))
		}

		// Whoever writes the ledger without the service does not get it past an audit either.
		entries, err := s.Ledger.Entries(t.Context(), 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		last := &entries[len(entries)-1]
		for _, again := range []breakglass.Approved{
			{By: byKey("bob"), Digest: r.Digest, TakenBack: 0, Signature: old.Signature, PublicKey: publicKey("bob")},
			{By: byKey("bob"), Digest: r.Digest, TakenBack: 1, Signature: old.Signature, PublicKey: publicKey("bob")},
		} {
			last.Body = body(t, again)
			if got := bgtest.Audit(entries); len(got) == 0 {
				t.Errorf("nothing is wrong with a signature that counts twice (%d)", again.TakenBack)
			}
		}
	})
}

// TestApprovalsOfEarlierReleases: a ledger in which an approval was taken back and given again before approved/v2 verifies for
// ever, and the audit says that it cannot tell whether it was signed again. After one approval of today none like those follows.
func TestApprovalsOfEarlierReleases(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		r := s.Ask(byKey("alice"), "keys")
		v1 := func(who string) ledger.Draft {
			text := fmt.Appendf(nil, "breakglass approval v1\nrequest %s\ndigest %s\n", r.ID, r.Digest)
			return ledger.Draft{Kind: "approved/v1", Body: body(t, breakglass.Approved{By: byKey(who), Digest: r.Digest, PublicKey: publicKey(who),
				Signature: bgtest.SignSSH(bgtest.SSHKey(who), breakglass.ApprovalNamespace, text)})}
		}
		back := ledger.Draft{Kind: "approval-withdrawn/v1", Body: body(t, breakglass.ApprovalWithdrawn{By: byKey("bob")})}
		if _, err := s.Ledger.Append(t.Context(), time.Now(), r.ID, r.Rev, nil, v1("bob"), back, v1("bob")); err != nil {
			t.Fatal(err)
		}
		s.Check()
		report, err := verify.Audit(t.Context(), s.Ledger)
		if err != nil || report.Repeated != 1 {
			t.Errorf("%d approvals could be replays (%v), want 1", report.Repeated, err)
		}
		r = s.Approve(byKey("carol"), must1(s.Service.Get(t.Context(), r.ID))(t))
		wantState(t, r, breakglass.StateApproved)
		entries, err := s.Ledger.Entries(t.Context(), 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		late := entries[len(entries)-1]
		late.Seq, late.StreamSeq, late.Kind, late.Body = late.Seq+1, late.StreamSeq+1, back.Kind, back.Body
		entries = append(entries, late)
		late.Seq, late.StreamSeq, late.Kind, late.Body = late.Seq+1, late.StreamSeq+1, "approved/v1", v1("bob").Body
		if got := bgtest.Audit(entries); len(got) != 0 {
			t.Fatalf("the ledger itself: %q", got)
		}
		if got := bgtest.Audit(append(entries, late)); len(got) == 0 {
			t.Error("nothing is wrong with an old approval after a new one")
		}
	})
}

func TestASessionAloneClaimsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		r := s.Ask(bySlack("alice"), "group") // asked in Slack: it is bound to no key
		s.Approve(bySlack("bob"), r)
		s.Approve(bySlack("carol"), r)
		_, csr := bgtest.NewCSR()
		_, others := bgtest.NewCSR()
		for name, signature := range map[string]string{
			"none":                     "",
			"by another key":           bgtest.ClaimSignature("bob", r.ID, csr),
			"over another key's claim": bgtest.ClaimSignature("alice", r.ID, others),
			"over another request":     bgtest.ClaimSignature("alice", "bg-0000-000", csr),
			"of an approval":           bgtest.Consent(byKey("alice"), r).Signature,
		} {
			if _, err := s.Service.Claim(t.Context(), byKey("alice"), r.ID, csr, signature); err == nil {
				t.Errorf("claimed with a signature %s", name)
			} else {
				wantRefusal(t, err, "signature")
			}
		}
		if s.CA.Calls() != 0 {
			t.Errorf("%d signing calls", s.CA.Calls())
		}
		if _, err := s.Claim("alice", r.ID, csr); err != nil {
			t.Error(err)
		}
	})
}

func publicKey(of string) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(bgtest.SSHKey(of).PublicKey())))
}

func body(t *testing.T, ev record.Event) []byte {
	t.Helper()
	b, err := json.Marshal(ev)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func must1[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestARestoredLedgerSignsNoSecondCertificate(t *testing.T) {
	s := bgtest.New(t, bgtest.Options{})
	r := s.Grant("alice", "admin")
	s.Stop()
	before, err := os.ReadFile(s.Path())
	if err != nil {
		t.Fatal(err)
	}
	s.Restart()
	_, csr := bgtest.NewCSR()
	if _, err := s.Claim("alice", r.ID, csr); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Service.Revoke(t.Context(), byKey("bob"), r.ID, "stolen laptop"); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	for _, f := range []string{s.Path() + "-wal", s.Path() + "-shm"} {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.Path(), before, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Restart()
	_, csr = bgtest.NewCSR()
	_, err = s.Service.Claim(t.Context(), byKey("alice"), r.ID, csr, bgtest.ClaimSignature("alice", r.ID, csr))
	wantRefusal(t, err, "signed-before")
	if s.CA.Calls() != 1 || s.Cluster.Has(r.ID) {
		t.Errorf("%d signing calls, bound %t", s.CA.Calls(), s.Cluster.Has(r.ID))
	}
	if found := s.Service.Findings.Open(); len(found) != 1 || !strings.HasPrefix(found[0].Key, "unknown-certificate/c1/") {
		t.Errorf("findings: %+v", found)
	}
}

// silentFind is a signer that cannot say what it has signed.
type silentFind struct{ breakglass.Signer }

func (silentFind) Find(context.Context, string, string) ([]*x509.Certificate, error) {
	return nil, errors.New("no list")
}

func TestNothingIsSignedWhileItCannotBeToldWhatWas(t *testing.T) {
	s := bgtest.New(t, bgtest.Options{Config: func(c *bgtest.Config) { c.Signer = silentFind{c.Signer} }})
	r := s.Grant("alice", "group")
	_, csr := bgtest.NewCSR()
	_, err := s.Claim("alice", r.ID, csr)
	wantRefusal(t, err, "signer")
	wantState(t, must1(s.Service.Get(t.Context(), r.ID))(t), breakglass.StateApproved)
	s.Check()
}

// What is signed while the daemon's credential in the cluster is of no use would spend the approval and open nothing.
func TestAClaimThatCouldNotBeBoundIsNotSigned(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		r, group := s.Grant("alice", "admin"), s.Grant("bob", "group")
		s.Cluster.SetAble(func(context.Context) error { return errors.New("the credential has ended: put a new one there") })
		_, csr := bgtest.NewCSR()
		_, err := s.Claim("alice", r.ID, csr)
		wantRefusal(t, err, "cluster")
		if !strings.Contains(err.Error(), "put a new one there") {
			t.Errorf("it does not say what to do: %v", err)
		}
		wantState(t, must1(s.Service.Get(t.Context(), r.ID))(t), breakglass.StateApproved)
		if n := s.CA.Calls(); n != 0 {
			t.Errorf("%d signing calls", n)
		}
		s.Check()
		_, other := bgtest.NewCSR()
		if _, err := s.Claim("bob", group.ID, other); err != nil {
			t.Errorf("a group is not bound by the daemon: %v", err)
		}
		// A cluster that hangs says nothing, and is waited for a moment only.
		s.Cluster.SetAble(func(ctx context.Context) error { <-ctx.Done(); return nil })
		asked := time.Now()
		if _, err := s.Claim("alice", r.ID, csr); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(asked); took > 3*time.Second {
			t.Errorf("the claim waited %s for a cluster that hangs", took)
		}
		s.Check()
	})
}

// A moment without a signer costs nobody's approval: the same key may claim again, and only it, a bounded number of times.
func TestAPassingNoOfTheSignerKeepsTheApproval(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		r := s.Grant("alice", "admin")
		_, csr := bgtest.NewCSR()
		_, other := bgtest.NewCSR()
		s.CA.OnSign = func(breakglass.Order) (bool, error) {
			return false, fmt.Errorf("%w: too many requests", breakglass.ErrNotSignedNow)
		}
		for range 3 {
			_, err := s.Claim("alice", r.ID, csr)
			wantRefusal(t, err, "not-now")
			wantState(t, must1(s.Service.Get(t.Context(), r.ID))(t), breakglass.StateApproved)
			s.Check()
		}
		_, err := s.Claim("alice", r.ID, other)
		wantRefusal(t, err, "other-key")
		s.Restart()
		s.CA.OnSign = nil
		if _, err := s.Claim("alice", r.ID, csr); err != nil {
			t.Fatal(err)
		}
		if n := len(s.CA.Issued()); n != 1 {
			t.Errorf("%d certificates", n)
		}
	})
}

func TestAPassingNoIsBoundedAndEndsWithTheApproval(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		s.CA.OnSign = func(breakglass.Order) (bool, error) { return false, breakglass.ErrNotSignedNow }
		_, csr := bgtest.NewCSR()
		_, late := bgtest.NewCSR()
		often, once := s.Grant("alice", "group"), s.Grant("bob", "group")
		for range breakglass.MaxNotSigned {
			_, err := s.Claim("alice", often.ID, csr)
			wantRefusal(t, err, "not-now")
		}
		_, err := s.Claim("alice", often.ID, csr)
		wantRefusal(t, err, "failed/refused")
		_, err = s.Claim("bob", once.ID, late)
		wantRefusal(t, err, "not-now")
		time.Sleep(11 * time.Minute)
		_, err = s.Claim("bob", once.ID, late)
		wantRefusal(t, err, "lapsed")
	})
}

// A second certificate of the same name and key, signed during a claim, is found when the claim's own is known.
func TestATwinSignedDuringAClaimIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signed := &inventory{}
		s := bgtest.New(t, bgtest.Options{Config: func(c *bgtest.Config) { c.Inventory, c.Reconcile = signed, time.Minute }})
		signed.ca.Store(s.CA)
		r := s.Grant("alice", "group")
		s.CA.OnSign = func(o breakglass.Order) (bool, error) {
			s.CA.OnSign = nil
			if _, err := s.CA.Sign(t.Context(), o); err != nil {
				t.Error(err)
			}
			time.Sleep(2 * time.Minute) // a comparison comes while the claim is under way
			return true, nil
		}
		_, csr := bgtest.NewCSR()
		d, err := s.Claim("alice", r.ID, csr)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		twin := s.CA.Issued()[0]
		if bytes.Equal(twin.Raw, d.Certificate) {
			t.Fatal("the twin was delivered")
		}
		want := finding.ShadowKey("c1", breakglass.Fingerprint(twin.Raw))
		if found := s.Service.Findings.Open(); len(found) != 1 || found[0].Key != want {
			t.Errorf("findings: %+v, want %s", found, want)
		}
	})
}

// What was approved and not collected is not told as if the approvers had done nothing.
func TestLapsedSaysWhoDidNotAct(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		pending, granted := s.Ask(byKey("alice"), "group"), s.Grant("bob", "group")
		time.Sleep(time.Hour)
		for r, want := range map[*breakglass.Request]string{pending: "too few people approved it", granted: "not claimed until"} {
			_, err := s.Service.Approve(t.Context(), bySlack("erin"), r.ID, breakglass.Consent{Digest: r.Digest})
			wantRefusal(t, err, "lapsed")
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", r.ID, err, want)
			}
		}
	})
}
