package cluster_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/breakglassd/breakglass/internal/bgtest/realtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
)

// deaf accepts connections and never answers: a policy engine whose pod or node is gone.
func deaf(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
		}
	}()
	return l.Addr().String()
}

// TestRealWebhookThatHangs is about a real kube-apiserver that waits for a webhook as long as it is told to. What takes time here
// is the API server's own, and all webhooks hang at the same time.
func TestRealWebhookThatHangs(t *testing.T) {
	p := startReal(t, realtest.NewEtcd(t), "hang")
	p.kubectl(t, "apply", "-f", p.files+"/optional/sweep.yaml")
	c := open(t, 0, p.path)
	type row struct {
		policy, step, webhook string
		seconds               int
		binding               breakglass.Binding
	}
	var rows []row
	engine := deaf(t)
	manifest := ""
	hook := func(name, policy string, seconds int, requests ...string) {
		manifest += fmt.Sprintf(`---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: %s}
webhooks:
  - name: all.policy.example
    clientConfig: {url: "https://%s/"}
    rules: [{apiGroups: ["*"], apiVersions: ["*"], resources: ["*/*"], operations: [CREATE, UPDATE, DELETE]}]
    objectSelector: {matchExpressions: [{key: breakglass.dev/request, operator: In, values: [%s]}]}
    failurePolicy: %s
    timeoutSeconds: %d
    sideEffects: None
    admissionReviewVersions: [v1]
`, name, engine, strings.Join(requests, ", "), policy, seconds)
	}
	for _, policy := range []string{"Ignore", "Fail"} {
		for _, seconds := range []int{10, 30} {
			for _, step := range []string{"bind", "unbind"} {
				r := row{policy: policy, seconds: seconds, step: step, webhook: fmt.Sprintf("%s-%s-%d", strings.ToLower(policy), step, seconds),
					binding: admin}
				r.binding.Request = fmt.Sprintf("bg-%04d-000", len(rows))
				r.binding.User = "breakglass:alice:" + r.binding.Request
				if step == "unbind" {
					must(t, c.Bind(t.Context(), r.binding))
				}
				hook(r.webhook, policy, seconds, r.binding.Request)
				rows = append(rows, r)
			}
		}
	}
	hook("z-probe", "Fail", 1, "probe")
	p.apply(t, manifest)
	eventually(t, func() string { // the API server notices webhooks a moment after they are made
		probe := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "probe",
			Labels: map[string]string{"breakglass.dev/request": "probe"}},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"}}
		if _, err := p.admin.ClusterRoleBindings().Create(t.Context(), probe,
			metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err == nil {
			return "no webhook is asked yet"
		}
		return ""
	})
	try := func(r row) error {
		do := func(ctx context.Context) error { return c.Bind(ctx, r.binding) }
		if r.step == "unbind" {
			do = func(ctx context.Context) error { return c.Unbind(ctx, "c1", r.binding.Request) }
		}
		says := func(err error, words ...string) error {
			for _, w := range words {
				if err == nil || !strings.Contains(err.Error(), w) {
					return fmt.Errorf("got %w, want it to say %q", err, w)
				}
			}
			return nil
		}
		patience, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		defer cancel()
		err := says(do(patience), "answers reads, but writes do not finish", "all.policy.example in ValidatingWebhookConfiguration", "group mode")
		if err != nil {
			return err
		}
		err = do(t.Context()) // joins the write that is under way
		if r.policy == "Ignore" {
			return err
		}
		if err := says(err, "an admission webhook that must agree does not answer", "all.policy.example", "group mode"); err != nil {
			return err
		}
		if _, stderr, err := p.bins.Kubectl(t.Context(), p.AdminKubeconfig(), "delete", "validatingwebhookconfiguration", r.webhook); err != nil {
			return fmt.Errorf("%w: %s", err, stderr)
		}
		for err = do(t.Context()); err != nil && strings.Contains(err.Error(), "must agree"); err = do(t.Context()) {
			continue // the API server has not noticed yet
		}
		return err
	}
	errs := make([]error, len(rows))
	var wait sync.WaitGroup
	for i, r := range rows { // no parallel subtests: of those, as many run as there are processors
		wait.Go(func() { errs[i] = try(r) })
	}
	wait.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("%s: %v", rows[i].webhook, err)
		}
	}
	left, err := c.Bound(t.Context(), "c1")
	must(t, err)
	if len(left) != len(rows)/2 {
		t.Errorf("got %q, want the bindings that were made and not those that were taken away", left)
	}
}
