package ledger

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	leafVersion = "ledger-leaf v1"

	// MaxLeaf is the size limit of a leaf in bytes, header and body together. It
	// is what the 16-bit length prefix of a C2SP entry bundle can express.
	MaxLeaf = 1<<16 - 1

	// MaxText is the size limit of one erasable text in bytes.
	MaxText = 1 << 16

	// timeLayout has a fixed width, so that one instant has one spelling, and
	// keeps nanoseconds, so that an entry gives back exactly the time it was
	// given.
	timeLayout = "2006-01-02T15:04:05.000000000Z"

	maxName = 200 // bytes of a stream, kind or text name
)

// leaf is the decoded form of the bytes that are hashed for one entry.
type leaf struct {
	Stream      string
	StreamSeq   int64
	Kind        string
	Time        time.Time
	Commitments []commitment // by name, strictly increasing
	Body        []byte
}

type commitment struct {
	Name string
	MAC  tlog.Hash
}

// commit binds an entry to a text without revealing it. The name cannot contain
// a zero byte, so no two pairs of name and text share an input.
func commit(salt []byte, name, text string) tlog.Hash {
	mac := hmac.New(sha256.New, salt)
	mac.Write([]byte(name))
	mac.Write([]byte{0})
	mac.Write([]byte(text))
	return tlog.Hash(mac.Sum(nil))
}

// encode returns the leaf's bytes. Its fields must already be valid.
func (lf *leaf) encode() []byte {
	b := make([]byte, 0, 160+len(lf.Stream)+len(lf.Kind)+64*len(lf.Commitments)+len(lf.Body))
	b = append(b, leafVersion+"\nstream "...)
	b = append(b, lf.Stream...)
	b = append(b, "\nnumber "...)
	b = strconv.AppendInt(b, lf.StreamSeq, 10)
	b = append(b, "\nkind "...)
	b = append(b, lf.Kind...)
	b = append(b, "\ntime "...)
	b = lf.Time.AppendFormat(b, timeLayout)
	for _, c := range lf.Commitments {
		b = append(b, "\ntext "...)
		b = append(b, c.Name...)
		b = append(b, ' ')
		b = base64.StdEncoding.AppendEncode(b, c.MAC[:])
	}
	b = append(b, "\n\n"...)
	return append(b, lf.Body...)
}

// ParseLeaf decodes the bytes that were hashed. Seq and Texts are not among them
// and stay zero.
func ParseLeaf(data []byte) (Entry, error) {
	lf, err := parseLeaf(data)
	if err != nil {
		return Entry{}, fmt.Errorf("reading a ledger leaf: %w", err)
	}
	return Entry{Stream: lf.Stream, StreamSeq: lf.StreamSeq, Kind: lf.Kind, Time: lf.Time, Body: lf.Body, Leaf: data}, nil
}

// CheckTexts checks texts with their salts against what a leaf commits to. It returns the names of the texts that the leaf commits
// to and that are not given: they are erased, or kept back.
func CheckTexts(data []byte, texts map[string]string, salts map[string][]byte) (absent []string, err error) {
	lf, err := parseLeaf(data)
	if err != nil {
		return nil, fmt.Errorf("reading a ledger leaf: %w", err)
	}
	left := len(texts)
	for _, c := range lf.Commitments {
		text, ok := texts[c.Name]
		if !ok {
			absent = append(absent, c.Name)
			continue
		}
		if commit(salts[c.Name], c.Name, text) != c.MAC {
			return nil, fmt.Errorf("text %q is not the one the entry commits to", c.Name)
		}
		left--
	}
	if left != 0 {
		return nil, errors.New("there is a text to which the entry does not commit")
	}
	return absent, nil
}

// parseLeaf is the inverse of encode. It accepts exactly what encode produces:
// for every accepted input, encoding the result gives the same bytes again.
// The returned Body is a part of data, not a copy.
func parseLeaf(data []byte) (leaf, error) {
	if len(data) > MaxLeaf {
		return leaf{}, fmt.Errorf("leaf of %d bytes is longer than %d", len(data), MaxLeaf)
	}
	end := bytes.Index(data, []byte("\n\n"))
	if end < 0 {
		return leaf{}, errors.New("leaf has no empty line after its header")
	}
	lines := lines{rest: string(data[:end+1])}
	if v := lines.next(""); v != leafVersion {
		return leaf{}, fmt.Errorf("leaf format %.32q is not %q", v, leafVersion)
	}
	lf := leaf{Body: data[end+2:]}
	lf.Stream = lines.next("stream ")
	number := lines.next("number ")
	lf.Kind = lines.next("kind ")
	instant := lines.next("time ")
	if lines.bad {
		return leaf{}, errors.New("leaf header lacks a line or has one out of order")
	}
	if !validName(lf.Stream) || !validName(lf.Kind) {
		return leaf{}, errors.New("leaf has a malformed stream or kind")
	}
	var err error
	if lf.StreamSeq, err = parseDecimal(number); err != nil || lf.StreamSeq < 1 {
		return leaf{}, fmt.Errorf("leaf has malformed number %.32q", number)
	}
	lf.Time, err = time.Parse(timeLayout, instant)
	if err != nil || lf.Time.Format(timeLayout) != instant {
		return leaf{}, fmt.Errorf("leaf has malformed time %.40q", instant)
	}
	for lines.rest != "" {
		name, mac, _ := strings.Cut(lines.next("text "), " ")
		h, err := parseHash(mac)
		if err != nil || !validName(name) || lines.bad {
			return leaf{}, errors.New("leaf has a malformed header line")
		}
		if n := len(lf.Commitments); n > 0 && lf.Commitments[n-1].Name >= name {
			return leaf{}, errors.New("leaf names its texts out of order")
		}
		lf.Commitments = append(lf.Commitments, commitment{name, h})
	}
	return lf, nil
}

// lines takes a text apart that consists of lines with known prefixes. The
// first line that is not as expected makes it bad, and it stays so.
type lines struct {
	rest string
	bad  bool
}

// next removes the next line and returns what follows prefix in it.
func (l *lines) next(prefix string) string {
	line, rest, ok := strings.Cut(l.rest, "\n")
	if !ok || !strings.HasPrefix(line, prefix) {
		l.bad, l.rest = true, ""
		return ""
	}
	l.rest = rest
	return line[len(prefix):]
}

// validName says whether s can be a stream, kind, text, tag or bookmark name:
// visible ASCII, so that it needs no quoting and has only one spelling.
func validName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// parseDecimal parses a number that is not negative and written in the one
// canonical way.
func parseDecimal(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != s {
		return 0, fmt.Errorf("malformed number %.32q", s)
	}
	return n, nil
}

// parseHash parses the canonical base64 of 32 bytes. Unlike tlog.ParseHash it
// refuses spare bits in the last character, so every hash has one spelling.
func parseHash(s string) (tlog.Hash, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != tlog.HashSize || len(s) != base64.StdEncoding.EncodedLen(tlog.HashSize) {
		return tlog.Hash{}, fmt.Errorf("malformed hash %.48q", s)
	}
	return tlog.Hash(b), nil
}
