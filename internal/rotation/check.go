package rotation

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/breakglassd/breakglass/internal/breakglass"
)

// CanaryTTL is the lifetime of a canary: what its role allows.
const CanaryTTL = time.Minute

// Canary is the order of one canary: a certificate without any right.
type Canary struct {
	Cluster    string        `json:"cluster"`
	CommonName string        `json:"common_name"` // unique
	Issuer     string        `json:"issuer"`      // id: the one issuer that is to sign
	SPKI       string        `json:"spki"`        // hex SHA-256 of its public key
	CSR        []byte        `json:"-"`           // DER
	TTL        time.Duration `json:"ttl_ns"`
}

// CertificateAuthority is what Checker needs of Vault; vaultca.CA is one.
type CertificateAuthority interface {
	// ObserveVault looks at the mount of a cluster. What it cannot see is in Vault.Unseen.
	ObserveVault(ctx context.Context, cluster string) Vault
	// SignCanary makes at most one signing call. The certificate that it returns is the canary and nothing else. An error that
	// wraps breakglass.ErrNotSigned guarantees that no certificate exists.
	SignCanary(ctx context.Context, o Canary) (breakglass.Signed, error)
}

// Viewer looks at one cluster from outside; cluster.Observer is one.
type Viewer interface {
	// View looks at everything but canaries. What it cannot see is in View.Unseen, and in each Server's Error.
	View(ctx context.Context) View
	// Greet shows a canary to one API server, whose address is one of View's.
	Greet(ctx context.Context, address string, canary tls.Certificate, commonName string) Greeting
}

// Checker checks the CAs of one cluster. It changes nothing but that canaries are signed. Check may be called concurrently.
type Checker struct {
	Cluster    string
	Vault      CertificateAuthority
	View       Viewer
	Thresholds Thresholds
	Known      func(ctx context.Context, cluster string) (Known, error) // from the ledger

	// People shows a canary to the address that people's kubeconfigs get, and says whether there is one. Nil: there is no such address.
	People func(ctx context.Context, canary tls.Certificate, commonName string) (g Greeting, ok bool)

	// Ordered is called before a canary is signed, and Done after it was shown to every server. Without Ordered there is no
	// signature: if it fails, none is asked for. That is where the ledger entries are made.
	Ordered func(ctx context.Context, o Canary) error
	Done    func(ctx context.Context, o Canary, s Signing, answers map[string]Greeting) error
}

// Check looks at everything, signs one canary for each issuer that can sign, and judges. It returns no error, because what could
// not be seen is a finding.
func (c *Checker) Check(ctx context.Context) Report {
	o := c.Observe(ctx)
	return Judge(o, c.Thresholds, time.Now().UTC())
}

// Observe is the looking of Check without the judging.
func (c *Checker) Observe(ctx context.Context) Observation {
	o := Observation{Cluster: c.Cluster, At: time.Now().UTC()}
	var wg sync.WaitGroup
	wg.Go(func() { o.Vault = c.Vault.ObserveVault(ctx, c.Cluster) })
	wg.Go(func() { o.View = c.View.View(ctx) })
	var knownErr error
	if c.Known != nil {
		o.Known, knownErr = c.Known(ctx, c.Cluster)
	}
	wg.Wait()
	if knownErr != nil {
		o.Known = Known{}
		o.Unseen = append(o.Unseen, Unseen{"ledger", "what the ledger knows of the old issuer's certificates: " + knownErr.Error(),
			"see the daemon's log"})
	}
	for _, i := range o.Vault.Issuers {
		cert, err := x509.ParseCertificate(i.Certificate)
		if err != nil || !canIssue(i) || Expired(cert.NotAfter, o.At.Add(CanaryTTL)) {
			continue
		}
		s, answers, people := c.canary(ctx, i.ID, o.Servers)
		o.Canaries = append(o.Canaries, s)
		if people != nil {
			o.People = append(o.People, *people)
		}
		for k := range o.Servers {
			if g, ok := answers[o.Servers[k].Address]; ok {
				o.Servers[k].Canaries = append(o.Servers[k].Canaries, g)
			}
		}
	}
	// A bundle may have been loaded between the handshakes and the canaries. What then looks like a contradiction is looked at again.
	if contradicts(o) {
		again := c.View.View(ctx)
		for _, s := range again.Servers {
			for k := range o.Servers {
				if o.Servers[k].Address == s.Address && s.Error == "" {
					o.Servers[k].Handshakes = s.Handshakes
				}
			}
		}
	}
	return o
}

// contradicts reports whether a server refuses the canary of an issuer whose name it lists, or the other way round.
func contradicts(o Observation) bool {
	for _, i := range o.Vault.Issuers {
		cert, err := x509.ParseCertificate(i.Certificate)
		if err != nil {
			continue
		}
		for _, s := range o.Servers {
			listed, asked := names(s, cert.RawSubject)
			for _, g := range s.Canaries {
				if asked && g.Issuer == i.ID && (g.Outcome == OutcomeRefused && listed || g.Outcome == OutcomeAccepted && !listed) {
					return true
				}
			}
		}
	}
	return false
}

// canary orders one canary, has it signed once and shows it to every API server that was reached.
func (c *Checker) canary(ctx context.Context, issuer string, servers []Server) (s Signing, answers map[string]Greeting, people *Greeting) {
	s.Issuer = issuer
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.Error = err.Error()
		return s, nil, nil
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{}}, key)
	if err != nil {
		s.Error = err.Error()
		return s, nil, nil
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		s.Error = err.Error()
		return s, nil, nil
	}
	o := Canary{Cluster: c.Cluster, CommonName: CanaryName(c.Cluster, rand.Text()), Issuer: issuer, SPKI: breakglass.SPKI(spki), CSR: csr,
		TTL: CanaryTTL}
	s.CommonName = o.CommonName
	if c.Ordered != nil {
		if err := c.Ordered(ctx, o); err != nil {
			s.Error = "the order could not be recorded, so nothing was signed: " + err.Error()
			return s, nil, nil
		}
	}
	answers = map[string]Greeting{}
	signed, err := c.Vault.SignCanary(ctx, o)
	switch leaf, perr := x509.ParseCertificate(signed.Certificate); {
	case err != nil:
		s.Error, s.Wrong = err.Error(), !errors.Is(err, breakglass.ErrNotSigned)
	case perr != nil:
		s.Error, s.Wrong = "what came back is no certificate", true
	default:
		s.Fingerprint, s.NotBefore, s.NotAfter = breakglass.Fingerprint(leaf.Raw), leaf.NotBefore, leaf.NotAfter
		pair := tls.Certificate{Certificate: append([][]byte{leaf.Raw}, signed.Chain...), PrivateKey: key, Leaf: leaf}
		var mu sync.Mutex // guards answers
		var wg sync.WaitGroup
		for _, server := range servers {
			if server.Error != "" || server.Wrong != "" {
				continue
			}
			wg.Go(func() {
				g := c.View.Greet(ctx, server.Address, pair, o.CommonName)
				g.Issuer = issuer
				mu.Lock()
				defer mu.Unlock()
				answers[server.Address] = g
			})
		}
		if c.People != nil {
			wg.Go(func() {
				if g, ok := c.People(ctx, pair, o.CommonName); ok {
					g.Issuer, people = issuer, &g
				}
			})
		}
		wg.Wait()
	}
	if c.Done != nil {
		if err := c.Done(ctx, o, s, answers); err != nil && s.Error == "" {
			s.Error = "the outcome could not be recorded: " + err.Error()
		}
	}
	return s, answers, people
}

// CanaryName is the common name of a canary. The cluster's id is cut to what fits into the 64 characters of a common name; the
// nonce makes it unique.
func CanaryName(cluster, nonce string) string {
	const nonceLen = 12
	room := 64 - len(CanaryPrefix) - 1 - nonceLen
	return fmt.Sprintf("%s%s:%s", CanaryPrefix, cluster[:min(room, len(cluster))], strings.ToLower(nonce[:min(nonceLen, len(nonce))]))
}
