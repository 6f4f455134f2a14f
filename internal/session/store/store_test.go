package store_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/session"
	"github.com/breakglassd/breakglass/internal/session/store"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually calls check until it returns "".
func eventually(t *testing.T, check func() string) {
	t.Helper()
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		problem := check()
		if problem == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(problem)
		}
	}
}

// kit is a store with an intake, and a ledger that knows some certificates.
type kit struct {
	path   string
	store  *store.Store
	intake *store.Intake
	stop   func()

	mu      sync.Mutex
	prints  []string
	broken  error
	full    error
	unknown []string
}

func newKit(t testing.TB, limits store.Limits) *kit {
	t.Helper()
	k := &kit{path: filepath.Join(t.TempDir(), "sessions.db")}
	k.open(t, limits)
	t.Cleanup(func() { k.close() })
	return k
}

func (k *kit) open(t testing.TB, limits store.Limits) {
	t.Helper()
	s, err := store.Open(t.Context(), k.path, limits)
	must(t, err)
	k.store, k.stop = s, func() {}
	k.intake = &store.Intake{Store: s, Log: slog.New(slog.DiscardHandler), Now: time.Now, Recheck: 50 * time.Millisecond,
		Known: func(_ context.Context, _, fingerprint, _ string) (bool, error) {
			k.mu.Lock()
			defer k.mu.Unlock()
			return slices.Contains(k.prints, fingerprint), k.broken
		},
		Unknown: func(_ context.Context, _, fingerprint, name string, _ session.Event) error {
			k.mu.Lock()
			defer k.mu.Unlock()
			if k.full != nil {
				return k.full
			}
			k.unknown = append(k.unknown, fingerprint+" "+name)
			return nil
		}}
}

func (k *kit) run(t testing.TB) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() { k.intake.Run(ctx); close(done) }()
	k.stop = func() { cancel(); <-done }
}

func (k *kit) close() { k.stop(); k.store.Close() }

func (k *kit) known(print string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.prints = append(k.prints, print)
}

func (k *kit) told() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.unknown)
}

const print = "aa11"

// event is one audit event in JSON, with a certificate of alice's.
func event(n int, verb, resource string) string {
	at := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC).Add(time.Duration(n) * time.Millisecond).Format("2006-01-02T15:04:05.000000Z")
	return fmt.Sprintf(`{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"id-%d","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/shop/%s/x%d","verb":%q,`+
		`"user":{"username":"breakglass:alice:bg-7k2m-q9x","groups":["system:authenticated"],"extra":{"authentication.kubernetes.io/credential-id":["X509SHA256=%s"]}},`+
		`"sourceIPs":["192.0.2.7"],"userAgent":"kubectl/v1.37.2 (linux/amd64) kubernetes/0123456","objectRef":{"resource":%q,"namespace":"shop","name":"x%d","apiVersion":"v1"},"responseStatus":{"metadata":{},"code":200},`+
		`"requestReceivedTimestamp":%q,"stageTimestamp":%q,"annotations":{"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":"RBAC: allowed by ClusterRoleBinding \"breakglass-bg-7k2m-q9x\" of ClusterRole \"cluster-admin\" to User \"breakglass:alice:bg-7k2m-q9x\""}}`,
		n, resource, n, verb, print, resource, n, at, at)
}

func stranger(n int) string {
	return strings.NewReplacer("breakglass:alice:bg-7k2m-q9x", "system:node:n1", "X509SHA256="+print,
		"X509SHA256=ffff").Replace(event(n, "get", "pods"))
}

func list(events ...string) []byte {
	return []byte(`{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[` + strings.Join(events, ",") + `]}`)
}

func (k *kit) events(t testing.TB) ([]session.Event, int) {
	t.Helper()
	events, dropped, err := k.store.Events(t.Context(), "prod", print, "breakglass:alice:bg-7k2m-q9x")
	must(t, err)
	return events, dropped
}

func TestTakenEventsSurviveARestartAndAreKeptOnce(t *testing.T) {
	k := newKit(t, store.Limits{})
	k.run(t)
	body := list(event(1, "get", "pods"), stranger(2), event(3, "create", "pods"))
	must(t, k.intake.Take(t.Context(), "prod", body))
	k.close()
	k.open(t, store.Limits{})
	k.run(t)
	must(t, k.intake.Take(t.Context(), "prod", body))
	if events, dropped := k.events(t); len(events) != 2 || dropped != 0 {
		t.Errorf("got %d events, %d dropped, want 2 and 0", len(events), dropped)
	}
	if f := k.intake.Figures(); f.Events != 3 || f.Duplicates != 2 || f.Kept != 0 {
		t.Errorf("got figures %+v, want 3 read and 2 duplicates", f)
	}
}

func TestSameAuditIDHidesNothing(t *testing.T) {
	k := newKit(t, store.Limits{})
	k.run(t)
	must(t, k.intake.Take(t.Context(), "prod", list(event(1, "get", "pods"), strings.Replace(event(2, "delete", "pods"), `"id-2"`, `"id-1"`,
		1))))
	if events, _ := k.events(t); len(events) != 2 {
		t.Errorf("got %d events, want both of the same audit id", len(events))
	}
}

func TestFullIntakeRefusesAtOnce(t *testing.T) {
	k := newKit(t, store.Limits{})
	k.intake.MaxBodies, k.intake.Deadline = 2, 300*time.Millisecond
	// Nobody writes: two wait for their deadline, and the third does not get in.
	results := make(chan error)
	for n := range 2 {
		go func() { results <- k.intake.Take(context.Background(), "prod", list(event(n, "get", "pods"))) }()
	}
	eventually(t, func() string {
		if err := k.intake.Take(t.Context(), "prod", list(event(9, "get", "pods"))); !errors.Is(err, store.ErrOverloaded) {
			return fmt.Sprintf("got %v, want overloaded", err)
		}
		if k.intake.Figures().Overloads == 0 {
			return "no overload was counted"
		}
		return ""
	})
	for range 2 {
		if err := <-results; !errors.Is(err, store.ErrOverloaded) {
			t.Errorf("got %v without a writer, want overloaded at the deadline", err)
		}
	}
	k.intake.MaxBytes = 10
	if err := k.intake.Take(t.Context(), "prod", list(event(9, "get", "pods"))); !errors.Is(err, store.ErrOverloaded) {
		t.Errorf("got %v for a body beyond the bytes, want overloaded", err)
	}
	k.intake.MaxBytes, k.intake.Deadline = 1<<20, 10*time.Second
	k.run(t)
	must(t, k.intake.Take(t.Context(), "prod", list(event(9, "get", "pods")))) // there is room again
}

func TestLookingAroundDoesNotCrowdOutChanges(t *testing.T) {
	k := newKit(t, store.Limits{Plain: 3, Notable: 2})
	k.run(t)
	for n := range 10 {
		must(t, k.intake.Take(t.Context(), "prod", list(event(n, "get", "pods"))))
	}
	must(t, k.intake.Take(t.Context(), "prod", list(event(100, "delete", "pods"))))
	events, dropped := k.events(t)
	if len(events) != 4 || dropped != 7 || events[3].Verb != "delete" {
		t.Errorf("got %d events and %d dropped, want 3 looks, the deletion, and 7 counted", len(events), dropped)
	}
}

func TestFullStoreCountsWhatItDoesNotKeep(t *testing.T) {
	k := newKit(t, store.Limits{Bytes: 100, Strangers: 100})
	k.run(t)
	must(t, k.intake.Take(t.Context(), "prod", list(event(1, "delete", "pods"))))
	if events, dropped := k.events(t); len(events) != 0 || dropped != 1 {
		t.Errorf("got %d events, %d dropped, want none and 1", len(events), dropped)
	}
}

// What the ledger will know in a moment is asked again, without a word in the log.
func TestCertificateThatIsNotOnRecordYetIsAskedAgain(t *testing.T) {
	k := newKit(t, store.Limits{})
	var logged syncBuffer
	k.intake.Log = slog.New(slog.NewTextHandler(&logged, nil))
	k.broken = fmt.Errorf("a canary: %w", store.ErrNotYet)
	k.run(t)
	must(t, k.intake.Take(t.Context(), "prod", list(event(1, "get", "pods"))))
	time.Sleep(200 * time.Millisecond) // several rounds
	if st, err := k.store.Stats(t.Context()); err != nil || st.Unchecked != 1 {
		t.Errorf("got %+v, %v, want the event, unchecked", st, err)
	}
	if told := k.told(); len(told) > 0 || strings.Contains(logged.String(), "could not be looked up") {
		t.Errorf("got told of %q, and the log says %q", told, logged.String())
	}
	k.mu.Lock()
	k.broken = nil
	k.mu.Unlock()
	eventually(t, func() string {
		if st, err := k.store.Stats(t.Context()); err != nil || st.Unchecked != 0 {
			return fmt.Sprintf("got %+v, %v, want it checked", st, err)
		}
		return ""
	})
}

// syncBuffer may be written to and read at the same time.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestUnknownCertificatesAreToldAlsoWhenTheLedgerFailed(t *testing.T) {
	k := newKit(t, store.Limits{})
	k.broken = errors.New("the ledger is away")
	k.run(t)
	must(t, k.intake.Take(t.Context(), "prod", list(event(1, "get", "pods"))))
	eventually(t, func() string {
		if st, err := k.store.Stats(t.Context()); err != nil || st.Unchecked != 1 || st.Events != 1 {
			return fmt.Sprintf("got %+v, %v, want the event, unchecked", st, err)
		}
		return ""
	})
	if told := k.told(); len(told) > 0 {
		t.Errorf("got told of %q while the ledger was away", told)
	}
	k.mu.Lock()
	k.broken, k.full = nil, errors.New("too many findings")
	k.mu.Unlock()
	time.Sleep(200 * time.Millisecond) // several rounds
	if st, err := k.store.Stats(t.Context()); err != nil || st.Unchecked != 1 {
		t.Errorf("got %+v, %v, want it unchecked for as long as nobody took the finding", st, err)
	}
	k.mu.Lock()
	k.full = nil
	k.mu.Unlock()
	eventually(t, func() string {
		if told := k.told(); !slices.Equal(told, []string{print + " breakglass:alice:bg-7k2m-q9x"}) {
			return fmt.Sprintf("got told of %q", told)
		}
		return ""
	})
}

func TestStrangersWhoImpersonateOurNamesAreUnknown(t *testing.T) {
	k := newKit(t, store.Limits{})
	k.known("ffff")
	k.run(t)
	must(t, k.intake.Take(t.Context(), "prod", list(strings.Replace(stranger(1), `"sourceIPs"`,
		`"impersonatedUser":{"username":"breakglass:alice:bg-7k2m-q9x"},"sourceIPs"`, 1))))
	eventually(t, func() string {
		if told := k.told(); !slices.Equal(told, []string{"ffff breakglass:alice:bg-7k2m-q9x"}) {
			return fmt.Sprintf("got told of %q", told)
		}
		return ""
	})
	if events, _ := k.events(t); len(events) != 1 {
		t.Errorf("got %d events under alice's name, want that of the stranger", len(events))
	}
}

func TestBodyThatIsNoEventIsRefused(t *testing.T) {
	k := newKit(t, store.Limits{})
	k.run(t)
	if err := k.intake.Take(t.Context(), "prod", []byte(`[1,2]`)); !errors.Is(err, session.ErrUnreadable) {
		t.Errorf("got %v, want unreadable", err)
	}
}

func TestImportReadsCompressedAndDamagedFiles(t *testing.T) {
	k := newKit(t, store.Limits{})
	k.run(t)
	lines := strings.Join([]string{event(1, "get", "pods"), event(2, "get", "pods")[:200], event(3, "get", "pods"), stranger(4),
		string(list(event(5, "get", "pods"), event(1, "get", "pods")))}, "\n")
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	w.Write([]byte(lines))
	must(t, w.Close())
	res, err := k.intake.Import(t.Context(), "prod", "bob", &zipped)
	must(t, err)
	if res.Events != 5 || res.Kept != 3 || res.Duplicates != 1 || res.Unreadable != 1 || len(res.Digest) != 64 {
		t.Errorf("got %+v, want 5 events, 3 kept, 1 duplicate, 1 unreadable", res)
	}
}

func TestReportsAndSnapshotsAreFoundAndPruned(t *testing.T) {
	k := newKit(t, store.Limits{})
	now := time.Now()
	digest, err := k.store.PutReport(t.Context(), "bg-1", []byte("{}"), now)
	must(t, err)
	must(t, k.store.PutSnapshot(t.Context(), "bg-1", []byte("before"), now))
	if got, err := k.store.Report(t.Context(), digest); err != nil || string(got) != "{}" {
		t.Errorf("got report %q, %v", got, err)
	}
	if got, err := k.store.Snapshot(t.Context(), "bg-1"); err != nil || string(got) != "before" {
		t.Errorf("got snapshot %q, %v", got, err)
	}
	k.run(t)
	must(t, k.intake.Take(t.Context(), "prod", list(event(1, "get", "pods"))))
	must(t, k.store.Prune(t.Context(), now.Add(time.Hour)))
	if _, err := k.store.Report(t.Context(), digest); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("got %v for a report that is too old, want not found", err)
	}
	if st, err := k.store.Stats(t.Context()); err != nil || st.Events != 0 || st.Bytes != 0 {
		t.Errorf("got %+v, %v, want nothing left", st, err)
	}
}

func TestSilencesAreWhereNoHeartbeatCame(t *testing.T) {
	k := newKit(t, store.Limits{})
	from := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for _, m := range []int{1, 2, 3, 9, 10} {
		must(t, k.store.PutHeartbeat(t.Context(), "prod", "one", from.Add(time.Duration(m)*time.Minute)))
	}
	got, err := k.store.Silences(t.Context(), "prod", "one", from, from.Add(11*time.Minute), 2*time.Minute)
	must(t, err)
	if len(got) != 1 || !got[0].From.Equal(from.Add(3*time.Minute)) || !got[0].Until.Equal(from.Add(9*time.Minute)) {
		t.Errorf("got %v, want silence from minute 3 to 9", got)
	}
}

func TestHeartbeatsStayAsLongAsTheEvents(t *testing.T) {
	k := newKit(t, store.Limits{})
	from := time.Now().Add(-72 * time.Hour).UTC().Truncate(time.Second)
	for m := range 10 {
		must(t, k.store.PutHeartbeat(t.Context(), "prod", "one", from.Add(time.Duration(m)*time.Minute)))
	}
	silences := func() int {
		t.Helper()
		got, err := k.store.Silences(t.Context(), "prod", "one", from, from.Add(9*time.Minute), 2*time.Minute)
		must(t, err)
		return len(got)
	}
	must(t, k.store.Prune(t.Context(), from))
	if n := silences(); n != 0 {
		t.Errorf("got %d silences in a session of three days ago, whose events are kept, want none", n)
	}
	must(t, k.store.Prune(t.Context(), time.Now()))
	if n := silences(); n != 1 {
		t.Errorf("got %d silences after everything was removed, want 1", n)
	}
}

func TestReportThatIsMadeAgainIsKeptAsANewOne(t *testing.T) {
	k := newKit(t, store.Limits{})
	now := time.Now()
	var digest string
	for _, at := range []time.Time{now.Add(-time.Hour), now} {
		var err error
		digest, err = k.store.PutReport(t.Context(), "bg-1", []byte("{}"), at)
		must(t, err)
	}
	must(t, k.store.Prune(t.Context(), now.Add(-time.Minute)))
	if got, err := k.store.Report(t.Context(), digest); err != nil || string(got) != "{}" {
		t.Errorf("got %q, %v, want the report", got, err)
	}
}

func TestOneCertificateDoesNotFillTheStore(t *testing.T) {
	size := len(func() []byte {
		k := newKit(t, store.Limits{})
		k.run(t)
		must(t, k.intake.Take(t.Context(), "prod", list(event(1, "get", "pods"))))
		events, _ := k.events(t)
		body, err := json.Marshal(events[0])
		must(t, err)
		return body
	}())
	k := newKit(t, store.Limits{Owner: int64(size*10 + size/2)})
	k.run(t)
	for n := range 20 {
		must(t, k.intake.Take(t.Context(), "prod", list(event(10+n, "get", "pods"))))
	}
	k.close() // what it takes is remembered
	k.open(t, store.Limits{Owner: int64(size*10 + size/2)})
	k.run(t)
	for n := range 20 {
		must(t, k.intake.Take(t.Context(), "prod", list(event(50+n, "delete", "pods"))))
	}
	events, dropped := k.events(t)
	looks, changes := 0, 0
	for _, e := range events {
		if e.Verb == "get" {
			looks++
		} else {
			changes++
		}
	}
	if looks != 5 || changes < 4 || changes > 5 || dropped != 40-looks-changes {
		t.Errorf("got %d looks, %d changes and %d dropped, want half the room for looks, the rest for changes, and all others counted", looks,
			changes, dropped)
	}
	other := strings.NewReplacer("bg-7k2m-q9x", "bg-1111-111", print, "bb22").Replace(event(99, "get", "pods"))
	must(t, k.intake.Take(t.Context(), "prod", list(other)))
	got, dropped, err := k.store.Events(t.Context(), "prod", "bb22", "breakglass:alice:bg-1111-111")
	if err != nil || len(got) != 1 || dropped != 0 {
		t.Errorf("got %d events of another certificate, %d dropped, %v, want its one", len(got), dropped, err)
	}
}

func heartbeat(n int, nonce string) string {
	return strings.NewReplacer("breakglass:alice:bg-7k2m-q9x", "system:serviceaccount:breakglass:breakglassd", "X509SHA256="+print, "JTI=1",
		fmt.Sprintf("/api/v1/namespaces/shop/pods/x%d", n), "/version?"+session.HeartbeatParam+"="+nonce).Replace(event(n, "get", "pods"))
}

// A stream of which nothing is stored is not alive.
func TestHeartbeatCountsOnceItsBatchIsStored(t *testing.T) {
	k := newKit(t, store.Limits{})
	pulse := session.NewPulse(time.Minute, time.Second, time.Second)
	pulse.Watch("one", time.Now())
	pulse.Sent("one", "n1", time.Now())
	k.intake.Heartbeat = func(_, nonce string) (string, bool) { return pulse.Find(nonce) }
	k.intake.Alive = func(_, nonce string) { pulse.Seen(nonce) }
	body := list(event(1, "delete", "pods"), heartbeat(2, "n1"))

	k.intake.Deadline = 50 * time.Millisecond
	if err := k.intake.Take(t.Context(), "prod", body); !errors.Is(err, store.ErrOverloaded) { // nobody writes
		t.Fatalf("got %v, want overloaded", err)
	}
	must(t, k.store.Close()) // as a full disk does it
	k.intake.Deadline = 10 * time.Second
	k.run(t)
	if err := k.intake.Take(t.Context(), "prod", body); err == nil {
		t.Fatal("a batch was taken that cannot be stored")
	}
	if pulse.Heard("one") || k.intake.Figures().Heartbeats != 0 {
		t.Error("a heartbeat counts whose batch was not stored")
	}
	k.stop()

	k.open(t, store.Limits{})
	k.intake.Heartbeat = func(_, nonce string) (string, bool) { return pulse.Find(nonce) }
	k.intake.Alive = func(_, nonce string) { pulse.Seen(nonce) }
	k.run(t)
	from := time.Now()
	for range 2 { // also when it is sent again though it was stored
		must(t, k.intake.Take(t.Context(), "prod", body))
	}
	if !pulse.Heard("one") || k.intake.Figures().Heartbeats != 1 {
		t.Errorf("got %d heartbeats of a batch that was sent again, want 1", k.intake.Figures().Heartbeats)
	}
	silences, err := k.store.Silences(t.Context(), "prod", "one", from, time.Now().Add(time.Minute), 45*time.Second)
	must(t, err)
	if len(silences) != 1 || !silences[0].From.After(from) {
		t.Errorf("got silences %+v, want one that begins with the heartbeat", silences)
	}
}

func TestFilesOfTheVersionsBeforeAreBroughtUpToDate(t *testing.T) {
	for version, rows := range map[int]string{
		1: `INSERT INTO owners VALUES ('prod', 'aa11', 1, 0, 7, ?1), ('prod', 'idle', 0, 1, 0, ?1);
			INSERT INTO heartbeats VALUES ('prod', 'one', 'n1', ?3);`,
		2: `INSERT INTO owners VALUES ('prod', 'aa11', 1, 0, 7, ?1, length(?2)), ('prod', 'idle', 0, 1, 0, ?1, 0);
			INSERT INTO heartbeats VALUES ('prod', 'one', ?3); UPDATE totals SET bytes = length(?2), dropped = 9;`,
	} {
		path := filepath.Join(t.TempDir(), "sessions.db")
		schema, err := os.ReadFile(fmt.Sprintf("testdata/v%d.sql", version))
		must(t, err)
		body := `{"auditID":"a","stage":"ResponseComplete","user":"breakglass:alice:bg-7k2m-q9x","fingerprint":"aa11"}`
		db, err := sql.Open("sqlite", path)
		must(t, err)
		now := time.Now()
		_, err = db.Exec(string(schema)+fmt.Sprintf(`; PRAGMA application_id = 1650946917; PRAGMA user_version = %d;
			INSERT INTO events VALUES (1, 'prod', zeroblob(32), 'breakglass:alice:bg-7k2m-q9x', '', 'aa11', ?1, 1, ?2);`, version)+rows,
			now.Unix(), []byte(body), now.UnixMicro())
		must(t, err)
		must(t, db.Close())
		for range 2 { // and it stays so
			s, err := store.Open(t.Context(), path, store.Limits{Owner: int64(len(body)) + 10})
			must(t, err)
			events, dropped, err := s.Events(t.Context(), "prod", print, "breakglass:alice:bg-7k2m-q9x")
			if err != nil || len(events) != 1 || events[0].AuditID != "a" || dropped < 7 {
				t.Errorf("version %d: got %+v, %d dropped, %v, want the event and 7", version, events, dropped, err)
			}
			if _, dropped, err = s.Events(t.Context(), "prod", "cc33", "breakglass:carol:bg-1111-111"); err != nil ||
				(dropped > 0) != (version == 2) {
				t.Errorf("version %d: got %d dropped, %v of a grant that may have lost some", version, dropped, err)
			}
			silent, err := s.Silences(t.Context(), "prod", "one", now.Add(-50*time.Second), now.Add(50*time.Second), time.Minute)
			if err != nil || len(silent) != 0 {
				t.Errorf("version %d: got %+v, %v, want the heartbeat", version, silent, err)
			}
			added, err := s.Add(t.Context(), "prod", []session.Event{{AuditID: "b", Stage: session.StageComplete,
				User: "breakglass:alice:bg-7k2m-q9x", Fingerprint: print}}, nil, now)
			if err != nil || added.Dropped != 1 {
				t.Errorf("version %d: got %+v, %v, want no room: what the certificate takes is counted", version, added, err)
			}
			must(t, s.Close())
		}
	}
}

// Strangers fill the room of strangers in their own cluster, and nothing else.
func TestStrangersFillNobodyElsesRoom(t *testing.T) {
	k := newKit(t, store.Limits{Strangers: 8 << 10})
	k.known(print)
	k.run(t)
	invented := func(n int) string {
		return strings.NewReplacer("breakglass:alice:bg-7k2m-q9x", fmt.Sprintf("breakglass:x%d:bg-0000-000", n), print,
			fmt.Sprintf("e%d", n)).Replace(event(n, "patch", "pods"))
	}
	for n := range 40 {
		must(t, k.intake.Take(t.Context(), "prod", list(invented(n))))
		must(t, k.intake.Take(t.Context(), "other", list(invented(n))))
	}
	st, err := k.store.Stats(t.Context())
	must(t, err)
	if st.Bytes > 16<<10 || st.Dropped == 0 {
		t.Fatalf("got %+v, want the strangers of two clusters held to 8 KiB each", st)
	}
	before := st.Dropped
	for n := range 50 {
		must(t, k.intake.Take(t.Context(), "prod", list(event(100+n, "delete", "pods"))))
	}
	events, dropped := k.events(t)
	if st, err = k.store.Stats(t.Context()); err != nil || len(events) != 50 || dropped != 0 || st.Dropped != before {
		t.Errorf("got %d events of the issued certificate and %d dropped, %+v, %v, want all 50", len(events), dropped, st, err)
	}
	if _, dropped, err = k.store.Events(t.Context(), "other", "bb22", "breakglass:bob:bg-1111-111"); err != nil || dropped == 0 {
		t.Errorf("got %d dropped, %v: of a grant without any event those that were lost may be its own", dropped, err)
	}
	if _, dropped, err = k.store.Events(t.Context(), "third", "bb22", "breakglass:bob:bg-1111-111"); err != nil || dropped != 0 {
		t.Errorf("got %d dropped, %v in a cluster that lost nothing", dropped, err)
	}
}

// A certificate that the ledger comes to know after its first events gets the room of such certificates, with these events.
func TestEventsThatCameBeforeTheRecordChangeRooms(t *testing.T) {
	k := newKit(t, store.Limits{Strangers: 8 << 10})
	k.broken = fmt.Errorf("a canary: %w", store.ErrNotYet)
	k.run(t)
	for n := range 40 {
		must(t, k.intake.Take(t.Context(), "prod", list(event(n, "get", "pods"))))
	}
	early, dropped := k.events(t)
	if len(early) == 0 || len(early) == 40 || dropped != 40-len(early) {
		t.Fatalf("got %d events and %d dropped, want as many as strangers have room for", len(early), dropped)
	}
	k.mu.Lock()
	k.broken, k.prints = nil, []string{print}
	k.mu.Unlock()
	eventually(t, func() string {
		if st, err := k.store.Stats(t.Context()); err != nil || st.Unchecked != 0 {
			return fmt.Sprintf("got %+v, %v, want everything checked", st, err)
		}
		return ""
	})
	must(t, k.intake.Take(t.Context(), "prod", list(event(100, "get", "pods"))))
	other := strings.NewReplacer("bg-7k2m-q9x", "bg-1111-111", print, "bb22")
	var fill []string
	for n := range len(early) {
		fill = append(fill, other.Replace(event(200+n, "get", "pods")))
	}
	must(t, k.intake.Take(t.Context(), "prod", list(fill...)))
	if events, _ := k.events(t); len(events) != len(early)+1 {
		t.Errorf("got %d events, want the %d early ones and the one after", len(events), len(early))
	}
	got, dropped, err := k.store.Events(t.Context(), "prod", "bb22", "breakglass:alice:bg-1111-111")
	if err != nil || len(got) != len(early) || dropped != 0 {
		t.Errorf("got %d events of a stranger, %d dropped, %v: the room that was left to strangers is not theirs", len(got), dropped, err)
	}
}

// One cluster that has the intake full takes nothing from another.
func TestIntakeHasRoomForEachCluster(t *testing.T) {
	k := newKit(t, store.Limits{})
	k.intake.MaxBodies, k.intake.Deadline = 1, time.Minute
	inside, leave := make(chan bool), make(chan bool)
	k.intake.Known = func(context.Context, string, string, string) (bool, error) {
		inside <- true
		<-leave
		return true, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error, 1)
	go func() { waiting <- k.intake.Take(ctx, "other", list(event(1, "get", "pods"))) }()
	<-inside // it has the only place of its cluster
	if err := k.intake.Take(t.Context(), "other", list(stranger(1))); !errors.Is(err, store.ErrOverloaded) {
		t.Errorf("got %v for a second batch of the cluster, want overloaded", err)
	}
	if err := k.intake.Take(t.Context(), "prod", list(stranger(2))); err != nil {
		t.Errorf("got %v for a cluster that sends its first batch", err)
	}
	cancel()
	leave <- true
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled: no writer runs, and the caller has gone", err)
	}
}

// What a person hands in is marked as such until an API server says it itself.
func TestImportedEventsAreMarked(t *testing.T) {
	k := newKit(t, store.Limits{})
	k.run(t)
	_, err := k.intake.Import(t.Context(), "prod", "bob", strings.NewReader(event(1, "get", "secrets")+"\n"+event(2, "delete", "pods")))
	must(t, err)
	must(t, k.intake.Take(t.Context(), "prod", list(event(2, "delete", "pods"), event(3, "delete", "pods"))))
	_, err = k.intake.Import(t.Context(), "prod", "bob", strings.NewReader(event(3, "delete", "pods")))
	must(t, err)
	events, _ := k.events(t)
	var by []string
	for _, e := range events {
		by = append(by, e.Imported)
	}
	if !slices.Equal(by, []string{"bob", "", ""}) {
		t.Errorf("got %q, want the first event alone marked", by)
	}
	s := session.Build(events, session.Grant{Request: "bg-7k2m-q9x", Cluster: "prod", User: "breakglass:alice:bg-7k2m-q9x",
		Fingerprint: print, From: events[0].At, Audited: true})
	var text strings.Builder
	must(t, s.WriteText(&text))
	for _, want := range []string{"from a file that was handed in by bob",
		"! 1 request was in a file that bob handed in: no API server sent them to breakglass"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the report does not say %q:\n%s", want, text.String())
		}
	}
	must(t, k.store.Prune(t.Context(), time.Now().Add(time.Hour)))
	if st, err := k.store.Stats(t.Context()); err != nil || st.Bytes != 0 || st.Events != 0 {
		t.Errorf("after everything was removed: %+v, %v", st, err)
	}
}

// failedSignIn is what kube-apiserver 1.36 sent for a bearer token that it did not know.
const failedSignIn = `{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[{"level":"Metadata","auditID":"a","stage":"ResponseStarted",` +
	`"requestURI":"/api/v1/nodes","verb":"list","user":{},"sourceIPs":["127.0.0.1"],"responseStatus":{"metadata":{},"status":"Failure","reason":"Unauthorized",` +
	`"code":401},"requestReceivedTimestamp":"2026-11-27T23:28:10.124396Z","stageTimestamp":"2026-11-27T23:28:10.124682Z"}]}`

func TestFailedSignInsAreNoLostBatch(t *testing.T) {
	k := newKit(t, store.Limits{})
	k.run(t)
	must(t, k.intake.Take(t.Context(), "prod", []byte(failedSignIn)))
	if f := k.intake.Figures(); f.Events != 1 || f.Unreadable != 0 || f.Kept != 0 {
		t.Errorf("got %+v, want one event read and none kept", f)
	}
}

func TestOtherFilesAreRefused(t *testing.T) {
	k := newKit(t, store.Limits{})
	if _, err := store.Open(t.Context(), k.path, store.Limits{}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("got %v for a second opening, want refused", err)
	}
	path := filepath.Join(t.TempDir(), "other")
	must(t, os.WriteFile(path, []byte("not a database, but some text that is long enough"), 0o600))
	if _, err := store.Open(t.Context(), path, store.Limits{}); err == nil {
		t.Error("a text file was opened as a store")
	}
}

// BenchmarkTake has batches as an API server sends them: 200 events, of which one in a hundred is ours.
func BenchmarkTake(b *testing.B) { benchmark(b, 100) }

// BenchmarkTakeOurs has batches in which every event is ours and is stored.
func BenchmarkTakeOurs(b *testing.B) { benchmark(b, 1) }

func benchmark(b *testing.B, every int) {
	k := newKit(b, store.Limits{Plain: 1 << 30, Bytes: 1 << 40})
	k.known(print)
	k.run(b)
	const size = 200
	n, read := 0, 0
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		b.StopTimer()
		events := make([]string, size)
		for i := range events {
			n++
			if events[i] = stranger(n); n%every == 0 {
				events[i] = event(n, "get", "pods")
			}
		}
		body := list(events...)
		read += len(body)
		b.StartTimer()
		must(b, k.intake.Take(b.Context(), "prod", body))
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
	b.StopTimer()
	st, err := k.store.Stats(b.Context())
	must(b, err)
	file, err := os.Stat(k.path)
	must(b, err)
	b.ReportMetric(float64(read)/float64(n), "wire-bytes/event")
	if st.Events > 0 {
		b.ReportMetric(float64(st.Bytes)/float64(st.Events), "body-bytes/stored")
		b.ReportMetric(float64(file.Size())/float64(st.Events), "file-bytes/stored")
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.HeapAlloc)/1e6, "heap-MB")
}
