package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/cli/exported"
	"github.com/breakglassd/breakglass/internal/cli/machine"
	"github.com/breakglassd/breakglass/internal/cli/proved"
	"github.com/breakglassd/breakglass/internal/cli/terminal"
	"github.com/breakglassd/breakglass/internal/cli/view"
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
	cmd.Flags().StringArrayVar(&n.since, "since", nil, "`file` with a checkpoint kept earlier, of which the export must be a continuation: "+
		"that of an\nearlier export, or what this program keeps of a server in its state directory; may be repeated")
}

func (a *app) verifyCommand() *cobra.Command {
	var of anchored
	var all bool
	cmd := &cobra.Command{Use: "verify EXPORT",
		Short: "Verify an exported ledger, or one certificate's proof, with nothing but the public key",
		Args:  args(1, 1, "one exported directory or .json file"),
		Long: "Verifies an export of the ledger: every hash, the signed checkpoint, and that everything in it could have happened, above\nall " +
			"that every certificate had its approvals. Given the JSON that show --proof or claim -o json printed, it verifies the proof of that\n" +
			"certificate, and that nothing else in the file was changed. No server is asked.",
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
		a.data("  not proved: that nothing was recorded after them; names of people are the server's word\n\n")
		_, err := fmt.Fprint(a.out, a.view().Describe(*p.Request))
		return err
	}
	a.data("  proved      request %s of %s, serial, fingerprint %s, %s to %s\n", p.ID, p.Person, p.Issued.Fingerprint,
		view.Stamp(p.Issued.NotBefore), view.Stamp(p.Issued.NotAfter))
	a.data("  not proved  everything else that the file says of the request; a file that proves it comes from: %s\n",
		terminal.Command("show", []string{"--proof"}, p.ID))
	return nil
}
