package devmode

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/breakglassd/breakglass/deploy"
	"github.com/breakglassd/breakglass/internal/real"
	"github.com/breakglassd/breakglass/policies"
)

const vaultMount = "pki-breakglass-dev"

// startReal starts a real Vault, etcd and kube-apiserver, built on first use, and sets them up with the files that ship.
func (w *World) startReal(ctx context.Context, o Options) error {
	bins, err := real.Build(ctx, o.Progress)
	if err != nil {
		return err
	}
	w.Kubectl = bins[real.KubeCtl]
	shipped := filepath.Join(w.Dir, "shipped")
	if err := os.CopyFS(filepath.Join(shipped, "vault"), policies.VaultFiles()); err != nil {
		return fmt.Errorf("writing the Vault files: %w", err)
	}
	if err := os.CopyFS(shipped, policies.Kubernetes); err != nil {
		return fmt.Errorf("writing the Kubernetes manifests: %w", err)
	}
	vault, err := bins.StartVault(ctx, real.VaultOptions{Dir: filepath.Join(w.Dir, "vault"), Persistent: true})
	if err != nil {
		return err
	}
	w.onClose(vault.Stop)
	ca, err := w.setUpVault(ctx, bins, vault, filepath.Join(shipped, "vault"))
	if err != nil {
		return err
	}
	etcd, err := bins.StartEtcd(ctx, real.EtcdOptions{Dir: filepath.Join(w.Dir, "etcd")})
	if err != nil {
		return err
	}
	w.onClose(etcd.Stop)
	dir := filepath.Join(w.Dir, "kube")
	kube, err := bins.StartAPIServer(ctx, real.APIServerOptions{Dir: dir, Etcd: etcd, ClientCAs: ca, Files: w.webhookFiles(dir),
		Flags: []string{"--authorization-config=authorization.yaml", "--audit-policy-file=audit-policy.yaml",
			"--audit-webhook-config-file=audit.kubeconfig",
			"--audit-webhook-batch-max-wait=1s", "--audit-webhook-initial-backoff=1s"}})
	if err != nil {
		return err
	}
	w.onClose(kube.Stop)
	w.Server = kube.URL
	if w.ServerCA, err = os.ReadFile(kube.CACert); err != nil {
		return fmt.Errorf("reading the API server's CA: %w", err)
	}
	kubectl := func(args ...string) (string, error) {
		out, stderr, err := bins.Kubectl(ctx, kube.AdminKubeconfig(), args...)
		if err != nil {
			return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, stderr)
		}
		return strings.TrimSpace(out), nil
	}
	manifests := filepath.Join(shipped, "kubernetes")
	for _, args := range [][]string{
		{"apply", "-f", manifests, "-f", filepath.Join(manifests, "optional", "sweep.yaml"), "-f",
			filepath.Join(manifests, "optional", "recert.yaml")},
		// Nothing publishes it here: there is no kube-controller-manager.
		{"-n", "kube-system", "create", "configmap", "kube-root-ca.crt", "--from-file=ca.crt=" + kube.CACert},
	} {
		if _, err := kubectl(args...); err != nil {
			return err
		}
	}
	for account, into := range map[string]*string{"breakglassd": &w.Kubeconfig, "breakglass-recert": &w.ScanKubeconfig} {
		token, err := kubectl("-n", "breakglass", "create", "token", account, "--duration", "24h")
		if err != nil {
			return err
		}
		*into = filepath.Join(w.Dir, account+".kubeconfig")
		if err := kube.WriteKubeconfig(*into, real.Credentials{Token: token}); err != nil {
			return err
		}
	}
	return nil
}

// webhookFiles are the shipped files by which an API server calls the daemon, with this world's address and token in them.
func (w *World) webhookFiles(dir string) map[string][]byte {
	kubeconfig := func(path string) []byte {
		return fmt.Appendf(nil, "apiVersion: v1\nkind: Config\nclusters: [{name: breakglass, cluster: {server: %q, certificate-authority-data: "+
			"%s}}]\nusers: [{name: kube-apiserver, user: {token: %q}}]\n"+
			"contexts: [{name: breakglass, context: {cluster: breakglass, user: kube-apiserver}}]\ncurrent-context: breakglass\n",
			"https://"+w.WebhookAddr+path+Cluster, base64.StdEncoding.EncodeToString(w.WebhookCert), w.WebhookToken)
	}
	return map[string][]byte{
		"authorization.yaml": bytes.ReplaceAll(deploy.AuthorizationNoOpinion,
			[]byte("/etc/kubernetes/breakglass/authorization-webhook.kubeconfig"), []byte(filepath.Join(dir, "authorization.kubeconfig"))),
		"audit-policy.yaml": deploy.AuditPolicy, "authorization.kubeconfig": kubeconfig("/authorize/"),
		"audit.kubeconfig": kubeconfig("/audit/"),
	}
}

// setUpVault runs the shipped script as an operator would and returns the CA certificate for the client-CA bundle.
func (w *World) setUpVault(ctx context.Context, bins real.Binaries, vault *real.Vault, files string) ([]byte, error) {
	script, path := filepath.Join(w.Dir, "setup.sh"), filepath.Join(w.Dir, "path")
	if err := os.WriteFile(script, deploy.VaultSetup, 0o700); err != nil {
		return nil, fmt.Errorf("writing setup.sh: %w", err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("making a directory for the vault command: %w", err)
	}
	if err := os.Symlink(bins[real.VaultServer], filepath.Join(path, "vault")); err != nil {
		return nil, fmt.Errorf("making the vault command: %w", err)
	}
	access := &VaultAccess{Address: vault.Addr, CAFile: vault.CACert, SecretIDFile: filepath.Join(w.Dir, "secret-id"), Mount: vaultMount}
	cmd := exec.CommandContext(ctx, "sh", script, "--mount", vaultMount, "--max-ttl", "1h", "--out", w.Dir, "--secret-id-file",
		access.SecretIDFile, "--files", files)
	cmd.Env = append(os.Environ(), "VAULT_ADDR="+vault.Addr, "VAULT_CACERT="+vault.CACert, "VAULT_TOKEN="+vault.RootToken, "PATH="+path+":"+
		os.Getenv("PATH"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("setting up Vault with deploy/vault/setup.sh: %w: %s", err, stderr.Bytes())
	}
	for _, f := range []struct {
		into    *string
		pattern string
	}{{&access.IssuerID, `issuer +([0-9a-f-]{36})`}, {&access.RoleID, `role id +([0-9a-f-]{36})`}} {
		m := regexp.MustCompile(f.pattern).FindSubmatch(out)
		if m == nil {
			return nil, fmt.Errorf("deploy/vault/setup.sh printed nothing like %q:\n%s", f.pattern, out)
		}
		*f.into = string(m[1])
	}
	w.Vault = access
	return os.ReadFile(filepath.Join(w.Dir, vaultMount+"-ca.pem"))
}
