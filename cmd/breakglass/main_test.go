package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/cli/terminal"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/real"
	"github.com/breakglassd/breakglass/internal/text"
)

func TestMain(m *testing.M) {
	program := func() { // with CLOCK_AHEAD on a machine whose clock is wrong
		ahead, _ := time.ParseDuration(os.Getenv("CLOCK_AHEAD")) // unset: by nothing
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		context.AfterFunc(ctx, stop)
		os.Exit(run(ctx, os.Args, func() time.Time { return time.Now().Add(ahead) }))
	}
	testscript.Main(m, map[string]func(){"breakglass": program, "kubectl-breakglass": program})
}

// world is what stands behind one script: a whole daemon on a real port, with a place to lie in between.
type world struct {
	sys  *bgtest.System
	addr string
	down func()
	lie  atomic.Pointer[string]
	// after is set for scripts about what follows a grant.
	after *after
	// cluster is set for scripts about what a cluster says of a new certificate: an API server, as far as a claim asks one.
	cluster *httptest.Server
	says    atomic.Pointer[string]
	policy  string // the access policy on disk, in scripts that change it
}

func TestScripts(t *testing.T) {
	unagreed, vkey := unagreedExport(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			t, ok := env.T().(testing.TB)
			if !ok {
				return fmt.Errorf("no testing.TB")
			}
			w := &world{}
			options := bgtest.Options{}
			if strings.Contains(filepath.Base(env.WorkDir), "after") {
				w.after = newAfter()
				options.Policy = bgtest.Policy() + careful
				// the script says when to look
				options.Config = func(c *bgtest.Config) { c.Prover, c.Examiner, c.Grace = w.after, w.after, time.Hour }
			}
			if strings.Contains(filepath.Base(env.WorkDir), "access") {
				w.cluster = httptest.NewUnstartedServer(http.HandlerFunc(w.review))
				w.cluster.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, ClientCAs: x509.NewCertPool()} // which names no authority
				w.cluster.StartTLS()
				env.Defer(w.cluster.Close)
				options.Policy = strings.ReplaceAll(bgtest.Policy(), "https://127.0.0.1:6443", w.cluster.URL)
				ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.cluster.Certificate().Raw})
				var way breakglass.Way
				if strings.Contains(filepath.Base(env.WorkDir), "proxy") {
					options.Policy = strings.ReplaceAll(bgtest.Policy(), "https://127.0.0.1:6443", "https://"+bgtest.HiddenHost+":6443")
					way.ProxyURL, _ = bgtest.Socks5(t, w.cluster.Listener.Addr().String())
					way.TLSServerName = "example.com" // one of the names in the certificate of httptest
				}
				options.Config = func(c *bgtest.Config) {
					c.ClusterCA = func(string) []byte { return ca }
					c.ClusterWay = func(string) breakglass.Way { return way }
				}
			}
			if strings.Contains(filepath.Base(env.WorkDir), "choice") { // a second cluster, and a profile that is offered on both
				options.Policy = strings.NewReplacer("  - {id: c1,", "  - {id: c2, server: \"https://127.0.0.2:6443\"}\n  - {id: c1,",
					"id: group\n    clusters: [c1]", "id: group\n    clusters: [c1, c2]").Replace(bgtest.Policy())
			}
			if strings.Contains(filepath.Base(env.WorkDir), "agents") { // alice has an RSA key as well
				public, err := rsaKey(filepath.Join(env.WorkDir, "rsa"))
				if err != nil {
					return err
				}
				options.Policy = strings.Replace(bgtest.Policy(), "user: U0ALICE}], keys: [", "user: U0ALICE}], keys: ["+public+", ", 1)
			}
			if strings.Contains(filepath.Base(env.WorkDir), "policy") { // two of alice, bob and dave sign its changes; erin may read it
				w.policy = bgtest.Guarded() + "responders: [security]\n"
				options.Policy = w.policy
				env.Setenv("UNAGREED", unagreed)
				env.Setenv("UNAGREED_VKEY", vkey)
			}
			w.sys = bgtest.New(t, options)
			if err := w.up(); err != nil {
				return err
			}
			env.Defer(func() { w.down() })
			for _, p := range append(bgtest.People, "stranger") {
				block, err := ssh.MarshalPrivateKey(bgtest.PrivateKey(p), p)
				if err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(env.WorkDir, p), pem.EncodeToMemory(block), 0o600); err != nil {
					return err
				}
				pub, err := ssh.NewPublicKey(bgtest.PrivateKey(p).Public())
				if err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(env.WorkDir, p+".pub"), ssh.MarshalAuthorizedKey(pub), 0o600); err != nil {
					return err
				}
			}
			for _, d := range []string{"run", "home"} {
				if err := os.Mkdir(filepath.Join(env.WorkDir, d), 0o700); err != nil {
					return err
				}
			}
			_, other, err := ledger.NewKey(bgtest.Origin)
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(env.WorkDir, "other.pub"), []byte(other+"\n"), 0o600); err != nil {
				return err
			}
			env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
			env.Setenv("XDG_RUNTIME_DIR", filepath.Join(env.WorkDir, "run"))
			env.Setenv("XDG_STATE_HOME", filepath.Join(env.WorkDir, "state"))
			env.Setenv("BREAKGLASS_SERVER", "http://"+w.addr)
			env.Setenv("BREAKGLASS_IDENTITY", "alice")
			env.Setenv("VKEY", w.sys.VKey)
			env.Setenv("SSH_AUTH_SOCK", "")
			env.Values["world"] = w
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits, "await": await, "says": says, "id": id, "lie": tellLies, "down": goDown, "up": comeUp, "agent": startAgent,
			"encrypt": encrypt, "export": export, "flip": flip, "pem-pair": pemPair, "deny": deny, "vault": vault,
			"real-agent": realAgent, "server": server, "leaves": leaves, "found": found, "granted": granted, "cluster": cluster,
			"edit": edit, "digest": digest,
		},
	})
}

// grant makes a grant of alice's, by bob and carol, with a certificate.
func (w *world) grant(profile string) string {
	r := w.sys.Grant("alice", profile)
	_, csr := bgtest.NewCSR()
	if _, err := w.sys.Claim("alice", r.ID, csr); err != nil {
		w.sys.T.Fatal(err)
	}
	return r.ID
}

func worldOf(ts *testscript.TestScript) *world { return ts.Value("world").(*world) }

// review answers the one question that a claim has for a cluster.
func (w *world) review(out http.ResponseWriter, r *http.Request) {
	said := func(code int, text string) {
		out.Header().Set("Content-Type", "application/json")
		out.WriteHeader(code)
		_, _ = io.WriteString(out, text)
	}
	self := func(user string) {
		said(http.StatusCreated,
			fmt.Sprintf(`{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1","status":{"userInfo":{"username":%q}}}`, user))
	}
	forbidden := func(user string) {
		said(http.StatusForbidden, fmt.Sprintf(`{"kind":"Status","status":"Failure","message":%q,"reason":"Forbidden","code":403}`,
			`selfsubjectreviews.authentication.k8s.io is forbidden: User "`+user+`" cannot create resource "selfsubjectreviews"`))
	}
	var sent struct{ APIVersion, Kind string }
	err := json.NewDecoder(r.Body).Decode(&sent)
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/apis/authentication.k8s.io/v1/selfsubjectreviews" ||
		sent.Kind != "SelfSubjectReview" || sent.APIVersion != "authentication.k8s.io/v1" {
		said(http.StatusNotFound, "404 page not found")
		return
	}
	// As an API server does it: by the certificate, if it is of an authority that is trusted.
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.sys.CA.PEM())
	user := "system:anonymous"
	if len(r.TLS.PeerCertificates) > 0 {
		leaf := r.TLS.PeerCertificates[0]
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
			user = leaf.Subject.CommonName
		}
	}
	switch how := *w.says.Load(); how {
	case "trusts":
		self(user)
	case "distrusts":
		said(http.StatusUnauthorized, `{"kind":"Status","status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401}`)
	case "anonymous":
		self("system:anonymous")
	case "forbids-anonymous":
		forbidden("system:anonymous")
	case "another":
		self("front-proxy")
	case "older":
		forbidden(user)
	case "broken":
		said(http.StatusBadGateway, "<html>")
	case "empty":
		said(http.StatusCreated, `{"kind":"SelfSubjectReview"}`)
	case "elsewhere":
		out.Header().Set("Location", r.URL.Path+"?again")
		said(http.StatusTemporaryRedirect, "{}")
	default:
		panic("unknown " + how)
	}
}

// cluster HOW sets what the cluster says of a certificate; cluster closed ends it.
func cluster(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	if args[0] == "closed" {
		w.cluster.Close()
		return
	}
	w.says.Store(&args[0])
}

// up serves the API, behind the liar, on the address of before. No outgoing connection takes that while the server is down.
func (w *world) up() error {
	addr := w.addr
	if addr == "" {
		var err error
		if addr, err = real.FreeAddress(); err != nil {
			return err
		}
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	w.addr = addr
	cfg := api.Config{Service: w.sys.Service, Campaigns: w.sys.Campaigns, Ledger: w.sys.Ledger, LedgerKey: w.sys.VKey,
		URLs: []string{"http://" + w.addr}, Version: "test"}
	if w.after != nil {
		cfg.Sessions, cfg.Importer = w.after, w.after
	}
	h, err := api.NewServer(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: w.liar(h),
		BaseContext: func(net.Listener) context.Context { return ctx }}}
	srv.Start()
	w.down = func() { cancel(); srv.Close() }
	return nil
}

// sign makes a certificate behind the daemon's back, as alice's for the request in a path.
func (w *world) sign(path string, csr []byte) string {
	s, err := w.sys.CA.Sign(context.Background(), breakglass.Order{CommonName: breakglass.CommonName("alice", strings.Split(path, "/")[3]),
		CSR: csr, TTL: time.Minute})
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate}))
}

// liar changes what the server says on its way to the client.
func (w *world) liar(next http.Handler) http.Handler {
	_, otherKey, err := ledger.NewKey(bgtest.Origin)
	if err != nil {
		panic(err)
	}
	return http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		lie := w.lie.Load()
		if lie == nil {
			next.ServeHTTP(out, r)
			return
		}
		request, err := io.ReadAll(r.Body)
		if err != nil {
			panic(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(request))
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		body := rec.Body.String()
		claim, one := strings.HasSuffix(r.URL.Path, "/claim"), strings.HasPrefix(r.URL.Path, "/v1/requests/bg-")
		change := func(field string, f func(string) string) {
			var m map[string]json.RawMessage
			var s string
			if json.Unmarshal([]byte(body), &m) != nil || json.Unmarshal(m[field], &s) != nil {
				return
			}
			m[field], _ = json.Marshal(f(s))
			b, _ := json.Marshal(m)
			body = string(b)
		}
		switch *lie {
		case "proof": // another sibling hash, or with a tree of one leaf another index
			if claim {
				change("proof", func(s string) string {
					lines := strings.SplitN(s, "\n", 4)
					lines[2] = strings.Repeat("A", 43) + "="
					return strings.Join(lines, "\n")
				})
			}
		case "leaf":
			if claim {
				change("issued", func(s string) string { return strings.Replace(s, "A", "B", 1) })
			}
		case "certificate": // of the same name, by the same CA, for another key
			if claim {
				change("certificate", func(string) string {
					_, csr := bgtest.NewCSR()
					block, _ := pem.Decode(csr)
					return w.sign(r.URL.Path, block.Bytes)
				})
			}
		case "twin": // a second certificate for the same key, which no ledger has: what somebody with access to Vault could make
			if claim {
				change("certificate", func(string) string {
					var sent api.CSR
					if err := json.Unmarshal(request, &sent); err != nil {
						panic(err)
					}
					block, _ := pem.Decode([]byte(sent.CSR))
					return w.sign(r.URL.Path, block.Bytes)
				})
			}
		case "index":
			if claim {
				body = strings.ReplaceAll(body, `"ledgerIndex":`, `"ledgerIndex":1`)
			}
		case "server": // the kubeconfig would lead elsewhere
			if claim {
				body = strings.ReplaceAll(body, `"cluster":{"id":"c1","server":"https://127.0.0.1:6443"`,
					`"cluster":{"id":"c1","server":"https://evil.example.com"`)
			}
		case "key":
			if r.URL.Path == "/v1/ledger/key" {
				body = otherKey + "\n"
			}
		case "fork": // its proof of consistency is of something else
			if strings.HasPrefix(r.URL.Path, "/v1/ledger/consistency") {
				body = `{"apiVersion":"breakglass/v1","kind":"Consistency","hashes":[]}`
			}
		case "harmless": // what the approver sees is not what the approver signs
			if one && !strings.Contains(r.URL.Path, "history") {
				body = strings.ReplaceAll(body, `"clusterRole":"cluster-admin"`, `"clusterRole":"view"`)
			}
		case "digest": // the digest is of another request
			if one && !strings.Contains(r.URL.Path, "history") {
				change("digest", func(string) string { return strings.Repeat("0", 64) })
			}
		case "elsewhere": // the kubeconfig would lead elsewhere, and so says everything that the server tells
			body = strings.ReplaceAll(body, `"server":"https://127.0.0.1:6443"`, `"server":"https://evil.example.com"`)
		case "way": // the kubeconfig would lead through another's proxy
			if claim {
				body = regexp.MustCompile(`"proxyUrl":"[^"]*"}`).ReplaceAllString(body, `"proxyUrl":"http://evil.example.com:3128"}`)
				body = regexp.MustCompile(`"proxyUrl":"[^"]*","tlsServerName"`).ReplaceAllString(body,
					`"proxyUrl":"http://evil.example.com:3128","tlsServerName"`)
			}
		case "authority": // whoever answers at the cluster's address is believed
			if claim {
				body = strings.Replace(body, `"ca":"`, `"ca":"# mine\n`, 1)
			}
		case "traverse": // an id that is another file of this machine: what is known of the server
			if r.Method == http.MethodPost && r.URL.Path == "/v1/requests" {
				sum := sha256.Sum256([]byte("http://" + w.addr))
				change("id", func(string) string { return "../../state/breakglass/server-" + hex.EncodeToString(sum[:8]) })
			}
		case "shell": // an id for eval
			if r.Method == http.MethodPost && r.URL.Path == "/v1/requests" {
				change("id", func(string) string { return "bg-$(id)-\x1b[2J" })
			}
		case "another": // an answer about another request
			if one {
				change("id", func(string) string { return "bg-0000-000" })
			}
		case "silent": // the reason is kept back
			if strings.HasSuffix(r.URL.Path, "/history") {
				body = regexp.MustCompile(`"texts":\{"reason":"[^"]*"\}`).ReplaceAllString(body, `"texts":{}`)
			}
		case "older": // no proofs
			if strings.HasSuffix(r.URL.Path, "/history") {
				change("checkpoint", func(string) string { return "" })
			}
		case "escape": // a reason that would rewrite the terminal
			body = strings.ReplaceAll(body, "etcd quorum lost", `\u001b[2J\u001b[Hroot`)
		case "lapsed":
			if one {
				body = strings.ReplaceAll(body, `"state":"pending"`, `"state":"lapsed"`)
			}
		default:
			panic("unknown lie " + *lie)
		}
		for k, v := range rec.Header() {
			out.Header()[k] = v
		}
		out.WriteHeader(rec.Code)
		_, _ = out.Write([]byte(body))
	})
}

// exits CODE COMMAND… runs a command that must end with exactly this code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE command…")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		code = exit.ExitCode()
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// await STATE waits until the newest request is in a state, and sets ID.
func await(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s := worldOf(ts).sys.Service
	for ctx.Err() == nil {
		all, err := s.Since(ctx, 1)
		ts.Check(err)
		if n := len(all); n > 0 && string(all[n-1].State(time.Now())) == args[0] {
			ts.Setenv("ID", all[n-1].ID)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Fatalf("no request became %s", args[0])
}

// says FILE TEXT waits until a program that runs has written a text into a file.
func says(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: says FILE TEXT")
	}
	var text []byte
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if text, _ = os.ReadFile(ts.MkAbs(args[0])); bytes.Contains(text, []byte(args[1])) { // it may not be there yet
			return
		}
	}
	ts.Fatalf("%s does not say %q:\n%s", args[0], args[1], text)
}

// id VARIABLE sets a variable to the id that was printed last on standard output.
func id(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

func tellLies(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		worldOf(ts).lie.Store(nil)
		return
	}
	worldOf(ts).lie.Store(&args[0])
}

func goDown(ts *testscript.TestScript, _ bool, _ []string) { worldOf(ts).down() }

func comeUp(ts *testscript.TestScript, _ bool, _ []string) { ts.Check(worldOf(ts).up()) }

// deny ID has carol deny a request in Slack.
func deny(ts *testscript.TestScript, _ bool, args []string) {
	_, err := worldOf(ts).sys.Service.Deny(context.Background(), bgtest.BySlack("carol"), args[0], "not an emergency")
	ts.Check(err)
}

// vault sealed makes the certificate authority unready; vault open makes it ready again.
func vault(ts *testscript.TestScript, _ bool, args []string) {
	worldOf(ts).sys.CA.OnCheck = func(string, string) error {
		if args[0] == "sealed" {
			return fmt.Errorf("Vault is sealed: unseal it")
		}
		return nil
	}
}

// rsaKey writes a new RSA key, and returns its public key as a policy has it.
func rsaKey(path string) (string, error) {
	key, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		return "", err
	}
	block, err := ssh.MarshalPrivateKey(key, "alice")
	if err != nil {
		return "", err
	}
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return "", err
	}
	return strconv.Quote(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public)))), os.WriteFile(path, pem.EncodeToMemory(block), 0o600)
}

// real-agent starts OpenSSH's agent, without keys.
func realAgent(ts *testscript.TestScript, _ bool, _ []string) {
	program, err := exec.LookPath("ssh-agent")
	if err != nil {
		ts.Fatalf("OpenSSH's ssh-agent is missing: install the Debian package openssh-client, as .ci/run does")
	}
	dir, err := os.MkdirTemp("", "agent") // short: a socket's path has at most 104 bytes
	ts.Check(err)
	socket := filepath.Join(dir, "s")
	cmd := exec.CommandContext(context.Background(), program, "-D", "-a", socket)
	ts.Check(cmd.Start())
	ts.Defer(func() { _ = cmd.Process.Kill(); _ = cmd.Wait(); os.RemoveAll(dir) }) // it ends by nothing else
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			ts.Setenv("SSH_AUTH_SOCK", socket)
			return
		}
	}
	ts.Fatalf("ssh-agent does not listen on %s", socket)
}

// oldAgent takes no notice of the flags that ask for SHA-2.
type oldAgent struct{ agent.Agent }

// agent PERSON… starts an ssh-agent with keys; agent rsa starts an old one with the RSA key in that file.
func startAgent(ts *testscript.TestScript, _ bool, people []string) {
	ring := agent.NewKeyring()
	for _, p := range people {
		if p == "rsa" {
			key, err := ssh.ParseRawPrivateKey([]byte(ts.ReadFile(p)))
			ts.Check(err)
			ts.Check(ring.Add(agent.AddedKey{PrivateKey: key}))
			ring = oldAgent{ring}
			continue
		}
		ts.Check(ring.Add(agent.AddedKey{PrivateKey: bgtest.PrivateKey(p), Comment: p}))
	}
	dir, err := os.MkdirTemp("", "agent") // short: a socket's path has at most 104 bytes
	ts.Check(err)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	ts.Check(err)
	ts.Setenv("SSH_AUTH_SOCK", filepath.Join(dir, "s"))
	ts.Defer(func() { l.Close(); os.RemoveAll(dir) })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(ring, conn); conn.Close() }()
		}
	}()
}

// encrypt FILE PERSON PASSPHRASE writes an encrypted private key.
func encrypt(ts *testscript.TestScript, _ bool, args []string) {
	block, err := ssh.MarshalPrivateKeyWithPassphrase(bgtest.PrivateKey(args[1]), args[1], []byte(args[2]))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), pem.EncodeToMemory(block), 0o600))
}

// export DIR writes an export of the ledger.
func export(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ledger.Export(context.Background(), worldOf(ts).sys.Ledger, ts.MkAbs(args[0])))
}

// flip FILE changes the byte in the middle of a file.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	b, err := os.ReadFile(path)
	ts.Check(err)
	b[len(b)/2] ^= 1
	ts.Check(os.WriteFile(path, b, 0o600))
}

// pem-pair CERT KEY checks that a certificate and a key belong together.
func pemPair(ts *testscript.TestScript, _ bool, args []string) {
	_, err := tls.X509KeyPair([]byte(ts.ReadFile(args[0])), []byte(ts.ReadFile(args[1])))
	ts.Check(err)
}

func TestProgramIsSmallAndKnowsNoClusterAndNoDatabase(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.Lines(string(out)) {
		for _, bad := range []string{"k8s.io/", "modernc.org/", "database/sql", "github.com/hashicorp/", "github.com/slack-go/",
			"github.com/spf13/viper", "github.com/prometheus/", "internal/bgtest"} {
			if strings.Contains(dep, bad) {
				t.Errorf("it depends on %s", dep)
			}
		}
	}
}

func TestConfigurationIsReadStrictly(t *testing.T) {
	good := "server: https://bg.example.com\nidentity: ~/.ssh/id\n"
	if s, err := parseSettings([]byte(good)); err != nil || s.Server != "https://bg.example.com" {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := parseSettings(nil); err != nil {
		t.Errorf("an empty file: %v", err)
	}
	for _, bad := range []string{"servers: x\n", "server: x\n---\nserver: y\n", "server: [a]\n", "server: x\nserver: y\n", "\tserver: x",
		"- server"} {
		if s, err := parseSettings([]byte(bad)); err == nil {
			t.Errorf("%q is read as %+v", bad, s)
		}
	}
}

// Reports are about people: they go to their owner alone, through no file and no link that another has put there, and whole or not at all.
func TestReportsAreWrittenForTheirOwnerAlone(t *testing.T) {
	dir := t.TempDir()
	victim, out := filepath.Join(dir, "victim"), filepath.Join(dir, "report.md")
	for _, f := range []string{victim, out} {
		if err := os.WriteFile(f, []byte("as it was"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(f, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for _, trap := range []string{".part", ".new", ".tmp"} {
		if err := os.Symlink(victim, out+trap); err != nil {
			t.Fatal(err)
		}
	}
	is := func(path, want string, mode os.FileMode) {
		t.Helper()
		b, err := os.ReadFile(path)
		info, serr := os.Lstat(path)
		if err != nil || serr != nil || string(b) != want || info.Mode() != mode {
			t.Errorf("%s: %q, %v, %v, %v", path, b, info.Mode(), err, serr)
		}
	}
	broken := errors.New("broken off")
	err := writeWhole(out, func(w io.Writer) error { _, _ = io.WriteString(w, "half"); return broken })
	if !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	is(out, "as it was", 0o666)
	if err := writeWhole(out, func(w io.Writer) error { _, err := io.WriteString(w, "whole"); return err }); err != nil {
		t.Fatal(err)
	}
	is(out, "whole", 0o600)
	is(victim, "as it was", 0o666)
	if all, err := os.ReadDir(dir); err != nil || len(all) != 5 {
		t.Errorf("%v, %v", all, err)
	}
}

func TestDaysAreRead(t *testing.T) {
	for in, want := range map[string]int{"1d": 1, "30d": 30, "24h": 1, "25h": 2, "90d": 90, "0d": 0, "91d": 0, "-1d": 0, "x": 0, "": 0,
		"9999h": 0} {
		if got, err := parseDays(in); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
}

// The name by which the program was called replaces ours in its commands, and in nothing that is quoted or only looks alike.
func TestCommandsAreShownAsTyped(t *testing.T) {
	a := &app{name: "kubectl breakglass"}
	a.commands = commandsOf(a.command())
	for said, want := range map[string]string{
		"use breakglass approve b":                              "use kubectl breakglass approve b",
		"see: breakglass show --session 'a; breakglass show'":   "see: kubectl breakglass show --session 'a; breakglass show'",
		"kubectl breakglass list, breakglassd doctor":           "kubectl breakglass list, breakglassd doctor",
		`the name "breakglass show x" is taken`:                 `the name "breakglass show x" is taken`,
		"breakglass request '--cluster=breakglass list' …":      "kubectl breakglass request '--cluster=breakglass list' …",
		"the daemon's operator runs it: breakglass ca plan dev": "the daemon's operator runs it: kubectl breakglass ca plan dev",
		"an earlier release of breakglass signs another text":   "an earlier release of breakglass signs another text",
		"the namespace breakglass ns":                           "the namespace breakglass ns",
	} {
		if got := a.asTyped(said); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// What a server names stands in no line that is printed as a flag or as another command.
func TestPrintedLinesTakeNoNameForAFlag(t *testing.T) {
	for _, evil := range []string{"--all", "$(touch pwned)", "a; id", "a\nb", "`id`", "a'b"} {
		var out, said bytes.Buffer
		a := &app{name: "breakglass", out: &out, screen: &terminal.Screen{W: &said}}
		i := &api.CampaignItem{}
		i.ID, i.TakeAway = evil, "kubectl delete x"
		a.howToTakeAway(campaign.VerdictRevoke, i)
		item := "recert ack " + text.Quote("--item="+evil) + "  "
		if !strings.Contains(said.String(), item) {
			t.Errorf("%q: %s, want %s", evil, said.String(), item)
		}
		waits := a.describePolicy(api.Policy{Waiting: &api.PolicyVersion{Digest: evil + " ", Changes: []string{evil}}})
		digest := fmt.Sprintf("%.12s", evil+" ")
		want := "policy approve " + text.Quote(digest)
		if strings.HasPrefix(evil, "-") {
			want = "policy approve -- " + text.Quote(digest)
		}
		if !strings.Contains(waits, want) || strings.Contains(waits, "\nb") {
			t.Errorf("%q: %s, want %s", evil, waits, want)
		}
	}
}

func FuzzSettings(f *testing.F) {
	f.Add([]byte("server: https://bg.example.com\ncaFile: x\nidentity: y\nledgerKey: z\n"))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = parseSettings(b) })
}
