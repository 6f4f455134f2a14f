// Package campaign is one campaign of recertification as its entries tell it: what is reviewed, what reviewers said, what was taken away
// and given back, and what is due next. It decides nothing about a grant.
package campaign

import (
	"fmt"
	"maps"
	"slices"
	"strings"
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
func (k Closed) total() int { return k.Kept + k.Revoked + k.Suspended + k.Escalated }

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

// Apply adds one event to the fold. Like that of a request it holds for what Service writes and for what a ledger from anywhere
// claims to contain.
func (c *Campaign) Apply(e ledger.Entry, ev record.Event) error {
	if e.StreamSeq != c.Rev+1 {
		return fmt.Errorf("revision %d follows %d", e.StreamSeq, c.Rev)
	}
	if _, first := ev.(Opened); first != (c.Rev == 0) {
		return fmt.Errorf("a campaign begins with one opened entry")
	}
	if _, page := ev.(Items); c.Rev > 0 && page == (c.Pages == c.Opened.Pages) {
		return fmt.Errorf("a campaign has all its items before anything else")
	}
	var err error
	switch ev := ev.(type) {
	case Opened:
		c.Opened, c.At, c.Seq, c.index = ev, e.Time, e.Seq, map[string]int{}
		err = ev.check(e.Time)
	case Items:
		err = c.page(ev)
	case Decided:
		err = c.decided(ev, record.Ending{By: ev.By, At: e.Time, Reason: e.Texts["reason"]})
	case Suspended:
		if ev.Only != nil && len(ev.Items) != 1 {
			err = fmt.Errorf("a part of %d items is suspended", len(ev.Items))
			break
		}
		err = c.each(ev.Items, func(i *Item) error { return c.suspended(i, ev, e) })
	case Escalated:
		err = c.each(ev.Items, func(i *Item) error { return c.escalated(i, ev.Why, e) })
	case Settled:
		err = c.each(ev.Items, func(i *Item) error { return c.settled(i, ev.Campaign, e.Time) })
	case Reinstated:
		err = c.each(ev.Items, func(i *Item) error {
			return i.reinstated(record.Ending{By: ev.By, At: e.Time, Reason: e.Texts["reason"]})
		})
	case Reminded:
		switch {
		case c.Closed != nil:
			err = fmt.Errorf("closed already")
		case ev.Days < 0 || len(c.Reminded) > 0 && ev.Days >= c.Reminded[len(c.Reminded)-1]:
			err = fmt.Errorf("reminders count down")
		}
		c.Reminded = append(slices.Clone(c.Reminded), ev.Days)
	case Acknowledged:
		err = c.each(ev.Items, func(i *Item) error {
			switch {
			case c.Said(i) != OutcomeRevoke:
				return fmt.Errorf("was not revoked")
			case ev.By.Person == "":
				return fmt.Errorf("nobody acknowledges")
			case c.Opened.Rules >= rulesTwoPeople && !i.Independent(ev.By.Person):
				return fmt.Errorf("%q acknowledges what is about themselves", ev.By.Person)
			}
			i.Acknowledged = &record.Ending{By: ev.By, At: e.Time, Reason: e.Texts["note"]}
			return nil
		})
	case Proved:
		prove := func(gone bool) func(*Item) error {
			return func(i *Item) error {
				if c.Said(i) != OutcomeRevoke || i.Object == "" {
					return fmt.Errorf("is nothing that a scan could prove gone")
				}
				i.Proved, i.Gone = e.Time, gone
				return nil
			}
		}
		if err = c.each(ev.Gone, prove(true)); err == nil {
			err = c.each(ev.Still, prove(false))
		}
	case Closed:
		counts, open := c.Counts()
		switch {
		case c.Closed != nil:
			err = fmt.Errorf("closed already")
		case open > 0:
			err = fmt.Errorf("%d items came to nothing", open)
		case ev != counts || ev.total() != c.Opened.Items:
			err = fmt.Errorf("the counts %+v do not add up to %d items (%+v)", ev, c.Opened.Items, counts)
		}
		c.Closed, c.ClosedAt = &ev, e.Time
		items := make([]*Item, len(c.Items))
		for n := range c.Items {
			i := *c.Items[n]
			i.AtClose = c.Outcome(&i)
			items[n] = &i
		}
		c.Items = items
	default:
		err = fmt.Errorf("does not belong to a campaign")
	}
	if err != nil {
		return err
	}
	c.Rev = e.StreamSeq
	return nil
}

// check holds what every campaign must satisfy, whatever the policy was.
func (o Opened) check(at time.Time) error {
	switch {
	case len(o.Reviewers) == 0:
		return fmt.Errorf("no reviewers")
	case o.Rules < 0 || o.Rules > RulesNow:
		return fmt.Errorf("it goes by the rules %d, this program knows those up to %d: %w", o.Rules, RulesNow, record.ErrNewerRelease)
	case o.AdminReviewers < 1 || o.Rules >= rulesTwoPeople && o.AdminReviewers < policy.MinAdminReviewers:
		return fmt.Errorf("%d people review admin items", o.AdminReviewers)
	case !o.Deadline.After(at):
		return fmt.Errorf("the deadline is not in the future")
	case !o.From.Before(o.Until):
		return fmt.Errorf("the period has no length")
	case o.Items < 0 || o.Items > MaxCampaignItems || o.Pages < 0 || (o.Items == 0) != (o.Pages == 0):
		return fmt.Errorf("%d items on %d pages", o.Items, o.Pages)
	case !record.IsHash(o.Snapshot):
		return fmt.Errorf("no digest of the snapshot")
	}
	return nil
}

func (c *Campaign) page(p Items) error {
	if p.First != len(c.Items) || len(p.Items) == 0 || len(c.Items)+len(p.Items) > c.Opened.Items {
		return fmt.Errorf("items %d to %d follow %d of %d", p.First, p.First+len(p.Items), len(c.Items), c.Opened.Items)
	}
	for _, f := range p.Items {
		if err := f.check(); err != nil {
			return fmt.Errorf("item %q: %w", record.Clip(f.ID, 100), err)
		}
		if _, twice := c.index[f.ID]; twice {
			return fmt.Errorf("item %q is there twice", f.ID)
		}
		c.index[f.ID] = len(c.Items)
		c.Items = append(c.Items, &Item{FrozenItem: f})
	}
	c.Pages++
	if c.Pages < c.Opened.Pages {
		return nil
	}
	if len(c.Items) != c.Opened.Items {
		return fmt.Errorf("%d items of %d", len(c.Items), c.Opened.Items)
	}
	c.cover()
	return nil
}

// cover says of each item what it covers, once all items are there: the ways of its team for a place in one, the people who have
// a place in its team for a way.
func (c *Campaign) cover() {
	people, ways := map[string][]string{}, map[string][]*policy.TeamPart{} // by team
	for _, i := range c.Items {
		if i.Member != (policy.Membership{}) {
			people[i.Member.Team] = append(people[i.Member.Team], i.Member.Person)
		}
		if i.Way != nil {
			ways[i.Way.Team] = append(ways[i.Way.Team], i.Way)
		}
	}
	for _, i := range c.Items {
		who, by := []string{i.Member.Person}, ways[i.Member.Team]
		switch {
		case i.Gives != policy.Eligibility{}:
			i.Covers = []policy.Eligibility{i.Gives}
			continue
		case i.Way != nil:
			who, by = people[i.Way.Team], []*policy.TeamPart{i.Way}
		case i.Member == policy.Membership{}:
			continue
		}
		for _, w := range by {
			for _, cluster := range w.Clusters {
				for _, x := range who {
					i.Covers = append(i.Covers, policy.Eligibility{Person: x, Part: w.Part, Profile: w.Profile, Cluster: cluster})
				}
			}
		}
		slices.SortFunc(i.Covers, policy.CompareEligibility)
		i.Covers = slices.Compact(i.Covers)
	}
}

func (f FrozenItem) check() error {
	switch f.State {
	case ItemNew, ItemUnchanged, ItemWidened, ItemNarrowed, ItemOrphan, ItemDormant:
	default:
		return fmt.Errorf("state %q is unknown", f.State)
	}
	switch {
	case f.ID == "" || len(f.ID) > maxItemID || strings.ContainsAny(f.ID, " \n\t"):
		return fmt.Errorf("cannot be an id")
	case !record.IsHash(f.Digest):
		return fmt.Errorf("no digest")
	case f.Gives != (policy.Eligibility{}) && (f.Gives.Person == "" || f.Gives.Profile == "" || f.Gives.Cluster == "" ||
		f.Gives.Part != policy.PartRequester && f.Gives.Part != policy.PartApprover):
		return fmt.Errorf("half an eligibility")
	case (f.Member.Team == "") != (f.Member.Person == ""):
		return fmt.Errorf("half a place in a team")
	case f.Way != nil && (f.Way.Team == "" || f.Way.Profile == "" || len(f.Way.Clusters) == 0 || slices.Contains(f.Way.Clusters, "") ||
		f.Way.Part != policy.PartRequester && f.Way.Part != policy.PartApprover):
		return fmt.Errorf("half a way")
	}
	about := 0
	for _, is := range []bool{f.Gives != policy.Eligibility{}, f.Member != policy.Membership{}, f.Way != nil} {
		if is {
			about++
		}
	}
	if about > 1 {
		return fmt.Errorf("is about more than one thing that can be taken away")
	}
	return nil
}

// each replaces the named items by changed copies: whoever holds the campaign from before sees nothing of it.
func (c *Campaign) each(ids []string, change func(*Item) error) error {
	items := slices.Clone(c.Items)
	for _, id := range ids {
		n, ok := c.index[id]
		if !ok {
			return fmt.Errorf("there is no item %q", record.Clip(id, 100))
		}
		i := *items[n]
		i.Words, i.Earlier, i.Back = slices.Clone(i.Words), slices.Clone(i.Earlier), slices.Clone(i.Back)
		if err := change(&i); err != nil {
			return fmt.Errorf("item %s: %w", id, err)
		}
		items[n] = &i
	}
	c.Items = items
	return nil
}

func (c *Campaign) decided(ev Decided, word record.Ending) error {
	switch {
	case ev.Verdict != VerdictKeep && ev.Verdict != VerdictRevoke:
		return fmt.Errorf("verdict %q is unknown", ev.Verdict)
	case !c.Reviews(ev.By.Person):
		return fmt.Errorf("%q is not a reviewer", ev.By.Person)
	case len(ev.Items) == 0 || len(ev.Items) > MaxTogether:
		return fmt.Errorf("%d items in one decision", len(ev.Items))
	case len(ev.Items) > 1 && ev.Verdict != VerdictKeep:
		return fmt.Errorf("things are revoked one by one")
	}
	digests, ids := map[string]string{}, make([]string, len(ev.Items))
	for n, j := range ev.Items {
		ids[n] = j.ID
		if _, twice := digests[j.ID]; twice {
			return fmt.Errorf("item %q is named twice", record.Clip(j.ID, 100))
		}
		digests[j.ID] = j.Digest
	}
	return c.each(ids, func(i *Item) error {
		before, spoke := i.WordOf(ev.By.Person)
		switch {
		case digests[i.ID] != i.Digest:
			return fmt.Errorf("another digest is judged")
		case !i.Independent(ev.By.Person):
			return fmt.Errorf("%q judges what is about themselves", ev.By.Person)
		case len(ids) > 1 && !i.State.Together():
			return fmt.Errorf("%s items are answered one by one", i.State)
		case !c.Takes(i, word.At):
			return fmt.Errorf("the time for an answer is over")
		case spoke && before == ev.Verdict:
			return fmt.Errorf("%q said so already", ev.By.Person)
		case c.Said(i) == OutcomeRevoke:
			return fmt.Errorf("is revoked already")
		}
		if n := slices.IndexFunc(i.Words, func(w Word) bool { return w.By.Person == ev.By.Person }); n >= 0 {
			i.Earlier = append(i.Earlier, i.Words[n])
			i.Words = slices.Delete(i.Words, n, n+1)
		}
		i.Words = append(i.Words, Word{ev.Verdict, word})
		return nil
	})
}

func (c *Campaign) suspended(i *Item, ev Suspended, e ledger.Entry) error {
	rest := i.Rest()
	switch said := c.Said(i); {
	case len(i.Covers) == 0:
		return fmt.Errorf("is no eligibility")
	case len(rest) == 0:
		return fmt.Errorf("suspended already")
	case !i.Suspended.IsZero() && !i.Held():
		return fmt.Errorf("suspended again, but it was given back")
	case i.Settled != "":
		return fmt.Errorf("suspended, but %s has settled it", i.Settled)
	case ev.Why == WhyRevoked && said != OutcomeRevoke, ev.Why == WhyUnanswered && said != OutcomeNone:
		return fmt.Errorf("suspended as %s but %s", ev.Why, said)
	case ev.Why == WhyUnanswered && e.Time.Before(c.Opened.Deadline):
		return fmt.Errorf("suspended before the deadline")
	case ev.Why != WhyRevoked && ev.Why != WhyUnanswered:
		return fmt.Errorf("suspended for %q", ev.Why)
	}
	if ev.Only != nil {
		part, err := policy.PartOf(rest, ev.Only)
		if err != nil {
			return err
		}
		rest = part
	}
	for _, x := range rest {
		i.Taken = append(i.Taken, Taken{x, e.Seq, ev.Why})
	}
	if i.Suspended.IsZero() {
		i.Suspended, i.SuspendedWhy = e.Time, ev.Why
	}
	return nil
}

func (c *Campaign) escalated(i *Item, why string, e ledger.Entry) error {
	said := c.Said(i)
	switch {
	case !i.Escalated.IsZero() || i.whole():
		return fmt.Errorf("escalated or suspended already")
	case why != WhyUnanswered && why != WhyFloor:
		return fmt.Errorf("escalated for %q", why)
	case said == OutcomeKeep || said == OutcomeRevoke && why != WhyFloor:
		return fmt.Errorf("escalated but %s", said)
	case said == OutcomeNone && e.Time.Before(c.Opened.Deadline):
		return fmt.Errorf("escalated before the deadline")
	case (why == WhyFloor) != (len(i.Covers) > 0):
		return fmt.Errorf("escalated for the wrong reason")
	}
	i.Escalated, i.EscalatedSeq, i.EscalatedWhy = e.Time, e.Seq, why
	return nil
}

// settled takes a debt off a campaign: a later one came to something about the same eligibility, and that holds.
func (c *Campaign) settled(i *Item, by string, at time.Time) error {
	switch {
	case by == c.ID || !IDPattern().MatchString(by):
		return fmt.Errorf("settled by %q, which is no other campaign", record.Clip(by, 60))
	case c.Closed == nil:
		return fmt.Errorf("settled by %s while the campaign is open", by)
	case len(i.Covers) == 0 || i.Escalated.IsZero() || i.whole() || i.Settled != "" || c.Said(i) == OutcomeKeep:
		return fmt.Errorf("settled, but no suspension is owed")
	}
	i.Settled, i.SettledAt = by, at
	return nil
}

func (i *Item) reinstated(word record.Ending) error {
	switch {
	case !i.Held():
		return fmt.Errorf("is not suspended")
	case !i.Independent(word.By.Person):
		return fmt.Errorf("%q cannot reinstate it", word.By.Person)
	case slices.ContainsFunc(i.Back, func(w record.Ending) bool { return w.By.Person == word.By.Person }):
		return fmt.Errorf("%q said so already", word.By.Person)
	}
	i.Back = append(i.Back, word)
	return nil
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
