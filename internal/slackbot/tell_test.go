package slackbot_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/announce"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/ledger"
	slacksim "github.com/breakglassd/breakglass/internal/sim/slack"
	"github.com/breakglassd/breakglass/internal/slackbot"
)

// cards counts the messages in the approval channel that are not in a thread.
func (w *world) cards() (n int) {
	for _, m := range w.sim.Messages(channel) {
		if m.ThreadTS == "" && strings.Contains(m.AllText(), "bg-") { // a finding of the world's start may stand there too
			n++
		}
	}
	return n
}

// drained waits until everything that happened to a request so far was told.
func (w *world) drained(id string) {
	w.t.Helper()
	want := int(w.get(id).Rev)
	for ctx := w.ctx(); len(w.Told.Kinds(id)) < want; time.Sleep(5 * time.Millisecond) {
		if ctx.Err() != nil {
			w.t.Fatalf("%d of %d entries were told", len(w.Told.Kinds(id)), want)
		}
	}
}

func TestSlackThatHangsDelaysNoDecision(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hurry)
	r, card := w.ask("admin")
	first, second := w.click("carol", card, "review"), w.click("bob", card, "review")
	must(t, w.as("bob").Act(w.ctx(), slacksim.Action{ViewID: second.ID, ActionID: "value", BlockID: "comment", Values: []string{"ok"}}))
	w.send(first) // carol's account is known to be good from here on
	w.drained(r.ID)
	hang := slacksim.Fault{Times: -1, Hang: true}
	w.sim.Fail("", hang)
	t.Cleanup(w.sim.Heal)

	// Whose account was just looked at decides as if nothing were wrong.
	m := w.approve(t, "carol", r.ID, r.Digest)
	if !strings.Contains(m, "clear") {
		t.Errorf("carol is answered with %s", m)
	}
	// Whose account cannot be looked at is told so, in time.
	errs, err := second.Send(w.ctx())
	if errors.Is(err, slacksim.ErrTimeout) || err != nil || len(errs) > 0 {
		t.Errorf("bob's form: %v %v", errs, err)
	}
	if m := w.as("bob").Modal(); m == nil || !strings.Contains(m.AllText(), "Slack could not confirm your account, so nothing was changed") {
		t.Error("bob is not told that nothing was changed")
	}
	// Who clicks gets an error from Slack itself, in time.
	for _, action := range []string{"review", "deny", "withdraw"} {
		if err := w.as("dave").Click(w.ctx(), channel, card.TS, action); !errors.Is(err, slacksim.ErrDispatch) ||
			errors.Is(err, slacksim.ErrTimeout) {
			t.Errorf("%s: %v", action, err)
		}
	}
	reply, err := w.as("dave").Slash(w.ctx(), "c1 30m etcd lost its quorum")
	if err != nil || reply.Message == nil || !strings.Contains(reply.Message.Text, "breakglass request") {
		t.Errorf("the command: %s %v", reply.Body, err)
	}
	if got := w.get(r.ID).Approvals; len(got) != 1 {
		t.Errorf("%d approvals, want carol's", len(got))
	}
	w.Check()
}

func TestClusterThatHangsDelaysNoRevocation(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	var hang atomic.Bool
	w := newWorld(t, hurry, func(_ *world, _ *slacksim.Config, o *bgtest.Options) {
		o.Config = func(c *bgtest.Config) { c.Binder = hanging{c.Binder, &hang, release}; c.BindTimeout = time.Minute }
	})
	t.Cleanup(func() { close(release) })
	r := w.Grant("alice", "admin")
	_, csr := bgtest.NewCSR()
	_, err := w.Claim("alice", r.ID, csr)
	must(t, err)
	card := w.card(r.ID, "*Active*")
	m := w.click("carol", card, "revoke")
	must(t, m.Fill("reason", "repaired already"))
	hang.Store(true)
	w.send(m)
	if w.get(r.ID).Revoked == nil {
		t.Error("not revoked")
	}
}

// The person is answered when the revocation is recorded, whatever time the bot has: here that is more than Slack waits.
func TestRevocationIsAnsweredWhenItIsRecorded(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	var hang atomic.Bool
	w := newWorld(t, func(_ *world, sc *slacksim.Config, o *bgtest.Options) {
		sc.AckWithin = 12 * time.Second // the bot's own deadline is 25 s
		o.Config = func(c *bgtest.Config) { c.Binder = hanging{c.Binder, &hang, release}; c.BindTimeout = time.Minute }
	})
	t.Cleanup(func() { close(release) })
	r := w.Grant("alice", "admin")
	_, csr := bgtest.NewCSR()
	_, err := w.Claim("alice", r.ID, csr)
	must(t, err)
	m := w.click("carol", w.card(r.ID, "*Active*"), "revoke")
	must(t, m.Fill("reason", "repaired already"))
	hang.Store(true)
	w.send(m)
	if w.get(r.ID).Revoked == nil {
		t.Error("not revoked")
	}
}

// hanging is a cluster that stops answering.
type hanging struct {
	breakglass.Binder
	hang    *atomic.Bool
	release chan struct{}
}

func (h hanging) Unbind(ctx context.Context, cluster, request string) error {
	if !h.hang.Load() {
		return h.Binder.Unbind(ctx, cluster, request)
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-h.release:
		return errors.New("released")
	}
}

func TestNothingIsLostWhileSlackIsDown(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]slacksim.Fault{
		"500":                 {Times: 2},
		"rate limited":        {Times: 1, RetryAfter: time.Second},
		"internal error":      {Times: 2, Error: "internal_error"},
		"token being renewed": {Times: 2, Error: "token_expired"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			for _, method := range []string{"chat.postMessage", "chat.update", "conversations.open"} {
				w.sim.Fail(method, fault)
			}
			r := w.Grant("alice", "admin")
			w.card(r.ID, "can pick it up until")
			w.wait(w.as("alice").DMChannel(), "breakglass claim "+r.ID)
			w.drained(r.ID)
			if got := len(w.sim.Thread(channel, w.card(r.ID, "").TS)); got != 2 || w.cards() != 1 {
				t.Errorf("%d cards and %d lines, want 1 and 2", w.cards(), got)
			}
			w.Check()
		})
	}
}

func TestSlackIsLeftAloneForAsLongAsItAsks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.sim.Fail("chat.postMessage", slacksim.Fault{RetryAfter: 2 * time.Second})
	r := w.Ask(bgtest.ByKey("alice"), "admin")
	w.card(r.ID, "")
	calls := w.sim.Calls("chat.postMessage")
	if len(calls) != 2 || calls[1].At.Sub(calls[0].At) < 2*time.Second {
		t.Errorf("%d calls, the second after %s", len(calls), calls[1].At.Sub(calls[0].At))
	}
}

// When the answer to a call is lost, that one step may be seen twice, and nothing else.
func TestLostAnswerRepeatsOneStepAtMost(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		method       string
		cards, lines int
	}{{"chat.postMessage", 2, 2}, {"chat.update", 1, 2}, {"conversations.open", 1, 2}} {
		t.Run(tt.method, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.sim.Fail(tt.method, slacksim.Fault{Apply: true})
			r := w.Grant("alice", "admin")
			w.wait(w.as("alice").DMChannel(), "breakglass claim "+r.ID)
			w.drained(r.ID)
			card := w.card(r.ID, "can pick it up until")
			if got := len(w.sim.Thread(channel, card.TS)); w.cards() != tt.cards || got != tt.lines || len(w.as("alice").DMs()) != 1 {
				t.Errorf("%d cards, %d lines, %d letters, want %d, %d and 1", w.cards(), got, len(w.as("alice").DMs()), tt.cards, tt.lines)
			}
		})
	}
}

// A refusal that an operator must mend stops neither what comes after it nor the other steps.
func TestRefusalToBeMendedIsCountedAndPassed(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]int{}
	w := newWorld(t, func(w *world, _ *slacksim.Config, _ *bgtest.Options) {
		w.conf = func(c *slackbot.Config) {
			c.Observe = func(what, outcome string, _ time.Duration) { mu.Lock(); seen[what+" "+outcome]++; mu.Unlock() }
		}
	})
	w.sim.SetChannel(slacksim.Channel{ID: channel, Name: "breakglass-approvals", Archived: true})
	r := w.Grant("alice", "admin")
	w.wait(w.as("alice").DMChannel(), "breakglass claim "+r.ID)
	w.drained(r.ID)
	mu.Lock()
	if seen["chat.postMessage blocked"] < 3 || seen["chat.postMessage permanent"] != 0 || seen["chat.postMessage ok"] != 1 {
		t.Errorf("seen: %v", seen)
	}
	mu.Unlock()
	if !strings.Contains(w.log.String(), "is_archived") || !strings.Contains(w.log.String(), "unarchive the channel") {
		t.Error("the log does not say why, and what to do")
	}
	w.sim.SetChannel(slacksim.Channel{ID: channel, Name: "breakglass-approvals"})
	w.card(r.ID, "can pick it up until")
}

// blocked is the finding that Slack takes no messages, once there is one, or once there is none.
func (w *world) blocked(want bool) (f finding.Finding) {
	w.t.Helper()
	for ctx := w.ctx(); ; time.Sleep(5 * time.Millisecond) {
		i := slices.IndexFunc(w.Service.Findings.Open(), func(f finding.Finding) bool { return f.Key == "slack-blocked/channel" })
		if (i >= 0) == want {
			if want {
				f = w.Service.Findings.Open()[i]
			}
			return f
		}
		if ctx.Err() != nil {
			w.t.Fatalf("there is a finding: %t, want %t\n%s", i >= 0, want, w.log)
		}
	}
}

func TestWhatSlackDidNotTakeIsShownOnceItIsMended(t *testing.T) {
	for name, tt := range map[string]struct {
		broken slacksim.Channel
		fault  string
		advice string
	}{
		"not invited":    {slacksim.Channel{WithoutBot: true}, "", "/invite @breakglass"},
		"private":        {slacksim.Channel{WithoutBot: true, Private: true}, "", "invite the app"},
		"archived":       {slacksim.Channel{Archived: true}, "", "unarchive the channel"},
		"admins only":    {slacksim.Channel{}, "restricted_action", "let the app"},
		"a scope is off": {slacksim.Channel{}, "missing_scope", "give the app the scopes"},
	} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restart %t", name, restart), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				broken := tt.broken
				broken.ID, broken.Name = channel, "breakglass-approvals"
				w.sim.SetChannel(broken)
				if tt.fault != "" {
					w.sim.Fail("chat.postMessage", slacksim.Fault{Times: -1, Error: tt.fault})
				}
				kept, gone := w.Ask(bgtest.ByKey("alice"), "admin"), w.Ask(bgtest.ByKey("alice"), "admin")
				_, err := w.Service.Withdraw(w.ctx(), bgtest.ByKey("alice"), gone.ID, "never mind")
				must(t, err)
				w.Approve(bgtest.ByKey("carol"), kept)
				w.drained(kept.ID)
				w.drained(gone.ID)
				if f := w.blocked(true); !strings.Contains(f.Next, tt.advice) || f.Severity != finding.Critical {
					t.Errorf("the finding is %+v", f)
				}
				if err := w.bot.Load().Check(w.ctx()); err == nil || !strings.Contains(err.Error(), tt.advice) {
					t.Errorf("the check says %v", err)
				}
				if got := w.bot.Load().Untold(w.ctx(), w.get(kept.ID)); !strings.Contains(got, tt.advice) {
					t.Errorf("the requester is told %q", got)
				}
				if restart {
					w.restart()
				}
				w.sim.Heal()
				w.sim.SetChannel(slacksim.Channel{ID: channel, Name: "breakglass-approvals"})
				w.card(kept.ID, "1 of 2 approved")
				w.blocked(false)
				must(t, w.bot.Load().Check(w.ctx()))
				if got := w.bot.Load().Untold(w.ctx(), w.get(kept.ID)); got != "" {
					t.Errorf("the requester is still told %q", got)
				}
				about := 0
				for _, m := range w.sim.Messages(channel) {
					if m.ThreadTS != "" {
						continue
					}
					if strings.Contains(m.AllText(), gone.ID) {
						t.Errorf("what is over is shown: %s", m.AllText())
					}
					if strings.Contains(m.AllText(), kept.ID) {
						about++
					}
				}
				if about != 1 {
					t.Errorf("%d cards", about)
				}
				w.Approve(bgtest.ByKey("bob"), kept)
				w.card(kept.ID, "can pick it up until")
				w.Check()
			})
		}
	}
}

// An edit that Slack refuses for good leaves a card with buttons behind. How the request stands is posted anew, once, and linked.
func TestCardThatCannotBeEditedIsPostedAnew(t *testing.T) {
	for _, code := range []string{"edit_window_closed", "cant_update_message", "block_mismatch"} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			r := w.Ask(bgtest.ByKey("alice"), "admin")
			before := w.card(r.ID, "")
			w.drained(r.ID)
			w.sim.Fail("chat.update", slacksim.Fault{Error: code})
			_, err := w.Service.Deny(w.ctx(), bgtest.ByKey("carol"), r.ID, "not tonight")
			must(t, err)
			after := w.card(r.ID, "*Denied*")
			w.drained(r.ID)
			if _, ok := after.Button("review"); ok || after.TS == before.TS || w.cards() != 2 {
				t.Errorf("%d cards", w.cards())
			}
			said := w.sim.Thread(channel, before.TS)
			if len(said) != 1 || !strings.Contains(said[0].AllText(), "not kept up to date any more") || !strings.Contains(said[0].AllText(),
				"/p"+strings.ReplaceAll(after.TS, ".", "")) {
				t.Errorf("the old card says %+v", said)
			}
			if got := w.sim.Thread(channel, after.TS); len(got) != 1 || !strings.Contains(got[0].AllText(), "not tonight") {
				t.Errorf("the new thread has %+v", got)
			}
		})
	}
}

// When Slack is switched on later, what is open is shown, and what was over long before is not.
func TestHistoryIsNotToldWhenSlackIsSwitchedOn(t *testing.T) {
	w := newWorld(t)
	// There is no Slack yet: the bot is told of nothing, and does not look for open requests itself.
	w.stop()
	w.onTell(func(*slackbot.Bot, announce.Notice) error { return nil })
	open, over := w.Ask(bgtest.ByKey("alice"), "admin"), w.Ask(bgtest.ByKey("alice"), "admin")
	_, err := w.Service.Withdraw(w.ctx(), bgtest.ByKey("alice"), over.ID, "never mind")
	must(t, err)
	w.drained(over.ID)
	if w.cards() != 0 {
		t.Fatalf("%d cards", w.cards())
	}
	w.restart()
	w.card(open.ID, "0 of 2 approved")
	must(t, w.bot.Load().Tell(w.ctx(), announce.Notice{Event: over.Ask,
		Entry: ledger.Entry{Seq: over.Seq, Stream: over.ID, StreamSeq: 1, Time: time.Now().Add(-48 * time.Hour)}}))
	if w.cards() != 1 {
		t.Errorf("%d cards, want one", w.cards())
	}
	must(t, w.bot.Load().Tell(w.ctx(), announce.Notice{Event: open.Ask,
		Entry: ledger.Entry{Seq: open.Seq, Stream: open.ID, StreamSeq: 1, Time: open.At}}))
	if w.cards() != 1 {
		t.Errorf("%d cards, want one", w.cards())
	}
}

func TestCheckChannelLeavesNothing(t *testing.T) {
	w := newWorld(t)
	must(t, w.bot.Load().CheckChannel(w.ctx()))
	if n := w.sim.Scheduled(); n != 0 || len(w.sim.Messages(channel)) != 0 || len(w.sim.Calls("chat.scheduleMessage")) != 1 {
		t.Errorf("%d messages are scheduled", n)
	}
	for _, tt := range []struct {
		c    slacksim.Channel
		want string
	}{
		{slacksim.Channel{WithoutBot: true}, "/invite @breakglass"}, {slacksim.Channel{WithoutBot: true, Private: true}, "slack.channel is not"},
		{slacksim.Channel{Archived: true}, "unarchive"},
	} {
		tt.c.ID, tt.c.Name = channel, "breakglass-approvals"
		w.sim.SetChannel(tt.c)
		if err := w.bot.Load().CheckChannel(w.ctx()); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("says %v, want %q", err, tt.want)
		}
	}
}

func TestDeletedCardIsPostedAgain(t *testing.T) {
	w := newWorld(t)
	r := w.Ask(bgtest.ByKey("alice"), "admin")
	w.card(r.ID, "")
	w.sim.Fail("chat.update", slacksim.Fault{Error: "message_not_found"})
	w.Approve(bgtest.ByKey("carol"), r)
	card := w.card(r.ID, "1 of 2 approved")
	w.wait(channel, "approved")
	w.Approve(bgtest.ByKey("bob"), r)
	w.drained(r.ID)
	if after := w.card(r.ID, "can pick it up until"); after.TS != card.TS || len(w.sim.Thread(channel, card.TS)) != 2 {
		t.Errorf("the new card is not kept: %d lines in its thread", len(w.sim.Thread(channel, card.TS)))
	}
}

// A daemon that dies before the announcer noted that an announce.Notice was told is given it again.
func TestEntryToldTwiceIsSeenOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var lost atomic.Int64
	w.onTell(func(b *slackbot.Bot, n announce.Notice) error {
		// Told entry by entry, but the announcer never learns of it the first time.
		if err := b.Tell(context.Background(), n); err != nil {
			return err
		}
		if lost.Swap(n.Seq) != n.Seq {
			return errors.New("crashed before the announcer's bookmark")
		}
		return nil
	})
	r := w.Grant("alice", "admin")
	w.drained(r.ID)
	w.restart()
	_, csr := bgtest.NewCSR()
	_, err := w.Claim("alice", r.ID, csr)
	must(t, err)
	w.card(r.ID, "*Active*")
	w.wait(channel, "Bound in the cluster")
	w.drained(r.ID)
	if lines := len(w.sim.Thread(channel, w.card(r.ID, "").TS)); w.cards() != 1 || lines != 4 || len(w.as("alice").DMs()) != 1 {
		t.Errorf("%d cards, %d lines, %d letters, want 1, 4 and 1", w.cards(), lines, len(w.as("alice").DMs()))
	}
}

// After an outage the card is edited once, to what is true now, and the thread has every line.
func TestEditsAfterAnOutageAreCoalesced(t *testing.T) {
	w := newWorld(t)
	var down atomic.Bool
	w.onTell(func(b *slackbot.Bot, n announce.Notice) error {
		if down.Load() {
			return errors.New("down")
		}
		return b.Tell(context.Background(), n)
	})
	r := w.Ask(bgtest.ByKey("alice"), "admin")
	w.card(r.ID, "")
	w.drained(r.ID)
	down.Store(true)
	for _, p := range []string{"carol", "bob", "dave"} {
		w.Approve(bgtest.ByKey(p), r)
	}
	_, err := w.Service.TakeBack(w.ctx(), bgtest.ByKey("dave"), r.ID)
	must(t, err)
	down.Store(false)
	w.drained(r.ID)
	if got := len(w.sim.Calls("chat.update")); got != 1 {
		t.Errorf("%d edits, want 1", got)
	}
	if got := len(w.sim.Thread(channel, w.card(r.ID, "").TS)); got != 4 {
		t.Errorf("%d lines, want 4", got)
	}
}

func TestFailedPickupsAreToldWithTheNextStep(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		sign  func(breakglass.Order) (bool, error)
		want  string
		alarm bool
	}{
		"refused": {func(breakglass.Order) (bool, error) { return false, fmt.Errorf("no: %w", breakglass.ErrNotSigned) }, "nothing was signed",
			false},
		"orphan": {func(breakglass.Order) (bool, error) { return true, errors.New("connection lost") },
			"A certificate exists that nobody was given", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			r := w.Grant("alice", "admin")
			w.CA.OnSign = tt.sign
			_, csr := bgtest.NewCSR()
			if _, err := w.Claim("alice", r.ID, csr); err == nil {
				t.Fatal("claimed")
			}
			m := w.wait(channel, tt.want)
			if m.ThreadTS == "" || m.Broadcast != tt.alarm {
				t.Errorf("broadcast is %t, want %t", m.Broadcast, tt.alarm)
			}
			w.card(r.ID, "*Failed*")
			w.wait(w.as("alice").DMChannel(), "failed")
			w.Check()
		})
	}
}

func TestCheckTellsWhoTheTokenBelongsTo(t *testing.T) {
	w := newWorld(t)
	must(t, w.bot.Load().Check(w.ctx()))
	outcome := ""
	w.conf = func(c *slackbot.Config) { c.Observe = func(_, o string, _ time.Duration) { outcome = o } }
	w.forget()
	w.sim.Fail("auth.test", slacksim.Fault{Error: "invalid_auth"})
	if err := w.bot.Load().Check(w.ctx()); err == nil || !strings.Contains(err.Error(), "invalid_auth") ||
		outcome != slackbot.OutcomePermanent {
		t.Errorf("a bad token: %v, %s", err, outcome)
	}
	w.conf = func(c *slackbot.Config) { c.TeamIDs = []string{"T0OTHER"} }
	w.forget()
	if err := w.bot.Load().Check(w.ctx()); err == nil || !strings.Contains(err.Error(), "another workspace") {
		t.Errorf("a token of another workspace: %v", err)
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	w := newWorld(t)
	w.sim.Fail("auth.test", slacksim.Fault{Status: http.StatusTemporaryRedirect})
	if err := w.bot.Load().Check(w.ctx()); err == nil || !strings.Contains(err.Error(), "HTTP 307") {
		t.Errorf("a redirect: %v", err)
	}
}
