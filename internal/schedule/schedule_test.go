package schedule_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/schedule"
	"github.com/breakglassd/breakglass/internal/verify"
)

// runs collects what a job was run for.
type runs struct {
	mu  sync.Mutex
	due []string
	err error // what the job returns
}

func (r *runs) job(_ context.Context, due time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.due = append(r.due, due.Format("Jan 2 15:04")+" at "+time.Now().UTC().Format("Jan 2 15:04"))
	return r.err
}

// system is a service whose ledger is the store. Fake time begins on 1 January 2000, a Saturday, at midnight UTC.
func system(t *testing.T) *bgtest.System {
	const day = 24 * time.Hour
	return bgtest.New(t, bgtest.Options{Config: func(c *bgtest.Config) {
		c.ReconcileBindingsEvery, c.HeartbeatEvery, c.Reconcile = day, day,
			day
	}})
}

// start runs a scheduler with one job of every day at 06:00 until stop.
func start(t *testing.T, s *bgtest.System, r *runs, zone string) (stop func()) {
	t.Helper()
	x := schedule.New(schedule.Config{Store: s.Ledger, Record: s.Service.Findings.RecordCheck})
	if err := x.Add("job", "0 6 * * *", zone, r.job); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); x.Run(ctx) }()
	return func() { cancel(); <-done }
}

func TestRunsComeWhenDueInTheirTimeZone(t *testing.T) {
	for zone, want := range map[string][]string{
		"UTC":           {"Jan 1 06:00 at Jan 1 06:00", "Jan 2 06:00 at Jan 2 06:00"},
		"Europe/Berlin": {"Jan 1 05:00 at Jan 1 05:00", "Jan 2 05:00 at Jan 2 05:00"},
		"Asia/Kolkata":  {"Jan 1 00:30 at Jan 1 00:30", "Jan 2 00:30 at Jan 2 00:30"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, r := system(t), &runs{}
			stop := start(t, s, r, zone)
			time.Sleep(40 * time.Hour)
			stop()
			if diff := cmp.Diff(want, r.due); diff != "" {
				t.Errorf("%s: %s", zone, diff)
			}
			s.Check()
		})
	}
}

func TestMissedRunsAreCaughtUpOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := system(t), &runs{}
		stop := start(t, s, r, "UTC")
		time.Sleep(time.Minute)
		stop()
		time.Sleep(100*time.Hour - time.Minute) // four runs are missed
		stop = start(t, s, r, "UTC")
		time.Sleep(24 * time.Hour)
		stop()
		if diff := cmp.Diff([]string{"Jan 4 06:00 at Jan 5 04:00", "Jan 5 06:00 at Jan 5 06:00"}, r.due); diff != "" {
			t.Error(diff)
		}
		if got := records(t, s); len(got) != 2 || got[0].Verdict != "done; 3 runs were missed before it" {
			t.Errorf("on record: %+v", got)
		}
	})
}

func TestNothingIsCaughtUpFromBeforeTheJobExisted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := system(t), &runs{}
		time.Sleep(7 * time.Hour)
		stop := start(t, s, r, "UTC")
		time.Sleep(time.Hour)
		stop()
		if len(r.due) > 0 {
			t.Errorf("ran for %q", r.due)
		}
	})
}

func TestOneReplicaRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := system(t), &runs{}
		var stops []func()
		for range 5 {
			stops = append(stops, start(t, s, r, "UTC"))
		}
		time.Sleep(10*24*time.Hour + time.Minute)
		for _, stop := range stops {
			stop()
		}
		if len(r.due) != 10 {
			t.Errorf("ten days gave %d runs: %q", len(r.due), r.due)
		}
	})
}

func TestFailedRunIsTriedAgainAndThenGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := system(t), &runs{err: errors.New("Vault is down")}
		stop := start(t, s, r, "UTC")
		time.Sleep(12 * time.Hour)
		r.mu.Lock()
		r.err = nil
		r.mu.Unlock()
		time.Sleep(24 * time.Hour)
		stop()
		want := []string{"Jan 1 06:00 at Jan 1 06:00", "Jan 1 06:00 at Jan 1 06:15", "Jan 1 06:00 at Jan 1 06:30", "Jan 1 06:00 at Jan 1 06:45",
			"Jan 1 06:00 at Jan 1 07:00", "Jan 2 06:00 at Jan 2 06:00"}
		if diff := cmp.Diff(want, r.due); diff != "" {
			t.Error(diff)
		}
		got := records(t, s)
		if len(got) != 2 || got[0].OK || !got[1].OK || !strings.Contains(got[0].Verdict, "given up after 5 tries") {
			t.Errorf("on record: %+v", got)
		}
	})
}

func TestRunThatDiedWithItsProcessIsTakenUpAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := system(t), &runs{}
		x := schedule.New(schedule.Config{Store: s.Ledger, Record: s.Service.Findings.RecordCheck})
		ctx, cancel := context.WithCancel(t.Context())
		if err := x.Add("job", "0 6 * * *", "UTC", func(ctx context.Context, due time.Time) error {
			<-ctx.Done() // the process is killed in the middle
			return ctx.Err()
		}); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { defer close(done); x.Run(ctx) }()
		time.Sleep(6*time.Hour + time.Minute)
		cancel()
		<-done
		stop := start(t, s, r, "UTC")
		time.Sleep(30 * time.Minute)
		stop()
		if len(r.due) != 1 || !strings.HasPrefix(r.due[0], "Jan 1 06:00 at Jan 1 06:1") {
			t.Errorf("taken up: %q", r.due)
		}
	})
}

func TestRunThatTakesTooLongIsStoppedBeforeAnotherBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := system(t)
		var running, most int
		var mu sync.Mutex
		job := func(ctx context.Context, _ time.Time) error {
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			<-ctx.Done()
			mu.Lock()
			running--
			mu.Unlock()
			return ctx.Err()
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 2 {
			x := schedule.New(schedule.Config{Store: s.Ledger})
			if err := x.Add("job", "0 6 * * *", "UTC", job); err != nil {
				t.Fatal(err)
			}
			wg.Go(func() { x.Run(ctx) })
		}
		time.Sleep(9 * time.Hour)
		cancel()
		wg.Wait()
		if most != 1 {
			t.Errorf("%d runs at a time", most)
		}
	})
}

func TestJobThatPanicsTakesNoOtherJobWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := system(t), &runs{}
		x := schedule.New(schedule.Config{Store: s.Ledger, Record: s.Service.Findings.RecordCheck})
		for name, job := range map[string]schedule.Job{"bad": func(context.Context, time.Time) error { panic("oh") }, "good": r.job} {
			if err := x.Add(name, "@daily", "UTC", job); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); x.Run(ctx) }()
		time.Sleep(49 * time.Hour)
		cancel()
		<-done
		if len(r.due) != 2 {
			t.Errorf("ran for %q", r.due)
		}
	})
}

func TestInvalidScheduleIsRefused(t *testing.T) {
	for _, test := range []struct{ spec, zone, want string }{
		{"0 6 * *", "UTC", "five fields"},
		{"0 6 * * * *", "UTC", "five fields"},
		{"61 6 * * *", "UTC", "five fields"},
		{"@every 1h", "UTC", "no fixed time"},
		{"CRON_TZ=Asia/Tokyo 0 6 * * *", "UTC", "a key of its own"},
		{"0 6 * * *", "", "time zone is missing"},
		{"0 6 * * *", "Local", "time zone is missing"},
		{"0 6 * * *", "Mars/Olympus", "unknown"},
		{"0 6 30 2 *", "UTC", "never comes"},
	} {
		err := schedule.New(schedule.Config{}).Add("job", test.spec, test.zone, nil)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q in %q: got error %v, want one with %q", test.spec, test.zone, err, test.want)
		}
	}
}

func TestClockChangesSkipAndRepeatNothingTwice(t *testing.T) {
	next, err := schedule.Parse("30 2 * * *", "Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, from := range []string{"2026-03-28T00:00:00Z", "2026-10-24T12:00:00Z"} {
		at, err := time.Parse(time.RFC3339, from)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			at = next(at)
			got = append(got, fmt.Sprint(at.UTC().Format("01-02 15:04")))
		}
	}
	// On 29 March there is no 02:30; on 25 October there are two, and the second does not count.
	if diff := cmp.Diff([]string{"03-28 01:30", "03-30 00:30", "03-31 00:30", "10-25 00:30", "10-26 01:30", "10-27 01:30"}, got); diff != "" {
		t.Error(diff)
	}
}

// records are the runs that the ledger has.
func records(t *testing.T, s *bgtest.System) (out []finding.CheckRun) {
	t.Helper()
	entries, err := s.Ledger.Stream(t.Context(), finding.CheckStream)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		ev, err := verify.Decode(e)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, ev.(finding.CheckRun))
	}
	return out
}
