package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/bgtest"
)

// forward passes TCP connections on to the API server, as a load balancer does that lets TLS through.
func forward(t *testing.T, to string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer out.Close()
				go func() {
					defer out.Close()
					_, _ = io.Copy(out, in) // until one side has enough
				}()
				_, _ = io.Copy(in, out)
			}()
		}
	}()
	return "https://" + l.Addr().String()
}

// endTLS is a proxy that ends TLS with the API server's own certificate. With asks it names our CA to clients, as the API server does.
func endTLS(t *testing.T, asks bool) string {
	t.Helper()
	target, err := url.Parse(shared.kube.URL)
	must(t, err)
	ca, err := os.ReadFile(shared.kube.CACert)
	must(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	lb := httptest.NewUnstartedServer(proxy)
	dir := filepath.Dir(shared.kube.CACert)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key"))
	must(t, err)
	lb.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	if asks {
		bundle, err := os.ReadFile(shared.kube.ClientCAFile())
		must(t, err)
		clients := x509.NewCertPool()
		clients.AppendCertsFromPEM(bundle)
		lb.TLS.ClientAuth, lb.TLS.ClientCAs = tls.VerifyClientCertIfGiven, clients
	}
	lb.StartTLS()
	t.Cleanup(lb.Close)
	return lb.URL
}

// Everything that the daemon does itself goes to the API server's own address. The one that people get is tried too: doctor sees
// what a handshake shows, and the hourly check shows it a canary, which a proxy that ends TLS keeps, whatever it asks clients for.
func TestAddressThatPeopleGetIsChecked(t *testing.T) {
	for _, tc := range []struct {
		name, server   string
		doctor, canary string // what each says
		wrong          bool
	}{
		{name: "a forwarder of TCP", server: forward(t, strings.TrimPrefix(shared.kube.URL, "https://")),
			doctor: "asks for certificates of", canary: "certificates arrive at the address that people get: yes"},
		{name: "a proxy that ends TLS", server: endTLS(t, false), wrong: true,
			doctor: "does not ask for certificates of our CA", canary: "certificates arrive at the address that people get: no"},
		{name: "a proxy that ends TLS and asks for our certificates", server: endTLS(t, true), wrong: true,
			doctor: "whether they arrive at the API servers, the canary", canary: "certificates arrive at the address that people get: no"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newDaemon(t)
			d.file("access.yaml", strings.ReplaceAll(strings.Replace(bgtest.Policy(), "{role: fixer, namespaces: [default, kube-system]}",
				"{clusterRole: view}", 1), "https://127.0.0.1:6443", tc.server))
			if out, _ := runDaemon(t, "doctor", "--config", filepath.Join(d.dir, "config.yaml")); !strings.Contains(out, tc.doctor) {
				t.Errorf("doctor does not say %q:\n%s", tc.doctor, out)
			}
			d.start("")
			out, stderr, _ := d.try("carol", "ca", "check")
			if !strings.Contains(out, tc.canary) {
				t.Errorf("ca check does not say %q:\n%s%s", tc.canary, out, stderr)
			}
			var found api.Findings
			text, _, _ := d.try("erin", "findings", "-o", "json")
			must(t, json.Unmarshal([]byte(text), &found))
			seen := ""
			for _, f := range found.Items {
				if f.Key == "people-address/c1" {
					seen = string(f.Severity) + " " + f.What
				}
			}
			if tc.wrong != strings.HasPrefix(seen, "critical the address that people get, "+tc.server) {
				t.Errorf("got the finding %q, want one: %v", seen, tc.wrong)
			}
			d.stop()
		})
	}
}
