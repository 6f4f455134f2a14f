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

	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/text"
)

// ClusterCA returns the PEM bundle by which people know a cluster's API servers; none: by their system's roots.
func (s *Service) ClusterCA(cluster string) []byte {
	if s.cfg.ClusterCA == nil {
		return nil
	}
	return s.cfg.ClusterCA(cluster)
}

// CAHash names the bundle of authorities by which people know a cluster, as Requested does.
func CAHash(bundle []byte) string {
	return text.SHA256(bundle)
}

// withAftercare adds to a fact that is to be recorded what must follow the grant's end, by which authorities and which way people know
// the cluster, and the approval more that is needed while its requester owes a closing note.
func (s *Service) withAftercare(p *policy.Policy, ev Requested, now time.Time) Requested {
	aftercare := Aftercare{Prove: s.cfg.Prover != nil, Examine: s.cfg.Examiner != nil, CloseSeconds: int64(p.Closing.Within / time.Second)}
	if aftercare != (Aftercare{}) {
		ev.Aftercare = &aftercare
	}
	if ca := s.ClusterCA(ev.Cluster); len(ca) > 0 {
		ev.CAHash = CAHash(ca)
	}
	if s.cfg.ClusterWay != nil {
		ev.Way = s.cfg.ClusterWay(ev.Cluster)
	}
	if !p.Closing.RaiseQuorum {
		return ev
	}
	late := s.tracker.late(ev.By.Person, now)
	raised := ev.Quorum
	raised.Count++
	// Governance must not shut the emergency door: where so many people cannot approve, the quorum stays.
	if len(late) > 0 && p.Reachable(raised, ev.By.Person) {
		ev.Quorum, ev.Raised = raised, late[:min(len(late), MaxRaised)]
	}
	return ev
}

// Revoke ends a grant before its time: the requester, everybody whose approval could count, and responders may do so. An
// approved grant that was not claimed is ended as well: then no certificate comes of it. In binding mode the binding is
// removed before Revoke returns if the cluster answers, and then the API servers are asked until they say no, for as long as
// [proveFor]; Run goes on with what is not done by then.
func (s *Service) Revoke(ctx context.Context, a record.Actor, id, reason string) (*Request, error) {
	r, err := s.command(ctx, a, "revoke", id, func(p *policy.Policy, r *Request, now time.Time) (record.Event, map[string]string, error) {
		if err := mayRevoke(p, r, a, now); err != nil {
			return nil, nil, err
		}
		if r.Revoked != nil {
			return nil, nil, nil
		}
		if err := record.NeedReason(reason); err != nil {
			return nil, nil, err
		}
		return Revoked{By: a}, map[string]string{"reason": strings.TrimSpace(reason)}, nil
	})
	if err != nil || r.Issued == nil {
		return r, err
	}
	if r.Ask.Rights.Binding() {
		if after, err := s.unbind(ctx, r, StateRevoked); err == nil {
			r = after
		} // otherwise Run keeps trying, and says so; how much the API servers still let in is proved all the same
	}
	pctx, cancel := context.WithTimeout(ctx, proveFor)
	defer cancel()
	if after, err := s.prove(pctx, r); after != nil {
		r = after
	} else if err != nil {
		s.log.Warn("proving a revocation", slog.String("request", r.ID), slog.Any("error", err))
	}
	return r, nil
}

// Revocations is what became of a RevokeAll.
type Revocations struct {
	Revoked []*Request
	Left    []LeftAlone
}

// LeftAlone is a grant that RevokeAll did not end, and why.
type LeftAlone struct {
	Request string
	Why     string
}

// RevokeAll ends every grant in a cluster that has, or could still become, a certificate. Each is revoked as by Revoke, all at
// the same time. Grants that are just being issued are waited for. What the actor may not revoke is left alone and said.
func (s *Service) RevokeAll(ctx context.Context, a record.Actor, cluster, reason string) (Revocations, error) {
	p := s.Policy()
	err := p.CheckKnown(a)
	if err == nil {
		if _, ok := p.Cluster(cluster); !ok && !slices.Contains(s.clusters(), cluster) {
			err = NoSuchCluster(cluster)
		}
	}
	if err == nil {
		err = record.NeedReason(reason)
	}
	if err != nil {
		return Revocations{}, s.Recorder.Refused(ctx, a, "revoke-all", record.RefusalStream, err)
	}
	open, err := s.Open(ctx)
	if err != nil {
		return Revocations{}, err
	}
	type result struct {
		request *Request
		left    *LeftAlone
	}
	results := make(chan result)
	n := 0
	for _, r := range open {
		switch r.State(s.now()) {
		case StateApproved, StateIssuing, StateActive:
		case StatePending, StateExpired, StateRevoked, StateFailed, StateDenied, StateWithdrawn, StateLapsed:
			continue
		}
		if r.Ask.Cluster != cluster {
			continue
		}
		n++
		go func() {
			after, err := s.revokeSoon(ctx, a, r.ID, reason)
			if err != nil {
				why := "an internal error; try again"
				if no, ok := record.AsRefusal(err); ok {
					why = no.Why
				} else {
					s.log.Error("revoking one of all", slog.String("request", r.ID), slog.Any("error", err))
				}
				results <- result{left: &LeftAlone{Request: r.ID, Why: why}}
				return
			}
			results <- result{request: after}
		}()
	}
	var out Revocations
	for range n {
		if res := <-results; res.left != nil {
			out.Left = append(out.Left, *res.left)
		} else {
			out.Revoked = append(out.Revoked, res.request)
		}
	}
	slices.SortFunc(out.Revoked, func(a, b *Request) int { return int(a.Seq - b.Seq) })
	slices.SortFunc(out.Left, func(a, b LeftAlone) int { return strings.Compare(a.Request, b.Request) })
	return out, nil
}

// revokeSoon is Revoke, which waits for a claim that is under way.
func (s *Service) revokeSoon(ctx context.Context, a record.Actor, id, reason string) (*Request, error) {
	wctx, cancel := context.WithTimeout(ctx, 2*s.cfg.SignTimeout)
	defer cancel()
	for {
		r, err := s.load(ctx, id)
		if err != nil {
			return nil, err
		}
		if r.State(s.now()) == StateIssuing && wctx.Err() == nil {
			if _, err := s.Wait(wctx, id, r.Rev, ""); err != nil {
				return nil, err
			}
			continue
		}
		after, err := s.Revoke(ctx, a, id, reason)
		if no, ok := record.AsRefusal(err); ok && no.Code == "issuing" && wctx.Err() == nil {
			continue // claimed between the look and the word
		}
		return after, err
	}
}

// Close records the requester's note on what was done.
func (s *Service) Close(ctx context.Context, a record.Actor, id, note string) (*Request, error) {
	return s.command(ctx, a, "close", id, func(p *policy.Policy, r *Request, now time.Time) (record.Event, map[string]string, error) {
		if err := mayClose(p, r, a, now); err != nil {
			return nil, nil, err
		}
		if r.Closed != nil {
			return nil, nil, already(a, *r.Closed, "closed", note)
		}
		if err := record.NeedNote(note, record.MinNote); err != nil {
			return nil, nil, err
		}
		return Closed{By: a}, map[string]string{"note": strings.TrimSpace(note)}, nil
	})
}

// Acknowledge records that a second person has seen what a grant left behind: an approver or a responder, never the requester.
// seen is the Digest of the sweep that they were shown: if the last one found something else, it is refused. While something
// critical is there the note says why it may stay; otherwise it may be empty. What is critical then stays a finding: see accepted.
func (s *Service) Acknowledge(ctx context.Context, a record.Actor, id, seen, note string) (*Request, error) {
	r, err := s.command(ctx, a, "acknowledge", id, func(p *policy.Policy, r *Request, now time.Time) (record.Event, map[string]string, error) {
		if err := mayAcknowledge(p, r, a, now); err != nil {
			return nil, nil, err
		}
		switch {
		case r.Acknowledged != nil:
			return nil, nil, already(a, *r.Acknowledged, "acknowledged", note)
		case seen != r.Swept.Digest():
			return nil, nil, record.Refuse(record.ClassConflict, "stale", "look again (breakglass show "+r.ID+
				", or the form in Slack), and acknowledge what is there now", "%s was looked through again: what is left behind is not what you saw",
				r.ID)
		}
		if err := needWhy(r.Swept, note); err != nil {
			return nil, nil, err
		}
		return Acknowledged{By: a, Seen: seen}, record.Optional("note", note), nil
	})
	if err == nil {
		s.accepted(ctx, r)
	}
	return r, err
}

// acceptedFor is how long a person's word that something critical may stay keeps it from being critical again.
const acceptedFor = 30 * 24 * time.Hour

// accepted keeps among the findings what is critical, is still there, and may stay by a person's word: a warning until the time of that
// word is over, and critical from then on. It ends when a sweep finds nothing critical there, or, once the time is over, by a
// responder's word that it is to stay for good.
func (s *Service) accepted(ctx context.Context, r *Request) {
	f := finding.Opened{Key: finding.AcceptedCritical + "/" + r.ID, Check: acceptedCheck, Cluster: r.Ask.Cluster, Request: r.ID,
		Severity: finding.Warning}
	is := r.Acknowledged != nil && r.Swept.Critical() > 0
	if is {
		if s.Findings.Settled(f.Key) {
			return
		}
		until := r.Acknowledged.At.Add(acceptedFor)
		f.What = fmt.Sprintf("%s accepted until %s that %d critical things of %s are still there: %s", r.Acknowledged.By.Person,
			until.UTC().Format(time.DateOnly), r.Swept.Critical(), r.ID, record.Clip(r.Swept.Items[0].Object, 200))
		f.Next = "take away what must go (breakglass show " + r.ID + "), and have it looked at again: breakglass sweep " + r.ID
		if !s.now().Before(until) {
			f.Severity, f.What = finding.Critical, f.What+"; that time is over"
			f.Next += "; or, if it is to stay for good: breakglass findings settle " + f.Key
		}
	}
	s.Findings.FindIf(ctx, is, f, "nothing critical of it is there any more")
}

// acceptedCheck names what accepted finds.
const acceptedCheck = "aftercare"

// acceptanceDays is how long after a request was made a restart looks for what was accepted of it. A grant lasts a day at most; what it
// needs afterwards comes within days, or is a finding of its own.
const acceptanceDays = 60

// acceptancesAgain looks at what was accepted lately, once after each start: the daemon may have ended between a word and its finding.
func (s *Service) acceptancesAgain(ctx context.Context) {
	recent, err := s.Since(ctx, acceptanceDays)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Error("looking for what was accepted", slog.Any("error", err))
		}
		return
	}
	for _, r := range recent {
		if r.Acknowledged != nil && r.Swept.Critical() > 0 {
			s.accepted(ctx, r)
		}
	}
}

// acceptances looks whose time is over.
func (s *Service) acceptances(ctx context.Context) {
	for _, f := range s.Findings.Open() {
		if f.Check != acceptedCheck || f.Request == "" {
			continue
		}
		r, err := s.load(ctx, f.Request)
		if err != nil {
			s.log.Error("reading what was accepted", slog.String("finding", f.Key), slog.Any("error", err))
			continue
		}
		s.accepted(ctx, r)
	}
}

// already refuses a word that was given before, unless it is the same word of the same person, as a client that tries again sends it.
// Whoever is told that it was done would believe to be on record with what they wrote.
func already(a record.Actor, before record.Ending, done, note string) error {
	note = strings.TrimSpace(note)
	if a.Person == before.By.Person && (note == "" || note == before.Reason) {
		return nil
	}
	lost := ""
	if note != "" {
		lost = "; what you wrote was not recorded"
	}
	return record.Refuse(record.ClassConflict, "already", "tell "+before.By.Person+" what you know beside it",
		"it was %s by %s at %s already%s",
		done, before.By.Person, before.At.UTC().Format(time.RFC3339), lost)
}

// needWhy refuses an acknowledgement of something critical without a word why it may stay: it ends the alarm.
func needWhy(left *Swept, note string) error {
	n := left.Critical()
	if n == 0 {
		if note == "" {
			return nil
		}
		return record.NeedNote(note, 1)
	}
	if len([]rune(strings.TrimSpace(note))) >= record.MinNote {
		return record.NeedNote(note, record.MinNote)
	}
	return record.Refuse(record.ClassInvalid, "note", "take away what must go, or say why it may stay",
		"something critical is still there: %s; a note of %d to %d characters says why it may stay",
		record.Clip(left.Items[0].Object, 100), record.MinNote, record.MaxNote)
}

// Touched lists the grants whose closing note is missing, the live ones included, oldest first.
func (s *Service) Touched(ctx context.Context) ([]*Request, error) {
	return s.tagged(ctx, tagTouched)
}

// Unacknowledged lists the grants that left something behind which no second person has acknowledged, oldest first.
func (s *Service) Unacknowledged(ctx context.Context) ([]*Request, error) {
	return s.tagged(ctx, tagUnacknowledged)
}

// Owed counts what Touched and Unacknowledged list, by the index alone.
func (s *Service) Owed(ctx context.Context) (touched, unacknowledged int, err error) {
	notes, err := s.ledger.Streams(ctx, tagTouched)
	if err != nil {
		return 0, 0, fmt.Errorf("counting closing notes: %w", err)
	}
	left, err := s.ledger.Streams(ctx, tagUnacknowledged)
	if err != nil {
		return 0, 0, fmt.Errorf("counting acknowledgements: %w", err)
	}
	return len(notes), len(left), nil
}

// Imported records that a file of audit events was handed in. Responders and approvers may do so: MayImport.
func (s *Service) Imported(ctx context.Context, ev AuditImported) error {
	defer s.InForce.Hold()()
	if err := s.MayImport(ctx, ev.By, ev.Cluster); err != nil { // once more: reading the file took its time
		return err
	}
	if _, err := s.ledger.Append(ctx, s.now(), ImportStream, ledger.AnyVersion, nil, record.Draft(ev, nil)); err != nil {
		return fmt.Errorf("recording an import of audit events: %w", err)
	}
	return nil
}

// MayImport says whether somebody may hand in audit events of a cluster; see MayOperate.
func (s *Service) MayImport(ctx context.Context, a record.Actor, cluster string) error {
	return s.MayOperate(ctx, a, cluster, "audit-import")
}

// MayOperate says whether somebody may have something done about a cluster that is nobody's request: a responder, or somebody
// who approves there. A refusal is recorded under the command's name.
func (s *Service) MayOperate(ctx context.Context, a record.Actor, cluster, command string) error {
	p := s.Policy()
	err := p.CheckKnown(a)
	if err == nil && !p.MayRespond(a.Person) && !p.Approves(a.Person, cluster) {
		err = record.Refuse(record.ClassDenied, "not-responder", "", "only responders and approvers of the cluster can do this")
	}
	if err == nil {
		if _, ok := p.Cluster(cluster); !ok {
			err = NoSuchCluster(cluster)
		}
	}
	return s.Recorder.Refused(ctx, a, command, record.RefusalStream, err)
}

// NoSuchCluster is the refusal of a cluster that the access policy does not name.
func NoSuchCluster(cluster string) error {
	return record.Refuse(record.ClassUnknown, "unknown-cluster", "see: breakglass profiles", "there is no cluster %q",
		record.Clip(cluster, 40))
}

// ByFingerprint returns the request whose certificate has this fingerprint (hex SHA-256 of the DER), and whether there is
// one. A canary's certificate is known as well, and has no request.
func (s *Service) ByFingerprint(ctx context.Context, fingerprint string) (r *Request, known bool, err error) {
	if r := s.tracker.byPrint(fingerprint); r != nil { // API servers ask with each request that somebody makes with it
		return r, true, nil
	}
	streams, err := s.ledger.Streams(ctx, ledger.Tag{Name: "fingerprint", Value: fingerprint})
	if err != nil {
		return nil, false, fmt.Errorf("looking up a certificate: %w", err)
	}
	if len(streams) == 0 {
		return nil, false, nil
	}
	if !ValidID(streams[0]) {
		return nil, true, nil
	}
	r, err = s.load(ctx, streams[0])
	return r, err == nil, err
}

// ByCommonName returns the request that a common name of ours names, and whether there is one. A name in the form of ours
// that names another person's request is none.
func (s *Service) ByCommonName(ctx context.Context, commonName string) (r *Request, known bool, err error) {
	person, id, ok := strings.Cut(strings.TrimPrefix(commonName, policy.CommonNamePrefix), ":")
	if !ok || !strings.HasPrefix(commonName, policy.CommonNamePrefix) || !ValidID(id) {
		return nil, false, nil
	}
	if r = s.tracker.get(id); r != nil {
		return r, r.Ask.By.Person == person, nil
	}
	r, err = s.load(ctx, id)
	if _, unknown := record.AsRefusal(err); unknown {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	return r, r.Ask.By.Person == person, nil
}

// The rounds of a proof: how long one call asks again and again, and how often.
const (
	proveFor   = 5 * time.Second
	proveEvery = 50 * time.Millisecond
)

// prove asks the API servers whether a revoked certificate is refused, again and again until all that can be reached say no
// or ctx ends, and records what it learned. An error means that something is left to ask.
func (s *Service) prove(ctx context.Context, r *Request) (*Request, error) {
	if aftercare := r.Ask.Aftercare; aftercare == nil || !aftercare.Prove || r.Revoked == nil || r.Issued == nil || r.receipted() {
		return r, nil
	}
	answers, bindings, late := []Answer{}, []string(nil), []string(nil)
	if r.Receipt != nil {
		answers, bindings, late = slices.Clone(r.Receipt.Answers), slices.Clone(r.Receipt.Bindings), slices.Clone(r.Receipt.Late)
	}
	for {
		actx, cancel := context.WithTimeout(ctx, s.cfg.BindTimeout)
		got := s.cfg.Prover.Ask(actx, s.access(r))
		cancel()
		late = unasked(late, answers, got)
		answers, bindings = learned(answers, got, r.Revoked.At), alsoBound(bindings, got)
		if !slices.ContainsFunc(answers, func(a Answer) bool { return !a.No && a.StillAllows() }) {
			break // the rest cannot be reached: that takes longer than we wait here
		}
		select {
		case <-ctx.Done():
		case <-time.After(proveEvery):
			continue
		}
		break
	}
	all := len(answers) > 0 && !slices.ContainsFunc(answers, func(a Answer) bool { return !a.No })
	after, err := s.note(context.WithoutCancel(ctx), r, func(r *Request) record.Event {
		if r.receipted() {
			return nil
		}
		ev := Receipt{Answers: answers, Final: all || !s.now().Before(r.Issued.NotAfter), Limits: limitsOf(r), Bindings: bindings, Late: late}
		if r.Receipt != nil && !ev.Final && sameAnswers(r.Receipt.Answers, answers) && slices.Equal(r.Receipt.Bindings, bindings) &&
			slices.Equal(r.Receipt.Late, late) {
			return nil // nothing new
		}
		return ev
	})
	if err != nil || after.receipted() {
		return after, err
	}
	return after, errors.New("not every API server has said no: " + problemsOf(answers))
}

// learned adds one round of answers to those before. A no stays: it is when the server first refused that counts.
func learned(before, got []Answer, revoked time.Time) []Answer {
	out := make([]Answer, len(got))
	for i, a := range got {
		j := slices.IndexFunc(before, func(b Answer) bool { return b.Server == a.Server })
		if j >= 0 && before[j].No {
			out[i] = before[j]
			continue
		}
		a.Tries, a.Bindings = max(a.Tries, 1), nil
		if j >= 0 {
			a.Tries += before[j].Tries
		}
		if a.No {
			if a.At.IsZero() {
				a.At = time.Now()
			}
			a.AfterMillis = max(a.At.Sub(revoked).Milliseconds(), 1)
			a.Problem = ""
		}
		a.At, a.Silent = time.Time{}, false
		out[i] = a
	}
	return out
}

// unasked adds one round of answers to what is known of servers that could not be asked: Receipt.Late. Of one that has said no
// before, nothing changes.
func unasked(late []string, before, got []Answer) []string {
	var out []string
	for _, a := range got {
		no := a.No || slices.ContainsFunc(before, func(b Answer) bool { return b.Server == a.Server && b.No })
		if a.Silent && !no || no && slices.Contains(late, a.Server) {
			out = append(out, a.Server)
		}
	}
	return out
}

// alsoBound adds what one round of answers says about bindings that were not made for the grant. What was said last of one counts.
func alsoBound(before []string, got []Answer) []string {
	last := map[string]string{}
	add := func(all []string) {
		for _, b := range all {
			name, what, _ := strings.Cut(b, ": ")
			last[name] = what
		}
	}
	add(before)
	for _, a := range got {
		add(a.Bindings)
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(last)) {
		out = append(out, name+": "+last[name])
	}
	return out
}

// sameAnswers reports whether nothing was learned but the number of tries.
func sameAnswers(a, b []Answer) bool {
	return slices.EqualFunc(a, b, func(a, b Answer) bool { return a.Server == b.Server && a.No == b.No && a.Problem == b.Problem })
}

func problemsOf(answers []Answer) string {
	var out []string
	for _, a := range answers {
		if !a.No {
			out = append(out, a.Server+": "+a.Problem)
		}
	}
	if len(out) == 0 {
		return "no API server is configured"
	}
	return strings.Join(out, "; ")
}

// limitsOf says what a revocation cannot reach.
func limitsOf(r *Request) []string {
	out := []string{
		"watches, execs, attaches and port-forwards that ran already go on until they end",
		"tokens, certificates and bindings made with it meanwhile stay: the sweep looks for them",
		"Kubernetes checks no revocation list: the certificate itself stays valid until " + r.Issued.NotAfter.UTC().Format(time.RFC3339) +
			" wherever only the CA is asked, such as a kubelet or an aggregated API server that trusts it",
	}
	if !r.Ask.Rights.Binding() {
		out = append(out, "group mode: only an API server that asks the deny webhook refuses this one certificate; if breakglassd was "+
			"restarted a moment before, it may still let in what it remembers (unauthorizedTTL)")
	}
	return out
}

// access is a grant's certificate as its cluster sees it.
func (s *Service) access(r *Request) Access {
	a := Access{Request: r.ID, Cluster: r.Ask.Cluster, User: CommonName(r.Ask.By.Person, r.ID), Rights: r.Ask.Rights, Since: r.ClaimedAt}
	if r.Issued != nil {
		a.Fingerprint = r.Issued.Fingerprint
	}
	return a
}

// examine records what was done with a grant and what it left behind.
func (s *Service) examine(ctx context.Context, r *Request) (*Request, error) {
	now := s.now()
	final := now.Sub(r.EndedBy(now)) >= s.cfg.ExamineFor
	ectx, cancel := context.WithTimeout(ctx, examineTimeout)
	session, swept, err := s.cfg.Examiner.Examine(ectx, r, final)
	cancel()
	if err != nil {
		return nil, fmt.Errorf("examining the session of %s: %w", r.ID, err)
	}
	for {
		fresh, err := s.load(ctx, r.ID)
		if err != nil {
			return nil, err
		}
		after, err := s.append(ctx, fresh, time.Time{}, nil, session, swept)
		if errors.Is(err, ledger.ErrConflict) {
			continue
		}
		if err == nil {
			s.accepted(ctx, after)
		}
		return after, err
	}
}

// examineTimeout bounds one examination, which lists the whole of a cluster. The API's longest answer takes 90 s.
const examineTimeout = 80 * time.Second

// Examine looks at a grant's session again, on a person's word: after something was cleaned up, or when audit events came
// late. Its requester, its approvers and responders may ask.
func (s *Service) Examine(ctx context.Context, a record.Actor, id string) (*Request, error) {
	r, err := s.command(ctx, a, "sweep", id, func(p *policy.Policy, r *Request, now time.Time) (record.Event, map[string]string, error) {
		switch {
		case a.Person != r.Ask.By.Person && !r.Ask.Quorum.Counts(a.Person) && !p.MayRespond(a.Person):
			return nil, nil, record.Refuse(record.ClassDenied, "not-approver", "",
				"only %s, the approvers of %s and responders can have it looked through",
				r.Ask.By.Person, r.ID)
		case s.cfg.Examiner == nil:
			return nil, nil, record.Refuse(record.ClassUnavailable, "no-examiner", "set up sessions in the daemon's configuration",
				"sessions are not examined here")
		case r.EndedBy(now).IsZero():
			return nil, nil, record.Refuse(record.ClassConflict, "not-over", "", "%s is %s: there is no ended session to look at", r.ID,
				r.State(now))
		}
		return nil, nil, s.limitRepeats(r.ID + " " + a.Person)
	})
	if err != nil {
		return nil, err
	}
	return s.examine(ctx, r)
}

// overdue records that a word did not come in time.
func (s *Service) overdue(ctx context.Context, r *Request) error {
	_, err := s.note(ctx, r, func(r *Request) record.Event {
		now := s.now()
		for what, by := range map[string]time.Time{OverdueClosing: r.CloseBy(now), OverdueAcknowledgement: r.AcknowledgeBy()} {
			if !by.IsZero() && !now.Before(by) && !slices.Contains(r.Overdue, what) {
				return Overdue{What: what}
			}
		}
		return nil
	})
	return err
}
