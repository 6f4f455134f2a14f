package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/breakglassd/breakglass/cmd/breakglassd/config"
	"github.com/breakglassd/breakglass/internal/devmode"
)

// devFlags are the flags of `dev`.
type devFlags struct {
	walkthrough, real, verbose bool
	dir, listen, slackListen   string
	hangup                     <-chan os.Signal // each value: read the access policy again
}

func devCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "dev", Short: "Try it: the daemon in an example world, with a page that plays the Slack workspace",
		Long: `dev runs the daemon in an example world: four people with keys, a Slack workspace with a page where you act as each of them, a
certificate authority and an API server, all in this process. With --real they are a real Vault, etcd and kube-apiserver,
built on first use. With --walkthrough it runs the whole job by itself, says what happens, and exits: 0 if all of it worked.`}
	var f devFlags
	cmd.Flags().BoolVar(&f.walkthrough, "walkthrough", false, "run the whole job by itself and exit")
	cmd.Flags().BoolVar(&f.real, "real", false, "use a real Vault, etcd and kube-apiserver")
	cmd.Flags().StringVar(&f.dir, "dir", "", "keep the world in this new or empty `directory`, or go on in one that dev made "+
		"(default: a temporary one, removed at the end)")
	cmd.Flags().StringVar(&f.listen, "listen", "127.0.0.1:0", "loopback `address` of the daemon")
	cmd.Flags().StringVar(&f.slackListen, "slack-listen", "127.0.0.1:0", "loopback `address` of the Slack workspace's page")
	cmd.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "show the daemon's log")
	cmd.Args = usageArgs(cobra.NoArgs)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		hangup := make(chan os.Signal, 1)
		signal.Notify(hangup, syscall.SIGHUP)
		defer signal.Stop(hangup)
		f.hangup = hangup
		return dev(cmd.Context(), f, cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

// walkthroughTime bounds a walkthrough: an embedded one takes seconds, and nothing may wait for ever.
const walkthroughTime = 5 * time.Minute

func dev(ctx context.Context, f devFlags, out, errOut io.Writer) (err error) {
	if f.dir == "" {
		if f.dir, err = os.MkdirTemp("", "breakglass-dev-"); err != nil {
			return fmt.Errorf("making a directory for the example world: %w", err)
		}
		defer os.RemoveAll(f.dir)
	}
	if f.dir, err = filepath.Abs(f.dir); err != nil {
		return fmt.Errorf("finding the directory of the example world: %w", err)
	}
	again := false
	if entries, err := os.ReadDir(f.dir); err == nil && len(entries) > 0 {
		if again = devmode.CanReopen(f.dir) && !f.real && !f.walkthrough; !again {
			return usage("%s is not empty: the example world wants a directory of its own, or one in which dev ran before without --real "+
				"(and goes on without --real and --walkthrough)", f.dir)
		}
	}
	log := slog.New(slog.DiscardHandler)
	if f.verbose {
		log = newLog(config.Log{Level: "info", Format: "text"}, errOut)
	}
	world, err := devmode.New(ctx, devmode.Options{Dir: f.dir, SlackAddr: f.slackListen, Real: f.real, Log: log,
		Progress: func(format string, args ...any) { fmt.Fprintf(errOut, format+"\n", args...) }})
	if err != nil {
		return err
	}
	defer world.Close()
	if world.Kubectl == "" {
		world.Kubectl, _ = exec.LookPath("kubectl") // its absence is fine: the walkthrough says so
	}
	cfg, err := devConfig(world, f)
	if err != nil {
		return err
	}
	var vkey string
	if again && !missing(cfg.Ledger.Path) {
		_, _, vkey, err = ledgerKey(cfg)
	} else {
		vkey, err = initLedger(ctx, cfg)
	}
	if err != nil {
		return err
	}
	return devServe(ctx, world, cfg, devmode.Daemon{Ledger: cfg.Ledger.Path, LedgerKey: vkey}, f, out, log)
}

// devServe runs the daemon, and beside it either the walkthrough or nothing until it is stopped.
func devServe(ctx context.Context, world *devmode.World, cfg *config.Config, d devmode.Daemon, f devFlags, out io.Writer,
	log *slog.Logger) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	walked := make(chan error, 1)
	ready := func(url string) {
		d.URL = url
		world.ConnectSlack(url)
		if !f.walkthrough {
			greet(out, world, d, f)
			return
		}
		go func() {
			ctx, cancel := context.WithTimeout(ctx, walkthroughTime)
			defer cancel()
			walked <- world.Walkthrough(ctx, d, out)
			stop()
		}()
	}
	err := serve(ctx, cfg, parts{Signer: world.Signer, Ready: ready, Reload: f.hangup, Reloaded: func(changes []string, err error) {
		switch {
		case err != nil:
			fmt.Fprintf(out, "The access policy on disk is not in force, the one before stays: %v\n", err)
		case len(changes) == 0:
			fmt.Fprintln(out, "The access policy has not changed.")
		default:
			fmt.Fprintf(out, "A new access policy is in force:\n  %s\n", strings.Join(changes, "\n  "))
		}
	}}, log)
	if !f.walkthrough {
		return err
	}
	select {
	case werr := <-walked:
		return errors.Join(err, werr)
	default:
		return errors.Join(err, errors.New("the daemon stopped before the walkthrough was over"))
	}
}

// devConfig is the configuration of the daemon in the example world. It goes through the same checks as one from a file.
func devConfig(w *devmode.World, f devFlags) (*config.Config, error) {
	file := func(name string) string { return filepath.Join(f.dir, name) }
	for name, secret := range map[string]string{"slack-bot-token": w.BotToken, "slack-signing-secret": w.SigningSecret} {
		if err := os.WriteFile(file(name), []byte(secret), 0o600); err != nil {
			return nil, fmt.Errorf("writing the example secrets: %w", err)
		}
	}
	cfg := config.Default()
	cfg.Listen.Address, cfg.Health.Address = f.listen, ""
	cfg.Ledger = config.Ledger{Path: file("ledger.db"), KeyFile: file("ledger.key"), Origin: devmode.Origin}
	cfg.PolicyFile = w.PolicyFile
	cfg.Webhooks = config.Webhooks{Address: w.WebhookAddr, CertFile: w.WebhookCertFile, KeyFile: w.WebhookKeyFile}
	cfg.Sessions = config.Sessions{Path: file("sessions.db"), Keep: 24 * time.Hour, Grace: 2 * time.Second}
	cfg.Recertification.Dir = file("recertification")
	cfg.Clusters = []config.Cluster{{ID: devmode.Cluster, KubeconfigFile: w.Kubeconfig, ScanKubeconfigFile: w.ScanKubeconfig,
		WebhookTokenFile: w.WebhookTokenFile}}
	cfg.Slack = config.Slack{Enabled: true, AppID: devmode.AppID, TeamIDs: []string{devmode.TeamID}, Channel: devmode.Channel,
		BotTokenFile: file("slack-bot-token"), SigningSecretFile: file("slack-signing-secret"), APIURL: w.SlackURL + "/api/"}
	cfg.Log.Format = "text"
	if v := w.Vault; v != nil {
		cfg.Vault.Address, cfg.Vault.CAFile = v.Address, v.CAFile
		cfg.Vault.Auth.RoleID, cfg.Vault.Auth.SecretIDFile = v.RoleID, v.SecretIDFile
		cfg.Clusters[0].VaultMount, cfg.Clusters[0].IssuerID, cfg.Clusters[0].MaxTTL = v.Mount, v.IssuerID, devmode.MaxTTL
	}
	return cfg, nil
}

// greet says where everything is and what to try.
func greet(out io.Writer, w *devmode.World, d devmode.Daemon, f devFlags) {
	alice := w.Person("alice")
	kind := "embedded"
	if f.real {
		kind = "real"
	}
	fmt.Fprintf(out, `breakglassd is up, with an example world around it (%s Vault and cluster).

Slack    %s        act as Alice: type  /breakglass
         then act as Bob and as Carol, and approve on the card in #breakglass-approvals

Command line, in another terminal (each key in %s is one person):

  export BREAKGLASS_SERVER=%s BREAKGLASS_IDENTITY=%s
  go run ./cmd/breakglass request -c %s -p cluster-admin --for 10m --reason "trying breakglass out"
  BREAKGLASS_IDENTITY=%s go run ./cmd/breakglass list --for-me
  BREAKGLASS_IDENTITY=%s go run ./cmd/breakglass approve ID        # then bob or dave

Cluster  %s
Ledger   %s
         public key  %s
Policy   %s
         after a change: kill -HUP %d

Ctrl-C ends it.
`, kind, w.SlackURL, filepath.Dir(alice.KeyFile), d.URL, alice.KeyFile, devmode.Cluster,
		w.Person("carol").KeyFile, w.Person("carol").KeyFile,
		w.Server, d.Ledger, d.LedgerKey, w.PolicyFile, os.Getpid())
}
