package breakglass_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	memca "github.com/breakglassd/breakglass/internal/sim/ca"
)

// servers is a Prover: API servers that refuse a certificate from a time on, or are away.
type servers struct {
	mu     sync.Mutex
	names  []string
	refuse map[string]time.Time // server → from when it says no; absent: never
	away   map[string]bool
	asked  int
}

func (s *servers) Ask(_ context.Context, a breakglass.Access) []breakglass.Answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	var out []breakglass.Answer
	for _, name := range s.names {
		x := breakglass.Answer{Server: name, Question: "may " + a.User + " get pods"}
		at, refuses := s.refuse[name]
		switch {
		case s.away[name]:
			x.Problem, x.Silent = "it does not answer", true
		case refuses && !time.Now().Before(at):
			x.No, x.By = true, breakglass.RefusedByRBAC
		default:
			x.Problem = breakglass.StillAllowed("").Problem
		}
		out = append(out, x)
	}
	return out
}

func (s *servers) set(f func(*servers)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

// examiner is an Examiner that answers what a test says.
type examiner struct {
	mu     sync.Mutex
	before []string
	items  []breakglass.Residue
	err    error
	calls  []bool // final
}

func (e *examiner) Before(_ context.Context, a breakglass.Access) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.before = append(e.before, a.Request)
	return nil
}

// made is the calls so far: whether each was for the last time.
func (e *examiner) made() []bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.calls)
}

func (e *examiner) Examine(_ context.Context, _ *breakglass.Request, final bool) (breakglass.SessionReported, breakglass.Swept, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.calls = append(e.calls, final)
	if e.err != nil && !final {
		return breakglass.SessionReported{}, breakglass.Swept{}, e.err
	}
	return breakglass.SessionReported{Source: breakglass.SourceAudit, Events: 3, Digest: strings.Repeat("0", 64)},
		breakglass.Swept{Items: e.items, Sources: []string{"audit"}}, nil
}

func (e *examiner) set(f func(*examiner)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f(e)
}

const careful = "\nresponders: [security]\nclosing: {within: 24h, raiseQuorum: true}\n"

func evil() []breakglass.Residue {
	return []breakglass.Residue{{Rule: "clusterrolebinding-created", Severity: finding.Critical, Object: "ClusterRoleBinding evil",
		What: "a new ClusterRoleBinding", Found: "audit", Exists: "yes"}}
}

func kinds(t *testing.T, s *bgtest.System, id string) []string {
	t.Helper()
	entries, err := s.Ledger.Stream(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		kind, _, _ := strings.Cut(e.Kind, "/") // of whatever number
		out = append(out, kind)
	}
	return out
}

func TestRevocationIsProvedOnEveryAPIServerAndRetriedWhereOneIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &servers{names: []string{"https://a", "https://b", "https://c"}, refuse: map[string]time.Time{},
			away: map[string]bool{"https://c": true}}
		s := bgtest.New(t, bgtest.Options{Config: func(c *bgtest.Config) { c.Prover = p }})
		r := active(t, s, "alice")
		now := time.Now()
		p.set(func(p *servers) { p.refuse["https://a"], p.refuse["https://b"] = now, now.Add(200*time.Millisecond) })
		after, err := s.Service.Revoke(t.Context(), byKey("carol"), r.ID, "laptop stolen")
		if err != nil {
			t.Fatal(err)
		}
		got := after.Receipt
		if got == nil || got.Final || len(got.Answers) != 3 || !got.Answers[0].No || !got.Answers[1].No || got.Answers[2].No ||
			got.Answers[2].Problem == "" || !slices.Equal(got.Late, []string{"https://c"}) {
			t.Fatalf("got receipt %+v, want a and b refusing and c away", got)
		}
		if b := got.Answers[1]; b.AfterMillis < 200 || b.Tries < 2 || b.By != breakglass.RefusedByRBAC {
			t.Errorf("got answer %+v, want the first no after 200 ms and some tries", b)
		}
		if len(got.Limits) < 3 {
			t.Errorf("got limits %q, want what revocation cannot reach", got.Limits)
		}
		time.Sleep(3 * time.Minute) // still away: nothing new is recorded
		if k := kinds(t, s, r.ID); countOf(k, "receipt") != 1 {
			t.Errorf("got %q, want one receipt while nothing changes", k)
		}
		p.set(func(p *servers) { p.away["https://c"] = false; p.refuse["https://c"] = now })
		time.Sleep(time.Minute)
		after, err = s.Service.Get(t.Context(), r.ID)
		if err != nil || !after.Receipt.Final || !after.Receipt.Answers[2].No ||
			after.Receipt.Answers[0].AfterMillis != got.Answers[0].AfterMillis || !slices.Equal(after.Receipt.Late, got.Late) {
			t.Errorf("got receipt %+v (%v), want it final, the first times kept, and that c's time is that of its outage", after.Receipt, err)
		}
		asked := p.asked
		time.Sleep(time.Hour)
		if p.asked != asked {
			t.Error("it is asked on after the last no")
		}
		s.Check()
	})
}

func TestServerThatNeverSaysNoIsToldAndEndsWithTheCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &servers{names: []string{"https://a"}, refuse: map[string]time.Time{}}
		s := bgtest.New(t, bgtest.Options{Config: func(c *bgtest.Config) { c.Prover = p }})
		r := s.Grant("alice", "group")
		_, csr := bgtest.NewCSR()
		if _, err := s.Claim("alice", r.ID, csr); err != nil {
			t.Fatal(err)
		}
		after, err := s.Service.Revoke(t.Context(), byKey("carol"), r.ID, "laptop stolen")
		if err != nil || after.Receipt == nil || after.Receipt.Final || !after.Receipt.Answers[0].StillAllows() {
			t.Fatalf("got %+v, %v; want a receipt that says it is still let in", after.Receipt, err)
		}
		if !slices.ContainsFunc(after.Receipt.Limits, func(l string) bool { return strings.Contains(l, "group mode") }) {
			t.Errorf("got limits %q, want group mode named", after.Receipt.Limits)
		}
		time.Sleep(11 * time.Minute)
		after, err = s.Service.Get(t.Context(), r.ID)
		if err != nil || !after.Receipt.Final || after.Receipt.Answers[0].No {
			t.Errorf("got receipt %+v (%v), want it final at the certificate's end, without a no", after.Receipt, err)
		}
		if open, err := s.Service.Open(t.Context()); err != nil || len(open) != 0 {
			t.Errorf("got %d open requests (%v), want none", len(open), err)
		}
		s.Check()
	})
}

func countOf(list []string, x string) (n int) {
	for _, y := range list {
		if y == x {
			n++
		}
	}
	return n
}

func TestApprovedGrantIsRevokedBeforeItIsClaimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bgtest.New(t, bgtest.Options{Policy: bgtest.Policy() + careful})
		r := s.Grant("alice", "admin")
		after, err := s.Service.Revoke(t.Context(), byKey("erin"), r.ID, "not needed any more")
		if err != nil {
			t.Fatal(err)
		}
		wantState(t, after, breakglass.StateRevoked)
		_, csr := bgtest.NewCSR()
		if _, err := s.Claim("alice", r.ID, csr); err == nil {
			t.Error("a revoked grant gave a certificate")
		}
		if s.CA.Calls() != 0 {
			t.Errorf("%d signing calls for a revoked grant", s.CA.Calls())
		}
		s.Check()
	})
}

// Respond: security may revoke what it does not approve; mallory nothing.
func TestRespondersRevokeAndOthersDoNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := strings.Replace(bgtest.Policy(), "approvals: {count: 2, from: [sre, security]}\n    reason: {min: 10}\n    risk: low",
			"approvals: {count: 2, from: [sre]}\n    reason: {min: 10}\n    risk: low", 1)
		s := bgtest.New(t, bgtest.Options{Policy: policy + careful})
		r := s.Ask(byKey("alice"), "scoped")
		s.Approve(byKey("bob"), r)
		s.Approve(byKey("dave"), r)
		_, csr := bgtest.NewCSR()
		if _, err := s.Claim("alice", r.ID, csr); err != nil {
			t.Fatal(err)
		}
		_, err := s.Service.Revoke(t.Context(), byKey("mallory"), r.ID, "because I can")
		wantRefusal(t, err, "not-approver")
		if _, err := s.Service.Revoke(t.Context(), byKey("carol"), r.ID, "seen strange things"); err != nil {
			t.Errorf("a responder's revocation: %v", err)
		}
		s.Check()
	})
}

func TestRevokeAllEndsWhatIsLiveAndSaysWhatItLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bgtest.New(t, bgtest.Options{Policy: bgtest.Policy() + careful})
		a, b := active(t, s, "alice"), active(t, s, "bob")
		approved, pending := s.Grant("dave", "group"), s.Ask(byKey("dave"), "admin")
		issuing := s.Grant("alice", "admin")
		s.CA.OnSign = func(breakglass.Order) (bool, error) { time.Sleep(500 * time.Millisecond); return true, nil }
		done := make(chan error, 1)
		go func() {
			_, csr := bgtest.NewCSR()
			_, err := s.Claim("alice", issuing.ID, csr)
			done <- err
		}()
		time.Sleep(100 * time.Millisecond)
		for _, bad := range []struct{ who, cluster, reason, code string }{
			{"mallory", "c1", "", "reason"}, {"carol", "c9", "stolen laptops", "unknown-cluster"}, {"carol", "c1", " ", "reason"},
		} {
			_, err := s.Service.RevokeAll(t.Context(), byKey(bad.who), bad.cluster, bad.reason)
			wantRefusal(t, err, bad.code)
		}
		got, err := s.Service.RevokeAll(t.Context(), byKey("mallory"), "c1", "chaos is a ladder")
		if err != nil || len(got.Revoked) != 0 || len(got.Left) != 4 {
			t.Errorf("mallory: got %+v, %v; want everything left alone", got, err)
		}
		got, err = s.Service.RevokeAll(t.Context(), byKey("carol"), "c1", "control plane compromised")
		if err != nil || len(got.Left) != 0 || len(got.Revoked) != 4 {
			t.Fatalf("got %+v, %v; want four revoked", got, err)
		}
		<-done
		for _, r := range []*breakglass.Request{a, b, approved, issuing} {
			after, err := s.Service.Get(t.Context(), r.ID)
			if err != nil {
				t.Fatal(err)
			}
			wantState(t, after, breakglass.StateRevoked)
			if s.Cluster.Has(r.ID) {
				t.Errorf("%s still has its binding", r.ID)
			}
		}
		after, err := s.Service.Get(t.Context(), pending.ID)
		if err != nil {
			t.Fatal(err)
		}
		wantState(t, after, breakglass.StatePending)
		s.Check()
	})
}

func TestSessionIsExaminedAfterItsEndAndStaysTouchedUntilClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &examiner{items: evil()}
		s := bgtest.New(t, bgtest.Options{Policy: bgtest.Policy() + careful, Config: func(c *bgtest.Config) { c.Examiner = e }})
		r := active(t, s, "alice")
		if !slices.Equal(e.before, []string{r.ID}) {
			t.Errorf("got %q remembered before, want %s", e.before, r.ID)
		}
		_, err := s.Service.Close(t.Context(), byKey("alice"), r.ID, "restarted etcd on node 3")
		wantRefusal(t, err, "still-active")
		time.Sleep(10*time.Minute + 30*time.Second)
		if k := kinds(t, s, r.ID); slices.Contains(k, "swept") {
			t.Error("examined before late audit events could arrive")
		}
		time.Sleep(time.Minute)
		after, err := s.Service.Get(t.Context(), r.ID)
		if err != nil || after.Session == nil || after.Swept == nil || !after.Touched() || !after.Unacknowledged() {
			t.Fatalf("got %+v, %v; want it examined, touched and unacknowledged", after, err)
		}
		touched, err := s.Service.Touched(t.Context())
		left, err2 := s.Service.Unacknowledged(t.Context())
		if err != nil || err2 != nil || len(touched) != 1 || len(left) != 1 {
			t.Errorf("got %d touched, %d unacknowledged (%v, %v), want one each", len(touched), len(left), err, err2)
		}
		_, err = s.Service.Acknowledge(t.Context(), byKey("alice"), r.ID, after.Swept.Digest(), "")
		wantRefusal(t, err, "own-session")
		_, err = s.Service.Acknowledge(t.Context(), byKey("mallory"), r.ID, after.Swept.Digest(), "")
		wantRefusal(t, err, "not-approver")
		_, err = s.Service.Acknowledge(t.Context(), byKey("erin"), r.ID, "", "")
		wantRefusal(t, err, "stale")
		_, err = s.Service.Close(t.Context(), byKey("bob"), r.ID, "restarted etcd on node 3")
		wantRefusal(t, err, "not-yours")
		_, err = s.Service.Close(t.Context(), byKey("alice"), r.ID, "done")
		wantRefusal(t, err, "note")
		if _, err := s.Service.Acknowledge(t.Context(), byKey("erin"), r.ID, after.Swept.Digest(), "removed it by hand"); err != nil {
			t.Error(err)
		}
		after, err = s.Service.Close(t.Context(), byKey("alice"), r.ID, "restarted etcd on node 3")
		if err != nil || after.Touched() || after.Closed.Reason != "restarted etcd on node 3" {
			t.Errorf("got %+v, %v; want it closed with its note", after.Closed, err)
		}
		if _, err := s.Service.Close(t.Context(), byKey("alice"), r.ID, "and deleted a binding"); err == nil ||
			!strings.Contains(err.Error(), "what you wrote was not recorded") {
			t.Errorf("a second, other note: %v", err)
		}
		if _, err := s.Service.Acknowledge(t.Context(), byKey("carol"), r.ID, after.Swept.Digest(), "seen too"); err == nil ||
			!strings.Contains(err.Error(), "by erin") {
			t.Errorf("a second acknowledgement: %v", err)
		}
		after, err = s.Service.Get(t.Context(), r.ID)
		must(t, err)
		if again, err := s.Service.Close(t.Context(), byKey("alice"), r.ID, "restarted etcd on node 3"); err != nil || again.Rev != after.Rev {
			t.Errorf("closing twice: %v, want no second entry", err)
		}
		if open, err := s.Service.Open(t.Context()); err != nil || len(open) != 0 {
			t.Errorf("got %d open requests (%v), want none", len(open), err)
		}
		s.Check()
		// Looked at again: the same finding stays acknowledged, another one does not.
		if after, err = s.Service.Examine(t.Context(), byKey("carol"), r.ID); err != nil || after.Unacknowledged() {
			t.Errorf("the same finding again: %v, unacknowledged %t", err, after.Unacknowledged())
		}
		seen := after.Swept.Digest()
		e.set(func(e *examiner) { e.items[0].Object = "ClusterRoleBinding worse" })
		if after, err = s.Service.Examine(t.Context(), byKey("carol"), r.ID); err != nil || !after.Unacknowledged() {
			t.Errorf("another finding: %v, unacknowledged %t", err, after.Unacknowledged())
		}
		_, err = s.Service.Acknowledge(t.Context(), byKey("erin"), r.ID, seen, "")
		wantRefusal(t, err, "stale")
		if _, err := breakglass.Follow(after, time.Now(), breakglass.Acknowledged{By: byKey("erin"), Seen: seen}); err == nil {
			t.Error("the ledger may say that a sweep was acknowledged which was not the last")
		}
		for _, note := range []string{"", " ", "seen"} { // something critical is there: it says why that may stay
			_, err = s.Service.Acknowledge(t.Context(), byKey("erin"), r.ID, after.Swept.Digest(), note)
			wantRefusal(t, err, "note")
		}
		if after, err = s.Service.Acknowledge(t.Context(), byKey("erin"), r.ID, after.Swept.Digest(), "stays until Monday"); err != nil ||
			after.Unacknowledged() {
			t.Errorf("what was seen is not acknowledged: %v", err)
		}
		s.Check()
	})
}

// Acknowledgements in ledgers that exist name sweeps by these digests.
func TestDigestOfASweepStaysWhatItIs(t *testing.T) {
	s := &breakglass.Swept{Items: []breakglass.Residue{{Rule: "clusterrolebinding-created", Severity: finding.Critical,
		Object: "ClusterRoleBinding evil", What: "it was made", Found: "both", Exists: "yes"}}, More: 2,
		Sources: []string{"audit"}, Gaps: []string{"secrets"}}
	if got := s.Digest(); got != "84d590f662785a7245d813a1954056b9cb47e0474ff5cfaff2842db44e576b6e" {
		t.Errorf("got %s", got)
	}
	if got := (*breakglass.Swept)(nil).Digest(); got != "" {
		t.Errorf("no sweep has the digest %q", got)
	}
}

func TestExaminationThatFailsIsTriedAgainAndThenMadeWithGaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &examiner{err: errors.New("the cluster is down")}
		s := bgtest.New(t, bgtest.Options{Config: func(c *bgtest.Config) { c.Examiner = e }})
		r := active(t, s, "alice")
		time.Sleep(time.Hour)
		if k, calls := kinds(t, s, r.ID), e.made(); slices.Contains(k, "swept") || len(calls) < 10 {
			t.Errorf("got %q after %d tries, want no sweep yet and many tries", k, len(calls))
		}
		time.Sleep(15 * time.Minute)
		if k, calls := kinds(t, s, r.ID), e.made(); countOf(k, "swept") != 1 || !calls[len(calls)-1] {
			t.Errorf("got %q, want one sweep, made for the last time", k)
		}
		s.Check()
	})
}

func TestOverdueClosingIsRecordedOnceAndRaisesTheNextQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bgtest.New(t, bgtest.Options{Policy: bgtest.Policy() + careful})
		r := active(t, s, "alice")
		next := s.Ask(byKey("alice"), "admin")
		if next.Ask.Quorum.Count != 2 || next.Ask.Raised != nil {
			t.Errorf("got a quorum of %d (%v) while nothing is overdue, want 2", next.Ask.Quorum.Count, next.Ask.Raised)
		}
		time.Sleep(26 * time.Hour)
		if k := kinds(t, s, r.ID); countOf(k, "overdue") != 1 {
			t.Errorf("got %q, want one overdue entry", k)
		}
		if k := s.Told.Kinds(r.ID); !slices.Contains(k, "overdue/v1") {
			t.Errorf("people were told %q, want the overdue closing", k)
		}
		next = s.Ask(byKey("alice"), "admin")
		if next.Ask.Quorum.Count != 3 || !slices.Equal(next.Ask.Raised, []string{r.ID}) {
			t.Errorf("got a quorum of %d (%v), want 3 because of %s", next.Ask.Quorum.Count, next.Ask.Raised, r.ID)
		}
		if other := s.Ask(byKey("bob"), "admin"); other.Ask.Quorum.Count != 2 {
			t.Errorf("bob's quorum is %d because alice owes a note", other.Ask.Quorum.Count)
		}
		ask := breakglass.Ask{Profile: "admin", Reason: "etcd quorum lost, API 5xx"}
		if dry, err := s.Service.CheckAsk(t.Context(), byKey("alice"), ask); err != nil || dry.Quorum.Count != 3 {
			t.Errorf("a dry run says %d (%v), want 3", dry.Quorum.Count, err)
		}
		if _, err := s.Service.Close(t.Context(), byKey("alice"), r.ID, "restarted etcd on node 3"); err != nil {
			t.Fatal(err)
		}
		if next = s.Ask(byKey("alice"), "group"); next.Ask.Quorum.Count != 2 {
			t.Errorf("got a quorum of %d after closing, want 2", next.Ask.Quorum.Count)
		}
		s.Check()
	})
}

// Governance must not shut the emergency door: where nobody else is left to approve, the quorum stays.
func TestOverdueClosingNeverMakesAQuorumThatCannotBeMet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := strings.Replace(bgtest.Policy(), "members: [carol, erin]", "members: [carol]", 1)
		policy = strings.Replace(policy, "members: [alice, bob, dave]", "members: [alice, bob]", 1)
		s := bgtest.New(t, bgtest.Options{Policy: policy + careful})
		r := s.Ask(byKey("alice"), "admin")
		s.Approve(byKey("bob"), r)
		s.Approve(byKey("carol"), r)
		_, csr := bgtest.NewCSR()
		if _, err := s.Claim("alice", r.ID, csr); err != nil {
			t.Fatal(err)
		}
		time.Sleep(26 * time.Hour)
		if next := s.Ask(byKey("alice"), "admin"); next.Ask.Quorum.Count != 2 {
			t.Errorf("got a quorum of %d, which nobody could meet", next.Ask.Quorum.Count)
		}
		s.Check()
	})
}

func TestGrantsOfTheFirstReleaseNeedNoAftercare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bgtest.New(t, bgtest.Options{})
		r := active(t, s, "alice")
		if r.Ask.Aftercare != nil {
			t.Errorf("got aftercare %+v where nothing is configured", r.Ask.Aftercare)
		}
		s.RestartWith(bgtest.Policy() + careful)
		time.Sleep(48 * time.Hour)
		if k := kinds(t, s, r.ID); slices.Contains(k, "overdue") || slices.Contains(k, "swept") {
			t.Errorf("got %q: an old grant got new duties", k)
		}
		s.Check()
	})
}

func TestFindingsOpenOnceAndAreOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bgtest.New(t, bgtest.Options{})
		f := finding.Opened{Key: "audit-silent/c1/https://a", Check: "audit", Cluster: "c1", Severity: finding.Critical,
			What: "no audit events from https://a", Next: "look at it"}
		size := s.Ledger.Size()
		for range 3 {
			must(t, s.Service.Findings.Find(t.Context(), f))
		}
		if got := s.Ledger.Size() - size; got != 1 {
			t.Errorf("got %d entries for one finding, want 1", got)
		}
		s.Restart()
		if got := s.Service.Findings.Open(); len(got) != 1 || got[0].Opened != f {
			t.Errorf("got %+v after a restart, want the finding", got)
		}
		other := f
		other.Key, other.Severity = "audit-silent/c1/https://b", finding.Info
		must(t, s.Service.Findings.ReportAll(t.Context(), "audit", "c1", false, []finding.Opened{other}))
		if got := s.Service.Findings.Open(); len(got) != 2 {
			t.Errorf("got %+v after a check that did not see everything, want both", got)
		}
		must(t, s.Service.Findings.ReportAll(t.Context(), "audit", "c1", true, []finding.Opened{other}))
		if got := s.Service.Findings.Open(); len(got) != 1 || got[0].Key != other.Key {
			t.Errorf("got %+v after the check changed its mind, want only the second", got)
		}
		must(t, s.Service.Findings.Close(t.Context(), other.Key, ""))
		must(t, s.Service.Findings.Close(t.Context(), other.Key, ""))
		refused := 0
		for i := range 2000 {
			g := f
			g.Key = fmt.Sprint("flood/", i)
			if err := s.Service.Findings.Find(t.Context(), g); errors.Is(err, finding.ErrTooMany) {
				refused++
			} else {
				must(t, err)
			}
		}
		if refused < 1900 {
			t.Errorf("%d findings of a flood were refused", refused)
		}
		if got := len(s.Service.Findings.Open()); got > 40 {
			t.Errorf("%d findings were recorded in a flood", got)
		}
		s.Check()
	})
}

func TestCertificateThatNobodyOrderedIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signed := &inventory{}
		s := bgtest.New(t, bgtest.Options{Config: func(c *bgtest.Config) { c.Inventory = signed }})
		signed.ca.Store(s.CA)
		active(t, s, "alice")
		lost := s.Grant("bob", "admin")
		s.CA.OnSign = func(breakglass.Order) (bool, error) { return true, errors.New("the answer was lost") }
		_, csr := bgtest.NewCSR()
		s.Claim("bob", lost.ID, csr)
		s.CA.OnSign = nil
		time.Sleep(30 * time.Minute)
		if got := s.Service.Findings.Open(); len(got) != 0 {
			t.Fatalf("got findings %+v, want none: every certificate is accounted for", got)
		}
		_, csr = bgtest.NewCSR()
		parsed, err := breakglass.ParseCSR(csr)
		must(t, err)
		_, err = s.CA.Sign(t.Context(), breakglass.Order{Request: "x", Cluster: "c1", CommonName: "breakglass:alice:bg-0000-000",
			CSR: parsed.Raw, TTL: time.Minute})
		must(t, err)
		time.Sleep(11 * time.Minute)
		got := s.Service.Findings.Open()
		if len(got) != 1 || got[0].Severity != finding.Critical || !strings.HasPrefix(got[0].Key, "unknown-certificate/c1/") {
			t.Errorf("got findings %+v, want the shadow certificate", got)
		}
	})
}

// Whoever signs many certificates behind the daemon's back hides none of them by their number.
func TestFloodOfUnknownCertificatesHidesNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signed := &inventory{}
		s := bgtest.New(t, bgtest.Options{Config: func(c *bgtest.Config) { c.Inventory = signed }})
		signed.ca.Store(s.CA)
		for n := range 100 { // three times what may be recorded in a minute
			_, csr := bgtest.NewCSR()
			parsed, err := breakglass.ParseCSR(csr)
			must(t, err)
			_, err = s.CA.Sign(t.Context(), breakglass.Order{Request: "x", Cluster: "c1",
				CommonName: fmt.Sprintf("breakglass:alice:bg-0000-%03d", n), CSR: parsed.Raw, TTL: 24 * time.Hour})
			must(t, err)
		}
		time.Sleep(time.Hour)
		if got := len(s.Service.Findings.Open()); got != 100 {
			t.Errorf("%d of 100 certificates are found", got)
		}
	})
}

// inventory lists what an authority has signed; the authority is known only once the system runs.
type inventory struct{ ca atomic.Pointer[memca.CA] }

func (i *inventory) Scan(_ context.Context, _ string, want func(string) bool, visit func(*x509.Certificate)) error {
	ca := i.ca.Load()
	if ca == nil {
		return nil
	}
	for _, c := range ca.Issued() {
		if want(breakglass.Serial(c)) {
			visit(c)
		}
	}
	return nil
}

func TestCanaryIsKnownByItsFingerprintAndCannotBeFoundTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bgtest.New(t, bgtest.Options{})
		print := strings.Repeat("ab", 32)
		if err := s.Service.OrderCanary(t.Context(), "n1", breakglass.CanaryOrdered{Cluster: "c1", CommonName: "system:admin"}); err == nil {
			t.Error("a canary may have any name")
		}
		must(t, s.Service.OrderCanary(t.Context(), "n1", breakglass.CanaryOrdered{Cluster: "c1", CommonName: policy.CanaryPrefix + "c1:n1",
			SPKI: "00"}))
		if err := s.Service.OrderCanary(t.Context(), "n1", breakglass.CanaryOrdered{Cluster: "c1", CommonName: policy.CanaryPrefix +
			"c1:n1"}); !errors.Is(err, ledger.ErrConflict) {
			t.Errorf("ordering it twice: %v, want a conflict", err)
		}
		must(t, s.Service.FinishCanary(t.Context(), "n1", breakglass.CanaryDone{Fingerprint: print, Accepted: []string{}, Refused: []string{}}))
		if r, known, err := s.Service.ByFingerprint(t.Context(), print); r != nil || !known || err != nil {
			t.Errorf("got %v, %t, %v; want it known and no request", r, known, err)
		}
		must(t, s.Service.OrderCanary(t.Context(), "n2", breakglass.CanaryOrdered{Cluster: "c1", CommonName: policy.CanaryPrefix + "c1:n2",
			SPKI: "00"}))
		for _, want := range []bool{true, false} { // a crash leaves it without an outcome: for ten minutes it is under way
			if got, err := s.Service.CanaryUnderWay(t.Context(), "c1", policy.CanaryPrefix+"c1:n2"); err != nil || got != want {
				t.Errorf("under way: %v (%v), want %v", got, err, want)
			}
			time.Sleep(11 * time.Minute)
		}
		must(t, s.Service.Findings.RecordCheck(t.Context(), finding.CheckRun{Check: "ca", OK: true, Verdict: "fine"}))
		s.Check()
	})
}

// A finalizer on the binding, or a cluster that is away, must not keep the report and the sweep from being made, nor the proof from
// saying that the certificate is still let in.
func TestBindingThatStaysKeepsNothingElseWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &examiner{items: evil()}
		p := &servers{names: []string{"https://a"}, refuse: map[string]time.Time{}}
		s := bgtest.New(t, bgtest.Options{Policy: bgtest.Policy() + careful, Config: func(c *bgtest.Config) { c.Examiner, c.Prover = e, p }})
		s.Cluster.SetUnbind(func(string) (bool, error) {
			return false, errors.New("ClusterRoleBinding x is still there (finalizers)")
		})
		expires, revoked := active(t, s, "alice"), active(t, s, "bob")
		after, err := s.Service.Revoke(t.Context(), byKey("carol"), revoked.ID, "laptop stolen")
		if err != nil || after.Receipt == nil || after.Receipt.Final || !after.Receipt.Answers[0].StillAllows() {
			t.Fatalf("got receipt %+v (%v), want one that says it is still let in", after.Receipt, err)
		}
		time.Sleep(15 * time.Minute)
		for _, r := range []*breakglass.Request{expires, revoked} {
			k := kinds(t, s, r.ID)
			if !slices.Contains(k, "swept") || !slices.Contains(k, "session-reported") {
				t.Errorf("got %q, want the session reported and swept though its binding stays", k)
			}
		}
		if k := kinds(t, s, expires.ID); !slices.Contains(k, "ended") {
			t.Errorf("got %q, want people told that it has ended", k)
		}
		if n := len(e.made()); n > 4 {
			t.Errorf("%d examinations of two sessions", n)
		}
		got := s.Service.Findings.Open()
		if len(got) != 2 || got[0].Severity != finding.Critical || got[0].Request == "" ||
			!strings.Contains(got[0].What, "finalizers") {
			t.Fatalf("got findings %+v, want one critical for each binding that stays", got)
		}
		s.Cluster.SetUnbind(nil)
		p.set(func(p *servers) { p.refuse["https://a"] = time.Now() })
		time.Sleep(time.Minute)
		if got := s.Service.Findings.Open(); len(got) != 0 {
			t.Errorf("got %+v after the bindings are gone, want nothing", got)
		}
		for _, r := range []*breakglass.Request{expires, revoked} {
			if k := kinds(t, s, r.ID); countOf(k, "unbound") != 1 || countOf(k, "swept") != 1 {
				t.Errorf("got %q, want it unbound once and swept once", k)
			}
		}
		s.Check()
	})
}

// Two things take a binding away, and one of them can fail after the other has done it: nothing would end a finding of that.
func TestBindingThatSomebodyElseTookAwayIsNoFinding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bgtest.New(t, bgtest.Options{})
		r := active(t, s, "alice")
		if _, err := s.Service.Revoke(t.Context(), byKey("carol"), r.ID, "laptop stolen"); err != nil {
			t.Fatal(err)
		}
		must(t, s.Service.ReportStuckBinding(t.Context(), r, errors.New("the answer came too late")))
		if got := s.Service.Findings.Open(); len(got) != 0 {
			t.Errorf("got %+v, want nothing open: the binding is gone", got)
		}
		s.Check()
	})
}

// An examination waits for its cluster, and the right of somebody else in another cluster does not wait for it.
func TestSlowExaminationDelaysNoOtherGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &examiner{}
		s := bgtest.New(t, bgtest.Options{Policy: bgtest.Policy() + careful,
			Config: func(c *bgtest.Config) { c.Examiner = slowly{e, 75 * time.Second} }})
		r := active(t, s, "alice")
		if _, err := s.Service.Revoke(t.Context(), byKey("carol"), r.ID, "done early"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(65 * time.Second) // its examination is under way
		var tries atomic.Int32
		s.Cluster.SetBind(func(breakglass.Binding) (bool, error) {
			if tries.Add(1) == 1 { // that of the claim: only the work of Run tries again
				return false, errors.New("etcd has no leader")
			}
			return true, nil
		})
		other := active(t, s, "bob")
		time.Sleep(3 * time.Second)
		if tries.Load() < 2 || !s.Cluster.Has(other.ID) || slices.Contains(kinds(t, s, r.ID), "swept") {
			t.Errorf("the right of one grant waits for the examination of another: it was bound %d times", tries.Load())
		}
		time.Sleep(2 * time.Minute)
		if !slices.Contains(kinds(t, s, r.ID), "swept") {
			t.Error("the slow examination was never done")
		}
		s.Check()
	})
}

// slowly is an examiner that takes its time.
type slowly struct {
	*examiner
	takes time.Duration
}

func (e slowly) Examine(ctx context.Context, r *breakglass.Request, final bool) (breakglass.SessionReported, breakglass.Swept, error) {
	select {
	case <-ctx.Done():
		return breakglass.SessionReported{}, breakglass.Swept{}, ctx.Err()
	case <-time.After(e.takes):
	}
	return e.examiner.Examine(ctx, r, final)
}

// A revocation that comes while the right is being bound is told "refused" before the binding exists. The certificate is then not
// handed out, and the binding does not stay.
func TestRevocationWhileTheRightIsBoundHandsNothingOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &servers{names: []string{"https://a"}, refuse: map[string]time.Time{"https://a": time.Now()}}
		s := bgtest.New(t, bgtest.Options{Policy: bgtest.Policy() + careful, Config: func(c *bgtest.Config) { c.Prover = p }})
		r := s.Grant("alice", "admin")
		s.Cluster.SetBind(func(breakglass.Binding) (bool, error) { time.Sleep(800 * time.Millisecond); return true, nil })
		revoked := make(chan error, 1)
		go func() {
			time.Sleep(300 * time.Millisecond)
			_, err := s.Service.Revoke(t.Context(), byKey("carol"), r.ID, "laptop stolen")
			revoked <- err
		}()
		_, csr := bgtest.NewCSR()
		_, err := s.Claim("alice", r.ID, csr)
		wantRefusal(t, err, "over")
		if err := <-revoked; err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		if s.Cluster.Has(r.ID) {
			t.Error("the binding stays after the revocation")
		}
		s.Check()
	})
}

// A certificate that the ledger does not know stays in the authority's store, and what was once done stays in the audit log: no check
// finds them gone. A responder looks into them and says so, once.
func TestRespondersSettleWhatNoCheckEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signed := &inventory{}
		s := bgtest.New(t, bgtest.Options{Policy: bgtest.Policy() + careful, Config: func(c *bgtest.Config) {
			c.Inventory,
				c.Reconcile = signed, time.Minute
		}})
		signed.ca.Store(s.CA)
		_, csr := bgtest.NewCSR()
		parsed, err := breakglass.ParseCSR(csr)
		must(t, err)
		_, err = s.CA.Sign(t.Context(), breakglass.Order{Request: "x", Cluster: "c1", CommonName: "breakglass:alice:bg-0000-000",
			CSR: parsed.Raw, TTL: time.Hour})
		must(t, err)
		time.Sleep(2 * time.Minute)
		found := s.Service.Findings.Open()
		if len(found) != 1 {
			t.Fatalf("got %+v, want the certificate that nobody ordered", found)
		}
		alarm := finding.Opened{Key: "audit-silent/c1/https://a", Check: "audit", Cluster: "c1", Severity: finding.Critical,
			What: "no audit events from https://a", Next: "look at it"}
		must(t, s.Service.Findings.Find(t.Context(), alarm))
		for _, bad := range []struct{ who, key, note, code string }{
			{"bob", found[0].Key, "signed by hand in the exercise", "not-responder"},
			{"carol", alarm.Key, "switched off for maintenance", "not-by-hand"},
			{"carol", "", "switched off for maintenance", "not-by-hand"},
			{"carol", found[0].Key, "ok", "note"},
			{"carol", found[0].Key + "0", "signed by hand in the exercise", "no-finding"},
			{"carol", "unknown-name/", "signed by hand in the exercise", "no-finding"},
		} {
			_, err := s.Service.Findings.SettleByHand(t.Context(), byKey(bad.who), bad.key, s.Ledger.Size(), bad.note)
			wantRefusal(t, err, bad.code)
		}
		if n, err := s.Service.Findings.SettleByHand(t.Context(), byKey("carol"), found[0].Key, found[0].Seq,
			"signed by hand in the exercise"); err != nil || n != 1 {
			t.Fatalf("settled %d (%v), want 1", n, err)
		}
		time.Sleep(5 * time.Minute)
		s.Restart() // and everything is looked at again
		time.Sleep(5 * time.Minute)
		if got := s.Service.Findings.Open(); len(got) != 1 || got[0].Key != alarm.Key {
			t.Errorf("got %+v, want the certificate settled for good, and the alarm open", got)
		}
		must(t, s.Service.Findings.Find(t.Context(), found[0].Opened)) // it was used
		if got := s.Service.Findings.Open(); len(got) != 2 {
			t.Errorf("got %+v, want it found again when it is used again", got)
		}
		bgtest.CheckLedger(t, s.Path(), s.Verifier)
	})
}

// A flood of one kind of finding takes no room from another.
func TestFloodedKindHidesNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bgtest.New(t, bgtest.Options{Policy: bgtest.Policy() + careful})
		full := 0
		for i := 0; full == 0 && i < 2000; i++ {
			err := s.Service.Findings.Find(t.Context(), finding.Opened{Key: fmt.Sprint("unknown-name/c1/breakglass:x", i), Check: "audit",
				Cluster: "c1", Severity: finding.Critical, What: "x", Next: "y"})
			if errors.Is(err, finding.ErrTooMany) {
				full = i
			} else {
				must(t, err)
			}
			time.Sleep(3 * time.Second)
		}
		if full != 1000 {
			t.Fatalf("the kind was full at %d findings, want 1000", full)
		}
		must(t, s.Service.Findings.Find(t.Context(), finding.Opened{Key: "audit-silent/c1/https://a", Check: "audit", Cluster: "c1",
			Severity: finding.Critical, What: "silent", Next: "look"}))
		// What carol was shown before the last of them came is settled, and that one is not.
		last := int64(0)
		for _, f := range s.Service.Findings.Open() {
			if strings.HasPrefix(f.Key, "unknown-name/") {
				last = max(last, f.Seq)
			}
		}
		if n, err := s.Service.Findings.SettleByHand(t.Context(), byKey("carol"), "unknown-name/c1/", last-1,
			"all of one load test"); err != nil ||
			n != 999 {
			t.Errorf("settled %d (%v), want all that were shown at once", n, err)
		}
		if got := s.Service.Findings.Open(); len(got) != 2 {
			t.Errorf("%d findings are open, want the alarm and the one that came since", len(got))
		}
		s.Check()
	})
}
