package cluster_test

import (
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakglassd/breakglass/internal/bgtest/realtest"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/cluster/survey"
	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/real"
	"github.com/breakglassd/breakglass/policies"
)

var update = flag.Bool("update", false, "write policies/recert/defaults-kubernetes.yaml from a real API server")

// scan collects from a as its administrator and judges with what ships.
func scan(t *testing.T, a *real.APIServer, o survey.Options) (*inventory.Snapshot, *doors.Analysis) {
	t.Helper()
	s := collect(t, a, a.AdminKubeconfig(), o)
	return s, judge(t, s)
}

func collect(t *testing.T, a *real.APIServer, kubeconfig string, o survey.Options) *inventory.Snapshot {
	t.Helper()
	c, err := cluster.Open(cluster.Config{Targets: []cluster.Target{{ID: "prod", Kubeconfig: kubeconfig}}})
	must(t, err)
	s, err := c.Collect(t.Context(), "prod", o)
	must(t, err)
	return s
}

func judge(t *testing.T, s *inventory.Snapshot) *doors.Analysis {
	t.Helper()
	rules, defaults, err := inventory.Shipped()
	must(t, err)
	return doors.Analyse(s, inventory.Options{Rules: rules, Defaults: defaults, Now: time.Now().UTC()})
}

// defaultsFile is the text of policies/recert/defaults-kubernetes.yaml for the RBAC of a snapshot.
func defaultsFile(s *inventory.Snapshot) string {
	var b strings.Builder
	version := strings.Split(strings.TrimPrefix(s.Server.Version, "v"), ".")
	fmt.Fprintf(&b, "# The roles and bindings that kube-apiserver %s makes in an empty cluster, as it shows them. Written by\n# `go test "+
		"./internal/cluster -run TestShippedDefaults -update`; another version of Kubernetes may have a few more or fewer.\n", s.Server.Version)
	fmt.Fprintf(&b, "kubernetes: %q\n", version[0]+"."+version[1])
	list := func(words []string) string {
		quoted := make([]string, len(words))
		for i, w := range words {
			quoted[i] = w
			if w == "" || strings.ContainsAny(w, "*:#") {
				quoted[i] = fmt.Sprintf("%q", w)
			}
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}
	roles := func(title string, roles []inventory.Role) {
		fmt.Fprintf(&b, "%s:\n", title)
		for _, r := range roles {
			b.WriteString("  - name: " + r.Name + "\n")
			if r.Namespace != "" {
				b.WriteString("    namespace: " + r.Namespace + "\n")
			}
			var labels, aggregates []string
			for k := range r.Labels {
				if strings.HasPrefix(k, "rbac.authorization.k8s.io/aggregate-to-") {
					labels = append(labels, k)
				}
			}
			for _, sel := range r.Aggregation {
				for k := range sel.MatchLabels {
					aggregates = append(aggregates, k)
				}
			}
			for _, f := range []struct {
				name  string
				words []string
			}{{"labels", labels}, {"aggregates", aggregates}} {
				if len(f.words) > 0 {
					slices.Sort(f.words)
					fmt.Fprintf(&b, "    %s: %s\n", f.name, list(f.words))
				}
			}
			if len(r.Rules) > 0 {
				b.WriteString("    rules:\n")
			}
			for _, p := range r.Rules {
				parts := []string{"verbs: " + list(p.Verbs)}
				for _, f := range []struct {
					name  string
					words []string
				}{{"groups", p.APIGroups}, {"resources", p.Resources}, {"names", p.ResourceNames}, {"urls", p.NonResourceURLs}} {
					if len(f.words) > 0 {
						parts = append(parts, f.name+": "+list(f.words))
					}
				}
				b.WriteString("      - {" + strings.Join(parts, ", ") + "}\n")
			}
		}
	}
	bindings := func(title string, bindings []inventory.Binding) {
		fmt.Fprintf(&b, "%s:\n", title)
		for _, o := range bindings {
			var subjects []string
			for _, s := range o.Subjects {
				name := s.Name
				if s.Namespace != "" {
					name = s.Namespace + "/" + name
				}
				subjects = append(subjects, string(s.Kind)+" "+name)
			}
			b.WriteString("  - name: " + o.Name + "\n")
			if o.Namespace != "" {
				b.WriteString("    namespace: " + o.Namespace + "\n")
			}
			fmt.Fprintf(&b, "    role: %s %s\n    subjects: %s\n", o.RoleKind, o.RoleName, list(subjects))
		}
	}
	roles("clusterRoles", s.ClusterRoles)
	roles("roles", s.Roles)
	bindings("clusterRoleBindings", s.ClusterBindings)
	bindings("roleBindings", s.Bindings)
	return b.String()
}

func TestShippedDefaultsAreThoseOfTheAPIServer(t *testing.T) {
	a := realtest.NewCluster(t, real.APIServerOptions{})
	s := collect(t, a, a.AdminKubeconfig(), survey.Options{})
	want := defaultsFile(s)
	const file = "../../policies/recert/defaults-kubernetes.yaml"
	if *update {
		must(t, os.WriteFile(file, []byte(want), 0o644))
		return
	}
	got, err := policies.Recert.ReadFile("recert/defaults-kubernetes.yaml")
	must(t, err)
	// The file is that of one version, which it names; TestPlainClusterRaisesNoAlarm shows how it judges a cluster of another.
	of, _, _ := strings.Cut(strings.TrimPrefix(s.Server.Version, "v1."), ".")
	ofOne := strings.Contains(string(got), "\nkubernetes: \"1."+of+"\"\n")
	if !ofOne && os.Getenv(real.LineVar) == "" {
		t.Errorf("%s is not of the newest Kubernetes, %s", file, s.Server.Version)
	}
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(string(got), "\n")); ofOne && diff != "" {
		t.Errorf("%s differs from what kube-apiserver makes (-server +file):\n%s", file, diff)
	}
	for _, src := range s.Sources {
		if src.Missing != "" && src.Name != inventory.SourceConfigz {
			t.Errorf("an administrator could not read %s: %s", src.Name, src.Missing)
		}
	}
}

// kubeadm makes of an empty cluster what kubeadm would.
func kubeadm(t *testing.T, a *real.APIServer) {
	t.Helper()
	realtest.MustKubectl(t, a.AdminKubeconfig(), "apply", "-f", "testdata/kubeadm.yaml")
}

// aggregator is how kubeadm starts the API server for extension API servers.
func aggregator(t *testing.T) real.APIServerOptions {
	t.Helper()
	front, err := real.NewCA("front-proxy-ca")
	must(t, err)
	return real.APIServerOptions{Files: map[string][]byte{"front-proxy-ca.crt": front.CertPEM}, Flags: []string{
		"--requestheader-client-ca-file=front-proxy-ca.crt", "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--enable-bootstrap-token-auth=true", "--enable-admission-plugins=NodeRestriction"}}
}

// A cluster that kubeadm just made has nothing that anybody must look at, and every door is told or says what is missing.
func TestPlainClusterRaisesNoAlarm(t *testing.T) {
	a := realtest.NewCluster(t, aggregator(t))
	kubeadm(t, a)
	_, found := scan(t, a, survey.Options{})
	for _, f := range found.Alarms() {
		t.Errorf("false alarm: %s %s: %s (%s)", f.Severity, f.Rule, f.Title, f.Text)
	}
	t.Logf("false alarms: %d; expected findings: %d; doors: %d", len(found.Alarms()), len(found.Findings), len(found.Doors))
	want := map[string]doors.DoorState{
		doors.DoorClientCA: doors.Present, doors.DoorFirstUser: doors.Present, doors.DoorCSR: doors.CannotTell,
		doors.DoorSATokens:  doors.CannotTell,
		doors.DoorBootstrap: doors.Absent, doors.DoorStaticTokens: doors.Absent, doors.DoorOIDC: doors.Absent,
		doors.DoorWebhook:       doors.Absent,
		doors.DoorRequestHeader: doors.Present, doors.DoorImpersonation: doors.Absent,
		doors.DoorAnonymous: doors.Present, doors.DoorKubelet: doors.CannotTell,
		doors.DoorControlPlane: doors.Absent, doors.DoorKubeProxy: doors.Absent, doors.DoorEtcd: doors.Present,
		doors.DoorAuthorization: doors.Absent,
		doors.DoorExtensions:    doors.Absent, doors.DoorPlatform: doors.Absent,
	}
	got := map[string]doors.DoorState{}
	for _, d := range found.Doors {
		got[d.ID] = d.State
		if len(d.Evidence) == 0 || d.Advice == "" || d.State == doors.CannotTell && d.Tellable == "" {
			t.Errorf("door %s: no evidence, no advice, or no word on what would make it tellable: %+v", d.ID, d)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("states of the doors (-want +got):\n%s", diff)
	}
}

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
