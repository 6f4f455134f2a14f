package rotation

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
)

// What is judged of the issuers in Vault: the phase of a rotation, their ends, and whether they can sign.

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
			j.add(Verdict{
				Severity: Critical, Key: "role-issuer/" + r.Name, Where: j.o.Vault.Mount + "/roles/" + r.Name,
				What: fmt.Sprintf("the role %s signs under %q, which is not an issuer of the mount", r.Name, r.Issuer),
				Next: "run deploy/vault/setup.sh with --issuer, and find out who changed it",
			})
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
		j.unknown(Verdict{
			Severity: Warning, Key: "phase", Where: j.o.Cluster,
			What: fmt.Sprintf("in which phase the rotation is: %s", j.r.Why),
			Next: "see the other findings",
		})
	}
	active, ok := j.r.Generation(PositionActive)
	if !ok {
		return
	}
	j.trusting(active, old, hasOld, drained, plan)
	switch j.r.Phase {
	case TrustedOnSome, OldRemovedOnSome, DeletedButCached, Residue, Active, Drained, Retired:
		j.add(Verdict{
			Severity: Warning, Key: "rotation-unfinished", Where: j.o.Cluster,
			What: fmt.Sprintf("a rotation is under way and waits for an operator: %s", j.r.Why),
			Next: plan,
		})
	case SwitchedTooEarly, ExpiredCA:
		j.add(Verdict{
			Severity: Critical, Key: "rotation-" + string(j.r.Phase), Where: j.o.Cluster,
			What: j.r.Why,
			Next: plan,
		})
	case Prepared, TrustedOnAll, Draining:
		j.add(Verdict{
			Severity: Info, Key: "rotation-under-way", Where: j.o.Cluster,
			What: fmt.Sprintf("a rotation is under way: %s", j.r.Why),
			Next: plan,
		})
	case NotStarted, Closed, PhaseUnknown:
	}
	if (j.r.Phase == DeletedButCached || j.r.Phase == OldRemovedOnSome || j.r.Phase == Drained) && old.ClusterCA == "" {
		for _, s := range j.r.Servers {
			if t := s.Trust[old.Name]; (t == Trusted || t == Listed) && !slices.Contains(s.Cached, old.Name) {
				j.add(Verdict{
					Severity: Info, Key: "old-trusted/" + s.Address, Where: s.Address,
					What: fmt.Sprintf("the API server at %s still takes certificates of %s", s.Address, old.Name),
					Next: "look at the file on the node: a bundle that was deleted or emptied changes nothing, and from outside looks like one that " +
						"still holds the CA; write the new one with mv",
				})
			}
		}
	}
	j.apart()
}

// trusting judges whether the API servers take what the roles sign, and what of the old issuer can still be alive.
func (j *judge) trusting(active, old Generation, hasOld bool, drained Tri, plan string) {
	for _, s := range j.r.Servers {
		switch s.Trust[active.Name] {
		case Refused:
			j.add(Verdict{
				Severity: Critical, Key: "active-untrusted/" + s.Address, Where: s.Address,
				What: fmt.Sprintf("the API server at %s refuses certificates of %s, under which the roles sign: break-glass does not work there",
					s.Address, active.Name),
				Next: "append " + active.Name + " to its client-CA bundle, or move the roles back: " + plan,
			})
		case Unknown, Listed:
			j.unknown(Verdict{
				Severity: Warning, Key: "active-trust/" + s.Address, Where: s.Address,
				What: fmt.Sprintf("whether the API server at %s takes certificates of %s, under which the roles sign", s.Address, active.Name),
				Next: "see the other findings about this address and about the canary",
			})
		case Trusted:
		}
		if hasOld && s.Trust[old.Name] == Refused && drained != Yes && !old.Expired && j.r.Phase != SwitchedTooEarly {
			until := "an unknown time"
			if j.r.DrainedAt != nil {
				until = stamp(*j.r.DrainedAt)
			}
			j.add(Verdict{
				Severity: Critical, Key: "removed-too-early/" + s.Address, Where: s.Address,
				What: fmt.Sprintf("the API server at %s refuses certificates of %s, which can be alive until %s", s.Address, old.Name, until),
				Next: "put " + old.Name + " back into its bundle until then",
			})
		}
	}
}

// apart judges the lifetime of each issuer that signs or will sign, and tells of those that have no part in the rotation.
func (j *judge) apart() {
	for _, g := range j.r.Generations {
		used := g.Position == PositionActive || g.Position == PositionNext
		known := len(j.hidden) == 0 // else it may well have a part
		if g.ClusterCA != "" {
			j.clusterCA(g)
		}
		if g.Position == PositionOther && g.Signs && known {
			j.add(Verdict{
				Severity: Warning, Key: "issuer-extra/" + g.Name, Where: j.o.Vault.Mount,
				What: fmt.Sprintf("the issuer %s can sign and has no part in the rotation", g.Name),
				Next: "if it is not wanted, remove its usage: " + closeIssuer(j.o.Vault.Mount, g.ID),
			})
		}
		if at := count(j.r.Servers, g.Name, true).trusting; g.Position == PositionOther && len(at) > 0 && known && g.ClusterCA == "" {
			j.add(Verdict{
				Severity: Warning, Key: "issuer-left/" + g.Name, Where: strings.Join(at, ", "),
				What: fmt.Sprintf("%s still take certificates of %s, which has no part in the rotation", strings.Join(at, ", "), g.Name),
				Next: "remove it from the client-CA bundles there",
			})
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
		j.add(Verdict{
			Severity: Warning, Key: "key-outside-vault/" + g.Name, Where: where,
			What: fmt.Sprintf("our CA %s is the cluster's own (it is in %s): its key also lies on the control-plane nodes and in "+
				"kube-controller-manager, and its holder can make break-glass certificates unseen", g.Name, g.ClusterCA),
			Next: next,
		})
	} else {
		j.add(Verdict{
			Severity: Info, Key: "key-outside-vault/" + g.Name, Where: where,
			What: fmt.Sprintf("%s no longer signs anything in Vault and is still trusted, because it is the cluster's own CA (it is in %s): the "+
				"holder of its key can still make a certificate for any user", g.Name, g.ClusterCA),
			Next: "nothing: it is the same in every cluster. Leave it in the bundles, and guard the control-plane nodes",
		})
	}
	for _, s := range j.r.Servers {
		if s.Trust[g.Name] == Refused && !g.Expired {
			j.add(Verdict{
				Severity: Warning, Key: "cluster-ca-refused/" + s.Address + "/" + g.Name, Where: s.Address,
				What: fmt.Sprintf("the API server at %s refuses certificates of %s, which is the cluster's own CA (it is in %s)", s.Address, g.Name,
					g.ClusterCA),
				Next: "put it back into the bundle there if kubelets or the control plane still sign in by it; if the cluster has another CA now, " +
					"remove this one from where it is named",
			})
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
		j.add(Verdict{
			Severity: Critical, Key: "issuer-expires/" + g.Name, Where: where,
			What: fmt.Sprintf("the break-glass CA %s ended %s", g.Name, stamp(g.NotAfter)),
			Next: next,
		})
	case j.now.Before(g.NotBefore):
		j.add(Verdict{
			Severity: Critical, Key: "issuer-future/" + g.Name, Where: where,
			What: fmt.Sprintf("the break-glass CA %s begins only %s", g.Name, stamp(g.NotBefore)),
			Next: "see whether the clocks of Vault and of this machine are right",
		})
	case !CanSign(g.NotBefore, g.NotAfter, j.now, j.o.Vault.MaxTTL):
		j.add(Verdict{
			Severity: Critical, Key: "issuer-expires/" + g.Name, Where: where,
			What: fmt.Sprintf("the break-glass CA %s ends %s, too soon to sign for the longest lifetime of %s: nothing can be issued", g.Name,
				stamp(g.NotAfter), j.o.Vault.MaxTTL),
			Next: next,
		})
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
		j.add(Verdict{
			Severity: s, Key: key, Where: where,
			What: fmt.Sprintf("the break-glass CA %s ends %s", g.Name, stamp(g.NotAfter)),
			Next: next,
		})
	}
	j.add(Verdict{
		Severity: AgeSeverity(g.NotBefore, j.now, j.t), Key: "issuer-age/" + g.Name, Where: where,
		What: fmt.Sprintf("the break-glass CA %s was made %s, longer ago than the rotation policy allows (%d days)", g.Name, stamp(g.NotBefore),
			int(j.t.MaxAge.Hours()/24)),
		Next: next,
	})
}

// vault judges the issuers beside their lifetime.
func (j *judge) vault() {
	v := j.o.Vault
	if len(v.Pinned) > 0 && len(v.Unseen) == 0 && !v.ReadyToSign {
		j.add(Verdict{
			Severity: Critical, Key: "signer", Where: v.Mount,
			What: fmt.Sprintf("Vault cannot sign for people now: %s", v.NotReadyReason),
			Next: "run breakglassd doctor: it looks closer",
		})
	}
	j.add(Verdict{
		Severity: SkewSeverity(v.Skew), Key: "clock/vault", Where: v.Mount,
		What: fmt.Sprintf("Vault's clock and ours differ by %s", v.Skew.Abs()),
		Next: "set the clocks with NTP",
	})
	if v.FollowsLatest {
		j.add(Verdict{
			Severity: Warning, Key: "default-follows-latest", Where: v.Mount,
			What: "the default issuer follows the latest one: preparing the next CA would switch to it",
			Next: setDefault(v.Mount, v.Default),
		})
	}
	if active, ok := j.r.Generation(PositionActive); ok && v.Default != "" && v.Default != active.ID && j.r.Phase != Active &&
		len(j.hidden) == 0 {
		j.add(Verdict{
			Severity: Warning, Key: "default-issuer", Where: v.Mount,
			What: "the default issuer is not the one that the roles sign under",
			Next: setDefault(v.Mount, active.ID),
		})
	}
	for _, id := range v.Pinned {
		if len(v.Issuers) > 0 && len(j.hidden) == 0 && !slices.ContainsFunc(j.r.Generations, func(g Generation) bool { return g.ID == id }) {
			j.add(Verdict{
				Severity: Warning, Key: "pinned-missing/" + id, Where: v.Mount,
				What: fmt.Sprintf("the daemon is pinned to the issuer %s, which the mount does not have", id),
				Next: "correct vault_issuer_id or vault_next_issuer_id in the configuration",
			})
		}
	}
	subjects := map[string]string{}
	for _, g := range j.r.Generations {
		where := v.Mount + "/issuer/" + g.Name
		j.sawCA("break-glass", g.Name, where, g.cert)
		if other, twice := subjects[g.Subject]; twice {
			j.add(Verdict{
				Severity: Warning, Key: "issuer-name/" + g.Name, Where: where,
				What: fmt.Sprintf("the break-glass CAs %s and %s have the same subject %q: in a handshake they cannot be told apart", other, g.Name,
					g.Subject),
				Next: "give each generation a common name of its own (… g1, … g2): make the next one with breakglass ca plan",
			})
		}
		subjects[g.Subject] = g.Name
		if g.Pinned && (g.Position == PositionClosed || g.Position == PositionOld && j.r.Phase == Closed) {
			j.add(Verdict{
				Severity: Warning, Key: "pinned-closed/" + g.Name, Where: where,
				What: fmt.Sprintf("the daemon is still pinned to %s, which is closed", g.Name),
				Next: "set vault_issuer_id to the active issuer, remove vault_next_issuer_id, and restart the daemon",
			})
		}
		if g.Position != PositionActive && g.Position != PositionNext {
			continue
		}
		j.issuer(g, where)
	}
	for _, s := range v.Issuers {
		for _, der := range s.Chain {
			if c, err := x509.ParseCertificate(der); err == nil {
				j.sawCA("break-glass-root", short(der), v.Mount+"/issuer/"+s.Name, c)
				if !bytes.Equal(der, s.Certificate) {
					j.expiry(c, Verdict{
						Key: "root-expires/" + short(der), Where: v.Mount + "/issuer/" + s.Name,
						What: fmt.Sprintf("the CA %q above the issuer %s ends %s", c.Subject, s.Name, stamp(c.NotAfter)),
						Next: "have the operator of that CA renew it, and the issuer below it",
					})
				}
			}
		}
	}
}

// issuer judges an issuer that signs or will sign.
func (j *judge) issuer(g Generation, where string) {
	v := j.o.Vault
	if g.Position == PositionActive && !g.Pinned {
		j.add(Verdict{
			Severity: Critical, Key: "not-pinned/" + g.Name, Where: where,
			What: fmt.Sprintf("the roles sign under %s, which the daemon is not pinned to: it refuses to issue", g.Name),
			Next: "set vault_next_issuer_id: " + g.ID + " for the cluster and restart the daemon, or move the roles back",
		})
	}
	if g.Position == PositionNext && !g.Pinned {
		j.add(Verdict{
			Severity: Info, Key: "not-pinned/" + g.Name, Where: where,
			What: fmt.Sprintf("the daemon is not pinned to the next CA %s yet", g.Name),
			Next: "set vault_next_issuer_id: " + g.ID + " for the cluster and restart the daemon, before the roles move",
		})
	}
	if g.Position == PositionActive && !g.Signs {
		j.add(Verdict{
			Severity: Critical, Key: "issuer-usage/" + g.Name, Where: where,
			What: fmt.Sprintf("the issuer %s may not sign (its usage, a revocation, or a missing key)", g.Name),
			Next: "see who changed it: " + vault("read", v.Mount+"/issuer/"+g.ID),
		})
	}
	if !g.cert.MaxPathLenZero || g.cert.MaxPathLen != 0 {
		j.add(Verdict{
			Severity: Warning, Key: "issuer-path/" + g.Name, Where: where,
			What: fmt.Sprintf("the break-glass CA %s may sign CAs below itself (no path length of 0)", g.Name),
			Next: "replace it by one that setup.sh or breakglass ca plan makes",
		})
	}
	if !selfSigned(g.cert) {
		j.intermediate(g, where)
	}
	for _, i := range v.Issuers {
		if i.ID == g.ID && i.LeafNotAfter != "err" {
			j.add(Verdict{
				Severity: Warning, Key: "issuer-leaf/" + g.Name, Where: where,
				What: fmt.Sprintf("the issuer %s does not refuse what would outlive it (%q)", g.Name, i.LeafNotAfter),
				Next: vault("patch", v.Mount+"/issuer/"+g.ID, "leaf_not_after_behavior=err"),
			})
		}
	}
}

// intermediate judges an issuer that another CA signed.
func (j *judge) intermediate(g Generation, where string) {
	j.add(Verdict{
		Severity: Info, Key: "intermediate/" + g.Name, Where: where,
		What: fmt.Sprintf("the break-glass CA %s is an intermediate below %q: that CA could sign another one of the same name", g.Name,
			g.cert.Issuer),
		Next: "put the issuer itself, not its root, into the client-CA bundles",
	})
	for _, s := range j.r.Servers {
		o := j.o.Servers[slices.IndexFunc(j.o.Servers, func(x Server) bool { return x.Address == s.Address })]
		if listed, asked := names(o, g.cert.RawSubject); asked && !listed && s.Trust[g.Name] == Trusted {
			j.add(Verdict{
				Severity: Critical, Key: "external-root/" + s.Address, Where: s.Address,
				What: fmt.Sprintf("the API server at %s trusts %s through the external root: the holder of any client certificate below that root is "+
					"a user of the cluster", s.Address, g.Name),
				Next: "put the issuer itself into the bundle and remove its root",
			})
		}
	}
}

func (j *judge) canaries() {
	for _, c := range j.o.Canaries {
		name := j.name(c.Issuer)
		switch {
		case c.Wrong:
			j.unknown(Verdict{
				Severity: Critical, Key: "canary/" + name, Where: j.o.Vault.Mount,
				What: fmt.Sprintf("Vault signed something else than the canary of %s: %s", name, c.Error),
				Next: "find out who changed Vault: breakglassd doctor",
			})
		case c.Error != "":
			j.unknown(Verdict{
				Severity: Critical, Key: "canary/" + name, Where: j.o.Vault.Mount,
				What: fmt.Sprintf("no canary of %s could be signed: %s", name, c.Error),
				Next: "run breakglassd doctor: it looks closer",
			})
		}
	}
	for _, s := range j.o.Servers {
		for _, c := range s.Canaries {
			name := j.name(c.Issuer)
			switch c.Outcome {
			case OutcomeOther:
				j.add(Verdict{
					Severity: Critical, Key: "canary-other/" + s.Address + "/" + name, Where: s.Address,
					What: fmt.Sprintf("%s answered the canary of %s as if it were another client: %s", s.Address, name, c.Why),
					Next: "use the address of the API server itself, and find out what stands in between",
				})
			case OutcomeUnproven:
				j.add(Verdict{
					Severity: Warning, Key: "canary-unproven/" + s.Address, Where: s.Address,
					What: fmt.Sprintf("%s took the canary of %s, and its fingerprint could not be compared: %s", s.Address, name, c.Why),
					Next: "Kubernetes 1.32 or newer tells it; the binding system:basic-user lets every user ask",
				})
			case OutcomeUnreached:
				j.unknown(Verdict{
					Severity: Critical, Key: "canary/" + s.Address + "/" + name, Where: s.Address,
					What: fmt.Sprintf("%s did not answer the canary of %s: %s", s.Address, name, c.Why),
					Next: "see whether it is up and reachable from here",
				})
			case OutcomeAccepted, OutcomeRefused:
			}
		}
	}
	// A canary that was not signed is as bad as one that failed.
	if active, ok := j.r.Generation(PositionActive); ok && active.Signs && !active.Expired &&
		!slices.ContainsFunc(j.o.Canaries, func(c Signing) bool { return c.Issuer == active.ID }) {
		j.unknown(Verdict{
			Severity: Critical, Key: "canary/" + active.Name, Where: j.o.Vault.Mount,
			What: fmt.Sprintf("no canary of %s was asked for, under which the roles sign", active.Name),
			Next: "run breakglass ca check",
		})
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
