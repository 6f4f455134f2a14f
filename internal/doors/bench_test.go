package doors

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/inventory"
)

// crowd is a cluster of n bindings of ten different subjects each: a fifth in the whole cluster; of each hundred, 85 give view, ten
// edit, four read Secrets, and one is cluster-admin.
func crowd(n int, d *inventory.Defaults) *inventory.Snapshot {
	s := all(&inventory.Snapshot{ClusterRoles: append(d.ClusterRoles(), clusterRole("secret-reader", secretsGet)),
		Namespaces: []inventory.Namespace{{Name: "default"}},
		Nodes:      []inventory.Node{{Name: "cp1", ControlPlane: true}}})
	for i := range n {
		b := bind(fmt.Sprintf("bench-%05d", i), "", "view")
		switch r := i % 100; {
		case r == 0:
			b.RoleName = "cluster-admin"
		case r < 5:
			b.RoleName = "secret-reader"
		case r < 15:
			b.RoleName = "edit"
		}
		for k := range 10 {
			b.Subjects = append(b.Subjects, inventory.Subject{Kind: []inventory.SubjectKind{inventory.User, inventory.Group}[k%2],
				Name: fmt.Sprintf("person-%05d-%d@example.org", i, k)})
		}
		if i%5 == 0 && b.RoleName != "edit" {
			s.ClusterBindings = append(s.ClusterBindings, b)
			continue
		}
		b.Namespace = "default"
		s.Bindings = append(s.Bindings, b)
	}
	return s
}

// BenchmarkJudge judges 5,000 to 40,000 bindings: the time for each must not grow with their number.
func BenchmarkJudge(b *testing.B) {
	rules, defaults, err := inventory.Shipped()
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{5_000, 10_000, 20_000, 40_000} {
		s := crowd(n, defaults)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var a *Analysis
			var items []Item
			for b.Loop() {
				a = Analyse(s, inventory.Options{Rules: rules, Defaults: defaults, Now: time.Now().UTC()})
				items = Items(s, a)
			}
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "MB-kept")
			b.ReportMetric(float64(len(a.Findings)), "findings")
			b.ReportMetric(float64(len(items)), "items")
			b.ReportMetric(b.Elapsed().Seconds()*1e6/float64(b.N)/float64(n), "µs/binding")
		})
	}
}
