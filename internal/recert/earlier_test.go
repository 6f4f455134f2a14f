package recert_test

import (
	"bytes"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/breakglassd/breakglass/internal/ledger/storetest"
	"github.com/breakglassd/breakglass/internal/recert"
)

// The bundle was made by the release before reports had the number of their form (commit cce6dc9), with the key of storetest. In its
// campaign carol replaced a word, and gave a late one after the end.
func TestBundleOfAnEarlierReleaseVerifies(t *testing.T) {
	signer, verifier := storetest.Key(t)
	open := func() recert.Bundle {
		b, err := recert.OpenBundle(filepath.Join("testdata", "bundle-earlier.tar.gz"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	v := recert.Verify(open(), verifier)
	if len(v.Problems) > 0 || len(v.Unchecked) > 0 || !v.Closed || !v.Counts.AddUp() {
		t.Errorf("as it was made: %+v", v)
	}
	if diff := cmp.Diff([]string{"controls.csv", "report.html", "report.json", "report.md"}, v.Earlier); diff != "" {
		t.Error("only hashed and signed:", diff)
	}
	signed := func(b recert.Bundle) recert.Bundle {
		b, err := recert.Sign(b, v.Campaign, signer)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	// What that release compared is compared still, also against somebody with the ledger's key.
	for name, change := range map[string][2]string{"items.csv": {"kept", "open"}, "decisions.csv": {"carol", "erin"},
		"emergency-access.csv": {"alice", "mallory"}, "report.json": {`"kept": `, `"kept": 9`}} {
		b := open()
		was := b[name]
		if b[name] = bytes.Replace(was, []byte(change[0]), []byte(change[1]), 1); bytes.Equal(was, b[name]) {
			t.Fatalf("%s has no %q", name, change[0])
		}
		if got, want := recert.Verify(signed(b), verifier).Problems, []string{name + " does not say what the ledger says"}; !slices.Equal(got,
			want) {
			t.Errorf("another %s, signed: problems %q, want %q", name, got, want)
		}
	}
	// A later release is not an earlier one.
	b := open()
	b["report.json"] = bytes.Replace(b["report.json"], []byte("{\n"), []byte("{\n  \"rendering\": 1000,\n"), 1)
	if v := recert.Verify(signed(b), verifier); len(v.Earlier) > 0 || !slices.Contains(v.Unchecked, "decisions.csv") {
		t.Errorf("of a later release: %+v", v)
	}
}
