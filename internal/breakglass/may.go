package breakglass

import (
	"context"
	"fmt"
	"time"

	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// Action names a command on an existing request, as the entry of its refusal names it.
type Action string

// The actions of which May knows the rule.
const (
	ActionApprove     Action = "approve"
	ActionDeny        Action = "deny"
	ActionWithdraw    Action = "withdraw"
	ActionRevoke      Action = "revoke"
	ActionClose       Action = "close"
	ActionAcknowledge Action = "acknowledge"
)

// A rule says by whom and when an action is possible. It is pure, and the command decides by the same one; what a person writes with the
// command is no part of it. It passes an action that was done already: the command compares what was written then.
type rule func(p *policy.Policy, r *Request, a record.Actor, now time.Time) error

func rules() map[Action]rule {
	return map[Action]rule{ActionApprove: mayApprove, ActionDeny: mayDeny, ActionWithdraw: mayWithdraw, ActionRevoke: mayRevoke,
		ActionClose: mayClose, ActionAcknowledge: mayAcknowledge}
}

// May refuses an action that the actor may not take on a request, or that the request's state does not allow, before the actor has
// written anything; the refusal is recorded as that of the command is. It changes nothing else. A nil error promises nothing: the
// command decides anew.
func (s *Service) May(ctx context.Context, a record.Actor, action Action, id string) error {
	may, ok := rules()[action]
	if !ok {
		return fmt.Errorf("no rule says who may %q a request", action)
	}
	decide := func(p *policy.Policy, r *Request, now time.Time) (record.Event, map[string]string, error) {
		return nil, nil, may(p, r, a, now)
	}
	_, err := s.command(ctx, a, string(action), id, decide)
	return err
}

func mayApprove(p *policy.Policy, r *Request, a record.Actor, _ time.Time) error {
	if a.Person == r.Ask.By.Person {
		return record.Refuse(record.ClassDenied, "self-approval", "two other people must approve it",
			"requesters do not approve their own requests")
	}
	// A request made since leaves the suspended out of its quorum: first of all they are told why.
	if err := p.NotSuspended(policy.Eligibility{Person: a.Person, Part: policy.PartApprover, Profile: r.Ask.Profile,
		Cluster: r.Ask.Cluster}); err != nil {
		return err
	}
	if !r.Ask.Quorum.Counts(a.Person) {
		missing := r.Missing()
		if len(missing) == 0 {
			missing = []string{"nobody else"}
		}
		return record.Refuse(record.ClassDenied, "not-approver", "", "this needs %s; you are in none of the teams that count",
			record.JoinAnd(missing))
	}
	if _, stillIn := p.Person(a.Person); !stillIn || !p.Freeze(profileOrZero(p, r)).Counts(a.Person) {
		return record.Refuse(record.ClassPolicy, "policy/changed", "", "the access policy has changed: you cannot approve this any more")
	}
	return nil
}

func mayDeny(_ *policy.Policy, r *Request, a record.Actor, now time.Time) error {
	if a.Person == r.Ask.By.Person {
		return record.Refuse(record.ClassDenied, "own-request", "withdraw it: breakglass withdraw "+r.ID, "this is your own request")
	}
	if !r.Ask.Quorum.Counts(a.Person) {
		return record.Refuse(record.ClassDenied, "not-approver", "", "only its approvers can deny %s", r.ID)
	}
	if r.Denied != nil && r.Denied.By.Person == a.Person {
		return nil
	}
	return stillOpen(r, now)
}

func mayWithdraw(_ *policy.Policy, r *Request, a record.Actor, now time.Time) error {
	if a.Person != r.Ask.By.Person {
		return record.Refuse(record.ClassDenied, "not-yours", "deny it: breakglass deny "+r.ID+" --reason …",
			"only %s can withdraw this request",
			r.Ask.By.Person)
	}
	if r.Withdrawn != nil {
		return nil
	}
	return stillOpen(r, now)
}

func mayRevoke(p *policy.Policy, r *Request, a record.Actor, now time.Time) error {
	if a.Person != r.Ask.By.Person && !r.Ask.Quorum.Counts(a.Person) && !p.MayRespond(a.Person) {
		return record.Refuse(record.ClassDenied, "not-approver", "", "only %s, the approvers of %s and responders can revoke it",
			r.Ask.By.Person,
			r.ID)
	}
	if r.Revoked != nil {
		return nil
	}
	switch st := r.State(now); st {
	case StateActive, StateApproved:
	case StateIssuing:
		return record.Refuse(record.ClassUnavailable, "issuing", "revoke it again in a moment", "%s is just being issued", r.ID)
	case StatePending, StateExpired, StateRevoked, StateFailed, StateDenied, StateWithdrawn, StateLapsed:
		return record.Refuse(record.ClassConflict, "not-active", "", "%s is %s: there is nothing to revoke", r.ID, st)
	}
	return nil
}

func mayClose(_ *policy.Policy, r *Request, a record.Actor, now time.Time) error {
	if a.Person != r.Ask.By.Person {
		return record.Refuse(record.ClassDenied, "not-yours", "ask them to", "only %s knows what was done with %s, and closes it",
			r.Ask.By.Person,
			r.ID)
	}
	if r.Closed != nil {
		return nil
	}
	switch st := r.State(now); {
	case r.Issued == nil:
		return record.Refuse(record.ClassConflict, "not-issued", "", "%s is %s: it gave no certificate, so there is nothing to close",
			r.ID, st)
	case st == StateActive:
		return record.Refuse(record.ClassConflict, "still-active", "revoke it first if you are done: breakglass revoke "+r.ID,
			"%s is still active",
			r.ID)
	}
	return nil
}

func mayAcknowledge(p *policy.Policy, r *Request, a record.Actor, _ time.Time) error {
	if a.Person == r.Ask.By.Person {
		return record.Refuse(record.ClassDenied, "own-session", "an approver or a responder must look at it",
			"requesters do not acknowledge what their own sessions left behind")
	}
	if !r.Ask.Quorum.Counts(a.Person) && !p.MayRespond(a.Person) {
		return record.Refuse(record.ClassDenied, "not-approver", "", "only the approvers of %s and responders can acknowledge it",
			r.ID)
	}
	switch {
	case r.Acknowledged != nil:
		return nil // Acknowledge compares what was written
	case r.Swept == nil && r.Ask.Aftercare != nil && r.Ask.Aftercare.Examine && r.Issued != nil:
		return record.Refuse(record.ClassConflict, "not-swept", "watch it with: breakglass show "+r.ID+" --session",
			"%s has not been looked through yet", r.ID)
	case !r.Unacknowledged():
		return record.Refuse(record.ClassConflict, "nothing-found", "", "%s left nothing behind that must be acknowledged", r.ID)
	}
	return nil
}
