package inventory

import (
	"strings"
)

// A Right is one rule that a subject meets in one place.
type Right struct {
	Rule     string
	Severity Severity // with what the way to cluster-admin and the reach of the subject add to the rule's own
	Says     string   // "can read Secrets in namespace shop"
	Scope    string   // a namespace; empty: the whole cluster
	Names    []string // the objects that it is limited to; nil: all
	Via      []Ref    // the bindings that give it
	Path     Path     // to cluster-admin, where this right is the first step of one
}

// RBAC is the RBAC of a snapshot, judged: who holds what that matters. Of the snapshot, RBAC and what ways to cluster-admin lead
// through are looked at, as far as its sources say that they were read.
type RBAC struct {
	w *rbac
	g *graph
}

// JudgeRBAC judges who holds what that matters, by the rules that Analyse judges by.
func JudgeRBAC(s *Snapshot, rules *Rules) *RBAC {
	w := index(s, rules)
	w.hold()
	return &RBAC{w: w, g: w.graph()}
}

// Rights lists what a subject holds by its own bindings. What it holds as a member of a group is the group's.
func (r *RBAC) Rights(sub Subject) []Right {
	i, ok := r.w.index[Normal(sub)]
	if !ok {
		return nil
	}
	return r.rights(i)
}

// Missing reports whether a subject is a service account that is known not to exist.
func (r *RBAC) Missing(sub Subject) bool { return r.w.missing(sub) }

// Worst is the worst severity that a rule gives to what a subject holds by its own bindings, Info if it holds nothing that
// matters. What a way to cluster-admin adds is not in it.
func (r *RBAC) Worst(sub Subject) Severity {
	out := Info
	if i, ok := r.w.index[Normal(sub)]; ok {
		for _, h := range r.w.holdings[i] {
			out = Worst(out, h.severity)
		}
	}
	return out
}

// RemoveRight is the shell command that removes a subject from the binding that gives it the first right whose rule's id has a
// prefix; empty if it has no such right.
func (r *RBAC) RemoveRight(sub Subject, prefix string) string {
	if i, ok := r.w.index[Normal(sub)]; ok {
		for _, h := range r.w.holdings[i] {
			if strings.HasPrefix(r.w.rules.Rules[h.rule].ID, prefix) {
				return RemoveSubject(r.w.binding(h.via[0]), sub)
			}
		}
	}
	return ""
}

func (r *RBAC) rights(i int32) []Right {
	w, g := r.w, r.g
	best := map[int32]int32{} // the edge with which each holding begins its shortest way, and 1, so that 0 is none
	for _, n := range g.out[i] {
		e := g.edges[n]
		if e.holding >= 0 && g.dist[e.to] != unreachable && (best[e.holding] == 0 || g.dist[e.to] < g.dist[g.edges[best[e.holding]-1].to]) {
			best[e.holding] = n + 1
		}
	}
	var out []Right
	for n, h := range w.holdings[i] {
		right := Right{Rule: w.rules.Rules[h.rule].ID, Severity: h.severity, Says: w.says(h), Scope: h.ns, Names: h.names}
		for _, b := range h.via {
			right.Via = append(right.Via, w.binding(b).Ref())
		}
		if e := best[int32(n)]; e > 0 {
			step, to := g.step(e - 1)
			right.Path = append(Path{step}, g.tail(to)...)
			right.Severity = Worst(right.Severity, High)
		}
		right.Severity = raise(right.Severity, w.subjects[i])
		out = append(out, right)
	}
	return out
}

// Matter are those of a role's rules that any of the rules of this list is about.
func (r *Rules) Matter(rules []PolicyRule) []PolicyRule {
	var out []PolicyRule
	for _, p := range rules {
		if r.gives([]PolicyRule{p}).some != (bits{}) {
			out = append(out, p)
		}
	}
	return out
}
