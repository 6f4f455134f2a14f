package view

import (
	"fmt"
	"testing"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/policy"
)

func TestManyApproversAreNamedByTeam(t *testing.T) {
	var many []string
	for i := range 299 {
		many = append(many, fmt.Sprintf("p%d", i))
	}
	r := api.Request{Ask: breakglass.Requested{Quorum: policy.Quorum{Each: []policy.FrozenTeam{{ID: "security", Members: many[:12]}},
		From: []policy.FrozenTeam{{ID: "security", Members: many[:12]}, {ID: "sre", Members: many}}}}}
	if got := crowd(r, many); got != "299 people: security (12), sre (299)" {
		t.Errorf("299 approvers: %q", got)
	}
	if got := crowd(r, many[:2]); got != "p0, p1" {
		t.Errorf("two approvers: %q", got)
	}
}
