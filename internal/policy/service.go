package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/record"
)

// CodeWaits is the code of the refusal of a policy that is in order and waits for two people.
const CodeWaits = "policy/waits"

// The keys of what can be wrong with the access policy.
const (
	keyUnconfirmed = "policy-unconfirmed" // it is in force and the two people whom it names have not agreed to it
	keyOneEditor   = "policy-one-editor"  // it names no team that must agree to a change
	keyOnDisk      = "policy-on-disk"     // the file is not what is in force
)

// Trouble is something about the access policy that people must look at, or, where it is not so, that is over.
type Trouble struct {
	Key   string // stable
	Is    bool
	Grave bool // to be looked at now
	What  string
	Next  string
	Over  string // why it is over
}

// InForce knows which access policy is in force, and changes it. Each change is durable in the ledger before it is in force. It is safe for
// concurrent use. Its locks are taken in the order change, decide.
type InForce struct {
	rec    *record.Recorder
	report func(context.Context, Trouble) // set by Start

	change  sync.Mutex   // held over every append to the policy's stream, and while the policy must stay as it is: see Still
	state   State        // guarded by change
	decide  sync.RWMutex // see Hold and enforce
	held    []Holding    // what campaigns keep suspended; guarded by decide
	told    bool         // Suspend was called; guarded by decide
	current atomic.Pointer[Policy]
	changed []func() // guarded by decide
}

// NewInForce returns an InForce without a policy. Before Start, Suspend must have said what campaigns keep suspended.
func NewInForce(rec *record.Recorder) *InForce { return &InForce{rec: rec} }

// Policy is the access policy in force now, without what is suspended. It is immutable.
func (in *InForce) Policy() *Policy { return in.current.Load() }

// Hold keeps the policy in force, and what is suspended, as they are until release is called: a decision by them is recorded before they
// change. Others may hold it at the same time.
func (in *InForce) Hold() (release func()) {
	in.decide.RLock()
	return in.decide.RUnlock
}

// Still keeps policy files and signatures from changing the policy until release is called. Suspend may be called meanwhile.
func (in *InForce) Still() (release func()) {
	in.change.Lock()
	return in.change.Unlock
}

// Suspend records, by the function, what campaigns keep suspended from now on, and has it in force: no decision falls in between. What
// the function returns with an error changes nothing.
func (in *InForce) Suspend(record func() ([]Holding, error)) error {
	in.decide.Lock()
	defer in.decide.Unlock()
	held, err := record()
	if err != nil {
		return err
	}
	in.held, in.told = held, true
	if p := in.current.Load(); p != nil {
		in.current.Store(p.Suspending(held))
	}
	return nil
}

// OnChange has a function called after each change of the policy. It must not block, nor use InForce.
func (in *InForce) OnChange(f func()) {
	in.decide.Lock()
	defer in.decide.Unlock()
	in.changed = append(in.changed, f)
}

// enforce records a policy and puts it in force, with what is suspended taken away. No decision falls in between: one that was
// taken by the policy before is recorded before it. record returns the policy in force from then on. Called with change held.
func (in *InForce) enforce(record func() (*Policy, error)) error {
	in.decide.Lock()
	defer in.decide.Unlock()
	if !in.told {
		return errors.New("the access policy cannot be in force before it is known what recertification has suspended")
	}
	p, err := record()
	if err != nil {
		return err
	}
	in.current.Store(p.Suspending(in.held))
	for _, f := range in.changed {
		f()
	}
	return nil
}

// Start puts in force what the ledger says is in force, and then changes it to what the file has, if that may be: nil is a file that
// cannot be read. What Set would refuse does not keep the daemon from starting. report is told of trouble and its end.
func (in *InForce) Start(ctx context.Context, p *Policy, acceptWeaker bool, report func(context.Context, Trouble)) error {
	in.change.Lock()
	defer in.change.Unlock()
	in.report = report
	read, err := readState(ctx, in.rec.Ledger)
	if err != nil {
		return err
	}
	in.state = read
	st := &in.state
	if st.Policy == nil {
		return in.firstPolicy(ctx, p, acceptWeaker)
	}
	if err := in.enforce(func() (*Policy, error) { return st.InForce(), nil }); err != nil {
		return err
	}
	switch {
	case p == nil:
		in.rec.Log.Error("THE ACCESS POLICY ON DISK IS NOT IN FORCE: the one before stays", slog.String("policy", st.Loaded.Digest))
		return nil
	case acceptWeaker && p.Digest != st.Loaded.Digest && len(Eases(st.Policy, p)) > 0:
		in.rec.Log.Error("THE ACCESS POLICY IS ONE THAT NOBODY HAS AGREED TO: --accept-weaker", slog.Any("changes", Diff(st.Policy, p)))
		return in.record(ctx, p, Loaded{Why: WhyAccepted, Weaker: true, Changes: Diff(st.Policy, p)})
	}
	_, err = in.changeAndSay(ctx, p)
	if _, no := record.AsRefusal(err); no {
		in.rec.Log.Error("THE ACCESS POLICY ON DISK IS NOT IN FORCE: the one before stays", slog.String("policy", in.state.Loaded.Digest),
			slog.Any("error", err))
		return nil
	}
	return err
}

// firstPolicy puts a policy in force where there is none to hold it against: in a new ledger, in one of an earlier release, or where
// the text of the one in force is lost.
func (in *InForce) firstPolicy(ctx context.Context, p *Policy, acceptWeaker bool) error {
	st := &in.state
	if p == nil {
		return errors.New("the access policy on disk is broken, and the ledger has none that could stay in force")
	}
	ev := Loaded{Why: WhyFirst}
	switch {
	case st.Rev == 0 || p.Digest == st.Loaded.Digest:
	case st.Kept && !acceptWeaker:
		return record.Refuse(record.ClassPolicy, "policy/unread", "bring back the file of that policy, or restart the daemon with "+
			"--accept-weaker if the "+
			"new one is meant",
			"the access policy in force, %s, cannot be read, so nobody can tell what the one on disk changes: %v", st.Loaded.Digest, st.Unread)
	default:
		weaker := Weaker(st.Loaded.Quorums, p)
		if len(weaker) > 0 && !acceptWeaker {
			return refuseWeaker(weaker)
		}
		ev.Weaker = len(weaker) > 0
		ev.Changes = slices.Concat([]string{changedWhileDown}, weaker, teamChanges(st.Loaded.Teams, FrozenTeams(p)))
	}
	if st.Kept {
		ev.Why, ev.Weaker = WhyAccepted, true
	}
	return in.record(ctx, p, ev)
}

func refuseWeaker(weaker []string) error {
	return record.Refuse(record.ClassPolicy, "policy/weaker", "undo that, or restart the daemon with --accept-weaker if it is meant",
		"the new access policy asks for less than the one in force (%s)", strings.Join(weaker, "; "))
}

// Set changes the policy in force to the one of the file. What only takes away is in force at once. If the one in force names a
// team that must agree to changes, everything else waits for two of its people: the refusal says so. If it names none, the file is in
// force as it is read, unless it asks for less. The changes that are in force from now on are returned in words.
func (in *InForce) Set(ctx context.Context, p *Policy) ([]string, error) {
	in.change.Lock()
	defer in.change.Unlock()
	return in.changeAndSay(ctx, p)
}

func (in *InForce) changeAndSay(ctx context.Context, p *Policy) ([]string, error) {
	changes, err := in.changeTo(ctx, p)
	if _, no := record.AsRefusal(err); no || err == nil {
		in.onDisk(ctx, err)
	}
	return changes, err
}

func (in *InForce) changeTo(ctx context.Context, p *Policy) ([]string, error) {
	st := &in.state
	old := st.Policy
	if p.Digest == st.Loaded.Digest {
		return nil, in.drop(ctx)
	}
	if !st.Guarded() {
		if weaker := in.weaker(p); len(weaker) > 0 {
			return nil, refuseWeaker(weaker)
		}
		changes := Diff(old, p)
		return changes, in.record(ctx, p, Loaded{Why: WhyFile, Changes: changes})
	}
	if len(Eases(old, p)) == 0 {
		changes := Diff(old, p)
		return changes, in.record(ctx, p, Loaded{Why: WhyLess, Changes: changes})
	}
	less, err := Restrict(old, p).Render()
	rest := ""
	if err != nil {
		in.rec.Log.Warn("what the access policy on disk takes away waits with the rest: without it the rest would not be a policy",
			slog.Any("error", err))
		less, rest = old, "; what it takes away waits as well: without the rest it would not be a policy"
	}
	taken := Diff(old, less)
	if len(taken) > 0 {
		if err := in.record(ctx, less, Loaded{Why: WhyLess, Changes: taken}); err != nil {
			return nil, err
		}
	}
	ev := Proposed{Digest: p.Digest, Base: st.Loaded.Digest, Changes: Bounded(Diff(st.Policy, p))}
	if st.Waits == nil || st.Waits.Digest != ev.Digest || st.Waits.Base != ev.Base {
		if err := checkRecordable(p, ev); err != nil {
			return taken, err
		}
		if err := in.append(ctx, record.Draft(ev, TextsOf(p))); err != nil {
			return taken, err
		}
	}
	return taken, record.Refuse(record.ClassPolicy, CodeWaits,
		"two people of "+st.Policy.Change.Approvers+": breakglass policy approve "+p.Digest[:12],
		"the new access policy adds or eases something and waits for two people of %s (%s)%s", st.Policy.Change.Approvers,
		strings.Join(ev.Changes, "; "), rest)
}

// weaker says what an operator's word is needed for. Where the policy in force names a team that must agree, that is everything that
// does more than take away; where it names none, what asks for less in a profile that is or was there.
func (in *InForce) weaker(p *Policy) []string {
	st := &in.state
	eases := Eases(st.Policy, p)
	if st.Guarded() {
		return eases
	}
	out := Weaker(st.Loaded.Quorums, p)
	for _, text := range eases {
		where, _, of := strings.Cut(text, ": ")
		id, profile := strings.CutPrefix(where, "profile ")
		_, was := st.Policy.Profile(id)
		_, is := p.Profile(id)
		if of && profile && was && is && text != where+": description changed" || strings.HasPrefix(text, "cooling ") {
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (in *InForce) drop(ctx context.Context) error {
	if in.state.Waits == nil {
		return nil
	}
	return in.append(ctx, record.Draft(Dropped{Digest: in.state.Waits.Digest}, nil))
}

// Word is what comes with a signature over an access policy.
type Word struct {
	Entry     string // see Signed
	Digest    string
	Base      string
	Waive     bool
	Signature string
}

// Sign records one person's yes to the policy that waits, or to the one in force that nobody has agreed to. With the second
// person's the one that waits is in force. Saying yes twice is no error and no second voice.
func (in *InForce) Sign(ctx context.Context, a record.Actor, w Word) error {
	in.change.Lock()
	defer in.change.Unlock()
	st := &in.state
	ev := Signed{By: a, Entry: w.Entry, Digest: w.Digest, Base: w.Base, Waive: w.Waive, Signature: w.Signature}
	err := in.Policy().CheckKnown(a)
	if err == nil {
		err = in.decideSign(&ev)
	}
	if errors.Is(err, ErrSignedAlready) {
		return nil
	}
	if err == nil {
		err = in.rec.ClockBack()
	}
	if err != nil {
		return in.rec.Refused(ctx, a, "policy-approve", record.RefusalStream, err)
	}
	drafts := []ledger.Draft{record.Draft(ev, nil)}
	if people, _ := st.Signers(ev.Entry); ev.Entry == st.Waiting && len(slices.DeleteFunc(people,
		func(p string) bool { return p == a.Person })) >= MinQuorum-1 {
		if st.Next == nil {
			return record.Refuse(record.ClassConflict, "policy/unread", "have the daemon read the file again",
				"the text of the access policy that waits is lost")
		}
		loaded := st.Follow(st.Next, Loaded{Why: WhySigned, Proposal: st.Waiting, Changes: Diff(st.Policy, st.Next)})
		if err := checkRecordable(st.Next, loaded); err != nil {
			return err
		}
		drafts = append(drafts, record.Draft(loaded, TextsOf(st.Next)))
	}
	if err := in.append(ctx, drafts...); err != nil {
		return err
	}
	if len(drafts) > 1 {
		in.onDisk(ctx, nil)
	}
	return nil
}

func (in *InForce) decideSign(ev *Signed) error {
	st := &in.state
	if err := st.MaySign(*ev, in.rec.Now()); errors.Is(err, ErrSignedAlready) {
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
func (in *InForce) record(ctx context.Context, p *Policy, ev Loaded) error {
	ev = in.state.Follow(p, ev)
	if err := checkRecordable(p, ev); err != nil {
		return err
	}
	return in.append(ctx, record.Draft(ev, TextsOf(p)))
}

// append adds to the policy's stream, and has in force what that makes be in force.
func (in *InForce) append(ctx context.Context, drafts ...ledger.Draft) error {
	err := in.enforce(func() (*Policy, error) {
		entries, err := in.rec.Ledger.Append(ctx, in.rec.Now(), Stream, in.state.Rev, nil, drafts...)
		if err != nil {
			return nil, fmt.Errorf("recording the policy: %w", err)
		}
		for _, e := range entries {
			ev, err := Kinds.Decode(e)
			if err == nil {
				err = in.state.Apply(e, ev, false)
			}
			if err != nil {
				return nil, fmt.Errorf("the access policy was recorded, but is not valid: %w", err)
			}
		}
		return in.state.InForce(), nil
	})
	if err == nil {
		in.judge(ctx)
	}
	return err
}

// judge says what is wrong with who must agree to the policy in force.
func (in *InForce) judge(ctx context.Context) {
	st := &in.state
	rule := st.Policy.Change
	unconfirmed := Trouble{Key: keyUnconfirmed, Is: st.Unconfirmed(), Grave: true, Over: "two people have agreed to it",
		What: fmt.Sprintf("the access policy %s is in force, and no two people of %s have agreed to it: %s", st.Loaded.Digest[:12],
			rule.Approvers, WhyWords(st.Loaded.Why)),
		Next: "two people of " + rule.Approvers + ", each: breakglass policy approve " + st.Loaded.Digest[:12]}
	if !st.Guarded() {
		unconfirmed.What = "an operator put an access policy in force with --accept-weaker, no two people have agreed to it, and the one in " +
			"force names no team that could"
		unconfirmed.Next = "name a team of two people or more in the file, policy: {approvers: TEAM}, and have two of its people sign it: " +
			"breakglass policy approve"
	}
	in.report(ctx, unconfirmed)
	in.report(ctx, Trouble{Key: keyOneEditor, Is: rule.Approvers == "" && rule.ReviewedBy == "", Grave: true,
		Over: "the access policy says who agrees to changes",
		What: "the access policy names no team that must agree to its changes: one person who can write the file decides who approves",
		Next: "add to the file policy: {approvers: TEAM}, a team of two people or more; or, if a second person agrees elsewhere, policy: " +
			"{reviewedBy: \"HOW\"}"})
}

// onDisk says what became of the file.
func (in *InForce) onDisk(ctx context.Context, err error) {
	t := Trouble{Key: keyOnDisk, Is: err != nil, Over: "the access policy on disk is in force",
		What: "the access policy on disk is not in force",
		Next: "correct the file and have the daemon read it again (SIGHUP)"}
	if err != nil {
		t.What += ": " + err.Error()
	}
	if r, ok := record.AsRefusal(err); ok && r.Next != "" {
		t.Next = r.Next
	}
	in.report(ctx, t)
}

// Unread records that the access policy on disk could not be read, and why. The one in force stays.
func (in *InForce) Unread(ctx context.Context, err error) { in.onDisk(ctx, err) }

// Standing is the access policy in force and the one that waits.
type Standing struct {
	Policy    *Policy
	Entry     string // see Signed
	Since     time.Time
	Why       string // in words
	Agreed    bool   // two people have agreed to it
	Signed    []string
	Cooling   []CoolingOff
	Approvers []string // who can sign, if the policy names a team

	Waiting       *Proposed // nil: nothing waits
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

// Standing says what is in force, since when and why, and what waits for whom. Approvers of the policy, reviewers and responders
// may ask.
func (in *InForce) Standing(ctx context.Context, a record.Actor) (Standing, error) {
	in.change.Lock()
	defer in.change.Unlock()
	p, st, now := in.Policy(), &in.state, in.rec.Now()
	err := p.CheckKnown(a)
	approver := slices.Contains(p.Members([]string{p.Change.Approvers}), a.Person)
	if err == nil && !approver && !p.MayReview(a.Person) && !p.MayRespond(a.Person) {
		err = record.Refuse(record.ClassDenied, "policy/read", "",
			"only those who sign the access policy's changes, reviewers and responders can read it")
	}
	if err != nil {
		return Standing{}, in.rec.Refused(ctx, a, "policy-read", record.RefusalStream, err)
	}
	out := Standing{Policy: p, Entry: st.Entry, Since: st.Since, Why: WhyWords(st.Loaded.Why), Agreed: st.Agreed,
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

// Waits is since when a change of the access policy waits for two people; the zero time: none does.
func (in *InForce) Waits() time.Time {
	in.change.Lock()
	defer in.change.Unlock()
	if in.state.Waits == nil {
		return time.Time{}
	}
	return in.state.Asked
}

// changedWhileDown stands in the record, and from there in reports, so that nobody takes a short list of changes for all of them.
const changedWhileDown = "the policy changed while the daemon was down, from one that an earlier release recorded: only teams and " +
	"what asks for less were compared with the record; " +
	"keys, accounts, rights, lifetimes and the rest may have changed too"

// RestOfEntry is what an entry may hold, in bytes, beside what a policy makes long: a request beside its quorum.
const RestOfEntry = 8 << 10

// checkRecordable refuses a policy under which an entry would be longer than the ledger takes: one that could be loaded, and under which
// then no requester could ask.
func checkRecordable(p *Policy, ev record.Event) error {
	const most = ledger.MaxLeaf - RestOfEntry
	if len(record.Draft(ev, nil).Body) > most {
		return record.Refuse(record.ClassPolicy, "policy/size", "change less at one time",
			"the change of the access policy is too long to be recorded")
	}
	for i := range p.Profiles {
		quorum, err := json.Marshal(p.Freeze(&p.Profiles[i]))
		if err != nil {
			return fmt.Errorf("encoding the quorum of profile %s: %w", p.Profiles[i].ID, err)
		}
		if len(quorum) > most {
			return record.Refuse(record.ClassPolicy, "policy/size", "let smaller teams approve it",
				"so many people can approve profile %s that a request "+
					"could not be recorded", p.Profiles[i].ID)
		}
	}
	return nil
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

// Recorded reads from a ledger which access policy is in force. It is nil where the ledger does not keep it: a new one, or one of
// an earlier release.
func Recorded(ctx context.Context, l *ledger.Ledger) (*Policy, error) {
	st, err := readState(ctx, l)
	return st.Policy, err
}

func readState(ctx context.Context, l *ledger.Ledger) (st State, err error) {
	entries, err := l.Stream(ctx, Stream)
	if err != nil {
		return st, fmt.Errorf("reading the recorded policy: %w", err)
	}
	for _, e := range entries {
		ev, err := Kinds.Decode(e)
		if err == nil {
			err = st.Apply(e, ev, false)
		}
		if err != nil {
			return st, fmt.Errorf("ledger entry %d: %w", e.Seq, err)
		}
	}
	return st, nil
}
