package campaign_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// reviewed is the kit's policy with everybody in a team as reviewer.
func reviewed() string {
	return bgtest.Policy() + "responders: [security]\nrecertification: {reviewers: [sre, security], adminReviewers: 2, deadline: 14d}\n"
}

// weeks are options for a system that sees weeks pass: what is done every second or minute is done every day.
func weeks(policy string) bgtest.Options {
	const day = 24 * time.Hour
	return bgtest.Options{Policy: policy, Config: func(c *bgtest.Config) {
		c.ReconcileBindingsEvery, c.HeartbeatEvery, c.Reconcile = day, day,
			day
	}}
}

const snapshotDigest = "1111111111111111111111111111111111111111111111111111111111111111"

// planOf asks about everybody's eligibility, and about one thing in the cluster in each state.
func planOf(p *policy.Policy) campaign.Plan {
	plan := campaign.Plan{From: time.Now().AddDate(0, -3, 0), Until: time.Now(), Clusters: []string{"c1"}, Snapshot: snapshotDigest}
	for _, e := range p.EveryEligibility() {
		plan.Items = append(plan.Items, campaign.FrozenItem{ID: itemOf(e), Digest: strings.Repeat("a", 64),
			State: campaign.ItemUnchanged, Not: []string{e.Person}, Gives: e})
	}
	for _, state := range []campaign.ItemState{campaign.ItemNew, campaign.ItemUnchanged, campaign.ItemWidened,
		campaign.ItemNarrowed, campaign.ItemOrphan, campaign.ItemDormant} {
		plan.Items = append(plan.Items, campaign.FrozenItem{ID: "c1/subject/" + string(state), Digest: strings.Repeat("b", 64), State: state,
			Admin: true, High: true,
			Not: []string{"bob"}, Object: "c1/subject/" + string(state)})
	}
	return plan
}

func itemOf(e policy.Eligibility) string {
	return "eligibility/" + e.Profile + "/" + e.Cluster + "/" + string(e.Part) + "/" + e.Person
}

func open(t *testing.T, s *bgtest.System) *campaign.Campaign {
	t.Helper()
	c, err := s.Campaigns.Start(t.Context(), nil, planOf(s.Service.Policy()))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func say(s *bgtest.System, c *campaign.Campaign, who string, v campaign.Verdict, ids ...string) (*campaign.Campaign, error) {
	answer := campaign.Answer{Verdict: v, Reason: "looked at it, it is as it must be"}
	for _, id := range ids {
		digest := ""
		if i, ok := c.Item(id); ok {
			digest = i.Digest
		}
		answer.Items = append(answer.Items, campaign.Judged{ID: id, Digest: digest})
	}
	return s.Campaigns.Decide(s.T.Context(), byKey(who), c.ID, answer)
}

// campaignBubble runs a test of a system whose policy has reviewers on fake time.
func campaignBubble(t *testing.T, f func(t *testing.T, s *bgtest.System)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := bgtest.New(t, weeks(reviewed()))
		f(t, s)
		s.Check()
	})
}

func TestCampaignClosesWhenEveryItemHasItsAnswers(t *testing.T) {
	campaignBubble(t, func(t *testing.T, s *bgtest.System) {
		c := open(t, s)
		for _, who := range []string{"alice", "carol", "dave"} {
			for _, i := range c.Items {
				if !c.Waits(i, who, time.Now()) {
					continue
				}
				after, err := say(s, c, who, campaign.VerdictKeep, i.ID)
				if err != nil {
					t.Fatalf("%s keeps %s: %v", who, i.ID, err)
				}
				c = after
			}
		}
		if c.Closed == nil {
			_, left := c.Counts()
			t.Fatalf("not closed: %d items are open", left)
		}
		if want := (campaign.Closed{Kept: len(c.Items)}); *c.Closed != want {
			t.Errorf("counts: got %+v, want %+v", *c.Closed, want)
		}
		if got := s.Service.Policy().Suspensions(); len(got) > 0 {
			t.Errorf("suspended although everything was kept: %v", got)
		}
		_, err := say(s, c, "carol", campaign.VerdictRevoke, c.Items[0].ID)
		wantRefusal(t, err, "closed")
		if no, _ := record.AsRefusal(err); !strings.Contains(no.Next, "revoke it in the next one") {
			t.Errorf("the advice is %q", no.Next)
		}
		_, err = say(s, c, "bob", campaign.VerdictKeep, c.Items[0].ID)
		if no, _ := record.AsRefusal(err); no == nil || !strings.Contains(no.Next, "keep it in the next one") {
			t.Errorf("keep, and the advice is %v", err)
		}
	})
}

func TestWhoMayAnswerWhat(t *testing.T) {
	type act func(*bgtest.System, *campaign.Campaign) error
	word := func(who string, v campaign.Verdict, ids ...string) act {
		return func(s *bgtest.System, c *campaign.Campaign) error {
			_, err := say(s, c, who, v, ids...)
			return err
		}
	}
	const keep, revoke = campaign.VerdictKeep, campaign.VerdictRevoke
	aliceAsks := itemOf(policy.Eligibility{Person: "alice", Part: policy.PartRequester, Profile: "admin", Cluster: "c1"})
	bobAsks := itemOf(policy.Eligibility{Person: "bob", Part: policy.PartRequester, Profile: "admin", Cluster: "c1"})
	for _, test := range []struct {
		name string
		do   act
		code string
	}{
		{"a reviewer keeps", word("carol", keep, aliceAsks), ""},
		{"a reviewer keeps unchanged ones together", word("carol", keep, aliceAsks, bobAsks, "c1/subject/narrowed"), ""},
		{"a widened one among them", word("carol", keep, aliceAsks, "c1/subject/widened"), "together"},
		{"a new one among them", word("carol", keep, aliceAsks, "c1/subject/new"), "together"},
		{"several are revoked at once", word("carol", revoke, aliceAsks, bobAsks), "together"},
		{"the person under review keeps", word("alice", keep, aliceAsks), "own-item"},
		{"the person under review revokes", word("alice", revoke, aliceAsks), "own-item"},
		{"their own among others", word("alice", keep, bobAsks, aliceAsks), "own-item"},
		{"somebody whom a thing in the cluster is about", word("bob", keep, "c1/subject/new"), "own-item"},
		{"somebody in no reviewing team", word("mallory", keep, aliceAsks), "not-reviewer"},
		{"somebody unknown", word("eve", keep, aliceAsks), "unknown-person"},
		{"a thing that is not there", word("carol", keep, "c1/subject/none"), "unknown-item"},
		{"no verdict", word("carol", "maybe", aliceAsks), "verdict"},
		{"nothing", word("carol", keep), "items"},
		{"the same thing twice", word("carol", keep, aliceAsks, aliceAsks), "items"},
		{"something else than was seen", func(s *bgtest.System, c *campaign.Campaign) error {
			_, err := s.Campaigns.Decide(s.T.Context(), byKey("carol"), c.ID, campaign.Answer{Verdict: keep,
				Items: []campaign.Judged{{ID: aliceAsks, Digest: strings.Repeat("c", 64)}}})
			return err
		}, "stale"},
		{"a revoke without a reason", func(s *bgtest.System, c *campaign.Campaign) error {
			_, err := s.Campaigns.Decide(s.T.Context(), byKey("carol"), c.ID, campaign.Answer{Verdict: revoke,
				Items: []campaign.Judged{{ID: aliceAsks, Digest: strings.Repeat("a", 64)}}})
			return err
		}, "reason"},
		{"a high risk kept without a reason", func(s *bgtest.System, c *campaign.Campaign) error {
			_, err := s.Campaigns.Decide(s.T.Context(), byKey("carol"), c.ID, campaign.Answer{Verdict: keep,
				Items: []campaign.Judged{{ID: "c1/subject/new", Digest: strings.Repeat("b", 64)}}})
			return err
		}, "reason"},
		{"after the deadline", func(s *bgtest.System, c *campaign.Campaign) error {
			time.Sleep(14*24*time.Hour + time.Minute)
			synctest.Wait()
			return word("carol", keep, aliceAsks)(s, c)
		}, "deadline"},
		{"an escalated one after the deadline", func(s *bgtest.System, c *campaign.Campaign) error {
			time.Sleep(14*24*time.Hour + time.Minute)
			synctest.Wait()
			return word("carol", keep, "c1/subject/new")(s, c)
		}, ""},
		{"a second campaign", func(s *bgtest.System, _ *campaign.Campaign) error {
			_, err := s.Campaigns.Start(s.T.Context(), nil, planOf(s.Service.Policy()))
			return err
		}, "campaign-open"},
		{"an outsider opens one", func(s *bgtest.System, _ *campaign.Campaign) error {
			a := byKey("mallory")
			_, err := s.Campaigns.Start(s.T.Context(), &a, planOf(s.Service.Policy()))
			return err
		}, "not-reviewer"},
	} {
		t.Run(test.name, func(t *testing.T) {
			campaignBubble(t, func(t *testing.T, s *bgtest.System) {
				c := open(t, s)
				switch err := test.do(s, c); {
				case test.code != "":
					wantRefusal(t, err, test.code)
				case err != nil:
					t.Error(err)
				}
			})
		})
	}
}

func TestAdminItemNeedsTwoKeepsAndOneRevoke(t *testing.T) {
	campaignBubble(t, func(t *testing.T, s *bgtest.System) {
		c := open(t, s)
		outcome := func(id string) campaign.Outcome { i, _ := c.Item(id); return c.Outcome(i) }
		step := func(who string, v campaign.Verdict, id string, want campaign.Outcome) {
			t.Helper()
			after, err := say(s, c, who, v, id)
			if err != nil {
				t.Fatal(err)
			}
			c = after
			if got := outcome(id); got != want {
				t.Errorf("after %s's %s, %s is %s, want %s", who, v, id, got, want)
			}
		}
		step("carol", campaign.VerdictKeep, "c1/subject/new", campaign.OutcomeNone)
		rev := c.Rev
		step("carol", campaign.VerdictKeep, "c1/subject/new", campaign.OutcomeNone) // the same word is no second one
		if c.Rev != rev {
			t.Error("the same word was recorded twice")
		}
		step("erin", campaign.VerdictKeep, "c1/subject/new", campaign.OutcomeKeep)
		step("carol", campaign.VerdictKeep, "c1/subject/widened", campaign.OutcomeNone)
		step("erin", campaign.VerdictRevoke, "c1/subject/widened", campaign.OutcomeRevoke)
		if _, err := say(s, c, "dave", campaign.VerdictKeep, "c1/subject/widened"); err == nil {
			t.Error("a revoked item was kept again")
		}
		step("carol", campaign.VerdictKeep, "c1/subject/orphan", campaign.OutcomeNone)
		step("carol", campaign.VerdictRevoke, "c1/subject/orphan", campaign.OutcomeRevoke) // second thoughts, the safe way
	})
}

func TestSilenceSuspendsDownToTheFloorAndTwoPeopleUndoIt(t *testing.T) {
	campaignBubble(t, func(t *testing.T, s *bgtest.System) {
		c := open(t, s)
		time.Sleep(14 * 24 * time.Hour)
		synctest.Wait()
		c, err := s.Campaigns.Get(t.Context(), c.ID)
		if err != nil || c.Closed == nil {
			t.Fatalf("not closed at the deadline (%v)", err)
		}
		if k := *c.Closed; k.Kept+k.Revoked != 0 || k.Suspended+k.Escalated != len(c.Items) {
			t.Errorf("counts %+v of %d items", k, len(c.Items))
		}
		// Of five approvers three must stay, one of them from security; of three requesters two.
		var got []string
		for _, e := range s.Service.Policy().Suspensions() {
			if e.Profile == "admin" {
				got = append(got, e.String())
			}
		}
		want := []string{"alice as approver of admin on c1", "bob as approver of admin on c1", "alice as requester of admin on c1"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error("suspended:", diff)
		}
		_, err = s.Service.Request(t.Context(), byKey("alice"), breakglass.Ask{Profile: "admin", Reason: "etcd quorum lost, API 5xx"})
		wantRefusal(t, err, "suspended")
		r := s.Ask(byKey("bob"), "admin")
		if slices.Contains(r.Ask.Quorum.People(), "alice") {
			t.Error("a suspended approver is frozen into a new request")
		}
		_, err = s.Service.Approve(t.Context(), byKey("alice"), r.ID, bgtest.Consent(byKey("alice"), r))
		wantRefusal(t, err, "suspended")
		// The reason is the suspension, in which campaign, and the way back; not that she is in no team that counts.
		no, _ := record.AsRefusal(err)
		if said := no.Why + "; " + no.Next; !strings.Contains(said, "suspended") || strings.Contains(said, "in none of the teams") ||
			!strings.Contains(said, "breakglass recert reinstate "+c.ID+" --item ") {
			t.Errorf("a suspended approver is told %q", said)
		}
		s.Approve(byKey("dave"), r)
		wantState(t, s.Approve(byKey("carol"), r), breakglass.StateApproved)
		loud := slices.ContainsFunc(s.Service.Findings.Open(), func(f finding.Finding) bool {
			return f.Key == "campaign-unsettled/"+c.ID && f.Severity == finding.Critical
		})
		if !loud {
			t.Errorf("nobody is told what was not settled: %+v", s.Service.Findings.Open())
		}

		s.Restart() // what is suspended stays so
		_, err = s.Service.Request(t.Context(), byKey("alice"), breakglass.Ask{Profile: "admin", Reason: "etcd quorum lost, API 5xx"})
		wantRefusal(t, err, "suspended")

		id := itemOf(policy.Eligibility{Person: "alice", Part: policy.PartRequester, Profile: "admin", Cluster: "c1"})
		_, err = s.Campaigns.Reinstate(t.Context(), byKey("alice"), c.ID, id, "I need it")
		wantRefusal(t, err, "own-item")
		_, err = s.Campaigns.Reinstate(t.Context(), byKey("mallory"), c.ID, id, "she needs it")
		wantRefusal(t, err, "not-reviewer")
		for n, who := range []string{"carol", "carol", "erin"} {
			if _, err := s.Campaigns.Reinstate(t.Context(), byKey(who), c.ID, id, "on call again from Monday"); err != nil {
				t.Fatal(err)
			}
			_, err = s.Service.CheckAsk(t.Context(), byKey("alice"), breakglass.Ask{Profile: "admin", Reason: "etcd quorum lost, API 5xx"})
			if back := err == nil; back != (n == 2) {
				t.Errorf("after %d words alice may ask: %v (%v)", n+1, back, err)
			}
		}
	})
}

// Each word changes what the finding about a campaign says, and findings are bounded in a minute: words are not.
func TestWordsAreNotLostWhereTheFindingAboutThemMustWait(t *testing.T) {
	campaignBubble(t, func(t *testing.T, s *bgtest.System) {
		plan := planOf(s.Service.Policy())
		plan.Items = nil
		for n := range 40 {
			plan.Items = append(plan.Items, campaign.FrozenItem{ID: fmt.Sprint("c1/subject/", n), Digest: strings.Repeat("b", 64),
				State: campaign.ItemNew, High: true, Object: fmt.Sprint("c1/subject/", n)})
		}
		c, err := s.Campaigns.Start(t.Context(), nil, plan)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(14*24*time.Hour + time.Minute)
		for n := range 35 {
			if _, err := say(s, c, "carol", campaign.VerdictRevoke, fmt.Sprint("c1/subject/", n)); err != nil {
				t.Fatalf("word %d: %v", n, err)
			}
		}
		time.Sleep(time.Hour)
		left := slices.ContainsFunc(s.Service.Findings.Open(), func(f finding.Finding) bool {
			return f.Key == "campaign-unsettled/"+c.ID && strings.Contains(f.What, "left 5 items")
		})
		if !left {
			t.Errorf("an hour later the findings are %+v, want 5 items left", s.Service.Findings.Open())
		}
	})
}

func TestRevokeSuspendsAtOnceAndStopsWhatWasApproved(t *testing.T) {
	campaignBubble(t, func(t *testing.T, s *bgtest.System) {
		r := s.Grant("alice", "admin") // approved by carol and bob
		c := open(t, s)
		bob := itemOf(policy.Eligibility{Person: "bob", Part: policy.PartApprover, Profile: "admin", Cluster: "c1"})
		if _, err := say(s, c, "carol", campaign.VerdictRevoke, bob); err != nil {
			t.Fatal(err)
		}
		_, csr := bgtest.NewCSR()
		_, err := s.Claim("alice", r.ID, csr)
		wantRefusal(t, err, "suspended")
		pending := s.Ask(byKey("dave"), "admin")
		if slices.Contains(pending.Ask.Quorum.People(), "bob") {
			t.Error("a revoked approver is frozen into a new request")
		}
	})
}

func TestRevokeBelowTheFloorEscalatesAndTakesEffectWhenThereIsRoom(t *testing.T) {
	campaignBubble(t, func(t *testing.T, s *bgtest.System) {
		c := open(t, s)
		approver := func(who string) policy.Eligibility {
			return policy.Eligibility{Person: who, Part: policy.PartApprover, Profile: "admin", Cluster: "c1"}
		}
		for _, step := range []struct {
			who, by   string
			suspended bool
		}{{"alice", "carol", true}, {"bob", "carol", true}, {"dave", "carol", false}} {
			if _, err := say(s, c, step.by, campaign.VerdictRevoke, itemOf(approver(step.who))); err != nil {
				t.Fatal(err)
			}
			if got := s.Service.Policy().Suspended(approver(step.who)); got != step.suspended {
				t.Errorf("%s is suspended: %v, want %v", step.who, got, step.suspended)
			}
		}
		c, err := s.Campaigns.Get(t.Context(), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		if i, _ := c.Item(itemOf(approver("dave"))); i.EscalatedWhy != campaign.WhyFloor {
			t.Errorf("the floor kept dave and nobody was told: %+v", i)
		}
		// Mallory becomes an approver: there is room above the floor now.
		more := strings.Replace(reviewed(), "members: [carol, erin]", "members: [carol, erin, mallory]", 1)
		p, err := policy.Parse("access.yaml", []byte(more))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Service.InForce.Set(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !s.Service.Policy().Suspended(approver("dave")) {
			t.Error("the revoke did not take effect when there was room")
		}
		// And a policy that leaves too few gives everybody back, loudly, rather than shutting the door.
		fewer := strings.Replace(reviewed(), "members: [alice, bob, dave]", "members: [alice, bob, dave]", 1)
		fewer = strings.ReplaceAll(fewer, "members: [carol, erin]", "members: [carol]")
		if p, err = policy.Parse("access.yaml", []byte(fewer)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Service.InForce.Set(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := s.Service.Policy().Suspensions(); len(got) > 0 {
			t.Errorf("still in force with too few people: %v", got)
		}
		if !slices.ContainsFunc(s.Service.Findings.Open(),
			func(f finding.Finding) bool { return f.Key == "suspension-not-in-force/admin/c1/approver" }) {
			t.Errorf("nobody is told that suspensions are not in force: %+v", s.Service.Findings.Open())
		}
	})
}

func TestWhatThePolicyDoesNotHaveAnyMoreIsSuspendedWithoutAFloor(t *testing.T) {
	campaignBubble(t, func(t *testing.T, s *bgtest.System) {
		c := open(t, s)
		text := reviewed()
		i, j := strings.Index(text, "  - id: scoped"), strings.Index(text, "responders:")
		p, err := policy.Parse("access.yaml", []byte(text[:i]+text[j:]))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Service.InForce.Set(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * 24 * time.Hour)
		synctest.Wait()
		if c, err = s.Campaigns.Get(t.Context(), c.ID); err != nil || c.Closed == nil {
			t.Fatalf("not closed (%v)", err)
		}
		for _, i := range c.Items {
			if i.Gives.Profile == "scoped" && !i.Held() {
				t.Errorf("%s is not suspended: if the profile comes back, so does what nobody confirmed", i.ID)
			}
		}
		// It comes back, and with it the floor.
		if p, err = policy.Parse("access.yaml", []byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Service.InForce.Set(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		time.Sleep(24 * time.Hour) // a profile that is new counts later where no team agrees to changes
		r := s.Ask(byKey("alice"), "scoped")
		s.Approve(byKey("bob"), r)
		wantState(t, s.Approve(byKey("carol"), r), breakglass.StateApproved)
	})
}

func TestRemindersCountDown(t *testing.T) {
	campaignBubble(t, func(t *testing.T, s *bgtest.System) {
		c := open(t, s)
		var got []string
		for range 14*24 + 1 {
			after, err := s.Campaigns.Get(t.Context(), c.ID)
			if err != nil {
				t.Fatal(err)
			}
			for _, days := range after.Reminded[len(c.Reminded):] {
				got = append(got, fmt.Sprintf("%d at -%s", days, time.Until(c.Opened.Deadline).Round(time.Hour)))
			}
			c = after
			time.Sleep(time.Hour)
			synctest.Wait()
		}
		if diff := cmp.Diff([]string{"7 at -168h0m0s", "1 at -24h0m0s", "0 at -4h0m0s"}, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestMissedRemindersBecomeOne(t *testing.T) {
	campaignBubble(t, func(t *testing.T, s *bgtest.System) {
		c := open(t, s)
		s.Stop()
		time.Sleep(13*24*time.Hour + time.Hour)
		s.Restart()
		synctest.Wait()
		c, err := s.Campaigns.Get(t.Context(), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]int{1}, c.Reminded); diff != "" {
			t.Error(diff)
		}
	})
}

func TestScanProvesWhatWasRevoked(t *testing.T) {
	campaignBubble(t, func(t *testing.T, s *bgtest.System) {
		c := open(t, s)
		for _, id := range []string{"c1/subject/new", "c1/subject/orphan"} {
			if _, err := say(s, c, "carol", campaign.VerdictRevoke, id); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Campaigns.Acknowledge(t.Context(), byKey("dave"), c.ID, []string{"c1/subject/widened"}, ""); err == nil {
			t.Error("what was not revoked was acknowledged")
		}
		if _, err := s.Campaigns.Acknowledge(t.Context(), byKey("dave"), c.ID, []string{"c1/subject/new"}, "deleted the binding"); err != nil {
			t.Fatal(err)
		}
		c, err := s.Campaigns.Prove(t.Context(), c.ID, snapshotDigest, func(object string) (bool, bool) {
			return object == "c1/subject/new",
				true
		})
		if err != nil {
			t.Fatal(err)
		}
		gone, _ := c.Item("c1/subject/new")
		still, _ := c.Item("c1/subject/orphan")
		other, _ := c.Item("c1/subject/widened")
		if !gone.Gone || gone.Acknowledged == nil || still.Gone || still.Proved.IsZero() || !other.Proved.IsZero() {
			t.Errorf("gone %+v, still there %+v, not revoked %+v", gone, still, other)
		}
	})
}

// TestSuspensionNeverShutsTheEmergencyDoor is the model of suspension and floor: whatever reviewers say or do not say, and
// whatever policy comes into force, everybody who may still ask can be approved by people who may still approve, one of whom
// may be away; and nobody is spared whom the floor does not need.
func TestSuspensionNeverShutsTheEmergencyDoor(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		count := rapid.IntRange(2, 3).Draw(rt, "count")
		each := rapid.Bool().Draw(rt, "each")
		security := rapid.SampledFrom([]string{"carol, erin", "carol, erin, mallory"}).Draw(rt, "security")
		words := map[string]campaign.Verdict{}
		for _, who := range bgtest.People {
			for _, part := range []policy.Part{policy.PartApprover, policy.PartRequester} {
				if v := rapid.SampledFrom([]campaign.Verdict{"", campaign.VerdictKeep, campaign.VerdictRevoke}).Draw(rt, who+
					string(part)); v != "" {
					words[itemOf(policy.Eligibility{Person: who, Part: part, Profile: "admin", Cluster: "c1"})] = v
				}
			}
		}
		text := strings.Replace(reviewed(), "members: [carol, erin]", "members: ["+security+"]", 1)
		text = strings.Replace(text, "approvals: {count: 2, from: [sre, security], each: [security]}",
			fmt.Sprintf("approvals: {count: %d, from: [sre, security]%s}", count,
				map[bool]string{true: ", each: [security]"}[each]), 1)
		synctest.Test(t, func(t *testing.T) {
			s := bgtest.New(t, weeks(text))
			c := open(t, s)
			for id, verdict := range words {
				i, ok := c.Item(id)
				if !ok {
					continue
				}
				by := "carol"
				if !i.Independent(by) {
					by = "dave"
				}
				if _, err := say(s, c, by, verdict, id); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(14*24*time.Hour + time.Second)
			synctest.Wait()
			c, err := s.Campaigns.Get(t.Context(), c.ID)
			if err != nil || c.Closed == nil || c.Closed.Kept+c.Closed.Revoked+c.Closed.Suspended+c.Closed.Escalated != len(c.Items) {
				t.Fatalf("closed as %+v of %d items (%v)", c.Closed, len(c.Items), err)
			}
			p := s.Service.Policy()
			sre, sec := []string{"alice", "bob", "dave"}, strings.Split(security, ", ")
			suspended := func(who string, part policy.Part) bool {
				return p.Suspended(policy.Eligibility{Person: who, Part: part, Profile: "admin", Cluster: "c1"})
			}
			left := func(without string) (all, ofSecurity int) {
				for _, who := range slices.Concat(sre, sec) {
					if who != without && !suspended(who, policy.PartApprover) {
						all++
						if slices.Contains(sec, who) {
							ofSecurity++
						}
					}
				}
				return all, ofSecurity
			}
			fits := func(without string) bool {
				all, ofSecurity := left(without)
				return all >= count && (!each || ofSecurity >= 1)
			}
			if all, _ := left(""); all <= count {
				t.Errorf("%d approvers are left for a quorum of %d", all, count)
			}
			asking := 0
			for _, who := range sre {
				if !suspended(who, policy.PartRequester) {
					asking++
				}
				if !fits(who) {
					t.Errorf("a request by %s could never be approved", who)
				}
			}
			if asking < 2 {
				t.Errorf("%d people may still ask", asking)
			}
			// Nobody is spared for nothing: whoever should be suspended and is not, the floor needs.
			for _, i := range c.Items {
				e := i.Gives
				if e.Profile != "admin" || words[i.ID] == campaign.VerdictKeep || suspended(e.Person, e.Part) {
					continue
				}
				if e.Part == policy.PartRequester {
					if asking > 2 {
						t.Errorf("%s is not suspended although %d may ask", i.ID, asking)
					}
					continue
				}
				all, ofSecurity := left("")
				room := all-1 > count
				for _, asker := range sre {
					a, o := left(asker)
					if asker != e.Person {
						a--
						if slices.Contains(sec, e.Person) {
							o--
						}
					}
					room = room && a >= count && (!each || o >= 1)
				}
				if room {
					t.Errorf("%s is not suspended although %d approvers (%d of security) are left", i.ID, all, ofSecurity)
				}
				if i.Escalated.IsZero() {
					t.Errorf("%s was neither suspended nor escalated", i.ID)
				}
			}
			s.Check()
		})
	})
}

// TestAuditRefusesCampaignsThatCouldNotHaveBeen replays ledgers that somebody with the signing key could have written.
func TestAuditRefusesCampaignsThatCouldNotHaveBeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bgtest.New(t, weeks(reviewed()))
		c := open(t, s)
		id := "c1/subject/new"
		for _, who := range []string{"carol", "erin"} {
			if _, err := say(s, c, who, campaign.VerdictKeep, id); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(15 * 24 * time.Hour)
		synctest.Wait()
		aliceAsks := itemOf(policy.Eligibility{Person: "alice", Part: policy.PartRequester, Profile: "admin", Cluster: "c1"})
		for _, who := range []string{"carol", "erin"} {
			if _, err := s.Campaigns.Reinstate(t.Context(), byKey(who), c.ID, aliceAsks, "on call again"); err != nil {
				t.Fatal(err)
			}
		}
		sound, err := s.Ledger.Entries(t.Context(), 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		if got := audit(sound); len(got) > 0 {
			t.Fatalf("a sound ledger: %q", got)
		}
		at := func(kind string, n int) int {
			for i, e := range sound {
				if strings.HasPrefix(e.Kind, "campaign-"+kind+"/") {
					if n == 0 {
						return i
					}
					n--
				}
			}
			t.Fatalf("there is no %s", kind)
			return 0
		}
		drop := func(i int) func([]ledger.Entry) []ledger.Entry {
			return func(es []ledger.Entry) []ledger.Entry {
				es = slices.Delete(es, i, i+1)
				for j, n := 0, int64(0); j < len(es); j++ {
					if es[j].Stream == c.ID {
						n++
						es[j].StreamSeq = n
					}
				}
				return es
			}
		}
		edit := func(i int, change func(map[string]any)) func([]ledger.Entry) []ledger.Entry {
			return func(es []ledger.Entry) []ledger.Entry {
				var m map[string]any
				if err := json.Unmarshal(es[i].Body, &m); err != nil {
					t.Fatal(err)
				}
				change(m)
				es[i].Body, _ = json.Marshal(m)
				return es
			}
		}
		by := func(m map[string]any) map[string]any { return m["by"].(map[string]any) }
		item := func(m map[string]any) map[string]any { return m["items"].([]any)[0].(map[string]any) }
		everybody := func(m map[string]any) {
			var all []any
			for _, i := range c.Items {
				if i.Gives.Part == policy.PartApprover && i.Gives.Profile == "admin" {
					all = append(all, i.ID)
				}
			}
			m["items"] = all
		}
		for name, forge := range map[string]func([]ledger.Entry) []ledger.Entry{
			"a campaign that begins in the middle": drop(at("opened", 0)),
			"a campaign without its items":         drop(at("items", 0)),
			"an item that is there twice": edit(at("items", 0),
				func(m map[string]any) { m["items"] = append(m["items"].([]any)[1:], m["items"].([]any)[1]) }),
			"an item in a state that nobody knows": edit(at("items", 0), func(m map[string]any) { item(m)["state"] = "fine" }),
			"an item more than was opened":         edit(at("opened", 0), func(m map[string]any) { m["items"] = m["items"].(float64) - 1 }),
			"no reviewers":                         edit(at("opened", 0), func(m map[string]any) { m["reviewers"] = nil }),
			"a deadline in the past":               edit(at("opened", 0), func(m map[string]any) { m["deadline"] = "2000-01-01T00:00:00Z" }),
			"a word by an outsider":                edit(at("decided", 0), func(m map[string]any) { by(m)["person"] = "mallory" }),
			"a word by whom it is about":           edit(at("decided", 0), func(m map[string]any) { by(m)["person"] = "bob" }),
			"a word about something else":          edit(at("decided", 0), func(m map[string]any) { item(m)["digest"] = strings.Repeat("0", 64) }),
			"the same word twice":                  edit(at("decided", 1), func(m map[string]any) { by(m)["person"] = "carol" }),
			"a revoke that nothing came of":        edit(at("decided", 0), func(m map[string]any) { m["verdict"] = "revoke" }),
			"one keep where two are needed":        drop(at("decided", 1)),
			"a suspension that nobody wanted":      edit(at("suspended", 0), func(m map[string]any) { m["why"] = "revoked" }),
			"a suspension of everybody":            edit(at("suspended", 0), everybody),
			"a suspension of a thing":              edit(at("suspended", 0), func(m map[string]any) { m["items"] = []any{"c1/subject/widened"} }),
			"a suspension less":                    drop(at("suspended", 0)),
			"an escalation less":                   drop(at("escalated", 0)),
			"counts that do not add up":            edit(at("closed", 0), func(m map[string]any) { m["kept"] = m["kept"].(float64) + 1 }),
			"one suspended that was kept": edit(at("closed", 0), func(m map[string]any) {
				m["kept"], m["suspended"] = m["kept"].(float64)+
					1, m["suspended"].(float64)-1
			}),
			"reinstated by the same person twice": edit(at("reinstated", 1), func(m map[string]any) { by(m)["person"] = "carol" }),
			"reinstated by themselves":            edit(at("reinstated", 1), func(m map[string]any) { by(m)["person"] = "alice" }),
			"reinstated without being suspended":  edit(at("reinstated", 0), func(m map[string]any) { m["items"] = []any{"c1/subject/new"} }),
			"reminders that go up":                edit(at("reminded", 1), func(m map[string]any) { m["days"] = 9 }),
			"a suspension before the deadline":    func(es []ledger.Entry) []ledger.Entry { es[at("suspended", 0)].Time = c.At; return es },
			"a word after the deadline": func(es []ledger.Entry) []ledger.Entry {
				es[at("decided",
					1)].Time = c.Opened.Deadline
				return es
			},
			"a field that nobody knows":      edit(at("closed", 0), func(m map[string]any) { m["note"] = "x" }),
			"a stream that is no campaign's": func(es []ledger.Entry) []ledger.Entry { es[at("opened", 0)].Stream = "campaign-x"; return es },
			"a request's event in a campaign": func(es []ledger.Entry) []ledger.Entry {
				es[at("closed", 0)].Kind, es[at("closed", 0)].Body = "heartbeat/v1", []byte(`{"version":"x"}`)
				return es
			},
		} {
			if got := audit(forge(slices.Clone(sound))); len(got) == 0 {
				t.Errorf("nothing is wrong with %s", name)
			}
		}
	})
}

// halfAnHourLeft lets a campaign go on until shortly before its deadline: after the last hour in which the daemon looks at it by
// itself.
func halfAnHourLeft(c *campaign.Campaign) {
	time.Sleep(time.Until(c.Opened.Deadline) - 30*time.Minute)
	synctest.Wait()
}

func TestConflictAtTheDeadlineDoesNotDropTheCampaign(t *testing.T) {
	campaignBubble(t, func(t *testing.T, s *bgtest.System) {
		c := open(t, s)
		if _, err := say(s, c, "carol", campaign.VerdictRevoke, "c1/subject/new"); err != nil {
			t.Fatal(err)
		}
		halfAnHourLeft(c)
		// The deadline passes between the decision and the append, and the second look has nothing to say any more.
		looks := 0
		_, err := s.Campaigns.Prove(t.Context(), c.ID, snapshotDigest, func(string) (gone, looked bool) {
			looks++
			time.Sleep(time.Until(c.Opened.Deadline))
			return true, looks == 1
		})
		if err != nil || looks != 2 {
			t.Fatalf("decided %d times (%v), want twice: the append must conflict at the deadline", looks, err)
		}
		synctest.Wait()
		if c, err = s.Campaigns.Get(t.Context(), c.ID); err != nil || c.Closed == nil {
			t.Fatalf("the campaign is not closed after its deadline (%v)", err)
		}
		if len(s.Service.Policy().Suspensions()) == 0 {
			t.Error("nobody is suspended")
		}
		more, err := policy.Parse("access.yaml", []byte(strings.Replace(reviewed(), "deadline: 14d", "deadline: 15d", 1)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Service.InForce.Set(t.Context(), more); err != nil {
			t.Fatal(err)
		}
		if len(s.Service.Policy().Suspensions()) == 0 {
			t.Error("the suspensions are gone with the next policy")
		}
	})
}

// adminApprover is a part that a campaign of planOf asks about.
func adminApprover(who string) policy.Eligibility {
	return policy.Eligibility{Person: who, Part: policy.PartApprover, Profile: "admin", Cluster: "c1"}
}

// roomy is the policy with one approver more.
func roomy(t *testing.T) *policy.Policy {
	t.Helper()
	p, err := policy.Parse("access.yaml", []byte(strings.Replace(reviewed(), "members: [carol, erin]",
		"members: [carol, erin, mallory]", 1)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func item(t *testing.T, s *bgtest.System, camp, id string) *campaign.Item {
	t.Helper()
	c, err := s.Campaigns.Get(t.Context(), camp)
	if err != nil {
		t.Fatal(err)
	}
	i, ok := c.Item(id)
	if !ok {
		t.Fatalf("%s has no item %s", camp, id)
	}
	return i
}

// keepAll has reviewers keep whatever waits for a word, but for some items.
func keepAll(t *testing.T, s *bgtest.System, c *campaign.Campaign, but ...string) *campaign.Campaign {
	t.Helper()
	for _, who := range []string{"alice", "carol", "dave", "erin"} {
		for _, i := range c.Items {
			if !c.Waits(i, who, time.Now()) || slices.Contains(but, i.ID) {
				continue
			}
			after, err := say(s, c, who, campaign.VerdictKeep, i.ID)
			if err != nil {
				t.Fatal(err)
			}
			c = after
		}
	}
	return c
}

func TestLaterCampaignSettlesWhatAnOlderOneOwes(t *testing.T) {
	const revoke = campaign.VerdictRevoke
	dave := itemOf(adminApprover("dave"))
	for _, test := range []struct {
		name      string
		restart   bool // between the later word and the policy with room
		later     campaign.Verdict
		suspended bool
	}{
		{"kept there", false, campaign.VerdictKeep, false},
		{"kept there, and started again", true, campaign.VerdictKeep, false},
		{"revoked there", false, revoke, true},
		{"not asked there again", false, "", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			campaignBubble(t, func(t *testing.T, s *bgtest.System) {
				first := open(t, s)
				for _, who := range []string{"alice", "bob", "dave"} { // dave is one too many for the floor
					after, err := say(s, first, "carol", revoke, itemOf(adminApprover(who)))
					if err != nil {
						t.Fatal(err)
					}
					first = after
				}
				if first = keepAll(t, s, first); first.Closed == nil || !slices.ContainsFunc(first.Unsettled(),
					func(i *campaign.Item) bool { return i.ID == dave }) {
					t.Fatalf("closed %v, unsettled %v: want dave's part owed", first.Closed, first.Unsettled())
				}
				time.Sleep(24 * time.Hour)
				if test.later != "" {
					second := open(t, s)
					second, err := say(s, second, "carol", test.later, dave)
					if err != nil {
						t.Fatal(err)
					}
					keepAll(t, s, second)
					synctest.Wait()
					if i := item(t, s, first.ID, dave); i.Settled != second.ID {
						t.Errorf("%s says that dave's part is settled by %q, want %s", first.ID, i.Settled, second.ID)
					}
					_, err = say(s, first, "erin", campaign.VerdictKeep, dave)
					wantRefusal(t, err, "settled")
				}
				if test.restart {
					s.Restart()
				}
				time.Sleep(24 * time.Hour)
				if _, err := s.Service.InForce.Set(t.Context(), roomy(t)); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if got := s.Service.Policy().Suspended(adminApprover("dave")); got != test.suspended {
					t.Errorf("with room above the floor dave is suspended: %v, want %v", got, test.suspended)
				}
				loud := slices.ContainsFunc(s.Service.Findings.Open(), func(f finding.Finding) bool { return f.Key == "campaign-unsettled/"+first.ID })
				if loud {
					t.Errorf("the finding about %s is still open: %+v", first.ID, s.Service.Findings.Open())
				}
			})
		})
	}
}

// What was said last holds, and it was said in the later campaign: a word in the older one would be recorded and mean nothing. It is
// the same whether the service still has the later one in memory or not.
func TestLateWordIsRefusedWhereALaterCampaignHasAnAnswer(t *testing.T) {
	const keep, revoke = campaign.VerdictKeep, campaign.VerdictRevoke
	dave, erin := itemOf(adminApprover("dave")), itemOf(adminApprover("erin"))
	for _, test := range []struct {
		name    string
		owing   bool // the older campaign still owes a suspension, so that the later one stays in memory
		restart bool
		word    func(*testing.T, *bgtest.System, *campaign.Campaign) // in the later campaign
		next    string                                               // with %s for the later campaign; empty: the word counts
	}{
		{"kept in one that is not in memory", false, false, func(t *testing.T, s *bgtest.System, c *campaign.Campaign) { keepAll(t, s, c) },
			"breakglass recert start"},
		{"kept in one that is not in memory after a restart", false, true, func(t *testing.T, s *bgtest.System,
			c *campaign.Campaign) {
			keepAll(t, s, c)
		}, "breakglass recert start"},
		{"kept in one that is in memory", true, false, func(t *testing.T, s *bgtest.System, c *campaign.Campaign) { keepAll(t, s, c) },
			"breakglass recert start"},
		{"kept in one that is open", false, false, func(t *testing.T, s *bgtest.System, c *campaign.Campaign) {
			if _, err := say(s, c, "carol", keep, dave); err != nil {
				t.Fatal(err)
			}
		}, "breakglass recert review %s"},
		{"suspended in one that is open", false, false, func(t *testing.T, s *bgtest.System, c *campaign.Campaign) {
			if _, err := s.Service.InForce.Set(t.Context(), roomy(t)); err != nil {
				t.Fatal(err)
			}
			if _, err := say(s, c, "carol", revoke, dave); err != nil {
				t.Fatal(err)
			}
		}, "breakglass recert reinstate %s --item " + dave},
		{"not answered yet in one that is open", false, false, func(*testing.T, *bgtest.System, *campaign.Campaign) {}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			campaignBubble(t, func(t *testing.T, s *bgtest.System) {
				first := open(t, s)
				time.Sleep(14*24*time.Hour + time.Minute) // nobody answers, and the floor keeps dave and erin
				synctest.Wait()
				first, err := s.Campaigns.Get(t.Context(), first.ID)
				if err != nil || first.Closed == nil || item(t, s, first.ID, dave).EscalatedWhy != campaign.WhyFloor {
					t.Fatalf("closed %v, %v: want dave's part escalated by the floor", first.Closed, err)
				}
				var but []string
				plan := planOf(s.Service.Policy())
				if test.owing {
					but = []string{erin}
					plan.Items = slices.DeleteFunc(plan.Items, func(i campaign.FrozenItem) bool { return i.ID == erin })
				}
				if first = keepAll(t, s, first, but...); (len(first.Unsettled()) > 0) != test.owing {
					t.Fatalf("unsettled: %v, want that: %v", first.Unsettled(), test.owing)
				}
				time.Sleep(24 * time.Hour)
				second, err := s.Campaigns.Start(t.Context(), nil, plan)
				if err != nil {
					t.Fatal(err)
				}
				test.word(t, s, second)
				if test.restart {
					s.Restart()
				}
				who := item(t, s, first.ID, dave).Words[0].By.Person
				after, err := say(s, first, who, revoke, dave)
				if test.next == "" {
					if i := item(t, s, first.ID, dave); err != nil || after.Rev == first.Rev || i.Settled != "" {
						t.Errorf("got %v and settled %q, want the word recorded", err, i.Settled)
					}
					return
				}
				wantRefusal(t, err, "settled")
				r, refused := record.AsRefusal(err)
				if next := strings.ReplaceAll(test.next, "%s", second.ID); refused && (!strings.Contains(r.Why, second.ID) ||
					!strings.HasSuffix(r.Next, next)) {
					t.Errorf("why %q, next %q: want %s named, and %q", r.Why, r.Next, second.ID, next)
				}
				if now, err := s.Campaigns.Get(t.Context(), first.ID); err != nil || now.Rev != first.Rev {
					t.Errorf("%s is at %d, want %d: something was recorded (%v)", first.ID, now.Rev, first.Rev, err)
				}
			})
		})
	}
}

func TestRefusalNamesTheCampaignThatHolds(t *testing.T) {
	campaignBubble(t, func(t *testing.T, s *bgtest.System) {
		alice := policy.Eligibility{Person: "alice", Part: policy.PartRequester, Profile: "admin", Cluster: "c1"}
		first := open(t, s)
		first, err := say(s, first, "carol", campaign.VerdictRevoke, itemOf(alice))
		if err != nil {
			t.Fatal(err)
		}
		if first = keepAll(t, s, first); first.Closed == nil {
			t.Fatal("not closed")
		}
		time.Sleep(time.Hour)
		second := open(t, s)
		if second = keepAll(t, s, second); second.Closed == nil {
			t.Fatal("not closed")
		}
		how := "breakglass recert reinstate " + first.ID + " --item " + itemOf(alice)
		_, err = s.Service.Request(t.Context(), byKey("alice"), breakglass.Ask{Profile: "admin", Reason: "etcd quorum lost, API 5xx"})
		if wantRefusal(t, err, "suspended"); !strings.Contains(err.Error(), how) {
			t.Errorf("the refusal %q does not say %q", err, how)
		}
		_, err = s.Campaigns.Reinstate(t.Context(), byKey("carol"), "", itemOf(alice), "on call again") // the last campaign, which kept her
		if wantRefusal(t, err, "not-suspended"); !strings.Contains(err.Error(), how) {
			t.Errorf("the refusal %q does not say %q", err, how)
		}
		bob := itemOf(policy.Eligibility{Person: "bob", Part: policy.PartRequester, Profile: "admin", Cluster: "c1"})
		_, err = s.Campaigns.Reinstate(t.Context(), byKey("carol"), "", bob, "on call again")
		if wantRefusal(t, err, "not-suspended"); !strings.Contains(err.Error(), "nothing to give back") {
			t.Errorf("the refusal %q has no next step", err)
		}
	})
}

func TestNobodyAcknowledgesWhatIsAboutThemselves(t *testing.T) {
	campaignBubble(t, func(t *testing.T, s *bgtest.System) {
		plan := planOf(s.Service.Policy())
		const key = "key/SHA256:alices"
		plan.Items = append(plan.Items, campaign.FrozenItem{ID: key, Digest: strings.Repeat("c", 64), State: campaign.ItemNew,
			Not: []string{"alice"}})
		c, err := s.Campaigns.Start(t.Context(), nil, plan)
		if err != nil {
			t.Fatal(err)
		}
		aliceAsks := itemOf(policy.Eligibility{Person: "alice", Part: policy.PartRequester, Profile: "admin", Cluster: "c1"})
		for _, id := range []string{key, aliceAsks} {
			if _, err := say(s, c, "carol", campaign.VerdictRevoke, id); err != nil {
				t.Fatal(err)
			}
			_, err = s.Campaigns.Acknowledge(t.Context(), byKey("alice"), c.ID, []string{id}, "took it out")
			wantRefusal(t, err, "own-item")
			if i := item(t, s, c.ID, id); i.Acknowledged != nil {
				t.Errorf("alice acknowledged %s", id)
			}
			if _, err := s.Campaigns.Acknowledge(t.Context(), byKey("dave"), c.ID, []string{id},
				"the policy does not have it any more"); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestLedgersOfBeforeStillVerify rewrites a campaign as one that was opened before rules had a number: then one person was enough
// for an admin item if the policy said so, and anybody could acknowledge.
func TestLedgersOfBeforeStillVerify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bgtest.New(t, weeks(reviewed()))
		c := open(t, s)
		if _, err := say(s, c, "carol", campaign.VerdictRevoke, "c1/subject/new"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Campaigns.Acknowledge(t.Context(), byKey("dave"), c.ID, []string{"c1/subject/new"}, ""); err != nil {
			t.Fatal(err)
		}
		now, err := s.Ledger.Entries(t.Context(), 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		edit := func(rules, admins float64, who string) []string {
			es := slices.Clone(now)
			for n := range es {
				var m map[string]any
				if err := json.Unmarshal(es[n].Body, &m); err != nil {
					t.Fatal(err)
				}
				switch es[n].Kind {
				case "campaign-opened/v1":
					m["rules"], m["adminReviewers"] = rules, admins
					if rules == 0 {
						delete(m, "rules")
					}
				case "campaign-acknowledged/v1":
					m["by"].(map[string]any)["person"] = who
				}
				es[n].Body, _ = json.Marshal(m)
			}
			return audit(es)
		}
		for _, test := range []struct {
			name          string
			rules, admins float64
			who           string
			sound         bool
		}{
			{"as it was written", 1, 2, "dave", true},
			{"of before, one person for admin items", 0, 1, "dave", true},
			{"of before, acknowledged by whom it is about", 0, 2, "bob", true},
			{"of now, one person for admin items", 1, 1, "dave", false},
			{"of now, acknowledged by whom it is about", 1, 2, "bob", false},
			{"of a later version", 2, 2, "dave", false},
		} {
			if got := edit(test.rules, test.admins, test.who); (len(got) == 0) != test.sound {
				t.Errorf("%s: problems %q", test.name, got)
			}
		}
	})
}

func TestEveryWordIsKept(t *testing.T) {
	campaignBubble(t, func(t *testing.T, s *bgtest.System) {
		c := open(t, s)
		for _, v := range []campaign.Verdict{campaign.VerdictKeep, campaign.VerdictRevoke} {
			if _, err := say(s, c, "carol", v, "c1/subject/new"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
		}
		i := item(t, s, c.ID, "c1/subject/new")
		if len(i.Words) != 1 || i.Words[0].Verdict != campaign.VerdictRevoke || len(i.Earlier) != 1 ||
			i.Earlier[0].Verdict != campaign.VerdictKeep || i.Earlier[0].By.Person != "carol" {
			t.Errorf("carol's words: last %+v, earlier %+v", i.Words, i.Earlier)
		}
	})
}

func TestWhatCameToPassAtClosingStays(t *testing.T) {
	campaignBubble(t, func(t *testing.T, s *bgtest.System) {
		c := open(t, s)
		if i := item(t, s, c.ID, "c1/subject/new"); i.AtClose != "" {
			t.Errorf("an open campaign closed an item as %s", i.AtClose)
		}
		time.Sleep(15 * 24 * time.Hour)
		synctest.Wait()
		for _, who := range []string{"carol", "erin"} {
			if _, err := say(s, c, who, campaign.VerdictKeep, "c1/subject/new"); err != nil {
				t.Fatal(err)
			}
		}
		c, err := s.Campaigns.Get(t.Context(), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		if i, _ := c.Item("c1/subject/new"); c.Outcome(i) != campaign.OutcomeKeep || i.AtClose != campaign.OutcomeEscalated {
			t.Errorf("it is %s and was %s at closing, want kept and escalated", c.Outcome(i), i.AtClose)
		}
		n := 0
		for _, i := range c.Items {
			if i.AtClose == campaign.OutcomeEscalated {
				n++
			}
		}
		if n != c.Closed.Escalated {
			t.Errorf("%d items were escalated at closing, the counts say %d", n, c.Closed.Escalated)
		}
	})
}

// TestAuditRefusesDebtsThatNobodySettled replays ledgers in which a campaign is said to owe nothing any more.
func TestAuditRefusesDebtsThatNobodySettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bgtest.New(t, weeks(reviewed()))
		dave := itemOf(adminApprover("dave"))
		var ids [2]string
		for n := range ids {
			c := open(t, s)
			if n == 0 {
				for _, who := range []string{"alice", "bob", "dave"} { // dave is one too many for the floor
					after, err := say(s, c, "carol", campaign.VerdictRevoke, itemOf(adminApprover(who)))
					if err != nil {
						t.Fatal(err)
					}
					c = after
				}
			}
			if c = keepAll(t, s, c); c.Closed == nil {
				t.Fatal("not closed")
			}
			ids[n] = c.ID
			time.Sleep(time.Hour)
			synctest.Wait()
		}
		sound, err := s.Ledger.Entries(t.Context(), 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if got := audit(sound); len(got) > 0 {
			t.Fatalf("a sound ledger: %q", got)
		}
		at := slices.IndexFunc(sound, func(e ledger.Entry) bool { return e.Kind == "campaign-settled/v1" })
		if at < 0 {
			t.Fatal("nothing was settled")
		}
		for name, body := range map[string]string{
			"by itself":                fmt.Sprintf(`{"campaign":%q,"items":[%q]}`, ids[0], dave),
			"by one that never was":    fmt.Sprintf(`{"campaign":"campaign-2000-01-01-aaaa","items":[%q]}`, dave),
			"by something else":        fmt.Sprintf(`{"campaign":"policy","items":[%q]}`, dave),
			"what was kept":            fmt.Sprintf(`{"campaign":%q,"items":[%q]}`, ids[1], itemOf(adminApprover("erin"))),
			"what was suspended":       fmt.Sprintf(`{"campaign":%q,"items":[%q]}`, ids[1], itemOf(adminApprover("bob"))),
			"a thing in the cluster":   fmt.Sprintf(`{"campaign":%q,"items":["c1/subject/new"]}`, ids[1]),
			"before anything was said": "",
		} {
			es := slices.Clone(sound)
			switch body {
			case "": // the later campaign's words come after it
				e := es[at]
				es = slices.Delete(es, at, at+1)
				first := slices.IndexFunc(es, func(e ledger.Entry) bool { return e.Stream == ids[1] })
				es = slices.Insert(es, first+1, e)
			default:
				es[at].Body = []byte(body)
			}
			if got := audit(es); len(got) == 0 {
				t.Errorf("nothing is wrong with a debt settled: %s", name)
			}
		}
	})
}
