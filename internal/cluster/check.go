package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net"
	"net/url"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A Finding is one result of Check.
type Finding struct {
	OK   bool
	What string // what was looked at, and what was found
	Next string // what to do about it; empty if OK
}

// forbidden is what the daemon's credential must not be able to do: with any of it, a stolen credential would be worth more
// than the bindings it is for.
var forbidden = []authorizationv1.ResourceAttributes{
	{Verb: "*", Group: "*", Resource: "*"},
	{Verb: "escalate", Group: "rbac.authorization.k8s.io", Resource: "clusterroles"},
	{Verb: "bind", Group: "rbac.authorization.k8s.io", Resource: "clusterroles"}, // of every name
	{Verb: "create", Group: "rbac.authorization.k8s.io", Resource: "clusterroles"},
	{Verb: "update", Group: "rbac.authorization.k8s.io", Resource: "clusterroles"},
	{Verb: "impersonate", Resource: "users"},
	{Verb: "impersonate", Resource: "groups"},
	{Verb: "get", Resource: "secrets"},
	{Verb: "list", Resource: "secrets"},
	{Verb: "create", Resource: "pods"},
	{Verb: "create", Resource: "pods", Subresource: "exec"},
	{Verb: "create", Resource: "serviceaccounts", Subresource: "token"},
	{Verb: "update", Group: "certificates.k8s.io", Resource: "certificatesigningrequests", Subresource: "approval"},
	{Verb: "create", Group: "admissionregistration.k8s.io", Resource: "validatingwebhookconfigurations"},
	{Verb: "get", Resource: "nodes", Subresource: "proxy"},
}

// Check asks the API server whether the daemon's credential works and can do what it must and nothing more. bind names the
// ClusterRoles that the cluster's profiles bind.
func (c *Clusters) Check(ctx context.Context, cluster string, bind []string) []Finding {
	t, err := c.target(cluster)
	if err != nil {
		return []Finding{{What: err.Error(), Next: "add it under clusters"}}
	}
	me, err := t.who.SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return []Finding{{What: t.explain("signing in", err).Error(), Next: "nothing can be bound or cut off there until this works"}}
	}
	out := []Finding{{OK: true, What: fmt.Sprintf("cluster %s answers at %s and knows the daemon as %s", cluster, t.rest.Host, me.Status.UserInfo.Username)}}
	var need []authorizationv1.ResourceAttributes
	for _, resource := range []string{"clusterrolebindings", "rolebindings"} {
		for _, verb := range []string{"create", "get", "list", "delete"} {
			need = append(need, authorizationv1.ResourceAttributes{Verb: verb, Group: "rbac.authorization.k8s.io", Resource: resource})
		}
	}
	for _, role := range bind {
		need = append(need, authorizationv1.ResourceAttributes{Verb: "bind", Group: "rbac.authorization.k8s.io", Resource: "clusterroles", Name: role})
	}
	before := len(out)
	for _, list := range []struct {
		attributes []authorizationv1.ResourceAttributes
		allowed    bool
	}{{need, true}, {forbidden, false}} {
		for _, a := range list.attributes {
			allowed, err := t.allowed(ctx, a)
			switch {
			case err != nil:
				return append(out, Finding{What: t.explain("asking what the daemon may do", err).Error(), Next: "run doctor again"})
			case allowed && !list.allowed:
				out = append(out, Finding{What: fmt.Sprintf("the daemon may %s in cluster %s, which it does not need", describe(a), cluster), Next: "take that right away: policies/kubernetes/ is all it needs"})
			case !allowed && list.allowed:
				out = append(out, Finding{What: fmt.Sprintf("the daemon may not %s in cluster %s", describe(a), cluster), Next: "apply policies/kubernetes/, and name the ClusterRole there"})
			}
		}
	}
	if len(out) == before {
		out = append(out, Finding{OK: true, What: fmt.Sprintf("the daemon's rights in cluster %s are the %d it needs; none of %d dangerous ones", cluster, len(need), len(forbidden))})
	}
	return out
}

func (t *target) allowed(ctx context.Context, a authorizationv1.ResourceAttributes) (bool, error) {
	answer, err := t.may.SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &a}}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return answer.Status.Allowed, nil
}

func describe(a authorizationv1.ResourceAttributes) string {
	what := a.Resource
	if a.Subresource != "" {
		what += "/" + a.Subresource
	}
	if a.Name != "" {
		what += " " + a.Name
	}
	return a.Verb + " " + what
}

// TrustsCA reports whether the API server lists the CA among those whose client certificates it takes, as it tells every
// client in the TLS handshake, without any credential. names is everything it lists.
func (c *Clusters) TrustsCA(ctx context.Context, cluster string, ca *x509.Certificate) (trusted bool, names []string, err error) {
	t, err := c.target(cluster)
	if err != nil {
		return false, nil, err
	}
	u, err := url.Parse(t.rest.Host)
	if err != nil {
		return false, nil, fmt.Errorf("reading the API server's address: %w", err)
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "443")
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.rest.ServerName}
	if len(t.rest.CAData) > 0 {
		conf.RootCAs = x509.NewCertPool()
		conf.RootCAs.AppendCertsFromPEM(t.rest.CAData)
	}
	conf.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		for _, raw := range info.AcceptableCAs {
			names = append(names, distinguishedName(raw))
			trusted = trusted || string(raw) == string(ca.RawSubject)
		}
		return &tls.Certificate{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, t.rest.Timeout)
	defer cancel()
	conn, err := (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", host)
	if err != nil {
		return false, nil, t.explain("shaking hands", err)
	}
	return trusted, names, conn.Close()
}

func distinguishedName(raw []byte) string {
	var seq pkix.RDNSequence
	if rest, err := asn1.Unmarshal(raw, &seq); err != nil || len(rest) > 0 {
		return "(unreadable)"
	}
	return seq.String()
}
