package breakglass

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// Run does everything that nobody asks for, until ctx is done: it carries claims through, ends what the clock has ended,
// keeps the bindings in the clusters equal to the active grants, and resolves claims whose outcome was lost. It returns nil after an
// orderly stop and an error when the ledger can no longer be trusted; the process must then exit and start again from what is on disk. Run
// is called once.
func (s *Service) Run(ctx context.Context) error {
	defer close(s.stopped)
	g, ctx := errgroup.WithContext(ctx)
	for range claimWorkers {
		g.Go(func() error { return s.claimWorker(ctx) })
	}
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-s.ledger.Failed():
			return s.ledger.Err()
		}
	})
	g.Go(func() error { return s.runOpenRequests(ctx) })
	g.Go(func() error { return s.heartbeat(ctx) })
	g.Go(func() error { return s.watchClock(ctx) })
	g.Go(func() error { return s.Recorder.Run(ctx) })
	g.Go(func() error { return s.reconcileBindings(ctx) })
	if s.cfg.Inventory != nil {
		g.Go(func() error { return s.reconcile(ctx) })
	}
	return g.Wait()
}

// claimWorker carries claims through. A claim that has begun is finished after ctx is done: each step has its own deadline.
func (s *Service) claimWorker(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case j := <-s.claims:
			s.tracker.begin(j.request.ID)
			d, err := s.issue(context.WithoutCancel(ctx), j)
			s.tracker.end(j.request.ID)
			if _, refused := record.AsRefusal(err); err != nil && !refused { // whoever claimed may have gone
				s.log.Error("a claim failed", slog.String("request", j.request.ID), slog.Any("error", err))
			}
			j.done <- claimResult{d, err}
		}
	}
}

// lookAtAll is how often runOpenRequests looks at every open request, whatever it was told: a wall clock that leaps tells nobody.
const lookAtAll = time.Minute

// runOpenRequests does what due says, for each request that changed or whose time has come, and sleeps until the next deadline or
// change. What waits for one cluster keeps nothing else waiting.
func (s *Service) runOpenRequests(ctx context.Context) error {
	q := newQueue()
	look := func(id string) {
		r, now := s.tracker.look(id), s.now()
		if r == nil {
			q.forget(id)
			return
		}
		works, next := due(r, now, timing{outcome: 2 * s.cfg.SignTimeout, audit: s.cfg.Grace})
		for _, w := range works {
			again := q.start(task{id, r.Ask.Cluster, w.exclusion()}, now, func() error { return s.perform(ctx, r, w) })
			if again.After(now) && (!next.After(now) || again.Before(next)) {
				next = again
			}
		}
		if !next.After(now) { // it is looked at when something happens
			next = time.Time{}
		}
		q.alarms.put(id, next)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	var all time.Time // when all were looked at
	for {
		everything := all.IsZero() || time.Since(all) >= lookAtAll
		if everything {
			all = time.Now()
		}
		for _, id := range append(s.tracker.take(everything), q.alarms.due(s.now())...) {
			look(id)
		}
		wait := lookAtAll - time.Since(all)
		if at, ok := q.alarms.next(); ok {
			wait = min(wait, at.Sub(s.now()))
		}
		timer.Reset(max(wait, time.Millisecond))
		select {
		case <-ctx.Done():
			q.drain() // each task ends with ctx
			return nil
		case <-s.tracker.wake:
		case <-timer.C:
		case o := <-q.ended:
			if retry := q.done(o, s.now()); retry > 0 && ctx.Err() == nil {
				s.log.Warn("will try again", slog.String("request", o.request), slog.Duration("after", retry), slog.Any("error", o.err))
			}
			if ctx.Err() != nil {
				break
			}
			look(o.request)
			for id, ok := q.place(o.cluster); ok; id, ok = q.place(o.cluster) {
				look(id)
			}
		}
	}
}

// perform does one thing that is due for a request.
func (s *Service) perform(ctx context.Context, r *Request, w work) error {
	var err error
	switch w {
	case workEnd:
		_, err = s.note(ctx, r, func(r *Request) record.Event {
			if works, _ := due(r, s.now(), timing{}); !slices.Contains(works, workEnd) {
				return nil
			}
			return Ended{State: r.State(s.now())}
		})
	case workBind:
		_, err = s.bind(ctx, r)
	case workUnbind:
		if _, err = s.unbind(ctx, r, r.State(s.now())); err != nil && ctx.Err() == nil && s.now().Sub(r.EndedBy(s.now())) >= unbindPatience {
			err = errors.Join(err, s.reportStuckBinding(ctx, r, err))
		}
	case workResolveClaim:
		err = s.resolveClaim(ctx, r)
	case workProve:
		pctx, cancel := context.WithTimeout(ctx, s.cfg.BindTimeout)
		_, err = s.prove(pctx, r)
		cancel()
	case workExamine:
		// What the tracker says may be older than a report that was made meanwhile.
		if r, err = s.load(ctx, r.ID); err == nil && r.Swept != nil {
			s.tracker.refresh(r)
		} else if err == nil {
			_, err = s.examine(ctx, r)
		}
	case workOverdue:
		err = s.overdue(ctx, r)
	}
	return err
}

// stuckBindingKey is the key of the finding that a binding could not be taken away.
func stuckBindingKey(r *Request) string { return "binding-stays/" + r.Ask.Cluster + "/" + r.ID }

// stuckBindingFinding is the finding that a binding could not be taken away after its grant had ended.
func stuckBindingFinding(r *Request, why error) finding.Opened {
	return finding.Opened{Key: stuckBindingKey(r), Check: "binding", Cluster: r.Ask.Cluster, Request: r.ID, Severity: finding.Critical,
		What: fmt.Sprintf("%s is over, and its binding in %s could not be taken away: %v", r.ID, r.Ask.Cluster, why),
		Next: "see whether the cluster can be reached, and delete the binding there (kubectl get clusterrolebindings,rolebindings -A -l " +
			"app.kubernetes.io/managed-by=breakglassd); it is tried again until it is gone"}
}

// reconcileBindings compares the bindings that exist in each cluster with the active grants and drives them together: what a crash, a
// lost answer or a hand left behind is gone, and what is missing is back, within one round.
func (s *Service) reconcileBindings(ctx context.Context) error {
	tick := time.NewTicker(s.cfg.ReconcileBindingsEvery)
	defer tick.Stop()
	for {
		var wg sync.WaitGroup
		for _, c := range s.clusters() {
			wg.Go(func() {
				if err := s.reconcileBindingsIn(ctx, c); err != nil && ctx.Err() == nil {
					s.log.Warn("comparing bindings with grants", slog.String("cluster", c), slog.Any("error", err))
				}
			})
		}
		wg.Wait()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// clusters lists the clusters in which bindings are looked after.
func (s *Service) clusters() []string {
	if s.cfg.Clusters != nil {
		return s.cfg.Clusters
	}
	var out []string
	for _, c := range s.Policy().Clusters {
		out = append(out, c.ID)
	}
	return out
}

// reconcileBindingsIn is one round of reconcileBindings in one cluster.
func (s *Service) reconcileBindingsIn(ctx context.Context, cluster string) error {
	lctx, cancel := context.WithTimeout(ctx, s.cfg.BindTimeout)
	have, err := s.cfg.Binder.Bound(lctx, cluster)
	cancel()
	if err != nil {
		return fmt.Errorf("listing bindings in cluster %s: %w", cluster, err)
	}
	var bad []error // one object that cannot be put right must not keep the others wrong
	others, err := s.strangers(ctx, cluster)
	if err != nil {
		return fmt.Errorf("looking for bindings of other daemons in cluster %s: %w", cluster, err)
	}
	exists := map[string]bool{}
	for _, id := range have {
		exists[id] = true
		if !others[id] {
			bad = append(bad, s.reconcileBinding(ctx, cluster, id))
		}
	}
	for _, r := range s.tracker.idle() {
		if r.Ask.Cluster != cluster || !r.Bound || r.State(s.now()) != StateActive {
			continue
		}
		if !exists[r.ID] {
			s.log.Warn("a binding of an active grant is missing: binding again", slog.String("cluster", cluster), slog.String("request", r.ID))
		}
		bad = append(bad, s.rebind(ctx, r.ID)) // also when it exists: it may say something else by now
	}
	return errors.Join(bad...)
}

// checkStrangers is the check for bindings of a daemon with another ledger.
const checkStrangers = "binding-foreign"

// strangers records which bindings in a cluster another daemon made, and returns the request ids that their labels name. One
// without a ledger's label, from a release before it, is ours if it belongs to a request of this cluster; else nobody can tell. What
// is another's is a finding and never garbage: its grant may be alive.
func (s *Service) strangers(ctx context.Context, cluster string) (map[string]bool, error) {
	n, ok := s.cfg.Binder.(Neighbour)
	if !ok {
		return nil, nil
	}
	lctx, cancel := context.WithTimeout(ctx, s.cfg.BindTimeout)
	defer cancel()
	all, err := n.Strangers(lctx, cluster)
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	var open []finding.Opened
	for _, x := range all {
		if x.Ledger == "" && ValidID(x.Request) {
			r, err := s.load(ctx, x.Request)
			if _, unknown := record.AsRefusal(err); err != nil && !unknown {
				return nil, err
			}
			if err == nil && r.Ask.Cluster == cluster {
				continue
			}
		}
		out[x.Request] = true
		whose := "the breakglassd of another ledger (" + x.Ledger + ")"
		if x.Ledger == "" {
			whose = "a breakglassd of an earlier release, for a request that this ledger does not know,"
		}
		open = append(open, finding.Opened{Key: fmt.Sprintf("%s/%s/%s", checkStrangers, cluster, Fingerprint([]byte(x.Binding))[:16]),
			Check: checkStrangers, Cluster: cluster, Severity: finding.Warning,
			What: fmt.Sprintf("%s in %s was made by %s: it is left alone", x.Binding, cluster, whose),
			Next: "a cluster has one daemon: stop the other one, or take the cluster out of its configuration; delete the binding by hand when " +
				"nobody needs it"})
	}
	return out, s.Findings.ReportAll(ctx, checkStrangers, cluster, true, open)
}

// reconcileBinding removes a binding that exists in a cluster and should not.
func (s *Service) reconcileBinding(ctx context.Context, cluster, id string) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.BindTimeout)
	defer cancel()
	var r *Request
	err := error(record.Refuse(record.ClassUnknown, "unknown-request", "", "%q is no request id", record.Clip(id, 40)))
	if ValidID(id) { // a label can say anything, for instance the name of another stream
		r, err = s.load(ctx, id)
	}
	_, unknown := record.AsRefusal(err)
	switch {
	case unknown || err == nil && r.Ask.Cluster != cluster:
		s.log.Error("a binding with our label belongs to no request of this cluster: removing it", slog.String("cluster", cluster),
			slog.String("request", id))
		return s.cfg.Binder.Unbind(ctx, cluster, id) // here, not in the cluster that the request is about
	case err != nil:
		return err
	}
	st := r.State(s.now())
	if !st.Terminal() {
		return nil
	}
	s.log.Warn("removing a binding that should be gone", slog.String("cluster", cluster), slog.String("request", id),
		slog.String("state", string(st)))
	_, err = s.unbind(ctx, r, st)
	return err
}

// rebind makes the binding of an active grant exist as it should. What the tracker says is a hint: the ledger is asked before,
// and after, because a revocation that came meanwhile found nothing to take away.
func (s *Service) rebind(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.BindTimeout)
	defer cancel()
	r, err := s.load(ctx, id)
	if err != nil {
		return err
	}
	s.tracker.refresh(r)
	if !r.Bound || r.State(s.now()) != StateActive {
		return nil
	}
	err = s.cfg.Binder.Bind(ctx, s.binding(r))
	after, lerr := s.load(context.WithoutCancel(ctx), id)
	if lerr == nil && after.State(s.now()) != StateActive {
		_, lerr = s.unbind(context.WithoutCancel(ctx), after, after.State(s.now()))
	}
	return errors.Join(err, lerr)
}

// shadow is the finding of a certificate that the ledger does not know.
func shadow(cluster string, cert *x509.Certificate) finding.Opened {
	return finding.Opened{Key: finding.ShadowKey(cluster, Fingerprint(cert.Raw)), Check: checkReconcile, Cluster: cluster,
		Severity: finding.Critical,
		What: fmt.Sprintf("the certificate authority of %s signed a certificate for %q, valid until %s, serial %s, that the ledger does not know",
			cluster, record.Clip(cert.Subject.String(), 200), cert.NotAfter.UTC().Format(time.RFC3339), Serial(cert)),
		Next: "find out who signed it (the authority's own audit log), and look for its fingerprint " + Fingerprint(cert.Raw) +
			" in the API servers' audit logs"}
}

// account is what the ledger says of a certificate.
type account int

const (
	accountNone  account = iota // nothing: it was signed behind the ledger's back
	accountFull                 // it was issued, is a canary's or an orphan of a failed claim, or is a CA's own, which gives no access
	accountLater                // it may be the result of a claim or canary under way: that is known when the outcome is recorded
)

// accounted says what the ledger knows of a certificate that an authority holds.
func (s *Service) accounted(ctx context.Context, cluster string, cert *x509.Certificate) (account, error) {
	if cert.IsCA {
		return accountFull, nil
	}
	if _, known, err := s.ByFingerprint(ctx, Fingerprint(cert.Raw)); err != nil || known {
		return accountFull, err
	}
	key := SPKI(cert.RawSubjectPublicKeyInfo)
	if strings.HasPrefix(cert.Subject.CommonName, policy.CanaryPrefix) {
		ordered, _, err := s.openCanary(ctx, cert.Subject.CommonName) // its outcome is open, or was lost
		if err != nil || ordered == nil || ordered.SPKI != key {
			return accountNone, err
		}
		return accountLater, nil
	}
	r, known, err := s.ByCommonName(ctx, cert.Subject.CommonName)
	switch {
	case err != nil || !known || r.Ask.Cluster != cluster:
		return accountNone, err
	case r.Failed != nil && slices.ContainsFunc(r.Failed.Orphans, func(der []byte) bool { return bytes.Equal(der, cert.Raw) }):
		return accountFull, nil
	case r.Failed == nil && r.Claimed != nil && r.Issued == nil && r.Claimed.SPKI == key:
		return accountLater, nil
	}
	return accountNone, nil
}

// heartbeat records that the daemon is alive, and looks after what was accepted.
func (s *Service) heartbeat(ctx context.Context) error {
	s.acceptancesAgain(ctx)
	tick := time.NewTicker(s.cfg.HeartbeatEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := s.Recorder.Heartbeat(ctx, s.cfg.Version); err != nil {
				s.log.Error("recording a heartbeat", slog.Any("error", err))
			}
			s.acceptances(ctx)
		}
	}
}
