package main

import (
	"bytes"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"

	"github.com/breakglassd/breakglass/cmd/breakglassd/config"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/rotation"
)

func TestPlansAreForTheConfiguredPaths(t *testing.T) {
	cl := config.Cluster{ID: "c1", CAChecks: config.CAChecks{NodeBundleFile: "/etc/rancher/bundle.crt",
		NodeClusterCAFile: "/var/lib/rancher/client-ca.crt",
		BundleFile:        "bundle.pem", BundleFiles: []config.BundleCopy{{File: "cp3.pem"}}}}
	if got, want := planOptions(cl), (rotation.PlanOptions{Bundle: "/etc/rancher/bundle.crt",
		ClusterCA: "/var/lib/rancher/client-ca.crt", Copies: []string{"bundle.pem", "cp3.pem"}}); !cmp.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestAPIServersAreVerifiedByTheDaemonsOwnCA: people may reach the cluster another way, with another CA.
func TestAPIServersAreVerifiedByTheDaemonsOwnCA(t *testing.T) {
	dir := t.TempDir()
	srv := httptest.NewTLSServer(nil)
	srv.Close()
	own := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	file := filepath.Join(dir, "own.pem")
	if err := os.WriteFile(file, own, 0o600); err != nil {
		t.Fatal(err)
	}
	cl := config.Cluster{ID: "c1", KubeconfigFile: "c1.kubeconfig", CAFile: filepath.Join(dir, "people.pem"),
		CAChecks: config.CAChecks{BundleFile: "all.pem", BundleFiles: []config.BundleCopy{{APIServer: "https://10.0.0.2", File: "second.pem"}}}}
	for name, tlsConfig := range map[string]rest.TLSClientConfig{"data": {CAData: own}, "file": {CAFile: file}} {
		o, err := observeConfig(cl, []cluster.Server{{Address: "https://10.0.0.1:6443",
			Config: &rest.Config{Host: "https://10.0.0.1:6443", TLSClientConfig: tlsConfig}}, {Address: "https://10.0.0.2"}})
		if err != nil || !bytes.Equal(o.CA, own) {
			t.Errorf("%s: CA %q, %v", name, o.CA, err)
		}
		if diff := cmp.Diff(map[string]string{"": "all.pem", "10.0.0.2:443": "second.pem"}, o.Bundles); diff != "" {
			t.Errorf("%s: bundles (-want +got):\n%s", name, diff)
		}
	}
	_, err := observeConfig(cl, []cluster.Server{{Address: "https://10.0.0.1",
		Config: &rest.Config{TLSClientConfig: rest.TLSClientConfig{CAFile: filepath.Join(dir, "nothing")}}}})
	if err == nil || !strings.Contains(err.Error(), "c1.kubeconfig") {
		t.Errorf("a CA that is not there: %v", err)
	}
}
