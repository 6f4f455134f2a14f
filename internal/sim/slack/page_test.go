package slacksim_test

import (
	"context"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/slack-go/slack"
)

var shots = flag.String("shots", "", "directory for screenshots of the page")

// hostile is in every text that a person or the app can choose.
const hostile = `<img src=x onerror="document.title='owned'">`

// approvalApp is a small two-person app: the command opens the form, the form posts a card, approving edits the card.
func approvalApp(t *testing.T, a *app) {
	t.Helper()
	a.onCommand(func(w http.ResponseWriter, c slack.SlashCommand) {
		if c.Text == "help" {
			_, _ = io.WriteString(w, "*Ask* with `/breakglass cluster time reason` "+hostile)
			return
		}
		if _, err := a.api.OpenView(c.TriggerID, modal()); err != nil {
			t.Errorf("views.open: %v", err)
		}
	})
	a.onInteract(func(w http.ResponseWriter, i slack.InteractionCallback) {
		switch i.Type {
		case slack.InteractionTypeViewSubmission:
			reason := i.View.State.Values["reason_block"]["reason"].Value
			if strings.Contains(reason, "test") {
				w.Header().Set("Content-Type", "application/json")
				_ = json.NewEncoder(w).Encode(slack.NewErrorsViewSubmissionResponse(map[string]string{"reason_block": "Say what is broken."}))
				return
			}
			var card slack.Blocks
			if err := json.Unmarshal([]byte(strings.ReplaceAll(designCard, "etcd quorum lost, API 5xx", strings.ReplaceAll(reason, `"`, `\"`))),
				&card); err != nil {
				t.Errorf("card: %v", err)
			}
			if _, _, err := a.api.PostMessage(approvals, slack.MsgOptionText("pending", false),
				slack.MsgOptionBlocks(card.BlockSet...)); err != nil {
				t.Errorf("chat.postMessage: %v", err)
			}
		case slack.InteractionTypeBlockActions:
			if i.User.ID == alice {
				if _, err := a.api.PostEphemeral(i.Channel.ID, alice, slack.MsgOptionText("You cannot decide on your own request.",
					false)); err != nil {
					t.Errorf("chat.postEphemeral: %v", err)
				}
				return
			}
			ended := slack.NewSectionBlock(mrkdwn("*Denied* by <@"+i.User.ID+"> <!date^1795356960^{date_short} {time}|later>"), nil, nil)
			if _, _, _, err := a.api.UpdateMessage(i.Channel.ID, i.Message.Timestamp, slack.MsgOptionText("denied", false),
				slack.MsgOptionBlocks(ended)); err != nil {
				t.Errorf("chat.update: %v", err)
			}
			for _, line := range []string{"<@" + i.User.ID + "> denied it", "```\nserial 7f:3a\n```\n:lock: closed &lt;done&gt;"} {
				if _, _, err := a.api.PostMessage(i.Channel.ID, slack.MsgOptionText(line, false), slack.MsgOptionTS(i.Message.Timestamp)); err != nil {
					t.Errorf("chat.postMessage: %v", err)
				}
			}
			if _, _, err := a.api.PostMessage(alice, slack.MsgOptionText("Your request was *denied*.", false)); err != nil {
				t.Errorf("chat.postMessage: %v", err)
			}
		}
	})
}

// action is a step of a person in front of the page.
type action = chromedp.Action[chromedp.Void]

func css(selector string) chromedp.CSS { return chromedp.CSS(selector) }

func labelled(text string) chromedp.Search {
	return chromedp.Search(`//button[normalize-space()="` + text + `"]`)
}

func until(expression string) action {
	return func(ctx context.Context, tab *chromedp.Target) (chromedp.Void, error) {
		_, err := chromedp.Poll[bool](expression)(ctx, tab)
		return chromedp.Void{}, err
	}
}

// reads waits until the open conversation has a text.
func reads(text string) action {
	raw, err := json.Marshal(text)
	if err != nil {
		panic(err)
	}
	return until(`document.getElementById("log").innerText.includes(` + string(raw) + `)`)
}

func as(name string) action {
	return chromedp.Steps(
		chromedp.Click(chromedp.Search(`//div[@id="people"]//button[contains(., "`+name+`")]`)),
		chromedp.WaitVisible(chromedp.Search(`//div[@id="people"]//button[@aria-pressed="true" and contains(., "`+name+`")]`)))
}

func say(text string) action { return chromedp.SendKeys(css("#text"), text+"\r") }

// writes fills in the one long text of a form, anew.
func writes(text string) action {
	return chromedp.Steps(until(`!(document.querySelector("#modal textarea").value = "")`), chromedp.SendKeys(css("#modal textarea"), text))
}

// steps runs what a person does, and says what the page showed when a step fails.
func steps(t *testing.T, tab context.Context) func(name string, steps ...action) {
	return func(name string, steps ...action) {
		t.Helper()
		ctx, cancel := context.WithTimeout(tab, 40*time.Second)
		defer cancel()
		if err := chromedp.Do(ctx, steps...); err != nil {
			text, _ := chromedp.Run(tab, chromedp.Evaluate[string](`document.body.innerText`))
			t.Fatalf("%s: %v\nthe page says:\n%s", name, err, text)
		}
	}
}

func TestTwoPeopleUseTheAppInABrowser(t *testing.T) {
	cfg := config()
	cfg.Users[2].RealName = "Gus " + hostile
	cfg.Notice += " " + hostile
	a := start(t, cfg)
	approvalApp(t, a)
	tab := browser(t)
	confirm := func(text string) chromedp.Search {
		return chromedp.Search(`//dialog[@id="confirm"]//button[normalize-space()="` + text + `"]`)
	}
	choose := func(value string) action { return chromedp.Click(css(`#modal input[value="` + value + `"]`)) }
	run := steps(t, tab)

	run("open the page", chromedp.Navigate(a.server.URL), chromedp.WaitVisible(css(".notice")), reads("Nothing here yet."),
		chromedp.WaitVisible(css(`#people button[aria-pressed=true]`)))
	run("ask for help", say("/breakglass help"), reads("Only visible to you"), reads("Ask with /breakglass cluster time reason"))
	run("say something", say("hello <b>team</b> @bob"), reads("hello <b>team</b> @bob"))
	run("mistype the command", say("/remind me"), reads("/remind is not a valid command here"))
	run("open the form", say("/breakglass prod-eu-1 30m"), chromedp.WaitVisible(css("#modal")),
		until(`document.activeElement.id === "modal-title"`), shot("modal"))
	run("send it empty", chromedp.Click(css("#submit")), chromedp.WaitVisible(css(`[data-field=reason_block] [aria-invalid=true]`)),
		shot("modal-errors"))
	run("send what the app refuses", writes("just a test"), choose("high"), choose("words"), chromedp.Click(css("#submit")),
		until(`document.querySelector("[data-field=reason_block] .error").innerText === "Say what is broken."`))
	run("send it", writes("etcd lost <img src=x onerror=alert(1)>"), chromedp.Click(css("#submit")), chromedp.WaitNotVisible(css("#modal")),
		reads("Waiting for security"), reads("MANGO PISTON 42"), reads("etcd lost <img src=x onerror=alert(1)>"))
	run("decide on one's own request", chromedp.Click(labelled("Deny")), chromedp.WaitVisible(css("#confirm")), shot("confirm"),
		chromedp.Click(confirm("Deny")), reads("You cannot decide on your own request."), shot("card"))

	before := len(a.sim.Requests())
	run("start to deny as somebody else", as("Bob Okafor"), until(`!document.getElementById("log").innerText.includes("Only visible to you")`),
		chromedp.Click(labelled("Deny")), chromedp.WaitVisible(css("#confirm")), chromedp.Click(confirm("Keep")),
		chromedp.WaitNotVisible(css("#confirm")))
	if n := len(a.sim.Requests()); n != before {
		t.Error("declining the confirm dialog told the app")
	}
	run("deny", chromedp.Click(labelled("Deny")), chromedp.WaitVisible(css("#confirm")), chromedp.Click(confirm("Deny")),
		reads("Denied by @bob"), reads("2 replies"), reads("closed <done>"), shot("thread"))
	run("read the answer", as("Alice Moreau"), chromedp.WaitVisible(css("#dms .count")), shot("unread"),
		chromedp.Click(css("#dms button")), reads("Your request was denied."), chromedp.WaitNotPresent(css("#dms .count")))

	run("give up on a form with the keyboard", say("/breakglass"), chromedp.WaitVisible(css("#modal")),
		until(`document.activeElement.id === "modal-title"`),
		chromedp.KeyEvent(kb.Escape), until(`!document.getElementById("modal").open`))
	if last := string(a.sim.LastRequest().Body); !strings.Contains(last, "view_closed") {
		t.Errorf("the app was not told that the form was closed, but: %s", last)
	}

	a.onCommand(func(w http.ResponseWriter, _ slack.SlashCommand) { w.WriteHeader(http.StatusServiceUnavailable) })
	run("meet a broken app", say("/breakglass"), reads(`failed with the error "dispatch_failed"`), chromedp.WaitVisible(css(".toast")),
		shot("broken"))

	title, err := chromedp.Run(tab, chromedp.Title())
	if err != nil {
		t.Fatal(err)
	}
	images, err := chromedp.Run(tab, chromedp.Evaluate[int](`document.images.length`))
	if err != nil {
		t.Fatal(err)
	}
	if title != "acme (simulated Slack)" || images != 0 {
		t.Errorf("text became markup: title %q, %d images", title, images)
	}
	unnamed, err := chromedp.Run(tab, chromedp.Evaluate[[]string](nameless))
	if err != nil || len(unnamed) != 0 {
		t.Errorf("controls without a name for a screen reader: %q, %v", unnamed, err)
	}
}

// nameless lists controls that neither a label nor an attribute nor their own text names.
const nameless = `[...document.querySelectorAll("button, input, select, textarea, a")]
	.filter((n) => !(n.innerText || "").trim() && !n.getAttribute("aria-label") && !(n.labels && n.labels.length))
	.map((n) => n.outerHTML)`

// chromium finds the browser, and on a Debian machine where it may, installs it: the tests need nothing but Go to begin with.
func chromium(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err == nil {
		return path
	}
	if os.Getuid() == 0 {
		t.Log("installing chromium with apt-get, first time only")
		for _, args := range [][]string{{"update", "-qq"}, {"install", "-y", "-qq", "--no-install-recommends", "chromium"}} {
			cmd := exec.CommandContext(t.Context(), "apt-get", args...)
			cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Logf("apt-get %s: %v\n%s", args[0], err, out)
			}
		}
		if path, err = exec.LookPath("chromium"); err == nil {
			return path
		}
	}
	t.Fatal("this test needs a browser: apt-get install chromium")
	return ""
}

// browser starts a headless Chromium of its own, with an empty profile.
func browser(t *testing.T) context.Context {
	t.Helper()
	path := chromium(t)
	options := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true), chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(1200, 800),
	}
	allocator, stop := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(stop)
	tab, closeTab := chromedp.NewContext(allocator) // closing waits for the browser, before its profile is removed
	t.Cleanup(closeTab)
	if err := chromedp.Do(tab); err != nil {
		t.Fatalf("starting chromium: %v", err)
	}
	return tab
}

// shot writes the page in dark and light, if asked for.
func shot(name string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		if *shots == "" {
			return nil
		}
		for _, scheme := range []string{"dark", "light"} {
			media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
			if _, err := cdp.Call(ctx, tab, emulation.SetEmulatedMedia, media); err != nil {
				return err
			}
			png, err := chromedp.CaptureScreenshot()(ctx, tab)
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(*shots, name+"-"+scheme+".png"), png, 0o644); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestOtherSitesCannotUseThePage(t *testing.T) {
	a := start(t, config())
	send := func(method, path, host string, header http.Header) int {
		r := httptest.NewRequest(method, path, strings.NewReader(`{"as":"`+alice+`","channel":"`+approvals+`","text":"hi"}`))
		r.Host = host
		for name, values := range header {
			r.Header[name] = values
		}
		w := httptest.NewRecorder()
		a.sim.Handler().ServeHTTP(w, r)
		return w.Code
	}
	own := http.Header{"X-Slacksim": {"1"}, "Origin": {"http://127.0.0.1:8080"}, "Sec-Fetch-Site": {"same-origin"}}
	for _, row := range []struct {
		name, method, path, host string
		header                   http.Header
		want                     int
	}{
		{"the page", "GET", "/", "127.0.0.1:8080", nil, 200},
		{"by name", "GET", "/sim/state?as=" + alice, "localhost:8080", nil, 200},
		{"by IPv6", "GET", "/sim/page.js", "[::1]:8080", nil, 200},
		{"a rebound name", "GET", "/", "evil.example:8080", nil, 403},
		{"state by a rebound name", "GET", "/sim/state?as=" + alice, "evil.example", nil, 403},
		{"the source of the page", "GET", "/sim/page.go", "localhost", nil, 404},
		{"a post of the page", "POST", "/sim/say", "127.0.0.1:8080", own, 200},
		{"a post of another site", "POST", "/sim/say", "127.0.0.1:8080", http.Header{"X-Slacksim": {"1"}, "Origin": {"https://evil.example"},
			"Sec-Fetch-Site": {"cross-site"}}, 403},
		{"an old browser's post of another site", "POST", "/sim/say", "127.0.0.1:8080",
			http.Header{"X-Slacksim": {"1"}, "Origin": {"https://evil.example"}}, 403},
		{"a plain form", "POST", "/sim/say", "127.0.0.1:8080", nil, 403},
		{"a post by a rebound name", "POST", "/sim/say", "evil.example", http.Header{"X-Slacksim": {"1"}}, 403},
	} {
		if got := send(row.method, row.path, row.host, row.header); got != row.want {
			t.Errorf("%s: got HTTP %d, want %d", row.name, got, row.want)
		}
	}
	if said := a.sim.Messages(approvals); len(said) != 1 {
		t.Errorf("got %d messages, want the page's own", len(said))
	}
}

func TestThePageShowsEachPersonOnlyTheirOwn(t *testing.T) {
	a := start(t, config())
	if _, err := a.api.PostEphemeral(approvals, bob, slack.MsgOptionText("for bob", false)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.api.PostMessage(bob, slack.MsgOptionText("bob's DM", false)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.sim.As(bob).In("C0SECRET").Say("secret plan"); err != nil {
		t.Fatal(err)
	}
	opens(t, a) // alice has a modal
	see := func(user string) string {
		res, err := http.Get(a.server.URL + "/sim/state?as=" + user)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	for text, owner := range map[string]string{"for bob": bob, "bob's DM": bob, "secret plan": bob, "sec-room": bob, "Ask for access": alice} {
		for _, user := range []string{alice, bob} {
			if got := strings.Contains(see(user), text); got != (user == owner) {
				t.Errorf("%s sees %q: %v", user, text, got)
			}
		}
	}
	if strings.Contains(see(alice), signingSecret) || strings.Contains(see(alice), botToken) {
		t.Error("the page's state has a secret in it")
	}
}
