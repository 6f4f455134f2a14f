package breakglass_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/verify"
)

// blindInventory cannot be listed until it is mended; then it has what the authority signed. The clusters in hung never answer.
type blindInventory struct {
	inventory
	mended atomic.Bool
	calls  atomic.Int32
	hung   map[string]bool
}

func (b *blindInventory) Scan(ctx context.Context, cluster string, want func(string) bool, visit func(*x509.Certificate)) error {
	if b.hung[cluster] {
		<-ctx.Done()
		return ctx.Err()
	}
	b.calls.Add(1)
	if !b.mended.Load() {
		return errors.New("listing the certificates: permission denied")
	}
	return b.inventory.Scan(ctx, cluster, want, visit)
}

// checkRuns lists what is on record of a check.
func checkRuns(t *testing.T, s *bgtest.System, check string) (out []finding.CheckRun) {
	t.Helper()
	entries, err := s.Ledger.Stream(t.Context(), finding.CheckStream)
	must(t, err)
	for _, e := range entries {
		ev, err := verify.Decode(e)
		must(t, err)
		if run := ev.(finding.CheckRun); run.Check == check {
			out = append(out, run)
		}
	}
	return out
}

// A comparison with the authority that cannot be made is a finding of its own: nobody may take silence for "nothing was signed".
func TestBlindComparisonIsAFinding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		blind := &blindInventory{}
		s := bgtest.New(t, bgtest.Options{Config: func(c *bgtest.Config) { c.Inventory, c.Clusters = blind, []string{"c1"} }})
		blind.ca.Store(s.CA)
		f := func() (finding.Finding, bool) {
			for _, f := range s.Service.Findings.Open() {
				if f.Key == "reconcile-blind/c1" {
					return f, true
				}
			}
			return finding.Finding{}, false
		}
		time.Sleep(15 * time.Minute)
		if f, ok := f(); ok {
			t.Errorf("after two rounds: %+v, want none yet", f)
		}
		time.Sleep(10 * time.Minute)
		if f, ok := f(); !ok || f.Severity != finding.Warning {
			t.Errorf("after three rounds: %+v, want a warning", f)
		}
		time.Sleep(time.Hour)
		if f, ok := f(); !ok || f.Severity != finding.Critical {
			t.Errorf("after an hour: %+v, want it critical", f)
		}
		if got := s.Service.Reconciled()["c1"]; !got.Last.IsZero() {
			t.Errorf("the last good comparison is said to be at %s", got.Last)
		}
		before := s.Ledger.Size()
		time.Sleep(3 * time.Hour)
		heartbeats := int64(3 * 6)
		if got := s.Ledger.Size() - before; got > heartbeats {
			t.Errorf("%d entries in three hours, want no more than the %d heartbeats: it says the same every time", got, heartbeats)
		}
		if runs := checkRuns(t, s, "reconcile"); len(runs) != 1 || runs[0].OK {
			t.Errorf("on record: %+v, want one run that failed", runs)
		}
		blind.mended.Store(true)
		time.Sleep(10 * time.Minute)
		if f, ok := f(); ok {
			t.Errorf("the comparison works again, and this is open: %+v", f)
		}
		if runs := checkRuns(t, s, "reconcile"); len(runs) != 2 || !runs[1].OK || runs[1].Verdict != "0 certificates at the authority, 0 "+
			"accounted for, 0 not" {
			t.Errorf("on record: %+v, want a good run with its numbers", runs)
		}
		s.Check()
	})
}

// A good comparison is on record once a day, and again as soon as it finds something; what finds no room among the findings is
// counted.
func TestComparisonsAreOnRecordAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signed := &blindInventory{}
		signed.mended.Store(true)
		s := bgtest.New(t, bgtest.Options{Policy: bgtest.Policy() + careful, Config: func(c *bgtest.Config) {
			c.Inventory,
				c.Clusters = signed, []string{"c1"}
		}})
		signed.ca.Store(s.CA)
		time.Sleep(47 * time.Hour)
		if runs := checkRuns(t, s, "reconcile"); len(runs) != 2 || !runs[0].OK || !runs[1].OK {
			t.Errorf("in two days: %+v, want two good runs", runs)
		}
		for n := range 40 { // more than the findings of a minute
			_, csr := bgtest.NewCSR()
			parsed, err := breakglass.ParseCSR(csr)
			must(t, err)
			_, err = s.CA.Sign(t.Context(), breakglass.Order{Request: "x", Cluster: "c1",
				CommonName: fmt.Sprintf("breakglass:alice:bg-0000-%03d", n), CSR: parsed.Raw, TTL: 24 * time.Hour})
			must(t, err)
		}
		time.Sleep(11 * time.Minute)
		if got := s.Service.Reconciled()["c1"]; got.Held != 40 || got.Unknown != 40 {
			t.Errorf("got %+v, want all 40 counted, also those without a finding", got)
		}
		runs := checkRuns(t, s, "reconcile")
		if last := runs[len(runs)-1]; last.OK || last.Verdict != "40 certificates at the authority, 0 accounted for, 40 not" ||
			len(last.Findings) != 20 {
			t.Errorf("the last on record is %+v", last)
		}
		time.Sleep(time.Hour)
		_, err := s.Service.Findings.SettleByHand(t.Context(), byKey("carol"), "unknown-certificate/c1/", s.Ledger.Size(),
			"a load test by the platform team")
		must(t, err)
		time.Sleep(11 * time.Minute)
		if got := s.Service.Reconciled()["c1"]; got.Held != 40 || got.Unknown != 0 {
			t.Errorf("got %+v, want none unknown after they were looked into", got)
		}
		bgtest.CheckLedger(t, s.Path(), s.Verifier) // not s.Check: the ledger does not know the certificates
	})
}

// One authority that hangs keeps the comparison of no other cluster waiting.
func TestHungAuthorityKeepsNoOtherWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clusters := []string{"h1", "h2", "h3", "h4", "c1"}
		signed := &blindInventory{hung: map[string]bool{"h1": true, "h2": true, "h3": true, "h4": true}}
		signed.mended.Store(true)
		s := bgtest.New(t, bgtest.Options{Config: func(c *bgtest.Config) { c.Inventory, c.Clusters = signed, clusters }})
		signed.ca.Store(s.CA)
		time.Sleep(time.Second)
		if got := s.Service.Reconciled()["c1"]; got.Last.IsZero() {
			t.Error("the healthy cluster waits for the hung ones")
		}
	})
}

// What strangers in one cluster can make the daemon find takes no room from what its own probes find, there or elsewhere.
func TestStrangersTakeNoRoomFromOwnProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bgtest.New(t, bgtest.Options{})
		full := false
		for i := range 40 {
			name := fmt.Sprintf("breakglass:x%d:bg-aaaa-aaa", i)
			for _, key := range []string{finding.UnknownNameKey("c1", name), finding.ShadowKey("c1", strings.Repeat(fmt.Sprintf("%02x",
				i), 32))} {
				err := s.Service.Findings.Find(t.Context(), finding.Opened{Key: key, Check: "audit", Cluster: "c1",
					Severity: finding.Critical, What: name, Next: "-"})
				full = full || errors.Is(err, finding.ErrTooMany)
			}
		}
		if !full {
			t.Fatal("the flood is not bounded")
		}
		for _, f := range []finding.Opened{
			{Key: "audit-silent/c1/https://a:6443", Check: "audit", Cluster: "c1"},
			{Key: "webhook-not-asked/c1/https://a:6443", Check: "audit", Cluster: "c1"},
			{Key: finding.UnknownNameKey("c2", "breakglass:y:bg-aaaa-aaa"), Check: "audit", Cluster: "c2"},
			{Key: finding.ShadowKey("c1", strings.Repeat("ff", 32)), Check: "reconcile", Cluster: "c1"},
		} {
			f.Severity, f.What, f.Next = finding.Critical, "silent", "-"
			if err := s.Service.Findings.Find(t.Context(), f); err != nil {
				t.Errorf("a flood of names in c1 keeps %s from being recorded: %v", f.Key, err)
			}
		}
	})
}
