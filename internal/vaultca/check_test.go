package vaultca

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/checkup"
	"github.com/breakglassd/breakglass/internal/real"
	"github.com/breakglassd/breakglass/policies"
)

func shippedRole(t testing.TB, w *world, group string) map[string]any {
	t.Helper()
	text, err := policies.VaultRole(group, w.mount.IssuerID, w.mount.MaxTTL)
	if err != nil {
		t.Fatal(err)
	}
	role := map[string]any{}
	if err := decode(strings.NewReader(string(text)), &role); err != nil {
		t.Fatal(err)
	}
	return role
}

func TestDriftOfEveryRoleFieldStopsIssuing(t *testing.T) {
	w := newWorld(t)
	c := w.open(t)
	other, err := w.root.Logical().Write(w.mount.Path+"/issuers/generate/root/internal",
		map[string]any{"common_name": "other", "issuer_name": "other", "key_type": "ec"})
	if err != nil {
		t.Fatal(err)
	}
	special := map[string]any{
		"issuer_ref": other.Data["issuer_id"], "key_type": "any", "key_bits": 384, "signature_bits": 384, "serial_number_source": "json-csr",
		"not_after": "2099-01-01T00:00:00Z", "cn_validations": []string{"disabled"}, "key_usage": []string{"DigitalSignature", "CertSign"},
		"ext_key_usage": []string{"ServerAuth"}, "ext_key_usage_oids": []string{"1.3.6.1.5.5.7.3.1"},
		"allowed_other_sans": []string{"1.2.3.4;UTF8:*"},
		"policy_identifiers": []string{"1.2.3.4"}, "organization": []string{"system:masters"}, "allowed_domains": []string{"*"},
		"not_before": "2020-01-01T00:00:00Z", "not_before_bound": "permit", "not_after_bound": "permit",
	}
	for _, g := range []string{"", group} {
		shipped := shippedRole(t, w, g)
		name, err := policies.VaultRoleName(g)
		if err != nil {
			t.Fatal(err)
		}
		path := w.mount.Path + "/roles/" + name
		there, err := w.root.Logical().Read(path)
		if err != nil {
			t.Fatal(err)
		}
		for field, value := range shipped {
			if _, ok := there.Data[field]; !ok { // of the other product
				if !slices.Contains(slices.Concat(ofVault, ofOpenBao), field) {
					t.Errorf("there is no field %s", field)
				}
				continue
			}
			changed := maps.Clone(shipped)
			switch v := value.(type) {
			case bool:
				changed[field] = !v
			case json.Number:
				n, err := v.Int64()
				if err != nil {
					t.Fatal(err)
				}
				changed[field] = n + 60
			case []any:
				changed[field] = append(slices.Clone(v), "x")
			}
			if s, ok := special[field]; ok {
				changed[field] = s
			}
			if field == "allow_token_displayname" { // an old role may have it, but it cannot be set any more
				if bad, _, _ := roleDrift(changed, g, w.mount); len(bad) != 1 {
					t.Errorf("%s changed: %q", field, bad)
				}
				continue
			}
			w.write(t, path, changed)
			if err := c.Check(t.Context(), "prod", g); err == nil || !strings.Contains(err.Error(), "role field "+field+" is") {
				t.Errorf("%s changed to %v: Check says %v", field, changed[field], err)
			}
		}
		w.write(t, path, shipped)
		if err := c.Check(t.Context(), "prod", g); err != nil {
			t.Errorf("after putting everything back: %v", err)
		}
	}
}

func TestEveryRoleFieldThatVaultReportsIsPinned(t *testing.T) {
	w := sharedWorld(t)
	got, err := w.root.Logical().Read(w.mount.Path + "/roles/breakglass")
	if err != nil {
		t.Fatal(err)
	}
	_, unknown, err := roleDrift(got.Data, "", w.mount)
	if err != nil || len(unknown) > 0 {
		t.Errorf("fields that are not compared: %q, error %v", unknown, err)
	}
}

func TestRoleFieldsOfANewerVaultDoNotStopIssuing(t *testing.T) {
	w := &world{mount: Mount{IssuerID: "00000000-0000-0000-0000-000000000000", MaxTTL: time.Hour}}
	role := shippedRole(t, w, "")
	role["invented_in_2030"] = true
	bad, unknown, err := roleDrift(role, "", w.mount)
	if err != nil || len(bad) > 0 || !slices.Equal(unknown, []string{"invented_in_2030"}) {
		t.Errorf("bad %q, unknown %q, error %v", bad, unknown, err)
	}
	delete(role, "no_store")
	role["ou"] = nil // a list that is not there
	role["key_bits"] = "256"
	bad, _, _ = roleDrift(role, "", w.mount)
	if want := []string{"role field key_bits is \"256\" instead of 256",
		"role field no_store is missing (this Vault is too old, or an OpenBao before 2.3.1)"}; !slices.Equal(bad, want) {
		t.Errorf("got %q, want %q", bad, want)
	}
}

// Vault and OpenBao each have role fields that the other has not. A role may lack those of the other product, all of them together, and
// what it has is compared whosever it is.
func TestARoleMayLackOnlyTheFieldsOfTheOtherProduct(t *testing.T) {
	w := &world{mount: Mount{IssuerID: "00000000-0000-0000-0000-000000000000", MaxTTL: time.Hour}}
	for _, tt := range []struct {
		lacks  []string
		change map[string]any
		bad    []string // the fields that stop signing
	}{
		{nil, nil, nil}, // of a product that has all of them
		{ofOpenBao, nil, nil},
		{ofVault, nil, nil},
		{slices.Concat(ofVault, ofOpenBao), nil, []string{"serial_number_source"}},
		{[]string{"serial_number_source", "not_after_bound"}, nil, []string{"not_after_bound"}},
		{[]string{"serial_number_source", "not_before", "not_before_bound"}, nil, []string{"not_before", "not_before_bound"}},
		{[]string{"serial_number_source", "allowed_serial_numbers"}, nil, []string{"allowed_serial_numbers"}},
		{ofVault, map[string]any{"allowed_serial_numbers": []any{"*"}}, []string{"allowed_serial_numbers"}},
		{ofVault, map[string]any{"not_after_bound": "permit"}, []string{"not_after_bound"}},
		{ofVault, map[string]any{"not_before_bound": "duration"}, []string{"not_before_bound"}},
		{ofVault, map[string]any{"not_before": "2020-01-01T00:00:00Z"}, []string{"not_before"}},
		{ofOpenBao, map[string]any{"serial_number_source": "json-csr"}, []string{"serial_number_source"}},
		{nil, map[string]any{"not_after_bound": "permit"}, []string{"not_after_bound"}},
	} {
		role := shippedRole(t, w, "")
		for _, field := range tt.lacks {
			delete(role, field)
		}
		maps.Copy(role, tt.change)
		bad, unknown, err := roleDrift(role, "", w.mount)
		if err != nil || len(unknown) > 0 || len(bad) != len(tt.bad) {
			t.Errorf("without %q, with %v: %q, unknown %q, error %v; want %q", tt.lacks, tt.change, bad, unknown, err, tt.bad)
			continue
		}
		for i, field := range tt.bad {
			if !strings.HasPrefix(bad[i], "role field "+field+" is ") {
				t.Errorf("without %q, with %v: %q, want it to be about %s", tt.lacks, tt.change, bad[i], field)
			}
		}
	}
}

func TestTheTwoRolesDifferInTheOrganizationOnly(t *testing.T) {
	w := &world{mount: Mount{IssuerID: "00000000-0000-0000-0000-000000000000", MaxTTL: time.Hour}}
	a, b := shippedRole(t, w, ""), shippedRole(t, w, group)
	if diff := cmp.Diff([]any{group}, b["organization"]); diff != "" {
		t.Error(diff)
	}
	b["organization"] = []any{}
	if diff := cmp.Diff(a, b); diff != "" {
		t.Error(diff)
	}
}

func TestIssuerDriftStopsIssuing(t *testing.T) {
	w := newWorld(t)
	c := w.open(t)
	path := w.mount.Path + "/issuer/" + w.mount.IssuerID
	good := map[string]any{"issuer_name": "breakglass-g1", "usage": "read-only,issuing-certificates,crl-signing,ocsp-signing",
		"leaf_not_after_behavior": "err"}
	for _, tc := range []struct {
		path, field, value, says string
	}{
		{path, "usage", "read-only,crl-signing", "may not issue"},
		{path, "leaf_not_after_behavior", "permit", "leaf_not_after_behavior"},
		{path + "/revoke", "", "", "revoked"},
	} {
		w.write(t, path, good)
		if err := c.Check(t.Context(), "prod", ""); err != nil {
			t.Fatal(err)
		}
		w.write(t, tc.path, map[string]any{"issuer_name": "breakglass-g1", tc.field: tc.value})
		wantError(t, c.Check(t.Context(), "prod", ""), tc.says)
	}
	if _, err := w.root.Logical().Delete(path); err != nil {
		t.Fatal(err)
	}
	wantError(t, c.Check(t.Context(), "prod", ""), "unable to find PKI issuer")
}

func TestAnIssuerThatEndsTooSoonStopsIssuing(t *testing.T) {
	w := scriptWorld(t, "--ca-ttl", "50m")
	c := w.open(t)
	wantError(t, c.Check(t.Context(), "prod", ""), "too short for a lifetime of 1h0m0s", "rotate")
	// What Check prevents: Vault refuses to sign beyond its CA, and says so before it signs.
	o := newOrder(t, "")
	o.TTL = time.Hour
	if _, err := c.Sign(t.Context(), o); !errors.Is(err, breakglass.ErrNotSigned) {
		t.Errorf("Sign: %v, want ErrNotSigned", err)
	}
	wantFound(t, c, o, 0)
}

func TestPolicyDriftStopsIssuing(t *testing.T) {
	w := newWorld(t)
	c := w.open(t)
	shipped, err := w.root.Sys().GetPolicy(w.cfg.Policy)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"another path":        shipped + "\npath \"" + w.mount.Path + "/sign-verbatim/*\" {\n  capabilities = [\"update\"]\n}\n",
		"another parameter":   strings.Replace(shipped, `"format" `, `"not_after" = []`+"\n    \"format\" ", 1),
		"any name":            strings.Replace(shipped, `["breakglass:*"]`, `[]`, 1),
		"any sign path":       strings.Replace(shipped, `/sign/breakglass"`, `/sign/+"`, 1),
		"more on a path":      strings.Replace(shipped, `["list"]`, `["list", "create"]`, 1),
		"less":                strings.Replace(shipped, `path "sys/capabilities-self"`, `path "sys/capabilities"`, 1),
		"behind a comment":    shipped + "\n# harmless\npath \"*\" { capabilities = [\"sudo\"] }\n",
		"no required fields":  strings.ReplaceAll(shipped, `required_parameters = ["csr", "common_name", "ttl"]`, ""),
		"odd role":            shipped + "\npath \"" + w.mount.Path + "/sign/breakglass-UPPER\" {\n  capabilities = [\"update\"]\n}\n",
		"an undocumented one": shipped + "\nname = \"x\"\n",
	} {
		if err := w.root.Sys().PutPolicy(w.cfg.Policy, text); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := c.Check(t.Context(), "prod", ""); err == nil || !strings.Contains(err.Error(), w.cfg.Policy) {
			t.Errorf("%s: Check says %v", name, err)
		}
		if !slices.ContainsFunc(c.Doctor(t.Context()), func(f checkup.Line) bool { return f.Level == checkup.Error }) {
			t.Errorf("%s: Doctor finds nothing", name)
		}
	}
	if err := w.root.Sys().PutPolicy(w.cfg.Policy, "# a comment of the operator\n"+shipped); err != nil {
		t.Fatal(err)
	}
	if err := c.Check(t.Context(), "prod", ""); err != nil {
		t.Errorf("with the shipped policy and a comment: %v", err)
	}
	if err := w.root.Sys().PutPolicy(w.cfg.Policy, ""); err == nil {
		wantError(t, c.Check(t.Context(), "prod", ""), "denied", "setup.sh")
	}
}

func TestATokenWithMoreThanOurPolicyStopsIssuing(t *testing.T) {
	w := sharedWorld(t)
	for name, policies := range map[string][]string{"default": {"default", w.cfg.Policy}, "root": {"root"}} {
		useFile, _ := tokenFile(t, w.token(t, map[string]any{"policies": policies, "no_default_policy": false}))
		if err := w.open(t, useFile).Check(t.Context(), "prod", ""); err == nil || !strings.Contains(err.Error(), "policies") {
			t.Errorf("%s: Check says %v", name, err)
		}
	}
}

func TestCheckNamesTheUnknown(t *testing.T) {
	w := newWorld(t)
	c := w.open(t)
	wantError(t, c.Check(t.Context(), "other", ""), `cluster "other"`)
	wantError(t, c.Check(t.Context(), "prod", "breakglass:nobody"), "denied", "roles/breakglass-nobody")
	wantError(t, c.Check(t.Context(), "prod", "system:masters"), "system:masters")
	if _, err := w.root.Logical().Delete(w.mount.Path + "/roles/breakglass"); err != nil {
		t.Fatal(err)
	}
	wantError(t, c.Check(t.Context(), "prod", ""), "roles/breakglass", "run deploy/vault/setup.sh")
}

func TestDoctorNamesTheProduct(t *testing.T) {
	w := sharedWorld(t)
	want := map[real.Component]string{real.VaultServer: "Vault 1.", real.OpenBaoServer: "OpenBao 2."}[shared.server]
	if f := w.open(t).Doctor(t.Context())[0]; f.Code != "vault-health" || f.Level != checkup.OK || !strings.HasPrefix(f.Text, want) {
		t.Errorf("the first finding is %+v, want one that says %s", f, want)
	}
}

func TestDoctorFindsEveryPlantedEvil(t *testing.T) {
	w := newWorld(t)
	c := w.open(t)
	for _, f := range c.Doctor(t.Context()) {
		// the Vault of this test is older than the fix of not_after
		if f.Level == checkup.Error || f.Level == checkup.Warn && f.Code != "vault-health" {
			t.Errorf("on a fresh set-up: %+v", f)
		}
	}
	w.write(t, w.mount.Path+"/roles/shadow", map[string]any{"allow_any_name": true})
	w.write(t, w.mount.Path+"/config/cluster", map[string]any{"path": w.vault.Addr + "/v1/" + w.mount.Path})
	w.write(t, w.mount.Path+"/config/acme", map[string]any{"enabled": true})
	w.write(t, w.mount.Path+"/config/auto-tidy", map[string]any{"enabled": true, "tidy_cert_store": true, "safety_buffer": "1h"})
	w.write(t, w.mount.Path+"/config/issuers", map[string]any{"default": w.mount.IssuerID, "default_follows_latest_issuer": true})
	w.write(t, w.mount.Path+"/roles/breakglass-cluster-admins", map[string]any{"allow_any_name": true})
	found := map[string]bool{}
	for _, f := range c.Doctor(t.Context()) {
		if f.Level != checkup.OK {
			found[f.Code] = true
		}
	}
	for _, code := range []string{"vault-roles", "vault-acme", "vault-tidy", "vault-default-issuer", "vault-drift"} {
		if !found[code] {
			t.Errorf("no finding %s; there are %v", code, found)
		}
	}
}

// The health of this Vault is told by a clock that is off; all else is the real one.
func TestClockThatIsOffStopsIssuing(t *testing.T) {
	w := sharedWorld(t)
	roots := x509.NewCertPool()
	text, err := os.ReadFile(w.cfg.CAFile)
	if err != nil || !roots.AppendCertsFromPEM(text) {
		t.Fatal("no CA of Vault", err)
	}
	to, err := url.Parse(w.vault.Addr)
	if err != nil {
		t.Fatal(err)
	}
	pass := httputil.NewSingleHostReverseProxy(to)
	pass.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	for _, tt := range []struct {
		ahead  time.Duration
		status int
		stops  bool
	}{{5 * time.Minute, 200, true}, {-5 * time.Minute, 200, true}, {20 * time.Second, 200, false}, {5 * time.Minute, 429, false}} {
		srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v1/sys/health" {
				pass.ServeHTTP(rw, r)
				return
			}
			rw.WriteHeader(tt.status)
			fmt.Fprintf(rw, `{"version":"1.21.8","server_time_utc":%d}`, time.Now().Add(tt.ahead).Unix())
		}))
		c := w.open(t, func(cfg *Config) { cfg.Address, cfg.CAFile = srv.URL, "" })
		err := c.Check(t.Context(), "prod", "")
		srv.Close()
		if tt.stops {
			wantError(t, err, "clock", "set both with NTP")
			continue
		}
		if err != nil {
			t.Errorf("%s ahead, status %d: %v", tt.ahead, tt.status, err)
		}
	}
}
