package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/ledger/sqlstore"
	"github.com/breakglassd/breakglass/internal/real"
)

// grant is an approved request made through the API, with the key that may claim it.
type grant struct {
	d      *daemon
	who    string
	id     string
	key    *ecdsa.PrivateKey
	csr    []byte
	cert   string // PEM, after claim
	serial string
}

// grant asks as one person and approves as two others. The lifetime is in seconds.
func (d *daemon) grant(who, profile string, seconds int64) *grant {
	d.t.Helper()
	g := &grant{d: d, who: who}
	g.key, g.csr = bgtest.NewCSR()
	r, err := d.client(who).Request(d.t.Context(), api.Ask{Profile: profile, TTLSeconds: seconds, Reason: "etcd quorum lost, API 5xx"})
	must(d.t, err)
	g.id = r.ID
	for _, p := range []string{"carol", "bob"} {
		_, err := d.client(p).Approve(d.t.Context(), r, "")
		must(d.t, err)
	}
	return g
}

func (g *grant) claim(ctx context.Context) (api.Delivery, error) {
	d, err := g.d.client(g.who).Claim(ctx, g.id, g.csr)
	if err == nil {
		g.cert, g.serial = d.Certificate, d.Request.Certificate.Serial
	}
	return d, err
}

// wait follows the request until it is in a state.
func (g *grant) wait(want breakglass.State) api.Request {
	t := g.d.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := g.d.client("carol")
	r, err := c.Get(ctx, g.id)
	must(t, err)
	if r.State == want {
		return r
	}
	for next, err := range c.Follow(ctx, r) {
		must(t, err)
		if next.State == want {
			return next
		}
	}
	t.Fatalf("request %s did not become %s", g.id, want)
	return api.Request{}
}

// kubeconfig writes one from the claimed certificate.
func (g *grant) kubeconfig() string {
	t := g.d.t
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(g.key)
	must(t, err)
	path := filepath.Join(g.d.dir, g.id+".kubeconfig")
	must(t, shared.kube.WriteKubeconfig(path, real.Credentials{CertPEM: []byte(g.cert),
		KeyPEM: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})}))
	return path
}

// works wants the certificate to be let in. The API server learns of the binding a moment after it was made.
func (g *grant) works() {
	t := g.d.t
	t.Helper()
	eventually(t, "the certificate works", func() bool {
		_, err := kubectl(t, g.kubeconfig(), "get", "namespaces")
		return err == nil
	})
}

// kubectlAdmin is admin without a test, for cleaning up.
func (p *parts) kubectlAdmin(args ...string) {
	_, _, _ = p.bins.Kubectl(context.Background(), p.kube.AdminKubeconfig(), args...)
}

// runDaemon runs a command of breakglassd that ends by itself.
func runDaemon(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), shared.daemon, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// emptyLedger makes a new database beside the old key.
func (d *daemon) emptyLedger() {
	d.t.Helper()
	must(d.t, sqlstore.Create(d.t.Context(), filepath.Join(d.dir, "ledger.db")))
}
