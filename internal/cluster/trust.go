package cluster

import (
	"bytes"
	"cmp"
	"context"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/breakglassd/breakglass/internal/rotation"
)

// ObserveConfig says what of one cluster the checks of the CAs look at. Servers and CA are required.
type ObserveConfig struct {
	Cluster string
	// Servers is the address of every API server, as host:port: their bundles can differ, and a load balancer shows one of them.
	Servers []string
	// ServerName is the name in the API servers' certificates, for addresses that are not in them. Empty: the host of the address.
	ServerName string
	// CA is PEM of the CAs that vouch for the API servers. Empty: the system's CAs, as for any client of Kubernetes.
	CA []byte
	// Rest is the daemon's own connection, for what only a signed-in client may read: the ConfigMaps and the keys of service
	// account tokens. Nil: they are not looked at, and that is a finding.
	Rest *rest.Config

	Kubelets       []string // addresses (host:10250) of kubelets
	Etcd           []string // client addresses (host:2379) of etcd
	EtcdCAFiles    []string // PEM; CAs of etcd
	KubeletCAFiles []string // PEM; CAs of kubelets: the --client-ca-file of kubelets, the --kubelet-certificate-authority of the API servers
	Kubeconfigs    []string // files whose pinned CAs are checked
	KnownClientCAs []string // PEM files of client CAs that are expected beside ours, such as the cluster's own

	// Bundles is the operator's declaration of what the client-CA bundle of an API server holds: a copy of the file as it is
	// meant to be, by address; under "" for every address that has none of its own. See package rotation for what it is for.
	Bundles map[string]string

	Timeout time.Duration // of each connection. Default 5 s
}

// Observer looks at the CAs of one cluster from outside. It is a rotation.Viewer, safe for concurrent use, and changes nothing.
type Observer struct {
	cfg   ObserveConfig
	roots *x509.CertPool
	http  *http.Client // with the daemon's credential; nil without Rest
}

var _ rotation.Viewer = (*Observer)(nil)

// maxRead bounds every file and every answer that is read: a bundle of a thousand CAs is well below.
const maxRead = 4 << 20

// NewObserver checks the configuration. It connects to nothing.
func NewObserver(cfg ObserveConfig) (*Observer, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 5 * time.Second
	}
	o := &Observer{cfg: cfg, roots: x509.NewCertPool()}
	var bad []error
	if len(cfg.Servers) == 0 {
		bad = append(bad, errors.New("name the address of each API server"))
	}
	for _, address := range slices.Concat(cfg.Servers, cfg.Kubelets, cfg.Etcd) {
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
			bad = append(bad, fmt.Errorf("the address %q must be like 10.20.0.1:6443", address))
		}
	}
	for address := range cfg.Bundles {
		if address != "" && !slices.Contains(cfg.Servers, address) {
			bad = append(bad, fmt.Errorf("a bundle is declared for %q, which is not the address of an API server", address))
		}
	}
	if len(cfg.CA) == 0 {
		var err error
		if o.roots, err = x509.SystemCertPool(); err != nil {
			bad = append(bad, fmt.Errorf("the system's CAs, as none is named for the API servers: %w", err))
		}
	} else if !o.roots.AppendCertsFromPEM(cfg.CA) {
		bad = append(bad, errors.New("there is no PEM certificate in the CA of the API servers"))
	}
	if cfg.Rest != nil {
		rc := rest.CopyConfig(cfg.Rest)
		rc.Timeout = cfg.Timeout
		var err error
		if o.http, err = rest.HTTPClientFor(rc); err != nil {
			bad = append(bad, fmt.Errorf("using the daemon's credential: %w", err))
		}
	}
	if err := errors.Join(bad...); err != nil {
		return nil, fmt.Errorf("checks of the CAs of cluster %s: %w", cfg.Cluster, err)
	}
	return o, nil
}

// View looks at everything, each thing on its own: what fails is in Unseen, or in the Error of the server that it is about.
func (o *Observer) View(ctx context.Context) rotation.View {
	v := rotation.View{Servers: make([]rotation.Server, len(o.cfg.Servers))}
	endpoints := make([]rotation.Endpoint, len(o.cfg.Kubelets)+len(o.cfg.Etcd))
	failed := make([]error, len(endpoints))
	var wg sync.WaitGroup
	for i, address := range o.cfg.Servers {
		wg.Go(func() { v.Servers[i] = o.server(ctx, address) })
	}
	for i, address := range slices.Concat(o.cfg.Kubelets, o.cfg.Etcd) {
		kind := rotation.KindKubelet
		if i >= len(o.cfg.Kubelets) {
			kind = rotation.KindEtcd
		}
		wg.Go(func() { endpoints[i], failed[i] = o.endpoint(ctx, kind, address) })
	}
	wg.Wait()
	for i, e := range endpoints {
		if failed[i] != nil {
			v.Unseen = append(v.Unseen, rotation.Unseen{Key: e.Kind + "/" + e.Where, What: fmt.Sprintf("the certificates of %s at %s: %s", e.Kind,
				e.Where, failed[i]), Next: "see whether it is up and reachable from here"})
			continue
		}
		v.Endpoints = append(v.Endpoints, e)
	}
	o.files(&v)
	o.published(ctx, &v)
	return v
}

// server shakes hands with one API server in both versions of TLS, without any credential, and reads its clock.
func (o *Observer) server(ctx context.Context, address string) rotation.Server {
	s := rotation.Server{Address: address, Declared: o.declared(address)}
	for _, version := range []struct {
		name   string
		number uint16
	}{{"1.2", tls.VersionTLS12}, {"1.3", tls.VersionTLS13}} {
		h := rotation.Handshake{Version: version.name}
		state, names, err := o.handshake(ctx, address, version.number)
		if err != nil {
			h.Error = plain(err)
		} else {
			h.Names = names
			s.Serving = nil
			for _, c := range state.PeerCertificates {
				s.Serving = append(s.Serving, c.Raw)
			}
			s.Wrong = o.wrong(address, state)
		}
		s.Handshakes = append(s.Handshakes, h)
	}
	if a, b := s.Handshakes[0], s.Handshakes[1]; a.Error != "" && b.Error != "" {
		s.Error = b.Error
		return s
	}
	if s.Wrong != "" {
		return s
	}
	asked := time.Now()
	resp, err := o.bare(address, nil).Get("https://" + address + "/version")
	if err != nil {
		return s
	}
	resp.Body.Close()
	s.Skew = skew(resp.Header, asked, time.Now())
	return s
}

// skew is how far the clock of an answer's Date is ahead of ours: nothing, where it can be explained by the time that the answer
// took and by the second that the header is rounded down to. nil if there is no date.
func skew(h http.Header, asked, got time.Time) *time.Duration {
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return nil
	}
	var d time.Duration
	switch late := date.Add(time.Second); {
	case late.Before(asked):
		d = late.Sub(asked)
	case date.After(got):
		d = date.Sub(got)
	}
	d = d.Round(time.Second)
	return &d
}

// handshake connects and says which CAs the server lists. It verifies nothing by itself and sends nothing: whoever uses what it
// returns must ask wrong first.
func (o *Observer) handshake(ctx context.Context, address string, version uint16) (state tls.ConnectionState, names [][]byte, err error) {
	conf := &tls.Config{MinVersion: version, MaxVersion: version, ServerName: o.name(address), InsecureSkipVerify: true,
		NextProtos: []string{"http/1.1"}}
	ctx, cancel := context.WithTimeout(ctx, o.cfg.Timeout)
	defer cancel()
	return shake(ctx, o.cfg.Rest, address, conf)
}

func (o *Observer) name(address string) string {
	if o.cfg.ServerName != "" {
		return o.cfg.ServerName
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address // NewObserver has refused those
	}
	return host
}

// wrong says why a server cannot prove to be the API server; empty: it can.
func (o *Observer) wrong(address string, state tls.ConnectionState) string {
	between := x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: o.roots, Intermediates: between, DNSName: o.name(address)})
	return plain(err)
}

// bare is a client for one API server without the daemon's credential, but perhaps with a canary's. Each request has its own
// connection.
func (o *Observer) bare(address string, canary *tls.Certificate) *http.Client {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.roots, ServerName: o.name(address)}
	if canary != nil {
		// Shown whatever the server lists: the list is only names.
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return canary, nil }
	}
	return alone(o.cfg.Rest, conf, o.cfg.Timeout)
}

// alone is a client that goes the way of rc, if there is one, without its credential. Each request has its own connection.
func alone(rc *rest.Config, conf *tls.Config, timeout time.Duration) *http.Client {
	way := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: conf, DisableKeepAlives: true}
	if rc != nil {
		way.DialContext = rc.Dial
		if rc.Proxy != nil {
			way.Proxy = rc.Proxy
		}
	}
	return &http.Client{Timeout: timeout, Transport: way,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// plain is an error of the network in few words.
func plain(err error) string {
	var op *net.OpError
	switch {
	case err == nil:
		return ""
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.As(err, &op) && op.Err != nil:
		return op.Err.Error()
	}
	return err.Error()
}

// endpoint shakes hands with a kubelet or an etcd. Both may refuse a client without a certificate, after they have shown theirs.
func (o *Observer) endpoint(ctx context.Context, kind, address string) (rotation.Endpoint, error) {
	e := rotation.Endpoint{Kind: kind, Where: address}
	ctx, cancel := context.WithTimeout(ctx, o.cfg.Timeout)
	defer cancel()
	state, names, err := shake(ctx, o.cfg.Rest, address, &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true})
	e.Names = names
	for _, c := range state.PeerCertificates {
		e.Chain = append(e.Chain, c.Raw)
	}
	if len(e.Chain) > 0 {
		return e, nil
	}
	if err == nil {
		err = errors.New("it showed no certificate")
	}
	return e, errors.New(plain(err))
}

// declared reads the operator's declaration for an address; nil if there is none.
func (o *Observer) declared(address string) *rotation.Declared {
	file, ok := o.cfg.Bundles[address]
	if !ok {
		if file, ok = o.cfg.Bundles[""]; !ok {
			return nil
		}
	}
	d := &rotation.Declared{File: file}
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		d.Broken = "there is no such file"
		return d
	case err != nil:
		d.Broken = err.Error()
		return d
	}
	d.Modified = info.ModTime().UTC()
	cas, err := certificates(file)
	if err != nil {
		d.Broken = err.Error()
		return d
	}
	d.CAs = cas
	return d
}

// certificates reads a file of certificates the way kube-apiserver does: text between them does not count, and there must be one.
func certificates(file string) ([][]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRead+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxRead {
		return nil, fmt.Errorf("%s is longer than %d bytes", file, maxRead)
	}
	out, err := certificatesIn(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return out, nil
}

func certificatesIn(text []byte) ([][]byte, error) {
	var out [][]byte
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return nil, fmt.Errorf("certificate %d in it cannot be parsed", len(out)+1)
		}
		out = append(out, block.Bytes)
	}
	if len(out) == 0 {
		return nil, errors.New("there is no certificate in it")
	}
	return out, nil
}

// files reads what is given by file.
func (o *Observer) files(v *rotation.View) {
	unseen := func(what, file string, err error) {
		v.Unseen = append(v.Unseen, rotation.Unseen{Key: "file/" + file, What: fmt.Sprintf("%s: %s", what, err),
			Next: "correct the file or its name in the configuration"})
	}
	for _, group := range []struct {
		kind  string
		names []string
	}{{rotation.KindEtcd, o.cfg.EtcdCAFiles}, {rotation.KindKubelet, o.cfg.KubeletCAFiles}} {
		for _, file := range group.names {
			cas, err := certificates(file)
			if err != nil {
				unseen("the CAs of "+group.kind, file, err)
				continue
			}
			v.Endpoints = append(v.Endpoints, rotation.Endpoint{Kind: group.kind, Where: file, CAs: cas})
		}
	}
	for _, file := range o.cfg.KnownClientCAs {
		cas, err := certificates(file)
		if err != nil {
			unseen("the client CAs that are expected", file, err)
			continue
		}
		v.KnownClientCAs = append(v.KnownClientCAs, cas...)
	}
	for _, file := range o.cfg.Kubeconfigs {
		raw, err := clientcmd.LoadFromFile(file)
		if err == nil {
			err = clientcmd.ResolveLocalPaths(raw)
		}
		if err != nil {
			unseen("the CAs in the kubeconfig "+file, file, err)
			continue
		}
		out := rotation.File{Name: file}
		for name, c := range raw.Clusters {
			text := c.CertificateAuthorityData
			if len(text) == 0 && c.CertificateAuthority != "" {
				if text, err = os.ReadFile(c.CertificateAuthority); err != nil {
					unseen("the CA of the cluster "+name+" in "+file, file, err)
					continue
				}
			}
			if len(text) == 0 {
				continue // the system's CAs
			}
			cas, err := certificatesIn(text)
			if err != nil {
				unseen("the CA of the cluster "+name+" in "+file, file, err)
				continue
			}
			out.CAs = append(out.CAs, cas...)
		}
		v.Kubeconfigs = append(v.Kubeconfigs, out)
	}
	if len(o.cfg.EtcdCAFiles)+len(o.cfg.Etcd) == 0 {
		v.NotConfigured = append(v.NotConfigured, "etcd")
	}
	if len(o.cfg.KubeletCAFiles)+len(o.cfg.Kubelets) == 0 {
		v.NotConfigured = append(v.NotConfigured, "kubelets")
	}
	if len(o.cfg.Bundles) == 0 {
		v.NotConfigured = append(v.NotConfigured, "what the bundle files hold")
	}
}

// published reads what the cluster says about its CAs and keys, signed in as the daemon.
func (o *Observer) published(ctx context.Context, v *rotation.View) {
	if o.http == nil {
		v.Unseen = append(v.Unseen, rotation.Unseen{Key: "published", What: "what the cluster publishes about its CAs: there is no credential",
			Next: "give the cluster a kubeconfig_file"})
		return
	}
	const rights = "apply policies/kubernetes/, which lets the daemon read it"
	unseen := func(key, what string, err error) {
		next := "see whether the API server is up"
		switch {
		case apierrors.IsForbidden(err):
			next = rights
		case apierrors.IsNotFound(err):
			next = "see whether the control plane publishes it: kube-apiserver writes extension-apiserver-authentication, kube-controller-manager " +
				"kube-root-ca.crt"
		}
		v.Unseen = append(v.Unseen, rotation.Unseen{Key: key, What: fmt.Sprintf("%s: %s", what, plain(err)), Next: next})
	}
	var auth corev1.ConfigMap
	if err := o.get(ctx, "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication", &auth); err != nil {
		unseen("published", "the ConfigMap kube-system/extension-apiserver-authentication", err)
	} else {
		p := &rotation.Published{}
		whole := true // a part that cannot be read is not an empty one: then nothing is said about what is published
		for _, part := range []struct {
			key  string
			into *[][]byte
		}{{"client-ca-file", &p.ClientCAs}, {"requestheader-client-ca-file", &p.RequestHeader}} {
			if text := auth.Data[part.key]; strings.TrimSpace(text) != "" {
				if *part.into, err = certificatesIn([]byte(text)); err != nil {
					whole = false
					unseen("published/"+part.key, part.key+" in the ConfigMap extension-apiserver-authentication", err)
				}
			}
		}
		if text := auth.Data["requestheader-allowed-names"]; text != "" {
			if err := json.Unmarshal([]byte(text), &p.AllowedNames); err != nil {
				whole = false
				unseen("published/allowed-names", "the names that the request-header CA may vouch for", err)
			}
		}
		if whole {
			v.Published = p
		}
	}
	var root corev1.ConfigMap
	if err := o.get(ctx, "/api/v1/namespaces/kube-system/configmaps/kube-root-ca.crt", &root); err != nil {
		unseen("root-ca", "the ConfigMap kube-root-ca.crt", err)
	} else if v.RootCA, err = certificatesIn([]byte(root.Data["ca.crt"])); err != nil {
		unseen("root-ca", "the CA in the ConfigMap kube-root-ca.crt", err)
	}
	switch signers, err := o.signers(ctx); {
	case apierrors.IsNotFound(err): // it is not served, so it signs nothing
	case apierrors.IsForbidden(err):
		v.NotConfigured = append(v.NotConfigured, rotation.NotConfiguredSigners)
	case err != nil:
		unseen("csr-signers", "whose key the CSR API signs with", err)
	default:
		v.Signers = signers
	}
	var set struct {
		Keys []struct {
			Kid string `json:"kid"`
			Kty string `json:"kty"`
			Alg string `json:"alg"`
			N   string `json:"n"`
			Crv string `json:"crv"`
		} `json:"keys"`
	}
	var about struct {
		Issuer string `json:"issuer"`
	}
	err := o.get(ctx, "/openid/v1/jwks", &set)
	if err == nil {
		err = o.get(ctx, "/.well-known/openid-configuration", &about)
	}
	if err != nil {
		unseen("jwks", "the keys of service account tokens", err)
		return
	}
	sa := &rotation.ServiceAccounts{Issuer: about.Issuer}
	for _, k := range set.Keys {
		sa.Keys = append(sa.Keys, rotation.Key{ID: k.Kid, Type: k.Kty, Algorithm: k.Alg, Bits: keyBits(k.N, k.Crv)})
	}
	v.ServiceAccounts = sa
}

// maxSigningPages bounds how many pages of certificate requests are looked through: Kubernetes keeps signed ones for an hour.
const maxSigningPages = 10

// signers lists the signers of the CSR API, each with a certificate for each key that signed.
func (o *Observer) signers(ctx context.Context) ([]rotation.Signer, error) {
	var out []rotation.Signer
	seen := map[string]bool{}
	next := ""
	for range maxSigningPages {
		var page struct {
			Metadata struct {
				Continue string `json:"continue"`
			} `json:"metadata"`
			Items []struct {
				Spec struct {
					SignerName string `json:"signerName"`
				} `json:"spec"`
				Status struct {
					Certificate []byte `json:"certificate"` // PEM, the signed one first
				} `json:"status"`
			} `json:"items"`
		}
		if err := o.get(ctx, "/apis/certificates.k8s.io/v1/certificatesigningrequests?limit=200&continue="+url.QueryEscape(next),
			&page); err != nil {
			return nil, err
		}
		for _, r := range page.Items {
			block, _ := pem.Decode(r.Status.Certificate)
			if block == nil {
				continue // not signed, or not yet
			}
			by := block.Bytes
			if c, err := x509.ParseCertificate(block.Bytes); err == nil {
				by = slices.Concat(c.RawIssuer, c.AuthorityKeyId)
			}
			if k := r.Spec.SignerName + " " + string(by); !seen[k] {
				seen[k] = true
				out = append(out, rotation.Signer{Name: r.Spec.SignerName, Certificate: block.Bytes})
			}
		}
		if next = page.Metadata.Continue; next == "" {
			break
		}
	}
	slices.SortFunc(out, func(a, b rotation.Signer) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), bytes.Compare(a.Certificate, b.Certificate))
	})
	return out, nil
}

// keyBits is the size of a key of a JSON Web Key: of an RSA modulus, or of a curve. 0 if it is neither.
func keyBits(modulus, curve string) int {
	for _, c := range []elliptic.Curve{elliptic.P224(), elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		if c.Params().Name == curve {
			return c.Params().BitSize
		}
	}
	n, err := base64.RawURLEncoding.DecodeString(modulus)
	if err != nil {
		return 0
	}
	return (&rsa.PublicKey{N: new(big.Int).SetBytes(n)}).N.BitLen()
}

// get reads one object with the daemon's credential.
func (o *Observer) get(ctx context.Context, path string, into any) error {
	base, _, err := rest.DefaultServerUrlFor(o.cfg.Rest)
	if err != nil {
		return err
	}
	path, query, _ := strings.Cut(path, "?")
	at := base.JoinPath(path) // the address may have a path of its own
	at.RawQuery = query
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return err
	}
	resp, err := o.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxRead))
	if err != nil {
		return err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return json.NewDecoder(bytes.NewReader(text)).Decode(into)
	case http.StatusForbidden:
		return apierrors.NewForbidden(corev1.Resource("object"), path, errors.New("the daemon may not read it"))
	case http.StatusNotFound:
		return apierrors.NewNotFound(corev1.Resource("object"), path)
	}
	return fmt.Errorf("%s is answered with status %d", path, resp.StatusCode)
}
