package breakglass

import (
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// The SSHSIG namespaces of signed approvals and claims: a signature made for anything else never counts as one.
const (
	ApprovalNamespace = "approval@breakglass.dev"
	ClaimNamespace    = "claim@breakglass.dev"
)

// ApprovalText is what an approver signs: a fixed text with the request, its digest, and how often the same person has taken an
// approval of this request back ([Request.TakenBack]). An approval that was taken back is so never given again by its old signature.
func ApprovalText(request, digest string, takenBack int) []byte {
	return fmt.Appendf(nil, "breakglass approval v2\nrequest %s\ndigest %s\ntaken-back %d\n", request, digest, takenBack)
}

// approvalTextV1 is what approvers signed until approved/v2.
func approvalTextV1(request, digest string) []byte {
	return fmt.Appendf(nil, "breakglass approval v1\nrequest %s\ndigest %s\n", request, digest)
}

// ClaimText is what a requester signs to claim: a fixed text with the request and the hash of the certificate request, hex SHA-256
// of its DER. Who has stolen a session has no key of the requester's, and claims nothing.
func ClaimText(request, csr string) []byte {
	return fmt.Appendf(nil, "breakglass claim v1\nrequest %s\ncsr %s\n", request, csr)
}

// verify checks a signed approval with nothing but what the ledger holds: the kind of its entry says what was signed.
func (ev Approved) verify(request, kind string) error {
	text := ApprovalText(request, ev.Digest, ev.TakenBack)
	if kind == ApprovedV1 {
		text = approvalTextV1(request, ev.Digest)
	}
	return verifySigned("approval", ev.By, ev.PublicKey, ev.Signature, ApprovalNamespace, text)
}

// verify checks a signed claim with nothing but what the ledger holds.
func (ev Claimed) verify(request string) error {
	return verifySigned("claim", ev.By, ev.PublicKey, ev.Signature, ClaimNamespace, ClaimText(request, ev.CSR))
}

func verifySigned(what string, by record.Actor, publicKey, signature, namespace string, text []byte) error {
	key, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(publicKey))
	if err != nil || len(rest) > 0 {
		return fmt.Errorf("%s has no readable public key", what)
	}
	if ssh.FingerprintSHA256(key) != by.Key {
		return fmt.Errorf("%s is signed with %s, given by %s", what, ssh.FingerprintSHA256(key), by.Key)
	}
	return record.VerifySSH([]byte(signature), key, namespace, text)
}

// signingKey is the public key by which a person gives a command, in authorized_keys form.
func signingKey(p *policy.Policy, a record.Actor) (string, error) {
	person, ok := p.Person(a.Person)
	if ok {
		for _, k := range person.Keys {
			if k.Fingerprint == a.Key {
				return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.Public))), nil
			}
		}
	}
	return "", record.Refuse(record.ClassDenied, "unknown-key", "sign in with a key that is in the access policy", "key %s is not yours",
		a.Key)
}

// badSignature refuses a word that is not signed as it must be.
func badSignature(command string, cause error) error {
	return &record.Refusal{Class: record.ClassDenied, Code: "signature", Why: "the signature is not one by your key over this " + command,
		Next: "give the command again; an earlier release of breakglass signs another text: use that of the server", Cause: cause}
}
