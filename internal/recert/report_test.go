package recert_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/recert"
	"github.com/breakglassd/breakglass/internal/record"
)

// everything is a report with one of each.
func everything() *recert.Report {
	at := func(day int) time.Time { return time.Date(2026, 3, day, 9, 30, 0, 0, time.UTC) }
	stamp := func(day int) *time.Time { t := at(day); return &t }
	word := func(who, verdict string, day int) recert.Word {
		return recert.Word{Person: who, Verdict: verdict, At: at(day), Channel: "key", Reason: "looked <at> it"}
	}
	seconds := int64(75)
	item := func(id string, t recert.Topic, risk inventory.Severity, state campaign.ItemState) recert.Item {
		return recert.Item{ID: id, Topic: t, Kind: "kind", Cluster: "c1", Title: "title of " + id, Evidence: []string{"one", "two | three"},
			Risk: risk, State: state, Since: stamp(1), Fingerprint: strings.Repeat("f", 64)}
	}
	lines := []recert.Line{
		{Item: item("kept", recert.TopicEligibility, inventory.High, campaign.ItemUnchanged), Outcome: campaign.OutcomeKeep, Need: 1,
			Words: []recert.Word{word("carol", "keep", 2)}},
		{Item: item("revoked", recert.TopicPower, inventory.Critical, campaign.ItemNew), Outcome: campaign.OutcomeRevoke, Need: 2,
			Earlier: []recert.Word{word("carol", "keep", 2)}, Words: []recert.Word{word("carol", "revoke", 3)}, Proved: "still there",
			ProvedAt: stamp(20)},
		{Item: item("suspended", recert.TopicEligibility, inventory.Medium, campaign.ItemWidened), Outcome: campaign.OutcomeSuspended,
			Need: 1, Words: []recert.Word{}, Suspended: stamp(15), SuspendedWhy: "unanswered", Held: true},
		{Item: item("escalated", recert.TopicDoors, inventory.Low, campaign.ItemOrphan), Outcome: campaign.OutcomeEscalated,
			Now: campaign.OutcomeKeep, Need: 1, Words: []recert.Word{word("erin", "keep", 18)}, Escalated: stamp(15), EscalatedWhy: "unanswered"},
		{Item: item("floor", recert.TopicEligibility, inventory.Info, campaign.ItemDormant), Outcome: campaign.OutcomeEscalated, Need: 1,
			Words: []recert.Word{}, Escalated: stamp(15), EscalatedWhy: "floor"},
		{Item: item("taken over", recert.TopicEligibility, inventory.Info, campaign.ItemNarrowed), Outcome: campaign.OutcomeEscalated,
			Need: 1, Words: []recert.Word{}, Escalated: stamp(15), EscalatedWhy: "floor", Settled: stamp(25), SettledBy: "campaign-2026-03-24-abcd"},
	}
	lines[1].TakeAway, lines[1].Object = "kubectl delete rolebinding x", "c1/x"
	for n := range lines {
		lines[n].Digest = strings.Repeat("d", 64)
	}
	return &recert.Report{APIVersion: recert.APIVersion, Kind: "RecertificationReport", Campaign: "campaign-2026-03-01-abcd", AsOf: at(26),
		Opened: at(1), OpenedBy: "schedule", Deadline: at(15), Closed: stamp(15), From: at(1).AddDate(0, -3, 0), Until: at(1),
		Clusters: []recert.ClusterLook{{ID: "c1", Server: "https://127.0.0.1:6443", Version: "v1.37.2", At: at(1),
			Doors: []doors.Door{{ID: doors.DoorSATokens, Title: "Service-account tokens",
				Items: []doors.DoorItem{{ID: "t", Title: "token", Risk: inventory.High}}}}},
			{ID: "c2", Problem: "forbidden"}},
		Reviewers: []string{"carol", "erin"}, AdminReviewers: 2, Counts: recert.Counts{Items: 6, Kept: 1, Revoked: 1, Suspended: 1,
			Escalated: 3}, Items: lines,
		Grants: []recert.Grant{{ID: "r-1", Person: "alice", Profile: "admin", Cluster: "c1", Risk: "high", Reason: "=etcd", State: "expired",
			Asked: at(1), Approvals: []recert.Consent{{Person: "bob", Channel: "slack", Seconds: 75}}, Approved: &seconds, TTL: 900, Used: "yes",
			NoteState: "written", OffHours: true}},
		Checks: []recert.Check{}, PolicyDigest: strings.Repeat("a", 64), PolicyChanges: []string{"team security: mallory added"},
		Snapshot: strings.Repeat("b", 64), Ledger: "breakglass.example/ledger", Names: map[string]string{"carol": "Carol"},
		Rendering: recert.Rendering}
}

// A verifier makes the files of a bundle again only if it writes reports in the same form. So whoever changes the form must give it
// another number, or bundles of before are taken for forged.
func TestRenderingHasItsNumber(t *testing.T) {
	want := map[int]string{1: "194023e2315e3507e25d676864f765d44d9ca3300c67c6187aa8488b0bf4db79",
		2: "9b5210503d246a3f67a064e2e70b9f4da0ed2a8dfbbfe459d8e11a610276fbe3"}
	sum := sha256.New()
	files := everything().Rendered()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintln(sum, name)
		if err := files[name](sum); err != nil {
			t.Fatal(err)
		}
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != want[recert.Rendering] {
		t.Errorf("what a report renders to has changed: raise the constant rendering by one (unless no bundle was ever made with %d), and put "+
			"%s here", recert.Rendering, got)
	}
}

func TestRenderingIsTheSameEachTime(t *testing.T) {
	for name, render := range everything().Rendered() {
		var first bytes.Buffer
		if err := render(&first); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			var again bytes.Buffer
			if err := everything().Rendered()[name](&again); err != nil || !bytes.Equal(again.Bytes(), first.Bytes()) {
				t.Errorf("%s is not the same each time (%v)", name, err)
			}
		}
	}
}

// What was said and done after closing changes no count and no outcome of the table beside it; it is shown as later.
func TestCountsAndRowsAgreeAfterClosing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := finished(t, w)
		late := ""
		for _, i := range c.Items {
			if i.AtClose == campaign.OutcomeEscalated && i.Gives == (policy.Eligibility{}) && c.Need(i) == 1 {
				late = i.ID
			}
		}
		w.say(t, c, "carol", campaign.VerdictKeep, late)
		// One approver more: there is room above the floor, and somebody whom it kept is suspended.
		more := strings.Replace(bgtestPolicy(), "members: [carol, erin]", "members: [carol, erin, mallory]", 1)
		p, err := policy.Parse("access.yaml", []byte(more))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Service.InForce.Set(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		r, err := w.service.Report(t.Context(), byKey("carol"), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		was, now := map[campaign.Outcome]int{}, map[campaign.Outcome]int{}
		for _, l := range r.Items {
			was[l.Outcome]++
			now[l.Now]++
			if l.ID == late && (l.Outcome != campaign.OutcomeEscalated || l.Present() != campaign.OutcomeKeep ||
				!strings.Contains(l.What(), "escalated, since closing kept")) {
				t.Errorf("a late answer: %s, now %s: %q", l.Outcome, l.Now, l.What())
			}
		}
		k := r.Counts
		if got := (recert.Counts{Items: len(r.Items), Kept: was[campaign.OutcomeKeep], Revoked: was[campaign.OutcomeRevoke],
			Suspended: was[campaign.OutcomeSuspended], Escalated: was[campaign.OutcomeEscalated]}); got != k || !k.AddUp() {
			t.Errorf("the table comes to %+v, the counts are %+v", got, k)
		}
		if now[campaign.OutcomeKeep] != 1 || now[campaign.OutcomeSuspended] == 0 {
			t.Errorf("since closing: %v, want one kept and somebody suspended", now)
		}
		if slices.ContainsFunc(r.LeftToDo(), func(l recert.Line) bool { return l.ID == late || l.Now == campaign.OutcomeSuspended }) {
			t.Error("what has its answer since closing is left to do")
		}
		var md bytes.Buffer
		if err := r.Markdown(&md); err != nil || !strings.Contains(md.String(), fmt.Sprintf("since closing | 1 kept, %d suspended",
			now[campaign.OutcomeSuspended])) {
			t.Errorf("the report does not say what came since closing (%v)", err)
		}
		b, err := w.service.Export(t.Context(), byKey("carol"), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		if v := recert.Verify(b, w.Verifier); len(v.Problems) > 0 || v.Counts != k {
			t.Errorf("%+v", v)
		}
	})
}

func TestDecisionsHaveEveryWord(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := w.start(t)
		id := titled(t, w, c, "ci/gone").ID
		for _, v := range []campaign.Verdict{campaign.VerdictKeep, campaign.VerdictRevoke} {
			c = w.say(t, c, "carol", v, id)
			time.Sleep(time.Hour)
		}
		r, err := w.service.Report(t.Context(), byKey("carol"), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := r.DecisionsCSV(&b); err != nil {
			t.Fatal(err)
		}
		rows, err := csv.NewReader(&b).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		for _, row := range rows[1:] {
			if row[1] == id {
				said = append(said, row[2]+" by "+row[3])
			}
		}
		if !slices.Equal(said, []string{"keep by carol", "revoke by carol"}) {
			t.Errorf("got %q", said)
		}
	})
}

func TestKeyIsLeftToDoUntilItIsGoneAndSomebodyElseSaysSo(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := w.start(t)
		key := titled(t, w, c, "Slack account T01/U0ALICE")
		if key.Object != "" || key.Gives.Person != "" {
			t.Fatalf("%s is something that a scan or the daemon settles", key.ID)
		}
		ssh := titled(t, w, c, "of Alice (alice)").ID // the first is her SSH key
		if ssh == key.ID {
			t.Fatal("no item is about alice's SSH key")
		}
		for _, id := range []string{key.ID, ssh} {
			c = w.say(t, c, "carol", campaign.VerdictRevoke, id)
			_, err := w.Campaigns.Acknowledge(t.Context(), byKey("dave"), c.ID, []string{id}, "it is gone")
			if no, ok := record.AsRefusal(err); !ok || no.Code != "still-there" {
				t.Errorf("dave acknowledges %s, which is in the access policy: %v", id, err)
			}
		}
		left := func() bool {
			t.Helper()
			r, err := w.service.Report(t.Context(), byKey("carol"), c.ID)
			if err != nil {
				t.Fatal(err)
			}
			return slices.ContainsFunc(r.LeftToDo(), func(l recert.Line) bool { return l.ID == key.ID && l.Outcome == campaign.OutcomeRevoke })
		}
		_, err := w.Campaigns.Acknowledge(t.Context(), byKey("alice"), c.ID, []string{key.ID}, "done")
		if no, ok := record.AsRefusal(err); !ok || no.Code != "own-item" || !left() {
			t.Errorf("alice acknowledges her own key: %v, left to do %v", err, left())
		}
		p, err := policy.Parse("access.yaml", []byte(strings.Replace(bgtestPolicy(), "slack: [{team: T01, user: U0ALICE}], ", "", 1)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Service.InForce.Set(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Campaigns.Acknowledge(t.Context(), byKey("dave"), c.ID, []string{key.ID}, "looked: it is gone"); err != nil || left() {
			t.Errorf("dave acknowledges it: %v, left to do %v", err, left())
		}
	})
	// In a ledger of before, whom it is about may have said so.
	l := recert.Line{Item: recert.Item{ID: "key/x", Not: []string{"alice"}}, Outcome: campaign.OutcomeRevoke,
		Acknowledged: &recert.Word{Person: "alice"}}
	r := recert.Report{Items: []recert.Line{l}}
	if len(r.LeftToDo()) != 1 || !strings.Contains(l.What(), "only by whom it is about") {
		t.Errorf("alice's own word settles it: %q", l.What())
	}
}
