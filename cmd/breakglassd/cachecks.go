package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/rotation"
	"github.com/breakglassd/breakglass/internal/vaultca"
)

// checkCA is the check of the CAs of a cluster and of its rotation.
const checkCA = "ca"

// caCheckTime bounds one check of one cluster: handshakes, canaries and what is read from Vault and the API servers.
const caCheckTime = 60 * time.Second

// caChecks checks the CAs of every cluster, on schedule and on a person's word, and tells of what it finds. It is an api.Authorities.
type caChecks struct {
	log      *slog.Logger
	service  *breakglass.Service
	ledger   *ledger.Ledger
	ca       *vaultca.CA
	clusters []Cluster
	checkers map[string]*rotation.Checker
	gauges   map[string]*prometheus.GaugeVec

	mu   sync.Mutex // guards last
	last map[string]rotation.Report

	running sync.Map // cluster → *sync.Mutex: one check of a cluster at a time
}

// openCAChecks prepares the checks. It talks to nobody.
func openCAChecks(cfg *Config, d *daemon) (*caChecks, error) {
	c := &caChecks{log: d.log, service: d.service, ledger: d.ledger, ca: d.ca, clusters: cfg.Clusters, checkers: map[string]*rotation.Checker{}, gauges: map[string]*prometheus.GaugeVec{}, last: map[string]rotation.Report{}}
	for name, labels := range rotation.MetricLabels {
		c.gauges[name] = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: "See deploy/prometheus/ca.rules.yaml."}, labels)
		d.metrics.registry.MustRegister(c.gauges[name])
	}
	for _, cl := range cfg.Clusters {
		servers, err := d.clusters.Servers(cl.ID)
		if err != nil {
			return nil, err
		}
		x := cl.CAChecks
		o := cluster.ObserveConfig{Cluster: cl.ID, Rest: servers[0].Config, ServerName: servers[0].Config.ServerName, CA: d.clusters.CA(cl.ID), Kubelets: x.Kubelets, Etcd: x.Etcd,
			EtcdCAFiles: x.EtcdCAFiles, KubeletCAFiles: x.KubeletCAFiles, Kubeconfigs: append([]string{cl.KubeconfigFile}, x.KubeconfigFiles...), KnownClientCAs: x.ClientCAFiles}
		if x.BundleFile != "" {
			o.Bundles = map[string]string{"": x.BundleFile}
		}
		for _, s := range servers {
			at, err := hostPort(s.Address)
			if err != nil {
				return nil, err
			}
			o.Servers = append(o.Servers, at)
		}
		observer, err := cluster.NewObserver(o)
		if err != nil {
			return nil, err
		}
		c.checkers[cl.ID] = &rotation.Checker{Cluster: cl.ID, Vault: d.ca, View: observer, Known: c.known, Ordered: c.ordered, Done: c.done}
	}
	return c, nil
}

// hostPort is the host and port of an https address.
func hostPort(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", fmt.Errorf("reading the address of an API server: %w", err)
	}
	if u.Port() == "" {
		return net.JoinHostPort(u.Hostname(), "443"), nil
	}
	return u.Host, nil
}

// nonce is the part of a canary's name by which its stream in the ledger is called.
func nonce(commonName string) string {
	return commonName[strings.LastIndexByte(commonName, ':')+1:]
}

func (c *caChecks) ordered(ctx context.Context, o rotation.Canary) error {
	return c.service.OrderCanary(ctx, nonce(o.CommonName), breakglass.CanaryOrdered{Cluster: o.Cluster, CommonName: o.CommonName, SPKI: o.SPKI, Issuer: o.Issuer})
}

func (c *caChecks) done(ctx context.Context, o rotation.Canary, s rotation.Signing, answers map[string]rotation.Greeting) error {
	ev := breakglass.CanaryDone{Fingerprint: s.Fingerprint, NotAfter: s.NotAfter, Problem: s.Error, Accepted: []string{}, Refused: []string{}}
	for _, server := range slices.Sorted(maps.Keys(answers)) {
		if answers[server].Outcome == rotation.OutcomeAccepted {
			ev.Accepted = append(ev.Accepted, server)
		} else {
			ev.Refused = append(ev.Refused, server)
		}
	}
	// What was signed is on record also when the time for the check is over.
	return c.service.FinishCanary(context.WithoutCancel(ctx), nonce(o.CommonName), ev)
}

// known is what the ledger tells of the certificates for people that an issuer signed: until when the last one is good. Those of
// requests older than two days have ended: no lifetime is longer than a day.
func (c *caChecks) known(ctx context.Context, clusterID string) (rotation.Known, error) {
	k := rotation.Known{LastIssuedUnder: map[string]time.Time{}, SwitchSeen: map[string]time.Time{}}
	ids := map[string]string{} // fingerprint of an issuer's certificate → id
	for _, i := range c.ca.ObserveVault(ctx, clusterID).Issuers {
		ids[breakglass.Fingerprint(i.Certificate)] = i.ID
	}
	until := func(id string, at time.Time) {
		if id != "" && at.After(k.LastIssuedUnder[id]) {
			k.LastIssuedUnder[id] = at
		}
	}
	recent, err := c.service.Since(ctx, 2)
	if err != nil {
		return k, err
	}
	now := time.Now().UTC()
	for _, r := range recent {
		if r.Ask.Cluster != clusterID {
			continue
		}
		switch {
		case r.Issued != nil:
			until(ids[r.Issued.Issuer], r.Issued.NotAfter)
		case r.Failed != nil:
			for _, der := range r.Failed.Orphans {
				cert, err := x509.ParseCertificate(der)
				for _, id := range ids { // whichever signed it
					if err != nil {
						until(id, r.FailedAt.Add(r.TTL()))
					} else {
						until(id, cert.NotAfter)
					}
				}
			}
		case r.Claimed != nil: // its outcome is open
			for _, id := range ids {
				until(id, now.Add(r.TTL()))
			}
		}
	}
	mark, err := c.ledger.Bookmark(ctx, switchKey(clusterID))
	if err == nil && mark != nil {
		err = json.Unmarshal(mark, &k.SwitchSeen)
	}
	return k, err
}

func switchKey(clusterID string) string { return "ca/switched/" + clusterID }

// noteSwitch remembers since when the roles are seen to sign under an issuer.
func (c *caChecks) noteSwitch(ctx context.Context, r rotation.Report) error {
	active, ok := r.Generation(rotation.PositionActive)
	if !ok {
		return nil
	}
	seen := map[string]time.Time{}
	mark, err := c.ledger.Bookmark(ctx, switchKey(r.Cluster))
	if err != nil {
		return err
	}
	if mark != nil {
		if err := json.Unmarshal(mark, &seen); err != nil {
			return fmt.Errorf("reading since when issuers sign in %s: %w", r.Cluster, err)
		}
	}
	if _, known := seen[active.ID]; known {
		return nil
	}
	seen[active.ID] = r.At
	if mark, err = json.Marshal(seen); err != nil {
		return err
	}
	return c.ledger.SetBookmark(ctx, switchKey(r.Cluster), mark)
}

// check checks one cluster and records what it found: the run, each finding that is new or over, and the metrics.
func (c *caChecks) check(ctx context.Context, clusterID string, by *breakglass.Actor, due time.Time) (rotation.Report, error) {
	checker := c.checkers[clusterID]
	if checker == nil {
		return rotation.Report{}, breakglass.NoSuchCluster(clusterID)
	}
	v, _ := c.running.LoadOrStore(clusterID, &sync.Mutex{})
	one := v.(*sync.Mutex)
	one.Lock()
	defer one.Unlock()
	ctx, cancel := context.WithTimeout(ctx, caCheckTime)
	defer cancel()
	r := checker.Check(ctx)
	wctx := context.WithoutCancel(ctx) // what was found is recorded also when the time is over
	body, err := json.Marshal(r)
	if err != nil {
		return r, err
	}
	sum := sha256.Sum256(body)
	run := breakglass.CheckRun{Check: checkCA, Cluster: clusterID, By: by, Due: due, OK: r.OK, Verdict: string(r.Phase) + ": " + r.Why, Digest: hex.EncodeToString(sum[:])}
	var open []breakglass.FindingOpened
	for _, f := range r.Findings {
		if f.Severity == rotation.Info {
			continue
		}
		what := f.What
		if f.Where != "" {
			what += " (" + f.Where + ")"
		}
		x := breakglass.FindingOpened{Key: checkCA + "/" + clusterID + "/" + f.Key, Check: checkCA, Cluster: clusterID, Severity: breakglass.Severity(f.Severity), What: what, Next: f.Next}
		open = append(open, x)
		run.Findings = append(run.Findings, x.Key)
	}
	err = errors.Join(c.service.RecordCheck(wctx, run), c.noteSwitch(wctx, r), c.service.Settle(wctx, checkCA, clusterID, r.Complete, open))
	c.mu.Lock()
	c.last[clusterID] = r
	c.mu.Unlock()
	c.measure(r)
	return r, err
}

// measure sets the gauges of a cluster.
func (c *caChecks) measure(r rotation.Report) {
	for name, g := range c.gauges {
		if name != rotation.MetricLastSuccess {
			g.DeletePartialMatch(prometheus.Labels{"cluster": r.Cluster})
		}
	}
	for _, s := range rotation.Metrics(r) {
		values := make([]string, len(s.Labels))
		for i, l := range s.Labels {
			values[i] = l.Value
		}
		c.gauges[s.Name].WithLabelValues(values...).Set(s.Value)
	}
}

// job checks every cluster: the job of the schedule.
func (c *caChecks) job(ctx context.Context, due time.Time) error {
	var errs []error
	for _, cl := range c.clusters {
		if _, err := c.check(ctx, cl.ID, nil, due); err != nil {
			errs = append(errs, fmt.Errorf("checking the CAs of %s: %w", cl.ID, err))
		}
	}
	return errors.Join(errs...)
}

// Status implements api.Authorities: the last report, or a fresh one when there is none yet.
func (c *caChecks) Status(ctx context.Context, clusterID string) (rotation.Report, error) {
	c.mu.Lock()
	r, ok := c.last[clusterID]
	c.mu.Unlock()
	if ok {
		return r, nil
	}
	return c.check(ctx, clusterID, nil, time.Time{})
}

// Check implements api.Authorities.
func (c *caChecks) Check(ctx context.Context, by breakglass.Actor, clusterID string) (rotation.Report, error) {
	if err := c.service.MayOperate(ctx, by, clusterID, "ca-check"); err != nil {
		return rotation.Report{}, err
	}
	return c.check(ctx, clusterID, &by, time.Time{})
}

// Plan implements api.Authorities: it checks first, because a plan is good for what is there now.
func (c *caChecks) Plan(ctx context.Context, by breakglass.Actor, clusterID string, target string) (rotation.Plan, error) {
	r, err := c.Check(ctx, by, clusterID)
	if err != nil {
		return rotation.Plan{}, err
	}
	return rotation.MakePlan(r, rotation.PlanOptions{Target: rotation.Phase(target)}), nil
}
