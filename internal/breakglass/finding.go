package breakglass

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/record"
)

// Severity grades findings and what a grant left behind.
type Severity string

// The severities.
const (
	SeverityInfo     Severity = "info"     // to know
	SeverityWarning  Severity = "warning"  // to put right in working hours
	SeverityCritical Severity = "critical" // to look at now
)

// Rank orders severities: greater is graver. An unknown one is the gravest, so that nothing is passed over.
func (v Severity) Rank() int {
	switch v {
	case SeverityInfo:
		return 1
	case SeverityWarning:
		return 2
	case SeverityCritical:
		return 3
	}
	return 4
}

// FindingOpened is something that a check discovered and that people must know. It stays open until a FindingOver of the same
// key; a later FindingOpened of the same key says how it has changed.
type FindingOpened struct {
	Key      string   `json:"key"`   // stable: what is wrong where, like "audit-silent/prod/https://10.0.0.1:6443"
	Check    string   `json:"check"` // who found it: "audit", "reconcile", "ca", "recertification"
	Cluster  string   `json:"cluster,omitempty"`
	Request  string   `json:"request,omitempty"` // the request it is about
	Severity Severity `json:"severity"`
	What     string   `json:"what"` // a sentence without a full stop
	Next     string   `json:"next"` // what to do
}

// FindingOver says that a finding is no longer so, or that a person has dealt with it: then By is set, and their note is a text of the
// entry.
type FindingOver struct {
	Key string        `json:"key"`
	How string        `json:"how,omitempty"` // in words
	By  *record.Actor `json:"by,omitempty"`
}

// findingKinds are the kinds of entries about findings.
var findingKinds = record.Kinds{
	"finding-opened/v1": record.As[FindingOpened],
	"finding-over/v1":   record.As[FindingOver],
}

// Finding is an open finding.
type Finding struct {
	FindingOpened
	Since time.Time // of the first entry since it was last over
	Seq   int64     // ledger index of the last entry about it
}

// ErrTooManyFindings is returned for a finding that is not recorded because there are too many, open or in a minute. Whoever
// found it must find it again later: a flood must not hide anything for good.
var ErrTooManyFindings = errors.New("too many findings")

// The bounds of findings: what is found may be in the hands of an attacker.
const (
	maxOpenFindings   = 1000 // open at one time of one budget, see budgetOf; beyond it see ErrTooManyFindings
	findingsPerMinute = 30   // entries of one budget
	maxFindingText    = 1000 // runes of a field
)

// findings is the fold of FindingStream. It is filled by New and kept up to date by Find and Over.
type findings struct {
	mu      sync.Mutex // held over the append, so that the fold and the ledger never differ
	open    map[string]Finding
	settled map[string]bool // keys that a person has dealt with since they were last open
	rate    *limiter
}

func (f *findings) apply(e ledger.Entry, ev record.Event) error {
	switch ev := ev.(type) {
	case FindingOpened:
		if ev.Key == "" || ev.Severity.Rank() > SeverityCritical.Rank() {
			return fmt.Errorf("finding without a key or a known severity")
		}
		since := e.Time
		if before, ok := f.open[ev.Key]; ok {
			since = before.Since
		}
		f.open[ev.Key] = Finding{FindingOpened: ev, Since: since, Seq: e.Seq}
		delete(f.settled, ev.Key)
	case FindingOver:
		if _, ok := f.open[ev.Key]; !ok {
			return fmt.Errorf("finding %q is over but was not open", ev.Key)
		}
		if ev.By != nil && ev.By.Person == "" {
			return fmt.Errorf("finding %q is settled by nobody", ev.Key)
		}
		delete(f.open, ev.Key)
		if ev.By != nil {
			f.settled[ev.Key] = true
		}
	default:
		return fmt.Errorf("does not belong to the findings")
	}
	return nil
}

// loadFindings folds what the ledger has.
func (s *Service) loadFindings(ctx context.Context) error {
	entries, err := s.ledger.Stream(ctx, FindingStream)
	if err != nil {
		return fmt.Errorf("reading the findings: %w", err)
	}
	for _, e := range entries {
		ev, err := Decode(e)
		if err == nil {
			err = s.findings.apply(e, ev)
		}
		if err != nil {
			return fmt.Errorf("ledger entry %d: %w", e.Seq, err)
		}
	}
	return nil
}

// Find records a finding, once: nothing is recorded while one of the same key says the same. A flood of findings is bounded:
// what is beyond it is refused with an error that wraps [ErrTooManyFindings].
func (s *Service) Find(ctx context.Context, f FindingOpened) error {
	f.What, f.Next = record.Clip(f.What, maxFindingText), record.Clip(f.Next, maxFindingText)
	s.findings.mu.Lock()
	defer s.findings.mu.Unlock()
	before, open := s.findings.open[f.Key]
	if open && before.FindingOpened == f {
		return nil
	}
	budget := budgetOf(f)
	if !open && s.findings.ofBudget(budget) >= maxOpenFindings || !s.findings.rate.allow(budget, time.Now()) {
		return fmt.Errorf("recording the finding %s: %w", record.Clip(f.Key, 200), ErrTooManyFindings)
	}
	return s.recordFindings(ctx, nil, f)
}

// budgetOf names what a finding shares its bounds with: the same kind, in the same cluster, found by the same check. What strangers
// in one cluster can make the daemon find takes no room from another cluster, from another kind, such as a stream that went silent,
// nor from what the daemon's own look into the authority finds.
func budgetOf(f FindingOpened) string {
	kind, _, _ := strings.Cut(f.Key, "/")
	return kind + "/" + f.Cluster + "/" + f.Check
}

// ofBudget counts the open findings of a budget.
func (f *findings) ofBudget(budget string) int {
	n := 0
	for _, open := range f.open {
		if budgetOf(open.FindingOpened) == budget {
			n++
		}
	}
	return n
}

// findNew is Find for what is found again and again in changing words: an open finding of that key stays as it is.
func (s *Service) findNew(ctx context.Context, f FindingOpened) error {
	s.findings.mu.Lock()
	_, open := s.findings.open[f.Key]
	s.findings.mu.Unlock()
	if open {
		return nil
	}
	return s.Find(ctx, f)
}

// Over records that a finding is no longer so. None of that key is no error.
func (s *Service) Over(ctx context.Context, key, how string) error {
	s.findings.mu.Lock()
	defer s.findings.mu.Unlock()
	if _, open := s.findings.open[key]; !open {
		return nil
	}
	return s.recordFindings(ctx, nil, FindingOver{Key: key, How: record.Clip(how, maxFindingText)})
}

// settledByHand is the kinds of findings that tell of what was once done. No check sees them end, so people settle them. Every
// other finding ends when the check that found it finds it put right.
var settledByHand = []string{acceptedCritical, unknownCertificate, unknownName}

// The kinds of findings that [Service.SettleByHand] takes.
const (
	acceptedCritical   = "accepted-critical" // once the time for which it was accepted is over
	unknownCertificate = "unknown-certificate"
	unknownName        = "unknown-name"
)

// SettleByHand records that a responder has looked into findings, and what came of it. key is that of one finding, or, if it ends
// with a slash, what the keys of all of them begin with, for a flood. seen is the greatest Seq of the findings that they were shown:
// what has come, or has changed, since stays open. All are settled or none. It returns how many there were. The same certificate
// or name is found again when it is used again, and not because it is still in the authority's store.
func (s *Service) SettleByHand(ctx context.Context, a record.Actor, key string, seen int64, note string) (int, error) {
	s.inForce.RLock()
	defer s.inForce.RUnlock()
	p := s.Policy()
	err := known(p, a)
	if err == nil && !p.MayRespond(a.Person) {
		err = record.Refuse(record.ClassDenied, "not-responder", "ask one of the responders in the access policy",
			"only responders can settle a finding")
	}
	kind, _, _ := strings.Cut(key, "/")
	if err == nil && !slices.Contains(settledByHand, kind) {
		err = record.Refuse(record.ClassConflict, "not-by-hand", "put right what it says; see: breakglass findings",
			"%q is no key of a finding that a person can settle: of these there are %s, and every other one ends by itself when its check finds "+
				"it put right",
			record.Clip(key, 100), record.JoinAnd(settledByHand))
	}
	if err == nil {
		err = needNote(note, MinNote)
	}
	if err != nil {
		return 0, s.recordRefusal(ctx, a, "settle", RefusalStream, err)
	}
	s.findings.mu.Lock()
	defer s.findings.mu.Unlock()
	var keys []string
	for k, f := range s.findings.open {
		if kind == acceptedCritical && f.Severity != SeverityCritical {
			continue // it is accepted, and to be seen until that time is over
		}
		if f.Seq <= seen && (k == key || strings.HasSuffix(key, "/") && strings.HasPrefix(k, key)) {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return 0, s.recordRefusal(ctx, a, "settle", RefusalStream, record.Refuse(record.ClassUnknown, "no-finding", "see: breakglass findings",
			"no finding that you were shown is open with the key %q", record.Clip(key, 100)))
	}
	slices.Sort(keys)
	var over []record.Event
	for _, k := range keys {
		over = append(over, FindingOver{Key: k, How: "looked into by " + a.Person, By: &a})
	}
	return len(keys), s.recordFindings(ctx, map[string]string{"note": strings.TrimSpace(note)}, over...)
}

// UnknownNameKey is the key of the finding that somebody acted under a name of ours without a certificate of it.
func UnknownNameKey(cluster, name string) string { return unknownName + "/" + cluster + "/" + name }

// isSettled reports whether a person has dealt with a finding since it was last open.
func (s *Service) isSettled(key string) bool {
	s.findings.mu.Lock()
	defer s.findings.mu.Unlock()
	return s.findings.settled[key]
}

// recordFindings appends events, all or none, each with the same texts. Called with mu held.
func (s *Service) recordFindings(ctx context.Context, texts map[string]string, events ...record.Event) error {
	drafts := make([]ledger.Draft, len(events))
	for i, ev := range events {
		drafts[i] = record.Draft(ev, texts)
	}
	entries, err := s.ledger.Append(ctx, s.now(), FindingStream, ledger.AnyVersion, nil, drafts...)
	if err != nil {
		return fmt.Errorf("recording a finding: %w", err)
	}
	for i, ev := range events {
		err = errors.Join(err, s.findings.apply(entries[i], ev))
	}
	return err
}

// Settle brings the open findings of a check in a cluster to those given: new ones are opened, and the ones that the check does
// not report any more are over. After a check that was not complete none is over: it may only not have been seen.
func (s *Service) Settle(ctx context.Context, check, cluster string, complete bool, now []FindingOpened) error {
	keep := map[string]bool{}
	var errs []error
	for _, f := range now {
		keep[f.Key] = true
		errs = append(errs, s.Find(ctx, f))
	}
	if !complete {
		return errors.Join(errs...)
	}
	for _, f := range s.Findings() {
		if f.Check == check && f.Cluster == cluster && !keep[f.Key] {
			errs = append(errs, s.Over(ctx, f.Key, "the check does not find it any more"))
		}
	}
	return errors.Join(errs...)
}

// Findings lists the open findings, the gravest first, then the oldest.
func (s *Service) Findings() []Finding {
	s.findings.mu.Lock()
	defer s.findings.mu.Unlock()
	out := make([]Finding, 0, len(s.findings.open))
	for _, f := range s.findings.open {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b Finding) int {
		if d := b.Severity.Rank() - a.Severity.Rank(); d != 0 {
			return d
		}
		if d := a.Since.Compare(b.Since); d != 0 {
			return d
		}
		return strings.Compare(a.Key, b.Key)
	})
	return out
}

// finding returns the open finding of a key.
func (s *Service) finding(key string) (Finding, bool) {
	s.findings.mu.Lock()
	defer s.findings.mu.Unlock()
	f, ok := s.findings.open[key]
	return f, ok
}
