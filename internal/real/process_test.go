//go:build unix

package real_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/breakglassd/breakglass/internal/bgtest/realtest"
	"github.com/breakglassd/breakglass/internal/real"
)

func TestEachComponentTellsThatItsPortIsTaken(t *testing.T) {
	v, e := realtest.NewVault(t, real.VaultOptions{Persistent: true}), realtest.NewEtcd(t)
	a := realtest.NewCluster(t, real.APIServerOptions{Etcd: e})
	for _, test := range []struct {
		p     *real.Process
		url   string
		start func(context.Context) error
	}{{&v.Process, v.Addr, v.Start}, {&a.Process, a.URL, a.Start}, {&e.Process, e.Endpoint, e.Start}} {
		if err := test.start(t.Context()); err == nil || !strings.Contains(err.Error(), "runs already") {
			t.Errorf("starting the program of %s twice: got error %v", test.p.LogFile(), err)
		}
		test.p.Stop()
		_, address, _ := strings.Cut(test.url, "://")
		taken, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if err := test.start(t.Context()); !errors.Is(err, real.ErrPortTaken) {
			t.Errorf("starting the program of %s on a taken port: got error %v, want %v", test.p.LogFile(), err, real.ErrPortTaken)
		}
		if err := taken.Close(); err != nil {
			t.Fatal(err)
		}
		if err := test.start(t.Context()); err != nil {
			t.Errorf("starting the program of %s on the same port when it is free again: %v", test.p.LogFile(), err)
		}
	}
}

func TestProgramThatEndsWhileStartingShowsItsLog(t *testing.T) {
	bins := realtest.MustBuild(t, real.KubeAPIServer)
	_, err := bins.StartAPIServer(t.Context(), real.APIServerOptions{Dir: t.TempDir(), Etcd: realtest.NewEtcd(t),
		Flags: []string{"--no-such-flag"}})
	if err == nil || !strings.Contains(err.Error(), "unknown flag: --no-such-flag") {
		t.Errorf("got error %v, want the end of kube-apiserver's log", err)
	}
	if errors.Is(err, real.ErrPortTaken) {
		t.Errorf("error %v is taken for a port that was taken", err)
	}
}

func TestStopLeavesNoProcess(t *testing.T) {
	e := realtest.NewEtcd(t)
	first := e.Pid()
	if err := syscall.Kill(first, 0); err != nil {
		t.Fatalf("process %d of a running etcd: %v", first, err)
	}
	e.Stop()
	e.Stop()
	if err := syscall.Kill(first, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("after Stop, process %d answers %v, want no such process", first, err)
	}
	if err := e.Start(t.Context()); err != nil {
		t.Fatalf("starting it again: %v", err)
	}
	pids := []int{first, e.Pid()}
	// A suspended program must not survive either.
	if err := syscall.Kill(e.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	e.Stop()
	if err := syscall.Kill(e.Pid(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("after Stop, the suspended process %d answers %v, want no such process", e.Pid(), err)
	}
	if pids[0] == pids[1] {
		t.Errorf("Start did not start another process: %v", slices.Compact(pids))
	}
}
