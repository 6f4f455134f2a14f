package verify_test

import (
	"database/sql"
	"encoding/json"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/ledger/sqlstore"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/verify"
)

// TestAuditFindsWhatCouldNotHaveHappened replays ledgers that somebody with the signing key could have written: each differs
// from a sound one in one thing.
func TestAuditFindsWhatCouldNotHaveHappened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bgtest.New(t, bgtest.Options{})
		r := s.Grant("alice", "admin")
		_, csr := bgtest.NewCSR()
		if _, err := s.Claim("alice", r.ID, csr); err != nil {
			t.Fatal(err)
		}
		other := s.Grant("bob", "group")
		_, csr = bgtest.NewCSR()
		if _, err := s.Claim("bob", other.ID, csr); err != nil {
			t.Fatal(err)
		}
		sound, err := s.Ledger.Entries(t.Context(), 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		if got := audit(sound); len(got) > 0 {
			t.Fatalf("a sound ledger: %q", got)
		}
		at := func(kind string) int {
			return slices.IndexFunc(sound, func(e ledger.Entry) bool { return e.Stream == r.ID && strings.HasPrefix(e.Kind, kind+"/") })
		}
		drop := func(i int) func([]ledger.Entry) []ledger.Entry {
			return func(es []ledger.Entry) []ledger.Entry {
				stream := es[i].Stream
				es = slices.Delete(es, i, i+1)
				n := int64(0)
				for j := range es {
					if es[j].Stream == stream {
						n++
						es[j].StreamSeq = n
					}
				}
				return es
			}
		}
		edit := func(i int, change func(map[string]any)) func([]ledger.Entry) []ledger.Entry {
			return func(es []ledger.Entry) []ledger.Entry {
				// Through the typed event, so that the order of the fields stays.
				ev, err := verify.Decode(es[i])
				if err != nil {
					t.Fatal(err)
				}
				text, _ := json.Marshal(ev)
				var m map[string]any
				if err := json.Unmarshal(text, &m); err != nil {
					t.Fatal(err)
				}
				change(m)
				es[i].Body, _ = json.Marshal(m)
				return es
			}
		}
		by := func(m map[string]any) map[string]any { return m["by"].(map[string]any) }
		for name, forge := range map[string]func([]ledger.Entry) []ledger.Entry{
			"an approval less":                     drop(at("approved")),
			"a certificate without a claim":        drop(at("claimed")),
			"a request that begins with a yes":     drop(at("requested")),
			"the requester approves":               edit(at("approved"), func(m map[string]any) { by(m)["person"] = "alice" }),
			"an outsider approves":                 edit(at("approved"), func(m map[string]any) { by(m)["person"] = "mallory" }),
			"a signature by nobody":                edit(at("approved"), func(m map[string]any) { m["signature"] = "" }),
			"an approval of something else":        edit(at("approved"), func(m map[string]any) { m["digest"] = strings.Repeat("0", 64) }),
			"a quorum of one":                      edit(at("requested"), func(m map[string]any) { m["quorum"].(map[string]any)["count"] = 1 }),
			"a longer life than was approved":      edit(at("claimed"), func(m map[string]any) { m["ttlSeconds"] = 36000 }),
			"a claim by somebody else":             edit(at("claimed"), func(m map[string]any) { by(m)["person"] = "bob" }),
			"a name of Kubernetes' own":            edit(at("claimed"), func(m map[string]any) { m["commonName"] = "system:admin" }),
			"a record of another certificate":      edit(at("issued"), func(m map[string]any) { m["fingerprint"] = strings.Repeat("0", 64) }),
			"a field that nobody knows":            edit(at("issued"), func(m map[string]any) { m["note"] = "x" }),
			"an event of a kind that nobody knows": func(es []ledger.Entry) []ledger.Entry { es[at("issued")].Kind = "blessed/v1"; return es },
			"an event in a stream of another kind": func(es []ledger.Entry) []ledger.Entry {
				es[0].Stream, es[0].StreamSeq = "bg-7k3m-9qx",
					1
				return es
			},
			"a claim that nobody signed":        edit(at("claimed"), func(m map[string]any) { delete(m, "signature") }),
			"a claim signed for another key":    edit(at("claimed"), func(m map[string]any) { m["csr"] = strings.Repeat("0", 64) }),
			"an approval counted anew":          edit(at("approved"), func(m map[string]any) { m["takenBack"] = 1 }),
			"an approval of an earlier release": func(es []ledger.Entry) []ledger.Entry { es[at("approved")+1].Kind = "approved/v1"; return es },
			"a second claim": func(es []ledger.Entry) []ledger.Entry {
				again := es[at("claimed")]
				again.StreamSeq = es[at("bound")].StreamSeq + 1
				return append(es, again)
			},
		} {
			forged := forge(slices.Clone(sound))
			if got := audit(forged); len(got) == 0 {
				t.Errorf("nothing is wrong with %s", name)
			}
			if got := forgetful(forged); len(got) == 0 {
				t.Errorf("nothing is wrong with %s when what is over is forgotten", name)
			}
		}
	})
}

// forgetful is audit by an Auditor that keeps nothing of what is over.
func forgetful(entries []ledger.Entry) []string {
	a := verify.NewForgetfulAuditor(func(stream string) ([]ledger.Entry, error) {
		return slices.DeleteFunc(slices.Clone(entries), func(e ledger.Entry) bool { return e.Stream != stream }), nil
	})
	for _, e := range entries {
		a.Add(e)
	}
	return a.Report().Problems
}

// TestAuditJudgesWordsThatComeAfterTheEnd has an Auditor forget a request, and then hear of it again.
func TestAuditJudgesWordsThatComeAfterTheEnd(t *testing.T) {
	o := bgtest.Options{Policy: bgtest.Policy() + "\nclosing: {within: 24h}\n"}
	bubbleWith(t, o, func(t *testing.T, s *bgtest.System) {
		r := s.Grant("alice", "group")
		_, csr := bgtest.NewCSR()
		if _, err := s.Claim("alice", r.ID, csr); err != nil {
			t.Fatal(err)
		}
		time.Sleep(25 * time.Hour) // the closing note is overdue: nothing is left to do
		other := s.Grant("bob", "group")
		a := verify.NewForgetfulAuditor(func(stream string) ([]ledger.Entry, error) { return s.Ledger.Stream(t.Context(), stream) })
		next := int64(0)
		hear := func() []string {
			entries, err := s.Ledger.Entries(t.Context(), next, 100)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				a.Add(e)
				next = e.Seq + 1
			}
			return a.Report().Problems
		}
		if bad := hear(); len(bad) > 0 || a.Kept() != 1 {
			t.Fatalf("keeps %d requests, want the open one; problems %q", a.Kept(), bad)
		}
		if _, err := s.Service.Revoke(t.Context(), byKey("carol"), r.ID, "too late for that"); err == nil {
			t.Error("an expired grant was revoked")
		}
		if bad := hear(); len(bad) > 0 || a.Kept() != 1 {
			t.Errorf("a refused command: keeps %d requests, problems %q", a.Kept(), bad)
		}
		if _, err := s.Service.Close(t.Context(), byKey("alice"), r.ID, "restarted etcd, all is well"); err != nil {
			t.Fatal(err)
		}
		if bad := hear(); len(bad) > 0 || a.Kept() != 1 {
			t.Errorf("a late closing note: keeps %d requests, problems %q", a.Kept(), bad)
		}
		all, err := s.Ledger.Stream(t.Context(), r.ID)
		if err != nil {
			t.Fatal(err)
		}
		closed := all[len(all)-1]
		closed.Seq, closed.StreamSeq = next, closed.StreamSeq+1
		a.Add(closed)
		if bad := a.Report().Problems; len(bad) != 1 || !strings.Contains(bad[0], "closed already") {
			t.Errorf("closed twice: %q", bad)
		}
		// The key of a request that was forgotten is still known.
		for _, e := range all {
			if strings.HasPrefix(e.Kind, "claimed/") {
				ev, err := verify.Decode(e)
				if err != nil {
					t.Fatal(err)
				}
				claim := ev.(breakglass.Claimed)
				claim.By, claim.CommonName = byKey("bob"), breakglass.CommonName("bob", other.ID)
				claim.Signature = bgtest.ClaimSignature("bob", other.ID, csr)
				claim.PublicKey = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(bgtest.SSHKey("bob").PublicKey())))
				body, err := json.Marshal(claim)
				if err != nil {
					t.Fatal(err)
				}
				a.Add(ledger.Entry{Seq: next + 1, Stream: other.ID, StreamSeq: other.Rev + 1, Kind: e.Kind, Time: time.Now(), Body: body})
			}
		}
		if bad := a.Report().Problems; len(bad) != 2 || !strings.Contains(bad[1], "this key was used by entry") {
			t.Errorf("a key used twice: %q", bad)
		}
	})
}

// TestAuditFindsAnIndexThatIsNotTheFold changes the index behind the ledger's back, in SQL.
func TestAuditFindsAnIndexThatIsNotTheFold(t *testing.T) {
	for name, change := range map[string]string{
		"an open request hidden":     `DELETE FROM ledger_tag WHERE name = 'open'`,
		"a request moved in time":    `UPDATE ledger_tag SET value = '1999-01-01' WHERE name = 'day'`,
		"a key forgotten":            `UPDATE ledger_tag SET name = 'gone' WHERE name = 'spki'`,
		"a row for nothing":          `INSERT INTO ledger_tag (stream, name, value, uniq) SELECT 'policy', 'open', '1', 0`,
		"a request given to another": `UPDATE ledger_tag SET value = 'mallory' WHERE name = 'open-by'`,
		"an ended request forgotten": `DELETE FROM ledger_tag WHERE uniq = 0
			AND stream NOT IN (SELECT stream FROM ledger_tag WHERE name = 'open')`,
		"an ended request opened": `INSERT INTO ledger_tag (stream, name, value, uniq)
			SELECT DISTINCT stream, 'open', '1', 0 FROM ledger_tag WHERE
			name = 'day' AND stream NOT IN (SELECT stream FROM ledger_tag WHERE name = 'open')`,
		"a canary forgotten": `UPDATE ledger_tag SET name = 'gone' WHERE name = 'fingerprint' AND stream NOT LIKE 'bg-%'`,
	} {
		t.Run(name, func(t *testing.T) {
			s := bgtest.New(t, bgtest.Options{})
			_, csr := bgtest.NewCSR()
			if _, err := s.Claim("alice", s.Grant("alice", "admin").ID, csr); err != nil {
				t.Fatal(err)
			}
			over := s.Ask(byKey("bob"), "group")
			if _, err := s.Service.Withdraw(t.Context(), byKey("bob"), over.ID, ""); err != nil {
				t.Fatal(err)
			}
			must(t, s.Service.OrderCanary(t.Context(), "n1", breakglass.CanaryOrdered{Cluster: "c1", CommonName: policy.CanaryPrefix + "c1:n1"}))
			must(t, s.Service.FinishCanary(t.Context(), "n1", breakglass.CanaryDone{Fingerprint: strings.Repeat("a", 64)}))
			s.Check()
			s.Stop()
			db, err := sql.Open("sqlite", s.Path())
			if err != nil {
				t.Fatal(err)
			}
			result, err := db.ExecContext(t.Context(), change)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := result.RowsAffected(); err != nil || n == 0 {
				t.Fatalf("%d rows changed (%v)", n, err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			store, err := sqlstore.OpenReadOnly(t.Context(), s.Path())
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			l, err := ledger.OpenReadOnly(t.Context(), store, s.Verifier)
			if err != nil {
				t.Fatal(err)
			}
			report, err := verify.Audit(t.Context(), l)
			if err != nil || len(report.Problems) == 0 {
				t.Errorf("nothing is wrong with the index (%v)", err)
			}
		})
	}
}

// BenchmarkAuditHeap measures what an Auditor keeps of requests that are over.
func BenchmarkAuditHeap(b *testing.B) {
	const requests = 2400
	s := bgtest.New(b, bgtest.Options{Policy: strings.Replace(bgtest.Policy(), "perHour: 20", "perHour: 1000", 1)})
	for i := range requests {
		who := byKey([]string{"alice", "bob", "dave"}[i%3])
		r := s.Ask(who, "group")
		_, err := s.Service.Withdraw(b.Context(), who, r.ID, "")
		must(b, err)
	}
	again := func(stream string) ([]ledger.Entry, error) { return s.Ledger.Stream(b.Context(), stream) }
	for _, kind := range []struct {
		name string
		make func() *verify.Auditor
	}{{"all", verify.NewAuditor}, {"over-forgotten", func() *verify.Auditor { return verify.NewForgetfulAuditor(again) }}} {
		b.Run(kind.name, func(b *testing.B) {
			for b.Loop() {
				before := heap()
				a := kind.make()
				for from := int64(0); from < s.Ledger.Size(); {
					entries, err := s.Ledger.Entries(b.Context(), from, 1000)
					if err != nil {
						b.Fatal(err)
					}
					for _, e := range entries {
						a.Add(e)
					}
					from += int64(len(entries))
				}
				b.ReportMetric(float64(heap()-before)/requests, "heap-B/request")
				if n := len(a.Report().Problems); n > 0 {
					b.Fatalf("%d problems", n)
				}
			}
		})
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
