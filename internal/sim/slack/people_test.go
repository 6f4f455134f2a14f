package slacksim_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/slack-go/slack"

	slacksim "github.com/breakglassd/breakglass/internal/sim/slack"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// modal is the form of the test app: every input a person can fill in.
func modal() slack.ModalViewRequest {
	choice := func(value, label string) *slack.OptionBlockObject {
		return slack.NewOptionBlockObject(value, plainText(label), nil)
	}
	reason := slack.NewPlainTextInputBlockElement(plainText("What happened?"), "reason")
	reason.Multiline, reason.MinLength, reason.MaxLength = true, 5, 40
	cluster := slack.NewOptionsSelectBlockElement("static_select", plainText("Choose"), "cluster", choice("prod-eu-1", "prod-eu-1"),
		choice("prod-us-1", "prod-us-1"))
	cluster.InitialOption = choice("prod-eu-1", "prod-eu-1")
	optional := slack.NewInputBlock("ticket_block", plainText("Ticket"), nil, slack.NewPlainTextInputBlockElement(nil, "ticket"))
	optional.Optional = true
	optionalChecks := slack.NewInputBlock("checks_block", plainText("Checks"), nil,
		slack.NewCheckboxGroupsBlockElement("checks", choice("words", "I confirmed the words"), choice("page", "I paged someone")))
	optionalChecks.Optional = true
	return slack.ModalViewRequest{
		Type: slack.VTModal, Title: plainText("Ask for access"), Submit: plainText("Ask"), Close: plainText("Not now"),
		CallbackID: "ask", PrivateMetadata: "signed-stuff", NotifyOnClose: true,
		Blocks: slack.Blocks{BlockSet: []slack.Block{
			slack.NewSectionBlock(mrkdwn("Needs *two* approvals."), nil, nil, slack.SectionBlockOptionBlockID("facts")),
			slack.NewInputBlock("reason_block", plainText("Reason"), plainText("Who, what, why."), reason),
			slack.NewInputBlock("cluster_block", plainText("Cluster"), nil, cluster),
			slack.NewInputBlock("risk_block", plainText("Risk"), nil, slack.NewRadioButtonsBlockElement("risk", choice("low", "Low"),
				choice("high", "High"))),
			optionalChecks, optional,
			slack.NewActionBlock("tools", slack.NewButtonBlockElement("preview", "v1", plainText("Preview"))),
		}},
	}
}

// opens makes the app open the modal on every command and returns alice looking at it.
func opens(t *testing.T, a *app) *slacksim.Modal {
	t.Helper()
	a.onCommand(func(_ http.ResponseWriter, c slack.SlashCommand) {
		if _, err := a.api.OpenView(c.TriggerID, modal()); err != nil {
			t.Errorf("views.open: %v", err)
		}
	})
	if _, err := a.sim.As(alice).Slash(within(t), "prod-eu-1 30m"); err != nil {
		t.Fatal(err)
	}
	m, err := a.sim.As(alice).WaitModal(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func fillIn(t *testing.T, m *slacksim.Modal) {
	t.Helper()
	for block, values := range map[string][]string{
		"reason_block": {"etcd & quorum <lost>"}, "risk_block": {"high"}, "checks_block": {"words", "page"}, "cluster_block": {"prod-us-1"},
	} {
		if err := m.Fill(block, values...); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheSignatureIsSlacks(t *testing.T) {
	a := start(t, config())
	if _, err := a.sim.As(alice).Slash(within(t), "hello"); err != nil { // the app refuses what slack-go refuses
		t.Fatal(err)
	}
	r := a.sim.LastRequest()
	mac := hmac.New(sha256.New, []byte(signingSecret))
	_, _ = io.WriteString(mac, "v0:"+r.Header.Get("X-Slack-Request-Timestamp")+":")
	_, _ = mac.Write(r.Body)
	if got, want := r.Header.Get("X-Slack-Signature"), "v0="+hex.EncodeToString(mac.Sum(nil)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if age := time.Since(time.Unix(mustInt(t, r.Header.Get("X-Slack-Request-Timestamp")), 0)); age > time.Minute || age < -time.Second {
		t.Errorf("the timestamp is %v old", age)
	}
	// Slack's documentation publishes this example with its signature.
	body := "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
	published := slacksim.SignWith("8f742231b10e8888abcd99yyyzzz85a5", "", []byte(body), time.Unix(1531420618, 0))
	if got, want := published.Header.Get("X-Slack-Signature"),
		"v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"; got != want {
		t.Errorf("Slack's own example: got %s, want %s", got, want)
	}
}

func mustInt(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestForgedStaleAndAlteredRequestsCanBeSent(t *testing.T) {
	a := start(t, config())
	served := 0
	a.onCommand(func(http.ResponseWriter, slack.SlashCommand) { served++ })
	if _, err := a.sim.As(alice).Slash(within(t), "hello"); err != nil {
		t.Fatal(err)
	}
	last := a.sim.LastRequest()
	altered := last.Clone()
	altered.Body = bytes.Replace(altered.Body, []byte("user_id="+alice), []byte("user_id="+bob), 1)
	for _, row := range []struct {
		name string
		r    slacksim.SignedRequest
		want int
	}{
		{"replayed", last, 200},
		{"altered", altered, 401},
		{"stale", a.sim.Sign(last.URL, last.Body, time.Now().Add(-6*time.Minute)), 401},
		{"forged", slacksim.SignWith("guess", last.URL, last.Body, time.Now()), 401},
		{"signed anew", a.sim.Sign(last.URL, altered.Body, time.Now()), 200},
		{"unsigned", slacksim.SignedRequest{URL: last.URL, Body: last.Body, Header: http.Header{"Content-Type": last.Header["Content-Type"]}},
			401},
	} {
		res, err := a.sim.RawSend(within(t), row.r)
		if err != nil || res.Status != row.want {
			t.Errorf("%s: got HTTP %d, %v, want %d", row.name, res.Status, err, row.want)
		}
	}
	if served != 3 {
		t.Errorf("the app served %d commands, want 3", served)
	}
}

func TestACommandArrivesWithEveryDocumentedField(t *testing.T) {
	cfg := config()
	cfg.EnterpriseID, cfg.EnterpriseName = "E0ACME", "Acme Corp"
	a := start(t, cfg)
	var got slack.SlashCommand
	a.onCommand(func(_ http.ResponseWriter, c slack.SlashCommand) { got = c })
	if _, err := a.sim.As(alice).Slash(within(t), `prod-eu-1 a<b & "c" @bob #breakglass-approvals me@example.com`); err != nil {
		t.Fatal(err)
	}
	if got.TriggerID == "" || !strings.HasPrefix(got.ResponseURL, a.server.URL) || got.Token == "" {
		t.Errorf("got %+v", got)
	}
	want := slack.SlashCommand{
		Token: got.Token, TeamID: "T0ACME", TeamDomain: "acme", EnterpriseID: "E0ACME", EnterpriseName: "Acme Corp",
		ChannelID: approvals, ChannelName: "breakglass-approvals", UserID: alice, UserName: "alice", Command: "/breakglass",
		Text:        `prod-eu-1 a&lt;b &amp; "c" <@U03BOB|bob> <#C0APPROVE|breakglass-approvals> me@example.com`,
		ResponseURL: got.ResponseURL, TriggerID: got.TriggerID, APIAppID: "A0APP",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := a.sim.As(bob).In("C0SECRET").Slash(within(t), ""); err != nil || got.ChannelName != "privategroup" {
		t.Errorf("in a private channel: got name %q, %v", got.ChannelName, err)
	}
	if _, err := a.sim.As(alice).In("C0SECRET").Slash(within(t), ""); err == nil {
		t.Error("alice typed in a channel she cannot see")
	}
	if _, err := a.sim.As("U0NONE").Slash(within(t), ""); err == nil {
		t.Error("nobody typed a command")
	}
}

func TestTheAnswerToACommandIsShown(t *testing.T) {
	a := start(t, config())
	for _, row := range []struct {
		name, kind, body string
		status           int
		text             string // "" means nothing is shown
		public           bool
		err              error
	}{
		{name: "nothing", status: 200},
		{name: "empty object", kind: "application/json", body: "{}", status: 200},
		{name: "text", kind: "text/plain", body: "hello", status: 200, text: "hello"},
		{name: "JSON as text", kind: "text/plain", body: `{"text":"x"}`, status: 200, text: `{"text":"x"}`},
		{name: "ephemeral", kind: "application/json", body: `{"text":"only you"}`, status: 200, text: "only you"},
		{name: "in channel", kind: "application/json; charset=utf-8", body: `{"response_type":"in_channel","text":"all"}`, status: 200,
			text: "all", public: true},
		{name: "bad blocks", kind: "application/json", body: `{"blocks":[{"type":"nope"}]}`, status: 200, err: slacksim.ErrDispatch},
		{name: "not JSON", kind: "application/json", body: `{`, status: 200, err: slacksim.ErrDispatch},
		{name: "refused", status: 500, err: slacksim.ErrDispatch},
	} {
		a.onCommand(func(w http.ResponseWriter, _ slack.SlashCommand) {
			w.Header().Set("Content-Type", row.kind)
			w.WriteHeader(row.status)
			_, _ = io.WriteString(w, row.body)
		})
		reply, err := a.sim.As(alice).Slash(within(t), "")
		if !errors.Is(err, row.err) {
			t.Errorf("%s: got error %v, want %v", row.name, err, row.err)
		}
		switch {
		case row.text == "" && reply.Message != nil:
			t.Errorf("%s: showed %+v", row.name, reply.Message)
		case row.text != "" && (reply.Message == nil || reply.Message.Text != row.text || (reply.Message.EphemeralTo == "") != row.public):
			t.Errorf("%s: showed %+v", row.name, reply.Message)
		}
	}
	notices := a.sim.As(alice).Ephemerals()
	if last := notices[len(notices)-1]; last.User != "USLACKBOT" || !strings.Contains(last.Text, "dispatch_failed") {
		t.Errorf("the person was shown %+v", last)
	}
	a.sim.SetAppURLs("http://127.0.0.1:1/none", "")
	if _, err := a.sim.As(alice).Slash(within(t), ""); !errors.Is(err, slacksim.ErrDispatch) {
		t.Errorf("nobody listens: got %v", err)
	}
	a.sim.SetAppURLs("", "")
	if _, err := a.sim.As(alice).Slash(within(t), ""); !errors.Is(err, slacksim.ErrDispatch) || !strings.Contains(err.Error(), "SetAppURLs") {
		t.Errorf("no URL: got %v", err)
	}
}

// The payload shapes are golden: parsed by slack-go they must mean the right thing, and as JSON they must not change
// unnoticed. Values that differ between runs are masked.
func TestInteractionPayloadsHaveSlacksShape(t *testing.T) {
	a := start(t, config())
	ctx := within(t)
	var got slack.InteractionCallback
	a.onInteract(func(_ http.ResponseWriter, i slack.InteractionCallback) { got = i })
	var card slack.Blocks
	if err := json.Unmarshal([]byte(designCard), &card); err != nil {
		t.Fatal(err)
	}
	_, ts, err := a.api.PostMessageContext(ctx, approvals, slack.MsgOptionText("pending", false), slack.MsgOptionBlocks(card.BlockSet...))
	if err != nil {
		t.Fatal(err)
	}

	if err := a.sim.As(bob).Click(ctx, approvals, ts, "deny"); err != nil {
		t.Fatal(err)
	}
	if got.Type != slack.InteractionTypeBlockActions || got.User.ID != bob || got.User.TeamID != "T0ACME" || got.Team.ID != "T0ACME" ||
		got.APIAppID != "A0APP" ||
		got.Channel.ID != approvals || got.Message.Timestamp != ts || got.Container.MessageTs != ts || got.Container.ChannelID != approvals ||
		got.TriggerID == "" || got.ResponseURL == "" || len(got.ActionCallback.BlockActions) != 1 {
		t.Errorf("block_actions: got %+v", got)
	}
	action := got.ActionCallback.BlockActions[0]
	if action.ActionID != "deny" || action.BlockID != "act:r3" || action.Value != "bg-7K3M-9QX:r3" || action.Type != "button" ||
		action.ActionTs == "" {
		t.Errorf("action: got %+v", action)
	}
	golden(t, "block_actions", a.sim.LastRequest())

	ets, err := a.api.PostEphemeralContext(ctx, approvals, bob, slack.MsgOptionBlocks(card.BlockSet...))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.sim.As(alice).Click(ctx, approvals, ets, "review"); err == nil {
		t.Error("alice clicked a message that only bob sees")
	}
	if err := a.sim.As(bob).Click(ctx, approvals, ets, "review"); err != nil || !got.Container.IsEphemeral || got.Message.Timestamp != "" {
		t.Errorf("ephemeral: got %+v, %v", got.Container, err)
	}

	m := opens(t, a)
	fillIn(t, m)
	if err := m.Click(ctx, "preview"); err != nil {
		t.Fatal(err)
	}
	if got.Container.Type != "view" || got.Container.ViewID != m.ID || got.View.CallbackID != "ask" ||
		got.ActionCallback.BlockActions[0].Value != "v1" {
		t.Errorf("click in a view: got %+v", got)
	}
	golden(t, "block_actions_view", a.sim.LastRequest())

	if errs, err := m.Send(ctx); err != nil || errs != nil {
		t.Fatalf("got %v, %v", errs, err)
	}
	v := got.View.State.Values
	if got.Type != slack.InteractionTypeViewSubmission || got.View.ID != m.ID || got.View.Hash != m.Hash ||
		got.View.PrivateMetadata != "signed-stuff" ||
		v["reason_block"]["reason"].Value != "etcd & quorum <lost>" || v["cluster_block"]["cluster"].SelectedOption.Value != "prod-us-1" ||
		v["risk_block"]["risk"].SelectedOption.Value != "high" || len(v["checks_block"]["checks"].SelectedOptions) != 2 ||
		v["ticket_block"]["ticket"].Value != "" {
		t.Errorf("view_submission: got %+v", got.View)
	}
	golden(t, "view_submission", a.sim.LastRequest())
	if a.sim.As(alice).Modal() != nil {
		t.Error("an empty answer must close the modal")
	}

	m = opens(t, a)
	if err := m.Dismiss(ctx); err != nil || got.Type != slack.InteractionTypeViewClosed || got.View.ID != m.ID || got.IsCleared {
		t.Errorf("view_closed: got %+v, %v", got, err)
	}
	golden(t, "view_closed", a.sim.LastRequest())
}

func golden(t *testing.T, name string, r slacksim.SignedRequest) {
	t.Helper()
	form, err := url.ParseQuery(string(r.Body))
	if err != nil || len(form) != 1 {
		t.Fatalf("the body is not one payload: %s", r.Body)
	}
	var payload any
	if err := json.Unmarshal([]byte(form.Get("payload")), &payload); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(mask(payload)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", name+".golden.json")
	if *update {
		if err := os.WriteFile(file, buf.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), buf.String()); diff != "" {
		t.Errorf("%s (-want +got), run with -update if this is meant:\n%s", name, diff)
	}
}

// mask replaces what differs between runs.
func mask(value any) any {
	switch x := value.(type) {
	case []any:
		for i := range x {
			x[i] = mask(x[i])
		}
	case map[string]any:
		for name, v := range x {
			switch s, isText := v.(string); {
			case isText && s != "" && strings.Contains(" ts message_ts action_ts trigger_id response_url hash id view_id root_view_id ", " "+name+
				" ") && !strings.HasPrefix(s, "U0") && !strings.HasPrefix(s, "T0") && !strings.HasPrefix(s, "C0"):
				x[name] = "…"
			default:
				x[name] = mask(v)
			}
		}
	}
	return value
}

func TestTheClientRefusesAnIncompleteForm(t *testing.T) {
	a := start(t, config())
	submitted := 0
	a.onInteract(func(http.ResponseWriter, slack.InteractionCallback) { submitted++ })
	m := opens(t, a)
	if got := m.Value("cluster_block"); !cmp.Equal(got, []string{"prod-eu-1"}) {
		t.Errorf("the initial option is not chosen: %q", got)
	}
	send := func() map[string]string {
		t.Helper()
		errs, err := m.Send(within(t))
		if err != nil {
			t.Fatal(err)
		}
		return errs
	}
	if errs := send(); len(errs) != 2 || errs["reason_block"] == "" || errs["risk_block"] == "" {
		t.Errorf("empty form: got %v", errs)
	}
	fillIn(t, m)
	for reason, ok := range map[string]bool{"four": false, strings.Repeat("—", 41): false} {
		if err := m.Fill("reason_block", reason); err != nil {
			t.Fatal(err)
		}
		if errs := send(); (errs["reason_block"] == "") != ok {
			t.Errorf("reason %q: got %v", reason, errs)
		}
	}
	for block, values := range map[string][]string{"cluster_block": {"prod-mars"}, "nowhere": {"x"}, "risk_block": {"low", "high"}} {
		if err := m.Fill(block, values...); err == nil {
			t.Errorf("Fill(%s, %q) worked", block, values)
		}
	}
	if submitted != 0 {
		t.Errorf("the app heard of %d incomplete forms", submitted)
	}
	if _, err := m.SendUnchecked(within(t)); err != nil || submitted != 1 {
		t.Errorf("a modified client is not stopped: %d, %v", submitted, err)
	}
	if _, err := m.Send(within(t)); err == nil {
		t.Error("a closed modal was sent")
	}
}

func TestEveryAnswerToASubmissionIsHandled(t *testing.T) {
	second := modal()
	second.Title = plainText("Second")
	bad := modal()
	bad.Title = plainText(strings.Repeat("x", 25))
	for _, row := range []struct {
		name   string
		answer any
		status int
		title  string // of the modal afterwards; "" means none
		errs   map[string]string
		err    error
	}{
		{name: "nothing", title: ""},
		{name: "clear", answer: slack.NewClearViewSubmissionResponse(), title: ""},
		{name: "errors", answer: slack.NewErrorsViewSubmissionResponse(map[string]string{"reason_block": "Say more."}), title: "Ask for access",
			errs: map[string]string{"reason_block": "Say more."}},
		{name: "errors on a section", answer: slack.NewErrorsViewSubmissionResponse(map[string]string{"facts": "x"}), title: "Ask for access",
			err: slacksim.ErrDispatch},
		{name: "errors without any", answer: slack.NewErrorsViewSubmissionResponse(nil), title: "Ask for access", err: slacksim.ErrDispatch},
		{name: "update", answer: slack.NewUpdateViewSubmissionResponse(&second), title: "Second"},
		{name: "update with a bad view", answer: slack.NewUpdateViewSubmissionResponse(&bad), title: "Ask for access", err: slacksim.ErrDispatch},
		{name: "push", answer: slack.NewPushViewSubmissionResponse(&second), title: "Second"},
		{name: "unknown", answer: map[string]string{"response_action": "explode"}, title: "Ask for access", err: slacksim.ErrDispatch},
		{name: "refused", status: 500, title: "Ask for access", err: slacksim.ErrDispatch},
	} {
		t.Run(row.name, func(t *testing.T) {
			a := start(t, config())
			m := opens(t, a)
			fillIn(t, m)
			a.onInteract(func(w http.ResponseWriter, i slack.InteractionCallback) {
				if i.Type != slack.InteractionTypeViewSubmission {
					return
				}
				w.Header().Set("Content-Type", "application/json")
				if row.status != 0 {
					w.WriteHeader(row.status)
				}
				if row.answer != nil {
					_ = json.NewEncoder(w).Encode(row.answer)
				}
			})
			errs, err := m.Send(within(t))
			if !errors.Is(err, row.err) || !cmp.Equal(errs, row.errs) {
				t.Errorf("got %v, %v", errs, err)
			}
			title, now := "", a.sim.As(alice).Modal()
			if now != nil {
				title = now.Title
			}
			if title != row.title {
				t.Fatalf("the modal is now %q, want %q", title, row.title)
			}
			if row.err != nil && now.Problem == "" {
				t.Error("the person was not shown that it failed")
			}
			if row.name == "update" && (now.ID != m.ID || now.Hash == m.Hash || now.Value("reason_block")[0] != "etcd & quorum <lost>") {
				t.Errorf("an update keeps the id and what was typed, and changes the hash: %+v", now)
			}
			if row.name != "push" {
				return
			}
			if err := now.Dismiss(within(t)); err != nil {
				t.Fatal(err)
			}
			if back := a.sim.As(alice).Modal(); back == nil || back.ID != m.ID {
				t.Error("closing the pushed view must show the first again")
			}
		})
	}
}

func TestViewsArePushedAndUpdatedByTheAPI(t *testing.T) {
	a := start(t, config())
	ctx := within(t)
	m := opens(t, a)
	trigger := make(chan string, 1)
	a.onInteract(func(_ http.ResponseWriter, i slack.InteractionCallback) { trigger <- i.TriggerID })
	for _, want := range []string{"", "", "push_limit_reached"} {
		if err := a.sim.As(alice).Modal().Click(ctx, "preview"); err != nil {
			t.Fatal(err)
		}
		_, err := a.api.PushViewContext(ctx, <-trigger, modal())
		if (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("views.push: got %v, want %q", err, want)
		}
	}
	if err := m.Click(ctx, "preview"); err == nil {
		t.Error("a covered view was clicked")
	}
	top := a.sim.As(alice).Modal()
	changed := modal()
	changed.Title = plainText("Changed")
	changed.ExternalID = "ext-1"
	if _, err := a.api.UpdateViewContext(ctx, changed, "", "stale", top.ID); err == nil || err.Error() != "hash_conflict" {
		t.Errorf("stale hash: got %v", err)
	}
	res, err := a.api.UpdateViewContext(ctx, changed, "", top.Hash, top.ID)
	if err != nil || res.View.ID != top.ID || res.View.PreviousViewID == "" || res.View.RootViewID != m.ID {
		t.Errorf("views.update: got %+v, %v", res, err)
	}
	if _, err := a.api.UpdateViewContext(ctx, changed, "ext-1", "", ""); err != nil {
		t.Errorf("views.update by external id: %v", err)
	}
	if _, err := a.api.OpenViewContext(ctx, a.sim.CommandPayload(bob, approvals, "").Get("trigger_id"), changed); err == nil ||
		err.Error() != "duplicate_external_id" {
		t.Errorf("second view with the external id: got %v", err)
	}
	if _, err := a.api.PushViewContext(ctx, a.sim.CommandPayload(bob, approvals, "").Get("trigger_id"), modal()); err == nil ||
		err.Error() != "not_found" {
		t.Errorf("push on nothing: got %v", err)
	}
	if text := a.sim.As(alice).Modal().AllText(); !strings.Contains(text, "Changed") || !strings.Contains(text, "Needs *two* approvals.") {
		t.Errorf("got %q", text)
	}
}

func TestSelectsInMessagesAndDispatchingInputsTellTheApp(t *testing.T) {
	a := start(t, config())
	ctx := within(t)
	var got slack.InteractionCallback
	heard := 0
	a.onInteract(func(_ http.ResponseWriter, i slack.InteractionCallback) { got = i; heard++ })
	option := slack.NewOptionBlockObject("x", plainText("X"), nil)
	_, ts, err := a.api.PostMessageContext(ctx, approvals, slack.MsgOptionBlocks(
		slack.NewActionBlock("row", slack.NewOptionsSelectBlockElement("static_select", nil, "pick", option),
			slack.NewOverflowBlockElement("more", option)),
		slack.NewActionBlock("other", slack.NewButtonBlockElement("same", "1", plainText("One"))),
		slack.NewActionBlock("another", slack.NewButtonBlockElement("same", "2", plainText("Two")))))
	if err != nil {
		t.Fatal(err)
	}
	act := slacksim.Action{Channel: approvals, TS: ts, ActionID: "pick", Values: []string{"x"}}
	if err := a.sim.As(alice).Act(ctx, act); err != nil || got.ActionCallback.BlockActions[0].SelectedOption.Value != "x" ||
		got.BlockActionState.Values["row"]["pick"].SelectedOption.Value != "x" {
		t.Errorf("select: got %+v, %v", got, err)
	}
	act.Values = []string{"y"}
	if err := a.sim.As(alice).Act(ctx, act); err == nil {
		t.Error("a choice that is not offered was made")
	}
	if err := a.sim.As(alice).Click(ctx, approvals, ts, "same"); err == nil {
		t.Error("an ambiguous click was sent")
	}
	if err := a.sim.As(alice).Act(ctx, slacksim.Action{Channel: approvals, TS: ts, BlockID: "another", ActionID: "same"}); err != nil ||
		got.ActionCallback.BlockActions[0].Value != "2" {
		t.Errorf("got %+v, %v", got.ActionCallback, err)
	}
	m := opens(t, a)
	heard = 0
	if err := a.sim.As(alice).Act(ctx, slacksim.Action{ViewID: m.ID, ActionID: "cluster", Values: []string{"prod-us-1"}}); err != nil ||
		heard != 0 {
		t.Errorf("a plain input told the app: %v", err)
	}
	v := modal()
	v.Blocks.BlockSet[2].(*slack.InputBlock).DispatchAction = true
	if _, err := a.api.UpdateViewContext(ctx, v, "", "", m.ID); err != nil {
		t.Fatal(err)
	}
	if err := a.sim.As(alice).Act(ctx, slacksim.Action{ViewID: m.ID, ActionID: "cluster", Values: []string{"prod-eu-1"}}); err != nil ||
		heard != 1 || got.View.State.Values["cluster_block"]["cluster"].SelectedOption.Value != "prod-eu-1" {
		t.Errorf("a dispatching input: heard %d, %v", heard, err)
	}
}

func TestAResponseURLAddsReplacesAndDeletes(t *testing.T) {
	a := start(t, config())
	ctx := within(t)
	var hook string
	a.onInteract(func(_ http.ResponseWriter, i slack.InteractionCallback) { hook = i.ResponseURL })
	post := func(channel string, o ...slack.MsgOption) {
		t.Helper()
		if _, _, err := a.api.PostMessageContext(ctx, channel, o...); err != nil {
			t.Fatalf("response_url: %v", err)
		}
	}
	_, ts, err := a.api.PostMessageContext(ctx, approvals, slack.MsgOptionText("card", false),
		slack.MsgOptionBlocks(slack.NewActionBlock("row", slack.NewButtonBlockElement("go", "1", plainText("Go")))))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.sim.As(bob).Click(ctx, approvals, ts, "go"); err != nil {
		t.Fatal(err)
	}
	post("", slack.MsgOptionResponseURL(hook, "ephemeral"), slack.MsgOptionText("not you", false))
	if e := a.sim.As(bob).Ephemerals(); len(e) != 1 || e[0].Text != "not you" {
		t.Errorf("got %+v", e)
	}
	if err := slack.PostWebhookContext(ctx, hook, &slack.WebhookMessage{Text: "all", ResponseType: "in_channel"}); err != nil {
		t.Fatal(err)
	}
	post("", slack.MsgOptionReplaceOriginal(hook), slack.MsgOptionText("replaced", false))
	if m, _ := a.sim.Message(approvals, ts); m.Text != "replaced" || len(m.Buttons()) != 0 || len(m.Edits) != 1 {
		t.Errorf("got %+v", m)
	}
	a.sim.Fail("response_url", slacksim.Fault{Status: 500, Apply: true})
	if err := slack.PostWebhookContext(ctx, hook, &slack.WebhookMessage{DeleteOriginal: true}); err == nil {
		t.Error("the fault did not show")
	}
	if _, ok := a.sim.Message(approvals, ts); ok {
		t.Error("the original is still there")
	}
	if err := slack.PostWebhookContext(ctx, hook, &slack.WebhookMessage{}); err == nil {
		t.Error("an empty message was accepted")
	}
	if got := len(a.sim.Messages(approvals)); got != 1 {
		t.Errorf("got %d public messages, want the one in_channel", got)
	}
}

func TestWhatPeopleSeeOfACard(t *testing.T) {
	a := start(t, config())
	var card slack.Blocks
	if err := json.Unmarshal([]byte(designCard), &card); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _, _ = a.api.PostMessage(approvals, slack.MsgOptionText("pending", false), slack.MsgOptionBlocks(card.BlockSet...))
	}()
	m, err := a.sim.WaitMessage(within(t), func(m slacksim.Message) bool { return strings.Contains(m.AllText(), "MANGO PISTON 42") })
	if err != nil {
		t.Fatal(err)
	}
	deny, ok := m.Button("deny")
	want := slacksim.Button{
		BlockID: "act:r3", ActionID: "deny", Text: "Deny", Value: "bg-7K3M-9QX:r3", Style: "danger",
		Confirm: &slacksim.Confirm{Title: "Deny this request?", Text: "You will be asked for a reason.", Confirm: "Deny", Deny: "Keep"},
	}
	if diff := cmp.Diff(want, deny); !ok || diff != "" {
		t.Error(diff)
	}
	if _, ok := m.Button("no"); ok || len(m.Buttons()) != 2 {
		t.Errorf("got %+v", m.Buttons())
	}
	a.sim.Close()
	never := func(slacksim.Message) bool { return false }
	if _, err := a.sim.WaitMessage(context.Background(), never); err == nil {
		t.Error("waiting on a closed workspace must end")
	}
}
