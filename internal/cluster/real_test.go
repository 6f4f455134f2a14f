package cluster_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	rbacclient "k8s.io/client-go/kubernetes/typed/rbac/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/breakglassd/breakglass/internal/bgtest/realtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/checkup"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/real"
	"github.com/breakglassd/breakglass/policies"
)

const account = "system:serviceaccount:breakglass:breakglassd"

// unhurried is the limit of each request to a real API server, which shares its cores with other tests.
const unhurried = 30 * time.Second

// prod is a real cluster with the manifests that ship, and a daemon with a token of its service account there.
type prod struct {
	*real.APIServer
	bins  real.Binaries
	ca    *real.CA
	files string // directory of the manifests
	path  string // the daemon's kubeconfig
	admin rbacclient.RbacV1Interface
}

func startReal(t *testing.T, etcd *real.Etcd, prefix string) *prod {
	t.Helper()
	return startRealWith(t, etcd, prefix, real.APIServerOptions{})
}

func startRealWith(t *testing.T, etcd *real.Etcd, prefix string, o real.APIServerOptions) *prod {
	t.Helper()
	ca, err := real.NewCA("break-glass CA " + prefix)
	must(t, err)
	p := &prod{ca: ca, bins: realtest.MustBuild(t, real.KubeCtl), files: t.TempDir()}
	o.Etcd, o.EtcdPrefix, o.ClientCAs = etcd, prefix, ca.CertPEM
	p.APIServer = realtest.NewCluster(t, o)
	shipped, err := fs.Sub(policies.Kubernetes, "kubernetes")
	must(t, err)
	must(t, os.CopyFS(p.files, shipped))
	p.kubectl(t, "apply", "-f", p.files)
	for _, ns := range []string{"shop", "till"} {
		p.kubectl(t, "create", "namespace", ns)
	}
	token := p.kubectl(t, "-n", "breakglass", "create", "token", "breakglassd", "--duration", "8760h")
	p.path = filepath.Join(t.TempDir(), "daemon")
	must(t, p.WriteKubeconfig(p.path, real.Credentials{Token: strings.TrimSpace(token)}))
	p.admin = p.client(t, p.AdminKubeconfig())
	return p
}

func (p *prod) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return realtest.MustKubectl(t, p.AdminKubeconfig(), args...)
}

func (p *prod) client(t *testing.T, kubeconfig string) rbacclient.RbacV1Interface {
	t.Helper()
	rc, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	must(t, err)
	rc.QPS, rc.Burst = 1000, 1000
	c, err := rbacclient.NewForConfig(rc)
	must(t, err)
	return c
}

// person is a client with a certificate of the break-glass CA.
func (p *prod) person(t *testing.T, name string, groups ...string) rbacclient.RbacV1Interface {
	t.Helper()
	cert, key, err := p.ca.Client(name, groups...)
	must(t, err)
	path := filepath.Join(t.TempDir(), "person")
	must(t, p.WriteKubeconfig(path, real.Credentials{CertPEM: cert, KeyPEM: key}))
	return p.client(t, path)
}

// eventually calls check until it returns "": the API server notices bindings, policies and files a moment after they change.
func eventually(t *testing.T, check func() string) {
	t.Helper()
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		problem := check()
		if problem == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(problem)
		}
	}
}

func mustSee(t *testing.T, what string, see func() error, allowed bool) {
	t.Helper()
	eventually(t, func() string {
		err := see()
		if allowed && err == nil || !allowed && apierrors.IsForbidden(err) {
			return ""
		}
		return fmt.Sprintf("%s: got %v, want allowed=%v", what, err, allowed)
	})
}

func TestRealClusters(t *testing.T) {
	etcd := realtest.NewEtcd(t)
	p, other := startReal(t, etcd, "prod"), startReal(t, etcd, "test")
	c, err := cluster.Open(cluster.Config{Timeout: unhurried, Targets: []cluster.Target{{ID: "c1", Kubeconfig: p.path},
		{ID: "c2", Kubeconfig: other.path}}})
	must(t, err)
	t.Run("binding gives access and its removal takes it at once", func(t *testing.T) { testAccess(t, c, p, other) })
	t.Run("bindings in namespaces", func(t *testing.T) { testNamespaces(t, c, p) })
	t.Run("lists are read page by page", func(t *testing.T) { testPages(t, p) })
	t.Run("removal that did not remove is an error", func(t *testing.T) { testFinalizer(t, c, p) })
	t.Run("expired credential", func(t *testing.T) { testExpired(t, p) })
	t.Run("rights are the least", func(t *testing.T) { testLeastPrivilege(t, c, p) })
	t.Run("check finds what is missing and what is too much", func(t *testing.T) { testCheck(t, c, p) })
	t.Run("admission policy limits a stolen credential", func(t *testing.T) { testAdmission(t, c, p) })
	t.Run("group mode", func(t *testing.T) { testGroupMode(t, c, other) })
	t.Run("trust in the CA is seen", func(t *testing.T) { testTrust(t, c, p, other) })
}

func testAccess(t *testing.T, c *cluster.Clusters, p, other *prod) {
	see := func(who rbacclient.RbacV1Interface) func() error {
		return func() error { _, err := who.ClusterRoles().List(t.Context(), metav1.ListOptions{Limit: 1}); return err }
	}
	here, there, bob := p.person(t, alice), other.person(t, alice), p.person(t, "breakglass:bob:bg-0000-000")
	mustSee(t, "alice before", see(here), false)
	must(t, c.Bind(t.Context(), admin))
	mustSee(t, "alice while bound", see(here), true)
	mustSee(t, "alice in the other cluster", see(there), false)
	mustSee(t, "bob", see(bob), false)
	for id, want := range map[string][]string{"c1": {request}, "c2": nil} {
		if got, err := c.Bound(t.Context(), id); err != nil || !slices.Equal(got, want) {
			t.Errorf("got %q, %v bound in %s, want %q", got, err, id, want)
		}
	}
	if out := p.kubectl(t, "get", "clusterrolebindings", "-l", "app.kubernetes.io/managed-by=breakglassd", "-o",
		"wide"); !strings.Contains(out, alice) || !strings.Contains(out, "cluster-admin") {
		t.Errorf("an administrator sees\n%s\nwant who may do what", out)
	}
	must(t, c.Unbind(t.Context(), "c2", request)) // the other cluster's is not this one's
	if err := see(here)(); err != nil {
		t.Errorf("alice after removal elsewhere: %v", err)
	}
	must(t, c.Unbind(t.Context(), "c1", request))
	mustSee(t, "alice after removal", see(here), false)
}

func testNamespaces(t *testing.T, c *cluster.Clusters, p *prod) {
	who := p.person(t, alice)
	in := func(ns string) func() error {
		return func() error { _, err := who.Roles(ns).List(t.Context(), metav1.ListOptions{}); return err }
	}
	b := scoped
	b.Rights.ClusterRole = "cluster-admin" // view cannot see Roles
	must(t, c.Bind(t.Context(), b))
	must(t, c.Bind(t.Context(), b))
	mustSee(t, "shop", in("shop"), true)
	mustSee(t, "till", in("till"), true)
	mustSee(t, "default", in("default"), false)
	if got, err := c.Bound(t.Context(), "c1"); err != nil || !slices.Equal(got, []string{request}) {
		t.Errorf("got %q, %v, want the request once", got, err)
	}
	must(t, c.Unbind(t.Context(), "c1", request))
	mustSee(t, "shop after removal", in("shop"), false)
	mustSee(t, "till after removal", in("till"), false)

	b.Rights.Namespaces = []string{"nowhere"}
	mustSay(t, c.Bind(t.Context(), b), "namespace nowhere", "does the namespace exist?")
	b.Rights = policy.Rights{ClusterRole: "typo"}
	mustSay(t, c.Bind(t.Context(), b), "does the role exist?", "policies/kubernetes/")
	b.Rights = policy.Rights{Role: "typo", Namespaces: []string{"shop"}}
	mustSay(t, c.Bind(t.Context(), b), "does the role exist?", "policies/kubernetes/")

	// A Role needs to be named like a ClusterRole.
	p.kubectl(t, "-n", "shop", "create", "role", "fixer", "--verb=list", "--resource=roles.rbac.authorization.k8s.io")
	fixer := b
	fixer.Rights = policy.Rights{Role: "fixer", Namespaces: []string{"shop"}}
	mustSay(t, c.Bind(t.Context(), fixer), "namespace shop", "policies/kubernetes/")
	if got := bad(c.CheckRights(t.Context(), "c1", []policy.Rights{{ClusterRole: "cluster-admin"}, {ClusterRole: "view"},
		fixer.Rights})); len(got) != 2 ||
		!strings.Contains(got[0].Text, "bind roles.rbac.authorization.k8s.io/fixer in namespace shop") ||
		!strings.Contains(got[1].Text, "get roles.rbac.authorization.k8s.io/fixer in namespace shop") {
		t.Errorf("got findings %+v, want that it may neither bind fixer nor read it", got)
	}
	shipped, err := os.ReadFile(filepath.Join(p.files, "rbac.yaml"))
	must(t, err)
	from := strings.Index(string(shipped), "  # - apiGroups")
	if from < 0 {
		t.Fatal("rbac.yaml does not say how to name a Role")
	}
	to := from + strings.Index(string(shipped)[from:], "---")
	p.apply(t, string(shipped)[:from]+strings.ReplaceAll(string(shipped)[from:to], "  # ", "  ")+string(shipped)[to:])
	defer p.apply(t, string(shipped))
	eventually(t, func() string {
		if err := c.Bind(t.Context(), fixer); err != nil {
			return "with fixer named as rbac.yaml says: " + err.Error()
		}
		return ""
	})
	mustSee(t, "shop by the Role", in("shop"), true)
	mustSee(t, "till by the Role", in("till"), false)
	if got := bad(c.CheckRights(t.Context(), "c1", []policy.Rights{{ClusterRole: "cluster-admin"}, {ClusterRole: "view"},
		fixer.Rights})); len(got) != 0 {
		t.Errorf("got findings %+v, want none", got)
	}
	must(t, c.Unbind(t.Context(), "c1", request))
}

func (p *prod) apply(t *testing.T, manifest string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "manifest.yaml")
	must(t, os.WriteFile(path, []byte(manifest), 0o600))
	p.kubectl(t, "apply", "-f", path)
}

// testPages has a proxy in front of the API server that asks for two objects where the daemon asks for its page size.
func testPages(t *testing.T, p *prod) {
	target, err := url.Parse(p.URL)
	must(t, err)
	rc, err := clientcmd.BuildConfigFromFlags("", p.path)
	must(t, err)
	var pages atomic.Int32
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport, err = rest.TransportFor(rest.AnonymousClientConfig(rc)) // the caller's credential is passed on
	must(t, err)
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query(); r.Method == http.MethodGet && q.Get("limit") != "" {
			q.Set("limit", "2")
			r.URL.RawQuery = q.Encode()
			pages.Add(1)
		}
		proxy.ServeHTTP(w, r)
	}))
	defer s.Close()
	c := open(t, unhurried, kubeconfig(t, s.URL, s.Certificate(), rc.BearerToken))
	var want []string
	for i := range 5 {
		b := scoped
		if i%2 == 0 {
			b = admin
		}
		b.Request = fmt.Sprintf("bg-%04d-000", i)
		b.User = "breakglass:alice:" + b.Request
		must(t, c.Bind(t.Context(), b))
		want = append(want, b.Request)
	}
	got, err := c.Bound(t.Context(), "c1")
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if n := pages.Load(); n != 4 {
		t.Errorf("got %d pages, want 2 of ClusterRoleBindings and 2 of RoleBindings", n)
	}
	for _, id := range want {
		must(t, c.Unbind(t.Context(), "c1", id))
	}
	if got, err := c.Bound(t.Context(), "c1"); err != nil || len(got) != 0 {
		t.Errorf("got %q, %v left", got, err)
	}
}

// testFinalizer is about a holder of cluster-admin who wants to stay: the API server answers a delete of an object with a
// finalizer with success, and the binding goes on giving access.
func testFinalizer(t *testing.T, c *cluster.Clusters, p *prod) {
	name := "breakglass-" + request
	must(t, c.Bind(t.Context(), admin))
	p.kubectl(t, "patch", "clusterrolebinding", name, "--type=merge", "-p", `{"metadata":{"finalizers":["example.com/stay"]}}`)
	for range 2 {
		mustSay(t, c.Unbind(t.Context(), "c1", request), name, "may still give access", "example.com/stay")
	}
	mustSay(t, c.Bind(t.Context(), admin), "finalizer")
	p.kubectl(t, "patch", "clusterrolebinding", name, "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	must(t, c.Unbind(t.Context(), "c1", request))
}

func testExpired(t *testing.T, p *prod) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	cert, err := p.ca.Sign(&x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: account},
		NotBefore: time.Now().Add(-time.Hour),
		NotAfter:  time.Now().Add(-time.Minute), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, key.Public())
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	path := filepath.Join(t.TempDir(), "expired")
	must(t, p.WriteKubeconfig(path, real.Credentials{CertPEM: cert, KeyPEM: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})}))
	mustSay(t, open(t, unhurried, path).Unbind(t.Context(), "c1", request), "does not accept the daemon's credential", "expired",
		"policies/kubernetes/README.md")
}

// testLeastPrivilege tries out, with the daemon's credential, what it must be able to do and what a thief would like to do.
func testLeastPrivilege(t *testing.T, c *cluster.Clusters, p *prod) {
	const all, rbac = "", rbacv1.GroupName
	type row struct {
		verb, group, resource, sub, namespace, name string
		want                                        bool
	}
	var rows []row
	for _, resource := range []string{"clusterrolebindings", "rolebindings"} {
		for _, verb := range []string{"create", "get", "list", "delete"} {
			rows = append(rows, row{verb, rbac, resource, "", all, "", true})
		}
		for _, verb := range []string{"update", "patch", "watch", "deletecollection", "*"} {
			rows = append(rows, row{verb, rbac, resource, "", all, "", false})
		}
	}
	for _, resource := range []string{"clusterroles", "roles"} {
		for _, verb := range []string{"bind", "escalate", "create", "update", "patch", "delete", "get", "list"} {
			rows = append(rows, row{verb, rbac, resource, "", all, "", false})
		}
	}
	rows = append(rows, []row{
		{"bind", rbac, "clusterroles", "", all, "cluster-admin", true},
		{"bind", rbac, "clusterroles", "", "shop", "view", true},
		{"bind", rbac, "clusterroles", "", all, "edit", false},
		{"bind", rbac, "roles", "", "shop", "cluster-admin", false},
		{"*", "*", "*", "", all, "", false},
		{"impersonate", "", "users", "", all, "", false},
		{"impersonate", "", "groups", "", all, "system:masters", false},
		{"impersonate", "", "serviceaccounts", "", all, "", false},
		{"get", "", "secrets", "", all, "", false},
		{"list", "", "secrets", "", "kube-system", "", false},
		{"list", "", "secrets", "", "breakglass", "", false},
		{"get", "", "configmaps", "", "kube-system", "", false},
		{"create", "", "pods", "", "breakglass", "", false},
		{"create", "", "pods", "exec", all, "", false},
		{"create", "", "serviceaccounts", "token", "breakglass", "breakglassd", false},
		{"create", "", "namespaces", "", all, "", false},
		{"get", "", "nodes", "proxy", all, "", false},
		{"create", "certificates.k8s.io", "certificatesigningrequests", "", all, "", false},
		{"update", "certificates.k8s.io", "certificatesigningrequests", "approval", all, "", false},
		{"create", "admissionregistration.k8s.io", "validatingadmissionpolicies", "", all, "", false},
		{"delete", "admissionregistration.k8s.io", "validatingadmissionpolicybindings", "", all, "breakglassd", false},
	}...)
	rc, err := clientcmd.BuildConfigFromFlags("", p.path)
	must(t, err)
	rc.QPS, rc.Burst = 1000, 1000
	may, err := authorizationclient.NewForConfig(rc)
	must(t, err)
	for _, r := range rows {
		ask := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: r.verb, Group: r.group, Resource: r.resource, Subresource: r.sub, Namespace: r.namespace, Name: r.name}}}
		got, err := may.SelfSubjectAccessReviews().Create(t.Context(), ask, metav1.CreateOptions{})
		must(t, err)
		if got.Status.Allowed != r.want {
			t.Errorf("%+v: got allowed=%v (%s)", r, got.Status.Allowed, got.Status.Reason)
		}
	}

	daemon := p.client(t, p.path)
	_, err = daemon.ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "own"}}, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("making a ClusterRole: got %v, want Forbidden", err)
	}
	_, err = daemon.ClusterRoleBindings().Patch(t.Context(), "cluster-admin", "application/merge-patch+json", []byte(`{"subjects":[]}`),
		metav1.PatchOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("changing a ClusterRoleBinding: got %v, want Forbidden", err)
	}
	b := admin
	b.Rights.ClusterRole = "system:node" // edit has no rules without a controller manager, and anybody may give nothing
	err = c.Bind(t.Context(), b)
	mustSay(t, err, "policies/kubernetes/", "name the ClusterRole there", "cluster c1")
	if !apierrors.IsForbidden(err) {
		t.Errorf("the cause of %v is lost", err)
	}
}

func bad(findings []checkup.Line) []checkup.Line {
	return slices.DeleteFunc(findings, func(f checkup.Line) bool { return f.Level == checkup.OK })
}

func testCheck(t *testing.T, c *cluster.Clusters, p *prod) {
	rights := []policy.Rights{{ClusterRole: "cluster-admin"}, {ClusterRole: "view", Namespaces: []string{"shop"}}, {Group: "breakglass:x"}}
	for _, f := range c.CheckRights(t.Context(), "c1", rights) {
		if f.Level != checkup.OK || f.Next != "" {
			t.Errorf("with what ships: %+v", f)
		}
	}
	if out := c.CheckRights(t.Context(), "c1", rights); len(out) != 2 || !strings.Contains(out[0].Text, account) ||
		!strings.Contains(out[1].Text, "no others") {
		t.Errorf("got %+v, want who the daemon is and that its rights are right", out)
	}
	finds := func(t *testing.T, rights []policy.Rights, word string) {
		t.Helper()
		eventually(t, func() string {
			for _, f := range bad(c.CheckRights(t.Context(), "c1", rights)) {
				if strings.Contains(f.Text, word) && f.Next != "" {
					return ""
				}
			}
			return "nothing is found that says " + word
		})
	}
	t.Run("missing: a ClusterRole", func(t *testing.T) {
		finds(t, append(rights, policy.Rights{ClusterRole: "edit"}), "may not bind clusterroles.rbac.authorization.k8s.io/edit")
	})
	t.Run("too much: a ClusterRole that no profile binds", func(t *testing.T) {
		finds(t, rights[1:], "bind clusterroles.rbac.authorization.k8s.io/cluster-admin")
	})
	shipped, err := os.ReadFile(filepath.Join(p.files, "rbac.yaml"))
	must(t, err)
	for _, verb := range []string{"create", "get", "list", "delete"} {
		t.Run("missing: "+verb, func(t *testing.T) {
			verbs := slices.DeleteFunc([]string{"create", "get", "list", "delete"}, func(v string) bool { return v == verb })
			less := strings.Replace(string(shipped), "verbs: [create, get, list, delete]", "verbs: ["+strings.Join(verbs, ", ")+"]", 1)
			if less == string(shipped) {
				t.Fatal("the verbs are not where this test expects them")
			}
			p.apply(t, less)
			finds(t, rights, "may not "+verb+" clusterrolebindings")
			finds(t, rights, "may not "+verb+" rolebindings")
		})
	}
	p.apply(t, string(shipped))
	clean := func() string {
		if got := bad(c.CheckRights(t.Context(), "c1", rights)); len(got) != 0 {
			return fmt.Sprintf("got %+v, want nothing found", got)
		}
		return ""
	}
	eventually(t, clean)

	rbac := []string{rbacv1.GroupName}
	for what, r := range map[string]struct {
		rule rbacv1.PolicyRule
		ns   string // empty: everywhere
	}{
		"* *.*": {rbacv1.PolicyRule{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}}, ""},
		"bind clusterroles.rbac.authorization.k8s.io,": {rbacv1.PolicyRule{Verbs: []string{"bind", "x"}, APIGroups: rbac,
			Resources: []string{"clusterroles"}}, ""},
		"escalate clusterroles.rbac.authorization.k8s.io": {rbacv1.PolicyRule{Verbs: []string{"escalate"}, APIGroups: rbac,
			Resources: []string{"clusterroles"}}, ""},
		"patch rolebindings.rbac.authorization.k8s.io": {rbacv1.PolicyRule{Verbs: []string{"patch"}, APIGroups: rbac,
			Resources: []string{"rolebindings"}}, ""},
		"deletecollection clusterrolebindings": {rbacv1.PolicyRule{Verbs: []string{"deletecollection"}, APIGroups: rbac,
			Resources: []string{"clusterrolebindings"}}, ""},
		"impersonate groups": {rbacv1.PolicyRule{Verbs: []string{"impersonate"}, APIGroups: []string{""},
			Resources: []string{"groups"}}, ""},
		"create serviceaccounts/token": {rbacv1.PolicyRule{Verbs: []string{"create"}, APIGroups: []string{""},
			Resources: []string{"serviceaccounts/token"}}, ""},
		"create pods": {rbacv1.PolicyRule{Verbs: []string{"create"}, APIGroups: []string{""},
			Resources: []string{"pods"}}, "shop"},
		"get secrets/admin-token": {rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""},
			Resources: []string{"secrets"}, ResourceNames: []string{"admin-token"}}, "kube-system"},
	} {
		t.Run("too much: "+what, func(t *testing.T) {
			meta := metav1.ObjectMeta{Name: "planted"}
			to := []rbacv1.Subject{{Kind: "ServiceAccount", Name: "breakglassd", Namespace: "breakglass"}}
			role := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "planted"}
			_, err := p.admin.ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{r.rule}},
				metav1.CreateOptions{})
			must(t, err)
			if r.ns == "" {
				_, err = p.admin.ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: meta, Subjects: to, RoleRef: role},
					metav1.CreateOptions{})
			} else {
				_, err = p.admin.RoleBindings(r.ns).Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: meta, Subjects: to, RoleRef: role},
					metav1.CreateOptions{})
			}
			must(t, err)
			finds(t, rights, what)
			if r.ns == "" {
				must(t, p.admin.ClusterRoleBindings().Delete(t.Context(), "planted", metav1.DeleteOptions{}))
			} else {
				must(t, p.admin.RoleBindings(r.ns).Delete(t.Context(), "planted", metav1.DeleteOptions{}))
			}
			must(t, p.admin.ClusterRoles().Delete(t.Context(), "planted", metav1.DeleteOptions{}))
			eventually(t, clean)
		})
	}
	t.Run("a credential that is refused", func(t *testing.T) {
		must(t, c.Able(t.Context(), "c1"))
		path := filepath.Join(t.TempDir(), "refused")
		must(t, p.WriteKubeconfig(path, real.Credentials{Token: "e30.e30.c2ln"}))
		mustSay(t, open(t, unhurried, path).Able(t.Context(), "c1"), "does not accept the daemon's credential", "restart breakglassd")
		cert, key, err := p.ca.Client("stranger")
		must(t, err)
		must(t, p.WriteKubeconfig(path, real.Credentials{CertPEM: cert, KeyPEM: key}))
		must(t, open(t, unhurried, path).Able(t.Context(), "c1")) // it is known, and may do nothing
	})
	t.Run("too much: system:masters", func(t *testing.T) {
		cert, key, err := p.ca.Client("daemon", "system:masters")
		must(t, err)
		path := filepath.Join(t.TempDir(), "masters")
		must(t, p.WriteKubeconfig(path, real.Credentials{CertPEM: cert, KeyPEM: key}))
		got := bad(open(t, unhurried, path).CheckRights(t.Context(), "c1", rights)) // and that it ends in an hour
		if !slices.ContainsFunc(got, func(f checkup.Line) bool { return strings.Contains(f.Text, "system:masters") }) {
			t.Errorf("got %+v, want that it is in system:masters", got)
		}
	})
}

func testAdmission(t *testing.T, c *cluster.Clusters, p *prod) {
	p.kubectl(t, "create", "clusterrolebinding", "foreign", "--clusterrole=view", "--user=somebody")
	p.kubectl(t, "-n", "shop", "create", "rolebinding", "foreign", "--clusterrole=view", "--user=somebody")
	p.kubectl(t, "apply", "-f", filepath.Join(p.files, "optional", "admission.yaml"))
	thief := p.client(t, p.path)
	refused := func(err error) bool {
		return err != nil && strings.Contains(err.Error(), "ValidatingAdmissionPolicy 'breakglassd'")
	}
	ours := map[string]string{cluster.ManagedByLabel: cluster.ManagedBy, cluster.RequestLabel: request}
	user := func(name string) []rbacv1.Subject {
		return []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: name}}
	}
	group := func(name string) []rbacv1.Subject {
		return []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "Group", Name: name}}
	}
	name := "breakglass-" + request
	planted := []struct {
		what, name string
		labels     map[string]string
		subjects   []rbacv1.Subject
	}{
		{"no labels", name, nil, user(alice)},
		{"no request", name, map[string]string{cluster.ManagedByLabel: cluster.ManagedBy}, user(alice)},
		{"empty request", "breakglass-", map[string]string{cluster.ManagedByLabel: cluster.ManagedBy, cluster.RequestLabel: ""},
			user("breakglass:alice:")},
		{"not managed by us", name, map[string]string{cluster.RequestLabel: request}, user(alice)},
		{"managed by another", name, map[string]string{cluster.ManagedByLabel: "Helm", cluster.RequestLabel: request}, user(alice)},
		{"another name", "mine", ours, user(alice)},
		{"another request's user", name, ours, user("breakglass:alice:bg-0000-000")},
		{"any user", name, ours, user("eve")},
		{"any user of the request", name, ours, user("eve:" + request)},
		{"a group", name, ours, group("breakglass:x:" + request)},
		{"system:masters", name, ours, group("system:masters")},
		{"a service account", name, ours, []rbacv1.Subject{{Kind: "ServiceAccount", Name: "breakglassd", Namespace: "breakglass"}}},
		{"a second user", name, ours, append(user(alice), user("eve")...)},
		{"nobody", name, ours, nil},
	}
	role := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"}
	plant := func(ctx context.Context, i int, ns string) error {
		dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}} // admission is the same, and nothing is left if it is not refused
		meta := metav1.ObjectMeta{Name: planted[i].name, Labels: planted[i].labels}
		if ns == "" {
			_, err := thief.ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: meta, Subjects: planted[i].subjects,
				RoleRef: role}, dry)
			return err
		}
		_, err := thief.RoleBindings(ns).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta, Subjects: planted[i].subjects, RoleRef: role}, dry)
		return err
	}
	eventually(t, func() string {
		if err := plant(t.Context(), 0, ""); !refused(err) {
			return fmt.Sprintf("the policy is not enforced: %v", err)
		}
		return ""
	})
	for i, r := range planted {
		for _, ns := range []string{"", "shop"} {
			if err := plant(t.Context(), i, ns); !refused(err) {
				t.Errorf("planting a binding in namespace %q with %s: got %v, want it refused", ns, r.what, err)
			}
		}
	}
	if err := thief.ClusterRoleBindings().Delete(t.Context(), "foreign", metav1.DeleteOptions{}); !refused(err) {
		t.Errorf("deleting a foreign ClusterRoleBinding: got %v, want it refused", err)
	}
	if err := thief.RoleBindings("shop").Delete(t.Context(), "foreign", metav1.DeleteOptions{}); !refused(err) {
		t.Errorf("deleting a foreign RoleBinding: got %v, want it refused", err)
	}

	// The daemon's own work passes, also when the holder of the access has put somebody else into the binding.
	for _, b := range []breakglass.Binding{admin, scoped} {
		must(t, c.Bind(t.Context(), b))
	}
	p.kubectl(t, "patch", "clusterrolebinding", name, "--type=merge", "-p",
		`{"subjects":[{"kind":"User","name":"eve","apiGroup":"rbac.authorization.k8s.io"}]}`)
	must(t, c.Bind(t.Context(), admin)) // replaces it
	p.kubectl(t, "patch", "clusterrolebinding", name, "--type=merge", "-p", `{"subjects":null}`)

	// What a session bound to its own certificate under another name goes too, but nothing that others would lose by.
	p.kubectl(t, "create", "clusterrolebinding", "kube-proxy-helper", "--clusterrole=view", "--user="+alice)
	p.kubectl(t, "create", "clusterrolebinding", "shared", "--clusterrole=view", "--user="+alice, "--user=somebody")
	if err := thief.ClusterRoleBindings().Delete(t.Context(), "shared", metav1.DeleteOptions{}); !refused(err) {
		t.Errorf("deleting a binding that others share: got %v, want it refused", err)
	}
	mustSay(t, c.Unbind(t.Context(), "c1", request), "ClusterRoleBinding shared", "about others too")
	if got := c.Ask(t.Context(), breakglass.Access{Request: request, Cluster: "c1", User: alice, Rights: admin.Rights}); len(got) != 1 ||
		got[0].No {
		t.Errorf("got %+v, want no proof while another binding names the certificate", got)
	}
	p.kubectl(t, "delete", "clusterrolebinding", "shared")
	must(t, c.Unbind(t.Context(), "c1", request))
	eventually(t, func() string {
		got := c.Ask(t.Context(), breakglass.Access{Request: request, Cluster: "c1", User: alice, Rights: admin.Rights})
		if len(got) != 1 || !got[0].No || !slices.Contains(got[0].Bindings,
			"ClusterRoleBinding kube-proxy-helper to ClusterRole view: taken away") {
			return fmt.Sprintf("got %+v, want no, and what was taken away", got)
		}
		return ""
	})

	// Others are not concerned.
	p.kubectl(t, "delete", "clusterrolebinding", "foreign")
	p.kubectl(t, "-n", "shop", "delete", "rolebinding", "foreign")
}

func testGroupMode(t *testing.T, c *cluster.Clusters, p *prod) {
	see := func(who rbacclient.RbacV1Interface) func() error {
		return func() error { _, err := who.ClusterRoles().List(t.Context(), metav1.ListOptions{Limit: 1}); return err }
	}
	member, other := p.person(t, alice, "breakglass:api-rescue"), p.person(t, alice, "breakglass:others")
	mustSee(t, "the group before", see(member), false)
	p.kubectl(t, "apply", "-f", filepath.Join(p.files, "optional", "group-mode.yaml"))
	mustSee(t, "the group", see(member), true)
	mustSee(t, "another group", see(other), false)
	if got, err := c.Bound(t.Context(), "c2"); err != nil || len(got) != 0 {
		t.Errorf("got %q, %v, want the group's binding not to be taken for a grant's", got, err)
	}
}

func testTrust(t *testing.T, c *cluster.Clusters, p, other *prod) {
	trusts := func(id string, ca *real.CA) bool {
		t.Helper()
		ok, names, err := c.TrustsCA(t.Context(), id, ca.Cert)
		must(t, err)
		if ok != slices.Contains(names, ca.Cert.Subject.String()) {
			t.Errorf("got %v, but the names are %q", ok, names)
		}
		return ok
	}
	if !trusts("c1", p.ca) || !trusts("c2", other.ca) {
		t.Error("an API server's own break-glass CA is not seen")
	}
	if trusts("c1", other.ca) || trusts("c2", p.ca) {
		t.Error("the other cluster's CA is seen")
	}
	must(t, p.SetClientCA(slices.Concat(p.ca.CertPEM, other.ca.CertPEM)))
	eventually(t, func() string {
		if !trusts("c1", other.ca) {
			return "a CA that was added to the bundle is not seen"
		}
		return ""
	})
	if !trusts("c1", p.ca) {
		t.Error("the CA that was there is not seen any more")
	}
	must(t, p.SetClientCA(other.ca.CertPEM))
	eventually(t, func() string {
		if trusts("c1", p.ca) {
			return "a CA that was taken from the bundle is still seen"
		}
		return ""
	})
}
