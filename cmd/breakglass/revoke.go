package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/cli/terminal"
	"github.com/breakglassd/breakglass/internal/cli/view"
)

func (a *app) revokeCommand() *cobra.Command {
	var yes, all bool
	var from reasonFrom
	var cluster, confirmed string
	var wait time.Duration
	cmd := &cobra.Command{Use: "revoke ID | --all --cluster CLUSTER",
		Short: "Revoke a certificate, or every grant in a cluster", Args: args(0, 1, "one request id, or --all"),
		ValidArgsFunction: a.completeIDs(api.FilterActive),
		Long: "Revokes a certificate before it expires. Its requester, its approvers and responders may do so. The daemon removes the right " +
			"from\n" +
			"the cluster and asks every API server until it refuses the certificate; the receipt records each answer and its time.\n" +
			"\n" +
			"With --all it ends every grant in a cluster, and approved requests that were not claimed yet. To confirm, type the cluster's name,\n" +
			"or give it with --confirm.",
		Example: "  breakglass revoke bg-7k3m-9qx --reason \"laptop stolen\"\n  breakglass revoke --all --cluster prod-eu-1 --reason \"control " +
			"plane compromised\" --confirm prod-eu-1",
		RunE: func(cmd *cobra.Command, ids []string) error {
			ctx := cmd.Context()
			switch {
			case all && (len(ids) > 0 || cluster == ""):
				return exit.Usage("--all takes --cluster, and no request id")
			case !all && (len(ids) == 0 || cluster != "" || confirmed != ""):
				return exit.Usage("name one request, or give --all and --cluster")
			}
			c, err := a.reader()
			if err != nil {
				return err
			}
			if all {
				return a.revokeAll(ctx, c, cluster, confirmed, from)
			}
			r, err := a.get(ctx, c, ids[0])
			if err != nil {
				return err
			}
			a.headline(r)
			why, err := a.reason(ctx, from, true)
			if err != nil {
				return err
			}
			if err := a.confirm(ctx, yes, "revoke", r.ID); err != nil {
				return err
			}
			before := r.Revoked
			if r, err = c.Command(ctx, r.ID, "revoke", why); err != nil {
				return err
			}
			a.seen(r)
			switch is := r.Revoked; {
			case is != nil && (before != nil || is.Reason != strings.TrimSpace(why)): // by another, and perhaps just now
				lost := "; your reason was not recorded"
				if is.Reason == strings.TrimSpace(why) {
					lost = ""
				}
				a.screen.Note("= already revoked by %s at %s%s   %s", view.Person(r, is.Person), a.view().Clock(is.At), lost, r.ID)
			case !a.json():
				a.screen.Note("%s revoked   %s", a.screen.Green("✓"), r.ID)
			}
			var left string
			if r, left, err = a.untilCutOff(ctx, c, r, wait); err != nil {
				return err
			}
			if a.json() {
				err = a.printJSON(r)
			} else {
				a.screen.Note("%s", terminal.Styled(strings.TrimSuffix(a.view().Receipt(r), "\n")))
			}
			if err == nil && left != "" {
				err = &exit.Error{Exit: exit.Unreachable, Code: "not-cut-off", What: "revoked and recorded, but not every API server refuses it yet",
					Why:  left,
					Next: "the daemon keeps asking; watch it with: " + terminal.Command("show", nil, r.ID)}
			}
			return err
		}}
	f := cmd.Flags()
	f.BoolVar(&yes, "yes", false, "do not ask")
	f.BoolVar(&all, "all", false, "every grant in the cluster")
	f.StringVarP(&cluster, "cluster", "c", "", "with --all: cluster `id`")
	f.StringVar(&confirmed, "confirm", "", "with --all: the cluster's `id` again, without a terminal")
	from.flags(cmd)
	f.DurationVar(&wait, "wait", 30*time.Second, "how long to wait until every API server refuses the certificate")
	completes(cmd, "cluster", a.completeClusters)
	return cmd
}

// headline says which request a command is about.
func (a *app) headline(r api.Request) {
	a.screen.Note("%s  %s asks for %s on %s: %s", a.screen.Bold(r.ID), view.Person(r, r.Ask.By.Person), r.Ask.Profile, r.Ask.Cluster,
		terminal.OneLine(r.Reason, 100))
}

// untilCutOff waits until every API server says no, and returns what is left to say one.
func (a *app) untilCutOff(ctx context.Context, c *api.Client, r api.Request, limit time.Duration) (api.Request, string, error) {
	if r.Certificate == nil { // it was never claimed
		return r, "", nil
	}
	done := func(r api.Request) bool { return view.OpenServers(r) == "" }
	if limit > 0 && !done(r) && r.Ask.Aftercare != nil && r.Ask.Aftercare.Prove {
		var f *exit.Error
		after, err := a.await(ctx, c, r, limit, done)
		r = after
		if err != nil && !(errors.As(err, &f) && f.Code == "wait-timeout") {
			return r, "", err
		}
	}
	return r, view.OpenServers(r), nil
}

func (a *app) revokeAll(ctx context.Context, c *api.Client, cluster, confirmed string, from reasonFrom) error {
	active, err := c.List(ctx, api.FilterActive, 1)
	if err != nil {
		return err
	}
	n := 0
	for _, r := range active.Items {
		if r.Ask.Cluster == cluster {
			n++
			a.headline(a.seen(r))
		}
	}
	a.screen.Note("%s this ends every grant on %s: %d with a live certificate, and every approved one", a.screen.Yellow("!"), cluster, n)
	why, err := a.reason(ctx, from, true)
	if err != nil {
		return err
	}
	switch {
	case confirmed == "" && !a.screen.Interactive():
		return exit.Usage("to revoke all without a terminal, give --confirm %s", cluster)
	case confirmed == "":
		if confirmed, err = a.screen.Ask(ctx, false, "Type the cluster's name to revoke all: "); err != nil {
			return err
		}
	}
	if confirmed != cluster {
		return &exit.Error{Exit: exit.Other, Code: "not-confirmed", What: "not confirmed", Why: "that was not " + cluster + "; nothing was done"}
	}
	got, err := c.RevokeAll(ctx, cluster, why)
	if err != nil {
		return err
	}
	var open []string
	for _, r := range got.Revoked {
		if left := view.OpenServers(r); r.Certificate != nil && left != "" {
			open = append(open, r.ID+": "+left)
		}
	}
	if a.json() {
		if err := a.printJSON(got); err != nil {
			return err
		}
	} else {
		w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "ID\tWHO\tPROFILE\tWHAT HAPPENED")
		for _, r := range got.Revoked {
			what := "revoked, refused by every API server"
			if r.Certificate == nil {
				what = "revoked before it was claimed"
			} else if left := view.OpenServers(r); left != "" {
				what = "revoked, NOT YET refused by " + left
			}
			fmt.Fprintln(w, terminal.Format("%s\t%s\t%s\t%s", a.seen(r).ID, r.Ask.By.Person, r.Ask.Profile, what))
		}
		for _, l := range got.Left {
			fmt.Fprintln(w, terminal.Format("%s\t\t\tLEFT ALONE: %s", l.Request, l.Why))
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if len(got.Revoked)+len(got.Left) == 0 {
			a.screen.Note("there was nothing to revoke on %s", cluster)
		}
	}
	switch {
	case len(got.Left) > 0:
		return &exit.Error{Exit: exit.Denied, Code: "left-alone", What: terminal.Counted(len(got.Left), "grant") + " left alone",
			Next: "ask a responder, or one of their approvers, to revoke them"}
	case len(open) > 0:
		return &exit.Error{Exit: exit.Unreachable, Code: "not-cut-off", What: "revoked and recorded, but not every API server refuses it yet",
			Why: strings.Join(open, "; "), Next: "the daemon keeps asking; watch it with: breakglass list"}
	}
	return nil
}
