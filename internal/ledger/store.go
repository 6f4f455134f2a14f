package ledger

import (
	"context"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// A Store keeps the bytes of one ledger. It decides nothing: what may be
// appended, hashed and signed is decided in this package. The suite in package
// storetest says in tests what the comments here say in words.
//
// A Store must be safe for concurrent use.
type Store interface {
	// Update runs fn, once, in an exclusive write transaction that sees every
	// earlier one. When it returns nil, everything fn wrote is durable. When it
	// returns an error that wraps ErrUnknownOutcome, the transaction may or may
	// not have been applied. After any other error it certainly was not; an
	// error from fn is returned as it is. An error that wraps ErrLocked says
	// that another process has taken the store over, one that wraps ErrRoomMade
	// that another try has room that this one had not.
	//
	// Once fn has started, ctx being done does not stop the transaction.
	Update(ctx context.Context, fn func(Tx) error) error

	// View runs fn on a consistent snapshot of everything durable when it was
	// called. It neither waits for a running Update nor holds one up.
	View(ctx context.Context, fn func(View) error) error

	// Check examines the physical integrity of the whole store, as far as the
	// store can tell without knowing what the bytes mean. It may take time in
	// proportion to the size of the store.
	Check(ctx context.Context) error

	// Scrub removes what erased texts may have left in journals or free space.
	// After it returns nil, an erased text is not to be found in the store's
	// files.
	Scrub(ctx context.Context) error

	// Close releases the store. Nothing may use it afterwards.
	Close() error
}

// A View reads one snapshot. It is valid only inside the function it was given
// to and only on that goroutine, and stops early when the context given to
// [Store.View] is done. A yield function that returns an error ends the
// iteration, which returns that error.
type View interface {
	// ReadHashes makes a View a tlog.HashReader. The indexes are tlog's stored
	// hash indexes; an index that is not stored is an error.
	tlog.HashReader

	// Head returns the head row.
	Head() (Head, error)

	// Records yields at most limit records with their texts, ordered by Seq,
	// beginning with the first whose Seq is not less than from. A record may be
	// kept after yield returns.
	Records(from int64, limit int64, yield func(Record) error) error

	// StreamRecords returns a stream's records with their texts, ordered by
	// StreamSeq.
	StreamRecords(stream string) ([]Record, error)

	// StreamLen returns the StreamSeq of the last record of a stream, 0 if there
	// is none.
	StreamLen(stream string) (int64, error)

	// TagHolder returns the stream that holds a unique tag, "" if none does.
	TagHolder(name, value string) (string, error)

	// Tagged returns the streams that carry a tag, unique or not, ordered by the
	// Seq of their first record.
	Tagged(name, value string) ([]string, error)

	// TaggedBefore is Tagged, newest first, of the streams whose first record has
	// a Seq less than before, and at most limit of them.
	TaggedBefore(name, value string, before, limit int64) ([]Place, error)

	// StreamTags returns the tags of one stream, ordered by name, value.
	StreamTags(stream string) ([]Tag, error)

	// AllTags yields the tags of all streams, ordered by stream, name, value.
	AllTags(yield func(stream string, tag Tag) error) error

	// Bookmark returns a side value, nil if there is none.
	Bookmark(key string) ([]byte, error)
}

// A Tx is a View that can also write. A View's methods see what the Tx wrote.
type Tx interface {
	View

	// Insert stores a record whose Seq and StreamSeq are the next ones, with its
	// texts. Anything else is an error.
	Insert(Record) error

	// SetHead replaces the head row if its size still is oldSize; if not, that is
	// an error.
	SetHead(oldSize int64, head Head) error

	// PutTag gives a stream a tag. If the stream has the same tag already, it
	// becomes unique if either is.
	PutTag(stream string, tag Tag) error

	// DropTag takes a tag that is not unique from a stream.
	DropTag(stream string, tag Tag) error

	// EraseText forgets the salt and text of one commitment but remembers that it
	// was erased. It reports whether there is such a text, erased or not.
	EraseText(seq int64, name string) (bool, error)

	// SetBookmark stores a side value.
	SetBookmark(key string, value []byte) error

	// Remember stores a key until a time and reports whether it was new: not
	// stored before, or stored until a time that is not after now. It also drops
	// every key whose time is not after now.
	Remember(key string, now, until time.Time) (bool, error)
}

// A Place is where a stream begins.
type Place struct {
	Stream string
	Seq    int64 // of its first record
}

// A Record is one entry as a store keeps it. Stream and StreamSeq repeat what
// the leaf says, so that a store can index them; verification compares them.
type Record struct {
	Seq       int64
	Stream    string
	StreamSeq int64
	Leaf      []byte
	// Hashes are the stored hashes that this leaf added to the Merkle tree: its
	// own, then one for each subtree it completed, lowest first, 32 bytes each.
	Hashes []byte
	// Texts are the erasable texts, ordered by name.
	Texts []Text
}

// A Text is one erasable text as a store keeps it.
type Text struct {
	Name   string
	Salt   []byte
	Text   string
	Erased bool // then Salt and Text are empty
}

// A Head is a store's summary of the log: its one mutable row. A new store has
// size 0, the root of the empty tree, the zero time and no note.
type Head struct {
	Size int64
	Root tlog.Hash
	Time time.Time // of the last entry
	Note []byte    // the signed checkpoint
}
