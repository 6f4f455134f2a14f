package rotation

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/breakglass"
)

// Judge says what an observation means. It is pure: the same observation, thresholds and time give the same report. now is the
// time to judge by, which is that of the observation except in tests and for old observations.
func Judge(o Observation, t Thresholds, now time.Time) Report {
	t = t.withDefaults()
	j := &judge{o: o, t: t, now: now, r: Report{Cluster: o.Cluster, At: o.At, Complete: true, Mount: o.Vault.Mount, Roles: o.Vault.Roles,
		Default: o.Vault.Default, MaxTTL: o.Vault.MaxTTL, People: people(o)}}
	j.unseen()
	j.generations()
	j.servers()
	j.phase()
	j.copies()
	j.vault()
	j.canaries()
	j.client()
	j.serving()
	j.requestHeader()
	j.serviceAccounts()
	j.endpoints()
	j.signers()
	j.shared()
	return j.finish()
}

type judge struct {
	o    Observation
	t    Thresholds
	now  time.Time
	r    Report
	seen []authority // every CA certificate that was seen, for what they share

	// hidden is what of Vault could not be seen. Without all of it nothing is known about the phase: a role that was not read may
	// sign under the old issuer, and an issuer that was not read may be any of them.
	hidden []string
}

// authority is one CA certificate at one place.
type authority struct {
	kind, generation, where string
	cert                    *x509.Certificate
}

// add adds a verdict, unless it has no severity: then there is nothing to say. The same CA at two places is one verdict.
func (j *judge) add(v Verdict) {
	v.Key = strings.ReplaceAll(v.Key, " ", "-")
	if v.Severity != "" && !slices.ContainsFunc(j.r.Verdicts, func(have Verdict) bool { return have.Key == v.Key }) {
		j.r.Verdicts = append(j.r.Verdicts, v)
	}
}

// unknown adds that something could not be seen: the report is not complete.
func (j *judge) unknown(v Verdict) {
	j.r.Complete = false
	v.Key, v.What = "unseen/"+v.Key, "cannot tell: "+v.What
	j.add(v)
}

// expiry judges how near the end of a certificate is. The lead time that has passed is part of the key, so that each is told.
func (j *judge) expiry(c *x509.Certificate, v Verdict) {
	v.Severity = ExpirySeverity(c.NotBefore, c.NotAfter, j.now, j.t)
	if step := Announced(c.NotBefore, c.NotAfter, j.now, j.t); step != "" {
		v.Key += "/" + step
	}
	j.add(v)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func short(der []byte) string { return breakglass.Fingerprint(der)[:8] }

func (j *judge) unseen() {
	for _, u := range j.o.Vault.Unseen {
		j.hidden = append(j.hidden, u.What)
	}
	for _, u := range slices.Concat(j.o.Vault.Unseen, j.o.Unseen) {
		j.unknown(Verdict{
			Severity: Warning, Key: u.Key, Where: j.o.Cluster,
			What: u.What,
			Next: u.Next,
		})
	}
	for _, what := range j.o.NotConfigured {
		if what == NotConfiguredSigners {
			j.add(Verdict{
				Severity: Info, Key: "not-configured/csr-signers", Where: j.o.Cluster,
				What: "whose key the CSR API signs with is not looked at: the daemon may not list its requests",
				Next: "apply policies/kubernetes/optional/sweep.yaml if it should be",
			})
			continue
		}
		j.add(Verdict{
			Severity: Info, Key: "not-configured/" + what, Where: j.o.Cluster,
			What: fmt.Sprintf("not looked at, because nothing says where: %s", what),
			Next: "name it in the configuration of the checks if it should be",
		})
	}
	if d := j.o.At.Sub(j.now).Abs(); d > time.Hour {
		j.add(Verdict{
			Severity: Warning, Key: "observation-old", Where: j.o.Cluster,
			What: fmt.Sprintf("what this report is about was seen at %s", stamp(j.o.At)),
			Next: "run breakglass ca check",
		})
	}
}

// generations reads Vault's issuers, the oldest first. A CA without a key that is there because it is above another issuer is
// none of them: nothing was ever signed under it here.
func (j *judge) generations() {
	for _, i := range j.o.Vault.Issuers {
		above := func(other Issuer) bool {
			return slices.ContainsFunc(other.Chain, func(der []byte) bool { return bytes.Equal(der, i.Certificate) })
		}
		if i.KeyID == "" && slices.ContainsFunc(j.o.Vault.Issuers, above) {
			continue
		}
		name := i.Name
		if name == "" {
			name = i.ID[:min(8, len(i.ID))]
		}
		cert, err := x509.ParseCertificate(i.Certificate)
		if err != nil {
			j.unknown(Verdict{
				Severity: Critical, Key: "issuer/" + name, Where: j.o.Vault.Mount,
				What: fmt.Sprintf("the certificate of the issuer %s cannot be parsed", name),
				Next: "look at the issuer in Vault: " + vault("read", j.o.Vault.Mount+"/issuer/"+i.ID),
			})
			j.hidden = append(j.hidden, "the certificate of the issuer "+name)
			continue
		}
		key, _, _ := Strength(cert.PublicKey)
		g := Generation{Name: name, ID: i.ID, Subject: cert.Subject.String(), Fingerprint: breakglass.Fingerprint(cert.Raw), Key: key,
			NotBefore: cert.NotBefore, NotAfter: cert.NotAfter, Expired: Expired(cert.NotAfter, j.now), cert: cert,
			Signs:     canIssue(i),
			Pinned:    slices.Contains(j.o.Vault.Pinned, i.ID),
			Published: CannotTell,
			ClusterCA: j.clusterOwn(cert)}
		if j.o.Published != nil {
			g.Published = No
			if slices.ContainsFunc(j.o.Published.ClientCAs, func(der []byte) bool { return bytes.Equal(der, cert.Raw) }) && !g.Expired {
				g.Published = Yes // kube-apiserver leaves expired ones out at its next write, and no server takes them
			}
		}
		j.r.Generations = append(j.r.Generations, g)
	}
	slices.SortStableFunc(j.r.Generations, func(a, b Generation) int {
		return cmp.Or(a.NotBefore.Compare(b.NotBefore), cmp.Compare(len(a.Name), len(b.Name)), cmp.Compare(a.Name, b.Name)) // g2 before g10
	})
	names := map[string]bool{}
	for i := range j.r.Generations {
		if g := &j.r.Generations[i]; names[g.Name] {
			g.Name += "-" + g.ID[:min(8, len(g.ID))]
		}
		names[j.r.Generations[i].Name] = true
	}
}

// clusterOwn says where it is seen that a CA is the cluster's own; empty: nowhere. It is told by the key: a renewed certificate
// is the same CA.
func (j *judge) clusterOwn(cert *x509.Certificate) string {
	among := func(ders [][]byte) bool {
		return slices.ContainsFunc(ders, func(der []byte) bool {
			c, err := x509.ParseCertificate(der)
			return err == nil && bytes.Equal(c.RawSubjectPublicKeyInfo, cert.RawSubjectPublicKeyInfo)
		})
	}
	switch {
	case among(j.o.RootCA):
		return "the ConfigMap kube-root-ca.crt"
	case among(j.o.KnownClientCAs):
		return "the client CAs that the configuration expects beside ours (client_ca_files)"
	}
	for _, k := range j.o.Kubeconfigs {
		if among(k.CAs) {
			return "the kubeconfig " + k.Name
		}
	}
	for _, e := range j.o.Endpoints {
		if e.Kind == KindKubelet && among(e.CAs) {
			return "the kubelets' CAs in " + e.Where
		}
	}
	return ""
}

// canIssue reports whether Vault would let an issuer sign, its lifetime apart.
func canIssue(i Issuer) bool {
	return slices.Contains(i.Usage, "issuing-certificates") && !i.Revoked && i.KeyID != ""
}

func selfSigned(c *x509.Certificate) bool { return bytes.Equal(c.RawSubject, c.RawIssuer) }

func (j *judge) generation(name string) *Generation {
	i := slices.IndexFunc(j.r.Generations, func(g Generation) bool { return g.Name == name })
	if i < 0 {
		return nil
	}
	return &j.r.Generations[i]
}

// sawCA judges the strength of one CA certificate and remembers it.
func (j *judge) sawCA(kind, generation, where string, c *x509.Certificate) {
	if slices.ContainsFunc(j.seen, func(a authority) bool { return a.kind == kind && a.cert.Equal(c) }) {
		return
	}
	j.seen = append(j.seen, authority{kind, generation, where, c})
	key, _, weak := Strength(c.PublicKey)
	j.authority(kind, generation, where, key, c)
	const next = "replace it by one with at least ECDSA P-256 or RSA-2048, signed with SHA-256"
	if kind == "break-glass" || kind == "client" || kind == "request-header" {
		j.add(Verdict{
			Severity: weak, Key: "key/" + kind + "/" + generation, Where: where,
			What: fmt.Sprintf("the CA %q has the weak key %s: its signature can be forged, and the forger becomes any user", c.Subject, key),
			Next: next,
		})
	} else {
		j.add(Verdict{
			Severity: weak, Key: "key/" + kind + "/" + generation, Where: where,
			What: fmt.Sprintf("the CA %q has the weak key %s", c.Subject, key),
			Next: next,
		})
	}
	j.add(Verdict{
		Severity: HashSeverity(c.SignatureAlgorithm, selfSigned(c)), Key: "hash/" + kind + "/" + generation, Where: where,
		What: fmt.Sprintf("the CA %q is signed with %s", c.Subject, c.SignatureAlgorithm),
		Next: next,
	})
	if !c.IsCA {
		j.add(Verdict{
			Severity: Info, Key: "not-ca/" + kind + "/" + generation, Where: where,
			What: fmt.Sprintf("%q stands where a CA is expected, and is not a CA: it vouches for itself only", c.Subject),
			Next: "replace it by a CA",
		})
	}
}

func (j *judge) authority(kind, generation, where, key string, c *x509.Certificate) {
	end := c.NotAfter
	j.r.Authorities = append(j.r.Authorities, Authority{Kind: kind, Generation: generation, Where: where, Subject: c.Subject.String(),
		Key: key, NotAfter: &end, Fingerprint: breakglass.Fingerprint(c.Raw)})
}

func (j *judge) finish() Report {
	r := j.r
	slices.SortStableFunc(r.Verdicts, func(a, b Verdict) int {
		return cmp.Or(rank(b.Severity)-rank(a.Severity), cmp.Compare(a.Key, b.Key))
	})
	for i := range r.Authorities {
		a := &r.Authorities[i]
		for _, f := range r.Verdicts {
			if rank(f.Severity) > rank(a.Worst) && about(f.Key, *a) {
				a.Worst = f.Severity
			}
		}
	}
	r.OK = r.Complete && rank(Worst(r.Verdicts)) <= rank(Info)
	return r
}

// about reports whether a finding is about a CA or certificate, told by its key: check/…/generation, where the check's name begins
// with the kind, or its path has it. What is only about a break-glass CA names no kind.
func about(key string, a Authority) bool {
	check, rest, _ := strings.Cut(key, "/")
	if check == "unseen" || !slices.Contains(strings.Split(rest, "/"), a.Generation) {
		return false
	}
	if a.Kind == "break-glass-root" && check == "root-expires" {
		return true
	}
	if strings.HasPrefix(check, a.Kind+"-") || strings.HasPrefix(rest, a.Kind+"/") || check == "shared" && strings.Contains(rest, a.Kind) {
		return true
	}
	return a.Kind == "break-glass"
}

// The canary's names. Its common name says which cluster it is for, as far as that fits into 64 characters.
const (
	CanaryPrefix = "breakglass-canary:"
	CanaryRole   = "breakglass-canary"
)
