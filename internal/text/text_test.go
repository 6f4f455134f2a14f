package text_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/internal/text"
)

// Each row is a text of another party, and what it is for each kind of reader.
var texts = []struct{ name, said, clean, lines, exact string }{
	{"plain", "a b", "a b", "a b", "a b"},
	{"letters of the world", "Zoë 東京 שלום", "Zoë 東京 שלום", "Zoë 東京 שלום", "Zoë 東京 שלום"},
	{"line feed", "a\nb", "a b", "a\n> b", `a\u000ab`},
	{"carriage return", "a\r\nb", "a b", "a\n> b", `a\u000d\u000ab`},
	{"tab and vertical tab", "a\t\vb", "a b", "a\n> b", `a\u0009\u000bb`},
	{"next line", "a\u0085b", "a b", "a\n> b", `a\u0085b`},
	{"line separator", "a\u2028b", "a b", "a\n> b", `a\u2028b`},
	{"paragraph separator", "a\u2029b", "a b", "a\n> b", `a\u2029b`},
	{"file separator", "a\x1cb", `a\u001cb`, "a\n> b", `a\u001cb`},
	{"only breaks", "\n\n", "", "", `\u000a\u000a`},
	{"empty lines and spaces about", " a \n\n  b ", "a b", "a\n> b", ` a \u000a\u000a  b `},
	{"many spaces", "ok" + strings.Repeat(" ", 200) + "approved by bob", "ok approved by bob", "ok approved by bob",
		"ok" + strings.Repeat(" ", 200) + "approved by bob"},
	{"no-break space, em space", "a\u00a0\u2003b", "a b", "a b", `a\u00a0\u2003b`},
	{"escape", "\x1b[2Ja", `\u001b[2Ja`, `\u001b[2Ja`, `\u001b[2Ja`},
	{"backspace, delete, null", "a\b\x7f\x00", `a\u0008\u007f\u0000`, `a\u0008\u007f\u0000`, `a\u0008\u007f\u0000`},
	{"C1", "\u009b1m", `\u009b1m`, `\u009b1m`, `\u009b1m`},
	{"right to left", "a\u202eb\u2066c\u200f", `a\u202eb\u2066c\u200f`, `a\u202eb\u2066c\u200f`, `a\u202eb\u2066c\u200f`},
	{"Arabic letter mark", "a\u061cb", `a\u061cb`, `a\u061cb`, `a\u061cb`},
	{"Mongolian vowel separator", "a\u180eb", `a\u180eb`, `a\u180eb`, `a\u180eb`},
	{"soft hyphen", "a\u00adb", `a\u00adb`, `a\u00adb`, `a\u00adb`},
	{"zero width and word joiner", "a\u200b\u2060\ufeffb", `a\u200b\u2060\ufeffb`, `a\u200b\u2060\ufeffb`, `a\u200b\u2060\ufeffb`},
	{"tag", "a\U000e0001b", `a\U000e0001b`, `a\U000e0001b`, `a\U000e0001b`},
	{"annotation", "a\ufff9b", `a\ufff9b`, `a\ufff9b`, `a\ufff9b`},
	{"fillers of Hangul", "\u3164\u115f\uffa0", `\u3164\u115f\uffa0`, `\u3164\u115f\uffa0`, `\u3164\u115f\uffa0`},
	{"joiner, blank of Braille", "\u034f\u2800", `\u034f\u2800`, `\u034f\u2800`, `\u034f\u2800`},
	{"variation selectors", "a\ufe0f\U000e0100", `a\ufe0f\U000e0100`, `a\ufe0f\U000e0100`, `a\ufe0f\U000e0100`},
	{"private use, unassigned", "\ue000\U000fffff", `\ue000\U000fffff`, `\ue000\U000fffff`, `\ue000\U000fffff`},
	{"not UTF-8", "a\xffb\xc3", `a\xffb\xc3`, `a\xffb\xc3`, `a\xffb\xc3`},
	{"the mark for what is not UTF-8", "a\ufffdb", "a\ufffdb", "a\ufffdb", "a\ufffdb"},
}

func TestClean(t *testing.T) {
	for _, c := range texts {
		if got := text.Clean(c.said); got != c.clean {
			t.Errorf("Clean of %s: %q, want %q", c.name, got, c.clean)
		}
		if got := text.Lines(c.said, "> "); got != c.lines {
			t.Errorf("Lines of %s: %q, want %q", c.name, got, c.lines)
		}
		if got := text.Exact(c.said); got != c.exact {
			t.Errorf("Exact of %s: %q, want %q", c.name, got, c.exact)
		}
	}
}

func TestCut(t *testing.T) {
	for _, c := range []struct {
		in   string
		most int
		want string
	}{
		{"abc", 3, "abc"}, {"abcd", 3, "ab…"}, {"東京都", 3, "東京都"}, {"東京都庁", 3, "東京…"}, {"", 3, ""}, {"abc", 1, "…"},
	} {
		if got := text.Cut(c.in, c.most); got != c.want {
			t.Errorf("Cut(%q, %d) is %q, want %q", c.in, c.most, got, c.want)
		}
	}
}

// A shell must see exactly the word, and a reader nothing that plays tricks.
func TestQuote(t *testing.T) {
	words := []string{"", "a", "a b", "it's", "$HOME", "`id`", `a\b`, "~", "*", "-x", "=ls",
		"a;b", "#a", "!!", "\"", "{a,b}", " ", "a  b ", "a\nb", "'\n'", `\` + "\n", "\x1b[2J", "%s"}
	for _, c := range texts {
		if !strings.Contains(c.said, "\x00") { // which no argument of a program can hold
			words = append(words, c.said)
		}
	}
	for _, w := range words {
		q := text.Quote(w)
		if q != text.Exact(q) || q != text.Clean(q) {
			t.Errorf("Quote(%q) shows what plays tricks, or is another word once it is cleaned: %q", w, q)
		}
		out, err := exec.Command("bash", "-c", "printf '%s|' "+q).Output()
		if err != nil || string(out) != w+"|" {
			t.Errorf("bash reads %s as %q (%v), want %q", q, out, err, w)
		}
	}
}

func TestCommand(t *testing.T) {
	for _, c := range []struct {
		program string
		flags   []string
		names   []string
		want    string
	}{
		{"kubectl delete clusterrolebinding", nil, []string{"a"}, "kubectl delete clusterrolebinding a"},
		{"kubectl delete clusterrolebinding", nil, []string{"--all"}, "kubectl delete clusterrolebinding -- --all"},
		{"kubectl delete rolebinding", []string{"--namespace=--all"}, []string{"a", "-b"},
			"kubectl delete rolebinding --namespace=--all a -- -b"},
		{"kubectl delete node", nil, []string{"a;rm -rf /"}, "kubectl delete node 'a;rm -rf /'"},
		{"kubectl get", []string{"--selector=a b"}, nil, "kubectl get '--selector=a b'"},
	} {
		if got := text.Command(c.program, c.flags, c.names...); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}
