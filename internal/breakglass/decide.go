package breakglass

import (
	"context"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// Consent is what comes with an approval.
type Consent struct {
	Digest    string // what the person saw: the request's digest
	Comment   string
	Signature string // armored SSHSIG over ApprovalText; required by channel key
}

// Approve records one person's yes to exactly the digest. Saying yes twice is no error and no second vote.
func (s *Service) Approve(ctx context.Context, a record.Actor, id string, c Consent) (*Request, error) {
	return s.command(ctx, a, "approve", id, func(p *policy.Policy, r *Request, now time.Time) (record.Event, map[string]string, error) {
		ev, err := decideApprove(p, r, a, c, now)
		if err == nil && ev != nil {
			err = s.Recorder.CannotTake()
		}
		return ev, record.Optional("comment", c.Comment), err
	})
}

func decideApprove(p *policy.Policy, r *Request, a record.Actor, c Consent, now time.Time) (record.Event, error) {
	if err := mayApprove(p, r, a, now); err != nil {
		return nil, err
	}
	if !slices.Contains(r.Ask.Quorum.Channels, a.Channel) {
		next := "approve with: breakglass approve " + r.ID
		if a.Channel == record.ChannelKey {
			next = "approve in Slack"
		}
		return nil, record.Refuse(record.ClassPolicy, "policy/channel", next, "%s does not take approvals by %s", r.Ask.Profile, a.Channel)
	}
	if c.Digest != r.Digest {
		return nil, record.Refuse(record.ClassConflict, "stale", "look at it again", "this is not the request you saw")
	}
	if r.approvedBy(a.Person) {
		return nil, nil // idempotent: the same click again
	}
	if err := stillOpen(r, now); err != nil {
		return nil, err
	}
	if utf8.RuneCountInString(c.Comment) > MaxComment || record.BadLine(c.Comment) {
		return nil, record.Refuse(record.ClassInvalid, "comment", "", "the comment is longer than %d characters or has control characters",
			MaxComment)
	}
	if err := p.NotCooling(a, r.Ask.Quorum, r.Ask.Profile, now); err != nil {
		return nil, err
	}
	ev := Approved{By: a, Digest: c.Digest, TakenBack: r.TakenBack[a.Person]}
	if a.Channel == record.ChannelKey {
		var err error
		if ev.PublicKey, err = signingKey(p, a); err != nil {
			return nil, err
		}
		ev.Signature = c.Signature
		if err := ev.verify(r.ID, ev.Kind()); err != nil {
			return nil, badSignature("request", err)
		}
	}
	return ev, nil
}

// TakeBack withdraws the actor's own approval, possible until the claim.
func (s *Service) TakeBack(ctx context.Context, a record.Actor, id string) (*Request, error) {
	return s.command(ctx, a, "take-back", id, func(_ *policy.Policy, r *Request, now time.Time) (record.Event, map[string]string, error) {
		if err := stillOpen(r, now); err != nil {
			return nil, nil, err
		}
		if !r.approvedBy(a.Person) {
			return nil, nil, record.Refuse(record.ClassConflict, "no-approval", "", "you have not approved %s", r.ID)
		}
		if err := s.limitRepeats(r.ID + " " + a.Person); err != nil {
			return nil, nil, err
		}
		return ApprovalWithdrawn{By: a}, nil, nil
	})
}

// Deny ends a request for good. Everybody whose approval could count may deny; a reason is required.
func (s *Service) Deny(ctx context.Context, a record.Actor, id, reason string) (*Request, error) {
	return s.command(ctx, a, "deny", id, func(p *policy.Policy, r *Request, now time.Time) (record.Event, map[string]string, error) {
		if err := mayDeny(p, r, a, now); err != nil {
			return nil, nil, err
		}
		if r.Denied != nil && r.Denied.By.Person == a.Person {
			return nil, nil, nil
		}
		if err := record.NeedReason(reason); err != nil {
			return nil, nil, err
		}
		return Denied{By: a}, map[string]string{"reason": strings.TrimSpace(reason)}, nil
	})
}

// Withdraw takes the actor's own request back, possible until the claim. The reason may be empty.
func (s *Service) Withdraw(ctx context.Context, a record.Actor, id, reason string) (*Request, error) {
	return s.command(ctx, a, "withdraw", id, func(p *policy.Policy, r *Request, now time.Time) (record.Event, map[string]string, error) {
		if err := mayWithdraw(p, r, a, now); err != nil {
			return nil, nil, err
		}
		if r.Withdrawn != nil {
			return nil, nil, nil
		}
		if reason != "" {
			if err := record.NeedReason(reason); err != nil {
				return nil, nil, err
			}
		}
		return Withdrawn{By: a}, record.Optional("reason", reason), nil
	})
}

// stillOpen refuses commands that come after the end.
func stillOpen(r *Request, now time.Time) error {
	switch st := r.State(now); st {
	case StatePending, StateApproved:
		return nil
	case StateLapsed:
		why := "too few people approved it in time"
		if until := r.ClaimUntil(); !until.IsZero() {
			why = "it was approved, and not claimed until " + clockTime(until)
		}
		return record.Refuse(record.ClassExpired, "lapsed", "a new request is cheap: breakglass request", "%s has lapsed: %s", r.ID, why)
	case StateIssuing, StateActive, StateExpired, StateRevoked, StateFailed, StateDenied, StateWithdrawn:
		return record.Refuse(record.ClassConflict, "decided", "", "too late: %s is already %s", r.ID, st)
	}
	panic("unknown state")
}

// profileOrZero is the request's profile, or one that allows nothing if the policy has it no more.
func profileOrZero(p *policy.Policy, r *Request) *policy.Profile {
	if prof, ok := p.Profile(r.Ask.Profile); ok {
		return prof
	}
	return &policy.Profile{}
}
