package inventory

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
)

// shown is a name as it may be printed: a name that could play tricks on a terminal, or that does not read as one word, is
// quoted. Kubernetes lets the name of a user be anything.
func shown(name string) string {
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

// digest is a short stable id of some words. No two lists of words are joined to the same text.
func digest(words ...string) string {
	h := sha256.New()
	for _, w := range words {
		h.Write([]byte(strconv.Itoa(len(w)) + ":" + w)) // never fails, as hash.Hash promises
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// quote makes one word of a POSIX shell of any text.
func quote(word string) string {
	plain := word != "" && strings.IndexFunc(word, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-/:=@,", r))
	}) < 0
	if plain {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// command is a line for a POSIX shell.
func command(words ...string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = quote(w)
	}
	return strings.Join(quoted, " ")
}

// ascii is a value as JSON in plain ASCII, so that a command can be shown and copied whatever a name holds.
func ascii(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // only ever called with maps of strings and the like
	}
	var b strings.Builder
	for _, r := range string(text) {
		if r < 0x7f {
			b.WriteRune(r)
			continue
		}
		q := strconv.QuoteRuneToASCII(r)
		q = q[1 : len(q)-1]
		switch {
		case strings.HasPrefix(q, `\U`): // JSON knows only four digits
			r -= 0x10000
			b.WriteString(`\u` + strconv.FormatInt(int64(0xd800+r>>10), 16) + `\u` + strconv.FormatInt(int64(0xdc00+r&0x3ff), 16))
		case strings.HasPrefix(q, `\x`):
			b.WriteString(`\u00` + q[2:])
		default:
			b.WriteString(q)
		}
	}
	return b.String()
}
