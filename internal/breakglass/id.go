package breakglass

import (
	"crypto/rand"
	"strings"

	"github.com/breakglassd/breakglass/internal/record"
)

// newID makes a request id: bg-, six random characters (30 bits) and a check character. It is a name, not a secret.
func newID() string {
	var b [6]byte
	rand.Read(b[:])
	c := make([]byte, 6)
	for i, x := range b {
		c[i] = record.IDAlphabet[x&31]
	}
	return "bg-" + string(c[:4]) + "-" + string(c[4:]) + string(idCheck(c))
}

// idCheck is the check character: a weighted sum that changes with nearly every single typo and every swap of neighbours.
func idCheck(c []byte) byte {
	sum := 0
	for i, x := range c {
		sum += (2*i + 3) * strings.IndexByte(record.IDAlphabet, x)
	}
	return record.IDAlphabet[sum%31]
}

// ValidID reports whether a text is a request id in its one form, with the right check character.
func ValidID(id string) bool {
	if len(id) != len("bg-7k3m-9qx") || id[:3] != "bg-" || id[7] != '-' {
		return false
	}
	c := []byte(id[3:7] + id[8:])
	for _, x := range c {
		if strings.IndexByte(record.IDAlphabet, x) < 0 {
			return false
		}
	}
	return idCheck(c[:6]) == c[6]
}
