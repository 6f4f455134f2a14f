package rotation_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/breakglassd/breakglass/internal/bgtest/realtest"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/real"
	"github.com/breakglassd/breakglass/internal/rotation"
)

// wants waits until the checks have every finding, and says with which severity. It is never OK.
func (mt *mount) wants(t *testing.T, want map[string]rotation.Severity, change ...func(*cluster.ObserveConfig)) rotation.Report {
	t.Helper()
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		r := mt.checker(t, change...).Check(t.Context())
		missing := ""
		for key, s := range want {
			if !slices.ContainsFunc(r.Verdicts, func(f rotation.Verdict) bool { return strings.HasPrefix(f.Key, key) && f.Severity == s }) {
				missing += " " + string(s) + " " + key
			}
		}
		if missing == "" {
			if r.OK {
				t.Errorf("it is OK:\n%s", text(t, r))
			}
			return r
		}
		if time.Now().After(deadline) {
			t.Fatalf("missing:%s\n%s", missing, text(t, r))
		}
	}
}

// TestHardCases is what goes wrong around a rotation, on real components: each is a clear finding, and never "all good".
func TestHardCases(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	mt := w.setUp(t, "pki-prod")
	own := mt.issuer(t, mt.m.IssuerID)
	w.setBundles(t, own)
	if r := mt.reaches(t, "at rest", rotation.NotStarted); len(r.Servers) != 2 || len(keys(r, rotation.Critical)) > 0 {
		t.Fatalf("at rest:\n%s", text(t, r))
	}
	t.Run("the keys and CAs of the table are found", func(t *testing.T) { testAuthorities(t, mt) })
	t.Run("Vault sealed", func(t *testing.T) { testSealed(t, mt) })
	t.Run("unreachable address", func(t *testing.T) { testUnreachable(t, mt) })
	t.Run("wrong serving certificate", func(t *testing.T) { testServing(t, mt) })
	t.Run("clock that is off", func(t *testing.T) { testClock(t, mt) })
	t.Run("credential without rights", func(t *testing.T) { testRights(t, mt) })
	t.Run("CAs shared with etcd and kubelets", func(t *testing.T) { testShared(t, mt) })
	t.Run("weak CAs in a bundle", func(t *testing.T) { testWeak(t, mt, own) })
	t.Run("another CA of the same name", func(t *testing.T) { testSameName(t, mt, own) })
	t.Run("imported cluster CA", func(t *testing.T) { testImported(t, w) })
	t.Run("intermediate below an external root", func(t *testing.T) { testIntermediate(t, w) })
	t.Run("request-header CA", func(t *testing.T) { testRequestHeader(t, mt, own) })
	t.Run("API server does not start without its bundle", func(t *testing.T) { testNoStart(t, w) })
}

func testAuthorities(t *testing.T, mt *mount) {
	people := filepath.Join(t.TempDir(), "people.kubeconfig")
	must(t, mt.w.servers[0].WriteKubeconfig(people, real.Credentials{Token: "x"}))
	r := mt.checker(t, func(c *cluster.ObserveConfig) {
		c.Kubeconfigs, c.EtcdCAFiles, c.KubeletCAFiles = []string{people}, []string{mt.w.vault.CACert}, []string{mt.w.servers[0].CACert}
	}).Check(t.Context())
	for _, kind := range []string{"break-glass", "client", "serving-ca", "serving", "service-account", "etcd", "kubelet"} {
		if !slices.ContainsFunc(r.Authorities, func(a rotation.Authority) bool {
			return a.Kind == kind && a.Generation != "" && a.Where != "" && a.Key != ""
		}) {
			t.Errorf("no %s in %+v", kind, r.Authorities)
		}
	}
	if !r.Complete {
		t.Errorf("not complete:\n%s", text(t, r))
	}
}

func testSealed(t *testing.T, mt *mount) {
	must(t, mt.w.vault.Seal(t.Context()))
	r := mt.wants(t, map[string]rotation.Severity{"unseen/vault": rotation.Warning, "unseen/phase": rotation.Warning})
	if r.Phase != rotation.PhaseUnknown || r.Complete || !strings.Contains(text(t, r), "Vault is sealed") {
		t.Errorf("%s, complete %t:\n%s", r.Phase, r.Complete, text(t, r))
	}
	mustRefuse(t, plan(r, ""), "the phase is not known", "sealed")
	must(t, mt.w.vault.Unseal(t.Context()))
	mt.reaches(t, "unsealed again", rotation.NotStarted)
}

func testUnreachable(t *testing.T, mt *mount) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	gone := l.Addr().String()
	l.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	must(t, err)
	defer silent.Close()
	for _, at := range []string{gone, silent.Addr().String()} {
		r := mt.wants(t, map[string]rotation.Severity{"unseen/server/" + at: rotation.Critical}, func(c *cluster.ObserveConfig) {
			c.Servers, c.Timeout = append(slices.Clone(c.Servers), at), time.Second
		})
		if r.Phase != rotation.PhaseUnknown || r.Complete || plan(r, "").Refused == "" {
			t.Errorf("%s: %s, complete %t", at, r.Phase, r.Complete)
		}
	}
}

func testServing(t *testing.T, mt *mount) {
	foreign, err := real.NewCA("another CA")
	must(t, err)
	for name, change := range map[string]func(*cluster.ObserveConfig){
		"from another CA":  func(c *cluster.ObserveConfig) { c.CA = foreign.CertPEM },
		"for another name": func(c *cluster.ObserveConfig) { c.ServerName = "kubernetes.example.com" },
	} {
		r := mt.wants(t, map[string]rotation.Severity{"unseen/serving/127": rotation.Critical}, change)
		if r.Phase != rotation.PhaseUnknown || r.Complete || plan(r, "").Refused == "" {
			t.Errorf("%s: %s, complete %t:\n%s", name, r.Phase, r.Complete, text(t, r))
		}
		for _, s := range r.Servers {
			if s.Trust["breakglass-g1"] != rotation.Unknown {
				t.Errorf("%s: %s is believed: %s", name, s.Address, s.Trust["breakglass-g1"])
			}
		}
	}
}

// testClock has an API server whose clock is two minutes behind: it lists our CA, and refuses what was signed just now.
func testClock(t *testing.T, mt *mount) {
	first := mt.w.servers[0]
	cert, key, err := first.ClusterCA.Server("late")
	must(t, err)
	pair, err := tls.X509KeyPair(cert, key)
	must(t, err)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Date", time.Now().Add(-2*time.Minute).UTC().Format(http.TimeFormat))
		rw.WriteHeader(http.StatusUnauthorized)
	}))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(mt.issuer(t, mt.m.IssuerID))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	defer s.Close()
	at := s.Listener.Addr().String()
	r := mt.wants(t, map[string]rotation.Severity{"clock/" + at: rotation.Critical, "unseen/active-trust/" + at: rotation.Warning},
		func(c *cluster.ObserveConfig) { c.Servers = append(slices.Clone(c.Servers), at) })
	if r.Phase != rotation.PhaseUnknown || slices.Contains(keys(r, rotation.Critical), "active-untrusted/"+at) {
		t.Errorf("a clock that is off is taken for a CA that is not trusted: %s\n%s", r.Phase, text(t, r))
	}
}

func testRights(t *testing.T, mt *mount) {
	without := func(c *cluster.ObserveConfig) {
		c.Rest = &rest.Config{Host: c.Rest.Host, TLSClientConfig: c.Rest.TLSClientConfig} // no user
	}
	r := mt.wants(t, map[string]rotation.Severity{"unseen/published": rotation.Warning, "unseen/root-ca": rotation.Warning,
		"unseen/jwks": rotation.Warning}, without)
	if r.Complete || !strings.Contains(text(t, r), "policies/kubernetes/") {
		t.Errorf("complete %t:\n%s", r.Complete, text(t, r))
	}
	mt.wants(t, map[string]rotation.Severity{"unseen/published": rotation.Warning}, func(c *cluster.ObserveConfig) { c.Rest = nil })
}

// testShared takes an API server for a kubelet: it lists our CA, as a kubelet would that trusts it.
func testShared(t *testing.T, mt *mount) {
	file := filepath.Join(t.TempDir(), "etcd-ca.crt")
	must(t, os.WriteFile(file, mt.issuer(t, mt.m.IssuerID), 0o600))
	kubelet := address(mt.w.servers[0])
	mt.wants(t, map[string]rotation.Severity{"shared/break-glass-etcd/breakglass-g1": rotation.Critical, "shared/kubelet/" +
		kubelet: rotation.Critical},
		func(c *cluster.ObserveConfig) { c.EtcdCAFiles, c.Kubelets = []string{file}, []string{kubelet} })
	mt.wants(t, map[string]rotation.Severity{"shared/client-etcd/": rotation.Critical},
		func(c *cluster.ObserveConfig) { c.EtcdCAFiles = []string{mt.w.servers[0].CACert} })
	mt.wants(t, map[string]rotation.Severity{"unseen/etcd/127.0.0.1:1": rotation.Warning, "unseen/file/": rotation.Warning},
		func(c *cluster.ObserveConfig) {
			c.Etcd, c.KubeletCAFiles = []string{"127.0.0.1:1"}, []string{filepath.Join(t.TempDir(), "nothing")}
		})
}

// weakCA is a CA of RSA-1024 that signed itself with SHA-1.
func weakCA(t *testing.T) []byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(5), Subject: pkix.Name{CommonName: "old corporate CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * day), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, SignatureAlgorithm: x509.SHA1WithRSA}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func testWeak(t *testing.T, mt *mount, own []byte) {
	mt.w.setBundles(t, own, weakCA(t))
	mt.wants(t, map[string]rotation.Severity{"key/client/": rotation.Critical, "hash/client/": rotation.Warning,
		"client-ca-unknown/": rotation.Warning})
	mt.w.setBundles(t, own)
	// It is out of every bundle, and the ConfigMap keeps it: residue, also of what is not ours.
	mt.wants(t, map[string]rotation.Severity{"residue/": rotation.Warning})
	mt.w.sh(t, "kubectl -n kube-system delete configmap extension-apiserver-authentication")
}

// testSameName puts a CA of the same name and another key into one bundle, in place of ours.
func testSameName(t *testing.T, mt *mount, own []byte) {
	block, _ := pem.Decode(own)
	ours, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	// Set-up gives each CA a subject of its own: this one is made by a forger.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	forged := &x509.Certificate{SerialNumber: big.NewInt(7), RawSubject: ours.RawSubject, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour),
		IsCA:     true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, forged, forged, key.Public(), key)
	must(t, err)
	second := mt.w.servers[1]
	must(t, second.SetClientCA(mt.w.bundle(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))))
	r := mt.wants(t, map[string]rotation.Severity{"name-only/" + address(second): rotation.Warning, "active-untrusted/" +
		address(second): rotation.Critical})
	if r.Servers[1].Trust["breakglass-g1"] != rotation.Refused || r.Servers[0].Trust["breakglass-g1"] != rotation.Trusted {
		t.Errorf("trust is %v and %v", r.Servers[0].Trust, r.Servers[1].Trust)
	}
	mt.w.setBundles(t, own)
	mt.w.sh(t, "kubectl -n kube-system delete configmap extension-apiserver-authentication")
}

func testImported(t *testing.T, w *world) {
	kubeadm := w.servers[0].ClusterCA
	key, err := x509.MarshalPKCS8PrivateKey(kubeadm.Key)
	must(t, err)
	write := func(path string, data map[string]any) map[string]any {
		s, err := w.root.Logical().Write(path, data)
		must(t, err)
		if s == nil {
			return nil
		}
		return s.Data
	}
	write("sys/mounts/pki-imported", map[string]any{"type": "pki", "config": map[string]any{"max_lease_ttl": "8760h"}})
	bundle := string(kubeadm.CertPEM) + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	ids := write("pki-imported/issuers/import/bundle", map[string]any{"pem_bundle": bundle})["imported_issuers"].([]any)
	mt := w.setUp(t, "pki-imported", "--issuer", ids[0].(string))
	r := mt.wants(t, map[string]rotation.Severity{"key-outside-vault/": rotation.Warning, "issuer-path/": rotation.Warning})
	if r.Phase != rotation.NotStarted || r.Servers[0].Trust[r.Generations[0].Name] != rotation.Trusted {
		t.Errorf("%s, trust %v:\n%s", r.Phase, r.Servers[0].Trust, text(t, r))
	}
	// The rotation away from it ends in Vault: in the bundles it stays, for the kubelets' sake.
	stays := func(p rotation.Plan) rotation.Plan {
		t.Helper()
		for _, s := range slices.Concat(p.Steps, p.Undo) {
			if strings.HasPrefix(s.What, "Take "+r.Generations[0].Name+" out of") {
				t.Errorf("at %s: %s", p.Phase, s.What)
			}
		}
		return p
	}
	mt.carryOut(t, stays(mustPlan(t, r, rotation.Prepared)).Steps)
	r = mt.reaches(t, "a CA that Vault made beside the imported one", rotation.Prepared)
	next, _ := r.Generation(rotation.PositionNext)
	mt.pins(t, mt.m.IssuerID, next.ID)
	r = mt.reaches(t, "the daemon pinned to both", rotation.Prepared)
	mt.carryOut(t, stays(mustPlan(t, r, rotation.TrustedOnAll)).Steps)
	r = mt.reaches(t, "the new CA in every bundle", rotation.TrustedOnAll)
	mt.carryOut(t, stays(mustPlan(t, r, rotation.Draining)).Steps)
	r = mt.reaches(t, "all roles moved from the cluster's own CA", rotation.Drained)
	mt.carryOut(t, withDaemon(stays(mustPlan(t, r, rotation.Closed)).Steps, false))
	mt.pins(t, next.ID, "")
	r = mt.reaches(t, "the cluster's own CA closed in Vault", rotation.Closed)
	if r.Generations[0].ClusterCA == "" || r.Generations[0].Position != rotation.PositionClosed ||
		r.Servers[0].Trust[r.Generations[0].Name] != rotation.Listed {
		t.Errorf("at the end it is %+v, trust %v", r.Generations[0], r.Servers[0].Trust)
	}
	for _, a := range w.servers {
		if bundle, err := os.ReadFile(a.ClientCAFile()); err != nil || !bytes.Contains(bundle, bytes.TrimSpace(kubeadm.CertPEM)) {
			t.Errorf("the cluster's own CA is not in the bundle of %s: %v", address(a), err)
		}
	}
}

func testIntermediate(t *testing.T, w *world) {
	root, err := real.NewCA("corporate root")
	must(t, err)
	write := func(path string, data map[string]any) map[string]any {
		s, err := w.root.Logical().Write(path, data)
		must(t, err)
		if s == nil {
			return nil
		}
		return s.Data
	}
	write("sys/mounts/pki-int", map[string]any{"type": "pki", "config": map[string]any{"max_lease_ttl": "8760h"}})
	block, _ := pem.Decode([]byte(write("pki-int/intermediate/generate/internal", map[string]any{"common_name": "breakglass-ca pki-int g1",
		"key_type": "ec"})["csr"].(string)))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	must(t, err)
	cert, err := root.Sign(&x509.Certificate{SerialNumber: big.NewInt(77), Subject: pkix.Name{CommonName: "breakglass-ca pki-int g1"},
		NotAfter: time.Now().Add(12 * time.Hour), IsCA: true,
		BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}, csr.PublicKey)
	must(t, err)
	mapping := write("pki-int/intermediate/set-signed", map[string]any{"certificate": string(cert) +
		string(root.CertPEM)})["mapping"].(map[string]any)
	id := ""
	for issuer, key := range mapping {
		if key != "" {
			id = issuer
		}
	}
	mt := w.setUp(t, "pki-int", "--issuer", id)
	w.setBundles(t, cert)
	r := mt.reaches(t, "the intermediate itself in the bundles", rotation.NotStarted)
	if len(r.Generations) != 1 || r.Servers[0].Trust[r.Generations[0].Name] != rotation.Trusted ||
		slices.ContainsFunc(keys(r, rotation.Critical), func(k string) bool { return strings.HasPrefix(k, "external-root") }) {
		t.Errorf("with the intermediate itself:\n%s", text(t, r))
	}
	if !slices.ContainsFunc(keys(r, rotation.Info), func(k string) bool { return strings.HasPrefix(k, "intermediate/") }) {
		t.Errorf("nothing says that it is an intermediate:\n%s", text(t, r))
	}
	w.setBundles(t, root.CertPEM)
	r = mt.wants(t, map[string]rotation.Severity{"external-root/" + address(w.servers[0]): rotation.Critical, "external-root/" +
		address(w.servers[1]): rotation.Critical})
	if r.Servers[0].Trust[r.Generations[0].Name] != rotation.Trusted {
		t.Errorf("through the root it is trusted, and the verdict is %v", r.Servers[0].Trust)
	}
}

// testRequestHeader starts another cluster whose request-header CA is ours. With any name allowed kube-apiserver refuses to start,
// as long as it is in the bundle too; with one name it starts, and the holder of that name from our CA could be any user.
func testRequestHeader(t *testing.T, mt *mount, own []byte) {
	etcd := realtest.NewEtcd(t)
	options := func(more ...string) real.APIServerOptions {
		return real.APIServerOptions{Dir: t.TempDir(), Etcd: etcd, ClientCAs: own, Files: map[string][]byte{"front.crt": own},
			Flags: append([]string{"--requestheader-client-ca-file=front.crt", "--requestheader-username-headers=X-Remote-User",
				"--requestheader-group-headers=X-Remote-Group"}, more...)}
	}
	bins := realtest.MustBuild(t, real.EtcdServer, real.KubeAPIServer)
	if a, err := bins.StartAPIServer(t.Context(), options()); err == nil || !strings.Contains(err.Error(), "overlapping certificates") {
		t.Errorf("with any name allowed: %v, want a refusal", err)
		if err == nil {
			a.Stop()
		}
	}
	bad := realtest.NewCluster(t, options("--requestheader-allowed-names=front-proxy-client"))
	mt.wants(t, map[string]rotation.Severity{"shared/request-header/breakglass-g1": rotation.Critical}, func(c *cluster.ObserveConfig) {
		c.Servers, c.Bundles, c.CA = []string{address(bad)}, nil, bad.ClusterCA.CertPEM
		c.Rest = &rest.Config{Host: bad.URL, BearerToken: bad.AdminToken, TLSClientConfig: rest.TLSClientConfig{CAFile: bad.CACert}}
	})
}

// testNoStart proves what the finding about a bundle file says.
func testNoStart(t *testing.T, w *world) {
	a := w.servers[1]
	bundle, err := os.ReadFile(a.ClientCAFile())
	must(t, err)
	for what, spoil := range map[string]func() error{"missing": func() error { return os.Remove(a.ClientCAFile()) },
		"empty": func() error { return os.WriteFile(a.ClientCAFile(), nil, 0o600) }} {
		must(t, spoil())
		a.Stop()
		if err := a.Start(t.Context()); err == nil {
			t.Errorf("it starts with a %s bundle", what)
		}
		must(t, os.WriteFile(a.ClientCAFile(), bundle, 0o600))
	}
	must(t, a.Start(t.Context()))
}
