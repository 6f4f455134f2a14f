package vaultca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/text"
	"github.com/breakglassd/breakglass/policies"
)

// Config says where Vault is, who we are there, and which mount signs for which cluster. Address, Auth and Mounts are
// required, and CAFile for https.
type Config struct {
	Address   string // https://vault.example.com:8200; plain http is taken for a loopback address only
	Namespace string // Vault Enterprise; empty: the root namespace
	CAFile    string // PEM of the CAs that may vouch for Vault's address; the system's CAs are not used
	Auth      Auth
	Policy    string // the name under which setup.sh loaded the policy. Default breakglassd
	Mounts    []Mount

	Timeout     time.Duration // of each call but signing. Default 5 s
	SignTimeout time.Duration // of the signing call. Default 15 s
	Log         *slog.Logger
}

// The ways to get a token.
const (
	AuthAppRole   = "approle"
	AuthTokenFile = "token_file"
)

// Auth is how the daemon gets its token. There is no secret in it, only where one is.
type Auth struct {
	Method       string // AuthAppRole or AuthTokenFile
	Mount        string // of the AppRole engine. Default approle
	RoleID       string
	SecretIDFile string // read at every login, so that the secret id can be replaced while the daemon runs
	TokenFile    string // kept up to date by another program, such as Vault Agent; read again when it changes
}

// Mount is the PKI mount of one cluster. Issuers are pinned by id, which Vault never gives to another certificate.
//
// During a rotation two are pinned, so that issuing goes on at the moment when the roles move from one to the other. That is
// not weaker than pinning one: a role may point to either of two certificates that the operator of the daemon wrote down, both
// meant for this cluster, and to nothing else; the issuer it points to is checked like the only one; and what comes back must
// be signed by one of the two. Whoever may change a role in Vault can choose between the two, and gains no name, no right and
// no lifetime by it.
type Mount struct {
	Cluster      string
	Path         string        // pki-prod-eu-1
	IssuerID     string        // as setup.sh printed it
	NextIssuerID string        // the other issuer of a rotation, as `breakglass ca plan` says; empty: there is none
	MaxTTL       time.Duration // the longest lifetime over the cluster's profiles, as given to setup.sh
	Groups       []string      // the groups of the cluster's profiles in group mode; Doctor checks their roles too
}

// pinned is the issuers that may sign, the first one being that of the configuration outside of rotations.
func (m Mount) pinned() []string {
	if m.NextIssuerID == "" {
		return []string{m.IssuerID}
	}
	return []string{m.IssuerID, m.NextIssuerID}
}

// CA is a breakglass.Signer on Vault. Its methods are safe for concurrent use. They work as soon as Vault does; Run must run
// beside them, because it keeps the token alive.
type CA struct {
	cfg    Config
	log    *slog.Logger
	mounts map[string]Mount // by cluster
	read   *api.Client
	sign   *api.Client

	session atomic.Pointer[session]
	kick    chan struct{} // wakes Run: a token was refused
	login   sync.Mutex    // held during a login; guards failed and tried
	failed  error         // how the last login ended
	tried   time.Time
	secret  atomic.Value // string: the secret id of the last login, which no message may repeat

	bodies  sync.Map // path → *answer: the last reading
	roles   sync.Map // cluster and group → []byte: the last good one as it was sent
	policy  atomic.Pointer[policyVerdict]
	looked  looked
	issuers sync.Map // pinned issuer id → *x509.Certificate. An issuer's certificate never changes under its id
	seen    sync.Map // mount path → *names
	checks  rounds
	finds   rounds
}

var _ breakglass.Signer = (*CA)(nil)

// Open checks the configuration, all of it, and reads the CA file. It does not talk to Vault: a sealed Vault must not keep
// the daemon from taking requests and approvals.
func Open(_ context.Context, cfg Config) (*CA, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.SignTimeout <= 0 {
		cfg.SignTimeout = 15 * time.Second
	}
	if cfg.Auth.Mount == "" {
		cfg.Auth.Mount = "approle"
	}
	if cfg.Policy == "" {
		cfg.Policy = "breakglassd"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &CA{cfg: cfg, log: cfg.Log, mounts: map[string]Mount{}, kick: make(chan struct{}, 1),
		checks: rounds{running: map[string]*round{}, waiting: map[string]*round{}},
		finds:  rounds{running: map[string]*round{}, waiting: map[string]*round{}}}
	var bad []error
	for _, m := range cfg.Mounts {
		if _, twice := c.mounts[m.Cluster]; twice || m.Cluster == "" {
			bad = append(bad, fmt.Errorf("cluster %q must have exactly one mount", m.Cluster))
		}
		c.mounts[m.Cluster] = m
		if _, err := policies.VaultPolicy(cfg.Policy, []policies.VaultMount{{Path: m.Path, Groups: m.Groups}}); err != nil {
			bad = append(bad, fmt.Errorf("mount of cluster %s: %w", m.Cluster, err))
		}
		for _, id := range m.pinned() {
			if _, err := policies.VaultRole("", id, m.MaxTTL); err != nil {
				bad = append(bad, fmt.Errorf("mount of cluster %s: %w", m.Cluster, err))
			}
		}
		if m.NextIssuerID == m.IssuerID {
			bad = append(bad,
				fmt.Errorf("mount of cluster %s: the next issuer is the same as the issuer: leave it out when no rotation is going on", m.Cluster))
		}
	}
	bad = append(bad, cfg.Auth.validate())
	tlsConfig, err := cfg.tls()
	if err := errors.Join(append(bad, err)...); err != nil {
		return nil, fmt.Errorf("vault configuration: %w", err)
	}
	// Connections for reading stay open. A signing connection that Vault has closed in the meantime would cost a grant, since
	// nobody knows whether the request went through: it is kept only as long as a burst lasts.
	if c.read, err = cfg.client(tlsConfig, time.Minute); err != nil {
		return nil, err
	}
	c.sign, err = cfg.client(tlsConfig, 2*time.Second)
	return c, err
}

func (a Auth) validate() error {
	switch {
	case a.Method == AuthAppRole && (a.RoleID == "" || a.SecretIDFile == "" || a.TokenFile != ""):
		return errors.New("login by approle needs a role id and a secret id file, and no token file")
	case a.Method == AuthTokenFile && (a.TokenFile == "" || a.RoleID != "" || a.SecretIDFile != ""):
		return errors.New("login by token_file needs a token file, and neither role id nor secret id file")
	case a.Method != AuthAppRole && a.Method != AuthTokenFile:
		return fmt.Errorf("login method %q is unknown: use %s or %s", a.Method, AuthAppRole, AuthTokenFile)
	}
	return nil
}

// tls checks the address and returns how to know Vault when calling it.
func (cfg Config) tls() (*tls.Config, error) {
	u, err := url.Parse(cfg.Address)
	if err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("address must be like https://vault.example.com:8200")
	}
	switch {
	case u.Scheme == "http" && text.Loopback(u.Hostname()):
		return nil, nil
	case u.Scheme != "https":
		return nil, fmt.Errorf("address %s must begin with https:// (plain http is for a loopback address only)", cfg.Address)
	}
	bundle, err := os.ReadFile(cfg.CAFile)
	if err != nil {
		return nil, fmt.Errorf("reading the CA file for Vault's address: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		return nil, fmt.Errorf("CA file %s holds no certificate in PEM", cfg.CAFile)
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}

// client makes one Vault client. The library's constructor reads the environment; everything it takes from there is
// overwritten or not used.
func (cfg Config) client(t *tls.Config, idle time.Duration) (*api.Client, error) {
	connect := max(3*time.Second, cfg.Timeout*3/5) // whoever waits longer for answers waits longer for connections
	transport := &http.Transport{                  // HTTP/1.1, and no Proxy: an answer comes from Vault or it does not come
		TLSClientConfig:     t,
		DialContext:         (&net.Dialer{Timeout: connect}).DialContext,
		TLSHandshakeTimeout: connect,
		IdleConnTimeout:     idle,
		MaxIdleConnsPerHost: 32,
	}
	ac := &api.Config{
		Address:          cfg.Address,
		MaxRetries:       0,
		CheckRetry:       func(context.Context, *http.Response, error) (bool, error) { return false, nil },
		DisableRedirects: true,
		HttpClient: &http.Client{
			Transport:     limited{transport},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	client, err := api.NewClient(ac)
	if err != nil {
		return nil, fmt.Errorf("making the Vault client: its library stumbled over a VAULT_ variable of the environment, of which nothing is " +
			"used here: unset them")
	}
	client.SetHeaders(http.Header{api.RequestHeaderName: {"true"}})
	client.ClearToken()                                                     // each call brings its own
	client.SetWrappingLookupFunc(func(string, string) string { return "" }) // else VAULT_WRAP_TTL would wrap every answer
	if cfg.Namespace != "" {
		client.SetNamespace(cfg.Namespace)
	}
	return client, nil
}

// Bounds of answers. The longest legitimate one is a list of serial numbers, 62 bytes each: two millions.
const (
	maxAnswer = 32 << 20
	maxList   = 128 << 20
)

// limited cuts answers that are too long, also those that the library reads by itself.
type limited struct{ http.RoundTripper }

func (l limited) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.RoundTripper.RoundTrip(r)
	if err == nil {
		body, most := resp.Body, int64(maxAnswer)
		if r.Method == "LIST" {
			most = maxList
		}
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(body, most), body}
	}
	return resp, err
}

// mount finds the cluster's mount and the name of the role for a group.
func (c *CA) mount(cluster, group string) (Mount, string, error) {
	m, ok := c.mounts[cluster]
	if !ok {
		return Mount{}, "", fmt.Errorf("no Vault mount is configured for cluster %q", cluster)
	}
	role, err := policies.VaultRoleName(group)
	return m, role, err
}
