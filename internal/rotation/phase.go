package rotation

import (
	"fmt"
	"strings"
)

// Phase is how far a rotation is. It is computed from one observation. See the package comment.
type Phase string

// The phases, in the order of a rotation that goes well, and then the ones beside it.
const (
	NotStarted       Phase = "not-started"
	Prepared         Phase = "prepared"
	TrustedOnSome    Phase = "trusted-on-some"
	TrustedOnAll     Phase = "trusted-on-all"
	Active           Phase = "active"
	Draining         Phase = "draining"
	Drained          Phase = "drained"
	OldRemovedOnSome Phase = "old-removed-on-some"
	Residue          Phase = "residue"
	Retired          Phase = "retired"
	Closed           Phase = "closed"

	SwitchedTooEarly Phase = "switched-too-early"
	DeletedButCached Phase = "deleted-but-cached"
	ExpiredCA        Phase = "expired-ca"
	PhaseUnknown     Phase = "cannot-tell"
)

// Phases is all of them, for a metric that has one sample for each.
var Phases = []Phase{NotStarted, Prepared, TrustedOnSome, TrustedOnAll, Active, Draining, Drained, OldRemovedOnSome, Residue, Retired,
	Closed,
	SwitchedTooEarly, DeletedButCached, ExpiredCA, PhaseUnknown}

// tally counts what is known about the trust in one generation over all addresses.
type tally struct {
	yes, no  int
	unknown  []string // addresses
	refusing []string
	trusting []string
	cached   []string // trusting, and their declared bundle file is missing or not usable
}

// count counts for one generation. A name that is listed proves nothing where trust is wanted. Where absence is wanted
// (leaving), it must be counted as trust, so that nothing is said to be gone that may be there.
func count(servers []ServerTrust, name string, leaving bool) tally {
	var t tally
	for _, s := range servers {
		switch trust := s.Trust[name]; {
		case trust == Trusted, trust == Listed && leaving:
			t.yes++
			t.trusting = append(t.trusting, s.Address)
			for _, c := range s.Cached {
				if c == name {
					t.cached = append(t.cached, s.Address)
				}
			}
		case trust == Refused:
			t.no++
			t.refusing = append(t.refusing, s.Address)
		default:
			t.unknown = append(t.unknown, s.Address)
		}
	}
	return t
}

func (t tally) everywhere() bool { return t.yes > 0 && t.no == 0 && len(t.unknown) == 0 }
func (t tally) nowhere() bool    { return t.yes == 0 && t.no > 0 && len(t.unknown) == 0 }

// place gives each generation its position. active is the newest issuer that a role signs under; inUse are all that a role or the
// default names.
func place(gens []Generation, servers []ServerTrust, active string, inUse map[string]bool) {
	at := -1
	for i := range gens {
		gens[i].Position = PositionOther
		if gens[i].ID == active {
			at, gens[i].Position = i, PositionActive
		}
	}
	if at < 0 {
		return
	}
	for i := len(gens) - 1; i > at; i-- {
		if g := &gens[i]; g.Signs && !g.Expired {
			g.Position = PositionNext
			break
		}
	}
	old := false
	for i := at - 1; i >= 0; i-- {
		g := &gens[i]
		gone := count(servers, g.Name, true).nowhere() && g.Published == No
		stays := g.ClusterCA != "" && !inUse[g.ID] // in the bundles, for the cluster's sake
		switch {
		case (gone || stays) && (!g.Signs || g.Expired):
			g.Position = PositionClosed
		case !old:
			g.Position, old = PositionOld, true
		}
	}
}

// phase tells the phase of generations that have their positions. moved says that every role and the default issuer are with the
// active generation; drained is whether no certificate of the old one can be alive.
func phase(gens []Generation, servers []ServerTrust, moved bool, drained Tri) (Phase, string) {
	var active, next, old *Generation
	closed, stays := false, ""
	for i := range gens {
		switch g := &gens[i]; g.Position {
		case PositionActive:
			active = g
		case PositionNext:
			next = g
		case PositionOld:
			old = g
		case PositionClosed:
			closed = true
			if g.ClusterCA != "" {
				stays += fmt.Sprintf(". %s stays in the bundles, because it is the cluster's own CA", g.Name)
			}
		case PositionOther:
		}
	}
	if active == nil {
		return PhaseUnknown, "it could not be seen which issuer the roles in Vault sign under"
	}
	if active.Expired {
		return ExpiredCA, fmt.Sprintf("the roles sign under %s, which ended %s: nothing can be issued", active.Name, stamp(active.NotAfter))
	}
	if len(servers) == 0 {
		return PhaseUnknown, "no API server was looked at"
	}
	a := count(servers, active.Name, false)
	if old != nil {
		return oldPhase(active, old, a, count(servers, old.Name, true), moved, drained)
	}
	if next != nil {
		n := count(servers, next.Name, false)
		switch {
		case n.everywhere():
			return TrustedOnAll, fmt.Sprintf("every API server takes certificates of %s, and the roles still sign under %s", next.Name, active.Name)
		case n.nowhere():
			return Prepared, fmt.Sprintf("%s is in Vault, and no API server takes its certificates yet", next.Name)
		case n.yes > 0 && n.no > 0:
			return TrustedOnSome, fmt.Sprintf("certificates of %s are taken by %s and not by %s", next.Name, strings.Join(n.trusting, ", "),
				strings.Join(n.refusing, ", "))
		}
		return PhaseUnknown, fmt.Sprintf("it is not known whether %s take certificates of %s", strings.Join(n.unknown, ", "), next.Name)
	}
	if a.no == 0 && len(a.unknown) > 0 {
		return PhaseUnknown, fmt.Sprintf("it is not known whether %s take certificates of %s, under which the roles sign",
			strings.Join(a.unknown, ", "), active.Name)
	}
	if closed {
		if stays != "" {
			return Closed, fmt.Sprintf("%s signs, and no older issuer can sign%s", active.Name, stays)
		}
		return Closed, fmt.Sprintf("%s signs, and no older issuer can sign or is trusted anywhere", active.Name)
	}
	return NotStarted, fmt.Sprintf("%s is the only issuer", active.Name)
}

// oldPhase is the second half of a rotation: the roles have moved, and an old issuer is not done with.
func oldPhase(active, old *Generation, a, o tally, moved bool, drained Tri) (Phase, string) {
	switch {
	case a.no > 0:
		return SwitchedTooEarly, fmt.Sprintf("the roles sign under %s, whose certificates %s refuse", active.Name, strings.Join(a.refusing, ", "))
	case len(a.unknown) > 0:
		return PhaseUnknown, fmt.Sprintf("the roles sign under %s, and it is not known whether %s take its certificates", active.Name,
			strings.Join(a.unknown, ", "))
	case !moved:
		return Active, fmt.Sprintf("%s signs, and not every role and the default issuer have moved there from %s", active.Name, old.Name)
	case old.ClusterCA != "": // nothing to take out of the bundles: what is left is to close it in Vault
		if drained != Yes {
			return drainingPhase(old, drained)
		}
		return Drained, fmt.Sprintf("no certificate that Vault signed with %s is still alive. It is the cluster's own CA (it is in %s) and "+
			"stays in the bundles; what is left is to close it in Vault", old.Name, old.ClusterCA)
	case len(o.cached) > 0:
		return DeletedButCached, fmt.Sprintf("%s still take certificates of %s, although their declared bundle files, as the daemon sees them, "+
			"are missing or not usable: what an API server loaded last stays in force", strings.Join(o.cached, ", "), old.Name)
	case o.yes > 0 && o.no > 0:
		return OldRemovedOnSome, fmt.Sprintf("certificates of %s are refused by %s and still taken by %s", old.Name,
			strings.Join(o.refusing, ", "), strings.Join(o.trusting, ", "))
	case len(o.unknown) > 0:
		return PhaseUnknown, fmt.Sprintf("it is not known whether %s take certificates of %s", strings.Join(o.unknown, ", "), old.Name)
	case o.everywhere():
		if drained != Yes {
			return drainingPhase(old, drained)
		}
		return Drained, fmt.Sprintf("no certificate of %s is still alive, and every API server still takes them", old.Name)
	case old.Published == Yes:
		return Residue, fmt.Sprintf("no API server takes certificates of %s, but the ConfigMap extension-apiserver-authentication still holds "+
			"it, so aggregated API servers do", old.Name)
	case old.Published == CannotTell:
		return PhaseUnknown, fmt.Sprintf("no API server takes certificates of %s, and it could not be seen whether the ConfigMap "+
			"extension-apiserver-authentication still holds it", old.Name)
	case old.Signs && !old.Expired:
		return Retired, fmt.Sprintf("%s is trusted nowhere, and could still sign in Vault", old.Name)
	}
	return Closed, fmt.Sprintf("%s signs, and %s can neither sign nor is it trusted anywhere", active.Name, old.Name)
}

func drainingPhase(old *Generation, drained Tri) (Phase, string) {
	if drained == No {
		return Draining, fmt.Sprintf("certificates of %s can still be alive", old.Name)
	}
	return Draining, fmt.Sprintf("it is not known since when %s signs no more, so its certificates may be alive", old.Name)
}
