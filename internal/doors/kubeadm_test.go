package doors

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/breakglassd/breakglass/internal/bgtest/realtest"
	"github.com/breakglassd/breakglass/internal/controlplane"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/real"
)

// kubeadm writes the control planes of most clusters that are not bought. What it writes is given here as it is to `scan --given`.
func TestWhatKubeadmWritesIsUnderstood(t *testing.T) {
	dir := t.TempDir()
	if err := realtest.MustBuild(t, real.KubeAdm).WriteWithKubeadm(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "manifests", "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var got []controlplane.Component
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found, err := controlplane.ParseGiven(filepath.Base(file), text)
		if err != nil || len(found) != 1 || found[0].Blind != "" {
			t.Errorf("%s: %+v, error %v, want one program of which every word was understood:\n%s", filepath.Base(file), found, err, text)
		}
		got = append(got, found...)
	}
	var names []string
	for _, c := range got {
		names = append(names, c.Name)
	}
	if want := []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}; !slices.Equal(names, want) {
		t.Fatalf("kubeadm wrote the manifests of %q, want %q", names, want)
	}
	a := judged(t, all(&inventory.Snapshot{Nodes: []inventory.Node{{Name: "cp1", ControlPlane: true}}, Components: got}))
	for _, want := range []struct {
		door  string
		state DoorState
		items []string
	}{
		{DoorStaticTokens, Absent, nil},
		{DoorOIDC, Absent, nil},
		{DoorWebhook, Absent, nil},
		{DoorAnonymous, Present, []string{"on"}}, // kubeadm leaves it at Kubernetes' default
		{DoorControlPlane, Absent, nil},
		{DoorEtcd, Present, nil}, // by client certificates of etcd's own CA, as it should be
		{DoorAuthorization, Absent, nil},
	} {
		d := a.Door(want.door)
		var items []string
		for _, i := range d.Items {
			items = append(items, i.ID)
		}
		if d.State != want.state || !slices.Equal(items, want.items) {
			t.Errorf("door %s is %s with %q, want %s with %q", d.ID, d.State, items, want.state, want.items)
		}
	}
}
