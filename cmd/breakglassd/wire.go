package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakglassd/breakglass/cmd/breakglassd/config"
	"github.com/breakglassd/breakglass/cmd/breakglassd/listen"
	"github.com/breakglassd/breakglass/cmd/breakglassd/process"
	"github.com/breakglassd/breakglass/internal/announce"
	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cacheck"
	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/ledger/sqlstore"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/recert"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/schedule"
	"github.com/breakglassd/breakglass/internal/slackbot"
	"github.com/breakglassd/breakglass/internal/vaultca"
	"github.com/breakglassd/breakglass/internal/verify"
	"github.com/breakglassd/breakglass/internal/webhook"
)

// parts is what a caller of serve can bring along, and how it takes part in the daemon's life. The zero value is the daemon
// as configured.
type parts struct {
	Signer       breakglass.Signer // signs in place of Vault, whose keys are then neither needed nor read
	AcceptWeaker bool              // see breakglass.Config
	AcceptClock  bool              // see record.Config
	Reload       <-chan os.Signal  // each value: read the access policy and the TLS certificate again
	// Reloaded is told what each reading of the access policy came to, the changes in words. Nil: the log alone is.
	Reloaded func(changes []string, err error)
	Ready    func(url string) // called once people can reach the daemon, with the address it really listens on
}

// The bounds of an orderly stop: the first for answers under way, a claim included; the second for all of it.
const (
	drainTime = 30 * time.Second
	stopTime  = 45 * time.Second
)

// The open connections that one address may have. An API server needs a few; many people may stand behind one address.
const (
	hookConnections   = 128
	peopleConnections = 2048
)

// daemon is everything that one serving process is made of.
type daemon struct {
	cfg       *config.Config
	log       *slog.Logger
	ledger    *ledger.Ledger
	store     *sqlstore.Store // of the ledger, which closes it
	room      room
	vkey      string
	signer    breakglass.Signer
	ca        *vaultca.CA // nil when something else signs
	clusters  *cluster.Clusters
	sessions  *sessions       // nil when switched off
	checks    *cacheck.Checks // nil when something else than Vault signs
	slack     *slackbot.Bot   // nil when switched off
	recert    *recert.Service // nil when switched off
	service   *breakglass.Service
	campaigns *campaign.Book
	schedule  *schedule.Scheduler
	metrics   *metrics
	health    atomic.Pointer[health]
	stopping  atomic.Bool
	cert      atomic.Pointer[tls.Certificate] // for people; nil: plain HTTP
	hookCert  atomic.Pointer[tls.Certificate] // for API servers
	asked     *webhook.Memory                 // what the deny webhook did not refuse
	closers   []func() error                  // what to close in the end, last first
}

// serve runs the daemon until ctx is done, and then stops it in order: answers under way are finished, claims that have begun
// are carried through. It returns nil after that. An error means that it could not start, or that the ledger can no longer be
// trusted: the process must exit, and the next one reads the truth from disk.
func serve(ctx context.Context, cfg *config.Config, p parts, log *slog.Logger) (err error) {
	d := &daemon{cfg: cfg, log: log}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.open(ctx, p); err != nil {
		return err
	}
	return d.run(ctx, p)
}

func (d *daemon) close() error {
	var errs []error
	for len(d.closers) > 0 {
		last := len(d.closers) - 1
		errs = append(errs, d.closers[last]())
		d.closers = d.closers[:last]
	}
	return errors.Join(errs...)
}

// open builds the daemon. It talks to nobody: Vault, Slack and the clusters may all be down.
func (d *daemon) open(ctx context.Context, p parts) error {
	cfg := d.cfg
	if bad := cfg.Validate(p.Signer == nil); len(bad) > 0 {
		return &config.Error{Problems: bad}
	}
	err := d.loadCert()
	if err != nil {
		return err
	}
	if d.ledger, d.store, d.vkey, err = openLedger(ctx, cfg); err != nil {
		return err
	}
	d.closers = append(d.closers, d.ledger.Close)
	inForce, err := policy.Recorded(ctx, d.ledger)
	if err != nil {
		return err
	}
	pol, unread := readPolicy(cfg, p.Signer == nil)
	if unread != nil && inForce == nil {
		return unread
	}
	d.asked = webhook.NewMemory()
	if d.clusters, err = openClusters(cfg, d.vkey, d.asked, d.log); err != nil {
		return err
	}
	d.signer = p.Signer
	if d.signer == nil {
		if d.ca, err = openVault(ctx, cfg, d.log, pol, inForce); err != nil {
			return err
		}
		d.closers = append(d.closers, d.ca.Close)
		d.signer = d.ca
	}
	d.metrics = newMetrics(d)
	d.health.Store(&health{})
	if err := d.openDomain(ctx, p, pol); err != nil {
		return err
	}
	if unread != nil {
		d.service.InForce.Unread(ctx, unread)
	}
	if now := d.service.Policy(); pol == nil || pol.Digest != now.Digest {
		d.log.Error("THE ACCESS POLICY ON DISK IS NOT IN FORCE: the one before is", slog.String("policy", now.Digest), slog.Any("error", unread))
		d.metrics.reloaded(unread == nil && !d.service.InForce.Waits().IsZero(), time.Now())
	}
	if d.sessions != nil {
		d.sessions.Serve(d.service)
	}
	d.metrics.count(d.service.Findings.Open())
	d.schedule = schedule.New(schedule.Config{Store: d.ledger, Record: d.recordRun, Log: d.log})
	if d.ca != nil {
		if d.checks, err = openCAChecks(cfg, d); err != nil {
			return err
		}
		if err := d.schedule.Add("ca", cfg.Checks.CACron, cfg.Checks.Zone, d.checks.Job); err != nil {
			return err
		}
	}
	if cfg.Recertification.Dir != "" {
		if err := d.openRecert(cfg); err != nil {
			return err
		}
	}
	if cfg.Slack.Enabled {
		d.slack, err = openSlack(cfg, d.service, d.campaigns, d.ledger, d.recert, d.log, d.metrics.slackCall)
	}
	return err
}

// recordRun puts a scheduled run on record and into the metrics.
func (d *daemon) recordRun(ctx context.Context, run finding.CheckRun) error {
	d.metrics.schedule.WithLabelValues(strings.TrimPrefix(run.Check, finding.SchedulePrefix)).Set(one(run.OK))
	return d.service.Findings.RecordCheck(ctx, run)
}

// A door is a listener with the server that stands in it.
type door struct {
	net.Listener
	server *http.Server
}

// listen opens the door for people, whose address it returns, and behind it the one for health checks. When polls is done,
// long polls end.
func (d *daemon) listen(polls context.Context) (doors []door, address string, err error) {
	people, err := net.Listen("tcp", d.cfg.Listen.Address)
	if err != nil {
		return nil, "", fmt.Errorf("listening for people (listen.address): %w", err)
	}
	people = listen.PerAddress(people, peopleConnections)
	address = "http://" + people.Addr().String()
	if d.cert.Load() != nil {
		address = "https://" + people.Addr().String()
		people = tls.NewListener(people, &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return d.cert.Load(), nil }})
	}
	handler, err := d.handler(polls, address)
	if err != nil {
		return nil, "", errors.Join(err, people.Close())
	}
	quiet := slog.NewLogLogger(d.log.Handler(), slog.LevelDebug) // what strangers do to a listener is no news
	// No WriteTimeout: each answer sets its own deadline, because a long poll takes longer than anything else.
	doors = []door{{people, &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 20 * time.Second,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: quiet}}}
	shut := func(err error) error {
		for _, door := range doors {
			err = errors.Join(err, door.Close())
		}
		return err
	}
	if d.cfg.Webhooks.Address != "" {
		hooks, err := d.hookDoor()
		if err != nil {
			return nil, "", shut(err)
		}
		doors = append(doors, hooks)
	}
	if d.cfg.Health.Address == "" {
		return doors, address, nil
	}
	checks, err := net.Listen("tcp", d.cfg.Health.Address)
	if err != nil {
		return nil, "", shut(fmt.Errorf("listening for health checks (health.address; empty switches it off): %w", err))
	}
	d.log.Info("health checks and metrics", slog.String("address", checks.Addr().String()))
	return append(doors, door{checks, &http.Server{Handler: d.healthHandler(), ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: quiet}}), address, nil
}

// run serves until ctx is done or something is fatal. It stops in the order in which parts need each other: first what people
// call, then the service and what keeps it going.
func (d *daemon) run(ctx context.Context, p parts) error {
	d.keepRoom(ctx)
	polls, endPolls := context.WithCancel(context.Background())
	defer endPolls()
	doors, address, err := d.listen(polls)
	if err != nil {
		return err
	}
	g, fatal := errgroup.WithContext(context.WithoutCancel(ctx))
	work, endWork := context.WithCancel(fatal)
	defer endWork()
	for _, door := range doors {
		g.Go(func() error {
			if err := door.server.Serve(door); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serving: %w", err)
			}
			return nil
		})
	}
	g.Go(func() error { return d.service.Run(work) })
	g.Go(func() error { return d.campaigns.Run(work) })
	for name, m := range d.messengers() {
		g.Go(func() error { return announce.Run(work, d.service.Recorder, verify.Kinds(), name, m) })
	}
	if d.ca != nil {
		g.Go(func() error { return d.ca.Run(work) })
	}
	if d.sessions != nil {
		g.Go(func() error { return d.sessions.Run(work) })
	}
	if d.slack != nil {
		g.Go(func() error { return d.slack.Run(work) })
	}
	g.Go(func() error { return d.schedule.Run(work) })
	if d.checks != nil {
		g.Go(func() error { return d.checks.First(work) })
	}
	g.Go(func() error { return d.watch(work) })
	g.Go(func() error { return d.verify(work) })
	g.Go(func() error { return d.reloads(work, p) })
	stopping := make(chan struct{})
	g.Go(func() error {
		select {
		case <-ctx.Done():
		case <-fatal.Done():
		}
		close(stopping)
		d.stopping.Store(true)
		d.log.Info("stopping")
		process.Notify("STOPPING=1")
		endPolls()
		drain, cancel := context.WithTimeout(context.Background(), drainTime)
		defer cancel()
		for _, door := range doors {
			if err := door.server.Shutdown(drain); err != nil {
				d.log.Warn("cutting off answers under way", slog.Any("error", errors.Join(err, door.server.Close())))
			}
		}
		endWork()
		return nil
	})
	pol := d.service.Policy()
	d.log.Info("breakglassd is up", slog.String("version", version()), slog.String("url", address), slog.String("ledger", d.cfg.Ledger.Origin),
		slog.Int64("entries", d.ledger.Size()), slog.String("ledger_key", d.vkey), slog.String("policy", pol.Digest),
		slog.Bool("slack", d.slack != nil))
	process.Notify("READY=1")
	if p.Ready != nil {
		p.Ready(address)
	}
	return d.wait(g, stopping)
}

// wait waits for the end of everything, but not for ever once it was told to stop.
func (d *daemon) wait(g *errgroup.Group, stopping <-chan struct{}) error {
	done := make(chan error, 1)
	go func() { done <- g.Wait() }()
	select {
	case err := <-done:
		return err
	case <-stopping:
	}
	select {
	case err := <-done:
		return err
	case <-time.After(stopTime):
		d.closers = nil // somebody still uses them; the end of the process closes them, and loses nothing durable
		return fmt.Errorf("not everything ended within %s; what was under way is settled at the next start", stopTime)
	}
}

// handler is everything that people and Slack can call. When polls ends, so do long polls; a command is carried through.
func (d *daemon) handler(polls context.Context, address string) (http.Handler, error) {
	urls := d.cfg.PublicURLs
	if len(urls) == 0 { // a loopback listener: Validate has seen to that
		urls = []string{address}
	}
	cfg := api.Config{Service: d.service, Campaigns: d.campaigns, Ledger: d.ledger, LedgerKey: d.vkey, URLs: urls,
		Version: version(), Log: d.log, Observe: d.metrics.answered}
	if d.sessions != nil {
		cfg.Sessions, cfg.Importer = d.sessions, d.sessions
	}
	if d.checks != nil {
		cfg.Authorities = d.checks
	}
	cfg.Recert = d.recert
	if d.slack != nil {
		cfg.Untold = d.slack.Untold
	}
	people, err := api.NewServer(cfg)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			defer context.AfterFunc(polls, cancel)()
			r = r.WithContext(ctx)
		}
		people.ServeHTTP(w, r)
	})
	if d.slack != nil {
		mux.Handle("/slack/", d.slack.Handler())
	}
	return mux, nil
}

// openDomain opens what decides and records. What campaigns suspend is known before the access policy is in force.
func (d *daemon) openDomain(ctx context.Context, p parts, pol *policy.Policy) error {
	books := record.Config{Ledger: d.ledger, Log: d.log, Room: d.room.short, AcceptClock: p.AcceptClock}
	domain := breakglass.Config{Policy: pol, Signer: d.signer, Binder: d.clusters, Prover: d.clusters, Clusters: clusterIDs(d.cfg),
		ClusterCA: d.clusters.CA, ClusterWay: d.clusters.Way, Trouble: d.trouble, AcceptWeaker: p.AcceptWeaker,
		SignTimeout: d.cfg.Vault.SignTimeout, Version: version()}
	if d.ca != nil {
		domain.Inventory, books.Second = d.ca, d.ca
	}
	var err error
	if d.cfg.Sessions.Path != "" {
		if d.sessions, err = openSessions(ctx, d.cfg, d.clusters, d.metrics, d.log); err != nil {
			return err
		}
		d.closers = append(d.closers, d.sessions.store.Close)
		domain.Examiner, domain.Grace = d.sessions, d.cfg.Sessions.Grace
	}
	if domain.Recorder, err = record.Open(ctx, books); err != nil {
		return err
	}
	domain.InForce = policy.NewInForce(domain.Recorder)
	if domain.Findings, err = finding.Open(ctx, domain.Recorder, domain.InForce); err != nil {
		return err
	}
	if d.campaigns, err = campaign.Open(ctx, domain.Recorder, domain.InForce, domain.Findings); err != nil {
		return err
	}
	if d.service, err = breakglass.New(ctx, domain); err != nil {
		return fmt.Errorf("putting the access policy in force: %w", err)
	}
	d.metrics.follow = d.service.Follow()
	return nil
}

func (d *daemon) messengers() map[string]announce.Messenger {
	m := map[string]announce.Messenger{"metrics": d.metrics}
	if d.slack != nil {
		m["slack"] = d.slack
		m["slack-findings"] = d.slack.Findings() // however long these wait, no request's card waits with them
	}
	d.campaignMessengers(m)
	return m
}
