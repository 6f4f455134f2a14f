// Package view shows a request to a person: what is asked, who approved, how it ended, and what it left behind.
package view

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cli/terminal"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/text"
)

// View shows requests to a person: as the daemon tells them, in the words of the person's terminal.
type View struct {
	Name   string    // by which this program was called
	Now    time.Time // by the server's clock
	Screen *terminal.Screen
}

// typed is a command as this program is called, for lines that are printed as they are.
func (v View) typed(words string, flags []string, names ...string) terminal.Styled {
	return terminal.Typed(v.Name, words, flags, names...)
}

// maxNamed bounds the people who are named: a longer list is not read.
const maxNamed = 12

// Describe is a request in full, cleaned.
func (v View) Describe(r api.Request) string {
	var b strings.Builder
	row := func(label, f string, args ...any) { fmt.Fprintf(&b, "%-12s%s\n", label, terminal.Format(f, args...)) }
	row("request", "%s   %s", r.ID, r.State)
	row("who", "%s", Person(r, r.Ask.By.Person))
	row("what", "%s on %s (%s)", r.Ask.Profile, r.Ask.Cluster, r.Ask.Server)
	if r.Ask.Way != (breakglass.Way{}) {
		row("way", "%s", WayWords(r.Ask.Way))
	}
	if r.Ask.Rights.Binding() {
		row("rights", "%s, bound for this one certificate and removed when it ends", r.Ask.Rights)
	} else {
		row("rights", "%s, carried by the certificate: only API servers that ask the deny webhook refuse it before it ends", r.Ask.Rights)
	}
	row("for", "%s, from the claim; risk %s", Seconds(r.Ask.TTLSeconds), r.Ask.Risk)
	row("reason", "%s", terminal.Paragraph{Text: cmp.Or(r.Reason, "(erased, or kept back by the server)"), Indent: 12})
	row("incident", "%s", cmp.Or(text.Clean(r.Ask.Incident), "-"))
	row("asked", "%s", v.When(r.RequestedAt))
	if r.Ask.KeyHash != "" {
		row("key", "%s", r.Ask.KeyHash)
	} else {
		row("key", "chosen at the claim")
	}
	for _, x := range r.Approvals {
		row("approved", "%s (%s) %s %s", Person(r, x.Person), Channel(x), v.When(x.At), text.Clean(x.Comment))
	}
	if len(r.Missing) > 0 && !r.State.Terminal() {
		row("needs", "%s", strings.Join(r.Missing, " and "))
	}
	if !r.Deadline.IsZero() {
		row("until", "%s", v.When(r.Deadline))
	}
	for what, e := range map[string]*api.Ending{"denied": r.Denied, "withdrawn": r.Withdrawn, "revoked": r.Revoked} {
		if e != nil {
			row(what, "%s %s: %s", Person(r, e.Person), v.When(e.At), terminal.Paragraph{Text: cmp.Or(e.Reason, "(no reason)"), Indent: 12})
		}
	}
	if r.Failed != nil {
		row("failed", "%s: %s", v.When(r.Failed.At), r.Failed.Detail)
	}
	if x := r.Certificate; x != nil {
		row("certificate", "%s   serial %s   ledger #%d", x.CommonName, x.Serial, x.LedgerIndex)
		row("", "%s to %s", v.Clock(x.NotBefore), v.When(x.NotAfter))
		row("", "fingerprint %s", x.Fingerprint)
		if r.Ask.Rights.Binding() {
			row("access", "%s", map[bool]string{true: "active in the cluster", false: "not active in the cluster"}[x.Bound])
		}
	}
	if len(r.Ask.Guards) > 0 {
		row("kept from", "%s (by the deny webhook)", guardWords(r.Ask.Guards))
	}
	if len(r.Ask.Raised) > 0 {
		row("quorum", "one more than usual: the closing of %s is overdue", strings.Join(r.Ask.Raised, ", "))
	}
	b.WriteString(v.Afterwards(r))
	if r.Refusals > 0 {
		row("refused", "%s not allowed; see the ledger's entries", terminal.Counted(r.Refusals, "attempt"))
	}
	row("digest", "%s   ledger #%d", r.Digest, r.LedgerIndex)
	return b.String()
}

// Entries writes a line for each entry of a request.
func (v View) Entries(out io.Writer, entries []api.Entry) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, e := range entries {
		var ev struct {
			By record.Actor `json:"by"`
		}
		if err := json.Unmarshal(e.Event, &ev); err != nil {
			return err
		}
		var texts []string
		for name, t := range e.Texts {
			texts = append(texts, name+": "+terminal.OneLine(t, 60))
		}
		slices.Sort(texts)
		fmt.Fprintln(w, terminal.Format("  #%d\t%s\t%s\t%s\t%s", e.Index, v.Clock(e.Time), e.Kind, cmp.Or(ev.By.Person, "-"),
			strings.Join(texts, "; ")))
	}
	return w.Flush()
}

// Person is a name and an id, for people who must decide about that person.
func Person(r api.Request, id string) string {
	if n := r.Names[id]; n != "" && n != id {
		return id + " (" + n + ")"
	}
	return id
}

// Teams are the ids of teams.
func Teams(ts []policy.FrozenTeam) []string {
	var out []string
	for _, t := range ts {
		out = append(out, t.ID)
	}
	return out
}

// Afterwards is what followed a grant's end, cleaned.
func (v View) Afterwards(r api.Request) string {
	var b strings.Builder
	row := func(label, f string, args ...any) { fmt.Fprintf(&b, "%-12s%s\n", label, terminal.Format(f, args...)) }
	b.WriteString(v.Receipt(r))
	if s := r.Session; s != nil {
		switch {
		case s.Source == breakglass.SourceNone:
			row("session", "unknown: no audit events of this cluster reach the daemon")
		case s.Events == 0:
			row("session", "not used, according to the audit events")
		default:
			row("session", "%s to %s from %s", v.Clock(s.First), v.Clock(s.Last), cmp.Or(strings.Join(s.From, ", "), "an unknown address"))
			row("", "reads %d, changes %d, refused %d, of Secrets %d, execs and port-forwards %d", s.Reads, s.Writes, s.Refused, s.SecretsRead,
				s.Streams)
			if s.StillOpen > 0 {
				row("", "streams and watches STILL OPEN: %d; they outlive the certificate", s.StillOpen)
			}
		}
		for _, g := range s.Gaps {
			row("", "gap: %s", g)
		}
		if s.Digest != "" {
			row("", "report %s (SHA-256 of: %s)", s.Digest, v.typed("show", []string{"--session", "--output=json"}, r.ID))
		}
	}
	if s := r.Swept; s != nil {
		if len(s.Items) == 0 {
			row("left behind", "nothing was found (searched: %s)", cmp.Or(strings.Join(s.Sources, " and "), "nothing"))
		}
		label := "left behind"
		for _, x := range s.Items {
			row(label, "%s  %s: %s (by %s)", x.Severity, x.Object, x.What, x.Found)
			if x.Undo != "" {
				row("", "  undo: %s", x.Undo)
			}
			label = ""
		}
		if s.More > 0 {
			row("", "and %d more; all of it: %s", s.More, v.typed("show", []string{"--session"}, r.ID))
		}
		for _, g := range s.Gaps {
			row("", "not searched: %s", g)
		}
		switch {
		case r.Acknowledged != nil:
			row("seen by", "%s %s  %s", Person(r, r.Acknowledged.Person), v.When(r.Acknowledged.At), r.Acknowledged.Reason)
		case len(s.Items) > 0 && !r.AcknowledgeBy.IsZero():
			row("seen by", "no responder yet; due %s: %s", v.When(r.AcknowledgeBy), v.typed("ack", nil, r.ID))
		case len(s.Items) > 0:
			row("seen by", "no responder yet: %s", v.typed("ack", nil, r.ID))
		}
	}
	switch {
	case r.Closed != nil:
		row("closed", "%s: %s", v.When(r.Closed.At), terminal.Paragraph{Text: cmp.Or(r.Closed.Reason, "(erased)"), Indent: 12})
	case r.Touched && !r.CloseBy.IsZero():
		row("touched", "the closing note is missing; due %s: %s", v.When(r.CloseBy), v.typed("close", nil, r.ID))
	}
	return b.String()
}

// Receipt is what the API servers said after a revocation, cleaned.
func (v View) Receipt(r api.Request) string {
	var b strings.Builder
	row := func(label, f string, args ...any) { fmt.Fprintf(&b, "%-12s%s\n", label, terminal.Format(f, args...)) }
	if r.Certificate == nil && r.Revoked != nil {
		row("receipt", "it was never claimed: no certificate exists")
		return b.String()
	}
	if r.Receipt == nil {
		if r.Revoked != nil && !r.Ask.Rights.Binding() {
			row("receipt", "group mode: the certificate itself works until %s unless the cluster's deny webhook knows it",
				v.When(r.Certificate.NotAfter))
		}
		return b.String()
	}
	label := "receipt"
	for _, x := range r.Receipt.Answers {
		switch late := slices.Contains(r.Receipt.Late, x.Server); {
		case x.No && late:
			row(label, "%s refused it (%s); it could be asked only %s after the revocation", x.Server, by(x.By),
				time.Duration(x.AfterMillis)*time.Millisecond)
		case x.No:
			row(label, "%s refused it %s after the revocation (%s)", x.Server, time.Duration(x.AfterMillis)*time.Millisecond, by(x.By))
		case late:
			row(label, "%s  CANNOT TELL: %s (asked %d times)", x.Server, x.Problem, x.Tries)
		default:
			row(label, "%s  NOT YET: %s (asked %d times)", x.Server, x.Problem, x.Tries)
		}
		label = ""
	}
	for _, x := range r.Receipt.Bindings {
		row("", "not made for the grant: %s", x)
	}
	for _, l := range r.Receipt.Limits {
		row("", "does not reach: %s", l)
	}
	return b.String()
}

// OpenServers says which API servers have not refused a revoked certificate; empty when all have.
func OpenServers(r api.Request) string {
	if r.Ask.Aftercare == nil || !r.Ask.Aftercare.Prove {
		if r.Certificate != nil && r.Certificate.Bound {
			return "the right is still bound; the daemon keeps trying to remove it"
		}
		return ""
	}
	if r.Receipt == nil {
		return "no API server has been asked yet"
	}
	var out []string
	for _, x := range r.Receipt.Answers {
		if !x.No {
			out = append(out, x.Server+": "+cannotTell(r.Receipt, x.Server)+x.Problem)
		}
	}
	return strings.Join(out, "; ")
}

// cannotTell marks what is no answer about the certificate.
func cannotTell(r *breakglass.Receipt, server string) string {
	if slices.Contains(r.Late, server) {
		return "cannot tell: "
	}
	return ""
}

// by says what refuses, in words.
func by(what string) string {
	switch what {
	case breakglass.RefusedByRBAC:
		return "no binding allows it"
	case breakglass.RefusedByWebhook:
		return "deny webhook"
	}
	return what
}

// guardWords says what a grant is kept from.
func guardWords(guards []policy.Guard) string {
	var out []string
	for _, g := range guards {
		out = append(out, cmp.Or(policy.Guards()[g], string(g)))
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

// Summary says what is asked for, before the waiting begins.
func (v View) Summary(r api.Request, me string) {
	s := v.Screen
	s.Note("Cluster   %s (%s)", r.Ask.Cluster, r.Ask.Server)
	s.Note("Profile   %s   %s", s.Bold(r.Ask.Profile), r.Ask.Rights)
	s.Note("Time      %s after the claim", Seconds(r.Ask.TTLSeconds))
	if r.Ask.Incident != "" {
		s.Note("Incident  %s", r.Ask.Incident)
	}
	if len(r.Ask.Guards) > 0 {
		s.Note("Kept from %s", guardWords(r.Ask.Guards))
	}
	s.Note("Needs     %s", strings.Join(r.Missing, " and "))
	if len(r.Ask.Raised) > 0 {
		s.Note("%s one approval more than usual, because the closing of %s is overdue: %s", s.Yellow("!"),
			strings.Join(r.Ask.Raised, ", "), v.typed("close", nil, r.Ask.Raised[0]))
	}
	v.notTold(r)
	others := slices.DeleteFunc(slices.Clone(r.Approvers), func(p string) bool { return p == r.Ask.By.Person })
	s.Note("          they are %s", crowd(r, others))
	for _, w := range r.Trouble {
		s.Note("%s %s", s.Yellow("!"), terminal.Paragraph{Text: w, Indent: 2})
	}
}

// crowd names the people who can approve a request or, where they are many, their teams.
func crowd(r api.Request, people []string) string {
	if len(people) <= maxNamed {
		return strings.Join(people, ", ")
	}
	var teams []string
	for _, t := range append(slices.Clone(r.Ask.Quorum.Each), r.Ask.Quorum.From...) {
		if x := fmt.Sprintf("%s (%d)", t.ID, len(t.Members)); !slices.Contains(teams, x) {
			teams = append(teams, x)
		}
	}
	return fmt.Sprintf("%d people: %s", len(people), strings.Join(teams, ", "))
}

// notTold says that nobody is told of the request in Slack.
func (v View) notTold(r api.Request) {
	if r.NotTold != "" {
		v.Screen.Note("%s Slack has not been told: %s", v.Screen.Yellow("!"), text.Clean(r.NotTold))
		v.Screen.Note("  ask the approvers yourself; they can approve with: %s", v.typed("approve", nil, r.ID))
	}
}

// Waiting says what a request waits for, and how long that can last.
func (v View) Waiting(r api.Request) terminal.Styled {
	what := string(r.State)
	switch r.State {
	case breakglass.StatePending:
		what = "waiting for " + strings.Join(r.Missing, " and ")
	case breakglass.StateApproved:
		what = "approved, waiting for the claim"
	case breakglass.StateActive:
		what = "certificate issued"
	default: // the state's name says it
	}
	if !r.Deadline.IsZero() {
		return terminal.Styled(terminal.Format("%s   %s left", what, text.About(max(0, r.Deadline.Sub(v.Now)))))
	}
	return terminal.Styled(text.Clean(what))
}

// Changes says what has happened between two looks at a request.
func (v View) Changes(was, is api.Request) {
	s := v.Screen
	approved := func(in api.Request, person string) bool {
		return slices.ContainsFunc(in.Approvals, func(x api.Approval) bool { return x.Person == person })
	}
	for i, x := range is.Approvals {
		if !approved(was, x.Person) {
			s.Note("%s approved %d of %d   %s (%s)   %s", s.Green("✓"), i+1, is.Ask.Quorum.Count, is.Names[x.Person], Channel(x), v.Clock(x.At))
		}
	}
	for _, x := range was.Approvals {
		if !approved(is, x.Person) {
			s.Note("%s %s withdrew the approval", s.Yellow("!"), is.Names[x.Person])
		}
	}
	if is.NotTold != was.NotTold {
		v.notTold(is)
	}
	if was.State == is.State {
		return
	}
	switch is.State {
	case breakglass.StatePending:
		s.Note("%s pending again: needs %s", s.Yellow("!"), strings.Join(is.Missing, " and "))
	case breakglass.StateApproved:
		s.Note("%s quorum reached; claim it by %s", s.Green("✓"), v.When(is.ClaimUntil))
	case breakglass.StateIssuing:
		s.Note("… being issued")
	case breakglass.StateActive:
		s.Note("%s issued, until %s", s.Green("✓"), v.When(is.Deadline))
	case breakglass.StateExpired:
		s.Note("• expired")
		if is.Touched {
			s.Note("  write what was done: %s", v.typed("close", nil, is.ID))
		}
	case breakglass.StateDenied, breakglass.StateRevoked, breakglass.StateWithdrawn, breakglass.StateLapsed, breakglass.StateFailed:
		s.Note("%s %s", s.Red("✗"), is.State)
	}
}

// Channel is how an approval was given.
func Channel(x api.Approval) string {
	if x.Signed {
		return "CLI, signed"
	}
	if x.Channel == record.ChannelSlack {
		return "Slack"
	}
	return string(x.Channel)
}

// Clock is a time for people: local, with the date unless it is today.
func (v View) Clock(t time.Time) string {
	local, now := t.Local(), v.Now.Local()
	if local.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return local.Format("15:04:05")
	}
	return local.Format("2006-01-02 15:04:05")
}

// When is clock with how far away it is.
func (v View) When(t time.Time) string {
	d := t.Sub(v.Now)
	if d < 0 {
		return v.Clock(t) + " (" + text.About(-d) + " ago)"
	}
	return v.Clock(t) + " (in " + text.About(d) + ")"
}

// Seconds is a number of seconds as people write it.
func Seconds(n int64) string { return text.Span(time.Duration(n) * time.Second) }

// WayWords says how a cluster is reached, where that is not just its address.
func WayWords(w breakglass.Way) string {
	out := "without a proxy of its own"
	if w.ProxyURL != "" {
		out = "through " + w.ProxyURL
	}
	if w.TLSServerName != "" {
		out += ", known as " + w.TLSServerName
	}
	return out
}

// HashWords is the beginning of a hash, for people who compare two.
func HashWords(h string) string {
	if h == "" {
		return "none, the system's own"
	}
	return h[:min(len(h), 16)] + "…"
}

// Stamp is a time for the record: UTC, to the second.
func Stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}
