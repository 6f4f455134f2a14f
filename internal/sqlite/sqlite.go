// Package sqlite opens SQLite files: one writer and some readers, with everything set that guards a file against accidents; the lock
// that keeps a second writer out; and the tables, made once and brought up to date by each release that changes them.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"

	"github.com/gofrs/flock"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// FileMode is the mode of a database and of the files beside it: for their owner only.
const FileMode = 0o600

var (
	// ErrLocked says that another process has the file open for writing.
	ErrLocked = errors.New("another process has the file open; stop that one first")

	// ErrForeign says that a file is not of the format that was asked for, or that its header is damaged.
	ErrForeign = errors.New("the file is of another kind, or its header is damaged")

	// ErrDamaged says that SQLite cannot make sense of the file.
	ErrDamaged = errors.New("the file is damaged, or no database")
)

// Lock takes the lock that makes this process the only one that writes the file at path, or returns an error that wraps ErrLocked.
// The lock is a file beside it, path with ".lock" behind. That file stays when the lock is closed or its holder dies: removing it
// could unlock another.
func Lock(path string) (*flock.Flock, error) {
	lock := flock.New(path+".lock", flock.SetPermissions(FileMode))
	switch ok, err := lock.TryLock(); {
	case err != nil:
		return nil, fmt.Errorf("locking %s.lock; check the owner and mode of its directory, and the mount: %w", path, err)
	case !ok:
		return nil, fmt.Errorf("%w (it holds %s.lock)", ErrLocked, path)
	}
	return lock, nil
}

// Writer returns the one connection that writes a file, which must exist. A transaction begins as a writing one, and is on disk when
// its commit returns. Further pragmas are written as in synchronous(FULL).
func Writer(path string, pragmas ...string) (*sql.DB, error) { return connect(path, "rw", 1, pragmas) }

// Readers returns a pool of at most n connections that read a file, which must exist.
func Readers(path string, n int, pragmas ...string) (*sql.DB, error) {
	return connect(path, "ro", n, pragmas)
}

// connect sets what guards against accidents: full durability, constraints and triggers that always hold, no double-quoted strings
// taken for names, no tricks with the schema, and a check of each page that is read.
func connect(path, mode string, n int, pragmas []string) (*sql.DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	query := url.Values{"mode": {mode}, "_txlock": {"immediate"}, "_defensive": {"1"}, "_dqs": {"0"}}
	query["_pragma"] = append([]string{"busy_timeout(5000)", "synchronous(FULL)", "foreign_keys(1)", "recursive_triggers(1)",
		"trusted_schema(0)", "cell_size_check(1)"}, pragmas...)
	dsn := url.URL{Scheme: "file", Path: filepath.ToSlash(abs), RawQuery: query.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	return db, nil
}

// A Format is what a file holds: the tables of its newest version, and how older files get there.
type Format struct {
	ID       int32    // marks the file in SQLite's header
	Schema   string   // makes the tables of the newest version in an empty file
	Upgrades []string // the first leads from version 1 to 2, the next from 2 to 3
}

// Version is the version that Schema makes.
func (f Format) Version() int { return len(f.Upgrades) + 1 }

// VersionOf returns the version of a file's tables, 0 if the file is empty. A file of another format is refused with ErrForeign, and
// so is one that a later release wrote.
func (f Format) VersionOf(ctx context.Context, db *sql.DB) (int, error) {
	var id int32
	var version, tables int
	row := db.QueryRowContext(ctx, `SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version),
		(SELECT count(*) FROM sqlite_schema)`)
	if err := row.Scan(&id, &version, &tables); err != nil {
		return 0, Explain(err)
	}
	switch {
	case id == 0 && version == 0 && tables == 0:
		return 0, nil
	case id != f.ID || version < 1:
		return 0, ErrForeign
	case version > f.Version():
		return 0, fmt.Errorf("its schema version %d is newer than this program's %d: use the release that wrote it, or a later one", version,
			f.Version())
	}
	return version, nil
}

// Migrate makes the tables of an empty file and brings those of an older release up to date, one version after the other, each in its
// own transaction together with the new version's number. It also puts the file in WAL mode, in which readers see consistent states
// and neither wait for the writer nor hold it up. What VersionOf refuses is refused, and not touched. The caller holds the lock.
func (f Format) Migrate(ctx context.Context, db *sql.DB) error {
	version, err := f.VersionOf(ctx, db)
	if err != nil {
		return err
	}
	if _, err := db.ExecContext(ctx, "PRAGMA journal_mode = WAL"); err != nil {
		return Explain(err)
	}
	if version == 0 {
		return f.step(ctx, db, f.Schema, f.Version())
	}
	for ; version < f.Version(); version++ {
		if err := f.step(ctx, db, f.Upgrades[version-1], version+1); err != nil {
			return fmt.Errorf("bringing its schema from version %d to %d: %w", version, version+1, err)
		}
	}
	return nil
}

func (f Format) step(ctx context.Context, db *sql.DB, statements string, version int) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return Explain(err)
	}
	defer tx.Rollback()
	_, err = tx.ExecContext(ctx, statements+fmt.Sprintf("\n;PRAGMA application_id = %d; PRAGMA user_version = %d", f.ID, version))
	if err != nil {
		return Explain(err)
	}
	return Explain(tx.Commit())
}

// Code returns SQLite's primary result code of an error, 0 if it has none.
func Code(err error) int {
	if e := (*sqlite.Error)(nil); errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return 0
}

// Explain adds to SQLite's words what they mean for the operator. What SQLite says of a file that it cannot read as a database wraps
// ErrDamaged. Any other error is returned as it is.
func Explain(err error) error {
	switch Code(err) {
	case sqlite3.SQLITE_FULL:
		return fmt.Errorf("the disk or the database is full; free some space: %w", err)
	case sqlite3.SQLITE_IOERR:
		return fmt.Errorf("the disk failed to read or write; check the disk and the system log: %w", err)
	case sqlite3.SQLITE_READONLY:
		return fmt.Errorf("the database is read-only; check the mount and the owner and mode of the files: %w", err)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return fmt.Errorf("another program holds a lock on the database; stop it: %w", err)
	case sqlite3.SQLITE_CANTOPEN:
		return fmt.Errorf("the database cannot be opened; check the owner and mode of the files and their directory, and the mount: %w", err)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}
