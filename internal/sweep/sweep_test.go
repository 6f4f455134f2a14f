package sweep_test

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
	"github.com/breakglassd/breakglass/internal/sweep"
)

var (
	from   = time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)
	window = sweep.Window{From: from, Until: from.Add(time.Hour)}
)

func kind(t *testing.T, id string) sweep.Kind {
	t.Helper()
	for _, k := range sweep.Kinds() {
		if k.ID() == id {
			return k
		}
	}
	t.Fatalf("there is no kind %s", id)
	return sweep.Kind{}
}

// add puts an object, made at a time, into a snapshot.
func add(t *testing.T, s *sweep.Snapshot, id, name, uid string, made time.Time, more string) {
	t.Helper()
	k := kind(t, id)
	raw := fmt.Sprintf(`{"metadata":{"name":%q,"namespace":"shop","uid":%q,"creationTimestamp":%q},%s}`, name, uid, made.Format(time.RFC3339), more)
	o, err := sweep.NewObject(k, []byte(raw), "")
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

func act(verb, group, resource, name string) sweep.Act {
	return sweep.Act{At: from, Verb: verb, Group: group, Resource: resource, Namespace: "shop", Name: name, Code: 200}
}

func TestSnapshotSurvivesEncoding(t *testing.T) {
	var s sweep.Snapshot
	add(t, &s, "pods", "a", "u1", from, `"spec":{"hostPID":true}`)
	s.Looked(kind(t, "pods"))
	s.Gaps = []sweep.Gap{{What: "nodes", Why: "w", Next: "n"}, {What: "roles", Why: "w", Next: "n"}}
	blob, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := sweep.Decode(blob)
	if diff := cmp.Diff(&s, got, cmpopts.IgnoreUnexported(sweep.Snapshot{})); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if missing := got.Missing(); len(missing) != 1 || !strings.HasPrefix(missing[0], "nodes, roles: w; n") {
		t.Errorf("got %q, want one sentence about both", missing)
	}
	for _, bad := range [][]byte{nil, []byte("breakglass-snapshot/2\n"), blob[:len(blob)/2]} {
		if _, err := sweep.Decode(bad); err == nil {
			t.Errorf("%d bytes were taken for a snapshot", len(bad))
		}
	}
}

func TestNothingOfASecretIsKept(t *testing.T) {
	o, err := sweep.NewObject(kind(t, "secrets"), []byte(`{"metadata":{"name":"s","annotations":{"kubectl.kubernetes.io/last-applied-configuration":"hunter2"}},"data":{"a":"hunter2"}}`), "Opaque")
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
		var before, after sweep.Snapshot
		for _, s := range []*sweep.Snapshot{&before, &after} {
			add(t, s, "daemonsets.apps", "d", "u1", from.Add(-time.Hour), `"spec":{"template":{`+row.template+`}}`)
			for _, k := range sweep.Kinds() {
				s.Looked(k)
			}
		}
		k := kind(t, "pods")
		o, err := sweep.NewObject(k, []byte(`{"metadata":{"name":"p","namespace":"shop","uid":"u2","creationTimestamp":"2026-11-24T03:10:00Z","ownerReferences":[{"uid":"u1","controller":true}]},`+row.pod+`}`), "")
		if err != nil {
			t.Fatal(err)
		}
		after.Add(k, o)
		got := rules(sweep.Judge(sweep.Evidence{Changes: sweep.Compare(&before, after, window), Before: &before, After: after}))
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
	o, err := sweep.NewObject(kind(t, "pods"), []byte(`{"metadata":{"name":"p"},"spec":{"volumes":[`+strings.Join(volumes, ",")+`],"containers":[{"securityContext":{"privileged":true}}]}}`), "")
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
	ref := sweep.Ref{Resource: "cronjobs.batch", Namespace: "shop", Name: "c"}
	for _, row := range []struct {
		name   string
		in     sweep.Evidence
		exists string // empty: nothing is reported
	}{
		{"made and deleted again", sweep.Evidence{Acts: []sweep.Act{deleted, created}}, ""},
		{"nobody can tell", sweep.Evidence{Acts: []sweep.Act{created}}, sweep.ExistsUnknown},
		{"it is there", sweep.Evidence{Acts: []sweep.Act{created}, Looked: map[sweep.Ref]sweep.Look{ref: {Known: true, Exists: true}}}, sweep.ExistsYes},
		{"it is not there", sweep.Evidence{Acts: []sweep.Act{created}, Looked: map[sweep.Ref]sweep.Look{ref: {Known: true}}}, ""},
	} {
		got := sweep.Judge(row.in)
		if row.exists == "" && len(got) > 0 || row.exists != "" && (len(got) != 1 || got[0].Exists != row.exists) {
			t.Errorf("%s: got %+v, want exists %q", row.name, got, row.exists)
		}
	}
	refused, dry := created, created
	refused.Code, dry.DryRun = 403, true
	if got := sweep.Judge(sweep.Evidence{Acts: []sweep.Act{refused, dry}}); len(got) != 0 {
		t.Errorf("a refused request and a dry run: got %+v", got)
	}
	if got := sweep.Unsure([]sweep.Act{created, created, deleted}, sweep.Snapshot{}, 10); !slices.Equal(got, []sweep.Ref{ref}) {
		t.Errorf("got %+v to look for, want it once", got)
	}
}

func TestNamesAreQuotedInCommandsAndShownSafely(t *testing.T) {
	a := act("create", "rbac.authorization.k8s.io", "roles", "x'; rm -rf ~\n\u202e")
	got := sweep.Judge(sweep.Evidence{Acts: []sweep.Act{a}})
	if len(got) != 1 {
		t.Fatalf("got %+v, want one", got)
	}
	if want := `kubectl delete -n shop roles.rbac.authorization.k8s.io 'x'\''; rm -rf ~` + "\uFFFD\uFFFD'"; got[0].Undo != want {
		t.Errorf("got undo %q, want %q", got[0].Undo, want)
	}
	if strings.ContainsAny(got[0].Object+got[0].What, "\n\u202e") {
		t.Errorf("got %+q, want nothing that moves the cursor or turns the text", got[0])
	}
	b := act("create", "rbac.authorization.k8s.io", "roles", "--all")
	if got := sweep.Judge(sweep.Evidence{Acts: []sweep.Act{b}}); len(got) != 1 || !strings.HasSuffix(got[0].Undo, " -- --all") {
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
		o, err := sweep.NewObject(k, []byte(`{"metadata":{"name":"`+row.name+`","creationTimestamp":"2026-11-24T03:10:00Z",`+labels+`},"subjects":[`+row.subjects+`],"roleRef":{"kind":"ClusterRole","name":"view"}}`), "")
		if err != nil {
			t.Fatal(err)
		}
		var after sweep.Snapshot
		after.Add(k, o)
		if got := sweep.Judge(sweep.Evidence{Changes: sweep.Compare(nil, after, window), After: after}); (len(got) == 1) != row.found {
			t.Errorf("%s for %s: got %+v, want found=%v", row.name, row.subjects, got, row.found)
		}
	}
}
