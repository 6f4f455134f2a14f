package strictyaml_test

import (
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/internal/strictyaml"
)

// Each row is a file that would be passed over, or read otherwise than it looks, by a reader that is not strict.
func TestEveryMistakeHasItsPlaceAndItsCure(t *testing.T) {
	for _, c := range []struct{ name, file, want string }{
		{"nothing", "# only a comment\n", "f:1: the file is empty; write it"},
		{"not UTF-8", "a: x\nb: \xff", "f:2: the file is not UTF-8 text from here on; save it as UTF-8"},
		{"not YAML", "a: [", "f:1: not YAML: "},
		{"two documents", "a: x\n---\na: y", "f:2: a second YAML document begins here"},
		{"unknown key", "a: x\ncolour: red", `f:2: unknown key "colour"; did you mean color?`},
		{"key twice", "a: x\na: y", "f:2: a: this key stands here twice, first in line 1; remove one"},
		{"missing key", "color: red", "f:1: a is missing; add it"},
		{"alias", "a: x\nlist: [&x b, *x]", "f:2: list[0]: an anchor (&x) stands here"},
		{"tag", "a: !!binary eA==", "f:1: a: a tag (!!binary) stands here; remove it"},
		{"merge key", "<<: {a: x}\na: x", "f:1: a merge key (<<) stands here"},
		{"no text", "a: 017", "f:1: a: 017 stands here; write text (in quotes)"},
		{"invisible character", "a: \"x\u202ey\"", "f:1: a: there is a line break or an invisible character in it"},
		{"no list", "a: x\nlist: b", "f:2: list: text stands here; write a list, like [a, b]"},
		{"another word", "a: x\ncolor: green", `f:2: color: "green" is unknown here; write one of red, blue`},
		{"octal number", "a: x\nn: 017", `f:2: n: "017" is not a plain decimal number; write it like 2`},
		{"too large", "a: x\nn: 11", "f:2: n: 11 is out of range; write a number from 1 to 10"},
		{"no unit", "a: x\nspan: 30", "f:2: span: 30 has no unit; write 30m or 30s"},
		{"YAML 1.1's yes", "a: x\non: yes", "f:2: on: text stands here; write true or false"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r strictyaml.Reader
			if root, ok := r.Document([]byte(c.file), "this file", "write it"); ok {
				if o, ok := root.Object("a", "color", "list", "n", "span", "on"); ok {
					o.Need("a").Text(20)
					o.At("color").Choice("red", "blue")
					for _, v := range o.At("list").List() {
						v.Text(20)
					}
					o.At("n").Integer(1, 10)
					o.At("span").Duration(24 * 60 * 60e9)
					o.At("on").Boolean()
				}
			}
			if err := r.Err("f"); err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}
