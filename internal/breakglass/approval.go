package breakglass

import (
	"bytes"
	"fmt"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// ApprovalNamespace is the SSHSIG namespace of signed approvals: a signature made for anything else never counts as one.
const ApprovalNamespace = "approval@breakglass.dev"

// MaxSignature bounds an armored SSHSIG. An RSA-4096 signature with its key is under 2 KiB.
const MaxSignature = 8 << 10

// ApprovalText is what an approver signs: a fixed text with the request and its digest.
func ApprovalText(request, digest string) []byte {
	return fmt.Appendf(nil, "breakglass approval v1\nrequest %s\ndigest %s\n", request, digest)
}

// VerifySSH checks an armored SSHSIG by a public key over a message. For hardware-backed (sk-) keys the signature must say
// that the user was present: x/crypto/ssh refuses it otherwise.
func VerifySSH(armored []byte, key ssh.PublicKey, namespace string, message []byte) error {
	if len(armored) > MaxSignature {
		return fmt.Errorf("signature is longer than %d bytes", MaxSignature)
	}
	sig, err := sshsig.Unarmor(armored)
	if err != nil {
		return fmt.Errorf("reading the SSH signature: %w", err)
	}
	if err := sshsig.Verify(bytes.NewReader(message), sig, key, sig.HashAlgorithm, namespace); err != nil {
		return fmt.Errorf("checking the SSH signature: %w", err)
	}
	return nil
}

// verify checks a signed approval with nothing but what the ledger holds.
func (a Approved) verify(request string) error {
	key, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(a.PublicKey))
	if err != nil || len(rest) > 0 {
		return fmt.Errorf("approval has no readable public key")
	}
	if ssh.FingerprintSHA256(key) != a.By.Key {
		return fmt.Errorf("approval is signed with %s, given by %s", ssh.FingerprintSHA256(key), a.By.Key)
	}
	return VerifySSH([]byte(a.Signature), key, ApprovalNamespace, ApprovalText(request, a.Digest))
}
