package rotation

import (
	"crypto/x509"
	"fmt"
	"slices"
)

// What is judged of the certificates that servers show, and of keys for tokens.

// serving judges what the API servers prove themselves with, and the CAs that clients are told to believe.
func (j *judge) serving() {
	type pin struct {
		where string
		cas   [][]byte
	}
	pins := []pin{}
	if len(j.o.RootCA) > 0 {
		pins = append(pins, pin{"ConfigMap kube-root-ca.crt", j.o.RootCA})
	}
	for _, k := range j.o.Kubeconfigs {
		pins = append(pins, pin{k.Name, k.CAs})
	}
	for _, p := range pins {
		pool := x509.NewCertPool()
		for _, der := range p.cas {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				j.add(Verdict{
					Severity: Warning, Key: "serving-ca-odd/" + short(der), Where: p.where,
					What: fmt.Sprintf("a CA in %s cannot be parsed", p.where),
					Next: "replace it",
				})
				continue
			}
			pool.AddCert(c)
			j.sawCA("serving-ca", short(der), p.where, c)
			j.expiry(c, Verdict{
				Key: "serving-ca-expires/" + short(der), Where: p.where,
				What: fmt.Sprintf("the CA %q that vouches for the API servers ends %s", c.Subject, stamp(c.NotAfter)),
				Next: "rotate the cluster's CA, and put the new one into every kubeconfig",
			})
		}
		for _, s := range j.o.Servers {
			leaf, rest := chain(s.Serving)
			if leaf == nil {
				continue
			}
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: rest, CurrentTime: j.now,
				KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil && !Expired(leaf.NotAfter, j.now) {
				j.add(Verdict{
					Severity: Warning, Key: "serving-chain/" + s.Address + "/" + p.where, Where: s.Address,
					What: fmt.Sprintf("a client that believes %s cannot verify the API server at %s", p.where, s.Address),
					Next: "put the CA that signed the serving certificate into " + p.where,
				})
			}
		}
	}
	for _, s := range j.o.Servers {
		leaf, _ := chain(s.Serving)
		if leaf == nil {
			continue
		}
		j.leaf("serving", s.Address, s.Address, leaf, "renew the certificate of this API server (kubeadm certs renew apiserver)")
	}
}

// chain parses what a server sent.
func chain(ders [][]byte) (*x509.Certificate, *x509.CertPool) {
	pool := x509.NewCertPool()
	var leaf *x509.Certificate
	for i, der := range ders {
		c, err := x509.ParseCertificate(der)
		switch {
		case err != nil && i == 0:
			return nil, pool
		case err != nil:
		case i == 0:
			leaf = c
		default:
			pool.AddCert(c)
		}
	}
	return leaf, pool
}

// leaf judges a certificate that is not a CA's.
func (j *judge) leaf(kind, generation, where string, c *x509.Certificate, next string) {
	key, _, weak := Strength(c.PublicKey)
	j.authority(kind, generation, where, key, c)
	j.expiry(c, Verdict{
		Key: kind + "-expires/" + generation, Where: where,
		What: fmt.Sprintf("the certificate %q ends %s", c.Subject, stamp(c.NotAfter)),
		Next: next,
	})
	j.add(Verdict{
		Severity: weak, Key: kind + "-key/" + generation, Where: where,
		What: fmt.Sprintf("the certificate %q has the weak key %s", c.Subject, key),
		Next: next,
	})
	j.add(Verdict{
		Severity: HashSeverity(c.SignatureAlgorithm, selfSigned(c)), Key: kind + "-hash/" + generation, Where: where,
		What: fmt.Sprintf("the certificate %q is signed with %s", c.Subject, c.SignatureAlgorithm),
		Next: next,
	})
}

func (j *judge) serviceAccounts() {
	sa := j.o.ServiceAccounts
	if sa == nil {
		return
	}
	const where = "/openid/v1/jwks"
	if len(sa.Keys) == 0 {
		j.add(Verdict{
			Severity: Warning, Key: "service-account-none", Where: where,
			What: "the cluster tells of no key for service account tokens",
			Next: "look at --service-account-key-file",
		})
	}
	if len(sa.Keys) > 1 {
		j.add(Verdict{
			Severity: Info, Key: "service-account-keys", Where: where,
			What: fmt.Sprintf("there are %d keys for service account tokens: a rotation of them is under way, or was not finished", len(sa.Keys)),
			Next: "when the tokens of the old key have ended, remove it from --service-account-key-file",
		})
	}
	for _, k := range sa.Keys {
		id := k.ID[:min(8, len(k.ID))]
		name := fmt.Sprintf("%s-%d", k.Type, k.Bits)
		j.r.Authorities = append(j.r.Authorities, Authority{Kind: "service-account", Generation: id, Where: where, Subject: sa.Issuer,
			Key: name + " " + k.Algorithm})
		j.add(Verdict{
			Severity: KeySeverity(k.Type, k.Bits), Key: "service-account-key/" + id, Where: where,
			What: fmt.Sprintf("the key %s of service account tokens is weak: %s", id, name),
			Next: "make a new signing key, and keep the old one for verification until its tokens have ended",
		})
		if !slices.Contains([]string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256"}, k.Algorithm) {
			j.add(Verdict{
				Severity: Warning, Key: "service-account-algorithm/" + id, Where: where,
				What: fmt.Sprintf("service account tokens are signed with %q", k.Algorithm),
				Next: "look at --service-account-signing-key-file",
			})
		}
	}
}

func (j *judge) endpoints() {
	for _, e := range j.o.Endpoints {
		leaf, _ := chain(e.Chain)
		if leaf != nil {
			next := "renew it"
			if e.Kind == KindKubelet {
				next = "let the kubelet renew it (serverTLSBootstrap), and approve its CSR"
			}
			j.leaf(e.Kind+"-serving", e.Where, e.Where, leaf, next)
			if selfSigned(leaf) {
				j.add(Verdict{
					Severity: Info, Key: e.Kind + "-self-signed/" + e.Where, Where: e.Where,
					What: fmt.Sprintf("%s serves with a certificate that it signed itself, so the API server cannot know it", e.Where),
					Next: "use certificates from a CA (serverTLSBootstrap)",
				})
			}
		}
		for _, der := range slices.Concat(e.CAs, e.Chain[min(1, len(e.Chain)):]) {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				j.add(Verdict{
					Severity: Warning, Key: e.Kind + "-ca-odd/" + short(der), Where: e.Where,
					What: fmt.Sprintf("a CA in %s cannot be parsed", e.Where),
					Next: "replace it",
				})
				continue
			}
			j.sawCA(e.Kind, short(der), e.Where, c)
			j.expiry(c, Verdict{
				Key: e.Kind + "-ca" + "-expires/" + short(der), Where: e.Where,
				What: fmt.Sprintf("the %s CA %q ends %s", e.Kind, c.Subject, stamp(c.NotAfter)),
				Next: "rotate it",
			})
		}
	}
}
