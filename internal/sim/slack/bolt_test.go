package slacksim_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakglassd/breakglass/internal/bgtest/slacksdk"
	slacksim "github.com/breakglassd/breakglass/internal/sim/slack"
)

// heard is what the app on Slack's own SDK says about one request.
type heard struct {
	Event, Text, Team, Enterprise, User, Value, Name, Link, Unscheduled, Gone, Bad, Old string
	Whole, Cleared                                                                      bool
	Port                                                                                int
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Bolt, Slack's own SDK, and not only ours, must find in the simulator the Slack that it was written for: what it cannot parse,
// verify or answer there would be a fault of the simulator's.
func TestSlacksOwnSDKWorksWithTheSimulator(t *testing.T) {
	modules, node := slacksdk.Modules(t)
	for name, tt := range map[string]struct {
		change func(*slacksim.Config)
		team   string // of clicks and forms, as Bolt understands them
		whole  bool
	}{
		"workspace":                    {func(*slacksim.Config) {}, "T0ACME", false},
		"workspace of an organization": {func(c *slacksim.Config) { c.EnterpriseID, c.EnterpriseName = "E0ACME", "Acme" }, "T0ACME", false},
		"organization": {func(c *slacksim.Config) {
			c.EnterpriseID, c.EnterpriseName, c.WholeOrganization = "E0ACME", "Acme", true
		}, "E0ACME", true}, // Bolt takes the organization for the team then
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config()
			cfg.AckWithin, cfg.TriggerLife = 30*time.Second, 30*time.Second
			tt.change(&cfg)
			sim, err := slacksim.New(cfg)
			must(t, err)
			server := httptest.NewServer(sim.Handler())
			t.Cleanup(func() { sim.Close(); server.Close() })
			sim.SetURL(server.URL)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			t.Cleanup(cancel)

			app := exec.CommandContext(ctx, node, "testdata/bolt/app.js")
			app.Env = append(os.Environ(), "NODE_PATH="+modules, "API="+server.URL+"/api/", "TOKEN="+botToken, "SECRET="+signingSecret,
				"CHANNEL="+approvals)
			var complaints bytes.Buffer
			app.Stderr = &complaints
			out, err := app.StdoutPipe()
			must(t, err)
			must(t, app.Start())
			t.Cleanup(func() { cancel(); _ = app.Wait() })
			lines := bufio.NewScanner(out)
			next := func(event string) heard {
				t.Helper()
				var h heard
				if !lines.Scan() {
					t.Fatalf("the app ended: %v\n%s", lines.Err(), &complaints)
				}
				if err := json.Unmarshal(lines.Bytes(), &h); err != nil || h.Event != event {
					t.Fatalf("the app says %s %v, want %q", lines.Text(), err, event)
				}
				return h
			}
			url := fmt.Sprintf("http://127.0.0.1:%d", next("listening").Port)
			sim.SetAppURLs(url+"/slack/commands", url+"/slack/interactions")
			same := func(got, want heard) {
				t.Helper()
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("%s (-want +got):\n%s", want.Event, d)
				}
			}

			a := sim.As(alice).In(approvals)
			_, err = a.Slash(ctx, "prod <now> & here")
			must(t, err)
			enterprise := cfg.EnterpriseID
			same(next("command"), heard{Event: "command", Text: "prod &lt;now&gt; &amp; here", Team: "T0ACME", Enterprise: enterprise, User: alice,
				Whole: tt.whole})
			m, err := a.WaitModal(ctx)
			must(t, err)
			must(t, m.Dismiss(ctx))
			same(next("closed"), heard{Event: "closed", Team: tt.team, Enterprise: enterprise, User: alice, Whole: tt.whole})

			_, err = a.Slash(ctx, "again")
			must(t, err)
			next("command")
			m, err = a.WaitModal(ctx)
			must(t, err)
			must(t, m.Fill("reason", "no"))
			errs, err := m.Send(ctx)
			must(t, err)
			if d := cmp.Diff(map[string]string{"reason": "Please say more."}, errs); d != "" {
				t.Errorf("the form's errors (-want +got):\n%s", d)
			}
			must(t, m.Fill("reason", "etcd lost its quorum"))
			errs, err = m.Send(ctx)
			must(t, err)
			if len(errs) > 0 {
				t.Errorf("refused: %v", errs)
			}
			same(next("form"), heard{Event: "form", Team: tt.team, Enterprise: enterprise, User: alice, Whole: tt.whole})

			posted, err := sim.WaitMessage(ctx, func(m slacksim.Message) bool { return m.Text == "etcd lost its quorum" })
			must(t, err)
			b := sim.As(bob).In(approvals)
			must(t, b.Click(ctx, approvals, posted.TS, "approve"))
			click := next("click")
			if !strings.HasSuffix(click.Link, "/p"+strings.ReplaceAll(posted.TS, ".", "")) {
				t.Errorf("the link is %s", click.Link)
			}
			click.Link = ""
			same(click, heard{Event: "click", Value: "7", Name: "Bob Okafor", Team: tt.team, Enterprise: enterprise, User: bob, Whole: tt.whole,
				Unscheduled: "ok", Gone: "channel_not_found", Bad: "invalid_blocks", Old: "invalid_trigger_id"})
			if now, _ := sim.Message(approvals, posted.TS); now.Text != "approved" || len(now.Edits) != 1 {
				t.Errorf("the message is %+v", now)
			}
			if said := b.Ephemerals(); len(said) != 1 || said[0].Text != "thank you" {
				t.Errorf("bob alone sees %+v", said)
			}

			forged := sim.LastRequest()
			forged.Body = append(forged.Body, '&')
			res, err := sim.RawSend(ctx, forged)
			must(t, err)
			if res.Status != http.StatusUnauthorized {
				t.Errorf("a changed body is answered with %d", res.Status)
			}
		})
	}
}
