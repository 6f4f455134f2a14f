package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/cmd/breakglassd/config"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/ledger/sqlstore"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/recert"
	"github.com/breakglassd/breakglass/internal/slackbot"
	"github.com/breakglassd/breakglass/internal/vaultca"
	"github.com/breakglassd/breakglass/internal/webhook"
)

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
