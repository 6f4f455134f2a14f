package breakglass_test

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/record"
)

// model is the product page in forty lines, written without looking at the machine: what one request of the kit's profile
// "admin" must be after any sequence of commands. Times are seconds.
type model struct {
	yes     []string // who approves at present, in order
	at      map[string]time.Time
	asked   time.Time
	ended   breakglass.State // set by deny, withdraw, revoke, a failed claim
	denier  string           // denying again is no error for whoever denied
	claimed bool
	until   time.Time // of the certificate
}

// quorum says whether the present approvals are enough, and since when: since the one that completed them.
func (m *model) quorum() (bool, time.Time) {
	security := false
	for i, p := range m.yes {
		security = security || p == "carol" || p == "erin"
		if i >= 1 && security {
			return true, m.at[p]
		}
	}
	return false, time.Time{}
}

func (m *model) state(now time.Time) breakglass.State {
	enough, since := m.quorum()
	switch {
	case m.ended != "":
		return m.ended
	case m.claimed && now.Before(m.until):
		return breakglass.StateActive
	case m.claimed:
		return breakglass.StateExpired
	case enough && now.Before(since.Add(10*time.Minute)):
		return breakglass.StateApproved
	case enough:
		return breakglass.StateLapsed
	case now.Before(m.asked.Add(30 * time.Minute)):
		return breakglass.StatePending
	}
	return breakglass.StateLapsed
}

func (m *model) open(now time.Time) bool {
	st := m.state(now)
	return st == breakglass.StatePending || st == breakglass.StateApproved
}

// TestServiceIsItsModel drives a whole system and the model with the same random commands by random people at random times,
// with restarts in between, and compares what is allowed and what state follows.
func TestServiceIsItsModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		// Drawn outside the bubble: a bubble may not touch channels from outside it.
		type step struct {
			cmd, who string
			wait     time.Duration
			fault    int
		}
		n := rapid.IntRange(1, 14).Draw(rt, "steps")
		steps := make([]step, n)
		for i := range steps {
			steps[i] = step{
				cmd: rapid.SampledFrom([]string{"approve", "approve", "approve", "claim", "claim", "take-back", "deny", "withdraw", "revoke",
					"restart"}).Draw(rt, "cmd"),
				who:   rapid.SampledFrom(append([]string{"alice", "carol"}, bgtest.People...)).Draw(rt, "who"),
				wait:  time.Duration(rapid.SampledFrom([]int{0, 1, 1, 30, 299, 600, 601, 1800}).Draw(rt, "wait")) * time.Second,
				fault: rapid.IntRange(0, 9).Draw(rt, "fault"),
			}
		}
		synctest.Test(t, func(t *testing.T) {
			s := bgtest.New(t, bgtest.Options{})
			r := s.Ask(byKey("alice"), "admin")
			m := &model{asked: r.At, at: map[string]time.Time{}}
			_, csr := bgtest.NewCSR()
			for i, st := range steps {
				time.Sleep(st.wait)
				now := time.Now()
				before := m.state(now)
				var err error
				allowed := false
				switch st.cmd {
				case "restart":
					s.Restart()
					continue
				case "approve":
					seen, gerr := s.Service.Get(t.Context(), r.ID) // the signature counts approvals that were taken back since
					must(t, gerr)
					_, err = s.Service.Approve(t.Context(), byKey(st.who), r.ID, bgtest.Consent(byKey(st.who), seen))
					member := st.who != "mallory" && st.who != "alice"
					again := slices.Contains(m.yes, st.who)
					allowed = member && (m.open(now) || again)
					if member && m.open(now) && !again {
						m.yes = append(m.yes, st.who)
						m.at[st.who] = now
					}
				case "take-back":
					_, err = s.Service.TakeBack(t.Context(), byKey(st.who), r.ID)
					if allowed = m.open(now) && slices.Contains(m.yes, st.who); allowed {
						m.yes = slices.DeleteFunc(m.yes, func(p string) bool { return p == st.who })
					}
				case "deny":
					_, err = s.Service.Deny(t.Context(), byKey(st.who), r.ID, "not an emergency")
					allowed = st.who != "alice" && st.who != "mallory" && (m.open(now) || m.denier == st.who)
					if allowed {
						m.ended, m.denier = breakglass.StateDenied, st.who
					}
				case "withdraw":
					_, err = s.Service.Withdraw(t.Context(), byKey(st.who), r.ID, "")
					if allowed = st.who == "alice" && (m.open(now) || m.ended == breakglass.StateWithdrawn); allowed {
						m.ended = breakglass.StateWithdrawn
					}
				case "revoke":
					_, err = s.Service.Revoke(t.Context(), byKey(st.who), r.ID, "laptop stolen")
					if allowed = st.who != "mallory" && (before == breakglass.StateApproved || before == breakglass.StateActive ||
						m.ended == breakglass.StateRevoked); allowed {
						m.ended = breakglass.StateRevoked
					}
				case "claim":
					s.CA.OnSign = nil
					if st.fault == 0 {
						s.CA.OnSign = func(breakglass.Order) (bool, error) { return false, fmt.Errorf("%w: no", breakglass.ErrNotSigned) }
					}
					_, err = s.Claim(st.who, r.ID, csr)
					allowed = st.who == "alice" && (before == breakglass.StateApproved && st.fault != 0 || before == breakglass.StateActive)
					if st.who == "alice" && before == breakglass.StateApproved {
						if st.fault == 0 {
							m.ended = breakglass.StateFailed
						} else {
							m.claimed, m.until = true, now.Add(10*time.Minute).Truncate(time.Second)
						}
					}
				}
				if refused, ok := record.AsRefusal(err); allowed != (err == nil) || err != nil && !ok {
					t.Fatalf("step %d: %s by %s while %s: %v (%v), model allows it: %t", i, st.cmd, st.who, before, err, refused, allowed)
				}
				got, err := s.Service.Get(t.Context(), r.ID)
				if err != nil {
					t.Fatal(err)
				}
				if want := m.state(time.Now()); got.State(time.Now()) != want {
					t.Fatalf("step %d: after %s by %s the request is %s, the model says %s", i, st.cmd, st.who, got.State(time.Now()), want)
				}
			}
			time.Sleep(2 * time.Hour) // everything ends
			if have, err := s.Cluster.Bound(t.Context(), "c1"); err != nil || len(have) > 0 {
				t.Errorf("bindings left: %v (%v)", have, err)
			}
			if open, err := s.Service.Open(t.Context()); err != nil || len(open) > 0 {
				t.Errorf("%d requests are open for ever (%v)", len(open), err)
			}
			if s.CA.Calls() > 1 {
				t.Errorf("%d signing calls for one request", s.CA.Calls())
			}
			s.Check()
		})
		if t.Failed() {
			rt.FailNow()
		}
	})
}

// TestMachineRefusesEveryEventThatDoesNotFollow gives every kind of event to a request in every state and expects exactly the
// graph of the package comment, and that an event which is refused changes nothing.
func TestMachineRefusesEveryEventThatDoesNotFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bgtest.New(t, bgtest.Options{})
		reach := map[breakglass.State]*breakglass.Request{}
		get := func(id string) *breakglass.Request {
			r, err := s.Service.Get(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		claim := func(r *breakglass.Request) {
			_, csr := bgtest.NewCSR()
			if _, err := s.Claim(r.Ask.By.Person, r.ID, csr); err != nil && s.CA.OnSign == nil {
				t.Fatal(err)
			}
		}
		expired := s.Grant("dave", "group")
		claim(expired)
		lapsed := s.Ask(byKey("dave"), "group")
		time.Sleep(31 * time.Minute)
		denied, withdrawn := s.Ask(byKey("alice"), "group"), s.Ask(byKey("alice"), "group")
		if _, err := s.Service.Deny(t.Context(), byKey("bob"), denied.ID, "not needed"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Service.Withdraw(t.Context(), byKey("alice"), withdrawn.ID, ""); err != nil {
			t.Fatal(err)
		}
		pending, approved, active, revoked := s.Ask(byKey("alice"), "admin"), s.Grant("alice", "admin"), s.Grant("bob", "admin"),
			s.Grant("bob", "admin")
		claim(active)
		claim(revoked)
		if _, err := s.Service.Revoke(t.Context(), byKey("dave"), revoked.ID, "stolen"); err != nil {
			t.Fatal(err)
		}
		failed := s.Grant("dave", "admin")
		s.CA.OnSign = func(breakglass.Order) (bool, error) { return false, breakglass.ErrNotSigned }
		claim(failed)
		issuing := s.Grant("dave", "admin")
		s.CA.OnSign = func(breakglass.Order) (bool, error) { return false, errors.New("lost") }
		claim(issuing)
		// Three approvals, of which one is taken back: the quorum stays.
		three := s.Ask(byKey("bob"), "admin")
		for _, who := range []string{"alice", "carol", "erin"} {
			if _, err := s.Service.Approve(t.Context(), byKey(who), three.ID, bgtest.Consent(byKey(who), three)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Service.TakeBack(t.Context(), byKey("erin"), three.ID); err != nil {
			t.Fatal(err)
		}
		for st, r := range map[breakglass.State]*breakglass.Request{
			breakglass.StatePending: pending, breakglass.StateApproved: approved, breakglass.StateIssuing: issuing, breakglass.StateActive: active,
			breakglass.StateExpired: expired,
			breakglass.StateRevoked: revoked, breakglass.StateFailed: failed, breakglass.StateDenied: denied, breakglass.StateWithdrawn: withdrawn,
			breakglass.StateLapsed: lapsed,
		} {
			reach[st] = get(r.ID)
			wantState(t, reach[st], st)
		}

		events := map[string]struct {
			ev    func(r *breakglass.Request) record.Event
			after []breakglass.State // where it may follow
		}{
			"requested": {func(r *breakglass.Request) record.Event { return r.Ask }, nil},
			"approved": {func(r *breakglass.Request) record.Event {
				return breakglass.Approved{By: bySlack("erin"), Digest: r.Digest}
			}, []breakglass.State{breakglass.StatePending, breakglass.StateApproved}},
			"withdrawn approval": {func(*breakglass.Request) record.Event { return breakglass.ApprovalWithdrawn{By: byKey("carol")} },
				[]breakglass.State{breakglass.StateApproved}},
			"denied": {func(*breakglass.Request) record.Event { return breakglass.Denied{By: byKey("carol")} },
				[]breakglass.State{breakglass.StatePending, breakglass.StateApproved}},
			"withdrawn": {func(r *breakglass.Request) record.Event { return breakglass.Withdrawn{By: r.Ask.By} },
				[]breakglass.State{breakglass.StatePending, breakglass.StateApproved}},
			"claimed": {func(r *breakglass.Request) record.Event {
				return breakglass.Claimed{By: r.Ask.By, CommonName: breakglass.CommonName(r.Ask.By.Person, r.ID), Group: r.Ask.Rights.Group,
					SPKI: "00", CSR: "00", TTLSeconds: r.Ask.TTLSeconds, PublicKey: publicKey(r.Ask.By.Person),
					Signature: bgtest.SignSSH(bgtest.SSHKey(r.Ask.By.Person), breakglass.ClaimNamespace, breakglass.ClaimText(r.ID, "00"))}
			}, []breakglass.State{breakglass.StateApproved}},
			"not signed": {func(r *breakglass.Request) record.Event {
				if r.Claimed == nil {
					return breakglass.NotSigned{}
				}
				return breakglass.NotSigned{SPKI: r.Claimed.SPKI}
			}, []breakglass.State{breakglass.StateIssuing}},
			"failed": {func(*breakglass.Request) record.Event { return breakglass.Failed{Why: breakglass.FailUnknown} },
				[]breakglass.State{breakglass.StateIssuing}},
			"claimed by another": {func(r *breakglass.Request) record.Event {
				return breakglass.Claimed{By: byKey("erin"), CommonName: breakglass.CommonName(r.Ask.By.Person, r.ID)}
			}, nil},
			"approval of something else": {func(*breakglass.Request) record.Event {
				return breakglass.Approved{By: bySlack("erin"), Digest: "00"}
			}, nil},
			"not signed for another key": {func(*breakglass.Request) record.Event { return breakglass.NotSigned{SPKI: "00"} }, nil},
			// another request's certificate: never
			"issued": {func(*breakglass.Request) record.Event { return *reach[breakglass.StateActive].Issued }, nil},
			"bound": {func(r *breakglass.Request) record.Event { return breakglass.Bound{Rights: r.Ask.Rights} },
				[]breakglass.State{breakglass.StateActive, breakglass.StateRevoked}},
			"unbound": {func(*breakglass.Request) record.Event { return breakglass.Unbound{Why: breakglass.StateRevoked} },
				[]breakglass.State{breakglass.StateExpired, breakglass.StateRevoked}},
			"revoked": {func(*breakglass.Request) record.Event { return breakglass.Revoked{By: byKey("carol")} },
				[]breakglass.State{breakglass.StateApproved, breakglass.StateActive}},
			"delivered": {func(r *breakglass.Request) record.Event { return breakglass.Delivered{By: r.Ask.By} },
				[]breakglass.State{breakglass.StateActive}},
			// ended once already
			"ended lapsed":  {func(*breakglass.Request) record.Event { return breakglass.Ended{State: breakglass.StateLapsed} }, nil},
			"ended pending": {func(*breakglass.Request) record.Event { return breakglass.Ended{State: breakglass.StatePending} }, nil},
			"refused": {func(*breakglass.Request) record.Event {
				return record.Refused{By: byKey("mallory"), Command: "approve", Code: "x"}
			}, breakglass.AllStates()},
			"heartbeat": {func(*breakglass.Request) record.Event { return record.Heartbeat{} }, nil},
			"receipt":   {func(*breakglass.Request) record.Event { return breakglass.Receipt{} }, []breakglass.State{breakglass.StateRevoked}},
			"session reported": {func(*breakglass.Request) record.Event {
				return breakglass.SessionReported{Source: breakglass.SourceNone}
			},
				[]breakglass.State{breakglass.StateExpired, breakglass.StateRevoked}},
			"swept": {func(*breakglass.Request) record.Event { return breakglass.Swept{} },
				[]breakglass.State{breakglass.StateExpired, breakglass.StateRevoked}},
			// nothing was found
			"acknowledged": {func(*breakglass.Request) record.Event { return breakglass.Acknowledged{By: byKey("erin")} }, nil},
			"closed": {func(r *breakglass.Request) record.Event { return breakglass.Closed{By: r.Ask.By} },
				[]breakglass.State{breakglass.StateExpired, breakglass.StateRevoked}},
			"closed by another": {func(*breakglass.Request) record.Event { return breakglass.Closed{By: byKey("carol")} }, nil},
			"overdue": {func(*breakglass.Request) record.Event { return breakglass.Overdue{What: breakglass.OverdueClosing} },
				nil}, // none is asked for
			"a finding":             {func(*breakglass.Request) record.Event { return finding.Opened{Key: "x"} }, nil},
			"a canary":              {func(*breakglass.Request) record.Event { return breakglass.CanaryDone{} }, nil},
			"a check":               {func(*breakglass.Request) record.Event { return finding.CheckRun{} }, nil},
			"imported audit events": {func(*breakglass.Request) record.Event { return breakglass.AuditImported{} }, nil},
		}
		graph := documented(t)
		seen := map[int]map[breakglass.State]bool{} // by row of the graph: the states that it was seen to lead to
		follows := func(event string, before, after breakglass.State) {
			for i, e := range graph {
				if e.event == event && e.leads(before, after) {
					if seen[i] == nil {
						seen[i] = map[breakglass.State]bool{}
					}
					seen[i][after] = true
					return
				}
			}
			t.Errorf("%s takes a request from %q to %s, which the package comment does not say", event, before, after)
		}
		cells := 0
		for name, e := range events {
			for st, r := range reach {
				cells++
				ev := e.ev(r)
				after, err := breakglass.Follow(r, time.Now(), ev)
				if want := slices.Contains(e.after, st); want != (err == nil) {
					t.Errorf("%s after %s: %v, want allowed: %t", name, st, err, want)
				}
				if err == nil {
					follows(nameOf(ev.Kind()), st, after.State(time.Now()))
				} else if !reflect.DeepEqual(after, r) {
					t.Errorf("%s after %s was refused, and changed the request:\n%+v\n%+v", name, st, r, after)
				}
			}
		}
		t.Logf("%d cells", cells)
		// What has happened to the requests, and what the clock does to them.
		for _, r := range append(slices.Collect(maps.Values(reach)), three) {
			entries, err := s.Ledger.Stream(t.Context(), r.ID)
			if err != nil {
				t.Fatal(err)
			}
			before := breakglass.State("")
			for i, e := range entries {
				after, err := breakglass.Fold(entries[:i+1], true)
				if err != nil {
					t.Fatal(err)
				}
				if i > 0 {
					was, err := breakglass.Fold(entries[:i], true)
					if err != nil {
						t.Fatal(err)
					}
					before = was.State(e.Time)
				}
				follows(nameOf(e.Kind), before, after.State(e.Time))
			}
			if at := r.Deadline(time.Now()); !at.IsZero() {
				follows(clockEvent, r.State(time.Now()), r.State(at))
			}
		}
		for i, e := range graph {
			for _, to := range e.to {
				if !seen[i][to] {
					t.Errorf("%s was never seen to lead to %s", e.event, to)
				}
			}
		}
		s.CA.OnSign = nil
	})
}
