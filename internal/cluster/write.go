package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// Reads are answered in milliseconds or not at all. A write waits for the admission webhooks of the cluster, each of which may
// take 30 s before the API server goes on without it, and 60 s all together. It is the API server that gives a write up, never
// the daemon, as long as it answers reads: a policy engine that is gone must not keep a right alive, nor a rescuer out.
const writeTime = 75 * time.Second

// flight is one write to a cluster that is under way: everything that makes the bindings of one request, or takes them away.
type flight struct {
	what   string // only one of a kind and of the same contents is joined
	done   chan struct{}
	err    error // once done
	cancel context.CancelFunc
	slow   atomic.Pointer[string] // why it takes so long, once that is known
}

// errUnderWay is wrapped by what says that a write is still under way: it goes on, and asking again joins it.
var errUnderWay = errors.New("the write goes on in the background")

// pursue carries a write out in the background until the API servers have answered it, and waits for it as long as ctx says. A
// second call joins the first one. A write of another kind for the same request ends the one that is under way before it begins.
func (c *Clusters) pursue(ctx context.Context, t *target, request, what string, write func(context.Context, *target) error) error {
	key := t.id + "/" + request
	for stopped := false; ; {
		c.mu.Lock()
		f := c.flights[key]
		if f == nil {
			f = &flight{what: what, done: make(chan struct{})}
			c.flights[key] = f
			wctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.writeTime)
			f.cancel = cancel
			go func() {
				defer cancel()
				f.err = t.eachServer(wctx, func(ctx context.Context, at *target, left int) error { return at.write(ctx, f, left == 1, write) })
				c.mu.Lock()
				delete(c.flights, key)
				c.mu.Unlock()
				close(f.done)
			}()
		}
		c.mu.Unlock()
		if f.what != what {
			f.cancel()
			stopped = true
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return f.late(ctx, t)
		}
		if f.what != what {
			continue
		}
		if f.err == nil && stopped {
			return fmt.Errorf("in cluster %s: another write for %s was under way until now, and may have been carried out after all: look again",
				t.id, request)
		}
		return f.err
	}
}

// late says why a write has no answer when the caller's patience ends.
func (f *flight) late(ctx context.Context, t *target) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("in cluster %s: %w", t.id, ctx.Err())
	}
	if slow := f.slow.Load(); slow != nil {
		return fmt.Errorf("in cluster %s: %s (%w)", t.id, *slow, errors.Join(errUnderWay, ctx.Err()))
	}
	return t.explain("waiting for a write", ctx.Err())
}

// write does something at this address that writes. While there is no answer it sees whether reads are answered, on another
// connection. If they are, it says so in f, tries once more beside the first try, in case it was the connection that died, and goes
// on waiting. If they are not, and the cluster has another address, it gives this one up. What it does must be safe to do twice.
func (t *target) write(ctx context.Context, f *flight, last bool, do func(context.Context, *target) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan error, 2)
	try := func() { answers <- do(ctx, t) }
	go try()
	running, tries := 1, 1
	look := time.NewTimer(t.rest.Timeout / 2)
	defer look.Stop()
	for {
		select {
		case err := <-answers:
			if running--; err == nil || running == 0 || !unanswered(err) {
				return err
			}
		case <-look.C:
			utilnet.CloseIdleConnectionsFor(t.http.Transport)
			look.Reset(t.rest.Timeout)
			if err := t.alive(ctx); err != nil {
				if last {
					continue
				}
				return t.explain("waiting for a write", err)
			}
			why := t.whyWritesWait(ctx)
			f.slow.Store(&why)
			if tries == 1 {
				tries, running = tries+1, running+1
				go try()
			}
		}
	}
}

// alive reports whether the API server answers a read.
func (t *target) alive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, t.rest.Timeout/4)
	defer cancel()
	_, err := t.get(ctx, "/version", acceptJSON, 1<<20)
	if err != nil && !unanswered(err) {
		return nil // it answers, if not what was asked
	}
	return err
}

// groupMode is the way out when nothing can be written to a cluster.
const groupMode = "a profile in group mode needs no write to the cluster (policies/kubernetes/optional/group-mode.yaml)"

// whyWritesWait says what may keep a write from being answered while reads are.
func (t *target) whyWritesWait(ctx context.Context) string {
	why := "the API server at " + t.rest.Host + " answers reads, but writes do not finish: does an admission webhook hang? "
	switch hooks, err := t.webhooks(ctx); {
	case err != nil:
		why += "Which there are, the daemon cannot list (policies/kubernetes/optional/sweep.yaml lets it); see " +
			"`kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations`. "
	case len(hooks) == 0:
		why += "No webhook there is about bindings, so look at etcd and the API server's own log. "
	default:
		why += "About bindings are " + strings.Join(hooks, ", ") + ". "
	}
	return why + "It is tried until it is done; meanwhile " + groupMode
}

// maxWebhooks bounds how many webhooks are named.
const maxWebhooks = 5

// webhooks names the admission webhooks of the cluster that may be about making or deleting bindings. Their selectors and
// conditions are not looked at.
func (t *target) webhooks(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, t.rest.Timeout/2)
	defer cancel()
	var out []string
	for _, kind := range []string{"ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"} {
		body, err := t.get(ctx, "/apis/admissionregistration.k8s.io/v1/"+strings.ToLower(kind)+"s", acceptJSON, maxAnswer)
		if err != nil {
			return nil, err
		}
		var list struct {
			Items []struct {
				Metadata struct{ Name string }
				Webhooks []struct {
					Name           string
					FailurePolicy  string
					TimeoutSeconds int
					Rules          []struct{ APIGroups, Resources, Operations []string }
				}
			}
		}
		if err := json.Unmarshal(body, &list); err != nil {
			return nil, err
		}
		any := func(have []string, want ...string) bool {
			return slices.ContainsFunc(have, func(s string) bool { return slices.Contains(want, s) })
		}
		for _, o := range list.Items {
			for _, w := range o.Webhooks {
				for _, r := range w.Rules {
					if any(r.APIGroups, "*", "rbac.authorization.k8s.io") && any(r.Resources, "*", "*/*", "clusterrolebindings", "rolebindings") &&
						any(r.Operations, "*", "CREATE", "DELETE") {
						out = append(out, fmt.Sprintf("%s in %s %s (failurePolicy %s, %d s)", line(w.Name, 80), kind, line(o.Metadata.Name, 80),
							line(w.FailurePolicy, 10), w.TimeoutSeconds))
						break
					}
				}
			}
		}
	}
	if n := len(out); n > maxWebhooks {
		out = append(out[:maxWebhooks], fmt.Sprintf("and %d more", n-maxWebhooks))
	}
	return out, nil
}

// refusedBy says what in the cluster stands in the way of a write that the API server has answered with an error: an admission
// webhook, an admission policy, or an etcd that is full. Empty: nothing of that kind.
func refusedBy(err error) string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return ""
	}
	switch text := status.Status().Message; {
	case strings.Contains(text, "failed calling webhook"):
		return "an admission webhook that must agree does not answer. Mend or remove its configuration (that itself needs no webhook's word); " +
			"meanwhile " + groupMode
	case strings.Contains(text, "admission webhook") && strings.Contains(text, "denied the request"):
		return "an admission webhook of the cluster refuses it: except the daemon's bindings from its rule"
	case strings.Contains(text, "ValidatingAdmissionPolicy") && strings.Contains(text, "denied request"):
		return "an admission policy of the cluster refuses it: see whether policies/kubernetes/optional/admission.yaml is of this release and " +
			"names the daemon's user, and except the daemon's bindings from others"
	case strings.Contains(text, "database space exceeded"):
		return "etcd is full and takes no new objects; deleting still works. Compact and defragment it; meanwhile " + groupMode
	}
	return ""
}
