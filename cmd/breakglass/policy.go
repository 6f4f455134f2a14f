package main

import (
	"context"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/cli/terminal"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/text"
)

func (a *app) policyCommand() *cobra.Command {
	return group(&cobra.Command{Use: "policy", Short: "Show the access policy, and sign changes to it",
		Long: "The access policy is a file on the daemon's machine. If it names a team (policy: {approvers: TEAM}), two people of that team " +
			"sign\n" +
			"every change that adds or eases anything before it is in force. A change that only removes something is in force at once."},
		a.policyShow(), a.policyDiff(), a.policyApprove())
}

func (a *app) policyShow() *cobra.Command {
	var whole bool
	cmd := &cobra.Command{Use: "show", Short: "Show the access policy in force, who agreed to it, and the change that waits", Args: args(0, 0,
		"no arguments"), RunE: a.asks(func(ctx context.Context, c *api.Client, _ []string) error {
		p, err := c.Policy(ctx)
		switch {
		case err != nil:
			return err
		case a.json():
			return a.printJSON(p)
		case whole:
			a.data("%s", fileText(p.InForce.Text))
			return nil
		}
		a.data("%s", terminal.Styled(a.describePolicy(p)))
		return nil
	})}
	cmd.Flags().BoolVar(&whole, "text", false, "print the file that is in force")
	return cmd
}

// describePolicy says how the access policy stands.
func (a *app) describePolicy(p api.Policy) string {
	var b strings.Builder
	line := func(f string, args ...any) { b.WriteString(terminal.Format(f, args...) + "\n") }
	line("in force  %s since %s: %s", p.InForce.Digest, p.Since.Local().Format(time.DateTime), p.Why)
	switch {
	case p.Team != "" && p.Agreed:
		line("agreed    yes; changes take two of %s (team %s)", strings.Join(p.Approvers, ", "), p.Team)
	case p.Team != "":
		line("agreed    NO: two of %s (team %s) must confirm it; so far: %s", strings.Join(p.Approvers, ", "), p.Team, orNobody(p.InForce.Signed))
		line("          %s", a.typed("policy approve", nil, p.InForce.String()))
	case p.ReviewedBy != "":
		line("agreed    not here; the policy names: %s", p.ReviewedBy)
	default:
		line("agreed    NO: the policy names no team that must agree to changes: every writer of the file decides who approves")
	}
	for _, x := range p.Cooling {
		of := ""
		if x.Person != "" {
			of = " of " + x.Person
		}
		line("new       %s%s counts for approvals from %s", x.What, of, x.Until.Local().Format(time.DateTime))
	}
	if p.Waiting != nil {
		line("waiting   %s, signed by %s", p.Waiting.Digest, orNobody(p.Waiting.Signed))
		for _, x := range p.Waiting.Changes {
			line("          + %s", x)
		}
		line("          %s", a.typed("policy approve", nil, p.Waiting.String()))
	}
	return b.String()
}

func orNobody(people []string) string {
	if len(people) == 0 {
		return "no one yet"
	}
	return strings.Join(people, " and ")
}

func (a *app) policyDiff() *cobra.Command {
	return &cobra.Command{Use: "diff [FILE]", Short: "Show in words what a file, or the waiting policy, changes", Args: args(0, 1,
		"at most one file"), RunE: a.asks(func(ctx context.Context, c *api.Client, args []string) error {
		p, err := c.Policy(ctx)
		if err != nil {
			return err
		}
		old, err := p.InForce.Parse()
		if err != nil {
			return err
		}
		var next *policy.Policy
		switch {
		case len(args) == 1:
			file, rerr := os.ReadFile(args[0])
			if rerr != nil {
				return rerr
			}
			next, err = policy.Parse(args[0], file)
		case p.Waiting != nil:
			next, err = p.Waiting.Parse()
		default:
			a.screen.Note("no change waits")
			next = old
		}
		switch changes := policyChanges(old, next); {
		case err != nil:
			return err
		case a.json():
			return a.printJSON(changes)
		default:
			a.data("%s", changes.lines())
		}
		return nil
	})}
}

// policyDifference is what changes between two policies, in words.
type policyDifference struct {
	api.Meta
	From  string   `json:"from"` // digest
	To    string   `json:"to"`
	Adds  []string `json:"adds"`  // or eases
	Takes []string `json:"takes"` // away
}

// policyChanges is worked out from the texts themselves.
func policyChanges(old, next *policy.Policy) policyDifference {
	d := policyDifference{Meta: api.Meta{APIVersion: api.Version, Kind: "PolicyDifference"}, From: old.Digest, To: next.Digest,
		Adds: append([]string{}, policy.Eases(old, next)...), Takes: []string{}}
	for _, x := range policy.Diff(old, next) {
		if !slices.Contains(d.Adds, x) {
			d.Takes = append(d.Takes, x)
		}
	}
	return d
}

// lines has what adds or eases with a plus, what takes away with a minus.
func (d policyDifference) lines() terminal.Styled {
	var b strings.Builder
	for _, x := range d.Takes {
		b.WriteString(terminal.Format("- %s\n", x))
	}
	for _, x := range d.Adds {
		b.WriteString(terminal.Format("+ %s\n", x))
	}
	return terminal.Styled(b.String())
}

func (a *app) policyApprove() *cobra.Command {
	var yes, waive bool
	cmd := &cobra.Command{Use: "approve DIGEST", Short: "Show what a policy changes, and sign it with your SSH key", Args: one(),
		Long: "DIGEST names the waiting access policy, or the one in force that two people have not agreed to yet; twelve digits or more are\n" +
			"enough. This machine works out the changes from the two texts.",
		RunE: a.asks(func(ctx context.Context, c *api.Client, args []string) error {
			p, err := c.Policy(ctx)
			if err != nil {
				return err
			}
			v, named := p.InForce, func(digest string) bool {
				return len(args[0]) >= 12 && strings.HasPrefix(digest, strings.ToLower(args[0]))
			}
			switch {
			case p.Waiting != nil && named(p.Waiting.Digest):
				v = *p.Waiting
			case !named(p.InForce.Digest):
				return &exit.Error{Exit: exit.Other, Code: "policy/digest", What: "not signed", Why: args[0] + " is neither the access policy that " +
					"waits nor the one in force", Next: terminal.Command("policy show", nil)}
			}
			old, err := p.InForce.Parse()
			if err != nil {
				return err
			}
			next, err := v.Parse()
			if err != nil {
				return err
			}
			shown := policyChanges(old, next).lines()
			if v.Digest == p.InForce.Digest {
				shown = fileText(v.Text)
			}
			if !a.json() {
				a.data("%s", shown)
			}
			if waive {
				a.screen.Note("%s new keys and accounts will count for approvals at once, if two people say so", a.screen.Yellow("!"))
			}
			if err := a.confirm(ctx, yes, "approve", v.String()); err != nil {
				return err
			}
			again := slices.Contains(v.Signed, c.SignedIn.Person) && !waive
			after, err := c.ApprovePolicy(ctx, v, p.InForce.Digest, waive)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(after)
			}
			done := "signed and recorded"
			if again {
				done = "you have signed it already"
			}
			a.screen.Note("%s %s; %s", a.screen.Green("✓"), done, terminal.Styled(a.afterSigning(v.Digest, after)))
			return nil
		})}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&waive, "waive-cooling", false, "let new keys and accounts count for approvals at once; two people must give it")
	return cmd
}

// afterSigning says what became of the access policy that was signed.
func (a *app) afterSigning(digest string, p api.Policy) string {
	switch {
	case p.InForce.Digest != digest:
		return "it waits for one more person"
	case p.Agreed:
		return "it is in force, agreed to by two people"
	case len(p.InForce.Signed) > 0:
		return "it is in force, and waits for one more person to confirm it"
	}
	return "it is in force; two people have not agreed to the policy that it changes, so two confirm the whole of it: " +
		string(a.typed("policy approve", nil, p.InForce.String()))
}

// fileText is a file that another party sent, fit for a screen, with its indentation.
func fileText(s string) terminal.Styled {
	var b strings.Builder
	for line := range strings.SplitSeq(strings.TrimSuffix(s, "\n"), "\n") {
		rest := strings.TrimLeft(line, " ")
		b.WriteString(line[:len(line)-len(rest)] + text.Clean(rest) + "\n")
	}
	return terminal.Styled(b.String())
}
