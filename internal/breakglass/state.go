package breakglass

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
	StateLapsed    State = "lapsed"    // nobody acted before its deadline
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
