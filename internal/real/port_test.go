//go:build unix

package real

import (
	"context"
	"os/exec"
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
	t.Cleanup(last.Stop)
	if err != nil {
		t.Fatal(err)
	}
	if len(tried) != 2 || tried[0] == tried[1] {
		t.Errorf("tried ports %v, want two different ones", tried)
	}
}
