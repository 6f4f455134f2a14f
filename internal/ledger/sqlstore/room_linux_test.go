package sqlstore_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/bgtest/smalldisk"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/ledger/sqlstore"
	"github.com/breakglassd/breakglass/internal/ledger/storetest"
)

// A ledger whose disk fills up goes on, is opened again on the full disk, and is whole when there is room again.
func TestFullDiskDoesNotStopTheLedger(t *testing.T) {
	smalldisk.Run(t, "64m", func(t *testing.T, dir string) {
		signer, verifier := storetest.Key(t)
		path := filepath.Join(dir, "ledger.db")
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(sqlstore.Create(t.Context(), path))
		open := func() (*sqlstore.Store, *ledger.Ledger) {
			t.Helper()
			store, err := sqlstore.Open(t.Context(), path)
			must(err)
			l, err := ledger.Open(t.Context(), store, signer, verifier)
			must(err)
			return store, l
		}
		appended := int64(0)
		add := func(l *ledger.Ledger) {
			t.Helper()
			_, err := l.Append(t.Context(), time.Now(), "a", appended, nil, ledger.Draft{Kind: "k", Body: bytes.Repeat([]byte("x"), 1000)})
			must(err)
			appended++
		}
		store, l := open()
		must(store.KeepRoom(t.Context()))
		add(l)
		empty := smalldisk.Fill(t, dir)
		for range 200 {
			add(l)
		}
		must(l.Close())
		smalldisk.Fill(t, dir) // also what closing gave back: the write-ahead log
		store, l = open()
		smalldisk.Fill(t, dir) // another process takes all that is left of what was given up
		for range 200 {
			add(l)
		}
		if err := store.KeepRoom(t.Context()); err == nil {
			t.Error("the disk is full, and KeepRoom says that all is well")
		}
		must(l.Close())
		empty()
		store, l = open()
		add(l)
		must(store.KeepRoom(t.Context()))
		if info, err := os.Stat(path + ".reserve"); err != nil || info.Size() == 0 {
			t.Errorf("there is room, and no reserve: %v", err)
		}
		report, err := ledger.VerifyStore(t.Context(), store, verifier)
		if err != nil || report.Err() != nil || report.Size != appended {
			t.Errorf("%d entries were appended; the ledger has %+v, %v", appended, report, err)
		}
		must(l.Close())
	})
}

// A disk that has no room although it says so is noticed by the write that fails: it is made again, once, in the reserve.
func TestWriteThatFindsTheDiskFullIsMadeAgain(t *testing.T) {
	smalldisk.Run(t, "64m", func(t *testing.T, dir string) {
		signer, verifier := storetest.Key(t)
		path := filepath.Join(dir, "ledger.db")
		if err := sqlstore.Create(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		store, err := sqlstore.Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		l, err := ledger.Open(t.Context(), store, signer, verifier)
		if err != nil {
			t.Fatal(err)
		}
		if err := store.KeepRoom(t.Context()); err != nil {
			t.Fatal(err)
		}
		// More than the write-ahead log and the database have for themselves, and than the slice that is given up before a write.
		smalldisk.Fill(t, dir)
		drafts := make([]ledger.Draft, 200)
		for i := range drafts {
			drafts[i] = ledger.Draft{Kind: "k", Body: bytes.Repeat([]byte("x"), 60_000)}
		}
		if _, err := l.Append(t.Context(), time.Now(), "a", 0, nil, drafts...); err != nil {
			t.Fatal(err)
		}
		// Two slices at least: one before the write, one when it failed.
		if info, err := os.Stat(path + ".reserve"); err != nil || info.Size() > 12<<20 {
			t.Errorf("the write found room without the reserve: this test proves nothing: %v", err)
		}
		report, err := ledger.VerifyStore(t.Context(), store, verifier)
		if err != nil || report.Err() != nil || report.Size != int64(len(drafts)) {
			t.Errorf("%d entries were appended; the ledger has %+v, %v", len(drafts), report, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
