package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/ledger"
)

func (a *app) ledgerCommand() *cobra.Command {
	return group(&cobra.Command{Use: "ledger", Short: "Check the ledger, offline"}, a.verifyCommand())
}

func (a *app) verifyCommand() *cobra.Command {
	var key string
	var since []string
	cmd := &cobra.Command{Use: "verify EXPORT",
		Short: "Verify an exported ledger, or one certificate's proof, with nothing but the public key",
		Args:  args(1, 1, "one exported directory or .json file"),
		Long: "Verifies an export of the ledger: every hash, the signed checkpoint, and that everything in it could have happened, above\nall " +
			"that every certificate had its approvals. Given the JSON that show --proof or claim -o json printed, it verifies the proof of that\ncertificate. No server is asked.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.formats("json"); err != nil {
				return err
			}
			verifier, err := a.verifier(key)
			if err != nil {
				return err
			}
			info, err := os.Stat(args[0])
			if err != nil {
				return usage("%v", err)
			}
			if info.IsDir() {
				return a.verifyExport(cmd.Context(), filepath.Clean(args[0]), verifier, since)
			}
			return a.verifyCredential(args[0], verifier)
		}}
	cmd.Flags().StringVar(&key, "key", "", "the ledger's public key, or a `file` with it")
	cmd.Flags().StringArrayVar(&since, "since", nil, "`file` with a checkpoint kept earlier, of which the export must be a continuation; "+
		"may be repeated")
	return cmd
}

// verification is the JSON form of what a verification found.
type verification struct {
	api.Meta
	Ledger       string   `json:"ledger"`
	Size         int64    `json:"size"`
	Root         string   `json:"root"`
	Requests     int      `json:"requests"`
	Certificates int      `json:"certificates"`
	Orphans      int      `json:"orphans"` // signed and never delivered; not among Certificates
	Approvals    int      `json:"approvals"`
	Signed       int      `json:"signedApprovals"`
	Refusals     int      `json:"refusals"`
	Erased       int      `json:"erasedTexts"`
	Problems     []string `json:"problems"`
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

func (a *app) verifyExport(ctx context.Context, dir string, verifier note.Verifier, since []string) error {
	var anchors []ledger.Checkpoint
	for _, f := range since {
		b, err := os.ReadFile(f)
		if err != nil {
			return usage("checkpoint: %v", err)
		}
		cp, err := ledger.ParseCheckpoint(b, verifier)
		if err != nil {
			return usage("checkpoint %s: %v", f, err)
		}
		anchors = append(anchors, cp)
	}
	begin := time.Now()
	report, err := ledger.VerifyExport(ctx, dir, verifier, anchors...)
	if err != nil {
		return err
	}
	auditor := breakglass.NewAuditor()
	archive, err := ledger.OpenExport(dir)
	if err == nil {
		err = archive.Entries(ctx, func(e ledger.Entry) error { auditor.Add(e); return nil })
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	audit := auditor.Report()
	bad := append(report.Problems, audit.Problems...)
	if err != nil && len(bad) == 0 {
		bad = append(bad, err.Error())
	}
	if a.json() {
		if err := a.printJSON(verification{Meta: api.Meta{APIVersion: api.Version, Kind: "Verification"}, Ledger: report.Origin,
			Size: report.Size, Root: report.Root.String(),
			Requests: audit.Requests, Certificates: audit.Certificates, Orphans: audit.Orphans, Approvals: audit.Approvals, Signed: audit.Signed,
			Refusals: audit.Refusals,
			Erased:   report.Erased, Problems: append([]string{}, bad...)}); err != nil {
			return err
		}
	} else {
		a.data("%s   %d entries in %d streams   %s\n", verifier.Name(), report.Entries, report.Streams, time.Since(begin).Round(time.Millisecond))
		a.data("%d requests, %d certificates (%d never delivered), %d approvals of which %d are signed with an SSH key, %d refused commands, "+
			"%d erased texts\n",
			audit.Requests, audit.Certificates+audit.Orphans, audit.Orphans, audit.Approvals, audit.Signed, audit.Refusals, report.Erased)
		if audit.Repeated > 0 {
			a.data("%d approvals were given again in an earlier release after they were taken back: it cannot be told\nwhether they were signed "+
				"again\n", audit.Repeated)
		}
	}
	if audit.Newer && len(report.Problems) == 0 {
		return &failure{exit: exitNewer, what: "made by a newer release of " + a.name,
			why:  "every hash and the signature are right, and some entries are of a kind that this release does not know",
			next: "verify it with that release"}
	}
	if len(bad) > 0 {
		shown := bad[:min(len(bad), 20)]
		return &failure{exit: exitVerify, what: fmt.Sprintf("VERIFICATION FAILED: %d problems", len(bad)), why: strings.Join(shown, "\n       "),
			next: "keep this export as evidence, and compare it with others and with checkpoints kept elsewhere"}
	}
	if !a.json() {
		if len(anchors) > 0 {
			a.data("✓ a continuation of %d checkpoints kept earlier\n", len(anchors))
		}
		a.data("✓ every hash, and the checkpoint's signature\n✓ every certificate was approved by enough people, none of them the requester\n")
	}
	return nil
}

// verifyCredential verifies what claim -o json printed, when only that is at hand.
func (a *app) verifyCredential(path string, verifier note.Verifier) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return usage("%v", err)
	}
	issued, index, err := checkCredential(b, verifier)
	if err != nil {
		return &failure{exit: exitVerify, what: "VERIFICATION FAILED: " + path, why: err.Error()}
	}
	if a.json() {
		return a.printJSON(struct {
			api.Meta
			Ledger      string    `json:"ledger"`
			Index       int64     `json:"index"`
			Serial      string    `json:"serial"`
			Fingerprint string    `json:"fingerprint"`
			NotAfter    time.Time `json:"notAfter"`
		}{api.Meta{APIVersion: api.Version, Kind: "ProofVerification"}, verifier.Name(), index, issued.Serial, issued.Fingerprint,
			issued.NotAfter})
	}
	a.data("✓ certificate %s is entry #%d of %s\n", issued.Serial, index, verifier.Name())
	return nil
}

// checkCredential verifies that the ledger of a key holds exactly the certificate of a credential.
func checkCredential(text []byte, verifier note.Verifier) (breakglass.Issued, int64, error) {
	var c credential
	if err := json.Unmarshal(text, &c); err != nil || c.Kind != "Credential" && c.Kind != "CertificateProof" {
		return breakglass.Issued{}, 0, errors.New("it is not what show --proof or claim -o json prints")
	}
	block, _ := pem.Decode([]byte(c.Certificate))
	if block == nil {
		return breakglass.Issued{}, 0, errors.New("there is no certificate in it")
	}
	ev, err := eventIn(c.Issued, c.Request.ID)
	if err != nil {
		return breakglass.Issued{}, 0, err
	}
	issued, ok := ev.(breakglass.Issued)
	if !ok || !bytes.Equal(issued.Certificate, block.Bytes) {
		return breakglass.Issued{}, 0, errors.New("its ledger entry is about another certificate")
	}
	proof, err := ledger.ParseProof([]byte(c.Proof))
	if err != nil {
		return breakglass.Issued{}, 0, err
	}
	return issued, proof.Index, ledger.VerifyProof(c.Issued, proof, verifier)
}
