// Package sqlstore keeps a ledger in one SQLite database file.
//
// There is one writing connection and a small pool of reading ones. The
// database is in WAL mode with synchronous=FULL: a transaction is on disk when
// its commit returns, and readers see consistent snapshots that neither wait
// for the writer nor hold it up. The tables refuse, by triggers that are part
// of the file, every statement that is not an append; see schema.
//
// Only one process may write. [Open] takes a lock on a file beside the
// database, and in addition a writer number inside it, which every transaction
// checks; so a second process that does not see the lock, on a network file
// system or in another container, ends the first one's writing instead of
// joining in. Any number of processes may read.
package sqlstore

import (
	"context"
	"database/sql"
	_ "embed" // the schema
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/gofrs/flock"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/breakglassd/breakglass/internal/disk"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/sqlite"
)

//go:embed schema.sql
var schema string

// format is that of a ledger's file: "bgld".
var format = sqlite.Format{ID: 0x62676c64, Schema: schema}

// erase has SQLite overwrite what is deleted, so that an erased text is in no file.
const erase = "secure_delete(1)"

const (
	// readers bounds the reading connections. Each has its own page cache of
	// about 2 MB; more than a few only compete for the disk.
	readers = 8

	// quickCheckLimit is the file size up to which opening also checks the
	// physical integrity of the file, which takes time in proportion: about
	// 0.2 s at this size. Larger files are left to verification, because
	// starting must not take longer the longer the history is.
	quickCheckLimit = 64 << 20
)

// A Store is one open database. It implements [ledger.Store].
type Store struct {
	path  string
	read  *sql.DB
	write *sql.DB      // one connection; nil if read-only
	lock  *flock.Flock // nil if read-only

	writing    sync.Mutex // held for the whole of Update, Scrub and KeepRoom: there is one writer at a time
	number     int64      // the writer number this process took
	reserve    *disk.Reserve
	statements statements
}

// Create makes a new, empty ledger at path and leaves it closed. It never
// touches a file that exists. When it returns nil, the file is complete and
// durable; when it does not, there is no file at path.
func Create(ctx context.Context, path string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("creating ledger %s: %w", path, err)
		}
	}()
	lock, err := takeLock(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return errors.New("there is a file already, and a ledger is never overwritten; " +
			"to begin a new one, move the old one away and keep it")
	}
	// A crash before the rename leaves files that the next call removes.
	tmp := path + ".new"
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(tmp + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, sqlite.FileMode)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := fill(ctx, tmp); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return ledger.SyncDir(filepath.Dir(path))
}

// fill turns an empty file into a database with the current schema.
func fill(ctx context.Context, path string) (err error) {
	db, err := sqlite.Writer(path, erase)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, explain(db.Close())) }()
	if err := format.Migrate(ctx, db); err != nil {
		return damaged(err)
	}
	root := ledger.EmptyRoot()
	_, err = db.ExecContext(ctx, `INSERT INTO ledger_head (id, size, root, time, note) VALUES (1, 0, ?, ?, x'')`,
		root[:], formatTime(ledger.Head{}.Time))
	return explain(err)
}

// Open opens a ledger for reading and writing. It never creates one: if there is
// none, the error wraps [ledger.ErrNotInitialized]. If another process has it
// open for writing, the error wraps [ledger.ErrLocked]. A schema older than this
// program's is brought up to date; a newer one is refused.
func Open(ctx context.Context, path string) (*Store, error) {
	if err := mustExist(path); err != nil {
		return nil, err
	}
	lock, err := takeLock(path)
	if err != nil {
		return nil, fmt.Errorf("opening ledger %s: %w", path, err)
	}
	reserve := disk.NewReserve(path+reserveSuffix, reserveSize, reserveSlice)
	for {
		s := &Store{path: path, lock: lock, reserve: reserve}
		s.makeRoom()
		if err = s.openWrite(ctx); err == nil {
			return s, nil
		}
		err = errors.Join(fmt.Errorf("opening ledger %s: %w", path, err), s.closeDatabases())
		if !wantsRoom(err) || !reserve.Give() {
			return nil, errors.Join(err, lock.Close())
		}
	}
}

// OpenReadOnly opens a ledger for reading, whether or not another process writes
// to it. Updates are refused with [ledger.ErrReadOnly].
func OpenReadOnly(ctx context.Context, path string) (*Store, error) {
	if err := mustExist(path); err != nil {
		return nil, err
	}
	s := &Store{path: path}
	if err := s.openRead(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("opening ledger %s for reading: %w", path, err), s.Close())
	}
	return s, nil
}

func mustExist(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("ledger %s: %w: run `breakglassd init` to create a first one; "+
			"if there was one, its volume may be missing: bring it back or restore a backup instead", path, ledger.ErrNotInitialized)
	}
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("ledger %s is not a regular file", path)
	}
	return nil
}

// takeLock takes the lock that makes this the only writing process.
func takeLock(path string) (*flock.Flock, error) {
	lock, err := sqlite.Lock(path)
	if errors.Is(err, sqlite.ErrLocked) {
		return nil, fmt.Errorf("%w (it holds %s.lock)", ledger.ErrLocked, path)
	}
	return lock, err
}

func (s *Store) openWrite(ctx context.Context) error {
	var err error
	if s.write, err = sqlite.Writer(s.path, erase); err != nil {
		return err
	}
	if _, err := identify(ctx, s.write); err != nil {
		return err
	}
	if err := format.Migrate(ctx, s.write); err != nil {
		return damaged(err)
	}
	if err := s.openRead(ctx); err != nil {
		return err
	}
	info, err := os.Stat(s.path)
	if err != nil {
		return err
	}
	if info.Size() <= quickCheckLimit {
		if err := s.Check(ctx); err != nil {
			return err
		}
	}
	row := s.write.QueryRowContext(ctx, `UPDATE ledger_writer SET number = number + 1 WHERE id = 1 RETURNING number`)
	if err := row.Scan(&s.number); err != nil {
		return fmt.Errorf("becoming the writer: %w", explain(err))
	}
	return nil
}

func (s *Store) openRead(ctx context.Context) error {
	var err error
	if s.read, err = sqlite.Readers(s.path, readers); err != nil {
		return err
	}
	version, err := identify(ctx, s.read)
	if err != nil {
		return err
	}
	if version < format.Version() {
		return fmt.Errorf("its schema version %d is older than this program's %d: start the daemon of this release once", version,
			format.Version())
	}
	return s.statements.prepare(ctx, s.read, s.write)
}

// identify returns the schema version of a file and refuses one that is not a
// ledger or is from the future. An empty file is not a ledger: it was one.
func identify(ctx context.Context, db *sql.DB) (version int, err error) {
	version, err = format.VersionOf(ctx, db)
	if errors.Is(err, sqlite.ErrForeign) || err == nil && version == 0 {
		return 0, fmt.Errorf("%w: the file is not a ledger, or its header is damaged", ledger.ErrCorrupt)
	}
	return version, damaged(err)
}

func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

// Update implements [ledger.Store].
func (s *Store) Update(ctx context.Context, fn func(ledger.Tx) error) (err error) {
	if s.write == nil {
		return ledger.ErrReadOnly
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// A transaction that has begun runs to its end, so that a caller who leaves
	// cannot make the outcome unknown. It is short, and the disk is local.
	ctx = context.WithoutCancel(ctx)
	s.writing.Lock()
	defer s.writing.Unlock()
	s.makeRoom()
	if err = s.transact(ctx, fn); sqlite.Code(err) != sqlite3.SQLITE_FULL || !s.reserve.Give() {
		return err
	}
	return s.undone(ctx, err)
}

// transact runs fn in one transaction.
func (s *Store) transact(ctx context.Context, fn func(ledger.Tx) error) (err error) {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("beginning a transaction: %w", explain(err))
	}
	defer func() {
		if err != nil {
			// If it fails, SQLite has rolled back already. Should a transaction be
			// left open all the same, the next BEGIN says so.
			_ = tx.Rollback()
		}
	}()
	t := &txn{view: view{ctx: ctx, tx: tx, st: s.statements.write}}
	var number int64
	if err := t.row(t.st.writer).Scan(&number); err != nil {
		return explain(err)
	}
	if number != s.number {
		return fmt.Errorf("%w (it became writer %d of %s, this one is %d)", ledger.ErrLocked, number, s.path, s.number)
	}
	if err := fn(t); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		// A commit that was refused for want of a lock has written nothing. After
		// any other failure the commit record may or may not reach the disk, and
		// only reading the file anew, after a restart, tells which.
		if sqlite.Code(err) == sqlite3.SQLITE_BUSY {
			return fmt.Errorf("committing: %w", explain(err))
		}
		return fmt.Errorf("%w: committing: %w", ledger.ErrUnknownOutcome, explain(err))
	}
	return nil
}

// View implements [ledger.Store].
func (s *Store) View(ctx context.Context, fn func(ledger.View) error) (err error) {
	conn, err := s.read.Conn(ctx)
	if err != nil {
		return fmt.Errorf("waiting for a reading connection: %w", explain(err))
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	// The statements of a view do not carry ctx, because the driver would start a
	// goroutine for each to watch it. Iterations look at ctx themselves.
	tx, err := conn.BeginTx(context.WithoutCancel(ctx), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return fmt.Errorf("beginning to read: %w", explain(err))
	}
	defer func() { err = errors.Join(err, ignoreDone(tx.Rollback())) }() // nothing to commit
	return fn(&view{ctx: ctx, tx: tx, st: s.statements.read})
}

// Check implements [ledger.Store] with SQLite's own integrity check.
func (s *Store) Check(ctx context.Context) error {
	rows, err := s.read.QueryContext(ctx, `PRAGMA quick_check(20)`)
	if err != nil {
		return explain(err)
	}
	defer rows.Close()
	var problems []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return explain(err)
		}
		if line != "ok" {
			problems = append(problems, line)
		}
	}
	if err := rows.Err(); err != nil {
		return explain(err)
	}
	if len(problems) > 0 {
		return fmt.Errorf("%w: SQLite found: %s", ledger.ErrCorrupt, strings.Join(problems, "; "))
	}
	return nil
}

// Scrub implements [ledger.Store]. Erased bytes are overwritten in the database
// file by secure_delete; what is left to do is to empty the write-ahead log.
func (s *Store) Scrub(ctx context.Context) error {
	if s.write == nil {
		return ledger.ErrReadOnly
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	var busy, pages, moved int
	row := s.write.QueryRowContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`)
	if err := row.Scan(&busy, &pages, &moved); err != nil {
		return fmt.Errorf("emptying the write-ahead log: %w", explain(err))
	}
	if busy != 0 {
		return errors.New("emptying the write-ahead log: a reader has been using it for too long")
	}
	return nil
}

// Backup writes a consistent copy of the ledger to a new file while it is in
// use. The copy is durable when Backup returns nil, and verifies like the
// original. It holds every text not yet erased.
func (s *Store) Backup(ctx context.Context, path string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("backing up ledger %s to %s: %w", s.path, path, err)
		}
	}()
	// VACUUM INTO fills an empty file but refuses any other, so this reserves the
	// name and sets the mode.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, sqlite.FileMode)
	if err != nil {
		return err
	}
	if _, err := s.read.ExecContext(ctx, `VACUUM INTO ?`, path); err != nil {
		return errors.Join(explain(err), f.Close(), os.Remove(path))
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return ledger.SyncDir(filepath.Dir(path))
}

// Close implements [ledger.Store].
func (s *Store) Close() error {
	err := s.closeDatabases()
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
	}
	return err
}

func (s *Store) closeDatabases() error {
	var errs []error
	if s.read != nil {
		errs = append(errs, s.read.Close())
	}
	// The writer last: it empties the write-ahead log into the database file.
	if s.write != nil {
		errs = append(errs, s.write.Close())
	}
	return errors.Join(errs...)
}

// explain adds to SQLite's words what they mean for the operator of a ledger.
func explain(err error) error { return damaged(sqlite.Explain(err)) }

// damaged says of a file that SQLite cannot read what that is of a ledger.
func damaged(err error) error {
	if errors.Is(err, sqlite.ErrDamaged) {
		return fmt.Errorf("%w: %w", ledger.ErrCorrupt, err)
	}
	return err
}
