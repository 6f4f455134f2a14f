package doors

import (
	"slices"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/internal/controlplane"
	"github.com/breakglassd/breakglass/internal/inventory"
)

// Each row is a file as operators have them, and what the door of static tokens, or etcd's, is to say about a cluster of one node.
func TestGivenFilesProveOnlyWhatWasUnderstood(t *testing.T) {
	const (
		pod  = "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n"
		safe = "kube-apiserver --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction"
	)
	for _, c := range []struct {
		name, text, door string
		state            DoorState
		refused          string // part of the error
	}{
		{"a list of two pods with quoted words, as kubectl prints it", `apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  spec:
    containers:
    - command:
      - etcd
      - --client-cert-auth=true
- apiVersion: v1
  kind: Pod
  spec:
    containers:
    - command:
      - kube-apiserver
      - "--token-auth-file=/etc/t.csv"
`, DoorStaticTokens, Present, ""},
		{"a pod list in flow style", `{kind: PodList, items: [{spec: {containers: [{command: [kube-apiserver, "--token-auth-file=/t"]}]}}]}`,
			DoorStaticTokens, Present, ""},
		{"a deployment of a hosted control plane",
			"kind: Deployment\nspec:\n  template:\n    spec:\n      containers:\n      - command: [kube-apiserver]\n" +
				"        args: [\"--token-auth-file=/t\"]\n", DoorStaticTokens, Present, ""},
		{"a cron job",
			"kind: CronJob\nspec: {jobTemplate: {spec: " +
				"{template: {spec: {containers: [{command: [kube-apiserver, --token-auth-file=/t]}]}}}}}", DoorStaticTokens, Present, ""},
		{"two documents, etcd first", pod + "  - command: [etcd, --client-cert-auth=true]\n---\n" + pod +
			"  - command: [kube-apiserver, --token-auth-file=/t]\n", DoorStaticTokens, Present, ""},
		{"a sidecar before the program", pod + "  - command: [konnectivity]\n  - command: [kube-apiserver, --token-auth-file=/t]\n",
			DoorStaticTokens, Present, ""},
		{"a manifest that says it all", pod + "  - command: [kube-apiserver, --authorization-mode=RBAC]\n", DoorStaticTokens, Absent, ""},
		{"a comment that names the flag", pod +
			"  - command:\n    - kube-apiserver\n    # - --token-auth-file=/etc/t.csv\n    - --authorization-mode=RBAC\n", DoorStaticTokens,
			Absent, ""},
		{"a variable of the pod", pod + "  - command: [kube-apiserver, --token-auth-file=$(FILE)]\n    env: [{name: FILE, value: /t}]\n",
			DoorStaticTokens, Present, ""},
		{"a variable whose value comes from elsewhere", pod +
			"  - command: [kube-apiserver, $(MORE)]\n    env: [{name: MORE, valueFrom: {}}]\n", DoorStaticTokens, CannotTell, ""},
		{"an image that says how it begins", pod +
			"  - image: registry.k8s.io/kube-apiserver:v1.36.3\n    args: [--authorization-mode=RBAC]\n", DoorStaticTokens, CannotTell, ""},
		{"a shell of one line", pod + "  - command: [sh, -c, \"exec kube-apiserver '--token-auth-file=/t'\"]\n", DoorStaticTokens, Present, ""},
		{"a shell that says it all", pod + "  - command: [bash, -ec, \"set -o pipefail\\nexec " + safe + "\"]\n", DoorStaticTokens, Absent, ""},
		{"OpenShift's script", pod +
			"  - command: [/bin/bash, -ec]\n    args: [\"exec hyperkube kube-apiserver --openshift-config=/c.yaml -v=2 ${MORE}\"]\n",
			DoorStaticTokens, CannotTell, ""},
		{"a script with a variable for the program", pod + "  - command: [sh, -c, \"P=kube-apiserver; exec $P --token-auth-file=/t\"]\n",
			DoorStaticTokens, CannotTell, ""},
		{"a wrapper that is not known", pod + "  - command: [/opt/run.sh, kube-apiserver, --authorization-mode=RBAC]\n", DoorStaticTokens,
			CannotTell, ""},
		{"a wrapper that is known", pod + "  - command: [/go-runner, --log-file=/l, --, kube-apiserver, --authorization-mode=RBAC]\n",
			DoorStaticTokens, Absent, ""},
		{"a response file", pod + "  - command: [kube-apiserver, \"@/etc/flags\"]\n", DoorStaticTokens, CannotTell, ""},
		{"a unit with quotes and lines that go on",
			"[Service]\nExecStart=/usr/bin/kube-apiserver \\\n  --authorization-mode=RBAC \\\n" +
				"# a comment\n  \"--token-auth-file=/etc/t.csv\" \\\n  --v=2\n", DoorStaticTokens, Present, ""},
		{"a unit with a file of variables",
			"[Service]\nEnvironmentFile=/etc/kubernetes/apiserver\nExecStart=/usr/bin/kube-apiserver $KUBE_API_ARGS\n", DoorStaticTokens,
			CannotTell, ""},
		{"a unit with a variable that it sets",
			"[Service]\nEnvironment=\"ARGS=--token-auth-file=/t --v=2\"\nExecStart=/usr/bin/kube-apiserver $ARGS\n", DoorStaticTokens,
			Present, ""},
		{"a unit that says it all", "[Service]\nExecStart=/usr/bin/" + safe + "\n", DoorStaticTokens, Absent, ""},
		{"a command line", safe, DoorStaticTokens, Absent, ""},
		{"a command line in quotes over lines", "# what runs\nkube-apiserver \\\n  '--token-auth-file=/t'\n", DoorStaticTokens, Present, ""},
		{"a command line with a comment", safe + " # --token-auth-file=/t\n", DoorStaticTokens, Absent, ""},
		{"a command line with a variable", safe + " $MORE\n", DoorStaticTokens, CannotTell, ""},
		{"words on lines", "kube-apiserver\n--token-auth-file\n/t\n", DoorStaticTokens, Present, ""},
		{"words of /proc", strings.ReplaceAll(safe, " ", "\x00") + "\x00", DoorStaticTokens, Absent, ""},
		{"two command lines", "etcd --client-cert-auth=true\nkube-apiserver --token-auth-file=/t\n", DoorStaticTokens, Present, ""},
		{"k3s", "k3s server --kube-apiserver-arg=token-auth-file=/t\n", "", "", "shows the command line of none of"},
		{"a quotation mark without its other", "kube-apiserver '--token-auth-file=/t", "", "", "cannot be read"},
		{"a manifest that is broken", pod + "  - command: [kube-apiserver\n", "", "", "cannot be read"},
		{"a backup sidecar", pod + "  - command: [etcdbrctl, server, --data-dir=/var/lib/etcd]\n", "", "", "shows the command line of none of"},
		{"a backup sidecar with words", pod + "  - command: [etcdbrctl, server, --data-dir, /var/lib/etcd]\n", "", "",
			"shows the command line of none of"},
		{"etcd with a file", pod + "  - command: [etcd, --config-file=/etc/etcd.yaml]\n", DoorEtcd, CannotTell, ""},
		{"etcd with its environment", pod + "  - command: [etcd]\n    env: [{name: ETCD_CLIENT_CERT_AUTH, value: \"false\"}]\n", DoorEtcd,
			Present, ""},
		{"etcd with an environment from elsewhere", pod + "  - command: [etcd]\n    envFrom: [{configMapRef: {name: x}}]\n", DoorEtcd,
			CannotTell, ""},
		{"etcd's unit with a file of variables", "[Service]\nEnvironmentFile=-/etc/etcd.env\nExecStart=/usr/bin/etcd\n", DoorEtcd, CannotTell,
			""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := controlplane.ParseGiven("x", []byte(c.text))
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Fatalf("got %+v and error %v, want %q", got, err, c.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			a := judged(t, all(&inventory.Snapshot{Nodes: []inventory.Node{{Name: "cp1", ControlPlane: true}}, Components: got}))
			if d := a.Door(c.door); d.State != c.state {
				t.Errorf("the door is %s, want %s: %+v, command lines %+v", d.State, c.state, d.Items, got)
			}
			blind := slices.ContainsFunc(got, func(c controlplane.Component) bool { return c.Blind != "" })
			for _, i := range a.Door(DoorAuthorization).Items {
				if blind && (i.ID == "always-allow" || i.ID == "node-restriction") {
					t.Errorf("what was not seen is taken for %q", i.Title)
				}
			}
		})
	}
}
