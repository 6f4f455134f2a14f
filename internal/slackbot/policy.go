package slackbot

import (
	"strings"

	"github.com/slack-go/slack"

	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/text"
)

// policyLine is what the channel reads about a change of the access policy. The first policy of a ledger is no change.
func policyLine(ev record.Event) (message, bool) {
	switch ev := ev.(type) {
	case policy.Proposed:
		return policyMessage(":scales:", "A change of the access policy waits for two people. It adds or eases:", ev.Changes,
			"Two people of the team that the policy names: "+approvePolicy(ev.Digest)), true
	case policy.Signed:
		return policyMessage(":lower_left_fountain_pen:", escape(ev.By.Person)+" signed the access policy "+shortDigest(ev.Digest), nil, ""), true
	case policy.Loaded:
		switch ev.Why {
		case policy.WhyAccepted:
			return policyMessage(":rotating_light:", "An operator put an access policy in force that no two people have agreed to "+
				"(--accept-weaker):", ev.Changes, "If it is meant, two people of the team that it names confirm it: "+approvePolicy(ev.Digest)), true
		case policy.WhySigned:
			return policyMessage(":scales:", "The access policy has changed; two people have signed it:", ev.Changes, ""), true
		case policy.WhyLess:
			return policyMessage(":scales:", "The access policy has changed; this only takes away:", ev.Changes, ""), true
		case policy.WhyFile:
			return policyMessage(":scales:", "The access policy has changed; it names no team that must agree:", ev.Changes, ""), true
		}
	}
	return message{}, false
}

func approvePolicy(digest string) string { return typed("policy approve", nil, shortDigest(digest)) }

func shortDigest(digest string) string { return escape(digest[:min(12, len(digest))]) }

// policyMessage has the first changes, in which Slack interprets nothing; breakglass policy diff has all of them.
func policyMessage(mark, head string, changes []string, next string) message {
	const most, each = 20, 140 // fit into one text of 3000
	m := message{text: strings.Trim(head, ":"), blocks: []slack.Block{section("", mrkdwn(mark+" *"+head+"*"))}}
	var lines []string
	for i, c := range changes {
		if i == most {
			lines = append(lines, "• and more: breakglass policy diff")
			break
		}
		lines = append(lines, "• "+text.Cut(text.Clean(c), each))
	}
	if len(lines) == 0 && strings.HasSuffix(head, ":") {
		lines = []string{"• the wording of the file alone: no right, person or rule"}
	}
	if len(lines) > 0 {
		m.blocks = append(m.blocks, section("", plain(strings.Join(lines, "\n"))))
	}
	if next != "" {
		m.blocks = append(m.blocks, section("", mrkdwn(next)))
	}
	return m
}

// about names what an entry is about, for logs.
func about(n entry) string {
	if n.Request == nil {
		return "the access policy"
	}
	return n.Request.ID
}
