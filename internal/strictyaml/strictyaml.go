// Package strictyaml reads YAML files of which every key and every value must be understood, and says of all that is not where it
// stands and what to write instead. It is for files in which a key that is passed over would give people rights or take them.
//
// One document, no aliases, no anchors, no tags, no merge keys: what a file says can be read from top to bottom.
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// MaxBytes is the size of the largest file that is read: far above any real one, far below what could hurt the daemon.
const MaxBytes = 1 << 20

const (
	maxName = 200 // characters of a text that is compared with a few known words
	maxNear = 63  // bytes of a misspelt word that is compared with the known ones
)

var (
	idPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$`)
	errorLine = regexp.MustCompile(`^yaml: (?:line ([0-9]+): )?`)
)

// Problem is one mistake in a file.
type Problem struct {
	Line, Column int    // from 1; 0 when the mistake has no place
	Path         string // of the key, like profiles[2].ttl.max; may be empty
	Text         string
}

// Error is every mistake of a file, in the order of their places.
type Error struct {
	File     string
	Problems []Problem
}

// Error lists the problems, one a line.
func (e *Error) Error() string { return strings.Join(e.Lines(), "\n") }

// Lines are the problems in the form file:line: path: text. Of a file that is hopeless they are the first.
func (e *Error) Lines() []string {
	const most = 100
	var lines []string
	for i, p := range e.Problems {
		if i == most {
			return append(lines, fmt.Sprintf("%s: and %d more", e.File, len(e.Problems)-most))
		}
		s := e.File + ":"
		if p.Line > 0 {
			s += strconv.Itoa(p.Line) + ":"
		}
		if p.Path != "" {
			s += " " + p.Path + ":"
		}
		lines = append(lines, s+" "+p.Text)
	}
	return lines
}

// Reader collects the mistakes of one file. The zero value is ready. It is for one goroutine.
type Reader struct {
	Problems []Problem
	// known has, for each kind of thing, the ids of the file and their lines. A kind without an entry could not be read:
	// then nothing is said about references to it.
	known map[string]map[string]int
}

// Err returns an [Error] with all that was wrong, nil if nothing was. file is what the file is called in it.
func (r *Reader) Err(file string) error {
	if len(r.Problems) == 0 {
		return nil
	}
	slices.SortStableFunc(r.Problems, func(a, b Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return &Error{File: file, Problems: r.Problems}
}

// Empty reports whether a file says nothing: it has comments and white space at most.
func Empty(data []byte) bool {
	return errors.Is(yaml.NewDecoder(bytes.NewReader(data)).Decode(new(yaml.Node)), io.EOF)
}

// Document returns the root of the only document in data. what is what the file is, like "the access policy"; empty is what is
// said of a file without content.
func (r *Reader) Document(data []byte, what, empty string) (Value, bool) {
	doc, problem := r.document(data, what, empty)
	if problem != nil {
		r.Problems = append(r.Problems, *problem)
		return Value{}, false
	}
	return Value{node: doc, read: r}, true
}

func (r *Reader) document(data []byte, what, empty string) (*yaml.Node, *Problem) {
	whole := func(line int, text string) (*yaml.Node, *Problem) { return nil, &Problem{Line: line, Text: text} }
	if len(data) > MaxBytes {
		return whole(0, fmt.Sprintf("the file has %d bytes, at most %d are read; is it %s?", len(data), MaxBytes, what))
	}
	if !utf8.Valid(data) {
		bad := 0
		for bad < len(data) {
			c, n := utf8.DecodeRune(data[bad:])
			if c == utf8.RuneError && n == 1 {
				break
			}
			bad += n
		}
		return whole(1+bytes.Count(data[:bad], []byte("\n")), "the file is not UTF-8 text from here on; save it as UTF-8")
	}
	broken := func(err error) (*yaml.Node, *Problem) {
		text := err.Error()
		m := errorLine.FindStringSubmatch(text)
		line := 1
		if m != nil {
			text = text[len(m[0]):]
			line, _ = strconv.Atoi(m[1]) // a missing number is the first line: the parser counts from 0 there
		}
		return whole(max(line, 1), "not YAML: "+text+"; check indentation, quotes and brackets around this line")
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	err := d.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return whole(1, "the file is empty; "+empty)
	}
	if err != nil {
		return broken(err)
	}
	if err := d.Decode(&second); err == nil {
		return whole(second.Line, "a second YAML document begins here; keep one document and remove the line ---")
	} else if !errors.Is(err, io.EOF) {
		return broken(err)
	}
	return doc.Content[0], nil
}

// Value is a YAML node and its place in the file. Its methods convert it; they report what does not fit and then answer
// false. A value without a node stands for a key that is not there: it answers false and reports nothing.
type Value struct {
	node *yaml.Node
	path string
	read *Reader
}

// Wrong reports what is wrong with the value, and what to write instead. It is for values that are there.
func (v Value) Wrong(text string, args ...any) {
	v.read.Problems = append(v.read.Problems, Problem{Line: v.node.Line, Column: v.node.Column, Path: v.path,
		Text: fmt.Sprintf(text, args...)})
}

// There reports whether there is a value.
func (v Value) There() bool { return v.node != nil }

// Line is the line of the value, 0 if it is not there.
func (v Value) Line() int {
	if v.node == nil {
		return 0
	}
	return v.node.Line
}

// Raw is the text of a scalar, unchecked: to look for what must not stand there.
func (v Value) Raw() string {
	if v.node == nil || v.node.Kind != yaml.ScalarNode {
		return ""
	}
	return v.node.Value
}

// is reports whether the node is of a kind and, if a scalar, of one of the tags.
func (v Value) is(kind yaml.Kind, want string, tags ...string) bool {
	switch {
	case v.node == nil:
		return false
	case v.node.Kind == yaml.AliasNode:
		v.Wrong("an alias (*%s) stands here; write the value out, this file must read from top to bottom", clipped(v.node.Value))
		return false
	case v.node.Anchor != "":
		v.Wrong("an anchor (&%s) stands here; remove it and write values out where they are used", clipped(v.node.Anchor))
		return false
	case v.node.Style&yaml.TaggedStyle != 0:
		v.Wrong("a tag (%s) stands here; remove it", clipped(v.node.Tag))
		return false
	case v.node.Kind == kind && (len(tags) == 0 || slices.Contains(tags, v.node.Tag)):
		return true
	}
	got := map[yaml.Kind]string{yaml.MappingNode: "keys with values stand", yaml.SequenceNode: "a list stands"}[v.node.Kind]
	if v.node.Kind == yaml.ScalarNode {
		switch v.node.Tag {
		case "!!null":
			got = "nothing stands"
		case "!!str":
			got = "text stands" // not which: it may be a secret in the wrong place
		default:
			got = clipped(v.node.Value) + " stands"
		}
	}
	v.Wrong("%s here; write %s", got, want)
	return false
}

// Object is a YAML mapping whose keys are all known and stand there once.
type Object struct {
	Value
	fields   map[string]Value
	misspelt []string // known keys that probably were meant by unknown ones
}

// Object is the mapping that stands here, whose keys must be among those given.
func (v Value) Object(keys ...string) (Object, bool) {
	if !v.is(yaml.MappingNode, "keys with values: "+strings.Join(keys, ", ")) {
		return Object{}, false
	}
	o := Object{Value: v, fields: map[string]Value{}}
	prefix := v.path
	if prefix != "" {
		prefix += "."
	}
	for i := 0; i+1 < len(v.node.Content); i += 2 {
		node := v.node.Content[i]
		key := Value{node: node, path: v.path, read: v.read}
		if node.Tag == "!!merge" {
			key.Wrong("a merge key (<<) stands here; write the keys out, this file must read from top to bottom")
			continue
		}
		if !key.is(yaml.ScalarNode, "one of the keys "+strings.Join(keys, ", "), "!!str") {
			continue
		}
		name := node.Value
		if first, twice := o.fields[name]; twice {
			key.path = prefix + name
			key.Wrong("this key stands here twice, first in line %d; remove one", first.node.Line)
			continue
		}
		if !slices.Contains(keys, name) {
			hint := "allowed here: " + strings.Join(keys, ", ")
			if near := Closest(name, keys); near != "" {
				hint = "did you mean " + near + "?"
				o.misspelt = append(o.misspelt, near)
			}
			if secret := name + "_file"; slices.Contains(keys, secret) {
				hint = "did you mean " + secret + "? Secrets are in files of their own"
			}
			key.Wrong("unknown key %s; %s", Shown(name), hint)
			continue
		}
		o.fields[name] = Value{node: v.node.Content[i+1], path: prefix + name, read: v.read}
	}
	return o, true
}

// Misspelt reports whether a key was not understood that probably is meant to be one of the known ones.
func (o Object) Misspelt() bool { return len(o.misspelt) > 0 }

// At is the value of a key that may be missing.
func (o Object) At(key string) Value { return o.fields[key] }

// Has reports whether the key is there.
func (o Object) Has(key string) bool { return o.fields[key].node != nil }

// Need is the value of a key that must be there.
func (o Object) Need(key string) Value {
	if !o.Has(key) && !slices.Contains(o.misspelt, key) {
		o.Wrong("%s is missing; add it", key)
	}
	return o.fields[key]
}

// Section is the list of all things of one kind.
func (o Object) Section(key, kind string) []Value {
	items := o.Need(key).List()
	if len(items) > 0 {
		if o.read.known == nil {
			o.read.known = map[string]map[string]int{}
		}
		o.read.known[kind] = map[string]int{}
	}
	return items
}

// List returns the items of a list; an empty one is a mistake.
func (v Value) List() []Value {
	if v.node != nil && v.node.Kind == yaml.SequenceNode && len(v.node.Content) == 0 {
		v.Wrong("the list is empty; name at least one, or remove the key if it is optional")
	}
	return v.Items()
}

// Items returns the items of a list, which may be empty.
func (v Value) Items() []Value {
	if !v.is(yaml.SequenceNode, "a list, like [a, b]") {
		return nil
	}
	items := make([]Value, len(v.node.Content))
	for i, n := range v.node.Content {
		items[i] = Value{node: n, path: fmt.Sprintf("%s[%d]", v.path, i), read: v.read}
	}
	return items
}

// Text is one line of printable text that is not empty.
func (v Value) Text(most int) (string, bool) {
	if !v.is(yaml.ScalarNode, "text (in quotes)", "!!str") {
		return "", false
	}
	s := v.node.Value
	switch {
	case strings.TrimSpace(s) == "":
		v.Wrong("the text is empty; fill it in, or remove the key if it is optional")
		return "", false
	case utf8.RuneCountInString(s) > most:
		v.Wrong("%d characters are too many; write at most %d", utf8.RuneCountInString(s), most)
		return "", false
	case strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) }):
		v.Wrong("there is a line break or an invisible character in it; write one line of plain text")
		return "", false
	}
	return s, true
}

// Plain is a text as it stands in the file, which may be empty. want is what to write instead of what is no text.
func (v Value) Plain(want string) (string, bool) {
	if !v.is(yaml.ScalarNode, want, "!!str") {
		return "", false
	}
	return v.node.Value, true
}

// NewID is the id of a thing that is being defined, the only one of its kind. What is wrong with it is reported, but it is
// still taken as defined, so that references to it are not reported too.
func (v Value) NewID(kind string, most int) string {
	id, ok := v.Text(MaxBytes)
	if !ok {
		return ""
	}
	if first, twice := v.read.known[kind][id]; twice {
		v.Wrong("the %s %s is there already, in line %d; give every %s its own id", kind, Shown(id), first, kind)
		return id
	}
	v.read.known[kind][id] = v.node.Line
	if !idPattern.MatchString(id) || len(id) > most {
		v.Wrong("%s cannot be an id; use at most %d lower-case letters, digits, dots, hyphens and underscores, beginning and ending with a "+
			"letter or digit", Shown(id), most)
	}
	return id
}

// References is a list of ids of things that are defined elsewhere in the file, each once.
func (v Value) References(kind string) []string {
	var out []string
	seen := map[string]bool{}
	for _, at := range v.List() {
		id, ok := at.Text(MaxBytes)
		if !ok {
			continue
		}
		at.Reference(kind)
		if seen[id] {
			at.Wrong("%s is listed twice; remove one", Shown(id))
		}
		seen[id] = true
		out = append(out, id)
	}
	return out
}

// Reference is the id of a thing that is defined elsewhere in the file; empty if it is not an id.
func (v Value) Reference(kind string) string {
	id, ok := v.Text(MaxBytes)
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
	v.Wrong("there is no %s %s; %s", kind, Shown(id), hint)
	return ""
}

// Choice is one of a few words.
func (v Value) Choice(allowed ...string) (string, bool) {
	s, ok := v.Text(maxName)
	if ok && !slices.Contains(allowed, s) {
		v.Wrong("%s is unknown here; write one of %s", Shown(s), strings.Join(allowed, ", "))
		return "", false
	}
	return s, ok
}

// Integer is a whole decimal number from least to most.
func (v Value) Integer(least, most int) (int, bool) {
	if !v.is(yaml.ScalarNode, "a whole number", "!!int") {
		return 0, false
	}
	n, err := strconv.Atoi(v.node.Value)
	if err != nil || strconv.Itoa(n) != v.node.Value {
		v.Wrong("%s is not a plain decimal number; write it like 2", Shown(v.node.Value))
		return 0, false
	}
	if n < least || n > most {
		v.Wrong("%d is out of range; write a number from %d to %d", n, least, most)
		return 0, false
	}
	return n, true
}

// Boolean is true or false.
func (v Value) Boolean() (bool, bool) {
	if !v.is(yaml.ScalarNode, "true or false", "!!bool") {
		return false, false
	}
	return strings.EqualFold(v.node.Value, "true"), true
}

// Duration is a span of whole seconds from a minute to most, which is in whole hours.
func (v Value) Duration(most time.Duration) (time.Duration, bool) {
	if v.node != nil && v.node.Kind == yaml.ScalarNode && v.node.Tag == "!!int" {
		v.Wrong("%s has no unit; write %[1]sm or %[1]ss", clipped(v.node.Value))
		return 0, false
	}
	if !v.is(yaml.ScalarNode, "a duration with a unit, like 30m or 90s", "!!str") {
		return 0, false
	}
	d, err := time.ParseDuration(v.node.Value)
	switch {
	case err != nil:
		v.Wrong("%s is not a duration; write it with a unit, like 30m, 90s or 1h30m", Shown(v.node.Value))
		return 0, false
	case d < time.Minute || d > most:
		v.Wrong("%s is out of range; write a duration from 1m to %dh", Shown(v.node.Value), int(most.Hours()))
		return 0, false
	case d%time.Second != 0:
		v.Wrong("%s is not in whole seconds; round it", Shown(v.node.Value))
		return 0, false
	}
	return d, true
}

// Days is a number of days, like 14d.
func (v Value) Days(least, most int) (int, bool) {
	if !v.is(yaml.ScalarNode, "a number of days, like 14d", "!!str") {
		return 0, false
	}
	n := 0
	if _, err := fmt.Sscanf(v.node.Value, "%dd", &n); err != nil || fmt.Sprintf("%dd", n) != v.node.Value {
		v.Wrong("%s is not a number of days; write it like 14d", Shown(v.node.Value))
		return 0, false
	}
	if n < least || n > most {
		v.Wrong("%s is out of range; write %dd to %dd", Shown(v.node.Value), least, most)
		return 0, false
	}
	return n, true
}

// Word is the text of a scalar of any type as it stands in the file, without the white space around it: a version, a date, true.
func (v Value) Word() string {
	if v.node == nil {
		return ""
	}
	if v.node.Kind == yaml.ScalarNode && v.node.Tag == "!!null" || !v.is(yaml.ScalarNode, "text") {
		if v.node.Tag == "!!null" {
			v.Wrong("nothing stands here; write text")
		}
		return ""
	}
	return strings.TrimSpace(v.node.Value)
}

// Words are the words of a list, which may be empty, and may hold an empty text.
func (v Value) Words() []string {
	var out []string
	for _, item := range v.Items() {
		if item.is(yaml.ScalarNode, "text") {
			out = append(out, item.node.Value)
		}
	}
	return out
}

// Shown quotes what stands in the file for a message.
func Shown(s string) string { return strconv.Quote(clipped(s)) }

func clipped(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return s
}

// Closest returns the candidate that s was probably meant to be: at most a third of its letters differ. Empty if no candidate is that near.
func Closest(s string, candidates []string) string {
	best, least := "", len(s)/3+1
	if len(s) > maxNear {
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
