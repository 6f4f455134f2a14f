package breakglass

import (
	"encoding/json"
	"time"

	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/text"
)

// Requested opens a request. Its stored bytes are what approvers approve: see Request.Digest.
// The reason is kept as an erasable text named "reason", to which the entry commits.
type Requested struct {
	By         record.Actor  `json:"by"`
	Cluster    string        `json:"cluster"`
	Server     string        `json:"server"` // the API server address people saw when they approved
	Profile    string        `json:"profile"`
	Rights     policy.Rights `json:"rights"`
	TTLSeconds int64         `json:"ttlSeconds"`
	Incident   string        `json:"incident,omitempty"`
	// hex SHA-256 of the SubjectPublicKeyInfo the certificate is for; empty: bound at the claim
	KeyHash      string        `json:"keyHash,omitempty"`
	Quorum       policy.Quorum `json:"quorum"`
	Risk         policy.Risk   `json:"risk"`
	PendingUntil time.Time     `json:"pendingUntil"`
	ClaimSeconds int64         `json:"claimSeconds"`
	PolicyDigest string        `json:"policyDigest"`

	// What follows came after the first release: it is absent from older entries, which are read and hashed as they are.

	Guards    []policy.Guard `json:"guards,omitempty"`    // what the deny webhook keeps this grant from doing, sorted
	Aftercare *Aftercare     `json:"aftercare,omitempty"` // what must follow the grant's end; nil: nothing
	Raised    []string       `json:"raised,omitempty"`    // requests whose overdue closing raised Quorum.Count by one; see MaxRaised
	CAHash    string         `json:"caHash,omitempty"`    // hex SHA-256 of the PEM bundle by which people know the cluster; empty: none
	Way
}

// MaxRaised bounds Requested.Raised: of those that are overdue, it names the ones that have been so for the longest. What nobody ever
// closes would otherwise make each new request longer, until it is too long for the ledger.
const MaxRaised = 20

// Way is what people's kubeconfigs need beside the address to reach a cluster.
type Way struct {
	// ProxyURL is the proxy, as http, https or socks5; empty: that of the person's environment, if there is one.
	ProxyURL string `json:"proxyUrl,omitempty"`
	// TLSServerName is the name in the API servers' certificates; empty: the host of the address.
	TLSServerName string `json:"tlsServerName,omitempty"`
}

// Aftercare is what must follow the end of a grant. It is frozen into the request, so that a later configuration or policy
// changes nothing for grants that are under way, and old ledgers mean what they meant.
type Aftercare struct {
	Prove   bool `json:"prove,omitempty"`   // after a revocation every API server is asked until it says no
	Examine bool `json:"examine,omitempty"` // what was done is reported, and what was left behind is looked for
	// after the end, the time for the closing note and for acknowledging; 0: neither is asked for
	CloseSeconds int64 `json:"closeSeconds,omitempty"`
}

// Approved is one person's yes to exactly the digest. Comment is an erasable text.
type Approved struct {
	By        record.Actor `json:"by"`
	Digest    string       `json:"digest"`
	Signature string       `json:"signature,omitempty"` // armored SSHSIG over ApprovalText, by channel key
	PublicKey string       `json:"publicKey,omitempty"` // authorized_keys form of the key that signed: checkable offline
	TakenBack int          `json:"takenBack,omitempty"` // how often the same person had taken an approval of this request back; from v2 on
}

// ApprovalWithdrawn takes the actor's approval back before the claim.
type ApprovalWithdrawn struct {
	By record.Actor `json:"by"`
}

// Denied ends a request for good. The reason is an erasable text.
type Denied struct {
	By record.Actor `json:"by"`
}

// Withdrawn ends a request by its requester.
type Withdrawn struct {
	By record.Actor `json:"by"`
}

// Claimed is the intent to sign: from here on a certificate may exist. It can be appended once per request only.
type Claimed struct {
	By           record.Actor `json:"by"`
	CommonName   string       `json:"commonName"`
	Group        string       `json:"group,omitempty"`
	SPKI         string       `json:"spki"` // hex SHA-256 of the SubjectPublicKeyInfo
	CSR          string       `json:"csr"`  // hex SHA-256 of the DER request
	TTLSeconds   int64        `json:"ttlSeconds"`
	PolicyDigest string       `json:"policyDigest"` // the policy under which the claim was allowed

	Signature string `json:"signature,omitempty"` // armored SSHSIG over ClaimText; from v2 on
	PublicKey string `json:"publicKey,omitempty"` // authorized_keys form of the key that signed; from v2 on
}

// Issued records the certificate, checked against the intent.
type Issued struct {
	Serial      string    `json:"serial"`      // lower-case hex with colons, as Vault and kubectl users see it
	Fingerprint string    `json:"fingerprint"` // hex SHA-256 of the DER: Kubernetes' X509SHA256 credential id
	NotBefore   time.Time `json:"notBefore"`
	NotAfter    time.Time `json:"notAfter"`
	Issuer      string    `json:"issuer"` // hex SHA-256 of the issuing CA certificate's DER
	Certificate []byte    `json:"certificate"`
	Chain       [][]byte  `json:"chain,omitempty"`
}

// Failed ends a claim without a usable certificate.
type Failed struct {
	Why    string `json:"why"`    // one of the Fail constants
	Detail string `json:"detail"` // for people; never a third party's raw error
	// Orphans are certificates that exist although nobody will ever get them.
	Orphans [][]byte `json:"orphans,omitempty"`
}

// NotSigned says that the authority could not sign for the moment, and that nothing was signed: the claim ends, and the approval
// stays. Until it ends it can be claimed again with the same key, after at most MaxNotSigned of these.
type NotSigned struct {
	SPKI string `json:"spki"` // the key that alone can claim again
}

// MaxNotSigned bounds how often one request can be claimed again because the authority could not sign for the moment.
const MaxNotSigned = 20

// The reasons for which a claim fails.
const (
	FailRefused = "refused" // the authority refused: nothing was signed
	FailUnknown = "unknown" // the answer was lost and no certificate was found afterwards
	FailOrphan  = "orphan"  // the answer was lost but a certificate exists; it was never delivered
	FailCheck   = "check"   // what came back is not what was ordered
)

// Bound says that the binding exists in the cluster; Unbound that it is gone.
type (
	Bound struct {
		Rights policy.Rights `json:"rights"`
	}
	Unbound struct {
		Why State `json:"why"` // Expired or Revoked
	}
)

// Revoked cuts a grant off before its time. The reason is an erasable text.
type Revoked struct {
	By record.Actor `json:"by"`
}

// Receipt says which API servers refuse a revoked certificate. Each receipt repeats what the one before said; the last one
// counts.
type Receipt struct {
	Answers []Answer `json:"answers"` // one for each configured API server, in the configuration's order
	Final   bool     `json:"final"`   // nothing more will be asked: every server says no, or the certificate's time is over
	Limits  []string `json:"limits"`  // what a revocation cannot reach, in words
	// Bindings names what gave the certificate rights and was not made for the grant, and what became of it: "NAME: in words".
	Bindings []string `json:"bindings,omitempty"`
	// Late are the servers that could not be asked, when they were asked last before they said no. Of one that says no by now, its time
	// is that of the first answer, and not how long it let the certificate in; of the others nothing is known.
	Late []string `json:"late,omitempty"`
}

// Answer is what one API server said when it was asked whether a revoked certificate still opens it.
type Answer struct {
	Server      string `json:"server"`                // its address
	No          bool   `json:"no"`                    // it refuses
	By          string `json:"by,omitempty"`          // what refuses: RefusedByRBAC or RefusedByWebhook
	AfterMillis int64  `json:"afterMillis,omitempty"` // from the revocation's entry to the first no, in milliseconds
	Tries       int    `json:"tries"`                 // how often it was asked until then
	Question    string `json:"question,omitempty"`    // what it was asked, in words
	Problem     string `json:"problem,omitempty"`     // why there is no no: it cannot be reached, or it still says yes

	Bindings []string  `json:"-"` // for Receipt.Bindings
	At       time.Time `json:"-"` // when it answered; zero: just now. Others may have kept the asker waiting
	Silent   bool      `json:"-"` // it could not be asked, or not be understood: what it does with the certificate is not known
}

// The problems of an API server that answers, and lets the certificate in. Ledgers have these bytes: they never change.
const (
	stillAllowed    = "it still lets the certificate in"
	webhookNotAsked = "its deny webhook does not refuse the certificate, and in group mode nothing else can: is it set up there?"
)

// StillAllowed is the answer of an API server that says yes to a question about a revoked certificate. question is in words.
func StillAllowed(question string) Answer { return Answer{Problem: stillAllowed, Question: question} }

// WebhookNotAsked is the answer of an API server in group mode where nothing refuses: it lets the certificate in just as well.
func WebhookNotAsked() Answer { return Answer{Problem: webhookNotAsked} }

// StillAllows reports the answer StillAllowed.
func (a Answer) StillAllows() bool { return a.Problem == stillAllowed }

// NotAsked reports the answer WebhookNotAsked.
func (a Answer) NotAsked() bool { return a.Problem == webhookNotAsked }

// LetsIn reports whether an API server has answered that it lets the certificate in, as against one of which nothing is known.
func (a Answer) LetsIn() bool { return a.StillAllows() || a.NotAsked() }

// What refuses a revoked certificate.
const (
	RefusedByRBAC    = "rbac"    // nothing allows it any more
	RefusedByWebhook = "webhook" // the deny webhook says no
)

// SessionReported commits to the report on what was done with a grant, as the API servers' audit events tell it. The report
// itself is kept beside the ledger, under its digest.
type SessionReported struct {
	Digest      string    `json:"digest"`         // hex SHA-256 of the report's JSON; empty when there was nothing to report from
	Source      string    `json:"source"`         // SourceAudit or SourceNone
	Events      int       `json:"events"`         // audit events of this certificate
	First       time.Time `json:"first,omitzero"` // use
	Last        time.Time `json:"last,omitzero"`  // use
	From        []string  `json:"from,omitempty"` // source addresses, sorted, at most MaxSources
	Reads       int       `json:"reads"`          // requests that looked
	Writes      int       `json:"writes"`         // requests that changed something, allowed
	Refused     int       `json:"refused"`        // requests that were not allowed
	SecretsRead int       `json:"secretsRead"`    // requests that showed Secrets
	Streams     int       `json:"streams"`        // exec, attach, port-forward and proxy requests
	StillOpen   int       `json:"stillOpen"`      // streams and watches begun and not seen to end
	Gaps        []string  `json:"gaps,omitempty"` // what the report may lack, in words
}

// MaxSources bounds the source addresses in a SessionReported.
const MaxSources = 20

// Where a session report comes from.
const (
	SourceAudit = "audit"
	SourceNone  = "none" // no audit events reach the daemon for this cluster
)

// Swept says what a grant left behind in its cluster. Everything is in the session report.
type Swept struct {
	Items []Residue `json:"items"`          // the gravest first, at most MaxResidues
	More  int       `json:"more,omitempty"` // found beyond Items
	// hex SHA-256 of the JSON of everything found, which the session report has; empty where Items is everything
	All     string   `json:"all,omitempty"`
	Sources []string `json:"sources"`        // what it was found out from: "audit", "comparison"
	Gaps    []string `json:"gaps,omitempty"` // what could not be looked at, and what would make it possible
}

// Critical is how many of Items must be looked at now. An unknown severity counts.
func (s *Swept) Critical() int {
	n := 0
	if s != nil {
		for _, x := range s.Items {
			if x.Severity.Rank() >= finding.Critical.Rank() {
				n++
			}
		}
	}
	return n
}

// Digest names what was found, as a SHA-256 hash in hex: whoever acknowledges it says by that what they have seen. It is empty
// for no sweep.
func (s *Swept) Digest() string {
	if s == nil {
		return ""
	}
	seen := []any{s.Items, s.More}
	if s.All != "" { // ledgers of earlier releases have none
		seen = append(seen, s.All)
	}
	raw, err := json.Marshal(seen)
	if err != nil {
		panic("encoding plain data: " + err.Error())
	}
	return text.SHA256(raw)
}

// MaxResidues bounds the items of one sweep in the ledger.
const MaxResidues = 100

// Residue is one thing that a session made or changed and that outlives it. Acknowledgements name sweeps by the hash of this
// JSON: a field that comes later must be omitted when it is empty, or no ledger from before can be read any more.
type Residue struct {
	Rule     string           `json:"rule"` // stable id of the kind of trick: "clusterrolebinding-created"
	Severity finding.Severity `json:"severity"`
	Object   string           `json:"object"`         // "ClusterRoleBinding evil", "Secret kube-system/x"
	What     string           `json:"what"`           // a sentence without a full stop
	Found    string           `json:"found"`          // audit, comparison or both
	Exists   string           `json:"exists"`         // yes or unknown: what is gone is not left behind
	Undo     string           `json:"undo,omitempty"` // the command that takes it away
}

// Acknowledged is another person's word that they have seen what a sweep found. The note is an erasable text.
type Acknowledged struct {
	By   record.Actor `json:"by"`
	Seen string       `json:"seen,omitempty"` // Digest of the sweep that they saw; absent in ledgers of earlier releases
}

// Closed ends a grant's story: the requester's note on what was done, an erasable text named "note".
type Closed struct {
	By record.Actor `json:"by"`
}

// Overdue says that a word which a grant needs did not come in time.
type Overdue struct {
	What string `json:"what"` // OverdueClosing or OverdueAcknowledgement
}

// What can be overdue.
const (
	OverdueClosing         = "closing"
	OverdueAcknowledgement = "acknowledgement"
)

// Delivered says that the same certificate was handed out again, to the same key.
type Delivered struct {
	By record.Actor `json:"by"`
}

// Ended settles what the clock decided, so that people are told once and the request leaves the open index.
type Ended struct {
	State State `json:"state"` // Lapsed or Expired
}

// AuditImported says that somebody handed in a file of audit events.
type AuditImported struct {
	By      record.Actor `json:"by"`
	Cluster string       `json:"cluster"`
	Digest  string       `json:"digest"` // hex SHA-256 of the file
	Events  int          `json:"events"` // in it
	Kept    int          `json:"kept"`   // of our certificates, and new
}

// CanaryOrdered is the intent to sign a certificate that gives no right, to prove the path. Its stream is the canary's own.
type CanaryOrdered struct {
	Cluster    string `json:"cluster"`
	CommonName string `json:"commonName"`
	SPKI       string `json:"spki"`
	Issuer     string `json:"issuer"` // the authority's own name for the CA that is to sign
}

// CanaryDone is what became of a canary. Its certificate is known from here on.
type CanaryDone struct {
	Fingerprint string    `json:"fingerprint,omitempty"` // empty when nothing was signed
	NotAfter    time.Time `json:"notAfter,omitzero"`
	Problem     string    `json:"problem,omitempty"`
	Accepted    []string  `json:"accepted"` // API servers that took it and named it rightly
	Refused     []string  `json:"refused"`  // API servers that did not
}

// Kind names the event in the ledger. Kinds are never renamed or reused.
func (Requested) Kind() string         { return "requested/v3" }
func (Approved) Kind() string          { return "approved/v2" }
func (ApprovalWithdrawn) Kind() string { return "approval-withdrawn/v1" }
func (Denied) Kind() string            { return "denied/v1" }
func (Withdrawn) Kind() string         { return "withdrawn/v1" }
func (Claimed) Kind() string           { return "claimed/v2" }
func (Issued) Kind() string            { return "issued/v1" }
func (Failed) Kind() string            { return "failed/v1" }
func (NotSigned) Kind() string         { return "not-signed/v1" }
func (Bound) Kind() string             { return "bound/v1" }
func (Unbound) Kind() string           { return "unbound/v1" }
func (Revoked) Kind() string           { return "revoked/v1" }
func (Delivered) Kind() string         { return "delivered/v1" }
func (Ended) Kind() string             { return "ended/v1" }

func (Receipt) Kind() string         { return "receipt/v3" }
func (SessionReported) Kind() string { return "session-reported/v1" }
func (Swept) Kind() string           { return "swept/v1" }
func (Acknowledged) Kind() string    { return "acknowledged/v1" }
func (Closed) Kind() string          { return "closed/v1" }
func (Overdue) Kind() string         { return "overdue/v1" }
func (AuditImported) Kind() string   { return "audit-imported/v1" }
func (CanaryOrdered) Kind() string   { return "canary-ordered/v1" }
func (CanaryDone) Kind() string      { return "canary-done/v1" }

// Streams that are not requests.
const (
	ImportStream = "imports" // of audit events
	CanaryStream = "canary-" // begins the name of the stream of one canary; its nonce follows
)

// Former kinds whose entries are checked by other rules than today's.
const (
	ApprovedV1 = "approved/v1" // signs approvalTextV1
	claimedV1  = "claimed/v1"  // is not signed
)

// requestKinds are the kinds of entries in the stream of a request, beside commands that were refused.
var requestKinds = record.Kinds{
	"requested/v1":          ruled[Requested]("caHash", "proxyUrl", "tlsServerName"),
	"requested/v2":          ruled[Requested]("proxyUrl", "tlsServerName"),
	"requested/v3":          ruled[Requested](),
	ApprovedV1:              ruled[Approved]("takenBack"),
	"approved/v2":           ruled[Approved](),
	"approval-withdrawn/v1": ruled[ApprovalWithdrawn](),
	"denied/v1":             ruled[Denied](),
	"withdrawn/v1":          ruled[Withdrawn](),
	claimedV1:               ruled[Claimed]("signature", "publicKey"),
	"claimed/v2":            ruled[Claimed](),
	"issued/v1":             ruled[Issued](),
	"failed/v1":             ruled[Failed](),
	"not-signed/v1":         ruled[NotSigned](),
	"bound/v1":              ruled[Bound](),
	"unbound/v1":            ruled[Unbound](),
	"revoked/v1":            ruled[Revoked](),
	"delivered/v1":          ruled[Delivered](),
	"ended/v1":              ruled[Ended](),
	"receipt/v1":            ruled[Receipt]("bindings", "late"),
	"receipt/v2":            ruled[Receipt]("late"),
	"receipt/v3":            ruled[Receipt](),
	"session-reported/v1":   ruled[SessionReported](),
	"swept/v1":              ruled[Swept](),
	"acknowledged/v1":       ruled[Acknowledged](),
	"closed/v1":             ruled[Closed](),
	"overdue/v1":            ruled[Overdue](),
}

// Kinds are the kinds of entries about requests, canaries and imports of audit events.
var Kinds = record.Join(requestKinds, record.Kinds{
	"audit-imported/v1": record.As[AuditImported],
	"canary-ordered/v1": record.As[CanaryOrdered],
	"canary-done/v1":    record.As[CanaryDone],
})

// ruled decodes an event of a request, which has a rule; later are the fields that a former number of its kind does not have.
func ruled[E requestEvent](later ...string) func([]byte) (record.Event, error) {
	if len(later) == 0 {
		return record.As[E]
	}
	return record.Older[E](later...)
}

// readable is what the streams of requests and canaries hold.
var readable = record.Join(Kinds, record.OwnKinds)
