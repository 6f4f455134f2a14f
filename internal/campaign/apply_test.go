package campaign

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

var (
	opened = time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)
	hash   = strings.Repeat("0a", 32)
	carol  = record.Actor{Person: "carol", Channel: record.ChannelKey}
	erin   = record.Actor{Person: "erin", Channel: record.ChannelKey}
)

// reviewed is a campaign about an object in a cluster, which carol revoked, and something that can only be escalated.
func reviewed(t *testing.T) *Campaign {
	t.Helper()
	c := &Campaign{ID: "campaign-2026-11-02-ab12"}
	add(t, c, 0, Opened{From: opened.AddDate(0, -3, 0), Until: opened, Snapshot: hash, Items: 2, Pages: 1, AdminReviewers: 2, Rules: RulesNow,
		Reviewers: []policy.FrozenTeam{{ID: "security", Members: []string{"carol", "erin"}}}, Deadline: opened.AddDate(0, 0, 14)})
	add(t, c, 0, Items{Items: []FrozenItem{{ID: "binding", Digest: hash, State: ItemNew, Object: "ClusterRoleBinding x", Not: []string{"bob"}},
		{ID: "key", Digest: hash, State: ItemNew}}})
	add(t, c, time.Hour, Decided{By: carol, Verdict: VerdictRevoke, Items: []Judged{{"binding", hash}}})
	return c
}

// next is the entry in which an event would follow.
func next(c *Campaign, after time.Duration, ev record.Event) ledger.Entry {
	return ledger.Entry{Stream: c.ID, StreamSeq: c.Rev + 1, Kind: ev.Kind(), Time: opened.Add(after)}
}

func add(t *testing.T, c *Campaign, after time.Duration, ev record.Event) {
	t.Helper()
	if err := c.Apply(next(c, after, ev), ev); err != nil {
		t.Fatalf("%s: %v", ev.Kind(), err)
	}
}

func TestAnEventThatIsRefusedChangesNothing(t *testing.T) {
	const week = 7 * 24 * time.Hour
	for name, ev := range map[string]record.Event{
		"opened twice":                    Opened{},
		"a page too many":                 Items{First: 2, Items: []FrozenItem{{ID: "more", Digest: hash, State: ItemNew}}},
		"an outsider decides":             Decided{By: record.Actor{Person: "mallory"}, Verdict: VerdictKeep, Items: []Judged{{"key", hash}}},
		"decided on something else":       Decided{By: erin, Verdict: VerdictKeep, Items: []Judged{{"key", "00"}}},
		"one of two items can be decided": Decided{By: erin, Verdict: VerdictKeep, Items: []Judged{{"key", hash}, {"binding", hash}}},
		"no eligibility is suspended":     Suspended{Why: WhyRevoked, Items: []string{"binding"}},
		"a part of two items":             Suspended{Why: WhyRevoked, Items: []string{"binding", "key"}, Only: []policy.Share{{}}},
		"escalated before the deadline":   Escalated{Why: WhyUnanswered, Items: []string{"key"}},
		"settled while it is open":        Settled{Campaign: "campaign-2026-12-02-ab12", Items: []string{"key"}},
		"reinstated, and not suspended":   Reinstated{By: erin, Items: []string{"binding"}},
		"reminded of less than no days":   Reminded{Days: -1},
		"the first is to be acknowledged": Acknowledged{By: erin, Items: []string{"binding", "key"}},
		"the first is proved":             Proved{Snapshot: hash, Gone: []string{"binding"}, Still: []string{"key"}},
		"closed with an open item":        Closed{Revoked: 1, Escalated: 1},
		"an event of something else":      policy.Dropped{},
	} {
		c := reviewed(t)
		if err := c.Apply(next(c, week, ev), ev); err == nil {
			t.Errorf("%s: is taken", name)
		}
		if !reflect.DeepEqual(c, reviewed(t)) {
			t.Errorf("%s: was refused, and changed the campaign", name)
		}
	}
	// A page of which one item is wrong begins no campaign.
	for name, items := range map[string][]FrozenItem{
		"an item twice":        {{ID: "key", Digest: hash, State: ItemNew}, {ID: "key", Digest: hash, State: ItemNew}},
		"an unknown state":     {{ID: "key", Digest: hash, State: ItemNew}, {ID: "other", Digest: hash, State: "odd"}},
		"fewer than announced": {{ID: "key", Digest: hash, State: ItemNew}},
	} {
		whole := reviewed(t)
		c := &Campaign{ID: whole.ID}
		add(t, c, 0, whole.Opened)
		if err := c.Apply(next(c, 0, Items{}), Items{Items: items}); err == nil || len(c.Items) > 0 || len(c.index) > 0 || c.Pages > 0 {
			t.Errorf("%s: %v, and the campaign has %d items", name, err, len(c.Items))
		}
	}
}
