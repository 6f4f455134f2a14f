package slackbot

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/slack-go/slack"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/text"
)

// The most that is shown of one field, in runes. Slack takes 2000 in a section field and 3000 in a text object; a card must
// also be read on a phone.
const (
	maxField = 200
	maxQuote = 1000
	maxShown = 10 // people in one line
)

// render turns requests into Block Kit. It is made anew for each use, from the policy in force.
type render struct {
	policy  *policy.Policy
	teams   []string // the workspaces whose user ids can be mentioned
	command string
	now     time.Time
	trouble func(*breakglass.Request) []string // see breakglass.Service.Trouble
}

func (b *Bot) render(now time.Time) render {
	return render{b.cfg.Service.Policy(), b.cfg.TeamIDs, b.cfg.Command, now, b.cfg.Service.Trouble}
}

// typed is a command of the command line, to be copied: whoever chose a name in it chose neither another command nor a flag, nor where
// Slack's mark of a command ends.
func typed(words string, flags []string, names ...string) string {
	return "`" + escape(strings.ReplaceAll(text.Command("breakglass "+words, flags, names...), "`", "'")) + "`"
}

// escape makes text that Slack must not read as markup of its own. It is for ids and words that cannot hold other markup;
// what people wrote goes into plain and quote.
func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}

// plain is text in which Slack interprets nothing, not even :emoji:.
func plain(s string) *slack.TextBlockObject {
	off := false
	return &slack.TextBlockObject{Type: slack.PlainTextType, Text: s, Emoji: &off}
}

// mrkdwn is text of ours with markup. Verbatim: Slack adds no links or mentions by itself.
func mrkdwn(s string) *slack.TextBlockObject {
	return &slack.TextBlockObject{Type: slack.MarkdownType, Text: s, Verbatim: true}
}

func section(id string, text *slack.TextBlockObject, fields ...*slack.TextBlockObject) slack.Block {
	return slack.NewSectionBlock(text, fields, nil, slack.SectionBlockOptionBlockID(id))
}

// quote is what a person wrote, as a quotation.
func quote(id, text, request string) slack.Block {
	if strings.TrimSpace(text) == "" {
		text = "(erased)"
	}
	return slack.NewRichTextBlock(id, &slack.RichTextQuote{Type: slack.RTEQuote,
		Elements: []slack.RichTextSectionElement{slack.NewRichTextSectionTextElement(clip(text, maxQuote, request), nil)}})
}

// clip shortens by rune and says where the whole text is.
func clip(s string, most int, request string) string {
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most]) + "… (full text: " + text.Command("breakglass show", nil, request) + ")"
}

// date shows a time in the reader's own zone, and in UTC where that is not possible.
func date(t time.Time) string {
	t = t.UTC()
	return fmt.Sprintf("<!date^%d^{date_short_pretty} {time}|%s UTC>", t.Unix(), t.Format("2006-01-02 15:04"))
}

// account is the user id by which a person can be mentioned in our workspaces.
func (v render) account(person string) (string, bool) {
	p, ok := v.policy.Person(person)
	if !ok {
		return "", false
	}
	i := slices.IndexFunc(p.Slack, func(a record.SlackAccount) bool { return slices.Contains(v.teams, a.Team) })
	if i < 0 {
		return "", false
	}
	return p.Slack[i].User, true
}

// mention names a person in mrkdwn, so that Slack notifies them.
func (v render) mention(person string) string {
	if id, ok := v.account(person); ok {
		return "<@" + escape(id) + ">"
	}
	return "*" + escape(person) + "*"
}

// name names a person in plain text.
func (v render) name(person string) string {
	if p, ok := v.policy.Person(person); ok && p.Name != "" && p.Name != person {
		return p.Name + " (" + person + ")"
	}
	return person
}

// how says by which way a person gave their word.
func how(a record.Actor) string {
	if a.Channel == record.ChannelKey {
		return " (SSH key)"
	}
	return " (Slack)"
}

// by says who did something, and how.
func (v render) by(a record.Actor) string { return v.mention(a.Person) + how(a) }

// did is a line of the thread: who did what, and how.
func (v render) did(a record.Actor, what string) string {
	return v.mention(a.Person) + " " + what + how(a)
}

// needed is the number of approvals that a request cannot do without.
func needed(q policy.Quorum) int { return max(q.Count, policy.MinQuorum) }

func tally(r *breakglass.Request) string {
	return fmt.Sprintf("%d of %d approved", len(r.Approvals), needed(r.Ask.Quorum))
}

// open reports whether people can still decide.
func open(st breakglass.State) bool {
	return st == breakglass.StatePending || st == breakglass.StateApproved
}

// headline is the state of a request and what is still owed after it, in mrkdwn.
func (v render) headline(r *breakglass.Request) string {
	lines := append([]string{v.stands(r)}, v.standing(r)...)
	if v.trouble != nil {
		for _, x := range v.trouble(r) {
			lines = append(lines, ":warning: "+escape(text.Line(x, maxObject)))
		}
	}
	return strings.Join(lines, "\n")
}

// stands is the state of a request, in mrkdwn.
func (v render) stands(r *breakglass.Request) string {
	who := v.mention(r.Ask.By.Person)
	switch st := r.State(v.now); st {
	case breakglass.StatePending:
		return ":hourglass_flowing_sand: *Waiting for " + escape(strings.Join(r.Missing(),
			" and ")) + "* · " + tally(r) + " · lapses " + date(r.Ask.PendingUntil)
	case breakglass.StateApproved:
		return ":white_check_mark: *Approved* · " + who + " can pick it up until " + date(r.ClaimUntil()) + " · no certificate exists yet"
	case breakglass.StateIssuing:
		return ":gear: *Being issued* since " + date(r.ClaimedAt)
	case breakglass.StateActive:
		return ":key: *Active* until " + date(r.Issued.NotAfter) + " · " + who + " holds a certificate"
	case breakglass.StateExpired:
		return ":checkered_flag: *Ended* " + date(r.Issued.NotAfter) + " · the certificate has expired"
	case breakglass.StateRevoked:
		s := ":no_entry: *Revoked* by " + v.by(r.Revoked.By) + " " + date(r.Revoked.At)
		if r.Receipt != nil || r.Issued == nil || !r.Ask.Rights.Binding() {
			s += " · " + cutOff(r)
		}
		return s
	case breakglass.StateFailed:
		return ":warning: *Failed* " + date(r.FailedAt) + " · nobody got a certificate"
	case breakglass.StateDenied:
		return ":x: *Denied* by " + v.by(r.Denied.By) + " " + date(r.Denied.At)
	case breakglass.StateWithdrawn:
		return ":leftwards_arrow_with_hook: *Withdrawn* by " + v.by(r.Withdrawn.By) + " " + date(r.Withdrawn.At)
	case breakglass.StateLapsed:
		if until := r.ClaimUntil(); !until.IsZero() {
			return ":zzz: *Lapsed* · it was approved, and " + who + " did not pick it up until " + date(until)
		}
		return ":zzz: *Lapsed* · too few people approved it in time"
	}
	panic("unknown state")
}

// summary is one line in plain words for notifications, screen readers and lists.
func (v render) summary(r *breakglass.Request) string {
	st := r.State(v.now)
	s := fmt.Sprintf("%s asks for %s on %s for %s: %s", r.Ask.By.Person, r.Ask.Profile, r.Ask.Cluster, text.Span(r.TTL()), st)
	switch {
	case st == breakglass.StatePending:
		s += ", " + tally(r)
	case st == breakglass.StateActive:
		s += " until " + r.Issued.NotAfter.UTC().Format("15:04 UTC")
	}
	if !r.CloseBy(v.now).IsZero() {
		s += ", closing note missing"
	}
	if r.Unacknowledged() {
		s += fmt.Sprintf(", left %d behind", len(r.Swept.Items)+r.Swept.More)
	}
	return s + " (" + r.ID + ")"
}

// meaning says what the kind of right means on a bad day.
func meaning(g policy.Rights) string {
	if g.Binding() {
		return "Bound to this one certificate in the cluster: taken away when it ends, and at once when it is revoked."
	}
	return "The certificate itself carries the group: it works until it expires, and only the deny webhook can cut it off singly."
}

// wish says in one line who asks for what: it comes first, because on a phone little more than that is seen.
func (v render) wish(r *breakglass.Request) slack.Block {
	bold := func(s string) slack.RichTextSectionElement {
		return slack.NewRichTextSectionTextElement(text.Line(s, maxObject), &slack.RichTextSectionTextStyle{Bold: true})
	}
	then := func(s string) slack.RichTextSectionElement { return slack.NewRichTextSectionTextElement(s, nil) }
	verb := " asks for "
	if !open(r.State(v.now)) {
		verb = " asked for "
	}
	return slack.NewRichTextBlock("wish", slack.NewRichTextSection(bold(v.fullName(r.Ask.By.Person)), then(verb), bold(r.Ask.Profile),
		then(" on "), bold(r.Ask.Cluster), then(" for "+text.Span(r.TTL()))))
}

// fullName is a person's name as people say it.
func (v render) fullName(person string) string {
	if p, ok := v.policy.Person(person); ok && p.Name != "" {
		return p.Name
	}
	return person
}

// facts are the blocks that say what is asked for: the same on the card, in the forms and in /breakglass status.
func (v render) facts(r *breakglass.Request) []slack.Block {
	field := func(title string, lines ...string) *slack.TextBlockObject { // each of the lines is one line
		for i := range lines {
			lines[i] = text.Clean(lines[i])
		}
		return plain(title + "\n" + clip(strings.Join(lines, "\n"), maxField, r.ID))
	}
	incident := r.Ask.Incident
	if incident == "" {
		incident = "none named"
	}
	facts := []*slack.TextBlockObject{
		field("Who", v.name(r.Ask.By.Person)),
		field("Cluster", r.Ask.Cluster, r.Ask.Server),
		field("Access", r.Ask.Profile, r.Ask.Rights.String()),
		field("For", text.Span(r.TTL())+", counted from the pickup"),
		field("Incident", incident),
		field("Risk", string(r.Ask.Risk)),
	}
	if len(r.Ask.Guards) > 0 {
		facts = append(facts, field("Cannot", cannot(r.Ask.Guards)))
	}
	blocks := []slack.Block{v.wish(r), section("state", mrkdwn(v.headline(r))), section("facts", nil, facts...), quote("why", r.Reason, r.ID)}
	if open(r.State(v.now)) {
		blocks = append(blocks, raised(r)...)
	}
	switch {
	case r.Denied != nil:
		blocks = append(blocks, section("", plain("Denied, because:")), quote("denied", r.Denied.Reason, r.ID))
	case r.Revoked != nil:
		blocks = append(blocks, section("", plain("Revoked, because:")), quote("revoked", r.Revoked.Reason, r.ID))
	case r.Failed != nil:
		blocks = append(blocks, section("failed", plain(clip(sentence(r.Failed.Detail), maxQuote, r.ID))))
	}
	who := []slack.MixedElement{mrkdwn(v.voices(r))}
	if st := r.State(v.now); st == breakglass.StatePending {
		if can := v.callable(r); can != "" {
			who = append(who, mrkdwn(can))
		}
	}
	var about []slack.MixedElement
	if !r.State(v.now).Terminal() {
		about = append(about, plain(meaning(r.Ask.Rights)))
	}
	details := r.ID + " · digest " + r.Digest[:min(12, len(r.Digest))]
	if r.Issued != nil {
		details += " · serial " + r.Issued.Serial
	}
	return append(blocks, slack.NewContextBlock("who", who...), slack.NewContextBlock("id", append(about, plain(details))...))
}

// voices says who has approved, when and how.
func (v render) voices(r *breakglass.Request) string {
	if len(r.Approvals) == 0 && r.State(v.now).Terminal() {
		return "Nobody had approved"
	}
	if len(r.Approvals) == 0 {
		return "Nobody has approved yet"
	}
	var out []string
	for i, a := range r.Approvals {
		if i == maxShown {
			out = append(out, fmt.Sprintf("and %d more", len(r.Approvals)-i))
			break
		}
		out = append(out, "✓ "+v.by(a.By)+" "+date(a.At))
	}
	return strings.Join(out, " · ")
}

// callable mentions the people whose approval is still wanted, so that Slack notifies them.
func (v render) callable(r *breakglass.Request) string {
	var out []string
	more := 0
	for _, p := range r.Ask.Quorum.People() {
		with := *r
		with.Approvals = append(slices.Clone(r.Approvals), policy.Approval{By: record.Actor{Person: p,
			Channel: r.Ask.Quorum.Channels[0]}})
		if p == r.Ask.By.Person || slices.Equal(with.Missing(), r.Missing()) { // their yes would change nothing
			continue
		}
		if len(out) == maxShown {
			more++
			continue
		}
		out = append(out, v.mention(p))
	}
	if len(out) == 0 {
		return ""
	}
	s := "Can approve: " + strings.Join(out, " ")
	if more > 0 {
		s += fmt.Sprintf(" and %d more", more)
	}
	if !slices.Contains(r.Ask.Quorum.Channels, record.ChannelSlack) {
		s += " · with an SSH key only: " + typed("approve", nil, r.ID)
	}
	return s
}

func button(action, label, reads, value string, style slack.Style) *slack.ButtonBlockElement {
	return &slack.ButtonBlockElement{Type: slack.METButton, ActionID: action, Text: plain(label), AccessibilityLabel: reads, Value: value,
		Style: style}
}

// card is the one message of a request in the approval channel.
func (v render) card(r *breakglass.Request) message {
	m := message{text: escape(v.summary(r)), blocks: v.facts(r)}
	value := target{r.ID, r.Digest}.String()
	revoke := button("revoke", "Revoke…", "Revoke "+r.ID+" from "+r.Ask.By.Person, value, slack.StyleDanger)
	label := func(verb string) string { return verb + " " + r.ID + " from " + r.Ask.By.Person } // at most 8+11+6+32 of 75 characters
	st := r.State(v.now)
	switch {
	case open(st):
		withdraw := button("withdraw", "Withdraw", label("Withdraw"), value, "")
		withdraw.Confirm = &slack.ConfirmationBlockObject{Title: plain("Withdraw this request?"), Confirm: plain("Withdraw"),
			Deny: plain("Keep it"),
			Text: plain("Only its requester can. It ends for good; a new one is quickly made.")}
		act := []slack.BlockElement{button("review", "Review", label("Review"), value, slack.StylePrimary),
			button("deny", "Deny…", label("Deny"), value, slack.StyleDanger), withdraw}
		if st == breakglass.StateApproved { // for responders, who cannot deny
			act = append(act, revoke)
		}
		m.blocks = append(m.blocks, slack.NewActionBlock("act", act...))
	case st == breakglass.StateActive:
		m.blocks = append(m.blocks, slack.NewActionBlock("act", revoke))
	default:
		var owed []slack.BlockElement
		if !r.CloseBy(v.now).IsZero() {
			owed = append(owed, closeButton(r, "Close…", ""))
		}
		if r.Unacknowledged() {
			owed = append(owed, acknowledgeButton(r, ""))
		}
		if len(owed) > 0 {
			m.blocks = append(m.blocks, slack.NewActionBlock("act", owed...))
		}
	}
	return m
}

// line makes a message out of a sentence of ours and, when someone wrote something, their words.
func line(text, mark, words, request string) message {
	m := message{text: escape(text), blocks: []slack.Block{section("", mrkdwn(mark))}}
	if words != "" {
		m.blocks = append(m.blocks, quote("", words, request))
	}
	return m
}

// timeline is the line that one ledger entry adds to the thread; nothing for entries that only change the card.
func (v render) timeline(n entry) (message, bool) {
	r := n.Request
	id := " (" + r.ID + ")"
	switch ev := n.Event.(type) {
	case breakglass.Approved:
		comment := ""
		for _, a := range r.Approvals {
			if a.By.Person == ev.By.Person {
				comment = text.Clean(a.Comment)
			}
		}
		mark := "✓ " + v.did(ev.By, "approved")
		if completes(n) {
			mark += " · that is enough: " + v.mention(r.Ask.By.Person) + " can pick it up until " + date(r.ClaimUntil())
		}
		return line(ev.By.Person+" approved"+id, mark, comment, r.ID), true
	case breakglass.ApprovalWithdrawn:
		return line(ev.By.Person+" took their approval back"+id, v.did(ev.By, "took their approval back"), "", r.ID), true
	case breakglass.Denied:
		return line(ev.By.Person+" denied"+id, v.did(ev.By, "denied"), r.Denied.Reason, r.ID), true
	case breakglass.Withdrawn:
		return line(ev.By.Person+" withdrew the request"+id, v.did(ev.By, "withdrew the request"), r.Withdrawn.Reason, r.ID), true
	case breakglass.Issued:
		m := line("a certificate was issued to "+r.Ask.By.Person+id,
			fmt.Sprintf(":key: %s picked it up: certificate `%s`, ledger entry %d, valid until %s", v.mention(r.Ask.By.Person), escape(ev.Serial),
				n.Seq, date(ev.NotAfter)), "", r.ID)
		m.broadcast = true
		return m, true
	case breakglass.Failed:
		mark := ":warning: *The pickup failed* · " + failNext(ev.Why, r.ID)
		m := line("the pickup failed"+id, mark, ev.Detail, r.ID)
		if ev.Why == breakglass.FailOrphan || ev.Why == breakglass.FailCheck {
			m = line("ALARM: a certificate exists that nobody was given"+id, ":rotating_light: *A certificate exists that nobody was given* · "+
				failNext(ev.Why, r.ID), ev.Detail, r.ID)
			m.broadcast = true
		}
		return m, true
	case breakglass.NotSigned:
		return line("the authority could not sign"+id, ":hourglass: The certificate authority could not sign for the moment, and nothing was "+
			"signed. "+
			v.mention(r.Ask.By.Person)+" can claim again on the same machine until "+date(r.ClaimUntil()), "", r.ID), true
	case breakglass.Bound:
		return line("the right is bound in "+r.Ask.Cluster+id, "Bound in the cluster: "+escape(ev.Rights.String()), "", r.ID), true
	case breakglass.Unbound:
		return line("the right is removed from "+r.Ask.Cluster+id, "Removed from the cluster: "+escape(r.Ask.Rights.String()), "", r.ID), true
	case breakglass.Revoked:
		return line(ev.By.Person+" revoked"+id, ":no_entry: "+v.did(ev.By, "revoked")+" · "+cutOff(r), r.Revoked.Reason, r.ID), true
	case breakglass.Receipt:
		return v.receipt(ev, r), true
	case breakglass.SessionReported:
		return v.session(ev, r), true
	case breakglass.Swept:
		return v.swept(ev, r), true
	case breakglass.Acknowledged:
		if r.Acknowledged == nil { // told late: something else was found since
			return message{}, false
		}
		return line(ev.By.Person+" acknowledged what was left behind"+id, "✓ "+v.did(ev.By, "acknowledged what was left behind"),
			r.Acknowledged.Reason, r.ID), true
	case breakglass.Closed:
		return line(ev.By.Person+" wrote the closing note"+id, ":memo: "+v.did(ev.By, "wrote the closing note"), r.Closed.Reason, r.ID), true
	case breakglass.Overdue:
		return v.overdue(ev, r)
	case breakglass.Delivered:
		return line("the same certificate was handed out again"+id, "The same certificate was handed out again, to the same key", "", r.ID), true
	case breakglass.Ended:
		if ev.State == breakglass.StateLapsed {
			if until := r.ClaimUntil(); !until.IsZero() {
				return line("lapsed: approved, and not picked up"+id, ":zzz: Lapsed: it was approved, and "+v.mention(r.Ask.By.Person)+" did not "+
					"pick it up until "+date(until), "", r.ID), true
			}
			return line("lapsed: too few people approved it in time"+id, ":zzz: Lapsed: too few people approved it in time", "", r.ID), true
		}
		return line("the certificate has expired"+id, ":checkered_flag: The certificate has expired", "", r.ID), true
	}
	return message{}, false
}

// completes reports whether the entry is the approval that reached the quorum.
func completes(n entry) bool {
	until := n.Request.ClaimUntil()
	return !until.IsZero() && until.Add(-time.Duration(n.Request.Ask.ClaimSeconds)*time.Second).Equal(n.Time)
}

func failNext(why, request string) string {
	switch why {
	case breakglass.FailOrphan:
		return "revoke it in the certificate authority, find out why the answer was lost, then ask again: " + typed("show", nil, request)
	case breakglass.FailCheck:
		return "what came back is not what was ordered: treat the certificate authority as tampered with until you know why"
	case breakglass.FailUnknown:
		return "the authority's answer was lost and no certificate was found: ask again"
	}
	return "nothing was signed: look at the certificate authority (`breakglassd doctor`), then ask again"
}

// letter is the private message to the requester that one ledger entry is worth.
func (v render) letter(n entry) (message, bool) {
	r := n.Request
	what := r.Ask.Profile + " on " + r.Ask.Cluster
	id := " (" + r.ID + ")"
	switch ev := n.Event.(type) {
	case breakglass.Requested:
		if ev.By.Channel != record.ChannelSlack || r.State(v.now) != breakglass.StatePending {
			return message{}, false // the command line has said so already, or it is told late
		}
		return line("you asked for "+what+id, fmt.Sprintf("You asked for *%s* for %s (%s). It waits for %s until %s; you will be told here.",
			escape(what), text.Span(r.TTL()), r.ID, escape(strings.Join(r.Missing(), " and ")), date(r.Ask.PendingUntil)), "", r.ID), true
	case breakglass.Approved:
		if !completes(n) || r.State(v.now) != breakglass.StateApproved { // told late: it may be over
			return message{}, false
		}
		return line("Approved. Pick up with: "+text.Command("breakglass claim", nil, r.ID),
			fmt.Sprintf(":white_check_mark: *Approved.* Pick up within %s, until %s: %s",
				text.Span(time.Duration(r.Ask.ClaimSeconds)*time.Second), date(r.ClaimUntil()), typed("claim", nil, r.ID)), "", r.ID), true
	case breakglass.ApprovalWithdrawn:
		missing := r.Missing()
		if len(missing) == 0 || r.State(v.now) != breakglass.StatePending {
			return message{}, false
		}
		return line("an approval was taken back"+id, v.mention(ev.By.Person)+" took their approval of "+r.ID+" back. It waits for "+
			escape(strings.Join(missing, " and "))+".", "", r.ID), true
	case breakglass.Denied:
		return line("your request was denied"+id, v.mention(ev.By.Person)+" denied your request "+r.ID+" for *"+escape(what)+"*.",
			r.Denied.Reason, r.ID), true
	case breakglass.Failed:
		return line("your pickup failed"+id, ":warning: The pickup of "+r.ID+" failed · "+failNext(ev.Why, r.ID), ev.Detail, r.ID), true
	case breakglass.Revoked:
		if ev.By.Person == r.Ask.By.Person {
			if r.CloseBy(v.now).IsZero() {
				return message{}, false
			}
			return v.askForNote(line("your access has ended"+id, ":no_entry: You revoked your access "+r.ID+" to *"+escape(what)+"*.", "", r.ID),
				r), true
		}
		return v.askForNote(line("your access was revoked"+id, ":no_entry: "+v.mention(ev.By.Person)+" revoked your access "+r.ID+" · "+
			cutOff(r), r.Revoked.Reason, r.ID), r), true
	case breakglass.Ended:
		if ev.State == breakglass.StateLapsed {
			why := "too few people approved it in time"
			if until := r.ClaimUntil(); !until.IsZero() {
				why = "it was approved, and you did not pick it up until " + date(until)
			}
			return line("your request lapsed"+id, "Your request "+r.ID+" has lapsed: "+why+". A new one is cheap: `"+v.command+"`", "", r.ID), true
		}
		return v.askForNote(line("your access has ended"+id, "Your access "+r.ID+" to *"+escape(what)+
			"* has ended. Its certificate is of no use any more.", "", r.ID), r), true
	case breakglass.Overdue:
		if ev.What != breakglass.OverdueClosing || r.Closed != nil {
			return message{}, false
		}
		m := line("your closing note is overdue"+id, ":alarm_clock: *Your closing note of "+r.ID+
			" is overdue* · nobody but you knows what was done to "+escape(r.Ask.Cluster)+".", "", r.ID)
		return v.askForNote(m, r), true
	}
	return message{}, false
}

// sentence makes a refusal or a detail read like one.
func sentence(s string) string {
	if s == "" {
		return "No detail was recorded."
	}
	s = capital(s)
	if !strings.HasSuffix(s, ".") {
		s += "."
	}
	return s
}

func capital(s string) string {
	first, size := utf8.DecodeRuneInString(s)
	if size == 0 {
		return s
	}
	return strings.ToUpper(string(first)) + s[size:]
}
