package residue

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	"github.com/breakglassd/breakglass/internal/inventory"
)

// Which rights matter, and how grave each is, the rules of recertification say (policies/recert/rules.yaml): what is high or
// critical to a campaign is critical to a sweep. A sweep asks them about the bindings and roles of its snapshot, by the same code.

const (
	kindClusterRoles    = "clusterroles." + rbacGroup
	kindRoles           = "roles." + rbacGroup
	kindClusterBindings = "clusterrolebindings." + rbacGroup
	kindBindings        = "rolebindings." + rbacGroup
)

type ruled struct {
	rules    *inventory.Rules
	defaults *inventory.Defaults
}

// ruleList is what ships with the program, read once. That it can be read, a test of package inventory proves.
var ruleList = sync.OnceValue(func() ruled {
	rules, defaults, err := inventory.Shipped()
	if err != nil {
		panic("reading the rules that ship with the program: " + err.Error())
	}
	return ruled{rules, defaults}
})

// The holder of a role, as it is and as it was before, is a subject of a kind of its own, which no real subject has.
const (
	holder       inventory.SubjectKind = "Holder"
	formerHolder inventory.SubjectKind = "Former holder"
	formerRole                         = "\x00before "
)

// rights is who may do what in the cluster after the session.
type rights struct {
	rbac *inventory.RBAC
	in   *Evidence
	was  *inventory.Snapshot // what is judged
	// roles are those that are known; true: only that they are there is.
	roles map[inventory.Ref]bool
	// crowds are the bindings that give what is grave to more subjects than are known.
	crowds []inventory.Ref
}

// judgeRights judges the rights in the cluster after the session, as far as the snapshot and the audit events tell of them.
func judgeRights(in *Evidence, things []*thing) *rights {
	s := &inventory.Snapshot{}
	out := &rights{in: in, was: s, roles: map[inventory.Ref]bool{}}
	for _, kind := range []string{kindClusterRoles, kindRoles, kindClusterBindings, kindBindings} {
		for i := range in.After.Objects[kind] {
			out.add(kind, &in.After.Objects[kind][i])
		}
	}
	for _, t := range things {
		if t.after == nil || t.op == Removed {
			continue
		}
		if in.After.find(t.ref) == nil {
			out.add(t.ref.Resource, t.after)
		}
		if t.ref.Resource == kindClusterRoles || t.ref.Resource == kindRoles {
			out.bind(t, holder, out.ref(t.ref.Resource, t.after).Name)
			if t.before != nil {
				former := out.add(t.ref.Resource, &Object{Namespace: t.before.Namespace, Name: formerRole + t.before.Name, Rules: t.before.Rules})
				out.bind(t, formerHolder, former.Name)
			}
		}
	}
	if !in.After.whole(kindClusterRoles) { // what they ship as is the best that is known of those that were not seen
		for _, r := range ruleList().defaults.ClusterRoles() {
			if _, known := out.roles[inventory.Ref{Kind: "ClusterRole", Name: r.Name}]; !known {
				out.roles[inventory.Ref{Kind: "ClusterRole", Name: r.Name}] = false
				s.ClusterRoles = append(s.ClusterRoles, r)
			}
		}
	}
	for _, n := range in.After.Objects["nodes"] {
		s.Nodes = append(s.Nodes, inventory.Node{Name: n.Name, ControlPlane: n.has("control-plane")})
	}
	for _, n := range in.After.Objects["namespaces"] {
		s.Namespaces = append(s.Namespaces, inventory.Namespace{Name: n.Name, Enforce: strings.Join(n.all("label:"+enforce+"="), "")})
	}
	for _, a := range in.After.Objects["serviceaccounts"] {
		if !in.After.whole("serviceaccounts") {
			break
		}
		s.Accounts = append(s.Accounts, inventory.Account{Namespace: a.Namespace, Name: a.Name})
	}
	for _, o := range in.After.Objects["secrets"] {
		if o.has("type:" + typeToken) {
			s.TokenSecrets = append(s.TokenSecrets, inventory.TokenSecret{Namespace: o.Namespace, Name: o.Name,
				Account: strings.Join(o.all("service-account:"), "")})
		}
	}
	for _, n := range []string{inventory.SourceNodes, inventory.SourceNamespaces, inventory.SourceAccounts} {
		if in.After.whole(n) {
			s.Sources = append(s.Sources, inventory.Source{Name: n})
		}
	}
	aws := inventory.Source{Name: inventory.SourceAWSAuth}
	if in.After.find(Ref{"configmaps", "kube-system", "aws-auth"}) == nil {
		aws.None = in.After.whole("configmaps")
		if !aws.None {
			aws.Missing = "was not listed"
		}
	}
	s.Sources = append(s.Sources, aws)
	s.Server.Version = in.After.Server
	out.rbac = inventory.JudgeRBAC(s, ruleList().rules)
	for _, kind := range []string{kindClusterBindings, kindBindings} {
		for i := range in.After.Objects[kind] {
			b := &in.After.Objects[kind][i]
			if b.has("subject:" + moreTraits) {
				if ref := out.ref(kind, b); len(out.by(ref, b.all("subject:")[:1])) > 0 {
					out.crowds = append(out.crowds, ref)
				}
			}
		}
	}
	return out
}

// ref is what an object of RBAC is called where it is judged: names are cut there as traits cut them.
func (r *rights) ref(kind string, o *Object) inventory.Ref {
	switch kind {
	case kindClusterRoles:
		return inventory.Ref{Kind: "ClusterRole", Name: cut("role:ClusterRole/", o.Name)}
	case kindRoles:
		return inventory.Ref{Kind: "Role", Namespace: o.Namespace, Name: cut("role:Role/", o.Name)}
	case kindClusterBindings:
		return inventory.Ref{Kind: "ClusterRoleBinding", Name: o.Name}
	}
	return inventory.Ref{Kind: "RoleBinding", Namespace: o.Namespace, Name: o.Name}
}

func cut(prefix, name string) string { return strings.TrimPrefix(trait(prefix+name), prefix) }

// add puts an object of RBAC among what is judged, and returns its name there.
func (r *rights) add(kind string, o *Object) inventory.Ref {
	s, ref := r.was, r.ref(kind, o)
	switch kind {
	case kindClusterRoles:
		r.roles[ref] = o.has(rulesCut)
		s.ClusterRoles = append(s.ClusterRoles, inventory.Role{Name: ref.Name, Rules: o.Rules})
	case kindRoles:
		r.roles[ref] = o.has(rulesCut)
		s.Roles = append(s.Roles, inventory.Role{Namespace: ref.Namespace, Name: ref.Name, Rules: o.Rules})
	case kindClusterBindings, kindBindings:
		b := inventory.Binding{Name: ref.Name, Namespace: ref.Namespace}
		b.RoleKind, b.RoleName, _ = strings.Cut(strings.Join(o.all("role:"), ""), "/")
		for _, subject := range o.all("subject:") {
			b.Subjects = append(b.Subjects, subjectOf(subject))
		}
		if b.Namespace == "" {
			s.ClusterBindings = append(s.ClusterBindings, b)
		} else {
			s.Bindings = append(s.Bindings, b)
		}
	}
	return ref
}

// bind gives the holder of a role a binding: of a ClusterRole in the whole cluster.
func (r *rights) bind(t *thing, who inventory.SubjectKind, role string) {
	b := inventory.Binding{Namespace: t.ref.Namespace, RoleKind: "Role", RoleName: role, Subjects: []inventory.Subject{holderOf(t, who)}}
	if t.ref.Resource == kindClusterRoles {
		b.Namespace, b.RoleKind = "", "ClusterRole"
		r.was.ClusterBindings = append(r.was.ClusterBindings, b)
		return
	}
	r.was.Bindings = append(r.was.Bindings, b)
}

func holderOf(t *thing, who inventory.SubjectKind) inventory.Subject {
	s := inventory.Subject{Kind: who, Name: t.ref.Name}
	if t.ref.Resource == kindRoles {
		s.Namespace = t.ref.Namespace
	}
	return s
}

// subjectTrait is how a binding's traits name a subject, and subjectOf is the subject again. Of users and groups the API server
// does not look at the namespace.
func subjectTrait(s inventory.Subject) string {
	name := s.Name
	if s.Kind == inventory.ServiceAccount {
		name = s.Namespace + "/" + name
	}
	return trait("subject:" + string(s.Kind) + " " + name)
}

func subjectOf(said string) inventory.Subject {
	kind, name, _ := strings.Cut(said, " ")
	s := inventory.Subject{Kind: inventory.SubjectKind(kind), Name: name}
	if s.Kind == inventory.ServiceAccount {
		s.Namespace, s.Name, _ = strings.Cut(name, "/")
	}
	return s
}

// grave lists what of a subject's rights is critical here, the gravest first and each once.
func grave(all []inventory.Right) []string {
	all = slices.DeleteFunc(slices.Clone(all), func(r inventory.Right) bool { return !r.Severity.AtLeast(inventory.High) })
	slices.SortStableFunc(all, func(a, b inventory.Right) int { return cmp.Compare(b.Severity.Rank(), a.Severity.Rank()) })
	var out []string
	for _, r := range all {
		if !slices.Contains(out, r.Says) {
			out = append(out, r.Says)
		}
	}
	return out
}

// role lists what a role that was made or changed gives now and did not give before, if it is grave, to every subject that is bound to it.
func (r *rights) role(t *thing) []string {
	before := r.rbac.Rights(holderOf(t, formerHolder))
	return grave(slices.DeleteFunc(r.rbac.Rights(holderOf(t, holder)), func(now inventory.Right) bool {
		return slices.ContainsFunc(before, func(was inventory.Right) bool {
			return was.Rule == now.Rule && (was.Names == nil || slices.Equal(was.Names, now.Names))
		})
	}))
}

// by lists what a binding gives to some of its subjects, if it is grave.
func (r *rights) by(binding inventory.Ref, to []string) []string {
	var all []inventory.Right
	for _, subject := range to {
		all = append(all, slices.DeleteFunc(r.rbac.Rights(subjectOf(subject)), func(right inventory.Right) bool {
			return !slices.Contains(right.Via, binding)
		})...)
	}
	return grave(all)
}

// What a role that a binding names is known to be.
const (
	roleKnown  = ""
	roleGone   = "which is not there: its maker decides what that is"
	roleUnseen = "and what that is could not be seen"
	roleCut    = "which holds more rules than can be looked at"
)

// roleOf says what is known of the role that a binding names, as in "ClusterRole/edit".
func (r *rights) roleOf(namespace, role string) string {
	kind, name, _ := strings.Cut(role, "/")
	ref, list := inventory.Ref{Kind: kind, Name: name}, kindClusterRoles
	if kind != "ClusterRole" {
		ref.Namespace, list = namespace, kindRoles
	}
	switch most, known := r.roles[ref]; {
	case known && most:
		return roleCut
	case known:
		return roleKnown
	case r.in.After.whole(list):
		return roleGone
	}
	return roleUnseen
}

// account says what makes a service account powerful, for a sentence about it; empty if nothing does, as far as is known.
func (r *rights) account(namespace, name string) string {
	sa := subjectOf(strings.TrimPrefix(subjectTrait(inventory.Subject{Kind: inventory.ServiceAccount, Namespace: namespace, Name: name}),
		"subject:"))
	for _, s := range []inventory.Subject{sa, {Kind: inventory.Group, Name: "system:serviceaccounts"},
		{Kind: inventory.Group, Name: "system:serviceaccounts:" + namespace}, {Kind: inventory.Group, Name: "system:authenticated"}} {
		if gives := grave(r.rbac.Rights(s)); len(gives) > 0 {
			return "it " + gives[0]
		}
	}
	if len(r.crowds) > 0 {
		return "it may be among the many whom " + r.crowds[0].String() + " names"
	}
	return ""
}
