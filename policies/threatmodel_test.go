package policies

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var (
	// citation is a proof in the last cell of a claim: `package.TestName`, or `package.TestName/part`.
	citation  = regexp.MustCompile("`([a-z0-9/]+)\\.((?:Test|Fuzz)[A-Za-z0-9]+)(?:/([^`]+))?`")
	quoted    = regexp.MustCompile("`[^`]*`")
	invariant = regexp.MustCompile(`\bI[0-9]+\b`)
	promise   = regexp.MustCompile(`^- \*\*(I[0-9]+)\*\* `)
)

// tests is what the test files of one package hold.
type tests struct {
	functions map[string]bool
	literals  map[string]bool // string literals: the names of subtests, among others
	files     map[string]bool // names of files below testdata, also without their extension: scripts and cases
}

// readTests reads the test files of a package, which is named by its directory below the module's.
func readTests(pkg string) (tests, error) {
	dir := filepath.Join("..", filepath.FromSlash(pkg))
	out := tests{map[string]bool{}, map[string]bool{}, map[string]bool{}}
	names, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return out, err
	}
	for _, name := range names {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return out, err
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && isTest(f) {
				out.functions[f.Name.Name] = true
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
				if s, err := strconv.Unquote(l.Value); err == nil {
					out.literals[s] = true
				}
			}
			return true
		})
	}
	data := filepath.Join(dir, "testdata")
	if _, err := os.Stat(data); err != nil {
		return out, nil // many packages have none
	}
	return out, filepath.WalkDir(data, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out.files[d.Name()] = true
			out.files[strings.TrimSuffix(d.Name(), filepath.Ext(d.Name()))] = true
		}
		return err
	})
}

// isTest says whether go test runs a function: its name and its one parameter must be those of a test or a fuzz target.
func isTest(f *ast.FuncDecl) bool {
	if f.Recv != nil || len(f.Type.Params.List) != 1 || len(f.Body.List) == 0 {
		return false
	}
	star, ok := f.Type.Params.List[0].Type.(*ast.StarExpr)
	if !ok {
		return false
	}
	sel, ok := star.X.(*ast.SelectorExpr)
	return ok && (sel.Sel.Name == "T" && strings.HasPrefix(f.Name.Name, "Test") || sel.Sel.Name == "F" &&
		strings.HasPrefix(f.Name.Name, "Fuzz"))
}

// checkThreatModel returns everything that is wrong with a threat model, and how many claims it makes.
func checkThreatModel(text string) (problems []string, claims int) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	packages := map[string]tests{}
	check := func(n int, pkg, name, part string) {
		p, ok := packages[pkg]
		if !ok {
			var err error
			if p, err = readTests(pkg); err != nil {
				bad("line %d: reading the tests of %s: %v", n, pkg, err)
			}
			packages[pkg] = p
		}
		switch {
		case !p.functions[name]:
			bad("line %d: package %s has no test %s", n, pkg, name)
		case part != "" && !p.literals[part] && !p.files[part]:
			bad("line %d: %s.%s has no part %q", n, pkg, name, part)
		}
	}

	promised, cited, open := map[string]bool{}, map[string]bool{}, map[string]bool{}
	section := ""
	lines := append(strings.Split(text, "\n"), "") // so that there is always a next one
	for i, line := range lines[:len(lines)-1] {
		if title, ok := strings.CutPrefix(line, "## "); ok {
			section = title
		}
		switch section {
		case "What always holds":
			if m := promise.FindStringSubmatch(line); m != nil {
				promised[m[1]] = true
			}
		case "Not proven", "Not covered yet":
			for _, id := range invariant.FindAllString(line, -1) {
				open[id] = true
			}
		case "Claims":
			if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "| ---") || strings.HasPrefix(lines[i+1], "| ---") {
				continue
			}
			claims++
			cells := strings.Split(strings.Trim(line, "| "), " | ")
			if len(cells) != 4 {
				bad("line %d: %d cells, want who, what, invariants and proof", i+1, len(cells))
				continue
			}
			for _, id := range invariant.FindAllString(cells[2], -1) {
				cited[id] = true
			}
			proofs := citation.FindAllStringSubmatch(cells[3], -1)
			if len(proofs) == 0 || len(proofs) != len(quoted.FindAllString(cells[3], -1)) {
				bad("line %d: a claim without proof, or one that is not written `package.TestName`: %s", i+1, cells[3])
			}
			for _, m := range proofs {
				check(i+1, m[1], m[2], m[3])
			}
		}
	}
	for n := range 20 {
		id := fmt.Sprintf("I%d", n+1)
		switch {
		case promised[id] && !cited[id]:
			bad("%s is said to hold, and no claim proves it", id)
		case cited[id] && !promised[id]:
			bad("%s has a claim and is not among what always holds", id)
		case !promised[id] && !open[id]:
			bad("%s is neither said to hold nor said to be missing", id)
		}
	}
	return problems, claims
}

func threatModel(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("THREATMODEL.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestEveryClaimOfTheThreatModelNamesATest(t *testing.T) {
	problems, claims := checkThreatModel(threatModel(t))
	for _, p := range problems {
		t.Errorf("THREATMODEL.md: %s", p)
	}
	if claims < 50 {
		t.Errorf("only %d claims were found: are the tables still where they were?", claims)
	}
}

// What the test above is for must be seen by it.
func TestThreatModelWithoutItsProofsIsNoticed(t *testing.T) {
	good := threatModel(t)
	for _, c := range []struct{ old, new, want string }{
		{"`internal/breakglass.TestDenyIsFinal`", "`internal/breakglass.TestDenyIsFinl`",
			"package internal/breakglass has no test TestDenyIsFinl"},
		{"`internal/breakglass.TestDenyIsFinal`", "`internal/brokenglass.TestDenyIsFinal`",
			"package internal/brokenglass has no test TestDenyIsFinal"},
		{"`internal/breakglass.TestDenyIsFinal`", "`TestDenyIsFinal`", "not written `package.TestName`"},
		{"`internal/breakglass.TestDenyIsFinal`", "`internal/bgtest.NewCSR`", "not written `package.TestName`"},
		{"`cmd/breakglass.TestScripts/lies`", "`cmd/breakglass.TestScripts/truths`", `TestScripts has no part "truths"`},
		{"`cmd/breakglass.TestScripts/ledger`", "`cmd/breakglass.TestMain`", "package cmd/breakglass has no test TestMain"},
		{"| `internal/breakglass.TestKeyIsUsedForOneRequestOnly` |", "| the code |", "a claim without proof"},
		{"| I12 | `internal", "| – | `internal", "I12 is said to hold, and no claim proves it"},
		{"- **I13** ", "- ", "I13 has a claim and is not among what always holds"},
		{"- **I10**: ", "- ", "I10 is neither said to hold nor said to be missing"},
		{"| Refused | I2 |", "| Refused |", "3 cells"},
	} {
		if !strings.Contains(good, c.old) {
			t.Errorf("there is no %s to spoil", c.old)
			continue
		}
		problems, _ := checkThreatModel(strings.Replace(good, c.old, c.new, 1))
		if !slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, c.want) }) {
			t.Errorf("%s for %s: %q, want one about %q", c.new, c.old, problems, c.want)
		}
	}
}
