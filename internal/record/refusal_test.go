package record

import (
	"slices"
	"testing"
)

// Old clients read the joined sentence, adapters read the reasons one by one.
func TestCollectedReasonsAreJoinedAndStaySeparate(t *testing.T) {
	var p Problems
	if err := p.Refusal(); err != nil {
		t.Fatalf("no reason refuses: %v", err)
	}
	p.Add("policy/ttl", "ask for 1h or less", "%s is over the limit; it is %s", "3h", "1h")
	p.Add("key-hash", "", "the key hash is not 64 hex digits")
	r, ok := AsRefusal(p.Refusal())
	if !ok {
		t.Fatal("two reasons make no refusal")
	}
	if r.Class != ClassPolicy || r.Code != "policy/ttl,key-hash" || r.Next != "ask for 1h or less" ||
		r.Why != "3h is over the limit; it is 1h; the key hash is not 64 hex digits" {
		t.Errorf("joined: %+v", r)
	}
	want := Problems{{"policy/ttl", "3h is over the limit; it is 1h", "ask for 1h or less"},
		{"key-hash", "the key hash is not 64 hex digits", ""}}
	if !slices.Equal(r.Problems, want) {
		t.Errorf("one by one: %+v", r.Problems)
	}
}
