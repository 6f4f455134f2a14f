package main

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write testdata/help.golden anew")

// Every help text stands in one file, for a reviewer to read in one sitting.
func TestHelpIsAsReviewed(t *testing.T) {
	const golden = "testdata/help.golden"
	a := &app{name: "breakglass"}
	var b strings.Builder
	writeHelp(&b, a.command())
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	got, was := strings.Split(b.String(), "\n"), strings.Split(string(want), "\n")
	for n := range max(len(got), len(was)) {
		if n >= len(got) || n >= len(was) || got[n] != was[n] {
			t.Fatalf("line %d of the help is %q, and %q in %s; if it is right, write it anew: go test ./cmd/breakglass -run %s -update", n+1,
				strings.Join(got[min(n, len(got)):min(n+1, len(got))], ""),
				strings.Join(was[min(n, len(was)):min(n+1, len(was))], ""), golden,
				t.Name())
		}
	}
}

// writeHelp writes what --help shows of a command and of those under it, without the flags that all have.
func writeHelp(b *strings.Builder, cmd *cobra.Command) {
	if cmd.Hidden {
		return
	}
	text := cmd.Long
	if text == "" {
		text = cmd.Short
	}
	b.WriteString("==== " + cmd.CommandPath() + "\n" + text + "\n")
	if cmd.Runnable() || cmd.HasSubCommands() {
		usage, _, _ := strings.Cut(cmd.UsageString(), "\nGlobal Flags:")
		b.WriteString("\n" + strings.TrimRight(usage, "\n") + "\n")
	}
	b.WriteString("\n")
	for _, c := range cmd.Commands() {
		writeHelp(b, c)
	}
}
