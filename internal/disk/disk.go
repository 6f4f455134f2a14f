// Package disk knows how much room a file system has, and keeps some of it in reserve for what must be written when it is full.
package disk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
)

// A Reserve is a file that takes up room, to give it back when there is no other. It is for one process at a time, and its methods
// are not safe for concurrent use.
type Reserve struct {
	path        string
	size, slice int64
}

// NewReserve names a reserve without making it: size bytes at path, given back in slices.
func NewReserve(path string, size, slice int64) *Reserve { return &Reserve{path, size, slice} }

// Size is what a whole reserve holds.
func (r *Reserve) Size() int64 { return r.size }

// Held is what it holds now.
func (r *Reserve) Held() int64 {
	info, err := os.Stat(r.path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// Give gives back one slice of room, and says whether there was one.
func (r *Reserve) Give() bool {
	held := r.Held()
	switch {
	case held == 0:
		return false
	case held <= r.slice:
		return os.Remove(r.path) == nil
	}
	return os.Truncate(r.path, held-r.slice) == nil
}

// Take makes the reserve whole again, if as much as it holds is left beside it. It returns nil when the reserve is whole.
func (r *Reserve) Take() (err error) {
	held := r.Held()
	if held >= r.size {
		return nil
	}
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("the reserve of room: %w", err)
	}
	defer func() {
		if err != nil { // half a reserve would take the last room
			err = errors.Join(fmt.Errorf("the reserve of room: %w", err), f.Truncate(held))
		}
		if held == 0 && err != nil {
			err = errors.Join(err, os.Remove(r.path))
		}
		err = errors.Join(err, f.Close())
	}()
	free, err := Free(r.path)
	if err != nil {
		return err
	}
	if need := 2*r.size - held; free < need {
		return fmt.Errorf("%s has %s left, and %s are needed to make it", r.path, MiB(free), MiB(need))
	}
	if err := allocate(f, r.size); err != nil {
		return err
	}
	if ok, err := allocated(f, r.size); ok || err != nil {
		return errors.Join(err, f.Sync())
	}
	// This file system promises room and does not keep it. Random bytes need room also where it compresses.
	var seed [32]byte
	random := rand.NewChaCha8(seed)
	block := make([]byte, 1<<20)
	for at := int64(0); at < r.size; at += int64(len(block)) {
		_, _ = random.Read(block) // never fails
		if _, err := f.WriteAt(block[:min(int64(len(block)), r.size-at)], at); err != nil {
			return err
		}
	}
	return f.Sync()
}

// MiB writes a number of bytes for people.
func MiB(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }
