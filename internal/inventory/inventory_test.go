package inventory

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakglassd/breakglass/policies"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func shipped(t *testing.T) (*Rules, *Defaults) {
	t.Helper()
	rules, defaults, err := Shipped()
	if err != nil {
		t.Fatal(err)
	}
	return rules, defaults
}

// all says that every source was read: a snapshot of a test is whole unless it says otherwise.
func all(s *Snapshot) *Snapshot {
	for _, name := range []string{SourceVersion, SourceSelf, SourceHandshake, SourceAnonymous, SourceClusterRoles, SourceRoles,
		SourceClusterBindings, SourceBindings, SourceNamespaces, SourceAccounts,
		SourceTokenSecrets, SourceBootstrap, SourceCSRs, SourceAuthentication, SourceIssuer, SourceNodes, SourcePods, SourceKubeProxy,
		SourceTracking, SourceConfigz, SourceMutating, SourceValidating, SourceAPIServices} {
		s.Sources = append(s.Sources, Source{Name: name})
	}
	s.Sources = append(s.Sources, Source{Name: SourceAWSAuth, None: true})
	s.Cluster, s.At, s.Server.Version = "prod", now, "v1.37.2"
	return s
}

// judgement is a snapshot's powers and findings, as they are shown.
func judgement(t *testing.T, s *Snapshot, ignores ...Ignore) *Judgement {
	t.Helper()
	o := Options{Ignores: ignores, Now: now}
	o.Rules, o.Defaults = shipped(t)
	return judgedBy(s, o)
}

func judgedBy(s *Snapshot, o Options) *Judgement {
	j := Judge(s, o)
	j.Findings = Finish(j.Findings, j.Powers, o)
	return j
}

func clusterRole(name string, rules ...PolicyRule) Role { return Role{Name: name, Rules: rules} }

func bind(name, ns, role string, subjects ...Subject) Binding {
	return Binding{Name: name, Namespace: ns, RoleKind: "ClusterRole", RoleName: role, Subjects: subjects, Created: now}
}

var (
	star       = PolicyRule{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}}
	podCreate  = PolicyRule{Verbs: []string{"create"}, APIGroups: []string{""}, Resources: []string{"pods"}}
	secretsGet = PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"secrets"}}
	bob        = Subject{Kind: User, Name: "bob"}
)

func TestMistakesInRulesAreToldWithTheirLines(t *testing.T) {
	good := `controls: [NIST AC-2]
groups: [""]
rules:
  - id: a
    can: do it
    text: why
    severity: high
    needs: [{verbs: [get], groups: [""], resources: [pods]}]
`
	if _, err := LoadRules([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, want string }{
		{"severity: high", "severity: hihg", `:7: rules[0].severity: there is no severity "hihg"; there are`},
		{"severity: high", "severty: high", `:7: rules[0]: unknown key "severty"; did you mean severity?`},
		{"    severity: high\n", "", ":4: rules[0]: severity is missing"},
		{"severity: high", "severity: high\n    effect: magic", ":8: rules[0].effect: there is no effect magic"},
		{"severity: high", "severity: high\n    covers: [b]", ":8: rules[0].covers[0]: there is no rule b to cover"},
		{"severity: high", "severity: high\n    severity: low", ":8: rules[0].severity: this key stands here twice"},
		{"severity: high", "severity: high\n    cluster: maybe", ":8: rules[0].cluster: text stands here; write true or false"},
		{"[NIST AC-2]", "[NIST AC-99]", `:1: controls: there is no control "NIST AC-99"; there are`},
		{"id: a", "id: A B", ":4: rules[0].id: an id is of a-z"},
		{`resources: [pods]}]`, `resources: ["*"]}]`, ":8: rules[0].needs[0]: a wildcard in a need wants exact: true"},
		{`groups: [""], resources: [pods]`, `groups: [""]`, ":8: rules[0].needs[0]: a need is about groups and resources, or about urls"},
		{`[{verbs: [get], groups: [""], resources: [pods]}]`, "[]", ":8: rules[0].needs: the list is empty"},
		{`needs: [{verbs: [get]`, "needs: [{verb: [get]", `:8: rules[0].needs[0]: unknown key "verb"; did you mean verbs?`},
		{"rules:\n  - id", "rulez:\n  - id", `:3: unknown key "rulez"; did you mean rules?`},
	} {
		if !strings.Contains(good, c.old) {
			t.Fatalf("there is no %q to spoil", c.old)
		}
		if _, err := LoadRules([]byte(strings.Replace(good, c.old, c.new, 1))); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q for %q: got %v, want %q", c.new, c.old, err, c.want)
		}
	}
	for _, text := range []string{"", "rules: []\ngroups: []\ncontrols: []", "[]", good + "---\n" + good, good +
		"  - id: a\n    can: x\n    text: x\n    severity: low\n    needs: [{verbs: [get], urls: [/x]}]\n"} {
		if _, err := LoadRules([]byte(text)); err == nil {
			t.Errorf("these rules are taken:\n%s", text)
		}
	}
}

func TestShippedRulesNameEachControl(t *testing.T) {
	rules, _ := shipped(t)
	named := map[string]bool{}
	for _, r := range rules.Rules {
		for _, c := range r.Controls {
			named[c] = true
		}
	}
	for _, c := range Controls {
		if !named[c] {
			t.Errorf("no rule is about %s", c)
		}
	}
}

func TestRightsAreMatchedAsTheAPIServerMatchesThem(t *testing.T) {
	exec := need{PolicyRule: PolicyRule{Verbs: []string{"create", "get"}, APIGroups: []string{""}, Resources: []string{"pods/exec"}}}
	create := need{PolicyRule: PolicyRule{Verbs: []string{"create"}, APIGroups: []string{""}, Resources: []string{"secrets"}}}
	everything := need{exact: true, PolicyRule: star}
	signers := need{only: []string{"kubernetes.io/*", "kubernetes.io/x"}, PolicyRule: PolicyRule{Verbs: []string{"approve"},
		APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"signers"}}}
	debug := need{PolicyRule: PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/debug/pprof"}}}
	rule := func(verbs, groups, resources string, names ...string) PolicyRule {
		return PolicyRule{Verbs: strings.Split(verbs, ","), APIGroups: strings.Split(groups, ","), Resources: strings.Split(resources, ","),
			ResourceNames: names}
	}
	url := func(urls ...string) PolicyRule { return PolicyRule{Verbs: []string{"get"}, NonResourceURLs: urls} }
	for _, c := range []struct {
		need  need
		rule  PolicyRule
		all   bool
		names []string
	}{
		{exec, rule("create", "", "pods/exec"), true, nil},
		{exec, rule("*", "*", "*"), true, nil},
		{exec, rule("get", "", "*/exec"), true, nil},
		{exec, rule("get", "", "pods"), false, nil},
		{exec, rule("get", "", "pods/*"), false, nil}, // RBAC knows no such wildcard
		{exec, rule("get", "apps", "pods/exec"), false, nil},
		{exec, rule("list", "", "pods/exec"), false, nil},
		{exec, rule("create", "", "pods/exec", "one"), false, []string{"one"}},
		{create, rule("create", "", "secrets", "one"), false, nil}, // nothing is named when it is created
		{everything, rule("*", "*", "*"), true, nil},
		{everything, rule("*", "", "*"), false, nil},
		{everything, rule("get,create", "*", "*"), false, nil},
		{signers, rule("approve", "certificates.k8s.io", "signers", "kubernetes.io/x"), true, nil},
		{signers, rule("approve", "certificates.k8s.io", "signers", "kubernetes.io/*"), true, nil},
		{signers, rule("approve", "certificates.k8s.io", "signers", "example.org/y"), false, nil},
		{signers, rule("approve", "certificates.k8s.io", "signers"), true, nil},
		{debug, url("/debug/*"), true, nil},
		{debug, url("*"), true, nil},
		{debug, url("/debug"), false, nil},
		{debug, rule("get", "*", "*"), false, nil},
		{exec, url("*"), false, nil},
	} {
		all, names := c.need.fulfilledBy(c.rule)
		if all != c.all || !slices.Equal(names, c.names) {
			t.Errorf("%s of %s: got %t %q, want %t %q", c.need.PolicyRule, c.rule, all, names, c.all, c.names)
		}
	}
}

func TestAggregationIsWorkedOutToTheEnd(t *testing.T) {
	s := all(&Snapshot{ClusterRoles: []Role{
		{Name: "top", Aggregation: []Selector{{MatchLabels: map[string]string{"to": "top"}}}},
		{Name: "middle", Labels: map[string]string{"to": "top"}, Aggregation: []Selector{{MatchExpressions: []Requirement{{Key: "to",
			Operator: "In", Values: []string{"middle"}}}}, {MatchLabels: map[string]string{"to": "top"}}}},
		{Name: "leaf", Labels: map[string]string{"to": "middle"}, Rules: []PolicyRule{secretsGet}},
		{Name: "other", Labels: map[string]string{"to": "nowhere"}, Rules: []PolicyRule{star}},
	}, ClusterBindings: []Binding{bind("b", "", "top", bob)}})
	a := judgement(t, s)
	if len(a.Powers) != 1 || !slices.Equal(a.Powers[0].Rights, []string{"secrets-read"}) {
		t.Errorf("got %+v, want that bob reads Secrets and no more", a.Powers)
	}
}

// What a way needs is taken away piece by piece, and the way goes away or becomes another.
func TestWaysToClusterAdmin(t *testing.T) {
	build := func() *Snapshot {
		return all(&Snapshot{
			ClusterRoles:    []Role{clusterRole("pods", podCreate), clusterRole("admin", star)},
			ClusterBindings: []Binding{bind("boss", "", "admin", Subject{Kind: ServiceAccount, Namespace: "shop", Name: "boss"})},
			Bindings:        []Binding{bind("x", "shop", "pods", bob)},
			Accounts:        []Account{{Namespace: "shop", Name: "boss"}, {Namespace: "shop", Name: "default"}},
			Namespaces:      []Namespace{{Name: "shop", Enforce: "restricted"}},
			Nodes:           []Node{{Name: "cp1", ControlPlane: true}},
		})
	}
	path := func(s *Snapshot) string {
		for _, p := range judgement(t, s).Powers {
			if p.Subject == bob {
				if p.Path != nil && p.Severity != Critical {
					t.Errorf("severity %s with the way %s", p.Severity, p.Path)
				}
				return p.Path.String()
			}
		}
		return "no power"
	}
	const viaAccount = "user bob → RoleBinding shop/x → can create pods in namespace shop → service account shop/boss → ClusterRoleBinding " +
		"boss → can do everything in the whole cluster → cluster-admin"
	const viaNode = "user bob → RoleBinding shop/x → can create pods in namespace shop, that mount a node's disk → root on a node of its " +
		"choice → reads the CA key on a control-plane node → cluster-admin"
	for _, c := range []struct {
		name   string
		change func(*Snapshot)
		want   string
	}{
		{"a powerful account of the namespace", func(*Snapshot) {}, viaAccount},
		{"the account is gone", func(s *Snapshot) { s.Accounts = s.Accounts[1:] }, ""},
		{"the account is of another namespace", func(s *Snapshot) {
			s.ClusterBindings[0].Subjects[0].Namespace, s.Accounts[0].Namespace = "till", "till"
		}, ""},
		{"no standard is enforced", func(s *Snapshot) { s.Accounts, s.Namespaces[0].Enforce = s.Accounts[1:], "" }, viaNode},
		{"the privileged standard is enforced", func(s *Snapshot) { s.Accounts, s.Namespaces[0].Enforce = s.Accounts[1:], "privileged" },
			viaNode},
		{"no standard, and the control plane is somebody else's", func(s *Snapshot) {
			s.Accounts, s.Namespaces[0].Enforce, s.Nodes[0].ControlPlane = s.Accounts[1:], "", false
		}, ""},
		{"the role is gone", func(s *Snapshot) { s.ClusterRoles = s.ClusterRoles[1:] }, "no power"},
		{"everybody of the account's group is powerful", func(s *Snapshot) {
			s.ClusterBindings[0].Subjects[0] = Subject{Kind: Group, Name: "system:serviceaccounts:shop"}
		}, "user bob → RoleBinding shop/x → can create pods in namespace shop → service account shop/boss → is a member → group " +
			"system:serviceaccounts:shop → ClusterRoleBinding boss → can do everything in the whole cluster → cluster-admin"},
		{"the binding names the account as a user", func(s *Snapshot) {
			s.ClusterBindings[0].Subjects[0] = Subject{Kind: User, Name: "system:serviceaccount:shop:boss"}
		}, viaAccount},
		{"it may read Secrets, and a token lies there", func(s *Snapshot) {
			s.ClusterRoles[0].Rules = []PolicyRule{secretsGet}
			s.TokenSecrets = []TokenSecret{{Namespace: "shop", Name: "t", Account: "boss"}}
		}, "user bob → RoleBinding shop/x → can read Secrets in namespace shop, where a token lies → service account shop/boss → " +
			"ClusterRoleBinding boss → can do everything in the whole cluster → cluster-admin"},
		{"it may read Secrets, and the token there is refused", func(s *Snapshot) {
			s.ClusterRoles[0].Rules = []PolicyRule{secretsGet}
			s.TokenSecrets = []TokenSecret{{Namespace: "shop", Name: "t", Account: "boss", Invalid: "2026-01-01"}}
		}, ""},
		{"a cluster-wide resource through a RoleBinding gives nothing", func(s *Snapshot) {
			s.ClusterRoles[0].Rules = []PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"nodes/proxy"}}}
		}, "no power"},
		{"groups without any user cannot be acted as", func(s *Snapshot) {
			s.ClusterRoles[0].Rules = []PolicyRule{{Verbs: []string{"impersonate"}, APIGroups: []string{""}, Resources: []string{"groups"}}}
			s.ClusterBindings = append(s.ClusterBindings, bind("y", "", "pods", bob))
		}, ""},
		{"acting as another, who acts as another", func(s *Snapshot) {
			s.ClusterRoles = append(s.ClusterRoles, clusterRole("as-carol", PolicyRule{Verbs: []string{"impersonate"}, APIGroups: []string{""},
				Resources: []string{"users"}, ResourceNames: []string{"carol"}}),
				clusterRole("as-dave", PolicyRule{Verbs: []string{"impersonate"}, APIGroups: []string{""}, Resources: []string{"users"},
					ResourceNames: []string{"dave"}}))
			s.Bindings = nil
			s.ClusterBindings = []Binding{bind("1", "", "as-carol", bob), bind("2", "", "as-dave", Subject{Kind: User, Name: "carol"}),
				bind("3", "", "admin", Subject{Kind: User, Name: "dave"})}
		}, "user bob → ClusterRoleBinding 1 → can act as any user (only carol) in the whole cluster → user carol → ClusterRoleBinding 2 → can " +
			"act as any user (only dave) in the whole cluster → user dave → ClusterRoleBinding 3 → can do everything in the whole cluster → " +
			"cluster-admin"},
	} {
		s := build()
		c.change(s)
		if got := path(s); got != c.want {
			t.Errorf("%s:\n got %q\nwant %q", c.name, got, c.want)
		}
	}
}

func TestSeverityRisesWithWhomItReaches(t *testing.T) {
	for subject, want := range map[Subject]Severity{
		bob:                                     Medium,
		{Kind: Group, Name: "team"}:             Medium,
		{Kind: Group, Name: AuthenticatedGroup}: High,
		{Kind: Group, Name: "system:serviceaccounts"}: High,
		{Kind: Group, Name: UnauthenticatedGroup}:     Critical,
		{Kind: User, Name: AnonymousUser}:             Critical,
	} {
		a := judgement(t, all(&Snapshot{ClusterRoles: []Role{clusterRole("r", secretsGet)},
			Bindings: []Binding{bind("b", "shop", "r", subject)}}))
		n := slices.IndexFunc(a.Findings, func(f Finding) bool { return f.Rule == "secrets-read" })
		if n < 0 || a.Findings[n].Severity != want {
			t.Errorf("%s: got %+v, want severity %s", subject, a.Findings, want)
		}
	}
}

func TestSameRightIsToldOnce(t *testing.T) {
	a := judgement(t, all(&Snapshot{ClusterRoles: []Role{clusterRole("r", secretsGet), clusterRole("s", star)},
		ClusterBindings: []Binding{bind("1", "", "r", bob), bind("2", "", "r", bob), bind("3", "", "s", Subject{Kind: User, Name: "eve"})},
		Bindings:        []Binding{bind("4", "shop", "r", bob), bind("5", "shop", "s", Subject{Kind: User, Name: "eve"})}}))
	var got []string
	for _, f := range a.Findings {
		if f.Subject != nil {
			got = append(got, f.Title)
		}
	}
	want := []string{"user eve can do everything in the whole cluster", "user bob can read Secrets in the whole cluster"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, p := range a.Powers {
		if p.Subject == bob && len(p.Via) != 2 {
			t.Errorf("bob's right comes from %v, want both bindings of the whole cluster", p.Via)
		}
	}
}

func TestIgnoredFindingsEndAndAreTold(t *testing.T) {
	s := func() *Snapshot {
		return all(&Snapshot{ClusterRoles: []Role{clusterRole("r", secretsGet)},
			ClusterBindings: []Binding{bind("b", "", "r", bob, Subject{Kind: User, Name: "eve"})}})
	}
	load := func(until string) []Ignore {
		ignores, err := LoadIgnores([]byte("ignore:\n  - rule: secrets-read\n    subject: user b*\n    reason: it syncs them\n    until: " +
			until + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		return ignores
	}
	count := func(a *Judgement, rule string) (alarms, ignored int) {
		for _, f := range a.Findings {
			if f.Rule == rule && f.Alarm() {
				alarms++
			}
			if f.Rule == rule && f.Ignored != nil {
				ignored++
			}
		}
		return alarms, ignored
	}
	for until, want := range map[string][5]int{ // alarms and ignored of the rule; expired, too long, unused
		"2026-11-24": {1, 1, 0, 0, 0}, // the last day counts
		"2026-11-23": {2, 0, 1, 0, 0},
		"2028-01-01": {1, 1, 0, 1, 0},
	} {
		a := judgement(t, s(), load(until)...)
		var got [5]int
		got[0], got[1] = count(a, "secrets-read")
		got[2], _ = count(a, "ignore/expired")
		got[3], _ = count(a, "ignore/too-long")
		got[4], _ = count(a, "ignore/unused")
		if got != want {
			t.Errorf("until %s: got %v, want %v", until, got, want)
		}
	}
	empty := judgement(t, all(&Snapshot{}), load("2026-12-01")...)
	if n, _ := count(empty, "ignore/unused"); n != 1 {
		t.Errorf("what ignores nothing is told %d times", n)
	}
	for _, text := range []string{
		"ignore: [{rule: x, reason: y, until: 2026-12-01}]",                         // for everybody
		"ignore: [{rule: x, subject: a, until: 2026-12-01}]",                        // no reason
		"ignore: [{rule: x, subject: a, reason: y}]",                                // for ever
		"ignore: [{rule: x, subject: a, reason: y, until: soon}]",                   // no day
		"ignore: [{rule: x, subject: a, reason: y, until: 2026-12-01, note: z}]",    // unknown key
		"ignore: [{rule: x, subject: a, reason: y, until: 2026-12-01}]\nignore: []", // twice
		"- {rule: x, subject: a, reason: y, until: 2026-12-01}",                     // no mapping
		"ignore: {rule: x}", // no list
		"ignore: [{rule: x, subject: a, reason: y, until: 2026-12-01}]\n---\nignore: []", // two documents
	} {
		if _, err := LoadIgnores([]byte(text)); err == nil || !strings.Contains(err.Error(), "the ignore file:") {
			t.Errorf("%s: got %v, want an error with a line", text, err)
		}
	}
	if i, err := LoadIgnores(nil); err != nil || len(i) != 0 {
		t.Errorf("an empty file: %v, %v", i, err)
	}
}

func TestExitCodeLooksAtAlarmsOnly(t *testing.T) {
	high := Finding{Severity: High}
	for _, c := range []struct {
		findings  []Finding
		threshold Severity
		want      int
	}{
		{nil, Low, ExitClean},
		{[]Finding{high}, High, ExitFindings},
		{[]Finding{high}, Low, ExitFindings},
		{[]Finding{high}, Critical, ExitClean},
		{[]Finding{{Severity: Critical, Expected: true}}, Low, ExitClean},
		{[]Finding{{Severity: Critical, Ignored: &Ignore{}}}, Low, ExitClean},
		{[]Finding{{Severity: Info}}, Info, ExitClean},
		{[]Finding{{Severity: Info}, high}, Medium, ExitFindings},
	} {
		if got := ExitCode(c.findings, c.threshold); got != c.want {
			t.Errorf("%+v from %s: got %d, want %d", c.findings, c.threshold, got, c.want)
		}
	}
}

func TestNamesCannotReachTheShellOrTheTerminal(t *testing.T) {
	for _, name := range []string{"plain", "", "it's", "$(touch x)", "`id`", "a b", "\n", "\x1b[31m", "-n", "ü😀", `"\`, "*", "a;b"} {
		if s := (Subject{Kind: User, Name: name}).String(); strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%q is shown as %q", name, s)
		}
	}
	if Digest("a", "bc") == Digest("ab", "c") {
		t.Error("two lists of words have one digest")
	}
}

func TestShippedIgnoreExampleCanBeRead(t *testing.T) {
	text, err := policies.Recert.ReadFile("recert/ignore.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	ignores, err := LoadIgnores(text)
	if err != nil || len(ignores) != 2 {
		t.Errorf("got %+v, %v", ignores, err)
	}
	f := Finding{Rule: "secrets-read", Subject: &Subject{Kind: ServiceAccount, Namespace: "external-secrets", Name: "external-secrets"}}
	if !ignores[0].covers(f) || ignores[1].covers(f) || !ignores[1].covers(Finding{Rule: "door/static-tokens",
		Item: "token:/etc/kubernetes/tokens.csv"}) {
		t.Error("the example does not cover what its comments say")
	}
}

func TestAWSAuthIsReadWithItsUserNames(t *testing.T) {
	groups, users, err := ParseAWSAuth("- rolearn: r\n  username: \"system:node:{{EC2PrivateDNSName}}\"\n  groups: [system:nodes]\n",
		"- userarn: u\n  username: bob\n  groups: [b, a]\n")
	if err != nil || !slices.Equal(groups, []string{"r: system:nodes", "u: a", "u: b"}) || !maps.Equal(users, map[string]string{"u": "bob"}) {
		t.Errorf("got %q, %q, %v", groups, users, err)
	}
}

func TestRolesAsGoodAsClusterAdminAreListed(t *testing.T) {
	proxy := PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"nodes/proxy"}}
	a := judgement(t, all(&Snapshot{ClusterRoles: []Role{clusterRole("ops", star), clusterRole("reader", secretsGet),
		clusterRole("proxy", proxy)}, Roles: []Role{{Namespace: "kube-system", Name: "fixer", Rules: []PolicyRule{star}},
		{Namespace: "shop", Name: "x", Rules: []PolicyRule{podCreate}}}}))
	for ref, want := range map[Ref]bool{
		{Kind: "ClusterRole", Name: "ops"}: true, {Kind: "ClusterRole", Name: "proxy"}: true, {Kind: "ClusterRole", Name: "reader"}: false,
		{Kind: "Role", Namespace: "kube-system", Name: "fixer"}: true, {Kind: "Role", Namespace: "shop", Name: "x"}: false,
	} {
		if got := slices.Contains(a.AdminRoles, ref); got != want {
			t.Errorf("%s is as good as cluster-admin: %t, want %t (%v)", ref, got, want, a.AdminRoles)
		}
	}
}
