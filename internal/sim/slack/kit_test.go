package slacksim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/slack-go/slack"

	slacksim "github.com/breakglassd/breakglass/internal/sim/slack"
)

const (
	botToken      = "xoxb-simulated-bot-token"
	signingSecret = "8f742231b10e8888abcd99yyyzzz85a5"
	alice, bob    = "U02ALICE", "U03BOB"
	guest         = "U04GUEST"
	approvals     = "C0APPROVE"
)

func config() slacksim.Config {
	return slacksim.Config{
		TeamID: "T0ACME", TeamDomain: "acme", AppID: "A0APP", BotToken: botToken, SigningSecret: signingSecret,
		Command: "/breakglass",
		Notice:  "This is a simulated workspace. Try: type /breakglass",
		Users: []slacksim.User{
			{ID: alice, Name: "alice", RealName: "Alice Moreau", Email: "alice@acme.example", Has2FA: true},
			{ID: bob, Name: "bob", RealName: "Bob Okafor", IsAdmin: true},
			{ID: guest, Name: "gus", RealName: "Gus Guest", IsUltraRestricted: true, EmailUnconfirmed: true},
			{ID: "U05GONE", Name: "gone", RealName: "Gone Person", Deleted: true},
			{ID: "U06EXT", Name: "ext", RealName: "Ext Partner", IsStranger: true, TeamID: "T0OTHER"},
		},
		Channels: []slacksim.Channel{
			{ID: approvals, Name: "breakglass-approvals"},
			{ID: "C0SECRET", Name: "sec-room", Private: true, Members: []string{bob}},
			{ID: "C0HIDDEN", Name: "hidden", Private: true, WithoutBot: true, Members: []string{bob}},
			{ID: "C0NOBOT", Name: "random", WithoutBot: true},
			{ID: "C0OLD", Name: "old", Archived: true},
		},
		UserGroups: []slacksim.UserGroup{
			{ID: "S0SEC", Handle: "security", Name: "Security", Users: []string{bob}},
			{ID: "S0OLD", Handle: "old", Name: "Old", Disabled: true},
		},
	}
}

// app is a small Slack app. Each test gives it the handlers it needs; without one it answers 200 and nothing.
type app struct {
	sim    *slacksim.Sim
	server *httptest.Server
	api    *slack.Client

	mu       sync.Mutex
	command  func(w http.ResponseWriter, c slack.SlashCommand)
	interact func(w http.ResponseWriter, i slack.InteractionCallback)
}

func (a *app) onCommand(f func(http.ResponseWriter, slack.SlashCommand)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.command = f
}

func (a *app) onInteract(f func(http.ResponseWriter, slack.InteractionCallback)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.interact = f
}

// start gives a running workspace with an app that checks signatures with slack-go, over real HTTP.
func start(t *testing.T, cfg slacksim.Config) *app {
	t.Helper()
	cfg.AckWithin, cfg.TriggerLife = 30*time.Second, 30*time.Second // Slack's 3 s are too short for a busy machine
	sim, err := slacksim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	a := &app{sim: sim, server: httptest.NewServer(sim.Handler())}
	t.Cleanup(a.server.Close)
	sim.SetURL(a.server.URL)
	a.api = slack.New(botToken, slack.OptionAPIURL(a.server.URL+"/api/"))
	mux := http.NewServeMux()
	mux.HandleFunc("POST /slack/commands", func(w http.ResponseWriter, r *http.Request) {
		if !verified(t, w, r) {
			return
		}
		c, err := slack.SlashCommandParse(r)
		if err != nil {
			t.Errorf("slack-go cannot parse the command: %v", err)
		}
		a.mu.Lock()
		f := a.command
		a.mu.Unlock()
		if f != nil {
			f(w, c)
		}
	})
	mux.HandleFunc("POST /slack/interactions", func(w http.ResponseWriter, r *http.Request) {
		if !verified(t, w, r) {
			return
		}
		i, err := slack.InteractionCallbackParse(r)
		if err != nil {
			t.Errorf("slack-go cannot parse the interaction: %v", err)
		}
		a.mu.Lock()
		f := a.interact
		a.mu.Unlock()
		if f != nil {
			f(w, i)
		}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	t.Cleanup(sim.Close)
	sim.SetAppURLs(server.URL+"/slack/commands", server.URL+"/slack/interactions")
	return a
}

// verified checks the signature as an app written with slack-go does, and leaves the body to be read again.
func verified(t *testing.T, w http.ResponseWriter, r *http.Request) bool {
	t.Helper()
	body := readBody(t, r)
	v, err := slack.NewSecretsVerifier(r.Header, signingSecret)
	if err == nil {
		_, _ = v.Write(body)
		err = v.Ensure()
	}
	if err != nil {
		w.WriteHeader(http.StatusUnauthorized)
		return false
	}
	return true
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func mustJSON(t *testing.T, v any) json.RawMessage {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func plainText(s string) *slack.TextBlockObject {
	return slack.NewTextBlockObject("plain_text", s, false, false)
}
func mrkdwn(s string) *slack.TextBlockObject {
	return slack.NewTextBlockObject("mrkdwn", s, false, false)
}

func readBody(t *testing.T, r *http.Request) []byte {
	t.Helper()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Errorf("reading the body: %v", err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return body
}
