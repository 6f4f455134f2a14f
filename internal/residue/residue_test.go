package residue_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/residue"
)

var (
	from   = time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)
	window = residue.Window{From: from, Until: from.Add(time.Hour)}
)

func kind(t *testing.T, id string) residue.Kind {
	t.Helper()
	for _, k := range residue.Kinds() {
		if k.ID() == id {
			return k
		}
	}
	t.Fatalf("there is no kind %s", id)
	return residue.Kind{}
}

// add puts an object, made at a time, into a snapshot.
func add(t *testing.T, s *residue.Snapshot, id, name, uid string, made time.Time, more string) {
	t.Helper()
	k := kind(t, id)
	raw := fmt.Sprintf(`{"metadata":{"name":%q,"namespace":"shop","uid":%q,"creationTimestamp":%q},%s}`, name, uid, made.Format(time.RFC3339),
		more)
	o, err := residue.NewObject(k, []byte(raw), "")
	if err != nil {
		t.Fatal(err)
	}
	s.Add(k, o)
}

func rules(found []breakglass.Residue) []string {
	var out []string
	for _, r := range found {
		out = append(out, r.Rule+" "+r.Object)
	}
	return out
}

func act(verb, group, resource, name string) residue.Act {
	return residue.Act{At: from, Verb: verb, Group: group, Resource: resource, Namespace: "shop", Name: name, Code: 200}
}

func TestSnapshotSurvivesEncoding(t *testing.T) {
	var s residue.Snapshot
	add(t, &s, "pods", "a", "u1", from, `"spec":{"hostPID":true}`)
	s.Looked(kind(t, "pods"))
	s.Gaps = []residue.Gap{{What: "nodes", Why: "w", Next: "n"}, {What: "roles", Why: "w", Next: "n"}}
	blob, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := residue.Decode(blob)
	if diff := cmp.Diff(&s, got, cmpopts.IgnoreUnexported(residue.Snapshot{})); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if missing := got.Missing(); len(missing) != 1 || !strings.HasPrefix(missing[0], "nodes, roles: w; n") {
		t.Errorf("got %q, want one sentence about both", missing)
	}
	for _, bad := range [][]byte{nil, []byte("breakglass-snapshot/2\n"), blob[:len(blob)/2]} {
		if _, err := residue.Decode(bad); err == nil {
			t.Errorf("%d bytes were taken for a snapshot", len(bad))
		}
	}
}

func TestNothingOfASecretIsKept(t *testing.T) {
	o, err := residue.NewObject(kind(t, "secrets"),
		[]byte(`{"metadata":{"name":"s","annotations":{"kubectl.kubernetes.io/last-applied-configuration":"hunter2"}},"data":{"a":"hunter2"}}`),
		"Opaque")
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := json.Marshal(o); strings.Contains(string(text), "hunter2") {
		t.Errorf("kept: %s", text)
	}
}

func TestPodThatReachesNoFurtherThanItsOwnerIsItsOwners(t *testing.T) {
	const plain, root = `"spec":{"containers":[{"name":"c"}]}`, `"spec":{"containers":[{"name":"c","securityContext":{"privileged":true}}]}`
	for _, row := range []struct {
		name, template, pod string
		want                []string
	}{
		{"both plain", plain, plain, nil},
		{"both privileged", root, root, nil},
		{"a privileged pod that says it is a plain one's", plain, root, []string{"pod-privileged Pod shop/p"}},
	} {
		var before, after residue.Snapshot
		for _, s := range []*residue.Snapshot{&before, &after} {
			add(t, s, "daemonsets.apps", "d", "u1", from.Add(-time.Hour), `"spec":{"template":{`+row.template+`}}`)
			for _, k := range residue.Kinds() {
				s.Looked(k)
			}
		}
		k := kind(t, "pods")
		o, err := residue.NewObject(k,
			[]byte(`{"metadata":{"name":"p","namespace":"shop","uid":"u2","creationTimestamp":"2026-11-24T03:10:00Z","ownerReferences":[{"uid":"u1","controller":true}]},`+row.pod+`}`), "")
		if err != nil {
			t.Fatal(err)
		}
		after.Add(k, o)
		got := rules(residue.Judge(residue.Evidence{Changes: residue.Compare(&before, after, window), Before: &before, After: after}))
		if !slices.Equal(got, row.want) {
			t.Errorf("%s: got %q, want %q", row.name, got, row.want)
		}
	}
}

func TestManyTraitsOfOneSortDoNotHideAnother(t *testing.T) {
	var volumes []string
	for i := range 300 {
		volumes = append(volumes, fmt.Sprintf(`{"hostPath":{"path":"/%03d"}}`, i))
	}
	o, err := residue.NewObject(kind(t, "pods"), []byte(`{"metadata":{"name":"p"},"spec":{"volumes":[`+strings.Join(volumes, ",")+
		`],"containers":[{"securityContext":{"privileged":true}}]}}`), "")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(o.Traits, "privileged") || len(o.Traits) > 60 {
		t.Errorf("got %d traits, want few, and privileged among them", len(o.Traits))
	}
}

func TestWhatIsGoneIsNotLeftBehind(t *testing.T) {
	created, deleted := act("create", "batch", "cronjobs", "c"), act("delete", "batch", "cronjobs", "c")
	deleted.At = from.Add(time.Minute)
	ref := residue.Ref{Resource: "cronjobs.batch", Namespace: "shop", Name: "c"}
	for _, row := range []struct {
		name   string
		in     residue.Evidence
		exists string // empty: nothing is reported
	}{
		{"made and deleted again", residue.Evidence{Acts: []residue.Act{deleted, created}}, ""},
		{"nobody can tell", residue.Evidence{Acts: []residue.Act{created}}, residue.ExistsUnknown},
		{"it is there", residue.Evidence{Acts: []residue.Act{created}, Looked: map[residue.Ref]residue.Look{ref: {Known: true, Exists: true}}},
			residue.ExistsYes},
		{"it is not there", residue.Evidence{Acts: []residue.Act{created}, Looked: map[residue.Ref]residue.Look{ref: {Known: true}}}, ""},
	} {
		got := residue.Judge(row.in)
		if row.exists == "" && len(got) > 0 || row.exists != "" && (len(got) != 1 || got[0].Exists != row.exists) {
			t.Errorf("%s: got %+v, want exists %q", row.name, got, row.exists)
		}
	}
	refused, dry := created, created
	refused.Code, dry.DryRun = 403, true
	if got := residue.Judge(residue.Evidence{Acts: []residue.Act{refused, dry}}); len(got) != 0 {
		t.Errorf("a refused request and a dry run: got %+v", got)
	}
	if got := residue.Unsure([]residue.Act{created, created, deleted}, residue.Snapshot{}, 10); !slices.Equal(got, []residue.Ref{ref}) {
		t.Errorf("got %+v to look for, want it once", got)
	}
}

func TestNamesAreQuotedInCommandsAndShownSafely(t *testing.T) {
	a := act("create", "rbac.authorization.k8s.io", "roles", "x'; rm -rf ~\n\u202e")
	got := residue.Judge(residue.Evidence{Acts: []residue.Act{a}})
	if len(got) != 1 {
		t.Fatalf("got %+v, want one", got)
	}
	if want := `kubectl delete --namespace=shop roles.rbac.authorization.k8s.io $'x\'; rm -rf ~\012\342\200\256'`; got[0].Undo != want {
		t.Errorf("got undo %q, want %q", got[0].Undo, want)
	}
	if strings.ContainsAny(got[0].Object+got[0].What, "\n\u202e") {
		t.Errorf("got %+q, want nothing that moves the cursor or turns the text", got[0])
	}
	b := act("create", "rbac.authorization.k8s.io", "roles", "--all")
	if got := residue.Judge(residue.Evidence{Acts: []residue.Act{b}}); len(got) != 1 || !strings.HasSuffix(got[0].Undo, " -- --all") {
		t.Errorf("got %+v, want a name and not an option", got)
	}
}

func TestBindingThatOnlyPretendsToBeAGrantsIsFound(t *testing.T) {
	const labels = `"labels":{"app.kubernetes.io/managed-by":"breakglassd","breakglass.dev/request":"bg-7k2m-x9c"}`
	for _, row := range []struct {
		name, subjects string
		found          bool
	}{
		{"breakglass-bg-7k2m-x9c", `{"kind":"User","name":"breakglass:alice:bg-7k2m-x9c"}`, false},
		{"breakglass-bg-7k2m-x9c", `{"kind":"User","name":"eve"}`, true},
		{"breakglass-bg-7k2m-x9c", `{"kind":"User","name":"breakglass:alice:bg-7k2m-x9c"},{"kind":"User","name":"eve"}`, true},
		{"other", `{"kind":"User","name":"breakglass:alice:bg-7k2m-x9c"}`, true},
	} {
		k := kind(t, "clusterrolebindings.rbac.authorization.k8s.io")
		o, err := residue.NewObject(k, []byte(`{"metadata":{"name":"`+row.name+`","creationTimestamp":"2026-11-24T03:10:00Z",`+labels+
			`},"subjects":[`+row.subjects+`],"roleRef":{"kind":"ClusterRole","name":"view"}}`), "")
		if err != nil {
			t.Fatal(err)
		}
		var after residue.Snapshot
		after.Add(k, o)
		if got := residue.Judge(residue.Evidence{Changes: residue.Compare(nil, after, window), After: after}); (len(got) == 1) != row.found {
			t.Errorf("%s for %s: got %+v, want found=%v", row.name, row.subjects, got, row.found)
		}
	}
}

// Who put a finalizer on the binding of their own grant is told apart from who made another, and how it goes is a command that works.
func TestFinalizerOnAGrantsBindingIsNamed(t *testing.T) {
	k := kind(t, "clusterrolebindings.rbac.authorization.k8s.io")
	o, err := residue.NewObject(k,
		[]byte(`{"metadata":{"name":"breakglass-bg-7k2m-x9c","creationTimestamp":"2026-11-24T03:10:00Z","finalizers":["x.example/y"],
		"labels":{"app.kubernetes.io/managed-by":"breakglassd","breakglass.dev/request":"bg-7k2m-x9c"}},
		"subjects":[{"kind":"User","name":"breakglass:alice:bg-7k2m-x9c"}],"roleRef":{"kind":"ClusterRole","name":"view"}}`), "")
	if err != nil {
		t.Fatal(err)
	}
	var after residue.Snapshot
	after.Add(k, o)
	patch := act("patch", "rbac.authorization.k8s.io", "clusterrolebindings", "breakglass-bg-7k2m-x9c")
	patch.Namespace, patch.Request = "", json.RawMessage(`{"metadata":{"finalizers":["x.example/y"]}}`)
	for _, acts := range [][]residue.Act{nil, {patch}} {
		got := residue.Judge(residue.Evidence{Acts: acts, Changes: residue.Compare(nil, after, window), After: after})
		if len(got) != 1 || got[0].Rule != "grant-binding-changed" || !strings.Contains(got[0].What, "a finalizer") ||
			!strings.Contains(got[0].Undo, `'--patch={"metadata":{"finalizers":null}}'`) {
			t.Errorf("got %+v, want the finalizer named, and how to take it off", got)
		}
	}
}

func TestDirectivesOfAPatchHideNothing(t *testing.T) {
	for _, row := range []struct {
		name, resource, patch string
		want                  []string
	}{
		{"every label is replaced", "namespaces", `{"metadata":{"labels":{"$patch":"replace"}}}`,
			[]string{"namespace-security-relaxed Namespace tight"}},
		{"the metadata is replaced", "namespaces", `{"metadata":{"$patch":"replace","name":"tight"}}`,
			[]string{"namespace-security-relaxed Namespace tight"}},
		{"all is replaced", "namespaces", `{"$patch":"replace","metadata":{"name":"tight"}}`,
			[]string{"namespace-security-relaxed Namespace tight"}},
		{"but few labels are kept", "namespaces", `{"metadata":{"labels":{"$retainKeys":["a"]}}}`,
			[]string{"namespace-security-relaxed Namespace tight"}},
		{"a finalizer is taken out", "clusterroles", `{"metadata":{"$deleteFromPrimitiveList/finalizers":["a"]}}`,
			[]string{"clusterrole-changed ClusterRole shop/tight"}},
		{"a label is moved away", "namespaces",
			`[{"op":"move","from":"/metadata/labels/pod-security.kubernetes.io~1enforce","path":"/status/x"}]`,
			[]string{"namespace-security-relaxed Namespace tight"}},
		{"another key looks like the path", "namespaces",
			`[{"op":"remove","path":"/metadata/labels/pod-security.kubernetes.io~1enforce","Path":"/status"}]`,
			[]string{"namespace-security-relaxed Namespace tight"}},
		{"an apply that leaves the labels out", "namespaces", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"tight"}}`,
			[]string{"namespace-security-relaxed Namespace tight"}},
		{"the order of containers", "deployments", `{"spec":{"template":{"spec":{"$setElementOrder/containers":[{"name":"c"}]}}}}`, nil},
		{"a restart", "deployments", `{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":"now"}}}}}`, nil},
		{"a test alone", "namespaces", `[{"op":"test","path":"/metadata/labels","value":{}}]`, nil},
	} {
		a := act("patch", "", row.resource, "tight")
		a.Group = map[string]string{"deployments": "apps", "clusterroles": "rbac.authorization.k8s.io"}[row.resource]
		a.Request = json.RawMessage(row.patch)
		if got := rules(residue.Judge(residue.Evidence{Acts: []residue.Act{a}})); !slices.Equal(got, row.want) {
			t.Errorf("%s: got %q, want %q", row.name, got, row.want)
		}
	}
}

// Of a patch, audit events tell what it says and not what came of it, and the audit policy that ships records no answers.
func TestPatchesAreJudgedByWhatTheySay(t *testing.T) {
	for _, row := range []struct{ group, resource, patch, want string }{
		{"rbac.authorization.k8s.io", "clusterroles", `{"metadata":{"labels":{"rbac.authorization.k8s.io/aggregate-to-view":"true"}}}`,
			"clusterrole-aggregated"},
		{"rbac.authorization.k8s.io", "clusterroles",
			`[{"op":"add","path":"/metadata/labels","value":{"rbac.authorization.k8s.io/aggregate-to-view":"true"}}]`, "clusterrole-aggregated"},
		{"", "serviceaccounts", `{"metadata":{"annotations":{"eks.amazonaws.com/role-arn":"arn:aws:iam::1:role/admin"}}}`,
			"serviceaccount-cloud-role"},
	} {
		a := act("patch", row.group, row.resource, "x")
		a.Request = json.RawMessage(row.patch)
		got := residue.Judge(residue.Evidence{Acts: []residue.Act{a}})
		if !slices.ContainsFunc(got, func(r breakglass.Residue) bool { return r.Rule == row.want }) {
			t.Errorf("%s: got %q, want %s", row.patch, rules(got), row.want)
		}
	}
}

func TestTimesThatTheSessionCanWriteExcuseNothing(t *testing.T) {
	const kind1, old, evil = "clusterroles.rbac.authorization.k8s.io", `"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]`,
		`"rules":[{"apiGroups":["*"],"resources":["*"],"verbs":["*"]}]`
	taken := window.Until.Add(10 * time.Minute)
	year := 365 * 24 * time.Hour
	for _, row := range []struct {
		name, rules string
		changed     []time.Time
		server      string // afterwards
		found       bool
	}{
		{"in the session", evil, []time.Time{from.Add(time.Minute)}, "v1.36.3", true},
		{"put back a year", evil, []time.Time{from.Add(-year)}, "v1.36.3", true},
		{"put into the future", evil, []time.Time{from.Add(year)}, "v1.36.3", true},
		{"taken out", evil, nil, "v1.36.3", true},
		{"in the session, and by somebody else later", evil, []time.Time{from.Add(time.Minute), window.Until.Add(5 * time.Minute)}, "v1.36.3",
			true},
		{"by somebody else later", evil, []time.Time{from.Add(-year), window.Until.Add(5 * time.Minute)}, "v1.36.3", false},
		{"not at all", old, []time.Time{from.Add(-year)}, "v1.36.3", false},
		{"by the defaults of another version", evil, []time.Time{from.Add(-year)}, "v1.37.0", false},
		{"while the version changed", evil, []time.Time{from.Add(time.Minute)}, "v1.37.0", true},
	} {
		before, after := residue.Snapshot{Server: "v1.36.3"}, residue.Snapshot{Server: row.server, Taken: taken}
		add(t, &before, kind1, "r", "u1", from.Add(-2*year), old)
		k := kind(t, kind1)
		var fields []string
		for _, at := range row.changed {
			fields = append(fields, fmt.Sprintf(`{"time":%q}`, at.Format(time.RFC3339)))
		}
		o, err := residue.NewObject(k, []byte(`{"metadata":{"name":"r","namespace":"shop","uid":"u1","managedFields":[`+strings.Join(fields, ",")+
			`]},`+row.rules+`}`), "")
		if err != nil {
			t.Fatal(err)
		}
		after.Add(k, o)
		if got := residue.Compare(&before, after, window); (len(got) == 1) != row.found {
			t.Errorf("changed %s: got %+v, want found=%v", row.name, got, row.found)
		}
	}
}

func TestPodThatWasWaitingForANodeWasNotChanged(t *testing.T) {
	var before, after residue.Snapshot
	after.Taken = window.Until
	add(t, &before, "pods", "p", "u1", from.Add(-time.Hour), `"spec":{"containers":[{"name":"c"}]}`)
	k := kind(t, "pods")
	o, err := residue.NewObject(k,
		[]byte(`{"metadata":{"name":"p","namespace":"shop","uid":"u1","managedFields":[{"time":"2026-11-24T01:00:00Z"},{"time":"2026-11-24T03:10:00Z","subresource":"status"}]},"spec":{"nodeName":"master","containers":[{"name":"c"}]}}`), "")
	if err != nil {
		t.Fatal(err)
	}
	after.Add(k, o)
	if got := residue.Compare(&before, after, window); len(got) != 0 {
		t.Errorf("got %+v, want nothing", got)
	}
}

func TestWhatTheComparisonLacksIsSaid(t *testing.T) {
	late := residue.Gap{What: "pods", Why: "there was no time left for them", Next: "sweep again"}
	for _, row := range []struct {
		name   string
		before *residue.Snapshot
		after  residue.Snapshot
		want   []string
	}{
		{"nothing", &residue.Snapshot{Server: "v1"}, residue.Snapshot{Server: "v1"}, nil},
		{"no snapshot before", nil, residue.Snapshot{Server: "v1"}, []string{"what existed before the session is not known"}},
		{"a poor one before", &residue.Snapshot{Gaps: []residue.Gap{late}}, residue.Snapshot{},
			[]string{"before the session: pods: there was no time left for them"}},
		{"poor both times", &residue.Snapshot{Gaps: []residue.Gap{late}}, residue.Snapshot{Gaps: []residue.Gap{late}},
			[]string{"before the session: pods: ", "pods: there was no time left for them; sweep again"}},
		{"another version", &residue.Snapshot{Server: "v1"}, residue.Snapshot{Server: "v2"},
			[]string{"the API server was of version v1 before the session and of v2 after it"}},
		{"a snapshot of an earlier release", &residue.Snapshot{}, residue.Snapshot{Server: "v2"},
			[]string{"the API server was of version unknown before"}},
	} {
		got := residue.Missing(row.before, row.after)
		if !slices.EqualFunc(got, row.want, strings.HasPrefix) {
			t.Errorf("%s: got %q, want %q", row.name, got, row.want)
		}
	}
}

func TestManyOfOneSortDoNotPushOutAnother(t *testing.T) {
	var acts []residue.Act
	for i := range 150 {
		acts = append(acts, act("create", "apiregistration.k8s.io", "apiservices", fmt.Sprintf("v1.a%03d", i)))
	}
	acts = append(acts, act("create", "rbac.authorization.k8s.io", "clusterrolebindings", "evil"),
		act("create", "networking.k8s.io", "ingresses", "open"))
	found := residue.Judge(residue.Evidence{Acts: acts})
	got := residue.Choose(found, 100)
	if len(found) != 152 || len(got) != 100 {
		t.Fatalf("got %d chosen of %d, want 100 of 152", len(got), len(found))
	}
	if !slices.ContainsFunc(got, func(r breakglass.Residue) bool { return r.Rule == "clusterrolebinding-created" }) {
		t.Error("a hundred APIServices hide a ClusterRoleBinding")
	}
	if !slices.IsSortedFunc(got, func(a, b breakglass.Residue) int { return b.Severity.Rank() - a.Severity.Rank() }) {
		t.Error("the gravest are not first")
	}
	if all := residue.Choose(found, len(found)); len(all) != len(found) {
		t.Errorf("got %d of %d where there is room for all", len(all), len(found))
	}
}
