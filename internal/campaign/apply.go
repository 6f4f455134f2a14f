package campaign

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// This file is what each event does to a campaign. The rules hold for what is written and for what a ledger from anywhere claims to
// contain.

// campaignEvent is an event of a campaign's stream. Kinds takes no other type: an event without a rule does not compile.
type campaignEvent interface {
	record.Event
	// applyTo changes the campaign, or returns an error and changes nothing. The entry is the event's; its number in the stream and its
	// place after the pages of items have been checked.
	applyTo(c *Campaign, e ledger.Entry) error
}

// Apply adds one event to the fold. An event that cannot follow is an error and changes nothing.
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
	rule, ok := ev.(campaignEvent)
	if !ok {
		return fmt.Errorf("does not belong to a campaign")
	}
	if err := rule.applyTo(c, e); err != nil {
		return err
	}
	c.Rev = e.StreamSeq
	return nil
}

// applyTo holds what every campaign must satisfy, whatever the policy was.
func (ev Opened) applyTo(c *Campaign, e ledger.Entry) error {
	switch {
	case len(ev.Reviewers) == 0:
		return fmt.Errorf("no reviewers")
	case ev.Rules < 0 || ev.Rules > RulesNow:
		return fmt.Errorf("it goes by the rules %d, this program knows those up to %d: %w", ev.Rules, RulesNow, record.ErrNewerRelease)
	case ev.AdminReviewers < 1 || ev.Rules >= rulesTwoPeople && ev.AdminReviewers < policy.MinAdminReviewers:
		return fmt.Errorf("%d people review admin items", ev.AdminReviewers)
	case !ev.Deadline.After(e.Time):
		return fmt.Errorf("the deadline is not in the future")
	case !ev.From.Before(ev.Until):
		return fmt.Errorf("the period has no length")
	case ev.Items < 0 || ev.Items > MaxCampaignItems || ev.Pages < 0 || (ev.Items == 0) != (ev.Pages == 0):
		return fmt.Errorf("%d items on %d pages", ev.Items, ev.Pages)
	case !record.IsHash(ev.Snapshot):
		return fmt.Errorf("no digest of the snapshot")
	}
	c.Opened, c.At, c.Seq, c.index = ev, e.Time, e.Seq, map[string]int{}
	return nil
}

func (ev Items) applyTo(c *Campaign, _ ledger.Entry) error {
	all := len(c.Items) + len(ev.Items)
	if ev.First != len(c.Items) || len(ev.Items) == 0 || all > c.Opened.Items {
		return fmt.Errorf("items %d to %d follow %d of %d", ev.First, ev.First+len(ev.Items), len(c.Items), c.Opened.Items)
	}
	here := make(map[string]bool, len(ev.Items))
	for _, f := range ev.Items {
		if err := f.check(); err != nil {
			return fmt.Errorf("item %q: %w", record.Clip(f.ID, 100), err)
		}
		if _, twice := c.index[f.ID]; twice || here[f.ID] {
			return fmt.Errorf("item %q is there twice", f.ID)
		}
		here[f.ID] = true
	}
	last := c.Pages+1 == c.Opened.Pages
	if last && all != c.Opened.Items {
		return fmt.Errorf("%d items of %d", all, c.Opened.Items)
	}
	for _, f := range ev.Items {
		c.index[f.ID] = len(c.Items)
		c.Items = append(c.Items, &Item{FrozenItem: f})
	}
	if c.Pages++; last {
		c.cover()
	}
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

func (ev Decided) applyTo(c *Campaign, e ledger.Entry) error {
	word := record.Ending{By: ev.By, At: e.Time, Reason: e.Texts["reason"]}
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

func (ev Suspended) applyTo(c *Campaign, e ledger.Entry) error {
	if ev.Only != nil && len(ev.Items) != 1 {
		return fmt.Errorf("a part of %d items is suspended", len(ev.Items))
	}
	return c.each(ev.Items, func(i *Item) error { return c.suspended(i, ev, e) })
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

func (ev Escalated) applyTo(c *Campaign, e ledger.Entry) error {
	return c.each(ev.Items, func(i *Item) error { return c.escalated(i, ev.Why, e) })
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

func (ev Settled) applyTo(c *Campaign, e ledger.Entry) error {
	return c.each(ev.Items, func(i *Item) error { return c.settled(i, ev.Campaign, e.Time) })
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

func (ev Reinstated) applyTo(c *Campaign, e ledger.Entry) error {
	return c.each(ev.Items, func(i *Item) error {
		return i.reinstated(record.Ending{By: ev.By, At: e.Time, Reason: e.Texts["reason"]})
	})
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

func (ev Reminded) applyTo(c *Campaign, _ ledger.Entry) error {
	switch {
	case c.Closed != nil:
		return fmt.Errorf("closed already")
	case ev.Days < 0 || len(c.Reminded) > 0 && ev.Days >= c.Reminded[len(c.Reminded)-1]:
		return fmt.Errorf("reminders count down")
	}
	c.Reminded = append(slices.Clone(c.Reminded), ev.Days)
	return nil
}

func (ev Acknowledged) applyTo(c *Campaign, e ledger.Entry) error {
	return c.each(ev.Items, func(i *Item) error {
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
}

func (ev Proved) applyTo(c *Campaign, e ledger.Entry) error {
	prove := func(gone bool) func(*Item) error {
		return func(i *Item) error {
			if c.Said(i) != OutcomeRevoke || i.Object == "" {
				return fmt.Errorf("is nothing that a scan could prove gone")
			}
			i.Proved, i.Gone = e.Time, gone
			return nil
		}
	}
	before := c.Items
	err := c.each(ev.Gone, prove(true))
	if err == nil {
		err = c.each(ev.Still, prove(false))
	}
	if err != nil {
		c.Items = before
	}
	return err
}

func (ev Closed) applyTo(c *Campaign, e ledger.Entry) error {
	counts, open := c.Counts()
	switch {
	case c.Closed != nil:
		return fmt.Errorf("closed already")
	case open > 0:
		return fmt.Errorf("%d items came to nothing", open)
	case ev != counts || ev.total() != c.Opened.Items:
		return fmt.Errorf("the counts %+v do not add up to %d items (%+v)", ev, c.Opened.Items, counts)
	}
	items := make([]*Item, len(c.Items))
	for n := range c.Items {
		i := *c.Items[n]
		i.AtClose = c.Outcome(&i)
		items[n] = &i
	}
	c.Closed, c.ClosedAt, c.Items = &ev, e.Time, items
	return nil
}
