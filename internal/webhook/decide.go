package webhook

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/text"
)

// CredentialID is the key in a user's extra under which Kubernetes 1.32 and later says which certificate was used.
const CredentialID = "authentication.kubernetes.io/credential-id"

// printPrefix begins the credential id of a certificate; the lower-case hex SHA-256 of its DER follows.
const printPrefix = "X509SHA256="

// Spec is what an API server asks about: who wants to do what. Exactly one of Resource and Path is set, as a rule.
type Spec struct {
	User     string              `json:"user,omitempty"`
	UID      string              `json:"uid,omitempty"`
	Groups   []string            `json:"groups,omitempty"`
	Extra    map[string][]string `json:"extra,omitempty"`
	Resource *ResourceAttributes `json:"resourceAttributes,omitempty"`
	Path     *PathAttributes     `json:"nonResourceAttributes,omitempty"`
}

// PathAttributes is a request for a path that is no object, such as /healthz.
type PathAttributes struct {
	Path string `json:"path,omitempty"`
	Verb string `json:"verb,omitempty"`
}

func ours(name string) bool { return strings.HasPrefix(name, policy.CommonNamePrefix) }

// ours reports whether the user or one of the groups has a name that only we give out. Nothing else is looked up.
func (s Spec) ours() bool { return ours(s.User) || slices.ContainsFunc(s.Groups, ours) }

// credential is how the user has signed in.
type credential int

const (
	unsaid  credential = iota // the question does not say
	byPrint                   // with the certificate of a fingerprint
	foreign                   // with something that is not one certificate
)

// fingerprint returns the hex SHA-256 of the certificate that the user has signed in with.
func (s Spec) fingerprint() (string, credential) {
	ids, said := s.Extra[CredentialID]
	if !said || len(ids) == 0 {
		return "", unsaid
	}
	hex, ok := strings.CutPrefix(ids[0], printPrefix)
	if !ok || len(ids) != 1 || len(hex) != 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		return "", foreign
	}
	return hex, byPrint
}

// Facts is what the ledger knows about the one who asks.
type Facts struct {
	Cluster  string              // the cluster whose API server asks
	Print    *breakglass.Request // the request that issued the certificate; nil for a canary's
	Known    bool                // the ledger knows the certificate
	Name     *breakglass.Request // the request that the user name names
	NameIsOf bool                // there is such a request, of that person
}

// Decision is the answer. Without Denied it is no opinion: this webhook never allows.
type Decision struct {
	Denied bool
	Reason string // a sentence for the one who was denied; kubectl shows it
	// Finding is what people must know about it, or nil.
	Finding *finding.Opened
}

func deny(format string, args ...any) Decision {
	return Decision{Denied: true, Reason: "breakglass: " + fmt.Sprintf(format, args...)}
}

// Decide decides about one request from what the ledger knows. It is a pure function.
func Decide(s Spec, f Facts, now time.Time) Decision {
	if !s.ours() {
		return Decision{}
	}
	if !ours(s.User) {
		d := deny("group %s is not given to this user", printable(firstOurs(s.Groups)))
		if print, how := s.fingerprint(); how == byPrint && !f.Known {
			d.Finding = shadow(s, f.Cluster, print)
		}
		return d
	}
	r, d := holder(s, f)
	if d.Denied {
		return d
	}
	if r.Ask.Cluster != f.Cluster {
		return deny("%s is not for this cluster", r.ID)
	}
	if st := r.State(now); st != breakglass.StateActive {
		return deny("certificate of %s %s", r.ID, ended(st))
	}
	for _, g := range s.Groups {
		if ours(g) && g != r.Ask.Rights.Group {
			return deny("group %s is not given to this user", printable(g))
		}
	}
	if s.Resource != nil {
		if g, refused := Refused(r.Ask.Guards, *s.Resource); refused {
			return deny("%s is kept from this (guard %s): %s", r.ID, g, printable(s.Resource.what()))
		}
	}
	return Decision{}
}

// holder finds the grant whose certificate the user has, or says why it is denied.
func holder(s Spec, f Facts) (*breakglass.Request, Decision) {
	print, how := s.fingerprint()
	switch {
	case how == foreign:
		return nil, deny("this user name is only for certificates of ours")
	case how == unsaid && !f.NameIsOf: // a server before 1.32, or a question that somebody asked about this user
		return nil, deny("no grant has the user name %s", printable(s.User))
	case how == unsaid:
		return f.Name, Decision{}
	case f.Known && (f.Print == nil || s.User != breakglass.CommonName(f.Print.Ask.By.Person, f.Print.ID)):
		return nil, deny("this certificate was not issued for the user name %s", printable(s.User))
	case f.Known:
		return f.Print, Decision{}
	case f.NameIsOf && orphan(f.Name, print):
		return nil, deny("certificate of %s %s", f.Name.ID, ended(breakglass.StateFailed))
	}
	d := deny("certificate is not known to the ledger")
	d.Finding = shadow(s, f.Cluster, print)
	return nil, d
}

// shadow is the finding of a certificate in use that the ledger does not know. It says nothing of what was asked, so that one
// certificate is one finding.
func shadow(s Spec, cluster, print string) *finding.Opened {
	return &finding.Opened{Key: finding.ShadowKey(cluster, print), Check: "webhook", Cluster: cluster,
		Severity: finding.Critical,
		What: fmt.Sprintf("an API server of %s was asked about %s with a certificate that the ledger does not know, fingerprint %s; it was "+
			"denied", cluster, printable(s.User), print),
		Next: "look for the fingerprint in the API servers' audit logs, and find out who signed the certificate (the authority's own audit " +
			"log)"}
}

// orphan reports whether the certificate came of a claim that failed.
func orphan(r *breakglass.Request, print string) bool {
	return r.Failed != nil && slices.ContainsFunc(r.Failed.Orphans, func(der []byte) bool { return breakglass.Fingerprint(der) == print })
}

// ended says in words why a grant in a state gives no access.
func ended(st breakglass.State) string {
	switch st {
	case breakglass.StateRevoked:
		return "was revoked"
	case breakglass.StateExpired:
		return "has expired"
	case breakglass.StateFailed:
		return "was not issued properly"
	case breakglass.StatePending, breakglass.StateApproved, breakglass.StateIssuing, breakglass.StateActive,
		breakglass.StateDenied, breakglass.StateWithdrawn, breakglass.StateLapsed:
	}
	return "cannot exist: the request is " + string(st)
}

func firstOurs(groups []string) string { return groups[slices.IndexFunc(groups, ours)] }

// maxShown bounds a text of the asker's in a reason, in characters.
const maxShown = 150

// printable makes a text of the asker's fit for a terminal, a log and a ledger entry.
func printable(s string) string { return text.Line(s, maxShown) }
