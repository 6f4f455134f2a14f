package inventory

import (
	"fmt"
	"slices"
	"strings"

	"github.com/breakglassd/breakglass/internal/strictyaml"
	"github.com/breakglassd/breakglass/internal/text"
	"github.com/breakglassd/breakglass/policies"
)

// Defaults are the roles and bindings that a cluster has because Kubernetes, or an installer, ships them.
type Defaults struct {
	Minor string // of the Kubernetes that they are from, like "1.36"
	rbac  Snapshot
}

// LoadDefaults reads files of defaults; each adds to those before. It reports every mistake of a file, each with its line.
func LoadDefaults(files ...[]byte) (*Defaults, error) {
	d := &Defaults{}
	for _, text := range files {
		var r strictyaml.Reader
		if root, ok := r.Document(text, "a file of defaults", "without defaults everything that ships would be a finding"); ok {
			d.read(root)
		}
		if err := r.Err("a file of defaults"); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// ClusterRoles are the ClusterRoles that ship, each with the rules that aggregation gives it. They are not to be changed.
func (d *Defaults) ClusterRoles() []Role {
	all := resolve(d.rbac.ClusterRoles)
	out := make([]Role, 0, len(all))
	for _, name := range sortedKeys(all) {
		out = append(out, Role{Name: name, Labels: all[name].Labels, Rules: all[name].rules})
	}
	return out
}

// Bindings are the bindings that ship. They are not to be changed.
func (d *Defaults) Bindings() []Binding {
	return slices.Concat(d.rbac.ClusterBindings, d.rbac.Bindings)
}

func (d *Defaults) read(root strictyaml.Value) {
	top, ok := root.Object("kubernetes", "clusterRoles", "roles", "clusterRoleBindings", "roleBindings")
	if !ok {
		return
	}
	if minor := top.At("kubernetes").Word(); minor != "" {
		d.Minor = minor
	}
	for _, v := range top.At("clusterRoles").Items() {
		d.rbac.ClusterRoles = append(d.rbac.ClusterRoles, readRole(v))
	}
	for _, v := range top.At("roles").Items() {
		d.rbac.Roles = append(d.rbac.Roles, readRole(v, "namespace"))
	}
	for _, v := range top.At("clusterRoleBindings").Items() {
		d.rbac.ClusterBindings = append(d.rbac.ClusterBindings, readBinding(v))
	}
	for _, v := range top.At("roleBindings").Items() {
		d.rbac.Bindings = append(d.rbac.Bindings, readBinding(v, "namespace"))
	}
}

func readRole(v strictyaml.Value, more ...string) Role {
	o, ok := v.Object(append(more, "name", "labels", "aggregates", "rules")...)
	if !ok {
		return Role{}
	}
	out := Role{Name: o.Need("name").Word(), Namespace: o.At("namespace").Word()}
	// Kubernetes aggregates by labels whose value is "true".
	for _, label := range o.At("labels").Words() {
		if out.Labels == nil {
			out.Labels = map[string]string{}
		}
		out.Labels[label] = "true"
	}
	for _, label := range o.At("aggregates").Words() {
		out.Aggregation = append(out.Aggregation, Selector{MatchLabels: map[string]string{label: "true"}})
	}
	for _, rule := range o.At("rules").Items() {
		if p, ok := rule.Object("verbs", "groups", "resources", "names", "urls"); ok {
			out.Rules = append(out.Rules, PolicyRule{Verbs: p.Need("verbs").Words(), APIGroups: p.At("groups").Words(),
				Resources: p.At("resources").Words(), ResourceNames: p.At("names").Words(), NonResourceURLs: p.At("urls").Words()})
		}
	}
	return out
}

// readBinding reads a binding: its role is "ClusterRole x" or "Role x", its subjects are like "ServiceAccount ns/x".
func readBinding(v strictyaml.Value, more ...string) Binding {
	o, ok := v.Object(append(more, "name", "role", "subjects")...)
	if !ok {
		return Binding{}
	}
	out := Binding{Name: o.Need("name").Word(), Namespace: o.At("namespace").Word()}
	out.RoleKind, out.RoleName, _ = strings.Cut(o.Need("role").Word(), " ")
	if out.RoleKind != "ClusterRole" && out.RoleKind != "Role" || out.RoleName == "" {
		o.At("role").Wrong("a role is written like ClusterRole view")
	}
	for _, text := range o.Need("subjects").Words() {
		kind, name, _ := strings.Cut(text, " ")
		s := Subject{Kind: SubjectKind(kind), Name: name}
		if s.Kind == ServiceAccount {
			s.Namespace, s.Name, _ = strings.Cut(name, "/")
		}
		if s.Name == "" || s.Kind != User && s.Kind != Group && s.Kind != ServiceAccount {
			o.At("subjects").Wrong("a subject is written like Group system:masters or ServiceAccount kube-system/x")
		}
		out.Subjects = append(out.Subjects, s)
	}
	return out
}

// Shipped are the rules and defaults that ship with the program.
func Shipped() (*Rules, *Defaults, error) {
	var files [][]byte
	for _, name := range []string{"rules.yaml", "defaults-kubernetes.yaml", "defaults-kubeadm.yaml"} {
		text, err := policies.Recert.ReadFile("recert/" + name)
		if err != nil {
			return nil, nil, err
		}
		files = append(files, text)
	}
	rules, err := LoadRules(files[0])
	if err != nil {
		return nil, nil, err
	}
	d, err := LoadDefaults(files[1:]...)
	return rules, d, err
}

// sameMinor reports whether a server version like "v1.36.3" is of the Kubernetes that the defaults are from.
func (d *Defaults) sameMinor(version string) bool {
	return strings.HasPrefix(version, "v"+d.Minor+".")
}

// older reports whether the defaults, and the rules that were written with them, are of an older Kubernetes than a server's.
func (d *Defaults) older(version string) bool {
	var ours, major, minor int
	if _, err := fmt.Sscanf(d.Minor, "1.%d", &ours); err != nil {
		return false
	}
	_, err := fmt.Sscanf(version, "v%d.%d", &major, &minor)
	return err == nil && (major > 1 || minor > ours)
}

// altered finds roles and bindings of the defaults that give more than what ships. What gives less is no way in.
func (w *rbac) altered(d *Defaults) []Finding {
	var out []Finding
	base := index(&d.rbac, w.rules)
	for _, name := range sortedKeys(base.clusterRoles) {
		if have := w.clusterRoles[name]; have != nil {
			out = append(out, w.alteredRole(Ref{Kind: "ClusterRole", Name: name}, have, base.clusterRoles[name], d)...)
		}
	}
	for i := range d.rbac.Roles {
		r := &d.rbac.Roles[i]
		ref := Ref{Namespace: r.Namespace, Name: r.Name}
		if have := w.roles[ref]; have != nil {
			out = append(out, w.alteredRole(Ref{Kind: "Role", Namespace: r.Namespace, Name: r.Name}, have, base.roles[ref], d)...)
		}
	}
	shipped := map[Ref]*Binding{}
	for i := range d.rbac.ClusterBindings {
		shipped[d.rbac.ClusterBindings[i].Ref()] = &d.rbac.ClusterBindings[i]
	}
	for i := range d.rbac.Bindings {
		shipped[d.rbac.Bindings[i].Ref()] = &d.rbac.Bindings[i]
	}
	for _, bindings := range [][]Binding{w.s.ClusterBindings, w.s.Bindings} {
		for i := range bindings {
			if b := &bindings[i]; shipped[b.Ref()] != nil {
				out = append(out, w.alteredBinding(b, shipped[b.Ref()])...)
			}
		}
	}
	return out
}

func (w *rbac) alteredRole(ref Ref, have, base *role, d *Defaults) []Finding {
	var more []string
	for _, p := range have.rules {
		for _, one := range p.single() {
			if !slices.ContainsFunc(base.rules, func(b PolicyRule) bool { return b.covers(one) }) {
				more = append(more, one.String())
			}
		}
	}
	if len(more) == 0 {
		return nil
	}
	slices.Sort(more)
	more = slices.Compact(more)
	f := Finding{Rule: "defaults/role", Severity: Info, Via: []Ref{ref}, ID: Digest("defaults/role", ref.Kind, ref.Namespace, ref.Name),
		Title: fmt.Sprintf("%s gives more than what ships with Kubernetes: %s", ref, Few(more, 4)),
		Text: "Every subject that it is bound to has it, also where the binding is a default one. The API server puts back " +
			"what is missing in a " +
			"default role at its start; what is too much it leaves.",
		Next: "find out who added it; remove it with " + Kubectl("edit", ref)}
	if d.sameMinor(w.s.Server.Version) && len(have.Aggregation) == 0 {
		f.Severity = Low
	}
	for _, r := range w.rules.Rules {
		was, is := true, true
		for _, need := range r.needs {
			was, is = was && base.gives.some.has(need), is && have.gives.some.has(need)
		}
		if is && !was {
			f.Severity = Worst(f.Severity, r.Severity)
			f.Controls = r.Controls
		}
	}
	return []Finding{f}
}

func (w *rbac) alteredBinding(b, base *Binding) []Finding {
	var out []Finding
	f := Finding{Rule: "defaults/binding", Severity: Low, Via: []Ref{b.Ref()},
		Text: "A binding that ships with Kubernetes is where an addition is easily overlooked."}
	if b.RoleKind != base.RoleKind || b.RoleName != base.RoleName {
		f.ID = Digest("defaults/binding", b.Ref().String(), "role")
		f.Severity = Medium
		f.Title = fmt.Sprintf("%s gives %s %s, and what ships gives %s %s", b.Ref(), b.RoleKind, text.Name(b.RoleName), base.RoleKind,
			text.Name(base.RoleName))
		f.Next = "find out who replaced it; delete it, and the API server makes the right one at its next start"
		return []Finding{f}
	}
	for _, s := range b.Subjects {
		if slices.Contains(base.Subjects, s) {
			continue
		}
		one := f
		one.Subject = &s
		one.ID = Digest("defaults/binding", b.Ref().String(), s.String())
		if s.everybody() {
			one.Severity = Medium
		}
		one.Title = fmt.Sprintf("%s names %s besides those that ship with Kubernetes", b.Ref(), s)
		one.from = b
		out = append(out, one)
	}
	return out
}

// everybody reports whether a subject is more or less everyone.
func (s Subject) everybody() bool {
	return s.Kind == User && s.Name == AnonymousUser || s.Kind == Group && (s.Name == UnauthenticatedGroup || s.Name == AuthenticatedGroup)
}

// single writes a rule out as rules of one verb on one resource each.
func (p PolicyRule) single() []PolicyRule {
	var out []PolicyRule
	for _, v := range p.Verbs {
		for _, u := range p.NonResourceURLs {
			out = append(out, PolicyRule{Verbs: []string{v}, NonResourceURLs: []string{u}})
		}
		for _, g := range p.APIGroups {
			for _, r := range p.Resources {
				out = append(out, PolicyRule{Verbs: []string{v}, APIGroups: []string{g}, Resources: []string{r}, ResourceNames: p.ResourceNames})
			}
		}
	}
	return out
}

// covers reports whether p gives all of a single rule.
func (p PolicyRule) covers(one PolicyRule) bool {
	if !slices.Contains(p.Verbs, one.Verbs[0]) && !slices.Contains(p.Verbs, "*") {
		return false
	}
	if len(one.NonResourceURLs) > 0 {
		return slices.ContainsFunc(p.NonResourceURLs, func(u string) bool { return urlCovers(u, one.NonResourceURLs[0]) })
	}
	return (slices.Contains(p.APIGroups, one.APIGroups[0]) || slices.Contains(p.APIGroups, "*")) &&
		slices.ContainsFunc(p.Resources, func(r string) bool { return resourceCovers(r, one.Resources[0]) }) &&
		(len(p.ResourceNames) == 0 || subset(one.ResourceNames, p.ResourceNames))
}

// String is a rule as people read it: "get, list pods, pods/log", "get certificates.k8s.io/signers named x".
func (p PolicyRule) String() string {
	verbs := strings.Join(p.Verbs, ", ")
	if len(p.NonResourceURLs) > 0 {
		return verbs + " " + strings.Join(p.NonResourceURLs, ", ")
	}
	var resources []string
	for _, g := range p.APIGroups {
		for _, r := range p.Resources {
			if g != "" {
				r = g + ":" + r
			}
			resources = append(resources, r)
		}
	}
	out := verbs + " " + strings.Join(resources, ", ")
	if len(p.ResourceNames) > 0 {
		out += " named " + strings.Join(p.ResourceNames, ", ")
	}
	return out
}
