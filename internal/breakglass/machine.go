package breakglass

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// apply adds one event to the fold. The rules here are the state machine's graph: they hold for what Service writes and for
// what a ledger from anywhere claims to contain. With proof, signatures and certificates in the event are checked again: on
// the way into the ledger and by an audit, not each time the service reads what it has written itself.
func (r *Request) apply(e ledger.Entry, ev record.Event, proof bool) error {
	if e.StreamSeq != r.Rev+1 {
		return fmt.Errorf("revision %d follows %d", e.StreamSeq, r.Rev)
	}
	if _, first := ev.(Requested); first != (r.Rev == 0) {
		return fmt.Errorf("a request begins with one requested entry")
	}
	state := State("")
	if r.Rev > 0 {
		state = r.State(e.Time)
	}
	in := func(want ...State) error {
		if slices.Contains(want, state) {
			return nil
		}
		return fmt.Errorf("not possible while %s", state)
	}
	var err error
	switch ev := ev.(type) {
	case Requested:
		r.Ask, r.At, r.Seq, r.Digest, r.Reason = ev, e.Time, e.Seq, record.LeafDigest(e), e.Texts["reason"]
		err = ev.check(e.Time)
	case Approved:
		err = in(StatePending, StateApproved)
		switch {
		case err != nil:
		case ev.Digest != r.Digest:
			err = fmt.Errorf("approves another digest")
		case ev.By.Person == "" || ev.By.Person == r.Ask.By.Person:
			err = fmt.Errorf("%q cannot approve this request", ev.By.Person)
		case !r.Ask.Quorum.Counts(ev.By.Person):
			err = fmt.Errorf("%q is not an approver", ev.By.Person)
		case !slices.Contains(r.Ask.Quorum.Channels, ev.By.Channel):
			err = fmt.Errorf("approvals by %s do not count", ev.By.Channel)
		default:
			if _, twice := r.approvalBy(ev.By.Person); twice {
				err = fmt.Errorf("%q approved already", ev.By.Person)
				break
			}
			if e.Kind == approvedV1 && r.countsTakenBack {
				err = fmt.Errorf("an approval as earlier releases made them, after one of a later release")
				break
			}
			if e.Kind != approvedV1 && ev.TakenBack != r.TakenBack[ev.By.Person] {
				err = fmt.Errorf("counts %d approvals that %q took back, and there were %d", ev.TakenBack, ev.By.Person,
					r.TakenBack[ev.By.Person])
				break
			}
			if proof && ev.By.Channel == record.ChannelKey {
				err = ev.verify(r.ID, e.Kind)
			}
		}
		if err == nil {
			r.countsTakenBack = r.countsTakenBack || e.Kind != approvedV1
			r.Approvals = append(r.Approvals, policy.Approval{By: ev.By, At: e.Time, Comment: e.Texts["comment"], Signed: ev.Signature != ""})
			r.reached, r.counted = r.countQuorum(), len(r.Approvals)
		}
	case ApprovalWithdrawn:
		if err = in(StatePending, StateApproved); err == nil {
			if _, ok := r.approvalBy(ev.By.Person); !ok {
				err = fmt.Errorf("%q has not approved", ev.By.Person)
			}
		}
		r.Approvals = slices.DeleteFunc(slices.Clone(r.Approvals), func(a policy.Approval) bool { return a.By.Person == ev.By.Person })
		r.reached, r.counted = r.countQuorum(), len(r.Approvals)
		taken := maps.Clone(r.TakenBack)
		if taken == nil {
			taken = map[string]int{}
		}
		taken[ev.By.Person]++
		r.TakenBack = taken
	case Denied:
		err = in(StatePending, StateApproved)
		r.Denied = &record.Ending{By: ev.By, At: e.Time, Reason: e.Texts["reason"]}
	case Withdrawn:
		err = in(StatePending, StateApproved)
		r.Withdrawn = &record.Ending{By: ev.By, At: e.Time, Reason: e.Texts["reason"]}
	case Claimed:
		err = in(StateApproved)
		switch {
		case err != nil:
		case ev.By.Person != r.Ask.By.Person:
			err = fmt.Errorf("claimed by %q, requested by %q", ev.By.Person, r.Ask.By.Person)
		case r.Ask.KeyHash != "" && ev.SPKI != r.Ask.KeyHash:
			err = fmt.Errorf("claimed with another key")
		case r.ClaimKey != "" && ev.SPKI != r.ClaimKey:
			err = fmt.Errorf("claimed again with another key")
		case ev.CommonName != CommonName(r.Ask.By.Person, r.ID) || ev.Group != r.Ask.Rights.Group || ev.TTLSeconds > r.Ask.TTLSeconds:
			err = fmt.Errorf("the intent is not what was approved")
		case proof && e.Kind != claimedV1:
			err = ev.verify(r.ID)
		}
		r.Claimed, r.ClaimedAt = &ev, e.Time
	case Issued:
		if err = in(StateIssuing); err == nil && proof {
			err = r.checkIssued(ev)
		}
		r.Issued, r.IssuedSeq = &ev, e.Seq
	case Failed:
		err = in(StateIssuing)
		r.Failed, r.FailedAt = &ev, e.Time
	case NotSigned:
		switch err = in(StateIssuing); {
		case err != nil:
		case r.NotSigned >= MaxNotSigned:
			err = fmt.Errorf("claimed too often")
		case ev.SPKI != r.Claimed.SPKI:
			err = fmt.Errorf("is about another key than the claim")
		}
		r.NotSigned, r.ClaimKey = r.NotSigned+1, ev.SPKI
		r.Claimed, r.ClaimedAt = nil, time.Time{}
	case Bound:
		// A binding may be recorded a moment after the clock or a revocation ended the grant: it is then taken away again.
		if err = in(StateActive, StateExpired, StateRevoked); err == nil && !r.Ask.Rights.Binding() {
			err = fmt.Errorf("group mode binds nothing")
		}
		r.Bound = true
	case Unbound:
		err = in(StateExpired, StateRevoked)
		r.Bound = false
	case Revoked:
		err = in(StateApproved, StateActive) // before the claim, it ends what would have become a certificate
		r.Revoked = &record.Ending{By: ev.By, At: e.Time, Reason: e.Texts["reason"]}
	case Delivered:
		err = in(StateActive)
	case Ended:
		if err = in(ev.State); err == nil && ev.State != StateLapsed && ev.State != StateExpired {
			err = fmt.Errorf("the clock does not make %s", ev.State)
		}
		if err == nil && r.Ended != nil {
			err = fmt.Errorf("ended already")
		}
		r.Ended, r.EndedAt = &ev, e.Time
	case Refused:
		r.Refusals++
	case Receipt:
		if err = in(StateRevoked); err == nil && (r.Issued == nil || r.receipted()) {
			err = fmt.Errorf("there is nothing to prove")
		}
		r.Receipt = &ev
	case SessionReported:
		err = r.ended(state)
		r.Session = &ev
	case Swept:
		err = r.ended(state)
		if r.Swept == nil || r.Swept.Digest() != ev.Digest() {
			r.Acknowledged = nil // somebody has seen something else
		}
		r.Swept, r.SweptAt = &ev, e.Time
	case Acknowledged:
		switch {
		case !r.Unacknowledged():
			err = fmt.Errorf("there is nothing to acknowledge")
		case ev.By.Person == "" || ev.By.Person == r.Ask.By.Person:
			err = fmt.Errorf("%q cannot acknowledge what this session left behind", ev.By.Person)
		case ev.Seen != "" && ev.Seen != r.Swept.Digest():
			err = fmt.Errorf("acknowledged is another sweep than the last")
		}
		r.Acknowledged = &record.Ending{By: ev.By, At: e.Time, Reason: e.Texts["note"]}
	case Closed:
		switch err = r.ended(state); {
		case err != nil:
		case r.Closed != nil:
			err = fmt.Errorf("closed already")
		case ev.By.Person != r.Ask.By.Person:
			err = fmt.Errorf("closed by %q, requested by %q", ev.By.Person, r.Ask.By.Person)
		}
		r.Closed = &record.Ending{By: ev.By, At: e.Time, Reason: e.Texts["note"]}
	case Overdue:
		if slices.Contains(r.Overdue, ev.What) {
			err = fmt.Errorf("recorded as overdue already")
			break
		}
		by := r.CloseBy(e.Time)
		if ev.What == OverdueAcknowledgement {
			by = r.AcknowledgeBy()
		}
		if by.IsZero() || e.Time.Before(by) {
			err = fmt.Errorf("the %s is not overdue", ev.What)
		}
		r.Overdue = append(slices.Clone(r.Overdue), ev.What)
	default:
		err = fmt.Errorf("does not belong to a request")
	}
	if err != nil {
		return err
	}
	r.Rev, r.LastAt = e.StreamSeq, e.Time
	return nil
}

// clone returns a copy to apply events to. Events replace what the copies share, but for the list of approvals.
func (r *Request) clone() *Request {
	after := *r
	after.Approvals = slices.Clone(r.Approvals)
	return &after
}

// ended says whether the grant gave a certificate whose time is over.
func (r *Request) ended(state State) error {
	if r.Issued == nil || state != StateExpired && state != StateRevoked {
		return fmt.Errorf("not possible while %s", state)
	}
	return nil
}

// receipted reports whether nothing more is to be proved about a revocation.
func (r *Request) receipted() bool { return r.Receipt != nil && r.Receipt.Final }

// check holds what every recorded request must satisfy, whatever the policy was.
func (q Requested) check(at time.Time) error {
	switch {
	case q.By.Person == "":
		return fmt.Errorf("no requester")
	case q.TTLSeconds <= 0 || q.ClaimSeconds <= 0 || !q.PendingUntil.After(at):
		return fmt.Errorf("lifetime or deadline not in the future")
	case q.Quorum.Count < policy.MinQuorum:
		return fmt.Errorf("quorum of %d is below the floor of %d", q.Quorum.Count, policy.MinQuorum)
	}
	return nil
}

// settled reports whether nothing is left to do for the request: it leaves the open index.
func (r *Request) settled() bool {
	switch {
	case r.Bound:
		return false
	case r.Denied != nil || r.Withdrawn != nil || r.Failed != nil:
		return true
	case r.Ended == nil && r.Revoked == nil:
		return false
	case r.Issued == nil || r.Ask.Aftercare == nil:
		return true
	}
	care := r.Ask.Aftercare
	return (r.Revoked == nil || !care.Prove || r.receipted()) && (!care.Examine || r.Swept != nil) &&
		(!r.Touched() || slices.Contains(r.Overdue, OverdueClosing)) &&
		(r.AcknowledgeBy().IsZero() || slices.Contains(r.Overdue, OverdueAcknowledgement))
}

// indexOf is the request's rows in the rebuildable index. Verification recomputes them from the fold.
func indexOf(r *Request) []ledger.Tag {
	tags := []ledger.Tag{
		{Name: "day", Value: r.At.Format(time.DateOnly)},
		{Name: "asked", Value: hourOf(r.Ask.By.Person, r.At)},
	}
	if !r.settled() {
		tags = append(tags, tagOpen, ledger.Tag{Name: "open-by", Value: r.Ask.By.Person})
	}
	if r.Touched() {
		tags = append(tags, tagTouched, ledger.Tag{Name: "touched-by", Value: r.Ask.By.Person})
	}
	if r.Unacknowledged() {
		tags = append(tags, tagUnacknowledged)
	}
	switch {
	case r.Claimed != nil:
		tags = append(tags, ledger.Tag{Name: "spki", Value: r.Claimed.SPKI, Unique: true})
	case r.ClaimKey != "":
		tags = append(tags, ledger.Tag{Name: "spki", Value: r.ClaimKey, Unique: true})
	}
	if r.Issued != nil {
		tags = append(tags, ledger.Tag{Name: "fingerprint", Value: r.Issued.Fingerprint, Unique: true})
	}
	return tags
}

// hourOf is the bucket by which requests per person are counted.
func hourOf(person string, at time.Time) string {
	return person + "/" + at.UTC().Format("2006-01-02T15")
}

// work is what the daemon has to do for a request by itself.
type work int

const (
	workEnd     work = iota // record what the clock decided
	workBind                // make the binding exist
	workUnbind              // make it not exist
	workSettle              // find out what became of a claim whose outcome is not recorded
	workProve               // ask the API servers whether a revoked certificate is refused
	workExamine             // report what was done, and look for what was left behind
	workOverdue             // record that a closing note or an acknowledgement did not come
)

// lane is what a work must not overlap with, for the same request: what makes and takes away rights is done one after the other,
// and each of the others does not wait for a cluster that does not answer one of them.
func (w work) lane() work {
	switch w {
	case workBind, workUnbind, workSettle:
		return workBind
	case workEnd, workProve, workExamine, workOverdue:
	}
	return w
}

// waits are the times that due goes by.
type waits struct {
	settle time.Duration // how long a claim may stay without an outcome before it is looked into: longer than any signing call lasts
	audit  time.Duration // how long after its end a grant's audit events may still arrive
}

// unbindPatience is how long after a grant's end its report, sweep and proof wait for its binding to be gone. A cluster that is away,
// or a finalizer that somebody put on the binding, must not keep them from being made.
const unbindPatience = 15 * time.Second

// due decides what to do next for a request, each work beside the others; at is when to look again (zero: when something happens).
func due(r *Request, now time.Time, wait waits) (works []work, at time.Time) {
	binding := r.Ask.Rights.Binding()
	switch r.State(now) {
	case StatePending, StateApproved:
		return nil, r.Deadline(now)
	case StateIssuing:
		if at := r.ClaimedAt.Add(wait.settle); now.Before(at) {
			return nil, at
		}
		return []work{workSettle}, now
	case StateActive:
		if binding && !r.Bound {
			works = append(works, workBind)
		}
		return works, r.Issued.NotAfter
	case StateExpired, StateRevoked:
		if r.Bound {
			works = append(works, workUnbind)
			if at := r.Over(now).Add(unbindPatience); now.Before(at) {
				return works, at
			}
		}
		if r.State(now) == StateExpired && r.Ended == nil {
			return append(works, workEnd), now
		}
		more, at := aftercare(r, now, wait)
		return append(works, more...), at
	case StateLapsed:
		if r.Ended == nil {
			return []work{workEnd}, now
		}
	case StateFailed, StateDenied, StateWithdrawn:
	}
	return nil, time.Time{}
}

// aftercare is due for a grant whose certificate is of no use any more.
func aftercare(r *Request, now time.Time, wait waits) (works []work, at time.Time) {
	care := r.Ask.Aftercare
	if care == nil || r.Issued == nil {
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
	if r.Revoked != nil && care.Prove && !r.receipted() {
		when(workProve, now)
	}
	if care.Examine && r.Swept == nil {
		when(workExamine, r.Over(now).Add(wait.audit))
	}
	for what, by := range map[string]time.Time{OverdueClosing: r.CloseBy(now), OverdueAcknowledgement: r.AcknowledgeBy()} {
		if !by.IsZero() && !slices.Contains(r.Overdue, what) && !slices.Contains(works, workOverdue) {
			when(workOverdue, by)
		}
	}
	return works, at
}
