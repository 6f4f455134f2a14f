package cluster_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/bgtest/realtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/real"
)

// denyEverything is an authorization configuration whose webhook does not answer, with the failure policy Deny, for names of ours.
const denyEverything = `apiVersion: apiserver.config.k8s.io/v1
kind: AuthorizationConfiguration
authorizers:
  - type: Webhook
    name: dead
    webhook:
      timeout: 1s
      authorizedTTL: 1s
      unauthorizedTTL: 1s
      subjectAccessReviewVersion: v1
      matchConditionSubjectAccessReviewVersion: v1
      failurePolicy: Deny
      connectionInfo: {type: KubeConfigFile, kubeConfigFile: %q}
      matchConditions: [{expression: "request.user.startsWith('breakglass:')"}]
  - type: RBAC
    name: rbac
`

const deadWebhook = `{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1/"}}], users: [{name: u}]}`

func TestRealRevocationIsProvenByEveryAPIServer(t *testing.T) {
	etcd := realtest.NewEtcd(t)
	p := startReal(t, etcd, "prove")
	second := realtest.NewCluster(t, real.APIServerOptions{ReplicaOf: p.APIServer, ClientCAs: p.ca.CertPEM})
	third := realtest.NewCluster(t, real.APIServerOptions{ReplicaOf: p.APIServer, ClientCAs: p.ca.CertPEM})
	addresses := []string{p.URL, second.URL, third.URL}
	c, err := cluster.Open(cluster.Config{Timeout: unhurried, Targets: []cluster.Target{{ID: "c1", Kubeconfig: p.path,
		APIServers: addresses}}})
	must(t, err)
	ask := func(r policy.Rights) []breakglass.Answer {
		return c.Ask(t.Context(), breakglass.Access{Request: request, Cluster: "c1", User: alice, Fingerprint: strings.Repeat("ab", 32),
			Rights: r})
	}
	everyServer := func(t *testing.T, got []breakglass.Answer) {
		t.Helper()
		if len(got) != len(addresses) {
			t.Fatalf("got %d answers, want one from each of %d servers", len(got), len(addresses))
		}
		for i, a := range got {
			if a.Server != addresses[i] {
				t.Errorf("answer %d is from %s, want the configuration's order: %s", i, a.Server, addresses[i])
			}
		}
	}
	allowedBy := func(r policy.Rights) {
		t.Helper()
		eventually(t, func() string {
			for _, a := range ask(r) {
				if a.No || !a.StillAllows() || a.Question == "" {
					return fmt.Sprintf("while bound: got %+v, want that it is still allowed", a)
				}
			}
			return ""
		})
	}
	refusedBy := func(r policy.Rights) {
		t.Helper()
		since := time.Now()
		after := map[string]time.Duration{}
		eventually(t, func() string {
			for _, a := range ask(r) {
				if !a.No || a.By != breakglass.RefusedByRBAC || a.Problem != "" {
					return fmt.Sprintf("after unbinding: got %+v, want no by RBAC", a)
				}
				if after[a.Server] == 0 {
					after[a.Server] = time.Since(since)
				}
			}
			return ""
		})
		t.Logf("time from the removal to no at every API server, the questions included: %v", time.Since(since).Round(time.Millisecond))
	}

	t.Run("a cluster-wide role", func(t *testing.T) {
		everyServer(t, ask(admin.Rights))
		must(t, c.Bind(t.Context(), admin))
		allowedBy(admin.Rights)
		must(t, c.Unbind(t.Context(), "c1", request))
		refusedBy(admin.Rights)
	})
	t.Run("a role in namespaces, and its rules are what is asked for", func(t *testing.T) {
		b := scoped
		b.Rights.ClusterRole = "cluster-admin"
		must(t, c.Bind(t.Context(), b))
		allowedBy(b.Rights)
		p.kubectl(t, "-n", "till", "delete", "rolebinding", "breakglass-"+request)
		allowedBy(b.Rights) // in shop
		must(t, c.Unbind(t.Context(), "c1", request))
		refusedBy(b.Rights)
	})
	t.Run("without knowing the role nothing is claimed", func(t *testing.T) {
		for _, r := range []struct {
			rights policy.Rights
			says   string
		}{
			{policy.Rights{ClusterRole: "edit"}, "may not read ClusterRole edit"},
			{policy.Rights{ClusterRole: "view"}, "ClusterRole view is gone or gives nothing now"}, // nobody aggregates into it here
			{policy.Rights{Group: "breakglass:api-rescue"}, "in group mode nothing else can"},
		} {
			for _, a := range ask(r.rights) {
				if a.No || !strings.Contains(a.Problem, r.says) {
					t.Errorf("%v: got %+v, want a problem that says %q", r.rights, a, r.says)
				}
			}
		}
	})
	t.Run("group mode while the group is bound", func(t *testing.T) {
		p.kubectl(t, "apply", "-f", filepath.Join(p.files, "optional", "group-mode.yaml"))
		allowedBy(policy.Rights{Group: "breakglass:api-rescue"})
	})
	t.Run("a webhook that is down and denies proves nothing", func(t *testing.T) {
		s := realtest.NewCluster(t, real.APIServerOptions{ReplicaOf: p.APIServer, ClientCAs: p.ca.CertPEM,
			Files: map[string][]byte{"authorization.yaml": fmt.Appendf(nil, denyEverything, write(t, deadWebhook))},
			Flags: []string{"--authorization-config=authorization.yaml"}})
		c, err := cluster.Open(cluster.Config{Timeout: unhurried, Targets: []cluster.Target{{ID: "c1", Kubeconfig: p.path,
			APIServers: []string{s.URL}}}})
		must(t, err)
		for _, r := range []policy.Rights{admin.Rights, {Group: "breakglass:api-rescue"}} {
			got := c.Ask(t.Context(), breakglass.Access{Request: request, Cluster: "c1", User: alice, Rights: r})
			if len(got) != 1 || got[0].No || !strings.Contains(got[0].Problem, "webhook there does not work") {
				t.Errorf("%v: got %+v, want no proof", r, got)
			}
		}
	})
	t.Run("one that does not answer is said, and asked again when it is back", func(t *testing.T) {
		must(t, c.Bind(t.Context(), admin))
		allowedBy(admin.Rights)
		third.Stop()
		must(t, c.Unbind(t.Context(), "c1", request))
		eventually(t, func() string {
			got := ask(admin.Rights)
			if !got[0].No || !got[1].No || got[2].No || got[2].Problem != "it does not answer" {
				return fmt.Sprintf("got %+v, want no from two, and that the third does not answer", got)
			}
			return ""
		})
		pings := c.Ping(t.Context(), "c1", map[string]string{})
		if len(pings) != 3 || pings[addresses[0]] != nil || pings[addresses[1]] != nil || pings[addresses[2]] == nil {
			t.Errorf("got pings %+v, want an error from the third alone", pings)
		}
		must(t, third.Start(t.Context()))
		refusedBy(admin.Rights)
	})
	t.Run("a dead kubeconfig server keeps no right alive", func(t *testing.T) {
		must(t, c.Bind(t.Context(), admin))
		allowedBy(admin.Rights)
		p.Stop()
		must(t, c.Unbind(t.Context(), "c1", request))
		if got, err := c.Bound(t.Context(), "c1"); err != nil || len(got) != 0 {
			t.Errorf("got %q, %v bound, want none", got, err)
		}
		must(t, p.Start(t.Context()))
		refusedBy(admin.Rights)
	})
	t.Run("the daemon may not ask", func(t *testing.T) {
		shipped, err := os.ReadFile(filepath.Join(p.files, "rbac.yaml"))
		must(t, err)
		rule := "  - apiGroups: [authorization.k8s.io]\n    resources: [subjectaccessreviews]\n    verbs: [create]\n"
		less := strings.Replace(string(shipped), rule, "", 1)
		if less == string(shipped) {
			t.Fatal("the rule is not where this test expects it")
		}
		p.apply(t, less)
		eventually(t, func() string {
			for _, a := range ask(admin.Rights) {
				if a.No || !strings.Contains(a.Problem, "create subjectaccessreviews") {
					return fmt.Sprintf("got %+v, want that the daemon may not ask", a)
				}
			}
			return ""
		})
	})
}
