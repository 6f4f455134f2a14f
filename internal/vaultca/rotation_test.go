package vaultca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/checkup"
	"github.com/breakglassd/breakglass/internal/rotation"
	"github.com/breakglassd/breakglass/policies"
)

// second makes another issuer on the world's mount as `breakglass ca plan` says, and returns its id.
func (w *world) second(t testing.TB, name string) string {
	t.Helper()
	s, err := w.root.Logical().Write(w.mount.Path+"/issuers/generate/root/internal",
		map[string]any{"common_name": "breakglass-ca " + name, "issuer_name": name, "key_type": "ec",
			"key_bits": 384, "max_path_length": 0, "exclude_cn_from_sans": true, "ttl": "8760h"})
	if err != nil {
		t.Fatal(err)
	}
	id := s.Data["issuer_id"].(string)
	w.write(t, w.mount.Path+"/issuer/"+id, map[string]any{"issuer_name": name, "leaf_not_after_behavior": "err",
		"usage": "read-only,issuing-certificates,crl-signing,ocsp-signing"})
	return id
}

// point makes the roles of the mount point to an issuer.
func (w *world) point(t testing.TB, id string) {
	t.Helper()
	for _, role := range []string{"breakglass", "breakglass-cluster-admins"} {
		w.patch(t, role, id)
	}
}

func (w *world) patch(t testing.TB, role, id string) {
	t.Helper()
	if _, err := w.root.Logical().JSONMergePatch(t.Context(), w.mount.Path+"/roles/"+role, map[string]any{"issuer_ref": id}); err != nil {
		t.Fatal(err)
	}
}

func (w *world) pinned(t testing.TB, issuer, next string) *CA {
	t.Helper()
	return w.open(t, func(c *Config) {
		m := w.mount
		m.IssuerID, m.NextIssuerID = issuer, next
		c.Mounts = []Mount{m}
	})
}

func TestBothPinnedIssuersMaySignAndNoOther(t *testing.T) {
	w := newWorld(t)
	g1 := w.mount.IssuerID
	g2, g3 := w.second(t, "breakglass-g2"), w.second(t, "breakglass-g3")
	both, first, turned := w.pinned(t, g1, g2), w.pinned(t, g1, ""), w.pinned(t, g2, g1)
	for _, tt := range []struct {
		role string
		good []*CA
		bad  []*CA
	}{{g1, []*CA{both, first, turned}, nil}, {g2, []*CA{both, turned}, []*CA{first}}, {g3, nil, []*CA{both, first, turned}}} {
		w.point(t, tt.role)
		for _, c := range tt.good {
			for _, g := range []string{"", group} {
				s := mustSign(t, c, newOrder(t, g)) // also compares what came back with the pinned issuer that it is said to be from
				issuer, err := x509.ParseCertificate(s.Issuer)
				if err != nil {
					t.Fatal(err)
				}
				want, err := c.issuer(t.Context(), w.mount, tt.role)
				if err != nil || !issuer.Equal(want) {
					t.Errorf("signed by %s, want %s (%v)", issuer.Subject, want.Subject, err)
				}
				if got, err := c.Issuer(t.Context(), "prod"); err != nil || !got.Equal(want) {
					t.Errorf("Issuer is not the one that signs: %v", err)
				}
			}
		}
		for _, c := range tt.bad {
			if err := c.Check(t.Context(), "prod", ""); err == nil || !strings.Contains(err.Error(), "role field issuer_ref is") {
				t.Errorf("role at %s: Check says %v", tt.role, err)
			}
			// What Check prevents: a certificate of a third issuer is not said to be from a pinned one.
			asked, o := time.Now(), newOrder(t, "")
			s, err := c.Sign(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			csr, err := x509.ParseCertificateRequest(o.CSR)
			if err != nil {
				t.Fatal(err)
			}
			bad := breakglass.CheckCertificate(s, breakglass.Intent{CommonName: o.CommonName, SPKI: breakglass.SPKI(csr.RawSubjectPublicKeyInfo),
				TTL: o.TTL, Issuer: s.Issuer, Now: time.Now(), Asked: asked})
			if !slices.ContainsFunc(bad, func(s string) bool { return strings.Contains(s, "not signed by the pinned issuer") }) {
				t.Errorf("a certificate of a foreign issuer is believed: %q", bad)
			}
		}
	}
	// What a scan asks for names each pinned issuer, in their order, and needs no credential.
	stranger := w.open(t, func(c *Config) {
		m := w.mount
		m.IssuerID, m.NextIssuerID = g1, g2
		c.Mounts, c.Auth.RoleID = []Mount{m}, "00000000-0000-0000-0000-000000000000"
	})
	if _, err := stranger.Issuer(t.Context(), "prod"); err == nil {
		t.Error("Issuer needs no credential")
	}
	for _, tt := range []struct {
		c    *CA
		want []string
	}{{both, []string{g1, g2}}, {turned, []string{g2, g1}}, {first, []string{g1}}, {stranger, []string{g1, g2}}} {
		got, err := tt.c.Issuers(t.Context(), "prod")
		if err != nil || len(got) != len(tt.want) {
			t.Fatalf("%d issuers (%v), want %d", len(got), err, len(tt.want))
		}
		for i, id := range tt.want {
			if want, err := both.issuer(t.Context(), w.mount, id); err != nil || !got[i].Equal(want) {
				t.Errorf("issuer %d is %s (%v), want that of %s", i+1, got[i].Subject, err, id)
			}
		}
	}
	if _, err := both.Issuers(t.Context(), "none"); err == nil {
		t.Error("a cluster without a mount has issuers")
	}
	if _, err := w.pinned(t, g1, "00000000-0000-0000-0000-000000000000").Issuers(t.Context(), "prod"); err == nil {
		t.Error("an issuer that is not there is left out")
	}
	// Names are not ids: whoever renames an issuer would choose.
	for _, ref := range []string{"default", "breakglass-g2"} {
		w.point(t, ref)
		if err := both.Check(t.Context(), "prod", ""); err == nil {
			t.Errorf("a role that points to %q is good", ref)
		}
	}
}

func TestDriftOfTheIssuerThatSignsStopsIssuingAndOfTheOtherDoesNot(t *testing.T) {
	w := newWorld(t)
	g1, g2 := w.mount.IssuerID, w.second(t, "breakglass-g2")
	c := w.pinned(t, g1, g2)
	closed := map[string]any{"issuer_name": "breakglass-g1", "usage": "read-only,crl-signing", "leaf_not_after_behavior": "err"}
	w.point(t, g2)
	w.write(t, w.mount.Path+"/issuer/"+g1, closed)
	mustSign(t, c, newOrder(t, ""))
	closed["issuer_name"] = "breakglass-g2"
	w.write(t, w.mount.Path+"/issuer/"+g2, closed)
	wantError(t, c.Check(t.Context(), "prod", ""), "may not issue")
	closed["usage"] = "read-only,issuing-certificates,crl-signing,ocsp-signing"
	w.write(t, w.mount.Path+"/issuer/"+g2, closed)
	// The old one is deleted: the daemon that still names it goes on, also one that has just started.
	if _, err := w.root.Logical().Delete(w.mount.Path + "/issuer/" + g1); err != nil {
		t.Fatal(err)
	}
	mustSign(t, c, newOrder(t, ""))
	mustSign(t, w.pinned(t, g1, g2), newOrder(t, ""))
	mustSign(t, w.pinned(t, g2, g1), newOrder(t, ""))
	w.point(t, g1)
	wantError(t, w.pinned(t, g1, g2).Check(t.Context(), "prod", ""), "unable to find PKI issuer")
}

func newCanary(t testing.TB, issuer string) rotation.Canary {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return rotation.Canary{Cluster: "prod", CommonName: rotation.CanaryName("prod", rand.Text()), Issuer: issuer, SPKI: breakglass.SPKI(spki),
		CSR: csr, TTL: rotation.CanaryTTL}
}

func TestCanaryIsSignedByTheIssuerThatItNames(t *testing.T) {
	w := newWorld(t)
	g2 := w.second(t, "breakglass-g2")
	c := w.open(t)
	for _, id := range []string{w.mount.IssuerID, g2} { // the second is not even pinned: it must be proven before it signs for people
		s, err := c.SignCanary(t.Context(), newCanary(t, id))
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(s.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		issuer, err := c.issuer(t.Context(), w.mount, id)
		if err != nil {
			t.Fatal(err)
		}
		if err := leaf.CheckSignatureFrom(issuer); err != nil || len(leaf.Subject.Organization) > 0 ||
			leaf.NotAfter.After(time.Now().Add(time.Minute+time.Second)) {
			t.Errorf("%v; organizations %q, until %s", err, leaf.Subject.Organization, leaf.NotAfter)
		}
	}
	for name, change := range map[string]func(*rotation.Canary){
		"a person's name":  func(o *rotation.Canary) { o.CommonName = "breakglass:alice:bg-000001" },
		"a longer life":    func(o *rotation.Canary) { o.TTL = time.Hour },
		"another cluster":  func(o *rotation.Canary) { o.Cluster = "other" },
		"no such issuer":   func(o *rotation.Canary) { o.Issuer = "00000000-0000-0000-0000-000000000000" },
		"another's key":    func(o *rotation.Canary) { o.SPKI = strings.Repeat("0", 64) },
		"something else":   func(o *rotation.Canary) { o.CommonName = "breakglass-canary" },
		"Kubernetes' name": func(o *rotation.Canary) { o.CommonName = "system:masters" },
	} {
		o := newCanary(t, g2)
		change(&o)
		_, err := c.SignCanary(t.Context(), o)
		if signed := name == "another's key"; err == nil || errors.Is(err, breakglass.ErrNotSigned) == signed {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCanaryRoleThatIsNotWhatShippedSignsNothing(t *testing.T) {
	w := newWorld(t)
	c := w.open(t)
	text, err := policies.VaultCanary(w.mount.IssuerID)
	if err != nil {
		t.Fatal(err)
	}
	shipped := map[string]any{}
	if err := decode(strings.NewReader(string(text)), &shipped); err != nil {
		t.Fatal(err)
	}
	got, err := w.root.Logical().Read(w.mount.Path + "/roles/" + policies.VaultCanaryRole)
	if err != nil {
		t.Fatal(err)
	}
	if bad, unknown, err := fieldDrift(got.Data, text); err != nil || len(bad)+len(unknown) > 0 {
		t.Errorf("setup.sh made a role that differs: %q, %q, %v", bad, unknown, err)
	}
	for field, value := range map[string]any{"organization": []string{"system:masters"}, "allowed_domains": []string{"*"},
		"max_ttl": json.Number("3600"), "allow_any_name": true, "use_csr_common_name": true,
		"server_flag": true, "no_store": true, "issuer_ref": "default"} {
		changed := maps.Clone(shipped)
		changed[field] = value
		w.write(t, w.mount.Path+"/roles/"+policies.VaultCanaryRole, changed)
		_, err := c.SignCanary(t.Context(), newCanary(t, w.mount.IssuerID))
		if !errors.Is(err, breakglass.ErrNotSigned) || !strings.Contains(err.Error(), "role field "+field+" is") {
			t.Errorf("%s changed: %v", field, err)
		}
		if !slices.ContainsFunc(c.Doctor(t.Context()), func(f checkup.Line) bool {
			return f.Level == checkup.Error && f.Subject == w.mount.Path+"/roles/"+policies.VaultCanaryRole
		}) {
			t.Errorf("%s changed: Doctor finds nothing", field)
		}
	}
	w.write(t, w.mount.Path+"/roles/"+policies.VaultCanaryRole, shipped)
	if _, err := c.SignCanary(t.Context(), newCanary(t, w.mount.IssuerID)); err != nil {
		t.Errorf("after putting everything back: %v", err)
	}
	if _, err := w.root.Logical().Delete(w.mount.Path + "/roles/" + policies.VaultCanaryRole); err != nil {
		t.Fatal(err)
	}
	_, err = c.SignCanary(t.Context(), newCanary(t, w.mount.IssuerID))
	wantError(t, err, "run deploy/vault/setup.sh")
	mustSign(t, c, newOrder(t, "")) // people need no canary
}

// The token of a thief can make canaries, which are worth nothing, with every issuer of the mount, and nothing else with an issuer
// of his choice.
func TestStolenTokenCanChooseTheIssuerOfACanaryOnly(t *testing.T) {
	w := newWorld(t)
	c := w.open(t)
	s, err := c.token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	path := w.mount.Path + "/issuer/" + w.mount.IssuerID + "/sign/" + policies.VaultCanaryRole
	body := func(more map[string]any) map[string]any {
		b := w.signBody(t, map[string]any{"common_name": rotation.CanaryName("prod", rand.Text()), "ttl": "60"})
		maps.Copy(b, more)
		return b
	}
	if status, text := w.http(t, s.token, "POST", path, body(nil)); status != 200 {
		t.Fatalf("the plain call is refused, so that this test proves nothing: %d %s", status, text)
	}
	for name, more := range map[string]map[string]any{
		"person": {"common_name": "breakglass:alice:bg-000001"}, "Kubernetes": {"common_name": "system:masters"},
		"prefix elsewhere": {"common_name": "xbreakglass-canary:a"},
		"not_after":        {"not_after": "2099-01-01T00:00:00Z"}, "alt_names": {"alt_names": "kubernetes.default"},
		"issuer_ref": {"issuer_ref": "default"}, "user_ids": {"user_ids": "root"},
	} {
		if status, text := w.http(t, s.token, "POST", path, body(more)); status != 403 {
			t.Errorf("%s: status %d, want 403: %s", name, status, text)
		}
	}
	status, text := w.http(t, s.token, "POST", path, body(map[string]any{"ttl": "86400"}))
	if status != 200 || certificateIn(t, text).NotAfter.After(time.Now().Add(61*time.Second)) {
		t.Errorf("a day was asked for: status %d, %s", status, text)
	}
	for _, p := range []string{"sign/" + policies.VaultCanaryRole, "issue/" + policies.VaultCanaryRole, "issuer/default/sign/breakglass",
		"issuer/" + w.mount.IssuerID + "/sign/breakglass-cluster-admins",
		"issuer/default/issue/" + policies.VaultCanaryRole, "issuer/default/sign-verbatim/" + policies.VaultCanaryRole,
		"issuer/a/b/sign/" + policies.VaultCanaryRole} {
		if status, text := w.http(t, s.token, "POST", w.mount.Path+"/"+p, body(nil)); status != 403 {
			t.Errorf("%s: status %d, want 403: %s", p, status, text)
		}
	}
	for _, method := range []string{"POST", "PATCH", "DELETE"} {
		if status, text := w.http(t, s.token, method, w.mount.Path+"/roles/"+policies.VaultCanaryRole,
			map[string]any{"max_ttl": 3600}); status != 403 {
			t.Errorf("%s of the role: status %d, want 403: %s", method, status, text)
		}
	}
}

func TestObserveVaultSeesWhatThereIsAndSaysWhatItDoesNot(t *testing.T) {
	w := newWorld(t)
	g1, g2 := w.mount.IssuerID, w.second(t, "breakglass-g2")
	v := w.pinned(t, g1, g2).ObserveVault(t.Context(), "prod")
	if len(v.Issuers) != 2 || len(v.Unseen) > 0 || v.Default != g1 || v.FollowsLatest || !v.ReadyToSign || v.Skew != 0 || len(v.Roles) != 3 ||
		!slices.Equal(v.Pinned, []string{g1, g2}) {
		t.Errorf("%+v", v)
	}
	for _, r := range v.Roles {
		if r.Issuer != g1 {
			t.Errorf("role %s at %s", r.Name, r.Issuer)
		}
	}
	for _, i := range v.Issuers {
		if i.KeyID == "" || !slices.Contains(i.Usage, "issuing-certificates") || i.LeafNotAfter != "err" || len(i.Chain) > 0 ||
			!strings.HasPrefix(i.Name, "breakglass-g") {
			t.Errorf("%+v", i)
		}
	}
	w.point(t, g2)
	if v := w.open(t).ObserveVault(t.Context(), "prod"); v.ReadyToSign || !strings.Contains(v.NotReadyReason, "issuer_ref") {
		t.Errorf("a role that points elsewhere: %+v", v)
	}
	if v := w.open(t).ObserveVault(t.Context(), "other"); len(v.Unseen) != 1 || v.ReadyToSign {
		t.Errorf("an unknown cluster: %+v", v)
	}
	if err := w.root.Sys().PutPolicy(w.cfg.Policy, `path "auth/token/lookup-self" { capabilities = ["read"] }`); err != nil {
		t.Fatal(err)
	}
	v = w.open(t).ObserveVault(t.Context(), "prod")
	if len(v.Unseen) == 0 || v.ReadyToSign || len(v.Roles) > 0 {
		t.Errorf("without rights: %+v", v)
	}
	r := rotation.Judge(rotation.Observation{Cluster: "prod", At: time.Now(), Vault: v}, rotation.Thresholds{}, time.Now())
	if r.OK || r.Complete {
		t.Errorf("without rights it is OK %t, complete %t", r.OK, r.Complete)
	}
}
