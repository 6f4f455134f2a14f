package record

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// IsHash reports whether s is a SHA-256 hash in lower-case hex.
func IsHash(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// Clip is s with at most n characters, and an ellipsis if something is missing. It is for texts that were checked before: see text.Cut.
func Clip(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n]) + "…"
}

// Bounds of free text, in runes. Slack shows at most 3000 in one text object.
const (
	MaxReason = 1000
	MaxNote   = 2000 // a closing note or an acknowledgement
	MinNote   = 10   // the least that a closing note must say
)

// NeedReason refuses a reason that says nothing, is longer than [MaxReason] or is unfit for a screen.
func NeedReason(reason string) error {
	n := utf8.RuneCountInString(strings.TrimSpace(reason))
	if n < 3 || n > MaxReason || BadText(reason) != "" {
		return Refuse(ClassInvalid, "reason", "say why in a few words", "a reason of 3 to %d characters is needed", MaxReason)
	}
	return nil
}

// BadLine reports whether a text is unfit for a field of one line: a line break in it would begin a line of its own on the screens of
// those who decide.
func BadLine(s string) bool { return BadText(s) != "" || strings.ContainsAny(s, "\n\r\t") }

// BadText says what makes a text unfit for a ledger and a screen; newlines and tabs are fine.
func BadText(s string) string {
	if !utf8.ValidString(s) {
		return "is not valid UTF-8"
	}
	for _, r := range s {
		if r != '\n' && r != '\t' && r != '\r' && !unicode.IsPrint(r) && !unicode.Is(unicode.Zs, r) {
			return fmt.Sprintf("has the control or invisible character %U", r)
		}
	}
	return ""
}

// Optional is a text of an entry by its name, nil if there is no text.
func Optional(name, text string) map[string]string {
	if text = strings.TrimSpace(text); text == "" {
		return nil
	}
	return map[string]string{name: text}
}

// IDAlphabet is Crockford's base 32 in lower case: no i, l, o, u, so that ids survive being read aloud.
const IDAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// NeedNote refuses a note of fewer than least runes, of more than [MaxNote], or one that is unfit for a screen.
func NeedNote(note string, least int) error {
	n := len([]rune(strings.TrimSpace(note)))
	if n < least || n > MaxNote || BadText(note) != "" {
		return Refuse(ClassInvalid, "note", "say what was done, and what is left to do", "a note of %d to %d characters is needed",
			least,
			MaxNote)
	}
	return nil
}
