package breakglass

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/breakglassd/breakglass/internal/policy"
)

// Order is everything the certificate authority is told about one certificate.
// It is a copy of what the claimed entry in the ledger says; nothing in it comes from the CSR but the public key.
type Order struct {
	Request    string        // request id, for logs and for correlation on the signer's side
	Cluster    string        // cluster id: each cluster has its own certificate authority
	Group      string        // the one organization the certificate must carry; empty in binding mode
	CommonName string        // the unique user name, see CommonName
	CSR        []byte        // PKCS #10, DER; checked by CheckCSR
	TTL        time.Duration // lifetime asked for, counted from now; whole seconds
}

// Signed is what the certificate authority answered. Nothing in it is believed before CheckCertificate.
type Signed struct {
	Certificate []byte   // DER
	Chain       [][]byte // DER of intermediates to be sent along, leaf's issuer first, without the root; often empty
	Issuer      []byte   // DER of the CA certificate that the signer is pinned to for this cluster
}

// ErrNotSigned says that no certificate exists and that none will: the authority refused the order.
// Every other error from Signer.Sign leaves the outcome unknown.
var ErrNotSigned = errors.New("no certificate was signed")

// ErrNotSignedNow is the [ErrNotSigned] that time cures: the authority was never reached, is sealed, or takes no more requests
// for the moment. The same order may be given again, because nothing was signed.
var ErrNotSignedNow = fmt.Errorf("%w for now", ErrNotSigned)

// Signer is the certificate authority (Vault PKI; in dev mode a key in memory).
type Signer interface {
	// Check proves, right now, that an order for this cluster and group would be signed under exactly the role, policy and
	// issuer that were pinned: authority reachable and unsealed, token valid, role and issuer not drifted. It signs nothing
	// and may be called concurrently. The error says what is wrong and what to do next.
	Check(ctx context.Context, cluster, group string) error
	// Sign makes at most one signing call, never a second one, whatever happens to the answer. An error that wraps
	// ErrNotSigned guarantees that no certificate exists, and ErrNotSignedNow says that another Sign may be answered
	// otherwise; any other error means that one may exist.
	Sign(ctx context.Context, o Order) (Signed, error)
	// Find returns every certificate that the cluster's authority holds for this common name. It may be slow, is safe to
	// repeat, and an error means nothing is known.
	Find(ctx context.Context, cluster, commonName string) ([]*x509.Certificate, error)
}

// Binding is the right that one grant gives in a cluster in binding mode.
type Binding struct {
	Request string        // request id; names the object and is its label
	Cluster string        // cluster id
	User    string        // the certificate's common name
	Rights  policy.Rights // what is bound, never a group
	Until   time.Time     // when the certificate ends; written on the object for people, enforced by removal
}

// Binder gives and takes rights in clusters. Every method is idempotent and safe for concurrent use.
type Binder interface {
	// Bind makes the binding exist exactly as described; an object of the same name that says something else is replaced.
	Bind(ctx context.Context, b Binding) error
	// Unbind makes every object of this request in the cluster not exist. No object is no error.
	Unbind(ctx context.Context, cluster, request string) error
	// Bound lists the request ids that have objects of ours in the cluster now.
	Bound(ctx context.Context, cluster string) ([]string, error)
}

// Stranger is a binding that some breakglassd made, but not for a request of this ledger as far as its label tells.
type Stranger struct {
	Request string // what its label says
	Binding string // its kind and name, for a person
	Ledger  string // whose it is; empty: a release before that label made it
}

// Neighbour is what a Binder can also be: one that knows its own bindings from those of a daemon with another ledger. Bound then
// leaves out those of others.
type Neighbour interface {
	Strangers(ctx context.Context, cluster string) ([]Stranger, error)
}

// Able is what a Binder can also be: one that knows before a certificate is signed that it could give it no right.
type Able interface {
	// Able returns an error if it is certain that nothing can be bound in the cluster now, and what to do about it: the daemon's
	// credential there has ended, or is refused. What cannot be told, because no API server answers, is no error: the right is bound
	// when one does. It changes nothing and may be called concurrently.
	Able(ctx context.Context, cluster string) error
}

// Access is one certificate's way into a cluster, as the cluster sees it.
type Access struct {
	Request     string
	Cluster     string
	User        string        // the certificate's common name
	Fingerprint string        // hex SHA-256 of its DER; empty before it is issued
	Rights      policy.Rights // what it was given
	Since       time.Time     // when the certificate was claimed
}

// Prover asks API servers whether a certificate still opens them.
type Prover interface {
	// Ask asks every configured API server of the cluster at the same time whether the certificate could still use its rights there.
	// One that lets it in is asked again for as long as another has not answered, so that no server's first no is found out later
	// because of another. It returns one answer for each server, in the configuration's order, also for those that cannot be reached
	// (Silent); AfterMillis is the caller's to fill in. It changes nothing and may be called concurrently.
	Ask(ctx context.Context, a Access) []Answer
}

// Examiner finds out what was done with a grant. Its methods may be called concurrently and again.
type Examiner interface {
	// Before remembers what exists in the cluster before the certificate can be used. It may run out of time: then the
	// comparison afterwards is poorer, and says so.
	Before(ctx context.Context, a Access) error
	// Examine reports what was done and what is left behind, from audit events until now and from what exists. The report that
	// SessionReported commits to is durable when it returns, and holds everything that was left behind. An error is worth another try; with
	// final there will be none, and what could not be looked at is a gap in the answer instead of an error.
	Examine(ctx context.Context, r *Request, final bool) (SessionReported, Swept, error)
}

// Inventory lists what a certificate authority has signed.
type Inventory interface {
	// Scan visits every certificate that the cluster's authority holds and want says yes to, by serial number in the form of
	// Serial. Both functions may be called concurrently. An error means that some were not visited.
	Scan(ctx context.Context, cluster string, want func(serial string) bool, visit func(*x509.Certificate)) error
}
