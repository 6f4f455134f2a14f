package slackbot_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/announce"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	slacksim "github.com/breakglassd/breakglass/internal/sim/slack"
	"github.com/breakglassd/breakglass/internal/slackbot"
)

const (
	channel = "C0APPROVE"
	token   = "xoxb-canary-of-the-bot-token"
	secret  = "canary-of-the-signing-secret"
)

// world is a whole system with a Slack workspace and the bot between them, over real HTTP.
type world struct {
	*bgtest.System
	t        *testing.T
	sim      *slacksim.Sim
	app      *httptest.Server
	api      string // the address of the simulated Slack
	bot      atomic.Pointer[slackbot.Bot]
	findings lane
	campaign lane
	log      *logs
	conf     func(*slackbot.Config)
	hurried  bool   // the bot has its own deadlines
	stop     func() // ends the bot's Run, and waits for that
	// tell, when set, stands between the service and the bot.
	tell atomic.Pointer[func(*slackbot.Bot, announce.Notice) error]
}

// onTell sets tell.
func (w *world) onTell(do func(*slackbot.Bot, announce.Notice) error) { w.tell.Store(&do) }

// lane is a messenger of the bot that runs now, which the daemon announces to beside the bot.
type lane struct {
	m atomic.Pointer[announce.Messenger]
}

func (l *lane) Tell(ctx context.Context, n announce.Notice) error {
	m := l.m.Load()
	if m == nil {
		return errors.New("restarting")
	}
	return (*m).Tell(ctx, n)
}

func (l *lane) run(m announce.Messenger) { l.m.Store(&m) }

// logs collects everything that is logged.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

type option func(*world, *slacksim.Config, *bgtest.Options)

// hurry is for what must be answered although something hangs: the bot has the deadlines that it has in production. Slack waits
// longer than a busy machine needs for that, and shorter than for anything that has no such deadline.
func hurry(w *world, sc *slacksim.Config, _ *bgtest.Options) {
	w.hurried, sc.AckWithin = true, 8*time.Second
}

func newWorld(t *testing.T, options ...option) *world {
	t.Helper()
	w := &world{t: t, log: &logs{}, stop: func() {}}
	sc := slacksim.Config{TeamID: "T01", TeamDomain: "acme", AppID: "A0BREAK", BotToken: token, SigningSecret: secret, Command: "/breakglass",
		AckWithin: 30 * time.Second, TriggerLife: 30 * time.Second, // Slack's 3 s are too short for a busy machine
		Channels: []slacksim.Channel{{ID: channel, Name: "breakglass-approvals"}},
		Users:    []slacksim.User{{ID: "U0STRANGER", Name: "stranger", RealName: "Stranger"}}}
	for _, p := range bgtest.People {
		sc.Users = append(sc.Users, slacksim.User{ID: bgtest.SlackUser(p), Name: p, RealName: strings.ToUpper(p[:1]) + p[1:]})
	}
	so := bgtest.Options{Log: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Beside: map[string]announce.Messenger{"findings": &w.findings, "campaigns": &w.campaign}}
	for _, o := range options {
		o(w, &sc, &so)
	}
	sim, err := slacksim.New(sc)
	must(t, err)
	w.sim = sim
	srv := httptest.NewServer(sim.Handler())
	t.Cleanup(func() { sim.Close(); srv.Close() })
	sim.SetURL(srv.URL)
	w.app = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.bot.Load().Handler().ServeHTTP(rw, r) }))
	t.Cleanup(w.app.Close)
	sim.SetAppURLs(w.app.URL+"/slack/commands", w.app.URL+"/slack/interactions")
	w.System = bgtest.New(t, so)
	w.api = srv.URL
	w.start(w.api)
	t.Cleanup(func() { w.stop() })
	w.Told.OnTell(func(n announce.Notice) error {
		b := w.bot.Load()
		if b == nil {
			return errors.New("restarting")
		}
		if tell := w.tell.Load(); tell != nil {
			return (*tell)(b, n)
		}
		return b.Tell(context.Background(), n)
	})
	t.Cleanup(func() {
		for _, canary := range []string{token, secret} {
			if strings.Contains(w.log.String(), canary) {
				t.Errorf("a secret is in the log: %s", canary)
			}
			for _, c := range sim.Calls("") {
				for key, text := range c.Args {
					if strings.Contains(text, canary) || strings.Contains(text, "-----BEGIN") {
						t.Errorf("a secret is in %s of a call of %s", key, c.Method)
					}
				}
			}
		}
	})
	return w
}

// start makes the bot of the service that runs now.
func (w *world) start(url string) {
	w.t.Helper()
	cfg := slackbot.Config{Service: w.Service, Campaigns: w.Campaigns, Ledger: w.Ledger, BotToken: token, SigningSecret: secret,
		AppID:   "A0BREAK",
		TeamIDs: []string{"T01"},
		Channel: channel, APIURL: url + "/api/", Log: slog.New(slog.NewTextHandler(w.log, nil))}
	if w.conf != nil {
		w.conf(&cfg)
	}
	b, err := slackbot.New(cfg)
	must(w.t, err)
	if !w.hurried {
		b.Patient()
	}
	w.stop()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = b.Run(ctx) }()
	w.stop = func() { cancel(); <-done }
	w.bot.Store(b)
	w.findings.run(b.Findings())
	w.campaign.run(b.Campaigns())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) ctx() context.Context {
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	w.t.Cleanup(cancel)
	return ctx
}

func (w *world) as(person string) *slacksim.Person {
	return w.sim.As(bgtest.SlackUser(person)).In(channel)
}

// ask opens a request in Slack, as alice, and returns it with its card.
func (w *world) ask(profile string) (*breakglass.Request, slacksim.Message) {
	w.t.Helper()
	alice := w.as("alice")
	_, err := alice.Slash(w.ctx(), profile+" 30m etcd quorum lost, API 5xx")
	must(w.t, err)
	m, err := alice.WaitModal(w.ctx())
	must(w.t, err)
	errs, err := m.Send(w.ctx())
	must(w.t, err)
	if len(errs) > 0 {
		w.t.Fatalf("the form is refused: %v", errs)
	}
	open, err := w.Service.Open(w.ctx())
	must(w.t, err)
	if len(open) == 0 {
		w.t.Fatal("no request was opened")
	}
	r := open[len(open)-1]
	return r, w.card(r.ID, "")
}

// card waits for the card of a request that shows a text.
func (w *world) card(id, text string) slacksim.Message {
	w.t.Helper()
	m, err := w.sim.WaitMessage(w.ctx(), func(m slacksim.Message) bool {
		return m.Channel == channel && m.ThreadTS == "" && m.EphemeralTo == "" && strings.Contains(m.AllText(), id) &&
			strings.Contains(m.AllText(), text)
	})
	must(w.t, err)
	return m
}

// wait waits for a message with a text in a channel.
func (w *world) wait(channel, text string) slacksim.Message {
	w.t.Helper()
	m, err := w.sim.WaitMessage(w.ctx(), func(m slacksim.Message) bool { return m.Channel == channel && strings.Contains(m.AllText(), text) })
	if err != nil {
		for _, m := range w.sim.Messages(channel) {
			w.t.Log(m.AllText())
		}
		w.t.Fatalf("waiting for %q: %v", text, err)
	}
	return m
}

// click clicks a button of a card and returns the form that opens.
func (w *world) click(person string, card slacksim.Message, action string) *slacksim.Modal {
	w.t.Helper()
	must(w.t, w.as(person).Click(w.ctx(), channel, card.TS, action))
	m, err := w.as(person).WaitModal(w.ctx())
	must(w.t, err)
	return m
}

// send sends a form that must be taken.
func (w *world) send(m *slacksim.Modal) {
	w.t.Helper()
	errs, err := m.Send(w.ctx())
	must(w.t, err)
	if len(errs) > 0 {
		w.t.Fatalf("the form is refused: %v", errs)
	}
}

// said is the last sentence that only this person sees.
func (w *world) said(person string) string {
	all := w.as(person).Ephemerals()
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1].Text
}

func (w *world) get(id string) *breakglass.Request {
	w.t.Helper()
	r, err := w.Service.Get(w.ctx(), id)
	must(w.t, err)
	return r
}

// restart stops the daemon's part and starts it again from disk, with a new bot.
func (w *world) restart() {
	w.t.Helper()
	w.bot.Store(nil)
	w.findings.m.Store(nil)
	w.campaign.m.Store(nil)
	w.stop()
	w.Restart()
	w.start(w.api)
}

// forget makes the bot a new one, which has looked at nobody's account yet.
func (w *world) forget() { w.start(w.api) }
