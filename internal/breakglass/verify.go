package breakglass

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

	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// Auditor replays a ledger's entries through the state machine and collects everything that could not have happened: a
// certificate without its approvals, an event out of order, a second use of a key. It believes the entries' bytes; that they
// are the bytes that were logged is for the ledger package to verify. Feed it every entry in order, then read Report.
type Auditor struct {
	requests map[string]*Request // all of them, or with again those for which something can still happen
	canaries map[string]*canary  // that are under way
	over     map[digest]past     // the other requests, and the canaries that are done
	keys     map[digest]int64    // by SPKI: the entry that claimed with it
	prints   map[digest]int64    // by fingerprint: the entry that issued it
	findings findings

	// again reads the entries of one stream once more, for the rare word that comes when everything is over. Without it nothing is
	// forgotten.
	again func(stream string) ([]ledger.Entry, error)

	campaigns map[string]*campaign.Campaign
	policy    policy.State
	unagreed  []unagreed
	later     bool // an approval of this release was seen: there is none of an earlier one after it
	report    AuditReport
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

// AuditReport is what an audit found.
type AuditReport struct {
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
	return &Auditor{requests: map[string]*Request{}, canaries: map[string]*canary{}, over: map[digest]past{}, keys: map[digest]int64{},
		prints: map[digest]int64{}, findings: findings{open: map[string]Finding{}, settled: map[string]bool{}},
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
	case Refused:
		a.report.Refusals++
	case RefusedMore:
		a.report.Refusals += ev.Total()
	}
	if !aboutRequest(e.Stream) {
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
	if err := r.apply(e, ev, true); err != nil {
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
	case Approved:
		a.report.Approvals++
		if ev.Signature != "" {
			a.report.Signed++
		}
		switch {
		case e.Kind != approvedV1:
			a.later = true
		case a.later:
			bad("an approval as earlier releases made them, after one of a later release: its signature may have counted before")
		case ev.Signature != "" && r.TakenBack[ev.By.Person] > 0:
			a.report.Repeated++
		}
		if err := a.agreed(r, ev, e.Time); err != nil {
			bad("%v", err)
		}
	case Claimed:
		if ev.SPKI != claimed { // the state machine has seen to it that nothing was signed for the claim before
			once(a.keys, ev.SPKI, "this key")
		}
	case Issued:
		a.report.Certificates++
		once(a.prints, ev.Fingerprint, "this certificate")
	case Failed:
		a.report.Orphans += len(ev.Orphans)
	}
	if a.again != nil && r.settled() {
		a.over[digestOf(r.ID)] = past{first: r.Seq, rev: r.Rev, rows: rowsOf(sortedIndex(indexOf(r)))}
		delete(a.requests, r.ID)
	}
}

// request returns the request that an entry is about as it was before, or nil if the entry says nothing more of it.
func (a *Auditor) request(e ledger.Entry, ev record.Event) (*Request, error) {
	if r := a.requests[e.Stream]; r != nil {
		return r, nil
	}
	if !ValidID(e.Stream) {
		return nil, fmt.Errorf("%q is not a request id", e.Stream)
	}
	id := digestOf(e.Stream)
	p, known := a.over[id]
	if !known {
		r := &Request{ID: e.Stream}
		a.requests[e.Stream] = r
		a.report.Requests++
		return r, nil
	}
	if _, ok := ev.(Refused); ok && e.StreamSeq == p.rev+1 {
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
func (a *Auditor) recall(id string, p past) (*Request, error) {
	entries, err := a.again(id)
	if err == nil && int64(len(entries)) < p.rev {
		err = fmt.Errorf("it had %d entries and has %d", p.rev, len(entries))
	}
	var r *Request
	if err == nil {
		r, err = Fold(entries[:p.rev])
	}
	if err != nil {
		return nil, fmt.Errorf("reading request %s again: %w", id, err)
	}
	return r, nil
}

// agreed says why an approval does not count by the access policy that was in force: its key or account belonged to another person or to
// nobody, or was new. Policies that earlier releases recorded do not say.
func (a *Auditor) agreed(r *Request, ev Approved, at time.Time) error {
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
		if belongs = e.Stream == PolicyStream; belongs {
			was := a.policy.Unconfirmed()
			err := a.policy.Apply(e, ev, true)
			if _, signed := ev.(policy.Signed); signed && err == nil && was && !a.policy.Unconfirmed() {
				a.confirmed(a.policy.Policy)
			}
			return err
		}
	case Refused, RefusedMore:
		belongs = e.Stream == RefusalStream
	case Heartbeat, ClockAccepted:
		belongs = e.Stream == DaemonStream
	case AuditImported:
		belongs = e.Stream == ImportStream
	case CheckRun:
		belongs = e.Stream == CheckStream
	case FindingOpened, FindingOver:
		if belongs = e.Stream == FindingStream; belongs {
			return a.findings.apply(e, ev)
		}
	case CanaryOrdered, CanaryDone:
		if belongs = strings.HasPrefix(e.Stream, CanaryStream); belongs {
			return a.canary(e, ev)
		}
	}
	if !belongs {
		return fmt.Errorf("does not belong to this stream")
	}
	return nil
}

// Report returns what was found so far.
func (a *Auditor) Report() AuditReport {
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
func (a *Auditor) Requests() []*Request {
	return slices.SortedFunc(maps.Values(a.requests), func(x, y *Request) int { return cmp.Compare(x.Seq, y.Seq) })
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
func Audit(ctx context.Context, l *ledger.Ledger) (AuditReport, error) {
	a := NewAuditor()
	a.again = func(stream string) ([]ledger.Entry, error) { return l.Stream(ctx, stream) }
	for from := int64(0); from < l.Size(); {
		entries, err := l.Entries(ctx, from, auditPage)
		if err != nil {
			return AuditReport{}, fmt.Errorf("reading entries from %d: %w", from, err)
		}
		if len(entries) == 0 {
			return AuditReport{}, fmt.Errorf("entry %d is missing", from)
		}
		for _, e := range entries {
			a.Add(e)
		}
		from += int64(len(entries))
	}
	if err := a.compareIndex(ctx, l); err != nil {
		return AuditReport{}, fmt.Errorf("comparing the index: %w", err)
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
			differs(stream, got, sortedIndex(indexOf(r)))
			delete(a.requests, stream)
			return nil
		}
		if c := a.campaigns[stream]; c != nil {
			differs(stream, got, sortedIndex(campaign.Index(c)))
			compared[stream] = true
			return nil
		}
		if c := a.canaries[stream]; c != nil {
			differs(stream, got, c.index())
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
		if !aboutRequest(stream) {
			bad("the index rows of %s are %v, its entries make others", stream, got)
			return nil
		}
		r, err := a.recall(stream, p)
		if err == nil {
			differs(stream, got, sortedIndex(indexOf(r)))
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
