package cluster_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/bgtest/realtest"
	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/cluster/survey"
	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/recert"
)

// TestCampaignRevokesWhatAClusterHasAndTheNextScanProvesIt reviews a real cluster: a reviewer revokes two things, somebody runs
// the command of one of them, and the next look tells which is gone. Nobody reviews what is about themselves.
func TestCampaignRevokesWhatAClusterHasAndTheNextScanProvesIt(t *testing.T) {
	a := realtest.NewCluster(t, aggregator(t))
	kubeadm(t, a)
	apply(t, a, binds("bobs-own", "", "cluster-admin", "user bob@example.com")...)
	apply(t, a, binds("forgotten", "", "cluster-admin", "user contractor")...)
	s := bgtest.New(t, bgtest.Options{Policy: bgtest.Policy() +
		"recertification: {reviewers: [sre, security], adminReviewers: 2, deadline: 14d}\n"})
	campaigns, err := recert.New(recert.Config{Domain: s.Service, Campaigns: s.Campaigns, Ledger: s.Ledger, Signer: s.Signer(),
		Dir:      filepath.Join(s.Dir, "recert"),
		Clusters: []string{"prod"},
		Scan: func(context.Context, string) (*inventory.Snapshot, *doors.Analysis, error) {
			snap, judged := scan(t, a, survey.Options{})
			return snap, judged, nil
		}})
	must(t, err)
	c, err := campaigns.Start(t.Context(), nil, time.Time{})
	must(t, err)
	snap, err := campaigns.Snapshot(c)
	must(t, err)
	about := func(name string) recert.Item {
		t.Helper()
		i := slices.IndexFunc(snap.Items, func(i recert.Item) bool { return i.Topic == recert.TopicPower && strings.Contains(i.Title, name) })
		if i < 0 {
			t.Fatalf("no item is about %s", name)
		}
		return snap.Items[i]
	}
	revoke := func(who string, i recert.Item) error {
		_, err := s.Campaigns.Decide(t.Context(), bgtest.ByKey(who), c.ID, campaign.Answer{Verdict: campaign.VerdictRevoke,
			Reason: "nobody needs it all the time",
			Items:  []campaign.Judged{{ID: i.ID, Digest: i.Digest()}}})
		return err
	}
	bob, contractor := about("bob@example.com"), about("contractor")
	if err := revoke("bob", bob); err == nil {
		t.Error("bob judged what is about himself")
	}
	must(t, revoke("carol", bob))
	must(t, revoke("carol", contractor))

	run := exec.CommandContext(t.Context(), "sh", "-e", "-c", contractor.TakeAway)
	run.Env = []string{"KUBECONFIG=" + a.AdminKubeconfig(), "PATH=" + kubectlDir(t) + ":" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	if out, err := run.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", contractor.TakeAway, err, out)
	}
	c, err = campaigns.Prove(t.Context(), bgtest.ByKey("carol"), c.ID)
	must(t, err)
	for name, want := range map[string]bool{contractor.ID: true, bob.ID: false} {
		if i, _ := c.Item(name); i.Gone != want || i.Proved.IsZero() {
			t.Errorf("%s: proved %v, gone %v, want %v", name, i.Proved, i.Gone, want)
		}
	}
	s.Check()
}
