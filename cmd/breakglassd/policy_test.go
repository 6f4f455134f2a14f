package main

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakglassd/breakglass/cmd/breakglassd/config"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/checkup"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// The gauge is 0 while nothing waits, and never 0 while something does; a restart does not make it begin again.
func TestHowLongAPolicyWaitsIsMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bgtest.New(t, bgtest.Options{Policy: bgtest.Guarded()})
		is := func(want float64) {
			t.Helper()
			m := newMetrics(&daemon{cfg: &config.Config{Ledger: config.Ledger{Path: filepath.Join(s.Dir, "ledger.db")}}, service: s.Service,
				ledger: s.Ledger})
			all, err := m.registry.Gather()
			must(t, err)
			for _, f := range all {
				if f.GetName() != "breakglass_policy_waiting_seconds" {
					continue
				}
				if got := f.GetMetric()[0].GetGauge().GetValue(); got != want {
					t.Errorf("a change waits %v seconds, want %v", got, want)
				}
				return
			}
			t.Error("there is no such metric")
		}
		load := func(text string) {
			t.Helper()
			p, err := policy.Parse("access.yaml", []byte(text))
			must(t, err)
			_, err = s.Service.InForce.Set(t.Context(), p)
			if r, no := record.AsRefusal(err); err != nil && (!no || r.Code != policy.CodeWaits) {
				t.Fatal(err)
			}
		}
		is(0)
		more := strings.Replace(bgtest.Guarded(), "members: [carol, erin]", "members: [carol, erin, mallory]", 1)
		load(more)
		is(1)
		time.Sleep(time.Hour)
		is(3600)
		s.SignPolicy("alice", false)
		s.RestartWith(more)
		is(3600)
		time.Sleep(24 * time.Hour) // and now the alert fires
		is(25 * 3600)
		s.SignPolicy("bob", false)
		is(0)
		load(bgtest.Guarded())
		is(0)
		load(more)
		time.Sleep(time.Minute)
		is(60)
		load(bgtest.Guarded()) // taken back
		is(0)
	})
}

func TestDoctorSaysWhoAgreesToThePolicy(t *testing.T) {
	withoutKey := func(pol, person string) string {
		at := strings.Index(pol, "{id: "+person+",")
		end := at + strings.Index(pol[at:], "\n")
		line := pol[at:end]
		return pol[:at] + line[:strings.Index(line, ", keys:")] + "}" + pol[end:]
	}
	for name, c := range map[string]struct {
		policy string
		level  checkup.Level
		want   string
	}{
		"three who can sign": {bgtest.Guarded(), checkup.OK,
			"two of alice, bob, dave sign what a change of the access policy adds or eases"},
		"two, of three members": {withoutKey(bgtest.Guarded(), "dave"), checkup.Warn, "only alice and bob can sign changes of the access " +
			"policy: if one of them loses the key, no change is possible without --accept-weaker"},
		"elsewhere": {bgtest.Policy(), checkup.Warn, `The policy says that a second person does elsewhere ("the test"): new keys, ` +
			"accounts, members and profiles count after 24h0m0s"},
		"no second person": {strings.Replace(bgtest.Policy(), "policy: {reviewedBy: the test}\n", "", 1), checkup.Warn,
			"ONE PERSON WHO CAN WRITE THIS FILE DECIDES WHO APPROVES"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := policy.Parse("access.yaml", []byte(c.policy))
			must(t, err)
			d := &doctor{cfg: &config.Config{PolicyFile: "access.yaml"}, policy: p}
			d.changes()
			if len(d.lines) != 1 || d.lines[0].Level != c.level || !strings.Contains(d.lines[0].Text, c.want) {
				t.Errorf("says\n%s", d.said())
			}
		})
	}
}

// What was approved before two people agreed to the policy is no forgery, and not fine either.
func TestVerifyingEndsWithTenWhereNoTwoPeopleAgreed(t *testing.T) {
	s := bgtest.New(t, bgtest.Options{Policy: bgtest.Guarded()})
	s.Approve(bgtest.ByKey("bob"), s.Ask(bgtest.ByKey("alice"), "keys"))
	verify := func(want int) {
		t.Helper()
		var out bytes.Buffer
		err := (&ledgerFlags{db: s.Path(), key: s.VKey}).verify(t.Context(), &out, nil)
		got, is := 0, (*exitError)(nil)
		if errors.As(err, &is) {
			got = is.code
		}
		if got != want {
			t.Errorf("ends with %d, want %d: %v\n%s", got, want, err, out.String())
		}
	}
	verify(exitUnagreed)
	s.SignPolicy("alice", false)
	verify(exitUnagreed)
	s.SignPolicy("bob", false)
	verify(0)
}
