package record

import (
	"bytes"
	"fmt"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// MaxSignature bounds an armored SSHSIG. An RSA-4096 signature with its key is under 2 KiB.
const MaxSignature = 8 << 10

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
