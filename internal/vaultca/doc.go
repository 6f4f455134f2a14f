// Package vaultca is the certificate authority of breakglass: "sign this, once", on Vault's PKI engine. It implements
// breakglass.Signer.
//
// # Once
//
// A signature cannot be taken back, and the call that asks for it can fail after it was made: the answer may be lost, or
// replaced by a proxy's error page. Sign therefore makes one HTTP request, on a client without retries and redirects, and
// sorts what happens into three:
//
//   - a certificate came back, alone and without a warning: Signed;
//   - Vault said no in its own words: an error that wraps breakglass.ErrNotSigned. If it had no time, was sealed, or no connection to
//     it was ever made, breakglass.ErrNotSignedNow: the same order may be given again. The error's RetryAfter says when, if Vault did;
//   - anything else, from a reset connection to an answer that is odd in any way: another error. A certificate may exist,
//     and Find will tell. Nothing here asks a second time.
//
// A warning counts as the third: Vault shortens a lifetime that is too long and says so in a warning, after it has signed.
//
// # Under what
//
// Check compares Vault with what shipped (package policies) immediately before every signature: the role field by field, the
// issuer by its id, the policy of the daemon's own token block by block, and the token itself. A difference stops issuing,
// because somebody who loosens a role for a minute does it for a certificate. Doctor looks wider: at what else the token could do, at
// ACME, tidy, expiry and age. CheckAll is for looking around all the time: it shares and spreads the readings, and no claim relies
// on it.
//
// # As whom
//
// The daemon logs in by AppRole, or uses a token that Vault Agent keeps in a file. No kind of login here asks the cluster
// that is to be rescued. Run keeps the token alive: it renews at two thirds of its life and logs in again when that fails.
// Nothing is read from VAULT_* or proxy variables of the environment. No error or log line contains a token, a secret id or
// an answer's raw body.
package vaultca
