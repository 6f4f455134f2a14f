package ledger

import (
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// edge is the right edge of a Merkle tree: the roots of its complete subtrees,
// largest first. It is all that is needed to grow the tree, and its fold is the
// root. Its zero value is the empty tree.
type edge struct {
	size  int64
	peaks []tlog.Hash
}

// loadEdge reads the edge of the tree with n leaves. tlog.TreeHash asks for
// exactly the peaks, so one read gives both the edge and the root.
func loadEdge(n int64, r tlog.HashReader) (edge, error) {
	e := edge{size: n}
	_, err := tlog.TreeHash(n, tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes, err := r.ReadHashes(indexes)
		e.peaks = slices.Clone(hashes)
		return hashes, err
	}))
	if err != nil {
		return edge{}, fmt.Errorf("reading the Merkle hashes of %d entries: %w", n, err)
	}
	return e, nil
}

// add grows the tree by one leaf and returns the hashes to be stored with it:
// its own, then one for each subtree it completes, lowest first.
func (e *edge) add(leaf tlog.Hash) []tlog.Hash {
	stored := []tlog.Hash{leaf}
	for n := e.size; n&1 == 1; n >>= 1 {
		last := len(e.peaks) - 1
		leaf = tlog.NodeHash(e.peaks[last], leaf)
		e.peaks = e.peaks[:last]
		stored = append(stored, leaf)
	}
	e.peaks = append(e.peaks, leaf)
	e.size++
	return stored
}

// root returns the root of the tree.
func (e *edge) root() tlog.Hash {
	if e.size == 0 {
		return EmptyRoot()
	}
	h := e.peaks[len(e.peaks)-1]
	for i := len(e.peaks) - 2; i >= 0; i-- {
		h = tlog.NodeHash(e.peaks[i], h)
	}
	return h
}

func (e *edge) clone() edge { return edge{e.size, slices.Clone(e.peaks)} }

// EmptyRoot is the root of the tree without leaves: the SHA-256 of nothing
// (RFC 6962, section 2.1).
func EmptyRoot() tlog.Hash {
	h, err := tlog.TreeHash(0, nil)
	if err != nil {
		panic(err) // tlog reads nothing for an empty tree
	}
	return h
}

func joinHashes(hashes []tlog.Hash) []byte {
	b := make([]byte, 0, len(hashes)*tlog.HashSize)
	for _, h := range hashes {
		b = append(b, h[:]...)
	}
	return b
}
