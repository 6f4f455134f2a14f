package sqlite_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/breakglassd/breakglass/internal/bgtest/smalldisk"
	"github.com/breakglassd/breakglass/internal/sqlite"
)

// A disk that is mounted read-only is named as the cause, by the lock and, where another process made that before, by the database.
func TestDiskThatIsMountedReadOnly(t *testing.T) {
	smalldisk.Run(t, "8m", func(t *testing.T, dir string) {
		path := filepath.Join(dir, "file.db")
		written(t, third, path)
		remount := func(flags uintptr) { must(t, syscall.Mount("", dir, "", syscall.MS_REMOUNT|flags, "")) }
		for _, what := range []string{"the lock is there", "no lock"} {
			remount(syscall.MS_RDONLY)
			if _, _, _, err := open(t.Context(), third, path); err == nil || !strings.Contains(err.Error(), "and the mount") {
				t.Errorf("%s: got %v, want the disk named", what, err)
			}
			remount(0)
			os.Remove(path + ".lock")
		}
		remount(syscall.MS_RDONLY)
		write, err := sqlite.Writer(path)
		must(t, err)
		defer write.Close()
		_, err = write.Exec("INSERT INTO note (line) VALUES ('no')")
		if err == nil || !strings.Contains(sqlite.Explain(err).Error(), "check the") {
			t.Errorf("got %v, want advice", sqlite.Explain(err))
		}
	})
}
