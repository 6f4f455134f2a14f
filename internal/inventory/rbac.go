package inventory

import (
	"cmp"
	"slices"
	"strings"
)

// A role is a Role or ClusterRole with the rules that it has once aggregation has been worked out.
type role struct {
	*Role
	rules []PolicyRule
	gives gives
}

// resolve works aggregation out: a ClusterRole has its own rules and those of every ClusterRole that its selectors match, and
// of those that these match. Kubernetes has a controller write them down, so for a moment after a change the API server knows
// less.
func resolve(clusterRoles []Role) map[string]*role {
	out := make(map[string]*role, len(clusterRoles))
	for i := range clusterRoles {
		r := &clusterRoles[i]
		out[r.Name] = &role{Role: r, rules: r.Rules}
	}
	for _, r := range out {
		if len(r.Aggregation) == 0 {
			continue
		}
		seen := map[string]bool{r.Name: true}
		var add func(*role)
		add = func(from *role) {
			for i := range clusterRoles { // few roles aggregate
				other := &clusterRoles[i]
				if seen[other.Name] || !slices.ContainsFunc(from.Aggregation, func(s Selector) bool { return s.selects(other.Labels) }) {
					continue
				}
				seen[other.Name] = true
				r.rules = append(slices.Clip(r.rules), other.Rules...)
				add(out[other.Name])
			}
		}
		add(r)
	}
	return out
}

// selects reports whether the selector matches labels. As in Kubernetes, an empty selector matches everything.
func (s Selector) selects(labels map[string]string) bool {
	for k, v := range s.MatchLabels {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	for _, e := range s.MatchExpressions {
		have, ok := labels[e.Key]
		in := ok && slices.Contains(e.Values, have)
		if e.Operator == "In" && !in || e.Operator == "NotIn" && in || e.Operator == "Exists" && !ok || e.Operator == "DoesNotExist" && ok {
			return false
		}
	}
	return true
}

// A grant is one binding of a subject. An index of 0 and more is into Snapshot.ClusterBindings, below that -1-i is into
// Snapshot.Bindings.
type grant struct {
	binding int32
	role    *role // nil if it does not exist: then it gives nothing
}

// A holding is a rule that a subject meets in one place.
type holding struct {
	rule     int
	ns       string   // "" is the whole cluster
	names    []string // nil: all objects
	severity Severity
	via      []int32 // bindings, as in grant
}

// rbac is a snapshot's RBAC, indexed.
type rbac struct {
	s            *Snapshot
	rules        *Rules
	clusterRoles map[string]*role
	roles        map[Ref]*role
	subjects     []Subject // those of bindings first, then service accounts that no binding names
	index        map[Subject]int32
	grants       [][]grant
	holdings     [][]holding
	exists       map[Subject]bool // service accounts; nil if they could not be read
	scratch      []holding        // of one call of judge after the other
}

// normal is the subject that the API server takes s for: a user with the name of a service account is that service account, and
// of a user or a group it does not look at the namespace.
func Normal(s Subject) Subject {
	if s.Kind == User || s.Kind == Group {
		s.Namespace = ""
	}
	if name, ok := strings.CutPrefix(s.Name, "system:serviceaccount:"); ok && s.Kind == User {
		if ns, name, ok := strings.Cut(name, ":"); ok {
			return Subject{Kind: ServiceAccount, Namespace: ns, Name: name}
		}
	}
	return s
}

func index(s *Snapshot, rules *Rules) *rbac {
	named := len(s.Accounts)
	for _, bindings := range [][]Binding{s.ClusterBindings, s.Bindings} {
		for i := range bindings {
			named += len(bindings[i].Subjects)
		}
	}
	w := &rbac{s: s, rules: rules, clusterRoles: resolve(s.ClusterRoles), roles: make(map[Ref]*role, len(s.Roles)),
		index: make(map[Subject]int32, named), subjects: make([]Subject, 0, named), grants: make([][]grant, 0, named)}
	for i := range s.Roles {
		r := &s.Roles[i]
		w.roles[Ref{Namespace: r.Namespace, Name: r.Name}] = &role{Role: r, rules: r.Rules}
	}
	if rules != nil {
		for _, r := range w.clusterRoles {
			r.gives = rules.gives(r.rules)
		}
		for _, r := range w.roles {
			r.gives = rules.gives(r.rules)
		}
	}
	for i := range s.ClusterBindings {
		w.give(&s.ClusterBindings[i], int32(i))
	}
	for i := range s.Bindings {
		w.give(&s.Bindings[i], int32(-1-i))
	}
	if s.Read(SourceAccounts) {
		w.exists = make(map[Subject]bool, len(s.Accounts))
	}
	for _, a := range s.Accounts {
		sub := Subject{Kind: ServiceAccount, Namespace: a.Namespace, Name: a.Name}
		if w.exists != nil {
			w.exists[sub] = true
		}
		w.subject(sub)
	}
	return w
}

func (w *rbac) subject(s Subject) int32 {
	i, ok := w.index[s]
	if !ok {
		i = int32(len(w.subjects))
		w.index[s] = i
		w.subjects = append(w.subjects, s)
		w.grants = append(w.grants, nil)
	}
	return i
}

func (w *rbac) give(b *Binding, n int32) {
	r := w.roleOf(b)
	for _, s := range b.Subjects {
		i := w.subject(Normal(s))
		w.grants[i] = append(w.grants[i], grant{binding: n, role: r})
	}
}

func (w *rbac) roleOf(b *Binding) *role {
	if b.RoleKind == "ClusterRole" {
		return w.clusterRoles[b.RoleName]
	}
	return w.roles[Ref{Namespace: b.Namespace, Name: b.RoleName}]
}

func (w *rbac) binding(n int32) *Binding {
	if n >= 0 {
		return &w.s.ClusterBindings[n]
	}
	return &w.s.Bindings[-1-n]
}

// missing reports whether a subject is a service account that is known not to exist.
func (w *rbac) missing(s Subject) bool {
	return s.Kind == ServiceAccount && w.exists != nil && !w.exists[s]
}

// hold works out what every subject holds.
func (w *rbac) hold() {
	w.holdings = make([][]holding, len(w.subjects))
	for i, grants := range w.grants {
		w.holdings[i] = w.held(grants)
	}
}

// held is what a subject with these bindings holds: the whole cluster first, then namespace by namespace.
func (w *rbac) held(grants []grant) []holding {
	var cluster []grant
	var local map[string][]grant
	for _, g := range grants {
		if g.role == nil {
			continue
		}
		if g.binding >= 0 {
			cluster = append(cluster, g)
			continue
		}
		if local == nil {
			local = map[string][]grant{}
		}
		ns := w.binding(g.binding).Namespace
		local[ns] = append(local[ns], g)
	}
	everywhere := w.judge(cluster, "", nil)
	out := everywhere
	for _, ns := range sortedKeys(local) {
		out = append(out, w.judge(append(slices.Clip(cluster), local[ns]...), ns, everywhere)...)
	}
	return out
}

// judge finds the rules that these bindings meet in one place. What is held in the whole cluster already is not told again.
func (w *rbac) judge(grants []grant, ns string, everywhere []holding) []holding {
	var all, some bits
	for _, g := range grants {
		all.add(g.role.gives.all)
		some.add(g.role.gives.some)
	}
	if some == (bits{}) {
		return nil
	}
	out := w.scratch[:0]
	for n := range w.rules.Rules {
		r := &w.rules.Rules[n]
		if r.effect == effectAWSAuth && !w.s.awsAuth() {
			continue
		}
		h := holding{rule: n, ns: ns, severity: r.Severity}
		switch {
		case ns == "":
		case r.Cluster:
			continue
		case ns == SystemNamespace:
			h.severity = r.System
		default:
			h.severity = r.Namespace
		}
		full := true
		for _, need := range r.needs {
			if !some.has(need) {
				h.severity = ""
				break
			}
			full = full && all.has(need)
		}
		if !full && h.severity != "" {
			h.severity = r.Named
		}
		if h.severity == "" {
			continue
		}
		for _, g := range grants {
			part := false
			for _, need := range r.needs {
				part = part || g.role.gives.some.has(need)
				if !full && !all.has(need) {
					h.names = append(h.names, g.role.gives.names[need]...)
				}
			}
			if part && !slices.Contains(h.via, g.binding) {
				h.via = append(h.via, g.binding)
			}
		}
		slices.Sort(h.names)
		h.names = slices.Compact(h.names)
		if !slices.ContainsFunc(everywhere, func(e holding) bool { return e.rule == n && (e.names == nil || subset(h.names, e.names)) }) {
			out = append(out, h)
		}
	}
	w.scratch = out
	told := make([]holding, 0, len(out))
	for _, h := range out {
		if !w.covered(h, out) && !w.covered(h, everywhere) {
			told = append(told, h)
		}
	}
	return told
}

// subset reports whether a names some objects and all of them are in b.
func subset(a, b []string) bool {
	return len(a) > 0 && !slices.ContainsFunc(a, func(s string) bool { return !slices.Contains(b, s) })
}

// covered reports whether one of the others says all that h says.
func (w *rbac) covered(h holding, by []holding) bool {
	return slices.ContainsFunc(by, func(o holding) bool {
		covers := w.rules.Rules[o.rule].Covers
		return o.rule != h.rule && o.names == nil && (slices.Contains(covers, "*") || slices.Contains(covers, w.rules.Rules[h.rule].ID))
	})
}

// groupsOf are the groups that the API server puts everybody of this kind into.
func groupsOf(s Subject) []string {
	switch s.Kind {
	case ServiceAccount:
		return []string{"system:serviceaccounts", "system:serviceaccounts:" + s.Namespace, AuthenticatedGroup}
	case User:
		if s.Name == AnonymousUser {
			return []string{UnauthenticatedGroup}
		}
		return []string{AuthenticatedGroup}
	case Group:
	}
	return nil
}

// RulesFor are the rights that RBAC gives a subject in a namespace, or in the whole cluster only if ns is empty: its own, those
// of the groups that the API server puts it into, and those of the other groups that it is said to be in. It is what kubectl
// auth can-i --list shows, but for the rights that no rule of RBAC gives.
func RulesFor(s *Snapshot, subject Subject, groups []string, ns string) []PolicyRule {
	w := index(s, nil)
	who := []Subject{Normal(subject)}
	for _, g := range append(groupsOf(Normal(subject)), groups...) {
		who = append(who, Subject{Kind: Group, Name: g})
	}
	var out []PolicyRule
	for _, sub := range who {
		i, ok := w.index[sub]
		if !ok {
			continue
		}
		for _, g := range w.grants[i] {
			if g.role != nil && (g.binding >= 0 || ns != "" && w.binding(g.binding).Namespace == ns) {
				out = append(out, g.role.rules...)
			}
		}
	}
	return out
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	out := make([]K, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
