package slackbot

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/slack-go/slack"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/text"
)

// What follows a grant, as people meet it: the receipt of a revocation, what was done, what was left behind, the closing note.
//
// Names of objects, addresses and the words of API servers come from the cluster, and so from whoever had it in their hands.
// They are shown as people's words are: never where Slack interprets anything.

// The most that is shown of what came from a cluster. A message of all of it must stay under the 13,000 characters or so at
// which Slack refuses blocks; the rest is in breakglass show ID --session.
const (
	maxItems   = 8  // of a sweep, in a message
	maxListed  = 20 // of a sweep, in a form
	maxServers = 20 // of a receipt
	maxGaps    = 5
	maxObject  = 120 // runes of an object's name
	maxLine    = 240 // runes of any other line
)

// foreign makes one line out of a text that came from a cluster: without line breaks, and without what cannot be seen.
func foreign(s string, most int) string {
	return cmp.Or(text.Line(s, most), "(nothing)")
}

// bullets are lines that begin with a dot, for plain text; those beyond most are counted.
func bullets(lines []string, most int) string {
	var out []string
	for i, l := range lines {
		if i == most {
			out = append(out, fmt.Sprintf("• and %d more", len(lines)-i))
			break
		}
		out = append(out, "• "+foreign(l, maxLine))
	}
	return strings.Join(out, "\n")
}

// count says a number of things in words: "1 write", "3 writes".
func count(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// mayAnswerFor reports whether a person's word counts on what became of a request: those whose approval could count, and
// responders. It only chooses what is shown: the service decides.
func (v render) mayAnswerFor(r *breakglass.Request, person string) bool {
	return slices.Contains(r.Ask.Quorum.People(), person) || v.policy.MayRespond(person)
}

// standing says what is still owed of a grant that has ended, in mrkdwn, one line for each.
func (v render) standing(r *breakglass.Request) []string {
	if r.EndedBy(v.now).IsZero() {
		return nil
	}
	var out []string
	by := r.CloseBy(v.now)
	switch {
	case r.Closed != nil:
		out = append(out, ":memo: Closed by "+v.by(r.Closed.By)+" "+date(r.Closed.At))
	case !by.IsZero() && v.now.Before(by):
		out = append(out, ":memo: *Cluster touched, closing note missing* · due "+date(by))
	case !by.IsZero():
		out = append(out, ":memo: *Cluster touched, closing note missing* · overdue since "+date(by))
	}
	if r.Swept == nil || len(r.Swept.Items) == 0 {
		return out
	}
	left := fmt.Sprintf("eft something behind: %d", len(r.Swept.Items)+r.Swept.More)
	if r.Acknowledged != nil {
		return append(out, ":broom: L"+left+", acknowledged by "+v.by(r.Acknowledged.By))
	}
	line := ":broom: *L" + left + ", not acknowledged*"
	if by := r.AcknowledgeBy(); !by.IsZero() && !v.now.Before(by) {
		line += " · overdue since " + date(by)
	}
	return append(out, line)
}

// cutOff says how far a revocation reaches, in mrkdwn, by what is known now.
func cutOff(r *breakglass.Request) string {
	switch {
	case r.Issued == nil:
		return "nobody had picked it up: no certificate exists, and none will"
	case r.Receipt != nil:
		return reached(r)
	case !r.Ask.Rights.Binding():
		return "group mode: the certificate works until " + date(r.Issued.NotAfter) + " on every API server that does not ask the deny webhook"
	}
	return "its right is being removed from the cluster; a watch or exec that runs goes on until it ends"
}

// reached says what the API servers answered, in mrkdwn. No address is in it.
func reached(r *breakglass.Request) string {
	no, open, away := tallyAnswers(r.Receipt.Answers)
	all := no + open + away
	if all == 0 {
		return "*no API server is configured to be asked*"
	}
	out := fmt.Sprintf("cut off on %d of %d API servers", no, all)
	if no == all {
		return out
	}
	if open > 0 && !r.Ask.Rights.Binding() {
		out += fmt.Sprintf(" · *group mode: %d still %s it in*, until %s at the latest", open, verb(open, "lets", "let"), date(r.Issued.NotAfter))
	} else if open > 0 {
		out += fmt.Sprintf(" · *%d still %s it in*", open, verb(open, "lets", "let"))
	}
	if away > 0 {
		out += fmt.Sprintf(" · *%d unknown*", away)
	}
	if r.Receipt.Final {
		return out + " · its time ended " + date(r.Issued.NotAfter)
	}
	return out + " · asked again until they refuse"
}

func verb(n int, one, more string) string {
	if n == 1 {
		return one
	}
	return more
}

// tallyAnswers counts the API servers that refuse, that still let the certificate in, and that gave no answer.
func tallyAnswers(answers []breakglass.Answer) (no, open, away int) {
	for _, a := range answers {
		switch {
		case a.No:
			no++
		case a.LetsIn():
			open++
		default:
			away++
		}
	}
	return no, open, away
}

// seconds writes a duration in milliseconds as people read it on a receipt.
func seconds(millis int64) string {
	if millis < 60_000 {
		return fmt.Sprintf("%.1f s", max(float64(millis)/1000, 0.1))
	}
	return text.Span((time.Duration(millis) * time.Millisecond).Round(time.Second))
}

// answered is what one API server said, in plain words.
func answered(a breakglass.Answer, late, final bool) string {
	by := map[string]string{breakglass.RefusedByRBAC: " (RBAC)", breakglass.RefusedByWebhook: " (deny webhook)"}[a.By]
	server := foreign(a.Server, maxObject)
	switch {
	case a.No && late:
		return server + ": refuses it" + by + "; it could be asked only after " + seconds(a.AfterMillis)
	case a.No:
		return server + ": refused after " + seconds(a.AfterMillis) + by
	case final:
		return server + ": never said no: " + foreign(a.Problem, maxObject) + "; the certificate's time is over"
	case a.StillAllows():
		return server + ": still lets it in, asked " + count(a.Tries, "time", "times") + ": tried again"
	case a.NotAsked():
		return server + ": still lets it in: " + foreign(a.Problem, maxObject) + "; tried again"
	}
	return server + ": cannot tell: " + foreign(a.Problem, maxObject) + "; tried again"
}

// receipt is the line of the thread that says which API servers refuse a revoked certificate.
func (v render) receipt(ev breakglass.Receipt, r *breakglass.Request) message {
	as := *r // as it was by this receipt: a later one has its own line
	as.Receipt = &ev
	no, open, away := tallyAnswers(ev.Answers)
	mark := ":receipt: "
	if open > 0 {
		mark = ":rotating_light: "
	}
	m := line(fmt.Sprintf("cut off on %d of %d API servers (%s)", no, no+open+away, r.ID), mark+capital(reached(&as)), "", r.ID)
	var lines []string
	for i, a := range ev.Answers {
		if i == maxServers {
			lines = append(lines, fmt.Sprintf("and %d more", len(ev.Answers)-i))
			break
		}
		lines = append(lines, answered(a, slices.Contains(ev.Late, a.Server), ev.Final))
	}
	for _, b := range ev.Bindings[:min(len(ev.Bindings), maxServers)] {
		lines = append(lines, "Not made for the grant: "+foreign(b, 2*maxObject))
	}
	if len(lines) > 0 {
		m.blocks = append(m.blocks, section("answers", plain(clipText(strings.Join(lines, "\n")))))
	}
	if len(ev.Limits) > 0 {
		m.blocks = append(m.blocks, slack.NewContextBlock("limits", plain(unreached(r))))
	}
	return m
}

// unreached is the short form of what a revocation cannot reach.
func unreached(r *breakglass.Request) string {
	return "Not reached by it: what runs already (watch, exec, port-forward), what was made meanwhile (tokens, bindings), and whatever asks " +
		"only the CA. All of it: " + text.Command("breakglass show", nil, r.ID)
}

// saidBefore is what a line says in so far as it makes it worth saying again; empty for lines that are always said. The first
// result names the kind of line.
func saidBefore(ev record.Event) (kind, gist string) {
	var what any
	switch ev := ev.(type) {
	case breakglass.Receipt:
		kind = "receipt"
		var answers []string // without times and the exact problem: those change by themselves
		for _, a := range ev.Answers {
			answers = append(answers, fmt.Sprintf("%s %t %t", a.Server, a.No, a.StillAllows()))
		}
		what = []any{answers, ev.Final}
	case breakglass.SessionReported:
		kind, what = "session", ev
	case breakglass.Swept:
		kind, what = "swept", ev
	default:
		return "", ""
	}
	return kind, digestOf(what)
}

// digestOf is the hex SHA-256 of plain data.
func digestOf(x any) string {
	raw, err := json.Marshal(x)
	if err != nil {
		panic("encoding plain data: " + err.Error())
	}
	return text.SHA256(raw)
}

// session is the line of the thread that says what was done with a grant.
func (v render) session(ev breakglass.SessionReported, r *breakglass.Request) message {
	whole := slack.NewContextBlock("whole", plain("All of it: "+text.Command("breakglass show", []string{"--session"}, r.ID)))
	var m message
	switch {
	case ev.Source == breakglass.SourceNone:
		m = line("what was done is not known ("+r.ID+")", ":mag: *Session* · *not known*: no audit events of "+escape(r.Ask.Cluster)+
			" reach breakglass", "", r.ID)
	case ev.Events == 0:
		m = line("the certificate was never used ("+r.ID+")", ":mag: *Session* · *never used*", "", r.ID)
		whole = nil
	default:
		m = line(fmt.Sprintf("what was done: %s, %s, %s (%s)", count(ev.Reads, "read", "reads"), count(ev.Writes, "write", "writes"),
			count(ev.Refused, "refusal", "refusals"), r.ID),
			":mag: *Session* · used "+date(ev.First)+" to "+date(ev.Last), "", r.ID)
		from := "unknown"
		if len(ev.From) > 0 {
			shown := ev.From[:min(len(ev.From), 6)]
			from = strings.Join(shown, ", ")
			if more := len(ev.From) - len(shown); more > 0 {
				from += fmt.Sprintf(" and %d more", more)
			}
		}
		field := func(title, text string) *slack.TextBlockObject { return plain(title + "\n" + foreign(text, maxField)) }
		m.blocks = append(m.blocks, section("did", nil,
			field("From", from),
			field("Looked", count(ev.Reads, "read", "reads")+", "+count(ev.SecretsRead, "of Secrets", "of Secrets")),
			field("Changed", count(ev.Writes, "write", "writes")),
			field("Not allowed", count(ev.Refused, "request", "requests")),
			field("Exec, attach, port-forward, proxy", fmt.Sprint(ev.Streams))))
	}
	if ev.StillOpen > 0 {
		m.blocks = append(m.blocks, section("open", mrkdwn(fmt.Sprintf(":rotating_light: *%s not seen to end*: what a stream holds open goes "+
			"on after the certificate",
			count(ev.StillOpen, "stream or watch was", "streams and watches were")))))
		m.broadcast = true
	}
	if len(ev.Gaps) > 0 {
		m.blocks = append(m.blocks, section("gaps", plain("What may be missing:\n"+bullets(ev.Gaps, maxGaps))))
	}
	if whole != nil {
		m.blocks = append(m.blocks, whole)
	}
	return m
}

// bulletList is slack.RichTextList without the fields that Slack's own types do not know when they say nothing: "offset": 0.
type bulletList struct {
	Type     slack.RichTextElementType     `json:"type"`
	Style    slack.RichTextListElementType `json:"style"`
	Elements []slack.RichTextElement       `json:"elements"`
}

// RichTextElementType implements slack.RichTextElement.
func (l bulletList) RichTextElementType() slack.RichTextElementType { return l.Type }

// residues lists what was left behind, the gravest first as the sweep has it, and what is beyond it by number.
func residues(s *breakglass.Swept, most int) []slack.Block {
	part := func(s string, style *slack.RichTextSectionTextStyle) slack.RichTextSectionElement {
		return slack.NewRichTextSectionTextElement(s, style)
	}
	var items []slack.RichTextElement
	for _, i := range s.Items[:min(len(s.Items), most)] {
		exists := "still there"
		if i.Exists != "yes" {
			exists = "not known whether it is still there"
		}
		parts := []slack.RichTextSectionElement{
			part(foreign(string(i.Severity), 20)+" ", &slack.RichTextSectionTextStyle{Bold: true}),
			part(foreign(i.Object, maxObject), &slack.RichTextSectionTextStyle{Code: true}),
			part(" · "+foreign(i.What, maxLine)+" · "+exists, nil),
		}
		if i.Undo != "" {
			undo := foreign(i.Undo, 2*maxLine+1)
			if len([]rune(undo)) > 2*maxLine { // half a command is worse than none
				undo = "see breakglass show"
			}
			parts = append(parts, part("\nUndo: ", nil), part(undo, &slack.RichTextSectionTextStyle{Code: true}))
		}
		items = append(items, slack.NewRichTextSection(parts...))
	}
	blocks := []slack.Block{slack.NewRichTextBlock("left", bulletList{slack.RTEList, slack.RTEListBullet, items})}
	if more := len(s.Items) - len(items) + s.More; more > 0 {
		blocks = append(blocks, section("more", plain(fmt.Sprintf("and %d more", more))))
	}
	return blocks
}

// andMore is the end of a line that names one of several things.
func andMore(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(" and %d more", n)
}

// unseen says in one line what a sweep could not look at: mostly that is the same each time, and people must not learn to skip it.
func unseen(gaps []string) []slack.Block {
	if len(gaps) == 0 {
		return nil
	}
	return []slack.Block{slack.NewContextBlock("gaps", plain("Not looked at: "+foreign(gaps[0], maxLine)+andMore(len(gaps)-1)))}
}

// swept is the line of the thread that says what a grant left behind. When that is the last that is known, and no second
// person has seen it, it has a button.
func (v render) swept(ev breakglass.Swept, r *breakglass.Request) message {
	n := len(ev.Items) + ev.More
	if n == 0 {
		mark := ":broom: Nothing was left behind"
		if len(ev.Gaps) > 0 {
			mark = ":broom: Nothing left behind was found"
		}
		m := line("nothing left behind was found ("+r.ID+")", mark, "", r.ID)
		m.blocks = append(m.blocks, unseen(ev.Gaps)...)
		return m
	}
	what := count(n, "thing", "things")
	m := line("left behind in "+r.Ask.Cluster+": "+what+" ("+r.ID+")",
		":rotating_light: *"+what+" left behind in "+escape(r.Ask.Cluster)+"* by the session of "+v.mention(r.Ask.By.Person), "", r.ID)
	m.broadcast = true
	m.blocks = append(m.blocks, residues(&ev, maxItems)...)
	m.blocks = append(m.blocks, unseen(ev.Gaps)...)
	m.blocks = append(m.blocks, slack.NewContextBlock("whole", plain(r.ID+" · all of it: "+
		text.Command("breakglass show", []string{"--session"}, r.ID))))
	latest := r.Swept != nil && r.Swept.Digest() == ev.Digest()
	switch {
	case latest && r.Acknowledged != nil:
		m.blocks = append(m.blocks, section("seen", mrkdwn("✓ acknowledged by "+v.by(r.Acknowledged.By)+" "+date(r.Acknowledged.At))))
	case latest:
		m.blocks = append(m.blocks, slack.NewActionBlock("act", acknowledgeButton(r, slack.StylePrimary)))
	}
	return m
}

func acknowledgeButton(r *breakglass.Request, style slack.Style) *slack.ButtonBlockElement {
	return button("acknowledge", "Acknowledge…", "Acknowledge what "+r.ID+" left behind", target{r.ID, r.Digest}.String(), style)
}

func closeButton(r *breakglass.Request, label string, style slack.Style) *slack.ButtonBlockElement {
	return button("close", label, "Write the closing note of "+r.ID, target{r.ID, r.Digest}.String(), style)
}

// overdue is the line of the thread that says what did not come in time. Nothing if it has come since.
func (v render) overdue(ev breakglass.Overdue, r *breakglass.Request) (message, bool) {
	switch {
	case ev.What == breakglass.OverdueClosing && r.Closed == nil:
		var who []string
		for i, a := range r.Approvals {
			if i == maxShown {
				break
			}
			who = append(who, v.mention(a.By.Person))
		}
		mark := ":alarm_clock: *The closing note is overdue*: " + v.mention(r.Ask.By.Person) + " has not said what was done"
		if len(who) > 0 {
			mark += " · " + strings.Join(who, " ") + " approved it"
		}
		return line("the closing note is overdue ("+r.ID+")", mark, "", r.ID), true
	case ev.What == breakglass.OverdueAcknowledgement && r.Unacknowledged():
		var who []string
		for _, p := range r.Ask.Quorum.People() {
			if p != r.Ask.By.Person && len(who) < maxShown {
				who = append(who, v.mention(p))
			}
		}
		m := line("nobody has acknowledged what was left behind ("+r.ID+")",
			":alarm_clock: *Nobody has acknowledged what was left behind* · "+strings.Join(who, " "), "", r.ID)
		m.blocks = append(m.blocks, slack.NewActionBlock("act", acknowledgeButton(r, "")))
		return m, true
	}
	return message{}, false
}

// askForNote adds the button for the closing note to a letter about a grant that still needs one.
func (v render) askForNote(m message, r *breakglass.Request) message {
	by := r.CloseBy(v.now)
	if by.IsZero() {
		return m
	}
	m.blocks = append(m.blocks, section("owed", mrkdwn("Please say what was done, and what is left to do, until "+date(by)+
		": here, or with "+typed("close", nil, r.ID))),
		slack.NewActionBlock("act", closeButton(r, "Write closing note", slack.StylePrimary)))
	return m
}

// raised explains a quorum that is higher than its profile's; nothing when it is not.
func raised(r *breakglass.Request) []slack.Block {
	if len(r.Ask.Raised) == 0 {
		return nil
	}
	owed := r.Ask.Raised
	list := strings.Join(owed[:min(len(owed), 5)], ", ")
	if more := len(owed) - 5; more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	return []slack.Block{section("raised", plain("Needs one approval more than usual: "+r.Ask.By.Person+" owes the closing note of "+list+
		"."))}
}

// cannot names the guards of a grant or profile; empty without any.
func cannot(guards []policy.Guard) string {
	out := make([]string, len(guards))
	for i, g := range guards {
		out[i] = string(g)
	}
	return strings.Join(out, ", ")
}
