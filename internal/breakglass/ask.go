package breakglass

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/text"
)

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

func patternOf(p *policy.Profile) string {
	if p.Incident.Pattern == nil {
		return "your incident's name"
	}
	return p.Incident.Pattern.String()
}
