package breakglass_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/record"
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
	s := bgtest.New(b, bgtest.Options{Config: func(c *bgtest.Config) { c.ReconcileBindingsEvery = time.Hour }})
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
		_, err := s.Ledger.Append(b.Context(), time.Now(), record.DaemonStream, ledger.AnyVersion, nil,
			ledger.Draft{Kind: "heartbeat/v1", Body: []byte(`{"version":"x"}`)})
		must(b, err)
		time.Sleep(20 * time.Millisecond) // each entry wakes those who wait
	})
	cancel()
	for range waiters {
		<-ended
	}
}

// BenchmarkAmongManyOpen is what a request and its withdrawal cost while 1,500 requests of others, and 60 of the requester, are open.
func BenchmarkAmongManyOpen(b *testing.B) {
	for _, open := range []int{0, 1500} {
		b.Run(fmt.Sprint(open), func(b *testing.B) {
			policy := manyOpen()
			for i := range 20 {
				who := fmt.Sprintf("user%d", i)
				policy = strings.Replace(policy, "teams:", fmt.Sprintf("  - {id: %s, name: U, slack: [{team: T01, user: U1%02d}]}\nteams:", who, i), 1)
				policy = strings.Replace(policy, "[alice, bob, dave", "[alice, bob, dave, "+who, 1)
			}
			s := bgtest.New(b, bgtest.Options{Policy: policy, Config: func(c *bgtest.Config) { c.ReconcileBindingsEvery = time.Hour }})
			ask := func(who string) string {
				a := byKey("alice")
				if n, ok := strings.CutPrefix(who, "user"); ok {
					i, err := strconv.Atoi(n)
					must(b, err)
					a = record.Actor{Person: who, Channel: record.ChannelSlack, Slack: &record.SlackAccount{Team: "T01",
						User: fmt.Sprintf("U1%02d", i)}}
				}
				return s.Ask(a, "group").ID
			}
			for i := range open {
				ask(fmt.Sprintf("user%d", i%20))
			}
			if open > 0 {
				for range 60 {
					ask("alice")
				}
			}
			n := 0
			perOp(b, func() {
				if n++; n > 900 {
					b.Fatal("more than an hour's requests")
				}
				_, err := s.Service.Withdraw(b.Context(), byKey("alice"), ask("alice"), "")
				must(b, err)
			})
		})
	}
}

// BenchmarkList is a list of some hundred requests, each with two approvals.
func BenchmarkList(b *testing.B) {
	s := bgtest.New(b, bgtest.Options{Policy: manyOpen(), Config: func(c *bgtest.Config) { c.ReconcileBindingsEvery = time.Hour }})
	for _, who := range []string{"alice", "bob", "dave"} {
		for range 100 {
			s.Grant(who, "group")
		}
	}
	perOp(b, func() {
		all, err := s.Service.Since(b.Context(), 30)
		if must(b, err); len(all) != 300 {
			b.Fatal(len(all))
		}
	})
}

// BenchmarkResolve is an id of which only a part was typed, among as many.
func BenchmarkResolve(b *testing.B) {
	s := bgtest.New(b, bgtest.Options{Policy: manyOpen(), Config: func(c *bgtest.Config) { c.ReconcileBindingsEvery = time.Hour }})
	var id string
	for _, who := range []string{"alice", "bob", "dave"} {
		for range 100 {
			id = s.Ask(byKey(who), "group").ID
		}
	}
	perOp(b, func() {
		got, err := s.Service.Resolve(b.Context(), id[:10])
		if must(b, err); got != id {
			b.Fatal(got)
		}
	})
}

// BenchmarkOwingNotes is a request, and its withdrawal, of somebody who owes 90 closing notes, and a scrape of the metrics.
func BenchmarkOwingNotes(b *testing.B) {
	policy := strings.Replace(manyOpen()+careful, "within: 24h", "within: 1h", 1)
	s := bgtest.New(b, bgtest.Options{Policy: policy, Config: func(c *bgtest.Config) { c.ReconcileBindingsEvery = time.Hour }})
	for range 90 {
		r := s.Grant("alice", "group")
		_, csr := bgtest.NewCSR()
		_, err := s.Claim("alice", r.ID, csr)
		must(b, err)
		_, err = s.Service.Revoke(b.Context(), byKey("carol"), r.ID, "enough of that")
		must(b, err)
	}
	perOp(b, func() {
		r := s.Ask(byKey("alice"), "group")
		_, err := s.Service.Withdraw(b.Context(), byKey("alice"), r.ID, "")
		must(b, err)
	})
}
