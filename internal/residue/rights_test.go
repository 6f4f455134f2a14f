package residue_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/residue"
	"github.com/breakglassd/breakglass/policies"
)

const rbacAPI = "rbac.authorization.k8s.io"

// rulesThat make a role that meets a rule of policies/recert/rules.yaml, in each of its spellings.
func rulesThat(t *testing.T) map[string][]inventory.PolicyRule {
	t.Helper()
	text, err := policies.Recert.ReadFile("recert/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Rules []struct {
			ID    string
			Needs []struct {
				Verbs, Groups, Resources, URLs, Only []string
				Exact                                bool
			}
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	out := map[string][]inventory.PolicyRule{}
	for _, rule := range file.Rules {
		// spell writes one need with each of its words in turn, and the others with their first.
		for n, need := range rule.Needs {
			for _, group := range append([]string{""}, need.Groups...) {
				for _, resource := range append([]string{""}, need.Resources...) {
					var role []inventory.PolicyRule
					for m, other := range rule.Needs {
						p := inventory.PolicyRule{Verbs: other.Verbs[:1], ResourceNames: other.Only[:min(1, len(other.Only))], NonResourceURLs: other.URLs}
						if len(other.URLs) == 0 {
							p.APIGroups, p.Resources = other.Groups[:1], other.Resources[:1]
						}
						if n == m && resource != "" {
							p.APIGroups, p.Resources = []string{group}, []string{resource}
						}
						role = append(role, p)
					}
					out[fmt.Sprintf("%s %d %s:%s", rule.ID, n, group, resource)] = role
					_, sub, found := strings.Cut(resource, "/")
					if !found {
						continue
					}
					wild := slices.Clone(role)
					wild[n].Resources = []string{"*/" + sub}
					out[fmt.Sprintf("%s %d %s:*/%s", rule.ID, n, group, sub)] = wild
					wild = slices.Clone(wild)
					wild[n].APIGroups, wild[n].Verbs = []string{"*"}, []string{"*"}
					out[fmt.Sprintf("%s %d * *:*/%s", rule.ID, n, sub)] = wild
				}
			}
		}
	}
	return out
}

// after is a cluster in which a session left some objects of RBAC behind, and nothing else is.
func after(t *testing.T, objects map[string]map[string]any) residue.Evidence {
	t.Helper()
	before, after := residue.Snapshot{Server: "v1.37.2"}, residue.Snapshot{Server: "v1.37.2", Taken: window.Until}
	for _, k := range residue.Kinds() {
		if o := objects[k.ID()]; o != nil {
			raw, err := json.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			made, err := residue.NewObject(k, raw, "")
			if err != nil {
				t.Fatal(err)
			}
			after.Add(k, made)
		}
		before.Looked(k)
		after.Looked(k)
	}
	return residue.Evidence{Changes: residue.Compare(&before, after, window), Before: &before, After: after}
}

func meta(name, namespace string) map[string]any {
	m := map[string]any{"name": name, "uid": name + namespace, "creationTimestamp": from.Add(time.Minute).Format(time.RFC3339)}
	if namespace != "" {
		m["namespace"] = namespace
	}
	return m
}

// There is one list of the rights that matter: what it calls high or critical in a campaign is critical when a session leaves it
// behind, and nothing else is, in every place and spelling in which it can be given.
func TestSweepAndInventoryJudgeARightAlike(t *testing.T) {
	list, defaults, err := inventory.Shipped()
	if err != nil {
		t.Fatal(err)
	}
	mallory := inventory.Subject{Kind: inventory.User, Name: "mallory"}
	worst := map[string]int{}
	for spelling, role := range rulesThat(t) {
		for _, place := range []struct{ kind, namespace string }{{"ClusterRole", ""}, {"ClusterRole", "shop"}, {"ClusterRole", "kube-system"},
			{"Role", "shop"}, {"Role", "kube-system"}} {
			name := fmt.Sprintf("%s as %s in %q", spelling, place.kind, place.namespace)
			s := &inventory.Snapshot{At: from}
			for _, source := range []string{inventory.SourceClusterRoles, inventory.SourceRoles, inventory.SourceClusterBindings,
				inventory.SourceBindings, inventory.SourceNodes, inventory.SourceNamespaces} {
				s.Sources = append(s.Sources, inventory.Source{Name: source})
			}
			s.Sources = append(s.Sources, inventory.Source{Name: inventory.SourceAWSAuth, None: true})
			b := inventory.Binding{Name: "x", Namespace: place.namespace, RoleKind: place.kind, RoleName: "x",
				Subjects: []inventory.Subject{mallory}}
			objects := map[string]map[string]any{}
			body := map[string]any{"metadata": meta("x", ""), "rules": role}
			if place.kind == "Role" {
				body["metadata"] = meta("x", place.namespace)
				objects["roles."+rbacAPI] = body
				s.Roles = []inventory.Role{{Namespace: place.namespace, Name: "x", Rules: role}}
			} else {
				objects["clusterroles."+rbacAPI] = body
				s.ClusterRoles = []inventory.Role{{Name: "x", Rules: role}}
			}
			binding := map[string]any{"metadata": meta("x", place.namespace), "subjects": []any{map[string]any{"kind": "User",
				"name": "mallory"}}, "roleRef": map[string]any{"kind": place.kind, "name": "x"}}
			if place.namespace == "" {
				objects["clusterrolebindings."+rbacAPI] = binding
				s.ClusterBindings = []inventory.Binding{b}
			} else {
				objects["rolebindings."+rbacAPI] = binding
				s.Bindings = []inventory.Binding{b}
			}
			want := inventory.Severity("")
			for _, f := range doors.Analyse(s, inventory.Options{Rules: list, Defaults: defaults, Now: from}).Findings {
				if f.Subject != nil && *f.Subject == mallory && f.Severity.Rank() > want.Rank() {
					want = f.Severity
				}
			}
			worst[spelling] = max(worst[spelling], 1+want.Rank())
			got := map[string]finding.Severity{}
			for _, r := range residue.Judge(after(t, objects)) {
				got[r.Rule] = r.Severity
			}
			grave := finding.Warning
			if want.AtLeast(inventory.High) {
				grave = finding.Critical
			}
			rule := map[bool]string{true: "clusterrolebinding-created", false: "rolebinding-created"}[place.namespace == ""]
			if got[rule] != grave {
				t.Errorf("%s: the inventory says %q, and the sweep says %q of the binding, want %q", name, want, got[rule], grave)
			}
			if place.kind == "Role" || place.namespace == "" {
				if rule := strings.ToLower(place.kind) + "-created"; got[rule] != grave {
					t.Errorf("%s: the inventory says %q, and the sweep says %q of the role, want %q", name, want, got[rule], grave)
				}
			}
		}
	}
	if len(worst) < 150 {
		t.Errorf("only %d spellings were tried", len(worst))
	}
	for _, spelling := range []string{"token-create 0 :*/token", "nodes-proxy 0 :*/proxy", "pods-exec 0 :*/exec",
		"pods-ephemeral 0 :*/ephemeralcontainers"} {
		if worst[spelling] <= inventory.High.Rank() {
			t.Errorf("%s is not even high", spelling)
		}
	}
}

func crole(name string, rules ...inventory.PolicyRule) map[string]any {
	return map[string]any{"metadata": meta(name, ""), "rules": rules}
}

func crb(name, role string, subjects ...inventory.Subject) map[string]any {
	return map[string]any{"metadata": meta(name, ""), "subjects": subjects, "roleRef": map[string]any{"kind": "ClusterRole", "name": role}}
}

// What was not seen, or not understood, is never the lesser kind.
func TestRightsThatCannotBeToldAreGrave(t *testing.T) {
	mallory := inventory.Subject{Kind: inventory.User, Name: "mallory"}
	read := inventory.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"secrets"}}
	pods := inventory.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}
	var many []inventory.PolicyRule
	for i := range 500 {
		many = append(many, inventory.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"secrets"},
			ResourceNames: []string{fmt.Sprintf("name-%03d", i)}})
	}
	long := strings.Repeat("x", 300)
	for _, row := range []struct {
		name   string
		kinds  map[string]map[string]any
		unseen []string // kinds that could not be listed
		acts   []residue.Act
		want   []string // rule, severity, part of the text
	}{
		{"a role that could not be seen", map[string]map[string]any{"clusterrolebindings": crb("b", "deployer", mallory)},
			[]string{"clusterroles"}, nil,
			[]string{"clusterrolebinding-created critical could not be seen"}},
		{"a shipped role that could not be seen", map[string]map[string]any{"clusterrolebindings": crb("b", "view", mallory)},
			[]string{"clusterroles"}, nil,
			[]string{"clusterrolebinding-created warning gives ClusterRole/view to User mallory"}},
		{"a grave shipped role that could not be seen", map[string]map[string]any{"clusterrolebindings": crb("b", "edit", mallory)},
			[]string{"clusterroles"}, nil,
			[]string{"clusterrolebinding-created critical can "}},
		{"a role that is not there", map[string]map[string]any{"clusterrolebindings": crb("b", "deployer", mallory)}, nil, nil,
			[]string{"clusterrolebinding-created warning is not there"}},
		{"a role with a long name", map[string]map[string]any{"clusterroles": crole(long, read), "clusterrolebindings": crb("b", long,
			mallory)}, nil, nil,
			[]string{"clusterrole-created critical can read Secrets", "clusterrolebinding-created critical can read Secrets"}},
		{"a role of very many rules", map[string]map[string]any{"clusterroles": crole("r", many...), "clusterrolebindings": crb("b", "r",
			mallory)}, nil, nil,
			[]string{"clusterrole-created critical more than can be looked at",
				"clusterrolebinding-created critical more rules than can be looked at"}},
		{"a role that gives little", map[string]map[string]any{"clusterroles": crole("r", pods), "clusterrolebindings": crb("b", "r",
			mallory)}, nil, nil,
			[]string{"clusterrole-created warning has what it gives", "clusterrolebinding-created warning gives ClusterRole/r to User mallory"}},
		{"a patch of a role of which nothing else is known", nil, []string{"clusterroles"}, []residue.Act{{At: from, Verb: "patch",
			Group: rbacAPI, Resource: "clusterroles", Name: "r", Code: 200}},
			[]string{"clusterrole-changed critical could not be seen"}},
		{"everybody, with a namespace that the API server does not look at", map[string]map[string]any{"clusterroles": crole("r",
			inventory.PolicyRule{Verbs: []string{"update"}, APIGroups: []string{rbacAPI}, Resources: []string{"clusterroles"}}),
			"clusterrolebindings": crb("b", "r", inventory.Subject{Kind: inventory.Group, Namespace: "x", Name: "system:authenticated"})}, nil, nil,
			[]string{"clusterrole-created warning has what it gives", "clusterrolebinding-created critical can change roles or bindings"}},
	} {
		objects := map[string]map[string]any{}
		for kind, o := range row.kinds {
			objects[kind+"."+rbacAPI] = o
		}
		in := after(t, objects)
		in.Acts = row.acts
		for _, kind := range row.unseen {
			in.After.Whole = slices.DeleteFunc(in.After.Whole, func(k string) bool { return k == kind+"."+rbacAPI })
		}
		got := residue.Judge(in)
		for _, want := range row.want {
			rule, rest, _ := strings.Cut(want, " ")
			severity, says, _ := strings.Cut(rest, " ")
			if !slices.ContainsFunc(got, func(r breakglass.Residue) bool {
				return r.Rule == rule && string(r.Severity) == severity && strings.Contains(r.What, says)
			}) {
				t.Errorf("%s: got %+v, want %s", row.name, got, want)
			}
		}
		if len(got) != len(row.want) {
			t.Errorf("%s: got %d residues %+v, want %d", row.name, len(got), got, len(row.want))
		}
	}
}

// Rights that need more than one role belong to the subject that holds them all, and an account is powerful wherever it stands in a list.
func TestRightsOfAllBindingsCountTogether(t *testing.T) {
	k := func(name string) residue.Kind { return kind(t, name+"."+rbacAPI) }
	put := func(s *residue.Snapshot, name string, o map[string]any) {
		raw, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		made, err := residue.NewObject(k(name), raw, "")
		if err != nil {
			t.Fatal(err)
		}
		s.Add(k(name), made)
	}
	mallory := inventory.Subject{Kind: inventory.User, Name: "mallory"}
	var crowd []inventory.Subject
	for i := range 100 {
		crowd = append(crowd, inventory.Subject{Kind: inventory.Group, Name: fmt.Sprintf("a-%03d", i)})
	}
	crowd = append(crowd, inventory.Subject{Kind: inventory.ServiceAccount, Namespace: "shop", Name: "strong"})
	old := func(o map[string]any) map[string]any {
		o["metadata"].(map[string]any)["creationTimestamp"] = from.Add(-48 * time.Hour).Format(time.RFC3339)
		return o
	}
	var before, after residue.Snapshot
	for _, s := range []*residue.Snapshot{&before, &after} {
		put(s, "clusterroles", old(crole("escalate", inventory.PolicyRule{Verbs: []string{"escalate"}, APIGroups: []string{rbacAPI},
			Resources: []string{"clusterroles"}})))
		put(s, "clusterroles", old(crole("update", inventory.PolicyRule{Verbs: []string{"update"}, APIGroups: []string{rbacAPI},
			Resources: []string{"clusterroles"}})))
		put(s, "clusterroles", old(crole("all", inventory.PolicyRule{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}})))
		put(s, "clusterrolebindings", old(crb("one", "escalate", mallory)))
		put(s, "clusterrolebindings", old(crb("crowd", "all", crowd...)))
		for _, kind := range residue.Kinds() {
			s.Looked(kind)
		}
	}
	put(&after, "clusterrolebindings", crb("two", "update", mallory))
	pod := kind(t, "pods")
	o, err := residue.NewObject(pod,
		[]byte(`{"metadata":{"name":"p","namespace":"shop","uid":"p","creationTimestamp":"2026-11-24T03:10:00Z"},`+
			`"spec":{"serviceAccountName":"strong"}}`), "")
	if err != nil {
		t.Fatal(err)
	}
	after.Add(pod, o)
	got := map[string]breakglass.Residue{}
	for _, r := range residue.Judge(residue.Evidence{Changes: residue.Compare(&before, after, window), Before: &before, After: after}) {
		got[r.Object] = r
	}
	if r := got["ClusterRoleBinding two"]; r.Severity != finding.Critical || !strings.Contains(r.What,
		"hold more than it holds itself") {
		t.Errorf("the second half of a right: got %+v", got)
	}
	if r := got["Pod shop/p"]; r.Rule != "pod-powerful-account" || !strings.Contains(r.What, "can do everything") {
		t.Errorf("a pod of an account that stands behind a hundred groups: got %+v", got)
	}
}

// A snapshot that an earlier release took before a grant began says of a role what it gave in other words: nothing changed.
func TestSnapshotsOfEarlierReleasesShowNoChange(t *testing.T) {
	in := after(t, map[string]map[string]any{"clusterroles." + rbacAPI: crole("r", inventory.PolicyRule{Verbs: []string{"get"},
		APIGroups: []string{""}, Resources: []string{"secrets"}})})
	before := residue.Snapshot{Server: in.After.Server}
	o := in.After.Objects["clusterroles."+rbacAPI][0]
	o.Rules, o.Traits = nil, []string{"power:reading Secrets"}
	before.Add(kind(t, "clusterroles."+rbacAPI), o)
	if got := residue.Compare(&before, in.After, window); len(got) != 0 {
		t.Errorf("got %+v", got)
	}
}
