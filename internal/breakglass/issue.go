package breakglass

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/text"
)

// claimJob is one claim on its way to a worker. Workers belong to Run, so that a claim outlives the connection of the person
// who made it: after the commit point it is carried through.
type claimJob struct {
	actor     record.Actor
	request   *Request // as it was when the claim came in
	csr       *x509.CertificateRequest
	signature string // over ClaimText, checked
	publicKey string
	done      chan claimResult // buffered: the worker never waits for the person
}

type claimResult struct {
	delivery *Delivery
	err      error
}

// claimWorkers is how many claims are carried through at one time. Signing waits for the network, so there are more of them
// than processors; the ledger serialises the records anyway.
const claimWorkers = 32

// Claim turns an approved request into its one certificate, for the key in the CSR. Claiming again with the same key while
// the certificate is valid returns the same certificate; with another key it is refused. If ctx ends first, the claim is
// carried through all the same and can be asked for again. The signature is an armored SSHSIG by the actor's key over ClaimText.
func (s *Service) Claim(ctx context.Context, a record.Actor, id string, csrPEM []byte, signature string) (*Delivery, error) {
	p := s.Policy()
	if err := p.CheckKnown(a); err != nil {
		return nil, s.Recorder.Refused(ctx, a, "claim", record.RefusalStream, err)
	}
	r, err := s.Get(ctx, id) // it exists: a refusal must not begin the stream of a request that does not
	if err != nil {
		return nil, err
	}
	csr, err := ParseCSR(csrPEM)
	if err != nil {
		return nil, s.Recorder.Refused(ctx, a, "claim", r.ID, err)
	}
	job := claimJob{actor: a, request: r, csr: csr, signature: signature, done: make(chan claimResult, 1)}
	if a.Channel == record.ChannelKey { // otherwise it is refused for its channel
		if job.publicKey, err = signingKey(p, a); err == nil {
			if no := (Claimed{By: a, CSR: Fingerprint(csr.Raw), Signature: signature, PublicKey: job.publicKey}).verify(r.ID); no != nil {
				err = badSignature("claim", no)
			}
		}
		if err != nil {
			return nil, s.Recorder.Refused(ctx, a, "claim", r.ID, err)
		}
	}
	select {
	case s.claims <- job:
	case <-s.stopped:
		return nil, record.Refuse(record.ClassUnavailable, "stopping", "claim again in a moment: the approval stays", "the daemon is stopping")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case res := <-job.done:
		return res.delivery, res.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// issue carries one claim through. The numbers are the commit points of the package comment.
func (s *Service) issue(ctx context.Context, j claimJob) (*Delivery, error) {
	r, again, err := s.commit(ctx, j)
	if err != nil {
		return nil, err
	}
	if again {
		return s.deliverAgain(ctx, r, j.actor)
	}

	failpoint("claimed")

	// What exists in the cluster is remembered beside the signing call, and done or given up before the certificate leaves.
	remembered := s.before(ctx, r)

	// 2. One signing call.
	asked := time.Now()
	sctx, cancel := context.WithTimeout(ctx, s.cfg.SignTimeout)
	signed, err := s.cfg.Signer.Sign(sctx, Order{Request: r.ID, Cluster: r.Ask.Cluster, Group: r.Claimed.Group,
		CommonName: r.Claimed.CommonName, CSR: j.csr.Raw, TTL: r.TTL()})
	cancel()
	switch {
	case errors.Is(err, ErrNotSignedNow) && r.NotSigned < MaxNotSigned:
		s.log.Warn("the signer cannot sign for the moment", slog.String("request", r.ID), slog.Any("error", err))
		return nil, s.notNow(ctx, r, err)
	case errors.Is(err, ErrNotSigned):
		s.log.Error("the signer refused", slog.String("request", r.ID), slog.Any("error", err))
		return nil, s.fail(ctx, r, Failed{Why: FailRefused, Detail: "the certificate authority refused to sign"}, err)
	case err != nil:
		// The outcome is unknown. It is settled by looking, in Run, and never by signing again.
		s.log.Error("no answer from the signer: the outcome is unknown", slog.String("request", r.ID), slog.Any("error", err))
		return nil, &record.Refusal{Class: record.ClassUnavailable, Code: "outcome-unknown",
			Why:  "the certificate authority did not answer: whether it signed is being looked into",
			Next: "watch it with: breakglass status " + r.ID + "; then open a new request", Cause: err}
	}

	failpoint("signed")

	// 3. Nothing that came back is believed before this.
	in := Intent{CommonName: r.Claimed.CommonName, Group: r.Claimed.Group, SPKI: r.Claimed.SPKI, TTL: r.TTL(), Issuer: signed.Issuer,
		Now: time.Now(), Asked: asked}
	if bad := CheckCertificate(signed, in); len(bad) > 0 {
		s.log.Error("the signer returned something else than ordered", slog.String("request", r.ID), slog.Any("differences", bad))
		return nil, s.fail(ctx, r, Failed{Why: FailCheck, Detail: "the certificate is not what was ordered: " + strings.Join(bad, "; "),
			Orphans: [][]byte{signed.Certificate}}, nil)
	}
	c, err := x509.ParseCertificate(signed.Certificate)
	if err != nil {
		return nil, fmt.Errorf("parsing a checked certificate: %w", err)
	}

	failpoint("checked-certificate")

	// 4. The outcome. Only a certificate whose entry is durable and under a signed checkpoint leaves the process.
	after, err := s.append(ctx, r, time.Time{}, nil, Issued{Serial: Serial(c), Fingerprint: Fingerprint(c.Raw), NotBefore: c.NotBefore.UTC(),
		NotAfter: c.NotAfter.UTC(),
		Issuer:   Fingerprint(signed.Issuer), Certificate: signed.Certificate, Chain: signed.Chain})
	if err != nil {
		return nil, fmt.Errorf("recording the certificate of request %s: %w", r.ID, err)
	}
	r = after
	failpoint("issued")

	// 5. The right, in binding mode.
	warning := ""
	if r.Ask.Rights.Binding() {
		if after, err := s.bind(ctx, r); err != nil {
			warning = "the right could not be bound in the cluster yet; it is tried again until it works. " + err.Error()
		} else {
			r = after
		}
	}
	failpoint("bound")
	<-remembered

	// 6. Somebody may have revoked it meanwhile. What they were told is refused was not bound then, so nothing may come of it now.
	d, err := s.delivery(ctx, r, warning)
	if err != nil {
		return nil, err
	}
	if st := d.Request.State(s.now()); st != StateActive {
		if r.Ask.Rights.Binding() {
			if _, err := s.unbind(ctx, d.Request, st); err != nil {
				s.log.Warn("taking away the right of a grant that ended while it was bound: Run tries again", slog.String("request", r.ID),
					slog.Any("error", err))
			}
		}
		return nil, record.Refuse(record.ClassConflict, "over", "a new request is cheap: breakglass request",
			"%s is %s: its certificate is not handed out",
			r.ID, st)
	}
	return d, nil
}

// commit records the intent of a claim, after which a certificate may exist, or says that the same key asks again for the
// certificate it has. Nothing is decided on what was true before a slow step.
func (s *Service) commit(ctx context.Context, j claimJob) (r *Request, again bool, err error) {
	spki := SPKI(j.csr.RawSubjectPublicKeyInfo)
	decide := func(p *policy.Policy, r *Request, now time.Time) (record.Event, map[string]string, error) {
		if again, err = decideClaim(p, r, j.actor, spki, now); err != nil || again {
			return nil, nil, err
		}
		if err := s.Recorder.CannotTake(); err != nil {
			return nil, nil, err
		}
		return Claimed{By: j.actor, CommonName: CommonName(r.Ask.By.Person, r.ID), Group: r.Ask.Rights.Group, SPKI: spki,
			CSR: Fingerprint(j.csr.Raw), TTLSeconds: r.Ask.TTLSeconds, PolicyDigest: p.Digest,
			Signature: j.signature, PublicKey: j.publicKey}, nil, nil
	}
	for fresh := false; ; fresh = true {
		if r = j.request; fresh {
			if r, err = s.load(ctx, r.ID); err != nil {
				return nil, false, err
			}
		}
		if _, _, err := decide(s.Policy(), r, s.now()); err != nil || again {
			if !fresh {
				continue // it waited for a worker: what is said to the person is true now
			}
			return r, again, s.Recorder.Refused(ctx, j.actor, "claim", r.ID, err)
		}
		failpoint("decided")
		// 0. Nothing is recorded while the signer could not sign: the grant stays worth its certificate.
		if err := s.ready(ctx, r); err != nil {
			return nil, false, s.Recorder.Refused(ctx, j.actor, "claim", r.ID, err)
		}
		failpoint("checked-signer")
		// 1. The intent. From this append on a certificate may exist; it is appended once per request. The signer took its time to
		// answer, so it is decided once more.
		after, err := s.decide(ctx, j.actor, r.ID, r, decide)
		var taken *ledger.TagTakenError
		switch {
		case errors.Is(err, ledger.ErrConflict):
			continue
		case errors.As(err, &taken):
			err = record.Refuse(record.ClassInvalid, "csr/key-reused", "let the CLI make a new key", "this key was used for another request (%s)",
				taken.Stream)
		}
		return after, again, s.Recorder.Refused(ctx, j.actor, "claim", r.ID, err)
	}
}

// ready refuses a claim that the certificate authority could not sign now, one whose certificate could be given no right, and one for
// which it has signed already: no claim of this request is recorded, so the ledger is an old copy, or another client signed.
func (s *Service) ready(ctx context.Context, r *Request) error {
	cctx, cancel := context.WithTimeout(ctx, s.cfg.SignTimeout)
	defer cancel()
	var found []*x509.Certificate
	g, gctx := errgroup.WithContext(cctx)
	g.Go(func() error { return s.cfg.Signer.Check(gctx, r.Ask.Cluster, r.Ask.Rights.Group) })
	g.Go(func() (err error) {
		found, err = s.cfg.Signer.Find(gctx, r.Ask.Cluster, CommonName(r.Ask.By.Person, r.ID))
		return err
	})
	var unable error
	g.Go(func() error {
		unable = s.unable(gctx, r)
		return nil
	})
	err := g.Wait()
	switch {
	case err == nil && len(found) > 0:
		return s.signedBefore(ctx, r, found)
	case err == nil && unable != nil:
		s.log.Error("the right could not be bound: nothing is signed", slog.String("request", r.ID), slog.Any("error", unable))
		return &record.Refusal{Class: record.ClassUnavailable, Code: "cluster", Why: "the right could not be bound now: " + unable.Error(),
			Next: "claim again when that is cured; the approval stays valid until " + clockTime(r.ClaimUntil()), Cause: unable}
	case err == nil:
		return nil
	}
	s.log.Error("the signer is not ready to sign", slog.String("request", r.ID), slog.Any("error", err))
	return &record.Refusal{Class: record.ClassUnavailable, Code: "signer", Why: "the certificate authority cannot sign now: " + err.Error(),
		Next: "claim again when that is cured; the approval stays valid until " + clockTime(r.ClaimUntil()), Cause: err}
}

// askCluster is how long a claim waits for a cluster to say that it could not bind. One that hangs is bound in later.
const askCluster = 2 * time.Second

// unable is why the right of a claim could not be bound, if that is certain.
func (s *Service) unable(ctx context.Context, r *Request) error {
	b, ok := s.cfg.Binder.(Able)
	if !ok || !r.Ask.Rights.Binding() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askCluster)
	defer cancel()
	return b.Able(ctx, r.Ask.Cluster)
}

// before has the examiner remember what exists in the cluster, for a comparison afterwards. The channel is closed when it has,
// or when it took too long: an emergency does not wait for it.
func (s *Service) before(ctx context.Context, r *Request) <-chan struct{} {
	done := make(chan struct{})
	if s.cfg.Examiner == nil {
		close(done)
		return done
	}
	go func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(ctx, s.cfg.BindTimeout)
		defer cancel()
		if err := s.cfg.Examiner.Before(ctx, s.access(r)); err != nil {
			s.log.Warn("what exists in the cluster could not be remembered: the comparison after this session will be poorer",
				slog.String("request", r.ID), slog.Any("error", err))
		}
	}()
	return done
}

// decideClaim is the pure rule of a claim. again means that the same key asks for a certificate it already has.
func decideClaim(p *policy.Policy, r *Request, a record.Actor, spki string, now time.Time) (again bool, err error) {
	if a.Person != r.Ask.By.Person {
		return false, record.Refuse(record.ClassDenied, "not-yours", "", "%s was requested by %s: only they can claim it", r.ID, r.Ask.By.Person)
	}
	if a.Channel != record.ChannelKey {
		return false, record.Refuse(record.ClassDenied, "channel", "claim it with: breakglass claim "+r.ID,
			"certificates are handed out to the command line only")
	}
	st := r.State(now)
	switch st {
	case StateApproved:
	case StatePending:
		return false, record.Refuse(record.ClassConflict, "not-approved", "", "%s still needs %s", r.ID, record.JoinAnd(r.Missing()))
	case StateActive:
		if r.Claimed.SPKI == spki {
			return true, nil
		}
		return false, record.Refuse(record.ClassConflict, "claimed", "use the key it was claimed with, or open a new request",
			"%s has given its one certificate to another key", r.ID)
	case StateIssuing:
		return false, record.Refuse(record.ClassUnavailable, "issuing", "watch it with: breakglass status "+r.ID, "%s is being issued", r.ID)
	case StateLapsed:
		return false, record.Refuse(record.ClassExpired, "lapsed", "a new request is cheap: breakglass request", "%s was not claimed in time",
			r.ID)
	case StateExpired:
		return false, record.Refuse(record.ClassExpired, "expired", "a new request is cheap: breakglass request",
			"the certificate of %s has expired", r.ID)
	case StateDenied:
		return false, record.Refuse(record.ClassDenied, "denied", "", "%s was denied by %s: %s", r.ID, r.Denied.By.Person, r.Denied.Reason)
	case StateRevoked, StateFailed, StateWithdrawn:
		return false, record.Refuse(record.ClassConflict, "over", "a new request is cheap: breakglass request", "%s is %s", r.ID, st)
	}
	if r.Ask.KeyHash != "" && r.Ask.KeyHash != spki {
		return false, record.Refuse(record.ClassDenied, "other-key", "claim on the machine where it was requested",
			"%s was approved for another key", r.ID)
	}
	if r.ClaimKey != "" && r.ClaimKey != spki {
		return false, record.Refuse(record.ClassDenied, "other-key", "claim with the key of the first try", "%s was claimed with another key",
			r.ID)
	}
	if err := suspendedSince(p, r); err != nil {
		return false, err
	}
	if bad := stricter(p, r); len(bad) > 0 {
		return false, record.Refuse(record.ClassPolicy, "policy/changed", "open a new request",
			"the access policy has become stricter since the approval: %s",
			strings.Join(bad, "; "))
	}
	return false, nil
}

// stricter says why the policy of today would not allow what was approved under the policy of then.
func stricter(p *policy.Policy, r *Request) []string {
	if r.Ask.PolicyDigest == p.Digest {
		return nil
	}
	prof, ok := p.Profile(r.Ask.Profile)
	if !ok {
		return []string{"profile " + r.Ask.Profile + " is gone"}
	}
	var bad []string
	if !p.MayRequest(r.Ask.By.Person, prof) {
		bad = append(bad, r.Ask.By.Person+" may not ask for it any more")
	}
	if cl, ok := p.Cluster(r.Ask.Cluster); !ok || !slices.Contains(prof.Clusters, r.Ask.Cluster) || cl.Server != r.Ask.Server {
		bad = append(bad, "cluster "+r.Ask.Cluster+" is not what it was")
	}
	if r.TTL() > prof.TTL.Max {
		bad = append(bad, "the longest lifetime is now "+text.Span(prof.TTL.Max))
	}
	if !equalRights(prof.Rights, r.Ask.Rights) {
		bad = append(bad, "it now gives "+prof.Rights.String())
	}
	if prof.Incident.Required && r.Ask.Incident == "" {
		bad = append(bad, "it now needs an incident")
	}
	live := slices.DeleteFunc(slices.Clone(r.Approvals), func(a policy.Approval) bool { return !p.Owns(a.By) })
	if missing := p.Freeze(prof).Missing(live); len(missing) > 0 {
		bad = append(bad, "it now needs "+record.JoinAnd(missing))
	}
	return bad
}

func equalRights(a, b policy.Rights) bool {
	return a.ClusterRole == b.ClusterRole && a.Role == b.Role && a.Group == b.Group && slices.Equal(a.Namespaces, b.Namespaces)
}

// note appends what the daemon did by itself, deciding again after each lost race. An event that follows from the request as the
// caller has it is appended only if the request has not moved on; that there is none is decided on the request as it is now.
func (s *Service) note(ctx context.Context, r *Request, what func(*Request) record.Event) (*Request, error) {
	for fresh := false; ; fresh = true {
		if fresh {
			var err error
			if r, err = s.load(ctx, r.ID); err != nil {
				return nil, err
			}
		}
		ev := what(r)
		switch {
		case ev == nil && fresh:
			s.tracker.refresh(r) // it may have an older one, which would be worked on again and again
			return r, nil
		case ev == nil:
			continue
		}
		after, err := s.append(ctx, r, time.Time{}, nil, ev)
		if errors.Is(err, ledger.ErrConflict) {
			continue
		}
		return after, err
	}
}

func clockTime(t time.Time) string { return t.UTC().Format("15:04 UTC") }
