package policies

import (
	"embed"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// vaultFiles are the files that deploy/vault/setup.sh loads into Vault. What compares Vault with what was shipped reads them
// here, so that there is one truth.
//
//go:embed vault/breakglassd.hcl vault/roles
var vaultFiles embed.FS

// VaultFiles holds the files below vault/, for setup.sh's --files.
func VaultFiles() fs.FS {
	sub, err := fs.Sub(vaultFiles, "vault")
	if err != nil {
		panic(err) // the name is a constant
	}
	return sub
}

var (
	vaultGroup = pattern(`^breakglass:([a-z0-9][a-z0-9._-]{0,49})$`)
	// Mount paths and policy names go into HCL and URLs: no wildcard, no slash at either end, nothing to escape.
	vaultMount  = pattern(`^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$`)
	vaultPolicy = pattern(`^[a-z0-9][a-z0-9._-]*$`)
	vaultIssuer = pattern(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
)

// pattern compiles a regular expression at its first use: the command line initialises this package in every command, and needs none.
func pattern(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

// The lines that part the policy. setup.sh looks for the same ones.
const (
	forEachMount = "# --- for each mount ---\n"
	forEachRole  = "# --- for each role ---\n"
)

// VaultMount is one cluster's PKI mount and the groups that have a role there. The role for binding mode is always there.
type VaultMount struct {
	Path   string
	Groups []string
}

// VaultCanaryRole is the name of the PKI role that signs canaries: certificates without any right, for one minute.
const VaultCanaryRole = "breakglass-canary"

// VaultCanaryTTL is the lifetime of a canary, the max_ttl of its role.
const VaultCanaryTTL = time.Minute

// VaultRoleName is the name of the PKI role that signs for a group; the empty group is binding mode. There is no role for the
// group breakglass:canary: its name is that of the canary's.
func VaultRoleName(group string) (string, error) {
	if group == "" {
		return "breakglass", nil
	}
	m := vaultGroup().FindStringSubmatch(group)
	if m == nil {
		return "", fmt.Errorf("group %q must be breakglass: and 1 to 50 characters of a-z 0-9 . _ -", group)
	}
	if role := "breakglass-" + m[1]; role != VaultCanaryRole {
		return role, nil
	}
	return "", fmt.Errorf("group %q is not possible: its role %s would be that of the canary; choose another name", group, VaultCanaryRole)
}

// VaultCanary is the PKI role of the canary as JSON. The issuer in it is never used, because a canary names the issuer that it
// is to be signed by, but Vault keeps one in every role.
func VaultCanary(issuerID string) ([]byte, error) {
	if !vaultIssuer().MatchString(issuerID) {
		return nil, fmt.Errorf("issuer %q is not an issuer id (vault list -detailed MOUNT/issuers shows them)", issuerID)
	}
	text, err := vaultFiles.ReadFile("vault/roles/breakglass-canary.json")
	if err != nil {
		return nil, err
	}
	return []byte(strings.ReplaceAll(string(text), "@ISSUER_ID@", issuerID)), nil
}

// VaultRole is the PKI role for a group as JSON: what setup.sh writes and what Vault must give back. The issuer is an id, and
// maxTTL, the longest lifetime over the cluster's profiles, is whole seconds, at least a minute.
func VaultRole(group, issuerID string, maxTTL time.Duration) ([]byte, error) {
	if _, err := VaultRoleName(group); err != nil {
		return nil, err
	}
	if !vaultIssuer().MatchString(issuerID) {
		return nil, fmt.Errorf("issuer %q is not an issuer id (vault list -detailed MOUNT/issuers shows them)", issuerID)
	}
	if maxTTL < time.Minute || maxTTL%time.Second != 0 {
		return nil, fmt.Errorf("longest lifetime %s must be whole seconds and at least 1m", maxTTL)
	}
	file := "vault/roles/breakglass.json"
	if group != "" {
		file = "vault/roles/breakglass-group.json"
	}
	text, err := vaultFiles.ReadFile(file)
	if err != nil {
		return nil, err
	}
	seconds := strconv.FormatInt(int64(maxTTL/time.Second), 10)
	return []byte(strings.NewReplacer("@ISSUER_ID@", issuerID, `"@MAX_TTL_SECONDS@"`, seconds, "@GROUP@", group).Replace(string(text))), nil
}

// VaultPolicy is the daemon's policy for these mounts: what setup.sh loads under the policy's name.
func VaultPolicy(name string, mounts []VaultMount) (string, error) {
	text, err := vaultFiles.ReadFile("vault/breakglassd.hcl")
	if err != nil {
		return "", err
	}
	if !vaultPolicy().MatchString(name) {
		return "", fmt.Errorf("policy name %q must be of a-z 0-9 . _ -", name)
	}
	token, rest, _ := strings.Cut(string(text), forEachMount)
	perMount, perRole, found := strings.Cut(rest, forEachRole)
	if !found {
		return "", fmt.Errorf("the shipped policy has lost the lines that part it")
	}
	var b strings.Builder
	b.WriteString(strings.ReplaceAll(token, "@POLICY@", name))
	for _, m := range mounts {
		if !vaultMount().MatchString(m.Path) {
			return "", fmt.Errorf("mount %q must be a plain path without wildcards", m.Path)
		}
		b.WriteString(strings.ReplaceAll(perMount, "@MOUNT@", m.Path))
		for _, group := range append([]string{""}, m.Groups...) {
			role, err := VaultRoleName(group)
			if err != nil {
				return "", err
			}
			b.WriteString(strings.NewReplacer("@MOUNT@", m.Path, "@ROLE@", role).Replace(perRole))
		}
	}
	return b.String(), nil
}
