package breakglass

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// Bounds of free text, in runes. Slack shows at most 3000 in one text object.
const (
	MaxComment  = 500
	MaxIncident = 100
)

// MinTTL is the shortest lifetime that can be asked for: long enough for one command, short enough for a rehearsal to watch
// it end. The lifetimes in a profile are at least a minute.
const MinTTL = 5 * time.Second

// Config is what New needs. Recorder, InForce, Findings, Signer and Binder are required.
type Config struct {
	Recorder *record.Recorder
	InForce  *policy.InForce // which knows what is suspended: see campaign.Open
	Findings *finding.Book
	Policy   *policy.Policy // as the file has it; nil: it is broken, and the one in force stays in force
	Signer   Signer
	Binder   Binder

	// Prover, Examiner and Inventory are what is known of the clusters and authorities after the fact. Each may be nil: then
	// revocations are not proved, sessions not examined, and certificates that nobody ordered not looked for.
	Prover    Prover
	Examiner  Examiner
	Inventory Inventory

	// ClusterCA returns the PEM bundle by which people know a cluster's API servers, nil for their system's roots. Requests commit to
	// it. It may be nil.
	ClusterCA func(cluster string) []byte
	// ClusterWay returns what people need beside the address to reach a cluster. Requests commit to it as well. It may be nil.
	ClusterWay func(cluster string) Way

	// Clusters are the ids of all clusters that the Binder reaches: bindings in them are looked after also when no profile is
	// left that binds there. Default: those of the policy.
	Clusters []string
	// AcceptWeaker lets New put the policy in force whatever it adds or eases, although nobody has agreed to it.
	AcceptWeaker bool
	// Trouble says, in sentences, what is known to be wrong with a cluster so that a certificate for it would not be signed or not
	// be accepted. It makes no call to another system. It may be nil.
	Trouble func(cluster string) []string
	// SignTimeout bounds one signing call. Default 15 s.
	SignTimeout time.Duration
	// BindTimeout bounds one call to a cluster. Default 5 s.
	BindTimeout time.Duration
	// ReconcileBindingsEvery is how often the bindings in each cluster are compared with the active grants. Default 30 s.
	ReconcileBindingsEvery time.Duration
	// HeartbeatEvery is how often an entry proves that the daemon is alive. Default 10 min.
	HeartbeatEvery time.Duration
	// Grace is how long after its end a grant's audit events may still arrive: kube-apiserver sends them in batches, by
	// default at most 30 s late. Default 45 s.
	Grace time.Duration
	// ExamineFor is how long an examination that does not succeed is tried again before its report is made with gaps. Default 1 h.
	ExamineFor time.Duration
	// Reconcile is how often what the authorities have signed is compared with the ledger. Default 10 min.
	Reconcile time.Duration
	Version   string
}

// Service decides and records. It is the only writer of break-glass entries; each method that changes something appends to
// the ledger before any effect leaves the process and returns after the append is durable. Methods are safe for concurrent
// use. A no for the person is a *Refusal; every other error is internal. Run does everything that nobody asks for.
type Service struct {
	Recorder *record.Recorder
	InForce  *policy.InForce
	Findings *finding.Book

	cfg     Config
	ledger  *ledger.Ledger
	log     *slog.Logger
	asking  sync.Mutex      // requests are opened one at a time, so that the limits per person are exact
	repeats *record.Limiter // see often
	claims  chan claimJob
	stopped chan struct{} // closed when Run has ended: no claim is taken any more
	tracker *tracker

	reconciled reconciliations
}

// New puts the policy in force that the ledger says is, and then changes it to the one in cfg as InForce.Set does. What that
// would refuse does not keep the daemon from starting.
func New(ctx context.Context, cfg Config) (*Service, error) {
	if cfg.Recorder == nil || cfg.InForce == nil || cfg.Findings == nil || cfg.Signer == nil || cfg.Binder == nil {
		return nil, errors.New("breakglass: recorder, policy in force, findings, signer and binder are required")
	}
	setDefault(&cfg.SignTimeout, 15*time.Second)
	setDefault(&cfg.BindTimeout, 5*time.Second)
	setDefault(&cfg.ReconcileBindingsEvery, 30*time.Second)
	setDefault(&cfg.HeartbeatEvery, 10*time.Minute)
	setDefault(&cfg.Grace, 45*time.Second)
	setDefault(&cfg.ExamineFor, time.Hour)
	setDefault(&cfg.Reconcile, 10*time.Minute)
	s := &Service{Recorder: cfg.Recorder, InForce: cfg.InForce, Findings: cfg.Findings, cfg: cfg, ledger: cfg.Recorder.Ledger,
		log: cfg.Recorder.Log, repeats: record.NewLimiter(repeatsPerMinute, time.Minute), claims: make(chan claimJob),
		stopped: make(chan struct{}), tracker: newTracker(), reconciled: reconciliations{of: map[string]Reconciled{}}}
	for _, c := range s.cfg.Clusters {
		if s.cfg.Inventory != nil {
			s.reconciled.of[c] = Reconciled{} // not compared yet, which is to be seen
		}
	}
	open, err := s.tagged(ctx, tagOpen, tagTouched) // before any command can change one of them
	if err != nil {
		return nil, fmt.Errorf("reading open requests: %w", err)
	}
	s.tracker.fill(open)
	return s, s.InForce.Start(ctx, cfg.Policy, cfg.AcceptWeaker, s.policyTrouble)
}

// policyTrouble keeps the findings about the access policy.
func (s *Service) policyTrouble(ctx context.Context, t policy.Trouble) {
	f := finding.Opened{Key: t.Key, Check: "policy", Severity: finding.Warning, What: t.What, Next: t.Next}
	if t.Grave {
		f.Severity = finding.Critical
	}
	s.Findings.FindIf(ctx, t.Is, f, t.Over)
}

func setDefault(d *time.Duration, v time.Duration) {
	if *d <= 0 {
		*d = v
	}
}

// Policy is the access policy in force now. It is immutable.
func (s *Service) Policy() *policy.Policy { return s.InForce.Policy() }

// Trouble says what would keep a grant from being of use just now: requester and approvers are told before approvers are woken. Only
// what still needs a certificate has any.
func (s *Service) Trouble(r *Request) []string {
	if st := r.State(s.now()); s.cfg.Trouble == nil || st != StatePending && st != StateApproved {
		return nil
	}
	return s.cfg.Trouble(r.Ask.Cluster)
}

// now is the time for one operation: see [record.Recorder.Now].
func (s *Service) now() time.Time { return s.Recorder.Now() }

// repeatsPerMinute bounds what one person can do to one request again and again without changing anything for good: handing out
// its certificate, taking an approval back. Each is an entry that every later command on the request has to read.
const repeatsPerMinute = 10

// limitRepeats refuses what has been repeated too many times just now.
func (s *Service) limitRepeats(key string) error {
	if s.repeats.Allow(key, time.Now()) {
		return nil
	}
	return record.Refuse(record.ClassLimited, "limit/repeat", "wait a minute", "you have done this %d times within a minute", repeatsPerMinute)
}

// decision is a pure rule: from policy, request and time to one event, nothing (idempotent success) or a refusal.
type decision func(p *policy.Policy, r *Request, now time.Time) (record.Event, map[string]string, error)

// command is the one way in which a person's word on an existing request becomes a fact: load, decide, append; a lost race
// loads and decides again; a refusal is recorded.
func (s *Service) command(ctx context.Context, a record.Actor, name, id string, decide decision) (*Request, error) {
	if err := s.Policy().CheckKnown(a); err != nil {
		return nil, s.Recorder.Refused(ctx, a, name, record.RefusalStream, err)
	}
	full, err := s.Resolve(ctx, id)
	if err != nil {
		return nil, err
	}
	for {
		r, err := s.decide(ctx, a, full, nil, decide)
		switch {
		case errors.Is(err, ledger.ErrConflict):
			continue
		case r == nil: // there is no such request: a refusal must not begin its stream
			return nil, err
		}
		return r, s.Recorder.Refused(ctx, a, name, r.ID, err)
	}
}

// decide takes one decision on a request as it is now, by the policy in force, and records it before either can change: the
// append is refused with ErrConflict if the request has moved on, and a change of policy waits for it. The request is nil only
// if it could not be read. read, when not nil, is the request as it was read a moment ago: an event that follows from it is
// recorded if the request has not moved on, and everything else is decided on the request as it is now.
func (s *Service) decide(ctx context.Context, a record.Actor, id string, read *Request, decide decision) (*Request, error) {
	defer s.InForce.Hold()()
	take := func(r *Request) (after *Request, recorded bool, err error) {
		p, now := s.Policy(), s.now()
		if err := p.CheckKnown(a); err != nil {
			return r, false, err
		}
		ev, texts, err := decide(p, r, now)
		if err != nil || ev == nil {
			return r, false, err
		}
		after, err = s.append(ctx, r, r.Deadline(now), texts, ev)
		if err != nil {
			return r, false, err
		}
		return after, true, nil
	}
	if read != nil {
		if after, recorded, _ := take(read); recorded {
			return after, nil
		}
	}
	r, err := s.load(ctx, id)
	if err != nil {
		return nil, err
	}
	after, _, err := take(r)
	return after, err
}

// append records events of a request that was read at r.Rev and returns the request after them. The entries are refused with
// ErrConflict if the request has moved on, or if before (when not zero) has passed by the ledger's clock.
func (s *Service) append(ctx context.Context, r *Request, before time.Time, texts map[string]string, events ...record.Event) (*Request,
	error) {
	after := r.clone()
	drafts := make([]ledger.Draft, len(events))
	at := s.now()
	for i, ev := range events {
		drafts[i] = record.Draft(ev, nil)
		if i == 0 {
			drafts[i].Texts = texts
		}
		drafts[i].Before = before
		// The index is of the request as it will be. The ledger assigns position and time, which it does not depend on but for
		// the hour of the first entry.
		preview := ledger.Entry{Stream: r.ID, StreamSeq: after.Rev + 1, Kind: ev.Kind(), Time: at, Body: drafts[i].Body, Texts: drafts[i].Texts}
		if err := after.Apply(preview, ev, true); err != nil {
			return nil, fmt.Errorf("request %s: %s would not be valid: %w", r.ID, ev.Kind(), err)
		}
	}
	s.tracker.appending(r.ID)
	entries, err := s.ledger.Append(ctx, at, r.ID, r.Rev, Index(after), drafts...)
	if err != nil {
		s.tracker.appended(r.ID, nil)
		return nil, err
	}
	done := r.clone()
	for i, e := range entries {
		if err := done.Apply(e, events[i], false); err != nil {
			s.tracker.forget(r.ID)
			s.tracker.appended(r.ID, nil)
			return nil, fmt.Errorf("request %s: recorded, but not valid: %w", r.ID, err)
		}
	}
	s.tracker.appended(r.ID, done)
	return done, nil
}

// RecordStranger records that somebody who is in nobody's entry tried a command, for adapters that cannot name a person.
func (s *Service) RecordStranger(ctx context.Context, a record.Actor, command string) error {
	return s.Recorder.Refused(ctx, a, command, record.RefusalStream, s.Policy().CheckKnown(a))
}

func (s *Service) load(ctx context.Context, id string) (*Request, error) {
	entries, err := s.ledger.Stream(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("reading request %s: %w", id, err)
	}
	if len(entries) == 0 {
		return nil, record.Refuse(record.ClassUnknown, "unknown-request", "see: breakglass list", "there is no request %s", id)
	}
	return Fold(entries, false)
}
