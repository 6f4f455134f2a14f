package real

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	vaultapi "github.com/hashicorp/vault/api"
)

// VaultOptions say how a Vault is started. Only Dir must be set.
type VaultOptions struct {
	// Dir is where its certificate, its log and its data go: a new directory, made if need be, of this Vault alone.
	Dir string
	// Persistent keeps the data in files, so that it survives Stop and Start, and Vault comes back sealed. Otherwise it is in
	// memory, and a Vault that is started again is a new one.
	Persistent bool
	// CopyOf, if set, is a persistent Vault that has been stopped. The new one is persistent too and begins with what that one
	// holds, its root token and unseal key included, but with an address and a certificate of its own. So a set-up that takes
	// seconds is made once, and each test still has a Vault that it may break.
	CopyOf *Vault
	// Server is OpenBaoServer for an OpenBao in place of a Vault. A copy is of the kind that it is copied from.
	Server Component
	// Plain makes it listen without TLS, for a test that reads or cuts the bytes on the way.
	Plain bool
}

// A Vault is a running Vault or OpenBao server: initialised with one key share, unsealed, with nothing mounted but what it mounts
// by itself. Addr is stable over Stop and Start.
type Vault struct {
	Process
	Addr      string // https://127.0.0.1:port, or http:// where Plain was asked for
	CACert    string // file with the CA that its listener's certificate is from; "" where Plain was asked for
	RootToken string
	UnsealKey string

	persistent bool
	httpClient *http.Client
	admin      *vaultapi.Client // has the root token once there is one
}

// StartVault starts a Vault, initialises and unseals it. ctx limits the start only: the server runs until Stop or until
// this process dies.
func (b Binaries) StartVault(ctx context.Context, o VaultOptions) (*Vault, error) {
	if from := o.CopyOf; from != nil {
		o.Server = from.component
	}
	started := "Vault server started!"
	switch o.Server {
	case "":
		o.Server = VaultServer
	case OpenBaoServer:
		started = "OpenBao server started!"
	default: // the Vault that is asked for by name
	}
	path, err := b.path(o.Server)
	if err != nil {
		return nil, err
	}
	ca, err := NewCA("real vault listener")
	if err != nil {
		return nil, err
	}
	if err := ca.writeServing(o.Dir, "vault"); err != nil {
		return nil, fmt.Errorf("preparing vault's directory: %w", err)
	}
	if from := o.CopyOf; from != nil {
		if from.running() || !from.persistent {
			return nil, errors.New("only a persistent vault that has been stopped can be copied")
		}
		if err := os.CopyFS(filepath.Join(o.Dir, "data"), os.DirFS(filepath.Join(from.dir, "data"))); err != nil {
			return nil, fmt.Errorf("copying a vault: %w", err)
		}
		o.Persistent = true
	}
	v := &Vault{persistent: o.Persistent, httpClient: ca.httpClient(),
		Process: Process{component: o.Server, path: path, dir: o.Dir, args: []string{"server", "-config=vault.json"}}}
	v.ready = func(context.Context) error { return v.printed(started) }
	err = withFreePorts(1, func(ports []int) error {
		v.Addr, v.CACert = "https://"+hostPort(ports[0]), filepath.Join(o.Dir, "ca.crt")
		listener := map[string]any{"address": hostPort(ports[0]), "tls_cert_file": "server.crt", "tls_key_file": "server.key"}
		if o.Plain {
			v.Addr, v.CACert = "http://"+hostPort(ports[0]), ""
			listener["tls_disable"] = true
		}
		storage := map[string]any{"inmem": map[string]any{}}
		if o.Persistent {
			storage = map[string]any{"file": map[string]any{"path": "data"}}
		}
		config, err := json.MarshalIndent(map[string]any{
			"storage":       storage,
			"listener":      map[string]any{"tcp": listener},
			"api_addr":      v.Addr,
			"disable_mlock": true, // locking memory needs a capability that tests do not have; OpenBao never does it, and ignores this
		}, "", "  ")
		if err != nil {
			return err
		}
		if err := writeFiles(o.Dir, map[string][]byte{"vault.json": config}); err != nil {
			return err
		}
		return v.start(ctx)
	})
	if err != nil {
		return nil, err
	}
	if v.admin, err = v.ClientWithToken(""); err == nil {
		if o.CopyOf == nil {
			err = v.initialise(ctx)
		} else {
			v.RootToken, v.UnsealKey = o.CopyOf.RootToken, o.CopyOf.UnsealKey
			v.admin.SetToken(v.RootToken)
			err = v.Unseal(ctx)
		}
	}
	if err != nil {
		v.Stop()
		return nil, err
	}
	return v, nil
}

func (v *Vault) initialise(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	init, err := v.admin.Sys().InitWithContext(ctx, &vaultapi.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return fmt.Errorf("initialising vault: %w", err)
	}
	v.RootToken, v.UnsealKey = init.RootToken, init.KeysB64[0]
	v.admin.SetToken(v.RootToken)
	return v.Unseal(ctx)
}

// Start starts a Vault that was stopped, at the same address. A persistent one is then sealed, as any Vault is after a
// restart; one in memory is a new one, with another root token.
func (v *Vault) Start(ctx context.Context) error {
	if err := v.start(ctx); err != nil || v.persistent {
		return err
	}
	return v.initialise(ctx)
}

// Restart kills the server, starts it again and unseals it.
func (v *Vault) Restart(ctx context.Context) error {
	v.Stop()
	if err := v.Start(ctx); err != nil {
		return err
	}
	return v.Unseal(ctx)
}

// Seal seals the server: until Unseal it answers every request for a secret with 503.
func (v *Vault) Seal(ctx context.Context) error {
	if err := v.admin.Sys().SealWithContext(ctx); err != nil {
		return fmt.Errorf("sealing vault: %w", err)
	}
	return nil
}

// Unseal unseals the server and returns when it serves requests again. Unsealing twice does nothing.
func (v *Vault) Unseal(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if _, err := v.admin.Sys().UnsealWithContext(ctx, v.UnsealKey); err != nil {
		return fmt.Errorf("unsealing vault: %w", err)
	}
	// The answer to unseal comes before the server has become active.
	for {
		health, err := v.admin.Sys().HealthWithContext(ctx)
		if err == nil && !health.Sealed && !health.Standby {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for an unsealed vault to serve: %w", errors.Join(context.Cause(ctx), err))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Client returns a new client that acts as root.
func (v *Vault) Client() (*vaultapi.Client, error) { return v.ClientWithToken(v.RootToken) }

// ClientWithToken returns a new client with the given token, which may be empty. It never retries and does not obey VAULT_*
// variables, so that one call in a test is one request to the server.
func (v *Vault) ClientWithToken(token string) (*vaultapi.Client, error) {
	client, err := vaultapi.NewClient(&vaultapi.Config{Address: v.Addr, HttpClient: v.httpClient, Timeout: 30 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("making a vault client: %w", err)
	}
	client.ClearNamespace()
	client.SetToken(token)
	return client, nil
}
