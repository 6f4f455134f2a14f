package breakglass_test

import (
	"go/parser"
	"go/token"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/internal/breakglass"
)

// edge is a row of the table in the package comment: an event, the states in which it may happen, and those that it leads to.
type edge struct {
	event    string
	from, to []breakglass.State // no to: the state stays the same
}

// leads reports whether the row takes a request from one state to another. A request that does not exist yet has no state.
func (e edge) leads(before, after breakglass.State) bool {
	switch {
	case e.to == nil:
		return before == after && slices.Contains(e.from, before)
	case e.from == nil:
		return before == "" && slices.Contains(e.to, after)
	}
	return slices.Contains(e.from, before) && slices.Contains(e.to, after)
}

// clockEvent is the table's name for time that passes.
const clockEvent = "(clock)"

var columns = regexp.MustCompile(` {2,}`)

// documented reads the table in the package comment.
func documented(t *testing.T) []edge {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "doc.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	states := func(cell string) []breakglass.State {
		switch cell {
		case "-", "the same":
			return nil
		case "any":
			return breakglass.AllStates()
		}
		var out []breakglass.State
		for name := range strings.SplitSeq(cell, ", ") {
			if !breakglass.State(name).Known() {
				t.Fatalf("doc.go: %q is no state", name)
			}
			out = append(out, breakglass.State(name))
		}
		return out
	}
	var out []edge
	inTable := false
	for line := range strings.Lines(f.Doc.Text()) {
		cells := columns.Split(strings.TrimSpace(line), -1)
		switch {
		case slices.Equal(cells, []string{"event", "while", "leads to"}):
			inTable = true
		case inTable && len(cells) == 3:
			out = append(out, edge{cells[0], states(cells[1]), states(cells[2])})
		case inTable:
			return out
		}
	}
	t.Fatal("doc.go has no table of events")
	return nil
}

// nameOf is a kind without its number.
func nameOf(kind string) string {
	name, _, _ := strings.Cut(kind, "/")
	return name
}

func TestTheTableOfEventsIsTheOneInThePackageComment(t *testing.T) {
	code := map[string][]breakglass.State{}
	for kind, states := range breakglass.From() {
		if states == nil && nameOf(kind) != "requested" { // which begins a request: it has no state before
			states = breakglass.AllStates()
		}
		code[nameOf(kind)] = states
	}
	doc := map[string][]breakglass.State{}
	for _, e := range documented(t) {
		if e.event != clockEvent {
			doc[e.event] = e.from
		}
	}
	if !maps.EqualFunc(code, doc, slices.Equal) {
		t.Errorf("the code has\n%v\nand the package comment\n%v", code, doc)
	}
}
