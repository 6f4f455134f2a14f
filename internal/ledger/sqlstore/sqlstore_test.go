package sqlstore_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/ledger/sqlstore"
	"github.com/breakglassd/breakglass/internal/ledger/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) func() (ledger.Store, error) {
		path := mustCreate(t)
		return func() (ledger.Store, error) { return sqlstore.Open(t.Context(), path) }
	})
}

// mustRaw opens the file behind the store's back, as someone with an SQL shell
// would.
func mustRaw(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func mustExec(t *testing.T, db *sql.DB, statement string, args ...any) {
	t.Helper()
	if _, err := db.Exec(statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func dropTriggers(t *testing.T, db *sql.DB) {
	t.Helper()
	rows, err := db.Query(`SELECT name FROM sqlite_master WHERE type = 'trigger'`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		mustExec(t, db, "DROP TRIGGER "+name)
	}
}

// mustSmall makes a closed ledger of a few entries, with texts, and returns its
// path and its entries.
func mustSmall(t *testing.T) (string, []ledger.Entry) {
	t.Helper()
	signer, verifier := storetest.Key(t)
	path := mustCreate(t)
	l := mustLedger(t, mustStore(t, path), signer, verifier)
	at := time.Date(2026, 11, 22, 3, 45, 0, 0, time.UTC)
	for i, stream := range []string{"a", "b", "a", "a", "b"} {
		d := ledger.Draft{Kind: "k", Body: fmt.Appendf(nil, "body %d", i)}
		if i%2 == 0 {
			d.Texts = map[string]string{"why": fmt.Sprintf("because %d", i)}
		}
		tags := []ledger.Tag{{Name: "n", Value: stream}}
		if _, err := l.Append(t.Context(), at.Add(time.Duration(i)*time.Second), stream, ledger.AnyVersion, tags, d); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := l.Entries(t.Context(), 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return path, entries
}

// refused says whether opening and full verification refuse a file. If neither
// does, it returns what the file says.
func refused(t *testing.T, path string) (atOpen, atVerify error, entries []ledger.Entry) {
	t.Helper()
	_, verifier := storetest.Key(t)
	store, err := sqlstore.OpenReadOnly(t.Context(), path)
	if err != nil {
		return err, err, nil
	}
	defer store.Close()
	report, err := ledger.VerifyStore(t.Context(), store, verifier)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.OpenReadOnly(t.Context(), store, verifier)
	if err == nil {
		entries, err = l.Entries(t.Context(), 0, 100)
	}
	return err, report.Err(), entries
}

func TestTablesRefuseWhatIsNotAnAppend(t *testing.T) {
	path, _ := mustSmall(t)
	db := mustRaw(t, path) // without recursive_triggers, as any client would
	const columns = `ledger_entry (seq, stream, stream_seq, hashes, leaf) `
	for _, statement := range []string{
		`UPDATE ledger_entry SET leaf = x'00' WHERE seq = 1`,
		`UPDATE ledger_entry SET hashes = hashes`,
		`DELETE FROM ledger_entry WHERE seq = 4`,
		`DELETE FROM ledger_entry`,
		`INSERT OR REPLACE INTO ` + columns + `SELECT seq, stream, stream_seq, hashes, x'00' FROM ledger_entry WHERE seq = 1`,
		`REPLACE INTO ` + columns + `SELECT seq, stream, stream_seq, hashes, x'00' FROM ledger_entry WHERE seq = 4`,
		// by its place in the stream
		`INSERT OR REPLACE INTO ` + columns + `SELECT 5, stream, stream_seq, hashes, x'00' FROM ledger_entry WHERE seq = 1`,
		`INSERT INTO ` + columns + `SELECT seq, stream, stream_seq, hashes, leaf FROM ledger_entry WHERE seq = 1 ON CONFLICT DO UPDATE SET leaf = x'00'`,
		`INSERT OR IGNORE INTO ` + columns + `VALUES (7, 'c', 1, zeroblob(32), x'00')`,
		`INSERT INTO ` + columns + `VALUES (6, 'c', 1, zeroblob(32), x'00')`,
		`INSERT INTO ` + columns + `VALUES (5, 'c', 2, zeroblob(32), x'00')`,
		`INSERT INTO ` + columns + `VALUES (5, 'c', 1, zeroblob(31), x'00')`,
		`INSERT INTO ` + columns + `VALUES (-1, 'c', 1, zeroblob(32), x'00')`,
		`UPDATE ledger_text SET text = x'41', salt = x'41'`,
		`UPDATE ledger_text SET seq = 1`,
		`DELETE FROM ledger_text`,
		`DELETE FROM ledger_head`,
		`UPDATE ledger_head SET size = size - 1`,
		`UPDATE ledger_head SET root = zeroblob(32)`,
		`INSERT OR REPLACE INTO ledger_head (id, size, root, time, note) VALUES (1, 0, zeroblob(32), '', x'')`,
		`INSERT INTO ledger_tag (name, value, stream, uniq) VALUES ('n', 'v', 's', 2)`,
	} {
		result, err := db.Exec(statement)
		if err == nil {
			n, _ := result.RowsAffected()
			t.Errorf("accepted, %d rows: %s", n, statement)
		}
	}
	if atOpen, atVerify, _ := refused(t, path); atOpen != nil || atVerify != nil {
		t.Errorf("after all that: %v, %v", atOpen, atVerify)
	}
}

func TestEveryFlippedByteOfTheTablesIsDetected(t *testing.T) {
	path, _ := mustSmall(t)
	db := mustRaw(t, path)
	dropTriggers(t, db)
	columns := []struct {
		table, column, key, cast string
		openSees                 bool
	}{
		{"ledger_entry", "leaf", "seq", "BLOB", true},
		{"ledger_entry", "hashes", "seq", "BLOB", false}, // not those that only proofs of old entries need
		{"ledger_entry", "stream", "seq", "TEXT", true},
		{"ledger_entry", "stream_seq", "seq", "INTEGER", true},
		{"ledger_text", "salt", "seq", "BLOB", true},
		{"ledger_text", "text", "seq", "BLOB", true},
		{"ledger_text", "name", "seq", "TEXT", true},
		{"ledger_head", "size", "id", "INTEGER", true},
		{"ledger_head", "root", "id", "BLOB", true},
		{"ledger_head", "note", "id", "BLOB", true},
		{"ledger_head", "time", "id", "TEXT", true},
	}
	flips, step := 0, 1
	if testing.Short() {
		step = 7
	}
	for _, c := range columns {
		rows, err := db.Query(fmt.Sprintf(`SELECT %s, CAST(%s AS BLOB) FROM %s ORDER BY %s`, c.key, c.column, c.table, c.key))
		if err != nil {
			t.Fatal(err)
		}
		values := make(map[int64][]byte)
		for rows.Next() {
			var key int64
			var value []byte
			if err := rows.Scan(&key, &value); err != nil {
				t.Fatal(err)
			}
			values[key] = value
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil || len(values) == 0 {
			t.Fatal(len(values), err)
		}
		set := func(key int64, value []byte) error {
			_, err := db.Exec(fmt.Sprintf(`UPDATE %s SET %s = CAST(? AS %s) WHERE %s = ?`, c.table, c.column, c.cast, c.key), value, key)
			return err
		}
		for key, value := range values {
			for i := 0; i < len(value); i += step {
				flipped := bytes.Clone(value)
				flipped[i] ^= 1
				if set(key, flipped) != nil {
					continue // the table itself refuses it: NOT NULL, UNIQUE, STRICT
				}
				flips++
				atOpen, atVerify, _ := refused(t, path)
				if atVerify == nil || c.openSees && atOpen == nil {
					t.Errorf("%s.%s of row %d, byte %d: %q for %q went unnoticed (open: %v, verify: %v)",
						c.table, c.column, key, i, flipped, value, atOpen, atVerify)
				}
			}
			if err := set(key, value); err != nil {
				t.Fatal(err)
			}
		}
	}
	if atOpen, atVerify, _ := refused(t, path); atOpen != nil || atVerify != nil || flips < 1000/step {
		t.Errorf("put back after %d flips: %v, %v", flips, atOpen, atVerify)
	}
}

func TestRearrangedTablesAreDetected(t *testing.T) {
	const columns = `ledger_entry (seq, stream, stream_seq, hashes, leaf) `
	for _, test := range []struct{ name, script string }{
		{"last entry deleted", `DELETE FROM ledger_text WHERE seq = 4; DELETE FROM ledger_entry WHERE seq = 4`},
		{"first entry deleted", `DELETE FROM ledger_text WHERE seq = 0; DELETE FROM ledger_entry WHERE seq = 0`},
		{"all deleted", `DELETE FROM ledger_text; DELETE FROM ledger_entry`},
		{"entry added", `INSERT INTO ` + columns + `SELECT 5, 'c', 1, hashes, leaf FROM ledger_entry WHERE seq = 1`},
		{"entry copied", `INSERT INTO ` + columns + `SELECT 5, 'b', 3, hashes, leaf FROM ledger_entry WHERE seq = 4`},
		{"two entries swapped",
			`UPDATE ledger_entry SET seq = 99 WHERE seq = 1; UPDATE ledger_entry SET seq = 1 WHERE seq = 3; UPDATE ledger_entry SET seq = 3 WHERE seq = 99`},
		{"text deleted", `DELETE FROM ledger_text WHERE seq = 2`},
		{"text added", `INSERT INTO ledger_text (seq, name, salt, text) VALUES (1, 'x', x'00', x'00')`},
		{"texts swapped",
			`UPDATE ledger_text SET seq = 1 WHERE seq = 0; UPDATE ledger_text SET seq = 0 WHERE seq = 2; UPDATE ledger_text SET seq = 2 WHERE seq = 1`},
		{"head emptied", `UPDATE ledger_head SET note = x''`},
		{"head deleted", `DELETE FROM ledger_head`},
	} {
		path, _ := mustSmall(t)
		db := mustRaw(t, path)
		dropTriggers(t, db)
		mustExec(t, db, "PRAGMA foreign_keys = 0; "+test.script)
		if atOpen, atVerify, _ := refused(t, path); atOpen == nil || atVerify == nil {
			t.Errorf("%s: open: %v, verify: %v", test.name, atOpen, atVerify)
		}
	}
}

func TestVerificationReportsEveryProblemWithItsPlace(t *testing.T) {
	_, verifier := storetest.Key(t)
	path, _ := mustSmall(t)
	db := mustRaw(t, path)
	dropTriggers(t, db)
	mustExec(t, db, `UPDATE ledger_entry SET hashes = zeroblob(length(hashes)) WHERE seq = 1;
		UPDATE ledger_text SET text = x'41' WHERE seq = 2; UPDATE ledger_entry SET stream_seq = 7 WHERE seq = 3`)
	report, err := ledger.VerifyStore(t.Context(), mustStore(t, path), verifier)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(report.Problems, "\n")
	for _, want := range []string{"entry 1: its stored hashes", `entry 2: text "why"`,
		`entry 3: is indexed as "a" number 7 but says "a" number 3`} {
		if !strings.Contains(all, want) {
			t.Errorf("the report lacks %q:\n%s", want, all)
		}
	}
	if len(report.Problems) != 3 || report.Entries != 5 || report.Size != 5 {
		t.Errorf("report = %+v, want exactly these 3 problems of 5 entries", report)
	}
}

// A file may change where nothing is stored, but then it must still say exactly
// the same.
func TestDamagedFilesAreRefusedOrUnharmed(t *testing.T) {
	path, want := mustSmall(t)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad.db")
	try := func(name string, content []byte) bool {
		for _, suffix := range []string{"-wal", "-shm"} {
			os.Remove(bad + suffix)
		}
		if err := os.WriteFile(bad, content, 0o600); err != nil {
			t.Fatal(err)
		}
		atOpen, atVerify, got := refused(t, bad)
		if atOpen == nil && atVerify == nil && !cmp.Equal(want, got) {
			t.Errorf("%s: verified, but says something else", name)
		}
		return atOpen != nil || atVerify != nil
	}
	if try("unchanged", good) {
		t.Fatal("the unchanged file is refused")
	}
	random := rand.New(rand.NewPCG(1, 2))
	noticed := 0
	for range 400 {
		i := random.IntN(len(good))
		content := bytes.Clone(good)
		content[i] ^= 1 << random.IntN(8)
		if try(fmt.Sprintf("byte %d flipped", i), content) {
			noticed++
		}
	}
	if noticed < 10 {
		t.Errorf("only %d of 400 flipped bits were noticed", noticed)
	}
	for size := 0; size < len(good); size += 211 {
		if !try(fmt.Sprintf("cut to %d bytes", size), good[:size]) {
			t.Errorf("a file cut from %d to %d bytes was accepted", len(good), size)
		}
	}
}

// What lies on disk while the process runs is what a crash leaves.
func TestCrashLosesNothingThatWasAcknowledged(t *testing.T) {
	signer, verifier := storetest.Key(t)
	path := mustCreate(t)
	l := mustLedger(t, mustStore(t, path), signer, verifier)
	crash := func(walSize int) (size int64) {
		t.Helper()
		image := filepath.Join(t.TempDir(), "ledger.db")
		for _, suffix := range []string{"", "-wal"} {
			content, err := os.ReadFile(path + suffix)
			if err != nil {
				t.Fatal(err)
			}
			if suffix == "-wal" && walSize >= 0 {
				content = content[:min(walSize, len(content))]
			}
			if err := os.WriteFile(image+suffix, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		store := mustStore(t, image)
		after := mustLedger(t, store, signer, verifier)
		report, err := ledger.VerifyStore(t.Context(), store, verifier)
		if err != nil || report.Err() != nil || report.Size != after.Size() {
			t.Fatalf("after a crash: %+v, %v", report, err)
		}
		if err := after.Close(); err != nil {
			t.Fatal(err)
		}
		return report.Size
	}
	for n := range int64(10) {
		if _, err := l.Append(t.Context(), time.Now(), "a", n, nil, draft()); err != nil {
			t.Fatal(err)
		}
		if size := crash(-1); size != n+1 {
			t.Fatalf("after a crash there are %d entries, %d were acknowledged", size, n+1)
		}
	}
	// A write-ahead log that ends anywhere is a shorter history, never a broken one.
	info, err := os.Stat(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	last := int64(0)
	for wal := int(info.Size()); wal >= 0; wal -= int(info.Size())/60 + 1 {
		size := crash(wal)
		if size > 10 || last != 0 && size > last {
			t.Fatalf("a shorter log gave more entries: %d after %d", size, last)
		}
		last = size
	}
}

func TestOpenNeverCreates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	for name, open := range map[string]func() (*sqlstore.Store, error){
		"Open":         func() (*sqlstore.Store, error) { return sqlstore.Open(t.Context(), path) },
		"OpenReadOnly": func() (*sqlstore.Store, error) { return sqlstore.OpenReadOnly(t.Context(), path) },
	} {
		_, err := open()
		if !errors.Is(err, ledger.ErrNotInitialized) || !strings.Contains(err.Error(), "breakglassd init") ||
			!strings.Contains(err.Error(), path) {
			t.Errorf("%s of nothing = %v, want ErrNotInitialized with the path and the command", name, err)
		}
		if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 0 {
			t.Errorf("%s left %v, %v", name, left, err)
		}
	}
}

func TestCreateNeverOverwrites(t *testing.T) {
	path, want := mustSmall(t)
	if err := sqlstore.Create(t.Context(), path); err == nil {
		t.Fatal("Create replaced a ledger")
	}
	if atOpen, atVerify, got := refused(t, path); atOpen != nil || atVerify != nil || !cmp.Equal(want, got) {
		t.Errorf("after a refused Create: %v, %v", atOpen, atVerify)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	// Any file name will do, also one that means something in a URI.
	odd := filepath.Join(t.TempDir(), "a b?mode=memory#%41.db")
	if err := sqlstore.Create(t.Context(), odd); err != nil {
		t.Errorf("Create of an oddly named file = %v", err)
	}
	if _, err := os.Stat(odd); err != nil {
		t.Error(err)
	}
	mustStore(t, odd)
	// A Create that was interrupted is repeated from the start.
	again := filepath.Join(t.TempDir(), "ledger.db")
	if err := os.WriteFile(again+".new", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := sqlstore.Create(t.Context(), again); err != nil {
		t.Errorf("Create after an interrupted one = %v", err)
	}
}

func TestOpenRefusesWhatIsNotALedger(t *testing.T) {
	dir := t.TempDir()
	files := map[string]func(path string){
		"empty": func(path string) {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"text": func(path string) {
			if err := os.WriteFile(path, bytes.Repeat([]byte("no database "), 1000), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"other database": func(path string) { mustExec(t, mustRaw(t, path), `CREATE TABLE t (x)`) },
		"newer schema": func(path string) {
			if err := sqlstore.Create(t.Context(), path); err != nil {
				t.Fatal(err)
			}
			mustExec(t, mustRaw(t, path), `PRAGMA user_version = 999`)
		},
	}
	for name, make := range files {
		path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		make(path)
		if _, err := sqlstore.Open(t.Context(), path); err == nil || name == "newer schema" && !strings.Contains(err.Error(), "999 is newer") {
			t.Errorf("%s: Open = %v", name, err)
		}
		if _, err := sqlstore.OpenReadOnly(t.Context(), path); err == nil {
			t.Errorf("%s: OpenReadOnly gave no error", name)
		}
	}
	if _, err := sqlstore.Open(t.Context(), dir); err == nil {
		t.Error("a directory was opened as a ledger")
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	path := mustCreate(t)
	first := mustStore(t, path)
	if _, err := sqlstore.Open(t.Context(), path); !errors.Is(err, ledger.ErrLocked) || !strings.Contains(err.Error(), path+".lock") {
		t.Errorf("second Open = %v, want ErrLocked naming the lock file", err)
	}
	if err := sqlstore.Create(t.Context(), path); !errors.Is(err, ledger.ErrLocked) {
		t.Errorf("Create beside an open ledger = %v, want ErrLocked", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	mustStore(t, path) // the lock goes with its holder
}

// Where the lock file is not seen, the second process takes over and the first
// one writes no more.
func TestWriterThatWasReplacedIsFenced(t *testing.T) {
	signer, verifier := storetest.Key(t)
	path := mustCreate(t)
	l := mustLedger(t, mustStore(t, path), signer, verifier)
	if _, err := l.Append(t.Context(), time.Now(), "a", 0, nil, draft()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path + ".lock"); err != nil {
		t.Fatal(err)
	}
	second := mustLedger(t, mustStore(t, path), signer, verifier)
	for range 2 {
		if _, err := l.Append(t.Context(), time.Now(), "a", 1, nil, draft()); !errors.Is(err, ledger.ErrLocked) {
			t.Errorf("the replaced writer's Append = %v, want ErrLocked", err)
		}
	}
	if _, err := second.Append(t.Context(), time.Now(), "a", 1, nil, draft()); err != nil {
		t.Errorf("the new writer's Append = %v", err)
	}
}

func TestLiveLedgerIsVerifiedByAnotherReader(t *testing.T) {
	signer, verifier := storetest.Key(t)
	path := mustCreate(t)
	l := mustLedger(t, mustStore(t, path), signer, verifier)
	reader, err := sqlstore.OpenReadOnly(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for n := range int64(5) {
		if _, err := l.Append(t.Context(), time.Now(), "a", n, nil, draft()); err != nil {
			t.Fatal(err)
		}
		report, err := ledger.VerifyStore(t.Context(), reader, verifier)
		if err != nil || report.Err() != nil || report.Size != n+1 {
			t.Fatalf("VerifyStore = %+v, %v, want size %d", report, err, n+1)
		}
	}
	if err := reader.Update(t.Context(), func(ledger.Tx) error { return nil }); !errors.Is(err, ledger.ErrReadOnly) {
		t.Errorf("Update of a reader = %v, want ErrReadOnly", err)
	}
}

func TestErasedTextIsInNoFile(t *testing.T) {
	signer, verifier := storetest.Key(t)
	path := mustCreate(t)
	l := mustLedger(t, mustStore(t, path), signer, verifier)
	secret := "the quick brown fox " + strings.Repeat("jumps ", 2000) // over several pages
	d := draft()
	d.Texts = map[string]string{"why": secret}
	if _, err := l.Append(t.Context(), time.Now(), "a", 0, nil, d); err != nil {
		t.Fatal(err)
	}
	found := func() (n int) {
		for _, suffix := range []string{"", "-wal"} {
			content, err := os.ReadFile(path + suffix)
			if err != nil {
				t.Fatal(err)
			}
			n += bytes.Count(content, []byte("jumps jumps"))
		}
		return n
	}
	if found() == 0 {
		t.Fatal("the text is not found even before it is erased")
	}
	if err := l.Erase(t.Context(), 0, "why"); err != nil {
		t.Fatal(err)
	}
	if n := found(); n != 0 {
		t.Errorf("the erased text is still found %d times", n)
	}
}

func TestFullDiskFailsTheWriteAndNothingElse(t *testing.T) {
	signer, verifier := storetest.Key(t)
	path := mustCreate(t)
	store := mustStore(t, path)
	l := mustLedger(t, store, signer, verifier)
	pages := func(n int) {
		t.Helper()
		if err := store.LimitPages(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	pages(1) // SQLite makes that the present size
	var n int64
	var err error
	for n = 0; err == nil; n++ {
		if n > 1000 {
			t.Fatal("the limit has no effect")
		}
		_, err = l.Append(t.Context(), time.Now(), "a", n, nil, draft())
	}
	if !strings.Contains(err.Error(), "free some space") || errors.Is(err, ledger.ErrUnknownOutcome) {
		t.Fatalf("Append on a full disk = %v, want advice and a certain outcome", err)
	}
	size := l.Size()
	if report, err := ledger.VerifyStore(t.Context(), store, verifier); err != nil || report.Err() != nil || report.Size != size ||
		size != n-1 {
		t.Fatalf("after a full disk: %+v, %v, size %d, want %d", report, err, size, n-1)
	}
	pages(1 << 20)
	if _, err := l.Append(t.Context(), time.Now(), "a", size, nil, draft()); err != nil {
		t.Errorf("Append after space was freed = %v", err)
	}
}

func TestBackupOfALiveLedgerIsALedger(t *testing.T) {
	signer, verifier := storetest.Key(t)
	path := mustCreate(t)
	store := mustStore(t, path)
	l := mustLedger(t, store, signer, verifier)
	mustFill(t, l, 30)
	anchor, err := l.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	backup := filepath.Join(t.TempDir(), "copy.db")
	if err := store.Backup(t.Context(), backup); err != nil {
		t.Fatal(err)
	}
	if err := store.Backup(t.Context(), backup); err == nil {
		t.Error("a backup was overwritten")
	}
	copied := mustStore(t, backup)
	report, err := ledger.VerifyStore(t.Context(), copied, verifier, anchor)
	if err != nil || report.Err() != nil || report.Size != 30 {
		t.Fatalf("the backup: %+v, %v", report, err)
	}
	restored := mustLedger(t, copied, signer, verifier)
	if _, err := restored.Append(t.Context(), time.Now(), "new", 0, nil, draft()); err != nil {
		t.Errorf("Append to a restored ledger = %v", err)
	}
	if _, err := mustRaw(t, backup).Exec(`DELETE FROM ledger_entry`); err == nil {
		t.Error("the backup has lost its triggers")
	}
	var mode string
	if err := mustRaw(t, backup).QueryRow(`PRAGMA journal_mode`).Scan(&mode); err != nil || mode != "wal" {
		t.Errorf("the restored ledger has journal mode %q, %v, want wal", mode, err)
	}
}

// The domain tests on fake time; nothing here may keep a bubble from ending.
func TestLedgerRunsOnFakeTime(t *testing.T) {
	signer, verifier := storetest.Key(t)
	path := mustCreate(t)
	synctest.Test(t, func(t *testing.T) {
		store, err := sqlstore.Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		l, err := ledger.Open(t.Context(), store, signer, verifier)
		if err != nil {
			t.Fatal(err)
		}
		var times []time.Time
		for n := range int64(3) {
			entries, err := l.Append(t.Context(), time.Now(), "a", n, nil, draft())
			if err != nil {
				t.Fatal(err)
			}
			times = append(times, entries[0].Time)
			time.Sleep(24 * time.Hour)
		}
		if days := times[2].Sub(times[0]); days != 48*time.Hour {
			t.Errorf("two days took %s", days)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := l.Wait(ctx, 3); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wait = %v, want DeadlineExceeded", err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestStoreChangedUnderARunningLedgerStopsIt(t *testing.T) {
	signer, verifier := storetest.Key(t)
	for _, test := range []struct {
		name, script string
		want         error
	}{
		{"rolled back", `DELETE FROM ledger_entry WHERE seq = 3;
			UPDATE ledger_head SET (size, root, time, note) = (SELECT size, root, time, note FROM old)`, ledger.ErrForked},
		{"forked", `UPDATE ledger_head SET root = zeroblob(32)`, ledger.ErrForked},
		{"a hash flipped", `UPDATE ledger_entry SET hashes = zeroblob(length(hashes)) WHERE seq = 3`, ledger.ErrCorrupt},
	} {
		path := mustCreate(t)
		l := mustLedger(t, mustStore(t, path), signer, verifier)
		db := mustRaw(t, path)
		dropTriggers(t, db)
		for n := range int64(4) {
			if n == 3 {
				mustExec(t, db, `CREATE TABLE old AS SELECT * FROM ledger_head`)
			}
			if _, err := l.Append(t.Context(), time.Now(), "a", n, nil, draft()); err != nil {
				t.Fatal(err)
			}
		}
		mustExec(t, db, test.script)
		for range 2 { // the second answer is remembered
			if _, err := l.Append(t.Context(), time.Now(), "a", ledger.AnyVersion, nil, draft()); !errors.Is(err, test.want) {
				t.Errorf("%s: Append = %v, want %v", test.name, err, test.want)
			}
		}
	}
}

func TestUnsoundLedgerIsNotExported(t *testing.T) {
	_, verifier := storetest.Key(t)
	path, _ := mustSmall(t)
	store, err := sqlstore.OpenReadOnly(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.OpenReadOnly(t.Context(), store, verifier)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	db := mustRaw(t, path)
	dropTriggers(t, db)
	mustExec(t, db, `UPDATE ledger_text SET text = x'41' WHERE seq = 0`)
	parent := t.TempDir()
	if err := ledger.Export(t.Context(), l, filepath.Join(parent, "export")); !errors.Is(err, ledger.ErrCorrupt) {
		t.Errorf("Export = %v, want ErrCorrupt", err)
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) != 0 {
		t.Errorf("a refused export left %v, %v", left, err)
	}
	if _, err := l.Stream(t.Context(), "a"); !errors.Is(err, ledger.ErrCorrupt) {
		t.Errorf("Stream = %v, want ErrCorrupt", err)
	}
}
