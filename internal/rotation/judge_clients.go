package rotation

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"
)

// What is judged of the other CAs whose certificates people and machines sign in with.

// publishedAt is where kube-apiserver publishes the client CAs and the request-header CAs that it takes.
const publishedAt = "ConfigMap kube-system/extension-apiserver-authentication"

// client judges the client-CA bundles: what else is trusted, when it ends, and what is left over.
func (j *judge) client() {
	published := map[string]bool{} // by subject
	clients := j.published(published)
	// A CA that has ended is missing in the ConfigMap, and the operator's word for it remains.
	for _, der := range j.o.KnownClientCAs {
		c, err := x509.ParseCertificate(der)
		if g := j.issuerOf(c); err == nil && (g == nil || g.ClusterCA != "") {
			j.sawCA("client", short(der), "client_ca_files", c)
			clients = append(clients, c)
		}
	}
	for _, c := range clients {
		j.clientEnds(c, clients, j.expected(c.Raw))
	}
	j.others(published)
}

// issuerOf is the issuer in Vault with this certificate, nil if there is no such issuer.
func (j *judge) issuerOf(c *x509.Certificate) *Generation {
	i := slices.IndexFunc(j.r.Generations, func(g Generation) bool { return g.cert.Equal(c) })
	if i < 0 {
		return nil
	}
	return &j.r.Generations[i]
}

// expected reports whether a client CA is one that the cluster or the configuration names.
func (j *judge) expected(der []byte) bool {
	return slices.ContainsFunc(slices.Concat(j.o.KnownClientCAs, j.o.RootCA), func(k []byte) bool { return bytes.Equal(k, der) })
}

// published judges the client CAs that the cluster publishes, and adds their subjects to those given. It returns the ones that are not
// ours alone: who holds a certificate of one of them is a user of the cluster. Ours have a lifetime of their own.
func (j *judge) published(subjects map[string]bool) (clients []*x509.Certificate) {
	if j.o.Published == nil {
		return nil
	}
	for _, der := range j.o.Published.ClientCAs {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			j.add(Verdict{
				Severity: Warning, Key: "client-ca-odd/" + short(der), Where: publishedAt,
				What: "a client CA cannot be parsed",
				Next: "look at it, and remove it from the bundles",
			})
			continue
		}
		subjects[string(c.RawSubject)] = true
		left := len(j.listing(c.RawSubject)) == 0 && j.allReached()
		g := j.issuerOf(c)
		if g == nil || g.ClusterCA != "" {
			j.sawCA("client", short(der), publishedAt, c)
			clients = append(clients, c)
		} else if Expired(c.NotAfter, j.now) {
			j.add(Verdict{
				Severity: Info, Key: "client-ca-expired/" + short(der), Where: publishedAt,
				What: fmt.Sprintf("the client CA %q (%s) ended %s", c.Subject, short(der), stamp(c.NotAfter)),
				Next: "remove it from the bundles",
			})
		}
		if g != nil {
			continue
		}
		if !j.expected(der) {
			j.add(Verdict{
				Severity: Warning, Key: "client-ca-unknown/" + short(der), Where: publishedAt,
				What: fmt.Sprintf("the cluster takes client certificates of %q (%s), which is neither ours nor the cluster's own", c.Subject,
					short(der)),
				Next: "find out whose it is: the holder of its key can be any user. Name it under known client CAs (ca_checks.client_ca_files) if " +
					"kubelets or the control plane sign in by it; otherwise remove it from the bundles",
			})
		}
		if left && !Expired(c.NotAfter, j.now) {
			j.add(Verdict{
				Severity: Warning, Key: "residue/" + short(der), Where: publishedAt,
				What: fmt.Sprintf("no API server lists %q (%s) now, and aggregated API servers still take its certificates", c.Subject,
					short(der)),
				Next: "kubectl -n kube-system delete configmap extension-apiserver-authentication (it is made again at once), then restart the " +
					"aggregated API servers",
			})
		}
	}
	for _, g := range j.r.Generations {
		if g.Published == Yes && g.Position != PositionOld && count(j.r.Servers, g.Name, true).nowhere() {
			j.add(Verdict{
				Severity: Warning, Key: "residue/" + g.Name, Where: publishedAt,
				What: fmt.Sprintf("no API server takes certificates of %s, and aggregated API servers still do", g.Name),
				Next: "kubectl -n kube-system delete configmap extension-apiserver-authentication (it is made again at once), then restart the " +
					"aggregated API servers",
			})
		}
	}
	return clients
}

// others lists the subjects that each API server names beside our CAs, and judges those that the ConfigMap does not hold.
func (j *judge) others(published map[string]bool) {
	front := map[string]bool{} // kube-apiserver lists its request-header CAs too
	if j.o.Published != nil {
		for _, der := range j.o.Published.RequestHeader {
			if c, err := x509.ParseCertificate(der); err == nil {
				front[string(c.RawSubject)] = true
			}
		}
	}
	for i, s := range j.o.Servers {
		var others []string
		for _, h := range s.Handshakes {
			for _, n := range h.Names {
				if slices.ContainsFunc(j.r.Generations, func(g Generation) bool { return bytes.Equal(g.cert.RawSubject, n) }) {
					continue
				}
				name := subjectName(n)
				if !slices.Contains(others, name) {
					others = append(others, name)
				}
				if j.o.Published != nil && !published[string(n)] && !front[string(n)] && s.Wrong == "" {
					j.add(Verdict{
						Severity: Warning, Key: "client-ca-unpublished/" + s.Address + "/" + name, Where: s.Address,
						What: fmt.Sprintf("%s takes client certificates of %q, which the ConfigMap does not hold", s.Address, name),
						Next: "compare the bundle files of the API servers: this one may have another",
					})
				}
			}
		}
		j.r.Servers[i].Others = others
	}
}

// clientEnds judges the end of a client CA that is not ours alone. With it ends the access of every holder of a certificate of
// it, such as every kubelet. What only the ConfigMap still has, and no configuration expects, may end.
func (j *judge) clientEnds(c *x509.Certificate, all []*x509.Certificate, expected bool) {
	renewed := func(other *x509.Certificate) bool {
		return other.NotAfter.After(c.NotAfter) && bytes.Equal(other.RawSubject, c.RawSubject) &&
			bytes.Equal(other.RawSubjectPublicKeyInfo, c.RawSubjectPublicKeyInfo)
	}
	if slices.ContainsFunc(all, renewed) {
		j.left(short(c.Raw))
		return
	}
	at := j.listing(c.RawSubject)
	gone := len(at) == 0 && (!expected || j.allReached() && Expired(c.NotAfter, j.now)) // no server takes it, as far as can be seen
	if gone && j.allReached() {
		j.left(short(c.Raw))
	}
	if !gone {
		j.expiry(c, Verdict{
			Key: "client-ca-expires/" + short(c.Raw), Where: cmp.Or(strings.Join(at, ", "), "client_ca_files"),
			What: fmt.Sprintf("the client CA %q (%s) ends %s: every client that signs in by it is refused from then on, kubelets and the control "+
				"plane if "+
				"it is the cluster's own", c.Subject, short(c.Raw), stamp(c.NotAfter)),
			Next: "give the cluster its next client CA, append it to every bundle, and renew the certificates of kubelets and the control plane. " +
				"If that is done, remove this one from the bundles and the configuration, and delete the ConfigMap " +
				"extension-apiserver-authentication (it is made again at once)",
		})
		return
	}
	if Expired(c.NotAfter, j.now) {
		j.add(Verdict{
			Severity: Info, Key: "client-ca-expired/" + short(c.Raw), Where: publishedAt,
			What: fmt.Sprintf("the client CA %q (%s) ended %s, and no API server lists it", c.Subject, short(c.Raw), stamp(c.NotAfter)),
			Next: "remove it from the bundles and from client_ca_files",
		})
	}
}

func (j *judge) allReached() bool {
	return len(j.o.Servers) > 0 && !slices.ContainsFunc(j.o.Servers, func(s Server) bool {
		_, asked := names(s, nil)
		return s.Error != "" ||
			s.Wrong != "" || !asked
	})
}

// listing is the addresses that list a CA of this subject.
func (j *judge) listing(subject []byte) []string {
	var out []string
	for _, s := range j.o.Servers {
		if listed, _ := names(s, subject); listed {
			out = append(out, s.Address)
		}
	}
	return out
}

func subjectName(raw []byte) string {
	var seq pkix.RDNSequence
	if rest, err := asn1.Unmarshal(raw, &seq); err != nil || len(rest) > 0 {
		return "(unreadable)"
	}
	return seq.String()
}

func (j *judge) requestHeader() {
	const where = publishedAt
	p := j.o.Published
	if p == nil {
		return
	}
	if len(p.RequestHeader) == 0 {
		j.add(Verdict{
			Severity: Info, Key: "request-header-none", Where: where,
			What: "no authenticating proxy (request header) CA is configured",
			Next: "nothing, if no aggregated API server is used",
		})
		return
	}
	if len(p.AllowedNames) == 0 {
		j.add(Verdict{
			Severity: Warning, Key: "request-header-names", Where: where,
			What: "the holder of any certificate of the request-header CA can be any user: the list of allowed names is empty",
			Next: "set --requestheader-allowed-names=front-proxy-client",
		})
	}
	for _, der := range p.RequestHeader {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			j.add(Verdict{
				Severity: Warning, Key: "request-header-odd/" + short(der), Where: where,
				What: "a request-header CA cannot be parsed",
				Next: "replace it",
			})
			continue
		}
		j.sawCA("request-header", short(der), where, c)
		j.expiry(c, Verdict{
			Key: "request-header-expires/" + short(der), Where: where,
			What: fmt.Sprintf("the request-header CA %q ends %s", c.Subject, stamp(c.NotAfter)),
			Next: "rotate it (kubeadm certs), and restart the API servers",
		})
	}
}

// left marks a client CA as left over.
func (j *judge) left(generation string) {
	for i := range j.r.Authorities {
		if a := &j.r.Authorities[i]; a.Kind == "client" && a.Generation == generation {
			a.Left = true
		}
	}
}
