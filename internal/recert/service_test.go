package recert_test

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/recert"
	"github.com/breakglassd/breakglass/internal/record"
)

const quarter = 92 * 24 * time.Hour

func states(c *campaign.Campaign) map[string]campaign.ItemState {
	out := map[string]campaign.ItemState{}
	for _, i := range c.Items {
		out[i.ID] = i.State
	}
	return out
}

// scanning is a scan of one door, and of what else change says.
func scanning(d doors.Door, change func(*inventory.Snapshot, *doors.Analysis)) func() (*inventory.Snapshot, *doors.Analysis,
	error) {
	return func() (*inventory.Snapshot, *doors.Analysis, error) {
		s, a, err := plain()()
		d.Evidence, d.Advice = []string{"seen"}, "look"
		a.Doors = []doors.Door{d}
		if change != nil {
			change(s, a)
		}
		return s, a, err
	}
}

func TestGrantThatWasPendingAtTheLastSnapshotIsReviewed(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.Grant("alice", "admin")
		time.Sleep(time.Minute)
		first := w.start(t)
		if _, ok := first.Item("grant/" + r.ID); ok {
			t.Fatal("a grant that nobody has collected is an item: the test is about one that is not")
		}
		time.Sleep(time.Minute)
		_, csr := bgtest.NewCSR()
		if _, err := w.Claim("alice", r.ID, csr); err != nil {
			t.Fatal(err)
		}
		w.keepAll(t, first)
		time.Sleep(quarter)
		second := w.start(t)
		if _, ok := second.Item("grant/" + r.ID); !ok {
			t.Error("a grant that was asked for before a snapshot and collected after it is in no campaign")
		}
	})
}

func TestGrantInUseAtTheLastSnapshotIsReviewedAgainUntilItIsDone(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.use(t, "alice")
		time.Sleep(time.Minute)
		first := w.keepAll(t, w.start(t))
		grant := titled(t, w, first, "used admin")
		time.Sleep(quarter)
		second := w.start(t)
		if state, ok := states(second)[grant.ID]; !ok || state.Together() {
			t.Errorf("the end of a grant that was kept while it was in use: there %t, state %q, want one that is answered by itself", ok, state)
		}
		w.keepAll(t, second)
		time.Sleep(quarter)
		if _, ok := w.start(t).Item(grant.ID); ok {
			t.Error("a grant that was over before the period is in it")
		}
	})
}

// Whoever revokes a certificate of the CSR API must not be told that it is gone because Kubernetes tidied up.
func TestCertificateOfTheCSRAPIIsNeverProvedGone(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		until := time.Now().Add(300 * 24 * time.Hour).UTC()
		w.scanned = scanning(doors.Door{ID: doors.DoorCSR, Title: "CSR", State: doors.Present, Items: []doors.DoorItem{
			{ID: "x", Title: "CertificateSigningRequest x was signed", Risk: inventory.Medium, Until: &until,
				People: []string{"mallory@example.com", "bob"}}}}, nil)
		first := w.start(t)
		item := titled(t, w, first, "CertificateSigningRequest x")
		if item.Object != "" || !slices.ContainsFunc(item.Evidence, func(s string) bool {
			return strings.Contains(s, until.Format(time.RFC3339)+", when the certificate ends, no scan can tell")
		}) {
			t.Errorf("object %q, evidence %q, want no object and that nothing can tell", item.Object, item.Evidence)
		}
		if !slices.Equal(item.Not, []string{"bob", "mallory"}) {
			t.Errorf("whom it is for and who asked for it: %q cannot judge it, want both", item.Not)
		}
		w.say(t, first, "carol", campaign.VerdictRevoke, item.ID)
		w.scanned = plain()
		after, err := w.service.Prove(t.Context(), byKey("carol"), first.ID)
		if err != nil {
			t.Fatal(err)
		}
		if i, _ := after.Item(item.ID); !i.Proved.IsZero() {
			t.Error("a certificate is proved gone because its request is")
		}
	})
}

func TestProofLooksAtWhatCouldHaveBeenOverlooked(t *testing.T) {
	door := doors.Door{ID: doors.DoorStaticTokens, Title: "static token file", State: doors.Present,
		Items: []doors.DoorItem{{ID: "token:t.csv", Title: "tokens in the file t.csv", Risk: inventory.High}}}
	shut := doors.Door{ID: doors.DoorStaticTokens, Title: "static token file", State: doors.Absent}
	unseen := doors.Door{ID: doors.DoorStaticTokens, Title: "static token file", State: doors.CannotTell, Tellable: "give it"}
	flags := func(missing string) func(*inventory.Snapshot, *doors.Analysis) {
		return func(s *inventory.Snapshot, a *doors.Analysis) {
			s.Sources = []inventory.Source{{Name: inventory.SourcePods}}
			a.Programs = []inventory.Source{{Name: "command line of kube-apiserver", Missing: missing}}
		}
	}
	expected := door
	expected.Items = []doors.DoorItem{{ID: "token:t.csv", Title: "tokens in the file t.csv", Risk: inventory.High, Expected: true,
		Why: "somebody said so"}}
	for name, c := range map[string]struct {
		before, after func() (*inventory.Snapshot, *doors.Analysis, error)
		want          string // of the item; of the door as such the same
	}{
		"every API server was seen":     {scanning(door, flags("")), scanning(shut, flags("")), "gone"},
		"one was not seen":              {scanning(door, flags("")), scanning(unseen, flags("on 1 control-plane nodes")), "unknown"},
		"one was not seen before":       {scanning(door, flags("on 1 control-plane nodes")), scanning(shut, flags("")), "unknown"},
		"it is there":                   {scanning(door, flags("")), scanning(door, flags("")), "still"},
		"it is there, and not all seen": {scanning(door, flags("")), scanning(door, flags("on 1 control-plane nodes")), "still"},
		"it is there, and expected now": {scanning(door, flags("")), scanning(expected, flags("")), "still"},
	} {
		bubble(t, func(t *testing.T, w *world) {
			w.scanned = c.before
			first := w.start(t)
			item := titled(t, w, first, "tokens in the file t.csv")
			w.say(t, first, "carol", campaign.VerdictRevoke, item.ID)
			w.scanned = c.after
			after, err := w.service.Prove(t.Context(), byKey("carol"), first.ID)
			if err != nil {
				t.Fatal(err)
			}
			got := map[bool]string{true: "gone", false: "still"}
			i, _ := after.Item(item.ID)
			is := got[i.Gone]
			if i.Proved.IsZero() {
				is = "unknown"
			}
			if is != c.want {
				t.Errorf("%s: %s, want %s", name, is, c.want)
			}
		})
	}
}

func TestAccountOfWhichSlackSaysNothingIsNotCalledActive(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		service, err := recert.New(recert.Config{Domain: w.Service, Campaigns: w.Campaigns, Ledger: w.Ledger, Signer: w.signer,
			Dir: filepath.Join(w.Dir, "recert"),
			Accounts: func(_ context.Context, all []record.SlackAccount) (map[record.SlackAccount]recert.AccountState, error) {
				out := map[record.SlackAccount]recert.AccountState{}
				for _, a := range all {
					if a.User != bgtest.SlackUser("bob") {
						out[a] = recert.AccountState{}
					}
				}
				return out, nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		w.service = service
		c := w.start(t)
		for user, want := range map[string]string{"U0BOB": "cannot tell whether it is active", "U0CAROL": "an active member"} {
			if i := titled(t, w, c, user); !strings.Contains(strings.Join(i.Evidence, "; "), want) {
				t.Errorf("%s: %q, want %q", user, i.Evidence, want)
			}
		}
	})
}

// Who did nothing for a quarter, and the keys by which nothing was done, are not confirmed together with the rest.
func TestWhatNobodyUsedForAQuarterIsDormant(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		first := w.start(t)
		w.keepAll(t, first)
		if i := titled(t, w, first, "Erin (erin) is in team security"); i.State != campaign.ItemNew || i.Dormant {
			t.Errorf("in the first campaign, which knows nothing of the quarter before, it is %s, dormant %t", i.State, i.Dormant)
		}
		time.Sleep(quarter)
		second := w.start(t)
		snap, err := w.service.Snapshot(second)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range snap.Items {
			person := i.Gives.Person
			switch {
			case i.Topic != recert.TopicEligibility, i.Way != nil:
				continue
			case person == "":
				person = i.Not[0]
			}
			// Reviewing counts as use: these answered the first campaign, all by their keys.
			want := !slices.Contains([]string{"carol", "dave", "erin"}, person) || i.Kind == "slack"
			if i.Dormant != want || want != (i.State == campaign.ItemDormant) {
				t.Errorf("%s of %s: dormant %t, state %s, want %t (%q)", i.ID, person, i.Dormant, i.State, want, i.Evidence)
			}
		}
		w.keepAll(t, second)
		time.Sleep(30 * 24 * time.Hour)
		for id, state := range states(w.start(t)) {
			if state == campaign.ItemDormant {
				t.Errorf("after a month %s is %s", id, state)
			}
		}
	})
}

func TestCanariesOfThePeriodAreAnItem(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		canary := func(nonce, problem string) {
			t.Helper()
			if err := w.Service.OrderCanary(t.Context(), nonce, breakglass.CanaryOrdered{Cluster: "c1", CommonName: policy.CanaryPrefix +
				"c1:" + nonce}); err != nil {
				t.Fatal(err)
			}
			if err := w.Service.FinishCanary(t.Context(), nonce, breakglass.CanaryDone{Problem: problem, Accepted: []string{"https://a"},
				Refused: []string{}}); err != nil {
				t.Fatal(err)
			}
		}
		canary("old", "sealed")
		time.Sleep(time.Second)
		first := w.start(t)
		if i := titled(t, w, first, "canaries on c1: 1, of which 1 did not"); i.Risk != inventory.High {
			t.Errorf("a canary that failed has risk %s", i.Risk)
		}
		w.keepAll(t, first)
		time.Sleep(time.Hour)
		canary("new", "")
		if i := titled(t, w, w.start(t), "canaries on c1: 1, of which 0 did not"); i.Risk != inventory.Low {
			t.Errorf("a canary that got through has risk %s", i.Risk)
		}
	})
}

// A closing note that nobody writes is asked for again, however long ago the grant was.
func TestGrantWithoutItsClosingNoteComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const day = 24 * time.Hour
		s := bgtest.New(t, bgtest.Options{Policy: bgtest.Policy() + reviewers + "closing: {within: 24h}\n",
			Config: func(c *bgtest.Config) { c.ReconcileBindingsEvery, c.HeartbeatEvery, c.Reconcile = day, day, day }})
		w := &world{System: s, signer: s.Signer()}
		var err error
		if w.service, err = recert.New(recert.Config{Domain: s.Service, Campaigns: s.Campaigns, Ledger: s.Ledger, Signer: w.signer,
			Dir: filepath.Join(s.Dir, "recert")}); err != nil {
			t.Fatal(err)
		}
		w.use(t, "alice")
		for n := range 2 {
			time.Sleep(80 * day)
			synctest.Wait()
			c := w.start(t)
			if i := titled(t, w, c, "used admin"); !strings.Contains(strings.Join(i.Evidence, "; "), "the closing note is overdue") {
				t.Errorf("campaign %d: %q", n+1, i.Evidence)
			}
			w.keepAll(t, c)
		}
		w.Check()
	})
}

func TestProfilesWhoseRoleIsAsGoodAsClusterAdminNeedTwoPeople(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.scanned = func() (*inventory.Snapshot, *doors.Analysis, error) {
			s, a, err := plain()()
			a.AdminRoles = []inventory.Ref{{Kind: "Role", Namespace: "kube-system", Name: "fixer"}}
			return s, a, err
		}
		if i := titled(t, w, w.start(t), "may approve scoped"); !i.Admin {
			t.Errorf("%s: the scan says what the role is worth, and one person is enough", i.Title)
		}
	})
}

func TestWhatAChecksLastRunFoundIsInItsItem(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		if err := w.Service.Findings.RecordCheck(t.Context(), finding.CheckRun{Check: "ca", Cluster: "c1", OK: true, Verdict: "active",
			Findings: []string{"ca/c1/etcd", "ca/c1/expiry"}}); err != nil {
			t.Fatal(err)
		}
		if err := w.Service.Findings.Find(t.Context(), finding.Opened{Key: "ca/c1/expiry", Check: "ca", Cluster: "c1",
			Severity: finding.Warning, What: "the CA ends in ten days", Next: "breakglass ca plan"}); err != nil {
			t.Fatal(err)
		}
		i := titled(t, w, w.start(t), "check ca on c1")
		if !slices.Equal(i.Grants, []string{"ca/c1/etcd", "ca/c1/expiry"}) || !strings.Contains(strings.Join(i.Evidence, "; "),
			"the CA ends in ten days; next: breakglass ca plan") {
			t.Errorf("grants %q, evidence %q", i.Grants, i.Evidence)
		}
	})
}
