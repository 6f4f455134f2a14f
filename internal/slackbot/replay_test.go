package slackbot_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/internal/bgtest"
)

func TestReplayInCapitalsIsRefused(t *testing.T) {
	w := newWorld(t)
	r, card := w.ask("admin")
	w.send(w.click("carol", card, "review"))
	captured := w.sim.LastRequest() // carol's approval, as it came over the wire
	if n := len(w.get(r.ID).Approvals); n != 1 {
		t.Fatalf("%d approvals", n)
	}
	if _, err := w.Service.TakeBack(t.Context(), bgtest.BySlack("carol"), r.ID); err != nil { // carol has second thoughts
		t.Fatal(err)
	}
	up := captured.Clone()
	sig := up.Header.Get("X-Slack-Signature")
	up.Header.Set("X-Slack-Signature", "v0="+strings.ToUpper(sig[3:]))
	if code := w.replay(t, up.URL, up.Header, up.Body); code != http.StatusUnauthorized {
		t.Errorf("answered with %d, want 401", code)
	}
	if n := len(w.get(r.ID).Approvals); n != 0 {
		t.Error("a replayed Slack request gave an approval that carol had taken back")
	}
}

func (w *world) replay(t *testing.T, url string, h http.Header, body []byte) int {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(string(body)))
	must(t, err)
	req.Header = h
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	resp.Body.Close()
	return resp.StatusCode
}
