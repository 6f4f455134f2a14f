// Package kubeconfig writes the kubeconfig of one certificate, and asks a cluster for whom it takes the certificate's holder.
package kubeconfig

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/api"
)

// Write writes a kubeconfig with everything in it: one cluster, one user with a certificate and its key.
func Write(id string, cl api.Cluster, certificate, key string) string {
	return configFor(id, cl, fmt.Sprintf("    client-certificate-data: %s\n    client-key-data: %s\n", quoted([]byte(certificate)),
		quoted([]byte(key))))
}

// Ended is what is left of a kubeconfig: the same cluster, and a user that has no key. kubectl runs program for it, which says how the
// access ended.
func Ended(program, id string, cl api.Cluster, profile, how string) string {
	return configFor(id, cl, "    exec:\n      apiVersion: client.authentication.k8s.io/v1\n      interactiveMode: Never\n"+
		fmt.Sprintf("      command: %s\n      args: [ended, --, %s, %s, %s, %s]\n", quoted(program), quoted(id), quoted(cl.ID), quoted(profile),
			quoted(how)))
}

// configFor writes a kubeconfig of one cluster and one user, whose lines are given. JSON strings are YAML strings, so nothing in it needs
// other quoting.
func configFor(id string, cl api.Cluster, user string) string {
	name, cluster := quoted("breakglass-"+cl.ID), quoted(cl.ID)
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Config\ncurrent-context: %s\nclusters:\n- name: %s\n  cluster:\n    server: %s\n", name, cluster,
		quoted(cl.Server))
	if cl.ProxyURL != "" {
		fmt.Fprintf(&b, "    proxy-url: %s\n", quoted(cl.ProxyURL))
	}
	if cl.TLSServerName != "" {
		fmt.Fprintf(&b, "    tls-server-name: %s\n", quoted(cl.TLSServerName))
	}
	if cl.CA != "" {
		fmt.Fprintf(&b, "    certificate-authority-data: %s\n", quoted([]byte(cl.CA)))
	}
	fmt.Fprintf(&b, "users:\n- name: %s\n  user:\n%s", quoted(id), user)
	fmt.Fprintf(&b, "contexts:\n- name: %s\n  context:\n    cluster: %s\n    user: %s\n", name, cluster, quoted(id))
	return b.String()
}

// quoted is text as a JSON string; bytes are written in base64.
func quoted[T string | []byte](x T) string {
	b, err := json.Marshal(x)
	if err != nil {
		panic(err) // strings and bytes always can
	}
	return string(b)
}

const (
	accessTime   = 5 * time.Second // for the cluster's whole answer
	accessAnswer = 1 << 20         // bytes of it
	reviewPath   = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
	review       = `{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`
)

// forbiddenUser is how an API server names the user that it refuses.
var forbiddenUser = regexp.MustCompile(`User "([^"]*)"`)

// ErrNotTrusted is a cluster's 401.
var ErrNotTrusted = errors.New("401")

// WhoAmI is the name by which a cluster knows the holder of a certificate.
func WhoAmI(ctx context.Context, cl api.Cluster, chain, key string) (string, error) {
	cert, err := tls.X509KeyPair([]byte(chain), []byte(key))
	if err != nil {
		return "", fmt.Errorf("using the certificate: %w", err)
	}
	// As kubectl does, the certificate is shown whichever authorities the server names: one that names others would otherwise
	// see no certificate, and not one that it does not trust.
	conf := &tls.Config{MinVersion: tls.VersionTLS12,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }}
	if cl.CA != "" {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM([]byte(cl.CA)) {
			return "", errors.New("its authorities cannot be read")
		}
	}
	conf.ServerName = cl.TLSServerName
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: conf, DisableKeepAlives: true}
	if cl.ProxyURL != "" {
		proxy, err := url.Parse(cl.ProxyURL)
		if err != nil {
			return "", fmt.Errorf("reading its proxy's address: %w", err)
		}
		transport.Proxy = http.ProxyURL(proxy)
	}
	client := &http.Client{Transport: transport, Timeout: accessTime, CheckRedirect: func(*http.Request,
		[]*http.Request) error {
		return http.ErrUseLastResponse
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(cl.Server, "/")+reviewPath, strings.NewReader(review))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, accessAnswer))
	if err != nil {
		return "", err
	}
	var out struct {
		Kind    string          `json:"kind"`
		Message string          `json:"message"` // of a Status
		Status  json.RawMessage `json:"status"`
	}
	if resp.StatusCode == http.StatusUnauthorized {
		return "", ErrNotTrusted
	}
	if err := json.Unmarshal(body, &out); err != nil {
		return "", fmt.Errorf("it answers %d, and not as an API server does", resp.StatusCode)
	}
	switch {
	case resp.StatusCode == http.StatusCreated && out.Kind == "SelfSubjectReview":
		var status struct {
			UserInfo struct {
				Username string `json:"username"`
			} `json:"userInfo"`
		}
		if err := json.Unmarshal(out.Status, &status); err != nil || status.UserInfo.Username == "" {
			return "", errors.New("it does not say who you are")
		}
		return status.UserInfo.Username, nil
	case resp.StatusCode == http.StatusForbidden: // older than 1.28, or anonymous: the refusal names the user
		if m := forbiddenUser.FindStringSubmatch(out.Message); m != nil {
			return m[1], nil
		}
	}
	return "", fmt.Errorf("it answers %d", resp.StatusCode)
}
