package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/breakglassd/breakglass/cmd/breakglassd/config"
	"github.com/breakglassd/breakglass/cmd/breakglassd/process"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/ledger/sqlstore"
)

// rehearse builds everything that serve builds, with a ledger and a session store of its own in a temporary directory, so that it
// can run beside the daemon. It asks no other system and listens nowhere when it returns. The error is the one that serve would end
// with.
func rehearse(ctx context.Context, cfg *config.Config) (err error) {
	dir, err := os.MkdirTemp("", "breakglassd-check-")
	if err != nil {
		return fmt.Errorf("making a temporary directory for the check: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	own := *cfg
	own.Ledger.Path, own.Ledger.KeyFile = filepath.Join(dir, "ledger.db"), filepath.Join(dir, "ledger.key")
	if _, err := ledger.CreateKey(own.Ledger.KeyFile, own.Ledger.Origin); err != nil {
		return err
	}
	if err := sqlstore.Create(ctx, own.Ledger.Path); err != nil {
		return err
	}
	if own.Sessions.Path != "" {
		own.Sessions.Path = filepath.Join(dir, "sessions.db")
	}
	if own.Recertification.Dir != "" {
		own.Recertification.Dir = filepath.Join(dir, "recertification")
	}
	d := &daemon{cfg: &own, log: slog.New(slog.DiscardHandler)}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.open(ctx, parts{}); err != nil {
		return err
	}
	if own.Webhooks.Address != "" {
		if _, err := d.hookHandler(); err != nil {
			return err
		}
	}
	_, err = d.handler(ctx, "https://check.invalid")
	return err
}

// place is a file or directory that the daemon makes when it is missing.
type place struct {
	key, path string
	dir       bool
}

// places lists what the daemon writes to.
func places(c *config.Config) []place {
	list := []place{{"ledger.path", c.Ledger.Path, false}, {"ledger.key_file", c.Ledger.KeyFile, false}}
	if c.Sessions.Path != "" {
		list = append(list, place{"sessions.path", c.Sessions.Path, false})
	}
	if c.Recertification.Dir != "" {
		list = append(list, place{"recertification.dir", c.Recertification.Dir, true})
	}
	return list
}

// usable says why the daemon could not use or make a place, or nil. A directory that is missing is made, so the nearest one that
// exists decides.
func (p place) usable() error {
	info, err := os.Stat(p.path)
	switch {
	case err == nil && info.IsDir() != p.dir:
		what := "a file is needed, and there is a directory"
		if p.dir {
			what = "a directory is needed, and there is a file"
		}
		return fmt.Errorf("%s: %s: %s: name another place", p.key, p.path, what)
	case err == nil && p.dir:
		return p.writable(p.path)
	case err == nil:
		return p.writable(filepath.Dir(p.path)) // SQLite and new keys need other files beside it
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%s: %w", p.key, err)
	}
	for up := filepath.Dir(p.path); ; up = filepath.Dir(up) {
		info, err := os.Stat(up)
		switch {
		case err == nil && !info.IsDir():
			return fmt.Errorf("%s: %s cannot be made: %s is a file: name another place", p.key, p.path, up)
		case err == nil:
			return p.writable(up)
		case up == filepath.Dir(up):
			return fmt.Errorf("%s: %w", p.key, err)
		}
	}
}

func (p place) writable(dir string) error {
	if err := process.MayWrite(dir); err != nil {
		return fmt.Errorf("%s: this user cannot write in %s (%w): make %s for the daemon's user, or name another place", p.key, dir, err,
			filepath.Dir(p.path))
	}
	return nil
}

// makeParent makes the directory of a file, for this user only, unless it is there.
func makeParent(key, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("%s: making its directory: %w", key, err)
	}
	return nil
}

// addresses listens at each address of the configuration, all at once, and stops. taken tells of an address that another
// process has, which is the daemon itself where it runs; err of one that the daemon can never have.
func addresses(cfg *config.Config) (taken []string, err error) {
	var open []net.Listener
	defer func() {
		for _, l := range open {
			err = errors.Join(err, l.Close())
		}
	}()
	ports := map[string]string{} // by which key each is asked for
	for _, at := range []struct{ key, address string }{{"listen.address", cfg.Listen.Address}, {"webhooks.address", cfg.Webhooks.Address},
		{"health.address", cfg.Health.Address}} {
		if at.address == "" {
			continue
		}
		l, err := net.Listen("tcp", at.address)
		_, port, _ := net.SplitHostPort(at.address) // Validate has seen that it is host:port
		switch {
		case err == nil:
			open = append(open, l)
			ports[port] = at.key
		case errors.Is(err, syscall.EADDRINUSE) && ports[port] != "":
			return taken, fmt.Errorf("%s and %s both want port %s: give each its own", ports[port], at.key, port)
		case errors.Is(err, syscall.EADDRINUSE):
			ports[port] = at.key
			taken = append(taken, fmt.Sprintf("%s: %s is in use: by the daemon itself, if it runs", at.key, at.address))
		default:
			return taken, fmt.Errorf("%s: %w", at.key, err)
		}
	}
	return taken, nil
}
