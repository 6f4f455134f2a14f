package breakglass_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
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

// puppet is a key that alice made and put into another person's entry.
func puppet(person string) (line string, signer ssh.Signer) {
	seed := sha256.Sum256([]byte("alice's key for " + person))
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		panic(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))), signer
}

// withPuppets is a policy in which bob and carol have one key more each.
func withPuppets(pol string) string {
	for _, person := range []string{"bob", "carol"} {
		line, _ := puppet(person)
		at := strings.Index(pol, "{id: "+person+",")
		pol = pol[:at] + strings.Replace(pol[at:], "keys: [", "keys: [\""+line+" alices\", ", 1)
	}
	return pol
}

func parsed(t *testing.T, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse("access.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// asPuppet is what alice sends in another person's name.
func asPuppet(person string, r *breakglass.Request) (record.Actor, breakglass.Consent) {
	_, signer := puppet(person)
	a := record.Actor{Person: person, Channel: record.ChannelKey, Key: ssh.FingerprintSHA256(signer.PublicKey())}
	return a, breakglass.Consent{Digest: r.Digest, Signature: bgtest.SignSSH(signer, breakglass.ApprovalNamespace,
		breakglass.ApprovalText(r.ID, r.Digest, 0))}
}

func standing(t *testing.T, s *bgtest.System, who string) policy.Standing {
	t.Helper()
	st, err := s.Service.InForce.Standing(t.Context(), bgtest.ByKey(who))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func load(t *testing.T, s *bgtest.System, text, code string) []string {
	t.Helper()
	changes, err := s.Service.InForce.Set(t.Context(), parsed(t, text))
	if code != "" {
		wantRefusal(t, err, code)
	} else if err != nil {
		t.Fatal(err)
	}
	return changes
}

func isOpen(s *bgtest.System, key string) bool {
	return slices.ContainsFunc(s.Service.Findings.Open(), func(f finding.Finding) bool { return f.Key == key })
}

func guardedBubble(t *testing.T, f func(t *testing.T, s *bgtest.System)) {
	t.Helper()
	bubbleWith(t, bgtest.Options{Policy: bgtest.Guarded()}, func(t *testing.T, s *bgtest.System) {
		f(t, s)
	})
}

// One person who can write access.yaml gives herself two more votes on a critical profile.
func TestOneEditorOfThePolicyIsNoQuorum(t *testing.T) {
	for name, pol := range map[string]string{"a team agrees": bgtest.Guarded(), "nobody is named": bgtest.Policy()} {
		t.Run(name, func(t *testing.T) {
			bubbleWith(t, bgtest.Options{Policy: pol}, func(t *testing.T, s *bgtest.System) {
				_, err := s.Service.InForce.Set(t.Context(), parsed(t, withPuppets(pol)))
				if name == "a team agrees" {
					wantRefusal(t, err, "policy/waits")
				} else if err != nil {
					t.Fatal(err)
				}
				for range 2 {
					r := s.Ask(bgtest.ByKey("alice"), "keys")
					for _, person := range []string{"bob", "carol"} {
						a, consent := asPuppet(person, r)
						if _, err := s.Service.Approve(t.Context(), a, r.ID, consent); err == nil {
							t.Errorf("%s's new key approves", person)
						}
					}
					_, csr := bgtest.NewCSR()
					if _, err := s.Claim("alice", r.ID, csr); err == nil || s.CA.Calls() != 0 {
						t.Errorf("one person got a certificate: %v", err)
					}
					s.Restart() // the same file once more
				}
				s.Check()
			})
		})
	}
}

func TestPolicyChangeIsInForceWhenTwoHaveSigned(t *testing.T) {
	guardedBubble(t, func(t *testing.T, s *bgtest.System) {
		if !isOpen(s, "policy-unconfirmed") {
			t.Error("the first policy was agreed to by nobody, and no finding says so")
		}
		s.SignPolicy("alice", false)
		s.SignPolicy("alice", false) // twice is once
		if !isOpen(s, "policy-unconfirmed") {
			t.Error("one person has confirmed it alone")
		}
		s.SignPolicy("bob", false)
		if isOpen(s, "policy-unconfirmed") || !standing(t, s, "bob").Agreed {
			t.Error("two people have agreed, and it is still unconfirmed")
		}
		more := strings.Replace(bgtest.Guarded(), "members: [carol, erin]", "members: [carol, erin, mallory]", 1)
		load(t, s, more, "policy/waits")
		load(t, s, more, "policy/waits") // the same again proposes nothing new
		if st := standing(t, s, "alice"); !slices.Equal(st.Waiting.Changes, []string{"team security: mallory added"}) || !isOpen(s,
			"policy-on-disk") {
			t.Errorf("waits: %+v", st.Waiting)
		}
		s.RestartWith(more)
		s.SignPolicy("alice", false)
		for who, w := range map[string]policy.Word{
			"carol":   bgtest.PolicyWord(standing(t, s, "alice"), "carol", false), // is in no team that signs
			"mallory": bgtest.PolicyWord(standing(t, s, "alice"), "mallory", false),
			"bob":     bgtest.PolicyWord(standing(t, s, "bob"), "alice", false), // with another person's key
		} {
			if err := s.Service.InForce.Sign(t.Context(), bgtest.ByKey(who), w); err == nil {
				t.Errorf("%s signed it", who)
			}
		}
		if standing(t, s, "alice").Policy.Digest == parsed(t, more).Digest {
			t.Fatal("in force by one signature")
		}
		s.RestartWith(more)
		s.SignPolicy("bob", false)
		if st := standing(t, s, "alice"); st.Policy.Digest != parsed(t, more).Digest || st.Waiting != nil || isOpen(s, "policy-on-disk") {
			t.Errorf("signed by two, and in force is %s", st.Policy.Digest)
		}
	})
}

func TestWhatOnlyTakesAwayIsInForceAtOnce(t *testing.T) {
	for _, change := range [][2]string{
		{"count: 2, from: [sre, security], each: [security]", "count: 3, from: [sre, security], each: [security]"},
		{"members: [carol, erin]", "members: [erin]"},
		{"default: 10m, max: 1h", "default: 5m, max: 5m"},
		{"clusterRole: cluster-admin", "clusterRole: view"},
		{"namespaces: [default, kube-system]", "namespaces: [default]"},
		{"risk: high", "risk: critical"},
		{"limits: {openPerPerson: 3, perHour: 20}", "limits: {openPerPerson: 1, perHour: 2}"},
		{"risk: low", "risk: low\n    guards: [all]"},
		{"reason: {min: 10}", "reason: {min: 30}"},
		{"policy: {approvers: sre}", "policy: {approvers: sre, cooling: 48h}"},
	} {
		t.Run(change[1], func(t *testing.T) {
			guardedBubble(t, func(t *testing.T, s *bgtest.System) {
				text := strings.Replace(bgtest.Guarded(), change[0], change[1], 1)
				if changes := load(t, s, text, ""); len(changes) == 0 || s.Service.Policy().Digest != parsed(t, text).Digest {
					t.Errorf("changes %q, in force %s", changes, s.Service.Policy().Digest)
				}
				load(t, s, bgtest.Guarded(), "policy/waits") // and going back is a change like any other
			})
		})
	}
}

func TestWhatAddsOrEasesWaits(t *testing.T) {
	for _, change := range [][2]string{
		{"members: [carol, erin]", "members: [carol, erin, mallory]"},
		{"{id: sre, members: [alice, bob, dave]}", "{id: sre, members: [alice, bob, dave, mallory]}"},
		{"default: 10m, max: 1h", "default: 10m, max: 24h"},
		{"{role: fixer, namespaces: [default, kube-system]}", "{clusterRole: cluster-admin}"},
		{"https://127.0.0.1:6443", "https://127.0.0.1:7443"},
		{"    risk: critical", "    risk: high"},
		{"incident: {pattern: \"^INC-[0-9]+$\"}", "incident: {required: false}"},
		{", each: [security]", ""},
		{"policy: {approvers: sre}", "policy: {approvers: security}"},
		{"policy: {approvers: sre}", "policy: {reviewedBy: me}"},
		{"policy: {approvers: sre}", "policy: {approvers: sre, cooling: 1m}"},
		{"limits: {", "responders: [sre]\nlimits: {"},
		{"limits: {", "clusters2"},
		{"perHour: 20", "perHour: 30"},
		{"limits: {", "recertification: {reviewers: [sre, security]}\nlimits: {"},
		{"  - id: group\n", "  - id: groups\n"},
	} {
		if change[1] == "clusters2" {
			change[0], change[1] = "  - id: scoped\n", "  - {id: more, clusters: [c1], bind: {clusterRole: view}, ttl: {default: 5m, max: 5m}, "+
				"requesters: [sre], approvals: {count: 2, from: [sre, security]}}\n  - id: scoped\n"
		}
		t.Run(change[1], func(t *testing.T) {
			guardedBubble(t, func(t *testing.T, s *bgtest.System) {
				was := s.Service.Policy()
				text := strings.Replace(bgtest.Guarded(), change[0], change[1], 1)
				load(t, s, text, "policy/waits")
				if more := policy.Eases(was, s.Service.Policy()); len(more) > 0 {
					t.Errorf("in force without two people: %q", more)
				}
				s.RestartWith(text)
				if more := policy.Eases(was, s.Service.Policy()); len(more) > 0 {
					t.Errorf("in force without two people, by a restart: %q", more)
				}
			})
		})
	}
}

// A stolen key is replaced: it is out at once, and the new one waits.
func TestWhatAChangeTakesAwayDoesNotWaitForTheRest(t *testing.T) {
	guardedBubble(t, func(t *testing.T, s *bgtest.System) {
		stolen := bgtest.ByKey("carol")
		line, _ := puppet("carol")
		text := bgtest.Guarded()
		at := strings.Index(text, "{id: carol,")
		end := at + strings.Index(text[at:], "keys: [")
		rest := text[end:]
		text = text[:end] + "keys: [\"" + line + "\"" + rest[strings.Index(rest, "]"):]
		changes := load(t, s, text, "policy/waits")
		if !slices.Equal(changes, []string{"person carol: key " + stolen.Key + " removed"}) {
			t.Errorf("in force at once: %q", changes)
		}
		if _, is := s.Service.Policy().PersonByKey(stolen.Key); is {
			t.Error("the stolen key is still in force")
		}
		for range 2 {
			s.RestartWith(text)
			if n := len(standing(t, s, "alice").Waiting.Changes); n != 1 {
				t.Errorf("%d changes wait, want the new key", n)
			}
		}
		entries, err := s.Ledger.Stream(t.Context(), policy.Stream)
		if err != nil || len(entries) != 3 {
			t.Errorf("%d entries (%v), want the first policy, what was taken away and what waits", len(entries), err)
		}
	})
}

func TestANewKeyCountsLater(t *testing.T) {
	for _, waive := range []bool{false, true} {
		t.Run(fmt.Sprint(waive), func(t *testing.T) {
			guardedBubble(t, func(t *testing.T, s *bgtest.System) {
				load(t, s, withPuppets(bgtest.Guarded()), "policy/waits")
				s.SignPolicy("alice", waive)
				s.SignPolicy("dave", waive)
				r := s.Ask(bgtest.ByKey("alice"), "keys")
				a, consent := asPuppet("bob", r)
				_, err := s.Service.Approve(t.Context(), a, r.ID, consent)
				if waive {
					if err != nil {
						t.Fatal(err)
					}
					return
				}
				wantRefusal(t, err, "policy/cooling")
				s.RestartWith(withPuppets(bgtest.Guarded()))
				time.Sleep(24 * time.Hour)
				r = s.Ask(bgtest.ByKey("alice"), "keys")
				a, consent = asPuppet("bob", r)
				if _, err := s.Service.Approve(t.Context(), a, r.ID, consent); err != nil {
					t.Errorf("after a day: %v", err)
				}
			})
		})
	}
}

// A signature is for one change of one policy, once.
func TestASignatureOverAPolicyIsForOneChange(t *testing.T) {
	guardedBubble(t, func(t *testing.T, s *bgtest.System) {
		one := strings.Replace(bgtest.Guarded(), "max: 1h", "max: 2h", 1)
		two := strings.Replace(bgtest.Guarded(), "max: 1h", "max: 3h", 1)
		load(t, s, one, "policy/waits")
		old := bgtest.PolicyWord(standing(t, s, "alice"), "alice", false)
		s.SignPolicy("bob", false)
		load(t, s, two, "policy/waits") // a race of two
		wantRefusal(t, s.Service.InForce.Sign(t.Context(), bgtest.ByKey("alice"), old), "policy/sign")
		load(t, s, one, "policy/waits") // and back: nobody has signed this one
		wantRefusal(t, s.Service.InForce.Sign(t.Context(), bgtest.ByKey("alice"), old), "policy/sign")
		if st := standing(t, s, "alice"); len(st.WaitingSigned) != 0 {
			t.Errorf("signed by %q already", st.WaitingSigned)
		}
		load(t, s, bgtest.Guarded(), "")
		if st := standing(t, s, "alice"); st.Waiting != nil {
			t.Error("the file is what is in force, and something waits")
		}
	})
}

func TestAcceptedPolicyIsLoudUntilTwoAgree(t *testing.T) {
	guardedBubble(t, func(t *testing.T, s *bgtest.System) {
		s.SignPolicy("alice", false)
		s.SignPolicy("bob", false)
		s.RestartAs(withPuppets(bgtest.Guarded()), func(c *bgtest.Config) { c.AcceptWeaker = true })
		if s.Service.Policy().Digest != parsed(t, withPuppets(bgtest.Guarded())).Digest || !isOpen(s, "policy-unconfirmed") {
			t.Errorf("in force %s, findings %+v", s.Service.Policy().Digest, s.Service.Findings.Open())
		}
		r := s.Ask(bgtest.ByKey("alice"), "keys")
		a, consent := asPuppet("bob", r)
		_, err := s.Service.Approve(t.Context(), a, r.ID, consent)
		wantRefusal(t, err, "policy/cooling")
		s.SignPolicy("alice", false)
		s.SignPolicy("bob", false)
		if isOpen(s, "policy-unconfirmed") {
			t.Error("two people have agreed, and it is still unconfirmed")
		}
	})
}

// Two people sign the words of a change. What it is a change of, which no two people have agreed to, they have not seen.
func TestASignedChangeDoesNotConfirmWhatItIsAChangeOf(t *testing.T) {
	guardedBubble(t, func(t *testing.T, s *bgtest.System) {
		s.SignPolicy("alice", false)
		s.SignPolicy("bob", false)
		s.RestartAs(withPuppets(bgtest.Guarded()), func(c *bgtest.Config) { c.AcceptWeaker = true })
		more := strings.Replace(withPuppets(bgtest.Guarded()), "max: 1h", "max: 2h", 1)
		load(t, s, more, "policy/waits")
		s.SignPolicy("alice", false)
		s.SignPolicy("bob", false)
		if st := standing(t, s, "alice"); st.Policy.Digest != parsed(t, more).Digest || st.Agreed || !isOpen(s, "policy-unconfirmed") {
			t.Errorf("the change is signed, and with it the keys that an operator put in force: %+v", st)
		}
		s.SignPolicy("alice", false)
		s.SignPolicy("bob", false)
		if !standing(t, s, "alice").Agreed || isOpen(s, "policy-unconfirmed") {
			t.Error("two people have signed the policy itself, and it is still unconfirmed")
		}
	})
}

// An operator's restart can take away the team that must agree. That stays a critical finding until a team is named again and agrees.
func TestAcceptedPolicyWithoutATeamStaysACriticalFinding(t *testing.T) {
	guardedBubble(t, func(t *testing.T, s *bgtest.System) {
		s.SignPolicy("alice", false)
		s.SignPolicy("bob", false)
		s.RestartAs(bgtest.Policy(), func(c *bgtest.Config) { c.AcceptWeaker = true })
		load(t, s, strings.Replace(bgtest.Policy(), "max: 1h", "max: 30m", 1), "")
		s.Restart()
		if f := s.Service.Findings.Open(); !isOpen(s, "policy-unconfirmed") || f[0].Severity != finding.Critical {
			t.Errorf("findings %+v, want a critical one that no team can agree to the policy", f)
		}
		load(t, s, bgtest.Guarded(), "policy/weaker")
		s.RestartAs(bgtest.Guarded(), func(c *bgtest.Config) { c.AcceptWeaker = true })
		s.SignPolicy("alice", false)
		s.SignPolicy("bob", false)
		if isOpen(s, "policy-unconfirmed") {
			t.Error("two people have agreed, and it is still unconfirmed")
		}
	})
}

// Where no team agrees to a change, what one editor adds counts a day later: there is time to see it.
func TestWhatAnEditorAddsAloneCountsLater(t *testing.T) {
	for name, change := range map[string][2]string{
		"a member of a team that must agree": {"members: [carol, erin]", "members: [carol, erin, dave]"},
		"a profile": {"  - id: scoped\n", "  - id: eves\n    clusters: [c1]\n    bind: {clusterRole: cluster-admin}\n    ttl: {default: " +
			"10m, max: 1h}\n    requesters: [sre]\n    approvals: {count: 2, from: [sre]}\n  - id: scoped\n"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *bgtest.System) {
				profile := "group"
				if name == "a profile" {
					profile = "eves"
				}
				text := strings.Replace(bgtest.Policy(), change[0], change[1], 1)
				load(t, s, text, "")
				s.RestartWith(text) // which does not make it older
				approve := func() error {
					r := s.Ask(bgtest.ByKey("alice"), profile)
					_, err := s.Service.Approve(t.Context(), bgtest.ByKey("dave"), r.ID, bgtest.Consent(bgtest.ByKey("dave"), r))
					return err
				}
				wantRefusal(t, approve(), "policy/cooling")
				time.Sleep(24 * time.Hour)
				if err := approve(); err != nil {
					t.Errorf("a day later: %v", err)
				}
			})
		})
	}
}

// What was approved under a policy that only an operator had agreed to is counted apart, until two people have confirmed that policy.
func TestApprovalsThatNobodyAgreedToAreCounted(t *testing.T) {
	guardedBubble(t, func(t *testing.T, s *bgtest.System) {
		unagreed := func() int {
			report, err := verify.Audit(t.Context(), s.Ledger)
			if err != nil || len(report.Problems) > 0 {
				t.Fatalf("%v, problems %q", err, report.Problems)
			}
			return report.Unagreed
		}
		s.Approve(bgtest.ByKey("bob"), s.Ask(bgtest.ByKey("alice"), "keys")) // of the first policy
		if got := unagreed(); got != 1 {
			t.Errorf("%d approvals under a policy that was not agreed to, want 1", got)
		}
		s.SignPolicy("alice", false)
		s.SignPolicy("bob", false)
		if got := unagreed(); got != 0 {
			t.Errorf("%d, although two people have confirmed the policy", got)
		}
		s.RestartAs(withPuppets(bgtest.Guarded()), func(c *bgtest.Config) { c.AcceptWeaker = true })
		time.Sleep(24 * time.Hour)
		r := s.Ask(bgtest.ByKey("alice"), "keys")
		a, consent := asPuppet("bob", r)
		if _, err := s.Service.Approve(t.Context(), a, r.ID, consent); err != nil {
			t.Fatal(err)
		}
		s.Approve(bgtest.ByKey("dave"), r)
		load(t, s, bgtest.Guarded(), "") // the puppets are gone again, and two people confirm what is left
		s.SignPolicy("alice", false)
		s.SignPolicy("bob", false)
		if got := unagreed(); got != 1 {
			t.Errorf("%d approvals that were not agreed to, want the one by the puppet's key", got)
		}
	})
}

// A file that is broken, or asks for what nobody agreed to, does not keep the daemon down: what was in force is.
func TestDaemonStartsWithThePolicyInForce(t *testing.T) {
	guardedBubble(t, func(t *testing.T, s *bgtest.System) {
		was := s.Service.Policy().Digest
		s.RestartWith(withPuppets(bgtest.Guarded()))
		if s.Service.Policy().Digest != was {
			t.Error("another policy is in force")
		}
		s.RestartAs(bgtest.Guarded(), func(c *bgtest.Config) { c.Policy = nil })
		if s.Service.Policy().Digest != was {
			t.Error("another policy is in force")
		}
		s.Service.InForce.Unread(t.Context(), errors.New("access.yaml:1: not YAML"))
		if !isOpen(s, "policy-on-disk") {
			t.Error("nothing says that the file is broken")
		}
	})
}

// What a thief of the ledger's key would write: a policy that nobody signed, and approvals by its keys.
func TestAuditRefusesWhatNobodyAgreedTo(t *testing.T) {
	guardedBubble(t, func(t *testing.T, s *bgtest.System) {
		p := parsed(t, withPuppets(bgtest.Guarded()))
		was := s.Service.Policy().Digest
		forge := func(ev policy.Loaded) string {
			t.Helper()
			a := verify.NewAuditor()
			entries, err := s.Ledger.Entries(t.Context(), 0, 1000)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				a.Add(e)
			}
			a.Add(breakglass.Forged(int64(len(entries)), policy.Stream, 2, entries[len(entries)-1].Time, ev,
				map[string]string{"policy-000": p.Text()}))
			return strings.Join(a.Report().Problems, "\n")
		}
		for why, want := range map[string]string{
			policy.WhyLess:   "does more than take away",
			policy.WhyFile:   "nobody did",
			policy.WhyFirst:  "which it is not",
			policy.WhySigned: "did not wait",
		} {
			if got := forge(policy.Loaded{Digest: p.Digest, Base: was, Why: why}); !strings.Contains(got, want) {
				t.Errorf("%s: problems %q, want %q", why, got, want)
			}
		}
		// An approval by a key that is in no agreed policy.
		r := s.Ask(bgtest.ByKey("alice"), "keys")
		by, consent := asPuppet("bob", r)
		line, _ := puppet("bob")
		a := verify.NewAuditor()
		var last ledger.Entry
		entries, err := s.Ledger.Entries(t.Context(), 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			a.Add(e)
			last = e
		}
		a.Add(breakglass.Forged(int64(len(entries)), r.ID, 2, last.Time, breakglass.Approved{By: by, Digest: r.Digest, PublicKey: line,
			Signature: consent.Signature}, nil))
		if got := strings.Join(a.Report().Problems, "\n"); !strings.Contains(got, "no agreed access policy") {
			t.Errorf("problems %q", got)
		}
	})
}
