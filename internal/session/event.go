// Package session accounts for what was done with a grant, from the audit events of the clusters' API servers: it reads
// events, keeps what belongs to break-glass certificates, and builds the report. It does no input or output of its own and
// trusts nothing in an event beyond what the API server itself wrote.
package session

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/breakglassd/breakglass/internal/policy"
)

// The stages of a request, as audit.k8s.io/v1 names them.
const (
	StageReceived = "RequestReceived"
	StageStarted  = "ResponseStarted" // of long-running requests only: watches and streams
	StageComplete = "ResponseComplete"
	StagePanic    = "Panic"
)

// HeartbeatParam is the query parameter of /version by which the daemon recognises its own requests in the audit stream.
const HeartbeatParam = "breakglass-heartbeat"

// Event is what is kept of one audit event. Names, addresses but the last, user agents and URIs come from the client.
type Event struct {
	AuditID     string          `json:"auditID"` // not unique: a client may choose it
	Stage       string          `json:"stage"`
	Level       string          `json:"level"`
	Received    time.Time       `json:"received"` // when the API server got the request
	At          time.Time       `json:"at"`       // when it got to this stage
	Verb        string          `json:"verb"`
	User        string          `json:"user"`                  // who authenticated, also where they impersonate somebody
	Groups      []string        `json:"groups,omitempty"`      // those under our names
	Fingerprint string          `json:"fingerprint,omitempty"` // of the client certificate: lower hex SHA-256
	Credential  string          `json:"credential,omitempty"`  // another kind of credential id than a certificate's
	As          *Identity       `json:"as,omitempty"`          // whom they impersonate
	Sources     []string        `json:"sources,omitempty"`     // only the last is what the API server saw; the others are claims
	Agent       string          `json:"agent,omitempty"`       // what the client calls itself
	URI         string          `json:"uri"`                   // without the values of query parameters that look like secrets
	Object      *Object         `json:"object,omitempty"`
	Code        int             `json:"code,omitempty"`     // HTTP status, 0 if there is none yet
	Decision    string          `json:"decision,omitempty"` // of the authorizer: allow or forbid
	Why         string          `json:"why,omitempty"`      // the authorizer's reason
	Issued      string          `json:"issued,omitempty"`   // id of a credential that this request minted
	Request     json.RawMessage `json:"request,omitempty"`  // of changes only
	Trimmed     []string        `json:"trimmed,omitempty"`  // fields that were too long, cut or left out
	// Imported is the person who handed the event in with a file. It is empty for what an API server sent itself.
	Imported string `json:"imported,omitempty"`
}

// Identity is a user as somebody impersonates them.
type Identity struct {
	User   string   `json:"user"`
	Groups []string `json:"groups,omitempty"`
}

// Object is what a request is about. Name is empty for lists and for names that the API server generates.
type Object struct {
	Group       string `json:"group,omitempty"`
	Resource    string `json:"resource,omitempty"`
	Subresource string `json:"subresource,omitempty"`
	Namespace   string `json:"namespace,omitempty"`
	Name        string `json:"name,omitempty"`
	UID         string `json:"uid,omitempty"`
}

// Ours reports whether an event is of a break-glass certificate, or of somebody who acts under a name of ours: by the user's
// or the impersonated user's name or groups, or by a fingerprint that known says yes to. known may be nil.
func Ours(e Event, known func(fingerprint string) bool) bool {
	return named(e.User, e.Groups) || e.As != nil && named(e.As.User, e.As.Groups) ||
		known != nil && e.Fingerprint != "" && known(e.Fingerprint)
}

// Stranger reports whether an event is under a name of ours only because somebody impersonates it, or was authenticated by
// something else than a certificate. No break-glass certificate does that to its own name.
func Stranger(e Event) bool {
	return e.Credential != "" && e.Fingerprint == "" || !named(e.User, e.Groups) && e.As != nil && named(e.As.User, e.As.Groups)
}

func named(user string, groups []string) bool {
	return strings.HasPrefix(user, policy.CommonNamePrefix) || strings.HasPrefix(user, policy.CanaryPrefix) ||
		slices.ContainsFunc(groups, ourGroup)
}

func ourGroup(g string) bool { return strings.HasPrefix(g, policy.CommonNamePrefix) }

// Heartbeat returns the nonce of an event that is a heartbeat request, or "".
func (e Event) Heartbeat() string {
	rest, ok := strings.CutPrefix(e.URI, "/version?"+HeartbeatParam+"=")
	if !ok || rest == "" || len(rest) > 128 || strings.ContainsAny(rest, "&%") {
		return ""
	}
	return rest
}

// Source is the address that the API server saw, or "".
func (e Event) Source() string {
	if len(e.Sources) == 0 {
		return ""
	}
	return e.Sources[len(e.Sources)-1]
}

// Key identifies an event among those of its cluster. API servers resend events, so equal keys are duplicates. The audit id
// and the stage alone are not enough: a client chooses the id by a request header, and could hide behind an earlier request.
func (e Event) Key() [32]byte {
	at := binary.BigEndian.AppendUint64(nil, uint64(e.At.UnixMicro()))
	return e.hash(e.Stage, string(at), e.Source())
}

// request identifies the request that an event is a stage of.
func (e Event) request() [32]byte { return e.hash() }

func (e Event) hash(more ...string) [32]byte {
	var b []byte
	received := binary.BigEndian.AppendUint64(nil, uint64(e.Received.UnixMicro()))
	for _, s := range append([]string{e.AuditID, string(received), e.Verb, e.URI, e.User, e.Fingerprint, e.Credential}, more...) {
		b = binary.BigEndian.AppendUint64(b, uint64(len(s)))
		b = append(b, s...)
	}
	return sha256.Sum256(b)
}

// path is the URI without its query.
func (e Event) path() string {
	p, _, _ := strings.Cut(e.URI, "?")
	return p
}

// query returns the values of a query parameter, in their order.
func (e Event) query(name string) []string {
	_, q, _ := strings.Cut(e.URI, "?")
	var out []string
	for part := range strings.SplitSeq(q, "&") {
		k, v, _ := strings.Cut(part, "=")
		if k != name {
			continue
		}
		// What is no text stays as it came: a report that is read back must be the same.
		if plain, err := url.QueryUnescape(v); err == nil && utf8.ValidString(plain) {
			v = plain
		}
		out = append(out, v)
	}
	return out
}

// Notable reports whether an event is about more than looking at something harmless: such events have room of their own in
// the store, so that nobody can crowd them out with others.
func (e Event) Notable() bool { return e.changes() || e.stream() || e.secret() || e.As != nil }

// mutates are the verbs that change something.
var mutates = []string{"create", "update", "patch", "delete", "deletecollection"}

// changes reports whether the request is one that changes something when it succeeds.
func (e Event) changes() bool {
	if !slices.Contains(mutates, e.Verb) || e.Object == nil || e.stream() || slices.Contains(e.query("dryRun"), "All") {
		return false
	}
	return !strings.HasSuffix(e.Object.Resource, "reviews") || e.Object.Group != "authorization.k8s.io" &&
		e.Object.Group != "authentication.k8s.io"
}

// stream reports whether the request opens a way to somewhere else.
func (e Event) stream() bool {
	return e.Object != nil && slices.Contains([]string{"exec", "attach", "portforward", "proxy"}, e.Object.Subresource)
}

// secret reports whether the answer to the request, if it is allowed, shows the content of Secrets. So do the answers to
// changes.
func (e Event) secret() bool {
	return e.Object != nil && e.Object.Group == "" && e.Object.Resource == "secrets" && e.Object.Subresource == "" && e.Verb != "create"
}

// refused reports whether an authorizer, an authenticator or admission said no.
func (e Event) refused() bool { return e.Decision == "forbid" || e.Code == 401 || e.Code == 403 }
