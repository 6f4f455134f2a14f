package breakglass

import (
	"context"
	"maps"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/record"
)

// AllStates lists every state, in the order of a request's life.
func AllStates() []State {
	return []State{StatePending, StateApproved, StateIssuing, StateActive, StateExpired, StateRevoked, StateFailed, StateDenied,
		StateWithdrawn, StateLapsed}
}

// Follow applies an event to a copy of a request and returns the copy.
func Follow(r *Request, at time.Time, ev record.Event) (*Request, error) {
	after := r.clone()
	return after, after.Apply(ledger.Entry{Stream: r.ID, StreamSeq: r.Rev + 1, Kind: ev.Kind(), Time: at}, ev, true)
}

// From is in which states the events of a request may happen, by kind.
func From() map[string][]State {
	out := maps.Clone(from)
	out[record.Refused{}.Kind()] = nil
	for kind, decode := range requestKinds {
		ev, err := decode([]byte(`{}`))
		if err != nil {
			panic(err)
		}
		if _, bounded := from[ev.Kind()]; !bounded && ev.Kind() == kind {
			out[kind] = nil
		}
	}
	return out
}

// ReportStuckBinding is what is done after a binding could not be taken away.
func (s *Service) ReportStuckBinding(ctx context.Context, r *Request, why error) error {
	return s.reportStuckBinding(ctx, r, why)
}

// Forged is an entry as a thief of the ledger's key would write it.
func Forged(seq int64, stream string, number int64, at time.Time, ev record.Event, texts map[string]string) ledger.Entry {
	d := record.Draft(ev, texts)
	return ledger.Entry{Seq: seq, Stream: stream, StreamSeq: number, Kind: d.Kind, Time: at, Body: d.Body, Texts: texts, Leaf: d.Body}
}

// Looks is how often Run has looked at what is to be done for a request.
func (s *Service) Looks() int {
	s.tracker.mu.Lock()
	defer s.tracker.mu.Unlock()
	return s.tracker.looks
}
