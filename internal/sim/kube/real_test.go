package kubesim_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	rbacclient "k8s.io/client-go/kubernetes/typed/rbac/v1"
	"k8s.io/client-go/rest"

	"github.com/breakglassd/breakglass/internal/bgtest/realtest"
	"github.com/breakglassd/breakglass/internal/real"
	kubesim "github.com/breakglassd/breakglass/internal/sim/kube"
)

// reply is what is compared between the two servers: the status code and what callers act on or show to people.
type reply struct {
	Code         int
	Kind, Reason string
	Message      string
	Details      map[string]any
	Status       any
	Names        []string // of the items of a list, or the rows of a table
	Columns      []string // of a table, the ones that kubectl shows without -o wide
}

func ask(t *testing.T, c *http.Client, method, url, accept, body string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", cmp.Or(accept, "application/json"))
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	type object struct {
		Metadata struct{ Name string }
	}
	var got struct {
		Kind, Reason, Message string
		Details               map[string]any
		Status                any
		Items                 []object
		Rows                  []struct{ Object object }
		ColumnDefinitions     []metav1.TableColumnDefinition
	}
	if json.Unmarshal(raw, &got) != nil {
		return reply{Code: resp.StatusCode, Message: strings.TrimSpace(string(raw))}
	}
	out := reply{Code: resp.StatusCode, Kind: got.Kind, Reason: got.Reason, Message: got.Message, Details: got.Details, Status: got.Status}
	delete(out.Details, "uid")
	for _, row := range got.Rows {
		got.Items = append(got.Items, row.Object)
	}
	for _, item := range got.Items {
		out.Names = append(out.Names, item.Metadata.Name)
	}
	for _, column := range got.ColumnDefinitions {
		if column.Priority == 0 {
			out.Columns = append(out.Columns, column.Name+" "+column.Type+" "+column.Format)
		}
	}
	return out
}

// sinceOldest takes out of an answer what the simulated 1.37 says in other words than the oldest supported kube-apiserver (1.35): the
// beginning of the reason when a role is missing, and the order in which the faults of a binding are named.
func (r *reply) sinceOldest() {
	r.Message = strings.Replace(r.Message, ": rbac: RBAC: ", ": RBAC: ", 1)
	if status, ok := r.Status.(map[string]any); ok {
		if reason, ok := status["reason"].(string); ok {
			status["reason"] = strings.TrimPrefix(reason, "rbac: ")
		}
	}
	if causes, ok := r.Details["causes"].([]any); ok && len(causes) > 1 {
		slices.SortFunc(causes, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		r.Message = "" // names them in their order
	}
}

// TestAnswersLikeKubeAPIServer puts the same questions, with the same credentials and in the same order, to a real
// kube-apiserver and to the simulated one.
func TestAnswersLikeKubeAPIServer(t *testing.T) {
	ca, other := mustCA(t, "break-glass CA"), mustCA(t, "other CA")
	apiserver := realtest.NewCluster(t, real.APIServerOptions{ClientCAs: ca.CertPEM})
	realCA, err := os.ReadFile(apiserver.CACert)
	if err != nil {
		t.Fatal(err)
	}
	sim := mustStart(t, ca.CertPEM)
	servers := map[string]*rest.Config{
		"real": {Host: apiserver.URL, TLSClientConfig: rest.TLSClientConfig{CAData: realCA}},
		"sim":  {Host: sim.URL, TLSClientConfig: rest.TLSClientConfig{CAData: sim.CAPEM()}},
	}

	// 1. Everybody has one certificate and one connection per server.
	expired, server, two, uid := client("alice"), client("alice"), client(""), client("alice")
	expired.NotBefore, expired.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(-time.Minute)
	server.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	two.Subject.ExtraNames = append(attributes(oidCommonName, "first", "second"), attributes(oidUID, "u-1")...)
	uid.Subject.ExtraNames = attributes(oidUID, "a", "b")
	templates := map[string]*x509.Certificate{
		"admin": client("admin", "system:masters"), "alice": client("alice", "team-a", "team-b"), "no-cn": client(""),
		"expired": expired, "server": server, "two-cn": two, "two-uid": uid, "other-ca": client("alice"),
		"all": client("all"), "viewer": client("viewer", "oncall"), "ghost": client("ghost"), "owner": client("owner", "owners"),
		"daemon": client("daemon"),
		"odd":    client("odd", "system:unauthenticated"), "anonymous-cn": client("system:anonymous"),
	}
	clients := map[string]map[string]*http.Client{"real": {}, "sim": {}}
	for where, base := range servers {
		clients[where]["nobody"] = mustClient(t, base)
		bad := rest.CopyConfig(base)
		bad.BearerToken = "guess"
		clients[where]["bad-token"] = mustClient(t, bad)
	}
	for name, template := range templates {
		signer := ca
		if name == "other-ca" {
			signer = other
		}
		certPEM, keyPEM, _ := mustSign(t, signer, template)
		pair, err := tls.X509KeyPair(certPEM, keyPEM)
		if err != nil {
			t.Fatal(err)
		}
		for where, base := range servers {
			c := rest.CopyConfig(base)
			c.CertData, c.KeyData = certPEM, keyPEM
			clients[where][name] = mustClient(t, c)
			// Unlike client-go, plain crypto/tls sends a certificate only if the server names its issuer.
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(base.CAData)
			clients[where]["plain-"+name] = &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true,
				TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}}}
		}
	}

	// 2. The same roles and bindings on both. bind is what a real API server wants on top of BinderRules.
	if got := ask(t, clients["real"]["admin"], "POST", apiserver.URL+"/api/v1/namespaces", "",
		`{"metadata":{"name":"payments"}}`); got.Code != 201 {
		t.Fatalf("making a namespace: %+v", got)
	}
	for where, base := range servers {
		c, err := rbacclient.NewForConfigAndClient(base, clients[where]["admin"])
		if err != nil {
			t.Fatal(err)
		}
		binder := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "binder"}, Rules: append(kubesim.BinderRules(),
			rbacv1.PolicyRule{Verbs: []string{"bind"}, APIGroups: []string{rbacv1.GroupName}, Resources: []string{"clusterroles"}})}
		// The role view is empty on a real API server until a controller has run, which there is none of.
		reader := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "reader"}, Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{""}, Resources: []string{"pods", "namespaces"}}}}
		for _, role := range []*rbacv1.ClusterRole{binder, reader} {
			if _, err := c.ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		for user, role := range map[string]string{"all": "cluster-admin", "ghost": "no-such-role", "daemon": "binder"} {
			if _, err := c.ClusterRoleBindings().Create(t.Context(), bindingFor(user, role), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		b := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "oncall"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "reader"},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.GroupKind, Name: "oncall"}}}
		everythingThere := b.DeepCopy()
		everythingThere.Name, everythingThere.RoleRef.Name, everythingThere.Subjects[0].Name = "owners", "cluster-admin", "owners"
		for _, b := range []*rbacv1.RoleBinding{everythingThere, b} {
			if _, err := c.RoleBindings("payments").Create(t.Context(), b, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	// A real API server learns of the last binding a moment later.
	const pods = "/api/v1/namespaces/payments/pods"
	err = wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		return ask(t, clients["real"]["viewer"], "GET", apiserver.URL+pods, "", "").Code == 200, nil
	})
	if err != nil {
		t.Fatal(err)
	}

	// 3. Ask.
	const (
		rbac   = "/apis/rbac.authorization.k8s.io/v1/"
		crbs   = rbac + "clusterrolebindings"
		table  = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
		ours   = "?labelSelector=app.kubernetes.io/managed-by%3Dbreakglass"
		whoami = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
		cani   = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
	)
	binding := func(meta, rest string) string { return `{"metadata":{` + meta + `},` + rest + `}` }
	const toView = `"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"view"},"subjects":[{"kind":"User","name":"x"}]`
	type question struct{ who, method, path, accept, body string }
	var questions []question
	for _, who := range append(slices.Sorted(maps.Keys(templates)), "nobody", "bad-token", "plain-alice", "plain-other-ca") {
		questions = append(questions,
			question{who, "POST", whoami, "", `{}`},
			question{who, "POST", cani, "", `{"spec":{"resourceAttributes":{"verb":"list","resource":"pods","namespace":"payments"}}}`},
			question{who, "POST", cani, "", `{"spec":{"resourceAttributes":{"verb":"*","group":"*","resource":"*"}}}`},
			question{who, "POST", cani, "", `{"spec":{"nonResourceAttributes":{"verb":"get","path":"/x"}}}`},
			question{who, "POST", crbs, "", binding(`"name":"by-`+who+`"`, toView)},
			question{who, "GET", crbs + "/by-" + who, "", ""},
			question{who, "GET", rbac + "namespaces/payments/rolebindings", table, ""},
			question{who, "DELETE", crbs + "/by-" + who, "", ""},
		)
		for _, path := range []string{"/healthz", "/livez", "/readyz", "/api", "/apis/rbac.authorization.k8s.io", "/api/v1", pods,
			"/api/v1/pods?labelSelector=a%3Db",
			"/api/v1/namespaces/payments", "/api/v1/namespaces/nope", "/api/v1/nodes/nope", pods + "/nope", pods + "/nope/log",
			pods + "?watch=true&timeoutSeconds=1", rbac + "namespaces/payments/roles", rbac + "clusterroles/view", rbac + "clusterroles/nope"} {
			if strings.Contains(path, "nope/log") || strings.Contains(path, "watch") {
				if slices.Contains([]string{"admin", "all", "viewer", "owner"}, who) {
					continue // allowed, and then not simulated
				}
			}
			questions = append(questions, question{who, "GET", path, "", ""})
		}
	}
	questions = append(questions,
		question{"daemon", "GET", crbs + ours, "", ""},
		question{"daemon", "GET", crbs + ours, table, ""},
		question{"daemon", "GET", crbs + "/ghost", table, ""},
		question{"daemon", "GET", crbs + "?labelSelector=a%3Db%3Dc", "", ""},
		question{"daemon", "GET", crbs + "?fieldSelector=metadata.name%3Dghost", "", ""},
		question{"daemon", "GET", crbs + "?fieldSelector=roleRef.name%3Dview", "", ""},
		question{"daemon", "GET", crbs, "application/yaml-not", ""},
		question{"daemon", "POST", crbs, "", binding(`"name":"ghost"`, toView)},
		question{"daemon", "POST", crbs, "", binding(`"name":"a/b"`, toView)},
		question{"daemon", "POST", crbs, "", binding(``, toView)},
		question{"daemon", "POST", crbs, "", binding(`"name":"l","labels":{"person":"alice@example.com"}`, toView)},
		question{"daemon", "POST", crbs, "", binding(`"name":"n"`, `"roleRef":{"kind":"ClusterRole"},"subjects":[{"kind":"User","name":""}]`)},
		question{"daemon", "POST", crbs, "", binding(`"name":"s"`, strings.ReplaceAll(toView, `"User"`, `"Robot"`))},
		question{"daemon", "POST", crbs, "", binding(`"name":"s"`, strings.ReplaceAll(toView, `"User"`, `"ServiceAccount"`))},
		question{"daemon", "POST", crbs, "", `not json`},
		question{"daemon", "POST", crbs, "", ``},
		question{"daemon", "POST", crbs, "", `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p"}}`},
		question{"daemon", "POST", rbac + "namespaces/nope/rolebindings", "", binding(`"name":"r"`, toView)},
		question{"daemon", "POST", rbac + "namespaces/payments/rolebindings", "", binding(`"name":"r","namespace":"default"`, toView)},
		question{"daemon", "POST", rbac + "rolebindings", "", binding(`"name":"r"`, toView)},
		question{"daemon", "DELETE", crbs + "/nope", "", ""},
		question{"daemon", "DELETE", crbs + "/ghost", "", `{"preconditions":{"uid":"00000000-0000-0000-0000-000000000000"}}`},
		question{"daemon", "DELETE", crbs + "/ghost", "", ""},
		question{"daemon", "DELETE", crbs + "/ghost", "", ""},
		question{"all", "GET", "/api/v1/namespaces?fieldSelector=metadata.name%3Dpayments", table, ""},
		question{"all", "GET", "/api/v1/namespaces/nope", table, ""},
		question{"all", "GET", pods, table, ""},
		question{"all", "GET", pods + "?fieldSelector=spec.nodeName%3Dnope,status.phase%21%3DFailed", "", ""},
		question{"all", "GET", "/api/v1/nodes/nope", "", ""},
		// Every right in a namespace is no right outside of it.
		question{"owner", "GET", rbac + "namespaces/payments/clusterrolebindings", "", ""},
		question{"owner", "GET", rbac + "namespaces/payments/clusterrolebindings/ghost", "", ""},
		question{"owner", "POST", rbac + "namespaces/payments/clusterrolebindings", "", binding(`"name":"r"`, toView)},
		question{"owner", "GET", "/api/v1/namespaces/payments/nodes", "", ""},
		question{"owner", "GET", "/api/v1/namespaces/payments/namespaces", "", ""},
		question{"owner", "GET", "/api/v1/namespaces/payments/namespaces/default", "", ""},
		question{"owner", "POST", rbac + "namespaces/payments/rolebindings", "", binding(`"name":"r"`, toView)},
		question{"owner", "DELETE", rbac + "namespaces/payments/rolebindings/r", "", ""},
		question{"all", "POST", crbs + "/named", "", binding(`"name":"named"`, toView)},
		question{"all", "GET", "/api/v1/pods/nope", "", ""},
		question{"all", "GET", "/api/v1/namespaces/payments/pods/", "", ""},
		question{"alice", "GET", "//api/v1/pods", "", ""},
		question{"all", "GET", "/api/v1/unheard-of", "", ""},
		question{"all", "GET", "/no/such/path", "", ""},
		question{"alice", "GET", "/no/such/path", "", ""},
		question{"alice", "POST", "/no/such/path", "", ""},
	)
	for _, q := range questions {
		want := ask(t, clients["real"][q.who], q.method, apiserver.URL+q.path, q.accept, q.body)
		got := ask(t, clients["sim"][q.who], q.method, sim.URL+q.path, q.accept, q.body)
		if want.Code == 400 && strings.Contains(want.Message, "annot be handled") || strings.Contains(want.Message, "unrecognized") ||
			want.Code == 406 || strings.Contains(want.Message, "UID in record") {
			want.Message, got.Message = "", "" // a parser's words, a list of formats, and a random UID
		}
		if os.Getenv(real.LineVar) == "oldest" {
			want.sinceOldest()
			got.sinceOldest()
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("%s %s %s %s %s (-real +simulated):\n%s", q.who, q.method, q.path, q.accept, q.body, diff)
		}
	}

	// 4. Discovery: what is announced here is announced in the same words there.
	for _, path := range []string{"/api/v1", "/apis/rbac.authorization.k8s.io/v1", "/apis/authentication.k8s.io/v1",
		"/apis/authorization.k8s.io/v1"} {
		announced := map[string]map[string]metav1.APIResource{}
		for where, base := range servers {
			announced[where] = map[string]metav1.APIResource{}
			resp, err := clients[where]["alice"].Get(base.Host + path)
			if err != nil {
				t.Fatal(err)
			}
			var list metav1.APIResourceList
			err = json.NewDecoder(resp.Body).Decode(&list)
			resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range list.APIResources {
				r.StorageVersionHash = ""
				announced[where][r.Name] = r
			}
		}
		for name, got := range announced["sim"] {
			want := announced["real"][name]
			for _, verb := range got.Verbs {
				if !slices.Contains(want.Verbs, verb) {
					t.Errorf("%s/%s has the verb %s, which a real API server does not have", path, name, verb)
				}
			}
			want.Verbs = got.Verbs
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Errorf("%s/%s (-real +simulated):\n%s", path, name, diff)
			}
		}
	}
}

func TestKubectlWorks(t *testing.T) {
	ca := mustCA(t, "break-glass CA")
	s := mustStart(t, ca.CertPEM)
	kubeconfig := func(token string) string {
		config, err := s.Kubeconfig(token)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "kubeconfig")
		if err := os.WriteFile(path, config, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	admin, daemon := kubeconfig(adminToken), kubeconfig(daemonToken)
	for _, tc := range []struct{ as, command, want string }{
		{admin, "version", "Server Version: v1.37.2+breakglassd.dev"},
		{admin, "auth whoami", "Username    admin"},
		{admin, "get namespaces", "NAME          STATUS   AGE\ndefault       Active   "},
		{admin, "get ns payments -o json", `"name": "payments"`},
		{admin, "get nodes", "dev-control-plane   Ready    control-plane   "},
		{admin, "get pods -A", "default     checkout-5d8f7c9b4-x2v7k   0/1     CrashLoopBackOff   17         "},
		{admin, "get all", "checkout-5d8f7c9b4-x2v7k   0/1"},
		{admin, "describe node dev-control-plane", "checkout-5d8f7c9b4-x2v7k"},
		{admin, "auth can-i get pods", "yes"},
		{admin, "api-resources", "rbac.authorization.k8s.io/v1   false        ClusterRoleBinding"},
		{admin, "create clusterrolebinding alice --clusterrole=view --user=alice", "clusterrolebinding.rbac.authorization.k8s.io/alice created"},
		{daemon, "get clusterrolebindings", "alice                                          ClusterRole/view "},
		{daemon, "delete clusterrolebinding alice", `clusterrolebinding.rbac.authorization.k8s.io "alice" deleted`},
		{daemon, "auth can-i --list", "clusterrolebindings.rbac.authorization.k8s.io "},
	} {
		if got := realtest.MustKubectl(t, tc.as, strings.Fields(tc.command)...); !strings.Contains(got, tc.want) {
			t.Errorf("kubectl %s printed\n%s\nwant %q in it", tc.command, got, tc.want)
		}
	}
	bins := realtest.MustBuild(t, real.KubeCtl)
	for _, tc := range []struct{ as, command, want string }{
		{daemon, "get namespaces", `Error from server (Forbidden): namespaces is forbidden: User "` + kubesim.DaemonUser +
			`" cannot list resource "namespaces" in API group "" at the cluster scope`},
		{kubeconfig("guess"), "get namespaces", "error: You must be logged in to the server (the server has asked for the client to provide " +
			"credentials)"},
		{admin, "get clusterrolebinding alice", `Error from server (NotFound): clusterrolebindings.rbac.authorization.k8s.io "alice" not found`},
	} {
		if _, _, err := bins.Kubectl(t.Context(), tc.as, strings.Fields(tc.command)...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("kubectl %s = %v\nwant %s", tc.command, err, tc.want)
		}
	}
}
