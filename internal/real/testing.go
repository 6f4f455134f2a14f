package real

import (
	"context"
	"fmt"
	"os"
	"time"
)

// TB is the part of *testing.T that the helpers need. It is spelled out so that a program that starts real components
// outside of tests does not link the testing package.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	Cleanup(func())
	TempDir() string
	Context() context.Context
}

// MustBuild is [Build] for a test: it fails the test when a component cannot be had, also when that is because the test's
// deadline is near, and tells of progress on standard error at once.
func MustBuild(t TB, names ...Component) Binaries {
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
	bins, err := Build(ctx, func(format string, args ...any) { fmt.Fprintf(os.Stderr, "real: "+format+"\n", args...) }, names...)
	if err != nil {
		t.Fatalf("the real components cannot be had: %v", err)
	}
	return bins
}

// NewVault starts a Vault that lives as long as the test, in a temporary directory unless o.Dir is set. If the test fails,
// the end of Vault's log is shown.
func NewVault(t TB, o VaultOptions) *Vault {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	v, err := MustBuild(t, VaultServer).StartVault(t.Context(), o)
	return keep(t, v, err)
}

// NewEtcd starts an etcd that lives as long as the test.
func NewEtcd(t TB) *Etcd {
	t.Helper()
	e, err := MustBuild(t, EtcdServer).StartEtcd(t.Context(), EtcdOptions{Dir: t.TempDir()})
	return keep(t, e, err)
}

// NewCluster starts an API server that lives as long as the test, in a temporary directory unless o.Dir is set, on an etcd
// of its own unless o names one or another API server to be a replica of.
func NewCluster(t TB, o APIServerOptions) *APIServer {
	t.Helper()
	bins := MustBuild(t, EtcdServer, KubeAPIServer, KubeCtl)
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Etcd == nil && o.ReplicaOf == nil {
		o.Etcd = NewEtcd(t)
	}
	a, err := bins.StartAPIServer(t.Context(), o)
	return keep(t, a, err)
}

// NewController starts kube-controller-manager for as long as the test lives; see [Binaries.StartController].
func NewController(t TB, a *APIServer, controllers ...string) *Controller {
	t.Helper()
	c, err := MustBuild(t, ControllerManager).StartController(t.Context(), a, controllers...)
	return keep(t, c, err)
}

// MustKubectl runs kubectl, fails the test if kubectl fails, and returns what it printed.
func MustKubectl(t TB, kubeconfig string, args ...string) string {
	t.Helper()
	out, _, err := MustBuild(t, KubeCtl).Kubectl(t.Context(), kubeconfig, args...)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return out
}

// keep is the end of every New: what was started is stopped after the test, or the test has failed.
func keep[P interface{ process() *Process }](t TB, started P, err error) P {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
	p := started.process()
	t.Cleanup(func() {
		p.Stop()
		if t.Failed() {
			t.Logf("the log of %s ends:\n%s", p.component, tail(p.output()))
		}
	})
	return started
}

func (p *Process) process() *Process { return p }
