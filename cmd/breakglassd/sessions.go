package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/session"
	"github.com/breakglassd/breakglass/internal/session/store"
	"github.com/breakglassd/breakglass/internal/sweep"
)

// The times of the heartbeat: how often each API server is pinged, how long its audit batch may take (30 s is kube-apiserver's
// default for --audit-webhook-batch-max-wait), and what is left for everything else.
const (
	beatEvery  = 20 * time.Second
	beatBatch  = 30 * time.Second
	beatMargin = 10 * time.Second
	pruneEvery = 6 * time.Hour
	probeHooks = time.Minute // how often each API server is asked whether it asks the deny webhook
)

// checkAudit is the check that the audit streams are alive, and whether the deny webhook is asked.
const checkAudit = "audit"

// maxLooks bounds the single objects that one sweep looks for.
const maxLooks = 200

// buildsAtOnce bounds the reports that are being made from events at one time: one may be of a session that was made to be large.
const buildsAtOnce = 2

// sessions is what the daemon knows of what was done with grants: the audit events that API servers send, the reports made of
// them, and what clusters held before. It is a breakglass.Examiner.
type sessions struct {
	cfg      *Config
	log      *slog.Logger
	store    *store.Store
	intake   *store.Intake
	clusters *cluster.Clusters
	service  *breakglass.Service // set once it is open, before anything calls
	metrics  *metrics
	pulses   map[string]*session.Pulse // by cluster; of those whose API servers call
	builds   chan struct{}             // has buildsAtOnce places
}

// The room for audit events of issued certificates: in all, shared evenly by the clusters, and the least that a cluster has.
const (
	sessionsBytes   = 2 << 30
	minClusterBytes = 256 << 20
)

// openSessions opens the database of sessions.
func openSessions(ctx context.Context, cfg *Config, clusters *cluster.Clusters, m *metrics, log *slog.Logger) (*sessions, error) {
	if err := makeParent("sessions.path", cfg.Sessions.Path); err != nil {
		return nil, err
	}
	st, err := store.Open(ctx, cfg.Sessions.Path, store.Limits{Bytes: max(sessionsBytes/int64(max(1, len(cfg.Clusters))), minClusterBytes)})
	if err != nil {
		return nil, err
	}
	s := &sessions{cfg: cfg, log: log, store: st, clusters: clusters, metrics: m, pulses: map[string]*session.Pulse{},
		builds: make(chan struct{}, buildsAtOnce)}
	for _, c := range cfg.Clusters {
		if c.webhooks() {
			s.pulses[c.ID] = session.NewPulse(beatEvery, beatBatch, beatMargin)
		}
	}
	s.intake = &store.Intake{Store: st, Log: log, Now: func() time.Time { return time.Now().UTC() }, Known: s.known, Unknown: s.unknown,
		Heartbeat: s.heartbeat, Alive: s.heard}
	m.watchIntake(s.intake.Figures)
	return s, nil
}

// known asks the ledger for a certificate.
func (s *sessions) known(ctx context.Context, clusterID, fingerprint, commonName string) (bool, error) {
	if fingerprint != "" {
		_, known, err := s.service.ByFingerprint(ctx, fingerprint)
		if known || err != nil || !strings.HasPrefix(commonName, breakglass.CanaryPrefix) {
			return known, err
		}
		if way, err := s.service.CanaryUnderWay(ctx, clusterID, commonName); err != nil || way {
			return false, cmp.Or(err, store.ErrNotYet) // asked again, until its fingerprint is on record or its time is over
		}
		return false, nil
	}
	if strings.HasPrefix(commonName, breakglass.CanaryPrefix) {
		return true, nil // it gives nothing, and without a fingerprint it cannot be told from another
	}
	r, known, err := s.service.ByCommonName(ctx, commonName)
	return known && r.Ask.Cluster == clusterID && r.Issued != nil, err
}

// unknown records that a name of ours was used by somebody whom the ledger does not know.
func (s *sessions) unknown(ctx context.Context, clusterID, fingerprint, commonName string, e session.Event) error {
	f := breakglass.FindingOpened{Check: checkAudit, Cluster: clusterID, Severity: breakglass.SeverityCritical,
		Next: "find out who did this, and how they came by the name: the certificate authority's own audit log, and the API servers' for what " +
			"else was done"}
	name := session.Text(commonName)
	if fingerprint != "" {
		f.Key = breakglass.ShadowKey(clusterID, fingerprint)
		f.What = fmt.Sprintf("a certificate with the fingerprint %s, which the ledger does not know, was used in %s under the name %s, first "+
			"seen from %s", fingerprint, clusterID, name, session.Text(e.Source()))
	} else {
		f.Key = breakglass.UnknownNameKey(clusterID, name)
		f.What = fmt.Sprintf("somebody acted in %s under the name %s, which only certificates of ours may have, without one (%s), first seen "+
			"from %s", clusterID, name, session.Text(e.User), session.Text(e.Source()))
	}
	return s.service.Find(ctx, f)
}

// heartbeat looks up a nonce in the audit events of a cluster.
func (s *sessions) heartbeat(clusterID, nonce string) (server string, ours bool) {
	if p := s.pulses[clusterID]; p != nil {
		return p.Find(nonce)
	}
	return "", false
}

// heard is told of a nonce that heartbeat knew, once what came with it is stored.
func (s *sessions) heard(clusterID, nonce string) { s.pulses[clusterID].Seen(nonce) }

// run takes audit events in, sends heartbeats, and prunes, until ctx is done.
func (s *sessions) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.intake.Run(ctx) })
	now := time.Now()
	for id, p := range s.pulses {
		for _, server := range s.servers(id) {
			p.Watch(server, now)
		}
	}
	wg.Go(func() {
		s.tend(ctx, func(id string) {
			s.ping(ctx, id)
			s.judge(ctx, id, s.servers(id), time.Now())
		}, func(id string) { s.probe(ctx, id) })
	})
	every(ctx, pruneEvery, func() {
		now := time.Now().UTC()
		if err := s.store.Prune(ctx, now.Add(-s.cfg.Sessions.Keep)); err != nil && ctx.Err() == nil {
			s.log.Warn("removing old audit events", slog.Any("error", err))
		}
	})
	return nil
}

// tend sends heartbeats and asks about the deny webhook, until ctx is done. Each cluster has loops of its own: one that does not
// answer makes no other look silent.
func (s *sessions) tend(ctx context.Context, beat, probe func(clusterID string)) {
	var wg sync.WaitGroup
	for id := range s.pulses {
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
func (s *sessions) servers(clusterID string) []string {
	all, err := s.clusters.Servers(clusterID)
	if err != nil {
		s.log.Error("listing API servers", slog.String("cluster", clusterID), slog.Any("error", err))
	}
	out := make([]string, len(all))
	for i, x := range all {
		out[i] = x.Address
	}
	return out
}

// ping sends a heartbeat to each API server of a cluster.
func (s *sessions) ping(ctx context.Context, clusterID string) {
	nonces := map[string]string{}
	p := s.pulses[clusterID]
	now := time.Now()
	for _, server := range s.servers(clusterID) {
		nonces[server] = rand.Text()
		p.Sent(server, nonces[server], now)
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	for _, r := range s.clusters.Ping(ctx, clusterID, nonces) {
		if r.Err != nil {
			p.Failed(r.Server, nonces[r.Server])
			s.log.Debug("a heartbeat did not get through", slog.String("cluster", clusterID), slog.String("server", r.Server),
				slog.Any("error", r.Err))
		}
	}
}

// judge opens a finding for each API server whose audit stream is silent, and ends those of the ones that are heard again. Of one
// that was not heard since the daemon's start, and may yet be, it says nothing.
func (s *sessions) judge(ctx context.Context, clusterID string, servers []string, now time.Time) {
	alarms := s.pulses[clusterID].Judge(now)
	for _, server := range servers {
		key := "audit-silent/" + clusterID + "/" + server
		i := slices.IndexFunc(alarms, func(a session.Alarm) bool { return a.Server == server })
		var err error
		if i < 0 && !s.pulses[clusterID].Heard(server) {
			continue
		}
		if i < 0 {
			err = s.service.Over(ctx, key, "its audit events arrive again")
			s.metrics.alive.WithLabelValues(clusterID, server).Set(1)
		} else {
			s.metrics.alive.WithLabelValues(clusterID, server).Set(0)
			f := breakglass.FindingOpened{Key: key, Check: checkAudit, Cluster: clusterID, Severity: breakglass.SeverityCritical,
				What: fmt.Sprintf("no audit events arrive from the API server %s of %s since %s, though it answers: what is done with certificates "+
					"there is not seen", server, clusterID, alarms[i].Since.UTC().Format(time.RFC3339)),
				Next: "look at its --audit-webhook-config-file and --audit-policy-file (deploy/kube-apiserver/AUDIT.md); somebody may have switched " +
					"it off"}
			if !alarms[i].Pinged {
				f.Severity = breakglass.SeverityWarning
				f.What = fmt.Sprintf("the API server %s of %s does not answer since %s, so that nobody knows whether its audit events arrive", server,
					clusterID, alarms[i].Since.UTC().Format(time.RFC3339))
				f.Next = "is it up, and is there a way to it?"
			}
			err = s.service.Find(ctx, f)
		}
		if err != nil && ctx.Err() == nil {
			s.log.Error("recording whether audit events arrive", slog.String("cluster", clusterID), slog.String("server", server),
				slog.Any("error", err))
		}
	}
}

// probe asks each API server of a cluster whose profiles have guards about a name that the deny webhook always refuses: guards
// that nothing enforces would be a false promise.
func (s *sessions) probe(ctx context.Context, clusterID string) {
	guarded := slices.ContainsFunc(s.service.Policy().Profiles, func(p breakglass.Profile) bool {
		return len(p.Guards) > 0 && slices.Contains(p.Clusters, clusterID)
	})
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	probe := breakglass.Access{Cluster: clusterID, User: breakglass.ProbeUser, Rights: breakglass.Rights{Group: breakglass.ProbeUser}}
	for _, a := range s.clusters.Ask(ctx, probe) {
		key := "webhook-not-asked/" + clusterID + "/" + a.Server
		var err error
		switch {
		case a.No || !guarded:
			err = s.service.Over(ctx, key, "it asks the deny webhook")
		case a.Problem == cluster.WebhookNotAsked:
			err = s.service.Find(ctx, breakglass.FindingOpened{Key: key, Check: checkAudit, Cluster: clusterID,
				Severity: breakglass.SeverityCritical,
				What: fmt.Sprintf("the API server %s of %s does not ask the deny webhook, or got no answer: no guard of a profile holds there",
					a.Server, clusterID),
				Next: "set it up (deploy/kube-apiserver/DENY-WEBHOOK.md), or take the guards out of the profiles"})
		}
		if err != nil && ctx.Err() == nil {
			s.log.Error("recording whether the deny webhook is asked", slog.String("cluster", clusterID), slog.Any("error", err))
		}
	}
}

// Before implements breakglass.Examiner.
func (s *sessions) Before(ctx context.Context, a breakglass.Access) error {
	snapshot, err := s.clusters.Snapshot(ctx, a.Cluster)
	if err != nil {
		return fmt.Errorf("looking at cluster %s: %w", a.Cluster, err)
	}
	blob, err := snapshot.Encode()
	if err != nil {
		return err
	}
	return s.store.PutSnapshot(context.WithoutCancel(ctx), a.Request, blob, time.Now().UTC())
}

// turn waits until there is memory for another report. Its answer gives the place back.
func (s *sessions) turn(ctx context.Context) (func(), error) {
	select {
	case s.builds <- struct{}{}:
		return func() { <-s.builds }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting until other session reports are made: %w", context.Cause(ctx))
	}
}

// build makes the report on a grant from the events that there are now. A live grant's ends now. It needs a turn.
func (s *sessions) build(ctx context.Context, r *breakglass.Request) (session.Session, error) {
	now := time.Now().UTC()
	g := session.Grant{Request: r.ID, Cluster: r.Ask.Cluster, User: r.Claimed.CommonName, Fingerprint: r.Issued.Fingerprint,
		From: r.ClaimedAt, Until: r.Over(now)}
	events, dropped, err := s.store.Events(ctx, r.Ask.Cluster, g.Fingerprint, g.User)
	if err != nil {
		return session.Session{}, err
	}
	p := s.pulses[r.Ask.Cluster]
	g.Dropped, g.Audited = dropped, p != nil || len(events) > 0
	if p != nil {
		until := g.Until
		if until.IsZero() {
			until = now
		}
		for _, server := range s.servers(r.Ask.Cluster) {
			silent, err := s.store.Silences(ctx, r.Ask.Cluster, server, g.From, until, beatEvery+beatBatch+beatMargin)
			if err != nil {
				return session.Session{}, err
			}
			g.Silent = append(g.Silent, silent...)
		}
	}
	return session.Build(events, g), nil
}

// Examine implements breakglass.Examiner.
func (s *sessions) Examine(ctx context.Context, r *breakglass.Request, final bool) (breakglass.SessionReported, breakglass.Swept, error) {
	done := func(err error) (breakglass.SessionReported, breakglass.Swept, error) {
		return breakglass.SessionReported{}, breakglass.Swept{}, err
	}
	free, err := s.turn(ctx)
	if err != nil {
		return done(err)
	}
	report, err := s.build(ctx, r)
	free()
	if err != nil {
		return done(err)
	}
	in := sweep.Evidence{Acts: session.Acts(report)}
	swept := breakglass.Swept{Sources: []string{}}
	if report.Source == breakglass.SourceAudit {
		swept.Sources = append(swept.Sources, sweep.FoundByAudit)
	}
	if in.Before, err = s.snapshot(ctx, r.ID); err != nil {
		return done(err)
	}
	in.After, err = s.clusters.Snapshot(ctx, r.Ask.Cluster)
	if err == nil {
		swept.Sources = append(swept.Sources, sweep.FoundByComparison)
		in.Looked, err = s.clusters.Look(ctx, r.Ask.Cluster, sweep.Unsure(in.Acts, in.After, maxLooks))
	}
	if err != nil {
		if !final {
			return done(fmt.Errorf("looking through cluster %s: %w", r.Ask.Cluster, err))
		}
		swept.Gaps = append(swept.Gaps, "the cluster could not be looked at any more: "+err.Error())
	}
	swept.Gaps = append(swept.Gaps, sweep.Missing(in.Before, in.After)...)
	in.Changes = sweep.Compare(in.Before, in.After, sweep.Window{From: r.ClaimedAt, Until: r.Over(time.Now().UTC())})
	found := append([]breakglass.Residue{}, sweep.Judge(in)...) // in JSON, none is [] and not null
	report.Left = &session.Left{Items: found, Sources: swept.Sources, Gaps: swept.Gaps}
	swept.Items = sweep.Choose(found, breakglass.MaxResidues)
	if swept.More = len(found) - len(swept.Items); swept.More > 0 {
		if swept.All, err = hashOf(found); err != nil {
			return done(err)
		}
	}
	body, _ := report.JSON()
	if _, err := s.store.PutReport(context.WithoutCancel(ctx), r.ID, body, time.Now().UTC()); err != nil {
		return done(err)
	}
	return session.Summary(report), swept, nil
}

// hashOf names a list of residues by the bytes that the session's report has of it.
func hashOf(found []breakglass.Residue) (string, error) {
	text, err := json.Marshal(found)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// snapshot returns what existed before a grant, nil if that is not known.
func (s *sessions) snapshot(ctx context.Context, request string) (*sweep.Snapshot, error) {
	blob, err := s.store.Snapshot(ctx, request)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return sweep.Decode(blob)
}

// Report implements api.Sessions. Of an examined grant it is the report whose digest the ledger has: one made anew would be
// another, without what was removed since. Of any other it is made from the events that there are now.
func (s *sessions) Report(ctx context.Context, r *breakglass.Request, format string) ([]byte, error) {
	free, err := s.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer free()
	var report session.Session
	if r.Session != nil && r.Session.Digest != "" {
		body, err := s.store.Report(ctx, r.Session.Digest)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return nil, s.gone(r, time.Now())
		case err != nil || format == api.FormatJSON:
			return body, err
		}
		if report, err = session.Parse(body); err != nil {
			return nil, err
		}
	} else if report, err = s.build(ctx, r); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	switch format {
	case api.FormatText:
		err = report.WriteText(&out)
	case api.FormatHTML:
		err = report.WriteHTML(&out)
	default:
		body, _ := report.JSON()
		return body, nil
	}
	return out.Bytes(), err
}

// gone says why there is no report although the ledger has its digest.
func (s *sessions) gone(r *breakglass.Request, now time.Time) error {
	if keep := s.cfg.Sessions.Keep; now.Sub(r.SweptAt) >= keep {
		return &breakglass.Refusal{Class: breakglass.ClassExpired, Code: "report-removed", Next: "the ledger has its figures: breakglass show " +
			r.ID,
			Why: fmt.Sprintf("the session report of %s was removed after keep=%s (sessions.keep)", r.ID, keep)}
	}
	return &breakglass.Refusal{Class: breakglass.ClassUnavailable, Code: "report-missing", Next: "restore " + s.cfg.Sessions.Path +
		" from a backup, or make a report of what is left: breakglass sweep " + r.ID,
		Why: fmt.Sprintf("the session report of %s is not in the daemon's store, though it is not old enough to have been removed", r.ID)}
}

// Import implements api.Importer.
func (s *sessions) Import(ctx context.Context, clusterID, by string, body io.Reader) (api.ImportResult, error) {
	res, err := s.intake.Import(ctx, clusterID, by, body)
	return api.ImportResult{Events: res.Events, Kept: res.Kept, Duplicates: res.Duplicates, Dropped: res.Dropped, Unreadable: res.Unreadable,
		Digest: res.Digest}, err
}
