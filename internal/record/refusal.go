package record

import (
	"errors"
	"fmt"
	"strings"
)

// Class says what kind of no a Refusal is. Adapters map it to HTTP status codes, exit codes and colours.
type Class string

// The classes of refusals.
const (
	ClassInvalid     Class = "invalid"     // the command itself makes no sense
	ClassUnknown     Class = "unknown"     // nobody or nothing by that name
	ClassDenied      Class = "denied"      // this person may not do this, or somebody said no
	ClassPolicy      Class = "policy"      // the access policy does not allow it
	ClassConflict    Class = "conflict"    // the request has moved on
	ClassExpired     Class = "expired"     // too late
	ClassLimited     Class = "limited"     // too many, too fast
	ClassUnavailable Class = "unavailable" // something this needs is down; nothing was changed
)

// Refusal is a no that is meant for the person who asked: what is wrong, why, and what to do next. Every other error that
// leaves Service is internal: the person is told so with an id, and the cause is for the log only.
type Refusal struct {
	Class Class
	Code  string // stable, for programs: "self-approval", "policy/ttl", …; with more than one reason their codes, joined by commas
	Why   string // a sentence without a full stop
	Next  string // what to do now; may be empty
	Cause error

	// Problems has each reason by itself, of a refusal that Problems.Refusal made; else it is empty. Code, Why and Next are joined
	// from it, and nothing takes them apart again.
	Problems Problems
}

// Error is the sentence people see.
func (r *Refusal) Error() string {
	if r.Next == "" {
		return r.Why
	}
	return r.Why + "; " + r.Next
}

// Unwrap is the technical cause, for the log.
func (r *Refusal) Unwrap() error { return r.Cause }

// AsRefusal finds the Refusal in an error.
func AsRefusal(err error) (*Refusal, bool) {
	var r *Refusal
	return r, errors.As(err, &r)
}

// Refuse makes a Refusal. why is a format for args.
func Refuse(class Class, code, next, why string, args ...any) *Refusal {
	return &Refusal{Class: class, Code: code, Why: fmt.Sprintf(why, args...), Next: next}
}

// Problem is one reason for a refusal, in the same three parts.
type Problem struct{ Code, Why, Next string }

// Problems collects every reason for a refusal, so that people correct them in one go.
type Problems []Problem

// Add adds a reason. why is a format for args.
func (p *Problems) Add(code, next, why string, args ...any) {
	*p = append(*p, Problem{Code: code, Why: fmt.Sprintf(why, args...), Next: next})
}

// Refusal is all of them in one, nil if there is none.
func (p Problems) Refusal() error {
	if len(p) == 0 {
		return nil
	}
	var codes, whys, nexts []string
	for _, one := range p {
		codes, whys = append(codes, one.Code), append(whys, one.Why)
		if one.Next != "" {
			nexts = append(nexts, one.Next)
		}
	}
	return &Refusal{Class: ClassPolicy, Code: strings.Join(codes, ","), Why: strings.Join(whys, "; "), Next: strings.Join(nexts, "; "),
		Problems: p}
}
