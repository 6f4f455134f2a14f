package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/cli/terminal"
	"github.com/breakglassd/breakglass/internal/cli/view"
	"github.com/breakglassd/breakglass/internal/finding"
)

func (a *app) revokeCommand() *cobra.Command {
	var yes, all bool
	var reason, file, cluster, confirmed string
	var wait time.Duration
	cmd := &cobra.Command{Use: "revoke ID | --all --cluster CLUSTER",
		Short: "Cut off a certificate before its time, or every one in a cluster", Args: args(0, 1, "one request id, or --all"),
		ValidArgsFunction: a.completeIDs(api.FilterActive),
		Long: "Cuts off a certificate before its time: its requester, its approvers and responders may. The right is taken away in the cluster,\n" +
			"and every API server is asked until it says no; what each said, and after how long, is recorded as a receipt.\n\n" +
			"With --all every grant in a cluster is ended, approved ones that were not claimed yet included. Its name must be typed to confirm it,\n" +
			"or given with --confirm.",
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
				return a.revokeAll(ctx, c, cluster, confirmed, reason, file)
			}
			r, err := a.get(ctx, c, ids[0])
			if err != nil {
				return err
			}
			a.headline(r)
			why, err := a.reason(ctx, reason, file, true)
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
				lost := "; your words were not recorded"
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
				err = &exit.Error{Exit: exit.Unreachable, Code: "not-cut-off", What: "revoked and recorded, but not every API server says no yet",
					Why:  left,
					Next: "the daemon goes on asking; watch it with: " + terminal.Command("show", nil, r.ID)}
			}
			return err
		}}
	f := cmd.Flags()
	f.BoolVar(&yes, "yes", false, "do not ask")
	f.BoolVar(&all, "all", false, "every grant in the cluster")
	f.StringVarP(&cluster, "cluster", "c", "", "with --all: cluster `id`")
	f.StringVar(&confirmed, "confirm", "", "with --all: the cluster's `id` again, where nobody can be asked")
	f.StringVar(&reason, "reason", "", "why")
	f.StringVar(&file, "reason-file", "", "`file` with the reason, - for standard input")
	f.DurationVar(&wait, "wait", 30*time.Second, "wait at most so long until every API server says no")
	if err := cmd.RegisterFlagCompletionFunc("cluster", a.completeClusters); err != nil {
		panic(err) // the flag is defined above
	}
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

func (a *app) revokeAll(ctx context.Context, c *api.Client, cluster, confirmed, reason, file string) error {
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
	a.screen.Note("%s every grant on %s is to be ended: %d with a certificate out, and every approved one", a.screen.Yellow("!"), cluster, n)
	why, err := a.reason(ctx, reason, file, true)
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
		return &exit.Error{Exit: exit.Denied, Code: "left-alone", What: fmt.Sprintf("%d grants were left alone", len(got.Left)),
			Next: "have a responder or an approver of theirs revoke them"}
	case len(open) > 0:
		return &exit.Error{Exit: exit.Unreachable, Code: "not-cut-off", What: "revoked and recorded, but not every API server says no yet",
			Why: strings.Join(open, "; "), Next: "the daemon goes on asking; watch it with: breakglass list"}
	}
	return nil
}

func (a *app) closeCommand() *cobra.Command {
	return a.noteCommand("close", "Write what was done with your access, after it has ended", api.FilterMine, true,
		func(ctx context.Context, c *api.Client, r api.Request, note string) (api.Request, error) {
			return c.Close(ctx, r.ID, note)
		}, func(r api.Request) {
			a.screen.Note("%s closed   %s", a.screen.Green("✓"), r.ID)
		})
}

func (a *app) ackCommand() *cobra.Command {
	return a.noteCommand("ack", "Say that you have seen what somebody else's session left behind, and why it may stay",
		api.FilterUnacknowledged, false, func(ctx context.Context, c *api.Client, r api.Request, note string) (api.Request, error) {
			return c.Acknowledge(ctx, r.ID, r.SweepDigest, note)
		}, func(r api.Request) {
			a.screen.Note("%s acknowledged   %s", a.screen.Green("✓"), r.ID)
			if n := r.Swept.Critical(); n > 0 {
				a.screen.Note("%s %d critical things are still there, and stay a finding until a look finds them gone: %s", a.screen.Yellow("!"), n,
					a.typed("findings", nil))
			}
		})
}

// noteCommand is a command that adds a note to an ended grant, as it was shown.
func (a *app) noteCommand(verb, short, filter string, need bool, give func(context.Context, *api.Client, api.Request, string) (api.Request,
	error), done func(api.Request)) *cobra.Command {
	var note, file string
	var yes bool
	cmd := &cobra.Command{Use: verb + " ID", Short: short, Args: one(), ValidArgsFunction: a.completeIDs(filter),
		RunE: func(cmd *cobra.Command, ids []string) error {
			ctx := cmd.Context()
			c, err := a.reader()
			if err != nil {
				return err
			}
			r, err := a.get(ctx, c, ids[0])
			if err != nil {
				return err
			}
			a.headline(r)
			question, need := "What was done, and what is left to do?", need
			if verb == "ack" {
				if r, err = a.lookAgain(ctx, c, r); err != nil {
					return err
				}
				if r.Acknowledged == nil && r.Swept.Critical() > 0 {
					question, need = "Something critical is still there: why may it stay?", true
				}
			}
			if text := a.view().Afterwards(r); text != "" {
				a.screen.Note("%s", terminal.Styled(strings.TrimSuffix(text, "\n")))
			}
			if need { // checked before the person writes
				if r.State == breakglass.StateActive && verb == "close" && a.screen.Interactive() {
					if r, err = a.endNow(ctx, c, r); err != nil {
						return err
					}
				}
				switch {
				case r.State == breakglass.StateActive:
					return &exit.Error{Exit: exit.Other, Code: "still-active", What: "not possible now", Why: r.ID + " is still active",
						Next: "revoke it first if you are done: " + terminal.Command("revoke", nil, r.ID)}
				case r.Certificate == nil:
					return &exit.Error{Exit: exit.Other, Code: "not-issued", What: "not possible now",
						Why: r.ID + " is " + string(r.State) + ": it gave no certificate, so there is nothing to close"}
				}
			}
			if note == "" && file == "" && need && a.screen.Interactive() {
				if note, err = a.screen.Ask(ctx, false, "%s ", question); err != nil {
					return err
				}
			}
			if note, err = a.note(ctx, note, file, need && verb == "close"); err != nil { // who may acknowledge without one, the service knows
				return err
			}
			if verb == "ack" {
				if err := a.confirm(ctx, yes, "acknowledge", r.ID); err != nil {
					return err
				}
			}
			if r, err = give(ctx, c, r, note); err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(r)
			}
			done(a.seen(r))
			return nil
		}}
	f := cmd.Flags()
	f.StringVar(&note, "note", "", "the note")
	f.StringVar(&file, "note-file", "", "`file` with the note, - for standard input")
	if !need {
		f.BoolVar(&yes, "yes", false, "do not ask")
	}
	return cmd
}

// endNow ends a live grant, if its holder says so, to be closed then.
func (a *app) endNow(ctx context.Context, c *api.Client, r api.Request) (api.Request, error) {
	yes, err := a.screen.Ask(ctx, false, "%s is still active, %s. End it now and close? [y/N] ", r.ID, a.view().Waiting(r))
	if err != nil || !strings.EqualFold(yes, "y") && !strings.EqualFold(yes, "yes") {
		return r, err
	}
	if r, err = c.Command(ctx, r.ID, "revoke", "done with it"); err != nil {
		return r, err
	}
	a.screen.Note("%s revoked   %s", a.screen.Green("✓"), a.seen(r).ID)
	r, left, err := a.untilCutOff(ctx, c, r, 30*time.Second)
	if err != nil {
		return r, err
	}
	a.screen.Note("%s", terminal.Styled(strings.TrimSuffix(a.view().Receipt(r), "\n")))
	if left != "" {
		a.screen.Note("%s not every API server says no yet; the daemon goes on asking: %s", a.screen.Yellow("!"), left)
	}
	return a.get(ctx, c, r.ID)
}

// lookAgain has a session looked through once more, so that what is acknowledged is what is there now. Where that cannot be done it
// says so, and of what time is what it shows.
func (a *app) lookAgain(ctx context.Context, c *api.Client, r api.Request) (api.Request, error) {
	if r.Acknowledged != nil || r.Swept == nil || len(r.Swept.Items) == 0 {
		return r, nil
	}
	a.screen.Status("… looking again at what %s left behind", r.ID)
	_, err := c.Sweep(ctx, r.ID)
	a.screen.Clear()
	if ctx.Err() != nil {
		return r, ctx.Err()
	}
	if err != nil {
		f, _ := exit.Explain(err)
		switch f.Exit {
		case exit.Unverified:
			return r, err
		case exit.Denied, exit.SignIn:
			return r, nil // who may not have it looked at may not acknowledge it, and is told that
		}
		a.screen.Note("%s it could not be looked at again (%s): what follows is what the last look found", a.screen.Yellow("!"),
			terminal.OneLine(f.Error(), 200))
	}
	return a.get(ctx, c, r.ID)
}

// note is reason for a note.
func (a *app) note(ctx context.Context, flag, file string, need bool) (string, error) {
	if flag != "" && file != "" {
		return "", exit.Usage("give --note or --note-file, not both")
	}
	if flag == "" && file == "" && need {
		return "", exit.Usage("a note is needed: --note \"…\"")
	}
	return a.reason(ctx, flag, file, false)
}

func (a *app) sweepCommand() *cobra.Command {
	return &cobra.Command{Use: "sweep ID", Short: "Have an ended session looked through again, after cleaning up", Args: one(),
		ValidArgsFunction: a.completeIDs(api.FilterUnacknowledged),
		RunE: func(cmd *cobra.Command, ids []string) error {
			c, err := a.reader()
			if err != nil {
				return err
			}
			r, err := c.Sweep(cmd.Context(), ids[0])
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(r)
			}
			fmt.Fprint(a.out, a.view().Afterwards(a.seen(r)))
			return nil
		}}
}

func (a *app) auditCommand() *cobra.Command {
	var cluster string
	imp := &cobra.Command{Use: "import FILE…", Short: "Hand in API servers' audit logs, where no webhook can be set",
		Args: args(1, 1000, "at least one file, - for standard input"),
		Long: "Hands in files that kube-apiserver wrote with --audit-log-path, or EventLists, plain or gzip. Only what is about certificates " +
			"of ours is\nkept, and nothing twice. What ended sessions did is reported anew: breakglass sweep ID, breakglass show ID --session.",
		RunE: func(cmd *cobra.Command, files []string) error {
			if cluster == "" {
				return exit.Usage("of which cluster? give --cluster")
			}
			c, err := a.reader()
			if err != nil {
				return err
			}
			for _, name := range files {
				if err := a.importFile(cmd.Context(), c, cluster, name); err != nil {
					return err
				}
			}
			return nil
		}}
	imp.Flags().StringVarP(&cluster, "cluster", "c", "", "cluster `id` whose API servers wrote it")
	if err := imp.RegisterFlagCompletionFunc("cluster", a.completeClusters); err != nil {
		panic(err) // the flag is defined above
	}
	return group(&cobra.Command{Use: "audit", Short: "API servers' audit logs"}, imp)
}

func (a *app) importFile(ctx context.Context, c *api.Client, cluster, name string) error {
	file, size := io.Reader(a.in), int64(0)
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return exit.Usage("reading the audit log: %v", err)
		}
		defer f.Close()
		if info, err := f.Stat(); err == nil {
			size = info.Size()
		}
		file = f
	}
	sent := &progress{r: file, tell: func(n int64) {
		if size > 0 {
			a.screen.Status("… %s: %d of %d MiB", name, n>>20, size>>20)
		} else {
			a.screen.Status("… %s: %d MiB", name, n>>20)
		}
	}}
	res, err := c.Import(ctx, cluster, sent)
	a.screen.Clear()
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(res)
	}
	a.data("%s: %d events, %d of ours kept, %d known before\n", name, res.Events, res.Kept, res.Duplicates)
	if res.Dropped > 0 || res.Unreadable > 0 {
		a.screen.Note("%s %d events beyond what the daemon keeps, %d unreadable lines", a.screen.Yellow("!"), res.Dropped, res.Unreadable)
	}
	return nil
}

// progress tells how much was read.
type progress struct {
	r    io.Reader
	n    int64
	last time.Time
	tell func(int64)
}

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.n += int64(n)
	if time.Since(p.last) > 200*time.Millisecond {
		p.last = time.Now()
		p.tell(p.n)
	}
	return n, err
}

func (a *app) findingsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "findings", Short: "List what the daemon's checks have found and is not over", Args: args(0, 0, "no arguments"),
		Long: "Lists what the daemon's checks have found and is not over, with what to do about it. The exit code is 8 while one of them is " +
			"critical, and while a session's critical leavings are not acknowledged, its closing note is overdue, or its revocation is not " +
			"proved. Most end by themselves when what they say is put right. What was once done, by a certificate or under a name that nobody " +
			"knows, ends " +
			"when a responder settles it.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.reader()
			if err != nil {
				return err
			}
			all, err := c.Findings(cmd.Context())
			if err != nil {
				return err
			}
			owed, err := a.owed(cmd.Context(), c)
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
					a.screen.Note("%s %s", a.screen.Yellow("!"), terminal.AsTyped(a.name, line))
				}
				if len(all.Items)+len(owed.left)+len(owed.close)+len(owed.prove) == 0 {
					a.screen.Note("%s nothing is open", a.screen.Green("✓"))
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
				err = &exit.Error{Exit: exit.Unverified, Code: "critical-findings", What: fmt.Sprintf("%d critical findings are open", n)}
			case owed.critical() > 0 || len(owed.close)+len(owed.prove) > 0:
				err = &exit.Error{Exit: exit.Unverified, Code: "left-open", What: "what sessions left open waits for people"}
			}
			return err
		}}
	cmd.AddCommand(a.settleCommand())
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

func (a *app) settleCommand() *cobra.Command {
	var note, file string
	var yes bool
	cmd := &cobra.Command{Use: "settle KEY", Short: "Say what came of looking into a certificate or name that nobody knows",
		Args: args(1, 1, "the key of a finding"),
		Long: "Says, as a responder, what came of looking into an unknown certificate or name, and ends the finding. It comes back when the " +
			"certificate or name is used again. " +
			"A KEY that ends with a slash means every finding whose key begins so.",
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
	f.StringVar(&note, "note", "", "what came of it")
	f.StringVar(&file, "note-file", "", "`file` with the note, - for standard input")
	f.BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// sessionReport prints the whole session report of a grant, or writes it to a file.
func (a *app) sessionReport(ctx context.Context, c *api.Client, id, out string) error {
	body, err := c.Report(ctx, id, cmp.Or(a.output, api.FormatText))
	if err != nil {
		return err
	}
	if out != "" {
		if err := writeWhole(out, func(w io.Writer) error { _, err := w.Write(body); return err }); err != nil {
			return err
		}
		a.screen.Note("%s the report is in %s", a.screen.Green("✓"), out)
		return nil
	}
	if a.output == "" {
		// What is in it was written by others. Lines and columns stay; nothing else that a terminal would obey does.
		a.data("%s", terminal.Styled(terminal.ExactLines(string(body))))
		return nil
	}
	// The very bytes, for their digest is in the ledger; but for a prompt that would stand behind the last of them.
	if f, ok := a.out.(*os.File); ok && term.IsTerminal(int(f.Fd())) && !bytes.HasSuffix(body, []byte("\n")) {
		body = append(body, '\n')
	}
	_, err = a.out.Write(body)
	return err
}
