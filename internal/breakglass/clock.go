package breakglass

import (
	"context"
	"log/slog"
	"time"

	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/text"
)

// How the clock is watched.
const (
	clockEvery = 15 * time.Second // how often it is looked at
	clockAsk   = 5 * time.Minute  // how often the second source is asked while nothing is wrong
)

// watchClock looks at the clock until ctx is done.
func (s *Service) watchClock(ctx context.Context) error {
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	var asked time.Time
	for {
		_, leapt := s.Recorder.Clock.Look()
		_, open := s.Findings.Get(clockKey)
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
	second, serr := s.Recorder.Clock.Second(ctx)
	now, leapt := s.Recorder.Clock.Look()
	wall := now.Add(leapt)
	agrees := func(t time.Time) bool { return serr == nil && second.Sub(t).Abs() <= record.MaxSkew }
	f := finding.Opened{Key: clockKey, Check: "clock", Severity: finding.Critical,
		Next: "set the clocks with NTP; nothing is written with a time that only one clock says, and certificates wait until the clocks agree"}
	behind := s.Recorder.ClockBack()
	switch {
	case leapt != 0 && agrees(wall):
		s.log.Warn("the clock was set, and Vault's clock agrees", slog.Duration("by", leapt))
		s.Recorder.Clock.Set(wall)
		return s.Findings.Close(ctx, clockKey, "a second clock confirms the machine's")
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
		return s.Findings.Close(ctx, clockKey, "the clocks agree")
	}
	if before, open := s.Findings.Get(clockKey); open && before.Severity == f.Severity && before.Next == f.Next {
		return nil // the size of the difference is of no more interest than that it is there
	}
	return s.Findings.Find(ctx, f)
}
