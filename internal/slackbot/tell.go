package slackbot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/slack-go/slack"

	"github.com/breakglassd/breakglass/internal/announce"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// place is where a request's card is, and how far the entry with index Seq has been told. It is kept as a bookmark beside the
// ledger; without it nothing is lost but the card's position: a new card is posted.
type place struct {
	Channel string `json:"channel,omitempty"`
	TS      string `json:"ts,omitempty"`
	Shown   string `json:"shown,omitempty"` // hash of the card as it is in Slack
	Seq     int64  `json:"seq"`
	Steps   int    `json:"steps"` // done for Seq, in the order of Tell

	Said  map[string]string `json:"said,omitempty"`  // by kind of line, the gist of the last one: see saidBefore
	Sweep string            `json:"sweep,omitempty"` // the last line of the thread that says what was left behind
}

const cardMark = "slack/card/" // and the request's id: where its place is kept

// placeOf returns where a request's card is. A request of which nothing was told yet has none.
func (b *Bot) placeOf(ctx context.Context, request string) (place, error) {
	p := place{Seq: -1}
	mark, err := b.cfg.Ledger.Bookmark(ctx, cardMark+request)
	if err == nil && mark != nil {
		err = json.Unmarshal(mark, &p)
	}
	if err != nil {
		return p, fmt.Errorf("reading where the card of %s is: %w", request, err)
	}
	return p, nil
}

// entry is what is told about one entry, and the request that the entry is about: nil for one about the access policy.
type entry struct {
	announce.Notice
	Request *breakglass.Request
}

// Tell implements announce.Messenger: the card, the thread, the private message, the button of a
// message that has had its answer. Findings are told by Findings. Each step is remembered when Slack has
// confirmed it, so a repetition goes on where it stopped; only a step whose confirmation was lost is done twice.
func (b *Bot) Tell(ctx context.Context, told announce.Notice) error {
	r, err := b.follow.Request(ctx, told.Entry, told.Event)
	if err != nil {
		return err
	}
	n := entry{Notice: told, Request: r}
	switch n.Event.(type) {
	case record.Refused, record.RefusedMore, record.Heartbeat:
		return nil // the person was told at once; the others are nobody's message
	}
	if said, ok := policyLine(n.Event); ok {
		if _, asks := n.Event.(policy.Proposed); time.Since(n.Time) > old && !(asks && n.Time.Equal(b.cfg.Service.InForce.Waits())) {
			return nil // history, as for requests
		}
		_, err := b.post(ctx, b.cfg.Channel, "", said)
		return b.settle(ctx, n, err)
	}
	if n.Request == nil {
		return nil
	}
	b.debts.telling.Lock()
	defer b.debts.telling.Unlock()
	p, err := b.placeOf(ctx, n.Request.ID)
	if err != nil {
		return err
	}
	if n.Seq < p.Seq {
		return nil
	}
	if n.Seq > p.Seq {
		p.Seq, p.Steps = n.Seq, 0
	}
	v := b.render(time.Now())
	if p.TS == "" && v.now.Sub(n.Time) > old && !v.matters(n.Request) {
		return nil // history: Slack was switched on later
	}
	for i, step := range []func(context.Context, render, *place, entry) (bool, error){b.showCard, b.addLine, b.writeLetter,
		b.markSweep} {
		if i < p.Steps {
			continue
		}
		sent, err := step(ctx, v, &p, n)
		if isBlocked(err) { // an operator must mend it: nothing else waits for that
			b.log.Error("slack takes no message until this is mended", slog.String("request", n.Request.ID), slog.Int64("entry", n.Seq),
				slog.Any("error", advise(err)))
			err = b.owe(ctx, n.Request.ID)
		}
		if err = b.settle(ctx, n, err); err != nil {
			return err
		}
		p.Steps = i + 1
		if !sent {
			continue
		}
		if err := b.remember(ctx, n.Request.ID, p); err != nil {
			return err
		}
	}
	return nil
}

func (b *Bot) remember(ctx context.Context, request string, p place) error {
	mark, err := json.Marshal(p)
	if err == nil {
		err = b.cfg.Ledger.SetBookmark(ctx, cardMark+request, mark)
	}
	if err != nil {
		return fmt.Errorf("remembering where the card of %s is: %w", request, err)
	}
	return nil
}

// isBlocked reports whether Slack refuses until an operator mends something.
func isBlocked(err error) bool {
	e := (*apiError)(nil)
	return errors.As(err, &e) && e.outcome == OutcomeBlocked
}

// settle turns the error of a call into what the announcer needs: nil for a refusal that no other try cures, and an error,
// after the time that Slack asked for, for everything else.
func (b *Bot) settle(ctx context.Context, n entry, err error) error {
	e := (*apiError)(nil)
	if !errors.As(err, &e) {
		return err
	}
	if e.outcome == OutcomePermanent {
		b.log.Error("slack does not take a message: it is not sent", slog.String("request", about(n)), slog.Int64("entry", n.Seq),
			slog.String("method", e.method), slog.String("code", e.code))
		return nil
	}
	return waitFor(ctx, e, fmt.Sprintf("telling entry %d of %s", n.Seq, about(n)))
}

// waitFor waits for the time that Slack asked for, if any, and returns the error that has the call tried again.
func waitFor(ctx context.Context, e *apiError, doing string) error {
	if e.after > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(e.after):
		}
	}
	return fmt.Errorf("%s: %w", doing, e)
}

// showCard posts the card, or edits it if it would look different. The latest state wins: after an outage one edit does.
func (b *Bot) showCard(ctx context.Context, v render, p *place, n entry) (bool, error) {
	m := v.card(n.Request)
	shown := m.hash()
	if p.TS != "" {
		if p.Shown == shown {
			return false, nil
		}
		err := b.edit(ctx, p.Channel, p.TS, m)
		if err == nil {
			p.Shown = shown
			return true, nil
		}
		if lost := isBlocked(err) && p.Channel != b.cfg.Channel; !lost && !unlike(err) {
			return false, b.noted(ctx, p.Channel, err)
		}
		b.log.Warn("the card cannot be changed any more: posting a new one", slog.String("request", n.Request.ID), slog.Any("error", err))
	}
	ts, err := b.post(ctx, b.cfg.Channel, "", m)
	if err != nil {
		return false, err
	}
	before := *p
	p.Channel, p.TS, p.Shown, p.Sweep = b.cfg.Channel, ts, shown, ""
	if before.TS != "" {
		b.pointFrom(ctx, before, *p, n.Request.ID)
	}
	return true, nil
}

// pointFrom says under a card that cannot be changed any more where the request is now. That is a kindness: without it, what the card
// offers is still refused.
func (b *Bot) pointFrom(ctx context.Context, before, now place, request string) {
	there := "in the message about " + escape(request)
	if link := b.link(ctx, now.Channel, now.TS); link != "" {
		there = "<" + link + "|" + there + ">"
	}
	m := line("this card is not kept up to date any more ("+request+")", ":no_entry_sign: *The card above is not kept up to date any "+
		"more*: Slack does not let it be changed. How it stands is "+there+".", "", request)
	if err := b.call(ctx, "chat.postMessage", callTimeout, func(ctx context.Context) error {
		_, _, err := b.slack.PostMessageContext(ctx, before.Channel, m.options(slack.MsgOptionTS(before.TS))...)
		return err
	}); err != nil {
		b.log.Warn("saying where the new card is", slog.String("request", request), slog.Any("error", err))
	}
}

// addLine adds the entry's line to the card's thread. Without a card there is no thread. What was said before in the same words
// is not said again.
func (b *Bot) addLine(ctx context.Context, v render, p *place, n entry) (bool, error) {
	m, ok := v.timeline(n)
	kind, gist := saidBefore(n.Event)
	if !ok || p.TS == "" || kind != "" && p.Said[kind] == gist {
		return false, nil
	}
	ts, err := b.post(ctx, p.Channel, p.TS, m)
	if err != nil {
		return false, err
	}
	if kind != "" {
		if p.Said == nil {
			p.Said = map[string]string{}
		}
		p.Said[kind] = gist
	}
	if kind == "swept" {
		p.Sweep = ts
	}
	return true, nil
}

// markSweep takes the button off the message about what was left behind when a second person has seen it.
func (b *Bot) markSweep(ctx context.Context, v render, p *place, n entry) (bool, error) {
	if _, ok := n.Event.(breakglass.Acknowledged); !ok || p.Sweep == "" || n.Request.Swept == nil || n.Request.Acknowledged == nil {
		return false, nil
	}
	err := b.edit(ctx, p.Channel, p.Sweep, v.swept(*n.Request.Swept, n.Request))
	return err == nil, err
}

// writeLetter tells the requester in private. People without a Slack account use the command line, which tells them itself.
func (b *Bot) writeLetter(ctx context.Context, v render, _ *place, n entry) (bool, error) {
	m, ok := v.letter(n)
	if !ok {
		return false, nil
	}
	user, ok := v.account(n.Request.Ask.By.Person)
	if by := n.Request.Ask.By.Slack; by != nil {
		user, ok = by.User, true
	}
	if !ok {
		return false, nil
	}
	err := b.private(ctx, user, m)
	return err == nil, err
}
