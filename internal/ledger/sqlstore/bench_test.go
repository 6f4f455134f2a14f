package sqlstore_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/ledger/sqlstore"
)

func mustKey(tb testing.TB) (note.Signer, note.Verifier) {
	tb.Helper()
	skey, vkey, err := ledger.NewKey("ledger.example.com/test")
	if err != nil {
		tb.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		tb.Fatal(err)
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		tb.Fatal(err)
	}
	return signer, verifier
}

func mustCreate(tb testing.TB) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "ledger.db")
	if err := sqlstore.Create(tb.Context(), path); err != nil {
		tb.Fatal(err)
	}
	return path
}

func mustStore(tb testing.TB, path string) *sqlstore.Store {
	tb.Helper()
	s, err := sqlstore.Open(tb.Context(), path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

func mustLedger(tb testing.TB, store ledger.Store, signer note.Signer, verifier note.Verifier) *ledger.Ledger {
	tb.Helper()
	l, err := ledger.Open(tb.Context(), store, signer, verifier)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	return l
}

// draft is of the size that a record of one decision has.
func draft() ledger.Draft {
	return ledger.Draft{Kind: "approved", Body: bytes.Repeat([]byte("0123456789abcdef"), 32)}
}

// mustFill appends n entries, many at a time, in streams of ten.
func mustFill(tb testing.TB, l *ledger.Ledger, n int) {
	tb.Helper()
	drafts := make([]ledger.Draft, 10)
	for i := range drafts {
		drafts[i] = draft()
	}
	for done := 0; done < n; done += len(drafts) {
		if _, err := l.Append(tb.Context(), time.Now(), fmt.Sprintf("s%d", done), 0, nil, drafts[:min(10, n-done)]...); err != nil {
			tb.Fatal(err)
		}
	}
}

func perSecond(b *testing.B, n int) {
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkAppend(b *testing.B) {
	signer, verifier := mustKey(b)
	l := mustLedger(b, mustStore(b, mustCreate(b)), signer, verifier)
	d := draft()
	for i := 0; b.Loop(); i++ {
		if _, err := l.Append(b.Context(), time.Now(), fmt.Sprintf("s%d", i), 0, nil, d); err != nil {
			b.Fatal(err)
		}
	}
	perSecond(b, b.N)
}

// BenchmarkAppend16 has sixteen clients who each write the life of one stream:
// a new stream with tags, then entries that replace them.
func BenchmarkAppend16(b *testing.B) {
	signer, verifier := mustKey(b)
	l := mustLedger(b, mustStore(b, mustCreate(b)), signer, verifier)
	d := draft()
	var streams atomic.Int64
	b.SetParallelism((16 + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
	b.RunParallel(func(pb *testing.PB) {
		stream, length := "", int64(0)
		for pb.Next() {
			if length%5 == 0 {
				stream, length = fmt.Sprintf("s%d", streams.Add(1)), 0
			}
			tags := []ledger.Tag{{Name: "id", Value: stream, Unique: true}, {Name: "state", Value: "open"}}
			if _, err := l.Append(b.Context(), time.Now(), stream, length, tags, d); err != nil {
				b.Error(err)
				return
			}
			length++
		}
	})
	perSecond(b, b.N)
}

func BenchmarkStream(b *testing.B) {
	signer, verifier := mustKey(b)
	l := mustLedger(b, mustStore(b, mustCreate(b)), signer, verifier)
	mustFill(b, l, 1000)
	for b.Loop() {
		if _, err := l.Stream(b.Context(), "s500"); err != nil {
			b.Fatal(err)
		}
	}
	perSecond(b, 10*b.N)
}

func BenchmarkProve(b *testing.B) {
	signer, verifier := mustKey(b)
	l := mustLedger(b, mustStore(b, mustCreate(b)), signer, verifier)
	mustFill(b, l, 20_000)
	for i := int64(0); b.Loop(); i++ {
		if _, err := l.Prove(b.Context(), i*7919%20_000); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyStore(b *testing.B) {
	signer, verifier := mustKey(b)
	store := mustStore(b, mustCreate(b))
	l := mustLedger(b, store, signer, verifier)
	const n = 100_000
	mustFill(b, l, n)
	for b.Loop() {
		report, err := ledger.VerifyStore(b.Context(), store, verifier)
		if err != nil || report.Err() != nil || report.Entries != n {
			b.Fatal(report, err)
		}
	}
	perSecond(b, n*b.N)
}

func BenchmarkOpen(b *testing.B) {
	signer, verifier := mustKey(b)
	path := mustCreate(b)
	l := mustLedger(b, mustStore(b, path), signer, verifier)
	mustFill(b, l, 20_000)
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		store, err := sqlstore.Open(b.Context(), path)
		if err != nil {
			b.Fatal(err)
		}
		l, err := ledger.Open(b.Context(), store, signer, verifier)
		if err != nil {
			b.Fatal(err)
		}
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
