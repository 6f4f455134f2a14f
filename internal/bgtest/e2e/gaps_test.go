package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/real"
)

// configure replaces one piece of the daemon's configuration, which must be there.
func (d *daemon) configure(old, with string) {
	d.t.Helper()
	text, err := os.ReadFile(filepath.Join(d.dir, "config.yaml"))
	must(d.t, err)
	if !strings.Contains(string(text), old) {
		d.t.Fatalf("the configuration has no %q", old)
	}
	d.file("config.yaml", strings.ReplaceAll(string(text), old, with))
}

// impatient has the daemon wait for a signature no longer than the test wants to wait for what follows.
func (d *daemon) impatient() { d.configure("sign_timeout: 10s", "sign_timeout: 2s") }

// doctor runs `breakglassd doctor` and returns what it says.
func (d *daemon) doctor() string {
	d.t.Helper()
	out, _ := runDaemon(d.t, "doctor", "--config", filepath.Join(d.dir, "config.yaml"))
	return out
}

// between puts an HTTP server between the daemon and Vault. before sees each request that Vault has not seen yet, after each
// answer that the daemon has not seen yet; either may be nil, and either may wait.
func (d *daemon) between(before func(*http.Request), after func(*http.Response) error) {
	d.t.Helper()
	target, err := url.Parse(shared.vault.Addr)
	must(d.t, err)
	pem, err := os.ReadFile(shared.vault.CACert)
	must(d.t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	srv := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			if before != nil {
				before(r.Out)
			}
		},
		Transport:      &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}},
		ModifyResponse: after,
		ErrorLog:       log.New(io.Discard, "", 0), // that the daemon gives up is what some tests want
	})
	d.t.Cleanup(srv.Close)
	d.configure(shared.vault.Addr, srv.URL)
}

func signing(r *http.Request) bool { return strings.Contains(r.URL.Path, "/sign/") }

// slowSigning lets Vault sign at once and holds its answer back. asked gets a value when the answer is held; closing release lets it go.
func (d *daemon) slowSigning() (asked chan struct{}, release func()) {
	asked = make(chan struct{}, 8)
	open := make(chan struct{})
	d.between(nil, func(resp *http.Response) error {
		if signing(resp.Request) {
			asked <- struct{}{}
			<-open
		}
		return nil
	})
	release = sync.OnceFunc(func() { close(open) })
	d.t.Cleanup(release)
	return asked, release
}

// wrote sends what root writes to Vault.
func (p *parts) wrote(t *testing.T, path string, data map[string]any) map[string]any {
	t.Helper()
	client, err := p.vault.Client()
	must(t, err)
	s, err := client.Logical().WriteWithContext(t.Context(), path, data)
	must(t, err)
	if s == nil {
		return nil
	}
	if s.Auth != nil {
		return map[string]any{"token": s.Auth.ClientToken}
	}
	return s.Data
}

// refused wants a run of the command line to fail with a code and to say something.
func (d *daemon) refused(code int, says, person string, args ...string) {
	d.t.Helper()
	_, stderr, got := d.try(person, args...)
	if got != code || !strings.Contains(stderr, says) {
		d.t.Errorf("%s: breakglass %s: exit code %d, want %d and %q:\n%s", person, strings.Join(args, " "), got, code, says, stderr)
	}
}

// TestVaultThatSignsTooSlowlyLeavesNothingUsable has Vault sign and answer after sign_timeout: once with a daemon that lives on and
// once with one that is told to stop meanwhile.
func TestVaultThatSignsTooSlowlyLeavesNothingUsable(t *testing.T) {
	for _, stop := range []bool{false, true} {
		t.Run(fmt.Sprintf("stopped=%t", stop), func(t *testing.T) {
			d := newDaemon(t)
			asked, release := d.slowSigning()
			d.impatient()
			d.start("")
			g := d.grant("alice", "admin", 600)
			claimed := make(chan error, 1)
			go func() {
				_, err := g.claim(t.Context())
				claimed <- err
			}()
			select {
			case <-asked:
			case err := <-claimed:
				t.Fatalf("the claim ended before Vault signed: %v", err)
			}
			if stop {
				must(t, d.cmd.Process.Signal(syscall.SIGTERM))
			}
			if err := <-claimed; err == nil || !strings.Contains(err.Error(), "did not answer") {
				t.Errorf("claiming says %v", err)
			}
			release()
			if stop {
				d.stopped()
				d.start("")
			}
			if r := g.wait(breakglass.StateFailed); r.Failed.Why != breakglass.FailOrphan {
				t.Errorf("failed as %s, want %s: Vault has signed", r.Failed.Why, breakglass.FailOrphan)
			}
			d.refused(6, "gave no certificate", "alice", "claim", g.id)
			if slices.Contains(shared.bindings(t), g.id) {
				t.Error("a certificate that nobody got has rights")
			}
			d.stop()
			d.check()
		})
	}
}

func TestClaimInFlightIsCarriedThroughWhenTheDaemonStops(t *testing.T) {
	d := newDaemon(t)
	asked, release := d.slowSigning()
	d.start("")
	g := d.grant("alice", "admin", 600)
	var err error
	claimed := make(chan struct{})
	go func() {
		defer close(claimed)
		_, err = g.claim(t.Context())
	}()
	select {
	case <-asked:
	case <-claimed:
		t.Fatalf("the claim ended before Vault signed: %v", err)
	}
	must(t, d.cmd.Process.Signal(syscall.SIGTERM))
	eventually(t, "the daemon takes no new callers", func() bool {
		_, err := d.client("bob").Whoami(t.Context())
		return err != nil
	})
	release()
	<-claimed
	if err != nil {
		t.Fatalf("the claim in flight: %v", err)
	}
	d.stopped()
	d.check()
	g.works()
	d.start("")
	d.cli("alice", "revoke", g.id, "--reason", "the test is over", "--yes")
	d.stop()
}

func TestWrongCAForVaultIsNamedAndCostsNoGrant(t *testing.T) {
	d := newDaemon(t)
	d.start("")
	g := d.grant("alice", "group", 60)
	d.stop()
	wrong := filepath.Join(shared.dir, mount+"-ca.pem")
	d.configure(shared.vault.CACert, wrong)
	d.launch("/livez", "", shared.daemon)
	want := "cannot prove with " + wrong + " that it is Vault: check the address and the CA file"
	d.refused(6, want, "alice", "claim", g.id)
	eventually(t, "readyz says why", func() bool {
		resp, err := http.Get("http://" + d.health + "/readyz?verbose")
		must(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		must(t, err)
		return resp.StatusCode == http.StatusOK && strings.Contains(string(text), want) // revocation works without Vault
	})
	if out := d.doctor(); !strings.Contains(out, want) {
		t.Errorf("doctor does not say %q:\n%s", want, out)
	}
	d.stop()
	d.configure(wrong, shared.vault.CACert)
	d.start("")
	if _, err := g.claim(t.Context()); err != nil {
		t.Errorf("with the right CA: %v", err)
	}
	d.stop()
	d.check()
}

func TestRevokedTokenAndSecretIDAreReplacedWithoutARestart(t *testing.T) {
	d := newDaemon(t)
	secretID := func() string {
		return shared.wrote(t, "auth/approle/role/breakglassd/secret-id", nil)["secret_id"].(string)
	}
	secret := secretID()
	d.file("secret-id", secret)
	d.configure(filepath.Join(shared.dir, "secret-id"), "secret-id")
	d.start("")
	first, second := d.grant("alice", "group", 60), d.grant("alice", "group", 60)

	shared.revokeTokens(t)
	if _, err := first.claim(t.Context()); err != nil {
		t.Errorf("a daemon that may log in again does not: %v", err)
	}
	shared.wrote(t, "auth/approle/role/breakglassd/secret-id/destroy", map[string]any{"secret_id": secret})
	shared.revokeTokens(t) // last: a daemon that looks around in between would log in again
	d.refused(6, "put a new secret id into "+filepath.Join(d.dir, "secret-id"), "alice", "claim", second.id)
	d.file("secret-id", secretID())
	eventually(t, "the new secret id is used", func() bool {
		_, err := second.claim(t.Context())
		return err == nil
	})
	d.stop()
	d.check()
}

// revokeTokens revokes every token that was made by the daemons' AppRole.
func (p *parts) revokeTokens(t *testing.T) {
	t.Helper()
	client, err := p.vault.Client()
	must(t, err)
	list, err := client.Logical().ListWithContext(t.Context(), "auth/token/accessors")
	must(t, err)
	revoked := 0
	for _, accessor := range list.Data["keys"].([]any) {
		// One that has ended meanwhile cannot be looked up, and need not be.
		if s, err := client.Logical().WriteWithContext(t.Context(), "auth/token/lookup-accessor",
			map[string]any{"accessor": accessor}); err == nil && strings.HasPrefix(s.Data["path"].(string), "auth/approle/") {
			p.wrote(t, "auth/token/revoke-accessor", map[string]any{"accessor": accessor})
			revoked++
		}
	}
	if revoked == 0 {
		t.Fatal("the daemon has no token to revoke")
	}
}

func TestTokenInAFileThatEndedIsNamedAndReplacedWithoutARestart(t *testing.T) {
	d := newDaemon(t)
	token := func() string {
		return shared.wrote(t, "auth/token/create-orphan", map[string]any{"policies": []string{"breakglassd"}, "no_default_policy": true,
			"ttl": "10m", "explicit_max_ttl": "10m"})["token"].(string)
	}
	d.configure(fmt.Sprintf("{method: approle, role_id: %q, secret_id_file: %q}", shared.roleID, filepath.Join(shared.dir, "secret-id")),
		"{method: token_file, token_file: token}")
	first := token()
	d.file("token", first)
	d.start("")
	g := d.grant("alice", "group", 60)
	shared.wrote(t, "auth/token/revoke", map[string]any{"token": first})
	d.refused(6, "does not accept the token in "+filepath.Join(d.dir, "token"), "alice", "claim", g.id)
	d.file("token", token())
	eventually(t, "the new token is used", func() bool {
		_, err := g.claim(t.Context())
		return err == nil
	})
	d.stop()
	d.check()
}

// olderTwin makes an issuer with the name and the key of the CA that signs, which began an hour ago, and returns its id: Vault signs
// nothing that begins before its issuer (seen in the source of 1.21.1; 1.21.0 did).
func olderTwin(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(shared.dir, mount+"-ca.pem"))
	must(t, err)
	block, _ := pem.Decode(text)
	ca, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	client, err := shared.vault.Client()
	must(t, err)
	signs, err := client.Logical().ReadWithContext(t.Context(), mount+"/issuer/"+shared.issuerID)
	must(t, err)
	made := shared.wrote(t, mount+"/issuers/generate/root/existing", map[string]any{"key_ref": signs.Data["key_id"],
		"common_name":   ca.Subject.CommonName,
		"serial_number": ca.Subject.SerialNumber, "exclude_cn_from_sans": true, "max_path_length": 0, "ttl": "24h", "not_before_duration": "1h"})
	return made["issuer_id"].(string)
}

// TestVaultWhoseClockIsOffIsNotBelieved has a Vault that tells a time five minutes ahead, which is noticed before it signs, and then one
// that does not tell and signs as one that is five minutes behind.
func TestVaultWhoseClockIsOffIsNotBelieved(t *testing.T) {
	const off = 300 // seconds
	role := mount + "/roles/clock"
	twin := olderTwin(t)
	shared.wrote(t, role, map[string]any{"issuer_ref": twin, "allow_any_name": true, "enforce_hostnames": false, "allow_bare_domains": true,
		"server_flag": false, "client_flag": true,
		"key_type": "any", "key_usage": "DigitalSignature", "use_csr_common_name": false, "use_csr_sans": false, "max_ttl": "1h",
		"no_store":     false,
		"organization": []string{"breakglass:cluster-admins"}, "not_before_duration": strconv.Itoa(30+off) + "s"})
	t.Cleanup(func() {
		client, err := shared.vault.Client()
		must(t, err)
		for _, path := range []string{role, mount + "/issuer/" + twin} {
			_, err = client.Logical().DeleteWithContext(context.Background(), path)
			must(t, err)
		}
	})
	d := newDaemon(t)
	var tells atomic.Bool
	d.between(func(r *http.Request) {
		if !signing(r) {
			return
		}
		var body map[string]any
		must(t, json.NewDecoder(r.Body).Decode(&body))
		ttl, err := strconv.Atoi(body["ttl"].(string))
		must(t, err)
		body["ttl"] = strconv.Itoa(ttl - off)
		text, err := json.Marshal(body)
		must(t, err)
		r.URL.Path = "/v1/" + mount + "/sign/clock"
		r.Header.Set("X-Vault-Token", shared.vault.RootToken)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(text)), int64(len(text))
	}, func(resp *http.Response) error {
		if resp.Request.URL.Path != "/v1/sys/health" || !tells.Load() {
			return nil
		}
		var body map[string]any
		if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
			return err
		}
		body["server_time_utc"] = time.Now().Unix() + off
		text, err := json.Marshal(body)
		resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(text)), int64(len(text))
		resp.Header.Set("Content-Length", strconv.Itoa(len(text)))
		return err
	})
	d.start("")
	g := d.grant("alice", "group", 600)
	tells.Store(true)
	const told = "Vault's clock and this one differ by "
	d.refused(6, told, "alice", "claim", g.id)
	if out := d.doctor(); !strings.Contains(out, told) {
		t.Errorf("doctor does not see the clock:\n%s", out)
	}
	tells.Store(false)
	if r := g.wait(breakglass.StateApproved); r.Certificate != nil {
		t.Error("something was signed")
	}
	d.refused(6, "clock and ours differ by more than 1m0s", "alice", "claim", g.id)
	if r := g.wait(breakglass.StateFailed); r.Failed.Why != breakglass.FailCheck {
		t.Errorf("failed as %s: %s", r.Failed.Why, r.Failed.Detail)
	}
	d.stop()
	d.check()
}

// TestFullDiskEndsTheDaemonAndRoomBringsItBack bounds the size of the ledger's files, as a full disk does. What a failed write
// has left on disk is read by the next process.
func TestFullDiskEndsTheDaemonAndRoomBringsItBack(t *testing.T) {
	d := newDaemon(t)
	d.start("")
	g := d.grant("alice", "admin", 600)
	d.stop()
	d.launch("/readyz", "", "sh", "-c", `ulimit -f 1024 && exec "$0" "$@"`, shared.daemon)
	people := []*api.Client{d.client("erin"), d.client("dave")} // each may do so ten times in a minute
	r, err := people[0].Get(t.Context(), g.id)
	must(t, err)
	known := len(r.Approvals)
	for n := 0; err == nil; n++ {
		if n == 20 {
			t.Fatal("the limit has no effect")
		}
		person := people[n%2]
		if r, err = person.Approve(t.Context(), r, ""); err == nil {
			r, err = person.Command(t.Context(), g.id, "take-back", "filling the disk")
		}
	}
	// The write that failed may be one that the daemon made for itself: then nobody is there any more to answer.
	if text := err.Error(); !strings.Contains(text, "the daemon cannot write its ledger now") && !strings.Contains(text, "cannot be reached") {
		t.Errorf("the person is told %v", err)
	}
	select {
	case <-d.exited:
	case <-time.After(time.Minute):
		t.Fatalf("the daemon lives on although it cannot know what is on disk:\n%s", d.logged())
	}
	if code := d.cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("the daemon ended with %s, want exit code 1", d.cmd.ProcessState)
	}
	for _, want := range []string{"restart the process, which reads the truth from disk", "check free space and the disk first"} {
		if !strings.Contains(d.logged(), want) {
			t.Errorf("the daemon's last words are not %q:\n%s", want, d.logged())
		}
	}
	d.cmd = nil
	d.check()
	d.start("")
	if r := g.wait(breakglass.StateApproved); len(r.Approvals) < known {
		t.Errorf("%d approvals after the full disk, %d before", len(r.Approvals), known)
	}
	if _, err := g.claim(t.Context()); err != nil {
		t.Errorf("claiming with room again: %v", err)
	}
	d.cli("alice", "revoke", g.id, "--reason", "the test is over", "--yes")
	d.stop()
	d.check()
}

func TestRevokeWhileTheAPIServerIsDownIsCarriedOutWhenItIsBack(t *testing.T) {
	d := newDaemon(t)
	d.start("")
	g := d.grant("alice", "admin", 600)
	_, err := g.claim(t.Context())
	must(t, err)
	shared.kube.Stop()
	stopped := true
	t.Cleanup(func() {
		if stopped {
			_ = shared.kube.Start(context.Background())
		}
	})
	_, stderr, code := d.try("bob", "revoke", g.id, "--reason", "laptop stolen", "--yes", "--wait", "2s")
	if code != 6 || !strings.Contains(stderr, "revoked and recorded, but not every API server refuses it yet") ||
		!strings.Contains(stderr, "the daemon keeps asking") {
		t.Errorf("revoking without an API server: exit code %d\n%s", code, stderr)
	}
	if r := g.wait(breakglass.StateRevoked); !r.Certificate.Bound {
		t.Error("recorded as unbound by an API server that is down")
	}
	must(t, shared.kube.Start(t.Context()))
	stopped = false
	eventually(t, "the binding goes", func() bool { return !slices.Contains(shared.bindings(t), g.id) })
	if _, err := kubectl(t, g.kubeconfig(), "get", "namespaces"); err == nil {
		t.Error("the revoked certificate still works")
	}
	d.stop()
	d.check()
}

func TestUnknownPeopleGetNothingAnywhere(t *testing.T) {
	d := newDaemon(t)
	policy := bgtest.Policy()
	from := strings.Index(policy, "  - {id: mallory")
	to := from + strings.IndexByte(policy[from:], '\n') + 1
	d.writePolicy(policy[:from] + policy[to:])
	d.start("")
	g := d.grant("alice", "admin", 600)
	for _, args := range [][]string{{"whoami"}, {"list"}, {"status", g.id}, {"show", g.id}, {"profiles"},
		{"request", "-p", "admin", "--reason", "let me in, please"},
		{"approve", g.id, "--yes"}, {"claim", g.id}, {"revoke", g.id, "--yes", "--reason", "because"}} {
		out, stderr, code := d.try("mallory", args...)
		if code != 4 || out != "" || strings.Contains(stderr, "etcd quorum lost") {
			t.Errorf("mallory: breakglass %s: exit code %d, want 4\n%s%s", strings.Join(args, " "), code, out, stderr)
		}
	}
	say := func(person, text string) string {
		reply, err := d.slack.As(bgtest.SlackUser(person)).Slash(t.Context(), text)
		must(t, err)
		if reply.Message == nil || reply.Message.EphemeralTo == "" {
			t.Fatalf("%q by %s is not answered in private: %s", text, person, reply.Body)
		}
		return reply.Message.AllText()
	}
	for _, text := range []string{"list", "status", "status " + g.id, "c1 30m let me in, please"} {
		if got := say("mallory", text); !strings.Contains(got, "not in the access policy") || strings.Contains(got, "alice") {
			t.Errorf("mallory types %q and is told %s", text, got)
		}
	}
	for text, want := range map[string]string{"help": "Ask for emergency access", "list": g.id, "status": g.id, "status " +
		g.id: "etcd quorum lost", "status bg-zzzz": "There is no request"} {
		if got := say("alice", text); !strings.Contains(got, want) {
			t.Errorf("alice types %q and is told %s, want %q", text, got, want)
		}
	}
	d.stop()
	d.check()
}

func TestInterruptedRequestIsResumed(t *testing.T) {
	d := newDaemon(t)
	d.start("")
	kubeconfig := filepath.Join(d.dir, "alice.kubeconfig")
	cmd := d.command("alice", "request", "-c", "c1", "-p", "group", "--for", "10m", "--reason", "API server answers 5xx", "--out", kubeconfig)
	log := filepath.Join(d.dir, "request.log")
	file, err := os.Create(log)
	must(t, err)
	defer file.Close()
	var stdout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, file
	must(t, cmd.Start())
	said := func() string {
		text, err := os.ReadFile(log)
		must(t, err)
		return string(text)
	}
	eventually(t, "it says whom it waits for", func() bool { return strings.Contains(said(), "… waiting for") })
	id := requestID.FindString(said())
	must(t, cmd.Process.Signal(os.Interrupt))
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 || stdout.Len() > 0 || !strings.Contains(said(), "breakglass request --resume="+id) {
		t.Errorf("Ctrl-C: exit code %d, want 130 and how to go on\n%s%s", code, stdout.String(), said())
	}
	d.cli("carol", "approve", id, "--yes")
	d.stop()
	d.start("")
	d.cli("bob", "approve", id, "--yes")
	if out := d.cli("alice", "request", "--resume", id, "--out", kubeconfig); out != "export KUBECONFIG="+kubeconfig+"\n" {
		t.Errorf("resuming prints %q", out)
	}
	who, err := kubectl(t, kubeconfig, "auth", "whoami")
	if err != nil || !strings.Contains(who, "breakglass:alice:"+id) {
		t.Errorf("with the certificate: %v\n%s", err, who)
	}
	d.stop()
	d.check()
}

func TestEveryCommandSpeaksJSON(t *testing.T) {
	d := newDaemon(t)
	d.reviewed()
	d.start("")
	type object struct {
		APIVersion, Kind, ID, Code string
		Exit                       int
	}
	ran := map[string]bool{}
	run := func(kind, person string, args ...string) object {
		t.Helper()
		ran[args[0]] = true
		out, stderr, code := d.try(person, append(args, "-o", "json")...)
		if code != 0 && (code != 8 || args[0] != "ca" && args[0] != "findings") { // 8: they print what they found, and somebody has to act
			t.Fatalf("breakglass %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, stderr)
		}
		var o object
		if err := json.Unmarshal([]byte(out), &o); err != nil || o.APIVersion != api.Version || o.Kind != kind {
			t.Errorf("breakglass %s -o json: want one %s: %v\n%s", strings.Join(args, " "), kind, err, out)
		}
		return o
	}
	ask := []string{"request", "-p", "admin", "--reason", "etcd quorum lost, API 5xx"}
	run("ClientVersion", "alice", "version")
	run("Person", "alice", "whoami")
	run("Profiles", "alice", "profiles")
	run("Policy", "carol", "policy", "show")
	run("RequestPreview", "alice", append(ask, "--dry-run")...)
	id := run("Request", "alice", append(ask, "--no-wait")...).ID
	run("Requests", "carol", "list", "--for-me")
	run("Request", "bob", "approve", id, "--yes")
	run("Request", "carol", "approve", id, "--yes")
	run("Request", "alice", "status")
	ran["claim"] = true
	d.file("credential.json", d.cli("alice", "claim", id, "-o", "json"))
	run("RequestHistory", "bob", "show", id)
	run("Request", "bob", "revoke", id, "--reason", "the test is over", "--yes")
	other := run("Request", "alice", append(ask, "--no-wait")...).ID
	run("Request", "carol", "deny", other, "--reason", "not today", "--yes")
	third := run("Request", "alice", append(ask, "--no-wait")...).ID
	run("Request", "alice", "withdraw", third, "--yes")
	run("Request", "alice", "close", id, "--note", "it was only a test")
	run("CAReport", "carol", "ca", "check")
	run("CAPlan", "carol", "ca", "plan")
	run("Campaign", "carol", "recert", "start", "--yes")
	run("Campaigns", "carol", "recert", "list")
	shared.admin(t, "create", "clusterrolebinding", "planted", "--clusterrole=view", "--user=eve")
	t.Cleanup(func() { shared.kubectlAdmin("delete", "clusterrolebinding", "planted", "--ignore-not-found") })
	d.file("audit.log",
		fmt.Sprintf(`{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"11111111-2222-3333-4444-555555555555","stage":"ResponseComplete","verb":"create",`+
			`"requestURI":"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings","user":{"username":"breakglass:alice:%s"},"sourceIPs":["10.0.0.7"],"responseStatus":{"code":201},`+
			`"objectRef":{"resource":"clusterrolebindings","name":"planted","apiGroup":"rbac.authorization.k8s.io","apiVersion":"v1"},`+
			`"requestReceivedTimestamp":"%[2]s","stageTimestamp":"%[2]s"}`+"\n", id, time.Now().UTC().Format("2006-01-02T15:04:05.000000Z")))
	run("AuditImport", "carol", "audit", "import", "-c", "c1", filepath.Join(d.dir, "audit.log"))
	run("Request", "carol", "sweep", id)
	run("Request", "carol", "ack", id, "--note", "a test made it, and deletes it", "--yes")
	run("Findings", "carol", "findings")
	run("ProofVerification", "carol", "ledger", "verify", filepath.Join(d.dir, "credential.json"))
	export := filepath.Join(d.dir, "export")
	if out, err := runDaemon(t, "ledger", "export", "--config", filepath.Join(d.dir, "config.yaml"), export); err != nil {
		t.Fatalf("exporting: %v %s", err, out)
	}
	run("Verification", "carol", "ledger", "verify", export)
	run("SignedOut", "alice", "logout")
	for _, line := range strings.Split(d.cli("alice", "--help"), "\n") {
		if f := strings.Fields(line); strings.HasPrefix(line, "  ") && len(f) > 1 && f[0] != "completion" && f[0] != "help" &&
			!strings.HasPrefix(f[0], "-") && f[0] != "breakglass" && !ran[f[0]] {
			t.Errorf("breakglass %s has not been tried", f[0])
		}
	}

	// The documented exit codes, each by what a person would do.
	fourth := run("Request", "alice", append(ask, "--no-wait")...).ID
	for _, tt := range []struct {
		code   int
		name   string
		person string
		args   []string
	}{
		{1, "unknown-request", "alice", []string{"show", "bg-0000-000"}},
		{2, "usage", "alice", []string{"show"}},
		{2, "usage", "alice", []string{"ledger", "verfy"}},
		{3, "self-approval", "alice", []string{"approve", fourth, "--yes"}},
		{3, "denied", "alice", []string{"claim", other}},
		{5, "wait-timeout", "alice", []string{"request", "--resume", fourth, "--wait-timeout", "100ms"}},
		{6, "unreachable", "alice", []string{"whoami", "--server", "http://" + freeAddress(t)}},
		{7, "policy/reason", "alice", []string{"request", "-p", "admin", "--reason", "short"}},
		{8, "verification", "alice", []string{"ledger", "verify", export, "--key", otherLedgerKey(t)}},
	} {
		out, stderr, code := d.try(tt.person, append(tt.args, "-o", "json")...)
		lines := strings.Split(strings.TrimSpace(stderr), "\n")
		var o object
		err := json.Unmarshal([]byte(lines[len(lines)-1]), &o)
		if err != nil || code != tt.code || o.Exit != tt.code || o.Kind != "Error" || o.Code != tt.name {
			t.Errorf("breakglass %s -o json: exit code %d, want %d and code %s: %v\n%s%s", strings.Join(tt.args, " "), code, tt.code, tt.name, err,
				out, stderr)
		}
	}
	d.stop()
	d.check()
}

// otherLedgerKey is the public key of a ledger that is not here.
func otherLedgerKey(t *testing.T) string {
	t.Helper()
	_, vkey, err := ledger.NewKey("breakglass.test/e2e")
	must(t, err)
	return vkey
}

func TestKubectlFindsItsPlugin(t *testing.T) {
	d := newDaemon(t)
	d.start("")
	bin := filepath.Join(d.dir, "bin")
	must(t, os.Mkdir(bin, 0o755))
	must(t, os.Symlink(shared.cli, filepath.Join(bin, "kubectl-breakglass")))
	plugin := func(args ...string) (out, stderr string, code int) {
		cmd := exec.CommandContext(t.Context(), shared.bins[real.KubeCtl], append([]string{"breakglass"}, args...)...)
		cmd.Env = append(d.command("alice").Env, "PATH="+bin+":"+os.Getenv("PATH"))
		var o, e bytes.Buffer
		cmd.Stdout, cmd.Stderr = &o, &e
		_ = cmd.Run()
		return o.String(), e.String(), cmd.ProcessState.ExitCode()
	}
	if out, stderr, code := plugin("version"); code != 0 || !strings.HasPrefix(out, "breakglass ") {
		t.Errorf("kubectl breakglass version: exit code %d\n%s%s", code, out, stderr)
	}
	if out, stderr, code := plugin("whoami", "-o", "json"); code != 0 || !strings.Contains(out, `"person": "alice"`) {
		t.Errorf("kubectl breakglass whoami: exit code %d\n%s%s", code, out, stderr)
	}
	if _, stderr, code := plugin("show", "bg-0000-000"); code != 1 || !strings.Contains(stderr, "kubectl breakglass list") {
		t.Errorf("kubectl breakglass show: exit code %d, want 1 and the next step as people type it\n%s", code, stderr)
	}
	if _, _, code := plugin("show"); code != 2 {
		t.Errorf("kubectl breakglass show without an id: exit code %d, want 2", code)
	}
	d.stop()
}

// TestRoleInTwoNamespacesIsBoundThereAndNowhereElse goes the whole way with a profile that binds a Role, with the shipped RBAC
// manifest in which the rule for Roles is no comment any more, as its text says.
func TestRoleInTwoNamespacesIsBoundThereAndNowhereElse(t *testing.T) {
	const shipped = "../../../policies/kubernetes/rbac.yaml"
	text, err := os.ReadFile(shipped)
	must(t, err)
	rule := strings.NewReplacer("  # - apiGroups", "  - apiGroups", "  #   ", "    ").Replace(string(text))
	if !strings.Contains(rule, "    resourceNames: [fixer]\n") || strings.Contains(rule, "#   resourceNames") {
		t.Fatal("the shipped manifest has no rule for Roles to take the comment signs from")
	}
	file := filepath.Join(t.TempDir(), "rbac.yaml")
	must(t, os.WriteFile(file, []byte(rule), 0o600))
	t.Cleanup(func() { shared.kubectlAdmin("apply", "-f", shipped) })
	shared.admin(t, "apply", "-f", file)
	for _, ns := range []string{"default", "kube-system"} {
		t.Cleanup(func() { shared.kubectlAdmin("-n", ns, "delete", "role", "fixer") })
		shared.admin(t, "-n", ns, "create", "role", "fixer", "--verb=get,list", "--resource=configmaps")
	}

	d := newDaemon(t)
	d.start("")
	id := requestID.FindString(d.cli("alice", "request", "-p", "scoped", "--reason", "etcd quorum lost, API 5xx", "--no-wait"))
	d.cli("bob", "approve", id, "--yes")
	d.cli("carol", "approve", id, "--yes")
	kubeconfig := filepath.Join(d.dir, "alice.kubeconfig")
	d.cli("alice", "claim", id, "--out", kubeconfig)
	for _, ns := range []string{"default", "kube-system"} {
		eventually(t, "the role works in "+ns, func() bool {
			_, err := kubectl(t, kubeconfig, "-n", ns, "get", "configmaps")
			return err == nil
		})
		if _, err := kubectl(t, kubeconfig, "-n", ns, "get", "secrets"); err == nil {
			t.Errorf("the role gives more than it says in %s", ns)
		}
	}
	if _, err := kubectl(t, kubeconfig, "-n", "kube-public", "get", "configmaps"); err == nil {
		t.Error("the role is bound in a namespace that the profile does not name")
	}
	if have := shared.bindings(t); slices.Contains(have, id) {
		t.Errorf("a profile with a role made a ClusterRoleBinding: %v", have)
	}
	roleBindings := func() string {
		return shared.admin(t, "get", "rolebindings", "-A", "-l", "breakglass.dev/request="+id, "-o", "jsonpath={.items[*].metadata.namespace}")
	}
	if have := roleBindings(); have != "default kube-system" {
		t.Errorf("bindings in %q", have)
	}
	d.cli("carol", "revoke", id, "--reason", "the test is over", "--yes")
	if have := roleBindings(); have != "" {
		t.Errorf("after revoking there are bindings in %q", have)
	}
	if _, err := kubectl(t, kubeconfig, "-n", "default", "get", "configmaps"); err == nil {
		t.Error("the revoked certificate still works")
	}
	d.stop()
	d.check()
}
