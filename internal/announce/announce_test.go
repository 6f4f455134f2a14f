package announce_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakglassd/breakglass/internal/announce"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/verify"
)

// listener refuses each entry as often as fails says, and remembers what it took.
type listener struct {
	fails int
	tries map[int64]int
	told  []int64
}

func (l *listener) Tell(_ context.Context, n announce.Notice) error {
	if l.tries[n.Seq]++; l.tries[n.Seq] <= l.fails {
		return errors.New("away")
	}
	l.told = append(l.told, n.Seq)
	return nil
}

// during runs an announcer for a time, which is fake, and returns what it told.
func during(t *testing.T, s *bgtest.System, kinds record.Kinds, l *listener, d time.Duration) []int64 {
	t.Helper()
	l.tries, l.told = map[int64]int{}, nil
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- announce.Run(ctx, s.Service.Recorder, kinds, "listener", l) }()
	time.Sleep(d)
	synctest.Wait()
	cancel()
	bgtest.Must(t, <-done)
	return l.told
}

// seqs lists the ledger's entries that are not of a kind.
func seqs(t *testing.T, s *bgtest.System, but string) (out []int64) {
	t.Helper()
	entries, err := s.Ledger.Entries(t.Context(), 0, 1000)
	bgtest.Must(t, err)
	for _, e := range entries {
		if e.Kind != but {
			out = append(out, e.Seq)
		}
	}
	return out
}

func TestEachEntryIsToldInOrderUntilItIsTaken(t *testing.T) {
	bgtest.Bubble(t, bgtest.Options{}, func(t *testing.T, s *bgtest.System) {
		s.Grant("alice", "admin")
		first := seqs(t, s, "")
		if got := during(t, s, verify.Kinds(), &listener{fails: 2}, time.Minute); !slices.Equal(got, first) {
			t.Errorf("told %v, want %v", got, first)
		}
		s.Ask(bgtest.BySlack("bob"), "admin")
		want := seqs(t, s, "")[len(first):]
		if got := during(t, s, verify.Kinds(), &listener{}, time.Minute); !slices.Equal(got, want) {
			t.Errorf("after a restart %v were told, want %v", got, want)
		}
	})
}

// A ledger that a newer release has written must not leave people without messages.
func TestAnEntryOfANewerReleaseKeepsNoOtherFromBeingTold(t *testing.T) {
	bgtest.Bubble(t, bgtest.Options{}, func(t *testing.T, s *bgtest.System) {
		s.Grant("alice", "admin")
		s.Ask(bgtest.BySlack("bob"), "admin") // behind the approvals
		approved := "approved/v2"
		older := maps.Clone(verify.Kinds())
		delete(older, approved)
		want := seqs(t, s, approved)
		if len(want) == len(seqs(t, s, "")) {
			t.Fatalf("the ledger has no %s", approved)
		}
		if got := during(t, s, older, &listener{}, time.Minute); !slices.Equal(got, want) {
			t.Errorf("told %v, want %v", got, want)
		}
	})
}
