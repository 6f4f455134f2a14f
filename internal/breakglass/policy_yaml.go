package breakglass

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// value is a YAML node and its place in the file. Its methods convert it; they report what does not fit and then answer
// false. A value without a node stands for a key that is not there: it answers false and reports nothing.
type value struct {
	node *yaml.Node
	path string
	read *policyReader
}

func (v value) wrong(text string, args ...any) {
	v.read.problems = append(v.read.problems, Problem{Line: v.node.Line, Column: v.node.Column, Path: v.path,
		Text: fmt.Sprintf(text, args...)})
}

// is reports whether the node is of a kind and, if a scalar, of one of the tags.
func (v value) is(kind yaml.Kind, want string, tags ...string) bool {
	switch {
	case v.node == nil:
		return false
	case v.node.Kind == yaml.AliasNode:
		v.wrong("an alias (*%s) stands here; write the value out, the policy must read without jumping", clipped(v.node.Value))
		return false
	case v.node.Anchor != "":
		v.wrong("an anchor (&%s) stands here; remove it and write values out where they are used", clipped(v.node.Anchor))
		return false
	case v.node.Style&yaml.TaggedStyle != 0:
		v.wrong("a tag (%s) stands here; remove it", clipped(v.node.Tag))
		return false
	case v.node.Kind == kind && (len(tags) == 0 || slices.Contains(tags, v.node.Tag)):
		return true
	}
	got := map[yaml.Kind]string{yaml.MappingNode: "keys with values", yaml.SequenceNode: "a list"}[v.node.Kind]
	if v.node.Kind == yaml.ScalarNode {
		switch v.node.Tag {
		case "!!null":
			got = "nothing"
		case "!!str":
			got = "text" // not which: it may be a secret in the wrong place
		default:
			got = clipped(v.node.Value)
		}
	}
	v.wrong("%s stands here; write %s", got, want)
	return false
}

// object is a YAML mapping whose keys are all known and stand there once.
type object struct {
	value
	fields   map[string]value
	misspelt []string // known keys that probably were meant by unknown ones
}

func (v value) object(keys ...string) (object, bool) {
	if !v.is(yaml.MappingNode, "keys with values: "+strings.Join(keys, ", ")) {
		return object{}, false
	}
	o := object{value: v, fields: map[string]value{}}
	prefix := v.path
	if prefix != "" {
		prefix += "."
	}
	for i := 0; i+1 < len(v.node.Content); i += 2 {
		node := v.node.Content[i]
		key := value{node: node, path: v.path, read: v.read}
		if node.Tag == "!!merge" {
			key.wrong("a merge key (<<) stands here; write the keys out, the policy must read without jumping")
			continue
		}
		if !key.is(yaml.ScalarNode, "one of the keys "+strings.Join(keys, ", "), "!!str") {
			continue
		}
		name := node.Value
		if first, twice := o.fields[name]; twice {
			key.path = prefix + name
			key.wrong("this key stands here twice, first in line %d; remove one", first.node.Line)
			continue
		}
		if !slices.Contains(keys, name) {
			hint := "allowed here: " + strings.Join(keys, ", ")
			if near := Closest(name, keys); near != "" {
				hint = "did you mean " + near + "?"
				o.misspelt = append(o.misspelt, near)
			}
			key.wrong("unknown key %s; %s", shown(name), hint)
			continue
		}
		o.fields[name] = value{node: v.node.Content[i+1], path: prefix + name, read: v.read}
	}
	return o, true
}

// at is the value of a key that may be missing.
func (o object) at(key string) value { return o.fields[key] }

func (o object) has(key string) bool { return o.fields[key].node != nil }

// need is the value of a key that must be there.
func (o object) need(key string) value {
	if !o.has(key) && !slices.Contains(o.misspelt, key) {
		o.wrong("%s is missing; add it", key)
	}
	return o.fields[key]
}

// section is the list of all things of one kind.
func (o object) section(key, kind string) []value {
	items := o.need(key).list()
	if len(items) > 0 {
		o.read.known[kind] = map[string]int{}
	}
	return items
}

// list returns the items of a list; an empty one is a mistake.
func (v value) list() []value {
	if !v.is(yaml.SequenceNode, "a list, like [a, b]") {
		return nil
	}
	if len(v.node.Content) == 0 {
		v.wrong("the list is empty; name at least one, or remove the key if it is optional")
	}
	items := make([]value, len(v.node.Content))
	for i, n := range v.node.Content {
		items[i] = value{node: n, path: fmt.Sprintf("%s[%d]", v.path, i), read: v.read}
	}
	return items
}

// text is one line of printable text that is not empty.
func (v value) text(most int) (string, bool) {
	if !v.is(yaml.ScalarNode, "text (in quotes)", "!!str") {
		return "", false
	}
	s := v.node.Value
	switch {
	case strings.TrimSpace(s) == "":
		v.wrong("the text is empty; fill it in, or remove the key if it is optional")
		return "", false
	case utf8.RuneCountInString(s) > most:
		v.wrong("%d characters are too many; write at most %d", utf8.RuneCountInString(s), most)
		return "", false
	case strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) }):
		v.wrong("there is a line break or an invisible character in it; write one line of plain text")
		return "", false
	}
	return s, true
}

// newID is the id of a thing that is being defined, the only one of its kind. What is wrong with it is reported, but it is
// still taken as defined, so that references to it are not reported too.
func (v value) newID(kind string, most int) string {
	id, ok := v.text(maxPolicyBytes)
	if !ok {
		return ""
	}
	if first, twice := v.read.known[kind][id]; twice {
		v.wrong("the %s %s is there already, in line %d; give every %s its own id", kind, shown(id), first, kind)
		return id
	}
	v.read.known[kind][id] = v.node.Line
	if !idPattern.MatchString(id) || len(id) > most {
		v.wrong("%s cannot be an id; use at most %d lower-case letters, digits, dots, hyphens and underscores, beginning and ending with a "+
			"letter or digit", shown(id), most)
	}
	return id
}

// references is a list of ids of things that are defined elsewhere in the file, each once.
func (v value) references(kind string) []string {
	var out []string
	seen := map[string]bool{}
	for _, at := range v.list() {
		id, ok := at.text(maxPolicyBytes)
		if !ok {
			continue
		}
		at.reference(kind)
		if seen[id] {
			at.wrong("%s is listed twice; remove one", shown(id))
		}
		seen[id] = true
		out = append(out, id)
	}
	return out
}

// reference is the id of a thing that is defined elsewhere in the file; empty if it is none.
func (v value) reference(kind string) string {
	id, ok := v.text(maxPolicyBytes)
	if !ok {
		return ""
	}
	known := v.read.known[kind]
	if _, ok := known[id]; ok || known == nil {
		return id
	}
	hint := "define it or correct the name"
	if near := Closest(id, slices.Sorted(maps.Keys(known))); near != "" {
		hint = "did you mean " + near + "?"
	}
	v.wrong("there is no %s %s; %s", kind, shown(id), hint)
	return ""
}

func (v value) choice(allowed ...string) (string, bool) {
	s, ok := v.text(maxText)
	if ok && !slices.Contains(allowed, s) {
		v.wrong("%s is unknown here; write one of %s", shown(s), strings.Join(allowed, ", "))
		return "", false
	}
	return s, ok
}

func (v value) integer(least, most int) (int, bool) {
	if !v.is(yaml.ScalarNode, "a whole number", "!!int") {
		return 0, false
	}
	n, err := strconv.Atoi(v.node.Value)
	if err != nil || strconv.Itoa(n) != v.node.Value {
		v.wrong("%s is not a plain decimal number; write it like 2", shown(v.node.Value))
		return 0, false
	}
	if n < least || n > most {
		v.wrong("%d is out of range; write a number from %d to %d", n, least, most)
		return 0, false
	}
	return n, true
}

func (v value) boolean() (bool, bool) {
	if !v.is(yaml.ScalarNode, "true or false", "!!bool") {
		return false, false
	}
	return strings.EqualFold(v.node.Value, "true"), true
}

// duration is a span of whole seconds from minSpan to maxSpan.
func (v value) duration() (time.Duration, bool) { return v.durationTo(maxSpan) }

// durationTo is a span of whole seconds from minSpan to most, which is in whole hours.
func (v value) durationTo(most time.Duration) (time.Duration, bool) {
	if v.node != nil && v.node.Kind == yaml.ScalarNode && v.node.Tag == "!!int" {
		v.wrong("%s has no unit; write %[1]sm or %[1]ss", clipped(v.node.Value))
		return 0, false
	}
	if !v.is(yaml.ScalarNode, "a duration with a unit, like 30m or 90s", "!!str") {
		return 0, false
	}
	d, err := time.ParseDuration(v.node.Value)
	switch {
	case err != nil:
		v.wrong("%s is not a duration; write it with a unit, like 30m, 90s or 1h30m", shown(v.node.Value))
		return 0, false
	case d < minSpan || d > most:
		v.wrong("%s is out of range; write a duration from 1m to %dh", shown(v.node.Value), int(most.Hours()))
		return 0, false
	case d%time.Second != 0:
		v.wrong("%s is not in whole seconds; round it", shown(v.node.Value))
		return 0, false
	}
	return d, true
}

// shown quotes what stands in the file for a message.
func shown(s string) string { return strconv.Quote(clipped(s)) }

func clipped(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return s
}

// Closest returns the candidate that s was probably meant to be: at most a third of its letters differ. Empty if there is none.
func Closest(s string, candidates []string) string {
	best, least := "", len(s)/3+1
	if len(s) > maxID {
		return ""
	}
	for _, c := range candidates {
		if d := distance(strings.ToLower(s), strings.ToLower(c)); d < least {
			best, least = c, d
		}
	}
	return best
}

// distance is the number of bytes to insert, delete or replace to turn a into b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
