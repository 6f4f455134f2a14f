// Package slacksdk installs Slack's own SDK and types for JavaScript, so that tests can hold the Slack simulator and the messages of
// the Slack app against something that Slack wrote. Which versions is said by package.json and package-lock.json; the lock names no
// registry, so that npm takes the one it is configured for, and has the hash of every package.
package slacksdk

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/gofrs/flock"
)

//go:embed package.json package-lock.json
var files embed.FS

// Modules returns the directory node_modules with the SDK and types, installing them in the user's cache at the first need, and
// the path of node. The test fails when there is no npm, or it cannot install.
func Modules(t testing.TB) (modules, node string) {
	t.Helper()
	node, err := exec.LookPath("node")
	npm, missing := exec.LookPath("npm")
	if err != nil || missing != nil {
		t.Fatal("this test runs Slack's own SDK and needs node and npm: install Node.js 18 or later (Debian: apt-get install nodejs npm)")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatalf("finding a place for Slack's SDK: %v", err)
	}
	lock, err := files.ReadFile("package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	cache = filepath.Join(cache, "breakglass-slacksdk")
	dir := filepath.Join(cache, fmt.Sprintf("%x", sha256.Sum256(lock))[:16])
	if err := os.MkdirAll(cache, 0o700); err != nil {
		t.Fatal(err)
	}
	one := flock.New(filepath.Join(cache, "install.lock"))
	defer one.Close()
	if _, err := one.TryLockContext(t.Context(), 200*time.Millisecond); err != nil {
		t.Fatalf("waiting for another process to install Slack's SDK: %v", err)
	}
	modules = filepath.Join(dir, "node_modules")
	if _, err := os.Stat(modules); err == nil {
		return modules, node
	}
	work, err := os.MkdirTemp(cache, "new-") //nolint:usetesting // it is renamed into the cache
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(work)
	if err := os.CopyFS(work, files); err != nil {
		t.Fatal(err)
	}
	t.Log("installing Slack's SDK with npm ci")
	var said bytes.Buffer
	cmd := exec.CommandContext(t.Context(), npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier")
	cmd.Dir, cmd.Stdout, cmd.Stderr = work, &said, &said
	if err := cmd.Run(); err != nil {
		t.Fatalf("this test needs Slack's SDK from npm, and `npm ci` did not install it (%v): is the registry that npm is configured for "+
			"reachable?\n%s", err, &said)
	}
	if err := os.Rename(work, dir); err != nil {
		t.Fatal(err)
	}
	return modules, node
}
