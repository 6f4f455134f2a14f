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
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"
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
	AcceptClock  bool              // see breakglass.Config
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

// clusterIDs lists the configured clusters.
func clusterIDs(cfg *config.Config) []string {
	ids := make([]string, len(cfg.Clusters))
	for i, c := range cfg.Clusters {
		ids[i] = c.ID
	}
	return ids
}

// openLedger opens the ledger for writing and returns it with its store and its public key.
func openLedger(ctx context.Context, cfg *config.Config) (*ledger.Ledger, *sqlstore.Store, string, error) {
	signer, verifier, vkey, err := ledgerKey(cfg)
	if err != nil {
		return nil, nil, "", err
	}
	store, err := sqlstore.Open(ctx, cfg.Ledger.Path)
	if err != nil {
		return nil, nil, "", fmt.Errorf("opening the ledger: %w", err)
	}
	l, err := ledger.Open(ctx, store, signer, verifier)
	if err != nil {
		return nil, nil, "", errors.Join(fmt.Errorf("opening the ledger %s: %w", cfg.Ledger.Path, err), store.Close())
	}
	return l, store, vkey, nil
}

// ledgerKey reads the ledger's key and holds its name against the configuration.
func ledgerKey(cfg *config.Config) (note.Signer, note.Verifier, string, error) {
	signer, verifier, err := ledger.LoadSigner(cfg.Ledger.KeyFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, "", fmt.Errorf("%w: a new ledger is made with `breakglassd init`; for an old one bring its key back from the backup",
			err)
	}
	if err != nil {
		return nil, nil, "", err
	}
	if verifier.Name() != cfg.Ledger.Origin {
		return nil, nil, "", fmt.Errorf("ledger.origin is %q, but the key in %s is for %q: correct the one that is wrong", cfg.Ledger.Origin,
			cfg.Ledger.KeyFile, verifier.Name())
	}
	text, err := config.ReadSecret("ledger.key_file", cfg.Ledger.KeyFile)
	if err != nil {
		return nil, nil, "", err
	}
	vkey, err := ledger.PublicKey(string(text))
	return signer, verifier, vkey, err
}

// initLedger makes the ledger's key and its empty database, and returns the public key. It refuses what exists.
func initLedger(ctx context.Context, cfg *config.Config) (vkey string, err error) {
	for _, path := range []string{cfg.Ledger.KeyFile, cfg.Ledger.Path} {
		if _, err := os.Lstat(path); err == nil {
			return "", fmt.Errorf("%s exists: a ledger is made once and never made anew; if it is really meant, move the old one away first", path)
		}
	}
	for key, path := range map[string]string{"ledger.key_file": cfg.Ledger.KeyFile, "ledger.path": cfg.Ledger.Path} {
		if err := makeParent(key, path); err != nil {
			return "", err
		}
	}
	if vkey, err = ledger.CreateKey(cfg.Ledger.KeyFile, cfg.Ledger.Origin); err != nil {
		return "", err
	}
	if err := sqlstore.Create(ctx, cfg.Ledger.Path); err != nil {
		return "", errors.Join(fmt.Errorf("making the ledger: %w", err), os.Remove(cfg.Ledger.KeyFile)) // the key has signed nothing
	}
	l, _, _, err := openLedger(ctx, cfg) // signs the first checkpoint, of nothing, so that the ledger verifies from the start
	if err != nil {
		return "", err
	}
	return vkey, l.Close()
}

// groupsOf lists the groups that certificates for a cluster may carry by any of the policies, of which some may be nil.
func groupsOf(cluster string, known ...*policy.Policy) []string {
	var out []string
	for _, p := range known {
		if p == nil {
			continue
		}
		for _, prof := range p.Profiles {
			if g := prof.Rights.Group; g != "" && slices.Contains(prof.Clusters, cluster) && !slices.Contains(out, g) {
				out = append(out, g)
			}
		}
	}
	return out
}

// openVault prepares the connection to Vault, for the groups of all the policies that may come in force; see vaultca.Open.
func openVault(ctx context.Context, cfg *config.Config, log *slog.Logger, known ...*policy.Policy) (*vaultca.CA, error) {
	v := vaultca.Config{Address: cfg.Vault.Address, Namespace: cfg.Vault.Namespace, CAFile: cfg.Vault.CAFile, Policy: cfg.Vault.Policy,
		Auth: vaultca.Auth(cfg.Vault.Auth), Timeout: cfg.Vault.Timeout, SignTimeout: cfg.Vault.SignTimeout, Log: log}
	for _, c := range cfg.Clusters {
		v.Mounts = append(v.Mounts, vaultca.Mount{Cluster: c.ID, Path: c.VaultMount, IssuerID: c.IssuerID, NextIssuerID: c.NextIssuerID,
			MaxTTL: c.MaxTTL, Groups: groupsOf(c.ID, known...)})
	}
	return vaultca.Open(ctx, v)
}

// openClusters prepares the connections to the clusters; see cluster.Open.
func openClusters(cfg *config.Config, vkey string, asked *webhook.Memory, log *slog.Logger) (*cluster.Clusters, error) {
	c := cluster.Config{Log: log}
	if vkey != "" {
		c.Ledger = cluster.LedgerID(vkey)
	}
	if asked != nil {
		c.Asked = asked.Recent
	}
	for i, cl := range cfg.Clusters {
		if cl.KubeconfigFile != "" {
			if err := config.OnlyOwnerWrites(fmt.Sprintf("clusters[%d].kubeconfig_file", i), cl.KubeconfigFile); err != nil {
				return nil, err
			}
		}
		c.Targets = append(c.Targets, cluster.Target{ID: cl.ID, Kubeconfig: cl.KubeconfigFile, CAFile: cl.CAFile, APIServers: cl.APIServers,
			People: cl.PeoplesWay()})
	}
	return cluster.Open(c)
}

// openSlack prepares the Slack app; see slackbot.New.
func openSlack(cfg *config.Config, s *breakglass.Service, k *campaign.Book, l *ledger.Ledger, r *recert.Service, log *slog.Logger,
	observe func(what, outcome string, took time.Duration)) (*slackbot.Bot, error) {
	token, err := config.ReadSecret("slack.bot_token_file", cfg.Slack.BotTokenFile)
	if err != nil {
		return nil, err
	}
	signing, err := config.ReadSecret("slack.signing_secret_file", cfg.Slack.SigningSecretFile)
	if err != nil {
		return nil, err
	}
	return slackbot.New(slackbot.Config{Service: s, Campaigns: k, Ledger: l, Recert: r, BotToken: token, SigningSecret: signing,
		AppID:        cfg.Slack.AppID,
		TeamIDs:      cfg.Slack.TeamIDs,
		EnterpriseID: cfg.Slack.EnterpriseID, Channel: cfg.Slack.Channel, APIURL: cfg.Slack.APIURL, Log: log, Observe: observe})
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

// reloads reads what may change while the daemon runs, each time it is told to.
func (d *daemon) reloads(ctx context.Context, p parts) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.Reload:
			process.Notify("RELOADING=1")
			changes, err := d.reload(ctx)
			if p.Reloaded != nil {
				p.Reloaded(changes, err)
			}
			process.Notify("READY=1")
		}
	}
}

// reload puts the access policy and the TLS certificate in force as they are on disk now. What is wrong stays as it was.
func (d *daemon) reload(ctx context.Context) (changes []string, err error) {
	changes, err = d.reloadPolicy(ctx)
	no, _ := record.AsRefusal(err)
	d.metrics.reloaded(err == nil || no != nil && no.Code == policy.CodeWaits, time.Now())
	switch {
	case err != nil:
		d.log.Error("THE ACCESS POLICY ON DISK IS NOT IN FORCE: the one before stays", slog.String("policy", d.service.Policy().Digest),
			slog.Any("error", err),
			slog.Any("taken_away", changes))
	case len(changes) == 0:
		d.log.Info("the access policy has not changed", slog.String("policy", d.service.Policy().Digest))
	default:
		d.log.Info("a new access policy is in force", slog.String("policy", d.service.Policy().Digest), slog.Any("changes", changes))
	}
	if err := d.loadCert(); err != nil {
		d.log.Error("the TLS certificate on disk is not in use: the one before stays", slog.Any("error", err))
	}
	return changes, err
}

func (d *daemon) reloadPolicy(ctx context.Context) ([]string, error) {
	p, err := readPolicy(d.cfg, d.ca != nil)
	if err != nil {
		d.service.InForce.Unread(ctx, err)
		return nil, err
	}
	return d.service.InForce.Set(ctx, p)
}

// readPolicy reads the access policy and holds it against the configuration.
func readPolicy(cfg *config.Config, vault bool) (*policy.Policy, error) {
	if err := config.OnlyOwnerWrites("policy_file", cfg.PolicyFile); err != nil {
		return nil, err
	}
	text, err := config.ReadFile(cfg.PolicyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the access policy (policy_file): %w", err)
	}
	p, err := policy.Parse(cfg.PolicyFile, text)
	if err != nil {
		return nil, err
	}
	if bad := cfg.Fits(p, vault); len(bad) > 0 {
		return nil, &config.Error{Problems: bad}
	}
	return p, nil
}

// loadCert reads the TLS certificates, if there are any.
func (d *daemon) loadCert() error {
	if d.cfg.Listen.CertFile != "" {
		pair, err := readCert("listen.tls", d.cfg.Listen.CertFile, d.cfg.Listen.KeyFile)
		if err != nil {
			return err
		}
		d.cert.Store(&pair)
	}
	if key, cert, file := hookPair(d.cfg); d.cfg.Webhooks.Address != "" && cert != "" {
		pair, err := readCert(key, cert, file)
		if err != nil {
			return err
		}
		d.hookCert.Store(&pair)
	}
	return nil
}

// readCert reads a TLS certificate and its key. The two are named in the configuration by a key and _cert_file or _key_file.
func readCert(name, certFile, keyFile string) (tls.Certificate, error) {
	key, err := config.ReadSecret(name+"_key_file", keyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	chain, err := config.ReadFile(certFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s_cert_file: %w", name, err)
	}
	pair, err := tls.X509KeyPair(chain, []byte(key))
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s_cert_file %s and its key file are not a certificate and its key in PEM: %w", name, certFile, err)
	}
	return pair, nil
}
