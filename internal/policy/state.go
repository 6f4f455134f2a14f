package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/record"
)

// State is the fold of [Stream]: the policy in force, who agreed to it, and what waits. The service and the audit share it.
type State struct {
	Rev           int64  // entries of the stream
	Loaded        Loaded // in force
	Entry         string // digest of its leaf
	Since         time.Time
	Kept          bool                 // an entry with the text of a policy was seen
	Policy        *Policy              // in force; nil: its text is not in the ledger (any more), or not readable
	Unread        error                // why policy is nil
	Agreed        bool                 // two people have signed it, or all that it was made of
	accepted      bool                 // an operator had it, or one that it was made of, put in force; until two people agree
	Cooling       map[string]time.Time // by what is new, see credentials and places: from when on approvals by it count
	agreedCooling time.Duration        // the shortest cooling-off time that was agreed to

	Waits   *Proposed
	Waiting string    // digest of its leaf
	Next    *Policy   // what waits; nil: not readable
	Asked   time.Time // when it began to wait
	signed  map[string][]Signed
}

// Guarded reports whether two people must agree to what the policy in force does not have.
func (st *State) Guarded() bool { return st.Policy != nil && st.Policy.Change.Approvers != "" }

// Unconfirmed reports whether the policy in force is one that only an operator has agreed to, though two people must.
func (st *State) Unconfirmed() bool { return st.Guarded() && !st.Agreed || st.accepted }

// Apply adds one entry. With proof, signatures are checked, and whether what nobody signed really only takes away.
func (st *State) Apply(e ledger.Entry, ev record.Event, proof bool) error {
	if st.signed == nil {
		st.signed, st.Cooling = map[string][]Signed{}, map[string]time.Time{}
	}
	st.Rev = e.StreamSeq
	switch ev := ev.(type) {
	case Loaded:
		return st.load(e, ev, proof)
	case Proposed:
		p, err := policyIn(e, ev.Digest)
		if ev.Base != st.Loaded.Digest {
			return fmt.Errorf("proposes a change of %s, in force is %s", ev.Base, st.Loaded.Digest)
		}
		delete(st.signed, st.Waiting)
		st.Waits, st.Waiting, st.Next, st.Asked = &ev, record.LeafDigest(e), p, e.Time
		if proof && len(e.Texts) > 0 && err != nil {
			return err
		}
	case Dropped:
		if st.Waits == nil || st.Waits.Digest != ev.Digest {
			return fmt.Errorf("%s does not wait", ev.Digest)
		}
		st.drop()
	case Signed:
		return st.sign(e.Time, ev, proof)
	default:
		return fmt.Errorf("does not belong to the access policy")
	}
	return nil
}

func (st *State) drop() {
	delete(st.signed, st.Waiting)
	st.Waits, st.Waiting, st.Next = nil, "", nil
}

// sign takes a person's word.
func (st *State) sign(at time.Time, ev Signed, proof bool) error {
	if st.Policy != nil { // else the ledger is without texts, and only the signature can be checked
		if err := st.MaySign(ev, at); err != nil {
			return err
		}
	}
	if proof {
		if err := ev.Verify(); err != nil {
			return err
		}
	}
	st.signed[ev.Entry] = append(slices.Clone(st.signed[ev.Entry]), ev)
	if people, waived := st.Signers(ev.Entry); ev.Entry == st.Entry && len(people) >= MinQuorum {
		st.Agreed, st.accepted = true, false
		if st.Policy != nil {
			st.agreedCooling = st.Policy.Change.Cooling
		}
		if waived {
			st.Cooling = map[string]time.Time{}
		}
	}
	return nil
}

// MaySign says why a signature would not count: it is for another policy, or not by one of those who must agree.
func (st *State) MaySign(ev Signed, at time.Time) error {
	digest := ""
	switch {
	case ev.Entry == "":
	case ev.Entry == st.Entry:
		digest = st.Loaded.Digest
	case ev.Entry == st.Waiting:
		digest = st.Waits.Digest
	}
	switch {
	case digest == "" || digest != ev.Digest || ev.Base != st.Loaded.Digest:
		return fmt.Errorf("what was signed is neither the access policy that waits nor the one in force")
	case st.Policy == nil:
		return fmt.Errorf("the access policy in force is not readable, so nobody is known who could sign: %w", st.Unread)
	case !st.Guarded():
		return fmt.Errorf("the access policy in force names nobody who signs changes")
	case ev.By.Channel != record.ChannelKey || !st.Policy.Owns(ev.By):
		return fmt.Errorf("%s is not a key of %s", ev.By.Key, ev.By.Person)
	case !slices.Contains(st.Policy.Members([]string{st.Policy.Change.Approvers}), ev.By.Person):
		return fmt.Errorf("%s is not in team %s, which signs changes", ev.By.Person, st.Policy.Change.Approvers)
	case at.Before(st.Cooling[credentialOf(ev.By)]):
		return fmt.Errorf("the key %s is new and counts from %s", ev.By.Key, st.Cooling[credentialOf(ev.By)].UTC().Format(time.RFC3339))
	}
	for _, before := range st.signed[ev.Entry] {
		if before.By.Person == ev.By.Person && (before.Waive || !ev.Waive) {
			return ErrSignedAlready
		}
	}
	return nil
}

// ErrSignedAlready is why a second signature of the same person does not count.
var ErrSignedAlready = fmt.Errorf("this person has signed it already")

// Signers is who has signed for an entry, and whether two of them let new keys and accounts count at once.
func (st *State) Signers(entry string) (people []string, waived bool) {
	var waivers []string
	for _, s := range st.signed[entry] {
		if people = append(people, s.By.Person); s.Waive {
			waivers = append(waivers, s.By.Person)
		}
	}
	slices.Sort(people)
	slices.Sort(waivers)
	return slices.Compact(people), len(slices.Compact(waivers)) >= MinQuorum
}

// load puts a policy in force.
func (st *State) load(e ledger.Entry, ev Loaded, proof bool) error {
	if ev.Why == "" { // of a release before policies were kept and agreed to
		if st.Kept {
			return fmt.Errorf("says nothing of why it is in force, which an entry before did")
		}
		*st = State{Rev: e.StreamSeq, Loaded: ev, Entry: record.LeafDigest(e), Since: e.Time, signed: map[string][]Signed{},
			Cooling: map[string]time.Time{},
			Unread:  fmt.Errorf("it was recorded by an earlier release, without its text")}
		return nil
	}
	p, err := policyIn(e, ev.Digest)
	if proof {
		if verr := st.mayLoad(e, ev, p, err); verr != nil {
			return verr
		}
	}
	waived := false
	switch ev.Why {
	case WhySigned: // they have seen the change, and not what it is a change of: that is agreed to or it is not
		_, waived = st.Signers(st.Waiting)
	case WhyLess:
	case WhyFirst:
		st.Agreed, st.accepted = false, false
	default:
		st.Agreed, st.accepted = false, st.accepted || ev.Why == WhyAccepted
	}
	st.cool(e.Time, ev, p, waived)
	st.Loaded, st.Entry, st.Since, st.Kept, st.Policy, st.Unread = ev, record.LeafDigest(e), e.Time, true, p, err
	if p != nil { // the entry has only what its text does not
		for _, q := range ev.Quorums {
			if _, there := p.Profile(q.Profile); there {
				return fmt.Errorf("remembers profile %s as gone, which is in the policy", q.Profile)
			}
		}
		st.Loaded.Quorums, st.Loaded.Teams = slices.Concat(p.Quorums(), ev.Quorums), FrozenTeams(p)
	}
	st.signed = map[string][]Signed{}
	st.drop()
	return nil
}

// mayLoad says why a policy cannot have come in force.
func (st *State) mayLoad(e ledger.Entry, ev Loaded, p *Policy, unread error) error {
	if ev.Why != WhyFirst && ev.Base != st.Loaded.Digest {
		return fmt.Errorf("follows the policy %s, in force is %s", ev.Base, st.Loaded.Digest)
	}
	if unread != nil && len(e.Texts) > 0 {
		return unread
	}
	switch ev.Why {
	case WhyFirst:
		if st.Kept {
			return fmt.Errorf("says that it is the first one, which it is not")
		}
	case WhyFile:
		if st.Guarded() {
			return fmt.Errorf("two people of %s had to agree to this policy, and nobody did", st.Policy.Change.Approvers)
		}
	case WhyLess:
		if st.Policy != nil && p != nil {
			if more := Eases(st.Policy, p); len(more) > 0 {
				return fmt.Errorf("nobody agreed to it, and it does more than take away: %s", record.Clip(strings.Join(more, "; "), 500))
			}
		}
	case WhyAccepted:
	case WhySigned:
		people, _ := st.Signers(st.Waiting)
		if st.Waits == nil || st.Waits.Digest != ev.Digest || ev.Proposal != st.Waiting {
			return fmt.Errorf("says that it was signed, but it did not wait")
		}
		if len(people) < MinQuorum {
			return fmt.Errorf("%d people had to sign it, and %d did", MinQuorum, len(people))
		}
	default:
		return fmt.Errorf("is in force for an unknown reason, %q", record.Clip(ev.Why, 40))
	}
	return nil
}

// cool notes from when on the keys and accounts that are new count for approvals. The longer of the two policies' times holds while
// nobody has agreed to a shorter one. Where nobody need agree, a new member of a team and a new profile wait as well.
func (st *State) cool(at time.Time, ev Loaded, p *Policy, waived bool) {
	if p == nil {
		return
	}
	wait := max(st.agreedCooling, p.Change.Cooling)
	switch ev.Why {
	case WhySigned:
		if wait = st.agreedCooling; st.Agreed {
			st.agreedCooling = p.Change.Cooling
		} else {
			st.agreedCooling = max(wait, p.Change.Cooling)
		}
	case WhyFirst:
		st.Cooling, st.agreedCooling = map[string]time.Time{}, p.Change.Cooling
		return
	default:
		st.agreedCooling = wait
	}
	cooling := map[string]time.Time{}
	note := func(had, have map[string]string, counts bool) {
		for c, owner := range have {
			switch before, is := had[c]; {
			case waived:
			case is && before == owner:
				if until := st.Cooling[c]; at.Before(until) {
					cooling[c] = until
				}
			case !counts:
				cooling[c] = at.Add(wait)
			}
		}
	}
	old := cmp.Or(st.Policy, &Policy{})
	note(old.Credentials(), p.Credentials(), false)
	note(old.Places(), p.Places(), ev.Why != WhyFile)
	st.Cooling = cooling
}

// InForce is the policy in force with what is cooling off.
func (st *State) InForce() *Policy {
	p := *st.Policy
	p.cooling = st.Cooling
	return &p
}

// NotCooling refuses an approval by a key or account that is new, or, where no team agrees to changes, of a new member of a team
// or for a new profile.
func (p *Policy) NotCooling(a record.Actor, q Quorum, profile string, now time.Time) error {
	new, until := Newest(p.cooling, a, q, profile)
	if !now.Before(until) {
		return nil
	}
	what, next := "your Slack account is", "approve by a key or account that you had before, or have another approver do it"
	switch kind, id, _ := strings.Cut(new, "/"); kind {
	case "key":
		what = "your key " + a.Key + " is"
	case "team":
		team, _, _ := strings.Cut(id, "/")
		what, next = "you are, in team "+team+",", "have another approver do it"
	case "profile":
		what, next = "the profile "+id+" is", "ask for another one"
	}
	if t := p.Change.Approvers; t != "" {
		next += "; two people of " + t + " can waive it: breakglass policy approve " + p.Digest[:12] + " --waive-cooling"
	} else {
		next += "; if the access policy names a team that signs its changes (policy: {approvers: TEAM}), two of its people can waive it"
	}
	return record.Refuse(record.ClassPolicy, "policy/cooling", next, "%s new in the access policy: approvals count from %s", what,
		until.UTC().Format("2006-01-02 15:04 UTC"))
}

// Newest is what of all that an approval rests on begins to count last, and when: the key or account, the membership in each team of
// the quorum, the profile.
func Newest(cooling map[string]time.Time, a record.Actor, q Quorum, profile string) (what string, until time.Time) {
	of := []string{credentialOf(a), profilePlace(profile)}
	for _, t := range slices.Concat(q.From, q.Each) {
		if slices.Contains(t.Members, a.Person) {
			of = append(of, teamPlace(t.ID, a.Person))
		}
	}
	for _, c := range of {
		if cooling[c].After(until) {
			what, until = c, cooling[c]
		}
	}
	return what, until
}

// Places is everybody's place in a team and every profile, and whose it is.
func (p *Policy) Places() map[string]string {
	out := map[string]string{}
	for _, t := range p.Teams {
		for _, id := range t.Members {
			out[teamPlace(t.ID, id)] = id
		}
	}
	for _, x := range p.Profiles {
		out[profilePlace(x.ID)] = ""
	}
	return out
}

func teamPlace(team, person string) string { return "team/" + team + "/" + person }

func profilePlace(profile string) string { return "profile/" + profile }

// Credentials is every key and account and whose it is.
func (p *Policy) Credentials() map[string]string {
	out := map[string]string{}
	for _, x := range p.People {
		for _, k := range x.Keys {
			out["key/"+k.Fingerprint] = x.ID
		}
		for _, a := range x.Slack {
			out["slack/"+a.Team+"/"+a.User] = x.ID
		}
	}
	return out
}

// credentialOf is the key or account that a command came by, as in credentials.
func credentialOf(a record.Actor) string {
	switch {
	case a.Channel == record.ChannelKey:
		return "key/" + a.Key
	case a.Slack != nil:
		return "slack/" + a.Slack.Team + "/" + a.Slack.User
	}
	return ""
}

// PublicKey is a person's key as an entry has it.
func (p *Policy) PublicKey(person, fingerprint string) (string, bool) {
	x, ok := p.Person(person)
	if !ok {
		return "", false
	}
	k, ok := find(x.Keys, func(k *Key) bool { return k.Fingerprint == fingerprint })
	if !ok {
		return "", false
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.Public))), true
}

// WhyWords says in words why a policy is in force.
func WhyWords(why string) string {
	return cmp.Or(map[string]string{
		WhyFirst:    "the first that this ledger keeps",
		WhyFile:     "read from the file: it names no team that must agree to changes",
		WhyLess:     "only takes away from the one before",
		WhySigned:   "signed by two people",
		WhyAccepted: "an operator started the daemon with --accept-weaker",
	}[why], "recorded by an earlier release")
}
