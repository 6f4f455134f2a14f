package main

import (
	"context"
	"fmt"
	"net"
	"net/url"

	"k8s.io/client-go/rest"

	"github.com/breakglassd/breakglass/cmd/breakglassd/config"
	"github.com/breakglassd/breakglass/internal/cacheck"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/rotation"
	"github.com/breakglassd/breakglass/internal/rotation/metric"
)

// openCAChecks prepares the checks of the CAs. It talks to no other system.
func openCAChecks(cfg *config.Config, d *daemon) (*cacheck.Checks, error) {
	c := cacheck.Config{Service: d.service, Marks: d.ledger, Greet: d.clusters.GreetAsPeople, Measure: metric.Gauges(d.metrics.registry),
		Log: d.log,
		Names: func(ctx context.Context, id, server string) (cacheck.Address, error) {
			issuer, err := d.ca.Issuer(ctx, id)
			if err != nil {
				return cacheck.Address{}, err
			}
			at, err := d.clusters.PeopleAddress(ctx, id, server, issuer)
			return cacheck.Address{Names: at.Names, Wrong: at.Wrong, Err: at.Err}, err
		}}
	for _, cl := range cfg.Clusters {
		servers, err := d.clusters.Servers(cl.ID)
		if err != nil {
			return nil, err
		}
		o, err := observeConfig(cl, servers)
		if err != nil {
			return nil, err
		}
		observer, err := cluster.NewObserver(o)
		if err != nil {
			return nil, err
		}
		c.Clusters = append(c.Clusters, cacheck.Cluster{ID: cl.ID, Vault: d.ca, View: observer, Plan: planOptions(cl)})
	}
	return cacheck.New(c), nil
}

// observeConfig says what the checks of a cluster look at.
func observeConfig(cl config.Cluster, servers []cluster.Server) (cluster.ObserveConfig, error) {
	x, own := cl.CAChecks, servers[0].Config
	o := cluster.ObserveConfig{Cluster: cl.ID, Rest: own, ServerName: own.ServerName, Kubelets: x.Kubelets, Etcd: x.Etcd,
		EtcdCAFiles: x.EtcdCAFiles, KubeletCAFiles: x.KubeletCAFiles, Kubeconfigs: append([]string{cl.KubeconfigFile}, x.KubeconfigFiles...),
		KnownClientCAs: x.ClientCAFiles,
		Bundles:        map[string]string{}}
	// The CA of the daemon's own way to the cluster: people's (ca_file) may be for another address.
	loaded := rest.CopyConfig(own)
	if err := rest.LoadTLSFiles(loaded); err != nil {
		return o, fmt.Errorf("checks of the CAs of cluster %s: reading the files named in %s: %w", cl.ID, cl.KubeconfigFile, err)
	}
	o.CA = loaded.CAData
	for _, s := range servers {
		at, err := hostPort(s.Address)
		if err != nil {
			return o, err
		}
		o.Servers = append(o.Servers, at)
	}
	if x.BundleFile != "" {
		o.Bundles[""] = x.BundleFile
	}
	for _, b := range x.BundleFiles {
		at, err := hostPort(b.APIServer)
		if err != nil {
			return o, err
		}
		o.Bundles[at] = b.File
	}
	return o, nil
}

// hostPort is the host and port of an https address.
func hostPort(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", fmt.Errorf("reading the address of an API server: %w", err)
	}
	if u.Port() == "" {
		return net.JoinHostPort(u.Hostname(), "443"), nil
	}
	return u.Host, nil
}

// planOptions says what the commands of a plan are made for.
func planOptions(cl config.Cluster) rotation.PlanOptions {
	var copies []string
	if cl.CAChecks.BundleFile != "" {
		copies = append(copies, cl.CAChecks.BundleFile)
	}
	for _, b := range cl.CAChecks.BundleFiles {
		copies = append(copies, b.File)
	}
	return rotation.PlanOptions{Copies: copies, Bundle: cl.CAChecks.NodeBundleFile,
		ClusterCA: cl.CAChecks.NodeClusterCAFile}
}
