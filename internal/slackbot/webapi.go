package slackbot

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/slack-go/slack"

	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/retry"
	"github.com/breakglassd/breakglass/internal/text"
)

// The deadlines of calls to Slack.
const (
	callTimeout = 10 * time.Second // when nobody waits
	longestWait = 5 * time.Minute  // of a Retry-After that is believed
)

// waits are the deadlines while Slack waits for an answer, for 3 s, network included, and the pause of Run.
type waits struct {
	answer time.Duration // everything that happens before an incoming request is answered
	open   time.Duration // views.open and users.info
	show   time.Duration // chat.postEphemeral after one of those: together within answer

	cluster time.Duration // of a cluster that is told of a revocation which is recorded
	pay     retry.Backoff // before Run tries again what Slack refused
}

var whileSlackWaits = waits{answer: 2500 * time.Millisecond, open: 1500 * time.Millisecond, show: 800 * time.Millisecond,
	cluster: 400 * time.Millisecond,
	pay:     retry.Backoff{First: 5 * time.Second, Last: time.Minute}}

// accountTTL is how long a look at the flags of an account holds.
const accountTTL = 5 * time.Minute

// curable reports whether another try, or an operator with a new token, may cure a refusal of Slack. Messages wait for a new
// token; the question whether the token is good has then been answered.
func curable(method, code string) bool {
	switch code {
	case "internal_error", "fatal_error", "service_unavailable", "request_timeout", "ratelimited", "rate_limited", "message_limit_exceeded",
		"team_added_to_org", "org_login_required", "external_channel_migrating", "update_failed":
		return true
	case "invalid_auth", "not_authed", "token_revoked", "token_expired", "account_inactive":
		return method != "auth.test"
	}
	return false
}

// mendable reports whether an operator can mend what Slack refuses: the channel to post to, or what the app may do. Like a token, that
// is nobody's message to lose. The codes are those of chat.postMessage, chat.update and conversations.open in Slack's reference.
func mendable(method, code string) bool {
	if method == "auth.test" {
		return false // the question has been answered
	}
	switch code {
	case "not_in_channel", "channel_not_found", "is_archived", "is_inactive", "no_permission", "missing_scope", "not_allowed_token_type",
		"access_denied",
		"ekm_access_denied", "enterprise_is_restricted", "team_access_not_granted", "team_not_found", "two_factor_setup_required",
		"accesslimited",
		"user_is_restricted", "messages_tab_disabled":
		return true
	}
	return strings.HasPrefix(code, "restricted_action")
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

// unlike reports whether Slack refused an edit for good because of the message that was to be edited: another message with the same
// content may be taken.
func unlike(err error) bool {
	e := (*apiError)(nil)
	if !errors.As(err, &e) || e.outcome != OutcomePermanent {
		return false
	}
	switch e.code {
	case "msg_too_long", "msg_blocks_too_long", "no_text", "invalid_arguments", "refused":
		return false
	}
	return !strings.HasPrefix(e.code, "invalid_blocks")
}

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
		if mendable(method, code) {
			return &apiError{method, code, OutcomeBlocked, 0}
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
	return text.SHA256(append(raw, m.text...))[:16]
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
	return ts, b.noted(ctx, channel, err)
}

func (b *Bot) edit(ctx context.Context, channel, ts string, m message) error {
	return b.call(ctx, "chat.update", callTimeout, func(ctx context.Context) error {
		_, _, _, err := b.slack.UpdateMessageContext(ctx, channel, ts, m.options()...)
		return err
	})
}

// link is the address of a message; empty when Slack does not say.
func (b *Bot) link(ctx context.Context, channel, ts string) string {
	link := ""
	err := b.call(ctx, "chat.getPermalink", callTimeout, func(ctx context.Context) (err error) {
		link, err = b.slack.GetPermalinkContext(ctx, &slack.PermalinkParameters{Channel: channel, Ts: ts})
		return err
	})
	if u, bad := url.Parse(link); err != nil || bad != nil || u.Scheme != "https" || strings.ContainsAny(link, "<>| ") {
		return ""
	}
	return link
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
	if err == nil {
		_, err = b.post(ctx, channel, "", m)
	}
	return b.noted(ctx, "", err)
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

// Check asks Slack who the bot is, and holds all that Slack says against the configuration. The error says what is wrong and what
// to do.
func (b *Bot) Check(ctx context.Context) error {
	var me *slack.AuthTestResponse
	err := b.call(ctx, "auth.test", callTimeout, func(ctx context.Context) (err error) {
		me, err = b.slack.AuthTestContext(ctx)
		return err
	})
	if err != nil {
		return advise(err)
	}
	return cmp.Or(b.installed(me.TeamID, me.EnterpriseID), b.debts.said())
}

// CheckChannel asks Slack whether the app can post to the approval channel, in a way that nobody sees and that needs no scope beyond
// those it has: a message is scheduled for tomorrow, and the order is taken back. The error says what to do.
func (b *Bot) CheckChannel(ctx context.Context) error {
	m := message{text: "breakglass has looked whether it can post here. This message was to be taken back before anybody sees it: it may " +
		"be deleted."}
	m.blocks = []slack.Block{section("", plain(m.text))}
	id := ""
	err := b.call(ctx, "chat.scheduleMessage", callTimeout, func(ctx context.Context) (err error) {
		at := strconv.FormatInt(time.Now().Add(24*time.Hour).Unix(), 10)
		_, id, err = b.slack.ScheduleMessageContext(ctx, b.cfg.Channel, at, m.options()...)
		return err
	})
	if err != nil {
		return advise(err)
	}
	return b.call(ctx, "chat.deleteScheduledMessage", callTimeout, func(ctx context.Context) error {
		_, err := b.slack.DeleteScheduledMessageContext(ctx, &slack.DeleteScheduledMessageParameters{Channel: b.cfg.Channel,
			ScheduledMessageID: id})
		return err
	})
}

// installed reports what is wrong with the place that the token is for. The token of an app that is installed for a whole
// organization names the organization, or nothing, in place of a workspace.
func (b *Bot) installed(team, enterprise string) error {
	whole := !teamPattern.MatchString(team)
	switch {
	case enterprise != "" && b.cfg.EnterpriseID == "":
		return fmt.Errorf("slack: the workspace belongs to the Enterprise organization %.40q and slack.enterprise_id is empty: every click "+
			"and command would be refused; set slack.enterprise_id to %.40q", enterprise, enterprise)
	case enterprise == "" && b.cfg.EnterpriseID != "":
		return fmt.Errorf("slack: slack.enterprise_id is %s, but the workspace of the bot token belongs to no organization: empty "+
			"slack.enterprise_id, or use the token of another workspace", b.cfg.EnterpriseID)
	case enterprise != b.cfg.EnterpriseID:
		return fmt.Errorf("slack: the bot token is of another organization (%.40q) than slack.enterprise_id (%s)", enterprise, b.cfg.EnterpriseID)
	case whole && enterprise == "":
		return errors.New("slack: Slack does not say of which workspace the bot token is: use the bot token (xoxb-…) of the app, under " +
			"OAuth & Permissions")
	case !whole && !slices.Contains(b.cfg.TeamIDs, team):
		return fmt.Errorf("slack: the bot token is of another workspace (%.40q) than slack.team_ids names (%s): correct slack.team_ids, or "+
			"take the token of the app's installation there",
			team, strings.Join(b.cfg.TeamIDs, ", "))
	}
	return nil
}

// advise adds to an error of Slack what an operator can do about it, where that is known.
func advise(err error) error {
	e := (*apiError)(nil)
	if !errors.As(err, &e) {
		return err
	}
	if next := adviceFor(e.code); next != "" {
		return fmt.Errorf("%w: %s", err, next)
	}
	return err
}

// adviceFor is what an operator can do about a code; empty for those that say nothing of the kind.
func adviceFor(code string) string {
	const admins = "the workspace or the channel lets only some people post: an administrator must let the app"
	next := map[string]string{
		"not_in_channel": "invite the app to the channel: /invite @breakglass",
		"channel_not_found": "slack.channel is not the id of a channel that the app sees: correct it, or invite the app (a private " +
			"channel is seen by its members only)",
		"is_archived":            "unarchive the channel and invite the app again, which archiving throws out; or name another in slack.channel",
		"is_inactive":            "unarchive the channel and invite the app again, which archiving throws out; or name another in slack.channel",
		"no_permission":          "invite the app to the channel: /invite @breakglass",
		"messages_tab_disabled":  "switch on the Messages tab under App Home of the Slack app, as deploy/slack/manifest.yaml has it",
		"not_allowed_token_type": "use the bot token (xoxb-…) of the app, under OAuth & Permissions",
		"ekm_access_denied":      "the organization's administrators have suspended messages (Enterprise Key Management)",
		"user_is_restricted":     admins,
		"invalid_auth":           "take the bot token anew from OAuth & Permissions of the Slack app",
		"not_authed":             "take the bot token anew from OAuth & Permissions of the Slack app",
		"token_revoked":          "the app was removed: install it again, and take the new bot token",
		"account_inactive":       "the app was removed, or its workspace is gone: install it again, and take the new bot token",
		"token_expired": "the app rotates its tokens, which breakglass does not do: make the app with token_rotation_enabled: " +
			"false, for it cannot be switched off again",
		"missing_scope": "give the app the scopes of deploy/slack/manifest.yaml and install it again",
		"team_access_not_granted": "the app is installed for the organization, and not added to the workspace: add it there, in the " +
			"organization's app management",
		"org_login_required":        "the workspace is being moved into an organization: wait until that is done",
		"two_factor_setup_required": "the workspace asks for two-factor authentication: an administrator must let the app pass",
		"accesslimited":             "the workspace's list of allowed IP addresses does not have this daemon's",
	}[code]
	if next == "" && strings.HasPrefix(code, "restricted_action") {
		next = admins
	}
	return next
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

// elsewhere reports whether an account is of another workspace and organization than ours. In a channel that is shared with
// them Slack does not call such people strangers.
func (b *Bot) elsewhere(u *slack.User) bool {
	if b.cfg.EnterpriseID != "" && u.Enterprise.EnterpriseID != "" {
		return u.Enterprise.EnterpriseID != b.cfg.EnterpriseID
	}
	return u.TeamID != "" && u.TeamID != b.cfg.EnterpriseID && !slices.Contains(b.cfg.TeamIDs, u.TeamID)
}

// vet makes sure that the account behind an actor is that of a full member of the workspace. The error is a refusal; it is
// one too when Slack cannot tell.
func (b *Bot) vet(ctx context.Context, a record.Actor, command string) error {
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
		return &record.Refusal{Class: record.ClassUnavailable, Code: "slack/account",
			Why:  "Slack could not confirm your account, so nothing was changed",
			Next: "try again, or use the command line, which needs no Slack: breakglass --help"}
	}
	var flags []string
	for _, f := range []struct {
		set  bool
		name string
	}{
		{u.ID != id, "another account"}, {u.Deleted, "deactivated"}, {u.IsBot, "a bot"}, {u.IsRestricted, "a guest"},
		{u.IsUltraRestricted, "a single-channel guest"}, {u.IsStranger || b.elsewhere(u), "from another organization"},
	} {
		if f.set {
			flags = append(flags, f.name)
		}
	}
	if len(flags) == 0 {
		b.users.put(id, now)
		return nil
	}
	stranger := record.Actor{Channel: a.Channel, Slack: a.Slack}
	if err := b.cfg.Service.RecordStranger(ctx, stranger, command); err != nil {
		if _, ok := record.AsRefusal(err); !ok {
			return err
		}
	}
	return &record.Refusal{Class: record.ClassDenied, Code: "slack/account",
		Why:  "your Slack account is " + strings.Join(flags, " and "),
		Next: "only full members of this workspace may use this; with an SSH key in the access policy use the command line"}
}
