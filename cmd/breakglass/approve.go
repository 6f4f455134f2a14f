package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/cli/terminal"
)

func (a *app) approveCommand() *cobra.Command {
	var yes bool
	var comment string
	cmd := &cobra.Command{Use: "approve [ID]",
		Short:             "Show a request and approve it with your SSH key (without ID: the only one that waits for you)",
		Args:              args(0, 1, "at most one request id"),
		ValidArgsFunction: a.completeIDs(api.FilterForMe),
		Long: "Shows the request and its approvals, read from entries that are proven to be in the ledger. Then it signs the digest of the\n" +
			"first entry with the key that you are signed in with. The ledger keeps the signature, so that every auditor can check it.",
		RunE: a.asks(func(ctx context.Context, c *api.Client, args []string) (err error) {
			if len(args) == 0 {
				if args, err = a.waitsForMe(ctx, c); err != nil {
					return err
				}
			}
			r, err := a.get(ctx, c, args[0])
			if err != nil {
				return err
			}
			a.screen.Note("%s", terminal.Styled(strings.TrimSuffix(a.view().Describe(r), "\n")))
			if r.State != breakglass.StatePending && r.State != breakglass.StateApproved {
				return &exit.Error{Exit: exit.Other, Code: "decided", What: "too late", Why: r.ID + " is already " + string(r.State)}
			}
			if err := a.confirm(ctx, yes, "approve", r.ID); err != nil {
				return err
			}
			if r, err = c.Approve(ctx, r, comment); err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(r)
			}
			rest := "quorum reached"
			if len(r.Missing) > 0 {
				rest = "still needs " + strings.Join(r.Missing, " and ")
			}
			a.screen.Note("%s approved and recorded; %s", a.screen.Green("✓"), rest)
			return nil
		})}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().StringVar(&comment, "comment", "", "a comment for the record")
	return cmd
}

// waitsForMe is the id of the only request that waits for the caller's approval.
func (a *app) waitsForMe(ctx context.Context, c *api.Client) ([]string, error) {
	all, err := c.List(ctx, api.FilterForMe, 1)
	if err != nil {
		return nil, err
	}
	if n := len(all.Items); n != 1 {
		f := &exit.Error{Exit: exit.Other, Code: "none", What: "nothing waits for your approval"}
		if n > 1 {
			f = exit.Usage("which one? %d wait for you: %s", n, strings.Join(ids(all.Items), ", "))
			f.Next = terminal.Command("list", []string{"--for-me"})
		}
		return nil, f
	}
	return ids(all.Items), nil
}

func (a *app) denyCommand() *cobra.Command {
	return a.endingCommand("deny", "Deny a request; this is final", "denied", api.FilterForMe, true)
}

func (a *app) withdrawCommand() *cobra.Command {
	return a.endingCommand("withdraw", "Withdraw your own request, or your approval of another person's", "withdrawn", api.FilterMine, false)
}

// endable says why a request can no longer be denied or withdrawn.
func endable(verb string, r api.Request) error {
	switch {
	case r.State == breakglass.StatePending || r.State == breakglass.StateApproved:
		return nil
	case !r.State.Terminal():
		return &exit.Error{Exit: exit.Other, Code: "claimed", What: "not possible now", Why: "it is too late to " + verb + " " + r.ID +
			": it is " +
			string(r.State), Next: terminal.Command("revoke", nil, r.ID)}
	}
	return &exit.Error{Exit: exit.Other, Code: "decided", What: "not possible now", Why: r.ID + " is already " + string(r.State)}
}

// endingCommand is a command that ends something with a reason.
func (a *app) endingCommand(verb, short, done, filter string, needReason bool) *cobra.Command {
	var yes bool
	var from reasonFrom
	cmd := &cobra.Command{Use: verb + " ID", Short: short, Args: one(), ValidArgsFunction: a.completeIDs(filter),
		RunE: a.asks(func(ctx context.Context, c *api.Client, args []string) error {
			r, err := a.get(ctx, c, args[0])
			if err != nil {
				return err
			}
			a.headline(r)
			if err := endable(verb, r); err != nil { // before the person is asked for anything
				return err
			}
			command, what := verb, done
			if verb == "withdraw" && r.Ask.By.Person != c.SignedIn.Person {
				command, what = "take-back", "approval withdrawn"
			}
			why, err := a.reason(ctx, from, needReason)
			if err != nil {
				return err
			}
			if err := a.confirm(ctx, yes, verb, r.ID); err != nil {
				return err
			}
			if r, err = c.Command(ctx, r.ID, command, why); err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(r)
			}
			a.screen.Note("%s %s   %s", a.screen.Green("✓"), what, r.ID)
			return nil
		})}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	from.flags(cmd)
	return cmd
}
