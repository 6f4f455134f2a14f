package deploy

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestNamesAgree: one cluster, one mount, one group and one set of files go through everything that ships, so that a person who follows
// the README from file to file changes nothing but what is their own.
func TestNamesAgree(t *testing.T) {
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	var config struct {
		Clusters []struct {
			ID                 string `yaml:"id"`
			Mount              string `yaml:"vault_mount"`
			KubeconfigFile     string `yaml:"kubeconfig_file"`
			ScanKubeconfigFile string `yaml:"scan_kubeconfig_file"`
		} `yaml:"clusters"`
		PublicURLs []string `yaml:"public_urls"`
	}
	if err := yaml.Unmarshal([]byte(read("../config.example.yaml")), &config); err != nil {
		t.Fatal(err)
	}
	first := config.Clusters[0]
	for path, wants := range map[string][]string{
		"../README.md": {"--mount " + first.Mount + " ", first.Mount + "-ca.pem", first.KubeconfigFile, "--group breakglass:api-rescue",
			config.PublicURLs[0]},
		"examples/config.yaml": {"id: " + first.ID, "vault_mount: " + first.Mount, "kubeconfig_file: " + first.KubeconfigFile,
			config.PublicURLs[0]},
		"examples/access.yaml": {"{id: " + first.ID + ","},
		"kube-apiserver/audit-webhook.kubeconfig": {"server: https://breakglass.example.com:8444/audit/" + first.ID + " ",
			"certificate-authority: /etc/kubernetes/breakglass/breakglassd-ca.crt\n", "tokenFile: /etc/kubernetes/breakglass/webhook-token "},
		"kube-apiserver/authorization-webhook.kubeconfig": {"server: https://breakglass.example.com:8444/authorize/" + first.ID + "\n",
			"certificate-authority: /etc/kubernetes/breakglass/breakglassd-ca.crt\n", "tokenFile: /etc/kubernetes/breakglass/webhook-token\n"},
		"kube-apiserver/AUDIT.md":                         {"`breakglassd-ca.crt`", "`webhook-token`"},
		"kube-apiserver/DENY-WEBHOOK.md":                  {"`breakglassd-ca.crt`", "openssl rand -hex 32 > webhook-token"},
		"../policies/kubernetes/optional/group-mode.yaml": {`name: "breakglass:api-rescue"`},
		"../policies/access.example.yaml":                 {`group: "breakglass:api-rescue"`, "{id: " + first.ID + ","},
		"../policies/kubernetes/kubeconfig.sh":            {first.KubeconfigFile, first.ScanKubeconfigFile},
		"../policies/kubernetes/README.md":                {first.KubeconfigFile, first.ScanKubeconfigFile},
		"systemd/breakglassd.service": {"\nLoadCredential=" + first.ID + ".kubeconfig:",
			"\n#LoadCredential=slack-bot-token:"},
	} {
		text := read(path)
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%s does not say %q", path, want)
			}
		}
		if strings.Contains(text, "breakglassd.example.com") {
			t.Errorf("%s has another name of the daemon's host than breakglass.example.com", path)
		}
		if strings.Contains(text, "urandom | base64") {
			t.Errorf("%s makes a token in another way than openssl rand -hex 32", path)
		}
	}
}

// TestMinimalConfigurationIsMinimal: what a first-timer reads and changes fits on one screen.
func TestMinimalConfigurationIsMinimal(t *testing.T) {
	text, err := os.ReadFile("examples/config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if lines := regexp.MustCompile(`(?m)^\s*[^#\s].*$`).FindAll(text, -1); len(lines) > 25 {
		t.Errorf("%d lines, want at most 25", len(lines))
	}
}
