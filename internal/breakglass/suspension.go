package breakglass

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/breakglassd/breakglass/internal/strictyaml"
)

// minRequesters is how many people must stay able to ask for a profile, where there are so many. Two, because one may be ill on
// the night of the emergency.
const minRequesters = 2

// suspensions is a set of eligibility that is taken away, each with the campaigns and items that hold it.
type suspensions map[Eligibility][]holding

func (s suspensions) has(e Eligibility) bool { _, is := s[e]; return is }

func setOf(list []holding) suspensions {
	set := suspensions{}
	for _, h := range list {
		set[h.Eligibility] = append(set[h.Eligibility], h)
	}
	return set
}

// reinstating is how it is given back: in every campaign that holds it.
func reinstating(held []holding) string {
	return joinAnd(words(held, func(h holding) string { return "breakglass recert reinstate " + h.campaign + " --item " + h.item }))
}

// suspending returns the policy with eligibility taken away. What would leave a profile with too few people for an emergency
// is not in force there, whoever decided it and whatever the policy was then: governance must not shut the emergency door.
func (p *Policy) suspending(list []holding) *Policy {
	after := *p
	after.suspended = suspensions{}
	all := setOf(list)
	for e := range all {
		if p.keepsFloor(e, all) {
			after.suspended[e] = all[e]
		}
	}
	return &after
}

// Suspended reports whether the person's part is taken away, and that is in force.
func (p *Policy) Suspended(e Eligibility) bool { return p.suspended.has(e) }

// Suspensions lists what is taken away and in force, sorted.
func (p *Policy) Suspensions() []Eligibility {
	return slices.SortedFunc(maps.Keys(p.suspended), compareEligibility)
}

func compareEligibility(a, b Eligibility) int {
	return cmp.Or(strings.Compare(a.Profile, b.Profile), strings.Compare(a.Cluster, b.Cluster),
		strings.Compare(string(a.Part), string(b.Part)),
		strings.Compare(a.Person, b.Person))
}

// keepsFloor reports whether, with all of the set suspended, enough people are left for the part that e is about: for approvers
// one more than the quorum, so that one may be unreachable, and for every requester a quorum without them; for requesters
// minRequesters, or all if there never were more. A profile or cluster that is gone has no floor.
func (p *Policy) keepsFloor(e Eligibility, set suspensions) bool {
	if !p.offers(e.Profile, e.Cluster) {
		return true
	}
	prof, _ := p.Profile(e.Profile)
	requesters := p.members(prof.Requesters)
	if e.Part == PartRequester {
		left := slices.DeleteFunc(slices.Clone(requesters), func(id string) bool {
			return set.has(Eligibility{Person: id, Part: PartRequester, Profile: e.Profile, Cluster: e.Cluster})
		})
		return len(left) >= min(minRequesters, len(requesters))
	}
	q := p.freezeWithout(prof, e.Cluster, set)
	able := slices.DeleteFunc(q.People(), func(id string) bool { return !p.able(id, q.Channels) })
	if len(able) < max(q.Count, MinQuorum)+1 {
		return false
	}
	return !slices.ContainsFunc(requesters, func(id string) bool { return !p.reachable(q, id) })
}

// offers reports whether a profile can be asked for on a cluster.
func (p *Policy) offers(profile, cluster string) bool {
	prof, ok := p.Profile(profile)
	return ok && slices.Contains(prof.Clusters, cluster)
}

// able reports whether a person has what it takes to approve by one of the channels.
func (p *Policy) able(id string, channels []Channel) bool {
	x, ok := p.Person(id)
	return ok && (len(x.Slack) > 0 && slices.Contains(channels, ChannelSlack) || len(x.Keys) > 0 && slices.Contains(channels, ChannelKey))
}

// FreezeOn is Freeze on one cluster: without approvers whose part there is suspended.
func (p *Policy) FreezeOn(prof *Profile, cluster string) Quorum {
	return p.freezeWithout(prof, cluster, p.suspended)
}

func (p *Policy) freezeWithout(prof *Profile, cluster string, set suspensions) Quorum {
	q := p.Freeze(prof)
	for _, teams := range [][]FrozenTeam{q.From, q.Each} {
		for i := range teams {
			teams[i].Members = slices.DeleteFunc(teams[i].Members, func(id string) bool {
				return set.has(Eligibility{Person: id, Part: PartApprover, Profile: prof.ID, Cluster: cluster})
			})
		}
	}
	return q
}

// notSuspended refuses a part that was taken away.
func (p *Policy) notSuspended(e Eligibility) error {
	if !p.Suspended(e) {
		return nil
	}
	return refuse(ClassDenied, "suspended", "two reviewers can give it back: "+reinstating(p.suspended[e]),
		"the recertification has suspended %s", e)
}

// suspendedSince says why what was approved may not be claimed: a part that was taken away meanwhile.
func suspendedSince(p *Policy, r *Request) error {
	if len(p.suspended) == 0 {
		return nil
	}
	if err := p.notSuspended(Eligibility{Person: r.Ask.By.Person, Part: PartRequester, Profile: r.Ask.Profile,
		Cluster: r.Ask.Cluster}); err != nil {
		return err
	}
	live := slices.DeleteFunc(slices.Clone(r.Approvals), func(a Approval) bool {
		return p.Suspended(Eligibility{Person: a.By.Person, Part: PartApprover, Profile: r.Ask.Profile, Cluster: r.Ask.Cluster})
	})
	if missing := r.Ask.Quorum.missing(live); len(missing) > 0 {
		return refuse(ClassPolicy, "suspended", "open a new request", "an approver of %s was suspended since: it now needs %s", r.ID,
			joinAnd(missing))
	}
	return nil
}

// everyEligibility lists who can do what by the policy as it is written, whatever is suspended, sorted.
func (p *Policy) everyEligibility() []Eligibility {
	var out []Eligibility
	for i := range p.Profiles {
		prof := &p.Profiles[i]
		for _, cluster := range prof.Clusters {
			for _, id := range p.members(prof.Requesters) {
				out = append(out, Eligibility{Person: id, Part: PartRequester, Profile: prof.ID, Cluster: cluster})
			}
			for _, id := range p.Freeze(prof).People() {
				out = append(out, Eligibility{Person: id, Part: PartApprover, Profile: prof.ID, Cluster: cluster})
			}
		}
	}
	slices.SortFunc(out, compareEligibility)
	return out
}

// EveryEligibility lists who can do what by the policy as it is written, whatever is suspended, each with the teams that it
// comes from, sorted.
func (p *Policy) EveryEligibility() []EligibilityFrom {
	var out []EligibilityFrom
	in := map[string]map[string]bool{} // by team and person
	for _, t := range p.Teams {
		in[t.ID] = map[string]bool{}
		for _, m := range t.Members {
			in[t.ID][m] = true
		}
	}
	for _, e := range p.everyEligibility() {
		prof, _ := p.Profile(e.Profile)
		teams := prof.Requesters
		if e.Part == PartApprover {
			teams = append(slices.Clone(prof.Approvals.From), prof.Approvals.Each...)
		}
		from := EligibilityFrom{Eligibility: e}
		for _, id := range teams {
			if in[id][e.Person] {
				from.Teams = append(from.Teams, id)
			}
		}
		slices.Sort(from.Teams)
		from.Teams = slices.Compact(from.Teams)
		out = append(out, from)
	}
	return out
}

// holder is who has the SSH key or the Slack account with an item's id, by the policy; empty: nobody, or the item is about something
// else. No scan proves such a thing gone, but the policy says whether it is.
func (p *Policy) holder(item string) string {
	for _, x := range p.People {
		has := slices.ContainsFunc(x.Keys, func(k Key) bool { return "key/"+k.Fingerprint == item })
		if has || slices.ContainsFunc(x.Slack, func(a SlackAccount) bool { return "slack/"+slackWords(a) == item }) {
			return x.ID
		}
	}
	return ""
}

// EligibilityFrom is an eligibility and the teams that give it.
type EligibilityFrom struct {
	Eligibility
	Teams []string
}

// CampaignRule says who recertifies, and by when.
type CampaignRule struct {
	Reviewers      []string // team ids
	AdminReviewers int      // people who must say keep to what equals cluster-admin; at least MinAdminReviewers
	DeadlineDays   int      // from the opening
}

// The bounds of CampaignRule, and what holds where the policy says nothing.
const (
	defaultAdminReviewers = MinAdminReviewers
	maxAdminReviewers     = 10
	defaultDeadlineDays   = 14
	maxDeadlineDays       = 90 // a quarter: then the next campaign is due
)

// recertification reads who recertifies.
func (r *policyReader) recertification(v strictyaml.Value, peopleRead bool) {
	o, ok := v.Object("reviewers", "adminReviewers", "deadline")
	if !ok {
		return
	}
	rule := CampaignRule{AdminReviewers: defaultAdminReviewers, DeadlineDays: defaultDeadlineDays}
	before := len(r.Problems)
	rule.Reviewers = o.Need("reviewers").References("team")
	if n, ok := o.At("adminReviewers").Integer(0, 1000); ok && n < MinAdminReviewers {
		o.At("adminReviewers").Wrong("%d is too few: an item that equals cluster-admin takes %d different people; write %d or more, or leave "+
			"it out", n, MinAdminReviewers, MinAdminReviewers)
	} else if ok && n > maxAdminReviewers {
		o.At("adminReviewers").Wrong("%d is out of range; write a number from %d to %d", n, MinAdminReviewers, maxAdminReviewers)
	} else if ok {
		rule.AdminReviewers = n
	}
	if n, ok := o.At("deadline").Days(1, maxDeadlineDays); ok {
		rule.DeadlineDays = n
	}
	r.policy.Campaign = rule
	if !peopleRead || len(r.Problems) > before {
		return
	}
	// Nobody reviews themselves, so for a reviewer's own items one of them is missing.
	if have := r.policy.members(rule.Reviewers); len(have) < rule.AdminReviewers+1 {
		v.Wrong("%d people must review what equals cluster-admin and nobody reviews themselves, but only %s can; name more reviewers, or ask "+
			"for fewer", rule.AdminReviewers, joinAnd(have))
	}
}
