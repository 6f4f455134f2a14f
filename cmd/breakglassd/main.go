// Command breakglassd is the daemon: it takes requests for emergency access, records them and what people say to them, and has
// Vault sign one short-lived certificate for each that two other people agreed to.
//
// It never makes a ledger by being started, and never asks a second time for a signature. What it cannot know after a failed
// write it reads from disk in a new process: it ends with an error then, and whatever started it starts it again.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	_ "time/tzdata" // the image has no zones of its own

	"github.com/spf13/cobra"

	"github.com/breakglassd/breakglass/cmd/breakglassd/config"
	"github.com/breakglassd/breakglass/cmd/breakglassd/process"
	"github.com/breakglassd/breakglass/internal/strictyaml"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// Exit codes, the same as those of the command line for people.
const (
	exitOther       = 1
	exitUsage       = 2
	exitUnreachable = 6
	exitUnagreed    = 10 // a ledger is what was signed, and some approvals rest on an access policy that no two people agreed to
	exitNewer       = 9  // the ledger was written by a newer release of breakglass: no sign of forgery
	exitFindings    = 8  // a ledger does not verify, or doctor found a mistake
)

// exitError is an error with its exit code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func usage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

func run(args []string, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second signal ends the process whatever it is doing
	started := false
	root := rootCommand()
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(errOut, "breakglassd: %v\n", err)
	var code *exitError
	switch {
	case errors.As(err, &code):
		return code.code
	case !started, errors.As(err, new(*config.Error)), errors.As(err, new(*strictyaml.Error)):
		return exitUsage
	}
	return exitOther
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{Use: "breakglassd", Short: "Emergency access to Kubernetes clusters, with two-person approval",
		SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(serveCommand(), devCommand(), initCommand(), doctorCommand(), scanCommand(), configCommand(), ledgerCommand(),
		versionCommand())
	return root
}

func argsExactly(n int) cobra.PositionalArgs { return usageArgs(cobra.ExactArgs(n)) }
func argsAtMost(n int) cobra.PositionalArgs  { return usageArgs(cobra.MaximumNArgs(n)) }

// usageArgs gives a complaint about arguments the exit code of one.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usage("%s: %w (see %s --help)", cmd.CommandPath(), err, cmd.CommandPath())
		}
		return nil
	}
}

// group makes a command that only has others under it: alone it shows its help, and what it does not know is a mistake.
func group(cmd *cobra.Command, under ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(under...)
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usage("unknown command %q for %q (see %[2]s --help)", args[0], cmd.CommandPath())
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}

// configFlag adds --config.
func configFlag(cmd *cobra.Command) *string {
	path := cmd.Flags().String("config", "/etc/breakglassd/config.yaml", "configuration `file`")
	cmd.Args = usageArgs(cobra.NoArgs)
	return path
}

func serveCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "serve", Short: "Run the daemon until SIGTERM or SIGINT; SIGHUP reads the access policy and the TLS " +
		"certificate again"}
	path := configFlag(cmd)
	accept := cmd.Flags().Bool("accept-weaker", false, "put the access policy in force although it asks for fewer or weaker approvals than "+
		"the last one")
	clock := cmd.Flags().Bool("accept-clock", false, "go on although the ledger's last entry is later than the clock: the clock was "+
		"wrong then, and is right now")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(*path)
		if err != nil {
			return err
		}
		hangup := make(chan os.Signal, 1)
		signal.Notify(hangup, syscall.SIGHUP)
		defer signal.Stop(hangup)
		log := newLog(cfg.Log, cmd.ErrOrStderr())
		if err := process.HideMemory(); err != nil {
			log.Warn("other processes of this user can read the daemon's memory", slog.Any("error", err))
		}
		for _, name := range config.UnknownEnv(os.Environ()) {
			log.Warn("unknown environment variable (not a configuration key)", slog.String("name", name))
		}
		return serve(cmd.Context(), cfg, parts{AcceptWeaker: *accept, AcceptClock: *clock, Reload: hangup}, log)
	}
	return cmd
}

// newLog makes the daemon's log.
func newLog(c config.Log, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		level = slog.LevelInfo
	}
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "text" {
		return slog.New(slog.NewTextHandler(w, o))
	}
	return slog.New(slog.NewJSONHandler(w, o))
}

func initCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "init", Short: "Make the ledger and its signing key, once"}
	path := configFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(*path)
		if err != nil {
			return err
		}
		vkey, err := initLedger(cmd.Context(), cfg)
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "Made the ledger %s and its key %s.\nThis is its public key. Give it to each auditor of the "+
			"ledger, by another way than this daemon:\n", cfg.Ledger.Path, cfg.Ledger.KeyFile)
		fmt.Fprintln(cmd.OutOrStdout(), vkey)
		return nil
	}
	return cmd
}

func configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "check", Short: "Check the configuration, the access policy and the files they name, without asking any " +
		"other system"}
	path := configFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		d := &doctor{}
		d.files(cmd.Context(), *path)
		return d.report(cmd.OutOrStdout(), "")
	}
	return group(&cobra.Command{Use: "config", Short: "Look at the configuration"}, cmd)
}

// version is the module's version as the build recorded it.
func version() string {
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "(devel)"
}

func versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: argsExactly(0), Run: func(cmd *cobra.Command, _ []string) {
		fmt.Fprintln(cmd.OutOrStdout(), "breakglassd", version())
	}}
}
