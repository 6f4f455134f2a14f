package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/cli/machine"
	"github.com/breakglassd/breakglass/internal/cli/proved"
	"github.com/breakglassd/breakglass/internal/cli/sshkeys"
	"github.com/breakglassd/breakglass/internal/cli/view"
	"github.com/breakglassd/breakglass/internal/ledger"
)

// client makes the client for the configured server, with the cached session if it is one of the chosen identity.
func (a *app) client() (*api.Client, error) {
	if a.conf.Server == "" {
		return nil, &exit.Error{Exit: exit.BadUsage, Code: "no-server", What: "no server is configured",
			Next: "--server https://…, BREAKGLASS_SERVER, or server: in the configuration file (breakglass help environment)"}
	}
	address, err := api.Address(a.conf.Server)
	if err != nil {
		return nil, exit.Usage("server: %v", err)
	}
	var ca []byte
	if a.conf.CAFile != "" {
		if ca, err = os.ReadFile(a.conf.CAFile); err != nil {
			return nil, exit.Usage("CA file: %v", err)
		}
	}
	h, err := api.NewHTTP(ca)
	if err != nil {
		return nil, exit.Usage("CA file %s: %v", a.conf.CAFile, err)
	}
	a.store.LedgerKey = a.conf.LedgerKey
	a.keys = &sshkeys.Keys{Path: a.conf.Identity, Env: a.env, Screen: a.screen}
	c := &api.Client{Server: address, HTTP: h, Keys: a.keys.Signers, OnTime: a.serverTime, Name: a.env("USER")}
	a.used = c
	trusted, err := a.store.Server(address)
	if err != nil {
		return nil, err
	}
	if !a.timeKnown {
		a.skew = time.Duration(trusted.Skew) * time.Second
	}
	if err := a.store.Sweep("", false); err != nil {
		return nil, err
	}
	c.Ledger = trusted.Origin()
	if c.SignedIn, err = a.session(address); err != nil {
		return nil, err
	}
	// Every person who signs in, approvers and responders too, does so with the ledger that this machine saw before or with one that goes on
	// from it. A daemon that was restored from an older copy has lost its sessions, so that everybody has to.
	c.Trust = func(ctx context.Context) error {
		return a.proof(c).CheckLedger(ctx, func(v note.Verifier) ([]byte, error) {
			signed, err := c.Checkpoint(ctx)
			if err != nil {
				return nil, err
			}
			_, err = ledger.ParseCheckpoint(signed, v)
			return signed, err
		})
	}
	c.OnSignIn = func(s api.SignIn) {
		if err := a.store.KeepSignIn(address, s); err != nil {
			a.screen.Note("%s the sign-in could not be kept: %v", a.screen.Yellow("!"), err)
		}
	}
	return c, nil
}

// session is the sign-in that an earlier run kept, if it is one of the chosen identity.
func (a *app) session(server string) (api.SignIn, error) {
	s, err := a.store.SignIn(server)
	if err != nil || s.Token == "" || a.conf.Identity == "" {
		return s, err
	}
	public, _, err := sshkeys.Read(a.conf.Identity)
	if err != nil || ssh.FingerprintSHA256(public) != s.Key {
		return api.SignIn{}, err
	}
	return s, nil
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
		a.store.KeepSkew(c.Server, a.skew)
		if err := a.store.Sweep(c.Server, true); err != nil {
			a.screen.Note("%s expired keys could not be looked for: %v", a.screen.Yellow("!"), err)
			return
		}
	}
	ctx, cancel := context.WithTimeout(ctx, tidyTime)
	defer cancel()
	signers := c.Keys
	c.Keys = func(context.Context) ([]ssh.Signer, error) { return nil, nil }
	defer func() { c.Keys = signers }()
	all, err := a.store.Keys(c.Server)
	if err != nil {
		return
	}
	for _, k := range all {
		if c.SignedIn.Token == "" || k.Private == nil || !k.Claimed || a.settled[k.Request] {
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

// end removes the key of a grant that is over, and says so.
func (a *app) end(k *machine.Key, r api.Request) {
	how := "is " + string(r.State)
	if r.Revoked != nil {
		how = fmt.Sprintf("was revoked by %s at %s", r.Revoked.Person, r.Revoked.At.Local().Format("2006-01-02 15:04:05"))
	}
	err := k.Bury(a.now(), how)
	if err != nil {
		a.screen.Note("%s the key of %s could not be removed: %v", a.screen.Yellow("!"), k.Request, err)
		return
	}
	a.screen.Note("%s %s %s: its key and what was written with it are removed from this machine", a.screen.Yellow("!"), k.Request, how)
}

// get returns a request as the ledger has it. What people decide on and what a claim believes comes from here.
func (a *app) get(ctx context.Context, c *api.Client, id string) (api.Request, error) {
	said, err := c.Get(ctx, id)
	if err != nil {
		return api.Request{}, err
	}
	r, _, err := a.recorded(ctx, c, a.seen(said))
	return r, err
}

// recorded is get for a request that the server has told of already. It returns the proven history too.
func (a *app) recorded(ctx context.Context, c *api.Client, said api.Request) (api.Request, api.History, error) {
	return a.proof(c).Recorded(ctx, said)
}

// proof checks what a server says.
func (a *app) proof(c *api.Client) proved.Checker {
	return proved.Checker{Client: c, Store: a.store, Screen: a.screen, Now: a.now}
}

// pinCluster remembers how a cluster is known, and says when that has changed.
func (a *app) pinCluster(c *api.Client, ask breakglass.Requested, caHash string) error {
	was, is, err := a.store.PinCluster(c.Server, ask, caHash)
	if err != nil || was.Server == "" {
		return err
	}
	if was.Server != is.Server {
		a.screen.Note("%s %s has another address than before: %s, it was %s. Everything you send goes there: ask the people who run it, "+
			"if you did not expect this",
			a.screen.Yellow("!"), ask.Cluster, is.Server, was.Server)
	}
	if was.CAHash != is.CAHash {
		a.screen.Note("%s %s is known by other authorities than before (SHA-256 of its CA bundle: %s, it was %s): ask the people who run "+
			"it, if you did not expect this",
			a.screen.Yellow("!"), ask.Cluster, view.HashWords(is.CAHash), view.HashWords(was.CAHash))
	}
	if was.Way != is.Way {
		a.screen.Note("%s %s is reached another way than before: %s, it was %s. Everything you send goes there: ask the people who run it, if "+
			"you did not expect this", a.screen.Yellow("!"), ask.Cluster, view.WayWords(is.Way), view.WayWords(was.Way))
	}
	return nil
}
