// Package api is the HTTP API of the daemon for the command line: its wire types, the server, the client, and how people
// sign in with their own SSH keys. It holds no rules: every decision is made by package breakglass, and a person's
// no is its Refusal on the way to the screen.
//
// # Signing in
//
// No identity provider is asked, because it may be what is broken. The client names its public keys by fingerprint and gets
// a challenge; it signs a text of four lines ([SessionText]) with one of them, in a namespace of its own, and gets a token.
// The text holds the address that the client meant to reach and the ledger's origin: a signature made for one server is
// worth nothing at another, even if that other one passed the first one's challenge on. The token stands for one key of one
// person, ends after 15 minutes without use and after an hour at the latest, and ends at once when the access policy drops
// the key or the person. It is never enough to approve: each approval carries its own signature.
//
// # Waiting
//
// GET /v1/requests/{id}?wait=50s&after=REV&was=STATE answers as soon as the request has a greater revision than REV or
// another state than STATE, or after the wait. The client repeats it ([Client.Follow]), over restarts of the daemon too.
//
// # Lists
//
// GET /v1/requests?filter=F&days=N&limit=L&before=ENTRY looks at no more than the L newest requests of those made before a ledger entry,
// and answers with those that the filter keeps. If there are older ones, next is the entry to go on before. The client goes on until
// there is no next ([Client.List]). Without a limit all are in one answer, as earlier clients want it.
package api

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// Version is the apiVersion of every JSON document. Within it, fields are only ever added.
const Version = "breakglass/v1"

// MaxWait is the longest that one long poll waits. Many proxies end silent connections after 60 s.
const MaxWait = 50 * time.Second

// Meta begins every JSON document.
type Meta struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

const kindPreview = "RequestPreview" // of the answer to a dry run

func kind(k string) Meta { return Meta{APIVersion: Version, Kind: k} }

// Request is a request as people see it. Times are UTC.
type Request struct {
	Meta
	ID       string           `json:"id,omitempty"` // empty in the answer to a dry run
	Rev      int64            `json:"rev"`          // grows with each event
	State    breakglass.State `json:"state"`
	AsOf     time.Time        `json:"asOf"`              // the server's time: what State and all countdowns refer to
	Deadline time.Time        `json:"deadline,omitzero"` // when the clock alone changes State

	Digest      string               `json:"digest,omitempty"` // hex SHA-256 of the requested entry's leaf: what approvers sign
	LedgerIndex int64                `json:"ledgerIndex"`      // of the requested entry
	RequestedAt time.Time            `json:"requestedAt,omitzero"`
	Ask         breakglass.Requested `json:"ask"`    // exactly the recorded fact
	Mode        string               `json:"mode"`   // binding or group
	Reason      string               `json:"reason"` // empty when erased

	Approvals  []Approval     `json:"approvals"`
	TakenBack  map[string]int `json:"takenBack,omitempty"` // how often a person has taken an approval back: part of what they sign
	Missing    []string       `json:"missing"`             // what the quorum still waits for, in words
	Approvers  []string       `json:"approvers"`
	ClaimUntil time.Time      `json:"claimUntil,omitzero"`

	Denied      *Ending      `json:"denied,omitempty"`
	Withdrawn   *Ending      `json:"withdrawn,omitempty"`
	Revoked     *Ending      `json:"revoked,omitempty"`
	Failed      *Failure     `json:"failed,omitempty"`
	Certificate *Certificate `json:"certificate,omitempty"`
	Refusals    int          `json:"refusals"`          // commands on it that were not allowed
	NotTold     string       `json:"notTold,omitempty"` // why Slack does not show it to those who can approve it

	Receipt       *breakglass.Receipt         `json:"receipt,omitempty"`     // what the API servers said after the revocation
	Session       *breakglass.SessionReported `json:"session,omitempty"`     // in short
	Swept         *breakglass.Swept           `json:"swept,omitempty"`       // what it left behind
	SweepDigest   string                      `json:"sweepDigest,omitempty"` // of Swept: acknowledging says which one was seen
	Acknowledged  *Ending                     `json:"acknowledged,omitempty"`
	Closed        *Ending                     `json:"closed,omitempty"`  // with the closing note as its reason
	Touched       bool                        `json:"touched,omitempty"` // the closing note is missing
	CloseBy       time.Time                   `json:"closeBy,omitzero"`
	AcknowledgeBy time.Time                   `json:"acknowledgeBy,omitzero"`
	Overdue       []string                    `json:"overdue,omitempty"` // what was recorded as overdue

	Trouble []string          `json:"trouble,omitempty"` // what would keep it from being of use just now
	Names   map[string]string `json:"names,omitempty"`   // of the people mentioned, by id
}

// BadIDError is an answer with an id, or with a state, that is not of our form. Ids become names of files and words of commands: none
// is taken from elsewhere unseen.
type BadIDError struct{ What string }

func (e *BadIDError) Error() string { return e.What }

func checkID(id string) error {
	if !breakglass.ValidID(id) {
		return &BadIDError{fmt.Sprintf("%.40q is not a request id", id)}
	}
	return nil
}

// UnmarshalJSON refuses a request whose ids or state cannot be ours. Only a preview has no id.
func (r *Request) UnmarshalJSON(b []byte) error {
	type plain Request
	if err := json.Unmarshal(b, (*plain)(r)); err != nil {
		return err
	}
	ids := r.Ask.Raised
	if r.Kind != kindPreview || r.ID != "" {
		ids = append([]string{r.ID}, ids...)
	}
	for _, id := range ids {
		if err := checkID(id); err != nil {
			return err
		}
	}
	if !r.State.Known() {
		return &BadIDError{fmt.Sprintf("%.40q is not a state of a request", r.State)}
	}
	return nil
}

// UnmarshalJSON refuses a history of what cannot be a request of ours.
func (h *History) UnmarshalJSON(b []byte) error {
	type plain History
	if err := json.Unmarshal(b, (*plain)(h)); err != nil {
		return err
	}
	return checkID(h.ID)
}

// UnmarshalJSON refuses a request that cannot be ours.
func (l *LeftAlone) UnmarshalJSON(b []byte) error {
	type plain LeftAlone
	if err := json.Unmarshal(b, (*plain)(l)); err != nil {
		return err
	}
	return checkID(l.Request)
}

// Approval is one live approval.
type Approval struct {
	Person  string         `json:"person"`
	Channel record.Channel `json:"channel"`
	Key     string         `json:"key,omitempty"`
	Signed  bool           `json:"signed"`
	At      time.Time      `json:"at"`
	Comment string         `json:"comment,omitempty"`
}

// Ending is a person's decision that ended a request.
type Ending struct {
	Person string    `json:"person"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`
}

// Failure is a claim that gave no usable certificate.
type Failure struct {
	Why     string    `json:"why"`
	Detail  string    `json:"detail"`
	At      time.Time `json:"at"`
	Orphans int       `json:"orphans,omitempty"` // certificates that exist and were never delivered
}

// Certificate is what is known of the one certificate of a request.
type Certificate struct {
	CommonName  string    `json:"commonName"`
	Serial      string    `json:"serial"`
	Fingerprint string    `json:"fingerprint"`
	NotBefore   time.Time `json:"notBefore"`
	NotAfter    time.Time `json:"notAfter"`
	SPKI        string    `json:"spki"`
	LedgerIndex int64     `json:"ledgerIndex"` // of the issued entry
	Bound       bool      `json:"bound"`       // the right exists in the cluster, as far as the ledger knows; always false in group mode
}

// NewRequest renders a request as it is at a time. The policy lends the names.
func NewRequest(r *breakglass.Request, p *policy.Policy, now time.Time) Request {
	out := Request{
		Meta: kind("Request"), ID: r.ID, Rev: r.Rev, State: r.State(now), AsOf: now.UTC(), Deadline: r.Deadline(now),
		Digest: r.Digest, LedgerIndex: r.Seq, RequestedAt: r.At, Ask: r.Ask, Mode: mode(r.Ask.Rights), Reason: r.Reason,
		Approvals: []Approval{}, TakenBack: r.TakenBack,
		Missing: append([]string{}, r.Missing()...), Approvers: r.Ask.Quorum.People(), ClaimUntil: r.ClaimUntil(),
		Denied: ending(r.Denied), Withdrawn: ending(r.Withdrawn), Revoked: ending(r.Revoked), Refusals: r.Refusals, Names: map[string]string{},
		Receipt: r.Receipt, Session: r.Session, Swept: r.Swept, SweepDigest: r.Swept.Digest(), Acknowledged: ending(r.Acknowledged),
		Closed:  ending(r.Closed),
		Touched: r.Touched(), CloseBy: r.CloseBy(now), AcknowledgeBy: r.AcknowledgeBy(), Overdue: r.Overdue,
	}
	for _, a := range r.Approvals {
		out.Approvals = append(out.Approvals, Approval{Person: a.By.Person, Channel: a.By.Channel, Key: a.By.Key, Signed: a.Signed, At: a.At,
			Comment: a.Comment})
	}
	if r.Failed != nil {
		out.Failed = &Failure{Why: r.Failed.Why, Detail: r.Failed.Detail, At: r.FailedAt, Orphans: len(r.Failed.Orphans)}
	}
	if r.Issued != nil {
		out.Certificate = &Certificate{CommonName: r.Claimed.CommonName, Serial: r.Issued.Serial, Fingerprint: r.Issued.Fingerprint,
			NotBefore: r.Issued.NotBefore, NotAfter: r.Issued.NotAfter, SPKI: r.Claimed.SPKI, LedgerIndex: r.IssuedSeq, Bound: r.Bound}
	}
	for _, id := range append([]string{r.Ask.By.Person}, out.Approvers...) {
		if x, ok := p.Person(id); ok {
			out.Names[id] = x.Name
		}
	}
	return out
}

func ending(e *record.Ending) *Ending {
	if e == nil {
		return nil
	}
	return &Ending{Person: e.By.Person, At: e.At, Reason: e.Reason}
}

func mode(r policy.Rights) string {
	if r.Binding() {
		return "binding"
	}
	return "group"
}

// Requests is a list of requests, oldest first.
type Requests struct {
	Meta
	Items []Request `json:"items"`
	Next  int64     `json:"next,omitempty"` // there are older ones: ask for those before this ledger entry
}

// MaxPage is the most requests that one page of a list looks at.
const MaxPage = 500

// Filters of a list of requests.
const (
	FilterAll    = "all"    // made in the last days, or still open
	FilterMine   = "mine"   // of these, the caller's own
	FilterForMe  = "for-me" // waiting for an approval that the caller can give
	FilterActive = "active" // with a certificate out, or about to be

	FilterTouched        = "touched"        // whose closing note is missing, of any age
	FilterUnacknowledged = "unacknowledged" // that left something behind which no second person has acknowledged, of any age
)

// Ask opens a request. A zero TTLSeconds means the profile's default; an empty cluster its only one.
type Ask struct {
	Profile    string `json:"profile"`
	Cluster    string `json:"cluster,omitempty"`
	TTLSeconds int64  `json:"ttlSeconds,omitempty"`
	Reason     string `json:"reason"`
	Incident   string `json:"incident,omitempty"`
	KeyHash    string `json:"keyHash,omitempty"` // hex SHA-256 of the SubjectPublicKeyInfo that alone may claim
}

// Consent approves a request.
type Consent struct {
	Digest    string `json:"digest"`
	Comment   string `json:"comment,omitempty"`
	Signature string `json:"signature"` // armored SSHSIG over breakglass.ApprovalText by the key that the person is signed in with
}

// Reason comes with deny, withdraw, take-back, revoke and revoke-all.
type Reason struct {
	Reason string `json:"reason,omitempty"`
}

// Note comes with close and acknowledge.
type Note struct {
	Note string `json:"note,omitempty"`
	Seen string `json:"seen,omitempty"` // with acknowledge: the digest of the sweep that was seen
}

// Revocations answers revoke-all.
type Revocations struct {
	Meta
	Revoked []Request   `json:"revoked"` // oldest first
	Left    []LeftAlone `json:"left"`    // what was not revoked
}

// LeftAlone is a grant that revoke-all did not end, and why.
type LeftAlone struct {
	Request string `json:"request"`
	Why     string `json:"why"`
}

// CSR claims a certificate.
type CSR struct {
	CSR       string `json:"csr"`       // PEM
	Signature string `json:"signature"` // armored SSHSIG over breakglass.ClaimText by the key that the person is signed in with
}

// Delivery answers a claim.
type Delivery struct {
	Meta
	Request     Request `json:"request"`
	Certificate string  `json:"certificate"`     // PEM
	Chain       string  `json:"chain,omitempty"` // PEM of intermediates to send along
	Cluster     Cluster `json:"cluster"`
	Issued      []byte  `json:"issued"` // the leaf of the issued entry
	Proof       string  `json:"proof"`  // that the leaf is in the ledger: c2sp.org/tlog-proof
	Warning     string  `json:"warning,omitempty"`
}

// Cluster is what a kubeconfig needs to know.
type Cluster struct {
	ID     string `json:"id"`
	Server string `json:"server"`
	CA     string `json:"ca,omitempty"` // PEM; empty: the system's roots
	breakglass.Way
}

// Profile is what may be asked for.
type Profile struct {
	ID                string        `json:"id"`
	Description       string        `json:"description,omitempty"`
	Clusters          []Cluster     `json:"clusters"`
	Rights            policy.Rights `json:"rights"`
	Mode              string        `json:"mode"`
	Risk              policy.Risk   `json:"risk"`
	DefaultTTLSeconds int64         `json:"defaultTTLSeconds"`
	MaxTTLSeconds     int64         `json:"maxTTLSeconds"`
	ReasonMin         int           `json:"reasonMin"`
	IncidentRequired  bool          `json:"incidentRequired"`
	IncidentPattern   string        `json:"incidentPattern,omitempty"`
	Quorum            policy.Quorum `json:"quorum"`
	MayRequest        bool          `json:"mayRequest"` // the caller
	MayApprove        bool          `json:"mayApprove"` // the caller, for others' requests
	// Clusters on which the recertification has suspended what the caller may do.
	AskSuspended     []string `json:"askSuspended,omitempty"`
	ApproveSuspended []string `json:"approveSuspended,omitempty"`

	Names map[string]string `json:"names,omitempty"`
}

// Profiles lists every profile that the caller may ask for or approve.
type Profiles struct {
	Meta
	Items []Profile `json:"items"`
}

// Entry is one ledger entry of a request.
type Entry struct {
	Index  int64             `json:"index"`  // in the ledger
	Number int64             `json:"number"` // in the request, from 1
	Kind   string            `json:"kind"`
	Time   time.Time         `json:"time"`
	Event  json.RawMessage   `json:"event"`           // the recorded bytes, which are JSON
	Texts  map[string]string `json:"texts,omitempty"` // erased ones are absent
	Salts  map[string][]byte `json:"salts,omitempty"` // of Texts: with them the leaf's commitments can be checked
	Leaf   []byte            `json:"leaf"`            // the bytes that are hashed
	Hashes [][]byte          `json:"hashes"`          // the proof that the leaf is in the ledger of the history's checkpoint
}

// Proof is the proof that the entry's leaf is in the ledger of a checkpoint.
func (e Entry) Proof(checkpoint string) (ledger.Proof, error) {
	p := ledger.Proof{Index: e.Index, Note: []byte(checkpoint)}
	for _, h := range e.Hashes {
		if len(h) != tlog.HashSize {
			return p, errors.New("a hash of the proof is malformed")
		}
		p.Hashes = append(p.Hashes, tlog.Hash(h))
	}
	return p, nil
}

// History is everything the ledger holds about a request, in order.
type History struct {
	Meta
	ID         string  `json:"id"`
	Entries    []Entry `json:"entries"`
	Checkpoint string  `json:"checkpoint"` // signed: the one that every entry is proven to be under
}

// ChallengeFor asks for a challenge and names the keys that the client could sign with.
type ChallengeFor struct {
	Fingerprints []string `json:"fingerprints"` // SHA256:…, at most maxOffered
}

// Challenge is signed by the client within two minutes.
type Challenge struct {
	Meta
	Challenge string    `json:"challenge"`
	Expires   time.Time `json:"expires"`
	Ledger    string    `json:"ledger"` // the ledger's origin
	Known     []string  `json:"known"`  // those of the offered fingerprints that belong to a person
}

// Proof of a key: the answer to a challenge.
type Proof struct {
	PublicKey string `json:"publicKey"` // authorized_keys form
	Server    string `json:"server"`    // the address that the client meant to reach, as signed
	Challenge string `json:"challenge"`
	Signature string `json:"signature"` // armored SSHSIG over SessionText in SessionNamespace
}

// SignIn is a signed-in person. Token is a secret. On the wire it is called Session.
type SignIn struct {
	Meta
	Token   string    `json:"token"`
	Person  string    `json:"person"`
	Name    string    `json:"name"`
	Key     string    `json:"key"` // fingerprint
	Expires time.Time `json:"expires"`
}

// Person is who the caller is.
type Person struct {
	Meta
	Person  string    `json:"person"`
	Name    string    `json:"name"`
	Key     string    `json:"key"`
	Teams   []string  `json:"teams"`
	Expires time.Time `json:"expires"` // of the sign-in, at the latest
}

// ServerVersion says what runs.
type ServerVersion struct {
	Meta
	Version string    `json:"version"`
	Ledger  string    `json:"ledger"` // origin
	Time    time.Time `json:"time"`
}

// Consistency proves that the ledger of To entries begins with that of From.
type Consistency struct {
	Meta
	From   int64    `json:"from"`
	To     int64    `json:"to"`
	Hashes [][]byte `json:"hashes"`
}

// Empty is an answer without content.
type Empty struct {
	Meta
}

// The classes of errors that are not breakglass.Refusals.
const (
	ClassSignIn   = "sign-in"  // no session, or not a good one: prove a key
	ClassInternal = "internal" // the daemon's fault; its log has the cause under the request id
)

// Error is a no. On the client it is the type of every error that came from the server or from not reaching it.
type Error struct {
	Meta
	Class     string `json:"class"` // a breakglass.Class or one of the above
	Code      string `json:"code"`  // stable, for programs
	Why       string `json:"why"`
	Next      string `json:"next,omitempty"`
	RequestID string `json:"requestId,omitempty"`

	status     int
	retryAfter time.Duration
	cause      error
}

// Error is the sentence people see.
func (e *Error) Error() string {
	if e.Next == "" {
		return e.Why
	}
	return e.Why + "; " + e.Next
}

// Unwrap is the technical cause on the client's side, such as a refused connection.
func (e *Error) Unwrap() error { return e.cause }

func newError(class record.Class, code, next, why string, args ...any) *Error {
	return &Error{Meta: kind("Error"), Class: string(class), Code: code, Why: fmt.Sprintf(why, args...), Next: next}
}

// SignInNamespace is the SSHSIG namespace of sign-ins.
const SignInNamespace = "session@breakglass.dev"

// SignInText is what a client signs to sign in: the address it meant to reach, the ledger's origin, and the challenge.
func SignInText(server, ledgerOrigin, challenge string) []byte {
	return fmt.Appendf(nil, "breakglass session v1\nserver %s\nledger %s\nchallenge %s\n", server, ledgerOrigin, challenge)
}

func certificatePEM(ders ...[]byte) string {
	var out []byte
	for _, der := range ders {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return string(out)
}
