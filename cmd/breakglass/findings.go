package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/cli/terminal"
	"github.com/breakglassd/breakglass/internal/cli/view"
	"github.com/breakglassd/breakglass/internal/finding"
)

func (a *app) findingsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "findings", Short: "List open findings", Args: args(0, 0, "no arguments"),
		Long: "Lists the open findings of the daemon's checks, and what to do about each. The exit code is 8 while a finding is critical, and\n" +
			"while critical things that a session left behind are not acknowledged, a closing note is overdue, or a revocation is not\n" +
			"proved. Most findings end by themselves when their cause is gone. A finding about an unknown certificate or name ends when a\n" +
			"responder settles it.",
		RunE: a.asks(func(ctx context.Context, c *api.Client, _ []string) error {
			all, err := c.Findings(ctx)
			if err != nil {
				return err
			}
			owed, err := a.owed(ctx, c)
			if err != nil {
				return err
			}
			if a.json() {
				err = a.printJSON(struct {
					api.Findings
					LeftBehind     []string `json:"leftBehind"`
					ClosingOverdue []string `json:"closingOverdue"`
					NotProved      []string `json:"notProved"`
				}{all, ids(owed.left), ids(owed.close), ids(owed.prove)})
			} else {
				for _, f := range all.Items {
					a.data("%s  %s\n    since %s   %s\n    next: %s\n", f.Severity, f.What, a.view().Clock(f.Since), f.Key, f.Next)
				}
				for _, line := range owed.lines() {
					a.screen.Note("%s %s", a.screen.Yellow("!"), a.asTyped(line))
				}
				if len(all.Items)+len(owed.left)+len(owed.close)+len(owed.prove) == 0 {
					a.screen.Note("%s there are no open findings", a.screen.Green("✓"))
				}
			}
			n := 0
			for _, f := range all.Items {
				if f.Severity.Rank() >= finding.Critical.Rank() {
					n++
				}
			}
			switch {
			case err != nil:
			case n > 0:
				err = &exit.Error{Exit: exit.Unverified, Code: "critical-findings", What: terminal.Counted(n, "critical finding") + " open"}
			case owed.critical() > 0 || len(owed.close)+len(owed.prove) > 0:
				err = &exit.Error{Exit: exit.Unverified, Code: "left-open", What: "sessions left work for people"}
			}
			return err
		})}
	cmd.AddCommand(a.settleCommand())
	return cmd
}

func (a *app) settleCommand() *cobra.Command {
	var note, file string
	var yes bool
	cmd := &cobra.Command{Use: "settle KEY", Short: "Settle a finding about an unknown certificate or name",
		Args: args(1, 1, "the key of a finding"),
		Long: "A responder says what the investigation of an unknown certificate or name found, and the finding ends. It comes back when the\n" +
			"certificate or name is used again. A KEY that ends with a slash means every finding whose key begins with it.",
		Example: "  breakglass findings settle unknown-name/prod-eu-1/breakglass:x --note \"load test of the platform team\"\n  breakglass " +
			"findings settle unknown-name/prod-eu-1/ --note-file incident-42.txt",
		RunE: func(cmd *cobra.Command, keys []string) error {
			ctx := cmd.Context()
			note, err := a.note(ctx, note, file, true)
			if err != nil {
				return err
			}
			c, err := a.reader()
			if err != nil {
				return err
			}
			all, err := c.Findings(ctx)
			if err != nil {
				return err
			}
			seen := int64(-1)
			for _, f := range all.Items {
				if f.Key == keys[0] || strings.HasSuffix(keys[0], "/") && strings.HasPrefix(f.Key, keys[0]) {
					a.screen.Note("%s  %s", f.Severity, f.What)
					seen = max(seen, f.LedgerIndex)
				}
			}
			if err := a.confirm(ctx, yes, "settle", keys[0]); err != nil {
				return err
			}
			n, err := c.Settle(ctx, keys[0], seen, note)
			if err != nil {
				return err
			}
			what := keys[0]
			if n > 1 {
				what = fmt.Sprintf("%d findings", n)
			}
			a.screen.Note("%s settled   %s", a.screen.Green("✓"), what)
			return nil
		}}
	f := cmd.Flags()
	f.StringVar(&note, "note", "", "what the investigation found")
	f.StringVar(&file, "note-file", "", "`file` with the note, - for standard input")
	f.BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// owed is what sessions left open beside the findings, oldest first.
type owed struct{ left, close, prove []api.Request }

// owed asks for what was left behind and not acknowledged, for closing notes that are overdue, and for revocations that not every API
// server has proved.
func (a *app) owed(ctx context.Context, c *api.Client) (o owed, err error) {
	for filter, keep := range map[string]func(api.Request){
		api.FilterUnacknowledged: func(r api.Request) { o.left = append(o.left, r) },
		api.FilterTouched: func(r api.Request) {
			if !r.CloseBy.IsZero() && !r.AsOf.Before(r.CloseBy) {
				o.close = append(o.close, r)
			}
		},
		api.FilterAll: func(r api.Request) { // whatever its age: what is not proved is open
			if r.Revoked != nil && r.Certificate != nil && r.Ask.Aftercare != nil && r.Ask.Aftercare.Prove &&
				(r.Receipt == nil || !r.Receipt.Final) && view.OpenServers(r) != "" {
				o.prove = append(o.prove, r)
			}
		},
	} {
		got, err := c.List(ctx, filter, 1)
		if err != nil {
			return o, err
		}
		for _, r := range got.Items {
			keep(a.seen(r))
		}
	}
	return o, nil
}

// critical is how many critical things were left behind and not acknowledged.
func (o owed) critical() int {
	n := 0
	for _, r := range o.left {
		n += r.Swept.Critical()
	}
	return n
}

// lines says it, each with the command that goes on.
func (o owed) lines() []string {
	var out []string
	grave, things, all := 0, 0, 0
	for _, r := range o.left {
		if n := r.Swept.Critical(); n > 0 {
			grave, things = grave+1, things+n
		}
		if r.Swept != nil {
			all += len(r.Swept.Items) + r.Swept.More
		}
	}
	if grave > 0 {
		out = append(out, fmt.Sprintf("%s left %s behind that no responder has acknowledged: breakglass list --unacknowledged",
			terminal.Counted(grave, "session"), terminal.Counted(things, "critical thing")))
	} else if len(o.left) > 0 {
		out = append(out, fmt.Sprintf("%s left %s behind, none critical, that no responder has acknowledged: breakglass list --unacknowledged",
			terminal.Counted(len(o.left), "session"), terminal.Counted(all, "thing")))
	}
	if n := len(o.close); n > 0 {
		out = append(out, fmt.Sprintf("%s overdue: breakglass list --touched", map[bool]string{true: "1 closing note is",
			false: fmt.Sprintf("%d closing notes are", n)}[n == 1]))
	}
	for _, r := range o.prove {
		out = append(out, fmt.Sprintf("the revocation of %s is not proved: %s: %s", r.ID, terminal.OneLine(view.OpenServers(r), 200),
			terminal.Command("show", nil, r.ID)))
	}
	return out
}

// ids names requests.
func ids(all []api.Request) []string {
	out := []string{}
	for _, r := range all {
		out = append(out, r.ID)
	}
	return out
}
