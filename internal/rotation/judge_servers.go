package rotation

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"fmt"
	"slices"
	"time"
)

// What is judged of the API servers: what each takes, and where two witnesses differ.

// trust says what is known about one server and one generation.
func (j *judge) trust(s Server, g Generation) (Trust, bool) {
	if g.Expired {
		return Refused, false // x509 takes nothing that an expired CA signed
	}
	if s.Error != "" || s.Wrong != "" {
		return Unknown, false // what stands there may be anything
	}
	listed, asked := names(s, g.cert.RawSubject)
	for _, c := range s.Canaries {
		if c.Issuer != g.ID {
			continue
		}
		switch c.Outcome {
		case OutcomeAccepted, OutcomeUnproven:
			return Trusted, true
		case OutcomeRefused:
			if j.clockDoubt(s, c) {
				return Unknown, false // a clock that is off refuses good certificates too
			}
			return Refused, true
		case OutcomeOther:
			return Unknown, false
		case OutcomeUnreached:
		}
	}
	switch {
	case !asked:
		return Unknown, false
	case listed:
		return Listed, false
	}
	// An intermediate is trusted through its root, under the root's name.
	if !selfSigned(g.cert) {
		for _, der := range j.chain(g.ID) {
			if c, err := x509.ParseCertificate(der); err == nil {
				if viaRoot, _ := names(s, c.RawSubject); viaRoot {
					return Unknown, false
				}
			}
		}
		if viaRoot, _ := names(s, g.cert.RawIssuer); viaRoot {
			return Unknown, false
		}
	}
	return Refused, false
}

// clockDoubt reports whether a server may have refused a canary only because its clock and Vault's differ. Vault's clock is known
// from its health, but not from that of a standby; the certificate itself tells it always.
func (j *judge) clockDoubt(s Server, c Greeting) bool {
	if s.Skew == nil || ClockDoubt(j.o.Vault.Skew, *s.Skew) {
		return true
	}
	const blur = 2 * time.Second // what the seconds of a header cost
	there := c.At.Add(*s.Skew)
	return slices.ContainsFunc(j.o.Canaries, func(x Signing) bool {
		return x.Issuer == c.Issuer && !x.NotBefore.IsZero() && (there.Add(-blur).Before(x.NotBefore) || !there.Add(blur).Before(x.NotAfter))
	})
}

func (j *judge) chain(id string) [][]byte {
	for _, i := range j.o.Vault.Issuers {
		if i.ID == id {
			return i.Chain
		}
	}
	return nil
}

// names reports whether a handshake lists the subject, and whether there was a handshake.
func names(s Server, subject []byte) (listed, asked bool) {
	for _, h := range s.Handshakes {
		if h.Error != "" {
			continue
		}
		asked = true
		listed = listed || slices.ContainsFunc(h.Names, func(n []byte) bool { return bytes.Equal(n, subject) })
	}
	return listed, asked
}

func (j *judge) servers() {
	if len(j.o.Servers) == 1 {
		j.add(Verdict{
			Severity: Info, Key: "single-address", Where: j.o.Servers[0].Address,
			What: "one API server address is looked at: behind a load balancer the others stay unseen",
			Next: "if the cluster has more API servers, name each of them in the configuration",
		})
	}
	for _, s := range j.o.Servers {
		st := ServerTrust{Address: s.Address, Reached: s.Error == "", Trust: map[string]Trust{}, Fresh: map[string]bool{}}
		j.server(s)
		for _, g := range j.r.Generations {
			trust, proven := j.trust(s, g)
			st.Trust[g.Name] = trust
			if proven {
				st.Fresh[g.Name] = trust == Trusted
			}
			if d := s.Declared; d != nil && d.Broken != "" && (trust == Trusted || trust == Listed) {
				st.Cached = append(st.Cached, g.Name)
			}
			j.contradictions(s, g, trust, proven)
		}
		j.r.Servers = append(j.r.Servers, st)
	}
}

// server judges what does not depend on a generation.
func (j *judge) server(s Server) {
	if s.Error != "" {
		j.unknown(Verdict{
			Severity: Critical, Key: "server/" + s.Address, Where: s.Address,
			What: fmt.Sprintf("the API server at %s could not be reached: %s", s.Address, s.Error),
			Next: cmp.Or(s.Next, "see whether it is up and reachable from here"),
		})
		return
	}
	if s.Wrong != "" {
		j.unknown(Verdict{
			Severity: Critical, Key: "serving/" + s.Address, Where: s.Address,
			What: fmt.Sprintf("the server at %s cannot prove that it is the API server, so nothing it says is believed: %s", s.Address, s.Wrong),
			Next: "correct the address, or give the API server a certificate for it from the CA in the daemon's configuration",
		})
	}
	for _, h := range s.Handshakes {
		if h.Error != "" {
			j.add(Verdict{
				Severity: Info, Key: "tls-" + h.Version + "/" + s.Address, Where: s.Address,
				What: fmt.Sprintf("%s does not speak TLS %s: %s", s.Address, h.Version, h.Error),
				Next: "nothing, if that version is turned off on purpose",
			})
		}
	}
	if s.Skew == nil && s.Wrong == "" {
		j.unknown(Verdict{
			Severity: Warning, Key: "clock/" + s.Address, Where: s.Address,
			What: fmt.Sprintf("%s does not tell the time", s.Address),
			Next: "see what stands between the daemon and it",
		})
	}
	if s.Skew != nil {
		j.add(Verdict{
			Severity: SkewSeverity(*s.Skew), Key: "clock/" + s.Address, Where: s.Address,
			What: fmt.Sprintf("the clock of the API server at %s differs from ours by %s: certificates that begin or end now are judged wrongly "+
				"there", s.Address, s.Skew.Abs()),
			Next: "set the clocks with NTP: the API server's, Vault's and the daemon's",
		})
	}
	if d := s.Declared; d != nil && d.Broken != "" {
		j.add(Verdict{
			Severity: Critical, Key: "bundle-file/" + s.Address, Where: s.Address,
			What: fmt.Sprintf("the declared client-CA bundle %s, as the daemon sees it, is not usable (%s). If the file on the node is the same, "+
				"kube-apiserver keeps what it loaded last, changes are not seen, and it will not start again", d.File, d.Broken),
			Next: "look at the file on the node. If it is not usable either, write it with the CAs it should hold (breakglass ca plan prints how; " +
				"it " +
				"is loaded within a minute). If it is usable, put the declared copy right",
		})
	}
}

// copies compares what the servers take with what their bundle files are declared to hold.
func (j *judge) copies() {
	for i, s := range j.o.Servers {
		for _, g := range j.r.Generations {
			j.declared(s, g, j.r.Servers[i].Trust[g.Name])
		}
	}
}

// declared compares what one server takes of a generation with what its bundle file is declared to hold. In a rotation the copy and the
// nodes are changed one after the other, by hand: that they differ for a while is no reason to mistrust a node.
func (j *judge) declared(s Server, g Generation, trust Trust) {
	d := s.Declared
	if d == nil || d.Broken != "" || j.now.Sub(d.Modified) < j.t.Reload || g.Expired {
		return
	}
	holds := slices.ContainsFunc(d.CAs, func(der []byte) bool { return bytes.Equal(der, g.cert.Raw) })
	next := "look at the file on the node: is it the one that --client-ca-file names, and is its directory mounted into the pod (a mount of " +
		"the single file goes on showing the old one)? If all is well, restart this kube-apiserver"
	const plan = "breakglass ca plan says how"
	switch {
	case holds && trust == Refused && g.Position == PositionNext:
		j.add(Verdict{
			Severity: Warning, Key: "bundle-copy/" + s.Address + "/" + g.Name, Where: s.Address,
			What: fmt.Sprintf("the declared copy %s holds %s, and the API server does not take it yet", d.File, g.Name),
			Next: "append it to the bundle on that node, if that is still to be done: " + plan + ". If it is done, " + next,
		})
	case holds && trust == Refused && (g.Position == PositionOld || g.Position == PositionClosed):
		j.add(Verdict{
			Severity: Warning, Key: "bundle-copy/" + s.Address + "/" + g.Name, Where: s.Address,
			What: fmt.Sprintf("the declared copy %s still holds %s, which the API server no longer takes", d.File, g.Name),
			Next: "remove it from the declared copy as well (ca_checks: bundle_file or bundle_files): " + plan,
		})
	case !holds && (trust == Trusted || trust == Listed) && g.Position == PositionNext:
		j.add(Verdict{
			Severity: Warning, Key: "bundle-copy/" + s.Address + "/" + g.Name, Where: s.Address,
			What: fmt.Sprintf("the declared copy %s is without %s, which the API server takes by now", d.File, g.Name),
			Next: "append it to the declared copy as well (ca_checks: bundle_file or bundle_files): " + plan,
		})
	case !holds && (trust == Trusted || trust == Listed) && g.Position == PositionOld:
		j.add(Verdict{
			Severity: Warning, Key: "bundle-copy/" + s.Address + "/" + g.Name, Where: s.Address,
			What: fmt.Sprintf("the declared copy %s is without %s, and the API server still takes it", d.File, g.Name),
			Next: "remove it from the bundle on that node, if that is still to be done: " + plan + ". If it is done, " + next,
		})
	case holds && trust == Refused:
		j.add(Verdict{
			Severity: Critical, Key: "bundle-not-loaded/" + s.Address + "/" + g.Name, Where: s.Address,
			What: fmt.Sprintf("the bundle %s holds %s since %s, and the API server does not take it", d.File, g.Name, stamp(d.Modified)),
			Next: next,
		})
	case !holds && (trust == Trusted || trust == Listed):
		j.add(Verdict{
			Severity: Warning, Key: "bundle-not-loaded/" + s.Address + "/" + g.Name, Where: s.Address,
			What: fmt.Sprintf("the bundle %s is without %s since %s, and the API server still takes it", d.File, g.Name, stamp(d.Modified)),
			Next: next,
		})
	}
}

// contradictions tells of what two witnesses say differently.
func (j *judge) contradictions(s Server, g Generation, trust Trust, proven bool) {
	listed, asked := names(s, g.cert.RawSubject)
	switch {
	case !proven || !asked:
	case trust == Refused && listed:
		j.add(Verdict{
			Severity: Warning, Key: "name-only/" + s.Address + "/" + g.Name, Where: s.Address,
			What: fmt.Sprintf("%s lists a CA with the name of %s and refuses its canary: it trusts another CA of the same name", s.Address, g.Name),
			Next: "look into the bundle for a CA of the same name with another key, and remove it",
		})
	case trust == Trusted && !listed && selfSigned(g.cert):
		j.add(Verdict{
			Severity: Warning, Key: "unlisted/" + s.Address + "/" + g.Name, Where: s.Address,
			What: fmt.Sprintf("%s takes the canary of %s and does not list its name: something in between ends TLS", s.Address, g.Name),
			Next: "use the address of the API server itself",
		})
	}
}
