// Command breakglass is what people have in their hands: it asks for emergency access, approves, and turns an approval into a
// certificate whose private key never leaves the machine. Installed as kubectl-breakglass it is a kubectl plugin.
//
// It believes the daemon as little as it can. What an approver signs is read from the very bytes that the digest is of. A
// certificate is used only after the ledger's proof of it was checked against a key and a checkpoint that this machine knew
// before. Data goes to standard output, everything else to standard error.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/cli/machine"
	"github.com/breakglassd/breakglass/internal/cli/sshkeys"
	"github.com/breakglassd/breakglass/internal/cli/terminal"
	"github.com/breakglassd/breakglass/internal/cli/view"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second Ctrl-C ends the process whatever it is doing
	os.Exit(run(ctx, os.Args, time.Now))
}

// app is one run of the program.
type app struct {
	name   string // as people type it: "breakglass" or "kubectl breakglass"
	in     *os.File
	out    io.Writer
	screen *terminal.Screen
	env    func(string) string
	local  func() time.Time // this machine's clock
	skew   time.Duration    // how far the server's clock is ahead of ours, as last seen

	timeKnown bool            // skew is of this run
	used      *api.Client     // of this run
	settled   map[string]bool // requests whose keys this run has looked after itself

	flags   settings // from the command line
	config  string   // --config
	output  string   // -o
	conf    settings // all sources merged
	keys    *sshkeys.Keys
	store   *machine.Store
	started bool // the command line is valid

	commands *regexp.Regexp // a command of this program in a text, see commandsOf
}

func run(ctx context.Context, args []string, clock func() time.Time) int {
	a := &app{name: "breakglass", in: os.Stdin, out: os.Stdout, env: os.Getenv, local: clock, settled: map[string]bool{}}
	a.screen = terminal.New(a.in, os.Stderr, a.env)
	a.store = &machine.Store{Env: a.env, Screen: a.screen, Now: a.now}
	root := a.command()
	a.commands = commandsOf(root)
	if strings.HasPrefix(filepath.Base(args[0]), "kubectl-") {
		a.name = "kubectl breakglass"
		root.Use = "kubectl-breakglass"
		root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: a.name}
	}
	root.SetArgs(args[1:])
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.screen.W)
	cmd, err := root.ExecuteContextC(ctx)
	a.screen.Clear()
	if a.timeKnown { // the server was reached
		a.tidy(ctx)
	}
	if err == nil {
		return exit.OK
	}
	if ctx.Err() != nil && !errors.As(err, new(*exit.Error)) {
		err = &exit.Error{Exit: exit.Interrupted, What: "interrupted"}
	} else if !a.started && !errors.As(err, new(*exit.Error)) {
		err = exit.Usage("%v", err)
	}
	return a.report(cmd, err)
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "breakglass",
		Short: "Emergency access to Kubernetes clusters, with two-person approval",
		Long: "Requests emergency access to a Kubernetes cluster. When enough other people have approved, this machine gets one short-lived\n" +
			"client certificate for a private key that never leaves it.",
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			a.started = true
			var err error
			a.conf, err = a.loadSettings()
			return err
		},
	}
	f := root.PersistentFlags()
	f.StringVar(&a.flags.Server, "server", "", "address of the daemon, https://host[:port]")
	f.StringVar(&a.flags.CAFile, "ca-file", "", "PEM `file` with the CA certificates to trust for the daemon")
	f.StringVar(&a.flags.Identity, "identity", "", "SSH private key `file`, or a .pub file to choose a key of the ssh-agent")
	f.StringVar(&a.flags.LedgerKey, "ledger-key", "", "the ledger's public key, or a file with it (default: the one seen first)")
	f.StringVar(&a.config, "config", "", "configuration `file`")
	f.StringVarP(&a.output, "output", "o", "", "output `format`: json, and for certificates kubeconfig or pem")
	root.AddCommand(a.requestCommand(), a.claimCommand(), a.statusCommand(), a.listCommand(), a.showCommand(), a.approveCommand(),
		a.denyCommand(),
		a.withdrawCommand(), a.revokeCommand(), a.closeCommand(), a.ackCommand(), a.sweepCommand(), a.findingsCommand(), a.auditCommand(),
		a.profilesCommand(), a.whoamiCommand(), a.logoutCommand(), a.ledgerCommand(), a.recertCommand(), a.caCommand(), a.policyCommand(),
		a.versionCommand(), a.endedCommand())
	root.AddCommand(topics()...)
	return root
}

// version is the module's version as the build recorded it.
func version() string {
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "(devel)"
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		if err := a.formats("json"); err != nil {
			return err
		}
		if a.json() {
			return a.printJSON(map[string]string{"apiVersion": api.Version, "kind": "ClientVersion", "version": version()})
		}
		_, err := fmt.Fprintln(a.out, "breakglass", version())
		return err
	}}
}

// args makes an argument check whose complaint names the command.
func args(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return exit.Usage("%s takes %s", cmd.CommandPath(), what)
		}
		return nil
	}
}

// group makes a command that only has others under it: alone it shows its help, and what it does not know is a mistake.
func group(cmd *cobra.Command, under ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(under...)
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return exit.Usage("unknown command %q for %q", args[0], cmd.CommandPath())
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}

// one is args for a command on one request.
func one() cobra.PositionalArgs { return args(1, 1, "one request id (or the beginning of one)") }

// view shows requests as of now.
func (a *app) view() view.View { return view.View{Name: a.name, Now: a.now(), Screen: a.screen} }

// typed is a command as this program is called, for lines that are printed as they are.
func (a *app) typed(words string, flags []string, names ...string) terminal.Styled {
	return terminal.Typed(a.name, words, flags, names...)
}

// report prints an error and returns the exit code.
func (a *app) report(cmd *cobra.Command, err error) int {
	f, id := exit.Explain(err)
	code := f.Code
	if code == "" {
		for _, c := range exit.Codes() {
			if c.Code == f.Exit {
				code = c.Name
			}
		}
	}
	next := f.Next
	if next == "" && f.Help {
		next = "see: " + cmd.CommandPath() + " --help"
	}
	if a.output == "json" {
		b, err := json.Marshal(struct {
			api.Meta
			Exit      int    `json:"exit"`
			Code      string `json:"code"`
			Error     string `json:"error"`
			Why       string `json:"why,omitempty"`
			Next      string `json:"next,omitempty"`
			RequestID string `json:"requestId,omitempty"`
		}{api.Meta{APIVersion: api.Version, Kind: "Error"}, f.Exit, code, f.What, f.Why, next, id})
		if err == nil {
			fmt.Fprintln(a.screen.W, terminal.PlainJSON(string(b)))
			return f.Exit
		}
	}
	a.screen.Note("%s %s", a.screen.Red("error:"), f.What)
	if f.Why != "" {
		a.screen.Note("why:   %s", terminal.Paragraph{Text: f.Why, Indent: 7})
	}
	if next != "" {
		a.screen.Note("next:  %s", terminal.Paragraph{Text: a.asTyped(next), Indent: 7})
	}
	if id != "" && f.Exit == exit.Other {
		a.screen.Note("id:    %s", id)
	}
	return f.Exit
}

// commandsOf matches the commands of this program in a text, and quotations, in which there are none of ours: what is quoted is a name
// or words of another party.
func commandsOf(root *cobra.Command) *regexp.Regexp {
	var names []string
	for _, c := range root.Commands() {
		names = append(names, c.Name())
	}
	return regexp.MustCompile(`"(?:[^"\\]|\\.)*"|(?:^|[\s=(])\$?'[^']*'|\b(?:kubectl )?breakglass (?:` + strings.Join(names, "|") + `)\b`)
}

// asTyped puts the commands of this program in a text into the words that people type. The rest of the text stays as it is.
func (a *app) asTyped(s string) string {
	return a.commands.ReplaceAllStringFunc(s, func(found string) string {
		words, ours := strings.CutPrefix(strings.TrimPrefix(found, "kubectl "), "breakglass ")
		if !ours {
			return found
		}
		return a.name + " " + words
	})
}
