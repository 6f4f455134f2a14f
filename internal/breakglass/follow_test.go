package breakglass_test

import (
	"testing"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/verify"
)

// A messenger that could not tell an entry is told how the request is by then, also if the request is over and only refused commands came.
func TestFollowerTellsHowTheRequestIsByNow(t *testing.T) {
	bgtest.Bubble(t, bgtest.Options{}, func(t *testing.T, s *bgtest.System) {
		r := s.Ask(bySlack("alice"), "admin")
		_, err := s.Service.Withdraw(t.Context(), bySlack("alice"), r.ID, "")
		must(t, err)
		entries, err := s.Ledger.Stream(t.Context(), r.ID)
		must(t, err)
		last := entries[len(entries)-1]
		ev, err := verify.Decode(last)
		must(t, err)
		f := s.Service.Follow()
		before, err := f.Request(t.Context(), last, ev)
		must(t, err)
		_, err = s.Service.Deny(t.Context(), bySlack("alice"), r.ID, "not needed")
		wantRefusal(t, err, "own-request")
		after, err := f.Request(t.Context(), last, ev)
		must(t, err)
		if after.Rev != before.Rev+1 || after.Refusals != before.Refusals+1 {
			t.Errorf("told of revision %d with %d refusals, want one more than %d and %d", after.Rev, after.Refusals, before.Rev, before.Refusals)
		}
	})
}
