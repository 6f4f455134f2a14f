package webhook_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/internal/bgtest/realtest"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/real"
	"github.com/breakglassd/breakglass/internal/webhook"
)

var update = flag.Bool("update", false, "write testdata/guards.txt anew")

// resource is one line of discovery: what can be done with one resource or subresource.
type resource struct {
	group, name string
	verbs       []string
}

// virtual is what authorization knows and discovery does not.
var virtual = []resource{
	{"", "users", []string{"impersonate"}},
	{"", "groups", []string{"impersonate"}},
	{"", "serviceaccounts", []string{"impersonate"}},
	{"authentication.k8s.io", "uids", []string{"impersonate"}},
	{"authentication.k8s.io", "userextras/scopes", []string{"impersonate"}},
	{"authentication.k8s.io", "users", []string{"impersonate:user-info"}},
	{"authentication.k8s.io", "groups", []string{"impersonate:user-info"}},
	{"authentication.k8s.io", "serviceaccounts", []string{"impersonate:serviceaccount"}},
	{"authentication.k8s.io", "nodes", []string{"impersonate:arbitrary-node", "impersonate:associated-node"}},
	{"", "configmaps", []string{"impersonate-on:user-info:get"}},
	{"rbac.authorization.k8s.io", "roles", []string{"bind", "escalate"}},
	{"rbac.authorization.k8s.io", "clusterroles", []string{"bind", "escalate"}},
	{"certificates.k8s.io", "signers", []string{"approve", "attest", "sign"}},
	{"", "nodes/log", []string{"get"}},
	{"", "nodes/checkpoint", []string{"create"}},
	{"", "nodes/metrics", []string{"get"}},
}

// discover lists everything that a real API server serves, in every version.
func discover(t *testing.T, a *real.APIServer) []resource {
	t.Helper()
	raw := func(path string, into any) {
		must(t, json.Unmarshal([]byte(realtest.MustKubectl(t, a.AdminKubeconfig(), "get", "--raw", path)), into))
	}
	var groups struct {
		Groups []struct {
			Versions []struct{ GroupVersion string }
		}
	}
	raw("/apis", &groups)
	paths := map[string]string{"/api/v1": ""}
	for _, g := range groups.Groups {
		for _, v := range g.Versions {
			group, _, _ := strings.Cut(v.GroupVersion, "/")
			paths["/apis/"+v.GroupVersion] = group
		}
	}
	seen := map[[2]string][]string{}
	for path, group := range paths {
		var list struct {
			Resources []struct {
				Name  string
				Verbs []string
			}
		}
		raw(path, &list)
		for _, r := range list.Resources {
			seen[[2]string{group, r.Name}] = append(seen[[2]string{group, r.Name}], r.Verbs...)
		}
	}
	out := slices.Clone(virtual)
	for key, verbs := range seen {
		out = append(out, resource{key[0], key[1], verbs})
	}
	return out
}

// testGolden writes out, for everything that a real API server serves, which guards refuse it. The file is there to be read: what
// changes something and has no guard is in its last part. It asks about an object of any name in any namespace; what a guard holds
// of the objects of one name alone is in TestGuards.
func testGolden(t *testing.T, a *real.APIServer) {
	lines := map[string]map[string][]string{} // guard → resource → verbs
	add := func(part, resource, verb string) {
		if lines[part] == nil {
			lines[part] = map[string][]string{}
		}
		lines[part][resource] = append(lines[part][resource], verb)
	}
	for _, r := range discover(t, a) {
		name := r.name
		if r.group != "" {
			name += " in " + r.group
		}
		res, sub, _ := strings.Cut(r.name, "/")
		for _, verb := range r.verbs {
			free := true
			for g := range policy.Guards() {
				if _, refused := webhook.Refused([]policy.Guard{g}, webhook.ResourceAttributes{Verb: verb, Group: r.group, Resource: res,
					Subresource: sub,
					Namespace:   "any", Name: "any"}); refused {
					add("guard "+string(g), name, verb)
					free = false
				}
			}
			if free && !slices.Contains([]string{"get", "list", "watch"}, verb) {
				add("no guard", name, verb)
			}
		}
	}
	var b strings.Builder
	for _, part := range slices.Sorted(maps.Keys(lines)) {
		fmt.Fprintf(&b, "%s\n", part)
		for _, name := range slices.Sorted(maps.Keys(lines[part])) {
			verbs := lines[part][name]
			slices.Sort(verbs)
			fmt.Fprintf(&b, "  %s: %s\n", name, strings.Join(slices.Compact(verbs), " "))
		}
	}
	path := filepath.Join("testdata", "guards.txt")
	if *update {
		must(t, os.MkdirAll("testdata", 0o755))
		must(t, os.WriteFile(path, []byte(b.String()), 0o644))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if os.Getenv(real.LineVar) != "" { // an older Kubernetes serves less, and what it serves is guarded in the same way
		known := entries(string(want))
		for _, entry := range entries(b.String()) {
			if !slices.Contains(known, entry) {
				t.Errorf("this API server has %s, and %s has not", entry, path)
			}
		}
		return
	}
	if b.String() != string(want) {
		t.Errorf("the guards over this API server are not those of %s (go test -run TestRealAPIServer -update, and read what changed):\n%s",
			path, b.String())
	}
}

// entries are the lines of such a file below a guard, each with the guard.
func entries(text string) []string {
	var out []string
	part := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if entry, ok := strings.CutPrefix(line, "  "); ok {
			out = append(out, part+": "+entry)
		} else {
			part = line
		}
	}
	return out
}
