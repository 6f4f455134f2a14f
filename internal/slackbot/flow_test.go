package slackbot_test

import (
	"encoding/json"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/record"
	slacksim "github.com/breakglassd/breakglass/internal/sim/slack"
)

func TestRequestApprovedInSlackIsClaimedAndRevoked(t *testing.T) {
	w := newWorld(t)
	r, card := w.ask("admin")
	if r.Ask.By.Person != "alice" || r.Ask.TTLSeconds != 1800 || r.Reason != "etcd quorum lost, API 5xx" ||
		r.Ask.By.Channel != record.ChannelSlack {
		t.Fatalf("the request is not what was asked: %+v", r.Ask)
	}
	w.wait(w.as("alice").DMChannel(), "You asked for")

	_, err := w.as("dave").Slash(w.ctx(), "approve "+r.ID) // as on the command line: it opens what the button opens
	must(t, err)
	if m, err := w.as("dave").WaitModal(w.ctx()); err != nil || m.Submit != "Approve admin" {
		t.Fatalf("the command opens %+v %v", m, err)
	}
	m := w.click("carol", card, "review")
	if m.Submit != "Approve admin" || !strings.Contains(m.AllText(), r.Reason) {
		t.Fatalf("the review shows\n%s", m.AllText())
	}
	must(t, m.Fill("comment", "seen on the dashboard"))
	w.send(m)
	w.wait(channel, "seen on the dashboard")
	w.card(r.ID, "1 of 2 approved")

	w.send(w.click("bob", card, "review"))
	w.wait(w.as("alice").DMChannel(), "breakglass claim "+r.ID)
	w.card(r.ID, "can pick it up until")

	_, csr := bgtest.NewCSR()
	d, err := w.Claim("alice", r.ID, csr)
	must(t, err)
	w.wait(channel, d.Request.Issued.Serial)
	card = w.card(r.ID, "*Active*")
	w.wait(channel, "Bound in the cluster")

	m = w.click("carol", card, "revoke")
	must(t, m.Fill("reason", "repaired already"))
	w.send(m)
	w.wait(channel, "revoked")
	w.wait(w.as("alice").DMChannel(), "repaired already")
	w.wait(channel, "Removed from the cluster")
	card = w.card(r.ID, "*Revoked*")
	if len(card.Buttons()) != 0 {
		t.Errorf("a card of an ended request has buttons: %v", card.Buttons())
	}
	if w.Cluster.Has(r.ID) {
		t.Error("the binding is still there")
	}
	cards := 0
	for _, m := range w.sim.Messages(channel) {
		if m.ThreadTS == "" {
			cards++
		}
	}
	if cards != 1 {
		t.Errorf("there are %d cards, want 1", cards)
	}
	w.Check()
}

func TestDenialEndsARequestWithItsReason(t *testing.T) {
	w := newWorld(t)
	r, card := w.ask("admin")
	m := w.click("erin", card, "deny")
	must(t, m.Fill("reason", "x"))
	errs, err := m.Send(w.ctx())
	must(t, err)
	if !strings.Contains(errs["reason"], "reason of 3 to") {
		t.Fatalf("a reason of one letter is answered with %v", errs)
	}
	must(t, m.Fill("reason", "the cluster is fine, <!here> look"))
	w.send(m)
	w.card(r.ID, "*Denied*")
	w.wait(w.as("alice").DMChannel(), "the cluster is fine")
	if got := w.get(r.ID).Denied; got == nil || got.By.Person != "erin" || got.By.Slack == nil || got.By.Slack.User != "U0ERIN" {
		t.Fatalf("denied is %+v", got)
	}
	w.Check()
}

func TestApprovalIsTakenBack(t *testing.T) {
	w := newWorld(t)
	r, card := w.ask("admin")
	w.send(w.click("carol", card, "review"))
	w.send(w.click("bob", card, "review"))
	w.card(r.ID, "can pick it up until")
	m := w.click("carol", card, "review")
	if m.Submit != "Take back my approval" {
		t.Fatalf("an approver is offered %q", m.Submit)
	}
	w.send(m)
	w.card(r.ID, "1 of 2 approved")
	w.wait(w.as("alice").DMChannel(), "back. It waits for")
	if got := len(w.get(r.ID).Approvals); got != 1 {
		t.Fatalf("%d approvals, want 1", got)
	}
	w.Check()
}

func TestOnlyTheRequesterWithdraws(t *testing.T) {
	w := newWorld(t)
	r, card := w.ask("admin")
	must(t, w.as("bob").Click(w.ctx(), channel, card.TS, "withdraw"))
	if got := w.said("bob"); !strings.Contains(got, "Only alice can withdraw this request") {
		t.Errorf("bob is told %q", got)
	}
	must(t, w.as("alice").Click(w.ctx(), channel, card.TS, "withdraw"))
	w.card(r.ID, "*Withdrawn*")
	w.Check()
}

func TestWrongPeopleAreRefusedAloneAndRecorded(t *testing.T) {
	w := newWorld(t)
	r, card := w.ask("admin")
	for _, tt := range []struct{ person, action, want string }{
		{"alice", "review", "Requesters do not approve their own requests"},
		{"mallory", "review", "you are in none of the teams that count"},
		{"alice", "deny", "This is your own request"},
		{"mallory", "deny", "Only its approvers can deny"},
		{"stranger", "review", "not in the access policy; ask for an entry with slack user U0STRANGER of team T01"},
		{"stranger", "deny", "not in the access policy"},
		{"stranger", "withdraw", "not in the access policy"},
	} {
		t.Run(tt.person+" "+tt.action, func(t *testing.T) {
			size := w.Ledger.Size()
			must(t, w.as(tt.person).Click(w.ctx(), channel, card.TS, tt.action))
			if got := w.said(tt.person); !strings.Contains(got, tt.want) {
				t.Errorf("told %q, want %q", got, tt.want)
			}
			if w.as(tt.person).Modal() != nil {
				t.Error("a form opened")
			}
			if got := w.Ledger.Size() - size; got != 1 {
				t.Errorf("%d entries were written, want the refusal", got)
			}
		})
	}
	if got := w.get(r.ID); len(got.Approvals) != 0 || got.State(time.Now()) != breakglass.StatePending {
		t.Errorf("the request is %s with %d approvals", got.State(time.Now()), len(got.Approvals))
	}
	w.Check()
}

// A changed client can send any form. What it may not do, the service refuses.
func TestFormsOfWrongPeopleAreRefused(t *testing.T) {
	w := newWorld(t)
	r, card := w.ask("admin")
	w.click("bob", card, "review")
	must(t, w.as("bob").Act(w.ctx(), slacksim.Action{ViewID: w.as("bob").Modal().ID, ActionID: "value", BlockID: "comment",
		Values: []string{"ok"}}))
	_, err := w.as("bob").Modal().Send(w.ctx())
	must(t, err)
	sent := w.sim.LastRequest()
	for _, person := range []string{"alice", "mallory", "stranger"} {
		body := strings.ReplaceAll(string(sent.Body), "U0BOB", bgtest.SlackUser(person))
		res, err := w.sim.RawSend(w.ctx(), w.sim.Sign(sent.URL, []byte(body), time.Now()))
		must(t, err)
		if res.Status != 200 || !strings.Contains(string(res.Body), "Not done") {
			t.Errorf("%s's forged form is answered with %d %s", person, res.Status, res.Body)
		}
	}
	if got := w.get(r.ID); len(got.Approvals) != 1 || got.Approvals[0].By.Person != "bob" {
		t.Errorf("approvals: %+v", got.Approvals)
	}
	w.Check()
}

func TestStaleDigestIsRefused(t *testing.T) {
	w := newWorld(t)
	r, card := w.ask("admin")
	w.send(w.click("bob", card, "review"))
	sent := w.sim.LastRequest()
	other := strings.Repeat("0", 64)
	body := strings.ReplaceAll(strings.ReplaceAll(string(sent.Body), "U0BOB", "U0CAROL"), r.Digest, other)
	res, err := w.sim.RawSend(w.ctx(), w.sim.Sign(sent.URL, []byte(body), time.Now()))
	must(t, err)
	if !strings.Contains(string(res.Body), "not the request you saw") {
		t.Errorf("answered with %s", res.Body)
	}
	if got := len(w.get(r.ID).Approvals); got != 1 {
		t.Errorf("%d approvals, want bob's", got)
	}
}

func TestCriticalProfileTakesNoApprovalInSlack(t *testing.T) {
	w := newWorld(t)
	r, card := w.ask("keys")
	m := w.click("bob", card, "review")
	if m.Submit != "" || !strings.Contains(m.AllText(), "breakglass approve "+r.ID) {
		t.Errorf("the review offers %q:\n%s", m.Submit, m.AllText())
	}
	w.Approve(bgtest.ByKey("bob"), r)
	w.card(r.ID, "SSH key")
}

func TestDoubleClickIsOneVote(t *testing.T) {
	w := newWorld(t)
	r, card := w.ask("admin")
	w.send(w.click("bob", card, "review"))
	sent := w.sim.LastRequest()
	var wg sync.WaitGroup
	now := time.Now()  // once: two that are seconds apart would make the same signature
	for i := range 8 { // the same click by a fresh signature, on as many devices
		wg.Go(func() {
			res, err := w.sim.RawSend(w.ctx(), w.sim.Sign(sent.URL, sent.Body, now.Add(time.Duration(i+1)*time.Second)))
			if err != nil || res.Status != 200 {
				t.Errorf("click %d: %d %v", i, res.Status, err)
			}
		})
	}
	wg.Wait()
	if got := len(w.get(r.ID).Approvals); got != 1 {
		t.Errorf("%d approvals, want 1", got)
	}
	w.Check()
}

func TestTwoApproversAtOnceBothCount(t *testing.T) {
	w := newWorld(t)
	r, card := w.ask("admin")
	forms := []*slacksim.Modal{w.click("bob", card, "review"), w.click("carol", card, "review"), w.click("dave", card, "deny")}
	must(t, forms[2].Fill("reason", "not now"))
	var wg sync.WaitGroup
	for _, m := range forms[:2] {
		wg.Go(func() {
			if errs, err := m.Send(w.ctx()); err != nil || len(errs) > 0 {
				t.Errorf("%v %v", errs, err)
			}
		})
	}
	wg.Wait()
	if got := w.get(r.ID); len(got.Approvals) != 2 || got.State(time.Now()) != breakglass.StateApproved {
		t.Errorf("%s with %d approvals", got.State(time.Now()), len(got.Approvals))
	}
	w.send(forms[2])
	w.card(r.ID, "*Denied*")
	w.Check()
}

func TestSentTwiceTheSameFormOpensOneRequest(t *testing.T) {
	w := newWorld(t)
	w.ask("admin")
	sent := w.sim.LastRequest()
	res, err := w.sim.RawSend(w.ctx(), w.sim.Sign(sent.URL, sent.Body, time.Now().Add(time.Second)))
	must(t, err)
	if res.Status != 200 {
		t.Fatalf("status %d", res.Status)
	}
	open, err := w.Service.Open(w.ctx())
	must(t, err)
	if len(open) != 1 {
		t.Errorf("%d requests are open, want 1", len(open))
	}
	// And at one instant: a form that is new, from ten connections.
	values, err := url.ParseQuery(string(sent.Body))
	must(t, err)
	var payload map[string]any
	must(t, json.Unmarshal([]byte(values.Get("payload")), &payload))
	payload["view"].(map[string]any)["id"] = "VANOTHER"
	text, err := json.Marshal(payload)
	must(t, err)
	form := url.Values{"payload": {string(text)}}.Encode()
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			_, _ = w.sim.RawSend(w.ctx(), w.sim.Sign(sent.URL, []byte(form), time.Now().Add(time.Duration(i+2)*time.Second)))
		})
	}
	wg.Wait()
	if open, err = w.Service.Open(w.ctx()); err != nil || len(open) != 2 {
		t.Errorf("%d requests are open, want 2 (%v)", len(open), err)
	}
}

func TestFormShowsWhatIsWrongWhereItIs(t *testing.T) {
	w := newWorld(t)
	alice := w.as("alice")
	_, err := alice.Slash(w.ctx(), "admin 3h short")
	must(t, err)
	m, err := alice.WaitModal(w.ctx())
	must(t, err)
	must(t, m.Fill("incident", "47; 11, 12")) // what a person wrote has the signs in it with which reasons are joined
	errs, err := m.Send(w.ctx())
	must(t, err)
	for block, want := range map[string]string{"ttl": "3h is over the 1h limit of admin", "reason": "5 characters",
		"incident": `"47; 11, 12" is not an incident`} {
		if !strings.Contains(errs[block], want) {
			t.Errorf("block %s says %q, want %q", block, errs[block], want)
		}
	}
	must(t, m.Fill("ttl", "0"))
	must(t, m.Fill("incident", "INC-4711"))
	must(t, m.Fill("reason", "etcd quorum lost"))
	w.send(m)
	open, err := w.Service.Open(w.ctx())
	must(t, err)
	if len(open) != 1 || open[0].Ask.Incident != "INC-4711" || open[0].TTL() != 10*time.Minute {
		t.Errorf("opened: %+v", open)
	}
	for range 2 {
		w.ask("admin")
	}
	_, err = alice.Slash(w.ctx(), "admin 5m etcd quorum lost")
	must(t, err)
	m, err = alice.WaitModal(w.ctx())
	must(t, err)
	errs, err = m.Send(w.ctx())
	must(t, err)
	if !strings.Contains(errs["what"], "open requests") {
		t.Errorf("one request too many is answered with %v", errs)
	}
}

func TestFormIsFilledInFromTheCommand(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct{ text, what, ttl, reason, says string }{
		{"", "", "0", "", ""},
		{"c1", "admin/c1", "0", "", ""},
		{"c1 30m etcd <lost> & gone", "admin/c1", "30m0s", "etcd <lost> & gone", ""},
		{"scoped 7m", "scoped/c1", "7m0s", "", ""},
		{"prod-9 30m etcd lost", "", "30m0s", "etcd lost", "nothing called “prod-9”"},
		{"etcd lost its quorum", "", "0", "etcd lost its quorum", ""},
		{"c1 -5m odd", "admin/c1", "0", "-5m odd", ""},
	} {
		t.Run(tt.text, func(t *testing.T) {
			alice := w.as("alice")
			_, err := alice.Slash(w.ctx(), tt.text)
			must(t, err)
			m, err := alice.WaitModal(w.ctx())
			must(t, err)
			for block, want := range map[string]string{"what": tt.what, "ttl": tt.ttl, "reason": tt.reason} {
				if got := strings.Join(m.Value(block), ","); got != want {
					t.Errorf("%s is %q, want %q", block, got, want)
				}
			}
			if !strings.Contains(m.AllText(), tt.says) {
				t.Errorf("the form does not say %q:\n%s", tt.says, m.AllText())
			}
			if !strings.Contains(m.AllText(), "admin: one of security and 1 more of sre, security") {
				t.Errorf("the form does not say who must approve:\n%s", m.AllText())
			}
			must(t, m.Dismiss(w.ctx()))
		})
	}
}

func TestSlashCommandAnswersTheAsker(t *testing.T) {
	w := newWorld(t)
	say := func(person, text string) string {
		t.Helper()
		reply, err := w.as(person).Slash(w.ctx(), text)
		must(t, err)
		if reply.Message == nil || reply.Message.EphemeralTo == "" {
			t.Fatalf("%s is not answered in private: %s", text, reply.Body)
		}
		return reply.Message.AllText()
	}
	if got := say("alice", "list"); !strings.Contains(got, "Nothing is open") {
		t.Errorf("list: %s", got)
	}
	r, _ := w.ask("admin")
	for _, tt := range []struct{ person, text, want string }{
		{"stranger", "help", "Ask for emergency access"},
		{"stranger", "list", "not in the access policy"},
		{"stranger", "status " + r.ID, "not in the access policy"},
		{"stranger", "c1 30m let me in", "not in the access policy"},
		{"mallory", "c1 30m let me in", "nothing that you may ask for"},
		{"mallory", "list", "alice asks for admin on c1 for 30m: pending, 0 of 2 approved (" + r.ID + ")"},
		{"bob", "status " + strings.ToUpper(r.ID[3:7]), r.Reason},
		{"bob", "status", r.ID},
		{"bob", "status bg-zzzz", "There is no request bg-zzzz"},
	} {
		if got := say(tt.person, tt.text); !strings.Contains(got, tt.want) {
			t.Errorf("%s types %q and is told\n%s\nwant %q", tt.person, tt.text, got, tt.want)
		}
	}
}
