package ledger

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// maxProblems bounds the report on a ledger that is wrong everywhere.
const maxProblems = 1000

// A Report is what a full verification found. The ledger is sound exactly if
// Problems is empty.
type Report struct {
	Origin  string // of the checkpoint; empty, as Size and Root, if that cannot be trusted
	Size    int64
	Root    tlog.Hash
	Entries int64 // read and checked
	Streams int
	Erased  int // texts that have been erased
	// Cause is the problem that the others follow from: the first entry whose hash is not the one recorded for it, in a log that is
	// not what was signed. It is then the first of Problems too; empty: they have nothing in common.
	Cause    string
	Problems []string
}

// Err returns nil if there are no problems, and otherwise an error that wraps
// ErrCorrupt and names the first.
func (r Report) Err() error {
	if len(r.Problems) == 0 {
		return nil
	}
	return fmt.Errorf("%w (%d problems, the first: %s)", ErrCorrupt, len(r.Problems), r.Problems[0])
}

// VerifyStore checks everything that a store holds against its signed
// checkpoint: every leaf against its hash, every stored hash, the root, the
// signature, dense numbering, index columns, times that never go back, texts
// against their commitments, and the physical integrity of the store. Anchors
// are checkpoints kept elsewhere; the log must be a continuation of each.
//
// It does not stop at the first problem. The error is not nil only if ctx was
// done before the end. Whether tags agree with entries is for the caller to
// check, with [Ledger.AllTags].
func VerifyStore(ctx context.Context, store Store, verifier note.Verifier, anchors ...Checkpoint) (Report, error) {
	c := newChecker(anchors)
	damage := make(chan error, 1) // both checks read everything, hence side by side
	go func() { damage <- store.Check(ctx) }()
	err := store.View(ctx, func(v View) error {
		head, err := v.Head()
		if err != nil {
			return err
		}
		// Reading and hashing take about the same time, hence one goroutine each.
		batches := make(chan []Record, 4)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for records := range batches {
				for _, r := range records {
					c.record(r)
				}
			}
		}()
		some := make([]Record, 0, 256)
		err = v.Records(0, 1<<62, func(r Record) error {
			if some = append(some, r); len(some) == cap(some) {
				batches <- some
				some = make([]Record, 0, 256)
			}
			return nil
		})
		batches <- some
		close(batches)
		<-done
		if err != nil {
			return err
		}
		if head.Size != c.edge.size || head.Root != c.edge.root() || !head.Time.Equal(c.time) {
			c.problem("head: the row says %d entries, root %s, last of %s; found were %d, %s, %s",
				head.Size, head.Root, head.Time.Format(timeLayout), c.edge.size, c.edge.root(), c.time.Format(timeLayout))
		}
		c.finish(head.Note, verifier)
		return nil
	})
	damaged := <-damage
	if ctx.Err() != nil {
		return c.report, ctx.Err()
	}
	if damaged != nil {
		c.problem("the store is damaged: %v", damaged)
	}
	if err != nil {
		c.problem("reading after entry %d: %v", c.report.Entries-1, err)
	}
	return c.report, nil
}

// A checker follows a log from its first entry to its last.
type checker struct {
	report  Report
	anchors []Checkpoint // by size; those not reached yet
	edge    edge
	time    time.Time
	lengths map[string]int64 // of the streams so far
	changed int64            // the first entry whose hash is not the one recorded for it; -1: none
}

func newChecker(anchors []Checkpoint) *checker {
	c := &checker{lengths: make(map[string]int64), anchors: slices.Clone(anchors), changed: -1}
	slices.SortFunc(c.anchors, func(a, b Checkpoint) int { return cmp.Compare(a.Size, b.Size) })
	c.compareAnchors()
	return c
}

func (c *checker) problem(format string, args ...any) {
	switch n := len(c.report.Problems); {
	case n < maxProblems:
		c.report.Problems = append(c.report.Problems, fmt.Sprintf(format, args...))
	case n == maxProblems:
		c.report.Problems = append(c.report.Problems, "there are more problems; the list ends here")
	}
}

// differs says that the hash of an entry is not the one recorded for it.
func (c *checker) differs(seq int64) {
	if c.changed < 0 {
		c.changed = seq
	}
}

// record checks the next record of a store.
func (c *checker) record(r Record) {
	lf, problems := r.check()
	if r.Seq != c.edge.size {
		problems = append(problems, fmt.Sprintf("is stored where entry %d should be", c.edge.size))
	}
	if hashes := c.leaf(r.Seq, r.Leaf, lf, r.Texts, problems); !bytes.Equal(joinHashes(hashes), r.Hashes) {
		c.problem("entry %d: its stored hashes are not those of the entries", r.Seq)
		if !bytes.HasPrefix(r.Hashes, hashes[0][:]) {
			c.differs(r.Seq)
		}
	}
}

// leaf checks the next leaf against those before it, reports it together with
// the problems already found in it, and returns the hashes it adds to the tree.
func (c *checker) leaf(seq int64, raw []byte, lf leaf, texts []Text, problems []string) []tlog.Hash {
	if len(problems) == 0 {
		length, known := c.lengths[lf.Stream]
		if lf.StreamSeq != length+1 {
			problems = append(problems, fmt.Sprintf("is number %d of stream %s, which has %d before it", lf.StreamSeq, lf.Stream, length))
		}
		if !known {
			lf.Stream = strings.Clone(lf.Stream) // or the map would keep every header
		}
		c.lengths[lf.Stream] = lf.StreamSeq
		if lf.Time.Before(c.time) && lf.Kind != KindClockAccepted {
			problems = append(problems, "is earlier than the entry before it")
		}
		c.time = lf.Time
	}
	for _, p := range problems {
		c.problem("entry %d: %s", seq, p)
	}
	for _, t := range texts {
		if t.Erased {
			c.report.Erased++
		}
	}
	hashes := c.edge.add(tlog.RecordHash(raw))
	c.report.Entries++
	c.compareAnchors()
	return hashes
}

func (c *checker) compareAnchors() {
	for len(c.anchors) > 0 && c.anchors[0].Size == c.edge.size {
		if root := c.edge.root(); root != c.anchors[0].Root {
			c.problem("the log was different when it had %d entries: its root now is %s, an earlier checkpoint says %s",
				c.edge.size, root, c.anchors[0].Root)
		}
		c.anchors = c.anchors[1:]
	}
}

// finish compares all that was read with the signed checkpoint.
func (c *checker) finish(signed []byte, verifier note.Verifier) {
	c.report.Streams = len(c.lengths)
	for _, a := range c.anchors {
		c.problem("the log has %d entries, but an earlier checkpoint says it had %d: it was rolled back", c.edge.size, a.Size)
	}
	cp, err := ParseCheckpoint(signed, verifier)
	if err != nil {
		c.problem("checkpoint: %v", err)
		return
	}
	c.report.Origin, c.report.Size, c.report.Root = cp.Origin, cp.Size, cp.Root
	if cp.Size != c.edge.size || cp.Root != c.edge.root() {
		c.problem("checkpoint: it signs %d entries with root %s, found were %d with root %s",
			cp.Size, cp.Root, c.edge.size, c.edge.root())
		if c.changed >= 0 { // else the entry is what was signed, and its recorded hash is not
			c.report.Cause = fmt.Sprintf("entry %d is not what was logged: its hash is not the one recorded for it", c.changed)
			c.report.Problems = slices.Insert(c.report.Problems, 0, c.report.Cause)
		}
	}
}
