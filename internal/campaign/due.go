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
	events = c.enforcement(p, held, since, now)
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
	if open == 0 || !now.Before(c.Opened.Deadline) {
		return append(events, counts), time.Time{}
	}
	remind, next := c.reminder(now, open)
	return append(events, remind...), next
}

// reminder is the reminder that is due, if one is, and when the next one is, or the deadline.
func (c *Campaign) reminder(now time.Time, open int) (due []record.Event, next time.Time) {
	next = c.Opened.Deadline
	for _, r := range reminders {
		at := c.Opened.Deadline.Add(-r.before)
		switch {
		case !at.After(c.At) || len(c.Reminded) > 0 && c.Reminded[len(c.Reminded)-1] <= r.days:
		case !now.Before(at): // of several that were missed only the last counts: one reminder says all
			due = []record.Event{Reminded{Days: r.days, Open: open}}
		case at.Before(next):
			next = at
		}
	}
	return due, next
}

// unenforced is what reviewers or silence took away and no entry says yet.
type unenforced struct {
	said    map[Outcome]*toSuspend
	parts   []record.Event
	settled map[string][]string // ids of items, by the later campaign
	floor   []string            // ids of items that the floor keeps
}

// toSuspend is the ids of items that are suspended as a whole.
type toSuspend struct {
	offered []string
	moot    []string // the policy does not have these any more
}

// why is the word for a suspension of items about which the reviewers said so.
func why(said Outcome) string {
	if said == OutcomeRevoke {
		return WhyRevoked
	}
	return WhyUnanswered
}

// enforcement is the events by which what reviewers and silence took away is suspended, settled or escalated.
func (c *Campaign) enforcement(p *policy.Policy, held []policy.Holding, since map[policy.Eligibility]Standing,
	now time.Time) (events []record.Event) {
	rooms := p.Rooms(policy.SetOf(held))
	found := unenforced{said: map[Outcome]*toSuspend{}, settled: map[string][]string{}}
	// What a reviewer took away goes first: silence must not use up the room above the floor.
	taken := []Outcome{OutcomeRevoke, OutcomeNone}
	for _, said := range taken {
		found.said[said] = &toSuspend{}
		for _, i := range c.Items {
			if c.Said(i) != said {
				continue
			}
			if owed := c.owed(i, now); len(owed) > 0 {
				found.add(c, i, said, owed, p, rooms, since)
			}
		}
	}
	page := func(ids []string, event func([]string) record.Event) {
		events = append(events, EventsOf(ids, event)...)
	}
	for _, said := range taken {
		page(found.said[said].offered, func(ids []string) record.Event { return Suspended{Why: why(said), Items: ids} })
	}
	events = append(events, found.parts...)
	for _, said := range taken {
		page(found.said[said].moot, func(ids []string) record.Event { return Suspended{Why: why(said), Items: ids, Moot: true} })
	}
	for _, later := range slices.Sorted(maps.Keys(found.settled)) {
		page(found.settled[later], func(ids []string) record.Event { return Settled{Campaign: later, Items: ids} })
	}
	page(found.floor, func(ids []string) record.Event { return Escalated{Why: WhyFloor, Items: ids} })
	if !now.Before(c.Opened.Deadline) {
		page(c.unanswered(), func(ids []string) record.Event { return Escalated{Why: WhyUnanswered, Items: ids} })
	}
	return events
}

// add decides what becomes of the eligibility that one item owes: it is suspended, an entry takes note that the policy does not have it
// any more, a later campaign settled it, or the floor keeps it.
func (u *unenforced) add(c *Campaign, i *Item, said Outcome, owed []policy.Eligibility, p *policy.Policy, rooms *policy.Rooms,
	since map[policy.Eligibility]Standing) {
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
	switch whole := u.said[said]; {
	case len(take) == len(owed):
		whole.offered = append(whole.offered, i.ID)
		return
	case len(gone) == len(owed):
		whole.moot = append(whole.moot, i.ID)
		return
	}
	u.parts = append(append(u.parts, partly(why(said), i.ID, take, false)...), partly(why(said), i.ID, gone, true)...)
	if kept && i.Escalated.IsZero() {
		u.floor = append(u.floor, i.ID)
	}
	if later != nil && !kept {
		u.settled[later.ID] = append(u.settled[later.ID], i.ID)
	}
}

// unanswered is the ids of items that came to nothing, and that the daemon cannot take away.
func (c *Campaign) unanswered() (ids []string) {
	for _, i := range c.Items {
		if c.Outcome(i) == OutcomeNone && len(i.Covers) == 0 {
			ids = append(ids, i.ID)
		}
	}
	return ids
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
