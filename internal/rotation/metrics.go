package rotation

// Sample is one value of one metric.
type Sample struct {
	Name   string
	Labels []Label // in the order in which the metric declares them
	Value  float64
}

// Label is one label of a sample.
type Label struct{ Name, Value string }

// The metrics of the checks, with what they say. All are gauges. Before the samples of a report are set, those of the same
// cluster are removed, but for MetricLastSuccess, which keeps its value when a report has no sample of it.
const (
	MetricNotAfter    = "breakglass_ca_not_after_seconds"          // cluster, ca, generation: when a CA or certificate ends, in Unix time
	MetricCheckOK     = "breakglass_ca_check_ok"                   // cluster: 1 if everything was seen and nothing is to do
	MetricLastSuccess = "breakglass_ca_check_last_success_seconds" // cluster: when the last check that saw everything ran, in Unix time
	// cluster, server, issuer: 1 if the canary of the issuer that signs was taken there
	MetricCanary = "breakglass_canary_ok"
	// cluster, server, issuer: 1 trusted, 0 refused; no sample if it is not known
	MetricTrusted  = "breakglass_ca_trusted"
	MetricPhase    = "breakglass_ca_phase"    // cluster, phase: 1 for the phase that it is, 0 for the others
	MetricFindings = "breakglass_ca_findings" // cluster, severity: how many
	// cluster: when the last certificate of the old issuer ends, in Unix time; no sample if unknown or none
	MetricDrainedAt = "breakglass_ca_drained_at_seconds"
)

// MetricLabels is the labels of each metric, in order.
var MetricLabels = map[string][]string{
	MetricNotAfter: {"cluster", "ca", "generation"}, MetricCheckOK: {"cluster"}, MetricLastSuccess: {"cluster"},
	MetricCanary:  {"cluster", "server", "issuer"},
	MetricTrusted: {"cluster", "server", "issuer"}, MetricPhase: {"cluster", "phase"}, MetricFindings: {"cluster", "severity"},
	MetricDrainedAt: {"cluster"},
}

// Metrics is a report as samples.
func Metrics(r Report) []Sample {
	var out []Sample
	add := func(name string, value float64, values ...string) {
		s := Sample{Name: name, Value: value}
		for i, label := range MetricLabels[name] {
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
		add(MetricNotAfter, float64(a.NotAfter.Unix()), r.Cluster, a.Kind, a.Generation)
	}
	add(MetricCheckOK, flag(r.OK), r.Cluster)
	if r.Complete {
		add(MetricLastSuccess, float64(r.At.Unix()), r.Cluster)
	}
	active, hasActive := r.Generation(PositionActive)
	for _, s := range r.Servers {
		if hasActive {
			add(MetricCanary, flag(s.Fresh[active.Name]), r.Cluster, s.Address, active.Name)
		}
		for _, g := range r.Generations {
			if t := s.Trust[g.Name]; t == Trusted || t == Refused {
				add(MetricTrusted, flag(t == Trusted), r.Cluster, s.Address, g.Name)
			}
		}
	}
	for _, p := range Phases {
		add(MetricPhase, flag(p == r.Phase), r.Cluster, string(p))
	}
	for _, s := range []Severity{Info, Warning, Critical} {
		n := 0
		for _, f := range r.Verdicts {
			if f.Severity == s {
				n++
			}
		}
		add(MetricFindings, float64(n), r.Cluster, string(s))
	}
	if r.DrainedAt != nil {
		add(MetricDrainedAt, float64(r.DrainedAt.Unix()), r.Cluster)
	}
	return out
}
