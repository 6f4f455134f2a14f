package ledger

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// KindClockAccepted is the kind of the one entry that may be earlier than the one
// before it: it records that the entries before were written with a wrong clock.
const KindClockAccepted = "clock-accepted/v1"

// AnyVersion lets [Ledger.Append] append whatever the stream's length is.
const AnyVersion int64 = -1

var (
	// ErrConflict says that the stream is not as long as the caller expected.
	// Nothing was appended. Load the stream again and decide again.
	ErrConflict = errors.New("the stream has changed since it was read")

	// ErrUnknownOutcome says that a write may or may not have become durable.
	// The process must exit: only opening the ledger again can tell.
	ErrUnknownOutcome = errors.New("the ledger cannot tell whether its last write was kept; " +
		"restart the process, which reads the truth from disk (and check free space and the disk first)")

	// ErrRoomMade says that a write found the disk full and was certainly not
	// kept, and that there is room again: try it once more.
	ErrRoomMade = errors.New("the disk was full, and the room kept in reserve was given up")

	// ErrCorrupt says that what is stored contradicts its own hashes or its
	// signed head. No write is possible.
	ErrCorrupt = errors.New("the stored ledger contradicts itself; keep the files as evidence, " +
		"run a full verification, and restore from a backup")

	// ErrForked says that the log does not continue a checkpoint it once signed.
	ErrForked = errors.New("the ledger does not continue an earlier checkpoint of its own; " +
		"it was rolled back, restored from an old backup or forked")

	// ErrNotInitialized says that there is no ledger at the given place. A store
	// never creates one by being opened, because a lost volume would then turn
	// silently into an empty ledger.
	ErrNotInitialized = errors.New("no ledger here")

	// ErrLocked says that another process uses the ledger or has taken it over.
	ErrLocked = errors.New("the ledger is in use by another process; stop that one first")

	// ErrReadOnly says that the ledger was opened for reading only.
	ErrReadOnly = errors.New("the ledger is open for reading only")

	// ErrClosed says that the ledger has been closed.
	ErrClosed = errors.New("the ledger is closed")

	// ErrNotFound says that there is no such entry or text.
	ErrNotFound = errors.New("not in the ledger")
)

// A Draft is an entry that is to be appended.
type Draft struct {
	// Kind names what kind of fact this is: visible ASCII, at most 200 bytes.
	Kind string
	// Body is hashed and stored verbatim. It can never be changed or removed, so
	// it should hold no personal data.
	Body []byte
	// Texts is free text by name. The log holds only a salted commitment to each,
	// so each can be erased later; see [Ledger.Erase].
	Texts map[string]string
	// Before, if not zero, is a deadline: the append is refused with ErrConflict
	// unless the entry's time, as the ledger assigns it, is earlier. What was
	// decided before a deadline can so never be recorded after it.
	Before time.Time
}

// An Entry is one fact in the log.
type Entry struct {
	Seq       int64 // place in the log, from 0; also the index of the Merkle leaf
	Stream    string
	StreamSeq int64 // place in the stream, from 1
	Kind      string
	Time      time.Time // UTC, never earlier than that of the entry before, unless the kind is KindClockAccepted
	Body      []byte
	Texts     map[string]string // checked against the leaf; an erased text is absent
	Salts     map[string][]byte // of Texts, so that others can check them with [CheckText]
	Leaf      []byte            // the bytes hashed; Body is a part of them
}

// A Tag is a row of the index of streams. Tags are not hashed: they can be
// rebuilt from the entries by whoever chose them.
type Tag struct {
	Name, Value string
	// Unique means that no other stream can ever hold a unique tag of this name
	// and value. A unique tag is never released.
	Unique bool
}

// A TagTakenError says that another stream holds a unique tag. Nothing was
// appended.
type TagTakenError struct {
	Tag    Tag
	Stream string // the holder
}

func (e *TagTakenError) Error() string {
	return fmt.Sprintf("%s %q belongs to %s", e.Tag.Name, e.Tag.Value, e.Stream)
}

// A Ledger is one open log. All its methods are safe for concurrent use.
type Ledger struct {
	store    Store
	signer   note.Signer // nil if read-only
	verifier note.Verifier

	wake    chan struct{} // one token: the queue may have something in it
	stopped chan struct{} // closed when the writer goroutine has ended

	latest time.Time // the latest now of a call of Once; used by the writer goroutine alone

	mu      sync.Mutex        // guards the fields below; held only for moments, never during I/O
	queue   []*write          // waiting for the writer goroutine
	head    Head              // the last one known to be durable
	grown   chan struct{}     // closed and replaced whenever head grows; closed for good by Close
	topics  map[string]*topic // by stream: who listens
	closed  bool
	failure error         // set once: why no further write is possible
	failed  chan struct{} // closed when failure is set

	edge edge // of head; used by the writer goroutine only
}

// Open opens a ledger for reading and appending. It verifies the stored head:
// the checkpoint's signature, the root as recomputed from stored hashes, and the
// newest entries against their hashes. The time it takes does not grow with the
// history. The signer and verifier must be the two halves of one key.
//
// On success the Ledger owns the store and closes it in [Ledger.Close]; on
// failure the store remains the caller's.
func Open(ctx context.Context, store Store, signer note.Signer, verifier note.Verifier) (*Ledger, error) {
	l, err := open(ctx, store, verifier, true)
	if err != nil {
		return nil, err
	}
	cp, err := SignCheckpoint(l.head.Size, l.head.Root, signer)
	if err != nil {
		return nil, err
	}
	if _, err := ParseCheckpoint(cp.Note, verifier); err != nil {
		return nil, fmt.Errorf("the ledger's private and public key do not belong together: %w", err)
	}
	if len(l.head.Note) == 0 { // a new store; open made sure that it is empty
		l.head.Note = cp.Note
		if err := store.Update(ctx, func(tx Tx) error { return tx.SetHead(0, l.head) }); err != nil {
			return nil, fmt.Errorf("storing the first checkpoint: %w", err)
		}
	}
	l.signer = signer
	go l.writeLoop()
	return l, nil
}

// OpenReadOnly opens a ledger for reading, with the checks of [Open]. Every
// write returns ErrReadOnly. If another process appends to the same store,
// reads see that, but Size and Wait do not.
func OpenReadOnly(ctx context.Context, store Store, verifier note.Verifier) (*Ledger, error) {
	l, err := open(ctx, store, verifier, false)
	if err != nil {
		return nil, err
	}
	close(l.stopped) // there is no writer
	return l, nil
}

// tail is how many of the newest entries are checked on opening. It is more
// than one transaction is likely to have written, and takes about a millisecond.
const tail = 256

func open(ctx context.Context, store Store, verifier note.Verifier, allowNew bool) (*Ledger, error) {
	l := &Ledger{
		store: store, verifier: verifier,
		wake: make(chan struct{}, 1), stopped: make(chan struct{}), grown: make(chan struct{}), failed: make(chan struct{}),
		topics: map[string]*topic{},
	}
	err := store.View(ctx, func(v View) error {
		var err error
		if l.head, err = v.Head(); err != nil {
			return err
		}
		isNew := l.head.Size == 0 && len(l.head.Note) == 0
		if isNew && !allowNew {
			return fmt.Errorf("%w: it is empty and has never been opened for writing", ErrNotInitialized)
		}
		if !isNew {
			if err := checkHead(l.head, verifier); err != nil {
				return fmt.Errorf("%w: %w", ErrCorrupt, err)
			}
		}
		if l.edge, err = loadEdge(l.head.Size, v); err != nil {
			return err
		}
		if l.edge.root() != l.head.Root {
			return fmt.Errorf("%w: the stored hashes of %d entries have root %s, the head says %s",
				ErrCorrupt, l.head.Size, l.edge.root(), l.head.Root)
		}
		return checkTail(v, l.head)
	})
	if err != nil {
		return nil, fmt.Errorf("opening the ledger: %w", err)
	}
	return l, nil
}

// checkHead checks that the head row says what its signed checkpoint says.
func checkHead(h Head, verifier note.Verifier) error {
	cp, err := ParseCheckpoint(h.Note, verifier)
	if err != nil {
		return err
	}
	if cp.Size != h.Size || cp.Root != h.Root {
		return fmt.Errorf("the signed checkpoint is of size %d and root %s, the head row says %d and %s",
			cp.Size, cp.Root, h.Size, h.Root)
	}
	return nil
}

// checkTail checks the newest entries and that there is none beyond the head.
func checkTail(v View, h Head) error {
	next := max(0, h.Size-tail)
	var last time.Time
	err := v.Records(next, tail+1, func(r Record) error {
		e, err := r.entry()
		if err != nil {
			return err
		}
		if e.Seq != next {
			return fmt.Errorf("%w: entry %d is stored where %d should be", ErrCorrupt, e.Seq, next)
		}
		next, last = next+1, e.Time
		return nil
	})
	if err != nil {
		return err
	}
	if next != h.Size || !last.Equal(h.Time) {
		return fmt.Errorf("%w: the stored entries end at %d (%s), the head says %d (%s)", ErrCorrupt,
			next, last.Format(timeLayout), h.Size, h.Time.Format(timeLayout))
	}
	return nil
}

// entry decodes a record and checks all that can be checked of it alone: its
// hash, its index columns and its texts.
func (r Record) entry() (Entry, error) {
	lf, problems := r.check()
	if len(problems) > 0 {
		return Entry{}, fmt.Errorf("%w: entry %d: %s", ErrCorrupt, r.Seq, problems[0])
	}
	h := tlog.RecordHash(r.Leaf)
	if !bytes.HasPrefix(r.Hashes, h[:]) {
		return Entry{}, fmt.Errorf("%w: entry %d does not match its stored hash", ErrCorrupt, r.Seq)
	}
	e := Entry{
		Seq: r.Seq, Stream: lf.Stream, StreamSeq: lf.StreamSeq, Kind: lf.Kind, Time: lf.Time,
		Body: lf.Body, Leaf: r.Leaf,
	}
	for _, t := range r.Texts {
		if t.Erased {
			continue
		}
		if e.Texts == nil {
			e.Texts, e.Salts = make(map[string]string), make(map[string][]byte)
		}
		e.Texts[t.Name], e.Salts[t.Name] = t.Text, t.Salt
	}
	return e, nil
}

// check decodes the leaf and compares it with the columns and texts beside it.
func (r Record) check() (lf leaf, problems []string) {
	lf, err := parseLeaf(r.Leaf)
	if err != nil {
		return leaf{}, []string{err.Error()}
	}
	if r.Stream != lf.Stream || r.StreamSeq != lf.StreamSeq {
		problems = append(problems, fmt.Sprintf("is indexed as %q number %d but says %q number %d",
			r.Stream, r.StreamSeq, lf.Stream, lf.StreamSeq))
	}
	return lf, append(problems, checkTexts(lf, r.Texts)...)
}

// checkTexts compares the stored texts of an entry with what it commits to.
func checkTexts(lf leaf, texts []Text) (problems []string) {
	if len(texts) != len(lf.Commitments) {
		return []string{fmt.Sprintf("commits to %d texts but %d are stored", len(lf.Commitments), len(texts))}
	}
	for i, t := range texts {
		c := lf.Commitments[i]
		if t.Name != c.Name || !t.Erased && commit(t.Salt, t.Name, t.Text) != c.MAC {
			problems = append(problems, fmt.Sprintf("text %q is not the one the entry commits to", c.Name))
		}
	}
	return problems
}

// Failed is closed when no further write is possible because what is stored
// can no longer be known or trusted: the process must exit, and the next one
// reads the truth from disk. Err then says why.
func (l *Ledger) Failed() <-chan struct{} { return l.failed }

// Err returns why no further write is possible, nil as long as one is.
func (l *Ledger) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failure
}

// Size returns the number of entries known to be durable.
func (l *Ledger) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head.Size
}

// LastTime returns the time of the last entry, zero if there is none. A clock
// that is well before it has gone back.
func (l *Ledger) LastTime() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head.Time
}

// Wait returns nil when Size is greater than after. Otherwise it returns when
// ctx is done or the ledger is closed, with the reason. A waiter costs one
// goroutine and nothing else.
func (l *Ledger) Wait(ctx context.Context, after int64) error {
	for {
		l.mu.Lock()
		size, grown, closed := l.head.Size, l.grown, l.closed
		l.mu.Unlock()
		if size > after {
			return nil
		}
		if closed {
			return ErrClosed
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-grown:
		}
	}
}

// A topic is where those who listen to one stream are woken.
type topic struct {
	news      chan struct{} // closed at the stream's next entry, and by Close
	listeners int
}

// A Listener hears of the next entry of one stream. However many there are, an
// entry of another stream costs none of them anything.
type Listener struct {
	ledger *Ledger
	stream string
	topic  *topic
}

// Listen begins to listen to a stream, which may be new. What is read after this
// call, and what the Listener hears of, together miss no entry. The Listener must
// be closed.
func (l *Ledger) Listen(stream string) *Listener {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.topics[stream]
	if t == nil {
		t = &topic{news: make(chan struct{})}
		if l.closed {
			close(t.news)
		} else {
			l.topics[stream] = t
		}
	}
	t.listeners++
	return &Listener{l, stream, t}
}

// Wait returns nil when an entry of the stream has become durable since
// [Ledger.Listen]. Otherwise it returns when ctx is done or the ledger is closed,
// with the reason.
func (x *Listener) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-x.topic.news:
	}
	x.ledger.mu.Lock()
	defer x.ledger.mu.Unlock()
	if x.ledger.closed {
		return ErrClosed
	}
	return nil
}

// Close ends the listening. It must be called once.
func (x *Listener) Close() {
	x.ledger.mu.Lock()
	defer x.ledger.mu.Unlock()
	if x.topic.listeners--; x.topic.listeners == 0 && x.ledger.topics[x.stream] == x.topic {
		delete(x.ledger.topics, x.stream)
	}
}

// tell wakes those who listen to a stream. Called with mu held.
func (l *Ledger) tell(stream string) {
	if t := l.topics[stream]; t != nil {
		delete(l.topics, stream)
		close(t.news)
	}
}

// read runs fn in a view of the store and says what was attempted if it fails.
func read[T any](ctx context.Context, s Store, attempt string, fn func(View) (T, error)) (T, error) {
	var result T
	err := s.View(ctx, func(v View) error {
		var err error
		result, err = fn(v)
		return err
	})
	if err != nil {
		var none T
		return none, fmt.Errorf("%s: %w", attempt, err)
	}
	return result, nil
}

// Stream returns all entries of a stream in order, none if there is no such
// stream. Every entry is checked against its stored hash.
func (l *Ledger) Stream(ctx context.Context, stream string) ([]Entry, error) {
	return read(ctx, l.store, "reading stream "+stream, func(v View) ([]Entry, error) { return streamOf(v, stream) })
}

func streamOf(v View, stream string) ([]Entry, error) {
	records, err := v.StreamRecords(stream)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, len(records))
	for i, r := range records {
		if entries[i], err = r.entry(); err != nil {
			return nil, err
		}
		if r.StreamSeq != int64(i)+1 {
			return nil, fmt.Errorf("%w: number %d of the stream is stored where %d should be", ErrCorrupt, r.StreamSeq, i+1)
		}
	}
	return entries, nil
}

// Streams returns the streams that carry a tag of this name and value, unique or
// not, oldest first.
func (l *Ledger) Streams(ctx context.Context, tag Tag) ([]string, error) {
	return read(ctx, l.store, "looking up "+tag.Name, func(v View) ([]string, error) {
		return v.Tagged(tag.Name, tag.Value)
	})
}

// StreamNames returns the streams that carry one of the tags, each once, sorted.
func (l *Ledger) StreamNames(ctx context.Context, tags ...Tag) ([]string, error) {
	return read(ctx, l.store, "looking up streams", func(v View) ([]string, error) {
		var out []string
		for _, t := range tags {
			names, err := v.Tagged(t.Name, t.Value)
			if err != nil {
				return nil, err
			}
			out = append(out, names...)
		}
		slices.Sort(out)
		return slices.Compact(out), nil
	})
}

// Newest returns all entries of streams that carry one of the tags, oldest stream
// first, all as of one instant: of the streams that begin before the entry
// before, the limit newest. It reads nothing of the others, and says whether
// there are any.
func (l *Ledger) Newest(ctx context.Context, before int64, limit int, tags ...Tag) (streams [][]Entry, more bool, err error) {
	streams, err = read(ctx, l.store, "reading streams", func(v View) ([][]Entry, error) {
		var places []Place
		for _, t := range tags {
			some, err := v.TaggedBefore(t.Name, t.Value, before, int64(limit)+1) // one more says that there is more
			if err != nil {
				return nil, err
			}
			places = append(places, some...)
		}
		slices.SortFunc(places, func(a, b Place) int { return cmp.Compare(a.Seq, b.Seq) })
		places = slices.Compact(places)
		if more = len(places) > limit; more {
			places = places[len(places)-limit:]
		}
		out := make([][]Entry, len(places))
		for i, p := range places {
			var err error
			if out[i], err = streamOf(v, p.Stream); err != nil {
				return nil, err
			}
		}
		return out, nil
	})
	return streams, more, err
}

// TagsOf returns the tags of a stream, ordered by name and value.
func (l *Ledger) TagsOf(ctx context.Context, stream string) ([]Tag, error) {
	return read(ctx, l.store, "reading the tags of "+stream, func(v View) ([]Tag, error) {
		return v.StreamTags(stream)
	})
}

// AllTags yields every tag of every stream, ordered by stream, name and value,
// all as of one instant. If yield returns an error, AllTags ends with it.
func (l *Ledger) AllTags(ctx context.Context, yield func(stream string, tag Tag) error) error {
	return l.store.View(ctx, func(v View) error { return v.AllTags(yield) })
}

// Entries returns at most limit entries, in order, beginning with Seq from. It
// returns none at the end of the log.
func (l *Ledger) Entries(ctx context.Context, from int64, limit int) ([]Entry, error) {
	return read(ctx, l.store, "reading entries", func(v View) (entries []Entry, err error) {
		err = v.Records(max(0, from), int64(limit), func(r Record) error {
			e, err := r.entry()
			entries = append(entries, e)
			return err
		})
		return entries, err
	})
}

// Checkpoint returns the latest signed checkpoint, verified.
func (l *Ledger) Checkpoint(ctx context.Context) (Checkpoint, error) {
	return read(ctx, l.store, "reading the ledger checkpoint", func(v View) (Checkpoint, error) {
		h, err := v.Head()
		if err != nil {
			return Checkpoint{}, err
		}
		return ParseCheckpoint(h.Note, l.verifier)
	})
}

// Prove returns the proof that an entry is in the log of the latest checkpoint.
// The proof has been verified.
func (l *Ledger) Prove(ctx context.Context, seq int64) (Proof, error) {
	return read(ctx, l.store, "proving an entry", func(v View) (Proof, error) {
		_, p, err := l.prove(v, seq)
		return p, err
	})
}

func (l *Ledger) prove(v View, seq int64) (Record, Proof, error) {
	h, err := v.Head()
	if err != nil {
		return Record{}, Proof{}, err
	}
	if seq < 0 || seq >= h.Size {
		return Record{}, Proof{}, fmt.Errorf("entry %d of %d: %w", seq, h.Size, ErrNotFound)
	}
	p := Proof{Index: seq, Note: h.Note}
	if p.Hashes, err = tlog.ProveRecord(h.Size, seq, v); err != nil {
		return Record{}, Proof{}, err
	}
	var record Record
	err = v.Records(seq, 1, func(r Record) error {
		record = r
		return VerifyProof(r.Leaf, p, l.verifier)
	})
	return record, p, err
}

// A Proven is what the log says of one entry at one instant.
type Proven struct {
	Entry     Entry
	Proof     Proof // that the entry is in the log of the latest checkpoint; verified
	StreamLen int64 // the StreamSeq of the last entry of its stream
}

// ProveEntry returns an entry, its proof and the length of its stream, all as of
// one instant.
func (l *Ledger) ProveEntry(ctx context.Context, seq int64) (Proven, error) {
	return read(ctx, l.store, "proving an entry", func(v View) (Proven, error) {
		r, p, err := l.prove(v, seq)
		if err != nil {
			return Proven{}, err
		}
		e, err := r.entry()
		if err != nil {
			return Proven{}, err
		}
		n, err := v.StreamLen(e.Stream)
		return Proven{Entry: e, Proof: p, StreamLen: n}, err
	})
}

// ProveStream returns all entries of a stream, as [Ledger.Stream] does, and for each the proof that it is in the log of the latest
// checkpoint, which is the same for all.
func (l *Ledger) ProveStream(ctx context.Context, stream string) ([]Entry, []Proof, error) {
	var proofs []Proof
	entries, err := read(ctx, l.store, "proving stream "+stream, func(v View) ([]Entry, error) {
		h, err := v.Head()
		if err != nil {
			return nil, err
		}
		entries, err := streamOf(v, stream)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			p := Proof{Index: e.Seq, Note: h.Note}
			if p.Hashes, err = tlog.ProveRecord(h.Size, e.Seq, v); err != nil {
				return nil, err
			}
			proofs = append(proofs, p)
		}
		return entries, nil
	})
	return entries, proofs, err
}

// Consistency returns the proof that the log of newSize entries begins with the
// log of oldSize entries; see [VerifyConsistency]. Neither may be greater than
// Size.
func (l *Ledger) Consistency(ctx context.Context, oldSize, newSize int64) ([]tlog.Hash, error) {
	return read(ctx, l.store, "proving consistency", func(v View) ([]tlog.Hash, error) {
		h, err := v.Head()
		if err != nil {
			return nil, err
		}
		if oldSize < 0 || newSize < oldSize || h.Size < newSize {
			return nil, fmt.Errorf("size %d before %d of %d: %w", oldSize, newSize, h.Size, ErrNotFound)
		}
		if oldSize == 0 {
			return nil, nil
		}
		return tlog.ProveTree(newSize, oldSize, v)
	})
}

// Continues checks that the log is a continuation of a checkpoint seen earlier.
// If it is shorter, or was different when it had that size, the error wraps
// ErrForked.
func (l *Ledger) Continues(ctx context.Context, old Checkpoint) error {
	return l.store.View(ctx, func(v View) error {
		h, err := v.Head()
		if err != nil {
			return err
		}
		if old.Size > h.Size {
			return fmt.Errorf("%w: it has %d entries, the checkpoint %d", ErrForked, h.Size, old.Size)
		}
		e, err := loadEdge(old.Size, v)
		if err != nil {
			return err
		}
		if e.root() != old.Root {
			return fmt.Errorf("%w: at size %d its root is %s, the checkpoint's is %s", ErrForked, old.Size, e.root(), old.Root)
		}
		return nil
	})
}

// Bookmark returns a side value set by [Ledger.SetBookmark], nil if there is
// none. Side values are durable but not part of the log.
func (l *Ledger) Bookmark(ctx context.Context, key string) ([]byte, error) {
	return read(ctx, l.store, "reading bookmark "+key, func(v View) ([]byte, error) { return v.Bookmark(key) })
}

// Close ends the writer after the writes already begun, refuses those still
// queued with ErrClosed, wakes every waiter and closes the store. It must not
// be called while reads are under way.
func (l *Ledger) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	close(l.grown)
	for stream := range l.topics {
		l.tell(stream)
	}
	l.mu.Unlock()
	l.wakeWriter()
	<-l.stopped
	return l.store.Close()
}
