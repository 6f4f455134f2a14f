package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The shipped example is read by the program in a root with nothing else in it, as in the image: no time zones, no users, no
// temporary directory but the one that is mounted.
func TestExampleIsReadInAnEmptyRoot(t *testing.T) {
	root := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", filepath.Join(root, "breakglassd"), ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	for to, from := range map[string]string{"config.yaml": "../../config.example.yaml", "access.yaml": "../../policies/access.example.yaml"} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, to), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check := exec.CommandContext(t.Context(), "/breakglassd", "config", "check", "--config", "/config.yaml")
	check.Dir, check.Env = "/", []string{}
	check.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	if os.Geteuid() != 0 { // a user namespace makes us root for this
		check.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		check.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		check.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	out, err := check.CombinedOutput()
	if err == nil {
		t.Fatalf("all is well, without any of the secrets:\n%s", out)
	}
	if !strings.Contains(string(out), "✓ /config.yaml: ") || !strings.Contains(string(out), "✓ /access.yaml: ") {
		t.Errorf("the example, or its access policy, is not read:\n%s", out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "✗") && !strings.Contains(line, "no such file or directory") {
			t.Errorf("what is wrong is not that a file is missing: %s", line)
		}
	}
}
