package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/rotation"
)

// Greet asks one API server who the canary is. Only an answer with the canary's own name and fingerprint is acceptance, and only a
// 401 from a server that proved to be the API server is a refusal.
func (o *Observer) Greet(ctx context.Context, address string, canary tls.Certificate, commonName string) rotation.Greeting {
	return greet(ctx, o.bare(address, &canary), "https://"+address, canary, commonName)
}

// GreetAsPeople shows a canary to the address that people's kubeconfigs get, the way they go and trusting what they trust.
func (c *Clusters) GreetAsPeople(ctx context.Context, cluster, server string, canary tls.Certificate, commonName string) rotation.Greeting {
	cannot := func(err error) rotation.Greeting {
		return rotation.Greeting{At: time.Now().UTC(), Outcome: rotation.OutcomeUnreached, Why: err.Error()}
	}
	t, err := c.target(cluster)
	if err != nil {
		return cannot(err)
	}
	rc, err := t.peoplesWay()
	if err != nil {
		return cannot(err)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.people.TLSServerName,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &canary, nil }}
	if len(t.peopleCA) > 0 {
		conf.RootCAs = x509.NewCertPool()
		conf.RootCAs.AppendCertsFromPEM(t.peopleCA)
	}
	return greet(ctx, alone(rc, conf, t.rest.Timeout), strings.TrimRight(server, "/"), canary, commonName)
}

func greet(ctx context.Context, client *http.Client, base string, canary tls.Certificate, commonName string) rotation.Greeting {
	g := rotation.Greeting{At: time.Now().UTC(), Outcome: rotation.OutcomeUnreached}
	body, err := json.Marshal(authenticationv1.SelfSubjectReview{TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1",
		Kind: "SelfSubjectReview"}})
	if err != nil {
		g.Why = err.Error()
		return g
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/apis/authentication.k8s.io/v1/selfsubjectreviews",
		bytes.NewReader(body))
	if err != nil {
		g.Why = err.Error()
		return g
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", ManagedBy+" canary")
	resp, err := client.Do(req)
	if err != nil {
		g.Why = plain(err)
		return g
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxRead))
	if err != nil {
		g.Why = plain(err)
		return g
	}
	g.Outcome, g.Why = outcome(resp.StatusCode, text, commonName, "X509SHA256="+breakglass.Fingerprint(canary.Certificate[0]))
	return g
}

// outcome says what an answer to a SelfSubjectReview means for a canary of this name and fingerprint.
func outcome(status int, text []byte, commonName, fingerprint string) (rotation.Outcome, string) {
	switch status {
	case http.StatusUnauthorized:
		return rotation.OutcomeRefused, ""
	case http.StatusForbidden:
		var s metav1.Status
		if json.Unmarshal(text, &s) == nil && strings.Contains(s.Message, `"`+commonName+`"`) {
			return rotation.OutcomeUnproven, "it may not ask who it is (the binding system:basic-user is missing)"
		}
		return rotation.OutcomeOther, "the request was forbidden, for somebody else"
	case http.StatusCreated, http.StatusOK:
	default:
		return rotation.OutcomeUnreached, fmt.Sprintf("the answer has status %d", status)
	}
	var review authenticationv1.SelfSubjectReview
	if err := json.Unmarshal(text, &review); err != nil || review.Status.UserInfo.Username == "" {
		return rotation.OutcomeUnreached, "the answer is not a SelfSubjectReview"
	}
	who := review.Status.UserInfo
	switch ids := who.Extra[CredentialIDKey]; {
	case who.Username != commonName:
		return rotation.OutcomeOther, fmt.Sprintf("the answer is for %q", who.Username)
	case len(ids) == 0:
		return rotation.OutcomeUnproven, "the server does not tell the credential's fingerprint"
	case len(ids) != 1 || ids[0] != fingerprint:
		return rotation.OutcomeOther, fmt.Sprintf("the answer is for the credential %q, and %q was issued", []string(ids), fingerprint)
	}
	return rotation.OutcomeAccepted, ""
}
