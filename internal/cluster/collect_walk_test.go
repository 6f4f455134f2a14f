package cluster_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
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

	"github.com/breakglassd/breakglass/internal/bgtest/realtest"
	"github.com/breakglassd/breakglass/internal/cluster/survey"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/real"
)

// Ways to cluster-admin that are shown are walked, step by step, with nothing but the first person's certificate: at the end
// the person may do everything, and could not before.
func TestWaysToClusterAdminCanBeWalked(t *testing.T) {
	a := realtest.NewCluster(t, aggregator(t))
	kubeadm(t, a)
	realtest.NewController(t, a, "certificatesigningrequest-signing-controller")
	objects := []obj{object("v1", "Namespace", "", "shop", nil)}
	for _, p := range plants() {
		if slices.Contains([]string{"token-create of one account in kube-system", "bind-roles of one role", "csr-approve", "escalate-roles"},
			p.kind) {
			objects = append(objects, p.objects...)
		}
	}
	apply(t, a, objects...)
	_, found := scan(t, a, survey.Options{})
	bins := realtest.MustBuild(t, real.KubeCtl)

	person := func(t *testing.T, name string) string {
		cert, key, err := a.ClusterCA.Client(name)
		must(t, err)
		path := filepath.Join(t.TempDir(), "person")
		must(t, a.WriteKubeconfig(path, real.Credentials{CertPEM: cert, KeyPEM: key}))
		return path
	}
	everything := func(kubeconfig string) bool {
		out, _, _ := bins.Kubectl(t.Context(), kubeconfig, "auth", "can-i", "*", "*") // exits with 1 for no
		return strings.TrimSpace(out) == "yes"
	}
	file := func(t *testing.T, o obj) string {
		text, err := json.Marshal(o)
		must(t, err)
		path := filepath.Join(t.TempDir(), "object.json")
		must(t, os.WriteFile(path, text, 0o600))
		return path
	}
	all := `[{"op":"add","path":"/rules/-","value":{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}}]`

	for name, c := range map[string]struct {
		way  []string // parts of the way, in order
		walk func(t *testing.T, kubeconfig string) (end string)
	}{
		"onetoken": {[]string{"can make tokens of service accounts (only clusterrole-aggregation-controller)",
			"service account kube-system/clusterrole-aggregation-controller", "can change roles to hold more"},
			func(t *testing.T, kubeconfig string) string {
				token := realtest.MustKubectl(t, kubeconfig, "create", "token", "clusterrole-aggregation-controller", "--namespace", "kube-system")
				account := filepath.Join(t.TempDir(), "account")
				must(t, a.WriteKubeconfig(account, real.Credentials{Token: strings.TrimSpace(token)}))
				// The role of everybody who signs in.
				realtest.MustKubectl(t, account, "patch", "clusterrole", "system:basic-user", "--type=json", "--patch", all)
				t.Cleanup(func() {
					// The test's own context has ended here.
					_, _, err := bins.Kubectl(context.Background(), a.AdminKubeconfig(), "patch", "clusterrole", "system:basic-user", "--type=json",
						"--patch", `[{"op":"remove","path":"/rules/2"}]`)
					must(t, err)
				})
				return kubeconfig
			}},
		"escalator": {[]string{"can change roles to hold more than it holds itself in the whole cluster", "cluster-admin"},
			func(t *testing.T, kubeconfig string) string {
				role := ""
				for _, p := range found.Powers {
					if p.Subject.Name == "escalator" {
						role = p.Via[0].Name // its own binding and role have one name
					}
				}
				realtest.MustKubectl(t, kubeconfig, "replace", "--raw", "/apis/rbac.authorization.k8s.io/v1/clusterroles/"+role, "-f",
					file(t, object(rbacV1, "ClusterRole", "", role, obj{"rules": []any{can("*", "*:*")}})))
				return kubeconfig
			}},
		"namedbinder": {[]string{"can bind roles that it does not hold itself (only cluster-admin)", "a holder of ClusterRole cluster-admin"},
			func(t *testing.T, kubeconfig string) string {
				realtest.MustKubectl(t, kubeconfig, "create", "clusterrolebinding", "mine", "--clusterrole=cluster-admin", "--user=namedbinder")
				return kubeconfig
			}},
		"signer": {[]string{"can have any client certificate signed", "cluster-admin"},
			func(t *testing.T, kubeconfig string) string {
				key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
				must(t, err)
				der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x",
					Organization: []string{"kubeadm:cluster-admins"}}}, key)
				must(t, err)
				realtest.MustKubectl(t, kubeconfig, "create", "-f", file(t, object("certificates.k8s.io/v1", "CertificateSigningRequest", "", "mine",
					obj{"spec": obj{"signerName": "kubernetes.io/kube-apiserver-client",
						"usages": []string{"client auth"}, "request": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})}})))
				realtest.MustKubectl(t, kubeconfig, "replace", "--raw", "/apis/certificates.k8s.io/v1/certificatesigningrequests/mine/approval", "-f",
					file(t, approved(t, a, "mine")))
				var cert []byte
				eventually(t, func() string {
					text := realtest.MustKubectl(t, a.AdminKubeconfig(), "get", "csr", "mine", "-o", "jsonpath={.status.certificate}")
					if cert, err = base64.StdEncoding.DecodeString(text); err != nil || len(cert) == 0 {
						return fmt.Sprintf("it is not signed: %v", err)
					}
					return ""
				})
				private, err := x509.MarshalPKCS8PrivateKey(key)
				must(t, err)
				path := filepath.Join(t.TempDir(), "signed")
				must(t, a.WriteKubeconfig(path, real.Credentials{CertPEM: cert,
					KeyPEM: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})}))
				return path
			}},
	} {
		t.Run(name, func(t *testing.T) {
			n := slices.IndexFunc(found.Powers, func(p inventory.Power) bool { return p.Subject.Name == name })
			if n < 0 {
				t.Fatal("the scan does not name this person")
			}
			rest := found.Powers[n].Path.String()
			for _, part := range c.way {
				_, after, ok := strings.Cut(rest, part)
				if !ok {
					t.Errorf("the way shown is %s, want %q in it", found.Powers[n].Path, c.way)
					break
				}
				rest = after
			}
			start := person(t, name)
			if everything(start) {
				t.Fatal("the person may do everything to begin with")
			}
			end := c.walk(t, start)
			eventually(t, func() string {
				if !everything(end) {
					return "at the end of the way not everything is allowed"
				}
				return ""
			})
		})
		eventually(t, func() string { // what one walk changed for everybody is gone before the next
			if everything(person(t, "nobody")) {
				return "everybody may do everything"
			}
			return ""
		})
	}
}

// approved is a CertificateSigningRequest as its approver writes it back.
func approved(t *testing.T, a *real.APIServer, name string) obj {
	t.Helper()
	var csr obj
	must(t, json.Unmarshal([]byte(realtest.MustKubectl(t, a.AdminKubeconfig(), "get", "csr", name, "-o", "json")), &csr))
	csr["status"] = obj{"conditions": []any{obj{"type": "Approved", "status": "True", "reason": "Mine", "message": "I say so"}}}
	return csr
}
