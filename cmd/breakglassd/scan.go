package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/breakglassd/breakglass/cmd/breakglassd/config"
	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/policy"
)

// scanCommand looks at clusters without the daemon: for pipelines, and for a look between campaigns.
func scanCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "scan", Short: "List the doors into each cluster and who holds power there, as recertification sees them",
		Long: "List the doors into each cluster and who holds power there, as recertification sees them. Nothing is recorded.\n\n" +
			"What the API of a cluster does not show can be given: the manifests of the control plane's static pods, or their command lines, and " +
			"the structured authentication configuration. " +
			"The keys scan_files and authentication_config_file of a cluster in the configuration give them to every scan, the scheduled ones " +
			"too. Findings that are known and accepted are in the file that recert_ignore_file names. The access policy names " +
			"the groups of group mode, and Vault is asked, without a credential, for the break-glass CA.\n\n" +
			"Exit codes: 0; 6 a cluster does not answer; with --ci 8 if there is an alarm of at least that severity (info, low, medium, high, " +
			"critical)."}
	path := configFlag(cmd)
	only := cmd.Flags().StringP("cluster", "c", "", "this cluster `id` alone (default: all)")
	ci := cmd.Flags().String("ci", "", "exit with 8 on an alarm of at least this `severity`")
	output := cmd.Flags().StringP("output", "o", "", "output `format`: json")
	all := cmd.Flags().Bool("all", false, "also what is expected, ignored or only worth knowing")
	files := cmd.Flags().StringArray("given", nil, "a `file` about the cluster's control plane, beside scan_files: a static pod's manifest, "+
		"or a command line (may be repeated)")
	authentication := cmd.Flags().String("authentication-config", "",
		"a copy of the `file` that the API server's --authentication-config names, instead of authentication_config_file")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		threshold := inventory.Severity("")
		if *ci != "" {
			var err error
			if threshold, err = inventory.ParseSeverity(*ci); err != nil {
				return usage("--ci: %w", err)
			}
		}
		cfg, err := config.Load(*path)
		if err != nil {
			return err
		}
		if *only != "" {
			cfg.Clusters = slices.DeleteFunc(cfg.Clusters, func(cl config.Cluster) bool { return cl.ID != *only })
			if len(cfg.Clusters) == 0 {
				return usage("there is no cluster %q in the configuration", *only)
			}
		}
		if len(*files) > 0 || *authentication != "" {
			if len(cfg.Clusters) > 1 {
				return usage("--given and --authentication-config are about one cluster: name it with --cluster")
			}
			cl := &cfg.Clusters[0]
			cl.ScanFiles = slices.Concat(cl.ScanFiles, *files)
			cl.AuthenticationConfigFile = cmp.Or(*authentication, cl.AuthenticationConfigFile)
		}
		for _, cl := range cfg.Clusters { // a file that is not there is a mistake in the command, not a cluster that is down
			if _, err := given(cl); err != nil {
				return usage("%w", err)
			}
		}
		// The access policy and Vault tell what of all this is our own.
		text, err := config.ReadFile(cfg.PolicyFile)
		if err != nil {
			return fmt.Errorf("reading the access policy (policy_file): %w", err)
		}
		pol, err := policy.Parse(cfg.PolicyFile, text)
		if err != nil {
			return err
		}
		quiet := slog.New(slog.DiscardHandler)
		own, err := openClusters(cfg, "", nil, quiet)
		if err != nil {
			return err
		}
		s, err := openScanner(cfg, own, quiet)
		if err != nil {
			return err
		}
		s.log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
		if s.ca, err = openVault(cmd.Context(), cfg, quiet, pol); err != nil {
			return err
		}
		s.policy = func() *policy.Policy { return pol }
		var found []*doors.Analysis
		for _, cl := range cfg.Clusters {
			snap, err := s.collect(cmd.Context(), cl)
			if err != nil {
				return &exitError{exitUnreachable, err}
			}
			found = append(found, doors.Analyse(snap, s.options(cmd.Context(), cl.ID)))
		}
		if *output == "json" {
			if err := json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"clusters": found}); err != nil {
				return err
			}
		} else {
			for _, a := range found {
				showAnalysis(cmd.OutOrStdout(), a, *all)
			}
		}
		for _, a := range found {
			if threshold != "" && inventory.ExitCode(a.Findings, threshold) != inventory.ExitClean {
				return &exitError{exitFindings, fmt.Errorf("there are alarms of severity %s or more", threshold)}
			}
		}
		return nil
	}
	return cmd
}

// showAnalysis prints what was found. Names in it were made fit for a terminal by package doors.
func showAnalysis(out io.Writer, a *doors.Analysis, all bool) {
	fmt.Fprintf(out, "cluster %s, %s\n\ndoors\n", a.Cluster, a.At.UTC().Format(time.RFC3339))
	for _, d := range a.Doors {
		fmt.Fprintf(out, "  %-11s  %-9s %s\n", d.State, d.Risk, d.Title)
		if d.Tellable != "" {
			fmt.Fprintf(out, "               to find out: %s\n", d.Tellable)
		}
	}
	for n, f := range slices.DeleteFunc(slices.Clone(a.Findings), func(f inventory.Finding) bool {
		return f.Rule != inventory.RuleNotJudged || f.Ignored != nil
	}) {
		if n == 0 {
			fmt.Fprintf(out, "\nnot judged: cannot tell\n")
		}
		fmt.Fprintf(out, "  %s\n", f.Title)
	}
	shown := slices.DeleteFunc(slices.Clone(a.Findings), func(f inventory.Finding) bool { return !all && !f.Alarm() })
	fmt.Fprintf(out, "\nfindings: %d of %d\n", len(shown), len(a.Findings))
	for _, f := range shown {
		fmt.Fprintf(out, "  %-9s %s\n", f.Severity, f.Title)
		if len(f.Path) > 0 {
			fmt.Fprintf(out, "            %s\n", f.Path)
		}
		if next := f.WhatNext(); next != "" {
			fmt.Fprintf(out, "            next: %s\n", next)
		}
	}
	fmt.Fprintln(out)
}

// rightsIn lists what the profiles of a cluster give.
func rightsIn(p *policy.Policy, clusterID string) []policy.Rights {
	var out []policy.Rights
	for _, prof := range p.Profiles {
		if slices.Contains(prof.Clusters, clusterID) {
			out = append(out, prof.Rights)
		}
	}
	return out
}
