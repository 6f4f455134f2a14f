package recert_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/internal/checkup"
	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/recert"
)

// A campaign compares what the daemon itself may do with the last time by what the item grants.
func TestNoChangeOfTheDaemonsOwnRightsReadsAsUnchanged(t *testing.T) {
	ok := checkup.Line{Level: checkup.OK, Code: "vault-drift", Subject: "pki/roles/breakglass", Text: "what shipped"}
	wide := checkup.Line{Level: checkup.Error, Code: "vault-capabilities", Subject: "pki/root", Text: `the token has ["sudo"] there`}
	extra := checkup.Line{Level: checkup.Warn, Code: "vault-roles", Subject: "pki",
		Text: "the mount has roles that no profile uses (x)"}
	ends := func(days int) checkup.Line {
		return checkup.Line{Level: checkup.Warn, Code: "vault-issuer", Subject: "pki",
			Text: fmt.Sprintf("issuer is valid for %d days", days)}
	}
	state := func(was, is []checkup.Line) doors.State {
		a, b := recert.OwnVault(was), recert.OwnVault(is)
		return doors.Compare(doors.Item{ID: a.ID, Risk: a.Risk, Grants: a.Grants, Fingerprint: strings.Join(a.Grants, "\n")},
			doors.Item{ID: b.ID, Risk: b.Risk, Grants: b.Grants, Fingerprint: strings.Join(b.Grants, "\n")})
	}
	for name, c := range map[string]struct {
		was, is []checkup.Line
		want    doors.State
	}{
		"the same":     {[]checkup.Line{ok, wide}, []checkup.Line{ok, wide}, doors.Unchanged},
		"one more way": {[]checkup.Line{ok, wide}, []checkup.Line{ok, wide, extra}, doors.Widened},
		"another way": {[]checkup.Line{ok, wide}, []checkup.Line{ok, {Level: checkup.Error, Subject: "pki/keys",
			Text: "x"}}, doors.Widened},
		"one less":              {[]checkup.Line{ok, wide, extra}, []checkup.Line{ok, extra}, doors.Narrowed},
		"a day less to go":      {[]checkup.Line{ends(80)}, []checkup.Line{ends(79)}, doors.Unchanged},
		"the first thing amiss": {[]checkup.Line{ok}, []checkup.Line{ok, extra}, doors.Widened},
	} {
		if got := state(c.was, c.is); got != c.want {
			t.Errorf("in Vault, %s: %s, want %s", name, got, c.want)
		}
	}
	view := policy.Rights{ClusterRole: "view"}
	before := recert.OwnCluster("c1", []checkup.Line{{Level: checkup.OK, Text: "fine"}}, []policy.Rights{view})
	after := recert.OwnCluster("c1", []checkup.Line{{Level: checkup.OK, Text: "fine"},
		{Level: checkup.Error, Text: "the daemon may do what it does not need: get secrets",
			Next: "remove it"}}, []policy.Rights{view, {ClusterRole: "cluster-admin"}})
	if want := []string{"gives ClusterRole view"}; !slices.Equal(before.Grants, want) {
		t.Errorf("in a cluster: grants %q, want %q", before.Grants, want)
	}
	if want := []string{"gives ClusterRole cluster-admin", "gives ClusterRole view",
		"the daemon may do what it does not need: get secrets"}; !slices.Equal(after.Grants, want) || after.Risk != inventory.High {
		t.Errorf("in a cluster: grants %q with risk %s, want %q", after.Grants, after.Risk, want)
	}
}

func TestReviewersAreToldThatOthersInVaultWereNotLookedAt(t *testing.T) {
	i := recert.OthersInVault([]recert.VaultMount{{Cluster: "c1", Path: "pki-c1"}})
	if i.Kind != "unknown" || !i.Admin || !i.Risk.AtLeast(inventory.High) || !strings.Contains(i.Title, "cannot tell") ||
		!strings.Contains(i.Advice, "vault policy list") || !strings.Contains(i.Advice, "pki-c1/") ||
		!slices.Equal(i.Grants, []string{"whatever a policy gives on pki-c1/"}) {
		t.Errorf("got %+v", i)
	}
}
