package main

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
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/text"
)

// requestView shows requests to a person: as the daemon tells them, in the words of the person's terminal.
type requestView struct {
	name   string    // by which this program was called
	now    time.Time // by the server's clock
	screen *screen
}

// typed is a command as this program is called, for lines that are printed as they are.
func (v requestView) typed(words string, flags []string, names ...string) styled {
	return typed(v.name, words, flags, names...)
}

// maxNamed bounds the people who are named: a longer list is not read.
const maxNamed = 12

// describe is a request in full, cleaned.
func (v requestView) describe(r api.Request) string {
	var b strings.Builder
	row := func(label, f string, args ...any) { fmt.Fprintf(&b, "%-12s%s\n", label, format(f, args...)) }
	row("request", "%s   %s", r.ID, r.State)
	row("who", "%s", person(r, r.Ask.By.Person))
	row("what", "%s on %s (%s)", r.Ask.Profile, r.Ask.Cluster, r.Ask.Server)
	if r.Ask.Way != (breakglass.Way{}) {
		row("way", "%s", wayWords(r.Ask.Way))
	}
	if r.Ask.Rights.Binding() {
		row("rights", "%s, bound for this one certificate and removed when it ends", r.Ask.Rights)
	} else {
		row("rights", "%s, carried by the certificate: only API servers that ask the deny webhook refuse it before it ends", r.Ask.Rights)
	}
	row("for", "%s, from the claim; risk %s", seconds(r.Ask.TTLSeconds), r.Ask.Risk)
	row("reason", "%s", paragraph{cmp.Or(r.Reason, "(erased, or kept back by the server)"), 12})
	row("incident", "%s", cmp.Or(text.Clean(r.Ask.Incident), "-"))
	row("asked", "%s", v.when(r.RequestedAt))
	if r.Ask.KeyHash != "" {
		row("key", "%s", r.Ask.KeyHash)
	} else {
		row("key", "chosen at the claim")
	}
	for _, x := range r.Approvals {
		row("approved", "%s (%s) %s %s", person(r, x.Person), channel(x), v.when(x.At), text.Clean(x.Comment))
	}
	if len(r.Missing) > 0 && !r.State.Terminal() {
		row("needs", "%s", strings.Join(r.Missing, " and "))
	}
	if !r.Deadline.IsZero() {
		row("until", "%s", v.when(r.Deadline))
	}
	for what, e := range map[string]*api.Ending{"denied": r.Denied, "withdrawn": r.Withdrawn, "revoked": r.Revoked} {
		if e != nil {
			row(what, "%s %s: %s", person(r, e.Person), v.when(e.At), paragraph{cmp.Or(e.Reason, "(no reason)"), 12})
		}
	}
	if r.Failed != nil {
		row("failed", "%s: %s", v.when(r.Failed.At), r.Failed.Detail)
	}
	if x := r.Certificate; x != nil {
		row("certificate", "%s   serial %s   ledger #%d", x.CommonName, x.Serial, x.LedgerIndex)
		row("", "%s to %s", v.clock(x.NotBefore), v.when(x.NotAfter))
		row("", "fingerprint %s", x.Fingerprint)
		if r.Ask.Rights.Binding() {
			row("bound", "%v", x.Bound)
		}
	}
	if len(r.Ask.Guards) > 0 {
		row("kept from", "%s (by the deny webhook)", guardWords(r.Ask.Guards))
	}
	if len(r.Ask.Raised) > 0 {
		row("quorum", "one more than usual: the closing of %s is overdue", strings.Join(r.Ask.Raised, ", "))
	}
	b.WriteString(v.afterwards(r))
	if r.Refusals > 0 {
		row("refused", "%d commands on it were not allowed", r.Refusals)
	}
	row("digest", "%s   ledger #%d", r.Digest, r.LedgerIndex)
	return b.String()
}

// entries writes a line for each entry of a request.
func (v requestView) entries(out io.Writer, entries []api.Entry) error {
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
			texts = append(texts, name+": "+oneLine(t, 60))
		}
		slices.Sort(texts)
		fmt.Fprintln(w, format("  #%d\t%s\t%s\t%s\t%s", e.Index, v.clock(e.Time), e.Kind, cmp.Or(ev.By.Person, "-"), strings.Join(texts, "; ")))
	}
	return w.Flush()
}

// person is a name and an id, for people who must decide about that person.
func person(r api.Request, id string) string {
	if n := r.Names[id]; n != "" && n != id {
		return id + " (" + n + ")"
	}
	return id
}

func teams(ts []policy.FrozenTeam) []string {
	var out []string
	for _, t := range ts {
		out = append(out, t.ID)
	}
	return out
}

// afterwards is what followed a grant's end, cleaned.
func (v requestView) afterwards(r api.Request) string {
	var b strings.Builder
	row := func(label, f string, args ...any) { fmt.Fprintf(&b, "%-12s%s\n", label, format(f, args...)) }
	b.WriteString(v.receipt(r))
	if s := r.Session; s != nil {
		switch {
		case s.Source == breakglass.SourceNone:
			row("session", "not known: no audit events of this cluster reach the daemon")
		case s.Events == 0:
			row("session", "never used, as far as the audit events tell")
		default:
			row("session", "%s to %s from %s", v.clock(s.First), v.clock(s.Last), cmp.Or(strings.Join(s.From, ", "), "an unknown address"))
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
			row("left behind", "nothing was found (looked at: %s)", cmp.Or(strings.Join(s.Sources, " and "), "nothing"))
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
			row("", "not looked at: %s", g)
		}
		switch {
		case r.Acknowledged != nil:
			row("seen by", "%s %s  %s", person(r, r.Acknowledged.Person), v.when(r.Acknowledged.At), r.Acknowledged.Reason)
		case len(s.Items) > 0 && !r.AcknowledgeBy.IsZero():
			row("seen by", "nobody yet; due %s: %s", v.when(r.AcknowledgeBy), v.typed("ack", nil, r.ID))
		case len(s.Items) > 0:
			row("seen by", "no responder yet: %s", v.typed("ack", nil, r.ID))
		}
	}
	switch {
	case r.Closed != nil:
		row("closed", "%s: %s", v.when(r.Closed.At), paragraph{cmp.Or(r.Closed.Reason, "(erased)"), 12})
	case r.Touched && !r.CloseBy.IsZero():
		row("touched", "the closing note is missing; due %s: %s", v.when(r.CloseBy), v.typed("close", nil, r.ID))
	}
	return b.String()
}

// receipt is what the API servers said after a revocation, cleaned.
func (v requestView) receipt(r api.Request) string {
	var b strings.Builder
	row := func(label, f string, args ...any) { fmt.Fprintf(&b, "%-12s%s\n", label, format(f, args...)) }
	if r.Certificate == nil && r.Revoked != nil {
		row("receipt", "it was never claimed: no certificate exists")
		return b.String()
	}
	if r.Receipt == nil {
		if r.Revoked != nil && !r.Ask.Rights.Binding() {
			row("receipt", "group mode: the certificate itself works until %s unless the cluster's deny webhook knows it",
				v.when(r.Certificate.NotAfter))
		}
		return b.String()
	}
	label := "receipt"
	for _, x := range r.Receipt.Answers {
		switch late := slices.Contains(r.Receipt.Late, x.Server); {
		case x.No && late:
			row(label, "%s refuses it (%s); it could be asked only %s after the revocation", x.Server, by(x.By),
				time.Duration(x.AfterMillis)*time.Millisecond)
		case x.No:
			row(label, "%s refuses it since %s after the revocation (%s)", x.Server, time.Duration(x.AfterMillis)*time.Millisecond, by(x.By))
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

// openServers says which API servers have not refused a revoked certificate; empty when all have.
func openServers(r api.Request) string {
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
		return "nothing allows it any more"
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

// summary says what is asked for, before the waiting begins.
func (v requestView) summary(r api.Request, me string) {
	s := v.screen
	s.note("Cluster   %s (%s)", r.Ask.Cluster, r.Ask.Server)
	s.note("Profile   %s   %s", s.bold(r.Ask.Profile), r.Ask.Rights)
	s.note("Time      %s after the claim", seconds(r.Ask.TTLSeconds))
	if r.Ask.Incident != "" {
		s.note("Incident  %s", r.Ask.Incident)
	}
	if len(r.Ask.Guards) > 0 {
		s.note("Kept from %s", guardWords(r.Ask.Guards))
	}
	s.note("Needs     %s", strings.Join(r.Missing, " and "))
	if len(r.Ask.Raised) > 0 {
		s.note("%s one approval more than usual, because the closing of %s is overdue: %s", s.yellow("!"),
			strings.Join(r.Ask.Raised, ", "), v.typed("close", nil, r.Ask.Raised[0]))
	}
	v.notTold(r)
	others := slices.DeleteFunc(slices.Clone(r.Approvers), func(p string) bool { return p == r.Ask.By.Person })
	s.note("          they are %s", crowd(r, others))
	for _, w := range r.Trouble {
		s.note("%s %s", s.yellow("!"), paragraph{w, 2})
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
func (v requestView) notTold(r api.Request) {
	if r.NotTold != "" {
		v.screen.note("%s Slack has not been told: %s", v.screen.yellow("!"), text.Clean(r.NotTold))
		v.screen.note("  ask the approvers yourself; they can approve with: %s", v.typed("approve", nil, r.ID))
	}
}

// waiting says what a request waits for, and how long that can last.
func (v requestView) waiting(r api.Request) styled {
	what := string(r.State)
	switch r.State {
	case breakglass.StatePending:
		what = "waiting for " + strings.Join(r.Missing, " and ")
	case breakglass.StateApproved:
		what = "approved, waiting for the claim"
	case breakglass.StateActive:
		what = "certificate is out"
	default: // the state's name says it
	}
	if !r.Deadline.IsZero() {
		return styled(format("%s   %s left", what, text.About(max(0, r.Deadline.Sub(v.now)))))
	}
	return styled(text.Clean(what))
}

// changes says what has happened between two looks at a request.
func (v requestView) changes(was, is api.Request) {
	s := v.screen
	by := func(in api.Request, person string) (api.Approval, bool) {
		i := slices.IndexFunc(in.Approvals, func(x api.Approval) bool { return x.Person == person })
		if i < 0 {
			return api.Approval{}, false
		}
		return in.Approvals[i], true
	}
	for i, x := range is.Approvals {
		if _, before := by(was, x.Person); !before {
			s.note("%s approved %d of %d   %s (%s)   %s", s.green("✓"), i+1, is.Ask.Quorum.Count, is.Names[x.Person], channel(x), v.clock(x.At))
		}
	}
	for _, x := range was.Approvals {
		if _, still := by(is, x.Person); !still {
			s.note("%s %s took the approval back", s.yellow("!"), is.Names[x.Person])
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
		s.note("%s pending again: needs %s", s.yellow("!"), strings.Join(is.Missing, " and "))
	case breakglass.StateApproved:
		s.note("%s quorum reached, to be claimed until %s", s.green("✓"), v.when(is.ClaimUntil))
	case breakglass.StateIssuing:
		s.note("… being issued")
	case breakglass.StateActive:
		s.note("%s issued, until %s", s.green("✓"), v.when(is.Deadline))
	case breakglass.StateExpired:
		s.note("• expired: its time is over")
		if is.Touched {
			s.note("  write what was done: %s", v.typed("close", nil, is.ID))
		}
	case breakglass.StateDenied, breakglass.StateRevoked, breakglass.StateWithdrawn, breakglass.StateLapsed, breakglass.StateFailed:
		s.note("%s %s", s.red("✗"), is.State)
	}
}

// channel is how an approval was given.
func channel(x api.Approval) string {
	if x.Signed {
		return "CLI, signed"
	}
	if x.Channel == record.ChannelSlack {
		return "Slack"
	}
	return string(x.Channel)
}

// clock is a time for people: local, with the date unless it is today.
func (v requestView) clock(t time.Time) string {
	local, now := t.Local(), v.now.Local()
	if local.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return local.Format("15:04:05")
	}
	return local.Format("2006-01-02 15:04:05")
}

// when is clock with how far away it is.
func (v requestView) when(t time.Time) string {
	d := t.Sub(v.now)
	if d < 0 {
		return v.clock(t) + " (" + text.About(-d) + " ago)"
	}
	return v.clock(t) + " (in " + text.About(d) + ")"
}

func seconds(n int64) string { return text.Span(time.Duration(n) * time.Second) }
