package policies

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

const issuerID = "01234567-89ab-cdef-0123-456789abcdef"

func TestVaultFilesAreCompleteWhenFilled(t *testing.T) {
	for group, organization := range map[string]int{"": 0, "breakglass:cluster-admins": 1} {
		text, err := VaultRole(group, issuerID, 15*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		var role struct {
			Issuer       string   `json:"issuer_ref"`
			MaxTTL       int      `json:"max_ttl"`
			Organization []string `json:"organization"`
		}
		if err := json.Unmarshal(text, &role); err != nil {
			t.Fatal(err)
		}
		if role.Issuer != issuerID || role.MaxTTL != 900 || len(role.Organization) != organization || organization == 1 &&
			role.Organization[0] != group {
			t.Errorf("group %q: %+v", group, role)
		}
		if strings.Contains(string(text), "@") {
			t.Errorf("group %q: a placeholder is left:\n%s", group, text)
		}
	}
	canary, err := VaultCanary(issuerID)
	if err != nil {
		t.Fatal(err)
	}
	var role struct {
		Issuer  string   `json:"issuer_ref"`
		MaxTTL  int64    `json:"max_ttl"`
		Domains []string `json:"allowed_domains"`
	}
	if err := json.Unmarshal(canary, &role); err != nil || role.Issuer != issuerID || role.MaxTTL != int64(VaultCanaryTTL/time.Second) ||
		len(role.Domains) != 1 || role.Domains[0] != "breakglass-canary:*" || strings.Contains(string(canary), "@") {
		t.Errorf("the canary's role: %v, %+v", err, role)
	}
	policy, err := VaultPolicy("breakglassd", []VaultMount{{Path: "pki-a"}, {Path: "b/c", Groups: []string{"breakglass:x"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"sys/policies/acl/breakglassd", "pki-a/certs", "pki-a/issuer/+/sign/breakglass-canary",
		"b/c/roles/breakglass-canary", "pki-a/sign/breakglass", "b/c/certs", "b/c/sign/breakglass", "b/c/sign/breakglass-x",
		"b/c/roles/breakglass-x"} {
		if strings.Count(policy, `path "`+path+`"`) != 1 {
			t.Errorf("the policy does not have %s exactly once:\n%s", path, policy)
		}
	}
	for line := range strings.Lines(policy) {
		if strings.Contains(line, "@") && !strings.HasPrefix(line, "#") {
			t.Errorf("a placeholder is left: %s", line)
		}
	}
}

func TestVaultFilesTakeNoOddValues(t *testing.T) {
	for _, group := range []string{"system:masters", "breakglass:", "breakglass:canary", "breakglass:-x", "breakglass:A", "breakglass:a/b",
		"breakglass:a*", "breakglass:a\n", "breakglass:" + strings.Repeat("a", 51)} {
		if name, err := VaultRoleName(group); err == nil {
			t.Errorf("group %q has the role %q", group, name)
		}
		if _, err := VaultPolicy("p", []VaultMount{{Path: "pki", Groups: []string{group}}}); err == nil {
			t.Errorf("a policy for group %q", group)
		}
	}
	for _, mount := range []string{"", "/pki", "pki/", "pki*", "pki/+/x", `a"b`, "a//b", "a\nb", "../x"} {
		if _, err := VaultPolicy("p", []VaultMount{{Path: mount}}); err == nil {
			t.Errorf("a policy for mount %q", mount)
		}
	}
	for _, name := range []string{"", "A", "a b", "a/b", "a\""} {
		if _, err := VaultPolicy(name, nil); err == nil {
			t.Errorf("a policy named %q", name)
		}
	}
	for _, ttl := range []time.Duration{0, 59 * time.Second, 90*time.Second + 1, -time.Hour} {
		if _, err := VaultRole("", issuerID, ttl); err == nil {
			t.Errorf("a role for %s", ttl)
		}
	}
	for _, issuer := range []string{"", "default", "breakglass-g1", issuerID + "x"} {
		if _, err := VaultRole("", issuer, time.Hour); err == nil {
			t.Errorf("a role for issuer %q", issuer)
		}
		if _, err := VaultCanary(issuer); err == nil {
			t.Errorf("a canary's role for issuer %q", issuer)
		}
	}
}

func TestCanaryRoleIsTheBindingRoleWithOtherNamesAndAMinute(t *testing.T) {
	people, err := VaultRole("", issuerID, VaultCanaryTTL)
	if err != nil {
		t.Fatal(err)
	}
	canary, err := VaultCanary(issuerID)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Replace(string(canary), `["breakglass-canary:*"]`, `["breakglass:*"]`, 1); got != string(people) {
		t.Errorf("the canary's role differs in more than names and lifetime:\n%s", got)
	}
}
