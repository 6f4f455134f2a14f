package real

import (
	"embed"
	"fmt"
	"os"
	"slices"
	"strings"
)

// A Component is one program that [Build] can make. Its value is the name of the executable.
type Component string

// The components. ControllerManager and KubeAdm are built only when they are asked for by name: few tests need a CSR signer or what an
// installer writes. OpenBaoServer is made
// in the oldest line only, so that the plain `go test ./...` does not build a second server of the same kind.
const (
	VaultServer       Component = "vault"
	OpenBaoServer     Component = "bao"
	EtcdServer        Component = "etcd"
	KubeAPIServer     Component = "kube-apiserver"
	KubeCtl           Component = "kubectl"
	ControllerManager Component = "kube-controller-manager"
	KubeAdm           Component = "kubeadm"
)

// A line is the versions of what is built together; openbao is "" where there is none. They must agree with the files in its directory
// of modules.
type line struct{ dir, vault, openbao, etcd, kubernetes string }

// The newest that can be built here, and the oldest that is supported: modules/README.md says why these.
var lines = map[string]line{
	"":       {dir: "modules/", vault: "1.21.1", etcd: "3.7.3", kubernetes: "1.37.2"},
	"oldest": {dir: "modules/oldest/", vault: "1.21.1", openbao: "2.4.0", etcd: "3.6.5", kubernetes: "1.35.4"},
}

// LineVar is the environment variable that chooses the oldest supported versions (oldest) in place of the newest (unset).
const LineVar = "BREAKGLASS_REAL"

// inUse is the line that the environment chooses.
func inUse() (line, error) {
	l, ok := lines[os.Getenv(LineVar)]
	if !ok {
		return line{}, fmt.Errorf("%s=%s is not known: set it to oldest, or unset it for the newest", LineVar, os.Getenv(LineVar))
	}
	return l, nil
}

// VaultVersion is the version of the Vault that [Build] makes, such as 1.21.1, or "" where the environment names no known line.
func VaultVersion() string { return lines[os.Getenv(LineVar)].vault }

// PKIServers are the servers that a CA of breakglass may be kept in, as far as the line in use has them: Vault always, OpenBao in the
// oldest. A package whose claims are about such a server tests them on each.
func PKIServers() []Component {
	if lines[os.Getenv(LineVar)].openbao != "" {
		return []Component{VaultServer, OpenBaoServer}
	}
	return []Component{VaultServer}
}

// KubernetesVersion is the version of the Kubernetes programs that [Build] makes, such as 1.37.2.
func KubernetesVersion() string { return lines[os.Getenv(LineVar)].kubernetes }

// EtcdVersion is the version of the etcd that [Build] makes, such as 3.7.3.
func EtcdVersion() string { return lines[os.Getenv(LineVar)].etcd }

// EnvVar is the environment variable that names a program to use instead of building one, such as
// BREAKGLASS_TEST_KUBE_APISERVER.
func (c Component) EnvVar() string {
	return "BREAKGLASS_TEST_" + strings.ToUpper(strings.ReplaceAll(string(c), "-", "_"))
}

//go:embed modules/*.mod modules/*.sum modules/oldest/*.mod modules/oldest/*.sum
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

func recipeFor(c Component) (recipe, error) {
	l, err := inUse()
	if err != nil {
		return recipe{}, err
	}
	return l.recipeFor(c)
}

func (l line) recipeFor(c Component) (recipe, error) {
	// Builds made with plain `go build` call themselves v0.0.0-master, and what reads a server's version (a check that it is new
	// enough to report credential ids, for one) would be misled.
	minor, _, _ := strings.Cut(strings.TrimPrefix(l.kubernetes, "1."), ".")
	kube := recipe{component: c, version: l.kubernetes, pkg: "k8s.io/kubernetes/cmd/" + string(c),
		ldflags: "-X k8s.io/component-base/version.gitVersion=v" + l.kubernetes +
			" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=" + minor,
		ask: []string{"--version"}, answer: "Kubernetes v" + l.kubernetes}
	switch c {
	case VaultServer:
		return recipe{component: c, version: l.vault, pkg: "github.com/hashicorp/vault", about: "10 minutes",
			ask: []string{"version"}, answer: "Vault v" + l.vault}.withModule(l.dir + "vault")
	case OpenBaoServer:
		if l.openbao == "" {
			return recipe{}, fmt.Errorf("OpenBao is tested with the oldest supported versions only: set %s=oldest", LineVar)
		}
		return recipe{component: c, version: l.openbao, pkg: "github.com/openbao/openbao", about: "5 minutes",
			ldflags: "-X github.com/openbao/openbao/version.fullVersion=" + l.openbao,
			ask:     []string{"version"}, answer: "OpenBao v" + l.openbao}.withModule(l.dir + "openbao")
	case EtcdServer:
		return recipe{component: c, version: l.etcd, pkg: "go.etcd.io/etcd/server/v3", about: "1 minute",
			ask: []string{"--version"}, answer: "etcd Version: " + l.etcd}.withModule(l.dir + "etcd")
	case KubeAPIServer:
		kube.about = "5 minutes"
	case ControllerManager:
		kube.about = "2 minutes"
	case KubeCtl:
		kube.about = "1 minute"
		kube.ask, kube.answer = []string{"version", "--client"}, "Client Version: v"+l.kubernetes
	case KubeAdm:
		// A file of its own, for another kube.sum would have everything made of Kubernetes built again.
		more, err := modules.ReadFile(l.dir + "kubeadm.sum")
		if err != nil {
			return recipe{}, err
		}
		kube.about = "2 minutes"
		kube.ask, kube.answer = []string{"version", "--output=short"}, "v"+l.kubernetes
		kube, err = kube.withModule(l.dir + "kube")
		kube.sum = append(kube.sum, more...)
		return kube, err
	default:
		return recipe{}, fmt.Errorf("there is no component %q", c)
	}
	return kube.withModule(l.dir + "kube")
}

func (r recipe) withModule(name string) (recipe, error) {
	var err error
	if r.mod, err = modules.ReadFile(name + ".mod"); err != nil {
		return recipe{}, err
	}
	r.sum, err = modules.ReadFile(name + ".sum")
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
