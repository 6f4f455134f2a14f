// Package aftercare finds out what was done with a grant and what it left behind. It takes the audit events that API servers send,
// watches that they keep coming, and examines each grant that ended: the session report and the search for residue. It is the
// domain's Examiner; what it knows of a cluster comes through Cluster.
package aftercare

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/residue"
	"github.com/breakglassd/breakglass/internal/session"
	"github.com/breakglassd/breakglass/internal/session/store"
	"github.com/breakglassd/breakglass/internal/text"
)

// The times of the heartbeat: how often each API server is pinged, how long its audit batch may take (30 s is kube-apiserver's
// default for --audit-webhook-batch-max-wait), and what is left for everything else.
const (
	beatEvery  = 20 * time.Second
	beatBatch  = 30 * time.Second
	beatMargin = 10 * time.Second
	pruneEvery = 6 * time.Hour
	probeHooks = time.Minute     // how often each API server is asked whether it asks the deny webhook
	askTime    = 8 * time.Second // how long one round of heartbeats or questions to a cluster may take
)

// CheckAudit is the check that the audit streams are alive, and whether the deny webhook is asked.
const CheckAudit = "audit"

// maxLooks bounds the single objects that one sweep looks for.
const maxLooks = 200

// buildsAtOnce bounds the reports that are being made from events at one time: one may be of a session that was made to be large.
const buildsAtOnce = 2

// Cluster is how the clusters are looked at. The methods may be called concurrently.
type Cluster interface {
	// Addresses lists a cluster's API servers.
	Addresses(cluster string) ([]string, error)
	// Ping sends each API server its nonce. The answer has the error of each, nil for one that answered.
	Ping(ctx context.Context, cluster string, nonces map[string]string) map[string]error
	// Ask asks each API server whether it lets a certificate in.
	Ask(ctx context.Context, a breakglass.Access) []breakglass.Answer
	// Snapshot lists what exists. Look looks for single objects.
	Snapshot(ctx context.Context, cluster string) (residue.Snapshot, error)
	Look(ctx context.Context, cluster string, refs []residue.Ref) (map[residue.Ref]residue.Look, error)
}

// Config is what an Examiner works with.
type Config struct {
	Store   *store.Store
	Path    string        // of the store, for messages
	Keep    time.Duration // how long events and reports are kept
	Cluster Cluster
	Audited []string                              // the clusters whose API servers send audit events
	Alive   func(cluster, server string, ok bool) // is told whether an API server's audit events arrive
	Log     *slog.Logger
}

// Examiner keeps the audit events that API servers send, the reports made of them, and what clusters held before. It is a
// breakglass.Examiner. Its methods may be called concurrently, after Serve.
type Examiner struct {
	cfg     Config
	log     *slog.Logger
	store   *store.Store
	intake  *store.Intake
	cluster Cluster
	service *breakglass.Service
	pulses  map[string]*session.Pulse // by cluster; of those whose API servers call
	builds  chan struct{}             // has buildsAtOnce places
}

// New makes an Examiner. Serve must follow before anything else.
func New(cfg Config) *Examiner {
	x := &Examiner{cfg: cfg, log: cfg.Log, store: cfg.Store, cluster: cfg.Cluster, pulses: map[string]*session.Pulse{},
		builds: make(chan struct{}, buildsAtOnce)}
	for _, id := range cfg.Audited {
		x.pulses[id] = session.NewPulse(beatEvery, beatBatch, beatMargin)
	}
	x.intake = &store.Intake{Store: cfg.Store, Log: cfg.Log, Now: func() time.Time { return time.Now().UTC() }, Known: x.known,
		Unknown: x.unknown, Heartbeat: x.heartbeat, Alive: x.heard}
	return x
}

// Serve names the service of the grants, which itself was made with this Examiner.
func (x *Examiner) Serve(service *breakglass.Service) { x.service = service }

// Intake takes audit events in.
func (x *Examiner) Intake() *store.Intake { return x.intake }

// known asks the ledger for a certificate.
func (x *Examiner) known(ctx context.Context, clusterID, fingerprint, commonName string) (bool, error) {
	if fingerprint != "" {
		_, known, err := x.service.ByFingerprint(ctx, fingerprint)
		if known || err != nil || !strings.HasPrefix(commonName, policy.CanaryPrefix) {
			return known, err
		}
		if way, err := x.service.CanaryUnderWay(ctx, clusterID, commonName); err != nil || way {
			return false, cmp.Or(err, store.ErrNotYet) // asked again, until its fingerprint is on record or its time is over
		}
		return false, nil
	}
	if strings.HasPrefix(commonName, policy.CanaryPrefix) {
		return true, nil // it gives nothing, and without a fingerprint it cannot be told from another
	}
	r, known, err := x.service.ByCommonName(ctx, commonName)
	return known && r.Ask.Cluster == clusterID && r.Issued != nil, err
}

// unknown records that a name of ours was used with a certificate that the ledger does not know.
func (x *Examiner) unknown(ctx context.Context, clusterID, fingerprint, commonName string, e session.Event) error {
	f := finding.Opened{Check: CheckAudit, Cluster: clusterID, Severity: finding.Critical,
		Next: "find out who did this, and how they came by the name: the certificate authority's own audit log, and the API servers' for what " +
			"else was done"}
	name := session.Text(commonName)
	if fingerprint != "" {
		f.Key = finding.ShadowKey(clusterID, fingerprint)
		f.What = fmt.Sprintf("a certificate with the fingerprint %s, which the ledger does not know, was used in %s under the name %s, first "+
			"seen from %s", fingerprint, clusterID, name, session.Text(e.Source()))
	} else {
		f.Key = finding.UnknownNameKey(clusterID, name)
		f.What = fmt.Sprintf("somebody acted in %s under the name %s, which only certificates of ours may have, without one (%s), first seen "+
			"from %s", clusterID, name, session.Text(e.User), session.Text(e.Source()))
	}
	return x.service.Findings.Find(ctx, f)
}

// heartbeat looks up a nonce in the audit events of a cluster.
func (x *Examiner) heartbeat(clusterID, nonce string) (server string, ours bool) {
	if p := x.pulses[clusterID]; p != nil {
		return p.Find(nonce)
	}
	return "", false
}

// heard is told of a nonce that heartbeat knew, once what came with it is stored.
func (x *Examiner) heard(clusterID, nonce string) { x.pulses[clusterID].Seen(nonce) }

// Run takes audit events in, sends heartbeats, and prunes, until ctx is done.
func (x *Examiner) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { x.intake.Run(ctx) })
	now := time.Now()
	for id, p := range x.pulses {
		for _, server := range x.servers(id) {
			p.Watch(server, now)
		}
	}
	wg.Go(func() {
		x.tend(ctx, func(id string) {
			x.ping(ctx, id)
			x.judge(ctx, id, x.servers(id), time.Now())
		}, func(id string) { x.probe(ctx, id) })
	})
	every(ctx, pruneEvery, func() {
		now := time.Now().UTC()
		if err := x.store.Prune(ctx, now.Add(-x.cfg.Keep)); err != nil && ctx.Err() == nil {
			x.log.Warn("removing old audit events", slog.Any("error", err))
		}
	})
	return nil
}

// tend sends heartbeats and asks about the deny webhook, until ctx is done. Each cluster has loops of its own: one that does not
// answer makes no other look silent.
func (x *Examiner) tend(ctx context.Context, beat, probe func(clusterID string)) {
	var wg sync.WaitGroup
	for id := range x.pulses {
		wg.Go(func() { every(ctx, beatEvery, func() { beat(id) }) })
		wg.Go(func() { every(ctx, probeHooks, func() { probe(id) }) })
	}
	wg.Wait()
}

// every does something again and again until ctx is done, the first time after one period.
func every(ctx context.Context, period time.Duration, do func()) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			do()
		}
	}
}

// servers lists the addresses of a cluster's API servers.
func (x *Examiner) servers(clusterID string) []string {
	all, err := x.cluster.Addresses(clusterID)
	if err != nil {
		x.log.Error("listing API servers", slog.String("cluster", clusterID), slog.Any("error", err))
	}
	return all
}

// ping sends a heartbeat to each API server of a cluster.
func (x *Examiner) ping(ctx context.Context, clusterID string) {
	nonces := map[string]string{}
	p := x.pulses[clusterID]
	now := time.Now()
	for _, server := range x.servers(clusterID) {
		nonces[server] = rand.Text()
		p.Sent(server, nonces[server], now)
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	for server, err := range x.cluster.Ping(ctx, clusterID, nonces) {
		if err != nil {
			p.Failed(server, nonces[server])
			x.log.Debug("a heartbeat did not get through", slog.String("cluster", clusterID), slog.String("server", server),
				slog.Any("error", err))
		}
	}
}

// judge opens a finding for each API server whose audit stream is silent, and ends those of the ones that are heard again. Of one
// that was not heard since the daemon's start, and may yet be, it says nothing.
func (x *Examiner) judge(ctx context.Context, clusterID string, servers []string, now time.Time) {
	alarms := x.pulses[clusterID].Judge(now)
	for _, server := range servers {
		key := "audit-silent/" + clusterID + "/" + server
		i := slices.IndexFunc(alarms, func(a session.Alarm) bool { return a.Server == server })
		var err error
		if i < 0 && !x.pulses[clusterID].Heard(server) {
			continue
		}
		if i < 0 {
			err = x.service.Findings.Close(ctx, key, "its audit events arrive again")
			x.cfg.Alive(clusterID, server, true)
		} else {
			x.cfg.Alive(clusterID, server, false)
			f := finding.Opened{Key: key, Check: CheckAudit, Cluster: clusterID, Severity: finding.Critical,
				What: fmt.Sprintf("no audit events arrive from the API server %s of %s since %s, though it answers: what is done with certificates "+
					"there is not seen", server, clusterID, alarms[i].Since.UTC().Format(time.RFC3339)),
				Next: "look at its --audit-webhook-config-file and --audit-policy-file (deploy/kube-apiserver/AUDIT.md); somebody may have switched " +
					"it off"}
			if !alarms[i].Pinged {
				f.Severity = finding.Warning
				f.What = fmt.Sprintf("the API server %s of %s does not answer since %s, so that nobody knows whether its audit events arrive", server,
					clusterID, alarms[i].Since.UTC().Format(time.RFC3339))
				f.Next = "is it up, and is there a way to it?"
			}
			err = x.service.Findings.Find(ctx, f)
		}
		if err != nil && ctx.Err() == nil {
			x.log.Error("recording whether audit events arrive", slog.String("cluster", clusterID), slog.String("server", server),
				slog.Any("error", err))
		}
	}
}

// probe asks each API server of a cluster whose profiles have guards about a name that the deny webhook always refuses: guards
// that nothing enforces would be a false promise.
func (x *Examiner) probe(ctx context.Context, clusterID string) {
	guarded := slices.ContainsFunc(x.service.Policy().Profiles, func(p policy.Profile) bool {
		return len(p.Guards) > 0 && slices.Contains(p.Clusters, clusterID)
	})
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	probe := breakglass.Access{Cluster: clusterID, User: breakglass.ProbeUser, Rights: policy.Rights{Group: breakglass.ProbeUser}}
	for _, a := range x.cluster.Ask(ctx, probe) {
		key := "webhook-not-asked/" + clusterID + "/" + a.Server
		var err error
		switch {
		case a.No || !guarded:
			err = x.service.Findings.Close(ctx, key, "it asks the deny webhook")
		case a.NotAsked():
			err = x.service.Findings.Find(ctx, finding.Opened{Key: key, Check: CheckAudit, Cluster: clusterID,
				Severity: finding.Critical,
				What: fmt.Sprintf("the API server %s of %s does not ask the deny webhook, or got no answer: no guard of a profile holds there",
					a.Server, clusterID),
				Next: "set it up (deploy/kube-apiserver/DENY-WEBHOOK.md), or take the guards out of the profiles"})
		}
		if err != nil && ctx.Err() == nil {
			x.log.Error("recording whether the deny webhook is asked", slog.String("cluster", clusterID), slog.Any("error", err))
		}
	}
}

// Before implements breakglass.Examiner.
func (x *Examiner) Before(ctx context.Context, a breakglass.Access) error {
	snapshot, err := x.cluster.Snapshot(ctx, a.Cluster)
	if err != nil {
		return fmt.Errorf("looking at cluster %s: %w", a.Cluster, err)
	}
	blob, err := snapshot.Encode()
	if err != nil {
		return err
	}
	return x.store.PutSnapshot(context.WithoutCancel(ctx), a.Request, blob, time.Now().UTC())
}

// turn waits until there is memory for another report. Its answer gives the place back.
func (x *Examiner) turn(ctx context.Context) (func(), error) {
	select {
	case x.builds <- struct{}{}:
		return func() { <-x.builds }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting until other session reports are made: %w", context.Cause(ctx))
	}
}

// build makes the report on a grant from the events that there are now. A live grant's ends now. It needs a turn.
func (x *Examiner) build(ctx context.Context, r *breakglass.Request) (session.Session, error) {
	now := time.Now().UTC()
	g := session.Grant{Request: r.ID, Cluster: r.Ask.Cluster, User: r.Claimed.CommonName, Fingerprint: r.Issued.Fingerprint,
		From: r.ClaimedAt, Until: r.EndedBy(now)}
	events, dropped, err := x.store.Events(ctx, r.Ask.Cluster, g.Fingerprint, g.User)
	if err != nil {
		return session.Session{}, err
	}
	p := x.pulses[r.Ask.Cluster]
	g.Dropped, g.Audited = dropped, p != nil || len(events) > 0
	if p != nil {
		until := g.Until
		if until.IsZero() {
			until = now
		}
		for _, server := range x.servers(r.Ask.Cluster) {
			silent, err := x.store.Silences(ctx, r.Ask.Cluster, server, g.From, until, beatEvery+beatBatch+beatMargin)
			if err != nil {
				return session.Session{}, err
			}
			g.Silent = append(g.Silent, silent...)
		}
	}
	return session.Build(events, g), nil
}

// Examine implements breakglass.Examiner.
func (x *Examiner) Examine(ctx context.Context, r *breakglass.Request, final bool) (breakglass.SessionReported, breakglass.Swept, error) {
	done := func(err error) (breakglass.SessionReported, breakglass.Swept, error) {
		return breakglass.SessionReported{}, breakglass.Swept{}, err
	}
	free, err := x.turn(ctx)
	if err != nil {
		return done(err)
	}
	report, err := x.build(ctx, r)
	free()
	if err != nil {
		return done(err)
	}
	in := residue.Evidence{Acts: session.Acts(report)}
	swept := breakglass.Swept{Sources: []string{}}
	if report.Source == breakglass.SourceAudit {
		swept.Sources = append(swept.Sources, residue.FoundByAudit)
	}
	if in.Before, err = x.snapshot(ctx, r.ID); err != nil {
		return done(err)
	}
	in.After, err = x.cluster.Snapshot(ctx, r.Ask.Cluster)
	if err == nil {
		swept.Sources = append(swept.Sources, residue.FoundByComparison)
		in.Looked, err = x.cluster.Look(ctx, r.Ask.Cluster, residue.Unsure(in.Acts, in.After, maxLooks))
	}
	if err != nil {
		if !final {
			return done(fmt.Errorf("looking through cluster %s: %w", r.Ask.Cluster, err))
		}
		swept.Gaps = append(swept.Gaps, "the cluster could not be looked at any more: "+err.Error())
	}
	swept.Gaps = append(swept.Gaps, residue.Missing(in.Before, in.After)...)
	in.Changes = residue.Compare(in.Before, in.After, residue.Window{From: r.ClaimedAt, Until: r.EndedBy(time.Now().UTC())})
	found := append([]breakglass.Residue{}, residue.Judge(in)...) // in JSON, none is [] and not null
	report.Left = &session.Left{Items: found, Sources: swept.Sources, Gaps: swept.Gaps}
	swept.Items = residue.Choose(found, breakglass.MaxResidues)
	if swept.More = len(found) - len(swept.Items); swept.More > 0 {
		if swept.All, err = hashOf(found); err != nil {
			return done(err)
		}
	}
	body, _ := report.JSON()
	if _, err := x.store.PutReport(context.WithoutCancel(ctx), r.ID, body, time.Now().UTC()); err != nil {
		return done(err)
	}
	return session.Summary(report), swept, nil
}

// hashOf names a list of residues by the bytes that the session's report has of it.
func hashOf(found []breakglass.Residue) (string, error) {
	b, err := json.Marshal(found)
	if err != nil {
		return "", err
	}
	return text.SHA256(b), nil
}

// snapshot returns what existed before a grant, nil if that is not known.
func (x *Examiner) snapshot(ctx context.Context, request string) (*residue.Snapshot, error) {
	blob, err := x.store.Snapshot(ctx, request)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return residue.Decode(blob)
}

// Report returns the report on a grant. Of an examined grant it is the report whose digest the ledger has: one made anew would be
// another, without what was removed since. Of any other it is made from the events that there are now. It is written by render, and
// without one it is JSON: of an examined grant the very bytes whose digest the ledger has.
func (x *Examiner) Report(ctx context.Context, r *breakglass.Request, render func(session.Session, io.Writer) error) ([]byte, error) {
	free, err := x.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer free()
	var report session.Session
	if r.Session != nil && r.Session.Digest != "" {
		body, err := x.store.Report(ctx, r.Session.Digest)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return nil, x.gone(r, time.Now())
		case err != nil || render == nil:
			return body, err
		}
		if report, err = session.Parse(body); err != nil {
			return nil, err
		}
	} else if report, err = x.build(ctx, r); err != nil {
		return nil, err
	}
	if render == nil {
		body, _ := report.JSON()
		return body, nil
	}
	var out bytes.Buffer
	err = render(report, &out)
	return out.Bytes(), err
}

// gone says why there is no report although the ledger has its digest.
func (x *Examiner) gone(r *breakglass.Request, now time.Time) error {
	if keep := x.cfg.Keep; now.Sub(r.SweptAt) >= keep {
		return &record.Refusal{Class: record.ClassExpired, Code: "report-removed", Next: "the ledger has its figures: " +
			text.Command("breakglass show", nil, r.ID),
			Why: fmt.Sprintf("the session report of %s was removed after keep=%s (sessions.keep)", r.ID, keep)}
	}
	return &record.Refusal{Class: record.ClassUnavailable, Code: "report-missing", Next: "restore " + x.cfg.Path +
		" from a backup, or make a report of what is left: " + text.Command("breakglass sweep", nil, r.ID),
		Why: fmt.Sprintf("the session report of %s is not in the daemon's store, though it is not old enough to have been removed", r.ID)}
}
