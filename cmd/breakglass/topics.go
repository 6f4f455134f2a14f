package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/breakglassd/breakglass/internal/cli/exit"
)

// topics are the help topics: commands that do nothing.
func topics() []*cobra.Command {
	var codes strings.Builder
	codes.WriteString("Every command ends with one of these codes, and with -o json writes the error as JSON to standard error.\n\n")
	for _, c := range exit.Codes() {
		fmt.Fprintf(&codes, "  %3d  %-13s %s\n", c.Code, c.Name, c.Meaning)
	}
	return []*cobra.Command{
		{Use: "exit-codes", Short: "What the exit codes mean", Long: strings.TrimSuffix(codes.String(), "\n")},
		{Use: "environment", Short: "Environment variables and files", Long: environment},
	}
}

const environment = `A flag wins over the environment, the environment over the configuration file.

  --server       BREAKGLASS_SERVER      server      address of the daemon
  --ca-file      BREAKGLASS_CA_FILE     caFile      authorities to believe for its certificate (default: the system's)
  --identity     BREAKGLASS_IDENTITY    identity    SSH private key file, or .pub file to choose a key of the agent
  --ledger-key   BREAKGLASS_LEDGER_KEY  ledgerKey   the ledger's public key, or a file with it
  --config       BREAKGLASS_CONFIG                  the configuration file

  SSH_AUTH_SOCK                    the ssh-agent, asked unless an identity is a private key
  NO_COLOR, CLICOLOR_FORCE, TERM   no colours; colours always; TERM=dumb: no colours and no live line
  HTTPS_PROXY, NO_PROXY            as usual

Files, each readable by you alone:

  $XDG_CONFIG_HOME/breakglass/config.yaml   configuration (~/.config/…)
  $XDG_RUNTIME_DIR/breakglass/              keys, kubeconfigs and the session. When a grant has ended by the server's clock, or was
                                            revoked, the next run removes its key; its kubeconfig then says so to kubectl.
                                            It goes away with your last login session. breakglass logout --keys removes all
  $XDG_STATE_HOME/breakglass/               the ledger key and checkpoint last seen of each server (~/.local/state/…);
                                            without a usable XDG_RUNTIME_DIR also what belongs there`
