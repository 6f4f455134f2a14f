package slackbot_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakglassd/breakglass/internal/announce"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/recert"
	"github.com/breakglassd/breakglass/internal/record"
	slacksim "github.com/breakglassd/breakglass/internal/sim/slack"
	"github.com/breakglassd/breakglass/internal/slackbot"
	"github.com/breakglassd/breakglass/internal/verify"
)

var campaignPolicy = bgtest.Policy() + "recertification: {reviewers: [sre, security], adminReviewers: 2, deadline: 14d}\n"

// campaigns makes a world in which carol and erin and the engineers review, and in which the bot tells about campaigns too.
func campaigns(t *testing.T, change ...func(*recert.Config)) (*world, *recert.Service) {
	t.Helper()
	var service *recert.Service
	w := newWorld(t, func(w *world, _ *slacksim.Config, o *bgtest.Options) {
		o.Policy = campaignPolicy
		w.conf = func(c *slackbot.Config) {
			var err error
			conf := recert.Config{Domain: w.Service, Campaigns: w.Campaigns, Ledger: w.Ledger, Signer: w.Signer(),
				Dir:      filepath.Join(w.Dir, "recert"),
				Clusters: []string{"c1"}}
			for _, f := range change {
				f(&conf)
			}
			if service, err = recert.New(conf); err != nil {
				t.Fatal(err)
			}
			c.Recert = service
		}
	})
	return w, service
}

// letter waits for a person's private message with a text.
func (w *world) letter(person, text string) slacksim.Message {
	w.t.Helper()
	return w.wait(w.as(person).DMChannel(), text)
}

func TestReviewerAnswersPageByPage(t *testing.T) {
	w, service := campaigns(t)
	c, err := service.Start(w.ctx(), nil, time.Time{})
	must(t, err)
	w.wait(channel, "is open")
	for _, who := range []string{"alice", "bob", "carol", "dave", "erin"} {
		w.letter(who, "for your word")
	}
	if n := len(w.as("mallory").DMs()); n != 0 {
		t.Errorf("mallory has %d messages and is no reviewer", n)
	}
	dm := w.letter("carol", "for your word")
	must(t, w.sim.As(bgtest.SlackUser("carol")).Click(w.ctx(), w.as("carol").DMChannel(), dm.TS, "recert-review"))
	m, err := w.as("carol").WaitModal(w.ctx())
	must(t, err)
	if strings.Contains(m.AllText(), "Carol (carol) is in") {
		t.Error("carol is asked about herself")
	}
	waiting := 0
	for _, i := range c.Items {
		if c.Waits(i, "carol", time.Now()) {
			waiting++
		}
	}
	// The first page: one answer without its reason is refused in place, and then all are given.
	must(t, m.Fill("verdict0", "keep"))
	errs, err := m.Send(w.ctx())
	must(t, err)
	if errs["why0"] == "" {
		t.Errorf("a high risk was kept without a reason: %v", errs)
	}
	must(t, m.Fill("why0", "on call"))
	must(t, m.Fill("verdict1", "revoke"))
	must(t, m.Fill("why1", "changed teams"))
	w.send(m)
	for pages := 1; pages < 20; pages++ {
		if m, err = w.as("carol").WaitModal(w.ctx()); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(m.AllText(), "Your word") {
			break
		}
		for _, n := range []string{"0", "1", "2", "3", "4"} {
			if strings.Contains(m.AllText(), "Your word") && m.Value("verdict"+n) != nil {
				must(t, m.Fill("verdict"+n, "keep"))
				must(t, m.Fill("why"+n, "as it must be"))
			}
		}
		w.send(m)
	}
	after, err := w.Campaigns.Get(w.ctx(), c.ID)
	must(t, err)
	said := map[campaign.Verdict]int{}
	for _, i := range after.Items {
		if v, ok := i.WordOf("carol"); ok {
			said[v]++
		}
	}
	if said[campaign.VerdictRevoke] != 1 || said[campaign.VerdictKeep] != waiting-4 { // the first page left three for later
		t.Errorf("carol said %v of %d items", said, waiting)
	}
	w.Check()
}

// However long Slack takes over a campaign, no approval waits: the messages about it have an announcer of their own.
func TestSlackThatHangsOverACampaignDelaysNoApproval(t *testing.T) {
	w, service := campaigns(t)
	w.sim.Fail("", slacksim.Fault{Times: -1, Hang: true, Holding: "ecertification"})
	t.Cleanup(w.sim.Heal)
	_, err := service.Start(w.ctx(), nil, time.Time{})
	must(t, err)
	for len(w.sim.Calls("chat.postMessage")) == 0 { // it hangs from here on
		time.Sleep(5 * time.Millisecond)
	}
	r, card := w.ask("admin")
	w.send(w.click("carol", card, "review"))
	w.send(w.click("bob", card, "review"))
	w.card(r.ID, "can pick it up until")
	w.drained(r.ID)
	w.letter("alice", r.ID)
	if calls := w.sim.Calls("chat.postMessage"); calls[0].Outcome != "fault" || !strings.Contains(calls[0].Args["text"], "ecertification") {
		t.Errorf("the first message is %v (%s), want the campaign's, hanging", calls[0].Args, calls[0].Outcome)
	}
	if n := len(w.as("carol").DMs()); n != 0 {
		t.Errorf("carol has %d messages about the campaign that hangs", n)
	}
	w.sim.Heal()
	w.wait(channel, "is open")
	w.letter("erin", "for your word")
	w.Check()
}

func TestMessagesAboutCampaignsComeOnce(t *testing.T) {
	w, service := campaigns(t)
	c, err := service.Start(w.ctx(), nil, time.Time{})
	must(t, err)
	w.letter("erin", "for your word") // the last of six
	for mark := []byte(nil); !strings.Contains(string(mark), `"steps":6`); time.Sleep(5 * time.Millisecond) {
		mark, err = w.Ledger.Bookmark(w.ctx(), "slack/campaigns")
		must(t, err)
	}
	entries, err := w.Ledger.Stream(w.ctx(), c.ID)
	must(t, err)
	ev, err := verify.Decode(entries[0])
	must(t, err)
	n := announce.Notice{Entry: entries[0], Event: ev}
	for range 3 { // as after crashes
		must(t, w.bot.Load().Campaigns().Tell(w.ctx(), n))
	}
	if got := len(w.as("erin").DMs()); got != 1 {
		t.Errorf("erin has %d messages, want 1", got)
	}
}

func TestCampaignFormIsForReviewersAndHoldsNoRule(t *testing.T) {
	w, service := campaigns(t)
	c, err := service.Start(w.ctx(), nil, time.Time{})
	must(t, err)
	dm := w.letter("carol", "for your word")
	must(t, w.sim.As(bgtest.SlackUser("carol")).Click(w.ctx(), w.as("carol").DMChannel(), dm.TS, "recert-review"))
	m, err := w.as("carol").WaitModal(w.ctx())
	must(t, err)
	must(t, m.Fill("verdict0", "keep"))
	must(t, m.Fill("why0", "on call"))
	w.send(m)
	after, err := w.Campaigns.Get(w.ctx(), c.ID)
	must(t, err)
	words := 0
	for _, i := range after.Items {
		words += len(i.Words)
		if !i.Independent("carol") && len(i.Words) > 0 {
			t.Errorf("carol answered %s, which is about her", i.ID)
		}
	}
	if words != 1 {
		t.Errorf("%d words on record, want 1", words)
	}
}

func TestAccountsAreWhatSlackSaysTheyAre(t *testing.T) {
	w := newWorld(t, func(_ *world, c *slacksim.Config, _ *bgtest.Options) {
		for n := range c.Users {
			c.Users[n].Deleted = c.Users[n].ID == bgtest.SlackUser("alice")
			c.Users[n].IsRestricted = c.Users[n].ID == bgtest.SlackUser("bob")
		}
	})
	account := func(user string) record.SlackAccount { return record.SlackAccount{Team: "T01", User: user} }
	got, err := w.bot.Load().Accounts(w.ctx(), []record.SlackAccount{account(bgtest.SlackUser("alice")), account(bgtest.SlackUser("bob")),
		account(bgtest.SlackUser("carol")),
		account("U0NOBODY"), {Team: "T0OTHER", User: "U0X"}})
	must(t, err)
	want := map[record.SlackAccount]recert.AccountState{account(bgtest.SlackUser("alice")): {Deactivated: true},
		account(bgtest.SlackUser("bob")): {Guest: true}, account(bgtest.SlackUser("carol")): {},
		account("U0NOBODY"): {Missing: true}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// later has the ledger's clock go on: what is due by then is done when the policy changes next, which it does here.
func (w *world) later(to time.Time, pol string) {
	w.t.Helper()
	if _, err := w.Ledger.Append(w.ctx(), to, record.DaemonStream, ledger.AnyVersion, nil,
		ledger.Draft{Kind: record.Heartbeat{}.Kind(), Body: []byte(`{"version":"test"}`)}); err != nil {
		w.t.Fatal(err)
	}
	p, err := policy.Parse("access.yaml", []byte(pol+"\n# "+to.String()+"\n"))
	must(w.t, err)
	_, err = w.Service.InForce.Set(w.ctx(), p)
	must(w.t, err)
}

// told waits until everything about campaigns has been told, and returns what the channel has about them.
func (w *world) toldCampaigns(id string) (out []slacksim.Message) {
	w.t.Helper()
	entries, err := w.Ledger.Stream(w.ctx(), id)
	must(w.t, err)
	last := entries[len(entries)-1]
	for at := (struct{ Seq, Steps int64 }{}); at.Seq < last.Seq || at.Steps == 0; time.Sleep(5 * time.Millisecond) {
		mark, err := w.Ledger.Bookmark(w.ctx(), "slack/campaigns")
		must(w.t, err)
		must(w.t, json.Unmarshal(mark, &at))
	}
	for _, m := range w.sim.Messages(channel) {
		if strings.Contains(m.AllText(), id) {
			out = append(out, m)
		}
	}
	return out
}

// manyPowers is a cluster in which many users may read secrets.
func manyPowers(things int) func(context.Context, string) (*inventory.Snapshot, *doors.Analysis, error) {
	return func(context.Context, string) (*inventory.Snapshot, *doors.Analysis, error) {
		snap, judged := &inventory.Snapshot{Cluster: "c1", At: time.Now().UTC()}, &doors.Analysis{Cluster: "c1"}
		for n := range things {
			subject, name := inventory.Subject{Kind: inventory.User, Name: fmt.Sprintf("user-%d", n)}, fmt.Sprintf("binding-%d", n)
			snap.Bindings = append(snap.Bindings, inventory.Binding{Namespace: "shop", Name: name, Subjects: []inventory.Subject{subject}})
			judged.Powers = append(judged.Powers, inventory.Power{Subject: subject, Rights: []string{"secrets-read@shop"}, Severity: inventory.High,
				Via: []inventory.Ref{{Kind: "RoleBinding", Namespace: "shop", Name: name}}})
		}
		return snap, judged, nil
	}
}

// A campaign with more escalated items than one ledger entry holds: reminder, escalation, suspensions and the end of it.
func TestDeadlineIsToldInFewMessages(t *testing.T) {
	const things = 400
	w, service := campaigns(t, func(c *recert.Config) { c.Scan = manyPowers(things) })
	c, err := service.Start(w.ctx(), nil, time.Time{})
	must(t, err)
	w.letter("erin", "for your word")
	w.later(c.Opened.Deadline.AddDate(0, 0, -2), campaignPolicy)
	for _, who := range []string{"alice", "bob", "carol", "dave", "erin"} {
		w.letter(who, "7 days left")
	}
	w.later(c.Opened.Deadline.Add(time.Minute), campaignPolicy)
	w.wait(channel, "is closed")
	c, err = w.Campaigns.Get(w.ctx(), c.ID)
	must(t, err)
	escalated, silent := map[string]int{}, 0
	for _, i := range c.Items {
		escalated[i.EscalatedWhy]++
		if !i.Suspended.IsZero() {
			silent++
		}
	}
	if escalated[campaign.WhyUnanswered] <= 300 || escalated[campaign.WhyFloor] == 0 || silent == 0 {
		t.Fatalf("escalated %v, suspended %d: want more than two entries of them", escalated, silent)
	}
	told := w.toldCampaigns(c.ID)
	var texts []string
	for _, m := range told {
		if !strings.Contains(m.Text, "finding") { // which is another messenger's
			texts = append(texts, m.Text)
		}
	}
	want := []string{"Recertification " + c.ID + " is open",
		fmt.Sprintf("Recertification %s: %d items were escalated", c.ID, escalated[campaign.WhyFloor]),
		fmt.Sprintf("Recertification %s: %d items were escalated", c.ID, escalated[campaign.WhyUnanswered]),
		fmt.Sprintf("Recertification %s is closed: 0 kept, 0 revoked, %d suspended, %d escalated", c.ID, c.Closed.Suspended, c.Closed.Escalated)}
	if diff := cmp.Diff(want, texts); diff != "" {
		t.Errorf("the channel was told: %s", diff)
	}
	if s := told[len(told)-1].AllText(); !strings.Contains(s, "Suspended: <@U0") || !strings.Contains(s, "breakglass recert export") {
		t.Errorf("the summary is %q", s)
	}
	// Whoever lost something was told so once, with the way back.
	lost := map[string]bool{}
	for _, i := range c.Items {
		for _, x := range i.Taken {
			lost[x.Person] = true
		}
	}
	for who := range lost {
		n := 0
		for _, m := range w.as(who).DMs() {
			if strings.Contains(m.AllText(), "has suspended you") {
				n++
				if s := m.AllText(); !strings.Contains(s, "nobody confirmed it") || !strings.Contains(s,
					"breakglass recert reinstate --item=") {
					t.Errorf("%s was told %q", who, s)
				}
			}
		}
		if n != 1 {
			t.Errorf("%s was told %d times, want once", who, n)
		}
	}
}

func TestWhomAReviewerRevokedIsTold(t *testing.T) {
	w, service := campaigns(t)
	c, err := service.Start(w.ctx(), nil, time.Time{})
	must(t, err)
	const id = "member/sre/alice"
	i, _ := c.Item(id)
	_, err = w.Campaigns.Decide(w.ctx(), bgtest.ByKey("carol"), c.ID, campaign.Answer{Verdict: campaign.VerdictRevoke,
		Reason: "changed teams", Items: []campaign.Judged{{ID: id, Digest: i.Digest}}})
	must(t, err)
	m := w.letter("alice", "has suspended you")
	if s := m.AllText(); !strings.Contains(s, "requester of admin on c1") || !strings.Contains(s, "a reviewer said revoke") ||
		strings.Contains(s, "changed teams") {
		t.Errorf("alice was told %q", s)
	}
}

// While the clock is behind the ledger's, everything that is recorded has one time.
func TestWhatIsRecordedAtOneTimeIsToldEachTime(t *testing.T) {
	w, service := campaigns(t)
	c, err := service.Start(w.ctx(), nil, time.Time{})
	must(t, err)
	w.later(time.Now().Add(time.Hour), campaignPolicy)
	revoke := func(id string) *campaign.Item {
		i, ok := c.Item(id)
		if !ok {
			t.Fatalf("there is no item %s", id)
		}
		after, err := w.Campaigns.Decide(w.ctx(), bgtest.ByKey("carol"), c.ID, campaign.Answer{Verdict: campaign.VerdictRevoke,
			Reason: "changed teams", Items: []campaign.Judged{{ID: id, Digest: i.Digest}}})
		must(t, err)
		i, _ = after.Item(id)
		return i
	}
	var asks, places []string // in the order of the campaign
	for _, i := range c.Items {
		switch {
		case i.Way != nil && i.Way.Part == policy.PartRequester:
			asks = append(asks, i.ID)
		case i.Member.Person != "" && i.Member.Person != "carol":
			places = append(places, i.ID)
		}
	}
	first := revoke(asks[0]) // of three who may ask, one may go
	w.letter("alice", "requester of "+first.Way.Profile+" on c1")
	second := revoke(asks[1])
	if !second.Suspended.Equal(first.Suspended) {
		t.Fatalf("suspended at %s and %s, want one time", first.Suspended, second.Suspended)
	}
	w.letter("alice", "requester of "+second.Way.Profile+" on c1")
	// Two approvers may go; what the floor keeps is escalated, each by itself.
	var kept []*campaign.Item
	for _, id := range places {
		i := revoke(id)
		if i.EscalatedWhy == campaign.WhyFloor {
			w.wait(channel, id)
			kept = append(kept, i)
		}
	}
	if len(kept) < 2 || !kept[0].Escalated.Equal(kept[1].Escalated) {
		t.Fatalf("the floor kept %d, want 2 and more at one time", len(kept))
	}
}

// After a crash an announce.Notice is told again, with the others that it was told with, and not with what came since: that is told by
// itself.
func TestEscalationThatGrewMeanwhileIsToldWhole(t *testing.T) {
	const things = 400
	w, service := campaigns(t, func(c *recert.Config) { c.Scan = manyPowers(things) })
	c, err := service.Start(w.ctx(), nil, time.Time{})
	must(t, err)
	w.later(c.Opened.Deadline.Add(time.Minute), campaignPolicy)
	w.wait(channel, "is closed")
	w.toldCampaigns(c.ID)
	entries, err := w.Ledger.Stream(w.ctx(), c.ID)
	must(t, err)
	var notices []announce.Notice
	items := 0
	for _, e := range entries {
		ev, err := verify.Decode(e)
		must(t, err)
		if x, is := ev.(campaign.Escalated); is && x.Why == campaign.WhyUnanswered {
			notices = append(notices, announce.Notice{Entry: e, Event: ev})
			items += len(x.Items)
		}
	}
	if len(notices) < 3 {
		t.Fatalf("%d entries, want 3 and more", len(notices))
	}
	// The first entry was there alone, and its message may be out, when the program died.
	head := len(notices[0].Event.(campaign.Escalated).Items)
	must(t, w.Ledger.SetBookmark(w.ctx(), "slack/campaigns", fmt.Appendf(nil, `{"seq":%d,"steps":0,"through":%d}`, notices[0].Seq,
		notices[0].Seq)))
	before := len(w.sim.Messages(channel))
	for _, n := range notices {
		must(t, w.bot.Load().Campaigns().Tell(w.ctx(), n))
	}
	var got []string
	for _, m := range w.sim.Messages(channel)[before:] {
		got = append(got, m.Text)
	}
	want := []string{fmt.Sprintf("Recertification %s: %d items were escalated", c.ID, head),
		fmt.Sprintf("Recertification %s: %d items were escalated", c.ID, items-head)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the channel was told: %s", diff)
	}
}

// forged is the last request of Slack as if somebody else had sent it from the channel.
func (w *world) forged(t *testing.T, was, is string) slacksim.SignedRequest {
	t.Helper()
	sent := w.sim.LastRequest()
	body := []byte(strings.ReplaceAll(strings.ReplaceAll(string(sent.Body), bgtest.SlackUser(was), bgtest.SlackUser(is)),
		w.as(was).DMChannel(), channel))
	return w.sim.Sign(sent.URL, body, time.Now())
}

func TestOnlyReviewersOpenAndSendTheForm(t *testing.T) {
	w, service := campaigns(t)
	c, err := service.Start(w.ctx(), nil, time.Time{})
	must(t, err)
	dm := w.letter("carol", "for your word")
	must(t, w.sim.As(bgtest.SlackUser("carol")).Click(w.ctx(), w.as("carol").DMChannel(), dm.TS, "recert-review"))
	m, err := w.as("carol").WaitModal(w.ctx())
	must(t, err)
	opened := len(w.sim.Calls("views.open"))
	click := w.forged(t, "carol", "mallory")
	if status := w.replay(t, click.URL, click.Header, click.Body); status != 200 {
		t.Fatalf("the click was answered with %d", status)
	}
	if s := w.said("mallory"); !strings.Contains(s, "nly reviewers and responders") {
		t.Errorf("mallory is told %q", s)
	}
	if n := len(w.sim.Calls("views.open")); n != opened {
		t.Error("a form was opened for mallory")
	}
	must(t, m.Fill("verdict0", "keep"))
	must(t, m.Fill("why0", "on call"))
	w.send(m)
	form := w.forged(t, "carol", "mallory")
	if status := w.replay(t, form.URL, form.Header, form.Body); status != 200 {
		t.Fatalf("the form was answered with %d", status)
	}
	c, err = w.Campaigns.Get(w.ctx(), c.ID)
	must(t, err)
	for _, i := range c.Items {
		if _, spoke := i.WordOf("mallory"); spoke {
			t.Errorf("mallory answered %s", i.ID)
		}
	}
	entries, err := w.Ledger.Stream(w.ctx(), record.RefusalStream)
	must(t, err)
	if len(entries) < 2 {
		t.Errorf("%d refusals are on record, want those of the click and of the form", len(entries))
	}
	// A responder may read reports, and still has nothing to answer.
	p, err := policy.Parse("access.yaml", []byte(strings.Replace(campaignPolicy, "teams:\n",
		"teams:\n  - {id: ops, members: [mallory]}\n", 1)+"responders: [ops]\n"))
	must(t, err)
	_, err = w.Service.InForce.Set(w.ctx(), p)
	must(t, err)
	again := w.sim.Sign(click.URL, edit(t, click.Body, func(p map[string]any) { p["trigger_id"] = "1.2.another" }), time.Now())
	if status := w.replay(t, again.URL, again.Header, again.Body); status != 200 {
		t.Fatalf("the click was answered with %d", status)
	}
	if s := w.said("mallory"); !strings.Contains(s, "ou do not review in "+c.ID) {
		t.Errorf("a responder is told %q", s)
	}
}

func TestAccountsThatSlackDoesNotTellAboutAreLeftOut(t *testing.T) {
	w := newWorld(t)
	account := func(team, user string) record.SlackAccount {
		return record.SlackAccount{Team: team, User: user}
	}
	alice, bob := account("T01", bgtest.SlackUser("alice")), account("T01", bgtest.SlackUser("bob"))
	w.sim.Fail("users.info", slacksim.Fault{RetryAfter: time.Second})
	got, err := w.bot.Load().Accounts(w.ctx(), []record.SlackAccount{alice, account("T0OTHER", "U0X"), bob})
	must(t, err)
	if diff := cmp.Diff(map[record.SlackAccount]recert.AccountState{alice: {}, bob: {}}, got); diff != "" {
		t.Error("after a pause that Slack wanted:", diff)
	}
	w.sim.Fail("users.info", slacksim.Fault{Error: "user_not_visible"})
	got, err = w.bot.Load().Accounts(w.ctx(), []record.SlackAccount{alice, bob})
	must(t, err)
	if diff := cmp.Diff(map[record.SlackAccount]recert.AccountState{bob: {}}, got); diff != "" {
		t.Error("one that it does not show:", diff)
	}
	w.sim.Fail("users.info", slacksim.Fault{RetryAfter: time.Hour, Times: -1})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if got, err = w.bot.Load().Accounts(ctx, []record.SlackAccount{alice, bob}); err == nil || len(got) > 0 {
		t.Errorf("Slack wanted an hour, and %v came back (%v)", got, err)
	}
}

// When Slack is switched on later, a campaign that runs is made known, and what was said of it before is not said again.
func TestHistoryOfCampaignsIsNotTold(t *testing.T) {
	w, service := campaigns(t)
	w.campaign.m.Store(nil) // no Slack yet
	c, err := service.Start(w.ctx(), nil, time.Time{})
	must(t, err)
	tell := func(ev record.Event, seq int64) {
		t.Helper()
		must(t, w.bot.Load().Campaigns().Tell(w.ctx(), announce.Notice{Event: ev,
			Entry: ledger.Entry{Seq: seq, Stream: c.ID, Time: time.Now().Add(-48 * time.Hour)}}))
	}
	tell(campaign.Reminded{Days: 7}, 1)
	if n := len(w.as("erin").DMs()) + len(w.sim.Messages(channel)); n != 0 {
		t.Errorf("an old reminder is %d messages", n)
	}
	tell(c.Opened, 2)
	w.letter("erin", "for your word")
	w.wait(channel, "is open")
}
