package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/ledger/sqlstore"
	"github.com/breakglassd/breakglass/internal/ledger/storetest"
)

func mustLedger(t *testing.T) *ledger.Ledger {
	t.Helper()
	signer, verifier := storetest.Key(t)
	path := filepath.Join(t.TempDir(), "ledger.db")
	if err := sqlstore.Create(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	store, err := sqlstore.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(t.Context(), store, signer, verifier)
	if err != nil {
		t.Fatal(errors.Join(err, store.Close()))
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// mustExport exports a small ledger, with texts of which one is erased.
func mustExport(t *testing.T, dir string) {
	t.Helper()
	l := mustLedger(t)
	at := time.Date(2026, 11, 22, 3, 45, 0, 0, time.UTC)
	for i, stream := range []string{"a", "b", "a"} {
		d := ledger.Draft{Kind: "k", Body: fmt.Appendf(nil, "body %d", i)}
		if i != 1 {
			d.Texts = map[string]string{"who": "Zoë \"Z\"", "why": "because\n"}
		}
		if _, err := l.Append(t.Context(), at, stream, ledger.AnyVersion, nil, d); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Erase(t.Context(), 0, "why"); err != nil {
		t.Fatal(err)
	}
	if err := ledger.Export(t.Context(), l, dir); err != nil {
		t.Fatal(err)
	}
}

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func problems(t *testing.T, dir string) []string {
	t.Helper()
	_, verifier := storetest.Key(t)
	report, err := ledger.VerifyExport(t.Context(), dir, verifier)
	if err != nil {
		t.Fatal(err)
	}
	return report.Problems
}

func TestEveryChangedByteOfAnExportIsDetected(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "export")
	mustExport(t, dir)
	names := files(t, dir)
	if len(names) != 5 { // checkpoint, README, texts, one bundle, one tile
		t.Fatalf("files = %v", names)
	}
	write := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		good, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		step := 1
		if testing.Short() {
			step = 5
		}
		for i := 0; i < len(good); i += step {
			for _, mask := range []byte{0x01, 0x20, 0x80} { // 0x20 changes the case of letters
				bad := bytes.Clone(good)
				bad[i] ^= mask
				write(name, bad)
				if len(problems(t, dir)) == 0 {
					t.Errorf("%s: byte %d changed from %q to %q: verified", name, i, good[i], bad[i])
				}
			}
			write(name, good[:i])
			if len(problems(t, dir)) == 0 {
				t.Errorf("%s: cut to %d of %d bytes: verified", name, i, len(good))
			}
		}
		write(name, append(bytes.Clone(good), '\n'))
		if len(problems(t, dir)) == 0 {
			t.Errorf("%s: with a byte more: verified", name)
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		// Exports of earlier releases have no README: it is not part of what is signed.
		if len(problems(t, dir)) == 0 != (filepath.Base(name) == "README.txt") {
			t.Errorf("without %s: %q", name, problems(t, dir))
		}
		write(name, good)
	}
	if p := problems(t, dir); len(p) != 0 {
		t.Fatalf("put back: %q", p)
	}
	extra := filepath.Join(dir, "tile", "0", "001")
	write(extra, []byte("x"))
	if p := problems(t, dir); len(p) != 1 || !strings.Contains(p[0], extra) {
		t.Errorf("with an extra file: %q", p)
	}
}

// TestFirstChangedEntryIsNamed changes one entry of many: what else does not agree then follows from it.
func TestFirstChangedEntryIsNamed(t *testing.T) {
	l := mustLedger(t)
	drafts := make([]ledger.Draft, 600)
	for i := range drafts {
		drafts[i] = ledger.Draft{Kind: "k", Body: fmt.Appendf(nil, "body %03d", i)}
	}
	if _, err := l.Append(t.Context(), time.Now(), "a", 0, nil, drafts...); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "export")
	if err := ledger.Export(t.Context(), l, dir); err != nil {
		t.Fatal(err)
	}
	_, verifier := storetest.Key(t)
	for _, c := range []struct {
		file     string
		old, new string
		cause    string
	}{
		{"tile/entries/001", "body 300", "body 30x", "entry 300 is not what was logged"},
		{"tile/entries/002.p/88", "body 599", "body 59x", "entry 599 is not what was logged"},
		{"tile/entries/000", "body 000", "body x00", "entry 0 is not what was logged"},
		{"checkpoint", "\n600\n", "\n601\n", ""}, // not the entries
	} {
		path := filepath.Join(dir, filepath.FromSlash(c.file))
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bytes.Replace(good, []byte(c.old), []byte(c.new), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := ledger.VerifyExport(t.Context(), dir, verifier)
		if err != nil || len(r.Problems) == 0 || !strings.HasPrefix(r.Cause, c.cause) || c.cause != "" && r.Problems[0] != r.Cause ||
			c.cause == "" && r.Cause != "" {
			t.Errorf("%s: cause %q of %q, %v", c.file, r.Cause, r.Problems, err)
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// A recorded hash that is wrong while the entries are what was signed.
	tile := filepath.Join(dir, "tile", "0", "001")
	good, err := os.ReadFile(tile)
	if err != nil {
		t.Fatal(err)
	}
	good[40] ^= 1
	if err := os.WriteFile(tile, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := ledger.VerifyExport(t.Context(), dir, verifier); err != nil || r.Cause != "" || len(r.Problems) != 1 {
		t.Errorf("cause %q of %q, %v", r.Cause, r.Problems, err)
	}
}

// exportReader reads the tiles of an export for tlog's own client. tlog writes
// the tile height into paths; tlog-tiles, which knows only height 8, does not.
type exportReader string

func (exportReader) Height() int { return 8 }

func (dir exportReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, tile := range tiles {
		var err error
		if data[i], err = os.ReadFile(filepath.Join(string(dir), strings.Replace(tile.Path(), "tile/8/", "tile/", 1))); err != nil {
			return nil, err
		}
	}
	return data, nil
}

func (exportReader) SaveTiles([]tlog.Tile, [][]byte) {}

func TestTilesOfAnExportServeAForeignClient(t *testing.T) {
	l := mustLedger(t)
	drafts := make([]ledger.Draft, 600)
	for i := range drafts {
		drafts[i] = ledger.Draft{Kind: "k", Body: fmt.Append(nil, i)}
	}
	entries, err := l.Append(t.Context(), time.Now(), "a", 0, nil, drafts...)
	if err != nil {
		t.Fatal(err)
	}
	cp, err := l.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "export")
	if err := ledger.Export(t.Context(), l, dir); err != nil {
		t.Fatal(err)
	}
	reader := tlog.TileHashReader(tlog.Tree{N: cp.Size, Hash: cp.Root}, exportReader(dir))
	for _, e := range entries {
		proof, err := tlog.ProveRecord(cp.Size, e.Seq, reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckRecord(proof, cp.Size, cp.Root, e.Seq, tlog.RecordHash(e.Leaf)); err != nil {
			t.Fatalf("entry %d: %v", e.Seq, err)
		}
	}
}

// TestOldExportsVerify keeps the promise that every release verifies the ledgers
// of every older one. A directory is added for each format, and none is changed.
func TestOldExportsVerify(t *testing.T) {
	const dir = "testdata/export-v1"
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		mustExport(t, dir)
	}
	_, verifier := storetest.Key(t)
	report, err := ledger.VerifyExport(t.Context(), dir, verifier)
	if err != nil || report.Err() != nil || report.Size != 3 || report.Streams != 2 || report.Erased != 1 {
		t.Errorf("report = %+v, %v, want 3 sound entries of 2 streams with 1 erased text", report, err)
	}
	archive, err := ledger.OpenExport(dir)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	err = archive.Entries(t.Context(), func(e ledger.Entry) error {
		texts = append(texts, fmt.Sprintf("%s %s %q", e.Stream, e.Body, e.Texts))
		return nil
	})
	want := `[a body 0 map["who":"Zoë \"Z\""] b body 1 map[] a body 2 map["who":"Zoë \"Z\"" "why":"because\n"]]`
	if got := fmt.Sprint(texts); err != nil || got != want {
		t.Errorf("entries = %s, %v, want %s", got, err, want)
	}
}

func TestVerificationThatIsInterruptedSaysSo(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, verifier := storetest.Key(t)
	if _, err := ledger.VerifyExport(ctx, "testdata/export-v1", verifier); !errors.Is(err, context.Canceled) {
		t.Errorf("VerifyExport = %v, want Canceled", err)
	}
}
