package record

import (
	"slices"
)

// Channel is the way by which a person gave a command.
type Channel string

// The channels.
const (
	ChannelSlack Channel = "slack" // a signed request from Slack
	ChannelKey   Channel = "key"   // the command line, signed in with an SSH key
)

// SlackAccount is a Slack identity. Names and e-mail addresses are never identities: they can be changed by their owner.
type SlackAccount struct {
	Enterprise string `json:"enterprise,omitempty" yaml:"enterprise"`
	Team       string `json:"team" yaml:"team"`
	User       string `json:"user" yaml:"user"`
}

// Actor is who gives a command, authenticated by the adapter that received it. Person is the directory id from the access
// policy and is empty when the account or key belongs to nobody there: such an actor may do nothing, and the try is recorded.
type Actor struct {
	Person  string        `json:"person,omitempty"`
	Channel Channel       `json:"channel"`
	Slack   *SlackAccount `json:"slack,omitempty"` // set for ChannelSlack
	Key     string        `json:"key,omitempty"`   // SHA256:… fingerprint of the SSH key, set for ChannelKey
}

// JoinAnd joins words as a sentence does: "a, b and c".
func JoinAnd(s []string) string {
	switch len(s) {
	case 0:
		return ""
	case 1:
		return s[0]
	}
	s = slices.Clone(s)
	last := len(s) - 1
	out := s[0]
	for _, x := range s[1:last] {
		out += ", " + x
	}
	return out + " and " + s[last]
}

// Is reports whether the account is the one that a policy names; the enterprise counts where the policy has it.
func (a SlackAccount) Is(own SlackAccount) bool {
	return own.Team == a.Team && own.User == a.User && (own.Enterprise == "" || own.Enterprise == a.Enterprise)
}
