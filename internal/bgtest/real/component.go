package real

import (
	"embed"
	"fmt"
	"slices"
	"strings"
)

// A Component is one program that [Build] can make. Its value is the name of the executable.
type Component string

// The components. ControllerManager is built only when it is asked for by name: few tests need a CSR signer.
const (
	VaultServer       Component = "vault"
	EtcdServer        Component = "etcd"
	KubeAPIServer     Component = "kube-apiserver"
	KubeCtl           Component = "kubectl"
	ControllerManager Component = "kube-controller-manager"
)

// The versions of what is built. They must agree with modules/*.mod.
const (
	VaultVersion      = "1.21.1"
	EtcdVersion       = "3.7.3"
	KubernetesVersion = "1.37.2"
)

// EnvVar is the environment variable that names a program to use instead of building one, such as
// BREAKGLASS_TEST_KUBE_APISERVER.
func (c Component) EnvVar() string {
	return "BREAKGLASS_TEST_" + strings.ToUpper(strings.ReplaceAll(string(c), "-", "_"))
}

//go:embed modules/*.mod modules/*.sum
var modules embed.FS

// A recipe is how to build one component and how to recognise it.
type recipe struct {
	component Component
	version   string
	mod, sum  []byte // become go.mod and go.sum of the directory it is built in
	pkg       string // the main package
	ldflags   string
	about     string // how long a first build takes on two cores, for the person who waits
	ask       []string
	answer    string // a line that the program prints when run with ask, up to its end, a space or a comma
}

// Builds made with plain `go build` call themselves v0.0.0-master, and what reads a server's version (a check that it is new
// enough to report credential ids, for one) would be misled.
const kubeLdflags = "-X k8s.io/component-base/version.gitVersion=v" + KubernetesVersion +
	" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37"

func recipeFor(c Component) (recipe, error) {
	kube := recipe{component: c, version: KubernetesVersion, pkg: "k8s.io/kubernetes/cmd/" + string(c), ldflags: kubeLdflags,
		ask: []string{"--version"}, answer: "Kubernetes v" + KubernetesVersion}
	switch c {
	case VaultServer:
		return recipe{component: c, version: VaultVersion, pkg: "github.com/hashicorp/vault", about: "10 minutes",
			ask: []string{"version"}, answer: "Vault v" + VaultVersion}.withModule("vault")
	case EtcdServer:
		return recipe{component: c, version: EtcdVersion, pkg: "go.etcd.io/etcd/server/v3", about: "1 minute",
			ask: []string{"--version"}, answer: "etcd Version: " + EtcdVersion}.withModule("etcd")
	case KubeAPIServer:
		kube.about = "5 minutes"
	case ControllerManager:
		kube.about = "2 minutes"
	case KubeCtl:
		kube.about = "1 minute"
		kube.ask, kube.answer = []string{"version", "--client"}, "Client Version: v"+KubernetesVersion
	default:
		return recipe{}, fmt.Errorf("there is no component %q", c)
	}
	return kube.withModule("kube")
}

func (r recipe) withModule(name string) (recipe, error) {
	var err error
	if r.mod, err = modules.ReadFile("modules/" + name + ".mod"); err != nil {
		return recipe{}, err
	}
	r.sum, err = modules.ReadFile("modules/" + name + ".sum")
	return r, err
}

// buildArgs are the arguments of the go command that writes the program to the file out.
func (r recipe) buildArgs(out string) []string {
	return []string{"build", "-trimpath", "-ldflags", strings.TrimSpace("-s -w " + r.ldflags), "-o", out, r.pkg}
}

// recognises reports whether output, printed by a program asked for its version, is that of this component and version.
func (r recipe) recognises(output string) bool {
	return slices.ContainsFunc(strings.Split(output, "\n"), func(line string) bool {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), r.answer)
		return ok && (rest == "" || strings.HasPrefix(rest, " ") || strings.HasPrefix(rest, ", ")) // not 1.21.11, 1.21.1-rc1, 1.21.1+ent
	})
}
