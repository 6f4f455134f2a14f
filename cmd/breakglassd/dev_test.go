package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/devmode"
	"github.com/breakglassd/breakglass/internal/devmode/memca"
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
		"nobody knows Carol": func(w *devmode.World) { w.People[2].Slack = "U0STRANGER" },
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

func TestDevWantsAnEmptyDirectory(t *testing.T) {
	var out, errOut bytes.Buffer
	dir := t.TempDir()
	if code := run([]string{"dev", "--walkthrough", "--dir", dir}, &out, &errOut); code != 0 {
		t.Fatalf("in an empty directory: exit code %d\n%s", code, errOut.String())
	}
	if code := run([]string{"dev", "--dir", dir}, &out, &errOut); code != exitUsage {
		t.Errorf("in the same one again: exit code %d, want %d\n%s", code, exitUsage, errOut.String())
	}
}
