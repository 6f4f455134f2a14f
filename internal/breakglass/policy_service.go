package breakglass

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
)

// policyCheck names the findings of this file.
const policyCheck = "policy"

// CodePolicyWaits is the code of the refusal of a policy that is in order and waits for two people.
const CodePolicyWaits = "policy/waits"

// The findings about the access policy.
const (
	policyUnconfirmed = "policy-unconfirmed" // it is in force and the two people whom it names have not agreed to it
	policyOneEditor   = "policy-one-editor"  // it names no team that must agree to a change
	policyOnDisk      = "policy-on-disk"     // the file is not what is in force
)

// startPolicy puts in force what the ledger says is in force, and then changes it to what the file has, if that may be.
func (s *Service) startPolicy(ctx context.Context, p *Policy, acceptWeaker bool) error {
	s.reload.Lock()
	defer s.reload.Unlock()
	read, err := readPolicyState(ctx, s.ledger)
	if err != nil {
		return err
	}
	s.changing = read
	st := &s.changing
	if st.policy == nil {
		return s.firstPolicy(ctx, p, acceptWeaker)
	}
	if err := s.enforce(func() (*Policy, error) { return st.inForce(), nil }); err != nil {
		return err
	}
	switch {
	case p == nil:
		s.log.Error("THE ACCESS POLICY ON DISK IS NOT IN FORCE: the one before stays", slog.String("policy", st.loaded.Digest))
		return nil
	case acceptWeaker && p.Digest != st.loaded.Digest && len(Eases(st.policy, p)) > 0:
		s.log.Error("THE ACCESS POLICY IS ONE THAT NOBODY HAS AGREED TO: --accept-weaker", slog.Any("changes", Diff(st.policy, p)))
		return s.record(ctx, p, PolicyLoaded{Why: WhyAccepted, Weaker: true, Changes: Diff(st.policy, p)})
	}
	_, err = s.change(ctx, p)
	if _, no := AsRefusal(err); no {
		s.log.Error("THE ACCESS POLICY ON DISK IS NOT IN FORCE: the one before stays", slog.String("policy", s.changing.loaded.Digest),
			slog.Any("error", err))
		return nil
	}
	return err
}

// firstPolicy puts a policy in force where there is none to hold it against: in a new ledger, in one of an earlier release, or where
// the text of the one in force is lost.
func (s *Service) firstPolicy(ctx context.Context, p *Policy, acceptWeaker bool) error {
	st := &s.changing
	if p == nil {
		return errors.New("the access policy on disk is broken, and the ledger has none that could stay in force")
	}
	ev := PolicyLoaded{Why: WhyFirst}
	switch {
	case st.rev == 0 || p.Digest == st.loaded.Digest:
	case st.kept && !acceptWeaker:
		return refuse(ClassPolicy, "policy/unread", "bring back the file of that policy, or restart the daemon with --accept-weaker if the "+
			"new one is meant",
			"the access policy in force, %s, cannot be read, so nobody can tell what the one on disk changes: %v", st.loaded.Digest, st.unread)
	default:
		weaker := Weaker(st.loaded.Quorums, p)
		if len(weaker) > 0 && !acceptWeaker {
			return refuseWeaker(weaker)
		}
		ev.Weaker = len(weaker) > 0
		ev.Changes = slices.Concat([]string{changedWhileDown}, weaker, teamChanges(st.loaded.Teams, frozenTeams(p)))
	}
	if st.kept {
		ev.Why, ev.Weaker = WhyAccepted, true
	}
	return s.record(ctx, p, ev)
}

func refuseWeaker(weaker []string) error {
	return refuse(ClassPolicy, "policy/weaker", "undo that, or restart the daemon with --accept-weaker if it is meant",
		"the new access policy asks for less than the one in force (%s)", strings.Join(weaker, "; "))
}

// SetPolicy changes the policy in force to the one of the file. What only takes away is in force at once. If the one in force names a
// team that must agree to changes, everything else waits for two of its people: the refusal says so. If it names none, the file is in
// force as it is read, unless it asks for less. The changes that are in force from now on are returned in words.
func (s *Service) SetPolicy(ctx context.Context, p *Policy) ([]string, error) {
	s.reload.Lock()
	defer s.reload.Unlock()
	return s.change(ctx, p)
}

func (s *Service) change(ctx context.Context, p *Policy) ([]string, error) {
	changes, err := s.changeTo(ctx, p)
	if _, no := AsRefusal(err); no || err == nil {
		s.policyOnDisk(ctx, err)
	}
	return changes, err
}

func (s *Service) changeTo(ctx context.Context, p *Policy) ([]string, error) {
	st := &s.changing
	old := st.policy
	if p.Digest == st.loaded.Digest {
		return nil, s.dropProposal(ctx)
	}
	if !st.guarded() {
		if weaker := s.weaker(p); len(weaker) > 0 {
			return nil, refuseWeaker(weaker)
		}
		changes := Diff(old, p)
		return changes, s.record(ctx, p, PolicyLoaded{Why: WhyFile, Changes: changes})
	}
	if len(Eases(old, p)) == 0 {
		changes := Diff(old, p)
		return changes, s.record(ctx, p, PolicyLoaded{Why: WhyLess, Changes: changes})
	}
	less, err := Restrict(old, p).Render()
	rest := ""
	if err != nil {
		s.log.Warn("what the access policy on disk takes away waits with the rest: without it the rest would not be a policy",
			slog.Any("error", err))
		less, rest = old, "; what it takes away waits as well: without the rest it would not be a policy"
	}
	taken := Diff(old, less)
	if len(taken) > 0 {
		if err := s.record(ctx, less, PolicyLoaded{Why: WhyLess, Changes: taken}); err != nil {
			return nil, err
		}
	}
	ev := PolicyProposed{Digest: p.Digest, Base: st.loaded.Digest, Changes: bounded(Diff(st.policy, p))}
	if st.waits == nil || st.waits.Digest != ev.Digest || st.waits.Base != ev.Base {
		if err := fits(p, ev); err != nil {
			return taken, err
		}
		if err := s.appendPolicy(ctx, draft(ev, textsOf(p))); err != nil {
			return taken, err
		}
	}
	return taken, refuse(ClassPolicy, CodePolicyWaits,
		"two people of "+st.policy.Change.Approvers+": breakglass policy approve "+p.Digest[:12],
		"the new access policy adds or eases something and waits for two people of %s (%s)%s", st.policy.Change.Approvers,
		strings.Join(ev.Changes, "; "), rest)
}

// weaker says what an operator's word is needed for. Where the policy in force names a team that must agree, that is everything that
// does more than take away; where it names none, what asks for less in a profile that is or was there.
func (s *Service) weaker(p *Policy) []string {
	st := &s.changing
	eases := Eases(st.policy, p)
	if st.guarded() {
		return eases
	}
	out := Weaker(st.loaded.Quorums, p)
	for _, text := range eases {
		where, _, of := strings.Cut(text, ": ")
		id, profile := strings.CutPrefix(where, "profile ")
		_, was := st.policy.Profile(id)
		_, is := p.Profile(id)
		if of && profile && was && is && text != where+": description changed" || strings.HasPrefix(text, "policy.cooling ") {
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (s *Service) dropProposal(ctx context.Context) error {
	if s.changing.waits == nil {
		return nil
	}
	return s.appendPolicy(ctx, draft(PolicyDropped{Digest: s.changing.waits.Digest}, nil))
}

// PolicyWord is what comes with a signature over an access policy.
type PolicyWord struct {
	Entry     string // see PolicySigned
	Digest    string
	Base      string
	Waive     bool
	Signature string
}

// SignPolicy records one person's yes to the policy that waits, or to the one in force that nobody has agreed to. With the second
// person's the one that waits is in force. Saying yes twice is no error and no second voice.
func (s *Service) SignPolicy(ctx context.Context, a Actor, w PolicyWord) error {
	s.reload.Lock()
	defer s.reload.Unlock()
	st := &s.changing
	ev := PolicySigned{By: a, Entry: w.Entry, Digest: w.Digest, Base: w.Base, Waive: w.Waive, Signature: w.Signature}
	err := known(s.Policy(), a)
	if err == nil {
		err = s.decideSign(&ev)
	}
	if errors.Is(err, errSignedAlready) {
		return nil
	}
	if err == nil {
		err = s.clockBack()
	}
	if err != nil {
		return s.recordRefusal(ctx, a, "policy-approve", RefusalStream, err)
	}
	drafts := []ledger.Draft{draft(ev, nil)}
	if people, _ := st.signers(ev.Entry); ev.Entry == st.waiting && len(slices.DeleteFunc(people,
		func(p string) bool { return p == a.Person })) >= MinQuorum-1 {
		if st.next == nil {
			return refuse(ClassConflict, "policy/unread", "have the daemon read the file again", "the text of the access policy that waits is lost")
		}
		loaded := st.follow(st.next, PolicyLoaded{Why: WhySigned, Proposal: st.waiting, Changes: Diff(st.policy, st.next)})
		if err := fits(st.next, loaded); err != nil {
			return err
		}
		drafts = append(drafts, draft(loaded, textsOf(st.next)))
	}
	if err := s.appendPolicy(ctx, drafts...); err != nil {
		return err
	}
	if len(drafts) > 1 {
		s.policyOnDisk(ctx, nil)
	}
	return nil
}

func (s *Service) decideSign(ev *PolicySigned) error {
	st := &s.changing
	if err := st.maySign(*ev, s.now()); errors.Is(err, errSignedAlready) {
		return err
	} else if err != nil {
		return refuse(ClassDenied, "policy/sign", "see: breakglass policy show", "you cannot sign this: %v", err)
	}
	if ev.Entry == st.entry && st.agreed && (!ev.Waive || len(st.cooling) == 0) {
		return refuse(ClassConflict, "policy/agreed", "see: breakglass policy show", "this access policy is in force and agreed to: there "+
			"is nothing to sign")
	}
	ev.PublicKey, _ = st.policy.publicKey(ev.By.Person, ev.By.Key)
	if err := ev.verify(); err != nil {
		return &Refusal{Class: ClassDenied, Code: "signature", Why: "the signature is not one by your key over this access policy",
			Next: "run breakglass policy approve again", cause: err}
	}
	return nil
}

// follow completes the entry of a policy that comes in force after the one that is.
func (st *policyState) follow(p *Policy, ev PolicyLoaded) PolicyLoaded {
	const most = 200
	ev.Digest, ev.Base, ev.Changes = p.Digest, st.loaded.Digest, bounded(ev.Changes)
	// What a profile asked for is remembered when it is gone, so that taking it out and putting it back weaker is seen.
	for _, q := range st.loaded.Quorums {
		if _, there := p.Profile(q.Profile); !there {
			ev.Quorums = append(ev.Quorums, q)
		}
	}
	ev.Quorums = ev.Quorums[max(0, len(ev.Quorums)-most):]
	return ev
}

// record puts a policy in force.
func (s *Service) record(ctx context.Context, p *Policy, ev PolicyLoaded) error {
	ev = s.changing.follow(p, ev)
	if err := fits(p, ev); err != nil {
		return err
	}
	return s.appendPolicy(ctx, draft(ev, textsOf(p)))
}

// appendPolicy adds to the policy's stream, and has in force what that makes be in force.
func (s *Service) appendPolicy(ctx context.Context, drafts ...ledger.Draft) error {
	err := s.enforce(func() (*Policy, error) {
		entries, err := s.ledger.Append(ctx, s.now(), PolicyStream, s.changing.rev, nil, drafts...)
		if err != nil {
			return nil, fmt.Errorf("recording the policy: %w", err)
		}
		for _, e := range entries {
			ev, err := Decode(e)
			if err == nil {
				err = s.changing.apply(e, ev, false)
			}
			if err != nil {
				return nil, fmt.Errorf("the access policy was recorded, but is not valid: %w", err)
			}
		}
		return s.changing.inForce(), nil
	})
	if err == nil {
		s.policyFindings(ctx)
	}
	return err
}

// policyFindings says what is wrong with who must agree to the policy in force.
func (s *Service) policyFindings(ctx context.Context) {
	st := &s.changing
	rule := st.policy.Change
	unconfirmed := FindingOpened{Key: policyUnconfirmed, Check: policyCheck, Severity: SeverityCritical,
		What: fmt.Sprintf("the access policy %s is in force, and no two people of %s have agreed to it: %s", st.loaded.Digest[:12],
			rule.Approvers, whyWords(st.loaded.Why)),
		Next: "two people of " + rule.Approvers + ", each: breakglass policy approve " + st.loaded.Digest[:12]}
	if !st.guarded() {
		unconfirmed.What = "an operator put an access policy in force with --accept-weaker, no two people have agreed to it, and the one in " +
			"force names no team that could"
		unconfirmed.Next = "name a team of two people or more in the file, policy: {approvers: TEAM}, and have two of its people sign it: " +
			"breakglass policy approve"
	}
	s.findIf(ctx, st.unconfirmed(), unconfirmed, "two people have agreed to it")
	s.findIf(ctx, rule.Approvers == "" && rule.ReviewedBy == "", FindingOpened{Key: policyOneEditor, Check: policyCheck,
		Severity: SeverityCritical,
		What:     "the access policy names no team that must agree to its changes: one person who can write the file decides who approves",
		Next: "add to the file policy: {approvers: TEAM}, a team of two people or more; or, if a second person agrees elsewhere, policy: " +
			"{reviewedBy: \"HOW\"}"}, "the access policy says who agrees to changes")
}

// policyOnDisk says what became of the file.
func (s *Service) policyOnDisk(ctx context.Context, err error) {
	f := FindingOpened{Key: policyOnDisk, Check: policyCheck, Severity: SeverityWarning, What: "the access policy on disk is not in " +
		"force", Next: "correct the file and have the daemon read it again (SIGHUP)"}
	if err != nil {
		f.What += ": " + err.Error()
	}
	if r, ok := AsRefusal(err); ok && r.Next != "" {
		f.Next = r.Next
	}
	s.findIf(ctx, err != nil, f, "the access policy on disk is in force")
}

// PolicyUnread records that the access policy on disk could not be read, and why. The one in force stays.
func (s *Service) PolicyUnread(ctx context.Context, err error) { s.policyOnDisk(ctx, err) }

// findIf records a finding, or that it is over.
func (s *Service) findIf(ctx context.Context, is bool, f FindingOpened, over string) {
	var err error
	if is {
		err = s.Find(ctx, f)
	} else {
		err = s.Over(ctx, f.Key, over)
	}
	if err != nil {
		s.log.Error("recording a finding", slog.String("finding", f.Key), slog.Any("error", err))
	}
}

// PolicyStanding is the access policy in force and the one that waits.
type PolicyStanding struct {
	Policy    *Policy
	Entry     string // see PolicySigned
	Since     time.Time
	Why       string // in words
	Agreed    bool   // two people have agreed to it
	Signed    []string
	Cooling   []CoolingOff
	Approvers []string // who can sign, if the policy names a team

	Waiting       *PolicyProposed // nil: nothing waits
	WaitingEntry  string
	WaitingSigned []string
	WaitingPolicy *Policy
	WaitingWaived bool
}

// CoolingOff is a new key or account and from when on it counts for approvals. Where no team agrees to changes it is also a new member
// of a team, or a new profile, which is of no person.
type CoolingOff struct {
	Person string    `json:"person,omitempty"`
	What   string    `json:"what"` // key/SHA256:…, slack/TEAM/USER, team/TEAM/PERSON or profile/ID
	Until  time.Time `json:"until"`
}

// PolicyStanding says what is in force, since when and why, and what waits for whom. Approvers of the policy, reviewers and responders
// may ask.
func (s *Service) PolicyStanding(ctx context.Context, a Actor) (PolicyStanding, error) {
	s.reload.Lock()
	defer s.reload.Unlock()
	p, st, now := s.Policy(), &s.changing, s.now()
	err := known(p, a)
	approver := slices.Contains(p.members([]string{p.Change.Approvers}), a.Person)
	if err == nil && !approver && !p.MayReview(a.Person) && !p.MayRespond(a.Person) {
		err = refuse(ClassDenied, "policy/read", "", "only those who sign the access policy's changes, reviewers and responders can read it")
	}
	if err != nil {
		return PolicyStanding{}, s.recordRefusal(ctx, a, "policy-read", RefusalStream, err)
	}
	out := PolicyStanding{Policy: p, Entry: st.entry, Since: st.since, Why: whyWords(st.loaded.Why), Agreed: st.agreed,
		Waiting: st.waits, WaitingEntry: st.waiting, WaitingPolicy: st.next}
	out.Signed, _ = st.signers(st.entry)
	out.WaitingSigned, out.WaitingWaived = st.signers(st.waiting)
	owners := st.policy.credentials()
	maps.Copy(owners, st.policy.places())
	for c, until := range st.cooling {
		if now.Before(until) {
			out.Cooling = append(out.Cooling, CoolingOff{owners[c], c, until})
		}
	}
	slices.SortFunc(out.Cooling, func(a, b CoolingOff) int { return strings.Compare(a.Person+a.What, b.Person+b.What) })
	out.Approvers = slices.DeleteFunc(p.members([]string{p.Change.Approvers}), func(id string) bool {
		return !p.able(id,
			[]Channel{ChannelKey})
	})
	return out, nil
}

// PolicyWaits is since when a change of the access policy waits for two people; the zero time: none does.
func (s *Service) PolicyWaits() time.Time {
	s.reload.Lock()
	defer s.reload.Unlock()
	if s.changing.waits == nil {
		return time.Time{}
	}
	return s.changing.asked
}

// Text is the file that the policy was read from.
func (p *Policy) Text() string { return string(p.text) }

// changedWhileDown stands in the record, and from there in reports, so that nobody takes a short list of changes for all of them.
const changedWhileDown = "the policy changed while the daemon was down, from one that an earlier release recorded: only teams and " +
	"what asks for less were compared with the record; " +
	"keys, accounts, rights, lifetimes and the rest may have changed too"

// bounded is what is recorded of changes in words.
func bounded(changes []string) []string {
	const most, mostBytes = 200, 40 << 10
	size := 0
	for n, c := range changes {
		if size += len(c) + 8; n >= most || size > mostBytes {
			return append(changes[:n:n], fmt.Sprintf("and %d more", len(changes)-n))
		}
	}
	return changes
}

// fits refuses a policy under which an entry would be longer than the ledger takes: one that could be loaded, and under which
// then nobody could ask.
func fits(p *Policy, ev Event) error {
	const most = ledger.MaxLeaf - 8<<10 // the rest of the entry
	if len(draft(ev, nil).Body) > most {
		return refuse(ClassPolicy, "policy/size", "change less at one time", "the change of the access policy is too long to be recorded")
	}
	for i := range p.Profiles {
		if len(draft(Requested{Quorum: p.Freeze(&p.Profiles[i])}, nil).Body) > most {
			return refuse(ClassPolicy, "policy/size", "let smaller teams approve it", "so many people can approve profile %s that a request "+
				"could not be recorded", p.Profiles[i].ID)
		}
	}
	return nil
}

// frozenTeams is the membership of every team, for the record.
func frozenTeams(p *Policy) []FrozenTeam {
	out := make([]FrozenTeam, len(p.Teams))
	for i, t := range p.Teams {
		out[i] = FrozenTeam{ID: t.ID, Members: slices.Sorted(slices.Values(t.Members))}
	}
	return out
}

// teamChanges says in words who came into a team and who left one.
func teamChanges(old, new []FrozenTeam) []string {
	members := func(teams []FrozenTeam) map[string]bool {
		m := map[string]bool{}
		for _, t := range teams {
			for _, p := range t.Members {
				m[t.ID+": "+p] = true
			}
		}
		return m
	}
	had, have := members(old), members(new)
	var out []string
	for k := range have {
		if !had[k] {
			out = append(out, "team "+k+" added")
		}
	}
	for k := range had {
		if !have[k] {
			out = append(out, "team "+k+" removed")
		}
	}
	slices.Sort(out)
	return out
}

// PolicyInForce reads from a ledger which access policy is in force. It is nil where the ledger does not keep it: a new one, or one of
// an earlier release.
func PolicyInForce(ctx context.Context, l *ledger.Ledger) (*Policy, error) {
	st, err := readPolicyState(ctx, l)
	return st.policy, err
}

func readPolicyState(ctx context.Context, l *ledger.Ledger) (st policyState, err error) {
	entries, err := l.Stream(ctx, PolicyStream)
	if err != nil {
		return st, fmt.Errorf("reading the recorded policy: %w", err)
	}
	for _, e := range entries {
		ev, err := Decode(e)
		if err == nil {
			err = st.apply(e, ev, false)
		}
		if err != nil {
			return st, fmt.Errorf("ledger entry %d: %w", e.Seq, err)
		}
	}
	return st, nil
}
