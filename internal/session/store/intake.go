package store

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/breakglassd/breakglass/internal/session"
)

var (
	// ErrOverloaded is returned when the intake is full, or could not store in time: the API server must send again later.
	ErrOverloaded = errors.New("too many audit events at once")
	// ErrClosed is returned by an intake that no longer runs.
	ErrClosed = errors.New("the intake of audit events is closed")
)

// ErrNotYet is what Intake.Known says of a certificate of which the ledger will tell in a moment.
var ErrNotYet = errors.New("not on record yet")

// Intake takes audit events in, keeps those of ours, and tells of certificates under our names that the ledger does not know.
// Fields are set before Run; those that may be nil say so. Its methods may be called concurrently.
type Intake struct {
	Store *Store
	Log   *slog.Logger
	Now   func() time.Time

	// Ours says whether a fingerprint is of a certificate of ours whose name is not. May be nil.
	Ours func(fingerprint string) bool
	// Known asks the ledger for a certificate by its fingerprint or, where the event has none, by its common name. After an
	// error it is asked again; after one that wraps ErrNotYet as a matter of course.
	Known func(ctx context.Context, cluster, fingerprint, commonName string) (bool, error)
	// Unknown is told of events under our names of a certificate that the ledger does not know: again after a crash, and again
	// until it returns nil. Where somebody else impersonates a name of ours, that name is commonName.
	Unknown func(ctx context.Context, cluster, fingerprint, commonName string, e session.Event) error
	// Heartbeat says which API server a nonce that comes through was sent to, if we sent it. It is asked before anything is stored,
	// and again when the same events come again. May be nil.
	Heartbeat func(cluster, nonce string) (server string, ours bool)
	// Alive is told of the nonces of ours once everything that came with them is stored. It is nil if Heartbeat is.
	Alive func(cluster, nonce string)

	MaxBodies int           // of one cluster that are worked on at once; default 64
	MaxBytes  int64         // of these bodies together; default 64 MiB
	Deadline  time.Duration // within which Take answers; default 10 s
	Recheck   time.Duration // after which the ledger is asked again what it could not say; default 30 s

	once    sync.Once
	jobs    chan job
	check   chan struct{}
	stopped chan struct{}
	figures Figures

	mu     sync.Mutex
	load   map[string]load // by cluster: one that floods the intake fills its own room alone
	issued map[string]bool // owners, with their cluster, whose certificate the ledger knows: it never forgets one
}

// load is what is worked on.
type load struct {
	bodies int
	bytes  int64
}

// maxIssued bounds the memory of certificates that the ledger knows. Beyond it the ledger is asked again.
const maxIssued = 10_000

// Figures count what came in since the start. They are read by value with [Intake.Figures].
type Figures struct {
	Events, Kept, Duplicates, Dropped, Unreadable, Heartbeats, Overloads int64
}

type job struct {
	cluster string
	events  []session.Event
	issued  map[string]bool // the owners among them that have a certificate which the ledger knows
	beats   []beat
	done    chan result // has room for the one result, so that the writer never waits
}

type beat struct{ server, nonce string }

type result struct {
	added Added
	err   error
}

func (i *Intake) init() {
	i.once.Do(func() {
		if i.MaxBodies == 0 {
			i.MaxBodies = 64
		}
		if i.MaxBytes == 0 {
			i.MaxBytes = 64 << 20
		}
		if i.Deadline == 0 {
			i.Deadline = 10 * time.Second
		}
		if i.Recheck == 0 {
			i.Recheck = 30 * time.Second
		}
		i.jobs, i.check, i.stopped = make(chan job, i.MaxBodies), make(chan struct{}, 1), make(chan struct{})
		i.load, i.issued = map[string]load{}, map[string]bool{}
	})
}

// enter takes room for a body of a cluster, unless that cluster has no more.
func (i *Intake) enter(cluster string, size int) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	l := i.load[cluster]
	if l.bodies >= i.MaxBodies || l.bytes+int64(size) > i.MaxBytes {
		return false
	}
	i.load[cluster] = load{l.bodies + 1, l.bytes + int64(size)}
	return true
}

func (i *Intake) leave(cluster string, size int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	l := i.load[cluster]
	i.load[cluster] = load{l.bodies - 1, l.bytes - int64(size)}
}

// Figures returns what came in since the start.
func (i *Intake) Figures() Figures {
	n := func(p *int64) int64 { return atomic.LoadInt64(p) }
	f := &i.figures
	return Figures{n(&f.Events), n(&f.Kept), n(&f.Duplicates), n(&f.Dropped), n(&f.Unreadable), n(&f.Heartbeats), n(&f.Overloads)}
}

// Run writes what Take was given, until ctx ends. It is called once. What was taken and not answered by then was not promised.
func (i *Intake) Run(ctx context.Context) {
	i.init()
	var wg sync.WaitGroup
	wg.Go(func() { i.checks(ctx) })
	defer wg.Wait()
	defer close(i.stopped)
	for {
		select {
		case <-ctx.Done():
			return
		case first := <-i.jobs:
			batch := []job{first}
			for more := true; more; {
				select {
				case j := <-i.jobs:
					batch = append(batch, j)
				default:
					more = false
				}
			}
			i.commit(ctx, batch)
		}
	}
}

// commit writes the events of several jobs in one transaction: waiting for the disk is what takes the time.
func (i *Intake) commit(ctx context.Context, batch []job) {
	results := make([]result, len(batch))
	now := i.Now()
	wctx, cancel := context.WithTimeout(ctx, i.Deadline)
	defer cancel()
	err := i.Store.update(wctx, func(tx *sql.Tx) error {
		for n, j := range batch {
			added, err := i.Store.add(wctx, tx, j.cluster, j.events, j.issued, now)
			if err != nil {
				return err
			}
			results[n].added = added
			for _, b := range j.beats {
				if err := putHeartbeat(wctx, tx, j.cluster, b.server, now); err != nil {
					return err
				}
			}
		}
		return nil
	})
	for n, j := range batch {
		if err != nil {
			results[n] = result{err: fmt.Errorf("keeping audit events: %w", err)}
		} else {
			for _, b := range j.beats {
				i.Alive(j.cluster, b.nonce)
			}
			atomic.AddInt64(&i.figures.Heartbeats, int64(len(j.beats)))
		}
		j.done <- results[n]
	}
	select {
	case i.check <- struct{}{}:
	default: // it is to look already
	}
}

// Take keeps what is ours of the body of an audit webhook's request. When it returns nil, that is on disk. It answers within
// Deadline: where the intake is full at once, with [ErrOverloaded]; then the same body must be sent again. A body in which
// nothing can be read is refused with an error that wraps [session.ErrUnreadable].
func (i *Intake) Take(ctx context.Context, cluster string, body []byte) error {
	i.init()
	if !i.enter(cluster, len(body)) {
		atomic.AddInt64(&i.figures.Overloads, 1)
		return ErrOverloaded
	}
	defer i.leave(cluster, len(body))
	ctx, cancel := context.WithTimeoutCause(ctx, i.Deadline, ErrOverloaded)
	defer cancel()
	j := job{cluster: cluster, done: make(chan result, 1)}
	var read, bad int64
	var first error
	for e, err := range session.Decode(bytes.NewReader(body)) {
		if err != nil {
			if bad++; first == nil {
				first = err
			}
			continue
		}
		read++
		i.sort(&j, e)
	}
	atomic.AddInt64(&i.figures.Events, read)
	atomic.AddInt64(&i.figures.Unreadable, bad)
	if bad > 0 {
		if read == 0 {
			return fmt.Errorf("an API server of %s: %w", cluster, first)
		}
		i.Log.Warn("some audit events cannot be read", slog.String("cluster", cluster), slog.Int64("events", bad), slog.Any("error", first))
	}
	_, err := i.put(ctx, j)
	return err
}

// sort puts an event where it belongs.
func (i *Intake) sort(j *job, e session.Event) {
	if nonce := e.Heartbeat(); nonce != "" && e.Stage == session.StageComplete && i.Heartbeat != nil {
		if server, ours := i.Heartbeat(j.cluster, nonce); ours {
			j.beats = append(j.beats, beat{server, nonce})
		}
	}
	if session.Ours(e, i.Ours) {
		j.events = append(j.events, e)
	}
}

// put gives a job to the writer and waits for its commit.
func (i *Intake) put(ctx context.Context, j job) (Added, error) {
	if len(j.events) == 0 && len(j.beats) == 0 {
		return Added{}, nil
	}
	j.issued = i.known(ctx, j.cluster, j.events)
	select {
	case i.jobs <- j:
	case <-i.stopped:
		return Added{}, ErrClosed
	case <-ctx.Done():
		return Added{}, context.Cause(ctx)
	}
	select {
	case r := <-j.done:
		atomic.AddInt64(&i.figures.Kept, int64(r.added.Kept))
		atomic.AddInt64(&i.figures.Duplicates, int64(r.added.Duplicates))
		atomic.AddInt64(&i.figures.Dropped, int64(r.added.Dropped))
		if r.added.Dropped > 0 {
			i.Log.Error("audit events were counted and not kept: there are too many", slog.String("cluster", j.cluster),
				slog.Int("events", r.added.Dropped))
		}
		return r.added, r.err
	case <-i.stopped:
		return Added{}, ErrClosed
	case <-ctx.Done():
		return Added{}, context.Cause(ctx)
	}
}

// known says which owners of events have a certificate that the ledger knows. Where the ledger cannot say, an owner has the room of
// strangers: lookUp asks again.
func (i *Intake) known(ctx context.Context, cluster string, events []session.Event) map[string]bool {
	asked := map[string]bool{}
	for _, e := range events {
		who := owner(e)
		if _, done := asked[who]; done || session.Stranger(e) {
			continue
		}
		key := cluster + "\x00" + who
		i.mu.Lock()
		asked[who] = i.issued[key]
		i.mu.Unlock()
		if asked[who] {
			continue
		}
		known, err := i.Known(ctx, cluster, e.Fingerprint, e.User)
		if asked[who] = known && err == nil; !asked[who] {
			continue
		}
		i.mu.Lock()
		if len(i.issued) >= maxIssued {
			clear(i.issued)
		}
		i.issued[key] = true
		i.mu.Unlock()
	}
	return asked
}

// checks asks the ledger for the certificates of stored events, after each commit, after a start, and again after errors.
func (i *Intake) checks(ctx context.Context) {
	tick := time.NewTicker(i.Recheck)
	defer tick.Stop()
	for {
		if err := i.lookUp(ctx); err != nil && ctx.Err() == nil {
			i.Log.Warn("certificates in audit events could not be looked up; it is tried again", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-i.check:
		case <-tick.C:
		}
	}
}

// lookUp asks once for each certificate, or name without one, of the events that were not checked yet.
func (i *Intake) lookUp(ctx context.Context) error {
	type who struct {
		cluster, fingerprint, name string
		stranger                   bool
	}
	type group struct {
		ids   []int64
		event session.Event
	}
	var problem error
	for after := int64(0); ; {
		groups, order := map[who]*group{}, []who{}
		rows, err := i.Store.read.QueryContext(ctx, `SELECT id, cluster, body FROM events WHERE checked = 0 AND id > ? ORDER BY id LIMIT 1000`,
			after)
		if err != nil {
			return err
		}
		n := 0
		for rows.Next() {
			var cluster string
			var body []byte
			if err := rows.Scan(&after, &cluster, &body); err != nil {
				return errors.Join(err, rows.Close())
			}
			n++
			var e session.Event
			if err := json.Unmarshal(body, &e); err != nil {
				return errors.Join(err, rows.Close())
			}
			w := who{cluster, e.Fingerprint, e.User, session.Stranger(e)}
			if w.stranger && e.As != nil {
				w.name = e.As.User
			}
			if groups[w] == nil {
				groups[w] = &group{event: e}
				order = append(order, w)
			}
			groups[w].ids = append(groups[w].ids, after)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return err
		}
		if n == 0 {
			return problem
		}
		var done []int64
		var promoted []who
		for _, w := range order {
			known := false
			if !w.stranger {
				var err error
				known, err = i.Known(ctx, w.cluster, w.fingerprint, w.name)
				if errors.Is(err, ErrNotYet) {
					continue
				}
				if err != nil {
					problem = err
					continue
				}
			}
			if !known {
				if err := i.Unknown(ctx, w.cluster, w.fingerprint, w.name, groups[w].event); err != nil {
					problem = err
					continue
				}
			}
			if known {
				promoted = append(promoted, w)
			}
			done = append(done, groups[w].ids...)
		}
		err = i.Store.update(ctx, func(tx *sql.Tx) error {
			for _, w := range promoted {
				if err := promote(ctx, tx, w.cluster, cmp.Or(w.fingerprint, w.name)); err != nil {
					return err
				}
			}
			for _, id := range done {
				if _, err := tx.ExecContext(ctx, `UPDATE events SET checked = 1 WHERE id = ?`, id); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}

// Result is what an import found.
type Result struct {
	Events     int // that could be read
	Kept       int // of ours, and new
	Duplicates int // of ours, and stored before
	Dropped    int // of ours, and beyond the limits
	Unreadable int
	Digest     string // hex SHA-256 of the file as it was handed in
}

// Import keeps what is ours of a file of audit events that the person by hands in, and marks it so. The file may be
// compressed with gzip: what the API server's log backend
// writes, or EventLists. It reads the file as a stream, whatever its size. After an error what was kept so far stays, and the
// file can be imported again. It writes through Run, which must be running.
func (i *Intake) Import(ctx context.Context, cluster, by string, r io.Reader) (Result, error) {
	i.init()
	var res Result
	if err := i.importFile(ctx, cluster, by, r, &res); err != nil {
		return res, fmt.Errorf("importing audit events of %s: %w", cluster, err)
	}
	return res, nil
}

func (i *Intake) importFile(ctx context.Context, cluster, by string, r io.Reader, res *Result) error {
	digest := sha256.New()
	file := bufio.NewReaderSize(io.TeeReader(r, digest), 64<<10)
	var events io.Reader = file
	if magic, err := file.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		plain, err := gzip.NewReader(file)
		if err != nil {
			return err
		}
		events = plain
	}
	j := job{cluster: cluster}
	flush := func() error {
		j.done = make(chan result, 1)
		added, err := i.put(ctx, j)
		res.Kept += added.Kept
		res.Duplicates += added.Duplicates
		res.Dropped += added.Dropped
		j.events, j.beats = nil, nil
		return err
	}
	for e, err := range session.Decode(events) {
		if errors.Is(err, session.ErrUnreadable) {
			res.Unreadable++
			continue
		} else if err != nil {
			return err
		}
		res.Events++
		if res.Events%1000 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		// Heartbeats of a file prove nothing about the stream.
		if session.Ours(e, i.Ours) {
			e.Imported = by
			j.events = append(j.events, e)
		}
		if len(j.events) >= 200 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	// What follows the compressed part belongs to the file too.
	if _, err := io.Copy(io.Discard, file); err != nil {
		return err
	}
	res.Digest = hex.EncodeToString(digest.Sum(nil))
	return nil
}
