package recert_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/recert"
)

// What a bundle unpacks to is bounded, however little it is packed.
func TestBundleThatUnpacksToTooMuchIsRefused(t *testing.T) {
	zeros := make([]byte, 1<<20)
	for name, size := range map[string]int64{"report.html": 513 << 20, "MANIFEST.sha256": 65 << 10} {
		path := filepath.Join(t.TempDir(), "bomb.tar.gz")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
		if err != nil {
			t.Fatal(err)
		}
		w := tar.NewWriter(z)
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size}); err != nil {
			t.Fatal(err)
		}
		for left := size; left > 0; left -= int64(len(zeros)) {
			if _, err := w.Write(zeros[:min(left, int64(len(zeros)))]); err != nil {
				t.Fatal(err)
			}
		}
		if w.Close() != nil || z.Close() != nil || f.Close() != nil {
			t.Fatal("not written")
		}
		if _, err := recert.OpenBundle(path); err == nil || !strings.Contains(err.Error(), "at most 512 MiB unpacked") {
			t.Errorf("%s of %d bytes: %v", name, size, err)
		}
	}
}

// A bundle of a later release is no forged one: it has an entry of a kind that this release does not know. One that was changed as
// well is forged first of all.
func TestBundleOfANewerReleaseIsNotCalledForged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t) // whose ledger is not this release's in the end
		defer w.Stop()
		c := w.start(t)
		b, err := w.service.Export(t.Context(), byKey("carol"), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		entries, err := w.Ledger.Append(t.Context(), time.Now(), c.ID, c.Rev, nil,
			ledger.Draft{Kind: "campaign-delegated/v1", Body: []byte(`{}`)})
		if err != nil {
			t.Fatal(err)
		}
		p, err := w.Ledger.Prove(t.Context(), entries[0].Seq)
		if err != nil {
			t.Fatal(err)
		}
		proof, err := p.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		line, err := json.Marshal(map[string]any{"leaf": entries[0].Leaf, "proof": string(proof)})
		if err != nil {
			t.Fatal(err)
		}
		b["ledger-proof"] = append(bytes.Clone(b["ledger-proof"]), append(line, '\n')...)
		if v := recert.Verify(b, w.Verifier); v.Newer || len(v.Problems) == 0 {
			t.Errorf("it is not as it was signed: %+v", v)
		}
		if b, err = recert.Sign(b, c.ID, w.signer); err != nil {
			t.Fatal(err)
		}
		if v := recert.Verify(b, w.Verifier); !v.Newer || !strings.Contains(v.Problems[0], "newer release") {
			t.Errorf("as it was signed: %+v", v)
		}
	})
}
