package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/breakglassd/breakglass/internal/record"
)

// Restrict returns what both policies allow: the one in force without everything that the new one takes away. Whatever the new one
// adds, eases or says otherwise stays as it is in force, and so do names and descriptions, which approvers read, and the user names
// and groups of a person in clusters, which say whose access it is that a reviewer judges. A change only takes
// away exactly if Restrict makes the new policy of the one in force. The result is no whole policy: it has neither text nor digest,
// and it may break a rule of Parse; see [Policy.Render].
func Restrict(old, new *Policy) *Policy {
	p := *old
	p.Digest, p.text, p.find = "", nil, lookup{}
	p.People = nil
	for _, a := range old.People {
		b, ok := new.Person(a.ID)
		if !ok {
			continue
		}
		a.Slack = bothAccounts(a.Slack, b.Slack)
		a.Keys = both(a.Keys, b.Keys, func(x, y Key) bool { return x.Fingerprint == y.Fingerprint })
		if len(a.Slack)+len(a.Keys) > 0 {
			p.People = append(p.People, a)
		}
	}
	p.Clusters = both(old.Clusters, new.Clusters, func(x, y Cluster) bool { return x.ID == y.ID })
	p.Profiles = nil
	for _, a := range old.Profiles {
		if b, ok := new.Profile(a.ID); ok {
			a = restrictProfile(old, new, a, *b)
			a.Clusters = slices.DeleteFunc(a.Clusters, func(id string) bool { _, ok := p.Cluster(id); return !ok })
			if len(a.Clusters) > 0 && len(a.Requesters) > 0 {
				p.Profiles = append(p.Profiles, a)
			}
		}
	}
	p.Limits = Limits{OpenPerPerson: min(old.Limits.OpenPerPerson, new.Limits.OpenPerPerson), PerHour: min(old.Limits.PerHour,
		new.Limits.PerHour)}
	p.Responders = both(old.Responders, new.Responders, same)
	p.Closing = ClosingRule{Within: leastSet(old.Closing.Within, new.Closing.Within), RaiseQuorum: old.Closing.RaiseQuorum ||
		new.Closing.RaiseQuorum}
	// A reviewer can take people's eligibility away, and reads everything: the first reviewers wait as every later one does.
	if a, b := old.Campaign, new.Campaign; len(a.Reviewers) > 0 && len(b.Reviewers) > 0 {
		p.Campaign = CampaignRule{Reviewers: orElse(both(a.Reviewers, b.Reviewers, same), a.Reviewers),
			AdminReviewers: max(a.AdminReviewers, b.AdminReviewers),
			DeadlineDays:   min(a.DeadlineDays, b.DeadlineDays)}
	}
	if old.Change.Approvers == "" && new.Change.Approvers != "" {
		p.Change.Approvers, p.Change.ReviewedBy = new.Change.Approvers, ""
	}
	p.Change.Cooling = max(old.Change.Cooling, new.Change.Cooling)
	p.Teams = restrictTeams(&p, old, new)
	return &p
}

// restrictTeams takes members away, and teams that nothing needs any more. A team that is gone from the new policy stays while a
// rule that holds until two people have agreed still names it.
func restrictTeams(p, old, new *Policy) []Team {
	var out []Team
	add := func(t Team, members []string) {
		members = slices.DeleteFunc(slices.Clone(members), func(id string) bool { _, ok := p.Person(id); return !ok })
		if len(members) > 0 {
			out = append(out, Team{ID: t.ID, Members: members})
		}
	}
	for _, a := range old.Teams {
		b, stays := new.Team(a.ID)
		switch {
		case stays:
			add(a, both(a.Members, b.Members, same))
		case slices.Contains(p.namedTeams(), a.ID):
			add(a, a.Members)
		}
	}
	// Only what makes a rule stricter brings in a team that was not there: one that must agree, or approvers of changes.
	for _, b := range new.Teams {
		if _, was := old.Team(b.ID); !was && slices.Contains(p.namedTeams(), b.ID) {
			add(b, b.Members)
		}
	}
	p.Responders = slices.DeleteFunc(slices.Clone(p.Responders), func(id string) bool {
		return !slices.ContainsFunc(out, func(t Team) bool { return t.ID == id })
	})
	return out
}

// namedTeams is every team that a rule names.
func (p *Policy) namedTeams() []string {
	out := slices.Concat(p.Responders, p.Campaign.Reviewers, []string{p.Change.Approvers})
	for _, x := range p.Profiles {
		out = slices.Concat(out, x.Requesters, x.Approvals.From, x.Approvals.Each)
	}
	return out
}

func restrictProfile(old, new *Policy, a, b Profile) Profile {
	a.Clusters = both(a.Clusters, b.Clusters, same)
	if narrower(b.Rights, a.Rights) {
		a.Rights = b.Rights
	}
	a.TTL = Lifetime{Default: min(a.TTL.Default, b.TTL.Default, b.TTL.Max), Max: min(a.TTL.Max, b.TTL.Max)}
	a.Requesters = both(a.Requesters, b.Requesters, same)
	counted, people := slices.Concat(a.Approvals.From, a.Approvals.Each), old.Freeze(&a).People()
	// The members of a team that must agree count for the number as well: such a team only takes away if they counted before.
	each := slices.DeleteFunc(slices.Clone(b.Approvals.Each), func(t string) bool {
		return slices.ContainsFunc(new.Members([]string{t}), func(id string) bool { return !slices.Contains(people, id) })
	})
	from := slices.DeleteFunc(slices.Clone(b.Approvals.From), func(t string) bool { return !slices.Contains(counted, t) })
	a.Approvals = ApprovalRule{
		Count:    max(a.Approvals.Count, b.Approvals.Count),
		From:     orElse(from, a.Approvals.From),
		Each:     either(a.Approvals.Each, each),
		Channels: orElse(both(a.Approvals.Channels, b.Approvals.Channels, same), a.Approvals.Channels),
	}
	a.ClaimWithin = min(a.ClaimWithin, b.ClaimWithin)
	a.PendingFor = min(a.PendingFor, b.PendingFor)
	a.ReasonMin = max(a.ReasonMin, b.ReasonMin)
	a.Incident.Required = a.Incident.Required || b.Incident.Required
	if a.Incident.Pattern == nil {
		a.Incident.Pattern = b.Incident.Pattern
	}
	if riskRank(b.Risk) > riskRank(a.Risk) {
		a.Risk = b.Risk
		if a.Risk == RiskCritical {
			a.Approvals.Channels = []record.Channel{record.ChannelKey}
		}
	}
	a.Guards = slices.Sorted(slices.Values(either(a.Guards, b.Guards)))
	return a
}

func riskRank(r Risk) int { return slices.Index([]Risk{RiskLow, RiskHigh, RiskCritical}, r) }

// narrower reports whether a gives no right that b does not give, as far as their names tell. cluster-admin is every right.
func narrower(a, b Rights) bool {
	if a.Group != "" || b.Group != "" {
		return a.Group == b.Group
	}
	if b.ClusterRole == "cluster-admin" && len(b.Namespaces) == 0 {
		return true
	}
	if a.ClusterRole != b.ClusterRole || a.Role != b.Role {
		return false
	}
	return len(b.Namespaces) == 0 || len(a.Namespaces) > 0 && !slices.ContainsFunc(a.Namespaces,
		func(ns string) bool { return !slices.Contains(b.Namespaces, ns) })
}

// bothAccounts is what of a is also in b. An account that one of them binds to an organization is bound to it in the result.
func bothAccounts(a, b []record.SlackAccount) []record.SlackAccount {
	var out []record.SlackAccount
	for _, x := range a {
		for _, y := range b {
			if x.Is(y) || y.Is(x) {
				x.Enterprise = cmp.Or(x.Enterprise, y.Enterprise)
				out = append(out, x)
				break
			}
		}
	}
	return out
}

func same[T comparable](a, b T) bool { return a == b }

// both is what of a is also in b.
func both[T any](a, b []T, equal func(T, T) bool) []T {
	var out []T
	for _, x := range a {
		if slices.ContainsFunc(b, func(y T) bool { return equal(x, y) }) {
			out = append(out, x)
		}
	}
	return out
}

// either is a and what of b is not in it.
func either[T comparable](a, b []T) []T {
	out := slices.Clone(a)
	for _, x := range b {
		if !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

func orElse[T any](list, otherwise []T) []T {
	if len(list) == 0 {
		return otherwise
	}
	return list
}

// leastSet is the smaller of two durations of which zero is none.
func leastSet(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return cmp.Or(a, b)
	}
	return min(a, b)
}

// Eases says in words what a new policy adds or eases over the one in force: what two people must agree to. None means that it only
// takes away.
func Eases(old, new *Policy) []string {
	return Diff(Restrict(old, new), new)
}

// Render writes the policy as a file that Parse reads, every key written out. It fails if the policy breaks a rule.
func (p *Policy) Render() (*Policy, error) {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Written by breakglassd: the access policy that was in force before, without what the file on disk takes away.\nversion: " +
		"1\npeople:")
	for _, x := range p.People {
		line("  - id: %q\n    name: %q", x.ID, x.Name)
		if len(x.Slack) > 0 {
			line("    slack:")
		}
		for _, a := range x.Slack {
			if a.Enterprise != "" {
				line("      - {enterprise: %q, team: %q, user: %q}", a.Enterprise, a.Team, a.User)
			} else {
				line("      - {team: %q, user: %q}", a.Team, a.User)
			}
		}
		if len(x.Keys) > 0 {
			line("    keys:")
		}
		for _, k := range x.Keys {
			line("      - %q", strings.TrimSpace(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.Public)))+" "+k.Comment))
		}
		writeList(&b, "    users", x.Users)
		writeList(&b, "    groups", x.Groups)
	}
	line("teams:")
	for _, t := range p.Teams {
		line("  - id: %q", t.ID)
		writeList(&b, "    members", t.Members)
	}
	line("clusters:")
	for _, c := range p.Clusters {
		line("  - {id: %q, server: %q}", c.ID, c.Server)
	}
	line("profiles:")
	for _, x := range p.Profiles {
		x.render(&b)
	}
	line("limits: {openPerPerson: %d, perHour: %d}", p.Limits.OpenPerPerson, p.Limits.PerHour)
	writeList(&b, "responders", p.Responders)
	if p.Closing.Within > 0 {
		line("closing: {within: %s, raiseQuorum: %t}", p.Closing.Within, p.Closing.RaiseQuorum)
	}
	if len(p.Campaign.Reviewers) > 0 {
		line("recertification:")
		writeList(&b, "  reviewers", p.Campaign.Reviewers)
		line("  adminReviewers: %d\n  deadline: %dd", p.Campaign.AdminReviewers, p.Campaign.DeadlineDays)
	}
	line("policy:\n  cooling: %s", p.Change.Cooling)
	if p.Change.Approvers != "" {
		line("  approvers: %q", p.Change.Approvers)
	}
	if p.Change.ReviewedBy != "" {
		line("  reviewedBy: %q", p.Change.ReviewedBy)
	}
	return Parse("the access policy in force, without what the file takes away", []byte(b.String()))
}

func (x *Profile) render(b *strings.Builder) {
	line := func(format string, args ...any) { fmt.Fprintf(b, "    "+format+"\n", args...) }
	fmt.Fprintf(b, "  - id: %q\n", x.ID)
	if x.Description != "" {
		line("description: %q", x.Description)
	}
	writeList(b, "    clusters", x.Clusters)
	line("bind:")
	for _, f := range [][2]string{{"clusterRole", x.Rights.ClusterRole}, {"role", x.Rights.Role}, {"group", x.Rights.Group}} {
		if f[1] != "" {
			line("  %s: %q", f[0], f[1])
		}
	}
	writeList(b, "      namespaces", x.Rights.Namespaces)
	line("ttl: {default: %s, max: %s}", x.TTL.Default, x.TTL.Max)
	writeList(b, "    requesters", x.Requesters)
	line("approvals:\n      count: %d", x.Approvals.Count)
	writeList(b, "      from", x.Approvals.From)
	writeList(b, "      each", x.Approvals.Each)
	writeList(b, "      channels", words(x.Approvals.Channels, channelWord))
	line("claimWithin: %s", x.ClaimWithin)
	line("pendingFor: %s", x.PendingFor)
	line("reason: {min: %d}", x.ReasonMin)
	line("incident:\n      required: %t", x.Incident.Required)
	if x.Incident.Pattern != nil {
		line("  pattern: %q", x.Incident.Pattern.String())
	}
	line("risk: %s", x.Risk)
	writeList(b, "    guards", words(x.Guards, guardWord))
}

// writeList writes a key with a list, if it has anything.
func writeList(b *strings.Builder, key string, list []string) {
	if len(list) == 0 {
		return
	}
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = fmt.Sprintf("%q", s)
	}
	fmt.Fprintf(b, "%s: [%s]\n", key, strings.Join(quoted, ", "))
}
