// Package terminal is a person's terminal: it writes lines, colours and one live line, asks questions, and lets no text of another party
// command the terminal.
package terminal

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf16"

	"golang.org/x/term"

	"github.com/breakglassd/breakglass/internal/text"
)

// Screen is a person's terminal: what is said on standard error in lines and colours, with one live line at the end, and the answers
// that come from standard input.
type Screen struct {
	W     io.Writer
	in    *os.File
	fd    int  // of the terminal; only if live
	Live  bool // a terminal that can rewrite its last line
	Color bool

	mu    sync.Mutex // guards w and drawn: a sign-in in the background may have something to say
	drawn bool       // the last line is the live one
}

// New takes NO_COLOR, CLICOLOR_FORCE and TERM from env.
func New(in, f *os.File, env func(string) string) *Screen {
	dumb := env("TERM") == "dumb"
	s := &Screen{W: f, in: in, fd: int(f.Fd())}
	s.Live = term.IsTerminal(s.fd) && !dumb
	s.Color = (s.Live || env("CLICOLOR_FORCE") != "" && env("CLICOLOR_FORCE") != "0") && env("NO_COLOR") == "" && !dumb
	return s
}

// Styled is text that may hold escape sequences of our own. All other text that is printed is cleaned.
type Styled string

// Style puts a word into one of the terminal's styles, if it has colours.
func (s *Screen) Style(code, word string) Styled {
	word = Format("%s", word)
	if !s.Color {
		return Styled(word)
	}
	return Styled("\x1b[" + code + "m" + word + "\x1b[0m")
}

// Red is for errors.
func (s *Screen) Red(text string) Styled { return s.Style("31", text) }

// Green is for what worked.
func (s *Screen) Green(text string) Styled { return s.Style("32", text) }

// Yellow is for what a person must look at.
func (s *Screen) Yellow(text string) Styled { return s.Style("33", text) }

// Bold is for names.
func (s *Screen) Bold(text string) Styled { return s.Style("1", text) }

// OneLine is text for a table cell.
func OneLine(s string, most int) string { return text.Line(s, most) }

// Paragraph is text of people or of the server that may have lines: all but the first are indented, so that none of them looks like
// a line of ours. All other text is one line.
type Paragraph struct {
	Text   string
	Indent int
}

func (p Paragraph) String() string { return text.Lines(p.Text, strings.Repeat(" ", p.Indent)) }

// Format is fmt.Sprintf whose arguments are cleaned, each to one line, but for numbers, a Styled and a Paragraph.
func Format(f string, args ...any) string {
	for i, x := range args {
		switch x := x.(type) {
		case Styled, int, int64, bool, time.Duration:
		case Paragraph:
			args[i] = x.String()
		default:
			args[i] = text.Clean(fmt.Sprint(x))
		}
	}
	return fmt.Sprintf(f, args...)
}

// Command is a command of this program for people to copy: our words and flags first, then the names, which others may have chosen.
// What comes after "next:" is put into the words that people type by report.
func Command(words string, flags []string, names ...string) string {
	return text.Command("breakglass "+words, flags, names...)
}

// ExactLines is text of several lines, each as it is but for what a terminal would obey or hide.
func ExactLines(s string) string {
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

// Note prints one line.
func (s *Screen) Note(f string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	fmt.Fprintln(s.W, Format(f, args...))
}

// Status draws the live line; on anything but a terminal it does nothing.
func (s *Screen) Status(f string, args ...any) {
	if !s.Live {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	line := Format(f, args...)
	if w, _, err := term.GetSize(s.fd); err == nil && w > 1 {
		line = text.Cut(line, w-1)
	}
	fmt.Fprint(s.W, line)
	s.drawn = true
}

// Bell calls back a person who has been waiting before a terminal.
func (s *Screen) Bell() {
	if s.Live {
		fmt.Fprint(s.W, "\a")
	}
}

// Clear removes the live line.
func (s *Screen) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
}

// erase is clear with mu held.
func (s *Screen) erase() {
	if s.drawn {
		fmt.Fprint(s.W, "\r\x1b[K")
		s.drawn = false
	}
}

// PlainJSON writes as escapes what a terminal would obey or hide; in JSON such characters stand in strings only.
func PlainJSON(s string) string {
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

// Interactive reports whether standard input is a terminal, on which a person can be asked.
func (s *Screen) Interactive() bool { return term.IsTerminal(int(s.in.Fd())) }

// Ask asks a question on the terminal; secret answers are not echoed.
func (s *Screen) Ask(ctx context.Context, secret bool, question string, args ...any) (string, error) {
	s.Clear()
	fmt.Fprint(s.W, Format(question, args...))
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
			fmt.Fprintln(s.W)
			done <- answer{string(b), err}
			return
		}
		text, err := readLine(s.in)
		done <- answer{text, err}
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(s.W)
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

// Counted is a number of things in words.
func Counted(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// Typed is a command as this program is called by name, for lines that are printed as they are.
func Typed(name, words string, flags []string, names ...string) Styled {
	return Styled(text.Command(name+" "+words, flags, names...))
}
