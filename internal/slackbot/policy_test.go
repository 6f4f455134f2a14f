package slackbot_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/announce"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	slacksim "github.com/breakglassd/breakglass/internal/sim/slack"
)

// reload has the daemon read a policy, which may wait.
func (w *world) reload(text string) *policy.Policy {
	w.t.Helper()
	p, err := policy.Parse("access.yaml", []byte(text))
	must(w.t, err)
	if _, err := w.Service.InForce.Set(w.ctx(), p); err != nil {
		if r, is := record.AsRefusal(err); !is || r.Code != policy.CodeWaits {
			w.t.Fatal(err)
		}
	}
	return p
}

// The channel reads what a change of the access policy adds, who signed it, and that it is in force: each once.
func TestChangesOfTheAccessPolicyAreToldToTheChannel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ *world, _ *slacksim.Config, o *bgtest.Options) { o.Policy = bgtest.Guarded() })
	w.SignPolicy("alice", false)
	w.SignPolicy("bob", false)
	more := strings.Replace(bgtest.Guarded(), "members: [carol, erin]", "members: [carol, erin, mallory]", 1)
	p := w.reload(more)
	m := w.wait(channel, "A change of the access policy waits for two people. It adds or eases:")
	if all := m.AllText(); !strings.Contains(all, "• team security: mallory added") || !strings.Contains(all,
		"`breakglass policy approve "+p.Digest[:12]+"`") {
		t.Errorf("says %s", all)
	}
	w.SignPolicy("alice", false)
	w.wait(channel, "alice signed the access policy "+p.Digest[:12])
	w.SignPolicy("bob", false)
	if all := w.wait(channel, "The access policy has changed; two people have signed it:").AllText(); !strings.Contains(all,
		"• team security: mallory added") {
		t.Errorf("says %s", all)
	}
	w.reload(bgtest.Guarded())
	if all := w.wait(channel, "this only takes away").AllText(); !strings.Contains(all, "• team security: mallory removed") {
		t.Errorf("says %s", all)
	}
	w.reload(bgtest.Guarded() + "\n# a comment more\n")
	w.wait(channel, "• the wording of the file alone: no right, person or rule")
	w.RestartAs(more, func(c *bgtest.Config) { c.AcceptWeaker = true })
	w.start(w.api)
	w.wait(channel, "An operator put an access policy in force that no two people have agreed to (--accept-weaker)")
	for text, want := range map[string]int{"waits for two people. It": 1, "alice signed the access policy " + p.Digest[:12]: 1,
		"two people have signed": 1, "only takes away": 2, "An operator put": 1} {
		n := 0
		for _, m := range w.sim.Messages(channel) {
			if strings.Contains(m.AllText(), text) {
				n++
			}
		}
		if n != want {
			t.Errorf("%q is told %d times", text, n)
		}
	}
}

// What was decided long ago is not told when Slack is switched on; what still waits is.
func TestHistoryOfTheAccessPolicyIsNotTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ *world, _ *slacksim.Config, o *bgtest.Options) { o.Policy = bgtest.Guarded() })
	long := time.Now().Add(-48 * time.Hour)
	for _, ev := range []record.Event{policy.Proposed{Digest: strings.Repeat("a", 64), Changes: []string{"long ago"}},
		policy.Loaded{Digest: strings.Repeat("a", 64), Why: policy.WhySigned, Changes: []string{"long ago"}}} {
		must(t, w.bot.Load().Tell(w.ctx(), announce.Notice{Entry: ledger.Entry{Seq: 1, Time: long}, Event: ev}))
	}
	for _, m := range w.sim.Messages(channel) {
		if strings.Contains(m.AllText(), "long ago") {
			t.Errorf("told about what is long over: %s", m.AllText())
		}
	}
}

// Whoever writes the file chooses names and words in it. However long they are, and whatever Slack could read in them, the channel
// sees all that fits, as it is.
func TestHostileChangesOfTheAccessPolicyAreShownAsTheyAre(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, word := range map[string]string{"markup": "<!channel> *all is well* `x` :white_check_mark: <https://evil.example|approve>",
		"entities": strings.Repeat("&", 500), "lines": "a\n• team sre: alice removed", "emoji": strings.Repeat("😀", 500)} {
		var changes []string
		for i := range 300 {
			changes = append(changes, fmt.Sprintf("%s %d: %s", name, i, word))
		}
		must(t, w.bot.Load().Tell(w.ctx(), announce.Notice{Entry: ledger.Entry{Seq: 1, Time: time.Now()}, Event: policy.Proposed{
			Digest: strings.Repeat("a", 64), Changes: changes}}))
		all := w.wait(channel, "• "+name+" 0: ").AllText()
		if !strings.Contains(all, "and more: breakglass policy diff") || !strings.Contains(all, "breakglass policy approve aaaaaaaaaaaa`") ||
			strings.Contains(all, "\n• team sre") {
			t.Errorf("%s: says %s", name, all)
		}
	}
	for _, c := range w.sim.Calls("chat.postMessage") {
		var blocks []struct{ Text struct{ Type, Text string } }
		must(t, json.Unmarshal([]byte(c.Args["blocks"]), &blocks))
		for _, b := range blocks {
			if b.Text.Type != "plain_text" && strings.Contains(b.Text.Text, ": ") && strings.Contains(b.Text.Text, "•") {
				t.Errorf("Slack would read markup in %q", b.Text.Text)
			}
		}
	}
}

// The page of the simulated workspace shows every emoji that the bot writes, as Slack does, and not its name.
func TestPageOfTheSimulatedWorkspaceKnowsEveryEmoji(t *testing.T) {
	page, err := os.ReadFile("../sim/slack/page.js")
	must(t, err)
	files, err := filepath.Glob("*.go")
	must(t, err)
	seen := 0
	for _, file := range files {
		source, err := os.ReadFile(file)
		must(t, err)
		for _, m := range regexp.MustCompile("[\"`]:([a-z0-9_+-]+):").FindAllStringSubmatch(string(source), -1) {
			seen++
			if !strings.Contains(string(page), m[1]+`: "`) {
				t.Errorf("%s: the page does not know :%s:", file, m[1])
			}
		}
	}
	if seen < 10 {
		t.Errorf("%d emoji were seen: this test looks in the wrong place", seen)
	}
}
