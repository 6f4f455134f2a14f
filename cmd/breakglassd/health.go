package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/breakglassd/breakglass/internal/announce"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cacheck"
	"github.com/breakglassd/breakglass/internal/disk"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/session/store"
)

// How often the daemon looks around itself, how long one look takes at most, and how often the whole ledger is verified.
const (
	probeEvery  = 15 * time.Second
	probeTime   = 8 * time.Second
	verifyEvery = 24 * time.Hour
)

// check is one thing that was looked at. Without the required ones the daemon is not ready; the others only degrade it.
type check struct {
	Name     string `json:"name"`
	OK       bool   `json:"ok"`
	Required bool   `json:"required"`
	Error    string `json:"error,omitempty"`
}

// health is what the last look found. The zero value is not ready.
type health struct {
	at     time.Time
	checks []check
}

func (h *health) ready() bool {
	for _, c := range h.checks {
		if c.Required && c.Error != "" {
			return false
		}
	}
	return len(h.checks) > 0
}

// watch looks around until ctx is done, and tells systemd after each look that the daemon is alive: one that hangs in its own
// ledger does not get that far. Since each look writes, a ledger that was taken over is noticed, and Service.Run ends.
func (d *daemon) watch(ctx context.Context) error {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		before := d.health.Load()
		now := d.probe(ctx)
		if ctx.Err() != nil {
			return nil
		}
		d.health.Store(now)
		d.logChanges(before, now)
		notify("WATCHDOG=1")
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// logChanges says once when something breaks, however many checks it breaks, and once when it works again.
func (d *daemon) logChanges(before, now *health) {
	was := map[string]string{}
	for _, c := range before.checks {
		was[c.Name] = c.Error
	}
	said := map[string]bool{}
	for i, c := range now.checks {
		switch {
		case c.Error != "" && was[c.Name] == "" && !said[c.Error]:
			said[c.Error] = true
			names, required := []string{}, false
			for _, other := range now.checks[i:] {
				if other.Error == c.Error {
					names, required = append(names, other.Name), required || other.Required
				}
			}
			d.log.Warn("a check fails", slog.Any("checks", names), slog.Bool("required", required), slog.String("error", c.Error))
		case c.Error == "" && was[c.Name] != "":
			d.log.Info("a check passes again", slog.String("check", c.Name))
		}
	}
}

// probe looks at everything the daemon needs, all at the same time. It can serve as long as the ledger can be written: without
// Vault no certificate is issued, but revocations and the deny webhook work, and a load balancer must not take them away.
func (d *daemon) probe(ctx context.Context) *health {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	n := len(d.cfg.Clusters)
	signing, reaching := make([]error, n), make([]error, n)
	var writing, telling error
	var wg sync.WaitGroup
	wg.Go(func() { d.keepRoom(ctx) })
	wg.Go(func() { writing = d.ledger.SetBookmark(ctx, "probe", []byte(time.Now().UTC().Format(time.RFC3339))) })
	wg.Go(func() { d.probeSigner(ctx, signing) })
	for i, c := range d.cfg.Clusters {
		wg.Go(func() { _, reaching[i] = d.clusters.Bound(ctx, c.ID) })
	}
	if d.slack != nil {
		wg.Go(func() { telling = d.slack.Check(ctx) })
	}
	wg.Wait()
	var out []check
	add := func(name string, required bool, err error) {
		c := check{Name: name, OK: err == nil, Required: required}
		if err != nil {
			c.Error = err.Error()
		}
		out = append(out, c)
	}
	add("ledger", true, writing)
	add("ledger-history", true, d.metrics.verified())
	add("taking-requests", false, d.service.Recorder.CannotTake()) // revoking and denying work: the daemon stays ready for that
	add("ledger-room", false, d.room.short())
	if d.sessions != nil {
		add("sessions-room", false, d.room.sessionsShort())
	}
	var none error // stays nil when one cluster can be signed for
	for _, err := range signing {
		if err == nil {
			none = nil
			break
		}
		none = err
	}
	add("vault", false, none)
	for i, c := range d.cfg.Clusters {
		add("vault/"+c.ID, false, signing[i])
		add("cluster/"+c.ID, false, reaching[i])
		d.metrics.vault.WithLabelValues(c.ID).Set(up(signing[i]))
		d.metrics.cluster.WithLabelValues(c.ID).Set(up(reaching[i]))
		if _, soon, err := d.clusters.CredentialEnds(c.ID); err == nil {
			d.metrics.ending.WithLabelValues(c.ID).Set(map[bool]float64{true: 1}[soon])
		}
		if d.ca != nil {
			if issuer, err := d.ca.Issuer(ctx, c.ID); err == nil {
				d.metrics.issuer.WithLabelValues(c.ID).Set(float64(issuer.NotAfter.Unix()))
			}
		}
	}
	if d.slack != nil {
		add("slack", false, telling)
		d.metrics.slack.Set(up(telling))
	}
	return &health{at: time.Now(), checks: out}
}

// trouble says what the last looks found that would keep a certificate for a cluster from being signed, or from being accepted there.
func (d *daemon) trouble(cluster string) []string {
	var out []string
	for _, c := range d.health.Load().checks {
		if c.Name == "vault/"+cluster && c.Error != "" {
			out = append(out, "no certificate for "+cluster+" would be signed just now: "+c.Error)
		}
	}
	for _, f := range d.service.Findings.Open() {
		if f.Check == cacheck.CheckCA && f.Cluster == cluster && f.Severity == finding.Critical {
			out = append(out, "the check of the CAs of "+cluster+" says: "+f.What)
		}
	}
	return out
}

// probeSigner finds out, for each cluster of the configuration, whether a certificate would be signed.
func (d *daemon) probeSigner(ctx context.Context, signing []error) {
	groups := map[string][]string{}
	for _, c := range d.cfg.Clusters {
		groups[c.ID] = append([]string{""}, groupsOf(c.ID, d.service.Policy())...)
	}
	if d.ca != nil {
		errs := d.ca.CheckAll(ctx, groups)
		for i, c := range d.cfg.Clusters {
			signing[i] = errs[c.ID]
		}
		return
	}
	for i, c := range d.cfg.Clusters {
		for _, group := range groups[c.ID] {
			signing[i] = errors.Join(signing[i], d.signer.Check(ctx, c.ID, group))
		}
	}
}

func up(err error) float64 {
	if err != nil {
		return 0
	}
	return 1
}

// verify reads and verifies the whole ledger, once now and then once a day.
func (d *daemon) verify(ctx context.Context) error {
	tick := time.NewTicker(verifyEvery)
	defer tick.Stop()
	for {
		v, err := verifyLedger(ctx, d.cfg.Ledger.Path, d.vkey, nil)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			err = v.err()
		}
		d.metrics.verification(err)
		if err != nil {
			d.log.Error("THE LEDGER DOES NOT VERIFY: keep its files as evidence and run `breakglassd ledger verify`", slog.Any("error", err))
		} else {
			d.log.Info("the whole ledger verifies", slog.Int64("entries", v.Ledger.Entries), slog.Int("certificates", v.Audit.Certificates))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// healthHandler serves what machines ask: nothing in it is about a person or a request.
func (d *daemon) healthHandler() http.Handler {
	mux := http.NewServeMux()
	alive := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }
	mux.HandleFunc("GET /livez", alive)
	mux.HandleFunc("GET /healthz", alive)
	mux.HandleFunc("GET /readyz", d.readyz)
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, version()) })
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.metrics.registry, promhttp.HandlerOpts{}))
	return mux
}

// readyz answers 200 when the daemon is ready, perhaps degraded, and 503 when it is not. With ?verbose it says why.
func (d *daemon) readyz(w http.ResponseWriter, r *http.Request) {
	h := d.health.Load()
	status, word := http.StatusOK, "ok"
	for _, c := range h.checks {
		if c.Error != "" {
			word = "degraded"
		}
	}
	switch {
	case d.stopping.Load():
		status, word = http.StatusServiceUnavailable, "stopping"
	case !h.ready():
		status, word = http.StatusServiceUnavailable, "not ready"
	}
	if !r.URL.Query().Has("verbose") {
		w.WriteHeader(status)
		fmt.Fprintln(w, word)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"status": word, "checked": h.at.UTC(), "checks": h.checks})
}

// metrics counts what happens. It hears of it as a messenger does, from the ledger, so that what it counts is true. Labels come
// from configuration and policy only: nobody outside can make new ones.
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
	opts := func(name, help string) prometheus.GaugeOpts {
		return prometheus.GaugeOpts{Namespace: "breakglass", Name: name, Help: help}
	}
	add := func(c prometheus.Collector) { m.registry.MustRegister(c) }
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(opts(name, help))
		add(g)
		return g
	}
	gauges := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(opts(name, help), labels)
		add(g)
		return g
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts(opts(name, help)), labels)
		add(c)
		return c
	}
	histograms := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "breakglass", Name: name, Help: help, Buckets: buckets}, labels)
		add(h)
		return h
	}
	m.requests = counters("requests_total", "What became of requests, by outcome; opened counts all of them.", "cluster", "profile", "outcome")
	m.refusals = prometheus.NewCounter(prometheus.CounterOpts(opts("refusals_total", "Commands on requests that were not allowed.")))
	add(m.refusals)
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
		"not away.",
		[]float64{.1, .25, .5, 1, 2, 5, 15, 60, 300, 900, 3600}, "cluster", "by")
	m.findings = gauges("findings_open", "Findings that are not over.", "severity")
	m.hooks = histograms("webhook_request_duration_seconds", "Answers to API servers, by cluster.",
		[]float64{.001, .005, .025, .1, .5, 1, 3, 10}, "cluster", "what", "outcome")
	m.alive = gauges("audit_alive", "1 if the daemon's heartbeats come back in the audit events of the API server.", "cluster", "server")
	counted := func(name, help string, count func(context.Context) (int, error)) {
		add(prometheus.NewGaugeFunc(opts(name, help), func() float64 {
			ctx, cancel := context.WithTimeout(context.Background(), probeTime)
			defer cancel()
			n, err := count(ctx)
			if err != nil {
				return math.NaN()
			}
			return float64(n)
		}))
	}
	counted("touched", "Grants whose closing note is missing, the live ones included.",
		func(ctx context.Context) (int, error) {
			touched, _, err := d.service.Owed(ctx)
			return touched, err
		})
	counted("unacknowledged", "Grants that left something behind which nobody has acknowledged.",
		func(ctx context.Context) (int, error) {
			_, left, err := d.service.Owed(ctx)
			return left, err
		})
	add(reconcileMetrics{func() map[string]breakglass.Reconciled { return d.service.Reconciled() }})
	m.schedule = gauges("schedule_ok", "1 if the last run of the scheduled job that was due succeeded.", "job")
	m.slack = gauge("slack_up", "1 if Slack answers and the token is good.")
	m.reloadOK = gauge("policy_reload_success", "1 if the access policy on disk, when last read, was put in force, or waits for two "+
		"people.")
	add(prometheus.NewGaugeFunc(opts("policy_waiting_seconds", "How long a change of the access policy has waited for two people; 0: none "+
		"does."),
		func() float64 {
			if since := d.service.InForce.Waits(); !since.IsZero() {
				return max(1, time.Since(since).Seconds())
			}
			return 0
		}))
	m.reloadAt = gauge("policy_reload_timestamp_seconds", "When the access policy was last read, in Unix time.")
	m.verifyOK = gauge("ledger_verify_ok", "1 if the whole ledger verified when last read, once a day.")
	add(prometheus.NewCounterFunc(prometheus.CounterOpts(opts("refusals_together_total", "Commands that were not allowed and got no entry of "+
		"their own: too many, or no room. One entry a minute says how many.")),
		func() float64 { return float64(d.service.Recorder.RefusedTogether()) }))
	m.reloaded(true, time.Now())
	m.verification(nil)
	add(prometheus.NewGaugeFunc(opts("ledger_size", "Entries in the ledger."), func() float64 { return float64(d.ledger.Size()) }))
	free := func(name, path string) {
		add(prometheus.NewGaugeFunc(opts(name, "Room that is left on the disk of "+path+", in bytes."), func() float64 {
			free, err := disk.Free(path)
			if err != nil {
				return math.NaN()
			}
			return float64(free)
		}))
	}
	free("ledger_free_bytes", d.cfg.Ledger.Path)
	if d.cfg.Sessions.Path != "" {
		free("sessions_free_bytes", d.cfg.Sessions.Path)
	}
	add(prometheus.NewGaugeFunc(opts("can_take_requests", "1 if requests, approvals and claims are not refused for everybody, as with a "+
		"clock that is behind the ledger, or a full disk."),
		func() float64 { return up(d.service.Recorder.CannotTake()) }))
	add(prometheus.NewGaugeFunc(opts("ledger_checkpoint_age_seconds", "Age of the last entry; a heartbeat makes one every ten minutes."),
		func() float64 { return time.Since(d.ledger.LastTime()).Seconds() }))
	add(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "breakglass", Name: "build_info", Help: "Always 1.",
		ConstLabels: prometheus.Labels{"version": version()}},
		func() float64 { return 1 }))
	add(collectors.NewGoCollector())
	add(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
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
	now := 0.0
	if ok {
		now = 1
	}
	m.alive.WithLabelValues(cluster, server).Set(now)
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
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "breakglass", Name: "audit_events_total",
			Help:        "Audit events that API servers sent, by what became of them; all counts those of everybody.",
			ConstLabels: prometheus.Labels{"outcome": outcome}}, func() float64 { return float64(n(figures())) }))
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
	m.reloadOK.Set(0)
	if ok {
		m.reloadOK.Set(1)
	}
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
