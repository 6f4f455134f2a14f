package breakglass

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/record"
)

func (s *Service) binding(r *Request) Binding {
	return Binding{Request: r.ID, Cluster: r.Ask.Cluster, User: r.Claimed.CommonName, Rights: r.Ask.Rights, Until: r.Issued.NotAfter}
}

// bind makes the right exist and records it. Recording may lose a race against a revocation: then the entry is appended after
// it, and Run takes the binding away again.
func (s *Service) bind(ctx context.Context, r *Request) (*Request, error) {
	bctx, cancel := context.WithTimeout(ctx, s.cfg.BindTimeout)
	err := s.cfg.Binder.Bind(bctx, s.binding(r))
	cancel()
	if err != nil {
		s.log.Error("binding", slog.String("request", r.ID), slog.String("cluster", r.Ask.Cluster), slog.Any("error", err))
		return nil, fmt.Errorf("binding %s in cluster %s: %w", r.ID, r.Ask.Cluster, err)
	}
	failpoint("bound-not-recorded")
	return s.note(ctx, r, func(r *Request) record.Event {
		if r.Bound {
			return nil
		}
		return Bound{Rights: r.Ask.Rights}
	})
}

// unbind takes the right away and records it.
func (s *Service) unbind(ctx context.Context, r *Request, why State) (*Request, error) {
	bctx, cancel := context.WithTimeout(ctx, s.cfg.BindTimeout)
	err := s.cfg.Binder.Unbind(bctx, r.Ask.Cluster, r.ID)
	cancel()
	if err != nil {
		s.log.Error("unbinding", slog.String("request", r.ID), slog.String("cluster", r.Ask.Cluster), slog.Any("error", err))
		return nil, fmt.Errorf("unbinding %s in cluster %s: %w", r.ID, r.Ask.Cluster, err)
	}
	after, err := s.note(ctx, r, func(r *Request) record.Event {
		if !r.Bound {
			return nil
		}
		return Unbound{Why: why}
	})
	if err != nil {
		return nil, err
	}
	return after, s.Findings.Close(ctx, stuckBindingKey(r), "its binding is gone")
}

// reportStuckBinding records that a binding could not be taken away. If an operator has removed it meanwhile, the finding is over at once,
// because nothing else would end it.
func (s *Service) reportStuckBinding(ctx context.Context, r *Request, why error) error {
	if err := s.Findings.FindNew(ctx, stuckBindingFinding(r, why)); err != nil {
		return err
	}
	after, err := s.load(ctx, r.ID)
	if err != nil || after.Bound {
		return err
	}
	return s.Findings.Close(ctx, stuckBindingKey(r), "its binding is gone")
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
