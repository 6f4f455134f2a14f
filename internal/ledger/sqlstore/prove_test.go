package sqlstore_test

import (
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/ledger/sqlstore"
)

// Everything of a stream is proven under one checkpoint, and a text with its salt is checked against the leaf alone.
func TestStreamIsProvenWithItsTexts(t *testing.T) {
	ctx, path := t.Context(), t.TempDir()+"/ledger.db"
	skey, vkey, err := ledger.NewKey("prove.test/ledger")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	if err := sqlstore.Create(ctx, path); err != nil {
		t.Fatal(err)
	}
	store, err := sqlstore.Open(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(ctx, store, signer, verifier)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, stream := range []string{"a", "b", "a", "c", "a"} {
		if _, err := l.Append(ctx, time.Now(), stream, ledger.AnyVersion, nil, ledger.Draft{Kind: "k/v1", Body: []byte("{}"),
			Texts: map[string]string{"reason": "in " + stream}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Erase(ctx, 2, "reason"); err != nil {
		t.Fatal(err)
	}
	entries, proofs, err := l.ProveStream(ctx, "a")
	if err != nil || len(entries) != 3 || len(proofs) != 3 {
		t.Fatalf("%d entries, %d proofs, %v", len(entries), len(proofs), err)
	}
	for i, e := range entries {
		if err := ledger.VerifyProof(e.Leaf, proofs[i], verifier); err != nil || proofs[i].Index != e.Seq ||
			string(proofs[i].Note) != string(proofs[0].Note) {
			t.Errorf("entry %d: %v", e.Seq, err)
		}
		absent, err := ledger.CheckTexts(e.Leaf, e.Texts, e.Salts)
		if erased := e.Seq == 2; err != nil || erased != (len(absent) == 1) {
			t.Errorf("entry %d: absent %q, %v", e.Seq, absent, err)
		}
	}
	e := entries[0]
	for name, bad := range map[string]map[string]string{"another text": {"reason": "in b"}, "a text more": {"reason": "in a", "note": "x"}} {
		if _, err := ledger.CheckTexts(e.Leaf, bad, e.Salts); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if _, err := ledger.CheckTexts(e.Leaf, e.Texts, nil); err == nil {
		t.Error("a text without its salt is taken")
	}
}
