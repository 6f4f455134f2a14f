// Package smalldisk runs a test on a small file system of its own, which the test can fill.
package smalldisk

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// where names the mounted directory to the process that the test runs in.
const where = "BREAKGLASS_TEST_SMALL_DISK"

// Run runs a test in a process with a mount namespace of its own, in which a file system of size (as mount writes it, for instance
// 48m) is at dir. The calling test must do nothing else. Mounting takes root, or a kernel that gives users namespaces of their own.
func Run(t *testing.T, size string, test func(t *testing.T, dir string)) {
	t.Helper()
	if dir := os.Getenv(where); dir != "" {
		err := errors.Join(syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""),
			syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size))
		if err != nil {
			t.Fatalf("this test mounts a small tmpfs in a namespace of its own, and may not: %v", err)
		}
		test(t, dir)
		return
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	child.Env = append(os.Environ(), where+"="+t.TempDir())
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		child.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		child.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		child.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	out, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("on a small disk (which takes root, or user namespaces): %v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// Fill takes all the room that is left in dir, and returns what gives it back.
func Fill(t *testing.T, dir string) (empty func()) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "filler"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			block = block[:len(block)/2]
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := os.Remove(f.Name()); err != nil {
			t.Fatal(err)
		}
	}
}
