package session

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of one event. A request header, and with it what a client can put into an event, is at most 1 MiB in Kubernetes.
const (
	maxField   = 256 << 10 // bytes of one JSON field that are read; what is longer is skipped
	maxRequest = 64 << 10  // bytes of a request object that are kept
	maxText    = 2 << 10   // bytes of one text that are kept
	maxList    = 32        // texts of one list that are kept
	maxKey     = 256       // bytes of a JSON key that are looked at
)

// byteOrderMark is what some editors and shells of Windows put before a text in UTF-8.
const byteOrderMark = "\xef\xbb\xbf"

// ErrUnreadable is wrapped by what [Decode] says about a piece of input that is not an audit event.
var ErrUnreadable = errors.New("not a readable audit event")

// Decode reads audit events one after the other: audit.k8s.io/v1 EventLists, single events, or a log with one event per line,
// in any mixture. It needs memory for one event only, however long the input or one event is: what is too long is left out and
// named in Event.Trimmed. A damaged piece gives an error that wraps [ErrUnreadable], and reading goes on behind it; any other
// error is the reader's, and the last.
func Decode(r io.Reader) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		s := &scanner{r: bufio.NewReaderSize(r, 64<<10)}
		if mark, err := s.r.Peek(len(byteOrderMark)); err == nil && string(mark) == byteOrderMark {
			_, _ = s.r.Discard(len(byteOrderMark)) // it was just seen: this cannot fail
			s.at += int64(len(byteOrderMark))
		}
		for {
			c, err := s.space()
			if err != nil {
				if !errors.Is(err, io.EOF) {
					yield(Event{}, fmt.Errorf("reading audit events: %w", err))
				}
				return
			}
			newlines := s.newlines
			if c == '{' {
				var more bool
				more, err = s.object(yield, 0)
				if !more {
					return
				}
			} else {
				err = s.unexpected(c, "an event")
			}
			if err == nil {
				s.lines = s.lines || newlines == s.newlines
				continue
			}
			if s.failed != nil {
				yield(Event{}, fmt.Errorf("reading audit events: %w", s.failed))
				return
			}
			if !yield(Event{}, fmt.Errorf("%w, at byte %d: %w", ErrUnreadable, s.at, err)) {
				return
			}
			s.skipLine()
		}
	}
}

// scanner reads JSON in one pass. It checks only the structure that it needs to find its way; the pieces that are kept are
// checked when they are decoded.
type scanner struct {
	r        *bufio.Reader
	at       int64
	newlines int
	start    bool  // nothing but white space since the line began
	lines    bool  // a whole value stood on one line, so a line that ends inside a value is cut short
	failed   error // of the reader, other than the end
}

func (s *scanner) next() (byte, error) {
	c, err := s.r.ReadByte()
	if err != nil {
		if !errors.Is(err, io.EOF) {
			s.failed = err
		}
		return 0, err
	}
	s.at++
	if c == '\n' {
		s.newlines++
		s.start = true
	} else if c != ' ' && c != '\t' && c != '\r' {
		s.start = false
	}
	return c, nil
}

// back gives the last byte back, which was the first of its line if first says so.
func (s *scanner) back(first bool) {
	// It cannot fail: a byte was just read.
	_ = s.r.UnreadByte()
	s.at--
	s.start = first
}

// space returns the first byte that is not white space, between values.
func (s *scanner) space() (byte, error) {
	for {
		c, err := s.next()
		if err != nil || !(c == ' ' || c == '\t' || c == '\r' || c == '\n') {
			return c, err
		}
	}
}

// inside returns the first byte that is not white space, inside of a value. It leaves the first byte of a line behind a value
// that is cut short unread.
func (s *scanner) inside() (byte, error) {
	for {
		first := s.start
		c, err := s.next()
		switch {
		case errors.Is(err, io.EOF):
			return 0, io.ErrUnexpectedEOF
		case err != nil:
			return 0, err
		case c == '\n' && s.lines:
			return 0, errors.New("the line ends inside of an event")
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
		case first && c == '{':
			s.start = true // unexpected looks at it
			return c, nil
		default:
			return c, nil
		}
	}
}

func (s *scanner) unexpected(c byte, want string) error {
	if s.start {
		s.back(true)
	}
	return fmt.Errorf("%q where %s was expected", c, want)
}

// skipLine skips the rest of the line, unless it has just begun.
func (s *scanner) skipLine() {
	for !s.start {
		if _, err := s.next(); err != nil {
			return
		}
	}
}

// piece is a captured JSON value; over says that it was too long, and data holds its beginning.
type piece struct {
	data []byte
	over bool
}

func (p *piece) add(c byte, limit int) {
	if len(p.data) < limit {
		p.data = append(p.data, c)
	} else {
		p.over = true
	}
}

// text reads a JSON string behind its opening quote.
func (s *scanner) text(p *piece, limit int) error {
	p.add('"', limit)
	for escaped := false; ; {
		c, err := s.next()
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		} else if err != nil {
			return err
		}
		if c == '\n' {
			return errors.New("the line ends inside of a text")
		}
		p.add(c, limit)
		switch {
		case escaped:
			escaped = false
		case c == '\\':
			escaped = true
		case c == '"':
			return nil
		}
	}
}

// value reads one JSON value that begins with c.
func (s *scanner) value(c byte, p *piece, limit int) error {
	depth := 0
	for {
		switch c {
		case '"':
			if err := s.text(p, limit); err != nil {
				return err
			}
		case '{', '[':
			depth++
			p.add(c, limit)
		case '}', ']':
			if depth == 0 {
				return s.unexpected(c, "a value")
			}
			depth--
			p.add(c, limit)
		default:
			p.add(c, limit)
			if depth > 0 {
				break
			}
			// A number or a word goes on until something else begins.
			for {
				c, err := s.next()
				if errors.Is(err, io.EOF) {
					return io.ErrUnexpectedEOF
				} else if err != nil {
					return err
				}
				if strings.IndexByte(",]} \t\r\n", c) >= 0 {
					s.back(false)
					if c == '\n' {
						s.newlines--
					}
					return nil
				}
				p.add(c, limit)
			}
		}
		if depth == 0 {
			return nil
		}
		var err error
		if c, err = s.inside(); err != nil {
			return err
		}
		if s.start { // a line that begins with an opening brace
			s.start = false
		}
	}
}

// kept are the fields of an event that are looked at. Everything else, the response object before all, is skipped.
var kept = []string{"kind", "level", "auditID", "stage", "requestURI", "verb", "user", "impersonatedUser", "sourceIPs", "userAgent",
	"objectRef", "responseStatus", "requestObject", "requestReceivedTimestamp", "stageTimestamp", "annotations"}

// object reads an event or a list of events behind its opening brace, and yields what it finds. It returns false when yield
// wants no more.
func (s *scanner) object(yield func(Event, error) bool, depth int) (bool, error) {
	s.start = false
	fields := map[string]piece{}
	list := false
	for n := 0; ; n++ {
		c, err := s.inside()
		if err != nil {
			return true, err
		}
		if c == '}' && n == 0 {
			break
		}
		if n > 0 {
			if c == '}' {
				break
			}
			if c != ',' {
				return true, s.unexpected(c, "a comma")
			}
			if c, err = s.inside(); err != nil {
				return true, err
			}
		}
		if c != '"' {
			return true, s.unexpected(c, "a field")
		}
		var name piece
		if err := s.text(&name, maxKey); err != nil {
			return true, err
		}
		if c, err = s.inside(); err != nil {
			return true, err
		}
		if c != ':' {
			return true, s.unexpected(c, "a colon")
		}
		if c, err = s.inside(); err != nil {
			return true, err
		}
		s.start = false
		key := strings.Trim(string(name.data), `"`)
		if key == "items" && c == '[' && depth == 0 {
			list = true
			if more, err := s.items(yield); !more || err != nil {
				return more, err
			}
			continue
		}
		p, limit := piece{}, 0
		if slices.Contains(kept, key) {
			limit = maxField
		}
		if err := s.value(c, &p, limit); err != nil {
			return true, err
		}
		if limit > 0 {
			fields[key] = p
		}
	}
	if list || string(fields["kind"].data) == `"EventList"` {
		return true, nil
	}
	e, err := project(fields)
	if err != nil {
		err = fmt.Errorf("%w, before byte %d: %w", ErrUnreadable, s.at, err)
	}
	return yield(e, err), nil
}

func (s *scanner) items(yield func(Event, error) bool) (bool, error) {
	for n := 0; ; n++ {
		c, err := s.inside()
		if err != nil {
			return true, err
		}
		if c == ']' {
			return true, nil
		}
		if n > 0 {
			if c != ',' {
				return true, s.unexpected(c, "a comma")
			}
			if c, err = s.inside(); err != nil {
				return true, err
			}
		}
		if c != '{' {
			return true, s.unexpected(c, "an event")
		}
		if more, err := s.object(yield, 1); !more || err != nil {
			return more, err
		}
	}
}

type wireUser struct {
	Username string              `json:"username"`
	Groups   []string            `json:"groups"`
	Extra    map[string][]string `json:"extra"`
}

const (
	credentialKey = "authentication.kubernetes.io/credential-id"
	certificateID = "X509SHA256="
)

// project makes an Event of an audit event's fields.
func project(fields map[string]piece) (Event, error) {
	var e Event
	var bad error
	into := func(name string, to any) {
		p, ok := fields[name]
		if !ok || bad != nil {
			return
		}
		if p.over {
			e.trimmed(name)
			return
		}
		if err := json.Unmarshal(p.data, to); err != nil {
			bad = fmt.Errorf("its %s: %w", name, err)
		}
	}
	var user, as wireUser
	var object struct {
		APIGroup, Resource, Subresource, Namespace, Name, UID string
	}
	var status struct{ Code int }
	var annotations map[string]string
	into("auditID", &e.AuditID)
	into("stage", &e.Stage)
	into("level", &e.Level)
	into("verb", &e.Verb)
	into("requestURI", &e.URI)
	into("userAgent", &e.Agent)
	into("sourceIPs", &e.Sources)
	into("user", &user)
	into("impersonatedUser", &as)
	into("objectRef", &object)
	into("responseStatus", &status)
	into("annotations", &annotations)
	e.Received, bad = when(fields, "requestReceivedTimestamp", bad)
	e.At, bad = when(fields, "stageTimestamp", bad)
	if bad != nil {
		return Event{}, bad
	}
	if fields["user"].over {
		user = beginning(fields["user"].data)
	}
	if p, ok := fields["impersonatedUser"]; ok && string(p.data) != "null" {
		if p.over {
			as = beginning(p.data)
		}
		as.Groups = trimList(&e, "impersonatedUser", as.Groups)
		e.As = &Identity{User: e.trim("impersonatedUser", as.Username), Groups: as.Groups}
	}
	// What kube-apiserver always writes: its types have these fields without omitempty, and it sets the first two (checked in
	// k8s.io/apiserver/pkg/apis/audit/v1, Event). The user's name is empty when no authenticator knew the caller: of each 401.
	_, hasUser := fields["user"]
	if e.AuditID == "" || e.Stage == "" || !hasUser {
		return Event{}, errors.New("it lacks its audit id, its stage or its user")
	}
	e.User = e.trim("user", user.Username)
	e.Groups = trimList(&e, "groups", slices.DeleteFunc(user.Groups, func(g string) bool { return !ourGroup(g) }))
	for _, id := range user.Extra[credentialKey] {
		if print, ok := strings.CutPrefix(id, certificateID); ok {
			e.Fingerprint = strings.ToLower(e.trim("user", print))
		} else {
			e.Credential = e.trim("user", id)
		}
	}
	e.AuditID, e.Stage, e.Level, e.Verb = e.trim("auditID", e.AuditID), e.trim("stage", e.Stage), e.trim("level", e.Level),
		e.trim("verb", e.Verb)
	e.Agent, e.URI = e.trim("userAgent", e.Agent), e.trim("requestURI", withoutSecrets(e.URI))
	if len(e.Sources) > maxList { // the last ones count
		e.Sources = e.Sources[len(e.Sources)-maxList:]
		e.trimmed("sourceIPs")
	}
	e.Sources = trimList(&e, "sourceIPs", e.Sources)
	if p, ok := fields["objectRef"]; ok && !p.over && string(p.data) != "null" {
		e.Object = &Object{Group: e.trim("objectRef", object.APIGroup), Resource: e.trim("objectRef", object.Resource),
			Subresource: e.trim("objectRef", object.Subresource), Namespace: e.trim("objectRef", object.Namespace),
			Name: e.trim("objectRef", object.Name), UID: e.trim("objectRef", object.UID)}
	}
	e.Code = status.Code
	e.Decision, e.Why = e.trim("annotations", annotations["authorization.k8s.io/decision"]),
		e.trim("annotations", annotations["authorization.k8s.io/reason"])
	e.Issued = e.trim("annotations", annotations["authentication.kubernetes.io/issued-credential-id"])
	if annotations["audit.k8s.io/truncated"] == "true" {
		e.trimmed("requestObject")
	}
	return e, e.keepRequest(fields["requestObject"])
}

// keepRequest keeps the request object of a change, but never what is in a Secret.
func (e *Event) keepRequest(p piece) error {
	if !e.changes() || len(p.data) == 0 || string(p.data) == "null" {
		return nil
	}
	data := p.data
	if e.Object.Group == "" && e.Object.Resource == "secrets" && !p.over {
		shown, err := withoutData(data)
		if err != nil {
			return err
		}
		data = shown
	}
	if p.over || len(data) > maxRequest {
		e.trimmed("requestObject")
		return nil
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, data); err != nil {
		return fmt.Errorf("its requestObject: %w", err)
	}
	e.Request = compact.Bytes()
	return nil
}

// withoutData keeps of a Secret what says which kind of Secret it is. Of a patch in the form of a list nothing is kept.
func withoutData(data []byte) ([]byte, error) {
	if data[0] != '{' {
		return []byte(`"(not kept: it may hold the content of a Secret)"`), nil
	}
	var secret struct {
		Kind     string `json:"kind,omitempty"`
		Type     string `json:"type,omitempty"`
		Metadata struct {
			Name         string            `json:"name,omitempty"`
			GenerateName string            `json:"generateName,omitempty"`
			Namespace    string            `json:"namespace,omitempty"`
			Annotations  map[string]string `json:"annotations,omitempty"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(data, &secret); err != nil {
		return nil, fmt.Errorf("its requestObject: %w", err)
	}
	// kubectl apply repeats the whole object in this one.
	delete(secret.Metadata.Annotations, "kubectl.kubernetes.io/last-applied-configuration")
	return json.Marshal(secret)
}

func when(fields map[string]piece, name string, bad error) (time.Time, error) {
	p, ok := fields[name]
	if !ok || bad != nil || string(p.data) == "null" { // how a MicroTime that is not set is written
		return time.Time{}, bad
	}
	var t time.Time
	if err := json.Unmarshal(p.data, &t); err != nil {
		return time.Time{}, fmt.Errorf("its %s: %w", name, err)
	}
	// Microseconds are what audit events have; a time beyond what int64 microseconds and JSON can say is none.
	if t.Year() < 1970 || t.Year() > 9999 {
		return time.Time{}, fmt.Errorf("its %s is in the year %d", name, t.Year())
	}
	return t.UTC().Truncate(time.Microsecond), nil
}

// beginning reads what the beginning of a user too long to read says: the name comes first.
func beginning(data []byte) wireUser {
	var u wireUser
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return u
	}
	for {
		name, err := d.Token()
		if err != nil {
			return u
		}
		switch name {
		case "username":
			if d.Decode(&u.Username) != nil {
				return u
			}
		case "groups":
			if t, err := d.Token(); err != nil || t != json.Delim('[') {
				return u
			}
			for d.More() {
				var g string
				if d.Decode(&g) != nil {
					return u
				}
				u.Groups = append(u.Groups, g)
			}
			if _, err := d.Token(); err != nil {
				return u
			}
		default:
			var skipped json.RawMessage
			if d.Decode(&skipped) != nil {
				return u
			}
		}
	}
}

func (e *Event) trimmed(name string) {
	if !slices.Contains(e.Trimmed, name) {
		e.Trimmed = append(e.Trimmed, name)
	}
}

// trim cuts a text to what is kept of it.
func (e *Event) trim(name, s string) string {
	if len(s) <= maxText {
		return s
	}
	e.trimmed(name)
	s = s[:maxText]
	for len(s) > 0 && !utf8.ValidString(s[max(0, len(s)-utf8.UTFMax):]) && !utf8.RuneStart(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return strings.ToValidUTF8(s, "")
}

func trimList(e *Event, name string, list []string) []string {
	if len(list) > maxList {
		e.trimmed(name)
		list = list[:maxList]
	}
	out := make([]string, 0, len(list))
	for _, s := range list {
		out = append(out, e.trim(name, s))
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// withoutSecrets blanks the values of query parameters whose names say that they are secret. What is in the command of an exec
// stays: it is what the report is for.
func withoutSecrets(uri string) string {
	path, query, ok := strings.Cut(uri, "?")
	if !ok {
		return uri
	}
	parts := strings.Split(query, "&")
	for i, part := range parts {
		name, value, has := strings.Cut(part, "=")
		low := strings.ToLower(name)
		secret := slices.ContainsFunc([]string{"token", "secret", "passw", "pwd", "auth", "credential", "apikey", "api_key", "api-key",
			"signature", "session", "jwt"},
			func(word string) bool { return strings.Contains(low, word) })
		if has && value != "" && secret {
			parts[i] = name + "=REDACTED"
		}
	}
	return path + "?" + strings.Join(parts, "&")
}
