package cluster_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/real"
	"github.com/breakglassd/breakglass/internal/rotation"
)

// answering is a TLS server that takes client certificates of ca, answers as handle says, and an observer of it.
func answering(t *testing.T, ca *real.CA, handle http.HandlerFunc, change ...func(*cluster.ObserveConfig)) (*cluster.Observer, string) {
	t.Helper()
	s := httptest.NewUnstartedServer(handle)
	pool := x509.NewCertPool()
	pool.AddCert(ca.Cert)
	s.TLS = &tls.Config{ClientCAs: pool, ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	at := s.Listener.Addr().String()
	cfg := cluster.ObserveConfig{Cluster: "c1", Servers: []string{at},
		CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), Timeout: 20 * time.Second}
	for _, f := range change {
		f(&cfg)
	}
	o, err := cluster.NewObserver(cfg)
	must(t, err)
	return o, at
}

func TestObserverNamesEveryMistake(t *testing.T) {
	ca, err := real.NewCA("servers")
	must(t, err)
	good := cluster.ObserveConfig{Cluster: "c1", Servers: []string{"10.0.0.1:6443"}, CA: ca.CertPEM}
	if _, err := cluster.NewObserver(good); err != nil {
		t.Fatal(err)
	}
	for says, spoil := range map[string]func(*cluster.ObserveConfig){
		"name the address":       func(c *cluster.ObserveConfig) { c.Servers = nil },
		`"10.0.0.1" must be`:     func(c *cluster.ObserveConfig) { c.Servers = []string{"10.0.0.1"} },
		`":10250" must be`:       func(c *cluster.ObserveConfig) { c.Kubelets = []string{":10250"} },
		"no PEM certificate":     func(c *cluster.ObserveConfig) { c.CA = []byte("x") },
		"not the address of an ": func(c *cluster.ObserveConfig) { c.Bundles = map[string]string{"10.0.0.2:6443": "x"} },
	} {
		cfg := good
		spoil(&cfg)
		_, err := cluster.NewObserver(cfg)
		mustSay(t, err, says, "cluster c1")
	}
}

func TestOnlyTheCanarysOwnNameAndFingerprintIsAcceptance(t *testing.T) {
	ca, err := real.NewCA("break-glass CA")
	must(t, err)
	const name = "breakglass-canary:c1:abc"
	cert, key, err := ca.Client(name)
	must(t, err)
	pair, err := tls.X509KeyPair(cert, key)
	must(t, err)
	print := "X509SHA256=" + breakglass.Fingerprint(pair.Certificate[0])
	review := func(user, id string) string {
		extra := ""
		if id != "" {
			extra = fmt.Sprintf(`,"extra":{"authentication.kubernetes.io/credential-id":[%q]}`, id)
		}
		return fmt.Sprintf(`{"kind":"SelfSubjectReview","status":{"userInfo":{"username":%q%s}}}`, user, extra)
	}
	for what, tt := range map[string]struct {
		status int
		body   string
		want   rotation.Outcome
	}{
		"its own":                     {201, review(name, print), rotation.OutcomeAccepted},
		"another fingerprint":         {201, review(name, "X509SHA256=00"), rotation.OutcomeOther},
		"no fingerprint":              {201, review(name, ""), rotation.OutcomeUnproven},
		"anonymous":                   {201, review("system:anonymous", ""), rotation.OutcomeOther},
		"somebody else's certificate": {201, review("alice", print), rotation.OutcomeOther},
		"401":                         {401, `{"kind":"Status","code":401}`, rotation.OutcomeRefused},
		"403 for it": {403, `{"kind":"Status","message":"User \"` + name + `\" cannot create resource"}`,
			rotation.OutcomeUnproven},
		"403 for somebody":  {403, `{"kind":"Status","message":"User \"system:anonymous\" cannot"}`, rotation.OutcomeOther},
		"500":               {500, "", rotation.OutcomeUnreached},
		"a redirect":        {307, "", rotation.OutcomeUnreached},
		"a page of a proxy": {200, "<html>", rotation.OutcomeUnreached},
	} {
		var shown []byte
		o, at := answering(t, ca, func(w http.ResponseWriter, r *http.Request) {
			if len(r.TLS.PeerCertificates) > 0 {
				shown = r.TLS.PeerCertificates[0].Raw
			}
			if r.Method != http.MethodPost || r.URL.Path != "/apis/authentication.k8s.io/v1/selfsubjectreviews" {
				t.Errorf("%s: asked for %s %s", what, r.Method, r.URL.Path)
			}
			w.Header().Set("Location", "https://elsewhere.example/")
			w.WriteHeader(tt.status)
			fmt.Fprint(w, tt.body)
		})
		g := o.Greet(t.Context(), at, pair, name)
		if g.Outcome != tt.want || (g.Why == "") != (tt.want == rotation.OutcomeAccepted || tt.want == rotation.OutcomeRefused) {
			t.Errorf("%s: %s %q, want %s", what, g.Outcome, g.Why, tt.want)
		}
		if string(shown) != string(pair.Certificate[0]) {
			t.Errorf("%s: the canary was not shown", what)
		}
	}
}

// A canary of a CA that the server does not list is shown all the same: only then is a refusal a proof.
func TestCanaryIsShownWhateverTheServerLists(t *testing.T) {
	ours, err := real.NewCA("ours")
	must(t, err)
	theirs, err := real.NewCA("theirs")
	must(t, err)
	cert, key, err := ours.Client("breakglass-canary:c1:abc")
	must(t, err)
	pair, err := tls.X509KeyPair(cert, key)
	must(t, err)
	shown := false
	o, at := answering(t, theirs, func(w http.ResponseWriter, r *http.Request) {
		shown = len(r.TLS.PeerCertificates) == 1
		w.WriteHeader(401)
	})
	if g := o.Greet(t.Context(), at, pair, "breakglass-canary:c1:abc"); g.Outcome != rotation.OutcomeRefused || !shown {
		t.Errorf("%+v, shown %t", g, shown)
	}
	// A server that is not the API server is not shown it, and its refusal counts for nothing.
	shown = false
	o, at = answering(t, theirs, func(w http.ResponseWriter, r *http.Request) { shown = true; w.WriteHeader(401) },
		func(c *cluster.ObserveConfig) { c.CA = ours.CertPEM })
	if g := o.Greet(t.Context(), at, pair, "breakglass-canary:c1:abc"); g.Outcome != rotation.OutcomeUnreached || shown {
		t.Errorf("a foreign server: %+v, shown %t", g, shown)
	}
	if s := o.View(t.Context()).Servers[0]; s.Wrong == "" || s.Skew != nil || len(s.Handshakes) != 2 {
		t.Errorf("a foreign server: %+v", s)
	}
}

func TestHandshakesTellBothVersionsTheNamesAndTheClock(t *testing.T) {
	ca, err := real.NewCA("ours")
	must(t, err)
	for ahead, want := range map[time.Duration]time.Duration{0: 0, -500 * time.Millisecond: 0, 5 * time.Minute: 5 * time.Minute,
		-5 * time.Minute: -5 * time.Minute} {
		o, _ := answering(t, ca, func(w http.ResponseWriter, r *http.Request) {
			if len(r.TLS.PeerCertificates) > 0 || r.Header.Get("Authorization") != "" {
				t.Error("a credential is shown where none is needed")
			}
			w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
		})
		s := o.View(t.Context()).Servers[0]
		if s.Error != "" || s.Wrong != "" || s.Skew == nil || (*s.Skew-want).Abs() > 10*time.Second || want == 0 && *s.Skew != 0 {
			t.Errorf("a clock %s ahead: %+v", ahead, s)
		}
		for i, version := range []string{"1.2", "1.3"} {
			h := s.Handshakes[i]
			if h.Version != version || h.Error != "" || len(h.Names) != 1 || string(h.Names[0]) != string(ca.Cert.RawSubject) {
				t.Errorf("TLS %s: %+v", version, h)
			}
		}
	}
	o, _ := answering(t, ca, func(w http.ResponseWriter, _ *http.Request) { w.Header()["Date"] = nil })
	if s := o.View(t.Context()).Servers[0]; s.Skew != nil {
		t.Errorf("a server without a clock is %s ahead", *s.Skew)
	}
}

func TestDeclaredBundlesAreReadAsAnAPIServerReadsThem(t *testing.T) {
	ca, err := real.NewCA("ours")
	must(t, err)
	file := filepath.Join(t.TempDir(), "bundle.crt")
	broken := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})
	for what, tt := range map[string]struct {
		text   []byte
		cas    int
		broken string
	}{
		"missing":             {nil, 0, "no such file"},
		"empty":               {[]byte{}, 0, "no certificate"},
		"words":               {[]byte("see the wiki"), 0, "no certificate"},
		"a key only":          {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}), 0, "no certificate"},
		"one":                 {ca.CertPEM, 1, ""},
		"two with words":      {[]byte("# ours\n" + string(ca.CertPEM) + "\n# again\n" + string(ca.CertPEM)), 2, ""},
		"one and a broken":    {slices.Concat(ca.CertPEM, broken), 0, "certificate 2 in it cannot be parsed"},
		"longer than allowed": {[]byte(strings.Repeat(" ", 5<<20)), 0, "longer than"},
	} {
		_ = os.Remove(file)
		if tt.text != nil {
			must(t, os.WriteFile(file, tt.text, 0o600))
		}
		o, _ := answering(t, ca, func(http.ResponseWriter, *http.Request) {},
			func(c *cluster.ObserveConfig) { c.Bundles = map[string]string{"": file} })
		d := o.View(t.Context()).Servers[0].Declared
		if d == nil || len(d.CAs) != tt.cas || (d.Broken == "") != (tt.broken == "") || !strings.Contains(d.Broken, tt.broken) {
			t.Errorf("%s: %+v", what, d)
		}
	}
}

// What is published and cannot be read is not empty: an old CA that is in there must not count as gone.
func TestAPublishedCAThatCannotBeReadIsNotMissing(t *testing.T) {
	ca, err := real.NewCA("ours")
	must(t, err)
	good, broken := string(ca.CertPEM), string(ca.CertPEM)+string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}))
	for what, tt := range map[string]struct {
		data   map[string]string
		unseen string // empty: all of it is seen
	}{
		"all": {map[string]string{"client-ca-file": good, "requestheader-client-ca-file": good,
			"requestheader-allowed-names": `["front"]`}, ""},
		"no request header":  {map[string]string{"client-ca-file": good}, ""},
		"a broken client CA": {map[string]string{"client-ca-file": broken}, "published/client-ca-file"},
		"words":              {map[string]string{"client-ca-file": "see the wiki"}, "published/client-ca-file"},
		"a broken request header": {map[string]string{"client-ca-file": good, "requestheader-client-ca-file": broken},
			"published/requestheader-client-ca-file"},
		"broken names": {map[string]string{"client-ca-file": good, "requestheader-client-ca-file": good,
			"requestheader-allowed-names": "front"}, "published/allowed-names"},
	} {
		o, _ := answering(t, ca, func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, "/extension-apiserver-authentication") {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			if err := json.NewEncoder(w).Encode(map[string]any{"data": tt.data}); err != nil {
				t.Error(err)
			}
		}, func(c *cluster.ObserveConfig) {
			c.Rest = &rest.Config{Host: "https://" + c.Servers[0], TLSClientConfig: rest.TLSClientConfig{CAData: c.CA}}
		})
		v := o.View(t.Context())
		if (v.Published != nil) != (tt.unseen == "") || v.Published != nil && len(v.Published.ClientCAs) != 1 {
			t.Errorf("%s: published %+v", what, v.Published)
		}
		if tt.unseen != "" && !slices.ContainsFunc(v.Unseen, func(u rotation.Unseen) bool { return u.Key == tt.unseen }) {
			t.Errorf("%s: unseen %+v, want %s", what, v.Unseen, tt.unseen)
		}
	}
}

// The requests of the CSR API tell whose key signs: one certificate for each signer and key, over several pages, and nothing of what
// is not signed. Without the right to list them nothing is known, and that is said.
func TestSignersOfTheCSRAPIAreSeen(t *testing.T) {
	ca, err := real.NewCA("ours")
	must(t, err)
	other, err := real.NewCA("ours") // the same name, another key
	must(t, err)
	signed := func(by *real.CA) string {
		text, _, err := by.Client("system:node:n1", "system:nodes")
		must(t, err)
		return base64.StdEncoding.EncodeToString(text)
	}
	request := func(signer, certificate string) string {
		return fmt.Sprintf(`{"spec":{"signerName":%q},"status":{"certificate":%q}}`, signer, certificate)
	}
	pages := map[string]string{
		"": `{"metadata":{"continue":"p2"},"items":[` + request("s/a", signed(ca)) + "," + request("s/a",
			signed(ca)) + `,{"spec":{"signerName":"s/pending"},"status":{}}]}`,
		"p2": `{"metadata":{},"items":[` + request("s/a", signed(other)) + "," + request("s/b", signed(ca)) + `]}`,
	}
	for _, tt := range []struct {
		status int
		want   []string
	}{{http.StatusOK, []string{"s/a", "s/a", "s/b"}}, {http.StatusForbidden, nil}, {http.StatusNotFound, nil},
		{http.StatusInternalServerError, nil}} {
		o, _ := answering(t, ca, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/apis/certificates.k8s.io/v1/certificatesigningrequests" {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			w.WriteHeader(tt.status)
			if _, err := w.Write([]byte(pages[r.URL.Query().Get("continue")])); err != nil {
				t.Error(err)
			}
		}, func(c *cluster.ObserveConfig) {
			c.Rest = &rest.Config{Host: "https://" + c.Servers[0], TLSClientConfig: rest.TLSClientConfig{CAData: c.CA}}
		})
		v := o.View(t.Context())
		var got []string
		for _, s := range v.Signers {
			got = append(got, s.Name)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("status %d: signers %q, want %q", tt.status, got, tt.want)
		}
		if told := slices.Contains(v.NotConfigured, rotation.NotConfiguredSigners); told != (tt.status == http.StatusForbidden) {
			t.Errorf("status %d: told that the daemon may not list them: %v", tt.status, told)
		}
		if unseen := slices.ContainsFunc(v.Unseen,
			func(u rotation.Unseen) bool { return u.Key == "csr-signers" }); unseen != (tt.status == http.StatusInternalServerError) {
			t.Errorf("status %d: unseen %v", tt.status, unseen)
		}
	}
}
