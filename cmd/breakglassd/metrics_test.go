package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"github.com/breakglassd/breakglass/cmd/breakglassd/config"
	"github.com/breakglassd/breakglass/internal/session/store"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// An alert on a metric that is not exported never fires.
func TestAlertRulesAskForWhatTheDaemonExports(t *testing.T) {
	m := newMetrics(&daemon{cfg: &config.Config{Sessions: config.Sessions{Path: "sessions.db"}}})
	m.watchIntake(func() store.Figures { return store.Figures{} })
	descs := make(chan *prometheus.Desc, 1000)
	m.registry.Describe(descs)
	close(descs)
	exported := map[string]string{}
	for d := range descs {
		if name := regexp.MustCompile(`fqName: "(breakglass_\w+)"`).FindStringSubmatch(d.String()); name != nil {
			exported[name[1]] += d.String()
		}
	}
	text, err := os.ReadFile("../../deploy/prometheus/breakglass.rules.yaml")
	must(t, err)
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	must(t, yaml.Unmarshal(text, &rules))
	alerts := map[string]bool{}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			alerts[r.Alert] = true
			if strings.Count(r.Expr, "(") != strings.Count(r.Expr, ")") {
				t.Errorf("%s: not every bracket is closed: %s", r.Alert, r.Expr)
			}
			for _, x := range regexp.MustCompile(`(breakglass_\w+?)(?:_bucket|_count|_sum)?\b(?:\{([^}]*)\})?`).FindAllStringSubmatch(r.Expr, -1) {
				if exported[x[1]] == "" {
					t.Errorf("%s asks for %s, which is not exported", r.Alert, x[1])
				}
				for _, label := range regexp.MustCompile(`(\w+)=~?"`).FindAllStringSubmatch(x[2], -1) {
					if !strings.Contains(exported[x[1]], label[1]) {
						t.Errorf("%s: %s has no label %s", r.Alert, x[1], label[1])
					}
				}
			}
		}
	}
	for _, want := range []string{"BreakglassAuditSilent", "BreakglassAuditNotKept", "BreakglassAuditBatchesFail"} {
		if !alerts[want] {
			t.Errorf("there is no alert %s", want)
		}
	}
}
