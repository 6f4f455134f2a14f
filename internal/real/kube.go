package real

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// EtcdOptions say how an etcd is started.
type EtcdOptions struct {
	Dir string // where its data and its log go: a new directory, made if need be
}

// An Etcd is a running etcd of one member. It does not wait for the disk, so its data survives Stop but not a power cut.
type Etcd struct {
	Process
	Endpoint string // http://127.0.0.1:port
}

// StartEtcd starts an etcd. ctx limits the start only.
func (b Binaries) StartEtcd(ctx context.Context, o EtcdOptions) (*Etcd, error) {
	path, err := b.path(EtcdServer)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	e := &Etcd{Process: Process{component: EtcdServer, path: path, dir: o.Dir}}
	e.ready = func(context.Context) error { return e.printed("serving client traffic insecurely") }
	err = withFreePorts(2, func(ports []int) error {
		peer := "http://" + hostPort(ports[1])
		e.Endpoint = "http://" + hostPort(ports[0])
		e.args = []string{"--name=real", "--data-dir=data", "--unsafe-no-fsync",
			"--listen-client-urls=" + e.Endpoint, "--advertise-client-urls=" + e.Endpoint,
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=real=" + peer}
		return e.start(ctx)
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

// Start starts an etcd that was stopped, at the same endpoint and with the same data.
func (e *Etcd) Start(ctx context.Context) error { return e.start(ctx) }

// APIServerOptions say how an API server is started. Dir, and Etcd or ReplicaOf, must be set.
type APIServerOptions struct {
	// Dir is where its certificates, configuration and log go: a new directory, made if need be, of this API server alone.
	Dir  string
	Etcd *Etcd
	// EtcdPrefix is what its keys start with, "/registry" if empty. API servers with different prefixes are different
	// clusters, though they share one etcd.
	EtcdPrefix string
	// ReplicaOf makes it another API server of the same cluster: same etcd and prefix, same cluster CA, service account key
	// and admin token, but its own address, client CAs and flags.
	ReplicaOf *APIServer
	// ClientCAs is the PEM bundle whose CAs may sign client certificates, to the byte. If empty, it is the cluster CA alone,
	// because no API server starts with an empty bundle. See [APIServer.SetClientCA].
	ClientCAs []byte
	// Files are written to Dir before the start, under their names, so that Flags can name them: an audit policy, a webhook's
	// kubeconfig, an authorization configuration.
	Files map[string][]byte
	// Flags are added to the command line. "--audit-policy-file=policy.yaml" finds policy.yaml among Files, since the server
	// runs in Dir. "--authorization-config=..." replaces the default, RBAC alone.
	Flags []string
}

// An APIServer is a running kube-apiserver with RBAC, and no controllers: nothing deletes what belonged to a deleted object
// and nothing runs a pod. URL is stable over Stop and Start.
type APIServer struct {
	Process
	URL        string // https://127.0.0.1:port
	CACert     string // file with the cluster CA, which its serving certificate is from
	ClusterCA  *CA    // in a real cluster also the CA of kubelets and of kubeadm's admin.conf
	AdminToken string // a bearer token of a user in system:masters

	options    APIServerOptions
	saKey      []byte
	httpClient *http.Client
}

// StartAPIServer starts an API server and returns when it is ready and the default namespace exists. ctx limits the start
// only.
func (b Binaries) StartAPIServer(ctx context.Context, o APIServerOptions) (*APIServer, error) {
	path, err := b.path(KubeAPIServer)
	if err != nil {
		return nil, err
	}
	a := &APIServer{Process: Process{component: KubeAPIServer, path: path, dir: o.Dir}, options: o,
		CACert: filepath.Join(o.Dir, "ca.crt")}
	a.ready = a.isReady
	if err := a.prepare(); err != nil {
		return nil, fmt.Errorf("preparing kube-apiserver's directory: %w", err)
	}
	err = withFreePorts(1, func(ports []int) error {
		a.URL = "https://" + hostPort(ports[0])
		if err := a.WriteKubeconfig(a.AdminKubeconfig(), Credentials{Token: a.AdminToken}); err != nil {
			return err
		}
		a.args = []string{
			"--etcd-servers=" + a.options.Etcd.Endpoint, "--etcd-prefix=" + a.options.EtcdPrefix,
			"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", ports[0]),
			"--tls-cert-file=server.crt", "--tls-private-key-file=server.key", "--client-ca-file=client-ca.crt",
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file=sa.key", "--service-account-signing-key-file=sa.key",
			"--token-auth-file=tokens.csv", "--service-cluster-ip-range=10.0.0.0/24",
			// A loopback address cannot be published as the endpoint of the kubernetes service, and nobody looks for it.
			"--endpoint-reconciler-type=none",
		}
		if !strings.Contains(strings.Join(o.Flags, " "), "--authorization-") {
			a.args = append(a.args, "--authorization-mode=RBAC")
		}
		a.args = append(a.args, o.Flags...)
		return a.start(ctx)
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// prepare settles what the cluster is and writes every file that does not depend on the port.
func (a *APIServer) prepare() error {
	var err error
	if first := a.options.ReplicaOf; first != nil {
		a.options.Etcd, a.options.EtcdPrefix = first.options.Etcd, first.options.EtcdPrefix
		a.ClusterCA, a.saKey, a.AdminToken = first.ClusterCA, first.saKey, first.AdminToken
	} else {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return err
		}
		if a.saKey, err = encodeKey(key); err != nil {
			return err
		}
		if a.ClusterCA, err = NewCA("real cluster CA"); err != nil {
			return err
		}
		a.AdminToken = rand.Text()
	}
	if a.options.Etcd == nil {
		return errors.New("an API server needs an Etcd, or another one to be a ReplicaOf")
	}
	if a.options.EtcdPrefix == "" {
		a.options.EtcdPrefix = "/registry"
	}
	a.httpClient = a.ClusterCA.httpClient()
	if err = a.ClusterCA.writeServing(a.dir, "kube-apiserver"); err != nil {
		return err
	}
	files := map[string][]byte{
		"sa.key":        a.saKey,
		"tokens.csv":    []byte(a.AdminToken + `,real:admin,real:admin,"system:masters"` + "\n"),
		"client-ca.crt": a.options.ClientCAs,
	}
	if len(a.options.ClientCAs) == 0 {
		files["client-ca.crt"] = a.ClusterCA.CertPEM
	}
	maps.Copy(files, a.options.Files)
	return writeFiles(a.dir, files)
}

func (a *APIServer) isReady(ctx context.Context) error {
	// The system namespaces are made in the background, the default one last.
	for _, path := range []string{"/readyz", "/api/v1/namespaces/default"} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.URL+path, nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+a.AdminToken)
		resp, err := a.httpClient.Do(req)
		if err != nil {
			return err
		}
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 512)) // only to say what is not ready
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s: %s", path, resp.Status, body)
		}
	}
	return nil
}

// Start starts an API server that was stopped, at the same address and with the client CAs it had last.
func (a *APIServer) Start(ctx context.Context) error { return a.start(ctx) }

// Restart kills the API server and starts it again.
func (a *APIServer) Restart(ctx context.Context) error {
	a.Stop()
	return a.start(ctx)
}

// AdminKubeconfig is a kubeconfig file for a user in system:masters.
func (a *APIServer) AdminKubeconfig() string { return filepath.Join(a.dir, "admin.kubeconfig") }

// ClientCAFile is the bundle file that the API server reads the CAs of client certificates from.
func (a *APIServer) ClientCAFile() string { return filepath.Join(a.dir, "client-ca.crt") }

// SetClientCA replaces the bundle of CAs that may sign client certificates, to the byte and in one step, as an operator
// should. The API server notices within a second as a rule and within a minute at the latest, and keeps the old bundle if
// the new one is no good; a test polls for the effect.
func (a *APIServer) SetClientCA(bundle []byte) error {
	tmp := a.ClientCAFile() + ".new"
	if err := os.WriteFile(tmp, bundle, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, a.ClientCAFile())
}

// Credentials are how a kubeconfig's user proves who it is: with a bearer token or with a certificate and its key.
type Credentials struct {
	Token           string
	CertPEM, KeyPEM []byte
}

// WriteKubeconfig writes a kubeconfig for this API server, with nothing but inline data in it, to the file path.
func (a *APIServer) WriteKubeconfig(path string, c Credentials) error {
	user := map[string]any{"token": c.Token}
	if c.Token == "" {
		user = map[string]any{"client-certificate-data": c.CertPEM, "client-key-data": c.KeyPEM}
	}
	// JSON is YAML, and it writes bytes as base64, which is what these fields hold.
	config, err := json.MarshalIndent(map[string]any{
		"apiVersion": "v1",
		"kind":       "Config",
		"clusters": []any{map[string]any{"name": "real", "cluster": map[string]any{"server": a.URL,
			"certificate-authority-data": a.ClusterCA.CertPEM}}},
		"users":           []any{map[string]any{"name": "real", "user": user}},
		"contexts":        []any{map[string]any{"name": "real", "context": map[string]any{"cluster": "real", "user": "real"}}},
		"current-context": "real",
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, config, 0o600)
}

// A Controller is a running kube-controller-manager.
type Controller struct{ Process }

// StartController starts kube-controller-manager against a with the named controllers only, such as
// "certificatesigningrequest-signing-controller", which signs with a's cluster CA: for such certificates to be accepted
// that CA must be among the client CAs. ctx limits the start only.
func (b Binaries) StartController(ctx context.Context, a *APIServer, controllers ...string) (*Controller, error) {
	path, err := b.path(ControllerManager)
	if err != nil {
		return nil, err
	}
	key, err := encodeKey(a.ClusterCA.Key)
	if err != nil {
		return nil, err
	}
	if err := writeFiles(a.dir, map[string][]byte{"ca.key": key}); err != nil {
		return nil, err
	}
	c := &Controller{Process{component: ControllerManager, path: path, dir: a.dir, args: []string{
		"--kubeconfig=admin.kubeconfig", "--controllers=" + strings.Join(controllers, ","), "--leader-elect=false",
		"--secure-port=0", "--cluster-signing-cert-file=ca.crt", "--cluster-signing-key-file=ca.key"}}}
	// It serves no health check on no port. What its controllers act on is what they read from the API server at the start.
	c.ready = func(context.Context) error { return c.printed("Caches are synced") }
	if err := c.start(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// Kubectl runs kubectl with the kubeconfig and returns what it printed. err is not nil when it exits with anything but 0,
// and then holds what it printed to stderr.
func (b Binaries) Kubectl(ctx context.Context, kubeconfig string, args ...string) (stdout, stderr string, err error) {
	path, err := b.path(KubeCtl)
	if err != nil {
		return "", "", err
	}
	dir := filepath.Dir(kubeconfig)
	cmd := exec.CommandContext(ctx, path, append([]string{"--kubeconfig=" + kubeconfig, "--cache-dir=" + filepath.Join(dir, "kubectl-cache")},
		args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err = cmd.Run(); err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), errOut.String(), err
}

// WriteWithKubeadm has kubeadm write into dir, which must exist, what it makes for the first machine of a control plane with nothing
// configured but an address: in pki all keys and certificates, beside it the kubeconfigs, and in manifests the static pods. Nothing is
// started, and nothing outside of dir is touched.
func (b Binaries) WriteWithKubeadm(ctx context.Context, dir string) error {
	path, err := b.path(KubeAdm)
	if err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	pki, manifests := filepath.Join(dir, "pki"), filepath.Join(dir, "manifests")
	config, err := json.Marshal(map[string]any{"apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "InitConfiguration",
		"localAPIEndpoint": map[string]any{"advertiseAddress": "192.0.2.10"},
		"nodeRegistration": map[string]any{"name": "cp1", "criSocket": "unix:///run/containerd/containerd.sock"}})
	if err != nil {
		return err
	}
	cluster, err := json.Marshal(map[string]any{"apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "ClusterConfiguration",
		"kubernetesVersion": "v" + KubernetesVersion(), "certificatesDir": pki})
	if err != nil {
		return err
	}
	if err := writeFiles(dir, map[string][]byte{"kubeadm.yaml": fmt.Appendf(nil, "%s\n---\n%s\n", config, cluster)}); err != nil {
		return err
	}
	for _, phase := range [][]string{{"certs", "all"}, {"kubeconfig", "all", "--kubeconfig-dir=" + dir},
		// Where static pods are written is not configurable, but for a dry run.
		{"etcd", "local", "--dry-run"}, {"control-plane", "all", "--dry-run"}} {
		cmd := exec.CommandContext(ctx, path, append(append([]string{"init", "phase"}, phase...), "--config="+
			filepath.Join(dir, "kubeadm.yaml"))...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "KUBEADM_INIT_DRYRUN_DIR=" + manifests}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("kubeadm init phase %s: %w: %s", strings.Join(phase, " "), err, tail(out))
		}
	}
	return nil
}
