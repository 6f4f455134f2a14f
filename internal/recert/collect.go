package recert

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/ledger"
)

// FastApproval is the time in which nobody reads what they approve.
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
	policy   *breakglass.Policy
	requests []*breakglass.Request // made in the period
	history  []policyVersion       // every access policy that was in force, the oldest first
	accounts map[breakglass.SlackAccount]AccountState
	looked   bool // accounts were looked at
	from     time.Time
	now      time.Time
	hours    Hours
}

type policyVersion struct {
	at      time.Time
	changes []string
}

// AccountState is what Slack says about an account. The zero value is an ordinary, active member.
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
		ev, err := breakglass.Decode(e)
		if err != nil {
			return nil, err
		}
		if loaded, ok := ev.(breakglass.PolicyLoaded); ok {
			out = append(out, policyVersion{e.Time, loaded.Changes})
		}
	}
	return out, nil
}

// since is when something came into the policy: when a change last named it as added, or else the first policy on record.
func (f *facts) since(ending string) *time.Time {
	var at *time.Time
	for n := range f.history {
		if n == 0 {
			at = &f.history[0].at
		}
		for _, c := range f.history[n].changes {
			if strings.HasSuffix(c, ending+" added") {
				at = &f.history[n].at
			}
		}
	}
	return at
}

// uses counts how often each person took a part in the period, and when each key and account was last used.
type uses struct {
	parts    map[breakglass.Eligibility]int
	keys     map[string]time.Time
	accounts map[breakglass.SlackAccount]time.Time
}

func (f *facts) uses() uses {
	u := uses{map[breakglass.Eligibility]int{}, map[string]time.Time{}, map[breakglass.SlackAccount]time.Time{}}
	by := func(a breakglass.Actor, at time.Time) {
		if a.Key != "" {
			u.keys[a.Key] = at
		}
		if a.Slack != nil {
			u.accounts[*a.Slack] = at
		}
	}
	for _, r := range f.requests {
		by(r.Ask.By, r.At)
		u.parts[breakglass.Eligibility{Person: r.Ask.By.Person, Part: breakglass.PartRequester, Profile: r.Ask.Profile, Cluster: r.Ask.Cluster}]++
		for _, a := range r.Approvals {
			by(a.By, a.At)
			u.parts[breakglass.Eligibility{Person: a.By.Person, Part: breakglass.PartApprover, Profile: r.Ask.Profile, Cluster: r.Ask.Cluster}]++
		}
	}
	return u
}

// eligibilityItems are who may ask and approve, and the keys and accounts by which they do.
func (f *facts) eligibilityItems() []Item {
	var out []Item
	use := f.uses()
	for _, e := range f.policy.EveryEligibility() {
		prof, _ := f.policy.Profile(e.Profile)
		admin := prof.Rights.ClusterRole == "cluster-admin" || prof.Rights.Group != ""
		risk := map[breakglass.Risk]inventory.Severity{breakglass.RiskLow: inventory.Medium, breakglass.RiskHigh: inventory.High, breakglass.RiskCritical: inventory.Critical}[prof.Risk]
		i := Item{ID: "eligibility/" + e.Profile + "/" + e.Cluster + "/" + string(e.Part) + "/" + e.Person, Topic: TopicEligibility, Kind: string(e.Part), Cluster: e.Cluster,
			Risk: risk, Admin: admin, Not: []string{e.Person}, Gives: e.Eligibility}
		teams := "through " + listOf(e.Teams)
		i.Grants = append(i.Grants, prof.Rights.String(), "longest "+span(prof.TTL.Max))
		if e.Part == breakglass.PartRequester {
			i.Title = fmt.Sprintf("%s may ask for %s on %s", f.name(e.Person), e.Profile, e.Cluster)
			i.Evidence = append(i.Evidence, teams, fmt.Sprintf("%s, at most %s, %d people must approve", prof.Rights, span(prof.TTL.Max), prof.Approvals.Count))
			i.Advice = "take " + e.Person + " out of the requesters' teams in the access policy"
		} else {
			i.Title = fmt.Sprintf("%s may approve %s on %s", f.name(e.Person), e.Profile, e.Cluster)
			channels := make([]string, len(prof.Approvals.Channels))
			for n, c := range prof.Approvals.Channels {
				channels[n] = string(c)
			}
			i.Evidence = append(i.Evidence, teams, fmt.Sprintf("one of %d who must agree to %s, by %s", prof.Approvals.Count, prof.Rights, listOf(channels)))
			i.Advice = "take " + e.Person + " out of the approvers' teams in the access policy"
			i.Grants = append(i.Grants, channels...)
		}
		if f.policy.Suspended(e.Eligibility) {
			i.Evidence = append(i.Evidence, "suspended by an earlier recertification: keep does not give it back, two people can")
		}
		slices.Sort(i.Grants)
		i.Fingerprint = digestOf([]any{i.ID, i.Grants, e.Teams})
		i.Evidence = append(i.Evidence, fmt.Sprintf("%s since %s", times(use.parts[e.Eligibility]), f.from.Format(time.DateOnly)))
		out = append(out, i)
	}
	for _, p := range f.policy.People {
		for _, k := range p.Keys {
			since := f.since("person " + p.ID + ": key " + k.Fingerprint)
			i := Item{ID: "key/" + k.Fingerprint, Topic: TopicEligibility, Kind: "key", Title: fmt.Sprintf("SSH key %s of %s", k.Fingerprint, f.name(p.ID)), Risk: inventory.Medium,
				Not: []string{p.ID}, Grants: []string{"signs in and approves as " + p.ID}, Since: since, Advice: "take the key out of " + p.ID + "'s entry in the access policy"}
			i.Evidence = []string{"type " + k.Public.Type()}
			if k.Comment != "" {
				i.Evidence = append(i.Evidence, "called "+printable(k.Comment))
			}
			if since != nil {
				i.Evidence = append(i.Evidence, "in the access policy since "+since.UTC().Format(time.DateOnly)+" at the latest")
				if f.now.Sub(*since) > oldKey {
					i.Evidence = append(i.Evidence, "older than a year")
				}
			}
			i.Fingerprint = digestOf([]any{i.ID, p.ID})
			i.Evidence = append(i.Evidence, lastUse(use.keys[k.Fingerprint], f.from))
			out = append(out, i)
		}
		for _, a := range p.Slack {
			i := Item{ID: "slack/" + strings.TrimPrefix(a.Enterprise+"/"+a.Team+"/"+a.User, "/"), Topic: TopicEligibility, Kind: "slack", Risk: inventory.Medium,
				Title: fmt.Sprintf("Slack account %s/%s of %s", a.Team, a.User, f.name(p.ID)), Not: []string{p.ID}, Grants: []string{"asks and approves as " + p.ID},
				Since: f.since("person " + p.ID + ": slack account " + strings.TrimPrefix(a.Enterprise+"/"+a.Team+"/"+a.User, "/")), Advice: "take the account out of " + p.ID + "'s entry in the access policy"}
			i.Fingerprint = digestOf([]any{i.ID, p.ID})
			switch st := f.accounts[a]; {
			case !f.looked:
				i.Evidence = append(i.Evidence, "Slack was not asked about it")
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
			i.Evidence = append(i.Evidence, lastUse(use.accounts[a], f.from))
			out = append(out, i)
		}
	}
	return out
}

// emergency is the grants of the period and what about them somebody must look at: each grant, pairs that always approve
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
			together[a]++
			for _, b := range people[n+1:] {
				pairs[[2]string{a, b}]++
			}
		}
		i := Item{ID: "grant/" + g.ID, Topic: TopicEmergency, Kind: "grant", Cluster: g.Cluster, Title: fmt.Sprintf("%s used %s on %s", f.name(g.Person), g.Profile, g.Cluster), Risk: inventory.Medium,
			Not: uniq(append(people, g.Person)), Fingerprint: digestOf(g.ID), Since: g.Issued, Advice: "object by revoking: it is recorded, and somebody must look into it"}
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
			Title:    fmt.Sprintf("%s and %s approve together", f.name(pair[0]), f.name(pair[1])),
			Evidence: []string{fmt.Sprintf("%d grants by both, of %d by %s and %d by %s", n, together[pair[0]], pair[0], together[pair[1]], pair[1])}, Grants: []string{"two yeses that come together"},
			Fingerprint: digestOf(pair), Advice: "ask them whether they look by themselves; spread approvals over more people"})
	}
	slices.SortFunc(grants, func(a, b Grant) int { return a.Asked.Compare(b.Asked) })
	return grants, items
}

// pairAtLeast is how often two people must have approved together before anybody asks why: below it, chance explains it.
const pairAtLeast = 4

func grantOf(r *breakglass.Request, now time.Time, hours Hours) Grant {
	g := Grant{ID: r.ID, Person: r.Ask.By.Person, Profile: r.Ask.Profile, Cluster: r.Ask.Cluster, Risk: string(r.Ask.Risk), Reason: r.Reason, Incident: r.Ask.Incident, State: string(r.State(now)),
		Asked: r.At.UTC(), TTL: r.Ask.TTLSeconds, Used: "unknown", OffHours: hours.off(r.At), Approvals: []Consent{}}
	for _, a := range r.Approvals {
		g.Approvals = append(g.Approvals, Consent{Person: a.By.Person, Channel: string(a.By.Channel), Seconds: int64(a.At.Sub(r.At) / time.Second), Signed: a.Signed})
	}
	if until := r.ClaimUntil(); !until.IsZero() {
		took := int64(until.Add(-time.Duration(r.Ask.ClaimSeconds)*time.Second).Sub(r.At) / time.Second)
		g.Approved = &took
	}
	if r.Issued != nil {
		at := r.Issued.NotBefore.UTC()
		g.Issued = &at
	}
	if over := r.Over(now); !over.IsZero() {
		over = over.UTC()
		g.Ended = &over
	}
	if s := r.Session; s != nil && s.Source == breakglass.SourceAudit {
		g.Used = "no"
		if s.Events > 0 {
			g.Used = "yes"
			g.Done = fmt.Sprintf("reads %d, writes %d, refused %d, of Secrets %d, execs and port-forwards %d", s.Reads, s.Writes, s.Refused, s.SecretsRead, s.Streams)
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

// checkItems are the checks of the period: one item for each check and cluster that failed or never ran.
func checkItems(checks []Check, clusters []string, from time.Time) []Item {
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
		i := Item{ID: "check/" + p.check + "/" + cmp.Or(p.cluster, "all"), Topic: TopicChecks, Kind: "check", Cluster: p.cluster, Risk: inventory.Low,
			Title: fmt.Sprintf("check %s%s: %s, %d failed", p.check, on(p.cluster), runsOf(runs[p]), len(failed[p])), Fingerprint: digestOf([]any{p.check, p.cluster, len(failed[p]) == 0})}
		i.Evidence = append(i.Evidence, "last "+last[p].At.UTC().Format(time.RFC3339)+": "+last[p].Verdict)
		if n := len(failed[p]); n > 0 {
			i.Risk, i.Grants = inventory.Medium, []string{"failures"}
			i.Evidence = append(i.Evidence, "last failure "+failed[p][n-1].At.UTC().Format(time.RFC3339)+": "+failed[p][n-1].Verdict)
		}
		if !last[p].OK {
			i.Risk = inventory.High
		}
		out = append(out, i)
	}
	if len(checks) == 0 {
		out = append(out, Item{ID: "check/none", Topic: TopicChecks, Kind: "check", Title: "no check of any kind ran", Risk: inventory.High, Fingerprint: digestOf("none"),
			Evidence: []string{fmt.Sprintf("none is on record since %s, for %s", from.Format(time.DateOnly), listOf(clusters))}, Advice: "switch checks on in the daemon's configuration: a path that is never tried does not work on the night it is needed"})
	}
	return out
}

func runsOf(n int) string {
	if n == 1 {
		return "1 run"
	}
	return fmt.Sprintf("%d runs", n)
}

// clusterItems are what a scan of a cluster found that a person must answer for, and how many expected things it saw.
func clusterItems(s *inventory.Snapshot, a *inventory.Analysis, p *breakglass.Policy) (out []Item, expected int) {
	for _, in := range inventory.Items(s, a) {
		if in.Expected {
			expected++
			continue
		}
		i := Item{ID: "cluster/" + in.ID, Topic: TopicPower, Kind: string(in.Kind), Cluster: in.Cluster, Title: in.Title, Evidence: in.Evidence, Risk: in.Risk, Admin: in.Admin, Grants: in.Grants,
			Object: in.ID, TakeAway: in.TakeAway, Advice: in.Advice, Orphan: in.Orphan, Dormant: in.Dormant, Fingerprint: in.Fingerprint}
		if in.Kind != inventory.ItemSubject && in.Kind != inventory.ItemBinding && in.Kind != inventory.ItemDefault {
			i.Topic = TopicDoors
		}
		if in.Used != nil {
			i.Evidence = append(slices.Clone(i.Evidence), "last used "+in.Used.UTC().Format(time.DateOnly))
		}
		if in.Until != nil {
			i.Evidence = append(slices.Clone(i.Evidence), "ends by itself "+in.Until.UTC().Format(time.DateOnly))
		}
		if who, ok := personOf(in.Person, p); ok {
			i.Not = []string{who}
		}
		out = append(out, i)
	}
	for _, f := range a.Findings { // what could not be read must not look like nothing
		if f.Rule != ruleUnread {
			continue
		}
		out = append(out, Item{ID: "cluster/" + s.Cluster + "/unread/" + digestOf(f.ID)[:16], Topic: TopicPower, Kind: "unknown", Cluster: s.Cluster, Title: f.Title, Evidence: []string{f.Text}, Risk: f.Severity, Admin: true,
			Grants: []string{"anything"}, Fingerprint: digestOf(f.ID), Advice: f.Next})
	}
	return out, expected
}

// ruleUnread is the inventory's rule for what a scan could not read of RBAC.
const ruleUnread = "scan/unread"

// personOf finds the person whom a user name in a cluster belongs to: the id itself, or an e-mail address or prefixed name
// that ends or begins with it. A wrong guess costs one reviewer; a missed one would let somebody judge themselves.
func personOf(user string, p *breakglass.Policy) (string, bool) {
	if user == "" {
		return "", false
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

func nameIn(p *breakglass.Policy, id string) string {
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
		return "never used"
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

// span writes a duration as people do: 1h30m, not 1h30m0s.
func span(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
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

// oneLine is a text of a person on one line, cut to what a reviewer reads.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 200 {
		s = string(r[:200]) + "…"
	}
	return s
}

func printable(s string) string { return oneLine(strings.ToValidUTF8(s, "?")) }
