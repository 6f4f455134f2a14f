package main

import (
	"context"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh"
	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/recert"
)

// TestRecertScripts plays campaigns as people do on the command line, against a whole daemon. The cluster is one in which a CI
// account may read secrets until the file "taken-away" exists.
func TestRecertScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/recert",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			t, ok := env.T().(testing.TB)
			if !ok {
				return fmt.Errorf("no testing.TB")
			}
			s := bgtest.New(t, bgtest.Options{Policy: bgtest.Policy() +
				"recertification: {reviewers: [sre, security], adminReviewers: 2, deadline: 14d}\n"})
			subject := inventory.Subject{Kind: inventory.ServiceAccount, Namespace: "ci", Name: "deployer"}
			via := inventory.Ref{Kind: "RoleBinding", Namespace: "ci", Name: "old"}
			campaigns, err := recert.New(recert.Config{Domain: s.Service, Campaigns: s.Campaigns, Ledger: s.Ledger, Signer: s.Signer(),
				Dir:      filepath.Join(s.Dir, "recert"),
				Clusters: []string{"c1"},
				Scan: func(context.Context, string) (*inventory.Snapshot, *doors.Analysis, error) {
					snap := &inventory.Snapshot{Cluster: "c1", At: time.Now().UTC(),
						Bindings: []inventory.Binding{{Namespace: "ci", Name: "old", Subjects: []inventory.Subject{subject}}}}
					judged := &doors.Analysis{Cluster: "c1"}
					if _, err := os.Stat(filepath.Join(env.WorkDir, "taken-away")); err != nil {
						judged.Powers = append(judged.Powers, inventory.Power{Subject: subject, Rights: []string{"secrets-read@ci"},
							Severity: inventory.High, Via: []inventory.Ref{via}})
					}
					return snap, judged, nil
				}})
			if err != nil {
				return err
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			url := "http://" + l.Addr().String()
			h, err := api.NewServer(api.Config{Service: s.Service, Campaigns: s.Campaigns, Ledger: s.Ledger, LedgerKey: s.VKey, URLs: []string{url},
				Recert: campaigns})
			if err != nil {
				return err
			}
			srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}}
			srv.Start()
			env.Defer(srv.Close)
			for _, p := range bgtest.People {
				block, err := ssh.MarshalPrivateKey(bgtest.PrivateKey(p), p)
				if err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(env.WorkDir, p), pem.EncodeToMemory(block), 0o600); err != nil {
					return err
				}
			}
			for _, d := range []string{"run", "home"} {
				if err := os.Mkdir(filepath.Join(env.WorkDir, d), 0o700); err != nil {
					return err
				}
			}
			env.Values["system"] = s
			env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
			env.Setenv("XDG_RUNTIME_DIR", filepath.Join(env.WorkDir, "run"))
			env.Setenv("XDG_STATE_HOME", filepath.Join(env.WorkDir, "state"))
			env.Setenv("BREAKGLASS_SERVER", url)
			env.Setenv("BREAKGLASS_IDENTITY", "carol")
			env.Setenv("VKEY", s.VKey)
			_, other, err := note.GenerateKey(rand.Reader, "other.example/ledger")
			if err != nil {
				return err
			}
			env.Setenv("OTHER_VKEY", other)
			earlier, err := filepath.Abs("../../internal/recert/testdata/bundle-earlier.tar.gz")
			if err != nil {
				return err
			}
			env.Setenv("EARLIER", earlier)
			env.Setenv("EARLIER_VKEY", "ledger.example.com/test+225a5145+AeQJavNzfOJJtCb9iGfhOxQ1tt1GabB+UmINEV7F2LjT") // of storetest.Key
			env.Setenv("SSH_AUTH_SOCK", "")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"exits": exits, "flip": flip, "keep-all": keepAll,
			"export": exportSystem},
	})
}

// export DIR writes an export of the ledger.
func exportSystem(ts *testscript.TestScript, _ bool, args []string) {
	s, ok := ts.Value("system").(*bgtest.System)
	if !ok {
		ts.Fatalf("no system")
	}
	ts.Check(ledger.Export(context.Background(), s.Ledger, ts.MkAbs(args[0])))
}

// keep-all has enough reviewers keep whatever of the last campaign waits for somebody.
func keepAll(ts *testscript.TestScript, _ bool, _ []string) {
	s, ok := ts.Value("system").(*bgtest.System)
	if !ok {
		ts.Fatalf("no system")
	}
	ctx := context.Background()
	c, err := s.Campaigns.Get(ctx, "")
	ts.Check(err)
	for _, who := range []string{"carol", "erin", "dave", "alice"} {
		for _, i := range c.Items {
			if c.Waits(i, who, time.Now()) {
				c, err = s.Campaigns.Decide(ctx, bgtest.ByKey(who), c.ID, campaign.Answer{Verdict: campaign.VerdictKeep,
					Reason: "as it must be", Items: []campaign.Judged{{ID: i.ID, Digest: i.Digest}}})
				ts.Check(err)
			}
		}
	}
}

// Programs go by the exit code: a bundle of a newer release is told from a forged one, and only a whole one is no failure.
func TestWhatABundleProvesIsTheExitCode(t *testing.T) {
	good := recert.Verification{Campaign: "campaign-2026-11-01-ab12", Closed: true}
	for name, tt := range map[string]struct {
		change func(*recert.Verification)
		exit   int
		says   string
	}{
		"sound and closed": {func(*recert.Verification) {}, 0, ""},
		"newer": {func(v *recert.Verification) {
			v.Newer, v.Problems = true, []string{"ledger entry 7: made by a newer release"}
		}, 9,
			"no sign of forgery"},
		"forged": {func(v *recert.Verification) { v.Problems = []string{"items.csv is not as it was signed"} }, exit.Unverified,
			"1 problem"},
		"not compared": {func(v *recert.Verification) { v.Unchecked = []string{"report.html"} }, exit.Unverified, "another version"},
		"still open":   {func(v *recert.Verification) { v.Closed = false }, exit.Unverified, "is not closed"},
	} {
		v := good
		tt.change(&v)
		f := notVerified(v, "breakglass")
		if (f == nil) != (tt.exit == 0) || f != nil && (f.Exit != tt.exit || !strings.Contains(f.Error(), tt.says) || f.Next == "") {
			t.Errorf("%s: got %+v, want exit %d and %q", name, f, tt.exit, tt.says)
		}
	}
}
