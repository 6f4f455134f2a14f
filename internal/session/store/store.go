// Package store keeps the audit events of break-glass certificates, session reports and what existed before a grant in one
// SQLite file, and takes events in. The file is beside the ledger and not part of it: the ledger commits to reports by their
// digest.
package store

import (
	"context"
	"database/sql"
	_ "embed" // the schema
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/gofrs/flock"

	"github.com/breakglassd/breakglass/internal/disk"
	"github.com/breakglassd/breakglass/internal/session"
	"github.com/breakglassd/breakglass/internal/sqlite"
	"github.com/breakglassd/breakglass/internal/text"
)

//go:embed schema.sql
var schema string

//go:embed upgrade.sql
var upgrade string // from version 1 to 2

//go:embed upgrade3.sql
var upgrade3 string // from version 2 to 3

// format is that of a session store's file: "bgse".
var format = sqlite.Format{ID: 0x62677365, Schema: schema, Upgrades: []string{upgrade, upgrade3}}

// readers bounds the reading connections.
const readers = 4

// ErrNotFound is returned for what is not in the store.
var ErrNotFound = errors.New("not found")

// Limits bound what is kept. What is beyond is counted and not kept. Zero values stand for the defaults. Each cluster has room of
// its own, and what is under names and certificates that the ledger does not know has room apart: nobody can fill that of others.
type Limits struct {
	Plain     int   // events of one certificate that only look at something; default 100 000
	Notable   int   // events of one certificate that change something, show Secrets or open streams; default 50 000
	Bytes     int64 // of the events of one cluster's certificates that the ledger knows; default 2 GiB
	Strangers int64 // bytes of the other events of one cluster; default 64 MiB
	Owner     int64 // bytes of the events of one certificate, at most half of them of such that only look at something; default 64 MiB
}

// A Store is one open file. Its methods may be called concurrently. What a method stored is on disk when it returns.
type Store struct {
	path   string
	limits Limits
	lock   *flock.Flock
	write  *sql.DB // one connection
	read   *sql.DB
	spare  *disk.Reserve // so that the file can be opened on a full disk
}

// The least that must be free on the disk for audit events to be taken in, and what is kept in reserve to open the file with.
const (
	roomLeast = 64 << 20
	spareSize = 2 << 20
)

// ErrNoRoom says that audit events are not taken in, since their disk is nearly full.
var ErrNoRoom = errors.New("the disk of the session store is nearly full")

// Open opens the file, or creates it. Only one process can have it open.
func Open(ctx context.Context, path string, limits Limits) (*Store, error) {
	if limits.Plain == 0 {
		limits.Plain = 100_000
	}
	if limits.Notable == 0 {
		limits.Notable = 50_000
	}
	if limits.Bytes == 0 {
		limits.Bytes = 2 << 30
	}
	if limits.Strangers == 0 {
		limits.Strangers = 64 << 20
	}
	if limits.Owner == 0 {
		limits.Owner = 64 << 20
	}
	s := &Store{path: path, limits: limits, spare: disk.NewReserve(path+".reserve", spareSize, spareSize)}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the session store %s: %w", path, err), s.Close())
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) (err error) {
	if s.lock, err = sqlite.Lock(s.path); err != nil {
		return err
	}
	if free, err := disk.Free(s.path); err == nil && free < spareSize/2 {
		s.spare.Give()
	}
	f, err := os.OpenFile(s.path, os.O_RDWR|os.O_CREATE, sqlite.FileMode)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if s.write, err = sqlite.Writer(s.path); err != nil {
		return err
	}
	switch err := format.Migrate(ctx, s.write); {
	case errors.Is(err, sqlite.ErrForeign):
		return errors.New("the file is not a session store; name another file in sessions.path")
	case err != nil:
		return err
	}
	s.read, err = sqlite.Readers(s.path, readers)
	return err
}

// KeepRoom takes back the reserve once there is room. It returns nil while audit events are taken in. It is to be called from time to
// time, by one caller.
func (s *Store) KeepRoom() error {
	return errors.Join(s.room(), s.spare.Take())
}

// room says why no events are taken in.
func (s *Store) room() error {
	free, err := disk.Free(s.path)
	if err == nil && free < roomLeast {
		err = fmt.Errorf("%w: %s has %s left, and %s are needed", ErrNoRoom, s.path, disk.MiB(free), disk.MiB(roomLeast))
	}
	return err
}

// Close releases the file.
func (s *Store) Close() error {
	var errs []error
	for _, db := range []*sql.DB{s.read, s.write} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

func (s *Store) update(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return sqlite.Explain(err)
	}
	defer tx.Rollback()
	if err := do(tx); err != nil {
		return sqlite.Explain(err)
	}
	return sqlite.Explain(tx.Commit())
}

// Added is what became of events that were to be kept.
type Added struct {
	Kept       int
	Duplicates int
	Dropped    int // beyond the limits
}

// Add keeps events of a cluster, all in one transaction. issued names the owners, fingerprints or else user names, whose certificate
// the ledger knows.
func (s *Store) Add(ctx context.Context, cluster string, events []session.Event, issued map[string]bool, now time.Time) (Added, error) {
	var a Added
	err := s.update(ctx, func(tx *sql.Tx) (err error) {
		a, err = s.add(ctx, tx, cluster, events, issued, now)
		return err
	})
	if err != nil {
		return Added{}, fmt.Errorf("keeping audit events: %w", err)
	}
	return a, nil
}

// owner is whose room an event takes.
func owner(e session.Event) string {
	if e.Fingerprint != "" {
		return e.Fingerprint
	}
	return e.User
}

// room is what an owner has in the store.
type room struct {
	plain, notable, dropped int
	bytes                   int64
	issued                  bool
}

// keepRooms writes what the owners of events have used of their rooms. Where the room of strangers is full, they cannot make the table
// grow by inventing names: an owner who has nothing else is in the cluster's figures only.
func keepRooms(ctx context.Context, tx *sql.Tx, cluster string, rooms map[string]*room, now time.Time) error {
	for name, r := range rooms {
		if r.plain+r.notable == 0 && !r.issued {
			continue
		}
		if _, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO owners (cluster, owner, plain, notable, dropped, touched, bytes, issued)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?)`, cluster, name, r.plain, r.notable, r.dropped, now.Unix(), r.bytes, r.issued); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) add(ctx context.Context, tx *sql.Tx, cluster string, events []session.Event, issued map[string]bool,
	now time.Time) (Added, error) {
	var a Added
	if err := s.room(); err != nil {
		return a, err
	}
	var size, lost [2]int64 // of strangers, and of certificates that the ledger knows
	if err := tx.QueryRowContext(ctx, `SELECT coalesce(sum(strangers), 0), coalesce(sum(issued), 0) FROM clusters WHERE cluster = ?`, cluster).
		Scan(&size[0], &size[1]); err != nil {
		return a, err
	}
	insert, err := tx.PrepareContext(ctx,
		`INSERT INTO events (cluster, key, user, acted_as, fingerprint, kept, checked, issued, imported, body)
		VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?, ?)`)
	if err != nil {
		return a, err
	}
	defer insert.Close()
	seen, err := tx.PrepareContext(ctx, `SELECT id, imported, issued, length(body) FROM events WHERE cluster = ? AND key = ?`)
	if err != nil {
		return a, err
	}
	defer seen.Close()
	rooms := map[string]*room{}
	for _, e := range events {
		key := e.Key()
		body, err := json.Marshal(e)
		if err != nil {
			return a, err
		}
		var id, was int64
		var imported string
		var kind int
		switch err := seen.QueryRowContext(ctx, cluster, key[:]).Scan(&id, &imported, &kind, &was); {
		case err == nil:
			a.Duplicates++
			if imported != "" && e.Imported == "" { // an API server says it itself now
				size[kind] += int64(len(body)) - was
				if _, err := tx.ExecContext(ctx, `UPDATE events SET imported = '', body = ? WHERE id = ?`, body, id); err != nil {
					return a, err
				}
			}
			continue
		case !errors.Is(err, sql.ErrNoRows):
			return a, err
		}
		who := owner(e)
		r := rooms[who]
		if r == nil {
			r = &room{}
			err := tx.QueryRowContext(ctx, `SELECT plain, notable, dropped, bytes, issued FROM owners WHERE cluster = ? AND owner = ?`, cluster,
				who).
				Scan(&r.plain, &r.notable, &r.dropped, &r.bytes, &r.issued)
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return a, err
			}
			if issued[who] && !r.issued { // the ledger came to know it after its first events
				size[0] -= r.bytes
				size[1] += r.bytes
				r.issued = true
				if err := markIssued(ctx, tx, cluster, who); err != nil {
					return a, err
				}
			}
			rooms[who] = r
		}
		count, limit, bytes := &r.plain, s.limits.Plain, s.limits.Owner/2
		if e.Notable() {
			count, limit, bytes = &r.notable, s.limits.Notable, s.limits.Owner
		}
		all := s.limits.Strangers
		kind = 0
		if r.issued {
			kind, all = 1, s.limits.Bytes
		}
		if n := int64(len(body)); *count >= limit || r.bytes+n > bytes || size[kind]+n > all {
			a.Dropped++
			lost[kind]++
			r.dropped++
			continue
		}
		as := ""
		if e.As != nil {
			as = e.As.User
		}
		if _, err := insert.ExecContext(ctx, cluster, key[:], e.User, as, e.Fingerprint, now.Unix(), r.issued, e.Imported, body); err != nil {
			return a, err
		}
		*count++
		size[kind] += int64(len(body))
		r.bytes += int64(len(body))
		a.Kept++
	}
	if err := keepRooms(ctx, tx, cluster, rooms, now); err != nil {
		return a, err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO clusters (cluster, strangers, issued, dropped, lost) VALUES (?1, ?2, ?3, ?4, ?5)
		ON CONFLICT (cluster) DO UPDATE SET strangers = ?2, issued = ?3, dropped = dropped + ?4, lost = lost + ?5`,
		cluster, size[0], size[1], lost[0]+lost[1], lost[0])
	return a, err
}

// promote gives an owner the room of certificates that the ledger knows.
func promote(ctx context.Context, tx *sql.Tx, cluster, who string) error {
	var bytes int64
	var issued bool
	switch err := tx.QueryRowContext(ctx, `SELECT bytes, issued FROM owners WHERE cluster = ? AND owner = ?`, cluster, who).Scan(&bytes,
		&issued); {
	case errors.Is(err, sql.ErrNoRows) || err == nil && issued:
		return nil
	case err != nil:
		return err
	}
	if err := markIssued(ctx, tx, cluster, who); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `UPDATE owners SET issued = 1 WHERE cluster = ? AND owner = ?`, cluster, who); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `UPDATE clusters SET strangers = strangers - ?, issued = issued + ? WHERE cluster = ?`, bytes, bytes,
		cluster)
	return err
}

// markIssued moves an owner's events to the room of certificates that the ledger knows.
func markIssued(ctx context.Context, tx *sql.Tx, cluster, who string) error {
	_, err := tx.ExecContext(ctx,
		`UPDATE events SET issued = 1 WHERE cluster = ?1 AND issued = 0 AND (fingerprint = ?2 OR fingerprint = '' AND user = ?2)`, cluster, who)
	return err
}

// Events returns what was kept of a grant's certificate or under its name in a cluster, and how many events of the certificate
// were counted and not kept, together with those that were not kept because the whole store was full.
func (s *Store) Events(ctx context.Context, cluster, fingerprint, user string) ([]session.Event, int, error) {
	events, dropped, err := s.events(ctx, cluster, fingerprint, user)
	if err != nil {
		return nil, 0, fmt.Errorf("reading the audit events of %s: %w", user, sqlite.Explain(err))
	}
	return events, dropped, nil
}

func (s *Store) events(ctx context.Context, cluster, fingerprint, user string) ([]session.Event, int, error) {
	// A union uses each of the indexes.
	rows, err := s.read.QueryContext(ctx, `SELECT body FROM events WHERE id IN (
		SELECT id FROM events WHERE cluster = ?1 AND fingerprint = ?2 AND fingerprint != ''
		UNION SELECT id FROM events WHERE cluster = ?1 AND user = ?3
		UNION SELECT id FROM events WHERE cluster = ?1 AND acted_as = ?3 AND acted_as != '') ORDER BY id`, cluster, fingerprint, user)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	var out []session.Event
	for rows.Next() {
		var body []byte
		if err := rows.Scan(&body); err != nil {
			return nil, 0, err
		}
		var e session.Event
		if err := json.Unmarshal(body, &e); err != nil {
			return nil, 0, err
		}
		out = append(out, e)
	}
	if err := rows.Err(); err != nil {
		return nil, 0, err
	}
	var dropped int
	// Lost events of owners that have no row of their own are in their cluster's figure only: they may be this grant's.
	err = s.read.QueryRowContext(ctx, `SELECT
		(SELECT coalesce(sum(dropped), 0) FROM owners WHERE cluster = ?1 AND owner IN (?2, ?3)) +
		CASE WHEN EXISTS (SELECT 1 FROM owners WHERE cluster = ?1 AND owner IN (?2, ?3)) THEN 0
		ELSE (SELECT coalesce(sum(lost), 0) FROM clusters WHERE cluster = ?1)
			- (SELECT coalesce(sum(dropped), 0) FROM owners WHERE cluster = ?1 AND issued = 0) END`,
		cluster, fingerprint, user).Scan(&dropped)
	return out, max(0, dropped), err
}

// Stats are figures of the whole store.
type Stats struct {
	Events    int64
	Bytes     int64 // of their bodies
	Dropped   int64
	Unchecked int64 // events whose certificate could not be looked up in the ledger yet
}

// Stats counts what is kept.
func (s *Store) Stats(ctx context.Context) (Stats, error) {
	var st Stats
	err := s.read.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM events), coalesce(sum(strangers + issued), 0), coalesce(sum(dropped), 0),
		(SELECT count(*) FROM events WHERE checked = 0) FROM clusters`).
		Scan(&st.Events, &st.Bytes, &st.Dropped, &st.Unchecked)
	if err != nil {
		return Stats{}, fmt.Errorf("counting audit events: %w", sqlite.Explain(err))
	}
	return st, nil
}

// Prune removes what was stored before a time. Heartbeats stay as long as the events: a report that is made again later would
// call the stream silent without them.
func (s *Store) Prune(ctx context.Context, before time.Time) error {
	err := s.update(ctx, func(tx *sql.Tx) error {
		for _, q := range []string{
			`UPDATE clusters SET
				strangers = strangers - (SELECT coalesce(sum(length(body)), 0) FROM events e
					WHERE e.cluster = clusters.cluster AND e.issued = 0 AND e.kept < ?1),
				issued = issued - (SELECT coalesce(sum(length(body)), 0) FROM events e
					WHERE e.cluster = clusters.cluster AND e.issued = 1 AND e.kept < ?1)`,
			`DELETE FROM events WHERE kept < ?1`,
			`DELETE FROM owners WHERE touched < ?1`,
			`DELETE FROM reports WHERE made < ?1`,
			`DELETE FROM snapshots WHERE made < ?1`,
		} {
			if _, err := tx.ExecContext(ctx, q, before.Unix()); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM heartbeats WHERE seen < ?`, before.UnixMicro())
		return err
	})
	if err != nil {
		return fmt.Errorf("removing old audit events: %w", err)
	}
	return nil
}

// PutReport keeps a report's bytes and returns their digest, by which Report finds them. The same report made again is kept for
// as long as a new one.
func (s *Store) PutReport(ctx context.Context, request string, body []byte, now time.Time) (digest string, err error) {
	digest = text.SHA256(body)
	if _, err := s.write.ExecContext(ctx, `INSERT INTO reports (digest, request, made, body) VALUES (?, ?, ?, ?)
		ON CONFLICT (digest) DO UPDATE SET made = excluded.made`, digest, request, now.Unix(), body); err != nil {
		return "", fmt.Errorf("keeping the session report of %s: %w", request, sqlite.Explain(err))
	}
	return digest, nil
}

// Report returns a report's bytes, which have the digest, or an error that wraps [ErrNotFound].
func (s *Store) Report(ctx context.Context, digest string) ([]byte, error) {
	body, err := s.blob(ctx, `SELECT body FROM reports WHERE digest = ?`, digest)
	if err != nil {
		return nil, fmt.Errorf("reading the session report %s: %w", digest, sqlite.Explain(err))
	}
	if text.SHA256(body) != digest {
		return nil, fmt.Errorf("the session report %s was changed in the store: restore the file from a backup", digest)
	}
	return body, nil
}

// PutSnapshot remembers what existed before a grant, replacing what was remembered.
func (s *Store) PutSnapshot(ctx context.Context, request string, blob []byte, now time.Time) error {
	if _, err := s.write.ExecContext(ctx, `INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)`, request, now.Unix(), blob); err != nil {
		return fmt.Errorf("keeping what existed before %s: %w", request, sqlite.Explain(err))
	}
	return nil
}

// Snapshot returns what existed before a grant, or an error that wraps [ErrNotFound].
func (s *Store) Snapshot(ctx context.Context, request string) ([]byte, error) {
	body, err := s.blob(ctx, `SELECT body FROM snapshots WHERE request = ?`, request)
	if err != nil {
		return nil, fmt.Errorf("reading what existed before %s: %w", request, sqlite.Explain(err))
	}
	return body, nil
}

func (s *Store) blob(ctx context.Context, query, key string) ([]byte, error) {
	var body []byte
	err := s.read.QueryRowContext(ctx, query, key).Scan(&body)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	return body, err
}

// PutHeartbeat notes that a heartbeat came through the audit stream of an API server.
func (s *Store) PutHeartbeat(ctx context.Context, cluster, server string, at time.Time) error {
	err := s.update(ctx, func(tx *sql.Tx) error { return putHeartbeat(ctx, tx, cluster, server, at) })
	if err != nil {
		return fmt.Errorf("keeping a heartbeat: %w", err)
	}
	return nil
}

func putHeartbeat(ctx context.Context, tx *sql.Tx, cluster, server string, at time.Time) error {
	_, err := tx.ExecContext(ctx, `INSERT OR IGNORE INTO heartbeats (cluster, server, seen) VALUES (?, ?, ?)`, cluster, server, at.UnixMicro())
	return err
}

// Silences lists the times, within from and until, in which no heartbeat of an API server came for longer than patience.
func (s *Store) Silences(ctx context.Context, cluster, server string, from, until time.Time, patience time.Duration) ([]session.Silence,
	error) {
	rows, err := s.read.QueryContext(ctx,
		`SELECT seen FROM heartbeats WHERE cluster = ? AND server = ? AND seen BETWEEN ? AND ? ORDER BY seen`,
		cluster, server, from.Add(-patience).UnixMicro(), until.UnixMicro())
	if err != nil {
		return nil, fmt.Errorf("reading heartbeats: %w", sqlite.Explain(err))
	}
	defer rows.Close()
	var out []session.Silence
	last := from
	gap := func(to time.Time) {
		if to.Sub(last) > patience {
			out = append(out, session.Silence{Server: server, From: last, Until: to})
		}
		last = to
	}
	for rows.Next() {
		var micros int64
		if err := rows.Scan(&micros); err != nil {
			return nil, fmt.Errorf("reading heartbeats: %w", sqlite.Explain(err))
		}
		if at := time.UnixMicro(micros).UTC(); at.After(from) {
			gap(at)
		}
	}
	gap(until)
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading heartbeats: %w", sqlite.Explain(err))
	}
	return out, nil
}
