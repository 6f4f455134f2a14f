package breakglass

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// checkRecertification is the check that findings about campaigns come from.
const checkRecertification = "recertification"

// campaigns is what the service keeps of campaigns in memory. It is a cache of the ledger.
type campaigns struct {
	mu sync.Mutex // held over every append to a campaign and every change of policy: what is enforced is what is recorded
	// the open ones, those that suspend somebody, those with something unsettled, and what came after one that owes
	loaded map[string]*campaign.Campaign
	wake   chan struct{} // a token when loaded changed
}

// loadCampaigns reads the campaigns that still have an effect.
func (s *Service) loadCampaigns(ctx context.Context) error {
	s.campaigns.loaded, s.campaigns.wake = map[string]*campaign.Campaign{}, make(chan struct{}, 1)
	for _, tag := range []string{"campaign-open", "suspends", "unsettled"} {
		ids, err := s.ledger.Streams(ctx, ledger.Tag{Name: tag, Value: "1"})
		if err != nil {
			return fmt.Errorf("reading the index of campaigns: %w", err)
		}
		for _, id := range ids {
			if s.campaigns.loaded[id] != nil {
				continue
			}
			c, err := s.readCampaign(ctx, id)
			if err != nil {
				return err
			}
			s.campaigns.loaded[id] = c
		}
	}
	return s.loadLater(ctx)
}

// loadLater reads the campaigns after the first one that still owes a suspension: what was answered there settles it.
func (s *Service) loadLater(ctx context.Context) error {
	ids, err := s.CampaignIDs(ctx)
	if err != nil {
		return err
	}
	owing := false
	for _, id := range ids {
		c := s.campaigns.loaded[id]
		if c == nil && owing {
			if c, err = s.readCampaign(ctx, id); err != nil {
				return err
			}
			s.campaigns.loaded[id] = c
		}
		owing = owing || c != nil && c.Owes()
	}
	return nil
}

func (s *Service) readCampaign(ctx context.Context, id string) (*campaign.Campaign, error) {
	entries, err := s.ledger.Stream(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("reading campaign %s: %w", id, err)
	}
	if len(entries) == 0 {
		return nil, record.Refuse(record.ClassUnknown, "unknown-campaign", "see: breakglass recert list", "there is no campaign %s",
			record.Clip(id, 60))
	}
	return campaign.Fold(entries)
}

// inOrder lists what is loaded, the oldest first. Called with mu held.
func (k *campaigns) inOrder() []*campaign.Campaign {
	return slices.SortedFunc(maps.Values(k.loaded), func(a, b *campaign.Campaign) int { return cmp.Compare(a.Seq, b.Seq) })
}

// held lists everything that any campaign keeps suspended, the oldest campaign first. Called with mu held.
func (k *campaigns) held() []policy.Holding {
	var out []policy.Holding
	for _, c := range k.inOrder() {
		out = append(out, c.Held()...)
	}
	return out
}

// standings says of eligibility where it came to something last, in campaigns from the oldest on.
func standings(campaigns []*campaign.Campaign) map[policy.Eligibility]campaign.Standing {
	out := map[policy.Eligibility]campaign.Standing{}
	for _, c := range campaigns {
		for e, i := range c.Came() {
			out[e] = campaign.Standing{In: c, Item: i}
		}
	}
	return out
}

// replaced says where later campaigns came to something about all that is left of an item; none if something is left to this one.
func replaced(i *campaign.Item, since map[policy.Eligibility]campaign.Standing) (later campaign.Standing) {
	for _, e := range i.Rest() {
		at := since[e]
		if at.In == nil {
			return campaign.Standing{}
		}
		if later.In == nil || at.In.Seq > later.In.Seq {
			later = at
		}
	}
	return later
}

// answeredSince says of eligibility where it came to something last after this campaign. Only a campaign that owes a suspension
// needs to know, and what comes after one of those is in memory. Called with mu held.
func (k *campaigns) answeredSince(c *campaign.Campaign) map[policy.Eligibility]campaign.Standing {
	if !c.Owes() {
		return nil
	}
	return standings(slices.DeleteFunc(k.inOrder(), func(x *campaign.Campaign) bool { return x.Seq <= c.Seq }))
}

// answeredLater says the same to somebody who answers items of a campaign that has ended. It reads the ledger for what is not in
// memory: a late word can make a campaign owe again what it did not owe when the later ones were dropped. Called with mu held.
func (s *Service) answeredLater(ctx context.Context, c *campaign.Campaign,
	items []campaign.Judged) (map[policy.Eligibility]campaign.Standing, error) {
	late := func(j campaign.Judged) bool {
		i, ok := c.Item(j.ID)
		return ok && len(i.Covers) > 0 && !i.Escalated.IsZero()
	}
	if c.Closed == nil || !slices.ContainsFunc(items, late) {
		return nil, nil // one campaign is open at a time: none is later. Of one that ended, only what was escalated takes a word
	}
	ids, err := s.CampaignIDs(ctx)
	if err != nil {
		return nil, err
	}
	var after []*campaign.Campaign
	for _, id := range ids[slices.Index(ids, c.ID)+1:] {
		x := s.campaigns.loaded[id]
		if x == nil {
			if x, err = s.readCampaign(ctx, id); err != nil {
				return nil, err
			}
		}
		after = append(after, x)
	}
	return standings(after), nil
}

// keep puts a campaign into memory as it was just written or read, and what it suspends in force. Called with mu and inForce held.
func (s *Service) keep(c *campaign.Campaign) {
	after := slices.ContainsFunc(s.campaigns.inOrder(), func(x *campaign.Campaign) bool { return x.Seq < c.Seq && x.Owes() })
	if c.Closed == nil || c.Holds() || len(c.Unsettled()) > 0 || after {
		s.campaigns.loaded[c.ID] = c
	} else {
		delete(s.campaigns.loaded, c.ID)
	}
	s.policy.Store(s.Policy().Suspending(s.campaigns.held()))
	s.campaigns.changed()
}

// reread is for after a conflict: somebody else wrote, or the deadline passed meanwhile. A campaign that cannot be read stays as
// it was known: whatever happens, it must not drop out of what is tended. Called with mu held.
func (s *Service) reread(ctx context.Context, id string) (*campaign.Campaign, error) {
	c, err := s.readCampaign(ctx, id)
	if err != nil {
		return nil, err
	}
	s.inForce.Lock()
	defer s.inForce.Unlock()
	s.keep(c)
	return c, nil
}

// enforce records a policy and puts it in force, with what is suspended taken away. No decision falls in between: one that was
// taken by the policy before is recorded before it. record returns the policy in force from then on.
func (s *Service) enforce(record func() (*policy.Policy, error)) error {
	s.campaigns.mu.Lock()
	defer s.campaigns.mu.Unlock()
	s.inForce.Lock()
	defer s.inForce.Unlock()
	p, err := record()
	if err != nil {
		return err
	}
	s.policy.Store(p.Suspending(s.campaigns.held()))
	s.campaigns.changed()
	return nil
}

func (k *campaigns) changed() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// CampaignPlan is what a campaign is to be about. The snapshot must be durable before.
type CampaignPlan struct {
	Due      time.Time
	From     time.Time
	Until    time.Time
	Clusters []string
	Previous string
	Snapshot string
	Items    []campaign.FrozenItem
}

// OpenCampaign records a campaign: by is who ordered it, nil when the schedule did. Reviewers and responders may order one.
// There is one open campaign at a time, so that nobody is asked the same thing twice.
func (s *Service) OpenCampaign(ctx context.Context, by *record.Actor, plan CampaignPlan) (*campaign.Campaign, error) {
	if err := s.MayOpenCampaign(ctx, by); err != nil {
		return nil, err
	}
	s.campaigns.mu.Lock()
	defer s.campaigns.mu.Unlock()
	p := s.Policy()
	if err := s.campaigns.noneOpen(); err != nil {
		return nil, err
	}
	if n := len(plan.Items); n > campaign.MaxCampaignItems {
		return nil, record.Refuse(record.ClassLimited, "campaign-size", "review fewer clusters at a time",
			"a campaign of %d items is too large, at most %d fit", n, campaign.MaxCampaignItems)
	}
	var reviewers []policy.FrozenTeam
	for _, id := range p.Campaign.Reviewers {
		reviewers = append(reviewers, policy.FrozenTeam{ID: id, Members: p.Members([]string{id})})
	}
	now := s.now()
	pages := pagesOf(plan.Items)
	events := []record.Event{campaign.Opened{By: by, Due: plan.Due, From: plan.From.UTC(), Until: plan.Until.UTC(),
		Clusters: slices.Sorted(slices.Values(plan.Clusters)), Previous: plan.Previous,
		Snapshot: plan.Snapshot, Items: len(plan.Items), Pages: len(pages), Reviewers: reviewers, AdminReviewers: p.Campaign.AdminReviewers,
		Deadline: now.AddDate(0, 0, p.Campaign.DeadlineDays).Truncate(time.Minute), PolicyDigest: p.Digest, Rules: campaign.RulesNow}}
	for _, page := range pages {
		events = append(events, page)
	}
	for {
		c, err := s.appendCampaign(ctx, &campaign.Campaign{ID: newCampaignID(now)}, time.Time{}, nil, events...)
		if errors.Is(err, ledger.ErrConflict) {
			continue // the id is taken: the next one is not
		}
		return c, err
	}
}

// noneOpen refuses while a campaign is open. Called with mu held.
func (k *campaigns) noneOpen() error {
	for id, c := range k.loaded {
		if c.Closed == nil {
			return record.Refuse(record.ClassConflict, "campaign-open", "answer it first: breakglass recert review",
				"campaign %s is still open until %s", id,
				c.Opened.Deadline.Format(time.DateOnly))
		}
	}
	return nil
}

// MayOpenCampaign says whether somebody may open one now; nil is the schedule. A refusal is recorded.
func (s *Service) MayOpenCampaign(ctx context.Context, by *record.Actor) error {
	p := s.Policy()
	if len(p.Campaign.Reviewers) == 0 {
		return record.Refuse(record.ClassPolicy, "no-reviewers", "name reviewers under recertification in the access policy",
			"nobody recertifies here")
	}
	s.campaigns.mu.Lock()
	err := s.campaigns.noneOpen()
	s.campaigns.mu.Unlock()
	if by == nil {
		return err
	}
	if no := known(p, *by); no != nil {
		err = no
	} else if !p.MayReview(by.Person) && !p.MayRespond(by.Person) {
		err = record.Refuse(record.ClassDenied, "not-reviewer", "", "only reviewers and responders can open a campaign")
	}
	return s.recordRefusal(ctx, *by, "recert-start", RefusalStream, err)
}

// MayRead says whether somebody may see campaigns and their reports: reviewers and responders.
func (s *Service) MayRead(ctx context.Context, a record.Actor) error {
	p := s.Policy()
	err := known(p, a)
	if err == nil && !p.MayReview(a.Person) && !p.MayRespond(a.Person) {
		err = record.Refuse(record.ClassDenied, "not-reviewer", "", "only reviewers and responders can see recertification campaigns")
	}
	return s.recordRefusal(ctx, a, "recert-read", RefusalStream, err)
}

// pagesOf cuts items into entries that fit into the ledger.
func pagesOf(items []campaign.FrozenItem) []campaign.Items {
	const most = ledger.MaxLeaf - 8<<10 // the rest of the entry
	var out []campaign.Items
	first, size := 0, 0
	for n := range items {
		bytes := len(record.Draft(campaign.Items{Items: items[n : n+1]}, nil).Body)
		if size > 0 && size+bytes > most {
			out = append(out, campaign.Items{First: first, Items: items[first:n]})
			first, size = n, 0
		}
		size += bytes
	}
	if first < len(items) {
		out = append(out, campaign.Items{First: first, Items: items[first:]})
	}
	return out
}

func newCampaignID(now time.Time) string {
	var b [4]byte
	rand.Read(b[:])
	for i, x := range b {
		b[i] = idAlphabet[x&31]
	}
	return campaign.Stream + now.UTC().Format(time.DateOnly) + "-" + string(b[:])
}

// ValidCampaignID reports whether a text is a campaign's id in its one form.
func ValidCampaignID(id string) bool {
	rest, ok := strings.CutPrefix(id, campaign.Stream)
	if !ok || len(rest) != len("2006-01-02-xxxx") || rest[10] != '-' {
		return false
	}
	_, err := time.Parse(time.DateOnly, rest[:10])
	return err == nil && strings.Trim(rest[11:], idAlphabet) == ""
}

// appendCampaign records events of a campaign that was read at c.Rev, puts what they suspend in force, and returns the campaign
// after them. Called with mu held. The texts go with every event that a person gave.
func (s *Service) appendCampaign(ctx context.Context, c *campaign.Campaign, before time.Time, texts map[string]string,
	events ...record.Event) (*campaign.Campaign,
	error) {
	preview := c.Copied()
	drafts := make([]ledger.Draft, len(events))
	at := s.now()
	for i, ev := range events {
		drafts[i] = record.Draft(ev, texts)
		drafts[i].Before = before
		e := ledger.Entry{Stream: c.ID, StreamSeq: preview.Rev + 1, Kind: ev.Kind(), Time: at, Body: drafts[i].Body, Texts: texts}
		if err := preview.Apply(e, ev); err != nil {
			return nil, fmt.Errorf("%s: %s would not be valid: %w", c.ID, ev.Kind(), err)
		}
	}
	s.inForce.Lock()
	defer s.inForce.Unlock()
	entries, err := s.ledger.Append(ctx, at, c.ID, c.Rev, campaign.Index(preview), drafts...)
	if err != nil {
		return nil, err
	}
	done := c.Copied()
	for i, e := range entries {
		if err := done.Apply(e, events[i]); err != nil {
			return nil, fmt.Errorf("%s: recorded, but not valid: %w", c.ID, err)
		}
	}
	s.keep(done)
	return done, nil
}

// Campaign returns one campaign by id, by a unique beginning or end of one, or, for the empty string, the last one.
func (s *Service) Campaign(ctx context.Context, typed string) (*campaign.Campaign, error) {
	id, err := s.resolveCampaign(ctx, typed)
	if err != nil {
		return nil, err
	}
	s.campaigns.mu.Lock()
	c := s.campaigns.loaded[id]
	s.campaigns.mu.Unlock()
	if c != nil {
		return c, nil
	}
	return s.readCampaign(ctx, id)
}

// CampaignIDs lists all campaigns, the oldest first.
func (s *Service) CampaignIDs(ctx context.Context) ([]string, error) {
	ids, err := s.ledger.Streams(ctx, ledger.Tag{Name: "campaign", Value: "1"})
	if err != nil {
		return nil, fmt.Errorf("reading the index of campaigns: %w", err)
	}
	return ids, nil
}

func (s *Service) resolveCampaign(ctx context.Context, typed string) (string, error) {
	typed = strings.ToLower(strings.TrimSpace(typed))
	if campaign.IDPattern().MatchString(typed) {
		return typed, nil
	}
	ids, err := s.CampaignIDs(ctx)
	if err != nil {
		return "", err
	}
	if len(ids) == 0 {
		return "", record.Refuse(record.ClassUnknown, "no-campaign", "open one: breakglass recert start", "there has been no campaign yet")
	}
	if typed == "" || typed == "last" {
		return ids[len(ids)-1], nil
	}
	hits := slices.DeleteFunc(slices.Clone(ids), func(id string) bool {
		return !strings.HasPrefix(id, typed) && !strings.HasPrefix(id, campaign.Stream+typed) && !strings.HasSuffix(id, "-"+typed)
	})
	switch len(hits) {
	case 1:
		return hits[0], nil
	case 0:
		return "", record.Refuse(record.ClassUnknown, "unknown-campaign", "see: breakglass recert list", "there is no campaign %s",
			record.Clip(typed, 60))
	}
	return "", record.Refuse(record.ClassUnknown, "ambiguous-campaign", "write more of it", "%s could be %s", record.Clip(typed, 60),
		record.JoinAnd(hits[:min(len(hits), 5)]))
}

// ItemAnswer is a reviewer's word on items, as they saw them.
type ItemAnswer struct {
	Verdict campaign.Verdict
	Items   []campaign.Judged
	Reason  string
}

// DecideItems records a reviewer's word. A word that was said already is no error and is not recorded again. What the word
// suspends is suspended when it returns.
func (s *Service) DecideItems(ctx context.Context, a record.Actor, camp string, answer ItemAnswer) (*campaign.Campaign, error) {
	answer.Reason = strings.TrimSpace(answer.Reason)
	return s.onCampaign(ctx, a, "recert-decide", camp, func(p *policy.Policy, c *campaign.Campaign, now time.Time) ([]record.Event,
		map[string]string, error) {
		since, err := s.answeredLater(ctx, c, answer.Items)
		if err != nil {
			return nil, nil, err
		}
		items, err := decideItems(p, c, a, answer, since, now)
		if err != nil {
			return nil, nil, err
		}
		var events []record.Event
		for part := range slices.Chunk(items, campaign.MaxTogether) {
			events = append(events, campaign.Decided{By: a, Verdict: answer.Verdict, Items: part})
		}
		return events, optional("reason", answer.Reason), nil
	})
}

// decideItems is the pure rule for a reviewer's word: it returns what is to be recorded. Since is where eligibility came to
// something after this campaign: what was said last holds, so a word here would be recorded and mean nothing.
func decideItems(p *policy.Policy, c *campaign.Campaign, a record.Actor, answer ItemAnswer, since map[policy.Eligibility]campaign.Standing,
	now time.Time) ([]campaign.Judged, error) {
	if !c.Reviews(a.Person) {
		return nil, record.Refuse(record.ClassDenied, "not-reviewer", "", "%s does not review in %s: its reviewers were fixed when it opened",
			a.Person, c.ID)
	}
	if !p.MayReview(a.Person) {
		return nil, record.Refuse(record.ClassPolicy, "policy/changed", "", "the access policy has changed: you are not a reviewer any more")
	}
	if answer.Verdict != campaign.VerdictKeep && answer.Verdict != campaign.VerdictRevoke {
		return nil, record.Refuse(record.ClassInvalid, "verdict", "say keep or revoke", "%q is no verdict",
			record.Clip(string(answer.Verdict), 20))
	}
	if len(answer.Items) == 0 {
		return nil, record.Refuse(record.ClassInvalid, "items", "", "no item is named")
	}
	if len(answer.Items) > 1 && answer.Verdict == campaign.VerdictRevoke {
		return nil, record.Refuse(record.ClassInvalid, "together", "revoke one item at a time", "things are revoked one by one")
	}
	var out []campaign.Judged
	seen := map[string]bool{}
	needsReason := answer.Verdict == campaign.VerdictRevoke
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
		if said, spoke := i.WordOf(a.Person); spoke && said == answer.Verdict || answer.Verdict == campaign.VerdictRevoke &&
			c.Said(i) == campaign.OutcomeRevoke {
			continue
		}
		switch {
		case replaced(i, since).In != nil:
			later := replaced(i, since)
			return nil, record.Refuse(record.ClassConflict, "settled", later.Instead(now), "%s is %s in %s, which is later", j.ID,
				later.In.Outcome(later.Item),
				later.In.ID)
		case c.Said(i) == campaign.OutcomeRevoke:
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
		return out, needReason(answer.Reason)
	case n > MaxReason || badText(answer.Reason) != "":
		return nil, record.Refuse(record.ClassInvalid, "reason", "", "the reason is longer than %d characters or has control characters",
			MaxReason)
	}
	return out, nil
}

// AcknowledgeItems records that what was revoked has been taken away. Reviewers and responders may say so, never about
// themselves, and about a key or an account only when the access policy does not have it any more: no scan proves that. What is in
// a cluster is proved by the next one.
func (s *Service) AcknowledgeItems(ctx context.Context, a record.Actor, camp string, ids []string, note string) (*campaign.Campaign,
	error) {
	return s.onCampaign(ctx, a, "recert-ack", camp, func(p *policy.Policy, c *campaign.Campaign, _ time.Time) ([]record.Event,
		map[string]string, error) {
		if !p.MayReview(a.Person) && !p.MayRespond(a.Person) {
			return nil, nil, record.Refuse(record.ClassDenied, "not-reviewer", "",
				"only reviewers and responders can say that something has been taken away")
		}
		var open []string
		for _, id := range ids {
			i, ok := c.Item(id)
			switch {
			case !ok:
				return nil, nil, record.Refuse(record.ClassUnknown, "unknown-item", "see: breakglass recert show "+c.ID, "there is no item %q in %s",
					record.Clip(id, 100),
					c.ID)
			case c.Said(i) != campaign.OutcomeRevoke:
				return nil, nil, record.Refuse(record.ClassConflict, "not-revoked", "", "%s is %s: there is nothing to take away", id, c.Outcome(i))
			case !i.Independent(a.Person):
				return nil, nil, record.Refuse(record.ClassDenied, "own-item", "another reviewer or responder must look, and say so",
					"%s is about you", id)
			case p.Holder(id) != "":
				return nil, nil, record.Refuse(record.ClassConflict, "still-there", "take it out of "+p.Holder(id)+
					"'s entry, have the daemon read the policy, and say so then", "the access policy still has %s", id)
			case p.Still(i.Member, i.Way) != "":
				return nil, nil, record.Refuse(record.ClassConflict, "still-there",
					"take it out of the access policy, have the daemon read that, and say so then",
					"the access policy still has %s", p.Still(i.Member, i.Way))
			case !i.Done() && !slices.Contains(open, id):
				open = append(open, id)
			}
		}
		if note != "" {
			if err := needNote(note, 1); err != nil {
				return nil, nil, err
			}
		}
		return campaign.EventsOf(open, func(ids []string) record.Event { return campaign.Acknowledged{By: a, Items: ids} }),
			optional("note", note), nil
	})
}

// Reinstate records one person's word that a suspended eligibility comes back; it does with the second person's. Reviewers may
// say so, never about themselves.
func (s *Service) Reinstate(ctx context.Context, a record.Actor, camp, id, reason string) (*campaign.Campaign, error) {
	return s.onCampaign(ctx, a, "recert-reinstate", camp, func(p *policy.Policy, c *campaign.Campaign, _ time.Time) ([]record.Event,
		map[string]string, error) {
		i, ok := c.Item(id)
		switch {
		case !p.MayReview(a.Person):
			return nil, nil, record.Refuse(record.ClassDenied, "not-reviewer", "", "only reviewers can give back what was suspended")
		case !ok:
			return nil, nil, record.Refuse(record.ClassUnknown, "unknown-item", "see: breakglass recert show "+c.ID, "there is no item %q in %s",
				record.Clip(id, 100),
				c.ID)
		case !i.Independent(a.Person):
			return nil, nil, record.Refuse(record.ClassDenied, "own-item", "two other reviewers must", "nobody reinstates themselves")
		case slices.ContainsFunc(i.Back, func(w record.Ending) bool { return w.By.Person == a.Person }):
			return nil, nil, nil
		case !i.Held():
			set := policy.SetOf(s.campaigns.held())
			for _, e := range i.Covers {
				if at := set[e]; len(at) > 0 {
					return nil, nil, record.Refuse(record.ClassConflict, "not-suspended", policy.Reinstating(at),
						"%s does not suspend %s by this item, but %s does", c.ID, e,
						at[0].Campaign)
				}
			}
			return nil, nil, record.Refuse(record.ClassConflict, "not-suspended",
				"there is nothing to give back; see what is suspended: breakglass recert show "+
					c.ID, "%s is not suspended by any campaign", id)
		}
		if err := needReason(reason); err != nil {
			return nil, nil, err
		}
		return []record.Event{campaign.Reinstated{By: a, Items: []string{id}}}, optional("reason", reason), nil
	})
}

// ProveItems records what a later scan says about things in clusters that were revoked. Ids that the campaign did not revoke
// are passed over, and so is what a scan said before. The snapshot is the digest of what the scan saw.
func (s *Service) ProveItems(ctx context.Context, camp, snapshot string, gone func(object string) (gone, looked bool)) (*campaign.Campaign,
	error) {
	return s.changeCampaign(ctx, camp, func(c *campaign.Campaign, _ time.Time) ([]record.Event, map[string]string, error) {
		var away, still []string
		for _, i := range c.Items {
			if i.Object == "" || c.Said(i) != campaign.OutcomeRevoke {
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
		events := campaign.EventsOf(away, func(ids []string) record.Event { return campaign.Proved{Snapshot: snapshot, Gone: ids} })
		return append(events, campaign.EventsOf(still, func(ids []string) record.Event {
			return campaign.Proved{Snapshot: snapshot,
				Still: ids}
		})...), nil, nil
	})
}

// onCampaign is the one way in which a person's word on a campaign becomes a fact; a refusal is recorded.
func (s *Service) onCampaign(ctx context.Context, a record.Actor, name, camp string,
	decide func(*policy.Policy, *campaign.Campaign, time.Time) ([]record.Event, map[string]string, error)) (*campaign.Campaign, error) {
	if err := known(s.Policy(), a); err != nil {
		return nil, s.recordRefusal(ctx, a, name, RefusalStream, err)
	}
	// The policy cannot change between a decision and its record: both are made with the campaigns' lock held.
	c, err := s.changeCampaign(ctx, camp, func(c *campaign.Campaign, now time.Time) ([]record.Event, map[string]string, error) {
		p := s.Policy()
		if err := known(p, a); err != nil {
			return nil, nil, err
		}
		return decide(p, c, now)
	})
	return c, s.recordRefusal(ctx, a, name, RefusalStream, err)
}

// changeCampaign loads a campaign, decides, appends, and does what has become due by it.
func (s *Service) changeCampaign(ctx context.Context, campaign string, decide func(*campaign.Campaign, time.Time) ([]record.Event,
	map[string]string,
	error)) (*campaign.Campaign, error) {
	id, err := s.resolveCampaign(ctx, campaign)
	if err != nil {
		return nil, err
	}
	s.campaigns.mu.Lock()
	defer s.campaigns.mu.Unlock()
	c := s.campaigns.loaded[id]
	if c == nil {
		if c, err = s.readCampaign(ctx, id); err != nil {
			return nil, err
		}
	}
	for {
		now := s.now()
		events, texts, err := decide(c, now)
		if err != nil || len(events) == 0 {
			return c, err
		}
		before := time.Time{}
		if now.Before(c.Opened.Deadline) {
			before = c.Opened.Deadline
		}
		after, err := s.appendCampaign(ctx, c, before, texts, events...)
		if errors.Is(err, ledger.ErrConflict) {
			if c, err = s.reread(ctx, id); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		after, err = s.advance(ctx, after)
		if errors.Is(err, ErrTooManyFindings) {
			err = nil // the word is recorded, and tendCampaigns finds it again
		}
		return after, err
	}
}

// advance records what is due about a campaign. Called with mu held.
func (s *Service) advance(ctx context.Context, c *campaign.Campaign) (*campaign.Campaign, error) {
	events, _ := campaign.Due(c, s.Policy(), s.campaigns.held(), s.campaigns.answeredSince(c), s.now())
	if len(events) == 0 {
		return c, s.campaignFindings(ctx, c)
	}
	after, err := s.appendCampaign(ctx, c, time.Time{}, nil, events...)
	if err != nil {
		return c, fmt.Errorf("recording what is due about %s: %w", c.ID, err)
	}
	return after, s.campaignFindings(ctx, after)
}

// campaignFindings keeps the finding about what a campaign could not settle.
func (s *Service) campaignFindings(ctx context.Context, c *campaign.Campaign) error {
	key := "campaign-unsettled/" + c.ID
	left := c.Unsettled()
	if len(left) == 0 {
		return s.Over(ctx, key, "every item has an answer")
	}
	floor := 0
	for _, i := range left {
		if i.EscalatedWhy == campaign.WhyFloor {
			floor++
		}
	}
	what := fmt.Sprintf("the recertification %s left %d items without an answer that counts, first %s", c.ID, len(left), left[0].ID)
	if floor > 0 {
		what += fmt.Sprintf("; of %d not all eligibility was suspended, because too few people would be left for an emergency", floor)
	}
	return s.Find(ctx, FindingOpened{Key: key, Check: checkRecertification, Severity: SeverityCritical, What: what,
		Next: "answer them: breakglass recert review " + c.ID + "; where the floor keeps somebody, make more people eligible first"})
}

// floorFindings keeps one finding for each suspension that is recorded and not in force.
func (s *Service) floorFindings(ctx context.Context, held []policy.Holding) error {
	p := s.Policy()
	var now []FindingOpened
	seen := map[string]bool{}
	for _, h := range held {
		e := h.Eligibility
		key := "suspension-not-in-force/" + e.Profile + "/" + e.Cluster + "/" + string(e.Part)
		if p.Suspended(e) || seen[key] {
			continue
		}
		seen[key] = true
		now = append(now, FindingOpened{Key: key, Check: "suspension", Cluster: e.Cluster, Severity: SeverityCritical,
			What: fmt.Sprintf("suspensions of the recertification are not in force for %s as %s on %s: the access policy leaves too few people "+
				"for an emergency", e.Profile, e.Part, e.Cluster),
			Next: "make more people eligible in the access policy; then the suspensions hold again by themselves"})
	}
	for _, f := range s.Findings() {
		if f.Check == "suspension" && !seen[f.Key] {
			if err := s.Over(ctx, f.Key, "the suspensions are in force or were given back"); err != nil {
				return err
			}
		}
	}
	for _, f := range now {
		if err := s.Find(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// tendCampaigns does what is due about campaigns, and sleeps until the next deadline, reminder or change.
func (s *Service) tendCampaigns(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next, err := s.tendCampaignsOnce(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.Warn("campaigns: will try again", slog.Any("error", err))
			next = s.now().Add(backoff.Last)
		}
		timer.Reset(max(next.Sub(s.now()), time.Millisecond))
		select {
		case <-ctx.Done():
			return nil
		case <-s.campaigns.wake:
		case <-timer.C:
		}
	}
}

func (s *Service) tendCampaignsOnce(ctx context.Context) (next time.Time, err error) {
	s.campaigns.mu.Lock()
	defer s.campaigns.mu.Unlock()
	next = s.now().Add(time.Hour)
	var bad []error
	for _, c := range s.campaigns.inOrder() {
		events, at := campaign.Due(c, s.Policy(), s.campaigns.held(), s.campaigns.answeredSince(c), s.now())
		if len(events) > 0 {
			_, err := s.advance(ctx, c)
			if errors.Is(err, ledger.ErrConflict) {
				_, err = s.reread(ctx, c.ID)
				at = s.now().Add(time.Second)
			}
			bad = append(bad, err)
		} else {
			bad = append(bad, s.campaignFindings(ctx, c))
		}
		if !at.IsZero() && at.Before(next) {
			next = at
		}
	}
	bad = append(bad, s.floorFindings(ctx, s.campaigns.held()))
	return next, errors.Join(bad...)
}

// campaign takes an entry of a campaign into an audit.
func (a *Auditor) campaign(e ledger.Entry, ev record.Event) error {
	c := a.campaigns[e.Stream]
	if c == nil {
		if !campaign.IDPattern().MatchString(e.Stream) {
			return fmt.Errorf("%q is not a campaign id", e.Stream)
		}
		c = &campaign.Campaign{ID: e.Stream}
		a.campaigns[e.Stream] = c
		a.report.Campaigns++
	}
	if err := c.Apply(e, ev); err != nil {
		return err
	}
	if settled, is := ev.(campaign.Settled); is {
		return a.settled(c, settled)
	}
	suspension, is := ev.(campaign.Suspended)
	if !is || suspension.Moot {
		return nil
	}
	// Whether somebody can still be reached is not in the ledger; how many people are left is.
	var held []policy.Holding
	for _, c := range a.campaigns {
		held = append(held, c.Held()...)
	}
	set := policy.SetOf(held)
	seen := map[policy.Place]bool{}
	for _, id := range suspension.Items {
		i, _ := c.Item(id)
		for _, t := range i.Taken {
			if t.Seq != e.Seq || seen[policy.PlaceOf(t.Eligibility)] {
				continue
			}
			seen[policy.PlaceOf(t.Eligibility)] = true
			if left, need := a.policy.Loaded.Left(t.Eligibility, set); left < need {
				return fmt.Errorf("suspending %s leaves %d approvers where %d are the least", t.Eligibility, left, need)
			}
		}
	}
	return nil
}

// settled says why a later campaign does not settle what it is said to settle.
func (a *Auditor) settled(c *campaign.Campaign, ev campaign.Settled) error {
	later := a.campaigns[ev.Campaign]
	if later == nil || later.Seq <= c.Seq {
		return fmt.Errorf("%s is no later campaign", record.Clip(ev.Campaign, 60))
	}
	var after []*campaign.Campaign
	for _, x := range a.campaigns {
		if x.Seq > c.Seq {
			after = append(after, x)
		}
	}
	since, here := standings(after), later.Came()
	for _, id := range ev.Items {
		i, _ := c.Item(id)
		came := false
		for _, e := range i.Rest() {
			came = came || here[e] != nil
			if since[e].In == nil {
				return fmt.Errorf("%s came to nothing in %s", e, later.ID)
			}
		}
		if !came {
			return fmt.Errorf("%s came to nothing in %s", id, later.ID)
		}
	}
	return nil
}
