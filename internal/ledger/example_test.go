package ledger_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/ledger/sqlstore"
)

// A ledger is written with its private key, exported, and verified anywhere with its public key alone.
func Example() {
	if err := example(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// sound: true, entries: 1
}

func example() (err error) {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "ledger")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	private, public, err := note.GenerateKey(rand.Reader, "ledger.example")
	if err != nil {
		return err
	}
	signer, err := note.NewSigner(private)
	if err != nil {
		return err
	}
	verifier, err := note.NewVerifier(public)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "ledger.db")
	if err := sqlstore.Create(ctx, path); err != nil {
		return err
	}
	store, err := sqlstore.Open(ctx, path)
	if err != nil {
		return err
	}
	l, err := ledger.Open(ctx, store, signer, verifier)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	fact := ledger.Draft{Kind: "said/v1", Body: []byte(`{}`)}
	if _, err := l.Append(ctx, time.Now(), "bg-0000-000", ledger.AnyVersion, nil, fact); err != nil {
		return err
	}
	out := filepath.Join(dir, "export")
	if err := ledger.Export(ctx, l, out); err != nil {
		return err
	}
	report, err := ledger.VerifyExport(ctx, out, verifier)
	if err != nil {
		return err
	}
	fmt.Printf("sound: %t, entries: %d\n", report.Err() == nil, report.Entries)
	return nil
}
