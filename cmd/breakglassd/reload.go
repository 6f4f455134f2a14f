package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"time"

	"github.com/breakglassd/breakglass/cmd/breakglassd/config"
	"github.com/breakglassd/breakglass/cmd/breakglassd/process"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

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
