// Package text makes words that another party chose fit to be shown and to be copied: names of objects, words of servers, reasons
// and comments of people. There is one rule for what may reach a screen, and one for what may stand in a command.
// A Secret reaches neither.
package text

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Clean makes one line of s. Each run of white space and line breaks becomes one space, so that no text can begin a line of its
// own, neither by a break nor by filling the width of a screen. What cannot be seen is spelled out: \u202e, \U000e0001, \xff.
func Clean(s string) string {
	return string(appendClean(make([]byte, 0, len(s)), s))
}

// Line is s cleaned, and cut to no more than most characters.
func Line(s string, most int) string { return Cut(Clean(s), most) }

// Lines is s with its line breaks kept: each line is cleaned as by Clean, and all but the first begin with indent, so that the
// reader sees where the text of the other party ends. Empty lines are left out.
func Lines(s, indent string) string {
	var b strings.Builder
	for line := range strings.FieldsFuncSeq(s, breaks) {
		line = Clean(line)
		if line == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteString("\n" + indent)
		}
		b.WriteString(line)
	}
	return b.String()
}

// Exact is one line in which nothing is merged: all but visible characters and the plain space is spelled out, line breaks too. It
// is for evidence.
func Exact(s string) string {
	b := make([]byte, 0, len(s))
	for i, r := range s {
		if r == ' ' {
			b = append(b, ' ')
			continue
		}
		b = appendRune(b, s[i:], r)
	}
	return string(b)
}

// Evidence is Exact of the first most characters of s, and says how much more there is.
func Evidence(s string, most int) string {
	n := 0
	for i := range s {
		if n++; n > most {
			return fmt.Sprintf("%s… (%d more bytes)", Exact(s[:i]), len(s)-i)
		}
	}
	return Exact(s)
}

// Bare is s without what cannot be seen, white space kept: it is for finding what was broken up to hide it.
func Bare(s string) string {
	return strings.Map(func(r rune) rune {
		if Seen(r) || unicode.IsSpace(r) {
			return r
		}
		return -1
	}, strings.ToValidUTF8(s, ""))
}

// Cut is s with no more than most characters, of which the last is an ellipsis if something is missing. Clean before cutting.
func Cut(s string, most int) string {
	if len(s) <= most || utf8.RuneCountInString(s) <= most {
		return s
	}
	n := 0
	for i := range s {
		if n++; n == most {
			return s[:i] + "…"
		}
	}
	return ""
}

func appendClean(b []byte, s string) []byte {
	space := false
	for i, r := range s {
		if unicode.IsSpace(r) || unicode.Is(unicode.Z, r) {
			space = true
			continue
		}
		if space && len(b) > 0 {
			b = append(b, ' ')
		}
		space = false
		b = appendRune(b, s[i:], r)
	}
	return b
}

// appendRune appends r, the first character of rest, or what it is called.
func appendRune(b []byte, rest string, r rune) []byte {
	switch {
	case r == utf8.RuneError && !strings.HasPrefix(rest, string(utf8.RuneError)):
		return fmt.Appendf(b, `\x%02x`, rest[0])
	case Seen(r):
		return utf8.AppendRune(b, r)
	case r <= 0xffff:
		return fmt.Appendf(b, `\u%04x`, r)
	default:
		return fmt.Appendf(b, `\U%08x`, r)
	}
}

// Seen reports whether a character shows and stays where it is; a space does not. Unicode counts some letters and marks as such that show
// nothing: fillers, joiners, variation selectors, the blank of Braille.
func Seen(r rune) bool {
	return unicode.IsPrint(r) && r != ' ' && r != 0x2800 &&
		!unicode.In(r, unicode.Cf, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// breaks reports whether a terminal, an editor or a browser may begin a new line at r.
func breaks(r rune) bool {
	switch r {
	case '\n', '\r', '\v', '\f', 0x1c, 0x1d, 0x1e, 0x85, 0x2028, 0x2029:
		return true
	}
	return false
}

// Quote makes one word of a shell of any text, and one that can be shown: what cannot be seen is spelled in the $'…' of POSIX.1-2024,
// which bash, zsh, ksh and busybox know. A shell that does not know it makes another word of it, which names nothing.
func Quote(word string) string {
	if word == "" {
		return "''"
	}
	plain := word[0] != '='                                                 // zsh takes =word for the path of a program
	ansi := strings.Contains(word, "  ") || strings.TrimSpace(word) != word // so that Clean leaves the command as it is
	for i, r := range word {
		if r != ' ' && !Seen(r) || r == utf8.RuneError && !strings.HasPrefix(word[i:], string(utf8.RuneError)) {
			ansi = true
		}
		if r >= utf8.RuneSelf || !strings.ContainsRune(bare, r) {
			plain = false
		}
	}
	switch {
	case plain:
		return word
	case !ansi:
		return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	b := []byte("$'")
	for i, r := range word {
		size := utf8.RuneLen(r)
		if r == utf8.RuneError && !strings.HasPrefix(word[i:], string(utf8.RuneError)) {
			size = 1
		}
		switch {
		case r == '\'' || r == '\\':
			b = append(b, '\\', byte(r))
		case size == 1 && r == utf8.RuneError, r != ' ' && !Seen(r), r == ' ' && (i == 0 || word[i-1] == ' ' || i == len(word)-1):
			for _, c := range []byte(word[i : i+size]) {
				b = fmt.Appendf(b, `\%03o`, c)
			}
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return string(append(b, '\''))
}

// Name is a name in a sentence: as it is if it reads as one word of plain ASCII, else in double quotes with the rest spelled out.
// Kubernetes lets the name of a user be anything, and a letter of another alphabet may look like one of this.
func Name(name string) string {
	for _, r := range name {
		if r <= ' ' || r > '~' || r == '"' {
			return strconv.QuoteToASCII(name)
		}
	}
	if name == "" {
		return `""`
	}
	return name
}

// bare are the characters that mean nothing to a shell.
const bare = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/:=@,+"

// Command is a line for a shell. program is ours, and may be several words ("kubectl delete pod"); each flag is one word with its
// value in it ("--namespace=x"), so that no value is taken for another flag; names stand last, and "--" before the first that
// would be taken for a flag. Who chooses a name therefore chooses neither another command nor a flag.
func Command(program string, flags []string, names ...string) string {
	words := strings.Fields(program)
	for _, f := range flags {
		words = append(words, Quote(f))
	}
	ended := false // the flags are
	for _, n := range names {
		if strings.HasPrefix(n, "-") && !ended {
			words, ended = append(words, "--"), true
		}
		words = append(words, Quote(n))
	}
	return strings.Join(words, " ")
}

// Cell is s for a cell of a spreadsheet, which would take what begins like a formula for one: it gets an apostrophe before it (OWASP,
// CSV injection). A tab or a carriage return in front counts as well.
func Cell(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}

// Span writes a duration as people do: 1h30m, not 1h30m0s.
func Span(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// About is a duration as far as it matters to a reader: to the second below ten minutes, to the minute below two days, then in days.
func About(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d >= 48*time.Hour:
		return strconv.Itoa(int(d/(24*time.Hour))) + "d"
	case d >= 10*time.Minute:
		d = d.Round(time.Minute)
	}
	return Span(d)
}

// Loopback reports whether a host, with or without a port, is written as this machine's own: what is said to it crosses no wire.
func Loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// SHA256 is the SHA-256 of b in hex: how the ledger and people name what is too long to write down.
func SHA256(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
