package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/breakglassd/breakglass/cmd/breakglassd/process"
	"github.com/breakglassd/breakglass/internal/cacheck"
	"github.com/breakglassd/breakglass/internal/finding"
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
		process.Notify("WATCHDOG=1")
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
// Vault no certificate is issued, but revocations and the deny webhook work, and a load balancer must not stop sending them.
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
			d.metrics.ending.WithLabelValues(c.ID).Set(one(soon))
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
