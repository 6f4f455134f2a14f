package text_test

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/recert"
	"github.com/breakglassd/breakglass/internal/residue"
	"github.com/breakglassd/breakglass/internal/rotation"
	"github.com/breakglassd/breakglass/internal/session"
	"github.com/breakglassd/breakglass/internal/text"
	"github.com/breakglassd/breakglass/internal/text/texttest"
	"github.com/breakglassd/breakglass/internal/webhook"
)

// Every place that shows words of another party is a row. What is not exported has its row in its own package's tests, with the same
// text: slackbot, vaultca, cluster, and the screens of the command line. The files of a recertification's bundle are frozen byte for
// byte, and show what was cleaned when it was collected: the findings below.
func TestNoPlaceShowsAForeignTextAsItCame(t *testing.T) {
	now := time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)
	nasty := texttest.Nasty
	written := func(f func(io.Writer) error) string {
		var b bytes.Buffer
		if err := f(&b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	var report rotation.Report
	var plan, refused rotation.Plan
	texttest.Fill(&report)
	texttest.Fill(&plan)
	plan.Refused, refused.Refused, refused.Cluster = "", nasty, nasty
	var campaign, later recert.Report
	texttest.Fill(&campaign)
	texttest.Fill(&later)
	campaign.Items[0].Topic, later.Items[0].ID = recert.Topics()[0], "other"+nasty
	diff := recert.Compare(&campaign, &later)
	grant := session.Grant{Request: nasty, Cluster: nasty, User: nasty, Fingerprint: "ab", From: now, Until: now.Add(time.Hour)}
	var events []session.Event
	for i, verb := range []string{"create", nasty} {
		var e session.Event
		texttest.Fill(&e)
		e.AuditID, e.Verb, e.Fingerprint, e.Stage, e.Received, e.At = string(rune('a'+i)), verb, "ab", "ResponseComplete", now, now
		e.Request = nil
		events = append(events, e)
	}
	built := session.Build(events, grant)
	texttest.Fill(&built.Gaps)
	residue := residue.Judge(residue.Evidence{Acts: []residue.Act{{Verb: "create", Code: 201, At: now,
		Resource: "roles", Group: "rbac.authorization.k8s.io", Namespace: nasty, Name: nasty}}})
	rules, defaults, err := inventory.Shipped()
	if err != nil {
		t.Fatal(err)
	}
	seen := &inventory.Snapshot{}
	texttest.Fill(seen)
	seen.At, seen.ClusterBindings[0].RoleKind, seen.ClusterBindings[0].RoleName = now, "ClusterRole", nasty
	seen.ClusterBindings[0].Subjects[0].Kind = inventory.User
	seen.ClusterRoles[0].Rules[0] = inventory.PolicyRule{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}}
	seen.Sources = nil
	for _, name := range []string{inventory.SourceClusterRoles, inventory.SourceRoles, inventory.SourceClusterBindings,
		inventory.SourceBindings,
		inventory.SourceCSRs, inventory.SourceNodes, inventory.SourceTokenSecrets, inventory.SourceAccounts, inventory.SourceAuthentication,
		inventory.SourceMutating, inventory.SourceAPIServices, inventory.SourceAWSAuth, inventory.SourceBootstrap, inventory.SourceIssuer} {
		seen.Sources = append(seen.Sources, inventory.Source{Name: name, Count: 1})
	}
	analysis := doors.Analyse(seen, inventory.Options{Rules: rules, Defaults: defaults, Now: now})
	findings := ""
	for _, f := range analysis.Findings {
		findings += f.Title + "\n" + f.WhatNext() + "\n"
	}
	for _, d := range analysis.Doors {
		findings += d.Title + "\n" + strings.Join(d.Evidence, "\n")
		for _, i := range d.Items {
			findings += i.Title + "\n" + i.Text + "\n"
		}
	}
	denied := func(s webhook.Spec) string { return webhook.Decide(s, webhook.Facts{Cluster: "c"}, now).Reason }
	for _, place := range []struct{ where, shown string }{
		{"Clean", text.Clean(nasty)}, {"Line", text.Line(nasty, 100)}, {"Lines", text.Lines(nasty, "> ")}, {"Exact", text.Exact(nasty)},
		{"Evidence", text.Evidence(nasty, 30)}, {"Name", text.Name(nasty)}, {"Quote", text.Quote(nasty)},
		{"Command", text.Command("kubectl", []string{"--namespace=" + nasty}, nasty)}, {"Bare", text.Clean(text.Bare(nasty))},
		{"the webhook, of a user", denied(webhook.Spec{User: "breakglass:" + nasty})},
		{"the webhook, of a group", denied(webhook.Spec{User: "eve", Groups: []string{"breakglass:" + nasty}})},
		{"the CAs", written(func(w io.Writer) error { return report.Text(w, now, true) })},
		{"a rotation", written(plan.Text)}, {"a refused rotation", written(refused.Text)},
		{"a session", written(built.WriteText)}, {"a session's page", written(built.WriteHTML)},
		{"a session's summary", strings.Join(append(session.Summary(built).From, session.Summary(built).Gaps...), " ")},
		{"a residue", residue[0].Object + residue[0].What + residue[0].Undo},
		{"findings", findings},
		{"a recertification", written(campaign.Text)}, {"two recertifications", written(diff.Text)},
	} {
		texttest.Tame(t, place.where, place.shown)
	}
}
