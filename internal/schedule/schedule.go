// Package schedule runs jobs by cron expressions, each in a time zone that is named. A run that was missed while nothing ran is
// caught up once, however many were missed; a run happens in one replica only; and a run that failed or died with its process is
// tried again a few times before it is given up. What is done is remembered in the ledger's store, and every run is on record.
package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/breakglassd/breakglass/internal/finding"
)

const (
	// defaultLease is how long one run may take. The holder of the lease is stopped a little before it ends, so that two runs
	// never overlap; a holder that dies holds others up no longer than this.
	defaultLease = 15 * time.Minute
	// tries is how often a run is begun before it is given up. A lease lies between two: the last is an hour after the first.
	tries = 5
	// look is how often a job that another process runs is looked at again.
	look = time.Minute
)

// Store is where what was done is remembered, durably and for all replicas. *ledger.Ledger is one.
type Store interface {
	Bookmark(ctx context.Context, key string) ([]byte, error)
	SetBookmark(ctx context.Context, key string, value []byte) error
	// Once reports true for one caller only until ttl after that caller's now.
	Once(ctx context.Context, key string, now time.Time, ttl time.Duration) (bool, error)
}

// Config is what New needs. Store is required.
type Config struct {
	Store Store
	// Record puts a run on record: Service.RecordCheck. It may be nil.
	Record func(context.Context, finding.CheckRun) error
	Lease  time.Duration // the longest that a run may take; default 15 min
	Log    *slog.Logger
}

// Job does what is due. It may be run again for the same due time after an error, and should then find what it has done.
type Job func(ctx context.Context, due time.Time) error

// Scheduler runs jobs. Add them, then call Run once.
type Scheduler struct {
	cfg  Config
	jobs []*job
}

type job struct {
	name string
	next func(time.Time) time.Time
	do   Job
}

// New returns a scheduler without jobs.
func New(cfg Config) *Scheduler {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Lease <= 0 {
		cfg.Lease = defaultLease
	}
	return &Scheduler{cfg: cfg}
}

// Parse reads a cron expression of five fields, or one of @hourly, @daily, @weekly, @monthly and @yearly, in a time zone. It
// returns the function from a time to the next one after it, the zero time if no time follows.
//
// A time that a clock change skips is passed over, and one that it repeats comes once: choose times outside the small hours.
func Parse(spec, zone string) (func(time.Time) time.Time, error) {
	if zone == "" || zone == "Local" {
		return nil, errors.New("the time zone is missing: name one, like Europe/Berlin or UTC")
	}
	loc, err := time.LoadLocation(zone)
	if err != nil {
		return nil, fmt.Errorf("time zone %q: %w: name one like Europe/Berlin or UTC", zone, err)
	}
	if strings.Contains(spec, "TZ=") {
		return nil, fmt.Errorf("%q names a time zone: that has a key of its own", spec)
	}
	s, err := cron.ParseStandard(sundays(spec))
	if err != nil {
		return nil, fmt.Errorf("%q is no cron expression of five fields (minute hour day month weekday): %w", spec, err)
	}
	fields, ok := s.(*cron.SpecSchedule)
	if !ok {
		return nil, fmt.Errorf("%q is no fixed time: after a restart it would not be known what was missed", spec)
	}
	fields.Location = loc
	const every = 1<<24 - 1 // hours; what comes every hour comes in the repeated one too
	hourly := fields.Hour&every == every
	return func(t time.Time) time.Time {
		at := fields.Next(t)
		for !at.IsZero() && !hourly && again(at, loc) {
			at = fields.Next(at)
		}
		return at
	}, nil
}

// again reports whether the clock went back over a time, so that it came already: by an hour, or by half of one as on Lord Howe.
func again(at time.Time, loc *time.Location) bool {
	return wall(at.Add(-time.Hour), loc) == wall(at, loc) || wall(at.Add(-30*time.Minute), loc) == wall(at, loc)
}

// sundays writes 0 for the 7 that people write for Sunday, as other crons read it.
func sundays(spec string) string {
	fields := strings.Fields(spec)
	if len(fields) != 5 {
		return spec
	}
	days := strings.Split(fields[4], ",")
	for i, d := range days {
		if first, ok := strings.CutSuffix(d, "-7"); ok && first != "" {
			days[i] = first + "-6,0"
		} else if d == "7" {
			days[i] = "0"
		}
	}
	fields[4] = strings.Join(days, ",")
	return strings.Join(fields, " ")
}

// wall is what a clock on the wall shows.
func wall(t time.Time, loc *time.Location) string { return t.In(loc).Format("2006-01-02 15:04") }

// Add adds a job. Its name must stay the same for ever: what was done is remembered under it.
func (s *Scheduler) Add(name, spec, zone string, do Job) error {
	next, err := Parse(spec, zone)
	if err != nil {
		return fmt.Errorf("schedule of %s: %w", name, err)
	}
	if next(time.Now()).IsZero() {
		return fmt.Errorf("schedule of %s: %q never comes", name, spec)
	}
	for _, j := range s.jobs {
		if j.name == name {
			return fmt.Errorf("schedule: there are two jobs %s", name)
		}
	}
	s.jobs = append(s.jobs, &job{name, next, do})
	return nil
}

// Run runs the jobs when they are due, until ctx is done. Jobs do not wait for each other.
func (s *Scheduler) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, j := range s.jobs {
		wg.Go(func() { s.tend(ctx, j) })
	}
	wg.Wait()
	return nil
}

// tend runs one job again and again.
func (s *Scheduler) tend(ctx context.Context, j *job) {
	for ctx.Err() == nil {
		again, err := s.once(ctx, j)
		if err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("a schedule cannot be kept: will try again", slog.String("job", j.name), slog.Any("error", err))
			again = time.Now().Add(look)
		}
		select {
		case <-ctx.Done():
		case <-time.After(max(time.Until(again), time.Millisecond)):
		}
	}
}

// mark is what is remembered of a job.
type mark struct {
	Done  time.Time `json:"done"`           // the last due time that was run, caught up or given up
	Due   time.Time `json:"due,omitzero"`   // the one that is being tried
	Tries int       `json:"tries,omitzero"` // how often it was begun
}

func (s *Scheduler) key(j *job) string { return "schedule/" + j.name }

func (s *Scheduler) mark(ctx context.Context, j *job) (m mark, first bool, err error) {
	text, err := s.cfg.Store.Bookmark(ctx, s.key(j))
	if err != nil || text == nil {
		return mark{}, true, err
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return mark{}, false, fmt.Errorf("what is remembered of %s is unreadable: %w", j.name, err)
	}
	return m, false, nil
}

func (s *Scheduler) remember(ctx context.Context, j *job, m mark) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return s.cfg.Store.SetBookmark(ctx, s.key(j), text)
}

// once runs the job if it is due, and says when to look again.
func (s *Scheduler) once(ctx context.Context, j *job) (again time.Time, err error) {
	now := time.Now().UTC()
	m, first, err := s.mark(ctx, j)
	if err != nil {
		return again, err
	}
	if first { // what came before the job existed was not missed
		return j.next(now), s.remember(ctx, j, mark{Done: now})
	}
	due, missed := j.last(m, now)
	if due.IsZero() {
		return j.next(m.Done), nil
	}
	free, err := s.cfg.Store.Once(ctx, s.key(j)+"/lease", now, s.cfg.Lease)
	if err != nil {
		return again, err
	}
	if !free {
		return now.Add(look), nil
	}
	// Between the look and the lease another process may have done it.
	if m, _, err = s.mark(ctx, j); err != nil {
		return again, err
	}
	if !m.Done.Before(due) {
		return j.next(m.Done), nil
	}
	if !m.Due.Equal(due) {
		m.Due, m.Tries = due, 0
	}
	m.Tries++
	if err := s.remember(ctx, j, m); err != nil {
		return again, err
	}
	if missed > 0 {
		s.cfg.Log.Warn("runs were missed and are caught up once", slog.String("job", j.name), slog.Int("missed", missed+1), slog.Time("due", due))
	}
	rctx, cancel := context.WithTimeout(ctx, s.cfg.Lease*9/10)
	failed := j.run(rctx, due)
	cancel()
	if ctx.Err() != nil && failed != nil {
		return again, nil // stopped, not failed: it is taken up again
	}
	ctx = context.WithoutCancel(ctx)
	if failed != nil {
		s.cfg.Log.Error("a scheduled run failed", slog.String("job", j.name), slog.Time("due", due), slog.Int("try", m.Tries),
			slog.Any("error", failed))
		if m.Tries < tries {
			return now.Add(s.cfg.Lease), nil
		}
	}
	if err := s.record(ctx, j, due, missed, m.Tries, failed); err != nil {
		return again, err
	}
	return j.next(now), s.remember(ctx, j, mark{Done: due})
}

// last is the last due time that was not run yet, the zero time if no run is due, and how many before it were missed as well. A
// run that was begun is finished before a later one is looked at.
func (j *job) last(m mark, now time.Time) (due time.Time, missed int) {
	if m.Due.After(m.Done) {
		return m.Due, 0
	}
	for at := j.next(m.Done); !at.IsZero() && !at.After(now); at = j.next(at) {
		if !due.IsZero() {
			missed++
		}
		due = at.UTC()
		if missed == maxMissed { // a clock that was years behind
			return now, missed
		}
	}
	return due, missed
}

// maxMissed bounds the counting of missed runs: a job of every minute that was off for a month.
const maxMissed = 50_000

// run does the job, and turns a panic into an error: one job must not take the others with it.
func (j *job) run(ctx context.Context, due time.Time) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return j.do(ctx, due)
}

func (s *Scheduler) record(ctx context.Context, j *job, due time.Time, missed, tried int, failed error) error {
	if s.cfg.Record == nil {
		return nil
	}
	ev := finding.CheckRun{Check: finding.SchedulePrefix + j.name, Due: due, OK: failed == nil, Verdict: "done"}
	switch {
	case failed != nil:
		ev.Verdict = fmt.Sprintf("given up after %d tries; the daemon's log says why", tried)
	case missed > 0:
		ev.Verdict = fmt.Sprintf("done; %d runs were missed before it", missed)
	case tried > 1:
		ev.Verdict = fmt.Sprintf("done at try %d", tried)
	}
	return s.cfg.Record(ctx, ev)
}
