package webhook

import (
	"slices"
	"strings"

	"github.com/breakglassd/breakglass/internal/policy"
)

// ResourceAttributes is what a request for an object of the API wants to do. Verb, Group and Resource may be "*", which asks
// about all of them at once; an empty verb or resource is taken as "*".
type ResourceAttributes struct {
	Namespace   string `json:"namespace,omitempty"`
	Verb        string `json:"verb,omitempty"`
	Group       string `json:"group,omitempty"`
	Version     string `json:"version,omitempty"`
	Resource    string `json:"resource,omitempty"`
	Subresource string `json:"subresource,omitempty"`
	Name        string `json:"name,omitempty"`
}

// what names the request for people: "create pods/exec".
func (a ResourceAttributes) what() string {
	s := a.Verb + " " + a.Resource
	if a.Subresource != "" {
		s += "/" + a.Subresource
	}
	if a.Group != "" {
		s += " in " + a.Group
	}
	return s
}

// all is the wildcard of questions and of rules.
const all = "*"

// rule is one part of what a guard refuses: verbs on resources of one API group.
type rule struct {
	verbs     func(verb string) bool
	group     string   // all: any
	resources []string // "pods", "pods/exec", "pods/*" (the subresources alone); all: everything in the group
	except    []string // of resources
	in        string   // the namespace; empty: every one
	names     []string // of objects; nil: every one
}

func anyVerb(string) bool { return true }

// changing is every verb but those that only read: a verb that a later Kubernetes brings is refused until somebody has looked at it.
func changing(verb string) bool { return !slices.Contains([]string{"get", "list", "watch"}, verb) }

func verbs(of ...string) func(string) bool {
	return func(verb string) bool { return slices.Contains(of, verb) }
}

// impersonating is the verb of old and those of constrained impersonation (Kubernetes 1.36: "impersonate:user-info" on the
// identity and "impersonate-on:user-info:list" on what is done with it).
func impersonating(verb string) bool {
	return verb == "impersonate" || strings.HasPrefix(verb, "impersonate:") || strings.HasPrefix(verb, "impersonate-on:")
}

// reaching is the part of the API that opens a way into a container, a service or a kubelet.
var reaching = []string{"pods/exec", "pods/attach", "pods/portforward", "pods/proxy"}

// guards is what each guard refuses. testdata/guards.txt is what that means for everything that
// a real API server serves.
var guards = map[policy.Guard][]rule{
	policy.GuardImpersonate: {{verbs: impersonating, group: all, resources: []string{all}}},
	policy.GuardEscalate:    {{verbs: verbs("escalate", "bind"), group: all, resources: []string{all}}},
	policy.GuardTokens: {
		{verbs: anyVerb, resources: []string{"serviceaccounts/token"}},
		// Authorization does not see a Secret's type: who may write one can make one that a token is put into.
		{verbs: verbs("create", "update", "patch"), resources: []string{"secrets"}},
	},
	// approve, sign and attest are verbs on the virtual resource signers.
	policy.GuardCSR: {{verbs: changing, group: "certificates.k8s.io", resources: []string{all}}},
	policy.GuardRBAC: {
		{verbs: changing, group: "rbac.authorization.k8s.io", resources: []string{all}},
		// Rights by another name: bindings of OpenShift and of Rancher, whose controllers write those of Kubernetes, and who is in
		// OpenShift's groups.
		{verbs: changing, group: "authorization.openshift.io", resources: []string{all}},
		{verbs: changing, group: "user.openshift.io", resources: []string{all}},
		{verbs: changing, group: "oauth.openshift.io", resources: []string{all}},
		{verbs: changing, group: "management.cattle.io", resources: []string{"globalroles", "globalrolebindings", "roletemplates",
			"clusterroletemplatebindings", "projectroletemplatebindings", "users", "tokens", "authconfigs"}},
		// Bindings by another name: which cloud identity is in which group, and whom aggregated API servers believe.
		{verbs: changing, resources: []string{"configmaps"}, in: "kube-system", names: []string{"aws-auth",
			"extension-apiserver-authentication"}},
	},
	policy.GuardAdmission: {
		{verbs: changing, group: "admissionregistration.k8s.io", resources: []string{all}},
		{verbs: changing, group: "apiregistration.k8s.io", resources: []string{all}},
		// A conversion webhook is given every object of the kind, and answers with what it likes.
		{verbs: changing, group: "apiextensions.k8s.io", resources: []string{all}},
	},
	policy.GuardExec: {
		// A WebSocket begins with a GET: the verb says nothing about what is done.
		{verbs: anyVerb, resources: append([]string{"pods/ephemeralcontainers", "services/proxy", "nodes/proxy"}, reaching...)},
		{verbs: verbs("proxy"), resources: []string{"pods", "services", "nodes"}}, // the paths /api/v1/proxy/… of old
	},
	policy.GuardSecrets: {{verbs: anyVerb, resources: []string{"secrets", "secrets/*"}}},
	policy.GuardNodes: {
		{verbs: changing, resources: []string{"nodes", "nodes/*"}},
		// Through the kubelet: its whole API, the host's logs, the memory of a container.
		{verbs: anyVerb, resources: []string{"nodes/proxy", "nodes/log", "nodes/checkpoint"}},
	},
	policy.GuardWorkloads: {
		{verbs: changing, resources: []string{"pods", "pods/*", "bindings", "podtemplates", "replicationcontrollers",
			"replicationcontrollers/*"}, except: reaching},
		{verbs: changing, group: "apps", resources: []string{all}},
		{verbs: changing, group: "batch", resources: []string{all}},
		{verbs: changing, group: "autoscaling", resources: []string{all}},
	},
}

// Refused returns the first of the guards, in their order, that refuses the request. A question about more than one thing at
// once ("*") is refused if any of them is.
func Refused(by []policy.Guard, a ResourceAttributes) (policy.Guard, bool) {
	for _, g := range by {
		rules, known := guards[g]
		// A guard of a later release is in the ledger: what it refuses is not known here, so that nothing is let through.
		if !known || slices.ContainsFunc(rules, func(r rule) bool { return r.refuses(a) }) {
			return g, true
		}
	}
	return "", false
}

func (r rule) refuses(a ResourceAttributes) bool {
	if a.Verb != all && a.Verb != "" && !r.verbs(a.Verb) {
		return false
	}
	if r.group != all && a.Group != all && a.Group != r.group {
		return false
	}
	if r.in != "" && a.Namespace != "" && a.Namespace != r.in { // without one a question is about all namespaces
		return false
	}
	if r.names != nil && a.Name != "" && !slices.Contains(r.names, a.Name) { // the name of what is created is not said
		return false
	}
	return slices.ContainsFunc(r.resources, func(res string) bool { return overlaps(res, a) }) && !r.excepted(a)
}

func (r rule) excepted(a ResourceAttributes) bool {
	return slices.Contains(r.except, a.Resource+"/"+a.Subresource)
}

// overlaps reports whether a resource of a rule is one that is asked about.
func overlaps(rule string, a ResourceAttributes) bool {
	if rule == all {
		return true
	}
	resource, sub, _ := strings.Cut(rule, "/")
	everything := a.Resource == all || a.Resource == ""
	if !everything && a.Resource != resource {
		return false
	}
	switch a.Subresource {
	case all:
		return true
	case "":
		return sub == "" || everything
	}
	return sub == a.Subresource || sub == all
}
