package cluster_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/breakglassd/breakglass/internal/bgtest/realtest"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/cluster/survey"
	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/real"
)

// commandLine is how the real program was started, as the system's process list shows it.
func commandLine(t *testing.T, pid int) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ps", "-ww", "-o", "args=", "-p", fmt.Sprint(pid)).Output()
	must(t, err)
	return strings.Fields(string(out))
}

// showsItself makes the pod that a kubelet would show if the running API server were a static pod.
func showsItself(t *testing.T, a *real.APIServer) {
	t.Helper()
	apply(t, a, object("v1", "Node", "", "cp1", nil))
	apply(t, a, pod("kube-apiserver-cp1", commandLine(t, a.Pid())...)...)
}

// whoami is the user that the API server takes somebody for, "" if it takes them for nobody.
func whoami(t *testing.T, a *real.APIServer, token string, cert tls.Certificate, headers http.Header) (name string, groups []string) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(a.ClusterCA.Cert)
	conf := &tls.Config{RootCAs: roots}
	if cert.PrivateKey != nil {
		conf.Certificates = []tls.Certificate{cert}
	}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, a.URL+"/apis/authentication.k8s.io/v1/selfsubjectreviews",
		strings.NewReader(`{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1"}`))
	must(t, err)
	req.Header = headers.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	if resp.StatusCode != http.StatusCreated {
		return "", nil
	}
	var review struct {
		Status struct {
			UserInfo struct {
				Username string
				Groups   []string
			}
		}
	}
	must(t, json.Unmarshal(body, &review))
	return review.Status.UserInfo.Username, review.Status.UserInfo.Groups
}

func keyPair(t *testing.T, ca *real.CA, name string, groups ...string) tls.Certificate {
	t.Helper()
	cert, key, err := ca.Client(name, groups...)
	must(t, err)
	pair, err := tls.X509KeyPair(cert, key)
	must(t, err)
	return pair
}

// mustFind checks that the door is in the state and has an alarming item with the title.
func mustFind(t *testing.T, a *doors.Analysis, door string, state doors.DoorState, least inventory.Severity, title string) {
	t.Helper()
	d := a.Door(door)
	if d.State != state {
		t.Errorf("door %s is %s, want %s (%q, tellable by %q)", door, d.State, state, d.Evidence, d.Tellable)
	}
	if title == "" {
		return
	}
	if !slices.ContainsFunc(d.Items, func(i doors.DoorItem) bool {
		return strings.Contains(i.Title, title) && i.Risk.AtLeast(least) && !i.Expected
	}) {
		t.Errorf("door %s has no item of at least %s with %q: %+v", door, least, title, d.Items)
	}
}

// Real API servers are started with one door each, and without it; each door is walked through, so that what is found is true.
func TestDoorsOfRealAPIServers(t *testing.T) {
	t.Parallel()
	etcd := realtest.NewEtcd(t)
	start := func(t *testing.T, o real.APIServerOptions) *real.APIServer {
		o.Etcd, o.EtcdPrefix = etcd, "/"+strings.ReplaceAll(t.Name(), "/", "-")
		return realtest.NewCluster(t, o)
	}

	t.Run("a static token file and no other door", func(t *testing.T) {
		a := start(t, real.APIServerOptions{})
		_, before := scan(t, a, survey.Options{})
		for _, door := range []string{doors.DoorStaticTokens, doors.DoorOIDC, doors.DoorWebhook, doors.DoorAuthorization,
			doors.DoorEtcd, doors.DoorControlPlane} {
			if d := before.Door(door); d.State != doors.CannotTell || d.Tellable == "" {
				t.Errorf("no flag is known, and door %s is %s, tellable by %q", door, d.State, d.Tellable)
			}
		}
		showsItself(t, a)
		_, got := scan(t, a, survey.Options{})
		if name, groups := whoami(t, a, a.AdminToken, tls.Certificate{}, nil); name != "real:admin" ||
			!slices.Contains(groups, "system:masters") {
			t.Fatalf("the static token signs in as %q in %q", name, groups)
		}
		mustFind(t, got, doors.DoorStaticTokens, doors.Present, inventory.High, "tokens in the file tokens.csv")
		mustFind(t, got, doors.DoorEtcd, doors.Present, inventory.Medium, "without TLS")
		for _, door := range []string{doors.DoorOIDC, doors.DoorWebhook, doors.DoorRequestHeader, doors.DoorBootstrap,
			doors.DoorImpersonation, doors.DoorExtensions} {
			mustFind(t, got, door, doors.Absent, inventory.Info, "")
		}
		// The same from a file that the operator gives.
		_, given := scan(t, a, survey.Options{Given: map[string][]byte{"kube-apiserver.txt": []byte(strings.Join(commandLine(t, a.Pid()),
			"\n"))}})
		mustFind(t, given, doors.DoorStaticTokens, doors.Present, inventory.High, "tokens in the file tokens.csv")
		// Anonymous requests are on by default, and Kubernetes gives them little.
		mustFind(t, got, doors.DoorAnonymous, doors.Present, inventory.Info, "")
		for _, f := range got.Alarms() {
			if f.Rule == "door/"+doors.DoorAnonymous {
				t.Errorf("alarm: %s", f.Title)
			}
		}
	})

	t.Run("webhook tokens instead of the file", func(t *testing.T) {
		// Whatever token is shown, the webhook says that it is evil's. The test kit's own token is one of them.
		hook := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w,
				`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","status":{"authenticated":true,"user":{"username":"evil","groups":["system:masters"]}}}`)
		}))
		t.Cleanup(hook.Close)
		config, err := json.Marshal(obj{"apiVersion": "v1", "kind": "Config", "current-context": "x",
			"contexts": []any{obj{"name": "x", "context": obj{"cluster": "x"}}},
			"clusters": []any{obj{"name": "x", "cluster": obj{"server": hook.URL,
				"certificate-authority-data": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hook.Certificate().Raw})}}}})
		must(t, err)
		a := start(t, real.APIServerOptions{Files: map[string][]byte{"webhook.json": config},
			Flags: []string{"--token-auth-file=", "--authentication-token-webhook-config-file=webhook.json",
				"--authentication-token-webhook-version=v1", "--authentication-token-webhook-cache-ttl=10m"}})
		showsItself(t, a)
		if name, _ := whoami(t, a, "anything", tls.Certificate{}, nil); name != "evil" {
			t.Fatalf("the webhook's token signs in as %q", name)
		}
		_, got := scan(t, a, survey.Options{})
		mustFind(t, got, doors.DoorWebhook, doors.Present, inventory.Medium, "a webhook (webhook.json) says whose a token is")
		mustFind(t, got, doors.DoorWebhook, doors.Present, inventory.Medium, "works for up to 10m more")
		mustFind(t, got, doors.DoorStaticTokens, doors.Absent, inventory.Info, "")
	})

	t.Run("OIDC flags", func(t *testing.T) {
		a := start(t, real.APIServerOptions{Flags: []string{"--oidc-issuer-url=https://idp.invalid", "--oidc-client-id=kubernetes",
			"--oidc-username-claim=email", "--oidc-groups-claim=groups"}})
		showsItself(t, a)
		_, got := scan(t, a, survey.Options{})
		mustFind(t, got, doors.DoorOIDC, doors.Present, inventory.High, "groups of https://idp.invalid get no prefix")
		mustFind(t, got, doors.DoorOIDC, doors.Present, inventory.Medium, "user names of https://idp.invalid get no prefix")
	})

	t.Run("structured authentication and anonymous health checks", func(t *testing.T) {
		config := []byte(`apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous: {enabled: true, conditions: [{path: /livez}]}
jwt:
- issuer: {url: https://good.invalid, audiences: [k]}
  claimMappings: {username: {claim: sub, prefix: "good:"}, groups: {claim: groups, prefix: "good:"}}
- issuer: {url: https://bad.invalid, audiences: [k]}
  claimMappings: {username: {claim: sub, prefix: ""}, groups: {claim: groups, prefix: ""}}
- issuer: {url: https://worse.invalid, audiences: [k]}
  claimMappings: {username: {expression: claims.sub}, groups: {expression: claims.roles}}
`)
		a := start(t, real.APIServerOptions{Files: map[string][]byte{"authn.yaml": config},
			Flags: []string{"--authentication-config=authn.yaml"}})
		showsItself(t, a)
		_, blind := scan(t, a, survey.Options{})
		if d := blind.Door(doors.DoorOIDC); d.State != doors.CannotTell || !strings.Contains(d.Tellable,
			"give the scan the file authn.yaml") {
			t.Errorf("without the file the door is %s, tellable by %q", d.State, d.Tellable)
		}
		_, got := scan(t, a, survey.Options{AuthenticationConfig: config})
		mustFind(t, got, doors.DoorOIDC, doors.Present, inventory.High, "groups of https://bad.invalid get no prefix")
		mustFind(t, got, doors.DoorOIDC, doors.Present, inventory.High,
			"the groups of issuer https://worse.invalid come from the expression claims.roles")
		for _, i := range got.Door(doors.DoorOIDC).Items {
			if strings.Contains(i.Title, "good.invalid") && !i.Expected {
				t.Errorf("a prefixed issuer is an alarm: %s", i.Title)
			}
		}
		// /api is closed and /livez is open: seen from outside.
		for _, i := range got.Door(doors.DoorAnonymous).Items {
			if !i.Expected && i.Risk != inventory.Info {
				t.Errorf("alarm about anonymous requests: %s", i.Title)
			}
		}
		mustFind(t, got, doors.DoorAnonymous, doors.Present, inventory.Info, "open for health checks alone")
	})

	t.Run("no anonymous requests", func(t *testing.T) {
		a := start(t, real.APIServerOptions{Flags: []string{"--anonymous-auth=false"}})
		_, got := scan(t, a, survey.Options{}) // no flag is known: the answers tell
		mustFind(t, got, doors.DoorAnonymous, doors.Absent, inventory.Info, "")
	})

	// kube-apiserver 1.36 refuses to start with both at once: the client CA and no names.
	for name, c := range map[string]struct {
		shared  bool
		allowed string
		as      string // common name of the certificate that the proxy shows
		least   inventory.Severity
		title   string
	}{
		"request header with the client CA": {shared: true, allowed: "front-proxy-client", as: "front-proxy-client", least: inventory.Critical,
			title: "signs client certificates too"},
		"request header without names": {as: "anything", least: inventory.High, title: "every certificate of the proxy's CA"},
	} {
		t.Run(name, func(t *testing.T) {
			clients, err := real.NewCA("clients CA")
			must(t, err)
			front, err := real.NewCA("proxy CA")
			must(t, err)
			if c.shared {
				front = clients
			}
			a := start(t, real.APIServerOptions{ClientCAs: clients.CertPEM, Files: map[string][]byte{"front.crt": front.CertPEM}, Flags: []string{
				"--requestheader-client-ca-file=front.crt", "--requestheader-username-headers=X-Remote-User",
				"--requestheader-group-headers=X-Remote-Group", "--requestheader-allowed-names=" + c.allowed}})
			headers := http.Header{"X-Remote-User": {"anybody"}, "X-Remote-Group": {"system:masters"}}
			if name, groups := whoami(t, a, "", keyPair(t, front, c.as), headers); name != "anybody" || !slices.Contains(groups, "system:masters") {
				t.Fatalf("the header signs in as %q in %q", name, groups)
			}
			_, got := scan(t, a, survey.Options{})
			mustFind(t, got, doors.DoorRequestHeader, doors.Present, c.least, c.title)
		})
	}

	t.Run("a CA of somebody else", func(t *testing.T) {
		other, err := real.NewCA("somebody's CA")
		must(t, err)
		ours, err := real.NewCA("break-glass CA")
		must(t, err)
		first, err := real.NewCA("placeholder")
		must(t, err)
		a := start(t, real.APIServerOptions{ClientCAs: first.CertPEM})
		must(t, a.SetClientCA(slices.Concat(a.ClusterCA.CertPEM, other.CertPEM, ours.CertPEM)))
		eventually(t, func() string {
			if name, _ := whoami(t, a, "", keyPair(t, other, "system:admin", "system:masters"), nil); name != "system:admin" {
				return "somebody's certificate does not sign in: " + name
			}
			return ""
		})
		rules, defaults, err := inventory.Shipped()
		must(t, err)
		var got *doors.Analysis
		eventually(t, func() string { // the ConfigMap follows
			s := collect(t, a, a.AdminKubeconfig(), survey.Options{})
			got = doors.Analyse(s, inventory.Options{Rules: rules, Defaults: defaults, Now: time.Now().UTC(),
				OurCAs: []string{fingerprintOf(ours.Cert)}})
			if n := len(s.Authentication.ClientCAs); n < 4 {
				return fmt.Sprintf("%d CAs are published", n)
			}
			return ""
		})
		mustFind(t, got, doors.DoorClientCA, doors.Present, inventory.Medium, "somebody's CA")
		// The first CA was taken out of the file, and stays in what others read.
		mustFind(t, got, doors.DoorClientCA, doors.Present, inventory.Medium, "CN=placeholder may sign")
		for _, i := range got.Door(doors.DoorClientCA).Items {
			if wanted := strings.Contains(i.Title, "real cluster CA") || strings.Contains(i.Title, "break-glass CA"); wanted != i.Expected {
				t.Errorf("%s: expected is %t, want %t (%s)", i.Title, i.Expected, wanted, i.Text)
			}
		}
	})

	t.Run("bootstrap tokens", func(t *testing.T) {
		a := start(t, real.APIServerOptions{Flags: []string{"--enable-bootstrap-token-auth=true"}})
		showsItself(t, a)
		apply(t, a, secret("kube-system", "bootstrap-token-abcdef", "bootstrap.kubernetes.io/token", nil,
			obj{"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
				"auth-extra-groups": "system:bootstrappers:x"})...)
		eventually(t, func() string {
			if name, _ := whoami(t, a, "abcdef.0123456789abcdef", tls.Certificate{}, nil); name != "system:bootstrap:abcdef" {
				return "the bootstrap token signs in as " + name
			}
			return ""
		})
		s, got := scan(t, a, survey.Options{})
		mustFind(t, got, doors.DoorBootstrap, doors.Present, inventory.High, "bootstrap token abcdef never expires")
		text, err := json.Marshal([]any{s, got, doors.Items(s, got)})
		must(t, err)
		if strings.Contains(string(text), "0123456789abcdef") || strings.Contains(string(text), "MDEyMzQ1Njc4OWFiY2RlZg") {
			t.Error("the snapshot or what was made of it holds the token's secret")
		}
	})

	t.Run("bootstrap tokens that are not accepted", func(t *testing.T) {
		a := start(t, real.APIServerOptions{})
		showsItself(t, a)
		apply(t, a, secret("kube-system", "bootstrap-token-abcdef", "bootstrap.kubernetes.io/token", nil,
			obj{"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"})...)
		if name, _ := whoami(t, a, "abcdef.0123456789abcdef", tls.Certificate{}, nil); name != "" {
			t.Fatalf("the bootstrap token signs in as %q", name)
		}
		_, got := scan(t, a, survey.Options{})
		mustFind(t, got, doors.DoorBootstrap, doors.Absent, inventory.Info, "cannot be signed in with")
	})

	t.Run("everything is allowed", func(t *testing.T) {
		a := start(t, real.APIServerOptions{Flags: []string{"--authorization-mode=AlwaysAllow"}})
		showsItself(t, a)
		_, got := scan(t, a, survey.Options{})
		mustFind(t, got, doors.DoorAuthorization, doors.Present, inventory.Critical, "AlwaysAllow")
	})

	t.Run("rules in a file", func(t *testing.T) {
		a := start(t,
			real.APIServerOptions{Files: map[string][]byte{"abac.jsonl": []byte(`{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"user":"ghost","namespace":"*","resource":"*","apiGroup":"*"}}` + "\n")},
				Flags: []string{"--authorization-mode=RBAC,ABAC", "--authorization-policy-file=abac.jsonl"}})
		showsItself(t, a)
		if out := realtest.MustKubectl(t, a.AdminKubeconfig(), "auth", "can-i", "get", "secrets", "-A",
			"--as=ghost"); strings.TrimSpace(out) != "yes" {
			t.Fatalf("ghost may not: %s", out)
		}
		_, got := scan(t, a, survey.Options{})
		mustFind(t, got, doors.DoorAuthorization, doors.Present, inventory.High, "abac.jsonl")
	})

	t.Run("impersonation", func(t *testing.T) {
		a := start(t, real.APIServerOptions{})
		_, before := scan(t, a, survey.Options{})
		mustFind(t, before, doors.DoorImpersonation, doors.Absent, inventory.Info, "")
		apply(t, a, gives("support", "", "user helpdesk", can("impersonate", "users,groups"))...)
		cert, key, err := a.ClusterCA.Client("helpdesk")
		must(t, err)
		path := filepath.Join(t.TempDir(), "helpdesk")
		must(t, a.WriteKubeconfig(path, real.Credentials{CertPEM: cert, KeyPEM: key}))
		eventually(t, func() string {
			out, _, err := realtest.MustBuild(t, real.KubeCtl).Kubectl(t.Context(), path, "auth", "can-i", "*", "*", "--as=x",
				"--as-group=system:masters")
			if strings.TrimSpace(out) != "yes" {
				return fmt.Sprintf("helpdesk cannot act as system:masters: %s %v", out, err)
			}
			return ""
		})
		_, got := scan(t, a, survey.Options{})
		mustFind(t, got, doors.DoorImpersonation, doors.Present, inventory.Critical, "user helpdesk may act as others")
	})

	t.Run("a certificate through the CSR API", func(t *testing.T) {
		a := start(t, real.APIServerOptions{})
		kubeadm(t, a)
		realtest.NewController(t, a, "certificatesigningrequest-signing-controller")
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "mallory",
			Organization: []string{"kubeadm:cluster-admins"}}}, key)
		must(t, err)
		apply(t, a, object("certificates.k8s.io/v1", "CertificateSigningRequest", "", "mallory",
			obj{"spec": obj{"signerName": "kubernetes.io/kube-apiserver-client", "usages": []string{"client auth"},
				"request": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})}}))
		_, asked := scan(t, a, survey.Options{})
		mustFind(t, asked, doors.DoorCSR, doors.Present, inventory.Low, "CertificateSigningRequest mallory asks for user mallory")
		realtest.MustKubectl(t, a.AdminKubeconfig(), "certificate", "approve", "mallory")
		var s *inventory.Snapshot
		eventually(t, func() string {
			if s = collect(t, a, a.AdminKubeconfig(), survey.Options{}); !s.CSRs[0].Issued {
				return "it is not signed"
			}
			return ""
		})
		got := judge(t, s)
		mustFind(t, got, doors.DoorCSR, doors.Present, inventory.Critical,
			"CertificateSigningRequest mallory was signed for user mallory in groups kubeadm:cluster-admins until 20")
		if c := s.CSRs[0]; c.Requester != "real:admin" || c.Expires == nil || !strings.Contains(c.Approval, "kubectl") {
			t.Errorf("got %+v, want its requester, its end and what approved it", c)
		}
		items := doors.Items(s, got)
		if !slices.ContainsFunc(items, func(i doors.Item) bool {
			return i.Kind == doors.ItemCSR && slices.Equal(i.People, []string{"mallory", "real:admin"}) && i.Proof == nil && i.Admin &&
				i.Until != nil
		}) {
			t.Errorf("there is no item to recertify for it: %+v", items)
		}

		// The checks of the CAs see with whose key it was signed.
		rc, err := clientcmd.BuildConfigFromFlags("", a.AdminKubeconfig())
		must(t, err)
		must(t, rest.LoadTLSFiles(rc))
		observer, err := cluster.NewObserver(cluster.ObserveConfig{Cluster: "c1", Servers: []string{strings.TrimPrefix(a.URL, "https://")},
			CA: rc.CAData, Rest: rc, Timeout: unhurried})
		must(t, err)
		signers := observer.View(t.Context()).Signers
		if len(signers) != 1 || signers[0].Name != "kubernetes.io/kube-apiserver-client" {
			t.Fatalf("got signers %+v, want the one that signed", signers)
		}
		if c, err := x509.ParseCertificate(signers[0].Certificate); err != nil || c.Subject.CommonName != "mallory" {
			t.Errorf("got a certificate of %v (%v), want mallory's", c.Subject, err)
		}
	})
}

func fingerprintOf(c *x509.Certificate) string { return sha256Hex(c.Raw) }

// What kubectl itself says a subject can do is what the snapshot says, right by right.
func TestRightsAreThoseThatKubectlLists(t *testing.T) {
	a := realtest.NewCluster(t, aggregator(t))
	kubeadm(t, a)
	realtest.NewController(t, a, "clusterrole-aggregation-controller")
	objects := []obj{object("v1", "Namespace", "", "shop", nil), object("v1", "ServiceAccount", "shop", "robot", nil)}
	for _, p := range plants() { // the roles and bindings among them
		for _, o := range p.objects {
			if strings.HasPrefix(o["apiVersion"].(string), "rbac.") {
				objects = append(objects, o)
			}
		}
	}
	objects = append(objects, binds("lead", "shop", "admin", "user lead")...)
	objects = append(objects, binds("robots", "shop", "edit", "group system:serviceaccounts:shop")...)
	apply(t, a, objects...)
	compared, differing := 0, 0
	var s *inventory.Snapshot
	eventually(t, func() string { // the controller writes what admin, edit and view aggregate
		s = collect(t, a, a.AdminKubeconfig(), survey.Options{})
		for _, r := range s.ClusterRoles {
			if (r.Name == "admin" || r.Name == "view") && len(r.Rules) == 0 {
				return r.Name + " is not aggregated yet"
			}
		}
		return ""
	})
	for _, c := range []struct {
		subject inventory.Subject
		groups  []string
		ns      string
	}{
		{subject: inventory.Subject{Kind: inventory.User, Name: "bob"}, ns: "kube-system"},
		{subject: inventory.Subject{Kind: inventory.User, Name: "bob"}, ns: "shop"},
		{subject: inventory.Subject{Kind: inventory.User, Name: "lead"}, ns: "shop"},
		{subject: inventory.Subject{Kind: inventory.User, Name: "aggregated"}, ns: "default"},
		{subject: inventory.Subject{Kind: inventory.User, Name: "nobody"}, groups: []string{"on-call"}, ns: "default"},
		{subject: inventory.Subject{Kind: inventory.User, Name: "star"}, ns: "default"},
		{subject: inventory.Subject{Kind: inventory.User, Name: "profiler"}, ns: "default"},
		{subject: inventory.Subject{Kind: inventory.User, Name: "onesecret"}, ns: "shop"},
		{subject: inventory.Subject{Kind: inventory.User, Name: "signer"}, ns: "default"},
		{subject: inventory.Subject{Kind: inventory.User, Name: "extra"}, ns: "default"},
		{subject: inventory.Subject{Kind: inventory.ServiceAccount, Namespace: "shop", Name: "robot"}, ns: "shop"},
		{subject: inventory.Subject{Kind: inventory.ServiceAccount, Namespace: "kube-system", Name: "clusterrole-aggregation-controller"},
			ns: "kube-system"},
		{subject: inventory.Subject{Kind: inventory.User, Name: "system:kube-controller-manager"}, ns: "kube-system"},
		{subject: inventory.Subject{Kind: inventory.User, Name: "system:kube-scheduler"}, ns: "kube-system"},
		{subject: inventory.Subject{Kind: inventory.User, Name: "x"}, groups: []string{"system:nodes",
			"system:bootstrappers:kubeadm:default-node-token"}, ns: "kube-system"},
	} {
		args := []string{"auth", "can-i", "--list", "--namespace", c.ns, "--as", c.subject.User()}
		for _, g := range c.groups {
			args = append(args, "--as-group", g)
		}
		want := listed(realtest.MustKubectl(t, a.AdminKubeconfig(), args...))
		got := written(inventory.RulesFor(s, c.subject, c.groups, c.ns))
		compared++
		if diff := cmp.Diff(want, got); diff != "" {
			differing++
			t.Errorf("%s in %s (-kubectl +ours):\n%s", c.subject, c.ns, diff)
		}
	}
	t.Logf("subjects compared with kubectl auth can-i --list: %d, differing: %d", compared, differing)
}

// listed are the single rights in what kubectl auth can-i --list prints.
func listed(table string) []string {
	var out []string
	for _, line := range strings.Split(table, "\n")[1:] {
		resource, rest, found := strings.Cut(line, "[")
		if !found {
			continue
		}
		columns := strings.Split(strings.TrimSuffix(strings.TrimSpace(rest), "]"), "]")
		field := func(i int) []string { return strings.Fields(strings.TrimLeft(strings.TrimSpace(columns[i]), "[")) }
		resource = strings.TrimSpace(resource)
		for _, verb := range field(2) {
			for _, url := range field(0) {
				out = append(out, verb+" "+url)
			}
			if resource == "" {
				continue
			}
			if len(field(1)) == 0 {
				out = append(out, verb+" "+resource)
			}
			for _, name := range field(1) {
				out = append(out, verb+" "+resource+" "+name)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// written are single rights, spelled as kubectl spells them.
func written(rules []inventory.PolicyRule) []string {
	var out []string
	for _, p := range rules {
		for _, verb := range p.Verbs {
			for _, url := range p.NonResourceURLs {
				out = append(out, verb+" "+url)
			}
			for _, group := range p.APIGroups {
				for _, resource := range p.Resources {
					base, sub, found := strings.Cut(resource, "/")
					if group != "" {
						base += "." + group
					}
					if found {
						base += "/" + sub
					}
					if len(p.ResourceNames) == 0 {
						out = append(out, verb+" "+base)
					}
					for _, name := range p.ResourceNames {
						out = append(out, verb+" "+base+" "+name)
					}
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
