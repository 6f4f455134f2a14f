package inventory

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// parseYAML reads one YAML document. Of an empty one it is nil.
func parseYAML(text []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	if err := decoder.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		return nil, err
	}
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("line %d: a second document begins here; there must be one", more.Line)
	}
	return doc.Content[0], nil
}

// A reader converts YAML nodes strictly and collects what is wrong with them. A nil node stands for what is not there: it
// gives a zero value, and no mistake.
type reader struct{ problems []error }

func (r *reader) wrong(n *yaml.Node, format string, args ...any) {
	line := 1
	if n != nil {
		line = n.Line
	}
	r.problems = append(r.problems, fmt.Errorf("line %d: "+format, append([]any{line}, args...)...))
}

// err is everything that was wrong in the file, nil if nothing was.
func (r *reader) err(file string) error {
	if len(r.problems) == 0 {
		return nil
	}
	return fmt.Errorf("%s has mistakes:\n%w", file, errors.Join(r.problems...))
}

// An object is a mapping of which every key is known and stands there once.
type object struct {
	r      *reader
	node   *yaml.Node
	fields map[string]*yaml.Node
}

func (o object) get(key string) *yaml.Node { return o.fields[key] }

func (o object) need(key string) *yaml.Node {
	if o.node != nil && o.fields[key] == nil {
		o.r.wrong(o.node, "%s is missing", key)
	}
	return o.fields[key]
}

func (r *reader) object(n *yaml.Node, keys ...string) object {
	o := object{r: r, node: n, fields: map[string]*yaml.Node{}}
	if n == nil {
		return o
	}
	if n.Kind != yaml.MappingNode {
		r.wrong(n, "here must be keys with values: %s", strings.Join(keys, ", "))
		return object{r: r}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		switch {
		case o.fields[key.Value] != nil:
			r.wrong(key, "%s stands here twice", shown(key.Value))
		case !slices.Contains(keys, key.Value):
			r.wrong(key, "unknown key %s; allowed here: %s", shown(key.Value), strings.Join(keys, ", "))
		default:
			o.fields[key.Value] = n.Content[i+1]
		}
	}
	return o
}

func (r *reader) list(n *yaml.Node) []*yaml.Node {
	if n == nil {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		r.wrong(n, "here must be a list")
		return nil
	}
	return n.Content
}

func (r *reader) text(n *yaml.Node) string {
	if n == nil {
		return ""
	}
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		r.wrong(n, "here must be text")
		return ""
	}
	return strings.TrimSpace(n.Value)
}

func (r *reader) texts(n *yaml.Node) []string {
	var out []string
	for _, item := range r.list(n) {
		if item.Kind != yaml.ScalarNode {
			r.wrong(item, "here must be text")
			continue
		}
		out = append(out, item.Value)
	}
	return out
}
