package cluster_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cluster"
)

// hooked is a simulated cluster whose writes wait for an admission webhook for as long as the test wants. As at an API server, a
// request whose caller goes is given up.
type hooked struct {
	world
	c        *cluster.Clusters
	waiting  atomic.Int32 // writes that wait now
	givenUp  atomic.Int32 // writes whose caller went
	timeouts atomic.Int32 // requests that ask the API server to give up by itself
	mu       sync.Mutex
	hold     chan struct{} // closed: writes go on
}

func startHooked(t *testing.T, timeout time.Duration, webhooks string) *hooked {
	t.Helper()
	h := &hooked{world: start(t, 0), hold: make(chan struct{})}
	h.goOn()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(h.sim.CAPEM())
	to, err := url.Parse(h.sim.URL)
	must(t, err)
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	front := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("timeout") {
			h.timeouts.Add(1)
		}
		if strings.HasSuffix(r.URL.Path, "webhookconfigurations") {
			if webhooks == "" {
				http.Error(w, "no", http.StatusForbidden)
			} else if _, err := io.WriteString(w, webhooks); err != nil {
				t.Error(err)
			}
			return
		}
		if strings.Contains(r.URL.Path, "bindings") && r.Method != http.MethodGet {
			text, err := io.ReadAll(r.Body) // the server notices that a caller has gone only once it has read everything
			if err != nil {
				return
			}
			r.Body = io.NopCloser(strings.NewReader(string(text)))
			h.mu.Lock()
			hold := h.hold
			h.mu.Unlock()
			h.waiting.Add(1)
			defer h.waiting.Add(-1)
			select {
			case <-hold:
			case <-r.Context().Done():
				h.givenUp.Add(1)
				return
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	t.Cleanup(h.goOn)
	h.c = open(t, timeout, kubeconfig(t, front.URL, front.Certificate(), "daemon"))
	return h
}

// hang makes every write wait from now on, and goOn lets them go on.
func (h *hooked) hang() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hold = make(chan struct{})
}

func (h *hooked) goOn() {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.hold:
	default:
		close(h.hold)
	}
}

const policyEngine = `{"items":[{"metadata":{"name":"policy-engine"},"webhooks":[{"name":"all.policy.example","failurePolicy":"Ignore","timeoutSeconds":30,
"rules":[{"apiGroups":["*"],"resources":["*/*"],"operations":["CREATE","DELETE"]}]},
{"name":"pods.policy.example","rules":[{"apiGroups":[""],"resources":["pods"],"operations":["CREATE"]}]}]}]}`

// A policy engine that is gone makes every write of a cluster wait for up to half a minute. The daemon's deadline must not be
// shorter than that: the write would never be done, neither to let a rescuer in nor to cut a certificate off.
func TestWriteThatWaitsForAWebhookIsPursued(t *testing.T) {
	for name, b := range map[string]breakglass.Binding{"cluster": admin, "namespaces": scoped} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startHooked(t, 2*time.Second, policyEngine)
			steps := map[string]func(context.Context) error{
				"bind":   func(ctx context.Context) error { return h.c.Bind(ctx, b) },
				"unbind": func(ctx context.Context) error { return h.c.Unbind(ctx, "c1", b.Request) },
			}
			for _, step := range []string{"bind", "unbind"} {
				before := len(names(h.sim))
				h.hang()
				patience, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				err := steps[step](patience)
				cancel()
				mustSay(t, err, "answers reads, but writes do not finish",
					"all.policy.example in ValidatingWebhookConfiguration policy-engine (failurePolicy Ignore, 30 s)", "group mode")
				if strings.Contains(err.Error(), "pods.policy.example") || strings.Contains(err.Error(), "is it up") {
					t.Errorf("%s: got %v, want nothing about other webhooks, nor that it is down", step, err)
				}
				if got := len(names(h.sim)); got != before || h.waiting.Load() == 0 {
					t.Errorf("%s: got %d bindings and %d writes that wait, want %d and some", step, got, h.waiting.Load(), before)
				}
				h.goOn() // and nobody asks for it again
				eventually(t, func() string {
					if got := names(h.sim); (step == "bind") != (len(got) == len(bound(b))) || step == "unbind" && len(got) > 0 {
						return step + ": got " + strings.Join(got, ", ")
					}
					return ""
				})
				must(t, steps[step](t.Context()))
			}
			if h.givenUp.Load() > 1 || h.timeouts.Load() > 0 { // the second try of a deletion ends when the first has done it
				t.Errorf("%d writes were given up, and %d requests asked the API server to give up", h.givenUp.Load(), h.timeouts.Load())
			}
		})
	}
}

// What is made in the background must not outlive a revocation that came meanwhile.
func TestRevocationEndsAWriteThatWaits(t *testing.T) {
	h := startHooked(t, 2*time.Second, "")
	h.hang()
	patience, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	mustSay(t, h.c.Bind(patience, admin), "writes do not finish", "kubectl get validatingwebhookconfigurations", "sweep.yaml")
	mustSay(t, h.c.Unbind(t.Context(), "c1", request), "look again") // nothing is there; but it might have come
	must(t, h.c.Unbind(t.Context(), "c1", request))
	h.goOn()
	eventually(t, func() string {
		if h.waiting.Load() > 0 {
			return "a write still waits"
		}
		return ""
	})
	if got := names(h.sim); len(got) > 0 {
		t.Errorf("got %q after the revocation", got)
	}
}

// A webhook that must agree and does not answer, one that refuses, and an etcd that is full are no API server that is down.
func TestWhatStandsInTheWayOfAWriteIsNamed(t *testing.T) {
	for message, says := range map[string]string{
		`Internal error occurred: failed calling webhook "a.example": failed to call webhook: Post "https://x": context deadline exceeded`:  "an admission webhook that must agree does not answer",
		`admission webhook "b.example" denied the request: no`:                                                                              "an admission webhook of the cluster refuses it",
		`clusterrolebindings.rbac.authorization.k8s.io "x" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p' denied request: no`: "an admission policy of the cluster refuses it",
		`etcdserver: mvcc: database space exceeded`:                                                                                         "etcd is full",
	} {
		code := http.StatusInternalServerError
		if strings.Contains(message, "denied") {
			code = http.StatusForbidden
		}
		s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			text, err := json.Marshal(map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code})
			must(t, err)
			_, err = w.Write(text)
			must(t, err)
		}))
		err := open(t, 0, kubeconfig(t, s.URL, s.Certificate(), "daemon")).Bind(t.Context(), admin)
		mustSay(t, err, says)
		if strings.Contains(err.Error(), "is it up") || strings.Contains(err.Error(), "the daemon may not do this") {
			t.Errorf("got %v, want nothing that blames something else", err)
		}
		s.Close()
	}
}

// The whole service, with writes that wait: claims answer with a warning and are bound in the end, and revocations and the end
// of life take away what they must as soon as the cluster lets them.
func TestServicePursuesItsWrites(t *testing.T) {
	h := startHooked(t, time.Second, policyEngine)
	s := bgtest.New(t, bgtest.Options{Config: func(c *bgtest.Config) { c.Binder = h.c }})
	h.hang()
	var ids []string
	for _, who := range []string{"alice", "bob", "dave"} {
		r := s.Grant(who, "admin")
		_, csr := bgtest.NewCSR()
		d, err := s.Claim(who, r.ID, csr)
		must(t, err)
		if !strings.Contains(d.Warning, "writes do not finish") || !strings.Contains(d.Warning, "group mode") {
			t.Errorf("got the warning %q, want what is wrong and the way out", d.Warning)
		}
		ids = append(ids, r.ID)
	}
	h.goOn()
	wait := func(what string, done func(*breakglass.Request) bool) {
		t.Helper()
		for _, id := range ids {
			eventually(t, func() string {
				if r, err := s.Service.Get(t.Context(), id); err != nil || !done(r) {
					return id + " is not " + what
				}
				return ""
			})
		}
	}
	wait("bound", func(r *breakglass.Request) bool { return r.Bound })
	if got := names(h.sim); len(got) != len(ids) {
		t.Errorf("got %q, want one for each claim", got)
	}
	h.hang()
	out, err := s.Service.RevokeAll(t.Context(), bgtest.ByKey("carol"), "c1", "the incident is over")
	must(t, err)
	if len(out.Revoked) != len(ids) || len(out.Left) > 0 {
		t.Errorf("got %+v, want all revoked", out)
	}
	if got := names(h.sim); len(got) != len(ids) {
		t.Errorf("got %q, want that nothing could be deleted yet", got)
	}
	h.goOn()
	wait("unbound", func(r *breakglass.Request) bool { return !r.Bound })
	if got := names(h.sim); len(got) > 0 {
		t.Errorf("got %q left", got)
	}
	if h.givenUp.Load() > int32(len(ids)) {
		t.Errorf("%d writes were given up", h.givenUp.Load())
	}
}
