package main

import (
	"cmp"
	"context"
	"encoding/pem"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/cli/proved"
	"github.com/breakglassd/breakglass/internal/cli/terminal"
	"github.com/breakglassd/breakglass/internal/cli/view"
	"github.com/breakglassd/breakglass/internal/text"
)

func (a *app) statusCommand() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{Use: "status [ID]", Short: "Show the state of a request (without ID: your latest open one)",
		Args: args(0, 1, "at most one request id"), ValidArgsFunction: a.completeIDs(api.FilterAll),
		Long: "Shows the state of a request. With --watch it follows the request until it has ended; the exit code then says how.",
		RunE: a.asks(func(ctx context.Context, c *api.Client, args []string) (err error) {
			var r api.Request
			if len(args) == 1 {
				r, err = c.Get(ctx, args[0])
			} else {
				if r, err = a.latest(ctx, c); err == nil {
					which := "your latest open request"
					if r.State.Terminal() {
						which = "your latest request; you have no open one"
					}
					a.screen.Note("%s", which)
				}
			}
			if err != nil {
				return err
			}
			a.seen(r)
			if watch {
				a.screen.Note("%s  %s asks for %s on %s", a.screen.Bold(r.ID), view.Person(r, r.Ask.By.Person), r.Ask.Profile, r.Ask.Cluster)
				if r, err = a.await(ctx, c, r, 0, func(r api.Request) bool { return r.State.Terminal() }); err != nil {
					return err
				}
			}
			if a.json() {
				err = a.printJSON(r)
			} else {
				a.data("%s  %s  %s on %s for %s   %s\n", r.ID, r.State, r.Ask.Profile, r.Ask.Cluster, view.Seconds(r.Ask.TTLSeconds),
					a.view().Waiting(r))
			}
			if err == nil && watch {
				err = exit.Outcome(r)
			}
			return err
		})}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "follow the request until it ends")
	return cmd
}

// latest is the person's request that is still open, else the last one.
func (a *app) latest(ctx context.Context, c *api.Client) (api.Request, error) {
	mine, err := c.List(ctx, api.FilterMine, 30)
	if err != nil {
		return api.Request{}, err
	}
	slices.Reverse(mine.Items)
	if i := slices.IndexFunc(mine.Items, func(r api.Request) bool { return !r.State.Terminal() }); i >= 0 {
		return mine.Items[i], nil
	}
	if len(mine.Items) > 0 {
		return mine.Items[0], nil
	}
	return api.Request{}, &exit.Error{Exit: exit.Other, Code: "none", What: "you have made no request in the last 30 days",
		Next: terminal.Command("list", nil) + " shows the requests of all people"}
}

func (a *app) listCommand() *cobra.Command {
	var mine, forMe, active, touched, unacknowledged bool
	var since string
	var limit int
	cmd := &cobra.Command{Use: "list", Short: "List requests", Args: args(0, 0, "flags only"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			days, err := parseDays(since)
			if err != nil {
				return err
			}
			if limit < 0 {
				return exit.Usage("--limit %d is not a number of requests", limit)
			}
			filter := api.FilterAll
			for f, on := range map[string]bool{api.FilterMine: mine, api.FilterForMe: forMe, api.FilterActive: active, api.FilterTouched: touched,
				api.FilterUnacknowledged: unacknowledged} {
				if on && filter != api.FilterAll {
					return exit.Usage("--mine, --for-me, --active, --touched and --unacknowledged exclude each other")
				}
				if on {
					filter = f
				}
			}
			c, err := a.reader()
			if err != nil {
				return err
			}
			all, err := c.Newest(cmd.Context(), filter, days, cmp.Or(limit, math.MaxInt))
			if err != nil {
				return err
			}
			if all.Next > 0 {
				a.screen.Note("the newest %d; older ones are not shown: see --limit", len(all.Items))
			}
			if a.json() {
				return a.printJSON(all)
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tSTATE\tWHO\tCLUSTER\tPROFILE\tFOR\tAGE\tAPPROVALS\tWHY")
			slices.Reverse(all.Items)
			for _, r := range all.Items {
				a.seen(r)
				fmt.Fprintln(w, terminal.Format("%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d/%d\t%s", r.ID, r.State, r.Ask.By.Person, r.Ask.Cluster, r.Ask.Profile,
					view.Seconds(r.Ask.TTLSeconds),
					text.About(a.now().Sub(r.RequestedAt)), len(r.Approvals), r.Ask.Quorum.Count, terminal.OneLine(r.Reason, 60)))
			}
			return w.Flush()
		}}
	f := cmd.Flags()
	f.BoolVar(&mine, "mine", false, "only requests that you made")
	f.BoolVar(&forMe, "for-me", false, "only requests that wait for your approval")
	f.BoolVar(&active, "active", false, "only grants with a live certificate")
	f.BoolVar(&touched, "touched", false, "only grants without a closing note")
	f.BoolVar(&unacknowledged, "unacknowledged", false, "only grants that left something behind which no responder has acknowledged")
	f.StringVar(&since, "since", "30d", "only requests made in the last `days`, or still open")
	f.IntVar(&limit, "limit", 0, "only this `number` of the newest; 0 means all")
	return cmd
}

// parseDays reads 30d, or a duration, which is rounded up to days.
func parseDays(s string) (int, error) {
	if n, ok := strings.CutSuffix(s, "d"); ok {
		if days, err := strconv.Atoi(n); err == nil && days >= 1 && days <= 90 {
			return days, nil
		}
	} else if d, err := time.ParseDuration(s); err == nil && d > 0 && d <= 90*24*time.Hour {
		return int((d + 24*time.Hour - 1) / (24 * time.Hour)), nil
	}
	return 0, exit.Usage("--since %s is not a number of days from 1d to 90d", s)
}

func (a *app) showCommand() *cobra.Command {
	var session, proof bool
	var out string
	cmd := &cobra.Command{Use: "show ID", Short: "Show everything that is known about a request", Args: one(),
		ValidArgsFunction: a.completeIDs(api.FilterAll),
		Long: "Shows everything that is known about a request. With --session it shows the report on what was done with the certificate, from\n" +
			"the API servers' audit events; -o json prints the bytes whose digest is in the ledger, -o html a page for a browser. With --proof\n" +
			"it prints the certificate and the ledger's proof of it, as JSON without any key. An auditor checks it with ledger verify.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if session && proof {
				return exit.Usage("--session and --proof exclude each other")
			}
			if session {
				if err := a.formats("json", "html", "text"); err != nil {
					return err
				}
				c, err := a.client()
				if err != nil {
					return err
				}
				return a.sessionReport(cmd.Context(), c, args[0], out)
			}
			if out != "" {
				return exit.Usage("--out goes with --session")
			}
			c, err := a.reader()
			if err != nil {
				return err
			}
			said, err := c.Get(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			r, h, err := a.recorded(cmd.Context(), c, a.seen(said))
			if err != nil {
				return err
			}
			if proof {
				return a.printProof(r, h)
			}
			if a.json() {
				return a.printJSON(struct {
					api.Meta
					Request api.Request `json:"request"`
					Entries []api.Entry `json:"entries"`
				}{api.Meta{APIVersion: api.Version, Kind: "RequestHistory"}, r, h.Entries})
			}
			fmt.Fprint(a.out, a.view().Describe(r))
			a.data("\nledger      every entry is proven to be in it\n")
			return a.view().Entries(a.out, h.Entries)
		}}
	f := cmd.Flags()
	f.BoolVar(&session, "session", false, "the report on what was done with the certificate")
	f.BoolVar(&proof, "proof", false, "the certificate and the ledger's proof of it, without any key")
	f.StringVar(&out, "out", "", "with --session: write it to a `file`")
	return cmd
}

// printProof prints the proof of a request's certificate, from a history that is proven.
func (a *app) printProof(r api.Request, h api.History) error {
	for _, e := range h.Entries {
		ev, err := proved.EventIn(e.Leaf, r.ID)
		if err != nil {
			return err
		}
		issued, ok := ev.(breakglass.Issued)
		if !ok {
			continue
		}
		p, err := e.Proof(h.Checkpoint)
		if err != nil {
			return err
		}
		words, err := p.MarshalText()
		if err != nil {
			return err
		}
		return a.printJSON(proved.CertificateProof{Meta: api.Meta{APIVersion: api.Version, Kind: "CertificateProof"}, Request: r,
			Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issued.Certificate})),
			Proof:       string(words), Issued: e.Leaf, Entries: h.Entries, Checkpoint: h.Checkpoint})
	}
	return &exit.Error{Exit: exit.Other, Code: "not-issued", What: "nothing to prove", Why: r.ID + " is " + string(r.State) +
		": it gave no certificate"}
}

func (a *app) profilesCommand() *cobra.Command {
	return &cobra.Command{Use: "profiles", Short: "List the profiles that you may request or approve, and who approves them",
		Args: args(0, 0, "no arguments"),
		RunE: a.asks(func(ctx context.Context, c *api.Client, _ []string) error {
			all, err := c.Profiles(ctx)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(all)
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "PROFILE\tCLUSTERS\tGIVES\tFOR\tYOU MAY\tNEEDS\tBY")
			for _, p := range all.Items {
				var clusters, may, by []string
				for _, cl := range p.Clusters {
					clusters = append(clusters, cl.ID)
				}
				part := func(verb string, suspended []string) {
					if len(suspended) > 0 {
						verb += " (suspended on " + strings.Join(suspended, ", ") + ")"
					}
					may = append(may, verb)
				}
				if p.MayRequest {
					part("ask", p.AskSuspended)
				}
				if p.MayApprove {
					part("approve", p.ApproveSuspended)
				}
				for _, ch := range p.Quorum.Channels {
					by = append(by, string(ch))
				}
				need := fmt.Sprintf("%d of %s", p.Quorum.Count, strings.Join(view.Teams(p.Quorum.From), ", "))
				if len(p.Quorum.Each) > 0 {
					need += ", one each of " + strings.Join(view.Teams(p.Quorum.Each), ", ")
				}
				fmt.Fprintln(w, terminal.Format("%s\t%s\t%s\t%s, at most %s\t%s\t%s\t%s", p.ID, strings.Join(clusters, ","), p.Rights,
					view.Seconds(p.DefaultTTLSeconds), view.Seconds(p.MaxTTLSeconds),
					strings.Join(may, ", "), need, strings.Join(by, ", ")))
			}
			return w.Flush()
		})}
}
