package vaultca

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestCheckIsNeverAnsweredWithWhatWasReadBeforeItWasAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := rounds{running: map[string]*round{}, waiting: map[string]*round{}}
		var reads atomic.Int64
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				asked := time.Now()
				r := q.join("k", func() error {
					reads.Add(1)
					time.Sleep(10 * time.Millisecond)
					return nil
				})
				<-r.done
				if took := time.Since(asked); took < 10*time.Millisecond {
					t.Errorf("answered after %s, sooner than a reading that began afterwards can be", took)
				}
			})
			time.Sleep(time.Millisecond)
		}
		wg.Wait()
		// 200 callers, one each millisecond, readings of ten: one reading each ten milliseconds, and the last ones.
		if n := reads.Load(); n > 22 {
			t.Errorf("%d readings for a crowd, want about 20", n)
		}
		if len(q.running)+len(q.waiting) != 0 {
			t.Error("rounds are left over")
		}
	})
}
