package vaultca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/breakglass"
)

func TestSignsExactlyWhatWasOrdered(t *testing.T) {
	w := sharedWorld(t)
	useFile, _ := tokenFile(t, w.token(t, nil))
	for name, c := range map[string]*CA{"AppRole": w.open(t), "token file": w.open(t, useFile)} {
		for _, g := range []string{"", group} {
			t.Run(name+" "+g, func(t *testing.T) {
				o := newOrder(t, g)
				wantFound(t, c, o, 0)
				s := mustSign(t, c, o)
				if len(s.Chain) != 0 {
					t.Errorf("a chain of %d was sent for a certificate that a root signed", len(s.Chain))
				}
				wantFound(t, c, o, 1)
				wantFound(t, c, newOrder(t, g), 0)
			})
		}
	}
}

func TestManyCanSignAtOnce(t *testing.T) {
	w := sharedWorld(t)
	c := w.open(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				mustSign(t, c, newOrder(t, group))
			}
		})
	}
	wg.Wait()
	if n := strings.Count(w.log.String(), "logged in to Vault"); n != 1 {
		t.Errorf("%d logins for eight callers, want 1", n)
	}
}

func (w *world) signBody(t testing.TB, more map[string]any) map[string]any {
	body := map[string]any{"csr": csrPEM(newCSR(t)), "common_name": newOrder(t, "").CommonName, "ttl": "600"}
	for k, v := range more {
		body[k] = v
	}
	return body
}

func csrPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func TestStolenTokenCannotAddParameters(t *testing.T) {
	w := sharedWorld(t)
	c := w.open(t)
	s, err := c.token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	path := w.mount.Path + "/sign/breakglass"
	if status, text := w.http(t, s.token, "POST", path, w.signBody(t, nil)); status != 200 {
		t.Fatalf("the plain call is refused, so that this test proves nothing: %d %s", status, text)
	}
	far := time.Now().AddDate(10, 0, 0).UTC().Format(time.RFC3339)
	for name, value := range map[string]any{
		"not_after": far, "not_before": "2020-01-01T00:00:00Z", "not_before_duration": "8760h",
		"alt_names": "kubernetes.default", "ip_sans": "10.0.0.1", "uri_sans": "spiffe://x/y", "other_sans": "1.3.6.1.4.1.311.20.2.3;utf8:root",
		"user_ids": "root", "serial_number": "1234", "issuer_ref": "default",
		"key_usage": []string{"CertSign"}, "ext_key_usage": []string{"ServerAuth"}, "ext_key_usage_oids": "2.5.29.37.0",
		"remove_roots_from_chain": true, "use_pss": true, "signature_bits": 256, "policy_identifiers": "2.5.29.32.0", "use_csr_values": true,
		"cert_metadata":   "eA==",
		"max_path_length": 3, "is_ca": true, "private_key_format": "pkcs8", "organization": "system:masters", "max_ttl": "87600h",
		"unheard_of": "x",
	} {
		if status, text := w.http(t, s.token, "POST", path, w.signBody(t, map[string]any{name: value})); status != 403 {
			t.Errorf("%s: status %d, want 403: %s", name, status, text)
		}
	}
	for name, more := range map[string]map[string]any{
		"SAN from the name": {"exclude_cn_from_sans": false}, "other format": {"format": "pem_bundle"},
		"foreign name": {"common_name": "system:kube-controller-manager"}, "prefix elsewhere": {"common_name": "xbreakglass:a:b"},
		"admin": {"common_name": "admin"},
	} {
		if status, text := w.http(t, s.token, "POST", path, w.signBody(t, more)); status != 403 {
			t.Errorf("%s: status %d, want 403: %s", name, status, text)
		}
	}
	for _, missing := range []string{"csr", "common_name", "ttl"} {
		body := w.signBody(t, nil)
		delete(body, missing)
		if status, text := w.http(t, s.token, "POST", path, body); status != 403 {
			t.Errorf("without %s: status %d, want 403: %s", missing, status, text)
		}
	}
	// Parameters outside the JSON body.
	hr := map[string]func() (int, string){
		"query": func() (int, string) {
			return w.http(t, s.token, "POST", path+"?not_after="+url.QueryEscape(far), w.signBody(t, nil))
		},
		"form": func() (int, string) { return w.form(t, s.token, path, far) },
	}
	for name, call := range hr {
		if status, text := call(); status == 200 {
			if cert := certificateIn(t, text); cert.NotAfter.After(time.Now().Add(11 * time.Minute)) {
				t.Errorf("not_after in the %s: the certificate lives until %s", name, cert.NotAfter)
			}
		}
	}
}

func (w *world) form(t testing.TB, token, path, notAfter string) (int, string) {
	t.Helper()
	c, err := w.vault.ClientWithToken(token)
	if err != nil {
		t.Fatal(err)
	}
	b := w.signBody(t, nil)
	form := url.Values{"csr": {b["csr"].(string)}, "common_name": {b["common_name"].(string)}, "ttl": {"600"}, "not_after": {notAfter}}
	req, err := http.NewRequestWithContext(t.Context(), "POST", w.vault.Addr+"/v1/"+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", token)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := c.CloneConfig().HttpClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var sb strings.Builder
	buf := make([]byte, 64<<10)
	for {
		n, err := resp.Body.Read(buf)
		sb.Write(buf[:n])
		if err != nil {
			break
		}
	}
	return resp.StatusCode, sb.String()
}

func TestLifetimesAndKeysAreBoundedByTheRole(t *testing.T) {
	w := sharedWorld(t)
	s, err := w.open(t).token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	path := w.mount.Path + "/sign/breakglass"
	status, text := w.http(t, s.token, "POST", path, w.signBody(t, map[string]any{"ttl": "315360000"}))
	if status == 200 {
		if cert := certificateIn(t, text); cert.NotAfter.After(time.Now().Add(time.Hour + time.Minute)) {
			t.Errorf("a ttl of ten years was signed until %s", cert.NotAfter)
		}
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	if status, text := w.http(t, s.token, "POST", path, w.signBody(t, map[string]any{"csr": csrPEM(der)})); status != 400 {
		t.Errorf("an RSA key: status %d, want 400: %s", status, text)
	}
}

func TestHostileCSRsComeBackClean(t *testing.T) {
	w := sharedWorld(t)
	c := w.open(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ext := func(oid asn1.ObjectIdentifier, v any) pkix.Extension {
		der, err := asn1.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return pkix.Extension{Id: oid, Value: der, Critical: true}
	}
	u, _ := url.Parse("spiffe://cluster/root")
	masters := pkix.Name{CommonName: "system:kube-controller-manager", Organization: []string{"system:masters"},
		OrganizationalUnit: []string{"x"},
		ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57683, 2}, Value: "uid"},
			{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "second"}}}
	for name, tmpl := range map[string]*x509.CertificateRequest{
		"subject": {Subject: masters},
		// Its own: Vault leaves it out, and OpenBao refuses the CSR for it, whatever else is in there.
		"serial number": {Subject: pkix.Name{SerialNumber: "1"}},
		"names": {Subject: masters, DNSNames: []string{"kubernetes.default"}, EmailAddresses: []string{"a@b.c"},
			IPAddresses: []net.IP{{10, 0, 0, 1}}, URIs: []*url.URL{u}},
		"CA": {ExtraExtensions: []pkix.Extension{ext(asn1.ObjectIdentifier{2, 5, 29, 19}, struct{ CA bool }{true})}},
		"server usage": {ExtraExtensions: []pkix.Extension{ext(asn1.ObjectIdentifier{2, 5, 29, 37},
			[]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 1}})}},
		"unknown": {ExtraExtensions: []pkix.Extension{ext(asn1.ObjectIdentifier{1, 2, 3, 4}, "x")}},
	} {
		t.Run(name, func(t *testing.T) {
			der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
			if err != nil {
				t.Fatal(err)
			}
			o := newOrder(t, group)
			o.CSR = der
			asked := time.Now()
			s, err := c.Sign(t.Context(), o)
			if err != nil { // refused, or signed with a warning: either way nothing is delivered
				return
			}
			csr, err := x509.ParseCertificateRequest(der)
			if err != nil {
				t.Fatal(err)
			}
			if bad := breakglass.CheckCertificate(s, breakglass.Intent{CommonName: o.CommonName, Group: o.Group,
				SPKI: breakglass.SPKI(csr.RawSubjectPublicKeyInfo),
				TTL:  o.TTL, Issuer: s.Issuer, Now: time.Now(), Asked: asked}); len(bad) > 0 {
				t.Errorf("it came back with %q", bad)
			}
		})
	}
}

func TestStolenTokenReachesNothingElse(t *testing.T) {
	w := newWorld(t)
	s, err := w.open(t).token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Things that exist, so that a refusal is the policy's and not for want of a target.
	w.write(t, w.mount.Path+"/roles/other", map[string]any{"allow_any_name": true})
	w.write(t, w.mount.Path+"/issuer/"+w.mount.IssuerID, map[string]any{"issuer_name": "breakglass-g1"})
	paths := append(forbiddenPaths(w.mount.Path, w.mount.IssuerID), forbiddenEverywhere(w.cfg.Policy, "approle")...)
	paths = append(paths, w.mount.Path+"/issuer/breakglass-g1/sign/breakglass", w.mount.Path+"/issuer/default/sign-verbatim",
		"auth/approle/role/"+w.cfg.Policy, "auth/approle/role/"+w.cfg.Policy+"/secret-id")
	if len(paths) < 60 {
		t.Fatalf("only %d paths", len(paths))
	}
	// Vault answers these before it looks at any token: step-down does nothing without HA, and the others want key shares.
	tokenless := []string{"sys/step-down", "sys/rekey/init", "sys/generate-root/attempt"}
	for _, p := range paths {
		if slices.Contains(tokenless, p) {
			continue
		}
		status, text := w.http(t, s.token, "POST", p, w.signBody(t, map[string]any{"certificate": "x", "pem_bundle": "x", "serial_number": "00"}))
		if acme := strings.HasSuffix(p, "/acme/new-account"); status != 403 && !(acme && status == 404) { // ACME is off: there is no such path
			t.Errorf("POST %s: status %d, want 403: %s", p, status, text)
		}
	}
	for _, p := range []string{w.mount.Path + "/roles/breakglass", w.mount.Path + "/issuer/" + w.mount.IssuerID, "sys/policies/acl/" +
		w.cfg.Policy, w.mount.Path + "/config/acme",
		w.mount.Path + "/config/issuers", w.mount.Path + "/config/auto-tidy"} {
		for _, method := range []string{"POST", "PATCH", "DELETE"} {
			if status, text := w.http(t, s.token, method, p, map[string]any{"policy": ""}); status != 403 {
				t.Errorf("%s %s: status %d, want 403: %s", method, p, status, text)
			}
		}
	}
	for _, p := range []string{w.mount.Path + "/roles/other", w.mount.Path + "/keys", "sys/policies/acl/default", "sys/mounts",
		"auth/approle/role/" + w.cfg.Policy} {
		if status, text := w.http(t, s.token, "GET", p, nil); status != 403 {
			t.Errorf("GET %s: status %d, want 403: %s", p, status, text)
		}
	}
}

func TestTooLongLifetimeIsRefusedHereAndUnknownWhenVaultShortensIt(t *testing.T) {
	w := sharedWorld(t)
	o := newOrder(t, "")
	o.TTL = 90 * time.Minute
	if _, err := w.open(t).Sign(t.Context(), o); !errors.Is(err, breakglass.ErrNotSigned) {
		t.Errorf("over the configured maximum: %v, want ErrNotSigned", err)
	}
	c := w.open(t, func(cfg *Config) {
		m := w.mount
		m.MaxTTL = 2 * time.Hour // more than the role's
		cfg.Mounts = []Mount{m}
	})
	wantError(t, c.Check(t.Context(), "prod", ""), "max_ttl", "3600 instead of 7200", "setup.sh")
	_, err := c.Sign(t.Context(), o)
	wantError(t, err, "warning")
	if errors.Is(err, breakglass.ErrNotSigned) {
		t.Error("Vault signed a shortened lifetime, and Sign says that no certificate exists")
	}
	wantFound(t, c, o, 1)
}

func TestEveryLostAnswerIsUnknownAndFoundLater(t *testing.T) {
	t.Parallel()
	v := plainVault(t)
	w := worldIn(t, v)
	m := newMiddle(t, v)
	c := w.open(t, func(cfg *Config) { cfg.Address = m.addr })
	good := 0
	keep := func(rw http.ResponseWriter, text []byte) {
		good = len(text)
		// Said, or the next call would now and then be made on a connection that is already closed, and would not arrive.
		raw(rw, bytes.Replace(text, []byte("\r\n"), []byte("\r\nConnection: close\r\n"), 1), false)
	}
	m.answer.Store(&keep)
	mustSign(t, c, newOrder(t, ""))
	if good == 0 {
		t.Fatal("the middle saw no signing call")
	}
	step := 1
	if testing.Short() {
		step = 23
	}
	lost := map[string]bool{}
	for cut := 0; cut < good; cut += step {
		o := newOrder(t, "")
		f := func(rw http.ResponseWriter, text []byte) { raw(rw, text[:min(cut, len(text)-1)], cut%2 == 1) }
		m.answer.Store(&f)
		before := m.signs.Load()
		_, err := c.Sign(t.Context(), o)
		if err == nil || errors.Is(err, breakglass.ErrNotSigned) {
			t.Fatalf("answer cut after %d of %d bytes: error %v, want an unknown outcome", cut, good, err)
		}
		if n := m.signs.Load() - before; n != 1 {
			t.Fatalf("answer cut after %d bytes: %d signing calls, want 1", cut, n)
		}
		if cut%100 == 0 {
			wantFound(t, c, o, 1)
		}
		lost[o.CommonName] = true
	}
	n := len(lost)
	var mu sync.Mutex
	err := c.Scan(t.Context(), "prod", func(string) bool { return true }, func(cert *x509.Certificate) {
		mu.Lock()
		defer mu.Unlock()
		delete(lost, cert.Subject.CommonName)
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(lost) > 0 {
		t.Errorf("%d of %d certificates are not found: %v", len(lost), n, lost)
	}
	t.Logf("%d answers cut, %d signing calls, every certificate found", n, n)
}

func TestReplacedAnswerIsUnknownAndFoundLater(t *testing.T) {
	v := plainVault(t)
	w := worldIn(t, v)
	m := newMiddle(t, v)
	c := w.open(t, func(cfg *Config) { cfg.Address = m.addr })
	reply := func(status int, body string) func(http.ResponseWriter, []byte) {
		return func(rw http.ResponseWriter, _ []byte) {
			rw.Header().Set("Location", m.addr+"/v1/"+w.mount.Path+"/sign/breakglass")
			rw.WriteHeader(status)
			fmt.Fprint(rw, body)
		}
	}
	cases := map[string]func(http.ResponseWriter, []byte){
		"500":                  reply(500, `{"errors":["internal error"]}`),
		"502 page":             reply(502, "<html>bad gateway"),
		"503 page":             reply(503, "Service Unavailable"),
		"503 other words":      reply(503, `{"errors":["Vault is sealed","and more"]}`),
		"504":                  reply(504, ""),
		"400 page":             reply(400, "<html>bad request"),
		"403 page":             reply(403, "<html>blocked by policy"),
		"403 empty object":     reply(403, `{}`),
		"404 page":             reply(404, ""),
		"404 empty list":       reply(404, `{"errors":[]}`),
		"408":                  reply(408, `{"errors":["request timeout"]}`),
		"429 page":             reply(429, "slow down"),
		"499":                  reply(499, `{"errors":["client closed request"]}`),
		"redirect to the same": reply(307, ""),
		"redirect 301":         reply(301, ""),
		"nothing":              reply(200, ""),
		"no content":           reply(204, ""),
		"accepted":             reply(202, `{"data":{}}`),
		"empty object":         reply(200, `{}`),
		"a page":               reply(200, "<html>welcome"),
		"another kind":         reply(200, `{"data":{"certificate":5}}`),
		"no certificate":       reply(200, `{"data":{"certificate":"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}}`),
		"two answers": func(rw http.ResponseWriter, good []byte) {
			body := good[strings.Index(string(good), "\r\n\r\n")+4:]
			rw.Write(append(body, body...))
		},
		"connection closed":     func(http.ResponseWriter, []byte) { panic(http.ErrAbortHandler) },
		"an informational line": func(rw http.ResponseWriter, _ []byte) { raw(rw, []byte("HTTP/1.1 103 Early Hints\r\n\r\n"), false) },
		"not HTTP":              func(rw http.ResponseWriter, _ []byte) { raw(rw, []byte("220 mail.example.com ESMTP\r\n"), false) },
		"with a warning": func(rw http.ResponseWriter, good []byte) {
			body := string(good[strings.Index(string(good), "\r\n\r\n")+4:])
			fmt.Fprint(rw, strings.Replace(body, `"warnings":null`, `"warnings":["something"]`, 1))
		},
	}
	for name, f := range cases {
		t.Run(name, func(t *testing.T) {
			m.answer.Store(&f)
			before := m.signs.Load()
			o := newOrder(t, "")
			_, err := c.Sign(t.Context(), o)
			if err == nil || errors.Is(err, breakglass.ErrNotSigned) {
				t.Errorf("error %v, want an unknown outcome", err)
			}
			if n := m.signs.Load() - before; n != 1 {
				t.Errorf("%d signing calls, want 1", n)
			}
			wantFound(t, c, o, 1)
		})
	}
}

func TestRefusalsByVaultMeanThatNothingWasSigned(t *testing.T) {
	w := sharedWorld(t)
	c := w.open(t)
	for name, spoil := range map[string]func(*breakglass.Order){
		"foreign name":    func(o *breakglass.Order) { o.CommonName = "system:admin" },
		"no name":         func(o *breakglass.Order) { o.CommonName = "" },
		"broken CSR":      func(o *breakglass.Order) { o.CSR = []byte("x") },
		"unknown cluster": func(o *breakglass.Order) { o.Cluster = "other" },
		"unknown group":   func(o *breakglass.Order) { o.Group = "breakglass:nobody" },
		"odd group":       func(o *breakglass.Order) { o.Group = "system:masters" },
		"no lifetime":     func(o *breakglass.Order) { o.TTL = 0 },
		"half a second":   func(o *breakglass.Order) { o.TTL = 1500 * time.Millisecond },
	} {
		o := newOrder(t, "")
		spoil(&o)
		if _, err := c.Sign(t.Context(), o); !errors.Is(err, breakglass.ErrNotSigned) {
			t.Errorf("%s: %v, want ErrNotSigned", name, err)
		}
	}
	mustSign(t, c, newOrder(t, ""))
}
