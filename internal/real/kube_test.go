package real_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/bgtest/realtest"
	"github.com/breakglassd/breakglass/internal/real"
)

// person writes a kubeconfig for a client certificate of ca and returns its path and the credential id to expect.
func person(t *testing.T, a *real.APIServer, ca *real.CA, name string, groups ...string) (kubeconfig, credentialID string) {
	t.Helper()
	cert, key, err := ca.Client(name, groups...)
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig = filepath.Join(t.TempDir(), name+".kubeconfig")
	if err := a.WriteKubeconfig(kubeconfig, real.Credentials{CertPEM: cert, KeyPEM: key}); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(cert)
	return kubeconfig, fmt.Sprintf("X509SHA256=%x", sha256.Sum256(block.Bytes))
}

func mustCA(t *testing.T, name string) *real.CA {
	t.Helper()
	ca, err := real.NewCA(name)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// eventually calls check until it returns "", and fails the test with what it returned last. A minute is how long an API
// server may take to notice a file, plus some for a busy machine.
func eventually(t *testing.T, check func() string) {
	t.Helper()
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		problem := check()
		if problem == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(problem)
		}
	}
}

func TestAPIServerTellsWhichCertificateWasUsed(t *testing.T) {
	ca := mustCA(t, "break-glass CA")
	a := realtest.NewCluster(t, real.APIServerOptions{ClientCAs: ca.CertPEM})

	if out := realtest.MustKubectl(t, a.AdminKubeconfig(), "get", "namespaces", "-o", "name"); !strings.Contains(out, "namespace/default\n") {
		t.Errorf("the admin sees namespaces %q, want default among them", out)
	}
	if out := realtest.MustKubectl(t, a.AdminKubeconfig(), "version"); !strings.Contains(out, "Server Version: v"+real.KubernetesVersion()) {
		t.Errorf("the server says %q, want version %s", out, real.KubernetesVersion())
	}

	alice, credentialID := person(t, a, ca, "alice", "breakglass:cluster-admins")
	var review struct {
		Status struct {
			UserInfo struct {
				Username string
				Groups   []string
				Extra    map[string][]string
			}
		}
	}
	if err := json.Unmarshal([]byte(realtest.MustKubectl(t, alice, "auth", "whoami", "-o", "json")), &review); err != nil {
		t.Fatal(err)
	}
	user := review.Status.UserInfo
	if user.Username != "alice" || !slices.Contains(user.Groups, "breakglass:cluster-admins") {
		t.Errorf("got user %+v, want alice in breakglass:cluster-admins", user)
	}
	if got := user.Extra["authentication.kubernetes.io/credential-id"]; !slices.Equal(got, []string{credentialID}) {
		t.Errorf("got credential id %q, want %q", got, credentialID)
	}

	bins := realtest.MustBuild(t, real.KubeCtl)
	if _, stderr, err := bins.Kubectl(t.Context(), alice, "get", "namespaces"); err == nil || !strings.Contains(stderr, "Forbidden") {
		t.Errorf("alice, bound to nothing, got %v, %q, want Forbidden", err, stderr)
	}
	if err := a.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	realtest.MustKubectl(t, alice, "auth", "whoami")

	a.Stop()
	if _, _, err := bins.Kubectl(t.Context(), a.AdminKubeconfig(), "get", "namespaces"); err == nil {
		t.Error("a stopped API server answers")
	}
}

func TestAPIServerFollowsItsClientCABundle(t *testing.T) {
	first, second := mustCA(t, "g1"), mustCA(t, "g2")
	a := realtest.NewCluster(t, real.APIServerOptions{ClientCAs: first.CertPEM})
	old, _ := person(t, a, first, "alice")
	young, _ := person(t, a, second, "bob")
	bins := realtest.MustBuild(t, real.KubeCtl)
	whoami := func(kubeconfig string) error {
		_, _, err := bins.Kubectl(t.Context(), kubeconfig, "auth", "whoami")
		return err
	}
	if err := whoami(old); err != nil {
		t.Errorf("a certificate of the CA in the bundle: %v", err)
	}
	if err := whoami(young); err == nil {
		t.Error("a certificate of a CA that is not in the bundle is accepted")
	}
	if err := a.SetClientCA(second.CertPEM); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if err := whoami(young); err != nil {
			return fmt.Sprintf("a certificate of the CA that was put into the bundle: %v", err)
		}
		return ""
	})
	if err := whoami(old); err == nil {
		t.Error("a certificate of the CA that was taken from the bundle is accepted")
	}
	if got, err := os.ReadFile(a.ClientCAFile()); err != nil || string(got) != string(second.CertPEM) {
		t.Errorf("the bundle is %q, %v, want what was set", got, err)
	}
}

func TestClustersShareAnEtcdAndReplicasShareACluster(t *testing.T) {
	ca := mustCA(t, "known to the replica only")
	e := realtest.NewEtcd(t)
	one := realtest.NewCluster(t, real.APIServerOptions{Etcd: e, EtcdPrefix: "/one"})
	other := realtest.NewCluster(t, real.APIServerOptions{Etcd: e, EtcdPrefix: "/other"})
	replica := realtest.NewCluster(t, real.APIServerOptions{ReplicaOf: one, ClientCAs: ca.CertPEM})

	realtest.MustKubectl(t, one.AdminKubeconfig(), "create", "namespace", "tide")
	realtest.MustKubectl(t, replica.AdminKubeconfig(), "get", "namespace", "tide")
	if _, _, err := realtest.MustBuild(t, real.KubeCtl).Kubectl(t.Context(), other.AdminKubeconfig(), "get", "namespace", "tide"); err == nil {
		t.Error("a namespace made in one cluster is seen in the other")
	}

	// A service account token of one API server is good at its replica.
	realtest.MustKubectl(t, one.AdminKubeconfig(), "create", "serviceaccount", "binder")
	token := strings.TrimSpace(realtest.MustKubectl(t, one.AdminKubeconfig(), "create", "token", "binder"))
	binder := filepath.Join(t.TempDir(), "binder.kubeconfig")
	if err := replica.WriteKubeconfig(binder, real.Credentials{Token: token}); err != nil {
		t.Fatal(err)
	}
	if out := realtest.MustKubectl(t, binder, "auth", "whoami"); !strings.Contains(out, "system:serviceaccount:default:binder") {
		t.Errorf("the replica takes the token for %q", out)
	}

	// The mixed state in the middle of a rotation: a certificate is good at one API server of a cluster and not at the other.
	atReplica, _ := person(t, replica, ca, "alice")
	realtest.MustKubectl(t, atReplica, "auth", "whoami")
	atOne, _ := person(t, one, ca, "alice")
	if _, _, err := realtest.MustBuild(t, real.KubeCtl).Kubectl(t.Context(), atOne, "auth", "whoami"); err == nil {
		t.Error("an API server accepts a certificate of a CA that only its replica knows")
	}
}

func TestAPIServerReadsGivenFilesAndFlags(t *testing.T) {
	a := realtest.NewCluster(t, real.APIServerOptions{
		Files: map[string][]byte{
			"policy.yaml": []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n"),
			"authz.yaml": []byte("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: [{type: RBAC, name: " +
				"rbac}]\n"),
		},
		Flags: []string{"--audit-policy-file=policy.yaml", "--audit-log-path=audit.json", "--authorization-config=authz.yaml"},
	})
	realtest.MustKubectl(t, a.AdminKubeconfig(), "create", "namespace", "audited")
	eventually(t, func() string {
		events, err := os.ReadFile(filepath.Join(filepath.Dir(a.LogFile()), "audit.json"))
		if err != nil || !strings.Contains(string(events), `"name":"audited"`) {
			return fmt.Sprintf("the audit log does not have the namespace: %v", err)
		}
		return ""
	})
}

func TestControllerSignsRequestsWithTheClusterCA(t *testing.T) {
	a := realtest.NewCluster(t, real.APIServerOptions{})
	realtest.NewController(t, a, "certificatesigningrequest-signing-controller")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "carol"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := json.Marshal(map[string]any{
		"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": map[string]any{"name": "carol"},
		"spec": map[string]any{"signerName": "kubernetes.io/kube-apiserver-client", "usages": []string{"client auth"},
			"request": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})},
	})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "csr.json")
	if err := os.WriteFile(file, manifest, 0o600); err != nil {
		t.Fatal(err)
	}
	realtest.MustKubectl(t, a.AdminKubeconfig(), "create", "-f", file)
	realtest.MustKubectl(t, a.AdminKubeconfig(), "certificate", "approve", "carol")
	var cert []byte
	eventually(t, func() string {
		out := realtest.MustKubectl(t, a.AdminKubeconfig(), "get", "csr", "carol", "-o", "jsonpath={.status.certificate}")
		if cert, err = base64.StdEncoding.DecodeString(out); err != nil || len(cert) == 0 {
			return fmt.Sprintf("the request is not signed: %q, %v", out, err)
		}
		return ""
	})
	der, err = x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	carol := filepath.Join(t.TempDir(), "carol.kubeconfig")
	if err := a.WriteKubeconfig(carol, real.Credentials{CertPEM: cert, KeyPEM: keyPEM}); err != nil {
		t.Fatal(err)
	}
	if out := realtest.MustKubectl(t, carol, "auth", "whoami"); !strings.Contains(out, "carol") {
		t.Errorf("the API server takes the signed certificate for %q", out)
	}
}
