package campaign_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/policy"
)

// byTeam asks about people's places in teams, and about what teams may do.
func byTeam(p *policy.Policy) campaign.Plan {
	plan := campaign.Plan{From: time.Now().AddDate(0, -3, 0), Until: time.Now(), Clusters: []string{"c1"}, Snapshot: snapshotDigest}
	for _, m := range p.Memberships() {
		plan.Items = append(plan.Items, campaign.FrozenItem{ID: "member/" + m.Team + "/" + m.Person, Digest: strings.Repeat("a", 64),
			State: campaign.ItemUnchanged, Not: []string{m.Person}, Member: m})
	}
	for _, w := range p.Ways() {
		plan.Items = append(plan.Items, campaign.FrozenItem{ID: "way/" + w.Team + "/" + w.Profile + "/" + string(w.Part),
			Digest: strings.Repeat("b", 64), State: campaign.ItemUnchanged, Way: &w})
	}
	return plan
}

func openByTeam(t *testing.T, s *bgtest.System) *campaign.Campaign {
	t.Helper()
	c, err := s.Campaigns.Start(t.Context(), nil, byTeam(s.Service.Policy()))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// suspendedFor lists what is suspended and in force, of one profile.
func suspendedFor(s *bgtest.System, profile string) []string {
	out := []string{}
	for _, e := range s.Service.Policy().Suspensions() {
		if e.Profile == profile {
			out = append(out, e.String())
		}
	}
	return out
}

// Every eligibility of the policy is covered by a place in a team and by a way, and neither covers anything else.
func TestPlacesAndWaysCoverEveryEligibility(t *testing.T) {
	campaignBubble(t, func(t *testing.T, s *bgtest.System) {
		c := openByTeam(t, s)
		members, ways := map[policy.Eligibility]bool{}, map[policy.Eligibility]bool{}
		for _, i := range c.Items {
			by := ways
			if i.Way == nil {
				by = members
			}
			for _, e := range i.Covers {
				by[e] = true
			}
		}
		want := map[policy.Eligibility]bool{}
		for _, e := range s.Service.Policy().EveryEligibility() {
			want[e] = true
		}
		if diff := cmp.Diff(want, members); diff != "" {
			t.Error("places in teams:", diff)
		}
		if diff := cmp.Diff(want, ways); diff != "" {
			t.Error("ways:", diff)
		}
	})
}

func TestRevokedPlaceInATeamSuspendsAllOfItAndTwoPeopleGiveItBack(t *testing.T) {
	campaignBubble(t, func(t *testing.T, s *bgtest.System) {
		c := openByTeam(t, s)
		const id = "member/sre/alice"
		_, err := say(s, c, "alice", campaign.VerdictKeep, id)
		wantRefusal(t, err, "own-item")
		if c, err = say(s, c, "carol", campaign.VerdictRevoke, id); err != nil {
			t.Fatal(err)
		}
		all := 0
		for _, e := range s.Service.Policy().EveryEligibility() {
			if e.Person != "alice" {
				continue
			}
			all++
			if !s.Service.Policy().Suspended(e) {
				t.Errorf("%s is not suspended", e)
			}
		}
		if got := len(s.Service.Policy().Suspensions()); got != all || all == 0 {
			t.Errorf("%d are suspended, want alice's %d", got, all)
		}
		_, err = s.Service.Request(t.Context(), byKey("alice"), breakglass.Ask{Profile: "admin", Reason: "etcd quorum lost, API 5xx"})
		wantRefusal(t, err, "suspended")
		s.Restart()
		if got := len(s.Service.Policy().Suspensions()); got != all {
			t.Errorf("after a restart %d are suspended, want %d", got, all)
		}
		_, err = s.Campaigns.Acknowledge(t.Context(), byKey("carol"), c.ID, []string{id}, "she is out of it")
		wantRefusal(t, err, "still-there")
		for n, who := range []string{"alice", "carol", "carol", "erin"} {
			_, err := s.Campaigns.Reinstate(t.Context(), byKey(who), c.ID, id, "on call again from Monday")
			if n == 0 {
				wantRefusal(t, err, "own-item")
			} else if err != nil {
				t.Fatal(err)
			}
			want := all
			if n == 3 {
				want = 0
			}
			if got := len(s.Service.Policy().Suspensions()); got != want {
				t.Errorf("after %d words %d are suspended, want %d", n, got, want)
			}
		}
	})
}

// A way that all approvers of a profile have is suspended down to the floor, and the rest when there is room.
func TestRevokedWaySuspendsDownToTheFloorAndTheRestWhenThereIsRoom(t *testing.T) {
	campaignBubble(t, func(t *testing.T, s *bgtest.System) {
		c := openByTeam(t, s)
		const id = "way/sre/admin/approver"
		c, err := say(s, c, "carol", campaign.VerdictRevoke, id)
		if err != nil {
			t.Fatal(err)
		}
		two := []string{"alice as approver of admin on c1", "bob as approver of admin on c1"}
		if diff := cmp.Diff(two, suspendedFor(s, "admin")); diff != "" {
			t.Error("of five approvers three must stay:", diff)
		}
		if i := item(t, s, c.ID, id); i.EscalatedWhy != campaign.WhyFloor || len(c.Unsettled()) != 1 {
			t.Errorf("the floor kept dave and no reviewer was told: %+v", i)
		}
		if _, err := s.Service.InForce.Set(t.Context(), roomy(t)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if diff := cmp.Diff(append(two, "dave as approver of admin on c1"), suspendedFor(s, "admin")); diff != "" {
			t.Error("there is room, and the rest is not suspended:", diff)
		}
		if i := item(t, s, c.ID, id); len(i.Taken) != len(i.Covers) {
			t.Errorf("%d of %d are recorded as suspended", len(i.Taken), len(i.Covers))
		}
		// Dave has it himself: his word counts for the others only, so it takes one more.
		for n, who := range []string{"dave", "carol", "erin"} {
			if _, err := s.Campaigns.Reinstate(t.Context(), byKey(who), c.ID, id, "the rota was wrong"); err != nil {
				t.Fatal(err)
			}
			if got := len(suspendedFor(s, "admin")) == 0; got != (n == 2) {
				t.Errorf("given back after %s: %v", who, got)
			}
		}
	})
}

// What no reviewer confirmed is suspended, in the same way as it was when each eligibility was an item, and the counts add up.
func TestSilenceAboutTeamsSuspendsWhatItDidAboutEligibility(t *testing.T) {
	end := func(plan func(*policy.Policy) campaign.Plan) map[string]int { // people, by part, profile and cluster
		got := map[string]int{}
		campaignBubble(t, func(t *testing.T, s *bgtest.System) {
			c, err := s.Campaigns.Start(t.Context(), nil, plan(s.Service.Policy()))
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(14 * 24 * time.Hour)
			synctest.Wait()
			if c, err = s.Campaigns.Get(t.Context(), c.ID); err != nil || c.Closed == nil {
				t.Fatalf("not closed at the deadline (%v)", err)
			}
			if k := *c.Closed; k.Suspended+k.Escalated != len(c.Items) {
				t.Errorf("counts %+v of %d items", k, len(c.Items))
			}
			for _, e := range s.Service.Policy().Suspensions() {
				_, what, _ := strings.Cut(e.String(), " ")
				got[what]++
			}
		})
		return got
	}
	if diff := cmp.Diff(end(planOf), end(byTeam)); diff != "" {
		t.Error("-one by one +by team:", diff)
	}
}

// A way is confirmed when everybody who has it is confirmed by enough others.
func TestKeepOfAWayCountsForOthersOnly(t *testing.T) {
	campaignBubble(t, func(t *testing.T, s *bgtest.System) {
		plan := byTeam(s.Service.Policy())
		for n := range plan.Items {
			plan.Items[n].Admin = plan.Items[n].ID == "way/sre/admin/approver"
		}
		c, err := s.Campaigns.Start(t.Context(), nil, plan)
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range []struct {
			item string
			who  []string
			kept []bool
		}{
			{"way/sre/group/approver", []string{"carol"}, []bool{true}},                                   // of another team
			{"way/sre/keys/approver", []string{"dave", "alice"}, []bool{false, true}},                     // each for the other
			{"way/sre/admin/approver", []string{"dave", "alice", "carol"}, []bool{false, false, true}},    // cluster-admin: two others
			{"way/security/admin/approver", []string{"carol", "dave"}, []bool{false, true}},               // dave for carol and erin
			{"member/security/carol", []string{"dave"}, []bool{true}},                                     // one place, one other
			{"way/security/group/approver", []string{"alice"}, []bool{true}},                              // of another team
			{"way/security/keys/approver", []string{"erin", "carol", "alice"}, []bool{false, true, true}}, // each for the other
		} {
			for n, who := range row.who {
				if c, err = say(s, c, who, campaign.VerdictKeep, row.item); err != nil {
					t.Fatalf("%s keeps %s: %v", who, row.item, err)
				}
				i, _ := c.Item(row.item)
				if got := c.Outcome(i) == campaign.OutcomeKeep; got != row.kept[n] {
					t.Errorf("%s is kept after %q: %v", row.item, row.who[:n+1], got)
				}
			}
		}
	})
}

// What an older campaign owes about a way is settled by what became of all of it in a later one, of whatever form.
func TestLaterCampaignByTeamSettlesWhatAnOlderOneOwes(t *testing.T) {
	for name, later := range map[string]func(*policy.Policy) campaign.Plan{"one by one": planOf, "by team": byTeam} {
		t.Run(name, func(t *testing.T) {
			campaignBubble(t, func(t *testing.T, s *bgtest.System) {
				const id = "way/sre/admin/approver"
				first := openByTeam(t, s)
				first, err := say(s, first, "carol", campaign.VerdictRevoke, id)
				if err != nil {
					t.Fatal(err)
				}
				if first = keepAll(t, s, first, id); first.Closed == nil {
					t.Fatal("not closed")
				}
				time.Sleep(time.Hour)
				second, err := s.Campaigns.Start(t.Context(), nil, later(s.Service.Policy()))
				if err != nil {
					t.Fatal(err)
				}
				for _, who := range []string{"alice", "bob", "carol", "dave", "erin"} {
					for _, i := range second.Items {
						if second.Waits(i, who, time.Now()) {
							if second, err = say(s, second, who, campaign.VerdictKeep, i.ID); err != nil {
								t.Fatal(err)
							}
						}
					}
				}
				if second.Closed == nil {
					t.Fatal("not closed")
				}
				synctest.Wait()
				if i := item(t, s, first.ID, id); i.Settled != second.ID {
					t.Errorf("it is settled by %q, want %s", i.Settled, second.ID)
				}
				if _, err := s.Service.InForce.Set(t.Context(), roomy(t)); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if slices.Contains(suspendedFor(s, "admin"), "dave as approver of admin on c1") {
					t.Error("dave was kept later, and is suspended")
				}
			})
		})
	}
}

func TestItemsThatAreAboutTwoThingsAreRefused(t *testing.T) {
	campaignBubble(t, func(t *testing.T, s *bgtest.System) {
		for name, change := range map[string]func(*campaign.FrozenItem){
			"half a place":      func(i *campaign.FrozenItem) { i.Member.Person = "" },
			"a place and a way": func(i *campaign.FrozenItem) { i.Way = &s.Service.Policy().Ways()[0] },
			"a way to no place": func(i *campaign.FrozenItem) {
				i.Member, i.Way = policy.Membership{}, &policy.TeamPart{Team: "sre"}
			},
			"a place and a part": func(i *campaign.FrozenItem) { i.Gives = adminApprover("alice") },
		} {
			plan := byTeam(s.Service.Policy())
			change(&plan.Items[0])
			if _, err := s.Campaigns.Start(t.Context(), nil, plan); err == nil {
				t.Errorf("%s: opened", name)
			}
		}
	})
}
