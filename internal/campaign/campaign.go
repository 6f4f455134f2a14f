// Package campaign is recertification: what each campaign reviews, what reviewers said, what is due, and what is suspended by it. It
// decides nothing about a grant.
//
// A campaign is the fold of a stream of its own. It asks reviewers about every person's eligibility and about what else could let a
// person into a cluster. What a reviewer takes away, and what no reviewer confirms by the deadline, is suspended:
// [policy.Policy.Suspended] is part of the policy that every decision goes by. A floor keeps that from shutting the emergency door: a
// suspension that would leave fewer approvers than the quorum and one more, or fewer than two people who may ask, is not in force,
// whatever decided it and whatever policy came since, and is a finding instead. Two people give back what was suspended. A campaign
// closes only when its counts add up.
package campaign

import (
	"fmt"
	"slices"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// MinReinstate is how many different people bring suspended eligibility back. It is compiled in, like MinQuorum.
const MinReinstate = 2

// The rules that a campaign goes by, as Opened says. One that was opened by earlier rules is checked by those.
const (
	rulesTwoPeople = 1 // MinAdminReviewers, and nobody acknowledges what is about themselves
	RulesNow       = rulesTwoPeople
)

// The bounds of a campaign.
const (
	MaxCampaignItems = 100_000 // more than any cluster of the size that Kubernetes supports gave
	MaxTogether      = 100     // items in one decision: with the longest ids, far below what one ledger entry holds
	maxItemID        = 300     // bytes
)

// Campaign is the fold of one campaign's ledger entries. It is a value computed from facts; changing it changes nothing.
type Campaign struct {
	ID       string
	Rev      int64
	Seq      int64 // ledger index of the opened entry
	At       time.Time
	Opened   Opened
	Items    []*Item // in the order of the snapshot
	Reminded []int   // days, as they were recorded
	Closed   *Closed
	ClosedAt time.Time

	Pages int
	index map[string]int // of Items by id; never changed once all pages are there
}

// Item is one thing under review and what became of it.
type Item struct {
	FrozenItem
	Words        []Word               // everybody's last word, in order
	Earlier      []Word               // words that the same person replaced later, in order
	AtClose      Outcome              // what it came to when the campaign closed; empty: it is open
	Covers       []policy.Eligibility // what a revoke or silence suspends, sorted; empty: nothing that the daemon can take away
	Taken        []Taken              // what of it was suspended, in the order of the ledger
	Suspended    time.Time            // when the first of it was; zero: nothing was
	SuspendedWhy string
	Back         []record.Ending // the words that give it back, since it was suspended
	Escalated    time.Time       // zero: never
	EscalatedSeq int64           // ledger index of the entry that did it
	EscalatedWhy string
	Settled      string // id of a later campaign in which the same eligibility came to something; empty: none
	SettledAt    time.Time
	Acknowledged *record.Ending
	Proved       time.Time // of the last scan that looked for it; zero: none has
	Gone         bool      // what that scan said
}

// Taken is eligibility that was suspended.
type Taken struct {
	policy.Eligibility
	Seq int64 // ledger index of the entry that did it
	Why string
}

// Word is a reviewer's verdict.
type Word struct {
	Verdict Verdict
	record.Ending
}

// Outcome is what a campaign's item came to.
type Outcome string

// The outcomes.
const (
	OutcomeNone      Outcome = "open"
	OutcomeKeep      Outcome = "kept"
	OutcomeRevoke    Outcome = "revoked"
	OutcomeSuspended Outcome = "suspended" // by silence
	OutcomeEscalated Outcome = "escalated" // by silence
)

// Need is how many people must say keep. A reviewer's word does not count for what the reviewer has: where one of those who said keep
// is among the people of a way, it takes one more, so that each of these is confirmed by enough others.
func (c *Campaign) Need(i *Item) int {
	n := 1
	if i.Admin {
		n = c.Opened.AdminReviewers
	}
	return n + own(i, i.Words, func(w Word) string { return w.By.Person })
}

// NeedBack is how many people must say that what is suspended comes back; as with Need, a reviewer's word does not count for the reviewer.
func (i *Item) NeedBack() int {
	return MinReinstate + own(i, i.Back, func(w record.Ending) string { return w.By.Person })
}

// own is 1 if one of those who spoke has something by the item.
func own[T any](i *Item, words []T, by func(T) string) int {
	if i.Way != nil && slices.ContainsFunc(words, func(w T) bool { return i.gives(by(w)) }) {
		return 1
	}
	return 0
}

// gives reports whether the person has something by the item.
func (i *Item) gives(person string) bool {
	return slices.ContainsFunc(i.Covers, func(e policy.Eligibility) bool { return e.Person == person })
}

// Said is what the reviewers' words come to: one revoke is enough, a keep may take more than one.
func (c *Campaign) Said(i *Item) Outcome {
	keeps := 0
	for _, w := range i.Words {
		if w.Verdict == VerdictRevoke {
			return OutcomeRevoke
		}
		keeps++
	}
	if keeps >= c.Need(i) {
		return OutcomeKeep
	}
	return OutcomeNone
}

// Outcome is what an item came to so far: the reviewers' words, or what silence did.
func (c *Campaign) Outcome(i *Item) Outcome {
	switch said := c.Said(i); {
	case said != OutcomeNone:
		return said
	case !i.Suspended.IsZero() && (i.whole() || i.Escalated.IsZero()):
		return OutcomeSuspended
	case !i.Escalated.IsZero():
		return OutcomeEscalated
	}
	return OutcomeNone
}

// whole reports whether all that the item covers was suspended.
func (i *Item) whole() bool { return len(i.Covers) > 0 && len(i.Taken) == len(i.Covers) }

// Held reports whether eligibility of the item is suspended and has not been given back.
func (i *Item) Held() bool { return !i.Suspended.IsZero() && len(i.Back) < i.NeedBack() }

// Rest is what the item covers and was not suspended.
func (i *Item) Rest() []policy.Eligibility {
	if len(i.Taken) == 0 {
		return i.Covers
	}
	taken := make(map[policy.Eligibility]bool, len(i.Taken))
	for _, t := range i.Taken {
		taken[t.Eligibility] = true
	}
	return slices.DeleteFunc(slices.Clone(i.Covers), func(e policy.Eligibility) bool { return taken[e] })
}

// Item finds an item by id.
func (c *Campaign) Item(id string) (*Item, bool) {
	n, ok := c.index[id]
	if !ok {
		return nil, false
	}
	return c.Items[n], true
}

// Counts is what the items came to so far; Open is those that came to nothing yet.
func (c *Campaign) Counts() (counts Closed, open int) {
	for _, i := range c.Items {
		switch c.Outcome(i) {
		case OutcomeKeep:
			counts.Kept++
		case OutcomeRevoke:
			counts.Revoked++
		case OutcomeSuspended:
			counts.Suspended++
		case OutcomeEscalated:
			counts.Escalated++
		case OutcomeNone:
			open++
		}
	}
	return counts, open
}

// total is what a closed campaign must add up to.
func (ev Closed) total() int { return ev.Kept + ev.Revoked + ev.Suspended + ev.Escalated }

// Reviews reports whether somebody is a reviewer of the campaign.
func (c *Campaign) Reviews(person string) bool {
	return slices.ContainsFunc(c.Opened.Reviewers, func(t policy.FrozenTeam) bool { return slices.Contains(t.Members, person) })
}

// Reviewers lists everybody who may answer, sorted.
func (c *Campaign) Reviewers() []string {
	var out []string
	for _, t := range c.Opened.Reviewers {
		out = append(out, t.Members...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Independent reports whether the item is not about the person.
func (i *Item) Independent(person string) bool {
	return person != "" && !slices.Contains(i.Not, person) && i.Gives.Person != person && i.Member.Person != person
}

// Done reports whether somebody whom the item is not about has said that it was taken away.
func (i *Item) Done() bool {
	return i.Acknowledged != nil && i.Independent(i.Acknowledged.By.Person)
}

// WordOf is what somebody said about the item, and whether they said anything.
func (i *Item) WordOf(person string) (Verdict, bool) {
	n := slices.IndexFunc(i.Words, func(w Word) bool { return w.By.Person == person })
	if n < 0 {
		return "", false
	}
	return i.Words[n].Verdict, true
}

// Waits reports whether the item waits for this person's word at a time: it has no answer, or a late one is still wanted, and
// the person may give it and has not.
func (c *Campaign) Waits(i *Item, person string, now time.Time) bool {
	if !c.Reviews(person) || !i.Independent(person) || c.Said(i) != OutcomeNone || !c.Takes(i, now) {
		return false
	}
	_, done := i.WordOf(person)
	return !done
}

// Takes reports whether words on an item still count: until the deadline, and afterwards on what was escalated.
func (c *Campaign) Takes(i *Item, now time.Time) bool {
	return c.Closed == nil && now.Before(c.Opened.Deadline) || !i.Escalated.IsZero() && i.Settled == ""
}

// Held lists what the campaign keeps suspended.
func (c *Campaign) Held() []policy.Holding {
	var out []policy.Holding
	for _, i := range c.Items {
		if i.Held() {
			for _, t := range i.Taken {
				out = append(out, policy.Holding{Eligibility: t.Eligibility, Campaign: c.ID, Item: i.ID})
			}
		}
	}
	return out
}

// Holds reports whether the campaign keeps something suspended.
func (c *Campaign) Holds() bool { return slices.ContainsFunc(c.Items, (*Item).Held) }

// Came says of eligibility which item decided what became of it here. What several items cover came to something when one of
// them took it away, or could not, or when all were kept.
func (c *Campaign) Came() map[policy.Eligibility]*Item {
	out, open := map[policy.Eligibility]*Item{}, map[policy.Eligibility]bool{}
	for _, i := range c.Items {
		outcome := c.Outcome(i)
		for _, e := range i.Covers {
			switch before := out[e]; {
			case outcome == OutcomeNone:
				open[e] = true
			case outcome != OutcomeKeep, before == nil:
				out[e] = i
			}
		}
	}
	for e := range open {
		if i := out[e]; i != nil && c.Outcome(i) == OutcomeKeep {
			delete(out, e)
		}
	}
	return out
}

// owed lists what of the item should be suspended and never was: the floor kept it, or nobody got to it yet. What a later
// campaign came to about it is what holds then, and so is what people gave back.
func (c *Campaign) owed(i *Item, now time.Time) []policy.Eligibility {
	if len(i.Covers) == 0 || i.Settled != "" || !i.Suspended.IsZero() && !i.Held() {
		return nil
	}
	said := c.Said(i)
	if said == OutcomeRevoke || said == OutcomeNone && !now.Before(c.Opened.Deadline) {
		return i.Rest()
	}
	return nil
}

// Unsettled lists the escalated items that still need somebody: those without an answer, and those that were revoked and are
// kept by the floor.
func (c *Campaign) Unsettled() []*Item {
	var out []*Item
	for _, i := range c.Items {
		said := c.Said(i)
		over := i.whole() || !i.Suspended.IsZero() && !i.Held() || i.Settled != ""
		if !i.Escalated.IsZero() && !over && (said == OutcomeNone || said == OutcomeRevoke && i.EscalatedWhy == WhyFloor) {
			out = append(out, i)
		}
	}
	return out
}

// Owes reports whether the campaign has ended and left a suspension owed.
func (c *Campaign) Owes() bool {
	return c.Closed != nil && slices.ContainsFunc(c.Unsettled(), func(i *Item) bool { return len(i.Covers) > 0 })
}

// Index is the campaign's rows in the rebuildable index.
func Index(c *Campaign) []ledger.Tag {
	tags := []ledger.Tag{{Name: "campaign", Value: "1"}}
	if c.Closed == nil {
		tags = append(tags, ledger.Tag{Name: "campaign-open", Value: "1"})
	}
	if c.Holds() {
		tags = append(tags, ledger.Tag{Name: "suspends", Value: "1"})
	}
	if len(c.Unsettled()) > 0 {
		tags = append(tags, ledger.Tag{Name: "unsettled", Value: "1"})
	}
	return tags
}

// Fold computes a campaign from its stream. It accepts only what could have been written.
func Fold(entries []ledger.Entry) (*Campaign, error) {
	if len(entries) == 0 {
		return nil, fmt.Errorf("empty stream")
	}
	c := &Campaign{ID: entries[0].Stream}
	for _, e := range entries {
		ev, err := Kinds.Decode(e)
		if err != nil {
			return nil, err
		}
		if err := c.Apply(e, ev); err != nil {
			return nil, fmt.Errorf("ledger entry %d (%s) of %s: %w", e.Seq, e.Kind, e.Stream, err)
		}
	}
	if c.Pages != c.Opened.Pages {
		return nil, fmt.Errorf("%s has %d of %d pages of items", c.ID, c.Pages, c.Opened.Pages)
	}
	return c, nil
}
