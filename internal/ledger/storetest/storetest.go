// Package storetest holds the tests that every ledger.Store must pass: what the
// interface promises, and then the whole ledger on top of it.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/breakglassd/breakglass/internal/ledger"
)

// Run runs the suite. Each call of create makes one new, empty store and returns
// a function that opens it, which is called again after the store was closed.
func Run(t *testing.T, create func(t *testing.T) (open func() (ledger.Store, error))) {
	tests := []struct {
		name string
		run  func(t *testing.T, open func() (ledger.Store, error))
	}{
		{"NewStoreIsEmpty", newStoreIsEmpty},
		{"UpdateIsAllOrNothing", updateIsAllOrNothing},
		{"InsertTakesOnlyTheNextRecord", insertTakesOnlyTheNextRecord},
		{"HeadMovesOnlyFromTheExpectedSize", headMovesOnlyFromTheExpectedSize},
		{"ViewIsASnapshot", viewIsASnapshot},
		{"HashesAreThoseOfTlog", hashesAreThoseOfTlog},
		{"AppendNumbersDensely", appendNumbersDensely},
		{"AppendRefusesAStaleVersion", appendRefusesAStaleVersion},
		{"AppendRefusesWhatCannotBeStored", appendRefusesWhatCannotBeStored},
		{"TimeNeverGoesBack", timeNeverGoesBack},
		{"TagsAreReplacedAndUniqueOnesStay", tagsAreReplacedAndUniqueOnesStay},
		{"UniqueTagIsNeverReleased", uniqueTagIsNeverReleased},
		{"RestartKeepsEverything", restartKeepsEverything},
		{"ConcurrentAppendsLoseNothing", concurrentAppendsLoseNothing},
		{"OneOfManyRacersWins", oneOfManyRacersWins},
		{"EveryLeafIsProven", everyLeafIsProven},
		{"EveryPairOfCheckpointsIsConsistent", everyPairOfCheckpointsIsConsistent},
		{"RollbackAndForkAreSeen", rollbackAndForkAreSeen},
		{"WaitWakesEveryone", waitWakesEveryone},
		{"ListenersHearOfTheirStream", listenersHearOfTheirStream},
		{"OnceIsTrueOnce", onceIsTrueOnce},
		{"BookmarksAreReplaced", bookmarksAreReplaced},
		{"ErasedTextIsGoneAndTheLogVerifies", erasedTextIsGoneAndTheLogVerifies},
		{"UnknownOutcomeStopsTheLedger", unknownOutcomeStopsTheLedger},
		{"FailedWriteLeavesNoTrace", failedWriteLeavesNoTrace},
		{"BadReadBackIsNotSigned", badReadBackIsNotSigned},
		{"WrongKeyIsRefused", wrongKeyIsRefused},
		{"ReadOnlyLedgerReadsOnly", readOnlyLedgerReadsOnly},
		{"GivingUpInTheQueueWritesNothing", givingUpInTheQueueWritesNothing},
		{"ExportVerifiesAndReadsBack", exportVerifiesAndReadsBack},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, create(t)) })
	}
}

// Key returns a fixed key pair, so that golden files can contain signatures.
func Key(tb testing.TB) (note.Signer, note.Verifier) {
	tb.Helper()
	// Made for these tests; it guards nothing.
	const skey = "PRIVATE+KEY+ledger.example.com/test+225a5145+AXptc+eATlgTFs9i+s/5ihYBhCsGvdj/KX/FgiAP4uTA"
	return keyPair(tb, skey)
}

func keyPair(tb testing.TB, skey string) (note.Signer, note.Verifier) {
	tb.Helper()
	signer, err := note.NewSigner(skey)
	if err != nil {
		tb.Fatal(err)
	}
	vkey, err := ledger.PublicKey(skey)
	if err != nil {
		tb.Fatal(err)
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		tb.Fatal(err)
	}
	return signer, verifier
}

// start is the time of the first entry in tests.
func start() time.Time { return time.Date(2026, 11, 22, 3, 45, 0, 0, time.UTC) }

func mustOpen(t *testing.T, open func() (ledger.Store, error)) ledger.Store {
	t.Helper()
	store, err := open()
	if err != nil {
		t.Fatalf("opening the store: %v", err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

func mustLedger(t *testing.T, store ledger.Store) *ledger.Ledger {
	t.Helper()
	signer, verifier := Key(t)
	l, err := ledger.Open(t.Context(), store, signer, verifier)
	if err != nil {
		t.Fatalf("opening the ledger: %v", err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func mustAppend(t *testing.T, l *ledger.Ledger, stream string, expect int64, tags []ledger.Tag, drafts ...ledger.Draft) []ledger.Entry {
	t.Helper()
	entries, err := l.Append(t.Context(), start(), stream, expect, tags, drafts...)
	if err != nil {
		t.Fatalf("Append: %v", err)
	}
	return entries
}

func mustCheckpoint(t *testing.T, l *ledger.Ledger) ledger.Checkpoint {
	t.Helper()
	cp, err := l.Checkpoint(t.Context())
	if err != nil {
		t.Fatalf("Checkpoint: %v", err)
	}
	return cp
}

func draft(kind string) ledger.Draft {
	return ledger.Draft{Kind: kind, Body: []byte(`{"kind":"` + kind + `"}`)}
}

// check verifies the whole world: the store as such, that the checkpoint covers
// every entry, and that each stream is what the log says it is.
func check(t *testing.T, store ledger.Store, l *ledger.Ledger) {
	t.Helper()
	_, verifier := Key(t)
	report, err := ledger.VerifyStore(t.Context(), store, verifier)
	if err != nil || report.Err() != nil {
		t.Fatalf("VerifyStore: %v, %q", err, report.Problems)
	}
	if report.Size != l.Size() || report.Entries != l.Size() {
		t.Fatalf("VerifyStore found %d entries and a checkpoint of %d, the ledger has %d", report.Entries, report.Size, l.Size())
	}
	entries, err := l.Entries(t.Context(), 0, int(l.Size())+1)
	if err != nil {
		t.Fatalf("Entries: %v", err)
	}
	streams := make(map[string][]ledger.Entry)
	for i, e := range entries {
		if e.Seq != int64(i) {
			t.Fatalf("entry %d has Seq %d", i, e.Seq)
		}
		streams[e.Stream] = append(streams[e.Stream], e)
	}
	for stream, want := range streams {
		got, err := l.Stream(t.Context(), stream)
		if err != nil {
			t.Fatalf("Stream: %v", err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("stream %s differs from the log (-log +stream):\n%s", stream, diff)
		}
	}
}

func newStoreIsEmpty(t *testing.T, open func() (ledger.Store, error)) {
	store := mustOpen(t, open)
	err := store.View(t.Context(), func(v ledger.View) error {
		head, err := v.Head()
		if err != nil {
			return err
		}
		if head.Size != 0 || head.Root != ledger.EmptyRoot() || !head.Time.IsZero() || len(head.Note) != 0 {
			t.Errorf("head of a new store = %+v, want that of the empty tree", head)
		}
		return v.Records(0, 10, func(r ledger.Record) error {
			t.Errorf("a new store has record %d", r.Seq)
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	_, verifier := Key(t)
	if _, err := ledger.OpenReadOnly(t.Context(), store, verifier); !errors.Is(err, ledger.ErrNotInitialized) {
		t.Errorf("OpenReadOnly of a store without checkpoint = %v, want ErrNotInitialized", err)
	}
	l := mustLedger(t, store)
	if cp := mustCheckpoint(t, l); cp.Size != 0 || cp.Root != ledger.EmptyRoot() {
		t.Errorf("first checkpoint = %+v, want that of the empty tree", cp)
	}
	check(t, store, l)
}

// record is one that a store accepts as its first; the store does not look into
// a leaf.
func record(seq int64, stream string, number int64) ledger.Record {
	return ledger.Record{Seq: seq, Stream: stream, StreamSeq: number, Leaf: []byte("leaf"), Hashes: make([]byte, 32)}
}

func updateIsAllOrNothing(t *testing.T, open func() (ledger.Store, error)) {
	store := mustOpen(t, open)
	errOurs := errors.New("ours")
	write := func(tx ledger.Tx) error {
		if err := tx.Insert(record(0, "a", 1)); err != nil {
			return err
		}
		if err := tx.PutTag("a", ledger.Tag{Name: "n", Value: "v"}); err != nil {
			return err
		}
		if err := tx.SetBookmark("k", []byte("v")); err != nil {
			return err
		}
		n, err := tx.StreamLen("a")
		if n != 1 {
			t.Errorf("inside the transaction the stream has length %d, want 1", n)
		}
		return err
	}
	err := store.Update(t.Context(), func(tx ledger.Tx) error { return errors.Join(write(tx), errOurs) })
	if !errors.Is(err, errOurs) || errors.Is(err, ledger.ErrUnknownOutcome) {
		t.Fatalf("Update = %v, want our own error", err)
	}
	lengths := func() (n int64, bookmark []byte) {
		err := store.View(t.Context(), func(v ledger.View) error {
			var err error
			if n, err = v.StreamLen("a"); err != nil {
				return err
			}
			bookmark, err = v.Bookmark("k")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n, bookmark
	}
	if n, b := lengths(); n != 0 || b != nil {
		t.Fatalf("after a failed update the stream has length %d and the bookmark is %q", n, b)
	}
	if err := store.Update(t.Context(), write); err != nil {
		t.Fatal(err)
	}
	if n, b := lengths(); n != 1 || string(b) != "v" {
		t.Fatalf("after an update the stream has length %d and the bookmark is %q", n, b)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := store.Update(ctx, func(ledger.Tx) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("Update with a context that is done = %v", err)
	}
}

func insertTakesOnlyTheNextRecord(t *testing.T, open func() (ledger.Store, error)) {
	store := mustOpen(t, open)
	insert := func(r ledger.Record) error {
		return store.Update(t.Context(), func(tx ledger.Tx) error { return tx.Insert(r) })
	}
	for _, r := range []ledger.Record{record(0, "a", 1), record(1, "a", 2), record(2, "b", 1)} {
		if err := insert(r); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range []ledger.Record{
		record(0, "c", 1), record(2, "c", 1), record(4, "c", 1), record(-1, "c", 1), // wrong Seq
		record(3, "a", 1), record(3, "a", 2), record(3, "a", 4), record(3, "c", 2), record(3, "c", 0), // wrong StreamSeq
	} {
		if err := insert(r); err == nil {
			t.Errorf("a store with 3 records took Seq %d, %s number %d", r.Seq, r.Stream, r.StreamSeq)
		}
	}
}

func headMovesOnlyFromTheExpectedSize(t *testing.T, open func() (ledger.Store, error)) {
	store := mustOpen(t, open)
	set := func(old, size int64) error {
		return store.Update(t.Context(), func(tx ledger.Tx) error {
			return tx.SetHead(old, ledger.Head{Size: size, Time: start(), Note: []byte("n")})
		})
	}
	if err := set(0, 5); err != nil {
		t.Fatal(err)
	}
	if err := set(0, 6); err == nil {
		t.Error("the head moved from size 5 although 0 was expected")
	}
	if err := set(5, 4); err == nil {
		t.Error("the head moved back from 5 to 4")
	}
}

func viewIsASnapshot(t *testing.T, open func() (ledger.Store, error)) {
	store := mustOpen(t, open)
	l := mustLedger(t, store)
	mustAppend(t, l, "a", 0, nil, draft("one"))
	err := store.View(t.Context(), func(v ledger.View) error {
		before, err := v.Head()
		if err != nil {
			return err
		}
		mustAppend(t, l, "a", 1, nil, draft("two")) // must not wait for this view
		after, err := v.Head()
		if err != nil {
			return err
		}
		if before.Size != 1 || after.Size != 1 {
			t.Errorf("a view saw sizes %d and then %d, want 1 and 1", before.Size, after.Size)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func hashesAreThoseOfTlog(t *testing.T, open func() (ledger.Store, error)) {
	store := mustOpen(t, open)
	l := mustLedger(t, store)
	var want []tlog.Hash // the reference: tlog's own linear hash storage
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			hashes[i] = want[x]
		}
		return hashes, nil
	})
	for n := range int64(70) {
		e := mustAppend(t, l, "s", n, nil, draft("k"))[0]
		hashes, err := tlog.StoredHashes(n, e.Leaf, reader)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, hashes...)
		root, err := tlog.TreeHash(n+1, reader)
		if err != nil {
			t.Fatal(err)
		}
		if cp := mustCheckpoint(t, l); cp.Root != root || cp.Size != n+1 {
			t.Fatalf("checkpoint is of size %d root %s, want %d %s", cp.Size, cp.Root, n+1, root)
		}
	}
	err := store.View(t.Context(), func(v ledger.View) error {
		indexes := make([]int64, len(want))
		for i := range indexes {
			indexes[i] = int64(len(want) - 1 - i) // any order will do
		}
		got, err := v.ReadHashes(indexes)
		if err != nil {
			return err
		}
		for i, x := range indexes {
			if got[i] != want[x] {
				t.Errorf("stored hash %d differs", x)
			}
		}
		if _, err := v.ReadHashes([]int64{int64(len(want))}); err == nil {
			t.Error("reading a hash beyond the end gave no error")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func appendNumbersDensely(t *testing.T, open func() (ledger.Store, error)) {
	store := mustOpen(t, open)
	l := mustLedger(t, store)
	d := ledger.Draft{Kind: "k", Body: []byte("any\n\nbytes\x00\xff"), Texts: map[string]string{"note": "a < b & \"c\"\n\u2028\x00",
		"empty": ""}}
	got := mustAppend(t, l, "a", 0, nil, d, draft("second"))
	got = append(got, mustAppend(t, l, "b", ledger.AnyVersion, nil, draft("other"))...)
	got = append(got, mustAppend(t, l, "a", ledger.AnyVersion, nil, draft("third"))...)
	type place struct {
		Seq, StreamSeq int64
		Stream, Kind   string
	}
	var places []place
	for _, e := range got {
		places = append(places, place{e.Seq, e.StreamSeq, e.Stream, e.Kind})
		if tlog.RecordHash(e.Leaf) == (tlog.Hash{}) || !bytes.HasSuffix(e.Leaf, e.Body) || !e.Time.Equal(start()) ||
			e.Time.Location() != time.UTC {
			t.Errorf("entry %d is malformed: %+v", e.Seq, e)
		}
	}
	want := []place{{0, 1, "a", "k"}, {1, 2, "a", "second"}, {2, 1, "b", "other"}, {3, 3, "a", "third"}}
	if diff := cmp.Diff(want, places); diff != "" {
		t.Errorf("places (-want +got):\n%s", diff)
	}
	if !bytes.Equal(got[0].Body, d.Body) || !cmp.Equal(got[0].Texts, d.Texts) {
		t.Errorf("entry 0 = %q %q, want %q %q", got[0].Body, got[0].Texts, d.Body, d.Texts)
	}
	read, err := l.Entries(t.Context(), 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, read); diff != "" {
		t.Errorf("what was returned differs from what is stored:\n%s", diff)
	}
	if page, err := l.Entries(t.Context(), 1, 2); err != nil || len(page) != 2 || page[0].Seq != 1 {
		t.Errorf("Entries(1, 2) = %v, %v", page, err)
	}
	if page, err := l.Entries(t.Context(), 4, 2); err != nil || len(page) != 0 {
		t.Errorf("Entries at the end = %v, %v, want none", page, err)
	}
	if none, err := l.Stream(t.Context(), "unknown"); err != nil || len(none) != 0 {
		t.Errorf("Stream of an unknown stream = %v, %v, want none", none, err)
	}
	check(t, store, l)
}

func appendRefusesAStaleVersion(t *testing.T, open func() (ledger.Store, error)) {
	store := mustOpen(t, open)
	l := mustLedger(t, store)
	mustAppend(t, l, "a", 0, nil, draft("one"), draft("two"))
	for _, expect := range []int64{0, 1, 3} {
		_, err := l.Append(t.Context(), start(), "a", expect, []ledger.Tag{{Name: "n", Value: "v", Unique: true}}, draft("x"))
		if !errors.Is(err, ledger.ErrConflict) {
			t.Errorf("Append expecting %d of 2 = %v, want ErrConflict", expect, err)
		}
	}
	if _, err := l.Append(t.Context(), start(), "new", 1, nil, draft("x")); !errors.Is(err, ledger.ErrConflict) {
		t.Errorf("Append expecting 1 of a new stream = %v, want ErrConflict", err)
	}
	if l.Size() != 2 {
		t.Errorf("size %d after refusals, want 2", l.Size())
	}
	if streams, err := l.Streams(t.Context(), ledger.Tag{Name: "n", Value: "v"}); err != nil || len(streams) != 0 {
		t.Errorf("a refused append left a tag: %v, %v", streams, err)
	}
	check(t, store, l)
}

func appendRefusesWhatCannotBeStored(t *testing.T, open func() (ledger.Store, error)) {
	store := mustOpen(t, open)
	l := mustLedger(t, store)
	long := string(bytes.Repeat([]byte("x"), 201))
	tests := []struct {
		name   string
		at     time.Time
		stream string
		tags   []ledger.Tag
		drafts []ledger.Draft
	}{
		{"no drafts", start(), "a", nil, nil},
		{"empty stream", start(), "", nil, []ledger.Draft{draft("k")}},
		{"stream with space", start(), "a b", nil, []ledger.Draft{draft("k")}},
		{"stream with newline", start(), "a\nb", nil, []ledger.Draft{draft("k")}},
		{"long stream", start(), long, nil, []ledger.Draft{draft("k")}},
		{"empty kind", start(), "a", nil, []ledger.Draft{draft("")}},
		{"kind not ASCII", start(), "a", nil, []ledger.Draft{draft("é")}},
		{"zero time", time.Time{}, "a", nil, []ledger.Draft{draft("k")}},
		{"body too long", start(), "a", nil, []ledger.Draft{{Kind: "k", Body: make([]byte, ledger.MaxLeaf)}}},
		{"second draft bad", start(), "a", nil, []ledger.Draft{draft("k"), draft("")}},
		{"text name with space", start(), "a", nil, []ledger.Draft{{Kind: "k", Texts: map[string]string{"a b": ""}}}},
		{"text not UTF-8", start(), "a", nil, []ledger.Draft{{Kind: "k", Texts: map[string]string{"a": "\xff"}}}},
		{"text too long", start(), "a", nil, []ledger.Draft{{Kind: "k", Texts: map[string]string{"a": string(make([]byte, ledger.MaxText+1))}}}},
		{"tag without value", start(), "a", []ledger.Tag{{Name: "n"}}, []ledger.Draft{draft("k")}},
		{"tag with zero byte", start(), "a", []ledger.Tag{{Name: "n", Value: "a\x00b"}}, []ledger.Draft{draft("k")}},
	}
	for _, test := range tests {
		if _, err := l.Append(t.Context(), test.at, test.stream, ledger.AnyVersion, test.tags, test.drafts...); err == nil {
			t.Errorf("%s: accepted", test.name)
		}
	}
	longest := ledger.Draft{Kind: long[:200], Body: make([]byte, ledger.MaxLeaf-512)}
	mustAppend(t, l, long[:200], 0, []ledger.Tag{{Name: long[:200], Value: "v"}}, longest)
	mustAppend(t, l, "a", 0, nil, ledger.Draft{Kind: "k", Texts: map[string]string{"t": string(make([]byte, ledger.MaxText))}})
	if l.Size() != 2 {
		t.Errorf("size %d, want 2", l.Size())
	}
	check(t, store, l)
}

func timeNeverGoesBack(t *testing.T, open func() (ledger.Store, error)) {
	store := mustOpen(t, open)
	l := mustLedger(t, store)
	later := start().Add(time.Hour + time.Nanosecond).In(time.FixedZone("elsewhere", 7200))
	var got []time.Time
	for _, at := range []time.Time{start(), later, start(), later.Add(time.Second)} {
		entries, err := l.Append(t.Context(), at, "a", ledger.AnyVersion, nil, draft("k"))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, entries[0].Time)
	}
	want := []time.Time{start(), later.UTC(), later.UTC(), later.UTC().Add(time.Second)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("times (-want +got):\n%s", diff)
	}
	if !l.LastTime().Equal(want[3]) {
		t.Errorf("LastTime = %s, want %s", l.LastTime(), want[3])
	}
	check(t, store, l)
}

func tagsAreReplacedAndUniqueOnesStay(t *testing.T, open func() (ledger.Store, error)) {
	store := mustOpen(t, open)
	l := mustLedger(t, store)
	tag := func(name, value string) ledger.Tag { return ledger.Tag{Name: name, Value: value} }
	unique := func(name, value string) ledger.Tag { return ledger.Tag{Name: name, Value: value, Unique: true} }
	mustAppend(t, l, "b", 0, []ledger.Tag{tag("state", "open"), tag("who", "ann"), unique("id", "1")}, draft("k"))
	mustAppend(t, l, "a", 0, []ledger.Tag{tag("state", "open"), unique("id", "2")}, draft("k"))
	streams := func(name, value string) []string {
		t.Helper()
		got, err := l.Streams(t.Context(), tag(name, value))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if diff := cmp.Diff([]string{"b", "a"}, streams("state", "open")); diff != "" {
		t.Errorf("open streams, oldest first (-want +got):\n%s", diff)
	}
	newest := func(before int64, limit int) (names []string, more bool) {
		t.Helper()
		got, more, err := l.Newest(t.Context(), before, limit, tag("state", "open"), tag("who", "ann"))
		if err != nil {
			t.Fatal(err)
		}
		for _, entries := range got {
			names = append(names, entries[0].Stream)
		}
		return names, more
	}
	for _, test := range []struct {
		before int64
		limit  int
		want   []string
		more   bool
	}{{100, 5, []string{"b", "a"}, false}, {100, 2, []string{"b", "a"}, false}, {100, 1, []string{"a"}, true}, {1, 1, []string{"b"}, false},
		{0, 1, nil, false}} {
		if names, more := newest(test.before, test.limit); !slices.Equal(names, test.want) || more != test.more {
			t.Errorf("the newest %d streams before %d are %v, more %v, want %v, %v", test.limit, test.before, names, more, test.want, test.more)
		}
	}
	if names, err := l.StreamNames(t.Context(), tag("state", "open"), tag("who", "ann")); err != nil ||
		!slices.Equal(names, []string{"a", "b"}) {
		t.Errorf("the streams with one of two tags are %v (%v)", names, err)
	}
	mustAppend(t, l, "b", 1, nil, draft("k")) // nil leaves the tags alone
	if diff := cmp.Diff([]string{"b", "a"}, streams("state", "open")); diff != "" {
		t.Errorf("after an append without tags (-want +got):\n%s", diff)
	}
	mustAppend(t, l, "b", 2, []ledger.Tag{tag("state", "done"), unique("id", "3")}, draft("k"))
	got, err := l.TagsOf(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	want := []ledger.Tag{unique("id", "1"), unique("id", "3"), tag("state", "done")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tags of b (-want +got):\n%s", diff)
	}
	mustAppend(t, l, "b", 3, []ledger.Tag{}, draft("k")) // empty is not nil
	all := make(map[string][]ledger.Tag)
	err = l.AllTags(t.Context(), func(stream string, tag ledger.Tag) error {
		all[stream] = append(all[stream], tag)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wantAll := map[string][]ledger.Tag{"a": {unique("id", "2"), tag("state", "open")}, "b": {unique("id", "1"), unique("id", "3")}}
	if diff := cmp.Diff(wantAll, all); diff != "" {
		t.Errorf("all tags (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"b"}, streams("id", "3")); diff != "" {
		t.Errorf("holder of a unique tag (-want +got):\n%s", diff)
	}
	check(t, store, l)
}

func uniqueTagIsNeverReleased(t *testing.T, open func() (ledger.Store, error)) {
	store := mustOpen(t, open)
	l := mustLedger(t, store)
	id := ledger.Tag{Name: "id", Value: "1", Unique: true}
	mustAppend(t, l, "a", 0, []ledger.Tag{id}, draft("k"))
	mustAppend(t, l, "a", 1, []ledger.Tag{}, draft("k"))
	mustAppend(t, l, "a", 2, []ledger.Tag{id}, draft("k")) // its own
	_, err := l.Append(t.Context(), start(), "b", 0, []ledger.Tag{{Name: "x", Value: "y"}, id}, draft("k"))
	taken := (*ledger.TagTakenError)(nil)
	if !errors.As(err, &taken) || taken.Stream != "a" || taken.Tag != id {
		t.Fatalf("Append with another stream's unique tag = %v, want TagTakenError naming a", err)
	}
	if tags, err := l.TagsOf(t.Context(), "b"); err != nil || len(tags) != 0 || l.Size() != 3 {
		t.Errorf("the refused append left tags %v (%v) or entries (size %d)", tags, err, l.Size())
	}
	// The same name and value as an ordinary tag is another matter.
	mustAppend(t, l, "b", 0, []ledger.Tag{{Name: "id", Value: "1"}}, draft("k"))
	err = store.Update(t.Context(), func(tx ledger.Tx) error { return tx.PutTag("b", id) })
	if err == nil {
		t.Error("the store itself let two streams hold one unique tag")
	}
	check(t, store, l)
}

func restartKeepsEverything(t *testing.T, open func() (ledger.Store, error)) {
	store := mustOpen(t, open)
	l := mustLedger(t, store)
	tags := []ledger.Tag{{Name: "id", Value: "1", Unique: true}, {Name: "state", Value: "open"}}
	var want []ledger.Entry
	for i := range int64(300) { // more than the tail that opening checks
		d := draft(fmt.Sprintf("k%d", i))
		d.Texts = map[string]string{"why": fmt.Sprintf("because %d", i)}
		want = append(want, mustAppend(t, l, fmt.Sprintf("s%d", i%7), i/7, nil, d)...)
	}
	mustAppend(t, l, "tagged", 0, tags, draft("k"))
	if err := l.SetBookmark(t.Context(), "cursor", []byte("17")); err != nil {
		t.Fatal(err)
	}
	if first, err := l.Once(t.Context(), "nonce", start(), time.Hour); err != nil || !first {
		t.Fatalf("Once = %v, %v", first, err)
	}
	cp := mustCheckpoint(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), start(), "a", 0, nil, draft("k")); !errors.Is(err, ledger.ErrClosed) {
		t.Errorf("Append after Close = %v, want ErrClosed", err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("second Close = %v", err)
	}

	store = mustOpen(t, open)
	l = mustLedger(t, store)
	got, err := l.Entries(t.Context(), 0, 300)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries after a restart (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(cp, mustCheckpoint(t, l)); diff != "" {
		t.Errorf("checkpoint after a restart (-before +after):\n%s", diff)
	}
	if got, err := l.TagsOf(t.Context(), "tagged"); err != nil || !cmp.Equal(tags, got) {
		t.Errorf("tags after a restart = %v, %v", got, err)
	}
	if got, err := l.Bookmark(t.Context(), "cursor"); err != nil || string(got) != "17" {
		t.Errorf("bookmark after a restart = %q, %v", got, err)
	}
	if first, err := l.Once(t.Context(), "nonce", start(), time.Hour); err != nil || first {
		t.Errorf("Once after a restart = %v, %v, want false", first, err)
	}
	mustAppend(t, l, "s0", 43, nil, draft("more"))
	check(t, store, l)
}

func concurrentAppendsLoseNothing(t *testing.T, open func() (ledger.Store, error)) {
	store := mustOpen(t, open)
	l := mustLedger(t, store)
	const clients, each = 16, 30
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			stream := fmt.Sprintf("c%d", c)
			for i := range int64(each) {
				entries, err := l.Append(context.WithoutCancel(t.Context()), start(), stream, i, []ledger.Tag{{Name: "n", Value: fmt.Sprint(i)}},
					draft("k"))
				if err != nil || entries[0].StreamSeq != i+1 {
					t.Errorf("Append %d of %s = %v, %v", i, stream, entries, err)
					return
				}
				if _, err := l.Prove(t.Context(), entries[0].Seq); err != nil {
					t.Errorf("an entry that was returned is not proven: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if l.Size() != clients*each {
		t.Errorf("size %d, want %d", l.Size(), clients*each)
	}
	check(t, store, l)
}

func oneOfManyRacersWins(t *testing.T, open func() (ledger.Store, error)) {
	store := mustOpen(t, open)
	l := mustLedger(t, store)
	for round := range int64(20) {
		var won, lost, taken atomic.Int64
		var wg sync.WaitGroup
		for racer := range 8 {
			wg.Go(func() {
				stream, expect := "one", round
				if racer%2 == 1 { // half of them race for a unique tag instead
					stream, expect = fmt.Sprintf("r%d-%d", round, racer), 0
				}
				tags := []ledger.Tag{{Name: "round", Value: fmt.Sprint(round), Unique: true}}
				_, err := l.Append(context.WithoutCancel(t.Context()), start(), stream, expect, tags, draft("k"))
				e := (*ledger.TagTakenError)(nil)
				switch {
				case err == nil:
					won.Add(1)
				case errors.Is(err, ledger.ErrConflict):
					lost.Add(1)
				case errors.As(err, &e):
					taken.Add(1)
				default:
					t.Errorf("Append = %v", err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 || lost.Load()+taken.Load() != 7 {
			t.Fatalf("round %d: %d won, %d lost, %d found the tag taken; want 1 winner of 8", round, won.Load(), lost.Load(), taken.Load())
		}
		if n, err := l.Stream(t.Context(), "one"); err != nil || int64(len(n)) != round+1 {
			mustAppend(t, l, "one", round, nil, draft("k")) // another stream won; keep the rounds in step
		}
	}
	check(t, store, l)
}

func everyLeafIsProven(t *testing.T, open func() (ledger.Store, error)) {
	_, verifier := Key(t)
	l := mustLedger(t, mustOpen(t, open))
	for n := range int64(33) {
		mustAppend(t, l, "a", n, nil, draft(fmt.Sprintf("k%d", n)))
		entries, err := l.Entries(t.Context(), 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			p, err := l.Prove(t.Context(), e.Seq)
			if err != nil {
				t.Fatal(err)
			}
			text, err := p.MarshalText()
			if err != nil {
				t.Fatal(err)
			}
			parsed, err := ledger.ParseProof(text)
			if err != nil {
				t.Fatalf("ParseProof of our own proof: %v\n%s", err, text)
			}
			if err := ledger.VerifyProof(e.Leaf, parsed, verifier); err != nil {
				t.Fatalf("entry %d of %d: %v", e.Seq, n+1, err)
			}
			other := entries[(e.Seq+1)%int64(len(entries))]
			if err := ledger.VerifyProof(other.Leaf, parsed, verifier); err == nil && n > 0 {
				t.Fatalf("the proof of entry %d proves entry %d", e.Seq, other.Seq)
			}
		}
	}
	for _, seq := range []int64{-1, 33} {
		if _, err := l.Prove(t.Context(), seq); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("Prove(%d) = %v, want ErrNotFound", seq, err)
		}
	}
}

func everyPairOfCheckpointsIsConsistent(t *testing.T, open func() (ledger.Store, error)) {
	l := mustLedger(t, mustOpen(t, open))
	checkpoints := []ledger.Checkpoint{mustCheckpoint(t, l)}
	for n := range int64(24) {
		mustAppend(t, l, "a", n, nil, draft("k"))
		checkpoints = append(checkpoints, mustCheckpoint(t, l))
	}
	for i, old := range checkpoints {
		for _, newer := range checkpoints[i:] {
			proof, err := l.Consistency(t.Context(), old.Size, newer.Size)
			if err != nil {
				t.Fatal(err)
			}
			if err := ledger.VerifyConsistency(proof, old, newer); err != nil {
				t.Errorf("%d to %d: %v", old.Size, newer.Size, err)
			}
			forged := newer
			forged.Root[0] ^= 1
			if err := ledger.VerifyConsistency(proof, old, forged); err == nil && old.Size > 0 {
				t.Errorf("%d to %d: a forged root passed", old.Size, newer.Size)
			}
		}
	}
	for _, sizes := range [][2]int64{{-1, 3}, {4, 3}, {3, 25}} {
		if _, err := l.Consistency(t.Context(), sizes[0], sizes[1]); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("Consistency(%v) = %v, want ErrNotFound", sizes, err)
		}
	}
}

func rollbackAndForkAreSeen(t *testing.T, open func() (ledger.Store, error)) {
	_, verifier := Key(t)
	store := mustOpen(t, open)
	l := mustLedger(t, store)
	mustAppend(t, l, "a", 0, nil, draft("k"), draft("k"))
	seen := mustCheckpoint(t, l)
	mustAppend(t, l, "a", 2, nil, draft("k"))
	future, fork := mustCheckpoint(t, l), seen
	future.Size += 5
	fork.Root[3] ^= 1
	for _, test := range []struct {
		name   string
		anchor ledger.Checkpoint
		ok     bool
	}{{"own past", seen, true}, {"future", future, false}, {"fork", fork, false}} {
		err := l.Continues(t.Context(), test.anchor)
		if (err == nil) != test.ok || err != nil && !errors.Is(err, ledger.ErrForked) {
			t.Errorf("%s: Continues = %v, want ok %v", test.name, err, test.ok)
		}
		report, err := ledger.VerifyStore(t.Context(), store, verifier, test.anchor)
		if err != nil || (report.Err() == nil) != test.ok {
			t.Errorf("%s: VerifyStore = %q, %v, want ok %v", test.name, report.Problems, err, test.ok)
		}
	}
}

func waitWakesEveryone(t *testing.T, open func() (ledger.Store, error)) {
	l := mustLedger(t, mustOpen(t, open))
	mustAppend(t, l, "a", 0, nil, draft("k"))
	if err := l.Wait(t.Context(), 0); err != nil {
		t.Errorf("Wait for what is there already = %v", err)
	}
	const waiters = 1000
	errs := make(chan error, waiters)
	for range waiters {
		go func() { errs <- l.Wait(t.Context(), 1) }()
	}
	mustAppend(t, l, "a", 1, nil, draft("k"))
	for range waiters {
		if err := <-errs; err != nil {
			t.Fatalf("Wait = %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { errs <- l.Wait(ctx, 2) }()
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("Wait with a context that is done = %v", err)
	}
	go func() { errs <- l.Wait(t.Context(), 2) }()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-errs; !errors.Is(err, ledger.ErrClosed) {
		t.Errorf("Wait on a closed ledger = %v, want ErrClosed", err)
	}
}

func listenersHearOfTheirStream(t *testing.T, open func() (ledger.Store, error)) {
	l := mustLedger(t, mustOpen(t, open))
	mustAppend(t, l, "a", 0, nil, draft("k"))
	const listeners = 100
	errs := make(chan error, listeners)
	var all []*ledger.Listener
	for range listeners {
		x := l.Listen("a") // from here on it misses nothing
		all = append(all, x)
		go func() { errs <- x.Wait(t.Context()) }()
	}
	mustAppend(t, l, "b", 0, nil, draft("k"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := all[0].Wait(ctx); !errors.Is(err, context.Canceled) || len(errs) > 0 {
		t.Errorf("an entry of another stream: Wait = %v, and %d were woken", err, len(errs))
	}
	mustAppend(t, l, "a", 1, nil, draft("k"), draft("k"))
	for range listeners {
		if err := <-errs; err != nil {
			t.Fatalf("Wait = %v", err)
		}
	}
	for _, x := range all {
		x.Close()
	}
	before, after := l.Listen("c"), l.Listen("a")
	before.Close()
	go func() { errs <- after.Wait(t.Context()) }()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-errs; !errors.Is(err, ledger.ErrClosed) {
		t.Errorf("Wait on a ledger that was closed = %v, want ErrClosed", err)
	}
	late := l.Listen("a")
	if err := late.Wait(t.Context()); !errors.Is(err, ledger.ErrClosed) {
		t.Errorf("Wait on a closed ledger = %v, want ErrClosed", err)
	}
	late.Close()
	after.Close()
}

func onceIsTrueOnce(t *testing.T, open func() (ledger.Store, error)) {
	l := mustLedger(t, mustOpen(t, open))
	var first atomic.Int64
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			ok, err := l.Once(t.Context(), "k", start(), time.Minute)
			if err != nil {
				t.Errorf("Once = %v", err)
			}
			if ok {
				first.Add(1)
			}
		})
	}
	wg.Wait()
	if first.Load() != 1 {
		t.Errorf("Once was true %d times, want 1", first.Load())
	}
	for _, test := range []struct {
		key   string
		after time.Duration
		want  bool
	}{
		{"other", 0, true},
		{"k", time.Minute - 1, false},
		{"other", -time.Hour, false}, // a clock that goes back forgets nothing
		{"k", time.Minute, true},
		{"k", time.Minute, false},
		{"late", 11 * time.Minute, true}, // drops k
		{"k", time.Minute + 1, true},     // counts as 11 minutes, and is kept until 12
		{"k", 11*time.Minute + time.Second, false},
	} {
		if got, err := l.Once(t.Context(), test.key, start().Add(test.after), time.Minute); err != nil || got != test.want {
			t.Errorf("Once(%s) after %s = %v, %v, want %v", test.key, test.after, got, err, test.want)
		}
	}
}

func bookmarksAreReplaced(t *testing.T, open func() (ledger.Store, error)) {
	l := mustLedger(t, mustOpen(t, open))
	if got, err := l.Bookmark(t.Context(), "k"); err != nil || got != nil {
		t.Errorf("unset bookmark = %q, %v, want nil", got, err)
	}
	for _, value := range [][]byte{[]byte("one"), []byte("two\x00"), nil} {
		if err := l.SetBookmark(t.Context(), "k", value); err != nil {
			t.Fatal(err)
		}
		if got, err := l.Bookmark(t.Context(), "k"); err != nil || !bytes.Equal(got, value) {
			t.Errorf("bookmark = %q, %v, want %q", got, err, value)
		}
	}
	if l.Size() != 0 {
		t.Errorf("bookmarks left %d entries", l.Size())
	}
}

func erasedTextIsGoneAndTheLogVerifies(t *testing.T, open func() (ledger.Store, error)) {
	store := mustOpen(t, open)
	l := mustLedger(t, store)
	d := draft("k")
	d.Texts = map[string]string{"name": "Ann", "why": "secret reason"}
	before := mustAppend(t, l, "a", 0, nil, d)[0]
	if bytes.Contains(before.Leaf, []byte("secret")) {
		t.Fatal("the leaf contains the text")
	}
	cp := mustCheckpoint(t, l)
	for range 2 { // twice is as good as once
		if err := l.Erase(t.Context(), 0, "why"); err != nil {
			t.Fatal(err)
		}
	}
	for _, place := range []struct {
		seq  int64
		name string
	}{{0, "unknown"}, {1, "why"}} {
		if err := l.Erase(t.Context(), place.seq, place.name); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("Erase(%v) = %v, want ErrNotFound", place, err)
		}
	}
	after, err := l.Stream(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"name": "Ann"}, after[0].Texts); diff != "" {
		t.Errorf("texts (-want +got):\n%s", diff)
	}
	if !bytes.Equal(before.Leaf, after[0].Leaf) || !cmp.Equal(cp, mustCheckpoint(t, l)) {
		t.Error("erasing changed the leaf or the checkpoint")
	}
	check(t, store, l)
	_, verifier := Key(t)
	if report, err := ledger.VerifyStore(t.Context(), store, verifier); err != nil || report.Erased != 1 {
		t.Errorf("report = %+v, %v, want 1 erased text", report, err)
	}
}

// faultyStore fails an Update on demand. fault returns whether the transaction
// is to be applied all the same, and the error to report if any.
type faultyStore struct {
	ledger.Store
	fault  func() (apply bool, err error)
	mangle func(*ledger.Record) // changes what a transaction reads
}

func (s *faultyStore) Update(ctx context.Context, fn func(ledger.Tx) error) error {
	apply, fault := true, error(nil)
	if s.fault != nil {
		apply, fault = s.fault()
	}
	errNotApplied := errors.New("not applied")
	err := s.Store.Update(ctx, func(tx ledger.Tx) error {
		if err := fn(&faultyTx{tx, s.mangle}); err != nil {
			return err
		}
		if !apply {
			return errNotApplied
		}
		return nil
	})
	if err != nil && !errors.Is(err, errNotApplied) {
		return err
	}
	return fault
}

type faultyTx struct {
	ledger.Tx
	mangle func(*ledger.Record)
}

func (tx *faultyTx) Records(from, limit int64, yield func(ledger.Record) error) error {
	return tx.Tx.Records(from, limit, func(r ledger.Record) error {
		if tx.mangle != nil {
			tx.mangle(&r)
		}
		return yield(r)
	})
}

func unknownOutcomeStopsTheLedger(t *testing.T, open func() (ledger.Store, error)) {
	want := int64(1)
	for _, applied := range []bool{false, true} {
		store := &faultyStore{Store: mustOpen(t, open)}
		l := mustLedger(t, store)
		mustAppend(t, l, "a", ledger.AnyVersion, nil, draft("before"))
		store.fault = func() (bool, error) { return applied, ledger.ErrUnknownOutcome }
		if _, err := l.Append(t.Context(), start(), "a", ledger.AnyVersion, nil, draft("unknown")); !errors.Is(err, ledger.ErrUnknownOutcome) {
			t.Fatalf("applied %v: Append = %v, want ErrUnknownOutcome", applied, err)
		}
		store.fault = nil // the disk is well again, but who knows what is on it
		if _, err := l.Append(t.Context(), start(), "a", ledger.AnyVersion, nil, draft("after")); !errors.Is(err, ledger.ErrUnknownOutcome) {
			t.Errorf("applied %v: the next Append = %v, want ErrUnknownOutcome", applied, err)
		}
		if err := l.SetBookmark(t.Context(), "k", nil); !errors.Is(err, ledger.ErrUnknownOutcome) {
			t.Errorf("applied %v: SetBookmark = %v, want ErrUnknownOutcome", applied, err)
		}
		select {
		case <-l.Failed():
		default:
			t.Errorf("applied %v: Failed is open after %v", applied, l.Err())
		}
		if l.Size() != want {
			t.Errorf("applied %v: size %d includes what may not be there, want %d", applied, l.Size(), want)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		reopened := mustOpen(t, open)
		l = mustLedger(t, reopened)
		if applied {
			want++
		}
		if l.Size() != want {
			t.Errorf("applied %v: size %d after reopening, want %d", applied, l.Size(), want)
		}
		check(t, reopened, l)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		want++ // the next round's "before"
	}
}

func failedWriteLeavesNoTrace(t *testing.T, open func() (ledger.Store, error)) {
	store := &faultyStore{Store: mustOpen(t, open)}
	l := mustLedger(t, store)
	mustAppend(t, l, "a", 0, nil, draft("k"))
	before := mustCheckpoint(t, l)
	errDisk := errors.New("no space")
	store.fault = func() (bool, error) { return false, errDisk }
	if _, err := l.Append(t.Context(), start(), "a", 1, []ledger.Tag{{Name: "n", Value: "v"}}, draft("k")); !errors.Is(err, errDisk) {
		t.Fatalf("Append = %v, want the store's error", err)
	}
	if diff := cmp.Diff(before, mustCheckpoint(t, l)); diff != "" || l.Size() != 1 {
		t.Errorf("a failed append moved the checkpoint:\n%s", diff)
	}
	store.fault = nil
	mustAppend(t, l, "a", 1, nil, draft("k")) // certain failures do not stop the ledger
	check(t, store.Store, l)
}

func badReadBackIsNotSigned(t *testing.T, open func() (ledger.Store, error)) {
	for _, mangle := range []func(*ledger.Record){
		func(r *ledger.Record) { r.Leaf = append(bytes.Clone(r.Leaf), 'x') },
		func(r *ledger.Record) { r.Hashes = bytes.Repeat([]byte{1}, len(r.Hashes)) },
		func(r *ledger.Record) { r.Stream = "other" },
		func(r *ledger.Record) { r.Texts[0].Text = "other" },
	} {
		store := &faultyStore{Store: mustOpen(t, open)}
		l := mustLedger(t, store)
		store.mangle = mangle
		d := draft("k")
		d.Texts = map[string]string{"t": "text"}
		if _, err := l.Append(t.Context(), start(), "a", ledger.AnyVersion, nil, d); !errors.Is(err, ledger.ErrCorrupt) {
			t.Errorf("Append = %v, want ErrCorrupt", err)
		}
		store.mangle = nil
		if _, err := l.Append(t.Context(), start(), "a", ledger.AnyVersion, nil, d); !errors.Is(err, ledger.ErrCorrupt) {
			t.Errorf("the next Append = %v, want ErrCorrupt", err)
		}
		check(t, store.Store, l)
		if l.Size() != 0 {
			t.Errorf("size %d, want 0", l.Size())
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func wrongKeyIsRefused(t *testing.T, open func() (ledger.Store, error)) {
	signer, verifier := Key(t)
	skey, _, err := ledger.NewKey(signer.Name())
	if err != nil {
		t.Fatal(err)
	}
	otherSigner, otherVerifier := keyPair(t, skey)
	store := mustOpen(t, open)
	if _, err := ledger.Open(t.Context(), store, otherSigner, verifier); err == nil {
		t.Error("opened with two halves of different keys")
	}
	l := mustLedger(t, store)
	mustAppend(t, l, "a", 0, nil, draft("k"))
	if _, err := ledger.Open(t.Context(), store, otherSigner, otherVerifier); !errors.Is(err, ledger.ErrCorrupt) {
		t.Errorf("Open with another key = %v, want ErrCorrupt", err)
	}
	if report, err := ledger.VerifyStore(t.Context(), store, otherVerifier); err != nil || report.Err() == nil || report.Origin != "" {
		t.Errorf("VerifyStore with another key = %+v, %v, want a problem and no origin", report, err)
	}
}

func readOnlyLedgerReadsOnly(t *testing.T, open func() (ledger.Store, error)) {
	store := mustOpen(t, open)
	mustAppend(t, mustLedger(t, store), "a", 0, nil, draft("k"))
	_, verifier := Key(t)
	l, err := ledger.OpenReadOnly(t.Context(), store, verifier)
	if err != nil {
		t.Fatal(err)
	}
	if entries, err := l.Stream(t.Context(), "a"); err != nil || len(entries) != 1 || l.Size() != 1 {
		t.Errorf("Stream = %v, %v", entries, err)
	}
	if _, err := l.Append(t.Context(), start(), "a", 1, nil, draft("k")); !errors.Is(err, ledger.ErrReadOnly) {
		t.Errorf("Append = %v, want ErrReadOnly", err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
}

func givingUpInTheQueueWritesNothing(t *testing.T, open func() (ledger.Store, error)) {
	entered, release := make(chan struct{}), make(chan struct{})
	store := &faultyStore{Store: mustOpen(t, open)}
	l := mustLedger(t, store)
	var once sync.Once
	store.fault = func() (bool, error) {
		once.Do(func() { close(entered); <-release })
		return true, nil
	}
	errs := make(chan error, 2)
	write := func(ctx context.Context, stream string) {
		_, err := l.Append(ctx, start(), stream, 0, nil, draft("k"))
		errs <- err
	}
	ctx, cancel := context.WithCancel(t.Context())
	go write(ctx, "begun")
	<-entered
	queued, giveUp := context.WithCancel(t.Context())
	go write(queued, "queued")
	giveUp()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("Append that gave up = %v, want Canceled", err)
	}
	cancel() // has no influence on a write that has begun
	close(release)
	if err := <-errs; err != nil {
		t.Errorf("Append that had begun = %v, want its outcome", err)
	}
	mustAppend(t, l, "last", 0, nil, draft("k"))
	if entries, err := l.Stream(t.Context(), "queued"); err != nil || len(entries) != 0 || l.Size() != 2 {
		t.Errorf("the write that was given up left %v (%v), size %d", entries, err, l.Size())
	}
	check(t, store.Store, l)
}

func exportVerifiesAndReadsBack(t *testing.T, open func() (ledger.Store, error)) {
	_, verifier := Key(t)
	l := mustLedger(t, mustOpen(t, open))
	anchors := []ledger.Checkpoint{mustCheckpoint(t, l)}
	for i, n := range []int{0, 1, 254, 1, 1, 300} { // sizes 0, 1, 255, 256, 257, 557
		if n > 0 {
			d := draft("k")
			d.Texts = map[string]string{"why": "because \"it\" is\n" + fmt.Sprint(i), "zz": "\x00é\u2028"}
			drafts := append(make([]ledger.Draft, 0, n), d)
			for range n - 1 {
				drafts = append(drafts, draft("k"))
			}
			mustAppend(t, l, "a", ledger.AnyVersion, nil, drafts...)
			if err := l.Erase(t.Context(), 0, "why"); err != nil {
				t.Fatal(err)
			}
		}
		dir := filepath.Join(t.TempDir(), "export")
		if err := ledger.Export(t.Context(), l, dir); err != nil {
			t.Fatal(err)
		}
		anchors = append(anchors, mustCheckpoint(t, l))
		report, err := ledger.VerifyExport(t.Context(), dir, verifier, anchors...)
		if err != nil || report.Err() != nil || report.Size != l.Size() || report.Entries != l.Size() {
			t.Fatalf("size %d: VerifyExport = %+v, %v", l.Size(), report, err)
		}
		archive, err := ledger.OpenExport(dir)
		if err != nil {
			t.Fatal(err)
		}
		if cp, err := archive.Checkpoint(verifier); err != nil || !cmp.Equal(cp, mustCheckpoint(t, l)) {
			t.Errorf("size %d: Checkpoint = %v, %v", l.Size(), cp, err)
		}
		var got []ledger.Entry
		if err := archive.Entries(t.Context(), func(e ledger.Entry) error { got = append(got, e); return nil }); err != nil {
			t.Fatal(err)
		}
		want, err := l.Entries(t.Context(), 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("size %d: the export differs from the ledger:\n%s", l.Size(), diff)
		}
		if err := ledger.Export(t.Context(), l, dir); err == nil {
			t.Error("an export was overwritten")
		}
		if left, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(left) != 1 {
			t.Errorf("beside the export there is %v, %v", left, err)
		}
		future := mustCheckpoint(t, l)
		future.Size++
		if report, err := ledger.VerifyExport(t.Context(), dir, verifier, future); err != nil || report.Err() == nil {
			t.Errorf("an export older than an anchor passed: %+v, %v", report, err)
		}
	}
}
