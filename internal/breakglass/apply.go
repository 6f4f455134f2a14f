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

// This file is what each event does to a request. The rules hold for what Service writes and for what a ledger from anywhere claims to
// contain. In which states an event may happen at all is in state.go.

// requestEvent is an event of a request's stream. requestKinds takes no other type: an event without a rule does not compile.
type requestEvent interface {
	record.Event
	// applyTo changes the request, or returns an error and changes nothing. The entry is the event's; its number in the stream and the
	// request's state have been checked. With proof, signatures and certificates in the event are checked again: on the way into the
	// ledger and by an audit, not each time the service reads what it has written itself.
	applyTo(r *Request, e ledger.Entry, proof bool) error
}

// Apply adds one event to the fold. An event that cannot follow is an error and changes nothing. With proof, signatures and
// certificates in the event are checked again.
func (r *Request) Apply(e ledger.Entry, ev record.Event, proof bool) error {
	if e.StreamSeq != r.Rev+1 {
		return fmt.Errorf("revision %d follows %d", e.StreamSeq, r.Rev)
	}
	if _, first := ev.(Requested); first != (r.Rev == 0) {
		return fmt.Errorf("a request begins with one requested entry")
	}
	if no, ok := ev.(record.Refused); ok {
		ev = refused{no}
	}
	rule, ok := ev.(requestEvent)
	if !ok {
		return fmt.Errorf("does not belong to a request")
	}
	if err := r.allows(ev, e.Time); err != nil {
		return err
	}
	if err := rule.applyTo(r, e, proof); err != nil {
		return err
	}
	r.Rev, r.LastAt = e.StreamSeq, e.Time
	return nil
}

func (ev Requested) applyTo(r *Request, e ledger.Entry, _ bool) error {
	switch {
	case ev.By.Person == "":
		return fmt.Errorf("no requester")
	case ev.TTLSeconds <= 0 || ev.ClaimSeconds <= 0 || !ev.PendingUntil.After(e.Time):
		return fmt.Errorf("lifetime or deadline not in the future")
	case ev.Quorum.Count < policy.MinQuorum:
		return fmt.Errorf("quorum of %d is below the floor of %d", ev.Quorum.Count, policy.MinQuorum)
	}
	r.Ask, r.At, r.Seq, r.Digest, r.Reason = ev, e.Time, e.Seq, record.LeafDigest(e), e.Texts["reason"]
	return nil
}

func (ev Approved) applyTo(r *Request, e ledger.Entry, proof bool) error {
	twice := r.approvedBy(ev.By.Person)
	switch {
	case ev.Digest != r.Digest:
		return fmt.Errorf("approves another digest")
	case ev.By.Person == "" || ev.By.Person == r.Ask.By.Person:
		return fmt.Errorf("%q cannot approve this request", ev.By.Person)
	case !r.Ask.Quorum.Counts(ev.By.Person):
		return fmt.Errorf("%q is not an approver", ev.By.Person)
	case !slices.Contains(r.Ask.Quorum.Channels, ev.By.Channel):
		return fmt.Errorf("approvals by %s do not count", ev.By.Channel)
	case twice:
		return fmt.Errorf("%q approved already", ev.By.Person)
	case e.Kind == ApprovedV1 && r.countsTakenBack:
		return fmt.Errorf("an approval as earlier releases made them, after one of a later release")
	case e.Kind != ApprovedV1 && ev.TakenBack != r.TakenBack[ev.By.Person]:
		return fmt.Errorf("counts %d approvals that %q took back, and there were %d", ev.TakenBack, ev.By.Person, r.TakenBack[ev.By.Person])
	}
	if proof && ev.By.Channel == record.ChannelKey {
		if err := ev.verify(r.ID, e.Kind); err != nil {
			return err
		}
	}
	r.countsTakenBack = r.countsTakenBack || e.Kind != ApprovedV1
	r.approvalsAre(append(r.Approvals, policy.Approval{By: ev.By, At: e.Time, Comment: e.Texts["comment"], Signed: ev.Signature != ""}))
	return nil
}

func (ev ApprovalWithdrawn) applyTo(r *Request, _ ledger.Entry, _ bool) error {
	person := ev.By.Person
	if !r.approvedBy(person) {
		return fmt.Errorf("%q has not approved", person)
	}
	r.approvalsAre(slices.DeleteFunc(slices.Clone(r.Approvals), func(a policy.Approval) bool { return a.By.Person == person }))
	taken := maps.Clone(r.TakenBack)
	if taken == nil {
		taken = map[string]int{}
	}
	taken[person]++
	r.TakenBack = taken
	return nil
}

// approvalsAre sets the live approvals, and when they reached the quorum.
func (r *Request) approvalsAre(live []policy.Approval) {
	r.Approvals = live
	r.reached, r.counted = r.countQuorum(), len(live)
}

func (ev Denied) applyTo(r *Request, e ledger.Entry, _ bool) error {
	r.Denied = ending(ev.By, e, "reason")
	return nil
}

func (ev Withdrawn) applyTo(r *Request, e ledger.Entry, _ bool) error {
	r.Withdrawn = ending(ev.By, e, "reason")
	return nil
}

func (ev Claimed) applyTo(r *Request, e ledger.Entry, proof bool) error {
	switch {
	case ev.By.Person != r.Ask.By.Person:
		return fmt.Errorf("claimed by %q, requested by %q", ev.By.Person, r.Ask.By.Person)
	case r.Ask.KeyHash != "" && ev.SPKI != r.Ask.KeyHash:
		return fmt.Errorf("claimed with another key")
	case r.ClaimKey != "" && ev.SPKI != r.ClaimKey:
		return fmt.Errorf("claimed again with another key")
	case ev.CommonName != CommonName(r.Ask.By.Person, r.ID) || ev.Group != r.Ask.Rights.Group || ev.TTLSeconds > r.Ask.TTLSeconds:
		return fmt.Errorf("the intent is not what was approved")
	}
	if proof && e.Kind != claimedV1 {
		if err := ev.verify(r.ID); err != nil {
			return err
		}
	}
	r.Claimed, r.ClaimedAt = &ev, e.Time
	return nil
}

func (ev Issued) applyTo(r *Request, e ledger.Entry, proof bool) error {
	if proof {
		if err := r.checkIssued(ev); err != nil {
			return err
		}
	}
	r.Issued, r.IssuedSeq = &ev, e.Seq
	return nil
}

func (ev Failed) applyTo(r *Request, e ledger.Entry, _ bool) error {
	r.Failed, r.FailedAt = &ev, e.Time
	return nil
}

func (ev NotSigned) applyTo(r *Request, _ ledger.Entry, _ bool) error {
	switch {
	case r.NotSigned >= MaxNotSigned:
		return fmt.Errorf("claimed too often")
	case ev.SPKI != r.Claimed.SPKI:
		return fmt.Errorf("is about another key than the claim")
	}
	r.NotSigned, r.ClaimKey = r.NotSigned+1, ev.SPKI
	r.Claimed, r.ClaimedAt = nil, time.Time{}
	return nil
}

func (Bound) applyTo(r *Request, _ ledger.Entry, _ bool) error {
	if !r.Ask.Rights.Binding() {
		return fmt.Errorf("group mode binds nothing")
	}
	r.Bound = true
	return nil
}

func (Unbound) applyTo(r *Request, _ ledger.Entry, _ bool) error {
	r.Bound = false
	return nil
}

func (ev Revoked) applyTo(r *Request, e ledger.Entry, _ bool) error {
	r.Revoked = ending(ev.By, e, "reason")
	return nil
}

func (Delivered) applyTo(*Request, ledger.Entry, bool) error { return nil }

func (ev Ended) applyTo(r *Request, e ledger.Entry, _ bool) error {
	if state := r.State(e.Time); ev.State != state {
		return fmt.Errorf("not possible while %s", state)
	}
	if r.Ended != nil {
		return fmt.Errorf("ended already")
	}
	r.Ended, r.EndedAt = &ev, e.Time
	return nil
}

// refused is a command about a request that was not allowed.
type refused struct{ record.Refused }

func (refused) applyTo(r *Request, _ ledger.Entry, _ bool) error {
	r.Refusals++
	return nil
}

func (ev Receipt) applyTo(r *Request, _ ledger.Entry, _ bool) error {
	if r.Issued == nil || r.receipted() {
		return fmt.Errorf("there is nothing to prove")
	}
	r.Receipt = &ev
	return nil
}

func (ev SessionReported) applyTo(r *Request, e ledger.Entry, _ bool) error {
	if err := r.gaveCertificate(e.Time); err != nil {
		return err
	}
	r.Session = &ev
	return nil
}

func (s Swept) applyTo(r *Request, e ledger.Entry, _ bool) error {
	if err := r.gaveCertificate(e.Time); err != nil {
		return err
	}
	if r.Swept == nil || r.Swept.Digest() != s.Digest() {
		r.Acknowledged = nil // the second person has seen something else
	}
	r.Swept, r.SweptAt = &s, e.Time
	return nil
}

func (ev Acknowledged) applyTo(r *Request, e ledger.Entry, _ bool) error {
	switch {
	case !r.Unacknowledged():
		return fmt.Errorf("there is nothing to acknowledge")
	case ev.By.Person == "" || ev.By.Person == r.Ask.By.Person:
		return fmt.Errorf("%q cannot acknowledge what this session left behind", ev.By.Person)
	case ev.Seen != "" && ev.Seen != r.Swept.Digest():
		return fmt.Errorf("acknowledged is another sweep than the last")
	}
	r.Acknowledged = ending(ev.By, e, "note")
	return nil
}

func (ev Closed) applyTo(r *Request, e ledger.Entry, _ bool) error {
	if err := r.gaveCertificate(e.Time); err != nil {
		return err
	}
	switch {
	case r.Closed != nil:
		return fmt.Errorf("closed already")
	case ev.By.Person != r.Ask.By.Person:
		return fmt.Errorf("closed by %q, requested by %q", ev.By.Person, r.Ask.By.Person)
	}
	r.Closed = ending(ev.By, e, "note")
	return nil
}

func (ev Overdue) applyTo(r *Request, e ledger.Entry, _ bool) error {
	if slices.Contains(r.Overdue, ev.What) {
		return fmt.Errorf("recorded as overdue already")
	}
	by := r.CloseBy(e.Time)
	if ev.What == OverdueAcknowledgement {
		by = r.AcknowledgeBy()
	}
	if by.IsZero() || e.Time.Before(by) {
		return fmt.Errorf("the %s is not overdue", ev.What)
	}
	r.Overdue = append(slices.Clone(r.Overdue), ev.What)
	return nil
}

// ending is a person's word in an entry, with the entry's text of that name.
func ending(by record.Actor, e ledger.Entry, text string) *record.Ending {
	return &record.Ending{By: by, At: e.Time, Reason: e.Texts[text]}
}

// gaveCertificate refuses what follows a certificate's end if there never was one: a grant that was revoked before its claim.
func (r *Request) gaveCertificate(at time.Time) error {
	if r.Issued == nil {
		return fmt.Errorf("not possible while %s", r.State(at))
	}
	return nil
}
