package recert_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/csv"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/recert"
)

// large is the kit's people and so many more, in three teams that may do two profiles on so many clusters. Everybody has a key and
// an account.
func large(clusters, people int) (policy string, ids []string) {
	head, _, _ := strings.Cut(bgtest.Policy(), "teams:\n")
	var b strings.Builder
	b.WriteString(head)
	teams := [3][]string{{"alice", "bob", "dave"}, {"carol", "erin"}, {}}
	for n := range people - len(bgtest.People) {
		id := fmt.Sprintf("person-%03d", n)
		fmt.Fprintf(&b, "  - {id: %s, name: Person %d, slack: [{team: T01, user: U%07d}], keys: [%q]}\n", id, n, n, publicKey(n))
		teams[n%3] = append(teams[n%3], id)
	}
	b.WriteString("teams:\n")
	for n, id := range []string{"sre", "security", "oncall"} {
		fmt.Fprintf(&b, "  - {id: %s, members: [%s]}\n", id, strings.Join(teams[n], ", "))
	}
	b.WriteString("clusters:\n")
	for n := range clusters {
		ids = append(ids, fmt.Sprintf("c%d", n+1))
		fmt.Fprintf(&b, "  - {id: c%d, server: \"https://127.0.%d.1:6443\"}\n", n+1, n)
	}
	fmt.Fprintf(&b, "policy: {reviewedBy: the test}\nlimits: {openPerPerson: 3, perHour: 20}\nprofiles:\n")
	for _, id := range []string{"admin", "fix"} {
		fmt.Fprintf(&b, `  - id: %s
    clusters: [%s]
    bind: {clusterRole: cluster-admin}
    ttl: {default: 10m, max: 1h}
    requesters: [sre, oncall]
    approvals: {count: 2, from: [sre, security, oncall]}
    reason: {min: 10}
    risk: high
`, id, strings.Join(ids, ", "))
	}
	return b.String() + reviewers, ids
}

// publicKey is an SSH key, as it stands in an access policy.
func publicKey(n int) string {
	key, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(fmt.Appendf(nil, "%032d", n)).Public())
	if err != nil {
		panic(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// Forty clusters and three hundred people are what reviewers can read, and what they say is exact.
func TestLargeCampaignIsOneThatPeopleCanRead(t *testing.T) {
	const clusters, people, most = 40, 300, 1500
	synctest.Test(t, func(t *testing.T) {
		pol, ids := large(clusters, people)
		const week = 7 * 24 * time.Hour
		s := bgtest.New(t, bgtest.Options{Policy: pol, Config: func(c *bgtest.Config) {
			c.ReconcileBindingsEvery, c.HeartbeatEvery, c.Reconcile = week, week, week
		}})
		service, err := recert.New(recert.Config{Domain: s.Service, Campaigns: s.Campaigns, Ledger: s.Ledger, Signer: s.Signer(),
			Dir:      filepath.Join(s.Dir, "recert"),
			Clusters: ids, Scan: func(_ context.Context, id string) (*inventory.Snapshot, *doors.Analysis, error) {
				in, judged, err := plain()()
				in.Cluster, judged.Cluster = id, id
				if id == "c7" { // here the forgotten account may do more
					judged.Powers[1].Rights = append(judged.Powers[1].Rights, "pods-create")
				}
				return in, judged, err
			}})
		if err != nil {
			t.Fatal(err)
		}
		w := &world{System: s, service: service, signer: s.Signer()}
		c := w.start(t)
		t.Logf("%d clusters and %d people give %d items", clusters, people, len(c.Items))
		if len(c.Items) > most {
			t.Errorf("%d items, at most %d", len(c.Items), most)
		}
		covered := map[policy.Eligibility]bool{}
		for _, i := range c.Items {
			for _, e := range i.Covers {
				covered[e] = true
			}
		}
		all := s.Service.Policy().EveryEligibility()
		if len(covered) != len(all) || slices.ContainsFunc(all, func(e policy.Eligibility) bool { return !covered[e] }) {
			t.Errorf("the items cover %d of %d", len(covered), len(all))
		}

		// The same forgotten account in 39 clusters is one item, and where it may do more it is another.
		snap, err := service.Snapshot(c)
		if err != nil {
			t.Fatal(err)
		}
		var accounts []recert.Item
		for _, i := range snap.Items {
			if strings.Contains(i.Title, "ci/gone") {
				accounts = append(accounts, i)
			}
		}
		if len(accounts) != 2 {
			t.Fatalf("the forgotten account is %d items", len(accounts))
		}
		group := accounts[slices.IndexFunc(accounts, func(i recert.Item) bool { return len(i.Places) > 0 })]
		if len(group.Places) != clusters-1 || slices.ContainsFunc(group.Places, func(p recert.Place) bool { return p.Cluster == "c7" }) {
			t.Errorf("it is about %d clusters: %v", len(group.Places), group.Places)
		}

		// One word suspends what a team may do, on all clusters at once and no further than the floor; all tables say so.
		const way = "way/oncall/admin/approver"
		c = w.say(t, c, "carol", campaign.VerdictRevoke, way)
		i, _ := c.Item(way)
		if len(i.Taken) != len(i.Covers) || len(i.Covers) != clusters*98 {
			t.Errorf("%d of %d are suspended", len(i.Taken), len(i.Covers))
		}
		c = w.say(t, c, "carol", campaign.VerdictRevoke, group.ID)
		r, err := service.Report(t.Context(), byKey("carol"), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		var table bytes.Buffer
		if err := r.ItemsCSV(&table); err != nil {
			t.Fatal(err)
		}
		rows, err := csv.NewReader(&table).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		cell := func(id, column string) string {
			at := slices.IndexFunc(rows, func(row []string) bool { return row[0] == id })
			return rows[at][slices.Index(rows[0], column)]
		}
		if n := strings.Count(cell(way, "covers"), "person-"); n != 98 || cell(way, "suspended_of_it") != cell(way, "covers") {
			t.Errorf("the table says that %d people are covered, and suspended: %.200s", n, cell(way, "suspended_of_it"))
		}
		if got := cell(group.ID, "cluster"); len(strings.Fields(got)) != clusters-1 {
			t.Errorf("the table says it is about %q", got)
		}

		// The deadline suspends what no reviewer confirmed, and the bundle follows from the ledger.
		time.Sleep(15 * 24 * time.Hour)
		synctest.Wait()
		b, err := service.Export(t.Context(), byKey("carol"), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		v := recert.Verify(b, w.Verifier)
		if len(v.Problems)+len(v.Unchecked)+len(v.Earlier) > 0 || !v.Closed || !v.Counts.AddUp() || v.Counts.Suspended == 0 {
			t.Errorf("%+v", v)
		}
		for _, id := range []string{"c1", "c40"} {
			left := 0
			for _, who := range slices.Compact(slices.Sorted(slices.Values(peopleOf(all)))) {
				if !s.Service.Policy().Suspended(policy.Eligibility{Person: who, Part: policy.PartApprover, Profile: "fix", Cluster: id}) {
					left++
				}
			}
			if left < 3 {
				t.Errorf("%d approvers are left on %s", left, id)
			}
		}
		s.Check()
	})
}

func peopleOf(all []policy.Eligibility) (out []string) {
	for _, e := range all {
		if e.Part == policy.PartApprover && e.Profile == "fix" {
			out = append(out, e.Person)
		}
	}
	return out
}

// A thing in several clusters is proved gone when it is gone from all of them.
func TestGroupIsGoneWhenItIsGoneEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy, ids := large(3, 9)
		const week = 7 * 24 * time.Hour
		s := bgtest.New(t, bgtest.Options{Policy: policy, Config: func(c *bgtest.Config) {
			c.ReconcileBindingsEvery, c.HeartbeatEvery, c.Reconcile = week, week, week
		}})
		gone := map[string]bool{}
		service, err := recert.New(recert.Config{Domain: s.Service, Campaigns: s.Campaigns, Ledger: s.Ledger, Signer: s.Signer(),
			Dir:      filepath.Join(s.Dir, "recert"),
			Clusters: ids, Scan: func(_ context.Context, id string) (*inventory.Snapshot, *doors.Analysis, error) {
				in, judged, err := plain()()
				in.Cluster, judged.Cluster = id, id
				if gone[id] {
					judged.Powers = judged.Powers[:1]
				}
				return in, judged, err
			}})
		if err != nil {
			t.Fatal(err)
		}
		w := &world{System: s, service: service, signer: s.Signer()}
		c := w.start(t)
		group := titled(t, w, c, "ci/gone")
		if len(group.Places) != 3 || group.Object == "" {
			t.Fatalf("%+v", group)
		}
		c = w.say(t, c, "carol", campaign.VerdictRevoke, group.ID)
		for n, id := range ids {
			gone[id] = true
			c, err = service.Prove(t.Context(), byKey("carol"), c.ID)
			if err != nil {
				t.Fatal(err)
			}
			if i, _ := c.Item(group.ID); i.Gone != (n == 2) || i.Proved.IsZero() {
				t.Errorf("gone from %d of 3: %v at %v", n+1, i.Gone, i.Proved)
			}
		}
		s.Check()
	})
}
