package recert

import (
	"fmt"
	"slices"
	"strings"

	"github.com/breakglassd/breakglass/internal/checkup"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/policy"
)

// OwnVault is the item for what the daemon may do in Vault, from the lines of a check of it. Everything that is not as it shipped is
// among what the item grants, so that no change of it reads as unchanged.
func OwnVault(lines []checkup.Line) Item {
	i := Item{ID: "own/vault", Kind: "daemon", Title: "what the daemon's token may do in Vault, and what signs under its roles",
		Risk: inventory.Info, Evidence: []string{}}
	for _, f := range lines {
		line := string(f.Level) + ": " + f.Subject + ": " + f.Text
		i.Evidence = append(i.Evidence, line)
		switch f.Level {
		case checkup.OK:
			continue
		case checkup.Error:
			i.Risk, i.Advice = inventory.High, "run deploy/vault/setup.sh again, and find out who changed it"
		case checkup.Warn:
			if !i.Risk.AtLeast(inventory.Medium) {
				i.Risk = inventory.Medium
			}
		}
		if f.Level == checkup.Warn && f.Code == "vault-issuer" { // it counts the days that are left
			line = string(f.Level) + ": " + f.Subject + ": the issuer ends soon"
		}
		i.Grants = append(i.Grants, line)
	}
	slices.Sort(i.Grants)
	return i
}

// A VaultMount is the PKI mount with the break-glass CA of a cluster.
type VaultMount struct{ Cluster, Path string }

// OthersInVault is the item that says that the daemon did not look at who else can have certificates signed, and how a Vault
// administrator can look. The daemon's policy does not let it read the policies of others: a thief of its token would read them too.
func OthersInVault(all []VaultMount) Item {
	i := Item{ID: "own/vault/others", Kind: "unknown", Title: "cannot tell who else in Vault can reach the CAs: sign, sign-verbatim, " +
		"the roles and the mounts", Risk: inventory.High, Admin: true,
		Evidence: []string{"the daemon's token may not list or read the policies of others, on purpose",
			"a holder of sign-verbatim, or of the right to change a role, can make a certificate for any user and group"}}
	var mounts []string
	for _, m := range all {
		mounts = append(mounts, m.Path+"/")
		i.Grants = append(i.Grants, "whatever a policy gives on "+m.Path+"/")
		i.Evidence = append(i.Evidence, "CA of cluster "+m.Cluster+": "+m.Path+"/")
	}
	slices.Sort(i.Grants)
	i.Advice = fmt.Sprintf("as a Vault administrator: vault policy list, then vault policy read of each, and look for paths that cover %s "+
		"or sys/mounts, sys/policies and auth/ (with * and +, too); then which tokens, entities and roles of auth methods have such a policy, "+
		"and root tokens",
		strings.Join(mounts, ", "))
	return i
}

// OwnCluster is the item for what the daemon may do in a cluster: what its profiles give it to bind, and everything that is not as it
// should be, from the lines of a check of it.
func OwnCluster(id string, lines []checkup.Line, rights []policy.Rights) Item {
	i := Item{ID: "own/cluster/" + id, Kind: "daemon", Cluster: id, Title: "what the daemon's credential may do in cluster " + id,
		Risk: inventory.Info, Evidence: []string{}}
	for _, r := range rights {
		i.Grants = append(i.Grants, "gives "+r.String())
	}
	for _, f := range lines {
		i.Evidence = append(i.Evidence, f.Text)
		if f.Level != checkup.OK {
			i.Risk, i.Advice = inventory.High, f.Next
			i.Grants = append(i.Grants, f.Text)
		}
	}
	slices.Sort(i.Grants)
	i.Grants = slices.Compact(i.Grants)
	return i
}
