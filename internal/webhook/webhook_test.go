package webhook_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/real"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/webhook"
)

var (
	now   = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	print = strings.Repeat("ab", 32)
	other = strings.Repeat("cd", 32)
)

const (
	id    = "bg-2222-222"
	user  = "breakglass:alice:" + id
	group = "breakglass:cluster-admins"
)

// active is a grant of group mode in c1 that is good for an hour from now.
func active(change ...func(*breakglass.Request)) *breakglass.Request {
	r := &breakglass.Request{ID: id, Claimed: &breakglass.Claimed{}, Issued: &breakglass.Issued{Fingerprint: print,
		NotAfter: now.Add(time.Hour)}}
	r.Ask.By.Person, r.Ask.Cluster, r.Ask.Rights.Group = "alice", "c1", group
	for _, c := range change {
		c(r)
	}
	return r
}

func revoked(r *breakglass.Request)   { r.Revoked = &record.Ending{At: now} }
func expired(r *breakglass.Request)   { r.Issued.NotAfter = now }
func elsewhere(r *breakglass.Request) { r.Ask.Cluster = "c2" }
func binding(r *breakglass.Request)   { r.Ask.Rights = policy.Rights{ClusterRole: "cluster-admin"} }
func guarded(g ...policy.Guard) func(*breakglass.Request) {
	return func(r *breakglass.Request) { r.Ask.Guards = g }
}

func with(ids ...string) map[string][]string { return map[string][]string{webhook.CredentialID: ids} }

func certificate(p string) map[string][]string { return with("X509SHA256=" + p) }

func TestDecide(t *testing.T) {
	get := &webhook.ResourceAttributes{Verb: "get", Resource: "secrets"}
	known := func(c ...func(*breakglass.Request)) webhook.Facts {
		return webhook.Facts{Cluster: "c1", Print: active(c...), Known: true}
	}
	named := func(c ...func(*breakglass.Request)) webhook.Facts {
		return webhook.Facts{Cluster: "c1", Name: active(c...), NameIsOf: true}
	}
	nobody := webhook.Facts{Cluster: "c1"}
	orphan := []byte("the DER of a certificate")
	failed := func(r *breakglass.Request) {
		r.Issued, r.Failed = nil, &breakglass.Failed{Orphans: [][]byte{orphan}}
	}
	pending := func(r *breakglass.Request) {
		r.Issued, r.Claimed, r.Ask.PendingUntil = nil, nil, now.Add(time.Hour)
	}
	for name, tc := range map[string]struct {
		spec    webhook.Spec
		facts   webhook.Facts
		reason  string // empty: no opinion
		finding bool
	}{
		"somebody else": {webhook.Spec{User: "bob", Groups: []string{"dev"}, Extra: certificate(other)}, nobody, "",
			false},
		"our service account": {webhook.Spec{User: "system:serviceaccount:breakglass:breakglassd"}, nobody, "", false},
		"nobody at all":       {webhook.Spec{}, nobody, "", false},
		"canary": {webhook.Spec{User: "breakglass-canary:c1:x", Extra: certificate(print)},
			webhook.Facts{Cluster: "c1", Known: true}, "", false},
		"canary with a group": {webhook.Spec{User: "breakglass-canary:c1:x", Groups: []string{group},
			Extra: certificate(print)}, webhook.Facts{Cluster: "c1", Known: true}, "group " + group + " is not given", false},
		"canary's certificate under a name": {webhook.Spec{User: user, Extra: certificate(print)}, webhook.Facts{Cluster: "c1", Known: true},
			"not issued for the user name", false},
		"active": {webhook.Spec{User: user, Groups: []string{group, "system:authenticated"},
			Extra: certificate(print), Resource: get}, known(), "", false},
		"active, binding mode": {webhook.Spec{User: user, Extra: certificate(print), Resource: get}, known(binding), "", false},
		"binding mode with a group": {webhook.Spec{User: user, Groups: []string{group}, Extra: certificate(print)}, known(binding),
			"is not given", false},
		"one group too many": {webhook.Spec{User: user, Groups: []string{group, "breakglass:more"}, Extra: certificate(print)},
			known(), "group breakglass:more", false},
		"revoked": {webhook.Spec{User: user, Groups: []string{group}, Extra: certificate(print)}, known(revoked),
			"certificate of " + id + " was revoked", false},
		"expired": {webhook.Spec{User: user, Extra: certificate(print)}, known(expired), "has expired", false},
		"another cluster": {webhook.Spec{User: user, Extra: certificate(print)}, known(elsewhere), "not for this cluster",
			false},
		"another grant's certificate": {webhook.Spec{User: "breakglass:bob:bg-3333-333", Extra: certificate(print)}, known(),
			"not issued for the user name", false},
		"unknown certificate":                {webhook.Spec{User: user, Extra: certificate(other)}, nobody, "not known", true},
		"unknown certificate of a real name": {webhook.Spec{User: user, Extra: certificate(other)}, named(), "not known", true},
		"unknown certificate with our group": {webhook.Spec{User: "bob", Groups: []string{group}, Extra: certificate(other)}, nobody,
			"is not given", true},
		"our group by token": {webhook.Spec{User: "bob", Groups: []string{group}}, nobody, "is not given", false},
		"an orphan": {webhook.Spec{User: user, Extra: certificate(breakglass.Fingerprint(orphan))}, named(failed),
			"was not issued properly", false},
		"a token under our name": {webhook.Spec{User: user, Extra: with("JTI=1")}, named(), "only for certificates", false},
		"two certificates": {webhook.Spec{User: user, Extra: with("X509SHA256="+print, "X509SHA256="+other)}, known(),
			"only for certificates", false},
		"a fingerprint in capitals": {webhook.Spec{User: user, Extra: certificate(strings.ToUpper(print))}, named(),
			"only for certificates", false},
		"no credential id":                     {webhook.Spec{User: user, Groups: []string{group}}, named(), "", false},
		"no credential id, revoked":            {webhook.Spec{User: user}, named(revoked), "was revoked", false},
		"no credential id, no certificate yet": {webhook.Spec{User: user}, named(pending), "cannot exist: the request is pending", false},
		"no credential id, no such request":    {webhook.Spec{User: user}, nobody, "no grant has the user name", false},
		"no credential id, another's request": {webhook.Spec{User: "breakglass:bob:" + id}, webhook.Facts{Cluster: "c1", Name: active()},
			"no grant has the user name", false},
		"guard": {webhook.Spec{User: user, Extra: certificate(print), Resource: get},
			known(guarded(policy.GuardSecrets)), "(guard secrets): get secrets", false},
		"guard of a later release": {webhook.Spec{User: user, Extra: certificate(print), Resource: get}, known(guarded("teleport")),
			"(guard teleport)", false},
		"guard and a path": {webhook.Spec{User: user, Extra: certificate(print),
			Path: &webhook.PathAttributes{Path: "/version", Verb: "get"}}, known(guarded(policy.GuardSecrets)), "", false},
		"control characters": {webhook.Spec{User: "breakglass:\x1b[31m", Resource: get}, nobody,
			"no grant has the user name breakglass:\\u001b[31m", false},
	} {
		t.Run(name, func(t *testing.T) {
			got := webhook.Decide(tc.spec, tc.facts, now)
			if got.Denied != (tc.reason != "") || !strings.Contains(got.Reason, tc.reason) ||
				got.Denied != strings.HasPrefix(got.Reason, "breakglass: ") {
				t.Errorf("got %+v, want denied saying %q", got, tc.reason)
			}
			if (got.Finding != nil) != tc.finding || tc.finding && (got.Finding.Key != finding.ShadowKey("c1", other) ||
				got.Finding.Severity != finding.Critical) {
				t.Errorf("got finding %+v, want one: %v", got.Finding, tc.finding)
			}
		})
	}
}

// TestGuards is about questions that no request of an API server asks but kubectl auth can-i does, and about verbs of which
// discovery knows nothing.
func TestGuards(t *testing.T) {
	for _, tc := range []struct {
		a    webhook.ResourceAttributes
		want string // guards that refuse it, sorted
	}{
		{webhook.ResourceAttributes{Verb: "*", Group: "*", Resource: "*"},
			"admission csr escalate exec impersonate nodes rbac secrets tokens workloads"},
		{webhook.ResourceAttributes{Verb: "get", Group: "*", Resource: "*"}, "exec nodes secrets tokens"},
		{webhook.ResourceAttributes{}, "escalate exec impersonate nodes rbac secrets tokens workloads"},
		{webhook.ResourceAttributes{Verb: "get", Resource: "*", Subresource: "exec"}, "exec secrets"},
		{webhook.ResourceAttributes{Verb: "get", Resource: "pods", Subresource: "*"}, "exec"},
		{webhook.ResourceAttributes{Verb: "*", Resource: "pods"}, "escalate impersonate workloads exec"},
		{webhook.ResourceAttributes{Verb: "get", Resource: "pods"}, ""},
		{webhook.ResourceAttributes{Verb: "get", Resource: "pods", Subresource: "log"}, ""},
		{webhook.ResourceAttributes{Verb: "create", Resource: "pods", Subresource: "exec"}, "exec"},
		{webhook.ResourceAttributes{Verb: "create", Resource: "pods", Subresource: "of-tomorrow"}, "workloads"},
		{webhook.ResourceAttributes{Verb: "proxy", Resource: "nodes"}, "exec nodes"},
		{webhook.ResourceAttributes{Verb: "impersonate", Resource: "users"}, "impersonate"},
		{webhook.ResourceAttributes{Verb: "impersonate", Group: "authentication.k8s.io", Resource: "userextras", Subresource: "scopes"},
			"impersonate"},
		{webhook.ResourceAttributes{Verb: "impersonate:user-info", Group: "authentication.k8s.io", Resource: "users"}, "impersonate"},
		{webhook.ResourceAttributes{Verb: "impersonate:arbitrary-node", Group: "authentication.k8s.io", Resource: "nodes"}, "impersonate"},
		{webhook.ResourceAttributes{Verb: "impersonate-on:serviceaccount:list", Resource: "configmaps", Namespace: "default"}, "impersonate"},
		{webhook.ResourceAttributes{Verb: "bind", Group: "rbac.authorization.k8s.io", Resource: "clusterroles"}, "escalate rbac"},
		{webhook.ResourceAttributes{Verb: "escalate", Group: "rbac.authorization.k8s.io", Resource: "roles"}, "escalate rbac"},
		{webhook.ResourceAttributes{Verb: "approve", Group: "certificates.k8s.io", Resource: "signers"}, "csr"},
		{webhook.ResourceAttributes{Verb: "attest", Group: "certificates.k8s.io", Resource: "signers"}, "csr"},
		{webhook.ResourceAttributes{Verb: "delete", Resource: "secrets"}, "secrets"},
		{webhook.ResourceAttributes{Verb: "get", Group: "example.com", Resource: "secrets"}, ""},
		{webhook.ResourceAttributes{Verb: "patch", Resource: "configmaps", Namespace: "kube-system", Name: "aws-auth"}, "rbac"},
		{webhook.ResourceAttributes{Verb: "patch", Resource: "configmaps", Namespace: "kube-system", Name: "coredns"}, ""},
		{webhook.ResourceAttributes{Verb: "patch", Resource: "configmaps", Namespace: "default", Name: "aws-auth"}, ""},
		{webhook.ResourceAttributes{Verb: "get", Resource: "configmaps", Namespace: "kube-system", Name: "aws-auth"}, ""},
		{webhook.ResourceAttributes{Verb: "create", Resource: "configmaps", Namespace: "kube-system"}, "rbac"},
		{webhook.ResourceAttributes{Verb: "deletecollection", Resource: "configmaps"}, "rbac"},
	} {
		var got []string
		for g := range policy.Guards() {
			if by, refused := webhook.Refused([]policy.Guard{g}, tc.a); refused {
				got = append(got, string(by))
			}
		}
		slices.Sort(got)
		want := strings.Fields(tc.want)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%+v: got %q, want %q", tc.a, got, want)
		}
	}
}

// lookup answers with the grant whose name and fingerprint it has, or with its error.
type lookup struct {
	r     *breakglass.Request
	err   error
	calls atomic.Int64
	after func(call int64) // called when an answer has been made
}

func (l *lookup) ByFingerprint(_ context.Context, p string) (*breakglass.Request, bool, error) {
	n, r := l.calls.Add(1), l.r
	if l.after != nil {
		l.after(n)
	}
	if r != nil && p == print {
		return r, true, l.err
	}
	return nil, false, l.err
}

func (l *lookup) ByCommonName(_ context.Context, cn string) (*breakglass.Request, bool, error) {
	l.calls.Add(1)
	if l.r != nil && cn == user {
		return l.r, true, l.err
	}
	return nil, false, l.err
}

type intake func(ctx context.Context, cluster string, body []byte) error

func (f intake) Take(ctx context.Context, cluster string, body []byte) error {
	return f(ctx, cluster, body)
}

var (
	errFull    = errors.New("full")
	errGarbage = errors.New("garbage")
)

func config(l webhook.Lookup) webhook.Config {
	return webhook.Config{Clusters: []webhook.Cluster{{ID: "c1", Tokens: []webhook.Secret{secret}, ClientNames: []string{"kube-apiserver-c1"},
		ClientCAs: x509.NewCertPool()}, {ID: "c2", Tokens: []webhook.Secret{"another-token-for-cluster-c2"}}},
		Lookup: l, Intake: intake(func(context.Context, string, []byte) error { return nil }), Overloaded: errFull, Garbage: errGarbage,
		MaxAudit: 1 << 20,
		Find:     func(context.Context, finding.Opened) error { return nil }, Log: slog.New(slog.DiscardHandler)}
}

func handler(t testing.TB, c webhook.Config) http.Handler {
	t.Helper()
	h, err := webhook.New(c)
	must(t, err)
	return h
}

func post(path, body, token string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

func question(s webhook.Spec) string {
	if s.Resource == nil {
		s.Resource = &webhook.ResourceAttributes{Verb: "get", Resource: "pods"}
	}
	spec, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return `{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","metadata":{},"spec":` + string(spec) +
		`,"status":{"allowed":true}}`
}

func answer(h http.Handler, r *http.Request) (int, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestWhatIsNotRefusedIsRememberedForTheProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lookup{r: active()}
		c := config(l)
		c.Memory = webhook.NewMemory()
		h := handler(t, c)
		ask := func(who, resource string) {
			t.Helper()
			s := webhook.Spec{User: who, Groups: []string{group}, Extra: certificate(print),
				Resource: &webhook.ResourceAttributes{Verb: "get", Resource: resource}}
			if code, _ := answer(h, post("/authorize/c1", question(s), secret)); code != http.StatusOK {
				t.Fatalf("got %d", code)
			}
		}
		recent := func() (out []string) {
			for _, text := range c.Memory.Recent(user) {
				var s webhook.Spec
				must(t, json.Unmarshal(text, &s))
				if s.User != user || !slices.Equal(s.Groups, []string{group}) || s.Extra[webhook.CredentialID] == nil {
					t.Errorf("remembered is %s, which is not what was asked", text)
				}
				out = append(out, s.Resource.Resource)
			}
			return out
		}
		for _, resource := range []string{"pods", "nodes", "pods"} {
			ask(user, resource)
			time.Sleep(time.Minute)
		}
		ask("bob", "secrets")
		if got := recent(); !slices.Equal(got, []string{"pods", "nodes"}) {
			t.Errorf("remembered are %q, want the last one first and each once", got)
		}
		time.Sleep(4 * time.Minute)
		ask(user, "events")
		if got := recent(); !slices.Equal(got, []string{"events"}) {
			t.Errorf("remembered are %q, want what is under five minutes old", got)
		}
		for n := range 150 {
			ask(user, fmt.Sprint("kind", n))
		}
		if got := recent(); len(got) != 100 || got[0] != "kind149" || got[99] != "kind50" {
			t.Errorf("remembered are %d, from %s to %s, want the last hundred", len(got), got[0], got[len(got)-1])
		}
		revoked(l.r)
		ask(user, "too-late")
		ask(user, "kind149") // refused now: but another API server may still remember
		if got := recent(); len(got) != 100 || got[0] != "kind149" {
			t.Errorf("after the revocation %d are remembered, from %s on", len(got), got[0])
		}
		if got := c.Memory.Recent("bob"); len(got) != 0 {
			t.Errorf("remembered is %s of somebody who is not ours", got)
		}
	})
}

// A revocation that is recorded while a question is being decided: either it is refused, or the proof asks about it.
func TestRevocationDuringADecisionIsNotMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lookup{r: active()}
		c := config(l)
		c.Memory = webhook.NewMemory()
		l.after = func(call int64) {
			if call == 1 {
				l.r = active(revoked)
			}
		}
		ask := question(webhook.Spec{User: user, Groups: []string{group}, Extra: certificate(print)})
		if _, says := answer(handler(t, c), post("/authorize/c1", ask, secret)); !strings.Contains(says, `"denied":true`) {
			t.Errorf("got %s, though it was revoked before the question was remembered", says)
		}
	})
}

func TestAnswers(t *testing.T) {
	bad := errors.New("disk")
	ask := question(webhook.Spec{User: user, Extra: certificate(print)})
	for name, tc := range map[string]struct {
		lookup *lookup
		r      *http.Request
		code   int
		says   string
	}{
		"no opinion": {&lookup{}, post("/authorize/c1", question(webhook.Spec{User: "bob"}), secret), 200,
			`"status":{"allowed":false}`},
		"denied": {&lookup{}, post("/authorize/c1", ask, secret), 200,
			`"status":{"allowed":false,"denied":true,"reason":"breakglass: `},
		"a ledger that fails": {&lookup{err: bad}, post("/authorize/c1", ask, secret), 500, "the ledger cannot be read"},
		"strangers need no ledger": {&lookup{err: bad}, post("/authorize/c1", question(webhook.Spec{User: "bob"}), secret), 200,
			`"allowed":false`},
		"no credential":             {&lookup{}, post("/authorize/c1", ask, ""), 401, "unauthorized"},
		"wrong token":               {&lookup{}, post("/authorize/c1", ask, secret+"x"), 401, "unauthorized"},
		"no credential, no cluster": {&lookup{}, post("/authorize/nowhere", ask, ""), 401, "unauthorized"},
		"another cluster's token":   {&lookup{}, post("/authorize/c2", ask, secret), 403, "forbidden"},
		"a cluster that is not":     {&lookup{}, post("/authorize/nowhere", ask, secret), 403, "forbidden"},
		"another path":              {&lookup{}, post("/", ask, secret), 404, ""},
		"garbage":                   {&lookup{}, post("/authorize/c1", "{", secret), 400, "not a SubjectAccessReview"},
		"beta": {&lookup{}, post("/authorize/c1", strings.Replace(ask, "/v1", "/v1beta1", 1), secret), 400,
			"subjectAccessReviewVersion: v1"},
		"about nothing": {&lookup{}, post("/authorize/c1",
			`{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","spec":{"user":"bob"}}`, secret), 400, "nothing"},
		"too large":                  {&lookup{}, post("/authorize/c1", strings.Repeat(" ", 1<<20)+ask, secret), 413, "more than"},
		"audit":                      {&lookup{}, post("/audit/c1", "{}", secret), 200, ""},
		"audit, another's":           {&lookup{}, post("/audit/c2", "{}", secret), 403, ""},
		"audit, too large":           {&lookup{}, post("/audit/c1", strings.Repeat(" ", 1<<20+1), secret), 413, "more than 1048576 bytes"},
		"audit without a credential": {&lookup{}, post("/audit/c1", "{}", ""), 401, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if code, body := answer(handler(t, config(tc.lookup)), tc.r); code != tc.code || !strings.Contains(body, tc.says) {
				t.Errorf("got %d %s, want %d saying %q", code, body, tc.code, tc.says)
			}
		})
	}
	yaml := post("/authorize/c1", ask, secret)
	yaml.Header.Set("Content-Type", "application/yaml")
	if code, _ := answer(handler(t, config(&lookup{})), yaml); code != http.StatusUnsupportedMediaType {
		t.Errorf("got %d for YAML, want 415", code)
	}
	twice := post("/authorize/c1", ask, secret)
	twice.Header.Add("Authorization", "Bearer "+secret)
	if code, _ := answer(handler(t, config(&lookup{})), twice); code != http.StatusUnauthorized {
		t.Errorf("got %d for two tokens, want 401", code)
	}
}

func TestIntakeErrorsBecomeAnswers(t *testing.T) {
	for want, err := range map[int]error{200: nil, 429: fmt.Errorf("queue: %w", errFull), 400: fmt.Errorf("line 1: %w", errGarbage),
		500: errors.New("disk")} {
		c := config(&lookup{})
		c.Intake = intake(func(_ context.Context, cluster string, body []byte) error {
			if cluster != "c1" || string(body) != "{}" {
				t.Errorf("got %q of %q, want {} of c1", body, cluster)
			}
			return err
		})
		w := httptest.NewRecorder()
		handler(t, c).ServeHTTP(w, post("/audit/c1", "{}", secret))
		if w.Code != want || (w.Header().Get("Retry-After") != "") != (want == 429) {
			t.Errorf("%v: got %d %v, want %d", err, w.Code, w.Header(), want)
		}
	}
}

func TestPanicsAreContained(t *testing.T) {
	c := config(&lookup{})
	c.Intake = intake(func(context.Context, string, []byte) error { panic("boom") })
	var outcome string
	c.Observe = func(_, _, o string, _ time.Duration) { outcome = o }
	if code, body := answer(handler(t, c), post("/audit/c1", "{}", secret)); code != 500 || strings.Contains(body, "boom") ||
		outcome != webhook.OutcomeFailed {
		t.Errorf("got %d %s, outcome %q, want a bare 500 that is observed as failed", code, body, outcome)
	}
}

func TestBatchesBeyondTheBoundAreTurnedAway(t *testing.T) {
	c := config(&lookup{})
	entered, leave := make(chan bool), make(chan bool)
	c.Intake = intake(func(context.Context, string, []byte) error { entered <- true; <-leave; return nil })
	h := handler(t, c)
	const bound = 4
	for range bound {
		go answer(h, post("/audit/c1", "{}", secret))
	}
	for range bound {
		<-entered
	}
	if code, _ := answer(h, post("/audit/c1", "{}", secret)); code != http.StatusTooManyRequests {
		t.Errorf("got %d while %d are taken, want 429", code, bound)
	}
	close(leave)
}

// slow is a body that does not come to its end until stop is closed.
type slow struct{ stop chan struct{} }

func (s slow) Read([]byte) (int, error) {
	<-s.stop
	return 0, io.ErrUnexpectedEOF
}

// Who holds one cluster's credential and sends slow bodies keeps no other cluster waiting.
func TestSlowBodiesOfOneClusterHoldUpNoOther(t *testing.T) {
	const others = "another-token-for-cluster-c2"
	c := config(&lookup{})
	h := handler(t, c)
	stop, begun := make(chan struct{}), sync.WaitGroup{}
	var ended sync.WaitGroup
	defer ended.Wait()
	defer close(stop)
	for n := range 300 {
		r := post([]string{"/authorize/c2", "/audit/c2"}[n%2], "", others)
		r.Body = io.NopCloser(slow{stop})
		begun.Add(1)
		ended.Go(func() { begun.Done(); answer(h, r) })
	}
	begun.Wait()
	for range 20 {
		if code, says := answer(h, post("/authorize/c1", question(webhook.Spec{User: "bob"}), secret)); code != http.StatusOK {
			t.Fatalf("got %d %s for a question of the other cluster", code, says)
		}
		if code, says := answer(h, post("/audit/c1", "{}", secret)); code != http.StatusOK {
			t.Fatalf("got %d %s for a batch of the other cluster", code, says)
		}
	}
}

// Strangers and the daemon's own questions do not fill the log.
func TestLogIsNotFilledByStrangersOrByOurselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config(&lookup{})
		var log bytes.Buffer
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
		h := handler(t, c)
		for range 1000 {
			answer(h, post("/authorize/c1", "{}", ""))
			answer(h, post("/authorize/c1", question(webhook.Spec{User: breakglass.ProbeUser}), secret))
		}
		time.Sleep(time.Minute)
		answer(h, post("/audit/c1", "{}", "wrong"))
		got := strings.Count(log.String(), "\n")
		if got != 2 || !strings.Contains(log.String(), "more_since_the_last_line=999") {
			t.Errorf("got %d lines:\n%.2000s", got, log.String())
		}
		answer(h, post("/authorize/c1", question(webhook.Spec{User: user}), secret))
		if strings.Count(log.String(), "msg=denied") != 1 {
			t.Errorf("a denial is not in the log:\n%s", log.String())
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	for says, change := range map[string]func(*webhook.Config){
		"cannot sign in": func(c *webhook.Config) { c.Clusters[0] = webhook.Cluster{ID: "c1"} },
		"fewer than":     func(c *webhook.Config) { c.Clusters[0].Tokens[0] = "short" },
		"it may hold the new one": func(c *webhook.Config) {
			c.Clusters[0].Tokens = []webhook.Secret{"a-token-of-enough-length-1", "a-token-of-enough-length-2", "a-token-of-enough-length-3"}
		},
		"the same webhook token": func(c *webhook.Config) { c.Clusters[1].Tokens[0] = secret },
		"the same webhook client": func(c *webhook.Config) {
			c.Clusters[1].ClientNames, c.Clusters[1].ClientCAs = []string{"kube-apiserver-c1"}, x509.NewCertPool()
		},
		"no CA vouches":             func(c *webhook.Config) { c.Clusters[0].ClientCAs = nil },
		"cannot be the name":        func(c *webhook.Config) { c.Clusters[0].ClientNames = []string{user} },
		"needs the errors":          func(c *webhook.Config) { c.Overloaded = nil },
		"Lookup, Find and Log are ": func(c *webhook.Config) { c.Find = nil },
	} {
		c := config(&lookup{})
		change(&c)
		if _, err := webhook.New(c); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), secret) {
			t.Errorf("got %v, want an error saying %q", err, says)
		}
	}
}

// TestTokenIsReplacedWithAnOverlap: with the new token above the old one both are good, and the log tells while the old one is used.
func TestTokenIsReplacedWithAnOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const young = "the-token-that-replaces-it"
		var log bytes.Buffer
		c := config(&lookup{})
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
		c.Clusters[0].Tokens = []webhook.Secret{young, secret}
		h, err := webhook.New(c)
		must(t, err)
		ask := func(token string, want int) {
			t.Helper()
			if got, says := answer(h, post("/authorize/c1", question(webhook.Spec{User: breakglass.ProbeUser}), token)); got != want {
				t.Errorf("the token %s: %d %s, want %d", token, got, says, want)
			}
		}
		ask(young, http.StatusOK)
		if strings.Contains(log.String(), "being replaced") {
			t.Errorf("the new token is said to be the old one:\n%s", log.String())
		}
		ask(secret, http.StatusOK)
		ask(secret, http.StatusOK)
		if got := strings.Count(log.String(), "still uses the token that is being replaced"); got != 1 {
			t.Errorf("the log says %d times that the old token is used, want once a minute:\n%s", got, log.String())
		}
		ask("another-token-for-cluster-c2", http.StatusForbidden)
		c.Clusters[0].Tokens = c.Clusters[0].Tokens[:1]
		h, err = webhook.New(c)
		must(t, err)
		ask(young, http.StatusOK)
		ask(secret, http.StatusUnauthorized)
	})
}

func TestTokensNeverPrint(t *testing.T) {
	var log bytes.Buffer
	c := config(&lookup{}).Clusters[0]
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", slog.Any("token", c.Tokens))
	asJSON, err := json.Marshal(c)
	must(t, err)
	if all := fmt.Sprintf("%v %+v %#v %s %q %x %s %s", c, c, c, c.Tokens, c.Tokens, c.Tokens, asJSON, log.String()); strings.Contains(all,
		secret) || strings.Contains(all, fmt.Sprintf("%x", secret)) {
		t.Errorf("got %s, want no token", all)
	}
}

// TestClientCertificates signs in over real TLS, with and without tokens configured.
func TestClientCertificates(t *testing.T) {
	ca, err := real.NewCA("of the webhook's clients")
	must(t, err)
	foreign, err := real.NewCA("of somebody else")
	must(t, err)
	second, err := real.NewCA("of another cluster's API servers")
	must(t, err)
	pool, both := x509.NewCertPool(), x509.NewCertPool()
	pool.AddCert(ca.Cert)
	both.AddCert(ca.Cert)
	both.AddCert(second.Cert)
	c := config(&lookup{})
	c.Clusters[0].ClientCAs = pool
	c.Clusters[1].ClientNames, c.Clusters[1].ClientCAs = []string{"kube-apiserver-of-c2"}, x509.NewCertPool()
	c.Clusters[1].ClientCAs.AddCert(second.Cert)
	serve := func(tokens bool) *httptest.Server {
		s := httptest.NewUnstartedServer(handler(t, c))
		s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		cert, key, err := ca.Server("webhook")
		must(t, err)
		pair, err := tls.X509KeyPair(cert, key)
		must(t, err)
		s.TLS = webhook.TLSConfig(func() (*tls.Certificate, error) { return &pair, nil }, both, tokens)
		s.StartTLS()
		t.Cleanup(s.Close)
		return s
	}
	withTokens, without := serve(true), serve(false)
	for _, tc := range []struct {
		what         string
		s            *httptest.Server
		ca           *real.CA // nil: no certificate
		name, token  string
		path         string
		want         int // 0: the handshake fails
		requestsBody string
	}{
		{"listed", withTokens, ca, "kube-apiserver-c1", "", "/authorize/c1", 200, ""},
		{"listed, another cluster", withTokens, ca, "kube-apiserver-c1", "", "/authorize/c2", 403, ""},
		{"not listed", withTokens, ca, "kube-apiserver-c2", "", "/authorize/c1", 401, ""},
		{"no certificate", withTokens, nil, "", "", "/authorize/c1", 401, ""},
		{"a token", withTokens, nil, "", secret, "/authorize/c1", 200, ""},
		{"a wrong token counts before the certificate", withTokens, ca, "kube-apiserver-c1", "wrong", "/authorize/c1", 401, ""},
		{"another cluster's CA", withTokens, second, "kube-apiserver-c1", "", "/authorize/c1", 401, ""},
		{"another cluster's CA, its own name", withTokens, second, "kube-apiserver-of-c2", "", "/authorize/c2", 200, ""},
		{"a foreign CA", withTokens, foreign, "kube-apiserver-c1", "", "/authorize/c1", 0, ""},
		{"without tokens", without, ca, "kube-apiserver-c1", "", "/authorize/c1", 200, ""},
		{"without tokens and certificate", without, nil, "", "", "/authorize/c1", 0, ""},
	} {
		t.Run(tc.what, func(t *testing.T) {
			conf := &tls.Config{RootCAs: pool, ServerName: "localhost", InsecureSkipVerify: true} // what is tested is the other side
			if tc.ca != nil {
				cert, key, err := tc.ca.Client(tc.name)
				must(t, err)
				pair, err := tls.X509KeyPair(cert, key)
				must(t, err)
				conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
			}
			r, err := http.NewRequest(http.MethodPost, tc.s.URL+tc.path, strings.NewReader(question(webhook.Spec{User: "bob"})))
			must(t, err)
			r.Header.Set("Content-Type", "application/json")
			if tc.token != "" {
				r.Header.Set("Authorization", "Bearer "+tc.token)
			}
			resp, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}).Do(r)
			got := 0
			if err == nil {
				resp.Body.Close()
				got = resp.StatusCode
			}
			if got != tc.want {
				t.Errorf("got %d, %v, want %d", got, err, tc.want)
			}
		})
	}
}

// FuzzReview: whatever an API server could send, the answer is never a permission and no crash.
func FuzzReview(f *testing.F) {
	f.Add(question(webhook.Spec{User: user, Groups: []string{group}, Extra: certificate(print)}))
	f.Add(question(webhook.Spec{User: user, Groups: []string{"breakglass:x"}, Extra: certificate(other),
		Resource: &webhook.ResourceAttributes{Verb: "*", Resource: "*"}}))
	f.Add(`{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","spec":{"extra":{"authentication.kubernetes.io/credential-id":[]},"nonResourceAttributes":{}}}`)
	c := config(&lookup{r: active(guarded(policy.GuardExec),
		func(r *breakglass.Request) { r.Issued.NotAfter = time.Now().Add(time.Hour) })})
	c.Memory = webhook.NewMemory()
	h := handler(f, c)
	f.Fuzz(func(t *testing.T, body string) {
		code, got := answer(h, post("/authorize/c1", body, secret))
		if code != 200 && code != 400 && code != 413 {
			t.Errorf("got %d %s", code, got)
		}
		var a struct {
			Status struct{ Allowed, Denied bool }
		}
		if code == 200 && (json.Unmarshal([]byte(got), &a) != nil || a.Status.Allowed) {
			t.Errorf("got %s, want an answer that allows nothing", got)
		}
		for _, spec := range c.Memory.Recent(user) {
			if !json.Valid(spec) {
				t.Errorf("remembered is %q, which is no JSON", spec)
			}
		}
	})
}

func BenchmarkAuthorize(b *testing.B) {
	r := active(guarded(policy.GuardExec, policy.GuardRBAC, policy.GuardSecrets))
	r.Issued.NotAfter = time.Now().Add(time.Hour)
	for name, spec := range map[string]webhook.Spec{
		"active":   {User: user, Groups: []string{group, "system:authenticated"}, Extra: certificate(print)},
		"unknown":  {User: user, Groups: []string{group, "system:authenticated"}, Extra: certificate(other)},
		"stranger": {User: "bob", Groups: []string{"dev", "system:authenticated"}},
	} {
		b.Run(name, func(b *testing.B) {
			c := config(&lookup{r: r})
			c.Memory = webhook.NewMemory()
			h, n := handler(b, c), 0
			var bodies []string // different ones: an API server remembers what it has asked
			for i := range 1000 {
				spec.Resource = &webhook.ResourceAttributes{Verb: "get", Resource: "pods", Name: fmt.Sprint("pod-", i)}
				bodies = append(bodies, question(spec))
			}
			b.ReportAllocs()
			for b.Loop() {
				if code, got := answer(h, post("/authorize/c1", bodies[n%len(bodies)], secret)); code != 200 {
					b.Fatal(code, got)
				}
				n++
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
		})
	}
}

// BenchmarkAuthorizeByLedger asks about the certificate of a grant, by TLS, what a whole service knows.
func BenchmarkAuthorizeByLedger(b *testing.B) {
	sys := bgtest.New(b, bgtest.Options{Config: func(c *bgtest.Config) { c.ReconcileBindingsEvery = time.Hour }})
	r := sys.Grant("alice", "group")
	_, csr := bgtest.NewCSR()
	d, err := sys.Claim("alice", r.ID, csr)
	must(b, err)
	c := config(nil)
	c.Lookup, c.Memory = sys.Service, webhook.NewMemory()
	s := httptest.NewTLSServer(handler(b, c))
	defer s.Close()
	spec := webhook.Spec{User: breakglass.CommonName("alice", r.ID), Groups: []string{group, "system:authenticated"},
		Extra: certificate(breakglass.Fingerprint(d.Certificate))}
	var bodies []string // different ones: an API server remembers what it has asked
	for i := range 1000 {
		spec.Resource = &webhook.ResourceAttributes{Verb: "get", Resource: "pods", Name: fmt.Sprint("pod-", i)}
		bodies = append(bodies, question(spec))
	}
	client := s.Client()
	client.Transport.(*http.Transport).MaxIdleConnsPerHost = 64
	ask := func(i int) {
		q, err := http.NewRequest(http.MethodPost, s.URL+"/authorize/c1", strings.NewReader(bodies[i%len(bodies)]))
		if err != nil {
			b.Error(err)
			return
		}
		q.Header.Set("Content-Type", "application/json")
		q.Header.Set("Authorization", "Bearer "+secret)
		resp, err := client.Do(q)
		if err != nil {
			b.Error(err)
			return
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || strings.Contains(string(text), `"denied":true`) {
			b.Error(resp.StatusCode, string(text), err)
		}
	}
	for _, clients := range []int{1, 16} {
		b.Run(fmt.Sprint(clients), func(b *testing.B) {
			b.SetParallelism(clients / 2)
			var n atomic.Int64
			if clients == 1 {
				for b.Loop() {
					ask(int(n.Add(1)))
				}
			} else {
				b.RunParallel(func(p *testing.PB) {
					for p.Next() {
						ask(int(n.Add(1)))
					}
				})
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
		})
	}
}
