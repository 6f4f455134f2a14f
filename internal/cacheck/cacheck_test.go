package cacheck

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/rotation"
)

// certificate is some certificate that ends then.
func certificate(t *testing.T, notAfter time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "some CA"}, NotBefore: notAfter.Add(-time.Hour),
		NotAfter: notAfter, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestWhenTheLastCertificateOfAnIssuerEnds is about what decides whether an old CA may be removed. No operator is asked for it, so that
// an issuer that Vault does not tell of cannot look like one that signed nothing.
func TestWhenTheLastCertificateOfAnIssuerEnds(t *testing.T) {
	now := time.Date(2026, 11, 22, 3, 15, 0, 0, time.UTC)
	at := func(minutes int) time.Time { return now.Add(time.Duration(minutes) * time.Minute) }
	ask := breakglass.Requested{Cluster: "c1", TTLSeconds: 600}
	issued := func(issuer string, minutes int) *breakglass.Request {
		return &breakglass.Request{Ask: ask, Claimed: &breakglass.Claimed{}, Issued: &breakglass.Issued{Issuer: issuer, NotAfter: at(minutes)}}
	}
	for name, tt := range map[string]struct {
		requests []*breakglass.Request
		under    map[string]time.Time
		unknown  time.Time
	}{
		"nothing": {nil, map[string]time.Time{}, time.Time{}},
		"the latest of each issuer": {[]*breakglass.Request{issued("g1", 5), issued("g1", 9), issued("g1", 7), issued("g2", 30)},
			map[string]time.Time{"g1": at(9), "g2": at(30)}, time.Time{}},
		"one whose issuer is not there": {[]*breakglass.Request{issued("", 5), issued("g1", 3)}, map[string]time.Time{"g1": at(3)}, at(5)},
		"a claim whose outcome is open": {[]*breakglass.Request{{Ask: ask, Claimed: &breakglass.Claimed{}}}, map[string]time.Time{}, at(10)},
		"one that no requester will get": {[]*breakglass.Request{{Ask: ask, Claimed: &breakglass.Claimed{}, FailedAt: now,
			Failed: &breakglass.Failed{Orphans: [][]byte{certificate(t, at(7)), certificate(t, at(4))}}}},
			map[string]time.Time{}, at(7)},
		"one that cannot be read": {[]*breakglass.Request{{Ask: ask, Claimed: &breakglass.Claimed{}, FailedAt: at(-1),
			Failed: &breakglass.Failed{Orphans: [][]byte{[]byte("x")}}}}, map[string]time.Time{}, at(9)},
		"a claim that failed": {[]*breakglass.Request{{Ask: ask, Claimed: &breakglass.Claimed{}, FailedAt: now,
			Failed: &breakglass.Failed{}}}, map[string]time.Time{}, time.Time{}},
		"a request without a claim": {[]*breakglass.Request{{Ask: ask}}, map[string]time.Time{}, time.Time{}},
		"another cluster": {[]*breakglass.Request{{Ask: breakglass.Requested{Cluster: "c2", TTLSeconds: 600},
			Claimed: &breakglass.Claimed{}}}, map[string]time.Time{}, time.Time{}},
	} {
		under, unknown := lastIssued(tt.requests, "c1", now)
		if diff := cmp.Diff(tt.under, under); diff != "" || !unknown.Equal(tt.unknown) {
			t.Errorf("%s: unknown until %s, want %s; by issuer (-want +got):\n%s", name, unknown, tt.unknown, diff)
		}
	}
}

// caWorld is checks of the one cluster c1, of a Vault and API servers that are functions.
type caWorld struct {
	*Checks
	sys  *bgtest.System
	logs bytes.Buffer
	view func(context.Context) rotation.View
}

func (w *caWorld) View(ctx context.Context) rotation.View { return w.view(ctx) }

func (w *caWorld) Greet(context.Context, string, tls.Certificate, string) rotation.Greeting {
	return rotation.Greeting{Outcome: rotation.OutcomeUnreached}
}

func (w *caWorld) ObserveVault(context.Context, string) rotation.Vault {
	return rotation.Vault{Mount: "pki", Unseen: []rotation.Unseen{{Key: "vault", What: "Vault is sealed", Next: "unseal it"}}}
}

func (w *caWorld) SignCanary(context.Context, rotation.Canary) (breakglass.Signed, error) {
	return breakglass.Signed{}, fmt.Errorf("%w: it is sealed", breakglass.ErrNotSigned)
}

func newCAWorld(t *testing.T) *caWorld {
	t.Helper()
	w := &caWorld{sys: bgtest.New(t, bgtest.Options{})}
	w.start()
	w.view = func(context.Context) rotation.View { return rotation.View{} }
	return w
}

// start makes the checks of c1 and of others.
func (w *caWorld) start(more ...Cluster) {
	w.Checks = New(Config{Log: slog.New(slog.NewTextHandler(&w.logs, nil)), Service: w.sys.Service, Marks: w.sys.Ledger,
		Clusters: append(more, Cluster{ID: "c1", Vault: w, View: w})})
}

// runs is how many checks are on record.
func (w *caWorld) runs(t *testing.T) int {
	t.Helper()
	entries, err := w.sys.Ledger.Stream(context.Background(), finding.CheckStream)
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// down is a view of so many API servers that do not answer.
func down(servers int) rotation.View {
	var v rotation.View
	for i := range servers {
		v.Servers = append(v.Servers, rotation.Server{Address: fmt.Sprintf("10.0.0.%d:6443", i+1), Error: "no answer in time",
			Next: "see whether it is up"})
	}
	return v
}

func TestKnownIsReadFromTheLedgerAlone(t *testing.T) {
	w := newCAWorld(t) // its Vault is sealed
	r := w.sys.Grant("alice", "admin")
	_, csr := bgtest.NewCSR()
	if _, err := w.sys.Claim("alice", r.ID, csr); err != nil {
		t.Fatal(err)
	}
	r, err := w.sys.Service.Get(t.Context(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	k, err := w.known(t.Context(), "c1")
	if err != nil || !k.LastIssuedUnder[r.Issued.Issuer].Equal(r.Issued.NotAfter) || len(k.LastIssuedUnder) != 1 ||
		!k.UnknownIssuerUntil.IsZero() {
		t.Errorf("%+v (%v), want the end %s under %s", k, err, r.Issued.NotAfter, r.Issued.Issuer)
	}
	if k, err := w.known(t.Context(), "c2"); err != nil || k.LastIssuedUnder == nil || len(k.LastIssuedUnder) > 0 {
		t.Errorf("another cluster: %+v (%v)", k, err)
	}
}

// A check that was stopped saw nothing: that is not what it found.
func TestAStoppedCheckIsNotRecorded(t *testing.T) {
	w := newCAWorld(t)
	stopped, stop := context.WithCancel(t.Context())
	w.view = func(context.Context) rotation.View {
		stop() // as SIGTERM does, and the scheduler's limit
		return down(3)
	}
	if err := w.Job(stopped, time.Now()); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(),
		"c1 was stopped before its end") {
		t.Errorf("the job says %v", err)
	}
	if n, open := w.runs(t), w.sys.Service.Findings.Open(); n != 0 || len(open) != 0 || len(w.last) != 0 {
		t.Errorf("%d runs on record, findings %+v, last %+v", n, open, w.last)
	}
	// The check's own time is another thing: what did not answer in it did not answer.
	w.view = func(context.Context) rotation.View { return down(3) }
	if err := w.Job(t.Context(), time.Now()); err != nil {
		t.Error(err)
	}
	if n, open := w.runs(t), w.sys.Service.Findings.Open(); n != 1 || len(open) < 3 {
		t.Errorf("%d runs on record, findings %+v", n, open)
	}
}

// An operator asks for the status before the first check, and does not wait for the answer.
func TestACheckOnDemandOutlivesItsCaller(t *testing.T) {
	w := newCAWorld(t)
	gone, leave := context.WithCancel(t.Context())
	w.view = func(ctx context.Context) rotation.View {
		leave()
		if _, bounded := ctx.Deadline(); ctx.Err() != nil || !bounded {
			t.Errorf("the check ends with its caller (%v), or never (bounded: %t)", ctx.Err(), bounded)
		}
		return down(1)
	}
	if r, err := w.Status(gone, "c1"); err != nil || len(r.Servers) != 1 || w.runs(t) != 1 {
		t.Errorf("%+v, %v, %d runs on record", r, err, w.runs(t))
	}
	// Operators who waited meanwhile get that report: those who left must not leave a queue of checks behind.
	if r, checked, err := w.check(t.Context(), "c1", nil, time.Time{}, true); err != nil || !checked || len(r.Servers) != 1 || w.runs(t) != 1 {
		t.Errorf("%+v, %v, %d runs on record, want the one before", r, err, w.runs(t))
	}
	// Nor do those who ordered one and left before their turn.
	if _, err := w.now(gone, "c1", &record.Actor{Person: "alice"}); !errors.Is(err, context.Canceled) || w.runs(t) != 1 {
		t.Errorf("%v, %d runs on record, want no check for an operator who has left", err, w.runs(t))
	}
	var refused *record.Refusal
	if _, err := w.Status(t.Context(), "elsewhere"); !errors.As(err, &refused) {
		t.Errorf("a cluster that there is not: %v", err)
	}
}

// More findings than are recorded in a minute: the operator who asked gets the report, and the schedule tries again.
func TestTooManyFindingsDoNotHideTheReport(t *testing.T) {
	w := newCAWorld(t)
	w.view = func(context.Context) rotation.View { return down(60) }
	p, err := w.Plan(t.Context(), bgtest.ByKey("alice"), "c1", "")
	if err != nil || p.Refused == "" {
		t.Errorf("plan %+v, %v", p, err)
	}
	r, err := w.Check(t.Context(), bgtest.ByKey("alice"), "c1")
	if err != nil || len(r.Verdicts) < 60 {
		t.Errorf("%d findings, %v", len(r.Verdicts), err)
	}
	if !strings.Contains(w.logs.String(), "too many findings") || !strings.Contains(w.logs.String(), "c1") {
		t.Errorf("the log says nothing of it: %s", w.logs.String())
	}
	if err := w.Job(t.Context(), time.Now()); !errors.Is(err, finding.ErrTooMany) {
		t.Errorf("the job says %v", err)
	}
}

// hangs is a cluster whose view takes all the time there is.
type hangs struct{}

func (hangs) View(ctx context.Context) rotation.View {
	<-ctx.Done()
	return down(1)
}

func (hangs) Greet(context.Context, string, tls.Certificate, string) rotation.Greeting {
	return rotation.Greeting{Outcome: rotation.OutcomeUnreached}
}

// After a start every cluster is checked soon, and one that hangs keeps no other waiting.
func TestClustersAreCheckedSoonAfterTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCAWorld(t)
		w.start(Cluster{ID: "hung", Vault: w, View: hangs{}})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.First(ctx) }()
		time.Sleep(firstCheck + time.Second)
		if _, ok := w.report("c1"); !ok {
			t.Error("sixteen seconds after the start nothing is known of c1's CAs")
		}
		if _, ok := w.report("hung"); ok {
			t.Error("the cluster that hangs has a report")
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := w.First(t.Context()); err != nil || w.runs(t) != 2 {
			t.Errorf("%d checks on record (%v), want one of each cluster: c1 was known", w.runs(t), err)
		}
	})
}
