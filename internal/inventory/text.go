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
func Digest(words ...string) string {
	h := sha256.New()
	for _, w := range words {
		h.Write([]byte(strconv.Itoa(len(w)) + ":" + w)) // never fails, as hash.Hash promises
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// kubectl is a command about one object, for a shell.
func Kubectl(verb string, about Ref, flags ...string) string {
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

// few joins the first n of some texts and says how many more there are.
func Few(texts []string, n int) string {
	out := strings.Join(texts[:min(n, len(texts))], "; ")
	if len(texts) > n {
		out += fmt.Sprintf("; and %d more", len(texts)-n)
	}
	return out
}

// takeAway is the command that removes a subject from a binding, for a shell: it deletes a binding that has no other subject.
// Of others it checks that the subject is still where it was when the cluster was scanned. The binding names the
// subject, or the user that a service account is.
func RemoveSubject(b *Binding, s Subject) string {
	ref := b.Ref()
	type op struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value string `json:"value,omitempty"`
	}
	var ops []op
	left := len(b.Subjects)
	for at := len(b.Subjects) - 1; at >= 0; at-- { // from the end, so that the places of the others stay
		have := b.Subjects[at]
		if have != s && Normal(have) != s {
			continue
		}
		left--
		where := fmt.Sprintf("/subjects/%d", at)
		for _, field := range [][2]string{{"kind", string(have.Kind)}, {"name", have.Name}, {"namespace", have.Namespace}} {
			if field[1] != "" {
				ops = append(ops, op{"test", where + "/" + field[0], field[1]})
			}
		}
		ops = append(ops, op{Op: "remove", Path: where})
	}
	if left == 0 {
		return Kubectl("delete", ref)
	}
	return Kubectl("patch", ref, "--type=json", "--patch="+ascii(ops))
}
