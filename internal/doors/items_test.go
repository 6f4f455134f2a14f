package doors

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/controlplane"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/google/go-cmp/cmp"
)

func TestCompareTellsWhatChanged(t *testing.T) {
	base := Item{ID: "prod/subject/x", Risk: inventory.High, Grants: []string{"a", "b"}, Fingerprint: "1"}
	change := func(f func(*Item)) Item {
		i := base
		i.Grants = slices.Clone(i.Grants)
		i.Fingerprint = "2"
		f(&i)
		return i
	}
	for name, c := range map[string]struct {
		previous, current Item
		want              State
	}{
		"never seen":                     {Item{}, base, New},
		"the same":                       {base, base, Unchanged},
		"one more right":                 {base, change(func(i *Item) { i.Grants = append(i.Grants, "c") }), Widened},
		"another right for one":          {base, change(func(i *Item) { i.Grants = []string{"a", "c"} }), Widened},
		"one right less":                 {base, change(func(i *Item) { i.Grants = []string{"a"} }), Narrowed},
		"a higher risk":                  {base, change(func(i *Item) { i.Risk = inventory.Critical }), Widened},
		"a lower risk":                   {base, change(func(i *Item) { i.Risk = inventory.Low }), Narrowed},
		"a way to cluster-admin":         {base, change(func(i *Item) { i.Admin = true }), Widened},
		"says something else, no less":   {base, change(func(*Item) {}), Widened},
		"whose account is gone":          {base, change(func(i *Item) { i.Orphan = true }), Orphan},
		"new, and nobody's":              {Item{}, change(func(i *Item) { i.Orphan = true }), Orphan},
		"not used":                       {base, func() Item { i := base; i.Dormant = true; return i }(), Dormant},
		"not used, and one more right":   {base, change(func(i *Item) { i.Dormant = true; i.Grants = append(i.Grants, "c") }), Widened},
		"evidence alone is another text": {base, func() Item { i := base; i.Evidence = []string{"made on another day"}; return i }(), Unchanged},
	} {
		if got := Compare(c.previous, c.current); got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

func TestItemsAreStableAndWidenWithTheCluster(t *testing.T) {
	build := func(rules ...inventory.PolicyRule) (*inventory.Snapshot, *Analysis) {
		s := all(&inventory.Snapshot{ClusterRoles: []inventory.Role{clusterRole("r", rules...)},
			ClusterBindings: []inventory.Binding{bind("b", "", "r", bob)},
			Accounts:        []inventory.Account{{Namespace: "shop", Name: "robot"}},
			TokenSecrets: []inventory.TokenSecret{{Namespace: "shop", Name: "fresh", Account: "robot", Created: now.Add(-400 * 24 * time.Hour),
				LastUsed: "2026-11-20"},
				{Namespace: "shop", Name: "old", Account: "robot", Created: now.Add(-400 * 24 * time.Hour), LastUsed: "2026-01-20"},
				{Namespace: "shop", Name: "never", Account: "robot", Created: now.Add(-400 * 24 * time.Hour)},
				{Namespace: "shop", Name: "new", Account: "robot", Created: now.Add(-24 * time.Hour)},
				{Namespace: "shop", Name: "orphan", Account: "gone", Created: now.Add(-24 * time.Hour), LastUsed: "2026-11-20"}},
			TrackingSince: "2025-01-01"})
		return s, judged(t, s)
	}
	byTitle := func(items []Item, title string) Item {
		for _, i := range items {
			if strings.HasPrefix(i.Title, title) {
				return i
			}
		}
		t.Fatalf("no item %q among %+v", title, items)
		return Item{}
	}
	s, a := build(secretsGet)
	before := Items(s, a)
	s.At = s.At.Add(time.Hour)
	s, a = build(secretsGet)
	if diff := cmp.Diff(before, Items(s, a)); diff != "" {
		t.Errorf("an hour later the items are others:\n%s", diff)
	}
	seen := map[string]bool{}
	for _, i := range before {
		if seen[i.ID] || i.Fingerprint == "" || i.Risk.Rank() < 0 || i.Title == "" || len(i.Evidence) == 0 || i.TakeAway == "" &&
			i.Advice == "" && !i.Expected {
			t.Errorf("an item without its parts, or twice: %+v", i)
		}
		seen[i.ID] = true
		if i.ID == byTitle(before, "user bob").ID && !slices.Equal(i.People, []string{"bob"}) {
			t.Errorf("bob's item is about %q", i.People)
		}
	}
	for name, want := range map[string]State{"fresh": Unchanged, "old": Dormant, "never": Dormant, "new": Unchanged, "orphan": Orphan} {
		i := byTitle(before, "Secret shop/"+name+" ")
		if got := Compare(i, i); got != want || i.Kind != ItemToken {
			t.Errorf("token %s is %s %s, want a token that is %s", name, i.Kind, got, want)
		}
	}
	s, a = build(secretsGet, podCreate)
	after := Items(s, a)
	was, is := byTitle(before, "user bob"), byTitle(after, "user bob")
	if was.ID != is.ID || Compare(was, is) != Widened || Compare(is, was) != Narrowed {
		t.Errorf("with one more right: ids %s and %s, %s, and back %s", was.ID, is.ID, Compare(was, is), Compare(is, was))
	}
	text, err := json.Marshal(after)
	if err != nil {
		t.Fatal(err)
	}
	var back []Item
	if err := json.Unmarshal(text, &back); err != nil || !cmp.Equal(after, back) {
		t.Errorf("items do not survive JSON: %v %s", err, cmp.Diff(after, back))
	}
}

func TestManagedPlatformsAreTold(t *testing.T) {
	for name, c := range map[string]struct {
		version string
		labels  []string
		want    string
	}{
		"EKS":                 {"v1.33.1-eks-595af52", nil, "EKS gives whoever made the cluster"},
		"EKS by its nodes":    {"v1.33.1", []string{"eks.amazonaws.com/nodegroup"}, "EKS gives whoever made the cluster"},
		"GKE":                 {"v1.33.1-gke.1386000", nil, "GKE gives people with IAM roles"},
		"AKS":                 {"v1.33.1", []string{"kubernetes.azure.com/cluster"}, "AKS gives whoever may list cluster admin credentials"},
		"kubeadm on whatever": {"v1.33.1", nil, ""},
	} {
		s := all(&inventory.Snapshot{Nodes: []inventory.Node{{Name: "n", Labels: c.labels}}})
		s.Server.Version = c.version
		d := judged(t, s).Door(DoorPlatform)
		if c.want == "" && d.State != Absent || c.want != "" && (d.State != Present || !strings.Contains(d.Items[0].Title, c.want)) {
			t.Errorf("%s: got %+v, want %q", name, d, c.want)
		}
	}
}

func TestRisksOfCAsAreTold(t *testing.T) {
	good := inventory.CA{Subject: "CN=kubernetes", Fingerprint: "f", KeyID: "k", NotBefore: now.AddDate(-1, 0, 0),
		NotAfter: now.AddDate(9, 0, 0),
		Key:      "RSA 2048", Signature: "SHA256-RSA", IsCA: true}
	for name, c := range map[string]struct {
		change func(*inventory.CA)
		want   inventory.Severity // Info is no alarm
	}{
		"a good one":     {func(*inventory.CA) {}, inventory.Info},
		"a short key":    {func(ca *inventory.CA) { ca.Key = "RSA 1024" }, inventory.High},
		"expired":        {func(ca *inventory.CA) { ca.NotAfter = now }, inventory.Low},
		"expires soon":   {func(ca *inventory.CA) { ca.NotAfter = now.AddDate(0, 0, 29) }, inventory.Medium},
		"a weak digest":  {func(ca *inventory.CA) { ca.Signature = "SHA1-RSA" }, inventory.Low},
		"for ever":       {func(ca *inventory.CA) { ca.NotAfter = now.AddDate(30, 0, 0) }, inventory.Low},
		"no CA":          {func(ca *inventory.CA) { ca.IsCA = false }, inventory.Medium},
		"an elliptic CA": {func(ca *inventory.CA) { ca.Key = "ECDSA P-256" }, inventory.Info},
	} {
		ca := good
		c.change(&ca)
		s := all(&inventory.Snapshot{Authentication: inventory.Authentication{ClientCAs: []inventory.CA{ca}}})
		d := judged(t, s).Door(DoorClientCA)
		if d.Items[0].Risk != c.want || d.Items[0].Expected != (c.want == inventory.Info) {
			t.Errorf("%s: got %+v, want %s", name, d.Items[0], c.want)
		}
	}
}

// A day's evidence is judged again later: it must be the same, and nothing in it may change by being judged.
func TestSnapshotSurvivesJSONAndIsNotChanged(t *testing.T) {
	s := all(&inventory.Snapshot{ClusterRoles: []inventory.Role{{Name: "top",
		Aggregation: []inventory.Selector{{MatchLabels: map[string]string{"to": "top"}}},
		Rules:       []inventory.PolicyRule{podCreate}}, {
		Name: "leaf", Labels: map[string]string{"to": "top"},
		Rules: []inventory.PolicyRule{star}}},
		ClusterBindings: []inventory.Binding{bind("b", "", "top", bob)}, Components: []controlplane.Component{{Name: "etcd", Where: "x",
			Flags: map[string][]string{"a": {"b"}}}}})
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	said := func(a *Analysis) string {
		text, err := json.MarshalIndent(a, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	first := judged(t, s)
	if want := `"next": "remove it with: kubectl delete clusterrolebinding b"`; !strings.Contains(said(first), want) {
		t.Errorf("the analysis as JSON does not hold %s: %s", want, said(first))
	}
	after, err := json.Marshal(s)
	if err != nil || string(after) != string(text) {
		t.Errorf("judging changed the snapshot: %s", cmp.Diff(string(text), string(after)))
	}
	var back inventory.Snapshot
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(said(first), said(judged(t, &back))); diff != "" {
		t.Errorf("judged again after JSON:\n%s", diff)
	}
}

// One API server without a door says nothing about another that was not seen.
func TestDoorIsAbsentOnlyIfEveryAPIServerWasSeen(t *testing.T) {
	api := func(node string) controlplane.Component {
		c, _ := controlplane.ParseCommand([]string{"kube-apiserver", "--authorization-mode=Node,RBAC",
			"--enable-admission-plugins=NodeRestriction"},
			"pod x on node "+node)
		c.Node = node
		return c
	}
	given := api("")
	given.Given = true
	nodes := []inventory.Node{{Name: "cp1", ControlPlane: true}, {Name: "cp2", ControlPlane: true}, {Name: "worker"}}
	for name, c := range map[string]struct {
		components []controlplane.Component
		want       DoorState
	}{
		"none":                        {nil, CannotTell},
		"one of two":                  {[]controlplane.Component{api("cp1")}, CannotTell},
		"one of two, and a decoy":     {[]controlplane.Component{api("cp1"), api("")}, CannotTell},
		"two of two":                  {[]controlplane.Component{api("cp1"), api("cp2")}, Absent},
		"one that the operator gave":  {[]controlplane.Component{given}, Absent},
		"a pod that is no static pod": {[]controlplane.Component{api("")}, CannotTell},
	} {
		a := judged(t, all(&inventory.Snapshot{Nodes: nodes, Components: c.components,
			BootstrapTokens: []inventory.BootstrapToken{{ID: "abcdef", Authentication: true}}}))
		for _, door := range []string{DoorStaticTokens, DoorOIDC, DoorWebhook, DoorAuthorization} {
			if d := a.Door(door); d.State != c.want || (d.Tellable == "") != (c.want == Absent) {
				t.Errorf("%s: door %s is %s, want %s (%q, tellable by %q)", name, door, d.State, c.want, d.Evidence, d.Tellable)
			}
		}
		// A token may be accepted by the one that was not seen.
		want := map[DoorState]DoorState{CannotTell: Present, Absent: Absent}[c.want]
		if d := a.Door(DoorBootstrap); d.State != want {
			t.Errorf("%s: door %s is %s, want %s", name, d.ID, d.State, want)
		}
	}
}

// The people's CLI reads the types of this package and of those below it, and must stay small.
func TestDoorsLinkNoKubernetesLibrary(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, pkg := range strings.Fields(string(out)) {
		if strings.HasPrefix(pkg, "k8s.io/") || strings.HasPrefix(pkg, "sigs.k8s.io/") {
			t.Errorf("it links %s", pkg)
		}
	}
}
