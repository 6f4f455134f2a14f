package policy_test

import (
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// What Diff writes, old ledgers hold: its reader understands each way in which a person, a key and an account come and go.
func TestChangesAreUnderstoodByTheirReader(t *testing.T) {
	read := func(text string) *policy.Policy {
		p, err := policy.Parse("access.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	before := read(access)
	key := before.People[2].Keys[0].Fingerprint
	account := record.SlackAccount{Team: "T0123ABCD", User: "U0123ABCD"}
	bob := `{id: bob, keys: ["` + keys + `FrRvrQFBQYQ6K3HjxfD3lrbEGwmyt1e2aMzJrIsQRo4"]`
	with := read(strings.NewReplacer(bob, bob+", slack: [{team: T0123ABCD, user: U0123ABCD}]", "\nclusters:",
		"\n  - {id: ops, members: [bob]}\nclusters:").Replace(access))
	for _, c := range []struct {
		what    string
		is, was *policy.Policy
		element policy.Element
	}{
		{"an account", with, before, policy.AccountElement("bob", account)},
		{"a new team's member", with, before, policy.MemberElement("ops", "bob")},
		{"a new person's key", before, &policy.Policy{}, policy.KeyElement("carol", key)},
		{"a new team's members", before, &policy.Policy{}, policy.MemberElement("sre", "carol")},
	} {
		if came := policy.Changes(policy.Diff(c.was, c.is)); !came.Added(c.element) || came.Removed(c.element) {
			t.Errorf("%s: %q is not added by %q", c.what, c.element, came)
		}
	}
	went := policy.Changes(policy.Diff(with, before))
	if e := policy.AccountElement("bob", account); !went.Removed(e) || went.Added(e) {
		t.Errorf("%q is not removed by %q", e, went)
	}
	if got, want := policy.MemberElement("sre", "bob"), policy.Element("team sre: bob"); got != want {
		t.Errorf("an element of a ledger of before is called %q, want %q", got, want)
	}
	if got, want := policy.KeyElement("bob", "SHA256:x"), policy.Element("person bob: key SHA256:x"); got != want {
		t.Errorf("an element of a ledger of before is called %q, want %q", got, want)
	}
	if old := (policy.Changes{"team sre: bob added", "person bob: key SHA256:x removed"}); !old.Added(policy.MemberElement("sre", "bob")) ||
		!old.Removed(policy.KeyElement("bob", "SHA256:x")) {
		t.Errorf("the sentences of old ledgers are not understood: %q", old)
	}
}
