package campaign

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// Plan is what a campaign is to be about. The snapshot must be durable before.
type Plan struct {
	Due      time.Time
	From     time.Time
	Until    time.Time
	Clusters []string
	Previous string
	Snapshot string
	Items    []FrozenItem
}

// Start records a campaign: by is who ordered it, nil when the schedule did. Reviewers and responders may order one.
// There is one open campaign at a time, so that no reviewer is asked the same thing twice.
func (b *Book) Start(ctx context.Context, by *record.Actor, plan Plan) (*Campaign, error) {
	if err := b.MayStart(ctx, by); err != nil {
		return nil, err
	}
	m, unlock := b.lock()
	defer unlock()
	p := b.policy.Policy()
	if err := m.noneOpen(); err != nil {
		return nil, err
	}
	if n := len(plan.Items); n > MaxCampaignItems {
		return nil, record.Refuse(record.ClassLimited, "campaign-size", "review fewer clusters at a time",
			"a campaign of %d items is too large, at most %d fit", n, MaxCampaignItems)
	}
	var reviewers []policy.FrozenTeam
	for _, id := range p.Campaign.Reviewers {
		reviewers = append(reviewers, policy.FrozenTeam{ID: id, Members: p.Members([]string{id})})
	}
	now := b.rec.Now()
	pages := pagesOf(plan.Items)
	events := []record.Event{Opened{By: by, Due: plan.Due, From: plan.From.UTC(), Until: plan.Until.UTC(),
		Clusters: slices.Sorted(slices.Values(plan.Clusters)), Previous: plan.Previous,
		Snapshot: plan.Snapshot, Items: len(plan.Items), Pages: len(pages), Reviewers: reviewers, AdminReviewers: p.Campaign.AdminReviewers,
		Deadline: now.AddDate(0, 0, p.Campaign.DeadlineDays).Truncate(time.Minute), PolicyDigest: p.Digest, Rules: RulesNow}}
	for _, page := range pages {
		events = append(events, page)
	}
	for {
		c, err := m.append(ctx, &Campaign{ID: newID(now)}, time.Time{}, nil, events...)
		if errors.Is(err, ledger.ErrConflict) {
			continue // the id is taken: the next one is not
		}
		return c, err
	}
}

// noneOpen refuses while a campaign is open.
func (m *memory) noneOpen() error {
	for id, c := range m.loaded {
		if c.Closed == nil {
			return record.Refuse(record.ClassConflict, "campaign-open", "answer it first: breakglass recert review",
				"campaign %s is still open until %s", id,
				c.Opened.Deadline.Format(time.DateOnly))
		}
	}
	return nil
}

// MayStart says whether an actor may open one now; nil is the schedule. A refusal is recorded.
func (b *Book) MayStart(ctx context.Context, by *record.Actor) error {
	p := b.policy.Policy()
	if len(p.Campaign.Reviewers) == 0 {
		return record.Refuse(record.ClassPolicy, "no-reviewers", "name reviewers under recertification in the access policy",
			"the access policy names no reviewers")
	}
	b.mu.Lock()
	err := b.memory.noneOpen()
	b.mu.Unlock()
	if by == nil {
		return err
	}
	if no := p.CheckKnown(*by); no != nil {
		err = no
	} else if !p.MayReview(by.Person) && !p.MayRespond(by.Person) {
		err = record.Refuse(record.ClassDenied, "not-reviewer", "", "only reviewers and responders can open a campaign")
	}
	return b.rec.Refused(ctx, *by, "recert-start", record.RefusalStream, err)
}

// MayRead says whether an actor may see campaigns and their reports: reviewers and responders.
func (b *Book) MayRead(ctx context.Context, a record.Actor) error {
	p := b.policy.Policy()
	err := p.CheckKnown(a)
	if err == nil && !p.MayReview(a.Person) && !p.MayRespond(a.Person) {
		err = record.Refuse(record.ClassDenied, "not-reviewer", "", "only reviewers and responders can see recertification campaigns")
	}
	return b.rec.Refused(ctx, a, "recert-read", record.RefusalStream, err)
}

// pagesOf cuts items into entries that fit into the ledger.
func pagesOf(items []FrozenItem) []Items {
	const most = ledger.MaxLeaf - 8<<10 // the rest of the entry
	var out []Items
	first, size := 0, 0
	for n := range items {
		bytes := len(record.Draft(Items{Items: items[n : n+1]}, nil).Body)
		if size > 0 && size+bytes > most {
			out = append(out, Items{First: first, Items: items[first:n]})
			first, size = n, 0
		}
		size += bytes
	}
	if first < len(items) {
		out = append(out, Items{First: first, Items: items[first:]})
	}
	return out
}

func newID(now time.Time) string {
	var b [4]byte
	rand.Read(b[:])
	for i, x := range b {
		b[i] = record.IDAlphabet[x&31]
	}
	return Stream + now.UTC().Format(time.DateOnly) + "-" + string(b[:])
}

// ValidID reports whether a text is a campaign's id in its one form.
func ValidID(id string) bool {
	rest, ok := strings.CutPrefix(id, Stream)
	if !ok || len(rest) != len("2006-01-02-xxxx") || rest[10] != '-' {
		return false
	}
	_, err := time.Parse(time.DateOnly, rest[:10])
	return err == nil && strings.Trim(rest[11:], record.IDAlphabet) == ""
}

// Answer is a reviewer's word on items, as they saw them.
type Answer struct {
	Verdict Verdict
	Items   []Judged
	Reason  string
}

// Decide records a reviewer's word. A word that was said already is no error and is not recorded again. What the word
// suspends is suspended when it returns.
func (b *Book) Decide(ctx context.Context, a record.Actor, camp string, answer Answer) (*Campaign, error) {
	answer.Reason = strings.TrimSpace(answer.Reason)
	return b.command(ctx, a, "recert-decide", camp, func(m *memory, p *policy.Policy, c *Campaign, now time.Time) (said, error) {
		since, err := m.answeredLater(ctx, c, answer.Items)
		if err != nil {
			return said{}, err
		}
		items, err := decideAnswer(p, c, a, answer, since, now)
		if err != nil {
			return said{}, err
		}
		var events []record.Event
		for part := range slices.Chunk(items, MaxTogether) {
			events = append(events, Decided{By: a, Verdict: answer.Verdict, Items: part})
		}
		return said{events, record.Optional("reason", answer.Reason)}, nil
	})
}

// decideAnswer is the pure rule for a reviewer's word: it returns what is to be recorded. Since is where eligibility came to
// something after this campaign: what was said last holds, so a word here would be recorded and mean nothing.
func decideAnswer(p *policy.Policy, c *Campaign, a record.Actor, answer Answer, since map[policy.Eligibility]Standing,
	now time.Time) ([]Judged, error) {
	if !c.Reviews(a.Person) {
		return nil, record.Refuse(record.ClassDenied, "not-reviewer", "", "%s does not review in %s: its reviewers were fixed when it opened",
			a.Person, c.ID)
	}
	if !p.MayReview(a.Person) {
		return nil, record.Refuse(record.ClassPolicy, "policy/changed", "", "the access policy has changed: you are not a reviewer any more")
	}
	if answer.Verdict != VerdictKeep && answer.Verdict != VerdictRevoke {
		return nil, record.Refuse(record.ClassInvalid, "verdict", "say keep or revoke", "%q is no verdict",
			record.Clip(string(answer.Verdict), 20))
	}
	if len(answer.Items) == 0 {
		return nil, record.Refuse(record.ClassInvalid, "items", "", "no item is named")
	}
	if len(answer.Items) > 1 && answer.Verdict == VerdictRevoke {
		return nil, record.Refuse(record.ClassInvalid, "together", "revoke one item at a time", "things are revoked one by one")
	}
	var out []Judged
	seen := map[string]bool{}
	needsReason := answer.Verdict == VerdictRevoke
	for _, j := range answer.Items {
		i, ok := c.Item(j.ID)
		switch {
		case !ok:
			return nil, record.Refuse(record.ClassUnknown, "unknown-item", "see: breakglass recert review "+c.ID, "there is no item %q in %s",
				record.Clip(j.ID, 100),
				c.ID)
		case seen[j.ID]:
			return nil, record.Refuse(record.ClassInvalid, "items", "", "%s is named twice", j.ID)
		case j.Digest != i.Digest:
			return nil, record.Refuse(record.ClassConflict, "stale", "look at it again", "%s is not what you saw", j.ID)
		case !i.Independent(a.Person):
			return nil, record.Refuse(record.ClassDenied, "own-item", "another reviewer must answer it", "%s is about you", j.ID)
		case len(answer.Items) > 1 && !i.State.Together():
			return nil, record.Refuse(record.ClassPolicy, "together", "answer it by itself",
				"%s is %s: only what is unchanged or got less can be confirmed together", j.ID, i.State)
		}
		seen[j.ID] = true
		if said, spoke := i.WordOf(a.Person); spoke && said == answer.Verdict || answer.Verdict == VerdictRevoke &&
			c.Said(i) == OutcomeRevoke {
			continue
		}
		switch {
		case replaced(i, since).In != nil:
			later := replaced(i, since)
			return nil, record.Refuse(record.ClassConflict, "settled", later.Instead(now), "%s is %s in %s, which is later", j.ID,
				later.In.Outcome(later.Item),
				later.In.ID)
		case c.Said(i) == OutcomeRevoke:
			next := "see: breakglass recert show " + c.ID
			if i.Held() {
				next = "two people can reinstate it: " + policy.Reinstating([]policy.Holding{{Campaign: c.ID, Item: j.ID}})
			}
			return nil, record.Refuse(record.ClassConflict, "decided", next, "%s is revoked already", j.ID)
		case !c.Takes(i, now) && now.Before(c.Opened.Deadline):
			return nil, record.Refuse(record.ClassConflict, "closed", string(answer.Verdict)+" it in the next one: breakglass recert start",
				"%s is closed: every item had its answer", c.ID)
		case !c.Takes(i, now):
			return nil, record.Refuse(record.ClassExpired, "deadline", "", "the time for an answer to %s was over at %s", j.ID,
				c.Opened.Deadline.Format(time.RFC3339))
		}
		needsReason = needsReason || i.High
		out = append(out, j)
	}
	switch n := utf8.RuneCountInString(answer.Reason); {
	case len(out) == 0:
	case needsReason:
		return out, record.NeedReason(answer.Reason)
	case n > record.MaxReason || record.BadText(answer.Reason) != "":
		return nil, record.Refuse(record.ClassInvalid, "reason", "", "the reason is longer than %d characters or has control characters",
			record.MaxReason)
	}
	return out, nil
}

// Acknowledge records that what was revoked has been taken away. Reviewers and responders may say so, never about
// themselves, and about a key or an account only when the access policy does not have it any more: no scan proves that. What is in
// a cluster is proved by the next one.
func (b *Book) Acknowledge(ctx context.Context, a record.Actor, camp string, ids []string, note string) (*Campaign,
	error) {
	return b.command(ctx, a, "recert-ack", camp, func(m *memory, p *policy.Policy, c *Campaign, _ time.Time) (said, error) {
		if !p.MayReview(a.Person) && !p.MayRespond(a.Person) {
			return said{}, record.Refuse(record.ClassDenied, "not-reviewer", "",
				"only reviewers and responders can say that something has been taken away")
		}
		var open []string
		for _, id := range ids {
			i, ok := c.Item(id)
			switch {
			case !ok:
				return said{}, record.Refuse(record.ClassUnknown, "unknown-item", "see: breakglass recert show "+c.ID, "there is no item %q in %s",
					record.Clip(id, 100),
					c.ID)
			case c.Said(i) != OutcomeRevoke:
				return said{}, record.Refuse(record.ClassConflict, "not-revoked", "", "%s is %s: there is nothing to take away", id, c.Outcome(i))
			case !i.Independent(a.Person):
				return said{}, record.Refuse(record.ClassDenied, "own-item", "another reviewer or responder must look, and say so",
					"%s is about you", id)
			case p.Holder(id) != "":
				return said{}, record.Refuse(record.ClassConflict, "still-there", "take it out of "+p.Holder(id)+
					"'s entry, have the daemon read the policy, and say so then", "the access policy still has %s", id)
			case p.Still(i.Member, i.Way) != "":
				return said{}, record.Refuse(record.ClassConflict, "still-there",
					"take it out of the access policy, have the daemon read that, and say so then",
					"the access policy still has %s", p.Still(i.Member, i.Way))
			case !i.Done() && !slices.Contains(open, id):
				open = append(open, id)
			}
		}
		if note != "" {
			if err := record.NeedNote(note, 1); err != nil {
				return said{}, err
			}
		}
		return said{EventsOf(open, func(ids []string) record.Event { return Acknowledged{By: a, Items: ids} }),
			record.Optional("note", note)}, nil
	})
}

// Reinstate records one person's word that a suspended eligibility comes back; it does with the second person's. Reviewers may
// say so, never about themselves.
func (b *Book) Reinstate(ctx context.Context, a record.Actor, camp, id, reason string) (*Campaign, error) {
	return b.command(ctx, a, "recert-reinstate", camp, func(m *memory, p *policy.Policy, c *Campaign, _ time.Time) (said, error) {
		i, ok := c.Item(id)
		switch {
		case !p.MayReview(a.Person):
			return said{}, record.Refuse(record.ClassDenied, "not-reviewer", "", "only reviewers can give back what was suspended")
		case !ok:
			return said{}, record.Refuse(record.ClassUnknown, "unknown-item", "see: breakglass recert show "+c.ID, "there is no item %q in %s",
				record.Clip(id, 100),
				c.ID)
		case !i.Independent(a.Person):
			return said{}, record.Refuse(record.ClassDenied, "own-item", "two other reviewers must",
				"reviewers do not give eligibility back to themselves")
		case slices.ContainsFunc(i.Back, func(w record.Ending) bool { return w.By.Person == a.Person }):
			return said{}, nil
		case !i.Held():
			set := policy.SetOf(m.held())
			for _, e := range i.Covers {
				if at := set[e]; len(at) > 0 {
					return said{}, record.Refuse(record.ClassConflict, "not-suspended", policy.Reinstating(at),
						"%s does not suspend %s by this item, but %s does", c.ID, e,
						at[0].Campaign)
				}
			}
			return said{}, record.Refuse(record.ClassConflict, "not-suspended",
				"there is nothing to give back; see what is suspended: breakglass recert show "+
					c.ID, "%s is not suspended by any campaign", id)
		}
		if err := record.NeedReason(reason); err != nil {
			return said{}, err
		}
		return said{[]record.Event{Reinstated{By: a, Items: []string{id}}}, record.Optional("reason", reason)}, nil
	})
}

// Prove records what a later scan says about things in clusters that were revoked. Ids that the campaign did not revoke
// are passed over, and so is what a scan said before. The snapshot is the digest of what the scan saw.
func (b *Book) Prove(ctx context.Context, camp, snapshot string, gone func(object string) (gone, looked bool)) (*Campaign,
	error) {
	return b.change(ctx, camp, func(_ *memory, c *Campaign, _ time.Time) (said, error) {
		var away, still []string
		for _, i := range c.Items {
			if i.Object == "" || c.Said(i) != OutcomeRevoke {
				continue
			}
			is, looked := gone(i.Object)
			switch {
			case !looked || !i.Proved.IsZero() && i.Gone == is:
			case is:
				away = append(away, i.ID)
			default:
				still = append(still, i.ID)
			}
		}
		events := EventsOf(away, func(ids []string) record.Event { return Proved{Snapshot: snapshot, Gone: ids} })
		return said{events: append(events, EventsOf(still, func(ids []string) record.Event {
			return Proved{Snapshot: snapshot, Still: ids}
		})...)}, nil
	})
}
