package terminal

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/internal/text/texttest"
)

func TestTerminalCannotBeRewrittenByText(t *testing.T) {
	for where, shown := range map[string]string{"format": Format("%s", texttest.Nasty), "a line": OneLine(texttest.Nasty, 500),
		"a paragraph": Format("reason  %s", Paragraph{Text: texttest.Nasty, Indent: 8}),
		"JSON":        PlainJSON(strings.ToValidUTF8(texttest.Nasty, "") + "."),
		"a style":     string((&Screen{W: &bytes.Buffer{}}).Red(texttest.Nasty))} {
		if where == "JSON" { // in which no line begins inside a string
			shown = strings.ReplaceAll(shown, "\n", "")
		}
		texttest.Tame(t, where, shown)
	}
	evil := "a\x1b[2Jb\x00c\x7fd\u202ee\nf"
	if got := Format("%s|%v", evil, fmt.Errorf("%s", evil)); strings.ContainsAny(got, "\x1b\x00\x7f\u202e\n") {
		t.Errorf("%q", got)
	}
	// What may have lines has none that look like ours.
	if got := Format("reason  %s", Paragraph{Text: "one\nneeds  nothing\r\u2028risk  low",
		Indent: 8}); got != "reason  one\n        needs nothing\n        risk low" {
		t.Errorf("%q", got)
	}
	s := &Screen{W: &bytes.Buffer{}, Color: true}
	if got := string(s.Red(evil)); strings.Count(got, "\x1b") != 2 {
		t.Errorf("%q", got)
	}
}

// What a server names stands in no command of ours as a flag or as another command.
func TestPrintedCommandsTakeNoNameForAFlag(t *testing.T) {
	for got, want := range map[string]string{
		Command("show", nil, "--all"):                            "breakglass show -- --all",
		Command("show", []string{"--session"}, "a; id"):          "breakglass show --session 'a; id'",
		string(Typed("kubectl breakglass", "revoke", nil, "-x")): "kubectl breakglass revoke -- -x",
		Command("request", []string{"--cluster=$(id)"}) + " …":   "breakglass request '--cluster=$(id)' …",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
