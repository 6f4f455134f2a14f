package internal_test

import (
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var updateTexts = flag.Bool("update", false, "write testdata/texts-*.golden anew")

// textGroups are the files that hold the texts, each with the directories whose packages are in it. A package is in the first that fits.
var textGroups = []struct{ file, dirs string }{
	{"texts-cli.golden", "cmd/breakglass internal/cli internal/api"},
	{"texts-slack.golden", "internal/slackbot"},
	{"texts-domain.golden", "internal/record internal/policy internal/finding internal/breakglass internal/campaign " +
		"internal/verify internal/announce"},
	{"texts-reports.golden", "internal/session internal/residue internal/aftercare internal/recert internal/rotation internal/cacheck " +
		"internal/inventory internal/doors internal/controlplane"},
	{"texts-daemon.golden", "cmd internal"},
}

// Every text that a person can be shown stands in a few files, for a reviewer to read in one sitting: what is said in words in the source
// of what ships, sorted by package. The text that a value fills in is written ….
func TestTextsAreAsReviewed(t *testing.T) {
	found := texts(t)
	for _, g := range textGroups {
		var b strings.Builder
		for _, pkg := range slices.Sorted(maps.Keys(found)) {
			if groupOf(pkg) == g.file {
				b.WriteString("==== " + pkg + "\n")
				for _, s := range slices.Sorted(maps.Keys(found[pkg])) {
					b.WriteString(s + "\n")
				}
			}
		}
		path := filepath.Join("testdata", g.file)
		if *updateTexts {
			if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if b.String() != string(want) {
			t.Errorf("the texts are not those of %s; if they are right, write it anew: go test ./internal -run %s -update\n%s", path, t.Name(),
				changed(string(want), b.String()))
		}
	}
}

// groupOf is the file that holds a package's texts.
func groupOf(pkg string) string {
	for _, g := range textGroups {
		for dir := range strings.FieldsSeq(g.dirs) {
			if pkg == dir || strings.HasPrefix(pkg, dir+"/") {
				return g.file
			}
		}
	}
	return ""
}

// changed says which lines only one of two texts has, at most thirty.
func changed(was, is string) string {
	old, new := strings.Split(was, "\n"), strings.Split(is, "\n")
	var out []string
	for _, x := range []struct {
		sign      string
		here, not []string
	}{{"- ", old, new}, {"+ ", new, old}} {
		seen := map[string]bool{}
		for _, l := range x.not {
			seen[l] = true
		}
		for _, l := range x.here {
			if !seen[l] && len(out) < 30 {
				out = append(out, x.sign+l)
			}
		}
	}
	return strings.Join(out, "\n")
}

// sentence is text of two words or more.
var sentence = regexp.MustCompile(`\pL[\pL'’,;:.]* +[^ ]*\pL`)

// verb is what fmt fills in.
var verb = regexp.MustCompile(`%[-+# 0-9.\[\]]*[a-zA-Z]`)

// query is a statement for SQLite.
var query = regexp.MustCompile(`^\s*(?:SELECT|INSERT|UPDATE|DELETE|CREATE|PRAGMA|BEGIN|DROP|ALTER|WITH|VACUUM) `)

// texts are the sentences in the source of what ships, by package.
func texts(t *testing.T) map[string]map[string]bool {
	t.Helper()
	out := map[string]map[string]bool{}
	for _, root := range []string{"../cmd", "."} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() {
				if name := filepath.ToSlash(path); name == "bgtest" || name == "sim" || strings.HasSuffix(name, "test") || d.Name() == "testdata" {
					return fs.SkipDir
				}
				return nil
			}
			if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			pkg := filepath.ToSlash(filepath.Join("internal", filepath.Dir(path)))
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.ImportSpec, *ast.StructType:
					return false // no sentence stands in a path or in a tag
				case *ast.BinaryExpr:
					if s, ok := joined(n); ok {
						note(out, pkg, s)
						return false
					}
				case *ast.BasicLit:
					if s, ok := literal(n); ok {
						note(out, pkg, s)
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// joined is a text that is put together with +, what is no literal written as ….
func joined(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BinaryExpr:
		if e.Op != token.ADD {
			return "", false
		}
		left, ok := joined(e.X)
		right, too := joined(e.Y)
		if !ok && !too {
			return "", false
		}
		if !ok {
			left = "…"
		}
		if !too {
			right = "…"
		}
		return left + right, true
	case *ast.BasicLit:
		return literal(e)
	case *ast.ParenExpr:
		return joined(e.X)
	}
	return "", false
}

func note(out map[string]map[string]bool, pkg, s string) {
	if !sentence.MatchString(verb.ReplaceAllString(s, "")) || query.MatchString(s) {
		return
	}
	if out[pkg] == nil {
		out[pkg] = map[string]bool{}
	}
	shown := strconv.Quote(s)
	shown = strings.ReplaceAll(shown[1:len(shown)-1], `\"`, `"`)
	out[pkg][strings.TrimSpace(shown)] = true
}
