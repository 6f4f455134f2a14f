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
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
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
func (s *Service) startPolicy(ctx context.Context, p *policy.Policy, acceptWeaker bool) error {
	s.reload.Lock()
	defer s.reload.Unlock()
	read, err := readPolicyState(ctx, s.ledger)
	if err != nil {
		return err
	}
	s.changing = read
	st := &s.changing
	if st.Policy == nil {
		return s.firstPolicy(ctx, p, acceptWeaker)
	}
	if err := s.enforce(func() (*policy.Policy, error) { return st.InForce(), nil }); err != nil {
		return err
	}
	switch {
	case p == nil:
		s.log.Error("THE ACCESS POLICY ON DISK IS NOT IN FORCE: the one before stays", slog.String("policy", st.Loaded.Digest))
		return nil
	case acceptWeaker && p.Digest != st.Loaded.Digest && len(policy.Eases(st.Policy, p)) > 0:
		s.log.Error("THE ACCESS POLICY IS ONE THAT NOBODY HAS AGREED TO: --accept-weaker", slog.Any("changes", policy.Diff(st.Policy, p)))
		return s.record(ctx, p, policy.Loaded{Why: policy.WhyAccepted, Weaker: true, Changes: policy.Diff(st.Policy, p)})
	}
	_, err = s.change(ctx, p)
	if _, no := record.AsRefusal(err); no {
		s.log.Error("THE ACCESS POLICY ON DISK IS NOT IN FORCE: the one before stays", slog.String("policy", s.changing.Loaded.Digest),
			slog.Any("error", err))
		return nil
	}
	return err
}

// firstPolicy puts a policy in force where there is none to hold it against: in a new ledger, in one of an earlier release, or where
// the text of the one in force is lost.
func (s *Service) firstPolicy(ctx context.Context, p *policy.Policy, acceptWeaker bool) error {
	st := &s.changing
	if p == nil {
		return errors.New("the access policy on disk is broken, and the ledger has none that could stay in force")
	}
	ev := policy.Loaded{Why: policy.WhyFirst}
	switch {
	case st.Rev == 0 || p.Digest == st.Loaded.Digest:
	case st.Kept && !acceptWeaker:
		return record.Refuse(record.ClassPolicy, "policy/unread", "bring back the file of that policy, or restart the daemon with "+
			"--accept-weaker if the "+
			"new one is meant",
			"the access policy in force, %s, cannot be read, so nobody can tell what the one on disk changes: %v", st.Loaded.Digest, st.Unread)
	default:
		weaker := policy.Weaker(st.Loaded.Quorums, p)
		if len(weaker) > 0 && !acceptWeaker {
			return refuseWeaker(weaker)
		}
		ev.Weaker = len(weaker) > 0
		ev.Changes = slices.Concat([]string{changedWhileDown}, weaker, teamChanges(st.Loaded.Teams, policy.FrozenTeams(p)))
	}
	if st.Kept {
		ev.Why, ev.Weaker = policy.WhyAccepted, true
	}
	return s.record(ctx, p, ev)
}

func refuseWeaker(weaker []string) error {
	return record.Refuse(record.ClassPolicy, "policy/weaker", "undo that, or restart the daemon with --accept-weaker if it is meant",
		"the new access policy asks for less than the one in force (%s)", strings.Join(weaker, "; "))
}

// SetPolicy changes the policy in force to the one of the file. What only takes away is in force at once. If the one in force names a
// team that must agree to changes, everything else waits for two of its people: the refusal says so. If it names none, the file is in
// force as it is read, unless it asks for less. The changes that are in force from now on are returned in words.
func (s *Service) SetPolicy(ctx context.Context, p *policy.Policy) ([]string, error) {
	s.reload.Lock()
	defer s.reload.Unlock()
	return s.change(ctx, p)
}

func (s *Service) change(ctx context.Context, p *policy.Policy) ([]string, error) {
	changes, err := s.changeTo(ctx, p)
	if _, no := record.AsRefusal(err); no || err == nil {
		s.policyOnDisk(ctx, err)
	}
	return changes, err
}

func (s *Service) changeTo(ctx context.Context, p *policy.Policy) ([]string, error) {
	st := &s.changing
	old := st.Policy
	if p.Digest == st.Loaded.Digest {
		return nil, s.dropProposal(ctx)
	}
	if !st.Guarded() {
		if weaker := s.weaker(p); len(weaker) > 0 {
			return nil, refuseWeaker(weaker)
		}
		changes := policy.Diff(old, p)
		return changes, s.record(ctx, p, policy.Loaded{Why: policy.WhyFile, Changes: changes})
	}
	if len(policy.Eases(old, p)) == 0 {
		changes := policy.Diff(old, p)
		return changes, s.record(ctx, p, policy.Loaded{Why: policy.WhyLess, Changes: changes})
	}
	less, err := policy.Restrict(old, p).Render()
	rest := ""
	if err != nil {
		s.log.Warn("what the access policy on disk takes away waits with the rest: without it the rest would not be a policy",
			slog.Any("error", err))
		less, rest = old, "; what it takes away waits as well: without the rest it would not be a policy"
	}
	taken := policy.Diff(old, less)
	if len(taken) > 0 {
		if err := s.record(ctx, less, policy.Loaded{Why: policy.WhyLess, Changes: taken}); err != nil {
			return nil, err
		}
	}
	ev := policy.Proposed{Digest: p.Digest, Base: st.Loaded.Digest, Changes: policy.Bounded(policy.Diff(st.Policy, p))}
	if st.Waits == nil || st.Waits.Digest != ev.Digest || st.Waits.Base != ev.Base {
		if err := fits(p, ev); err != nil {
			return taken, err
		}
		if err := s.appendPolicy(ctx, record.Draft(ev, policy.TextsOf(p))); err != nil {
			return taken, err
		}
	}
	return taken, record.Refuse(record.ClassPolicy, CodePolicyWaits,
		"two people of "+st.Policy.Change.Approvers+": breakglass policy approve "+p.Digest[:12],
		"the new access policy adds or eases something and waits for two people of %s (%s)%s", st.Policy.Change.Approvers,
		strings.Join(ev.Changes, "; "), rest)
}

// weaker says what an operator's word is needed for. Where the policy in force names a team that must agree, that is everything that
// does more than take away; where it names none, what asks for less in a profile that is or was there.
func (s *Service) weaker(p *policy.Policy) []string {
	st := &s.changing
	eases := policy.Eases(st.Policy, p)
	if st.Guarded() {
		return eases
	}
	out := policy.Weaker(st.Loaded.Quorums, p)
	for _, text := range eases {
		where, _, of := strings.Cut(text, ": ")
		id, profile := strings.CutPrefix(where, "profile ")
		_, was := st.Policy.Profile(id)
		_, is := p.Profile(id)
		if of && profile && was && is && text != where+": description changed" || strings.HasPrefix(text, "policy.cooling ") {
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (s *Service) dropProposal(ctx context.Context) error {
	if s.changing.Waits == nil {
		return nil
	}
	return s.appendPolicy(ctx, record.Draft(policy.Dropped{Digest: s.changing.Waits.Digest}, nil))
}

// PolicyWord is what comes with a signature over an access policy.
type PolicyWord struct {
	Entry     string // see policy.Signed
	Digest    string
	Base      string
	Waive     bool
	Signature string
}

// SignPolicy records one person's yes to the policy that waits, or to the one in force that nobody has agreed to. With the second
// person's the one that waits is in force. Saying yes twice is no error and no second voice.
func (s *Service) SignPolicy(ctx context.Context, a record.Actor, w PolicyWord) error {
	s.reload.Lock()
	defer s.reload.Unlock()
	st := &s.changing
	ev := policy.Signed{By: a, Entry: w.Entry, Digest: w.Digest, Base: w.Base, Waive: w.Waive, Signature: w.Signature}
	err := known(s.Policy(), a)
	if err == nil {
		err = s.decideSign(&ev)
	}
	if errors.Is(err, policy.ErrSignedAlready) {
		return nil
	}
	if err == nil {
		err = s.clockBack()
	}
	if err != nil {
		return s.recordRefusal(ctx, a, "policy-approve", RefusalStream, err)
	}
	drafts := []ledger.Draft{record.Draft(ev, nil)}
	if people, _ := st.Signers(ev.Entry); ev.Entry == st.Waiting && len(slices.DeleteFunc(people,
		func(p string) bool { return p == a.Person })) >= policy.MinQuorum-1 {
		if st.Next == nil {
			return record.Refuse(record.ClassConflict, "policy/unread", "have the daemon read the file again",
				"the text of the access policy that waits is lost")
		}
		loaded := st.Follow(st.Next, policy.Loaded{Why: policy.WhySigned, Proposal: st.Waiting, Changes: policy.Diff(st.Policy, st.Next)})
		if err := fits(st.Next, loaded); err != nil {
			return err
		}
		drafts = append(drafts, record.Draft(loaded, policy.TextsOf(st.Next)))
	}
	if err := s.appendPolicy(ctx, drafts...); err != nil {
		return err
	}
	if len(drafts) > 1 {
		s.policyOnDisk(ctx, nil)
	}
	return nil
}

func (s *Service) decideSign(ev *policy.Signed) error {
	st := &s.changing
	if err := st.MaySign(*ev, s.now()); errors.Is(err, policy.ErrSignedAlready) {
		return err
	} else if err != nil {
		return record.Refuse(record.ClassDenied, "policy/sign", "see: breakglass policy show", "you cannot sign this: %v", err)
	}
	if ev.Entry == st.Entry && st.Agreed && (!ev.Waive || len(st.Cooling) == 0) {
		return record.Refuse(record.ClassConflict, "policy/agreed", "see: breakglass policy show",
			"this access policy is in force and agreed to: there "+
				"is nothing to sign")
	}
	ev.PublicKey, _ = st.Policy.PublicKey(ev.By.Person, ev.By.Key)
	if err := ev.Verify(); err != nil {
		return &record.Refusal{Class: record.ClassDenied, Code: "signature", Why: "the signature is not one by your key over this access policy",
			Next: "run breakglass policy approve again", Cause: err}
	}
	return nil
}

// record puts a policy in force.
func (s *Service) record(ctx context.Context, p *policy.Policy, ev policy.Loaded) error {
	ev = s.changing.Follow(p, ev)
	if err := fits(p, ev); err != nil {
		return err
	}
	return s.appendPolicy(ctx, record.Draft(ev, policy.TextsOf(p)))
}

// appendPolicy adds to the policy's stream, and has in force what that makes be in force.
func (s *Service) appendPolicy(ctx context.Context, drafts ...ledger.Draft) error {
	err := s.enforce(func() (*policy.Policy, error) {
		entries, err := s.ledger.Append(ctx, s.now(), PolicyStream, s.changing.Rev, nil, drafts...)
		if err != nil {
			return nil, fmt.Errorf("recording the policy: %w", err)
		}
		for _, e := range entries {
			ev, err := Decode(e)
			if err == nil {
				err = s.changing.Apply(e, ev, false)
			}
			if err != nil {
				return nil, fmt.Errorf("the access policy was recorded, but is not valid: %w", err)
			}
		}
		return s.changing.InForce(), nil
	})
	if err == nil {
		s.policyFindings(ctx)
	}
	return err
}

// policyFindings says what is wrong with who must agree to the policy in force.
func (s *Service) policyFindings(ctx context.Context) {
	st := &s.changing
	rule := st.Policy.Change
	unconfirmed := FindingOpened{Key: policyUnconfirmed, Check: policyCheck, Severity: SeverityCritical,
		What: fmt.Sprintf("the access policy %s is in force, and no two people of %s have agreed to it: %s", st.Loaded.Digest[:12],
			rule.Approvers, policy.WhyWords(st.Loaded.Why)),
		Next: "two people of " + rule.Approvers + ", each: breakglass policy approve " + st.Loaded.Digest[:12]}
	if !st.Guarded() {
		unconfirmed.What = "an operator put an access policy in force with --accept-weaker, no two people have agreed to it, and the one in " +
			"force names no team that could"
		unconfirmed.Next = "name a team of two people or more in the file, policy: {approvers: TEAM}, and have two of its people sign it: " +
			"breakglass policy approve"
	}
	s.findIf(ctx, st.Unconfirmed(), unconfirmed, "two people have agreed to it")
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
	if r, ok := record.AsRefusal(err); ok && r.Next != "" {
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
	Policy    *policy.Policy
	Entry     string // see policy.Signed
	Since     time.Time
	Why       string // in words
	Agreed    bool   // two people have agreed to it
	Signed    []string
	Cooling   []CoolingOff
	Approvers []string // who can sign, if the policy names a team

	Waiting       *policy.Proposed // nil: nothing waits
	WaitingEntry  string
	WaitingSigned []string
	WaitingPolicy *policy.Policy
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
func (s *Service) PolicyStanding(ctx context.Context, a record.Actor) (PolicyStanding, error) {
	s.reload.Lock()
	defer s.reload.Unlock()
	p, st, now := s.Policy(), &s.changing, s.now()
	err := known(p, a)
	approver := slices.Contains(p.Members([]string{p.Change.Approvers}), a.Person)
	if err == nil && !approver && !p.MayReview(a.Person) && !p.MayRespond(a.Person) {
		err = record.Refuse(record.ClassDenied, "policy/read", "",
			"only those who sign the access policy's changes, reviewers and responders can read it")
	}
	if err != nil {
		return PolicyStanding{}, s.recordRefusal(ctx, a, "policy-read", RefusalStream, err)
	}
	out := PolicyStanding{Policy: p, Entry: st.Entry, Since: st.Since, Why: policy.WhyWords(st.Loaded.Why), Agreed: st.Agreed,
		Waiting: st.Waits, WaitingEntry: st.Waiting, WaitingPolicy: st.Next}
	out.Signed, _ = st.Signers(st.Entry)
	out.WaitingSigned, out.WaitingWaived = st.Signers(st.Waiting)
	owners := st.Policy.Credentials()
	maps.Copy(owners, st.Policy.Places())
	for c, until := range st.Cooling {
		if now.Before(until) {
			out.Cooling = append(out.Cooling, CoolingOff{owners[c], c, until})
		}
	}
	slices.SortFunc(out.Cooling, func(a, b CoolingOff) int { return strings.Compare(a.Person+a.What, b.Person+b.What) })
	out.Approvers = slices.DeleteFunc(p.Members([]string{p.Change.Approvers}), func(id string) bool {
		return !p.Able(id,
			[]record.Channel{record.ChannelKey})
	})
	return out, nil
}

// PolicyWaits is since when a change of the access policy waits for two people; the zero time: none does.
func (s *Service) PolicyWaits() time.Time {
	s.reload.Lock()
	defer s.reload.Unlock()
	if s.changing.Waits == nil {
		return time.Time{}
	}
	return s.changing.Asked
}

// changedWhileDown stands in the record, and from there in reports, so that nobody takes a short list of changes for all of them.
const changedWhileDown = "the policy changed while the daemon was down, from one that an earlier release recorded: only teams and " +
	"what asks for less were compared with the record; " +
	"keys, accounts, rights, lifetimes and the rest may have changed too"

// fits refuses a policy under which an entry would be longer than the ledger takes: one that could be loaded, and under which
// then nobody could ask.
func fits(p *policy.Policy, ev record.Event) error {
	const most = ledger.MaxLeaf - 8<<10 // the rest of the entry
	if len(record.Draft(ev, nil).Body) > most {
		return record.Refuse(record.ClassPolicy, "policy/size", "change less at one time",
			"the change of the access policy is too long to be recorded")
	}
	for i := range p.Profiles {
		if len(record.Draft(Requested{Quorum: p.Freeze(&p.Profiles[i])}, nil).Body) > most {
			return record.Refuse(record.ClassPolicy, "policy/size", "let smaller teams approve it",
				"so many people can approve profile %s that a request "+
					"could not be recorded", p.Profiles[i].ID)
		}
	}
	return nil
}

// teamChanges says in words who came into a team and who left one.
func teamChanges(old, new []policy.FrozenTeam) []string {
	members := func(teams []policy.FrozenTeam) map[string]bool {
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
func PolicyInForce(ctx context.Context, l *ledger.Ledger) (*policy.Policy, error) {
	st, err := readPolicyState(ctx, l)
	return st.Policy, err
}

func readPolicyState(ctx context.Context, l *ledger.Ledger) (st policy.State, err error) {
	entries, err := l.Stream(ctx, PolicyStream)
	if err != nil {
		return st, fmt.Errorf("reading the recorded policy: %w", err)
	}
	for _, e := range entries {
		ev, err := Decode(e)
		if err == nil {
			err = st.Apply(e, ev, false)
		}
		if err != nil {
			return st, fmt.Errorf("ledger entry %d: %w", e.Seq, err)
		}
	}
	return st, nil
}
