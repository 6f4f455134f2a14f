package slackbot

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/slack-go/slack"
	"go.yaml.in/yaml/v3"

	"github.com/breakglassd/breakglass/internal/announce"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	slacksim "github.com/breakglassd/breakglass/internal/sim/slack"
	"github.com/breakglassd/breakglass/internal/text"
	"github.com/breakglassd/breakglass/internal/text/texttest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func noon() time.Time { return time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC) }

func renderer(t testing.TB, pol string) render {
	t.Helper()
	p, err := policy.Parse("access.yaml", []byte(pol))
	if err != nil {
		t.Fatal(err)
	}
	return render{p, []string{"T01"}, "/breakglass", noon(), nil}
}

func TestCardSaysWhatWouldKeepACertificateFromBeingOfUse(t *testing.T) {
	v := renderer(t, bgtest.Policy())
	v.trouble = func(*breakglass.Request) []string {
		return []string{"no certificate for c1 would be signed just now: Vault is <sealed>"}
	}
	want := "\n:warning: no certificate for c1 would be signed just now: Vault is &lt;"
	if got := v.headline(pending(v, "admin")); !strings.Contains(got, want) {
		t.Errorf("the card says %q", got)
	}
}

// pending is a request as it was just made.
func pending(v render, profile string) *breakglass.Request {
	prof, _ := v.policy.Profile(profile)
	return &breakglass.Request{ID: "bg-7k3m-9qx", Rev: 1, Seq: 41, Digest: "3f2a9c1b8d70" + strings.Repeat("a", 52),
		At: noon().Add(-time.Minute), Reason: "etcd quorum lost, API 5xx",
		Ask: breakglass.Requested{By: bgtest.BySlack("alice"), Cluster: "c1", Server: "https://127.0.0.1:6443", Profile: profile,
			Rights: prof.Rights, TTLSeconds: 1800,
			Incident: "INC-4312", Quorum: v.policy.Freeze(prof), Risk: prof.Risk, PendingUntil: noon().Add(29 * time.Minute), ClaimSeconds: 600}}
}

func approved(v render, profile string, who ...record.Actor) *breakglass.Request {
	r := pending(v, profile)
	for i, a := range who {
		r.Approvals = append(r.Approvals, policy.Approval{By: a, At: noon().Add(time.Duration(i-30) * time.Second), Comment: "seen it too"})
	}
	return r
}

func issued(v render, profile string) *breakglass.Request {
	r := approved(v, profile, bgtest.BySlack("carol"), bgtest.ByKey("bob"))
	r.Claimed, r.ClaimedAt = &breakglass.Claimed{By: bgtest.ByKey("alice")}, noon().Add(-10*time.Second)
	r.Issued = &breakglass.Issued{Serial: "5b:0e:77:11:9a:3c:42:d8", NotAfter: noon().Add(30 * time.Minute)}
	r.IssuedSeq = 45
	return r
}

// states are requests in every state there is, by name.
func states(v render) map[string]*breakglass.Request {
	end := func(r *breakglass.Request, set func(*breakglass.Request)) *breakglass.Request { set(r); return r }
	word := &record.Ending{By: bgtest.BySlack("carol"), At: noon(), Reason: "it is the load balancer, not etcd"}
	return map[string]*breakglass.Request{
		"pending":          pending(v, "admin"),
		"pending-one":      approved(v, "admin", bgtest.BySlack("bob")),
		"pending-critical": pending(v, "keys"),
		"approved":         approved(v, "admin", bgtest.BySlack("carol"), bgtest.ByKey("bob")),
		"issuing":          end(issued(v, "admin"), func(r *breakglass.Request) { r.Issued = nil }),
		"active":           issued(v, "admin"),
		"active-group":     issued(v, "group"),
		"active-scoped":    issued(v, "scoped"),
		"expired":          end(issued(v, "admin"), func(r *breakglass.Request) { r.Issued.NotAfter = noon() }),
		"revoked":          end(issued(v, "admin"), func(r *breakglass.Request) { r.Revoked = word }),
		"failed": end(issued(v, "admin"), func(r *breakglass.Request) {
			r.Issued = nil
			r.Failed, r.FailedAt = &breakglass.Failed{Why: breakglass.FailRefused, Detail: "the certificate authority refused"}, noon()
		}),
		"denied": end(pending(v, "admin"), func(r *breakglass.Request) { r.Denied = word }),
		"withdrawn": end(pending(v, "admin"), func(r *breakglass.Request) {
			r.Withdrawn = &record.Ending{By: bgtest.BySlack("alice"),
				At: noon()}
		}),
		"lapsed": end(pending(v, "admin"), func(r *breakglass.Request) { r.Ask.PendingUntil = noon() }),
		"lapsed-approved": end(approved(v, "admin", bgtest.BySlack("carol"), bgtest.ByKey("bob")),
			func(r *breakglass.Request) { r.Ask.ClaimSeconds = 1 }),
		"approved-raised": end(approved(v, "admin", bgtest.BySlack("carol"), bgtest.ByKey("bob")), func(r *breakglass.Request) {
			r.Ask.Raised, r.Ask.Guards = []string{"bg-2222-222"}, []policy.Guard{policy.GuardExec, policy.GuardImpersonate}
		}),
		"revoked-unclaimed": end(approved(v, "admin", bgtest.BySlack("carol"), bgtest.ByKey("bob")),
			func(r *breakglass.Request) { r.Revoked = word }),
		"revoked-group": end(issued(v, "group"), func(r *breakglass.Request) { r.Revoked = word }),
		"receipt":       end(issued(v, "admin"), func(r *breakglass.Request) { r.Revoked, r.Receipt = word, receiptOf(3, 0, 0) }),
		"receipt-open":  end(issued(v, "admin"), func(r *breakglass.Request) { r.Revoked, r.Receipt = word, receiptOf(1, 1, 1) }),
		"receipt-group": end(issued(v, "group"), func(r *breakglass.Request) { r.Revoked, r.Receipt = word, receiptOf(1, 2, 0) }),
		"receipt-late": end(issued(v, "admin"), func(r *breakglass.Request) {
			r.Revoked, r.Receipt = word, receiptOf(2, 0, 1)
			r.Receipt.Final = true
		}),
		"touched": after(issued(v, "admin"), func(r *breakglass.Request) {
			r.Swept = &breakglass.Swept{Items: []breakglass.Residue{}, Sources: []string{"audit"}}
		}),
		"touched-overdue": after(issued(v, "admin"), func(r *breakglass.Request) { r.Issued.NotAfter = noon().Add(-25 * time.Hour) }),
		"left": after(issued(v, "admin"), func(r *breakglass.Request) {
			r.Session, r.Swept, r.SweptAt = reported(), sweptOf(2),
				noon()
		}),
		"acknowledged": after(issued(v, "admin"), func(r *breakglass.Request) {
			r.Session, r.Swept, r.SweptAt = reported(), sweptOf(2), noon()
			r.Acknowledged = &record.Ending{By: bgtest.BySlack("carol"), At: noon(), Reason: "removed both"}
		}),
		"closed": after(issued(v, "admin"), func(r *breakglass.Request) {
			r.Closed = &record.Ending{By: bgtest.BySlack("alice"), At: noon(), Reason: "restored etcd from the snapshot; nothing is left to do"}
		}),
		"erased": end(pending(v, "admin"), func(r *breakglass.Request) { r.Reason, r.Ask.Incident = "", "" }),
	}
}

// after is a grant that has ended and after which a closing note is asked for.
func after(r *breakglass.Request, set func(*breakglass.Request)) *breakglass.Request {
	r.Ask.Aftercare = &breakglass.Aftercare{Prove: true, Examine: true, CloseSeconds: 86400}
	r.Issued.NotAfter = noon()
	set(r)
	return r
}

// receiptOf is a receipt by which so many API servers refuse, still let in, and cannot be reached.
func receiptOf(no, open, away int) *breakglass.Receipt {
	r := &breakglass.Receipt{Final: open+away == 0, Limits: []string{"watches go on until they end"}}
	server := func() string { return fmt.Sprintf("https://10.0.0.%d:6443", len(r.Answers)+1) }
	for i := range no {
		by := []string{breakglass.RefusedByRBAC, breakglass.RefusedByWebhook}[i%2]
		r.Answers = append(r.Answers, breakglass.Answer{Server: server(), No: true, By: by, AfterMillis: int64(1+i*400) * 200, Tries: i + 1})
	}
	for range open {
		r.Answers = append(r.Answers, breakglass.Answer{Server: server(), Tries: 7, Problem: breakglass.StillAllowed("").Problem})
	}
	for range away {
		r.Answers = append(r.Answers, breakglass.Answer{Server: server(), Tries: 2, Problem: "connection refused"})
	}
	return r
}

func reported() *breakglass.SessionReported {
	return &breakglass.SessionReported{Digest: strings.Repeat("c", 64), Source: breakglass.SourceAudit, Events: 53,
		First: noon().Add(-20 * time.Minute), Last: noon().Add(-2 * time.Minute),
		From: []string{"10.1.2.3", "192.0.2.7"}, Reads: 41, Writes: 9, Refused: 3, SecretsRead: 1, Streams: 2}
}

func sweptOf(n int) *breakglass.Swept {
	s := &breakglass.Swept{Sources: []string{"audit", "comparison"}, Gaps: []string{"Secrets were not compared: the daemon may not list them"}}
	for i := range n {
		s.Items = append(s.Items, breakglass.Residue{Rule: "clusterrolebinding-created", Severity: finding.Critical,
			Object: fmt.Sprintf("ClusterRoleBinding evil-%d", i),
			What:   "a new binding gives cluster-admin to a service account", Found: "audit", Exists: []string{"yes", "unknown"}[i%2],
			Undo: fmt.Sprintf("kubectl delete clusterrolebinding evil-%d", i)})
	}
	return s
}

// views are all forms, by name.
func views(v render) map[string]slack.ModalViewRequest {
	offers := v.policy.Eligible("alice")
	s := states(v)
	return map[string]slack.ModalViewRequest{
		"ask":             v.ask(offers, wish{}),
		"ask-filled-in":   v.ask(offers, parseWish("c1 45m etcd <lost> & gone", offers)),
		"ask-unknown":     v.ask(offers, parseWish("prod-9 30m etcd lost", offers)),
		"review":          v.review(s["pending-one"], "carol"),
		"review-mine":     v.review(s["pending-one"], "bob"),
		"review-critical": v.review(s["pending-critical"], "bob"),
		"review-over":     v.review(s["expired"], "carol"),
		"deny":            v.deny(s["pending"]),
		"revoke":          v.revoke(s["active"]),
		"revoke-approved": v.revoke(s["approved"]),
		"revoke-group":    v.revoke(s["active-group"]),
		"revoke-proved":   v.revoke(after(issued(v, "admin"), func(r *breakglass.Request) { r.Issued.NotAfter = noon().Add(time.Minute) })),
		"ask-guarded":     guarded(v),
		"review-raised":   v.review(s["approved-raised"], "dave"),
		"acknowledge":     v.acknowledge(s["left"]),
		"acknowledged":    v.acknowledge(s["acknowledged"]),
		"left-nothing":    v.acknowledge(s["touched"]),
		"left-many":       v.acknowledge(after(issued(v, "admin"), func(r *breakglass.Request) { r.Swept = sweptOf(100); r.Swept.More = 7 })),
		"close":           v.closing(s["touched"]),
		"closed":          v.closing(s["closed"]),
		"not-done":        notice("Not done", "Requesters do not approve their own requests; two other people must approve it."),
	}
}

// guarded is the form for a profile with guards.
func guarded(v render) slack.ModalViewRequest {
	offers := v.policy.Eligible("alice")
	p := *offers[0].Profile
	p.Guards = []policy.Guard{policy.GuardExec, policy.GuardSecrets}
	return v.ask([]policy.ProfileOnCluster{{Profile: &p, Cluster: offers[0].Cluster}}, wish{})
}

// entryOf is a ledger entry about a request, as the bot sees it.
func entryOf(ev record.Event, r *breakglass.Request, at time.Time) entry {
	return entry{Notice: announce.Notice{Entry: ledger.Entry{Seq: 45, Time: at}, Event: ev}, Request: r}
}

// notices is each entry that people are told of, by name.
func notices(v render) map[string]entry {
	s := states(v)
	by := bgtest.BySlack
	at := func(name string, ev record.Event, at time.Time) entry {
		return entryOf(ev, s[name], at)
	}
	last := s["approved"].Approvals[1].At
	open := *reported()
	open.StillOpen, open.Gaps = 2, []string{"12 audit events came late", "the audit policy leaves out Secrets"}
	many := *sweptOf(100)
	many.More = 3
	return map[string]entry{
		"requested":  at("pending", breakglass.Requested{By: by("alice")}, noon()),
		"approval":   at("pending-one", breakglass.Approved{By: by("bob")}, noon()),
		"quorum":     at("approved", breakglass.Approved{By: bgtest.ByKey("bob")}, last),
		"taken-back": at("pending-one", breakglass.ApprovalWithdrawn{By: by("carol")}, noon()),
		"denied":     at("denied", breakglass.Denied{By: by("carol")}, noon()),
		"withdrawn":  at("withdrawn", breakglass.Withdrawn{By: by("alice")}, noon()),
		"claimed":    at("issuing", breakglass.Claimed{By: bgtest.ByKey("alice")}, noon()),
		"issued":     at("active", *s["active"].Issued, noon()),
		"refused": at("failed", breakglass.Failed{Why: breakglass.FailRefused, Detail: "the certificate authority refused"},
			noon()),
		"unknown":           at("failed", breakglass.Failed{Why: breakglass.FailUnknown, Detail: "the answer was lost"}, noon()),
		"orphan":            at("failed", breakglass.Failed{Why: breakglass.FailOrphan, Detail: "the answer was lost"}, noon()),
		"check":             at("failed", breakglass.Failed{Why: breakglass.FailCheck, Detail: "it is for another key"}, noon()),
		"bound":             at("active", breakglass.Bound{Rights: s["active"].Ask.Rights}, noon()),
		"unbound":           at("expired", breakglass.Unbound{Why: breakglass.StateExpired}, noon()),
		"revoked":           at("revoked", breakglass.Revoked{By: by("carol")}, noon()),
		"delivered":         at("active", breakglass.Delivered{By: bgtest.ByKey("alice")}, noon()),
		"lapsed":            at("lapsed", breakglass.Ended{State: breakglass.StateLapsed}, noon()),
		"lapsed-approved":   at("lapsed-approved", breakglass.Ended{State: breakglass.StateLapsed}, noon()),
		"expired":           at("expired", breakglass.Ended{State: breakglass.StateExpired}, noon()),
		"revoked-unclaimed": at("revoked-unclaimed", breakglass.Revoked{By: by("carol")}, noon()),
		"revoked-group":     at("revoked-group", breakglass.Revoked{By: by("carol")}, noon()),
		"receipt":           at("receipt", *receiptOf(3, 0, 0), noon()),
		"receipt-open":      at("receipt-open", *receiptOf(1, 1, 1), noon()),
		"receipt-group":     at("receipt-group", *receiptOf(1, 2, 0), noon()),
		"receipt-late":      at("receipt-late", breakglass.Receipt{Answers: receiptOf(2, 0, 1).Answers, Final: true}, noon()),
		"receipt-many":      at("receipt", *receiptOf(30, 0, 0), noon()),
		"receipt-none":      at("receipt", *receiptOf(0, 0, 0), noon()),
		"session":           at("left", *reported(), noon()),
		"session-open":      at("left", open, noon()),
		"session-unused":    at("touched", breakglass.SessionReported{Source: breakglass.SourceAudit}, noon()),
		"session-unknown": at("touched", breakglass.SessionReported{Source: breakglass.SourceNone,
			Gaps: []string{"no audit events reach the daemon for c1"}}, noon()),
		"swept-nothing":           at("touched", breakglass.Swept{Items: []breakglass.Residue{}}, noon()),
		"swept-gaps":              at("touched", breakglass.Swept{Items: []breakglass.Residue{}, Gaps: sweptOf(1).Gaps}, noon()),
		"swept":                   at("left", *sweptOf(2), noon()),
		"swept-before":            at("left", *sweptOf(1), noon()),
		"swept-many":              at("left", many, noon()),
		"swept-acknowledged":      at("acknowledged", *sweptOf(2), noon()),
		"acknowledged":            at("acknowledged", breakglass.Acknowledged{By: by("carol")}, noon()),
		"acknowledged-late":       at("left", breakglass.Acknowledged{By: by("carol")}, noon()),
		"closed":                  at("closed", breakglass.Closed{By: by("alice")}, noon()),
		"overdue-closing":         at("touched-overdue", breakglass.Overdue{What: breakglass.OverdueClosing}, noon()),
		"overdue-closing-late":    at("closed", breakglass.Overdue{What: breakglass.OverdueClosing}, noon()),
		"overdue-acknowledgement": at("left", breakglass.Overdue{What: breakglass.OverdueAcknowledgement}, noon()),
		"overdue-late":            at("acknowledged", breakglass.Overdue{What: breakglass.OverdueAcknowledgement}, noon()),
		"expired-touched":         at("touched", breakglass.Ended{State: breakglass.StateExpired}, noon()),
		"no-account":              at("pending", record.Heartbeat{}, noon()),
		"not-allowed":             at("pending", record.Refused{By: by("mallory")}, noon()),
	}
}

// findings are the messages about findings, by name; words are what a check found in the hands of whoever had the cluster.
func findings(v render, words string) map[string]message {
	f := func(sev finding.Severity, request string) finding.Finding {
		return finding.Finding{Since: noon(), Opened: finding.Opened{Key: words, Check: "reconcile", Cluster: "c1",
			Request: request, Severity: sev,
			What: "a certificate that the ledger does not know was signed: " + words, Next: "look at the authority's audit log for " + words}}
	}
	var rest []finding.Finding
	for range 7 {
		rest = append(rest, f(finding.Critical, ""), f(finding.Warning, ""))
	}
	daemon := f(finding.Warning, "")
	daemon.Cluster = ""
	return map[string]message{
		"critical": v.finding(f(finding.Critical, "")),
		"warning":  v.finding(f(finding.Warning, "bg-7k3m-9qx")),
		"info":     v.finding(f(finding.Info, "")),
		"daemon":   v.finding(daemon),
		"over":     v.over(f(finding.Critical, "").Opened, "the check does not find it any more: "+words),
		"over-how": v.over(f(finding.Warning, "bg-7k3m-9qx").Opened, ""),
		"rest":     v.rest(rest),
		"no-rest":  v.rest(nil),
	}
}

func (m message) json(t testing.TB) []byte {
	t.Helper()
	return encode(t, map[string]any{"text": m.text, "broadcast": m.broadcast, "blocks": m.blocks})
}

func encode(t testing.TB, x any) []byte {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(x); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden.json")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run with -update)", err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s differs (-want +got):\n%s", path, d)
	}
}

// On a phone little more is seen of a card or a form than its first line and its button: they say who asks for what.
func TestTheAskComesFirst(t *testing.T) {
	v := renderer(t, bgtest.Policy())
	r := states(v)["pending-one"]
	const want = `[{"type":"text","text":"Alice","style":{"bold":true}},{"type":"text","text":" asks for "},` +
		`{"type":"text","text":"admin","style":{"bold":true}},{"type":"text","text":" on "},` +
		`{"type":"text","text":"c1","style":{"bold":true}},{"type":"text","text":" for 30m"}]`
	form := v.review(r, "carol")
	for name, blocks := range map[string][]slack.Block{"card": v.card(r).blocks, "form": form.Blocks.BlockSet} {
		first, err := json.Marshal(blocks[0])
		if err != nil || !strings.Contains(string(first), want) {
			t.Errorf("the %s begins with %s", name, first)
		}
	}
	if form.Submit.Text != "Approve admin" || !strings.Contains(string(encode(t, form)), "Approving lets Alice use admin on c1 for 30m: "+
		"exactly this") {
		t.Errorf("the form's button is %q", form.Submit.Text)
	}
	r.Ask.Profile = "cluster-administrator-of-everything"
	if got := v.review(r, "carol").Submit.Text; len([]rune(got)) > 24 || !strings.HasPrefix(got, "Approve cluster-") {
		t.Errorf("the button of a long profile is %q", got)
	}
}

// What is one line for people makes no second one on the screen of whoever approves.
func TestOneLineStaysOneLine(t *testing.T) {
	v := renderer(t, bgtest.Policy())
	r := states(v)["pending-one"]
	r.Ask.Incident = "INC-1\nRisk\nlow; test cluster\u2028needs nobody\u0085x"
	r.Approvals[0].Comment = "fine\r\n✓ dave approved"
	seen := string(encode(t, v.card(r).blocks))
	m, _ := v.timeline(entryOf(breakglass.Approved{By: bgtest.BySlack("bob")}, r, noon()))
	said := string(m.json(t))
	if !strings.Contains(seen, `"Incident\nINC-1 Risk low; test cluster needs nobody x"`) || !strings.Contains(said,
		`"fine ✓ dave approved"`) {
		t.Errorf("shown:\n%s\n%s", seen, said)
	}
}

func TestRenderedMessagesAndForms(t *testing.T) {
	v := renderer(t, bgtest.Policy())
	for name, r := range states(v) {
		m := v.card(r)
		valid(t, name, m)
		golden(t, "card-"+name, m.json(t))
	}
	for name, m := range views(v) {
		raw := encode(t, m)
		for _, p := range slacksim.ValidateView(raw) {
			t.Errorf("form %s: %s", name, p)
		}
		golden(t, "form-"+name, raw)
	}
	lines, letters := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	for name, n := range notices(v) {
		if m, ok := v.timeline(n); ok {
			valid(t, name, m)
			lines[name] = m.json(t)
		}
		if m, ok := v.letter(n); ok {
			valid(t, name, m)
			letters[name] = m.json(t)
		}
	}
	found := map[string]json.RawMessage{}
	for name, m := range findings(v, "serial 12:34") {
		valid(t, name, m)
		found[name] = m.json(t)
	}
	golden(t, "findings", encode(t, found))
	golden(t, "thread", encode(t, lines))
	golden(t, "letters", encode(t, letters))
	valid(t, "help", v.help())
	golden(t, "help", v.help().json(t))
}

// valid checks a message against Slack's limits, and that a screen reader has something to read.
func valid(t testing.TB, name string, m message) {
	t.Helper()
	for _, p := range slacksim.ValidateBlocks(slacksim.SurfaceMessage, encode(t, m.blocks)) {
		t.Errorf("%s: %s", name, p)
	}
	if m.text == "" || len(m.text) > 3000 {
		t.Errorf("%s: the text for notifications has %d bytes", name, len(m.text))
	}
}

// mrkdwnOf collects every text that Slack interprets.
func mrkdwnOf(x any) []string {
	var out []string
	switch x := x.(type) {
	case map[string]any:
		if text, ok := x["text"].(string); ok && x["type"] == "mrkdwn" {
			out = append(out, text)
		}
		for _, y := range x {
			out = append(out, mrkdwnOf(y)...)
		}
	case []any:
		for _, y := range x {
			out = append(out, mrkdwnOf(y)...)
		}
	}
	return out
}

// tainted puts a hostile text everywhere that people's words can get.
func tainted(v render, r *breakglass.Request, words string) *breakglass.Request {
	r.Reason = words
	r.Ask.Incident = words
	for i := range r.Approvals {
		r.Approvals[i].Comment = words
	}
	if r.Receipt != nil {
		*r.Receipt = taintedEvent(*r.Receipt, words).(breakglass.Receipt)
	}
	if r.Swept != nil {
		*r.Swept = taintedEvent(*r.Swept, words).(breakglass.Swept)
	}
	for _, e := range []*record.Ending{r.Denied, r.Withdrawn, r.Revoked, r.Acknowledged, r.Closed} {
		if e != nil {
			e.Reason = words
		}
	}
	if r.Failed != nil {
		r.Failed.Detail = words
	}
	return r
}

// taintedEvent puts a hostile text everywhere that a cluster's words can get.
func taintedEvent(ev record.Event, words string) record.Event {
	list := func(in []string) []string {
		out := make([]string, len(in))
		for i := range out {
			out[i] = words
		}
		return out
	}
	switch ev := ev.(type) {
	case breakglass.Failed:
		ev.Detail = words
		return ev
	case breakglass.Receipt:
		ev.Answers = slices.Clone(ev.Answers)
		for i, a := range ev.Answers {
			ev.Answers[i].Server, ev.Answers[i].Question = words, words
			if a.Problem != "" && !a.StillAllows() {
				ev.Answers[i].Problem = words
			}
		}
		ev.Limits = list(ev.Limits)
		return ev
	case breakglass.SessionReported:
		ev.From, ev.Gaps = list(ev.From), list(ev.Gaps)
		return ev
	case breakglass.Swept:
		ev.Items = slices.Clone(ev.Items)
		for i := range ev.Items {
			ev.Items[i] = breakglass.Residue{Rule: words, Severity: finding.Severity(words), Object: words, What: words, Found: words,
				Exists: words, Undo: words}
		}
		ev.Gaps = list(ev.Gaps)
		return ev
	}
	return ev
}

func checkHostile(t testing.TB, v render, words string) {
	const marker = "q7z" // in no text of ours
	words = marker + words
	safe := func(name string, raw []byte) {
		var x any
		if err := json.Unmarshal(raw, &x); err != nil {
			t.Fatal(err)
		}
		for _, text := range mrkdwnOf(x) {
			if strings.Contains(text, marker) {
				t.Errorf("%s: people's words are interpreted: %q", name, text)
			}
		}
	}
	message := func(name string, m message) {
		valid(t, name, m)
		if strings.Contains(m.text, marker) {
			t.Errorf("%s: people's words are in the text for notifications", name)
		}
		safe(name, m.json(t))
	}
	view := func(name string, m slack.ModalViewRequest) {
		raw := encode(t, m)
		for _, p := range slacksim.ValidateView(raw) {
			t.Errorf("form %s: %s", name, p)
		}
		safe(name, raw)
	}
	for name, r := range states(v) {
		r = tainted(v, r, words)
		message(name, v.card(r))
		view(name, v.review(r, "carol"))
		view(name, v.revoke(r))
		view(name, v.closing(r))
		if r.Swept != nil {
			view(name, v.acknowledge(r))
		}
	}
	for name, n := range notices(v) {
		n.Request = tainted(v, n.Request, words)
		n.Event = taintedEvent(n.Event, words)
		if m, ok := v.timeline(n); ok {
			message(name, m)
		}
		if m, ok := v.letter(n); ok {
			message(name, m)
		}
	}
	for name, m := range findings(v, words) {
		message(name, m)
	}
	offers := v.policy.Eligible("alice")
	view("ask", v.ask(offers, parseWish(words+" 30m "+words, offers)))
	view("ask", v.ask(offers, parseWish("c1 30m "+words, offers)))
	view("notice", notice("Not done", words))
}

func FuzzPeoplesWordsAreNeverInterpreted(f *testing.F) {
	for _, s := range []string{"", "<!here> <@U0BOB> *bold* `code` https://evil.example :tada:", "&lt;!channel&gt;", "\n\n> quoted\n\t",
		strings.Repeat("😀", 4000), strings.Repeat("<", 3000),
		"\x00\xff", "a\u202eb", "<!channel> <https://evil.example|kubectl> " + strings.Repeat("x", 10_000), strings.Repeat("a\n", 2000),
		"<!date^1^{date}|x>", " "} {
		f.Add(s)
	}
	texttest.Tame(f, "foreign", foreign(texttest.Nasty, 500))
	f.Add(texttest.Nasty)
	v := renderer(f, bgtest.Policy())
	f.Fuzz(func(t *testing.T, words string) { checkHostile(t, v, words) })
}

// A policy at the limits of every name still gives messages that Slack takes.
func TestLongestPolicyFitsIntoSlack(t *testing.T) {
	id := func(c string, i, n int) string { return fmt.Sprintf("%s%03d", strings.Repeat(c, n-3), i) }
	var b strings.Builder
	b.WriteString("version: 1\npeople:\n")
	var people []string
	for i := range 60 {
		p := id("p", i, 32)
		people = append(people, p)
		fmt.Fprintf(&b, "  - {id: %s, name: %q, slack: [{team: T01, user: U0%029d}], keys: []}\n", p, strings.Repeat("N", 200), i)
	}
	b.WriteString("teams:\n")
	for i := range 12 {
		fmt.Fprintf(&b, "  - {id: %s, members: [%s]}\n", id("t", i, 63), strings.Join(people, ", "))
	}
	b.WriteString("clusters:\n")
	var clusters, teams []string
	for i := range 12 {
		clusters = append(clusters, id("c", i, 63))
		teams = append(teams, id("t", i, 63))
		fmt.Fprintf(&b, "  - {id: %s, server: \"https://%s.example\"}\n", id("c", i, 63), strings.Repeat("s", 60))
	}
	b.WriteString("profiles:\n")
	for i := range 12 {
		fmt.Fprintf(&b, "  - {id: %s, description: %q, clusters: [%s], bind: {role: %s, namespaces: [%s]}, ttl: {default: 1h, max: 24h}, "+
			"requesters: [%s], approvals: {count: 12, from: [%s], each: [%s]}, reason: {min: 10}, risk: low}\n",
			id("x", i, 63), strings.Repeat("D", 200), strings.Join(clusters, ", "), strings.Repeat("r", 200), id("n", 1, 63)+", "+id("n", 2, 63),
			teams[0], strings.Join(teams, ", "), strings.Join(teams, ", "))
	}
	p, err := policy.Parse("access.yaml", []byte(strings.ReplaceAll(b.String(), ", keys: []", "")))
	if err != nil {
		t.Fatal(err)
	}
	v := render{p, []string{"T01"}, "/breakglass", noon(), nil}
	prof := &p.Profiles[3]
	r := &breakglass.Request{ID: "bg-7k3m-9qx", Digest: strings.Repeat("a", 64), At: noon(), Reason: strings.Repeat("w", 1000),
		Ask: breakglass.Requested{By: record.Actor{Person: people[0], Channel: record.ChannelSlack}, Cluster: clusters[2],
			Server: "https://" + strings.Repeat("s", 300), Profile: prof.ID,
			Rights: prof.Rights, TTLSeconds: 86399, Quorum: p.Freeze(prof), Risk: prof.Risk, PendingUntil: noon().Add(time.Hour), ClaimSeconds: 600}}
	check := func(name string) {
		valid(t, name, v.card(r))
		for _, m := range []slack.ModalViewRequest{v.review(r, people[59]), v.deny(r)} {
			for _, p := range slacksim.ValidateView(encode(t, m)) {
				t.Errorf("%s: %s", name, p)
			}
		}
	}
	check("nobody yet")
	letter, _ := v.letter(entryOf(breakglass.Requested{By: r.Ask.By}, r, time.Time{}))
	valid(t, "letter", letter)
	for _, person := range people[1:30] {
		r.Approvals = append(r.Approvals, policy.Approval{By: record.Actor{Person: person, Channel: record.ChannelKey}, At: noon()})
	}
	check("thirty approvals")
	r.Issued = &breakglass.Issued{Serial: strings.Repeat("ff:", 20), NotAfter: noon()}
	r.Ask.Aftercare = &breakglass.Aftercare{CloseSeconds: 86400}
	for g := range policy.Guards() {
		r.Ask.Guards = append(r.Ask.Guards, g)
	}
	for range 30 {
		r.Ask.Raised = append(r.Ask.Raised, "bg-7k3m-9qx")
	}
	swept := taintedEvent(*sweptOf(100), strings.Repeat("😀", 10_000)).(breakglass.Swept)
	r.Swept = &swept
	check("ended")
	for _, n := range []record.Event{*r.Swept, breakglass.Overdue{What: breakglass.OverdueClosing},
		breakglass.Overdue{What: breakglass.OverdueAcknowledgement}, *receiptOf(50, 0, 0), *reported()} {
		m, ok := v.timeline(entryOf(n, r, time.Time{}))
		if valid(t, n.Kind(), m); !ok {
			t.Errorf("%s is not told", n.Kind())
		}
	}
	for _, m := range []slack.ModalViewRequest{v.acknowledge(r), v.closing(r), v.revoke(r)} {
		for _, p := range slacksim.ValidateView(encode(t, m)) {
			t.Errorf("%s: %s", m.CallbackID, p)
		}
	}
	offers := p.Eligible(people[0])
	m := v.ask(offers, wish{cluster: clusters[11], ttl: 23 * time.Hour})
	for _, p := range slacksim.ValidateView(encode(t, m)) {
		t.Errorf("ask: %s", p)
	}
}

func TestTypedClusterIsOfferedEvenBeyondAHundred(t *testing.T) {
	v := renderer(t, bgtest.Policy())
	prof, _ := v.policy.Profile("admin")
	var offers []policy.ProfileOnCluster
	for i := range 150 {
		offers = append(offers, policy.ProfileOnCluster{Profile: prof, Cluster: &policy.Cluster{ID: fmt.Sprintf("c%d", i)}})
	}
	raw := encode(t, v.ask(offers, wish{cluster: "c149"}))
	if p := slacksim.ValidateView(raw); p != nil || !bytes.Contains(raw, []byte(`"initial_option": {
          "text": {
            "type": "plain_text",
            "text": "admin on c149"`)) {
		t.Errorf("%v\n%s", p, raw)
	}
}

func TestSpanReadsAsPeopleWriteIt(t *testing.T) {
	for d, want := range map[time.Duration]string{time.Hour: "1h", 90 * time.Minute: "1h30m", 30 * time.Minute: "30m",
		20 * time.Second: "20s", 70 * time.Second: "1m10s", 10 * time.Hour: "10h"} {
		if got := text.Span(d); got != want {
			t.Errorf("%v is written %q, want %q", d, got, want)
		}
	}
}

// The app asks for exactly the rights that its calls need.
func TestManifestFitsTheCode(t *testing.T) {
	raw, err := os.ReadFile("../../deploy/slack/manifest.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		Metadata map[string]int `yaml:"_metadata"`
		Display  struct {
			Name            string
			Description     string
			LongDescription string `yaml:"long_description"`
			BackgroundColor string `yaml:"background_color"`
		} `yaml:"display_information"`
		Features struct {
			BotUser struct {
				DisplayName  string `yaml:"display_name"`
				AlwaysOnline bool   `yaml:"always_online"`
			} `yaml:"bot_user"`
			AppHome       map[string]bool `yaml:"app_home"`
			SlashCommands []struct {
				Command, URL, Description string
				UsageHint                 string `yaml:"usage_hint"`
				ShouldEscape              bool   `yaml:"should_escape"`
			} `yaml:"slash_commands"`
		}
		OAuth struct {
			Scopes struct{ Bot []string }
		} `yaml:"oauth_config"`
		Settings struct {
			Interactivity struct {
				IsEnabled  bool   `yaml:"is_enabled"`
				RequestURL string `yaml:"request_url"`
			}
			OrgDeploy     bool `yaml:"org_deploy_enabled"`
			SocketMode    bool `yaml:"socket_mode_enabled"`
			TokenRotation bool `yaml:"token_rotation_enabled"`
		}
	}
	d := yaml.NewDecoder(bytes.NewReader(raw))
	d.KnownFields(true)
	if err := d.Decode(&m); err != nil {
		t.Fatal(err)
	}
	// From docs.slack.dev/reference/methods; an empty scope means that every token may.
	scopes := map[string]string{"chat.postMessage": "chat:write", "chat.update": "chat:write", "chat.postEphemeral": "chat:write",
		"conversations.open": "im:write", "users.info": "users:read", "views.open": "", "auth.test": "",
		"chat.scheduleMessage": "chat:write", "chat.deleteScheduledMessage": "chat:write", "chat.getPermalink": ""}
	want := []string{"commands"}
	for method := range scopes {
		if s := scopes[method]; s != "" && !slices.Contains(want, s) {
			want = append(want, s)
		}
	}
	slices.Sort(want)
	if got := slices.Sorted(slices.Values(m.OAuth.Scopes.Bot)); !slices.Equal(got, want) {
		t.Errorf("the manifest asks for %v, the calls need %v", got, want)
	}
	source, err := os.ReadFile("webapi.go")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(source), "b.call(ctx, \""); got != len(scopes) {
		t.Errorf("webapi.go calls %d methods, the table has %d", got, len(scopes))
	}
	for method := range scopes {
		if !strings.Contains(string(source), "b.call(ctx, \""+method+"\"") {
			t.Errorf("%s is not called", method)
		}
	}
	c := m.Features.SlashCommands
	if len(c) != 1 || c[0].Command != "/breakglass" || !strings.HasSuffix(c[0].URL, "/slack/commands") ||
		!strings.HasSuffix(m.Settings.Interactivity.RequestURL, "/slack/interactions") {
		t.Errorf("addresses: %+v %+v", c, m.Settings.Interactivity)
	}
	if len(m.Display.Description) > 140 || m.Settings.SocketMode || !m.Settings.Interactivity.IsEnabled {
		t.Errorf("settings: %+v", m.Settings)
	}
}
