package slackbot

import (
	"context"
	"slices"

	"github.com/slack-go/slack"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/record"
)

// action is what a button or a form of one name does. A button has either a form, which a click opens, or a click, which carries it
// out; what was filled in a form of that name goes to send.
type action struct {
	// offered reports whether the form opens for a person without a question to the service; it only chooses what is shown. To others
	// the service says by the rule of may why not, and records that.
	offered func(v render, r *breakglass.Request, person string) bool
	may     breakglass.Action
	form    func(v render, r *breakglass.Request, person string) slack.ModalViewRequest
	click   func(ctx context.Context, b *Bot, a record.Actor, t target) error
	send    func(ctx context.Context, b *Bot, a record.Actor, t target, p *payload) error
}

// actions are the buttons and forms about a request that exists, by the names that Slack sends.
var actions = map[string]action{
	"review": {
		may: breakglass.ActionApprove,
		offered: func(v render, r *breakglass.Request, person string) bool {
			return decides(r, person) || !open(r.State(v.now))
		},
		form: render.review,
	},
	formApprove: {
		send: func(ctx context.Context, b *Bot, a record.Actor, t target, p *payload) error {
			_, err := b.cfg.Service.Approve(ctx, a, t.id, breakglass.Consent{Digest: t.digest, Comment: p.field(blockComment)})
			return err
		},
	},
	formTakeBack: {
		send: func(ctx context.Context, b *Bot, a record.Actor, t target, _ *payload) error {
			_, err := b.cfg.Service.TakeBack(ctx, a, t.id)
			return err
		},
	},
	formDeny: {
		may:     breakglass.ActionDeny,
		offered: func(_ render, r *breakglass.Request, person string) bool { return decides(r, person) },
		form:    func(v render, r *breakglass.Request, _ string) slack.ModalViewRequest { return v.deny(r) },
		send: func(ctx context.Context, b *Bot, a record.Actor, t target, p *payload) error {
			_, err := b.cfg.Service.Deny(ctx, a, t.id, p.field(blockReason))
			return err
		},
	},
	formRevoke: {
		may: breakglass.ActionRevoke,
		offered: func(v render, r *breakglass.Request, person string) bool {
			st := r.State(v.now)
			return (person == r.Ask.By.Person || v.mayAnswerFor(r, person)) &&
				(r.Revoked != nil || st == breakglass.StateActive || st == breakglass.StateApproved)
		},
		form: func(v render, r *breakglass.Request, person string) slack.ModalViewRequest {
			if r.Revoked != nil {
				return v.review(r, person)
			}
			return v.revoke(r)
		},
		send: func(ctx context.Context, b *Bot, a record.Actor, t target, p *payload) error {
			return b.revoke(ctx, a, t.id, p.field(blockReason))
		},
	},
	formSeen: {
		may: breakglass.ActionAcknowledge,
		offered: func(v render, r *breakglass.Request, person string) bool {
			return person != r.Ask.By.Person && v.mayAnswerFor(r, person) && r.Swept != nil
		},
		form: func(v render, r *breakglass.Request, _ string) slack.ModalViewRequest { return v.acknowledge(r) },
		send: func(ctx context.Context, b *Bot, a record.Actor, t target, p *payload) error {
			b.lookAgain(ctx, a, t.id)
			r, err := b.cfg.Service.Acknowledge(ctx, a, t.id, t.digest, p.field(blockNote))
			if err != nil {
				return err
			}
			return b.recorded(r.Acknowledged, a, "acknowledged it", p.field(blockNote))
		},
	},
	formClose: {
		may: breakglass.ActionClose,
		offered: func(v render, r *breakglass.Request, person string) bool {
			return person == r.Ask.By.Person && !r.EndedBy(v.now).IsZero()
		},
		form: func(v render, r *breakglass.Request, _ string) slack.ModalViewRequest { return v.closing(r) },
		send: func(ctx context.Context, b *Bot, a record.Actor, t target, p *payload) error {
			r, err := b.cfg.Service.Close(ctx, a, t.id, p.field(blockNote))
			if err != nil {
				return err
			}
			return b.recorded(r.Closed, a, "wrote the closing note", p.field(blockNote))
		},
	},
	"withdraw": {
		click: func(ctx context.Context, b *Bot, a record.Actor, t target) error {
			_, err := b.cfg.Service.Withdraw(ctx, a, t.id, "")
			return err
		},
	},
}

// decides reports whether a person's approval of a request can count.
func decides(r *breakglass.Request, person string) bool {
	return person != r.Ask.By.Person && slices.Contains(r.Ask.Quorum.People(), person)
}
