package deploy

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// The context of an image's build holds everything that git tracks at the top: a package that is missing breaks the build, and a
// tracked file that is missing makes Go call the version dirty.
func TestImageIsBuiltFromEveryTrackedFile(t *testing.T) {
	lines := func(name string) []string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(strings.Split(string(text), "\n"), func(l string) bool { return l == "" || strings.HasPrefix(l, "#") })
	}
	patterns := lines("docker/Dockerfile.dockerignore")
	if patterns[0] != "*" {
		t.Fatalf("the list begins with %q: everything that it does not name is let through", patterns[0])
	}
	ignored := lines("../.gitignore")
	entries, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		tracked := !slices.ContainsFunc(ignored, func(p string) bool {
			return strings.Trim(p, "/") == e.Name() || strings.HasPrefix(p, "*.") && strings.HasSuffix(e.Name(), p[1:])
		})
		if tracked != slices.Contains(patterns, "!"+e.Name()) {
			t.Errorf("%s: tracked %v, let through %v", e.Name(), tracked, !tracked)
		}
	}
	for _, p := range patterns[1:] {
		if _, err := os.Stat("../" + strings.TrimPrefix(p, "!")); err != nil || !strings.HasPrefix(p, "!") {
			t.Errorf("the line %q lets nothing through: %v", p, err)
		}
	}
}
