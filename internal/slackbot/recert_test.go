package slackbot_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/devmode/slacksim"
	"github.com/breakglassd/breakglass/internal/recert"
	"github.com/breakglassd/breakglass/internal/slackbot"
)

// campaigns makes a world in which carol and erin and the engineers review, and in which the bot tells about campaigns too.
func campaigns(t *testing.T) (*world, *recert.Service) {
	t.Helper()
	var service *recert.Service
	w := newWorld(t, func(w *world, _ *slacksim.Config, o *bgtest.Options) {
		o.Policy = bgtest.Policy() + "recertification: {reviewers: [sre, security], adminReviewers: 2, deadline: 14d}\n"
		w.conf = func(c *slackbot.Config) {
			var err error
			if service, err = recert.New(recert.Config{Domain: w.Service, Ledger: w.Ledger, Signer: w.Signer(), Dir: filepath.Join(w.Dir, "recert"), Clusters: []string{"c1"}}); err != nil {
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
	if strings.Contains(m.AllText(), "Carol (carol) may") {
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
	after, err := w.Service.Campaign(w.ctx(), c.ID)
	must(t, err)
	said := map[breakglass.Verdict]int{}
	for _, i := range after.Items {
		if v, ok := i.WordOf("carol"); ok {
			said[v]++
		}
	}
	if said[breakglass.VerdictRevoke] != 1 || said[breakglass.VerdictKeep] != waiting-4 { // the first page left three for later
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
	if calls := w.sim.Calls("chat.postMessage"); calls[0].Outcome != "fault" || !strings.Contains(calls[0].Args["text"], "Recertification") {
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
	ev, err := breakglass.Decode(entries[0])
	must(t, err)
	n := breakglass.Notice{Seq: entries[0].Seq, Event: ev, Campaign: c.ID, At: entries[0].Time}
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
	after, err := w.Service.Campaign(w.ctx(), c.ID)
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
	account := func(user string) breakglass.SlackAccount { return breakglass.SlackAccount{Team: "T01", User: user} }
	got, err := w.bot.Load().Accounts(w.ctx(), []breakglass.SlackAccount{account(bgtest.SlackUser("alice")), account(bgtest.SlackUser("bob")), account(bgtest.SlackUser("carol")),
		account("U0NOBODY"), {Team: "T0OTHER", User: "U0X"}})
	must(t, err)
	want := map[breakglass.SlackAccount]recert.AccountState{account(bgtest.SlackUser("alice")): {Deactivated: true}, account(bgtest.SlackUser("bob")): {Guest: true}, account(bgtest.SlackUser("carol")): {},
		account("U0NOBODY"): {Missing: true}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
