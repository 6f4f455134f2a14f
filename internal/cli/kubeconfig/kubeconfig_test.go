package kubeconfig

import (
	"testing"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/breakglassd/breakglass/internal/api"
)

func TestKubeconfigIsOneForKubectl(t *testing.T) {
	cl := api.Cluster{ID: "prod-eu-1", Server: "https://10.20.0.1:6443", CA: "the CA\n"}
	got, err := clientcmd.Load([]byte("# breakglass bg-7k3m-9qx\n" + Write("bg-7k3m-9qx", cl, "the certificate\n", "the key\n")))
	if err != nil {
		t.Fatal(err)
	}
	if err := clientcmd.ConfirmUsable(*got, ""); err != nil {
		t.Error(err)
	}
	ctx := got.Contexts[got.CurrentContext]
	cluster, user := got.Clusters[ctx.Cluster], got.AuthInfos[ctx.AuthInfo]
	if cluster.Server != cl.Server || string(cluster.CertificateAuthorityData) != cl.CA ||
		string(user.ClientCertificateData) != "the certificate\n" || string(user.ClientKeyData) != "the key\n" {
		t.Errorf("%+v\n%+v", cluster, user)
	}
}
