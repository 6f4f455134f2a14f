package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf16"

	"golang.org/x/term"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/text"
)

// screen is standard error for a person: lines, colours, and one live line at the end when it is a terminal.
type screen struct {
	w     io.Writer
	fd    int  // of the terminal; only if live
	live  bool // a terminal that can rewrite its last line
	color bool

	mu    sync.Mutex // guards w and drawn: a sign-in in the background may have something to say
	drawn bool       // the last line is the live one
}

func newScreen(f *os.File, env func(string) string) *screen {
	dumb := env("TERM") == "dumb"
	s := &screen{w: f, fd: int(f.Fd())}
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

// typed is a command as this program is called, for lines that are printed as they are.
func (a *app) typed(words string, flags []string, names ...string) styled {
	return styled(text.Command(a.name+" "+words, flags, names...))
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

func (a *app) json() bool { return a.output == "json" }

// formats checks -o for a command.
func (a *app) formats(allowed ...string) error {
	if a.output == "" {
		return nil
	}
	for _, f := range allowed {
		if a.output == f {
			return nil
		}
	}
	return usage("-o %s is not possible here: %s", a.output, strings.Join(allowed, ", "))
}

func (a *app) printJSON(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.out, plainJSON(string(b)))
	return err
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

// now is the server's time: countdowns are right on a machine whose clock is not.
func (a *app) now() time.Time { return a.local().Add(a.skew) }

// serverTime notes the server's clock as its answers tell it, to the second.
func (a *app) serverTime(t time.Time) {
	if skew := t.Sub(a.local()); !a.timeKnown || (skew-a.skew).Abs() > 2*time.Second {
		a.skew, a.timeKnown = skew, true
	}
}

// seen notes the server's clock and returns the request.
func (a *app) seen(r api.Request) api.Request {
	if !r.AsOf.IsZero() {
		a.skew, a.timeKnown = r.AsOf.Sub(a.local()), true
	}
	return r
}

// clock is a time for people: local, with the date unless it is today.
func (a *app) clock(t time.Time) string {
	local, now := t.Local(), a.now().Local()
	if local.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return local.Format("15:04:05")
	}
	return local.Format("2006-01-02 15:04:05")
}

// when is clock with how far away it is.
func (a *app) when(t time.Time) string {
	d := t.Sub(a.now())
	if d < 0 {
		return a.clock(t) + " (" + text.About(-d) + " ago)"
	}
	return a.clock(t) + " (in " + text.About(d) + ")"
}

func seconds(n int64) string { return text.Span(time.Duration(n) * time.Second) }

// interactive reports whether somebody can be asked.
func (a *app) interactive() bool { return term.IsTerminal(int(a.in.Fd())) }

// outTerminal reports whether data goes to a person's screen.
func (a *app) outTerminal() bool {
	f, ok := a.out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// choose takes the only one of several, or asks which by its number or name. Each has a line that says more.
func (a *app) choose(ctx context.Context, what, flag string, ids, lines []string) (string, error) {
	if len(ids) == 1 {
		return ids[0], nil
	}
	f := usage("which %s? give --%s: %s", what, flag, strings.Join(ids, ", "))
	f.next = ""
	if len(ids) == 0 {
		f = usage("which %s? give --%s", what, flag)
		f.next = "there is none that you may ask for; see: " + command("profiles", nil)
	}
	if len(ids) == 0 || !a.interactive() {
		return "", f
	}
	for i, id := range ids {
		a.screen.note("  %d  %s   %s", i+1, a.screen.bold(id), lines[i])
	}
	for {
		typed, err := a.ask(ctx, false, "Which %s? (1 to %d) ", what, len(ids))
		if err != nil {
			return "", err
		}
		if n, err := strconv.Atoi(typed); err == nil && n >= 1 && n <= len(ids) {
			return ids[n-1], nil
		}
		if slices.Contains(ids, typed) {
			return typed, nil
		}
		a.screen.note("%s that is none of them; Ctrl-C leaves", a.screen.yellow("!"))
	}
}

// ask asks a question on the terminal; secret answers are not echoed.
func (a *app) ask(ctx context.Context, secret bool, question string, args ...any) (string, error) {
	a.screen.clear()
	fmt.Fprint(a.screen.w, format(question, args...))
	fd := int(a.in.Fd())
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
			fmt.Fprintln(a.screen.w)
			done <- answer{string(b), err}
			return
		}
		text, err := readLine(a.in)
		done <- answer{text, err}
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(a.screen.w)
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

// confirm wants the id typed on a terminal, or --yes.
func (a *app) confirm(ctx context.Context, yes bool, verb, id string) error {
	if yes {
		return nil
	}
	if !a.interactive() {
		return usage("to %s without a terminal, give --yes", verb)
	}
	typed, err := a.ask(ctx, false, "Type %s to %s: ", id, verb)
	if err != nil {
		return err
	}
	if !strings.EqualFold(typed, id) && !strings.EqualFold("bg-"+typed, id) {
		return &failure{exit: exitOther, code: "not-confirmed", what: "not confirmed", why: "that was not " + id + "; nothing was done"}
	}
	return nil
}

// reason takes a reason from a flag, a file or standard input, or asks for it.
func (a *app) reason(ctx context.Context, flag, file string, need bool) (string, error) {
	switch {
	case flag != "" && file != "":
		return "", usage("give --reason or --reason-file, not both")
	case flag != "":
		return flag, nil
	case file != "":
		r := io.Reader(a.in)
		if file != "-" {
			f, err := os.Open(file)
			if err != nil {
				return "", usage("reading the reason: %v", err)
			}
			defer f.Close()
			r = f
		}
		b, err := io.ReadAll(io.LimitReader(r, 16<<10))
		return strings.TrimSpace(string(b)), err
	case need && a.interactive():
		return a.ask(ctx, false, "Reason: ")
	case need:
		return "", usage("a reason is needed: --reason \"…\"")
	}
	return "", nil
}
