package breakglass

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/text"
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

// Ask is what a person wants. Empty TTL and Cluster mean the profile's default and its only cluster.
type Ask struct {
	Profile  string
	Cluster  string
	TTL      time.Duration
	Reason   string
	Incident string
	KeyHash  string // see Requested.KeyHash; empty when asked in Slack
}

// CheckAsk says whether the actor could open this request now, without opening it. It returns the fact that would be recorded.
func (s *Service) CheckAsk(_ context.Context, a record.Actor, ask Ask) (Requested, error) {
	p, now := s.Policy(), s.now()
	ev, err := decideAsk(p, a, ask, now)
	if err != nil {
		return ev, err
	}
	return s.withAftercare(p, ev, now), nil
}

// decideAsk is the pure rule for opening a request.
func decideAsk(p *policy.Policy, a record.Actor, ask Ask, now time.Time) (Requested, error) {
	if err := p.CheckKnown(a); err != nil {
		return Requested{}, err
	}
	prof, ok := p.Profile(ask.Profile)
	if !ok {
		return Requested{}, record.Refuse(record.ClassUnknown, "unknown-profile", "see what you may ask for: breakglass profiles",
			"there is no profile %q",
			record.Clip(ask.Profile, 40))
	}
	if !p.MayRequest(a.Person, prof) {
		return Requested{}, record.Refuse(record.ClassDenied, "not-eligible", "members of "+record.JoinAnd(prof.Requesters)+" can",
			"%s may not ask for %s", a.Person,
			prof.ID)
	}
	if ask.Cluster == "" && len(prof.Clusters) == 1 {
		ask.Cluster = prof.Clusters[0]
	}
	var bad record.Problems
	if !slices.Contains(prof.Clusters, ask.Cluster) {
		bad.Add("policy/cluster", "choose one of "+record.JoinAnd(prof.Clusters), "%s is not offered on cluster %q", prof.ID,
			record.Clip(ask.Cluster, 40))
	}
	if ask.TTL == 0 {
		ask.TTL = prof.TTL.Default
	}
	switch {
	case ask.TTL < MinTTL || ask.TTL%time.Second != 0:
		bad.Add("policy/ttl", "ask for whole seconds, at least "+text.Span(MinTTL), "a lifetime of %s is not possible", ask.TTL)
	case ask.TTL > prof.TTL.Max:
		bad.Add("policy/ttl", "ask for "+text.Span(prof.TTL.Max)+" or less", "%s is over the %s limit of %s", text.Span(ask.TTL),
			text.Span(prof.TTL.Max),
			prof.ID)
	}
	ask.Reason = strings.TrimSpace(ask.Reason)
	switch n := utf8.RuneCountInString(ask.Reason); {
	case n < prof.ReasonMin:
		bad.Add("policy/reason", "say what is broken, for the people who must approve it", "the reason has %d characters, %s wants at least %d",
			n, prof.ID, prof.ReasonMin)
	case n > record.MaxReason:
		bad.Add("policy/reason", "", "the reason has %d characters, at most %d fit", n, record.MaxReason)
	}
	if t := record.BadText(ask.Reason); t != "" {
		bad.Add("policy/reason", "", "the reason %s", t)
	}
	ask.Incident = strings.TrimSpace(ask.Incident)
	switch {
	case ask.Incident == "" && prof.Incident.Required:
		bad.Add("policy/incident", "name one that matches "+patternOf(prof), "%s needs an incident", prof.ID)
	case ask.Incident != "" && (utf8.RuneCountInString(ask.Incident) > MaxIncident || record.BadLine(ask.Incident)):
		bad.Add("policy/incident", "", "the incident is not a short line of text")
	case ask.Incident != "" && prof.Incident.Pattern != nil && !prof.Incident.Pattern.MatchString(ask.Incident):
		bad.Add("policy/incident", "name one that matches "+patternOf(prof), "%q is not an incident", ask.Incident)
	}
	if ask.KeyHash != "" && !record.IsHash(ask.KeyHash) {
		bad.Add("key-hash", "", "the key hash is not 64 hex digits")
	}
	if err := bad.Refusal(); err != nil {
		return Requested{}, err
	}
	if err := p.NotSuspended(policy.Eligibility{Person: a.Person, Part: policy.PartRequester, Profile: prof.ID,
		Cluster: ask.Cluster}); err != nil {
		return Requested{}, err
	}
	cl, _ := p.Cluster(ask.Cluster)
	return Requested{By: a, Cluster: cl.ID, Server: cl.Server, Profile: prof.ID, Rights: prof.Rights, TTLSeconds: int64(ask.TTL / time.Second),
		Incident: ask.Incident, KeyHash: ask.KeyHash, Quorum: p.FreezeOn(prof, cl.ID), Risk: prof.Risk,
		PendingUntil: now.Add(prof.PendingFor).UTC().Truncate(time.Second),
		ClaimSeconds: int64(prof.ClaimWithin / time.Second), PolicyDigest: p.Digest, Guards: prof.Guards}, nil
}

// Request opens a request and returns it.
func (s *Service) Request(ctx context.Context, a record.Actor, ask Ask) (*Request, error) {
	s.asking.Lock()
	defer s.asking.Unlock()
	for {
		r, err := s.openRequest(ctx, a, ask)
		if errors.Is(err, ledger.ErrConflict) { // the hour has passed, or the id is taken: the next one is not
			continue
		}
		return r, s.Recorder.Refused(ctx, a, "request", record.RefusalStream, err)
	}
}

// openRequest decides and records one request by the policy in force.
func (s *Service) openRequest(ctx context.Context, a record.Actor, ask Ask) (*Request, error) {
	defer s.InForce.Hold()()
	p, now := s.Policy(), s.now()
	ev, err := decideAsk(p, a, ask, now)
	if err == nil {
		err = s.withinLimits(ctx, p, a.Person, now)
	}
	if err == nil {
		ev = s.withAftercare(p, ev, now)
	}
	if err == nil {
		err = s.Recorder.CannotTake()
	}
	if err != nil {
		return nil, err
	}
	texts := map[string]string{"reason": strings.TrimSpace(ask.Reason)}
	// The index has the hour of the entry: it must be the hour in which the index was made.
	return s.append(ctx, &Request{ID: newID()}, s.now().Truncate(time.Hour).Add(time.Hour), texts, ev)
}

// withinLimits is the per-person limit. Decided in one goroutine at a time, under s.asking.
func (s *Service) withinLimits(ctx context.Context, p *policy.Policy, person string, now time.Time) error {
	if n := s.tracker.live(person, now); n >= p.Limits.OpenPerPerson {
		return record.Refuse(record.ClassLimited, "limit/open", "use or withdraw one of them first: breakglass list --mine",
			"you have %d open requests, at most %d are allowed", n, p.Limits.OpenPerPerson)
	}
	// All of this clock hour's requests are younger than an hour; of the last one's, those that are.
	recent, err := s.ledger.Streams(ctx, ledger.Tag{Name: "asked", Value: hourOf(person, now)})
	if err != nil {
		return fmt.Errorf("counting requests: %w", err)
	}
	before, err := s.tagged(ctx, ledger.Tag{Name: "asked", Value: hourOf(person, now.Add(-time.Hour))})
	if err != nil {
		return err
	}
	asked := len(recent)
	for _, r := range before {
		if now.Sub(r.At) < time.Hour {
			asked++
		}
	}
	if asked >= p.Limits.PerHour {
		return record.Refuse(record.ClassLimited, "limit/hour", "wait, or have a colleague ask",
			"you have opened %d requests within an hour, at most %d are allowed", asked, p.Limits.PerHour)
	}
	return nil
}

// Consent is what comes with an approval.
type Consent struct {
	Digest    string // what the person saw: the request's digest
	Comment   string
	Signature string // armored SSHSIG over ApprovalText; required by channel key
}

// Approve records one person's yes to exactly the digest. Saying yes twice is no error and no second vote.
func (s *Service) Approve(ctx context.Context, a record.Actor, id string, c Consent) (*Request, error) {
	return s.command(ctx, a, "approve", id, func(p *policy.Policy, r *Request, now time.Time) (record.Event, map[string]string, error) {
		ev, err := decideApprove(p, r, a, c, now)
		if err == nil && ev != nil {
			err = s.Recorder.CannotTake()
		}
		return ev, record.Optional("comment", c.Comment), err
	})
}

func decideApprove(p *policy.Policy, r *Request, a record.Actor, c Consent, now time.Time) (record.Event, error) {
	if err := mayApprove(p, r, a, now); err != nil {
		return nil, err
	}
	if !slices.Contains(r.Ask.Quorum.Channels, a.Channel) {
		next := "approve with: breakglass approve " + r.ID
		if a.Channel == record.ChannelKey {
			next = "approve in Slack"
		}
		return nil, record.Refuse(record.ClassPolicy, "policy/channel", next, "%s does not take approvals by %s", r.Ask.Profile, a.Channel)
	}
	if c.Digest != r.Digest {
		return nil, record.Refuse(record.ClassConflict, "stale", "look at it again", "this is not the request you saw")
	}
	if r.approvedBy(a.Person) {
		return nil, nil // idempotent: the same click again
	}
	if err := stillOpen(r, now); err != nil {
		return nil, err
	}
	if utf8.RuneCountInString(c.Comment) > MaxComment || record.BadLine(c.Comment) {
		return nil, record.Refuse(record.ClassInvalid, "comment", "", "the comment is longer than %d characters or has control characters",
			MaxComment)
	}
	if err := p.NotCooling(a, r.Ask.Quorum, r.Ask.Profile, now); err != nil {
		return nil, err
	}
	ev := Approved{By: a, Digest: c.Digest, TakenBack: r.TakenBack[a.Person]}
	if a.Channel == record.ChannelKey {
		var err error
		if ev.PublicKey, err = signingKey(p, a); err != nil {
			return nil, err
		}
		ev.Signature = c.Signature
		if err := ev.verify(r.ID, ev.Kind()); err != nil {
			return nil, badSignature("request", err)
		}
	}
	return ev, nil
}

// TakeBack withdraws the actor's own approval, possible until the claim.
func (s *Service) TakeBack(ctx context.Context, a record.Actor, id string) (*Request, error) {
	return s.command(ctx, a, "take-back", id, func(_ *policy.Policy, r *Request, now time.Time) (record.Event, map[string]string, error) {
		if err := stillOpen(r, now); err != nil {
			return nil, nil, err
		}
		if !r.approvedBy(a.Person) {
			return nil, nil, record.Refuse(record.ClassConflict, "no-approval", "", "you have not approved %s", r.ID)
		}
		if err := s.limitRepeats(r.ID + " " + a.Person); err != nil {
			return nil, nil, err
		}
		return ApprovalWithdrawn{By: a}, nil, nil
	})
}

// Deny ends a request for good. Everybody whose approval could count may deny; a reason is required.
func (s *Service) Deny(ctx context.Context, a record.Actor, id, reason string) (*Request, error) {
	return s.command(ctx, a, "deny", id, func(p *policy.Policy, r *Request, now time.Time) (record.Event, map[string]string, error) {
		if err := mayDeny(p, r, a, now); err != nil {
			return nil, nil, err
		}
		if r.Denied != nil && r.Denied.By.Person == a.Person {
			return nil, nil, nil
		}
		if err := record.NeedReason(reason); err != nil {
			return nil, nil, err
		}
		return Denied{By: a}, map[string]string{"reason": strings.TrimSpace(reason)}, nil
	})
}

// Withdraw takes the actor's own request back, possible until the claim. The reason may be empty.
func (s *Service) Withdraw(ctx context.Context, a record.Actor, id, reason string) (*Request, error) {
	return s.command(ctx, a, "withdraw", id, func(p *policy.Policy, r *Request, now time.Time) (record.Event, map[string]string, error) {
		if err := mayWithdraw(p, r, a, now); err != nil {
			return nil, nil, err
		}
		if r.Withdrawn != nil {
			return nil, nil, nil
		}
		if reason != "" {
			if err := record.NeedReason(reason); err != nil {
				return nil, nil, err
			}
		}
		return Withdrawn{By: a}, record.Optional("reason", reason), nil
	})
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

// Get returns one request by id or unique prefix of an open or recent one.
func (s *Service) Get(ctx context.Context, id string) (*Request, error) {
	full, err := s.Resolve(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.load(ctx, full)
}

// The rows of the index by which requests are listed; Index writes them.
var (
	tagOpen           = ledger.Tag{Name: "open", Value: "1"}
	tagTouched        = ledger.Tag{Name: "touched", Value: "1"}
	tagUnacknowledged = ledger.Tag{Name: "unacknowledged", Value: "1"}
)

// made lists the rows of requests that were made in the last so many days.
func (s *Service) made(days int) []ledger.Tag {
	tags := make([]ledger.Tag, 0, days+1)
	for d, now := 0, s.now(); d <= days; d++ {
		tags = append(tags, ledger.Tag{Name: "day", Value: now.AddDate(0, 0, -d).Format(time.DateOnly)})
	}
	return tags
}

// Open returns every request for which something can still happen, oldest first.
func (s *Service) Open(ctx context.Context) ([]*Request, error) { return s.tagged(ctx, tagOpen) }

// Since returns every request made in the last so many days and every open one, oldest first.
func (s *Service) Since(ctx context.Context, days int) ([]*Request, error) {
	return s.tagged(ctx, append(s.made(days), tagOpen)...)
}

// Set is a set of requests that can be read in pages.
type Set int

// The sets of requests.
const (
	SetOpen           Set = iota // as Open
	SetSince                     // as Since
	SetTouched                   // as Touched
	SetUnacknowledged            // as Unacknowledged
)

// Page returns the newest requests of a set that were made before a ledger entry, at most limit of them, oldest first, and says whether
// there are older ones. days is for SetSince. It reads nothing of the others.
func (s *Service) Page(ctx context.Context, set Set, days int, before int64, limit int) (page []*Request, more bool, err error) {
	var tags []ledger.Tag
	switch set {
	case SetOpen:
		tags = []ledger.Tag{tagOpen}
	case SetSince:
		tags = append(s.made(days), tagOpen)
	case SetTouched:
		tags = []ledger.Tag{tagTouched}
	case SetUnacknowledged:
		tags = []ledger.Tag{tagUnacknowledged}
	}
	streams, more, err := s.ledger.Newest(ctx, before, limit, tags...)
	if err != nil {
		return nil, false, fmt.Errorf("reading requests: %w", err)
	}
	page, err = foldAll(streams)
	return page, more, err
}

// tagged reads the requests that have one of the index's rows, oldest first, all in one read transaction.
func (s *Service) tagged(ctx context.Context, tags ...ledger.Tag) ([]*Request, error) {
	streams, _, err := s.ledger.Newest(ctx, math.MaxInt64, math.MaxInt32, tags...)
	if err != nil {
		return nil, fmt.Errorf("reading requests: %w", err)
	}
	return foldAll(streams)
}

func foldAll(streams [][]ledger.Entry) ([]*Request, error) {
	out := make([]*Request, len(streams))
	for i, entries := range streams {
		var err error
		if out[i], err = Fold(entries, false); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// partDays is how far back a part of an id is looked for. Older requests are named in full.
const partDays = 30

// bareID is an id, or a part of one, without what people leave out when they read it to each other.
func bareID(typed string) string {
	bare := strings.ReplaceAll(strings.TrimPrefix(strings.ToLower(strings.TrimSpace(typed)), "bg-"), "-", "")
	if len(bare) == len("bg7k3m9qx") { // else what begins so may be a part of it
		bare = strings.TrimPrefix(bare, "bg")
	}
	return bare
}

// Names reports whether an id as people type it, or a part of it, can stand for a request or a campaign.
func Names(typed, id string) bool {
	return bareID(typed) != "" && strings.Contains(bareID(id), bareID(typed))
}

// Resolve turns an id as people type it (upper case, without "bg-" or hyphens, or a unique part of it) into the whole id.
func (s *Service) Resolve(ctx context.Context, typed string) (string, error) {
	bare := bareID(typed)
	if len(bare) == len("7k3m9qx") {
		if id := "bg-" + bare[:4] + "-" + bare[4:]; ValidID(id) {
			return id, nil
		}
	}
	if len(bare) < 2 || len(bare) > 20 {
		return "", record.Refuse(record.ClassUnknown, "unknown-request", "see: breakglass list", "%q is not a request id", record.Clip(typed, 30))
	}
	recent, err := s.ledger.StreamNames(ctx, append(s.made(partDays), tagOpen)...)
	if err != nil {
		return "", fmt.Errorf("looking up a request: %w", err)
	}
	var begin, within []string
	for _, id := range recent {
		switch {
		case strings.HasPrefix(bareID(id), bare):
			begin = append(begin, id)
		case Names(bare, id):
			within = append(within, id)
		}
	}
	hits := begin
	if len(begin) == 0 {
		hits = within
	}
	switch len(hits) {
	case 1:
		return hits[0], nil
	case 0:
		return "", record.Refuse(record.ClassUnknown, "unknown-request", "see: breakglass list", "there is no request %s", record.Clip(typed, 30))
	}
	return "", record.Refuse(record.ClassUnknown, "ambiguous-request", "write more of it", "%s could be %s", record.Clip(typed, 30),
		record.JoinAnd(hits))
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

// Wait returns the request as soon as its revision is greater than rev or its state differs from the one it had, or when ctx
// is done, whichever is first; then it returns what is. An entry about another request costs a waiter nothing.
func (s *Service) Wait(ctx context.Context, id string, rev int64, was State) (*Request, error) {
	for {
		r, again, err := s.waitOnce(ctx, id, rev, was)
		if !again || err != nil {
			return r, err
		}
	}
}

// waitOnce looks at a request and, if it is as it was, waits for its next entry, its deadline or the end of ctx; then again is true.
func (s *Service) waitOnce(ctx context.Context, id string, rev int64, was State) (r *Request, again bool, err error) {
	news := s.ledger.Listen(id) // before the look, so that nothing is missed
	defer news.Close()
	if r, err = s.load(context.WithoutCancel(ctx), id); err != nil {
		return nil, false, err
	}
	now := s.now()
	if r.Rev > rev || was != "" && r.State(now) != was || ctx.Err() != nil {
		return r, false, nil
	}
	wctx, cancel := ctx, context.CancelFunc(func() {})
	if at := r.Deadline(now); !at.IsZero() {
		wctx, cancel = context.WithTimeout(ctx, at.Sub(now)+time.Millisecond)
	}
	defer cancel()
	if err := news.Wait(wctx); err != nil && wctx.Err() == nil {
		return nil, false, fmt.Errorf("waiting for request %s: %w", id, err)
	}
	return nil, true, nil
}

// stillOpen refuses commands that come after the end.
func stillOpen(r *Request, now time.Time) error {
	switch st := r.State(now); st {
	case StatePending, StateApproved:
		return nil
	case StateLapsed:
		why := "too few people approved it in time"
		if until := r.ClaimUntil(); !until.IsZero() {
			why = "it was approved, and not claimed until " + clockTime(until)
		}
		return record.Refuse(record.ClassExpired, "lapsed", "a new request is cheap: breakglass request", "%s has lapsed: %s", r.ID, why)
	case StateIssuing, StateActive, StateExpired, StateRevoked, StateFailed, StateDenied, StateWithdrawn:
		return record.Refuse(record.ClassConflict, "decided", "", "too late: %s is already %s", r.ID, st)
	}
	panic("unknown state")
}

// profileOrZero is the request's profile, or one that allows nothing if the policy has it no more.
func profileOrZero(p *policy.Policy, r *Request) *policy.Profile {
	if prof, ok := p.Profile(r.Ask.Profile); ok {
		return prof
	}
	return &policy.Profile{}
}

func patternOf(p *policy.Profile) string {
	if p.Incident.Pattern == nil {
		return "your incident's name"
	}
	return p.Incident.Pattern.String()
}

// newID makes a request id: bg-, six random characters (30 bits) and a check character. It is a name, not a secret.
func newID() string {
	var b [6]byte
	rand.Read(b[:])
	c := make([]byte, 6)
	for i, x := range b {
		c[i] = record.IDAlphabet[x&31]
	}
	return "bg-" + string(c[:4]) + "-" + string(c[4:]) + string(idCheck(c))
}

// idCheck is the check character: a weighted sum that changes with nearly every single typo and every swap of neighbours.
func idCheck(c []byte) byte {
	sum := 0
	for i, x := range c {
		sum += (2*i + 3) * strings.IndexByte(record.IDAlphabet, x)
	}
	return record.IDAlphabet[sum%31]
}

// ValidID reports whether a text is a request id in its one form, with the right check character.
func ValidID(id string) bool {
	if len(id) != len("bg-7k3m-9qx") || id[:3] != "bg-" || id[7] != '-' {
		return false
	}
	c := []byte(id[3:7] + id[8:])
	for _, x := range c {
		if strings.IndexByte(record.IDAlphabet, x) < 0 {
			return false
		}
	}
	return idCheck(c[:6]) == c[6]
}
