package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/record"
)

// Rights is what a profile gives. Exactly one of ClusterRole, Role and Group is set. Group selects group mode: the
// certificate carries the group and nothing is written to the cluster. With Namespaces the right holds there only.
type Rights struct {
	ClusterRole string   `json:"clusterRole,omitempty" yaml:"clusterRole"`
	Role        string   `json:"role,omitempty" yaml:"role"`
	Namespaces  []string `json:"namespaces,omitempty" yaml:"namespaces"`
	Group       string   `json:"group,omitempty" yaml:"group"`
}

// Binding reports whether the rights come from a binding that is made for each grant (binding mode).
func (r Rights) Binding() bool { return r.Group == "" }

// String says the rights in words for messages.
func (r Rights) String() string {
	s := "group " + r.Group
	switch {
	case r.ClusterRole != "":
		s = "ClusterRole " + r.ClusterRole
	case r.Role != "":
		s = "Role " + r.Role
	}
	if len(r.Namespaces) > 0 {
		s += " in " + record.JoinAnd(r.Namespaces)
	}
	return s
}

// FrozenTeam is a team as it was when the request was made.
type FrozenTeam struct {
	ID      string   `json:"id"`
	Members []string `json:"members"` // person ids, sorted
}

// Quorum is who must approve, frozen into the request when it is made.
type Quorum struct {
	Count    int              `json:"count"`          // distinct people, never below MinQuorum
	From     []FrozenTeam     `json:"from"`           // whose members' approvals count
	Each     []FrozenTeam     `json:"each,omitempty"` // at least one approval from each of these
	Channels []record.Channel `json:"channels"`       // approvals by another channel do not count
}

// Loaded records the access policy in force from here on.
type Loaded struct {
	Digest  string          `json:"digest"`
	Changes []string        `json:"changes,omitempty"` // what differs from the policy before, in words
	Quorums []ProfileQuorum `json:"quorums"`           // of profiles that are gone: what they last asked for; in policy-loaded/v1 of all
	Teams   []FrozenTeam    `json:"teams"`             // in policy-loaded/v1: who is in which team
	Weaker  bool            `json:"weaker,omitempty"`  // an operator accepted a policy weaker than the one before

	// see WhyFirst and the others; from policy-loaded/v2 on, which has the policy's file as its texts
	Why      string `json:"why,omitempty"`
	Base     string `json:"base,omitempty"`     // digest of the policy before
	Proposal string `json:"proposal,omitempty"` // with WhySigned: digest of the leaf that proposed it
}

// ProfileQuorum is the part of a profile that must not get weaker unnoticed.
type ProfileQuorum struct {
	Profile  string           `json:"profile"`
	Count    int              `json:"count"`
	From     []string         `json:"from"`
	Each     []string         `json:"each,omitempty"`
	Channels []record.Channel `json:"channels"`
	Guards   []Guard          `json:"guards,omitempty"`
}

// Kind is as that of every record.Event.
func (Loaded) Kind() string { return "policy-loaded/v2" }

// Approval is one live approval: taken-back ones are gone from a Request.
type Approval struct {
	By      record.Actor
	At      time.Time
	Comment string // empty when none was given or it was erased
	Signed  bool   // by an SSH key over the request's digest
}

// Missing is the quorum rule: Count distinct people out of From, and at least one out of each team in Each.
func (q Quorum) Missing(approvals []Approval) []string {
	people := map[string]bool{}
	for _, a := range approvals {
		if q.Counts(a.By.Person) && slices.Contains(q.Channels, a.By.Channel) {
			people[a.By.Person] = true
		}
	}
	var out []string
	short := max(q.Count, MinQuorum) - len(people)
	for _, t := range q.Each {
		if !slices.ContainsFunc(t.Members, func(m string) bool { return people[m] }) {
			out = append(out, "one of "+t.ID)
			short--
		}
	}
	if short > 0 {
		ids := make([]string, len(q.From))
		for i, t := range q.From {
			ids[i] = t.ID
		}
		if len(out) > 0 {
			return append(out, fmt.Sprintf("%d more of %s", short, strings.Join(ids, ", ")))
		}
		return append(out, fmt.Sprintf("%d of %s", short, strings.Join(ids, ", ")))
	}
	return out
}

// Counts reports whether the person's approval can count.
func (q Quorum) Counts(person string) bool {
	in := func(t FrozenTeam) bool { return slices.Contains(t.Members, person) }
	return slices.ContainsFunc(q.From, in) || slices.ContainsFunc(q.Each, in)
}

// People lists everybody whose approval can count, sorted.
func (q Quorum) People() []string {
	var out []string
	for _, t := range slices.Concat(q.From, q.Each) {
		out = append(out, t.Members...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// The prefixes of names that only we give out. Nothing else that signs people in to a cluster may give out such a name.
const (
	CommonNamePrefix = "breakglass:"        // of users and of groups
	CanaryPrefix     = "breakglass-canary:" // of the certificates that prove the path and have no rights
)
