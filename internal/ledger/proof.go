package ledger

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	proofVersion = "c2sp.org/tlog-proof@v1"

	maxProof       = 64 << 10
	maxProofHashes = 63 // the height of the largest tree an int64 can count
)

// A Proof shows that one leaf is in the log that its checkpoint signs. It needs
// nothing else but the log's public key. Its text form is c2sp.org/tlog-proof,
// customarily stored with the extension .tlog-proof.
type Proof struct {
	Index  int64            // Seq of the entry
	Hashes tlog.RecordProof // from the leaf's sibling up to the root's child
	Note   []byte           // the signed checkpoint, not yet verified
	Extra  []byte           // anything; nobody vouches for it
}

// MarshalText returns the proof's text form.
func (p Proof) MarshalText() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(proofVersion + "\n")
	if len(p.Extra) > 0 {
		b.WriteString("extra " + base64.StdEncoding.EncodeToString(p.Extra) + "\n")
	}
	b.WriteString("index " + strconv.FormatInt(p.Index, 10) + "\n")
	for _, h := range p.Hashes {
		b.WriteString(h.String() + "\n")
	}
	b.WriteByte('\n')
	b.Write(p.Note)
	return b.Bytes(), nil
}

// ParseProof reads a proof's text form. It accepts one spelling only; it does
// not verify anything.
func ParseProof(text []byte) (Proof, error) {
	if len(text) > maxProof {
		return Proof{}, fmt.Errorf("proof of %d bytes is longer than %d", len(text), maxProof)
	}
	head, signed, ok := strings.Cut(string(text), "\n\n")
	if !ok || signed == "" {
		return Proof{}, errors.New("proof has no checkpoint after an empty line")
	}
	lines := lines{rest: head + "\n"}
	if v := lines.next(""); v != proofVersion {
		return Proof{}, fmt.Errorf("proof format %.32q is not %q", v, proofVersion)
	}
	p := Proof{Note: []byte(signed)}
	if strings.HasPrefix(lines.rest, "extra ") {
		extra := lines.next("extra ")
		var err error
		p.Extra, err = base64.StdEncoding.Strict().DecodeString(extra)
		if err != nil || base64.StdEncoding.EncodeToString(p.Extra) != extra || extra == "" {
			return Proof{}, errors.New("proof has a malformed extra line")
		}
	}
	index, err := parseDecimal(lines.next("index "))
	if err != nil {
		return Proof{}, errors.New("proof has no index line or a malformed one")
	}
	p.Index = index
	for lines.rest != "" {
		h, err := parseHash(lines.next(""))
		if err != nil {
			return Proof{}, fmt.Errorf("proof line: %w", err)
		}
		if p.Hashes = append(p.Hashes, h); len(p.Hashes) > maxProofHashes {
			return Proof{}, fmt.Errorf("proof has more than %d hashes", maxProofHashes)
		}
	}
	return p, nil
}

// VerifyProof checks that the log of verifier's key contains exactly this leaf
// at exactly the proof's index.
func VerifyProof(leaf []byte, p Proof, verifier note.Verifier) error {
	cp, err := ParseCheckpoint(p.Note, verifier)
	if err != nil {
		return err
	}
	if err := tlog.CheckRecord(p.Hashes, cp.Size, cp.Root, p.Index, tlog.RecordHash(leaf)); err != nil {
		return fmt.Errorf("entry %d is not proven to be in the log of size %d: %w", p.Index, cp.Size, err)
	}
	return nil
}
