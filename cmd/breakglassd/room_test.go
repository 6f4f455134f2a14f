package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/cmd/breakglassd/config"
	"github.com/breakglassd/breakglass/internal/checkup"
	"github.com/breakglassd/breakglass/internal/disk"
)

// Doctor says how much room each store has, and that what API servers send can fill the ledger's disk where both share one.
func TestDoctorLooksAtTheRoomOfTheStores(t *testing.T) {
	dir := t.TempDir()
	free, err := disk.Free(dir)
	must(t, err)
	level := checkup.OK
	if free < roomSoon {
		level = checkup.Warn
	}
	for name, sessions := range map[string]string{"no sessions": "", "beside the ledger": filepath.Join(dir, "sessions", "sessions.db")} {
		d := &doctor{cfg: &config.Config{Ledger: config.Ledger{Path: filepath.Join(dir, "ledger.db")}, Sessions: config.Sessions{Path: sessions}}}
		d.rooms()
		said := d.said()
		shared := strings.Contains(said, "sessions.path and ledger.path are on one file system: what API servers send can fill the ledger's disk")
		if shared != (sessions != "") || !strings.Contains(said, "the disk of ledger.path has ") ||
			strings.Contains(said, "the disk of sessions.path has ") != (sessions != "") {
			t.Errorf("%s: says\n%s", name, said)
		}
		for _, f := range d.lines {
			if want := map[bool]checkup.Level{true: checkup.Warn, false: level}[strings.Contains(f.Text, "one file system")]; f.Level != want {
				t.Errorf("%s: %v %s, want %v", name, f.Level, f.Text, want)
			}
		}
	}
}
