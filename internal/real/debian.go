package real

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// Debian returns the path of a program from a Debian package: the one that is installed, or else the package's own, unpacked into
// the cache without being installed. pkg is the package and path where the program is in it, such as usr/bin/promtool. It needs
// apt-get and dpkg-deb, and a package list (apt-get update) where nothing is installed.
func Debian(ctx context.Context, log func(format string, args ...any), pkg, path string) (string, error) {
	if installed, err := exec.LookPath(filepath.Base(path)); err == nil {
		return installed, nil
	}
	b := builder{log: log}
	if err := b.prepare(ctx); err != nil {
		return "", err
	}
	dir := filepath.Join(b.cache, "debian-"+pkg)
	program := filepath.Join(dir, path)
	lock := flock.New(dir + ".lock")
	defer lock.Close()
	if _, err := lock.TryLockContext(ctx, 200*time.Millisecond); err != nil {
		return "", fmt.Errorf("waiting for another process to unpack %s: %w", pkg, err)
	}
	if exists(program) {
		return program, nil
	}
	tmp, err := os.MkdirTemp(b.cache, ".debian-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	log("fetching the Debian package %s, first time only", pkg)
	run := func(name string, args ...string) error {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir = tmp
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("getting %s from the Debian package %s: %s: %w: %s; install it: apt-get update && apt-get install %[2]s",
				filepath.Base(path), pkg, name, err, tail(out))
		}
		return nil
	}
	if err := run("apt-get", "download", pkg); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(tmp)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".deb") {
			if err := run("dpkg-deb", "-x", e.Name(), "root"); err != nil {
				return "", err
			}
		}
	}
	if !exists(filepath.Join(tmp, "root", path)) {
		return "", fmt.Errorf("the Debian package %s has no %s", pkg, path)
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	return program, os.Rename(filepath.Join(tmp, "root"), dir)
}
