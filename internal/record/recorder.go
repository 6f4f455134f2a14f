package record

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/text"
)

// DaemonStream is the stream of what the daemon says of itself.
const DaemonStream = "daemon"

// Heartbeat proves that the daemon was alive and bounds what a truncation can hide.
type Heartbeat struct {
	Version string `json:"version"`
}

// Kind is as that of every Event.
func (Heartbeat) Kind() string { return "heartbeat/v1" }

// OwnKinds are the kinds of entries that belong to no subject: refused commands, and what the daemon says of itself.
var OwnKinds = Kinds{
	"refused/v1":             As[Refused],
	"refused-more/v1":        As[RefusedMore],
	"heartbeat/v1":           As[Heartbeat],
	ledger.KindClockAccepted: As[ClockAccepted],
}

// refusalsPerMinute bounds how many refused commands of one person are recorded: the first ones are audit gold, a flood would
// only fill the disk (I24). The rest is counted, and recorded together: see RefusedMore.
const refusalsPerMinute = 10

// Config is what a Recorder is made from. Ledger is required.
type Config struct {
	Ledger *ledger.Ledger
	Log    *slog.Logger     // default: nothing is logged
	Wall   func() time.Time // the machine's wall clock; default: time.Now
	Second TimeSource       // another machine's clock, which is asked before a leap of this one is believed; may be nil
	// AcceptClock is an operator's word that the clock is right although the ledger's last entry is later: see ClockAccepted.
	AcceptClock bool
	// Room says why the ledger has no room for anything new, nil if it has. It may be nil.
	Room func() error
}

// Recorder is what every part of the domain writes with: the ledger, the time to go by, and the record of refused commands. It is safe
// for concurrent use.
type Recorder struct {
	Ledger *ledger.Ledger
	Log    *slog.Logger
	Clock  *Clock

	room    func() error
	refused *Limiter // of refused commands, for each person
	tally   tally    // of refused commands that have no entry of their own
}

// Open makes a Recorder, and decides which time it begins with: see [Clock].
func Open(ctx context.Context, cfg Config) (*Recorder, error) {
	if cfg.Ledger == nil {
		return nil, errors.New("record: a ledger is required")
	}
	r := &Recorder{Ledger: cfg.Ledger, Log: cfg.Log, room: cfg.Room, refused: NewLimiter(refusalsPerMinute, time.Minute),
		Clock: &Clock{wall: cfg.Wall, second: cfg.Second}}
	if r.Log == nil {
		r.Log = slog.New(slog.DiscardHandler)
	}
	if r.Clock.wall == nil {
		r.Clock.wall = func() time.Time { return time.Now().Round(0) }
	}
	return r, r.startClock(ctx, cfg.AcceptClock)
}

// Now is the time for one operation: never earlier than the last ledger entry, so that a clock set back revives nothing (I19).
func (r *Recorder) Now() time.Time {
	now, _ := r.Clock.Look()
	if last := r.Ledger.LastTime(); last.After(now) {
		return last
	}
	return now
}

// ClockBack refuses to give anything while the clock is behind the ledger: deadlines do not pass then.
func (r *Recorder) ClockBack() error {
	now, _ := r.Clock.Look()
	if behind := r.Ledger.LastTime().Sub(now); behind > MaxSkew {
		return Refuse(ClassUnavailable, "clock", "tell an operator: the clock has to be set or, if it is right, accepted (serve "+
			"--accept-clock); revoking and denying work",
			"the daemon's clock is %s behind its last ledger entry", text.Span(behind.Truncate(time.Second)))
	}
	return nil
}

// RoomLeft says why the ledger has no room for anything new, nil if it has.
func (r *Recorder) RoomLeft() error {
	if r.room == nil {
		return nil
	}
	return r.room()
}

// CannotTake says why requests, approvals and claims are refused for everybody just now, nil if they are not.
func (r *Recorder) CannotTake() error {
	if err := r.ClockBack(); err != nil {
		return err
	}
	if err := r.RoomLeft(); err != nil {
		return Refuse(ClassUnavailable, "room", "tell an operator to make room on the disk of the ledger; revoking, denying and withdrawing work",
			"the daemon keeps what room its disk has left for revocations: %v", err)
	}
	return nil
}

// Refused writes down that an actor tried what they may not, and returns the refusal. Internal errors pass unchanged.
func (r *Recorder) Refused(ctx context.Context, a Actor, command, stream string, err error) error {
	no, ok := AsRefusal(err)
	if !ok || no.Class == ClassUnavailable {
		return err
	}
	who := a.Person
	if who == "" {
		who = "unknown"
	}
	about := []any{slog.String("person", a.Person), slog.String("command", command), slog.String("code", no.Code)}
	if !r.refused.Allow(who, time.Now()) || r.RoomLeft() != nil {
		r.tally.add(a, command, no.Code, r.Now())
		r.Log.Warn("refused, to be recorded with others: too many, or no room", about...)
		return err
	}
	ev := Refused{By: a, Command: command, Code: no.Code}
	// A refusal is recorded also when the caller hangs up.
	if _, aerr := r.Ledger.Append(context.WithoutCancel(ctx), r.Now(), stream, ledger.AnyVersion, nil, Draft(ev, nil)); aerr != nil {
		r.tally.add(a, command, no.Code, r.Now())
		r.Log.Error("a refused command could not be recorded, and will be with others", append(about, slog.Any("error", aerr))...)
	}
	return err
}

// RefusedTogether is how many refused commands got no entry of their own since the start.
func (r *Recorder) RefusedTogether() int64 {
	r.tally.mu.Lock()
	defer r.tally.mu.Unlock()
	return r.tally.all
}

// Run records, each minute until ctx is done, what was refused and has no entry of its own. What is not recorded when the daemon dies is
// in its log.
func (r *Recorder) Run(ctx context.Context) error {
	tick := time.NewTicker(tallyEvery)
	defer tick.Stop()
	for {
		ended := false
		select {
		case <-ctx.Done():
			ended = true
		case <-tick.C:
		}
		if ev := r.tally.event(); ev != nil && r.RoomLeft() == nil {
			if _, err := r.Ledger.Append(context.WithoutCancel(ctx), r.Now(), RefusalStream, ledger.AnyVersion, nil,
				Draft(*ev, nil)); err != nil {
				r.Log.Error("recording how many commands were refused", slog.Int("refused", ev.Total()), slog.Any("error", err))
			} else {
				r.tally.recorded(ev)
			}
		}
		if ended {
			return nil
		}
	}
}

// Heartbeat records that the daemon is alive.
func (r *Recorder) Heartbeat(ctx context.Context, version string) error {
	_, err := r.Ledger.Append(ctx, r.Now(), DaemonStream, ledger.AnyVersion, nil, Draft(Heartbeat{Version: version}, nil))
	return err
}
