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
				return usage("%v", err)
			}
			if !info.IsDir() {
				return a.verifyCredential(args[0], verifier)
			}
			x, err := openExport(cmd.Context(), args[0], verifier, of.since)
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
		return nil, usage("which ledger? give its public key with --key")
	}
	text, err := readLedgerKey(key)
	if err != nil {
		return nil, err
	}
	v, err := note.NewVerifier(text)
	if err != nil {
		return nil, usage("ledger key: %v", err)
	}
	return v, nil
}

// reportExport says what a verification found.
func (a *app) reportExport(x *ledgerExport, all bool) error {
	if a.json() {
		if err := a.printJSON(x.json()); err != nil {
			return err
		}
	} else {
		a.data("%s", styled(x.summary()))
	}
	if err := x.sound(a.name, all); err != nil {
		return err
	}
	if err := x.agreed(); err != nil || a.json() {
		return err
	}
	a.data("%s", styled(x.checked()))
	return nil
}

// verifyCredential verifies what show --proof or claim -o json printed, when only that is at hand.
func (a *app) verifyCredential(path string, verifier note.Verifier) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return usage("%v", err)
	}
	p, err := checkCredential(b, verifier)
	if errors.Is(err, errNoProof) {
		return wrongFile(path, b)
	}
	if err == nil && len(p.changed) > 0 {
		err = errors.New("the ledger says otherwise than the file:\n" + strings.Join(p.changed, "\n"))
	}
	if err != nil {
		return &failure{exit: exitVerify, what: "VERIFICATION FAILED: " + path, why: err.Error(),
			next: "keep the file as evidence; a true one comes from: breakglass show ID --proof"}
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
		}{api.Meta{APIVersion: api.Version, Kind: "ProofVerification"}, verifier.Name(), p.index, p.id, p.person, p.issued.Serial,
			p.issued.Fingerprint, p.issued.NotBefore, p.issued.NotAfter, p.request != nil})
	}
	a.data("✓ certificate %s is entry #%d of %s\n", p.issued.Serial, p.index, verifier.Name())
	if p.request != nil {
		a.data("✓ all that the file says of %s is so in that ledger: its entries up to #%d are proven\n", p.id, p.last)
		a.data("  not proved: that nothing was recorded after them; names of people are the server's word\n\n")
		_, err := fmt.Fprint(a.out, a.view().describe(*p.request))
		return err
	}
	a.data("  proved      request %s of %s, serial, fingerprint %s, %s to %s\n", p.id, p.person, p.issued.Fingerprint,
		stamp(p.issued.NotBefore), stamp(p.issued.NotAfter))
	a.data("  not proved  everything else that the file says of the request; a file that proves it comes from: %s\n",
		command("show", []string{"--proof"}, p.id))
	return nil
}
