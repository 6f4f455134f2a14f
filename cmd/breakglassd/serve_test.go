package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	rbacclient "k8s.io/client-go/kubernetes/typed/rbac/v1"
	"k8s.io/client-go/rest"

	"github.com/breakglassd/breakglass/cmd/breakglassd/config"
	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/bgtest/realtest"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/ledger/sqlstore"
	"github.com/breakglassd/breakglass/internal/real"
	kubesim "github.com/breakglassd/breakglass/internal/sim/kube"
)

// Secrets that must never be seen again once they are in their files.
const (
	canaryToken   = "xoxb-canary-1234567890"
	canarySigning = "canary0123456789canary"
)

// template is a Vault that setup.sh has set up, once: each site has a copy.
var template struct {
	once   sync.Once
	err    error
	dir    string
	vault  *real.Vault
	said   []byte // what setup.sh printed
	secret []byte // the secret id that it made
	ca     []byte
}

func makeTemplate(ctx context.Context, bins real.Binaries) (err error) {
	if template.dir, err = os.MkdirTemp("", "breakglassd-test-"); err != nil {
		return err
	}
	file := func(name string) string { return filepath.Join(template.dir, name) }
	if template.vault, err = bins.StartVault(ctx, real.VaultOptions{Dir: file("vault"), Persistent: true}); err != nil {
		return err
	}
	defer template.vault.Stop()
	setup := exec.CommandContext(ctx, "/bin/sh", "../../deploy/vault/setup.sh", "--mount", "pki-c1", "--group", "breakglass:cluster-admins",
		"--max-ttl", "1h",
		"--secret-id-file", file("secret-id"), "--out", template.dir)
	setup.Env = []string{"PATH=" + filepath.Dir(bins[real.VaultServer]) + ":/usr/bin:/bin", "HOME=" + template.dir,
		"VAULT_ADDR=" + template.vault.Addr, "VAULT_CACERT=" + template.vault.CACert, "VAULT_TOKEN=" + template.vault.RootToken}
	if template.said, err = setup.CombinedOutput(); err != nil {
		return fmt.Errorf("setup.sh: %w: %s", err, template.said)
	}
	if template.secret, err = os.ReadFile(file("secret-id")); err == nil {
		template.ca, err = os.ReadFile(file("pki-c1-ca.pem"))
	}
	return err
}

// site is everything around one daemon: a real Vault that setup.sh has set up, a cluster, files. Slack is down.
type site struct {
	t       *testing.T
	dir     string
	config  string
	people  *real.CA // vouches for the daemon's TLS certificate
	vault   *real.Vault
	kube    *kubesim.Server
	secret  string // Vault's secret id
	kubekey string // the daemon's token in the cluster
}

func (s *site) file(name string) string { return filepath.Join(s.dir, name) }

func (s *site) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(s.file(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func newSite(t *testing.T) *site {
	cleanEnv(t)
	s := &site{t: t, dir: t.TempDir(), kubekey: "canary-" + rand.Text()}
	bins := realtest.MustBuild(t, real.VaultServer)
	template.once.Do(func() { template.err = makeTemplate(t.Context(), bins) })
	s.must(template.err)
	s.vault = realtest.NewVault(t, real.VaultOptions{CopyOf: template.vault})
	fact := func(name string) string {
		m := regexp.MustCompile(`(?m)^\s*` + name + `\s+(\S+)`).FindSubmatch(template.said)
		if m == nil {
			t.Fatalf("setup.sh printed no %q:\n%s", name, template.said)
		}
		return string(m[1])
	}
	s.secret = strings.TrimSpace(string(template.secret))
	s.write("secret-id", string(template.secret))
	rules := kubesim.BinderRules()
	for resource, name := range map[string]string{"clusterroles": "cluster-admin", "roles": "fixer"} { // what the policy's profiles bind
		rules = append(rules, rbacv1.PolicyRule{APIGroups: []string{rbacv1.GroupName}, Resources: []string{resource},
			ResourceNames: []string{name}, Verbs: []string{"bind", "get"}})
	}
	var err error
	s.kube, err = kubesim.Start(t.Context(), kubesim.Config{ClientCAPEM: template.ca,
		Tokens: []kubesim.Token{{Value: s.kubekey, User: kubesim.DaemonUser, Rules: rules}}})
	s.must(err)
	kubeconfig, err := s.kube.Kubeconfig(s.kubekey)
	s.must(err)
	s.write("kubeconfig", string(kubeconfig))
	s.people, err = real.NewCA("people")
	s.must(err)
	s.newCert()
	s.write("bot", canaryToken)
	s.write("signing", canarySigning)
	s.write("access.yaml", strings.Replace(bgtest.Policy(), "https://127.0.0.1:6443", s.kube.URL, 1))
	s.config = s.file("config.yaml")
	s.write("config.yaml", fmt.Sprintf(`listen: {address: "127.0.0.1:0", tls_cert_file: tls.crt, tls_key_file: tls.key}
health: {address: "127.0.0.1:0"}
ledger: {path: ledger.db, key_file: ledger.key, origin: breakglass.test/site}
policy_file: access.yaml
vault:
  address: %q
  ca_file: %q
  auth: {role_id: %q, secret_id_file: secret-id}
clusters:
  - {id: c1, kubeconfig_file: kubeconfig, vault_mount: pki-c1, vault_issuer_id: %q, vault_max_ttl: 1h}
slack: {enabled: true, app_id: A0BREAK, team_ids: [T01], channel: C0APPROVE, bot_token_file: bot, signing_secret_file: signing,
  api_url: "http://127.0.0.1:1/api/"}
log: {level: debug}
`, s.vault.Addr, s.vault.CACert, fact("role id"), fact("issuer")))
	return s
}

func (s *site) newCert() {
	cert, key, err := s.people.Server("breakglassd")
	s.must(err)
	s.write("tls.crt", string(cert))
	s.write("tls.key", string(key))
}

// running is a daemon that runs in this process.
type running struct {
	*site
	url, checks string
	hangup      chan os.Signal
	stop        context.CancelFunc
	done        chan error
	log         *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (s *site) serve(p parts) *running {
	s.t.Helper()
	cfg, err := config.Load(s.config)
	s.must(err)
	if missing(cfg.Ledger.Path) {
		_, err := initLedger(s.t.Context(), cfg)
		s.must(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	d := &running{site: s, hangup: make(chan os.Signal, 1), stop: stop, done: make(chan error, 1), log: new(lockedBuffer)}
	up := make(chan string, 1)
	p.Ready, p.Reload = func(url string) { up <- url }, d.hangup
	go func() { d.done <- serve(ctx, cfg, p, newLog(cfg.Log, d.log)) }()
	s.t.Cleanup(stop)
	select {
	case d.url = <-up:
	case err := <-d.done:
		s.t.Fatalf("the daemon did not start: %v\n%s", err, d.log)
	}
	m := regexp.MustCompile(`"health checks and metrics","address":"([^"]+)"`).FindStringSubmatch(d.log.String())
	if m == nil {
		s.t.Fatalf("no health listener in the log:\n%s", d.log)
	}
	d.checks = "http://" + m[1]
	return d
}

func (d *running) get(path string) (int, string) {
	d.t.Helper()
	resp, err := http.Get(d.checks + path)
	d.must(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	d.must(err)
	return resp.StatusCode, string(body)
}

// until waits for something that comes by itself.
func (d *running) until(what string, ok func() bool) {
	d.t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			d.t.Fatalf("waited a minute for %s\n%s", what, d.log)
		}
	}
}

func (d *running) ready() {
	d.t.Helper()
	d.until("ready", func() bool { status, _ := d.get("/readyz"); return status == http.StatusOK })
}

func (d *running) end() {
	d.t.Helper()
	d.stop()
	if err := <-d.done; err != nil {
		d.t.Errorf("stopping: %v\n%s", err, d.log)
	}
}

func (d *running) client(person string) *api.Client {
	d.t.Helper()
	h, err := api.NewHTTP(d.people.CertPEM)
	d.must(err)
	return &api.Client{Server: d.url, HTTP: h, Keys: func(context.Context) ([]ssh.Signer, error) {
		return []ssh.Signer{bgtest.SSHKey(person)},
			nil
	}}
}

// grant takes a request through all of it and returns its id.
func (d *running) grant() string {
	d.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	d.must(err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{}}, key)
	d.must(err)
	alice := d.client("alice")
	r, err := alice.Request(d.t.Context(), api.Ask{Profile: "admin", Cluster: "c1", Reason: "etcd has lost its quorum"})
	d.must(err)
	for _, approver := range []string{"bob", "carol"} {
		_, err := d.client(approver).Approve(d.t.Context(), r, "")
		d.must(err)
	}
	_, err = alice.Claim(d.t.Context(), r.ID, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))
	d.must(err)
	return r.ID
}

func TestDaemonFromStartToStopWithARealVault(t *testing.T) {
	s := newSite(t)
	d := s.serve(parts{})
	d.ready()
	if _, body := d.get("/readyz"); body != "degraded\n" {
		t.Errorf("readyz says %q, want degraded: Slack is down", body)
	}
	if status, body := d.get("/readyz?verbose"); status != http.StatusOK || !strings.Contains(body,
		`{"name":"slack","ok":false,"required":false,"error"`) || !strings.Contains(body, `{"name":"vault","ok":true,"required":false}`) {
		t.Errorf("readyz?verbose: %d %s", status, body)
	}
	d.grant()
	d.until("metrics of the grant", func() bool {
		_, m := d.get("/metrics")
		return strings.Contains(m, `breakglass_requests_total{cluster="c1",outcome="issued",profile="admin"} 1`)
	})
	_, m := d.get("/metrics")
	for _, want := range []string{`breakglass_requests_total{cluster="c1",outcome="opened",profile="admin"} 1`,
		`breakglass_approval_wait_seconds_count{cluster="c1",profile="admin"} 1`,
		`breakglass_issue_duration_seconds_count{cluster="c1"} 1`, `breakglass_vault_up{cluster="c1"} 1`,
		`breakglass_cluster_up{cluster="c1"} 1`, `breakglass_cluster_credential_ends_soon{cluster="c1"} 0`, "breakglass_slack_up 0",
		`breakglass_issuer_not_after_seconds{cluster="c1"}`, "breakglass_ledger_size ", "breakglass_ledger_checkpoint_age_seconds ",
		"breakglass_policy_reload_success 1", "breakglass_ledger_verify_ok 1"} {
		if !strings.Contains(m, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	for _, line := range []string{`"what":"requested"`, `"what":"approved"`, `"what":"claimed"`, `"what":"issued"`} {
		if !strings.Contains(d.log.String(), `"msg":"on record",`+line) {
			t.Errorf("the log does not tell %s", line)
		}
	}
	if log := d.log.String(); !strings.Contains(log, `"route":"POST /v1/requests/{id}/claim","status":200`) ||
		!strings.Contains(log, `"person":"bob"`) || strings.Contains(log, "etcd has lost its quorum") {
		t.Errorf("the log does not tell who called what, or tells what was said:\n%s", log)
	}
	if bindings, _ := s.kube.Bindings(); len(bindings) != 1 {
		t.Errorf("%d bindings in the cluster, want 1", len(bindings))
	}
	for _, person := range bgtest.People {
		if strings.Contains(m, person) {
			t.Errorf("%s is in the metrics", person)
		}
	}

	policy, err := os.ReadFile(s.file("access.yaml"))
	s.must(err)
	reload := func(word string, text []byte) {
		t.Helper()
		s.write("access.yaml", string(text))
		before := strings.Count(d.log.String(), word)
		d.hangup <- syscall.SIGHUP
		d.until(word, func() bool { return strings.Count(d.log.String(), word) > before })
	}
	reload("a new access policy is in force", bytes.Replace(policy, []byte("max: 1h"), []byte("max: 50m"), 1))
	reload("NOT IN FORCE", []byte("version: 1\n"))
	if _, m := d.get("/metrics"); !strings.Contains(m, "breakglass_policy_reload_success 0") {
		t.Error("a bad policy is not in the metrics")
	}
	reload("NOT IN FORCE", bytes.ReplaceAll(policy, []byte("each: [security]"), []byte("channels: [slack, key]")))
	reload("NOT IN FORCE", append(policy, []byte("  - {id: broken")...))
	s.newCert()
	reload("a new access policy is in force", bytes.Replace(policy, []byte("max: 1h"), []byte("max: 40m"), 1))
	d.until("the new certificate", func() bool {
		_, err := d.client("bob").Whoami(t.Context())
		return err == nil
	})
	s.write("tls.crt", "nothing")
	reload("the TLS certificate on disk is not in use", policy)
	if _, err := d.client("bob").Whoami(t.Context()); err != nil {
		t.Errorf("after a bad certificate on disk: %v", err)
	}
	s.newCert()

	d.end()
	if log := d.log.String(); strings.Contains(log, "panic") || !strings.Contains(log, `"msg":"stopping"`) {
		t.Errorf("log:\n%s", log)
	}
	d.noSecrets(d.log.String(), m)

	// What it left behind verifies, and the next one takes it up.
	var out bytes.Buffer
	if code := run([]string{"ledger", "verify", "--config", s.config}, &out, &out); code != 0 ||
		!strings.Contains(out.String(), "1 certificates") {
		t.Errorf("ledger verify: exit %d\n%s", code, &out)
	}
	d = s.serve(parts{})
	d.ready()
	d.end()
}

func (s *site) noSecrets(texts ...string) {
	s.t.Helper()
	for _, text := range texts {
		for _, secret := range []string{canaryToken, canarySigning, s.secret, s.kubekey, "PRIVATE+KEY", "PRIVATE KEY", "hvs."} {
			if strings.Contains(text, secret) {
				s.t.Errorf("a secret (%.6s…) is in the output:\n%s", secret, text)
			}
		}
	}
}

func TestStopEndsLongPollsAtOnce(t *testing.T) {
	s := newSite(t)
	d := s.serve(parts{})
	d.ready()
	bob := d.client("bob")
	r, err := d.client("alice").Request(t.Context(), api.Ask{Profile: "admin", Cluster: "c1", Reason: "etcd has lost its quorum"})
	s.must(err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for range bob.Follow(ctx, r) {
			cancel()
		}
	}()
	d.until("the long poll", func() bool {
		stacks := make([]byte, 1<<20)
		return bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("breakglass.(*Service).Wait("))
	})
	d.end() // would take the long poll's fifty seconds, and then say that it cut it off
	if strings.Contains(d.log.String(), "cutting off") {
		t.Errorf("an answer was cut off:\n%s", d.log)
	}
}

func TestDaemonIsDegradedWithoutVaultAndReadyAgainWithIt(t *testing.T) {
	s := newSite(t)
	s.must(s.vault.Seal(t.Context()))
	d := s.serve(parts{})
	d.until("the first look", func() bool { _, body := d.get("/readyz?verbose"); return strings.Contains(body, "sealed") })
	if status, body := d.get("/readyz"); status != http.StatusOK || body != "degraded\n" {
		t.Errorf("readyz: %d %q, want degraded: revocations and the deny webhook work without Vault", status, body)
	}
	if status, _ := d.get("/livez"); status != http.StatusOK {
		t.Error("a sealed Vault ends the daemon's life")
	}
	if !strings.Contains(d.log.String(), `"msg":"a check fails","checks":["vault","vault/c1"]`) {
		t.Errorf("that Vault is sealed is not said once, of both checks:\n%s", d.log)
	}
	ask := api.Ask{Profile: "admin", Cluster: "c1", Reason: "etcd has lost its quorum"}
	for what, send := range map[string]func(context.Context, api.Ask) (api.Request, error){
		"request": d.client("alice").Request, "dry run": d.client("alice").DryRun} {
		r, err := send(t.Context(), ask)
		if err != nil {
			t.Errorf("%s: not taken while Vault is sealed: %v", what, err)
		}
		if len(r.Trouble) == 0 || !strings.Contains(r.Trouble[0], "no certificate for c1 would be signed just now") {
			t.Errorf("%s: Vault is sealed, and the answer says %q", what, r.Trouble)
		}
	}
	s.must(s.vault.Unseal(t.Context()))
	d.ready()
	d.end()
}

func TestWeakerPolicyNeedsAnOperatorsWord(t *testing.T) {
	s := newSite(t)
	d := s.serve(parts{})
	d.end()
	policy, err := os.ReadFile(s.file("access.yaml"))
	s.must(err)
	s.write("access.yaml", strings.Replace(string(policy), "each: [security]", "channels: [slack, key]", 1))
	for _, file := range []string{"a weaker policy", "a broken policy"} {
		if file == "a broken policy" {
			s.write("access.yaml", "people: [")
		}
		d = s.serve(parts{})
		findings, err := d.client("alice").Findings(t.Context())
		s.must(err)
		if len(findings.Items) != 1 || findings.Items[0].Key != "policy-on-disk" {
			t.Errorf("%s: started with it, findings %+v, want one that says that the policy before is in force", file, findings.Items)
		}
		d.end()
	}
	s.write("access.yaml", strings.Replace(string(policy), "each: [security]", "channels: [slack, key]", 1))
	d = s.serve(parts{AcceptWeaker: true})
	d.end()
	s.must(os.Chmod(s.file("access.yaml"), 0o620))
	cfg, err := config.Load(s.config)
	s.must(err)
	if _, err := readPolicy(cfg, true); err == nil || !strings.Contains(err.Error(), "chmod go-w") {
		t.Errorf("a policy that a group can write: %v", err)
	}
}

func TestSecondDaemonOnTheSameLedgerIsRefused(t *testing.T) {
	s := newSite(t)
	d := s.serve(parts{})
	cfg, err := config.Load(s.config)
	s.must(err)
	err = serve(t.Context(), cfg, parts{}, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("a second daemon: %v", err)
	}
	d.end()
}

func TestDaemonEndsWhenAnotherOneTakesItsLedger(t *testing.T) {
	s := newSite(t)
	cfg, err := config.Load(s.config)
	s.must(err)
	_, err = initLedger(t.Context(), cfg)
	s.must(err)
	d := &daemon{cfg: cfg, log: slog.New(slog.DiscardHandler)}
	s.must(d.open(t.Context(), parts{}))
	defer d.close()
	s.must(os.Remove(cfg.Ledger.Path + ".lock")) // as on a file system that has no locks
	other, err := sqlstore.Open(t.Context(), cfg.Ledger.Path)
	s.must(err)
	defer other.Close()
	if err := d.run(t.Context(), parts{}); !errors.Is(err, ledger.ErrLocked) {
		t.Errorf("the daemon ended with %v, want ErrLocked", err)
	}
}

// listenNotify is systemd's end of sd_notify. What it returns gives the next thing that systemd is told, or "" when the limit passes.
func listenNotify(t *testing.T) func(limit time.Duration) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "notify") //nolint:usetesting // the name of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	buf := make([]byte, 1024)
	return func(limit time.Duration) string {
		if err := c.SetReadDeadline(time.Now().Add(limit)); err != nil {
			t.Fatal(err)
		}
		n, err := c.Read(buf)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
}

func TestSystemdIsToldHowTheDaemonIs(t *testing.T) {
	s := newSite(t)
	next := listenNotify(t)
	d := s.serve(parts{})
	// told waits for all of these, in any order; a sign of life may come at any time.
	told := func(want ...string) {
		t.Helper()
		for len(want) > 0 {
			got := next(time.Minute)
			if i := slices.Index(want, got); i >= 0 {
				want = slices.Delete(want, i, i+1)
			} else if got != "WATCHDOG=1" {
				t.Fatalf("systemd was told %q, want %q\n%s", got, want, d.log)
			}
		}
	}
	told("READY=1", "WATCHDOG=1")
	d.ready()
	d.hangup <- syscall.SIGHUP
	told("RELOADING=1")
	told("READY=1")
	if !strings.Contains(d.log.String(), "the access policy has not changed") {
		t.Errorf("ready again without having read the policy again:\n%s", d.log)
	}
	d.end()
	told("STOPPING=1")
	for got := next(100 * time.Millisecond); got != ""; got = next(100 * time.Millisecond) { // the daemon has ended: all is there
		if got != "WATCHDOG=1" {
			t.Errorf("after its end systemd was told %q", got)
		}
	}
}

// bindGroup gives the group of the group-mode profile a right, as policies/kubernetes/optional/group-mode.yaml does.
func (s *site) bindGroup() {
	rbac, err := rbacclient.NewForConfig(&rest.Config{Host: s.kube.URL, BearerToken: s.kubekey,
		TLSClientConfig: rest.TLSClientConfig{CAData: s.kube.CAPEM()}})
	s.must(err)
	_, err = rbac.ClusterRoleBindings().Create(context.Background(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "group-mode"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "Group", Name: "breakglass:cluster-admins"}}}, metav1.CreateOptions{})
	s.must(err)
}

func TestDoctorFindsWhatIsWrong(t *testing.T) {
	s := newSite(t)
	examine := func() (int, map[string]string, string) {
		t.Helper()
		var out, errOut bytes.Buffer
		code := run([]string{"doctor", "--config", s.config, "-o", "json"}, &out, &errOut)
		var report struct {
			Findings []struct{ Level, Code, Subject, Text string }
		}
		if err := json.Unmarshal(out.Bytes(), &report); err != nil {
			t.Fatalf("%v\n%s", err, &out)
		}
		s.noSecrets(out.String())
		worst := map[string]string{}
		for _, f := range report.Findings {
			if worst[f.Code] == "" || f.Level == "error" {
				worst[f.Code] = f.Level
			}
		}
		return code, worst, out.String()
	}
	want := func(name string, code int, levels map[string]string) {
		t.Helper()
		got, worst, said := examine()
		if got != code {
			t.Errorf("%s: exit %d, want %d\n%s", name, got, code, said)
		}
		for c, level := range levels {
			if worst[c] != level {
				t.Errorf("%s: %s is %q, want %q\n%s", name, c, worst[c], level, said)
			}
		}
	}
	before, err := os.ReadFile(s.config)
	s.must(err)
	withoutSlack := strings.Replace(string(before), "enabled: true", "enabled: false", 1)

	want("before init", exitFindings, map[string]string{"ledger-key": "error"})
	cfg, err := config.Load(s.config)
	s.must(err)
	_, err = initLedger(t.Context(), cfg)
	s.must(err)
	want("a group that is bound to nothing", exitFindings, map[string]string{"cluster": "error", "cluster-ca": "ok"})
	s.bindGroup()
	want("Slack down", exitUnreachable, map[string]string{"slack": "error", "vault-health": "ok", "vault-drift": "ok", "ledger": "ok",
		"cluster-ca": "ok", "policy": "ok", "cluster": "ok", "tls": "warn"})
	s.write("config.yaml", withoutSlack)
	want("all is well", 0, map[string]string{"slack": "ok", "vault-health": "ok", "people": "ok"})

	s.write("config.yaml", strings.Replace(withoutSlack, "vault_mount: pki-c1", "vault_mount: pki-nope", 1))
	want("a mount that is not there", exitFindings, map[string]string{"vault-mount": "error", "vault-health": "ok"})
	if _, _, said := examine(); strings.Count(said, "pki-nope") < 1 || strings.Count(said, `"level":"error"`) != 1 {
		t.Errorf("one cause has more than one line:\n%s", said)
	}
	s.write("config.yaml", withoutSlack)

	s.must(os.Chmod(s.file("secret-id"), 0o644))
	want("a secret that others can read", exitFindings, map[string]string{"secret-file": "error"})
	s.must(os.Chmod(s.file("secret-id"), 0o600))

	s.must(s.kube.SetClientCAPEM(s.people.CertPEM))
	want("the cluster trusts another CA", exitFindings, map[string]string{"cluster-ca": "error"})
	s.kube.SetDown(true)
	want("the cluster is down", exitUnreachable, map[string]string{"cluster": "error"})
	s.vault.Stop()
	want("Vault is down, too", exitUnreachable, map[string]string{"vault-health": "error"})
	s.write("config.yaml", "nonsense: true\n")
	want("bad configuration", exitFindings, map[string]string{"config": "error"})
}
