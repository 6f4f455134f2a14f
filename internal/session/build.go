package session

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/residue"
	"github.com/breakglassd/breakglass/internal/text"
)

// Format is the version of the report's JSON.
const Format = "breakglass-session/v1"

// Grant is what a report needs to know of the grant, and of how well it was watched.
type Grant struct {
	Request     string
	Cluster     string
	User        string // the certificate's common name
	Fingerprint string // hex SHA-256 of the certificate
	From, Until time.Time
	Audited     bool      // audit events of the cluster reach the daemon
	Dropped     int       // events of this certificate that were counted and not stored
	Silent      []Silence // when the audit stream was not alive
}

// Silence is a time in which an API server's heartbeats did not come back through the audit stream.
type Silence struct {
	Server string    `json:"server"`
	From   time.Time `json:"from"`
	Until  time.Time `json:"until,omitzero"` // zero: it lasts
}

// Session is the report on what was done with a grant. Its texts are as the client sent them: whoever shows them cleans them.
type Session struct {
	Format      string    `json:"format"`
	Request     string    `json:"request"`
	Cluster     string    `json:"cluster"`
	User        string    `json:"user"`
	Fingerprint string    `json:"fingerprint"`
	From        time.Time `json:"from"`
	Until       time.Time `json:"until,omitzero"` // zero: the grant is alive
	Source      string    `json:"source"`         // breakglass.SourceAudit or SourceNone
	Joined      string    `json:"joined"`         // how events were found: "fingerprint", "name", "both", or "" without events
	Events      int       `json:"events"`
	Requests    int       `json:"requests"`
	First       time.Time `json:"first,omitzero"`
	Last        time.Time `json:"last,omitzero"`
	Reads       int       `json:"reads"`
	Writes      int       `json:"writes"`
	Refused     int       `json:"refused"`
	SecretsRead int       `json:"secretsRead"`
	Streams     int       `json:"streams"`
	StillOpen   int       `json:"stillOpen"`
	After       int       `json:"after"`    // requests after the end
	Sources     []Used    `json:"sources"`  // addresses as the API servers saw them
	Agents      []Used    `json:"agents"`   // what the clients called themselves
	Timeline    []Line    `json:"timeline"` // by first use
	Unknown     []Line    `json:"unknown"`  // under the grant's name, but not with its certificate
	Gaps        []string  `json:"gaps"`
	Left        *Left     `json:"left,omitempty"` // what it left behind; nil: nobody has looked yet

	acts []residue.Act
}

// Left is everything that a session left behind. The ledger holds the gravest of it.
type Left struct {
	Items   []breakglass.Residue `json:"items"`          // the gravest first
	Sources []string             `json:"sources"`        // what it was found out from: "audit", "comparison"
	Gaps    []string             `json:"gaps,omitempty"` // what could not be looked at
}

// Used is an address or a client and when it was in use.
type Used struct {
	What     string    `json:"what"`
	Requests int       `json:"requests"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
}

// Kind says why a line matters.
type Kind string

// The kinds of lines.
const (
	KindChange      Kind = "change"      // changed something
	KindSecret      Kind = "secret"      // showed the content of Secrets
	KindStream      Kind = "stream"      // exec, attach, port-forward, proxy
	KindWatch       Kind = "watch"       // a watch, or following a log
	KindToken       Kind = "token"       // minted a credential
	KindImpersonate Kind = "impersonate" // under another name
	KindRefused     Kind = "refused"
	KindOpen        Kind = "open"     // begun and not seen to end
	KindOutlived    Kind = "outlived" // ended after the grant's end
	KindAfter       Kind = "after"    // made after the grant's end
)

// The outcomes of a request.
const (
	OutcomeAllowed = "allowed"
	OutcomeRefused = "refused"
	OutcomeFailed  = "failed"  // allowed, and answered with an error
	OutcomeUnknown = "unknown" // its answer was not seen
	OutcomeOpen    = "open"    // its answer has begun and was not seen to end
)

// Line is every request that did the same to the same with the same outcome.
type Line struct {
	Verb     string    `json:"verb"`
	Object   *Object   `json:"object,omitempty"`
	Path     string    `json:"path,omitempty"` // where it is about no object, or opens a way to one
	As       *Identity `json:"as,omitempty"`
	Command  []string  `json:"command,omitempty"` // of an exec
	Ports    []string  `json:"ports,omitempty"`   // of a port-forward, where the request names them
	Kinds    []Kind    `json:"kinds,omitempty"`   // sorted
	Outcome  string    `json:"outcome"`
	Code     int       `json:"code,omitempty"`
	Why      string    `json:"why,omitempty"`     // a refusal's reason
	Issued   []string  `json:"issued,omitempty"`  // ids of minted credentials, sorted
	Trimmed  []string  `json:"trimmed,omitempty"` // what was too long, sorted
	Count    int       `json:"count"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	Ended    time.Time `json:"ended,omitzero"`    // when the last of the streams and watches that outlived the grant ended
	User     string    `json:"user,omitempty"`    // of unknown lines: who authenticated
	WithWhat string    `json:"with,omitempty"`    // of unknown lines: their credential
	Source   string    `json:"address,omitempty"` // of unknown lines
	// Imported is the person in whose file the requests were. It is empty for what an API server sent itself.
	Imported string `json:"imported,omitempty"`
}

// Has reports whether a line is of a kind.
func (l Line) Has(k Kind) bool { return slices.Contains(l.Kinds, k) }

// request is one request with the stages that were seen.
type request struct {
	received, started, ended *Event
}

func (r request) last() Event {
	for _, e := range []*Event{r.ended, r.started} {
		if e != nil {
			return *e
		}
	}
	return *r.received
}

// imported is the person in whose file a stage of the request was, if any was: then the request is as this person says.
func (r request) imported() string {
	for _, e := range []*Event{r.ended, r.started, r.received} {
		if e != nil && e.Imported != "" {
			return e.Imported
		}
	}
	return ""
}

// Build makes the report on a grant of its events, in any order and with any duplicates. Events of other certificates are
// left alone, except where they are under the grant's name.
func Build(events []Event, g Grant) Session {
	s := Session{Format: Format, Request: g.Request, Cluster: g.Cluster, User: g.User, Fingerprint: g.Fingerprint,
		From: g.From.UTC().Truncate(time.Second), Until: g.Until.UTC().Truncate(time.Second), Source: breakglass.SourceNone}
	if g.Until.IsZero() {
		s.Until = time.Time{}
	}
	var own, unknown []Event
	byPrint, byName := 0, 0
	for _, e := range distinct(events) {
		switch {
		case e.Fingerprint != "" && e.Fingerprint == g.Fingerprint:
			byPrint++
			own = append(own, e)
		case e.User == g.User && e.Fingerprint == "" && e.Credential == "":
			byName++
			own = append(own, e)
		case e.User == g.User || e.As != nil && e.As.User == g.User:
			unknown = append(unknown, e)
		}
	}
	switch {
	case byPrint > 0 && byName > 0:
		s.Joined = "both"
	case byPrint > 0:
		s.Joined = "fingerprint"
	case byName > 0:
		s.Joined = "name"
	}
	if g.Audited || len(own) > 0 {
		s.Source = breakglass.SourceAudit
	}
	s.Events = len(own)
	requests := pair(own)
	s.Requests = len(requests)
	s.Timeline = fold(requests, g, false)
	s.Unknown = fold(pair(unknown), g, true)
	s.Sources = used(requests, Event.Source)
	s.Agents = used(requests, func(e Event) string { return e.Agent })
	s.count()
	s.Gaps = gaps(own, requests, g, s)
	s.acts = acts(requests)
	return s
}

func (s *Session) count() {
	for _, l := range s.Timeline {
		if s.First.IsZero() || l.First.Before(s.First) {
			s.First = l.First
		}
		if l.Last.After(s.Last) {
			s.Last = l.Last
		}
		switch {
		case l.Outcome == OutcomeRefused:
			s.Refused += l.Count
		case l.Has(KindChange):
			s.Writes += l.Count
		case slices.Contains([]string{"get", "list", "watch", "head"}, l.Verb) && !l.Has(KindStream):
			s.Reads += l.Count
		}
		for k, n := range map[Kind]*int{KindSecret: &s.SecretsRead, KindStream: &s.Streams, KindOpen: &s.StillOpen, KindAfter: &s.After} {
			if l.Has(k) {
				*n += l.Count
			}
		}
	}
}

// distinct sorts events by time and drops the duplicates. What an API server sent counts before what was handed in. Where two claim to be
// the same event, which the API server never does, the order of their whole content decides, so that the order of arrival does not.
func distinct(events []Event) []Event {
	type keyed struct {
		Event
		key [32]byte
	}
	all := make([]keyed, 0, len(events))
	for _, e := range events {
		all = append(all, keyed{e, e.Key()})
	}
	slices.SortFunc(all, func(a, b keyed) int {
		return cmp.Or(a.Received.Compare(b.Received), a.At.Compare(b.At), slices.Compare(a.key[:], b.key[:]),
			cmp.Compare(a.Imported, b.Imported), cmp.Compare(len(a.Trimmed), len(b.Trimmed)), strings.Compare(content(a.Event), content(b.Event)))
	})
	all = slices.CompactFunc(all, func(a, b keyed) bool { return a.key == b.key })
	out := make([]Event, 0, len(all))
	for _, e := range all {
		out = append(out, e.Event)
	}
	return out
}

// pair puts the stages of each request together, in the order of the events.
func pair(events []Event) []request {
	var out []request
	open := map[[32]byte][]int{}
	place := func(e *Event, slot func(*request) **Event) {
		key := e.request()
		for _, i := range open[key] {
			if at := slot(&out[i]); *at == nil {
				*at = e
				return
			}
		}
		out = append(out, request{})
		*slot(&out[len(out)-1]) = e
		open[key] = append(open[key], len(out)-1)
	}
	for i := range events {
		e := &events[i]
		switch e.Stage {
		case StageStarted:
			place(e, func(r *request) **Event { return &r.started })
		case StageComplete, StagePanic:
			place(e, func(r *request) **Event { return &r.ended })
		default:
			place(e, func(r *request) **Event { return &r.received })
		}
	}
	return out
}

// describe makes a line of one request.
func describe(r request, g Grant, unknown bool) Line {
	e := r.last()
	if r.ended != nil && r.ended.As == nil && r.started != nil && r.started.As != nil {
		e.As = r.started.As
	}
	l := Line{Imported: r.imported(), Verb: e.Verb, Object: e.Object, As: e.As, Code: e.Code, Count: 1, First: e.Received, Last: e.Received,
		Trimmed: slices.Sorted(slices.Values(e.Trimmed))}
	if l.Object != nil {
		o := *l.Object
		o.UID = "" // what was deleted and made again under its name is the same line
		l.Object = &o
	}
	if l.Object == nil || e.stream() {
		l.Path = e.path()
	}
	l.Outcome = r.outcome(e)
	if l.Outcome == OutcomeRefused {
		l.Why = e.Why
	}
	kind := func(k Kind, is bool) {
		if is {
			l.Kinds = append(l.Kinds, k)
		}
	}
	passed := l.Outcome != OutcomeRefused && l.Outcome != OutcomeFailed
	kind(KindStream, e.stream())
	if e.stream() {
		switch e.Object.Subresource {
		case "exec":
			l.Command = e.query("command")
		case "portforward":
			l.Ports = e.query("ports")
		}
	}
	kind(KindWatch, e.Verb == "watch" || e.Object != nil && e.Object.Subresource == "log" && slices.Contains(e.query("follow"), "true"))
	// An answer of 5xx says nothing about whether the change happened.
	kind(KindChange, e.changes() && (passed || l.Outcome == OutcomeFailed && (e.Code >= 500 || e.Code == 0)))
	kind(KindSecret, e.secret() && passed)
	minted := e.Issued != "" || e.changes() && e.Object.Resource == "serviceaccounts" && e.Object.Subresource == "token"
	kind(KindToken, minted && passed)
	if e.Issued != "" {
		l.Issued = []string{e.Issued}
	}
	kind(KindImpersonate, e.As != nil)
	kind(KindRefused, l.Outcome == OutcomeRefused)
	kind(KindOpen, l.Outcome == OutcomeOpen)
	if !g.Until.IsZero() {
		l.past(r, e, g.Until, passed)
	}
	slices.Sort(l.Kinds)
	if unknown {
		l.User, l.Source = e.User, e.Source()
		switch {
		case e.Fingerprint != "":
			l.WithWhat = certificateID + e.Fingerprint
		default:
			l.WithWhat = e.Credential
		}
	}
	return l
}

// outcome is what became of a request whose last event is e.
func (r request) outcome(e Event) string {
	switch {
	case e.refused():
		return OutcomeRefused
	case r.ended == nil && r.started != nil:
		return OutcomeOpen
	case r.ended == nil:
		return OutcomeUnknown
	case e.Code >= 400 || e.Stage == StagePanic:
		return OutcomeFailed
	}
	return OutcomeAllowed
}

// past says of a line whether its request came, or went on, after the end of the grant.
func (l *Line) past(r request, e Event, until time.Time, passed bool) {
	long := l.Has(KindStream) || l.Has(KindWatch) || r.started != nil
	if long && r.ended != nil && passed && r.ended.At.After(until) && !e.Received.After(until) {
		l.Kinds, l.Ended = append(l.Kinds, KindOutlived), r.ended.At
	}
	if e.Received.After(until) {
		l.Kinds = append(l.Kinds, KindAfter)
	}
}

// fold puts requests that did the same together.
func fold(requests []request, g Grant, unknown bool) []Line {
	at := map[string]int{}
	lines := []Line{}
	for _, r := range requests {
		l := describe(r, g, unknown)
		same := l
		same.First, same.Last, same.Ended, same.Issued, same.Count, same.Trimmed = time.Time{}, time.Time{}, time.Time{}, nil, 0, nil
		key := content(same)
		i, ok := at[key]
		if !ok {
			at[key] = len(lines)
			lines = append(lines, l)
			continue
		}
		was := &lines[i]
		was.Count++
		if l.First.Before(was.First) {
			was.First = l.First
		}
		if l.Last.After(was.Last) {
			was.Last = l.Last
		}
		if l.Ended.After(was.Ended) {
			was.Ended = l.Ended
		}
		was.Issued = union(was.Issued, l.Issued)
		was.Trimmed = union(was.Trimmed, l.Trimmed)
	}
	slices.SortFunc(lines, func(a, b Line) int {
		return cmp.Or(a.First.Compare(b.First), strings.Compare(content(a), content(b)))
	})
	return lines
}

func union(a, b []string) []string {
	if len(b) == 0 {
		return a
	}
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat(a, b))))
}

func used(requests []request, what func(Event) string) []Used {
	at := map[string]int{}
	out := []Used{}
	for _, r := range requests {
		e := r.last()
		i, ok := at[what(e)]
		if !ok {
			i = len(out)
			at[what(e)] = i
			out = append(out, Used{What: what(e), First: e.Received, Last: e.Received})
		}
		u := &out[i]
		u.Requests++
		if e.Received.Before(u.First) {
			u.First = e.Received
		}
		if e.Received.After(u.Last) {
			u.Last = e.Received
		}
	}
	slices.SortFunc(out, func(a, b Used) int { return cmp.Or(b.Requests-a.Requests, strings.Compare(a.What, b.What)) })
	return out
}

// gaps says in words what the report may lack.
func gaps(own []Event, requests []request, g Grant, s Session) []string {
	out := []string{}
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if s.Source == breakglass.SourceNone {
		return []string{"no audit events of this cluster reach breakglass: what was done is unknown"}
	}
	if len(own) == 0 {
		say("no audit event of this certificate was seen: it was not used, or its events did not arrive")
	}
	if s.Joined == "name" || s.Joined == "both" {
		say("no certificate is named in %s (Kubernetes before 1.32): found by the user's name alone",
			many(countIf(own, func(e Event) bool { return e.Fingerprint == "" }), "event", "events"))
	}
	if n := countIf(own, func(e Event) bool { return len(e.Trimmed) > 0 }); n > 0 {
		say("parts of %s were too long to keep", many(n, "event", "events"))
	}
	byHand := map[string]int{}
	for _, r := range requests {
		if by := r.imported(); by != "" {
			byHand[by]++
		}
	}
	for _, by := range slices.Sorted(maps.Keys(byHand)) {
		say("%s in a file that %s handed in: no API server sent them to breakglass", many(byHand[by], "request was", "requests were"), by)
	}
	if g.Dropped > 0 {
		say("%s counted but not kept: there were too many", many(g.Dropped, "event was", "events were"))
	}
	blind, secrets, unmarked, unfinished := 0, 0, 0, 0
	for _, r := range requests {
		e := r.last()
		if e.changes() && !e.refused() && e.Level == "Metadata" {
			switch {
			case e.Object.Group == "" && e.Object.Resource == "secrets":
				secrets++
			case sweeping(e.Object):
				blind++
			}
		}
		if r.started == nil && r.ended != nil && (e.Verb == "watch" || e.stream()) && e.Code < 400 {
			unmarked++
		}
		if r.started == nil && r.ended == nil {
			unfinished++
		}
	}
	if blind > 0 {
		say("what %s wrote is not recorded by the audit policy (it needs level Request; see deploy/kube-apiserver)",
			many(blind, "change", "changes"))
	}
	if secrets > 0 {
		say("what %s to Secrets wrote is not recorded, and must not be: only the comparison shows what kind of Secret it is",
			many(secrets, "change", "changes"))
	}
	if unmarked > 0 {
		say("the beginning of %s was not recorded (the audit policy must not omit the stage ResponseStarted): others may be open unseen",
			many(unmarked, "stream or watch", "streams and watches"))
	}
	if unfinished > 0 {
		say("the answer to %s was not seen", many(unfinished, "request", "requests"))
	}
	if len(s.Unknown) > 0 {
		say("%s made under this grant's name without its certificate: listed apart", many(len(s.Unknown), "kind of request was",
			"kinds of requests were"))
	}
	silent := slices.Clone(g.Silent)
	slices.SortFunc(silent, func(a, b Silence) int {
		return cmp.Or(a.From.Compare(b.From), a.Until.Compare(b.Until), strings.Compare(a.Server, b.Server))
	})
	for _, w := range silent {
		if !g.Until.IsZero() && w.From.After(g.Until) || !w.Until.IsZero() && w.Until.Before(g.From) {
			continue
		}
		until := "and still was when this was written"
		if !w.Until.IsZero() {
			until = "until " + w.Until.UTC().Format(time.RFC3339)
		}
		say("the audit stream of %s was silent from %s %s", w.Server, w.From.UTC().Format(time.RFC3339), until)
	}
	return out
}

// sweeping reports whether a change of this kind can only be judged by what was written.
func sweeping(o *Object) bool {
	switch o.Group {
	case "rbac.authorization.k8s.io", "certificates.k8s.io", "admissionregistration.k8s.io", "apps", "batch", "apiregistration.k8s.io":
		return true
	case "":
		return slices.Contains([]string{"pods", "serviceaccounts", "nodes", "namespaces", "services", "persistentvolumes",
			"replicationcontrollers"}, o.Resource)
	}
	return false
}

// many is a number with the word for it.
func many(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

func countIf(events []Event, is func(Event) bool) int {
	n := 0
	for _, e := range events {
		if is(e) {
			n++
		}
	}
	return n
}

// acts are the requests that may have changed something, in the order in which they were made.
func acts(requests []request) []residue.Act {
	var out []residue.Act
	for _, r := range requests {
		e := r.last()
		if !e.changes() || e.refused() || e.Code >= 400 && e.Code < 500 {
			continue
		}
		a := residue.Act{At: e.Received, Verb: e.Verb, Group: e.Object.Group, Resource: e.Object.Resource, Subresource: e.Object.Subresource,
			Namespace: e.Object.Namespace, Name: e.Object.Name, Code: int32(e.Code), Issued: e.Issued, Request: e.Request}
		if e.As != nil {
			a.As = e.As.User
		}
		out = append(out, a)
	}
	return out
}

// Acts are the changes that a session made or may have made, for the sweep, in the order in which they were made. Only a
// session that was built has them: they are not in its JSON, because they hold what was written.
func Acts(s Session) []residue.Act { return slices.Clone(s.acts) }

// Summary is what goes into the ledger: figures, and the digest of the report's JSON.
func Summary(s Session) breakglass.SessionReported {
	_, digest := s.JSON()
	out := breakglass.SessionReported{Digest: hex.EncodeToString(digest[:]), Source: s.Source, Events: s.Events, First: s.First, Last: s.Last,
		Reads: s.Reads, Writes: s.Writes, Refused: s.Refused, SecretsRead: s.SecretsRead, Streams: s.Streams, StillOpen: s.StillOpen}
	for _, u := range s.Sources {
		if len(out.From) < breakglass.MaxSources && u.What != "" {
			out.From = append(out.From, text.Evidence(u.What, 64))
		}
	}
	slices.Sort(out.From)
	for _, g := range s.Gaps {
		out.Gaps = append(out.Gaps, text.Evidence(g, 300))
	}
	return out
}
