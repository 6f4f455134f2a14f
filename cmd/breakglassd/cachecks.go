package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
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
	"k8s.io/client-go/rest"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/rotation"
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
	clusters []Cluster
	kube     *cluster.Clusters
	issuer   func(ctx context.Context, cluster string) (*x509.Certificate, error)
	checkers map[string]*rotation.Checker
	gauges   map[string]*prometheus.GaugeVec

	mu   sync.Mutex // guards last
	last map[string]rotation.Report

	running sync.Map // cluster → *sync.Mutex: one check of a cluster at a time
}

// openCAChecks prepares the checks. It talks to nobody.
func openCAChecks(cfg *Config, d *daemon) (*caChecks, error) {
	c := &caChecks{log: d.log, service: d.service, ledger: d.ledger, clusters: cfg.Clusters, kube: d.clusters, issuer: d.ca.Issuer,
		checkers: map[string]*rotation.Checker{}, gauges: map[string]*prometheus.GaugeVec{}, last: map[string]rotation.Report{}}
	for name, labels := range rotation.MetricLabels {
		c.gauges[name] = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: "See deploy/prometheus/ca.rules.yaml."}, labels)
		d.metrics.registry.MustRegister(c.gauges[name])
	}
	for _, cl := range cfg.Clusters {
		servers, err := d.clusters.Servers(cl.ID)
		if err != nil {
			return nil, err
		}
		o, err := observeConfig(cl, servers)
		if err != nil {
			return nil, err
		}
		observer, err := cluster.NewObserver(o)
		if err != nil {
			return nil, err
		}
		c.checkers[cl.ID] = &rotation.Checker{Cluster: cl.ID, Vault: d.ca, View: observer, Known: c.known, Ordered: c.ordered, Done: c.done,
			People: c.greetAsPeople(cl.ID)}
	}
	return c, nil
}

// observeConfig says what the checks of a cluster look at.
func observeConfig(cl Cluster, servers []cluster.Server) (cluster.ObserveConfig, error) {
	x, own := cl.CAChecks, servers[0].Config
	o := cluster.ObserveConfig{Cluster: cl.ID, Rest: own, ServerName: own.ServerName, Kubelets: x.Kubelets, Etcd: x.Etcd,
		EtcdCAFiles: x.EtcdCAFiles, KubeletCAFiles: x.KubeletCAFiles, Kubeconfigs: append([]string{cl.KubeconfigFile}, x.KubeconfigFiles...),
		KnownClientCAs: x.ClientCAFiles,
		Bundles:        map[string]string{}}
	// The CA of the daemon's own way to the cluster: people's (ca_file) may be for another address.
	loaded := rest.CopyConfig(own)
	if err := rest.LoadTLSFiles(loaded); err != nil {
		return o, fmt.Errorf("checks of the CAs of cluster %s: reading the files named in %s: %w", cl.ID, cl.KubeconfigFile, err)
	}
	o.CA = loaded.CAData
	for _, s := range servers {
		at, err := hostPort(s.Address)
		if err != nil {
			return o, err
		}
		o.Servers = append(o.Servers, at)
	}
	if x.BundleFile != "" {
		o.Bundles[""] = x.BundleFile
	}
	for _, b := range x.BundleFiles {
		at, err := hostPort(b.APIServer)
		if err != nil {
			return o, err
		}
		o.Bundles[at] = b.File
	}
	return o, nil
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
	return c.service.OrderCanary(ctx, nonce(o.CommonName), breakglass.CanaryOrdered{Cluster: o.Cluster, CommonName: o.CommonName,
		SPKI: o.SPKI, Issuer: o.Issuer})
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

// known is what the ledger tells of the certificates for people that an issuer signed. Those of requests older than two days have
// ended: no lifetime is longer than a day.
func (c *caChecks) known(ctx context.Context, clusterID string) (rotation.Known, error) {
	k := rotation.Known{SwitchSeen: map[string]time.Time{}}
	recent, err := c.service.Since(ctx, 2)
	if err != nil {
		return k, err
	}
	k.LastIssuedUnder, k.UnknownIssuerUntil = lastIssued(recent, clusterID, time.Now().UTC())
	mark, err := c.ledger.Bookmark(ctx, switchKey(clusterID))
	if err == nil && mark != nil {
		err = json.Unmarshal(mark, &k.SwitchSeen)
	}
	return k, err
}

// lastIssued says until when the last certificate is good that each issuer signed for people in a cluster, by the fingerprint of the
// issuer's certificate; and the same for certificates that any issuer may have signed. It asks nobody: what Vault does not tell just
// now must not look like an issuer that signed nothing.
func lastIssued(requests []*breakglass.Request, clusterID string, now time.Time) (under map[string]time.Time, unknown time.Time) {
	under = map[string]time.Time{}
	anybody := func(until time.Time) {
		if until.After(unknown) {
			unknown = until
		}
	}
	for _, r := range requests {
		if r.Ask.Cluster != clusterID {
			continue
		}
		switch {
		case r.Issued != nil && r.Issued.Issuer != "":
			if r.Issued.NotAfter.After(under[r.Issued.Issuer]) {
				under[r.Issued.Issuer] = r.Issued.NotAfter
			}
		case r.Issued != nil:
			anybody(r.Issued.NotAfter)
		case r.Failed != nil:
			for _, der := range r.Failed.Orphans {
				if cert, err := x509.ParseCertificate(der); err == nil {
					anybody(cert.NotAfter)
				} else {
					anybody(r.FailedAt.Add(r.TTL()))
				}
			}
		case r.Claimed != nil: // its outcome is open
			anybody(now.Add(r.TTL()))
		}
	}
	return under, unknown
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

// check checks one cluster and records what it found. checked says whether it came to its end: then r is the report, and an error
// says that not all of it could be recorded. With whole it runs to its end once it has begun, also if ctx ends: half a check says
// nothing. Whoever has gone before their turn gets none, so that those who wait for it are no queue.
func (c *caChecks) check(ctx context.Context, clusterID string, by *breakglass.Actor, due time.Time, whole bool) (r rotation.Report,
	checked bool, err error) {
	checker := c.checkers[clusterID]
	if checker == nil {
		return r, false, breakglass.NoSuchCluster(clusterID)
	}
	v, _ := c.running.LoadOrStore(clusterID, &sync.Mutex{})
	one := v.(*sync.Mutex)
	one.Lock()
	defer one.Unlock()
	if r, ok := c.report(clusterID); ok && by == nil && due.IsZero() {
		return r, true, nil // nobody ordered one: the report that somebody else waited for will do
	}
	if err := ctx.Err(); err != nil {
		return r, false, fmt.Errorf("the check of the CAs of %s was not begun: %w", clusterID, err)
	}
	if whole {
		ctx = context.WithoutCancel(ctx)
	}
	bounded, cancel := context.WithTimeout(ctx, caCheckTime)
	defer cancel()
	r = checker.Check(bounded)
	// Whoever wanted the check has gone, or the daemon stops: what then looks unreachable may be well, and none of it is said.
	if err := ctx.Err(); err != nil {
		return rotation.Report{}, false, fmt.Errorf("the check of the CAs of %s was stopped before its end, and nothing of it is recorded: %w",
			clusterID, err)
	}
	// What was found is recorded also when the time for the check is over.
	err = errors.Join(c.record(context.WithoutCancel(ctx), r, by, due), c.people(context.WithoutCancel(bounded), clusterID, r.People))
	c.mu.Lock()
	c.last[clusterID] = r
	c.mu.Unlock()
	c.measure(r)
	return r, true, err
}

// checkPeople is the check of the address that people's kubeconfigs get.
const checkPeople = "people-address"

// greetAsPeople shows a canary of a cluster to the address that the access policy in force gives to people.
func (c *caChecks) greetAsPeople(clusterID string) func(context.Context, tls.Certificate, string) (rotation.Greeting, bool) {
	return func(ctx context.Context, canary tls.Certificate, commonName string) (rotation.Greeting, bool) {
		cl, ok := c.service.Policy().Cluster(clusterID)
		if !ok || c.kube == nil {
			return rotation.Greeting{}, false
		}
		return c.kube.GreetAsPeople(ctx, clusterID, cl.Server, canary, commonName), true
	}
}

// people records whether certificates arrive at the address that people get. The canary decides. Where none could be shown, what the
// handshake there shows can be a finding and never the end of one; where that fails as well, nothing is said that was not said before.
func (c *caChecks) people(ctx context.Context, clusterID string, canary rotation.PeopleTrust) error {
	if c.kube == nil || c.issuer == nil {
		return nil // checks of the CAs alone
	}
	cl, ok := c.service.Policy().Cluster(clusterID)
	if !ok {
		return c.service.Settle(ctx, checkPeople, clusterID, true, nil)
	}
	find := func(what string) []breakglass.FindingOpened {
		return []breakglass.FindingOpened{{Key: checkPeople + "/" + clusterID, Check: checkPeople, Cluster: clusterID,
			Severity: breakglass.SeverityCritical, What: what,
			Next: "breakglassd doctor tries the address again, and `breakglass ca check` shows it a canary"}}
	}
	switch canary.Arrives {
	case rotation.Yes:
		return c.service.Settle(ctx, checkPeople, clusterID, true, nil)
	case rotation.No:
		return c.service.Settle(ctx, checkPeople, clusterID, true, find("the address that people get, "+cl.Server+", does not let our "+
			"certificates through: a canary was shown there, and "+canary.Why+". "+throughToAPIServers))
	case rotation.CannotTell:
	}
	issuer, err := c.issuer(ctx, clusterID)
	if err != nil {
		return nil // the check of the CAs has said so
	}
	at, err := c.kube.PeopleAddress(ctx, clusterID, cl.Server, issuer)
	if err == nil && at.Wrong != "" {
		return c.service.Settle(ctx, checkPeople, clusterID, true, find(wrongAtPeoplesAddress(cl.Server, at.Wrong)))
	}
	if err != nil || at.Err != nil {
		c.log.WarnContext(ctx, "the address that people get could not be tried", slog.String("cluster", clusterID),
			slog.Any("error", errors.Join(err, at.Err)))
		return nil
	}
	if !at.Names {
		return c.service.Settle(ctx, checkPeople, clusterID, true, find(notAtPeoplesAddress(cl.Server)))
	}
	return nil
}

// record records a report: the run, and each finding that is new or over.
func (c *caChecks) record(ctx context.Context, r rotation.Report, by *breakglass.Actor, due time.Time) error {
	body, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("writing the report on the CAs of %s: %w", r.Cluster, err)
	}
	sum := sha256.Sum256(body)
	run := breakglass.CheckRun{Check: checkCA, Cluster: r.Cluster, By: by, Due: due, OK: r.OK, Verdict: string(r.Phase) + ": " + r.Why,
		Digest: hex.EncodeToString(sum[:])}
	var open []breakglass.FindingOpened
	for _, f := range r.Findings {
		if f.Severity == rotation.Info {
			continue
		}
		what := f.What
		if f.Where != "" {
			what += " (" + f.Where + ")"
		}
		x := breakglass.FindingOpened{Key: checkCA + "/" + r.Cluster + "/" + f.Key, Check: checkCA, Cluster: r.Cluster,
			Severity: breakglass.Severity(f.Severity), What: what, Next: f.Next}
		open = append(open, x)
		run.Findings = append(run.Findings, x.Key)
	}
	return errors.Join(c.service.RecordCheck(ctx, run), c.noteSwitch(ctx, r), c.service.Settle(ctx, checkCA, r.Cluster, r.Complete, open))
}

// now checks one cluster for somebody who waits for the answer. They get the report also if not all of it could be recorded, such as too
// many findings at once: then they need it most.
func (c *caChecks) now(ctx context.Context, clusterID string, by *breakglass.Actor) (rotation.Report, error) {
	r, checked, err := c.check(ctx, clusterID, by, time.Time{}, true)
	if checked && err != nil {
		c.log.ErrorContext(ctx, "what a check of the CAs found could not all be recorded", slog.String("cluster", clusterID),
			slog.Any("error", err))
		return r, nil
	}
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

// checksAtOnce bounds the clusters that are checked at one time, so that one that hangs keeps few others waiting.
const checksAtOnce = 8

// job checks every cluster: the job of the schedule.
func (c *caChecks) job(ctx context.Context, due time.Time) error {
	errs := make([]error, len(c.clusters))
	var wg sync.WaitGroup
	places := make(chan struct{}, checksAtOnce)
	for i, cl := range c.clusters {
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			if ctx.Err() != nil {
				return
			}
			if _, _, err := c.check(ctx, cl.ID, nil, due, false); err != nil {
				errs[i] = fmt.Errorf("checking the CAs of %s: %w", cl.ID, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// firstCheck is when the clusters are checked after a start that missed no check of the schedule: soon, because until then nothing is
// known of them and no figure of theirs is there, and not before Vault and the clusters were asked for the first time.
const firstCheck = 15 * time.Second

// first checks every cluster once, soon after the start. One that was checked by then, because somebody asked, is not checked again.
func (c *caChecks) first(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(firstCheck):
	}
	if err := c.job(ctx, time.Time{}); err != nil && ctx.Err() == nil {
		c.log.WarnContext(ctx, "checking the CAs after the start", slog.Any("error", err))
	}
	return nil
}

// report is the last report on a cluster, if there is one.
func (c *caChecks) report(clusterID string) (rotation.Report, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.last[clusterID]
	return r, ok
}

// Status implements api.Authorities: the last report, or a fresh one when there is none yet.
func (c *caChecks) Status(ctx context.Context, clusterID string) (rotation.Report, error) {
	if r, ok := c.report(clusterID); ok {
		return r, nil
	}
	return c.now(ctx, clusterID, nil)
}

// Check implements api.Authorities.
func (c *caChecks) Check(ctx context.Context, by breakglass.Actor, clusterID string) (rotation.Report, error) {
	if err := c.service.MayOperate(ctx, by, clusterID, "ca-check"); err != nil {
		return rotation.Report{}, err
	}
	return c.now(ctx, clusterID, &by)
}

// planOptions says what the commands of a plan are made for.
func planOptions(cl Cluster, target string) rotation.PlanOptions {
	var copies []string
	if cl.CAChecks.BundleFile != "" {
		copies = append(copies, cl.CAChecks.BundleFile)
	}
	for _, b := range cl.CAChecks.BundleFiles {
		copies = append(copies, b.File)
	}
	return rotation.PlanOptions{Target: rotation.Phase(target), Copies: copies, Bundle: cl.CAChecks.NodeBundleFile,
		ClusterCA: cl.CAChecks.NodeClusterCAFile}
}

// Plan implements api.Authorities: it checks first, because a plan is good for what is there now.
func (c *caChecks) Plan(ctx context.Context, by breakglass.Actor, clusterID string, target string) (rotation.Plan, error) {
	r, err := c.Check(ctx, by, clusterID)
	if err != nil {
		return rotation.Plan{}, err
	}
	i := slices.IndexFunc(c.clusters, func(cl Cluster) bool { return cl.ID == clusterID })
	return rotation.MakePlan(r, planOptions(c.clusters[i], target)), nil
}
