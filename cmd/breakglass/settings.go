package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/strictyaml"
)

// settings is what can be configured. Each has a flag, an environment variable and a key of the configuration file, which win
// over each other in this order.
type settings struct {
	Server    string `yaml:"server"`
	CAFile    string `yaml:"caFile"`
	Identity  string `yaml:"identity"`
	LedgerKey string `yaml:"ledgerKey"`
}

func (s *settings) fields() []*string {
	return []*string{&s.Server, &s.CAFile, &s.Identity, &s.LedgerKey}
}

// loadSettings merges all sources.
func (a *app) loadSettings() (settings, error) {
	out := a.flags
	env := settings{a.env("BREAKGLASS_SERVER"), a.env("BREAKGLASS_CA_FILE"), a.env("BREAKGLASS_IDENTITY"), a.env("BREAKGLASS_LEDGER_KEY")}
	path, named := a.config, true
	if path == "" {
		path = a.env("BREAKGLASS_CONFIG")
	}
	if path == "" {
		named = false
		path = filepath.Join(a.store.base("XDG_CONFIG_HOME", ".config"), "breakglass", "config.yaml")
	}
	file, err := readSettings(path)
	if errors.Is(err, fs.ErrNotExist) && !named {
		err = nil
	}
	if err != nil {
		return out, usage("configuration file %s: %v", path, err)
	}
	for i, f := range out.fields() {
		for _, s := range []settings{env, file} {
			if *f == "" {
				*f = *s.fields()[i]
			}
		}
	}
	for _, p := range []*string{&out.CAFile, &out.Identity} {
		if rest, ok := strings.CutPrefix(*p, "~/"); ok {
			*p = filepath.Join(a.env("HOME"), rest)
		}
	}
	return out, nil
}

func readSettings(path string) (settings, error) {
	var s settings
	b, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	return parseSettings(b)
}

// parseSettings reads the configuration strictly: one document, known keys, text values.
func parseSettings(b []byte) (settings, error) {
	var s settings
	known := []string{"server", "caFile", "identity", "ledgerKey"}
	var keys map[string]yaml.Node
	if err := yaml.Unmarshal(b, &keys); err == nil { // else the strict reading says what is wrong
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			if slices.Contains(known, k) {
				continue
			}
			hint := "allowed here: " + strings.Join(known, ", ")
			if near := strictyaml.Closest(k, known); near != "" {
				hint = "did you mean " + near + "?"
			}
			return settings{}, fmt.Errorf("line %d: unknown key %q; %s", keys[k].Line, k, hint)
		}
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&s); err != nil && !errors.Is(err, io.EOF) {
		return settings{}, err
	}
	if err := d.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return settings{}, errors.New("there is more than one YAML document")
	}
	return s, nil
}

// identity is where the person's SSH keys are: the ssh-agent, one key of it, or a private key file.
type identity struct {
	path   string // empty: every key of the agent, and the key files that ssh tries
	env    func(string) string
	screen *screen // says what is not tried and when to touch a key, and asks for passphrases
	found  []ssh.Signer
}

// signers finds the keys, once. A private key file is decrypted when the first signature is wanted, not before.
func (id *identity) signers(ctx context.Context) ([]ssh.Signer, error) {
	if id.found != nil {
		return id.found, nil
	}
	var err error
	id.found, err = id.find(ctx)
	return id.found, err
}

func (id *identity) find(ctx context.Context) ([]ssh.Signer, error) {
	if id.path == "" {
		keys, err := id.agent(ctx)
		files := id.files(ctx)
		if len(files) > 0 {
			err = nil
		}
		return append(keys, files...), err
	}
	public, private, err := readIdentity(id.path)
	if err != nil {
		return nil, err
	}
	if private == nil {
		keys, err := id.agent(ctx)
		if err != nil {
			return nil, err
		}
		for _, k := range keys {
			if bytes.Equal(k.PublicKey().Marshal(), public.Marshal()) {
				return []ssh.Signer{k}, nil
			}
		}
		return nil, &failure{exit: exitSignIn, code: api.CodeNoKey, what: "not signed in", why: "the ssh-agent does not hold the key " + id.path,
			next: "add it with ssh-add"}
	}
	s, err := ssh.ParsePrivateKey(private)
	if missing := (*ssh.PassphraseMissingError)(nil); errors.As(err, &missing) {
		return []ssh.Signer{&lockedKey{id: id, ctx: ctx, public: public, pem: private}}, nil
	}
	if err != nil {
		return nil, usage("identity %s: %v; a hardware key works through the ssh-agent", id.path, err)
	}
	return []ssh.Signer{s}, nil
}

// files are the keys that ssh would try after the agent's. One that cannot be used is left out, as ssh does.
func (id *identity) files(ctx context.Context) []ssh.Signer {
	var out []ssh.Signer
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} { // those for hardware keys work through the agent
		path := filepath.Join(id.env("HOME"), ".ssh", name)
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
			continue
		}
		one := &identity{path: path, env: id.env, screen: id.screen}
		keys, err := one.find(ctx)
		if err != nil {
			id.screen.note("%s %s is not tried: %v", id.screen.yellow("!"), path, err)
			continue
		}
		out = append(out, keys...)
	}
	return out
}

// readIdentity reads a public or a private key file; private is nil for the former.
func readIdentity(path string) (public ssh.PublicKey, private []byte, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, usage("identity: %v", err)
	}
	if public, _, _, _, err := ssh.ParseAuthorizedKey(b); err == nil {
		return public, nil, nil
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 {
		return nil, nil, usage("identity %s: others can read this private key; chmod 600 it", path)
	}
	s, err := ssh.ParsePrivateKey(b)
	if err == nil {
		return s.PublicKey(), b, nil
	}
	missing := (*ssh.PassphraseMissingError)(nil)
	if !errors.As(err, &missing) {
		return nil, nil, usage("identity %s is no SSH key that can be used here (a hardware key works through the ssh-agent): %v", path, err)
	}
	if public = missing.PublicKey; public == nil { // the old PEM format does not say
		pub, err := os.ReadFile(path + ".pub")
		if err != nil {
			return nil, nil, usage("identity %s is encrypted in an old format, and there is no %s.pub beside it", path, path)
		}
		if public, _, _, _, err = ssh.ParseAuthorizedKey(pub); err != nil {
			return nil, nil, usage("identity %s.pub: %v", path, err)
		}
	}
	return public, b, nil
}

// lockedKey is an encrypted private key. It asks for its passphrase when it must sign.
type lockedKey struct {
	id     *identity
	ctx    context.Context // of the command: ssh.Signer has no place for one
	public ssh.PublicKey
	pem    []byte
	open   ssh.Signer
}

func (k *lockedKey) PublicKey() ssh.PublicKey { return k.public }

func (k *lockedKey) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return k.SignWithAlgorithm(rand, data, "")
}

// SignWithAlgorithm is wanted for RSA keys.
func (k *lockedKey) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	if k.open == nil {
		if !k.id.screen.interactive() {
			return nil, errors.New("it is encrypted, and there is no terminal to ask for its passphrase: use the ssh-agent")
		}
		pass, err := k.id.screen.ask(k.ctx, true, "Passphrase of %s: ", k.id.path)
		if err != nil {
			return nil, err
		}
		if k.open, err = ssh.ParsePrivateKeyWithPassphrase(k.pem, []byte(pass)); err != nil {
			return nil, errors.New("the passphrase is wrong")
		}
	}
	if s, ok := k.open.(ssh.AlgorithmSigner); ok && algorithm != "" {
		return s.SignWithAlgorithm(rand, data, algorithm)
	}
	return k.open.Sign(rand, data)
}

// agent returns the keys of the ssh-agent.
func (id *identity) agent(ctx context.Context) ([]ssh.Signer, error) {
	path := id.env("SSH_AUTH_SOCK")
	if path == "" {
		return nil, &failure{exit: exitSignIn, code: api.CodeNoKey, what: "not signed in",
			why: "there is no ssh-agent (SSH_AUTH_SOCK is not set) and no identity is configured",
			next: "start one and ssh-add your key, or name a key file with --identity; without either ~/.ssh/id_ed25519, " +
				"id_ecdsa and id_rsa are tried"}
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, &failure{exit: exitSignIn, code: api.CodeNoKey, what: "not signed in",
			why: fmt.Sprintf("the ssh-agent does not answer: %v", err), next: "start one and ssh-add your key, or name a key file with --identity"}
	}
	context.AfterFunc(ctx, func() { _ = conn.Close() }) // Ctrl-C ends the wait for a touch too
	keys, err := agent.NewClient(conn).Signers()
	if err != nil {
		return nil, &failure{exit: exitSignIn, code: api.CodeNoKey, what: "not signed in",
			why: fmt.Sprintf("the ssh-agent does not list its keys: %v", err)}
	}
	for i, k := range keys {
		if strings.HasPrefix(k.PublicKey().Type(), "sk-") {
			keys[i] = touchKey{Signer: k, screen: id.screen}
		}
	}
	return keys, nil
}

// touchKey is a hardware key: it says that it waits for a finger.
type touchKey struct {
	ssh.Signer
	screen *screen
}

func (k touchKey) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	k.screen.note("Touch your security key…")
	return k.Signer.Sign(rand, data)
}
