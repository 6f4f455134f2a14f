//go:build unix

package real

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestTakenPortIsTriedAgainWithAnother(t *testing.T) {
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	var tried []int
	var last *Process
	err = withFreePorts(1, func(ports []int) error {
		tried = append(tried, ports...)
		script := "echo up; exec sleep 1000"
		if len(tried) == 1 {
			script = "echo listen tcp: bind: address already in use; exit 1"
		}
		last = &Process{component: "sh", path: shell, args: []string{"-c", script}, dir: t.TempDir()}
		last.ready = func(context.Context) error { return last.printed("up") }
		return last.start(t.Context())
	})
	keep(t, last, err)
	if len(tried) != 2 || tried[0] == tried[1] {
		t.Errorf("tried ports %v, want two different ones", tried)
	}
}

func TestEachComponentTellsThatItsPortIsTaken(t *testing.T) {
	v, a := NewVault(t, VaultOptions{Persistent: true}), NewCluster(t, APIServerOptions{})
	e := a.options.Etcd
	for _, test := range []struct {
		p     *Process
		url   string
		start func(context.Context) error
	}{{&v.Process, v.Addr, v.Start}, {&a.Process, a.URL, a.Start}, {&e.Process, e.Endpoint, e.Start}} {
		if err := test.start(t.Context()); err == nil || !strings.Contains(err.Error(), "runs already") {
			t.Errorf("starting %s twice: got error %v", test.p.component, err)
		}
		test.p.Stop()
		_, address, _ := strings.Cut(test.url, "://")
		taken, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if err := test.start(t.Context()); !errors.Is(err, errPortTaken) {
			t.Errorf("starting %s on a taken port: got error %v, want %v", test.p.component, err, errPortTaken)
		}
		if err := taken.Close(); err != nil {
			t.Fatal(err)
		}
		if err := test.start(t.Context()); err != nil {
			t.Errorf("starting %s on the same port when it is free again: %v", test.p.component, err)
		}
	}
}

func TestProgramThatEndsWhileStartingShowsItsLog(t *testing.T) {
	bins := MustBuild(t, KubeAPIServer)
	_, err := bins.StartAPIServer(t.Context(), APIServerOptions{Dir: t.TempDir(), Etcd: NewEtcd(t), Flags: []string{"--no-such-flag"}})
	if err == nil || !strings.Contains(err.Error(), "unknown flag: --no-such-flag") {
		t.Errorf("got error %v, want the end of kube-apiserver's log", err)
	}
	if errors.Is(err, errPortTaken) {
		t.Errorf("error %v is taken for a port that was taken", err)
	}
}

func TestStopLeavesNoProcess(t *testing.T) {
	e := NewEtcd(t)
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
