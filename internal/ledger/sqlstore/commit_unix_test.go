//go:build unix

package sqlstore_test

import (
	"errors"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/ledger/storetest"
)

// A limit on the size of files makes the kernel refuse SQLite's writes in the
// middle of a commit, as a disk that fills up then would.
func TestCommitThatFailsHasAnUnknownOutcome(t *testing.T) {
	signer, verifier := storetest.Key(t)
	path := mustCreate(t)
	l := mustLedger(t, mustStore(t, path), signer, verifier)
	for n := range int64(3) {
		if _, err := l.Append(t.Context(), time.Now(), "a", n, nil, draft()); err != nil {
			t.Fatal(err)
		}
	}
	wal, err := os.Stat(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	limited := old
	limited.Cur = uint64(wal.Size()) + 6000 // one frame and a half
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limited); err != nil {
		t.Fatal(err)
	}
	_, err = l.Append(t.Context(), time.Now(), "a", 3, nil, draft())
	if back := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); back != nil {
		t.Fatal(back)
	}
	if !errors.Is(err, ledger.ErrUnknownOutcome) || !strings.Contains(err.Error(), "disk") {
		t.Errorf("Append = %v, want ErrUnknownOutcome that mentions the disk", err)
	}
	if _, err := l.Append(t.Context(), time.Now(), "a", 3, nil, draft()); !errors.Is(err, ledger.ErrUnknownOutcome) {
		t.Errorf("the next Append = %v, want ErrUnknownOutcome", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	store := mustStore(t, path)
	l = mustLedger(t, store, signer, verifier)
	report, err := ledger.VerifyStore(t.Context(), store, verifier)
	if err != nil || report.Err() != nil || report.Size != 3 {
		t.Errorf("after a restart: %+v, %v, want 3 sound entries", report, err)
	}
	if _, err := l.Append(t.Context(), time.Now(), "a", l.Size(), nil, draft()); err != nil {
		t.Errorf("Append after a restart = %v", err)
	}
}
