package ledger

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed" // the README of an export
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// An export is a directory in the layout of c2sp.org/tlog-tiles, so that any
// tool that reads such a log over HTTP can read it, plus the erasable texts:
//
//	checkpoint            the signed note
//	tile/entries/000…     bundles of 256 leaves, each after its length
//	tile/0/000…           256 leaf hashes each; tile/1/… their roots, and so on
//	texts.jsonl           salt and text of every commitment, or that it was erased
//	README.txt            for the auditor: how to verify and to read it
const (
	checkpointFile = "checkpoint"
	textsFile      = "texts.jsonl"
	readmeFile     = "README.txt"

	tileHeight = 8 // of tlog-tiles
	tileWidth  = 1 << tileHeight

	exportFileMode = 0o600 // the texts are personal data
	maxReadme      = 64 << 10
)

//go:embed export-readme-v1.txt
var readme string

// readmes are the hashes of every README.txt that a release has written. It is not signed: what is not one of them is refused, so
// that an export tells its reader nothing that this project did not write. A text that changes gets a new file and a new line here.
var readmes = []string{
	"fb0112f9ad011aa5c89a9306119ba32a5ea1429a86874e04ce0cc5129bd4afe2",
}

// Export writes the log as it is now to a new directory, which can be verified
// with [VerifyExport] and the public key alone. The directory appears complete
// and durable or not at all. A log that does not match its own checkpoint is not
// exported.
func Export(ctx context.Context, l *Ledger, dir string) error {
	if err := export(ctx, l, filepath.Clean(dir)); err != nil {
		return fmt.Errorf("exporting the ledger to %s: %w", dir, err)
	}
	return nil
}

func export(ctx context.Context, l *Ledger, dir string) (err error) {
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return errors.New("it exists already, or cannot be looked up; name a new directory")
	}
	parent := filepath.Dir(dir)
	tmp, err := os.MkdirTemp(parent, filepath.Base(dir)+".incomplete-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	if err := l.store.View(ctx, func(v View) error { return exportTo(tmp, v, l.verifier) }); err != nil {
		return err
	}
	if err := syncTree(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	return SyncDir(parent)
}

func exportTo(dir string, v View, verifier note.Verifier) error {
	head, err := v.Head()
	if err != nil {
		return err
	}
	c := newChecker(nil)
	t := tiler{emit: func(name string, data []byte) error {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		return writeFile(path, data, exportFileMode)
	}}
	texts, err := os.OpenFile(filepath.Join(dir, textsFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, exportFileMode)
	if err != nil {
		return err
	}
	defer texts.Close() // for the early returns; the last line below reports its error
	w := bufio.NewWriter(texts)
	err = v.Records(0, 1<<62, func(r Record) error {
		lf, problems := r.check()
		hashes := c.leaf(r.Seq, r.Leaf, lf, r.Texts, problems)
		for _, text := range r.Texts {
			if _, err := w.Write(textLine(r.Seq, text)); err != nil {
				return err
			}
		}
		return t.add(r.Leaf, hashes)
	})
	if err != nil {
		return err
	}
	if c.finish(head.Note, verifier); len(c.report.Problems) > 0 {
		return c.report.Err()
	}
	if err := t.flush(); err != nil {
		return err
	}
	if err := errors.Join(t.emit(checkpointFile, head.Note), t.emit(readmeFile, []byte(readme))); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := texts.Sync(); err != nil {
		return err
	}
	return texts.Close()
}

// syncTree makes every directory entry below dir durable.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return SyncDir(path)
	})
}

// A tiler cuts a growing log into the files of tlog-tiles, and hands over each
// when it is full, the others on flush.
type tiler struct {
	emit   func(name string, data []byte) error
	bundle tile
	levels []tile
}

type tile struct {
	index int64
	width int
	data  []byte
}

// add takes the next leaf and the hashes it adds to the tree.
func (t *tiler) add(leaf []byte, hashes []tlog.Hash) error {
	prefixed := append(binary.BigEndian.AppendUint16(nil, uint16(len(leaf))), leaf...)
	if err := t.bundle.add("entries", prefixed, t.emit); err != nil {
		return err
	}
	for h := 0; h < len(hashes); h += tileHeight {
		level := h / tileHeight
		if level == len(t.levels) {
			t.levels = append(t.levels, tile{})
		}
		if err := t.levels[level].add(strconv.Itoa(level), hashes[h][:], t.emit); err != nil {
			return err
		}
	}
	return nil
}

func (t *tiler) flush() error {
	err := t.bundle.flush("entries", t.emit)
	for level := range t.levels {
		err = errors.Join(err, t.levels[level].flush(strconv.Itoa(level), t.emit))
	}
	return err
}

func (t *tile) add(level string, data []byte, emit func(string, []byte) error) error {
	t.data = append(t.data, data...)
	if t.width++; t.width < tileWidth {
		return nil
	}
	return t.flush(level, emit)
}

func (t *tile) flush(level string, emit func(string, []byte) error) error {
	if t.width == 0 {
		return nil
	}
	err := emit(tilePath(level, t.index, t.width), t.data)
	*t = tile{index: t.index + 1, data: t.data[:0]}
	return err
}

// tilePath spells the number of a tile in groups of three digits, all but the
// last with an x in front: tile 1234067 of level 0 is tile/0/x001/x234/067.
func tilePath(level string, index int64, width int) string {
	path := fmt.Sprintf("%03d", index%1000)
	for index >= 1000 {
		index /= 1000
		path = fmt.Sprintf("x%03d/%s", index%1000, path)
	}
	path = "tile/" + level + "/" + path
	if width < tileWidth {
		path += ".p/" + strconv.Itoa(width)
	}
	return path
}

// IsExport reports whether a directory has anything of an export in it. One of which only a part is left is a damaged one.
func IsExport(dir string) bool {
	for _, name := range []string{checkpointFile, textsFile, "tile"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	return false
}

// An Archive reads an export. What it returns is well-formed but proven only if
// [VerifyExport] found no problem in the same directory.
type Archive struct {
	dir  string
	note []byte
	size int64 // as the checkpoint claims
}

// OpenExport opens a directory written by [Export]. It verifies nothing.
func OpenExport(dir string) (*Archive, error) {
	a := &Archive{dir: dir}
	var err error
	if a.note, err = a.read(checkpointFile, maxNote); err != nil {
		return nil, fmt.Errorf("opening the export %s: %w", dir, err)
	}
	lines := lines{rest: string(a.note)}
	lines.next("")
	if a.size, err = parseDecimal(lines.next("")); err != nil {
		return nil, fmt.Errorf("opening the export %s: checkpoint size: %w", dir, err)
	}
	return a, nil
}

// Checkpoint returns the export's checkpoint if verifier's key signed it.
func (a *Archive) Checkpoint(verifier note.Verifier) (Checkpoint, error) {
	return ParseCheckpoint(a.note, verifier)
}

// Entries yields every entry in order. If yield returns an error, Entries ends
// with it.
func (a *Archive) Entries(ctx context.Context, yield func(Entry) error) error {
	return a.records(ctx, func(r Record) error {
		lf, err := parseLeaf(r.Leaf)
		if err != nil {
			return fmt.Errorf("%w: entry %d: %w", ErrCorrupt, r.Seq, err)
		}
		r.Stream, r.StreamSeq = lf.Stream, lf.StreamSeq
		h := tlog.RecordHash(r.Leaf)
		r.Hashes = h[:]
		e, err := r.entry()
		if err != nil {
			return err
		}
		return yield(e)
	})
}

// records yields every record in order, with Seq, Leaf and Texts only.
func (a *Archive) records(ctx context.Context, yield func(Record) error) (err error) {
	f, err := os.Open(filepath.Join(a.dir, textsFile))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	texts := textReader{r: bufio.NewReaderSize(f, 8*MaxText)}
	if err := texts.advance(); err != nil {
		return err
	}
	for first := int64(0); first < a.size; first += tileWidth {
		if err := ctx.Err(); err != nil {
			return err
		}
		width := int(min(tileWidth, a.size-first))
		bundle, err := a.read(tilePath("entries", first/tileWidth, width), tileWidth*(2+MaxLeaf))
		if err != nil {
			return err
		}
		for i := range width {
			seq := first + int64(i)
			if len(bundle) < 2 || len(bundle)-2 < int(binary.BigEndian.Uint16(bundle)) {
				return fmt.Errorf("the entry bundle ends inside entry %d", seq)
			}
			end := 2 + int(binary.BigEndian.Uint16(bundle))
			r := Record{Seq: seq, Leaf: bundle[2:end:end]}
			bundle = bundle[end:]
			for texts.seq == seq {
				r.Texts = append(r.Texts, texts.text)
				if err := texts.advance(); err != nil {
					return err
				}
			}
			if err := yield(r); err != nil {
				return err
			}
		}
		if len(bundle) != 0 {
			return fmt.Errorf("%d bytes follow entry %d in its bundle", len(bundle), first+int64(width)-1)
		}
	}
	if texts.seq != noMoreTexts {
		return fmt.Errorf("%s has texts of an entry %d that is not there or out of order", textsFile, texts.seq)
	}
	return nil
}

// read reads a file of the export that must not be longer than limit.
func (a *Archive) read(name string, limit int64) (data []byte, err error) {
	f, err := os.Open(filepath.Join(a.dir, filepath.FromSlash(name)))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	data, err = io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is longer than %d bytes", name, limit)
	}
	return data, err
}

// VerifyExport checks a directory written by [Export] as [VerifyStore] checks a
// store, and in addition that it holds exactly the files it should. It needs the
// public key and nothing else. The error is not nil only if ctx was done before
// the end.
func VerifyExport(ctx context.Context, dir string, verifier note.Verifier, anchors ...Checkpoint) (Report, error) {
	c := newChecker(anchors)
	a, err := OpenExport(dir)
	if err != nil {
		c.problem("%v", err)
		return c.report, ctx.Err()
	}
	expected := map[string]bool{checkpointFile: true, textsFile: true, readmeFile: true}
	t := tiler{emit: func(name string, data []byte) error {
		expected[name] = true
		stored, err := a.read(name, int64(len(data)))
		if err != nil || !bytes.Equal(stored, data) {
			c.problem("%s is missing or is not what the entries amount to", name)
		}
		if strings.HasPrefix(name, "tile/0/") { // full or the last: these are the hashes of the entries read last
			first := c.edge.size - int64(len(data)/tlog.HashSize)
			for at := 0; at < min(len(data), len(stored)); at += tlog.HashSize {
				if end := at + tlog.HashSize; end > len(stored) || !bytes.Equal(stored[at:end], data[at:end]) {
					c.differs(first + int64(at/tlog.HashSize))
					break
				}
			}
		}
		return nil
	}}
	err = a.records(ctx, func(r Record) error {
		lf, err := parseLeaf(r.Leaf)
		var problems []string
		if err != nil {
			problems = []string{err.Error()}
		} else {
			problems = checkTexts(lf, r.Texts)
		}
		return t.add(r.Leaf, c.leaf(r.Seq, r.Leaf, lf, r.Texts, problems))
	})
	if ctx.Err() != nil {
		return c.report, ctx.Err()
	}
	if err := errors.Join(err, t.flush()); err != nil {
		c.problem("after entry %d: %v", c.report.Entries-1, err)
	}
	c.finish(a.note, verifier)
	if text, err := a.read(readmeFile, maxReadme); err == nil { // earlier releases wrote none
		if sum := sha256.Sum256(text); !slices.Contains(readmes, hex.EncodeToString(sum[:])) {
			c.problem("%s is none that a release up to this one writes; it is not signed: do not follow it", readmeFile)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		c.problem("%s: %v", readmeFile, err)
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || !expected[filepath.ToSlash(name)] || !d.Type().IsRegular() {
			c.problem("%s does not belong to the export", path)
		}
		return nil
	})
	if err != nil {
		c.problem("listing the export: %v", err)
	}
	return c.report, nil
}

// textLine is the one line of texts.jsonl that stands for a text.
// It does its own quoting so that the bytes are the same for all time, whatever
// a JSON package prefers to escape.
func textLine(seq int64, t Text) []byte {
	b := []byte(`{"seq":`)
	b = strconv.AppendInt(b, seq, 10)
	b = append(b, `,"name":`...)
	b = appendQuoted(b, t.Name)
	if t.Erased {
		return append(b, `,"erased":true}`+"\n"...)
	}
	b = append(b, `,"salt":"`...)
	b = base64.StdEncoding.AppendEncode(b, t.Salt)
	b = append(b, `","text":`...)
	b = appendQuoted(b, t.Text)
	return append(b, "}\n"...)
}

func appendQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ':
			b = fmt.Appendf(b, `\u%04x`, c)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

const noMoreTexts = -1

// A textReader reads texts.jsonl one line ahead.
type textReader struct {
	r    *bufio.Reader
	seq  int64 // of the line read last, noMoreTexts at the end
	text Text
}

func (t *textReader) advance() error {
	line, err := t.r.ReadSlice('\n')
	if errors.Is(err, io.EOF) && len(line) == 0 {
		t.seq = noMoreTexts
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s ends inside a line or has one that is too long", textsFile)
	}
	var row struct {
		Seq    int64  `json:"seq"`
		Name   string `json:"name"`
		Salt   []byte `json:"salt"`
		Text   string `json:"text"`
		Erased bool   `json:"erased"`
	}
	err = json.Unmarshal(line, &row)
	t.seq, t.text = row.Seq, Text{Name: row.Name, Salt: row.Salt, Text: row.Text, Erased: row.Erased}
	if err != nil || row.Seq < 0 || !bytes.Equal(textLine(t.seq, t.text), line) {
		return fmt.Errorf("%s has a line after entry %d that is not in canonical form", textsFile, t.seq)
	}
	return nil
}
