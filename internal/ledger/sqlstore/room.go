package sqlstore

import (
	"context"
	"errors"
	"fmt"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/breakglassd/breakglass/internal/disk"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/sqlite"
)

// A full disk must not take revocations away. A file beside the ledger holds room in reserve, which is given back slice by slice as
// writes need it. In addition the database and its write-ahead log are made larger than they need to be, since what is given back on
// a full disk may be taken by whatever filled it.
const (
	reserveSuffix = ".reserve"
	reserveSize   = 16 << 20
	reserveSlice  = 2 << 20

	// roomLeast is how much must be free before a write begins: more than one group of writes is likely to need.
	roomLeast = 1 << 20

	// ownPages is how many free pages of 4 KiB the database has, for entries that need no room of the disk. The write-ahead log
	// grows as much when they are made. It is what the log may grow to before SQLite empties it.
	ownPages = 1000
)

// makeRoom gives back a slice of the reserve if the disk is about to be full. Called with writing held, or before another goroutine can.
func (s *Store) makeRoom() {
	if free, err := disk.Free(s.path); err == nil && free < roomLeast {
		s.reserve.Give()
	}
}

// wantsRoom reports whether an error may come of a full disk. SQLite says so of the files that hold data only.
func wantsRoom(err error) bool {
	switch sqlite.Code(err) {
	case sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN:
		return true
	}
	return false
}

// undone makes it true also after a crash that a transaction which found the disk full has written nothing. SQLite has rolled it
// back, but frames of it may be in the write-ahead log, its commit among them. The next transaction overwrites them: this one, in the
// room that was made. The error wraps ledger.ErrRoomMade if that succeeded.
func (s *Store) undone(ctx context.Context, full error) error {
	var number int64
	row := s.write.QueryRowContext(ctx, `UPDATE ledger_writer SET number = number + 1 WHERE id = 1 AND number = ? RETURNING number`, s.number)
	if err := row.Scan(&number); err != nil {
		return errors.Join(full, fmt.Errorf("writing in the room that was kept in reserve: %w", explain(err)))
	}
	s.number = number
	return fmt.Errorf("%w: %s", ledger.ErrRoomMade, full.Error()) // no more of an unknown outcome
}

// KeepRoom takes back into the reserve what was given up, once there is room, and makes the ledger's own files larger. It returns
// nil when both are whole; otherwise nothing new should be taken in. It is to be called from time to time.
func (s *Store) KeepRoom(ctx context.Context) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.reserve.Take(); err != nil {
		return err
	}
	free, err := disk.Free(s.path)
	if err != nil {
		return err
	}
	if free < reserveSize {
		return fmt.Errorf("the disk of %s has %s left", s.path, disk.MiB(free))
	}
	return s.grow(ctx)
}

// grow gives the database free pages of its own. They hold zeros, and nothing else ever gets the room.
func (s *Store) grow(ctx context.Context) error {
	var pages, size int64
	row := s.write.QueryRowContext(ctx, `SELECT (SELECT freelist_count FROM pragma_freelist_count), (SELECT page_size FROM pragma_page_size)`)
	if err := row.Scan(&pages, &size); err != nil {
		return fmt.Errorf("counting free pages: %w", explain(err))
	}
	if pages >= ownPages/2 {
		return nil
	}
	const key = "room"
	fill := `INSERT INTO ledger_bookmark (key, value) VALUES (?, zeroblob(?)) ON CONFLICT (key) DO UPDATE SET value = excluded.value`
	for _, n := range []int64{(ownPages - pages) * size, 0} {
		if _, err := s.write.ExecContext(ctx, fill, key, n); err != nil {
			return fmt.Errorf("growing the ledger: %w", explain(err))
		}
	}
	return nil
}
