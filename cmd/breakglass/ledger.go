package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/cli/exported"
	"github.com/breakglassd/breakglass/internal/cli/machine"
	"github.com/breakglassd/breakglass/internal/cli/proved"
	"github.com/breakglassd/breakglass/internal/cli/terminal"
	"github.com/breakglassd/breakglass/internal/cli/view"
	"github.com/breakglassd/breakglass/internal/ledger"
)

func (a *app) ledgerCommand() *cobra.Command {
	return group(&cobra.Command{Use: "ledger", Short: "Check and read the ledger, offline"}, a.verifyCommand(), a.readingList(),
		a.readingShow())
}

// anchored is which ledger an export must be of.
type anchored struct {
	key   string
	since []string
}

func (n *anchored) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&n.key, "key", "", "the ledger's public key, or a `file` with it")
	cmd.Flags().StringArrayVar(&n.since, "since", nil, "`file` with an earlier checkpoint, which the export must continue: "+
		"that of an\nearlier export, or what this program keeps of a server in its state directory; may be repeated")
}

func (a *app) verifyCommand() *cobra.Command {
	var of anchored
	var all bool
	cmd := &cobra.Command{Use: "verify EXPORT",
		Short: "Verify an exported ledger, or one certificate's proof, with nothing but the public key",
		Args:  args(1, 1, "one exported directory or .json file"),
		Long: "Verifies an export of the ledger: every hash, the signed checkpoint, and that its entries follow the rules, above all that\n" +
			"every certificate had its approvals. Given the JSON that show --proof or claim -o json printed, it verifies the proof of that\n" +
			"certificate, and that nothing else in the file was changed. It asks no server.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.formats("json"); err != nil {
				return err
			}
			verifier, err := a.verifier(of.key)
			if err != nil {
				return err
			}
			info, err := os.Stat(args[0])
			if err != nil {
				return exit.Usage("%v", err)
			}
			if !info.IsDir() {
				return a.verifyCredential(args[0], verifier)
			}
			x, err := exported.Open(cmd.Context(), args[0], verifier, of.since)
			if err != nil {
				return err
			}
			return a.reportExport(x, all)
		}}
	of.flags(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "print every problem")
	return cmd
}

// verifier is the public key that --key or the configuration names, for what is verified offline.
func (a *app) verifier(key string) (note.Verifier, error) {
	if key = cmp.Or(key, a.conf.LedgerKey); key == "" {
		return nil, exit.Usage("which ledger? give its public key with --key")
	}
	text, err := machine.ReadLedgerKey(key)
	if err != nil {
		return nil, err
	}
	v, err := note.NewVerifier(text)
	if err != nil {
		return nil, exit.Usage("ledger key: %v", err)
	}
	return v, nil
}

// reportExport says what a verification found.
func (a *app) reportExport(x *exported.Export, all bool) error {
	if a.json() {
		if err := a.printJSON(x.JSON()); err != nil {
			return err
		}
	} else {
		a.data("%s", terminal.Styled(x.Summary()))
	}
	if err := x.Sound(a.name, all); err != nil {
		return err
	}
	if err := x.Agreed(); err != nil || a.json() {
		return err
	}
	a.data("%s", terminal.Styled(x.Checked()))
	return nil
}

// verifyCredential verifies what show --proof or claim -o json printed, when only that is at hand.
func (a *app) verifyCredential(path string, verifier note.Verifier) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return exit.Usage("%v", err)
	}
	p, err := proved.CheckCredential(b, verifier)
	if errors.Is(err, proved.ErrNoProof) {
		return exported.WrongFile(path, b)
	}
	if err == nil && len(p.Changed) > 0 {
		err = errors.New("the ledger says otherwise than the file:\n" + strings.Join(p.Changed, "\n"))
	}
	if err != nil {
		return &exit.Error{Exit: exit.Unverified, What: "VERIFICATION FAILED: " + path, Why: err.Error(),
			Next: "keep the file as evidence; a true one comes from: breakglass show ID --proof"}
	}
	if a.json() {
		return a.printJSON(struct {
			api.Meta
			Ledger      string    `json:"ledger"`
			Index       int64     `json:"index"`
			Request     string    `json:"request"`
			Person      string    `json:"person"`
			Serial      string    `json:"serial"`
			Fingerprint string    `json:"fingerprint"`
			NotBefore   time.Time `json:"notBefore"`
			NotAfter    time.Time `json:"notAfter"`
			Whole       bool      `json:"whole"` // all that the file says of the request is proved
		}{api.Meta{APIVersion: api.Version, Kind: "ProofVerification"}, verifier.Name(), p.Index, p.ID, p.Person, p.Issued.Serial,
			p.Issued.Fingerprint, p.Issued.NotBefore, p.Issued.NotAfter, p.Request != nil})
	}
	a.data("✓ certificate %s is entry #%d of %s\n", p.Issued.Serial, p.Index, verifier.Name())
	if p.Request != nil {
		a.data("✓ all that the file says of %s is so in that ledger: its entries up to #%d are proven\n", p.ID, p.Last)
		a.data("  not proved: that nothing was recorded after them; names of people come from the server\n\n")
		_, err := fmt.Fprint(a.out, a.view().Describe(*p.Request))
		return err
	}
	a.data("  proved      request %s of %s, serial, fingerprint %s, %s to %s\n", p.ID, p.Person, p.Issued.Fingerprint,
		view.Stamp(p.Issued.NotBefore), view.Stamp(p.Issued.NotAfter))
	a.data("  not proved  everything else that the file says of the request; a file that proves it comes from: %s\n",
		terminal.Command("show", []string{"--proof"}, p.ID))
	return nil
}

// What follows reads an export for an auditor, offline. Nothing is shown before the whole of it verified, and everything shown is
// made of its entries.

// sound opens an export and refuses one that is not sound.
func (a *app) sound(ctx context.Context, dir string, of anchored) (*exported.Export, error) {
	verifier, err := a.verifier(of.key)
	if err != nil {
		return nil, err
	}
	x, err := exported.Open(ctx, dir, verifier, of.since)
	if err != nil {
		return nil, err
	}
	if err := x.Sound(a.name, false); err != nil {
		f, _ := exit.Explain(err)
		f.Why += "\nnothing of it is shown"
		return nil, f
	}
	a.screen.Note("%s %s: %d entries verified; what follows is as of its last one, %s", a.screen.Green("✓"), x.Report.Origin,
		x.Report.Entries, view.Stamp(x.Last))
	return x, nil
}

func (a *app) readingList() *cobra.Command {
	var of anchored
	var from, to string
	var all bool
	cmd := &cobra.Command{Use: "list EXPORT", Short: "List who had access, from a verified export: -o text, csv or json",
		Args: args(1, 1, "one exported directory"),
		Long: "Verifies an export of the ledger and lists every grant in it: who, on which cluster, with which profile, why, who approved,\n" +
			"from when to when, how it ended, and what it left behind; then every review of access with its outcome. Times are UTC. It asks\n" +
			"no server, and shows nothing of a damaged export.",
		Example: "  breakglass ledger list export-2026Q4 --key ledger.pub --from 2026-10-01 --to 2026-12-31 -o csv >access.csv",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.formats("text", "csv", "json"); err != nil {
				return err
			}
			begin, err := day(from, "from")
			if err != nil {
				return err
			}
			end, err := day(to, "to")
			if err != nil {
				return err
			}
			if !end.IsZero() {
				end = end.AddDate(0, 0, 1)
			}
			x, err := a.sound(cmd.Context(), args[0], of)
			if err != nil {
				return err
			}
			within := func(first, last time.Time) bool { return (end.IsZero() || first.Before(end)) && !last.Before(begin) }
			r := x.Reading("LedgerGrants")
			for _, g := range x.Auditor.Requests() {
				first, last, ok := exported.AccessTimes(g)
				if ok && within(first, last) || !ok && all && within(g.At, g.LastAt) {
					r.Grants = append(r.Grants, x.Request(g))
				}
			}
			for _, c := range x.Auditor.Campaigns() {
				last := c.ClosedAt
				if c.Closed == nil {
					last = x.Last
				}
				if within(c.At, last) {
					r.Reviews = append(r.Reviews, exported.ReviewOf(c, false))
				}
			}
			return a.printReading(r)
		}}
	of.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&from, "from", "", "only grants and reviews of this `day` or later, as 2006-01-02 in UTC")
	f.StringVar(&to, "to", "", "only grants and reviews of this `day` or earlier")
	f.BoolVar(&all, "all", false, "also show requests that gave no certificate")
	return cmd
}

func (a *app) readingShow() *cobra.Command {
	var of anchored
	cmd := &cobra.Command{Use: "show EXPORT ID",
		Short: "Show one request or one review of access, from a verified export: -o text, csv or json",
		Args:  args(2, 2, "one exported directory and one id"),
		Long:  "Verifies an export of the ledger and shows everything in it about one request or one review of access. It asks no server.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.formats("text", "csv", "json"); err != nil {
				return err
			}
			x, err := a.sound(cmd.Context(), args[0], of)
			if err != nil {
				return err
			}
			requests, campaigns := x.Auditor.Requests(), x.Auditor.Campaigns()
			requests = slices.DeleteFunc(requests, func(r *breakglass.Request) bool { return !breakglass.Names(args[1], r.ID) })
			campaigns = slices.DeleteFunc(campaigns, func(c *campaign.Campaign) bool { return !breakglass.Names(args[1], c.ID) })
			r := x.Reading("LedgerEntry")
			switch {
			case len(requests)+len(campaigns) != 1:
				return &exit.Error{Exit: exit.Other, Code: "unknown", What: "not found",
					Why:  fmt.Sprintf("%d requests and %d reviews in it are called %q", len(requests), len(campaigns), args[1]),
					Next: terminal.Command("ledger list", []string{"--all", "--key=KEY"}, args[0])}
			case len(campaigns) == 1:
				r.Reviews = append(r.Reviews, exported.ReviewOf(campaigns[0], true))
				if a.output == "" || a.output == "text" {
					if err := r.Reviews[0].Text(a.out); err != nil {
						return err
					}
					a.data("\nWhat each item said in words is in the review's evidence bundle: %s\n", a.typed("recert verify", nil, "BUNDLE"))
					return nil
				}
				return a.printReading(r)
			}
			r.Grants = append(r.Grants, x.Request(requests[0]))
			if a.output != "" && a.output != "text" {
				return a.printReading(r)
			}
			shown := r.Grants[0]
			shown.Reason = cmp.Or(shown.Reason, "(erased)")
			if _, err := fmt.Fprint(a.out, a.view().Describe(shown)); err != nil {
				return err
			}
			var entries []api.Entry
			err = x.Archive.Entries(cmd.Context(), func(e ledger.Entry) error {
				if e.Stream == shown.ID {
					entries = append(entries, api.Entry{Index: e.Seq, Number: e.StreamSeq, Kind: e.Kind, Time: e.Time, Event: e.Body, Texts: e.Texts})
				}
				return nil
			})
			if err != nil {
				return err
			}
			a.data("\nledger      %d entries, as exported\n", len(entries))
			return a.view().Entries(a.out, entries)
		}}
	of.flags(cmd)
	return cmd
}

// day reads a day in UTC; empty is no bound.
func day(s, flag string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		return t, exit.Usage("--%s %s is not a day as 2006-01-02", flag, s)
	}
	return t, nil
}

// printReading prints a list of grants and reviews in the form that was asked for.
func (a *app) printReading(r exported.Reading) error {
	switch a.output {
	case "json":
		return a.printJSON(r)
	case "csv":
		return r.CSV(a.out)
	}
	if len(r.Grants) == 0 {
		a.screen.Note("no grant")
	}
	return r.Text(a.out)
}
