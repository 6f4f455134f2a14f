package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/ledger/sqlstore"
)

// checkpointOf is the file that keeps the checkpoint of a backup, beside it.
func checkpointOf(backup string) string { return backup + ".checkpoint" }

func (f *ledgerFlags) backupCommand() *cobra.Command {
	return &cobra.Command{Use: "backup FILE", Short: "Copy the ledger to a new FILE while the daemon runs, verify the copy, and keep its " +
		"checkpoint in FILE.checkpoint",
		Args: argsExactly(1), RunE: func(cmd *cobra.Command, args []string) error {
			return f.backup(cmd.Context(), cmd.OutOrStdout(), args[0])
		}}
}

// backup makes a copy that has every entry there was when it began, which a plain copy of a database in use has not. The copy must
// verify, and continue the checkpoint that was in force before it was begun.
func (f *ledgerFlags) backup(ctx context.Context, out io.Writer, to string) error {
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
	if _, err := os.Lstat(checkpointOf(to)); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s exists: a backup is never overwritten", checkpointOf(to))
	}
	before, err := checkpointIn(ctx, path, verifier)
	if err != nil {
		return err
	}
	store, err := sqlstore.OpenReadOnly(ctx, path)
	if err != nil {
		return fmt.Errorf("opening the ledger: %w", err)
	}
	if err := errors.Join(store.Backup(ctx, to), store.Close()); err != nil {
		return err
	}
	v, err := verifyLedger(ctx, to, vkey, []ledger.Checkpoint{before})
	if err == nil {
		err = v.err()
	}
	if err != nil {
		return fmt.Errorf("the backup %s does not verify, so it must not be used: %w", to, err)
	}
	cp, err := checkpointIn(ctx, to, verifier)
	if err != nil {
		return err
	}
	if err := os.WriteFile(checkpointOf(to), cp.Note, 0o600); err != nil {
		return fmt.Errorf("keeping the checkpoint of the backup: %w", err)
	}
	fmt.Fprintf(out, "✓ %d entries are in %s, and verify. Keep a copy of %s apart from it: it shows what a restored ledger lacks.\n", cp.Size,
		to, checkpointOf(to))
	return nil
}

// checkpointIn reads the checkpoint of a database.
func checkpointIn(ctx context.Context, path string, verifier note.Verifier) (cp ledger.Checkpoint, err error) {
	store, err := sqlstore.OpenReadOnly(ctx, path)
	if err != nil {
		return cp, fmt.Errorf("opening the ledger: %w", err)
	}
	l, err := ledger.OpenReadOnly(ctx, store, verifier)
	if err != nil {
		return cp, errors.Join(err, store.Close())
	}
	cp, err = l.Checkpoint(ctx)
	return cp, errors.Join(err, l.Close())
}
