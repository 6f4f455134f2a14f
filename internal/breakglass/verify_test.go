package breakglass_test

import (
	"database/sql"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/ledger/sqlstore"
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
				ev, err := breakglass.Decode(es[i])
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
			if got := audit(forge(slices.Clone(sound))); len(got) == 0 {
				t.Errorf("nothing is wrong with %s", name)
			}
		}
	})
}

func audit(entries []ledger.Entry) []string {
	a := breakglass.NewAuditor()
	for _, e := range entries {
		a.Add(e)
	}
	return a.Report().Problems
}

// TestAuditFindsAnIndexThatIsNotTheFold changes the index behind the ledger's back, in SQL.
func TestAuditFindsAnIndexThatIsNotTheFold(t *testing.T) {
	for name, change := range map[string]string{
		"an open request hidden":     `DELETE FROM ledger_tag WHERE name = 'open'`,
		"a request moved in time":    `UPDATE ledger_tag SET value = '1999-01-01' WHERE name = 'day'`,
		"a key forgotten":            `UPDATE ledger_tag SET name = 'gone' WHERE name = 'spki'`,
		"a row for nothing":          `INSERT INTO ledger_tag (stream, name, value, uniq) SELECT 'policy', 'open', '1', 0`,
		"a request given to another": `UPDATE ledger_tag SET value = 'mallory' WHERE name = 'open-by'`,
	} {
		t.Run(name, func(t *testing.T) {
			s := bgtest.New(t, bgtest.Options{})
			_, csr := bgtest.NewCSR()
			if _, err := s.Claim("alice", s.Grant("alice", "admin").ID, csr); err != nil {
				t.Fatal(err)
			}
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
			report, err := breakglass.Audit(t.Context(), l)
			if err != nil || len(report.Problems) == 0 {
				t.Errorf("nothing is wrong with the index (%v)", err)
			}
		})
	}
}
