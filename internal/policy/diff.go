package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/text"
)

// Diff says in words what changes from one policy to another, sorted, for the ledger and for people. Order in the file and
// comments are no changes. Names and descriptions are said to change, not to what: the ledger keeps ids only.
func Diff(old, new *Policy) []string {
	var c changes
	compare(&c, kindPerson, old.People, new.People, func(p *Person) string { return p.ID }, func(where string, a, b *Person) {
		if a == nil {
			c.say("%s added", where)
			a = &Person{Name: b.Name}
		}
		c.text(where+": name", a.Name, b.Name)
		c.set(where+partAccount, words(a.Slack, slackWords), words(b.Slack, slackWords))
		c.set(where+partKey, words(a.Keys, fingerprintOf), words(b.Keys, fingerprintOf))
		c.set(where+": user", a.Users, b.Users)
		c.set(where+": group", a.Groups, b.Groups)
	})
	compare(&c, kindTeam, old.Teams, new.Teams, func(t *Team) string { return t.ID }, func(where string, a, b *Team) {
		if a == nil {
			c.say("%s added", where)
			a = &Team{}
		}
		c.set(where+partMember, a.Members, b.Members)
	})
	compare(&c, "cluster", old.Clusters, new.Clusters, func(x *Cluster) string { return x.ID }, func(where string, a, b *Cluster) {
		if a == nil {
			c.say("%s added: %s", where, b.Server)
			return
		}
		c.value(where+": server", a.Server, b.Server)
	})
	compare(&c, "profile", old.Profiles, new.Profiles, func(p *Profile) string { return p.ID }, c.profile)
	c.value("limits: openPerPerson", strconv.Itoa(old.Limits.OpenPerPerson), strconv.Itoa(new.Limits.OpenPerPerson))
	c.value("limits: perHour", strconv.Itoa(old.Limits.PerHour), strconv.Itoa(new.Limits.PerHour))
	c.set("responders:", old.Responders, new.Responders)
	c.value("closing.within", text.Span(old.Closing.Within), text.Span(new.Closing.Within))
	c.value("closing.raiseQuorum", strconv.FormatBool(old.Closing.RaiseQuorum), strconv.FormatBool(new.Closing.RaiseQuorum))
	c.set("recertification.reviewers:", old.Campaign.Reviewers, new.Campaign.Reviewers)
	c.value("recertification.adminReviewers", strconv.Itoa(old.Campaign.AdminReviewers), strconv.Itoa(new.Campaign.AdminReviewers))
	c.value("recertification.deadline", strconv.Itoa(old.Campaign.DeadlineDays)+"d", strconv.Itoa(new.Campaign.DeadlineDays)+"d")
	c.value("policy.approvers", cmp.Or(old.Change.Approvers, "nobody"), cmp.Or(new.Change.Approvers, "nobody"))
	c.value("policy.cooling", text.Span(old.Change.Cooling), text.Span(new.Change.Cooling))
	c.text("policy.reviewedBy", old.Change.ReviewedBy, new.Change.ReviewedBy)
	slices.Sort(c)
	return c
}

// Weaker says in words what the new policy would accept although the one before would not: fewer people, a team that no
// longer must agree, one more channel, a guard that is gone. Profiles that come or go are not weaker: nobody had agreed to less.
func Weaker(old []ProfileQuorum, new *Policy) []string {
	var c changes
	for _, was := range old {
		is, ok := new.Profile(was.Profile)
		if !ok {
			continue
		}
		where := "profile " + was.Profile
		if is.Approvals.Count < was.Count {
			c.value(where+": approvals.count", strconv.Itoa(was.Count), strconv.Itoa(is.Approvals.Count))
		}
		for _, t := range was.Each {
			if !slices.Contains(is.Approvals.Each, t) {
				c.say("%s: approvals.each: %s removed", where, t)
			}
		}
		for _, t := range is.Approvals.From {
			if was.From != nil && !slices.Contains(was.From, t) && !slices.Contains(was.Each, t) {
				c.say("%s: approvals.from: %s added", where, t)
			}
		}
		for _, ch := range is.Approvals.Channels {
			if !slices.Contains(was.Channels, ch) {
				c.say("%s: approvals.channels: %s added", where, ch)
			}
		}
		for _, g := range was.Guards {
			if !slices.Contains(is.Guards, g) {
				c.say("%s: guards: %s removed", where, g)
			}
		}
	}
	slices.Sort(c)
	return c
}

// The words that a reader of changes goes by. They are in ledgers: they stay as they are.
const (
	kindPerson  = "person"
	kindTeam    = "team"
	partKey     = ": key"
	partAccount = ": slack account"
	partMember  = ":"
	wordAdded   = " added"
	wordRemoved = " removed"
)

// An Element of the policy is one thing that Diff says was added or removed, under the name that it has there.
type Element string

// KeyElement is an SSH key of a person, by its fingerprint.
func KeyElement(person, fingerprint string) Element {
	return Element(kindPerson + " " + person + partKey + " " + fingerprint)
}

// AccountElement is a Slack account of a person.
func AccountElement(person string, a record.SlackAccount) Element {
	return Element(kindPerson + " " + person + partAccount + " " + slackWords(a))
}

// MemberElement is a person's place in a team.
func MemberElement(team, person string) Element {
	return Element(kindTeam + " " + team + partMember + " " + person)
}

// Changes are the sentences of Diff, as the ledger keeps them.
type Changes []string

// Added reports whether an element came with these changes.
func (c Changes) Added(e Element) bool { return slices.Contains(c, string(e)+wordAdded) }

// Removed reports whether an element went with these changes.
func (c Changes) Removed(e Element) bool { return slices.Contains(c, string(e)+wordRemoved) }

// changes collects sentences.
type changes []string

func (c *changes) say(text string, args ...any) { *c = append(*c, fmt.Sprintf(text, args...)) }

func (c *changes) value(what, a, b string) {
	if a != b {
		c.say("%s %s → %s", what, a, b)
	}
}

func (c *changes) text(what, a, b string) {
	if a != b {
		c.say("%s changed", what)
	}
}

func (c *changes) set(what string, a, b []string) {
	for _, x := range a {
		if !slices.Contains(b, x) {
			c.say("%s %s"+wordRemoved, what, x)
		}
	}
	for _, x := range b {
		if !slices.Contains(a, x) {
			c.say("%s %s"+wordAdded, what, x)
		}
	}
}

func (c *changes) profile(where string, a, b *Profile) {
	if a == nil {
		s := fmt.Sprintf("%s added: %v on %s for %s, approved by %d of %s", where, b.Rights, record.JoinAnd(b.Clusters),
			record.JoinAnd(b.Requesters),
			b.Approvals.Count, record.JoinAnd(b.Approvals.From))
		if len(b.Approvals.Each) > 0 {
			s += " with each of " + record.JoinAnd(b.Approvals.Each)
		}
		c.say("%s by %s", s, record.JoinAnd(words(b.Approvals.Channels, channelWord)))
		return
	}
	c.text(where+": description", a.Description, b.Description)
	c.value(where+": bind", a.Rights.String(), b.Rights.String())
	c.set(where+": clusters:", a.Clusters, b.Clusters)
	c.set(where+": requesters:", a.Requesters, b.Requesters)
	c.value(where+": approvals.count", strconv.Itoa(a.Approvals.Count), strconv.Itoa(b.Approvals.Count))
	c.set(where+": approvals.from:", a.Approvals.From, b.Approvals.From)
	c.set(where+": approvals.each:", a.Approvals.Each, b.Approvals.Each)
	c.set(where+": approvals.channels:", words(a.Approvals.Channels, channelWord), words(b.Approvals.Channels, channelWord))
	for _, d := range []struct {
		key  string
		a, b time.Duration
	}{
		{"ttl.default", a.TTL.Default, b.TTL.Default},
		{"ttl.max", a.TTL.Max, b.TTL.Max},
		{"claimWithin", a.ClaimWithin, b.ClaimWithin},
		{"pendingFor", a.PendingFor, b.PendingFor},
	} {
		c.value(where+": "+d.key, text.Span(d.a), text.Span(d.b))
	}
	c.value(where+": reason.min", strconv.Itoa(a.ReasonMin), strconv.Itoa(b.ReasonMin))
	c.value(where+": incident.required", strconv.FormatBool(a.Incident.Required), strconv.FormatBool(b.Incident.Required))
	c.value(where+": incident.pattern", patternWords(a.Incident), patternWords(b.Incident))
	c.value(where+": risk", string(a.Risk), string(b.Risk))
	c.set(where+": guards:", words(a.Guards, guardWord), words(b.Guards, guardWord))
}

// compare pairs things by id: those that are gone are said to be removed, the others go to changed, with a nil first one when
// they are new.
func compare[T any](c *changes, kind string, old, new []T, id func(*T) string, changed func(where string, a, b *T)) {
	for i := range old {
		if _, kept := find(new, func(x *T) bool { return id(x) == id(&old[i]) }); !kept {
			c.say("%s %s removed", kind, id(&old[i]))
		}
	}
	for i := range new {
		was, _ := find(old, func(x *T) bool { return id(x) == id(&new[i]) })
		changed(kind+" "+id(&new[i]), was, &new[i])
	}
}

func words[T any](list []T, word func(T) string) []string {
	out := make([]string, len(list))
	for i, x := range list {
		out[i] = word(x)
	}
	return out
}

func channelWord(c record.Channel) string { return string(c) }

func guardWord(g Guard) string { return string(g) }

func fingerprintOf(k Key) string { return k.Fingerprint }

// slackWords is an account as the changes of a policy name it.
func slackWords(a record.SlackAccount) string {
	return strings.TrimPrefix(a.Enterprise+"/"+a.Team+"/"+a.User, "/")
}

func patternWords(r IncidentRule) string {
	if r.Pattern == nil {
		return "none"
	}
	return r.Pattern.String()
}
