package rotation_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/internal/rotation"
)

// evil is a name by which an attacker wants a command to do more than it says. For an operator's eye it may be worse.
func evil(what string) []string {
	return []string{"--all", "-" + what, "$(touch pwned)", "`touch pwned`", "x; touch pwned", "x\ntouch pwned\n", "x' ; touch pwned; '",
		"../../" + what, "x && touch pwned #", "\x1b[2J" + what}
}

// Whatever Vault, a cluster or a configuration calls its things, the commands of a plan and of a finding do what they say and
// nothing else: they are run, with programs that note what they are told.
func TestNoNameBecomesACommand(t *testing.T) {
	dir := t.TempDir()
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"vault", "kubectl", "breakglass", "breakglassd", "systemctl"} {
		if err := os.WriteFile(filepath.Join(bin, program), []byte("#!/bin/sh\nfor a in \"$@\"; do printf '%s\\0' \"$a\"; done >>\"$LOG\"\n"),
			0o700); err != nil {
			t.Fatal(err)
		}
	}
	ran := 0
	run := func(command string) {
		t.Helper()
		ran++
		work, log := t.TempDir(), filepath.Join(dir, fmt.Sprint("log", ran))
		cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
		cmd.Dir, cmd.Env = work, []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "LOG=" + log}
		out, _ := cmd.CombinedOutput() // that some find no file is no matter
		if _, err := os.Stat(filepath.Join(work, "pwned")); err == nil {
			t.Errorf("a name was run as a command: %s\n%s", command, out)
		}
		if files, err := os.ReadDir(work); err != nil || slices.ContainsFunc(files, func(f os.DirEntry) bool {
			return !strings.HasSuffix(f.Name(), ".pem")
		}) {
			t.Errorf("a file was made elsewhere: %s\n%v", command, files)
		}
		told, _ := os.ReadFile(log) // not there: no program was called
		flags := true
		for arg := range strings.SplitSeq(string(told), "\x00") {
			flags = flags && arg != "--"
			if known := arg == "-field=certificate" || arg == "-n" || arg == "--"; flags && strings.HasPrefix(arg, "-") && !known {
				t.Errorf("a name is a flag, %q: %s", arg, command)
			}
		}
	}
	for i := range evil("") {
		k := newKit(t)
		k.second(true, false, true)
		k.o.Cluster, k.o.Vault.Mount = evil("cluster")[i], evil("mount")[i]
		for n := range k.o.Vault.Issuers {
			k.o.Vault.Issuers[n].Name += evil("issuer")[i]
			k.o.Vault.Issuers[n].LeafNotAfter = "truncate"
		}
		k.o.Vault.Issuers[0].Name = evil("issuer")[i]
		for n := range k.o.Vault.Roles {
			k.o.Vault.Roles[n].Name += evil("role")[i]
		}
		k.o.Vault.FollowsLatest = true
		for _, moved := range []bool{false, true} {
			if moved {
				k.roles(id2)
			}
			r := k.judge()
			for _, target := range []rotation.Phase{"", rotation.Prepared, rotation.TrustedOnSome, rotation.Draining, rotation.Closed} {
				p := rotation.MakePlan(r, rotation.PlanOptions{Target: target, Bundle: "/nonexistent/bundle", ClusterCA: "/nonexistent/ca",
					Copies: []string{"/nonexistent/" + evil("copy")[i]}})
				for _, s := range append(p.Steps, p.Undo...) {
					for _, c := range s.Commands {
						run(c)
					}
					if at := strings.Index(s.Check, "breakglass ca check "); at >= 0 {
						check, _, _ := strings.Cut(s.Check[at:], " says ")
						check, _, _ = strings.Cut(check, " shows ")
						check, _, _ = strings.Cut(check, " has no ")
						run(check)
					}
				}
			}
			for _, f := range r.Verdicts {
				for _, begin := range []string{"vault write ", "vault patch ", "vault read "} {
					if at := strings.Index(f.Next, begin); at >= 0 {
						run(f.Next[at:])
					}
				}
			}
		}
	}
	if ran < 100 {
		t.Errorf("only %d commands were run", ran)
	}
}
