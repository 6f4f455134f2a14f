package rotation_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/breakglassd/breakglass/internal/rotation"
	"github.com/breakglassd/breakglass/internal/rotation/metric"
)

// TestAlertRulesAskForWhatIsExported reads the shipped rules the way Prometheus does, as far as that can be done without it.
func TestAlertRulesAskForWhatIsExported(t *testing.T) {
	f, err := os.Open("../../deploy/prometheus/ca.rules.yaml")
	must(t, err)
	defer f.Close()
	d := yaml.NewDecoder(f)
	d.KnownFields(true)
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	must(t, d.Decode(&rules))
	pattern := regexp.MustCompile(`breakglass_[a-z_]+`)
	selector := regexp.MustCompile(`(breakglass_[a-z_]+)\{([^}]*)\}`)
	label := regexp.MustCompile(`([a-z_]+)(?:=~|!~|!=|=)"([^"]*)"`)
	shown := regexp.MustCompile(`\$labels\.([a-z_]+)`)
	used, alerts := map[string]bool{}, map[string]bool{}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			if alerts[r.Alert] || r.Alert == "" || r.For == "" || r.Annotations["summary"] == "" ||
				!slices.Contains([]string{"page", "ticket"}, r.Labels["severity"]) {
				t.Errorf("alert %q lacks something: %+v", r.Alert, r)
			}
			alerts[r.Alert] = true
			if open, shut := strings.Count(r.Expr, "("), strings.Count(r.Expr, ")"); open != shut {
				t.Errorf("%s: %d brackets open and %d close", r.Alert, open, shut)
			}
			labels := map[string]bool{"generation": strings.Contains(r.Expr, "label_replace")}
			for _, name := range pattern.FindAllString(r.Expr, -1) {
				used[name] = true
				if metric.Labels[name] == nil {
					t.Errorf("%s asks for %s, which is not exported", r.Alert, name)
				}
				for _, l := range metric.Labels[name] {
					labels[l] = true
				}
			}
			for _, m := range selector.FindAllStringSubmatch(r.Expr, -1) {
				for _, l := range label.FindAllStringSubmatch(m[2], -1) {
					if !slices.Contains(metric.Labels[m[1]], l[1]) {
						t.Errorf("%s: %s has no label %s", r.Alert, m[1], l[1])
					}
					if l[1] != "phase" {
						continue
					}
					for _, p := range strings.Split(l[2], "|") {
						if !slices.Contains(rotation.Phases, rotation.Phase(p)) {
							t.Errorf("%s: there is no phase %q", r.Alert, p)
						}
					}
				}
			}
			for _, text := range r.Annotations {
				for _, l := range shown.FindAllStringSubmatch(text, -1) {
					if !labels[l[1]] {
						t.Errorf("%s shows the label %s, which nothing in it has", r.Alert, l[1])
					}
				}
			}
		}
	}
	// Between them the alerts on an end look at every kind of CA and certificate that has one.
	matcher := regexp.MustCompile(metric.NotAfter + `\{ca(=|!~)"([^"]*)"\}`)
	for _, kind := range []string{"break-glass", "client", "serving-ca", "serving", "request-header", "kubelet", "kubelet-serving", "etcd",
		"etcd-serving"} {
		watched := false
		for _, g := range rules.Groups {
			for _, r := range g.Rules {
				if m := matcher.FindStringSubmatch(r.Expr); m != nil {
					matches := regexp.MustCompile("^(?:" + m[2] + ")$").MatchString(kind)
					watched = watched || matches == (m[1] == "=")
				}
			}
		}
		if !watched {
			t.Errorf("no alert looks at the end of %s", kind)
		}
	}
	for _, name := range []string{metric.NotAfter, metric.CheckOK, metric.LastSuccess, metric.Canary,
		metric.Findings, metric.Phase} {
		if !used[name] {
			t.Errorf("no alert looks at %s", name)
		}
	}
}
