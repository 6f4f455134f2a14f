package breakglass

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
)

// Channel is the way by which a person gave a command.
type Channel string

// The channels.
const (
	ChannelSlack Channel = "slack" // a signed request from Slack
	ChannelKey   Channel = "key"   // the command line, signed in with an SSH key
)

// SlackAccount is a Slack identity. Names and e-mail addresses are never identities: they can be changed by their owner.
type SlackAccount struct {
	Enterprise string `json:"enterprise,omitempty" yaml:"enterprise"`
	Team       string `json:"team" yaml:"team"`
	User       string `json:"user" yaml:"user"`
}

// Actor is who gives a command, authenticated by the adapter that received it. Person is the directory id from the access
// policy and is empty when the account or key belongs to nobody there: such an actor may do nothing, and the try is recorded.
type Actor struct {
	Person  string        `json:"person,omitempty"`
	Channel Channel       `json:"channel"`
	Slack   *SlackAccount `json:"slack,omitempty"` // set for ChannelSlack
	Key     string        `json:"key,omitempty"`   // SHA256:… fingerprint of the SSH key, set for ChannelKey
}

// Event is one stored fact. The set of events is closed: exactly the types in this file.
type Event interface{ Kind() string }

// Rights is what a profile gives. Exactly one of ClusterRole, Role and Group is set. Group selects group mode: the
// certificate carries the group and nothing is written to the cluster. With Namespaces the right holds there only.
type Rights struct {
	ClusterRole string   `json:"clusterRole,omitempty" yaml:"clusterRole"`
	Role        string   `json:"role,omitempty" yaml:"role"`
	Namespaces  []string `json:"namespaces,omitempty" yaml:"namespaces"`
	Group       string   `json:"group,omitempty" yaml:"group"`
}

// Binding reports whether the rights come from a binding that is made for each grant (binding mode).
func (r Rights) Binding() bool { return r.Group == "" }

// String says the rights in words for messages.
func (r Rights) String() string {
	s := "group " + r.Group
	switch {
	case r.ClusterRole != "":
		s = "ClusterRole " + r.ClusterRole
	case r.Role != "":
		s = "Role " + r.Role
	}
	if len(r.Namespaces) > 0 {
		s += " in " + joinAnd(r.Namespaces)
	}
	return s
}

// FrozenTeam is a team as it was when the request was made.
type FrozenTeam struct {
	ID      string   `json:"id"`
	Members []string `json:"members"` // person ids, sorted
}

// Quorum is who must approve, frozen into the request when it is made.
type Quorum struct {
	Count    int          `json:"count"`          // distinct people, never below MinQuorum
	From     []FrozenTeam `json:"from"`           // whose members' approvals count
	Each     []FrozenTeam `json:"each,omitempty"` // at least one approval from each of these
	Channels []Channel    `json:"channels"`       // approvals by another channel do not count
}

// Requested opens a request. Its stored bytes are what approvers approve: see Request.Digest.
// The reason is kept as an erasable text named "reason", to which the entry commits.
type Requested struct {
	By           Actor     `json:"by"`
	Cluster      string    `json:"cluster"`
	Server       string    `json:"server"` // the API server address people saw when they approved
	Profile      string    `json:"profile"`
	Rights       Rights    `json:"rights"`
	TTLSeconds   int64     `json:"ttlSeconds"`
	Incident     string    `json:"incident,omitempty"`
	KeyHash      string    `json:"keyHash,omitempty"` // hex SHA-256 of the SubjectPublicKeyInfo the certificate is for; empty: bound at the claim
	Quorum       Quorum    `json:"quorum"`
	Risk         Risk      `json:"risk"`
	PendingUntil time.Time `json:"pendingUntil"`
	ClaimSeconds int64     `json:"claimSeconds"`
	PolicyDigest string    `json:"policyDigest"`
}

// Approved is one person's yes to exactly the digest. Comment is an erasable text.
type Approved struct {
	By        Actor  `json:"by"`
	Digest    string `json:"digest"`
	Signature string `json:"signature,omitempty"` // armored SSHSIG over ApprovalText, by channel key
	PublicKey string `json:"publicKey,omitempty"` // authorized_keys form of the key that signed: checkable offline
}

// ApprovalWithdrawn takes the actor's approval back before the claim.
type ApprovalWithdrawn struct {
	By Actor `json:"by"`
}

// Denied ends a request for good. The reason is an erasable text.
type Denied struct {
	By Actor `json:"by"`
}

// Withdrawn ends a request by its requester.
type Withdrawn struct {
	By Actor `json:"by"`
}

// Claimed is the intent to sign: from here on a certificate may exist. It can be appended once per request only.
type Claimed struct {
	By           Actor  `json:"by"`
	CommonName   string `json:"commonName"`
	Group        string `json:"group,omitempty"`
	SPKI         string `json:"spki"` // hex SHA-256 of the SubjectPublicKeyInfo
	CSR          string `json:"csr"`  // hex SHA-256 of the DER request
	TTLSeconds   int64  `json:"ttlSeconds"`
	PolicyDigest string `json:"policyDigest"` // the policy under which the claim was allowed
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
		Rights Rights `json:"rights"`
	}
	Unbound struct {
		Why State `json:"why"` // Expired or Revoked
	}
)

// Revoked cuts a grant off before its time. The reason is an erasable text.
type Revoked struct {
	By Actor `json:"by"`
}

// Delivered says that the same certificate was handed out again, to the same key.
type Delivered struct {
	By Actor `json:"by"`
}

// Ended settles what the clock decided, so that people are told once and the request leaves the open index.
type Ended struct {
	State State `json:"state"` // Lapsed or Expired
}

// Refused records a command that was not allowed, in the request's stream or, without one, in RefusalStream.
type Refused struct {
	By      Actor  `json:"by"`
	Command string `json:"command"`
	Code    string `json:"code"`
}

// PolicyLoaded records the access policy in force from here on.
type PolicyLoaded struct {
	Digest  string          `json:"digest"`
	Changes []string        `json:"changes,omitempty"` // what differs from the policy before, in words
	Quorums []ProfileQuorum `json:"quorums"`           // also of profiles that are gone: what they last asked for
	Teams   []FrozenTeam    `json:"teams"`             // who is in which team
	Weaker  bool            `json:"weaker,omitempty"`  // an operator accepted a policy weaker than the one before
}

// ProfileQuorum is the part of a profile that must not get weaker unnoticed.
type ProfileQuorum struct {
	Profile  string    `json:"profile"`
	Count    int       `json:"count"`
	From     []string  `json:"from"`
	Each     []string  `json:"each,omitempty"`
	Channels []Channel `json:"channels"`
}

// Heartbeat proves that the daemon was alive and bounds what a truncation can hide.
type Heartbeat struct {
	Version string `json:"version"`
}

// Kind names the event in the ledger. Kinds are never renamed or reused.
func (Requested) Kind() string         { return "requested/v1" }
func (Approved) Kind() string          { return "approved/v1" }
func (ApprovalWithdrawn) Kind() string { return "approval-withdrawn/v1" }
func (Denied) Kind() string            { return "denied/v1" }
func (Withdrawn) Kind() string         { return "withdrawn/v1" }
func (Claimed) Kind() string           { return "claimed/v1" }
func (Issued) Kind() string            { return "issued/v1" }
func (Failed) Kind() string            { return "failed/v1" }
func (Bound) Kind() string             { return "bound/v1" }
func (Unbound) Kind() string           { return "unbound/v1" }
func (Revoked) Kind() string           { return "revoked/v1" }
func (Delivered) Kind() string         { return "delivered/v1" }
func (Ended) Kind() string             { return "ended/v1" }
func (Refused) Kind() string           { return "refused/v1" }
func (PolicyLoaded) Kind() string      { return "policy-loaded/v1" }
func (Heartbeat) Kind() string         { return "heartbeat/v1" }

// Streams that are not requests.
const (
	PolicyStream  = "policy"
	RefusalStream = "refused"
	DaemonStream  = "daemon"
)

// draft encodes an event for the ledger. encoding/json writes struct fields in their order, so the bytes are canonical.
func draft(e Event, texts map[string]string) ledger.Draft {
	body, err := json.Marshal(e)
	if err != nil {
		panic("encoding " + e.Kind() + ": " + err.Error()) // only plain data types: cannot happen
	}
	return ledger.Draft{Kind: e.Kind(), Body: body, Texts: texts}
}

// Decode returns the event that an entry holds. Unknown kinds, unknown fields and trailing bytes are errors.
func Decode(e ledger.Entry) (Event, error) {
	var ev Event
	var err error
	switch e.Kind {
	case Requested{}.Kind():
		ev, err = decode[Requested](e.Body)
	case Approved{}.Kind():
		ev, err = decode[Approved](e.Body)
	case ApprovalWithdrawn{}.Kind():
		ev, err = decode[ApprovalWithdrawn](e.Body)
	case Denied{}.Kind():
		ev, err = decode[Denied](e.Body)
	case Withdrawn{}.Kind():
		ev, err = decode[Withdrawn](e.Body)
	case Claimed{}.Kind():
		ev, err = decode[Claimed](e.Body)
	case Issued{}.Kind():
		ev, err = decode[Issued](e.Body)
	case Failed{}.Kind():
		ev, err = decode[Failed](e.Body)
	case Bound{}.Kind():
		ev, err = decode[Bound](e.Body)
	case Unbound{}.Kind():
		ev, err = decode[Unbound](e.Body)
	case Revoked{}.Kind():
		ev, err = decode[Revoked](e.Body)
	case Delivered{}.Kind():
		ev, err = decode[Delivered](e.Body)
	case Ended{}.Kind():
		ev, err = decode[Ended](e.Body)
	case Refused{}.Kind():
		ev, err = decode[Refused](e.Body)
	case PolicyLoaded{}.Kind():
		ev, err = decode[PolicyLoaded](e.Body)
	case Heartbeat{}.Kind():
		ev, err = decode[Heartbeat](e.Body)
	default:
		err = fmt.Errorf("unknown kind: written by a newer version?")
	}
	if err != nil {
		return nil, fmt.Errorf("ledger entry %d (%s): %w", e.Seq, e.Kind, err)
	}
	return ev, nil
}

func decode[E Event](body []byte) (Event, error) {
	var e E
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("bytes after the event")
	}
	return e, nil
}

func joinAnd(s []string) string {
	switch len(s) {
	case 0:
		return ""
	case 1:
		return s[0]
	}
	s = slices.Clone(s)
	last := len(s) - 1
	out := s[0]
	for _, x := range s[1:last] {
		out += ", " + x
	}
	return out + " and " + s[last]
}
