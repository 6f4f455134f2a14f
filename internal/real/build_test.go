package real

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// TestEveryComponentBuilds is also the way to fill the cache before a first run of all tests; see the package comment.
func TestEveryComponentBuilds(t *testing.T) {
	all := append(PKIServers(), EtcdServer, KubeAPIServer, KubeCtl, ControllerManager, KubeAdm)
	bins, err := Build(t.Context(), func(format string, args ...any) { fmt.Fprintf(os.Stderr, "real: "+format+"\n", args...) }, all...)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		r, err := recipeFor(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkVersion(t.Context(), r, bins[c]); err != nil {
			t.Errorf("%s: %v", c, err)
		}
	}
}

func TestVersionsAgreeWithTheModules(t *testing.T) {
	readme, err := os.ReadFile("modules/README.md")
	if err != nil {
		t.Fatal(err)
	}
	// A release of OpenBao is had by the time and the hash of its commit.
	openbao := map[string]string{"2.4.0": "v0.0.0-20250828202315-f9407a27fbee"}
	for name, l := range lines {
		for c, want := range map[Component]string{
			VaultServer:       "github.com/hashicorp/vault v" + l.vault,
			OpenBaoServer:     "github.com/openbao/openbao " + openbao[l.openbao],
			EtcdServer:        "go.etcd.io/etcd/server/v3 v" + l.etcd,
			KubeAPIServer:     "k8s.io/kubernetes v" + l.kubernetes,
			KubeCtl:           "k8s.io/kubernetes v" + l.kubernetes,
			ControllerManager: "k8s.io/kubernetes v" + l.kubernetes,
			KubeAdm:           "k8s.io/kubernetes v" + l.kubernetes,
		} {
			if c == OpenBaoServer && l.openbao == "" {
				if _, err := l.recipeFor(c); err == nil || !strings.Contains(err.Error(), LineVar+"=oldest") {
					t.Errorf("line %q has no OpenBao, and building one says %v", name, err)
				}
				continue
			}
			r, err := l.recipeFor(c)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(r.mod), want+"\n") {
				t.Errorf("line %q: the module that %s is built from does not require %s", name, c, want)
			}
			if !strings.Contains(string(readme), "| "+r.version+" |") {
				t.Errorf("line %q: modules/README.md does not name %s %s", name, c, r.version)
			}
		}
	}
}

func TestAnUnknownLineIsRefused(t *testing.T) {
	t.Setenv(LineVar, "newest")
	_, err := Build(t.Context(), t.Logf, EtcdServer)
	if err == nil || !strings.Contains(err.Error(), "BREAKGLASS_REAL=newest is not known: set it to oldest") {
		t.Errorf("got error %v, want one that names the variable and what it may be", err)
	}
}

// small is a component that compiles in seconds on any machine: Go's own assembler.
func small() recipe {
	return recipe{component: "asm", version: "of this Go", mod: []byte("module small.real\n\ngo 1.26\n"), pkg: "cmd/asm",
		about: "seconds", ask: []string{"-V"}, answer: "asm version " + runtime.Version()}
}

func TestConcurrentBuildsCompileOnce(t *testing.T) {
	var mu sync.Mutex
	var said []string
	log := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, fmt.Sprintf(format, args...))
	}
	cache := t.TempDir()
	if err := os.Mkdir(filepath.Join(cache, ".build-left-by-a-killed-process"), 0o700); err != nil {
		t.Fatal(err)
	}
	var group errgroup.Group
	var paths [2]string
	for i := range paths {
		group.Go(func() error {
			// A builder each, as two processes would have.
			b := builder{log: log, cache: cache}
			var err error
			paths[i], err = b.get(t.Context(), small())
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if paths[0] != paths[1] {
		t.Errorf("two builds of the same thing are at %s and %s", paths[0], paths[1])
	}
	if err := checkVersion(t.Context(), small(), paths[0]); err != nil {
		t.Error(err)
	}
	built := 0
	for _, line := range said {
		if strings.HasPrefix(line, "building ") {
			built++
		}
	}
	if built != 1 {
		t.Errorf("compiled %d times, want once; it said %q", built, said)
	}
	if left, err := filepath.Glob(filepath.Join(cache, ".build-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestAnotherVersionOfTheModuleIsAnotherBuild(t *testing.T) {
	b := builder{log: t.Logf, cache: t.TempDir()}
	first, err := b.get(t.Context(), small())
	if err != nil {
		t.Fatal(err)
	}
	changed := small()
	changed.mod = append(changed.mod, "// changed\n"...)
	second, err := b.get(t.Context(), changed)
	if err != nil {
		t.Fatal(err)
	}
	if first == second {
		t.Errorf("a changed go.mod is served from %s, built from the old one", first)
	}
}

func TestFailedBuildShowsWhatTheCompilerSaid(t *testing.T) {
	cache := t.TempDir()
	b := builder{log: t.Logf, cache: cache}
	r := small()
	r.pkg = "cmd/there-is-no-such-command"
	_, err := b.get(t.Context(), r)
	if err == nil || !strings.Contains(err.Error(), "there-is-no-such-command is not in std") {
		t.Errorf("got error %v, want one with the compiler's output", err)
	}
	if left, err := filepath.Glob(filepath.Join(cache, "*asm*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestBuildBeyondItsDeadlineSaysHowToGetPastIt(t *testing.T) {
	b := builder{log: t.Logf, cache: t.TempDir()}
	if err := b.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	_, err := b.get(ctx, small())
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "-run TestEveryComponentBuilds -timeout 60m") {
		t.Errorf("got error %v, want the deadline and what to do", err)
	}
}

func TestOverrideMustBeOfTheRightVersion(t *testing.T) {
	t.Setenv(LineVar, "") // the versions below are of the newest line
	for _, test := range []struct {
		component Component
		prints    string
		refused   bool
	}{
		{VaultServer, "Vault v1.21.1 (819489a3), built 2025-10-21T19:33:57Z", false},
		{VaultServer, "Vault v1.21.1, built 2025-11-22T04:03:22Z (cgo)", false},
		{VaultServer, "Vault v1.21.1-rc1, built 2025-11-22T04:03:22Z (cgo)", true},
		{VaultServer, "Vault v1.21.1+ent (819489a3), built 2025-10-21T19:33:57Z", true},
		{VaultServer, "Vault v1.20.4 (819489a3), built 2025-10-21T19:33:57Z", true},
		{VaultServer, "OpenBao v2.4.1", true},
		{EtcdServer, "etcd Version: 3.7.3\nGit SHA: a061450", false},
		{EtcdServer, "etcd Version: 3.7.30\nGit SHA: a061450", true},
		{KubeAPIServer, "Kubernetes v1.37.2", false},
		{KubeAPIServer, "Kubernetes v1.37.2-alpha.1", true},
		{KubeAPIServer, "Kubernetes v0.0.0-master+$Format:%H$", true},
		{ControllerManager, "Kubernetes v1.35.0", true},
		{KubeCtl, "Client Version: v1.37.2\nKustomize Version: v5.7.1", false},
		{KubeAdm, "v1.37.2", false},
		{KubeAdm, "v1.37.20", true},
		{KubeCtl, "Client Version: v1.33.1\nKustomize Version: v1.37.2", true},
		{KubeCtl, "", true},
	} {
		t.Run(fmt.Sprintf("%s %q", test.component, test.prints), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "program")
			if err := os.WriteFile(path, []byte("#!/bin/sh\ncat <<'EOF'\n"+test.prints+"\nEOF\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			t.Setenv(test.component.EnvVar(), path)
			bins, err := Build(t.Context(), t.Logf, test.component)
			switch {
			case test.refused && (err == nil || !strings.Contains(err.Error(), test.component.EnvVar()+"="+path)):
				t.Errorf("got error %v, want one that names the variable and the file", err)
			case !test.refused && (err != nil || bins[test.component] != path):
				t.Errorf("got %v, %v, want the program that the variable names", bins, err)
			}
		})
	}
}

func TestOverrideNeedsNeitherGoNorACache(t *testing.T) {
	path := filepath.Join(t.TempDir(), "etcd")
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho etcd Version: "+EtcdVersion()+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, setting := range (Binaries{EtcdServer: path}).Env() {
		name, value, _ := strings.Cut(setting, "=")
		t.Setenv(name, value)
	}
	t.Setenv("HOME", "")
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("BREAKGLASS_TEST_CACHE", "")
	t.Setenv("PATH", "")
	if _, err := Build(t.Context(), t.Logf, EtcdServer); err != nil {
		t.Errorf("a program named by the environment: %v", err)
	}
	_, err := Build(t.Context(), t.Logf, VaultServer)
	if err == nil || !strings.Contains(err.Error(), "BREAKGLASS_TEST_CACHE") {
		t.Errorf("got error %v, want one that says how to name a cache directory", err)
	}
	t.Setenv("BREAKGLASS_TEST_CACHE", t.TempDir())
	_, err = Build(t.Context(), t.Logf, VaultServer)
	if err == nil || !strings.Contains(err.Error(), "install Go, or name each program with a variable such as BREAKGLASS_TEST_VAULT") {
		t.Errorf("got error %v, want one that asks for Go", err)
	}
}

func TestUnknownComponentIsAnError(t *testing.T) {
	if _, err := Build(t.Context(), t.Logf, "consul"); err == nil {
		t.Error("Build knows a component named consul")
	}
	if _, err := (Binaries{}).StartEtcd(t.Context(), EtcdOptions{Dir: t.TempDir()}); err == nil {
		t.Error("an etcd that was not built was started")
	}
}
