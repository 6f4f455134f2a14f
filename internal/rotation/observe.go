package rotation

import "time"

// Observation is everything that was seen of one cluster at one moment. Certificates are DER. It holds no secret.
type Observation struct {
	Cluster string    `json:"cluster"`
	At      time.Time `json:"at"` // when looking began
	Vault   Vault     `json:"vault"`
	View
	Canaries []Signing `json:"canaries,omitempty"` // one for each issuer that can sign
	// People is what the address that people get answered to the canaries of all issuers.
	People []Greeting `json:"people,omitempty"`
	Known  Known      `json:"known"`
}

// Vault is the PKI mount of the cluster.
type Vault struct {
	Mount          string        `json:"mount"`
	Issuers        []Issuer      `json:"issuers,omitempty"` // every issuer of the mount
	Default        string        `json:"default_issuer,omitempty"`
	FollowsLatest  bool          `json:"default_follows_latest_issuer,omitempty"`
	Roles          []Role        `json:"roles,omitempty"` // of the daemon, the canary's among them
	Pinned         []string      `json:"pinned"`          // ids of the issuers that the daemon signs under: its configuration
	MaxTTL         time.Duration `json:"max_ttl_ns"`      // the longest lifetime of a certificate for people
	Skew           time.Duration `json:"skew_ns"`         // of Vault's clock, ahead of ours
	ReadyToSign    bool          `json:"ready_to_sign"`   // the check that precedes every signature passes
	NotReadyReason string        `json:"not_ready_reason,omitempty"`
	Unseen         []Unseen      `json:"unseen,omitempty"`
}

// Issuer is one CA in Vault.
type Issuer struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Certificate []byte `json:"certificate"`
	// without the certificate itself; of an intermediate, up to its root as far as Vault knows it
	Chain        [][]byte `json:"chain,omitempty"`
	Usage        []string `json:"usage"`
	Revoked      bool     `json:"revoked,omitempty"`
	LeafNotAfter string   `json:"leaf_not_after_behavior"`
	KeyID        string   `json:"key_id,omitempty"` // empty: Vault has no key for it
}

// Role is a PKI role and the issuer that it signs under, as Vault says it: an id, a name, or "default".
type Role struct {
	Name   string `json:"name"`
	Issuer string `json:"issuer_ref"`
}

// Unseen is something that could not be looked at. Key is stable and names it, such as vault or jwks.
type Unseen struct {
	Key  string `json:"key"`
	What string `json:"what"` // and why not
	Next string `json:"next"`
}

// View is what was seen of the cluster itself, from outside.
type View struct {
	Servers         []Server         `json:"servers,omitempty"`
	Published       *Published       `json:"published,omitempty"`        // nil: not seen
	RootCA          [][]byte         `json:"root_ca,omitempty"`          // of the ConfigMap kube-root-ca.crt
	ServiceAccounts *ServiceAccounts `json:"service_accounts,omitempty"` // nil: not seen
	Kubeconfigs     []File           `json:"kubeconfigs,omitempty"`      // the CAs that they pin
	Endpoints       []Endpoint       `json:"endpoints,omitempty"`        // kubelets and etcd
	Signers         []Signer         `json:"signers,omitempty"`          // of the CSR API, as far as its requests of the last hour or so tell
	KnownClientCAs  [][]byte         `json:"known_client_cas,omitempty"` // CAs that the operator expects in the bundle beside ours
	Unseen          []Unseen         `json:"view_unseen,omitempty"`
	NotConfigured   []string         `json:"not_configured,omitempty"` // what the configuration does not name, such as etcd
}

// Server is one API server, by its own address.
type Server struct {
	Address    string      `json:"address"` // host:port
	Handshakes []Handshake `json:"handshakes,omitempty"`
	Serving    [][]byte    `json:"serving,omitempty"`       // its certificate and what it sent along
	Wrong      string      `json:"serving_wrong,omitempty"` // why it cannot prove to be the API server; empty: it can
	// Skew is the clock of the server, ahead of ours, to the second; nil: it did not tell.
	Skew     *time.Duration `json:"skew_ns,omitempty"`
	Declared *Declared      `json:"declared,omitempty"` // nil: the operator has declared nothing
	Canaries []Greeting     `json:"canaries,omitempty"`
	Error    string         `json:"error,omitempty"` // why it could not be reached; empty: it was
	Next     string         `json:"next,omitempty"`
}

// Handshake is what a server says in one version of TLS about the client certificates it takes, without any credential.
type Handshake struct {
	Version string   `json:"version"`         // 1.2 or 1.3
	Names   [][]byte `json:"names,omitempty"` // DER of the subjects of the CAs
	Error   string   `json:"error,omitempty"`
}

// Declared is the client-CA bundle file of an API server as the operator says it is. See the package comment.
type Declared struct {
	File     string    `json:"file"`
	CAs      [][]byte  `json:"cas,omitempty"` // empty: the file is missing or holds no certificate
	Modified time.Time `json:"modified"`
	Broken   string    `json:"broken,omitempty"` // why an API server would not load it; empty: it would
}

// Published is the ConfigMap kube-system/extension-apiserver-authentication.
type Published struct {
	ClientCAs     [][]byte `json:"client_cas,omitempty"`
	RequestHeader [][]byte `json:"request_header_cas,omitempty"`
	AllowedNames  []string `json:"request_header_allowed_names"`
}

// ServiceAccounts is what the cluster says about the keys that its tokens are signed with.
type ServiceAccounts struct {
	Issuer string `json:"issuer"`
	Keys   []Key  `json:"keys,omitempty"`
}

// Key is one public key of a key set.
type Key struct {
	ID        string `json:"kid"`
	Type      string `json:"kty"` // RSA or EC
	Algorithm string `json:"alg"`
	Bits      int    `json:"bits"`
}

// Signer is a signer of the CSR API with a certificate that it has signed, one for each key that it was seen to sign with.
type Signer struct {
	Name        string `json:"name"` // such as kubernetes.io/kube-apiserver-client-kubelet
	Certificate []byte `json:"certificate"`
}

// NotConfiguredSigners is the entry of NotConfigured for the signers of the CSR API: the daemon may not list its requests.
const NotConfiguredSigners = "the signers of the CSR API"

// File is the certificates of one file.
type File struct {
	Name string   `json:"name"`
	CAs  [][]byte `json:"cas,omitempty"`
}

// The kinds of endpoints.
const (
	KindKubelet = "kubelet"
	KindEtcd    = "etcd"
)

// Endpoint is something beside the API servers that has CAs of its own: a kubelet or etcd, seen in a TLS handshake or in a file
// of its CAs.
type Endpoint struct {
	Kind  string   `json:"kind"`
	Where string   `json:"where"`           // address or file
	Chain [][]byte `json:"chain,omitempty"` // what it serves with
	CAs   [][]byte `json:"cas,omitempty"`   // of a file: the CAs in it
	Names [][]byte `json:"names,omitempty"` // subjects of the CAs whose client certificates it takes
}

// Signing is how the signing of one canary went.
type Signing struct {
	Issuer      string    `json:"issuer"` // id
	CommonName  string    `json:"common_name"`
	Fingerprint string    `json:"fingerprint,omitempty"`
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	Error       string    `json:"error,omitempty"` // why it is missing; empty: it is there
	Wrong       bool      `json:"wrong,omitempty"` // a certificate may exist that is not what was ordered
}

// Outcome is how an API server answered a canary.
type Outcome string

// The outcomes. Only the first two are proof of anything.
const (
	OutcomeAccepted  Outcome = "accepted"  // signed in under the canary's name, and the fingerprint is the one that was issued
	OutcomeRefused   Outcome = "refused"   // the handshake went well and the request was answered with 401
	OutcomeOther     Outcome = "other"     // signed in as another user, or with another fingerprint: something stands in between
	OutcomeUnproven  Outcome = "unproven"  // signed in, but the server does not say under which fingerprint
	OutcomeUnreached Outcome = "unreached" // no answer
)

// Greeting is what one API server answered to the canary of one issuer.
type Greeting struct {
	Issuer  string    `json:"issuer"` // id
	Outcome Outcome   `json:"outcome"`
	Why     string    `json:"why,omitempty"`
	At      time.Time `json:"at"`
}

// Known is what the daemon knows from its ledger and cannot be seen anywhere.
type Known struct {
	// LastIssuedUnder is when the last certificate for people ends that an issuer signed, by the fingerprint of the issuer's
	// certificate: that is what the ledger has of each, so that nothing needs to be looked up. An issuer that is missing signed
	// none. Nil: the caller does not know, and then it is counted from SwitchSeen.
	LastIssuedUnder map[string]time.Time `json:"last_issued_under,omitempty"`
	// UnknownIssuerUntil is the same for certificates of which it is not known who signed them, so it counts for every issuer.
	// Claims whose outcome is not known yet belong here, as signed now with their whole lifetime. Zero: there is no such claim.
	UnknownIssuerUntil time.Time `json:"unknown_issuer_until,omitzero"`
	// SwitchSeen is when the roles were first seen to sign under the issuer (by id) that they sign under now.
	SwitchSeen map[string]time.Time `json:"switch_seen,omitempty"`
}
