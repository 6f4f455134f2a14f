package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/breakglassd/breakglass/internal/disk"
)

// roomSoon is the room under which doctor warns, and the alert of the same number fires: time enough to look for what fills a disk.
const roomSoon = 1 << 30

// room is what is known of the room that the daemon's files have.
type room struct {
	mu               sync.Mutex // guards the fields below
	ledger, sessions error      // why nothing new is taken in, nil while there is room
}

func (r *room) short() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ledger
}

func (r *room) sessionsShort() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sessions
}

// keepRoom has the stores take back the room that they gave up, and notes whether they have it.
func (d *daemon) keepRoom(ctx context.Context) {
	of, sessions := d.store.KeepRoom(ctx), error(nil)
	if d.sessions != nil {
		sessions = d.sessions.store.KeepRoom()
	}
	if ctx.Err() != nil { // then it is not known
		return
	}
	d.room.mu.Lock()
	defer d.room.mu.Unlock()
	d.room.ledger, d.room.sessions = of, sessions
}

// rooms looks at the disks.
func (d *doctor) rooms() {
	looked := []struct{ key, path string }{{"ledger.path", d.cfg.Ledger.Path}}
	if d.cfg.Sessions.Path != "" {
		looked = append(looked, struct{ key, path string }{"sessions.path", d.cfg.Sessions.Path})
		if same, err := disk.Same(d.cfg.Ledger.Path, d.cfg.Sessions.Path); err == nil && same {
			d.warn("room", d.cfg.Sessions.Path, "sessions.path and ledger.path are on one file system: what API servers send can fill the "+
				"ledger's disk; give one of them a disk of its own")
		}
	}
	for _, l := range looked {
		free, err := disk.Free(l.path)
		switch {
		case err != nil:
			d.wrong("room", l.path, errors.Join(fmt.Errorf("%s:", l.key), err))
		case free < roomSoon:
			d.warn("room", l.path, "the disk of %s has only %s left: make room; under some 32 MiB requests are refused", l.key, disk.MiB(free))
		default:
			d.ok("room", l.path, "the disk of %s has %s left", l.key, disk.MiB(free))
		}
	}
}
