package vaultca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/real"
)

const group = "breakglass:cluster-admins"

// shared is the programs, a Vault (or OpenBao) that setup.sh has set up and of which others are copies, and one copy for the tests that
// change nothing in it that another test looks at.
var shared struct {
	server   real.Component
	bins     real.Binaries
	template *real.Vault
	made     string // what setup.sh printed for the template
	secret   []byte // the secret id that it made
	vault    *real.Vault
}

// TestMain runs all tests on each server that the line of versions in use has: on Vault, and with BREAKGLASS_REAL=oldest on OpenBao too.
func TestMain(m *testing.M) {
	code := 0
	for _, server := range real.PKIServers() {
		dir, err := os.MkdirTemp("", "vaultca")
		if err != nil {
			log.Fatal(err)
		}
		if err := prepare(context.Background(), server, dir); err != nil {
			log.Fatal(err)
		}
		log.Printf("the tests that follow run on %s", server)
		code = max(code, m.Run())
		shared.vault.Stop()
		_ = os.RemoveAll(dir) // a leftover directory does no harm
	}
	os.Exit(code)
}

func prepare(ctx context.Context, server real.Component, dir string) (err error) {
	shared.server = server
	if shared.bins, err = real.Build(ctx, log.Printf, server); err != nil {
		return err
	}
	if shared.template, err = shared.bins.StartVault(ctx, real.VaultOptions{Dir: filepath.Join(dir, "template"),
		Persistent: true, Server: server}); err != nil {
		return err
	}
	secret := filepath.Join(dir, "secret-id")
	if shared.made, err = script(shared.template, dir, worldArgs("pki/bg", "breakglassd-test", secret, dir)...); err != nil {
		return fmt.Errorf("setup.sh: %w: %s", err, shared.made)
	}
	if shared.secret, err = os.ReadFile(secret); err != nil {
		return err
	}
	shared.template.Stop()
	shared.vault, err = shared.bins.StartVault(ctx, real.VaultOptions{Dir: filepath.Join(dir, "shared"), CopyOf: shared.template})
	return err
}

// A world is a Vault set up by the shipped script, and the configuration that the script tells to use.
type world struct {
	vault *real.Vault
	root  *api.Client
	cfg   Config
	mount Mount
	log   *bytes.Buffer
}

var worlds atomic.Int64

// script runs deploy/vault/setup.sh with the client of the server in use: vault, or bao alone.
func script(v *real.Vault, home string, args ...string) (string, error) {
	cmd := exec.Command("/bin/sh", append([]string{"../../deploy/vault/setup.sh"}, args...)...)
	cmd.Env = []string{"PATH=" + filepath.Dir(shared.bins[shared.server]) + ":/usr/bin:/bin", "HOME=" + home,
		"VAULT_ADDR=" + v.Addr, "VAULT_CACERT=" + v.CACert, "VAULT_TOKEN=" + v.RootToken}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func fact(t testing.TB, out, name string) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^\s*` + name + `\s+(\S+)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("setup.sh printed no %q:\n%s", name, out)
	}
	return m[1]
}

func worldArgs(mount, policy, secret, out string) []string {
	return []string{"--mount", mount, "--group", group, "--max-ttl", "1h", "--policy", policy, "--approle-name", policy, "--secret-id-file",
		secret, "--out", out}
}

// sharedWorld is for tests that change nothing but by signing. Its log is their own.
func sharedWorld(t testing.TB) *world {
	t.Helper()
	return worldIn(t, shared.vault)
}

// newWorld is a Vault of the test's own, set up by the script.
func newWorld(t testing.TB) *world {
	t.Helper()
	return worldIn(t, newVault(t, real.VaultOptions{}))
}

// worldIn is the world of a Vault that is a copy of the template.
func worldIn(t testing.TB, v *real.Vault) *world {
	t.Helper()
	secret := filepath.Join(t.TempDir(), "secret-id")
	if err := os.WriteFile(secret, shared.secret, 0o600); err != nil {
		t.Fatal(err)
	}
	return worldOf(t, v, shared.made, "pki/bg", "breakglassd-test", secret)
}

// scriptWorld runs the script once more in the shared Vault, with more arguments, for a mount, a policy and an AppRole beside
// those that are there.
func scriptWorld(t testing.TB, more ...string) *world {
	t.Helper()
	dir, n := t.TempDir(), worlds.Add(1)
	mount, policy, secret := fmt.Sprintf("pki/bg-%d", n), fmt.Sprintf("breakglassd-%d", n), filepath.Join(dir, "secret-id")
	out, err := script(shared.vault, dir, append(worldArgs(mount, policy, secret, dir), more...)...)
	if err != nil {
		t.Fatalf("setup.sh: %v\n%s", err, out)
	}
	return worldOf(t, shared.vault, out, mount, policy, secret)
}

func worldOf(t testing.TB, v *real.Vault, made, mount, policy, secret string) *world {
	t.Helper()
	root, err := v.Client()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{vault: v, root: root, log: new(bytes.Buffer)}
	w.mount = Mount{Cluster: "prod", Path: mount, IssuerID: fact(t, made, "issuer"), MaxTTL: time.Hour, Groups: []string{group}}
	w.cfg = Config{Address: v.Addr, CAFile: v.CACert, Policy: policy, Mounts: []Mount{w.mount}, Log: slog.New(slog.NewTextHandler(w.log, nil)),
		Auth:    Auth{Method: AuthAppRole, RoleID: fact(t, made, "role id"), SecretIDFile: secret},
		Timeout: 30 * time.Second, SignTimeout: 30 * time.Second} // Vault shares a busy machine's cores with the tests
	return w
}

func (w *world) open(t testing.TB, change ...func(*Config)) *CA {
	t.Helper()
	cfg := w.cfg
	for _, f := range change {
		f(&cfg)
	}
	c, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// token makes a token as an operator would for the token file.
func (w *world) token(t testing.TB, settings map[string]any) string {
	t.Helper()
	body := map[string]any{"policies": []string{w.cfg.Policy}, "no_default_policy": true, "period": "30m"}
	for k, v := range settings {
		body[k] = v
	}
	s, err := w.root.Logical().Write("auth/token/create-orphan", body)
	if err != nil {
		t.Fatal(err)
	}
	return s.Auth.ClientToken
}

func (w *world) write(t testing.TB, path string, data map[string]any) {
	t.Helper()
	if _, err := w.root.Logical().Write(path, data); err != nil {
		t.Fatalf("writing %s: %v", path, err)
	}
}

func tokenFile(t testing.TB, token string) (func(*Config), string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(c *Config) { c.Auth = Auth{Method: AuthTokenFile, TokenFile: file} }, file
}

func newCSR(t testing.TB) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "ignored"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

var orders atomic.Int64

func newOrder(t testing.TB, group string) breakglass.Order {
	id := fmt.Sprintf("bg-%06d", orders.Add(1))
	return breakglass.Order{Request: id, Cluster: "prod", Group: group, CommonName: breakglass.CommonName("alice", id), CSR: newCSR(t),
		TTL: 15 * time.Minute}
}

// mustSign orders a certificate and checks it the way the service does.
func mustSign(t testing.TB, c *CA, o breakglass.Order) breakglass.Signed {
	t.Helper()
	asked := time.Now()
	if err := c.Check(t.Context(), o.Cluster, o.Group); err != nil {
		t.Fatalf("Check: %v", err)
	}
	s, err := c.Sign(t.Context(), o)
	if err != nil {
		t.Fatalf("Sign: %v", err)
	}
	csr, err := x509.ParseCertificateRequest(o.CSR)
	if err != nil {
		t.Fatal(err)
	}
	bad := breakglass.CheckCertificate(s, breakglass.Intent{CommonName: o.CommonName, Group: o.Group,
		SPKI: breakglass.SPKI(csr.RawSubjectPublicKeyInfo),
		TTL:  o.TTL, Issuer: s.Issuer, Now: time.Now(), Asked: asked})
	if len(bad) > 0 {
		t.Fatalf("the certificate is not what was ordered: %q", bad)
	}
	return s
}

func wantFound(t testing.TB, c *CA, o breakglass.Order, want int) {
	t.Helper()
	found, err := c.Find(t.Context(), o.Cluster, o.CommonName)
	if err != nil {
		t.Fatalf("Find: %v", err)
	}
	if len(found) != want {
		t.Fatalf("Find(%s) = %d certificates, want %d", o.CommonName, len(found), want)
	}
}

func wantError(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error = %q, want it to say %q", err, w)
		}
	}
}

// A middle stands between the daemon and a Vault without TLS, and may do as it likes with the answers to signing calls.
type middle struct {
	addr   string
	signs  atomic.Int64
	others atomic.Int64
	answer atomic.Pointer[func(w http.ResponseWriter, good []byte)] // what becomes of the complete answer to a signing call
	before atomic.Pointer[func()]                                   // called before any other call is passed on
}

func newMiddle(t testing.TB, v *real.Vault) *middle {
	t.Helper()
	m := new(middle)
	to := &http.Transport{MaxIdleConnsPerHost: 16}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sign := strings.Contains(r.URL.Path, "/sign/")
		if sign {
			m.signs.Add(1)
		} else {
			m.others.Add(1)
			if f := m.before.Load(); f != nil {
				(*f)()
			}
		}
		out := r.Clone(context.WithoutCancel(r.Context())) // what Vault was sent, it does, whether or not the caller still waits
		out.URL.Scheme, out.URL.Host = "http", strings.TrimPrefix(v.Addr, "http://")
		out.RequestURI = ""
		resp, err := to.RoundTrip(out)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer resp.Body.Close()
		if f := m.answer.Load(); sign && f != nil {
			good, err := httputil.DumpResponse(resp, true)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			(*f)(w, good)
			return
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body) // if this fails the caller is gone
	})}
	l := mustListen(t)
	go srv.Serve(l) // ends with Close
	t.Cleanup(func() { srv.Close(); to.CloseIdleConnections() })
	m.addr = "http://" + l.Addr().String()
	return m
}

// raw sends bytes as they are and closes the connection, by FIN or by RST.
func raw(w http.ResponseWriter, text []byte, reset bool) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	_, _ = conn.Write(text)
	if reset {
		setLinger(conn)
	}
	conn.Close()
}

func plainVault(t testing.TB) *real.Vault {
	t.Helper()
	return newVault(t, real.VaultOptions{Plain: true})
}

// newVault is a copy of the template.
func newVault(t testing.TB, o real.VaultOptions) *real.Vault {
	t.Helper()
	o.Dir, o.CopyOf = t.TempDir(), shared.template
	v, err := shared.bins.StartVault(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Stop)
	return v
}

// raw HTTP with a token, as a thief would.
func (w *world) http(t testing.TB, token, method, path string, body any) (int, string) {
	t.Helper()
	c, err := w.vault.ClientWithToken(token)
	if err != nil {
		t.Fatal(err)
	}
	r := c.NewRequest(method, "/v1/"+path)
	if body != nil {
		if err := r.SetJSONBody(body); err != nil {
			t.Fatal(err)
		}
	}
	if method == http.MethodPatch {
		r.Headers.Set("Content-Type", "application/merge-patch+json")
	}
	resp, err := c.RawRequestWithContext(t.Context(), r)
	var re *api.ResponseError
	if errors.As(err, &re) {
		return re.StatusCode, strings.Join(re.Errors, "; ")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func certificateIn(t testing.TB, body string) *x509.Certificate {
	t.Helper()
	var a answer
	if err := json.Unmarshal([]byte(body), &a); err != nil {
		t.Fatal(err)
	}
	cert, err := oneCertificate(a.text("certificate"))
	if err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return cert
}
