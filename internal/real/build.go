package real

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// Binaries says where each program that was asked for is. It is the key to everything else in this package.
type Binaries map[Component]string

// Env is the programs as NAME=PATH settings (see [Component.EnvVar]), for a child process that calls [Build] and must not
// look for, or rebuild, what is already here.
func (b Binaries) Env() []string {
	var env []string
	for c, path := range b {
		env = append(env, c.EnvVar()+"="+path)
	}
	return env
}

func (b Binaries) path(c Component) (string, error) {
	if b[c] == "" {
		return "", fmt.Errorf("%s is needed here but was not among the components given to Build", c)
	}
	return b[c], nil
}

// Build returns the named components, compiling those that are not in the cache yet; with no names, those that a
// whole world needs: Vault, etcd, kube-apiserver and kubectl. Compiling takes minutes, and log says so as it goes. Any number of
// goroutines and processes may call it at the same time: each component is built once, and only one is being built at any time. It stops
// when ctx ends; what the Go build cache has by then is not lost.
func Build(ctx context.Context, log func(format string, args ...any), names ...Component) (Binaries, error) {
	if len(names) == 0 {
		names = []Component{VaultServer, EtcdServer, KubeAPIServer, KubeCtl}
	}
	b := builder{log: log}
	bins := Binaries{}
	for _, name := range names {
		r, err := recipeFor(name)
		if err != nil {
			return nil, err
		}
		if bins[name], err = b.get(ctx, r); err != nil {
			return nil, err
		}
	}
	return bins, nil
}

// A builder finds or makes programs. cache and platform are found at the first need: a machine on which every program is
// named by the environment needs neither a cache directory nor Go.
type builder struct {
	log      func(format string, args ...any)
	cache    string
	platform string // Go release, GOOS, GOARCH and CGO_ENABLED
}

func (b *builder) get(ctx context.Context, r recipe) (string, error) {
	if path := os.Getenv(r.component.EnvVar()); path != "" {
		if err := checkVersion(ctx, r, path); err != nil {
			return "", fmt.Errorf("%s=%s cannot be used: %w; unset it to have the right one built", r.component.EnvVar(), path, err)
		}
		return filepath.Abs(path) // programs are started in directories of their own
	}
	if err := b.prepare(ctx); err != nil {
		return "", err
	}
	key := sha256.Sum256([]byte(strings.Join(append([]string{string(r.mod), string(r.sum), b.platform}, r.buildArgs("")...), "\x00")))
	dir := filepath.Join(b.cache, fmt.Sprintf("%s-%x", r.component, key[:8]))
	path := filepath.Join(dir, string(r.component))
	if exists(path) {
		return path, nil
	}
	// The lock is for the whole cache, not for one component: two such builds at once are slower than one after the other on
	// the machines that tests run on, and may not fit in memory.
	lock := flock.New(filepath.Join(b.cache, "build.lock"))
	defer lock.Close()
	if ok, err := lock.TryLock(); err != nil {
		return "", fmt.Errorf("locking %s: %w", lock.Path(), err)
	} else if !ok {
		b.log("waiting for another process that is building one of the real components before looking at %s", r.component)
		if _, err := lock.TryLockContext(ctx, 200*time.Millisecond); err != nil {
			return "", fmt.Errorf("waiting for another process to finish building %w", cutShort(r, err))
		}
	}
	if exists(path) {
		return path, nil
	}
	if err := b.build(ctx, r, dir); err != nil {
		return "", err
	}
	return path, nil
}

func (b *builder) prepare(ctx context.Context) error {
	if b.platform != "" {
		return nil
	}
	if b.cache == "" {
		b.cache = os.Getenv("BREAKGLASS_TEST_CACHE")
	}
	if b.cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("finding a place for the real components: %w; set BREAKGLASS_TEST_CACHE to a directory", err)
		}
		b.cache = filepath.Join(user, "breakglass-real")
	}
	var err error
	if b.cache, err = filepath.Abs(b.cache); err != nil {
		return err
	}
	if err := os.MkdirAll(b.cache, 0o755); err != nil {
		return fmt.Errorf("making a place for the real components: %w; set BREAKGLASS_TEST_CACHE to another directory", err)
	}
	out, err := goCommand(ctx, b.cache, "env", "GOVERSION", "GOOS", "GOARCH", "CGO_ENABLED").Output()
	if err != nil {
		return fmt.Errorf("asking go for its version, because the real components are built with it: %w; install Go, or name "+
			"each program with a variable such as %s", err, VaultServer.EnvVar())
	}
	b.platform = string(out)
	return nil
}

// build compiles r into dir, which appears complete or not at all. The caller holds the lock.
func (b *builder) build(ctx context.Context, r recipe, dir string) error {
	// Whatever is still here was left by a build that was killed: nobody else builds while we hold the lock.
	left, err := filepath.Glob(filepath.Join(b.cache, ".build-*"))
	if err != nil {
		return err
	}
	for _, old := range left {
		if err := os.RemoveAll(old); err != nil {
			return err
		}
	}
	tmp, err := os.MkdirTemp(b.cache, ".build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := writeFiles(tmp, map[string][]byte{"go.mod": r.mod, "go.sum": r.sum}); err != nil {
		return err
	}
	path := filepath.Join(tmp, string(r.component))
	b.log("building %s %s, first time only, about %s", r.component, r.version, r.about)
	began := time.Now()
	cmd := goCommand(ctx, tmp, r.buildArgs(path)...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = 5 * time.Second // compilers that outlive a killed go command hold its output open
	ended := make(chan error, 1)
	if err := startTied(cmd, func(err error) { ended <- err }); err != nil {
		ended <- err
	}
	minute := time.NewTicker(time.Minute)
	defer minute.Stop()
	for running := true; running; {
		select {
		case err = <-ended:
			running = false
		case <-minute.C:
			b.log("still building %s, %s so far", r.component, time.Since(began).Round(time.Second))
		}
	}
	if ctx.Err() != nil {
		return fmt.Errorf("building %w", cutShort(r, context.Cause(ctx)))
	}
	if err != nil {
		return fmt.Errorf("building %s %s: %w; the compiler's output ends:\n%s", r.component, r.version, err, tail(output.Bytes()))
	}
	if err := checkVersion(ctx, r, path); err != nil {
		return fmt.Errorf("checking what was just built: %w", err)
	}
	b.log("built %s %s in %s", r.component, r.version, time.Since(began).Round(time.Second))
	return os.Rename(tmp, dir)
}

// cutShort explains to whoever reads the test's output how to get past a build that is longer than the time they gave.
func cutShort(r recipe, err error) error {
	return fmt.Errorf("%s %s was cut short: %w; what is compiled so far is not lost: run it again, or first run\n"+
		"\tgo test ./internal/real -run TestEveryComponentBuilds -timeout 60m", r.component, r.version, err)
}

func goCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	// A workspace or a -mod=vendor meant for the caller's own module would send this build astray.
	cmd.Env = append(cmd.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly")
	return cmd
}

func checkVersion(ctx context.Context, r recipe, path string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute) // seconds, even for a binary this large on a busy machine
	defer cancel()
	out, err := exec.CommandContext(ctx, path, r.ask...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("asking for its version with %q: %w, output %q", strings.Join(r.ask, " "), err, tail(out))
	}
	if !r.recognises(string(out)) {
		return fmt.Errorf("%s %s is wanted, and it answers %q to %q", r.component, r.version, tail(out), strings.Join(r.ask, " "))
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// tail is the end of a log: enough to see why a program gave up, little enough to read.
func tail(log []byte) string {
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	if over := len(lines) - 25; over > 0 {
		lines = lines[over:]
	}
	return strings.Join(lines, "\n")
}
