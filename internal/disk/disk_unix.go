//go:build linux || darwin

package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Free returns the room that is left for users on the file system of a path. What does not exist yet counts as the directory that it
// will be made in.
func Free(path string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(nearest(path), &s); err != nil {
		return 0, fmt.Errorf("asking how much room %s has: %w", path, err)
	}
	return int64(s.Bavail) * int64(s.Bsize), nil //nolint:unconvert // Bsize has another type on macOS
}

// Same reports whether two paths are on one file system.
func Same(a, b string) (bool, error) {
	var x, y syscall.Stat_t
	if err := errors.Join(syscall.Stat(nearest(a), &x), syscall.Stat(nearest(b), &y)); err != nil {
		return false, fmt.Errorf("comparing the file systems of %s and %s: %w", a, b, err)
	}
	return x.Dev == y.Dev, nil
}

// nearest is the path or, if it does not exist, the nearest directory above that does.
func nearest(path string) string {
	for {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}

// allocated reports whether a file really has its room.
func allocated(f *os.File, size int64) (bool, error) {
	var s syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &s); err != nil {
		return false, err
	}
	return s.Blocks*512 >= size, nil
}
