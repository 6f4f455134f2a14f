package aftercare

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/residue"
	"github.com/breakglassd/breakglass/internal/session"
	"github.com/breakglassd/breakglass/internal/session/store"
	kubesim "github.com/breakglassd/breakglass/internal/sim/kube"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newExaminer opens an empty store, for a cluster c1 that does not answer any more.
func newExaminer(t *testing.T) *Examiner {
	t.Helper()
	dir := t.TempDir()
	kube, err := kubesim.Start(t.Context(), kubesim.Config{})
	must(t, err)
	kubeconfig, err := kube.Kubeconfig("token")
	must(t, err)
	must(t, kube.Close())
	path := filepath.Join(dir, "kubeconfig")
	must(t, os.WriteFile(path, kubeconfig, 0o600))
	clusters, err := cluster.Open(cluster.Config{Targets: []cluster.Target{{ID: "c1", Kubeconfig: path}}})
	must(t, err)
	path = filepath.Join(dir, "sessions.db")
	st, err := store.Open(t.Context(), path, store.Limits{})
	must(t, err)
	t.Cleanup(func() { st.Close() })
	return New(Config{Store: st, Path: path, Keep: 48 * time.Hour, Cluster: clusters, Log: slog.New(slog.DiscardHandler)})
}

// A canary signs in before it is recorded under which fingerprint it was signed, and its audit events may be as fast. It is not taken
// for a certificate that nobody ordered; another name, another cluster, or one whose outcome is known, is.
func TestCanaryThatIsUnderWayIsNoUnknownCertificate(t *testing.T) {
	s, sys := newExaminer(t), bgtest.New(t, bgtest.Options{})
	s.Serve(sys.Service)
	const name = policy.CanaryPrefix + "c1:n1"
	known := func(cluster, fingerprint, commonName string) bool {
		t.Helper()
		ok, err := s.known(t.Context(), cluster, fingerprint, commonName)
		must(t, err)
		return ok
	}
	signed, forged := strings.Repeat("a", 64), strings.Repeat("b", 64)
	if known("c1", signed, name) {
		t.Error("a canary that was never ordered is known")
	}
	must(t, sys.Service.OrderCanary(t.Context(), "n1", breakglass.CanaryOrdered{Cluster: "c1", CommonName: name,
		SPKI: strings.Repeat("0", 64), Issuer: "i"}))
	for _, fingerprint := range []string{signed, forged} { // it is not believed by its name either
		if _, err := s.known(t.Context(), "c1", fingerprint, name); !errors.Is(err, store.ErrNotYet) {
			t.Errorf("a canary that is under way: %v, want that it is asked again", err)
		}
	}
	if known("c2", signed, name) || known("c1", signed, policy.CanaryPrefix+"c1:n2") ||
		known("c1", signed, "breakglass:alice:bg-0000-000") {
		t.Error("a canary that is under way lets another name or cluster through")
	}
	must(t, sys.Service.FinishCanary(t.Context(), "n1", breakglass.CanaryDone{Fingerprint: signed, NotAfter: time.Now().Add(time.Minute),
		Accepted: []string{"https://a"}, Refused: []string{}}))
	if !known("c1", signed, name) || known("c1", forged, name) {
		t.Error("after its end a canary is not known by its fingerprint alone")
	}
}

// ended is a grant in c1 that ended half an hour ago.
func ended() *breakglass.Request {
	now := time.Now().UTC().Truncate(time.Second)
	return &breakglass.Request{ID: "bg-7k2m-q9x", Ask: breakglass.Requested{Cluster: "c1"},
		Claimed: &breakglass.Claimed{CommonName: "breakglass:alice:bg-7k2m-q9x"}, ClaimedAt: now.Add(-time.Hour),
		Issued: &breakglass.Issued{Fingerprint: "aa11", NotAfter: now.Add(-30 * time.Minute)}}
}

// did stores that alice made something.
func (x *Examiner) did(t *testing.T, r *breakglass.Request, group, resource, name string) {
	t.Helper()
	at := r.ClaimedAt.Add(time.Minute)
	_, err := x.store.Add(t.Context(), "c1", []session.Event{{AuditID: name, Stage: session.StageComplete, Level: "Request", Received: at,
		At: at, Verb: "create", User: r.Claimed.CommonName,
		Fingerprint: r.Issued.Fingerprint, URI: "/", Code: 201,
		Object: &session.Object{Group: group, Resource: resource, Name: name}}}, nil, time.Now())
	must(t, err)
}

// examine does what the service does with the answer.
func (x *Examiner) examine(t *testing.T, r *breakglass.Request) {
	t.Helper()
	reported, swept, err := x.Examine(t.Context(), r, true)
	must(t, err)
	r.Session, r.Swept, r.SweptAt = &reported, &swept, time.Now()
}

func (x *Examiner) report(t *testing.T, r *breakglass.Request, render func(session.Session, io.Writer) error) string {
	t.Helper()
	body, err := x.Report(t.Context(), r, render)
	must(t, err)
	return string(body)
}

func TestReportOfAnExaminedGrantIsTheOneInTheLedger(t *testing.T) {
	s, r := newExaminer(t), ended()
	s.did(t, r, "", "configmaps", "one")
	if live := s.report(t, r, nil); !strings.Contains(live, `"one"`) || strings.Contains(live, `"left"`) {
		t.Errorf("got %s before it was examined, want a report of what there is", live)
	}
	s.examine(t, r)
	s.did(t, r, "", "configmaps", "came-late")
	got := s.report(t, r, nil)
	if digest := fmt.Sprintf("%x", sha256.Sum256([]byte(got))); digest != r.Session.Digest {
		t.Errorf("got a report with digest %s, and the ledger has %s", digest, r.Session.Digest)
	}
	for i, render := range []func(session.Session, io.Writer) error{session.Session.WriteText, session.Session.WriteHTML} {
		if text := s.report(t, r, render); !strings.Contains(text, r.Session.Digest) || strings.Contains(text, "came-late") ||
			!strings.Contains(text, "Left behind") {
			t.Errorf("rendering %d is not of the report that the ledger has: %s", i, text)
		}
	}
	before := r.Session.Digest
	s.examine(t, r)
	if got := s.report(t, r, nil); !strings.Contains(got, `"came-late"`) || r.Session.Digest == before {
		t.Error("an event that came late is not in the report of the next examination")
	}
}

func TestReportThatIsGoneIsNotMadeUp(t *testing.T) {
	s, r := newExaminer(t), ended()
	s.did(t, r, "", "configmaps", "one")
	s.examine(t, r)
	must(t, s.store.Prune(t.Context(), time.Now().Add(time.Minute)))
	for _, row := range []struct {
		age              time.Duration
		code, why, wants string
	}{
		{49 * time.Hour, "report-removed", "removed after keep=48h0m0s", "breakglass show"},
		{time.Hour, "report-missing", "not in the daemon's store", "breakglass sweep"},
	} {
		r.SweptAt = time.Now().Add(-row.age)
		_, err := s.Report(t.Context(), r, session.Session.WriteText)
		refusal, ok := record.AsRefusal(err)
		if !ok || refusal.Code != row.code || !strings.Contains(refusal.Why, row.why) || !strings.Contains(refusal.Next, row.wants) {
			t.Errorf("after %s: got %v, want %s", row.age, err, row.code)
		}
	}
}

func TestEverythingThatWasLeftBehindIsInTheReport(t *testing.T) {
	s, r := newExaminer(t), ended()
	for n := range 150 {
		s.did(t, r, "apiregistration.k8s.io", "apiservices", fmt.Sprintf("v1.a%03d", n))
	}
	s.did(t, r, "rbac.authorization.k8s.io", "clusterrolebindings", "evil")
	s.examine(t, r)
	if len(r.Swept.Items) != breakglass.MaxResidues || r.Swept.More != 51 {
		t.Fatalf("got %d and %d more, want 100 and 51", len(r.Swept.Items), r.Swept.More)
	}
	if !slices.ContainsFunc(r.Swept.Items, func(x breakglass.Residue) bool { return x.Object == "ClusterRoleBinding evil" }) {
		t.Error("the ledger does not have the ClusterRoleBinding among a hundred APIServices")
	}
	var whole struct {
		Left struct{ Items json.RawMessage }
	}
	must(t, json.Unmarshal([]byte(s.report(t, r, nil)), &whole))
	var items []breakglass.Residue
	must(t, json.Unmarshal(whole.Left.Items, &items))
	if hash := fmt.Sprintf("%x", sha256.Sum256(whole.Left.Items)); len(items) != 151 || hash != r.Swept.All {
		t.Errorf("got %d things in the report, with the hash %s, want 151 and %s", len(items), hash, r.Swept.All)
	}
	if text := s.report(t, r, session.Session.WriteText); strings.Count(text, "APIService v1.a") != 150 {
		t.Error("the text does not name every APIService")
	}
	seen := r.Swept.Digest()
	r.Swept.All = strings.Repeat("0", 64)
	if r.Swept.Digest() == seen {
		t.Error("what is acknowledged does not depend on what the ledger does not hold")
	}
}

func TestPoorSnapshotFromBeforeIsAGap(t *testing.T) {
	s, r := newExaminer(t), ended()
	poor := residue.Snapshot{Gaps: []residue.Gap{{What: "pods", Why: "there was no time left for them", Next: "sweep again"}}}
	blob, err := poor.Encode()
	must(t, err)
	must(t, s.store.PutSnapshot(t.Context(), r.ID, blob, time.Now()))
	s.examine(t, r)
	if !slices.ContainsFunc(r.Swept.Gaps, func(g string) bool {
		return strings.HasPrefix(g, "before the session: pods: there was no time left")
	}) {
		t.Errorf("got gaps %q, want that pods were not looked at before", r.Swept.Gaps)
	}
	if text := s.report(t, r, session.Session.WriteText); !strings.Contains(text, "before the session: pods") {
		t.Error("the report does not say so")
	}
}

func TestReportsAreMadeInTurns(t *testing.T) {
	s, r := newExaminer(t), ended()
	for range buildsAtOnce {
		s.builds <- struct{}{}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Report(ctx, r, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v while others are made, want that it waits", err)
	}
	if _, _, err := s.Examine(ctx, r, true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v from an examination meanwhile, want that it waits", err)
	}
	<-s.builds
	s.report(t, r, nil)
	s.examine(t, r)
	if len(s.builds) != buildsAtOnce-1 {
		t.Error("a place was not given back")
	}
}

// A daemon that starts has heard nothing yet: that there is no alarm does not mean that audit events arrive.
func TestStartIsNoAllClear(t *testing.T) {
	sys := bgtest.New(t, bgtest.Options{Policy: bgtest.Policy()})
	const server = "https://one"
	key := "audit-silent/c1/" + server
	open := func() bool {
		return slices.ContainsFunc(sys.Service.Findings.Open(), func(f finding.Finding) bool { return f.Key == key })
	}
	must(t, sys.Service.Findings.Find(t.Context(), finding.Opened{Key: key, Check: CheckAudit, Cluster: "c1",
		Severity: finding.Critical, What: "silent", Next: "look"}))
	s, alive := newExaminer(t), -1
	s.cfg.Alive = func(_, _ string, ok bool) {
		if alive = 0; ok {
			alive = 1
		}
	}
	s.Serve(sys.Service)
	p := session.NewPulse(beatEvery, beatBatch, beatMargin)
	s.pulses["c1"] = p
	start := time.Now()
	p.Watch(server, start)
	judge := func(after time.Duration) { s.judge(t.Context(), "c1", []string{server}, start.Add(after)) }

	p.Sent(server, "n1", start)
	judge(20 * time.Second)
	if !open() || alive != -1 {
		t.Error("the start of the daemon ended the finding, or said that the stream is alive")
	}
	judge(2 * time.Minute)
	if !open() || alive != 0 {
		t.Error("two minutes without a heartbeat are no alarm")
	}
	s.heard("c1", "n1")
	judge(20 * time.Second)
	if open() || alive != 1 {
		t.Error("a heartbeat came, and the stream is still called silent")
	}
}

// Nine clusters that accept and never answer, each for the whole time of a ping, keep the heartbeats of the tenth coming.
func TestHungClustersKeepNoHeartbeatBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Examiner{pulses: map[string]*session.Pulse{"c1": nil}}
		for i := range 9 {
			s.pulses[fmt.Sprint("hung", i)] = nil
		}
		ctx, stop := context.WithCancel(t.Context())
		var beats, probes atomic.Int32
		look := func(n *atomic.Int32) func(string) {
			return func(id string) {
				if id != "c1" {
					time.Sleep(askTime)
					return
				}
				n.Add(1)
			}
		}
		done := make(chan struct{})
		go func() { s.tend(ctx, look(&beats), look(&probes)); close(done) }()
		time.Sleep(10*beatEvery + time.Second)
		if beats.Load() != 10 || probes.Load() != 3 {
			t.Errorf("the healthy cluster had %d heartbeats and %d questions, want 10 and 3", beats.Load(), probes.Load())
		}
		stop()
		<-done
	})
}
