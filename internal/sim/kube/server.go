// Package kubesim is the small Kubernetes API endpoint of breakglassd dev: one process, no etcd, no cluster.
//
// It exists so that a person can try the whole of break-glass on a laptop with the real kubectl, and so that tests can
// place a fault at an exact request. What decides whether a break-glass certificate works is done as kube-apiserver
// does it: the TLS handshake only asks for a certificate; every HTTP request verifies it again, against the client-CA
// bundle of that moment and the clock of that moment; the last CN is the user and every O a group; and RBAC is
// evaluated from the bindings and roles of that moment. So a deleted binding, a removed CA and a passed NotAfter bite on
// the next request of an open connection. The order is kube-apiserver's too: authenticate (401), authorise (403), serve.
//
// What it leaves out, on purpose: updates, patches and watches (405), exec and logs (404), impersonation (403), admission,
// OpenAPI (so kubectl create -f wants --validate=false), aggregated discovery (clients fall back to the plain form),
// protobuf answers (406 if nothing else is accepted; protobuf bodies are read), audit, and RBAC's escalation check: whoever
// may create a binding may bind any role here, whereas a real API server also wants the verb "bind" on the role.
// Everything is in memory and gone when the process ends. TestAnswersLikeKubeAPIServer compares the rest with a real one.
package kubesim

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Config says what the endpoint trusts and knows at its start.
type Config struct {
	// Addr is the address to listen on; empty means a free port on 127.0.0.1.
	Addr string
	// ClientCAPEM is the client-CA bundle. It may be empty, and then no certificate is accepted until SetClientCAPEM.
	ClientCAPEM []byte
	// Tokens are the static bearer tokens.
	Tokens []Token
	// Namespaces exist besides default and kube-system.
	Namespaces []string
	// Log gets requests at Debug and refused credentials, with the reason that the caller is not told, at Info.
	// Nil means no log.
	Log *slog.Logger
	// Observe, if set, is called with each authenticated request and its HTTP status before the answer is written.
	// It may be called from several goroutines at once.
	Observe func(c Call, code int)
}

// Token is one static bearer token and what it stands for.
type Token struct {
	Value  string
	User   string
	Groups []string // system:authenticated is added
	// Rules are bound to User cluster-wide, as a ClusterRole and ClusterRoleBinding named after User.
	Rules []rbacv1.PolicyRule
}

// Call is one request as the authoriser sees it.
type Call struct {
	User authenticationv1.UserInfo
	// Verb is Kubernetes' verb (get, list, watch, create, update, patch, delete, deletecollection); for a path that is
	// not a resource, the HTTP method in lower case.
	Verb string
	// Group and the fields after it are empty, as in RBAC, where they do not apply. Resource is empty for a path that
	// is not a resource.
	Group, Version, Resource, Subresource, Namespace, Name string
	Path                                                   string
	// URI is the path with the query, and Remote the caller's address.
	URI, Remote string
}

// Fault is what SetFault's hook does to one request.
type Fault int

// The faults. Applied means that the request took its whole effect; the caller just never learns it.
const (
	NoFault       Fault = iota
	Fail                // 500; not applied
	ApplyThenFail       // 500; applied
	Hang                // no answer until the caller gives up; not applied
	ApplyThenHang       // no answer until the caller gives up; applied
)

// Server is a running endpoint. All methods may be called from several goroutines at once.
type Server struct {
	// URL is where it listens, as in https://127.0.0.1:41234. It does not change.
	URL string

	cfg     Config
	caPEM   []byte
	tls     *tls.Config
	http    *http.Server
	served  chan struct{} // closed when the accept loop has ended
	closed  func() bool   // takes back the hook on Start's context
	down    atomic.Bool
	fault   atomic.Pointer[func(Call) Fault]
	clients atomic.Pointer[x509.CertPool]
	kinds   []kind

	mu      sync.RWMutex                         // guards the two fields below, for the length of one lookup or change
	objects map[string]map[string]runtime.Object // resource name → "namespace/name" → object, never modified once in here
	version uint64                               // the last resourceVersion given out
}

// Start listens and serves until ctx ends or Close is called.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, kinds: kinds(), objects: map[string]map[string]runtime.Object{}, served: make(chan struct{})}
	s.clients.Store(x509.NewCertPool())
	if len(cfg.ClientCAPEM) > 0 {
		if err := s.SetClientCAPEM(cfg.ClientCAPEM); err != nil {
			return nil, err
		}
	}
	now := time.Now().UTC()
	start := startObjects(cfg, now)
	for _, k := range s.kinds {
		for _, o := range start[k.resource] {
			s.put(k, o)
		}
	}

	listener, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("listening for the simulated Kubernetes API on %s: %w", cfg.Addr, err)
	}
	ip := listener.Addr().(*net.TCPAddr).IP
	if ip.IsUnspecified() {
		ip = net.IPv4(127, 0, 0, 1)
	}
	cert, err := servingCertificate(ip, now)
	if err != nil {
		listener.Close()
		return nil, fmt.Errorf("making the serving certificate of the simulated Kubernetes API: %w", err)
	}
	s.caPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})
	s.URL = fmt.Sprintf("https://%s", net.JoinHostPort(ip.String(), fmt.Sprint(listener.Addr().(*net.TCPAddr).Port)))
	s.tls = &tls.Config{
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.RequestClientCert,
	}
	s.tls.GetConfigForClient = s.tlsConfig
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		TLSConfig:         s.tls,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	go func() {
		defer close(s.served)
		if err := s.http.ServeTLS(gate{listener, &s.down}, "", ""); !errors.Is(err, http.ErrServerClosed) {
			cfg.Log.Error("simulated Kubernetes API stopped", slog.Any("error", err))
		}
	}()
	s.closed = context.AfterFunc(ctx, func() { s.http.Close() })
	return s, nil
}

// Close stops the endpoint and drops every connection. It may be called more than once.
func (s *Server) Close() error {
	s.closed()
	err := s.http.Close()
	<-s.served
	return err
}

// CAPEM returns the CA that callers must trust to reach URL.
func (s *Server) CAPEM() []byte { return s.caPEM }

// SetClientCAPEM replaces the client-CA bundle, from the next request on, also on connections that are open. As with
// kube-apiserver's --client-ca-file, a bundle without a certificate is refused and the old one stays.
func (s *Server) SetClientCAPEM(bundle []byte) error {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(bundle) {
		return errors.New("replacing the client-CA bundle: it holds no PEM certificate; the old bundle stays")
	}
	s.clients.Store(pool)
	return nil
}

// Kubeconfig returns a kubeconfig for this endpoint that signs in with token, or with nothing if token is empty.
func (s *Server) Kubeconfig(token string) ([]byte, error) {
	const name = "breakglass-dev"
	c := clientcmdapi.NewConfig()
	c.Clusters[name] = &clientcmdapi.Cluster{Server: s.URL, CertificateAuthorityData: s.caPEM}
	c.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: token}
	c.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	c.CurrentContext = name
	return clientcmd.Write(*c)
}

// SetDown makes the endpoint look dead (true) or alive again: new connections are closed before the handshake and a
// request on an open one is cut off without an answer and without effect.
func (s *Server) SetDown(down bool) { s.down.Store(down) }

// SetFault installs a hook that is asked about every authenticated request before it is authorised. Nil takes it away.
// The hook may be called from several goroutines at once.
func (s *Server) SetFault(hook func(Call) Fault) {
	if hook == nil {
		s.fault.Store(nil)
		return
	}
	s.fault.Store(&hook)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if s.down.Load() {
		panic(http.ErrAbortHandler) // net/http cuts the connection (HTTP/2: the stream) without an answer
	}
	r.Body = http.MaxBytesReader(w, r.Body, 3<<20) // kube-apiserver's limit for a request body

	user, err := s.authenticate(r)
	if err != nil {
		s.cfg.Log.InfoContext(r.Context(), "credentials refused", slog.String("path", r.URL.Path), slog.Any("reason", err))
	}
	if r.ProtoMajor == 2 && (err != nil || user.Username == anonymous) {
		w.Header().Set("Connection", "close") // as kube-apiserver: no HTTP/2 connection is kept open for a stranger
	}
	if err != nil {
		write(w, status(apierrors.NewUnauthorized("Unauthorized")))
		return
	}
	call := callOf(r)
	call.User, call.URI = user, r.URL.RequestURI()
	call.Remote, _, _ = net.SplitHostPort(r.RemoteAddr) // net/http's form; another one has no address to tell

	fault := NoFault
	if hook := s.fault.Load(); hook != nil {
		fault = (*hook)(call)
	}
	var a answer
	switch fault {
	case NoFault, ApplyThenFail, ApplyThenHang:
		a = s.handle(call, r)
	case Fail, Hang:
	}
	switch fault {
	case NoFault:
	case Fail, ApplyThenFail:
		a = status(apierrors.NewInternalError(errors.New("fault injected by a test")))
	case Hang, ApplyThenHang:
		_, _ = io.Copy(io.Discard, r.Body) // HTTP/1 notices that the caller has gone only once the body is read
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	}
	if s.cfg.Observe != nil {
		s.cfg.Observe(call, a.code)
	}
	s.cfg.Log.DebugContext(r.Context(), "request", slog.String("user", user.Username), slog.String("verb", call.Verb),
		slog.String("path", r.URL.Path), slog.Int("code", a.code))
	write(w, a)
}

// answer is what a request is answered with: body is a string (sent as text) or something to send as JSON.
type answer struct {
	code int
	body any
}

func status(err *apierrors.StatusError) answer {
	err.ErrStatus.Kind, err.ErrStatus.APIVersion = "Status", "v1"
	return answer{int(err.ErrStatus.Code), &err.ErrStatus}
}

func write(w http.ResponseWriter, a answer) {
	w.Header().Set("Cache-Control", "no-cache, private")
	if text, ok := a.body.(string); ok {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(a.code)
		_, _ = io.WriteString(w, text) // the caller has gone
		return
	}
	body, err := json.Marshal(a.body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(a.code)
	w.Write(append(body, '\n'))
}

// tlsConfig is asked at each handshake. It names the client CAs of this moment to the caller, as kube-apiserver does:
// many TLS clients send a certificate only if its issuer is named, and then arrive as system:anonymous (403) instead of
// with a certificate that is refused (401). client-go and kubectl send theirs in any case.
func (s *Server) tlsConfig(*tls.ClientHelloInfo) (*tls.Config, error) {
	c := s.tls.Clone()
	c.GetConfigForClient = nil
	c.ClientCAs = s.clients.Load()
	return c, nil
}

// gate closes new connections while down is set.
type gate struct {
	net.Listener
	down *atomic.Bool
}

func (g gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil || !g.down.Load() {
			return conn, err
		}
		conn.Close()
	}
}

// servingCertificate makes a self-signed certificate for ip and localhost. It is its own CA, so the certificate is also
// what callers trust, and its key exists only in this process.
func servingCertificate(ip net.IP, now time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "breakglassd dev simulated kube-apiserver"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(1, 0, 0),
		DNSNames:              []string{"localhost"},
		IPAddresses:           []net.IP{ip, net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
