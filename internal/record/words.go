package record

import (
	"strings"
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
