package rotation

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"

	"github.com/breakglassd/breakglass/internal/breakglass"
)

// What is judged of CAs that do more than one job.

// clientSigners are the signers of the CSR API whose certificates are for signing in at API servers.
var clientSigners = []string{"kubernetes.io/kube-apiserver-client", "kubernetes.io/kube-apiserver-client-kubelet"}

// signers judges whose key the CSR API signs with: kube-controller-manager has it, and a user who may approve requests uses it.
func (j *judge) signers() {
	for _, s := range j.o.Signers {
		c, err := x509.ParseCertificate(s.Certificate)
		if err != nil {
			j.add(Verdict{
				Severity: Warning, Key: "csr-signer-odd/" + s.Name, Where: s.Name,
				What: fmt.Sprintf("the signer %s of the CSR API made something that is not a certificate", s.Name),
				Next: "look at what it signs: kubectl get certificatesigningrequests",
			})
			continue
		}
		client := slices.Contains(clientSigners, s.Name)
		trusted := false
		for _, a := range j.seen {
			if !bytes.Equal(c.RawIssuer, a.cert.RawSubject) || c.CheckSignatureFrom(a.cert) != nil {
				continue
			}
			key, _, _ := Strength(a.cert.PublicKey)
			row := Authority{Kind: "csr-signer", Generation: a.generation, Where: s.Name, Subject: a.cert.Subject.String(), Key: key,
				Fingerprint: breakglass.Fingerprint(a.cert.Raw)}
			if !slices.Contains(j.r.Authorities, row) {
				j.r.Authorities = append(j.r.Authorities, row)
			}
			const next = "give kube-controller-manager a CA of its own (--cluster-signing-cert-file)"
			switch a.kind {
			case "break-glass":
				g := j.generation(a.generation)
				if g != nil && g.ClusterCA != "" { // key-outside-vault tells of it
					trusted = true
					continue
				}
				j.add(Verdict{
					Severity: Critical, Key: "csr-signer/" + a.generation, Where: s.Name,
					What: fmt.Sprintf("the signer %s of the CSR API signs with the key of our CA %s: that key exists outside Vault, and a user who may "+
						"approve requests can make break-glass certificates", s.Name, a.generation),
					Next: "rotate to a CA that Vault makes itself (" + caPlan(j.o.Cluster) + "), and " + next,
				})
			case "client":
				trusted = true
			case "request-header", KindEtcd:
				j.add(Verdict{
					Severity: Critical, Key: "csr-signer/" + a.kind + "/" + a.generation, Where: s.Name,
					What: fmt.Sprintf("the signer %s of the CSR API signs with the %s CA %s: a user who may approve requests gets in there, past the API "+
						"server", s.Name, a.kind, a.generation),
					Next: next,
				})
			}
		}
		if client && !trusted && j.o.Published != nil {
			j.add(Verdict{
				Severity: Warning, Key: "csr-signer-untrusted/" + s.Name, Where: s.Name,
				What: fmt.Sprintf("the signer %s of the CSR API signs with %q, whose certificates no API server takes: nodes cannot renew theirs",
					s.Name, c.Issuer),
				Next: "put the CA of --cluster-signing-cert-file into the client-CA bundles, or give kube-controller-manager one that is in them",
			})
		}
	}
}

// shared looks for CAs that do more than one job.
func (j *judge) shared() {
	key := func(a authority) string { return string(a.cert.RawSubjectPublicKeyInfo) }
	for i, a := range j.seen {
		if j.closedClusterCA(a) {
			continue // it no longer signs for us; what it shares with others is told of it as a client CA
		}
		for _, b := range j.seen[i+1:] {
			if a.kind == b.kind || key(a) != key(b) && !above(a, b) {
				continue
			}
			pair := func(x, y string) bool { return a.kind == x && b.kind == y || a.kind == y && b.kind == x }
			which := fmt.Sprintf("%s in %s and %s in %s", a.generation, a.where, b.generation, b.where)
			switch {
			case pair("break-glass", "request-header"), pair("break-glass-root", "request-header"):
				j.add(Verdict{
					Severity: Critical, Key: "shared/request-header/" + a.generation, Where: b.where,
					What: fmt.Sprintf("the request-header CA vouches for our certificates too (%s): the holder of one could be any user", which),
					Next: "give the request header a CA of its own at once (--requestheader-client-ca-file)",
				})
			case pair("client", "request-header"):
				s := Warning
				if j.o.Published != nil && len(j.o.Published.AllowedNames) == 0 {
					s = Critical
				}
				j.add(Verdict{
					Severity: s, Key: "shared/client-request-header/" + a.generation, Where: b.where,
					What: fmt.Sprintf("one CA vouches for users and for authenticating proxies (%s)", which),
					Next: "give the request header a CA of its own",
				})
			case pair("break-glass", KindEtcd), pair("break-glass", KindKubelet), pair("break-glass-root", KindEtcd),
				pair("break-glass-root", KindKubelet), pair("client", KindEtcd):
				j.add(Verdict{
					Severity: Critical, Key: "shared/" + a.kind + "-" + b.kind + "/" + a.generation, Where: b.where,
					What: fmt.Sprintf("one CA vouches for users of the API server and for something else (%s)", which),
					Next: "give each a CA of its own: access would bypass the API server, its audit log and the binding that ends it",
				})
			case pair("request-header", KindEtcd):
				j.add(Verdict{
					Severity: Critical, Key: "shared/request-header-etcd/" + a.generation, Where: b.where,
					What: fmt.Sprintf("one CA vouches for authenticating proxies and for etcd (%s): a proxy that may say who a user is could also write "+
						"into "+
						"etcd, past the API server", which),
					Next: "give each a CA of its own",
				})
			case pair("request-header", KindKubelet):
				j.add(Verdict{
					Severity: Warning, Key: "shared/request-header-kubelet/" + a.generation, Where: b.where,
					What: fmt.Sprintf("one CA vouches for authenticating proxies and for kubelets (%s)", which),
					Next: "give each a CA of its own",
				})
			case pair("break-glass", "client"):
				if g := j.generation(a.generation); g == nil || g.ClusterCA == "" {
					// The same key under another certificate: a renewed or cross-signed CA.
					j.add(Verdict{
						Severity: Warning, Key: "shared/key/" + a.generation, Where: b.where,
						What: fmt.Sprintf("another CA certificate has the key of ours (%s)", which),
						Next: "find out who made the second certificate",
					})
				}
			case pair(KindKubelet, KindEtcd):
				j.add(Verdict{
					Severity: Warning, Key: "shared/kubelet-etcd/" + a.generation, Where: b.where,
					What: fmt.Sprintf("one CA vouches for kubelets and for etcd (%s)", which),
					Next: "give etcd a CA of its own",
				})
			}
		}
	}
	j.sharedNames()
}

// above reports whether one of two CAs is an issuer of ours, and the other signed it and vouches for something else: a server that
// takes the certificates of b takes ours too, also if Vault does not know what is above its issuer.
func above(a, b authority) bool {
	return a.kind == "break-glass" && !selfSigned(a.cert) && slices.Contains([]string{"request-header", KindEtcd, KindKubelet}, b.kind) &&
		bytes.Equal(a.cert.RawIssuer, b.cert.RawSubject) && a.cert.CheckSignatureFrom(b.cert) == nil
}

// sharedNames compares the names of the CAs whose client certificates etcd and kubelets say they take with those that vouch for
// users. That kubelets take the cluster's own is as it should be.
func (j *judge) sharedNames() {
	const apart = "remove it there: access would bypass the API server, its audit log and the binding that ends it"
	for _, e := range j.o.Endpoints {
		for _, n := range e.Names {
			for _, g := range j.r.Generations {
				next := apart
				if g.ClusterCA != "" {
					next = "rotate to a CA that Vault makes itself (" + caPlan(j.o.Cluster) + "): this one is the cluster's own, and has to " +
						"stay there"
				}
				switch {
				case g.ClusterCA != "" && !g.Signs:
				case bytes.Equal(n, g.cert.RawSubject):
					j.add(Verdict{
						Severity: Critical, Key: "shared/" + e.Kind + "/" + e.Where, Where: e.Where,
						What: fmt.Sprintf("%s at %s takes client certificates of our CA %s", e.Kind, e.Where, g.Name),
						Next: next,
					})
				case bytes.Equal(n, g.cert.RawIssuer):
					j.add(Verdict{
						Severity: Critical, Key: "shared/break-glass-root-" + e.Kind + "/" + g.Name, Where: e.Where,
						What: fmt.Sprintf("%s at %s takes client certificates of %q, which is above our CA %s", e.Kind, e.Where, g.cert.Issuer, g.Name),
						Next: apart,
					})
				}
			}
			for _, a := range j.seen {
				if !bytes.Equal(n, a.cert.RawSubject) || j.namesake(e.Kind, a) {
					continue
				}
				what := "%s at %s takes client certificates of %q, the name of the CA %s in %s, which vouches for others"
				switch a.kind + " " + e.Kind {
				case "client " + KindEtcd, "break-glass-root " + KindEtcd, "break-glass-root " + KindKubelet, "request-header " + KindEtcd:
					j.add(Verdict{
						Severity: Critical, Key: "shared/" + a.kind + "-" + e.Kind + "/" + a.generation, Where: e.Where,
						What: fmt.Sprintf(what, e.Kind, e.Where, a.cert.Subject, a.generation, a.where),
						Next: apart,
					})
				case "request-header " + KindKubelet:
					j.add(Verdict{
						Severity: Warning, Key: "shared/" + a.kind + "-" + e.Kind + "/" + a.generation, Where: e.Where,
						What: fmt.Sprintf(what, e.Kind, e.Where, a.cert.Subject, a.generation, a.where),
						Next: apart,
					})
				}
			}
		}
	}
}

// namesake reports whether etcd or the kubelets are seen to have a CA with the name of another and a key of their own: then that
// is what a name means that they list.
func (j *judge) namesake(kind string, a authority) bool {
	same := false
	for _, b := range j.seen {
		if b.kind != kind || !bytes.Equal(a.cert.RawSubject, b.cert.RawSubject) {
			continue
		}
		if bytes.Equal(a.cert.RawSubjectPublicKeyInfo, b.cert.RawSubjectPublicKeyInfo) {
			return false
		}
		same = true
	}
	return same
}

// closedClusterCA reports whether an authority is an issuer that is the cluster's own CA and no longer signs in Vault.
func (j *judge) closedClusterCA(a authority) bool {
	g := j.generation(a.generation)
	return a.kind == "break-glass" && g != nil && g.ClusterCA != "" && !g.Signs
}
