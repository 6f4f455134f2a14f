package internal_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// begun is text of a command that a name would follow: "kubectl delete pod ", "vault read %s".
var begun = regexp.MustCompile(`(?:^|[^a-z-])(?:breakglassd?|kubectl|vault)(?: (?:[a-z]+(?:-[a-z]+)*|--[a-z-]+|-[a-z]))+(?: |=|/)$`)

// byHand are the files and directories that put names behind a command which are checked when they are made: ids that this daemon gave,
// that the access policy has, or that are part of the program.
var byHand = map[string]bool{"internal/breakglass": true, "internal/policy": true, "internal/campaign": true,
	"cmd/breakglassd/dev.go": true}

// worlds are the packages whose commands are run by a program, not copied by a person.
var worlds = regexp.MustCompile(`^internal/(?:bgtest|devmode|real|sim)(?:/|$)`)

// A command that people copy is made by text.Command, or with it: a name in it is then a name, and neither a flag nor a command.
func TestPrintedCommandsAreMadeByOneHelper(t *testing.T) {
	seen := 0
	for _, root := range []string{"../cmd", "."} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file := filepath.Join("internal", path)
			dir := filepath.Dir(file)
			if byHand[dir] || byHand[file] || worlds.MatchString(dir) {
				return nil
			}
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if s := selected(n); s != "" {
					seen++
				}
				if what := handmade(n); what != "" {
					t.Errorf("%s: a name stands behind %q without text.Command", fset.Position(n.Pos()), what)
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen < 40 {
		t.Errorf("%d commands by the helper were seen: this test looks in the wrong place", seen)
	}
}

// selected is the name of the helper that a call is of.
func selected(n ast.Node) string {
	call, ok := n.(*ast.CallExpr)
	if !ok {
		return ""
	}
	switch f := call.Fun.(type) {
	case *ast.SelectorExpr:
		if f.Sel.Name == "Command" || f.Sel.Name == "typed" || f.Sel.Name == "Typed" {
			return f.Sel.Name
		}
	case *ast.Ident:
		if f.Name == "command" || f.Name == "typed" {
			return f.Name
		}
	}
	return ""
}

// handmade is the text of a command that something else than text follows.
func handmade(n ast.Node) string {
	switch n := n.(type) {
	case *ast.BinaryExpr:
		if n.Op != token.ADD {
			return ""
		}
		left := n.X
		if b, ok := left.(*ast.BinaryExpr); ok {
			left = b.Y
		}
		text, ok := literal(left)
		if _, also := literal(n.Y); ok && !also && begun.MatchString(text) {
			return text
		}
	case *ast.BasicLit:
		text, ok := literal(n)
		for _, end := range regexp.MustCompile(`%[sqvx]`).FindAllStringIndex(text, -1) {
			if ok && begun.MatchString(text[:end[0]]) {
				return text
			}
		}
	}
	return ""
}

func literal(n ast.Node) (string, bool) {
	lit, ok := n.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(lit.Value)
	return s, err == nil
}
