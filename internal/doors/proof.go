package doors

import (
	"slices"
	"strings"

	"github.com/breakglassd/breakglass/internal/inventory"
)

// What proves that something is gone: a later scan that does not have it, and that would have it if it were still there. So an
// item names what that scan must have seen whole: sources as in Snapshot.Sources, command lines as in Analysis.Programs, and
// doors. It must have been seen whole in the earlier scan too: of what was seen by half, things may have other ids.

// doorProof is how the name of a door begins among these.
const doorProof = "door/"

// commandLine is the name of a program's command line among these.
func commandLine(program string) string { return "command line of " + program }

// Unproven is the first of the names that a scan with these sources and doors did not see whole; empty if it saw them all.
func Unproven(names []string, sources []inventory.Source, doors []Door) string {
	for _, name := range names {
		if id, ok := strings.CutPrefix(name, doorProof); ok {
			n := slices.IndexFunc(doors, func(d Door) bool { return d.ID == id })
			if n < 0 || doors[n].State == CannotTell || doors[n].Tellable != "" {
				return name
			}
			continue
		}
		// Every scan lists all that it tried to read. One without any list is no scan of a cluster.
		n := slices.IndexFunc(sources, func(s inventory.Source) bool { return s.Name == name })
		if n < 0 && len(sources) > 0 || n >= 0 && sources[n].Missing != "" {
			return name
		}
	}
	return ""
}

var (
	bindingsProof = []string{inventory.SourceClusterBindings, inventory.SourceBindings}
	rbacProof     = []string{inventory.SourceClusterRoles, inventory.SourceRoles, inventory.SourceClusterBindings, inventory.SourceBindings}
)

// proof is what proves that an item of a door is gone; none if nothing does.
func (d Door) proof(item string) []string {
	flags := func(names ...string) []string {
		out := make([]string, len(names))
		for n, name := range names {
			out[n] = commandLine(name)
		}
		return out
	}
	switch d.ID {
	case DoorClientCA, DoorRequestHeader:
		return []string{inventory.SourceAuthentication}
	case DoorFirstUser:
		return bindingsProof
	case DoorCSR:
		if item == "duration" {
			return flags("kube-controller-manager")
		}
		return nil // Kubernetes deletes the object an hour after it was signed, and the certificate lives on
	case DoorSATokens:
		if slices.Contains([]string{"lookup", "max", "issuers"}, item) {
			return flags("kube-apiserver")
		}
		return []string{inventory.SourceTokenSecrets}
	case DoorBootstrap:
		return []string{inventory.SourceBootstrap}
	case DoorStaticTokens, DoorWebhook:
		return flags("kube-apiserver")
	case DoorOIDC, DoorAuthorization: // the rest may have moved from the flags into a file that was not given
		return append(flags("kube-apiserver"), doorProof+d.ID)
	case DoorControlPlane:
		return flags("kube-controller-manager", "kube-scheduler")
	case DoorEtcd:
		if strings.HasPrefix(item, "shared:") {
			return nil // files are compared by their names: the same CA under another name looks different
		}
		return flags("etcd", "kube-apiserver")
	case DoorImpersonation:
		return rbacProof
	case DoorAnonymous:
		if slices.Contains([]string{"on", "open", "limited"}, item) {
			return []string{doorProof + d.ID}
		}
		return bindingsProof
	case DoorKubelet:
		return []string{inventory.SourceNodes, inventory.SourceConfigz, doorProof + d.ID}
	case DoorKubeProxy:
		return []string{inventory.SourceKubeProxy, doorProof + d.ID}
	case DoorExtensions:
		return []string{inventory.SourceAPIServices, inventory.SourceMutating, inventory.SourceValidating}
	case DoorPlatform:
		if strings.HasPrefix(item, "aws-auth:") {
			return []string{inventory.SourceAWSAuth}
		}
		return []string{inventory.SourceNodes, inventory.SourceVersion}
	}
	return nil
}
