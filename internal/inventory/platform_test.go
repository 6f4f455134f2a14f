package inventory

import (
	"slices"
	"strings"
	"testing"
)

// One ClusterRole each, bound to a person, as the platforms' own documentation has them.
func TestRightsByAnotherNameAreFound(t *testing.T) {
	for _, c := range []struct{ rule, group, resource string }{
		{"rancher-bindings", "management.cattle.io", "globalrolebindings"}, {"rancher-bindings", "management.cattle.io",
			"clusterroletemplatebindings"},
		{"openshift-groups", "user.openshift.io", "groups"}, {"openshift-bindings", "authorization.openshift.io", "clusterrolebindings"},
		{"openshift-oauth", "config.openshift.io", "oauths"}, {"gitops-write", "argoproj.io", "applications"},
		{"gitops-write", "kustomize.toolkit.fluxcd.io", "kustomizations"}, {"external-secrets-write", "external-secrets.io",
			"clustersecretstores"},
		{"virtual-machines", "subresources.kubevirt.io", "virtualmachineinstances/console"},
	} {
		role := clusterRole("x", PolicyRule{Verbs: []string{"*"}, APIGroups: []string{c.group}, Resources: []string{c.resource}})
		a := judged(t, all(&Snapshot{ClusterRoles: []Role{role}, ClusterBindings: []Binding{bind("x", "", "x", bob)}}))
		if !slices.ContainsFunc(a.Powers, func(p Power) bool { return p.Subject == bob && strings.Join(p.Rights, " ") == c.rule }) {
			t.Errorf("%s of %s: got %+v, want the rule %s", c.resource, c.group, a.Powers, c.rule)
		}
	}
}
