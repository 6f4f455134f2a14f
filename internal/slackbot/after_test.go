package slackbot_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/finding"
	slacksim "github.com/breakglassd/breakglass/internal/sim/slack"
)

// servers is a Prover: API servers by address, and what each answers.
type servers struct {
	mu     sync.Mutex
	answer map[string]string // server → its problem; empty: it refuses
	hang   bool
}

func (s *servers) Ask(ctx context.Context, _ breakglass.Access) []breakglass.Answer {
	s.mu.Lock()
	hang := s.hang
	s.mu.Unlock()
	if hang { // without the lock: they are asked by several at one time
		<-ctx.Done()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []breakglass.Answer
	for _, name := range []string{"https://a:6443", "https://b:6443", "https://c:6443"} {
		a := breakglass.Answer{Server: name, Problem: s.answer[name]}
		if a.Problem == "" {
			a.No, a.By = true, breakglass.RefusedByRBAC
		}
		out = append(out, a)
	}
	return out
}

func (s *servers) set(server, problem string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer[server] = problem
}

// examiner is an Examiner that answers what a test says.
type examiner struct {
	mu      sync.Mutex
	session breakglass.SessionReported
	swept   breakglass.Swept
}

func (*examiner) Before(context.Context, breakglass.Access) error { return nil }

func (e *examiner) Examine(context.Context, *breakglass.Request, bool) (breakglass.SessionReported, breakglass.Swept, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.session, e.swept, nil
}

func (e *examiner) set(f func(*examiner)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f(e)
}

// left is what a session left behind, with words of an attacker in it.
func left(names ...string) breakglass.Swept {
	s := breakglass.Swept{Items: []breakglass.Residue{}, Sources: []string{"audit"}}
	for _, n := range names {
		s.Items = append(s.Items, breakglass.Residue{Rule: "clusterrolebinding-created", Severity: finding.Critical,
			Object: "ClusterRoleBinding " + n,
			What:   "a new binding to cluster-admin", Found: "audit", Exists: "yes", Undo: "kubectl delete clusterrolebinding '" + n + "'"})
	}
	return s
}

// caring is a world in which grants are followed up: mallory is the one responder, and closing notes are asked for within a day.
func caring(t *testing.T, more ...option) (*world, *servers, *examiner) {
	t.Helper()
	p := &servers{answer: map[string]string{}}
	e := &examiner{session: breakglass.SessionReported{Source: breakglass.SourceAudit, Digest: strings.Repeat("d", 64), Events: 12,
		First: time.Now(), Last: time.Now(),
		From: []string{"192.0.2.7"}, Reads: 9, Writes: 2, Refused: 1}, swept: left()}
	w := newWorld(t, append([]option{func(_ *world, _ *slacksim.Config, o *bgtest.Options) {
		o.Policy = strings.Replace(bgtest.Policy(), "  - {id: security", "  - {id: response, members: [mallory]}\n  - {id: security", 1) +
			"responders: [response]\nclosing: {within: 24h, raiseQuorum: true}\n"
		o.Config = func(c *bgtest.Config) { c.Prover, c.Examiner, c.Grace = p, e, time.Millisecond }
	}}, more...)...)
	return w, p, e
}

// active is a grant of alice's whose certificate is out.
func (w *world) active(profile string) (*breakglass.Request, slacksim.Message) {
	w.t.Helper()
	r := w.Grant("alice", profile)
	_, csr := bgtest.NewCSR()
	_, err := w.Claim("alice", r.ID, csr)
	must(w.t, err)
	return r, w.card(r.ID, "*Active*")
}

func (w *world) revoke(person string, card slacksim.Message) {
	w.t.Helper()
	m := w.click(person, card, "revoke")
	must(w.t, m.Fill("reason", "laptop stolen"))
	w.send(m)
}

func buttons(m slacksim.Message) string { return fmt.Sprint(m.Buttons()) }

func TestResponderRevokesAndTheThreadHasTheReceipt(t *testing.T) {
	t.Parallel()
	w, p, _ := caring(t)
	p.set("https://c:6443", "connection refused by <!channel>")
	r, card := w.active("admin")
	m := w.click("mallory", card, "revoke")
	for _, want := range []string{"What it does not reach", "exec", "Kubernetes checks no revocation list",
		"every API server is asked until it refuses"} {
		if !strings.Contains(m.AllText(), want) {
			t.Errorf("the form does not say %q:\n%s", want, m.AllText())
		}
	}
	must(t, m.Fill("reason", "laptop stolen"))
	w.send(m)
	w.wait(channel, "https://a:6443: refused after")
	w.wait(channel, "https://c:6443: cannot tell: connection refused by <!channel>; tried again")
	w.card(r.ID, "cut off on 2 of 3 API servers · *1 unknown*")
	p.set("https://c:6443", "")
	w.card(r.ID, "cut off on 3 of 3 API servers")
	w.wait(channel, "https://c:6443: refused after")
	if got := w.get(r.ID).Revoked.By.Person; got != "mallory" {
		t.Errorf("revoked by %s", got)
	}
	w.drained(r.ID)
	receipts := 0
	for _, m := range w.sim.Thread(channel, card.TS) {
		if strings.Contains(m.AllText(), "refused after") {
			receipts++
		}
	}
	if receipts != 2 {
		t.Errorf("%d receipts in the thread, want one for each time that something was new", receipts)
	}
	w.Check()
}

func TestApprovedGrantIsRevokedBeforeItsPickup(t *testing.T) {
	t.Parallel()
	w, _, _ := caring(t)
	r := w.Grant("alice", "admin")
	card := w.card(r.ID, "can pick it up until")
	m := w.click("mallory", card, "revoke")
	if !strings.Contains(m.AllText(), "no certificate comes of it") {
		t.Errorf("the form says\n%s", m.AllText())
	}
	must(t, m.Fill("reason", "that is not alice"))
	w.send(m)
	card = w.card(r.ID, "no certificate exists, and none will")
	if len(card.Buttons()) != 0 {
		t.Errorf("the card has buttons: %s", buttons(card))
	}
	_, csr := bgtest.NewCSR()
	if _, err := w.Claim("alice", r.ID, csr); err == nil {
		t.Error("a revoked grant was picked up")
	}
	w.Check()
}

func TestHangingAPIServersDelayNoRevocation(t *testing.T) {
	t.Parallel()
	w, p, _ := caring(t, hurry, func(_ *world, _ *slacksim.Config, o *bgtest.Options) {
		follow := o.Config
		o.Config = func(c *bgtest.Config) { follow(c); c.BindTimeout = time.Minute }
	})
	r, card := w.active("admin")
	p.mu.Lock()
	p.hang = true
	p.mu.Unlock()
	w.revoke("carol", card) // fails if Slack waits for too long
	if w.get(r.ID).Revoked == nil {
		t.Error("not revoked")
	}
}

func TestWhatWasLeftBehindIsAcknowledgedBySomebodyElse(t *testing.T) {
	t.Parallel()
	w, _, e := caring(t)
	e.set(func(e *examiner) { e.swept = left("evil <!channel> *now*", "second") })
	r, card := w.active("admin")
	w.revoke("carol", card)
	w.wait(channel, "used ")
	found := w.wait(channel, "2 things left behind in c1")
	if !found.Broadcast || found.ThreadTS != card.TS || !strings.Contains(found.AllText(), "kubectl delete clusterrolebinding 'second'") {
		t.Errorf("broadcast %t in thread %s:\n%s", found.Broadcast, found.ThreadTS, found.AllText())
	}
	w.card(r.ID, "*Left something behind: 2, not acknowledged*")

	for person, want := range map[string]string{"alice": "Requesters do not acknowledge what their own sessions left behind",
		"stranger": "not in the access policy"} {
		size := w.Ledger.Size()
		must(t, w.as(person).Click(w.ctx(), channel, found.TS, "acknowledge"))
		if got := w.said(person); !strings.Contains(got, want) || w.as(person).Modal() != nil {
			t.Errorf("%s is told %q", person, got)
		}
		if got := w.Ledger.Size() - size; got != 1 {
			t.Errorf("%s: %d entries were written, want the refusal", person, got)
		}
	}

	// A form that was opened before the sweep looked again says nothing about what it found then.
	stale := w.click("bob", found, "acknowledge")
	e.set(func(e *examiner) { e.swept = left("third") })
	_, err := w.Service.Examine(w.ctx(), bgtest.ByKey("carol"), r.ID)
	must(t, err)
	if errs, err := stale.Send(w.ctx()); err != nil || len(errs) != 1 { // something critical is still there
		t.Errorf("without a word why it may stay: %v %v", errs, err)
	}
	must(t, stale.Fill("note", "it may stay until the morning"))
	_, err = stale.Send(w.ctx())
	must(t, err)
	if m := w.as("bob").Modal(); m == nil || !strings.Contains(m.AllText(), "is not what you saw") || w.get(r.ID).Acknowledged != nil {
		t.Errorf("a stale form is taken: %+v", w.get(r.ID).Acknowledged)
	}
	must(t, w.as("bob").Modal().Dismiss(w.ctx()))

	again := w.wait(channel, "1 thing left behind in c1")
	m, late := w.click("bob", again, "acknowledge"), w.click("carol", again, "acknowledge")
	must(t, m.Fill("note", "removed it, <@U0CAROL> watched"))
	w.send(m)
	sent := w.sim.LastRequest()
	w.wait(channel, "removed it, <@U0CAROL> watched")
	w.card(r.ID, "acknowledged by <@U0BOB>")
	after := w.wait(channel, "✓ acknowledged by <@U0BOB>")
	if after.TS != again.TS || len(after.Buttons()) != 0 {
		t.Errorf("the message of the sweep is %s with buttons %s, want %s without", after.TS, buttons(after), again.TS)
	}
	// Who comes late is not on record, and is told so.
	must(t, late.Fill("note", "I have seen it too"))
	_, err = late.Send(w.ctx())
	must(t, err)
	if m := w.as("carol").Modal(); m == nil || !strings.Contains(m.AllText(), "acknowledged by bob") ||
		!strings.Contains(m.AllText(), "was not recorded") {
		t.Errorf("carol is not told that her note was not recorded: %+v", m)
	}
	// The same form in another person's name: the requester's is refused, whatever it says.
	body := strings.ReplaceAll(string(sent.Body), "U0BOB", "U0ALICE")
	res, err := w.sim.RawSend(w.ctx(), w.sim.Sign(sent.URL, []byte(body), time.Now()))
	must(t, err)
	if !strings.Contains(string(res.Body), "own session") {
		t.Errorf("alice's forged form is answered with %s", res.Body)
	}
	if got := w.get(r.ID).Acknowledged; got == nil || got.By.Person != "bob" {
		t.Errorf("acknowledged: %+v", got)
	}
	w.Check()
}

func TestTheSameSweepIsToldOnce(t *testing.T) {
	t.Parallel()
	w, _, e := caring(t)
	e.set(func(e *examiner) { e.swept = left("evil") })
	r, card := w.active("admin")
	w.revoke("carol", card)
	w.wait(channel, "1 thing left behind in c1")
	_, err := w.Service.Examine(w.ctx(), bgtest.ByKey("carol"), r.ID)
	must(t, err)
	w.drained(r.ID)
	n := 0
	for _, m := range w.sim.Thread(channel, card.TS) {
		if strings.Contains(m.AllText(), "left behind in c1") || strings.Contains(m.AllText(), "*Session*") {
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d lines about the session and the sweep, want one each", n)
	}
}

func TestRequesterWritesTheClosingNote(t *testing.T) {
	t.Parallel()
	w, _, _ := caring(t)
	r, card := w.active("admin")
	w.revoke("alice", card)
	letter := w.wait(w.as("alice").DMChannel(), "Please say what was done")
	card = w.card(r.ID, "*Cluster touched, closing note missing* · due")
	w.wait(channel, "Nothing was left behind")
	if got := buttons(card); !strings.Contains(got, "Close…") {
		t.Errorf("the card has the buttons %s", got)
	}
	size := w.Ledger.Size()
	must(t, w.as("bob").Click(w.ctx(), channel, card.TS, "close"))
	if got := w.said("bob"); !strings.Contains(got, "Only alice knows what was done") || w.Ledger.Size() != size+1 {
		t.Errorf("bob is told %q, %d entries", got, w.Ledger.Size()-size)
	}
	alice := w.as("alice")
	must(t, alice.Click(w.ctx(), alice.DMChannel(), letter.TS, "close"))
	m, err := alice.WaitModal(w.ctx())
	must(t, err)
	must(t, m.Fill("note", "          x"))
	errs, err := m.Send(w.ctx())
	must(t, err)
	if !strings.Contains(errs["note"], "A note of 10 to 2000 characters is needed") {
		t.Errorf("a note of one letter is answered with %v", errs)
	}
	note := "restored etcd from the snapshot <!channel> *nothing is left*"
	must(t, m.Fill("note", note))
	w.send(m)
	sent := w.sim.LastRequest()
	w.wait(channel, note)
	if card = w.card(r.ID, "Closed by <@U0ALICE>"); len(card.Buttons()) != 0 {
		t.Errorf("the card has the buttons %s", buttons(card))
	}
	// Somebody else's form with the same words changes nothing, and clicking again shows the note.
	body := strings.ReplaceAll(string(sent.Body), "U0ALICE", "U0CAROL")
	res, err := w.sim.RawSend(w.ctx(), w.sim.Sign(sent.URL, []byte(body), time.Now()))
	must(t, err)
	if !strings.Contains(string(res.Body), "Not done") {
		t.Errorf("carol's forged form is answered with %s", res.Body)
	}
	must(t, alice.Click(w.ctx(), alice.DMChannel(), letter.TS, "close"))
	m, err = alice.WaitModal(w.ctx())
	must(t, err)
	if m.Submit != "" || !strings.Contains(m.AllText(), note) {
		t.Errorf("a closed grant shows %q:\n%s", m.Submit, m.AllText())
	}
	w.Check()
}

func TestCommandsOpenTheForms(t *testing.T) {
	t.Parallel()
	w, _, e := caring(t)
	e.set(func(e *examiner) { e.swept = left("evil") })
	say := func(person, text string) string {
		t.Helper()
		reply, err := w.as(person).Slash(w.ctx(), text)
		must(t, err)
		if reply.Message == nil {
			return ""
		}
		return reply.Message.AllText()
	}
	if got := say("bob", "touched"); !strings.Contains(got, "Every cluster is closed") {
		t.Errorf("touched: %s", got)
	}
	r, card := w.active("admin")
	for _, tt := range []struct{ person, text, want string }{
		{"bob", "revoke", "Which one?"},
		{"stranger", "revoke " + r.ID, "not in the access policy"},
		{"stranger", "touched", "not in the access policy"},
		{"bob", "revoke bg-zzzz", "There is no request bg-zzzz"},
		{"bob", "close " + r.ID, "Only alice knows"},
		{"alice", "close " + r.ID, "is still active"},
		{"bob", "touched", r.ID + " · alice · admin on c1 · still active"},
	} {
		if got := say(tt.person, tt.text); !strings.Contains(got, tt.want) {
			t.Errorf("%s types %q and is told\n%s\nwant %q", tt.person, tt.text, got, tt.want)
		}
	}
	if got := say("bob", "revoke "+r.ID); got != "" {
		t.Fatalf("revoke: %s", got)
	}
	m, err := w.as("bob").WaitModal(w.ctx())
	must(t, err)
	must(t, m.Fill("reason", "laptop stolen"))
	w.send(m)
	w.wait(channel, "1 thing left behind")
	for _, want := range []string{"Closing note missing:", "due 20", "Left behind and not acknowledged:", "1 thing"} {
		if got := say("carol", "touched"); !strings.Contains(got, want) {
			t.Errorf("touched does not say %q:\n%s", want, got)
		}
	}
	if got := say("alice", "close "+r.ID); got != "" {
		t.Fatalf("close: %s", got)
	}
	m, err = w.as("alice").WaitModal(w.ctx())
	must(t, err)
	must(t, m.Fill("note", "nothing but a look at etcd"))
	w.send(m)
	w.card(r.ID, "Closed by")
	if m := w.click("bob", card, "acknowledge"); m.Submit != "Acknowledge" {
		t.Errorf("the card's button opens %q", m.Submit)
	}
}

// A changed client can send any button. What does not exist or cannot be is refused.
func TestForgedButtonsOfWhatFollowsAreRefused(t *testing.T) {
	t.Parallel()
	w, _, _ := caring(t)
	r, card := w.active("admin")
	must(t, w.as("bob").Click(w.ctx(), channel, card.TS, "revoke"))
	sent := w.sim.LastRequest()
	for action, want := range map[string]string{"acknowledge": "has not been looked through yet", "close": "only alice knows"} {
		body := edit(t, sent.Body, func(p map[string]any) { p["actions"].([]any)[0].(map[string]any)["action_id"] = action })
		res, err := w.sim.RawSend(w.ctx(), w.sim.Sign(sent.URL, body, time.Now()))
		must(t, err)
		if got := w.said("bob"); res.Status != 200 || !strings.Contains(strings.ToLower(got), want) {
			t.Errorf("%s: %d, told %q", action, res.Status, got)
		}
	}
	for value, status := range map[string]int{r.ID + ":x": 400, "../" + r.ID: 400} {
		body := edit(t, sent.Body, func(p map[string]any) {
			a := p["actions"].([]any)[0].(map[string]any)
			a["action_id"], a["value"] = "close", value
		})
		res, err := w.sim.RawSend(w.ctx(), w.sim.Sign(sent.URL, body, time.Now()))
		must(t, err)
		if res.Status != status {
			t.Errorf("value %q: status %d, want %d", value, res.Status, status)
		}
	}
	w.Check()
}

// found are the messages about findings in the approval channel.
func (w *world) found() (out []slacksim.Message) {
	for _, m := range w.sim.Messages(channel) {
		if m.ThreadTS == "" && strings.Contains(m.AllText(), "Found by: ") {
			out = append(out, m)
		}
	}
	return out
}

func findingOf(key string, sev finding.Severity, what string) finding.Opened {
	return finding.Opened{Key: key, Check: "reconcile", Cluster: "c1", Severity: sev, What: what, Next: "look at it"}
}

func TestFindingIsPostedEditedAndStruckOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.Ask(bgtest.ByKey("alice"), "admin")
	card := w.card(r.ID, "")
	w.drained(r.ID)
	f := findingOf("k1", finding.Warning, "no events for 5 minutes <!channel>")
	f.Request = r.ID
	must(t, w.Service.Findings.Find(w.ctx(), f))
	m := w.wait(channel, "No events for 5 minutes <!channel>")
	_, err := w.sim.WaitMessage(w.ctx(), func(m slacksim.Message) bool {
		return m.ThreadTS == card.TS && strings.Contains(m.AllText(), "No events for 5 minutes")
	})
	must(t, err)
	must(t, w.Service.Findings.Find(w.ctx(), findingOf("k2", finding.Info, "a quiet thing")))
	f.Severity, f.What = finding.Critical, "no events for an hour"
	must(t, w.Service.Findings.Find(w.ctx(), f))
	edited := w.wait(channel, "No events for an hour")
	if edited.TS != m.TS {
		t.Error("a finding that changed has a new message")
	}
	w.restart()
	must(t, w.Service.Findings.Close(w.ctx(), "k1", "events come again"))
	over := w.wait(channel, "Events come again")
	if over.TS != m.TS || !strings.Contains(string(over.Blocks), `"strike":true`) {
		t.Errorf("the message of a finding that is over:\n%s", over.Blocks)
	}
	if got := w.found(); len(got) != 1 {
		t.Errorf("%d messages, want one: findings to know are not posted", len(got))
	}
	threads := 0
	for _, m := range w.sim.Thread(channel, card.TS) {
		if strings.Contains(m.AllText(), "Found by: ") {
			threads++
		}
	}
	if threads != 1 {
		t.Errorf("the request's thread has %d messages of the finding, want 1", threads)
	}
	f.What = "no events again"
	must(t, w.Service.Findings.Find(w.ctx(), f))
	again := w.wait(channel, "No events again")
	if again.TS == m.TS {
		t.Error("a finding that came back has no new message")
	}
}

func TestFloodOfFindingsIsToldByNumberAndDelaysNoApproval(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 60 { // from two checks: each may record 30 in a minute
		f := findingOf(fmt.Sprintf("w%02d", i), finding.Warning, "flooded")
		f.Check = fmt.Sprint("check", i%2)
		must(t, w.Service.Findings.Find(w.ctx(), f))
	}
	must(t, w.Service.Findings.Find(w.ctx(), findingOf("grave", finding.Critical, "a certificate that nobody knows")))
	r := w.Grant("alice", "admin")
	w.card(r.ID, "can pick it up until")
	if len(w.Service.Findings.Open()) != 61 {
		t.Fatalf("%d findings are open", len(w.Service.Findings.Open()))
	}
	w.wait(channel, "A certificate that nobody knows")
	w.wait(channel, "more findings are open")
	if got := len(w.found()); got > 11 {
		t.Errorf("%d messages of findings, want 10 of one severity at most", got)
	}
}

func TestFindingThatSlackRefusesKeepsNoOtherBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.sim.Fail("chat.postMessage", slacksim.Fault{Times: 1, Error: "invalid_blocks"})
	must(t, w.Service.Findings.Find(w.ctx(), findingOf("k1", finding.Critical, "refused for good")))
	must(t, w.Service.Findings.Find(w.ctx(), findingOf("k2", finding.Critical, "the next one")))
	w.wait(channel, "The next one")
	if got := len(w.found()); got != 1 {
		t.Errorf("%d messages, want 1", got)
	}
	must(t, w.Service.Findings.Find(w.ctx(), findingOf("k1", finding.Critical, "it has changed")))
	w.wait(channel, "It has changed")

	w.sim.Fail("chat.postMessage", slacksim.Fault{Times: 2})
	must(t, w.Service.Findings.Find(w.ctx(), findingOf("k3", finding.Warning, "told when slack is back")))
	w.wait(channel, "Told when slack is back")
	if got := len(w.found()); got != 3 {
		t.Errorf("%d messages, want 3", got)
	}
}
