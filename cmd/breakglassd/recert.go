package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/breakglassd/breakglass/cmd/breakglassd/config"
	"github.com/breakglassd/breakglass/internal/announce"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/cluster/survey"
	"github.com/breakglassd/breakglass/internal/controlplane"
	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/recert"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/vaultca"
)

// ownTime bounds what the daemon asks about itself for a campaign.
const ownTime = 60 * time.Second

// scanner looks at clusters for recertification, with a credential of its own where there is one.
type scanner struct {
	cfg      *config.Config
	ca       *vaultca.CA // nil when something else signs
	service  *breakglass.Service
	policy   func() *policy.Policy // nil when it is not known
	own      *cluster.Clusters     // the daemon's credential
	scan     *cluster.Clusters     // recertification's
	rules    *inventory.Rules
	defaults *inventory.Defaults
	ignores  []inventory.Ignore
	log      *slog.Logger
}

// openScanner prepares looking at clusters, of which own are those with the daemon's credential. It asks no other system.
func openScanner(cfg *config.Config, own *cluster.Clusters, log *slog.Logger) (*scanner, error) {
	s := &scanner{cfg: cfg, own: own, log: log}
	c := cluster.Config{Log: log}
	for i, cl := range cfg.Clusters {
		t := cluster.Target{ID: cl.ID, Kubeconfig: cl.KubeconfigFile, CAFile: cl.CAFile, APIServers: cl.APIServers}
		if cl.ScanKubeconfigFile != "" {
			if err := config.OnlyOwnerWrites(fmt.Sprintf("clusters[%d].scan_kubeconfig_file", i), cl.ScanKubeconfigFile); err != nil {
				return nil, err
			}
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
		text, err := config.ReadFile(file)
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
func (d *daemon) openRecert(cfg *config.Config) error {
	s, err := openScanner(cfg, d.clusters, d.log)
	if err != nil {
		return err
	}
	s.ca, s.service, s.policy = d.ca, d.service, d.service.Policy
	for _, cl := range cfg.Clusters {
		if _, err := given(cl); err != nil { // emergency access works without: say so now, and not on the morning of the campaign
			d.log.Warn("a file for recertification cannot be read: the cluster will not be looked at", slog.Any("error", err))
		}
	}
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
	accounts := func(ctx context.Context, all []record.SlackAccount) (map[record.SlackAccount]recert.AccountState, error) {
		return d.slack.Accounts(ctx, all)
	}
	x := recert.Config{Domain: d.service, Campaigns: d.campaigns, Ledger: d.ledger, Signer: signer, Dir: cfg.Recertification.Dir,
		Clusters: clusterIDs(cfg),
		Scan:     s.look, Own: s.self, Hours: hours, Log: d.log}
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

// given reads the files about a cluster that the API does not show. They are read for every scan: they are copies, and change.
func given(cl config.Cluster) (survey.Options, error) {
	o := survey.Options{Given: map[string][]byte{}}
	for _, file := range cl.ScanFiles {
		text, err := config.ReadFile(file)
		if err != nil {
			return o, fmt.Errorf("what is given about cluster %s (scan_files, --given): %w: correct the path, or remove the key", cl.ID, err)
		}
		if _, err := controlplane.ParseGiven(file, text); err != nil {
			return o, fmt.Errorf("what is given about cluster %s (scan_files, --given): %w", cl.ID, err)
		}
		o.Given[file] = text
	}
	if cl.AuthenticationConfigFile != "" {
		text, err := config.ReadFile(cl.AuthenticationConfigFile)
		if err != nil {
			return o, fmt.Errorf("the authentication configuration of cluster %s (authentication_config_file, --authentication-config): %w: "+
				"correct the path, or remove the key", cl.ID, err)
		}
		o.AuthenticationConfig = text
	}
	return o, nil
}

// collect reads a cluster, and what was given about it.
func (s *scanner) collect(ctx context.Context, cl config.Cluster) (*inventory.Snapshot, error) {
	o, err := given(cl)
	if err != nil {
		return nil, err
	}
	return s.scan.Collect(ctx, cl.ID, o)
}

// look collects and judges one cluster.
func (s *scanner) look(ctx context.Context, id string) (*inventory.Snapshot, *doors.Analysis, error) {
	n := slices.IndexFunc(s.cfg.Clusters, func(cl config.Cluster) bool { return cl.ID == id })
	if n < 0 {
		return nil, nil, breakglass.NoSuchCluster(id)
	}
	snap, err := s.collect(ctx, s.cfg.Clusters[n])
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
	return snap, doors.Analyse(snap, o), nil
}

// options are what a cluster is judged by, without the grants that are in force.
func (s *scanner) options(ctx context.Context, id string) inventory.Options {
	o := inventory.Options{Rules: s.rules, Defaults: s.defaults, Ignores: s.ignores, Now: time.Now().UTC()}
	if s.ca != nil {
		issuers, err := s.ca.Issuers(ctx, id)
		if err != nil { // without them our CA shows as an unknown one, which is true
			s.log.Warn("Vault does not tell the break-glass CA, so that the scan shows it as an unknown CA",
				slog.String("cluster", id), slog.Any("error", err))
		}
		for _, issuer := range issuers {
			o.OurCAs = append(o.OurCAs, breakglass.Fingerprint(issuer.Raw))
		}
	}
	if s.policy != nil {
		o.OurGroups = groupsOf(id, s.policy())
	}
	if me, err := s.own.Whoami(ctx, id); err == nil { // without it the daemon's own rights show as anybody's
		o.Self = me
	}
	return o
}

// self says what the daemon itself may do in Vault and in the clusters, as doctor finds it: an item for each system, with all
// that was looked at as its evidence, and one for what cannot be looked at.
func (s *scanner) self(ctx context.Context) ([]recert.Item, error) {
	ctx, cancel := context.WithTimeout(ctx, ownTime)
	defer cancel()
	var out []recert.Item
	if s.ca != nil {
		var mounts []recert.VaultMount
		for _, cl := range s.cfg.Clusters {
			if cl.VaultMount != "" {
				mounts = append(mounts, recert.VaultMount{Cluster: cl.ID, Path: cl.VaultMount})
			}
		}
		out = append(out, recert.OwnVault(s.ca.Doctor(ctx)), recert.OthersInVault(mounts))
	}
	for _, cl := range s.cfg.Clusters {
		rights := rightsIn(s.service.Policy(), cl.ID)
		out = append(out, recert.OwnCluster(cl.ID, s.own.CheckRights(ctx, cl.ID, rights), rights))
	}
	return out, nil
}

// campaignMessengers are those that tell of campaigns: beside the ones that tell of requests, so that neither waits for the other.
func (d *daemon) campaignMessengers(m map[string]announce.Messenger) {
	if d.recert != nil && d.slack != nil {
		m["slack-campaigns"] = d.slack.Campaigns()
	}
}
