package doors

import (
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/inventory"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// all says that every source was read: a snapshot of a test is whole unless it says otherwise.
func all(s *inventory.Snapshot) *inventory.Snapshot {
	for _, name := range []string{inventory.SourceVersion, inventory.SourceSelf, inventory.SourceHandshake, inventory.SourceAnonymous,
		inventory.SourceClusterRoles, inventory.SourceRoles, inventory.SourceClusterBindings, inventory.SourceBindings,
		inventory.SourceNamespaces, inventory.SourceAccounts, inventory.SourceTokenSecrets, inventory.SourceBootstrap, inventory.SourceCSRs,
		inventory.SourceAuthentication, inventory.SourceIssuer, inventory.SourceNodes, inventory.SourcePods, inventory.SourceKubeProxy,
		inventory.SourceTracking, inventory.SourceConfigz, inventory.SourceMutating, inventory.SourceValidating, inventory.SourceAPIServices} {
		s.Sources = append(s.Sources, inventory.Source{Name: name})
	}
	s.Sources = append(s.Sources, inventory.Source{Name: inventory.SourceAWSAuth, None: true})
	s.Cluster, s.At, s.Server.Version = "prod", now, "v1.37.2"
	return s
}

func judged(t *testing.T, s *inventory.Snapshot, ignores ...inventory.Ignore) *Analysis {
	t.Helper()
	rules, defaults, err := inventory.Shipped()
	if err != nil {
		t.Fatal(err)
	}
	return Analyse(s, inventory.Options{Rules: rules, Defaults: defaults, Ignores: ignores, Now: now})
}

func clusterRole(name string, rules ...inventory.PolicyRule) inventory.Role {
	return inventory.Role{Name: name, Rules: rules}
}

func bind(name, ns, role string, subjects ...inventory.Subject) inventory.Binding {
	return inventory.Binding{Name: name, Namespace: ns, RoleKind: "ClusterRole", RoleName: role, Subjects: subjects, Created: now}
}

var (
	star       = inventory.PolicyRule{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}}
	podCreate  = inventory.PolicyRule{Verbs: []string{"create"}, APIGroups: []string{""}, Resources: []string{"pods"}}
	secretsGet = inventory.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"secrets"}}
	bob        = inventory.Subject{Kind: inventory.User, Name: "bob"}
)
