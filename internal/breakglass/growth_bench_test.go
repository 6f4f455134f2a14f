package breakglass_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/ledger"
)

// cpu is the processor time of this process so far.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// perOp runs the benchmark's loop and reports processor time, which other work on the machine does not change.
func perOp(b *testing.B, op func()) {
	before := cpu()
	for b.Loop() {
		op()
	}
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-us/op")
}

// BenchmarkEntryOfOthers is what one entry about something else costs while a thousand clients wait for a request.
func BenchmarkEntryOfOthers(b *testing.B) {
	s := bgtest.New(b, bgtest.Options{Config: func(c *breakglass.Config) { c.Sweep = time.Hour }})
	ctx, cancel := context.WithCancel(b.Context())
	const waiters = 1000
	r := s.Ask(byKey("alice"), "group")
	ended := make(chan struct{}, waiters)
	for range waiters {
		go func() {
			_, _ = s.Service.Wait(ctx, r.ID, r.Rev, "")
			ended <- struct{}{}
		}()
	}
	time.Sleep(time.Second)
	perOp(b, func() {
		_, err := s.Ledger.Append(b.Context(), time.Now(), breakglass.DaemonStream, ledger.AnyVersion, nil,
			ledger.Draft{Kind: "heartbeat/v1", Body: []byte(`{"version":"x"}`)})
		must(b, err)
		time.Sleep(20 * time.Millisecond) // each entry wakes those who wait
	})
	cancel()
	for range waiters {
		<-ended
	}
}
