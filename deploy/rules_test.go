package deploy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/breakglassd/breakglass/internal/real"
)

// alertCase is one series, or several, and what an alert says of it. Steps are minutes, or hours where at is in hours, in promtool's
// notation: "0x10" is eleven zeros.
type alertCase struct {
	alert  string
	series map[string]string
	at     string
	fires  []string // the labels of each alert that fires beside severity, as name=value separated by commas; nil: none fires
}

func one(series, values string) map[string]string { return map[string]string{series: values} }

// alertCases has at least one series that fires and one that must not for each alert of prometheus/*.yaml.
var alertCases = []alertCase{
	{"BreakglassDown", one(`up{job="breakglassd"}`, "0x10"), "6m", []string{""}},
	{"BreakglassDown", one(`breakglass_build_info{version="v1"}`, "1x10"), "6m", nil},
	{"BreakglassCannotIssue", one(`breakglass_vault_up{cluster="c1"}`, "0x10"), "6m", []string{"cluster=c1"}},
	{"BreakglassCannotIssue", one(`breakglass_vault_up{cluster="c1"}`, "0 0 1 0x10"), "6m", nil}, // up a moment ago
	{"BreakglassClusterUnreachable", one(`breakglass_cluster_up{cluster="c1"}`, "0x20"), "11m", []string{"cluster=c1"}},
	{"BreakglassClusterUnreachable", one(`breakglass_cluster_up{cluster="c1"}`, "0x5 1x20"), "11m", nil},
	{"BreakglassClusterCredentialEnds", one(`breakglass_cluster_credential_ends_soon{cluster="c1"}`, "1x100"), "61m", []string{"cluster=c1"}},
	{"BreakglassClusterCredentialEnds", one(`breakglass_cluster_credential_ends_soon{cluster="c1"}`, "1x5 0x100"), "61m", nil}, // renewed
	{"BreakglassSlackDown", one(`breakglass_slack_up`, "0x10"), "6m", []string{""}},
	{"BreakglassSlackDown", one(`breakglass_slack_up`, "1x3 0x2 1x10"), "6m", nil},
	{"BreakglassSlackRefusesMessages", one(`breakglass_slack_calls_total{what="chat.postMessage",outcome="blocked"}`, "0 1x10"), "8m",
		[]string{"what=chat.postMessage,outcome=blocked"}},
	{"BreakglassSlackRefusesMessages", one(`breakglass_slack_calls_total{what="chat.postMessage",outcome="ok"}`, "0+5x10"), "8m", nil},
	{"BreakglassSlackRefusesMessages", one(`breakglass_slack_calls_total{what="users.info",outcome="permanent"}`, "0+5x10"), "8m", nil},
	{"BreakglassLedgerDoesNotVerify", one(`breakglass_ledger_verify_ok`, "1 0x5"), "3m", []string{""}},
	{"BreakglassLedgerDoesNotVerify", one(`breakglass_ledger_verify_ok`, "1x5"), "3m", nil},
	{"BreakglassCriticalFinding", one(`breakglass_findings_open{severity="critical"}`, "0 2x5"), "3m", []string{""}},
	{"BreakglassCriticalFinding", one(`breakglass_findings_open{severity="warning"}`, "7x5"), "3m", nil},
	{"BreakglassAuditSilent", one(`breakglass_audit_alive{cluster="c1",server="a"}`, "1 0x10"), "4m", []string{"cluster=c1,server=a"}},
	{"BreakglassAuditSilent", one(`breakglass_audit_alive{cluster="c1",server="a"}`, "1 0 1x10"), "4m", nil},
	{"BreakglassAuditNotKept", one(`breakglass_audit_events_total{outcome="dropped"}`, "0 3x10"), "5m", []string{"outcome=dropped"}},
	{"BreakglassAuditNotKept", one(`breakglass_audit_events_total{outcome="kept"}`, "0+9x10"), "5m", nil},
	{"BreakglassAuditBatchesFail", one(`breakglass_webhook_request_duration_seconds_count{cluster="c1",what="audit",outcome="failed"}`,
		"0+2x20"),
		"12m", []string{"cluster=c1,outcome=failed"}},
	{"BreakglassAuditBatchesFail", one(`breakglass_webhook_request_duration_seconds_count{cluster="c1",what="audit",outcome="taken"}`,
		"0+2x20"),
		"12m", nil},
	{"BreakglassRevocationSlow", map[string]string{
		`breakglass_revocation_seconds_bucket{cluster="c1",le="60"}`:   "0 0x10",
		`breakglass_revocation_seconds_bucket{cluster="c1",le="300"}`:  "0 5x10",
		`breakglass_revocation_seconds_bucket{cluster="c1",le="+Inf"}`: "0 5x10"}, "8m", []string{"cluster=c1"}},
	{"BreakglassRevocationSlow", map[string]string{
		`breakglass_revocation_seconds_bucket{cluster="c1",le="60"}`:   "0 5x10",
		`breakglass_revocation_seconds_bucket{cluster="c1",le="300"}`:  "0 5x10",
		`breakglass_revocation_seconds_bucket{cluster="c1",le="+Inf"}`: "0 5x10"}, "8m", nil},
	{"BreakglassLeftBehind", one(`breakglass_unacknowledged`, "1x30"), "26h", []string{""}},
	{"BreakglassLeftBehind", one(`breakglass_unacknowledged`, "1x12 0 1x20"), "26h", nil},
	{"BreakglassPolicyNotInForce", one(`breakglass_policy_reload_success`, "1 0x5"), "3m", []string{""}},
	{"BreakglassPolicyNotInForce", one(`breakglass_policy_reload_success`, "0 1x5"), "3m", nil},
	{"BreakglassPolicyWaits", one(`breakglass_policy_waiting_seconds`, "86300+60x10"), "8m", []string{""}},
	{"BreakglassPolicyWaits", one(`breakglass_policy_waiting_seconds`, "3600+60x3 0x10"), "8m", nil},
	{"BreakglassLedgerStalled", one(`breakglass_ledger_checkpoint_age_seconds`, "1900x5"), "3m", []string{""}},
	{"BreakglassLedgerStalled", one(`breakglass_ledger_checkpoint_age_seconds`, "700x5"), "3m", nil},
	{"BreakglassReconcileBlind", one(`breakglass_reconcile_last_success_seconds{cluster="c1"}`, "0x100"), "80m", []string{"cluster=c1"}},
	{"BreakglassReconcileBlind", one(`breakglass_reconcile_last_success_seconds{cluster="c1"}`, "0+60x100"), "80m", nil},
	{"BreakglassUnknownCertificates", one(`breakglass_reconcile_unknown_certificates{cluster="c1"}`, "0 3x5"), "3m", []string{"cluster=c1"}},
	{"BreakglassUnknownCertificates", one(`breakglass_reconcile_unknown_certificates{cluster="c1"}`, "0x5"), "3m", nil},
	{"BreakglassCannotTakeRequests", one(`breakglass_can_take_requests`, "1 0x10"), "4m", []string{""}},
	{"BreakglassCannotTakeRequests", one(`breakglass_can_take_requests`, "0 1x10"), "4m", nil},
	{"BreakglassRefusalFlood", one(`breakglass_refusals_together_total`, "0+60x20"), "12m", []string{""}},
	{"BreakglassRefusalFlood", one(`breakglass_refusals_together_total`, "0+5x20"), "12m", nil},
	{"BreakglassDiskAlmostFull", one(`breakglass_ledger_free_bytes`, "1e9x5"), "3m", []string{""}},
	{"BreakglassDiskAlmostFull", one(`breakglass_sessions_free_bytes`, "1e9x5"), "3m", []string{""}},
	{"BreakglassDiskAlmostFull", map[string]string{`breakglass_ledger_free_bytes`: "2e9x5",
		`breakglass_sessions_free_bytes`: "2e9x5"}, "3m", nil},
	{"BreakglassLedgerAheadOfClock", one(`breakglass_ledger_checkpoint_age_seconds`, "-100x5"), "3m", []string{""}},
	{"BreakglassLedgerAheadOfClock", one(`breakglass_ledger_checkpoint_age_seconds`, "30x5"), "3m", nil},
	{"BreakglassScheduleFails", one(`breakglass_schedule_ok{job="recertification"}`, "1 0x10"), "3m", []string{"job=recertification"}},
	{"BreakglassScheduleFails", one(`breakglass_schedule_ok{job="recertification"}`, "0 1x10"), "3m", nil},
	{"BreakglassCanaryFailed", one(`breakglass_canary_ok{cluster="c1",server="a",issuer="g1"}`, "0x20"), "11m",
		[]string{"cluster=c1,server=a,issuer=g1"}},
	{"BreakglassCanaryFailed", one(`breakglass_canary_ok{cluster="c1",server="a",issuer="g1"}`, "0x5 1 0x9 1x9"), "16m", nil},
	{"BreakglassCACheckMissed", one(`breakglass_ca_check_last_success_seconds{cluster="c1"}`, "0x200"), "190m", []string{"cluster=c1"}},
	{"BreakglassCACheckMissed", one(`breakglass_ca_check_last_success_seconds{cluster="c1"}`, "0x60 3600x200"), "190m", nil},
	{"BreakglassCACheckNeverSucceeded", one(`breakglass_ca_check_ok{cluster="c1"}`, "0x200"), "181m", []string{"cluster=c1"}},
	{"BreakglassCACheckNeverSucceeded", map[string]string{`breakglass_ca_check_ok{cluster="c1"}`: "0x200",
		`breakglass_ca_check_last_success_seconds{cluster="c1"}`: "_x100 6000x100"}, "181m", nil},
	{"BreakglassCACheckGone", one(`up{job="breakglassd"}`, "1x40"), "31m", []string{""}},
	{"BreakglassCACheckGone", one(`breakglass_ca_check_ok{cluster="c1"}`, "_x20 1x20"), "31m", nil},
	{"BreakglassCACritical", one(`breakglass_ca_findings{cluster="c1",severity="critical"}`, "1x20"), "16m", []string{"cluster=c1"}},
	{"BreakglassCACritical", one(`breakglass_ca_findings{cluster="c1",severity="critical"}`, "1x10 0x10"), "16m", nil},
	{"BreakglassCAWarning", one(`breakglass_ca_findings{cluster="c1",severity="warning"}`, "2x400"), "361m", []string{"cluster=c1"}},
	{"BreakglassCAWarning", one(`breakglass_ca_findings{cluster="c1",severity="warning"}`, "2x100 0x300"), "361m", nil},
	{"BreakglassCAEndsIn30Days",
		map[string]string{`breakglass_ca_not_after_seconds{cluster="c1",ca="break-glass",generation="g1"}`: "2000000x100",
			`breakglass_canary_ok{cluster="c1",server="a",issuer="g1"}`: "1x100"}, "61m", []string{"cluster=c1,ca=break-glass,generation=g1"}},
	{"BreakglassCAEndsIn30Days", one(`breakglass_ca_not_after_seconds{cluster="c1",ca="break-glass",generation="g0"}`, "2000000x100"), "61m",
		nil},
	{"BreakglassCAEndsIn7Days",
		map[string]string{`breakglass_ca_not_after_seconds{cluster="c1",ca="break-glass",generation="g1"}`: "500000x100",
			`breakglass_canary_ok{cluster="c1",server="a",issuer="g1"}`: "1x100"}, "61m", []string{"cluster=c1,ca=break-glass,generation=g1"}},
	{"BreakglassCAEndsIn7Days",
		map[string]string{`breakglass_ca_not_after_seconds{cluster="c1",ca="break-glass",generation="g1"}`: "2000000x100",
			`breakglass_canary_ok{cluster="c1",server="a",issuer="g1"}`: "1x100"}, "61m", nil},
	{"BreakglassClusterCertificateEnds", one(`breakglass_ca_not_after_seconds{cluster="c1",ca="serving",generation="x"}`, "500000x400"),
		"361m",
		[]string{"cluster=c1,ca=serving,generation=x"}},
	{"BreakglassClusterCertificateEnds", one(`breakglass_ca_not_after_seconds{cluster="c1",ca="serving",generation="x"}`, "5000000x400"),
		"361m", nil},
	{"BreakglassRotationWentWrong", one(`breakglass_ca_phase{cluster="c1",phase="switched-too-early"}`, "1x5"), "2m",
		[]string{"cluster=c1,phase=switched-too-early"}},
	{"BreakglassRotationWentWrong", one(`breakglass_ca_phase{cluster="c1",phase="active"}`, "1x5"), "2m", nil},
	{"BreakglassRotationStuck", one(`breakglass_ca_phase{cluster="c1",phase="drained"}`, "1x180"), "170h",
		[]string{"cluster=c1,phase=drained"}},
	{"BreakglassRotationStuck", one(`breakglass_ca_phase{cluster="c1",phase="drained"}`, "1x80 0 1x100"), "170h", nil},
}

type alertRule struct {
	Alert, Expr, For    string
	Labels, Annotations map[string]string
}

func alertRules(t *testing.T) (rules []alertRule, files []string) {
	t.Helper()
	files, err := filepath.Glob("prometheus/*.rules.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no rules: %v", err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var doc struct{ Groups []struct{ Rules []alertRule } }
		if err := yaml.Unmarshal(text, &doc); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		for _, g := range doc.Groups {
			rules = append(rules, g.Rules...)
		}
	}
	return rules, files
}

// Prometheus' own promtool evaluates every alert over series that must fire it and over series that must not.
func TestAlertsFireWhenTheyMustAndNotOtherwise(t *testing.T) {
	promtool, err := real.Debian(t.Context(), t.Logf, "prometheus", "usr/bin/promtool")
	if err != nil {
		t.Fatal(err)
	}
	rules, files := alertRules(t)
	severity := map[string]string{}
	type rule = map[string]any
	var bare []rule // promtool compares annotations to the letter; they are prose
	for _, r := range rules {
		severity[r.Alert] = r.Labels["severity"]
		x := rule{"alert": r.Alert, "expr": r.Expr, "labels": r.Labels}
		if r.For != "" {
			x["for"] = r.For
		}
		bare = append(bare, x)
	}
	dir := t.TempDir()
	write := func(name string, v any) string {
		text, err := json.Marshal(v) // JSON is YAML
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tests := map[string][]any{} // by the length of a step
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, c := range alertCases {
		if severity[c.alert] == "" {
			t.Errorf("%s: there is no such alert, or it has no severity", c.alert)
		}
		var series, want []any
		for _, name := range slices.Sorted(maps.Keys(c.series)) {
			series = append(series, rule{"series": name, "values": c.series[name]})
		}
		for _, labels := range c.fires {
			l := map[string]string{"severity": severity[c.alert]}
			for pair := range strings.SplitSeq(labels, ",") {
				if name, value, ok := strings.Cut(pair, "="); ok {
					l[name] = value
				}
			}
			want = append(want, rule{"exp_labels": l})
		}
		(map[bool]map[string]bool{true: fires, false: silent})[len(want) > 0][c.alert] = true
		step := "1m"
		if strings.HasSuffix(c.at, "h") {
			step = "1h"
		}
		tests[step] = append(tests[step], rule{"interval": step, "input_series": series,
			"alert_rule_test": []any{rule{"eval_time": c.at, "alertname": c.alert, "exp_alerts": want}}})
	}
	for _, r := range rules {
		if !fires[r.Alert] || !silent[r.Alert] {
			t.Errorf("%s: there is a series that fires it: %v, and one that must not: %v; both are needed in alertCases", r.Alert, fires[r.Alert],
				silent[r.Alert])
		}
	}
	write("bare.yaml", rule{"groups": []any{rule{"name": "all", "rules": bare}}})
	run := []string{"test", "rules"}
	for step, list := range tests {
		run = append(run, write("cases-"+step+".yaml", rule{"rule_files": []string{"bare.yaml"}, "evaluation_interval": step, "tests": list}))
	}
	for _, args := range [][]string{append([]string{"check", "rules", "--lint-fatal"}, files...), run} {
		if out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", args[0], err, bytes.TrimSpace(out))
		}
	}
}

const runbook = "https://github.com/breakglassd/breakglass/blob/main/deploy/runbooks/alerts.md#"

// Every alert leads to its section of the runbook, which says what to look at and what to do.
func TestEveryAlertHasARunbookSection(t *testing.T) {
	text, err := os.ReadFile("runbooks/alerts.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^## (\w+)\n((?:[^#\n].*\n|\n)*)`).FindAllStringSubmatch(string(text), -1) {
		sections[m[1]] = m[2]
	}
	rules, _ := alertRules(t)
	for _, r := range rules {
		if want := runbook + strings.ToLower(r.Alert); r.Annotations["runbook_url"] != want {
			t.Errorf("%s: runbook_url is %q, want %q", r.Alert, r.Annotations["runbook_url"], want)
		}
		if !strings.Contains(sections[r.Alert], "Do: ") || !strings.Contains(sections[r.Alert], "Means: ") {
			t.Errorf("%s: deploy/runbooks/alerts.md has no section of its name that says what it means and what to do", r.Alert)
		}
		delete(sections, r.Alert)
	}
	for name := range sections {
		t.Errorf("deploy/runbooks/alerts.md has a section on %s, which is no alert", name)
	}
	if t.Failed() {
		t.Log(fmt.Sprint(len(rules), " alerts"))
	}
}
