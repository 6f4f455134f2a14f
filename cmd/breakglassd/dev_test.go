package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/devmode"
	memca "github.com/breakglassd/breakglass/internal/sim/ca"
)

func TestWalkthroughRunsTheWholeJob(t *testing.T) {
	for _, args := range [][]string{{"dev", "--walkthrough"}, {"dev", "--walkthrough", "--real"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			var out, errOut bytes.Buffer
			if code := run(args, &out, &errOut); code != 0 {
				t.Fatalf("exit code %d\n%s%s", code, out.String(), errOut.String())
			}
			for _, want := range []string{"Alice asks in Slack", "self: refused", "inclusion proof is good", "403 Forbidden", "API server says 401",
				"one changed byte in an exported copy is found", "All of it worked"} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("the narration does not say %q:\n%s", want, out.String())
				}
			}
		})
	}
}

// A walkthrough that cannot fail shows nothing: each of these worlds is broken in one place.
func TestWalkthroughFailsWhenAnythingIsWrong(t *testing.T) {
	for name, broken := range map[string]func(*devmode.World){
		"the authority refuses to sign": func(w *devmode.World) {
			w.Signer.(*memca.CA).OnSign = func(breakglass.Order) (bool, error) { return false, breakglass.ErrNotSigned }
		},
		"Carol is unknown": func(w *devmode.World) { w.People[2].Slack = "U0STRANGER" },
		"the API server trusts another authority": func(w *devmode.World) {
			other, err := memca.New("another")
			if err != nil {
				t.Fatal(err)
			}
			w.Signer = other
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := devFlags{walkthrough: true, dir: t.TempDir(), listen: "127.0.0.1:0"}
			log := slog.New(slog.DiscardHandler)
			world, err := devmode.New(t.Context(), devmode.Options{Dir: f.dir, SlackAddr: "127.0.0.1:0", Log: log})
			if err != nil {
				t.Fatal(err)
			}
			defer world.Close()
			broken(world)
			cfg, err := devConfig(world, f)
			if err != nil {
				t.Fatal(err)
			}
			vkey, err := initLedger(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			err = devServe(ctx, world, cfg, devmode.Daemon{Ledger: cfg.Ledger.Path, LedgerKey: vkey}, f, io.Discard, log)
			if err == nil || !strings.Contains(err.Error(), "step ") {
				t.Errorf("the walkthrough ended with %v, want the step that failed", err)
			}
		})
	}
}

func TestDevWantsADirectoryOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	if code := run([]string{"dev", "--dir", dir}, &out, &errOut); code != exitUsage || !strings.Contains(errOut.String(), "is not empty") {
		t.Errorf("in a directory with a stranger's file: exit code %d, want %d\n%s", code, exitUsage, errOut.String())
	}
}

// TestDevReloadsAndReopens changes the access policy of an example world, has it read again by SIGHUP, and goes on in the same
// directory in a world that is started anew.
func TestDevReloadsAndReopens(t *testing.T) {
	hangup := make(chan os.Signal, 1)
	f := devFlags{dir: filepath.Join(t.TempDir(), "world"), listen: "127.0.0.1:0", slackListen: "127.0.0.1:0", hangup: hangup}
	policy := filepath.Join(f.dir, "access.yaml")
	start := func() (out *lockedBuffer, end func()) {
		t.Helper()
		ctx, stop := context.WithCancel(t.Context())
		out, done := new(lockedBuffer), make(chan error, 1)
		go func() { done <- dev(ctx, f, out, io.Discard) }()
		waitForText(t, out, "breakglassd is up")
		return out, func() {
			t.Helper()
			stop()
			if err := <-done; err != nil {
				t.Fatalf("the world ends with %v", err)
			}
		}
	}
	said, end := start()
	key := func() string { return regexp.MustCompile(`public key  (\S+)`).FindStringSubmatch(said.String())[1] }
	first := key()
	text := read(t, policy)
	for old, young := range map[string]string{"max: 1h}\n    requesters: [sre]\n": "max: 20m}\n    requesters: [sre]\n"} {
		if !strings.Contains(text, old) {
			t.Fatalf("the example policy has no %q:\n%s", old, text)
		}
		text = strings.Replace(text, old, young, 1)
	}
	if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	hangup <- syscall.SIGHUP
	waitForText(t, said, "A new access policy is in force")
	if err := os.WriteFile(policy, []byte("version: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	hangup <- syscall.SIGHUP
	waitForText(t, said, "is not in force, the one before stays")
	if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	end()

	said, end = start()
	defer end()
	if second := key(); second != first {
		t.Errorf("the world that goes on has the ledger key %s, want %s", second, first)
	}
	if kept := read(t, policy); !strings.Contains(kept, "max: 20m") {
		t.Errorf("the changed policy is lost:\n%s", kept)
	} else if server := regexp.MustCompile(`Cluster  (\S+)`).FindStringSubmatch(said.String())[1]; !strings.Contains(kept, server) {
		t.Errorf("the policy does not have the new API server %s:\n%s", server, kept)
	}
}

func waitForText(t *testing.T, out *lockedBuffer, want string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !strings.Contains(out.String(), want); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited a minute for %q:\n%s", want, out.String())
		}
	}
}
