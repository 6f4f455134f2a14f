package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"

	"k8s.io/client-go/rest"
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
		wait.Go(func() { out[i] = s.names(ctx, s.rest.Host, s.rest.ServerName, s.serverCA, ca) })
	}
	wait.Wait()
	return out, nil
}

// PeopleAddress asks the address that people's kubeconfigs get, trusting what they trust, whether it names the CA. Something in
// between that ends TLS does not: behind it no certificate of ours arrives.
func (c *Clusters) PeopleAddress(ctx context.Context, cluster, server string, ca *x509.Certificate) (Trust, error) {
	t, err := c.target(cluster)
	if err != nil {
		return Trust{}, err
	}
	return t.names(ctx, server, "", t.peopleCA, ca), nil
}

func (t *target) names(ctx context.Context, address, serverName string, roots []byte, ca *x509.Certificate) Trust {
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
	_, names, err := shake(ctx, t.rest, host, conf)
	if err != nil {
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
