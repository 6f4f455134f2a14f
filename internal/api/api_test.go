package api_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/real"
)

// daemon is a whole system with the API on a real port.
type daemon struct {
	*bgtest.System
	url  string
	down func() // stops listening and ends every connection
	log  *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newDaemon(t *testing.T, change ...func(*api.Config)) *daemon {
	t.Helper()
	d := &daemon{System: bgtest.New(t, bgtest.Options{}), log: &lockedBuffer{}}
	d.serve(t, "127.0.0.1:0", change...)
	return d
}

// serve puts the API on an address, after a restart on the same one.
func (d *daemon) serve(t *testing.T, addr string, change ...func(*api.Config)) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	d.url = "http://" + l.Addr().String()
	cfg := api.Config{Service: d.Service, Campaigns: d.Campaigns, Ledger: d.Ledger, LedgerKey: d.VKey, URLs: []string{d.url}, Version: "test",
		Log: slog.New(slog.NewTextHandler(d.log, nil))}
	for _, c := range change {
		c(&cfg)
	}
	h, err := api.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: h, BaseContext: func(net.Listener) context.Context { return ctx }}}
	srv.Start()
	d.down = sync.OnceFunc(func() { cancel(); srv.Close() })
	t.Cleanup(d.down)
}

func (d *daemon) client(t *testing.T, keys ...ssh.Signer) *api.Client {
	t.Helper()
	h, err := api.NewHTTP(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &api.Client{Server: d.url, HTTP: h, Keys: func(context.Context) ([]ssh.Signer, error) { return keys, nil }}
}

func (d *daemon) as(t *testing.T, person string) *api.Client {
	return d.client(t, bgtest.SSHKey(person))
}

func newKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// wantError fails unless err is an api.Error of this class and code.
func wantError(t *testing.T, err error, class, code string) *api.Error {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) {
		t.Fatalf("got error %v, want class %s code %s", err, class, code)
	}
	if e.Class != class || e.Code != code {
		t.Fatalf("got class %s code %s (%v), want class %s code %s", e.Class, e.Code, err, class, code)
	}
	return e
}

var emergency = api.Ask{Profile: "admin", Reason: "etcd quorum lost, API 5xx"}

func TestOneRequestBecomesOneCertificateOverHTTP(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	alice, bob, carol := d.as(t, "alice"), d.as(t, "bob"), d.as(t, "carol")
	_, csr := bgtest.NewCSR()
	r := must(alice.Request(ctx, emergency))(t)
	if r.State != breakglass.StatePending || r.Ask.By.Person != "alice" || r.Mode != "binding" || r.Names["alice"] != "Alice" {
		t.Fatalf("opened %+v", r)
	}
	_, err := alice.Approve(ctx, r, "")
	wantError(t, err, "denied", "self-approval")
	_, err = alice.Claim(ctx, r.ID, csr)
	wantError(t, err, "conflict", "not-approved")

	r = must(carol.Approve(ctx, r, "on the bridge call"))(t)
	if len(r.Approvals) != 1 || !r.Approvals[0].Signed || r.Approvals[0].Comment != "on the bridge call" || len(r.Missing) != 1 {
		t.Fatalf("after one approval: %+v", r)
	}
	r = must(bob.Approve(ctx, r, ""))(t)
	if r.State != breakglass.StateApproved || r.ClaimUntil.IsZero() || !r.Deadline.Equal(r.ClaimUntil) {
		t.Fatalf("after two approvals: %+v", r)
	}
	_, err = bob.Claim(ctx, r.ID, csr)
	wantError(t, err, "denied", "not-yours")

	got := must(alice.Claim(ctx, r.ID, csr))(t)
	if got.Request.State != breakglass.StateActive || !got.Request.Certificate.Bound || got.Warning != "" {
		t.Fatalf("claimed %+v", got.Request)
	}
	if got.Cluster != (api.Cluster{ID: "c1", Server: "https://127.0.0.1:6443", CA: string(d.CA.PEM())}) {
		t.Errorf("cluster %+v", got.Cluster)
	}
	proof := must(ledger.ParseProof([]byte(got.Proof)))(t)
	if err := ledger.VerifyProof(got.Issued, proof, d.Verifier); err != nil {
		t.Error(err)
	}
	block, _ := pem.Decode([]byte(got.Certificate))
	if breakglass.Fingerprint(block.Bytes) != got.Request.Certificate.Fingerprint {
		t.Error("the certificate is not the one in the request")
	}
	again := must(alice.Claim(ctx, r.ID, csr))(t)
	if again.Certificate != got.Certificate {
		t.Error("claiming again with the same key gave another certificate")
	}
	_, other := bgtest.NewCSR()
	_, err = alice.Claim(ctx, r.ID, other)
	wantError(t, err, "conflict", "claimed")

	h := must(alice.History(ctx, r.ID))(t)
	var kinds []string
	for i, e := range h.Entries {
		kinds = append(kinds, e.Kind)
		if e.Number != int64(i+1) || !bytes.HasSuffix(e.Leaf, e.Event) {
			t.Errorf("entry %d: number %d, or its leaf is not of its event", i, e.Number)
		}
	}
	want := []string{"requested/v3", "refused/v1", "refused/v1", "approved/v2", "approved/v2", "refused/v1", "claimed/v2", "issued/v1",
		"bound/v1", "delivered/v1", "refused/v1"}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Error(diff)
	}
	r = must(carol.Command(ctx, r.ID, "revoke", "drill is over"))(t)
	if r.State != breakglass.StateRevoked || r.Revoked.Person != "carol" || d.Cluster.Has(r.ID) {
		t.Errorf("after revoke: %+v", r)
	}
	_, err = carol.Close(ctx, r.ID, "restarted the etcd members")
	wantError(t, err, "denied", "not-yours")
	_, err = alice.Acknowledge(ctx, r.ID, "", "")
	wantError(t, err, "denied", "own-session")
	_, err = carol.Acknowledge(ctx, r.ID, "", "")
	wantError(t, err, "conflict", "nothing-found")
	_, err = alice.Sweep(ctx, r.ID)
	wantError(t, err, "unavailable", "no-examiner")
	r = must(alice.Close(ctx, r.ID, "restarted the etcd members"))(t)
	if r.Closed == nil || r.Closed.Person != "alice" || r.Closed.Reason != "restarted the etcd members" || r.Touched {
		t.Errorf("after close: closed %+v, touched %v", r.Closed, r.Touched)
	}
	d.Check()
}

func TestCommandsEndRequests(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	alice, bob, carol := d.as(t, "alice"), d.as(t, "bob"), d.as(t, "carol")
	r := must(alice.Request(ctx, emergency))(t)
	must(bob.Approve(ctx, r, ""))(t)
	r = must(bob.Command(ctx, r.ID, "take-back", ""))(t)
	if len(r.Approvals) != 0 {
		t.Errorf("approval taken back, but there is %+v", r.Approvals)
	}
	_, err := carol.Command(ctx, r.ID, "deny", "")
	wantError(t, err, "invalid", "reason")
	_, err = carol.Command(ctx, r.ID, "withdraw", "")
	wantError(t, err, "denied", "not-yours")
	r = must(carol.Command(ctx, r.ID, "deny", "not an emergency"))(t)
	if r.State != breakglass.StateDenied || r.Denied.Reason != "not an emergency" {
		t.Errorf("denied: %+v", r)
	}
	_, err = bob.Approve(ctx, r, "")
	wantError(t, err, "conflict", "decided")

	r = must(alice.Request(ctx, emergency))(t)
	r = must(alice.Command(ctx, r.ID, "withdraw", "found another way"))(t)
	if r.State != breakglass.StateWithdrawn {
		t.Errorf("withdrawn: %s", r.State)
	}
	_, err = alice.Get(ctx, "bg-0000-000")
	wantError(t, err, "unknown", "unknown-request")
	d.Check()
}

func TestRevokeAllLeavesPendingRequestsAlone(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	alice := d.as(t, "alice")
	r := must(alice.Request(ctx, emergency))(t)
	_, err := alice.RevokeAll(ctx, "no such cluster", "drill is over")
	wantError(t, err, "unknown", "unknown-cluster")
	got := must(alice.RevokeAll(ctx, r.Ask.Cluster, "drill is over"))(t)
	if len(got.Revoked) != 0 || len(got.Left) != 0 {
		t.Errorf("a pending request was touched: %+v", got)
	}
	if r = must(alice.Get(ctx, r.ID))(t); r.State != breakglass.StatePending {
		t.Errorf("state %s, want pending", r.State)
	}
	for _, filter := range []string{api.FilterTouched, api.FilterUnacknowledged} {
		if l := must(alice.List(ctx, filter, 1))(t); len(l.Items) != 0 {
			t.Errorf("%s lists %d requests, want none: nothing was issued", filter, len(l.Items))
		}
	}
	d.Check()
}

func TestCommandsOnNoRequestLeaveNoTraceInItsStream(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	alice := d.as(t, "alice")
	const nobodys = "bg-0000-000" // well-formed
	_, err := alice.Claim(ctx, nobodys, []byte("no CSR"))
	wantError(t, err, "unknown", "unknown-request")
	_, err = alice.Approve(ctx, api.Request{ID: nobodys, Digest: "digest"}, "")
	wantError(t, err, "unknown", "unknown-request")
	for _, c := range []string{"deny", "withdraw", "take-back", "revoke"} {
		_, err = alice.Command(ctx, nobodys, c, "x")
		wantError(t, err, "unknown", "unknown-request")
	}
	r := must(alice.Request(ctx, emergency))(t)
	_, err = alice.Claim(ctx, r.ID, []byte("no CSR"))
	wantError(t, err, "invalid", "csr/pem")
	d.Check()
}

func TestDryRunRecordsNothing(t *testing.T) {
	d := newDaemon(t)
	alice := d.as(t, "alice")
	before := d.Ledger.Size()
	r := must(alice.DryRun(t.Context(), emergency))(t)
	if r.Kind != "RequestPreview" || r.ID != "" || r.Ask.Server == "" || len(r.Missing) == 0 || r.Reason != emergency.Reason {
		t.Errorf("preview %+v", r)
	}
	_, err := alice.DryRun(t.Context(), api.Ask{Profile: "admin", Reason: "x", TTLSeconds: 7200})
	e := wantError(t, err, "policy", "policy/ttl,policy/reason")
	if !strings.Contains(e.Why, "2h is over the 1h limit") || e.Next == "" {
		t.Errorf("the refusal does not teach: %+v", e)
	}
	if after := d.Ledger.Size(); after != before {
		t.Errorf("the ledger grew from %d to %d", before, after)
	}
}

func TestListsAreForTheirReader(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	alice, bob, carol := d.as(t, "alice"), d.as(t, "bob"), d.as(t, "carol")
	waiting := must(alice.Request(ctx, emergency))(t)
	active := d.Grant("bob", "admin")
	_, csr := bgtest.NewCSR()
	must(bob.Claim(ctx, active.ID, csr))(t)
	denied := must(alice.Request(ctx, emergency))(t)
	must(carol.Command(ctx, denied.ID, "deny", "not now"))(t)

	ids := func(c *api.Client, filter string) []string {
		t.Helper()
		out := []string{}
		for _, r := range must(c.List(ctx, filter, 30))(t).Items {
			out = append(out, r.ID)
		}
		return out
	}
	for _, c := range []struct {
		name   string
		client *api.Client
		filter string
		want   []string
	}{
		{"all", carol, api.FilterAll, []string{waiting.ID, active.ID, denied.ID}},
		{"mine", alice, api.FilterMine, []string{waiting.ID, denied.ID}},
		{"for an approver", carol, api.FilterForMe, []string{waiting.ID}},
		{"not for the requester", alice, api.FilterForMe, []string{}},
		{"active", alice, api.FilterActive, []string{active.ID}},
	} {
		if diff := cmp.Diff(c.want, ids(c.client, c.filter)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
	must(carol.Approve(ctx, waiting, ""))(t)
	if got := ids(carol, api.FilterForMe); len(got) != 0 {
		t.Errorf("carol has approved, but %v still waits for her", got)
	}
	_, err := alice.List(ctx, "everything", 30)
	wantError(t, err, "invalid", "filter")
	_, err = alice.List(ctx, api.FilterAll, 1000)
	wantError(t, err, "invalid", "days")
}

func TestProfilesSayWhatTheCallerMayDo(t *testing.T) {
	d := newDaemon(t)
	mayRequest := func(person string) map[string][2]bool {
		out := map[string][2]bool{}
		for _, p := range must(d.as(t, person).Profiles(t.Context()))(t).Items {
			out[p.ID] = [2]bool{p.MayRequest, p.MayApprove}
		}
		return out
	}
	both, approve := [2]bool{true, true}, [2]bool{false, true}
	if diff := cmp.Diff(map[string][2]bool{"admin": both, "group": both, "keys": both, "scoped": both}, mayRequest("alice")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string][2]bool{"admin": approve, "group": approve, "keys": approve, "scoped": approve},
		mayRequest("carol")); diff != "" {
		t.Error(diff)
	}
	if got := mayRequest("mallory"); len(got) != 0 {
		t.Errorf("mallory is in no team and sees %v", got)
	}
	me := must(d.as(t, "bob").Whoami(t.Context()))(t)
	if me.Person != "bob" || me.Name != "Bob" || !cmp.Equal(me.Teams, []string{"sre"}) ||
		me.Key != ssh.FingerprintSHA256(bgtest.SSHKey("bob").PublicKey()) {
		t.Errorf("whoami: %+v", me)
	}
}

func TestLongPollWakesOnEachChange(t *testing.T) {
	d := newDaemon(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	alice := d.as(t, "alice")
	r := must(alice.Request(ctx, emergency))(t)
	var states []breakglass.State
	go func() {
		carol := bgtest.ByKey("carol")
		req, err := d.Service.Get(ctx, r.ID)
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := d.Service.Approve(ctx, carol, r.ID, bgtest.Consent(carol, req)); err != nil {
			t.Error(err)
		}
		if _, err := d.Service.Deny(ctx, bgtest.ByKey("bob"), r.ID, "not now"); err != nil {
			t.Error(err)
		}
	}()
	for r, err := range alice.Follow(ctx, r) {
		if err != nil {
			t.Fatal(err)
		}
		states = append(states, r.State)
		if r.State.Terminal() {
			break
		}
	}
	if states[len(states)-1] != breakglass.StateDenied {
		t.Errorf("saw %v", states)
	}
	for _, err := range alice.Follow(ctx, api.Request{ID: "bg-0000-000"}) {
		wantError(t, err, "unknown", "unknown-request")
	}
}

func TestFollowSurvivesRestartOfTheDaemon(t *testing.T) {
	d := newDaemon(t)
	d.down()
	d.serve(t, must(real.FreeAddress())(t)) // still free when the daemon comes back
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	alice := d.as(t, "alice")
	r := must(alice.Request(ctx, emergency))(t)
	signIns := 0
	alice.OnSignIn = func(api.SignIn) { signIns++ }
	go d.down()
	trouble := 0
	for next, err := range alice.Follow(ctx, r) {
		if err == nil {
			r = next
			break
		}
		if !api.Temporary(err) {
			t.Fatal(err)
		}
		if trouble++; trouble == 1 {
			d.down()
			d.Restart()
			d.serve(t, strings.TrimPrefix(d.url, "http://"))
			d.Approve(bgtest.ByKey("carol"), must(d.Service.Get(ctx, r.ID))(t))
		}
	}
	if len(r.Approvals) != 1 || signIns != 1 {
		t.Errorf("approvals %d, sign-ins %d, troubles %d", len(r.Approvals), signIns, trouble)
	}
}

// roundTripper is an http.RoundTripper made of a function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestLostAnswerOfAClaimIsAskedForAgain(t *testing.T) {
	d := newDaemon(t)
	alice := d.as(t, "alice")
	granted := d.Grant("alice", "admin")
	next := alice.HTTP.Transport
	lost := 0
	alice.HTTP = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(r)
		if err == nil && strings.HasSuffix(r.URL.Path, "/claim") && lost == 0 {
			lost++
			resp.Body.Close()
			return nil, io.ErrUnexpectedEOF
		}
		return resp, err
	})}
	_, csr := bgtest.NewCSR()
	got := must(alice.Claim(t.Context(), granted.ID, csr))(t)
	if lost != 1 || got.Certificate == "" || d.CA.Calls() != 1 {
		t.Errorf("answers lost %d, signing calls %d", lost, d.CA.Calls())
	}
	d.Check()
}

func TestUnavailableSignerIsToldAndNotHammered(t *testing.T) {
	d := newDaemon(t)
	alice := d.as(t, "alice")
	granted := d.Grant("alice", "admin")
	var checks atomic.Int32
	d.CA.OnCheck = func(string, string) error { checks.Add(1); return errors.New("vault is sealed") }
	_, csr := bgtest.NewCSR()
	_, err := alice.Claim(t.Context(), granted.ID, csr)
	e := wantError(t, err, "unavailable", "signer")
	if checks.Load() != 1 || !strings.Contains(e.Why, "sealed") {
		t.Errorf("checks %d, why %q", checks.Load(), e.Why)
	}
}

func TestTooManyLongPollsAreToldToComeBack(t *testing.T) {
	d := newDaemon(t, func(c *api.Config) { c.MaxPolls = 1 })
	ctx := t.Context()
	alice, bob := d.as(t, "alice"), d.as(t, "bob")
	r := must(alice.Request(ctx, emergency))(t)
	must(bob.Get(ctx, r.ID))(t)
	wctx, cancel := context.WithCancel(ctx)
	waiting := make(chan struct{})
	go func() {
		defer close(waiting)
		for range alice.Follow(wctx, r) {
		}
	}()
	poll := func() (int, http.Header) {
		req := must(http.NewRequestWithContext(ctx, http.MethodGet, d.url+"/v1/requests/"+r.ID+"?wait=1ms&after="+strconv.FormatInt(r.Rev, 10),
			nil))(t)
		req.Header.Set("Authorization", "Bearer "+bob.SignedIn.Token)
		resp := must(bob.HTTP.Do(req))(t)
		resp.Body.Close()
		return resp.StatusCode, resp.Header
	}
	code, header := poll()
	for code == http.StatusOK { // alice's poll is not there yet
		time.Sleep(150 * time.Millisecond) // within bob's rate
		code, header = poll()
	}
	if code != http.StatusServiceUnavailable || header.Get("Retry-After") == "" {
		t.Errorf("status %d, Retry-After %q", code, header.Get("Retry-After"))
	}
	must(bob.Get(ctx, r.ID))(t) // what does not wait still works
	cancel()
	<-waiting
}

func TestStrangersAreSlowedDownAndPeopleAreNot(t *testing.T) {
	d := newDaemon(t)
	alice := d.as(t, "alice")
	must(alice.Whoami(t.Context()))(t)
	var limited *http.Response
	for range 300 {
		resp := must(http.Get(d.url + "/v1/whoami"))(t)
		resp.Body.Close()
		if resp.StatusCode == http.StatusTooManyRequests {
			limited = resp
			break
		}
		if resp.StatusCode != http.StatusUnauthorized {
			t.Fatalf("without a session: %s", resp.Status)
		}
	}
	if limited == nil || limited.Header.Get("Retry-After") == "" {
		t.Fatal("300 requests of a stranger were not slowed down, or not told until when")
	}
	must(alice.Whoami(t.Context()))(t)
}

func TestFloodOfOneSessionIsSlowedDown(t *testing.T) {
	d := newDaemon(t)
	alice, bob := d.as(t, "alice"), d.as(t, "bob")
	must(bob.Whoami(t.Context()))(t)
	must(alice.Whoami(t.Context()))(t)
	for range 300 {
		req := must(http.NewRequestWithContext(t.Context(), http.MethodGet, d.url+"/v1/whoami", nil))(t)
		req.Header.Set("Authorization", "Bearer "+alice.SignedIn.Token)
		resp := must(http.DefaultClient.Do(req))(t)
		resp.Body.Close()
		if resp.StatusCode == http.StatusTooManyRequests {
			must(bob.Whoami(t.Context()))(t)
			must(alice.Whoami(t.Context()))(t) // the command line comes back by itself when it is told to
			return
		}
	}
	t.Error("300 requests of one session were not slowed down")
}

func TestBodiesAreReadStrictly(t *testing.T) {
	d := newDaemon(t)
	alice := d.as(t, "alice")
	must(alice.Whoami(t.Context()))(t)
	for _, c := range []struct{ name, contentType, body, code string }{
		{"unknown field", "application/json", `{"profile":"admin","reason":"x","approved":true}`, "body"},
		{"two documents", "application/json", `{"profile":"admin"} {}`, "body"},
		{"not JSON", "application/json", `profile=admin`, "body"},
		{"nothing", "application/json", ``, "body"},
		{"a form", "application/x-www-form-urlencoded", `profile=admin`, "content-type"},
		{"no type", "", `{}`, "content-type"},
		{"too long", "application/json", `{"reason":"` + strings.Repeat("x", 70<<10) + `"}`, "size"},
		{"overflowing lifetime", "application/json", `{"profile":"admin","ttlSeconds":9223372036854775807}`, "policy/ttl"},
	} {
		req := must(http.NewRequestWithContext(t.Context(), http.MethodPost, d.url+"/v1/requests", strings.NewReader(c.body)))(t)
		req.Header.Set("Authorization", "Bearer "+alice.SignedIn.Token)
		if c.contentType != "" {
			req.Header.Set("Content-Type", c.contentType)
		}
		resp := must(http.DefaultClient.Do(req))(t)
		var e api.Error
		err := json.NewDecoder(resp.Body).Decode(&e)
		resp.Body.Close()
		if err != nil || e.Kind != "Error" || e.APIVersion != api.Version || e.Code != c.code || e.RequestID == "" ||
			resp.Header.Get("X-Request-Id") != e.RequestID {
			t.Errorf("%s: got %s %+v, want code %s", c.name, resp.Status, e, c.code)
		}
	}
}

func TestOtherPathsAreJSONErrors(t *testing.T) {
	d := newDaemon(t)
	for _, c := range []struct{ method, path string }{{"GET", "/"}, {"GET", "/v1/nothing"}, {"DELETE", "/v1/requests/bg-1"},
		{"GET", "/v1/session"}, {"GET", "/v1/requests/bg-1/approve"}} {
		req := must(http.NewRequestWithContext(t.Context(), c.method, d.url+c.path, nil))(t)
		resp := must(http.DefaultClient.Do(req))(t)
		var e api.Error
		err := json.NewDecoder(resp.Body).Decode(&e)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusNotFound || e.Code != "no-such-path" {
			t.Errorf("%s %s: %s %+v", c.method, c.path, resp.Status, e)
		}
	}
}

func TestLedgerCanBeCheckedByAnybody(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	anybody := d.client(t)
	if got := must(anybody.LedgerKey(ctx))(t); got != d.VKey {
		t.Errorf("ledger key %q, want %q", got, d.VKey)
	}
	old := must(ledger.ParseCheckpoint(must(anybody.Checkpoint(ctx))(t), d.Verifier))(t)
	for range 3 {
		d.Ask(bgtest.ByKey("alice"), "admin")
	}
	now := must(ledger.ParseCheckpoint(must(anybody.Checkpoint(ctx))(t), d.Verifier))(t)
	proof := must(anybody.Consistency(ctx, old.Size, now.Size))(t)
	if err := ledger.VerifyConsistency(proof, old, now); err != nil {
		t.Error(err)
	}
	_, err := anybody.Consistency(ctx, old.Size, now.Size+1000)
	wantError(t, err, "unknown", "size")
	_, err = anybody.Consistency(ctx, now.Size, old.Size)
	wantError(t, err, "invalid", "sizes")
	if v := must(anybody.ServerVersion(ctx))(t); v.Ledger != bgtest.Origin || v.Version != "test" {
		t.Errorf("version %+v", v)
	}
}

func TestEveryAnswerIsObserved(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]int{}
	d := newDaemon(t, func(c *api.Config) {
		c.Observe = func(route string, status int, _ time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			seen[route+" "+strconv.Itoa(status)]++
		}
	})
	alice := d.as(t, "alice")
	_, err := alice.Get(t.Context(), "bg-0000-000")
	wantError(t, err, "unknown", "unknown-request")
	mu.Lock()
	defer mu.Unlock()
	want := map[string]int{"POST /v1/session/challenge 200": 1, "POST /v1/session 200": 1, "GET /v1/requests/{id} 404": 1}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Error(diff)
	}
}

func TestNoSecretReachesTheLog(t *testing.T) {
	d := newDaemon(t)
	alice := d.as(t, "alice")
	must(alice.Whoami(t.Context()))(t)
	_, err := d.client(t, newKey(t)).Whoami(t.Context())
	wantError(t, err, "denied", "unknown-person")
	if log := d.log.String(); strings.Contains(log, alice.SignedIn.Token) || !strings.Contains(log, "signed in") {
		t.Errorf("the log has the token, or no sign-in:\n%s", log)
	}
}

func TestServerRefusesToStartBlind(t *testing.T) {
	d := newDaemon(t)
	good := api.Config{Service: d.Service, Campaigns: d.Campaigns, Ledger: d.Ledger, LedgerKey: d.VKey,
		URLs: []string{"https://bg.example.com"}}
	for name, change := range map[string]func(*api.Config){
		"no service":      func(c *api.Config) { c.Service = nil },
		"no ledger key":   func(c *api.Config) { c.LedgerKey = "" },
		"no address":      func(c *api.Config) { c.URLs = nil },
		"plain http":      func(c *api.Config) { c.URLs = []string{"http://bg.example.com"} },
		"a path":          func(c *api.Config) { c.URLs = []string{"https://bg.example.com/breakglass"} },
		"not an address":  func(c *api.Config) { c.URLs = []string{"bg.example.com"} },
		"with a password": func(c *api.Config) { c.URLs = []string{"https://me:secret@bg.example.com"} },
	} {
		cfg := good
		change(&cfg)
		if _, err := api.NewServer(cfg); err == nil {
			t.Errorf("%s: the server starts", name)
		}
	}
}

func TestAddressHasOneForm(t *testing.T) {
	for in, want := range map[string]string{
		"https://BG.example.com":      "https://bg.example.com",
		"https://bg.example.com:443/": "https://bg.example.com",
		"HTTPS://bg.example.com:8443": "https://bg.example.com:8443",
		"http://localhost:80":         "http://localhost",
		"http://127.0.0.1:9/":         "http://127.0.0.1:9",
		"http://[::1]:9":              "http://[::1]:9",
		"http://bg.example.com":       "",
		"http://10.0.0.1":             "",
		"https://":                    "",
		"ftp://localhost":             "",
		"https://bg.example.com?x=1":  "",
		"":                            "",
	} {
		got, err := api.Address(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("Address(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestClientBelievesItsPinnedAuthorityOnly(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"apiVersion":"breakglass/v1","kind":"Version","version":"x"}`)
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	call := func(ca []byte) error {
		h := must(api.NewHTTP(ca))(t)
		_, err := (&api.Client{Server: srv.URL, HTTP: h}).ServerVersion(t.Context())
		return err
	}
	if err := call(ca); err != nil {
		t.Errorf("with its authority: %v", err)
	}
	other := newDaemon(t).CA.PEM()
	for name, ca := range map[string][]byte{"system roots": nil, "another authority": other} {
		e := wantError(t, call(ca), "unavailable", api.CodeUnreachable)
		if !strings.Contains(e.Next, "--ca-file") {
			t.Errorf("%s: next is %q", name, e.Next)
		}
	}
	if _, err := api.NewHTTP([]byte("no PEM")); err == nil {
		t.Error("an empty CA file is accepted")
	}
}

func TestClientSignsNothingForAServerWithAnotherLedger(t *testing.T) {
	d := newDaemon(t)
	alice := d.client(t, refusingKey{bgtest.SSHKey("alice"), t})
	alice.Ledger = "breakglass.test/another-ledger"
	_, err := alice.Whoami(t.Context())
	wantError(t, err, api.ClassSignIn, api.CodeOtherLedger)
	_, err = d.client(t).Whoami(t.Context())
	wantError(t, err, api.ClassSignIn, api.CodeNoKey)
}

// refusingKey fails the test when it is asked to sign.
type refusingKey struct {
	ssh.Signer
	t *testing.T
}

func (k refusingKey) Sign(io.Reader, []byte) (*ssh.Signature, error) {
	k.t.Error("the client signed")
	return nil, io.EOF
}

func TestClientRefusesStrangeServers(t *testing.T) {
	var redirected atomic.Bool
	for name, c := range map[string]struct {
		answer    func(http.ResponseWriter)
		code      string
		temporary bool
	}{
		"a login page": {func(w http.ResponseWriter) { io.WriteString(w, "<html>welcome") }, "strange-answer", false},
		"a login redirect": {func(w http.ResponseWriter) { w.Header().Set("Location", "/elsewhere"); w.WriteHeader(302) }, "strange-answer",
			false},
		"a gateway": {func(w http.ResponseWriter) { w.WriteHeader(502) }, api.CodeUnreachable, true},
		"another version": {func(w http.ResponseWriter) { io.WriteString(w, `{"apiVersion":"breakglass/v9","kind":"Version"}`) },
			"strange-answer", false},
		"another type": {func(w http.ResponseWriter) { io.WriteString(w, `{"apiVersion":"breakglass/v1","version":7}`) }, "strange-answer",
			false},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/elsewhere" {
				redirected.Store(true)
			}
			c.answer(w)
		}))
		h := must(api.NewHTTP(nil))(t)
		_, err := (&api.Client{Server: srv.URL, HTTP: h}).ServerVersion(t.Context())
		var e *api.Error
		if !errors.As(err, &e) || e.Code != c.code || api.Temporary(err) != c.temporary {
			t.Errorf("%s: %v, temporary %v", name, err, api.Temporary(err))
		}
		srv.Close()
	}
	if redirected.Load() {
		t.Error("the client followed a redirect")
	}
}

// The requester's command line learns that nobody is shown the request in Slack, with the request and while it waits.
func TestRequesterLearnsThatSlackWasNotTold(t *testing.T) {
	var untold atomic.Value
	untold.Store("")
	d := newDaemon(t, func(c *api.Config) {
		c.Untold = func(_ context.Context, r *breakglass.Request) string {
			if r.ID == "" {
				t.Error("asked about no request")
			}
			return untold.Load().(string)
		}
	})
	alice := d.client(t, bgtest.SSHKey("alice"))
	r, err := alice.Request(t.Context(), emergency)
	if err != nil || r.NotTold != "" {
		t.Fatalf("%q %v", r.NotTold, err)
	}
	untold.Store("slack chat.postMessage: not_in_channel")
	r, err = alice.Request(t.Context(), emergency)
	if err != nil || r.NotTold != "slack chat.postMessage: not_in_channel" {
		t.Errorf("asking says %q %v", r.NotTold, err)
	}
	got, err := alice.Get(t.Context(), r.ID)
	if err != nil || got.NotTold != r.NotTold {
		t.Errorf("looking says %q %v", got.NotTold, err)
	}
}
