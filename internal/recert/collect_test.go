package recert

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// The ledger must not be made to say more than it knows of how old a key is.
func TestAgeIsSaidOnlyWhereTheLedgerKnowsIt(t *testing.T) {
	at := func(years int) time.Time { return noon.AddDate(-years, 0, 0) }
	for name, c := range map[string]struct {
		history []policyVersion
		want    string
		since   bool
		old     bool
	}{
		"the first policy has it": {[]policyVersion{{at(3), nil}},
			"added at an unknown time: the access policy of 2023-11-24, which is in force, has it", false, true},
		"it was added by a reload": {[]policyVersion{{at(3), nil}, {at(2), []string{"person bob: key k added"}}, {at(0), nil}},
			"added to the access policy on 2024-11-24", true, true},
		"it came while the daemon was down": {[]policyVersion{{at(3), nil}, {at(0), []string{"team sre: carol added"}}},
			"added at an unknown time: the access policy of 2026-11-24", false, false},
		"it was added, removed and is back": {[]policyVersion{{at(3), []string{"person bob: key k added"}},
			{at(2), []string{"person bob: key k removed"}}, {at(0), nil}}, "added at an unknown time: the access policy of 2026-11-24", false,
			false},
		"another's key was added": {[]policyVersion{{at(3), nil}, {at(0),
			[]string{"person abob: key k added", "person bob: key kk added"}}}, "added at an unknown time", false, false},
	} {
		f := &facts{history: c.history, now: noon}
		words, since := f.sinceWords("person bob: key k")
		text := strings.Join(words, "; ")
		if !strings.HasPrefix(text, c.want) || (since != nil) != c.since || strings.Contains(text, "older than a year") != c.old {
			t.Errorf("%s: got %q, %v, want %q", name, text, since, c.want)
		}
	}
}

func TestUserNamesAreFoundInThePolicy(t *testing.T) {
	p := &policy.Policy{People: []policy.Person{{ID: "bob"}}}
	for user, want := range map[string]bool{"bob": true, "Bob@example.com": true, "oidc:bob": true, "arn:aws:iam::1:user/ops/bob": true,
		"arn:aws:iam::1:user/bob@example.com": true,
		"breakglass:bob:7k3m-q9ad":            true, "": false, "alice": false, "bobby": false, "breakglass:alice:bob": false} {
		if who, ok := personOf(user, p); ok != want || ok && who != "bob" {
			t.Errorf("%q is %q, %t, want %t", user, who, ok, want)
		}
	}
}

func TestRolesThatAreAsGoodAsClusterAdminNeedTwoPeople(t *testing.T) {
	f := &facts{admin: map[string][]inventory.Ref{"c1": {{Kind: "ClusterRole", Name: "ops"},
		{Kind: "Role", Namespace: "kube-system", Name: "fixer"}}}, unread: map[string]bool{"c3": true}}
	for name, c := range map[string]struct {
		rights  policy.Rights
		cluster string
		want    bool
	}{
		"cluster-admin":              {policy.Rights{ClusterRole: "cluster-admin"}, "c2", true},
		"a group":                    {policy.Rights{Group: "g"}, "c2", true},
		"a role of the scan":         {policy.Rights{ClusterRole: "ops"}, "c1", true},
		"the same in a namespace":    {policy.Rights{ClusterRole: "ops", Namespaces: []string{"shop"}}, "c1", false},
		"the same elsewhere":         {policy.Rights{ClusterRole: "ops"}, "c2", false},
		"a role in kube-system":      {policy.Rights{Role: "fixer", Namespaces: []string{"default", "kube-system"}}, "c1", true},
		"the same role in a default": {policy.Rights{Role: "fixer", Namespaces: []string{"default"}}, "c1", false},
		"a role that is none":        {policy.Rights{ClusterRole: "view"}, "c1", false},
		"a role that was not read":   {policy.Rights{ClusterRole: "view"}, "c3", true},
	} {
		if got := f.adminEquivalent(c.rights, c.cluster); got != c.want {
			t.Errorf("%s: got %t, want %t", name, got, c.want)
		}
	}
}

func TestCheckItemsSayWhatWasFound(t *testing.T) {
	at := noon.Add(-time.Hour)
	run := func(keys ...string) []Check {
		return []Check{{Check: "ca", Cluster: "c1", At: at, OK: true, Verdict: "good", Findings: keys}}
	}
	open := []finding.Finding{
		{Opened: finding.Opened{Key: "ca/c1/expiry", Check: "ca", Cluster: "c1", Severity: finding.Warning,
			What: "the CA ends soon", Next: "make the next one"}, Since: at},
		{Opened: finding.Opened{Key: "ca/c2/expiry", Check: "ca", Cluster: "c2", Severity: finding.Warning,
			What: "of another cluster"}, Since: at},
	}
	i := checkItems(run("ca/c1/expiry", "ca/c1/etcd"), open, []string{"c1"}, noon)[0]
	text := strings.Join(i.Evidence, "\n")
	for _, want := range []string{"warning: the CA ends soon; next: make the next one", "the last run found ca/c1/etcd, which is over"} {
		if !strings.Contains(text, want) {
			t.Errorf("the evidence does not say %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "another cluster") {
		t.Errorf("it says what was found elsewhere:\n%s", text)
	}
	was := checkItems(run("ca/c1/expiry"), nil, []string{"c1"}, noon)[0]
	i.compare(&was)
	if i.State != campaign.ItemWidened {
		t.Errorf("with one more finding it is %s", i.State)
	}
}

func TestReceiptsThatProveNothingAreToldByCluster(t *testing.T) {
	revoked := func(id, cluster string, days int, receipt *breakglass.Receipt) *breakglass.Request {
		return &breakglass.Request{ID: id, Ask: breakglass.Requested{Cluster: cluster}, Issued: &breakglass.Issued{},
			Revoked: &record.Ending{At: noon.AddDate(0, 0, days)}, Receipt: receipt}
	}
	yes := breakglass.Answer{Server: "https://b", Problem: "it cannot be reached"}
	no := breakglass.Answer{Server: "https://a", No: true}
	f := &facts{from: noon, requests: []*breakglass.Request{
		revoked("good", "c1", 1, &breakglass.Receipt{Answers: []breakglass.Answer{no}}),
		revoked("half", "c1", 1, &breakglass.Receipt{Answers: []breakglass.Answer{no, yes}}),
		revoked("never", "c1", 1, nil), revoked("before", "c1", -1, nil), revoked("fine", "c2", 1,
			&breakglass.Receipt{Answers: []breakglass.Answer{no}}),
	}}
	items := f.receiptItems()
	if len(items) != 2 {
		t.Fatalf("%d items, want one for each cluster", len(items))
	}
	if i := items[0]; i.Title != "revocations on c1: 3, of which every API server was seen to refuse 1" || i.Risk != inventory.High ||
		!slices.Equal(i.Grants, []string{"half", "never"}) ||
		!strings.Contains(strings.Join(i.Evidence, "; "), "https://b: it cannot be reached") ||
		!strings.Contains(strings.Join(i.Evidence, "; "), "there is no receipt") {
		t.Errorf("c1: %+v", i)
	}
	if i := items[1]; i.Risk != inventory.Low || len(i.Grants) > 0 {
		t.Errorf("c2: %+v", i)
	}
}

func TestCanariesThatDidNotGetThroughAreTold(t *testing.T) {
	good := &breakglass.CanaryDone{Fingerprint: "f", Accepted: []string{"a"}}
	for name, c := range map[string]struct {
		canaries []canary
		risk     inventory.Severity
		says     string
	}{
		"all good":        {[]canary{{"c1", noon, good}, {"c1", noon, good}}, inventory.Low, "since 2026-11-24"},
		"one failed once": {[]canary{{"c1", noon, &breakglass.CanaryDone{Problem: "sealed"}}, {"c1", noon, good}}, inventory.Medium, "sealed"},
		"the last failed": {[]canary{{"c1", noon, good}, {"c1", noon, &breakglass.CanaryDone{Accepted: []string{"a"}, Refused: []string{"b"}}}},
			inventory.High, "refused by b"},
		"no outcome":   {[]canary{{"c1", noon, nil}}, inventory.High, "not on record"},
		"nobody asked": {[]canary{{"c1", noon, &breakglass.CanaryDone{Fingerprint: "f"}}}, inventory.High, "no API server was asked"},
	} {
		items := canaryItems(append(c.canaries, canary{"c2", noon, good}), noon)
		if len(items) != 2 || items[0].Risk != c.risk || !strings.Contains(strings.Join(items[0].Evidence, "; "), c.says) ||
			items[1].Risk != inventory.Low {
			t.Errorf("%s: %+v", name, items)
		}
	}
}

// What was accounted for before the period is in the campaign before; everything else is in this one.
func TestGrantsBelongToThePeriodInWhichTheyAreAccountedFor(t *testing.T) {
	from := noon
	before, after := from.Add(-time.Hour), from.Add(time.Hour)
	care := &breakglass.Aftercare{Examine: true, CloseSeconds: 3600}
	grant := func(change func(*breakglass.Request)) *breakglass.Request {
		r := &breakglass.Request{At: before.Add(-time.Hour), Ask: breakglass.Requested{Aftercare: care},
			Issued: &breakglass.Issued{NotBefore: before.Add(-time.Hour), NotAfter: before},
			Swept:  &breakglass.Swept{}, SweptAt: before, Closed: &record.Ending{At: before}}
		change(r)
		return r
	}
	for name, c := range map[string]struct {
		change func(*breakglass.Request)
		want   bool
	}{
		"all done before":                {func(*breakglass.Request) {}, false},
		"asked in the period":            {func(r *breakglass.Request) { r.At, r.Issued = after, nil }, true},
		"asked before, and never issued": {func(r *breakglass.Request) { r.Issued = nil }, false},
		"still in use":                   {func(r *breakglass.Request) { r.Issued.NotAfter = after.Add(24 * time.Hour) }, true},
		"ended in the period":            {func(r *breakglass.Request) { r.Issued.NotAfter = after }, true},
		"revoked in the period":          {func(r *breakglass.Request) { r.Revoked = &record.Ending{At: after} }, true},
		"reported in the period":         {func(r *breakglass.Request) { r.SweptAt = after }, true},
		"never reported":                 {func(r *breakglass.Request) { r.Swept = nil }, true},
		"closed in the period":           {func(r *breakglass.Request) { r.Closed.At = after }, true},
		"never closed":                   {func(r *breakglass.Request) { r.Closed = nil }, true},
		"without any aftercare":          {func(r *breakglass.Request) { r.Ask.Aftercare, r.Swept, r.Closed = nil, nil, nil }, false},
	} {
		if got := inPeriod(grant(c.change), from, after.Add(time.Hour)); got != c.want {
			t.Errorf("%s: got %t, want %t", name, got, c.want)
		}
	}
}

// What a scan did not see whole proves nothing later, so the item is settled by a word, and says so.
func TestWhatWasNotSeenWholeCannotBeProvedGone(t *testing.T) {
	item := doors.Item{ID: "x", Kind: doors.ItemBinding, Title: "a binding", Proof: []string{inventory.SourceBindings}}
	for missing, provable := range map[string]bool{"": true, "forbidden": false} {
		s := &inventory.Snapshot{Cluster: "c1", Sources: []inventory.Source{{Name: inventory.SourceBindings, Missing: missing}}}
		got := clusterItems(s, &doors.Analysis{}, []doors.Item{item}, &policy.Policy{})
		l := Line{Item: got[0]}
		if l.Provable() != provable || strings.Contains(strings.Join(l.Evidence, "\n"), "a later scan cannot prove its removal") == provable {
			t.Errorf("missing %q: provable %v, evidence %q", missing, l.Provable(), l.Evidence)
		}
	}
}

// A canary between its order and its outcome is no failure yet.
func TestCanaryThatIsUnderWayIsNoFailure(t *testing.T) {
	for _, c := range []struct {
		canary canary
		want   bool
	}{
		{canary{at: noon}, true}, {canary{at: noon.Add(-time.Hour)}, false}, {canary{at: noon, done: &breakglass.CanaryDone{}}, false},
	} {
		if got := c.canary.underWay(noon.Add(time.Second)); got != c.want {
			t.Errorf("%+v: under way %v, want %v", c.canary, got, c.want)
		}
	}
}

// A grant that comes back because its closing note is missing was counted in its own period by who approved it with whom.
func TestPairsAreCountedInTheirOwnPeriod(t *testing.T) {
	grants := func(before, within int) []*breakglass.Request {
		var out []*breakglass.Request
		for n := range before + within {
			at := noon.AddDate(0, 0, 1)
			if n < before {
				at = noon.AddDate(0, 0, -1)
			}
			out = append(out, &breakglass.Request{ID: strings.Repeat("x", n+1), At: at, ClaimedAt: at, Claimed: &breakglass.Claimed{},
				Issued:    &breakglass.Issued{NotBefore: at, NotAfter: at.Add(time.Hour)},
				Ask:       breakglass.Requested{By: record.Actor{Person: "alice"}, Cluster: "c1", Profile: "p"},
				Approvals: []policy.Approval{{By: record.Actor{Person: "bob"}, At: at}, {By: record.Actor{Person: "carol"}, At: at}}})
		}
		return out
	}
	for _, c := range []struct {
		before, within int
		want           bool
	}{{pairAtLeast, 0, false}, {pairAtLeast - 1, 1, false}, {0, pairAtLeast, true}} {
		f := &facts{hours: Hours{Zone: time.UTC}, from: noon, now: noon.AddDate(0, 0, 7), policy: &policy.Policy{},
			requests: grants(c.before, c.within)}
		_, items := f.emergency()
		if got := slices.ContainsFunc(items, func(i Item) bool { return i.Kind == "pair" }); got != c.want {
			t.Errorf("%d before and %d within the period: an item for the pair %v, want %v", c.before, c.within, got, c.want)
		}
	}
}

// A member of a group does not answer for its rights, and neither does a person who signs in with a user name of another form.
func TestNobodyAnswersForTheirOwnUsersAndGroups(t *testing.T) {
	rules, defaults, err := inventory.Shipped()
	if err != nil {
		t.Fatal(err)
	}
	s := &inventory.Snapshot{Cluster: "c1", ClusterRoles: []inventory.Role{{Name: "all", Rules: []inventory.PolicyRule{{Verbs: []string{"*"},
		APIGroups: []string{"*"}, Resources: []string{"*"}}}}}, ClusterBindings: []inventory.Binding{{Name: "b", RoleKind: "ClusterRole",
		RoleName: "all", Subjects: []inventory.Subject{{Kind: inventory.Group, Name: "oidc:platform-admins"},
			{Kind: inventory.User, Name: "a.smith@example.org"}, {Kind: inventory.Group, Name: "oidc:others"}}}}}
	a := doors.Analyse(s, inventory.Options{Rules: rules, Defaults: defaults, Now: time.Unix(0, 0)})
	p := &policy.Policy{People: []policy.Person{{ID: "alice", Users: []string{"a.smith@example.org"},
		Groups: []string{"oidc:platform-admins"}},
		{ID: "bob", Groups: []string{"oidc:platform-admins"}}, {ID: "carol"}}}
	got := map[string][]string{}
	for _, i := range clusterItems(s, a, doors.Items(s, a), p) {
		if i.Kind == string(doors.ItemSubject) {
			got[i.Title] = i.Not
		}
	}
	for title, want := range map[string][]string{"group oidc:platform-admins is cluster-admin": {"alice", "bob"},
		"user a.smith@example.org is cluster-admin": {"alice"}, "group oidc:others is cluster-admin": {}} {
		if not, ok := got[title]; !ok || !slices.Equal(not, want) {
			t.Errorf("who may not answer for %q: %q, want %q (of %q)", title, not, want, got)
		}
	}
}
