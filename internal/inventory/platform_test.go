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
		a := judgement(t, all(&Snapshot{ClusterRoles: []Role{role}, ClusterBindings: []Binding{bind("x", "", "x", bob)}}))
		if !slices.ContainsFunc(a.Powers, func(p Power) bool { return p.Subject == bob && strings.Join(p.Rights, " ") == c.rule }) {
			t.Errorf("%s of %s: got %+v, want the rule %s", c.resource, c.group, a.Powers, c.rule)
		}
	}
}

// An API group that no rule is about is told by name, with who holds rights in it: it is no alarm, and it is not clean either.
func TestWhatNoRuleIsAboutIsToldAsNotJudged(t *testing.T) {
	rule := func(group string, resources ...string) PolicyRule {
		return PolicyRule{Verbs: []string{"create"}, APIGroups: []string{group}, Resources: resources}
	}
	for _, c := range []struct {
		name string
		rule PolicyRule
		want string // empty: all of it is judged
	}{
		{"a platform that is not known", rule("fleet.example.com", "bundles", "clusters"),
			"API group fleet.example.com (bundles; clusters), held by user bob"},
		{"a kind beside those that are judged", rule("argoproj.io", "applications", "workflows"),
			"API group argoproj.io (workflows), held by user bob"},
		{"all of a group that is judged in part", rule("argoproj.io", "*"), "API group argoproj.io (*), held by user bob"},
		{"a kind of whichever group", rule("*", "bundles"), "API group * (bundles), held by user bob"},
		{"kinds that are judged", rule("argoproj.io", "applications", "applications/status"), ""},
		{"a kind of Kubernetes that gives no power", rule("networking.k8s.io", "ingresses"), ""},
		{"a group that looks like one of Kubernetes", rule("gateway.networking.k8s.io", "gateways"), "API group gateway.networking.k8s.io"},
		{"everything", star, ""},
	} {
		s := all(&Snapshot{ClusterRoles: []Role{clusterRole("x", c.rule)}, ClusterBindings: []Binding{bind("x", "", "x", bob)}})
		told := func(o Options) string {
			var out []string
			o.Rules, o.Defaults = shipped(t)
			o.Now = now
			for _, f := range judgedBy(s, o).Findings {
				if f.Rule == RuleNotJudged {
					out = append(out, f.Title)
					if f.Alarm() || !strings.HasSuffix(f.Title, "cannot tell what they lead to") || f.Next == "" {
						t.Errorf("%s: got %+v", c.name, f)
					}
				}
			}
			return strings.Join(out, ", ")
		}
		if got := told(Options{}); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
		if got := told(Options{Self: "bob"}); got != "" {
			t.Errorf("%s, of this daemon: got %q", c.name, got)
		}
	}
	s := all(&Snapshot{})
	for version, want := range map[string]bool{"v1.37.9": false, "v1.36.0-eks-1": false, "v1.38.0": true, "v2.0.0": true, "": false} {
		s.Server.Version = version
		if got := slices.ContainsFunc(judgement(t, s).Findings, func(f Finding) bool { return f.Rule == RuleNotJudged }); got != want {
			t.Errorf("version %q: told as newer than the rules: %v, want %v", version, got, want)
		}
	}
}
