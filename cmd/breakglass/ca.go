package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/cli/terminal"
	"github.com/breakglassd/breakglass/internal/rotation"
)

func (a *app) caCommand() *cobra.Command {
	var cluster, target string
	var all bool
	run := func(use, short, long string, do func(ctx context.Context, c *api.Client) error) *cobra.Command {
		cmd := &cobra.Command{Use: use + " [CLUSTER]", Short: short, Long: long, Args: args(0, 1, "at most one cluster"),
			ValidArgsFunction: a.completeClusters, RunE: a.asks(func(ctx context.Context, c *api.Client, named []string) (err error) {
				if len(named) == 1 {
					cluster = named[0]
				}
				if cluster == "" {
					if cluster, err = a.onlyCluster(ctx, c); err != nil {
						return err
					}
				}
				return do(ctx, c)
			})}
		return cmd
	}
	status := run("status", "Show what the last check of a cluster's CAs found",
		"Shows each generation of the break-glass CA and each API server, and which of them trusts which. The exit code is 8 when an\n"+
			"operator must act, or when something could not be seen.",
		func(ctx context.Context, c *api.Client) error {
			r, err := c.CAStatus(ctx, cluster)
			if err != nil {
				return err
			}
			return a.caReport(r, all)
		})
	check := run("check", "Check a cluster's CAs now", "Checks every CA from outside, on each API server's own address. To prove the whole "+
		"path, each issuer signs one certificate\n"+
		"without any right. The result is recorded.",
		func(ctx context.Context, c *api.Client) error {
			r, err := c.CACheck(ctx, cluster)
			if err != nil {
				return err
			}
			return a.caReport(r, all)
		})
	plan := run("plan", "Print the exact commands for the next phase of a rotation",
		"Checks the CAs, and prints the commands that lead to the next phase, for an operator to run. It changes nothing. No phase can be\n"+
			"skipped.",
		func(ctx context.Context, c *api.Client) error {
			p, err := c.CAPlan(ctx, cluster, target)
			if err != nil {
				return err
			}
			if a.json() {
				err = a.printJSON(p)
			} else {
				err = a.cleaned(func(b *bytes.Buffer) error { return p.Plan.Text(b) })
			}
			if err == nil && p.Refused != "" {
				err = &exit.Error{Exit: exit.Unverified, Code: "no-plan", What: noWay(target), Why: p.Refused}
			}
			return err
		})
	for _, cmd := range []*cobra.Command{status, check} {
		cmd.Flags().BoolVar(&all, "all", false, "also show what is in order")
	}
	plan.Flags().StringVar(&target, "to", "", "the `phase` to go to; only the next one is possible")
	return group(&cobra.Command{Use: "ca", Short: "Check the break-glass and cluster CAs, and rotate them"}, status, check, plan)
}

// noWay says that a phase cannot be reached.
func noWay(target string) string {
	if target == "" {
		return "there is no next phase"
	}
	return fmt.Sprintf("cannot go to %q from here", target)
}

// onlyCluster is the one cluster that the person's profiles are about.
func (a *app) onlyCluster(ctx context.Context, c *api.Client) (string, error) {
	all, err := c.Profiles(ctx)
	if err != nil {
		return "", err
	}
	var ids []string
	for _, p := range all.Items {
		for _, cl := range p.Clusters {
			if !strings.Contains(" "+strings.Join(ids, " ")+" ", " "+cl.ID+" ") {
				ids = append(ids, cl.ID)
			}
		}
	}
	if len(ids) == 1 {
		return ids[0], nil
	}
	f := exit.Usage("which cluster?")
	f.Next = "they are " + strings.Join(ids, ", ")
	return "", f
}

// cleaned prints what a package has written, without what a terminal would obey.
func (a *app) cleaned(write func(*bytes.Buffer) error) error {
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return err
	}
	a.data("%s", terminal.Styled(terminal.ExactLines(b.String()))) // its columns stay where they are
	return nil
}

func (a *app) caReport(r api.CAReport, all bool) error {
	var err error
	if a.json() {
		err = a.printJSON(r)
	} else {
		err = a.cleaned(func(b *bytes.Buffer) error { return r.Report.Text(b, a.now(), all) })
	}
	if err != nil || r.OK {
		return err
	}
	n := 0
	for _, f := range r.Verdicts {
		if f.Severity != rotation.Info {
			n++
		}
	}
	what := fmt.Sprintf("%d findings about the CAs of %s need an operator", n, r.Cluster)
	if !r.Complete {
		what += ", and not everything could be seen"
	}
	return &exit.Error{Exit: exit.Unverified, Code: "ca-findings", What: what}
}
