package campaign

import (
	"maps"
	"slices"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// reminders say how long before the deadline reviewers are reminded, and what the entry calls it: the last one comes on the day
// itself, while there is still time to answer.
var reminders = [...]struct {
	days   int
	before time.Duration
}{{14, 14 * 24 * time.Hour}, {7, 7 * 24 * time.Hour}, {1, 24 * time.Hour}, {0, 4 * time.Hour}}

// Due decides what the daemon has to record about a campaign by itself at a time, and when to look again (zero: when
// something happens). The policy is the one in force, with what is suspended by others in it; held is all that is recorded as
// suspended, whatever campaign did it; since is where eligibility came to something in a later campaign.
func Due(c *Campaign, p *policy.Policy, held []policy.Holding, since map[policy.Eligibility]Standing,
	now time.Time) (events []record.Event, next time.Time) {
	over := !now.Before(c.Opened.Deadline)
	var floor, unanswered []string
	var parts []record.Event
	whole, moot := map[Outcome][]string{}, map[Outcome][]string{} // items, by what was said; moot: the policy does not have these any more
	settled := map[string][]string{}                              // by the later campaign
	why := map[Outcome]string{OutcomeRevoke: WhyRevoked, OutcomeNone: WhyUnanswered}
	rooms := p.Rooms(policy.SetOf(held))
	// What a reviewer took away goes first: silence must not use up the room above the floor.
	for _, wanted := range []Outcome{OutcomeRevoke, OutcomeNone} {
		for _, i := range c.Items {
			if c.Said(i) != wanted {
				continue
			}
			owed := c.owed(i, now)
			var take, gone []policy.Eligibility
			var later *Campaign
			kept := false
			for _, e := range owed {
				switch s := since[e].In; {
				case s != nil && c.Closed != nil:
					if later == nil || later.Seq < s.Seq {
						later = s
					}
				case !p.Offers(e.Profile, e.Cluster):
					gone = append(gone, e)
				case rooms.Take(e):
					take = append(take, e)
				default:
					kept = true
				}
			}
			switch {
			case len(owed) == 0:
			case len(take) == len(owed):
				whole[wanted] = append(whole[wanted], i.ID)
			case len(gone) == len(owed):
				moot[wanted] = append(moot[wanted], i.ID)
			default:
				parts = append(append(parts, partly(why[wanted], i.ID, take, false)...), partly(why[wanted], i.ID, gone, true)...)
				if kept && i.Escalated.IsZero() {
					floor = append(floor, i.ID)
				}
				if later != nil && !kept {
					settled[later.ID] = append(settled[later.ID], i.ID)
				}
			}
		}
	}
	if over {
		for _, i := range c.Items {
			if c.Outcome(i) == OutcomeNone && len(i.Covers) == 0 {
				unanswered = append(unanswered, i.ID)
			}
		}
	}
	page := func(ids []string, event func([]string) record.Event) {
		events = append(events, EventsOf(ids, event)...)
	}
	for _, o := range []Outcome{OutcomeRevoke, OutcomeNone} {
		page(whole[o], func(ids []string) record.Event { return Suspended{Why: why[o], Items: ids} })
	}
	events = append(events, parts...)
	for _, o := range []Outcome{OutcomeRevoke, OutcomeNone} {
		page(moot[o], func(ids []string) record.Event { return Suspended{Why: why[o], Items: ids, Moot: true} })
	}
	for _, later := range slices.Sorted(maps.Keys(settled)) {
		page(settled[later], func(ids []string) record.Event { return Settled{Campaign: later, Items: ids} })
	}
	page(floor, func(ids []string) record.Event { return Escalated{Why: WhyFloor, Items: ids} })
	page(unanswered, func(ids []string) record.Event { return Escalated{Why: WhyUnanswered, Items: ids} })
	if c.Closed != nil {
		return events, time.Time{}
	}
	after := c.Copied()
	for _, ev := range events {
		if err := after.Apply(ledger.Entry{StreamSeq: after.Rev + 1, Time: now}, ev); err != nil {
			break // the caller that records them gets the error
		}
	}
	counts, open := after.Counts()
	if over || open == 0 {
		return append(events, counts), time.Time{}
	}
	next = c.Opened.Deadline
	for _, r := range reminders {
		at := c.Opened.Deadline.Add(-r.before)
		if !at.After(c.At) || len(c.Reminded) > 0 && c.Reminded[len(c.Reminded)-1] <= r.days {
			continue
		}
		if now.Before(at) {
			if at.Before(next) {
				next = at
			}
			continue
		}
		// Of several that were missed only the last counts: one reminder says all.
		events = slices.DeleteFunc(events, func(e record.Event) bool { _, is := e.(Reminded); return is })
		events = append(events, Reminded{Days: r.days, Open: open})
	}
	return events, next
}

// partly suspends a part of what an item covers.
func partly(why, item string, part []policy.Eligibility, moot bool) (out []record.Event) {
	for _, only := range policy.EntriesOf(policy.Shares(part)) {
		out = append(out, Suspended{Why: why, Items: []string{item}, Moot: moot, Only: only})
	}
	return out
}

// idsPerEntry keeps an entry of ids far below the ledger's bound: maxItemID each.
const idsPerEntry = 150
