package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"sync"

	"k8s.io/client-go/rest"

	"github.com/breakglassd/breakglass/internal/breakglass"
)

// shake makes one TLS connection the way the daemon's requests go, through the same proxy, and says what both sides showed. It sends
// nothing. What the other side showed is told also when it ends the handshake after that.
func shake(ctx context.Context, rc *rest.Config, address string, conf *tls.Config) (state tls.ConnectionState, names [][]byte, err error) {
	conf = conf.Clone()
	var mu sync.Mutex // guards what is returned: a connection that is given up may go on a moment
	var shown tls.ConnectionState
	var wants [][]byte
	conf.VerifyConnection = func(s tls.ConnectionState) error {
		mu.Lock()
		defer mu.Unlock()
		shown = s
		return nil
	}
	conf.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		wants = slices.Clone(info.AcceptableCAs)
		return &tls.Certificate{}, nil
	}
	way := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: conf} // as client-go does
	if rc != nil && rc.Proxy != nil {
		way.Proxy = rc.Proxy
	}
	if rc != nil {
		way.DialContext = rc.Dial
	}
	conn, err := way.NewClientConn(ctx, "https", address)
	if err == nil {
		_ = conn.Close() // it was dialled for what the handshake shows
	}
	mu.Lock()
	defer mu.Unlock()
	return shown, wants, err
}

// Trust is what one address showed in a handshake.
type Trust struct {
	Address string
	Names   bool // it names a CA with the subject of ours among those whose certificates it takes. That need not be our CA
	Asks    bool // it asks for a client certificate at all
	Err     error
	Wrong   string // what answers there, where Err is not silence: it cannot be the API server
}

// EachNames asks every configured API server of a cluster whether it names the CA.
func (c *Clusters) EachNames(ctx context.Context, cluster string, ca *x509.Certificate) ([]Trust, error) {
	t, err := c.target(cluster)
	if err != nil {
		return nil, err
	}
	out := make([]Trust, len(t.servers))
	var wait sync.WaitGroup
	for i, s := range t.servers {
		wait.Go(func() { out[i] = s.names(ctx, s.rest, s.rest.Host, s.rest.ServerName, s.serverCA, ca) })
	}
	wait.Wait()
	return out, nil
}

// PeopleWay says what is wrong with how people are to reach a cluster. It becomes part of their kubeconfigs.
func PeopleWay(w breakglass.Way) error {
	if w.ProxyURL != "" {
		u, err := url.Parse(w.ProxyURL)
		switch {
		case err != nil || u.Hostname() == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" ||
			!slices.Contains([]string{"http", "https", "socks5"}, u.Scheme):
			return fmt.Errorf("the proxy %q is not of the form http://host:port, https://host:port or socks5://host:port", w.ProxyURL)
		case u.User != nil:
			return errors.New("the proxy's address has a user name or password in it: everybody would read it in kubeconfigs and in the ledger")
		}
	}
	if w.TLSServerName != "" && !serverName.MatchString(w.TLSServerName) {
		return fmt.Errorf("the TLS server name %q is neither a host's name nor an IP address", w.TLSServerName)
	}
	return nil
}

var serverName = regexp.MustCompile(`^([0-9A-Za-z]([0-9A-Za-z.-]{0,251}[0-9A-Za-z])?|[0-9A-Fa-f:.]{2,45})$`)

// peoplesWay is a way to the cluster as people have it: without the daemon's credential, and through their proxy. Where they have
// none of their own, the daemon's stands for that of their environment.
func (t *target) peoplesWay() (*rest.Config, error) {
	rc := rest.AnonymousClientConfig(t.rest)
	rc.Proxy, rc.Dial = t.rest.Proxy, t.rest.Dial
	if t.people.ProxyURL != "" {
		proxy, err := url.Parse(t.people.ProxyURL)
		if err != nil {
			return nil, fmt.Errorf("reading the address of people's proxy: %w", err)
		}
		rc.Proxy, rc.Dial = http.ProxyURL(proxy), nil
	}
	return rc, nil
}

// PeopleAddress asks the address that people's kubeconfigs get, the way they go and trusting what they trust, whether it names the
// CA. Something in between that ends TLS does not, unless it was given our CA: only a canary shows that.
func (c *Clusters) PeopleAddress(ctx context.Context, cluster, server string, ca *x509.Certificate) (Trust, error) {
	t, err := c.target(cluster)
	if err != nil {
		return Trust{}, err
	}
	way, err := t.peoplesWay()
	if err != nil {
		return Trust{}, err
	}
	return t.names(ctx, way, server, t.people.TLSServerName, t.peopleCA, ca), nil
}

func (t *target) names(ctx context.Context, way *rest.Config, address, serverName string, roots []byte, ca *x509.Certificate) Trust {
	out := Trust{Address: address}
	host, err := hostOf(address)
	if err != nil {
		out.Err = err
		return out
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: serverName}
	if len(roots) > 0 {
		conf.RootCAs = x509.NewCertPool()
		conf.RootCAs.AppendCertsFromPEM(roots)
	}
	ctx, cancel := context.WithTimeout(ctx, t.rest.Timeout)
	defer cancel()
	_, names, err := shake(ctx, way, host, conf)
	if err != nil {
		var certificate *tls.CertificateVerificationError
		var plain tls.RecordHeaderError
		switch {
		case errors.As(err, &certificate):
			out.Wrong = "shows a certificate that its CA does not vouch for: " + line(certificate.Err.Error(), 200)
		case errors.As(err, &plain):
			out.Wrong = "does not speak TLS"
		}
		out.Err = t.explain("shaking hands with "+line(address, 200), err)
		return out
	}
	out.Asks = names != nil
	out.Names = slices.ContainsFunc(names, func(raw []byte) bool { return string(raw) == string(ca.RawSubject) })
	return out
}

// hostOf is the host and port of an https address.
func hostOf(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", fmt.Errorf("reading the API server's address: %w", err)
	}
	if u.Port() == "" {
		u.Host += ":443"
	}
	return u.Host, nil
}
