package real

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"time"
)

// startTimeout bounds every start. A start takes seconds; the rest is for machines that build something at the same time.
const startTimeout = 90 * time.Second

// A Process is one running component: started, stopped and started again with the same command line, but not by two
// goroutines at once. Its output is appended to a log file, which survives it.
type Process struct {
	component Component
	path      string
	args      []string
	dir       string
	// ready reports whether the program now does its work. It is called until it returns nil.
	ready func(ctx context.Context) error

	proc    *os.Process   // nil before the first start
	logFrom int64         // where in the log this start began
	done    chan struct{} // closed when the program has ended; nil before the first start
	exit    error         // how it ended; read only after done is closed
}

// LogFile is the file that holds everything the program has printed, over all its starts.
func (p *Process) LogFile() string { return filepath.Join(p.dir, string(p.component)+".log") }

// LogEnd is the last lines that the program has printed since its last start.
func (p *Process) LogEnd() string { return tail(p.output()) }

// Pid is the process id of the last start, for a test that wants to suspend the program (SIGSTOP) or to watch it.
func (p *Process) Pid() int { return p.proc.Pid }

// Stop kills the program and returns when it is gone. It is a kill -9: what these programs do on a polite request is of no
// use to a test, and kube-apiserver takes a minute over it. Stopping twice does nothing.
func (p *Process) Stop() {
	if !p.running() {
		return
	}
	_ = p.proc.Kill() // only fails if it has just ended, which is what we wait for
	<-p.done
}

func (p *Process) running() bool {
	if p.done == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// start runs the program and returns when it is ready, or with the end of its log when it is not.
func (p *Process) start(ctx context.Context) error {
	if err := p.spawn(); err != nil {
		return fmt.Errorf("starting %s: %w", p.component, err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	go func(ended <-chan struct{}) {
		// The check must not outlive the program: if another process has its port, that one may never answer.
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}(p.done)
	for {
		notReady := p.ready(ctx)
		if !p.running() {
			return p.failed("it ended", p.exit)
		}
		if notReady == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			if p.running() {
				p.Stop()
				return p.failed("it did not become ready", errors.Join(context.Cause(ctx), notReady))
			}
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (p *Process) spawn() error {
	if p.running() {
		return errors.New("it runs already")
	}
	dir, err := filepath.Abs(p.dir)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(p.LogFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own
	info, err := log.Stat()
	if err != nil {
		return err
	}
	p.logFrom = info.Size()

	cmd := exec.Command(p.path, p.args...)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = log, log
	// Nothing of the caller's environment: VAULT_*, KUBECONFIG, proxies and GODEBUG all change what these programs do.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir}
	done := make(chan struct{})
	err = startTied(cmd, func(err error) {
		p.exit = err
		close(done)
	})
	if err != nil {
		return err
	}
	p.proc, p.done = cmd.Process, done
	return nil
}

// startTied starts cmd in its own process group, so that an interrupt typed at the terminal reaches only us, and bound to
// our life where the system can do that. ended is called once, from another goroutine, with what cmd.Wait returned.
func startTied(cmd *exec.Cmd, ended func(error)) error {
	cmd.SysProcAttr = tied()
	started := make(chan error)
	go func() {
		// Linux kills the child when the thread that started it ends, not when the process does, so that thread is kept until
		// the child is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended(cmd.Wait())
		}
	}()
	return <-started
}

// output is what the program has printed since its last start.
func (p *Process) output() []byte {
	log, err := os.ReadFile(p.LogFile())
	if err != nil || int64(len(log)) < p.logFrom {
		return nil
	}
	return log[p.logFrom:]
}

// printed is a ready check: the program itself says that it listens. Asking the port is not enough, since whoever answers
// there may be another process that was quicker to take it.
func (p *Process) printed(line string) error {
	if !bytes.Contains(p.output(), []byte(line)) {
		return fmt.Errorf("%s has not printed %q", p.component, line)
	}
	return nil
}

// errPortTaken marks a start that failed because another process took the port between our choice and the program's bind.
var errPortTaken = errors.New("the port was taken by another process")

func (p *Process) failed(what string, err error) error {
	log := p.output()
	if bytes.Contains(log, []byte("address already in use")) {
		err = errors.Join(errPortTaken, err)
	}
	return fmt.Errorf("starting %s: %s: %w; its log %s ends:\n%s", p.component, what, err, p.LogFile(), p.LogEnd())
}

// withFreePorts calls start, which must use the given ports of 127.0.0.1, until it does not fail for want of a port.
func withFreePorts(n int, start func(ports []int) error) error {
	var err error
	for range 5 {
		ports := make([]int, n)
		for i := range ports {
			if ports[i], err = freePort(); err != nil {
				return err
			}
		}
		if err = start(ports); !errors.Is(err, errPortTaken) {
			return err
		}
	}
	return err
}

// freePort picks a port below those that systems hand out for outgoing connections (from 32768 on Linux, from 49152
// elsewhere), so that a program that is stopped and started again finds its port free.
func freePort() (int, error) {
	var err error
	for range 100 {
		port := 20000 + rand.IntN(12000)
		var l net.Listener
		if l, err = net.Listen("tcp", hostPort(port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("looking for a free port: %w", err)
}

// FreeAddress finds an address on 127.0.0.1 that is free now, and that no outgoing connection takes while the program that uses
// it is stopped.
func FreeAddress() (string, error) {
	port, err := freePort()
	return hostPort(port), err
}

func hostPort(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
