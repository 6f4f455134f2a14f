package ledger

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	// maxGroup bounds how many writes share one transaction, and so how long the
	// first of them waits for the last.
	maxGroup = 256

	// saltSize is that of the hash: a shorter salt would be the weaker part.
	saltSize = 32

	maxTagValue = 512 // bytes
)

// A write is one caller's wish, queued for the writer goroutine.
type write struct {
	// run decides and writes. It is called again if what it wrote was not kept
	// for want of room, and room was made. A refusal (ErrConflict,
	// TagTakenError, ErrNotFound) means that it has written nothing and concerns
	// this caller only; any other error fails the whole group.
	run   func(*group) error
	taken atomic.Bool // by the writer, which will answer, or by the caller, who has given up
	done  chan error
}

// Append appends drafts to a stream, in order, in one durable transaction
// together with the Merkle hashes, the signed checkpoint and the stream's tags.
// When it returns without error, all that is durable.
//
// expect is the StreamSeq of the stream's last entry as the caller knows it, 0
// for a stream that must be new, or [AnyVersion]. If the stream is longer or
// shorter, or a draft's deadline has passed, the answer is ErrConflict. at is the time of the entries; if the log's
// last entry is later, that one's time is used.
//
// If tags is nil, the stream's tags stay as they are. Otherwise the tags that
// are not unique become exactly those given, and the unique ones are added. If
// another stream has ever held one of the unique ones, the answer is a
// *TagTakenError.
//
// If ctx is done before the write has begun, nothing is written; afterwards ctx
// has no influence. On ErrUnknownOutcome the process must exit.
func (l *Ledger) Append(ctx context.Context, at time.Time, stream string, expect int64, tags []Tag, drafts ...Draft) ([]Entry, error) {
	if err := checkAppend(at, stream, tags, drafts); err != nil {
		return nil, fmt.Errorf("appending to stream %.200q: %w", stream, err)
	}
	// Round strips the monotonic reading, which would make times of this process
	// compare as if the wall clock had never been set back.
	at = at.UTC().Round(0)
	var entries []Entry
	err := l.write(ctx, func(g *group) error {
		var err error
		entries, err = g.append(at, stream, expect, tags, drafts)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("appending to stream %s: %w", stream, err)
	}
	return entries, nil
}

// checkAppend refuses what could not be stored, so that inside a group only the
// store itself can fail. The size of a leaf is checked when it is built.
func checkAppend(at time.Time, stream string, tags []Tag, drafts []Draft) error {
	if !validName(stream) {
		return fmt.Errorf("a stream name is 1 to %d visible ASCII characters", maxName)
	}
	if y := at.UTC().Year(); y < 1970 || y > 9999 {
		return fmt.Errorf("time %s is not between the years 1970 and 9999", at)
	}
	if len(drafts) == 0 {
		return errors.New("nothing to append")
	}
	for _, d := range drafts {
		if !validName(d.Kind) {
			return fmt.Errorf("kind %.200q is not 1 to %d visible ASCII characters", d.Kind, maxName)
		}
		size := len(d.Body) + 512 // more than a header without texts
		for name, text := range d.Texts {
			if !validName(name) || len(text) > MaxText || !utf8.ValidString(text) {
				return fmt.Errorf("text %.200q of %s needs a name of visible ASCII and at most %d bytes of UTF-8", name, d.Kind, MaxText)
			}
			size += len(name) + 64
		}
		if size > MaxLeaf {
			return fmt.Errorf("%s of %d bytes is too long: an entry has at most %d", d.Kind, size, MaxLeaf)
		}
	}
	for _, t := range tags {
		if !validName(t.Name) || t.Value == "" || len(t.Value) > maxTagValue ||
			!utf8.ValidString(t.Value) || strings.ContainsRune(t.Value, 0) {
			return fmt.Errorf("tag %.200q needs a name of visible ASCII and a value of 1 to %d bytes of UTF-8", t.Name, maxTagValue)
		}
	}
	return nil
}

// SetBookmark stores a small value under a key, durably, replacing the one
// before. It is not part of the log and leaves no trace in it.
func (l *Ledger) SetBookmark(ctx context.Context, key string, value []byte) error {
	err := l.write(ctx, func(g *group) error { return g.tx.SetBookmark(key, value) })
	if err != nil {
		return fmt.Errorf("setting bookmark %s: %w", key, err)
	}
	return nil
}

// Once reports, durably, whether this is the first call with key. It reports
// true exactly once until ttl after that call's now, however many calls there
// are at a time and however often the process restarts. A now that is earlier
// than that of an earlier call, or than the last entry, counts as that time: a
// clock that was set back makes nothing new that was not.
func (l *Ledger) Once(ctx context.Context, key string, now time.Time, ttl time.Duration) (bool, error) {
	var first bool
	err := l.write(ctx, func(g *group) error {
		var err error
		for _, before := range []time.Time{l.latest, g.time} {
			if now.Before(before) {
				now = before
			}
		}
		l.latest = now
		first, err = g.tx.Remember(key, now, now.Add(ttl))
		return err
	})
	if err != nil {
		return false, fmt.Errorf("checking for a replay: %w", err)
	}
	return first, nil
}

// Erase forgets one text of an entry for good: when it returns nil, the text is
// in none of the store's files, and the log still verifies. Backups are the
// operator's business. Erasing twice is not an error. That a text was erased,
// and by whom, is not recorded here: append an entry that says so.
func (l *Ledger) Erase(ctx context.Context, seq int64, name string) error {
	err := l.write(ctx, func(g *group) error {
		found, err := g.tx.EraseText(seq, name)
		if err == nil && !found {
			err = ErrNotFound
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("erasing text %q of entry %d: %w", name, seq, err)
	}
	if err := l.store.Scrub(ctx); err != nil {
		return fmt.Errorf("text %q of entry %d is erased, but a copy may remain in the store's journal, so erase it again: %w", name, seq, err)
	}
	return nil
}

// write queues a write and waits for its answer.
func (l *Ledger) write(ctx context.Context, run func(*group) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if l.signer == nil {
		return ErrReadOnly
	}
	w := &write{run: run, done: make(chan error, 1)}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.queue = append(l.queue, w)
	l.mu.Unlock()
	l.wakeWriter()
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		if w.taken.CompareAndSwap(false, true) {
			return ctx.Err()
		}
		return <-w.done // it has begun, so only its outcome is the truth
	}
}

func (l *Ledger) wakeWriter() {
	select {
	case l.wake <- struct{}{}:
	default: // it is awake already
	}
}

// writeLoop is the writer goroutine: it alone uses the store's Update. Close
// waits for it.
func (l *Ledger) writeLoop() {
	defer close(l.stopped)
	for range l.wake {
		for {
			writes, failure := l.take()
			if len(writes) == 0 {
				break
			}
			if failure == nil {
				l.commit(writes)
				continue
			}
			for _, w := range writes {
				w.done <- failure
			}
		}
		l.mu.Lock()
		closed := l.closed
		l.mu.Unlock()
		if closed {
			return
		}
	}
}

// take removes the next group of writes from the queue, and says why they must
// be refused if they must.
func (l *Ledger) take() (writes []*write, failure error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.queue) > 0 && len(writes) < maxGroup {
		w := l.queue[0]
		l.queue[0], l.queue = nil, l.queue[1:]
		if w.taken.CompareAndSwap(false, true) {
			writes = append(writes, w)
		}
	}
	if l.closed {
		return writes, ErrClosed
	}
	return writes, l.failure
}

// commit runs a group of writes in one transaction and answers them.
func (l *Ledger) commit(writes []*write) {
	g, refusals, err := l.try(writes)
	for errors.Is(err, ErrRoomMade) { // ends when there is no more room to be made
		g, refusals, err = l.try(writes)
	}
	l.mu.Lock()
	switch {
	case err == nil && g.head.Size > l.head.Size:
		l.head, l.edge = g.head, g.edge
		if !l.closed {
			close(l.grown)
			l.grown = make(chan struct{})
			for _, r := range g.records {
				l.tell(r.Stream)
			}
		}
	case errors.Is(err, ErrUnknownOutcome), errors.Is(err, ErrLocked), errors.Is(err, ErrCorrupt), errors.Is(err, ErrForked):
		if l.failure == nil {
			close(l.failed)
		}
		l.failure = err
	}
	l.mu.Unlock()
	for i, w := range writes {
		if err != nil {
			w.done <- err // also for a refusal: it was about a state that never was
			continue
		}
		w.done <- refusals[i]
	}
}

// try runs a group of writes in one transaction, once.
func (l *Ledger) try(writes []*write) (*group, []error, error) {
	refusals := make([]error, len(writes))
	g := &group{signer: l.signer, verifier: l.verifier, edge: l.edge.clone()}
	err := l.store.Update(context.Background(), func(tx Tx) error {
		g.tx = tx
		if err := g.begin(l.head); err != nil {
			return err
		}
		for i, w := range writes {
			if refusals[i] = w.run(g); refusals[i] != nil && !isRefusal(refusals[i]) {
				return refusals[i]
			}
		}
		return g.seal()
	})
	return g, refusals, err
}

func isRefusal(err error) bool {
	taken := (*TagTakenError)(nil)
	return errors.Is(err, ErrConflict) || errors.Is(err, ErrNotFound) || errors.As(err, &taken)
}

// A group is what one transaction does.
type group struct {
	tx       Tx
	signer   note.Signer
	verifier note.Verifier
	head     Head // as the transaction found it, then as it leaves it
	edge     edge
	records  []Record
	time     time.Time
}

// begin reads the head and refuses to build on one that is not a continuation
// of the last head this process knows, which is how a database file that was
// swapped or restored under a running process shows.
func (g *group) begin(known Head) error {
	var err error
	if g.head, err = g.tx.Head(); err != nil {
		return err
	}
	if g.head.Size < known.Size || g.head.Size == known.Size && g.head.Root != known.Root {
		return fmt.Errorf("%w: the store is at size %d and root %s, this process at %d and %s",
			ErrForked, g.head.Size, g.head.Root, known.Size, known.Root)
	}
	if g.head.Size != g.edge.size { // another replica of this process has appended
		if g.edge, err = loadEdge(g.head.Size, g.tx); err != nil {
			return err
		}
	}
	if g.edge.root() != g.head.Root {
		return fmt.Errorf("%w: the stored hashes of %d entries do not have the root that was signed", ErrCorrupt, g.head.Size)
	}
	g.time = g.head.Time
	return nil
}

func (g *group) append(at time.Time, stream string, expect int64, tags []Tag, drafts []Draft) ([]Entry, error) {
	length, err := g.tx.StreamLen(stream)
	if err != nil {
		return nil, err
	}
	if expect != AnyVersion && expect != length {
		return nil, ErrConflict
	}
	for _, t := range tags {
		if !t.Unique {
			continue
		}
		holder, err := g.tx.TagHolder(t.Name, t.Value)
		if err != nil {
			return nil, err
		}
		if holder != "" && holder != stream {
			return nil, &TagTakenError{Tag: t, Stream: holder}
		}
	}
	if at.Before(g.time) && drafts[0].Kind != KindClockAccepted {
		at = g.time
	}
	for _, d := range drafts {
		if !d.Before.IsZero() && !at.Before(d.Before) {
			return nil, ErrConflict
		}
	}
	// Nothing is refused from here on.
	g.time = at
	entries := make([]Entry, len(drafts))
	for i, d := range drafts {
		lf := leaf{Stream: stream, StreamSeq: length + int64(i) + 1, Kind: d.Kind, Time: g.time, Body: d.Body}
		r := Record{Seq: g.edge.size, Stream: stream, StreamSeq: lf.StreamSeq}
		for _, name := range slices.Sorted(maps.Keys(d.Texts)) {
			t := Text{Name: name, Salt: make([]byte, saltSize), Text: d.Texts[name]}
			rand.Read(t.Salt) // never fails: it would end the process
			lf.Commitments = append(lf.Commitments, commitment{name, commit(t.Salt, name, t.Text)})
			r.Texts = append(r.Texts, t)
		}
		r.Leaf = lf.encode()
		r.Hashes = joinHashes(g.edge.add(tlog.RecordHash(r.Leaf)))
		if err := g.tx.Insert(r); err != nil {
			return nil, err
		}
		g.records = append(g.records, r)
		// Through the decoder, so that the caller sees what a reader will see.
		if entries[i], err = r.entry(); err != nil {
			return nil, err
		}
	}
	if tags == nil {
		return entries, nil
	}
	return entries, g.setTags(stream, tags)
}

// setTags writes only what differs, because most appends change no tag.
func (g *group) setTags(stream string, tags []Tag) error {
	type key struct{ name, value string }
	list, err := g.tx.StreamTags(stream)
	if err != nil {
		return err
	}
	had := make(map[key]Tag, len(list))
	for _, t := range list {
		had[key{t.Name, t.Value}] = t
	}
	for _, t := range tags {
		k := key{t.Name, t.Value}
		old, ok := had[k]
		if !ok || t.Unique && !old.Unique {
			if err := g.tx.PutTag(stream, t); err != nil {
				return err
			}
		}
		delete(had, k)
	}
	for _, old := range had {
		if old.Unique {
			continue
		}
		if err := g.tx.DropTag(stream, old); err != nil {
			return err
		}
	}
	return nil
}

// seal reads back what the group wrote, recomputes the root from the hashes
// that are stored, and only if all is as intended signs the new checkpoint.
func (g *group) seal() error {
	if len(g.records) == 0 {
		return nil
	}
	next := 0
	err := g.tx.Records(g.head.Size, int64(len(g.records))+1, func(r Record) error {
		if next == len(g.records) || !sameRecord(r, g.records[next]) {
			return fmt.Errorf("%w: entry %d was read back different from what was written", ErrCorrupt, r.Seq)
		}
		next++
		return nil
	})
	if err != nil {
		return err
	}
	root, err := tlog.TreeHash(g.edge.size, g.tx)
	if err != nil {
		return err
	}
	if next != len(g.records) || root != g.edge.root() {
		return fmt.Errorf("%w: the entries and hashes read back do not have the root that was computed", ErrCorrupt)
	}
	cp, err := SignCheckpoint(g.edge.size, root, g.signer)
	if err != nil {
		return err
	}
	if _, err := ParseCheckpoint(cp.Note, g.verifier); err != nil {
		return fmt.Errorf("verifying the checkpoint just signed: %w", err)
	}
	oldSize := g.head.Size
	g.head = Head{Size: g.edge.size, Root: root, Time: g.time, Note: cp.Note}
	return g.tx.SetHead(oldSize, g.head)
}

func sameRecord(a, b Record) bool {
	return a.Seq == b.Seq && a.Stream == b.Stream && a.StreamSeq == b.StreamSeq &&
		bytes.Equal(a.Leaf, b.Leaf) && bytes.Equal(a.Hashes, b.Hashes) &&
		slices.EqualFunc(a.Texts, b.Texts, func(x, y Text) bool {
			return x.Name == y.Name && x.Text == y.Text && bytes.Equal(x.Salt, y.Salt) && x.Erased == y.Erased
		})
}
