package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/cmd/breakglassd/config"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/ledger/sqlstore"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/text"
	"github.com/breakglassd/breakglass/internal/verify"
)

// verification is what was found in a whole ledger: whether its bytes are those that were signed, and whether what they say
// could have happened.
type verification struct {
	Ledger ledger.Report
	Audit  verify.Report
}

func (v verification) problems() []string { return append(v.Ledger.Problems, v.Audit.Problems...) }

func (v verification) err() error {
	if v.Audit.Newer && len(v.Ledger.Problems) == 0 {
		return record.ErrNewerRelease
	}
	if p := v.problems(); len(p) > 0 {
		return fmt.Errorf("%d problems, the first: %s", len(p), p[0])
	}
	return nil
}

// auditTries is how often an audit begins again because the daemon wrote meanwhile.
const auditTries = 5

// verifyLedger verifies a ledger's database against its public key. It writes nothing and works beside a running daemon. The
// error is for a database that cannot be read at all.
func verifyLedger(ctx context.Context, path, vkey string, anchors []ledger.Checkpoint) (v verification, err error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return v, fmt.Errorf("the ledger's public key: %w", err)
	}
	store, err := sqlstore.OpenReadOnly(ctx, path)
	if err != nil {
		return v, fmt.Errorf("opening the ledger: %w", err)
	}
	if v.Ledger, err = ledger.VerifyStore(ctx, store, verifier, anchors...); err != nil {
		return v, errors.Join(err, store.Close())
	}
	if err := store.Close(); err != nil {
		return v, fmt.Errorf("closing the ledger: %w", err)
	}
	if len(v.Ledger.Problems) > 0 {
		return v, nil // entries that are not what was signed tell no story
	}
	size := int64(-1)
	for range auditTries {
		before := size
		if v.Audit, size, err = audit(ctx, path, verifier); err != nil {
			return v, err
		}
		// The index is read after the entries: a request that came in between looks like a mistake, once.
		if len(v.Audit.Problems) == 0 || size == before {
			break
		}
	}
	return v, nil
}

// audit replays the ledger as it is now.
func audit(ctx context.Context, path string, verifier note.Verifier) (r verify.Report, size int64, err error) {
	store, err := sqlstore.OpenReadOnly(ctx, path)
	if err != nil {
		return r, 0, fmt.Errorf("opening the ledger: %w", err)
	}
	l, err := ledger.OpenReadOnly(ctx, store, verifier)
	if err != nil {
		return r, 0, errors.Join(err, store.Close())
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	r, err = verify.Audit(ctx, l)
	return r, l.Size(), err
}

// verifyExport verifies a directory that `ledger export` wrote.
func verifyExport(ctx context.Context, dir, vkey string, anchors []ledger.Checkpoint) (v verification, err error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return v, fmt.Errorf("the ledger's public key: %w", err)
	}
	switch info, err := os.Stat(dir); {
	case err != nil:
		return v, fmt.Errorf("opening the export: %w", err)
	case !info.IsDir():
		return v, usage("%s is a file, and an export is a directory; a ledger's database goes with --db, an evidence bundle with: breakglass "+
			"recert verify", dir)
	case !ledger.IsExport(dir):
		return v, usage("%s is no export of a ledger: it has no checkpoint, no tile and no texts.jsonl in it", dir)
	}
	if v.Ledger, err = ledger.VerifyExport(ctx, dir, verifier, anchors...); err != nil || len(v.Ledger.Problems) > 0 {
		return v, err
	}
	a, err := ledger.OpenExport(dir)
	if err != nil {
		return v, fmt.Errorf("opening the export: %w", err)
	}
	auditor := verify.NewAuditor()
	err = a.Entries(ctx, func(e ledger.Entry) error {
		auditor.Add(e)
		return nil
	})
	v.Audit = auditor.Report()
	return v, err
}

// ledgerFlags say which ledger a command is about.
type ledgerFlags struct {
	config, db, key string
	checkpoints     []string
	output          string
	all             bool
}

// find returns the database and the public key.
func (f *ledgerFlags) find() (path, vkey string, err error) {
	path, vkey = f.db, f.key
	if f.config != "" {
		cfg, err := config.Load(f.config)
		if err != nil {
			return "", "", err
		}
		if path == "" {
			path = cfg.Ledger.Path
		}
		if vkey == "" {
			if _, _, vkey, err = ledgerKey(cfg); err != nil {
				return "", "", err
			}
		}
	}
	if vkey == "" {
		return "", "", usage("name the ledger: --config FILE, or --db FILE with --key KEY, the public key that `breakglassd init` printed")
	}
	if text, err := config.ReadFile(vkey); err == nil {
		vkey = string(text)
	}
	return path, strings.TrimSpace(vkey), nil
}

// anchors reads the checkpoints that were kept elsewhere.
func (f *ledgerFlags) anchors(vkey string) ([]ledger.Checkpoint, error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, usage("--key is not a public key in note format, NAME+HASH+KEY, nor a file with one")
	}
	var out []ledger.Checkpoint
	for _, file := range f.checkpoints {
		kept, err := config.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading a checkpoint: %w", err)
		}
		c, err := ledger.ParseKept(kept, verifier)
		if errors.Is(err, ledger.ErrNoCheckpoint) {
			return nil, usage("--checkpoint %s: %v; it takes the file \"checkpoint\" of an export, or what breakglass keeps of a server", file, err)
		}
		if err != nil {
			return nil, &exitError{exitFindings, fmt.Errorf("the checkpoint %s is not this ledger's: %w; keep it as evidence, and find out where "+
				"it comes from", file, err)}
		}
		out = append(out, c)
	}
	return out, nil
}

func ledgerCommand() *cobra.Command {
	f := &ledgerFlags{}
	top := &cobra.Command{Use: "ledger", Short: "Verify and export the ledger, also while the daemon runs"}
	top.PersistentFlags().StringVar(&f.config, "config", "", "configuration `file`, to take the ledger from")
	top.PersistentFlags().StringVar(&f.db, "db", "", "database `file` of the ledger")
	top.PersistentFlags().StringVar(&f.key, "key", "", "public `key` of the ledger, or a file with it; needs no private key then")
	ver := &cobra.Command{Use: "verify [DIR]", Short: "Verify every entry of the ledger, or of an export in DIR, and replay what they say",
		Args: argsAtMost(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.verify(cmd.Context(), cmd.OutOrStdout(), args) }}
	ver.Flags().StringArrayVar(&f.checkpoints, "checkpoint", nil,
		"`file` with a checkpoint kept elsewhere, which the ledger must continue; may be repeated")
	ver.Flags().BoolVar(&f.all, "all", false, "print the problems that follow from another too")
	ver.Flags().StringVarP(&f.output, "output", "o", "", "output `format`: json")
	export := &cobra.Command{Use: "export DIR", Short: "Write the ledger to a new directory that can be verified anywhere",
		Args: argsExactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.export(cmd.Context(), cmd.OutOrStdout(), args[0])
		}}
	return group(top, ver, export, f.backupCommand())
}

func (f *ledgerFlags) verify(ctx context.Context, out io.Writer, args []string) error {
	path, vkey, err := f.find()
	if err != nil {
		return err
	}
	anchors, err := f.anchors(vkey)
	if err != nil {
		return err
	}
	var v verification
	switch {
	case len(args) == 1:
		path = args[0]
		v, err = verifyExport(ctx, path, vkey, anchors)
	case path == "":
		err = usage("name the database with --db FILE, or an export with DIR")
	default:
		v, err = verifyLedger(ctx, path, vkey, anchors)
	}
	if err != nil {
		return err
	}
	problems := v.problems()
	if f.output == "json" {
		if err := json.NewEncoder(out).Encode(map[string]any{"ledger": path, "origin": v.Ledger.Origin, "size": v.Ledger.Size,
			"root":    v.Ledger.Root.String(),
			"entries": v.Ledger.Entries, "requests": v.Audit.Requests, "certificates": v.Audit.Certificates, "approvals": v.Audit.Approvals,
			"signedApprovals": v.Audit.Signed, "unagreedApprovals": v.Audit.Unagreed, "orphans": v.Audit.Orphans, "refusals": v.Audit.Refusals,
			"erasedTexts": v.Ledger.Erased,
			"cause":       v.Ledger.Cause, "problems": append([]string{}, problems...)}); err != nil {
			return err
		}
	} else {
		for i, p := range problems {
			if i > 0 && v.Ledger.Cause != "" && !f.all {
				fmt.Fprintf(out, "  %d more follow from it (--all)\n", len(problems)-i)
				break
			}
			fmt.Fprintln(out, "✗", text.Clean(p))
		}
	}
	if v.Audit.Newer && len(v.Ledger.Problems) == 0 {
		return &exitError{exitNewer, fmt.Errorf("%s: every hash and the signature are right, and some entries were "+
			"made by a newer release of breakglass: verify it with that release", path)}
	}
	if len(problems) > 0 {
		return &exitError{exitFindings, fmt.Errorf("%s is not what its key signed or not what can have happened: %d problems; keep the files "+
			"as evidence", path, len(problems))}
	}
	if v.Audit.Unagreed > 0 {
		return &exitError{exitUnagreed, fmt.Errorf("%s: every hash and the signature are right, but %s: two people of the team that signs "+
			"changes look at it (breakglass policy show), and confirm it if it was meant (breakglass policy approve DIGEST)", path,
			unagreedWords(v.Audit))}
	}
	if f.output != "json" {
		fmt.Fprintf(out, "✓ %s: %d entries of %s verify, root %s\n", path, v.Ledger.Entries, v.Ledger.Origin, v.Ledger.Root)
		fmt.Fprintf(out, "✓ %d requests, %d approvals (%d signed with a key), %d certificates, %d orphans, %d refusals: every certificate had "+
			"its approvals\n",
			v.Audit.Requests, v.Audit.Approvals, v.Audit.Signed, v.Audit.Certificates, v.Audit.Orphans, v.Audit.Refusals)
	}
	return nil
}

func unagreedWords(r verify.Report) string {
	return fmt.Sprintf("approvals (%d) rest on an access policy that only an operator put in force and no two people have agreed to",
		r.Unagreed)
}

func (f *ledgerFlags) export(ctx context.Context, out io.Writer, dir string) (err error) {
	path, vkey, err := f.find()
	if err != nil {
		return err
	}
	if path == "" {
		return usage("name the database with --db FILE or --config FILE")
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return usage("--key is not a public key in note format, NAME+HASH+KEY, nor a file with one")
	}
	store, err := sqlstore.OpenReadOnly(ctx, path)
	if err != nil {
		return fmt.Errorf("opening the ledger: %w", err)
	}
	l, err := ledger.OpenReadOnly(ctx, store, verifier)
	if err != nil {
		return errors.Join(err, store.Close())
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := ledger.Export(ctx, l, dir); err != nil {
		return fmt.Errorf("exporting the ledger: %w", err)
	}
	fmt.Fprintf(out, "%d entries written to %s. Verify them anywhere: %s\n", l.Size(), dir, text.Command("breakglass ledger verify",
		[]string{"--key=" + vkey}, dir))
	fmt.Fprintf(out, "Read them: %s\n", text.Command("breakglass ledger list", []string{"--key=" + vkey}, dir))
	return nil
}
