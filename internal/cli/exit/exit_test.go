package exit

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/record"
)

func TestEveryEndHasItsExitCode(t *testing.T) {
	for class, want := range map[string]int{
		string(record.ClassInvalid): BadUsage, string(record.ClassUnknown): Other, string(record.ClassDenied): Denied,
		string(record.ClassPolicy): Policy, string(record.ClassConflict): Other, string(record.ClassExpired): Expired,
		string(record.ClassLimited): Policy, string(record.ClassUnavailable): Unreachable,
		api.ClassSignIn: SignIn, api.ClassInternal: Other, "something new": Other,
	} {
		f, _ := Explain(fmt.Errorf("somewhere: %w", &api.Error{Class: class, Code: "x", Why: "y"}))
		if f.Exit != want || f.What == "" {
			t.Errorf("class %s: exit %d (%q), want %d", class, f.Exit, f.What, want)
		}
	}
	by, failed := &api.Ending{Person: "carol"}, &api.Failure{}
	for state, want := range map[breakglass.State]int{
		breakglass.StatePending: 0, breakglass.StateApproved: 0, breakglass.StateIssuing: 0, breakglass.StateActive: 0,
		breakglass.StateDenied:  Denied,
		breakglass.StateRevoked: Denied, breakglass.StateWithdrawn: Other, breakglass.StateLapsed: Expired,
		breakglass.StateExpired: Expired,
		breakglass.StateFailed:  Unreachable, "something new": Other,
	} {
		got := 0
		if err := Outcome(api.Request{State: state, Denied: by, Revoked: by, Failed: failed}); err != nil {
			f, _ := Explain(err)
			got = f.Exit
		}
		if got != want {
			t.Errorf("state %s: exit %d, want %d", state, got, want)
		}
	}
}

func TestWhatWasApprovedAndNotClaimedIsSaidSo(t *testing.T) {
	f, _ := Explain(Outcome(api.Request{ID: "bg-0000-000", State: breakglass.StateLapsed, ClaimUntil: time.Now()}))
	if !strings.HasPrefix(f.Why, "it was approved, but not claimed by ") {
		t.Errorf("an approved request that was not claimed: %q", f.Why)
	}
}
