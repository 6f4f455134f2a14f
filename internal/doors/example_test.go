package doors_test

import (
	"fmt"
	"time"

	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/inventory"
)

// A snapshot is judged by rules that are data: here a CI account that may make a token of any service account.
func ExampleAnalyse() {
	rules, defaults, err := inventory.Shipped()
	if err != nil {
		fmt.Println(err)
		return
	}
	at := time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)
	s := &inventory.Snapshot{Cluster: "prod", At: at,
		ClusterRoles: []inventory.Role{{Name: "minter", Rules: []inventory.PolicyRule{
			{Verbs: []string{"create"}, APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}}}}},
		ClusterBindings: []inventory.Binding{{Name: "ci", RoleKind: "ClusterRole", RoleName: "minter",
			Subjects: []inventory.Subject{{Kind: inventory.User, Name: "ci"}}}}}
	for _, f := range doors.Analyse(s, inventory.Options{Rules: rules, Defaults: defaults, Now: at}).Findings {
		if f.Subject != nil && f.Subject.Name == "ci" {
			fmt.Println(f.Severity, f.Subject.Name)
		}
	}
	// Output:
	// critical ci
}
