package kubesim

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
)

const (
	anonymous       = "system:anonymous"
	authenticated   = "system:authenticated"
	unauthenticated = "system:unauthenticated"
	masters         = "system:masters"
	// credentialID is the extra field in which kube-apiserver (since v1.32) names the credential of a request.
	credentialID = "authentication.kubernetes.io/credential-id"
)

// authenticate answers who sent r, in kube-apiserver's order: client certificate, then bearer token, then anonymous.
// A credential that is refused is an error, unless another one in the same request is good. No credential at all is
// system:anonymous, and so is a good certificate with an empty CN.
func (s *Server) authenticate(r *http.Request) (authenticationv1.UserInfo, error) {
	user, ok, certErr := userFromCertificate(r, s.clients.Load())
	if ok {
		return withAuthenticated(user), nil
	}
	user, ok, tokenErr := s.userFromToken(r)
	if ok {
		return withAuthenticated(user), nil
	}
	if err := errors.Join(certErr, tokenErr); err != nil {
		return authenticationv1.UserInfo{}, err
	}
	return authenticationv1.UserInfo{Username: anonymous, Groups: []string{unauthenticated}}, nil
}

// userFromCertificate verifies the certificate that r's connection was opened with, against roots and the time now.
// Verification belongs to the request and not to the handshake: an open connection must not outlive its certificate.
// Intermediates come from the caller's own chain, so a leaf that is a CA by mistake would work as one, as in Kubernetes.
func userFromCertificate(r *http.Request, roots *x509.CertPool) (authenticationv1.UserInfo, bool, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return authenticationv1.UserInfo{}, false, nil
	}
	cert := r.TLS.PeerCertificates[0]
	opts := x509.VerifyOptions{
		Roots:         roots,
		Intermediates: x509.NewCertPool(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, c := range r.TLS.PeerCertificates[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := cert.Verify(opts); err != nil {
		return authenticationv1.UserInfo{}, false, fmt.Errorf("verifying client certificate %q, serial %x: %w",
			cert.Subject.CommonName, cert.SerialNumber, err)
	}
	// crypto/x509 keeps the last CN of several.
	if cert.Subject.CommonName == "" {
		return authenticationv1.UserInfo{}, false, nil
	}
	uid, err := uidFromCertificate(cert)
	if err != nil {
		return authenticationv1.UserInfo{}, false, err
	}
	sum := sha256.Sum256(cert.Raw)
	return authenticationv1.UserInfo{
		Username: cert.Subject.CommonName,
		UID:      uid,
		Groups:   cert.Subject.Organization,
		Extra:    map[string]authenticationv1.ExtraValue{credentialID: {"X509SHA256=" + hex.EncodeToString(sum[:])}},
	}, true, nil
}

// uidFromCertificate reads the subject attribute that Kubernetes takes for the user's UID since v1.33. Its object
// identifier is from k8s.io/apimachinery/pkg/apis/asn1.
func uidFromCertificate(cert *x509.Certificate) (string, error) {
	var uids []string
	for _, attribute := range cert.Subject.Names {
		if !attribute.Type.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57683, 2}) {
			continue
		}
		uid, ok := attribute.Value.(string)
		if !ok || uid == "" {
			return "", errors.New("the certificate's UID attribute is empty or not a string")
		}
		uids = append(uids, uid)
	}
	if len(uids) > 1 {
		return "", fmt.Errorf("the certificate has %d UID attributes, want at most one", len(uids))
	}
	return strings.Join(uids, ""), nil
}

func (s *Server) userFromToken(r *http.Request) (authenticationv1.UserInfo, bool, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if token = strings.TrimSpace(token); !strings.EqualFold(scheme, "bearer") || token == "" {
		return authenticationv1.UserInfo{}, false, nil
	}
	for _, t := range s.cfg.Tokens {
		if t.Value != "" && subtle.ConstantTimeCompare([]byte(t.Value), []byte(token)) == 1 {
			return authenticationv1.UserInfo{Username: t.User, Groups: t.Groups}, true, nil
		}
	}
	return authenticationv1.UserInfo{}, false, errors.New("invalid bearer token")
}

// withAuthenticated adds the group that everybody with a good credential is in, as kube-apiserver does.
func withAuthenticated(user authenticationv1.UserInfo) authenticationv1.UserInfo {
	if user.Username == anonymous || slices.Contains(user.Groups, authenticated) || slices.Contains(user.Groups, unauthenticated) {
		return user
	}
	user.Groups = append(slices.Clone(user.Groups), authenticated)
	return user
}
