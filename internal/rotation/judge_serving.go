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
				j.find(Warning, "serving-ca-odd/"+short(der), p.where, "replace it", "a CA in %s cannot be parsed", p.where)
				continue
			}
			pool.AddCert(c)
			j.add("serving-ca", short(der), p.where, c)
			j.ends("serving-ca", short(der), p.where, "rotate the cluster's CA, and put the new one into every kubeconfig", c,
				"the CA %q that vouches for the API servers ends %s", c.Subject, stamp(c.NotAfter))
		}
		for _, s := range j.o.Servers {
			leaf, rest := chain(s.Serving)
			if leaf == nil {
				continue
			}
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: rest, CurrentTime: j.now,
				KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil && !Expired(leaf.NotAfter, j.now) {
				j.find(Warning, "serving-chain/"+s.Address+"/"+p.where, s.Address, "put the CA that signed the serving certificate into "+p.where,
					"whoever believes %s cannot verify the API server at %s", p.where, s.Address)
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

// ends judges how near the end of a certificate is. The lead time that has passed is part of the key, so that each is told.
func (j *judge) ends(kind, generation, where, next string, c *x509.Certificate, what string, args ...any) {
	key := kind + "-expires/" + generation
	if step := Announced(c.NotBefore, c.NotAfter, j.now, j.t); step != "" {
		key += "/" + step
	}
	j.find(ExpirySeverity(c.NotBefore, c.NotAfter, j.now, j.t), key, where, next, what, args...)
}

// leaf judges a certificate that is not a CA's.
func (j *judge) leaf(kind, generation, where string, c *x509.Certificate, next string) {
	key, _, weak := Strength(c.PublicKey)
	j.authority(kind, generation, where, key, c)
	j.ends(kind, generation, where, next, c, "the certificate %q ends %s", c.Subject, stamp(c.NotAfter))
	j.find(weak, kind+"-key/"+generation, where, next, "the certificate %q has the weak key %s", c.Subject, key)
	j.find(HashSeverity(c.SignatureAlgorithm, selfSigned(c)), kind+"-hash/"+generation, where, next, "the certificate %q is signed with %s",
		c.Subject, c.SignatureAlgorithm)
}

func (j *judge) serviceAccounts() {
	sa := j.o.ServiceAccounts
	if sa == nil {
		return
	}
	const where = "/openid/v1/jwks"
	if len(sa.Keys) == 0 {
		j.find(Warning, "service-account-none", where, "look at --service-account-key-file",
			"the cluster tells of no key for service account tokens")
	}
	if len(sa.Keys) > 1 {
		j.find(Info, "service-account-keys", where, "when the tokens of the old key have ended, take it out of --service-account-key-file",
			"there are %d keys for service account tokens: a rotation of them is under way, or was not finished", len(sa.Keys))
	}
	for _, k := range sa.Keys {
		id := k.ID[:min(8, len(k.ID))]
		name := fmt.Sprintf("%s-%d", k.Type, k.Bits)
		j.r.Authorities = append(j.r.Authorities, Authority{Kind: "service-account", Generation: id, Where: where, Subject: sa.Issuer,
			Key: name + " " + k.Algorithm})
		j.find(KeySeverity(k.Type, k.Bits), "service-account-key/"+id, where,
			"make a new signing key, and keep the old one for verification until its tokens have ended",
			"the key %s of service account tokens is weak: %s", id, name)
		if !slices.Contains([]string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256"}, k.Algorithm) {
			j.find(Warning, "service-account-algorithm/"+id, where, "look at --service-account-signing-key-file",
				"service account tokens are signed with %q", k.Algorithm)
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
				j.find(Info, e.Kind+"-self-signed/"+e.Where, e.Where, "use certificates from a CA (serverTLSBootstrap)",
					"%s serves with a certificate that it signed itself, so the API server cannot know it", e.Where)
			}
		}
		for _, der := range slices.Concat(e.CAs, e.Chain[min(1, len(e.Chain)):]) {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				j.find(Warning, e.Kind+"-ca-odd/"+short(der), e.Where, "replace it", "a CA in %s cannot be parsed", e.Where)
				continue
			}
			j.add(e.Kind, short(der), e.Where, c)
			j.ends(e.Kind+"-ca", short(der), e.Where, "rotate it", c, "the %s CA %q ends %s", e.Kind, c.Subject, stamp(c.NotAfter))
		}
	}
}
