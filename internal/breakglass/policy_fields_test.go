package breakglass_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/policy"
)

// whole is an access policy that says something in every field.
func whole() string {
	text := bgtest.Guarded()
	for _, r := range [][2]string{
		{"slack: [{team: T01, user: U0DAVE}]", "slack: [{enterprise: E01, team: T01, user: U0DAVE}], users: [dave@example.com]"},
		{"incident: {pattern: \"^INC-[0-9]+$\"}", "incident: {required: true, pattern: \"^INC-[0-9]+$\"}\n    guards: [exec]\n    " +
			"description: everything\n    claimWithin: 10m\n    pendingFor: 30m"},
		{"policy: {approvers: sre}", "policy: {approvers: sre, cooling: 24h}\nclosing: {within: 24h, raiseQuorum: true}\n" +
			"responders: [security]\nrecertification: {reviewers: [sre, security], adminReviewers: 3, deadline: 10d}"},
		{"clusters:\n  - {id: c1", "clusters:\n  - {id: c2, server: \"https://127.0.0.1:6444\"}\n  - {id: c1"},
		{"approvals: {count: 2, from: [sre, security], each: [security]}", "approvals: {count: 3, from: [sre, security], each: [security]}"},
	} {
		if strings.Count(text, r[0]) == 0 {
			panic(r[0])
		}
		text = strings.Replace(text, r[0], r[1], 1)
	}
	return text
}

// fields is what every field of a policy holds, by the field's path. Lists are taken apart.
func fields(p *policy.Policy) map[string][]string {
	out := map[string][]string{}
	var walk func(path string, t reflect.Type, values []reflect.Value)
	walk = func(path string, t reflect.Type, values []reflect.Value) {
		switch {
		case t.Kind() == reflect.Slice:
			var inside []reflect.Value
			for _, v := range values {
				for i := range v.Len() {
					inside = append(inside, v.Index(i))
				}
			}
			walk(path, t.Elem(), inside)
		case t.Kind() == reflect.Struct:
			for i := range t.NumField() {
				f := t.Field(i)
				at := strings.TrimPrefix(path+"."+f.Name, ".")
				if !f.IsExported() {
					out[at] = nil
					continue
				}
				var of []reflect.Value
				for _, v := range values {
					of = append(of, v.Field(i))
				}
				walk(at, f.Type, of)
			}
		default:
			out[path] = []string{}
			for _, v := range values {
				out[path] = append(out[path], fmt.Sprint(v.Interface()))
			}
			slices.Sort(out[path])
		}
	}
	walk("", reflect.TypeFor[policy.Policy](), []reflect.Value{reflect.ValueOf(*p)})
	return out
}

// noRule is the fields that a person does not write, or that no person sees, and why a change of them needs no rule.
var noRule = map[string]string{
	"Digest":              "it is of the text, and what the text says has its rules",
	"text":                "what it says has its rules",
	"find":                "made from the other fields",
	"suspended":           "made from the ledger",
	"cooling":             "made from the ledger",
	"People.Keys.Comment": "it is shown nowhere",
}

// Each field of the access policy has a rule for its changes: what waits for two people, and what is in force at once. A field that is
// added without one fails here: Restrict would keep its value, Diff would not see it, and one editor could change it.
func TestEveryFieldOfThePolicyHasARule(t *testing.T) {
	const waits, atOnce = true, false
	puppetLine, _ := puppet("bob")
	bobsKey := strings.TrimSpace(whole()[strings.Index(whole(), "{id: bob,"):])
	bobsKey = bobsKey[strings.Index(bobsKey, `keys: ["`)+len(`keys: ["`):]
	bobsKey = bobsKey[:strings.Index(bobsKey, `"`)]
	member := "  - {id: sre, members: [alice, bob, dave]}"
	const eves, some = "  - {id: eves, members: [mallory]}\n", "  - {id: some, members: [bob, dave]}\n"
	admin := "approvals: {count: 3, from: [sre, security], each: [security]}"
	scoped := "bind: {role: fixer, namespaces: [default, kube-system]}"
	last := whole()[strings.Index(whole(), "  - id: scoped"):strings.Index(whole(), "    risk: low")] + "    risk: low\n"
	covered := map[string]bool{}
	again := "    bind: {clusterRole: cluster-admin}\n    ttl: {default: 10m, max: 1h}\n    requesters: [sre]\n    " + admin
	for _, c := range []struct {
		path     string
		from, to string
		waits    bool
		team     string // that is new
	}{
		{"People.ID", "  - {id: erin,", "  - {id: eve, keys: [\"" + puppetLine + "\"]}\n  - {id: erin,", waits, ""},
		{"People.ID", whole()[strings.Index(whole(), "  - {id: mallory,"):strings.Index(whole(), "teams:\n")], "", atOnce, ""},
		{"People.Name", "name: Bob", "name: Carol", waits, ""},
		{"People.Slack.User", "user: U0BOB}", "user: U0EVE}", waits, ""},
		{"People.Slack.User", "slack: [{team: T01, user: U0BOB}], ", "", atOnce, ""},
		{"People.Slack.Team", "slack: [{team: T01, user: U0BOB}]", "slack: [{team: T02, user: U0BOB}]", waits, ""},
		{"People.Slack.Enterprise", "enterprise: E01, ", "", waits, ""},
		{"People.Slack.Enterprise", "enterprise: E01, ", "enterprise: E02, ", waits, ""},
		{"People.Slack.Enterprise", "{team: T01, user: U0BOB}", "{enterprise: E01, team: T01, user: U0BOB}", atOnce, ""},
		{"People.Keys.Fingerprint", bobsKey, puppetLine, waits, ""},
		{"People.Keys.Public", "\"" + bobsKey + "\"", "\"" + bobsKey + "\", \"" + puppetLine + "\"", waits, ""},
		{"People.Users", "users: [dave@example.com]", "users: [dave@example.com, eve]", waits, ""},
		{"People.Users", ", users: [dave@example.com]", "", waits, ""},
		{"People.Groups", "users: [dave@example.com]", "users: [dave@example.com], groups: [ops]", waits, ""},
		{"Teams.ID", member, member + "\n  - {id: eves, members: [mallory]}", waits, ""},
		{"Teams.Members", member, "  - {id: sre, members: [alice, bob, dave, mallory]}", waits, ""},
		{"Teams.Members", "members: [carol, erin]", "members: [erin]", atOnce, ""},
		{"Clusters.ID", "- {id: c2,", "- {id: c3,", waits, ""},
		{"Clusters.ID", "  - {id: c2, server: \"https://127.0.0.1:6444\"}\n", "", atOnce, ""},
		{"Clusters.Server", "https://127.0.0.1:6443", "https://127.0.0.1:7443", waits, ""},
		{"Profiles.ID", "  - id: scoped\n", "  - id: eves\n    clusters: [c1]\n" + again + "\n  - id: scoped\n", waits, ""},
		{"Profiles.ID", last, "", atOnce, ""},
		{"Profiles.Description", "description: everything", "description: read only", waits, ""},
		{"Profiles.Clusters", "clusters: [c1]", "clusters: [c1, c2]", waits, ""},
		{"Profiles.Rights.ClusterRole", "bind: {clusterRole: cluster-admin}", "bind: {clusterRole: view}", atOnce, ""},
		{"Profiles.Rights.ClusterRole", scoped, "bind: {clusterRole: cluster-admin}", waits, ""},
		{"Profiles.Rights.Role", "role: fixer", "role: breaker", waits, ""},
		{"Profiles.Rights.Group", "breakglass:cluster-admins", "breakglass:others", waits, ""},
		{"Profiles.Rights.Group", "bind: {clusterRole: cluster-admin}", "bind: {group: \"breakglass:others\"}", waits, ""},
		{"Profiles.Rights.Namespaces", "namespaces: [default, kube-system]", "namespaces: [default, kube-system, shop]", waits, ""},
		{"Profiles.Rights.Namespaces", "namespaces: [default, kube-system]", "namespaces: [default]", atOnce, ""},
		{"Profiles.TTL.Default", "default: 10m, max: 1h", "default: 20m, max: 1h", waits, ""},
		{"Profiles.TTL.Default", "default: 10m, max: 1h", "default: 5m, max: 1h", atOnce, ""},
		{"Profiles.TTL.Max", "default: 10m, max: 1h", "default: 10m, max: 2h", waits, ""},
		{"Profiles.TTL.Max", "default: 10m, max: 1h", "default: 10m, max: 10m", atOnce, ""},
		{"Profiles.Requesters", "requesters: [sre]", "requesters: [sre, security]", waits, ""},
		{"Profiles.Approvals.Count", admin, strings.Replace(admin, "3", "2", 1), waits, ""},
		{"Profiles.Approvals.Count", admin, strings.Replace(admin, "3", "4", 1), atOnce, ""},
		{"Profiles.Approvals.From", admin, strings.Replace(admin, "security],", "security, eves],", 1), waits, eves},
		{"Profiles.Approvals.From", admin, "approvals: {count: 3, from: [sre], each: [security]}", atOnce, ""},
		{"Profiles.Approvals.Each", admin, "approvals: {count: 3, from: [sre, security]}", waits, ""},
		{"Profiles.Approvals.Each", admin, strings.Replace(admin, "[security]}", "[security, sre]}", 1), atOnce, ""},
		{"Profiles.Approvals.Each", admin, strings.Replace(admin, "[security]}", "[security, eves]}", 1), waits, eves},
		{"Profiles.Approvals.Each", admin, strings.Replace(admin, "[security]}", "[security, some]}", 1), atOnce, some},
		{"Profiles.Approvals.Channels", admin, strings.Replace(admin, "]}", "], channels: [key]}", 1), atOnce, ""},
		{"Profiles.Approvals.Channels", "    risk: critical", "    risk: high", waits, ""},
		{"Profiles.ClaimWithin", "claimWithin: 10m", "claimWithin: 20m", waits, ""},
		{"Profiles.ClaimWithin", "claimWithin: 10m", "claimWithin: 5m", atOnce, ""},
		{"Profiles.PendingFor", "pendingFor: 30m", "pendingFor: 40m", waits, ""},
		{"Profiles.PendingFor", "pendingFor: 30m", "pendingFor: 20m", atOnce, ""},
		{"Profiles.ReasonMin", "reason: {min: 10}", "reason: {min: 1}", waits, ""},
		{"Profiles.ReasonMin", "reason: {min: 10}", "reason: {min: 20}", atOnce, ""},
		{"Profiles.Incident.Required", "required: true, ", "", waits, ""},
		{"Profiles.Incident.Pattern", ", pattern: \"^INC-[0-9]+$\"", "", waits, ""},
		{"Profiles.Incident.Pattern", "^INC-[0-9]+$", "^[A-Z]+$", waits, ""},
		{"Profiles.Incident.Pattern", "    risk: low", "    incident: {pattern: \"^INC$\"}\n    risk: low", atOnce, ""},
		{"Profiles.Risk", "    risk: critical", "    risk: low", waits, ""},
		{"Profiles.Risk", "    risk: high", "    risk: low", waits, ""},
		{"Profiles.Risk", "    risk: low", "    risk: critical", atOnce, ""},
		{"Profiles.Guards", "    guards: [exec]\n", "", waits, ""},
		{"Profiles.Guards", "    guards: [exec]\n", "    guards: [all]\n", atOnce, ""},
		{"Limits.OpenPerPerson", "openPerPerson: 3", "openPerPerson: 4", waits, ""},
		{"Limits.OpenPerPerson", "openPerPerson: 3", "openPerPerson: 1", atOnce, ""},
		{"Limits.PerHour", "perHour: 20", "perHour: 30", waits, ""},
		{"Limits.PerHour", "perHour: 20", "perHour: 10", atOnce, ""},
		{"Responders", "responders: [security]", "responders: [security, sre]", waits, ""},
		{"Responders", "responders: [security]", "", atOnce, ""},
		{"Closing.Within", "closing: {within: 24h,", "closing: {within: 48h,", waits, ""},
		{"Closing.Within", "closing: {within: 24h,", "closing: {within: 12h,", atOnce, ""},
		{"Closing.Within", "closing: {within: 24h, raiseQuorum: true}", "", waits, ""},
		{"Closing.RaiseQuorum", ", raiseQuorum: true", "", waits, ""},
		{"Campaign.Reviewers", "reviewers: [sre, security]", "reviewers: [sre, security, eves]", waits, eves},
		{"Campaign.Reviewers", "recertification: {reviewers: [sre, security], adminReviewers: 3, deadline: 10d}", "", waits, ""},
		{"Campaign.AdminReviewers", "adminReviewers: 3", "adminReviewers: 2", waits, ""},
		{"Campaign.AdminReviewers", "adminReviewers: 3", "adminReviewers: 4", atOnce, ""},
		{"Campaign.DeadlineDays", "deadline: 10d", "deadline: 12d", waits, ""},
		{"Campaign.DeadlineDays", "deadline: 10d", "deadline: 7d", atOnce, ""},
		{"Change.Approvers", "approvers: sre", "approvers: security", waits, ""},
		{"Change.Cooling", "cooling: 24h", "cooling: 1m", waits, ""},
		{"Change.Cooling", "cooling: 24h", "cooling: 48h", atOnce, ""},
		{"Change.ReviewedBy", "approvers: sre", "reviewedBy: me", waits, ""},
	} {
		t.Run(fmt.Sprintf("%s/%s", c.path, c.to), func(t *testing.T) {
			if !strings.Contains(whole(), c.from) {
				t.Fatalf("the policy has no %q", c.from)
			}
			text := strings.Replace(whole(), c.from, c.to, 1)
			text = strings.Replace(text, "teams:\n", "teams:\n"+c.team, 1)
			old, next := parsed(t, whole()), parsed(t, text)
			if was, is := fields(old)[c.path], fields(next)[c.path]; slices.Equal(was, is) {
				t.Fatalf("it does not change %s: %q", c.path, is)
			}
			if words := policy.Diff(old, next); len(words) == 0 {
				t.Error("nothing says so in words")
			}
			if eases := policy.Eases(old, next); (len(eases) > 0) != c.waits {
				t.Errorf("waits for two people: %q, want %t", eases, c.waits)
			}
			less, err := policy.Restrict(old, next).Render()
			if err != nil {
				return // then nothing is in force before two have signed
			}
			if eases := policy.Eases(old, less); len(eases) > 0 {
				t.Errorf("in force without two people: %q", eases)
			}
		})
		covered[c.path] = covered[c.path] || c.waits
	}
	for path := range fields(parsed(t, whole())) {
		if !covered[path] && noRule[path] == "" {
			t.Errorf("no row here has a change of %s that waits for two people: write its rule in Restrict and Diff, and rows", path)
		}
	}
}
