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

func (j *judge) find(s Severity, key, where, next, what string, args ...any) {
	if s == "" {
		return
	}
	key, what = strings.ReplaceAll(key, " ", "-"), fmt.Sprintf(what, args...)
	if !slices.ContainsFunc(j.r.Findings, func(f Finding) bool { return f.Key == key }) { // the same CA at two places is one finding
		j.r.Findings = append(j.r.Findings, Finding{key, s, what, where, next})
	}
}

// blind records that something could not be seen: the report is not complete.
func (j *judge) blind(s Severity, key, where, next, what string, args ...any) {
	j.r.Complete = false
	j.find(s, "unseen/"+key, where, next, "cannot tell: "+what, args...)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func short(der []byte) string { return breakglass.Fingerprint(der)[:8] }

func (j *judge) unseen() {
	for _, u := range j.o.Vault.Unseen {
		j.hidden = append(j.hidden, u.What)
	}
	for _, u := range slices.Concat(j.o.Vault.Unseen, j.o.Unseen) {
		j.blind(Warning, u.Key, j.o.Cluster, u.Next, "%s", u.What)
	}
	for _, what := range j.o.NotConfigured {
		if what == NotConfiguredSigners {
			j.find(Info, "not-configured/csr-signers", j.o.Cluster, "apply policies/kubernetes/optional/sweep.yaml if it should be",
				"whose key the CSR API signs with is not looked at: the daemon may not list its requests")
			continue
		}
		j.find(Info, "not-configured/"+what, j.o.Cluster, "name it in the configuration of the checks if it should be",
			"not looked at, because nothing says where: %s", what)
	}
	if d := j.o.At.Sub(j.now).Abs(); d > time.Hour {
		j.find(Warning, "observation-old", j.o.Cluster, "run breakglass ca check", "what this report is about was seen at %s", stamp(j.o.At))
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
			j.blind(Critical, "issuer/"+name, j.o.Vault.Mount, "look at the issuer in Vault: "+vault("read", j.o.Vault.Mount+"/issuer/"+i.ID),
				"the certificate of the issuer %s cannot be parsed", name)
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
				g.Published = Yes // kube-apiserver leaves expired ones out at its next write, and nobody takes them
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

func selfSigned(c *x509.Certificate) bool { return bytes.Equal(c.RawSubject, c.RawIssuer) }

func (j *judge) servers() {
	if len(j.o.Servers) == 1 {
		j.find(Info, "single-address", j.o.Servers[0].Address, "if the cluster has more API servers, name each of them in the configuration",
			"one API server address is looked at: behind a load balancer the others stay unseen")
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
		j.blind(Critical, "server/"+s.Address, s.Address, cmp.Or(s.Next, "see whether it is up and reachable from here"),
			"the API server at %s could not be reached: %s", s.Address, s.Error)
		return
	}
	if s.Wrong != "" {
		j.blind(Critical, "serving/"+s.Address, s.Address, "correct the address, or give the API server a certificate for it from the CA in "+
			"the daemon's configuration",
			"the server at %s cannot prove that it is the API server, so nothing it says is believed: %s", s.Address, s.Wrong)
	}
	for _, h := range s.Handshakes {
		if h.Error != "" {
			j.find(Info, "tls-"+h.Version+"/"+s.Address, s.Address, "nothing, if that version is turned off on purpose",
				"%s does not speak TLS %s: %s", s.Address, h.Version, h.Error)
		}
	}
	if s.Skew == nil && s.Wrong == "" {
		j.blind(Warning, "clock/"+s.Address, s.Address, "see what stands between the daemon and it", "%s does not tell the time", s.Address)
	}
	if s.Skew != nil {
		j.find(SkewSeverity(*s.Skew), "clock/"+s.Address, s.Address, "set the clocks with NTP: the API server's, Vault's and the daemon's",
			"the clock of the API server at %s differs from ours by %s: certificates that begin or end now are judged wrongly there", s.Address,
			s.Skew.Abs())
	}
	if d := s.Declared; d != nil && d.Broken != "" {
		j.find(Critical, "bundle-file/"+s.Address, s.Address, "look at the file on the node. If it is no good either, write it with the CAs it "+
			"should hold (breakglass ca plan prints how; it is loaded within a minute). If it is good, put the declared copy right",
			"the declared client-CA bundle %s, as the daemon sees it, is no good (%s). If the file on the node is so too, kube-apiserver keeps "+
				"what it loaded last, changes are not seen, and it will not start again", d.File, d.Broken)
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
		j.find(Warning, "bundle-copy/"+s.Address+"/"+g.Name, s.Address, "append it to the bundle on that node, if that is still to be done: "+
			plan+". If it is done, "+next,
			"the declared copy %s holds %s, and the API server does not take it yet", d.File, g.Name)
	case holds && trust == Refused && (g.Position == PositionOld || g.Position == PositionClosed):
		j.find(Warning, "bundle-copy/"+s.Address+"/"+g.Name, s.Address, "take it out of the declared copy as well (ca_checks: bundle_file or "+
			"bundle_files): "+plan, "the declared copy %s still holds %s, which the API server does not take any more", d.File, g.Name)
	case !holds && (trust == Trusted || trust == Listed) && g.Position == PositionNext:
		j.find(Warning, "bundle-copy/"+s.Address+"/"+g.Name, s.Address, "append it to the declared copy as well (ca_checks: bundle_file or "+
			"bundle_files): "+plan, "the declared copy %s is without %s, which the API server takes by now", d.File, g.Name)
	case !holds && (trust == Trusted || trust == Listed) && g.Position == PositionOld:
		j.find(Warning, "bundle-copy/"+s.Address+"/"+g.Name, s.Address, "take it out of the bundle on that node, if that is still to be done: "+
			plan+". If it is done, "+next,
			"the declared copy %s is without %s, and the API server still takes it", d.File, g.Name)
	case holds && trust == Refused:
		j.find(Critical, "bundle-not-loaded/"+s.Address+"/"+g.Name, s.Address, next,
			"the bundle %s holds %s since %s, and the API server does not take it", d.File, g.Name, stamp(d.Modified))
	case !holds && (trust == Trusted || trust == Listed):
		j.find(Warning, "bundle-not-loaded/"+s.Address+"/"+g.Name, s.Address, next,
			"the bundle %s is without %s since %s, and the API server still takes it", d.File, g.Name, stamp(d.Modified))
	}
}

// contradictions tells of what two witnesses say differently.
func (j *judge) contradictions(s Server, g Generation, trust Trust, proven bool) {
	listed, asked := names(s, g.cert.RawSubject)
	switch {
	case !proven || !asked:
	case trust == Refused && listed:
		j.find(Warning, "name-only/"+s.Address+"/"+g.Name, s.Address,
			"look into the bundle for a CA of the same name with another key, and take it out",
			"%s lists a CA with the name of %s and refuses its canary: it trusts another CA of the same name", s.Address, g.Name)
	case trust == Trusted && !listed && selfSigned(g.cert):
		j.find(Warning, "unlisted/"+s.Address+"/"+g.Name, s.Address, "use the address of the API server itself",
			"%s takes the canary of %s and does not list its name: something in between ends TLS", s.Address, g.Name)
	}
}

// signingRoles is the roles that sign for people.
func signingRoles(roles []Role) []Role {
	return slices.DeleteFunc(slices.Clone(roles), func(r Role) bool { return r.Name == CanaryRole })
}

func (j *judge) phase() {
	byRef := func(ref string) *Generation {
		if ref == "default" {
			ref = j.o.Vault.Default
		}
		i := slices.IndexFunc(j.r.Generations, func(g Generation) bool { return g.ID == ref || g.Name == ref })
		if i < 0 {
			return nil
		}
		return &j.r.Generations[i]
	}
	active := ""
	for _, g := range j.r.Generations { // the newest that a role signs under
		if slices.ContainsFunc(signingRoles(j.o.Vault.Roles), func(r Role) bool { to := byRef(r.Issuer); return to != nil && to.ID == g.ID }) {
			active = g.ID
		}
	}
	for _, r := range j.o.Vault.Roles {
		if byRef(r.Issuer) == nil && len(j.hidden) == 0 { // else it may be one that was not seen
			j.find(Critical, "role-issuer/"+r.Name, j.o.Vault.Mount+"/roles/"+r.Name,
				"run deploy/vault/setup.sh with --issuer, and find out who changed it",
				"the role %s signs under %q, which is not an issuer of the mount", r.Name, r.Issuer)
		}
	}
	inUse := map[string]bool{}
	for _, ref := range append([]string{j.o.Vault.Default}, refs(j.o.Vault.Roles)...) {
		if g := byRef(ref); g != nil {
			inUse[g.ID] = true
		}
	}
	place(j.r.Generations, j.r.Servers, active, inUse)
	moved := active != "" && j.o.Vault.Default == active &&
		!slices.ContainsFunc(j.o.Vault.Roles, func(r Role) bool { to := byRef(r.Issuer); return to == nil || to.ID != active })
	drained := CannotTell
	old, hasOld := j.r.Generation(PositionOld)
	if hasOld {
		if at, ok := DrainedAt(old.Fingerprint, active, j.o.Vault.MaxTTL, j.o.Known); ok {
			if drained = No; !j.now.Before(at) {
				drained = Yes
			}
			if !at.IsZero() {
				j.r.DrainedAt = &at
			}
		}
	}
	j.r.Drained = drained
	j.r.Phase, j.r.Why = phase(j.r.Generations, j.r.Servers, moved, drained)
	if len(j.hidden) > 0 {
		j.r.Phase, j.r.Why = PhaseUnknown, "what decides it in Vault could not all be seen: "+strings.Join(j.hidden, "; ")
	}
	j.rotation(old, hasOld, drained)
}

func refs(roles []Role) []string {
	var out []string
	for _, r := range roles {
		out = append(out, r.Issuer)
	}
	return out
}

// rotation tells of what is wrong about the phase.
func (j *judge) rotation(old Generation, hasOld bool, drained Tri) {
	plan := caPlan(j.o.Cluster) + " prints the commands"
	if j.r.Phase == PhaseUnknown {
		j.blind(Warning, "phase", j.o.Cluster, "see the other findings", "in which phase the rotation is: %s", j.r.Why)
	}
	active, ok := j.r.Generation(PositionActive)
	if !ok {
		return
	}
	for _, s := range j.r.Servers {
		switch s.Trust[active.Name] {
		case Refused:
			j.find(Critical, "active-untrusted/"+s.Address, s.Address, "append "+active.Name+" to its client-CA bundle, or move the roles back: "+
				plan,
				"the API server at %s refuses certificates of %s, under which the roles sign: break-glass does not work there", s.Address, active.Name)
		case Unknown, Listed:
			j.blind(Warning, "active-trust/"+s.Address, s.Address, "see the other findings about this address and about the canary",
				"whether the API server at %s takes certificates of %s, under which the roles sign", s.Address, active.Name)
		case Trusted:
		}
		if hasOld && s.Trust[old.Name] == Refused && drained != Yes && !old.Expired && j.r.Phase != SwitchedTooEarly {
			until := "an unknown time"
			if j.r.DrainedAt != nil {
				until = stamp(*j.r.DrainedAt)
			}
			j.find(Critical, "removed-too-early/"+s.Address, s.Address, "put "+old.Name+" back into its bundle until then",
				"the API server at %s refuses certificates of %s, which can be alive until %s", s.Address, old.Name, until)
		}
	}
	switch j.r.Phase {
	case TrustedOnSome, OldRemovedOnSome, DeletedButCached, Residue, Active, Drained, Retired:
		j.find(Warning, "rotation-unfinished", j.o.Cluster, plan, "a rotation is under way and waits for somebody: %s", j.r.Why)
	case SwitchedTooEarly, ExpiredCA:
		j.find(Critical, "rotation-"+string(j.r.Phase), j.o.Cluster, plan, "%s", j.r.Why)
	case Prepared, TrustedOnAll, Draining:
		j.find(Info, "rotation-under-way", j.o.Cluster, plan, "a rotation is under way: %s", j.r.Why)
	case NotStarted, Closed, PhaseUnknown:
	}
	if (j.r.Phase == DeletedButCached || j.r.Phase == OldRemovedOnSome || j.r.Phase == Drained) && old.ClusterCA == "" {
		for _, s := range j.r.Servers {
			if t := s.Trust[old.Name]; (t == Trusted || t == Listed) && !slices.Contains(s.Cached, old.Name) {
				j.find(Info, "old-trusted/"+s.Address, s.Address, "look at the file on the node: a bundle that was deleted or emptied changes "+
					"nothing, and from outside looks like one that still holds the CA; write the new one with mv",
					"the API server at %s still takes certificates of %s", s.Address, old.Name)
			}
		}
	}
	for _, g := range j.r.Generations {
		used := g.Position == PositionActive || g.Position == PositionNext
		known := len(j.hidden) == 0 // else it may well have a part
		if g.ClusterCA != "" {
			j.clusterCA(g)
		}
		if g.Position == PositionOther && g.Signs && known {
			j.find(Warning, "issuer-extra/"+g.Name, j.o.Vault.Mount, "if it is not wanted, take away its usage: "+closeIssuer(j.o.Vault.Mount, g.ID),
				"the issuer %s can sign and has no part in the rotation", g.Name)
		}
		if at := count(j.r.Servers, g.Name, true).trusting; g.Position == PositionOther && len(at) > 0 && known && g.ClusterCA == "" {
			j.find(Warning, "issuer-left/"+g.Name, strings.Join(at, ", "), "take it out of the client-CA bundles there",
				"%s still take certificates of %s, which has no part in the rotation", strings.Join(at, ", "), g.Name)
		}
		if !used {
			continue
		}
		j.lifetime(g)
	}
}

// clusterCA tells of an issuer that is the cluster's own CA. It is never to leave the bundles, and its key is not in Vault alone.
func (j *judge) clusterCA(g Generation) {
	where := j.o.Vault.Mount + "/issuer/" + g.Name
	if g.Signs {
		next := "rotate to a CA that Vault makes itself (" + caPlan(j.o.Cluster) + "), whose last step closes this one in Vault; it " +
			"stays in the bundles, because the cluster needs it"
		j.find(Warning, "key-outside-vault/"+g.Name, where, next,
			"our CA %s is the cluster's own (it is in %s): its key also lies on the control-plane nodes and in kube-controller-manager, and "+
				"whoever has it can make break-glass certificates unseen", g.Name, g.ClusterCA)
	} else {
		j.find(Info, "key-outside-vault/"+g.Name, where, "nothing: it is the same in every cluster. Leave it in the bundles, and guard the "+
			"control-plane nodes",
			"%s signs nothing in Vault any more and is still trusted, because it is the cluster's own CA (it is in %s): whoever has its key can "+
				"still make a certificate for anybody", g.Name, g.ClusterCA)
	}
	for _, s := range j.r.Servers {
		if s.Trust[g.Name] == Refused && !g.Expired {
			j.find(Warning, "cluster-ca-refused/"+s.Address+"/"+g.Name, s.Address,
				"put it back into the bundle there if kubelets or the control plane still sign in by it; if the cluster has another CA now, take "+
					"this one out of where it is named",
				"the API server at %s refuses certificates of %s, which is the cluster's own CA (it is in %s)", s.Address, g.Name, g.ClusterCA)
		}
	}
}

// lifetime judges the end and the age of an issuer that signs or will sign.
func (j *judge) lifetime(g Generation) {
	_, successor := j.r.Generation(PositionNext)
	next := "begin a rotation: " + caPlan(j.o.Cluster)
	if g.Position == PositionActive && successor {
		next = "finish the rotation: " + caPlan(j.o.Cluster)
	}
	where := j.o.Vault.Mount + "/issuer/" + g.Name
	switch {
	case g.Expired:
		j.find(Critical, "issuer-expires/"+g.Name, where, next, "the break-glass CA %s ended %s", g.Name, stamp(g.NotAfter))
	case j.now.Before(g.NotBefore):
		j.find(Critical, "issuer-future/"+g.Name, where, "see whether the clocks of Vault and of this machine are right",
			"the break-glass CA %s begins only %s", g.Name, stamp(g.NotBefore))
	case !CanSign(g.NotBefore, g.NotAfter, j.now, j.o.Vault.MaxTTL):
		j.find(Critical, "issuer-expires/"+g.Name, where, next, "the break-glass CA %s ends %s, too soon to sign for the longest lifetime of "+
			"%s: nothing can be issued", g.Name, stamp(g.NotAfter), j.o.Vault.MaxTTL)
	default:
		step := Announced(g.NotBefore, g.NotAfter, j.now, j.t)
		s := ExpirySeverity(g.NotBefore, g.NotAfter, j.now, j.t)
		if s == "" && step != "" {
			s = Info
		}
		key := "issuer-expires/" + g.Name
		if step != "" {
			key += "/" + step
		}
		j.find(s, key, where, next, "the break-glass CA %s ends %s", g.Name, stamp(g.NotAfter))
	}
	j.find(AgeSeverity(g.NotBefore, j.now, j.t), "issuer-age/"+g.Name, where, next,
		"the break-glass CA %s was made %s, longer ago than the rotation policy allows (%d days)",
		g.Name, stamp(g.NotBefore), int(j.t.MaxAge.Hours()/24))
}

// vault judges the issuers beside their lifetime.
func (j *judge) vault() {
	v := j.o.Vault
	if len(v.Pinned) > 0 && len(v.Unseen) == 0 && !v.ReadyToSign {
		j.find(Critical, "signer", v.Mount, "breakglassd doctor looks closer", "Vault cannot sign for people now: %s", v.NotReadyReason)
	}
	j.find(SkewSeverity(v.Skew), "clock/vault", v.Mount, "set the clocks with NTP", "Vault's clock and ours differ by %s", v.Skew.Abs())
	if v.FollowsLatest {
		j.find(Warning, "default-follows-latest", v.Mount, setDefault(v.Mount, v.Default),
			"the default issuer follows the latest one: preparing the next CA would switch to it")
	}
	if active, ok := j.r.Generation(PositionActive); ok && v.Default != "" && v.Default != active.ID && j.r.Phase != Active &&
		len(j.hidden) == 0 {
		j.find(Warning, "default-issuer", v.Mount, setDefault(v.Mount, active.ID),
			"the default issuer is not the one that the roles sign under")
	}
	for _, id := range v.Pinned {
		if len(v.Issuers) > 0 && len(j.hidden) == 0 && !slices.ContainsFunc(j.r.Generations, func(g Generation) bool { return g.ID == id }) {
			j.find(Warning, "pinned-missing/"+id, v.Mount, "correct vault_issuer_id or vault_next_issuer_id in the configuration",
				"the daemon is pinned to the issuer %s, which the mount does not have", id)
		}
	}
	subjects := map[string]string{}
	for _, g := range j.r.Generations {
		where := v.Mount + "/issuer/" + g.Name
		j.add("break-glass", g.Name, where, g.cert)
		if other, twice := subjects[g.Subject]; twice {
			j.find(Warning, "issuer-name/"+g.Name, where, "give each generation a common name of its own (… g1, … g2): make the next one with "+
				"breakglass ca plan",
				"the break-glass CAs %s and %s have the same subject %q: in a handshake they cannot be told apart", other, g.Name, g.Subject)
		}
		subjects[g.Subject] = g.Name
		if g.Pinned && (g.Position == PositionClosed || g.Position == PositionOld && j.r.Phase == Closed) {
			j.find(Warning, "pinned-closed/"+g.Name, where, "set vault_issuer_id to the active issuer, take vault_next_issuer_id out, and restart "+
				"the daemon", "the daemon is still pinned to %s, which is closed", g.Name)
		}
		if g.Position != PositionActive && g.Position != PositionNext {
			continue
		}
		if g.Position == PositionActive && !g.Pinned {
			j.find(Critical, "not-pinned/"+g.Name, where, "set vault_next_issuer_id: "+g.ID+
				" for the cluster and restart the daemon, or move the roles back",
				"the roles sign under %s, which the daemon is not pinned to: it refuses to issue", g.Name)
		}
		if g.Position == PositionNext && !g.Pinned {
			j.find(Info, "not-pinned/"+g.Name, where, "set vault_next_issuer_id: "+g.ID+
				" for the cluster and restart the daemon, before the roles move",
				"the daemon is not pinned to the next CA %s yet", g.Name)
		}
		if g.Position == PositionActive && !g.Signs {
			j.find(Critical, "issuer-usage/"+g.Name, where, "see who changed it: "+vault("read", v.Mount+"/issuer/"+g.ID),
				"the issuer %s may not sign (its usage, a revocation, or a missing key)", g.Name)
		}
		if !g.cert.MaxPathLenZero || g.cert.MaxPathLen != 0 {
			j.find(Warning, "issuer-path/"+g.Name, where, "replace it by one that setup.sh or breakglass ca plan makes",
				"the break-glass CA %s may sign CAs below itself (no path length of 0)", g.Name)
		}
		if !selfSigned(g.cert) {
			j.intermediate(g, where)
		}
		for _, i := range v.Issuers {
			if i.ID == g.ID && i.LeafNotAfter != "err" {
				j.find(Warning, "issuer-leaf/"+g.Name, where, vault("patch", v.Mount+"/issuer/"+g.ID, "leaf_not_after_behavior=err"),
					"the issuer %s does not refuse what would outlive it (%q)", g.Name, i.LeafNotAfter)
			}
		}
	}
	for _, s := range v.Issuers {
		for _, der := range s.Chain {
			if c, err := x509.ParseCertificate(der); err == nil {
				j.add("break-glass-root", short(der), v.Mount+"/issuer/"+s.Name, c)
				if !bytes.Equal(der, s.Certificate) {
					j.ends("root", short(der), v.Mount+"/issuer/"+s.Name, "renew it with whoever runs it, and the issuer below it", c,
						"the CA %q above the issuer %s ends %s", c.Subject, s.Name, stamp(c.NotAfter))
				}
			}
		}
	}
}

// intermediate judges an issuer that another CA signed.
func (j *judge) intermediate(g Generation, where string) {
	j.find(Info, "intermediate/"+g.Name, where, "put the issuer itself, not its root, into the client-CA bundles",
		"the break-glass CA %s is an intermediate below %q: that CA could sign another one of the same name", g.Name, g.cert.Issuer)
	for _, s := range j.r.Servers {
		o := j.o.Servers[slices.IndexFunc(j.o.Servers, func(x Server) bool { return x.Address == s.Address })]
		if listed, asked := names(o, g.cert.RawSubject); asked && !listed && s.Trust[g.Name] == Trusted {
			j.find(Critical, "external-root/"+s.Address, s.Address, "put the issuer itself into the bundle and take its root out",
				"the API server at %s trusts %s through the external root: whoever holds any client certificate below that root is a user of the "+
					"cluster", s.Address, g.Name)
		}
	}
}

func (j *judge) canaries() {
	for _, c := range j.o.Canaries {
		name := j.name(c.Issuer)
		switch {
		case c.Wrong:
			j.blind(Critical, "canary/"+name, j.o.Vault.Mount, "find out who changed Vault: breakglassd doctor",
				"Vault signed something else than the canary of %s: %s", name, c.Error)
		case c.Error != "":
			j.blind(Critical, "canary/"+name, j.o.Vault.Mount, "breakglassd doctor looks closer", "no canary of %s could be signed: %s", name,
				c.Error)
		}
	}
	for _, s := range j.o.Servers {
		for _, c := range s.Canaries {
			name := j.name(c.Issuer)
			switch c.Outcome {
			case OutcomeOther:
				j.find(Critical, "canary-other/"+s.Address+"/"+name, s.Address,
					"use the address of the API server itself, and find out what stands in between", "%s answered the canary of %s for somebody else: %s",
					s.Address, name, c.Why)
			case OutcomeUnproven:
				j.find(Warning, "canary-unproven/"+s.Address, s.Address,
					"Kubernetes 1.32 or newer tells it; the binding system:basic-user lets everybody ask",
					"%s took the canary of %s, and its fingerprint could not be compared: %s", s.Address, name, c.Why)
			case OutcomeUnreached:
				j.blind(Critical, "canary/"+s.Address+"/"+name, s.Address, "see whether it is up and reachable from here",
					"%s did not answer the canary of %s: %s", s.Address, name, c.Why)
			case OutcomeAccepted, OutcomeRefused:
			}
		}
	}
	// A canary that nobody signed is as bad as one that failed.
	if active, ok := j.r.Generation(PositionActive); ok && active.Signs && !active.Expired &&
		!slices.ContainsFunc(j.o.Canaries, func(c Signing) bool { return c.Issuer == active.ID }) {
		j.blind(Critical, "canary/"+active.Name, j.o.Vault.Mount, "run breakglass ca check",
			"no canary of %s was asked for, under which the roles sign", active.Name)
	}
}

func (j *judge) name(id string) string {
	for _, g := range j.r.Generations {
		if g.ID == id {
			return g.Name
		}
	}
	return id
}

// client judges the client-CA bundles: what else is trusted, when it ends, and what is left over.
func (j *judge) client() {
	generation := func(c *x509.Certificate) *Generation {
		i := slices.IndexFunc(j.r.Generations, func(g Generation) bool { return g.cert.Equal(c) })
		if i < 0 {
			return nil
		}
		return &j.r.Generations[i]
	}
	known := func(der []byte) bool {
		return slices.ContainsFunc(slices.Concat(j.o.KnownClientCAs, j.o.RootCA), func(k []byte) bool { return bytes.Equal(k, der) })
	}
	const configMap = "ConfigMap kube-system/extension-apiserver-authentication"
	published := map[string]bool{}  // by subject
	var clients []*x509.Certificate // whoever holds a certificate of one of them is somebody in the cluster; ours have a lifetime of their own
	if j.o.Published != nil {
		for _, der := range j.o.Published.ClientCAs {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				j.find(Warning, "client-ca-odd/"+short(der), configMap, "look at it, and take it out of the bundles", "a client CA cannot be parsed")
				continue
			}
			published[string(c.RawSubject)] = true
			left := len(j.listing(c.RawSubject)) == 0 && j.allReached()
			g := generation(c)
			if g == nil || g.ClusterCA != "" {
				j.add("client", short(der), configMap, c)
				clients = append(clients, c)
			} else if Expired(c.NotAfter, j.now) {
				j.find(Info, "client-ca-expired/"+short(der), configMap, "take it out of the bundles", "the client CA %q (%s) ended %s", c.Subject,
					short(der), stamp(c.NotAfter))
			}
			if g != nil {
				continue
			}
			if !known(der) {
				j.find(Warning, "client-ca-unknown/"+short(der), configMap,
					"find out whose it is: whoever has its key is any user. Name it under known client CAs (ca_checks.client_ca_files) if kubelets or "+
						"the control plane sign in by it; otherwise take it out of the bundles",
					"the cluster takes client certificates of %q (%s), which is neither ours nor the cluster's own", c.Subject, short(der))
			}
			if left && !Expired(c.NotAfter, j.now) {
				j.find(Warning, "residue/"+short(der), configMap, "kubectl -n kube-system delete configmap extension-apiserver-authentication (it is "+
					"made again at once), then restart the aggregated API servers",
					"no API server lists %q (%s) any more, and aggregated API servers still take its certificates", c.Subject, short(der))
			}
		}
		for _, g := range j.r.Generations {
			if g.Published == Yes && g.Position != PositionOld && count(j.r.Servers, g.Name, true).nowhere() {
				j.find(Warning, "residue/"+g.Name, configMap, "kubectl -n kube-system delete configmap extension-apiserver-authentication (it is "+
					"made again at once), then restart the aggregated API servers",
					"no API server takes certificates of %s, and aggregated API servers still do", g.Name)
			}
		}
	}
	// A CA that has ended is missing in the ConfigMap, and the operator's word for it remains.
	for _, der := range j.o.KnownClientCAs {
		c, err := x509.ParseCertificate(der)
		if g := generation(c); err == nil && (g == nil || g.ClusterCA != "") {
			j.add("client", short(der), "client_ca_files", c)
			clients = append(clients, c)
		}
	}
	for _, c := range clients {
		j.clientEnds(c, clients, known(c.Raw))
	}
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
					j.find(Warning, "client-ca-unpublished/"+s.Address+"/"+name, s.Address,
						"compare the bundle files of the API servers: this one may have another",
						"%s takes client certificates of %q, which the ConfigMap does not hold", s.Address, name)
				}
			}
		}
		j.r.Servers[i].Others = others
	}
}

// clientEnds judges the end of a client CA that is not ours alone. With it ends the access of everybody who has a certificate of
// it, such as every kubelet. What only the ConfigMap still has, and nobody expects, may end.
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
	gone := len(at) == 0 && (!expected || j.allReached() && Expired(c.NotAfter, j.now)) // nobody takes it, as far as can be seen
	if gone && j.allReached() {
		j.left(short(c.Raw))
	}
	if !gone {
		j.ends("client-ca", short(c.Raw), cmp.Or(strings.Join(at, ", "), "client_ca_files"),
			"give the cluster its next client CA, append it to every bundle, and renew the certificates of kubelets and the control plane. If "+
				"that is done, take this one out of the bundles and the configuration, and delete the ConfigMap extension-apiserver-authentication "+
				"(it is made again at once)",
			c, "the client CA %q (%s) ends %s: whoever signs in by it is refused from then on, kubelets and the control plane if it is the "+
				"cluster's own", c.Subject, short(c.Raw), stamp(c.NotAfter))
		return
	}
	if Expired(c.NotAfter, j.now) {
		j.find(Info, "client-ca-expired/"+short(c.Raw), "ConfigMap kube-system/extension-apiserver-authentication",
			"take it out of the bundles, and out of client_ca_files", "the client CA %q (%s) ended %s, and no API server lists it", c.Subject,
			short(c.Raw), stamp(c.NotAfter))
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

func (j *judge) requestHeader() {
	const where = "ConfigMap kube-system/extension-apiserver-authentication"
	p := j.o.Published
	if p == nil {
		return
	}
	if len(p.RequestHeader) == 0 {
		j.find(Info, "request-header-none", where, "nothing, if no aggregated API server is used",
			"no authenticating proxy (request header) CA is configured")
		return
	}
	if len(p.AllowedNames) == 0 {
		j.find(Warning, "request-header-names", where, "set --requestheader-allowed-names=front-proxy-client",
			"whoever holds any certificate of the request-header CA may be any user: the list of allowed names is empty")
	}
	for _, der := range p.RequestHeader {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			j.find(Warning, "request-header-odd/"+short(der), where, "replace it", "a request-header CA cannot be parsed")
			continue
		}
		j.add("request-header", short(der), where, c)
		j.ends("request-header", short(der), where, "rotate it (kubeadm certs), and restart the API servers", c,
			"the request-header CA %q ends %s", c.Subject, stamp(c.NotAfter))
	}
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

// clientSigners are the signers of the CSR API whose certificates are for signing in at API servers.
var clientSigners = []string{"kubernetes.io/kube-apiserver-client", "kubernetes.io/kube-apiserver-client-kubelet"}

// signers judges whose key the CSR API signs with: kube-controller-manager has it, and whoever may approve requests uses it.
func (j *judge) signers() {
	for _, s := range j.o.Signers {
		c, err := x509.ParseCertificate(s.Certificate)
		if err != nil {
			j.find(Warning, "csr-signer-odd/"+s.Name, s.Name, "look at what it signs: kubectl get certificatesigningrequests",
				"the signer %s of the CSR API made something that is no certificate", s.Name)
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
				j.find(Critical, "csr-signer/"+a.generation, s.Name, "rotate to a CA that Vault makes itself ("+caPlan(j.o.Cluster)+
					"), and "+next,
					"the signer %s of the CSR API signs with the key of our CA %s: that key exists outside Vault, and whoever may approve requests can "+
						"make break-glass certificates", s.Name, a.generation)
			case "client":
				trusted = true
			case "request-header", KindEtcd:
				j.find(Critical, "csr-signer/"+a.kind+"/"+a.generation, s.Name, next,
					"the signer %s of the CSR API signs with the %s CA %s: whoever may approve requests gets in there, past the API server", s.Name,
					a.kind, a.generation)
			}
		}
		if client && !trusted && j.o.Published != nil {
			j.find(Warning, "csr-signer-untrusted/"+s.Name, s.Name, "put the CA of --cluster-signing-cert-file into the client-CA bundles, or "+
				"give kube-controller-manager one that is in them",
				"the signer %s of the CSR API signs with %q, whose certificates no API server takes: nodes cannot renew theirs", s.Name, c.Issuer)
		}
	}
}

// shared looks for CAs that do more than one job.
func (j *judge) shared() {
	key := func(a authority) string { return string(a.cert.RawSubjectPublicKeyInfo) }
	for i, a := range j.seen {
		if j.closedClusterCA(a) {
			continue // it signs nothing for us any more; what it shares with others is told of it as a client CA
		}
		for _, b := range j.seen[i+1:] {
			if a.kind == b.kind || key(a) != key(b) && !above(a, b) {
				continue
			}
			pair := func(x, y string) bool { return a.kind == x && b.kind == y || a.kind == y && b.kind == x }
			which := fmt.Sprintf("%s in %s and %s in %s", a.generation, a.where, b.generation, b.where)
			switch {
			case pair("break-glass", "request-header"), pair("break-glass-root", "request-header"):
				j.find(Critical, "shared/request-header/"+a.generation, b.where,
					"give the request header a CA of its own at once (--requestheader-client-ca-file)",
					"the request-header CA vouches for our certificates too (%s): whoever holds one could be any user", which)
			case pair("client", "request-header"):
				s := Warning
				if j.o.Published != nil && len(j.o.Published.AllowedNames) == 0 {
					s = Critical
				}
				j.find(s, "shared/client-request-header/"+a.generation, b.where, "give the request header a CA of its own",
					"one CA vouches for users and for authenticating proxies (%s)", which)
			case pair("break-glass", KindEtcd), pair("break-glass", KindKubelet), pair("break-glass-root", KindEtcd),
				pair("break-glass-root", KindKubelet), pair("client", KindEtcd):
				j.find(Critical, "shared/"+a.kind+"-"+b.kind+"/"+a.generation, b.where,
					"give each a CA of its own: access would bypass the API server, its audit log and the binding that ends it",
					"one CA vouches for users of the API server and for something else (%s)", which)
			case pair("request-header", KindEtcd):
				j.find(Critical, "shared/request-header-etcd/"+a.generation, b.where, "give each a CA of its own",
					"one CA vouches for authenticating proxies and for etcd (%s): whoever may say who a user is could also write into etcd, past the "+
						"API server", which)
			case pair("request-header", KindKubelet):
				j.find(Warning, "shared/request-header-kubelet/"+a.generation, b.where, "give each a CA of its own",
					"one CA vouches for authenticating proxies and for kubelets (%s)", which)
			case pair("break-glass", "client"):
				if g := j.generation(a.generation); g == nil || g.ClusterCA == "" {
					// The same key under another certificate: a renewed or cross-signed CA.
					j.find(Warning, "shared/key/"+a.generation, b.where, "find out who made the second certificate",
						"another CA certificate has the key of ours (%s)", which)
				}
			case pair(KindKubelet, KindEtcd):
				j.find(Warning, "shared/kubelet-etcd/"+a.generation, b.where, "give etcd a CA of its own",
					"one CA vouches for kubelets and for etcd (%s)", which)
			}
		}
	}
	j.sharedNames()
}

// above reports whether one of two CAs is an issuer of ours, and the other signed it and vouches for something else: whoever
// takes the certificates of b takes ours too, also if Vault does not know what is above its issuer.
func above(a, b authority) bool {
	return a.kind == "break-glass" && !selfSigned(a.cert) && slices.Contains([]string{"request-header", KindEtcd, KindKubelet}, b.kind) &&
		bytes.Equal(a.cert.RawIssuer, b.cert.RawSubject) && a.cert.CheckSignatureFrom(b.cert) == nil
}

// sharedNames compares the names of the CAs whose client certificates etcd and kubelets say they take with those that vouch for
// users. That kubelets take the cluster's own is as it should be.
func (j *judge) sharedNames() {
	const apart = "take it out of there: access would bypass the API server, its audit log and the binding that ends it"
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
					j.find(Critical, "shared/"+e.Kind+"/"+e.Where, e.Where, next, "%s at %s takes client certificates of our CA %s", e.Kind, e.Where,
						g.Name)
				case bytes.Equal(n, g.cert.RawIssuer):
					j.find(Critical, "shared/break-glass-root-"+e.Kind+"/"+g.Name, e.Where, apart,
						"%s at %s takes client certificates of %q, which is above our CA %s", e.Kind, e.Where, g.cert.Issuer, g.Name)
				}
			}
			for _, a := range j.seen {
				if !bytes.Equal(n, a.cert.RawSubject) || j.namesake(e.Kind, a) {
					continue
				}
				what := "%s at %s takes client certificates of %q, the name of the CA %s in %s, which vouches for others"
				switch a.kind + " " + e.Kind {
				case "client " + KindEtcd, "break-glass-root " + KindEtcd, "break-glass-root " + KindKubelet, "request-header " + KindEtcd:
					j.find(Critical, "shared/"+a.kind+"-"+e.Kind+"/"+a.generation, e.Where, apart, what, e.Kind, e.Where, a.cert.Subject, a.generation,
						a.where)
				case "request-header " + KindKubelet:
					j.find(Warning, "shared/"+a.kind+"-"+e.Kind+"/"+a.generation, e.Where, apart, what, e.Kind, e.Where, a.cert.Subject, a.generation,
						a.where)
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

func (j *judge) generation(name string) *Generation {
	i := slices.IndexFunc(j.r.Generations, func(g Generation) bool { return g.Name == name })
	if i < 0 {
		return nil
	}
	return &j.r.Generations[i]
}

// closedClusterCA reports whether an authority is an issuer that is the cluster's own CA and signs nothing in Vault any more.
func (j *judge) closedClusterCA(a authority) bool {
	g := j.generation(a.generation)
	return a.kind == "break-glass" && g != nil && g.ClusterCA != "" && !g.Signs
}

// left marks a client CA as left over.
func (j *judge) left(generation string) {
	for i := range j.r.Authorities {
		if a := &j.r.Authorities[i]; a.Kind == "client" && a.Generation == generation {
			a.Left = true
		}
	}
}

// add judges the strength of one CA certificate and remembers it.
func (j *judge) add(kind, generation, where string, c *x509.Certificate) {
	if slices.ContainsFunc(j.seen, func(a authority) bool { return a.kind == kind && a.cert.Equal(c) }) {
		return
	}
	j.seen = append(j.seen, authority{kind, generation, where, c})
	key, _, weak := Strength(c.PublicKey)
	j.authority(kind, generation, where, key, c)
	const next = "replace it by one with at least ECDSA P-256 or RSA-2048, signed with SHA-256"
	if kind == "break-glass" || kind == "client" || kind == "request-header" {
		j.find(weak, "key/"+kind+"/"+generation, where, next, "the CA %q has the weak key %s: its signature can be forged, and whoever does is "+
			"any user", c.Subject, key)
	} else {
		j.find(weak, "key/"+kind+"/"+generation, where, next, "the CA %q has the weak key %s", c.Subject, key)
	}
	j.find(HashSeverity(c.SignatureAlgorithm, selfSigned(c)), "hash/"+kind+"/"+generation, where, next, "the CA %q is signed with %s",
		c.Subject, c.SignatureAlgorithm)
	if !c.IsCA {
		j.find(Info, "not-ca/"+kind+"/"+generation, where, "replace it by a CA",
			"%q stands where a CA is expected and is none: only itself is trusted by it", c.Subject)
	}
}

func (j *judge) authority(kind, generation, where, key string, c *x509.Certificate) {
	end := c.NotAfter
	j.r.Authorities = append(j.r.Authorities, Authority{Kind: kind, Generation: generation, Where: where, Subject: c.Subject.String(),
		Key: key, NotAfter: &end, Fingerprint: breakglass.Fingerprint(c.Raw)})
}

func (j *judge) finish() Report {
	r := j.r
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(rank(b.Severity)-rank(a.Severity), cmp.Compare(a.Key, b.Key))
	})
	for i := range r.Authorities {
		a := &r.Authorities[i]
		for _, f := range r.Findings {
			if rank(f.Severity) > rank(a.Worst) && about(f.Key, *a) {
				a.Worst = f.Severity
			}
		}
	}
	r.OK = r.Complete && rank(Worst(r.Findings)) <= rank(Info)
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
