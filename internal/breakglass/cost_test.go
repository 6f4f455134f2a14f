package breakglass_test

import (
	"context"
	"crypto/x509"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakglassd/breakglass/internal/announce"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/ledger"
)

// counted is a store that counts what is asked of it.
type counted struct {
	ledger.Store
	commits, views, streams, records atomic.Int64
}

func (c *counted) Update(ctx context.Context, fn func(ledger.Tx) error) error {
	c.commits.Add(1)
	return c.Store.Update(ctx, fn)
}

func (c *counted) View(ctx context.Context, fn func(ledger.View) error) error {
	c.views.Add(1)
	return c.Store.View(ctx, func(v ledger.View) error { return fn(countedView{v, c}) })
}

// countedView counts the streams that are read whole, each of which is a fold, and the entries.
type countedView struct {
	ledger.View
	c *counted
}

func (v countedView) StreamRecords(stream string) ([]ledger.Record, error) {
	v.c.streams.Add(1)
	rs, err := v.View.StreamRecords(stream)
	v.c.records.Add(int64(len(rs)))
	return rs, err
}

func (v countedView) Records(from, limit int64, yield func(ledger.Record) error) error {
	return v.View.Records(from, limit, func(r ledger.Record) error {
		v.c.records.Add(1)
		return yield(r)
	})
}

// askedSigner counts what is asked of the authority.
type askedSigner struct {
	breakglass.Signer
	calls *atomic.Int64
}

func (s askedSigner) Check(ctx context.Context, cluster, group string) error {
	s.calls.Add(1)
	return s.Signer.Check(ctx, cluster, group)
}

func (s askedSigner) Sign(ctx context.Context, o breakglass.Order) (breakglass.Signed, error) {
	s.calls.Add(1)
	return s.Signer.Sign(ctx, o)
}

func (s askedSigner) Find(ctx context.Context, cluster, cn string) ([]*x509.Certificate, error) {
	s.calls.Add(1)
	return s.Signer.Find(ctx, cluster, cn)
}

// others are messengers beside the kit's own: four in all, as in the daemon with Slack.
func others() map[string]announce.Messenger {
	return map[string]announce.Messenger{"slack": &bgtest.Told{}, "slack-findings": &bgtest.Told{}, "slack-campaigns": &bgtest.Told{}}
}

// TestWhatAClaimCosts counts what does not depend on the machine: time stands still while anything is under way, so the bookmarks of
// messengers are written when all claims are through.
func TestWhatAClaimCosts(t *testing.T) {
	const claims = 9
	for _, profile := range []struct {
		name                  string
		commits, folds, views int64 // at most, for each claim
	}{
		// Read once, claimed, issued; the proof is the other view, and each of four messengers reads what is new.
		{name: "group", commits: 2, folds: 1, views: 2 + 2*4},
		// And bound.
		{name: "admin", commits: 3, folds: 1, views: 2 + 3*4},
	} {
		t.Run(profile.name, func(t *testing.T) {
			count, calls := &counted{}, &atomic.Int64{}
			o := bgtest.Options{Beside: others(), Store: func(st ledger.Store) ledger.Store { count.Store = st; return count },
				Config: func(c *bgtest.Config) { c.Signer, c.ReconcileBindingsEvery = askedSigner{c.Signer, calls}, time.Hour }}
			bubbleWith(t, o, func(t *testing.T, s *bgtest.System) {
				var grants []*breakglass.Request
				for range claims / 3 {
					for _, who := range []string{"alice", "bob", "dave"} {
						grants = append(grants, s.Grant(who, profile.name))
					}
				}
				time.Sleep(time.Second) // everything is told, and the bookmarks are written
				synctest.Wait()
				for _, n := range []*atomic.Int64{&count.commits, &count.views, &count.streams, &count.records, calls} {
					n.Store(0)
				}
				for _, r := range grants {
					_, csr := bgtest.NewCSR()
					if _, err := s.Claim(r.Ask.By.Person, r.ID, csr); err != nil {
						t.Fatal(err)
					}
					synctest.Wait() // each is told before the next
				}
				atMost := func(what string, got *atomic.Int64, each int64) {
					t.Helper()
					t.Logf("%s: %d for %d claims", what, got.Load(), claims)
					if got.Load() > each*claims {
						t.Errorf("%d claims took %d %s, want at most %d for each", claims, got.Load(), what, each)
					}
				}
				atMost("commits", &count.commits, profile.commits)
				atMost("folds", &count.streams, profile.folds)
				atMost("read transactions", &count.views, profile.views)
				atMost("calls of the authority", calls, 3)
				t.Logf("entries read: %d for %d claims", count.records.Load(), claims)
				before := count.commits.Load()
				time.Sleep(time.Second)
				synctest.Wait()
				if n := count.commits.Load() - before; n > 4 {
					t.Errorf("the bookmarks of four messengers took %d commits for all claims, want at most 4", n)
				}
			})
		})
	}
}

// TestCrashRepeatsNoticesAndLosesNone kills the process after a notice and before its bookmark.
func TestCrashRepeatsNoticesAndLosesNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &dying{}
		s := bgtest.New(t, bgtest.Options{Store: func(st ledger.Store) ledger.Store { disk.Store = st; return disk }})
		r := s.Ask(bySlack("alice"), "admin")
		time.Sleep(time.Second) // told, and the bookmark written
		s.Approve(bySlack("bob"), r)
		synctest.Wait() // told, and the bookmark not written
		disk.dead.Store(true)
		s.Stop()
		disk.dead.Store(false)
		s.Restart()
		time.Sleep(time.Second)
		want := []string{"requested/v3", "approved/v2", "approved/v2"} // the approval again: its bookmark was lost
		if diff := cmp.Diff(want, s.Told.Kinds(r.ID)); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
		s.Approve(bySlack("carol"), r)
		synctest.Wait()
		s.Restart() // an orderly stop writes the bookmark: nothing comes again
		time.Sleep(time.Second)
		if diff := cmp.Diff(append(want, "approved/v2"), s.Told.Kinds(r.ID)); diff != "" {
			t.Errorf("told after an orderly stop (-want +got):\n%s", diff)
		}
		s.Check()
	})
}

// dying is a store whose writes do not reach the disk from some moment on.
type dying struct {
	ledger.Store
	dead atomic.Bool
}

func (d *dying) Update(ctx context.Context, fn func(ledger.Tx) error) error {
	if d.dead.Load() {
		return errors.New("killed")
	}
	return d.Store.Update(ctx, fn)
}
