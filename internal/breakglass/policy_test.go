package breakglass

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	"pgregory.net/rapid"

	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/strictyaml"
	"github.com/breakglassd/breakglass/policies"
)

// examplePolicy is the shipped example after some edits, given as old text, new text, and so on.
func examplePolicy(t testing.TB, edits ...string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse("access.yaml", []byte(edited(t, string(policies.AccessExample), edits...)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func edited(t testing.TB, s string, edits ...string) string {
	t.Helper()
	for i := 0; i < len(edits); i += 2 {
		if !strings.Contains(s, edits[i]) {
			t.Fatalf("the text to edit has no %q", edits[i])
		}
		s = strings.Replace(s, edits[i], edits[i+1], 1)
	}
	return s
}

func mustProfileOf(t testing.TB, p *policy.Policy, id string) *policy.Profile {
	t.Helper()
	profile, ok := p.Profile(id)
	if !ok {
		t.Fatalf("no profile %s", id)
	}
	return profile
}

func TestShippedExampleLoads(t *testing.T) {
	p := examplePolicy(t)
	checkPolicy(t, policies.AccessExample, p)
	got := map[string]string{}
	for _, x := range p.Profiles {
		got[x.ID] = fmt.Sprintf("%s, %s, %d, %v", x.Risk, x.Rights, x.Approvals.Count, x.Approvals.Channels)
	}
	want := map[string]string{
		"cluster-admin":  "high, ClusterRole cluster-admin, 2, [slack key]",
		"view":           "low, ClusterRole view, 2, [slack key]",
		"payments-admin": "critical, ClusterRole cluster-admin, 3, [key]",
		"api-rescue":     "high, group breakglass:api-rescue, 2, [slack key]",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got, want := p.Closing, (policy.ClosingRule{Within: 24 * time.Hour, RaiseQuorum: true}); got != want ||
		!slices.Equal(p.Responders, []string{"security"}) {
		t.Errorf("got closing %+v and responders %q, want %+v and security", got, p.Responders, want)
	}
	if admin, _ := p.Profile("cluster-admin"); !slices.Equal(admin.Guards, []policy.Guard{policy.GuardAdmission, policy.GuardCSR,
		policy.GuardEscalate, policy.GuardImpersonate,
		policy.GuardTokens}) {
		t.Errorf("got guards %q", admin.Guards)
	}
	all := bytes.Replace(policies.AccessExample, []byte("guards: [impersonate, escalate, tokens, csr, admission]"), []byte("guards: [all]"), 1)
	if p, err := policy.Parse("access.yaml", all); err != nil || len(mustProfileOf(t, p, "cluster-admin").Guards) != len(policy.Guards()) {
		t.Errorf("all guards: %v, want every one of %d", err, len(policy.Guards()))
	}
	if got, want := p.Limits, (policy.Limits{OpenPerPerson: 2, PerHour: 10}); got != want {
		t.Errorf("limits: got %+v, want %+v", got, want)
	}
}

// TestEveryMistakeIsNamed reads every file of testdata/policy/bad. Its leading "# want: " lines are the whole error, without
// the file's name.
func TestEveryMistakeIsNamed(t *testing.T) {
	files, err := filepath.Glob("testdata/policy/bad/*.yaml")
	if err != nil || len(files) < 100 {
		t.Fatalf("%d bad policies, error %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for line := range strings.Lines(string(data)) {
				text, ok := strings.CutPrefix(line, "# want: ")
				if !ok {
					break
				}
				want = append(want, "access.yaml:"+strings.TrimSuffix(text, "\n"))
			}
			_, err = policy.Parse("access.yaml", data)
			var bad *strictyaml.Error
			if !errors.As(err, &bad) {
				t.Fatalf("got %v, want a strictyaml.Error", err)
			}
			if d := cmp.Diff(want, strings.Split(bad.Error(), "\n")); d != "" {
				t.Errorf("error (-want +got):\n%s", d)
			}
			for _, p := range bad.Problems {
				if p.Line < 1 || !strings.Contains(p.Text, ";") {
					t.Errorf("does not say where and what to do: %+v", p)
				}
			}
		})
	}
}

func TestEncodingAndSizeAreChecked(t *testing.T) {
	for _, c := range []struct{ name, data, want string }{
		{"nothing", "", "access.yaml:1: the file is empty; start from policies/access.example.yaml"},
		{"latin-1", "version: 1\n# caf\xe9\n", "access.yaml:2: the file is not UTF-8 text from here on; save it as UTF-8"},
		{"UTF-16", "\xff\xfev\x00", "access.yaml:1: the file is not UTF-8 text from here on; save it as UTF-8"},
		{"NUL", "version: 1\n\x00", "access.yaml:1: not YAML: control characters are not allowed; check indentation, quotes and brackets " +
			"around this line"},
		{"huge", strings.Repeat("#", strictyaml.MaxBytes+1), "access.yaml: the file has 1048577 bytes, at most 1048576 are read; is it the " +
			"access " +
			"policy?"},
	} {
		_, err := policy.Parse("access.yaml", []byte(c.data))
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
	withMark := append([]byte("\xef\xbb\xbf"), policies.AccessExample...)
	p, err := policy.Parse("access.yaml", withMark)
	if err != nil {
		t.Fatalf("with a UTF-8 byte order mark: %v", err)
	}
	sum := sha256.Sum256(withMark)
	if got, want := p.Digest, hex.EncodeToString(sum[:]); got != want {
		t.Errorf("digest: got %s, want that of all bytes, %s", got, want)
	}
}

func TestErrorsRepeatNoSecret(t *testing.T) {
	const key = "-----BEGIN OPENSSH PRIVATE KEY-----\\nSECRETSECRET"
	alice := `"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAID2rRcKxwb2Im6T1O1F+l6mJwnm19Hf2hWkQWyoypk3A alice"`
	for _, edit := range [][2]string{
		{alice, `"` + key + `"`},
		{alice, `"ssh-ed25519 SECRETSECRET"`},
		{"keys:\n      - " + alice, `keys: "` + key + `"`},
		{`"https://10.20.0.1:6443"`, `"https://admin:SECRETSECRET@10.20.0.1"`},
		{`"https://10.20.0.1:6443"`, `"ftp://admin:SECRETSECRET@10.20.0.1"`},
		{`"https://10.20.0.1:6443"`, `"https://admin:SECRETSECRET@10.20 0.1"`},
	} {
		_, err := policy.Parse("access.yaml", []byte(edited(t, string(policies.AccessExample), edit[0], edit[1])))
		if err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: got error %v", edit[1], err)
		}
	}
}

func TestDefaultsAreTheDocumentedOnes(t *testing.T) {
	p := examplePolicy(t, `    claimWithin: 10m `, `    # `, `    pendingFor: 30m `, `    # `, `    reason: {min: 20} `, `    # `,
		`    incident: {required: true, pattern: "^INC-[0-9]+$"}`, ``, "    risk: high\n", "", ", channels: [slack, key]}", "}",
		"limits:\n  openPerPerson: 2 ", "# ", "  perHour: 10", "#", "    name: Alice Example\n", "", ", channels: [key]}", "}")
	got := *mustProfileOf(t, p, "cluster-admin")
	want := policy.Profile{
		ID: "cluster-admin", Description: "Everything on the cluster", Clusters: []string{"prod-eu-1"},
		Rights: policy.Rights{ClusterRole: "cluster-admin"},
		TTL:    policy.Lifetime{Default: 15 * time.Minute, Max: time.Hour}, Requesters: []string{"sre"},
		Approvals: policy.ApprovalRule{Count: 2, From: []string{"sre", "security"}, Each: []string{"security"},
			Channels: []record.Channel{record.ChannelSlack, record.ChannelKey}},
		ClaimWithin: 10 * time.Minute, PendingFor: 30 * time.Minute, ReasonMin: 10, Risk: policy.RiskHigh,
		Guards: []policy.Guard{"admission", "csr", "escalate", "impersonate", "tokens"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got, want := mustProfileOf(t, p, "payments-admin").Approvals.Channels, []record.Channel{record.ChannelKey}; !slices.Equal(got, want) {
		t.Errorf("channels of a critical profile: got %v, want %v", got, want)
	}
	if alice, _ := p.Person("alice"); alice.Name != "alice" {
		t.Errorf("name: got %q, want the id", alice.Name)
	}
	if got, want := p.Closing, (policy.ClosingRule{Within: 24 * time.Hour, RaiseQuorum: true}); got != want ||
		!slices.Equal(p.Responders, []string{"security"}) {
		t.Errorf("got closing %+v and responders %q, want %+v and security", got, p.Responders, want)
	}
	if admin, _ := p.Profile("cluster-admin"); !slices.Equal(admin.Guards, []policy.Guard{policy.GuardAdmission, policy.GuardCSR,
		policy.GuardEscalate, policy.GuardImpersonate,
		policy.GuardTokens}) {
		t.Errorf("got guards %q", admin.Guards)
	}
	all := bytes.Replace(policies.AccessExample, []byte("guards: [impersonate, escalate, tokens, csr, admission]"), []byte("guards: [all]"), 1)
	if p, err := policy.Parse("access.yaml", all); err != nil || len(mustProfileOf(t, p, "cluster-admin").Guards) != len(policy.Guards()) {
		t.Errorf("all guards: %v, want every one of %d", err, len(policy.Guards()))
	}
	if got, want := p.Limits, (policy.Limits{OpenPerPerson: 2, PerHour: 10}); got != want {
		t.Errorf("limits: got %+v, want %+v", got, want)
	}
}

func TestLongestPersonFitsIntoACertificate(t *testing.T) {
	if n := len(CommonName(strings.Repeat("a", policy.MaxPersonID), "bg-7k3m-9qx")); n > 64 {
		t.Errorf("the longest common name has %d characters, X.509 allows 64", n)
	}
}

func TestAccountsAndKeysResolveToOnePerson(t *testing.T) {
	p := examplePolicy(t, "slack: [{team: T0ACME, user: U03BOB}]",
		"slack: [{enterprise: E0ACME, team: T0ACME, user: U03BOB}, {team: T0LAB, user: U03BOB}]")
	for _, c := range []struct {
		account record.SlackAccount
		want    string
	}{
		{record.SlackAccount{Team: "T0ACME", User: "U02ALICE"}, "alice"},
		{record.SlackAccount{Enterprise: "E0ANY", Team: "T0ACME", User: "U02ALICE"}, "alice"}, // alice's enterprise is not in the policy
		{record.SlackAccount{Enterprise: "E0ACME", Team: "T0ACME", User: "U03BOB"}, "bob"},
		{record.SlackAccount{Enterprise: "E0EVIL", Team: "T0ACME", User: "U03BOB"}, ""},
		{record.SlackAccount{Team: "T0ACME", User: "U03BOB"}, ""},
		{record.SlackAccount{Team: "T0LAB", User: "U03BOB"}, "bob"},
		{record.SlackAccount{Team: "T0EVIL", User: "U02ALICE"}, ""}, // Slack Connect: the same user id from another workspace
		{record.SlackAccount{Team: "T0ACME", User: "U02alice"}, ""},
		{record.SlackAccount{User: "U02ALICE"}, ""},
		{record.SlackAccount{Team: "T0ACME"}, ""},
		{record.SlackAccount{}, ""},
	} {
		if got, ok := p.PersonBySlack(c.account); got != c.want || ok != (c.want != "") {
			t.Errorf("%+v: got %q, %v, want %q", c.account, got, ok, c.want)
		}
	}
	bob, _ := p.Person("bob")
	if len(bob.Keys) != 2 {
		t.Fatalf("bob has %d keys, want 2", len(bob.Keys))
	}
	for _, k := range bob.Keys {
		if got, ok := p.PersonByKey(k.Fingerprint); got != "bob" || !ok {
			t.Errorf("key %s: got %q, want bob", k.Comment, got)
		}
	}
	for _, fingerprint := range []string{"", "SHA256:", strings.ToLower(bob.Keys[0].Fingerprint)} {
		if got, ok := p.PersonByKey(fingerprint); ok {
			t.Errorf("key %q: got %s, want nobody", fingerprint, got)
		}
	}
}

func TestOnlyRequestersMayRequest(t *testing.T) {
	p := examplePolicy(t)
	for person, want := range map[string]string{
		"alice":   "cluster-admin@prod-eu-1 view@prod-eu-1 view@payments-eu-1 payments-admin@payments-eu-1 api-rescue@prod-eu-1",
		"carol":   "view@prod-eu-1 view@payments-eu-1",
		"mallory": "",
		"":        "",
	} {
		var got []string
		for _, e := range p.Eligible(person) {
			got = append(got, e.Profile.ID+"@"+e.Cluster.ID)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: got %s, want %s", person, got, want)
		}
		for i := range p.Profiles {
			x := &p.Profiles[i]
			if got, want := p.MayRequest(person, x), strings.Contains(want, x.ID+"@"); got != want {
				t.Errorf("%q asks for %s: got %v, want %v", person, x.ID, got, want)
			}
		}
	}
}

func TestUnknownIDsAreNotFound(t *testing.T) {
	p := examplePolicy(t)
	for _, id := range []string{"", "mallory", "ALICE", "prod-eu-1 "} {
		_, person := p.Person(id)
		_, team := p.Team(id)
		_, cluster := p.Cluster(id)
		_, profile := p.Profile(id)
		if person || team || cluster || profile {
			t.Errorf("%q: found person %v, team %v, cluster %v, profile %v", id, person, team, cluster, profile)
		}
	}
}

func TestFrozenQuorumSharesNothingWithThePolicy(t *testing.T) {
	p := examplePolicy(t, "members: [alice, bob, dave]", "members: [dave, alice, bob]")
	profile := mustProfileOf(t, p, "cluster-admin")
	want := policy.Quorum{
		Count: 2,
		From: []policy.FrozenTeam{{ID: "sre", Members: []string{"alice", "bob", "dave"}},
			{ID: "security", Members: []string{"carol", "erin"}}},
		Each:     []policy.FrozenTeam{{ID: "security", Members: []string{"carol", "erin"}}},
		Channels: []record.Channel{record.ChannelSlack, record.ChannelKey},
	}
	q := p.Freeze(profile)
	if d := cmp.Diff(want, q); d != "" {
		t.Fatal(d)
	}
	q.From[0].Members[0], q.Each[0].ID, q.Channels[0] = "mallory", "mallory", "mallory"
	if d := cmp.Diff(want, p.Freeze(profile)); d != "" {
		t.Errorf("writing to a frozen quorum changed the policy:\n%s", d)
	}
}

func TestQuorumsAreSorted(t *testing.T) {
	want := []policy.ProfileQuorum{
		{Profile: "api-rescue", Count: 2, From: []string{"security", "sre"}, Each: []string{"security"},
			Channels: []record.Channel{"key", "slack"}},
		{Profile: "cluster-admin", Count: 2, From: []string{"security", "sre"}, Each: []string{"security"},
			Channels: []record.Channel{"key", "slack"},
			Guards:   []policy.Guard{"admission", "csr", "escalate", "impersonate", "tokens"}},
		{Profile: "payments-admin", Count: 3, From: []string{"security", "sre"}, Each: []string{"security", "sre"},
			Channels: []record.Channel{"key"}},
		{Profile: "view", Count: 2, From: []string{"security", "sre"}, Channels: []record.Channel{"key", "slack"}},
	}
	if d := cmp.Diff(want, examplePolicy(t).Quorums()); d != "" {
		t.Error(d)
	}
}

func TestChangesAreSaidInWords(t *testing.T) {
	const (
		rule = "approvals: {count: 2, from: [sre, security], each: [security], channels: [slack, key]}"
		view = "\n  # Looking does not hurt much"
	)
	_, rest, _ := strings.Cut(string(policies.AccessExample), view)
	rest, _, _ = strings.Cut(rest, "\n  # Where a click")
	viewProfile := view + rest
	for _, c := range []struct {
		name         string
		edits        []string
		want, weaker []string
	}{
		{name: "a comment", edits: []string{"# Profiles are what", "# These are what"}},
		{name: "the order of a list", edits: []string{"[alice, bob, dave]", "[dave, bob, alice]", "from: [sre, security]",
			"from: [security, sre]"}},
		{name: "spelling of a duration", edits: []string{"max: 1h}", "max: 60m}"}},
		{name: "a higher count", edits: []string{rule, strings.Replace(rule, "2", "3", 1)},
			want: []string{"profile cluster-admin: approvals.count 2 → 3"}},
		{name: "a lower count", edits: []string{"count: 3", "count: 2"},
			want:   []string{"profile payments-admin: approvals.count 3 → 2"},
			weaker: []string{"profile payments-admin: approvals.count 3 → 2"}},
		{name: "a team that need not agree any more", edits: []string{"each: [sre, security]", "each: [sre]"},
			want:   []string{"profile payments-admin: approvals.each: security removed"},
			weaker: []string{"profile payments-admin: approvals.each: security removed"}},
		{name: "one more team that must agree", edits: []string{rule, strings.Replace(rule, "each: [", "each: [sre, ", 1)},
			want: []string{"profile cluster-admin: approvals.each: sre added"}},
		{name: "a lower risk", edits: []string{", channels: [key]", "", "risk: critical", "risk: low"},
			want:   []string{"profile payments-admin: approvals.channels: slack added", "profile payments-admin: risk critical → low"},
			weaker: []string{"profile payments-admin: approvals.channels: slack added"}},
		{name: "a channel less", edits: []string{"channels: [slack, key]", "channels: [key]"},
			want: []string{"profile cluster-admin: approvals.channels: slack removed"}},
		{name: "more people who may approve", edits: []string{"from: [sre, security], each: [security], channels: [slack, key]",
			"from: [security], each: [security], channels: [slack, key]"},
			want: []string{"profile cluster-admin: approvals.from: sre removed"}},
		{name: "a member less", edits: []string{"[alice, bob, dave]", "[alice, dave]"},
			want: []string{"team sre: bob removed"}},
		{name: "a new person in a team", edits: []string{
			"teams:\n", "  - {id: frank, name: Frank, slack: [{enterprise: E0ACME, team: T0ACME, user: U07FRANK}]}\nteams:\n", "[carol, erin]",
			"[carol, erin, frank]"},
			want: []string{"person frank added", "person frank: slack account E0ACME/T0ACME/U07FRANK added", "team security: frank added"}},
		{name: "another account, key and name", edits: []string{"user: U04CAROL", "user: U09CAROL", "name: Carol Example", "name: Carol Sample",
			"      - \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFjPikgRGmltqOLWlgB/dQsk5Sp/G0n1dRcPRevgF7HK bob-laptop\"\n", ""},
			want: []string{
				"person bob: key SHA256:" + fingerprint(t, "AAAAC3NzaC1lZDI1NTE5AAAAIFjPikgRGmltqOLWlgB/dQsk5Sp/G0n1dRcPRevgF7HK") + " removed",
				"person carol: name changed", "person carol: slack account T0ACME/U04CAROL removed",
				"person carol: slack account T0ACME/U09CAROL added"}},
		{name: "a new team and cluster", edits: []string{
			"teams:\n", "teams:\n  - {id: platform, members: [alice, erin]}\n", "clusters:\n",
			"clusters:\n  - {id: lab, server: \"https://10.9.0.1\"}\n"},
			want: []string{"cluster lab added: https://10.9.0.1", "team platform added", "team platform: alice added", "team platform: erin added"}},
		{name: "another server", edits: []string{"https://10.20.0.1:6443", "https://10.20.0.2:6443"},
			want: []string{"cluster prod-eu-1: server https://10.20.0.1:6443 → https://10.20.0.2:6443"}},
		{name: "a profile less", edits: []string{viewProfile, ""},
			want: []string{"profile view removed"}},
		{name: "a profile more", edits: []string{viewProfile, viewProfile + strings.NewReplacer("id: view", "id: shop", "{clusterRole: view}",
			"{role: edit, namespaces: [shop, cart]}",
			"from: [sre, security]", "from: [sre, security], each: [security], channels: [key]").Replace(rest[strings.Index(rest, "  - id"):])},
			want: []string{"profile shop added: Role edit in cart and shop on prod-eu-1 and payments-eu-1 for sre and security, approved by 2 of " +
				"sre and security with each of security by key"}},
		{name: "everything else of a profile", edits: []string{
			"description: Everything on the cluster", "description: All", "clusters: [prod-eu-1]", "clusters: [prod-eu-1, payments-eu-1]",
			"bind: {clusterRole: cluster-admin}", `bind: {group: "breakglass:admins"}`,
			"ttl: {default: 15m, max: 1h}", "ttl: {default: 20m, max: 2h}", "requesters: [sre]", "requesters: [sre, security]", "claimWithin: 10m",
			"claimWithin: 90s", "pendingFor: 30m", "pendingFor: 1h",
			"min: 20", "min: 30", `{required: true, pattern: "^INC-[0-9]+$"}`, "{required: false}"},
			want: []string{
				"profile cluster-admin: bind ClusterRole cluster-admin → group breakglass:admins", "profile cluster-admin: claimWithin 10m → 1m30s",
				"profile cluster-admin: clusters: payments-eu-1 added",
				"profile cluster-admin: description changed", "profile cluster-admin: incident.pattern ^INC-[0-9]+$ → none",
				"profile cluster-admin: incident.required true → false",
				"profile cluster-admin: pendingFor 30m → 1h", "profile cluster-admin: reason.min 20 → 30",
				"profile cluster-admin: requesters: security added",
				"profile cluster-admin: ttl.default 15m → 20m", "profile cluster-admin: ttl.max 1h → 2h"}},
		{name: "a guard less, another more", edits: []string{"tokens, csr, admission]", "tokens, csr, exec]"},
			want:   []string{"profile cluster-admin: guards: admission removed", "profile cluster-admin: guards: exec added"},
			weaker: []string{"profile cluster-admin: guards: admission removed"}},
		{name: "responders and closing", edits: []string{"responders: [security]", "responders: [sre]", "within: 24h", "within: 48h",
			"raiseQuorum: true", "raiseQuorum: false"},
			want: []string{"closing.raiseQuorum true → false", "closing.within 24h → 48h", "responders: security removed", "responders: sre added"}},
		{name: "limits", edits: []string{"openPerPerson: 2", "openPerPerson: 3", "perHour: 10", "perHour: 5"},
			want: []string{"limits: openPerPerson 2 → 3", "limits: perHour 10 → 5"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			old, new := examplePolicy(t), examplePolicy(t, c.edits...)
			if d := cmp.Diff(c.want, policy.Diff(old, new)); d != "" {
				t.Errorf("Diff (-want +got):\n%s", d)
			}
			if d := cmp.Diff(c.weaker, policy.Weaker(old.Quorums(), new)); d != "" {
				t.Errorf("Weaker (-want +got):\n%s", d)
			}
		})
	}
}

func fingerprint(t *testing.T, key string) string {
	t.Helper()
	k, _, _, _, err := ssh.ParseAuthorizedKey([]byte("ssh-ed25519 " + key))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(ssh.FingerprintSHA256(k), "SHA256:")
}

// TestSatisfiabilityIsExact compares the parser's verdict with a search through every way in which people can approve, judged
// by the quorum rule that requests are judged by.
func TestSatisfiabilityIsExact(t *testing.T) {
	names := []string{"ann", "ben", "cid", "dot", "eve"}
	rapid.Check(t, func(t *rapid.T) {
		people := names[:rapid.IntRange(1, len(names)).Draw(t, "people")]
		some := func(from []string, label string) []string {
			return rapid.SliceOfNDistinct(rapid.SampledFrom(from), 1, len(from), rapid.ID[string]).Draw(t, label)
		}
		means := map[string][]string{} // how each person can approve
		var doc strings.Builder
		doc.WriteString("version: 1\nclusters: [{id: c, server: \"https://c\"}]\npeople:\n")
		for i, id := range people {
			means[id] = some([]string{"slack", "key"}, "means of "+id)
			fmt.Fprintf(&doc, "- id: %s\n", id)
			if slices.Contains(means[id], "slack") {
				fmt.Fprintf(&doc, "  slack: [{team: T00, user: U0%d}]\n", i)
			}
			if slices.Contains(means[id], "key") {
				fmt.Fprintf(&doc, "  keys: [%q]\n", testKeyLine(byte(i)))
			}
		}
		members := map[string][]string{}
		var teams []string
		doc.WriteString("teams:\n")
		for i := range rapid.IntRange(1, 3).Draw(t, "teams") {
			id := fmt.Sprintf("t%d", i)
			teams = append(teams, id)
			members[id] = some(people, "members of "+id)
			fmt.Fprintf(&doc, "- {id: %s, members: [%s]}\n", id, strings.Join(members[id], ", "))
		}
		count := rapid.IntRange(policy.MinQuorum, 4).Draw(t, "count")
		requesters, from, channels := some(teams, "requesters"), some(teams, "from"), some([]string{"slack", "key"}, "channels")
		var must []string
		each := ""
		if rapid.Bool().Draw(t, "with each") {
			must = some(teams, "each")
			each = ", each: [" + strings.Join(must, ", ") + "]"
		}
		fmt.Fprintf(&doc, "profiles:\n- {id: p, clusters: [c], bind: {clusterRole: x}, ttl: {default: 1m, max: 1m}, requesters: [%s], "+
			"approvals: {count: %d, from: [%s]%s, channels: [%s]}}\n",
			strings.Join(requesters, ", "), count, strings.Join(from, ", "), each, strings.Join(channels, ", "))

		q := policy.Quorum{Count: count}
		for _, id := range from {
			q.From = append(q.From, policy.FrozenTeam{ID: id, Members: members[id]})
		}
		for _, id := range must {
			q.Each = append(q.Each, policy.FrozenTeam{ID: id, Members: members[id]})
		}
		for _, c := range channels {
			q.Channels = append(q.Channels, record.Channel(c))
		}
		var unlucky []string
		for _, id := range people {
			asks := slices.ContainsFunc(requesters, func(team string) bool { return slices.Contains(members[team], id) })
			if asks && !approvable(q, people, means, id, nil) {
				unlucky = append(unlucky, id)
			}
		}

		p, err := policy.Parse("p", []byte(doc.String()))
		if len(unlucky) == 0 {
			if err != nil {
				t.Fatalf("everybody could be approved, but: %v\n%s", err, doc.String())
			}
			checkPolicy(t, []byte(doc.String()), p)
			return
		}
		var bad *strictyaml.Error
		if !errors.As(err, &bad) {
			t.Fatalf("%v could never be approved, but: %v\n%s", unlucky, err, doc.String())
		}
		var named []string
		for _, problem := range bad.Problems {
			who, _, ok := strings.Cut(strings.TrimPrefix(problem.Text, "no request by "), " could ever be approved: ")
			if !ok || problem.Path != "profiles[0].approvals" {
				t.Fatalf("unexpected problem %+v\n%s", problem, doc.String())
			}
			named = append(named, regexp.MustCompile(`, | and `).Split(who, -1)...)
		}
		slices.Sort(named)
		if d := cmp.Diff(unlucky, named); d != "" {
			t.Fatalf("who could never be approved (-want +got):\n%s\n%v\n%s", d, err, doc.String())
		}
	})
}

// approvable tries every set of approvals by people, each by every channel that they have, except the requester.
func approvable(q policy.Quorum, people []string, means map[string][]string, requester string, given []policy.Approval) bool {
	if len(q.Missing(given)) == 0 {
		return true
	}
	if len(people) == 0 {
		return false
	}
	next, rest := people[0], people[1:]
	if next != requester {
		for _, by := range means[next] {
			if approvable(q, rest, means, requester, append(slices.Clone(given),
				policy.Approval{By: record.Actor{Person: next, Channel: record.Channel(by)}})) {
				return true
			}
		}
	}
	return approvable(q, rest, means, requester, given)
}

// testKeyLine is a public key in the form of authorized_keys, always the same for one seed.
func testKeyLine(seed byte) string {
	public, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize)).Public())
	if err != nil {
		panic(err) // an Ed25519 key is always one
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public)))
}

func FuzzParsePolicy(f *testing.F) {
	f.Add(policies.AccessExample)
	files, err := filepath.Glob("testdata/policy/bad/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := policy.Parse("access.yaml", data)
		if err == nil {
			checkPolicy(t, data, p)
			return
		}
		var bad *strictyaml.Error
		if !errors.As(err, &bad) || p != nil || len(bad.Problems) == 0 {
			t.Fatalf("got %v and %#v, want a strictyaml.Error with problems", p, err)
		}
		if !slices.IsSortedFunc(bad.Problems, func(a, b strictyaml.Problem) int { return a.Line - b.Line }) {
			t.Errorf("not sorted by line: %v", err)
		}
		lines := 1 + bytes.Count(data, []byte("\n"))
		for _, problem := range bad.Problems {
			if problem.Text == "" || problem.Line > lines {
				t.Errorf("problem without text or place in a file of %d lines: %+v", lines, problem)
			}
		}
	})
}

// checkPolicy holds what is true of every accepted policy, written down again without the parser's help.
func checkPolicy(t interface {
	Helper()
	Errorf(string, ...any)
}, data []byte, p *policy.Policy) {
	t.Helper()
	must := func(ok bool, what string, args ...any) {
		t.Helper()
		if !ok {
			t.Errorf("accepted although not: "+what+"\n%s", append(args, data)...)
		}
	}
	sum := sha256.Sum256(data)
	must(p.Digest == hex.EncodeToString(sum[:]), "digest of the bytes")
	must(len(data) <= 1<<20, "at most 1 MiB")

	seen := map[string]bool{}
	once := func(what ...string) {
		t.Helper()
		k := strings.Join(what, " ")
		must(!seen[k], "%s stands there once", k)
		seen[k] = true
	}
	id := func(kind, id string, most int) {
		t.Helper()
		once(kind, id)
		must(regexp.MustCompile(`^[a-z0-9._-]+$`).MatchString(id) && len(id) <= most, "%s id %q", kind, id)
	}
	for _, x := range p.People {
		id("person", x.ID, 32)
		must(x.Name != "" && len(x.Slack)+len(x.Keys) > 0, "%s has a name and a way in", x.ID)
		for _, a := range x.Slack {
			once("slack", a.Team, a.User)
			must(a.Team[0] == 'T' && strings.ContainsAny(a.User[:1], "UW") && (a.Enterprise == "" || a.Enterprise[0] == 'E'), "Slack ids %+v", a)
			owner, _ := p.PersonBySlack(a)
			must(owner == x.ID, "%+v resolves to %s", a, x.ID)
		}
		for _, k := range x.Keys {
			once("key", k.Fingerprint)
			must(k.Fingerprint == ssh.FingerprintSHA256(k.Public), "fingerprint of %s", k.Fingerprint)
			must(!strings.Contains(k.Public.Type(), "cert") && k.Public.Type() != "ssh-dss", "key type %s", k.Public.Type())
			owner, _ := p.PersonByKey(k.Fingerprint)
			must(owner == x.ID, "%s resolves to %s", k.Fingerprint, x.ID)
		}
	}
	for _, x := range p.Teams {
		id("team", x.ID, 63)
		must(len(x.Members) > 0, "team %s has members", x.ID)
		for _, m := range x.Members {
			once("member", x.ID, m)
			must(seen["person "+m], "member %s exists", m)
		}
	}
	for _, x := range p.Clusters {
		id("cluster", x.ID, 63)
		u, err := url.Parse(x.Server)
		must(err == nil && u.Hostname() != "" && x.Server == "https://"+u.Host, "server %s is scheme, host and port", x.Server)
	}
	must(len(p.Profiles) > 0, "there is a profile")
	for i := range p.Profiles {
		x := &p.Profiles[i]
		id("profile", x.ID, 63)
		for _, c := range x.Clusters {
			once("profile cluster", x.ID, c)
			must(seen["cluster "+c], "cluster %s exists", c)
		}
		must(len(x.Clusters) > 0 && len(x.Requesters) > 0 && len(x.Approvals.From) > 0, "%s has clusters, requesters and approvers", x.ID)
		for _, team := range slices.Concat(x.Requesters, x.Approvals.From, x.Approvals.Each) {
			must(seen["team "+team], "team %s exists", team)
		}

		r := x.Rights
		named := slices.DeleteFunc([]string{r.ClusterRole, r.Role, r.Group}, func(s string) bool { return s == "" })
		must(len(named) == 1 && named[0] != "system:masters", "%s binds one thing, not %v", x.ID, r)
		must(r.Group == "" || strings.HasPrefix(r.Group, "breakglass:") && len(r.Group) <= 64 && len(r.Namespaces) == 0, "group %q", r.Group)
		must(r.Role == "" || len(r.Namespaces) > 0, "role %q has namespaces", r.Role)

		for _, d := range []time.Duration{x.TTL.Default, x.TTL.Max, x.ClaimWithin, x.PendingFor} {
			must(d >= time.Minute && d <= 24*time.Hour && d == d.Truncate(time.Second), "%s: duration %v", x.ID, d)
		}
		must(x.TTL.Default <= x.TTL.Max, "%s: default lifetime within the longest", x.ID)
		must(x.ReasonMin >= 1 && x.ReasonMin <= 1000, "%s: reason %d", x.ID, x.ReasonMin)
		if re := x.Incident.Pattern; re != nil {
			for _, s := range []string{"INC-1", "", "a"} {
				must(!re.MatchString(s) || re.FindString(s) == s, "%s: pattern %v matches all of %q or nothing", x.ID, re, s)
			}
		}
		must(x.Risk == policy.RiskLow || x.Risk == policy.RiskHigh || x.Risk == policy.RiskCritical, "risk %q", x.Risk)
		must(x.Risk != policy.RiskCritical || slices.Equal(x.Approvals.Channels, []record.Channel{record.ChannelKey}),
			"%s is critical and takes %v", x.ID,
			x.Approvals.Channels)

		q := p.Freeze(x)
		must(q.Count >= 2 && len(q.Channels) > 0, "quorum %+v", q)
		for _, requester := range p.People {
			if !p.MayRequest(requester.ID, x) {
				continue
			}
			var all []policy.Approval // by everybody else, by every channel they have
			for _, other := range p.People {
				if other.ID != requester.ID && len(other.Slack) > 0 {
					all = append(all, policy.Approval{By: record.Actor{Person: other.ID, Channel: record.ChannelSlack}})
				}
				if other.ID != requester.ID && len(other.Keys) > 0 {
					all = append(all, policy.Approval{By: record.Actor{Person: other.ID, Channel: record.ChannelKey}})
				}
			}
			missing := q.Missing(all)
			must(len(missing) == 0, "%s's request for %s could be approved, missing %v", requester.ID, x.ID, missing)
		}
	}
	must(p.Limits.OpenPerPerson > 0 && p.Limits.PerHour > 0, "limits %+v", p.Limits)
	must(len(policy.Diff(p, p)) == 0 && len(policy.Weaker(p.Quorums(), p)) == 0, "a policy equals itself")
}
