package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/strictyaml"
)

// minRequesters is how many people must stay able to ask for a profile, where there are so many. Two, because one may be ill on
// the night of the emergency.
const minRequesters = 2

// suspensions is a set of eligibility that is taken away, each with the campaigns and items that hold it.
type suspensions map[Eligibility][]Holding

func (s suspensions) has(e Eligibility) bool { _, is := s[e]; return is }

// SetOf puts suspended eligibility together by what it is.
func SetOf(list []Holding) suspensions {
	set := suspensions{}
	for _, h := range list {
		set[h.Eligibility] = append(set[h.Eligibility], h)
	}
	return set
}

// Reinstating is how it is given back: in every campaign that holds it.
func Reinstating(held []Holding) string {
	return record.JoinAnd(words(held, func(h Holding) string { return "breakglass recert reinstate " + h.Campaign + " --item " + h.Item }))
}

// Suspending returns the policy with eligibility taken away. What would leave a profile with too few people for an emergency
// is not in force there, whoever decided it and whatever the policy was then: governance must not shut the emergency door.
func (p *Policy) Suspending(list []Holding) *Policy {
	after := *p
	after.suspended = suspensions{}
	all := SetOf(list)
	keeps := map[Place]bool{} // all that is about one place keeps the floor, or none of it does
	for e := range all {
		at := PlaceOf(e)
		if _, known := keeps[at]; !known {
			keeps[at] = p.keepsFloor(e, all)
		}
		if keeps[at] {
			after.suspended[e] = all[e]
		}
	}
	return &after
}

// Place is what a floor holds for: a part in a profile on a cluster.
type Place struct {
	part             Part
	profile, cluster string
}

// PlaceOf is the place that an eligibility is about.
func PlaceOf(e Eligibility) Place { return Place{e.Part, e.Profile, e.Cluster} }

// room is who is left for a place, and how many must be.
type room struct {
	able map[string]bool
	need int
	each []FrozenTeam    // of each of these, one must be left besides the requester
	asks map[string]bool // who may ask
}

// roomAt is who is left for a place with a set suspended: of the approvers those who have what it takes to approve.
func (p *Policy) roomAt(at Place, set suspensions) *room {
	prof, _ := p.Profile(at.profile)
	r := &room{able: map[string]bool{}, asks: map[string]bool{}}
	for _, id := range p.Members(prof.Requesters) {
		r.asks[id] = true
	}
	who := slices.Collect(maps.Keys(r.asks))
	r.need = min(minRequesters, len(who))
	if at.part == PartApprover {
		q := p.Freeze(prof)
		who = slices.DeleteFunc(q.People(), func(id string) bool { return !p.Able(id, q.Channels) })
		r.need, r.each = max(q.Count, MinQuorum)+1, q.Each
	}
	for _, id := range who {
		if !set.has(Eligibility{Person: id, Part: at.part, Profile: at.profile, Cluster: at.cluster}) {
			r.able[id] = true
		}
	}
	return r
}

// keeps reports whether enough people are left, and for everybody who may ask a quorum without them.
func (r *room) keeps() bool {
	if len(r.able) < r.need {
		return false
	}
	for _, t := range r.each {
		left, last := 0, ""
		for _, id := range t.Members {
			if r.able[id] {
				left, last = left+1, id
			}
		}
		if left == 0 && len(r.asks) > 0 || left == 1 && r.asks[last] {
			return false
		}
	}
	return true
}

// Rooms is who is left at every place while more is suspended, one after the other.
type Rooms struct {
	p   *Policy
	set suspensions
	at  map[Place]*room
}

// Rooms counts how much can be suspended beside a set that is, place by place.
func (p *Policy) Rooms(set suspensions) *Rooms { return &Rooms{p, set, map[Place]*room{}} }

// Take suspends what the policy offers, if the floor allows it, and says whether it is suspended now.
func (r *Rooms) Take(e Eligibility) bool {
	if r.set.has(e) {
		return true
	}
	at := PlaceOf(e)
	left := r.at[at]
	if left == nil {
		left = r.p.roomAt(at, r.set)
		r.at[at] = left
	}
	was := left.able[e.Person]
	if delete(left.able, e.Person); !left.keeps() {
		if was {
			left.able[e.Person] = true
		}
		return false
	}
	r.set[e] = nil // that it is there is what counts
	return true
}

// Suspended reports whether the person's part is taken away, and that is in force.
func (p *Policy) Suspended(e Eligibility) bool { return p.suspended.has(e) }

// Suspensions lists what is taken away and in force, sorted.
func (p *Policy) Suspensions() []Eligibility {
	return slices.SortedFunc(maps.Keys(p.suspended), CompareEligibility)
}

// CompareEligibility orders eligibility by its fields.
func CompareEligibility(a, b Eligibility) int {
	return cmp.Or(strings.Compare(a.Profile, b.Profile), strings.Compare(a.Cluster, b.Cluster),
		strings.Compare(string(a.Part), string(b.Part)),
		strings.Compare(a.Person, b.Person))
}

// keepsFloor reports whether, with all of the set suspended, enough people are left for the part that e is about: for approvers
// one more than the quorum, so that one may be unreachable, and for every requester a quorum without them; for requesters
// minRequesters, or all if there never were more. A profile or cluster that is gone has no floor.
func (p *Policy) keepsFloor(e Eligibility, set suspensions) bool {
	if !p.Offers(e.Profile, e.Cluster) {
		return true
	}
	return p.roomAt(PlaceOf(e), set).keeps()
}

// Offers reports whether a profile can be asked for on a cluster.
func (p *Policy) Offers(profile, cluster string) bool {
	prof, ok := p.Profile(profile)
	return ok && slices.Contains(prof.Clusters, cluster)
}

// Able reports whether a person has what it takes to approve by one of the channels.
func (p *Policy) Able(id string, channels []record.Channel) bool {
	x, ok := p.Person(id)
	return ok && (len(x.Slack) > 0 && slices.Contains(channels, record.ChannelSlack) || len(x.Keys) > 0 &&
		slices.Contains(channels, record.ChannelKey))
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

// NotSuspended refuses a part that was taken away.
func (p *Policy) NotSuspended(e Eligibility) error {
	if !p.Suspended(e) {
		return nil
	}
	return record.Refuse(record.ClassDenied, "suspended", "two reviewers can give it back: "+Reinstating(p.suspended[e]),
		"the recertification has suspended %s", e)
}

// EveryEligibility lists who can do what by the policy as it is written, whatever is suspended, sorted.
func (p *Policy) EveryEligibility() []Eligibility {
	var out []Eligibility
	for i := range p.Profiles {
		prof := &p.Profiles[i]
		for _, cluster := range prof.Clusters {
			for _, id := range p.Members(prof.Requesters) {
				out = append(out, Eligibility{Person: id, Part: PartRequester, Profile: prof.ID, Cluster: cluster})
			}
			for _, id := range p.Freeze(prof).People() {
				out = append(out, Eligibility{Person: id, Part: PartApprover, Profile: prof.ID, Cluster: cluster})
			}
		}
	}
	slices.SortFunc(out, CompareEligibility)
	return out
}

// Memberships lists everybody's place in the teams that may ask or approve, sorted.
func (p *Policy) Memberships() []Membership {
	var out []Membership
	teams := map[string]bool{}
	for _, w := range p.Ways() {
		teams[w.Team] = true
	}
	for _, id := range slices.Sorted(maps.Keys(teams)) {
		for _, who := range p.Members([]string{id}) {
			out = append(out, Membership{Team: id, Person: who})
		}
	}
	return out
}

// Ways lists what teams may do, sorted: the parts that they have in profiles.
func (p *Policy) Ways() []TeamPart {
	var out []TeamPart
	for i := range p.Profiles {
		prof := &p.Profiles[i]
		clusters := slices.Compact(slices.Sorted(slices.Values(prof.Clusters)))
		for part, teams := range map[Part][]string{PartRequester: prof.Requesters,
			PartApprover: slices.Concat(prof.Approvals.From, prof.Approvals.Each)} {
			for _, id := range slices.Compact(slices.Sorted(slices.Values(teams))) {
				out = append(out, TeamPart{Team: id, Part: part, Profile: prof.ID, Clusters: clusters})
			}
		}
	}
	slices.SortFunc(out, func(a, b TeamPart) int {
		return cmp.Or(strings.Compare(a.Team, b.Team), strings.Compare(a.Profile, b.Profile), strings.Compare(string(a.Part), string(b.Part)))
	})
	return out
}

// Still says in words what the policy has of a place in a team, or of a team's way; empty: nothing.
func (p *Policy) Still(m Membership, way *TeamPart) string {
	if m != (Membership{}) && slices.Contains(p.Members([]string{m.Team}), m.Person) {
		return m.Person + " in " + m.Team
	}
	for _, w := range p.Ways() {
		if way != nil && w.Team == way.Team && w.Part == way.Part && w.Profile == way.Profile &&
			slices.ContainsFunc(w.Clusters, func(id string) bool { return slices.Contains(way.Clusters, id) }) {
			return w.Team + " as " + string(w.Part) + " of " + w.Profile
		}
	}
	return ""
}

// Shares puts eligibility together: people who have the same part in the same profile on the same clusters. Sorted.
func Shares(list []Eligibility) []Share {
	at := map[Place][]string{} // people
	for _, e := range list {
		at[PlaceOf(e)] = append(at[PlaceOf(e)], e.Person)
	}
	same := map[string]*Share{}
	for pl, people := range at {
		slices.Sort(people)
		people = slices.Compact(people)
		key := strings.Join(append([]string{string(pl.part), pl.profile}, people...), "\x00")
		if same[key] == nil {
			same[key] = &Share{Part: pl.part, Profile: pl.profile, People: people}
		}
		same[key].Clusters = append(same[key].Clusters, pl.cluster)
	}
	var out []Share
	for _, s := range same {
		slices.Sort(s.Clusters)
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b Share) int {
		return cmp.Or(strings.Compare(a.Profile, b.Profile), strings.Compare(string(a.Part), string(b.Part)),
			slices.Compare(a.Clusters, b.Clusters))
	})
	return out
}

// The bounds of the shares in one entry: ids have at most 63 bytes.
const (
	sharePeople   = 400
	shareClusters = 200
	entryShares   = 32 << 10 // bytes, with at most one share more
)

// EntriesOf cuts shares into what fits into an entry of the ledger.
func EntriesOf(shares []Share) (out [][]Share) {
	size := 0
	for _, s := range shares {
		for people := range slices.Chunk(s.People, sharePeople) {
			for clusters := range slices.Chunk(s.Clusters, shareClusters) {
				if len(out) == 0 || size > entryShares-64*(len(people)+len(clusters)) {
					out, size = append(out, nil), 0
				}
				size += 64 * (len(people) + len(clusters) + 2)
				last := len(out) - 1
				out[last] = append(out[last], Share{Part: s.Part, Profile: s.Profile, People: people, Clusters: clusters})
			}
		}
	}
	return out
}

// PartOf is a part of a list of eligibility, as shares say it.
func PartOf(list []Eligibility, shares []Share) ([]Eligibility, error) {
	there, n := make(map[Eligibility]bool, len(list)), 0
	for _, e := range list {
		there[e] = true
	}
	for _, s := range shares {
		if n += len(s.People) * len(s.Clusters); n > len(list) || n == 0 {
			return nil, fmt.Errorf("more is suspended than there is, or nothing")
		}
	}
	var out []Eligibility
	for _, s := range shares {
		for _, who := range s.People {
			for _, cluster := range s.Clusters {
				e := Eligibility{Person: who, Part: s.Part, Profile: s.Profile, Cluster: cluster}
				if !there[e] {
					return nil, fmt.Errorf("%s is suspended twice, or not covered", e)
				}
				delete(there, e)
				out = append(out, e)
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no part is suspended")
	}
	return out, nil
}

// Holder is who has the SSH key or the Slack account with an item's id, by the policy; empty: nobody, or the item is about something
// else. No scan proves such a thing gone, but the policy says whether it is.
func (p *Policy) Holder(item string) string {
	for _, x := range p.People {
		has := slices.ContainsFunc(x.Keys, func(k Key) bool { return "key/"+k.Fingerprint == item })
		if has || slices.ContainsFunc(x.Slack, func(a record.SlackAccount) bool { return "slack/"+slackWords(a) == item }) {
			return x.ID
		}
	}
	return ""
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
	if have := r.policy.Members(rule.Reviewers); len(have) < rule.AdminReviewers+1 {
		v.Wrong("%d people must review what equals cluster-admin and nobody reviews themselves, but only %s can; name more reviewers, or ask "+
			"for fewer", rule.AdminReviewers, record.JoinAnd(have))
	}
}
