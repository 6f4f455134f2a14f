package record

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
)

// MaxSkew is how far two clocks may differ. More, and a certificate is not believed: its times mean something else to the signer than to
// us. NTP keeps machines within a second.
const MaxSkew = 60 * time.Second

// TimeSource is a clock of another machine: Vault's.
type TimeSource interface {
	// Time asks what time it is there. It makes one call; an error says that it cannot be known now.
	Time(ctx context.Context) (time.Time, error)
}

// How the clock is started.
const (
	clockAsking = 5 * time.Second  // what one question may take
	clockTrust  = 15 * time.Minute // longer after the last entry, or before it, a start asks the second source first
)

// Clock tells the time that decisions are made by and entries are written with. It follows the machine's wall clock as long
// as that goes as fast as the monotonic one. After a leap it goes on as if there had been none, until a second source says that the
// wall clock is right: one entry written at a wrong time to come would lock break-glass for as long as the clock was wrong. It is safe
// for concurrent use.
type Clock struct {
	wall   func() time.Time // what the machine says, without a monotonic reading
	second TimeSource

	mu sync.Mutex
	at time.Time // what the time was
	on time.Time // when the monotonic clock was read for it
}

// Look returns the time to go by, and how far the wall clock is ahead of it; zero unless it has leapt.
func (k *Clock) Look() (now time.Time, leapt time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	mono, wall := time.Now(), k.wall().UTC()
	if now = k.at.Add(mono.Sub(k.on)); wall.Sub(now).Abs() > MaxSkew {
		return now, wall.Sub(now)
	}
	k.at, k.on = wall, mono
	return wall, 0
}

// Set makes a time the one to go by.
func (k *Clock) Set(at time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.at, k.on = at.UTC(), time.Now()
}

var errNoSecond = errors.New("there is no second source of time")

// Second asks the second source what time it is. An error says that it cannot be known now.
func (k *Clock) Second(ctx context.Context) (time.Time, error) {
	if k.second == nil {
		return time.Time{}, errNoSecond
	}
	ctx, cancel := context.WithTimeout(ctx, clockAsking)
	defer cancel()
	return k.second.Time(ctx)
}

// ClockAccepted is an operator's word, by the flag --accept-clock, that the ledger's last entries were written with a wrong clock.
// It is the only entry whose time may be earlier than that of the one before.
type ClockAccepted struct {
	Last      time.Time `json:"last"`      // of the entry before
	Now       time.Time `json:"now"`       // what the machine's clock said
	Confirmed bool      `json:"confirmed"` // Vault's clock said the same; false: it could not be asked
}

// Kind is as that of every Event.
func (ClockAccepted) Kind() string { return ledger.KindClockAccepted }

// startClock decides which time the daemon begins with. Where that of the last entry is not near, a second source is asked before
// anything is written. If the two contradict each other, the earlier one that the ledger allows is gone by, and the daemon says so.
func (r *Recorder) startClock(ctx context.Context, accept bool) error {
	now, last := r.Clock.wall().UTC(), r.Ledger.LastTime()
	r.Clock.Set(now)
	if gap := now.Sub(last); gap > -MaxSkew && gap < clockTrust {
		return nil
	}
	second, err := r.Clock.Second(ctx)
	contradicted := err == nil && second.Sub(now).Abs() > MaxSkew
	behind := last.Sub(now) > MaxSkew
	switch {
	case behind && accept && contradicted:
		return fmt.Errorf("--accept-clock: the machine's clock says %s, Vault's %s: set the one that is wrong first",
			now.Format(time.RFC3339), second.Format(time.RFC3339))
	case behind && accept:
		return r.acceptClock(ctx, last, now, err == nil)
	case contradicted && second.Before(now) && last.Sub(second) < MaxSkew, contradicted && last.Sub(now) > MaxSkew:
		r.Clock.Set(second)
	}
	return nil
}

// acceptClock records an operator's word that the ledger's last entries were written with a wrong clock. It is the one entry that
// may be earlier than the one before it. What was asked for or approved at a later time than now has lapsed by it.
func (r *Recorder) acceptClock(ctx context.Context, last, now time.Time, confirmed bool) error {
	ev := ClockAccepted{Last: last, Now: now, Confirmed: confirmed}
	if _, err := r.Ledger.Append(ctx, now, DaemonStream, ledger.AnyVersion, nil, Draft(ev, nil)); err != nil {
		return fmt.Errorf("recording that the clock is right: %w", err)
	}
	r.Log.Warn("an operator accepted the clock: the ledger's last entries were written with a wrong one",
		slog.Time("last_entry", last), slog.Time("now", now), slog.Bool("confirmed_by_vault", confirmed))
	return nil
}
