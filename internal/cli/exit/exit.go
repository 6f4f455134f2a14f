// Package exit says how a command of breakglass ends: its exit code, and the error that a person or a script is told.
package exit

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/record"
)

// The exit codes. Scripts depend on them: they never change their meaning.
const (
	OK          = 0
	Other       = 1
	BadUsage    = 2
	Denied      = 3
	SignIn      = 4
	Expired     = 5
	Unreachable = 6
	Policy      = 7
	Unverified  = 8
	Newer       = 9
	Unagreed    = 10
	Interrupted = 130 // 128 + SIGINT, as shells do
)

// Code is one row of the help topic.
type Code struct {
	Code    int
	Name    string // the "code" of a JSON error when nothing more exact is known
	Meaning string
}

// Codes are all exit codes, in order.
func Codes() []Code {
	return []Code{
		{OK, "ok", "it worked"},
		{Other, "other", "something else went wrong; standard error says what"},
		{BadUsage, "usage", "the command line or the configuration is not valid"},
		{Denied, "denied", "not allowed: denied, revoked, not yours, or you are no approver"},
		{SignIn, "sign-in", "no SSH key proves who you are"},
		{Expired, "expired", "too late: the request lapsed, the certificate expired, or --wait-timeout passed"},
		{Unreachable, "unreachable", "the daemon, Vault or the cluster cannot be reached or is not ready"},
		{Policy, "policy", "the access policy does not allow it, or too many requests"},
		{Unverified, "verification", "a proof, a key or the ledger is not what it must be; nothing was written"},
		{Newer, "newer", "the export was made by a newer release; that is no sign of forgery"},
		{Unagreed, "unagreed", "the export is as it was signed, but some approvals rest on an access policy that two people did not agree to"},
		{Interrupted, "interrupted", "interrupted with Ctrl-C; what was opened stays open"},
	}
}

// Error is an error that this program itself has found.
type Error struct {
	Exit int
	Code string // for programs; empty: the exit code's name
	What string // after "error: "
	Why  string
	Next string
	Help bool // the command's own --help says more; for an error without Next
}

// Error is what is wrong and why, in one line.
func (f *Error) Error() string {
	if f.Why == "" {
		return f.What
	}
	return f.What + ": " + f.Why
}

// Usage is the error for a command line or a configuration that is not valid.
func Usage(format string, args ...any) *Error {
	return &Error{Exit: BadUsage, What: fmt.Sprintf(format, args...), Help: true}
}

// Explain turns any error into a failure: the one place that maps the server's classes to exit codes.
func Explain(err error) (f *Error, requestID string) {
	if errors.As(err, &f) {
		return f, ""
	}
	var e *api.Error
	if !errors.As(err, &e) {
		return &Error{Exit: Other, What: err.Error()}, ""
	}
	f = &Error{Code: e.Code, Why: e.Why, Next: e.Next}
	if e.Code == api.CodeForged {
		f.Exit, f.What = Unverified, lied
		return f, e.RequestID
	}
	switch e.Class {
	case string(record.ClassInvalid):
		f.Exit, f.What = BadUsage, "this is not valid"
	case string(record.ClassUnknown):
		f.Exit, f.What = Other, "not found"
	case string(record.ClassDenied):
		f.Exit, f.What = Denied, "not allowed"
		if e.Code == "unknown-person" {
			f.Exit, f.What = SignIn, "this key is not enrolled"
		}
	case string(record.ClassPolicy):
		f.Exit, f.What = Policy, "refused by policy "+strings.ReplaceAll(e.Code, ",", ", ")
	case string(record.ClassLimited):
		f.Exit, f.What = Policy, "too many"
	case string(record.ClassConflict):
		f.Exit, f.What = Other, "not possible now"
	case string(record.ClassExpired):
		f.Exit, f.What = Expired, "too late"
	case string(record.ClassUnavailable):
		f.Exit, f.What = Unreachable, "not available"
	case api.ClassSignIn:
		f.Exit, f.What = SignIn, "not signed in"
		if e.Code == api.CodeOtherLedger {
			f.Exit, f.What = Unverified, "this is another server than before"
		}
	default:
		f.Exit, f.What = Other, "the daemon failed"
	}
	return f, e.RequestID
}

// Outcome is how a request ended for the person who waited for it; nil if well, or not yet.
func Outcome(r api.Request) error {
	switch r.State {
	case breakglass.StatePending, breakglass.StateApproved, breakglass.StateIssuing, breakglass.StateActive:
		return nil
	case breakglass.StateDenied:
		who, why := ending(r.Denied)
		return &Error{Exit: Denied, Code: "denied", What: r.ID + " was denied by " + who, Why: why}
	case breakglass.StateRevoked:
		who, why := ending(r.Revoked)
		return &Error{Exit: Denied, Code: "revoked", What: r.ID + " was revoked by " + who, Why: why}
	case breakglass.StateWithdrawn:
		return &Error{Exit: Other, Code: "withdrawn", What: r.ID + " was withdrawn"}
	case breakglass.StateLapsed:
		why := "too few people approved it in time"
		if !r.ClaimUntil.IsZero() {
			why = "it was approved, but not claimed by " + r.ClaimUntil.Local().Format(time.TimeOnly)
		}
		return &Error{Exit: Expired, Code: "lapsed", What: r.ID + " has lapsed", Why: why,
			Next: "ask again: breakglass request"}
	case breakglass.StateExpired:
		return &Error{Exit: Expired, Code: "expired", What: "the certificate of " + r.ID + " has expired"}
	case breakglass.StateFailed:
		why := ""
		if r.Failed != nil {
			why = r.Failed.Detail
		}
		return &Error{Exit: Unreachable, Code: "failed", What: r.ID + " gave no certificate", Why: why,
			Next: "open a new request; the daemon's log has the cause"}
	}
	return &Error{Exit: Other, What: fmt.Sprintf("%s is in the unknown state %q", r.ID, r.State),
		Next: "the server may be newer than this program: install the release that it runs"}
}

// ending is who ended a request and why. A server may leave it out.
func ending(e *api.Ending) (who, why string) {
	if e == nil {
		return "an unknown person", ""
	}
	return e.Person, e.Reason
}

const lied = "VERIFICATION FAILED: the server, or something in between, is lying"

// Lie is a failed check of what the server says.
func Lie(code, why string, args ...any) *Error {
	return &Error{Exit: Unverified, Code: code, What: lied, Why: fmt.Sprintf(why, args...),
		Next: "nothing was written. Do not use this server; tell the people who run it, and keep this output"}
}
