package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/spf13/cobra"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/cli/terminal"
)

// asks makes the RunE of a command that asks the server and prints text, or JSON with -o json.
func (a *app) asks(do func(ctx context.Context, c *api.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := a.reader()
		if err != nil {
			return err
		}
		return do(cmd.Context(), c, args)
	}
}

// reader is client for a command that prints text or JSON.
func (a *app) reader() (*api.Client, error) {
	if err := a.formats("json"); err != nil {
		return nil, err
	}
	return a.client()
}

// reasonFrom is where a command takes a person's reason from: a flag, or a file.
type reasonFrom struct{ text, file string }

func (r *reasonFrom) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&r.text, "reason", "", "why")
	cmd.Flags().StringVar(&r.file, "reason-file", "", "`file` with the reason, - for standard input")
}

func (a *app) json() bool { return a.output == "json" }

// formats checks -o for a command.
func (a *app) formats(allowed ...string) error {
	if a.output == "" {
		return nil
	}
	for _, f := range allowed {
		if a.output == f {
			return nil
		}
	}
	return exit.Usage("-o %s is not possible here: %s", a.output, strings.Join(allowed, ", "))
}

func (a *app) printJSON(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.out, terminal.PlainJSON(string(b)))
	return err
}

// now is the server's time: countdowns are right on a machine whose clock is not.
func (a *app) now() time.Time { return a.local().Add(a.skew) }

// serverTime notes the server's clock as its answers tell it, to the second.
func (a *app) serverTime(t time.Time) {
	if skew := t.Sub(a.local()); !a.timeKnown || (skew-a.skew).Abs() > 2*time.Second {
		a.skew, a.timeKnown = skew, true
	}
}

// seen notes the server's clock and returns the request.
func (a *app) seen(r api.Request) api.Request {
	if !r.AsOf.IsZero() {
		a.skew, a.timeKnown = r.AsOf.Sub(a.local()), true
	}
	return r
}

// outTerminal reports whether data goes to a person's screen.
func (a *app) outTerminal() bool {
	f, ok := a.out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// data prints text to standard output, cleaned.
func (a *app) data(f string, args ...any) { fmt.Fprint(a.out, terminal.Format(f, args...)) }
