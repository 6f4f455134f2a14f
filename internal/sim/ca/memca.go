// Package memca is a certificate authority in memory: the signer of `breakglassd dev` and of tests in which a real Vault
// would add nothing. It signs what Vault signs under the shipped role, keeps every certificate so that Find finds it, and lets
// a test place a fault exactly: refuse, sign and lose the answer, or answer something else.
package memca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/breakglassd/breakglass/internal/breakglass"
)

// Life is how long a CA of this package lives.
const Life = 30 * 24 * time.Hour

// CA is one authority for one cluster or several. It is safe for concurrent use.
type CA struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate

	mu     sync.Mutex // guards what follows
	issued []*x509.Certificate
	calls  int

	// OnCheck, if set, is asked before every Check.
	OnCheck func(cluster, group string) error
	// OnSign, if set, places a fault: apply says whether the certificate comes to exist, err what the caller is told
	// (wrap breakglass.ErrNotSigned to say that none does).
	OnSign func(o breakglass.Order) (apply bool, err error)
	// OnTemplate, if set, changes what is signed: an authority that does not do as it is told.
	OnTemplate func(o breakglass.Order, t *x509.Certificate)
}

// New makes an authority with a fresh P-256 key, valid from now.
func New(name string) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a CA key: %w", err)
	}
	now := time.Now().UTC()
	t := &x509.Certificate{SerialNumber: serial(), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Minute),
		NotAfter: now.Add(Life),
		IsCA:     true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making a CA certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading the CA certificate back: %w", err)
	}
	return &CA{key: key, cert: cert}, nil
}

// Certificate is the CA's own certificate.
func (c *CA) Certificate() *x509.Certificate { return c.cert }

// PEM is the CA's own certificate for a client-CA bundle.
func (c *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})
}

// Check implements breakglass.Signer.
func (c *CA) Check(_ context.Context, cluster, group string) error {
	if c.OnCheck != nil {
		return c.OnCheck(cluster, group)
	}
	return nil
}

// Sign implements breakglass.Signer.
func (c *CA) Sign(_ context.Context, o breakglass.Order) (breakglass.Signed, error) {
	c.mu.Lock()
	c.calls++
	c.mu.Unlock()
	apply, fault := true, error(nil)
	if c.OnSign != nil {
		apply, fault = c.OnSign(o)
	}
	var signed breakglass.Signed
	if apply {
		var err error
		if signed, err = c.sign(o); err != nil {
			return breakglass.Signed{}, err
		}
	}
	if fault != nil {
		return breakglass.Signed{}, fault
	}
	return signed, nil
}

func (c *CA) sign(o breakglass.Order) (breakglass.Signed, error) {
	csr, err := x509.ParseCertificateRequest(o.CSR)
	if err != nil {
		return breakglass.Signed{}, fmt.Errorf("%w: reading the certificate request: %w", breakglass.ErrNotSigned, err)
	}
	now := time.Now().UTC()
	t := &x509.Certificate{SerialNumber: serial(), Subject: pkix.Name{CommonName: o.CommonName}, NotBefore: now.Add(-breakglass.Backdate),
		NotAfter: now.Add(o.TTL),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true}
	if o.Group != "" {
		t.Subject.Organization = []string{o.Group}
	}
	if c.OnTemplate != nil {
		c.OnTemplate(o, t)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, c.cert, csr.PublicKey, c.key)
	if err != nil {
		return breakglass.Signed{}, fmt.Errorf("%w: signing: %w", breakglass.ErrNotSigned, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return breakglass.Signed{}, fmt.Errorf("reading the certificate back: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.issued = append(c.issued, cert)
	return breakglass.Signed{Certificate: der, Issuer: c.cert.Raw}, nil
}

// Find implements breakglass.Signer.
func (c *CA) Find(_ context.Context, _, commonName string) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for _, cert := range c.Issued() {
		if cert.Subject.CommonName == commonName {
			out = append(out, cert)
		}
	}
	return out, nil
}

// Issued lists every certificate that was ever signed.
func (c *CA) Issued() []*x509.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*x509.Certificate(nil), c.issued...)
}

// Calls is how often Sign was called.
func (c *CA) Calls() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls
}

// serial is a random positive number of 159 bits, like Vault's.
func serial() *big.Int {
	b := make([]byte, 20)
	rand.Read(b)
	b[0] = b[0]&0x7f | 0x40 // positive, and never short
	return new(big.Int).SetBytes(b)
}
