package controlplane

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCommandLinesAreRead(t *testing.T) {
	for _, c := range []struct {
		words []string
		name  string
		flags map[string][]string
	}{
		{[]string{"kube-apiserver", "--a=1", "--b", "2", "--c", "--d=x=y", "-e=1", "--a=3"}, "kube-apiserver",
			map[string][]string{"a": {"1", "3"}, "b": {"2"}, "c": {"true"}, "d": {"x=y"}, "e": {"1"}}},
		{[]string{"/bin/sh", "/usr/local/bin/etcd", "--client_cert_auth"}, "etcd", map[string][]string{"client-cert-auth": {"true"}}},
		{[]string{"kube-controller-manager"}, "kube-controller-manager", map[string][]string{}},
		{[]string{"coredns", "-conf", "/etc/Corefile"}, "", nil},
	} {
		got, ok := ParseCommand(c.words, "here")
		if ok != (c.name != "") || got.Name != c.name || !cmp.Equal(got.Flags, c.flags) {
			t.Errorf("%q: got %+v %t", c.words, got, ok)
		}
	}
	manifest := "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - command: [kube-scheduler, --bind-address=0.0.0.0]\n  - command: " +
		"[sidecar]\n"
	for name, text := range map[string]string{"manifest": manifest, "one line": "kube-scheduler --bind-address=0.0.0.0",
		"lines": "kube-scheduler\n--bind-address=0.0.0.0\n", "from /proc": "kube-scheduler\x00--bind-address=0.0.0.0\x00"} {
		got, err := ParseGiven(name, []byte(text))
		if err != nil || len(got) != 1 || got[0].Name != "kube-scheduler" || !slices.Equal(got[0].Flags["bind-address"], []string{"0.0.0.0"}) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
}
