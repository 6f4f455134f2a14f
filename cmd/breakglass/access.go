package main

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
	"github.com/breakglassd/breakglass/internal/breakglass"
)

const (
	accessTime   = 5 * time.Second // for the cluster's whole answer
	accessAnswer = 1 << 20         // bytes of it
	reviewPath   = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
	review       = `{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`
)

// forbiddenUser is how an API server names the user that it refuses.
var forbiddenUser = regexp.MustCompile(`User "([^"]*)"`)

// checkAccess asks the cluster, at the address and with the authorities of the kubeconfig, whom it takes the new certificate for.
// That needs no right. A cluster that does not answer proves nothing, and is no error.
func (a *app) checkAccess(ctx context.Context, r api.Request, cl api.Cluster, chain, key string) error {
	a.screen.status("asking %s whether it accepts the certificate", cl.ID)
	me := breakglass.CommonName(r.Ask.By.Person, r.ID)
	kept := "what was written is kept: it works as soon as that is mended"
	user, err := whoAmI(ctx, cl, chain, key)
	switch {
	case errors.Is(err, errNotTrusted):
		return &failure{exit: exitUnreachable, code: "certificate-not-accepted", what: cl.ID + " answers 401 to the new certificate",
			why:  "its API servers do not trust the break-glass CA yet, or something before them ends TLS",
			next: "tell an operator: breakglassd doctor\n" + kept}
	case err != nil:
		a.screen.note("%s cannot tell whether %s accepts it: %v", a.screen.yellow("!"), cl.ID, err)
		return nil
	case user != me:
		return &failure{exit: exitUnreachable, code: "taken-for-another", what: fmt.Sprintf("%s takes you for %.200q, not for %s", cl.ID, user,
			me),
			why:  "the certificate does not reach its API servers: something in between ends TLS",
			next: "tell an operator: breakglassd doctor\n" + kept}
	}
	a.screen.note("%s %s accepts it: you are %s", a.screen.green("✓"), cl.ID, me)
	return nil
}

// errNotTrusted is a cluster's 401.
var errNotTrusted = errors.New("401")

// whoAmI is the name by which a cluster knows the holder of a certificate.
func whoAmI(ctx context.Context, cl api.Cluster, chain, key string) (string, error) {
	cert, err := tls.X509KeyPair([]byte(chain), []byte(key))
	if err != nil {
		return "", fmt.Errorf("using the certificate: %w", err)
	}
	// As kubectl does, the certificate is shown whichever authorities the server names: one that names others would otherwise
	// see nobody, and not a stranger.
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
		return "", errNotTrusted
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
			return "", errors.New("it does not say whom it takes you for")
		}
		return status.UserInfo.Username, nil
	case resp.StatusCode == http.StatusForbidden: // older than 1.28, or anonymous: the refusal names the user
		if m := forbiddenUser.FindStringSubmatch(out.Message); m != nil {
			return m[1], nil
		}
	}
	return "", fmt.Errorf("it answers %d", resp.StatusCode)
}
