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

// The forms, by callback id. A view without one is only to be read.
const (
	formAsk      = "ask"
	formApprove  = "approve"
	formTakeBack = "take-back"
	formDeny     = "deny"
	formRevoke   = "revoke"
	formSeen     = "acknowledge"
	formClose    = "close"
)

// The blocks of the forms that are filled in. Each holds one element with the action id "value".
const (
	blockWhat     = "what"
	blockTTL      = "ttl"
	blockIncident = "incident"
	blockReason   = "reason"
	blockComment  = "comment"
	blockNote     = "note"
)

// Slack's limits of a select menu, and of the texts of a form's buttons.
const (
	maxOptions = 100
	maxSubmit  = 24
)

func modal(callback, title, submit, metadata string, blocks []slack.Block) slack.ModalViewRequest {
	m := slack.ModalViewRequest{Type: slack.VTModal, CallbackID: callback, Title: plain(title), Close: plain("Close"),
		PrivateMetadata: metadata, Blocks: slack.Blocks{BlockSet: blocks}}
	if submit != "" {
		m.Submit = plain(submit)
		m.Close = plain("Cancel")
	}
	return m
}

func input(id, label, hint string, optional bool, e slack.BlockElement) slack.Block {
	in := slack.NewInputBlock(id, plain(label), nil, e).WithOptional(optional)
	if hint != "" {
		in.Hint = plain(hint)
	}
	return in
}

func textInput(initial string, most int, multiline bool) *slack.PlainTextInputBlockElement {
	if utf8.RuneCountInString(initial) > most {
		initial = string([]rune(initial)[:most])
	}
	return &slack.PlainTextInputBlockElement{Type: slack.METPlainTextInput, ActionID: "value", InitialValue: initial, MaxLength: most,
		Multiline: multiline}
}

func selectInput(options []*slack.OptionBlockObject, initial *slack.OptionBlockObject) *slack.SelectBlockElement {
	return &slack.SelectBlockElement{Type: slack.OptTypeStatic, ActionID: "value", Options: options, InitialOption: initial}
}

func option(value, label string) *slack.OptionBlockObject {
	return slack.NewOptionBlockObject(value, plain(text.Cut(label, 75)), nil)
}

// wish is what somebody typed after the command.
type wish struct {
	cluster, profile string
	ttl              time.Duration
	reason           string
	unknown          string // a first word that names nothing they may ask for
}

// parseWish reads "[cluster|profile] [time] [reason]". It decides nothing: everything can be corrected in the form.
func parseWish(text string, offers []policy.ProfileOnCluster) wish {
	var w wish
	word, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
	switch {
	case slices.ContainsFunc(offers, func(o policy.ProfileOnCluster) bool { return o.Cluster.ID == word }):
		w.cluster = word
	case slices.ContainsFunc(offers, func(o policy.ProfileOnCluster) bool { return o.Profile.ID == word }):
		w.profile = word
	default:
		rest = strings.TrimSpace(text)
		if next, _, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(rest, word)), " "); word != "" && asDuration(next) > 0 {
			w.unknown, rest = word, strings.TrimSpace(strings.TrimPrefix(rest, word))
		}
	}
	rest = strings.TrimSpace(rest)
	if first, after, _ := strings.Cut(rest, " "); asDuration(first) > 0 {
		w.ttl, rest = asDuration(first), strings.TrimSpace(after)
	}
	w.reason = rest
	return w
}

func asDuration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0
	}
	return d
}

// ask is the form that opens a request. The person may ask for at least one of the offers.
func (v render) ask(offers []policy.ProfileOnCluster, w wish) slack.ModalViewRequest {
	var what []*slack.OptionBlockObject
	var chosen *slack.OptionBlockObject
	var longest time.Duration
	var preview []string
	for _, o := range offers {
		longest = max(longest, o.Profile.TTL.Max)
		wished := w.cluster == o.Cluster.ID || w.profile == o.Profile.ID
		if len(what) < maxOptions || wished && chosen == nil {
			opt := option(o.Profile.ID+"/"+o.Cluster.ID, o.Profile.ID+" on "+o.Cluster.ID)
			if o.Profile.Description != "" {
				opt.Description = plain(text.Cut(o.Profile.Description, 75))
			}
			if len(what) == maxOptions {
				what[maxOptions-1] = opt
			} else {
				what = append(what, opt)
			}
			if wished && chosen == nil {
				chosen = opt
			}
		}
		q := v.policy.Freeze(o.Profile)
		nobody := &breakglass.Request{Ask: breakglass.Requested{Quorum: q}}
		needs := fmt.Sprintf("%s: %s · default %s, at most %s · %s", o.Profile.ID, strings.Join(nobody.Missing(), " and "),
			text.Span(o.Profile.TTL.Default), text.Span(o.Profile.TTL.Max), o.Profile.Rights)
		if len(o.Profile.Guards) > 0 {
			needs += " · cannot: " + cannot(o.Profile.Guards)
		}
		if !slices.Contains(preview, needs) {
			preview = append(preview, needs)
		}
	}
	if len(offers) == 1 {
		chosen = what[0]
	}
	usual := option("0", "the profile's default")
	ttl, ttlChosen := []*slack.OptionBlockObject{usual}, usual
	choices := []time.Duration{5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour,
		8 * time.Hour, 12 * time.Hour, 24 * time.Hour}
	if w.ttl > 0 && !slices.Contains(choices, w.ttl) {
		choices = append(choices, w.ttl)
		slices.Sort(choices)
	}
	for _, d := range choices {
		if d > longest && d != w.ttl {
			continue
		}
		opt := option(d.String(), text.Span(d))
		if d == w.ttl {
			ttlChosen = opt
		}
		ttl = append(ttl, opt)
	}
	var blocks []slack.Block
	if w.unknown != "" {
		blocks = append(blocks, section("unknown", plain("There is nothing called “"+text.Cut(w.unknown, 60)+
			"” that you may ask for. Please choose.")))
	}
	const shown = 12
	lines := preview
	if len(lines) > shown {
		lines = append(slices.Clone(lines[:shown]), "… see all: breakglass profiles")
	}
	for i := range lines {
		lines[i] = text.Cut(lines[i], 230) // 12 of them fit into one text of 3000
	}
	incidentHint, incidentOptional := "", true
	if len(offers) == 1 {
		incidentOptional = !offers[0].Profile.Incident.Required
		if p := offers[0].Profile.Incident.Pattern; p != nil {
			incidentHint = text.Cut("Looks like "+p.String(), 150)
		}
	}
	blocks = append(blocks,
		input(blockWhat, "Access", "", false, selectInput(what, chosen)),
		input(blockTTL, "For how long", "Counted from the pickup, not from now.", false, selectInput(ttl, ttlChosen)),
		input(blockIncident, "Incident", incidentHint, incidentOptional, textInput("", breakglass.MaxIncident, false)),
		input(blockReason, "What is broken?", "For the people who must approve it. Do not write secrets here.", false,
			textInput(w.reason, record.MaxReason, true)),
		section("needs", plain(text.Cut("Who must approve (you cannot):\n"+strings.Join(lines, "\n"), 3000))))
	return modal(formAsk, "Ask for access", "Ask", "", blocks)
}

// review shows all of a request to one person, and what that person can do with it.
func (v render) review(r *breakglass.Request, person string) slack.ModalViewRequest {
	t := target{r.ID, r.Digest}.String()
	blocks := v.facts(r)
	switch {
	case !open(r.State(v.now)):
		return modal("", "Request", "", "", blocks)
	case slices.ContainsFunc(r.Approvals, func(a policy.Approval) bool { return a.By.Person == person }):
		blocks = append(blocks, section("effect", plain("You have approved this. Until it is picked up you can take that back.")))
		return modal(formTakeBack, "Your approval", "Take back my approval", t, blocks)
	case !slices.Contains(r.Ask.Quorum.Channels, record.ChannelSlack):
		blocks = append(blocks, section("effect", mrkdwn("This profile takes approvals signed with an SSH key only. On your own machine: "+
			typed("approve", nil, r.ID))))
		return modal("", "Review access", "", "", blocks)
	}
	effect := "Approving lets " + text.Clean(v.fullName(r.Ask.By.Person)) + " use " + r.Ask.Profile + " on " + r.Ask.Cluster + " for " +
		"" + text.Span(r.TTL()) + ": exactly this, digest " +
		r.Digest[:min(12, len(r.Digest))] + "."
	if r.Ask.Risk != policy.RiskLow {
		effect += " Speak with " + r.Ask.By.Person + " first: is it really them, and is there no other way?"
	}
	blocks = append(blocks, section("effect", plain(effect)), input(blockComment, "Comment", "", true,
		textInput("", breakglass.MaxComment, false)))
	return modal(formApprove, "Approve access", text.Cut("Approve "+r.Ask.Profile, maxSubmit), t, blocks)
}

// deny asks for the reason of a denial.
func (v render) deny(r *breakglass.Request) slack.ModalViewRequest {
	return v.because(formDeny, "Deny access", "Deny", "Why not?", r, v.facts(r))
}

// revoke says what a revocation reaches and what it does not, and asks for its reason.
func (v render) revoke(r *breakglass.Request) slack.ModalViewRequest {
	does, not := "Ends it before it is picked up: no certificate comes of it.", "Nothing is left to be reached: no certificate exists."
	if r.Issued != nil {
		does = "Takes the right away in the cluster at once."
		if !r.Ask.Rights.Binding() {
			does = "Tells the deny webhook to refuse this certificate from now on."
		}
		if care := r.Ask.Aftercare; care != nil && care.Prove {
			does += " Then every API server is asked until it refuses, and the thread says how long each took."
		}
		until := r.Issued.NotAfter.UTC().Format("2006-01-02 15:04 UTC")
		not = "• what runs already: a watch, exec, attach or port-forward goes on until it ends\n" +
			"• what was made with it meanwhile: tokens, certificates, bindings\n" +
			"• whatever asks only the CA, as a kubelet may: Kubernetes checks no revocation list, so there the certificate stays valid until " +
			until
		if !r.Ask.Rights.Binding() {
			not = "• group mode: an API server that does not ask the deny webhook lets it in until " + until + "\n" + not
		}
	}
	return v.because(formRevoke, "Revoke access", "Revoke", "Why?", r, append(v.facts(r),
		section("does", plain("What revoking does\n"+does)), section("not", plain("What it does not reach\n"+not))))
}

// because asks for the reason of a denial or a revocation.
func (v render) because(callback, title, submit, label string, r *breakglass.Request, blocks []slack.Block) slack.ModalViewRequest {
	blocks = append(blocks, input(blockReason, label, "It is told to "+r.Ask.By.Person+" and recorded.", false,
		textInput("", record.MaxReason, true)))
	return modal(callback, title, submit, target{r.ID, r.Digest}.String(), blocks)
}

// acknowledge shows what a grant left behind, and lets a second person say that they have seen exactly that. The request has
// been swept.
func (v render) acknowledge(r *breakglass.Request) slack.ModalViewRequest {
	blocks := v.facts(r)
	if len(r.Swept.Items) > 0 {
		blocks = append(blocks, residues(r.Swept, maxListed)...)
	} else {
		blocks = append(blocks, section("left", plain("Nothing left behind was found.")))
	}
	blocks = append(blocks, unseen(r.Swept.Gaps)...)
	if !r.Unacknowledged() {
		return modal("", "Left behind", "", "", blocks)
	}
	blocks = append(blocks, section("effect", plain("Acknowledging says that you have seen this. It removes nothing: what must go is "+
		"removed by hand, and "+text.Command("breakglass sweep", nil, r.ID)+" looks again.")),
		seenNote(r))
	return modal(formSeen, "Left behind", "Acknowledge", target{r.ID, r.Swept.Digest()}.String(), blocks)
}

// seenNote asks what became of what was left behind. Where something critical is still there, it asks why that may stay, and takes no
// silence for an answer.
func seenNote(r *breakglass.Request) slack.Block {
	if r.Swept.Critical() > 0 {
		return input(blockNote, "Why may it stay?", "Or what was done about it. It is recorded.", false, textInput("", record.MaxNote, true))
	}
	return input(blockNote, "Note", "What was done about it, or why it may stay. It is recorded.", true, textInput("", record.MaxNote,
		true))
}

// closing asks for the closing note, or shows the one that was written.
func (v render) closing(r *breakglass.Request) slack.ModalViewRequest {
	blocks := v.facts(r)
	if r.Closed != nil {
		blocks = append(blocks, section("", plain("The closing note:")), quote("note", r.Closed.Reason, r.ID))
		return modal("", "Closing note", "", "", blocks)
	}
	in := textInput("", record.MaxNote, true)
	in.MinLength = record.MinNote
	blocks = append(blocks, input(blockNote, "What was done, and what is left to do?",
		"It is shown in the thread and recorded. Do not write secrets here.", false, in))
	return modal(formClose, "Closing note", "Close", target{r.ID, r.Digest}.String(), blocks)
}

// notice is a form's answer when there is nothing left to fill in.
func notice(title, text string) slack.ModalViewRequest {
	return modal("", title, "", "", []slack.Block{section("notice", plain(clipText(text)))})
}

// clipText bounds a sentence to what fits into a text object.
func clipText(s string) string { return text.Cut(s, 2900) }

// help says what the command can do.
func (v render) help() message {
	c := "`" + v.command
	return message{text: "How to ask for emergency access", blocks: []slack.Block{
		section("ask", mrkdwn("*Ask for emergency access*\n"+c+"` opens the form; "+c+
			" prod-eu-1 30m etcd lost its quorum` opens it filled in. Nothing is asked for before you send the form.")),
		section("then", mrkdwn("*Then*\nTwo other people approve in the channel or with their SSH keys. You get a private message, and pick "+
			"the certificate up on your own machine: `breakglass claim ID`. No key or certificate ever passes through Slack.")),
		section("look", mrkdwn("*Look*\n"+c+" list` shows what is open, "+c+" status ID` one request, "+c+
			" touched` what was not closed or acknowledged yet.")),
		section("end", mrkdwn("*End it*\n"+c+" revoke ID` ends a grant before its time. "+c+
			" close ID` writes the closing note: what was done, and what is left to do.")),
		section("down", mrkdwn("*When Slack is down*\nEverything works without it, with an SSH key from the access policy: `breakglass "+
			"request`, `breakglass approve ID`, `breakglass claim ID`.")),
	}}
}
