package campaign

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// checkRecertification is the check that findings about campaigns come from.
const checkRecertification = "recertification"

// Book records what people say about campaigns, does what is due about them, and has what they suspend in force. It is safe for concurrent
// use; what its methods return is durable.
type Book struct {
	rec      *record.Recorder
	policy   *policy.InForce
	findings *finding.Book
	wake     chan struct{} // a token when a campaign or the policy changed

	mu     sync.Mutex // taken before any lock of policy.InForce; see lock
	memory memory
}

// memory is what a Book keeps of campaigns, a cache of the ledger. Who has one holds the Book's lock: no campaign and no policy changes
// meanwhile, so that what is enforced is what is recorded.
type memory struct {
	*Book
	// the open ones, those that suspend eligibility, those with something unsettled, and what came after one that owes
	loaded map[string]*Campaign
}

// lock waits until no other call holds the campaigns, and keeps the policy as it is until unlock is called.
func (b *Book) lock() (m *memory, unlock func()) {
	b.mu.Lock()
	release := b.policy.Still()
	return &b.memory, func() { release(); b.mu.Unlock() }
}

// Open reads the campaigns that still have an effect, and tells the policy what they suspend.
func Open(ctx context.Context, rec *record.Recorder, inForce *policy.InForce, findings *finding.Book) (*Book, error) {
	b := &Book{rec: rec, policy: inForce, findings: findings, wake: make(chan struct{}, 1)}
	m := &b.memory
	m.Book, m.loaded = b, map[string]*Campaign{}
	for _, tag := range []string{"campaign-open", "suspends", "unsettled"} {
		ids, err := rec.Ledger.Streams(ctx, ledger.Tag{Name: tag, Value: "1"})
		if err != nil {
			return nil, fmt.Errorf("reading the index of campaigns: %w", err)
		}
		for _, id := range ids {
			if m.loaded[id] != nil {
				continue
			}
			if m.loaded[id], err = b.read(ctx, id); err != nil {
				return nil, err
			}
		}
	}
	if err := m.loadLater(ctx); err != nil {
		return nil, err
	}
	inForce.OnChange(b.changed)
	return b, inForce.Suspend(func() ([]policy.Holding, error) { return m.held(), nil })
}

// loadLater reads the campaigns after the first one that still owes a suspension: what was answered there settles it.
func (m *memory) loadLater(ctx context.Context) error {
	ids, err := m.IDs(ctx)
	if err != nil {
		return err
	}
	owing := false
	for _, id := range ids {
		c := m.loaded[id]
		if c == nil && owing {
			if c, err = m.read(ctx, id); err != nil {
				return err
			}
			m.loaded[id] = c
		}
		owing = owing || c != nil && c.Owes()
	}
	return nil
}

func (b *Book) read(ctx context.Context, id string) (*Campaign, error) {
	entries, err := b.rec.Ledger.Stream(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("reading campaign %s: %w", id, err)
	}
	if len(entries) == 0 {
		return nil, record.Refuse(record.ClassUnknown, "unknown-campaign", "see: breakglass recert list", "there is no campaign %s",
			record.Clip(id, 60))
	}
	return Fold(entries)
}

// inOrder lists what is loaded, the oldest first.
func (m *memory) inOrder() []*Campaign {
	return slices.SortedFunc(maps.Values(m.loaded), func(a, b *Campaign) int { return cmp.Compare(a.Seq, b.Seq) })
}

// held lists everything that any campaign keeps suspended, the oldest campaign first.
func (m *memory) held() []policy.Holding {
	var out []policy.Holding
	for _, c := range m.inOrder() {
		out = append(out, c.Held()...)
	}
	return out
}

// Standings says of eligibility where it came to something last, in campaigns from the oldest on.
func Standings(campaigns []*Campaign) map[policy.Eligibility]Standing {
	out := map[policy.Eligibility]Standing{}
	for _, c := range campaigns {
		for e, i := range c.Came() {
			out[e] = Standing{In: c, Item: i}
		}
	}
	return out
}

// replaced says where later campaigns came to something about all that is left of an item; none if something is left to this one.
func replaced(i *Item, since map[policy.Eligibility]Standing) (later Standing) {
	for _, e := range i.Rest() {
		at := since[e]
		if at.In == nil {
			return Standing{}
		}
		if later.In == nil || at.In.Seq > later.In.Seq {
			later = at
		}
	}
	return later
}

// answeredSince says of eligibility where it came to something last after this campaign. Only a campaign that owes a suspension
// needs to know, and what comes after one of those is in memory.
func (m *memory) answeredSince(c *Campaign) map[policy.Eligibility]Standing {
	if !c.Owes() {
		return nil
	}
	return Standings(slices.DeleteFunc(m.inOrder(), func(x *Campaign) bool { return x.Seq <= c.Seq }))
}

// answeredLater says the same to a reviewer who answers items of a campaign that has ended. It reads the ledger for what is not in
// memory: a late word can make a campaign owe again what it did not owe when the later ones were dropped.
func (m *memory) answeredLater(ctx context.Context, c *Campaign,
	items []Judged) (map[policy.Eligibility]Standing, error) {
	late := func(j Judged) bool {
		i, ok := c.Item(j.ID)
		return ok && len(i.Covers) > 0 && !i.Escalated.IsZero()
	}
	if c.Closed == nil || !slices.ContainsFunc(items, late) {
		return nil, nil // one campaign is open at a time: none is later. Of one that ended, only what was escalated takes a word
	}
	ids, err := m.IDs(ctx)
	if err != nil {
		return nil, err
	}
	var after []*Campaign
	for _, id := range ids[slices.Index(ids, c.ID)+1:] {
		x := m.loaded[id]
		if x == nil {
			if x, err = m.read(ctx, id); err != nil {
				return nil, err
			}
		}
		after = append(after, x)
	}
	return Standings(after), nil
}

// keep puts a campaign into memory as it was just written or read, and what it suspends in force.
func (m *memory) keep(c *Campaign) {
	after := slices.ContainsFunc(m.inOrder(), func(x *Campaign) bool { return x.Seq < c.Seq && x.Owes() })
	if c.Closed == nil || c.Holds() || len(c.Unsettled()) > 0 || after {
		m.loaded[c.ID] = c
	} else {
		delete(m.loaded, c.ID)
	}
	m.changed()
}

// reread is for after a conflict: another call wrote, or the deadline passed meanwhile. A campaign that cannot be read stays as
// it was known: whatever happens, it must not drop out of what is tended.
func (m *memory) reread(ctx context.Context, id string) (*Campaign, error) {
	c, err := m.read(ctx, id)
	if err != nil {
		return nil, err
	}
	return c, m.policy.Suspend(func() ([]policy.Holding, error) {
		m.keep(c)
		return m.held(), nil
	})
}

// changed has what is due looked at again.
func (b *Book) changed() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// append records events of a campaign that was read at c.Rev, puts what they suspend in force, and returns the campaign
// after them. The texts go with every event that a person gave.
func (m *memory) append(ctx context.Context, c *Campaign, before time.Time, texts map[string]string,
	events ...record.Event) (*Campaign, error) {
	preview := c.Copied()
	drafts := make([]ledger.Draft, len(events))
	at := m.rec.Now()
	for i, ev := range events {
		drafts[i] = record.Draft(ev, texts)
		drafts[i].Before = before
		e := ledger.Entry{Stream: c.ID, StreamSeq: preview.Rev + 1, Kind: ev.Kind(), Time: at, Body: drafts[i].Body, Texts: texts}
		if err := preview.Apply(e, ev); err != nil {
			return nil, fmt.Errorf("%s: %s would not be valid: %w", c.ID, ev.Kind(), err)
		}
	}
	done := c.Copied()
	err := m.policy.Suspend(func() ([]policy.Holding, error) {
		entries, err := m.rec.Ledger.Append(ctx, at, c.ID, c.Rev, Index(preview), drafts...)
		if err != nil {
			return nil, err
		}
		for i, e := range entries {
			if err := done.Apply(e, events[i]); err != nil {
				return nil, fmt.Errorf("%s: recorded, but not valid: %w", c.ID, err)
			}
		}
		m.keep(done)
		return m.held(), nil
	})
	if err != nil {
		return nil, err
	}
	return done, nil
}

// Get returns one campaign by id, by a unique beginning or end of one, or, for the empty string, the last one.
func (b *Book) Get(ctx context.Context, typed string) (*Campaign, error) {
	id, err := b.resolve(ctx, typed)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	c := b.memory.loaded[id]
	b.mu.Unlock()
	if c != nil {
		return c, nil
	}
	return b.read(ctx, id)
}

// IDs lists all campaigns, the oldest first.
func (b *Book) IDs(ctx context.Context) ([]string, error) {
	ids, err := b.rec.Ledger.Streams(ctx, ledger.Tag{Name: "campaign", Value: "1"})
	if err != nil {
		return nil, fmt.Errorf("reading the index of campaigns: %w", err)
	}
	return ids, nil
}

func (b *Book) resolve(ctx context.Context, typed string) (string, error) {
	typed = strings.ToLower(strings.TrimSpace(typed))
	if IDPattern().MatchString(typed) {
		return typed, nil
	}
	ids, err := b.IDs(ctx)
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
		return !strings.HasPrefix(id, typed) && !strings.HasPrefix(id, Stream+typed) && !strings.HasSuffix(id, "-"+typed)
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

// command is the one way in which a person's word on a campaign becomes a fact; a refusal is recorded.
func (b *Book) command(ctx context.Context, a record.Actor, name, camp string,
	decide func(*memory, *policy.Policy, *Campaign, time.Time) (said, error)) (*Campaign, error) {
	if err := b.policy.Policy().CheckKnown(a); err != nil {
		return nil, b.rec.Refused(ctx, a, name, record.RefusalStream, err)
	}
	// The policy cannot change between a decision and its record: both are made with the campaigns' lock held.
	c, err := b.change(ctx, camp, func(m *memory, c *Campaign, now time.Time) (said, error) {
		p := b.policy.Policy()
		if err := p.CheckKnown(a); err != nil {
			return said{}, err
		}
		return decide(m, p, c, now)
	})
	return c, b.rec.Refused(ctx, a, name, record.RefusalStream, err)
}

// said is a word on a campaign as it is recorded: nothing if it was said before.
type said struct {
	events []record.Event
	texts  map[string]string
}

// change loads a campaign, decides, appends, and does what has become due by it.
func (b *Book) change(ctx context.Context, camp string, decide func(*memory, *Campaign, time.Time) (said, error)) (*Campaign, error) {
	id, err := b.resolve(ctx, camp)
	if err != nil {
		return nil, err
	}
	m, unlock := b.lock()
	defer unlock()
	c := m.loaded[id]
	if c == nil {
		if c, err = b.read(ctx, id); err != nil {
			return nil, err
		}
	}
	for {
		now := b.rec.Now()
		word, err := decide(m, c, now)
		if err != nil || len(word.events) == 0 {
			return c, err
		}
		before := time.Time{}
		if now.Before(c.Opened.Deadline) {
			before = c.Opened.Deadline
		}
		after, err := m.append(ctx, c, before, word.texts, word.events...)
		if errors.Is(err, ledger.ErrConflict) {
			if c, err = m.reread(ctx, id); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		after, err = m.advance(ctx, after)
		if errors.Is(err, finding.ErrTooMany) {
			err = nil // the word is recorded, and Run finds it again
		}
		return after, err
	}
}

// advance records what is due about a campaign.
func (m *memory) advance(ctx context.Context, c *Campaign) (*Campaign, error) {
	events, _ := Due(c, m.policy.Policy(), m.held(), m.answeredSince(c), m.rec.Now())
	if len(events) == 0 {
		return c, m.reportUnsettled(ctx, c)
	}
	after, err := m.append(ctx, c, time.Time{}, nil, events...)
	if err != nil {
		return c, fmt.Errorf("recording what is due about %s: %w", c.ID, err)
	}
	return after, m.reportUnsettled(ctx, after)
}

// reportUnsettled keeps the finding about what a campaign could not settle.
func (b *Book) reportUnsettled(ctx context.Context, c *Campaign) error {
	key := "campaign-unsettled/" + c.ID
	left := c.Unsettled()
	if len(left) == 0 {
		return b.findings.Close(ctx, key, "every item has an answer")
	}
	floor := 0
	for _, i := range left {
		if i.EscalatedWhy == WhyFloor {
			floor++
		}
	}
	what := fmt.Sprintf("the recertification %s left %d items without an answer that counts, first %s", c.ID, len(left), left[0].ID)
	if floor > 0 {
		what += fmt.Sprintf("; of %d not all eligibility was suspended, because too few people would be left for an emergency", floor)
	}
	return b.findings.Find(ctx, finding.Opened{Key: key, Check: checkRecertification, Severity: finding.Critical, What: what,
		Next: "answer them: breakglass recert review " + c.ID + "; where the floor keeps eligibility in force, make more people eligible first"})
}

// reportFloor keeps one finding for each suspension that is recorded and not in force.
func (b *Book) reportFloor(ctx context.Context, held []policy.Holding) error {
	p := b.policy.Policy()
	var now []finding.Opened
	seen := map[string]bool{}
	for _, h := range held {
		e := h.Eligibility
		key := "suspension-not-in-force/" + e.Profile + "/" + e.Cluster + "/" + string(e.Part)
		if p.Suspended(e) || seen[key] {
			continue
		}
		seen[key] = true
		now = append(now, finding.Opened{Key: key, Check: "suspension", Cluster: e.Cluster, Severity: finding.Critical,
			What: fmt.Sprintf("suspensions of the recertification are not in force for %s as %s on %s: the access policy leaves too few people "+
				"for an emergency", e.Profile, e.Part, e.Cluster),
			Next: "make more people eligible in the access policy; then the suspensions hold again by themselves"})
	}
	for _, f := range b.findings.Open() {
		if f.Check == "suspension" && !seen[f.Key] {
			if err := b.findings.Close(ctx, f.Key, "the suspensions are in force or were given back"); err != nil {
				return err
			}
		}
	}
	for _, f := range now {
		if err := b.findings.Find(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// runAgain is how soon what did not work is tried again.
const runAgain = 30 * time.Second

// Run does what is due about campaigns until ctx is done, and sleeps until the next deadline, reminder or change.
func (b *Book) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next, err := b.runOnce(ctx)
		if err != nil && ctx.Err() == nil {
			b.rec.Log.Warn("campaigns: will try again", slog.Any("error", err))
			next = b.rec.Now().Add(runAgain)
		}
		timer.Reset(max(next.Sub(b.rec.Now()), time.Millisecond))
		select {
		case <-ctx.Done():
			return nil
		case <-b.wake:
		case <-timer.C:
		}
	}
}

func (b *Book) runOnce(ctx context.Context) (next time.Time, err error) {
	m, unlock := b.lock()
	defer unlock()
	next = b.rec.Now().Add(time.Hour)
	var bad []error
	for _, c := range m.inOrder() {
		events, at := Due(c, b.policy.Policy(), m.held(), m.answeredSince(c), b.rec.Now())
		if len(events) > 0 {
			_, err := m.advance(ctx, c)
			if errors.Is(err, ledger.ErrConflict) {
				_, err = m.reread(ctx, c.ID)
				at = b.rec.Now().Add(time.Second)
			}
			bad = append(bad, err)
		} else {
			bad = append(bad, b.reportUnsettled(ctx, c))
		}
		if !at.IsZero() && at.Before(next) {
			next = at
		}
	}
	bad = append(bad, b.reportFloor(ctx, m.held()))
	return next, errors.Join(bad...)
}
