// Package metric shows Prometheus what the checks of the CAs found: the gauges that deploy/prometheus/ca.rules.yaml asks for.
package metric

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/breakglassd/breakglass/internal/rotation"
)

// Sample is one value of one metric.
type Sample struct {
	Name   string
	Labels []Label // in the order in which the metric declares them
	Value  float64
}

// Label is one label of a sample.
type Label struct{ Name, Value string }

// The metrics of the checks, with what they say. All are gauges. Before the samples of a report are set, those of the same
// cluster are removed, but for LastSuccess, which keeps its value when a report has no sample of it.
const (
	NotAfter    = "breakglass_ca_not_after_seconds"          // cluster, ca, generation: when a CA or certificate ends, in Unix time
	CheckOK     = "breakglass_ca_check_ok"                   // cluster: 1 if everything was seen and nothing is to do
	LastSuccess = "breakglass_ca_check_last_success_seconds" // cluster: when the last check that saw everything ran, in Unix time
	// cluster, server, issuer: 1 if the canary of the issuer that signs was taken there
	Canary = "breakglass_canary_ok"
	// cluster, server, issuer: 1 trusted, 0 refused; no sample if it is not known
	Trusted  = "breakglass_ca_trusted"
	Phase    = "breakglass_ca_phase"    // cluster, phase: 1 for the phase that it is, 0 for the others
	Findings = "breakglass_ca_findings" // cluster, severity: how many
	// cluster: when the last certificate of the old issuer ends, in Unix time; no sample if unknown or none
	DrainedAt = "breakglass_ca_drained_at_seconds"
)

// Labels are the labels of each metric, in order.
var Labels = map[string][]string{
	NotAfter: {"cluster", "ca", "generation"}, CheckOK: {"cluster"}, LastSuccess: {"cluster"},
	Canary:  {"cluster", "server", "issuer"},
	Trusted: {"cluster", "server", "issuer"}, Phase: {"cluster", "phase"}, Findings: {"cluster", "severity"},
	DrainedAt: {"cluster"},
}

// Samples is a report as samples.
func Samples(r rotation.Report) []Sample {
	var out []Sample
	add := func(name string, value float64, values ...string) {
		s := Sample{Name: name, Value: value}
		for i, label := range Labels[name] {
			s.Labels = append(s.Labels, Label{label, values[i]})
		}
		out = append(out, s)
	}
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	ends := map[string]bool{}
	for _, a := range r.Authorities {
		if a.NotAfter == nil || a.Left || ends[a.Kind+" "+a.Generation] { // what is left over may end
			continue
		}
		ends[a.Kind+" "+a.Generation] = true
		add(NotAfter, float64(a.NotAfter.Unix()), r.Cluster, a.Kind, a.Generation)
	}
	add(CheckOK, flag(r.OK), r.Cluster)
	if r.Complete {
		add(LastSuccess, float64(r.At.Unix()), r.Cluster)
	}
	active, hasActive := r.Generation(rotation.PositionActive)
	for _, s := range r.Servers {
		if hasActive {
			add(Canary, flag(s.Fresh[active.Name]), r.Cluster, s.Address, active.Name)
		}
		for _, g := range r.Generations {
			if t := s.Trust[g.Name]; t == rotation.Trusted || t == rotation.Refused {
				add(Trusted, flag(t == rotation.Trusted), r.Cluster, s.Address, g.Name)
			}
		}
	}
	for _, p := range rotation.Phases {
		add(Phase, flag(p == r.Phase), r.Cluster, string(p))
	}
	for _, s := range []rotation.Severity{rotation.Info, rotation.Warning, rotation.Critical} {
		n := 0
		for _, f := range r.Verdicts {
			if f.Severity == s {
				n++
			}
		}
		add(Findings, float64(n), r.Cluster, string(s))
	}
	if r.DrainedAt != nil {
		add(DrainedAt, float64(r.DrainedAt.Unix()), r.Cluster)
	}
	return out
}

// Gauges makes the gauges in a registry, and returns what sets those of a report's cluster.
func Gauges(registry prometheus.Registerer) func(rotation.Report) {
	gauges := map[string]*prometheus.GaugeVec{}
	for name, labels := range Labels {
		gauges[name] = promauto.With(registry).NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: "See deploy/prometheus/ca.rules.yaml."}, labels)
	}
	return func(r rotation.Report) {
		for name, g := range gauges {
			if name != LastSuccess {
				g.DeletePartialMatch(prometheus.Labels{"cluster": r.Cluster})
			}
		}
		for _, s := range Samples(r) {
			values := make([]string, len(s.Labels))
			for i, l := range s.Labels {
				values[i] = l.Value
			}
			gauges[s.Name].WithLabelValues(values...).Set(s.Value)
		}
	}
}
