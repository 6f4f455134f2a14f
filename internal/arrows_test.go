package internal_test

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/breakglassd/breakglass/"

// arrows are the packages of ours that each package stands on. A new line or word here is a decision: see README.md beside this file.
var arrows = map[string]string{
	"cmd/breakglass": "internal/api internal/breakglass internal/campaign internal/cli/exit internal/cli/exported " +
		"internal/cli/kubeconfig internal/cli/machine internal/cli/proved internal/cli/sshkeys " +
		"internal/cli/terminal internal/cli/view internal/finding internal/ledger internal/policy internal/recert " +
		"internal/rotation internal/strictyaml internal/text",
	"cmd/breakglassd": "cmd/breakglassd/config cmd/breakglassd/listen cmd/breakglassd/process internal/aftercare " +
		"internal/announce internal/api internal/breakglass internal/cacheck internal/campaign internal/checkup " +
		"internal/cluster internal/cluster/survey internal/controlplane internal/devmode internal/disk " +
		"internal/doors internal/finding internal/inventory internal/ledger internal/ledger/sqlstore " +
		"internal/policy internal/recert internal/record internal/rotation internal/rotation/metric " +
		"internal/schedule internal/session internal/session/store internal/slackbot internal/strictyaml " +
		"internal/text internal/vaultca internal/verify internal/webhook",
	"cmd/breakglassd/config": "internal/api internal/breakglass internal/cluster internal/policy internal/recert internal/record " +
		"internal/schedule internal/strictyaml internal/text",
	"cmd/breakglassd/listen":  "",
	"cmd/breakglassd/process": "",
	"deploy":                  "",
	"internal":                "",
	"internal/aftercare": "internal/breakglass internal/finding internal/policy internal/record internal/residue internal/session " +
		"internal/session/store internal/text",
	"internal/announce": "internal/ledger internal/record internal/retry",
	"internal/api": "internal/breakglass internal/campaign internal/finding internal/ledger internal/policy internal/recert " +
		"internal/record internal/retry internal/rotation internal/text",
	"internal/bgtest": "internal/announce internal/breakglass internal/campaign internal/finding internal/ledger " +
		"internal/ledger/sqlstore internal/policy internal/record internal/sim/ca internal/verify",
	"internal/bgtest/e2e":       "",
	"internal/bgtest/realtest":  "internal/real",
	"internal/bgtest/slacksdk":  "",
	"internal/bgtest/smalldisk": "",
	"internal/breakglass":       "internal/finding internal/ledger internal/policy internal/record internal/retry internal/text",
	"internal/cacheck":          "internal/breakglass internal/finding internal/record internal/rotation internal/text",
	"internal/campaign":         "internal/finding internal/ledger internal/policy internal/record",
	"internal/checkup":          "",
	"internal/cli/exit":         "internal/api internal/breakglass internal/record",
	"internal/cli/exported": "internal/api internal/breakglass internal/campaign internal/cli/exit internal/cli/terminal " +
		"internal/cli/view internal/ledger internal/policy internal/text internal/verify",
	"internal/cli/kubeconfig": "internal/api",
	"internal/cli/machine": "internal/api internal/breakglass internal/cli/exit internal/cli/kubeconfig internal/cli/terminal " +
		"internal/text",
	"internal/cli/proved": "internal/api internal/breakglass internal/cli/exit internal/cli/machine internal/cli/terminal " +
		"internal/ledger internal/policy internal/record internal/text internal/verify",
	"internal/cli/sshkeys":  "internal/api internal/cli/exit internal/cli/terminal",
	"internal/cli/terminal": "internal/text",
	"internal/cli/view":     "internal/api internal/breakglass internal/cli/terminal internal/policy internal/record internal/text",
	"internal/cluster": "internal/breakglass internal/checkup internal/cluster/survey internal/inventory internal/policy " +
		"internal/residue internal/rotation internal/text",
	"internal/cluster/survey": "internal/breakglass internal/controlplane internal/inventory",
	"internal/controlplane":   "internal/text",
	"internal/devmode": "deploy internal/api internal/breakglass internal/ledger internal/ledger/sqlstore internal/real " +
		"internal/sim/ca internal/sim/kube internal/sim/slack internal/verify policies",
	"internal/disk":             "",
	"internal/doors":            "internal/controlplane internal/inventory internal/text",
	"internal/finding":          "internal/ledger internal/policy internal/record",
	"internal/inventory":        "internal/controlplane internal/strictyaml internal/text policies",
	"internal/ledger":           "",
	"internal/ledger/sqlstore":  "internal/disk internal/ledger internal/sqlite",
	"internal/ledger/storetest": "internal/ledger",
	"internal/policy":           "internal/ledger internal/record internal/strictyaml internal/text",
	"internal/real":             "",
	"internal/recert": "internal/breakglass internal/campaign internal/checkup internal/doors internal/finding internal/inventory " +
		"internal/ledger internal/policy internal/record internal/text",
	"internal/record":          "internal/ledger internal/text",
	"internal/residue":         "internal/breakglass internal/finding internal/inventory internal/text",
	"internal/retry":           "",
	"internal/rotation":        "internal/breakglass internal/record internal/text",
	"internal/rotation/metric": "internal/rotation",
	"internal/schedule":        "internal/finding",
	"internal/session":         "internal/breakglass internal/finding internal/policy internal/residue internal/text",
	"internal/session/store":   "internal/disk internal/session internal/sqlite internal/text",
	"internal/sim/ca":          "internal/breakglass",
	"internal/sim/kube":        "internal/residue",
	"internal/sim/slack":       "",
	"internal/slackbot": "internal/announce internal/breakglass internal/campaign internal/finding internal/ledger internal/policy " +
		"internal/recert internal/record internal/retry internal/text",
	"internal/sqlite":        "",
	"internal/strictyaml":    "",
	"internal/text":          "",
	"internal/text/texttest": "",
	"internal/vaultca": "internal/breakglass internal/checkup internal/record internal/retry internal/rotation internal/text " +
		"policies",
	"internal/verify":  "internal/breakglass internal/campaign internal/finding internal/ledger internal/policy internal/record",
	"internal/webhook": "internal/breakglass internal/finding internal/policy internal/text",
	"policies":         "",
}

// never is what no package of a binary may link, directly or through others.
var never = map[string][]string{
	"cmd/breakglass": {"testing", module + "internal/bgtest", module + "internal/bgtest/", "database/sql", "k8s.io/", "github.com/hashicorp/",
		"github.com/slack-go/", "github.com/spf13/viper"},
	"cmd/breakglassd": {"testing", module + "internal/bgtest", module + "internal/bgtest/", "github.com/hashicorp/vault/vault",
		"github.com/hashicorp/vault/sdk"},
}

func TestArrows(t *testing.T) {
	have := map[string]string{}
	for _, p := range list(t, "./...") {
		var ours []string
		for _, i := range p.Imports {
			if rest, ok := strings.CutPrefix(i, module); ok {
				ours = append(ours, rest)
			}
		}
		have[strings.TrimPrefix(p.ImportPath, module)] = strings.Join(ours, " ")
	}
	for _, p := range slices.Sorted(maps.Keys(have)) {
		if want, ok := arrows[p]; !ok || want != have[p] {
			t.Errorf("%s stands on\n\t%s\nand may stand on\n\t%s", p, have[p], want)
		}
	}
	for p := range arrows {
		if _, ok := have[p]; !ok {
			t.Errorf("there is no package %s", p)
		}
	}
}

func TestBinariesLinkNothingThatTheyMustNot(t *testing.T) {
	for p, banned := range never {
		for _, dep := range list(t, "-deps", "./"+p) {
			for _, b := range banned {
				if dep.ImportPath == b || strings.HasSuffix(b, "/") && strings.HasPrefix(dep.ImportPath, b) {
					t.Errorf("%s links %s", p, dep.ImportPath)
				}
			}
		}
	}
}

type goPackage struct {
	ImportPath string
	Imports    []string
}

func list(t *testing.T, args ...string) []goPackage {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports"}, args...)...)
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		switch err := d.Decode(&p); {
		case errors.Is(err, io.EOF):
			return all
		case err != nil:
			t.Fatal(err)
		}
		all = append(all, p)
	}
}
