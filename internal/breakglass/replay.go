package breakglass

import (
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/record"
)

// What an audit of a whole ledger needs of a request: see package verify.

// Apply takes the next entry of a request. With proof, signatures are checked as well. An error says why the entry cannot follow.
func (r *Request) Apply(e ledger.Entry, ev record.Event, proof bool) error {
	return r.apply(e, ev, proof)
}

// Index is a request's rows in the rebuildable index.
func Index(r *Request) []ledger.Tag { return indexOf(r) }
