package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/bgtest/realtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/devmode"
	"github.com/breakglassd/breakglass/internal/real"
	"github.com/breakglassd/breakglass/internal/session"
)

// watched is a daemon that two API servers of the cluster call with the shipped files, while a third one, which it is told of
// as well, does not.
type watched struct {
	*daemon
	servers []*real.APIServer
}

const hookToken = "canary-token-of-the-api-servers"

func newWatched(t *testing.T, policy string, authorization ...func(string) string) *watched {
	t.Helper()
	w := &watched{daemon: newDaemon(t)}
	hooks := freeAddress(t)
	w.file("hook-token", hookToken)
	cert, key, err := devmode.ServingPEM("breakglassd")
	must(t, err)
	w.file("hook.crt", string(cert))
	w.file("hook.key", string(key))
	ca, err := os.ReadFile(filepath.Join(shared.dir, mount+"-ca.pem"))
	must(t, err)
	for range 2 {
		dir := t.TempDir()
		files := map[string][]byte{"audit-policy.yaml": shipped(t, "audit-policy.yaml")}
		for _, what := range []string{"audit", "authorize"} {
			files[what+".kubeconfig"] = fmt.Appendf(nil, "apiVersion: v1\nkind: Config\nclusters: [{name: b, cluster: {server: %q, "+
				"certificate-authority-data: %s}}]\nusers: [{name: k, user: {token: %q}}]\n"+
				"contexts: [{name: b, context: {cluster: b, user: k}}]\ncurrent-context: b\n", "https://"+hooks+"/"+what+"/c1",
				base64.StdEncoding.EncodeToString(cert), hookToken)
		}
		text := strings.ReplaceAll(string(shipped(t, "authorization-config.deny.yaml")),
			"/etc/kubernetes/breakglass/authorization-webhook.kubeconfig", filepath.Join(dir, "authorize.kubeconfig"))
		for _, change := range authorization {
			text = change(text)
		}
		files["authorization.yaml"] = []byte(text)
		w.servers = append(w.servers, realtest.NewCluster(t, real.APIServerOptions{Dir: dir, ReplicaOf: shared.kube, ClientCAs: ca, Files: files,
			Flags: []string{"--authorization-config=authorization.yaml", "--audit-policy-file=audit-policy.yaml",
				"--audit-webhook-config-file=audit.kubeconfig",
				"--audit-webhook-batch-max-wait=1s", "--audit-webhook-initial-backoff=1s"}}))
	}
	config, err := os.ReadFile(filepath.Join(w.dir, "config.yaml"))
	must(t, err)
	text := strings.Replace(string(config), "vault_max_ttl: 1h}",
		fmt.Sprintf("vault_max_ttl: 1h, webhook_token_file: hook-token, api_servers: [%q, %q, %q]}\n"+
			"webhooks: {address: %q, tls_cert_file: hook.crt, tls_key_file: hook.key}\nsessions: {path: sessions.db, grace: 10s}", w.servers[0].URL,
			w.servers[1].URL, shared.kube.URL, hooks), 1)
	w.file("config.yaml", text)
	w.writePolicy(policy)
	return w
}

// shipped is a file of deploy/kube-apiserver.
func shipped(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("../../../deploy/kube-apiserver/" + name)
	must(t, err)
	return text
}

// use runs kubectl with a grant's certificate at one of the API servers.
func (w *watched) use(g *grant, server *real.APIServer, args ...string) (string, bool) {
	w.t.Helper()
	path := filepath.Join(w.dir, "at-"+g.id+".kubeconfig")
	text, err := os.ReadFile(g.kubeconfig())
	must(w.t, err)
	must(w.t, os.WriteFile(path, []byte(strings.ReplaceAll(string(text), shared.kube.URL, server.URL)), 0o600))
	out, stderr, err := shared.bins.Kubectl(w.t.Context(), path, args...)
	return out + stderr, err == nil
}

// show reads a request as the command line shows it.
func (w *watched) show(id string) api.Request {
	w.t.Helper()
	var v struct {
		Request api.Request `json:"request"`
	}
	must(w.t, json.Unmarshal([]byte(w.cli("carol", "show", id, "-o", "json")), &v))
	return v.Request
}

// eventually asks again until there is nothing to complain about.
func (w *watched) eventually(limit time.Duration, complaint func() string) {
	w.t.Helper()
	var last string
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(300 * time.Millisecond) {
		if last = complaint(); last == "" {
			return
		}
	}
	w.t.Fatal(last)
}

func (w *watched) metrics() string {
	resp, err := http.Get("http://" + w.health + "/metrics")
	must(w.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(w.t, err)
	return string(text)
}

// TestWhatIsDoneWithAGrantIsCutOffReportedAndAccountedFor is the whole of what follows a grant, on real components and through
// the command line: proof of the revocation on each API server, the session's report, the sweep, the acknowledgement, the
// closing note, and what the daemon finds about API servers that do not call it.
func TestWhatIsDoneWithAGrantIsCutOffReportedAndAccountedFor(t *testing.T) {
	policy := strings.Replace(bgtest.Policy(), "    incident: {pattern: \"^INC-[0-9]+$\"}\n    risk: high",
		"    risk: high\n    guards: [impersonate, exec]", 1) +
		"\nresponders: [security]\nclosing: {within: 1h, raiseQuorum: true}\n"
	w := newWatched(t, policy)
	shared.admin(t, "apply", "-f", "../../../policies/kubernetes/optional/sweep.yaml")
	shared.admin(t, "create", "secret", "generic", "payroll", "--from-literal=x=y")
	t.Cleanup(func() {
		shared.kubectlAdmin("delete", "-f", "../../../policies/kubernetes/optional/sweep.yaml", "--ignore-not-found")
		shared.kubectlAdmin("delete", "secret", "payroll", "--ignore-not-found")
		shared.kubectlAdmin("delete", "clusterrolebinding", "evil-eve", "--ignore-not-found")
		shared.kubectlAdmin("delete", "serviceaccount", "backdoor", "--ignore-not-found")
	})
	w.start("")
	g := w.grant("alice", "admin", 600)
	_, err := g.claim(t.Context())
	must(t, err)
	here, there := w.servers[0], w.servers[1]

	// What alice does: looks, reads a Secret, is refused by a guard, and leaves two things behind, one at each API server.
	for _, step := range []struct {
		at     *real.APIServer
		denied string // by what; empty: it works
		args   []string
	}{
		{here, "", []string{"get", "namespaces"}},
		{here, "", []string{"get", "secret", "payroll", "-o", "yaml"}},
		{here, "guard impersonate", []string{"get", "pods", "--as", "bob"}},
		{here, "", []string{"create", "clusterrolebinding", "evil-eve", "--clusterrole=cluster-admin", "--user=eve"}},
		{there, "", []string{"create", "serviceaccount", "backdoor"}},
		{there, "", []string{"create", "token", "backdoor", "--duration=1h"}},
		{there, "", []string{"create", "configmap", "scratch", "--from-literal=a=b"}},
		{there, "", []string{"delete", "configmap", "scratch"}},
	} {
		w.eventually(time.Minute, func() string { // the binding takes a moment to reach each API server
			if out, ok := w.use(g, step.at, step.args...); ok != (step.denied == "") || !strings.Contains(out, step.denied) {
				return fmt.Sprintf("kubectl %s: worked %t, want it denied by %q: %s", strings.Join(step.args, " "), ok, step.denied, out)
			}
			return ""
		})
	}

	// Cut off, by a responder, and proved at all three.
	out := w.cli("erin", "revoke", g.id, "--reason", "seen enough", "--yes", "-o", "json")
	var revoked api.Request
	must(t, json.Unmarshal([]byte(out), &revoked))
	if r := revoked.Receipt; r == nil || !r.Final || len(r.Answers) != 3 {
		t.Fatalf("got receipt %+v, want three final answers", revoked.Receipt)
	}
	for _, a := range revoked.Receipt.Answers {
		t.Logf("%s refused it %d ms after the revocation (%s, asked %d times)", a.Server, a.AfterMillis, a.By, a.Tries)
	}
	for _, at := range []*real.APIServer{here, there, shared.kube} {
		if out, ok := w.use(g, at, "get", "namespaces"); ok {
			t.Errorf("the receipt says it is refused at %s, and it is not: %s", at.URL, out)
		}
	}

	// The session's report and the sweep.
	var after api.Request
	w.eventually(2*time.Minute, func() string {
		if after = w.show(g.id); after.Session == nil || after.Swept == nil {
			return "the session was not examined"
		}
		return ""
	})
	s := after.Session
	if s.Source != breakglass.SourceAudit || s.SecretsRead < 1 || s.Writes < 4 || s.Refused < 1 || len(s.From) == 0 || s.First.IsZero() {
		t.Errorf("got session %+v, want reads of Secrets, writes, refusals and where from", s)
	}
	for _, want := range []string{"ClusterRoleBinding evil-eve", "backdoor"} {
		if !slices.ContainsFunc(after.Swept.Items, func(x breakglass.Residue) bool { return strings.Contains(x.Object, want) }) {
			t.Errorf("the sweep did not find %s: %+v", want, after.Swept.Items)
		}
	}
	for _, x := range after.Swept.Items {
		t.Logf("left behind: %s %s (%s, exists %s): %s", x.Severity, x.Object, x.Found, x.Exists, x.What)
		if strings.Contains(x.Object, "scratch") || strings.Contains(x.Object, "breakglass-"+g.id) {
			t.Errorf("the sweep calls %s left behind, and it is gone", x.Object)
		}
	}
	report := w.cli("carol", "show", g.id, "--session", "-o", "json")
	var whole session.Session
	must(t, json.Unmarshal([]byte(report), &whole))
	if whole.Joined != "fingerprint" || whole.Fingerprint != revoked.Certificate.Fingerprint {
		t.Errorf("the report is joined by %q, want by the fingerprint", whole.Joined)
	}
	for _, want := range []string{"payroll", "evil-eve", "backdoor"} {
		if !slices.ContainsFunc(whole.Timeline, func(l session.Line) bool { return l.Object != nil && l.Object.Name == want }) {
			t.Errorf("the report does not name %s", want)
		}
	}
	html := filepath.Join(w.dir, "session.html")
	w.cli("carol", "show", g.id, "--session", "-o", "html", "--out", html)
	if text, err := os.ReadFile(html); err != nil || !strings.Contains(string(text), "evil-eve") || strings.Contains(string(text), "<script") {
		t.Errorf("the HTML report: %v", err)
	}

	// Cleaned up, looked at again, acknowledged and closed.
	shared.admin(t, "delete", "clusterrolebinding", "evil-eve")
	shared.admin(t, "delete", "serviceaccount", "backdoor")
	w.cli("carol", "sweep", g.id)
	if again := w.show(g.id); slices.ContainsFunc(again.Swept.Items,
		func(x breakglass.Residue) bool { return strings.Contains(x.Object, "evil-eve") }) {
		t.Errorf("after the clean-up the sweep still finds %+v", again.Swept.Items)
	} else if len(again.Swept.Items) > 0 {
		w.cli("carol", "ack", g.id, "--note", "the token ends with its service account", "--yes")
	}
	if _, stderr, code := w.try("bob", "close", g.id, "--note", "restarted etcd on node 3"); code != 3 {
		t.Errorf("bob closes alice's session: %d %s", code, stderr)
	}
	w.cli("alice", "close", g.id, "--note", "restarted etcd on node 3; removed what I had made")
	if list := w.cli("carol", "list", "--touched"); strings.Contains(list, g.id) {
		t.Errorf("it is still touched: %s", list)
	}

	// Heartbeats come back from the API servers that call; the third one is found silent, and without guards.
	w.eventually(2*time.Minute, func() string {
		text := w.metrics()
		if !strings.Contains(text, `breakglass_audit_alive{cluster="c1",server="`+shared.kube.URL+`"} 0`) {
			return "the API server that sends no audit events is not found"
		}
		return ""
	})
	for _, at := range w.servers {
		if text := w.metrics(); !strings.Contains(text, `breakglass_audit_alive{cluster="c1",server="`+at.URL+`"} 1`) {
			t.Errorf("%s sends audit events and is called silent", at.URL)
		}
	}
	keys := map[string]bool{}
	w.eventually(30*time.Second, func() string {
		var found api.Findings
		out, _, code := w.try("carol", "findings", "-o", "json")
		must(t, json.Unmarshal([]byte(out), &found))
		for _, f := range found.Items {
			keys[f.Key] = true
		}
		if !keys["audit-silent/c1/"+shared.kube.URL] || !keys["webhook-not-asked/c1/"+shared.kube.URL] || code != 8 {
			return fmt.Sprintf("got findings %v and exit code %d, want the silent API server that asks nobody, and 8", keys, code)
		}
		return ""
	})
	for _, at := range w.servers {
		if keys["audit-silent/c1/"+at.URL] || keys["webhook-not-asked/c1/"+at.URL] {
			t.Errorf("a false alarm about %s", at.URL)
		}
	}
	w.check()
}

// TestRevokeAllCutsOffEveryModeAtEveryAPIServer: binding by RBAC, group by the deny webhook; measured for each.
func TestRevokeAllCutsOffEveryModeAtEveryAPIServer(t *testing.T) {
	// The API servers remember longer than this test takes to ask them, so that only a receipt that waits can be true.
	const remember = 15 * time.Second
	w := newWatched(t, bgtest.Policy()+"\nresponders: [security]\n", func(s string) string {
		return strings.Replace(s, "unauthorizedTTL: 1s", "unauthorizedTTL: "+remember.String(), 1)
	})
	config, err := os.ReadFile(filepath.Join(w.dir, "config.yaml"))
	must(t, err)
	w.file("config.yaml", strings.Replace(string(config), fmt.Sprintf(", %q]}", shared.kube.URL), "]}", 1)) // the two that ask the webhook
	shared.admin(t, "create", "clusterrolebinding", "bg-group", "--clusterrole=cluster-admin", "--group=breakglass:cluster-admins")
	t.Cleanup(func() { shared.kubectlAdmin("delete", "clusterrolebinding", "bg-group", "--ignore-not-found") })
	w.start("")
	binding, group := w.grant("alice", "admin", 600), w.grant("alice", "group", 600)
	firstUsed := map[string]time.Time{} // by API server; the group's certificate comes last
	for _, g := range []*grant{binding, group} {
		_, err := g.claim(t.Context())
		must(t, err)
		for _, at := range w.servers {
			firstUsed[at.URL] = time.Now()
			w.eventually(time.Minute, func() string {
				if out, ok := w.use(g, at, "get", "namespaces"); !ok {
					return out
				}
				return ""
			})
		}
	}
	for _, at := range w.servers {
		if out, ok := w.use(group, at, "get", "namespaces"); !ok { // it is remembered from now on, if it was not before
			t.Fatal(out)
		}
	}
	out, stderr, code := w.try("carol", "revoke", "--all", "-c", "c1", "--confirm", "c1", "--reason", "control plane compromised", "-o",
		"json")
	if code != 0 && code != 6 { // 6: answers are still remembered
		t.Fatalf("revoke --all: %d %s", code, stderr)
	}
	var got api.Revocations
	must(t, json.Unmarshal([]byte(out), &got))
	if len(got.Revoked) != 2 || len(got.Left) != 0 {
		t.Fatalf("got %+v, want both revoked", got)
	}
	for g, by := range map[*grant]string{binding: breakglass.RefusedByRBAC, group: breakglass.RefusedByWebhook} {
		w.eventually(time.Minute, func() string {
			r := w.show(g.id)
			if r.Receipt == nil || !r.Receipt.Final {
				return fmt.Sprintf("the receipt of %s is %+v", g.id, r.Receipt)
			}
			for _, a := range r.Receipt.Answers {
				// What it was asked first it remembers at least so long, and what it was asked later, longer.
				first, known := firstUsed[a.Server]
				if at := r.Revoked.At.Add(time.Duration(a.AfterMillis) * time.Millisecond); by == breakglass.RefusedByWebhook &&
					(!known || at.Before(first.Add(remember))) {
					t.Errorf("%s: %s is said to refuse after %d ms, %s after it was asked first, and remembers for %s", g.id, a.Server, a.AfterMillis,
						at.Sub(first), remember)
				}
				if !a.No || by == breakglass.RefusedByWebhook && a.By != by {
					t.Errorf("%s: got answer %+v, want a no by %s", g.id, a, by)
				}
				t.Logf("%s refused after %d ms by %s", r.Mode, a.AfterMillis, a.By)
			}
			return ""
		})
		for _, at := range w.servers {
			if out, ok := w.use(g, at, "get", "namespaces"); ok {
				t.Errorf("%s is still let in: %s", g.id, out)
			}
		}
	}
	w.check()
}
