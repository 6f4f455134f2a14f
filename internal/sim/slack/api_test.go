package slacksim_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/slack-go/slack"

	slacksim "github.com/breakglassd/breakglass/internal/sim/slack"
)

func TestNewSaysWhatTheConfigLacks(t *testing.T) {
	for field, breakIt := range map[string]func(*slacksim.Config){
		"TeamID":        func(c *slacksim.Config) { c.TeamID = "" },
		"AppID":         func(c *slacksim.Config) { c.AppID = "" },
		"BotToken":      func(c *slacksim.Config) { c.BotToken = "" },
		"SigningSecret": func(c *slacksim.Config) { c.SigningSecret = "" },
		"Command":       func(c *slacksim.Config) { c.Command = "" },
		"user":          func(c *slacksim.Config) { c.Users = nil },
		"channel":       func(c *slacksim.Config) { c.Channels = nil },
	} {
		cfg := config()
		breakIt(&cfg)
		if _, err := slacksim.New(cfg); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("without %s: got %v", field, err)
		}
	}
}

func TestSlackGoSeesTheWorkspace(t *testing.T) {
	a := start(t, config())
	ctx := within(t)

	auth, err := a.api.AuthTestContext(ctx)
	if err != nil || auth.TeamID != "T0ACME" || auth.UserID != "U0SIMBOT" || auth.BotID != "B0SIM" || auth.Team != "acme" {
		t.Errorf("auth.test: got %+v, %v", auth, err)
	}
	for _, want := range []slack.User{
		{ID: alice, TeamID: "T0ACME", Name: "alice", RealName: "Alice Moreau", IsEmailConfirmed: true},
		{ID: guest, TeamID: "T0ACME", Name: "gus", RealName: "Gus Guest", IsUltraRestricted: true},
		{ID: "U05GONE", TeamID: "T0ACME", Name: "gone", RealName: "Gone Person", Deleted: true, IsEmailConfirmed: true},
		{ID: "U06EXT", TeamID: "T0OTHER", Name: "ext", RealName: "Ext Partner", IsStranger: true, IsEmailConfirmed: true},
	} {
		got, err := a.api.GetUserInfoContext(ctx, want.ID)
		if err != nil {
			t.Fatal(err)
		}
		flags := slack.User{
			ID: got.ID, TeamID: got.TeamID, Name: got.Name, RealName: got.RealName, Deleted: got.Deleted, IsBot: got.IsBot,
			IsRestricted: got.IsRestricted, IsUltraRestricted: got.IsUltraRestricted, IsStranger: got.IsStranger,
			IsEmailConfirmed: got.IsEmailConfirmed,
		}
		if diff := cmp.Diff(want, flags, cmp.AllowUnexported(slack.UserProfileCustomFields{})); diff != "" {
			t.Errorf("users.info %s (-want +got):\n%s", want.ID, diff)
		}
	}
	for _, limit := range []int{1, 2, 200} {
		users, err := a.api.GetUsersContext(ctx, slack.GetUsersOptionLimit(limit))
		if err != nil || len(users) != 6 { // five people and the app
			t.Errorf("users.list in pages of %d: got %d users, %v", limit, len(users), err)
		}
	}
	groups, err := a.api.GetUserGroupsContext(ctx, slack.GetUserGroupsOptionIncludeUsers(true))
	if err != nil || len(groups) != 1 || groups[0].Handle != "security" || !cmp.Equal(groups[0].Users, []string{bob}) {
		t.Errorf("usergroups.list: got %+v, %v", groups, err)
	}
	members, err := a.api.GetUserGroupMembersContext(ctx, "S0SEC")
	if err != nil || !cmp.Equal(members, []string{bob}) {
		t.Errorf("usergroups.users.list: got %v, %v", members, err)
	}
	channel, err := a.api.GetConversationInfoContext(ctx, &slack.GetConversationInfoInput{ChannelID: approvals})
	if err != nil || channel.Name != "breakglass-approvals" || !channel.IsMember || channel.IsPrivate {
		t.Errorf("conversations.info: got %+v, %v", channel, err)
	}
	dm, _, already, err := a.api.OpenConversationContext(ctx, &slack.OpenConversationParameters{Users: []string{alice}, ReturnIM: true})
	if err != nil || dm.ID != a.sim.As(alice).DMChannel() || !dm.IsIM || already {
		t.Errorf("conversations.open: got %+v already=%v, %v", dm, already, err)
	}
	if _, _, already, err = a.api.OpenConversationContext(ctx, &slack.OpenConversationParameters{Users: []string{alice}}); err != nil ||
		!already {
		t.Errorf("conversations.open again: already=%v, %v", already, err)
	}
}

func TestChangedUsersAreSeenAtOnce(t *testing.T) {
	a := start(t, config())
	a.sim.SetUser(slacksim.User{ID: alice, Name: "alice", Deleted: true})
	a.sim.SetUserGroup(slacksim.UserGroup{ID: "S0NEW", Handle: "new"})
	a.sim.SetChannel(slacksim.Channel{ID: "C0NEW", Name: "new"})
	if u, err := a.api.GetUserInfoContext(within(t), alice); err != nil || !u.Deleted {
		t.Errorf("got %+v, %v", u, err)
	}
	if _, err := a.api.GetUserGroupMembersContext(within(t), "S0NEW"); err != nil {
		t.Error(err)
	}
	if _, _, err := a.api.PostMessageContext(within(t), "#new", slack.MsgOptionText("x", false)); err != nil {
		t.Error(err)
	}
}

func TestMessagesArePostedUpdatedInPlaceAndThreaded(t *testing.T) {
	a := start(t, config())
	ctx := within(t)
	var card slack.Blocks
	if err := json.Unmarshal([]byte(designCard), &card); err != nil {
		t.Fatal(err)
	}
	channel, ts, err := a.api.PostMessageContext(ctx, "breakglass-approvals", slack.MsgOptionText("pending", false),
		slack.MsgOptionBlocks(card.BlockSet...))
	if err != nil || channel != approvals {
		t.Fatalf("got %q %q %v", channel, ts, err)
	}
	_, reply, err := a.api.PostMessageContext(ctx, approvals, slack.MsgOptionText("bob approved", false), slack.MsgOptionTS(ts),
		slack.MsgOptionBroadcast())
	if err != nil {
		t.Fatal(err)
	}
	if reply <= ts {
		t.Errorf("timestamps do not grow: %s then %s", ts, reply)
	}
	if _, _, text, err := a.api.UpdateMessageContext(ctx, approvals, ts, slack.MsgOptionText("approved", false)); err != nil ||
		text != "approved" {
		t.Fatalf("chat.update: got %q, %v", text, err)
	}
	m, ok := a.sim.Message(approvals, ts)
	if !ok || m.Text != "approved" || !strings.Contains(m.AllText(), "etcd quorum lost") {
		t.Errorf("an update without blocks must keep them: %+v", m)
	}
	if len(m.Edits) != 1 || m.Edits[0].Text != "pending" {
		t.Errorf("got edits %+v, want the earlier text", m.Edits)
	}
	if _, _, _, err := a.api.UpdateMessageContext(ctx, approvals, ts, slack.MsgOptionText("ended", false),
		slack.MsgOptionBlocks()); err != nil {
		t.Fatal(err)
	}
	if m, _ = a.sim.Message(approvals, ts); string(m.Blocks) != "[]" || len(m.Edits) != 2 {
		t.Errorf("blocks=[] must remove the blocks: %s", m.Blocks)
	}
	if _, _, err := a.api.PostMessageContext(ctx, approvals, slack.MsgOptionText("to the reply", false),
		slack.MsgOptionTS(reply)); err != nil {
		t.Fatal(err)
	}
	thread := a.sim.Thread(approvals, ts)
	if len(thread) != 2 || thread[0].TS != reply || !thread[0].Broadcast || thread[1].Text != "to the reply" ||
		len(a.sim.Messages(approvals)) != 3 {
		t.Errorf("got thread %+v", thread)
	}
	link, err := a.api.GetPermalinkContext(ctx, &slack.PermalinkParameters{Channel: approvals, Ts: reply})
	want := "https://acme.slack.com/archives/" + approvals + "/p" + strings.ReplaceAll(reply, ".",
		"") + "?cid=" + approvals + "&thread_ts=" + ts
	if err != nil || link != want {
		t.Errorf("chat.getPermalink: got %q, %v, want %q", link, err, want)
	}
	if _, _, err := a.api.PostMessageContext(ctx, alice, slack.MsgOptionText("to you", false)); err != nil {
		t.Fatal(err)
	}
	if dms := a.sim.As(alice).DMs(); len(dms) != 1 || dms[0].Text != "to you" {
		t.Errorf("got DMs %+v", dms)
	}
	if _, err := a.api.PostEphemeralContext(ctx, approvals, alice, slack.MsgOptionText("only you", false)); err != nil {
		t.Fatal(err)
	}
	if e := a.sim.As(alice).Ephemerals(); len(e) != 1 || e[0].Text != "only you" {
		t.Errorf("got ephemerals %+v", e)
	}
	if len(a.sim.As(bob).Ephemerals()) != 0 || len(a.sim.Messages(approvals)) != 3 {
		t.Error("somebody else sees the ephemeral message")
	}
}

func TestEveryRefusalHasSlacksErrorCode(t *testing.T) {
	a := start(t, config())
	ctx := within(t)
	_, mine, err := a.api.PostMessageContext(ctx, approvals, slack.MsgOptionText("x", false))
	if err != nil {
		t.Fatal(err)
	}
	said, err := a.sim.As(alice).Say("hello")
	if err != nil {
		t.Fatal(err)
	}
	ephemeral, err := a.api.PostEphemeralContext(ctx, approvals, alice, slack.MsgOptionText("x", false))
	if err != nil {
		t.Fatal(err)
	}
	post := func(channel string, o ...slack.MsgOption) error {
		_, _, err := a.api.PostMessageContext(ctx, channel, o...)
		return err
	}
	update := func(channel, ts, text string) error {
		_, _, _, err := a.api.UpdateMessageContext(ctx, channel, ts, slack.MsgOptionText(text, false))
		return err
	}
	text := slack.MsgOptionText("x", false)
	section := func(s string) slack.Block { return slack.NewSectionBlock(mrkdwn(s), nil, nil) }
	var big []slack.Block
	for range 5 {
		big = append(big, section(strings.Repeat("x", 2900)))
	}
	as := func(token string) *slack.Client {
		return slack.New(token, slack.OptionAPIURL(a.server.URL+"/api/"))
	}
	open := func(c *slack.Client, users ...string) error {
		_, _, _, err := c.OpenConversationContext(ctx, &slack.OpenConversationParameters{Users: users})
		return err
	}
	second := func(_ any, err error) error { return err }

	for _, row := range []struct {
		name string
		got  error
		want string
	}{
		{"no token", second(as("").AuthTestContext(ctx)), "not_authed"},
		{"wrong token", second(as("xoxb-wrong").AuthTestContext(ctx)), "invalid_auth"},
		{"wrong bearer", second(as("xoxb-wrong").OpenViewContext(ctx, "t", modal())), "invalid_auth"},
		{"unknown method", second(a.api.GetUserPresenceContext(ctx, alice)), "unknown_method"},
		{"no such channel", post("C0NONE", text), "channel_not_found"},
		{"private and not invited", post("C0HIDDEN", text), "channel_not_found"},
		{"not invited", post("C0NOBOT", text), "not_in_channel"},
		{"archived", post("C0OLD", text), "is_archived"},
		{"nothing to say", post(approvals), "no_text"},
		{"empty blocks only", post(approvals, slack.MsgOptionBlocks()), "no_text"},
		{"too long", post(approvals, slack.MsgOptionText(strings.Repeat("x", 40_001), false)), "msg_too_long"},
		{"bad blocks", post(approvals, slack.MsgOptionBlocks(section(""))), "invalid_blocks"},
		{"too much in all blocks", post(approvals, slack.MsgOptionBlocks(big...)), "msg_blocks_too_long"},
		{"update in no channel", update("C0NONE", mine, "x"), "channel_not_found"},
		{"update by channel name", update("breakglass-approvals", mine, "x"), "channel_not_found"},
		{"update of nothing", update(approvals, "1.000001", "x"), "message_not_found"},
		{"update of an ephemeral", update(approvals, ephemeral, "x"), "message_not_found"},
		{"update of somebody's words", update(approvals, said.TS, "x"), "cant_update_message"},
		{"update too long in bytes", update(approvals, mine, strings.Repeat("—", 1334)), "msg_too_long"},
		{"update to nothing", update(approvals, mine, ""), "no_text"},
		{"ephemeral to a non-member", second(a.api.PostEphemeralContext(ctx, "C0SECRET", alice, text)), "user_not_in_channel"},
		{"ephemeral to nobody", second(a.api.PostEphemeralContext(ctx, approvals, "U0NONE", text)), "user_not_in_channel"},
		{"no such user", second(a.api.GetUserInfoContext(ctx, "U0NONE")), "user_not_found"},
		{"DM with nobody", open(a.api, "U0NONE"), "user_not_found"},
		{"DM with a deactivated person", open(a.api, "U05GONE"), "user_disabled"},
		{"DM with itself", open(a.api, "U0SIMBOT"), "cannot_dm_bot"},
		{"DM without users", open(a.api), "users_list_not_supplied"},
		{"no such group", second(a.api.GetUserGroupMembersContext(ctx, "S0NONE")), "no_such_subteam"},
		{"disabled group", second(a.api.GetUserGroupMembersContext(ctx, "S0OLD")), "no_such_subteam"},
		{"info of nothing", second(a.api.GetConversationInfoContext(ctx, &slack.GetConversationInfoInput{ChannelID: "C0NONE"})),
			"channel_not_found"},
		{"link to nothing", second(a.api.GetPermalinkContext(ctx, &slack.PermalinkParameters{Channel: approvals, Ts: "1.1"})),
			"message_not_found"},
		{"bad cursor", second(a.api.GetUsersContext(ctx, slack.GetUsersOptionCursor("x"))), "invalid_cursor"},
		{"made-up trigger", second(a.api.OpenViewContext(ctx, "1.2.3", modal())), "invalid_trigger_id"},
		{"bad view", second(a.api.OpenViewContext(ctx, "1.2.3", slack.ModalViewRequest{Type: slack.VTModal})), "invalid_arguments"},
		{"home as a modal", second(a.api.OpenViewContext(ctx, "1.2.3", slack.ModalViewRequest{Type: slack.VTHomeTab})), "invalid_arguments"},
		{"update of no view", second(a.api.UpdateViewContext(ctx, modal(), "", "", "V0NONE")), "not_found"},
	} {
		if row.got == nil || row.got.Error() != row.want {
			t.Errorf("%s: got %v, want %s", row.name, row.got, row.want)
		}
	}
	if m, _ := a.sim.Message(approvals, mine); m.Text != "x" || len(m.Edits) != 0 {
		t.Errorf("a refused update changed the message: %+v", m)
	}
}

func TestInvalidBlocksSaysWhatAndWhere(t *testing.T) {
	a := start(t, config())
	_, _, err := a.api.PostMessageContext(within(t), approvals,
		slack.MsgOptionBlocks(slack.NewHeaderBlock(plainText(strings.Repeat("x", 151)))))
	var refused slack.SlackErrorResponse
	if !errors.As(err, &refused) {
		t.Fatalf("got %v", err)
	}
	want := []string{"[ERROR] must be less than 151 characters [json-pointer:/blocks/0/text/text]"}
	if diff := cmp.Diff(want, refused.ResponseMetadata.Messages); diff != "" {
		t.Error(diff)
	}
	calls := a.sim.Calls("chat.postMessage")
	if len(calls) != 1 || calls[0].Outcome != "invalid_blocks" || calls[0].Args["token"] != "" {
		t.Errorf("got %+v", calls)
	}
}

// Every fault comes in a pair: the method did its work, or it did not. The caller cannot tell which.
func TestEveryFaultIsAppliedOrNotAsAsked(t *testing.T) {
	for name, fault := range map[string]slacksim.Fault{
		"rate limited": {RetryAfter: 1500 * time.Millisecond},
		"status 500":   {Status: 500},
		"status 503":   {Status: 503},
		"error code":   {Error: "internal_error"},
		"hang":         {Hang: true},
	} {
		for _, apply := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s applied=%v", name, apply), func(t *testing.T) {
				a := start(t, config())
				fault.Apply = apply
				a.sim.Fail("chat.postMessage", fault)
				ctx, giveUp := context.WithCancel(within(t))
				defer giveUp()
				if fault.Hang {
					arrived := func() bool { return len(a.sim.Calls("chat.postMessage")) == 1 }
					go func() { defer giveUp(); _ = a.sim.Wait(ctx, arrived) }()
				}
				_, _, err := a.api.PostMessageContext(ctx, approvals, slack.MsgOptionText("x", false))
				var limited *slack.RateLimitedError
				var status slack.StatusCodeError
				switch {
				case fault.Hang && !errors.Is(err, context.Canceled),
					fault.Error != "" && (err == nil || err.Error() != fault.Error),
					fault.Status != 0 && (!errors.As(err, &status) || status.Code != fault.Status),
					fault.RetryAfter != 0 && (!errors.As(err, &limited) || limited.RetryAfter != 2*time.Second):
					t.Errorf("got error %v", err)
				}
				if got := len(a.sim.Messages(approvals)) == 1; got != apply {
					t.Errorf("message is there: %v, want %v", got, apply)
				}
				if _, _, err := a.api.PostMessageContext(within(t), approvals, slack.MsgOptionText("y", false)); err != nil {
					t.Errorf("one failure was asked for, the next call also failed: %v", err)
				}
			})
		}
	}
}

func TestFaultsCountDownAndHeal(t *testing.T) {
	a := start(t, config())
	post := func() error {
		_, _, err := a.api.PostMessageContext(within(t), approvals, slack.MsgOptionText("x", false))
		return err
	}
	a.sim.Fail("chat.postMessage", slacksim.Fault{Times: 2, Status: 500})
	for i, fails := range []bool{true, true, false} {
		if err := post(); (err != nil) != fails {
			t.Errorf("call %d: got %v", i, err)
		}
	}
	a.sim.Fail("", slacksim.Fault{Times: -1, Error: "fatal_error"})
	for range 3 {
		if err := post(); err == nil {
			t.Error("a lasting fault ended")
		}
	}
	if _, err := a.api.AuthTestContext(within(t)); err == nil {
		t.Error("the empty method must stand for any")
	}
	a.sim.Fail("chat.postMessage", slacksim.Fault{Times: -1, Hang: true})
	hung := make(chan error, 1)
	go func() { hung <- post() }()
	if err := a.sim.Wait(within(t), func() bool { return len(a.sim.Calls("chat.postMessage")) == 7 }); err != nil {
		t.Fatal(err)
	}
	a.sim.Heal()
	if err := <-hung; err == nil {
		t.Error("a hung call must not turn into a success")
	}
	if err := post(); err != nil {
		t.Errorf("after Heal: %v", err)
	}
}

// roundTrip lets slack-go call the simulator, and the simulator an app, without a network, so that fake time works.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func serve(h http.Handler) *http.Client {
	return &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		w := httptest.NewRecorder()
		done := make(chan struct{})
		go func() { defer close(done); h.ServeHTTP(w, r) }()
		select {
		case <-done:
			return w.Result(), nil
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	})}
}

// inMemory is a workspace in a synctest bubble whose app is h.
func inMemory(t *testing.T, h http.HandlerFunc) (*slacksim.Sim, *slack.Client) {
	t.Helper()
	cfg := config()
	cfg.URL, cfg.CommandURL, cfg.InteractivityURL = "http://sim.example", "http://app.example/c", "http://app.example/i"
	cfg.Client = serve(h)
	sim, err := slacksim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return sim, slack.New(botToken, slack.OptionAPIURL("http://sim.example/api/"), slack.OptionHTTPClient(serve(sim.Handler())))
}

func TestATriggerLivesThreeSecondsAndOpensOneView(t *testing.T) {
	for _, row := range []struct {
		after time.Duration
		uses  int
		want  string
	}{
		{3 * time.Second, 1, ""},
		{3*time.Second + time.Millisecond, 1, "expired_trigger_id"},
		{0, 2, "exchanged_trigger_id"},
	} {
		synctest.Test(t, func(t *testing.T) {
			sim, api := inMemory(t, func(http.ResponseWriter, *http.Request) {})
			trigger := sim.CommandPayload(alice, approvals, "").Get("trigger_id")
			time.Sleep(row.after)
			var err error
			for range row.uses {
				_, err = api.OpenView(trigger, modal())
			}
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != row.want {
				t.Errorf("after %v, use %d: got %q, want %q", row.after, row.uses, got, row.want)
			}
		})
	}
}

func TestAResponseURLWorksFiveTimesInHalfAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim, _ := inMemory(t, func(http.ResponseWriter, *http.Request) {})
		send := func(to string) int {
			r := httptest.NewRequest(http.MethodPost, to, strings.NewReader(`{"text":"later"}`))
			r.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			sim.Handler().ServeHTTP(w, r)
			return w.Code
		}
		hook := func() string {
			u, err := url.Parse(sim.CommandPayload(alice, approvals, "").Get("response_url"))
			if err != nil {
				t.Fatal(err)
			}
			return u.Path
		}
		first := hook()
		for i := range 6 {
			if got := send(first); (got == http.StatusOK) != (i < 5) {
				t.Errorf("use %d: HTTP %d", i+1, got)
			}
		}
		late := hook()
		time.Sleep(30*time.Minute + time.Second)
		if got := send(late); got != http.StatusNotFound {
			t.Errorf("after half an hour: HTTP %d", got)
		}
		if got := send("/response/guess"); got != http.StatusNotFound {
			t.Errorf("made-up URL: HTTP %d", got)
		}
		if n := len(sim.As(alice).Ephemerals()); n != 5 {
			t.Errorf("got %d messages, want 5", n)
		}
	})
}

func TestAnAppThatDoesNotAnswerInThreeSecondsTimesOut(t *testing.T) {
	for _, row := range []struct {
		takes time.Duration
		want  error
	}{{3*time.Second - time.Millisecond, nil}, {3*time.Second + time.Millisecond, slacksim.ErrTimeout}} {
		synctest.Test(t, func(t *testing.T) {
			sim, _ := inMemory(t, func(http.ResponseWriter, *http.Request) { time.Sleep(row.takes) })
			_, err := sim.As(alice).Slash(t.Context(), "")
			if !errors.Is(err, row.want) {
				t.Errorf("after %v: got %v, want %v", row.takes, err, row.want)
			}
			shown := sim.As(alice).Ephemerals()
			if row.want != nil && (len(shown) != 1 || !strings.Contains(shown[0].Text, "operation_timeout")) {
				t.Errorf("the person was shown %+v", shown)
			}
			time.Sleep(time.Second) // let the slow app finish inside the bubble
		})
	}
}
