package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/cmd/breakglassd/config"
	"github.com/breakglassd/breakglass/cmd/breakglassd/listen"
	"github.com/breakglassd/breakglass/internal/session"
	"github.com/breakglassd/breakglass/internal/session/store"
	"github.com/breakglassd/breakglass/internal/text"
	"github.com/breakglassd/breakglass/internal/webhook"
)

// hookClusters lists the clusters whose API servers may call, with the tokens read from their files.
func hookClusters(cfg *config.Config) ([]webhook.Cluster, error) {
	var out []webhook.Cluster
	for i, c := range cfg.Clusters {
		if !c.HasWebhook() {
			continue
		}
		x := webhook.Cluster{ID: c.ID, ClientNames: c.WebhookClientNames}
		if c.WebhookTokenFile != "" {
			tokens, err := config.ReadSecret(fmt.Sprintf("clusters[%d].webhook_token_file", i), c.WebhookTokenFile)
			if err != nil {
				return nil, err
			}
			for _, token := range strings.Fields(string(tokens)) { // one on each line
				x.Tokens = append(x.Tokens, text.Secret(token))
			}
		}
		if len(x.ClientNames) > 0 {
			pem, err := readClientCAs(cfg, i)
			if err != nil {
				return nil, err
			}
			x.ClientCAs = x509.NewCertPool()
			x.ClientCAs.AppendCertsFromPEM(pem)
		}
		out = append(out, x)
	}
	return out, nil
}

// readClientCAs reads the CAs that vouch for the client names of the cluster with the index i, of which there is at least one.
func readClientCAs(cfg *config.Config, i int) ([]byte, error) {
	key, file := fmt.Sprintf("clusters[%d].webhook_client_ca_file", i), cfg.Clusters[i].WebhookClientCAFile
	if file == "" {
		key, file = "webhooks.client_ca_file", cfg.Webhooks.ClientCAFile
	}
	pem, err := config.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: there is no PEM certificate in %s", key, file)
	}
	return pem, nil
}

// hookHandler is everything that API servers can call.
func (d *daemon) hookHandler() (http.Handler, error) {
	clusters, err := hookClusters(d.cfg)
	if err != nil {
		return nil, err
	}
	cfg := webhook.Config{Clusters: clusters, Lookup: d.service, Find: d.service.Findings.Find, Memory: d.asked, Log: d.log,
		Observe: d.metrics.hooked}
	if d.sessions != nil {
		cfg.Intake, cfg.Overloaded, cfg.Garbage = d.sessions.Intake(), store.ErrOverloaded, session.ErrUnreadable
	}
	return webhook.New(cfg)
}

// hookDoor opens the door for API servers, which is TLS always: Validate has seen to that.
func (d *daemon) hookDoor() (door, error) {
	handler, err := d.hookHandler()
	if err != nil {
		return door{}, err
	}
	l, err := net.Listen("tcp", d.cfg.Webhooks.Address)
	if err != nil {
		return door{}, fmt.Errorf("listening for API servers (webhooks.address): %w", err)
	}
	var cas *x509.CertPool // of all clusters: the handler asks each cluster's own
	for i, c := range d.cfg.Clusters {
		if len(c.WebhookClientNames) == 0 {
			continue
		}
		pem, err := readClientCAs(d.cfg, i)
		if err != nil {
			return door{}, errors.Join(err, l.Close())
		}
		if cas == nil {
			cas = x509.NewCertPool()
		}
		cas.AppendCertsFromPEM(pem)
	}
	tokens := slices.ContainsFunc(d.cfg.Clusters, func(c config.Cluster) bool { return c.WebhookTokenFile != "" })
	l = tls.NewListener(listen.PerAddress(l, hookConnections), webhook.TLSConfig(func() (*tls.Certificate, error) {
		return d.hookCert.Load(),
			nil
	}, cas, tokens))
	d.log.Info("API servers call", slog.String("address", l.Addr().String()), slog.Bool("audit", d.sessions != nil))
	return door{l, &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelDebug)}}, nil
}

// hookPair names the certificate and key of the listener for API servers: its own, or else that for people, if there is one.
func hookPair(cfg *config.Config) (name, certFile, keyFile string) {
	if cfg.Webhooks.CertFile != "" {
		return "webhooks.tls", cfg.Webhooks.CertFile, cfg.Webhooks.KeyFile
	}
	return "listen.tls", cfg.Listen.CertFile, cfg.Listen.KeyFile
}
