package e2e

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/ledger/sqlstore"
	"github.com/breakglassd/breakglass/internal/real"
	slacksim "github.com/breakglassd/breakglass/internal/sim/slack"
)

// The names in this package's world.
const (
	mount   = "pki-breakglass-e2e"
	channel = "C0APPROVE"
	appID   = "A0BREAK"
)

// parts are the things that every test shares, because they take seconds to start: Vault, the API server, the two binaries.
type parts struct {
	dir      string
	bins     real.Binaries
	vault    *real.Vault
	etcd     *real.Etcd
	kube     *real.APIServer
	daemon   string // binaries
	cli      string
	issuerID string
	roleID   string
}

var shared parts

func TestMain(m *testing.M) {
	flag.Parse()
	if err := shared.start(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: setting up the real components:", err)
		shared.stop()
		os.Exit(1)
	}
	code := m.Run()
	shared.stop()
	os.Exit(code)
}

func (p *parts) start() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Minute)
	defer cancel()
	if p.dir, err = os.MkdirTemp("", "breakglass-e2e-"); err != nil {
		return err
	}
	progress := func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	if p.bins, err = real.Build(ctx, progress); err != nil {
		return err
	}
	p.daemon, p.cli = filepath.Join(p.dir, "breakglassd"), filepath.Join(p.dir, "breakglass")
	// The daemon is what ships but for the tag, which puts a kill between every two steps of a claim.
	for _, args := range [][]string{{"build", "-tags", "failpoint", "-o", p.daemon, "../../../cmd/breakglassd"},
		{"build", "-o", p.cli, "../../../cmd/breakglass"}} {
		if out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	if p.vault, err = p.bins.StartVault(ctx, real.VaultOptions{Dir: filepath.Join(p.dir, "vault"), Persistent: true}); err != nil {
		return err
	}
	ca, err := p.setUpVault(ctx)
	if err != nil {
		return err
	}
	if p.etcd, err = p.bins.StartEtcd(ctx, real.EtcdOptions{Dir: filepath.Join(p.dir, "etcd")}); err != nil {
		return err
	}
	if p.kube, err = p.bins.StartAPIServer(ctx, real.APIServerOptions{Dir: filepath.Join(p.dir, "kube"), Etcd: p.etcd,
		ClientCAs: ca}); err != nil {
		return err
	}
	return p.setUpCluster(ctx)
}

// setUpVault runs the shipped script as an operator would and returns the CA certificate it wrote.
func (p *parts) setUpVault(ctx context.Context) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "sh", "../../../deploy/vault/setup.sh", "--mount", mount, "--group", "breakglass:cluster-admins",
		"--max-ttl", "1h",
		"--out", p.dir, "--secret-id-file", filepath.Join(p.dir, "secret-id"))
	cmd.Env = append(os.Environ(), "VAULT_ADDR="+p.vault.Addr, "VAULT_CACERT="+p.vault.CACert, "VAULT_TOKEN="+p.vault.RootToken,
		"PATH="+p.onPath(real.VaultServer, "vault")+":"+os.Getenv("PATH"), "HOME="+p.dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("deploy/vault/setup.sh: %w: %s%s", err, out, stderr.Bytes())
	}
	for _, f := range []struct {
		into    *string
		pattern string
	}{{&p.issuerID, `issuer +([0-9a-f-]{36})`}, {&p.roleID, `role id +([0-9a-f-]{36})`}} {
		m := regexp.MustCompile(f.pattern).FindSubmatch(out)
		if m == nil {
			return nil, fmt.Errorf("deploy/vault/setup.sh printed no %s:\n%s", f.pattern, out)
		}
		*f.into = string(m[1])
	}
	return os.ReadFile(filepath.Join(p.dir, mount+"-ca.pem"))
}

// onPath makes a directory in which a component's binary has the name by which scripts call it.
func (p *parts) onPath(component real.Component, name string) string {
	dir := filepath.Join(p.dir, "path")
	_ = os.MkdirAll(dir, 0o755)
	_ = os.Symlink(p.bins[component], filepath.Join(dir, name))
	return dir
}

// setUpCluster applies the shipped manifests and makes the daemon's own credential.
func (p *parts) setUpCluster(ctx context.Context) error {
	run := func(args ...string) (string, error) {
		out, stderr, err := p.bins.Kubectl(ctx, p.kube.AdminKubeconfig(), args...)
		if err != nil {
			return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, stderr)
		}
		return strings.TrimSpace(out), nil
	}
	if _, err := run("apply", "-f", "../../../policies/kubernetes/"); err != nil {
		return err
	}
	token, err := run("-n", "breakglass", "create", "token", "breakglassd", "--duration", "8760h")
	if err != nil {
		return err
	}
	return p.kube.WriteKubeconfig(filepath.Join(p.dir, "daemon.kubeconfig"), real.Credentials{Token: token})
}

func (p *parts) stop() {
	if p.kube != nil {
		p.kube.Stop()
	}
	if p.etcd != nil {
		p.etcd.Stop()
	}
	if p.vault != nil {
		p.vault.Stop()
	}
	_ = os.RemoveAll(p.dir)
}

// admin runs kubectl as the cluster's administrator.
func (p *parts) admin(t *testing.T, args ...string) string {
	t.Helper()
	out, stderr, err := p.bins.Kubectl(t.Context(), p.kube.AdminKubeconfig(), args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v: %s", strings.Join(args, " "), err, stderr)
	}
	return out
}

// bindings lists the requests that have a binding in the cluster.
func (p *parts) bindings(t *testing.T) []string {
	t.Helper()
	out := p.admin(t, "get", "clusterrolebindings", "-l", "app.kubernetes.io/managed-by=breakglassd", "-o",
		`jsonpath={.items[*].metadata.labels.breakglass\.dev/request}`)
	return strings.Fields(out)
}

// signed lists every certificate Vault holds for us, read with the root token.
func (p *parts) signed(t *testing.T) []*x509.Certificate {
	t.Helper()
	client, err := p.vault.Client()
	must(t, err)
	list, err := client.Logical().ListWithContext(t.Context(), mount+"/certs")
	must(t, err)
	if list == nil {
		return nil
	}
	var out []*x509.Certificate
	for _, serial := range list.Data["keys"].([]any) {
		secret, err := client.Logical().ReadWithContext(t.Context(), mount+"/cert/"+serial.(string))
		must(t, err)
		block, _ := pem.Decode([]byte(secret.Data["certificate"].(string)))
		cert, err := x509.ParseCertificate(block.Bytes)
		must(t, err)
		if !cert.IsCA {
			out = append(out, cert)
		}
	}
	return out
}

// daemon is one breakglassd with its own ledger, policy and Slack workspace. It can be killed and started again.
type daemon struct {
	t        *testing.T
	dir      string
	slack    *slacksim.Sim
	url      string
	health   string
	verifier note.Verifier
	vkey     string
	cmd      *exec.Cmd
	exited   chan struct{}
	mu       sync.Mutex
	log      bytes.Buffer
}

func newDaemon(t *testing.T) *daemon {
	t.Helper()
	d := &daemon{t: t, dir: t.TempDir(), url: "http://" + freeAddress(t), health: freeAddress(t)}
	var users []slacksim.User
	for _, p := range bgtest.People {
		users = append(users, slacksim.User{ID: bgtest.SlackUser(p), Name: p, RealName: p})
	}
	sim, err := slacksim.New(slacksim.Config{TeamID: "T01", TeamDomain: "e2e", AppID: appID, BotToken: "xoxb-canary-e2e",
		SigningSecret: "canary-signing-secret",
		AckWithin:     30 * time.Second, TriggerLife: 30 * time.Second, // Slack's 3 s are too short for a busy machine
		Command: "/breakglass", Users: users, Channels: []slacksim.Channel{{ID: channel, Name: "breakglass-approvals"}}})
	must(t, err)
	srv := httptest.NewServer(sim.Handler())
	t.Cleanup(func() { sim.Close(); srv.Close() })
	sim.SetURL(srv.URL)
	sim.SetAppURLs(d.url+"/slack/commands", d.url+"/slack/interactions")
	d.slack = sim
	d.writePolicy(bgtest.Policy())
	d.file("bot-token", "xoxb-canary-e2e")
	d.file("signing-secret", "canary-signing-secret")
	d.file("config.yaml", fmt.Sprintf(`
listen: {address: %q}
public_urls: [%q]
health: {address: %q}
ledger: {path: ledger.db, key_file: ledger.key, origin: breakglass.test/e2e}
policy_file: access.yaml
vault:
  address: %q
  ca_file: %q
  timeout: 10s
  sign_timeout: 10s
  auth: {method: approle, role_id: %q, secret_id_file: %q}
clusters:
  - {id: c1, kubeconfig_file: %q, vault_mount: %s, vault_issuer_id: %q, vault_max_ttl: 1h}
slack: {enabled: true, app_id: %s, team_ids: [T01], channel: %s, bot_token_file: bot-token, signing_secret_file: signing-secret, api_url: %q}
`, strings.TrimPrefix(d.url, "http://"), d.url, d.health, shared.vault.Addr, shared.vault.CACert, shared.roleID, filepath.Join(shared.dir, "secret-id"),
		filepath.Join(shared.dir, "daemon.kubeconfig"), mount, shared.issuerID, appID, channel, srv.URL+"/api/"))
	out, err := exec.CommandContext(t.Context(), shared.daemon, "init", "--config", filepath.Join(d.dir, "config.yaml")).CombinedOutput()
	if err != nil {
		t.Fatalf("breakglassd init: %v: %s", err, out)
	}
	_, d.verifier, err = ledger.LoadSigner(filepath.Join(d.dir, "ledger.key"))
	must(t, err)
	key, err := os.ReadFile(filepath.Join(d.dir, "ledger.key"))
	must(t, err)
	d.vkey, err = ledger.PublicKey(strings.TrimSpace(string(key)))
	must(t, err)
	for _, p := range bgtest.People {
		block, err := ssh.MarshalPrivateKey(bgtest.PrivateKey(p), p)
		must(t, err)
		d.file(p+".key", string(pem.EncodeToMemory(block)))
	}
	t.Cleanup(func() {
		d.kill()
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", d.logged())
		}
	})
	return d
}

func (d *daemon) file(name, text string) {
	d.t.Helper()
	must(d.t, os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0o600))
}

func (d *daemon) writePolicy(text string) {
	d.file("access.yaml", strings.ReplaceAll(text, "https://127.0.0.1:6443", shared.kube.URL))
}

func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := real.FreeAddress()
	must(t, err)
	return address
}

// start starts the daemon, with a failpoint if one is named, and waits until it is ready.
func (d *daemon) start(failpoint string) {
	d.t.Helper()
	d.launch("/readyz", failpoint, shared.daemon)
}

// launch starts the daemon by a command, to which what it is to do is added, and waits until it says yes to a health check.
func (d *daemon) launch(check, failpoint string, command ...string) {
	d.t.Helper()
	command = append(command, "serve", "--config", filepath.Join(d.dir, "config.yaml"))
	d.cmd = exec.Command(command[0], command[1:]...)
	d.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "BREAKGLASS_FAILPOINT=" + failpoint}
	d.cmd.Stdout, d.cmd.Stderr = logWriter{d}, logWriter{d}
	must(d.t, d.cmd.Start())
	exited := make(chan struct{})
	d.exited = exited
	cmd := d.cmd
	go func() {
		_ = cmd.Wait() // how it ended is read from ProcessState
		close(exited)
	}()
	deadline := time.After(time.Minute)
	for {
		resp, err := http.Get("http://" + d.health + check)
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-exited:
			d.t.Fatalf("the daemon ended at its start:\n%s", d.logged())
		case <-deadline:
			d.t.Fatalf("the daemon does not say yes to %s after a minute:\n%s", check, d.logged())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (d *daemon) logged() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.String()
}

type logWriter struct{ d *daemon }

func (w logWriter) Write(p []byte) (int, error) {
	w.d.mu.Lock()
	defer w.d.mu.Unlock()
	return w.d.log.Write(p)
}

// kill ends the daemon as kill -9 does. Killing one that is dead is fine.
func (d *daemon) kill() {
	if d.cmd != nil {
		_ = d.cmd.Process.Kill()
		<-d.exited
		d.cmd = nil
	}
}

// died waits until the daemon has ended by itself, by a failpoint's signal.
func (d *daemon) died() {
	d.t.Helper()
	select {
	case <-d.exited:
	case <-time.After(time.Minute):
		d.t.Fatalf("the daemon reached no failpoint:\n%s", d.logged())
	}
	if ws, ok := d.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
		d.t.Fatalf("the daemon ended with %s, not by kill -9:\n%s", d.cmd.ProcessState, d.logged())
	}
	d.cmd = nil
}

// stop ends the daemon with SIGTERM and wants an orderly exit.
func (d *daemon) stop() {
	d.t.Helper()
	must(d.t, d.cmd.Process.Signal(syscall.SIGTERM))
	d.stopped()
}

// stopped wants the orderly exit of a daemon that was told to stop. A second signal would end it whatever it is doing.
func (d *daemon) stopped() {
	d.t.Helper()
	select {
	case <-d.exited:
	case <-time.After(time.Minute):
		d.t.Fatalf("the daemon did not stop:\n%s", d.logged())
	}
	if code := d.cmd.ProcessState.ExitCode(); code != 0 {
		d.t.Errorf("the daemon stopped with exit code %d:\n%s", code, d.logged())
	}
	d.cmd = nil
}

// client is the API client of one person.
func (d *daemon) client(person string) *api.Client {
	httpClient, err := api.NewHTTP(nil)
	must(d.t, err)
	return &api.Client{Server: d.url, HTTP: httpClient, Keys: func(context.Context) ([]ssh.Signer,
		error) {
		return []ssh.Signer{bgtest.SSHKey(person)}, nil
	}}
}

// command makes a run of the command line as one person, with a home directory of their own.
func (d *daemon) command(person string, args ...string) *exec.Cmd {
	home := filepath.Join(d.dir, "home-"+person)
	_ = os.MkdirAll(home, 0o700)
	cmd := exec.CommandContext(d.t.Context(), shared.cli, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_RUNTIME_DIR=" + home, "BREAKGLASS_SERVER=" + d.url,
		"BREAKGLASS_IDENTITY=" + filepath.Join(d.dir, person+".key"), "BREAKGLASS_LEDGER_KEY=" + d.vkey}
	return cmd
}

// cli runs the command line as one person and returns its standard output; it wants success.
func (d *daemon) cli(person string, args ...string) string {
	d.t.Helper()
	out, stderr, code := d.try(person, args...)
	if code != 0 {
		d.t.Fatalf("%s: breakglass %s: exit code %d\n%s%s", person, strings.Join(args, " "), code, out, stderr)
	}
	return out
}

func (d *daemon) try(person string, args ...string) (stdout, stderr string, code int) {
	d.t.Helper()
	cmd := d.command(person, args...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		d.t.Fatal(err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// check is the one checker of all invariants, from outside: the ledger file, everything Vault ever signed, the bindings in the
// cluster against the active grants, and no secret in the log.
func (d *daemon) check() {
	t := d.t
	t.Helper()
	path := filepath.Join(d.dir, "ledger.db")
	bgtest.CheckLedger(t, path, d.verifier)
	store, err := sqlstore.OpenReadOnly(t.Context(), path)
	must(t, err)
	defer store.Close()
	l, err := ledger.OpenReadOnly(t.Context(), store, d.verifier)
	must(t, err)
	bgtest.CheckSigned(t, l, slices.DeleteFunc(shared.signed(t), func(c *x509.Certificate) bool { return !d.owns(l, c) }))
	for _, canary := range []string{"xoxb-canary", "canary-signing-secret", hookToken, "BEGIN EC PRIVATE", "BEGIN PRIVATE", "hvs."} {
		if strings.Contains(d.logged(), canary) {
			t.Errorf("I18: the log holds %q", canary)
		}
	}
}

// owns reports whether a certificate's request is in this daemon's ledger: the tests share one Vault.
func (d *daemon) owns(l *ledger.Ledger, c *x509.Certificate) bool {
	parts := strings.Split(c.Subject.CommonName, ":")
	entries, err := l.Stream(d.t.Context(), parts[len(parts)-1])
	must(d.t, err)
	return len(entries) > 0
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
