package main

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/cmd/breakglassd/config"
	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/bgtest/smalldisk"
)

// Ledger and sessions are on a disk that fills up. Revocations go on, also after a restart on the full disk, nothing new is taken in,
// and all is as before when there is room again.
func TestFullDiskDoesNotStopRevocations(t *testing.T) {
	smalldisk.Run(t, "160m", func(t *testing.T, disk string) {
		s := newSite(t)
		text, err := os.ReadFile(s.config)
		s.must(err)
		s.write("config.yaml", strings.Replace(string(text), "path: ledger.db", "path: "+disk+"/ledger.db", 1)+
			"sessions: {path: "+disk+"/sessions.db}\n")
		d := s.serve(parts{})
		d.ready()
		first, second := d.grant(), d.grant()
		bound := func(want int) func() bool {
			return func() bool { have, _ := s.kube.Bindings(); return len(have) == want }
		}
		d.until("bindings", bound(2))

		empty := smalldisk.Fill(t, disk)
		short := func() bool {
			_, body := d.get("/readyz?verbose")
			return strings.Contains(body, `{"name":"ledger-room","ok":false`) && strings.Contains(body, `{"name":"sessions-room","ok":false`)
		}
		d.until("the word that there is no room", short)
		wantNoRoom := func() {
			t.Helper()
			_, err := d.client("alice").Request(t.Context(), api.Ask{Profile: "admin", Cluster: "c1", Reason: "etcd has lost its quorum"})
			if e := (*api.Error)(nil); !errors.As(err, &e) || e.Code != "room" || !strings.Contains(e.Next, "make room") {
				t.Errorf("a request on a full disk: %v", err)
			}
		}
		wantNoRoom()
		revoke := func(id string, left int) {
			t.Helper()
			_, err := d.client("carol").Command(t.Context(), id, "revoke", "the laptop was stolen")
			s.must(err)
			d.until("the binding to go", bound(left))
			d.until("the receipt", func() bool {
				r, err := d.client("carol").Get(t.Context(), id)
				s.must(err)
				return r.Receipt != nil
			})
		}
		revoke(first, 1)
		if _, m := d.get("/metrics"); !strings.Contains(m, "breakglass_can_take_requests 0") ||
			!strings.Contains(m, "breakglass_ledger_free_bytes ") || !strings.Contains(m, "breakglass_sessions_free_bytes ") {
			t.Error("the metrics do not say that the disk is full")
		}
		d.end()

		smalldisk.Fill(t, disk) // also what the end gave back
		d = s.serve(parts{})
		d.ready()
		wantNoRoom()
		revoke(second, 0)

		empty()
		d.until("the word that there is room", func() bool { return !short() })
		d.grant()
		d.end()
		cfg, err := config.Load(s.config)
		s.must(err)
		_, _, vkey, err := ledgerKey(cfg)
		s.must(err)
		v, err := verifyLedger(t.Context(), cfg.Ledger.Path, vkey, nil)
		s.must(err)
		if bad := v.problems(); len(bad) > 0 {
			t.Errorf("the ledger does not verify: %v", bad)
		}
	})
}
