package recert_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/recert"
	"github.com/breakglassd/breakglass/internal/record"
)

var byKey = bgtest.ByKey

// world is a system with reviewers, and a cluster whose inventory the test decides.
type world struct {
	*bgtest.System
	service *recert.Service
	scanned func() (*inventory.Snapshot, *doors.Analysis, error)
	signer  note.Signer
}

const reviewers = "responders: [security]\nrecertification: {reviewers: [sre, security], adminReviewers: 2, deadline: 14d}\n"

func bgtestPolicy() string { return bgtest.Policy() + reviewers }

// newWorld must be called in a bubble of fake time.
func newWorld(t testing.TB) *world {
	t.Helper()
	const day = 24 * time.Hour
	s := bgtest.New(t, bgtest.Options{Policy: bgtestPolicy(), Config: func(c *bgtest.Config) {
		c.ReconcileBindingsEvery, c.HeartbeatEvery,
			c.Reconcile = day, day, day
	}})
	w := &world{System: s, scanned: plain()}
	w.signer = s.Signer()
	var err error
	w.service, err = recert.New(recert.Config{Domain: s.Service, Campaigns: s.Campaigns, Ledger: s.Ledger, Signer: w.signer,
		Dir:      filepath.Join(s.Dir, "recert"),
		Clusters: []string{"c1"},
		Scan:     func(context.Context, string) (*inventory.Snapshot, *doors.Analysis, error) { return w.scanned() },
		Own: func(context.Context) ([]recert.Item, error) {
			return []recert.Item{{ID: "own/vault/policy", Kind: "vault-policy", Title: "the daemon's Vault policy is the one that ships",
				Evidence: []string{"=breakglassd"}, Risk: inventory.Low, Grants: []string{"sign"}}}, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// plain is a cluster in which bob is cluster-admin all the time, and a CI account was forgotten.
func plain(more ...inventory.Power) func() (*inventory.Snapshot, *doors.Analysis, error) {
	return func() (*inventory.Snapshot, *doors.Analysis, error) {
		powers := append([]inventory.Power{
			{Subject: inventory.Subject{Kind: inventory.User, Name: "bob@example.com"}, Rights: []string{"cluster-admin"},
				Severity: inventory.Critical, Via: []inventory.Ref{{Kind: "ClusterRoleBinding", Name: "bobs"}},
				Path: inventory.Path{{From: "user bob@example.com", Via: "ClusterRoleBinding bobs", Can: "everything", To: "cluster-admin"}}},
			{Subject: inventory.Subject{Kind: inventory.ServiceAccount, Namespace: "ci", Name: "gone"}, Rights: []string{"secrets-read"},
				Severity: inventory.High, Orphan: true, Via: []inventory.Ref{{Kind: "RoleBinding", Namespace: "ci", Name: "old"}}},
		}, more...)
		snap := &inventory.Snapshot{Cluster: "c1", At: time.Now().UTC(), Collector: "system:serviceaccount:breakglass:collector",
			Server: inventory.Server{Address: "https://127.0.0.1:6443", Version: "v1.37.2"}}
		for _, p := range powers {
			for _, via := range p.Via {
				snap.Bindings = append(snap.Bindings, inventory.Binding{Namespace: via.Namespace, Name: via.Name,
					Subjects: []inventory.Subject{p.Subject}})
			}
		}
		for _, b := range snap.Bindings {
			if b.Namespace == "" {
				snap.ClusterBindings = append(snap.ClusterBindings, b)
			}
		}
		snap.Bindings = slices.DeleteFunc(snap.Bindings, func(b inventory.Binding) bool { return b.Namespace == "" })
		return snap, &doors.Analysis{Cluster: "c1", Powers: powers,
			Doors: []doors.Door{{ID: doors.DoorSATokens, Title: "Service-account tokens", State: doors.Present, Risk: inventory.High,
				Advice: "delete them", Evidence: []string{"Secrets"},
				Items: []doors.DoorItem{{ID: "ci/token-1", Title: "legacy token of ci/deployer <script>alert(1)</script>", Risk: inventory.High,
					Grants: []string{"ci/deployer"}, TakeAway: "kubectl -n ci delete secret token-1"}}}}}, nil
	}
}

func (w *world) start(t testing.TB) *campaign.Campaign {
	t.Helper()
	c, err := w.service.Start(t.Context(), nil, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// say answers one item, or fails the test.
func (w *world) say(t testing.TB, c *campaign.Campaign, who string, v campaign.Verdict, id string) *campaign.Campaign {
	t.Helper()
	i, ok := c.Item(id)
	if !ok {
		t.Fatalf("there is no item %s", id)
	}
	after, err := w.Campaigns.Decide(t.Context(), byKey(who), c.ID, campaign.Answer{Verdict: v,
		Reason: "=HYPERLINK(\"http://evil\") looked at it", Items: []campaign.Judged{{ID: id, Digest: i.Digest}}})
	if err != nil {
		t.Fatalf("%s %ss %s: %v", who, v, id, err)
	}
	return after
}

// keepAll has enough reviewers keep everything that is still open.
func (w *world) keepAll(t testing.TB, c *campaign.Campaign) *campaign.Campaign {
	t.Helper()
	for _, who := range []string{"carol", "erin", "dave", "alice"} {
		for _, i := range c.Items {
			if c.Waits(i, who, time.Now()) {
				c = w.say(t, c, who, campaign.VerdictKeep, i.ID)
			}
		}
	}
	if c.Closed == nil {
		_, open := c.Counts()
		t.Fatalf("%d items are open", open)
	}
	return c
}

// titled finds the only item with a word in its title.
func titled(t testing.TB, w *world, c *campaign.Campaign, word string) recert.Item {
	t.Helper()
	snap, err := w.service.Snapshot(c)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(snap.Items, func(i recert.Item) bool { return strings.Contains(i.Title, word) })
	if i < 0 {
		t.Fatalf("no item is about %q", word)
	}
	return snap.Items[i]
}

func bubble(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		f(t, w)
		w.Check()
	})
}

func TestCampaignAsksAboutAllSixSubjects(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.use(t, "alice")
		if err := w.Service.Findings.RecordCheck(t.Context(), finding.CheckRun{Check: "ca", Cluster: "c1", OK: false,
			Verdict: "the CA ends in 10 days"}); err != nil {
			t.Fatal(err)
		}
		c := w.start(t)
		snap, err := w.service.Snapshot(c)
		if err != nil {
			t.Fatal(err)
		}
		n := map[recert.Topic]int{}
		for _, i := range snap.Items {
			n[i.Topic]++
			if i.State == "" || len(i.Evidence) == 0 || i.Fingerprint == "" {
				t.Errorf("%s has no state, evidence or fingerprint: %+v", i.ID, i)
			}
		}
		// 5 places in 2 teams; 4 profiles, for which one team may ask and two may approve; 6 keys and 6 accounts.
		want := map[recert.Topic]int{recert.TopicEligibility: 5 + 4*(1+2) + 12, recert.TopicOwn: 1, recert.TopicPower: 2, recert.TopicDoors: 2,
			recert.TopicEmergency: 1, recert.TopicChecks: 1}
		if diff := cmp.Diff(want, n); diff != "" {
			t.Error(diff)
		}
		if bob := titled(t, w, c, "bob@example.com"); !bob.Admin || !slices.Equal(bob.Not, []string{"bob"}) {
			t.Errorf("bob's own power: admin %v, not to be judged by %v", bob.Admin, bob.Not)
		}
		grant := titled(t, w, c, "used admin")
		if !slices.Equal(grant.Not, []string{"alice", "bob", "carol"}) || grant.Risk != inventory.High ||
			!slices.ContainsFunc(grant.Evidence, func(s string) bool { return strings.Contains(s, "too fast") }) {
			t.Errorf("a grant that was approved in no time: %+v", grant)
		}
	})
}

// use has somebody use emergency access.
func (w *world) use(t testing.TB, who string) {
	t.Helper()
	_, csr := bgtest.NewCSR()
	if _, err := w.Claim(who, w.Grant(who, "admin").ID, csr); err != nil {
		t.Fatal(err)
	}
}

func TestNextCampaignTellsWhatChanged(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		first := w.start(t)
		orphan, token := titled(t, w, first, "ci/gone"), titled(t, w, first, "legacy token")
		first = w.say(t, first, "carol", campaign.VerdictRevoke, orphan.ID)
		first = w.keepAll(t, first)

		time.Sleep(30 * 24 * time.Hour)
		w.scanned = func() (*inventory.Snapshot, *doors.Analysis, error) {
			s, a, err := plain(inventory.Power{Subject: inventory.Subject{Kind: inventory.User, Name: "mallory"}, Rights: []string{"cluster-admin"},
				Severity: inventory.Critical})()
			a.Powers = slices.Delete(a.Powers, 1, 2) // the forgotten account was taken away
			a.Doors[0].Items[0].Grants = append(a.Doors[0].Items[0].Grants, "more")
			return s, a, err
		}
		second := w.start(t)
		states := map[string]campaign.ItemState{}
		for _, i := range second.Items {
			states[i.ID] = i.State
		}
		for id, want := range map[string]campaign.ItemState{
			titled(t, w, second, "bob@example.com").ID: campaign.ItemUnchanged,
			token.ID:                                campaign.ItemWidened,
			titled(t, w, second, "user mallory").ID: campaign.ItemNew,
			"member/sre/bob":                        campaign.ItemUnchanged,
		} {
			if states[id] != want {
				t.Errorf("%s is %s, want %s", id, states[id], want)
			}
		}
		first, err := w.Campaigns.Get(t.Context(), first.ID)
		if err != nil {
			t.Fatal(err)
		}
		if i, _ := first.Item(orphan.ID); !i.Gone {
			t.Errorf("the next scan did not prove that it is gone: %+v", i)
		}
		a, err := w.service.Report(t.Context(), byKey("carol"), first.ID)
		if err != nil {
			t.Fatal(err)
		}
		b, err := w.service.Report(t.Context(), byKey("carol"), second.ID)
		if err != nil {
			t.Fatal(err)
		}
		d := recert.Compare(a, b)
		if !slices.ContainsFunc(d.Came, func(c recert.Change) bool { return strings.Contains(c.Title, "mallory") }) ||
			!slices.ContainsFunc(d.Went, func(c recert.Change) bool { return c.ID == orphan.ID }) ||
			!slices.ContainsFunc(d.Widened, func(c recert.Change) bool { return c.ID == token.ID }) {
			t.Errorf("came %+v\nwent %+v\nwidened %+v", d.Came, d.Went, d.Widened)
		}
	})
}

func TestScanThatFailsIsAnItemAndProvesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		first := w.start(t)
		orphan := titled(t, w, first, "ci/gone")
		first = w.say(t, first, "carol", campaign.VerdictRevoke, orphan.ID)
		first = w.keepAll(t, first)
		w.scanned = func() (*inventory.Snapshot, *doors.Analysis, error) { return nil, nil, errors.New("forbidden") }
		second := w.start(t)
		if i := titled(t, w, second, "nothing is known"); !i.Admin || i.State != campaign.ItemNew {
			t.Errorf("a cluster that could not be looked at: %+v", i)
		}
		first, err := w.Campaigns.Get(t.Context(), first.ID)
		if err != nil {
			t.Fatal(err)
		}
		if i, _ := first.Item(orphan.ID); !i.Proved.IsZero() {
			t.Error("a scan that saw nothing proved that something is gone")
		}
	})
}

func TestScanThatMayNotReadEverythingProvesNothingAndSaysSo(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		source := func(missing string) {
			w.scanned = func() (*inventory.Snapshot, *doors.Analysis, error) {
				s, a, err := plain()()
				s.Sources = []inventory.Source{{Name: "rolebindings", Missing: missing}}
				if missing != "" {
					s.Bindings, a.Powers = nil, nil
					a.Findings = []inventory.Finding{{ID: "unread/rolebindings", Rule: "scan/unread", Severity: inventory.High,
						Title: "role bindings could not be read", Text: missing, Next: "give the right"}}
				}
				return s, a, err
			}
		}
		source("")
		first := w.start(t)
		orphan := titled(t, w, first, "ci/gone")
		first = w.say(t, first, "carol", campaign.VerdictRevoke, orphan.ID)
		source("list rolebindings")
		first, err := w.service.Prove(t.Context(), byKey("carol"), first.ID)
		if err != nil {
			t.Fatal(err)
		}
		if i, _ := first.Item(orphan.ID); !i.Proved.IsZero() {
			t.Error("what could not be read is taken for gone")
		}
		w.keepAll(t, first)
		second := w.start(t)
		if i := titled(t, w, second, "could not be read"); !i.Admin {
			t.Errorf("what could not be read: %+v", i)
		}
	})
}

// finished is a campaign with every kind of outcome.
func finished(t testing.TB, w *world) *campaign.Campaign {
	t.Helper()
	w.use(t, "alice")
	c := w.start(t)
	c = w.say(t, c, "carol", campaign.VerdictRevoke, titled(t, w, c, "ci/gone").ID)
	c = w.say(t, c, "carol", campaign.VerdictRevoke, "member/sre/bob")
	for n, i := range c.Items {
		if n%3 == 0 && c.Waits(i, "erin", time.Now()) {
			c = w.say(t, c, "erin", campaign.VerdictKeep, i.ID)
		}
	}
	time.Sleep(15 * 24 * time.Hour)
	synctest.Wait()
	c, err := w.Campaigns.Get(t.Context(), c.ID)
	if err != nil || c.Closed == nil {
		t.Fatalf("not closed (%v)", err)
	}
	return c
}

func TestBundleVerifiesOffline(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := finished(t, w)
		b, err := w.service.Export(t.Context(), byKey("carol"), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		var z bytes.Buffer
		if err := b.TarGz(&z); err != nil {
			t.Fatal(err)
		}
		file, dir := filepath.Join(t.TempDir(), "b.tar.gz"), filepath.Join(t.TempDir(), "b")
		if err := errors.Join(os.WriteFile(file, z.Bytes(), 0o600), b.Dir(dir)); err != nil {
			t.Fatal(err)
		}
		for _, from := range []string{file, dir} {
			again, err := recert.OpenBundle(from)
			if err != nil {
				t.Fatal(err)
			}
			v := recert.Verify(again, w.Verifier)
			if len(v.Problems) > 0 || !v.Closed || v.Campaign != c.ID || !v.Counts.AddUp() || v.Counts.Items != len(c.Items) ||
				v.Counts.Revoked != 2 || v.Counts.Suspended == 0 || v.Counts.Escalated == 0 {
				t.Errorf("%+v", v)
			}
		}
	})
}

func TestChangedBundleIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := finished(t, w)
		sound, err := w.service.Export(t.Context(), byKey("carol"), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		flip := func(name string) func(recert.Bundle) {
			return func(b recert.Bundle) { b[name] = bytes.Replace(b[name], []byte("kept"), []byte("KEPT"), 1) }
		}
		// resign lists and signs what was changed, as somebody with the ledger's key could.
		resign := func(change func(recert.Bundle)) func(recert.Bundle) {
			return func(b recert.Bundle) {
				change(b)
				again, err := recert.Sign(b, c.ID, w.signer)
				if err != nil {
					t.Fatal(err)
				}
				for name, data := range again {
					b[name] = data
				}
			}
		}
		lines := func(change func([][]byte) [][]byte) func(recert.Bundle) {
			return func(b recert.Bundle) {
				b["ledger-proof"] = bytes.Join(change(bytes.SplitAfter(b["ledger-proof"], []byte("\n"))), nil)
			}
		}
		for name, change := range map[string]func(recert.Bundle){
			"another table":             flip("items.csv"),
			"another page":              flip("report.html"),
			"another report":            func(b recert.Bundle) { b["report.json"] = append(b["report.json"], ' ') },
			"a file less":               func(b recert.Bundle) { delete(b, "decisions.csv") },
			"a file more":               func(b recert.Bundle) { b["note.txt"] = []byte("all is well") },
			"no signature":              func(b recert.Bundle) { delete(b, "MANIFEST.sha256.note") },
			"another manifest":          func(b recert.Bundle) { b["MANIFEST.sha256"] = append(b["MANIFEST.sha256"], '\n') },
			"a checkpoint as signature": func(b recert.Bundle) { cp, _ := w.Ledger.Checkpoint(t.Context()); b["MANIFEST.sha256.note"] = cp.Note },
			"another table, signed":     resign(flip("items.csv")),
			"decisions left out, signed": resign(func(b recert.Bundle) {
				b["decisions.csv"] = b["decisions.csv"][:bytes.IndexByte(b["decisions.csv"], '\n')+1]
			}),
			"another snapshot, signed": resign(func(b recert.Bundle) {
				b["snapshot.json"] = bytes.Replace(b["snapshot.json"], []byte("critical"), []byte("low"), 1)
			}),
			"counts that were made up, signed": resign(func(b recert.Bundle) {
				b["report.json"] = regexp.MustCompile(`"kept": \d+`).ReplaceAll(b["report.json"], []byte(`"kept": 99`))
			}),
			"another page, signed": resign(flip("report.html")),
			"another text, signed": resign(flip("report.md")),
			"other controls, signed": resign(func(b recert.Bundle) {
				b["controls.csv"] = bytes.Replace(b["controls.csv"], []byte("CC6.1"), []byte("CC6.9"), 1)
			}),
			"an item of the report, signed": resign(func(b recert.Bundle) {
				b["report.json"] = bytes.Replace(b["report.json"], []byte(`"risk": "critical"`), []byte(`"risk": "low"`), 1)
			}),
			"a reason in the report, signed": resign(func(b recert.Bundle) {
				b["report.json"] = bytes.Replace(b["report.json"], []byte("looked at it"), []byte("never looked"), 1)
			}),
			"a ledger entry left out, signed": resign(lines(func(l [][]byte) [][]byte { return slices.Delete(l, 2, 3) })),
			"ledger entries in another order": resign(lines(func(l [][]byte) [][]byte { l[2], l[3] = l[3], l[2]; return l })),
			"a ledger entry that was made up": resign(lines(func(l [][]byte) [][]byte {
				l[2] = bytes.Replace(l[2], []byte(`"leaf":"`), []byte(`"leaf":"AAAA`), 1)
				return l
			})),
			"a word that nobody said, signed": resign(lines(func(l [][]byte) [][]byte {
				l[2] = bytes.Replace(l[2], []byte("looked at it"), []byte("never looked"), 1)
				return l
			})),
			"not a single ledger entry": resign(func(b recert.Bundle) { b["ledger-proof"] = nil }),
		} {
			b := recert.Bundle{}
			for n, data := range sound {
				b[n] = bytes.Clone(data)
			}
			change(b)
			if v := recert.Verify(b, w.Verifier); len(v.Problems) == 0 {
				t.Errorf("nothing is wrong with %s", name)
			}
		}
		// A report in a form that this program does not write is not compared, and that is said: counts are compared all the same.
		// No earlier release can have made it: those cannot read a campaign that goes by rules with a number.
		other := recert.Bundle{}
		for n, data := range sound {
			other[n] = bytes.Clone(data)
		}
		other["report.json"] = bytes.Replace(other["report.json"], fmt.Appendf(nil, `"rendering": %d`, recert.Rendering),
			[]byte(`"rendering": 0`), 1)
		resign(flip("report.html"))(other)
		if v := recert.Verify(other, w.Verifier); len(v.Problems) > 0 || len(v.Earlier) > 0 || !slices.Contains(v.Unchecked, "report.html") ||
			!slices.Contains(v.Unchecked, "items.csv") {
			t.Errorf("a report in another form: %+v", v)
		}
		// The form with the number 1 is of a release that could not read places in teams: it is no easier check either.
		other["report.json"] = bytes.Replace(other["report.json"], []byte(`"rendering": 0`), []byte(`"rendering": 1`), 1)
		resign(flip("report.html"))(other)
		if v := recert.Verify(other, w.Verifier); len(v.Problems) > 0 || len(v.Earlier) > 0 || !slices.Contains(v.Unchecked, "items.csv") {
			t.Errorf("a report in a former form: %+v", v)
		}
		// The end of a campaign can be cut off by somebody with the key, but then it does not say that it is closed.
		b := recert.Bundle{}
		for n, data := range sound {
			b[n] = bytes.Clone(data)
		}
		if v := recert.Verify(b, mustVerifier(t)); len(v.Problems) == 0 {
			t.Error("another ledger's key verifies it")
		}
	})
}

func mustVerifier(t testing.TB) note.Verifier {
	t.Helper()
	other := bgtest.New(t, bgtest.Options{})
	return other.Verifier
}

func TestNoCellBeginsLikeAFormula(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := finished(t, w)
		r, err := w.service.Report(t.Context(), byKey("carol"), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		r.Items[0].Title, r.Items[1].Title, r.Items[2].Title, r.Items[3].Title = "=1+1", "+1", "-1", "@x"
		r.Grants[0].Reason = "\t=cmd|' /C calc'!A0"
		cells, neutral := 0, 0
		for name, render := range map[string]func(io.Writer) error{"items": r.ItemsCSV, "decisions": r.DecisionsCSV,
			"emergency": r.EmergencyCSV} {
			var b bytes.Buffer
			if err := render(&b); err != nil {
				t.Fatal(err)
			}
			rows, err := csv.NewReader(&b).ReadAll()
			if err != nil || len(rows) < 2 {
				t.Fatalf("%s: %d rows (%v)", name, len(rows), err)
			}
			for _, row := range rows {
				for _, cell := range row {
					cells++
					if cell != "" && strings.ContainsRune("=+-@\t\r", rune(cell[0])) {
						t.Errorf("%s has the cell %q", name, cell)
					}
					if strings.HasPrefix(cell, "'") {
						neutral++
					}
				}
			}
		}
		if neutral < 6 {
			t.Errorf("%d of %d cells were made harmless", neutral, cells)
		}
	})
}

func TestReportIsOnePageAndEscapesWhatItShows(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := finished(t, w)
		r, err := w.service.Report(t.Context(), byKey("carol"), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		var html, markdown, text, js bytes.Buffer
		if err := errors.Join(r.HTML(&html), r.Markdown(&markdown), r.Text(&text), r.JSON(&js)); err != nil {
			t.Fatal(err)
		}
		page := html.String()
		if strings.Contains(page, "<script") || regexp.MustCompile(`(src|href)=|url\(|@import`).MatchString(page) {
			t.Error("the page has a script or needs the network")
		}
		if n := strings.Count(page, "<svg "); n != 4 {
			t.Errorf("%d charts, want 4", n)
		}
		if !strings.Contains(page, "&lt;script&gt;alert(1)") {
			t.Error("a title from the cluster is not shown as it is")
		}
		for name, s := range map[string]string{"html": page, "markdown": markdown.String(), "text": text.String()} {
			for _, want := range []string{c.ID, "suspended", "escalated"} {
				if !strings.Contains(s, want) {
					t.Errorf("%s does not say %q", name, want)
				}
			}
		}
		if strings.Contains(markdown.String(), "<script>") {
			t.Error("Markdown has a tag from the cluster in it")
		}
		var again recert.Report
		if err := json.Unmarshal(js.Bytes(), &again); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, &again, cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })); diff != "" {
			t.Error("JSON does not say the same:", diff)
		}
	})
}

func TestScheduledRunOpensOneCampaign(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		due := time.Now().UTC()
		for range 3 { // as after a run that died before it was remembered as done
			if err := w.service.Job(t.Context(), due); err != nil {
				t.Fatal(err)
			}
		}
		ids, err := w.Campaigns.IDs(t.Context())
		if err != nil || len(ids) != 1 {
			t.Fatalf("%d campaigns (%v)", len(ids), err)
		}
		if err := w.service.Job(t.Context(), due.Add(time.Hour)); err == nil {
			t.Error("a run opened nothing, because a campaign is open, and nobody is told")
		}
	})
}

func TestSlackAccountsAreLookedAt(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		service, err := recert.New(recert.Config{Domain: w.Service, Campaigns: w.Campaigns, Ledger: w.Ledger, Signer: w.signer,
			Dir: filepath.Join(w.Dir, "recert"),
			Accounts: func(_ context.Context, all []record.SlackAccount) (map[record.SlackAccount]recert.AccountState, error) {
				out := map[record.SlackAccount]recert.AccountState{}
				for _, a := range all {
					out[a] = recert.AccountState{Deactivated: a.User == bgtest.SlackUser("alice"), Guest: a.User == bgtest.SlackUser("bob")}
				}
				return out, nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		w.service = service
		c := w.start(t)
		if i := titled(t, w, c, "U0ALICE"); i.State != campaign.ItemOrphan {
			t.Errorf("a deactivated account is %s", i.State)
		}
		if i := titled(t, w, c, "U0BOB"); i.Risk != inventory.High {
			t.Errorf("a guest's account has risk %s", i.Risk)
		}
		if i := titled(t, w, c, "U0CAROL"); i.State != campaign.ItemNew || i.Risk != inventory.Medium {
			t.Errorf("a member's account is %s with risk %s", i.State, i.Risk)
		}
	})
}

func TestPeopleWhoAlwaysApproveTogetherAreAnItem(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		for range 4 {
			w.use(t, "alice") // approved by carol and bob
			time.Sleep(2 * time.Hour)
		}
		w.use(t, "bob") // approved by carol and dave
		c := w.start(t)
		if i := titled(t, w, c, "approve together"); i.ID != "pair/bob/carol" || !slices.Equal(i.Not, []string{"bob", "carol"}) {
			t.Errorf("got %s, not to be judged by %v", i.ID, i.Not)
		}
	})
}

func TestLostOrChangedSnapshotIsNoticed(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := w.start(t)
		path := filepath.Join(w.Dir, "recert", "snapshot-"+c.Opened.Snapshot+".json")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bytes.Replace(text, []byte("critical"), []byte("low"), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := w.service.Snapshot(c); err == nil || !strings.Contains(err.Error(), "digest") {
			t.Errorf("a changed snapshot: got error %v", err)
		}
	})
}

func TestOnlyReviewersAndRespondersSeeReports(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := w.start(t)
		_, err := w.service.Report(t.Context(), byKey("mallory"), c.ID)
		if no, ok := record.AsRefusal(err); !ok || no.Code != "not-reviewer" {
			t.Errorf("got %v", err)
		}
		_, err = w.service.Export(t.Context(), byKey("mallory"), c.ID)
		if no, ok := record.AsRefusal(err); !ok || no.Code != "not-reviewer" {
			t.Errorf("got %v", err)
		}
	})
}

// BenchmarkBigCampaign opens, answers, reports and exports a campaign of 10 000 items.
func BenchmarkBigCampaign(b *testing.B) {
	for b.Loop() {
		w := newWorld(b)
		var powers []inventory.Power
		for n := range 10_000 - 48 {
			powers = append(powers, inventory.Power{Subject: inventory.Subject{Kind: inventory.User, Name: fmt.Sprintf("user-%d@example.com", n)},
				Rights: []string{"secrets-read@shop", "pods-create@shop"}, Severity: inventory.High,
				Via: []inventory.Ref{{Kind: "RoleBinding", Namespace: "shop", Name: fmt.Sprintf("binding-%d", n)}}})
		}
		w.scanned = plain(powers...)
		begin := time.Now()
		c := w.start(b)
		opened := time.Since(begin)
		b.ReportMetric(float64(len(c.Items)), "items")
		b.ReportMetric(opened.Seconds(), "s/open")
		begin = time.Now()
		const said = 200
		for n := range said {
			c = w.say(b, c, "carol", campaign.VerdictKeep, c.Items[100+n].ID)
		}
		b.ReportMetric(time.Since(begin).Seconds()*1000/said, "ms/decision")
		begin = time.Now()
		r, err := w.service.Report(b.Context(), byKey("carol"), c.ID)
		if err != nil {
			b.Fatal(err)
		}
		var html bytes.Buffer
		if err := r.HTML(&html); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(begin).Seconds(), "s/html")
		b.ReportMetric(float64(html.Len())/1e6, "MB/html")
		begin = time.Now()
		bundle, err := w.service.Export(b.Context(), byKey("carol"), c.ID)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(begin).Seconds(), "s/export")
		var z bytes.Buffer
		if err := bundle.TarGz(&z); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(z.Len())/1e6, "MB/bundle")
		begin = time.Now()
		if v := recert.Verify(bundle, w.Verifier); len(v.Problems) > 0 {
			b.Fatal(v.Problems)
		}
		b.ReportMetric(time.Since(begin).Seconds(), "s/verify")
		w.Stop()
	}
}
