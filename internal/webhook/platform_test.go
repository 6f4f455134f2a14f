package webhook_test

import (
	"testing"

	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/webhook"
)

func TestGuardOfRBACRefusesBindingsOfOtherPlatforms(t *testing.T) {
	for group, resources := range map[string][]string{"authorization.openshift.io": {"clusterrolebindings", "rolebindings"},
		"user.openshift.io":    {"groups", "identities"},
		"management.cattle.io": {"globalrolebindings", "clusterroletemplatebindings"}, "oauth.openshift.io": {"oauthclients"}} {
		for _, r := range resources {
			a := webhook.ResourceAttributes{Group: group, Resource: r, Verb: "create"}
			if _, refused := webhook.Refused([]policy.Guard{policy.GuardRBAC}, a); !refused {
				t.Errorf("create %s of %s is let through", r, group)
			}
			a.Verb = "list"
			if _, refused := webhook.Refused([]policy.Guard{policy.GuardRBAC}, a); refused {
				t.Errorf("list %s of %s is refused: the guard is about changes", r, group)
			}
		}
	}
}
