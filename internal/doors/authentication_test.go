package doors

import (
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/internal/controlplane"
	"github.com/breakglassd/breakglass/internal/inventory"
)

func authenticated(t *testing.T, config string) *Analysis {
	t.Helper()
	c, _ := controlplane.ParseCommand([]string{"kube-apiserver", "--authentication-config=/a.yaml", "--authorization-mode=RBAC"},
		"pod x on node cp1")
	c.Node = "cp1"
	return judged(t, all(&inventory.Snapshot{Nodes: []inventory.Node{{Name: "cp1", ControlPlane: true}},
		Components:           []controlplane.Component{c},
		AuthenticationConfig: "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n" + config}))
}

// No verdict by the shape of a text: an expression is of a known form, or a person must read it.
func TestExpressionsAreKnownToAddAPrefixOrAreForAPersonToRead(t *testing.T) {
	for expression, want := range map[string]string{
		`"corp:" + claims.group`:                                   "",
		`claims.roles.map(r, "corp:" + r)`:                         "",
		`claims.roles.split(",").map(r, 'corp:' + r)`:              "",
		`(claims.?roles.orValue([])).map(r, "corp:" + r)`:          "",
		`claims["https://example.com/groups"].map(g, "corp:" + g)`: "",
		`claims.roles`:                                                      "adds no prefix",
		`claims.roles.split(",")`:                                           "adds no prefix",
		`claims["https://example.com/groups"]`:                              "adds no prefix",
		`claims.?roles.orValue([])`:                                         "adds no prefix",
		`claims.roles.map(r, "s" + r)`:                                      "adds no prefix",
		`claims.roles.map(r, "system:" + r)`:                                "adds no prefix",
		`(claims.?roles.orValue([])).filter(r, r != "none")`:                "a person must read",
		`claims.roles.map(r, "corp:" + claims.name)`:                        "a person must read",
		`claims.admin ? ["system:masters"] : claims.roles.map(r, "x:" + r)`: "a person must read",
		`claims.roles.map(r, "corp:" + r) + ["system:masters"]`:             "a person must read",
	} {
		a := authenticated(t,
			"jwt:\n- issuer: {url: https://idp, audiences: [k]}\n  claimMappings:\n"+
				"    username: {claim: sub, prefix: \"corp:\"}\n    groups:\n      expression: '"+
				strings.ReplaceAll(expression, "'", "''")+"'\n")
		got := ""
		for _, i := range a.Door(DoorOIDC).Items {
			if strings.HasPrefix(i.ID, "expression:") {
				got = i.Title
				if i.Risk != inventory.High || !i.Admin {
					t.Errorf("%s: risk %s", expression, i.Risk)
				}
			}
		}
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", expression, got, want)
		}
	}
	a := authenticated(t, `jwt:
- issuer: {url: https://idp, audiences: [k]}
  claimMappings:
    username: {claim: sub, prefix: "s"}
    groups: {expression: claims.roles}
  userValidationRules:
  - expression: "user.groups.all(g, !g.startsWith('system:'))"
`)
	for _, i := range a.Door(DoorOIDC).Items {
		if strings.HasPrefix(i.ID, "expression:") && i.Risk != inventory.Low {
			t.Errorf("a rule refuses system:, and the risk is %s", i.Risk)
		}
	}
	if !strings.Contains(titles(a.Door(DoorOIDC)), "user names of https://idp get no prefix") {
		t.Errorf("the prefix s makes ystem:admin a user of Kubernetes: %s", titles(a.Door(DoorOIDC)))
	}
}

func titles(d *Door) string {
	var b strings.Builder
	for _, i := range d.Items {
		b.WriteString(i.Title + "\n")
	}
	return b.String()
}

func TestAuthenticationConfigurationIsReadWhole(t *testing.T) {
	for _, c := range []struct {
		config          string
		anonymous, oidc DoorState
		says            string // an item of the door of anonymous requests, or evidence of OIDC's
	}{
		{"anonymous: {enabled: false}\n", Absent, Absent, ""},
		{"anonymous: {enabled: true, conditions: [{path: /livez}]}\n", Present, Absent, "open for health checks alone"},
		{"anonymous: {enabled: true, conditions: [{path: /livez}, {path: /metrics}]}\n", Present, Absent, "more than health checks"},
		{"anonymous: {enabled: true}\n", Present, Absent, "system:anonymous"},
		{"jwt: []\n", Present, Absent, "system:anonymous"},
		{"jwt: []\nfuture: {x: 1}\n", CannotTell, CannotTell, "future"},
		{"anonymous: {enabled: false, unless: x}\n", CannotTell, CannotTell, "unless"},
		{"anonymous: {enabled: false}\n---\nx: 1\n", CannotTell, CannotTell, "a second document"},
	} {
		a := authenticated(t, c.config)
		anonymous, oidc := a.Door(DoorAnonymous), a.Door(DoorOIDC)
		if anonymous.State != c.anonymous || oidc.State != c.oidc {
			t.Errorf("%s: anonymous %s, OIDC %s; want %s, %s", c.config, anonymous.State, oidc.State, c.anonymous, c.oidc)
		}
		if !strings.Contains(titles(anonymous)+strings.Join(oidc.Evidence, "\n"), c.says) {
			t.Errorf("%s: nothing says %q: %s %v", c.config, c.says, titles(anonymous), oidc.Evidence)
		}
	}
}
