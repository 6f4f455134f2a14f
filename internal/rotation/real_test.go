package rotation_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/hashicorp/vault/api"

	"github.com/breakglassd/breakglass/internal/bgtest/realtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/real"
	"github.com/breakglassd/breakglass/internal/rotation"
	"github.com/breakglassd/breakglass/internal/vaultca"
)

const group = "breakglass:cluster-admins"

// world is a real Vault and a real cluster of three API servers, each with a bundle file of its own.
type world struct {
	vault   *real.Vault
	root    *api.Client
	servers []*real.APIServer
	dir     string // where an operator works: the certificates of the issuers are there
	bin     string // vault and kubectl
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newWorld(t *testing.T, servers int) *world {
	t.Helper()
	bins := realtest.MustBuild(t, real.VaultServer, real.EtcdServer, real.KubeAPIServer, real.KubeCtl)
	w := &world{vault: realtest.NewVault(t, real.VaultOptions{}), dir: t.TempDir(), bin: t.TempDir()}
	var err error
	w.root, err = w.vault.Client()
	must(t, err)
	first := realtest.NewCluster(t, real.APIServerOptions{})
	w.servers = []*real.APIServer{first}
	for range servers - 1 {
		w.servers = append(w.servers, realtest.NewCluster(t, real.APIServerOptions{ReplicaOf: first}))
	}
	must(t, os.Symlink(bins[real.VaultServer], filepath.Join(w.bin, "vault")))
	kubectl := fmt.Sprintf("#!/bin/sh\nexec '%s' --kubeconfig='%s' --cache-dir='%s' \"$@\"\n", bins[real.KubeCtl], first.AdminKubeconfig(),
		w.dir)
	must(t, os.WriteFile(filepath.Join(w.bin, "kubectl"), []byte(kubectl), 0o700))
	// kube-controller-manager would
	w.kubectl(t, "create", "configmap", "kube-root-ca.crt", "-n", "kube-system", "--from-file=ca.crt="+first.CACert)
	return w
}

func (w *world) kubectl(t *testing.T, args ...string) {
	t.Helper()
	realtest.MustKubectl(t, w.servers[0].AdminKubeconfig(), args...)
}

// sh runs a script as an operator would.
func (w *world) sh(t *testing.T, script string, env ...string) string {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Dir = w.dir
	cmd.Env = append([]string{"PATH=" + w.bin + ":/usr/bin:/bin", "HOME=" + w.dir, "VAULT_ADDR=" + w.vault.Addr, "VAULT_CACERT=" +
		w.vault.CACert, "VAULT_TOKEN=" + w.vault.RootToken}, env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v in\n%s\n%s", err, script, out)
	}
	return string(out)
}

// mount is one PKI mount with its own daemon: a cluster of the same API servers, as far as the checks are concerned.
type mount struct {
	w      *world
	cfg    vaultca.Config
	m      vaultca.Mount
	see    cluster.ObserveConfig
	ca     atomic.Pointer[vaultca.CA]
	states []state

	mu     sync.Mutex           // guards what follows, and the issuers that m names, which the request loop reads
	last   map[string]time.Time // by id of the issuer
	orders []rotation.Canary
	done   int
}

// state is a row of the table of states and verdicts.
type state struct{ what, verdict, findings string }

func address(a *real.APIServer) string { return strings.TrimPrefix(a.URL, "https://") }

// setUp runs the shipped script for a mount and opens a daemon's view on it.
func (w *world) setUp(t *testing.T, path string, more ...string) *mount {
	t.Helper()
	script, err := filepath.Abs("../../deploy/vault/setup.sh")
	must(t, err)
	name := strings.ReplaceAll(path, "/", "-")
	secret := filepath.Join(w.dir, name+".secret")
	args := append([]string{"sh", script, "--mount", path, "--group", group, "--max-ttl", "1m", "--policy", name, "--approle-name", name,
		"--secret-id-file", secret, "--out", w.dir}, more...)
	out := w.sh(t, strings.Join(args, " "))
	fact := func(name string) string {
		f := regexp.MustCompile(`(?m)^\s*` + name + `\s+(\S+)`).FindStringSubmatch(out)
		if f == nil {
			t.Fatalf("setup.sh printed no %q:\n%s", name, out)
		}
		return f[1]
	}
	mt := &mount{w: w, last: map[string]time.Time{}, m: vaultca.Mount{Cluster: "prod", Path: path, IssuerID: fact("issuer"),
		MaxTTL: time.Minute, Groups: []string{group}}}
	mt.cfg = vaultca.Config{Address: w.vault.Addr, CAFile: w.vault.CACert, Policy: name,
		Auth: vaultca.Auth{Method: vaultca.AuthAppRole, RoleID: fact("role id"), SecretIDFile: secret}}
	mt.restart(t)
	first := w.servers[0]
	mt.see = cluster.ObserveConfig{Cluster: "prod", CA: first.ClusterCA.CertPEM, Bundles: map[string]string{},
		KnownClientCAs: []string{first.CACert},
		Rest:           &rest.Config{Host: first.URL, BearerToken: first.AdminToken, TLSClientConfig: rest.TLSClientConfig{CAFile: first.CACert}}}
	for _, a := range w.servers {
		mt.see.Servers = append(mt.see.Servers, address(a))
		mt.see.Bundles[address(a)] = a.ClientCAFile()
	}
	return mt
}

// restart is the daemon starting with what its configuration pins now.
func (mt *mount) restart(t *testing.T) {
	t.Helper()
	cfg := mt.cfg
	cfg.Mounts = []vaultca.Mount{mt.m}
	ca, err := vaultca.Open(t.Context(), cfg)
	must(t, err)
	mt.ca.Store(ca)
}

func (mt *mount) checker(t *testing.T, change ...func(*cluster.ObserveConfig)) *rotation.Checker {
	t.Helper()
	see := mt.see
	see.Bundles = maps.Clone(see.Bundles)
	for _, f := range change {
		f(&see)
	}
	o, err := cluster.NewObserver(see)
	must(t, err)
	return &rotation.Checker{Cluster: "prod", Vault: mt.ca.Load(), View: o,
		Known: func(context.Context, string) (rotation.Known, error) {
			mt.mu.Lock()
			defer mt.mu.Unlock()
			k := rotation.Known{LastIssuedUnder: map[string]time.Time{}}
			for id, until := range mt.last {
				if issuer, ok := knownIssuers.Load(id); ok {
					k.LastIssuedUnder[breakglass.Fingerprint(issuer.(*x509.Certificate).Raw)] = until
				}
			}
			return k, nil
		},
		Ordered: func(_ context.Context, c rotation.Canary) error {
			mt.mu.Lock()
			defer mt.mu.Unlock()
			mt.orders = append(mt.orders, c)
			return nil
		},
		Done: func(context.Context, rotation.Canary, rotation.Signing, map[string]rotation.Greeting) error {
			mt.mu.Lock()
			defer mt.mu.Unlock()
			mt.done++
			return nil
		}}
}

// pins makes the configuration name these issuers, and starts the daemon again.
func (mt *mount) pins(t *testing.T, issuer, next string) {
	t.Helper()
	mt.mu.Lock()
	mt.m.IssuerID, mt.m.NextIssuerID = issuer, next
	mt.mu.Unlock()
	mt.restart(t)
}

// there reports whether a report says the phase. At rest it must also be proven that every API server takes the issuer that signs:
// the phase alone is the same before they have loaded their bundles.
func there(r rotation.Report, want rotation.Phase) bool {
	active, ok := r.Generation(rotation.PositionActive)
	if rest := want == rotation.NotStarted || want == rotation.Closed; !rest {
		return r.Phase == want
	}
	return r.Phase == want && ok && !slices.ContainsFunc(r.Servers,
		func(s rotation.ServerTrust) bool { return s.Trust[active.Name] != rotation.Trusted })
}

// reaches waits until the checks say the phase, and records it as a verdict on a state.
func (mt *mount) reaches(t *testing.T, what string, want rotation.Phase, change ...func(*cluster.ObserveConfig)) rotation.Report {
	t.Helper()
	var r rotation.Report
	for deadline := time.Now().Add(100 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		if r = mt.checker(t, change...).Check(t.Context()); there(r, want) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: got %s, want %s\n%s", what, r.Phase, want, text(t, r))
		}
	}
	var keys []string
	for _, f := range r.Verdicts {
		if f.Severity != rotation.Info {
			keys = append(keys, string(f.Severity)+" "+strings.SplitN(f.Key, "/127", 2)[0])
		}
	}
	slices.Sort(keys)
	mt.states = append(mt.states, state{what, string(r.Phase), strings.Join(slices.Compact(keys), ", ")})
	t.Logf("%-55s %-20s %s", what, r.Phase, strings.Join(slices.Compact(keys), ", "))
	return r
}

func text(t testing.TB, r rotation.Report) string {
	t.Helper()
	var b strings.Builder
	must(t, r.Text(&b, time.Now(), true))
	return b.String()
}

// carryOut runs steps of a plan, to the letter.
func (mt *mount) carryOut(t *testing.T, steps []rotation.Step) {
	t.Helper()
	for _, s := range steps {
		switch s.At {
		case rotation.AtDaemon:
			t.Fatalf("a daemon's step is carried out by the test itself: %v", s)
		case rotation.AtNode:
			i := slices.IndexFunc(mt.w.servers, func(a *real.APIServer) bool { return address(a) == s.Address })
			mt.w.sh(t, "set -e\n"+strings.Join(s.Commands, "\n"), "BUNDLE="+mt.w.servers[i].ClientCAFile(), "CLUSTER_CA="+mt.w.servers[i].CACert)
		default:
			for _, c := range s.Commands {
				if !strings.Contains(c, "metrics-server") { // nothing runs here
					mt.w.sh(t, "set -e\n"+c)
				}
			}
		}
	}
}

// plan makes a plan for the API servers of the test.
func plan(r rotation.Report, target rotation.Phase) rotation.Plan {
	return rotation.MakePlan(r, rotation.PlanOptions{Target: target, Bundle: "$BUNDLE", ClusterCA: "$CLUSTER_CA"})
}

func mustPlan(t *testing.T, r rotation.Report, next rotation.Phase) rotation.Plan {
	t.Helper()
	p := plan(r, "")
	if p.Refused != "" || p.Next != next || len(p.Steps) == 0 {
		t.Fatalf("plan at %s: next %q, %d steps, refused %q, want next %s\n%s", r.Phase, p.Next, len(p.Steps), p.Refused, next, text(t, r))
	}
	return p
}

func mustRefuse(t *testing.T, p rotation.Plan, words ...string) {
	t.Helper()
	for _, word := range words {
		if len(p.Steps) > 0 || !strings.Contains(p.Refused, word) {
			t.Errorf("plan at %s: %d steps, refused %q, want none and %q", p.Phase, len(p.Steps), p.Refused, word)
		}
	}
}

func withDaemon(steps []rotation.Step, daemon bool) []rotation.Step {
	return slices.DeleteFunc(slices.Clone(steps), func(s rotation.Step) bool { return (s.At == rotation.AtDaemon) != daemon })
}

// bundle is a client-CA bundle of the cluster's own CA and others.
func (w *world) bundle(others ...[]byte) []byte {
	return slices.Concat(append([][]byte{w.servers[0].ClusterCA.CertPEM}, others...)...)
}

func (w *world) setBundles(t *testing.T, others ...[]byte) {
	t.Helper()
	for _, a := range w.servers {
		must(t, a.SetClientCA(w.bundle(others...)))
	}
}

func (mt *mount) issuer(t *testing.T, ref string) []byte {
	t.Helper()
	s, err := mt.w.root.Logical().Read(mt.m.Path + "/issuer/" + ref)
	must(t, err)
	return []byte(strings.TrimSpace(s.Data["certificate"].(string)) + "\n")
}

// issuing is the request loop: what it does must never fail while it runs.
type issuing struct {
	issued, shown, failed int
	failures              []string
	byIssuer              map[string]int
	longest               time.Duration
	stop                  context.CancelFunc
	ended                 chan struct{}
}

// living is a certificate that is still good.
type living struct {
	pair tls.Certificate
	name string
}

// issue asks for certificates all the time, as the service does, and shows each to every API server at once. It also shows one
// of those that it got before and that are still good: in a rotation they must go on working until they end.
func (mt *mount) issue(t *testing.T) *issuing {
	ctx, cancel := context.WithCancel(context.Background())
	l := &issuing{stop: cancel, ended: make(chan struct{}), byIssuer: map[string]int{}}
	o, err := cluster.NewObserver(mt.see)
	must(t, err)
	fail := func(format string, args ...any) {
		l.failed++
		if len(l.failures) < 10 {
			l.failures = append(l.failures, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
		}
	}
	show := func(c living) {
		for _, a := range mt.w.servers {
			l.shown++
			if g := o.Greet(ctx, address(a), c.pair, c.name); g.Outcome != rotation.OutcomeAccepted && ctx.Err() == nil {
				fail("%s at %s: %s %s", c.name, address(a), g.Outcome, g.Why)
			}
		}
	}
	go func() {
		defer close(l.ended)
		var alive []living
		last := time.Now()
		for n := 0; ctx.Err() == nil; n++ {
			c, err := mt.certificate(ctx, n)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				fail("certificate %d: %v", n, err)
				continue
			}
			l.issued++
			l.longest = max(l.longest, time.Since(last))
			last = time.Now()
			l.byIssuer[c.pair.Leaf.Issuer.CommonName]++
			show(c)
			alive = slices.DeleteFunc(append(alive, c), func(c living) bool { return time.Until(c.pair.Leaf.NotAfter) < 3*time.Second })
			if n%3 == 0 && len(alive) > 0 {
				show(alive[0])
			}
			time.Sleep(100 * time.Millisecond)
		}
	}()
	t.Cleanup(func() { cancel(); <-l.ended })
	return l
}

// certificate gets one certificate for a person.
func (mt *mount) certificate(ctx context.Context, n int) (living, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return living{}, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}}, key)
	if err != nil {
		return living{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return living{}, err
	}
	id := fmt.Sprintf("bg-%06d", n)
	order := breakglass.Order{Request: id, Cluster: "prod", CommonName: breakglass.CommonName("alice", id), CSR: csr, TTL: 20 * time.Second}
	if n%4 == 3 { // the role of a group moves on its own
		order.Group = group
	}
	ca, asked := mt.ca.Load(), time.Now()
	if err := ca.Check(ctx, "prod", order.Group); err != nil {
		return living{}, fmt.Errorf("Check: %w", err)
	}
	signed, err := ca.Sign(ctx, order)
	if err != nil {
		return living{}, fmt.Errorf("Sign: %w", err)
	}
	if bad := breakglass.CheckCertificate(signed, breakglass.Intent{CommonName: order.CommonName, Group: order.Group,
		SPKI: breakglass.SPKI(spki), TTL: order.TTL, Issuer: signed.Issuer,
		Now: time.Now(), Asked: asked}); len(bad) > 0 {
		return living{}, fmt.Errorf("the certificate is not what was ordered: %q", bad)
	}
	leaf, err := x509.ParseCertificate(signed.Certificate)
	if err != nil {
		return living{}, err
	}
	mt.mu.Lock()
	defer mt.mu.Unlock()
	for _, id := range []string{mt.m.IssuerID, mt.m.NextIssuerID} {
		if issuer, ok := knownIssuers.Load(id); ok && leaf.CheckSignatureFrom(issuer.(*x509.Certificate)) == nil &&
			leaf.NotAfter.After(mt.last[id]) {
			mt.last[id] = leaf.NotAfter
		}
	}
	return living{pair: tls.Certificate{Certificate: append([][]byte{leaf.Raw}, signed.Chain...), PrivateKey: key, Leaf: leaf},
		name: order.CommonName}, nil
}

// keepAlive says until when the last certificate of an issuer is alive, and returns what was known before.
func (mt *mount) keepAlive(id string, until time.Time) time.Time {
	mt.mu.Lock()
	defer mt.mu.Unlock()
	before := mt.last[id]
	mt.last[id] = until
	return before
}

// knownIssuers is what the test knows the issuers by: id → *x509.Certificate.
var knownIssuers sync.Map

func (mt *mount) learn(t *testing.T, id string) {
	t.Helper()
	block, _ := pem.Decode(mt.issuer(t, id))
	cert, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	knownIssuers.Store(id, cert)
}

// TestWholeRotation goes through a rotation with nothing but the commands that the plan prints, on a real Vault and three real
// API servers, while certificates are asked for all the time.
func TestWholeRotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	short := w.setUp(t, "pki-short", "--ca-ttl", "180s") // ends while the rest goes on; a canary of it lives a minute
	ended := time.Now().Add(180 * time.Second)
	mt := w.setUp(t, "pki-prod")
	mt.learn(t, mt.m.IssuerID)
	w.setBundles(t, mt.issuer(t, mt.m.IssuerID), short.issuer(t, short.m.IssuerID))
	short.reaches(t, "a CA that lives three minutes", rotation.NotStarted)
	// The bundle of this rotation holds only its own CA beside the cluster's.
	w.setBundles(t, mt.issuer(t, mt.m.IssuerID))
	r := mt.reaches(t, "one issuer, in every bundle", rotation.NotStarted)
	for deadline := time.Now().Add(time.Minute); !r.OK && time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		r = mt.checker(t).Check(t.Context()) // until the other CA is gone from the API servers' memory
		if strings.Contains(text(t, r), "residue") {
			w.kubectl(t, "-n", "kube-system", "delete", "configmap", "extension-apiserver-authentication", "--ignore-not-found")
		}
	}
	if !r.OK {
		t.Errorf("a fresh set-up is not OK:\n%s", text(t, r))
	}
	loop := mt.issue(t)

	mustRefuse(t, plan(r, rotation.Retired), "no phase can be skipped", "prepared comes before retired")
	mt.carryOut(t, mustPlan(t, r, rotation.Prepared).Steps)
	r = mt.reaches(t, "a second issuer in Vault", rotation.Prepared)
	next, ok := r.Generation(rotation.PositionNext)
	if !ok || next.Name != "breakglass-g2" {
		t.Fatalf("the next issuer is %+v", next)
	}
	mt.learn(t, next.ID)
	mustRefuse(t, plan(r, rotation.Draining), "no phase can be skipped")

	p := mustPlan(t, r, rotation.TrustedOnAll)
	nodes := withDaemon(p.Steps, false)
	if len(nodes) != 4 || len(withDaemon(p.Steps, true)) != 1 {
		t.Fatalf("the plan has %d steps, want the certificate, three nodes and the daemon: %+v", len(p.Steps), p.Steps)
	}
	mt.carryOut(t, nodes[:2])
	r = mt.reaches(t, "the new CA in the bundle of one of three", rotation.TrustedOnSome)
	mt.carryOut(t, withDaemon(mustPlan(t, r, rotation.TrustedOnAll).Steps, false))
	r = mt.reaches(t, "the new CA in every bundle", rotation.TrustedOnAll)
	mustRefuse(t, plan(r, ""), "not pinned", "vault_next_issuer_id: "+next.ID)
	mt.pins(t, mt.m.IssuerID, next.ID)
	r = mt.reaches(t, "the daemon pinned to both", rotation.TrustedOnAll)

	p = mustPlan(t, r, rotation.Draining)
	half := p.Steps[0]
	half.Commands = half.Commands[:1]
	mt.carryOut(t, []rotation.Step{half})
	r = mt.reaches(t, "one of three roles moved", rotation.Active)
	mt.carryOut(t, mustPlan(t, r, rotation.Draining).Steps)
	r = mt.reaches(t, "all roles moved, old certificates alive", rotation.Draining)
	mustRefuse(t, plan(r, ""), "are alive until", "wait")

	third := w.servers[2]
	last := mt.keepAlive(mt.m.IssuerID, time.Now().Add(time.Hour)) // as if a longer certificate were alive
	must(t, os.Remove(third.ClientCAFile()))
	r = mt.reaches(t, "bundle file deleted while old certificates are alive", rotation.DeletedButCached)
	mt.carryOut(t, mustPlan(t, r, rotation.DeletedButCached).Steps)
	mt.reaches(t, "the file written anew, with both", rotation.Draining)
	mt.keepAlive(mt.m.IssuerID, last)
	mt.reaches(t, "the last old certificate has ended", rotation.Drained)

	must(t, os.Remove(third.ClientCAFile()))
	mt.reaches(t, "bundle file deleted on one of three", rotation.DeletedButCached)
	must(t, os.WriteFile(third.ClientCAFile(), nil, 0o600))
	r = mt.reaches(t, "bundle file emptied on one of three", rotation.DeletedButCached)
	undeclared := mt.reaches(t, "the same, without a declared bundle", rotation.Drained, func(c *cluster.ObserveConfig) { c.Bundles = nil })
	if !strings.Contains(text(t, undeclared), "from outside looks like one that still holds the CA") {
		t.Errorf("without a declaration nothing says what cannot be seen:\n%s", text(t, undeclared))
	}
	p = mustPlan(t, r, rotation.Residue)
	mt.carryOut(t, slices.DeleteFunc(slices.Clone(p.Steps), func(s rotation.Step) bool {
		return s.At == rotation.AtNode &&
			s.Address != address(third)
	}))
	r = mt.reaches(t, "the old CA out of the bundle of one of three", rotation.OldRemovedOnSome)
	mt.carryOut(t, mustPlan(t, r, rotation.Residue).Steps)
	r = mt.reaches(t, "the old CA out of every bundle", rotation.Residue)
	mt.carryOut(t, mustPlan(t, r, rotation.Retired).Steps)
	r = mt.reaches(t, "the ConfigMap made anew", rotation.Retired)
	mt.carryOut(t, withDaemon(mustPlan(t, r, rotation.Closed).Steps, false))
	r = mt.reaches(t, "the old issuer may no longer sign", rotation.Closed)
	if !slices.ContainsFunc(r.Verdicts, func(f rotation.Verdict) bool { return f.Key == "pinned-closed/breakglass-g1" }) {
		t.Errorf("nothing says that the daemon is still pinned to what is closed:\n%s", text(t, r))
	}
	mt.pins(t, next.ID, "")
	r = mt.reaches(t, "the daemon pinned to the new one alone", rotation.Closed)
	if !r.OK {
		t.Errorf("after a whole rotation it is not OK:\n%s", text(t, r))
	}
	time.Sleep(time.Second)
	loop.stop()
	<-loop.ended
	t.Logf("request loop: %d certificates issued (%v), shown %d times to API servers, %d failures, longest pause between two %s", loop.issued,
		loop.byIssuer, loop.shown, loop.failed, loop.longest.Round(time.Millisecond))
	if loop.failed > 0 || loop.issued < 100 || len(loop.byIssuer) != 2 {
		t.Errorf("%d failures of %d certificates by %d issuers, want none of at least 100 by two: %s", loop.failed, loop.issued,
			len(loop.byIssuer), strings.Join(loop.failures, "\n"))
	}

	// The next rotation goes wrong: the roles move before any server trusts the new CA.
	mt.carryOut(t, mustPlan(t, r, rotation.Prepared).Steps)
	r = mt.reaches(t, "a third issuer in Vault", rotation.Prepared)
	next, _ = r.Generation(rotation.PositionNext)
	mt.pins(t, mt.m.IssuerID, next.ID)
	for _, role := range r.Roles {
		w.sh(t, "vault patch "+mt.m.Path+"/roles/"+role.Name+" issuer_ref="+next.ID)
	}
	r = mt.reaches(t, "roles moved before any server trusts the new CA", rotation.SwitchedTooEarly)
	p = mustPlan(t, r, rotation.Prepared)
	mt.carryOut(t, p.Steps)
	r = mt.reaches(t, "roles moved back", rotation.Prepared)
	must(t, w.servers[0].SetClientCA(w.bundle(mt.issuer(t, mt.m.IssuerID), mt.issuer(t, next.ID))))
	mt.reaches(t, "the third CA trusted on one of three", rotation.TrustedOnSome)
	for _, role := range r.Roles {
		w.sh(t, "vault patch "+mt.m.Path+"/roles/"+role.Name+" issuer_ref="+next.ID)
	}
	r = mt.reaches(t, "roles moved while one of three trusts the new CA", rotation.SwitchedTooEarly)
	mt.carryOut(t, mustPlan(t, r, rotation.TrustedOnSome).Steps)
	r = mt.reaches(t, "roles moved back again", rotation.TrustedOnSome)

	// And the old CA is removed while its certificates are alive.
	mt.carryOut(t, withDaemon(mustPlan(t, r, rotation.TrustedOnAll).Steps, false))
	r = mt.reaches(t, "the third CA in every bundle", rotation.TrustedOnAll)
	mt.keepAlive(mt.m.IssuerID, time.Now().Add(time.Hour))
	mt.carryOut(t, mustPlan(t, r, rotation.Draining).Steps)
	mt.reaches(t, "roles moved in time, old certificates alive", rotation.Draining)
	must(t, third.SetClientCA(w.bundle(mt.issuer(t, next.ID))))
	r = mt.reaches(t, "the old CA removed from one of three too early", rotation.OldRemovedOnSome)
	if !slices.Contains(keys(r, rotation.Critical), "removed-too-early/"+address(third)) {
		t.Errorf("nothing says that it was too early:\n%s", text(t, r))
	}
	mt.carryOut(t, mustPlan(t, r, rotation.Draining).Steps)
	mt.reaches(t, "the old CA back", rotation.Draining)

	time.Sleep(time.Until(ended.Add(time.Second)))
	r = short.reaches(t, "the issuer that signs has ended", rotation.ExpiredCA)
	mustPlan(t, r, rotation.Prepared)

	if len(mt.orders) == 0 || mt.done != len(mt.orders) {
		t.Errorf("%d canaries were ordered and %d done", len(mt.orders), mt.done)
	}
	var b strings.Builder
	for _, s := range slices.Concat(short.states, mt.states) {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", s.what, s.verdict, s.findings)
	}
	t.Logf("states and verdicts:\n%s", b.String())
}
