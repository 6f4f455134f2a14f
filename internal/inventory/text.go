package inventory

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/breakglassd/breakglass/internal/text"
)

// digest is a short stable id of some words. No two lists of words are joined to the same text.
func digest(words ...string) string {
	h := sha256.New()
	for _, w := range words {
		h.Write([]byte(strconv.Itoa(len(w)) + ":" + w)) // never fails, as hash.Hash promises
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// kubectl is a command about one object, for a shell.
func kubectl(verb string, about Ref, flags ...string) string {
	if about.Namespace != "" {
		flags = append(flags, "--namespace="+about.Namespace)
	}
	return text.Command("kubectl "+verb+" "+strings.ToLower(about.Kind), flags, about.Name)
}

// ascii is a value as JSON in plain ASCII, so that a command can be shown and copied whatever a name holds. What JSON would
// write as a surrogate pair is written as YAML does: kubectl reads YAML, and refuses surrogates.
func ascii(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // only ever called with maps of strings and the like
	}
	var b strings.Builder
	for _, r := range string(raw) {
		switch {
		case r < 0x7f:
			b.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	return b.String()
}
