package finding

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// The bounds of findings: what is found may be in the hands of an attacker.
const (
	maxOpen   = 1000 // open in one budget, see budgetOf; beyond it see ErrTooMany
	perMinute = 30   // entries of one budget
	maxText   = 1000 // runes of a field
)

// Book records findings and knows the open ones. It is safe for concurrent use; what it says was recorded is durable.
type Book struct {
	rec    *record.Recorder
	policy *policy.InForce
	rate   *record.Limiter

	mu    sync.Mutex // held over the append, so that state and ledger never differ
	state State
}

// Open reads the findings that the ledger has.
func Open(ctx context.Context, rec *record.Recorder, inForce *policy.InForce) (*Book, error) {
	b := &Book{rec: rec, policy: inForce, rate: record.NewLimiter(perMinute, time.Minute), state: NewState()}
	entries, err := rec.Ledger.Stream(ctx, Stream)
	if err != nil {
		return nil, fmt.Errorf("reading the findings: %w", err)
	}
	for _, e := range entries {
		ev, err := Kinds.Decode(e)
		if err == nil {
			err = b.state.Apply(e, ev)
		}
		if err != nil {
			return nil, fmt.Errorf("ledger entry %d: %w", e.Seq, err)
		}
	}
	return b, nil
}

// Find records a finding, once: nothing is recorded while one of the same key says the same. A flood of findings is bounded:
// what is beyond it is refused with an error that wraps [ErrTooMany].
func (b *Book) Find(ctx context.Context, f Opened) error {
	f.What, f.Next = record.Clip(f.What, maxText), record.Clip(f.Next, maxText)
	b.mu.Lock()
	defer b.mu.Unlock()
	before, open := b.state.open[f.Key]
	if open && before.Opened == f {
		return nil
	}
	budget := budgetOf(f)
	if !open && b.ofBudget(budget) >= maxOpen || !b.rate.Allow(budget, time.Now()) {
		return fmt.Errorf("recording the finding %s: %w", record.Clip(f.Key, 200), ErrTooMany)
	}
	return b.record(ctx, nil, f)
}

// budgetOf names what a finding shares its bounds with: the same kind, in the same cluster, found by the same check. What strangers
// in one cluster can make the daemon find takes no room from another cluster, from another kind, such as a stream that went silent,
// nor from what the daemon's own look into the authority finds.
func budgetOf(f Opened) string {
	kind, _, _ := strings.Cut(f.Key, "/")
	return kind + "/" + f.Cluster + "/" + f.Check
}

// ofBudget counts the open findings of a budget.
func (b *Book) ofBudget(budget string) int {
	n := 0
	for _, open := range b.state.open {
		if budgetOf(open.Opened) == budget {
			n++
		}
	}
	return n
}

// FindNew is Find for what is found again and again in changing words: an open finding of that key stays as it is.
func (b *Book) FindNew(ctx context.Context, f Opened) error {
	if _, open := b.Get(f.Key); open {
		return nil
	}
	return b.Find(ctx, f)
}

// FindIf records a finding if it is so, and that it is over if it is not. What cannot be recorded is logged.
func (b *Book) FindIf(ctx context.Context, is bool, f Opened, over string) {
	var err error
	if is {
		err = b.Find(ctx, f)
	} else {
		err = b.Close(ctx, f.Key, over)
	}
	if err != nil {
		b.rec.Log.Error("recording a finding", slog.String("finding", f.Key), slog.Any("error", err))
	}
}

// Close records that a finding is no longer so. None of that key is no error.
func (b *Book) Close(ctx context.Context, key, how string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, open := b.state.open[key]; !open {
		return nil
	}
	return b.record(ctx, nil, Over{Key: key, How: record.Clip(how, maxText)})
}

// SettleByHand records that a responder has looked into findings, and what came of it. key is that of one finding, or, if it ends
// with a slash, what the keys of all of them begin with, for a flood. seen is the greatest Seq of the findings that they were shown:
// what has come, or has changed, since stays open. All are settled or none. It returns how many there were. The same certificate
// or name is found again when it is used again, and not because it is still in the authority's store.
func (b *Book) SettleByHand(ctx context.Context, a record.Actor, key string, seen int64, note string) (int, error) {
	release := b.policy.Hold()
	defer release()
	p := b.policy.Policy()
	err := p.CheckKnown(a)
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
		err = record.NeedNote(note, record.MinNote)
	}
	if err != nil {
		return 0, b.rec.Refused(ctx, a, "settle", record.RefusalStream, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var keys []string
	for k, f := range b.state.open {
		if kind == AcceptedCritical && f.Severity != Critical {
			continue // it is accepted, and to be seen until that time is over
		}
		if f.Seq <= seen && (k == key || strings.HasSuffix(key, "/") && strings.HasPrefix(k, key)) {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return 0, b.rec.Refused(ctx, a, "settle", record.RefusalStream, record.Refuse(record.ClassUnknown, "no-finding",
			"see: breakglass findings", "no finding that you were shown is open with the key %q", record.Clip(key, 100)))
	}
	slices.Sort(keys)
	var over []record.Event
	for _, k := range keys {
		over = append(over, Over{Key: k, How: "looked into by " + a.Person, By: &a})
	}
	return len(keys), b.record(ctx, map[string]string{"note": strings.TrimSpace(note)}, over...)
}

// record appends events, all or none, each with the same texts. Called with mu held.
func (b *Book) record(ctx context.Context, texts map[string]string, events ...record.Event) error {
	drafts := make([]ledger.Draft, len(events))
	for i, ev := range events {
		drafts[i] = record.Draft(ev, texts)
	}
	entries, err := b.rec.Ledger.Append(ctx, b.rec.Now(), Stream, ledger.AnyVersion, nil, drafts...)
	if err != nil {
		return fmt.Errorf("recording a finding: %w", err)
	}
	for i, ev := range events {
		err = errors.Join(err, b.state.Apply(entries[i], ev))
	}
	return err
}

// ReportAll brings the open findings of a check in a cluster to those given: new ones are opened, and the ones that the check no longer
// reports are over. After a check that was not complete none is over: it may only not have been seen.
func (b *Book) ReportAll(ctx context.Context, check, cluster string, complete bool, now []Opened) error {
	keep := map[string]bool{}
	var errs []error
	for _, f := range now {
		keep[f.Key] = true
		errs = append(errs, b.Find(ctx, f))
	}
	if !complete {
		return errors.Join(errs...)
	}
	for _, f := range b.Open() {
		if f.Check == check && f.Cluster == cluster && !keep[f.Key] {
			errs = append(errs, b.Close(ctx, f.Key, "the check does not find it any more"))
		}
	}
	return errors.Join(errs...)
}

// RecordCheck records one run of a scheduled or ordered check.
func (b *Book) RecordCheck(ctx context.Context, ev CheckRun) error {
	if _, err := b.rec.Ledger.Append(ctx, b.rec.Now(), CheckStream, ledger.AnyVersion, nil, record.Draft(ev, nil)); err != nil {
		return fmt.Errorf("recording a check: %w", err)
	}
	return nil
}

// Open lists the open findings, the gravest first, then the oldest.
func (b *Book) Open() []Finding {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]Finding, 0, len(b.state.open))
	for _, f := range b.state.open {
		out = append(out, f)
	}
	slices.SortFunc(out, func(x, y Finding) int {
		if d := y.Severity.Rank() - x.Severity.Rank(); d != 0 {
			return d
		}
		if d := x.Since.Compare(y.Since); d != 0 {
			return d
		}
		return strings.Compare(x.Key, y.Key)
	})
	return out
}

// Get returns the open finding of a key.
func (b *Book) Get(key string) (Finding, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, ok := b.state.open[key]
	return f, ok
}

// Settled reports whether a responder has settled a finding since it was last open.
func (b *Book) Settled(key string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state.settled[key]
}
