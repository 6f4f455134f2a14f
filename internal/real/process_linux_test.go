package real_test

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/bgtest/realtest"
	"github.com/breakglassd/breakglass/internal/real"
)

// TestProgramsDieWithTheProcessThatStartedThem runs itself in another process, which starts an etcd and is killed.
func TestProgramsDieWithTheProcessThatStartedThem(t *testing.T) {
	const inner = "BREAKGLASS_TEST_INNER"
	if os.Getenv(inner) != "" {
		os.Stdout.WriteString("etcd " + strconv.Itoa(realtest.NewEtcd(t).Pid()) + "\n")
		select {}
	}
	outer := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	outer.Env = append(os.Environ(), append(realtest.MustBuild(t, real.EtcdServer).Env(), inner+"=1", "TMPDIR="+t.TempDir())...)
	stdout, err := outer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := outer.Start(); err != nil {
		t.Fatal(err)
	}
	defer outer.Wait()
	defer outer.Process.Kill()
	pid := 0
	for lines := bufio.NewScanner(stdout); pid == 0 && lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "etcd "); ok {
			if pid, err = strconv.Atoi(text); err != nil {
				t.Fatal(err)
			}
		}
	}
	if pid == 0 || syscall.Kill(pid, 0) != nil {
		t.Fatalf("no etcd runs as process %d", pid)
	}
	if err := outer.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	outer.Wait()
	for gone := false; !gone; time.Sleep(10 * time.Millisecond) {
		if t.Context().Err() != nil {
			t.Fatal("interrupted")
		}
		// An orphan that nobody has waited for yet is a zombie: dead, though its pid still answers.
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		gone = errors.Is(err, os.ErrNotExist) || strings.Contains(string(stat), ") Z ")
	}
}
