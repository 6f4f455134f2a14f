package slackbot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/breakglassd/breakglass/internal/announce"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/ledger"
)

// What Slack owes people: requests whose card it refused to show, or to change, until an operator mends something.
const (
	owedMark     = "slack/owed"     // the ids of those requests
	maxOwed      = 1000             // of them: beyond it the oldest are forgotten, and are shown by the command line only
	findingSlack = "slack-blocked/" // and where: the kind of finding that says so
	old          = 24 * time.Hour   // what ended so long ago and was never shown is not shown any more
)

// debts is what Slack refuses now, and what it was not shown for that.
type debts struct {
	telling sync.Mutex    // held while a request's card, and where it is, may change
	wake    chan struct{} // has room for one: something is owed

	mu       sync.Mutex           // guards what follows; held for map operations only
	troubles map[string]*apiError // by channel, and "" for private messages: the last refusal that an operator must mend
}

// said is what an operator must mend, or nil.
func (d *debts) said() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, where := range slices.Sorted(maps.Keys(d.troubles)) {
		return fmt.Errorf("messages are not shown: %w", advise(d.troubles[where]))
	}
	return nil
}

// noted remembers what Slack said to a message, opens a finding when an operator must mend something, and ends it when Slack takes
// messages again. It returns the error that it is given. Where is a channel, or empty for private messages.
func (b *Bot) noted(ctx context.Context, where string, err error) error {
	if where != "" && where != b.cfg.Channel {
		return err
	}
	e := (*apiError)(nil)
	blocked := errors.As(err, &e) && e.outcome == OutcomeBlocked
	if !blocked && err != nil {
		return err
	}
	b.debts.mu.Lock()
	_, was := b.debts.troubles[where]
	if delete(b.debts.troubles, where); blocked {
		b.debts.troubles[where] = e
	}
	b.debts.mu.Unlock()
	f := finding.Opened{Key: findingSlack + "channel", Check: "slack", Severity: finding.Critical,
		What: "Slack takes no messages for the approval channel (" + b.cfg.Channel + "): requests are not shown to those who can approve them"}
	if where == "" {
		f.Key, f.Severity, f.What = findingSlack+"private", finding.Warning, "Slack takes no private messages of breakglass: it "+
			"does not tell requesters that they can pick up"
	}
	var recording error
	switch {
	case blocked:
		f.What += "; it says " + e.code
		f.Next = adviceFor(e.code)
		recording = b.cfg.Service.Findings.Find(ctx, f)
	default:
		recording = b.cfg.Service.Findings.Close(ctx, f.Key, "Slack takes messages again")
	}
	if recording != nil {
		b.log.Error("recording that slack takes messages, or not", slog.Bool("blocked", blocked), slog.Any("error", recording))
	}
	if was && !blocked {
		b.log.Info("slack takes messages again", slog.Bool("private", where == ""))
		b.debts.hurry()
	}
	return err
}

// hurry has Run look at once.
func (d *debts) hurry() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// owed lists the requests whose card Slack does not show as they are, the oldest first.
func (b *Bot) owed(ctx context.Context) ([]string, error) {
	var ids []string
	mark, err := b.cfg.Ledger.Bookmark(ctx, owedMark)
	if err == nil && mark != nil {
		err = json.Unmarshal(mark, &ids)
	}
	if err != nil {
		return nil, fmt.Errorf("reading what slack was not shown: %w", err)
	}
	return ids, nil
}

// owe remembers that a request is to be shown once Slack takes it. Called with telling held, as pay is.
func (b *Bot) owe(ctx context.Context, request string) error {
	ids, err := b.owed(ctx)
	if err != nil || slices.Contains(ids, request) {
		return err
	}
	ids = append(ids, request)
	defer b.debts.hurry()
	return b.setOwed(ctx, ids[max(0, len(ids)-maxOwed):])
}

func (b *Bot) setOwed(ctx context.Context, ids []string) error {
	mark, err := json.Marshal(ids)
	if err == nil {
		err = b.cfg.Ledger.SetBookmark(ctx, owedMark, mark)
	}
	if err != nil {
		return fmt.Errorf("remembering what slack was not shown: %w", err)
	}
	return nil
}

// Run shows what Slack refused to show until an operator mended something, and, when Slack is switched on later, the requests that
// are open: each as it is then, and only if something can still be done about it. It ends with the context.
func (b *Bot) Run(ctx context.Context) error {
	if err := b.oweOpen(ctx); err != nil && ctx.Err() == nil {
		b.log.Error("looking for requests that slack does not show", slog.Any("error", err))
	}
	refused := 0 // how often in a row
	for ctx.Err() == nil {
		left, err := b.pay(ctx)
		if left {
			refused++
		} else {
			refused = 0
		}
		wait := b.wait.pay.Wait(refused)
		if err != nil && ctx.Err() == nil {
			b.log.Warn("showing in slack what it refused: will try again", slog.Duration("after", wait), slog.Any("error", err))
		}
		var again <-chan time.Time
		if left {
			again = time.After(wait)
		}
		select {
		case <-ctx.Done():
		case <-again:
		case <-b.debts.wake:
			if left { // what is new is no reason to be quicker with what is refused
				select {
				case <-ctx.Done():
				case <-again:
				}
			}
		}
	}
	return nil
}

// oweOpen owes the open requests that have no card: those that were opened while Slack was switched off.
func (b *Bot) oweOpen(ctx context.Context) error {
	open, err := b.cfg.Service.Open(ctx)
	if err != nil {
		return err
	}
	b.debts.telling.Lock()
	defer b.debts.telling.Unlock()
	for _, r := range open {
		p, err := b.placeOf(ctx, r.ID)
		if err == nil && p.TS == "" {
			err = b.owe(ctx, r.ID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// pay shows the requests that are owed, each as it is now, and reports whether some are left, or may be.
func (b *Bot) pay(ctx context.Context) (left bool, err error) {
	ids, err := b.owed(ctx)
	for _, id := range ids {
		if err := b.payOne(ctx, id); err != nil {
			return true, err
		}
	}
	return err != nil, err
}

func (b *Bot) payOne(ctx context.Context, id string) error {
	b.debts.telling.Lock()
	defer b.debts.telling.Unlock()
	r, err := b.cfg.Service.Get(ctx, id)
	if err != nil {
		return err
	}
	p, err := b.placeOf(ctx, id)
	if err != nil {
		return err
	}
	v := b.render(time.Now())
	if p.TS != "" || v.matters(r) {
		sent, err := b.showCard(ctx, v, &p, entry{Notice: announce.Notice{Entry: ledger.Entry{Seq: p.Seq}}, Request: r})
		if err = b.settle(ctx, entry{Notice: announce.Notice{Entry: ledger.Entry{Seq: p.Seq}}, Request: r}, err); err != nil {
			return err
		}
		if sent {
			if err := b.remember(ctx, id, p); err != nil {
				return err
			}
		}
	}
	ids, err := b.owed(ctx) // the announcer may have added to them
	if err != nil {
		return err
	}
	return b.setOwed(ctx, slices.DeleteFunc(ids, func(x string) bool { return x == id }))
}

// matters reports whether something can still be done about a request.
func (v render) matters(r *breakglass.Request) bool {
	return !r.State(v.now).Terminal() || !r.CloseBy(v.now).IsZero() || r.Unacknowledged()
}

// Untold says why Slack does not show a request that waits for people, or is empty: it shows it, or nobody waits.
func (b *Bot) Untold(ctx context.Context, r *breakglass.Request) string {
	now := time.Now()
	if !open(r.State(now)) {
		return ""
	}
	p, err := b.placeOf(ctx, r.ID)
	trouble := b.debts.said()
	switch {
	case err != nil || p.TS != "":
		return ""
	case trouble != nil:
		return trouble.Error()
	case now.Sub(r.At) < callTimeout:
		return "" // on its way
	}
	return "Slack has not taken the message yet"
}
