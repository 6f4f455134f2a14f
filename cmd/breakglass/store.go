package main

import (
	"cmp"
	"context"
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

	"golang.org/x/crypto/ssh"
	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/text"
)

// marker begins every credential file that this program writes. A file without it is somebody else's.
const marker = "# breakglass "

// runtimeDir is where keys are made: in memory if the system offers that, readable by this user alone. A runtime directory that this
// user cannot have, as after su or in a cron job, is as good as none.
func (a *app) runtimeDir() (string, error) {
	if d := a.env("XDG_RUNTIME_DIR"); filepath.IsAbs(d) {
		dir, err := privateDir(filepath.Join(d, "breakglass"))
		if err == nil || errors.As(err, new(*failure)) {
			return dir, err
		}
		if !a.fellBack {
			a.fellBack = true
			a.screen.note("%s %s cannot be used (%v): keys are kept on disk, in the state directory", a.screen.yellow("!"), d, err)
		}
	}
	return a.stateDir()
}

// keyDirs are the places where keys can be: a key that was made in one is found there when the environment is another.
func (a *app) keyDirs() ([]string, error) {
	now, err := a.runtimeDir()
	if err != nil {
		return nil, err
	}
	state, err := a.stateDir()
	if err != nil || state == now {
		return []string{now}, err
	}
	return []string{now, state}, nil
}

// stateDir is where what must outlive a reboot lives: which ledger this machine trusts.
func (a *app) stateDir() (string, error) {
	return privateDir(filepath.Join(a.base("XDG_STATE_HOME", ".local/state"), "breakglass"))
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
		return "", &failure{exit: exitOther, code: "open-directory", what: "keys would not be safe", why: dir +
			" is not a directory that only you can use", next: "chmod 700 " + dir + ", after a look at who put it there"}
	}
	return dir, nil
}

// writePrivate replaces a file at once or not at all, readable by its owner alone.
func writePrivate(path string, data []byte) error {
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
		return fmt.Errorf("%q is no name of a file", name)
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

func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writePrivate(path, append(b, '\n'))
}

// kept is a private key on this machine and what became of it. When its access is over the key is gone and the rest stays for a
// while: it is what the files that were written for it say.
type kept struct {
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

	dir, name string // of its file
	key       *ecdsa.PrivateKey
}

// save writes the key's file.
func (k *kept) save() error {
	b, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return writeIn(k.dir, k.name, append(b, '\n'))
}

// drop removes the key's file.
func (k *kept) drop() error {
	root, err := os.OpenRoot(k.dir)
	if err != nil {
		return err
	}
	return errors.Join(root.Remove(k.name), root.Close())
}

// newKey makes a key for a request that is about to be opened and keeps it, so that nothing that happens next can lose it.
func (a *app) newKey(server string, until time.Time) (*kept, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	dir, err := a.runtimeDir()
	if err != nil {
		return nil, err
	}
	k := &kept{Server: server, Key: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), Until: until, key: key}
	hash, err := k.hash()
	if err != nil {
		return nil, err
	}
	k.dir, k.name = dir, "new-"+hash[:16]+".json"
	return k, k.save()
}

// hash names the key as the daemon does.
func (k *kept) hash() (string, error) {
	der, err := x509.MarshalPKIXPublicKey(k.key.Public())
	if err != nil {
		return "", fmt.Errorf("encoding a public key: %w", err)
	}
	return breakglass.SPKI(der), nil
}

// csr is a certificate request for nothing but the key: names and usages come from what was approved.
func (k *kept) csr() ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k.key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// belongTo files the key under the request's id.
func (k *kept) belongTo(r api.Request) error {
	old := *k
	k.Request, k.name = r.ID, r.ID+".json"
	k.Until = r.Ask.PendingUntil.Add(time.Duration(r.Ask.ClaimSeconds+r.Ask.TTLSeconds) * time.Second)
	if err := k.save(); err != nil {
		return fmt.Errorf("keeping the key of %s: %w", r.ID, err)
	}
	return old.drop()
}

// keyOf returns the key of a request, nil if this machine has none.
func (a *app) keyOf(server, id string) (*kept, error) {
	dirs, err := a.keyDirs()
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		k, err := readKept(dir, id+".json")
		if errors.Is(err, fs.ErrNotExist) || err == nil && (k.Server != server || k.key == nil) {
			continue
		}
		return k, err
	}
	return nil, nil
}

// allKept returns every key of a server on this machine, and what is left of those that are over. What cannot be read is not for a
// machine to throw away.
func (a *app) allKept(server string) ([]*kept, error) {
	dirs, err := a.keyDirs()
	if err != nil {
		return nil, err
	}
	var out []*kept
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
			if k, err := readKept(dir, base); err == nil && (server == "" || k.Server == server) {
				out = append(out, k)
			}
		}
	}
	return out, nil
}

func readKept(dir, name string) (*kept, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	b, err := root.ReadFile(name)
	if err = errors.Join(err, root.Close()); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name)
	k := &kept{dir: dir, name: name}
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
	if k.key, ok = key.(*ecdsa.PrivateKey); !ok {
		return nil, fmt.Errorf("the key file %s has a key of another kind", path)
	}
	return k, nil
}

// remove deletes the key and the files that were written for it, as far as they are still ours.
func (k *kept) remove() error {
	errs := []error{}
	for _, f := range k.Files {
		if of, err := owner(f); err == nil && of == k.Request {
			errs = append(errs, os.Remove(f))
		}
	}
	return errors.Join(append(errs, k.drop())...)
}

// bury takes the key away. Kubeconfigs that were written for it stay without it: they say to whoever uses them that the access is
// over, and how, where kubectl without a kubeconfig would talk to localhost.
func (k *kept) bury(now time.Time, how string) error {
	if !slices.ContainsFunc(k.Files, isKubeconfig) {
		return k.remove()
	}
	errs, left := []error{}, []string{}
	for _, f := range k.Files {
		of, err := owner(f)
		switch {
		case err != nil || of != k.Request:
		case isKubeconfig(f):
			errs = append(errs, writePrivate(f, []byte(tombstone(k, now, how))))
			left = append(left, f)
		default:
			errs = append(errs, os.Remove(f))
		}
	}
	k.Key, k.key, k.Over, k.Files = "", nil, now, left
	return errors.Join(append(errs, k.save())...)
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

// owner is the request that a credential file was written for, empty if it is not one of ours.
func owner(path string) (string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() { // opening a pipe or a terminal waits for what may never come
		return "", fmt.Errorf("%s is no plain file; for standard output give --out -", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, 200)
	n, _ := f.Read(b) // an unreadable file is not ours
	line, _, _ := strings.Cut(string(b[:n]), "\n")
	id, ok := strings.CutPrefix(line, marker)
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

// sweep removes every key and certificate whose time is over. By the server's clock that is what has ended. By this machine's clock
// alone, which is wrong often enough on the nights that matter, it is only what was claimed and ended a day ago: a key whose request
// may still be claimed is never removed by it.
func (a *app) sweep(server string, serversTime bool) error {
	all, err := a.allKept(server)
	if err != nil {
		return err
	}
	now := a.now()
	for _, k := range all {
		var err error
		switch late := now.Sub(k.Until); {
		case k.key == nil:
			if serversTime && now.Sub(k.Over) > buried {
				err = k.remove()
			}
		case serversTime && late >= 0, k.Claimed && late > wrongClock:
			err = k.bury(now, fmt.Sprintf("ended at %s", k.Until.Local().Format("2006-01-02 15:04:05")))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			a.screen.note("%s an expired key could not be removed: %v", a.screen.yellow("!"), err)
		}
	}
	return nil
}

// tidyTime bounds what a command does about keys after its own work.
const tidyTime = 5 * time.Second

// tidy follows every command that reached the server: what has ended by the server's clock goes, and so do the key and the
// kubeconfig of a grant that the ledger says was revoked. It asks for no signature, and says nothing about what it cannot reach.
func (a *app) tidy(ctx context.Context) {
	c := a.used
	if c == nil {
		return
	}
	if a.timeKnown {
		a.keepSkew(c.Server)
		if err := a.sweep(c.Server, true); err != nil {
			a.screen.note("%s expired keys could not be looked for: %v", a.screen.yellow("!"), err)
			return
		}
	}
	ctx, cancel := context.WithTimeout(ctx, tidyTime)
	defer cancel()
	signers := c.Keys
	c.Keys = func(context.Context) ([]ssh.Signer, error) { return nil, nil }
	defer func() { c.Keys = signers }()
	all, err := a.allKept(c.Server)
	if err != nil {
		return
	}
	for _, k := range all {
		if c.Session.Token == "" || k.key == nil || !k.Claimed || a.settled[k.Request] {
			continue
		}
		r, _, err := a.recorded(ctx, c, api.Request{ID: k.Request})
		if err != nil {
			return
		}
		if r.State.Terminal() {
			a.end(k, r)
		}
	}
}

// wipe removes the keys of a server from this machine if all is set, and names those that are there otherwise.
func (a *app) wipe(server string, all bool) (removed, left []string, err error) {
	removed, left = []string{}, []string{}
	keys, err := a.allKept(server)
	if err != nil {
		return nil, nil, err
	}
	for _, k := range keys {
		name := cmp.Or(k.Request, "a request that was not opened")
		switch {
		case k.key == nil:
		case !all:
			left = append(left, name)
		default:
			if err := k.bury(a.now(), "was removed from this machine by logout --keys"); err != nil {
				return nil, nil, fmt.Errorf("removing the key of %s: %w", name, err)
			}
			removed = append(removed, name)
		}
	}
	return removed, left, nil
}

// end removes the key of a grant that is over, and says so.
func (a *app) end(k *kept, r api.Request) {
	how := "is " + string(r.State)
	if r.Revoked != nil {
		how = fmt.Sprintf("was revoked by %s at %s", r.Revoked.Person, r.Revoked.At.Local().Format("2006-01-02 15:04:05"))
	}
	err := k.bury(a.now(), how)
	if err != nil {
		a.screen.note("%s the key of %s could not be removed: %v", a.screen.yellow("!"), k.Request, err)
		return
	}
	a.screen.note("%s %s %s: its key and what was written with it are removed from this machine", a.screen.yellow("!"), k.Request, how)
}

// keepSkew remembers how far the server's clock is ahead, for the next run before it knows, and says it when it is much.
func (a *app) keepSkew(server string) {
	t, err := a.trustFor(server)
	if err != nil {
		return
	}
	now := int64(a.skew.Round(time.Second) / time.Second)
	if d := now - t.Skew; d > -5 && d < 5 {
		return
	}
	if a.skew.Abs() > 2*time.Minute {
		way := "behind"
		if a.skew < 0 {
			way = "ahead of"
		}
		a.screen.note("%s this machine's clock is %s %s the server's; what is shown here goes by the server's", a.screen.yellow("!"),
			text.About(a.skew.Abs()), way)
	}
	t.Skew = now
	if err := writeJSON(t.path, t); err != nil {
		a.screen.note("%s the server's time could not be remembered: %v", a.screen.yellow("!"), err)
	}
}

// fileFor names a file about one server.
func fileFor(dir, what, server string) string {
	return filepath.Join(dir, what+"-"+text.SHA256([]byte(server))[:16]+".json")
}

// cachedSession is the session that an earlier run opened, if it is for the chosen identity. It saves a touch for each command;
// approvals are signed anew each time.
func (a *app) cachedSession(server string) (api.Session, error) {
	dir, err := a.runtimeDir()
	if err != nil {
		return api.Session{}, err
	}
	var s api.Session
	b, err := os.ReadFile(fileFor(dir, "session", server))
	if err != nil || json.Unmarshal(b, &s) != nil {
		return api.Session{}, nil // as if there were none: signing in again is always right; the server knows when one has ended
	}
	if a.conf.Identity != "" {
		public, _, err := readIdentity(a.conf.Identity)
		if err != nil {
			return api.Session{}, err
		}
		if ssh.FingerprintSHA256(public) != s.Key {
			return api.Session{}, nil
		}
	}
	return s, nil
}

func (a *app) cacheSession(server string, s api.Session) error {
	dir, err := a.runtimeDir()
	if err != nil {
		return err
	}
	path := fileFor(dir, "session", server)
	if s.Token == "" {
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	return writeJSON(path, s)
}

// trust is what this machine knows of a server's ledger.
type trust struct {
	Server     string `json:"server"`
	Key        string `json:"ledgerKey"`            // note format
	Checkpoint string `json:"checkpoint,omitempty"` // the greatest seen

	Skew int64 `json:"skewSeconds,omitempty"` // how far the server's clock was ahead of this machine's

	Clusters map[string]clusterPin `json:"clusters,omitempty"` // as last asked for or claimed on

	path     string
	verifier note.Verifier // nil: nothing is known yet
}

func (t trust) origin() string {
	if t.verifier == nil {
		return ""
	}
	return t.verifier.Name()
}

// trustFor reads what is known. A key that is configured wins over one that was seen.
func (a *app) trustFor(server string) (trust, error) {
	dir, err := a.stateDir()
	if err != nil {
		return trust{}, err
	}
	t := trust{Server: server, path: fileFor(dir, "server", server)}
	b, err := os.ReadFile(t.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return t, fmt.Errorf("reading what is known of the server: %w", err)
	default:
		if err := json.Unmarshal(b, &t); err != nil || t.Server != server {
			return t, &failure{exit: exitVerify, what: "what is known of the server cannot be read", why: t.path + " is damaged",
				next: "find out why before you remove it"}
		}
	}
	if a.conf.LedgerKey != "" {
		key, err := readLedgerKey(a.conf.LedgerKey)
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
	if t.verifier, err = note.NewVerifier(t.Key); err != nil {
		return t, usage("ledger key: %v", err)
	}
	return t, nil
}

// readLedgerKey takes a public key in note format, or a file with one.
func readLedgerKey(keyOrFile string) (string, error) {
	if _, err := note.NewVerifier(keyOrFile); err == nil {
		return keyOrFile, nil
	}
	b, err := os.ReadFile(keyOrFile)
	if err != nil {
		return "", usage("ledger key: %q is neither a public key (name+hash+base64) nor a file that can be read", keyOrFile)
	}
	key := strings.TrimSpace(string(b))
	if _, err := note.NewVerifier(key); err != nil {
		return "", usage("ledger key: %s has no public key in note format in it", keyOrFile)
	}
	return key, nil
}
