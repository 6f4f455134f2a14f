package breakglass

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
)

// Auditor replays a ledger's entries through the state machine and collects everything that could not have happened: a
// certificate without its approvals, an event out of order, a second use of a key. It believes the entries' bytes; that they
// are the bytes that were logged is for the ledger package to verify. Feed it every entry in order, then read Report.
type Auditor struct {
	requests map[string]*Request
	keys     map[string]string // SPKI → request
	prints   map[string]string // fingerprint → request
	canaries map[string]*canary
	findings findings

	campaigns map[string]*Campaign
	policy    policyState
	unagreed  []unagreed
	later     bool // an approval of this release was seen: there is none of an earlier one after it
	report    AuditReport
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
	return &Auditor{requests: map[string]*Request{}, keys: map[string]string{}, prints: map[string]string{},
		canaries: map[string]*canary{}, findings: findings{open: map[string]Finding{}, settled: map[string]bool{}},
		campaigns: map[string]*Campaign{}}
}

// Add takes the next entry.
func (a *Auditor) Add(e ledger.Entry) {
	bad := func(format string, args ...any) {
		a.report.Problems = append(a.report.Problems, fmt.Sprintf("entry %d (%s, %s): ", e.Seq, e.Stream, e.Kind)+fmt.Sprintf(format, args...))
	}
	a.report.Entries++
	ev, err := Decode(e)
	if err != nil {
		a.report.Newer = a.report.Newer || errors.Is(err, ErrNewerRelease)
		bad("%v", err)
		return
	}
	if _, ok := ev.(Refused); ok {
		a.report.Refusals++
	}
	if !aboutRequest(e.Stream) {
		if err := a.addOther(e, ev); err != nil {
			bad("%v", err)
		}
		return
	}
	r := a.requests[e.Stream]
	if r == nil {
		if !ValidID(e.Stream) {
			bad("%q is not a request id", e.Stream)
			return
		}
		r = &Request{ID: e.Stream}
		a.requests[e.Stream] = r
		a.report.Requests++
	}
	if err := r.apply(e, ev, true); err != nil {
		bad("%v", err)
		return
	}
	once := func(seen map[string]string, key, what string) {
		if other, ok := seen[key]; ok && !(other == e.Stream && r.NotSigned > 0) { // the state machine has seen to it that it may
			bad("%s was used by %s before", what, other)
		}
		seen[key] = e.Stream
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
		once(a.keys, ev.SPKI, "this key")
	case Issued:
		a.report.Certificates++
		once(a.prints, ev.Fingerprint, "this certificate")
	case Failed:
		a.report.Orphans += len(ev.Orphans)
	}
}

// agreed says why an approval does not count by the access policy that was in force: its key or account belonged to another person or to
// nobody, or was new. Policies that earlier releases recorded do not say.
func (a *Auditor) agreed(r *Request, ev Approved, at time.Time) error {
	p := a.policy.policy
	if p == nil {
		return nil
	}
	if a.policy.unconfirmed() {
		a.unagreed = append(a.unagreed, unagreed{ev.By, r.Ask.Profile})
	}
	if !p.owns(ev.By) {
		return fmt.Errorf("%s approved by a key or account that no agreed access policy gave them", ev.By.Person)
	}
	if what, until := newest(a.policy.cooling, ev.By, r.Ask.Quorum, r.Ask.Profile); at.Before(until) {
		return fmt.Errorf("%s approved although %s was new and counted from %s", ev.By.Person, what, until.UTC().Format(time.RFC3339))
	}
	return nil
}

// unagreed is an approval that rests on an access policy that no two people have agreed to.
type unagreed struct {
	by      Actor
	profile string
}

// confirmed takes it that two people have agreed to the access policy in force: approvals that count by it are agreed to as well.
func (a *Auditor) confirmed(p *Policy) {
	a.unagreed = slices.DeleteFunc(a.unagreed, func(u unagreed) bool {
		profile, ok := p.Profile(u.profile)
		return ok && p.owns(u.by) && p.Freeze(profile).counts(u.by.Person)
	})
}

// addOther takes an entry that is not about a request.
func (a *Auditor) addOther(e ledger.Entry, ev Event) error {
	if strings.HasPrefix(e.Stream, CampaignStream) {
		return a.campaign(e, ev)
	}
	belongs := false
	switch ev := ev.(type) {
	case PolicyLoaded, PolicyProposed, PolicyDropped, PolicySigned:
		if belongs = e.Stream == PolicyStream; belongs {
			was := a.policy.unconfirmed()
			err := a.policy.apply(e, ev, true)
			if _, signed := ev.(PolicySigned); signed && err == nil && was && !a.policy.unconfirmed() {
				a.confirmed(a.policy.policy)
			}
			return err
		}
	case Refused:
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
			return a.canary(e.Stream, ev)
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
		if c.pages != c.Opened.Pages {
			report.Problems = append(slices.Clip(report.Problems), fmt.Sprintf("%s has %d of %d pages of items", id, c.pages, c.Opened.Pages))
		}
	}
	return report
}

// Requests returns every request as the entries so far make it, in the order of the ledger. They are facts only if Report has no
// problem.
func (a *Auditor) Requests() []*Request {
	return slices.SortedFunc(maps.Values(a.requests), func(x, y *Request) int { return cmp.Compare(x.Seq, y.Seq) })
}

// Campaigns is Requests for campaigns.
func (a *Auditor) Campaigns() []*Campaign {
	return slices.SortedFunc(maps.Values(a.campaigns), func(x, y *Campaign) int { return cmp.Compare(x.Seq, y.Seq) })
}

// Tags returns the index rows that the entries so far must have, by stream, each sorted: what the store's index is compared with.
func (a *Auditor) Tags() map[string][]ledger.Tag {
	out := map[string][]ledger.Tag{}
	for id, r := range a.requests {
		tags := indexOf(r)
		slices.SortFunc(tags, compareTags)
		out[id] = tags
	}
	for id, c := range a.canaries {
		if tags := c.index(); len(tags) > 0 {
			out[id] = tags
		}
	}
	for id, c := range a.campaigns {
		tags := indexOfCampaign(c)
		slices.SortFunc(tags, compareTags)
		out[id] = tags
	}
	return out
}

func compareTags(a, b ledger.Tag) int {
	if c := strings.Compare(a.Name, b.Name); c != 0 {
		return c
	}
	return strings.Compare(a.Value, b.Value)
}

// auditPage is how many entries are read at one time.
const auditPage = 1000

// Audit replays a whole ledger and compares its index with the replay (I12).
func Audit(ctx context.Context, l *ledger.Ledger) (AuditReport, error) {
	a := NewAuditor()
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
	want := a.Tags()
	have := map[string][]ledger.Tag{}
	err := l.AllTags(ctx, func(stream string, tag ledger.Tag) error {
		have[stream] = append(have[stream], tag)
		return nil
	})
	if err != nil {
		return AuditReport{}, fmt.Errorf("reading the index: %w", err)
	}
	report := a.Report()
	for id, tags := range want {
		got := slices.SortedFunc(slices.Values(have[id]), compareTags)
		if !slices.Equal(got, tags) {
			report.Problems = append(report.Problems, fmt.Sprintf("the index rows of %s are %v, its entries make %v", id, got, tags))
		}
		delete(have, id)
	}
	for id := range have {
		report.Problems = append(report.Problems, fmt.Sprintf("the index has rows for %s, which is no request", id))
	}
	return report, nil
}
