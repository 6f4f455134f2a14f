// Package cacheck checks the CAs of every cluster, on schedule and on an operator's word: it has rotation look and judge, records the
// run and each finding, and remembers what later checks need. What an adapter must do is a function in Config.
package cacheck

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/rotation"
	"github.com/breakglassd/breakglass/internal/text"
)

// CheckCA is the check of the CAs of a cluster and of its rotation.
const CheckCA = "ca"

// caCheckTime bounds one check of one cluster: handshakes, canaries and what is read from Vault and the API servers.
const caCheckTime = 60 * time.Second

// Cluster is one cluster whose CAs are checked.
type Cluster struct {
	ID    string
	Vault rotation.CertificateAuthority
	View  rotation.Viewer
	Plan  rotation.PlanOptions // for this cluster; Target is set for each plan
}

// Config is what Checks work with. The functions may be called concurrently.
type Config struct {
	Service  *breakglass.Service
	Marks    Marks
	Clusters []Cluster
	// Greet shows a canary to the address that people's kubeconfigs get. Nil: that address is not checked.
	Greet func(ctx context.Context, cluster, server string, canary tls.Certificate, commonName string) rotation.Greeting
	// Names asks that address whether it names the CA that signs, without a canary.
	Names func(ctx context.Context, cluster, server string) (Address, error)
	// Measure gets every report.
	Measure func(rotation.Report)
	Log     *slog.Logger
}

// Marks keeps a small text by its name. A ledger does.
type Marks interface {
	Bookmark(ctx context.Context, name string) ([]byte, error)
	SetBookmark(ctx context.Context, name string, text []byte) error
}

// Address is what answers at the address that people's kubeconfigs get.
type Address struct {
	Names bool   // it names a CA with the subject of ours
	Wrong string // why it cannot be an API server of the cluster; empty when it may be one
	Err   error  // why it is not known
}

// Checks checks the CAs of every cluster and reports what it finds. Its methods may be called concurrently.
type Checks struct {
	cfg      Config
	checkers map[string]*rotation.Checker

	mu   sync.Mutex // guards last
	last map[string]rotation.Report

	running sync.Map // cluster → *sync.Mutex: one check of a cluster at a time
}

// New prepares the checks. It talks to no other system.
func New(cfg Config) *Checks {
	c := &Checks{cfg: cfg, checkers: map[string]*rotation.Checker{}, last: map[string]rotation.Report{}}
	for _, cl := range cfg.Clusters {
		c.checkers[cl.ID] = &rotation.Checker{Cluster: cl.ID, Vault: cl.Vault, View: cl.View, Known: c.known, Ordered: c.ordered,
			Done: c.done, People: c.greetAsPeople(cl.ID)}
	}
	return c
}

// nonce is the part of a canary's name by which its stream in the ledger is called.
func nonce(commonName string) string {
	return commonName[strings.LastIndexByte(commonName, ':')+1:]
}

func (c *Checks) ordered(ctx context.Context, o rotation.Canary) error {
	return c.cfg.Service.OrderCanary(ctx, nonce(o.CommonName), breakglass.CanaryOrdered{Cluster: o.Cluster, CommonName: o.CommonName,
		SPKI: o.SPKI, Issuer: o.Issuer})
}

func (c *Checks) done(ctx context.Context, o rotation.Canary, s rotation.Signing, answers map[string]rotation.Greeting) error {
	ev := breakglass.CanaryDone{Fingerprint: s.Fingerprint, NotAfter: s.NotAfter, Problem: s.Error, Accepted: []string{}, Refused: []string{}}
	for _, server := range slices.Sorted(maps.Keys(answers)) {
		if answers[server].Outcome == rotation.OutcomeAccepted {
			ev.Accepted = append(ev.Accepted, server)
		} else {
			ev.Refused = append(ev.Refused, server)
		}
	}
	// What was signed is on record also when the time for the check is over.
	return c.cfg.Service.FinishCanary(context.WithoutCancel(ctx), nonce(o.CommonName), ev)
}

// known is what the ledger says of the certificates for people that an issuer signed. Those of requests older than two days have
// ended: no lifetime is longer than a day.
func (c *Checks) known(ctx context.Context, clusterID string) (rotation.Known, error) {
	k := rotation.Known{SwitchSeen: map[string]time.Time{}}
	recent, err := c.cfg.Service.Since(ctx, 2)
	if err != nil {
		return k, err
	}
	k.LastIssuedUnder, k.UnknownIssuerUntil = lastIssued(recent, clusterID, time.Now().UTC())
	mark, err := c.cfg.Marks.Bookmark(ctx, switchKey(clusterID))
	if err == nil && mark != nil {
		err = json.Unmarshal(mark, &k.SwitchSeen)
	}
	return k, err
}

// lastIssued says until when the last certificate is good that each issuer signed for people in a cluster, by the fingerprint of the
// issuer's certificate; and the same for certificates that any issuer may have signed. It asks no other system: what Vault does not tell
// just now must not look like an issuer that signed nothing.
func lastIssued(requests []*breakglass.Request, clusterID string, now time.Time) (under map[string]time.Time, unknown time.Time) {
	under = map[string]time.Time{}
	anyIssuer := func(until time.Time) {
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
			anyIssuer(r.Issued.NotAfter)
		case r.Failed != nil:
			for _, der := range r.Failed.Orphans {
				if cert, err := x509.ParseCertificate(der); err == nil {
					anyIssuer(cert.NotAfter)
				} else {
					anyIssuer(r.FailedAt.Add(r.TTL()))
				}
			}
		case r.Claimed != nil: // its outcome is open
			anyIssuer(now.Add(r.TTL()))
		}
	}
	return under, unknown
}

func switchKey(clusterID string) string { return "ca/switched/" + clusterID }

// noteSwitch remembers since when the roles are seen to sign under an issuer.
func (c *Checks) noteSwitch(ctx context.Context, r rotation.Report) error {
	active, ok := r.Generation(rotation.PositionActive)
	if !ok {
		return nil
	}
	seen := map[string]time.Time{}
	mark, err := c.cfg.Marks.Bookmark(ctx, switchKey(r.Cluster))
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
	return c.cfg.Marks.SetBookmark(ctx, switchKey(r.Cluster), mark)
}

// check checks one cluster and records what it found. checked says whether it came to its end: then r is the report, and an error
// says that not all of it could be recorded. With whole it runs to its end once it has begun, also if ctx ends: half a check says
// nothing. A caller that has gone before its turn gets none: callers that left must not be a queue.
func (c *Checks) check(ctx context.Context, clusterID string, by *record.Actor, due time.Time, whole bool) (r rotation.Report,
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
		return r, true, nil // no operator ordered one: the report that another caller waited for will do
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
	// The caller has gone, or the daemon stops: what then looks unreachable may be well, and none of it is said.
	if err := ctx.Err(); err != nil {
		return rotation.Report{}, false, fmt.Errorf("the check of the CAs of %s was stopped before its end, and nothing of it is recorded: %w",
			clusterID, err)
	}
	// What was found is recorded also when the time for the check is over.
	err = errors.Join(c.record(context.WithoutCancel(ctx), r, by, due), c.people(context.WithoutCancel(bounded), clusterID, r.People))
	c.mu.Lock()
	c.last[clusterID] = r
	c.mu.Unlock()
	if c.cfg.Measure != nil {
		c.cfg.Measure(r)
	}
	return r, true, err
}

// checkPeople is the check of the address that people's kubeconfigs get.
const checkPeople = "people-address"

// greetAsPeople shows a canary of a cluster to the address that the access policy in force gives to people.
func (c *Checks) greetAsPeople(clusterID string) func(context.Context, tls.Certificate, string) (rotation.Greeting, bool) {
	return func(ctx context.Context, canary tls.Certificate, commonName string) (rotation.Greeting, bool) {
		cl, ok := c.cfg.Service.Policy().Cluster(clusterID)
		if !ok || c.cfg.Greet == nil {
			return rotation.Greeting{}, false
		}
		return c.cfg.Greet(ctx, clusterID, cl.Server, canary, commonName), true
	}
}

// people records whether certificates arrive at the address that people get. The canary decides. Where none could be shown, what the
// handshake there shows can be a finding and never the end of one; where that fails as well, nothing is said that was not said before.
func (c *Checks) people(ctx context.Context, clusterID string, canary rotation.PeopleTrust) error {
	if c.cfg.Greet == nil || c.cfg.Names == nil {
		return nil // checks of the CAs alone
	}
	cl, ok := c.cfg.Service.Policy().Cluster(clusterID)
	if !ok {
		return c.cfg.Service.Findings.ReportAll(ctx, checkPeople, clusterID, true, nil)
	}
	find := func(what string) []finding.Opened {
		return []finding.Opened{{Key: checkPeople + "/" + clusterID, Check: checkPeople, Cluster: clusterID,
			Severity: finding.Critical, What: what,
			Next: "breakglassd doctor tries the address again, and `breakglass ca check` shows it a canary"}}
	}
	switch canary.Arrives {
	case rotation.Yes:
		return c.cfg.Service.Findings.ReportAll(ctx, checkPeople, clusterID, true, nil)
	case rotation.No:
		return c.cfg.Service.Findings.ReportAll(ctx, checkPeople, clusterID, true, find("the address that people get, "+cl.Server+
			", does not let our "+
			"certificates through: a canary was shown there, and "+canary.Why+". "+ThroughToAPIServers))
	case rotation.CannotTell:
	}
	at, err := c.cfg.Names(ctx, clusterID, cl.Server)
	if err == nil && at.Wrong != "" {
		return c.cfg.Service.Findings.ReportAll(ctx, checkPeople, clusterID, true, find(WrongAtPeoplesAddress(cl.Server, at.Wrong)))
	}
	if err != nil || at.Err != nil {
		c.cfg.Log.WarnContext(ctx, "the address that people get could not be tried", slog.String("cluster", clusterID),
			slog.Any("error", errors.Join(err, at.Err)))
		return nil
	}
	if !at.Names {
		return c.cfg.Service.Findings.ReportAll(ctx, checkPeople, clusterID, true, find(NotAtPeoplesAddress(cl.Server)))
	}
	return nil
}

// record records a report: the run, and each finding that is new or over.
func (c *Checks) record(ctx context.Context, r rotation.Report, by *record.Actor, due time.Time) error {
	body, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("writing the report on the CAs of %s: %w", r.Cluster, err)
	}
	run := finding.CheckRun{Check: CheckCA, Cluster: r.Cluster, By: by, Due: due, OK: r.OK, Verdict: string(r.Phase) + ": " + r.Why,
		Digest: text.SHA256(body)}
	var open []finding.Opened
	for _, f := range r.Verdicts {
		if f.Severity == rotation.Info {
			continue
		}
		what := f.What
		if f.Where != "" {
			what += " (" + f.Where + ")"
		}
		x := finding.Opened{Key: CheckCA + "/" + r.Cluster + "/" + f.Key, Check: CheckCA, Cluster: r.Cluster,
			Severity: finding.Severity(f.Severity), What: what, Next: f.Next}
		open = append(open, x)
		run.Findings = append(run.Findings, x.Key)
	}
	return errors.Join(c.cfg.Service.Findings.RecordCheck(ctx, run), c.noteSwitch(ctx, r),
		c.cfg.Service.Findings.ReportAll(ctx, CheckCA, r.Cluster, r.Complete,
			open))
}

// now checks one cluster for a caller that waits. It answers with the report also if not all of it could be recorded, such as too many
// findings at once: then the caller needs it most.
func (c *Checks) now(ctx context.Context, clusterID string, by *record.Actor) (rotation.Report, error) {
	r, checked, err := c.check(ctx, clusterID, by, time.Time{}, true)
	if checked && err != nil {
		c.cfg.Log.ErrorContext(ctx, "what a check of the CAs found could not all be recorded", slog.String("cluster", clusterID),
			slog.Any("error", err))
		return r, nil
	}
	return r, err
}

// checksAtOnce bounds the clusters that are checked at once, so that one that hangs keeps few others waiting.
const checksAtOnce = 8

// Job checks every cluster: the job of the schedule.
func (c *Checks) Job(ctx context.Context, due time.Time) error {
	errs := make([]error, len(c.cfg.Clusters))
	var wg sync.WaitGroup
	places := make(chan struct{}, checksAtOnce)
	for i, cl := range c.cfg.Clusters {
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

// First checks every cluster once, soon after the start. One that an operator had checked by then is not checked again.
func (c *Checks) First(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(firstCheck):
	}
	if err := c.Job(ctx, time.Time{}); err != nil && ctx.Err() == nil {
		c.cfg.Log.WarnContext(ctx, "checking the CAs after the start", slog.Any("error", err))
	}
	return nil
}

// report is the last report on a cluster, if there is one.
func (c *Checks) report(clusterID string) (rotation.Report, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.last[clusterID]
	return r, ok
}

// Status implements api.Authorities: the last report, or a fresh one before the first.
func (c *Checks) Status(ctx context.Context, clusterID string) (rotation.Report, error) {
	if r, ok := c.report(clusterID); ok {
		return r, nil
	}
	return c.now(ctx, clusterID, nil)
}

// Check implements api.Authorities.
func (c *Checks) Check(ctx context.Context, by record.Actor, clusterID string) (rotation.Report, error) {
	if err := c.cfg.Service.MayOperate(ctx, by, clusterID, "ca-check"); err != nil {
		return rotation.Report{}, err
	}
	return c.now(ctx, clusterID, &by)
}

// Plan implements api.Authorities: it checks first, because a plan is good for what is there now.
func (c *Checks) Plan(ctx context.Context, by record.Actor, clusterID string, target string) (rotation.Plan, error) {
	r, err := c.Check(ctx, by, clusterID)
	if err != nil {
		return rotation.Plan{}, err
	}
	i := slices.IndexFunc(c.cfg.Clusters, func(cl Cluster) bool { return cl.ID == clusterID })
	o := c.cfg.Clusters[i].Plan
	o.Target = rotation.Phase(target)
	return rotation.MakePlan(r, o), nil
}

// NotAtPeoplesAddress says that certificates do not arrive at the address that people get.
func NotAtPeoplesAddress(server string) string {
	return "the address that people get, " + server + ", does not ask for certificates of our CA: something in between ends TLS (a proxy, a " +
		"load balancer), or " +
		"it is another cluster. " + ThroughToAPIServers
}

// ThroughToAPIServers says what to do about it.
const ThroughToAPIServers = "Certificates that people are issued would not work there: let the connection through to the API servers " +
	"(TLS must end there), or correct the server in the access policy"

// WrongAtPeoplesAddress says that what answers there cannot be an API server of the cluster.
func WrongAtPeoplesAddress(server, wrong string) string {
	return "what answers at the address that people get, " + server + ", " + wrong + ". kubectl would refuse it: correct the server in the " +
		"access policy, or ca_file or people_tls_server_name in the configuration"
}
