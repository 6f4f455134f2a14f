package breakglass_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

func active(t *testing.T, s *bgtest.System, who string) *breakglass.Request {
	r := s.Grant(who, "admin")
	_, csr := bgtest.NewCSR()
	d, err := s.Claim(who, r.ID, csr)
	if err != nil {
		t.Fatal(err)
	}
	return d.Request
}

// sweep re-binds from a stale snapshot: revoke between snapshot and Bind.
func TestSweepNeverGivesARevokedGrantItsBindingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bgtest.New(t, bgtest.Options{Config: func(c *bgtest.Config) { c.ReconcileBindingsEvery = 30 * time.Second }})
		a, b := active(t, s, "alice"), active(t, s, "bob")
		// a hand deleted both bindings
		s.Cluster.Plant(a.ID, nil)
		s.Cluster.Plant(b.ID, nil)
		var once sync.Once
		revoked := make(chan string, 1)
		s.Cluster.SetBind(func(x breakglass.Binding) (bool, error) {
			once.Do(func() {
				other := a.ID
				if x.Request == a.ID {
					other = b.ID
				}
				revoked <- other
				if _, err := s.Service.Revoke(context.Background(), byKey("carol"), other, "cut it off now"); err != nil {
					t.Error(err)
				}
			})
			return true, nil
		})
		time.Sleep(31 * time.Second)
		synctest.Wait()
		if s.Cluster.Has(<-revoked) {
			t.Error("a revoked grant has its binding back and the ledger says it is gone")
		}
	})
}

// tracker stale at start: Run.Open race with a revoke.
type slowStore struct {
	ledger.Store
	hook func(stream string)
}
type slowView struct {
	ledger.View
	hook func(stream string)
}

func (s slowStore) View(ctx context.Context, fn func(ledger.View) error) error {
	var seen []string
	err := s.Store.View(ctx, func(v ledger.View) error { return fn(slowView{v, func(x string) { seen = append(seen, x) }}) })
	for _, x := range seen {
		s.hook(x)
	}
	return err
}
func (v slowView) StreamRecords(x string) ([]ledger.Record, error) {
	r, err := v.View.StreamRecords(x)
	v.hook(x)
	return r, err
}

func TestRevokeWhileTheDaemonStartsStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hook atomic.Pointer[func(string)]
		s := bgtest.New(t, bgtest.Options{Store: func(st ledger.Store) ledger.Store {
			return slowStore{st, func(x string) {
				if h := hook.Load(); h != nil {
					(*h)(x)
				}
			}}
		}})
		r := active(t, s, "alice")
		synctest.Wait()
		var fired atomic.Bool
		h := func(x string) {
			if x != r.ID || !fired.CompareAndSwap(false, true) {
				return
			}
			// Run has just read the request; somebody revokes it before Run puts what it read in the tracker. New has put it there before
			// anybody could revoke it.
			if _, err := s.Service.Revoke(context.Background(), byKey("carol"), r.ID, "cut it off now"); err != nil {
				t.Error("revoke:", err)
			}
		}
		s.Restart()
		hook.Store(&h)
		time.Sleep(2 * time.Second) // a sweep binds again
		synctest.Wait()
		if !fired.Load() {
			t.Fatal("Run did not read the request")
		}
		back, gone := 0, 0
		for range 20 {
			time.Sleep(time.Second)
			synctest.Wait()
			if s.Cluster.Has(r.ID) {
				back++
			} else {
				gone++
			}
		}
		if back > 0 {
			t.Error("a revoked grant keeps getting its binding back")
		}
		s.Cluster.SetUnbind(func(string) (bool, error) { return true, nil })
		unbinds := atomic.Int64{}
		s.Cluster.SetUnbind(func(string) (bool, error) { unbinds.Add(1); return true, nil })
		time.Sleep(time.Until(r.Issued.NotAfter) + time.Second)
		unbinds.Store(0)
		time.Sleep(time.Second)
		if unbinds.Load() > 5 {
			t.Error("tend spins")
		}
	})
}

// two clusters; an object with our label of an active request of c1 stands in c2.
type twoClusters struct {
	mu   sync.Mutex
	have map[string]map[string]bool
	log  []string
}

func (c *twoClusters) Bind(_ context.Context, b breakglass.Binding) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.have[b.Cluster][b.Request] = true
	c.log = append(c.log, "bind "+b.Cluster)
	return nil
}
func (c *twoClusters) Unbind(_ context.Context, cl, id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.have[cl], id)
	c.log = append(c.log, "unbind "+cl)
	return nil
}
func (c *twoClusters) Bound(_ context.Context, cl string) (out []string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.have[cl] {
		out = append(out, id)
	}
	return out, nil
}

func TestStrayBindingInAnotherClusterIsRemovedThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := &twoClusters{have: map[string]map[string]bool{"c1": {}, "c2": {}}}
		pol := strings.Replace(bgtest.Policy(), "clusters:\n  - {id: c1",
			"clusters:\n  - {id: c2, server: \"https://127.0.0.1:7443\"}\n  - {id: c1", 1)
		pol = strings.ReplaceAll(pol, "clusters: [c1]", "clusters: [c1, c2]")
		s := bgtest.New(t, bgtest.Options{Policy: pol,
			Config: func(c *bgtest.Config) { c.Binder = tc; c.ReconcileBindingsEvery = 10 * time.Second }})
		ask := breakglass.Ask{Profile: "admin", Cluster: "c1", Reason: "etcd quorum lost, API 5xx"}
		r, err := s.Service.Request(t.Context(), byKey("alice"), ask)
		if err != nil {
			t.Fatal(err)
		}
		s.Approve(byKey("carol"), r)
		s.Approve(byKey("bob"), r)
		_, csr := bgtest.NewCSR()
		if _, err := s.Claim("alice", r.ID, csr); err != nil {
			t.Fatal(err)
		}
		tc.mu.Lock()
		tc.have["c2"][r.ID] = true // velero restore of c1 into c2
		tc.log = nil
		tc.mu.Unlock()
		time.Sleep(61 * time.Second)
		synctest.Wait()
		tc.mu.Lock()
		defer tc.mu.Unlock()
		if tc.have["c2"][r.ID] {
			t.Error("the stray binding in c2 is still there after 6 sweeps")
		}
		if !tc.have["c1"][r.ID] {
			t.Error("the binding of the active grant in c1 is gone instead")
		}
	})
}

// one bad object blocks the sweep.
func TestOneStuckObjectKeepsNothingElseWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bgtest.New(t, bgtest.Options{})
		r := s.Grant("alice", "admin")
		// the API server carries the Bind out but the answer is lost
		s.Cluster.SetBind(func(breakglass.Binding) (bool, error) { return true, errors.New("timeout") })
		s.Cluster.Plant("a-object-with-a-finalizer", &breakglass.Binding{Request: "a-object-with-a-finalizer"})
		s.Cluster.SetUnbind(func(id string) (bool, error) {
			if id == "a-object-with-a-finalizer" {
				return false, errors.New("still there after it was deleted (finalizers)")
			}
			return true, nil
		})
		_, csr := bgtest.NewCSR()
		d, err := s.Claim("alice", r.ID, csr)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(d.Request.Issued.NotAfter) + 10*time.Minute)
		synctest.Wait()
		if s.Cluster.Has(r.ID) {
			t.Error("leftover binding is never removed")
		}
	})
}

// the policy drops the cluster while a Bind's outcome is unknown.
func TestBindingsOfAProfileThatIsGoneAreStillSweptAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bgtest.New(t, bgtest.Options{Config: func(c *bgtest.Config) { c.ReconcileBindingsEvery = 30 * time.Second }})
		r := s.Grant("alice", "admin")
		s.Cluster.SetBind(func(breakglass.Binding) (bool, error) { return true, errors.New("timeout") })
		_, csr := bgtest.NewCSR()
		if _, err := s.Claim("alice", r.ID, csr); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Service.Revoke(t.Context(), byKey("carol"), r.ID, "cut off"); err != nil {
			t.Fatal(err)
		}
		_ = r
		// tend's next Bind try lands after the revoke's unbind (server side late): same as a lost answer
		s.Cluster.Plant(r.ID, &breakglass.Binding{Request: r.ID, Cluster: "c1"})
		p := bgtest.Policy()
		i := strings.Index(p, "profiles:")
		p = p[:i] + `profiles:
  - id: group
    clusters: [c1]
    bind: {group: "breakglass:cluster-admins"}
    ttl: {default: 10m, max: 1h}
    requesters: [sre]
    approvals: {count: 2, from: [sre, security]}
    reason: {min: 10}
    risk: high
`
		pol, err := policy.Parse("access.yaml", []byte(p))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Service.InForce.Set(t.Context(), pol); err != nil {
			t.Fatal(err)
		}
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if s.Cluster.Has(r.ID) {
			t.Error("24 h after the revoke the binding is still in the cluster")
		}
	})
}

// The clock was ahead for a moment: until it has caught up, deadlines do not pass, so nothing may be given.
func TestNothingIsGivenWhileTheClockIsBehindTheLedger(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		granted := s.Grant("alice", "group")
		live := active(t, s, "bob")
		pending := s.Ask(byKey("dave"), "group")
		if _, err := s.Ledger.Append(t.Context(), time.Now().Add(2*time.Minute), record.DaemonStream, ledger.AnyVersion, nil,
			ledger.Draft{Kind: "heartbeat/v1", Body: []byte(`{"version":""}`)}); err != nil {
			t.Fatal(err)
		}
		_, err := s.Service.Request(t.Context(), byKey("alice"), breakglass.Ask{Profile: "group", Reason: "etcd quorum lost, API 5xx"})
		wantRefusal(t, err, "clock")
		_, err = s.Service.Approve(t.Context(), byKey("carol"), pending.ID, bgtest.Consent(byKey("carol"), pending))
		wantRefusal(t, err, "clock")
		_, csr := bgtest.NewCSR()
		_, err = s.Claim("alice", granted.ID, csr)
		wantRefusal(t, err, "clock")
		if _, err := s.Service.Revoke(t.Context(), byKey("carol"), live.ID, "cut it off now"); err != nil {
			t.Errorf("revoking must work: %v", err)
		}
		if _, err := s.Service.Deny(t.Context(), byKey("carol"), pending.ID, "not now"); err != nil {
			t.Errorf("denying must work: %v", err)
		}
		time.Sleep(2 * time.Minute)
		if _, err := s.Claim("alice", granted.ID, csr); err != nil {
			t.Errorf("when the clock has caught up: %v", err)
		}
	})
}

// key removed from policy after approval.
func TestApprovalByAKeyThatIsGoneDoesNotCountAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bgtest.New(t, bgtest.Options{})
		r := s.Ask(byKey("alice"), "keys")
		s.Approve(byKey("carol"), r) // with a stolen key
		s.Approve(byKey("bob"), r)
		old := bgtest.Policy()
		line := ""
		for _, l := range strings.Split(old, "\n") {
			if strings.Contains(l, "id: carol,") {
				line = l
			}
		}
		k := line[strings.Index(line, "keys: [\"")+8 : strings.LastIndex(line, "\"]")]
		e := ""
		for _, l := range strings.Split(old, "\n") {
			if strings.Contains(l, "id: mallory,") {
				e = l
			}
		}
		mk := e[strings.Index(e, "keys: [\"")+8 : strings.LastIndex(e, "\"]")]
		p := strings.Replace(old, e+"\n", "", 1)
		p = strings.Replace(p, k, mk, 1) // carol has a new key (mallory's bytes, anybody's)
		pol, err := policy.Parse("access.yaml", []byte(p))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Service.InForce.Set(t.Context(), pol); err != nil {
			t.Fatal(err)
		}
		_, csr := bgtest.NewCSR()
		if _, err := s.Claim("alice", r.ID, csr); err == nil {
			t.Error("an approval with a key that the policy has dropped still gives a certificate (risk critical)")
		}
	})
}

func TestRepeatsAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		r := s.Grant("alice", "admin")
		_, csr := bgtest.NewCSR()
		for i := range 30 {
			_, err := s.Claim("alice", r.ID, csr)
			if i > repeats {
				wantRefusal(t, err, "limit/repeat")
			} else if err != nil {
				t.Fatal(err)
			}
		}
		pending := s.Ask(byKey("bob"), "group")
		refused := 0
		for range 30 {
			s.Approve(bySlack("carol"), pending)
			if _, err := s.Service.TakeBack(t.Context(), bySlack("carol"), pending.ID); err != nil {
				refused++
			}
		}
		if refused == 0 {
			t.Error("an approval was taken back 30 times within a minute")
		}
		if _, err := s.Service.Revoke(t.Context(), bySlack("dave"), r.ID, "enough"); err != nil {
			t.Errorf("revoking: %v", err)
		}
	})
}

// repeats is how often a thing can be done again within a minute.
const repeats = 10

// full is a disk without room.
type full struct {
	ledger.Store
	now *atomic.Bool
}

func (s full) Update(ctx context.Context, fn func(ledger.Tx) error) error {
	if s.now.Load() {
		return errors.New("database or disk is full")
	}
	return s.Store.Update(ctx, fn)
}

func TestRefusalThatCannotBeRecordedIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		var now atomic.Bool
		s := bgtest.New(t, bgtest.Options{Log: slog.New(slog.NewTextHandler(&log, nil)),
			Store: func(st ledger.Store) ledger.Store { return full{st, &now} }})
		r := s.Ask(byKey("alice"), "admin")
		synctest.Wait()
		now.Store(true)
		_, err := s.Service.Approve(t.Context(), byKey("alice"), r.ID, breakglass.Consent{})
		now.Store(false)
		wantRefusal(t, err, "self-approval")
		s.Stop()
		if !strings.Contains(log.String(), "self-approval") {
			t.Errorf("the log does not say what could not be recorded: %s", log.String())
		}
	})
}

func TestPolicyTooLargeToRecordIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, s *bgtest.System) {
		var people, ids strings.Builder
		for i := range 1150 {
			id := fmt.Sprintf("firstname.lastname-long-%05d", i)
			fmt.Fprintf(&people, "  - {id: %s, slack: [{team: T01, user: U%07d}]}\n", id, i)
			fmt.Fprintf(&ids, ", %s", id)
		}
		text := strings.Replace(bgtest.Policy(), "people:\n", "people:\n"+people.String(), 1)
		text = strings.Replace(text, "members: [carol, erin", "members: [carol, erin"+ids.String(), 1)
		p, err := policy.Parse("access.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Service.InForce.Set(t.Context(), p)
		wantRefusal(t, err, "policy/size")
		s.Ask(byKey("alice"), "admin")
	})
}
