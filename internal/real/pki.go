package real

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// A CA is a throw-away certificate authority with an ECDSA P-256 key, valid for a day. It signs what the real components
// serve with, and can play any CA that a test wants trusted or refused.
type CA struct {
	Cert    *x509.Certificate
	CertPEM []byte
	Key     crypto.Signer
}

// NewCA makes a CA whose subject is CN=commonName.
func NewCA(commonName string) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca := &CA{Key: key}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName},
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	ca.Cert = template
	if ca.CertPEM, err = ca.Sign(template, key.Public()); err != nil {
		return nil, err
	}
	block, _ := pem.Decode(ca.CertPEM)
	ca.Cert, err = x509.ParseCertificate(block.Bytes)
	return ca, err
}

// Sign returns the PEM certificate made from the template for the holder of pub. Where the template says nothing, the
// serial number is random and the certificate is valid from a minute ago until an hour from now. It checks nothing: tests
// need bad certificates too.
func (ca *CA) Sign(template *x509.Certificate, pub crypto.PublicKey) ([]byte, error) {
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Minute)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Cert, pub, ca.Key)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate for %q: %w", template.Subject, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// Client returns a client certificate and its new key, both PEM. Kubernetes reads commonName as the user and organizations
// as the groups.
func (ca *CA) Client(commonName string, organizations ...string) (certPEM, keyPEM []byte, err error) {
	return ca.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: commonName, Organization: organizations},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// Server returns a certificate and its new key, both PEM, to serve on 127.0.0.1 and localhost with.
func (ca *CA) Server(commonName string) (certPEM, keyPEM []byte, err error) {
	return ca.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: commonName},
		NotAfter:    ca.Cert.NotAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames:    []string{"localhost"},
	})
}

func (ca *CA) issue(template *x509.Certificate) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if certPEM, err = ca.Sign(template, key.Public()); err != nil {
		return nil, nil, err
	}
	keyPEM, err = encodeKey(key)
	return certPEM, keyPEM, err
}

func encodeKey(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// httpClient trusts this CA and nothing else, and ignores proxies.
func (ca *CA) httpClient() *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(ca.Cert)
	return &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true},
	}
}

// writeServing puts the CA's certificate and a serving certificate into dir, as ca.crt, server.crt and server.key.
func (ca *CA) writeServing(dir, commonName string) error {
	cert, key, err := ca.Server(commonName)
	if err != nil {
		return err
	}
	return writeFiles(dir, map[string][]byte{"ca.crt": ca.CertPEM, "server.crt": cert, "server.key": key})
}

// writeFiles makes dir and writes the named files into it.
func writeFiles(dir string, files map[string][]byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}
