package store_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakglassd/breakglass/internal/bgtest/realtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/real"
	"github.com/breakglassd/breakglass/internal/residue"
	"github.com/breakglassd/breakglass/internal/session"
	"github.com/breakglassd/breakglass/internal/session/store"
)

const alice = "breakglass:alice:bg-7k2m-q9x"

func shipped(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../../deploy/kube-apiserver", name))
	must(t, err)
	return string(b)
}

// person writes a kubeconfig for a new certificate and returns its path, its key pair and its fingerprint.
func person(t *testing.T, a *real.APIServer, ca *real.CA, name string, groups ...string) (path, fingerprint string) {
	t.Helper()
	cert, key, err := ca.Client(name, groups...)
	must(t, err)
	path = filepath.Join(t.TempDir(), "kubeconfig")
	must(t, a.WriteKubeconfig(path, real.Credentials{CertPEM: cert, KeyPEM: key}))
	block, _ := pem.Decode(cert)
	return path, fmt.Sprintf("%x", sha256.Sum256(block.Bytes))
}

// flags are those that AUDIT.md tells to set, with the files where the test has them.
func flags(t *testing.T) []string {
	t.Helper()
	_, text, _ := strings.Cut(shipped(t, "AUDIT.md"), "```\n")
	text, _, ok := strings.Cut(text, "```")
	if !ok {
		t.Fatal("AUDIT.md shows no flags")
	}
	return strings.Fields(strings.ReplaceAll(text, "/etc/kubernetes/breakglass/", ""))
}

func TestRealAPIServerTellsWhatWasDone(t *testing.T) {
	ca, err := real.NewCA("break-glass CA")
	must(t, err)
	k := newKit(t, store.Limits{})
	pulse := session.NewPulse(time.Minute, time.Second, time.Second)
	pulse.Watch("one", time.Now())
	k.intake.Heartbeat = func(_, nonce string) (string, bool) { return pulse.Find(nonce) }
	k.intake.Alive = func(_, nonce string) { pulse.Seen(nonce) }
	k.run(t)

	// Events go to the intake through a server such as the daemon's, and are remembered as they came.
	var mu sync.Mutex
	var bodies [][]byte
	daemon := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.URL.Path != "/audit/prod-eu-1" || r.Header.Get("Authorization") != "Bearer the-token" {
			t.Errorf("got %s with %q, %v", r.URL.Path, r.Header.Get("Authorization"), err)
		}
		mu.Lock()
		bodies = append(bodies, body)
		mu.Unlock()
		if err := k.intake.Take(r.Context(), "prod", body); err != nil {
			http.Error(w, "later", http.StatusTooManyRequests)
		}
	}))
	t.Cleanup(daemon.Close)
	hook := strings.NewReplacer("https://breakglass.example.com:8444", daemon.URL, "/etc/kubernetes/breakglass/",
		"").Replace(shipped(t, "audit-webhook.kubeconfig"))
	a := realtest.NewCluster(t, real.APIServerOptions{ClientCAs: ca.CertPEM, Flags: append(flags(t), "--audit-log-path=audit.log",
		"--audit-log-mode=blocking"),
		Files: map[string][]byte{"audit-policy.yaml": []byte(shipped(t, "audit-policy.yaml")), "audit-webhook.kubeconfig": []byte(hook),
			"webhook-token":      []byte("the-token"),
			"breakglassd-ca.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: daemon.Certificate().Raw})}})
	admin := func(args ...string) string { t.Helper(); return realtest.MustKubectl(t, a.AdminKubeconfig(), args...) }
	admin("create", "namespace", "breakglass")
	admin("-n", "breakglass", "create", "serviceaccount", "breakglassd")
	admin("create", "serviceaccount", "builder")
	admin("create", "secret", "generic", "db", "--from-literal=password=hunter2")
	admin("create", "clusterrolebinding", "alice", "--clusterrole=cluster-admin", "--user="+alice)

	path, print := person(t, a, ca, alice)
	k.known(print)
	other, otherPrint := person(t, a, ca, alice) // the same name, by somebody who got hold of the CA
	from := time.Now()
	bins := realtest.MustBuild(t, real.KubeCtl)
	try := func(kubeconfig string, args ...string) error {
		_, _, err := bins.Kubectl(t.Context(), kubeconfig, args...)
		return err
	}
	eventually(t, func() string {
		if err := try(path, "get", "namespaces"); err != nil {
			return err.Error()
		}
		return ""
	})
	must(t, try(path, "get", "secret", "db"))
	must(t, try(path, "get", "secrets", "-A"))
	must(t, try(path, "create", "token", "builder"))
	must(t, try(path, "create", "clusterrolebinding", "evil", "--clusterrole=cluster-admin", "--user=mallory"))
	must(t, try(path, "get", "pods", "--as=system:kube-scheduler"))
	if try(path, "get", "secrets", "--as=nobody-special") == nil {
		t.Error("nobody-special may read secrets")
	}
	admin("create", "-f", filepath.Join("testdata", "pod.yaml"))
	if try(path, "exec", "bare", "--", "sh", "-c", "cat /etc/shadow") == nil {
		t.Error("an exec without a kubelet succeeded")
	}
	must(t, try(other, "get", "configmaps", "-A"))
	stranger := filepath.Join(t.TempDir(), "stranger")
	must(t, a.WriteKubeconfig(stranger, real.Credentials{Token: "a-token-that-nothing-knows"}))
	if try(stranger, "get", "--raw", "/api/v1/nodes") == nil {
		t.Error("an unknown token signs in")
	}
	token := strings.TrimSpace(admin("-n", "breakglass", "create", "token", "breakglassd"))
	daemonPath := filepath.Join(t.TempDir(), "daemon")
	must(t, a.WriteKubeconfig(daemonPath, real.Credentials{Token: token}))
	pulse.Sent("one", "0123456789abcdef", time.Now())
	must(t, try(daemonPath, "get", "--raw", "/version?breakglass-heartbeat=0123456789abcdef"))

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watch := exec.CommandContext(ctx, bins[real.KubeCtl], "--kubeconfig", path, "get", "pods", "-A", "--watch")
	must(t, watch.Start())
	defer watch.Wait()
	eventually(t, func() string {
		events, _, err := k.store.Events(t.Context(), "prod", print, alice)
		must(t, err)
		if !slices.ContainsFunc(events, func(e session.Event) bool { return e.Verb == "watch" && e.Stage == session.StageStarted }) {
			return "no watch was seen to begin"
		}
		if len(k.told()) == 0 {
			return "nobody was told of the unknown certificate"
		}
		if k.intake.Figures().Heartbeats == 0 {
			return "the heartbeat did not come back"
		}
		return ""
	})
	until := time.Now()
	admin("delete", "clusterrolebinding", "alice")
	eventually(t, func() string {
		if try(path, "get", "nodes") == nil {
			return "alice can still list nodes"
		}
		return ""
	})
	grant := session.Grant{Request: "bg-7k2m-q9x", Cluster: "prod", User: alice, Fingerprint: print, From: from, Until: until, Audited: true}
	build := func(s *store.Store) session.Session {
		t.Helper()
		events, dropped, err := s.Events(t.Context(), "prod", print, alice)
		must(t, err)
		grant.Dropped = dropped
		return session.Build(events, grant)
	}
	eventually(t, func() string {
		if s := build(k.store); s.Refused == 0 || s.After == 0 {
			return fmt.Sprintf("got %d refused and %d after the end", s.Refused, s.After)
		}
		return ""
	})
	s := build(k.store)
	var text bytes.Buffer
	must(t, s.WriteText(&text))
	t.Log(text.String())
	if s.Joined != "fingerprint" || s.Source != breakglass.SourceAudit || len(s.Sources) != 1 || s.Sources[0].What != "127.0.0.1" {
		t.Errorf("got a session joined by %q from %q, addresses %v", s.Joined, s.Source, s.Sources)
	}
	for what, want := range map[string]func(session.Line) bool{
		"one secret": func(l session.Line) bool {
			return l.Verb == "get" && l.Has(session.KindSecret) && l.Object.Name == "db" && l.Count == 1 && l.Outcome == session.OutcomeAllowed
		},
		"all secrets": func(l session.Line) bool {
			return l.Verb == "list" && l.Has(session.KindSecret) && l.Object.Namespace == ""
		},
		"token": func(l session.Line) bool {
			return l.Has(session.KindToken) && l.Object.Name == "builder" && len(l.Issued) == 1
		},
		"binding": func(l session.Line) bool {
			return l.Has(session.KindChange) && l.Object.Resource == "clusterrolebindings"
		},
		"as scheduler": func(l session.Line) bool { return l.As != nil && l.As.User == "system:kube-scheduler" },
		"denied impersonation": func(l session.Line) bool {
			return l.As != nil && l.As.User == "nobody-special" && l.Has(session.KindRefused) && l.Object.Resource == "secrets"
		},
		"exec": func(l session.Line) bool {
			return l.Has(session.KindStream) && l.Object.Name == "bare" && slices.Equal(l.Command, []string{"sh", "-c", "cat /etc/shadow"})
		},
		"open watch": func(l session.Line) bool {
			return l.Verb == "watch" && l.Has(session.KindOpen) && l.Object.Resource == "pods"
		},
		"denied after end": func(l session.Line) bool { return l.Has(session.KindAfter) && l.Outcome == session.OutcomeRefused },
	} {
		if !slices.ContainsFunc(s.Timeline, want) {
			t.Errorf("the timeline lacks: %s", what)
		}
	}
	if len(s.Unknown) == 0 || !slices.ContainsFunc(s.Unknown, func(l session.Line) bool {
		return l.WithWhat == "X509SHA256="+otherPrint && l.Object != nil && l.Object.Resource == "configmaps"
	}) {
		t.Errorf("got unknown %+v, want what was done with the other certificate", s.Unknown)
	}
	if told := k.told(); !slices.Contains(told, otherPrint+" "+alice) || slices.ContainsFunc(told,
		func(s string) bool { return strings.HasPrefix(s, print) }) {
		t.Errorf("got told of %q, want the other certificate and not alice's", told)
	}
	if !slices.ContainsFunc(session.Acts(s), func(a residue.Act) bool {
		return a.Resource == "clusterrolebindings" && a.Verb == "create" && strings.Contains(string(a.Request), "mallory")
	}) {
		t.Errorf("got acts %+v, want the binding with whom it is for", session.Acts(s))
	}
	if f := k.intake.Figures(); f.Unreadable != 0 {
		t.Errorf("got %+v: what an API server sends is not damage, failed sign-ins among it", f)
	}
	cancel()
	watch.Wait()

	// The log, which is written at once, and the webhook tell the same.
	logFile := filepath.Join(filepath.Dir(a.CACert), "audit.log")
	eventually(t, func() string {
		file := newKit(t, store.Limits{})
		file.run(t)
		log, err := os.Open(logFile)
		must(t, err)
		defer log.Close()
		res, err := file.intake.Import(t.Context(), "prod", "", log)
		must(t, err)
		if res.Unreadable > 0 || res.Kept == 0 {
			t.Fatalf("got import %+v, want everything read", res)
		}
		return cmp.Diff(digest(build(k.store)), digest(build(file.store)))
	})

	// What was sent is sent again, in another order, also to a daemon that starts anew: nothing changes.
	mu.Lock()
	sent := slices.Clone(bodies)
	mu.Unlock()
	want, before := digest(build(k.store)), k.intake.Figures()
	again, older := newKit(t, store.Limits{}), newKit(t, store.Limits{})
	again.run(t)
	older.run(t)
	for _, body := range slices.Backward(sent) {
		must(t, k.intake.Take(t.Context(), "prod", body))
		must(t, again.intake.Take(t.Context(), "prod", body))
		must(t, older.intake.Take(t.Context(), "prod", bytes.ReplaceAll(body, []byte("authentication.kubernetes.io/credential-id"), []byte("x"))))
	}
	if after := k.intake.Figures(); after.Kept != before.Kept || after.Duplicates <= before.Duplicates || digest(build(k.store)) != want {
		t.Errorf("got %+v after %+v, want duplicates recognised and the same report", after, before)
	}
	if got := digest(build(again.store)); got != want {
		t.Errorf("got report %s from the other order, want %s", got, want)
	}
	// Before Kubernetes 1.32 events do not name the certificate. Then nothing tells the two of the same name apart.
	if got := build(older.store); got.Joined != "name" || got.Requests <= s.Requests ||
		!strings.Contains(strings.Join(got.Gaps, "\n"), "before 1.32") {
		t.Errorf("got a session joined by %q with %d requests, want all under the name, and a gap: %q", got.Joined, got.Requests, got.Gaps)
	}
}

func digest(s session.Session) string { return session.Summary(s).Digest }
