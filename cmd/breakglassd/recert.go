package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/recert"
	"github.com/breakglassd/breakglass/internal/vaultca"
)

// ownTime bounds what the daemon asks about itself for a campaign.
const ownTime = 60 * time.Second

// scanner looks at clusters for recertification, with a credential of its own where there is one.
type scanner struct {
	cfg      *Config
	ca       *vaultca.CA // nil when something else signs
	service  *breakglass.Service
	own      *cluster.Clusters // the daemon's credential
	scan     *cluster.Clusters // recertification's
	rules    *inventory.Rules
	defaults *inventory.Defaults
	ignores  []inventory.Ignore
}

// openScanner prepares looking at clusters, of which own are those with the daemon's credential. It talks to nobody.
func openScanner(cfg *Config, own *cluster.Clusters, log *slog.Logger) (*scanner, error) {
	s := &scanner{cfg: cfg, own: own}
	c := cluster.Config{Log: log}
	for _, cl := range cfg.Clusters {
		t := cluster.Target{ID: cl.ID, Kubeconfig: cl.KubeconfigFile, CAFile: cl.CAFile, APIServers: cl.APIServers}
		if cl.ScanKubeconfigFile != "" {
			t.Kubeconfig = cl.ScanKubeconfigFile
		}
		c.Targets = append(c.Targets, t)
	}
	var err error
	if s.scan, err = cluster.Open(c); err != nil {
		return nil, fmt.Errorf("the credentials for recertification: %w", err)
	}
	if s.rules, s.defaults, err = inventory.Shipped(); err != nil {
		return nil, err
	}
	if file := cfg.RecertIgnoreFile; file != "" {
		text, err := readFile(file)
		if err != nil {
			return nil, fmt.Errorf("recert_ignore_file: %w", err)
		}
		if s.ignores, err = inventory.LoadIgnores(text); err != nil {
			return nil, fmt.Errorf("recert_ignore_file %s: %w", file, err)
		}
	}
	return s, nil
}

// openRecert prepares the campaigns.
func (d *daemon) openRecert(cfg *Config) error {
	s, err := openScanner(cfg, d.clusters, d.log)
	if err != nil {
		return err
	}
	s.ca, s.service = d.ca, d.service
	hours, err := cfg.Recertification.Hours()
	if err != nil {
		return err
	}
	signer, _, _, err := ledgerKey(cfg)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.Recertification.Dir, 0o700); err != nil {
		return fmt.Errorf("recertification.dir: %w", err)
	}
	// Campaigns ask Slack about accounts, and Slack shows campaigns: it is opened after them.
	accounts := func(ctx context.Context, all []breakglass.SlackAccount) (map[breakglass.SlackAccount]recert.AccountState, error) {
		return d.slack.Accounts(ctx, all)
	}
	x := recert.Config{Domain: d.service, Ledger: d.ledger, Signer: signer, Dir: cfg.Recertification.Dir, Clusters: clusterIDs(cfg), Scan: s.look, Own: s.self, Hours: hours, Log: d.log}
	if cfg.Slack.Enabled {
		x.Accounts = accounts
	}
	if d.recert, err = recert.New(x); err != nil {
		return err
	}
	if cron := cfg.Recertification.Cron; cron != "" {
		return d.schedule.Add("recertification", cron, cfg.Recertification.Zone, d.recert.Job)
	}
	return nil
}

// look collects and judges one cluster.
func (s *scanner) look(ctx context.Context, id string) (*inventory.Snapshot, *inventory.Analysis, error) {
	snap, err := s.scan.Collect(ctx, id, cluster.CollectOptions{})
	if err != nil {
		return nil, nil, err
	}
	o := s.options(ctx, id)
	open, err := s.service.Open(ctx)
	if err != nil {
		return nil, nil, err
	}
	o.Grants = []string{}
	for _, r := range open {
		if r.Ask.Cluster == id && r.Bound {
			o.Grants = append(o.Grants, cluster.BindingName(r.ID))
		}
	}
	return snap, inventory.Analyse(snap, o), nil
}

// options are what a cluster is judged by, without the grants that are in force.
func (s *scanner) options(ctx context.Context, id string) inventory.Options {
	o := inventory.Options{Rules: s.rules, Defaults: s.defaults, Ignores: s.ignores, Now: time.Now().UTC()}
	if s.ca != nil {
		if issuer, err := s.ca.Issuer(ctx, id); err == nil { // without it our CA shows as one that nobody knows, which is true
			o.OurCAs = []string{breakglass.Fingerprint(issuer.Raw)}
		}
	}
	if me, err := s.own.Whoami(ctx, id); err == nil { // without it the daemon's own rights show as anybody's
		o.Self = me
	}
	return o
}

// self says what the daemon itself may do in Vault and in the clusters, as doctor finds it: an item for each system, with all
// that was looked at as its evidence.
func (s *scanner) self(ctx context.Context) ([]recert.Item, error) {
	ctx, cancel := context.WithTimeout(ctx, ownTime)
	defer cancel()
	var out []recert.Item
	item := func(id, clusterID, title string) *recert.Item {
		out = append(out, recert.Item{ID: "own/" + id, Kind: "daemon", Cluster: clusterID, Title: title, Risk: inventory.Info, Evidence: []string{}})
		return &out[len(out)-1]
	}
	if s.ca != nil {
		i := item("vault", "", "what the daemon's token may do in Vault, and what signs under its roles")
		for _, f := range s.ca.Doctor(ctx) {
			i.Evidence = append(i.Evidence, string(f.Level)+": "+f.Subject+": "+f.Text)
			switch f.Level {
			case vaultca.LevelError:
				i.Risk, i.Advice = inventory.High, "run deploy/vault/setup.sh again, and find out who changed it"
			case vaultca.LevelWarn:
				if !i.Risk.AtLeast(inventory.Medium) {
					i.Risk = inventory.Medium
				}
			case vaultca.LevelOK:
			}
		}
	}
	for _, cl := range s.cfg.Clusters {
		i := item("cluster/"+cl.ID, cl.ID, "what the daemon's credential may do in cluster "+cl.ID)
		for _, f := range s.own.CheckRights(ctx, cl.ID, rightsIn(s.service.Policy(), cl.ID)) {
			i.Evidence = append(i.Evidence, f.What)
			if !f.OK {
				i.Risk, i.Advice = inventory.High, f.Next
			}
		}
	}
	return out, nil
}

// campaignMessengers are those that tell of campaigns: beside the ones that tell of requests, so that neither waits for the other.
func (d *daemon) campaignMessengers(m map[string]breakglass.Messenger) {
	if d.recert != nil && d.slack != nil {
		m["slack-campaigns"] = d.slack.Campaigns()
	}
}
