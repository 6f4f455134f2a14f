package machine

import (
	"slices"
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
