package cluster_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cluster"
)

// ofLedger is a daemon's connection to the simulated cluster.
func ofLedger(t *testing.T, w world, ledger string) *cluster.Clusters {
	t.Helper()
	c, err := cluster.Open(cluster.Config{Ledger: ledger, Targets: []cluster.Target{{ID: "c1", Kubeconfig: kubeconfigOf(t, w.sim, "daemon")}}})
	must(t, err)
	return c
}

func serviceOn(t *testing.T, c func() breakglass.Binder) *bgtest.System {
	t.Helper()
	return bgtest.New(t, bgtest.Options{Config: func(cfg *bgtest.Config) {
		cfg.Binder, cfg.ReconcileBindingsEvery, cfg.BindTimeout = c(), 100*time.Millisecond, 5*time.Second
	}})
}

func foreignFindings(s *bgtest.System) (out []string) {
	for _, f := range s.Service.Findings.Open() {
		if f.Check == "binding-foreign" {
			out = append(out, f.What)
		}
	}
	return out
}

// Two daemons on one cluster, such as a test instance with a copy of the configuration, must not take each other's grants for
// garbage.
func TestDaemonsLeaveEachOthersBindingsAlone(t *testing.T) {
	w := start(t, 0)
	one := serviceOn(t, func() breakglass.Binder { return ofLedger(t, w, "one") })
	r := one.Grant("alice", "admin")
	_, csr := bgtest.NewCSR()
	_, err := one.Claim("alice", r.ID, csr)
	must(t, err)
	made := names(w.sim)
	clusterWide, _ := w.sim.Bindings()
	if len(made) != 1 || clusterWide[0].Labels[cluster.LedgerLabel] != "one" {
		t.Fatalf("got %q with %v, want the binding with its ledger", made, clusterWide[0].Labels)
	}
	uid := clusterWide[0].UID
	two := serviceOn(t, func() breakglass.Binder { return ofLedger(t, w, "two") })
	eventually(t, func() string {
		if got := foreignFindings(two); len(got) != 1 || !strings.Contains(got[0], made[0]) || !strings.Contains(got[0], "another ledger (one)") {
			return "got findings " + strings.Join(got, "; ")
		}
		return ""
	})
	mustSay(t, ofLedger(t, w, "two").Unbind(t.Context(), "c1", r.ID), "another ledger")
	if clusterWide, _ := w.sim.Bindings(); len(clusterWide) != 1 || clusterWide[0].UID != uid {
		t.Errorf("got %+v, want the first daemon's binding untouched", clusterWide)
	}
	if got := foreignFindings(one); len(got) > 0 {
		t.Errorf("the first daemon takes its own for another's: %q", got)
	}
	_, err = one.Service.Revoke(t.Context(), bgtest.ByKey("alice"), r.ID, "done with it")
	must(t, err)
	eventually(t, func() string {
		if got := append(names(w.sim), foreignFindings(two)...); len(got) > 0 {
			return "left: " + strings.Join(got, "; ")
		}
		return ""
	})
}

// A release before the label wrote none: what belongs to a request is ours, and what does not is nobody's garbage.
func TestBindingsOfAnEarlierReleaseAreAdopted(t *testing.T) {
	w := start(t, 0)
	ledger := ""
	s := serviceOn(t, func() breakglass.Binder { return ofLedger(t, w, ledger) })
	r := s.Grant("alice", "admin")
	_, csr := bgtest.NewCSR()
	_, err := s.Claim("alice", r.ID, csr)
	must(t, err)
	ledger = "one"
	s.Restart()
	stray := admin // of another daemon of the earlier release, or of a ledger that is lost
	must(t, ofLedger(t, w, "").Bind(t.Context(), stray))
	eventually(t, func() string {
		if got := foreignFindings(s); len(got) != 1 || !strings.Contains(got[0], request) || !strings.Contains(got[0], "earlier release") {
			return "got findings " + strings.Join(got, "; ")
		}
		return ""
	})
	if got := names(w.sim); !slices.Contains(got, "breakglass-"+r.ID) || !slices.Contains(got, "breakglass-"+request) {
		t.Errorf("got %q, want both", got)
	}
	_, err = s.Service.Revoke(t.Context(), bgtest.ByKey("alice"), r.ID, "done with it")
	must(t, err)
	eventually(t, func() string {
		if got := names(w.sim); !slices.Equal(got, []string{"breakglass-" + request}) {
			return "left: " + strings.Join(got, "; ")
		}
		return ""
	})
}

func TestTwoIdsForOneAPIServerAreRefused(t *testing.T) {
	w := start(t, 0)
	path := kubeconfigOf(t, w.sim, "daemon")
	_, err := cluster.Open(cluster.Config{Targets: []cluster.Target{{ID: "c1", Kubeconfig: path}, {ID: "c2", Kubeconfig: path}}})
	mustSay(t, err, "clusters c1 and c2 both name the API server")
	_, err = cluster.Open(cluster.Config{Targets: []cluster.Target{{ID: "c1", Kubeconfig: path},
		{ID: "c2", Kubeconfig: kubeconfigOf(t, start(t, 0).sim, "daemon"),
			APIServers: []string{w.sim.URL + "/"}}}})
	mustSay(t, err, "clusters c1 and c2 both name the API server")
}
