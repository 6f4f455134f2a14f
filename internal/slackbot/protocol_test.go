package slackbot_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/bgtest"
	slacksim "github.com/breakglassd/breakglass/internal/sim/slack"
	"github.com/breakglassd/breakglass/internal/slackbot"
)

// approval is a captured approval by bob that was never delivered: what an attacker would like to send, in some form.
func approval(t *testing.T, w *world) slacksim.SignedRequest {
	t.Helper()
	_, card := w.ask("admin")
	w.send(w.click("carol", card, "review"))
	sent := w.sim.LastRequest()
	body := []byte(strings.ReplaceAll(string(sent.Body), "U0CAROL", "U0BOB"))
	return w.sim.Sign(sent.URL, body, time.Now())
}

// edit changes the payload of a form.
func edit(t *testing.T, body []byte, change func(map[string]any)) []byte {
	t.Helper()
	f, err := url.ParseQuery(string(body))
	must(t, err)
	var p map[string]any
	must(t, json.Unmarshal([]byte(f.Get("payload")), &p))
	change(p)
	raw, err := json.Marshal(p)
	must(t, err)
	return []byte(url.Values{"payload": {string(raw)}}.Encode())
}

func TestRequestsThatAreNotFromSlackChangeNothing(t *testing.T) {
	w := newWorld(t)
	good := approval(t, w)
	sign := func(body []byte, url string) slacksim.SignedRequest { return w.sim.Sign(url, body, time.Now()) }
	header := func(name string, values ...string) slacksim.SignedRequest {
		r := good.Clone()
		r.Header[name] = values
		return r
	}
	signature, stamp := good.Header.Get("X-Slack-Signature"), good.Header.Get("X-Slack-Request-Timestamp")
	payload, _ := url.ParseQuery(string(good.Body))
	commands := strings.Replace(good.URL, "interactions", "commands", 1)
	slash := w.sim.CommandPayload("U0ALICE", channel, "list")
	with := func(change func(map[string]any)) slacksim.SignedRequest {
		return sign(edit(t, good.Body, change), good.URL)
	}
	slashWith := func(key string, values ...string) slacksim.SignedRequest {
		f := url.Values{}
		for k, v := range slash {
			f[k] = v
		}
		f[key] = values
		return sign([]byte(f.Encode()), commands)
	}
	tests := map[string]struct {
		r      slacksim.SignedRequest
		status int
	}{
		"no signature":   {header("X-Slack-Signature"), 401},
		"no timestamp":   {header("X-Slack-Request-Timestamp"), 401},
		"two signatures": {header("X-Slack-Signature", signature, signature), 401},
		"two timestamps": {header("X-Slack-Request-Timestamp", stamp, stamp), 401},
		"another secret": {slacksim.SignWith("another-secret-altogether", good.URL, good.Body, time.Now()), 401},
		"empty secret":   {slacksim.SignWith("", good.URL, good.Body, time.Now()), 401},
		"another body": {slacksim.SignedRequest{URL: good.URL, Header: good.Header, Body: append([]byte("x=1&"), good.Body...)},
			401},
		"stale":                       {w.sim.Sign(good.URL, good.Body, time.Now().Add(-301*time.Second)), 401},
		"future":                      {w.sim.Sign(good.URL, good.Body, time.Now().Add(330*time.Second)), 401},
		"long ago":                    {w.sim.Sign(good.URL, good.Body, time.Unix(0, 0)), 401},
		"timestamp that overflows":    {header("X-Slack-Request-Timestamp", "99999999999999999999"), 401},
		"timestamp written otherwise": {header("X-Slack-Request-Timestamp", "+"+stamp), 401},
		"version 1":                   {header("X-Slack-Signature", "v1="+signature[3:]), 401},
		"short signature":             {header("X-Slack-Signature", signature[:20]), 401},
		"long signature":              {header("X-Slack-Signature", signature+"00"), 401},
		"signature not hexadecimal":   {header("X-Slack-Signature", "v0="+strings.Repeat("z", 64)), 401},
		"empty signature":             {header("X-Slack-Signature", ""), 401},
		"JSON":                        {header("Content-Type", "application/json"), 400},
		"no content type":             {header("Content-Type"), 400},
		"two content types":           {header("Content-Type", "application/x-www-form-urlencoded", "application/x-www-form-urlencoded"), 400},
		"too large":                   {sign(append([]byte("payload="+strings.Repeat("a", 300<<10)+"&"), good.Body...), good.URL), 413},
		"query":                       {sign(good.Body, good.URL+"?a=b"), 400},
		"empty query":                 {sign(good.Body, good.URL+"?"), 400},
		"payload in the query":        {sign([]byte(""), good.URL+"?"+string(good.Body)), 400},
		"empty body":                  {sign(nil, good.URL), 400},
		"payload twice":               {sign(append(append(append([]byte{}, good.Body...), '&'), good.Body...), good.URL), 400},
		"payload and another key":     {sign(append([]byte("command=%2Fbreakglass&"), good.Body...), good.URL), 400},
		"not a form":                  {sign([]byte("payload=%zz"), good.URL), 400},
		"payload that is not JSON":    {sign([]byte("payload=hello"), good.URL), 400},
		"payload that is a list":      {sign([]byte("payload=[]"), good.URL), 400},
		"payload with a second one":   {sign([]byte("payload="+url.QueryEscape(payload.Get("payload")+payload.Get("payload"))), good.URL), 400},
		"form at the command":         {w.sim.Sign(commands, good.Body, time.Now().Add(10*time.Second)), 400},
		"command at the form":         {sign([]byte(slash.Encode()), good.URL), 400},
		"elsewhere":                   {sign(good.Body, w.app.URL+"/slack/events"), 404},
		"another app":                 {with(func(p map[string]any) { p["api_app_id"] = "A0OTHER" }), 403},
		"another workspace":           {with(func(p map[string]any) { p["team"] = map[string]any{"id": "T0OTHER"} }), 403},
		"no workspace":                {with(func(p map[string]any) { p["team"] = nil }), 400},
		"another enterprise":          {with(func(p map[string]any) { p["enterprise"] = map[string]any{"id": "E0OTHER"} }), 403},
		"no user":                     {with(func(p map[string]any) { p["user"] = map[string]any{} }), 400},
		"another type":                {with(func(p map[string]any) { p["type"] = "shortcut" }), 400},
		"no type":                     {with(func(p map[string]any) { delete(p, "type") }), 400},
		"unknown form":                {with(func(p map[string]any) { p["view"].(map[string]any)["callback_id"] = "grant" }), 400},
		"form about nothing":          {with(func(p map[string]any) { p["view"].(map[string]any)["private_metadata"] = "" }), 400},
		"form about a path":           {with(func(p map[string]any) { p["view"].(map[string]any)["private_metadata"] = "../../x:y" }), 400},
		"click without an action":     {with(func(p map[string]any) { p["type"] = "block_actions" }), 400},
		"unknown button": {with(func(p map[string]any) {
			p["type"], p["container"] = "block_actions", map[string]any{"type": "message", "channel_id": channel}
			p["actions"] = []any{map[string]any{"action_id": "approve", "value": "bg-7k3m-9qx:" + strings.Repeat("a", 64)}}
		}), 400},
		"two clicks at once": {with(func(p map[string]any) {
			p["type"], p["container"] = "block_actions", map[string]any{"type": "message", "channel_id": channel}
			p["actions"] = []any{map[string]any{"action_id": "withdraw"}, map[string]any{"action_id": "withdraw"}}
		}), 400},
		"command of another app":  {slashWith("api_app_id", "A0OTHER"), 403},
		"command of another team": {slashWith("team_id", "T0OTHER"), 403},
		"another command":         {slashWith("command", "/sudo"), 400},
		"command twice":           {slashWith("text", "list", "help"), 400},
		"command with a payload":  {slashWith("payload", payload.Get("payload")), 400},
		"command without a user":  {slashWith("user_id", ""), 400},
	}
	size := w.Ledger.Size()
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			res, err := w.sim.RawSend(w.ctx(), tt.r)
			must(t, err)
			if res.Status != tt.status {
				t.Errorf("answered with %d, want %d: %s", res.Status, tt.status, res.Body)
			}
			if tt.status != 404 && len(res.Body) > 0 {
				t.Errorf("the answer tells %q", res.Body)
			}
		})
	}
	if got := w.Ledger.Size(); got != size {
		t.Errorf("the ledger grew by %d", got-size)
	}
	for _, r := range w.sim.Requests() {
		if mac := r.Header.Get("X-Slack-Signature")[3:]; strings.Contains(w.log.String(), mac) {
			t.Errorf("the log has a signature")
		}
	}
	res, err := w.sim.RawSend(w.ctx(), good) // and the real one is taken
	must(t, err)
	if res.Status != 200 || w.Ledger.Size() != size+1 {
		t.Errorf("the good request is answered with %d, the ledger grew by %d", res.Status, w.Ledger.Size()-size)
	}
}

// The log of a forged request must not be an oracle: it never holds the right signature.
func TestRightSignatureIsNeverLogged(t *testing.T) {
	w := newWorld(t)
	good := approval(t, w)
	bad := good.Clone()
	bad.Header.Set("X-Slack-Signature", "v0="+strings.Repeat("0", 64))
	res, err := w.sim.RawSend(w.ctx(), bad)
	must(t, err)
	mac := good.Header.Get("X-Slack-Signature")[3:]
	if res.Status != 401 || len(res.Body) > 0 {
		t.Errorf("answered with %d %q", res.Status, res.Body)
	}
	if !strings.Contains(w.log.String(), "the signature does not fit") || strings.Contains(w.log.String(), mac) {
		t.Errorf("log:\n%s", w.log.String())
	}
}

func TestOtherMethodsAreNotServed(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/slack/commands", "/slack/interactions"} {
		res, err := http.Get(w.app.URL + path)
		must(t, err)
		res.Body.Close()
		if res.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("GET %s: %d", path, res.StatusCode)
		}
	}
}

func TestReplayIsRefusedEvenAfterARestart(t *testing.T) {
	w := newWorld(t)
	good := approval(t, w)
	res, err := w.sim.RawSend(w.ctx(), good)
	must(t, err)
	if res.Status != 200 {
		t.Fatalf("the first one is answered with %d", res.Status)
	}
	size := w.Ledger.Size()
	again := func(when string, r slacksim.SignedRequest) {
		t.Helper()
		res, err := w.sim.RawSend(w.ctx(), r)
		must(t, err)
		if res.Status != http.StatusConflict {
			t.Errorf("%s: answered with %d", when, res.Status)
		}
	}
	again("at once", good)
	elsewhere := good.Clone()
	elsewhere.URL = strings.Replace(elsewhere.URL, "interactions", "commands", 1)
	again("at the other endpoint", elsewhere)
	w.restart()
	again("after a restart", good)
	if w.Ledger.Size() != size {
		t.Errorf("the ledger grew by %d", w.Ledger.Size()-size)
	}
	w.Check()
}

// The replay table is swept by the clock. A clock that was right, and is set back, must not make what was taken before new.
func TestReplayIsRefusedWhenTheClockIsSetBack(t *testing.T) {
	w := newWorld(t)
	good := approval(t, w)
	res, err := w.sim.RawSend(w.ctx(), good)
	must(t, err)
	if res.Status != 200 {
		t.Fatalf("the first one is answered with %d", res.Status)
	}
	for _, later := range []time.Duration{11 * time.Minute, 25 * time.Hour} { // then the clock is set back to now
		if _, err := w.Ledger.Once(w.ctx(), "slack/seen/"+later.String(), time.Now().Add(later), time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	res, err = w.sim.RawSend(w.ctx(), good)
	must(t, err)
	if res.Status != http.StatusConflict {
		t.Errorf("answered with %d", res.Status)
	}
}

func TestOnlyFullMembersMayAct(t *testing.T) {
	w := newWorld(t)
	r, _ := w.ask("admin")
	for flags := range 32 {
		t.Run(fmt.Sprintf("%05b", flags), func(t *testing.T) {
			has := func(bit int) bool { return flags&(1<<bit) != 0 }
			w.sim.SetUser(slacksim.User{ID: "U0BOB", Name: "bob", Deleted: has(0), IsBot: has(1), IsRestricted: has(2), IsUltraRestricted: has(3),
				IsStranger: has(4)})
			w.forget()
			size := w.Ledger.Size()
			body := w.approve(t, "bob", r.ID, r.Digest)
			if flags == 0 {
				if strings.Contains(body, "Not done") || len(w.get(r.ID).Approvals) != 1 {
					t.Fatalf("a full member is answered with %s", body)
				}
				_, err := w.Service.TakeBack(w.ctx(), bgtest.BySlack("bob"), r.ID)
				must(t, err)
				return
			}
			if !strings.Contains(body, "Your Slack account is") || len(w.get(r.ID).Approvals) != 0 {
				t.Errorf("answered with %s", body)
			}
			if w.Ledger.Size() > size+1 {
				t.Errorf("the ledger grew by %d", w.Ledger.Size()-size)
			}
		})
	}
	w.Check()
}

// approve sends the form that approves a request as if a person had it open, and returns the answer.
func (w *world) approve(t *testing.T, person, id, digest string) string {
	t.Helper()
	p := map[string]any{"type": "view_submission", "api_app_id": "A0BREAK", "team": map[string]any{"id": "T01"}, "enterprise": nil,
		"user": map[string]any{"id": bgtest.SlackUser(person), "team_id": "T01"},
		"view": map[string]any{"id": "V0", "callback_id": "approve", "private_metadata": id + ":" + digest,
			"state": map[string]any{"values": map[string]any{}}, "nonce": time.Now().UnixNano()}}
	raw, err := json.Marshal(p)
	must(t, err)
	res, err := w.sim.RawSend(w.ctx(), w.sim.Sign(w.app.URL+"/slack/interactions", []byte(url.Values{"payload": {string(raw)}}.Encode()),
		time.Now()))
	must(t, err)
	if res.Status != 200 {
		t.Fatalf("answered with %d", res.Status)
	}
	return string(res.Body)
}

// Even one that the access policy names: the workspace must be one that the configuration trusts.
func TestAccountFromAnotherWorkspaceIsAStranger(t *testing.T) {
	w := newWorld(t, func(_ *world, _ *slacksim.Config, o *bgtest.Options) {
		o.Policy = strings.Replace(bgtest.Policy(), "{team: T01, user: U0BOB}", "{team: T0OTHER, user: U0BOB}", 1)
	})
	r, card := w.ask("admin")
	w.sim.SetUser(slacksim.User{ID: "U0BOB", Name: "bob", TeamID: "T0OTHER"})
	must(t, w.as("bob").Click(w.ctx(), channel, card.TS, "review"))
	if got := w.said("bob"); !strings.Contains(got, "of the workspace T0OTHER, from which nobody may use this") {
		t.Errorf("told %q", got)
	}
	if len(w.get(r.ID).Approvals) != 0 {
		t.Error("approved")
	}
}

func TestNewNamesEveryMistake(t *testing.T) {
	_, err := slackbot.New(slackbot.Config{BotToken: "xoxp-canary", SigningSecret: "canary", AppID: "breakglass", TeamIDs: []string{"acme"},
		EnterpriseID: "acme", Channel: "#approvals", Command: "breakglass", APIURL: "https://slack.com/api"})
	if err == nil {
		t.Fatal("taken")
	}
	for _, want := range []string{"service, campaigns and ledger", "bot token", "signing secret", "app id", "each team id", "enterprise id",
		"channel",
		"command", "slash"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "canary") {
		t.Errorf("a secret is in %v", err)
	}
	_, err = slackbot.New(slackbot.Config{BotToken: "xoxe.xoxb-1-canary"})
	if err == nil || !strings.Contains(err.Error(), "does not rotate tokens") || strings.Contains(err.Error(), "canary") {
		t.Errorf("a token that rotates: %v", err)
	}
}

func TestSecretNeverPrints(t *testing.T) {
	s := slackbot.Secret("canary")
	raw, err := json.Marshal(map[string]any{"a": s, "b": &s, "c": slackbot.Config{BotToken: s}.BotToken})
	must(t, err)
	out := string(raw) + fmt.Sprint(s, &s, []slackbot.Secret{s}, struct{ S slackbot.Secret }{s})
	for _, verb := range []string{"%s", "%v", "%+v", "%#v", "%q", "%x", "%X", "%d", "%t", "%T"} {
		out += fmt.Sprintf(verb, s)
	}
	if strings.Contains(out, "canary") || strings.Contains(out, "63616e617279") {
		t.Errorf("printed: %s", out)
	}
}
