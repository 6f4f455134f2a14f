// Package verify replays a whole ledger and finds what could not have happened. It is the one package that knows every stream.
package verify

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// kinds is every kind of entry that this release reads.
var kinds = record.Join(breakglass.Kinds, policy.Kinds, finding.Kinds, campaign.Kinds, record.OwnKinds)

// Kinds is every kind of entry that this release reads: entries of any stream. It is not to be changed.
func Kinds() record.Kinds { return kinds }

// Decode returns the event that an entry of any stream holds: see [record.Kinds.Decode].
func Decode(e ledger.Entry) (record.Event, error) { return kinds.Decode(e) }

// Auditor replays a ledger's entries through the state machine and collects everything that could not have happened: a
// certificate without its approvals, an event out of order, a second use of a key. It believes the entries' bytes; that they
// are the bytes that were logged is for the ledger package to verify. Feed it every entry in order, then read Report.
type Auditor struct {
	requests map[string]*breakglass.Request // all of them, or with again those for which something can still happen
	canaries map[string]*canary             // that are under way
	over     map[digest]past                // the other requests, and the canaries that are done
	keys     map[digest]int64               // by SPKI: the entry that claimed with it
	prints   map[digest]int64               // by fingerprint: the entry that issued it
	findings finding.State

	// again reads the entries of one stream once more, for the rare word that comes when everything is over. Without it nothing is
	// forgotten.
	again func(stream string) ([]ledger.Entry, error)

	campaigns map[string]*campaign.Campaign
	policy    policy.State
	unagreed  []unagreed
	later     bool // an approval of this release was seen: there is none of an earlier one after it
	report    Report
}

// digest names a stream or a hash in a few bytes. Two texts with one digest would be reported as one used twice: nothing passes by it.
type digest [16]byte

func digestOf(text string) digest {
	sum := sha256.Sum256([]byte(text))
	return digest(sum[:])
}

// past is what is kept of a request or canary when nothing is left to do for it: what is verified must not take more memory the longer
// the history is.
type past struct {
	first int64  // the entry that began it
	rev   int64  // how many entries it has
	rows  digest // of its index rows, in order; zero: it has none
}

// rowsOf is the digest of index rows, which are sorted.
func rowsOf(tags []ledger.Tag) digest {
	if len(tags) == 0 {
		return digest{}
	}
	var b strings.Builder
	for _, t := range tags {
		fmt.Fprintf(&b, "%q %q %t\n", t.Name, t.Value, t.Unique)
	}
	return digestOf(b.String())
}

func sortedIndex(tags []ledger.Tag) []ledger.Tag {
	slices.SortFunc(tags, compareTags)
	return tags
}

// Report is what an audit found.
type Report struct {
	Entries      int
	Requests     int
	Certificates int
	Approvals    int // all of them
	Signed       int // of which signed with an SSH key, each checked
	Repeated     int // of which earlier releases recorded again after they were taken back: it cannot be told whether they were signed again
	Unagreed     int // approvals under an access policy that only an operator had agreed to, and that no two people have confirmed since
	Orphans      int // certificates that were signed and never delivered
	Refusals     int // commands that were not allowed
	Campaigns    int
	Problems     []string
	Newer        bool // some of Problems are entries of a newer release: no sign of forgery
}

// NewAuditor returns an Auditor that has seen nothing.
func NewAuditor() *Auditor {
	return &Auditor{requests: map[string]*breakglass.Request{}, canaries: map[string]*canary{}, over: map[digest]past{},
		keys:   map[digest]int64{},
		prints: map[digest]int64{}, findings: finding.NewState(),
		campaigns: map[string]*campaign.Campaign{}}
}

// Add takes the next entry.
func (a *Auditor) Add(e ledger.Entry) {
	bad := func(format string, args ...any) {
		a.report.Problems = append(a.report.Problems, fmt.Sprintf("entry %d (%s, %s): ", e.Seq, e.Stream, e.Kind)+fmt.Sprintf(format, args...))
	}
	a.report.Entries++
	ev, err := Decode(e)
	if err != nil {
		a.report.Newer = a.report.Newer || errors.Is(err, record.ErrNewerRelease)
		bad("%v", err)
		return
	}
	switch ev := ev.(type) {
	case record.Refused:
		a.report.Refusals++
	case record.RefusedMore:
		a.report.Refusals += ev.Total()
	}
	if !breakglass.ValidID(e.Stream) {
		if err := a.addOther(e, ev); err != nil {
			bad("%v", err)
		}
		return
	}
	r, err := a.request(e, ev)
	if err != nil {
		bad("%v", err)
		return
	}
	if r == nil {
		return
	}
	claimed := r.ClaimKey
	if err := r.Apply(e, ev, true); err != nil {
		bad("%v", err)
		return
	}
	once := func(seen map[digest]int64, key, what string) {
		if before, ok := seen[digestOf(key)]; ok {
			bad("%s was used by entry %d before", what, before)
		}
		seen[digestOf(key)] = e.Seq
	}
	switch ev := ev.(type) {
	case breakglass.Approved:
		a.report.Approvals++
		if ev.Signature != "" {
			a.report.Signed++
		}
		switch {
		case e.Kind != breakglass.ApprovedV1:
			a.later = true
		case a.later:
			bad("an approval as earlier releases made them, after one of a later release: its signature may have counted before")
		case ev.Signature != "" && r.TakenBack[ev.By.Person] > 0:
			a.report.Repeated++
		}
		if err := a.agreed(r, ev, e.Time); err != nil {
			bad("%v", err)
		}
	case breakglass.Claimed:
		if ev.SPKI != claimed { // the state machine has seen to it that nothing was signed for the claim before
			once(a.keys, ev.SPKI, "this key")
		}
	case breakglass.Issued:
		a.report.Certificates++
		once(a.prints, ev.Fingerprint, "this certificate")
	case breakglass.Failed:
		a.report.Orphans += len(ev.Orphans)
	}
	if a.again != nil && r.NothingLeft() {
		a.over[digestOf(r.ID)] = past{first: r.Seq, rev: r.Rev, rows: rowsOf(sortedIndex(breakglass.Index(r)))}
		delete(a.requests, r.ID)
	}
}

// request returns the request that an entry is about as it was before, or nil if the entry says nothing more of it.
func (a *Auditor) request(e ledger.Entry, ev record.Event) (*breakglass.Request, error) {
	if r := a.requests[e.Stream]; r != nil {
		return r, nil
	}
	if !breakglass.ValidID(e.Stream) {
		return nil, fmt.Errorf("%q is not a request id", e.Stream)
	}
	id := digestOf(e.Stream)
	p, known := a.over[id]
	if !known {
		r := &breakglass.Request{ID: e.Stream}
		a.requests[e.Stream] = r
		a.report.Requests++
		return r, nil
	}
	if _, ok := ev.(record.Refused); ok && e.StreamSeq == p.rev+1 {
		p.rev++
		a.over[id] = p
		return nil, nil
	}
	r, err := a.recall(e.Stream, p)
	if err != nil {
		return nil, err
	}
	delete(a.over, id)
	a.requests[e.Stream] = r
	return r, nil
}

// recall reads again what was forgotten of a request.
func (a *Auditor) recall(id string, p past) (*breakglass.Request, error) {
	entries, err := a.again(id)
	if err == nil && int64(len(entries)) < p.rev {
		err = fmt.Errorf("it had %d entries and has %d", p.rev, len(entries))
	}
	var r *breakglass.Request
	if err == nil {
		r, err = breakglass.Fold(entries[:p.rev], true)
	}
	if err != nil {
		return nil, fmt.Errorf("reading request %s again: %w", id, err)
	}
	return r, nil
}

// agreed says why an approval does not count by the access policy that was in force: its key or account belonged to another person or to
// nobody, or was new. Policies that earlier releases recorded do not say.
func (a *Auditor) agreed(r *breakglass.Request, ev breakglass.Approved, at time.Time) error {
	p := a.policy.Policy
	if p == nil {
		return nil
	}
	if a.policy.Unconfirmed() {
		a.unagreed = append(a.unagreed, unagreed{ev.By, r.Ask.Profile})
	}
	if !p.Owns(ev.By) {
		return fmt.Errorf("%s approved by a key or account that no agreed access policy gave them", ev.By.Person)
	}
	if what, until := policy.Newest(a.policy.Cooling, ev.By, r.Ask.Quorum, r.Ask.Profile); at.Before(until) {
		return fmt.Errorf("%s approved although %s was new and counted from %s", ev.By.Person, what, until.UTC().Format(time.RFC3339))
	}
	return nil
}

// unagreed is an approval that rests on an access policy that no two people have agreed to.
type unagreed struct {
	by      record.Actor
	profile string
}

// confirmed takes it that two people have agreed to the access policy in force: approvals that count by it are agreed to as well.
func (a *Auditor) confirmed(p *policy.Policy) {
	a.unagreed = slices.DeleteFunc(a.unagreed, func(u unagreed) bool {
		profile, ok := p.Profile(u.profile)
		return ok && p.Owns(u.by) && p.Freeze(profile).Counts(u.by.Person)
	})
}

// addOther takes an entry that is not about a request.
func (a *Auditor) addOther(e ledger.Entry, ev record.Event) error {
	if strings.HasPrefix(e.Stream, campaign.Stream) {
		return a.campaign(e, ev)
	}
	belongs := false
	switch ev := ev.(type) {
	case policy.Loaded, policy.Proposed, policy.Dropped, policy.Signed:
		if belongs = e.Stream == policy.Stream; belongs {
			was := a.policy.Unconfirmed()
			err := a.policy.Apply(e, ev, true)
			if _, signed := ev.(policy.Signed); signed && err == nil && was && !a.policy.Unconfirmed() {
				a.confirmed(a.policy.Policy)
			}
			return err
		}
	case record.Refused, record.RefusedMore:
		belongs = e.Stream == record.RefusalStream
	case record.Heartbeat, record.ClockAccepted:
		belongs = e.Stream == record.DaemonStream
	case breakglass.AuditImported:
		belongs = e.Stream == breakglass.ImportStream
	case finding.CheckRun:
		belongs = e.Stream == finding.CheckStream
	case finding.Opened, finding.Over:
		if belongs = e.Stream == finding.Stream; belongs {
			return a.findings.Apply(e, ev)
		}
	case breakglass.CanaryOrdered, breakglass.CanaryDone:
		if belongs = strings.HasPrefix(e.Stream, breakglass.CanaryStream); belongs {
			return a.canary(e, ev)
		}
	}
	if !belongs {
		return fmt.Errorf("does not belong to this stream")
	}
	return nil
}

// Report returns what was found so far.
func (a *Auditor) Report() Report {
	report := a.report
	report.Unagreed = len(a.unagreed)
	for id, c := range a.campaigns {
		if c.Pages != c.Opened.Pages {
			report.Problems = append(slices.Clip(report.Problems), fmt.Sprintf("%s has %d of %d pages of items", id, c.Pages, c.Opened.Pages))
		}
	}
	return report
}

// Requests returns every request as the entries so far make it, in the order of the ledger: an Auditor of NewAuditor keeps them all.
// They are facts only if Report has no problem.
func (a *Auditor) Requests() []*breakglass.Request {
	return slices.SortedFunc(maps.Values(a.requests), func(x, y *breakglass.Request) int { return cmp.Compare(x.Seq, y.Seq) })
}

// Campaigns is Requests for campaigns.
func (a *Auditor) Campaigns() []*campaign.Campaign {
	return slices.SortedFunc(maps.Values(a.campaigns), func(x, y *campaign.Campaign) int { return cmp.Compare(x.Seq, y.Seq) })
}

func compareTags(a, b ledger.Tag) int {
	if c := strings.Compare(a.Name, b.Name); c != 0 {
		return c
	}
	return strings.Compare(a.Value, b.Value)
}

// auditPage is how many entries are read at one time.
const auditPage = 1000

// Audit replays a whole ledger and compares its index with the replay (I12). The memory that it takes is bounded by what is open, and
// about a hundred bytes for each request that is over.
func Audit(ctx context.Context, l *ledger.Ledger) (Report, error) {
	a := NewAuditor()
	a.again = func(stream string) ([]ledger.Entry, error) { return l.Stream(ctx, stream) }
	for from := int64(0); from < l.Size(); {
		entries, err := l.Entries(ctx, from, auditPage)
		if err != nil {
			return Report{}, fmt.Errorf("reading entries from %d: %w", from, err)
		}
		if len(entries) == 0 {
			return Report{}, fmt.Errorf("entry %d is missing", from)
		}
		for _, e := range entries {
			a.Add(e)
		}
		from += int64(len(entries))
	}
	if err := a.compareIndex(ctx, l); err != nil {
		return Report{}, fmt.Errorf("comparing the index: %w", err)
	}
	return a.Report(), nil
}

// compareIndex compares the store's index with what the entries make, stream by stream as the store yields it. The Auditor takes
// nothing more afterwards.
func (a *Auditor) compareIndex(ctx context.Context, l *ledger.Ledger) error {
	bad := func(format string, args ...any) {
		a.report.Problems = append(a.report.Problems, fmt.Sprintf(format, args...))
	}
	differs := func(stream string, got, want []ledger.Tag) {
		if !slices.Equal(got, want) {
			bad("the index rows of %s are %v, its entries make %v", stream, got, want)
		}
	}
	compared := map[string]bool{} // campaigns, which the report still needs
	compare := func(stream string, got []ledger.Tag) error {
		slices.SortFunc(got, compareTags)
		if r := a.requests[stream]; r != nil {
			differs(stream, got, sortedIndex(breakglass.Index(r)))
			delete(a.requests, stream)
			return nil
		}
		if c := a.campaigns[stream]; c != nil {
			differs(stream, got, sortedIndex(campaign.Index(c)))
			compared[stream] = true
			return nil
		}
		if c := a.canaries[stream]; c != nil {
			differs(stream, got, c.Index())
			return nil
		}
		p, known := a.over[digestOf(stream)]
		if !known {
			bad("the index has rows for %s, which is no request", stream)
			return nil
		}
		delete(a.over, digestOf(stream))
		if p.rows == rowsOf(got) {
			return nil
		}
		if !breakglass.ValidID(stream) {
			bad("the index rows of %s are %v, its entries make others", stream, got)
			return nil
		}
		r, err := a.recall(stream, p)
		if err == nil {
			differs(stream, got, sortedIndex(breakglass.Index(r)))
		}
		return err
	}
	var stream string
	var rows []ledger.Tag
	flush := func() error {
		if len(rows) == 0 {
			return nil
		}
		defer func() { rows = nil }()
		return compare(stream, rows)
	}
	err := l.AllTags(ctx, func(of string, tag ledger.Tag) error {
		if of != stream {
			if err := flush(); err != nil {
				return err
			}
			stream = of
		}
		rows = append(rows, tag)
		return nil
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return err
	}
	for stream := range a.requests {
		bad("the index has no rows for %s", stream)
	}
	for stream, c := range a.campaigns {
		if len(campaign.Index(c)) > 0 && !compared[stream] {
			bad("the index has no rows for %s", stream)
		}
	}
	for _, p := range a.over {
		if p.rows == (digest{}) {
			continue
		}
		first, err := l.Entries(ctx, p.first, 1)
		if err != nil || len(first) != 1 {
			return fmt.Errorf("reading entry %d: %w", p.first, err)
		}
		bad("the index has no rows for %s", first[0].Stream)
	}
	return nil
}

// canary is a canary of which the outcome is not recorded yet.
type canary struct {
	first int64 // the entry that ordered it
	breakglass.Canary
}

func (a *Auditor) canary(e ledger.Entry, ev record.Event) error {
	id := digestOf(e.Stream)
	if p, over := a.over[id]; over {
		return fmt.Errorf("the canary of entry %d is done", p.first)
	}
	c := a.canaries[e.Stream]
	if c == nil {
		c = &canary{first: e.Seq}
		a.canaries[e.Stream] = c
	}
	if err := c.Apply(ev); err != nil {
		return err
	}
	if c.Done == nil {
		return nil
	}
	delete(a.canaries, e.Stream)
	a.over[id] = past{first: c.first, rev: e.StreamSeq, rows: rowsOf(c.Index())}
	if c.Done.Fingerprint != "" {
		if before, used := a.prints[digestOf(c.Done.Fingerprint)]; used {
			return fmt.Errorf("this certificate was used by entry %d before", before)
		}
		a.prints[digestOf(c.Done.Fingerprint)] = e.Seq
	}
	return nil
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
	// Whether an approver can still be reached is not in the ledger; how many people are left is.
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
	since, here := campaign.Standings(after), later.Came()
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
