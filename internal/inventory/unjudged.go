package inventory

import (
	"fmt"
	"slices"
	"strings"

	"github.com/breakglassd/breakglass/internal/text"
)

// Unjudged lists the resources on which a role gives rights and of which no rule says what they lead to, as "resource.group". Which
// verbs a role gives there does not matter: reading some of them may be as good as writing them.
func (r *Rules) Unjudged(rules []PolicyRule) []string {
	var out []string
	for _, p := range rules {
		for _, group := range p.APIGroups {
			if slices.Contains(r.groups, group) {
				continue
			}
			for _, resource := range p.Resources {
				if !r.about(group, resource) {
					out = append(out, resource+"."+group)
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// about reports whether a rule is about the resource, or about that of which it is the status or the scale. A wildcard on all
// resources of all groups holds what every rule needs.
func (r *Rules) about(group, resource string) bool {
	if group == "*" && strings.HasPrefix(resource, "*") {
		return true
	}
	base, sub, _ := strings.Cut(resource, "/")
	return slices.ContainsFunc(r.needs, func(n need) bool {
		return (group == "*" || slices.Contains(n.APIGroups, group)) && (slices.Contains(n.Resources, resource) ||
			slices.Contains([]string{"status", "scale", "finalizers"}, sub) && slices.Contains(n.Resources, base))
	})
}

// RuleNotJudged is the rule of findings about what no rule judges: it cannot be told what it leads to.
const RuleNotJudged = "scan/not-judged"

// maxHolders bounds how many holders of a role are looked at where none of them is judged.
const maxHolders = 1000

// notJudged is a finding for each API group that no rule is about, and in which a subject holds a right; and one if Kubernetes is
// newer than the rules. They are no alarms, and they are no clean bill.
func (j *Judgement) notJudged() []Finding {
	w := j.w
	type place struct {
		kind string
		role *role
	}
	gives := map[place][]string{}  // what a role gives that is not judged
	holders := map[place][]int32{} // some of those who hold it
	for i, grants := range w.grants {
		if j.o.Self != "" && w.subjects[i] == Normal(Subject{Kind: User, Name: j.o.Self}) {
			continue
		}
		for _, g := range grants {
			b := w.binding(g.binding)
			if g.role == nil || j.grant(b) {
				continue
			}
			at := place{b.RoleKind, g.role}
			if _, known := gives[at]; !known {
				gives[at] = w.rules.Unjudged(g.role.rules)
			}
			if len(gives[at]) > 0 && len(holders[at]) < maxHolders {
				holders[at] = append(holders[at], int32(i))
			}
		}
	}
	type held struct {
		resources map[string]bool
		roles     map[Ref]bool
		subjects  map[int32]bool
	}
	all := map[string]*held{} // by API group
	for at, resources := range gives {
		for _, name := range resources {
			resource, group, _ := strings.Cut(name, ".")
			h := all[group]
			if h == nil {
				h = &held{map[string]bool{}, map[Ref]bool{}, map[int32]bool{}}
				all[group] = h
			}
			h.resources[resource] = true
			if ref := (Ref{Kind: at.kind, Namespace: at.role.Namespace, Name: at.role.Name}); !h.roles[ref] {
				h.roles[ref] = true
				for _, i := range holders[at] {
					h.subjects[i] = true
				}
			}
		}
	}
	var out []Finding
	for _, group := range sortedKeys(all) {
		h := all[group]
		var who []string
		for i := range h.subjects {
			who = append(who, w.subjects[i].String())
		}
		slices.Sort(who)
		whom := Few(who, 3)
		if len(who) >= maxHolders {
			whom = fmt.Sprintf("%s; and at least %d more", strings.Join(who[:3], "; "), maxHolders-3)
		}
		f := Finding{Rule: RuleNotJudged, Severity: Info, ID: Digest(RuleNotJudged, group), Item: group, Controls: AccessControls,
			Title: fmt.Sprintf("not judged: rights in the API group %s (%s), held by %s: cannot tell what they lead to", text.Name(group),
				Few(sortedKeys(h.resources), 5), whom),
			Text: "No rule is about these kinds. A controller does for their writers what it may do itself, which may be everything.",
			Next: "find out what the controllers of the group do and with whose rights, and limit who may write its kinds to fit"}
		for ref := range h.roles {
			f.Via = append(f.Via, ref)
		}
		slices.SortFunc(f.Via, func(a, b Ref) int { return strings.Compare(a.String(), b.String()) })
		out = append(out, f)
	}
	if d := j.o.Defaults; d != nil && d.older(j.w.s.Server.Version) {
		out = append(out, Finding{Rule: RuleNotJudged, Severity: Info, ID: Digest(RuleNotJudged, "", "newer"), Item: "newer",
			Controls: AccessControls,
			Title: fmt.Sprintf("not judged: what is new in Kubernetes %s, which is newer than the %s that the rules are about",
				text.Name(j.w.s.Server.Version), d.Minor),
			Text: "New kinds, verbs and flags are not known to the rules: cannot tell what they lead to.",
			Next: "use a release of this program that knows it"})
	}
	return out
}
