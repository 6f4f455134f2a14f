// Package webhook is where API servers talk to us: they ask whether a request must be denied (SubjectAccessReview), and they
// hand over their audit events.
//
// An answer is either a denial or no opinion, never a permission: whoever takes over this service gives nobody a right, and
// what it does not deny is decided by the authorizers after it, such as RBAC. What it denies is
//
//   - the certificate of a grant that was revoked, has ended or failed,
//   - a certificate under a name of ours that the ledger does not know, which is also a critical finding,
//   - a name or a group of ours in the hands of somebody to whom it was not given, or in another cluster,
//   - and what the guards of a grant keep it from doing.
//
// deploy/kube-apiserver/DENY-WEBHOOK.md says how an API server is pointed here, what happens when it cannot reach us, and what
// no such webhook can stop.
package webhook
