package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/cmd/breakglassd/config"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/google/go-cmp/cmp"
)

// Who can write a kubeconfig decides which server the daemon believes to be the cluster, and with which program it signs in.
func TestKubeconfigsThatOthersCanWriteAreRefused(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		text := "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: \"https://127.0.0.1:1\"}}]\n" +
			"users: [{name: u, user: {token: t}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil { // whatever the umask is
			t.Fatal(err)
		}
		return path
	}
	quiet := slog.New(slog.DiscardHandler)
	for mode, good := range map[os.FileMode]bool{0o600: true, 0o640: true, 0o644: true, 0o620: false, 0o602: false, 0o666: false} {
		cfg := &config.Config{Clusters: []config.Cluster{{ID: "c1", KubeconfigFile: write("own", mode)}}}
		if _, err := openClusters(cfg, "", nil, quiet); (err == nil) != good || err != nil && !strings.Contains(err.Error(),
			"clusters[0].kubeconfig_file: "+dir) {
			t.Errorf("mode %04o: %v", mode, err)
		}
		cfg = &config.Config{Clusters: []config.Cluster{{ID: "c1", KubeconfigFile: write("own", 0o600), ScanKubeconfigFile: write("scan", mode)}}}
		if _, err := openScanner(cfg, nil, quiet); (err == nil) != good || err != nil && !strings.Contains(err.Error(),
			"clusters[0].scan_kubeconfig_file: "+dir) {
			t.Errorf("scan, mode %04o: %v", mode, err)
		}
	}
}

func TestGroupsOfAClusterAreThoseOfItsProfiles(t *testing.T) {
	p, err := policy.Parse("policy", []byte(bgtest.Policy()))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"breakglass:cluster-admins"}, groupsOf("c1", p, nil)); diff != "" {
		t.Error(diff)
	}
}
