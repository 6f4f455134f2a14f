package breakglass_test

import (
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
		Config: func(c *breakglass.Config) { c.Sweep = time.Hour }}
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
		Config: func(c *breakglass.Config) { c.Sweep = time.Hour }}
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
		Config: func(c *breakglass.Config) { c.Sweep = time.Hour }}
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
