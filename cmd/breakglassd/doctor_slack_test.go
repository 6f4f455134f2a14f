package main

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/cmd/breakglassd/config"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	slacksim "github.com/breakglassd/breakglass/internal/sim/slack"
)

// said is what a doctor says, line by line.
func (d *doctor) said() string {
	var b strings.Builder
	for _, f := range d.lines {
		b.WriteString(string(f.Level) + " " + f.Subject + " " + f.Text + "\n")
	}
	return b.String()
}

func TestDoctorAsksSlackWhetherItCanPost(t *testing.T) {
	dir := t.TempDir()
	secret := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cfg := config.Slack{Enabled: true, AppID: "A0BREAK", TeamIDs: []string{"T01"}, Channel: "C0APPROVE",
		BotTokenFile:      secret("token", "xoxb-test"),
		SigningSecretFile: secret("signing", "0123456789abcdef0123456789abcdef")}
	for name, tt := range map[string]struct {
		channel    slacksim.Channel
		enterprise string // of the workspace
		want       string
		ok         bool
	}{
		"all is well":  {slacksim.Channel{}, "", "takes the bot token, and messages for channel C0APPROVE", true},
		"not invited":  {slacksim.Channel{WithoutBot: true}, "", "/invite @breakglass", false},
		"archived":     {slacksim.Channel{Archived: true}, "", "unarchive the channel", false},
		"organization": {slacksim.Channel{}, "E0ACME", "set slack.enterprise_id", false},
	} {
		t.Run(name, func(t *testing.T) {
			tt.channel.ID, tt.channel.Name = "C0APPROVE", "approvals"
			sim, err := slacksim.New(slacksim.Config{TeamID: "T01", AppID: "A0BREAK", BotToken: "xoxb-test", SigningSecret: "x",
				Command: "/breakglass", EnterpriseID: tt.enterprise,
				Users: []slacksim.User{{ID: "U0ALICE", Name: "alice"}}, Channels: []slacksim.Channel{tt.channel}})
			if err != nil {
				t.Fatal(err)
			}
			server := httptest.NewServer(sim.Handler())
			t.Cleanup(func() { sim.Close(); server.Close() })
			d := &doctor{cfg: &config.Config{Slack: cfg}}
			d.cfg.Slack.APIURL = server.URL + "/api/"
			d.slack(t.Context())
			if got := d.said(); len(d.lines) != 1 || !strings.Contains(got, tt.want) || strings.HasPrefix(got,
				"ok") != tt.ok || sim.Scheduled() != 0 {
				t.Errorf("says %s", got)
			}
		})
	}
}

func TestDoctorNamesSlackAccountsThatAreRefused(t *testing.T) {
	key := []policy.Key{{}}
	d := &doctor{cfg: &config.Config{Slack: config.Slack{Enabled: true, TeamIDs: []string{"T01", "T02"}, EnterpriseID: "E0ACME"}},
		policy: &policy.Policy{People: []policy.Person{
			{ID: "alice", Keys: key, Slack: []record.SlackAccount{{Enterprise: "E0ACME", Team: "T01", User: "U0ALICE"}}},
			{ID: "bob", Keys: key, Slack: []record.SlackAccount{{Enterprise: "E0OTHER", Team: "T01", User: "U0BOB"}}},
			{ID: "carol", Keys: key, Slack: []record.SlackAccount{{Team: "T02", User: "U0ALICE"}}},
			{ID: "dave", Keys: key, Slack: []record.SlackAccount{{Team: "T03", User: "U0DAVE"}}},
		}}}
	d.people()
	got := d.said()
	for _, want := range []string{"bob has a Slack account of the organization E0OTHER", "carol has the Slack user U0ALICE, which alice " +
		"has too", "dave has a Slack account in workspace T03"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if len(d.lines) != 3 {
		t.Errorf("says\n%s", got)
	}
}
