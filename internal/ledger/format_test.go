package ledger

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

var update = flag.Bool("update", false, "rewrite golden files")

// golden compares got with a file that a released version may have written: if
// it differs, ledgers that exist would no longer verify.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func testLeaf() leaf {
	salt := bytes.Repeat([]byte{7}, saltSize)
	return leaf{
		Stream: "7Q4M2K", StreamSeq: 3, Kind: "approved", Time: time.Date(2026, 11, 22, 3, 45, 0, 120, time.UTC),
		Commitments: []commitment{{"comment", commit(salt, "comment", "go ahead")}, {"name", commit(salt, "name", "")}},
		Body:        []byte("{\"by\":\"carol\"}\n\n\xff\x00"),
	}
}

// The fixed key of package storetest, which a test in this package cannot import.
func testKey(t testing.TB) (note.Signer, note.Verifier) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte("PRIVATE+KEY+ledger.example.com/test+225a5145+AXptc+eATlgTFs9i+s/5ihYBhCsGvdj/KX/FgiAP4uTA\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	signer, verifier, err := LoadSigner(path)
	if err != nil {
		t.Fatal(err)
	}
	return signer, verifier
}

// testProof proves leaf 5 of 11.
func testProof(t testing.TB) (leaf []byte, p Proof, verifier note.Verifier) {
	t.Helper()
	signer, verifier := testKey(t)
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			hashes[i] = stored[x]
		}
		return hashes, nil
	})
	var e edge
	for i := range 11 {
		stored = append(stored, e.add(tlog.RecordHash(fmt.Appendf(nil, "leaf %d", i)))...)
	}
	cp, err := SignCheckpoint(e.size, e.root(), signer)
	if err != nil {
		t.Fatal(err)
	}
	hashes, err := tlog.ProveRecord(e.size, 5, read)
	if err != nil {
		t.Fatal(err)
	}
	return []byte("leaf 5"), Proof{Index: 5, Hashes: hashes, Note: cp.Note}, verifier
}

func mustText(t testing.TB, p Proof) []byte {
	t.Helper()
	text, err := p.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestFormatsHaveNotChanged(t *testing.T) {
	lf := testLeaf()
	golden(t, "leaf.golden", lf.encode())
	signer, _ := testKey(t)
	empty, err := SignCheckpoint(0, EmptyRoot(), signer)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "checkpoint-empty.golden", empty.Note)
	_, p, _ := testProof(t)
	golden(t, "checkpoint-11.golden", p.Note)
	golden(t, "proof.golden", mustText(t, p))
	p.Extra = []byte("extra data")
	golden(t, "proof-extra.golden", mustText(t, p))
	golden(t, "texts.golden", append(textLine(3, Text{Name: `a"\b`, Salt: []byte{1, 2, 3},
		Text: "a\"\\/<&>\n\x00\x7fé\u2028\U0001f511"}),
		textLine(4, Text{Name: "n", Erased: true})...))
}

func TestLeafReadsBack(t *testing.T) {
	want := testLeaf()
	got, err := parseLeaf(want.encode())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLeafRefusesEverySecondSpelling(t *testing.T) {
	lf := testLeaf()
	good := string(lf.encode())
	mac := lf.Commitments[0].MAC.String()
	for name, bad := range map[string]string{
		"empty":               "",
		"other version":       strings.Replace(good, "v1", "v2", 1),
		"no empty line":       strings.ReplaceAll(good, "\n\n", "\n"),
		"carriage return":     strings.Replace(good, "\n", "\r\n", 1),
		"leading zero":        strings.Replace(good, "number 3", "number 03", 1),
		"plus sign":           strings.Replace(good, "number 3", "number +3", 1),
		"number zero":         strings.Replace(good, "number 3", "number 0", 1),
		"huge number":         strings.Replace(good, "number 3", "number 99999999999999999999", 1),
		"double space":        strings.Replace(good, "kind approved", "kind  approved", 1),
		"trailing space":      strings.Replace(good, "kind approved", "kind approved ", 1),
		"empty kind":          strings.Replace(good, "kind approved", "kind ", 1),
		"lines swapped":       strings.Replace(good, "number 3\nkind approved", "kind approved\nnumber 3", 1),
		"comma in time":       strings.Replace(good, "00.000000120Z", "00,000000120Z", 1),
		"short time":          strings.Replace(good, ".000000120Z", ".00000012Z", 1),
		"zone":                strings.Replace(good, "120Z", "120+00:00", 1),
		"second 60":           strings.Replace(good, ":00.0", ":60.0", 1),
		"texts swapped":       strings.Replace(strings.Replace(good, "text comment", "text zz", 1), "text name", "text aa", 1),
		"text twice":          strings.Replace(good, "text name", "text comment", 1),
		"text without hash":   strings.Replace(good, " "+mac, "", 1),
		"short hash":          strings.Replace(good, mac, mac[:40], 1),
		"hash with spare bit": strings.Replace(good, mac, mac[:42]+string(mac[42]+1)+"=", 1),
		"unknown line":        strings.Replace(good, "text name", "tent name", 1),
		"too long":            good + strings.Repeat("x", MaxLeaf),
	} {
		if bad == good {
			t.Fatalf("%s: the case changes nothing", name)
		}
		if lf, err := parseLeaf([]byte(bad)); err == nil {
			t.Errorf("%s: accepted as %+v", name, lf)
		}
	}
}

func TestEveryFlippedByteOfACheckpointIsRefused(t *testing.T) {
	_, p, verifier := testProof(t)
	if _, err := ParseCheckpoint(p.Note, verifier); err != nil {
		t.Fatal(err)
	}
	for i := range p.Note {
		for bit := range 8 {
			bad := bytes.Clone(p.Note)
			bad[i] ^= 1 << bit
			if cp, err := ParseCheckpoint(bad, verifier); err == nil {
				t.Errorf("byte %d bit %d: accepted as %+v:\n%s", i, bit, cp, bad)
			}
		}
		if _, err := ParseCheckpoint(p.Note[:i], verifier); err == nil {
			t.Errorf("cut to %d bytes: accepted", i)
		}
	}
}

func TestCheckpointRefusesWhatItDoesNotUnderstand(t *testing.T) {
	signer, verifier := testKey(t)
	sign := func(text string) []byte {
		t.Helper()
		signed, err := note.Sign(&note.Note{Text: text}, signer)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	origin, root := signer.Name(), EmptyRoot().String()
	good := sign(origin + "\n3\n" + root + "\n")
	if _, err := ParseCheckpoint(good, verifier); err != nil {
		t.Fatal(err)
	}
	signature := good[bytes.LastIndex(good, []byte("\n\n"))+2:]
	for name, bad := range map[string][]byte{
		"other origin":       sign("other.example.com\n3\n" + root + "\n"),
		"extension line":     sign(origin + "\n3\n" + root + "\nmore\n"),
		"two lines":          sign(origin + "\n3\n"),
		"leading zero":       sign(origin + "\n03\n" + root + "\n"),
		"negative":           sign(origin + "\n-3\n" + root + "\n"),
		"short root":         sign(origin + "\n3\n" + root[:40] + "\n"),
		"go.sum tree":        sign(string(tlog.FormatTree(tlog.Tree{N: 3, Hash: EmptyRoot()}))),
		"repeated signature": append(bytes.Clone(good), signature...),
		"no signature":       good[:len(good)-len(signature)],
		"too long":           append(bytes.Clone(good), bytes.Repeat([]byte("— x AAAAAAAA\n"), 2000)...),
		"unsigned":           []byte("x"),
		"nothing":            nil,
	} {
		if cp, err := ParseCheckpoint(bad, verifier); err == nil {
			t.Errorf("%s: accepted as %+v", name, cp)
		}
	}
	cosigned := append(bytes.Clone(good), "— witness.example.com "+base64.StdEncoding.EncodeToString(make([]byte, 76))+"\n"...)
	if cp, err := ParseCheckpoint(cosigned, verifier); err != nil || cp.Size != 3 || !bytes.Equal(cp.Note, cosigned) {
		t.Errorf("a cosigned checkpoint = %+v, %v, want it accepted", cp, err)
	}
}

func TestEveryFlippedByteOfAProofIsRefused(t *testing.T) {
	leaf, p, verifier := testProof(t)
	text := mustText(t, p)
	verify := func(text []byte) error {
		p, err := ParseProof(text)
		if err != nil {
			return err
		}
		return VerifyProof(leaf, p, verifier)
	}
	if err := verify(text); err != nil {
		t.Fatal(err)
	}
	for i := range text {
		for bit := range 8 {
			bad := bytes.Clone(text)
			bad[i] ^= 1 << bit
			if verify(bad) == nil {
				t.Errorf("byte %d bit %d: accepted:\n%s", i, bit, bad)
			}
		}
		if verify(text[:i]) == nil {
			t.Errorf("cut to %d bytes: accepted", i)
		}
	}
	for i := range p.Hashes {
		short := p
		short.Hashes = append(append(tlog.RecordProof{}, p.Hashes[:i]...), p.Hashes[i+1:]...)
		if verify(mustText(t, short)) == nil {
			t.Errorf("accepted without hash %d", i)
		}
	}
}

func TestProofOfTheSpecificationIsRead(t *testing.T) {
	// The example of c2sp.org/tlog-proof, whose signatures are abridged there and
	// whose extra line is not padded base64, so that line is left out.
	text := `c2sp.org/tlog-proof@v1
index 73894
gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=
B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=
EKNzoDWG8LGC0Yp9o+sv3qllpMP9uHQ9B20KNL+Q1zs=
RoopEkOdqkYqMB4MJXrbt/hMjOxsVn0IrWjpz1ZMMes=
AHCioX9nLjsrse6YhjRRmk1WUEirVOLLRoOQ6vfO5vk=

example.com/fancylog
109482
sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=

— example.com/fancylog hI2DJw1roloI=
`
	p, err := ParseProof([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if p.Index != 73894 || len(p.Hashes) != 5 || !bytes.HasPrefix(p.Note, []byte("example.com/fancylog\n109482\n")) {
		t.Errorf("proof = %+v", p)
	}
	if got := mustText(t, p); string(got) != text {
		t.Errorf("written again:\n%s", got)
	}
}

func TestKeyFileIsPrivateAndNeverOverwritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.key")
	vkey, err := CreateKey(path, "ledger.example.com/prod/2026")
	if err != nil {
		t.Fatal(err)
	}
	signer, verifier, err := LoadSigner(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	if verifier.KeyHash() != want.KeyHash() || signer.Name() != "ledger.example.com/prod/2026" {
		t.Errorf("the key read back is %s %08x, want %08x", signer.Name(), verifier.KeyHash(), want.KeyHash())
	}
	cp, err := SignCheckpoint(0, EmptyRoot(), signer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseCheckpoint(cp.Note, want); err != nil {
		t.Errorf("the published key does not verify: %v", err)
	}
	if _, err := CreateKey(path, "ledger.example.com/prod/2026"); err == nil {
		t.Error("CreateKey replaced a key")
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o644} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, _, err := LoadSigner(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %o: LoadSigner = %v, want a refusal that says what to do", mode, err)
		}
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	secret := string(content[:len(content)-2]) // the key is cut short, and so malformed
	broken := filepath.Join(t.TempDir(), "broken.key")
	if err := os.WriteFile(broken, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := LoadSigner(broken); err == nil || strings.Contains(err.Error(), secret[len(secret)-20:]) {
		t.Errorf("LoadSigner of a broken key = %v, want an error without the key", err)
	}
}

func TestTilePathsAreThoseOfTheSpecification(t *testing.T) {
	for _, test := range []struct {
		level string
		index int64
		width int
		want  string
	}{
		{"0", 1234067, 256, "tile/0/x001/x234/067"},
		{"entries", 0, 3, "tile/entries/000.p/3"},
		{"1", 999, 255, "tile/1/999.p/255"},
		{"1", 1000, 256, "tile/1/x001/000"},
	} {
		if got := tilePath(test.level, test.index, test.width); got != test.want {
			t.Errorf("tile %d of level %s, width %d: %s, want %s", test.index, test.level, test.width, got, test.want)
		}
	}
}

func TestOriginIsOneWord(t *testing.T) {
	for _, origin := range []string{"", "a b", "a+b", "a\nb", "a\u00a0b", "a\x00b", strings.Repeat("x", 201)} {
		if _, _, err := NewKey(origin); err == nil {
			t.Errorf("origin %q was accepted", origin)
		}
	}
}

func FuzzParseLeaf(f *testing.F) {
	lf := testLeaf()
	f.Add(lf.encode())
	f.Add([]byte(leafVersion + "\nstream a\nnumber 1\nkind k\ntime 2026-11-22T03:45:00.000000000Z\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lf, err := parseLeaf(data)
		if err != nil {
			return
		}
		if again := lf.encode(); !bytes.Equal(again, data) {
			t.Errorf("accepted, but it is written as\n%q, not\n%q", again, data)
		}
	})
}

func FuzzParseCheckpoint(f *testing.F) {
	_, p, verifier := testProof(f)
	f.Add(p.Note)
	f.Fuzz(func(t *testing.T, data []byte) {
		cp, err := ParseCheckpoint(data, verifier)
		if err != nil {
			return
		}
		// Nobody else has the key, so only what was signed can be accepted.
		if cp.Size != 11 || !bytes.HasPrefix(data, p.Note) {
			t.Errorf("accepted %q", data)
		}
	})
}

func FuzzParseProof(f *testing.F) {
	_, p, _ := testProof(f)
	f.Add(mustText(f, p))
	p.Extra = []byte("x")
	f.Add(mustText(f, p))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParseProof(data)
		if err != nil {
			return
		}
		if again := mustText(t, p); !bytes.Equal(again, data) {
			t.Errorf("accepted, but it is written as\n%q, not\n%q", again, data)
		}
	})
}

func FuzzTextLineReadsBack(f *testing.F) {
	f.Add(int64(1), "name", []byte("salt"), "text\n\"\\\x00é", false)
	f.Add(int64(1), "name", []byte(nil), "", true)
	f.Fuzz(func(t *testing.T, seq int64, name string, salt []byte, text string, erased bool) {
		if seq < 0 || !utf8.ValidString(name) || !utf8.ValidString(text) {
			return // Append refuses these
		}
		want := Text{Name: name, Salt: append([]byte{}, salt...), Text: text}
		if erased {
			want = Text{Name: name, Erased: true}
		}
		line := textLine(seq, want)
		r := textReader{r: bufio.NewReaderSize(bytes.NewReader(line), 8*MaxText)}
		if err := r.advance(); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		if diff := cmp.Diff(want, r.text); diff != "" || r.seq != seq {
			t.Fatalf("seq %d, want %d (-want +got):\n%s", r.seq, seq, diff)
		}
		if err := r.advance(); err != nil || r.seq != noMoreTexts {
			t.Fatalf("after the only line: %d, %v", r.seq, err)
		}
	})
}
