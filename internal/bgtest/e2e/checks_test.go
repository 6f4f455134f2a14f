package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/ledger/sqlstore"
	"github.com/breakglassd/breakglass/internal/real"
	"github.com/breakglassd/breakglass/internal/recert"
)

// reviewed configures everything that looks after the cluster: sessions, the checks of the CAs and recertification, which scans
// with the shipped credential.
func (d *daemon) reviewed() {
	d.t.Helper()
	manifest := "../../../policies/kubernetes/optional/recert.yaml"
	shared.admin(d.t, "apply", "-f", manifest)
	d.t.Cleanup(func() { shared.kubectlAdmin("delete", "-f", manifest, "--ignore-not-found") })
	token := strings.TrimSpace(shared.admin(d.t, "-n", "breakglass", "create", "token", "breakglass-recert", "--duration", "2h"))
	must(d.t, shared.kube.WriteKubeconfig(filepath.Join(d.dir, "recert.kubeconfig"), real.Credentials{Token: token}))
	d.configure("vault_max_ttl: 1h}", fmt.Sprintf("vault_max_ttl: 1h, scan_kubeconfig_file: recert.kubeconfig, api_servers: [%q]}\n"+
		"sessions: {path: sessions.db, grace: 1s}\nrecertification: {dir: recert}", shared.kube.URL))
	d.writePolicy(bgtest.Policy() + "recertification: {reviewers: [sre, security], adminReviewers: 2, deadline: 14d}\n")
}

// TestCAsAreCheckedAndAccessIsRecertifiedOnTheCommandLine goes through the rotation's and the reviewers' commands as people type
// them: what a check sees and prints, what is refused, a campaign from its start to evidence that verifies offline.
func TestCAsAreCheckedAndAccessIsRecertifiedOnTheCommandLine(t *testing.T) {
	d := newDaemon(t)
	d.reviewed()
	shared.admin(t, "create", "clusterrolebinding", "forgotten", "--clusterrole=cluster-admin", "--user=contractor")
	t.Cleanup(func() { shared.kubectlAdmin("delete", "clusterrolebinding", "forgotten", "--ignore-not-found") })
	d.start("")

	// The CA: trusted by the API server, proved by a canary whose fingerprint came back; whatever else it finds has a next step.
	out, stderr, code := d.try("carol", "ca", "check", "--all")
	if code != 0 && code != 8 {
		t.Fatalf("ca check: exit code %d\n%s%s", code, out, stderr)
	}
	for _, want := range []string{"c1  not-started", "breakglass-g1   active", strings.TrimPrefix(shared.kube.URL, "https://") + "  trusted"} {
		if !strings.Contains(out, want) {
			t.Errorf("ca check does not say %q:\n%s", want, out)
		}
	}
	var report api.CAReport
	out, _, _ = d.try("carol", "ca", "status", "-o", "json")
	must(t, json.Unmarshal([]byte(out), &report))
	if report.At.IsZero() || string(report.Phase) != "not-started" {
		t.Errorf("ca status: phase %q at %s, want not-started and when", report.Phase, report.At)
	}
	for _, f := range report.Verdicts {
		t.Logf("%s %s: %s → %s", f.Severity, f.Key, f.What, f.Next)
		if strings.Contains(f.Key, "canary") {
			t.Errorf("the canary failed on a cluster that is well: %s", f.What)
		}
	}
	if plan := d.cli("carol", "ca", "plan"); !strings.Contains(plan, "vault ") {
		t.Errorf("the plan has no command for Vault:\n%s", plan)
	}
	if out, stderr, code := d.try("carol", "ca", "plan", "--to", "retired"); code != 8 ||
		!strings.Contains(out+stderr, "prepared comes before retired") {
		t.Errorf("skipping phases: exit code %d, want 8 and which phase is next\n%s%s", code, out, stderr)
	}

	// A campaign. Who is not a reviewer reads nothing of it.
	started := d.cli("carol", "recert", "start", "--yes", "-o", "json")
	var campaign api.Campaign
	must(t, json.Unmarshal([]byte(started), &campaign))
	if campaign.Counts.Items < 20 || campaign.Counts.Open != campaign.Counts.Items || campaign.ForMe == 0 {
		t.Fatalf("got %+v, want the people, keys, rights and doors, all open", campaign)
	}
	t.Logf("the campaign has %d items, %d of them wait for carol", campaign.Counts.Items, campaign.ForMe)
	if out, _, code := d.try("mallory", "recert", "show"); code != 3 || strings.Contains(out, "contractor") {
		t.Errorf("mallory reads the campaign: exit code %d\n%s", code, out)
	}
	items := func(person string) []api.CampaignItem {
		var all api.CampaignItems
		must(t, json.Unmarshal([]byte(d.cli(person, "recert", "review", "-o", "json")), &all))
		return all.Items
	}
	find := func(person, part string) api.CampaignItem {
		t.Helper()
		all := items(person)
		i := slices.IndexFunc(all, func(i api.CampaignItem) bool { return strings.Contains(i.ID+" "+i.Title, part) })
		if i < 0 {
			t.Fatalf("nothing that waits for %s is about %s", person, part)
		}
		return all[i]
	}
	forgotten := find("carol", "contractor")
	out, stderr, code = d.try("carol", "recert", "decide", "revoke", "--item", forgotten.ID, "--reason", "the contract ended in May")
	if code != 0 || !strings.Contains(out+stderr, "kubectl delete clusterrolebinding forgotten") {
		t.Errorf("revoking an item: exit code %d, want the command that takes it away\n%s%s", code, out, stderr)
	}
	if _, stderr, code := d.try("carol", "recert", "decide", "keep", "--item", "person-that-is-not-there", "--reason", "because"); code == 0 {
		t.Errorf("an item that is not there is decided: %s", stderr)
	}
	// What is about carol herself waits for somebody else.
	for _, i := range items("carol") {
		if slices.Contains(i.Not, "carol") {
			t.Errorf("%s is about carol and waits for her", i.ID)
		}
	}
	own := items("bob")
	if i := slices.IndexFunc(own, func(i api.CampaignItem) bool { return slices.Contains(i.Not, "carol") }); i < 0 {
		t.Error("nothing about carol waits for bob")
	} else if _, stderr, code := d.try("carol", "recert", "decide", "keep", "--item", own[i].ID, "--reason", "it is only me"); code != 3 {
		t.Errorf("carol keeps what is about herself: exit code %d %s", code, stderr)
	}

	// The printed command takes it away, and the next scan proves it.
	command := exec.CommandContext(t.Context(), "sh", "-e", "-c", forgotten.TakeAway)
	command.Env = append(os.Environ(), "KUBECONFIG="+shared.kube.AdminKubeconfig(), "PATH="+shared.onPath(real.KubeCtl, "kubectl")+":"+
		os.Getenv("PATH"))
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", forgotten.TakeAway, err, out)
	}
	d.cli("carol", "recert", "prove")
	if shown := d.cli("carol", "recert", "show", campaign.ID, forgotten.ID); !strings.Contains(shown, "gone") {
		t.Errorf("the scan after it does not prove it gone:\n%s", shown)
	}

	// The report in every form, and the bundle, whose every byte counts.
	for _, form := range []string{"text", "md", "html", "csv", "json"} {
		if report := d.cli("carol", "recert", "report", "-o", form); !strings.Contains(report, "contractor") {
			t.Errorf("the report as %s does not name the contractor", form)
		}
	}
	bundle := filepath.Join(d.dir, "evidence.tar.gz")
	d.cli("carol", "recert", "export", bundle)
	if _, stderr, code := d.try("carol", "recert", "verify", bundle, "--key", d.vkey); code != 8 ||
		!strings.Contains(stderr, "is not closed") {
		t.Errorf("evidence of a campaign that goes on: exit code %d, want 8 and why %s", code, stderr)
	}
	d.cli("carol", "recert", "ack", "--item", forgotten.ID, "--note", "removed")
	for _, person := range []string{"carol", "bob", "erin", "dave"} {
		for _, i := range items(person) { // one by one: what is new cannot be confirmed together
			decide := []string{"recert", "decide", "keep", "--item", i.ID, "--reason", "needed for the test"}
			if _, stderr, code := d.try(person, decide...); code != 0 {
				if !strings.Contains(stderr, "too many requests") { // a script is faster than the API lets one person be
					t.Fatalf("%s: exit code %d %s", i.ID, code, stderr)
				}
				time.Sleep(2 * time.Second)
				d.cli(person, decide...)
			}
		}
	}
	if shown := d.cli("carol", "recert", "show"); !strings.Contains(shown, "closed") {
		t.Fatalf("everything is decided, and the campaign is not closed:\n%s", shown)
	}
	must(t, os.Remove(bundle))
	d.cli("carol", "recert", "export", bundle)
	d.kill() // offline means that nobody is there to ask
	if out := d.cli("carol", "recert", "verify", bundle, "--key", d.vkey); !strings.Contains(out, "✓") && !strings.Contains(out, "verif") {
		t.Errorf("verifying says %s", out)
	}
	if _, stderr, code := d.try("carol", "recert", "verify", bundle, "--key", otherLedgerKey(t)); code != 8 {
		t.Errorf("with another ledger's key: exit code %d, want 8 %s", code, stderr)
	}
	opened, err := recert.OpenBundle(bundle)
	must(t, err)
	dir := filepath.Join(d.dir, "evidence")
	for name, data := range opened {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
	}
	if _, stderr, code := d.try("carol", "recert", "verify", dir, "--key", d.vkey); code != 0 {
		t.Fatalf("the same bundle as a directory: exit code %d %s", code, stderr)
	}
	for name, data := range opened {
		data = slices.Clone(data)
		data[len(data)/2] ^= 1
		must(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
		if _, stderr, code := d.try("carol", "recert", "verify", dir, "--key", d.vkey); code != 8 {
			t.Errorf("with a bit of %s turned: exit code %d, want 8 %s", name, code, stderr)
		}
		must(t, os.WriteFile(filepath.Join(dir, name), opened[name], 0o644))
	}
	kinds := d.kinds()
	for _, ev := range []interface{ Kind() string }{finding.CheckRun{}, breakglass.CanaryOrdered{}, breakglass.CanaryDone{}} {
		if !slices.Contains(kinds, ev.Kind()) {
			t.Errorf("the ledger has no %s", ev.Kind())
		}
	}
	d.check()
}

// kinds are the kinds of the ledger's entries, read from the file.
func (d *daemon) kinds() []string {
	d.t.Helper()
	store, err := sqlstore.OpenReadOnly(d.t.Context(), filepath.Join(d.dir, "ledger.db"))
	must(d.t, err)
	defer store.Close()
	l, err := ledger.OpenReadOnly(d.t.Context(), store, d.verifier)
	must(d.t, err)
	var kinds []string
	for from := int64(0); from < l.Size(); {
		entries, err := l.Entries(d.t.Context(), from, 500)
		must(d.t, err)
		for _, e := range entries {
			kinds = append(kinds, e.Kind)
		}
		from += int64(len(entries))
	}
	return kinds
}
