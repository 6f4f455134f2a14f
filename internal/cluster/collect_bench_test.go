package cluster_test

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	rbacclient "k8s.io/client-go/kubernetes/typed/rbac/v1"
	"k8s.io/client-go/tools/clientcmd"

	"golang.org/x/sync/errgroup"

	"github.com/breakglassd/breakglass/internal/bgtest/realtest"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/cluster/survey"
	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/real"
)

const (
	benchBindings = 10_000
	benchSubjects = 100_000 // all different
)

// fill makes 10,000 bindings of 100,000 different subjects: a fifth in the whole cluster, the others in the four namespaces
// that an API server makes; of each hundred, 85 give view, ten edit in a namespace, four read Secrets and one is cluster-admin.
func fill(b *testing.B, a *real.APIServer) {
	b.Helper()
	rc, err := clientcmd.BuildConfigFromFlags("", a.AdminKubeconfig())
	if err != nil {
		b.Fatal(err)
	}
	rc.QPS, rc.Burst = 100_000, 100_000
	api, err := rbacclient.NewForConfig(rc)
	if err != nil {
		b.Fatal(err)
	}
	secrets := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "secret-reader"},
		Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"secrets"}}}}
	if _, err := api.ClusterRoles().Create(b.Context(), secrets, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	namespaces := []string{"default", "kube-node-lease", "kube-public", "default"}
	g, ctx := errgroup.WithContext(b.Context())
	g.SetLimit(32)
	for n := range benchBindings {
		g.Go(func() error {
			meta := metav1.ObjectMeta{Name: fmt.Sprintf("bench-%05d", n)}
			var subjects []rbacv1.Subject
			for k := range benchSubjects / benchBindings {
				kind := []string{rbacv1.UserKind, rbacv1.GroupKind}[k%2]
				subjects = append(subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: kind,
					Name: fmt.Sprintf("person-%05d-%d@example.org", n, k)})
			}
			role := "view"
			switch r := n % 100; {
			case r == 0:
				role = "cluster-admin"
			case r < 5:
				role = "secret-reader"
			case r < 15:
				role = "edit"
			}
			ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}
			if n%5 == 0 && role != "edit" {
				_, err := api.ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: meta, Subjects: subjects, RoleRef: ref},
					metav1.CreateOptions{})
				return err
			}
			meta.Namespace = namespaces[n%len(namespaces)]
			_, err := api.RoleBindings(meta.Namespace).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta, Subjects: subjects, RoleRef: ref},
				metav1.CreateOptions{})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
}

// peak runs f and returns how far the heap grew at most, in MB, sampled every few milliseconds.
func peak(f func()) float64 {
	runtime.GC()
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	before := sample[0].Value.Uint64()
	most := before
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		for tick := time.NewTicker(2 * time.Millisecond); ; {
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C:
				metrics.Read(s)
				most = max(most, s[0].Value.Uint64())
			}
		}
	})
	f()
	close(stop)
	wg.Wait()
	return float64(most-before) / (1 << 20)
}

// BenchmarkScan is a scan of 10,000 bindings and 100,000 subjects on a real API server: collection, judgement and items.
func BenchmarkScan(b *testing.B) {
	a := realtest.NewCluster(b, real.APIServerOptions{})
	begun := time.Now()
	fill(b, a)
	b.Logf("made %d bindings in %s", benchBindings, time.Since(begun).Round(time.Millisecond))
	c, err := cluster.Open(cluster.Config{Targets: []cluster.Target{{ID: "prod", Kubeconfig: a.AdminKubeconfig()}}})
	if err != nil {
		b.Fatal(err)
	}
	rules, defaults, err := inventory.Shipped()
	if err != nil {
		b.Fatal(err)
	}
	debug.FreeOSMemory()
	var s *inventory.Snapshot
	var found *doors.Analysis
	var items []doors.Item
	var collecting, judging time.Duration
	var collectPeak, judgePeak float64
	for b.Loop() {
		begun := time.Now()
		collectPeak = peak(func() { s, err = c.Collect(b.Context(), "prod", survey.Options{}) })
		if err != nil {
			b.Fatal(err)
		}
		collecting = time.Since(begun)
		begun = time.Now()
		judgePeak = peak(func() {
			found = doors.Analyse(s, inventory.Options{Rules: rules, Defaults: defaults, Now: time.Now().UTC()})
			items = doors.Items(s, found)
		})
		judging = time.Since(begun)
	}
	if n := len(s.ClusterBindings) + len(s.Bindings); n < benchBindings {
		b.Fatalf("%d bindings were collected", n)
	}
	b.ReportMetric(float64(s.Requests), "requests")
	b.ReportMetric(float64(s.Bytes)/(1<<20), "MB-read")
	b.ReportMetric(collecting.Seconds(), "s-collect")
	b.ReportMetric(judging.Seconds(), "s-judge")
	b.ReportMetric(collectPeak, "MB-peak-collect")
	b.ReportMetric(judgePeak, "MB-peak-judge")
	b.ReportMetric(float64(len(found.Powers)), "powers")
	b.ReportMetric(float64(len(found.Findings)), "findings")
	b.ReportMetric(float64(len(items)), "items")
}
