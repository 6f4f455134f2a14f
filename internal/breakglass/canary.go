package breakglass

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// canary is the fold of one canary's stream: a certificate that gives no right, signed to prove that the whole path works.
type canary struct {
	first   int64 // the entry that ordered it, where that is needed
	ordered *CanaryOrdered
	done    *CanaryDone
}

func (c *canary) apply(ev record.Event) error {
	switch ev := ev.(type) {
	case CanaryOrdered:
		if c.ordered != nil {
			return fmt.Errorf("ordered twice")
		}
		if !strings.HasPrefix(ev.CommonName, policy.CanaryPrefix) {
			return fmt.Errorf("a canary by the name %q", ev.CommonName)
		}
		c.ordered = &ev
	case CanaryDone:
		if c.ordered == nil || c.done != nil {
			return fmt.Errorf("done without being ordered, or twice")
		}
		c.done = &ev
	default:
		return fmt.Errorf("does not belong to a canary")
	}
	return nil
}

// index is the canary's rows in the rebuildable index: its certificate is found like any other.
func (c *canary) index() []ledger.Tag {
	if c.done == nil || c.done.Fingerprint == "" {
		return nil
	}
	return []ledger.Tag{{Name: "fingerprint", Value: c.done.Fingerprint, Unique: true}}
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
	if err := c.apply(ev); err != nil {
		return err
	}
	if c.done == nil {
		return nil
	}
	delete(a.canaries, e.Stream)
	a.over[id] = past{first: c.first, rev: e.StreamSeq, rows: rowsOf(c.index())}
	if c.done.Fingerprint != "" {
		if before, used := a.prints[digestOf(c.done.Fingerprint)]; used {
			return fmt.Errorf("this certificate was used by entry %d before", before)
		}
		a.prints[digestOf(c.done.Fingerprint)] = e.Seq
	}
	return nil
}

// OrderCanary records the intent to sign a canary, durably, before anything is signed. The nonce is in its common name.
func (s *Service) OrderCanary(ctx context.Context, nonce string, ev CanaryOrdered) error {
	if err := (&canary{}).apply(ev); err != nil {
		return fmt.Errorf("recording a canary: %w", err)
	}
	if _, err := s.ledger.Append(ctx, s.now(), CanaryStream+nonce, 0, nil, record.Draft(ev, nil)); err != nil {
		return fmt.Errorf("recording a canary: %w", err)
	}
	return nil
}

// FinishCanary records what became of a canary that was ordered.
func (s *Service) FinishCanary(ctx context.Context, nonce string, ev CanaryDone) error {
	c := canary{ordered: &CanaryOrdered{}, done: &ev}
	if _, err := s.ledger.Append(ctx, s.now(), CanaryStream+nonce, 1, c.index(), record.Draft(ev, nil)); err != nil {
		return fmt.Errorf("recording what became of a canary: %w", err)
	}
	return nil
}

// openCanary returns the canary of a name that was ordered, and when, while it is not recorded what became of it; nil otherwise.
func (s *Service) openCanary(ctx context.Context, commonName string) (*CanaryOrdered, time.Time, error) {
	entries, err := s.ledger.Stream(ctx, CanaryStream+commonName[strings.LastIndexByte(commonName, ':')+1:])
	if err != nil || len(entries) != 1 {
		return nil, time.Time{}, err
	}
	ev, err := Decode(entries[0])
	ordered, ok := ev.(CanaryOrdered)
	if err != nil || !ok || ordered.CommonName != commonName {
		return nil, time.Time{}, err
	}
	return &ordered, entries[0].Time, nil
}

// CanaryWithin is how long after its order a canary may be under way: longer than a check of the CAs takes, a minute, and than an API
// server keeps its audit events back.
const CanaryWithin = 10 * time.Minute

// CanaryUnderWay reports whether a canary of that name was ordered for a cluster a moment ago. Audit events of it can arrive before
// it is recorded under which fingerprint it was signed.
func (s *Service) CanaryUnderWay(ctx context.Context, cluster, commonName string) (bool, error) {
	ordered, at, err := s.openCanary(ctx, commonName)
	return ordered != nil && ordered.Cluster == cluster && s.now().Sub(at) < CanaryWithin, err
}

// RecordCheck records one run of a scheduled or ordered check.
func (s *Service) RecordCheck(ctx context.Context, ev CheckRun) error {
	if _, err := s.ledger.Append(ctx, s.now(), CheckStream, ledger.AnyVersion, nil, record.Draft(ev, nil)); err != nil {
		return fmt.Errorf("recording a check: %w", err)
	}
	return nil
}
