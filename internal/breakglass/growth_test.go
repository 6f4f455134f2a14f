package breakglass_test

import (
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
