package e2e

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	slacksim "github.com/breakglassd/breakglass/internal/sim/slack"
)

// kubectl runs the real kubectl with a kubeconfig that breakglass wrote.
func kubectl(t *testing.T, kubeconfig string, args ...string) (out string, err error) {
	t.Helper()
	stdout, stderr, err := shared.bins.Kubectl(t.Context(), kubeconfig, args...)
	if err != nil {
		return stdout, fmt.Errorf("%w: %s", err, stderr)
	}
	return stdout, nil
}

// eventually polls the outside world, which cannot wake us, until a condition holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatalf("did not happen within two minutes: %s", what)
}

var requestID = regexp.MustCompile(`bg-[0-9a-z]{4}-[0-9a-z]{3}`)

func TestSlackRequestEndsInAWorkingKubectl(t *testing.T) {
	d := newDaemon(t)
	d.start("")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()

	alice := d.slack.As(bgtest.SlackUser("alice"))
	if _, err := alice.Slash(ctx, "c1 30s etcd quorum lost, API answers 5xx"); err != nil {
		t.Fatal(err)
	}
	modal, err := alice.WaitModal(ctx)
	must(t, err)
	if bad, err := modal.Send(ctx); err != nil || len(bad) > 0 {
		t.Fatalf("sending the form: %v %v", bad, err)
	}
	card, err := d.slack.WaitMessage(ctx, func(m slacksim.Message) bool {
		return m.Channel == channel && m.ThreadTS == "" && strings.Contains(m.AllText(), "5xx")
	})
	must(t, err)
	id := requestID.FindString(card.AllText())
	if id == "" {
		t.Fatalf("the card names no request:\n%s", card.AllText())
	}

	carol := d.slack.As(bgtest.SlackUser("carol"))
	must(t, carol.Click(ctx, channel, card.TS, "review"))
	review, err := carol.WaitModal(ctx)
	must(t, err)
	if bad, err := review.Send(ctx); err != nil || len(bad) > 0 {
		t.Fatalf("approving: %v %v", bad, err)
	}
	d.cli("bob", "approve", id, "--yes")
	if _, err := d.slack.WaitMessage(ctx, func(m slacksim.Message) bool {
		return m.Channel == alice.DMChannel() && strings.Contains(m.AllText(), "breakglass claim "+id)
	}); err != nil {
		t.Fatalf("alice was not told to claim: %v", err)
	}

	kubeconfig := filepath.Join(d.dir, "alice.kubeconfig")
	d.cli("alice", "claim", id, "--out", kubeconfig)
	who, err := kubectl(t, kubeconfig, "auth", "whoami")
	must(t, err)
	r, err := d.client("alice").Get(ctx, id)
	must(t, err)
	for _, want := range []string{"breakglass:alice:" + id, "X509SHA256=" + r.Certificate.Fingerprint} {
		if !strings.Contains(who, want) {
			t.Errorf("kubectl auth whoami does not say %s:\n%s", want, who)
		}
	}
	eventually(t, "kubectl get namespaces works", func() bool { // the API server learns of the binding a moment after it was made
		out, err := kubectl(t, kubeconfig, "get", "namespaces")
		return err == nil && strings.Contains(out, "kube-system")
	})
	if !slices.Contains(shared.bindings(t), id) {
		t.Error("the cluster has no binding for the request")
	}

	eventually(t, "the certificate expires and the binding goes", func() bool {
		_, err := kubectl(t, kubeconfig, "get", "namespaces")
		return err != nil && !slices.Contains(shared.bindings(t), id)
	})
	_, err = kubectl(t, kubeconfig, "auth", "whoami")
	if err == nil || !strings.Contains(err.Error(), "Unauthorized") && !strings.Contains(err.Error(), "logged in") {
		t.Errorf("after its end the certificate is answered with %v, want Unauthorized", err)
	}
	if _, err := d.slack.WaitMessage(ctx, func(m slacksim.Message) bool {
		return m.Channel == channel && m.TS == card.TS && len(m.Buttons()) == 0
	}); err != nil {
		t.Errorf("the card still has buttons at the end: %v", err)
	}
	for _, m := range append(d.slack.Messages(channel), alice.DMs()...) {
		if strings.Contains(m.AllText(), "BEGIN") || strings.Contains(m.AllText(), "PRIVATE") {
			t.Errorf("a secret in Slack: %s", m.AllText())
		}
	}
	d.stop()
	d.check()
}

func TestCommandLineRequestIsCutOffByRevoke(t *testing.T) {
	d := newDaemon(t)
	d.start("")
	kubeconfig := filepath.Join(d.dir, "dave.kubeconfig")
	cmd := d.command("dave", "request", "-c", "c1", "-p", "admin", "--for", "10m", "--reason", "API server answers 5xx", "--incident",
		"INC-4312", "--out", kubeconfig)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	must(t, cmd.Start())
	var id string
	eventually(t, "the request is in the list of those who must approve", func() bool {
		id = requestID.FindString(d.cli("carol", "list", "--for-me"))
		return id != ""
	})
	_, out, code := d.try("dave", "approve", id, "--yes")
	if code != 3 {
		t.Errorf("approving one's own request: exit code %d, want 3: %s", code, out)
	}
	d.cli("carol", "approve", id, "--yes")
	d.cli("bob", "approve", id, "--yes")
	if err := cmd.Wait(); err != nil {
		t.Fatalf("breakglass request: %v\n%s", err, stderr.String())
	}
	eventually(t, "the certificate works", func() bool {
		_, err := kubectl(t, kubeconfig, "get", "namespaces")
		return err == nil
	})
	d.cli("bob", "revoke", id, "--reason", "laptop stolen", "--yes")
	_, err := kubectl(t, kubeconfig, "get", "namespaces")
	if err == nil || !strings.Contains(err.Error(), "Forbidden") && !strings.Contains(err.Error(), "forbidden") {
		t.Errorf("the next request after revoking: %v, want forbidden", err)
	}
	if who, err := kubectl(t, kubeconfig, "auth", "whoami"); err != nil || !strings.Contains(who, "breakglass:dave:"+id) {
		t.Errorf("revoking took the name too, or the certificate: %v\n%s", err, who)
	}
	var shown api.Request
	must(t, json.Unmarshal([]byte(d.cli("carol", "status", id, "-o", "json")), &shown))
	if shown.State != breakglass.StateRevoked || shown.Certificate.Bound {
		t.Errorf("the request is %s, bound %t", shown.State, shown.Certificate.Bound)
	}
	d.stop()
	d.check()
	export := filepath.Join(d.dir, "export")
	if out, err := runDaemon(t, "ledger", "export", "--config", filepath.Join(d.dir, "config.yaml"), export); err != nil {
		t.Fatalf("exporting: %v %s", err, out)
	}
	d.cli("carol", "ledger", "verify", export, "--key", d.vkey)
	if out, err := runDaemon(t, "ledger", "verify", "--db", filepath.Join(d.dir, "ledger.db"), "--key", d.vkey); err != nil {
		t.Errorf("verifying the database: %v %s", err, out)
	}
}

func TestGroupModeWritesNothingToTheCluster(t *testing.T) {
	shared.admin(t, "create", "clusterrolebinding", "e2e-group", "--clusterrole", "cluster-admin", "--group", "breakglass:cluster-admins")
	t.Cleanup(func() { shared.kubectlAdmin("delete", "clusterrolebinding", "e2e-group") })
	d := newDaemon(t)
	d.start("")
	g := d.grant("alice", "group", 60)
	_, err := g.claim(t.Context())
	must(t, err)
	if _, err := kubectl(t, g.kubeconfig(), "get", "nodes"); err != nil {
		t.Errorf("with the group's certificate: %v", err)
	}
	if have := shared.bindings(t); slices.Contains(have, g.id) {
		t.Errorf("group mode made a binding: %v", have)
	}
	d.stop()
	d.check()
}

// TestKillBetweenEveryTwoSteps kills the daemon with SIGKILL at every step of a claim, starts it again, and wants what the table
// in the package comment of internal/breakglass promises, with every invariant held.
func TestKillBetweenEveryTwoSteps(t *testing.T) {
	steps := []struct {
		at      string
		after   breakglass.State // once things have settled
		signed  bool             // Vault holds a certificate
		binding bool             // only reached in binding mode
	}{
		{"decided", breakglass.StateApproved, false, false},
		{"checked-signer", breakglass.StateApproved, false, false},
		{"claimed", breakglass.StateFailed, false, false},
		{"signed", breakglass.StateFailed, true, false},
		{"checked-certificate", breakglass.StateFailed, true, false},
		{"issued", breakglass.StateActive, true, false},
		{"bound-not-recorded", breakglass.StateActive, true, true},
		{"bound", breakglass.StateActive, true, false},
	}
	for _, profile := range []string{"admin", "group"} {
		for _, step := range steps {
			if step.binding && profile == "group" {
				continue
			}
			t.Run(profile+"/"+step.at, func(t *testing.T) {
				d := newDaemon(t)
				d.start(step.at)
				g := d.grant("alice", profile, 600)
				ctx, cancel := context.WithCancel(t.Context())
				claimed := make(chan error, 1)
				go func() {
					_, err := g.claim(ctx)
					claimed <- err
				}()
				d.died()
				cancel()
				if err := <-claimed; err == nil {
					t.Error("a certificate was delivered by a daemon that died before its reply")
				}
				d.check()

				if step.after == breakglass.StateFailed {
					d.impatient() // it is settled when no signature can come any more
				}
				d.start("")
				r := g.wait(step.after)
				switch step.after {
				case breakglass.StateApproved:
					if _, err := g.claim(t.Context()); err != nil {
						t.Errorf("claiming again: %v", err)
					}
				case breakglass.StateFailed:
					want := breakglass.FailUnknown
					if step.signed {
						want = breakglass.FailOrphan
					}
					if r.Failed.Why != want {
						t.Errorf("failed as %s, want %s", r.Failed.Why, want)
					}
					if _, err := g.claim(t.Context()); err == nil {
						t.Error("a failed grant gave a certificate")
					}
				case breakglass.StateActive:
					delivery, err := g.claim(t.Context())
					must(t, err)
					if delivery.Request.Certificate.Fingerprint != r.Certificate.Fingerprint {
						t.Error("claiming again gave another certificate")
					}
				default:
					t.Fatalf("no expectation for %s", step.after)
				}
				active := step.after != breakglass.StateFailed
				if active && profile == "admin" {
					eventually(t, "the binding exists", func() bool { return slices.Contains(shared.bindings(t), g.id) })
					g.works()
				}
				if !active && slices.Contains(shared.bindings(t), g.id) {
					t.Error("a failed grant has a binding")
				}
				certs := slices.DeleteFunc(shared.signed(t), func(c *x509.Certificate) bool { return c.Subject.CommonName != "breakglass:alice:"+g.id })
				if want := step.signed || active; len(certs) > 1 || want != (len(certs) == 1) {
					t.Errorf("Vault holds %d certificates for the request", len(certs))
				}
				d.stop()
				d.check()
			})
		}
	}
}

func TestSealedVaultCostsNoGrant(t *testing.T) {
	d := newDaemon(t)
	d.start("")
	g := d.grant("alice", "admin", 60)
	must(t, shared.vault.Seal(t.Context()))
	t.Cleanup(func() { _ = shared.vault.Unseal(context.Background()) })
	_, stderr, code := d.try("alice", "claim", g.id)
	if code != 6 || !strings.Contains(stderr, "sealed") {
		t.Errorf("exit code %d, want 6 and the word sealed: %s", code, stderr)
	}
	must(t, shared.vault.Unseal(t.Context()))
	if _, err := g.claim(t.Context()); err != nil {
		t.Errorf("after unsealing: %v", err)
	}
	d.stop()
	d.check()
}

func TestAPIServerThatIsDownIsBoundLater(t *testing.T) {
	d := newDaemon(t)
	d.start("")
	g := d.grant("alice", "admin", 600)
	shared.kube.Stop()
	stopped := true
	t.Cleanup(func() {
		if stopped {
			_ = shared.kube.Start(context.Background())
		}
	})
	delivery, err := g.claim(t.Context())
	must(t, err)
	if delivery.Warning == "" {
		t.Error("nothing says that the right is not bound yet")
	}
	must(t, shared.kube.Start(t.Context()))
	stopped = false
	eventually(t, "the right works", func() bool {
		_, err := kubectl(t, g.kubeconfig(), "get", "namespaces")
		return err == nil
	})
	d.stop()
	d.check()
}

func TestReloadKeepsTheOldPolicyWhenTheNewOneIsBad(t *testing.T) {
	d := newDaemon(t)
	d.start("")
	reload := func() { must(t, d.cmd.Process.Signal(syscall.SIGHUP)) }
	d.writePolicy("version: 1\npeople: {}\n")
	reload()
	eventually(t, "the daemon says what is wrong with the policy", func() bool { return strings.Contains(d.logged(), "access.yaml") })
	if out := d.cli("alice", "whoami"); !strings.Contains(out, "alice") {
		t.Errorf("the old policy is not in force: %s", out)
	}
	d.writePolicy(strings.Replace(bgtest.Policy(), "sre, members: [alice, bob, dave]", "sre, members: [bob, dave]", 1))
	reload()
	eventually(t, "alice may not ask any more", func() bool {
		_, _, code := d.try("alice", "request", "-c", "c1", "-p", "admin", "--reason", "is the policy loaded?", "--dry-run")
		return code != 0
	})
	d.stop()
	d.check()
}

func TestRestartKeepsRequestsAndTellsNobodyTwice(t *testing.T) {
	d := newDaemon(t)
	d.start("")
	g := d.grant("alice", "admin", 600)
	cards := func() int {
		n := 0
		for _, m := range d.slack.Messages(channel) {
			if m.ThreadTS == "" && strings.Contains(m.AllText(), g.id) { // findings about other tests' certificates are no cards
				n++
			}
		}
		return n
	}
	eventually(t, "the card is posted", func() bool { return cards() == 1 && len(d.slack.As(bgtest.SlackUser("alice")).DMs()) == 1 })
	d.stop()
	d.start("")
	if r := g.wait(breakglass.StateApproved); len(r.Approvals) != 2 {
		t.Errorf("%d approvals after a restart", len(r.Approvals))
	}
	_, err := g.claim(t.Context())
	must(t, err)
	eventually(t, "the thread has the serial number", func() bool {
		return slices.ContainsFunc(d.slack.Messages(channel), func(m slacksim.Message) bool {
			return m.ThreadTS != "" && strings.Contains(m.AllText(), g.serial)
		})
	})
	if n := cards(); n != 1 {
		t.Errorf("%d cards for one request", n)
	}
	d.stop()
	d.check()
}

func TestSecondDaemonOnTheSameLedgerIsRefused(t *testing.T) {
	d := newDaemon(t)
	d.start("")
	out, err := runDaemon(t, "serve", "--config", filepath.Join(d.dir, "config.yaml"))
	if err == nil || !strings.Contains(out, "in use") {
		t.Errorf("a second daemon: %v\n%s", err, out)
	}
	d.stop()
}

func TestDoctorFindsNothingWrongHere(t *testing.T) {
	d := newDaemon(t)
	shared.admin(t, "create", "clusterrolebinding", "doctor-group", "--clusterrole", "cluster-admin", "--group", "breakglass:cluster-admins")
	t.Cleanup(func() { shared.kubectlAdmin("delete", "clusterrolebinding", "doctor-group", "--ignore-not-found") })
	// The shipped manifest names the ClusterRoles cluster-admin and view: doctor wants exactly what the profiles bind.
	d.writePolicy(strings.Replace(bgtest.Policy(), "{role: fixer, namespaces: [default, kube-system]}", "{clusterRole: view}", 1))
	out, err := runDaemon(t, "doctor", "--config", filepath.Join(d.dir, "config.yaml"))
	if err != nil {
		t.Errorf("breakglassd doctor: %v\n%s", err, out)
	}
	shared.kube.Stop()
	out, err = runDaemon(t, "doctor", "--config", filepath.Join(d.dir, "config.yaml"))
	must(t, shared.kube.Start(t.Context()))
	if err == nil || !strings.Contains(out, "c1") {
		t.Errorf("a doctor that does not see that the API server is down: %v\n%s", err, out)
	}
}

func TestReplacedLedgerIsNotBelievedByTheCommandLine(t *testing.T) {
	d := newDaemon(t)
	d.start("")
	first := d.grant("alice", "admin", 600)
	d.cli("alice", "claim", first.id, "--out", filepath.Join(d.dir, "first.kubeconfig"))
	d.stop()
	// The same key, an empty ledger: what is left after somebody has rewritten history.
	for _, name := range []string{"ledger.db", "ledger.db-wal", "ledger.db-shm"} {
		if err := os.Remove(filepath.Join(d.dir, name)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	d.emptyLedger()
	d.start("")
	second := d.grant("alice", "admin", 600)
	_, stderr, code := d.try("alice", "claim", second.id, "--out", filepath.Join(d.dir, "second.kubeconfig"))
	if code != 8 {
		t.Errorf("exit code %d, want 8: %s", code, stderr)
	}
	if _, err := os.Stat(filepath.Join(d.dir, "second.kubeconfig")); !os.IsNotExist(err) {
		t.Error("a kubeconfig was written although the ledger is not to be believed")
	}
}
