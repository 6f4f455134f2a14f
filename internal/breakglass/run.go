package breakglass

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

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

// lookAtAll is how often runOpenRequests looks at every open request, whatever it was told: a wall clock that leaps is no event.
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
