package ledger

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// A Checkpoint is a signed statement of the whole log: the root hash of the
// Merkle tree over its first Size entries. Two checkpoints of one size with
// different roots prove that the log was forked.
type Checkpoint struct {
	Origin string // identity of the log and name of its key
	Size   int64
	Root   tlog.Hash
	Note   []byte // the signed note (c2sp.org/tlog-checkpoint), from which the rest was read
}

const (
	// maxNote bounds what is parsed as a checkpoint. One signature needs less
	// than 400 bytes; the rest is room for the cosignatures of witnesses.
	maxNote = 16 << 10

	keyFileMode = 0o600
)

// SignCheckpoint returns the checkpoint of a tree, signed. The origin is the
// signer's name.
func SignCheckpoint(size int64, root tlog.Hash, signer note.Signer) (Checkpoint, error) {
	if err := checkOrigin(signer.Name()); err != nil {
		return Checkpoint{}, err
	}
	text := signer.Name() + "\n" + strconv.FormatInt(size, 10) + "\n" + root.String() + "\n"
	signed, err := note.Sign(&note.Note{Text: text}, signer)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("signing the checkpoint of size %d: %w", size, err)
	}
	return Checkpoint{Origin: signer.Name(), Size: size, Root: root, Note: signed}, nil
}

// ParseCheckpoint reads a signed note and returns the checkpoint it holds if
// verifier's key signed it. Signatures by other keys are allowed, for the sake
// of witnesses, and not checked. Extension lines, repeated signatures and any
// spelling that is not canonical are refused.
func ParseCheckpoint(signed []byte, verifier note.Verifier) (Checkpoint, error) {
	if len(signed) > maxNote {
		return Checkpoint{}, fmt.Errorf("checkpoint of %d bytes is longer than %d", len(signed), maxNote)
	}
	n, err := note.Open(signed, note.VerifierList(verifier))
	if unverified := (*note.UnverifiedNoteError)(nil); errors.As(err, &unverified) {
		return Checkpoint{}, fmt.Errorf("checkpoint is not signed by %s (key %08x): wrong public key or forged",
			verifier.Name(), verifier.KeyHash())
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("reading the checkpoint: %w", err)
	}
	sigs := append(n.Sigs, n.UnverifiedSigs...)
	if len(sigs) != bytes.Count(signed[len(n.Text)+1:], []byte("\n")) {
		return Checkpoint{}, errors.New("checkpoint repeats a signature")
	}
	for _, s := range sigs {
		if _, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil {
			return Checkpoint{}, fmt.Errorf("checkpoint has a malformed signature by %s", s.Name)
		}
	}
	lines := lines{rest: n.Text}
	cp := Checkpoint{Origin: lines.next(""), Note: bytes.Clone(signed)}
	size, root := lines.next(""), lines.next("")
	if lines.bad || lines.rest != "" {
		return Checkpoint{}, errors.New("checkpoint is not three lines: origin, size, root")
	}
	if cp.Origin != verifier.Name() {
		return Checkpoint{}, fmt.Errorf("checkpoint is of %.200q, not of %q", cp.Origin, verifier.Name())
	}
	if cp.Size, err = parseDecimal(size); err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint size: %w", err)
	}
	if cp.Root, err = parseHash(root); err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint root: %w", err)
	}
	return cp, nil
}

// ErrNoCheckpoint says that a file is not a checkpoint of the ledger at all: it is the wrong file, and no sign of forgery.
var ErrNoCheckpoint = errors.New("not a checkpoint of this ledger")

// ParseKept reads a checkpoint that was kept elsewhere: a signed note, or JSON with one as "checkpoint", as the command line keeps
// for each server. It returns [ErrNoCheckpoint] for what claims to be nothing of the kind; every other error is about something that
// claims to be this ledger's checkpoint, and is not.
func ParseKept(text []byte, verifier note.Verifier) (Checkpoint, error) {
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		var kept struct {
			Checkpoint string `json:"checkpoint"`
		}
		if err := json.Unmarshal(text, &kept); err != nil || kept.Checkpoint == "" {
			return Checkpoint{}, fmt.Errorf("%w: it is JSON without a checkpoint in it", ErrNoCheckpoint)
		}
		text = []byte(kept.Checkpoint)
	}
	foreign := (*note.UnverifiedNoteError)(nil)
	switch _, err := note.Open(text, note.VerifierList()); {
	case !errors.As(err, &foreign):
		return Checkpoint{}, fmt.Errorf("%w: it is not a signed note", ErrNoCheckpoint)
	default:
		if origin, _, _ := strings.Cut(foreign.Note.Text, "\n"); origin != verifier.Name() {
			return Checkpoint{}, fmt.Errorf("%w: it is of the ledger %.200q, and the key is that of %q", ErrNoCheckpoint, origin, verifier.Name())
		}
	}
	return ParseCheckpoint(text, verifier)
}

// VerifyConsistency checks that the log of the new checkpoint begins with the
// whole log of the old one, given what [Ledger.Consistency] returned for their
// sizes.
func VerifyConsistency(proof []tlog.Hash, old, new Checkpoint) error {
	if old.Size == 0 && old.Root == EmptyRoot() && len(proof) == 0 {
		return nil // everything begins with nothing
	}
	if err := tlog.CheckTree(proof, new.Size, new.Root, old.Size, old.Root); err != nil {
		return fmt.Errorf("checkpoint of size %d is not a continuation of the one of size %d: %w", new.Size, old.Size, err)
	}
	return nil
}

// NewKey makes an Ed25519 key pair in the text form of package note. The origin
// is the name of both key and log, for example
// "breakglass.example.com/prod/2026"; it has no spaces and no '+'.
func NewKey(origin string) (skey, vkey string, err error) {
	if err := checkOrigin(origin); err != nil {
		return "", "", err
	}
	return note.GenerateKey(rand.Reader, origin)
}

// CreateKey makes a key pair, writes the private key to a new file that only
// its owner can read, and returns the public key. It never overwrites a file.
// When it returns, the file is durable.
func CreateKey(path, origin string) (vkey string, err error) {
	skey, vkey, err := NewKey(origin)
	if err != nil {
		return "", err
	}
	if err := writeFile(path, []byte(skey+"\n"), keyFileMode); err != nil {
		return "", fmt.Errorf("writing the ledger key: %w", err)
	}
	return vkey, SyncDir(filepath.Dir(path))
}

// LoadSigner reads a private key file and returns the signer in it together
// with the verifier for its signatures. A file that group or others could read
// is refused.
func LoadSigner(path string) (note.Signer, note.Verifier, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, fmt.Errorf("ledger key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, nil, fmt.Errorf("ledger key %s has mode %04o, so others may have copied it: "+
			"decide whether to replace the key, then chmod 600 the file", path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("ledger key: %w", err)
	}
	skey := strings.TrimSuffix(string(text), "\n")
	signer, err := note.NewSigner(skey)
	if err != nil {
		// Without err: note's errors are harmless today, but this is about a secret.
		return nil, nil, fmt.Errorf("ledger key %s is not a private key in note format (PRIVATE+KEY+…)", path)
	}
	vkey, err := PublicKey(skey)
	if err != nil {
		return nil, nil, fmt.Errorf("ledger key %s: %w", path, err)
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, nil, fmt.Errorf("ledger key %s: deriving the public key: %w", path, err)
	}
	return signer, verifier, nil
}

// PublicKey returns the public key, in note format, of a private key in note
// format.
func PublicKey(skey string) (string, error) {
	errMalformed := errors.New("malformed private key")
	// PRIVATE+KEY+<name>+<hash>+<base64 of algorithm and seed>. Base64 may
	// itself contain '+', hence at most five parts.
	parts := strings.SplitN(skey, "+", 5)
	if len(parts) != 5 {
		return "", errMalformed
	}
	raw, err := base64.StdEncoding.DecodeString(parts[4])
	if err != nil || len(raw) != 1+ed25519.SeedSize {
		return "", errMalformed
	}
	public, ok := ed25519.NewKeyFromSeed(raw[1:]).Public().(ed25519.PublicKey)
	if !ok {
		return "", errMalformed
	}
	return note.NewEd25519VerifierKey(parts[2], public)
}

// checkOrigin refuses an origin that could not be the first line of a
// checkpoint and the name of a key at once.
func checkOrigin(origin string) error {
	bad := func(r rune) bool { return r == '+' || unicode.IsSpace(r) || !unicode.IsPrint(r) }
	if origin == "" || len(origin) > maxName || strings.ContainsFunc(origin, bad) {
		return fmt.Errorf("ledger origin %.200q must be 1 to %d printable characters without spaces or '+', "+
			"for example breakglass.example.com/prod/2026", origin, maxName)
	}
	return nil
}
