package cluster_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	rbacclient "k8s.io/client-go/kubernetes/typed/rbac/v1"
	"k8s.io/client-go/rest"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/checkup"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/real"
	kubesim "github.com/breakglassd/breakglass/internal/sim/kube"
)

const (
	request = "bg-7k2m-x9c"
	alice   = "breakglass:alice:" + request
)

var (
	until = time.Date(2026, 11, 22, 3, 15, 0, 0, time.UTC)
	admin = breakglass.Binding{Request: request, Cluster: "c1", User: alice, Rights: policy.Rights{ClusterRole: "cluster-admin"},
		Until: until}
	scoped = breakglass.Binding{Request: request, Cluster: "c1", User: alice, Until: until,
		Rights: policy.Rights{ClusterRole: "view", Namespaces: []string{"shop", "till"}}}
)

// world is a simulated API server, the daemon's connection to it, and an administrator's.
type world struct {
	sim   *kubesim.Server
	c     *cluster.Clusters
	admin rbacclient.RbacV1Interface
	calls func() []string // "verb resource" of each write that was asked for since the last call
}

func start(t *testing.T, timeout time.Duration) world {
	t.Helper()
	var mu sync.Mutex
	var writes []string
	sim, err := kubesim.Start(t.Context(), kubesim.Config{
		Namespaces: []string{"shop", "till"},
		Tokens: []kubesim.Token{
			{Value: "daemon", User: kubesim.DaemonUser, Rules: append(kubesim.BinderRules(), bindRule("clusterroles", "cluster-admin", "view"))},
			{Value: "weak", User: "weak"},
			{Value: "admin", User: "admin", Groups: []string{"system:masters"}},
		},
		Observe: func(c kubesim.Call, _ int) {
			if (c.Verb == "create" || c.Verb == "delete") && c.User.Username == kubesim.DaemonUser {
				mu.Lock()
				writes = append(writes, c.Verb+" "+c.Resource)
				mu.Unlock()
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	w := world{sim: sim, c: open(t, timeout, kubeconfigOf(t, sim, "daemon"))}
	if w.admin, err = rbacclient.NewForConfig(&rest.Config{Host: sim.URL, BearerToken: "admin", QPS: 1000, Burst: 1000,
		TLSClientConfig: rest.TLSClientConfig{CAData: sim.CAPEM()}}); err != nil {
		t.Fatal(err)
	}
	w.calls = func() []string {
		mu.Lock()
		defer mu.Unlock()
		out := writes
		writes = nil
		return out
	}
	return w
}

func bindRule(resource string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{rbacv1.GroupName}, Resources: []string{resource}, ResourceNames: names,
		Verbs: []string{"bind", "get"}}
}

func kubeconfigOf(t *testing.T, sim *kubesim.Server, token string) string {
	t.Helper()
	text, err := sim.Kubeconfig(token)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, string(text))
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// kubeconfig writes a kubeconfig with a token for the server that shows this certificate.
func kubeconfig(t *testing.T, url string, server *x509.Certificate, token string) string {
	t.Helper()
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Raw}))
	return write(t, fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],
clusters: [{name: c, cluster: {server: %q, certificate-authority-data: %s}}], users: [{name: u, user: {token: %q}}]}`, url, ca, token))
}

func open(t *testing.T, timeout time.Duration, kubeconfig string) *cluster.Clusters {
	t.Helper()
	c, err := cluster.Open(cluster.Config{Timeout: timeout, Targets: []cluster.Target{{ID: "c1", Kubeconfig: kubeconfig}}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// mustSay fails the test unless err is there and says all of words.
func mustSay(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("got no error, want one that says %q", words)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("got error %q, want it to say %q", err, word)
		}
	}
}

func names(s *kubesim.Server) []string {
	var out []string
	clusterWide, inNamespaces := s.Bindings()
	for _, b := range clusterWide {
		out = append(out, b.Name)
	}
	for _, b := range inNamespaces {
		out = append(out, b.Namespace+"/"+b.Name)
	}
	return out
}

func TestBindingSaysWhoWhatAndUntil(t *testing.T) {
	w := start(t, 0)
	for range 2 { // the second time changes nothing
		if err := w.c.Bind(t.Context(), admin); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.calls(); !slices.Equal(got, []string{"create clusterrolebindings", "create clusterrolebindings"}) {
		t.Errorf("got writes %q, want two attempts to create and nothing else", got)
	}
	got, rolebindings := w.sim.Bindings()
	if len(got) != 1 || len(rolebindings) != 0 {
		t.Fatalf("got %v, %v, want one ClusterRoleBinding", got, rolebindings)
	}
	want := rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "breakglass-" + request,
			Labels:      map[string]string{"app.kubernetes.io/managed-by": "breakglassd", "breakglass.dev/request": request},
			Annotations: map[string]string{"breakglass.dev/until": "2026-11-22T03:15:00Z"}},
		Subjects: []rbacv1.Subject{{APIGroup: "rbac.authorization.k8s.io", Kind: "User", Name: alice}},
		RoleRef:  rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: "cluster-admin"},
	}
	have := rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: got[0].Name, Labels: got[0].Labels, Annotations: got[0].Annotations},
		Subjects: got[0].Subjects, RoleRef: got[0].RoleRef}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("the binding (-want +got):\n%s", diff)
	}
}

func TestUnbindFindsRoleBindingsInEveryNamespace(t *testing.T) {
	w := start(t, 0)
	other := scoped
	other.Request, other.User = "bg-0000-000", "breakglass:bob:bg-0000-000"
	for _, b := range []breakglass.Binding{scoped, other, admin} {
		if err := w.c.Bind(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	ids, err := w.c.Bound(t.Context(), "c1")
	if want := []string{"bg-0000-000", request}; err != nil || !slices.Equal(ids, want) {
		t.Errorf("got %q, %v bound, want each request once: %q", ids, err, want)
	}
	for range 2 { // nothing left is no error
		if err := w.c.Unbind(t.Context(), "c1", request); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := names(w.sim), []string{"shop/breakglass-bg-0000-000", "till/breakglass-bg-0000-000"}; !slices.Equal(got, want) {
		t.Errorf("got %q left, want the other request's alone: %q", got, want)
	}
}

func TestRoleIsBoundInItsNamespacesOnly(t *testing.T) {
	w := start(t, 0)
	b := scoped
	b.Rights = policy.Rights{Role: "fixer", Namespaces: []string{"till"}}
	must(t, w.c.Bind(t.Context(), b))
	clusterWide, got := w.sim.Bindings()
	if want := (rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "fixer"}); len(clusterWide) != 0 || len(got) != 1 ||
		got[0].Namespace != "till" || got[0].RoleRef != want {
		t.Errorf("got %v and %v, want one RoleBinding in till to %v", clusterWide, got, want)
	}
	b.Rights.Namespaces = []string{"nowhere"}
	mustSay(t, w.c.Bind(t.Context(), b), "namespace nowhere", "does the namespace exist?")
	mustSay(t, w.c.Bind(t.Context(), breakglass.Binding{Request: request, Cluster: "c1", Rights: policy.Rights{Group: "g"}}), "group mode")
}

// TestEveryFaultIsAnErrorAndTheNextTryCompletes puts each fault at each call that Bind and Unbind make.
func TestEveryFaultIsAnErrorAndTheNextTryCompletes(t *testing.T) {
	faults := map[string]kubesim.Fault{"fail": kubesim.Fail, "apply-then-fail": kubesim.ApplyThenFail, "hang": kubesim.Hang,
		"apply-then-hang": kubesim.ApplyThenHang}
	for name, fault := range faults {
		for kind, b := range map[string]breakglass.Binding{"cluster": admin, "namespaces": scoped} {
			t.Run(name+" "+kind, func(t *testing.T) { t.Parallel(); testFault(t, name, fault, b) })
		}
	}
}

func testFault(t *testing.T, name string, fault kubesim.Fault, b breakglass.Binding) {
	w := start(t, 0)
	path := kubeconfigOf(t, w.sim, "daemon")
	for _, step := range []struct {
		what string
		do   func(context.Context, *cluster.Clusters) error
		done []string // what is there once it is done
	}{
		{"bind", func(ctx context.Context, c *cluster.Clusters) error { return c.Bind(ctx, b) }, bound(b)},
		{"unbind", func(ctx context.Context, c *cluster.Clusters) error { return c.Unbind(ctx, "c1", b.Request) }, nil},
	} {
		for at := int32(1); ; at++ { // the fault is put at one call after the other, until there is none left to put it at
			c := open(t, 2*time.Second, path) // a new one: a client paces its requests
			if step.what == "bind" {
				must(t, c.Unbind(t.Context(), "c1", b.Request))
			} else {
				must(t, c.Bind(t.Context(), b))
			}
			ctx, cancel := context.WithCancel(t.Context())
			var n atomic.Int32
			w.sim.SetFault(func(kubesim.Call) kubesim.Fault {
				if n.Add(1) != at {
					return kubesim.NoFault
				}
				if fault == kubesim.Hang || fault == kubesim.ApplyThenHang {
					time.AfterFunc(50*time.Millisecond, cancel)
				}
				return fault
			})
			err := step.do(ctx, c)
			cancel()
			w.sim.SetFault(nil)
			if n.Load() < at {
				must(t, err)
				if at == 1 {
					t.Errorf("%s makes no call", step.what)
				}
				break
			}
			if err == nil {
				t.Errorf("%s with %s at call %d: no error", step.what, name, at)
			}
			must(t, step.do(t.Context(), c))
			if got := names(w.sim); !slices.Equal(got, step.done) {
				t.Errorf("%s after %s at call %d: got %q, want %q", step.what, name, at, got, step.done)
			}
		}
	}
	must(t, w.c.Unbind(t.Context(), "c1", b.Request))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func bound(b breakglass.Binding) []string {
	if len(b.Rights.Namespaces) == 0 {
		return []string{"breakglass-" + b.Request}
	}
	var out []string
	for _, ns := range b.Rights.Namespaces {
		out = append(out, ns+"/breakglass-"+b.Request)
	}
	return out
}

// A cluster in trouble may list one kind and not the other, for as long as the trouble lasts.
func TestBindingIsCutOffThoughTheOtherKindCannotBeListed(t *testing.T) {
	for name, fault := range map[string]kubesim.Fault{"fail": kubesim.Fail, "hang": kubesim.Hang} {
		for broken, b := range map[string]breakglass.Binding{"rolebindings": admin, "clusterrolebindings": scoped} {
			t.Run(name+" "+broken, func(t *testing.T) {
				t.Parallel()
				w := start(t, 3*time.Second) // enough for what is answered, on a busy machine too
				must(t, w.c.Bind(t.Context(), b))
				w.sim.SetFault(func(c kubesim.Call) kubesim.Fault {
					if c.Verb == "list" && c.Resource == broken {
						return fault
					}
					return kubesim.NoFault
				})
				mustSay(t, w.c.Unbind(t.Context(), "c1", request), "listing the bindings of "+request)
				if got := names(w.sim); len(got) != 0 {
					t.Errorf("got %q left, want none", got)
				}
				if got, err := w.c.Bound(t.Context(), "c1"); err == nil {
					t.Errorf("got %q, want an error: nobody knows what is bound", got)
				}
				w.sim.SetFault(nil)
				must(t, w.c.Unbind(t.Context(), "c1", request))
			})
		}
	}
}

func TestMissingNamespaceKeepsNobodyOutOfTheOthers(t *testing.T) {
	w := start(t, 0)
	b := scoped
	b.Rights.Namespaces = []string{"absent", "shop", "gone", "till"}
	mustSay(t, w.c.Bind(t.Context(), b), "namespace absent", "namespace gone", "does the namespace exist?")
	if got := names(w.sim); !slices.Equal(got, bound(scoped)) {
		t.Errorf("got %q, want %q", got, bound(scoped))
	}
}

// A node or a load balancer that dies leaves connections that never answer and never end. The API server is there again at
// the same address long before the operating system gives such a connection up.
func TestSilentConnectionIsNotWaitedFor(t *testing.T) {
	w := start(t, 0)
	var silent atomic.Bool
	way := relay(t, strings.TrimPrefix(w.sim.URL, "https://"), &silent)
	text, err := w.sim.Kubeconfig("daemon")
	must(t, err)
	c := open(t, 3*time.Second, write(t, strings.ReplaceAll(string(text), w.sim.URL, "https://"+way)))
	must(t, c.Bind(t.Context(), admin))
	silent.Store(true)
	must(t, c.Unbind(t.Context(), "c1", request))
	if got := names(w.sim); len(got) != 0 {
		t.Errorf("got %q left, want none", got)
	}
}

// relay passes connections on to the address. Once silence is set, what was open then carries nothing any more and stays open.
func relay(t *testing.T, to string, silence *atomic.Bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	pass := func(dst, src net.Conn, silenced func() bool) {
		buf := make([]byte, 32<<10)
		for {
			n, err := src.Read(buf)
			if err != nil {
				dst.Close()
				return
			}
			if !silenced() {
				dst.Write(buf[:n])
			}
		}
	}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			late := silence.Load()
			silenced := func() bool { return silence.Load() && !late }
			go pass(in, out, silenced)
			go pass(out, in, silenced)
		}
	}()
	return l.Addr().String()
}

func TestObjectWithOurNameButWithoutOurLabelsIsNeverTouched(t *testing.T) {
	w := start(t, 0)
	for name, labels := range map[string]map[string]string{
		"none":          nil,
		"managed by us": {cluster.ManagedByLabel: cluster.ManagedBy},
		"request":       {cluster.RequestLabel: request},
		"other request": {cluster.ManagedByLabel: cluster.ManagedBy, cluster.RequestLabel: "bg-0000-000"},
		"other manager": {cluster.ManagedByLabel: "Helm", cluster.RequestLabel: request},
	} {
		t.Run(name, func(t *testing.T) {
			theirs := metav1.ObjectMeta{Name: "breakglass-" + request, Labels: labels}
			to := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"}
			for _, b := range []breakglass.Binding{admin, scoped} {
				var err error
				var made metav1.Object
				if b.Rights.Namespaces == nil {
					made, err = w.admin.ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: theirs, RoleRef: to},
						metav1.CreateOptions{})
				} else {
					made, err = w.admin.RoleBindings("shop").Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: theirs, RoleRef: to},
						metav1.CreateOptions{})
				}
				must(t, err)
				mustSay(t, w.c.Bind(t.Context(), b), "breakglass-"+request, "does not carry our labels", "delete it")
				// Somebody may have taken the labels off a binding of ours: then it would be wrong to say that it is gone.
				mustSay(t, w.c.Unbind(t.Context(), "c1", request), "breakglass-"+request, "may still give access", "delete it")
				clusterWide, inNamespaces := w.sim.Bindings() // a delete, and a new one in its place, would show in the UID
				if !slices.ContainsFunc(clusterWide, func(o rbacv1.ClusterRoleBinding) bool { return o.UID == made.GetUID() }) &&
					!slices.ContainsFunc(inNamespaces, func(o rbacv1.RoleBinding) bool { return o.UID == made.GetUID() }) {
					t.Errorf("somebody else's object is gone; there is %q", names(w.sim))
				}
				if b.Rights.Namespaces == nil {
					must(t, w.admin.ClusterRoleBindings().Delete(t.Context(), theirs.Name, metav1.DeleteOptions{}))
				} else {
					must(t, w.admin.RoleBindings("shop").Delete(t.Context(), theirs.Name, metav1.DeleteOptions{}))
				}
			}
		})
	}
}

func TestBindingOfOursThatSaysSomethingElseIsReplaced(t *testing.T) {
	w := start(t, 0)
	for name, change := range map[string]func(*breakglass.Binding){
		"user":  func(b *breakglass.Binding) { b.User = "breakglass:eve:" + request },
		"role":  func(b *breakglass.Binding) { b.Rights.ClusterRole = "view" },
		"until": func(b *breakglass.Binding) { b.Until = b.Until.Add(time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			other := admin
			change(&other)
			must(t, w.c.Bind(t.Context(), other))
			must(t, w.c.Bind(t.Context(), admin))
			got, _ := w.sim.Bindings()
			if len(got) != 1 || got[0].Subjects[0].Name != alice || got[0].RoleRef.Name != "cluster-admin" ||
				got[0].Annotations[cluster.UntilAnnotation] != "2026-11-22T03:15:00Z" {
				t.Errorf("got %+v, want the binding that was asked for last", got)
			}
			must(t, w.c.Unbind(t.Context(), "c1", request))
		})
	}

	t.Run("made again each time it is deleted", func(t *testing.T) {
		// Somebody is always quicker than the daemon.
		w.sim.SetFault(func(c kubesim.Call) kubesim.Fault {
			if c.Verb == "create" && c.User.Username == kubesim.DaemonUser {
				w.admin.ClusterRoleBindings().Create(t.Context(), eve(), metav1.CreateOptions{})
			}
			return kubesim.NoFault
		})
		defer w.sim.SetFault(nil)
		mustSay(t, w.c.Bind(t.Context(), admin), "each time it is deleted", "find out who")
	})
}

func eve() *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "breakglass-" + request, Labels: map[string]string{cluster.ManagedByLabel: cluster.ManagedBy,
			cluster.RequestLabel: request}},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "eve"}},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
	}
}

func TestErrorsSayWhatToDoNext(t *testing.T) {
	w := start(t, 150*time.Millisecond)
	other, err := kubesim.Start(t.Context(), kubesim.Config{Tokens: []kubesim.Token{{Value: "daemon", User: "daemon"}}})
	must(t, err)
	defer other.Close()
	text, err := w.sim.Kubeconfig("daemon")
	must(t, err)
	wrongCA, err := other.Kubeconfig("daemon")
	must(t, err)
	elsewhere := strings.ReplaceAll(string(wrongCA), other.URL, w.sim.URL)
	otherName := strings.ReplaceAll(string(text), "server: ", "tls-server-name: elsewhere.example\n    server: ")
	do := func(ctx context.Context, c *cluster.Clusters) []error {
		_, bound := c.Bound(ctx, "c1")
		_, _, ca := c.TrustsCA(ctx, "c1", nil)
		findings := c.CheckRights(ctx, "c1", nil)
		if len(findings) != 1 || findings[0].Level == checkup.OK || findings[0].Next == "" {
			t.Errorf("got findings %+v, want one with a next step", findings)
		}
		return []error{c.Bind(ctx, admin), c.Unbind(ctx, "c1", request), bound, ca, errors.New(findings[0].Text)}
	}
	for _, e := range do(t.Context(), open(t, 0, write(t, elsewhere))) {
		mustSay(t, e, "cluster c1", "CA in the daemon's kubeconfig")
	}
	for _, e := range do(t.Context(), open(t, 0, write(t, otherName))) {
		mustSay(t, e, "cluster c1", "correct the address or the CA")
	}
	w.sim.SetDown(true)
	// client-go asks again, once a second, when a connection is dropped.
	short, end := context.WithTimeout(t.Context(), 900*time.Millisecond)
	defer end()
	for _, e := range do(short, w.c) {
		mustSay(t, e, "cluster c1", w.sim.URL, "is it up")
	}
	w.sim.SetDown(false)
	w.sim.SetFault(func(kubesim.Call) kubesim.Fault { return kubesim.Hang })
	_, err = w.c.Bound(t.Context(), "c1")
	mustSay(t, err, "does not answer")
	patient := open(t, time.Minute, kubeconfigOf(t, w.sim, "daemon"))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err = patient.Bound(ctx, "c1"); !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "answer") {
		t.Errorf("got %v, want that it was cancelled and not a word about the API server", err)
	}
	w.sim.SetFault(nil)
	unknown := open(t, 0, kubeconfigOf(t, w.sim, "guess"))
	err = unknown.Bind(t.Context(), admin)
	mustSay(t, err, "does not accept the daemon's credential", "policies/kubernetes/README.md")
	if !apierrors.IsUnauthorized(err) {
		t.Errorf("the cause of %v is lost", err)
	}
	if strings.Contains(err.Error(), "guess") {
		t.Errorf("%v shows the credential", err)
	}
	weak := open(t, 0, kubeconfigOf(t, w.sim, "weak"))
	mustSay(t, weak.Bind(t.Context(), admin), "may not", "policies/kubernetes/")
	mustSay(t, weak.Unbind(t.Context(), "c1", request), "may not", "policies/kubernetes/")
	_, err = weak.Bound(t.Context(), "c1")
	mustSay(t, err, "may not", "policies/kubernetes/")
	elsewhereBinding := admin
	elsewhereBinding.Cluster = "c2"
	_, boundErr := w.c.Bound(t.Context(), "c2")
	_, _, caErr := w.c.TrustsCA(t.Context(), "c2", nil)
	for _, e := range []error{w.c.Bind(t.Context(), elsewhereBinding), w.c.Unbind(t.Context(), "c2", request), boundErr, caErr,
		errors.New(w.c.CheckRights(t.Context(), "c2", nil)[0].Text)} {
		mustSay(t, e, "cluster c2", "configuration")
	}
}

// A credential that runs out unnoticed would be found out about on the night it is needed.
func TestCredentialThatEndsSoonIsFound(t *testing.T) {
	const day = 24 * time.Hour
	ca, err := real.NewCA("clients")
	must(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	for _, row := range []struct {
		name     string
		age, end time.Duration // since it began, until it ends
		want     bool
	}{
		{"a year, 29 days left", 336 * day, 29 * day, true},
		{"a year, 31 days left", 334 * day, 31 * day, false},
		{"an hour, 20 minutes left", 40 * time.Minute, 20 * time.Minute, false}, // of what a file holds
		{"an hour, 10 minutes left", 50 * time.Minute, 10 * time.Minute, true},
	} {
		began, ends := time.Now().Add(-row.age), time.Now().Add(row.end)
		token := "e30." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"iat":%d,"exp":%d}`, began.Unix(), ends.Unix())) + ".c2ln"
		cert, err := ca.Sign(&x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "daemon"}, NotBefore: began,
			NotAfter:    ends,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, key.Public())
		must(t, err)
		sim, err := kubesim.Start(t.Context(), kubesim.Config{ClientCAPEM: ca.CertPEM,
			Tokens: []kubesim.Token{{Value: token, User: "daemon"}, {Value: "for-ever", User: "daemon"}}})
		must(t, err)
		defer sim.Close()
		file := write(t, token)
		text, err := sim.Kubeconfig("for-ever")
		must(t, err)
		user := func(fields string) string {
			return write(t, strings.ReplaceAll(string(text), "token: for-ever", fields))
		}
		data := base64.StdEncoding.EncodeToString
		for kind, path := range map[string]string{
			"token":      user("token: " + token),
			"token file": user("tokenFile: " + file),
			"certificate": user("{client-certificate-data: " + data(cert) + ", client-key-data: " +
				data(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})) + "}"),
			"for ever": user("token: for-ever"),
		} {
			t.Run(row.name+", "+kind, func(t *testing.T) {
				var got []string
				for _, f := range open(t, 0, path).CheckRights(t.Context(), "c1", nil) {
					if strings.Contains(f.Text, "credential") {
						got = append(got, f.Text)
					}
				}
				// Nothing renews what stands in the kubeconfig itself.
				if want := kind != "for ever" && (row.want || kind != "token file" && row.end < 30*day); (len(got) == 1) != want || want &&
					(!strings.Contains(got[0], ends.UTC().Format(time.RFC3339)) || !strings.Contains(got[0], " ends in ")) {
					t.Errorf("got findings %q, want one: %v", got, want)
				}
			})
		}
	}
}

// What is certain is said before a certificate is signed, and silence is not taken for a no.
func TestACredentialThatIsOfNoUseIsKnownBeforeAClaim(t *testing.T) {
	jwt := func(ends time.Time) string {
		return "e30." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"iat":%d,"exp":%d}`, ends.Add(-time.Hour).Unix(), ends.Unix())) +
			".c2ln"
	}
	ended, good, unknown := jwt(time.Now().Add(-time.Second)), jwt(time.Now().Add(time.Hour)), jwt(time.Now().Add(2*time.Hour))
	sim, err := kubesim.Start(t.Context(), kubesim.Config{Tokens: []kubesim.Token{{Value: ended, User: "daemon"},
		{Value: good, User: "daemon"}}})
	must(t, err)
	defer sim.Close()
	with := func(fields string) *cluster.Clusters {
		text, err := sim.Kubeconfig("for-ever")
		must(t, err)
		return open(t, 0, write(t, strings.ReplaceAll(string(text), "token: for-ever", fields)))
	}
	must(t, with("token: "+good).Able(t.Context(), "c1"))
	// The simulator does not look at the end, and an API server allows for a minute.
	mustSay(t, with("token: "+ended).Able(t.Context(), "c1"), "has ended", "restart breakglassd", "policies/kubernetes/README.md")
	refused := with("token: " + unknown)
	err = refused.Able(t.Context(), "c1")
	mustSay(t, err, "does not accept the daemon's credential", "restart breakglassd")
	if !apierrors.IsUnauthorized(err) || strings.Contains(err.Error(), unknown) {
		t.Errorf("the cause is lost, or the credential shows: %v", err)
	}
	if _, err := refused.Bound(t.Context(), "c1"); err == nil { // by which the health probe knows it, and the alert
		t.Error("a refused credential lists bindings")
	}
	file := write(t, unknown)
	mustSay(t, with("tokenFile: "+file).Able(t.Context(), "c1"), file, "read again")
	must(t, os.WriteFile(file, []byte(ended), 0o600))
	mustSay(t, with("tokenFile: "+file).Able(t.Context(), "c1"), file, "has ended")
	mustSay(t, refused.Able(t.Context(), "c2"), "cluster c2")
	// One that may do nothing is known to the API server all the same; and nobody answers.
	weak := start(t, 0)
	must(t, open(t, 0, kubeconfigOf(t, weak.sim, "weak")).Able(t.Context(), "c1"))
	late := with("token: " + unknown)
	must(t, sim.Close())
	must(t, late.Able(t.Context(), "c1"))
}

func TestUnusableKubeconfigsAreRefused(t *testing.T) {
	sim, err := kubesim.Start(t.Context(), kubesim.Config{})
	must(t, err)
	defer sim.Close()
	raw, err := sim.Kubeconfig("s3cr3t")
	must(t, err)
	good := string(raw)
	ca := good[strings.Index(good, "certificate-authority-data:"):]
	ca, _, _ = strings.Cut(ca, "\n")
	if !strings.Contains(good, "token: s3cr3t") {
		t.Fatalf("the token is not where this test expects it:\n%s", good)
	}
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"exec plugin": {strings.ReplaceAll(good, "token: s3cr3t", "exec: {apiVersion: client.authentication.k8s.io/v1, command: aws, "+
			"interactiveMode: Never}"),
			[]string{"plugin", "use a token or a certificate"}},
		"another user": {strings.ReplaceAll(good, "token: s3cr3t", "token: s3cr3t\n    as: admin"), []string{"acts as another", "of its own"}},
		"other groups": {strings.ReplaceAll(good, "token: s3cr3t", "token: s3cr3t\n    as-groups: [system:masters]"),
			[]string{"without impersonating a user"}},
		"auth provider": {strings.ReplaceAll(good, "token: s3cr3t", "auth-provider: {name: oidc, config: {a: b}}"), []string{"plugin"}},
		"no TLS verification": {strings.ReplaceAll(good, ca, "insecure-skip-tls-verify: true"),
			[]string{"turns TLS verification off", "put the API server's CA in it"}},
		"plain http":      {strings.ReplaceAll(good, "https://", "http://"), []string{"https://", "unprotected"}},
		"no scheme":       {strings.ReplaceAll(good, "https://", ""), []string{"https://"}},
		"garbage":         {"s3cr3t\x00{{", []string{"reading the daemon's kubeconfig"}},
		"a token alone":   {"s3cr3t", []string{"reading the daemon's kubeconfig"}},
		"empty":           {"", []string{"using the daemon's kubeconfig"}},
		"no such context": {strings.ReplaceAll(good, "current-context: ", "current-context: no-"), []string{"context"}},
		"CA is garbage":   {strings.ReplaceAll(good, ca, "certificate-authority-data: Z2FyYmFnZQ=="), []string{"certificate"}},
		"CA file missing": {strings.ReplaceAll(good, ca, "certificate-authority: missing.pem"), []string{"missing.pem"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, c.text)
			_, err := cluster.Open(cluster.Config{Targets: []cluster.Target{{ID: "c1", Kubeconfig: path}}})
			mustSay(t, err, append(c.want, "cluster c1", path)...)
			if strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("%v shows the credential", err)
			}
		})
	}

	t.Run("everything that is wrong is told at once", func(t *testing.T) {
		_, err := cluster.Open(cluster.Config{Targets: []cluster.Target{
			{ID: "a", Kubeconfig: "/nowhere/kubeconfig"},
			{ID: "b", Kubeconfig: write(t, good), CAFile: "/nowhere/ca.pem"},
			{ID: "c", Kubeconfig: write(t, good), CAFile: write(t, "garbage")},
		}})
		mustSay(t, err, "cluster a", "/nowhere/kubeconfig", "no such file", "cluster b", "/nowhere/ca.pem", "cluster c", "no PEM certificate")
	})
}

func TestFilesNamedInAKubeconfigAreRelativeToIt(t *testing.T) {
	w := start(t, 0)
	raw, err := w.sim.Kubeconfig("daemon")
	must(t, err)
	good := string(raw)
	ca := good[strings.Index(good, "certificate-authority-data:"):]
	ca, _, _ = strings.Cut(ca, "\n")
	path := write(t, strings.NewReplacer(ca, "certificate-authority: ca.pem", "token: daemon", "tokenFile: token").Replace(good))
	must(t, os.WriteFile(filepath.Join(filepath.Dir(path), "ca.pem"), w.sim.CAPEM(), 0o600))
	must(t, os.WriteFile(filepath.Join(filepath.Dir(path), "token"), []byte("daemon"), 0o600))
	c := open(t, 0, path)
	if _, err := c.Bound(t.Context(), "c1"); err != nil {
		t.Error(err)
	}
	if got := string(c.CA("c1")); got != string(w.sim.CAPEM()) {
		t.Errorf("people's kubeconfigs would trust %q, want the CA of the daemon's", got)
	}
	if got := c.CA("c2"); got != nil {
		t.Errorf("got CA %q for a cluster that is not there", got)
	}
	people := write(t, string(w.sim.CAPEM())+"\n# for people\n")
	own, err := cluster.Open(cluster.Config{Targets: []cluster.Target{{ID: "c1", Kubeconfig: path, CAFile: people}}})
	must(t, err)
	if got := string(own.CA("c1")); !strings.HasSuffix(got, "# for people\n") {
		t.Errorf("people's kubeconfigs would trust %q, want the file of their own", got)
	}
}

func TestManyRequestsAtTheSameTimeDoNotDisturbEachOther(t *testing.T) {
	w := start(t, 0)
	var wg sync.WaitGroup
	for i := range 12 {
		b := admin
		if i%2 == 0 {
			b = scoped
		}
		b.Request = fmt.Sprintf("bg-%04d-000", i)
		b.User = "breakglass:alice:" + b.Request
		for range 2 { // two at once for the same request, as a sweep and a claim may be
			wg.Go(func() {
				if err := w.c.Bind(t.Context(), b); err != nil {
					t.Error(err)
				}
				if _, err := w.c.Bound(t.Context(), "c1"); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	ids, err := w.c.Bound(t.Context(), "c1")
	if err != nil || len(ids) != 12 || len(names(w.sim)) != 18 {
		t.Errorf("got %q, %v and %q, want 12 requests with 18 bindings", ids, err, names(w.sim))
	}
	for _, id := range ids {
		for range 2 {
			wg.Go(func() {
				if err := w.c.Unbind(t.Context(), "c1", id); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	if got := names(w.sim); len(got) != 0 {
		t.Errorf("got %q left, want nothing", got)
	}
}

func TestAPIServerThatAnswersNonsenseIsAnError(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w,
			"<html>a proxy's greeting</html>")
	}))
	defer s.Close()
	c := open(t, 0, kubeconfig(t, s.URL, s.Certificate(), "daemon"))
	if err := c.Bind(t.Context(), admin); err == nil {
		t.Error("Bind believes it")
	}
	if err := c.Unbind(t.Context(), "c1", request); err == nil {
		t.Error("Unbind believes it")
	}
	if _, err := c.Bound(t.Context(), "c1"); err == nil {
		t.Error("Bound believes it")
	}
	for _, f := range c.CheckRights(t.Context(), "c1", nil) {
		if f.Level == checkup.OK {
			t.Errorf("CheckRights believes it: %+v", f)
		}
	}
}

// A group that a profile gives and nothing is bound to makes certificates that open nothing.
func TestDoctorSeesAGroupThatIsBoundToNothing(t *testing.T) {
	w := start(t, 0)
	rights := []policy.Rights{{Group: "breakglass:cluster-admins"}, {Group: "breakglass:api-rescue"}, {ClusterRole: "cluster-admin"}}
	_, err := w.admin.ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "admins"},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "Group", Name: "breakglass:cluster-admins"},
			{APIGroup: rbacv1.GroupName, Kind: "User", Name: "breakglass:api-rescue"}}}, metav1.CreateOptions{})
	must(t, err)
	got := w.c.CheckGroups(t.Context(), "c1", rights)
	if len(got) != 2 || got[0].Level == checkup.OK || !strings.Contains(got[0].Text, "nothing is bound to group breakglass:api-rescue") ||
		got[1].Level != checkup.OK {
		t.Errorf("got %+v, want that api-rescue is bound to nothing and cluster-admins is", got)
	}
	w.sim.SetFault(func(kubesim.Call) kubesim.Fault { return kubesim.Fail })
	got = w.c.CheckGroups(t.Context(), "c1", rights)
	if len(got) != 2 || got[0].Level == checkup.OK || got[1].Level == checkup.OK || !strings.Contains(got[0].Text, "cannot be told") {
		t.Errorf("got %+v, want that it cannot be told", got)
	}
}
