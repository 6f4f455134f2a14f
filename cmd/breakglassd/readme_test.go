package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/bgtest/realtest"
	"github.com/breakglassd/breakglass/internal/real"
)

// TestReadmeSetsUpACluster runs the commands of the README's "Set it up" as they stand, from an empty Vault and an empty cluster to
// a doctor that finds nothing wrong. What the README tells people to put into files by hand is done here by hand, and nothing else.
func TestReadmeSetsUpACluster(t *testing.T) {
	cleanEnv(t)
	bins := realtest.MustBuild(t, real.VaultServer, real.EtcdServer, real.KubeAPIServer, real.KubeCtl)
	vault := realtest.NewVault(t, real.VaultOptions{})
	kube := realtest.NewCluster(t, real.APIServerOptions{})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	readme, err := os.ReadFile("../../README.md")
	must(err)
	_, section, found := strings.Cut(string(readme), "\n## Set it up for a real cluster\n")
	section, _, ended := strings.Cut(section, "\n## ")
	if !found || !ended {
		t.Fatal("the README has no section \"Set it up for a real cluster\"")
	}
	blocks := map[string]string{} // by the number of the step
	for _, step := range regexp.MustCompile(`(?m)^(\d)\. `).Split(section, -1)[1:] {
		if _, block, ok := strings.Cut(step, "```sh\n"); ok {
			block, _, _ = strings.Cut(block, "```")
			title, _, _ := strings.Cut(strings.TrimPrefix(step, "**"), "**")
			blocks[strings.Trim(title, ".")] = block
		}
	}

	// A clone of the repository, as far as the commands use it, and the tools of the people who run them.
	clone := filepath.Join(t.TempDir(), "breakglass")
	prod := filepath.Join(clone, "..", "breakglass-prod")
	must(os.MkdirAll(filepath.Join(clone, "bin"), 0o700))
	for _, dir := range []string{"deploy", "policies"} {
		must(os.CopyFS(filepath.Join(clone, dir), os.DirFS("../../"+dir)))
	}
	for _, script := range []string{"deploy/vault/setup.sh", "policies/kubernetes/kubeconfig.sh"} { // embed and CopyFS keep the modes
		if info, err := os.Stat("../../" + script); err != nil || info.Mode().Perm()&0o111 == 0 {
			t.Errorf("%s cannot be run: %v", script, err)
		}
	}
	daemon, err := exec.LookPath("breakglassd")
	must(err)
	must(os.Symlink(daemon, filepath.Join(clone, "bin", "breakglassd")))
	run := func(step string) string {
		t.Helper()
		block := blocks[step]
		if block == "" {
			t.Fatalf("the README's step %q has no commands; there are %q", step, blocks)
		}
		delete(blocks, step)
		// the tests' own is in bin
		block = strings.Replace(block, "CGO_ENABLED=0 go build -trimpath -ldflags \"-s -w\" -o bin/ ./cmd/...\n", "", 1)
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-euc", block)
		cmd.Dir = clone
		cmd.Env = []string{"PATH=" + filepath.Dir(bins[real.VaultServer]) + ":" + filepath.Dir(bins[real.KubeCtl]) + ":/usr/bin:/bin",
			"HOME=" + t.TempDir(), "VAULT_ADDR=" + vault.Addr, "VAULT_CACERT=" + vault.CACert, "VAULT_TOKEN=" + vault.RootToken,
			"KUBECONFIG=" + kube.AdminKubeconfig()}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("step %q: %v\n%s", step, err, out)
		}
		t.Logf("step %q:\n%s", step, out)
		if strings.Contains(string(out), "WARNING") {
			t.Errorf("step %q prints warnings:\n%s", step, out)
		}
		return string(out)
	}
	edit := func(file string, changes ...string) {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(prod, file))
		must(err)
		for i := 0; i < len(changes); i += 2 {
			if !strings.Contains(string(text), changes[i]) {
				t.Fatalf("%s has no %q", file, changes[i])
			}
		}
		must(os.WriteFile(filepath.Join(prod, file), []byte(strings.NewReplacer(changes...).Replace(string(text))), 0o600))
	}

	run("Build")
	said := run("Vault")
	printed := func(key string) string {
		t.Helper()
		m := regexp.MustCompile(`(?m)^\s*` + key + `: (\S+)$`).FindStringSubmatch(said)
		if m == nil {
			t.Fatalf("setup.sh printed no %s:\n%s", key, said)
		}
		return m[1]
	}
	edit("config.yaml", "11111111-2222-3333-4444-555555555555", printed("role_id"),
		"22222222-3333-4444-5555-666666666666", printed("vault_issuer_id"), "https://vault.example.com:8200", vault.Addr)

	ours, err := os.ReadFile(filepath.Join(prod, "pki-prod-eu-1-ca.pem")) // step 3
	must(err)
	must(kube.SetClientCA(append(append([]byte(nil), kube.ClusterCA.CertPEM...), ours...)))

	run("Rights")

	changes := []string{"https://10.20.0.1:6443", kube.URL} // step 5
	for _, line := range regexp.MustCompile(`"ssh-ed25519 \S+ (\w+)"`).FindAllStringSubmatch(read(t, filepath.Join(prod, "access.yaml")), -1) {
		pub := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(bgtest.SSHKey(line[1]).PublicKey())))
		changes = append(changes, line[0], `"`+pub+" "+line[1]+`"`)
	}
	edit("access.yaml", changes...)
	run("TLS")
	edit("config.yaml", ":8443\"\n  tls", "127.0.0.1:0\"\n  tls") // another daemon may run on the machine of this test

	said = run("Start")
	if strings.Contains(said, "✗") || !strings.Contains(said, "starts with this configuration") ||
		!strings.Contains(said, "breakglass.example.com/prod+") {
		t.Errorf("the start says:\n%s", said)
	}
	if len(blocks) > 0 {
		t.Errorf("steps of the README that this test does not run: %q", blocks)
	}
	for name, mode := range map[string]os.FileMode{"ledger": 0o700, "clusters": 0o700, "ledger/ledger.key": 0o600,
		"clusters/prod-eu-1.kubeconfig": 0o600, "vault-secret-id": 0o600, "tls.key": 0o600} {
		if info, err := os.Stat(filepath.Join(prod, name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, want mode %04o", name, info, mode)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
