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

// ended says whether the grant gave a certificate whose time is over.
func (r *Request) ended(state State) error {
	if r.Issued == nil || state != StateExpired && state != StateRevoked {
		return fmt.Errorf("not possible while %s", state)
	}
	return nil
}

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
