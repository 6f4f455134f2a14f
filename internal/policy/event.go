package policy

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/record"
)

// Namespace is the SSHSIG namespace of signatures over access policies.
const Namespace = "policy@breakglass.dev"

// Why an access policy is in force.
const (
	WhyFirst    = "first"    // the ledger had none before that it could be held against
	WhyFile     = "file"     // the one before named nobody who must agree: the file is in force as it is read
	WhyLess     = "less"     // it only takes away from the one before
	WhySigned   = "signed"   // two people of the team that the one before names have signed it
	WhyAccepted = "accepted" // an operator started the daemon with --accept-weaker
)

// Proposed records an access policy that waits for two people, and what it adds or eases. Its text is the entry's text.
type Proposed struct {
	Digest  string   `json:"digest"`
	Base    string   `json:"base"`    // digest of the policy in force, that it is a change of
	Changes []string `json:"changes"` // what it adds or eases, in words
}

// Dropped says that the policy that waited waits no more: another one is on disk.
type Dropped struct {
	Digest string `json:"digest"`
}

// Signed is one person's yes to an access policy: to one that waits, or to one that is in force and that nobody else has agreed to.
type Signed struct {
	By        record.Actor `json:"by"`
	Entry     string       `json:"entry"`           // hex SHA-256 of the leaf that proposed it or put it in force: what they signed for, once
	Digest    string       `json:"digest"`          // of the policy
	Base      string       `json:"base"`            // of the policy in force when they signed
	Waive     bool         `json:"waive,omitempty"` // new keys and accounts count at once, if both signatures say so
	PublicKey string       `json:"publicKey"`
	Signature string       `json:"signature"` // armored SSHSIG over Text
}

// Kind names the event in the ledger.
func (Proposed) Kind() string { return "policy-proposed/v1" }

// Kind names the event in the ledger.
func (Dropped) Kind() string { return "policy-dropped/v1" }

// Kind names the event in the ledger.
func (Signed) Kind() string { return "policy-signed/v1" }

// Stream is the stream of what was said about the access policy.
const Stream = "policy"

// Kinds are the kinds of entries about the access policy.
var Kinds = record.Kinds{
	"policy-loaded/v1":   record.Older[Loaded]("why", "base", "proposal"),
	"policy-loaded/v2":   record.As[Loaded],
	"policy-proposed/v1": record.As[Proposed],
	"policy-dropped/v1":  record.As[Dropped],
	"policy-signed/v1":   record.As[Signed],
}

// Text is what a person signs: the entry, which no other ledger and no other time has, the policy, and the one that it follows.
func Text(entry, digest, base string, waive bool) []byte {
	cooling := "kept"
	if waive {
		cooling = "waived"
	}
	return fmt.Appendf(nil, "breakglass policy v1\nentry %s\npolicy %s\nin force %s\ncooling-off %s\n", entry, digest, base, cooling)
}

// Verify checks the signature with nothing but what the ledger holds.
func (s Signed) Verify() error {
	key, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(s.PublicKey))
	if err != nil || len(rest) > 0 {
		return fmt.Errorf("the signature has no readable public key")
	}
	if ssh.FingerprintSHA256(key) != s.By.Key {
		return fmt.Errorf("signed with %s, given by %s", ssh.FingerprintSHA256(key), s.By.Key)
	}
	return record.VerifySSH([]byte(s.Signature), key, Namespace, Text(s.Entry, s.Digest, s.Base, s.Waive))
}

// policyPart begins the names of the texts of an entry that together are an access policy.
const policyPart = "policy-"

// TextsOf cuts a policy's file into texts of an entry.
func TextsOf(p *Policy) map[string]string {
	texts := map[string]string{}
	for n, rest := 0, string(p.text); rest != ""; n++ {
		cut := min(len(rest), ledger.MaxText)
		for cut < len(rest) && !utf8.RuneStart(rest[cut]) {
			cut--
		}
		texts[fmt.Sprintf(policyPart+"%03d", n)], rest = rest[:cut], rest[cut:]
	}
	return texts
}

// policyIn reads the policy whose file an entry has as its texts.
func policyIn(e ledger.Entry, digest string) (*Policy, error) {
	var names []string
	for name := range e.Texts {
		if strings.HasPrefix(name, policyPart) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		b.WriteString(e.Texts[name])
	}
	if b.Len() == 0 {
		return nil, fmt.Errorf("the text of the access policy %s is not in the ledger any more", digest)
	}
	p, err := Parse("the access policy in ledger entry "+fmt.Sprint(e.Seq), []byte(b.String()))
	if err != nil {
		return nil, err
	}
	if p.Digest != digest {
		return nil, fmt.Errorf("the text of ledger entry %d has the digest %s, not %s", e.Seq, p.Digest, digest)
	}
	return p, nil
}
