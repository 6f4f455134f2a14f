package breakglass

import (
	"context"
	"fmt"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/record"
)

// Follower returns the requests that entries are about, for a messenger that is told of entries in their order. It reads the ledger as
// seldom as it can. It is for one goroutine.
type Follower struct {
	s    *Service
	seen map[string]*Request
	last int64 // Seq of the entry that was asked about last
}

// followed is how many requests a Follower remembers before it begins again.
const followed = 100

// Follow returns a Follower.
func (s *Service) Follow() *Follower { return &Follower{s: s, seen: map[string]*Request{}, last: -1} }

// Request returns the request that an entry is about as it is now, which may be later than the entry; do not modify it. It is nil for an
// entry that is about no request.
func (f *Follower) Request(ctx context.Context, e ledger.Entry, ev record.Event) (*Request, error) {
	if !ValidID(e.Stream) {
		return nil, nil
	}
	if e.Seq == f.last { // it could not be told the first time, and more may have happened since
		delete(f.seen, e.Stream)
	}
	f.last = e.Seq
	r, err := f.s.asOf(ctx, e, ev, f.seen[e.Stream])
	if err != nil {
		return nil, err
	}
	if len(f.seen) >= followed {
		clear(f.seen)
	}
	f.seen[e.Stream] = r
	return r, nil
}

// asOf returns the request that an entry is about as it is now, or as it is by the entry if that was appended just now. The ledger is
// read only for what the tracker does not know: r is what the caller read before, or nil.
func (s *Service) asOf(ctx context.Context, e ledger.Entry, ev record.Event, r *Request) (*Request, error) {
	if open := s.tracker.get(e.Stream); open != nil && (r == nil || r.Rev < open.Rev) {
		r = open
	}
	switch {
	case r != nil && r.Rev >= e.StreamSeq:
		return r, nil
	case r != nil && r.Rev == e.StreamSeq-1: // the appender has not told the tracker yet, or it was a refusal
		after := r.clone()
		if err := after.Apply(e, ev, false); err != nil {
			return nil, fmt.Errorf("ledger entry %d (%s) of request %s: %w", e.Seq, e.Kind, e.Stream, err)
		}
		return after, nil
	}
	return s.load(ctx, e.Stream)
}
