package slackbot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slack-go/slack"

	"github.com/breakglassd/breakglass/internal/breakglass"
)

// The deadlines of calls to Slack.
const (
	callTimeout = 10 * time.Second // when nobody waits
	longestWait = 5 * time.Minute  // of a Retry-After that is believed
)

// waits are the deadlines while Slack waits for an answer, for 3 s, network included.
type waits struct {
	answer time.Duration // everything that happens before an incoming request is answered
	open   time.Duration // views.open and users.info
	show   time.Duration // chat.postEphemeral after one of those: together within answer
}

var whileSlackWaits = waits{answer: 2500 * time.Millisecond, open: 1500 * time.Millisecond, show: 800 * time.Millisecond}

// accountTTL is how long a look at the flags of an account holds.
const accountTTL = 5 * time.Minute

// curable reports whether another try, or an operator with a new token, may cure a refusal of Slack. Messages wait for a new
// token; the question whether the token is good has then been answered.
func curable(method, code string) bool {
	switch code {
	case "internal_error", "fatal_error", "service_unavailable", "request_timeout", "ratelimited", "rate_limited":
		return true
	case "invalid_auth", "not_authed", "token_revoked", "token_expired", "account_inactive":
		return method != "auth.test"
	}
	return false
}

var codePattern = regexp.MustCompile(`^[a-z_]{1,60}$`)

// apiError is a call to Slack that did not work, in words that are safe to log: nothing of the answer but a code.
type apiError struct {
	method  string
	code    string
	outcome string
	after   time.Duration // for OutcomeRateLimited
}

func (e *apiError) Error() string { return "slack " + e.method + ": " + e.code }

// isCode reports whether Slack refused with exactly this code.
func isCode(err error, code string) bool {
	e := (*apiError)(nil)
	return errors.As(err, &e) && e.code == code
}

func classify(method string, err error) *apiError {
	limited, status, refused := (*slack.RateLimitedError)(nil), slack.StatusCodeError{}, slack.SlackErrorResponse{}
	switch {
	case errors.As(err, &limited):
		return &apiError{method, "rate limited", OutcomeRateLimited, min(max(limited.RetryAfter, time.Second), longestWait)}
	case errors.As(err, &status):
		return &apiError{method, fmt.Sprintf("answered HTTP %d", status.Code), OutcomeUnreachable, 0}
	case errors.As(err, &refused):
		code := refused.Err
		if !codePattern.MatchString(code) {
			code = "refused"
		}
		if curable(method, code) {
			return &apiError{method, code, OutcomeUnreachable, 0}
		}
		return &apiError{method, code, OutcomePermanent, 0}
	case errors.Is(err, context.DeadlineExceeded):
		return &apiError{method, "no answer in time", OutcomeUnreachable, 0}
	}
	return &apiError{method, "not reachable", OutcomeUnreachable, 0}
}

// call runs one Web API call with a deadline. The error is an *apiError.
func (b *Bot) call(ctx context.Context, method string, timeout time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	start := time.Now()
	err := do(ctx)
	if err == nil {
		b.cfg.Observe(method, OutcomeOK, time.Since(start))
		return nil
	}
	e := classify(method, err)
	b.cfg.Observe(method, e.outcome, time.Since(start))
	return e
}

// message is one rendered message. Text is for notifications and screen readers and holds nothing that people wrote.
type message struct {
	text      string
	blocks    []slack.Block
	broadcast bool // a reply in a thread that the channel sees too
}

// hash tells messages apart that look different.
func (m message) hash() string {
	raw, err := json.Marshal(m.blocks)
	if err != nil {
		panic("encoding a message: " + err.Error()) // only plain data types: cannot happen
	}
	sum := sha256.Sum256(append(raw, m.text...))
	return hex.EncodeToString(sum[:8])
}

func (m message) options(more ...slack.MsgOption) []slack.MsgOption {
	return append(more, slack.MsgOptionText(m.text, false), slack.MsgOptionBlocks(m.blocks...), slack.MsgOptionLinkNames(false),
		slack.MsgOptionDisableLinkUnfurl(), slack.MsgOptionDisableMediaUnfurl())
}

func (b *Bot) post(ctx context.Context, channel, thread string, m message) (string, error) {
	var more []slack.MsgOption
	if thread != "" {
		more = append(more, slack.MsgOptionTS(thread))
		if m.broadcast {
			more = append(more, slack.MsgOptionBroadcast())
		}
	}
	ts := ""
	err := b.call(ctx, "chat.postMessage", callTimeout, func(ctx context.Context) (err error) {
		_, ts, err = b.slack.PostMessageContext(ctx, channel, m.options(more...)...)
		return err
	})
	return ts, err
}

func (b *Bot) edit(ctx context.Context, channel, ts string, m message) error {
	return b.call(ctx, "chat.update", callTimeout, func(ctx context.Context) error {
		_, _, _, err := b.slack.UpdateMessageContext(ctx, channel, ts, m.options()...)
		return err
	})
}

// private posts to the direct message with a user.
func (b *Bot) private(ctx context.Context, user string, m message) error {
	channel := ""
	err := b.call(ctx, "conversations.open", callTimeout, func(ctx context.Context) error {
		c, _, _, err := b.slack.OpenConversationContext(ctx, &slack.OpenConversationParameters{Users: []string{user}})
		if err == nil {
			channel = c.ID
		}
		return err
	})
	if err != nil {
		return err
	}
	_, err = b.post(ctx, channel, "", m)
	return err
}

// whisper shows a sentence to one person in a channel. When Slack does not take it, the click is answered with an error, so
// that the person does not believe that it worked.
func (b *Bot) whisper(ctx context.Context, channel, user, sentence string) error {
	m := message{text: escape(sentence), blocks: []slack.Block{section("", plain(sentence))}}
	err := b.call(ctx, "chat.postEphemeral", b.wait.show, func(ctx context.Context) error {
		_, err := b.slack.PostEphemeralContext(ctx, channel, user, m.options()...)
		return err
	})
	if err != nil {
		return &problem{http.StatusServiceUnavailable, OutcomeError, err.Error()}
	}
	return nil
}

func (b *Bot) open(ctx context.Context, trigger string, v slack.ModalViewRequest) error {
	return b.call(ctx, "views.open", b.wait.open, func(ctx context.Context) error {
		_, err := b.slack.OpenViewContext(ctx, trigger, v)
		return err
	})
}

// Check asks Slack who the bot is. The error says what is wrong and what to do.
func (b *Bot) Check(ctx context.Context) error {
	return b.call(ctx, "auth.test", callTimeout, func(ctx context.Context) error {
		me, err := b.slack.AuthTestContext(ctx)
		if err == nil && !slices.Contains(b.cfg.TeamIDs, me.TeamID) {
			return slack.SlackErrorResponse{Err: "token_of_another_workspace"}
		}
		return err
	})
}

// accounts remembers which accounts were found to be those of full members.
type accounts struct {
	mu   sync.Mutex // guards seen; held for map operations only
	seen map[string]time.Time
}

func (a *accounts) fresh(user string, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, ok := a.seen[user]
	return ok && now.Sub(at) < accountTTL
}

func (a *accounts) put(user string, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen[user] = now
}

// vet makes sure that the account behind an actor is that of a full member of the workspace. The error is a refusal; it is
// one too when Slack cannot tell.
func (b *Bot) vet(ctx context.Context, a breakglass.Actor, command string) error {
	now := time.Now()
	id := a.Slack.User
	if b.users.fresh(id, now) {
		return nil
	}
	var u *slack.User
	err := b.call(ctx, "users.info", b.wait.open, func(ctx context.Context) (err error) {
		u, err = b.slack.GetUserInfoContext(ctx, id)
		return err
	})
	if err != nil {
		b.log.Warn("an account could not be checked", slog.String("user", id), slog.Any("error", err))
		return &breakglass.Refusal{Class: breakglass.ClassUnavailable, Code: "slack/account",
			Why: "Slack could not confirm your account, so nothing was changed", Next: "try again, or use the command line, which needs no Slack: breakglass --help"}
	}
	var flags []string
	for _, f := range []struct {
		set  bool
		name string
	}{
		{u.ID != id, "another account"}, {u.Deleted, "deactivated"}, {u.IsBot, "a bot"}, {u.IsRestricted, "a guest"},
		{u.IsUltraRestricted, "a single-channel guest"}, {u.IsStranger, "from another organization"},
	} {
		if f.set {
			flags = append(flags, f.name)
		}
	}
	if len(flags) == 0 {
		b.users.put(id, now)
		return nil
	}
	stranger := breakglass.Actor{Channel: a.Channel, Slack: a.Slack}
	if err := b.cfg.Service.RecordStranger(ctx, stranger, command); err != nil {
		if _, ok := breakglass.AsRefusal(err); !ok {
			return err
		}
	}
	return &breakglass.Refusal{Class: breakglass.ClassDenied, Code: "slack/account",
		Why: "your Slack account is " + strings.Join(flags, " and "), Next: "only full members of this workspace may use this; with an SSH key in the access policy use the command line"}
}
