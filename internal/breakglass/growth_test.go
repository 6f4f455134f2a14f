package breakglass_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/ledger"
)

// The tests in this file count what must not grow with what others do, or with how much there is. They measure no time.

// TestEntryOfOthersCostsWaitersNothing: a waiter reads and folds its request when an entry about it was written, and not before.
func TestEntryOfOthersCostsWaitersNothing(t *testing.T) {
	count := &counted{}
	o := bgtest.Options{Store: func(st ledger.Store) ledger.Store { count.Store = st; return count },
		Config: func(c *bgtest.Config) { c.ReconcileBindingsEvery = time.Hour }}
	bubbleWith(t, o, func(t *testing.T, s *bgtest.System) {
		r := s.Ask(byKey("alice"), "group")
		const waiters = 20
		woken := make(chan int64, waiters)
		for range waiters {
			go func() {
				got, err := s.Service.Wait(t.Context(), r.ID, r.Rev, "")
				if err != nil {
					t.Error(err)
					got = &breakglass.Request{}
				}
				woken <- got.Rev
			}()
		}
		synctest.Wait()
		count.streams.Store(0)
		s.Ask(byKey("dave"), "group")
		synctest.Wait()
		if n := count.streams.Load(); n >= waiters || len(woken) > 0 {
			t.Errorf("an entry about another request: %d folds, %d of %d waiters woken", n, len(woken), waiters)
		}
		// A refusal is an entry about the request as well.
		_, err := s.Service.Deny(t.Context(), byKey("mallory"), r.ID, "I am not an approver")
		wantRefusal(t, err, "not-approver")
		for range waiters {
			if rev := <-woken; rev != r.Rev+1 {
				t.Errorf("woken at revision %d, want %d", rev, r.Rev+1)
			}
		}
	})
}

// manyOpen is the kit's policy with room for many requests of one person.
func manyOpen() string {
	return strings.Replace(bgtest.Policy(), "openPerPerson: 3, perHour: 20", "openPerPerson: 100, perHour: 1000", 1)
}

// TestOneEventLooksAtOneRequest: however many requests are open, an event has Run look at its own, and a new request reads no other.
func TestOneEventLooksAtOneRequest(t *testing.T) {
	count := &counted{}
	o := bgtest.Options{Policy: manyOpen(), Store: func(st ledger.Store) ledger.Store { count.Store = st; return count },
		Config: func(c *bgtest.Config) { c.ReconcileBindingsEvery = time.Hour }}
	bubbleWith(t, o, func(t *testing.T, s *bgtest.System) {
		const open = 50
		for range open {
			s.Ask(byKey("alice"), "group")
		}
		synctest.Wait()
		looks := s.Service.Looks()
		count.streams.Store(0)
		r := s.Ask(byKey("alice"), "group")
		synctest.Wait()
		if n := count.streams.Load(); n > 2 {
			t.Errorf("a request of a person with %d open ones folds %d of them", open, n)
		}
		s.Approve(byKey("bob"), r)
		r = s.Approve(byKey("carol"), r)
		synctest.Wait()
		if n := s.Service.Looks() - looks; n > 3*3 {
			t.Errorf("three events looked at requests %d times", n)
		}
		// The clock has each looked at when its time comes, and the approved one at the end of its claim window.
		if allocs := testing.AllocsPerRun(10, func() { r.State(time.Now()) }); allocs > 0 {
			t.Errorf("the state of an approved request takes %v allocations: its quorum is counted again", allocs)
		}
		time.Sleep(time.Until(r.ClaimUntil()) + time.Second)
		synctest.Wait()
		if r, err := s.Service.Get(t.Context(), r.ID); err != nil || r.Ended == nil {
			t.Errorf("what was not claimed in time is %+v (%v), want its end recorded", r, err)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if left, err := s.Service.Open(t.Context()); err != nil || len(left) > 0 {
			t.Errorf("%d requests are open after their time (%v)", len(left), err)
		}
	})
}

// TestCertificateOfOpenRequestIsFoundInMemory: the deny webhook is asked with each call that somebody makes with a certificate.
func TestCertificateOfOpenRequestIsFoundInMemory(t *testing.T) {
	count := &counted{}
	o := bgtest.Options{Store: func(st ledger.Store) ledger.Store { count.Store = st; return count },
		Config: func(c *bgtest.Config) { c.ReconcileBindingsEvery = time.Hour }}
	bubbleWith(t, o, func(t *testing.T, s *bgtest.System) {
		r := s.Grant("alice", "group")
		_, csr := bgtest.NewCSR()
		d, err := s.Claim("alice", r.ID, csr)
		must(t, err)
		print, name := breakglass.Fingerprint(d.Certificate), breakglass.CommonName("alice", r.ID)
		look := func(when string, want breakglass.State) {
			t.Helper()
			got, known, err := s.Service.ByFingerprint(t.Context(), print)
			if err != nil || !known || got.ID != r.ID || got.State(time.Now()) != want {
				t.Errorf("%s the certificate belongs to %+v (known %v, %v), want %s of %s", when, got, known, err, want, r.ID)
			}
			got, known, err = s.Service.ByCommonName(t.Context(), name)
			if err != nil || !known || got.ID != r.ID || got.State(time.Now()) != want {
				t.Errorf("%s the name belongs to %+v (known %v, %v), want %s of %s", when, got, known, err, want, r.ID)
			}
		}
		synctest.Wait()
		count.views.Store(0)
		look("live,", breakglass.StateActive)
		if n := count.views.Load(); n != 0 {
			t.Errorf("a certificate and a name took %d read transactions, want none", n)
		}
		if _, known, err := s.Service.ByCommonName(t.Context(), breakglass.CommonName("bob", r.ID)); err != nil || known {
			t.Errorf("another person's name is known (%v)", err)
		}
		s.Restart()
		synctest.Wait()
		count.views.Store(0)
		look("after a restart,", breakglass.StateActive)
		if n := count.views.Load(); n != 0 {
			t.Errorf("after a restart, they took %d read transactions, want none", n)
		}
		_, err = s.Service.Revoke(t.Context(), byKey("carol"), r.ID, "enough of that")
		must(t, err)
		look("revoked,", breakglass.StateRevoked)
		time.Sleep(24 * time.Hour)
		look("long after,", breakglass.StateRevoked)
	})
}

// TestClosingNotesThatNobodyWritesCostNothing: they stay owed for ever. A new request of the person and the metrics fold none of them,
// and a request names only the oldest, for an entry has room for some thousands.
func TestClosingNotesThatNobodyWritesCostNothing(t *testing.T) {
	count := &counted{}
	o := bgtest.Options{Policy: manyOpen() + careful, Store: func(st ledger.Store) ledger.Store { count.Store = st; return count },
		Config: func(c *bgtest.Config) { c.ReconcileBindingsEvery = time.Hour }}
	bubbleWith(t, o, func(t *testing.T, s *bgtest.System) {
		const owed = breakglass.MaxRaised + 5
		var grants []string
		for range owed {
			r := s.Grant("alice", "group")
			_, csr := bgtest.NewCSR()
			_, err := s.Claim("alice", r.ID, csr)
			must(t, err)
			grants = append(grants, r.ID)
			time.Sleep(time.Minute)
		}
		ask := func() *breakglass.Request {
			t.Helper()
			time.Sleep(2 * time.Hour) // beyond the hour that the limit counts
			synctest.Wait()
			count.streams.Store(0)
			r := s.Ask(byKey("alice"), "group")
			if n := count.streams.Load(); n > 2 { // a messenger may be quicker than the tracker, and read the new one
				t.Errorf("a request of somebody who owes closing notes folds %d requests", n)
			}
			return r
		}
		if r := ask(); len(r.Ask.Raised) > 0 {
			t.Errorf("raised by %v before anything was overdue", r.Ask.Raised)
		}
		time.Sleep(24 * time.Hour)
		if r := ask(); !slices.Equal(r.Ask.Raised, grants[:breakglass.MaxRaised]) || r.Ask.Quorum.Count != 3 {
			t.Errorf("a quorum of %d is raised by %v, want by the %d oldest of %v", r.Ask.Quorum.Count, r.Ask.Raised, breakglass.MaxRaised, grants)
		}
		synctest.Wait()
		count.streams.Store(0)
		touched, left, err := s.Service.Owed(t.Context())
		if err != nil || touched != owed || left != 0 || count.streams.Load() > 0 {
			t.Errorf("%d closing notes and %d acknowledgements are owed (%v), counted with %d folds, want %d, 0, none", touched, left, err,
				count.streams.Load(), owed)
		}
		_, err = s.Service.Close(t.Context(), byKey("alice"), grants[0], "restarted etcd, nothing is left")
		must(t, err)
		s.Restart()
		if r := ask(); !slices.Equal(r.Ask.Raised, grants[1:breakglass.MaxRaised+1]) {
			t.Errorf("after one was closed, raised by %v, want by %v", r.Ask.Raised, grants[1:breakglass.MaxRaised+1])
		}
		for _, id := range grants[1:] {
			_, err = s.Service.Close(t.Context(), byKey("alice"), id, "restarted etcd, nothing is left")
			must(t, err)
		}
		if r := ask(); r.Ask.Raised != nil || r.Ask.Quorum.Count != 2 {
			t.Errorf("after all were closed, raised by %v", r.Ask.Raised)
		}
	})
}

// TestListReadsOnlyItsPage: a list is one read transaction, and a page of it folds nothing else.
func TestListReadsOnlyItsPage(t *testing.T) {
	count := &counted{}
	o := bgtest.Options{Policy: manyOpen(), Store: func(st ledger.Store) ledger.Store { count.Store = st; return count },
		Config: func(c *bgtest.Config) { c.ReconcileBindingsEvery = time.Hour }}
	bubbleWith(t, o, func(t *testing.T, s *bgtest.System) {
		var made []string
		for i := range 30 {
			made = append(made, s.Ask(byKey("alice"), "group").ID)
			if i%10 == 9 {
				time.Sleep(24 * time.Hour)
			}
		}
		synctest.Wait()
		ids := func(rs []*breakglass.Request) (out []string) {
			for _, r := range rs {
				out = append(out, r.ID)
			}
			return out
		}
		count.views.Store(0)
		all, err := s.Service.Since(t.Context(), 90)
		if err != nil || !slices.Equal(ids(all), made) || count.views.Load() > 1 {
			t.Errorf("in %d read transactions %v are listed (%v), want one and %v", count.views.Load(), ids(all), err, made)
		}
		count.streams.Store(0)
		if id, err := s.Service.Resolve(t.Context(), made[0][:9]); err != nil || id != made[0] || count.streams.Load() > 0 {
			t.Errorf("%s is %q (%v), found with %d folds", made[0][:9], id, err, count.streams.Load())
		}
		var got []string
		before, pages := int64(math.MaxInt64), 0
		for more := true; more; pages++ {
			var page []*breakglass.Request
			count.streams.Store(0)
			page, more, err = s.Service.Page(t.Context(), breakglass.SetSince, 90, before, 7)
			must(t, err)
			if n := count.streams.Load(); n != int64(len(page)) || len(page) == 0 {
				t.Fatalf("a page of %d requests folds %d", len(page), n)
			}
			got, before = append(ids(page), got...), page[0].Seq
		}
		if !slices.Equal(got, made) || pages != 5 {
			t.Errorf("%d pages hold %v, want 5 and %v", pages, got, made)
		}
		if last, _, err := s.Service.Page(t.Context(), breakglass.SetSince, 2, math.MaxInt64, 100); err != nil ||
			!slices.Equal(ids(last), made[10:]) {
			t.Errorf("of the last two days are %v (%v), want %v", ids(last), err, made[10:])
		}
	})
}

// TestPolicyOfTwoThousandPeopleAndFiveHundredProfiles: it is put in force, recorded and asked under, and read again at the next start.
func TestPolicyOfTwoThousandPeopleAndFiveHundredProfiles(t *testing.T) {
	var people, teams, profiles strings.Builder
	var all []string
	for i := range 2000 {
		all = append(all, fmt.Sprintf("person.number%05d", i))
		fmt.Fprintf(&people, "  - {id: %s, name: U, slack: [{team: T01, user: U1%05d}]}\n", all[i], i)
	}
	fmt.Fprintf(&teams, "  - {id: all, members: [%s]}\n", strings.Join(all, ", "))
	for i := range 100 {
		fmt.Fprintf(&teams, "  - {id: team%d, members: [%s]}\n", i, strings.Join(all[20*i:20*i+20], ", "))
	}
	for i := range 500 {
		fmt.Fprintf(&profiles, "  - id: p%d\n    clusters: [c1]\n    bind: {group: \"breakglass:g%d\"}\n    ttl: {default: 10m, max: 1h}\n"+
			"    requesters: [all]\n    approvals: {count: 2, from: [team%d, team%d]}\n    reason: {min: 10}\n    risk: high\n", i, i, i%100,
			(i+1)%100)
	}
	policy := strings.Replace(bgtest.Policy(), "teams:\n", people.String()+"teams:\n"+teams.String(), 1) + profiles.String()
	bubbleWith(t, bgtest.Options{Policy: policy}, func(t *testing.T, s *bgtest.System) {
		r := s.Ask(byKey("alice"), "group")
		s.Restart()
		if n := len(s.Service.Policy().Profiles); n != 504 || !s.Service.InForce.Waits().IsZero() {
			t.Errorf("%d profiles are in force, want 504", n)
		}
		s.Approve(byKey("bob"), r)
	})
}
