package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode/utf16"

	"golang.org/x/term"

	"github.com/breakglassd/breakglass/internal/text"
)

// screen is a person's terminal: what is said on standard error in lines and colours, with one live line at the end, and the answers
// that come from standard input.
type screen struct {
	w     io.Writer
	in    *os.File
	fd    int  // of the terminal; only if live
	live  bool // a terminal that can rewrite its last line
	color bool

	mu    sync.Mutex // guards w and drawn: a sign-in in the background may have something to say
	drawn bool       // the last line is the live one
}

// newScreen takes NO_COLOR, CLICOLOR_FORCE and TERM from env.
func newScreen(in, f *os.File, env func(string) string) *screen {
	dumb := env("TERM") == "dumb"
	s := &screen{w: f, in: in, fd: int(f.Fd())}
	s.live = term.IsTerminal(s.fd) && !dumb
	s.color = (s.live || env("CLICOLOR_FORCE") != "" && env("CLICOLOR_FORCE") != "0") && env("NO_COLOR") == "" && !dumb
	return s
}

// styled is text that may hold escape sequences of our own. All other text that is printed is cleaned.
type styled string

func (s *screen) style(code, word string) styled {
	word = format("%s", word)
	if !s.color {
		return styled(word)
	}
	return styled("\x1b[" + code + "m" + word + "\x1b[0m")
}

func (s *screen) red(text string) styled    { return s.style("31", text) }
func (s *screen) green(text string) styled  { return s.style("32", text) }
func (s *screen) yellow(text string) styled { return s.style("33", text) }
func (s *screen) bold(text string) styled   { return s.style("1", text) }

// oneLine is text for a table cell.
func oneLine(s string, most int) string { return text.Line(s, most) }

// paragraph is text of people or of the server that may have lines: all but the first are indented, so that none of them looks like
// a line of ours. All other text is one line.
type paragraph struct {
	text   string
	indent int
}

func (p paragraph) String() string { return text.Lines(p.text, strings.Repeat(" ", p.indent)) }

func format(f string, args ...any) string {
	for i, x := range args {
		switch x := x.(type) {
		case styled, int, int64, bool, time.Duration:
		case paragraph:
			args[i] = x.String()
		default:
			args[i] = text.Clean(fmt.Sprint(x))
		}
	}
	return fmt.Sprintf(f, args...)
}

// command is a command of this program for people to copy: our words and flags first, then the names, which others may have chosen.
// What comes after "next:" is put into the words that people type by report.
func command(words string, flags []string, names ...string) string {
	return text.Command("breakglass "+words, flags, names...)
}

// exactLines is text of several lines, each as it is but for what a terminal would obey or hide.
func exactLines(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		words, end := strings.CutSuffix(line, "\n")
		b.WriteString(text.Exact(strings.ReplaceAll(words, "\t", "    ")))
		if end {
			b.WriteString("\n")
		}
	}
	return b.String()
}

// note prints one line.
func (s *screen) note(f string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	fmt.Fprintln(s.w, format(f, args...))
}

// status draws the live line; on anything but a terminal it does nothing.
func (s *screen) status(f string, args ...any) {
	if !s.live {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	line := format(f, args...)
	if w, _, err := term.GetSize(s.fd); err == nil && w > 1 {
		line = text.Cut(line, w-1)
	}
	fmt.Fprint(s.w, line)
	s.drawn = true
}

// bell calls back a person who has been waiting before a terminal.
func (s *screen) bell() {
	if s.live {
		fmt.Fprint(s.w, "\a")
	}
}

// clear removes the live line.
func (s *screen) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
}

// erase is clear with mu held.
func (s *screen) erase() {
	if s.drawn {
		fmt.Fprint(s.w, "\r\x1b[K")
		s.drawn = false
	}
}

// plainJSON writes as escapes what a terminal would obey or hide; in JSON such characters stand in strings only.
func plainJSON(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n' || r == ' ' || text.Seen(r):
			b.WriteRune(r)
		case r <= 0xFFFF:
			fmt.Fprintf(&b, "\\u%04x", r)
		default:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, "\\u%04x\\u%04x", high, low)
		}
	}
	return b.String()
}

// interactive reports whether standard input is a terminal, on which a person can be asked.
func (s *screen) interactive() bool { return term.IsTerminal(int(s.in.Fd())) }

// ask asks a question on the terminal; secret answers are not echoed.
func (s *screen) ask(ctx context.Context, secret bool, question string, args ...any) (string, error) {
	s.clear()
	fmt.Fprint(s.w, format(question, args...))
	fd := int(s.in.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("asking a question: %w", err)
	}
	type answer struct {
		text string
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		if secret {
			b, err := term.ReadPassword(fd)
			fmt.Fprintln(s.w)
			done <- answer{string(b), err}
			return
		}
		text, err := readLine(s.in)
		done <- answer{text, err}
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(s.w)
		return "", interrupted(ctx, term.Restore(fd, before))
	case x := <-done:
		return strings.TrimSpace(x.text), x.err
	}
}

func interrupted(ctx context.Context, err error) error {
	if err != nil {
		return err
	}
	return ctx.Err()
}

// readLine reads up to a newline, byte by byte: what follows belongs to the next question.
func readLine(r io.Reader) (string, error) {
	var line []byte
	b := make([]byte, 1)
	for {
		n, err := r.Read(b)
		if n == 1 && b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[:n]...)
		if err != nil || len(line) > 4096 {
			return "", fmt.Errorf("reading the answer: %w", err)
		}
	}
}

// counted is a number of things in words.
func counted(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// typed is a command as this program is called by name, for lines that are printed as they are.
func typed(name, words string, flags []string, names ...string) styled {
	return styled(text.Command(name+" "+words, flags, names...))
}

// asTyped puts this program's commands in a text into the words that people type.
func asTyped(name, s string) string { return ourName.ReplaceAllString(s, name+" ") }

var ourName = regexp.MustCompile(`(?:kubectl )?\bbreakglass `)
