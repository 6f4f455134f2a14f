package breakglass

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/breakglassd/breakglass/internal/ledger"
)

// policyState is the fold of PolicyStream: the policy in force, who agreed to it, and what waits. The service and the audit share it.
type policyState struct {
	rev           int64        // entries of the stream
	loaded        PolicyLoaded // in force
	entry         string       // digest of its leaf
	since         time.Time
	kept          bool                 // an entry with the text of a policy was seen
	policy        *Policy              // in force; nil: its text is not in the ledger (any more), or not readable
	unread        error                // why policy is nil
	agreed        bool                 // two people have signed it, or all that it was made of
	accepted      bool                 // an operator had it, or one that it was made of, put in force; until two people agree
	cooling       map[string]time.Time // by what is new, see credentials and places: from when on approvals by it count
	agreedCooling time.Duration        // the shortest cooling-off time that was agreed to

	waits   *PolicyProposed
	waiting string    // digest of its leaf
	next    *Policy   // what waits; nil: not readable
	asked   time.Time // when it began to wait
	signed  map[string][]PolicySigned
}

// guarded reports whether two people must agree to what the policy in force does not have.
func (st *policyState) guarded() bool { return st.policy != nil && st.policy.Change.Approvers != "" }

// unconfirmed reports whether the policy in force is one that only an operator has agreed to, though two people must.
func (st *policyState) unconfirmed() bool { return st.guarded() && !st.agreed || st.accepted }

// apply adds one entry. With proof, signatures are checked, and whether what nobody signed really only takes away.
func (st *policyState) apply(e ledger.Entry, ev Event, proof bool) error {
	if st.signed == nil {
		st.signed, st.cooling = map[string][]PolicySigned{}, map[string]time.Time{}
	}
	st.rev = e.StreamSeq
	switch ev := ev.(type) {
	case PolicyLoaded:
		return st.load(e, ev, proof)
	case PolicyProposed:
		p, err := policyIn(e, ev.Digest)
		if ev.Base != st.loaded.Digest {
			return fmt.Errorf("proposes a change of %s, in force is %s", ev.Base, st.loaded.Digest)
		}
		delete(st.signed, st.waiting)
		st.waits, st.waiting, st.next, st.asked = &ev, leafDigest(e), p, e.Time
		if proof && len(e.Texts) > 0 && err != nil {
			return err
		}
	case PolicyDropped:
		if st.waits == nil || st.waits.Digest != ev.Digest {
			return fmt.Errorf("%s does not wait", ev.Digest)
		}
		st.drop()
	case PolicySigned:
		return st.sign(e.Time, ev, proof)
	default:
		return fmt.Errorf("does not belong to the access policy")
	}
	return nil
}

func (st *policyState) drop() {
	delete(st.signed, st.waiting)
	st.waits, st.waiting, st.next = nil, "", nil
}

// sign takes a person's word.
func (st *policyState) sign(at time.Time, ev PolicySigned, proof bool) error {
	if st.policy != nil { // else the ledger is without texts, and only the signature can be checked
		if err := st.maySign(ev, at); err != nil {
			return err
		}
	}
	if proof {
		if err := ev.verify(); err != nil {
			return err
		}
	}
	st.signed[ev.Entry] = append(slices.Clone(st.signed[ev.Entry]), ev)
	if people, waived := st.signers(ev.Entry); ev.Entry == st.entry && len(people) >= MinQuorum {
		st.agreed, st.accepted = true, false
		if st.policy != nil {
			st.agreedCooling = st.policy.Change.Cooling
		}
		if waived {
			st.cooling = map[string]time.Time{}
		}
	}
	return nil
}

// maySign says why a signature would not count: it is for another policy, or not by one of those who must agree.
func (st *policyState) maySign(ev PolicySigned, at time.Time) error {
	digest := ""
	switch {
	case ev.Entry == "":
	case ev.Entry == st.entry:
		digest = st.loaded.Digest
	case ev.Entry == st.waiting:
		digest = st.waits.Digest
	}
	switch {
	case digest == "" || digest != ev.Digest || ev.Base != st.loaded.Digest:
		return fmt.Errorf("what was signed is neither the access policy that waits nor the one in force")
	case st.policy == nil:
		return fmt.Errorf("the access policy in force is not readable, so nobody is known who could sign: %w", st.unread)
	case !st.guarded():
		return fmt.Errorf("the access policy in force names nobody who signs changes")
	case ev.By.Channel != ChannelKey || !st.policy.owns(ev.By):
		return fmt.Errorf("%s is not a key of %s", ev.By.Key, ev.By.Person)
	case !slices.Contains(st.policy.members([]string{st.policy.Change.Approvers}), ev.By.Person):
		return fmt.Errorf("%s is not in team %s, which signs changes", ev.By.Person, st.policy.Change.Approvers)
	case at.Before(st.cooling[credentialOf(ev.By)]):
		return fmt.Errorf("the key %s is new and counts from %s", ev.By.Key, st.cooling[credentialOf(ev.By)].UTC().Format(time.RFC3339))
	}
	for _, before := range st.signed[ev.Entry] {
		if before.By.Person == ev.By.Person && (before.Waive || !ev.Waive) {
			return errSignedAlready
		}
	}
	return nil
}

var errSignedAlready = fmt.Errorf("this person has signed it already")

// signers is who has signed for an entry, and whether two of them let new keys and accounts count at once.
func (st *policyState) signers(entry string) (people []string, waived bool) {
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
func (st *policyState) load(e ledger.Entry, ev PolicyLoaded, proof bool) error {
	if ev.Why == "" { // of a release before policies were kept and agreed to
		if st.kept {
			return fmt.Errorf("says nothing of why it is in force, which an entry before did")
		}
		*st = policyState{rev: e.StreamSeq, loaded: ev, entry: leafDigest(e), since: e.Time, signed: map[string][]PolicySigned{},
			cooling: map[string]time.Time{},
			unread:  fmt.Errorf("it was recorded by an earlier release, without its text")}
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
		_, waived = st.signers(st.waiting)
	case WhyLess:
	case WhyFirst:
		st.agreed, st.accepted = false, false
	default:
		st.agreed, st.accepted = false, st.accepted || ev.Why == WhyAccepted
	}
	st.cool(e.Time, ev, p, waived)
	st.loaded, st.entry, st.since, st.kept, st.policy, st.unread = ev, leafDigest(e), e.Time, true, p, err
	if p != nil { // the entry has only what its text does not
		for _, q := range ev.Quorums {
			if _, there := p.Profile(q.Profile); there {
				return fmt.Errorf("remembers profile %s as gone, which is in the policy", q.Profile)
			}
		}
		st.loaded.Quorums, st.loaded.Teams = slices.Concat(p.Quorums(), ev.Quorums), frozenTeams(p)
	}
	st.signed = map[string][]PolicySigned{}
	st.drop()
	return nil
}

// mayLoad says why a policy cannot have come in force.
func (st *policyState) mayLoad(e ledger.Entry, ev PolicyLoaded, p *Policy, unread error) error {
	if ev.Why != WhyFirst && ev.Base != st.loaded.Digest {
		return fmt.Errorf("follows the policy %s, in force is %s", ev.Base, st.loaded.Digest)
	}
	if unread != nil && len(e.Texts) > 0 {
		return unread
	}
	switch ev.Why {
	case WhyFirst:
		if st.kept {
			return fmt.Errorf("says that it is the first one, which it is not")
		}
	case WhyFile:
		if st.guarded() {
			return fmt.Errorf("two people of %s had to agree to this policy, and nobody did", st.policy.Change.Approvers)
		}
	case WhyLess:
		if st.policy != nil && p != nil {
			if more := Eases(st.policy, p); len(more) > 0 {
				return fmt.Errorf("nobody agreed to it, and it does more than take away: %s", clip(strings.Join(more, "; "), 500))
			}
		}
	case WhyAccepted:
	case WhySigned:
		people, _ := st.signers(st.waiting)
		if st.waits == nil || st.waits.Digest != ev.Digest || ev.Proposal != st.waiting {
			return fmt.Errorf("says that it was signed, but it did not wait")
		}
		if len(people) < MinQuorum {
			return fmt.Errorf("%d people had to sign it, and %d did", MinQuorum, len(people))
		}
	default:
		return fmt.Errorf("is in force for an unknown reason, %q", clip(ev.Why, 40))
	}
	return nil
}

// cool notes from when on the keys and accounts that are new count for approvals. The longer of the two policies' times holds while
// nobody has agreed to a shorter one. Where nobody need agree, a new member of a team and a new profile wait as well.
func (st *policyState) cool(at time.Time, ev PolicyLoaded, p *Policy, waived bool) {
	if p == nil {
		return
	}
	wait := max(st.agreedCooling, p.Change.Cooling)
	switch ev.Why {
	case WhySigned:
		if wait = st.agreedCooling; st.agreed {
			st.agreedCooling = p.Change.Cooling
		} else {
			st.agreedCooling = max(wait, p.Change.Cooling)
		}
	case WhyFirst:
		st.cooling, st.agreedCooling = map[string]time.Time{}, p.Change.Cooling
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
				if until := st.cooling[c]; at.Before(until) {
					cooling[c] = until
				}
			case !counts:
				cooling[c] = at.Add(wait)
			}
		}
	}
	old := cmp.Or(st.policy, &Policy{})
	note(old.credentials(), p.credentials(), false)
	note(old.places(), p.places(), ev.Why != WhyFile)
	st.cooling = cooling
}

// inForce is the policy in force with what is cooling off.
func (st *policyState) inForce() *Policy {
	p := *st.policy
	p.cooling = st.cooling
	return &p
}

// notCooling refuses an approval by a key or account that is new, or, where no team agrees to changes, of a new member of a team
// or for a new profile.
func (p *Policy) notCooling(a Actor, q Quorum, profile string, now time.Time) error {
	new, until := newest(p.cooling, a, q, profile)
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
	return refuse(ClassPolicy, "policy/cooling", next, "%s new in the access policy: approvals count from %s", what,
		until.UTC().Format("2006-01-02 15:04 UTC"))
}

// newest is what of all that an approval rests on begins to count last, and when: the key or account, the membership in each team of
// the quorum, the profile.
func newest(cooling map[string]time.Time, a Actor, q Quorum, profile string) (what string, until time.Time) {
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

// places is everybody's place in a team and every profile, and whose it is.
func (p *Policy) places() map[string]string {
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

// credentials is every key and account and whose it is.
func (p *Policy) credentials() map[string]string {
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
func credentialOf(a Actor) string {
	switch {
	case a.Channel == ChannelKey:
		return "key/" + a.Key
	case a.Slack != nil:
		return "slack/" + a.Slack.Team + "/" + a.Slack.User
	}
	return ""
}

// publicKey is a person's key as an entry has it.
func (p *Policy) publicKey(person, fingerprint string) (string, bool) {
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

// whyWords says in words why a policy is in force.
func whyWords(why string) string {
	return cmp.Or(map[string]string{
		WhyFirst:    "the first that this ledger keeps",
		WhyFile:     "read from the file: it names nobody who must agree to changes",
		WhyLess:     "only takes away from the one before",
		WhySigned:   "signed by two people",
		WhyAccepted: "an operator started the daemon with --accept-weaker",
	}[why], "recorded by an earlier release")
}
