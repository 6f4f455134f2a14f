package breakglass

import (
	"fmt"
	"slices"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// Request is the fold of one request's ledger entries: what was asked, who agreed, what was issued. It is a value computed
// from facts; changing it changes nothing. All times are UTC.
type Request struct {
	ID     string
	Rev    int64  // the number of entries so far: grows with each event
	Seq    int64  // ledger index of the requested entry
	Digest string // hex SHA-256 of the requested entry's leaf: what approvers approve, and what binds their yes to every asked fact
	At     time.Time
	LastAt time.Time // of the last entry
	Ask    Requested
	Reason string // empty when erased

	Approvals []policy.Approval
	TakenBack map[string]int // how often each person has taken an approval back; part of what the next one signs

	Denied    *record.Ending
	Withdrawn *record.Ending
	Claimed   *Claimed
	ClaimedAt time.Time
	NotSigned int    // claims for which the authority could not sign for the moment
	ClaimKey  string // SPKI of the key of those claims: it alone can claim again
	Issued    *Issued
	IssuedSeq int64 // ledger index of the issued entry
	Failed    *Failed
	FailedAt  time.Time
	Revoked   *record.Ending
	Bound     bool // the ledger's last word on the binding
	Ended     *Ended
	EndedAt   time.Time
	Refusals  int // commands on this request that were not allowed

	Receipt      *Receipt         // the last one
	Session      *SessionReported // the last one
	Swept        *Swept           // the last one
	SweptAt      time.Time
	Acknowledged *record.Ending // of Swept; gone when a later sweep finds something else
	Closed       *record.Ending // with the closing note as its reason
	Overdue      []string       // what was recorded as overdue

	reached         time.Time // quorumAt of the first counted approvals, kept with each approval
	counted         int
	countsTakenBack bool // an approval said how many were taken back: from here on each does
}

// clone returns a copy to apply events to. Events replace what the copies share, but for the list of approvals.
func (r *Request) clone() *Request {
	after := *r
	after.Approvals = slices.Clone(r.Approvals)
	return &after
}

// receipted reports whether nothing more is to be proved about a revocation.
func (r *Request) receipted() bool { return r.Receipt != nil && r.Receipt.Final }

// EndedBy is when the certificate became useless, or the zero time while it may be used or if there never was one.
func (r *Request) EndedBy(now time.Time) time.Time {
	switch {
	case r.Issued == nil:
		return time.Time{}
	case r.Revoked != nil:
		return r.Revoked.At
	case !now.Before(r.Issued.NotAfter):
		return r.Issued.NotAfter
	}
	return time.Time{}
}

// Touched reports whether the cluster was in somebody's hands by this grant and its closing note is still missing.
func (r *Request) Touched() bool {
	return r.Issued != nil && r.Closed == nil && r.closeWithin() > 0
}

// closeWithin is the time after the end for the closing note and the acknowledgement; zero: neither is asked for.
func (r *Request) closeWithin() time.Duration {
	if r.Ask.Aftercare == nil {
		return 0
	}
	return time.Duration(r.Ask.Aftercare.CloseSeconds) * time.Second
}

// CloseBy is when the closing note is overdue, or the zero time if none is missing or the grant has not ended.
func (r *Request) CloseBy(now time.Time) time.Time {
	over := r.EndedBy(now)
	if !r.Touched() || over.IsZero() {
		return time.Time{}
	}
	return over.Add(r.closeWithin())
}

// owesAt is when a missing closing note becomes, or became, overdue as things are; the zero time if none is missing.
func (r *Request) owesAt() time.Time {
	switch {
	case !r.Touched():
		return time.Time{}
	case r.Revoked != nil:
		return r.Revoked.At.Add(r.closeWithin())
	}
	return r.Issued.NotAfter.Add(r.closeWithin())
}

// Unacknowledged reports whether the sweep found something that no second person has acknowledged.
func (r *Request) Unacknowledged() bool {
	return r.Swept != nil && len(r.Swept.Items) > 0 && r.Acknowledged == nil
}

// AcknowledgeBy is when the acknowledgement is overdue, or the zero time if none is missing.
func (r *Request) AcknowledgeBy() time.Time {
	if !r.Unacknowledged() || r.closeWithin() == 0 {
		return time.Time{}
	}
	return r.SweptAt.Add(r.closeWithin())
}

// TTL is the lifetime of the certificate, from the claim.
func (r *Request) TTL() time.Duration { return time.Duration(r.Ask.TTLSeconds) * time.Second }

// quorumAt returns when the last approval needed arrived, or the zero time while the quorum is not reached.
func (r *Request) quorumAt() time.Time {
	if r.counted == len(r.Approvals) {
		return r.reached
	}
	return r.countQuorum()
}

func (r *Request) countQuorum() time.Time {
	var sofar []policy.Approval
	for _, a := range r.Approvals {
		sofar = append(sofar, a)
		if len(r.Ask.Quorum.Missing(sofar)) == 0 {
			return a.At
		}
	}
	return time.Time{}
}

// ClaimUntil is the end of the claim window, or the zero time while the quorum is not reached.
func (r *Request) ClaimUntil() time.Time {
	at := r.quorumAt()
	if at.IsZero() {
		return at
	}
	return at.Add(time.Duration(r.Ask.ClaimSeconds) * time.Second)
}

// State computes the state at a time.
func (r *Request) State(now time.Time) State {
	switch {
	case r.Denied != nil:
		return StateDenied
	case r.Withdrawn != nil:
		return StateWithdrawn
	case r.Failed != nil:
		return StateFailed
	case r.Revoked != nil:
		return StateRevoked
	case r.Issued != nil && !now.Before(r.Issued.NotAfter):
		return StateExpired
	case r.Issued != nil:
		return StateActive
	case r.Claimed != nil:
		return StateIssuing
	case r.Ended != nil: // only the clock ends an unclaimed request
		return StateLapsed
	}
	// asked for or approved with a wrong clock, as an operator has recorded since: its deadlines mean nothing
	if r.LastAt.Sub(now) > record.MaxSkew {
		return StateLapsed
	}
	if until := r.ClaimUntil(); !until.IsZero() {
		if now.Before(until) {
			return StateApproved
		}
		return StateLapsed
	}
	if now.Before(r.Ask.PendingUntil) {
		return StatePending
	}
	return StateLapsed
}

// Deadline is when the clock alone changes the present state, or the zero time if it never does.
func (r *Request) Deadline(now time.Time) time.Time {
	switch r.State(now) {
	case StatePending:
		return r.Ask.PendingUntil
	case StateApproved:
		return r.ClaimUntil()
	case StateActive:
		return r.Issued.NotAfter
	case StateIssuing, StateExpired, StateRevoked, StateFailed, StateDenied, StateWithdrawn, StateLapsed:
	}
	return time.Time{}
}

// approvedBy reports whether the person has a live approval.
func (r *Request) approvedBy(person string) bool {
	return slices.ContainsFunc(r.Approvals, func(a policy.Approval) bool { return a.By.Person == person })
}

// Missing says in words what the quorum still waits for; empty when it is reached.
func (r *Request) Missing() []string { return r.Ask.Quorum.Missing(r.Approvals) }

// ProbeUser is the name under which the daemon asks an API server whether it asks the deny webhook. No certificate has it.
const ProbeUser = policy.CommonNamePrefix + "probe"

// CommonName is the user name in the request's certificate: unique for each grant, at most 64 characters of [a-z0-9:._-].
func CommonName(person, request string) string {
	return policy.CommonNamePrefix + person + ":" + request
}

// Fold computes a request from its stream. It accepts only what could have been written: an event that does not follow from the state
// before it is an error. With proof, signatures and certificates in events are checked again, as verification must.
func Fold(entries []ledger.Entry, proof bool) (*Request, error) {
	if len(entries) == 0 {
		return nil, fmt.Errorf("empty stream")
	}
	r := &Request{ID: entries[0].Stream}
	for _, e := range entries {
		ev, err := readable.Decode(e)
		if err != nil {
			return nil, err
		}
		if err := r.Apply(e, ev, proof); err != nil {
			return nil, fmt.Errorf("ledger entry %d (%s) of request %s: %w", e.Seq, e.Kind, e.Stream, err)
		}
	}
	return r, nil
}
