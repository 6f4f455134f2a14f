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

// Canary is the fold of one canary's stream: a certificate that gives no right, signed to prove that the whole path works.
type Canary struct {
	Ordered *CanaryOrdered
	Done    *CanaryDone // nil: under way
}

// Apply takes the next entry of a canary. An error says why it cannot follow.
func (c *Canary) Apply(ev record.Event) error {
	switch ev := ev.(type) {
	case CanaryOrdered:
		if c.Ordered != nil {
			return fmt.Errorf("ordered twice")
		}
		if !strings.HasPrefix(ev.CommonName, policy.CanaryPrefix) {
			return fmt.Errorf("a canary by the name %q", ev.CommonName)
		}
		c.Ordered = &ev
	case CanaryDone:
		if c.Ordered == nil || c.Done != nil {
			return fmt.Errorf("done without being ordered, or twice")
		}
		c.Done = &ev
	default:
		return fmt.Errorf("does not belong to a canary")
	}
	return nil
}

// Index is the canary's rows in the rebuildable index: its certificate is found like any other.
func (c *Canary) Index() []ledger.Tag {
	if c.Done == nil || c.Done.Fingerprint == "" {
		return nil
	}
	return []ledger.Tag{{Name: "fingerprint", Value: c.Done.Fingerprint, Unique: true}}
}

// OrderCanary records the intent to sign a canary, durably, before anything is signed. The nonce is in its common name.
func (s *Service) OrderCanary(ctx context.Context, nonce string, ev CanaryOrdered) error {
	if err := (&Canary{}).Apply(ev); err != nil {
		return fmt.Errorf("recording a canary: %w", err)
	}
	if _, err := s.ledger.Append(ctx, s.now(), CanaryStream+nonce, 0, nil, record.Draft(ev, nil)); err != nil {
		return fmt.Errorf("recording a canary: %w", err)
	}
	return nil
}

// FinishCanary records what became of a canary that was ordered.
func (s *Service) FinishCanary(ctx context.Context, nonce string, ev CanaryDone) error {
	c := Canary{Ordered: &CanaryOrdered{}, Done: &ev}
	if _, err := s.ledger.Append(ctx, s.now(), CanaryStream+nonce, 1, c.Index(), record.Draft(ev, nil)); err != nil {
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
	ev, err := Kinds.Decode(entries[0])
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
