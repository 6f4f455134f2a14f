package breakglass

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/text"
)

// TimeSource is a clock of another machine: Vault's.
type TimeSource interface {
	// Time asks what time it is there. It makes one call; an error says that it cannot be known now.
	Time(ctx context.Context) (time.Time, error)
}

// How the clock is watched.
const (
	clockEvery  = 15 * time.Second // how often it is looked at
	clockAsk    = 5 * time.Minute  // how often the second source is asked while nothing is wrong
	clockAsking = 5 * time.Second  // what one question may take
	clockTrust  = 15 * time.Minute // longer after the last entry, or before it, a start asks the second source first
)

// timekeeper tells the time that decisions are made by and entries are written with. It follows the machine's wall clock as long
// as that goes as fast as the monotonic one. After a leap it goes on as if there had been none, until a second source says that the
// wall clock is right: one entry written at a wrong time to come would lock break-glass for as long as the clock was wrong.
type timekeeper struct {
	wall func() time.Time // what the machine says, without a monotonic reading

	mu sync.Mutex
	at time.Time // what the time was
	on time.Time // when the monotonic clock was read for it
}

// look returns the time to go by, and how far the wall clock is ahead of it; zero unless it has leapt.
func (k *timekeeper) look() (now time.Time, leapt time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	mono, wall := time.Now(), k.wall().UTC()
	if now = k.at.Add(mono.Sub(k.on)); wall.Sub(now).Abs() > MaxSkew {
		return now, wall.Sub(now)
	}
	k.at, k.on = wall, mono
	return wall, 0
}

// set makes a time the one to go by.
func (k *timekeeper) set(at time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.at, k.on = at.UTC(), time.Now()
}

// startClock decides which time the service begins with. Where that of the last entry is not near, a second source is asked before
// anything is written. If the two contradict each other, the earlier one that the ledger allows is gone by, and Run says so.
func (s *Service) startClock(ctx context.Context) error {
	wall := s.cfg.Wall
	if wall == nil {
		wall = func() time.Time { return time.Now().Round(0) }
	}
	s.clock.wall = wall
	now, last := wall().UTC(), s.ledger.LastTime()
	s.clock.set(now)
	if gap := now.Sub(last); gap > -MaxSkew && gap < clockTrust {
		return nil
	}
	second, err := s.secondTime(ctx)
	contradicted := err == nil && second.Sub(now).Abs() > MaxSkew
	behind := last.Sub(now) > MaxSkew
	switch {
	case behind && s.cfg.AcceptClock && contradicted:
		return fmt.Errorf("--accept-clock: the machine's clock says %s, Vault's %s: set the one that is wrong first",
			now.Format(time.RFC3339), second.Format(time.RFC3339))
	case behind && s.cfg.AcceptClock:
		return s.acceptClock(ctx, last, now, err == nil)
	case contradicted && second.Before(now) && last.Sub(second) < MaxSkew, contradicted && last.Sub(now) > MaxSkew:
		s.clock.set(second)
	}
	return nil
}

// acceptClock records an operator's word that the ledger's last entries were written with a wrong clock. It is the one entry that
// may be earlier than the one before it. What was asked for or approved at a later time than now has lapsed by it.
func (s *Service) acceptClock(ctx context.Context, last, now time.Time, confirmed bool) error {
	ev := ClockAccepted{Last: last, Now: now, Confirmed: confirmed}
	if _, err := s.ledger.Append(ctx, now, DaemonStream, ledger.AnyVersion, nil, record.Draft(ev, nil)); err != nil {
		return fmt.Errorf("recording that the clock is right: %w", err)
	}
	s.log.Warn("an operator accepted the clock: the ledger's last entries were written with a wrong one",
		slog.Time("last_entry", last), slog.Time("now", now), slog.Bool("confirmed_by_vault", confirmed))
	return nil
}

var errNoSecond = errors.New("there is no second source of time")

func (s *Service) secondTime(ctx context.Context) (time.Time, error) {
	if s.cfg.Second == nil {
		return time.Time{}, errNoSecond
	}
	ctx, cancel := context.WithTimeout(ctx, clockAsking)
	defer cancel()
	return s.cfg.Second.Time(ctx)
}

// watchClock looks at the clock until ctx is done.
func (s *Service) watchClock(ctx context.Context) error {
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	var asked time.Time
	for {
		_, leapt := s.clock.look()
		_, open := s.finding(clockKey)
		if leapt != 0 || open || asked.IsZero() || time.Since(asked) >= clockAsk {
			asked = time.Now()
			if err := s.judgeClock(ctx); err != nil && ctx.Err() == nil {
				s.log.Error("recording what the clock does", slog.Any("error", err))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// clockKey is the key of the finding about the daemon's clock.
const clockKey = "clock"

// judgeClock holds the clocks against each other, and opens or ends the finding about them.
func (s *Service) judgeClock(ctx context.Context) error {
	second, serr := s.secondTime(ctx)
	now, leapt := s.clock.look()
	wall := now.Add(leapt)
	agrees := func(t time.Time) bool { return serr == nil && second.Sub(t).Abs() <= MaxSkew }
	f := FindingOpened{Key: clockKey, Check: "clock", Severity: SeverityCritical,
		Next: "set the clocks with NTP; nothing is written with a time that only one clock says, and certificates wait until the clocks agree"}
	behind := s.clockBack()
	switch {
	case leapt != 0 && agrees(wall):
		s.log.Warn("the clock was set, and Vault's clock agrees", slog.Duration("by", leapt))
		s.clock.set(wall)
		return s.Over(ctx, clockKey, "a second clock confirms the machine's")
	case leapt != 0 && agrees(now):
		f.What = "the machine's clock has leapt by " + text.Span(leapt.Truncate(time.Minute)) + ", and Vault's clock contradicts it: the time " +
			"from " +
			"before is gone on with"
	case leapt != 0:
		f.What = "the machine's clock has leapt by " + text.Span(leapt.Truncate(time.Minute)) + ", and no second clock confirms it: the time " +
			"from " +
			"before is gone on with"
	case serr == nil && !agrees(now):
		f.What = "the machine's clock and Vault's differ by " + text.Span(second.Sub(now).Abs().Truncate(time.Minute))
	case behind != nil:
		f.What = "requests, approvals and claims are refused: " + behind.Error()
		f.Next = "set the clock. If it is right, and entries were written with a wrong one, start the daemon once with --accept-clock"
	default:
		return s.Over(ctx, clockKey, "the clocks agree")
	}
	if before, open := s.finding(clockKey); open && before.Severity == f.Severity && before.Next == f.Next {
		return nil // the size of the difference is of no more interest than that it is there
	}
	return s.Find(ctx, f)
}

// CannotTake says why requests, approvals and claims are refused for everybody just now, nil if they are not.
func (s *Service) CannotTake() error {
	if err := s.clockBack(); err != nil {
		return err
	}
	if err := s.roomLeft(); err != nil {
		return record.Refuse(record.ClassUnavailable, "room", "tell an operator to make room on the disk of the ledger; revoking, denying and "+
			"withdrawing "+
			"work", "the daemon keeps what room its disk has left for revocations: %v", err)
	}
	return nil
}

// roomLeft says why the ledger has no room for anything new.
func (s *Service) roomLeft() error {
	if s.cfg.Room == nil {
		return nil
	}
	return s.cfg.Room()
}
