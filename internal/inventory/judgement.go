package inventory

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/text"
)

// Options are what a snapshot is judged by.
type Options struct {
	Rules    *Rules    // what matters; must be set
	Defaults *Defaults // what ships; must be set
	Ignores  []Ignore
	// OurCAs are the fingerprints (Snapshot CA.Fingerprint) or key ids of the CAs that are this daemon's.
	OurCAs []string
	// Grants are the names of the bindings that this daemon has in force. A binding with our labels that is not among them is a
	// finding: any user who may create bindings can write labels. Nil says that they are not known, and then a grant is an alarm like any
	// other right.
	Grants []string
	// OurGroups are the groups of this daemon's profiles in group mode: who may be put into one, the access policy says, and who was,
	// the ledger. What the one binding of a group's own name gives it is expected, and nothing else.
	OurGroups []string
	// Self is the user that this daemon has in the cluster, empty if unknown. What it holds is expected.
	Self string
	Now  time.Time // UTC
}

// A Judgement says who has power in a snapshot and what a person must look at there.
type Judgement struct {
	*RBAC
	Powers   []Power   // the subjects that hold what a rule is about
	Findings []Finding // see Finish
	// AdminRoles are the roles that are as good as cluster-admin to their holders, sorted. A Namespace is where they are bound: of a
	// ClusterRole it is empty for the whole cluster. Ways that need more than the role are not looked for.
	AdminRoles []Ref

	o       Options
	shipped map[string]bool
}

// Judge judges who has power in a snapshot. It is a pure function of what it is given.
func Judge(s *Snapshot, o Options) *Judgement {
	j := &Judgement{RBAC: JudgeRBAC(s, o.Rules), o: o, shipped: shippedRights(o)}
	j.powers()
	j.Findings = append(j.Findings, j.w.altered(o.Defaults)...)
	j.Findings = append(j.Findings, j.idle()...)
	j.Findings = append(j.Findings, j.unread()...)
	j.Findings = append(j.Findings, j.notJudged()...)
	j.AdminRoles = j.w.adminRoles()
	return j
}

// Finish makes the texts of findings fit to be shown, marks those that are ignored, adds findings about the decisions to ignore,
// and sorts findings and powers, the worst first. It changes both lists.
func Finish(findings []Finding, powers []Power, o Options) []Finding {
	for i := range findings { // names in a cluster can hold anything
		f := &findings[i]
		f.Title, f.Text = text.Exact(f.Title), text.Exact(f.Text)
	}
	findings = ignore(findings, o.Ignores, o.Now)
	sortLarge(findings, func(x, y *Finding) int {
		return cmp.Or(cmp.Compare(alarms(y), alarms(x)), cmp.Compare(y.Severity.Rank(), x.Severity.Rank()), cmp.Compare(x.Rule, y.Rule),
			cmp.Compare(x.Title, y.Title))
	})
	sortLarge(powers, func(x, y *Power) int {
		return cmp.Or(cmp.Compare(y.Severity.Rank(), x.Severity.Rank()), cmp.Compare(x.Subject.String(), y.Subject.String()))
	})
	return findings
}

// sortLarge puts large values in order, the equal ones as they were, and moves each of them once.
func sortLarge[T any](all []T, compare func(x, y *T) int) {
	from := make([]int32, len(all)) // which of them belongs into each place
	for i := range from {
		from[i] = int32(i)
	}
	slices.SortStableFunc(from, func(x, y int32) int { return compare(&all[x], &all[y]) })
	for i := range from {
		if from[i] < 0 {
			continue
		}
		first := all[i]
		for to := int32(i); ; {
			next := from[to]
			from[to] = -1
			if next == int32(i) {
				all[to] = first
				break
			}
			all[to] = all[next]
			to = next
		}
	}
}

func alarms(f *Finding) int {
	if f.Alarm() {
		return 1
	}
	return 0
}

// right identifies what a subject holds, whatever gives it.
func (w *rbac) right(i int, h holding) string {
	return strings.Join([]string{w.subjects[i].String(), w.rules.Rules[h.rule].ID, h.ns, strings.Join(h.names, ",")}, "|")
}

// shippedRights is what subjects hold in a cluster as it ships.
func shippedRights(o Options) map[string]bool {
	base := index(&o.Defaults.rbac, o.Rules)
	base.hold()
	out := map[string]bool{}
	for i, hs := range base.holdings {
		for _, h := range hs {
			out[base.right(i, h)] = true
		}
	}
	return out
}

// powers adds everybody who holds what a rule is about, and a finding for each such right.
func (j *Judgement) powers() {
	w := j.w
	rights, holders := 0, 0
	for _, hs := range w.holdings {
		rights += len(hs)
		holders += min(1, len(hs))
	}
	j.Findings, j.Powers = make([]Finding, 0, rights+holders), make([]Power, 0, holders) // doors tell of some of them again
	for i, hs := range w.holdings {
		if len(hs) == 0 {
			continue
		}
		sub := w.subjects[i]
		p := Power{Subject: sub, Path: j.g.tail(int32(i)), Expected: true, Orphan: w.missing(sub)}
		for n, held := range j.rights(int32(i)) {
			h := hs[n]
			r := &w.rules.Rules[h.rule]
			f := Finding{Rule: r.ID, Severity: held.Severity, Text: r.Text, Subject: &sub, Scope: cmp.Or(h.ns, "cluster"), Controls: r.Controls,
				ID: Digest("right", w.right(i, h)), Title: sub.String() + " " + held.Says, Via: held.Via, Path: held.Path, from: w.binding(h.via[0])}
			f.Expected, f.Why = j.expected(i, h)
			right := r.ID
			if h.ns != "" {
				right += "@" + h.ns
			}
			for _, name := range h.names {
				p.Rights = append(p.Rights, right+" named "+name)
			}
			if h.names == nil {
				p.Rights = append(p.Rights, right)
			}
			p.Severity = Worst(cmp.Or(p.Severity, Info), f.Severity)
			if !f.Expected {
				p.Expected = false
			} else if p.Why == "" {
				p.Why = f.Why
			}
			for _, v := range f.Via {
				if !slices.Contains(p.Via, v) {
					p.Via = append(p.Via, v)
				}
			}
			j.Findings = append(j.Findings, f)
		}
		if p.Path != nil {
			p.Severity = Critical
		}
		if !p.Expected {
			p.Why = ""
		}
		slices.Sort(p.Rights)
		p.Rights = slices.Compact(p.Rights)
		j.Powers = append(j.Powers, p)
	}
}

// adminRoles finds the roles with a right that is critical by itself where the role is bound. ClusterRoles are tried in the whole
// cluster and in kube-system; in other namespaces no rule is critical.
func (w *rbac) adminRoles() []Ref {
	var out []Ref
	try := func(r *role, kind, ns string) {
		for _, h := range w.judge([]grant{{role: r}}, ns, nil) {
			if h.severity == Critical {
				out = append(out, Ref{Kind: kind, Namespace: ns, Name: r.Name})
				return
			}
		}
	}
	for _, name := range sortedKeys(w.clusterRoles) {
		try(w.clusterRoles[name], "ClusterRole", "")
		try(w.clusterRoles[name], "ClusterRole", SystemNamespace)
	}
	for _, r := range w.s.Roles {
		try(w.roles[Ref{Namespace: r.Namespace, Name: r.Name}], "Role", r.Namespace)
	}
	return out
}

// raise makes worse what more or less everybody holds.
func raise(s Severity, sub Subject) Severity {
	everyAccount := sub.Kind == Group && sub.Name == "system:serviceaccounts"
	switch {
	case sub.Kind == Group && sub.Name == UnauthenticatedGroup, sub.Kind == User && sub.Name == AnonymousUser:
		return Worst(severities[min(s.Rank()+2, len(severities)-1)], High)
	case sub.everybody() || everyAccount:
		return severities[min(s.Rank()+1, len(severities)-1)]
	}
	return s
}

// expected says whether a right is one that ships, one of our own, or one of a grant in force.
func (j *Judgement) expected(i int, h holding) (bool, string) {
	if j.shipped[j.w.right(i, h)] {
		return true, "ships with Kubernetes or kubeadm"
	}
	if j.o.Self != "" && j.w.subjects[i] == Normal(Subject{Kind: User, Name: j.o.Self}) {
		return true, "is this daemon: its rights are reviewed as its own"
	}
	if sub := j.w.subjects[i]; sub.Kind == Group && slices.Contains(j.o.OurGroups, sub.Name) && !slices.ContainsFunc(h.via,
		func(n int32) bool {
			b := j.w.binding(n)
			return b.Namespace != "" || b.Name != sub.Name || len(b.Subjects) != 1
		}) {
		return true, "is the group of a profile in group mode: the access policy says who may be in it"
	}
	for _, b := range h.via {
		if !j.grant(j.w.binding(b)) {
			return false, ""
		}
	}
	return true, "is emergency access in force, which this daemon takes back"
}

func (j *Judgement) grant(b *Binding) bool { return b.Ours && slices.Contains(j.o.Grants, b.Name) }

// idle finds bindings whose subject or role is not there, or that claim to be ours.
func (j *Judgement) idle() []Finding {
	shipped := map[Ref]bool{}
	for _, b := range j.o.Defaults.Bindings() {
		shipped[b.Ref()] = true
	}
	var out []Finding
	look := func(b *Binding) {
		ref := b.Ref()
		f := Finding{Via: []Ref{ref}, Expected: shipped[ref]}
		if f.Expected {
			f.Why = "ships with Kubernetes or kubeadm"
		}
		if b.Ours && j.o.Grants != nil && !slices.Contains(j.o.Grants, b.Name) {
			one := f
			one.Rule, one.Severity, one.ID = "binding/not-ours", High, Digest("binding/not-ours", ref.String())
			one.Title = fmt.Sprintf("%s carries this daemon's labels, and the daemon knows no such grant", ref)
			one.Text = "Any user who may create bindings can write labels. It looks like emergency access and is not."
			one.Next, one.from = "find out who made it", b
			out = append(out, one)
		}
		r := j.w.roleOf(b)
		if r == nil && j.w.s.Read(SourceClusterRoles, SourceRoles) {
			one := f
			one.Rule, one.Severity, one.ID = "binding/no-role", Low, Digest("binding/no-role", ref.String())
			one.Title = fmt.Sprintf("%s gives %s %s, which is not there", ref, b.RoleKind, text.Name(b.RoleName))
			one.Text = "The maker of a role of that name decides what the binding gives."
			one.from = b
			out = append(out, one)
		}
		for _, sub := range b.Subjects {
			if !j.w.missing(Normal(sub)) {
				continue
			}
			one := f
			one.Rule, one.Severity, one.Subject, one.ID = "binding/no-account", Low, &sub, Digest("binding/no-account", ref.String(), sub.String())
			if r != nil && r.gives.some != (bits{}) {
				one.Severity = Medium
			}
			one.Title = fmt.Sprintf("%s names %s, which is not there", ref, sub)
			one.Text = "The maker of a service account of that name gets what the binding gives."
			one.from = b
			out = append(out, one)
		}
	}
	for i := range j.w.s.ClusterBindings {
		look(&j.w.s.ClusterBindings[i])
	}
	for i := range j.w.s.Bindings {
		look(&j.w.s.Bindings[i])
	}
	return out
}

// RuleUnread is the rule of findings about parts of RBAC that could not be read.
const RuleUnread = "scan/unread"

// unread is a finding for each part of RBAC that could not be read: what it hides could be anything, so it is no clean scan.
func (j *Judgement) unread() []Finding {
	var out []Finding
	for _, name := range []string{SourceClusterRoles, SourceRoles, SourceClusterBindings, SourceBindings} {
		src := j.w.s.Source(name)
		if src.Missing == "" {
			continue
		}
		f := Finding{Rule: RuleUnread, Severity: High, ID: Digest(RuleUnread, name),
			Title: fmt.Sprintf("%s could not be read: %s", name, src.Missing),
			Text:  "Who has power in the cluster cannot be told without it.",
			Next:  "let the scan read it (policies/kubernetes/optional/recert.yaml) and scan again"}
		out = append(out, f)
	}
	return out
}

// accessControls are the controls of audit frameworks that every way into a cluster is about.
var AccessControls = []string{"SOC 2 CC6.1", "ISO 27001 A.5.18", "ISO 27001 A.8.2", "NIST AC-2"}
