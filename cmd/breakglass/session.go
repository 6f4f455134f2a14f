package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/cli/terminal"
)

func (a *app) closeCommand() *cobra.Command {
	return a.noteCommand("close", "Write the closing note of a grant of yours that has ended", api.FilterMine, true,
		func(ctx context.Context, c *api.Client, r api.Request, note string) (api.Request, error) {
			return c.Close(ctx, r.ID, note)
		}, func(r api.Request) {
			a.screen.Note("%s closed   %s", a.screen.Green("✓"), r.ID)
		})
}

func (a *app) ackCommand() *cobra.Command {
	return a.noteCommand("ack", "Acknowledge what another person's session left behind, and say why it may stay",
		api.FilterUnacknowledged, false, func(ctx context.Context, c *api.Client, r api.Request, note string) (api.Request, error) {
			return c.Acknowledge(ctx, r.ID, r.SweepDigest, note)
		}, func(r api.Request) {
			a.screen.Note("%s acknowledged   %s", a.screen.Green("✓"), r.ID)
			if n := r.Swept.Critical(); n > 0 {
				a.screen.Note("%s %d critical things are still there, and stay a finding until a search finds them gone: %s", a.screen.Yellow("!"), n,
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
		RunE: a.asks(func(ctx context.Context, c *api.Client, ids []string) error {
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
		})}
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
		a.screen.Note("%s not every API server refuses it yet; the daemon keeps asking: %s", a.screen.Yellow("!"), left)
	}
	return a.get(ctx, c, r.ID)
}

// lookAgain has a session looked through once more, so that what is acknowledged is what is there now. Where that cannot be done it
// says so, and of what time is what it shows.
func (a *app) lookAgain(ctx context.Context, c *api.Client, r api.Request) (api.Request, error) {
	if r.Acknowledged != nil || r.Swept == nil || len(r.Swept.Items) == 0 {
		return r, nil
	}
	a.screen.Status("… searching again for what %s left behind", r.ID)
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
		a.screen.Note("%s the search could not be repeated (%s): what follows is from the last one", a.screen.Yellow("!"),
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
	return a.reason(ctx, reasonFrom{flag, file}, false)
}

func (a *app) sweepCommand() *cobra.Command {
	return &cobra.Command{Use: "sweep ID", Short: "Search again for what an ended session left behind, after a clean-up", Args: one(),
		ValidArgsFunction: a.completeIDs(api.FilterUnacknowledged),
		RunE: a.asks(func(ctx context.Context, c *api.Client, ids []string) error {
			r, err := c.Sweep(ctx, ids[0])
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(r)
			}
			fmt.Fprint(a.out, a.view().Afterwards(a.seen(r)))
			return nil
		})}
}

func (a *app) auditCommand() *cobra.Command {
	var cluster string
	imp := &cobra.Command{Use: "import FILE…", Short: "Import the audit logs of API servers that have no audit webhook",
		Args: args(1, 1000, "at least one file, - for standard input"),
		Long: "Imports files that kube-apiserver wrote with --audit-log-path, or EventLists, plain or gzip. It keeps the events of " +
			"certificates\n" +
			"from this daemon, each once. The reports on ended sessions are then made again: breakglass sweep ID, breakglass show ID --session.",
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
	completes(imp, "cluster", a.completeClusters)
	return group(&cobra.Command{Use: "audit", Short: "Import the audit logs of API servers"}, imp)
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
