// Package sshkeys finds the SSH keys by which a person signs in: those of the ssh-agent, one of them, or those in files.
package sshkeys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/cli/terminal"
)

// Keys is where the person's SSH keys are: the ssh-agent, one key of it, or a private key file.
type Keys struct {
	Path   string // empty: every key of the agent, and the key files that ssh tries
	Env    func(string) string
	Screen *terminal.Screen // says what is not tried and when to touch a key, and asks for passphrases
	found  []ssh.Signer
}

// Signers finds the keys, once. A private key file is decrypted when the first signature is wanted, not before.
func (id *Keys) Signers(ctx context.Context) ([]ssh.Signer, error) {
	if id.found != nil {
		return id.found, nil
	}
	var err error
	id.found, err = id.find(ctx)
	return id.found, err
}

func (id *Keys) find(ctx context.Context) ([]ssh.Signer, error) {
	if id.Path == "" {
		keys, err := id.agent(ctx)
		files := id.files(ctx)
		if len(files) > 0 {
			err = nil
		}
		return append(keys, files...), err
	}
	public, private, err := Read(id.Path)
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
		return nil, &exit.Error{Exit: exit.SignIn, Code: api.CodeNoKey, What: "not signed in", Why: "the ssh-agent does not hold the key " +
			id.Path,
			Next: "add it with ssh-add"}
	}
	s, err := ssh.ParsePrivateKey(private)
	if missing := (*ssh.PassphraseMissingError)(nil); errors.As(err, &missing) {
		return []ssh.Signer{&lockedKey{id: id, ctx: ctx, public: public, pem: private}}, nil
	}
	if err != nil {
		return nil, exit.Usage("identity %s: %v; a hardware key works through the ssh-agent", id.Path, err)
	}
	return []ssh.Signer{s}, nil
}

// files are the keys that ssh would try after the agent's. One that cannot be used is left out, as ssh does.
func (id *Keys) files(ctx context.Context) []ssh.Signer {
	var out []ssh.Signer
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} { // those for hardware keys work through the agent
		path := filepath.Join(id.Env("HOME"), ".ssh", name)
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
			continue
		}
		one := &Keys{Path: path, Env: id.Env, Screen: id.Screen}
		keys, err := one.find(ctx)
		if err != nil {
			id.Screen.Note("%s %s is not tried: %v", id.Screen.Yellow("!"), path, err)
			continue
		}
		out = append(out, keys...)
	}
	return out
}

// Read reads a public or a private key file; private is nil for the former.
func Read(path string) (public ssh.PublicKey, private []byte, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, exit.Usage("identity: %v", err)
	}
	if public, _, _, _, err := ssh.ParseAuthorizedKey(b); err == nil {
		return public, nil, nil
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 {
		return nil, nil, exit.Usage("identity %s: others can read this private key; chmod 600 it", path)
	}
	s, err := ssh.ParsePrivateKey(b)
	if err == nil {
		return s.PublicKey(), b, nil
	}
	missing := (*ssh.PassphraseMissingError)(nil)
	if !errors.As(err, &missing) {
		return nil, nil, exit.Usage("identity %s is not an SSH key that can be used here "+
			"(a hardware key works through the ssh-agent): %v", path, err)
	}
	if public = missing.PublicKey; public == nil { // the old PEM format does not say
		pub, err := os.ReadFile(path + ".pub")
		if err != nil {
			return nil, nil, exit.Usage("identity %s is encrypted in an old format, and there is no %s.pub beside it", path, path)
		}
		if public, _, _, _, err = ssh.ParseAuthorizedKey(pub); err != nil {
			return nil, nil, exit.Usage("identity %s.pub: %v", path, err)
		}
	}
	return public, b, nil
}

// lockedKey is an encrypted private key. It asks for its passphrase when it must sign.
type lockedKey struct {
	id     *Keys
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
		if !k.id.Screen.Interactive() {
			return nil, errors.New("it is encrypted, and there is no terminal to ask for its passphrase: use the ssh-agent")
		}
		pass, err := k.id.Screen.Ask(k.ctx, true, "Passphrase of %s: ", k.id.Path)
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
func (id *Keys) agent(ctx context.Context) ([]ssh.Signer, error) {
	path := id.Env("SSH_AUTH_SOCK")
	if path == "" {
		return nil, &exit.Error{Exit: exit.SignIn, Code: api.CodeNoKey, What: "not signed in",
			Why: "there is no ssh-agent (SSH_AUTH_SOCK is not set) and no identity is configured",
			Next: "start one and ssh-add your key, or name a key file with --identity; without either ~/.ssh/id_ed25519, " +
				"id_ecdsa and id_rsa are tried"}
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, &exit.Error{Exit: exit.SignIn, Code: api.CodeNoKey, What: "not signed in",
			Why: fmt.Sprintf("the ssh-agent does not answer: %v", err), Next: "start one and ssh-add your key, or name a key file with --identity"}
	}
	context.AfterFunc(ctx, func() { _ = conn.Close() }) // Ctrl-C ends the wait for a touch too
	keys, err := agent.NewClient(conn).Signers()
	if err != nil {
		return nil, &exit.Error{Exit: exit.SignIn, Code: api.CodeNoKey, What: "not signed in",
			Why: fmt.Sprintf("the ssh-agent does not list its keys: %v", err)}
	}
	for i, k := range keys {
		if strings.HasPrefix(k.PublicKey().Type(), "sk-") {
			keys[i] = touchKey{Signer: k, screen: id.Screen}
		}
	}
	return keys, nil
}

// touchKey is a hardware key: it says that it waits for a finger.
type touchKey struct {
	ssh.Signer
	screen *terminal.Screen
}

func (k touchKey) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	k.screen.Note("Touch your security key…")
	return k.Signer.Sign(rand, data)
}
