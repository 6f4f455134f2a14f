package cluster_test

import (
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/real"
)

// tunnel is a CONNECT proxy that leads to one address, whatever it is asked for.
func tunnel(t testing.TB, to string) (proxy string, asked *atomic.Int32) {
	t.Helper()
	asked = new(atomic.Int32)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || !strings.HasPrefix(r.Host, bgtest.HiddenHost) {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		asked.Add(1)
		out, err := net.Dial("tcp", to)
		if err != nil {
			http.Error(w, "no", http.StatusBadGateway)
			return
		}
		defer out.Close()
		in, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer in.Close()
		if _, err := io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
			return // the client has gone
		}
		go func() {
			defer out.Close()
			_, _ = io.Copy(out, buffered) // until one side has enough
		}()
		_, _ = io.Copy(in, out)
	}))
	t.Cleanup(s.Close)
	return s.URL, asked
}

// ourCA is a CA that the cluster's bundle holds.
func ourCA(t *testing.T, w world) *x509.Certificate {
	t.Helper()
	ca, err := real.NewCA("break-glass CA")
	must(t, err)
	must(t, w.sim.SetClientCAPEM(ca.CertPEM))
	block, _ := pem.Decode(ca.CertPEM)
	cert, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	return cert
}

// A cluster behind a proxy is reached through it for everything: bindings, doctor's handshakes and the checks of the CAs.
func TestEverythingGoesThroughTheProxyOfTheKubeconfig(t *testing.T) {
	for name, start := range map[string]func(testing.TB, string) (string, *atomic.Int32){"CONNECT": tunnel, "SOCKS5": bgtest.Socks5} {
		t.Run(name, func(t *testing.T) { testProxy(t, start) })
	}
}

func testProxy(t *testing.T, startProxy func(testing.TB, string) (string, *atomic.Int32)) {
	w := start(t, 0)
	issuer := ourCA(t, w)
	proxy, asked := startProxy(t, strings.TrimPrefix(w.sim.URL, "https://"))
	text, err := w.sim.Kubeconfig("daemon")
	must(t, err)
	const hidden = "https://" + bgtest.HiddenHost + ":6443"
	path := write(t, strings.ReplaceAll(string(text), "server: "+w.sim.URL, "server: "+hidden+"\n    proxy-url: "+proxy+
		"\n    tls-server-name: 127.0.0.1"))
	c := open(t, 0, path)
	must(t, c.Bind(t.Context(), admin))
	must(t, c.Unbind(t.Context(), "c1", request))
	before := asked.Load()
	if trusted, names, err := c.TrustsCA(t.Context(), "c1", issuer); err != nil || !trusted {
		t.Errorf("got %v, %q, %v, want that our CA is named", trusted, names, err)
	}
	if got, err := c.EachNames(t.Context(), "c1", issuer); err != nil || len(got) != 1 || !got[0].Names || got[0].Err != nil {
		t.Errorf("got %+v, %v, want that our CA is named", got, err)
	}
	servers, err := c.Servers("c1")
	must(t, err)
	loaded := rest.CopyConfig(servers[0].Config)
	must(t, rest.LoadTLSFiles(loaded))
	o, err := cluster.NewObserver(cluster.ObserveConfig{Cluster: "c1", Servers: []string{"only-the-proxy-knows.invalid:6443"},
		ServerName: loaded.ServerName,
		CA:         loaded.CAData, Rest: servers[0].Config, Timeout: 20 * time.Second})
	must(t, err)
	v := o.View(t.Context())
	if len(v.Servers) != 1 || v.Servers[0].Error != "" || v.Servers[0].Wrong != "" || v.Servers[0].Skew == nil ||
		len(v.Servers[0].Handshakes[1].Names) == 0 {
		t.Errorf("got %+v, want two handshakes and the server's clock", v.Servers)
	}
	if n := asked.Load() - before; n < 5 {
		t.Errorf("%d connections went through the proxy, want all", n)
	}
}

// Whatever ends TLS at the address that people get leaves their certificates behind.
func TestProxyThatEndsTLSAtPeoplesAddressIsSeen(t *testing.T) {
	w := start(t, 0)
	issuer := ourCA(t, w)
	to, err := url.Parse(w.sim.URL)
	must(t, err)
	between := httptest.NewTLSServer(httputil.NewSingleHostReverseProxy(to))
	defer between.Close()
	ca := write(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: between.Certificate().Raw}))+string(w.sim.CAPEM()))
	c, err := cluster.Open(cluster.Config{Targets: []cluster.Target{{ID: "c1", Kubeconfig: kubeconfigOf(t, w.sim, "daemon"), CAFile: ca}}})
	must(t, err)
	if got, err := c.PeopleAddress(t.Context(), "c1", w.sim.URL, issuer); err != nil || got.Err != nil || !got.Names {
		t.Errorf("got %+v, %v for the API server itself", got, err)
	}
	if got, err := c.PeopleAddress(t.Context(), "c1", between.URL, issuer); err != nil || got.Err != nil || got.Names || got.Asks {
		t.Errorf("got %+v, %v for a proxy that ends TLS, want that it does not even ask", got, err)
	}
	if got, err := c.PeopleAddress(t.Context(), "c1", "https://127.0.0.1:1", issuer); err != nil || got.Err == nil {
		t.Errorf("got %+v, %v for an address where nobody is", got, err)
	}
	c, err = cluster.Open(cluster.Config{Targets: []cluster.Target{{ID: "c1", Kubeconfig: kubeconfigOf(t, w.sim, "daemon")}}})
	must(t, err)
	if got, err := c.PeopleAddress(t.Context(), "c1", between.URL, issuer); err != nil || got.Err == nil ||
		!strings.Contains(got.Wrong, "does not vouch for") {
		t.Errorf("got %+v, %v for a certificate of another CA, want that it is told from silence", got, err)
	}
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	if got, err := c.PeopleAddress(t.Context(), "c1", strings.Replace(plain.URL, "http:", "https:", 1), issuer); err != nil ||
		got.Wrong != "does not speak TLS" {
		t.Errorf("got %+v, %v for what speaks no TLS", got, err)
	}
}

// What people need beside the address is tried as well: through their proxy, by the name in the certificate, and not through the
// daemon's.
func TestPeoplesWayIsTheirsAndNotTheDaemons(t *testing.T) {
	w := start(t, 0)
	issuer := ourCA(t, w)
	to := strings.TrimPrefix(w.sim.URL, "https://")
	theirs, asked := bgtest.Socks5(t, to)
	open := func(way breakglass.Way) *cluster.Clusters {
		c, err := cluster.Open(cluster.Config{Targets: []cluster.Target{{ID: "c1", Kubeconfig: kubeconfigOf(t, w.sim, "daemon"), People: way}}})
		must(t, err)
		return c
	}
	const hidden = "https://" + bgtest.HiddenHost + ":6443"
	way := breakglass.Way{ProxyURL: theirs, TLSServerName: "127.0.0.1"}
	c := open(way)
	if got, err := c.PeopleAddress(t.Context(), "c1", hidden, issuer); err != nil || got.Err != nil || !got.Names || asked.Load() != 1 {
		t.Errorf("got %+v, %v after %d connections through their proxy", got, err, asked.Load())
	}
	if c.Way("c1") != way {
		t.Errorf("got %+v, want %+v", c.Way("c1"), way)
	}
	if got, err := open(breakglass.Way{TLSServerName: "127.0.0.1"}).PeopleAddress(t.Context(), "c1", hidden, issuer); err != nil ||
		got.Err == nil || got.Wrong != "" {
		t.Errorf("got %+v, %v without their proxy, want that it cannot be told", got, err)
	}
	if got, err := open(breakglass.Way{ProxyURL: theirs}).PeopleAddress(t.Context(), "c1", hidden, issuer); err != nil || got.Wrong == "" {
		t.Errorf("got %+v, %v without the name, want that the certificate is for another", got, err)
	}
	for _, bad := range []breakglass.Way{{ProxyURL: "ftp://10.0.0.1"}, {ProxyURL: "socks5://user:secret@10.0.0.1:1080"},
		{ProxyURL: "10.0.0.1:1080"},
		{ProxyURL: "http://proxy/path"}, {TLSServerName: "a b"}, {TLSServerName: "--x"}} {
		if err := cluster.PeopleWay(bad); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: got %v", bad, err)
		}
	}
}
