package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/record"
)

// A backup of a ledger in use has every entry, verifies, and has a checkpoint that shows what an older copy lacks.
func TestBackupHasEveryEntry(t *testing.T) {
	s := bgtest.New(t, bgtest.Options{})
	s.Grant("alice", "admin")
	dir := t.TempDir()
	f := &ledgerFlags{db: s.Path(), key: s.VKey}
	old, latest := filepath.Join(dir, "old.db"), filepath.Join(dir, "new.db")
	var out strings.Builder
	must(t, f.backup(t.Context(), &out, old))
	s.Grant("bob", "admin")
	size := s.Ledger.Size()
	must(t, f.backup(t.Context(), &out, latest))
	v, err := verifyLedger(t.Context(), latest, s.VKey, nil)
	if err != nil || v.err() != nil || v.Ledger.Size < size {
		t.Errorf("the backup has %d entries of %d (%v, %v)", v.Ledger.Size, size, err, v.err())
	}
	later := &ledgerFlags{db: old, key: s.VKey, checkpoints: []string{checkpointOf(latest)}}
	if err := later.verify(t.Context(), &out, nil); err == nil {
		t.Error("a copy that lacks entries verifies against a later checkpoint")
	}
	if err := f.backup(t.Context(), &out, latest); err == nil || !strings.Contains(err.Error(), "never overwritten") {
		t.Errorf("a backup over a backup: %v", err)
	}
	if info, err := os.Stat(latest); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the backup's mode is %v (%v)", info.Mode(), err)
	}
}

// An entry that this release does not know is no forgery, and has an exit code of its own.
func TestNewerLedgerIsNotForged(t *testing.T) {
	s := bgtest.New(t, bgtest.Options{})
	_, err := s.Ledger.Append(t.Context(), time.Now(), record.DaemonStream, ledger.AnyVersion, nil,
		ledger.Draft{Kind: "heartbeat/v99", Body: []byte("{}")})
	must(t, err)
	var out strings.Builder
	var code *exitError
	err = (&ledgerFlags{db: s.Path(), key: s.VKey}).verify(t.Context(), &out, nil)
	if !errors.As(err, &code) || code.code != exitNewer || !strings.Contains(err.Error(), "newer release") {
		t.Errorf("got %v, want exit code %d", err, exitNewer)
	}
}
