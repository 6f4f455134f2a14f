package sqlite_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/internal/sqlite"
)

// The format of these tests, as three releases wrote it.
var (
	first  = sqlite.Format{ID: 0x74657374, Schema: "CREATE TABLE note (line TEXT NOT NULL) STRICT"}
	second = sqlite.Format{ID: first.ID, Schema: "CREATE TABLE note (line TEXT NOT NULL, at INTEGER NOT NULL DEFAULT 0) STRICT",
		Upgrades: []string{"ALTER TABLE note ADD COLUMN at INTEGER NOT NULL DEFAULT 0"}}
	third = sqlite.Format{ID: first.ID, Schema: second.Schema + "; CREATE INDEX note_at ON note (at); -- the newest",
		Upgrades: []string{second.Upgrades[0], "CREATE INDEX note_at ON note (at);"}}
)

// open is how a program opens its file: lock, writer, tables, readers.
func open(ctx context.Context, f sqlite.Format, path string) (write, read *sql.DB, closeAll func() error, err error) {
	lock, err := sqlite.Lock(path)
	if err != nil {
		return nil, nil, nil, err
	}
	if write, err = sqlite.Writer(path); err == nil {
		_, err = write.ExecContext(ctx, "PRAGMA busy_timeout = 1") // no holder of a lock lets go in these tests
		if err = sqlite.Explain(err); err == nil {
			err = f.Migrate(ctx, write)
		}
	}
	if err == nil {
		read, err = sqlite.Readers(path, 2)
	}
	closeAll = func() error {
		var errs []error
		for _, db := range []*sql.DB{read, write} {
			if db != nil {
				errs = append(errs, db.Close())
			}
		}
		return errors.Join(append(errs, lock.Close())...)
	}
	if err != nil {
		return nil, nil, nil, errors.Join(err, closeAll())
	}
	return write, read, closeAll, nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// written makes a file of a format that holds one line, and leaves it closed.
func written(t *testing.T, f sqlite.Format, path string) {
	t.Helper()
	must(t, os.WriteFile(path, nil, sqlite.FileMode))
	write, _, done, err := open(t.Context(), f, path)
	must(t, err)
	exec(t, write, "INSERT INTO note (line) VALUES ('kept')")
	must(t, done())
}

func exec(t *testing.T, db *sql.DB, statement string) {
	t.Helper()
	if _, err := db.Exec(statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// raw opens a file as any other program would, without what this package sets.
func raw(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path}).String())
	must(t, err)
	t.Cleanup(func() { db.Close() })
	return db
}

// One row for each file that a program may find where its own should be.
func TestOpeningAFile(t *testing.T) {
	for _, test := range []struct {
		name  string
		file  func(t *testing.T, path string)
		lines int    // that are read; the file opens
		want  error  // or the error that it is refused with
		says  string // and what that error says
	}{
		{name: "an empty file", file: func(t *testing.T, path string) { must(t, os.WriteFile(path, nil, 0o600)) }},
		{name: "an empty database", file: func(t *testing.T, path string) {
			exec(t, raw(t, path), "PRAGMA journal_mode = WAL")
		}},
		{name: "of this release", file: func(t *testing.T, path string) { written(t, third, path) }, lines: 1},
		{name: "of the release before", file: func(t *testing.T, path string) { written(t, second, path) }, lines: 1},
		{name: "of the first release", file: func(t *testing.T, path string) { written(t, first, path) }, lines: 1},
		{name: "left by a process that died, its write-ahead log beside it", file: func(t *testing.T, path string) {
			running := filepath.Join(t.TempDir(), "running.db")
			written(t, third, running)
			write, _, done, err := open(t.Context(), third, running)
			must(t, err)
			exec(t, write, "INSERT INTO note (line) VALUES ('in the write-ahead log')")
			for _, suffix := range []string{"", "-wal"} {
				content, err := os.ReadFile(running + suffix)
				must(t, err)
				if len(content) == 0 {
					t.Fatalf("%s is empty: this row proves nothing", running+suffix)
				}
				must(t, os.WriteFile(path+suffix, content, 0o600))
			}
			must(t, done())
		}, lines: 2},
		{name: "of a process that died in the middle of a write", file: func(t *testing.T, path string) {
			written(t, third, path)
			must(t, os.WriteFile(path+"-wal", []byte("half a frame"), 0o600))
		}, lines: 1},
		{name: "under a name that means something in a URI", file: func(t *testing.T, path string) { written(t, third, path) }, lines: 1},
		{name: "missing", file: func(*testing.T, string) {}, says: "check the owner and mode"},
		{name: "a directory", file: func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o700)) }, says: "check the owner and mode"},
		{name: "in no directory", file: func(t *testing.T, path string) { must(t, os.RemoveAll(filepath.Dir(path))) }, says: "no such file"},
		{name: "of a later release", file: func(t *testing.T, path string) {
			written(t, third, path)
			exec(t, raw(t, path), "PRAGMA user_version = 4")
		}, says: "version 4 is newer than this program's 3: use the release that wrote it"},
		{name: "of another program", file: func(t *testing.T, path string) {
			written(t, sqlite.Format{ID: 7, Schema: first.Schema}, path)
		}, want: sqlite.ErrForeign},
		{name: "of a program that does not mark its files", file: func(t *testing.T, path string) {
			exec(t, raw(t, path), "CREATE TABLE t (x)")
		}, want: sqlite.ErrForeign},
		{name: "marked, and of no version", file: func(t *testing.T, path string) {
			written(t, third, path)
			exec(t, raw(t, path), "PRAGMA user_version = 0")
		}, want: sqlite.ErrForeign},
		{name: "text", file: func(t *testing.T, path string) {
			must(t, os.WriteFile(path, bytes.Repeat([]byte("no database "), 1000), 0o600))
		}, want: sqlite.ErrDamaged},
		{name: "damaged", file: func(t *testing.T, path string) {
			written(t, third, path)
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			must(t, err)
			_, err = f.WriteAt(bytes.Repeat([]byte{0xff}, 200), 100) // the list of tables, behind the header
			must(t, errors.Join(err, f.Close()))
		}, want: sqlite.ErrDamaged},
		{name: "open in another process", file: func(t *testing.T, path string) {
			written(t, third, path)
			_, _, done, err := open(t.Context(), third, path)
			must(t, err)
			t.Cleanup(func() { must(t, done()) })
		}, want: sqlite.ErrLocked, says: ".lock"},
		{name: "held by a program that does not know the lock", file: func(t *testing.T, path string) {
			written(t, first, path)
			conn, err := raw(t, path).Conn(t.Context())
			must(t, err)
			_, err = conn.ExecContext(t.Context(), "BEGIN IMMEDIATE; INSERT INTO note VALUES ('held')")
			must(t, err)
			t.Cleanup(func() { conn.Close() })
		}, says: "another program holds a lock on the database; stop it"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a b?mode=memory#%41", "file.db")
			must(t, os.Mkdir(filepath.Dir(path), 0o700))
			test.file(t, path)
			before, _ := os.ReadFile(path)
			write, read, done, err := open(t.Context(), third, path)
			if test.want != nil || test.says != "" {
				if err == nil || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
					t.Errorf("got error %v, want %v that says %q", err, test.want, test.says)
				}
				if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
					t.Error("the file was refused and changed")
				}
				return
			}
			must(t, err)
			defer func() { must(t, done()) }()
			for name, db := range map[string]*sql.DB{"writer": write, "readers": read} {
				lines := 0
				if err := db.QueryRow("SELECT count(*) FROM note INDEXED BY note_at").Scan(&lines); err != nil || lines != test.lines {
					t.Errorf("the %s see %d lines, %v, want %d", name, lines, err, test.lines)
				}
				if v, err := third.VersionOf(t.Context(), db); v != 3 || err != nil {
					t.Errorf("the %s see version %d, %v, want 3", name, v, err)
				}
			}
			if _, err := read.Exec("DELETE FROM note"); err == nil || !strings.Contains(sqlite.Explain(err).Error(), "read-only") {
				t.Errorf("a reader deleted lines: %v", err)
			}
		})
	}
}

// What fails half-way leaves the version that was there, and works once the cause is gone.
func TestUpgradeThatFailsChangesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file.db")
	written(t, first, path)
	broken := third
	broken.Upgrades = []string{third.Upgrades[0], "CREATE INDEX note_at ON note (at); no statement"}
	if _, _, _, err := open(t.Context(), broken, path); err == nil || !strings.Contains(err.Error(), "from version 2 to 3") {
		t.Fatalf("got %v, want the step that failed", err)
	}
	db := raw(t, path)
	if v, err := third.VersionOf(t.Context(), db); v != 2 || err != nil {
		t.Errorf("got version %d, %v, want 2: that step was complete", v, err)
	}
	write, _, done, err := open(t.Context(), third, path)
	must(t, err)
	exec(t, write, "INSERT INTO note (line) SELECT line FROM note INDEXED BY note_at")
	must(t, done())
}

// A reader sees what was committed before it began, while the writer goes on.
func TestReadersDoNotWaitForTheWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file.db")
	written(t, third, path)
	write, read, done, err := open(t.Context(), third, path)
	must(t, err)
	defer func() { must(t, done()) }()
	tx, err := write.Begin()
	must(t, err)
	_, err = tx.Exec("INSERT INTO note (line) VALUES ('not yet')")
	must(t, err)
	lines := 0
	if err := read.QueryRow("SELECT count(*) FROM note").Scan(&lines); err != nil || lines != 1 {
		t.Errorf("beside an open transaction: %d lines, %v, want 1", lines, err)
	}
	must(t, tx.Commit())
	if err := read.QueryRow("SELECT count(*) FROM note").Scan(&lines); err != nil || lines != 2 {
		t.Errorf("after the commit: %d lines, %v, want 2", lines, err)
	}
}

// The settings hold on every connection: what they forbid is refused.
func TestEveryConnectionIsGuarded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file.db")
	written(t, third, path)
	write, read, done, err := open(t.Context(), third, path)
	must(t, err)
	defer func() { must(t, done()) }()
	for _, db := range []*sql.DB{write, read} {
		for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "recursive_triggers": "1",
			"trusted_schema": "0", "cell_size_check": "1"} {
			var got string
			if err := db.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
				t.Errorf("%s is %q, %v, want %q", pragma, got, err, want)
			}
		}
		var line string
		if err := db.QueryRow(`SELECT "kept" FROM note`).Scan(&line); err == nil {
			t.Errorf("a name in double quotes that does not exist is read as the string %q", line)
		}
		if n := db.Stats().MaxOpenConnections; n != 1 && n != 2 {
			t.Errorf("got at most %d connections", n)
		}
	}
	exec(t, write, "PRAGMA writable_schema = 1")
	if _, err := write.Exec("DELETE FROM sqlite_schema"); err == nil {
		t.Error("the schema was written by hand")
	}
}
