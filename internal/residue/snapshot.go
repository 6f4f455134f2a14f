package residue

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Snapshot is what existed in a cluster at one time. The zero value is empty and knows nothing. It is filled by Add and Looked,
// and may be read by several goroutines once it is full.
type Snapshot struct {
	Taken   time.Time           `json:"taken"`            // when the last of it was listed
	Server  string              `json:"server,omitempty"` // version of the API server that listed the objects
	Objects map[string][]Object `json:"objects"`          // by Kind.ID
	// Whole are the kinds of which everything is in Objects: what of them is not there, does not exist.
	Whole []string `json:"whole"`
	Gaps  []Gap    `json:"gaps,omitempty"`

	owners map[string]Object // by UID: those that may own what is added later
	places map[Ref]int       // of each object in the list of its kind
}

// Gap is something that could not be looked at.
type Gap struct {
	What string `json:"what"` // "pods"
	Why  string `json:"why"`  // one of few sentences
	Next string `json:"next"` // what would make it possible
}

// Add adds an object. Those that a controller made from an owner which is known already, and that reach no further than it, are
// left out: their owner stands for them.
func (s *Snapshot) Add(k Kind, o Object) {
	if s.Objects == nil {
		s.Objects = map[string][]Object{}
	}
	if s.owners == nil {
		s.owners = map[string]Object{}
	}
	switch k.Group {
	case "apps", "batch", "":
		if strings.HasSuffix(k.Resource, "s") && (k.Group != "" || k.Resource == "replicationcontrollers") && o.UID != "" {
			s.owners[o.UID] = o
		}
	}
	if owner, ok := s.owners[o.Owner]; ok && k.Owned && owner.Namespace == o.Namespace && covers(owner, o) {
		return
	}
	s.keep(k.ID(), o)
}

// keep puts an object into the list of its kind.
func (s *Snapshot) keep(kind string, o Object) {
	if s.places == nil {
		s.places = map[Ref]int{}
	}
	if r := (Ref{kind, o.Namespace, o.Name}); s.find(r) == nil {
		s.places[r] = len(s.Objects[kind])
	}
	s.Objects[kind] = append(s.Objects[kind], o)
}

// covers reports whether o has no trait that its owner has not, the node that it was put on aside.
func covers(owner, o Object) bool {
	for _, t := range o.Traits {
		if !strings.HasPrefix(t, "node:") && t != "service-account:default" && !slices.Contains(owner.Traits, t) {
			return false
		}
	}
	return true
}

// Looked says that everything there is of a kind has been added.
func (s *Snapshot) Looked(k Kind) { s.Whole = append(s.Whole, k.ID()) }

// Len is how many objects are in it.
func (s *Snapshot) Len() int {
	n := 0
	for _, list := range s.Objects {
		n += len(list)
	}
	return n
}

func (s *Snapshot) whole(resource string) bool { return s != nil && slices.Contains(s.Whole, resource) }

func (s *Snapshot) find(r Ref) *Object {
	if s == nil {
		return nil
	}
	if i, ok := s.places[r]; ok {
		return &s.Objects[r.Resource][i]
	}
	return nil
}

// Missing says in sentences, few of them, what could not be looked at and what would make it possible.
func (s *Snapshot) Missing() []string {
	return s.missing(func(g Gap) string { return g.Why + "; " + g.Next })
}

// missing groups what could not be looked at by what is to be said of it.
func (s *Snapshot) missing(say func(Gap) string) []string {
	var order []string
	what := map[string][]string{}
	for _, g := range s.Gaps {
		said := say(g)
		if what[said] == nil {
			order = append(order, said)
		}
		what[said] = append(what[said], g.What)
	}
	var out []string
	for _, said := range order {
		out = append(out, strings.Join(what[said], ", ")+": "+said)
	}
	return out
}

// Missing says in sentences what a comparison of the two lacks. before is nil if there is none.
func Missing(before *Snapshot, after Snapshot) []string {
	var out []string
	if before == nil {
		out = append(out, "what existed before the session is not known: what it removed or changed shows only where audit events tell it")
	} else {
		// What to do next is left out: it is too late for it.
		for _, said := range before.missing(func(g Gap) string { return g.Why }) {
			out = append(out, "before the session: "+said+": what was removed or changed of them shows only where audit events tell it")
		}
		if after.Server != "" && before.Server != after.Server {
			out = append(out, fmt.Sprintf("the API server was of version %s before the session and of %s after it: what was changed shows only "+
				"where its time does", orUnknown(before.Server), after.Server))
		}
	}
	return append(out, after.Missing()...)
}

func orUnknown(version string) string {
	if version == "" {
		return "unknown"
	}
	return version
}

// The first bytes of an encoded snapshot: its form's name and version.
const magic = "breakglass-snapshot/1\n"

// MaxDecoded bounds a decoded snapshot, in bytes of JSON.
const MaxDecoded = 256 << 20

// Encode writes the snapshot in a compact form that Decode reads.
func (s *Snapshot) Encode() ([]byte, error) {
	var out bytes.Buffer
	out.WriteString(magic)
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err == nil {
		err = json.NewEncoder(z).Encode(s)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("encoding a snapshot: %w", err)
	}
	return out.Bytes(), nil
}

// Decode reads what Encode wrote.
func Decode(blob []byte) (*Snapshot, error) {
	rest, ok := bytes.CutPrefix(blob, []byte(magic))
	if !ok {
		return nil, fmt.Errorf("this is no snapshot, or of a version that this program does not know")
	}
	z, err := gzip.NewReader(bytes.NewReader(rest))
	if err != nil {
		return nil, fmt.Errorf("reading a snapshot: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(z, MaxDecoded+1))
	if err == nil && len(text) > MaxDecoded {
		err = fmt.Errorf("it is larger than %d bytes", MaxDecoded)
	}
	var read Snapshot
	if err == nil {
		err = json.Unmarshal(text, &read)
	}
	if err != nil {
		return nil, fmt.Errorf("reading a snapshot: %w", err)
	}
	s := &Snapshot{Taken: read.Taken, Server: read.Server, Objects: map[string][]Object{}, Whole: read.Whole, Gaps: read.Gaps}
	for kind, objects := range read.Objects {
		for _, o := range objects {
			s.keep(kind, o)
		}
	}
	return s, nil
}
