// Package policy is the access policy: who may ask for what, who must agree, and which policy is in force. It reads the policy's file,
// says in words what a change adds and takes away, and keeps the floor that a suspension must leave for an emergency.
package policy

import (
	"cmp"
	"crypto/rsa"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/strictyaml"
	"github.com/breakglassd/breakglass/internal/text"
)

// MinQuorum is the floor of distinct approvers besides the requester. It is compiled in: policy can only raise it.
const MinQuorum = 2

// MaxPersonID bounds a person's id in characters: CommonName around it must stay within the 64 that X.509 allows.
const MaxPersonID = 32

// The bounds of what an access policy can say.
const (
	maxID          = 63  // a Kubernetes label value
	maxGroup       = 64  // X.509's upper bound of an organization name
	maxText        = 200 // characters of a name or description: one line of a Slack message
	minSpan        = time.Minute
	maxSpan        = 24 * time.Hour
	maxClosing     = 14 * 24 * time.Hour
	maxCooling     = 14 * 24 * time.Hour
	maxClusterName = 253  // characters of a user of a cluster
	minRSABits     = 3072 // NIST SP 800-57: the least that is acceptable after 2030
)

// What holds where the policy says nothing.
const (
	defaultClaimWithin   = 10 * time.Minute
	defaultPendingFor    = 30 * time.Minute
	defaultReasonMin     = 10
	maxReasonMin         = 1000
	defaultOpenPerPerson = 2
	defaultPerHour       = 10
	defaultCooling       = 24 * time.Hour
)

var (
	namespacePattern = Pattern(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	rolePattern      = Pattern(`^[A-Za-z0-9][A-Za-z0-9:._-]{0,252}$`)
	groupPattern     = Pattern(`^breakglass:[a-z0-9][a-z0-9-]*$`)
	hostPattern      = Pattern(`^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)(:[0-9]+)?$`)
	slackPatterns    = map[string]func() *regexp.Regexp{
		"enterprise": Pattern(`^E[A-Z0-9]{2,31}$`),
		"team":       Pattern(`^T[A-Z0-9]{2,31}$`),
		"user":       Pattern(`^[UW][A-Z0-9]{2,31}$`),
	}
)

// Pattern compiles a regular expression at its first use: the command line initialises this package in every command, and needs none.
func Pattern(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

// Risk grades a profile. With RiskCritical only approvals signed with an SSH key count.
type Risk string

// The risks.
const (
	RiskLow      Risk = "low"
	RiskHigh     Risk = "high"
	RiskCritical Risk = "critical"
)

// Policy is a validated, immutable access policy: who exists, what may be asked for, and who must agree. Parse makes
// it; whatever it returns satisfies every rule of this file. It is safe for concurrent use. What its methods return points
// into it and must not be changed.
type Policy struct {
	Digest   string // hex SHA-256 of the file's bytes
	People   []Person
	Teams    []Team
	Clusters []Cluster
	Profiles []Profile
	Limits   Limits

	Responders []string // team ids whose members may revoke any grant, hand in audit events, and acknowledge
	Closing    ClosingRule
	Campaign   CampaignRule // zero: nobody recertifies
	Change     ChangeRule   // of this policy itself

	text      []byte               // of the file
	suspended suspensions          // what recertification took away, as far as it is in force; see Suspending
	cooling   map[string]time.Time // what is new, and from when on approvals by it count; see newest
	find      lookup               // see index
}

// ChangeRule says who must agree to a change of the access policy.
type ChangeRule struct {
	Approvers  string        // team id: two of its members sign what adds or eases; empty: a file is in force as it is read
	Cooling    time.Duration // how long a new key or account does not count for approvals
	ReviewedBy string        // in words, how a second person agrees outside of breakglass, where Approvers is empty
}

// ClosingRule says what is asked for after a grant has ended.
type ClosingRule struct {
	Within      time.Duration // for the closing note and the acknowledgement; zero: neither is asked for
	RaiseQuorum bool          // whoever has an overdue closing needs one approval more, where so many people can approve
}

// Person is a human with one directory id. All accounts and keys of one person are one vote.
type Person struct {
	ID    string                // [a-z0-9._-], at most MaxPersonID characters: it is part of the certificate's name
	Name  string                // for people to read; the id where the policy gives none
	Slack []record.SlackAccount // may be empty: somebody without Slack uses keys
	Keys  []Key                 // SSH keys the CLI signs in with; never empty when Slack is

	// Users and Groups are names that clusters know the person by, besides the id: what is about one of them is about the person.
	Users  []string
	Groups []string // a group may be that of several people
}

// Key is an SSH public key of a person. It is never a certificate, DSA, or RSA below 3072 bits.
type Key struct {
	Fingerprint string // SHA256:…, as ssh-keygen -l prints it
	Public      ssh.PublicKey
	Comment     string
}

// Team is a named, non-empty set of people.
type Team struct {
	ID      string
	Members []string // person ids
}

// Cluster is a cluster that access can be asked for. How the daemon reaches it is configuration, not policy.
type Cluster struct {
	ID     string
	Server string // https URL of the API server, as it goes into kubeconfigs
}

// Profile is what may be asked for.
type Profile struct {
	ID          string
	Description string
	Clusters    []string // cluster ids
	Rights      Rights
	TTL         Lifetime
	Requesters  []string // team ids
	Approvals   ApprovalRule
	ClaimWithin time.Duration // whole seconds
	PendingFor  time.Duration // whole seconds
	ReasonMin   int           // runes
	Incident    IncidentRule
	Risk        Risk
	Guards      []Guard // what the deny webhook keeps its grants from doing, sorted
}

// Lifetime bounds a certificate's life, counted from the claim. Whole seconds.
type Lifetime struct{ Default, Max time.Duration }

// ApprovalRule is the quorum of a profile. For everybody who may ask, enough other people exist who can meet it.
type ApprovalRule struct {
	Count    int              // distinct people, at least MinQuorum
	From     []string         // team ids whose members count
	Each     []string         // team ids that must each give at least one; their members count as well
	Channels []record.Channel // how an approval may be given; with RiskCritical exactly ChannelKey
}

// IncidentRule says whether and how an incident must be named.
type IncidentRule struct {
	Required bool
	Pattern  *regexp.Regexp // anchored at both ends; nil: anything
}

// Limits bound what one person can open.
type Limits struct {
	OpenPerPerson int // requests that wait, or are live, at one time
	PerHour       int // requests opened within an hour
}

// ProfileOnCluster is one thing that can be asked for.
type ProfileOnCluster struct {
	Profile *Profile
	Cluster *Cluster
}

// Person finds a person by directory id.
func (p *Policy) Person(id string) (*Person, bool) {
	return byID(p.People, p.find.people, id, func(x *Person) string { return x.ID })
}

// Team finds a team.
func (p *Policy) Team(id string) (*Team, bool) {
	return byID(p.Teams, p.find.teams, id, func(x *Team) string { return x.ID })
}

// Cluster finds a cluster.
func (p *Policy) Cluster(id string) (*Cluster, bool) {
	return byID(p.Clusters, p.find.clusters, id, func(x *Cluster) string { return x.ID })
}

// Profile finds a profile.
func (p *Policy) Profile(id string) (*Profile, bool) {
	return byID(p.Profiles, p.find.profiles, id, func(x *Profile) string { return x.ID })
}

// PersonBySlack returns the directory id of the person who owns a Slack account. Workspace and user must be those of the
// policy; so must the enterprise, where the policy names one.
func (p *Policy) PersonBySlack(a record.SlackAccount) (string, bool) {
	i, ok := p.find.accounts[record.SlackAccount{Team: a.Team, User: a.User}]
	if !ok || !slices.ContainsFunc(p.People[i].Slack, a.Is) {
		return "", false
	}
	return p.People[i].ID, true
}

// PersonByKey returns the directory id of the person who owns the SSH key with this SHA256:… fingerprint.
func (p *Policy) PersonByKey(fingerprint string) (string, bool) {
	i, ok := p.find.keys[fingerprint]
	if !ok {
		return "", false
	}
	return p.People[i].ID, true
}

// Owns reports whether the account or key by which somebody gave a command still is that person's.
func (p *Policy) Owns(a record.Actor) bool {
	owner, ok := "", false
	switch {
	case a.Channel == record.ChannelKey:
		owner, ok = p.PersonByKey(a.Key)
	case a.Slack != nil:
		owner, ok = p.PersonBySlack(*a.Slack)
	}
	return ok && owner == a.Person
}

// lookup has where things stand in the lists of a policy. It is empty for a policy that is not read from a file.
type lookup struct {
	people, teams, clusters, profiles map[string]int
	keys                              map[string]int              // people, by fingerprint
	accounts                          map[record.SlackAccount]int // people, by team and user, without the enterprise
}

// index fills find, so that what is asked for every person does not look at every person.
func (p *Policy) index() {
	p.find = lookup{people: positions(p.People, func(x *Person) string { return x.ID }), teams: positions(p.Teams,
		func(x *Team) string { return x.ID }),
		clusters: positions(p.Clusters, func(x *Cluster) string { return x.ID }), profiles: positions(p.Profiles,
			func(x *Profile) string { return x.ID }),
		keys: map[string]int{}, accounts: map[record.SlackAccount]int{}}
	for i, x := range p.People {
		for _, k := range x.Keys {
			p.find.keys[k.Fingerprint] = i
		}
		for _, a := range x.Slack {
			p.find.accounts[record.SlackAccount{Team: a.Team, User: a.User}] = i
		}
	}
}

func positions[T any](list []T, id func(*T) string) map[string]int {
	at := make(map[string]int, len(list))
	for i := range list {
		at[id(&list[i])] = i
	}
	return at
}

func byID[T any](list []T, at map[string]int, id string, of func(*T) string) (*T, bool) {
	if at == nil {
		return find(list, func(x *T) bool { return of(x) == id })
	}
	i, ok := at[id]
	if !ok {
		return nil, false
	}
	return &list[i], true
}

func find[T any](list []T, is func(*T) bool) (*T, bool) {
	for i := range list {
		if is(&list[i]) {
			return &list[i], true
		}
	}
	return nil, false
}

// MayRequest reports whether the person may ask for the profile.
func (p *Policy) MayRequest(person string, profile *Profile) bool {
	return slices.Contains(p.Members(profile.Requesters), person)
}

// CheckKnown refuses actors whom the policy does not name, or whose account or key is not, or no longer, theirs by it.
func (p *Policy) CheckKnown(a record.Actor) error {
	if _, ok := p.Person(a.Person); a.Person != "" && ok && p.Owns(a) {
		return nil
	}
	switch {
	case a.Slack != nil:
		return record.Refuse(record.ClassDenied, "unknown-person", "ask for an entry with slack user "+a.Slack.User+" of team "+a.Slack.Team,
			"your Slack account is not in the access policy")
	case a.Key != "":
		return record.Refuse(record.ClassDenied, "unknown-person", "ask for an entry with your public key",
			"SSH key %s is not in the access policy", a.Key)
	}
	return record.Refuse(record.ClassDenied, "unknown-person", "", "you are not in the access policy")
}

// MayRespond reports whether the person is a responder.
func (p *Policy) MayRespond(person string) bool {
	return slices.Contains(p.Members(p.Responders), person)
}

// Eligible lists what the person may ask for, in the order of the policy file.
func (p *Policy) Eligible(person string) []ProfileOnCluster {
	var out []ProfileOnCluster
	for i := range p.Profiles {
		profile := &p.Profiles[i]
		if !p.MayRequest(person, profile) {
			continue
		}
		for _, id := range profile.Clusters {
			if c, ok := p.Cluster(id); ok && !p.Suspended(Eligibility{Person: person, Part: PartRequester, Profile: profile.ID, Cluster: id}) {
				out = append(out, ProfileOnCluster{Profile: profile, Cluster: c})
			}
		}
	}
	return out
}

// Freeze resolves who must approve a request for the profile as the teams are now. The result shares nothing with the policy.
func (p *Policy) Freeze(profile *Profile) Quorum {
	freeze := func(ids []string) []FrozenTeam {
		var out []FrozenTeam
		for _, id := range ids {
			out = append(out, FrozenTeam{ID: id, Members: p.Members([]string{id})})
		}
		return out
	}
	rule := profile.Approvals
	return Quorum{Count: rule.Count, From: freeze(rule.From), Each: freeze(rule.Each), Channels: slices.Clone(rule.Channels)}
}

// Quorums lists the part of every profile that must not get weaker unnoticed, sorted throughout.
func (p *Policy) Quorums() []ProfileQuorum {
	var out []ProfileQuorum
	for _, x := range p.Profiles {
		out = append(out, ProfileQuorum{
			Profile:  x.ID,
			Count:    x.Approvals.Count,
			From:     slices.Sorted(slices.Values(x.Approvals.From)),
			Each:     slices.Sorted(slices.Values(x.Approvals.Each)),
			Channels: slices.Sorted(slices.Values(x.Approvals.Channels)),
			Guards:   x.Guards,
		})
	}
	slices.SortFunc(out, func(a, b ProfileQuorum) int { return strings.Compare(a.Profile, b.Profile) })
	return out
}

// Members lists everybody in any of the teams, sorted, each once.
func (p *Policy) Members(teams []string) []string {
	var out []string
	for _, id := range teams {
		if t, ok := p.Team(id); ok {
			out = append(out, t.Members...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Reachable reports whether enough people other than the requester can approve for the quorum to be met.
func (p *Policy) Reachable(q Quorum, requester string) bool {
	var all []Approval
	for _, id := range q.People() {
		x, ok := p.Person(id)
		if !ok || id == requester {
			continue
		}
		for _, ch := range q.Channels {
			if ch == record.ChannelSlack && len(x.Slack) > 0 || ch == record.ChannelKey && len(x.Keys) > 0 {
				all = append(all, Approval{By: record.Actor{Person: id, Channel: ch}})
			}
		}
	}
	return len(q.Missing(all)) == 0
}

// Approves reports whether the person's approval counts for a profile on the cluster.
func (p *Policy) Approves(person, cluster string) bool {
	return slices.ContainsFunc(p.Profiles, func(x Profile) bool {
		return slices.Contains(x.Clusters, cluster) && p.Freeze(&x).Counts(person)
	})
}

// stuck says whose requests for the profile nobody could ever approve, and why. It needs no search: one more approval never
// makes a quorum worse, so a quorum can be met exactly if it is met once everybody who can approve has.
func (p *Policy) stuck(profile *Profile) []string {
	q := p.Freeze(profile)
	able := slices.DeleteFunc(q.People(), func(id string) bool { return !p.Able(id, q.Channels) })
	can := map[string]bool{}
	for _, id := range able {
		can[id] = true
	}
	each := make([]map[string]bool, len(q.Each)) // of each team that must agree, who can
	for i, t := range q.Each {
		each[i] = map[string]bool{}
		for _, id := range t.Members {
			if can[id] {
				each[i][id] = true
			}
		}
	}
	without := func(set map[string]bool, id string) int {
		if set[id] {
			return len(set) - 1
		}
		return len(set)
	}
	by := string(q.Channels[0])
	if len(q.Channels) > 1 {
		by = "slack or key"
	}
	whose := map[string][]string{}
	var reasons []string
	for _, requester := range p.Members(profile.Requesters) {
		var why []string
		if without(can, requester) < q.Count {
			who := "nobody"
			if others := slices.DeleteFunc(slices.Clone(able), func(id string) bool { return id == requester }); len(others) > 0 {
				who = "only " + record.JoinAnd(others)
			}
			why = append(why, fmt.Sprintf("%d people must approve by %s and %s can", q.Count, by, who))
		}
		for i, t := range q.Each {
			if without(each[i], requester) == 0 {
				why = append(why, fmt.Sprintf("nobody else in team %s can approve by %s", t.ID, by))
			}
		}
		if len(why) == 0 {
			continue
		}
		reason := strings.Join(why, ", and ")
		if whose[reason] == nil {
			reasons = append(reasons, reason)
		}
		whose[reason] = append(whose[reason], requester)
	}
	var out []string
	for _, reason := range reasons {
		out = append(out, fmt.Sprintf("no request by %s could ever be approved: %s", record.JoinAnd(whose[reason]), reason))
	}
	return out
}

// Parse reads an access policy and checks all of it. The name is for messages only. YAML is read strictly: one
// document, known keys, no aliases, anchors or tags, and every value of the type that the key needs. The error is a
// [*strictyaml.Error] with every problem of the file; only what would follow from a problem already named is left out. No problem
// repeats key material.
func Parse(name string, data []byte) (*Policy, error) {
	r := &policyReader{accounts: map[record.SlackAccount]string{}, keys: map[string]string{},
		users: map[string]string{}}
	r.read(data)
	if err := r.Err(name); err != nil {
		return nil, err
	}
	r.policy.index()
	r.policy.Digest, r.policy.text = text.SHA256(data), slices.Clone(data)
	return &r.policy, nil
}

// policyReader is the state of one Parse.
type policyReader struct {
	strictyaml.Reader
	policy   Policy
	accounts map[record.SlackAccount]string // owner by team and user, without the enterprise: a workspace belongs to one at most
	keys     map[string]string              // owner by fingerprint
	users    map[string]string              // owner by user name in clusters
}

func (r *policyReader) read(data []byte) {
	root, ok := r.Document(data, "the access policy", "start from policies/access.example.yaml")
	if !ok {
		return
	}
	o, ok := root.Object("version", "people", "teams", "clusters", "profiles", "limits", "responders", "closing", "recertification", "policy")
	if !ok {
		return
	}
	version, ok := o.Need("version").Integer(0, 1000)
	if ok && version != 1 {
		r.Problems = nil // another version has other keys
		o.At("version").Wrong("version %d is unknown; this program reads version 1", version)
		return
	}
	before := len(r.Problems)
	for _, v := range o.Section("people", "person") {
		r.person(v)
	}
	for _, v := range o.Section("teams", "team") {
		r.team(v)
	}
	peopleRead := len(r.Problems) == before
	if peopleRead {
		r.policy.index()
	}
	for _, v := range o.Section("clusters", "cluster") {
		r.cluster(v)
	}
	for _, v := range o.Section("profiles", "profile") {
		r.profile(v, peopleRead)
	}
	r.policy.Limits = Limits{OpenPerPerson: defaultOpenPerPerson, PerHour: defaultPerHour}
	if limits, ok := o.At("limits").Object("openPerPerson", "perHour"); ok {
		if n, ok := limits.At("openPerPerson").Integer(1, 100); ok {
			r.policy.Limits.OpenPerPerson = n
		}
		if n, ok := limits.At("perHour").Integer(1, 1000); ok {
			r.policy.Limits.PerHour = n
		}
	}
	r.policy.Responders = o.At("responders").References("team")
	if closing, ok := o.At("closing").Object("within", "raiseQuorum"); ok {
		if d, ok := closing.Need("within").Duration(maxClosing); ok {
			r.policy.Closing.Within = d
		}
		r.policy.Closing.RaiseQuorum, _ = closing.At("raiseQuorum").Boolean()
	}
	r.recertification(o.At("recertification"), peopleRead)
	r.change(o.At("policy"), peopleRead)
}

// change reads who must agree to a change of the policy itself.
func (r *policyReader) change(v strictyaml.Value, peopleRead bool) {
	rule := ChangeRule{Cooling: defaultCooling}
	defer func() { r.policy.Change = rule }()
	o, ok := v.Object("approvers", "cooling", "reviewedBy")
	if !ok {
		return
	}
	if d, ok := o.At("cooling").Duration(maxCooling); ok {
		rule.Cooling = d
	}
	rule.ReviewedBy, _ = o.At("reviewedBy").Text(maxText)
	if rule.Approvers = o.At("approvers").Reference("team"); rule.Approvers == "" {
		return
	}
	if o.Has("reviewedBy") {
		o.At("reviewedBy").Wrong("with approvers two people of %s agree in breakglass itself; remove it, or approvers", rule.Approvers)
	}
	able := slices.DeleteFunc(r.policy.Members([]string{rule.Approvers}), func(id string) bool {
		return !r.policy.Able(id,
			[]record.Channel{record.ChannelKey})
	})
	if peopleRead && len(able) < MinQuorum {
		o.At("approvers").Wrong("%d people of team %s must sign a change with their SSH keys and %s can; give its members keys, or name a "+
			"larger team",
			MinQuorum, rule.Approvers, cmp.Or(record.JoinAnd(able), "nobody"))
	}
}

func (r *policyReader) person(v strictyaml.Value) {
	o, ok := v.Object("id", "name", "slack", "keys", "users", "groups")
	if !ok {
		return
	}
	p := Person{ID: o.Need("id").NewID("person", MaxPersonID)}
	if p.Name, ok = o.At("name").Text(maxText); !ok {
		p.Name = p.ID
	}
	for _, s := range o.At("slack").List() {
		if account, ok := r.slackAccount(s, p.ID); ok {
			p.Slack = append(p.Slack, account)
		}
	}
	for _, k := range o.At("keys").List() {
		if key, ok := r.key(k, p.ID); ok {
			p.Keys = append(p.Keys, key)
		}
	}
	p.Users = clusterNames(o.At("users"))
	for i, name := range p.Users {
		if other, taken := r.users[name]; taken {
			o.At("users").List()[i].Wrong("the user %s belongs to %s already; one user is one person", strictyaml.Shown(name), other)
		}
		r.users[name] = p.ID
	}
	p.Groups = clusterNames(o.At("groups"))
	if !o.Has("slack") && !o.Has("keys") && !o.Misspelt() {
		v.Wrong("has neither a Slack account nor a key and so could do nothing; add slack or keys")
	}
	r.policy.People = append(r.policy.People, p)
}

// clusterNames reads names of users or groups as clusters have them.
func clusterNames(v strictyaml.Value) []string {
	var out []string
	for _, at := range v.List() {
		name, ok := at.Text(maxClusterName)
		switch {
		case !ok:
			continue
		case strings.HasPrefix(name, CommonNamePrefix):
			at.Wrong("names that begin with %s are given out by breakglass alone; remove it", CommonNamePrefix)
		case slices.Contains(out, name):
			at.Wrong("%s is listed twice; remove one", strictyaml.Shown(name))
		}
		out = append(out, name)
	}
	return out
}

func (r *policyReader) slackAccount(v strictyaml.Value, owner string) (record.SlackAccount, bool) {
	o, ok := v.Object("enterprise", "team", "user")
	if !ok {
		return record.SlackAccount{}, false
	}
	field := func(v strictyaml.Value, key, example string) (string, bool) {
		s, ok := v.Text(maxText)
		if ok && !slackPatterns[key]().MatchString(s) {
			v.Wrong("%s is not a Slack %s id; it looks like %s, names and e-mail addresses are never identities", strictyaml.Shown(s), key, example)
			return "", false
		}
		return s, ok
	}
	enterprise, enterpriseOK := field(o.At("enterprise"), "enterprise", "E0123ABCD")
	team, teamOK := field(o.Need("team"), "team", "T0123ABCD")
	user, userOK := field(o.Need("user"), "user", "U0123ABCD")
	if !teamOK || !userOK || (o.Has("enterprise") && !enterpriseOK) {
		return record.SlackAccount{}, false
	}
	place := record.SlackAccount{Team: team, User: user}
	switch other, taken := r.accounts[place]; {
	case taken && other == owner:
		v.Wrong("the Slack account %s/%s is listed twice; remove one", team, user)
		return record.SlackAccount{}, false
	case taken:
		v.Wrong("the Slack account %s/%s belongs to %s already; one account is one person", team, user, other)
		return record.SlackAccount{}, false
	}
	r.accounts[place] = owner
	return record.SlackAccount{Enterprise: enterprise, Team: team, User: user}, true
}

// key reads one line in the form of authorized_keys. What is wrong with it is said without repeating it.
func (r *policyReader) key(v strictyaml.Value, owner string) (Key, bool) {
	if strings.Contains(v.Raw(), "PRIVATE KEY") {
		v.Wrong("this is a private key: consider it stolen and delete it everywhere; put the line of a new key's .pub file here")
		return Key{}, false
	}
	line, ok := v.Text(strictyaml.MaxBytes)
	if !ok {
		return Key{}, false
	}
	public, comment, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || len(rest) > 0 {
		v.Wrong("not an SSH public key; put the one line of a .pub file here, like \"ssh-ed25519 AAAA… alice\"")
		return Key{}, false
	}
	if len(options) > 0 {
		v.Wrong("options stand before the key; remove them, only the key itself belongs here")
		return Key{}, false
	}
	if _, is := public.(*ssh.Certificate); is {
		v.Wrong("this is an SSH certificate; put the plain public key here")
		return Key{}, false
	}
	switch public.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKECDSA256:
	case ssh.KeyAlgoRSA:
		if bits := rsaBits(public); bits < minRSABits {
			v.Wrong("an RSA key of %d bits is too weak; use ssh-ed25519 or RSA of at least %d bits", bits, minRSABits)
			return Key{}, false
		}
	default:
		v.Wrong("keys of type %s are too weak; use ssh-ed25519", public.Type())
		return Key{}, false
	}
	fingerprint := ssh.FingerprintSHA256(public)
	switch other, taken := r.keys[fingerprint]; {
	case taken && other == owner:
		v.Wrong("the key %s is listed twice; remove one", fingerprint)
		return Key{}, false
	case taken:
		v.Wrong("the key %s belongs to %s already; one key is one person", fingerprint, other)
		return Key{}, false
	}
	r.keys[fingerprint] = owner
	return Key{Fingerprint: fingerprint, Public: public, Comment: comment}, true
}

func rsaBits(k ssh.PublicKey) int {
	c, ok := k.(ssh.CryptoPublicKey)
	if !ok {
		return 0
	}
	public, ok := c.CryptoPublicKey().(*rsa.PublicKey)
	if !ok {
		return 0
	}
	return public.N.BitLen()
}

func (r *policyReader) team(v strictyaml.Value) {
	if o, ok := v.Object("id", "members"); ok {
		t := Team{ID: o.Need("id").NewID("team", maxID), Members: o.Need("members").References("person")}
		r.policy.Teams = append(r.policy.Teams, t)
	}
}

func (r *policyReader) cluster(v strictyaml.Value) {
	o, ok := v.Object("id", "server")
	if !ok {
		return
	}
	c := Cluster{ID: o.Need("id").NewID("cluster", maxID)}
	at := o.Need("server")
	if c.Server, ok = at.Text(maxText); ok {
		if text := serverProblem(c.Server); text != "" {
			at.Wrong("%s; write it like https://10.20.0.1:6443", text)
		}
	}
	r.policy.Clusters = append(r.policy.Clusters, c)
}

// serverProblem says what is wrong with the address of an API server. People compare this address before they approve and
// kubectl sends credentials there, so nothing but scheme, host and port may be in it.
func serverProblem(s string) string {
	if strings.Contains(s, "@") {
		return "a user name or password stands in the URL" // and is not repeated
	}
	u, err := url.Parse(s)
	if err != nil {
		return strictyaml.Shown(s) + " is not a URL"
	}
	port := 443
	if u.Port() != "" {
		port, err = strconv.Atoi(u.Port())
	}
	switch {
	case u.Scheme != "https":
		return strictyaml.Shown(s) + " is not an https URL"
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(s, "#"):
		return "a query or fragment stands in the URL"
	case u.Path != "" || u.Opaque != "":
		return fmt.Sprintf("a path (%s) stands in the URL", strictyaml.Shown(u.Path+u.Opaque))
	case !hostPattern().MatchString(u.Host):
		return strictyaml.Shown(s) + " has no valid host"
	case err != nil || port < 1 || port > 65535 || strings.HasSuffix(s, ":"):
		return strictyaml.Shown(s) + " has no valid port"
	}
	return ""
}

func (r *policyReader) profile(v strictyaml.Value, peopleRead bool) {
	before := len(r.Problems)
	o, ok := v.Object("id", "description", "clusters", "bind", "ttl", "requesters", "approvals", "claimWithin", "pendingFor", "reason",
		"incident", "risk", "guards")
	if !ok {
		return
	}
	p := Profile{ClaimWithin: defaultClaimWithin, PendingFor: defaultPendingFor, ReasonMin: defaultReasonMin, Risk: RiskHigh}
	p.ID = o.Need("id").NewID("profile", maxID)
	p.Description, _ = o.At("description").Text(maxText)
	p.Clusters = o.Need("clusters").References("cluster")
	p.Rights = rights(o.Need("bind"))
	p.TTL = lifetime(o.Need("ttl"))
	p.Requesters = o.Need("requesters").References("team")
	if risk, ok := o.At("risk").Choice("low", "high", "critical"); ok {
		p.Risk = Risk(risk)
	}
	p.Approvals = approvalRule(o.Need("approvals"), p.Risk)
	if d, ok := o.At("claimWithin").Duration(maxSpan); ok {
		p.ClaimWithin = d
	}
	if d, ok := o.At("pendingFor").Duration(maxSpan); ok {
		p.PendingFor = d
	}
	if reason, ok := o.At("reason").Object("min"); ok {
		if n, ok := reason.Need("min").Integer(1, maxReasonMin); ok {
			p.ReasonMin = n
		}
	}
	p.Incident = incidentRule(o.At("incident"))
	p.Guards = guards(o.At("guards"))
	r.policy.Profiles = append(r.policy.Profiles, p)
	if !peopleRead || len(r.Problems) > before {
		return // it would only repeat, in other words, what is wrong already
	}
	for _, why := range r.policy.stuck(&p) {
		o.At("approvals").Wrong("%s; add people, give them what they need to approve, or ask for less", why)
	}
}

func rights(v strictyaml.Value) Rights {
	o, ok := v.Object("clusterRole", "role", "group", "namespaces")
	if !ok {
		return Rights{}
	}
	name := func(key string) string {
		at := o.At(key)
		s, ok := at.Text(maxText)
		if ok && (!rolePattern().MatchString(s) || s == "system:masters") {
			at.Wrong("%s cannot be the name of a %s; name one that exists in the cluster", strictyaml.Shown(s), key)
		}
		return s
	}
	out := Rights{ClusterRole: name("clusterRole"), Role: name("role")}
	if out.Group, ok = o.At("group").Text(maxText); ok && (!groupPattern().MatchString(out.Group) || len(out.Group) > maxGroup) {
		o.At("group").Wrong("%s is not allowed as a group; write breakglass: and then letters, digits and hyphens, at most %d characters, and "+
			"bind it in the cluster", strictyaml.Shown(out.Group), maxGroup)
	}
	for _, at := range o.At("namespaces").List() {
		ns, ok := at.Text(maxText)
		if ok && !namespacePattern().MatchString(ns) {
			at.Wrong("%s is not a namespace name; use lower-case letters, digits and hyphens", strictyaml.Shown(ns))
		}
		if ok && slices.Contains(out.Namespaces, ns) {
			at.Wrong("%s is listed twice; remove one", ns)
		}
		out.Namespaces = append(out.Namespaces, ns)
	}
	slices.Sort(out.Namespaces)
	set := 0
	for _, key := range []string{"clusterRole", "role", "group"} {
		if o.Has(key) {
			set++
		}
	}
	switch {
	case set != 1:
		v.Wrong("%d of clusterRole, role and group are given; give exactly one", set)
	case o.Has("role") && !o.Has("namespaces"):
		v.Wrong("a role holds in namespaces; add namespaces, or bind a clusterRole")
	case o.Has("group") && o.Has("namespaces"):
		o.At("namespaces").Wrong("namespaces do not go with group: the cluster's own bindings decide where a group holds; remove them")
	}
	return out
}

func lifetime(v strictyaml.Value) Lifetime {
	o, ok := v.Object("default", "max")
	if !ok {
		return Lifetime{}
	}
	standard, standardOK := o.Need("default").Duration(maxSpan)
	longest, longestOK := o.Need("max").Duration(maxSpan)
	if standardOK && longestOK && standard > longest {
		o.At("default").Wrong("%s is longer than max, %s; lower it or raise max", text.Span(standard), text.Span(longest))
	}
	return Lifetime{Default: standard, Max: longest}
}

func approvalRule(v strictyaml.Value, risk Risk) ApprovalRule {
	o, ok := v.Object("count", "from", "each", "channels")
	if !ok {
		return ApprovalRule{}
	}
	var out ApprovalRule
	out.Count, ok = o.Need("count").Integer(0, 1000)
	if ok && out.Count < MinQuorum {
		o.At("count").Wrong("%d is below the floor of %d people besides the requester; write %d or more", out.Count, MinQuorum, MinQuorum)
	}
	out.From = o.Need("from").References("team")
	out.Each = o.At("each").References("team")
	out.Channels = []record.Channel{record.ChannelSlack, record.ChannelKey}
	if risk == RiskCritical {
		out.Channels = []record.Channel{record.ChannelKey}
	}
	if !o.Has("channels") {
		return out
	}
	out.Channels = nil
	for _, at := range o.At("channels").List() {
		c, ok := at.Choice(string(record.ChannelSlack), string(record.ChannelKey))
		switch {
		case !ok:
			continue
		case slices.Contains(out.Channels, record.Channel(c)):
			at.Wrong("%s is listed twice; remove one", c)
		case risk == RiskCritical && record.Channel(c) == record.ChannelSlack:
			at.Wrong("with risk critical only signed approvals count; write channels: [key]")
		}
		out.Channels = append(out.Channels, record.Channel(c))
	}
	return out
}

// guards reads the names of guards; "all" stands for every one.
func guards(v strictyaml.Value) []Guard {
	known := slices.Sorted(maps.Keys(Guards()))
	var out []Guard
	for _, at := range v.List() {
		names := append([]string{"all"}, words(known, guardWord)...)
		g, ok := at.Choice(names...)
		switch {
		case !ok:
		case g == "all":
			out = append(out, known...)
		case slices.Contains(out, Guard(g)):
			at.Wrong("%s is listed twice; remove one", g)
		default:
			out = append(out, Guard(g))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func incidentRule(v strictyaml.Value) IncidentRule {
	o, ok := v.Object("required", "pattern")
	if !ok {
		return IncidentRule{}
	}
	var out IncidentRule
	out.Required, _ = o.At("required").Boolean()
	at := o.At("pattern")
	expr, ok := at.Text(maxText)
	if !ok {
		return out
	}
	tree, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		at.Wrong("not a regular expression: %v; write one in Go's syntax (RE2)", err)
		return out
	}
	if !anchored(tree, syntax.OpBeginText) || !anchored(tree, syntax.OpEndText) {
		at.Wrong("not anchored, so it would also match inside other text; write it like ^(?:…)$")
		return out
	}
	if out.Pattern, err = regexp.Compile(expr); err != nil {
		at.Wrong("not a regular expression: %v; write one in Go's syntax (RE2)", err)
	}
	return out
}

// anchored reports whether every match begins (OpBeginText) or ends (OpEndText) where the text does.
func anchored(re *syntax.Regexp, edge syntax.Op) bool {
	switch re.Op {
	case edge:
		return true
	case syntax.OpCapture:
		return anchored(re.Sub[0], edge)
	case syntax.OpConcat:
		if edge == syntax.OpBeginText {
			return anchored(re.Sub[0], edge)
		}
		return anchored(re.Sub[len(re.Sub)-1], edge)
	case syntax.OpAlternate:
		return !slices.ContainsFunc(re.Sub, func(sub *syntax.Regexp) bool { return !anchored(sub, edge) })
	default:
		return false
	}
}
