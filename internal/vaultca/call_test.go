package vaultca

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/breakglassd/breakglass/internal/real"
	"github.com/breakglassd/breakglass/internal/text/texttest"
	"github.com/breakglassd/breakglass/policies"
)

func TestWhenACertificateCannotExist(t *testing.T) {
	no := []string{"permission denied"}
	for _, tc := range []struct {
		err  error
		want fate
	}{
		{&callError{sent: false}, notNow},
		{fmt.Errorf("wrapped: %w", &callError{sent: false}), notNow},
		{&callError{sent: true}, unknown},
		{&callError{sent: true, status: 400, said: no}, never},
		{&callError{sent: true, status: 403, said: no}, never},
		{&callError{sent: true, status: 404, said: no}, never},
		{&callError{sent: true, status: 405, said: no}, never},
		{&callError{sent: true, status: 413, said: no}, never},
		{&callError{sent: true, status: 429, said: no}, notNow},
		{&callError{sent: true, status: 472, said: no}, notNow},
		{&callError{sent: true, status: 473, said: no}, notNow},
		{&callError{sent: true, status: 503, said: []string{"Vault is sealed"}}, notNow},
		{&callError{sent: true, status: 503, said: []string{"Vault is sealed", "x"}}, unknown},
		{&callError{sent: true, status: 503, said: no}, unknown},
		{&callError{sent: true, status: 403, vault: true}, unknown},
		{&callError{sent: true, status: 408, said: no}, unknown},
		{&callError{sent: true, status: 409, said: no}, unknown},
		{&callError{sent: true, status: 499, said: no}, unknown},
		{&callError{sent: true, status: 500, said: no}, unknown},
		{&callError{sent: true, status: 502, said: no}, unknown},
		{&callError{sent: true, status: 200, said: no}, unknown},
		{&callError{sent: true, status: 307, said: no}, unknown},
		{errors.New("anything else"), unknown},
	} {
		if got := outcome(tc.err); got != tc.want {
			t.Errorf("outcome(%+v) = %d, want %d", tc.err, got, tc.want)
		}
	}
}

func testCA(t testing.TB) *real.CA {
	t.Helper()
	ca, err := real.NewCA("ca")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func TestOddAnswersAreNotCertificates(t *testing.T) {
	ca := testCA(t)
	leaf, key, err := ca.Client("breakglass:alice:x")
	if err != nil {
		t.Fatal(err)
	}
	good := map[string]any{"certificate": string(leaf), "ca_chain": []any{string(ca.CertPEM)}}
	if s, err := parseSigned(&answer{Data: good}); err != nil || len(s.Chain) != 0 {
		t.Fatalf("a good answer: %v, chain of %d", err, len(s.Chain))
	}
	if s, err := parseSigned(&answer{Data: map[string]any{"certificate": string(leaf),
		"ca_chain": []any{string(leaf), string(ca.CertPEM)}}}); err != nil || len(s.Chain) != 1 {
		t.Errorf("with an intermediate: %v, chain of %d, want 1", err, len(s.Chain))
	}
	for name, a := range map[string]*answer{
		"warning":      {Data: good, Warnings: []string{"capped"}},
		"nothing":      {},
		"two":          {Data: map[string]any{"certificate": string(leaf) + string(leaf)}},
		"with its key": {Data: map[string]any{"certificate": string(leaf) + string(key)}},
		"after text":   {Data: map[string]any{"certificate": "hello\n" + string(leaf)}},
		"before text":  {Data: map[string]any{"certificate": string(leaf) + "bye"}},
		"headers": {Data: map[string]any{"certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE",
			Headers: map[string]string{"a": "b"}, Bytes: ca.Cert.Raw}))}},
		"a key": {Data: map[string]any{"certificate": string(key)}},
		"trailing DER": {Data: map[string]any{"certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE",
			Bytes: append(ca.Cert.Raw, 0)}))}},
		"no PEM":        {Data: map[string]any{"certificate": "x"}},
		"a number":      {Data: map[string]any{"certificate": json.Number("1")}},
		"odd chain":     {Data: map[string]any{"certificate": string(leaf), "ca_chain": []any{json.Number("1")}}},
		"doubled chain": {Data: map[string]any{"certificate": string(leaf), "ca_chain": []any{string(ca.CertPEM) + string(ca.CertPEM)}}},
	} {
		if _, err := parseSigned(a); err == nil {
			t.Errorf("%s: taken for a certificate", name)
		}
	}
}

func FuzzAnswersNeverPanicAndNeverHoldTwoCertificates(f *testing.F) {
	ca := testCA(f)
	leaf, _, err := ca.Client("breakglass:alice:x")
	if err != nil {
		f.Fatal(err)
	}
	text, err := json.Marshal(map[string]any{"data": map[string]any{"certificate": string(leaf), "ca_chain": []string{string(ca.CertPEM)}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	f.Add(`{"data":{"certificate":null,"ca_chain":{}},"warnings":null}`)
	f.Add(`{"data":[]}`)
	f.Add(``)
	f.Fuzz(func(t *testing.T, body string) {
		var a answer
		if decode(strings.NewReader(body), &a) != nil {
			return
		}
		s, err := parseSigned(&a)
		if err != nil {
			if s.Certificate != nil {
				t.Error("an error and a certificate")
			}
			return
		}
		if len(a.Warnings) > 0 || strings.Count(a.text("certificate"), "BEGIN CERTIFICATE") != 1 {
			t.Errorf("taken for one certificate: %q", body)
		}
	})
}

// A token that was broken up by what cannot be seen is a token.
func TestCleanedWordsPlayNoTricks(t *testing.T) {
	texttest.Tame(t, "Vault's words", strings.Join(clean([]string{texttest.Nasty}), ""))
	if got := clean([]string{"my to\u200bken is hvs.CAES\u2060IJ0000000000000000000000"}, "token"); !slices.Equal(got,
		[]string{"my [redacted] is [redacted]"}) {
		t.Errorf("got %q", got)
	}
}

func FuzzCleanedWordsAreShortAndPrintable(f *testing.F) {
	f.Add("1 error occurred:\n\t* permission denied\n\n", "secret")
	f.Add("\x1b[31mred\x00\u202e", "")
	f.Add("token hvs.CAESIJ0000000000000000000000 x", "hv")
	f.Fuzz(func(t *testing.T, said, secret string) {
		for _, s := range clean([]string{said}, secret) {
			if len([]rune(s)) > 301 || s == "" {
				t.Errorf("clean(%q) = %q", said, s)
			}
			for _, r := range s {
				if !unicode.IsPrint(r) {
					t.Errorf("clean(%q) keeps %U", said, r)
				}
			}
			if tokenLike.MatchString(s) {
				t.Errorf("clean(%q) keeps a token: %q", said, s)
			}
		}
	})
}

func FuzzPolicyDriftAcceptsOnlyWhatShipped(f *testing.F) {
	f.Add("", 0)
	f.Add(`path "*" { capabilities = ["sudo"] }`, 100)
	f.Add("\"", 500)
	f.Add("# \n", 900)
	w := &Mount{Path: "pki-x", Groups: []string{group}}
	shipped := mustPolicy(f, w)
	f.Fuzz(func(t *testing.T, insert string, at int) {
		at = max(0, min(at, len(shipped)))
		text := shipped[:at] + insert + shipped[at:]
		if v := policyDrift("breakglassd", text); len(v.foreign) > 0 {
			return
		}
		// Accepted: every line that is not a comment must be a line that ships, for some mount and group.
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "path ") && strings.Contains(line, "*") {
				t.Errorf("accepted %q", line)
			}
			if strings.Contains(line, "sudo") && !strings.HasPrefix(line, "#") {
				t.Errorf("accepted %q", line)
			}
		}
	})
}

// TestErrorsHoldNoSecretsAndNoBodies lets a server that is no Vault answer with everything it knows.
func TestErrorsHoldNoSecretsAndNoBodies(t *testing.T) {
	const token, secretID, body = "hvs.CANARYTOKENCANARYTOKEN", "11111111-canary-secret-id", "raw-canary-body"
	w := sharedWorld(t)
	file := filepath.Join(t.TempDir(), "secret-id")
	if err := os.WriteFile(file, []byte(secretID), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, reply := range []struct {
		status int
		text   string
	}{
		{403, `{"errors":["denied for ` + token + ` and ` + secretID + `"]}`},
		{400, `{"errors":["bad: ` + token + `", "\u001b[31m` + secretID + `"],"data":"` + body + `"}`},
		{500, body + token}, {502, "<html>" + body + secretID}, {200, body + token}, {200, `{"data":{"certificate":"` + token + body + `"}}`},
		{200, `{"warnings":["` + token + `"],"data":{}}`}, {404, `{"errors":[]}`}, {302, body},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Vault-Token") != "" || strings.HasSuffix(r.URL.Path, "/login") {
				rw.Header().Set("Location", "/"+token)
				rw.WriteHeader(reply.status)
			}
			fmt.Fprint(rw, reply.text)
		}))
		c := w.open(t, func(cfg *Config) { cfg.Address, cfg.CAFile, cfg.Auth.SecretIDFile = srv.URL, "", file })
		errs := []error{c.Check(t.Context(), "prod", "")}
		c.session.Store(newSession(token, time.Hour, time.Hour, true, time.Now()))
		errs = append(errs, c.Check(t.Context(), "prod", group))
		_, err := c.Find(t.Context(), "prod", "x")
		errs = append(errs, err)
		_, err = c.Issuer(t.Context(), "prod")
		errs = append(errs, err)
		c.issuers.Store(w.mount.IssuerID, testCA(t).Cert)
		_, err = c.Sign(t.Context(), newOrder(t, ""))
		errs = append(errs, err)
		_, err = c.Health(t.Context())
		errs = append(errs, err, c.upkeep(t.Context(), true))
		for _, f := range c.Doctor(t.Context()) {
			errs = append(errs, errors.New(f.Text))
		}
		for _, err := range errs {
			if err != nil && (strings.Contains(err.Error(), token) || strings.Contains(err.Error(), secretID) ||
				strings.Contains(err.Error(), body)) {
				t.Errorf("reply %d %q: the error holds a secret or the body: %v", reply.status, reply.text, err)
			}
		}
		noSecrets(t, w, token, secretID, body)
		srv.Close()
	}
}

func TestEveryHealthStatusHasASentence(t *testing.T) {
	for status, want := range map[int]struct {
		usable, standby bool
		says            string
	}{
		200: {true, false, ""}, 429: {true, true, ""}, 473: {true, true, ""},
		472: {false, false, "disaster-recovery"}, 474: {false, false, "lost its active node"}, 501: {false, false, "not initialised"},
		503: {false, false, "sealed"}, 530: {false, false, "removed"}, 418: {false, false, "unknown"},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.RawQuery != healthQuery().Encode() || r.Header.Get("X-Vault-Namespace") != "" {
				t.Errorf("asked %s with namespace %q", r.URL, r.Header.Get("X-Vault-Namespace"))
			}
			rw.WriteHeader(status)
			fmt.Fprintf(rw, `{"version":"1.21.8","server_time_utc":%d}`, time.Now().Unix())
		}))
		w := sharedWorld(t)
		c := w.open(t, func(cfg *Config) { cfg.Address, cfg.CAFile, cfg.Namespace = srv.URL, "", "team" })
		h, err := c.Health(t.Context())
		if (err == nil) != want.usable || h.Standby != want.standby || len(h.Warnings) != 0 {
			t.Errorf("status %d: %+v, error %v", status, h, err)
		}
		if err != nil && !strings.Contains(err.Error(), want.says) {
			t.Errorf("status %d: %v, want %q", status, err, want.says)
		}
		srv.Close()
	}
}

func TestHealthWarnsOfClocksVersionsAndTokens(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(rw, `{"version":"1.21.0","server_time_utc":%d}`, time.Now().Add(-time.Minute).Unix())
	}))
	defer srv.Close()
	w := sharedWorld(t)
	c := w.open(t, func(cfg *Config) { cfg.Address, cfg.CAFile = srv.URL, "" })
	c.session.Store(newSession("t", time.Hour, 10*time.Minute, true, time.Now()))
	h, err := c.Health(t.Context())
	if err != nil || len(h.Warnings) != 3 || h.TokenTTL < 9*time.Minute {
		t.Errorf("%+v, error %v; want three warnings", h, err)
	}
}

func TestVersionsThatKeepMaxTTL(t *testing.T) {
	for version, want := range map[string]bool{
		"1.18.9": false, "1.19.18": false, "1.19.19": true, "1.20.12": false, "1.20.13": true, "1.21.0": false, "1.21.7": false, "1.21.8": true,
		"1.21.8-rc1": false,
		"1.21.9-rc1": true, "1.21.8+ent": true, "1.21.7+ent.hsm": false, "2.0.2": false, "2.0.3": true, "2.1.0": true, "3.0.0": true,
		"1.22.0": true, "0.11.1": false,
		"": false, "x": false, "1": false, "1.21": false,
	} {
		if got := honoursMaxTTL(version); got != want {
			t.Errorf("honoursMaxTTL(%q) = %t, want %t", version, got, want)
		}
	}
}

func TestOpenNamesEveryMistake(t *testing.T) {
	w := sharedWorld(t)
	for name, tc := range map[string]struct {
		spoil func(*Config)
		says  string
	}{
		"plain http":    {func(c *Config) { c.Address = "http://vault.example.com:8200" }, "https"},
		"no address":    {func(c *Config) { c.Address = "" }, "address"},
		"with a path":   {func(c *Config) { c.Address += "/v1" }, "address"},
		"with a user":   {func(c *Config) { c.Address = "https://u:p@vault:8200" }, "address"},
		"no CA":         {func(c *Config) { c.CAFile = "" }, "CA file"},
		"CA not in PEM": {func(c *Config) { c.CAFile = c.Auth.SecretIDFile }, "no certificate"},
		"no method":     {func(c *Config) { c.Auth.Method = "" }, "unknown"},
		"no role id":    {func(c *Config) { c.Auth.RoleID = "" }, "role id"},
		"both":          {func(c *Config) { c.Auth.TokenFile = "x" }, "no token file"},
		"no token file": {func(c *Config) { c.Auth = Auth{Method: AuthTokenFile} }, "token file"},
		"issuer by name": {func(c *Config) {
			c.Mounts = []Mount{{Cluster: "a", Path: "pki", IssuerID: "default", MaxTTL: time.Hour}}
		}, "issuer id"},
		"mount with *": {func(c *Config) {
			c.Mounts = []Mount{{Cluster: "a", Path: "pki*", IssuerID: w.mount.IssuerID, MaxTTL: time.Hour}}
		}, "plain path"},
		"no lifetime": {func(c *Config) {
			c.Mounts = []Mount{{Cluster: "a", Path: "pki", IssuerID: w.mount.IssuerID, MaxTTL: 0}}
		}, "lifetime"},
		"foreign group": {func(c *Config) {
			c.Mounts = []Mount{{Cluster: "a", Path: "pki", IssuerID: w.mount.IssuerID, MaxTTL: time.Hour, Groups: []string{"system:masters"}}}
		}, "system:masters"},
		"next issuer by name": {func(c *Config) { c.Mounts[0].NextIssuerID = "breakglass-g2" }, "issuer id"},
		"next issuer twice":   {func(c *Config) { c.Mounts[0].NextIssuerID = c.Mounts[0].IssuerID }, "leave it out"},
		"canary group":        {func(c *Config) { c.Mounts[0].Groups = []string{"breakglass:canary"} }, "canary"},
		"twice":               {func(c *Config) { c.Mounts = append(c.Mounts, c.Mounts[0]) }, "exactly one mount"},
		"policy name":         {func(c *Config) { c.Policy = "A b" }, "policy name"},
	} {
		cfg := w.cfg
		cfg.Mounts = slices.Clone(cfg.Mounts)
		tc.spoil(&cfg)
		_, err := Open(context.Background(), cfg)
		if err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, want %q", name, err, tc.says)
		}
	}
}

func mustPolicy(t testing.TB, m *Mount) string {
	t.Helper()
	text, err := policies.VaultPolicy("breakglassd", []policies.VaultMount{{Path: m.Path, Groups: m.Groups}})
	if err != nil {
		t.Fatal(err)
	}
	return text
}
