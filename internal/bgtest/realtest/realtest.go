// Package realtest starts the real components for a test: what is started lives as long as the test, and a test that fails shows
// the end of its log.
package realtest

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/real"
)

// MustBuild is [real.Build] for a test: it fails the test when a component cannot be had, also when that is because the test's
// deadline is near, and tells of progress on standard error at once.
func MustBuild(t testing.TB, names ...real.Component) real.Binaries {
	t.Helper()
	ctx := t.Context()
	if d, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if deadline, ok := d.Deadline(); ok {
			// Time enough to say what was being built, instead of a goroutine dump.
			var cancel context.CancelFunc
			ctx, cancel = context.WithDeadline(ctx, deadline.Add(-10*time.Second))
			defer cancel()
		}
	}
	bins, err := real.Build(ctx, func(format string, args ...any) { fmt.Fprintf(os.Stderr, "real: "+format+"\n", args...) }, names...)
	if err != nil {
		t.Fatalf("the real components cannot be had: %v", err)
	}
	return bins
}

// NewVault starts a Vault that lives as long as the test, in a temporary directory unless o.Dir is set. If the test fails,
// the end of Vault's log is shown.
func NewVault(t testing.TB, o real.VaultOptions) *real.Vault {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	v, err := MustBuild(t, real.VaultServer).StartVault(t.Context(), o)
	return keep(t, v, err)
}

// NewEtcd starts an etcd that lives as long as the test.
func NewEtcd(t testing.TB) *real.Etcd {
	t.Helper()
	e, err := MustBuild(t, real.EtcdServer).StartEtcd(t.Context(), real.EtcdOptions{Dir: t.TempDir()})
	return keep(t, e, err)
}

// NewCluster starts an API server that lives as long as the test, in a temporary directory unless o.Dir is set, on an etcd
// of its own unless o names one or another API server to be a replica of.
func NewCluster(t testing.TB, o real.APIServerOptions) *real.APIServer {
	t.Helper()
	bins := MustBuild(t, real.EtcdServer, real.KubeAPIServer, real.KubeCtl)
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Etcd == nil && o.ReplicaOf == nil {
		o.Etcd = NewEtcd(t)
	}
	a, err := bins.StartAPIServer(t.Context(), o)
	return keep(t, a, err)
}

// NewController starts kube-controller-manager for as long as the test lives; see [real.Binaries.StartController].
func NewController(t testing.TB, a *real.APIServer, controllers ...string) *real.Controller {
	t.Helper()
	c, err := MustBuild(t, real.ControllerManager).StartController(t.Context(), a, controllers...)
	return keep(t, c, err)
}

// MustKubectl runs kubectl, fails the test if kubectl fails, and returns what it printed.
func MustKubectl(t testing.TB, kubeconfig string, args ...string) string {
	t.Helper()
	out, _, err := MustBuild(t, real.KubeCtl).Kubectl(t.Context(), kubeconfig, args...)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return out
}

// keep is the end of every New: what was started is stopped after the test, or the test has failed.
func keep[P interface {
	Stop()
	LogFile() string
	LogEnd() string
}](t testing.TB, started P, err error) P {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		started.Stop()
		if t.Failed() {
			t.Logf("%s ends:\n%s", started.LogFile(), started.LogEnd())
		}
	})
	return started
}
