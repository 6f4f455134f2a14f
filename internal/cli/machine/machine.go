// Package machine keeps what a person's machine keeps for breakglass: private keys and the files that were written with them, sign-ins,
// and what the machine knows of each server. Every file is readable by its owner alone.
package machine

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/cli/kubeconfig"
	"github.com/breakglassd/breakglass/internal/cli/terminal"
	"github.com/breakglassd/breakglass/internal/text"
)

// Store is what this program keeps on this machine, in files that this user alone can read: keys, sign-ins, and what is known of each
// server.
type Store struct {
	Env       func(string) string
	Screen    *terminal.Screen // says what could not be done
	Now       func() time.Time // the server's clock, as far as it is known
	LedgerKey string           // the key of the server's ledger, or a file with it, as configured; wins over the one that was seen
	fellBack  bool             // it was said that the runtime directory cannot be used
}

// Marker begins every credential file that this program writes. A file without it was written by another program.
const Marker = "# breakglass "

// RuntimeDir is where keys are made: in memory if the system offers that, readable by this user alone. A runtime directory that this
// user cannot have, as after su or in a cron job, is as good as none.
func (s *Store) RuntimeDir() (string, error) {
	if d := s.Env("XDG_RUNTIME_DIR"); filepath.IsAbs(d) {
		dir, err := privateDir(filepath.Join(d, "breakglass"))
		if err == nil || errors.As(err, new(*exit.Error)) {
			return dir, err
		}
		if !s.fellBack {
			s.fellBack = true
			s.Screen.Note("%s %s cannot be used (%v): keys are kept on disk, in the state directory", s.Screen.Yellow("!"), d, err)
		}
	}
	return s.stateDir()
}

// Base is one of the XDG base directories.
func (s *Store) Base(variable, underHome string) string {
	if d := s.Env(variable); filepath.IsAbs(d) {
		return d
	}
	return filepath.Join(s.Env("HOME"), underHome)
}

// keyDirs are the places where keys can be: a key that was made in one is found there when the environment is another.
func (s *Store) keyDirs() ([]string, error) {
	now, err := s.RuntimeDir()
	if err != nil {
		return nil, err
	}
	state, err := s.stateDir()
	if err != nil || state == now {
		return []string{now}, err
	}
	return []string{now, state}, nil
}

// stateDir is where what must outlive a reboot lives: which ledger this machine trusts.
func (s *Store) stateDir() (string, error) {
	return privateDir(filepath.Join(s.Base("XDG_STATE_HOME", ".local/state"), "breakglass"))
}

// privateDir makes a directory that only its owner can use, or refuses one that others can.
func privateDir(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("making a directory for keys: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", fmt.Errorf("looking at the directory for keys: %w", err)
	}
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 {
		return "", &exit.Error{Exit: exit.Other, Code: "open-directory", What: "keys would not be safe", Why: dir +
			" is not a directory that only you can use", Next: "chmod 700 " + dir + ", after a look at who put it there"}
	}
	return dir, nil
}

// WritePrivate replaces a file at once or not at all, readable by its owner alone.
func WritePrivate(path string, data []byte) error {
	return writeIn(filepath.Dir(path), filepath.Base(path), data)
}

// writeIn is writePrivate for a name that may come from elsewhere: a name that leads out of the directory is refused.
func writeIn(dir, name string, data []byte) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if name != filepath.Base(name) {
		return fmt.Errorf("%q is not the name of a file", name)
	}
	temp := ".breakglass-" + rand.Text()
	f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, root.Remove(temp))
		}
	}()
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return root.Rename(temp, name)
}

// WriteJSON is WritePrivate for a value.
func WriteJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return WritePrivate(path, append(b, '\n'))
}

// Key is a private key on this machine and what became of it. When its access is over the key is gone and the rest stays for a
// while: it is what the files that were written for it say.
type Key struct {
	Request string    `json:"request,omitempty"` // empty until the request is known to exist
	Server  string    `json:"server"`
	Key     string    `json:"key,omitempty"` // PKCS #8, PEM; empty when it is over
	Until   time.Time `json:"until"`         // by the server's clock
	Claimed bool      `json:"claimed,omitempty"`
	Serial  string    `json:"serial,omitempty"`
	Files   []string  `json:"files,omitempty"` // written for it; what they hold ends with it
	Over    time.Time `json:"over,omitzero"`   // when the key was removed
	// What the tombstones of its kubeconfigs need.
	Cluster api.Cluster `json:"cluster,omitzero"`
	Profile string      `json:"profile,omitempty"`

	Dir     string `json:"-"` // of its file
	name    string
	Private *ecdsa.PrivateKey `json:"-"` // Key, read; nil when it is over
}

// Save writes the key's file.
func (k *Key) Save() error {
	b, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return writeIn(k.Dir, k.name, append(b, '\n'))
}

// drop removes the key's file.
func (k *Key) drop() error {
	root, err := os.OpenRoot(k.Dir)
	if err != nil {
		return err
	}
	return errors.Join(root.Remove(k.name), root.Close())
}

// NewKey makes a key for a request that is about to be opened and keeps it, so that nothing that happens next can lose it.
func (s *Store) NewKey(server string, until time.Time) (*Key, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	dir, err := s.RuntimeDir()
	if err != nil {
		return nil, err
	}
	k := &Key{Server: server, Key: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), Until: until, Private: key}
	hash, err := k.Hash()
	if err != nil {
		return nil, err
	}
	k.Dir, k.name = dir, "new-"+hash[:16]+".json"
	return k, k.Save()
}

// Hash names the key as the daemon does.
func (k *Key) Hash() (string, error) {
	der, err := x509.MarshalPKIXPublicKey(k.Private.Public())
	if err != nil {
		return "", fmt.Errorf("encoding a public key: %w", err)
	}
	return breakglass.SPKI(der), nil
}

// CSR is a certificate request for nothing but the key: names and usages come from what was approved.
func (k *Key) CSR() ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k.Private)
	if err != nil {
		return nil, fmt.Errorf("making a certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// BelongTo files the key under the request's id.
func (k *Key) BelongTo(r api.Request) error {
	old := *k
	k.Request, k.name = r.ID, r.ID+".json"
	k.Until = r.Ask.PendingUntil.Add(time.Duration(r.Ask.ClaimSeconds+r.Ask.TTLSeconds) * time.Second)
	if err := k.Save(); err != nil {
		return fmt.Errorf("keeping the key of %s: %w", r.ID, err)
	}
	return old.drop()
}

// KeyOf returns the key of a request, nil if this machine has none.
func (s *Store) KeyOf(server, id string) (*Key, error) {
	dirs, err := s.keyDirs()
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		k, err := readKey(dir, id+".json")
		if errors.Is(err, fs.ErrNotExist) || err == nil && (k.Server != server || k.Private == nil) {
			continue
		}
		return k, err
	}
	return nil, nil
}

// Keys returns every key of a server on this machine, and what is left of those that are over. What cannot be read is not for a
// machine to throw away.
func (s *Store) Keys(server string) ([]*Key, error) {
	dirs, err := s.keyDirs()
	if err != nil {
		return nil, err
	}
	var out []*Key
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*.json"))
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			base := filepath.Base(f)
			if !strings.HasPrefix(base, "bg-") && !strings.HasPrefix(base, "new-") {
				continue
			}
			if k, err := readKey(dir, base); err == nil && (server == "" || k.Server == server) {
				out = append(out, k)
			}
		}
	}
	return out, nil
}

func readKey(dir, name string) (*Key, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	b, err := root.ReadFile(name)
	if err = errors.Join(err, root.Close()); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name)
	k := &Key{Dir: dir, name: name}
	if err := json.Unmarshal(b, k); err != nil {
		return nil, fmt.Errorf("reading the key file %s: %w", path, err)
	}
	if k.Key == "" && !k.Over.IsZero() {
		return k, nil
	}
	block, _ := pem.Decode([]byte(k.Key))
	if block == nil {
		return nil, fmt.Errorf("the key file %s has no key in it", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the key file %s: %w", path, err)
	}
	var ok bool
	if k.Private, ok = key.(*ecdsa.PrivateKey); !ok {
		return nil, fmt.Errorf("the key file %s has a key of another kind", path)
	}
	return k, nil
}

// Remove deletes the key and the files that were written for it, as far as they are still ours.
func (k *Key) Remove() error {
	errs := []error{}
	for _, f := range k.Files {
		if of, err := Owner(f); err == nil && of == k.Request {
			errs = append(errs, os.Remove(f))
		}
	}
	return errors.Join(append(errs, k.drop())...)
}

// Bury takes the key away. Kubeconfigs that were written for it stay without it: they tell their user that the access is
// over, and how, where kubectl without a kubeconfig would talk to localhost.
func (k *Key) Bury(now time.Time, how string) error {
	if !slices.ContainsFunc(k.Files, isKubeconfig) {
		return k.Remove()
	}
	errs, left := []error{}, []string{}
	for _, f := range k.Files {
		of, err := Owner(f)
		switch {
		case err != nil || of != k.Request:
		case isKubeconfig(f):
			errs = append(errs, WritePrivate(f, []byte(tombstone(k, now, how))))
			left = append(left, f)
		default:
			errs = append(errs, os.Remove(f))
		}
	}
	k.Key, k.Private, k.Over, k.Files = "", nil, now, left
	return errors.Join(append(errs, k.Save())...)
}

// tombstone is what is left of a key's kubeconfig.
func tombstone(k *Key, now time.Time, how string) string {
	program, err := os.Executable()
	if err != nil {
		program = "breakglass"
	}
	return fmt.Sprintf("%s%s over since %s; its key was removed\n", Marker, k.Request, now.UTC().Format(time.RFC3339)) +
		kubeconfig.Ended(program, k.Request, k.Cluster, k.Profile, how)
}

// isKubeconfig tells a kubeconfig from PEM files, by how it begins after our mark.
func isKubeconfig(path string) bool {
	b, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), "\n")
	return strings.HasPrefix(rest, "apiVersion: v1\nkind: Config\n")
}

// Owner is the request that a credential file was written for, empty if it is not one of ours.
func Owner(path string) (string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() { // opening a pipe or a terminal waits for what may never come
		return "", fmt.Errorf("%s is not a regular file; for standard output give --out -", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, 200)
	n, _ := f.Read(b) // an unreadable file is not ours
	line, _, _ := strings.Cut(string(b[:n]), "\n")
	id, ok := strings.CutPrefix(line, Marker)
	if !ok {
		return "", nil
	}
	id, _, _ = strings.Cut(id, " ")
	return id, nil
}

const (
	// buried is how long a kubeconfig says that its access is over before it is removed.
	buried = 30 * 24 * time.Hour
	// wrongClock is how far this machine's clock may be off before anything is removed by it alone.
	wrongClock = 24 * time.Hour
)

// Sweep removes every key and certificate whose time is over. By the server's clock that is what has ended. By this machine's clock
// alone, which is wrong often enough on the nights that matter, it is only what was claimed and ended a day ago: a key whose request
// may still be claimed is never removed by it.
func (s *Store) Sweep(server string, serversTime bool) error {
	all, err := s.Keys(server)
	if err != nil {
		return err
	}
	now := s.Now()
	for _, k := range all {
		var err error
		switch late := now.Sub(k.Until); {
		case k.Private == nil:
			if serversTime && now.Sub(k.Over) > buried {
				err = k.Remove()
			}
		case serversTime && late >= 0, k.Claimed && late > wrongClock:
			err = k.Bury(now, fmt.Sprintf("ended at %s", k.Until.Local().Format("2006-01-02 15:04:05")))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.Screen.Note("%s an expired key could not be removed: %v", s.Screen.Yellow("!"), err)
		}
	}
	return nil
}

// Wipe removes the keys of a server from this machine if all is set, and names those that are there otherwise.
func (s *Store) Wipe(server string, all bool) (removed, left []string, err error) {
	removed, left = []string{}, []string{}
	keys, err := s.Keys(server)
	if err != nil {
		return nil, nil, err
	}
	for _, k := range keys {
		name := cmp.Or(k.Request, "a request that was not opened")
		switch {
		case k.Private == nil:
		case !all:
			left = append(left, name)
		default:
			if err := k.Bury(s.Now(), "was removed from this machine by logout --keys"); err != nil {
				return nil, nil, fmt.Errorf("removing the key of %s: %w", name, err)
			}
			removed = append(removed, name)
		}
	}
	return removed, left, nil
}

// KeepSkew remembers how far a server's clock is ahead of this machine's, for the next run before it knows, and says it when it is much.
func (s *Store) KeepSkew(server string, skew time.Duration) {
	t, err := s.Server(server)
	if err != nil {
		return
	}
	now := int64(skew.Round(time.Second) / time.Second)
	if d := now - t.Skew; d > -5 && d < 5 {
		return
	}
	if skew.Abs() > 2*time.Minute {
		way := "behind"
		if skew < 0 {
			way = "ahead of"
		}
		s.Screen.Note("%s this machine's clock is %s %s the server's; what is shown here goes by the server's", s.Screen.Yellow("!"),
			text.About(skew.Abs()), way)
	}
	t.Skew = now
	if err := WriteJSON(t.Path, t); err != nil {
		s.Screen.Note("%s the server's time could not be remembered: %v", s.Screen.Yellow("!"), err)
	}
}

// fileFor names a file about one server.
func fileFor(dir, what, server string) string {
	return filepath.Join(dir, what+"-"+text.SHA256([]byte(server))[:16]+".json")
}

// SignIn is the sign-in that an earlier run kept for a server, the zero one if there is none. It saves a touch for each command;
// approvals are signed anew each time.
func (s *Store) SignIn(server string) (api.SignIn, error) {
	dir, err := s.RuntimeDir()
	if err != nil {
		return api.SignIn{}, err
	}
	var in api.SignIn
	b, err := os.ReadFile(fileFor(dir, "session", server))
	if err != nil || json.Unmarshal(b, &in) != nil {
		return api.SignIn{}, nil // as if there were none: signing in again is always right; the server knows when one has ended
	}
	return in, nil
}

// KeepSignIn keeps a sign-in for the next run; one without a token removes what is kept.
func (s *Store) KeepSignIn(server string, in api.SignIn) error {
	dir, err := s.RuntimeDir()
	if err != nil {
		return err
	}
	path := fileFor(dir, "session", server)
	if in.Token == "" {
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	return WriteJSON(path, in)
}

// Server is what this machine knows of a server's ledger.
type Server struct {
	Server     string `json:"server"`
	Key        string `json:"ledgerKey"`            // note format
	Checkpoint string `json:"checkpoint,omitempty"` // the greatest seen

	Skew int64 `json:"skewSeconds,omitempty"` // how far the server's clock was ahead of this machine's

	Clusters map[string]Cluster `json:"clusters,omitempty"` // as last asked for or claimed on

	Path     string        `json:"-"`
	Verifier note.Verifier `json:"-"` // nil: nothing is known yet
}

// Origin is the name of the ledger whose key is known, empty if none is.
func (t Server) Origin() string {
	if t.Verifier == nil {
		return ""
	}
	return t.Verifier.Name()
}

// Server reads what is known. A key that is configured wins over one that was seen.
func (s *Store) Server(server string) (Server, error) {
	dir, err := s.stateDir()
	if err != nil {
		return Server{}, err
	}
	t := Server{Server: server, Path: fileFor(dir, "server", server)}
	b, err := os.ReadFile(t.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return t, fmt.Errorf("reading what is known of the server: %w", err)
	default:
		if err := json.Unmarshal(b, &t); err != nil || t.Server != server {
			return t, &exit.Error{Exit: exit.Unverified, What: "what is known of the server cannot be read", Why: t.Path + " is damaged",
				Next: "find out why before you remove it"}
		}
	}
	if s.LedgerKey != "" {
		key, err := ReadLedgerKey(s.LedgerKey)
		if err != nil {
			return t, err
		}
		if key != t.Key {
			t.Key, t.Checkpoint = key, ""
		}
	}
	if t.Key == "" {
		return t, nil
	}
	if t.Verifier, err = note.NewVerifier(t.Key); err != nil {
		return t, exit.Usage("ledger key: %v", err)
	}
	return t, nil
}

// ReadLedgerKey takes a public key in note format, or a file with one.
func ReadLedgerKey(keyOrFile string) (string, error) {
	if _, err := note.NewVerifier(keyOrFile); err == nil {
		return keyOrFile, nil
	}
	b, err := os.ReadFile(keyOrFile)
	if err != nil {
		return "", exit.Usage("ledger key: %q is neither a public key (name+hash+base64) nor a file that can be read", keyOrFile)
	}
	key := strings.TrimSpace(string(b))
	if _, err := note.NewVerifier(key); err != nil {
		return "", exit.Usage("ledger key: %s has no public key in note format in it", keyOrFile)
	}
	return key, nil
}

// Cluster is how this machine knew a cluster when it last asked for it or claimed there.
type Cluster struct {
	Server string `json:"server"`
	CAHash string `json:"caHash,omitempty"`
	breakglass.Way
}

// PinCluster remembers how a cluster is known, and returns how it was known before; the zero pin if it was not. The request's record,
// which approvers have seen, has the address, and since its second number the hash of the authorities too; caHash is that of what was
// delivered, if something was.
func (s *Store) PinCluster(server string, ask breakglass.Requested, caHash string) (was, is Cluster, err error) {
	is = Cluster{Server: ask.Server, CAHash: caHash, Way: ask.Way}
	t, err := s.Server(server)
	if err != nil {
		return was, is, err
	}
	was, known := t.Clusters[ask.Cluster]
	if known && was == is {
		return was, is, nil
	}
	if t.Clusters == nil {
		t.Clusters = map[string]Cluster{}
	}
	t.Clusters[ask.Cluster] = is
	if err := WriteJSON(t.Path, t); err != nil {
		return was, is, fmt.Errorf("remembering how the cluster is known: %w", err)
	}
	return was, is, nil
}
