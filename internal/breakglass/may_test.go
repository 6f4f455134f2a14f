package breakglass_test

import (
	"testing"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/record"
)

// May says no in the command's own words, once on record, and a yes changes nothing.
func TestMayRefusesAsTheCommandDoes(t *testing.T) {
	bgtest.Bubble(t, bgtest.Options{}, func(t *testing.T, s *bgtest.System) {
		ctx := s.T.Context()
		r := s.Ask(bySlack("alice"), "admin")
		for _, tt := range []struct {
			action  breakglass.Action
			by      string
			code    string // empty: May refuses nothing
			command func(a record.Actor) error
		}{
			{breakglass.ActionApprove, "alice", "self-approval", func(a record.Actor) error {
				_, err := s.Service.Approve(ctx, a, r.ID, breakglass.Consent{Digest: r.Digest})
				return err
			}},
			{breakglass.ActionApprove, "mallory", "not-approver", func(a record.Actor) error {
				_, err := s.Service.Approve(ctx, a, r.ID, breakglass.Consent{Digest: r.Digest})
				return err
			}},
			{breakglass.ActionDeny, "alice", "own-request", func(a record.Actor) error {
				_, err := s.Service.Deny(ctx, a, r.ID, "not an emergency")
				return err
			}},
			{breakglass.ActionWithdraw, "bob", "not-yours", func(a record.Actor) error {
				_, err := s.Service.Withdraw(ctx, a, r.ID, "")
				return err
			}},
			{breakglass.ActionRevoke, "alice", "not-active", func(a record.Actor) error {
				_, err := s.Service.Revoke(ctx, a, r.ID, "the incident is over")
				return err
			}},
			{breakglass.ActionClose, "alice", "not-issued", func(a record.Actor) error {
				_, err := s.Service.Close(ctx, a, r.ID, "restarted the etcd member and looked at its log")
				return err
			}},
			{breakglass.ActionAcknowledge, "alice", "own-session", func(a record.Actor) error {
				_, err := s.Service.Acknowledge(ctx, a, r.ID, "", "it may stay")
				return err
			}},
			{breakglass.ActionApprove, "bob", "", nil},
			{breakglass.ActionDeny, "carol", "", nil},
			{breakglass.ActionWithdraw, "alice", "", nil},
		} {
			size := s.Ledger.Size()
			err := s.Service.May(ctx, bySlack(tt.by), tt.action, r.ID)
			if tt.code == "" {
				if err != nil || s.Ledger.Size() != size {
					t.Errorf("%s may %s: %v, and %d entries were written", tt.by, tt.action, err, s.Ledger.Size()-size)
				}
				continue
			}
			bgtest.WantRefusal(t, err, tt.code)
			if got := s.Ledger.Size() - size; got != 1 {
				t.Errorf("%s may not %s: %d entries were written, want the refusal", tt.by, tt.action, got)
			}
			if no := tt.command(bySlack(tt.by)); no == nil || err == nil || no.Error() != err.Error() {
				t.Errorf("%s: May says %v, the command %v", tt.action, err, no)
			}
		}
		if err := s.Service.May(ctx, bySlack("bob"), "paint", r.ID); err == nil {
			t.Error("May lets bob do what has no rule")
		}
		got, err := s.Service.Get(ctx, r.ID)
		bgtest.Must(t, err)
		bgtest.WantState(t, got, breakglass.StatePending)
	})
}
