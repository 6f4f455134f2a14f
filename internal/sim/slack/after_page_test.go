package slacksim_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/breakglassd/breakglass/internal/announce"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/finding"
	slacksim "github.com/breakglassd/breakglass/internal/sim/slack"
	"github.com/breakglassd/breakglass/internal/slackbot"
)

// proved is a Prover by which two API servers refuse every revoked certificate.
type proved struct{}

func (proved) Ask(context.Context, breakglass.Access) []breakglass.Answer {
	return []breakglass.Answer{{Server: "https://10.0.0.1:6443", No: true, By: breakglass.RefusedByRBAC},
		{Server: "https://10.0.0.2:6443", No: true, By: breakglass.RefusedByWebhook}}
}

// examined is an Examiner that always finds the same thing, under a hostile name.
type examined struct{}

func (examined) Before(context.Context, breakglass.Access) error { return nil }

func (examined) Examine(context.Context, *breakglass.Request, bool) (breakglass.SessionReported, breakglass.Swept, error) {
	now := time.Now()
	return breakglass.SessionReported{Source: breakglass.SourceAudit, Digest: strings.Repeat("d", 64), Events: 3, First: now, Last: now,
			From: []string{"192.0.2.7"}, Reads: 2, Writes: 1},
		breakglass.Swept{Sources: []string{"audit"}, Items: []breakglass.Residue{{Rule: "clusterrolebinding-created",
			Severity: finding.Critical,
			Object:   "ClusterRoleBinding " + hostile + " <!channel>", What: "a new binding to cluster-admin", Found: "audit", Exists: "yes",
			Undo: "kubectl delete clusterrolebinding x"}}}, nil
}

// What follows a grant, played in a browser with the bot itself: revoked, proved, swept, acknowledged, closed.
func TestWhatFollowsAGrantIsPlayedInABrowser(t *testing.T) {
	sc := slacksim.Config{TeamID: "T01", TeamDomain: "acme", AppID: "A0BREAK", BotToken: botToken, SigningSecret: signingSecret,
		Command:   "/breakglass",
		AckWithin: 30 * time.Second, TriggerLife: 30 * time.Second, // Slack's 3 s are too short for a busy machine
		Channels: []slacksim.Channel{{ID: approvals, Name: "breakglass-approvals"}}}
	for _, p := range bgtest.People {
		sc.Users = append(sc.Users, slacksim.User{ID: bgtest.SlackUser(p), Name: p, RealName: strings.ToUpper(p[:1]) + p[1:]})
	}
	sim, err := slacksim.New(sc)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(sim.Handler())
	t.Cleanup(func() { sim.Close(); server.Close() })
	sim.SetURL(server.URL)
	system := bgtest.New(t, bgtest.Options{Policy: bgtest.Policy() + "responders: [security]\nclosing: {within: 24h}\n",
		Config: func(c *bgtest.Config) {
			c.Prover, c.Examiner, c.Grace = proved{}, examined{}, time.Millisecond
		}})
	bot, err := slackbot.New(slackbot.Config{Service: system.Service, Campaigns: system.Campaigns, Ledger: system.Ledger, BotToken: botToken,
		SigningSecret: signingSecret,
		AppID:         "A0BREAK", TeamIDs: []string{"T01"},
		Channel: approvals, APIURL: server.URL + "/api/"})
	if err != nil {
		t.Fatal(err)
	}
	app := httptest.NewServer(bot.Handler())
	t.Cleanup(app.Close)
	sim.SetAppURLs(app.URL+"/slack/commands", app.URL+"/slack/interactions")
	findings := bot.Findings()
	var stopped atomic.Bool
	t.Cleanup(func() { stopped.Store(true) })
	system.Told.OnTell(func(n announce.Notice) error {
		switch {
		case stopped.Load():
			return http.ErrServerClosed
		case !breakglass.ValidID(n.Stream):
			return findings.Tell(context.Background(), n)
		}
		return bot.Tell(context.Background(), n)
	})
	r := system.Grant("alice", "admin")
	_, csr := bgtest.NewCSR()
	if _, err := system.Claim("alice", r.ID, csr); err != nil {
		t.Fatal(err)
	}

	tab := browser(t)
	run := steps(t, tab)
	send := chromedp.Steps(chromedp.Click(css("#submit")), chromedp.WaitNotVisible(css("#modal")))
	run("open the page", chromedp.Navigate(server.URL), reads("Active until"))
	run("revoke", as("Carol"), chromedp.Click(labelled("Revoke…")), chromedp.WaitVisible(css("#modal")),
		until(`document.getElementById("modal").innerText.includes("What it does not reach")`),
		shot("revoke"), writes("laptop stolen"), send)
	run("read the receipt", reads("Cut off on 2 of 2 API servers"), reads("https://10.0.0.1:6443: refused after"), reads("(deny webhook)"),
		reads("cut off on 2 of 2 API servers"))
	run("read what was done", reads("2 reads"), reads("1 thing left behind in c1"), reads("ClusterRoleBinding "+hostile+" <!channel>"),
		reads("Left something behind: 1, not acknowledged"), shot("swept"))
	run("acknowledge what one's own session left", as("Alice"), chromedp.Click(labelled("Acknowledge…")),
		reads("Requesters do not acknowledge what their own sessions left behind; an approver or a responder must look at it."))
	run("acknowledge", as("Bob"), chromedp.Click(labelled("Acknowledge…")), chromedp.WaitVisible(css("#modal")), shot("acknowledge"),
		writes("removed it"), send, reads("✓ acknowledged by @bob"), reads("removed it"), chromedp.WaitNotPresent(labelled("Acknowledge…")))
	run("find the letter", as("Alice"), chromedp.Click(css("#dms button")), reads("Please say what was done"), shot("letter"))
	run("say too little", chromedp.Click(labelled("Write closing note")), chromedp.WaitVisible(css("#modal")), writes("x"),
		chromedp.Click(css("#submit")),
		chromedp.WaitVisible(css(`[data-field=note] [aria-invalid=true]`)), shot("close"))
	run("close", writes("restored etcd from the snapshot <!channel>"), send, chromedp.Click(css("#channels button")),
		reads("restored etcd from the snapshot <!channel>"), reads("Closed by @alice"), chromedp.WaitNotPresent(labelled("Close…")),
		shot("closed"))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(system.Service.Findings.Find(t.Context(), finding.Opened{Key: "k", Check: "reconcile", Cluster: "c1",
		Severity: finding.Critical, What: "a certificate of nobody's " + hostile, Next: "look"}))
	run("read a finding", reads("A certificate of nobody's "+hostile))
	must(system.Service.Findings.Close(t.Context(), "k", "it has expired"))
	run("read that it is over", reads("It has expired"), until(`!!document.querySelector("#log s")`), shot("findings"))

	images, err := chromedp.Run(tab, chromedp.Evaluate[int](`document.images.length`))
	if err != nil || images != 0 {
		t.Errorf("text became markup: %d images, %v", images, err)
	}
	if unnamed, err := chromedp.Run(tab, chromedp.Evaluate[[]string](nameless)); err != nil || len(unnamed) != 0 {
		t.Errorf("controls without a name for a screen reader: %q, %v", unnamed, err)
	}
	system.Check()
}
