package recert

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/text"
)

// The files of a bundle.
const (
	fileManifest  = "MANIFEST.sha256"      // every other file but the note, in the form of sha256sum
	fileNote      = "MANIFEST.sha256.note" // the ledger's signature of the manifest
	fileProof     = "ledger-proof"         // the campaign's ledger entries, each with the proof that it is in the ledger
	fileSnapshot  = "snapshot.json"
	fileItems     = "items.csv"
	fileDecisions = "decisions.csv"
	fileEmergency = "emergency-access.csv"
	fileControls  = "controls.csv"
	fileHTML      = "report.html"
	fileMarkdown  = "report.md"
	fileJSON      = "report.json"
)

// noteHeader begins what the ledger's key signs for a bundle. A checkpoint has three lines and begins with the ledger's name:
// neither can be taken for the other.
const noteHeader = "breakglass recertification bundle v1"

// The bounds of what is read from a bundle, which may come from anywhere. The largest campaign of before has some 400 MiB.
const (
	maxBundleFiles = 64
	maxBundle      = 512 << 20 // bytes of all files together, unpacked
	maxManifest    = 64 << 10
)

// Bundle is the files of an evidence bundle by name.
type Bundle map[string][]byte

// provedEntry is one line of the ledger proof.
type provedEntry struct {
	Leaf  []byte            `json:"leaf"`            // the bytes that are hashed
	Texts map[string]string `json:"texts,omitempty"` // erasable texts; the leaf commits to them
	Proof string            `json:"proof"`           // c2sp.org/tlog-proof
}

// Export makes the evidence bundle of a campaign. Reviewers and responders may have it. A campaign that is open gives one too,
// and says so; it verifies, but as not closed.
func (s *Service) Export(ctx context.Context, a record.Actor, id string) (Bundle, error) {
	if err := s.cfg.Campaigns.MayRead(ctx, a); err != nil {
		return nil, err
	}
	c, err := s.cfg.Campaigns.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	entries, err := s.cfg.Ledger.Stream(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	if c, err = campaign.Fold(entries); err != nil { // exactly what is proved
		return nil, err
	}
	snap, err := s.Snapshot(c)
	if err != nil {
		return nil, err
	}
	r, err := NewReport(c, snap, entries[len(entries)-1].Time)
	if err != nil {
		return nil, err
	}
	if c.Closed != nil && !r.Counts.AddUp() {
		return nil, fmt.Errorf("the counts of %s do not add up: %+v", c.ID, r.Counts)
	}
	var proofs bytes.Buffer
	lines := json.NewEncoder(&proofs)
	for _, e := range entries {
		p, err := s.cfg.Ledger.Prove(ctx, e.Seq)
		if err != nil {
			return nil, err
		}
		text, err := p.MarshalText()
		if err != nil {
			return nil, err
		}
		if err := lines.Encode(provedEntry{Leaf: e.Leaf, Texts: e.Texts, Proof: string(text)}); err != nil {
			return nil, err
		}
	}
	return makeBundle(r, snap.encode(), proofs.Bytes(), s.cfg.Signer)
}

// makeBundle renders, lists and signs. It is pure but for the signature.
func makeBundle(r *Report, snapshot, proofs []byte, signer note.Signer) (Bundle, error) {
	b := Bundle{fileSnapshot: snapshot, fileProof: proofs}
	for name, render := range r.renderers() {
		var buf bytes.Buffer
		if err := render(&buf); err != nil {
			return nil, fmt.Errorf("rendering %s: %w", name, err)
		}
		b[name] = buf.Bytes()
	}
	manifest := b.manifest()
	signed, err := note.Sign(&note.Note{Text: noteText(r.Campaign, manifest, len(b))}, signer)
	if err != nil {
		return nil, fmt.Errorf("signing the bundle: %w", err)
	}
	b[fileManifest], b[fileNote] = manifest, signed
	return b, nil
}

// renderers are the files that are made from a report. A verifier makes them again and compares them byte for byte: nothing in
// them may depend on anything but the report.
func (r *Report) renderers() map[string]func(io.Writer) error {
	return map[string]func(io.Writer) error{fileItems: r.ItemsCSV, fileDecisions: r.DecisionsCSV, fileEmergency: r.EmergencyCSV,
		fileHTML: r.HTML, fileMarkdown: r.Markdown, fileJSON: r.JSON,
		fileControls: func(w io.Writer) error { _, err := w.Write(controls()); return err }}
}

func (b Bundle) manifest() []byte {
	var out bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(b)) {
		if name != fileManifest && name != fileNote {
			fmt.Fprintf(&out, "%s  %s\n", text.SHA256(b[name]), name)
		}
	}
	return out.Bytes()
}

func noteText(campaign string, manifest []byte, files int) string {
	return fmt.Sprintf("%s\ncampaign %s\nmanifest %s\nfiles %d\n", noteHeader, campaign, text.SHA256(manifest), files)
}

// Verification is what a bundle turned out to be. Without problems, and with nothing unchecked or earlier, every file in it follows
// from the ledger's entries and the snapshot that they name. The words of reasons and notes do not: they can be erased, so the ledger has
// only a commitment to each, and the bundle lacks the salt that would prove them. They are what the daemon had and signed.
type Verification struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Campaign   string   `json:"campaign"`
	Ledger     string   `json:"ledger"`
	Closed     bool     `json:"closed"`
	Counts     Counts   `json:"counts"`
	Entries    int      `json:"entries"` // of the ledger, each proved
	Size       int64    `json:"size"`    // of the ledger, as the proofs know it
	Files      int      `json:"files"`
	Problems   []string `json:"problems"`
	Newer      bool     `json:"newer,omitempty"` // it was made by a newer release of this program, which is no sign of forgery
	// Unchecked are files that another version of this program made. They are hashed and signed, but could not be made again to
	// compare them.
	Unchecked []string `json:"unchecked,omitempty"`
	// Earlier are files that an earlier release made, in a form that is no longer made. They are hashed and signed, as they
	// always were; the tables of such a bundle are compared.
	Earlier []string `json:"earlier,omitempty"`
}

// Verify checks a bundle with nothing but the ledger's public key: the signature, every file's hash, that each ledger entry is
// in the ledger, that the entries make a campaign whose rules were kept and whose counts add up, that the snapshot is the one
// that the campaign was opened with, and that the report in all its forms and the tables are those that the two make. Of a bundle
// of before reports had the number of their form, it compares the tables. It asks no other system and changes nothing.
func Verify(b Bundle, verifier note.Verifier) Verification {
	v := Verification{APIVersion: APIVersion, Kind: "RecertificationVerification", Ledger: verifier.Name(), Files: len(b),
		Problems: []string{}}
	bad := func(format string, args ...any) { v.Problems = append(v.Problems, fmt.Sprintf(format, args...)) }

	listed := v.manifest(b, verifier, bad)
	for _, name := range []string{fileSnapshot, fileProof, fileControls, fileItems, fileDecisions, fileEmergency, fileHTML, fileMarkdown,
		fileJSON} {
		if _, ok := b[name]; !ok {
			bad("%s is missing", name)
		}
	}
	c, at := v.ledger(b[fileProof], verifier, bad)
	if c == nil {
		return v
	}
	if listed != "" && listed != c.ID {
		bad("the manifest is of %s, the ledger entries are of %s", listed, c.ID)
	}
	v.Campaign, v.Closed = c.ID, c.Closed != nil
	snap, err := decodeSnapshot(b[fileSnapshot], c.Opened.Snapshot)
	if err != nil {
		v.newer(err)
		bad("%v", err)
		return v
	}
	r, err := NewReport(c, snap, at) // as Export does
	if err != nil {
		bad("%v", err)
		return v
	}
	v.Counts = r.Counts
	if v.Closed && !r.Counts.AddUp() {
		bad("the counts do not add up: %+v", r.Counts)
	}
	var told struct {
		Campaign  string `json:"campaign"`
		Counts    Counts `json:"counts"`
		Rendering int    `json:"rendering"`
	}
	if err := json.Unmarshal(b[fileJSON], &told); err != nil || told.Campaign != c.ID || told.Counts != r.Counts {
		bad("%s does not say what the ledger says", fileJSON)
		return v
	}
	files := r.renderers()
	made, left := files, &v.Unchecked
	switch {
	case told.Rendering == rendering:
	case madeEarlier(c, told.Rendering):
		made, left = r.earlierTables(told.Rendering), &v.Earlier
	default:
		made = nil
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		render, known := made[name]
		if !known {
			*left = append(*left, name)
			continue
		}
		var again bytes.Buffer
		if err := render(&again); err != nil || !bytes.Equal(again.Bytes(), b[name]) {
			bad("%s does not say what the ledger says", name)
		}
	}
	return v
}

// newer notes that something is of a newer release. Only what is signed and unchanged can say so: whatever else is wrong comes first.
func (v *Verification) newer(err error) {
	v.Newer = v.Newer || len(v.Problems) == 0 && errors.Is(err, record.ErrNewerRelease)
}

// manifest checks the signature and the hashes, and returns which campaign was signed.
func (v *Verification) manifest(b Bundle, verifier note.Verifier, bad func(string, ...any)) (campaign string) {
	n, err := note.Open(b[fileNote], note.VerifierList(verifier))
	if err != nil {
		bad("the manifest is not signed by %s: wrong public key, or forged", verifier.Name())
		return ""
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) != 5 || lines[0] != noteHeader {
		bad("what is signed is no bundle")
		return ""
	}
	campaign = strings.TrimPrefix(lines[1], "campaign ")
	if n.Text != noteText(campaign, b[fileManifest], len(b)-2) {
		bad("%s is not the one that was signed", fileManifest)
	}
	if !bytes.Equal(b.manifest(), b[fileManifest]) {
		bad("the files are not those of the manifest: %s", b.differences())
	}
	return campaign
}

// differences names the files that are not as the manifest says.
func (b Bundle) differences() string {
	listed := map[string]string{}
	for line := range strings.Lines(string(b[fileManifest])) {
		hash, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		listed[name] = hash
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(b)) {
		switch hash, ok := listed[name]; {
		case name == fileManifest || name == fileNote:
		case !ok:
			out = append(out, name+" is not listed")
		case hash != text.SHA256(b[name]):
			out = append(out, name+" was changed")
		}
		delete(listed, name)
	}
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		out = append(out, name+" is missing")
	}
	if len(out) == 0 {
		return "the manifest itself is malformed"
	}
	return strings.Join(out, ", ")
}

// ledger proves every entry and folds them, and returns the time of the last; nil if they make no campaign.
func (v *Verification) ledger(text []byte, verifier note.Verifier, bad func(string, ...any)) (*campaign.Campaign, time.Time) {
	var entries []ledger.Entry
	last := int64(-1)
	in := bufio.NewScanner(bytes.NewReader(text))
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var line provedEntry
		if err := json.Unmarshal(in.Bytes(), &line); err != nil {
			bad("line %d of %s is unreadable", len(entries)+1, fileProof)
			return nil, time.Time{}
		}
		p, err := ledger.ParseProof([]byte(line.Proof))
		if err == nil {
			err = ledger.VerifyProof(line.Leaf, p, verifier)
		}
		if err != nil {
			bad("line %d of %s: %v", len(entries)+1, fileProof, err)
			return nil, time.Time{}
		}
		cp, err := ledger.ParseCheckpoint(p.Note, verifier)
		if err != nil {
			bad("line %d of %s: %v", len(entries)+1, fileProof, err)
			return nil, time.Time{}
		}
		e, err := ledger.ParseLeaf(line.Leaf)
		if err != nil || p.Index <= last {
			bad("line %d of %s is no entry, or out of order", len(entries)+1, fileProof)
			return nil, time.Time{}
		}
		last, v.Size = p.Index, max(v.Size, cp.Size)
		e.Seq, e.Texts = p.Index, line.Texts
		if len(entries) > 0 && e.Stream != entries[0].Stream {
			bad("line %d of %s is of another campaign", len(entries)+1, fileProof)
			return nil, time.Time{}
		}
		entries = append(entries, e)
	}
	v.Entries = len(entries)
	if err := in.Err(); err != nil {
		bad("reading %s: %v", fileProof, err)
		return nil, time.Time{}
	}
	c, err := campaign.Fold(entries)
	if v.newer(err); v.Newer {
		bad("%v", err)
		return nil, time.Time{}
	}
	if err != nil {
		bad("the ledger entries could not have happened: %v", err)
		return nil, time.Time{}
	}
	return c, entries[len(entries)-1].Time
}

// Dir writes the bundle into a new directory.
func (b Bundle) Dir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	for name, data := range b {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return fmt.Errorf("writing the bundle: %w", err)
		}
	}
	return nil
}

// TarGz writes the bundle as one compressed file. The same bundle gives the same bytes.
func (b Bundle) TarGz(w io.Writer) error {
	z := gzip.NewWriter(w)
	t := tar.NewWriter(z)
	for _, name := range slices.Sorted(maps.Keys(b)) {
		if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(b[name])), Format: tar.FormatPAX}); err != nil {
			return err
		}
		if _, err := t.Write(b[name]); err != nil {
			return err
		}
	}
	return errors.Join(t.Close(), z.Close())
}

// OpenBundle reads a bundle from a directory or a .tar.gz file. Nothing is unpacked to disk; names with directories in them,
// links, and what is too large are refused.
func OpenBundle(from string) (Bundle, error) {
	info, err := os.Stat(from)
	if err != nil {
		return nil, err
	}
	b := Bundle{}
	if info.IsDir() {
		return b, b.readDir(os.DirFS(from))
	}
	f, err := os.Open(from)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return b, b.readTar(f)
}

func (b Bundle) readDir(dir fs.FS) error {
	names, err := fs.ReadDir(dir, ".")
	if err != nil {
		return err
	}
	for _, n := range names {
		if !n.Type().IsRegular() {
			return fmt.Errorf("%s is no plain file: a bundle has nothing else", n.Name())
		}
		f, err := dir.Open(n.Name())
		if err != nil {
			return err
		}
		if err := errors.Join(b.take(n.Name(), f), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (b Bundle) readTar(r io.Reader) error {
	z, err := gzip.NewReader(r)
	if err != nil {
		return fmt.Errorf("the bundle is neither a directory nor a .tar.gz file: %w", err)
	}
	t := tar.NewReader(z)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the bundle: %w", err)
		}
		if h.Typeflag != tar.TypeReg {
			return fmt.Errorf("%q is no plain file: a bundle has nothing else", h.Name)
		}
		if err := b.take(h.Name, t); err != nil {
			return err
		}
	}
}

func (b Bundle) take(name string, r io.Reader) error {
	if name != path.Base(name) || strings.ContainsAny(name, "\n\\") {
		return fmt.Errorf("%q cannot be the name of a file in a bundle", name)
	}
	if _, twice := b[name]; twice || len(b) == maxBundleFiles {
		return fmt.Errorf("%q is there twice, or there are too many files", name)
	}
	left := maxBundle
	for _, data := range b {
		left -= len(data)
	}
	most := left
	if name == fileManifest || name == fileNote {
		most = min(left, maxManifest)
	}
	data, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
	if err != nil {
		return fmt.Errorf("reading %s of the bundle: %w", name, err)
	}
	if len(data) > most {
		return fmt.Errorf("%s is too large: a bundle has at most %d MiB unpacked, and its manifest %d KiB: this is none, or made to exhaust the "+
			"memory of the machine that opens it", name, maxBundle>>20, maxManifest>>10)
	}
	b[name] = data
	return nil
}
