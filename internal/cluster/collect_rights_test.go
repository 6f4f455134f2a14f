package cluster_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakglassd/breakglass/internal/bgtest/realtest"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/cluster/survey"
	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/real"
	"github.com/breakglassd/breakglass/policies"
)

// withToken is a kubeconfig for a service account.
func withToken(t *testing.T, a *real.APIServer, ns, name string) string {
	t.Helper()
	token := realtest.MustKubectl(t, a.AdminKubeconfig(), "-n", ns, "create", "token", name, "--duration", "1h")
	path := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, a.WriteKubeconfig(path, real.Credentials{Token: strings.TrimSpace(token)}))
	return path
}

// What is unread is said, with the right that is missing, and is never taken for absent.
func TestScanWithoutRightsCannotTell(t *testing.T) {
	a := realtest.NewCluster(t, aggregator(t))
	kubeadm(t, a)
	dir := t.TempDir()
	shipped, err := fs.Sub(policies.Kubernetes, "kubernetes")
	must(t, err)
	must(t, os.CopyFS(dir, shipped))
	realtest.MustKubectl(t, a.AdminKubeconfig(), "apply", "-f", filepath.Join(dir, "rbac.yaml"), "-f",
		filepath.Join(dir, "optional", "recert.yaml"))
	apply(t, a, object("v1", "ServiceAccount", "breakglass", "nobody", nil))
	apply(t, a, secret("default", "robot-token", "kubernetes.io/service-account-token", obj{"kubernetes.io/service-account.name": "nobody"},
		nil)...)

	t.Run("with what ships", func(t *testing.T) {
		kubeconfig := withToken(t, a, "breakglass", "breakglass-recert")
		var s *inventory.Snapshot
		eventually(t, func() string {
			if s = collect(t, a, kubeconfig, survey.Options{}); !s.Read(inventory.SourceAPIServices, inventory.SourcePods,
				inventory.SourceIssuer) {
				return "the rights are not in force yet"
			}
			return ""
		})
		missing := map[string]string{}
		for _, src := range s.Sources {
			if src.Missing != "" {
				missing[src.Name] = src.Right
			}
		}
		want := map[string]string{
			inventory.SourceTokenSecrets: "list secrets in all namespaces",
			inventory.SourceBootstrap:    "list secrets",
			inventory.SourceConfigz:      "get nodes/proxy",
		}
		if diff := cmp.Diff(want, missing); diff != "" {
			t.Errorf("what could not be read (-want +got):\n%s", diff)
		}
		if want := "system:serviceaccount:breakglass:breakglass-recert"; s.Collector != want {
			t.Errorf("the collector is %q, want %q", s.Collector, want)
		}
		got := judge(t, s)
		for door, right := range map[string]string{doors.DoorSATokens: "list secrets in all namespaces",
			doors.DoorBootstrap: "list secrets", doors.DoorKubelet: "get nodes/proxy"} {
			if d := got.Door(door); d.State != doors.CannotTell || !strings.Contains(d.Tellable, right) {
				t.Errorf("door %s is %s, tellable by %q, want cannot tell, and the right %q", door, d.State, d.Tellable, right)
			}
		}
		// The daemon's own account may bind cluster-admin; nothing else in this cluster is worth an alarm.
		for _, f := range got.Alarms() {
			if f.Subject == nil || f.Subject.Name != "breakglassd" {
				t.Errorf("alarm: %s %s", f.Rule, f.Title)
			}
		}
		own := inventory.Options{Now: time.Now().UTC(), Self: "system:serviceaccount:breakglass:breakglassd"}
		own.Rules, own.Defaults, err = inventory.Shipped()
		must(t, err)
		if alarms := doors.Analyse(s, own).Alarms(); len(alarms) > 0 {
			t.Errorf("told who it is, the scan still raises %d alarms: %s", len(alarms), alarms[0].Title)
		}
	})

	t.Run("with no right at all", func(t *testing.T) {
		s := collect(t, a, withToken(t, a, "breakglass", "nobody"), survey.Options{})
		got := judge(t, s)
		unread := 0
		for _, f := range got.Alarms() {
			if f.Rule == "scan/unread" {
				unread++
			}
		}
		if unread != 4 {
			t.Errorf("%d of the four kinds of RBAC objects are told to be unread", unread)
		}
		if inventory.ExitCode(got.Findings, inventory.High) != inventory.ExitFindings {
			t.Error("a scan that could read nothing passes")
		}
		for _, d := range got.Doors {
			if d.State == doors.Absent || d.State == doors.CannotTell && d.Tellable == "" {
				t.Errorf("door %s is %s, tellable by %q", d.ID, d.State, d.Tellable)
			}
		}
		// The handshake and the answers to nobody tell without any right.
		if got.Door(doors.DoorClientCA).State != doors.Present || got.Door(doors.DoorAnonymous).State != doors.Present {
			t.Errorf("client CA %s, anonymous %s, want both present", got.Door(doors.DoorClientCA).State,
				got.Door(doors.DoorAnonymous).State)
		}
	})
}

// The commands that the inventory prints are run as they are, by a shell; the next scan no longer has what they are about.
func TestTakeAwayCommandsTakeAway(t *testing.T) {
	a := realtest.NewCluster(t, aggregator(t))
	kubeadm(t, a)
	const evil = "o'brien $(touch pwned) \"x\" \x1b[31m\\ ü 😀"
	objects := []obj{object("v1", "Namespace", "", "shop", nil), object("v1", "Namespace", "", "till", nil),
		object("v1", "ServiceAccount", "shop", "robot", nil)}
	var wanted []plant
	for _, p := range plants() {
		if slices.Contains([]string{"bind-roles of one role", "secrets-read to everybody in shop", "token-create by a service account in shop",
			"cluster-admin of a group", "default binding altered", "binding of an account that is not there",
			"binding of a role that is not there", "first user", "legacy token of a powerful account", "bootstrap token without end",
			"anonymous binding", "extension API not verified", "mutating webhook outside the cluster"}, p.kind) {
			objects = append(objects, p.objects...)
			wanted = append(wanted, p)
		}
	}
	if len(wanted) != 13 {
		t.Fatalf("%d of the 13 kinds were found among the plants", len(wanted))
	}
	shared := binds("shared", "", "cluster-admin", "user first")[0]
	shared["subjects"] = []any{subjectOf("user keep"), obj{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": evil},
		subjectOf("account shop/robot"),
		subjectOf("user keep2"), obj{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "system:serviceaccount:shop:robot"}}
	objects = append(objects, shared)
	apply(t, a, objects...)

	home := t.TempDir()
	run := func(line string) {
		t.Helper()
		if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("a command holds what cannot be typed: %q", line)
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
		cmd.Dir = home
		cmd.Env = []string{"PATH=" + kubectlDir(t) + ":" + os.Getenv("PATH"), "HOME=" + home, "KUBECONFIG=" + a.AdminKubeconfig()}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
	}
	worst := func() (doors.Item, bool) {
		s, found := scan(t, a, survey.Options{})
		for _, i := range doors.Items(s, found) {
			if !i.Expected && i.Risk != inventory.Info && i.TakeAway != "" && !strings.Contains(i.Title, "keep") {
				return i, true
			}
		}
		return doors.Item{}, false
	}
	taken := 0
	for ; taken < 100; taken++ { // as a person would: the worst one, then another scan
		i, ok := worst()
		if !ok {
			break
		}
		line, _, _ := strings.Cut(i.TakeAway, "\n")
		run(line)
	}
	t.Logf("commands run until nothing was left: %d", taken)
	s, after := scan(t, a, survey.Options{})
	for _, f := range after.Alarms() {
		if f.Subject == nil || !strings.HasPrefix(f.Subject.Name, "keep") {
			t.Errorf("still there: %s (%s)", f.Title, f.WhatNext())
		}
	}
	n := slices.IndexFunc(s.ClusterBindings, func(b inventory.Binding) bool { return b.Name == "shared" })
	if n < 0 || len(s.ClusterBindings[n].Subjects) != 2 {
		t.Fatalf("the binding of people who are to keep their rights is gone, or holds others")
	}
	if _, err := os.Stat(filepath.Join(home, "pwned")); err == nil {
		t.Error("a user's name was run by the shell")
	}
}

// kubectlDir is a directory with the real kubectl in it.
func kubectlDir(t *testing.T) string {
	t.Helper()
	path := realtest.MustBuild(t, real.KubeCtl)[real.KubeCtl]
	dir := t.TempDir()
	must(t, os.Symlink(path, filepath.Join(dir, "kubectl")))
	return dir
}

// through is a kubeconfig for a's administrator by way of a proxy that can answer in the API server's place.
func through(t *testing.T, a *real.APIServer, answer func(http.ResponseWriter, *http.Request) bool) string {
	t.Helper()
	target, err := url.Parse(a.URL)
	must(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(a.ClusterCA.Cert)
	forward := httputil.NewSingleHostReverseProxy(target)
	forward.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !answer(w, r) {
			forward.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	config, err := json.Marshal(obj{"apiVersion": "v1", "kind": "Config", "current-context": "x",
		"contexts": []any{obj{"name": "x", "context": obj{"cluster": "x", "user": "x"}}},
		"users":    []any{obj{"name": "x", "user": obj{"token": a.AdminToken}}},
		"clusters": []any{obj{"name": "x", "cluster": obj{"server": server.URL, "certificate-authority-data": ca}}}})
	must(t, err)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, os.WriteFile(path, config, 0o600))
	return path
}

func TestCollectionSurvivesWhatAPIServersDo(t *testing.T) {
	a := realtest.NewCluster(t, aggregator(t))
	kubeadm(t, a)

	t.Run("kubelets tell their configuration", func(t *testing.T) {
		good := `{"kubeletconfig":{"authentication":{"x509":{"clientCAFile":"/pki/ca.crt"},"webhook":{"enabled":true},"anonymous":{"enabled":false}},"authorization":{"mode":"Webhook"}}}`
		bad := `{"kubeletconfig":{"authentication":{"x509":{},"webhook":{"enabled":false},"anonymous":{"enabled":true}},"authorization":{"mode":"AlwaysAllow"},"readOnlyPort":10255}}`
		path := through(t, a, func(w http.ResponseWriter, r *http.Request) bool {
			switch r.URL.Path {
			case "/api/v1/nodes/cp1/proxy/configz":
				_, _ = io.WriteString(w, good)
			case "/api/v1/nodes/worker1/proxy/configz":
				_, _ = io.WriteString(w, bad)
			default:
				return false
			}
			return true
		})
		got := judge(t, collect(t, a, path, survey.Options{}))
		for title, least := range map[string]inventory.Severity{"without a credential": inventory.Critical, "AlwaysAllow": inventory.Critical,
			"port 10255": inventory.Medium, "do not ask the API server": inventory.Low} {
			mustFind(t, got, doors.DoorKubelet, doors.Present, least, title)
		}
		for _, i := range got.Door(doors.DoorKubelet).Items {
			if strings.Contains(i.Text, "cp1") && !i.Expected {
				t.Errorf("the good kubelet is an alarm: %s", i.Title)
			}
		}
	})

	t.Run("a list that expires half way is begun anew", func(t *testing.T) {
		var many []obj
		for i := range 3 {
			many = append(many, binds("page-"+string(rune('a'+i)), "", "view", "user pager")...)
		}
		apply(t, a, many...)
		var pages, expired atomic.Int32
		path := through(t, a, func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/clusterrolebindings") {
				return false
			}
			q := r.URL.Query()
			q.Set("limit", "20") // small pages of the real server, so that there are several
			r.URL.RawQuery = q.Encode()
			if pages.Add(1) == 3 {
				expired.Add(1)
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusGone)
				_, _ = io.WriteString(w,
					`{"kind":"Status","apiVersion":"v1","status":"Failure","message":"The provided continue parameter is too old","reason":"Expired","code":410}`)
				return true
			}
			return false
		})
		got := collect(t, a, path, survey.Options{})
		want := collect(t, a, a.AdminKubeconfig(), survey.Options{})
		if diff := cmp.Diff(want.ClusterBindings, got.ClusterBindings); diff != "" || expired.Load() != 1 || len(got.ClusterBindings) < 50 {
			t.Errorf("after %d pages, of which %d had expired, the bindings are others (-want +got):\n%s", pages.Load(), expired.Load(), diff)
		}
	})

	t.Run("a list that keeps failing is unread, and the rest is there", func(t *testing.T) {
		path := through(t, a, func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/roles") {
				return false
			}
			w.WriteHeader(http.StatusInternalServerError)
			return true
		})
		s := collect(t, a, path, survey.Options{})
		if src := s.Source(inventory.SourceRoles); !strings.Contains(src.Missing, "500") || len(s.Roles) != 0 || len(s.ClusterBindings) == 0 {
			t.Errorf("got %+v with %d roles and %d bindings, want it unread and the rest there", src, len(s.Roles), len(s.ClusterBindings))
		}
		if f := judge(t, s).Alarms(); !slices.ContainsFunc(f, func(f inventory.Finding) bool { return f.Rule == "scan/unread" }) {
			t.Errorf("no finding says so: %+v", f)
		}
	})

	t.Run("a collection that is stopped gives no snapshot", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		path := through(t, a, func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/clusterroles") {
				cancel()
			}
			return false
		})
		c, err := cluster.Open(cluster.Config{Targets: []cluster.Target{{ID: "prod", Kubeconfig: path}}})
		must(t, err)
		if s, err := c.Collect(ctx, "prod", survey.Options{}); err == nil || s != nil {
			t.Errorf("got a snapshot %v and error %v", s != nil, err)
		}
	})

	t.Run("files that say nothing are refused", func(t *testing.T) {
		c, err := cluster.Open(cluster.Config{Targets: []cluster.Target{{ID: "prod", Kubeconfig: a.AdminKubeconfig()}}})
		must(t, err)
		_, err = c.Collect(t.Context(), "prod", survey.Options{Given: map[string][]byte{"notes.txt": []byte("hello")}})
		if err == nil || !strings.Contains(err.Error(), "notes.txt shows the command line of none of") {
			t.Errorf("got %v", err)
		}
	})
}

// A binding with this daemon's labels is emergency access only if the daemon knows of it.
func TestForgedLabelsHideNothing(t *testing.T) {
	a := realtest.NewCluster(t, aggregator(t))
	kubeadm(t, a)
	for _, name := range []string{"breakglass-real", "breakglass-forged"} {
		b := binds(name, "", "cluster-admin", "user "+name)[0]
		b["metadata"] = obj{"name": name, "labels": obj{cluster.ManagedByLabel: cluster.ManagedBy, cluster.RequestLabel: name}}
		apply(t, a, b)
	}
	s := collect(t, a, a.AdminKubeconfig(), survey.Options{})
	rules, defaults, err := inventory.Shipped()
	must(t, err)
	got := doors.Analyse(s, inventory.Options{Rules: rules, Defaults: defaults, Now: time.Now().UTC(),
		Grants: []string{"breakglass-real"}})
	var alarms bytes.Buffer
	for _, f := range got.Alarms() {
		alarms.WriteString(f.Rule + " " + f.Title + "\n")
	}
	for _, want := range []string{"binding/not-ours ClusterRoleBinding breakglass-forged",
		"everything user breakglass-forged can do everything"} {
		if !strings.Contains(alarms.String(), want) {
			t.Errorf("no alarm %q in:\n%s", want, alarms.String())
		}
	}
	if strings.Contains(alarms.String(), "breakglass-real") {
		t.Errorf("emergency access in force is an alarm:\n%s", alarms.String())
	}
}
