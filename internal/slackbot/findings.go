package slackbot

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slack-go/slack"

	"github.com/breakglassd/breakglass/internal/announce"
	"github.com/breakglassd/breakglass/internal/finding"
)

// How findings are shown. What is found may be in the hands of an attacker: neither a flood of findings nor one that Slack
// does not take may hide the gravest, or fill the channel in which requests wait for approval.
const (
	maxFindings  = 10              // of one severity, with a message of their own; the rest is told by number
	findingBurst = 10              // calls to Slack about findings at once, and then
	findingPace  = 4 * time.Second // one call in this time
	maxFailures  = 3               // in one Tell, before it gives up for now: Slack is down
	findingsMark = "slack/findings"
)

// Findings tells people what checks found: the critical ones and warnings, one message each in the approval channel, edited when
// it changes and struck out when it is over. It must be announced to beside the Bot, under a name of its own: it has its own
// place in the ledger then, and however long it waits, no request's card waits with it. It is safe for concurrent use.
func (b *Bot) Findings() announce.Messenger {
	return &board{b: b, over: map[string]string{}, tokens: findingBurst}
}

// board brings what Slack shows of findings to what is open now, so that those that come and go faster than they can be told
// are told as they are in the end.
type board struct {
	b *Bot

	mu     sync.Mutex        // guards what follows; held over a whole Tell
	over   map[string]string // by key: how findings with a message were over, until it says so
	tokens float64           // calls to Slack that may be made at once
	filled time.Time         // when tokens were last added
}

// posted is a finding as Slack shows it.
type posted struct {
	TS      string         `json:"ts,omitempty"` // its message; empty: Slack does not take it as it is
	Shown   string         `json:"shown"`        // hash of the message
	Thread  bool           `json:"thread,omitempty"`
	Finding finding.Opened `json:"finding"`
}

// shown is everything that Slack shows of findings. It is one bookmark, bounded as the messages are.
type shown struct {
	Findings map[string]posted `json:"findings"` // by key
	Rest     posted            `json:"rest"`     // the message that tells of the others by number
}

// Tell implements announce.Messenger. It returns nil when Slack shows what is open now; what Slack refuses for good is logged
// and left out until it changes, and what it refuses until an operator mends something is tried again. One finding that cannot be
// told keeps no other from being told.
func (f *board) Tell(ctx context.Context, n announce.Notice) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch n.Event.(type) {
	case finding.Opened, finding.Over:
	default:
		return nil
	}
	s := shown{Findings: map[string]posted{}}
	mark, err := f.b.cfg.Ledger.Bookmark(ctx, findingsMark)
	if err == nil && mark != nil {
		err = json.Unmarshal(mark, &s)
	}
	if err != nil {
		return fmt.Errorf("reading which findings are in slack: %w", err)
	}
	if ev, ok := n.Event.(finding.Over); ok {
		if _, ok := s.Findings[ev.Key]; ok {
			f.over[ev.Key] = ev.How
		}
	}
	var failed error
	failures, skip := 0, map[string]bool{}
	for failures < maxFailures {
		st := f.next(f.b.render(time.Now()), s, f.b.cfg.Service.Findings.Open(), skip)
		if st == nil {
			break
		}
		if st.message.text != "" {
			if err := f.pace(ctx); err != nil {
				return err
			}
			err := f.call(ctx, st)
			if errors.Is(err, errNoCard) {
				skip[st.id] = true
				continue
			}
			if err != nil {
				failed, skip[st.id] = err, true
				failures++
				continue
			}
		}
		st.done(&s)
		mark, err := json.Marshal(s)
		if err == nil {
			err = f.b.cfg.Ledger.SetBookmark(ctx, findingsMark, mark)
		}
		if err != nil {
			return fmt.Errorf("remembering which findings are in slack: %w", err)
		}
	}
	return failed
}

// step is one call to Slack that brings what it shows closer to what is open. Without a text it is no call, only done.
type step struct {
	id      string
	message message
	ts      string       // the message to edit; empty: a new one. After the call: the message as it is, or empty
	request string       // the request to whose thread the message goes
	done    func(*shown) // notes that the call was made
}

// next says what to do first, the gravest finding first, or nil: Slack shows what is open, but for the steps to skip.
func (f *board) next(v render, s shown, open []finding.Finding, skip map[string]bool) *step {
	own := map[finding.Severity]int{} // open findings with a message of their own
	is := map[string]bool{}
	for _, x := range open {
		is[x.Key] = true
		if _, ok := s.Findings[x.Key]; ok {
			own[x.Severity]++
		}
	}
	var rest []finding.Finding
	for _, x := range open {
		p, ok := s.Findings[x.Key]
		if !ok && x.Severity.Rank() <= finding.Info.Rank() {
			continue
		}
		if !ok && own[x.Severity] >= maxFindings {
			rest = append(rest, x)
			continue
		}
		if st := f.show(v.finding(x), p, x); st != nil && !skip[st.id] {
			return st
		}
	}
	if m := v.rest(rest); (len(rest) > 0 || s.Rest.TS != "") && m.hash() != s.Rest.Shown && !skip["rest"] {
		st := &step{id: "rest", message: m, ts: s.Rest.TS}
		st.done = func(s *shown) {
			if s.Rest = (posted{TS: st.ts, Shown: m.hash()}); len(rest) == 0 {
				s.Rest = posted{}
			}
		}
		return st
	}
	for _, key := range slices.Sorted(maps.Keys(f.over)) {
		if is[key] { // it has come back since
			delete(f.over, key)
			continue
		}
		if skip["over "+key] {
			continue
		}
		p := s.Findings[key]
		st := &step{id: "over " + key, ts: p.TS, done: func(s *shown) { delete(s.Findings, key); delete(f.over, key) }}
		if p.TS != "" {
			st.message = v.over(p.Finding, f.over[key])
		}
		return st
	}
	return nil
}

// show is the step by which a finding's message comes to say m, and by which it comes into its request's thread; nil when that
// is so.
func (f *board) show(m message, p posted, x finding.Finding) *step {
	st := &step{id: x.Key, message: m, ts: p.TS}
	switch {
	case p.Shown != m.hash():
		st.done = func(s *shown) {
			s.Findings[x.Key] = posted{TS: st.ts, Shown: m.hash(), Thread: p.Thread, Finding: x.Opened}
		}
	case x.Request != "" && !p.Thread && p.TS != "":
		st.id, st.ts, st.request = "thread "+x.Key, "", x.Request
		st.done = func(s *shown) { p.Thread = true; s.Findings[x.Key] = p }
	default:
		return nil
	}
	return st
}

// errNoCard says that there is no thread yet. It is looked for again when something else is told of findings.
var errNoCard = errors.New("the request has no card")

// pace waits until another call may be made.
func (f *board) pace(ctx context.Context) error {
	for {
		now := time.Now()
		f.tokens = min(f.tokens+now.Sub(f.filled).Seconds()/findingPace.Seconds(), findingBurst)
		f.filled = now
		if f.tokens >= 1 {
			f.tokens--
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration((1 - f.tokens) * float64(findingPace))):
		}
	}
}

// call makes the step's call. A refusal for good is logged and is no error.
func (f *board) call(ctx context.Context, st *step) error {
	channel, thread := f.b.cfg.Channel, ""
	if st.request != "" {
		p, err := f.b.placeOf(ctx, st.request)
		if err != nil || p.TS == "" {
			return cmp.Or(err, errNoCard)
		}
		channel, thread = p.Channel, p.TS
	}
	var err error
	if st.ts != "" {
		if err = f.b.edit(ctx, channel, st.ts, st.message); unlike(err) {
			st.ts = ""
		}
	}
	if st.ts == "" {
		st.ts, err = f.b.post(ctx, channel, thread, st.message)
	}
	e := (*apiError)(nil)
	if !errors.As(err, &e) {
		return err
	}
	if e.outcome == OutcomePermanent {
		f.b.log.Error("slack does not take a message about a finding: it is not sent", slog.String("finding", st.id),
			slog.String("method", e.method), slog.String("code", e.code))
		return nil
	}
	return waitFor(ctx, e, "telling of a finding")
}

// finding is the message of one finding.
func (v render) finding(x finding.Finding) message {
	mark := map[finding.Severity]string{finding.Critical: ":rotating_light: *Critical*",
		finding.Warning: ":warning: *Warning*", finding.Info: ":information_source: *To know*"}
	m := line(string(x.Severity)+" finding"+in(x.Cluster), mark[x.Severity]+escape(in(x.Cluster))+" · since "+date(x.Since), "", x.Request)
	m.blocks = append(m.blocks, section("what", plain(foreign(capital(x.What), maxQuote))))
	if x.Next != "" {
		m.blocks = append(m.blocks, section("next", plain("Next: "+foreign(x.Next, maxQuote))))
	}
	return v.about(m, x.Opened)
}

// over is the message of a finding that is not so any more.
func (v render) over(x finding.Opened, how string) message {
	m := line("a finding is over"+in(x.Cluster), ":white_check_mark: *Over*"+escape(in(x.Cluster)), "", x.Request)
	m.blocks = append(m.blocks, slack.NewRichTextBlock("what", slack.NewRichTextSection(
		slack.NewRichTextSectionTextElement(foreign(capital(x.What), maxQuote), &slack.RichTextSectionTextStyle{Strike: true}))))
	if how != "" {
		m.blocks = append(m.blocks, section("how", plain(foreign(capital(how), maxQuote))))
	}
	return v.about(m, x)
}

// about says who found it and what it is about.
func (v render) about(m message, x finding.Opened) message {
	about := "Found by: " + foreign(x.Check, 60)
	if x.Request != "" {
		about += " · " + foreign(x.Request, 60)
	}
	m.blocks = append(m.blocks, slack.NewContextBlock("about", plain(about)))
	return m
}

func in(cluster string) string {
	if cluster == "" {
		return ""
	}
	return " in " + cluster
}

// rest tells by number of the findings that have no message of their own.
func (v render) rest(all []finding.Finding) message {
	n := map[finding.Severity]int{}
	for _, x := range all {
		n[x.Severity]++
	}
	if len(all) == 0 {
		return line("no more findings than those shown", ":white_check_mark: No more findings than those shown", "", "")
	}
	text := fmt.Sprintf("%s: %d critical, %s", count(len(all), "more finding is open", "more findings are open"),
		n[finding.Critical], count(n[finding.Warning], "warning", "warnings"))
	return line(text, ":rotating_light: *"+strings.Replace(text, ": ", "*: ", 1)+" · all of them: `breakglass findings`", "", "")
}
