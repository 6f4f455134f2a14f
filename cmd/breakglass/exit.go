package main

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
	exitOK          = 0
	exitOther       = 1
	exitUsage       = 2
	exitDenied      = 3
	exitSignIn      = 4
	exitExpired     = 5
	exitUnreachable = 6
	exitPolicy      = 7
	exitVerify      = 8
	exitNewer       = 9
	exitUnagreed    = 10
	exitInterrupted = 130 // 128 + SIGINT, as shells do
)

// exitCode is one row of the help topic.
type exitCode struct {
	code    int
	name    string // the "code" of a JSON error when nothing more exact is known
	meaning string
}

func exitCodes() []exitCode {
	return []exitCode{
		{exitOK, "ok", "it worked"},
		{exitOther, "other", "something else went wrong; standard error says what"},
		{exitUsage, "usage", "the command line or the configuration makes no sense"},
		{exitDenied, "denied", "a person or a rule about persons said no: denied, revoked, not yours, not an approver"},
		{exitSignIn, "sign-in", "no SSH key proves who you are"},
		{exitExpired, "expired", "too late: the request lapsed, the certificate expired, or --wait-timeout passed"},
		{exitUnreachable, "unreachable", "the daemon, Vault or the cluster cannot be reached or is not ready"},
		{exitPolicy, "policy", "the access policy does not allow it, or too many requests"},
		{exitVerify, "verification", "a proof, a key or the ledger is not what it must be; nothing was written"},
		{exitNewer, "newer", "an export was made by a newer release: no sign of forgery"},
		{exitUnagreed, "unagreed", "an export is what was signed, but some approvals rest on an access policy that no two people agreed to"},
		{exitInterrupted, "interrupted", "interrupted with Ctrl-C; what was opened stays open"},
	}
}

// failure is an error that this program itself has found.
type failure struct {
	exit int
	code string // for programs; empty: the exit code's name
	what string // after "error: "
	why  string
	next string
}

func (f *failure) Error() string {
	if f.why == "" {
		return f.what
	}
	return f.what + ": " + f.why
}

func usage(format string, args ...any) *failure {
	return &failure{exit: exitUsage, what: fmt.Sprintf(format, args...), next: "--help shows what is possible"}
}

// explain turns any error into a failure: the one place that maps the server's classes to exit codes.
func explain(err error) (f *failure, requestID string) {
	if errors.As(err, &f) {
		return f, ""
	}
	var e *api.Error
	if !errors.As(err, &e) {
		return &failure{exit: exitOther, what: err.Error()}, ""
	}
	f = &failure{code: e.Code, why: e.Why, next: e.Next}
	if e.Code == api.CodeForged {
		f.exit, f.what = exitVerify, lied
		return f, e.RequestID
	}
	switch e.Class {
	case string(record.ClassInvalid):
		f.exit, f.what = exitUsage, "that makes no sense to the daemon"
	case string(record.ClassUnknown):
		f.exit, f.what = exitOther, "not found"
	case string(record.ClassDenied):
		f.exit, f.what = exitDenied, "not allowed"
		if e.Code == "unknown-person" {
			f.exit, f.what = exitSignIn, "the daemon does not know you"
		}
	case string(record.ClassPolicy):
		f.exit, f.what = exitPolicy, "refused by policy "+strings.ReplaceAll(e.Code, ",", ", ")
	case string(record.ClassLimited):
		f.exit, f.what = exitPolicy, "too many"
	case string(record.ClassConflict):
		f.exit, f.what = exitOther, "not possible now"
	case string(record.ClassExpired):
		f.exit, f.what = exitExpired, "too late"
	case string(record.ClassUnavailable):
		f.exit, f.what = exitUnreachable, "not available"
	case api.ClassSignIn:
		f.exit, f.what = exitSignIn, "not signed in"
		if e.Code == api.CodeOtherLedger {
			f.exit, f.what = exitVerify, "this is not the server it was"
		}
	default:
		f.exit, f.what = exitOther, "the daemon failed"
	}
	return f, e.RequestID
}

// outcome is how a request ended for the person who waited for it; nil if well, or not yet.
func outcome(r api.Request) error {
	switch r.State {
	case breakglass.StatePending, breakglass.StateApproved, breakglass.StateIssuing, breakglass.StateActive:
		return nil
	case breakglass.StateDenied:
		who, why := ending(r.Denied)
		return &failure{exit: exitDenied, code: "denied", what: r.ID + " was denied by " + who, why: why}
	case breakglass.StateRevoked:
		who, why := ending(r.Revoked)
		return &failure{exit: exitDenied, code: "revoked", what: r.ID + " was revoked by " + who, why: why}
	case breakglass.StateWithdrawn:
		return &failure{exit: exitOther, code: "withdrawn", what: r.ID + " was withdrawn"}
	case breakglass.StateLapsed:
		why := "too few people approved it in time"
		if !r.ClaimUntil.IsZero() {
			why = "it was approved, and not claimed until " + r.ClaimUntil.Local().Format(time.TimeOnly)
		}
		return &failure{exit: exitExpired, code: "lapsed", what: r.ID + " has lapsed", why: why,
			next: "a new request is cheap: breakglass request"}
	case breakglass.StateExpired:
		return &failure{exit: exitExpired, code: "expired", what: "the certificate of " + r.ID + " has expired"}
	case breakglass.StateFailed:
		why := ""
		if r.Failed != nil {
			why = r.Failed.Detail
		}
		return &failure{exit: exitUnreachable, code: "failed", what: "no certificate came of " + r.ID, why: why,
			next: "open a new request; the daemon's log has the cause"}
	}
	return &failure{exit: exitOther, what: fmt.Sprintf("%s is in the unknown state %q", r.ID, r.State),
		next: "is the server newer than this program?"}
}

// ending is who ended a request and why. A server may leave it out.
func ending(e *api.Ending) (who, why string) {
	if e == nil {
		return "somebody", ""
	}
	return e.Person, e.Reason
}
