// Package record is the kernel that every word of the domain passes through: who acts, how a fact is written and read back, and how a
// command is refused. It knows no request, no policy and no campaign.
package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/text"
)

// Event is one stored fact. The set of events is closed: exactly those that a table of [Kinds] has.
type Event interface{ Kind() string }

// Draft encodes an event for the ledger. encoding/json writes struct fields in their order, so the bytes are canonical.
func Draft(e Event, texts map[string]string) ledger.Draft {
	body, err := json.Marshal(e)
	if err != nil {
		panic("encoding " + e.Kind() + ": " + err.Error()) // only plain data types: cannot happen
	}
	return ledger.Draft{Kind: e.Kind(), Body: body, Texts: texts}
}

// Kinds is a table of kinds of entries, each with its decoder. A kind's number is that of its fields: an event that gains a field gets
// the next number, returned by its Kind method, and its former number stays in the table as [Older], so that an older ledger verifies
// for ever and an older release says "made by a newer release" instead of "forged".
type Kinds map[string]func(body []byte) (Event, error)

// Join puts tables together. It panics if two of them have the same kind.
func Join(tables ...Kinds) Kinds {
	all := Kinds{}
	n := 0
	for _, t := range tables {
		maps.Copy(all, t)
		if n += len(t); len(all) != n {
			panic("two tables have the same kind of entry")
		}
	}
	return all
}

// ErrNewerRelease says that an entry is of a kind, or of a number of a kind, that this release does not know. It is no sign of
// forgery: use the release that wrote the ledger, or a later one.
var ErrNewerRelease = errors.New("made by a newer release of breakglass: read it with that release or a later one")

// Decode returns the event that an entry holds. An unknown kind is [ErrNewerRelease]; unknown fields and trailing bytes are errors.
func (k Kinds) Decode(e ledger.Entry) (Event, error) {
	decode, ok := k[e.Kind]
	if !ok {
		return nil, fmt.Errorf("ledger entry %d (%q): %w", e.Seq, e.Kind, ErrNewerRelease)
	}
	ev, err := decode(e.Body)
	if err != nil {
		return nil, fmt.Errorf("ledger entry %d (%s): %w", e.Seq, e.Kind, err)
	}
	return ev, nil
}

// As decodes an event.
func As[E Event](body []byte) (Event, error) {
	var e E
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("bytes after the event")
	}
	return e, nil
}

// Older decodes a former number of a kind: the fields of today without those that came later.
func Older[E Event](later ...string) func([]byte) (Event, error) {
	return func(body []byte) (Event, error) {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(body, &fields); err != nil {
			return nil, err
		}
		for _, name := range later {
			if _, ok := fields[name]; ok {
				return nil, fmt.Errorf("field %q came with a later number of this kind", name)
			}
		}
		return As[E](body)
	}
}

// Ending is a person's word that ended a request.
type Ending struct {
	By     Actor
	At     time.Time
	Reason string
}

// LeafDigest is the digest people approve: it covers the asked facts, the time, the stream and the reason's commitment.
func LeafDigest(e ledger.Entry) string {
	return text.SHA256(e.Leaf)
}
