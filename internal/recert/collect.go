package recert

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/text"
)

// FastApproval is too short a time to read what is approved.
const FastApproval = 10 * time.Second

// oldKey is when a key is worth a second look.
const oldKey = 365 * 24 * time.Hour

// Hours are the working hours of the people who approve: what is outside is marked off hours. From Monday to Friday.
type Hours struct {
	Zone     *time.Location
	From, To int // hours of the day, To not included
}

func (h Hours) off(t time.Time) bool {
	t = t.In(h.Zone)
	day := t.Weekday()
	return day == time.Saturday || day == time.Sunday || t.Hour() < h.From || t.Hour() >= h.To
}

// facts are what the items of the policy and of emergency access are made of. Building items from facts is pure.
type facts struct {
	policy   *policy.Policy
	requests []*breakglass.Request      // of the period: see inPeriod
	last     *campaign.Campaign         // the last one that ended, nil if there was none
	admin    map[string][]inventory.Ref // by cluster: roles that are as good as cluster-admin
	unread   map[string]bool            // clusters whose roles could not be read
	history  []policyVersion            // every access policy that was in force, the oldest first
	accounts map[record.SlackAccount]AccountState
	looked   bool // accounts were looked at
	from     time.Time
	now      time.Time
	hours    Hours
}

type policyVersion struct {
	at      time.Time
	changes policy.Changes
}

// AccountState is what Slack says about an account. The zero value is an ordinary, active member; of an account that has none
// nothing is known.
type AccountState struct {
	Deactivated bool
	Guest       bool
	Bot         bool
	Missing     bool // Slack does not know it
}

// policyHistory reads when the policy changed, and how.
func policyHistory(entries []ledger.Entry) ([]policyVersion, error) {
	var out []policyVersion
	for _, e := range entries {
		ev, err := policy.Kinds.Decode(e)
		if err != nil {
			return nil, err
		}
		if loaded, ok := ev.(policy.Loaded); ok {
			out = append(out, policyVersion{e.Time, loaded.Changes})
		}
	}
	return out, nil
}

// since is when the ledger says that an element was added to the policy. Changes that were made while the daemon was down are
// not all on record: of what no entry says that it was added, added is false, and the time is that of the policy in force, which
// has it.
func (f *facts) since(e policy.Element) (at time.Time, added bool) {
	for _, v := range slices.Backward(f.history) {
		if v.changes.Added(e) {
			return v.at, true
		}
		if v.changes.Removed(e) {
			break
		}
	}
	if len(f.history) == 0 {
		return f.now, false
	}
	return f.history[len(f.history)-1].at, false
}

// sinceWords is since for people. old says how long ago it is known to be there already.
func (f *facts) sinceWords(e policy.Element) (words []string, since *time.Time) {
	at, added := f.since(e)
	if added {
		words, since = []string{"added to the access policy on " + at.UTC().Format(time.DateOnly)}, &at
	} else {
		words = []string{"added at an unknown time: the access policy of " + at.UTC().Format(time.DateOnly) + ", which is in force, has it"}
	}
	if f.now.Sub(at) > oldKey {
		words = append(words, "older than a year")
	}
	return words, since
}

// inPeriod reports whether a request belongs to the period that begins at from: it was made in it, or its certificate could be
// used in it, or its end, its report or its closing note came in it or is still missing. A request that was pending when the
// period before ended is not among that one's grants, and would be in no period.
func inPeriod(r *breakglass.Request, from, now time.Time) bool {
	if !r.At.Before(from) {
		return true
	}
	if r.Issued == nil {
		return false
	}
	over := r.EndedBy(now)
	// the report comes with the sweep
	examined := r.Ask.Aftercare == nil || !r.Ask.Aftercare.Examine || r.Swept != nil && !r.SweptAt.After(from)
	closed := r.Closed == nil && !r.Touched() || r.Closed != nil && !r.Closed.At.After(from)
	return over.IsZero() || over.After(from) || !examined || !closed
}

// uses is what people did in the period: how often each took a part, and when each key and account was last used.
type uses struct {
	parts    map[policy.Eligibility]int
	keys     map[string]time.Time
	accounts map[record.SlackAccount]time.Time
	people   map[string]bool
}

func (f *facts) uses() uses {
	u := uses{map[policy.Eligibility]int{}, map[string]time.Time{}, map[record.SlackAccount]time.Time{}, map[string]bool{}}
	by := func(a record.Actor, at time.Time) bool {
		if at.Before(f.from) {
			return false
		}
		u.people[a.Person] = true
		if a.Key != "" && at.After(u.keys[a.Key]) {
			u.keys[a.Key] = at
		}
		if a.Slack != nil && at.After(u.accounts[*a.Slack]) {
			u.accounts[*a.Slack] = at
		}
		return true
	}
	for _, r := range f.requests {
		if by(r.Ask.By, r.At) {
			u.parts[policy.Eligibility{Person: r.Ask.By.Person, Part: policy.PartRequester, Profile: r.Ask.Profile,
				Cluster: r.Ask.Cluster}]++
		}
		for _, a := range r.Approvals {
			if by(a.By, a.At) {
				u.parts[policy.Eligibility{Person: a.By.Person, Part: policy.PartApprover, Profile: r.Ask.Profile, Cluster: r.Ask.Cluster}]++
			}
		}
		if r.Claimed != nil {
			by(r.Claimed.By, r.ClaimedAt)
		}
		for _, w := range []*record.Ending{r.Denied, r.Withdrawn, r.Revoked, r.Acknowledged, r.Closed} {
			if w != nil {
				by(w.By, w.At)
			}
		}
	}
	if f.last != nil {
		for _, i := range f.last.Items {
			for _, w := range i.Words {
				by(w.By, w.At)
			}
		}
	}
	return u
}

// long reports whether the period is long enough to call what was not used in it dormant. The first quarter of a year is 90 days
// less the hour of summer time.
func (f *facts) long() bool { return f.now.Sub(f.from) >= doors.DormantAfter-24*time.Hour }

// eligibilityItems are who may ask and approve, and the keys and accounts by which they do.
func (f *facts) eligibilityItems() []Item {
	var out []Item
	use := f.uses()
	ways := f.wayItems(use)
	out = append(append(out, ways...), f.memberItems(ways, use)...)
	for _, p := range f.policy.People {
		for _, k := range p.Keys {
			words, since := f.sinceWords(policy.KeyElement(p.ID, k.Fingerprint))
			used := use.keys[k.Fingerprint]
			i := Item{ID: "key/" + k.Fingerprint, Topic: TopicEligibility, Kind: "key", Title: fmt.Sprintf("SSH key %s of %s", k.Fingerprint,
				f.name(p.ID)), Risk: inventory.Medium, Dormant: used.IsZero() && f.long(),
				Not: []string{p.ID}, Grants: []string{"signs in and approves as " + p.ID}, Since: since,
				Advice: "remove the key from " + p.ID + "'s entry in the access policy"}
			i.Evidence = []string{"type " + k.Public.Type()}
			if k.Comment != "" {
				i.Evidence = append(i.Evidence, "called "+oneLine(k.Comment))
			}
			i.Evidence = append(i.Evidence, words...)
			i.Fingerprint = digestOf([]any{i.ID, p.ID})
			i.Evidence = append(i.Evidence, lastUse(used, f.from))
			out = append(out, i)
		}
		for _, a := range p.Slack {
			name, used := strings.TrimPrefix(a.Enterprise+"/"+a.Team+"/"+a.User, "/"), use.accounts[a]
			words, since := f.sinceWords(policy.AccountElement(p.ID, a))
			i := Item{ID: "slack/" + name, Topic: TopicEligibility, Kind: "slack", Risk: inventory.Medium, Dormant: used.IsZero() && f.long(),
				Evidence: words,
				Title:    fmt.Sprintf("Slack account %s/%s of %s", a.Team, a.User, f.name(p.ID)), Not: []string{p.ID},
				Grants: []string{"asks and approves as " + p.ID},
				Since:  since, Advice: "remove the account from " + p.ID + "'s entry in the access policy"}
			i.Fingerprint = digestOf([]any{i.ID, p.ID})
			switch st, told := f.accounts[a]; {
			case !told && !f.looked:
				i.Evidence = append(i.Evidence, "cannot tell whether it is active: Slack was not asked about it, or not all could be asked")
			case !told:
				i.Evidence = append(i.Evidence, "cannot tell whether it is active: Slack gave no answer about it")
			case st.Missing:
				i.Evidence, i.Orphan = append(i.Evidence, "Slack does not know this account"), true
			case st.Deactivated:
				i.Evidence, i.Orphan = append(i.Evidence, "deactivated in Slack"), true
			case st.Bot:
				i.Evidence, i.Risk = append(i.Evidence, "a bot, not a person"), inventory.Critical
			case st.Guest:
				i.Evidence, i.Risk = append(i.Evidence, "a guest of the workspace"), inventory.High
			default:
				i.Evidence = append(i.Evidence, "an active member of the workspace")
			}
			i.Evidence = append(i.Evidence, lastUse(used, f.from))
			out = append(out, i)
		}
	}
	return out
}

// wayItems are what teams may do: one item for a team's part in a profile, on all clusters that the profile has.
func (f *facts) wayItems(use uses) (out []Item) {
	for _, w := range f.policy.Ways() {
		prof, _ := f.policy.Profile(w.Profile)
		team, _ := f.policy.Team(w.Team)
		i := Item{ID: "way/" + w.Team + "/" + w.Profile + "/" + string(w.Part), Topic: TopicEligibility, Kind: string(w.Part), Way: &w,
			Risk: map[policy.Risk]inventory.Severity{policy.RiskLow: inventory.Medium, policy.RiskHigh: inventory.High,
				policy.RiskCritical: inventory.Critical}[prof.Risk],
			Grants: []string{prof.Rights.String(), "longest " + text.Span(prof.TTL.Max)}}
		where := listOf(w.Clusters)
		if len(w.Clusters) == 1 {
			i.Cluster = w.Clusters[0]
		} else {
			where = fmt.Sprintf("%d clusters", len(w.Clusters))
		}
		if w.Part == policy.PartRequester {
			i.Title = fmt.Sprintf("team %s may ask for %s on %s", w.Team, w.Profile, where)
			i.Evidence = append(i.Evidence, fmt.Sprintf("%s, at most %s, %d people must approve", prof.Rights, text.Span(prof.TTL.Max),
				prof.Approvals.Count))
			i.Grants = append(i.Grants, fmt.Sprintf("with %d approvals", prof.Approvals.Count))
		} else {
			i.Title = fmt.Sprintf("team %s may approve %s on %s", w.Team, w.Profile, where)
			channels := make([]string, len(prof.Approvals.Channels))
			for n, c := range prof.Approvals.Channels {
				channels[n] = string(c)
			}
			i.Evidence = append(i.Evidence, fmt.Sprintf("each counts as 1 of the %d approvals of %s, by %s",
				prof.Approvals.Count, prof.Rights, listOf(channels)))
			i.Grants = append(i.Grants, channels...)
		}
		i.Advice = "remove team " + w.Team + " from the " + string(w.Part) + "s of " + w.Profile + " in the access policy"
		people := slices.Sorted(slices.Values(team.Members))
		i.Evidence = append(i.Evidence, fmt.Sprintf("clusters (%d): %s", len(w.Clusters), listOf(w.Clusters)),
			fmt.Sprintf("people (%d): %s", len(people), listOf(people)))
		var as []string
		suspended, used := 0, 0
		for _, c := range w.Clusters {
			i.Grants = append(i.Grants, "on "+c)
			if f.adminEquivalent(prof.Rights, c) {
				as = append(as, c)
			}
			for _, who := range people {
				e := policy.Eligibility{Person: who, Part: w.Part, Profile: w.Profile, Cluster: c}
				used += use.parts[e]
				if f.policy.Suspended(e) {
					suspended++
				}
			}
		}
		i.Admin = len(as) > 0
		if i.Admin && len(as) < len(w.Clusters) {
			i.Evidence = append(i.Evidence, fmt.Sprintf("as good as cluster-admin, or not known to be less, on %d clusters: %s",
				len(as), listOf(as)))
		}
		i.Evidence = append(i.Evidence, "revoke suspends every one of these people in this on every one of these clusters, also who has it "+
			"through another team")
		i.Evidence = append(i.Evidence, suspendedNow(suspended, len(people)*len(w.Clusters))...)
		slices.Sort(i.Grants)
		i.Grants = slices.Compact(i.Grants)
		i.Fingerprint = digestOf([]any{i.ID, i.Grants})
		i.Evidence = append(i.Evidence, fmt.Sprintf("%s since %s", times(used), f.from.Format(time.DateOnly)))
		out = append(out, i)
	}
	return out
}

// memberItems are people's places in the teams that may do something, each as bad as the worst that the team may.
func (f *facts) memberItems(ways []Item, use uses) (out []Item) {
	by := map[string][]*Item{} // ways by team
	for n := range ways {
		by[ways[n].Way.Team] = append(by[ways[n].Way.Team], &ways[n])
	}
	for _, m := range f.policy.Memberships() {
		i := Item{ID: "member/" + m.Team + "/" + m.Person, Topic: TopicEligibility, Kind: "member", Member: m, Not: []string{m.Person},
			Title: fmt.Sprintf("%s is in team %s", f.name(m.Person), m.Team), Grants: []string{"what team " + m.Team + " may do"},
			Advice: "remove " + m.Person + " from team " + m.Team + " in the access policy"}
		suspended, all, used := 0, 0, 0
		other := map[string]bool{} // teams that give some of it as well
		for _, w := range by[m.Team] {
			if w.Risk.Rank() > i.Risk.Rank() || i.Risk == "" {
				i.Risk = w.Risk
			}
			i.Admin = i.Admin || w.Admin
			where := "on " + listOf(w.Way.Clusters)
			if n := len(w.Way.Clusters); n > 5 {
				where = fmt.Sprintf("on the %d clusters of %s", n, w.ID)
			}
			i.Evidence = append(i.Evidence, fmt.Sprintf("by it %s of %s %s", w.Way.Part, w.Way.Profile, where))
			for _, c := range w.Way.Clusters {
				e := policy.Eligibility{Person: m.Person, Part: w.Way.Part, Profile: w.Way.Profile, Cluster: c}
				all, used = all+1, used+use.parts[e]
				if f.policy.Suspended(e) {
					suspended++
				}
			}
			for n := range ways {
				x := ways[n].Way
				if t, _ := f.policy.Team(x.Team); x.Team != m.Team && x.Part == w.Way.Part && x.Profile == w.Way.Profile &&
					slices.Contains(t.Members, m.Person) {
					other[x.Team] = true
				}
			}
		}
		if len(other) > 0 {
			i.Evidence = append(i.Evidence, "some of it also through "+listOf(slices.Sorted(maps.Keys(other)))+
				": revoke here suspends it all the same")
		}
		i.Evidence = append(i.Evidence, suspendedNow(suspended, all)...)
		words, since := f.sinceWords(policy.MemberElement(m.Team, m.Person))
		i.Since, i.Evidence = since, append(i.Evidence, words...)
		i.Fingerprint = digestOf([]any{i.ID, i.Grants})
		i.Evidence = append(i.Evidence, fmt.Sprintf("%s since %s", times(used), f.from.Format(time.DateOnly)))
		if !use.people[m.Person] {
			i.Evidence = append(i.Evidence, fmt.Sprintf("%s asked for nothing since %s", m.Person,
				f.from.Format(time.DateOnly)))
			i.Dormant = f.long()
		}
		out = append(out, i)
	}
	return out
}

func suspendedNow(n, all int) []string {
	if n == 0 {
		return nil
	}
	return []string{fmt.Sprintf("suspended by an earlier recertification in %d of %d: keep does not give it back, two people can", n, all)}
}

// adminEquivalent reports whether rights are as good as cluster-admin in a cluster: the role itself, a group, which gives what
// is not known here, a role of which the scan says so, or any role where the scan could not read them. A role that is not known to be
// one may still lead there.
func (f *facts) adminEquivalent(r policy.Rights, cluster string) bool {
	if r.ClusterRole == "cluster-admin" || r.Group != "" || f.unread[cluster] {
		return true
	}
	kind, name := "ClusterRole", r.ClusterRole
	if r.Role != "" {
		kind, name = "Role", r.Role
	}
	where := r.Namespaces
	if len(where) == 0 {
		where = []string{""}
	}
	return slices.ContainsFunc(where, func(ns string) bool {
		return slices.Contains(f.admin[cluster], inventory.Ref{Kind: kind, Namespace: ns, Name: name})
	})
}

// emergency is the grants of the period and what a reviewer must look at about them: each grant, pairs that always approve
// together, and approvals that came too fast.
func (f *facts) emergency() ([]Grant, []Item) {
	var grants []Grant
	var items []Item
	pairs := map[[2]string]int{}
	together := map[string]int{}
	for _, r := range f.requests {
		g := grantOf(r, f.now, f.hours)
		grants = append(grants, g)
		if g.Issued == nil {
			continue
		}
		var people []string
		for _, a := range g.Approvals {
			people = append(people, a.Person)
		}
		slices.Sort(people)
		for n, a := range people {
			if g.Issued.Before(f.from) { // it was counted in its own period
				break
			}
			together[a]++
			for _, b := range people[n+1:] {
				pairs[[2]string{a, b}]++
			}
		}
		i := Item{ID: "grant/" + g.ID, Topic: TopicEmergency, Kind: "grant", Cluster: g.Cluster,
			Title: fmt.Sprintf("%s used %s on %s", f.name(g.Person), g.Profile, g.Cluster), Risk: inventory.Medium,
			Not: uniq(append(people, g.Person)), Fingerprint: digestOf([]any{g.ID, g.Ended, g.Used, g.LeftOver, g.NoteState}), Since: g.Issued,
			Advice: "object by revoking: the objection is recorded, and a responder must look into it"}
		i.Evidence = append(i.Evidence, "asked "+g.Asked.UTC().Format(time.RFC3339)+": "+oneLine(g.Reason))
		if g.Incident != "" {
			i.Evidence = append(i.Evidence, "incident "+g.Incident)
		}
		for _, a := range g.Approvals {
			line := fmt.Sprintf("approved by %s (%s) after %s", f.name(a.Person), a.Channel, seconds(a.Seconds))
			if time.Duration(a.Seconds)*time.Second < FastApproval {
				line += ": too fast to have read it"
				i.Risk = inventory.High
			}
			i.Evidence = append(i.Evidence, line)
		}
		if g.OffHours {
			i.Evidence = append(i.Evidence, "outside working hours")
		}
		switch g.Used {
		case "no":
			i.Evidence = append(i.Evidence, "the certificate was never used")
		case "yes":
			i.Evidence = append(i.Evidence, "used: "+g.Done)
		default:
			i.Evidence = append(i.Evidence, "whether it was used is not known: no audit events reach the daemon for this cluster")
		}
		if g.LeftOver > 0 {
			i.Evidence = append(i.Evidence, fmt.Sprintf("left %d things behind", g.LeftOver))
			i.Risk = inventory.High
		}
		switch g.NoteState {
		case "written":
			i.Evidence = append(i.Evidence, "closing note: "+oneLine(g.Note))
		case "missing", "overdue":
			i.Evidence = append(i.Evidence, "the closing note is "+g.NoteState)
			i.Risk = inventory.High
		}
		items = append(items, i)
	}
	for pair, n := range pairs {
		if n < pairAtLeast || 2*n < together[pair[0]]+together[pair[1]]-n {
			continue
		}
		items = append(items, Item{ID: "pair/" + pair[0] + "/" + pair[1], Topic: TopicEmergency, Kind: "pair", Risk: inventory.High, Not: pair[:],
			Title: fmt.Sprintf("%s and %s approve together", f.name(pair[0]), f.name(pair[1])),
			Evidence: []string{fmt.Sprintf("%d grants by both, of %d by %s and %d by %s", n, together[pair[0]], pair[0], together[pair[1]],
				pair[1])}, Grants: []string{"two yeses that come together"},
			Fingerprint: digestOf(pair), Advice: "ask them whether they look by themselves; spread approvals over more people"})
	}
	slices.SortFunc(grants, func(a, b Grant) int { return a.Asked.Compare(b.Asked) })
	return grants, items
}

// pairAtLeast is how often two people must have approved together before anybody asks why: below it, chance explains it.
const pairAtLeast = 4

func grantOf(r *breakglass.Request, now time.Time, hours Hours) Grant {
	g := Grant{ID: r.ID, Person: r.Ask.By.Person, Profile: r.Ask.Profile, Cluster: r.Ask.Cluster, Risk: string(r.Ask.Risk), Reason: r.Reason,
		Incident: r.Ask.Incident, State: string(r.State(now)),
		Asked: r.At.UTC(), TTL: r.Ask.TTLSeconds, Used: "unknown", OffHours: hours.off(r.At), Approvals: []Consent{}}
	for _, a := range r.Approvals {
		g.Approvals = append(g.Approvals, Consent{Person: a.By.Person, Channel: string(a.By.Channel),
			Seconds: int64(a.At.Sub(r.At) / time.Second), Signed: a.Signed})
	}
	if until := r.ClaimUntil(); !until.IsZero() {
		took := int64(until.Add(-time.Duration(r.Ask.ClaimSeconds)*time.Second).Sub(r.At) / time.Second)
		g.Approved = &took
	}
	if r.Issued != nil {
		at := r.Issued.NotBefore.UTC()
		g.Issued = &at
	}
	if over := r.EndedBy(now); !over.IsZero() {
		over = over.UTC()
		g.Ended = &over
	}
	if s := r.Session; s != nil && s.Source == breakglass.SourceAudit {
		g.Used = "no"
		if s.Events > 0 {
			g.Used = "yes"
			g.Done = fmt.Sprintf("reads %d, writes %d, refused %d, of Secrets %d, execs and port-forwards %d", s.Reads, s.Writes, s.Refused,
				s.SecretsRead, s.Streams)
		}
	}
	if r.Swept != nil {
		g.LeftOver = len(r.Swept.Items) + r.Swept.More
	}
	switch {
	case r.Closed != nil:
		g.NoteState, g.Note = "written", r.Closed.Reason
	case slices.Contains(r.Overdue, breakglass.OverdueClosing):
		g.NoteState = "overdue"
	case r.Touched():
		g.NoteState = "missing"
	}
	return g
}

// checkItems are the checks of the period: one item for each check and cluster, with what it last found, and one if none ran.
func checkItems(checks []Check, open []finding.Finding, clusters []string, from time.Time) []Item {
	type place struct{ check, cluster string }
	runs, failed := map[place]int{}, map[place][]Check{}
	last := map[place]Check{}
	names := map[string]bool{}
	for _, c := range checks {
		p := place{c.Check, c.Cluster}
		names[c.Check] = true
		runs[p]++
		last[p] = c
		if !c.OK {
			failed[p] = append(failed[p], c)
		}
	}
	var out []Item
	for _, p := range slices.SortedFunc(maps.Keys(runs), func(a, b place) int {
		return cmp.Or(strings.Compare(a.check, b.check), strings.Compare(a.cluster, b.cluster))
	}) {
		i := Item{ID: "check/" + p.check + "/" + cmp.Or(p.cluster, "all"), Topic: TopicChecks, Kind: "check", Cluster: p.cluster,
			Risk:        inventory.Low,
			Title:       fmt.Sprintf("check %s%s: %s, %d failed", p.check, on(p.cluster), runsOf(runs[p]), len(failed[p])),
			Fingerprint: digestOf([]any{p.check, p.cluster, len(failed[p]) == 0, last[p].Findings})}
		i.Grants = slices.Clone(last[p].Findings)
		i.Evidence = append(i.Evidence, "last "+last[p].At.UTC().Format(time.RFC3339)+": "+last[p].Verdict)
		if n := len(failed[p]); n > 0 {
			i.Risk, i.Grants = inventory.Medium, append(i.Grants, "failures")
			i.Evidence = append(i.Evidence, "last failure "+failed[p][n-1].At.UTC().Format(time.RFC3339)+": "+failed[p][n-1].Verdict)
		}
		if !last[p].OK {
			i.Risk = inventory.High
		}
		var told []string
		for _, f := range open {
			if f.Check == p.check && f.Cluster == p.cluster {
				told = append(told, f.Key)
				i.Evidence = append(i.Evidence, fmt.Sprintf("open since %s: %s: %s; next: %s", f.Since.UTC().Format(time.DateOnly), f.Severity,
					oneLine(f.What), cmp.Or(oneLine(f.Next), "nothing is said")))
			}
		}
		for _, key := range last[p].Findings {
			if !slices.Contains(told, key) {
				i.Evidence = append(i.Evidence, "the last run found "+oneLine(key)+", which is over")
			}
		}
		i.Grants = uniq(append(i.Grants, told...))
		out = append(out, i)
	}
	if len(checks) == 0 {
		out = append(out, Item{ID: "check/none", Topic: TopicChecks, Kind: "check", Title: "no check of any kind ran", Risk: inventory.High,
			Fingerprint: digestOf("none"),
			Evidence:    []string{fmt.Sprintf("none is on record since %s, for %s", from.Format(time.DateOnly), listOf(clusters))},
			Advice:      "switch checks on in the daemon's configuration: a path that is never tried does not work on the night it is needed"})
	}
	return out
}

// receiptItems are the revocations of the period, one item for each cluster: whether every API server was seen to refuse what
// was revoked.
func (f *facts) receiptItems() []Item {
	by := map[string]*Item{}
	proved := map[string]int{}
	revoked := map[string]int{}
	for _, r := range f.requests {
		if r.Revoked == nil || r.Issued == nil || r.Revoked.At.Before(f.from) {
			continue
		}
		id := r.Ask.Cluster
		if by[id] == nil {
			by[id] = &Item{ID: "check/receipts/" + id, Topic: TopicChecks, Kind: "receipts", Cluster: id, Risk: inventory.Low,
				Advice: "an API server that was not seen to refuse may take what was revoked: find out why"}
		}
		i := by[id]
		revoked[id]++
		why := notProved(r)
		if why == "" {
			proved[id]++
			continue
		}
		i.Risk, i.Grants = inventory.High, append(i.Grants, r.ID)
		i.Evidence = append(i.Evidence, r.ID+", revoked "+r.Revoked.At.UTC().Format(time.RFC3339)+": "+why)
	}
	var out []Item
	for _, id := range slices.Sorted(maps.Keys(by)) {
		i := by[id]
		i.Title = fmt.Sprintf("revocations on %s: %d, of which every API server was seen to refuse %d", id, revoked[id], proved[id])
		i.Evidence = append([]string{fmt.Sprintf("since %s, by the receipts in the ledger", f.from.Format(time.DateOnly))}, i.Evidence...)
		slices.Sort(i.Grants)
		i.Fingerprint = digestOf([]any{i.ID, i.Grants})
		out = append(out, *i)
	}
	return out
}

// A canary is a certificate without rights that was ordered to prove the path.
type canary struct {
	cluster string
	at      time.Time
	done    *breakglass.CanaryDone // nil: what became of it is not on record
}

// underWay reports whether what became of a canary can still come on record.
func (c canary) underWay(now time.Time) bool {
	return c.done == nil && now.Sub(c.at) < breakglass.CanaryWithin
}

// failed says why a canary proved nothing; empty if it was signed and every API server took it.
func (c canary) failed() string {
	switch {
	case c.done == nil:
		return "what became of it is not on record"
	case c.done.Problem != "":
		return oneLine(c.done.Problem)
	case len(c.done.Refused) > 0:
		return "refused by " + listOf(c.done.Refused)
	case len(c.done.Accepted) == 0:
		return "no API server was asked"
	}
	return ""
}

// canaryItems are the canaries of the period, one item for each cluster.
func canaryItems(canaries []canary, from time.Time) []Item {
	by := map[string][]canary{}
	for _, c := range canaries {
		by[c.cluster] = append(by[c.cluster], c)
	}
	var out []Item
	for _, id := range slices.Sorted(maps.Keys(by)) {
		i := Item{ID: "check/canaries/" + id, Topic: TopicChecks, Kind: "canaries", Cluster: id, Risk: inventory.Low,
			Advice: "a path that a canary does not get through is closed to people, too: find out why",
			Evidence: []string{fmt.Sprintf("since %s; a canary is a certificate without rights that proves that signing works and that API "+
				"servers take what was signed", from.Format(time.DateOnly))}}
		bad, last := 0, ""
		for _, c := range by[id] {
			why := c.failed()
			if why != "" {
				bad++
				last = c.at.UTC().Format(time.RFC3339) + ": " + why
				i.Risk = inventory.Medium
			}
		}
		i.Title = fmt.Sprintf("canaries on %s: %d, of which %d did not get through", id, len(by[id]), bad)
		if bad > 0 {
			i.Grants, i.Evidence = []string{"failures"}, append(i.Evidence, "the last that did not: "+last)
		}
		if newest := by[id][len(by[id])-1]; newest.failed() != "" {
			i.Risk = inventory.High
		}
		i.Fingerprint = digestOf([]any{i.ID, bad > 0})
		out = append(out, i)
	}
	return out
}

// notProved says why it is not proved that a revoked certificate is refused by every API server; empty if it is.
func notProved(r *breakglass.Request) string {
	if r.Receipt == nil {
		return "there is no receipt: no API server was asked"
	}
	for _, a := range r.Receipt.Answers {
		if !a.No {
			return oneLine(a.Server + ": " + cmp.Or(a.Problem, "it did not refuse"))
		}
	}
	if len(r.Receipt.Answers) == 0 {
		return "the receipt names no API server"
	}
	return ""
}

func runsOf(n int) string {
	if n == 1 {
		return "1 run"
	}
	return fmt.Sprintf("%d runs", n)
}

// clusterItems are what a scan of a cluster found that a person must answer for: of all its items those that are not expected.
func clusterItems(s *inventory.Snapshot, a *doors.Analysis, all []doors.Item, p *policy.Policy) (out []Item) {
	for _, in := range all {
		if in.Expected {
			continue
		}
		i := Item{ID: "cluster/" + in.ID, Topic: TopicPower, Kind: string(in.Kind), Cluster: in.Cluster, Title: in.Title, Evidence: in.Evidence,
			Risk: in.Risk, Admin: in.Admin, Grants: in.Grants,
			Proof: in.Proof, TakeAway: in.TakeAway, Advice: in.Advice, Orphan: in.Orphan, Dormant: in.Dormant, Fingerprint: in.Fingerprint}
		if in.Kind != doors.ItemSubject && in.Kind != doors.ItemBinding && in.Kind != doors.ItemDefault {
			i.Topic = TopicDoors
		}
		if in.Used != nil {
			i.Evidence = append(slices.Clone(i.Evidence), "last used "+in.Used.UTC().Format(time.DateOnly))
		}
		if in.Until != nil {
			i.Evidence = append(slices.Clone(i.Evidence), "ends by itself "+in.Until.UTC().Format(time.DateOnly))
		}
		switch hidden := doors.Unproven(in.Proof, slices.Concat(s.Sources, a.Programs), a.Doors); {
		case len(in.Proof) == 0:
			i.Evidence = append(slices.Clone(i.Evidence), noProof(in))
		case hidden != "": // what was overlooked now may be overlooked again: no scan will prove it gone, and a reviewer must say so
			i.Proof = nil
			i.Evidence = append(slices.Clone(i.Evidence), "a later scan cannot prove its removal: this scan saw only part of "+oneLine(hidden))
		default:
			i.Object = in.ID
		}
		for _, user := range in.People {
			if who, ok := personOf(user, p); ok {
				i.Not = append(i.Not, who)
			}
		}
		for _, group := range in.Groups {
			for _, x := range p.People {
				if slices.Contains(x.Groups, group) {
					i.Not = append(i.Not, x.ID)
				}
			}
		}
		i.Not = uniq(i.Not)
		out = append(out, i)
	}
	for _, f := range a.Findings { // what could not be read must not look like nothing
		if f.Rule != inventory.RuleUnread {
			continue
		}
		out = append(out, Item{ID: "cluster/" + s.Cluster + "/unread/" + digestOf(f.ID)[:16], Topic: TopicPower, Kind: "unknown",
			Cluster: s.Cluster, Title: f.Title, Evidence: []string{f.Text}, Risk: f.Severity, Admin: true,
			Grants: []string{"anything"}, Fingerprint: digestOf(f.ID), Advice: f.Next})
	}
	return append(out, notJudged(s.Cluster, a)...)
}

// notJudged is one item for all that the rules are not about: it cannot be told what those rights lead to, so a reviewer looks.
func notJudged(cluster string, a *doors.Analysis) []Item {
	i := Item{ID: "cluster/" + cluster + "/not-judged", Topic: TopicPower, Kind: "unknown", Cluster: cluster, Risk: inventory.Medium,
		Title: "cannot tell what rights lead to that no rule judges"}
	for _, f := range a.Findings {
		if f.Rule != inventory.RuleNotJudged || f.Ignored != nil {
			continue
		}
		i.Evidence = append(i.Evidence, f.Title)
		i.Grants = append(i.Grants, f.Item)
		i.Advice = cmp.Or(i.Advice, f.Next)
	}
	if i.Evidence == nil {
		return nil
	}
	slices.Sort(i.Evidence)
	slices.Sort(i.Grants)
	i.Fingerprint = digestOf(i.Evidence)
	return []Item{i}
}

// noProof says to reviewers that no later scan can show whether what they revoke is gone.
func noProof(in doors.Item) string {
	switch {
	case in.Kind != doors.ItemCSR:
		return "a later scan cannot prove its removal: the way in which it was seen does not show that"
	case in.Until == nil:
		return "a later scan cannot prove its removal: Kubernetes deletes the request, and a certificate that was signed lives on"
	}
	return "until " + in.Until.UTC().Format(time.RFC3339) + ", when the certificate ends, no scan can tell whether it is gone: Kubernetes " +
		"deletes the request an hour after it was signed, and the certificate lives on"
}

// personOf finds the person whom a user name in a cluster belongs to: the id itself, or an e-mail address or prefixed name
// that ends or begins with it, or one that the policy gives the person (users). A wrong guess costs one
// reviewer; a missed one would let people judge themselves.
func personOf(user string, p *policy.Policy) (string, bool) {
	if user == "" {
		return "", false
	}
	for _, x := range p.People {
		if slices.Contains(x.Users, user) {
			return x.ID, true
		}
	}
	if rest, ours := strings.CutPrefix(user, policy.CommonNamePrefix); ours { // of a certificate of ours: the person and the request
		user, _, _ = strings.Cut(rest, ":")
	}
	local, _, _ := strings.Cut(user, "@")
	if n := strings.LastIndexAny(local, ":#/"); n >= 0 {
		local = local[n+1:]
	}
	for _, name := range []string{user, local} {
		if _, ok := p.Person(strings.ToLower(name)); ok {
			return strings.ToLower(name), true
		}
	}
	return "", false
}

func (f *facts) name(id string) string { return nameIn(f.policy, id) }

func nameIn(p *policy.Policy, id string) string {
	if x, ok := p.Person(id); ok && x.Name != id {
		return x.Name + " (" + id + ")"
	}
	return id
}

func lastUse(at, from time.Time) string {
	if at.IsZero() {
		return "not used since " + from.Format(time.DateOnly)
	}
	return "last used " + at.UTC().Format(time.DateOnly)
}

func times(n int) string {
	switch n {
	case 0:
		return "not used"
	case 1:
		return "used once"
	}
	return fmt.Sprintf("used %d times", n)
}

func on(cluster string) string {
	if cluster == "" {
		return ""
	}
	return " on " + cluster
}

func seconds(n int64) string { return (time.Duration(n) * time.Second).String() }

func uniq(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return slices.Compact(s)
}

func listOf(s []string) string {
	switch len(s) {
	case 0:
		return "nothing"
	case 1:
		return s[0]
	}
	return strings.Join(s[:len(s)-1], ", ") + " and " + s[len(s)-1]
}

// oneLine is a text of another party on one line, cut to what a reviewer reads.
func oneLine(s string) string { return text.Line(s, 200) }
