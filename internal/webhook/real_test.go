package webhook_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/bgtest/realtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/real"
	"github.com/breakglassd/breakglass/internal/webhook"
)

const secret = "a-token-of-the-api-servers-of-c1"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// policy is the kit's, with profiles of group mode: one that every guard holds, and one with the guard escalate alone.
func pol() string {
	profile := func(id, guards string) string {
		return `  - id: ` + id + `
    clusters: [c1]
    bind: {group: "breakglass:cluster-admins"}
    ttl: {default: 10m, max: 1h}
    requesters: [sre]
    approvals: {count: 2, from: [sre, security]}
    reason: {min: 10}
    risk: high
    guards: [` + guards + `]
`
	}
	return bgtest.Policy() + profile("guarded", "all") + profile("unescalated", "escalate")
}

// daemon is our side: the real handler on a real ledger behind a TLS listener that can go away and come back.
type daemon struct {
	sys    *bgtest.System
	ca     *real.CA // signs the listener's certificate, the API servers' and, as another authority of the cluster, people's
	addr   string
	tls    *tls.Config
	h      http.Handler
	server *http.Server

	mu      sync.Mutex
	batches [][]byte // of audit events, as they came; the first is turned away
}

// Take is an intake that cannot take more the first time.
func (d *daemon) Take(_ context.Context, cluster string, body []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if cluster != "c1" {
		return errGarbage
	}
	d.batches = append(d.batches, body)
	if len(d.batches) == 1 {
		return errFull
	}
	return nil
}

func newDaemon(t *testing.T) *daemon {
	t.Helper()
	d := &daemon{sys: bgtest.New(t, bgtest.Options{Policy: pol()})}
	var err error
	d.ca, err = real.NewCA("another CA of the cluster")
	must(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(d.ca.Cert)
	d.h, err = webhook.New(webhook.Config{Clusters: []webhook.Cluster{{ID: "c1", Tokens: []webhook.Secret{secret},
		ClientNames: []string{"kube-apiserver-c1"},
		ClientCAs:   pool}},
		Lookup: d.sys.Service, Find: d.sys.Service.Findings.Find, Log: slog.New(slog.DiscardHandler), Intake: d, Overloaded: errFull,
		Garbage: errGarbage})
	must(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	cert, err := d.ca.Sign(&x509.Certificate{Subject: pkix.Name{CommonName: "breakglassd"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, key.Public())
	must(t, err)
	pair, err := tls.X509KeyPair(cert, keyPEM(t, key))
	must(t, err)
	d.tls = webhook.TLSConfig(func() (*tls.Certificate, error) { return &pair, nil }, pool, true)
	d.addr, err = real.FreeAddress() // one that stays free while the daemon is down
	must(t, err)
	d.up(t)
	t.Cleanup(d.down)
	return d
}

// up serves, at the same address as before.
func (d *daemon) up(t *testing.T) {
	t.Helper()
	if d.server != nil {
		d.down()
	}
	l, err := net.Listen("tcp", d.addr)
	must(t, err)
	d.server = &http.Server{Handler: d.h, TLSConfig: d.tls.Clone(), ReadHeaderTimeout: 5 * time.Second}
	go d.server.ServeTLS(l, "", "") // it ends with down
}

func (d *daemon) down() { d.server.Close() }

func keyPEM(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// change replaces exactly one text of a shipped file, so that a test of a file that has changed says so.
func change(t testing.TB, file []byte, from, to string) []byte {
	t.Helper()
	if n := bytes.Count(file, []byte(from)); n != 1 {
		t.Fatalf("the shipped file has %q %d times, want once", from, n)
	}
	return bytes.Replace(file, []byte(from), []byte(to), 1)
}

func shipped(t testing.TB, name string) []byte {
	t.Helper()
	file, err := os.ReadFile(filepath.Join("../../deploy/kube-apiserver", name))
	must(t, err)
	return file
}

const installed = "/etc/kubernetes/breakglass/"

// apiServer starts a real API server with a shipped authorization configuration, which edit may change, and signs it in to us by
// token or by certificate. With a token it sends its audit events as well.
func (d *daemon) apiServer(t *testing.T, o real.APIServerOptions, config string, mtls bool, edit func([]byte) []byte) *real.APIServer {
	t.Helper()
	o.Dir = t.TempDir()
	o.ClientCAs = append(d.sys.CA.PEM(), d.ca.CertPEM...)
	in := func(name string) string { return filepath.Join(o.Dir, name) }
	authz := change(t, shipped(t, config), "kubeConfigFile: "+installed+"authorization-webhook.kubeconfig", "kubeConfigFile: "+
		in("webhook.kubeconfig"))
	if edit != nil {
		authz = edit(authz)
	}
	kubeconfig := change(t, shipped(t, "authorization-webhook.kubeconfig"), "https://breakglass.example.com:8444/authorize/prod-eu-1",
		"https://"+d.addr+"/authorize/c1")
	kubeconfig = change(t, kubeconfig, installed+"breakglassd-ca.crt", in("breakglassd-ca.crt"))
	o.Files = map[string][]byte{"authz.yaml": authz, "breakglassd-ca.crt": d.ca.CertPEM}
	o.Flags = []string{"--authorization-config=authz.yaml"}
	if mtls {
		cert, key, err := d.ca.Client("kube-apiserver-c1")
		must(t, err)
		o.Files["client.crt"], o.Files["client.key"] = cert, key
		kubeconfig = change(t, kubeconfig, "      tokenFile: "+installed+"webhook-token\n", "")
		kubeconfig = change(t, kubeconfig, "# client-certificate: "+installed+"webhook-client.crt", "client-certificate: "+in("client.crt"))
		kubeconfig = change(t, kubeconfig, "# client-key: "+installed+"webhook-client.key", "client-key: "+in("client.key"))
	} else {
		o.Files["token"] = []byte(secret)
		kubeconfig = change(t, kubeconfig, installed+"webhook-token", in("token"))
		audit := change(t, shipped(t, "audit-webhook.kubeconfig"), "https://breakglass.example.com:8444/audit/prod-eu-1", "https://"+d.addr+
			"/audit/c1")
		audit = change(t, audit, installed+"breakglassd-ca.crt", in("breakglassd-ca.crt"))
		o.Files["audit.kubeconfig"] = change(t, audit, installed+"webhook-token", in("token"))
		o.Files["audit-policy.yaml"] = shipped(t, "audit-policy.yaml")
		o.Flags = append(o.Flags, "--audit-policy-file=audit-policy.yaml", "--audit-webhook-config-file=audit.kubeconfig",
			"--audit-webhook-batch-max-wait=1s", "--audit-webhook-initial-backoff=1s")
	}
	o.Files["webhook.kubeconfig"] = kubeconfig
	return realtest.NewCluster(t, o)
}

// person is somebody with a client certificate.
type person struct {
	cert, key []byte // PEM
	request   string // the grant's id
}

// grant goes the whole way to a certificate.
func (d *daemon) grant(t *testing.T, who, profile string) person {
	t.Helper()
	r := d.sys.Grant(who, profile)
	key, csr := bgtest.NewCSR()
	got, err := d.sys.Claim(who, r.ID, csr)
	must(t, err)
	return person{cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: got.Certificate}), key: keyPEM(t, key), request: r.ID}
}

func (d *daemon) stranger(t *testing.T, name string, groups ...string) person {
	t.Helper()
	cert, key, err := d.ca.Client(name, groups...)
	must(t, err)
	return person{cert: cert, key: key}
}

func (d *daemon) revoke(t *testing.T, p person) {
	t.Helper()
	_, err := d.sys.Service.Revoke(t.Context(), bgtest.ByKey("carol"), p.request, "it is over, thank you")
	must(t, err)
}

// call makes one request of an API server and returns the status and the body.
func (p person) call(t *testing.T, a *real.APIServer, path string, headers ...http.Header) (int, string) {
	t.Helper()
	pair, err := tls.X509KeyPair(p.cert, p.key)
	must(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(a.ClusterCA.Cert)
	tr := &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool}}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.URL+path, nil)
	must(t, err)
	for _, h := range headers {
		req.Header = h
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(body)
}

const (
	pods  = "/api/v1/namespaces/default/pods"
	nodes = "/api/v1/nodes"
)

// wantCall waits until the answer is as wanted: RBAC and the caches of the API server take a moment.
func (p person) wantCall(t *testing.T, a *real.APIServer, path string, want int, says string) time.Duration {
	t.Helper()
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		code, body := p.call(t, a, path)
		if code == want && strings.Contains(body, says) {
			return time.Since(start)
		}
		if time.Since(start) > 90*time.Second {
			t.Fatalf("GET %s: got %d %s, want %d saying %q", path, code, body, want, says)
		}
	}
}

func (p person) kubectl(t *testing.T, a *real.APIServer, args ...string) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, a.WriteKubeconfig(path, real.Credentials{CertPEM: p.cert, KeyPEM: p.key}))
	out, stderr, err := realtest.MustBuild(t, real.KubeCtl).Kubectl(t.Context(), path, args...)
	return out + stderr, err
}

func TestRealAPIServer(t *testing.T) {
	d := newDaemon(t)
	first := d.apiServer(t, real.APIServerOptions{Etcd: realtest.NewEtcd(t)}, "authorization-config.deny.yaml", false, nil)
	for _, args := range [][]string{
		{"create", "clusterrolebinding", "break-glass", "--clusterrole=cluster-admin", "--group=breakglass:cluster-admins"},
		{"create", "clusterrole", "viewer", "--verb=get,list", "--resource=pods"}, // nobody fills in the aggregated role view here
		{"create", "clusterrolebinding", "viewers", "--clusterrole=viewer", "--user=vera"},
		{"-n", "default", "create", "serviceaccount", "robot"},
	} {
		realtest.MustKubectl(t, first.AdminKubeconfig(), args...)
	}
	vera := d.stranger(t, "vera")
	vera.wantCall(t, first, pods, http.StatusOK, "")
	t.Run("a revoked certificate of group mode is refused", func(t *testing.T) { testRevocation(t, d, first, "token") })
	t.Run("audit events come, also those that we turned away at first", func(t *testing.T) { testAudit(t, d, first) })
	t.Run("guards over the whole API", func(t *testing.T) { testGolden(t, first) })
	t.Run("guards hold", func(t *testing.T) { testGuards(t, d, first) })
	t.Run("guard escalate alone keeps nobody who holds everything from binding", func(t *testing.T) { testEscalate(t, d, first) })
	t.Run("unknown certificates under our names", func(t *testing.T) { testUnknown(t, d, first) })
	t.Run("system:masters is never asked about", func(t *testing.T) { testMasters(t, d, first) })
	t.Run("reviews without groups", func(t *testing.T) { testHas(t, d, first) })
	t.Run("our outage with failurePolicy Deny", func(t *testing.T) {
		alice := d.grant(t, "alice", "group")
		alice.wantCall(t, first, nodes, http.StatusOK, "")
		d.down()
		defer d.up(t) // also when this fails: others follow
		for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
			code, body := alice.call(t, first, nodes)
			if code == http.StatusForbidden || code == http.StatusInternalServerError {
				t.Logf("while we are down, ours get %d", code)
				break
			}
			if time.Since(start) > time.Minute {
				t.Fatalf("got %d %s while we are down, want a refusal", code, body)
			}
		}
		if code, body := vera.call(t, first, pods); code != http.StatusOK {
			t.Errorf("vera, who is not ours: got %d %s, want 200", code, body)
		}
		d.up(t)
		alice.wantCall(t, first, nodes, http.StatusOK, "")
		d.revoke(t, alice)
	})
	t.Run("failurePolicy NoOpinion, signed in with a certificate", func(t *testing.T) {
		a := d.apiServer(t, real.APIServerOptions{ReplicaOf: first}, "authorization-config.noopinion.yaml", true, nil)
		testRevocation(t, d, a, "mTLS")
		revoked, active := d.grant(t, "alice", "group"), d.grant(t, "dave", "guarded")
		revoked.wantCall(t, a, nodes, http.StatusOK, "")
		d.revoke(t, revoked)
		revoked.wantCall(t, a, nodes, http.StatusForbidden, "was revoked")
		active.wantCall(t, a, "/api/v1/secrets", http.StatusForbidden, "guard")
		d.down()
		defer d.up(t) // also when this fails: others follow
		// The price of this policy, shown: revocation and guards do not hold while we are away.
		revoked.wantCall(t, a, nodes, http.StatusOK, "")
		active.wantCall(t, a, "/api/v1/secrets", http.StatusOK, "")
		vera.wantCall(t, a, pods, http.StatusOK, "")
		d.up(t)
		revoked.wantCall(t, a, nodes, http.StatusForbidden, "was revoked")
		d.revoke(t, active)
	})
	t.Run("the default cache times delay a revocation", func(t *testing.T) {
		a := d.apiServer(t, real.APIServerOptions{ReplicaOf: first}, "authorization-config.deny.yaml", false, func(f []byte) []byte {
			f = change(t, f, "authorizedTTL: 1s\n      un", "authorizedTTL: 5m\n      un")
			return change(t, f, "unauthorizedTTL: 1s", "unauthorizedTTL: 30s")
		})
		alice := d.grant(t, "alice", "group")
		alice.wantCall(t, a, nodes, http.StatusOK, "")
		d.revoke(t, alice)
		// No wall clock is asserted but the one thing that the cache promises: right after it nothing has changed.
		if code, _ := alice.call(t, a, nodes); code != http.StatusOK {
			t.Errorf("got %d right after a revocation, want 200 out of the cache", code)
		}
		t.Logf("with 5m and 30s a revocation took %s", alice.wantCall(t, a, nodes, http.StatusForbidden,
			"was revoked").Round(10*time.Millisecond))
	})
}

func testRevocation(t *testing.T, d *daemon, a *real.APIServer, how string) {
	alice := d.grant(t, "alice", "group")
	alice.wantCall(t, a, nodes, http.StatusOK, "")
	d.revoke(t, alice)
	took := alice.wantCall(t, a, nodes, http.StatusForbidden, "breakglass: certificate of "+alice.request+" was revoked")
	t.Logf("%s: refused %s after Revoke returned", how, took.Round(time.Millisecond))
}

func testAudit(t *testing.T, d *daemon, a *real.APIServer) {
	alice := d.grant(t, "alice", "group")
	alice.wantCall(t, a, nodes, http.StatusOK, "")
	block, _ := pem.Decode(alice.cert)
	used := `"X509SHA256=` + breakglass.Fingerprint(block.Bytes) + `"`
	came := func() (turnedAwayCameAgain, usedCame bool) {
		d.mu.Lock()
		defer d.mu.Unlock()
		for i, body := range d.batches {
			turnedAwayCameAgain = turnedAwayCameAgain || i > 0 && bytes.Equal(body, d.batches[0])
			usedCame = usedCame || bytes.Contains(body, []byte(used))
		}
		return turnedAwayCameAgain, usedCame
	}
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		again, seen := came()
		if again && seen {
			break
		}
		if time.Since(start) > time.Minute {
			t.Fatalf("got the batch that was turned away again: %v, alice's certificate in a batch: %v; want both", again, seen)
		}
	}
	d.revoke(t, alice)
}

func testGuards(t *testing.T, d *daemon, a *real.APIServer) {
	alice := d.grant(t, "alice", "guarded")
	alice.wantCall(t, a, pods, http.StatusOK, "")
	for _, tc := range []struct{ guard, args string }{
		{"tokens", "-n default create token robot"},
		{"rbac", "create clusterrolebinding back-door --clusterrole=cluster-admin --user=mallory"},
		{"rbac", "create clusterrole door --verb=get --resource=pods"},
		{"rbac", "-n kube-system create configmap aws-auth --from-literal=mapUsers=mallory"},
		{"rbac", "-n kube-system patch configmap extension-apiserver-authentication -p {}"},
		{"secrets", "-n default get secrets"},
		{"workloads", "-n default create deployment x --image=x"},
		{"workloads", "-n default run x --image=x"},
		{"exec", "get --raw /api/v1/namespaces/default/pods/x/exec?command=sh"},
		{"exec", "get --raw /api/v1/nodes/x/proxy/pods"},
		{"exec", "get --raw /api/v1/namespaces/default/services/x/proxy/"},
	} {
		out, err := alice.kubectl(t, a, strings.Fields(tc.args)...)
		if err == nil || !strings.Contains(out, "guard "+tc.guard) {
			t.Errorf("kubectl %s: got %v %s, want it refused by guard %s", tc.args, err, out, tc.guard)
		}
	}
	// kubectl does not show the reason of these, but the answer has it.
	for _, header := range []http.Header{
		{"Impersonate-User": {"someone"}},
		{"Impersonate-User": {"root"}, "Impersonate-Group": {"system:masters"}},
		{"Impersonate-User": {"system:serviceaccount:default:robot"}},
	} {
		if code, body := alice.call(t, a, pods, header); code != http.StatusForbidden || !strings.Contains(body, "guard impersonate") {
			t.Errorf("%v: got %d %s, want 403 by guard impersonate", header, code, body)
		}
	}
	for args, want := range map[string]string{
		"get pods": "yes", "get nodes": "yes", "delete namespaces": "yes",
		"create serviceaccounts --subresource=token": "no", "get pods --subresource=exec": "no", "bind clusterroles": "no",
		"escalate clusterroles": "no", "impersonate users": "no",
		"create certificatesigningrequests": "no", "update validatingwebhookconfigurations": "no",
		"patch nodes": "no", "* *": "no", "get *": "no",
	} {
		out, _ := alice.kubectl(t, a, append([]string{"auth", "can-i"}, strings.Fields(args)...)...)
		if !strings.HasPrefix(lastLine(out, want), want) {
			t.Errorf("kubectl auth can-i %s: got %q, want %q", args, out, want)
		}
	}
	if out, err := alice.kubectl(t, a, "create", "namespace", "dry", "--dry-run=server"); err != nil {
		t.Errorf("what no guard refuses: got %v %s, want it done", err, out)
	}
	if out, err := alice.kubectl(t, a, "-n", "default", "create", "secret", "generic", "dry", "--dry-run=server"); err == nil ||
		!strings.Contains(out, "guard") {
		t.Errorf("a dry run of what a guard refuses: got %v %s, want it refused", err, out)
	}
	d.revoke(t, alice)
}

// lastLine finds the answer of can-i behind its warnings, and in front of its reason.
func lastLine(out, want string) string {
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); line == want || strings.HasPrefix(line, want+" ") {
			return line
		}
	}
	return out
}

func testEscalate(t *testing.T, d *daemon, a *real.APIServer) {
	// The limit, shown: Kubernetes asks about bind and escalate only where somebody gives what they do not hold.
	alice := d.grant(t, "alice", "unescalated")
	alice.wantCall(t, a, nodes, http.StatusOK, "")
	if out, err := alice.kubectl(t, a, "create", "clusterrolebinding", "back-door", "--clusterrole=cluster-admin", "--user=mallory",
		"--dry-run=server"); err != nil {
		t.Errorf("a binding by who holds cluster-admin, with the guard escalate alone: got %v %s, want it made: DENY-WEBHOOK.md says so", err,
			out)
	}
	d.revoke(t, alice)
}

func testUnknown(t *testing.T, d *daemon, a *real.APIServer) {
	eve := d.stranger(t, "breakglass:alice:bg-0000-000", "breakglass:cluster-admins")
	eve.wantCall(t, a, nodes, http.StatusForbidden, "breakglass: certificate is not known to the ledger")
	block, _ := pem.Decode(eve.cert)
	key := finding.ShadowKey("c1", breakglass.Fingerprint(block.Bytes))
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		open := d.sys.Service.Findings.Open()
		if len(open) == 1 && open[0].Key == key && open[0].Severity == finding.Critical {
			break
		}
		if time.Since(start) > 30*time.Second {
			t.Fatalf("got findings %+v, want the critical %s alone", open, key)
		}
	}
	mallory := d.stranger(t, "mallory", "breakglass:cluster-admins")
	mallory.wantCall(t, a, nodes, http.StatusForbidden, "group breakglass:cluster-admins is not given to this user")
}

func testMasters(t *testing.T, d *daemon, a *real.APIServer) {
	// The limit, shown: with this group no authorizer is asked, so that even an unknown certificate under our name gets in.
	root := d.stranger(t, "breakglass:alice:bg-0000-000", "system:masters")
	if code, body := root.call(t, a, nodes); code != http.StatusOK {
		t.Errorf("got %d %s for system:masters, want 200: DENY-WEBHOOK.md says so", code, body)
	}
}

func testHas(t *testing.T, d *daemon, first *real.APIServer) {
	ask := func(a *real.APIServer, user string) string {
		path := filepath.Join(t.TempDir(), "review.json")
		must(t, os.WriteFile(path, []byte(`{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","spec":{"user":"`+user+`",
			"resourceAttributes":{"namespace":"default","verb":"get","resource":"pods"}}}`), 0o600))
		return realtest.MustKubectl(t, a.AdminKubeconfig(), "create", "-f", path, "-o", "jsonpath={.status}")
	}
	if got := ask(first, "breakglass:probe"); !strings.Contains(got, `"denied":true`) ||
		!strings.Contains(got, "breakglass: no grant has the user name breakglass:probe") {
		t.Errorf("the check of DENY-WEBHOOK.md: got %s, want it denied by us", got)
	}
	if got := ask(first, "vera"); !strings.Contains(got, `"allowed":true`) {
		t.Errorf("a review without groups: got %s, want vera allowed", got)
	}
	// Kubernetes 1.36 gives conditions an empty groups, so that has() changes nothing there; a field that is absent shows what it is for.
	const guarded = "(has(request.groups) && request.groups.exists(g, g.startsWith('breakglass:')))"
	bad := d.apiServer(t, real.APIServerOptions{ReplicaOf: first}, "authorization-config.deny.yaml", false, func(f []byte) []byte {
		return change(t, f, guarded, "request.nonResourceAttributes.path.startsWith('/breakglass')")
	})
	if got := ask(bad, "vera"); strings.Contains(got, `"allowed":true`) {
		t.Errorf("a condition that reads an absent field: got %s, want vera, who is not ours, denied", got)
	} else {
		t.Logf("a condition without has(): %s", got)
	}
}
