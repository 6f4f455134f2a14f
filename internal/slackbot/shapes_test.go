package slackbot_test

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakglassd/breakglass/internal/bgtest"
	slacksim "github.com/breakglassd/breakglass/internal/sim/slack"
	"github.com/breakglassd/breakglass/internal/slackbot"
)

// A shape is what Slack's payloads say about where they come from, in one way to install an app.
type shape struct {
	enterprise string // of the configuration
	// sim makes the simulator send this shape by itself; nil when it is one that Slack sends beside what the simulator does.
	sim func(*slacksim.Config)

	payload string // of a click, a sent form and a closed form: the members that say where it comes from
	command string // of a slash command: likewise
	who     string // who bob is then: empty for somebody who is refused as a stranger
	status  int    // of the answer when the payload is not believed at all
}

// The shapes were read in these places in November 2026:
//
//   - block_suggestion: docs.slack.dev/reference/interaction-payloads/block_suggestion-payload: user.team_id "will report an
//     enterprise organization ID (which starts with an E) … when using an Enterprise organization", and team "can also have the
//     properties enterprise_id and enterprise_name".
//   - view: docs.slack.dev/reference/interaction-payloads/view-interactions-payload: team is "Null if the app is org-installed",
//     enterprise is there if the app is "either workspace-installed and in an organization, or org-installed".
//   - types: docs.slack.dev/tools/bolt-js/reference, BlockAction, ViewSubmitAction and ViewClosedAction: team may be null,
//     user.team_id may be absent, enterprise and is_enterprise_install may be there.
//   - bolt-python #23, deno-slack-runtime #65: payloads of organization-installed apps from production: team null, user.team_id T….
//   - bolt-js #1875: user.team_id is one of the workspaces of a person who is in several, whichever the click came from.
//   - java-slack-sdk #1041: in a shared channel team is ours and user.team_id is the stranger's workspace.
//   - commands: docs.slack.dev/interactivity/implementing-slash-commands: enterprise_id and enterprise_name are there "if the
//     command was executed from a workspace that is part of an Enterprise organization"; team_id is that workspace.
var shapes = map[string]shape{
	"workspace": {
		sim: func(*slacksim.Config) {},
		payload: `{"team":{"id":"T01","domain":"acme"},"enterprise":null,"is_enterprise_install":false,"user":{"id":"U0BOB","username":"bob",
			"name":"bob","team_id":"T01"}}`,
		command: "team_id=T01&team_domain=acme&is_enterprise_install=false&user_id=U0BOB", who: "bob",
	},
	"workspace, no team of the person's (types)": {
		payload: `{"team":{"id":"T01","domain":"acme"},"user":{"id":"U0BOB","name":"bob"}}`,
		command: "team_id=T01&user_id=U0BOB", who: "bob",
	},
	"workspace of an organization (block_suggestion)": {
		enterprise: "E0ACME",
		sim:        func(c *slacksim.Config) { c.EnterpriseID, c.EnterpriseName = "E0ACME", "Acme" },
		payload: `{"team":{"id":"T01","domain":"acme","enterprise_id":"E0ACME","enterprise_name":"Acme"},"enterprise":{"id":"E0ACME",
			"name":"Acme"},"is_enterprise_install":false,
			"user":{"id":"U0BOB","username":"bob","name":"bob","team_id":"E0ACME"}}`,
		command: "team_id=T01&team_domain=acme&enterprise_id=E0ACME&enterprise_name=Acme&is_enterprise_install=false&user_id=U0BOB", who: "bob",
	},
	"workspace of an organization, named in the team only (block_suggestion)": {
		enterprise: "E0ACME",
		payload: `{"team":{"id":"T01","domain":"acme","enterprise_id":"E0ACME","enterprise_name":"Acme"},"user":{"id":"U0BOB",
			"team_id":"E0ACME"}}`,
		command: "team_id=T01&enterprise_id=E0ACME&user_id=U0BOB", who: "bob",
	},
	"workspace of an organization, person of another of ours (bolt-js #1875)": {
		enterprise: "E0ACME",
		payload: `{"team":{"id":"T01","domain":"acme"},"enterprise":{"id":"E0ACME","name":"Acme"},"is_enterprise_install":false,
			"user":{"id":"U0BOB","team_id":"T02"}}`,
		command: "team_id=T02&enterprise_id=E0ACME&user_id=U0BOB", who: "bob",
	},
	"organization (view, bolt-python #23)": {
		enterprise: "E0ACME",
		payload: `{"team":null,"enterprise":{"id":"E0ACME","name":"Acme"},"is_enterprise_install":true,"user":{"id":"U0BOB","username":"bob",
			"team_id":"T01"}}`,
		command: "team_id=T01&enterprise_id=E0ACME&is_enterprise_install=true&user_id=U0BOB", who: "bob",
	},
	"organization, by its id (view, block_suggestion)": {
		enterprise: "E0ACME",
		sim: func(c *slacksim.Config) {
			c.EnterpriseID, c.EnterpriseName, c.WholeOrganization = "E0ACME", "Acme", true
		},
		payload: `{"team":null,"enterprise":{"id":"E0ACME","name":"Acme"},"is_enterprise_install":true,
			"user":{"id":"U0BOB","username":"bob","name":"bob","team_id":"E0ACME"}}`,
		command: "team_id=T01&team_domain=acme&enterprise_id=E0ACME&enterprise_name=Acme&is_enterprise_install=true&user_id=U0BOB", who: "bob",
	},
	"organization, no team of the person's (types)": {
		enterprise: "E0ACME",
		payload:    `{"team":null,"enterprise":{"id":"E0ACME","name":"Acme"},"is_enterprise_install":true,"user":{"id":"U0BOB"}}`,
		command:    "team_id=T01&enterprise_id=E0ACME&is_enterprise_install=true&user_id=U0BOB", who: "bob",
	},
	"shared channel, stranger of a workspace (java-slack-sdk #1041)": {
		payload: `{"team":{"id":"T01","domain":"acme"},"enterprise":null,"is_enterprise_install":false,"user":{"id":"U0BOB",
			"team_id":"T0OTHER"}}`,
		command: "", who: "",
	},
	"shared channel, stranger of an organization": {
		enterprise: "E0ACME",
		payload: `{"team":{"id":"T01","domain":"acme"},"enterprise":{"id":"E0ACME","name":"Acme"},"is_enterprise_install":false,
			"user":{"id":"U0BOB","team_id":"E0OTHER"}}`,
		command: "", who: "",
	},
	"shared channel, app of the organization, stranger of a workspace": {
		enterprise: "E0ACME",
		payload: `{"team":null,"enterprise":{"id":"E0ACME","name":"Acme"},"is_enterprise_install":true,"user":{"id":"U0BOB",
			"team_id":"T0OTHER"}}`,
		command: "", who: "",
	},
	"another organization": {
		enterprise: "E0ACME",
		payload:    `{"team":{"id":"T01"},"enterprise":{"id":"E0OTHER"},"user":{"id":"U0BOB","team_id":"T01"}}`,
		command:    "team_id=T01&enterprise_id=E0OTHER&user_id=U0BOB", status: 403,
	},
	"two organizations": {
		enterprise: "E0ACME",
		payload:    `{"team":{"id":"T01","enterprise_id":"E0OTHER"},"enterprise":{"id":"E0ACME"},"user":{"id":"U0BOB","team_id":"T01"}}`,
		command:    "", status: 400,
	},
	"organization that the configuration does not name": {
		payload: `{"team":null,"enterprise":{"id":"E0ACME"},"is_enterprise_install":true,"user":{"id":"U0BOB","team_id":"T01"}}`,
		command: "team_id=T01&enterprise_id=E0ACME&user_id=U0BOB", status: 403,
	},
	"no organization where one is configured": {
		enterprise: "E0ACME",
		payload:    `{"team":{"id":"T01"},"enterprise":null,"user":{"id":"U0BOB","team_id":"T01"}}`,
		command:    "team_id=T01&user_id=U0BOB", status: 403,
	},
	"workspace of the organization that the configuration does not name": {
		enterprise: "E0ACME",
		payload:    `{"team":{"id":"T03"},"enterprise":{"id":"E0ACME"},"user":{"id":"U0BOB","team_id":"E0ACME"}}`,
		command:    "team_id=T03&enterprise_id=E0ACME&user_id=U0BOB", status: 403,
	},
	"nowhere": {
		payload: `{"team":null,"enterprise":null,"user":{"id":"U0BOB","team_id":"T01"}}`, command: "user_id=U0BOB", status: 400,
	},
}

// origins are the members of a payload and of a command that say where it comes from.
var (
	origins        = []string{"team", "enterprise", "is_enterprise_install", "user"}
	commandOrigins = []string{"team_id", "team_domain", "enterprise_id", "enterprise_name", "is_enterprise_install", "user_id"}
)

// inOrganization configures the bot for a shape. Two of the workspaces are named, and the policy names the first.
func (s shape) inOrganization(w *world, _ *slacksim.Config, _ *bgtest.Options) {
	w.conf = func(c *slackbot.Config) {
		if c.EnterpriseID = s.enterprise; s.enterprise != "" {
			c.TeamIDs = []string{"T01", "T02"}
		}
	}
}

func TestEveryShapeOfSlacksPayloadsIsUnderstood(t *testing.T) {
	for name, s := range shapes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, s.inOrganization)
			r := w.Ask(bgtest.ByKey("alice"), "admin")
			card := w.card(r.ID, "")
			button, ok := card.Button("review")
			if !ok {
				t.Fatal("the card has no button")
			}
			click := map[string]any{"type": "block_actions", "api_app_id": "A0BREAK", "trigger_id": "1.2.3",
				"container": map[string]any{"type": "message", "channel_id": channel},
				"actions":   []any{map[string]any{"action_id": "review", "value": button.Value, "nonce": time.Now().UnixNano()}}}
			view := map[string]any{"id": "V0", "callback_id": "approve", "private_metadata": r.ID + ":" + r.Digest,
				"state": map[string]any{"values": map[string]any{}}}
			send := func(path string, body url.Values) slacksim.Response {
				t.Helper()
				res, err := w.sim.RawSend(w.ctx(), w.sim.Sign(w.app.URL+path, []byte(body.Encode()), time.Now()))
				must(t, err)
				if want := max(s.status, 200); res.Status != want {
					t.Errorf("%s is answered with %d, want %d\n%s", path, res.Status, want, w.log)
				}
				return res
			}
			interact := func(p map[string]any) slacksim.Response {
				t.Helper()
				must(t, json.Unmarshal([]byte(s.payload), &p))
				raw, err := json.Marshal(p)
				must(t, err)
				return send("/slack/interactions", url.Values{"payload": {string(raw)}})
			}

			interact(map[string]any{"type": "view_closed", "api_app_id": "A0BREAK", "view": view})
			opened := len(w.sim.Calls("views.open"))
			interact(click)
			if got := len(w.sim.Calls("views.open")) > opened; got != (s.who != "") {
				t.Errorf("the click opens a form: %t", got)
			}
			form := interact(map[string]any{"type": "view_submission", "api_app_id": "A0BREAK", "view": view})
			got := w.get(r.ID).Approvals
			switch {
			case s.who == "" && len(got) > 0:
				t.Error("somebody who may not has approved")
			case s.who == "" && s.status == 0 && !strings.Contains(string(form.Body), "slack.team_ids"):
				t.Errorf("the stranger is answered with %s", form.Body)
			case s.who != "" && (len(got) != 1 || got[0].By.Person != s.who || got[0].By.Slack.Team != "T01"):
				t.Errorf("approved by %+v, want %s\n%s", got, s.who, form.Body)
			}
			if s.command == "" {
				return
			}
			f, err := url.ParseQuery(s.command + "&command=%2Fbreakglass&api_app_id=A0BREAK&trigger_id=1.2.3&text=list")
			must(t, err)
			res := send("/slack/commands", f)
			if shown := strings.Contains(string(res.Body), r.ID); shown != (s.who != "") {
				t.Errorf("the command is answered with %s", res.Body)
			}
		})
	}
}

// What the simulator sends is what the table has: otherwise tests that use it prove nothing about Slack.
func TestSimulatorSendsTheDocumentedShapes(t *testing.T) {
	n := 0
	for name, s := range shapes {
		if s.sim == nil {
			continue
		}
		n++
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, s.inOrganization, func(_ *world, c *slacksim.Config, _ *bgtest.Options) { s.sim(c) })
			must(t, w.bot.Load().Check(w.ctx()))
			r := w.Ask(bgtest.ByKey("alice"), "admin")
			m := w.click("bob", w.card(r.ID, ""), "review")
			equal(t, "a click", s, w.sim.LastRequest())
			w.send(m)
			equal(t, "a form", s, w.sim.LastRequest())
			if got := w.get(r.ID).Approvals; len(got) != 1 || got[0].By.Person != "bob" {
				t.Errorf("approved by %+v", got)
			}
			_, err := w.as("bob").Slash(w.ctx(), "list")
			must(t, err)
			sent, err := url.ParseQuery(string(w.sim.LastRequest().Body))
			must(t, err)
			want, err := url.ParseQuery(s.command)
			must(t, err)
			maps.DeleteFunc(sent, func(key string, _ []string) bool { return !slices.Contains(commandOrigins, key) })
			if d := cmp.Diff(want, sent); d != "" {
				t.Errorf("a command (-documented +sent):\n%s", d)
			}
		})
	}
	if n < 3 {
		t.Errorf("the simulator sends %d shapes", n)
	}
}

// equal holds what a payload says about where it comes from against the table.
func equal(t *testing.T, what string, s shape, r slacksim.SignedRequest) {
	t.Helper()
	f, err := url.ParseQuery(string(r.Body))
	must(t, err)
	var sent, want map[string]any
	must(t, json.Unmarshal([]byte(f.Get("payload")), &sent))
	must(t, json.Unmarshal([]byte(s.payload), &want))
	maps.DeleteFunc(sent, func(key string, _ any) bool { return !slices.Contains(origins, key) })
	if d := cmp.Diff(want, sent); d != "" {
		t.Errorf("%s (-documented +sent):\n%s", what, d)
	}
}

// An account of another organization is no stranger for Slack where a channel is shared with it: users.info says whose it is.
func TestSharedChannelMakesNobodyAMember(t *testing.T) {
	s := shapes["workspace of an organization (block_suggestion)"]
	w := newWorld(t, s.inOrganization, func(_ *world, c *slacksim.Config, _ *bgtest.Options) { s.sim(c) })
	r := w.Ask(bgtest.ByKey("alice"), "admin")
	card := w.card(r.ID, "")
	w.sim.SetUser(slacksim.User{ID: "U0BOB", Name: "bob"})
	m := w.click("bob", card, "review")
	w.sim.SetUser(slacksim.User{ID: "U0BOB", Name: "bob", TeamID: "T0OTHER", Outside: true})
	w.forget()
	body := edit(t, w.sim.LastRequest().Body, func(p map[string]any) {
		p["type"], p["view"] = "view_submission", map[string]any{"id": m.ID, "callback_id": "approve", "private_metadata": m.PrivateMetadata,
			"state": map[string]any{"values": map[string]any{}}}
	})
	res, err := w.sim.RawSend(w.ctx(), w.sim.Sign(w.app.URL+"/slack/interactions", body, time.Now()))
	must(t, err)
	if !strings.Contains(string(res.Body), "from another organization") || len(w.get(r.ID).Approvals) != 0 {
		t.Errorf("answered with %s", res.Body)
	}
}

// In an organization a user id belongs to one account. A policy that gives it to two people gives it to nobody.
func TestAccountOfTwoPeopleIsOfNobody(t *testing.T) {
	s := shapes["workspace of an organization (block_suggestion)"]
	w := newWorld(t, s.inOrganization, func(_ *world, c *slacksim.Config, o *bgtest.Options) {
		s.sim(c)
		o.Policy = strings.Replace(bgtest.Policy(), "{team: T01, user: U0CAROL}", "{team: T02, user: U0BOB}", 1)
	})
	r := w.Ask(bgtest.ByKey("alice"), "admin")
	must(t, w.as("bob").Click(w.ctx(), channel, w.card(r.ID, "").TS, "review"))
	if got := w.said("bob"); !strings.Contains(got, "not in the access policy") {
		t.Errorf("told %q", got)
	}
}

func TestCheckComparesAllThatSlackSaysAboutTheToken(t *testing.T) {
	grid := func(whole bool) func(*slacksim.Config) {
		return func(c *slacksim.Config) {
			c.EnterpriseID, c.EnterpriseName, c.WholeOrganization = "E0ACME", "Acme", whole
		}
	}
	for name, tt := range map[string]struct {
		sim  func(*slacksim.Config)
		conf func(*slackbot.Config)
		want string // empty: all is well
	}{
		"workspace":                              {nil, nil, ""},
		"another workspace":                      {nil, func(c *slackbot.Config) { c.TeamIDs = []string{"T0OTHER"} }, "another workspace"},
		"organization not configured":            {grid(false), nil, `set slack.enterprise_id to "E0ACME"`},
		"organization configured":                {grid(false), func(c *slackbot.Config) { c.EnterpriseID = "E0ACME" }, ""},
		"another organization":                   {grid(false), func(c *slackbot.Config) { c.EnterpriseID = "E0OTHER" }, "another organization"},
		"organization configured and there none": {nil, func(c *slackbot.Config) { c.EnterpriseID = "E0ACME" }, "belongs to no organization"},
		"for the whole organization":             {grid(true), func(c *slackbot.Config) { c.EnterpriseID = "E0ACME" }, ""},
		"for the whole, not configured":          {grid(true), nil, `set slack.enterprise_id to "E0ACME"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(w *world, c *slacksim.Config, _ *bgtest.Options) {
				if w.conf = tt.conf; tt.sim != nil {
					tt.sim(c)
				}
			})
			err := w.bot.Load().Check(w.ctx())
			if tt.want == "" {
				must(t, err)
			} else if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("says %v, want %q", err, tt.want)
			}
		})
	}
}
