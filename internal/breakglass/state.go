package breakglass

import (
	"fmt"
	"slices"
	"time"

	"github.com/breakglassd/breakglass/internal/record"
)

// State is where a request stands. It is computed from the recorded facts and a time, never stored.
type State string

// The states; the package comment draws how one becomes another.
const (
	StatePending   State = "pending"   // waiting for approvals
	StateApproved  State = "approved"  // quorum reached, worth one certificate until ClaimUntil
	StateIssuing   State = "issuing"   // claimed: a certificate may exist, the outcome is not recorded yet
	StateActive    State = "active"    // a certificate is out and valid
	StateExpired   State = "expired"   // its certificate's time is over
	StateRevoked   State = "revoked"   // cut off before its time
	StateFailed    State = "failed"    // claimed, but no usable certificate came of it
	StateDenied    State = "denied"    // an approver said no
	StateWithdrawn State = "withdrawn" // its requester took it back
	StateLapsed    State = "lapsed"    // its deadline passed before it was claimed
)

// Known reports whether a text from elsewhere is one of the states.
func (s State) Known() bool {
	switch s {
	case StatePending, StateApproved, StateIssuing, StateActive, StateExpired, StateRevoked, StateFailed, StateDenied, StateWithdrawn,
		StateLapsed:
		return true
	}
	return false
}

// Terminal reports whether nothing but bookkeeping can follow.
func (s State) Terminal() bool {
	switch s {
	case StatePending, StateApproved, StateIssuing, StateActive:
		return false
	case StateExpired, StateRevoked, StateFailed, StateDenied, StateWithdrawn, StateLapsed:
		return true
	}
	panic("unknown state " + string(s))
}

// from says in which states an event may happen. One that is not in it may happen in every state, and its rule says the rest. The
// package comment has the same table, with what each event leads to.
var from = map[string][]State{
	Approved{}.Kind():          {StatePending, StateApproved},
	ApprovalWithdrawn{}.Kind(): {StatePending, StateApproved},
	Denied{}.Kind():            {StatePending, StateApproved},
	Withdrawn{}.Kind():         {StatePending, StateApproved},
	Claimed{}.Kind():           {StateApproved},
	Issued{}.Kind():            {StateIssuing},
	Failed{}.Kind():            {StateIssuing},
	NotSigned{}.Kind():         {StateIssuing},
	Delivered{}.Kind():         {StateActive},
	Revoked{}.Kind():           {StateApproved, StateActive}, // before the claim, it ends what would have become a certificate
	// A binding may be recorded a moment after the clock or a revocation ended the grant: it is then taken away again.
	Bound{}.Kind():           {StateActive, StateExpired, StateRevoked},
	Unbound{}.Kind():         {StateExpired, StateRevoked},
	Ended{}.Kind():           {StateLapsed, StateExpired},
	Receipt{}.Kind():         {StateRevoked},
	SessionReported{}.Kind(): {StateExpired, StateRevoked},
	Swept{}.Kind():           {StateExpired, StateRevoked},
	Closed{}.Kind():          {StateExpired, StateRevoked},
}

// allows refuses an event that cannot happen in the state that the request has at a time.
func (r *Request) allows(ev record.Event, at time.Time) error {
	states, bounded := from[ev.Kind()]
	if !bounded {
		return nil
	}
	if state := r.State(at); !slices.Contains(states, state) {
		return fmt.Errorf("not possible while %s", state)
	}
	return nil
}
