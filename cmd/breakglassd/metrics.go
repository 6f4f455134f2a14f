package main

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/breakglassd/breakglass/internal/announce"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/disk"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/session/store"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics counts what happens. It hears of it as a messenger does, from the ledger, so that what it counts is true. Labels come
// from configuration and policy only: no client can make new ones.
type metrics struct {
	follow   *breakglass.Follower
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	refusals prometheus.Counter
	waited   *prometheus.HistogramVec
	issued   *prometheus.HistogramVec
	answers  *prometheus.HistogramVec
	told     *prometheus.CounterVec
	vault    *prometheus.GaugeVec
	cluster  *prometheus.GaugeVec
	ending   *prometheus.GaugeVec
	issuer   *prometheus.GaugeVec
	revoked  *prometheus.HistogramVec
	findings *prometheus.GaugeVec
	hooks    *prometheus.HistogramVec
	alive    *prometheus.GaugeVec
	schedule *prometheus.GaugeVec
	slack    prometheus.Gauge
	reloadOK prometheus.Gauge
	reloadAt prometheus.Gauge
	verifyOK prometheus.Gauge

	open   func() []finding.Finding
	log    *slog.Logger
	proved map[string]bool // request and server of the revocations that were counted; used by Tell alone

	mu     sync.Mutex // guards broken
	broken error      // what the last verification of the ledger found
}

func newMetrics(d *daemon) *metrics {
	m := &metrics{registry: prometheus.NewRegistry(), proved: map[string]bool{}, log: d.log,
		open: func() []finding.Finding { return d.service.Findings.Open() }}
	f := promauto.With(m.registry)
	gauges := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return f.NewGaugeVec(prometheus.GaugeOpts(opts(name, help)), labels)
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts(opts(name, help)), labels)
	}
	histograms := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return f.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}, labels)
	}
	m.requests = counters("requests_total", "What became of requests, by outcome; opened counts all of them.", "cluster", "profile", "outcome")
	m.refusals = f.NewCounter(prometheus.CounterOpts(opts("refusals_total", "Commands on requests that were not allowed.")))
	m.waited = histograms("approval_wait_seconds", "From the request to its last needed approval.",
		[]float64{15, 30, 60, 120, 300, 600, 1200, 1800, 3600}, "cluster", "profile")
	m.issued = histograms("issue_duration_seconds", "From the recorded claim to the recorded certificate.",
		[]float64{.05, .1, .25, .5, 1, 2, 5, 10, 20}, "cluster")
	m.answers = histograms("http_request_duration_seconds", "Answers to people's command lines, by route.",
		[]float64{.005, .025, .1, .5, 1, 3, 10, 60}, "route", "status")
	m.told = counters("slack_calls_total", "Calls from and to Slack.", "what", "outcome")
	m.vault = gauges("vault_up", "1 if a certificate for the cluster would be signed under exactly what was pinned.", "cluster")
	m.cluster = gauges("cluster_up", "1 if the cluster answers and the daemon may do there what it must.", "cluster")
	m.ending = gauges("cluster_credential_ends_soon", "1 if the daemon's credential for the cluster has ended, or does so soon.", "cluster")
	m.issuer = gauges("issuer_not_after_seconds", "When the cluster's issuer in Vault ends, in Unix time.", "cluster")
	m.revoked = histograms("revocation_seconds", "From a recorded revocation to the first no of an API server, one for each server that was "+
		"not away.", []float64{.1, .25, .5, 1, 2, 5, 15, 60, 300, 900, 3600}, "cluster", "by")
	m.findings = gauges("findings_open", "Findings that are not over.", "severity")
	m.hooks = histograms("webhook_request_duration_seconds", "Answers to API servers, by cluster.",
		[]float64{.001, .005, .025, .1, .5, 1, 3, 10}, "cluster", "what", "outcome")
	m.alive = gauges("audit_alive", "1 if the daemon's heartbeats come back in the audit events of the API server.", "cluster", "server")
	m.schedule = gauges("schedule_ok", "1 if the last run of the scheduled job that was due succeeded.", "job")
	m.slack = f.NewGauge(prometheus.GaugeOpts(opts("slack_up", "1 if Slack answers and the token is good.")))
	m.reloadOK = f.NewGauge(prometheus.GaugeOpts(opts("policy_reload_success", "1 if the access policy on disk, when last read, was put in "+
		"force, or waits for two people.")))
	m.reloadAt = f.NewGauge(prometheus.GaugeOpts(opts("policy_reload_timestamp_seconds",
		"When the access policy was last read, in Unix time.")))
	m.verifyOK = f.NewGauge(prometheus.GaugeOpts(opts("ledger_verify_ok", "1 if the whole ledger verified when last read, once a day.")))
	m.reloaded(true, time.Now())
	m.verification(nil)
	m.ask(d)
	return m
}

// namespace begins the name of every metric.
const namespace = "breakglass"

func opts(name, help string) prometheus.Opts {
	return prometheus.Opts{Namespace: namespace, Name: name, Help: help}
}

// ask adds the metrics whose value is asked for at each scrape.
func (m *metrics) ask(d *daemon) {
	f := promauto.With(m.registry)
	gauge := func(name, help string, value func() float64) {
		f.NewGaugeFunc(prometheus.GaugeOpts(opts(name, help)), value)
	}
	owed := func(name, help string, count func(touched, left int) int) {
		gauge(name, help, func() float64 {
			ctx, cancel := context.WithTimeout(context.Background(), probeTime)
			defer cancel()
			touched, left, err := d.service.Owed(ctx)
			if err != nil {
				return math.NaN()
			}
			return float64(count(touched, left))
		})
	}
	owed("touched", "Grants whose closing note is missing, the live ones included.", func(touched, _ int) int { return touched })
	owed("unacknowledged", "Grants that left something behind which no responder has acknowledged.", func(_, left int) int { return left })
	gauge("policy_waiting_seconds", "How long a change of the access policy has waited for two people; 0: no change waits.", func() float64 {
		if since := d.service.InForce.Waits(); !since.IsZero() {
			return max(1, time.Since(since).Seconds())
		}
		return 0
	})
	f.NewCounterFunc(prometheus.CounterOpts(opts("refusals_together_total", "Commands that were not allowed and got no entry of "+
		"their own: too many, or no room. One entry a minute says how many.")),
		func() float64 { return float64(d.service.Recorder.RefusedTogether()) })
	gauge("ledger_size", "Entries in the ledger.", func() float64 { return float64(d.ledger.Size()) })
	free := func(name, path string) {
		gauge(name, "Room that is left on the disk of "+path+", in bytes.", func() float64 {
			free, err := disk.Free(path)
			if err != nil {
				return math.NaN()
			}
			return float64(free)
		})
	}
	free("ledger_free_bytes", d.cfg.Ledger.Path)
	if d.cfg.Sessions.Path != "" {
		free("sessions_free_bytes", d.cfg.Sessions.Path)
	}
	gauge("can_take_requests", "0 while requests, approvals and claims are refused for every person, as with a clock that is behind the "+
		"ledger, or a full disk; else 1.", func() float64 { return up(d.service.Recorder.CannotTake()) })
	gauge("ledger_checkpoint_age_seconds", "Age of the last entry; a heartbeat makes one every ten minutes.",
		func() float64 { return time.Since(d.ledger.LastTime()).Seconds() })
	f.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: "build_info", Help: "Always 1.",
		ConstLabels: prometheus.Labels{"version": version()}}, func() float64 { return 1 })
	m.registry.MustRegister(reconcileMetrics{func() map[string]breakglass.Reconciled { return d.service.Reconciled() }},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}

// Tell implements announce.Messenger.
func (m *metrics) Tell(ctx context.Context, n announce.Notice) error {
	r, err := m.follow.Request(ctx, n.Entry, n.Event)
	if err != nil {
		return err
	}
	if r == nil { // it may be about a finding
		m.count(m.open())
		return nil
	}
	m.say(n, r)
	count := func(outcome string) { m.requests.WithLabelValues(r.Ask.Cluster, r.Ask.Profile, outcome).Inc() }
	switch ev := n.Event.(type) {
	case breakglass.Requested:
		count("opened")
	case breakglass.Approved:
		// The approval that filled the quorum is the one that the claim window counts from.
		if full := r.ClaimUntil().Add(-time.Duration(r.Ask.ClaimSeconds) * time.Second); n.Time.Equal(full) {
			m.waited.WithLabelValues(r.Ask.Cluster, r.Ask.Profile).Observe(n.Time.Sub(r.At).Seconds())
		}
	case breakglass.Denied:
		count("denied")
	case breakglass.Withdrawn:
		count("withdrawn")
	case breakglass.Issued:
		count("issued")
		m.issued.WithLabelValues(r.Ask.Cluster).Observe(n.Time.Sub(r.ClaimedAt).Seconds())
	case breakglass.Failed:
		count("failed")
	case breakglass.Revoked:
		count("revoked")
	case breakglass.Ended:
		count(string(ev.State))
	case breakglass.Receipt:
		for _, a := range ev.Answers {
			if key := r.ID + " " + a.Server; a.No && !m.proved[key] {
				m.proved[key] = true // a later receipt repeats it; told in order by one goroutine
				if slices.Contains(ev.Late, a.Server) {
					continue // that would measure how long the server was away
				}
				m.revoked.WithLabelValues(r.Ask.Cluster, a.By).Observe(float64(a.AfterMillis) / 1000)
			}
		}
		if ev.Final {
			for _, a := range ev.Answers {
				delete(m.proved, r.ID+" "+a.Server)
			}
		}
	case breakglass.Overdue:
		count("overdue-" + ev.What)
	case record.Refused:
		m.refusals.Inc()
	}
	return nil
}

// say writes one line for what happened to a request: who asked, agreed, collected or revoked, and what the daemon did. What was said
// in words stays in the ledger.
func (m *metrics) say(n announce.Notice, r *breakglass.Request) {
	kind, _, _ := strings.Cut(n.Event.Kind(), "/")
	attrs := []slog.Attr{slog.String("what", kind), slog.String("request", r.ID), slog.String("cluster", r.Ask.Cluster),
		slog.String("profile", r.Ask.Profile), slog.Int64("entry", n.Seq)}
	if by := personOf(n.Event); by != "" {
		attrs = append(attrs, slog.String("person", by))
	}
	m.log.LogAttrs(context.Background(), slog.LevelInfo, "on record", attrs...)
}

// personOf is who did it; empty for what the daemon did by itself.
func personOf(ev record.Event) string {
	switch ev := ev.(type) {
	case breakglass.Requested:
		return ev.By.Person
	case breakglass.Approved:
		return ev.By.Person
	case breakglass.ApprovalWithdrawn:
		return ev.By.Person
	case breakglass.Denied:
		return ev.By.Person
	case breakglass.Withdrawn:
		return ev.By.Person
	case breakglass.Claimed:
		return ev.By.Person
	case breakglass.Revoked:
		return ev.By.Person
	case record.Refused:
		return ev.By.Person
	case breakglass.Acknowledged:
		return ev.By.Person
	case breakglass.Closed:
		return ev.By.Person
	}
	return ""
}

// count sets the gauge of open findings.
func (m *metrics) count(open []finding.Finding) {
	n := map[finding.Severity]float64{finding.Info: 0, finding.Warning: 0, finding.Critical: 0}
	for _, f := range open {
		n[f.Severity]++
	}
	for severity, n := range n {
		m.findings.WithLabelValues(string(severity)).Set(n)
	}
}

// heard notes whether the audit events of an API server arrive.
func (m *metrics) heard(cluster, server string, ok bool) {
	m.alive.WithLabelValues(cluster, server).Set(one(ok))
}

// watchIntake counts what comes in from API servers' audit webhooks.
func (m *metrics) watchIntake(figures func() store.Figures) {
	for outcome, n := range map[string]func(store.Figures) int64{
		"kept":      func(f store.Figures) int64 { return f.Kept },
		"duplicate": func(f store.Figures) int64 { return f.Duplicates },
		"dropped":   func(f store.Figures) int64 { return f.Dropped },
		"unread":    func(f store.Figures) int64 { return f.Unreadable },
		"heartbeat": func(f store.Figures) int64 { return f.Heartbeats },
		"all":       func(f store.Figures) int64 { return f.Events },
	} {
		promauto.With(m.registry).NewCounterFunc(prometheus.CounterOpts{Namespace: namespace, Name: "audit_events_total",
			Help:        "Audit events that API servers sent, by what became of them; all counts the events of all users.",
			ConstLabels: prometheus.Labels{"outcome": outcome}}, func() float64 { return float64(n(figures())) })
	}
}

// hooked takes one answer to an API server.
func (m *metrics) hooked(what, cluster, outcome string, took time.Duration) {
	m.hooks.WithLabelValues(cluster, what, outcome).Observe(took.Seconds())
}

// answered takes one answer of the API.
func (m *metrics) answered(route string, status int, took time.Duration) {
	m.answers.WithLabelValues(route, strconv.Itoa(status)).Observe(took.Seconds())
}

// slackCall takes one call from or to Slack.
func (m *metrics) slackCall(what, outcome string, _ time.Duration) {
	m.told.WithLabelValues(what, outcome).Inc()
}

func (m *metrics) reloaded(ok bool, now time.Time) {
	m.reloadOK.Set(one(ok))
	m.reloadAt.Set(float64(now.Unix()))
}

func (m *metrics) verification(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.broken = err
	m.verifyOK.Set(up(err))
}

func (m *metrics) verified() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken == nil {
		return nil
	}
	return errors.New("the ledger does not verify: see the log")
}

// reconcileMetrics tells what the comparison of each cluster's authority with the ledger has come to.
type reconcileMetrics struct {
	now func() map[string]breakglass.Reconciled
}

var (
	reconcileLast = prometheus.NewDesc("breakglass_reconcile_last_success_seconds",
		"When the authority's certificates were last compared with the ledger, in Unix time; 0: not since the start.", []string{"cluster"}, nil)
	reconcileUnknown = prometheus.NewDesc("breakglass_reconcile_unknown_certificates",
		"Certificates that the authority signed and that neither the ledger nor a responder accounts for, also where no finding had room.",
		[]string{"cluster"}, nil)
)

func (m reconcileMetrics) Describe(out chan<- *prometheus.Desc) {
	out <- reconcileLast
	out <- reconcileUnknown
}

func (m reconcileMetrics) Collect(out chan<- prometheus.Metric) {
	for cluster, r := range m.now() {
		last := 0.0
		if !r.Last.IsZero() {
			last = float64(r.Last.Unix())
			out <- prometheus.MustNewConstMetric(reconcileUnknown, prometheus.GaugeValue, float64(r.Unknown), cluster)
		}
		out <- prometheus.MustNewConstMetric(reconcileLast, prometheus.GaugeValue, last, cluster)
	}
}

// one is 1 for what is so, and 0 else.
func one(so bool) float64 {
	if so {
		return 1
	}
	return 0
}

// up is 1 where there is no error.
func up(err error) float64 { return one(err == nil) }
