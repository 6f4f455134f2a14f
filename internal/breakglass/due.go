package breakglass

import (
	"slices"
	"time"
)

// work is what the daemon has to do for a request by itself.
type work int

const (
	workEnd          work = iota // record what the clock decided
	workBind                     // make the binding exist
	workUnbind                   // make it not exist
	workResolveClaim             // find out what became of a claim whose outcome is not recorded
	workProve                    // ask the API servers whether a revoked certificate is refused
	workExamine                  // report what was done, and look for what was left behind
	workOverdue                  // record that a closing note or an acknowledgement did not come
)

// exclusion is what a work must not overlap with, for the same request: what makes and takes away rights is done one after the other,
// and each of the others does not wait for a cluster that does not answer one of them.
func (w work) exclusion() work {
	switch w {
	case workBind, workUnbind, workResolveClaim:
		return workBind
	case workEnd, workProve, workExamine, workOverdue:
	}
	return w
}

// timing is the times that due goes by.
type timing struct {
	outcome time.Duration // how long a claim may stay without an outcome before it is looked into: longer than any signing call lasts
	audit   time.Duration // how long after its end a grant's audit events may still arrive
}

// unbindPatience is how long after a grant's end its report, sweep and proof wait for its binding to be gone. A cluster that is away,
// or a finalizer that somebody put on the binding, must not keep them from being made.
const unbindPatience = 15 * time.Second

// due decides what to do next for a request, each work beside the others; at is when to look again (zero: when something happens).
func due(r *Request, now time.Time, wait timing) (works []work, at time.Time) {
	binding := r.Ask.Rights.Binding()
	switch r.State(now) {
	case StatePending, StateApproved:
		return nil, r.Deadline(now)
	case StateIssuing:
		if at := r.ClaimedAt.Add(wait.outcome); now.Before(at) {
			return nil, at
		}
		return []work{workResolveClaim}, now
	case StateActive:
		if binding && !r.Bound {
			works = append(works, workBind)
		}
		return works, r.Issued.NotAfter
	case StateExpired, StateRevoked:
		if r.Bound {
			works = append(works, workUnbind)
			if at := r.EndedBy(now).Add(unbindPatience); now.Before(at) {
				return works, at
			}
		}
		if r.State(now) == StateExpired && r.Ended == nil {
			return append(works, workEnd), now
		}
		more, at := aftercareDue(r, now, wait)
		return append(works, more...), at
	case StateLapsed:
		if r.Ended == nil {
			return []work{workEnd}, now
		}
	case StateFailed, StateDenied, StateWithdrawn:
	}
	return nil, time.Time{}
}

// aftercareDue is what is due for a grant whose certificate is of no use any more.
func aftercareDue(r *Request, now time.Time, wait timing) (works []work, at time.Time) {
	aftercare := r.Ask.Aftercare
	if aftercare == nil || r.Issued == nil {
		return nil, time.Time{}
	}
	when := func(w work, by time.Time) {
		switch {
		case !now.Before(by):
			works = append(works, w)
		case at.IsZero() || by.Before(at):
			at = by
		}
	}
	if r.Revoked != nil && aftercare.Prove && !r.receipted() {
		when(workProve, now)
	}
	if aftercare.Examine && r.Swept == nil {
		when(workExamine, r.EndedBy(now).Add(wait.audit))
	}
	for what, by := range map[string]time.Time{OverdueClosing: r.CloseBy(now), OverdueAcknowledgement: r.AcknowledgeBy()} {
		if !by.IsZero() && !slices.Contains(r.Overdue, what) && !slices.Contains(works, workOverdue) {
			when(workOverdue, by)
		}
	}
	return works, at
}
