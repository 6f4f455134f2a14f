package machine

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/breakglassd/breakglass/internal/api"
)

// A kubeconfig that is left runs this program: what a server named is no flag of it.
func TestWhatIsLeftOfAKubeconfigTakesNoNameForAFlag(t *testing.T) {
	over := &Key{Request: "bg-7k3m-9qx", Profile: "--all", Cluster: api.Cluster{ID: "-x"}}
	dead, err := clientcmd.Load([]byte(tombstone(over, time.Now(), "ended")))
	if err != nil {
		t.Fatal(err)
	}
	if got := dead.AuthInfos["bg-7k3m-9qx"].Exec.Args; !slices.Equal(got, []string{"ended", "--", "bg-7k3m-9qx", "-x", "--all", "ended"}) {
		t.Errorf("%q", got)
	}
}

// A later release reads what this one wrote, and the other way round: what the files hold has these names, and the key is in them once.
func TestFilesHoldWhatTheirNamesSay(t *testing.T) {
	home := t.TempDir()
	env := map[string]string{"XDG_RUNTIME_DIR": filepath.Join(home, "run"), "XDG_STATE_HOME": filepath.Join(home, "state")}
	s := &Store{Env: func(name string) string { return env[name] }, Now: time.Now}
	k, err := s.NewKey("https://bg.example.com", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	k.Request, k.Claimed, k.Serial, k.Files, k.Over, k.Profile = "bg-7k3m-9qx", true, "01", []string{"x"}, time.Now(), "admin"
	k.Cluster.ID = "prod-eu-1"
	known := Server{Server: "s", Key: "k", Checkpoint: "c", Skew: 1, Clusters: map[string]Cluster{"c": {}}, Path: "p"}
	for want, held := range map[string]any{
		"claimed cluster files key over profile request serial server until": k,
		"checkpoint clusters ledgerKey server skewSeconds":                   known,
	} {
		b, err := json.Marshal(held)
		if err != nil {
			t.Fatal(err)
		}
		var names map[string]any
		if err := json.Unmarshal(b, &names); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(slices.Sorted(maps.Keys(names)), " "); got != want {
			t.Errorf("%T holds %s, want %s", held, got, want)
		}
	}
	files, err := filepath.Glob(filepath.Join(home, "run", "breakglass", "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	if info, err := os.Stat(files[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}
