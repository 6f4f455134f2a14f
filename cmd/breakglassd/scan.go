package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/inventory"
)

// scanCommand looks at clusters without the daemon: for pipelines, and for a look between campaigns.
func scanCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "scan", Short: "List the doors into each cluster and who holds power there, as recertification sees them",
		Long: "List the doors into each cluster and who holds power there, as recertification sees them. Nothing is recorded.\n\n" +
			"Exit codes: 0; 6 a cluster does not answer; with --ci 8 if there is an alarm of at least that severity (info, low, medium, high, critical)."}
	path := configFlag(cmd)
	only := cmd.Flags().StringP("cluster", "c", "", "this cluster `id` alone (default: all)")
	ci := cmd.Flags().String("ci", "", "exit with 8 on an alarm of at least this `severity`")
	output := cmd.Flags().StringP("output", "o", "", "output `format`: json")
	all := cmd.Flags().Bool("all", false, "also what is expected, ignored or only worth knowing")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		threshold := inventory.Severity("")
		if *ci != "" {
			var err error
			if threshold, err = inventory.ParseSeverity(*ci); err != nil {
				return usage("--ci: %w", err)
			}
		}
		cfg, err := loadConfig(*path)
		if err != nil {
			return err
		}
		quiet := slog.New(slog.DiscardHandler)
		own, err := openClusters(cfg, nil, quiet)
		if err != nil {
			return err
		}
		s, err := openScanner(cfg, own, quiet)
		if err != nil {
			return err
		}
		var found []*inventory.Analysis
		for _, cl := range cfg.Clusters {
			if *only != "" && *only != cl.ID {
				continue
			}
			snap, err := s.scan.Collect(cmd.Context(), cl.ID, cluster.CollectOptions{})
			if err != nil {
				return &exitError{exitUnreachable, err}
			}
			found = append(found, inventory.Analyse(snap, s.options(cmd.Context(), cl.ID)))
		}
		if len(found) == 0 {
			return usage("there is no cluster %q in the configuration", *only)
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

// showAnalysis prints what was found. Names in it were made fit for a terminal by package inventory.
func showAnalysis(out io.Writer, a *inventory.Analysis, all bool) {
	fmt.Fprintf(out, "cluster %s, %s\n\ndoors\n", a.Cluster, a.At.UTC().Format(time.RFC3339))
	for _, d := range a.Doors {
		fmt.Fprintf(out, "  %-11s  %-9s %s\n", d.State, d.Risk, d.Title)
		if d.Tellable != "" {
			fmt.Fprintf(out, "               to tell the rest: %s\n", d.Tellable)
		}
	}
	shown := slices.DeleteFunc(slices.Clone(a.Findings), func(f inventory.Finding) bool { return !all && !f.Alarm() })
	fmt.Fprintf(out, "\nfindings: %d of %d\n", len(shown), len(a.Findings))
	for _, f := range shown {
		fmt.Fprintf(out, "  %-9s %s\n", f.Severity, f.Title)
		if len(f.Path) > 0 {
			fmt.Fprintf(out, "            %s\n", f.Path)
		}
		if f.Next != "" {
			fmt.Fprintf(out, "            next: %s\n", f.Next)
		}
	}
	fmt.Fprintln(out)
}

// rightsIn lists what the profiles of a cluster give.
func rightsIn(p *breakglass.Policy, clusterID string) []breakglass.Rights {
	var out []breakglass.Rights
	for _, prof := range p.Profiles {
		if slices.Contains(prof.Clusters, clusterID) {
			out = append(out, prof.Rights)
		}
	}
	return out
}
