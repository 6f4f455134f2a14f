package breakglass_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/record"
)

// clocks are a machine's wall clock, and Vault's, each so far from the true time.
type clocks struct {
	wall, second atomic.Int64
	away         atomic.Bool // the second cannot be asked
}

func (c *clocks) Wall() time.Time { return time.Now().Round(0).Add(time.Duration(c.wall.Load())) }

func (c *clocks) Time(context.Context) (time.Time, error) {
	if c.away.Load() {
		return time.Time{}, errors.New("Vault does not answer")
	}
	return time.Now().Round(0).Add(time.Duration(c.second.Load())), nil
}

func (c *clocks) options() bgtest.Options {
	return bgtest.Options{Config: func(cfg *bgtest.Config) { cfg.Wall, cfg.Second = c.Wall, c }}
}

// clockFinding is what the open finding about the clock says, empty for none.
func clockFinding(s *bgtest.System) string {
	for _, f := range s.Service.Findings.Open() {
		if f.Key == "clock" {
			return f.What
		}
	}
	return ""
}

// A leap of the clock is not written into the ledger before a second clock confirms it, and break-glass goes on.
func TestClockLeapIsNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &clocks{}
		s := bgtest.New(t, c.options())
		for _, leap := range []time.Duration{2 * time.Hour, -20 * time.Minute, 365 * 24 * time.Hour} {
			c.wall.Store(int64(leap))
			c.away.Store(leap < 0)
			time.Sleep(time.Minute)
			s.Grant("alice", "admin")
			if got := time.Until(s.Ledger.LastTime()).Abs(); got > record.MaxSkew {
				t.Errorf("with the clock %s off, an entry was written at a time that is %s off", leap, got)
			}
			if got := clockFinding(s); !strings.Contains(got, "has leapt by") {
				t.Errorf("with the clock %s off, the finding is %q", leap, got)
			}
			c.wall.Store(0)
			c.away.Store(false)
			time.Sleep(time.Minute)
			if got := clockFinding(s); got != "" {
				t.Errorf("the clock is right again, and this is open: %s", got)
			}
			r := s.Ask(byKey("bob"), "admin")
			if _, err := s.Service.Withdraw(t.Context(), byKey("bob"), r.ID, ""); err != nil {
				t.Errorf("after a leap of %s: %v", leap, err)
			}
		}
		// A machine that slept, or whose clock was set right: the second clock says so, and the new time is taken.
		c.wall.Store(int64(3 * time.Hour))
		c.second.Store(int64(3 * time.Hour))
		time.Sleep(time.Minute)
		s.Ask(byKey("dave"), "admin")
		if got := s.Ledger.LastTime().Sub(c.Wall()).Abs(); got > record.MaxSkew {
			t.Errorf("both clocks agree, and entries are %s off them", got)
		}
	})
}

// A daemon that starts with a wrong clock asks the second one before it writes.
func TestWrongClockAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &clocks{}
		s := bgtest.New(t, c.options())
		c.wall.Store(int64(365 * 24 * time.Hour))
		s.Restart()
		s.Ask(byKey("alice"), "admin")
		time.Sleep(time.Minute)
		if got := time.Until(s.Ledger.LastTime()).Abs(); got > 2*time.Minute {
			t.Errorf("an entry was written %s off the true time", got)
		}
		if clockFinding(s) == "" {
			t.Error("there is no finding")
		}
	})
}

// An entry of a time to come locks break-glass, which is said; an operator's recorded word opens it again, and what was asked for or
// approved at the wrong time has lapsed.
func TestAcceptedClockGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &clocks{}
		accept := false
		o := bgtest.Options{Config: func(cfg *bgtest.Config) { cfg.Wall, cfg.Second, cfg.AcceptClock = c.Wall, c, accept }}
		s := bgtest.New(t, o)
		c.wall.Store(int64(2 * time.Hour))
		c.second.Store(int64(2 * time.Hour)) // a time server lies to both
		time.Sleep(time.Minute)
		before := s.Grant("alice", "admin")
		c.wall.Store(0)
		c.second.Store(0)
		s.Restart()
		if s.Service.Recorder.CannotTake() == nil {
			t.Error("requests are refused, and CannotTake says nothing")
		}
		time.Sleep(6 * time.Minute)
		if got := clockFinding(s); !strings.Contains(got, "requests, approvals and claims are refused") {
			t.Errorf("the finding is %q", got)
		}
		accept = true
		c.second.Store(int64(time.Hour))
		if _, err := record.Open(t.Context(), record.Config{Ledger: s.Ledger, Wall: c.Wall, Second: c, AcceptClock: true}); err == nil ||
			!strings.Contains(err.Error(), "--accept-clock") {
			t.Fatalf("accepted, although Vault contradicts: %v", err)
		}
		c.second.Store(0)
		s.Restart()
		if err := s.Service.Recorder.CannotTake(); err != nil {
			t.Errorf("after --accept-clock: %v", err)
		}
		if got := time.Until(s.Ledger.LastTime()).Abs(); got > record.MaxSkew {
			t.Errorf("the last entry is %s off", got)
		}
		s.Grant("bob", "admin")
		r, err := s.Service.Get(t.Context(), before.ID)
		must(t, err)
		if got := r.State(time.Now()); got != breakglass.StateLapsed {
			t.Errorf("what was approved at a time to come is %s, want it lapsed", got)
		}
		bgtest.CheckLedger(t, s.Path(), s.Verifier)
	})
}
