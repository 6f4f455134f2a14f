package session

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/residue"
	"github.com/breakglassd/breakglass/internal/text"
)

// JSON returns the report's canonical bytes and their SHA-256, by which the ledger commits to them. The same session has the
// same bytes.
func (s Session) JSON() ([]byte, [sha256.Size]byte) {
	b := []byte(content(s))
	return b, sha256.Sum256(b)
}

// Parse reads the bytes that JSON returned, of this release or an earlier one. What was written is not in them: see [Acts].
func Parse(report []byte) (Session, error) {
	var s Session
	if err := json.Unmarshal(report, &s); err != nil {
		return Session{}, fmt.Errorf("reading a session report: %w", err)
	}
	if s.Format != Format {
		return Session{}, fmt.Errorf("reading a session report: it is of the form %q, and this release knows %s: use the release that wrote it",
			s.Format, Format)
	}
	return s, nil
}

// content is the JSON of a value of this package: without maps, so always the same. Such a value can always be encoded.
func content(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic("session: " + err.Error())
	}
	return string(b)
}

// Text cleans a text of an event for a terminal or a message: see Session.
func Text(s string) string { return text.Evidence(s, 300) }

// What names what a line is about, as kubectl would, cleaned.
func (l Line) What() string {
	o := l.Object
	if o == nil {
		return Text(l.Path)
	}
	s := o.Resource
	if o.Group != "" {
		s += "." + o.Group
	}
	if o.Name != "" {
		s += "/" + o.Name
	}
	if o.Subresource != "" {
		s += " (" + o.Subresource + ")"
	}
	switch {
	case o.Namespace != "":
		s += " in " + o.Namespace
	case o.Name == "" && slices.Contains([]string{"list", "watch", "deletecollection"}, l.Verb):
		s += ", all of them"
	}
	return Text(s)
}

// Detail is what else there is to say of a line, cleaned.
func (l Line) Detail() string {
	var parts []string
	add := func(label, s string) { parts = append(parts, label+text.Evidence(s, 300)) }
	if len(l.Command) > 0 {
		quoted := make([]string, len(l.Command))
		for i, c := range l.Command {
			quoted[i] = text.Quote(c)
		}
		parts = append(parts, "command: "+text.Evidence(strings.Join(quoted, " "), 1000))
	}
	if len(l.Ports) > 0 {
		add("ports: ", strings.Join(l.Ports, ", "))
	}
	if l.As != nil {
		as := l.As.User
		if len(l.As.Groups) > 0 {
			as += " in " + strings.Join(l.As.Groups, ", ")
		}
		add("as ", as)
	}
	if l.Has(KindStream) && l.Object != nil && l.Object.Subresource == "proxy" {
		add("path: ", l.Path)
	}
	if l.Outcome == OutcomeRefused && l.Why != "" {
		add("because: ", l.Why)
	}
	if len(l.Issued) > 0 {
		add("minted: ", strings.Join(l.Issued, ", "))
	}
	if !l.Ended.IsZero() {
		parts = append(parts, "ended "+stamp(l.Ended))
	}
	if len(l.Trimmed) > 0 {
		add("too long to keep: ", strings.Join(l.Trimmed, ", "))
	}
	if l.Imported != "" {
		add("from a file that was handed in by ", l.Imported)
	}
	if l.User != "" {
		add("by ", l.User)
		add("with ", either(l.WithWhat, "no credential id"))
		add("from ", either(l.Source, "an unknown address"))
	}
	return strings.Join(parts, "; ")
}

func either(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// Result is the outcome of a line, in words.
func (l Line) Result() string {
	s := l.Outcome
	if l.Code != 0 {
		s += fmt.Sprintf(" (%d)", l.Code)
	}
	switch {
	case l.Has(KindAfter):
		s += ", AFTER THE END"
	case l.Has(KindOutlived):
		s += ", OUTLIVED THE GRANT"
	}
	return s
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// Section is a part of the timeline that belongs together. The same line may be in several sections.
type Section struct {
	Title string
	Lines []Line
}

// Sections sorts the lines by what matters, the gravest first. The last section is the whole timeline.
func (s Session) Sections() []Section {
	var out []Section
	add := func(title string, lines []Line) {
		if len(lines) > 0 {
			out = append(out, Section{title, lines})
		}
	}
	pick := func(title string, kinds ...Kind) {
		var lines []Line
		for _, l := range s.Timeline {
			if slices.ContainsFunc(kinds, l.Has) {
				lines = append(lines, l)
			}
		}
		add(title, lines)
	}
	add("Under this name, but not with this certificate", s.Unknown)
	pick("Open at or after the end", KindOpen, KindOutlived)
	pick("After the end", KindAfter)
	pick("Credentials minted", KindToken)
	pick("Under another name", KindImpersonate)
	pick("Exec, attach, port-forward, proxy", KindStream)
	pick("Secrets shown", KindSecret)
	pick("Changes", KindChange)
	pick("Refused", KindRefused)
	add("Everything, by first use", s.Timeline)
	return out
}

// WriteText writes the report for a terminal. Nothing in it can move the cursor.
func (s Session) WriteText(w io.Writer) error {
	var b strings.Builder
	_, digest := s.JSON()
	fmt.Fprintf(&b, "Session of %s in %s\n", Text(s.Request), Text(s.Cluster))
	fmt.Fprintf(&b, "  user         %s\n  certificate  %s\n  grant        %s to %s\n", Text(s.User), Text(s.Fingerprint), stamp(s.From),
		s.end())
	fmt.Fprintf(&b, "  used         %s\n", s.usage())
	for _, u := range s.Sources {
		fmt.Fprintf(&b, "  from         %s (%d requests)\n", Text(either(u.What, "an unknown address")), u.Requests)
	}
	for _, u := range s.Agents {
		fmt.Fprintf(&b, "  client says  %s (%d requests)\n", text.Evidence(either(u.What, "nothing"), 100), u.Requests)
	}
	for _, f := range s.figures() {
		fmt.Fprintf(&b, "  %-12s %d\n", f.Label, f.N)
	}
	for _, g := range s.Gaps {
		fmt.Fprintf(&b, "  ! %s\n", text.Evidence(g, 500))
	}
	if l := s.Left; l != nil {
		fmt.Fprintf(&b, "\nLeft behind (looked at: %s)\n", l.sources())
		if len(l.Items) == 0 {
			b.WriteString("  nothing was found\n")
		}
		for _, r := range l.Items {
			fmt.Fprintf(&b, "  %-8s  %s: %s (%s)\n", Text(string(r.Severity)), text.Evidence(r.Object, 500), text.Evidence(r.What, 500), found(r))
			if r.Undo != "" {
				fmt.Fprintf(&b, "  %8s  undo: %s\n", "", text.Evidence(r.Undo, 2000))
			}
		}
		for _, g := range l.Gaps {
			fmt.Fprintf(&b, "  ! %s\n", text.Evidence(g, 500))
		}
	}
	for _, section := range s.Sections() {
		fmt.Fprintf(&b, "\n%s\n", section.Title)
		for _, l := range section.Lines {
			fmt.Fprintf(&b, "  %s  %5dx  %-8s %s: %s\n", stamp(l.First), l.Count, Text(l.Verb), l.What(), l.Result())
			if d := l.Detail(); d != "" {
				fmt.Fprintf(&b, "  %30s%s\n", "", d)
			}
		}
	}
	fmt.Fprintf(&b, "\nsha256 of the JSON report: %s\n", hex.EncodeToString(digest[:]))
	_, err := io.WriteString(w, b.String())
	return err
}

func (l *Left) sources() string { return either(Text(strings.Join(l.Sources, " and ")), "nothing") }

// found says how something was found, and whether it is still there.
func found(r breakglass.Residue) string {
	s := "by " + r.Found
	if r.Exists != residue.ExistsYes {
		s += "; whether it is still there is not known"
	}
	return Text(s)
}

func (s Session) end() string {
	if s.Until.IsZero() {
		return "now: it is alive"
	}
	return stamp(s.Until)
}

func (s Session) usage() string {
	if s.First.IsZero() {
		return "no use was seen"
	}
	return stamp(s.First) + " to " + stamp(s.Last)
}

type figure struct {
	Label string
	N     int
	Bad   bool
}

func (s Session) figures() []figure {
	return []figure{{"requests", s.Requests, false}, {"reads", s.Reads, false}, {"writes", s.Writes, false}, {"refused", s.Refused, false},
		{"secrets read", s.SecretsRead, s.SecretsRead > 0}, {"streams", s.Streams, false}, {"still open", s.StillOpen, s.StillOpen > 0},
		{"after end", s.After, s.After > 0}}
}

//go:embed report.html
var page string

var report = template.Must(template.New("report").Funcs(template.FuncMap{
	"text": Text, "stamp": stamp, "long": func(s string) string { return text.Evidence(s, 500) },
	"command": func(s string) string { return text.Evidence(s, 2000) }, "found": found,
	"critical": func(r breakglass.Residue) bool { return r.Severity == finding.Critical },
	"looked":   (*Left).sources,
	"grave": func(l Line) bool {
		return l.User != "" || l.Has(KindOpen) || l.Has(KindOutlived) || l.Has(KindAfter) || l.Has(KindToken)
	},
}).Parse(page))

// WriteHTML writes the report as one page that needs no network and runs no script.
func (s Session) WriteHTML(w io.Writer) error {
	_, digest := s.JSON()
	err := report.Execute(w, map[string]any{"S": s, "End": s.end(), "Usage": s.usage(), "Figures": s.figures(), "Sections": s.Sections(),
		"Digest": hex.EncodeToString(digest[:])})
	if err != nil {
		return fmt.Errorf("writing the session report of %s: %w", s.Request, err)
	}
	return nil
}
