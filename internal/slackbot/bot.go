// Package slackbot is Slack in both directions: it turns signed requests from Slack into commands to the breakglass service,
// and ledger entries into messages. It renders and translates and holds no rule: who may do what is decided by the service, by
// the person that the access policy names for a Slack account, and never by what a message, a channel or a user group says.
//
// # In
//
// Handler serves two endpoints. A request is believed when Slack's signature covers its body, it is fresh, it was never seen
// before (a durable table, so a restart forgets nothing), and it names our app and our workspace. A decision is in the ledger
// before it is answered, within Slack's three seconds, whatever else hangs: the only calls to Slack on that way are the ones
// that open a form, look at the flags of the person's account, or show a refusal to one person, and all are bounded together.
//
// # Out
//
// Bot is an announce.Messenger. Each request has one card in the approval channel, edited in place, a thread under it with
// one line per fact, and private messages to the requester. No secret is ever in any of them. How far each ledger entry was
// told is kept beside the ledger, so that a crash or a lost answer repeats one message at most and loses none. What Slack refuses
// until an operator mends something (Run) is shown as it is once Slack takes it; until then there is a finding.
//
// After the grant the same thread has what followed it: which API servers refuse a revoked certificate, what was done, what was
// left behind and who has seen it, the closing note. Bot.Findings is a messenger of its own for what checks found, so that no
// flood of findings delays a card.
//
// Text that people wrote, or that came from a cluster, is shown in plain_text and rich_text elements only, where Slack
// interprets nothing.
package slackbot

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slack-go/slack"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/recert"
	"github.com/breakglassd/breakglass/internal/text"
)

// Secret is text that never prints.
type Secret = text.Secret

// Config is what New needs.
type Config struct {
	Service       *breakglass.Service
	Campaigns     *campaign.Book
	Ledger        *ledger.Ledger // for the replay table and the positions of the cards
	BotToken      Secret         // xoxb-…
	SigningSecret Secret
	AppID         string          // A…: payloads for another app are refused
	TeamIDs       []string        // T…: the workspaces that payloads are believed from, and that people may be members of
	EnterpriseID  string          // E…, when the workspaces belong to an Enterprise Grid
	Channel       string          // C… or G…: the approval channel; the bot must be a member
	Command       string          // default /breakglass
	APIURL        string          // default Slack's; ends with a slash
	Recert        *recert.Service // recertification campaigns; nil: there are none here
	Log           *slog.Logger
	// Observe is told what happened: what is "commands", "interactions" or a Web API method, outcome one of the Outcome
	// constants. Both have few values. May be nil.
	Observe func(what, outcome string, took time.Duration)
}

// The outcomes that Config.Observe is told.
const (
	OutcomeOK          = "ok"
	OutcomeUnverified  = "unverified"   // an incoming request without a good signature
	OutcomeReplayed    = "replayed"     // an incoming request seen before
	OutcomeMalformed   = "malformed"    // an incoming request that is signed, but not what the endpoint takes
	OutcomeError       = "error"        // an incoming request that could not be carried out
	OutcomeRateLimited = "rate-limited" // Slack asked to wait
	OutcomeUnreachable = "unreachable"  // Slack gave no usable answer
	OutcomeBlocked     = "blocked"      // Slack refuses until an operator mends something: the channel, the app's scopes, its access
	OutcomePermanent   = "permanent"    // Slack refused for good
)

var (
	appPattern        = regexp.MustCompile(`^A[A-Z0-9]{2,31}$`)
	teamPattern       = regexp.MustCompile(`^T[A-Z0-9]{2,31}$`)
	enterprisePattern = regexp.MustCompile(`^E[A-Z0-9]{2,31}$`)
	channelPattern    = regexp.MustCompile(`^[CG][A-Z0-9]{2,31}$`)
	commandPattern    = regexp.MustCompile(`^/[a-z0-9_-]{1,31}$`)
)

// Bot is the Slack app. It is safe for concurrent use.
type Bot struct {
	cfg   Config
	log   *slog.Logger
	slack *slack.Client
	users accounts
	wait  waits
	forms sync.Mutex // held while a form opens a request: the same form twice at one instant must open one
	debts debts
	// follow is for Tell, which one goroutine calls.
	follow *breakglass.Follower
}

// New checks the configuration and reports everything that is wrong with it. It does not call Slack: see Check.
func New(cfg Config) (*Bot, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Observe == nil {
		cfg.Observe = func(string, string, time.Duration) {}
	}
	if cfg.Command == "" {
		cfg.Command = "/breakglass"
	}
	if cfg.APIURL == "" {
		cfg.APIURL = slack.APIURL
	}
	var bad []string
	need := func(ok bool, problem string) {
		if !ok {
			bad = append(bad, problem)
		}
	}
	need(cfg.Service != nil && cfg.Campaigns != nil && cfg.Ledger != nil, "service, campaigns and ledger are required")
	if strings.HasPrefix(string(cfg.BotToken), "xoxe") {
		need(false, "the bot token is one that expires (xoxe…): breakglass does not rotate tokens; make the app anew with "+
			"token_rotation_enabled: false, as in deploy/slack/manifest.yaml, for rotation cannot be switched off again")
	} else {
		need(strings.HasPrefix(string(cfg.BotToken), "xoxb-"), "the bot token must be a bot user token (xoxb-…), from OAuth & Permissions "+
			"of the Slack app")
	}
	need(len(cfg.SigningSecret) >= 16, "the signing secret is missing or too short; it is under Basic Information of the Slack app")
	need(appPattern.MatchString(cfg.AppID), "the app id must be one like A0123456789, from Basic Information of the Slack app")
	need(len(cfg.TeamIDs) > 0, "at least one team id (T…) is required: the workspace whose people may use this")
	need(!slices.ContainsFunc(cfg.TeamIDs, func(id string) bool { return !teamPattern.MatchString(id) }),
		"each team id must be one like T0123456789")
	need(cfg.EnterpriseID == "" || enterprisePattern.MatchString(cfg.EnterpriseID), "the enterprise id must be one like E0123456789")
	need(channelPattern.MatchString(cfg.Channel), "the channel must be an id like C0123456789, not a name: open the channel's details in "+
		"Slack to copy it")
	need(commandPattern.MatchString(cfg.Command), "the command must be one like /breakglass")
	need(strings.HasSuffix(cfg.APIURL, "/"), "the API address must end with a slash")
	if len(bad) > 0 {
		return nil, errors.New("slack: " + strings.Join(bad, "; "))
	}
	b := &Bot{cfg: cfg, log: cfg.Log, follow: cfg.Service.Follow(), users: accounts{seen: map[string]time.Time{}}, wait: whileSlackWaits,
		debts: debts{troubles: map[string]*apiError{}, wake: make(chan struct{}, 1)}}
	b.slack = slack.New(string(cfg.BotToken), slack.OptionAPIURL(cfg.APIURL), slack.OptionHTTPClient(&http.Client{
		Timeout: callTimeout,
		// Slack's API does not redirect. Following one would carry the token elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}))
	return b, nil
}

// Handler serves POST /slack/commands and POST /slack/interactions, and nothing else.
func (b *Bot) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /slack/commands", b.endpoint("commands", b.command))
	mux.Handle("POST /slack/interactions", b.endpoint("interactions", b.interaction))
	return mux
}

// A problem is an answer to Slack that is not a success. It tells nothing but its status.
type problem struct {
	status  int
	outcome string
	detail  string // for the log
}

func (p *problem) Error() string { return p.detail }

func malformed(detail string) error {
	return &problem{http.StatusBadRequest, OutcomeMalformed, detail}
}

// endpoint verifies, hands the signed body on, and answers with what comes back as JSON; nil is an empty answer.
func (b *Bot) endpoint(name string, handle func(context.Context, []byte) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		ctx, cancel := context.WithTimeout(r.Context(), b.wait.answer)
		defer cancel()
		body, err := b.accept(ctx, w, r, start)
		var answer any
		if err == nil {
			answer, err = handle(ctx, body)
		}
		outcome := OutcomeOK
		w.Header().Set("Cache-Control", "no-store")
		switch p := (*problem)(nil); {
		case err == nil && answer == nil:
			w.WriteHeader(http.StatusOK)
		case err == nil:
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			if err := json.NewEncoder(w).Encode(answer); err != nil {
				b.log.Warn("answering slack", slog.String("endpoint", name), slog.Any("error", err))
			}
		case errors.As(err, &p):
			outcome = p.outcome
			b.log.Warn("slack request refused", slog.String("endpoint", name), slog.String("outcome", outcome), slog.String("detail", p.detail),
				slog.String("remote", r.RemoteAddr))
			w.WriteHeader(p.status)
		default:
			outcome = OutcomeError
			b.log.Error("slack request not carried out", slog.String("endpoint", name), slog.Any("error", err))
			w.WriteHeader(http.StatusInternalServerError)
		}
		b.cfg.Observe(name, outcome, time.Since(start))
	})
}
