package breakglass_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakglassd/breakglass/internal/announce"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/verify"
)

var (
	byKey       = bgtest.ByKey
	bySlack     = bgtest.BySlack
	bubbleWith  = bgtest.Bubble
	wantRefusal = bgtest.WantRefusal
	wantState   = bgtest.WantState
	must        = bgtest.Must
)

// bubble runs a test of a whole system on fake time.
func bubble(t *testing.T, f func(t *testing.T, s *bgtest.System)) {
	t.Helper()
	bubbleWith(t, bgtest.Options{}, f)
}

func TestTwoApprovalsGiveOneCertificateThatEnds(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		r := s.Ask(bySlack("alice"), "admin")
		wantState(t, r, breakglass.StatePending)
		if diff := cmp.Diff([]string{"one of security", "1 more of sre, security"}, r.Missing()); diff != "" {
			t.Error(diff)
		}
		r = s.Approve(bySlack("bob"), r)
		wantState(t, r, breakglass.StatePending)
		r = s.Approve(byKey("carol"), r)
		wantState(t, r, breakglass.StateApproved)

		_, csr := bgtest.NewCSR()
		d, err := s.Claim("alice", r.ID, csr)
		if err != nil {
			t.Fatal(err)
		}
		if err := ledger.VerifyProof(d.Issued.Leaf, d.Proof, s.Verifier); err != nil {
			t.Errorf("the proof does not verify: %v", err)
		}
		cert, err := x509.ParseCertificate(d.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		if want := "breakglass:alice:" + r.ID; cert.Subject.CommonName != want || len(cert.Subject.Organization) != 0 {
			t.Errorf("subject is %s, want CN=%s", cert.Subject, want)
		}
		wantState(t, d.Request, breakglass.StateActive)
		if !s.Cluster.Has(r.ID) {
			t.Error("no binding after the claim")
		}
		s.Check()

		time.Sleep(10*time.Minute + time.Second)
		synctest.Wait()
		r, err = s.Service.Get(t.Context(), r.ID)
		if err != nil {
			t.Fatal(err)
		}
		wantState(t, r, breakglass.StateExpired)
		if s.Cluster.Has(r.ID) || r.Bound {
			t.Error("the binding outlived the certificate")
		}
		want := []string{"requested/v3", "approved/v2", "approved/v2", "claimed/v2", "issued/v1", "bound/v1", "unbound/v1", "ended/v1"}
		if diff := cmp.Diff(want, s.Told.Kinds(r.ID)); diff != "" {
			t.Error("people were told:", diff)
		}
		if open, err := s.Service.Open(t.Context()); err != nil || len(open) != 0 {
			t.Errorf("%d requests are open at the end (%v)", len(open), err)
		}
	})
}

func TestLifetimeStartsAtTheClaimNotAtTheApproval(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		r := s.Grant("alice", "admin")
		time.Sleep(9 * time.Minute)
		_, csr := bgtest.NewCSR()
		d, err := s.Claim("alice", r.ID, csr)
		if err != nil {
			t.Fatal(err)
		}
		if got := time.Until(d.Request.Issued.NotAfter).Round(time.Second); got != 10*time.Minute {
			t.Errorf("%s left right after the claim, want 10m", got)
		}
	})
}

func TestWhoMayDoWhat(t *testing.T) {
	approve := func(a record.Actor) func(*bgtest.System, *breakglass.Request) error {
		return func(s *bgtest.System, r *breakglass.Request) error {
			_, err := s.Service.Approve(s.T.Context(), a, r.ID, bgtest.Consent(a, r))
			return err
		}
	}
	stranger := record.Actor{Channel: record.ChannelSlack, Slack: &record.SlackAccount{Team: "T99", User: "U0EVE"}}
	tests := []struct {
		name string
		do   func(*bgtest.System, *breakglass.Request) error // on a request of alice's that bob has approved
		code string                                          // "" means allowed
	}{
		{"security approves", approve(bySlack("carol")), ""},
		{"the requester approves in Slack", approve(bySlack("alice")), "self-approval"},
		{"the requester approves by key", approve(byKey("alice")), "self-approval"},
		{"somebody outside the teams approves", approve(bySlack("mallory")), "not-approver"},
		{"a stranger approves", approve(stranger), "unknown-person"},
		{"the same person approves again", approve(byKey("bob")), ""},
		{"another digest is approved", func(s *bgtest.System, r *breakglass.Request) error {
			_, err := s.Service.Approve(s.T.Context(), bySlack("carol"), r.ID, breakglass.Consent{Digest: strings.Repeat("0", 64)})
			return err
		}, "stale"},
		{"an approval by key without a signature", func(s *bgtest.System, r *breakglass.Request) error {
			_, err := s.Service.Approve(s.T.Context(), byKey("carol"), r.ID, breakglass.Consent{Digest: r.Digest})
			return err
		}, "signature"},
		{"an approval by key signed by somebody else", func(s *bgtest.System, r *breakglass.Request) error {
			c := bgtest.Consent(byKey("bob"), r)
			_, err := s.Service.Approve(s.T.Context(), byKey("carol"), r.ID, c)
			return err
		}, "signature"},
		{"an approval by key signed for something else", func(s *bgtest.System, r *breakglass.Request) error {
			text := breakglass.ApprovalText(r.ID, r.Digest, 0)
			c := breakglass.Consent{Digest: r.Digest, Signature: bgtest.SignSSH(bgtest.SSHKey("carol"), "file", text)}
			_, err := s.Service.Approve(s.T.Context(), byKey("carol"), r.ID, c)
			return err
		}, "signature"},
		{"a comment with a right-to-left override", func(s *bgtest.System, r *breakglass.Request) error {
			_, err := s.Service.Approve(s.T.Context(), bySlack("carol"), r.ID, breakglass.Consent{Digest: r.Digest, Comment: "fine \u202e"})
			return err
		}, "comment"},
		{"the requester denies", func(s *bgtest.System, r *breakglass.Request) error {
			_, err := s.Service.Deny(s.T.Context(), bySlack("alice"), r.ID, "changed my mind")
			return err
		}, "own-request"},
		{"an outsider denies", func(s *bgtest.System, r *breakglass.Request) error {
			_, err := s.Service.Deny(s.T.Context(), bySlack("mallory"), r.ID, "no")
			return err
		}, "not-approver"},
		{"an approver denies without a reason", func(s *bgtest.System, r *breakglass.Request) error {
			_, err := s.Service.Deny(s.T.Context(), bySlack("carol"), r.ID, " ")
			return err
		}, "reason"},
		{"an approver denies", func(s *bgtest.System, r *breakglass.Request) error {
			_, err := s.Service.Deny(s.T.Context(), bySlack("carol"), r.ID, "not an emergency")
			return err
		}, ""},
		{"an approver withdraws the request", func(s *bgtest.System, r *breakglass.Request) error {
			_, err := s.Service.Withdraw(s.T.Context(), bySlack("carol"), r.ID, "")
			return err
		}, "not-yours"},
		{"the requester withdraws", func(s *bgtest.System, r *breakglass.Request) error {
			_, err := s.Service.Withdraw(s.T.Context(), bySlack("alice"), r.ID, "")
			return err
		}, ""},
		{"an approver takes it back", func(s *bgtest.System, r *breakglass.Request) error {
			_, err := s.Service.TakeBack(s.T.Context(), bySlack("bob"), r.ID)
			return err
		}, ""},
		{"somebody takes back what they never gave", func(s *bgtest.System, r *breakglass.Request) error {
			_, err := s.Service.TakeBack(s.T.Context(), bySlack("carol"), r.ID)
			return err
		}, "no-approval"},
		{"the requester claims too early", func(s *bgtest.System, r *breakglass.Request) error {
			_, csr := bgtest.NewCSR()
			_, err := s.Claim("alice", r.ID, csr)
			return err
		}, "not-approved"},
		{"somebody else claims", func(s *bgtest.System, r *breakglass.Request) error {
			_, csr := bgtest.NewCSR()
			_, err := s.Claim("bob", r.ID, csr)
			return err
		}, "not-yours"},
		{"a claim by Slack", func(s *bgtest.System, r *breakglass.Request) error {
			_, csr := bgtest.NewCSR()
			_, err := s.Service.Claim(s.T.Context(), bySlack("alice"), r.ID, csr, "")
			return err
		}, "channel"},
		{"revoking what is not active", func(s *bgtest.System, r *breakglass.Request) error {
			_, err := s.Service.Revoke(s.T.Context(), bySlack("bob"), r.ID, "why not")
			return err
		}, "not-active"},
		{"an unknown request", func(s *bgtest.System, _ *breakglass.Request) error {
			_, err := s.Service.Deny(s.T.Context(), bySlack("bob"), "bg-0000-000", "no such thing")
			return err
		}, "unknown-request"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *bgtest.System) {
				r := s.Approve(bySlack("bob"), s.Ask(bySlack("alice"), "admin"))
				size := s.Ledger.Size()
				err := tt.do(s, r)
				if tt.code == "" {
					if err != nil {
						t.Errorf("refused: %v", err)
					}
					return
				}
				wantRefusal(t, err, tt.code)
				if tt.code != "unknown-request" && s.Ledger.Size() != size+1 {
					t.Errorf("%d new ledger entries, want one that records the refusal", s.Ledger.Size()-size)
				}
				if got := len(s.CA.Issued()); got != 0 {
					t.Errorf("%d certificates exist", got)
				}
			})
		})
	}
}

func TestAccountsOfOnePersonAreOneVote(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		r := s.Ask(bySlack("alice"), "group")
		s.Approve(bySlack("bob"), r)
		r = s.Approve(byKey("bob"), r)
		wantState(t, r, breakglass.StatePending)
	})
}

func TestOnlySignedApprovalsCountForCriticalProfiles(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		r := s.Ask(bySlack("alice"), "keys")
		_, err := s.Service.Approve(t.Context(), bySlack("bob"), r.ID, breakglass.Consent{Digest: r.Digest})
		wantRefusal(t, err, "policy/channel")
		s.Approve(byKey("bob"), r)
		r = s.Approve(byKey("carol"), r)
		wantState(t, r, breakglass.StateApproved)
	})
}

func TestDenyIsFinal(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		r := s.Grant("alice", "admin")
		if _, err := s.Service.Deny(t.Context(), bySlack("erin"), r.ID, "talked to the team: not needed"); err != nil {
			t.Fatal(err)
		}
		_, csr := bgtest.NewCSR()
		_, err := s.Claim("alice", r.ID, csr)
		wantRefusal(t, err, "denied")
		_, err = s.Service.Approve(t.Context(), bySlack("dave"), r.ID, breakglass.Consent{Digest: r.Digest})
		wantRefusal(t, err, "decided")
		_, err = s.Service.Withdraw(t.Context(), bySlack("alice"), r.ID, "")
		wantRefusal(t, err, "decided")
	})
}

func TestTakingAnApprovalBackReopensTheQuorum(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		r := s.Grant("alice", "admin")
		r, err := s.Service.TakeBack(t.Context(), byKey("carol"), r.ID)
		if err != nil {
			t.Fatal(err)
		}
		wantState(t, r, breakglass.StatePending)
		_, csr := bgtest.NewCSR()
		_, err = s.Claim("alice", r.ID, csr)
		wantRefusal(t, err, "not-approved")
		r = s.Approve(bySlack("erin"), r)
		wantState(t, r, breakglass.StateApproved)
		if _, err := s.Claim("alice", r.ID, csr); err != nil {
			t.Fatal(err)
		}
		_, err = s.Service.TakeBack(t.Context(), bySlack("erin"), r.ID)
		wantRefusal(t, err, "decided")
	})
}

func TestRequestsLapse(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		pending, granted := s.Ask(bySlack("alice"), "admin"), s.Grant("bob", "admin")
		time.Sleep(10*time.Minute + time.Second)
		_, csr := bgtest.NewCSR()
		_, err := s.Claim("bob", granted.ID, csr)
		wantRefusal(t, err, "lapsed")
		time.Sleep(20 * time.Minute)
		_, err = s.Service.Approve(t.Context(), bySlack("bob"), pending.ID, breakglass.Consent{Digest: pending.Digest})
		wantRefusal(t, err, "lapsed")
		synctest.Wait()
		for _, r := range []*breakglass.Request{pending, granted} {
			kinds := s.Told.Kinds(r.ID)
			if !slices.Contains(kinds, "ended/v1") {
				t.Errorf("nobody was told that %s lapsed: %v", r.ID, kinds)
			}
		}
	})
}

func TestAskingIsCheckedAllAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		_, err := s.Service.Request(t.Context(), bySlack("alice"), breakglass.Ask{Profile: "admin", Cluster: "c9", TTL: 5 * time.Hour,
			Reason: "help", Incident: "see chat"})
		wantRefusal(t, err, "policy/cluster,policy/ttl,policy/reason,policy/incident")
		for _, forged := range []string{"INC-1\nrisk low", "INC-1\rx", "INC-1\tx", "INC-1\u2028x", "INC-1\u0085x"} {
			_, err := s.Service.Request(t.Context(), bySlack("alice"), breakglass.Ask{Profile: "group", Reason: "etcd quorum lost",
				Incident: forged})
			wantRefusal(t, err, "policy/incident")
		}
		_, err = s.Service.Request(t.Context(), bySlack("carol"), breakglass.Ask{Profile: "admin", Reason: "a long enough reason"})
		wantRefusal(t, err, "not-eligible")
		_, err = s.Service.Request(t.Context(), bySlack("alice"), breakglass.Ask{Profile: "root", Reason: "a long enough reason"})
		wantRefusal(t, err, "unknown-profile")
		for _, reason := range []string{"a reason with \x1b[31mescape", "a reason \u202e reversed", "not utf-8 \xff\xfe at all"} {
			_, err = s.Service.Request(t.Context(), bySlack("alice"), breakglass.Ask{Profile: "admin", Reason: reason})
			wantRefusal(t, err, "policy/reason")
		}
	})
}

func TestLimitsPerPerson(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		ask := breakglass.Ask{Profile: "admin", Reason: "a long enough reason"}
		for range 3 {
			s.Ask(bySlack("alice"), "admin")
		}
		_, err := s.Service.Request(t.Context(), bySlack("alice"), ask)
		wantRefusal(t, err, "limit/open")
		s.Ask(bySlack("bob"), "admin") // others are not held up
		for range 20 {
			r := s.Ask(bySlack("dave"), "admin")
			if _, err := s.Service.Withdraw(t.Context(), bySlack("dave"), r.ID, ""); err != nil {
				t.Fatal(err)
			}
		}
		_, err = s.Service.Request(t.Context(), bySlack("dave"), ask)
		wantRefusal(t, err, "limit/hour")
		time.Sleep(time.Hour)
		s.Ask(bySlack("dave"), "admin")
	})
}

func TestRefusalsAreRecordedWithinBounds(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		r := s.Ask(bySlack("alice"), "admin")
		size := s.Ledger.Size()
		for range 500 {
			_, err := s.Service.Approve(t.Context(), bySlack("alice"), r.ID, breakglass.Consent{Digest: r.Digest})
			wantRefusal(t, err, "self-approval")
		}
		if n := s.Ledger.Size() - size; n != 10 {
			t.Errorf("500 refused commands in a second made %d entries, want 10", n)
		}
		s.Approve(bySlack("bob"), r) // a flood keeps nobody from approving
	})
}

// A flood of noise hides nobody, and what is refused while there is no room is on record when there is.
func TestRefusalsWithoutAnEntryOfTheirOwnAreRecordedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var full atomic.Bool
		s := bgtest.New(t, bgtest.Options{Config: func(c *bgtest.Config) {
			c.Room = func() error {
				if full.Load() {
					return errors.New("the disk is full")
				}
				return nil
			}
		}})
		defer s.Stop()
		together := func() (found []record.RefusedMore) {
			entries, err := s.Ledger.Entries(t.Context(), 0, 1000)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				ev, err := verify.Decode(e)
				if err != nil {
					t.Fatal(err)
				}
				if more, ok := ev.(record.RefusedMore); ok {
					found = append(found, more)
				}
			}
			return found
		}
		stranger := func(key string) {
			wantRefusal(t, s.Service.RecordStranger(t.Context(), record.Actor{Channel: record.ChannelKey, Key: key}, "sign-in"),
				"unknown-person")
		}
		full.Store(true)
		size := s.Ledger.Size()
		for range 30 {
			stranger("SHA256:noise")
		}
		stranger("SHA256:THE-ONE-THAT-MATTERS")
		time.Sleep(3 * time.Minute)
		if n := len(together()); n != 0 {
			t.Errorf("%d entries while there was no room", n)
		}
		full.Store(false)
		time.Sleep(61 * time.Second)
		want := []record.RefusedCount{{Who: "SHA256:noise", Command: "sign-in", Code: "unknown-person", N: 30},
			{Who: "SHA256:THE-ONE-THAT-MATTERS", Command: "sign-in", Code: "unknown-person", N: 1}}
		if got := together(); len(got) != 1 || !slices.Equal(got[0].Refused, want) || got[0].More != 0 || got[0].Until.Before(got[0].From) {
			t.Fatalf("after there was room: %+v, want one entry with %+v", got, want)
		}
		time.Sleep(5 * time.Minute)
		if n := len(together()); n != 1 {
			t.Errorf("%d entries, want still one", n)
		}
		for i := range 100 { // each with a name of its own: the entry is bounded, and says how much is missing
			stranger(fmt.Sprintf("SHA256:%d", i))
		}
		time.Sleep(61 * time.Second)
		got := together()
		if len(got) != 2 || len(got[1].Refused) != 50 || got[1].Total() != 90 || s.Service.Recorder.RefusedTogether() != 121 {
			t.Errorf("after a flood of names: %+v", got)
		}
		if n := s.Ledger.Size() - size; n > 30 {
			t.Errorf("131 refusals made %d entries", n)
		}
		s.Check()
	})
}

func TestSameKeyGetsTheSameCertificateAgain(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		r := s.Grant("alice", "admin")
		_, csr := bgtest.NewCSR()
		first, err := s.Claim("alice", r.ID, csr)
		if err != nil {
			t.Fatal(err)
		}
		s.Restart()
		again, err := s.Claim("alice", r.ID, csr)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first.Certificate, again.Certificate); diff != "" {
			t.Error("another certificate:", diff)
		}
		_, other := bgtest.NewCSR()
		_, err = s.Claim("alice", r.ID, other)
		wantRefusal(t, err, "claimed")
		if s.CA.Calls() != 1 {
			t.Errorf("%d signing calls, want 1", s.CA.Calls())
		}
	})
}

func TestClaimRaceHasOneWinner(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		r := s.Grant("alice", "admin")
		var wg sync.WaitGroup
		var mu sync.Mutex
		won := 0
		for range 40 {
			_, csr := bgtest.NewCSR()
			wg.Go(func() {
				if _, err := s.Claim("alice", r.ID, csr); err == nil {
					mu.Lock()
					won++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if won != 1 || s.CA.Calls() != 1 {
			t.Errorf("%d claims won with %d signing calls, want one of each", won, s.CA.Calls())
		}
	})
}

func TestKeyIsUsedForOneRequestOnly(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		_, csr := bgtest.NewCSR()
		if _, err := s.Claim("alice", s.Grant("alice", "admin").ID, csr); err != nil {
			t.Fatal(err)
		}
		_, err := s.Claim("alice", s.Grant("alice", "admin").ID, csr)
		wantRefusal(t, err, "csr/key-reused")
	})
}

func TestRequestMadeForAKeyIsClaimedWithThatKey(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		key, csr := bgtest.NewCSR()
		spki, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.Service.Request(t.Context(), byKey("alice"), breakglass.Ask{Profile: "group", Reason: "a long enough reason",
			KeyHash: breakglass.SPKI(spki)})
		if err != nil {
			t.Fatal(err)
		}
		s.Approve(byKey("bob"), r)
		s.Approve(byKey("carol"), r)
		_, other := bgtest.NewCSR()
		_, err = s.Claim("alice", r.ID, other)
		wantRefusal(t, err, "other-key")
		if _, err := s.Claim("alice", r.ID, csr); err != nil {
			t.Fatal(err)
		}
	})
}

func TestHostileCertificateRequestsAreRefused(t *testing.T) {
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	p521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	_, edKey, _ := ed25519.GenerateKey(rand.Reader)
	plain := bgtest.CSR(p256, &x509.CertificateRequest{})
	broken := slices.Clone(plain)
	broken[len(broken)/2] ^= 1
	tests := []struct {
		name string
		csr  []byte
		code string
	}{
		{"empty", nil, "csr/pem"},
		{"not PEM", []byte("hello"), "csr/pem"},
		{"huge", []byte(strings.Repeat("A", breakglass.MaxCSR+1)), "csr/size"},
		{"two of them", append(slices.Clone(plain), plain...), "csr/pem"},
		{"damaged", broken, "csr/"},
		{"P-224", bgtest.CSR(p224, &x509.CertificateRequest{}), "csr/key"},
		{"P-521", bgtest.CSR(p521, &x509.CertificateRequest{}), "csr/key"},
		{"RSA", bgtest.CSR(rsaKey, &x509.CertificateRequest{}), "csr/key"},
		{"Ed25519", bgtest.CSR(edKey, &x509.CertificateRequest{}), "csr/key"},
		{"names", bgtest.CSR(p256, &x509.CertificateRequest{DNSNames: []string{"kubernetes.default"}}), "csr/extensions"},
		{"addresses", bgtest.CSR(p256, &x509.CertificateRequest{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}), "csr/extensions"},
		{"CA", bgtest.CSR(p256, &x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true,
			Value: []byte{0x30, 3, 1, 1, 0xff}}}}), "csr/extensions"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *bgtest.System) {
				r := s.Grant("alice", "admin")
				_, err := s.Claim("alice", r.ID, tt.csr)
				wantRefusal(t, err, tt.code)
				if s.CA.Calls() != 0 {
					t.Error("it reached the signer")
				}
				if _, err := s.Claim("alice", r.ID, plain); err != nil {
					t.Errorf("the grant is spoilt: %v", err)
				}
			})
		})
	}
}

func TestHostileSubjectIsDropped(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		csr := bgtest.CSR(key, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:kube-controller-manager",
			Organization: []string{"system:masters"}}})
		r := s.Grant("alice", "admin")
		d, err := s.Claim("alice", r.ID, csr)
		if err != nil {
			t.Fatal(err)
		}
		cert, _ := x509.ParseCertificate(d.Certificate)
		if got, want := cert.Subject.String(), "CN=breakglass:alice:"+r.ID; got != want {
			t.Errorf("subject is %s, want %s", got, want)
		}
	})
}

func TestSignerThatIsDownCostsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		r := s.Grant("alice", "admin")
		var down atomic.Bool
		down.Store(true)
		s.CA.OnCheck = func(string, string) error {
			if down.Load() {
				return errors.New("Vault is sealed: unseal it")
			}
			return nil
		}
		_, csr := bgtest.NewCSR()
		_, err := s.Claim("alice", r.ID, csr)
		wantRefusal(t, err, "signer")
		if !strings.Contains(err.Error(), "unseal it") {
			t.Errorf("the refusal does not say what to do: %v", err)
		}
		down.Store(false)
		if _, err := s.Claim("alice", r.ID, csr); err != nil {
			t.Errorf("the grant is spoilt: %v", err)
		}
	})
}

// Every external write is tested in pairs: failed and not applied, failed but applied.
func TestSigningFaults(t *testing.T) {
	lost := errors.New("connection reset by peer")
	tests := []struct {
		name  string
		apply bool
		err   error
		why   string // of the failed entry
		certs int
	}{
		{"refused", false, fmt.Errorf("%w: permission denied", breakglass.ErrNotSigned), breakglass.FailRefused, 0},
		{"lost before signing", false, lost, breakglass.FailUnknown, 0},
		{"lost after signing", true, lost, breakglass.FailOrphan, 1},
	}
	for _, profile := range []string{"admin", "group"} {
		for _, tt := range tests {
			t.Run(profile+"/"+tt.name, func(t *testing.T) {
				bubble(t, func(t *testing.T, s *bgtest.System) {
					r := s.Grant("alice", profile)
					s.CA.OnSign = func(breakglass.Order) (bool, error) { return tt.apply, tt.err }
					_, csr := bgtest.NewCSR()
					if d, err := s.Claim("alice", r.ID, csr); err == nil {
						t.Fatalf("a certificate was delivered: %v", d)
					}
					s.Check()
					r = s.WaitState(r.ID, breakglass.StateFailed)
					if r.Failed.Why != tt.why || len(s.CA.Issued()) != tt.certs || len(r.Failed.Orphans) != tt.certs {
						t.Errorf("failed as %s with %d certificates and %d orphans, want %s, %d", r.Failed.Why, len(s.CA.Issued()), len(r.Failed.Orphans),
							tt.why, tt.certs)
					}
					_, err := s.Claim("alice", r.ID, csr)
					wantRefusal(t, err, "over")
					if s.CA.Calls() != 1 {
						t.Errorf("%d signing calls, want 1", s.CA.Calls())
					}
					synctest.Wait()
					if !slices.Contains(s.Told.Kinds(r.ID), "failed/v1") {
						t.Error("nobody was told")
					}
				})
			})
		}
	}
}

func TestCertificateThatIsNotWhatWasOrderedIsNeverDelivered(t *testing.T) {
	tests := []struct {
		name   string
		change func(breakglass.Order, *x509.Certificate)
		want   string
	}{
		{"another name", func(_ breakglass.Order, c *x509.Certificate) { c.Subject.CommonName = "breakglass:bob:bg-0000-000" }, "subject"},
		{"system:masters", func(_ breakglass.Order, c *x509.Certificate) { c.Subject.Organization = []string{"system:masters"} },
			"Kubernetes itself"},
		{"another group", func(_ breakglass.Order, c *x509.Certificate) { c.Subject.Organization = []string{"breakglass:other"} }, "subject"},
		{"two names", func(o breakglass.Order, c *x509.Certificate) {
			c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: []int{2, 5, 4, 3}, Value: "admin"},
				{Type: []int{2, 5, 4, 3}, Value: o.CommonName}}
		}, "subject"},
		{"a user id", func(o breakglass.Order, c *x509.Certificate) {
			c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: []int{2, 5, 4, 3}, Value: o.CommonName},
				{Type: []int{1, 3, 6, 1, 4, 1, 57683, 2}, Value: "0"}}
		}, "subject"},
		{"a newline in the name", func(o breakglass.Order, c *x509.Certificate) { c.Subject.CommonName = o.CommonName + "\n" }, "odd characters"},
		{"a CA", func(_ breakglass.Order, c *x509.Certificate) { c.IsCA = true }, "CA certificate"},
		{"server use", func(_ breakglass.Order, c *x509.Certificate) {
			c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		}, "extended key usage"},
		{"any use", func(_ breakglass.Order, c *x509.Certificate) { c.ExtKeyUsage = nil }, "extended key usage"},
		{"key encipherment", func(_ breakglass.Order, c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageKeyEncipherment }, "key usage"},
		{"DNS names", func(_ breakglass.Order, c *x509.Certificate) { c.DNSNames = []string{"kubernetes"} }, "alternative names"},
		{"a longer life", func(_ breakglass.Order, c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Hour) }, "later than the grant"},
		{"a life backdated", func(_ breakglass.Order, c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(-time.Hour) }, "clock"},
		{"a clock ahead", func(_ breakglass.Order, c *x509.Certificate) {
			c.NotBefore, c.NotAfter = c.NotBefore.Add(5*time.Minute), c.NotAfter.Add(5*time.Minute)
		}, "NTP"},
		{"a clock behind", func(_ breakglass.Order, c *x509.Certificate) {
			c.NotBefore, c.NotAfter = c.NotBefore.Add(-5*time.Minute), c.NotAfter.Add(-5*time.Minute)
		}, "NTP"},
		{"expired", func(_ breakglass.Order, c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(time.Second) }, "expired"},
		{"an unknown extension", func(_ breakglass.Order, c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Value: []byte{5, 0}}}
		}, "unknown extension"},
		{"a short serial number", func(_ breakglass.Order, c *x509.Certificate) { c.SerialNumber.SetInt64(7) }, "serial"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *bgtest.System) {
				r := s.Grant("alice", "group")
				s.CA.OnTemplate = tt.change
				_, csr := bgtest.NewCSR()
				_, err := s.Claim("alice", r.ID, csr)
				wantRefusal(t, err, "failed/check")
				r, err = s.Service.Get(t.Context(), r.ID)
				if err != nil {
					t.Fatal(err)
				}
				if r.Failed == nil || !strings.Contains(r.Failed.Detail, tt.want) || len(r.Failed.Orphans) != 1 {
					t.Errorf("recorded %+v, want a failure about %q with the orphan", r.Failed, tt.want)
				}
			})
		})
	}
}

func TestBindingFaultsAreHealed(t *testing.T) {
	for _, apply := range []bool{false, true} {
		t.Run(fmt.Sprintf("applied=%t", apply), func(t *testing.T) {
			bubble(t, func(t *testing.T, s *bgtest.System) {
				var down atomic.Bool
				down.Store(true)
				fault := func() (bool, error) {
					if down.Load() {
						return apply, errors.New("the API server did not answer")
					}
					return true, nil
				}
				s.Cluster.SetBind(func(breakglass.Binding) (bool, error) { return fault() })
				s.Cluster.SetUnbind(func(string) (bool, error) { return fault() })
				r := s.Grant("alice", "admin")
				_, csr := bgtest.NewCSR()
				d, err := s.Claim("alice", r.ID, csr)
				if err != nil {
					t.Fatalf("a cluster that is down kept the certificate back: %v", err)
				}
				if !strings.Contains(d.Warning, "tried again") {
					t.Errorf("the warning is %q", d.Warning)
				}
				s.Restart()
				down.Store(false)
				time.Sleep(time.Minute)
				if !s.Cluster.Has(r.ID) {
					t.Error("the binding was not made when the cluster came back")
				}
				down.Store(true)
				time.Sleep(10 * time.Minute)
				s.Restart()
				down.Store(false)
				time.Sleep(time.Minute)
				r, err = s.Service.Get(t.Context(), r.ID)
				if err != nil || r.Bound || s.Cluster.Has(r.ID) {
					t.Errorf("the binding was not removed when the cluster came back (%v)", err)
				}
			})
		})
	}
}

func TestSweepDrivesBindingsToTheActiveGrants(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		live := s.Grant("alice", "admin")
		_, csr := bgtest.NewCSR()
		d, err := s.Claim("alice", live.ID, csr)
		if err != nil {
			t.Fatal(err)
		}
		denied := s.Ask(bySlack("bob"), "admin")
		if _, err := s.Service.Withdraw(t.Context(), bySlack("bob"), denied.ID, ""); err != nil {
			t.Fatal(err)
		}
		s.Cluster.Plant(live.ID, nil)
		s.Cluster.Plant(denied.ID, &breakglass.Binding{Request: denied.ID, Cluster: "c1"})
		s.Cluster.Plant("bg-made-up0", &breakglass.Binding{Request: "bg-made-up0", Cluster: "c1"})
		time.Sleep(3 * time.Second)
		have, _ := s.Cluster.Bound(t.Context(), "c1")
		if diff := cmp.Diff([]string{d.Request.ID}, have); diff != "" {
			t.Error(diff)
		}
	})
}

func TestSweepPutsAChangedBindingRight(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		r := s.Grant("alice", "admin")
		_, csr := bgtest.NewCSR()
		if _, err := s.Claim("alice", r.ID, csr); err != nil {
			t.Fatal(err)
		}
		s.Cluster.Plant(r.ID, &breakglass.Binding{Request: r.ID, Cluster: "c1", User: "breakglass:mallory:" + r.ID,
			Rights: policy.Rights{ClusterRole: "cluster-admin"}})
		time.Sleep(3 * time.Second)
		if got, want := s.Cluster.Binding(r.ID).User, "breakglass:alice:"+r.ID; got != want {
			t.Errorf("the binding is for %s, want %s", got, want)
		}
	})
}

func TestClockThatGoesBackRevivesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		pending, granted, live := s.Ask(bySlack("alice"), "admin"), s.Grant("alice", "admin"), s.Grant("bob", "admin")
		_, csr := bgtest.NewCSR()
		if _, err := s.Claim("bob", live.ID, csr); err != nil {
			t.Fatal(err)
		}
		// The clock was ahead for a moment: the ledger has seen a later time than the one that it is now.
		ahead := time.Now().Add(35 * time.Minute)
		if _, err := s.Ledger.Append(t.Context(), ahead, record.DaemonStream, ledger.AnyVersion, nil,
			ledger.Draft{Kind: "heartbeat/v1", Body: []byte(`{"version":""}`)}); err != nil {
			t.Fatal(err)
		}
		_, err := s.Service.Approve(t.Context(), bySlack("bob"), pending.ID, breakglass.Consent{Digest: pending.Digest})
		wantRefusal(t, err, "lapsed")
		_, other := bgtest.NewCSR()
		_, err = s.Claim("alice", granted.ID, other)
		wantRefusal(t, err, "lapsed")
		_, err = s.Claim("bob", live.ID, csr)
		wantRefusal(t, err, "expired")
		time.Sleep(11 * time.Minute)
		if s.Cluster.Has(live.ID) {
			t.Error("the binding outlived the certificate")
		}
	})
}

func TestNoSecretReachesTheLedger(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		r := s.Grant("alice", "group")
		key, csr := bgtest.NewCSR()
		if _, err := s.Claim("alice", r.ID, csr); err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		scalar, err := key.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		entries, err := s.Ledger.Entries(t.Context(), 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			for name, secret := range map[string][]byte{"the private key": der, "the private scalar": scalar,
				"the reason, which must stay erasable": []byte("etcd quorum lost")} {
				if bytes.Contains(e.Leaf, secret) || bytes.Contains(e.Leaf, []byte(base64.StdEncoding.EncodeToString(secret))) {
					t.Errorf("entry %d (%s) holds %s", e.Seq, e.Kind, name)
				}
			}
		}
	})
}

func TestRevokeRemovesTheBindingAtOnce(t *testing.T) {
	for _, who := range []string{"alice", "carol", "dave"} {
		t.Run(who, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *bgtest.System) {
				r := s.Grant("alice", "admin")
				_, csr := bgtest.NewCSR()
				if _, err := s.Claim("alice", r.ID, csr); err != nil {
					t.Fatal(err)
				}
				_, err := s.Service.Revoke(t.Context(), bySlack("mallory"), r.ID, "fun")
				wantRefusal(t, err, "not-approver")
				r, err = s.Service.Revoke(t.Context(), bySlack(who), r.ID, "laptop stolen")
				if err != nil {
					t.Fatal(err)
				}
				wantState(t, r, breakglass.StateRevoked)
				if r.Bound || s.Cluster.Has(r.ID) {
					t.Error("the binding is still there")
				}
				_, err = s.Claim("alice", r.ID, csr)
				wantRefusal(t, err, "over")
				if _, err = s.Service.Revoke(t.Context(), bySlack(who), r.ID, "again"); err != nil {
					t.Errorf("revoking twice: %v", err)
				}
			})
		})
	}
}

func TestRevokeWhileTheClusterIsDownIsCarriedOutLater(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		r := s.Grant("alice", "admin")
		_, csr := bgtest.NewCSR()
		if _, err := s.Claim("alice", r.ID, csr); err != nil {
			t.Fatal(err)
		}
		var down atomic.Bool
		down.Store(true)
		s.Cluster.SetUnbind(func(string) (bool, error) {
			if down.Load() {
				return false, errors.New("no route to host")
			}
			return true, nil
		})
		r, err := s.Service.Revoke(t.Context(), bySlack("carol"), r.ID, "laptop stolen")
		if err != nil || !r.Bound {
			t.Fatalf("revoked with binding %t (%v), want recorded and still bound", r.Bound, err)
		}
		down.Store(false)
		time.Sleep(time.Minute)
		if s.Cluster.Has(r.ID) {
			t.Error("the binding is still there")
		}
	})
}

func TestPolicyThatGotStricterStopsTheClaim(t *testing.T) {
	for _, change := range [][2]string{
		{"count: 2, from: [sre, security], each: [security]", "count: 3, from: [sre, security], each: [security]"},
		{"members: [alice, bob, dave]", "members: [bob, dave]"},
		{"members: [carol, erin]", "members: [erin]"},
		{"default: 10m, max: 1h", "default: 5m, max: 5m"},
		{"clusterRole: cluster-admin", "clusterRole: view"},
		{"https://127.0.0.1:6443", "https://127.0.0.1:7443"},
	} {
		t.Run(change[1], func(t *testing.T) {
			bubble(t, func(t *testing.T, s *bgtest.System) {
				r := s.Grant("alice", "admin")
				text := strings.Replace(bgtest.Policy(), change[0], change[1], 1)
				p, err := policy.Parse("access.yaml", []byte(text))
				if err != nil {
					t.Fatal(err)
				}
				if changes, err := s.Service.InForce.Set(t.Context(), p); err != nil || len(changes) == 0 {
					t.Fatalf("loading it: changes %v (%v)", changes, err)
				}
				_, csr := bgtest.NewCSR()
				_, err = s.Claim("alice", r.ID, csr)
				wantRefusal(t, err, "policy/changed")
				if s.CA.Calls() != 0 {
					t.Error("it reached the signer")
				}
			})
		})
	}
}

func TestWeakerPolicyNeedsAnOperatorsWord(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		weak := strings.Replace(bgtest.Policy(), ", each: [security]", "", 1)
		p, err := policy.Parse("access.yaml", []byte(weak))
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Service.InForce.Set(t.Context(), p)
		wantRefusal(t, err, "policy/weaker")
		if s.Service.Policy().Digest == p.Digest {
			t.Error("the weaker policy is in force")
		}
		// A daemon that is started with it comes up with the one that is in force, and says so.
		again, _, err := bgtest.Open(t.Context(), bgtest.Config{Record: bgtest.Record{Ledger: s.Ledger},
			Domain: bgtest.Domain{Policy: p, Signer: s.CA, Binder: s.Cluster}})
		if err != nil || again.Policy().Digest == p.Digest {
			t.Fatalf("started with a weaker policy: %v", err)
		}
		if !slices.ContainsFunc(again.Findings.Open(), func(f finding.Finding) bool { return f.Key == "policy-on-disk" }) {
			t.Errorf("findings %+v, want one about the file", again.Findings.Open())
		}
		if _, _, err = bgtest.Open(t.Context(), bgtest.Config{Record: bgtest.Record{Ledger: s.Ledger},
			Domain: bgtest.Domain{Policy: p, Signer: s.CA, Binder: s.Cluster, AcceptWeaker: true}}); err != nil {
			t.Fatal(err)
		}
		entries, err := s.Ledger.Stream(t.Context(), policy.Stream)
		if err != nil {
			t.Fatal(err)
		}
		ev, err := verify.Decode(entries[len(entries)-1])
		if loaded, ok := ev.(policy.Loaded); err != nil || !ok || !loaded.Weaker || len(loaded.Changes) == 0 {
			t.Errorf("recorded %+v (%v), want the weaker policy with its changes", ev, err)
		}
	})
}

func TestProfileThatComesBackWeakerIsSeen(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		load := func(text string) error {
			p, err := policy.Parse("access.yaml", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Service.InForce.Set(t.Context(), p)
			return err
		}
		without := strings.Replace(bgtest.Policy(), "- id: admin", "- id: other", 1)
		if err := load(without); err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, load(strings.Replace(bgtest.Policy(), ", each: [security]", "", 1)), "policy/weaker")
		if err := load(bgtest.Policy()); err != nil {
			t.Errorf("the profile as it was is refused: %v", err)
		}
	})
}

func TestMoreTeamsToApproveIsWeaker(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		text := strings.Replace(bgtest.Policy(), "teams:\n", "teams:\n  - {id: interns, members: [mallory]}\n", 1)
		p, err := policy.Parse("access.yaml", []byte(strings.Replace(text, "from: [sre, security]", "from: [sre, security, interns]",
			1)))
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Service.InForce.Set(t.Context(), p)
		wantRefusal(t, err, "policy/weaker")
	})
}

func TestPolicyChangedWhileTheDaemonWasDownIsRecordedInWords(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		s.RestartWith(strings.Replace(bgtest.Policy(), "members: [carol, erin]", "members: [carol, erin, mallory]", 1))
		entries, err := s.Ledger.Stream(t.Context(), policy.Stream)
		if err != nil {
			t.Fatal(err)
		}
		ev, err := verify.Decode(entries[len(entries)-1])
		if err != nil {
			t.Fatal(err)
		}
		if got := ev.(policy.Loaded).Changes; !slices.Equal(got, []string{"team security: mallory added"}) {
			t.Errorf("got %q", got)
		}
	})
}

// unsure is a disk whose next commit may or may not happen, and does not say.
type unsure struct {
	ledger.Store
	next, apply atomic.Bool
}

func (u *unsure) Update(ctx context.Context, fn func(ledger.Tx) error) error {
	if !u.next.Swap(false) {
		return u.Store.Update(ctx, fn)
	}
	if u.apply.Load() {
		if err := u.Store.Update(ctx, fn); err != nil {
			return err
		}
	}
	return ledger.ErrUnknownOutcome
}

func TestUnknownWriteEndsTheProcessAndTheDiskDecides(t *testing.T) {
	for _, apply := range []bool{false, true} {
		t.Run(fmt.Sprintf("applied=%t", apply), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk := &unsure{}
				disk.apply.Store(apply)
				s := bgtest.New(t, bgtest.Options{Store: func(st ledger.Store) ledger.Store { disk.Store = st; return disk }})
				r := s.Approve(byKey("bob"), s.Ask(byKey("alice"), "admin"))
				synctest.Wait() // people have been told: the next write is the approval
				disk.next.Store(true)
				if _, err := s.Service.Approve(t.Context(), byKey("carol"), r.ID, bgtest.Consent(byKey("carol"), r)); !errors.Is(err,
					ledger.ErrUnknownOutcome) {
					t.Errorf("approving: %v, want an unknown outcome", err)
				}
				if err := s.WaitEnd(); !errors.Is(err, ledger.ErrUnknownOutcome) {
					t.Errorf("the daemon ended with %v, want the unknown outcome", err)
				}
				s.Restart()
				r, err := s.Service.Get(t.Context(), r.ID)
				if err != nil {
					t.Fatal(err)
				}
				want := breakglass.StatePending
				if apply {
					want = breakglass.StateApproved
				}
				wantState(t, r, want)
				s.Check()
			})
		})
	}
}

func TestMessengerThatFailsLosesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		fail := 5
		s.Told.OnTell(func(announce.Notice) error {
			if fail--; fail >= 0 {
				return errors.New("slack is down")
			}
			return nil
		})
		r := s.Grant("alice", "admin")
		time.Sleep(5 * time.Minute)
		if diff := cmp.Diff([]string{"requested/v3", "approved/v2", "approved/v2"}, s.Told.Kinds(r.ID)); diff != "" {
			t.Error(diff)
		}
		s.Restart()
		time.Sleep(time.Minute)
		if n := len(s.Told.Kinds(r.ID)); n != 3 {
			t.Errorf("%d notices after a restart, want the same 3", n)
		}
	})
}

func TestWaitReturnsWithTheNextEventOrTheClock(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		r := s.Ask(bySlack("alice"), "admin")
		go func() {
			time.Sleep(time.Second)
			s.Approve(bySlack("bob"), r)
		}()
		start := time.Now()
		after, err := s.Service.Wait(t.Context(), r.ID, r.Rev, breakglass.StatePending)
		if err != nil || after.Rev != r.Rev+1 || time.Since(start) != time.Second {
			t.Errorf("got revision %d after %s (%v), want %d after 1s", after.Rev, time.Since(start), err, r.Rev+1)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		same, err := s.Service.Wait(ctx, r.ID, after.Rev, breakglass.StatePending)
		if err != nil || same.Rev != after.Rev || ctx.Err() == nil {
			t.Errorf("the wait ended before its time: revision %d (%v)", same.Rev, err)
		}
		lapsed, err := s.Service.Wait(t.Context(), r.ID, after.Rev, breakglass.StatePending)
		if err != nil {
			t.Fatal(err)
		}
		wantState(t, lapsed, breakglass.StateLapsed)
	})
}

func TestIDsAreFoundAsPeopleTypeThem(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		r := s.Ask(bySlack("alice"), "admin")
		for _, typed := range []string{r.ID, strings.ToUpper(r.ID), strings.TrimPrefix(r.ID, "bg-"), r.ID[:7], " " + r.ID + " "} {
			got, err := s.Service.Get(t.Context(), typed)
			if err != nil || got.ID != r.ID {
				t.Errorf("%q finds %v (%v)", typed, got, err)
			}
		}
		for _, typed := range []string{"", "b", "bg-", "zzzz", "bg-zzzz-zzz", "../../etc"} {
			_, err := s.Service.Get(t.Context(), typed)
			wantRefusal(t, err, "unknown-request")
		}
	})
}
