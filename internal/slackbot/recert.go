package slackbot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slack-go/slack"

	"github.com/breakglassd/breakglass/internal/announce"
	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/recert"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/text"
)

// The names of a campaign's button and form.
const (
	actionCampaign = "recert-review"
	formCampaign   = "recert"
	blockAll       = "all"
)

// The size of a page of the form: few enough that people read them.
const (
	pageOneByOne = 5
	pageTogether = 20
	maxMentions  = 20 // people in a message to the channel
)

// campaignsMark is where it is kept how far campaigns were told.
const campaignsMark = "slack/campaigns"

// Campaigns tells people about recertification campaigns: each reviewer one private message when it opens and at each reminder,
// whoever is suspended one that says so, and the channel when it opens, when something is escalated and when it closes: one
// message each time, however many items there are, because approvals go through the same channel. It must be announced to beside the Bot,
// under a name of its own: it has its own place in the ledger then, and however long it waits, no request's card waits with it.
func (b *Bot) Campaigns() announce.Messenger { return campaignTeller{b} }

type campaignTeller struct{ b *Bot }

// told is how far the entry with index Seq has been told: the number of its messages that Slack has. They are about the entries up
// to Through as well. That is remembered before the first of them goes out, so that whatever is written meanwhile is either in
// them or told by itself.
type told struct {
	Seq     int64 `json:"seq"`
	Steps   int   `json:"steps"`
	Through int64 `json:"through"`
}

// letter is one message, to a user in private or, with an empty user, to the channel.
type letterTo struct {
	user string
	message
}

// Tell implements announce.Messenger.
func (t campaignTeller) Tell(ctx context.Context, n announce.Notice) error {
	if !strings.HasPrefix(n.Stream, campaign.Stream) {
		return nil
	}
	b := t.b
	at := told{Seq: -1, Through: -1}
	mark, err := b.cfg.Ledger.Bookmark(ctx, campaignsMark)
	if err == nil && mark != nil {
		err = json.Unmarshal(mark, &at)
	}
	if err != nil {
		return fmt.Errorf("reading how far campaigns were told: %w", err)
	}
	if n.Seq < at.Seq || n.Seq > at.Seq && n.Seq <= at.Through {
		return nil
	}
	if mark == nil && time.Since(n.Time) > old {
		if history, err := b.history(ctx, n); err != nil || history {
			return err
		}
	}
	if n.Seq > at.Seq {
		at = told{Seq: n.Seq, Through: -1}
	}
	letters, through, err := b.campaignLetters(ctx, n, at.Through)
	if err != nil {
		return err
	}
	if through > at.Through && len(letters) > 0 {
		at.Through = through
		if err := b.rememberTold(ctx, at); err != nil {
			return err
		}
	}
	for i, l := range letters {
		if i < at.Steps {
			continue
		}
		if l.user != "" {
			err = b.private(ctx, l.user, l.message)
		} else {
			_, err = b.post(ctx, b.cfg.Channel, "", l.message)
		}
		e := (*apiError)(nil)
		switch {
		case errors.As(err, &e) && (e.outcome == OutcomePermanent || e.outcome == OutcomeBlocked && l.user != ""):
			b.log.Error("slack does not take a message about a campaign: it is not sent", slog.String("campaign", n.Stream),
				slog.String("method", e.method), slog.String("code", e.code))
		case errors.As(err, &e):
			select {
			case <-ctx.Done():
			case <-time.After(e.after):
			}
			return fmt.Errorf("telling entry %d of %s: %w", n.Seq, n.Stream, err)
		case err != nil:
			return err
		}
		at.Steps = i + 1
		if err := b.rememberTold(ctx, at); err != nil {
			return err
		}
	}
	return nil
}

// history reports whether an entry from before Slack was switched on is of no use to anybody any more: a campaign that still runs is
// made known, and nothing else is.
func (b *Bot) history(ctx context.Context, n announce.Notice) (bool, error) {
	if _, opened := n.Event.(campaign.Opened); !opened {
		return true, nil
	}
	c, err := b.cfg.Campaigns.Get(ctx, n.Stream)
	return err == nil && c.Closed != nil, err
}

func (b *Bot) rememberTold(ctx context.Context, at told) error {
	mark, err := json.Marshal(at)
	if err == nil {
		err = b.cfg.Ledger.SetBookmark(ctx, campaignsMark, mark)
	}
	if err != nil {
		return fmt.Errorf("remembering how far campaigns were told: %w", err)
	}
	return nil
}

// campaignLetters are the messages about one entry, and about those up to through, which is decided here when it is before the
// entry. They depend on what the campaign is now only in their numbers, so that after a crash the same ones come in the same order.
func (b *Bot) campaignLetters(ctx context.Context, n announce.Notice, through int64) ([]letterTo, int64, error) {
	switch n.Event.(type) {
	case campaign.Opened, campaign.Reminded, campaign.Suspended, campaign.Escalated,
		campaign.Closed:
	default:
		return nil, through, nil
	}
	c, err := b.cfg.Campaigns.Get(ctx, n.Stream)
	if err != nil {
		return nil, through, err
	}
	if through < n.Seq {
		through = throughWith(c, n)
	}
	v := b.render(time.Now())
	var out []letterTo
	switch ev := n.Event.(type) {
	case campaign.Opened:
		for _, who := range c.Reviewers() {
			if user, ok := v.account(who); ok {
				out = append(out, letterTo{user, v.campaignDigest(c, who, "A recertification campaign is open")})
			}
		}
		out = append(out, letterTo{message: v.campaignOpened(c)}) // last: it may have to wait until the channel is mended
	case campaign.Reminded:
		what := "Recertification: " + count(ev.Days, "day", "days") + " left"
		if ev.Days == 0 {
			what = "Recertification: it ends today"
		}
		for _, who := range c.Reviewers() {
			if user, ok := v.account(who); ok {
				out = append(out, letterTo{user, v.campaignDigest(c, who, what)})
			}
		}
	case campaign.Suspended:
		for _, lost := range suspendedIn(c, ev.Why, n.Seq, through) {
			if user, ok := v.account(lost.person); ok {
				out = append(out, letterTo{user, v.campaignSuspended(c, ev, lost)})
			}
		}
	case campaign.Escalated:
		if ids := escalatedIn(c, ev.Why, n.Seq, through); len(ids) > 0 {
			out = append(out, letterTo{message: v.campaignEscalated(c, ev, ids)})
		}
	case campaign.Closed:
		out = append(out, letterTo{message: v.campaignClosed(c, ev)})
	}
	return out, through, nil
}

func (v render) campaignOpened(c *campaign.Campaign) message {
	var who []string
	for _, id := range c.Reviewers() {
		who = append(who, v.mention(id))
	}
	if len(who) > maxMentions {
		who = append(who[:maxMentions:maxMentions], fmt.Sprintf("and %d more", len(who)-maxMentions))
	}
	s := fmt.Sprintf("*Recertification %s is open*\n%s to answer until %s. Eligibility that nobody confirms is suspended then.\nReviewers: "+
		"%s. Each of them has a private message with what waits for them.",
		escape(c.ID), count(len(c.Items), "item", "items"), date(c.Opened.Deadline), strings.Join(who, ", "))
	return message{text: "Recertification " + escape(c.ID) + " is open", blocks: []slack.Block{section("", mrkdwn(s))}}
}

// campaignDigest is a reviewer's private message: how much waits, and the button that opens the form.
func (v render) campaignDigest(c *campaign.Campaign, person, title string) message {
	n, easy, wider := 0, 0, 0
	for _, i := range c.Items {
		if !c.Waits(i, person, v.now) {
			continue
		}
		n++
		switch {
		case i.State.Together():
			easy++
		case i.State == campaign.ItemWidened:
			wider++
		}
	}
	s := fmt.Sprintf("*%s* (%s)\n%s for your word until %s: %d unchanged, which can be confirmed together, %d that give more than before, "+
		"and %d others.", title, escape(c.ID), count(n, "item waits", "items wait"),
		date(c.Opened.Deadline), easy, wider, n-easy-wider)
	m := message{text: title + ": " + count(n, "item waits", "items wait") + " for you", blocks: []slack.Block{section("", mrkdwn(s))}}
	if n == 0 {
		m.blocks = []slack.Block{section("", mrkdwn("*"+title+"* ("+escape(c.ID)+")\nNothing waits for you. Thank you."))}
		return m
	}
	m.blocks = append(m.blocks, slack.NewActionBlock("act", button(actionCampaign, "Review", "Review "+c.ID, c.ID, slack.StylePrimary)),
		section("cli", mrkdwn("On the command line: `breakglass recert review`")))
	return m
}

// throughWith is the last of the entries that follow an entry without a gap and do the same for the same reason. A ledger entry
// holds only so many ids: what is one escalation to people is many entries, and is told once. When each was written says nothing
// about that: a clock that is behind gives many entries one time.
func throughWith(c *campaign.Campaign, n announce.Notice) int64 {
	same := map[int64]bool{}
	for _, i := range c.Items {
		switch ev := n.Event.(type) {
		case campaign.Suspended:
			for _, t := range i.Taken {
				same[t.Seq] = same[t.Seq] || t.Why == ev.Why
			}
		case campaign.Escalated:
			same[i.EscalatedSeq] = same[i.EscalatedSeq] || !i.Escalated.IsZero() && i.EscalatedWhy == ev.Why
		}
	}
	through := n.Seq
	for same[through+1] {
		through++
	}
	return through
}

// escalatedIn lists what the entries from one to another escalated for a reason.
func escalatedIn(c *campaign.Campaign, why string, from, through int64) []string {
	var ids []string
	for _, i := range c.Items {
		if !i.Escalated.IsZero() && i.EscalatedWhy == why && i.EscalatedSeq >= from && i.EscalatedSeq <= through {
			ids = append(ids, i.ID)
		}
	}
	return ids
}

// loss is what one person may not do any more, and the items that took it.
type loss struct {
	person string
	parts  []policy.Eligibility
	items  []string // ids
}

// suspendedIn lists, person by person, what the entries from one to another suspended for a reason.
func suspendedIn(c *campaign.Campaign, why string, from, through int64) []*loss {
	var out []*loss
	by := map[string]*loss{}
	for _, i := range c.Items {
		for _, t := range i.Taken {
			if t.Why != why || t.Seq < from || t.Seq > through {
				continue
			}
			x := by[t.Person]
			if x == nil {
				x = &loss{person: t.Person}
				by[t.Person], out = x, append(out, x)
			}
			x.parts = append(x.parts, t.Eligibility)
			if len(x.items) == 0 || x.items[len(x.items)-1] != i.ID {
				x.items = append(x.items, i.ID)
			}
		}
	}
	return out
}

// campaignSuspended tells a person what they may not do any more, and how they get it back.
func (v render) campaignSuspended(c *campaign.Campaign, ev campaign.Suspended, lost *loss) message {
	why := "nobody confirmed it before the deadline"
	if ev.Why == campaign.WhyRevoked {
		why = "a reviewer said revoke"
	}
	var lines []string
	n := 0
	for _, s := range policy.Shares(lost.parts) {
		n += len(s.Clusters)
		where := s.Clusters[:min(len(s.Clusters), 10)]
		rest := ""
		if more := len(s.Clusters) - len(where); more > 0 {
			rest = fmt.Sprintf(" and %d more", more)
		}
		lines = append(lines, "• "+escape(string(s.Part)+" of "+s.Profile+" on "+strings.Join(where, ", ")+rest))
	}
	shown := lines[:min(len(lines), 10)]
	var back []string
	for _, id := range lost.items[:min(len(lost.items), 5)] {
		back = append(back, typed("recert reinstate", []string{"--item=" + id}, c.ID))
	}
	text := "The recertification " + c.ID + " has suspended you as"
	return message{text: escape(text) + " " + count(n, "part", "parts"), blocks: []slack.Block{
		section("", mrkdwn("*"+escape(text)+"*\n"+strings.Join(shown, "\n")+more(len(lines)-len(shown))+"\nReason: "+why+".")),
		section("back", mrkdwn("If you need it, ask two reviewers. Each of them gives: "+strings.Join(back, " and ")+
			more(len(lost.items)-len(back))))}}
}

func (v render) campaignEscalated(c *campaign.Campaign, ev campaign.Escalated, ids []string) message {
	why := "nobody answered in time, and there is nothing that the daemon could take away itself"
	if ev.Why == campaign.WhyFloor {
		why = "they were not suspended, because too few people would be left for an emergency"
	}
	text := fmt.Sprintf("Recertification %s: %s escalated", c.ID, count(len(ids), "item was", "items were"))
	shown := ids[:min(len(ids), 10)]
	return message{text: escape(text), blocks: []slack.Block{section("", mrkdwn(":rotating_light: *"+escape(text)+"*\nReason: "+why+
		". Somebody must answer: "+typed("recert review", nil, c.ID))),
		section("items", plain(clipText(strings.Join(shown, "\n")+more(len(ids)-len(shown)))))}}
}

func more(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf("\nand %d more", n)
}

func (v render) campaignClosed(c *campaign.Campaign, k campaign.Closed) message {
	text := fmt.Sprintf("Recertification %s is closed: %d kept, %d revoked, %d suspended, %d escalated", c.ID, k.Kept, k.Revoked, k.Suspended,
		k.Escalated)
	lost := ""
	if who := v.suspended(c); len(who) > 0 {
		lost = "\nSuspended: " + strings.Join(who,
			", ") + ". Two reviewers give something back: " + typed("recert reinstate", []string{"--item=ITEM"}, c.ID)
	}
	return message{text: escape(text), blocks: []slack.Block{section("", mrkdwn("*"+escape(text)+"*"+lost+
		"\nThe counts add up. Report: "+typed("recert report", nil, c.ID)+"; evidence for auditors: "+typed("recert export", nil, "FILE",
		c.ID)))}}
}

// suspended names the people whom a campaign keeps suspended in something.
func (v render) suspended(c *campaign.Campaign) []string {
	var who []string
	for _, i := range c.Items {
		if i.Held() {
			for _, t := range i.Taken {
				who = append(who, t.Person)
			}
		}
	}
	slices.Sort(who)
	who = slices.Compact(who)
	for n := range who {
		who[n] = v.mention(who[n])
	}
	if len(who) > maxMentions {
		who = append(who[:maxMentions:maxMentions], fmt.Sprintf("and %d more", len(who)-maxMentions))
	}
	return who
}

// aboutCampaign reports whether an interaction is with a campaign's button or form.
func (b *Bot) aboutCampaign(p *payload) bool {
	if b.cfg.Recert == nil {
		return false
	}
	return p.Type == "block_actions" && len(p.Actions) == 1 && p.Actions[0].ID == actionCampaign || p.Type == "view_submission" &&
		p.View.CallbackID == formCampaign
}

// campaignInteraction opens a campaign's form, or takes one of its pages.
func (b *Bot) campaignInteraction(ctx context.Context, a record.Actor, p *payload) (any, error) {
	err := b.admit(ctx, a, "recert")
	if err == nil {
		err = b.vet(ctx, a, "recert")
	}
	var view slack.ModalViewRequest
	errs := map[string]string{}
	if err == nil && p.Type == "block_actions" {
		view, err = b.campaignPage(ctx, a, page{Campaign: p.Actions[0].Value, Together: true})
	} else if err == nil {
		view, errs, err = b.turnPage(ctx, a, p)
	}
	r, refused := record.AsRefusal(err)
	switch {
	case refused && p.Type == "block_actions":
		return nil, b.whisper(ctx, p.Container.Channel, p.User.ID, clipText(sentence(r.Error())))
	case refused:
		return map[string]any{"response_action": "update", "view": notice("Not done", sentence(r.Error()))}, nil
	case err != nil:
		return nil, err
	case len(errs) > 0:
		return map[string]any{"response_action": "errors", "errors": errs}, nil
	case p.Type == "view_submission":
		return map[string]any{"response_action": "update", "view": view}, nil
	}
	if err := b.open(ctx, p.Trigger, view); err != nil {
		return nil, b.whisper(ctx, p.Container.Channel, p.User.ID, "Slack did not open the form ("+err.Error()+
			"). Try again, or use the command line: breakglass recert review")
	}
	return nil, nil
}

// page is what a page of the form asks about. It travels with the form; an item is named by its place, because a campaign's items
// never change.
type page struct {
	Campaign string `json:"c"`
	From     int    `json:"f,omitempty"` // place of the first item to be looked at
	Together bool   `json:"t,omitempty"` // these are confirmed together
	Items    []int  `json:"i,omitempty"` // places of the items on the page
}

// campaignPage makes the next page for a person: first what can be confirmed together, then everything else one by one.
func (b *Bot) campaignPage(ctx context.Context, a record.Actor, at page) (slack.ModalViewRequest, error) {
	if err := b.cfg.Campaigns.MayRead(ctx, a); err != nil {
		return slack.ModalViewRequest{}, err
	}
	c, err := b.cfg.Campaigns.Get(ctx, at.Campaign)
	if err != nil {
		return slack.ModalViewRequest{}, err
	}
	if !c.Reviews(a.Person) { // a responder may see reports, and has nothing to answer
		return slack.ModalViewRequest{}, &record.Refusal{Class: record.ClassDenied, Code: "not-reviewer", Why: "you do not review in " +
			c.ID + ": its reviewers were fixed when it opened",
			Next: "to read it: " + text.Command("breakglass recert report", nil, c.ID)}
	}
	snap, err := b.cfg.Recert.Snapshot(c)
	if err != nil {
		return slack.ModalViewRequest{}, err
	}
	v := b.render(time.Now())
	at.Campaign, at.Items = c.ID, nil
	left := 0
	for n, i := range c.Items {
		if !c.Waits(i, a.Person, v.now) {
			continue
		}
		left++
		most := pageOneByOne
		if at.Together {
			most = pageTogether
		}
		if n >= at.From && len(at.Items) < most && (!at.Together || i.State.Together()) {
			at.Items = append(at.Items, n)
		}
	}
	switch {
	case len(at.Items) == 0 && at.Together:
		return b.campaignPage(ctx, a, page{Campaign: c.ID})
	case len(at.Items) == 0 && left > 0:
		return notice("Recertification", count(left, "item still waits", "items still wait")+
			" for your word: those that you left for later. Open the form again, or use: breakglass recert review"), nil
	case len(at.Items) == 0:
		return notice("Recertification", "Nothing waits for your word any more. Thank you."), nil
	case at.Together:
		return v.togetherPage(at, snap, left), nil
	}
	return v.onePage(at, c, snap, left), nil
}

func metadata(at page) string {
	text, err := json.Marshal(at)
	if err != nil {
		panic("encoding a page: " + err.Error()) // only plain data types: cannot happen
	}
	return string(text)
}

// togetherPage lists what is unchanged and asks once.
func (v render) togetherPage(at page, snap *recert.Snapshot, left int) slack.ModalViewRequest {
	lines := make([]string, len(at.Items))
	for n, i := range at.Items {
		lines[n] = "• " + text.Cut(snap.Items[i].Title, 130)
	}
	later := option("later", "Go through them one by one")
	return modal(formCampaign, "Recertification", "Go on", metadata(at), []slack.Block{
		section("left", plain(count(left, "item waits", "items wait")+" for your word. These are unchanged since somebody last kept them:")),
		section("items", plain(text.Cut(strings.Join(lines, "\n"), 3000))),
		input(blockAll, "All of these", "", false, selectInput([]*slack.OptionBlockObject{option("keep", "Keep them all"), later}, later)),
		input(blockReason, "Why", "Needed where the risk is high. It is recorded.", true, textInput("", record.MaxReason, true)),
	})
}

// onePage asks about a few items, each by itself.
func (v render) onePage(at page, c *campaign.Campaign, snap *recert.Snapshot, left int) slack.ModalViewRequest {
	blocks := []slack.Block{section("left", plain(count(left, "item waits", "items wait")+
		" for your word. What you leave for later stays open."))}
	for n, i := range at.Items {
		item := snap.Items[i]
		said := ""
		for _, w := range c.Items[i].Words {
			said += "\n" + v.name(w.By.Person) + " said " + string(w.Verdict)
		}
		about := text.Cut(item.Title, 300) + "\n" + string(item.State) + " · risk " + string(item.Risk)
		for _, e := range item.Evidence {
			about += "\n• " + text.Cut(e, 200)
		}
		if item.Admin {
			about += fmt.Sprintf("\n%d people must say keep", c.Need(c.Items[i]))
		}
		later := option("later", "Later")
		blocks = append(blocks, slack.NewDividerBlock(), section("item"+strconv.Itoa(n), plain(text.Cut(about+said, 2900))),
			input("verdict"+strconv.Itoa(n), "Your word", "", false, selectInput([]*slack.OptionBlockObject{later, option("keep", "Keep"),
				option("revoke", "Revoke")}, later)),
			input("why"+strconv.Itoa(n), "Why", whyHint(&item), true, textInput("", record.MaxReason, false)))
	}
	return modal(formCampaign, "Recertification", "Record and go on", metadata(at), blocks)
}

func whyHint(i *recert.Item) string {
	if i.High() {
		return "Needed for both answers: the risk is high."
	}
	return "Needed to revoke."
}

// turnPage records what was answered on a page and makes the next one. Answers are recorded one by one; sending a page again
// changes nothing.
func (b *Bot) turnPage(ctx context.Context, a record.Actor, p *payload) (next slack.ModalViewRequest, errs map[string]string,
	err error) {
	var at page
	if err := json.Unmarshal([]byte(p.View.Metadata), &at); err != nil || len(at.Items) == 0 || len(at.Items) > pageTogether {
		return next, nil, malformed("the form names no items")
	}
	c, err := b.cfg.Campaigns.Get(ctx, at.Campaign)
	if err != nil {
		return next, nil, err
	}
	if slices.ContainsFunc(at.Items, func(i int) bool { return i < 0 || i >= len(c.Items) }) {
		return next, nil, malformed("the form names items that are not there")
	}
	answer := func(verdict, why string, block string, places ...int) error {
		var items []campaign.Judged
		for _, i := range places {
			items = append(items, campaign.Judged{ID: c.Items[i].ID, Digest: c.Items[i].Digest})
		}
		_, err := b.cfg.Campaigns.Decide(ctx, a, c.ID, campaign.Answer{Verdict: campaign.Verdict(verdict), Items: items, Reason: why})
		if r, ok := record.AsRefusal(err); ok && r.Code == "reason" {
			errs[block] = sentence(r.Error())
			return nil
		}
		return err
	}
	errs = map[string]string{}
	after := page{Campaign: c.ID, From: at.Items[len(at.Items)-1] + 1, Together: at.Together}
	if at.Together {
		if p.field(blockAll) == "keep" {
			err = answer("keep", p.field(blockReason), blockReason, at.Items...)
		}
	} else {
		for n, i := range at.Items {
			verdict := p.field("verdict" + strconv.Itoa(n))
			if verdict == "later" || verdict == "" {
				continue
			}
			if err = answer(verdict, p.field("why"+strconv.Itoa(n)), "why"+strconv.Itoa(n), i); err != nil {
				break
			}
		}
	}
	if err != nil || len(errs) > 0 {
		return next, errs, err
	}
	next, err = b.campaignPage(ctx, a, after)
	return next, nil, err
}

// Accounts looks at the flags of accounts, for the recertification of who they belong to. Only what Slack has told about is in the
// result: of an account that is not, such as one of another workspace than ours, nothing is known. An error means that Slack
// stopped telling before the end. When Slack wants a pause it gets one, however long the accounts take then; ctx is the bound.
func (b *Bot) Accounts(ctx context.Context, accounts []record.SlackAccount) (map[record.SlackAccount]recert.AccountState, error) {
	out := map[record.SlackAccount]recert.AccountState{}
	for _, a := range accounts {
		if !slices.Contains(b.cfg.TeamIDs, a.Team) {
			continue
		}
		u, err := b.user(ctx, a.User)
		switch {
		case isCode(err, "user_not_found"):
			out[a] = recert.AccountState{Missing: true}
		case isCode(err, "user_not_visible"), err == nil && u.ID != a.User: // it does not tell about this one
		case err != nil:
			return out, err
		default:
			out[a] = recert.AccountState{Deactivated: u.Deleted, Bot: u.IsBot, Guest: u.IsRestricted || u.IsUltraRestricted || u.IsStranger}
		}
	}
	return out, nil
}

// user asks about one account, again after each pause that Slack wants.
func (b *Bot) user(ctx context.Context, id string) (u *slack.User, err error) {
	for {
		err := b.call(ctx, "users.info", callTimeout, func(ctx context.Context) (err error) {
			u, err = b.slack.GetUserInfoContext(ctx, id)
			return err
		})
		e := (*apiError)(nil)
		if !errors.As(err, &e) || e.after == 0 {
			return u, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(e.after):
		}
	}
}
