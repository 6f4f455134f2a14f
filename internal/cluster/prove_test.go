package cluster_test

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	rbacclient "k8s.io/client-go/kubernetes/typed/rbac/v1"
	"k8s.io/client-go/rest"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/residue"
	kubesim "github.com/breakglassd/breakglass/internal/sim/kube"
)

func TestSimulatedClusterProvesAndIsSwept(t *testing.T) {
	sim, err := kubesim.Start(t.Context(), kubesim.Config{Tokens: []kubesim.Token{{Value: "daemon", User: kubesim.DaemonUser,
		Rules: append(kubesim.BinderRules(), kubesim.SweepRules()...)}}})
	must(t, err)
	defer sim.Close()
	c := open(t, 0, kubeconfigOf(t, sim, "daemon"))
	access := breakglass.Access{Request: request, Cluster: "c1", User: alice, Rights: admin.Rights}
	from := time.Now()
	before, err := c.Snapshot(t.Context(), "c1")
	must(t, err)
	if gaps := before.Missing(); len(gaps) != 1 || !strings.Contains(gaps[0], "secrets") {
		t.Errorf("got gaps %q, want that of Secrets alone", gaps)
	}
	must(t, c.Bind(t.Context(), admin))
	if got := c.Ask(t.Context(), access); len(got) != 1 || got[0].No || !got[0].StillAllows() {
		t.Errorf("got %+v while bound, want that it is still allowed", got)
	}
	planted := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "planted"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{Kind: "User", Name: "eve"}}}
	_, err = daemonOf(t, sim).ClusterRoleBindings().Create(t.Context(), planted, metav1.CreateOptions{})
	must(t, err)
	after, err := c.Snapshot(t.Context(), "c1") // while the grant's own binding is there
	must(t, err)
	got := residue.Judge(residue.Evidence{Changes: residue.Compare(&before, after, residue.Window{From: from, Until: time.Now()}),
		Before: &before,
		After:  after})
	if len(got) != 1 || got[0].Rule != "clusterrolebinding-created" || got[0].Object != "ClusterRoleBinding planted" ||
		got[0].Severity != finding.Critical {
		t.Errorf("got %+v, want the planted binding, and not the grant's own", got)
	}
	must(t, c.Unbind(t.Context(), "c1", request))
	if got := c.Ask(t.Context(), access); len(got) != 1 || !got[0].No || got[0].By != breakglass.RefusedByRBAC {
		t.Errorf("got %+v after unbinding, want no by RBAC", got)
	}
}

func TestAddressesOfAPIServersAreCheckedAndKeepTheirOrder(t *testing.T) {
	w := start(t, 0)
	path := kubeconfigOf(t, w.sim, "daemon")
	for address, says := range map[string]string{"http://10.0.0.1": "https://host:port", "https://u:p@10.0.0.1": "https://host:port",
		"10.0.0.1:6443": "https://host:port"} {
		_, err := cluster.Open(cluster.Config{Targets: []cluster.Target{{ID: "c1", Kubeconfig: path, APIServers: []string{address}}}})
		mustSay(t, err, says)
	}
	_, err := cluster.Open(cluster.Config{Targets: []cluster.Target{{ID: "c1", Kubeconfig: path,
		APIServers: []string{"https://10.0.0.1", "https://10.0.0.1:443/"}}}})
	mustSay(t, err, "twice")
	c, err := cluster.Open(cluster.Config{Targets: []cluster.Target{{ID: "c1", Kubeconfig: path,
		APIServers: []string{"https://127.0.0.1:1", w.sim.URL}}}})
	must(t, err)
	servers, err := c.Servers("c1")
	must(t, err)
	if len(servers) != 2 || servers[0].Address != "https://127.0.0.1:1" || servers[0].Config.Host != servers[0].Address ||
		servers[1].Address != w.sim.URL {
		t.Errorf("got %+v, want the configuration's order", servers)
	}
	pings := c.Ping(t.Context(), "c1", map[string]string{"https://127.0.0.1:1": "nonce-1", w.sim.URL: "nonce-2"})
	if err, asked := pings[w.sim.URL]; len(pings) != 2 || pings["https://127.0.0.1:1"] == nil || !asked || err != nil {
		t.Errorf("got %+v, want an error from the one that is not there", pings)
	}
}

// An API server that remembers "no opinion" lets the same request in without asking the webhook again: what refuses everything
// new has not refused that.
func TestServerHasRefusedOnlyWhenItHasForgottenWhatItWasAskedBefore(t *testing.T) {
	var remembers atomic.Bool
	remembers.Store(true)
	var mu sync.Mutex
	var asked []string
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review authorizationv1.SubjectAccessReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil || r.URL.Path != "/apis/authorization.k8s.io/v1/subjectaccessreviews" {
			t.Errorf("got %s %s, %v", r.Method, r.URL, err)
		}
		a := review.Spec.ResourceAttributes
		mu.Lock()
		asked = append(asked, a.Resource)
		mu.Unlock()
		review.Status.Denied = true
		if a.Resource == "nodes" && remembers.Load() {
			review.Status = authorizationv1.SubjectAccessReviewStatus{Allowed: true}
		}
		w.Header().Set("Content-Type", "application/json")
		must(t, json.NewEncoder(w).Encode(review))
	}))
	defer srv.Close()
	path := write(t, fmt.Sprintf("{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}], "+
		"users: [{name: u, user: {token: t}}], clusters: [{name: c, cluster: {server: %q, certificate-authority-data: %q}}]}",
		srv.URL, base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))))
	spec := func(resource string) json.RawMessage {
		return fmt.Appendf(nil,
			`{"user":%q,"groups":["breakglass:cluster-admins","system:authenticated"],"resourceAttributes":{"verb":"list","version":"v1","resource":%q}}`, alice, resource)
	}
	c, err := cluster.Open(cluster.Config{Targets: []cluster.Target{{ID: "c1", Kubeconfig: path}}, Asked: func(user string) []json.RawMessage {
		if user != alice {
			t.Errorf("asked for %q", user)
		}
		return []json.RawMessage{spec("pods"), spec("nodes"), spec("events")}
	}})
	must(t, err)
	access := breakglass.Access{Request: request, Cluster: "c1", User: alice, Rights: policy.Rights{Group: "breakglass:cluster-admins"}}
	if got := c.Ask(t.Context(), access); len(got) != 1 || got[0].No || !got[0].StillAllows() ||
		got[0].Question != "may it list nodes?" {
		t.Errorf("got %+v, want that it is still let in by what is remembered", got)
	}
	remembers.Store(false)
	if got := c.Ask(t.Context(), access); len(got) != 1 || !got[0].No || got[0].By != breakglass.RefusedByWebhook {
		t.Errorf("got %+v, want a no", got)
	}
	if want := []string{"proofs", "pods", "nodes", "proofs", "pods", "nodes", "events"}; !slices.Equal(asked, want) {
		t.Errorf("asked about %q, want %q", asked, want)
	}
}

// Several revocations at one time ask thousands of questions. The daemon's own limit on requests must not make of that an API server
// that does not answer.
func TestManyProofsAtOneTimeAreNotTakenForServersThatAreAway(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review authorizationv1.SubjectAccessReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Error(err)
		}
		review.Status.Denied = true
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(review); err != nil {
			t.Error(err)
		}
	}))
	defer srv.Close()
	path := write(t, fmt.Sprintf("{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}], "+
		"users: [{name: u, user: {token: t}}], clusters: [{name: c, cluster: {server: %q, certificate-authority-data: %q}}]}",
		srv.URL, base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))))
	var before []json.RawMessage
	for i := range 500 {
		before = append(before, fmt.Appendf(nil, `{"user":%q,"resourceAttributes":{"verb":"list","version":"v1","resource":"r%d"}}`, alice, i))
	}
	c, err := cluster.Open(cluster.Config{Targets: []cluster.Target{{ID: "c1", Kubeconfig: path}}, Timeout: 30 * time.Second,
		Asked: func(string) []json.RawMessage { return before }})
	must(t, err)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			got := c.Ask(t.Context(), breakglass.Access{Request: request, Cluster: "c1", User: alice,
				Rights: policy.Rights{Group: "breakglass:cluster-admins"}})
			if len(got) != 1 || !got[0].No {
				t.Errorf("got %+v, want a no", got)
			}
		})
	}
	all.Wait()
}

func daemonOf(t *testing.T, sim *kubesim.Server) rbacclient.RbacV1Interface {
	t.Helper()
	c, err := rbacclient.NewForConfig(&rest.Config{Host: sim.URL, BearerToken: "daemon",
		TLSClientConfig: rest.TLSClientConfig{CAData: sim.CAPEM()}})
	must(t, err)
	return c
}

// A session that binds its own certificate to something else, under another name and without our labels, must not make a receipt
// say that the certificate is refused.
func TestReceiptIsHonestAboutSelfMadeBindings(t *testing.T) {
	w := start(t, 0)
	access := breakglass.Access{Request: request, Cluster: "c1", User: alice, Rights: admin.Rights}
	plant := func(name string, subjects ...rbacv1.Subject) {
		t.Helper()
		_, err := w.admin.ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "helper"}, Subjects: subjects}, metav1.CreateOptions{})
		must(t, err)
	}
	user := func(name string) rbacv1.Subject {
		return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: "User", Name: name}
	}
	proof := func() breakglass.Answer {
		t.Helper()
		got := w.c.Ask(t.Context(), access)
		if len(got) != 1 {
			t.Fatalf("got %+v, want one answer", got)
		}
		return got[0]
	}
	must(t, w.c.Bind(t.Context(), admin))
	plant("kube-proxy-helper", user(alice))
	plant("both", user(alice), user("breakglass:bob:bg-0000-000"))
	plant("shared", user(alice), user("oidc:frank"))
	plant("others", user("breakglass:bob:bg-0000-000"))
	mustSay(t, w.c.Unbind(t.Context(), "c1", request), "ClusterRoleBinding shared", "about others too")
	if got := names(w.sim); !slices.Equal(got, []string{"others", "shared"}) {
		t.Errorf("got %q left, want what is about somebody else too", got)
	}
	if got := proof(); got.No || !got.StillAllows() || !slices.Contains(got.Bindings,
		"ClusterRoleBinding shared to ClusterRole helper: still there") {
		t.Errorf("got %+v, want that the certificate is let in by the binding that is there", got)
	}
	must(t, w.admin.ClusterRoleBindings().Delete(t.Context(), "shared", metav1.DeleteOptions{}))
	must(t, w.c.Unbind(t.Context(), "c1", request))
	got := proof()
	if !got.No || got.By != breakglass.RefusedByRBAC || !slices.Equal(got.Bindings,
		[]string{"ClusterRoleBinding kube-proxy-helper to ClusterRole helper: taken away",
			"ClusterRoleBinding both to ClusterRole helper: taken away"}) && !slices.Equal(got.Bindings,
		[]string{"ClusterRoleBinding both to ClusterRole helper: taken away",
			"ClusterRoleBinding kube-proxy-helper to ClusterRole helper: taken away"}) {
		t.Errorf("got %+v, want no, and the names of what was taken away", got)
	}
	w.sim.SetFault(func(c kubesim.Call) kubesim.Fault {
		if c.Verb == "list" {
			return kubesim.Fail
		}
		return kubesim.NoFault
	})
	if got := proof(); got.No || !strings.Contains(got.Problem, "cannot be told") {
		t.Errorf("got %+v while bindings cannot be listed, want that it cannot be told", got)
	}
}

// An API server may belong to the intruder: it must not fill the daemon's memory, which serves other clusters too.
func TestAPIServerThatNeverEndsIsGivenUp(t *testing.T) {
	var sent atomic.Int64
	endless := func(w http.ResponseWriter, _ *http.Request) {
		chunk := []byte(strings.Repeat("x", 1<<16))
		fmt.Fprint(w, `{"kind":"ClusterRoleBindingList","items":[{"metadata":{"name":"`)
		for {
			n, err := w.Write(chunk)
			if sent.Add(int64(n)); err != nil {
				return
			}
		}
	}
	pages := func(w http.ResponseWriter, r *http.Request) {
		kind := "ClusterRoleBindingList"
		if strings.HasSuffix(r.URL.Path, "/rolebindings") {
			kind = "RoleBindingList"
		}
		sent.Add(1)
		fmt.Fprintf(w, `{"kind":%q,"metadata":{"continue":"more"},"items":[]}`, kind)
	}
	many := func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"kind":"ClusterRoleBindingList","items":[{}%s]}`, strings.Repeat(`,{"metadata":{"name":"x"}}`, 600))
	}
	for name, answer := range map[string]http.HandlerFunc{"one answer": endless, "page after page": pages, "a page of its own size": many} {
		t.Run(name, func(t *testing.T) {
			sent.Store(0)
			s := httptest.NewTLSServer(answer)
			defer s.Close()
			c := open(t, time.Minute, kubeconfig(t, s.URL, s.Certificate(), "daemon"))
			_, err := c.Bound(t.Context(), "c1")
			if err == nil {
				t.Fatal("an answer without an end is taken for one")
			}
			s.CloseClientConnections()
			if most := int64(64 << 20); sent.Load() > most { // two lists of 16 MB, and what is on its way
				t.Errorf("%d bytes were taken", sent.Load())
			}
		})
	}
}

// A server that is away keeps Ask waiting, and moves no other server's first no.
func TestStoppedServerDoesNotMoveTheTimesOfTheOthers(t *testing.T) {
	w := start(t, 0)
	l, err := net.Listen("tcp", "127.0.0.1:0") // it takes connections, as a stopped process does, and never answers
	must(t, err)
	defer l.Close()
	connected := make(chan net.Conn, 100)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			connected <- conn
		}
	}()
	c, err := cluster.Open(cluster.Config{Timeout: time.Hour, Targets: []cluster.Target{{ID: "c1",
		Kubeconfig: kubeconfigOf(t, w.sim, "daemon"),
		APIServers: []string{"https://" + l.Addr().String(), w.sim.URL}}}})
	must(t, err)
	must(t, c.Bind(t.Context(), admin))
	asked := make(chan struct{}, 1000)
	w.sim.SetFault(func(call kubesim.Call) kubesim.Fault {
		if call.Resource == "subjectaccessreviews" {
			asked <- struct{}{}
		}
		return kubesim.NoFault
	})
	answers := make(chan []breakglass.Answer, 1)
	go func() {
		answers <- c.Ask(t.Context(), breakglass.Access{Request: request, Cluster: "c1", User: alice, Rights: admin.Rights})
	}()
	conn := <-connected
	<-asked // while it is bound
	must(t, c.Unbind(t.Context(), "c1", request))
	for len(asked) > 0 {
		<-asked
	}
	select {
	case <-asked: // again, since nothing binds it any more
	case <-time.After(20 * time.Second):
		t.Error("a server that let the certificate in is not asked again while another is away")
	}
	must(t, l.Close())
	must(t, conn.Close())
	got := <-answers
	if len(got) != 2 || !got[0].Silent || got[0].No || !got[1].No || got[1].At.IsZero() {
		t.Errorf("got %+v, want that the second refuses, and that of the first nothing is known", got)
	}
}
