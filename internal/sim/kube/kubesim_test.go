package kubesim_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	rbacclient "k8s.io/client-go/kubernetes/typed/rbac/v1"
	"k8s.io/client-go/rest"

	"github.com/breakglassd/breakglass/internal/real"
	kubesim "github.com/breakglassd/breakglass/internal/sim/kube"
)

const (
	adminToken  = "admin-token"
	daemonToken = "daemon-token"
)

func mustCA(t *testing.T, name string) *real.CA {
	t.Helper()
	ca, err := real.NewCA(name)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// mustSign signs template with ca for a new key and returns both as PEM, the certificate also parsed.
func mustSign(t *testing.T, ca *real.CA, template *x509.Certificate) (certPEM, keyPEM []byte, cert *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if certPEM, err = ca.Sign(template, key.Public()); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(certPEM)
	if cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	return certPEM, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), cert
}

// client is a template for a client certificate of the given user and groups.
func client(cn string, groups ...string) *x509.Certificate {
	return &x509.Certificate{Subject: pkix.Name{CommonName: cn, Organization: groups},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
}

const (
	oidCommonName = "2.5.4.3"
	oidUID        = "1.3.6.1.4.1.57683.2"
)

// attributes are for Subject.ExtraNames, which may hold the same attribute more than once.
func attributes(oid string, values ...string) (out []pkix.AttributeTypeAndValue) {
	var id asn1.ObjectIdentifier
	for part := range strings.SplitSeq(oid, ".") {
		n, _ := strconv.Atoi(part)
		id = append(id, n)
	}
	for _, v := range values {
		out = append(out, pkix.AttributeTypeAndValue{Type: id, Value: v})
	}
	return out
}

func mustStart(t *testing.T, clientCA []byte) *kubesim.Server {
	t.Helper()
	s, err := kubesim.Start(t.Context(), kubesim.Config{
		ClientCAPEM: clientCA,
		Namespaces:  []string{"payments"},
		Tokens: []kubesim.Token{
			{Value: adminToken, User: "admin", Groups: []string{"system:masters"}},
			{Value: daemonToken, User: kubesim.DaemonUser, Rules: kubesim.BinderRules()},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func tokenConfig(s *kubesim.Server, token string) *rest.Config {
	return &rest.Config{Host: s.URL, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAData: s.CAPEM()},
		Timeout: 10 * time.Second, QPS: -1}
}

// certConfig signs in with a certificate made from template, followed by the PEM of any intermediates.
func certConfig(t *testing.T, s *kubesim.Server, ca *real.CA, template *x509.Certificate, intermediates ...[]byte) *rest.Config {
	t.Helper()
	c := tokenConfig(s, "")
	c.CertData, c.KeyData, _ = mustSign(t, ca, template)
	c.CertData = append(c.CertData, bytes.Join(intermediates, nil)...)
	return c
}

func whoami(t *testing.T, c *rest.Config) (authenticationv1.UserInfo, error) {
	t.Helper()
	review, err := authenticationclient.NewForConfigOrDie(c).SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{},
		metav1.CreateOptions{})
	if err != nil {
		return authenticationv1.UserInfo{}, err
	}
	return review.Status.UserInfo, nil
}

// mustClient returns an HTTP client for config. client-go gives the same connections to configs with the same TLS settings.
func mustClient(t *testing.T, config *rest.Config) *http.Client {
	t.Helper()
	c, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// get asks for path with a client that stays the same over calls, so its connection stays open.
func get(t *testing.T, c *http.Client, url string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func bindingFor(user, role string) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user, Labels: map[string]string{"app.kubernetes.io/managed-by": "breakglass"}},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: user}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
	}
}

func TestCertificateBecomesUserAndGroups(t *testing.T) {
	ca := mustCA(t, "break-glass CA")
	s := mustStart(t, ca.CertPEM)
	c := tokenConfig(s, "")
	var cert *x509.Certificate
	c.CertData, c.KeyData, cert = mustSign(t, ca, client("breakglass:alice:BG-1", "team-a", "team-b"))
	got, err := whoami(t, c)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(cert.Raw)
	want := authenticationv1.UserInfo{
		Username: "breakglass:alice:BG-1",
		Groups:   []string{"team-a", "team-b", "system:authenticated"},
		Extra: map[string]authenticationv1.ExtraValue{"authentication.kubernetes.io/credential-id": {"X509SHA256=" +
			hex.EncodeToString(sum[:])}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("who the certificate is (-want +got):\n%s", diff)
	}
}

func TestLastCommonNameIsTheUser(t *testing.T) {
	ca := mustCA(t, "break-glass CA")
	s := mustStart(t, ca.CertPEM)
	template := client("")
	template.Subject.ExtraNames = attributes(oidCommonName, "breakglass:alice:BG-1", "hidden-admin")
	got, err := whoami(t, certConfig(t, s, ca, template))
	if err != nil || got.Username != "hidden-admin" {
		t.Errorf("whoami = %q, %v; want hidden-admin", got.Username, err)
	}
}

func TestIntermediateFromTheCallersChainIsUsed(t *testing.T) {
	ca, sub := mustCA(t, "root"), mustCA(t, "intermediate")
	var err error
	if sub.CertPEM, err = ca.Sign(sub.Cert, sub.Key.Public()); err != nil { // the same key, now under the root
		t.Fatal(err)
	}
	s := mustStart(t, ca.CertPEM)
	if got, err := whoami(t, certConfig(t, s, sub, client("alice"), sub.CertPEM)); err != nil || got.Username != "alice" {
		t.Errorf("with the intermediate: whoami = %q, %v; want alice", got.Username, err)
	}
	if got, err := whoami(t, certConfig(t, s, sub, client("alice"))); !apierrors.IsUnauthorized(err) {
		t.Errorf("without the intermediate: whoami = %q, %v; want 401", got.Username, err)
	}
}

func TestBadCredentialsAreUnauthorized(t *testing.T) {
	ca, other := mustCA(t, "break-glass CA"), mustCA(t, "other CA")
	s := mustStart(t, ca.CertPEM)
	uid := func(values ...string) *x509.Certificate {
		template := client("alice")
		template.Subject.ExtraNames = attributes(oidUID, values...)
		return template
	}
	expired, early, server := client("alice"), client("alice"), client("alice")
	expired.NotBefore, expired.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(-time.Second)
	early.NotBefore, early.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	server.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for name, c := range map[string]*rest.Config{
		"other CA":         certConfig(t, s, other, client("alice")),
		"expired":          certConfig(t, s, ca, expired),
		"not yet valid":    certConfig(t, s, ca, early),
		"server auth only": certConfig(t, s, ca, server),
		"empty UID":        certConfig(t, s, ca, uid("")),
		"two UIDs":         certConfig(t, s, ca, uid("a", "b")),
		"unknown token":    tokenConfig(s, "guess"),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := whoami(t, c)
			if !apierrors.IsUnauthorized(err) || err.Error() != "Unauthorized" {
				t.Errorf("whoami = %+v, %v; want 401 Unauthorized", got, err)
			}
		})
	}
	t.Run("one UID is fine", func(t *testing.T) {
		if got, err := whoami(t, certConfig(t, s, ca, uid("u-1"))); err != nil || got.UID != "u-1" {
			t.Errorf("whoami = %+v, %v; want UID u-1", got, err)
		}
	})
	t.Run("a good token beside a bad certificate is fine", func(t *testing.T) {
		c := certConfig(t, s, other, client("alice"))
		c.BearerToken = adminToken
		if got, err := whoami(t, c); err != nil || got.Username != "admin" {
			t.Errorf("whoami = %+v, %v; want admin", got, err)
		}
	})
}

func TestStrangersMayReadHealthAndVersionOnly(t *testing.T) {
	ca := mustCA(t, "break-glass CA")
	s := mustStart(t, ca.CertPEM)
	noCN := client("")
	noCN.Subject.Organization = []string{"system:masters"}
	for name, config := range map[string]*rest.Config{"no credential": tokenConfig(s, ""),
		"certificate without CN": certConfig(t, s, ca, noCN)} {
		t.Run(name, func(t *testing.T) {
			c := mustClient(t, config)
			for path, want := range map[string]int{
				"/healthz": 200, "/livez": 200, "/readyz": 200, "/version": 200,
				"/api": 403, "/apis": 403, "/api/v1/namespaces": 403, "/no/such/path": 403,
			} {
				if got := get(t, c, s.URL+path); got != want {
					t.Errorf("GET %s = %d, want %d", path, got, want)
				}
			}
		})
	}
}

// A client whose certificate was refused must get a new connection, or it could never present the next one.
func TestRefusedClientsLoseTheirConnection(t *testing.T) {
	s := mustStart(t, mustCA(t, "break-glass CA").CertPEM)
	c := mustClient(t, certConfig(t, s, mustCA(t, "other CA"), client("alice")))
	reused := true
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
	for i := 0; i == 0 || reused; i++ {
		if i > 1000 { // the server's notice reaches the client a moment after the answer
			t.Fatal("a thousand refused requests went over the same connection")
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/api", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if i == 0 {
			reused = true // the first connection is new in any case
		}
	}
}

func TestRemovedCAIsRefusedOnTheOpenConnection(t *testing.T) {
	ca, next := mustCA(t, "break-glass CA"), mustCA(t, "next CA")
	s := mustStart(t, ca.CertPEM)
	c := mustClient(t, certConfig(t, s, ca, client("alice", "system:masters")))
	for _, step := range []struct {
		what   string
		bundle []byte
		refuse bool // SetClientCAPEM must return an error
		want   int
	}{
		{"at the start", ca.CertPEM, false, 200},
		{"next CA added", append(bytes.Clone(ca.CertPEM), next.CertPEM...), false, 200},
		{"old CA removed", next.CertPEM, false, 401},
		{"emptied bundle keeps the last", nil, true, 401},
		{"old CA back", ca.CertPEM, false, 200},
		{"broken bundle keeps the last", []byte("not PEM"), true, 200},
	} {
		if err := s.SetClientCAPEM(step.bundle); (err != nil) != step.refuse {
			t.Fatalf("%s: SetClientCAPEM = %v, want an error: %v", step.what, err, step.refuse)
		}
		if got := get(t, c, s.URL+"/api/v1/namespaces"); got != step.want {
			t.Errorf("%s: GET namespaces = %d, want %d", step.what, got, step.want)
		}
	}
}

func TestExpiryIsNoticedOnTheOpenConnection(t *testing.T) {
	ca := mustCA(t, "break-glass CA")
	s := mustStart(t, ca.CertPEM)
	for life := 3 * time.Second; ; life *= 2 {
		short := client("alice")
		short.NotBefore, short.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(life).Truncate(time.Second)
		c := mustClient(t, certConfig(t, s, ca, short))
		if got := get(t, c, s.URL+"/api"); got != 200 {
			if time.Now().After(short.NotAfter) && life < time.Minute {
				continue // a busy machine was slower than the certificate
			}
			t.Fatalf("before NotAfter: GET /api = %d, want 200", got)
		}
		time.Sleep(time.Until(short.NotAfter.Add(time.Second)))
		if got := get(t, c, s.URL+"/api"); got != 401 {
			t.Errorf("after NotAfter: GET /api = %d, want 401", got)
		}
		return
	}
}

// TestBindingIsTheSwitch is the product's promise: the certificate authenticates, the binding authorises.
func TestBindingIsTheSwitch(t *testing.T) {
	ca := mustCA(t, "break-glass CA")
	s := mustStart(t, ca.CertPEM)
	daemon := rbacclient.NewForConfigOrDie(tokenConfig(s, daemonToken))
	config := certConfig(t, s, ca, client("breakglass:alice:BG-1"))
	alice := rbacclient.NewForConfigOrDie(config)
	ctx := t.Context()

	read := func() error {
		_, err := alice.ClusterRoles().Get(ctx, "view", metav1.GetOptions{})
		return err
	}
	const denied = `clusterroles.rbac.authorization.k8s.io "view" is forbidden: User "breakglass:alice:BG-1" cannot get resource ` +
		`"clusterroles" in API group "rbac.authorization.k8s.io" at the cluster scope`
	if err := read(); !apierrors.IsForbidden(err) || err.Error() != denied {
		t.Fatalf("before the binding: %v\nwant %s", err, denied)
	}
	made, err := daemon.ClusterRoleBindings().Create(ctx, bindingFor("breakglass:alice:BG-1", "cluster-admin"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if made.UID == "" || made.CreationTimestamp.IsZero() || made.ResourceVersion == "" || made.Subjects[0].APIGroup != rbacv1.GroupName {
		t.Errorf("created binding lacks what an API server fills in: %+v", made)
	}
	if err := read(); err != nil {
		t.Fatalf("with the binding: %v", err)
	}
	wrongUID := types.UID("00000000-0000-0000-0000-000000000000")
	err = daemon.ClusterRoleBindings().Delete(ctx, made.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &wrongUID}})
	if !apierrors.IsConflict(err) {
		t.Errorf("deleting with another UID: %v, want a conflict", err)
	}
	err = daemon.ClusterRoleBindings().Delete(ctx, made.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &made.UID}})
	if err != nil {
		t.Fatal(err)
	}
	if err := read(); !apierrors.IsForbidden(err) {
		t.Errorf("the very next request after the deletion: %v, want 403", err)
	}
	if err := daemon.ClusterRoleBindings().Delete(ctx, made.Name, metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("deleting again: %v, want not found", err)
	}
}

func TestRoleBindingReachesItsNamespaceOnly(t *testing.T) {
	ca := mustCA(t, "break-glass CA")
	s := mustStart(t, ca.CertPEM)
	ctx := t.Context()
	b := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "bob"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.GroupKind, Name: "oncall"}},
		RoleRef:    rbacv1.RoleRef{Kind: "ClusterRole", Name: "view"},
	}
	daemon := rbacclient.NewForConfigOrDie(tokenConfig(s, daemonToken))
	if _, err := daemon.RoleBindings("payments").Create(ctx, b, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := daemon.RoleBindings("no-such").Create(ctx, b, metav1.CreateOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("binding in a namespace that does not exist: %v, want not found", err)
	}
	c := mustClient(t, certConfig(t, s, ca, client("bob", "oncall")))
	for path, want := range map[string]int{
		"/api/v1/namespaces/payments/pods":              200,
		"/api/v1/namespaces/payments":                   200,
		"/api/v1/namespaces/default/pods":               403,
		"/api/v1/pods":                                  403,
		"/api/v1/namespaces":                            403,
		"/api/v1/nodes":                                 403,
		"/api/v1/namespaces/payments/secrets":           403,
		"/api/v1/namespaces/payments/pods/x/log":        404,
		"/api/v1/namespaces/payments/pods?watch=true":   405,
		"/apis/rbac.authorization.k8s.io/v1/namespaces": 403,
	} {
		if got := get(t, c, s.URL+path); got != want {
			t.Errorf("GET %s = %d, want %d", path, got, want)
		}
	}
}

func TestDaemonMayOnlyHandleBindings(t *testing.T) {
	s := mustStart(t, nil)
	c := authorizationclient.NewForConfigOrDie(tokenConfig(s, daemonToken))
	for _, resource := range []string{"clusterrolebindings", "rolebindings", "clusterroles", "roles", "*"} {
		for _, verb := range []string{"create", "delete", "get", "list", "watch", "update", "patch", "deletecollection", "bind", "escalate",
			"*"} {
			review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
				ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Group: rbacv1.GroupName, Resource: resource}}}
			got, err := c.SelfSubjectAccessReviews().Create(t.Context(), review, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			want := strings.HasSuffix(resource, "bindings") && strings.Contains("create delete get list", verb)
			if got.Status.Allowed != want {
				t.Errorf("daemon may %s %s: %v, want %v", verb, resource, got.Status.Allowed, want)
			}
		}
	}
	h := mustClient(t, tokenConfig(s, daemonToken))
	for _, path := range []string{"/api/v1/namespaces", "/api/v1/nodes", "/api/v1/pods", "/apis/rbac.authorization.k8s.io/v1/clusterroles"} {
		if got := get(t, h, s.URL+path); got != 403 {
			t.Errorf("daemon GET %s = %d, want 403", path, got)
		}
	}
}

func TestReviewsExplainThemselves(t *testing.T) {
	s := mustStart(t, nil)
	ctx := t.Context()
	admin := tokenConfig(s, adminToken)
	if _, err := rbacclient.NewForConfigOrDie(admin).ClusterRoleBindings().Create(ctx, bindingFor("carol", "no-such-role"),
		metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: "carol",
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "list", Resource: "pods"}}}
	ask := func() authorizationv1.SubjectAccessReviewStatus {
		got, err := authorizationclient.NewForConfigOrDie(admin).SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return got.Status
	}
	want := authorizationv1.SubjectAccessReviewStatus{Reason: `rbac: RBAC: clusterrole.rbac.authorization.k8s.io "no-such-role" not found`}
	if diff := cmp.Diff(want, ask()); diff != "" {
		t.Errorf("binding to a role that does not exist (-want +got):\n%s", diff)
	}
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "no-such-role"},
		Rules: []rbacv1.PolicyRule{{Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"pods"}, ResourceNames: []string{}}}}
	if _, err := rbacclient.NewForConfigOrDie(admin).ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	want = authorizationv1.SubjectAccessReviewStatus{Allowed: true,
		Reason: `RBAC: allowed by ClusterRoleBinding "carol" of ClusterRole "no-such-role" to User "carol"`}
	if diff := cmp.Diff(want, ask()); diff != "" {
		t.Errorf("role made afterwards (-want +got):\n%s", diff)
	}

	rules, err := authorizationclient.NewForConfigOrDie(tokenConfig(s, daemonToken)).SelfSubjectRulesReviews().Create(ctx,
		&authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if r, n := len(rules.Status.ResourceRules), len(rules.Status.NonResourceRules); r != 4 || n != 2 {
		t.Errorf("daemon has %d resource and %d path rules, want 4 (its own two and two of basic-user) and 2", r, n)
	}
}

func TestListsSelectAndSort(t *testing.T) {
	s := mustStart(t, nil)
	ctx := t.Context()
	daemon := rbacclient.NewForConfigOrDie(tokenConfig(s, daemonToken))
	for _, name := range []string{"breakglass-b", "breakglass-a"} {
		if _, err := daemon.ClusterRoleBindings().Create(ctx, bindingFor(name, "view"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for selector, want := range map[string]string{
		"app.kubernetes.io/managed-by=breakglass":  "breakglass-a breakglass-b",
		"app.kubernetes.io/managed-by!=breakglass": "cluster-admin system:basic-user system:discovery system:public-info-viewer " + kubesim.DaemonUser,
	} {
		list, err := daemon.ClusterRoleBindings().List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, b := range list.Items {
			got = append(got, b.Name)
		}
		if strings.Join(got, " ") != want || list.ResourceVersion == "" {
			t.Errorf("%s: %q at version %q, want %q", selector, got, list.ResourceVersion, want)
		}
	}
	if _, err := daemon.ClusterRoleBindings().List(ctx, metav1.ListOptions{LabelSelector: "a=b=c"}); !apierrors.IsBadRequest(err) {
		t.Errorf("broken selector: %v, want bad request", err)
	}
	cluster, _ := s.Bindings()
	if len(cluster) != 2 || cluster[0].Name != "breakglass-a" {
		t.Errorf("Bindings has %d, want the two that were made", len(cluster))
	}
	if _, err := daemon.ClusterRoleBindings().Create(ctx, bindingFor("breakglass-a", "view"),
		metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("creating again: %v, want already exists", err)
	}
	if _, err := daemon.ClusterRoleBindings().Create(ctx, bindingFor("dry", "view"),
		metav1.CreateOptions{DryRun: []string{"All"}}); err != nil {
		t.Errorf("dry run: %v", err)
	}
	if cluster, _ := s.Bindings(); len(cluster) != 2 {
		t.Errorf("a dry run left a binding")
	}
}

func TestWhatARealServerWouldRefuseIsRefused(t *testing.T) {
	s := mustStart(t, nil)
	daemon := rbacclient.NewForConfigOrDie(tokenConfig(s, daemonToken))
	for name, spoil := range map[string]func(*rbacv1.ClusterRoleBinding){
		"no name":            func(b *rbacv1.ClusterRoleBinding) { b.Name = "" },
		"slash in name":      func(b *rbacv1.ClusterRoleBinding) { b.Name = "a/b" },
		"e-mail as label":    func(b *rbacv1.ClusterRoleBinding) { b.Labels["person"] = "alice@example.com" },
		"no role":            func(b *rbacv1.ClusterRoleBinding) { b.RoleRef.Name = "" },
		"namespaced role":    func(b *rbacv1.ClusterRoleBinding) { b.RoleRef.Kind = "Role" },
		"subject of no kind": func(b *rbacv1.ClusterRoleBinding) { b.Subjects[0].Kind = "" },
		"subject of no name": func(b *rbacv1.ClusterRoleBinding) { b.Subjects[0].Name = "" },
	} {
		t.Run(name, func(t *testing.T) {
			b := bindingFor("breakglass:alice:BG-1", "view")
			spoil(b)
			if _, err := daemon.ClusterRoleBindings().Create(t.Context(), b, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
				t.Errorf("create = %v, want invalid", err)
			}
		})
	}
}

func TestProtobufClientsAreServed(t *testing.T) {
	s := mustStart(t, nil)
	c := tokenConfig(s, daemonToken)
	c.ContentType, c.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	daemon := rbacclient.NewForConfigOrDie(c)
	made, err := daemon.ClusterRoleBindings().Create(t.Context(), bindingFor("alice", "view"), metav1.CreateOptions{})
	if err != nil || made.RoleRef.Name != "view" {
		t.Fatalf("create with a protobuf body: %+v, %v", made, err)
	}
	err = daemon.ClusterRoleBindings().Delete(t.Context(), "alice", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &made.UID}})
	if err != nil {
		t.Errorf("delete with a protobuf body: %v", err)
	}
	c.AcceptContentTypes = "application/vnd.kubernetes.protobuf"
	_, err = rbacclient.NewForConfigOrDie(c).ClusterRoleBindings().List(t.Context(), metav1.ListOptions{})
	if !apierrors.IsNotAcceptable(err) {
		t.Errorf("list with nothing but protobuf accepted: %v, want 406", err)
	}
}

func TestFaultsStrikeExactly(t *testing.T) {
	for _, tc := range []struct {
		fault    kubesim.Fault
		applied  bool
		answered bool
	}{
		{kubesim.NoFault, true, true},
		{kubesim.Fail, false, true},
		{kubesim.ApplyThenFail, true, true},
		{kubesim.Hang, false, false},
		{kubesim.ApplyThenHang, true, false},
	} {
		s := mustStart(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		s.SetFault(func(c kubesim.Call) kubesim.Fault {
			if c.Verb == "create" && c.Resource == "clusterrolebindings" && c.User.Username == kubesim.DaemonUser {
				if !tc.answered { // the caller gives up a second after it strikes, however long it took to come here
					time.AfterFunc(time.Second, cancel)
				}
				return tc.fault
			}
			return kubesim.NoFault
		})
		daemon := rbacclient.NewForConfigOrDie(tokenConfig(s, daemonToken))
		_, err := daemon.ClusterRoleBindings().Create(ctx, bindingFor("alice", "view"), metav1.CreateOptions{})
		cancel()
		switch {
		case tc.fault == kubesim.NoFault:
			if err != nil {
				t.Errorf("fault %d: %v", tc.fault, err)
			}
		case tc.answered:
			if !apierrors.IsInternalError(err) {
				t.Errorf("fault %d: %v, want a 500", tc.fault, err)
			}
		default:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("fault %d: %v, want that the caller gave up", tc.fault, err)
			}
		}
		if cluster, _ := s.Bindings(); (len(cluster) == 1) != tc.applied {
			t.Errorf("fault %d: %d bindings, want applied: %v", tc.fault, len(cluster), tc.applied)
		}
		s.SetFault(nil)
		if _, err := daemon.ClusterRoleBindings().List(t.Context(), metav1.ListOptions{}); err != nil {
			t.Errorf("after fault %d: %v", tc.fault, err)
		}
	}
}

func TestDownDropsOpenAndNewConnections(t *testing.T) {
	s := mustStart(t, nil)
	open := mustClient(t, tokenConfig(s, adminToken))
	if got := get(t, open, s.URL+"/readyz"); got != 200 {
		t.Fatalf("GET /readyz = %d, want 200", got)
	}
	s.SetDown(true)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CAPEM())
	fresh := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	for name, c := range map[string]*http.Client{"open": open, "new": fresh} {
		var urlErr *url.Error
		if resp, err := c.Get(s.URL + "/readyz"); !errors.As(err, &urlErr) {
			t.Errorf("%s connection while down: %v, %v; want no answer", name, resp, err)
		}
	}
	s.SetDown(false)
	if got := get(t, open, s.URL+"/readyz"); got != 200 {
		t.Errorf("back up: GET /readyz = %d, want 200", got)
	}
}

func TestImpersonationIsRefusedAndNotIgnored(t *testing.T) {
	s := mustStart(t, nil)
	c := tokenConfig(s, adminToken)
	c.Impersonate = rest.ImpersonationConfig{UserName: "alice"}
	if got, err := whoami(t, c); !apierrors.IsForbidden(err) {
		t.Errorf("whoami as somebody else = %+v, %v; want 403", got, err)
	}
}

func TestObserveSeesWhoDidWhatAndHowItEnded(t *testing.T) {
	type seen struct {
		User, Verb, Resource, Name string
		Code                       int
	}
	calls := make(chan seen, 10)
	s, err := kubesim.Start(t.Context(), kubesim.Config{
		Tokens: []kubesim.Token{{Value: daemonToken, User: kubesim.DaemonUser, Rules: kubesim.BinderRules()}},
		Observe: func(c kubesim.Call, code int) {
			calls <- seen{c.User.Username, c.Verb, c.Resource, c.Name, code}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	daemon := rbacclient.NewForConfigOrDie(tokenConfig(s, daemonToken))
	daemon.ClusterRoleBindings().Delete(t.Context(), "nope", metav1.DeleteOptions{})
	daemon.ClusterRoles().Get(t.Context(), "view", metav1.GetOptions{})
	for _, want := range []seen{
		{kubesim.DaemonUser, "delete", "clusterrolebindings", "nope", 404},
		{kubesim.DaemonUser, "get", "clusterroles", "view", 403},
	} {
		if got := <-calls; got != want {
			t.Errorf("observed %+v, want %+v", got, want)
		}
	}
}

func TestStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s, err := kubesim.Start(ctx, kubesim.Config{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := s.Close(); err != nil {
		t.Errorf("Close after the context ended: %v", err)
	}
	if resp, err := mustClient(t, tokenConfig(s, "")).Get(s.URL + "/readyz"); err == nil {
		t.Errorf("still answers %s", resp.Status)
	}
}
