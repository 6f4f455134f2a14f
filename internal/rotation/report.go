package rotation

import (
	"crypto/x509"
	"slices"
	"time"
)

// Report is what an observation means: what the API returns and the command line prints.
type Report struct {
	Cluster string    `json:"cluster"`
	At      time.Time `json:"at"`
	Phase   Phase     `json:"phase"`
	Why     string    `json:"why"` // one sentence: how the phase is known
	// Complete is true if everything that was asked for could be seen. OK is Complete with nothing to do: no finding above Info.
	Complete bool `json:"complete"`
	OK       bool `json:"ok"`

	Generations []Generation  `json:"generations"` // of the break-glass CA, the oldest first
	Servers     []ServerTrust `json:"servers"`
	Authorities []Authority   `json:"authorities"` // every CA and key that was seen
	Verdicts    []Verdict     `json:"findings"`    // the worst first
	People      PeopleTrust   `json:"people"`      // the address that people's kubeconfigs get

	Mount   string        `json:"mount"`
	Roles   []Role        `json:"roles"`
	Default string        `json:"default_issuer"`
	MaxTTL  time.Duration `json:"max_ttl_ns"`
	Drained Tri           `json:"drained"` // whether every certificate of the old issuer has ended
	// when the last certificate of the old issuer ends; nil: unknown, or there is no old one
	DrainedAt *time.Time `json:"drained_at,omitempty"`
}

// Verdict is one thing that an operator should know. Key is stable from check to check for the same thing at the same place.
type Verdict struct {
	Key      string   `json:"key"`
	Severity Severity `json:"severity"`
	What     string   `json:"what"`
	Where    string   `json:"where"`
	Next     string   `json:"next"`
}

// Position is where a generation stands in the rotation.
type Position string

// The positions. There is at most one old and one next: those that the phase is about.
const (
	PositionActive Position = "active" // the roles sign under it
	PositionNext   Position = "next"   // newer than the active one, and may sign
	PositionOld    Position = "old"    // older than the active one, and not done with
	PositionClosed Position = "closed" // signs nothing, and is trusted nowhere or is the cluster's own CA
	PositionOther  Position = "other"  // none of these, such as a second newer one
)

// Generation is one issuer in Vault.
type Generation struct {
	Name        string    `json:"name"`
	ID          string    `json:"id"`
	Position    Position  `json:"position"`
	Subject     string    `json:"subject"`
	Fingerprint string    `json:"fingerprint"`
	Key         string    `json:"key"`
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	Signs       bool      `json:"signs"` // its usage allows it, it is not revoked, and Vault has its key
	Expired     bool      `json:"expired"`
	Pinned      bool      `json:"pinned"`    // the daemon's configuration names it
	Published   Tri       `json:"published"` // in the ConfigMap extension-apiserver-authentication
	// ClusterCA is where it is seen that this is the cluster's own CA, such as "the ConfigMap kube-root-ca.crt"; empty: it is not.
	// Kubelets and the control plane sign in by it, so it stays in every bundle, whatever becomes of the issuer in Vault.
	ClusterCA string `json:"cluster_ca,omitempty"`

	cert *x509.Certificate
}

// Tri is an answer that may be missing.
type Tri string

// The answers.
const (
	Yes        Tri = "yes"
	No         Tri = "no"
	CannotTell Tri = "cannot tell"
)

// Trust is what is known about one API server and one generation.
type Trust string

// The degrees of trust. See the package comment for why a name alone is neither proof of it nor of its absence.
const (
	Trusted Trust = "trusted"     // its canary was taken
	Refused Trust = "refused"     // its canary was refused, or its name is not listed
	Listed  Trust = "listed"      // its name is listed, and no canary could prove what that means
	Unknown Trust = "cannot tell" // not seen
)

// ServerTrust is one API server.
type ServerTrust struct {
	Address string           `json:"address"`
	Reached bool             `json:"reached"`
	Trust   map[string]Trust `json:"trust"`            // by name of the generation
	Cached  []string         `json:"cached"`           // generations that it takes although its declared bundle file is missing or not usable
	Fresh   map[string]bool  `json:"canary"`           // by name: its canary was shown, and taken or not
	Others  []string         `json:"other_client_cas"` // names of the other CAs whose client certificates it takes
}

// PeopleTrust is what the canaries showed of the address that people's kubeconfigs get. Arrives is No only where the API servers
// themselves take the canary that does not arrive there: Why is what happens to it.
type PeopleTrust struct {
	Arrives Tri    `json:"arrives"`
	Why     string `json:"why,omitempty"`
}

// people compares what the address that people get answered with what the API servers answered.
func people(o Observation) PeopleTrust {
	out := PeopleTrust{Arrives: CannotTell, Why: "no canary was shown there"}
	for _, g := range o.People {
		taken, told, all := 0, 0, 0
		for _, s := range o.Servers {
			for _, c := range s.Canaries {
				if c.Issuer != g.Issuer || c.Outcome == OutcomeUnreached {
					continue
				}
				all++
				if c.Outcome == OutcomeAccepted {
					told++
				}
				if c.Outcome == OutcomeAccepted || c.Outcome == OutcomeUnproven {
					taken++
				}
			}
		}
		why := ""
		switch {
		case g.Outcome == OutcomeUnreached:
			out.Why = "it does not answer there: " + g.Why
			continue
		case g.Outcome == OutcomeAccepted, g.Outcome == OutcomeUnproven && told == 0:
			if out.Arrives == CannotTell {
				out = PeopleTrust{Arrives: Yes}
			}
			continue
		case taken < all || all == 0:
			out.Why = "the API servers do not all take the canary themselves"
			continue
		case g.Outcome == OutcomeUnproven:
			why = "its name arrives and its fingerprint does not: " + g.Why
		case g.Outcome == OutcomeOther:
			why = "another arrives in its place: " + g.Why
		case g.Outcome == OutcomeRefused:
			why = "it is answered with 401, and the API servers take it"
		}
		return PeopleTrust{Arrives: No, Why: why}
	}
	return out
}

// Authority is one CA, certificate or key that was seen, and what is thought of it.
type Authority struct {
	Kind        string     `json:"ca"`         // break-glass, client, serving-ca, serving, request-header, service-account, kubelet, etcd
	Generation  string     `json:"generation"` // tells those of one kind apart: an issuer's name, an address, or the start of the fingerprint
	Where       string     `json:"where"`
	Subject     string     `json:"subject"`
	Key         string     `json:"key"`
	NotAfter    *time.Time `json:"not_after,omitempty"` // nil: a key, which does not end
	Fingerprint string     `json:"fingerprint,omitempty"`
	Left        bool       `json:"left_over,omitempty"` // a client CA that was renewed, or that no API server lists: it may end
	Worst       Severity   `json:"worst,omitempty"`     // of the findings about it
}

// Generation finds a generation by its position.
func (r Report) Generation(p Position) (Generation, bool) {
	i := slices.IndexFunc(r.Generations, func(g Generation) bool { return g.Position == p })
	if i < 0 {
		return Generation{}, false
	}
	return r.Generations[i], true
}

// Worst is the highest severity among verdicts, "" if there is no verdict.
func Worst(verdicts []Verdict) Severity {
	var worst Severity
	for _, v := range verdicts {
		if rank(v.Severity) > rank(worst) {
			worst = v.Severity
		}
	}
	return worst
}

func rank(s Severity) int {
	return slices.Index([]Severity{"", Info, Warning, Critical}, s)
}

// fingerprint is the hex SHA-256 of a certificate.
