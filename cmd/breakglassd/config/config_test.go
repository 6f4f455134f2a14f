package config

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/policies"
)

// cleanEnv removes what the machine's environment might say to the loader.
func cleanEnv(t testing.TB) {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "BREAKGLASS_") && !strings.HasPrefix(name, "BREAKGLASS_TEST_") {
			t.Setenv(name, "")
		}
	}
}

func TestEveryBadConfigurationIsRefusedForItsOneMistake(t *testing.T) {
	cleanEnv(t)
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) < 25 {
		t.Fatalf("%d fixtures: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(string(text), "\n")
			want, ok := strings.CutPrefix(first, "# want: ")
			if !ok {
				t.Fatalf("no want in the first line %q", first)
			}
			_, err = Load(file)
			var bad *Error
			if !errors.As(err, &bad) {
				t.Fatalf("error %v, want a *Error", err)
			}
			if len(bad.Problems) != 1 || !strings.Contains(bad.Problems[0].String(), want) {
				t.Errorf("problems %q, want exactly one with %q", bad.Problems, want)
			}
			if strings.Contains(err.Error(), "canary") {
				t.Errorf("the error repeats a secret: %v", err)
			}
		})
	}
}

func TestEveryGoodConfigurationIsTaken(t *testing.T) {
	cleanEnv(t)
	files, err := filepath.Glob("testdata/good/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		if _, err := Load(file); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestAllMistakesAreReportedAtOnce(t *testing.T) {
	cleanEnv(t)
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte("log: {level: loud, format: xml}\nlisten: {address: x}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(path)
	var bad *Error
	if !errors.As(err, &bad) {
		t.Fatal(err)
	}
	var keys []string
	for _, p := range bad.Problems {
		keys = append(keys, p.Key)
	}
	want := []string{"listen.address", "public_urls", "ledger.path", "ledger.key_file", "ledger.origin", "policy_file", "vault.address",
		"vault.auth.role_id",
		"vault.auth.secret_id_file", "clusters", "log.level", "log.format"}
	if diff := cmp.Diff(want, keys); diff != "" {
		t.Errorf("keys with problems (-want +got):\n%s", diff)
	}
}

// leaves lists the keys of single values in a configuration type, with [] for the items of a list.
func leaves(prefix string, t reflect.Type) []string {
	var out []string
	switch {
	case t.Kind() == reflect.Struct:
		for _, f := range reflect.VisibleFields(t) {
			out = append(out, leaves(strings.TrimPrefix(prefix+"."+f.Tag.Get("mapstructure"), "."), f.Type)...)
		}
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		out = leaves(prefix+"[]", t.Elem())
	default:
		out = []string{prefix}
	}
	return out
}

// leavesOf lists the same of a YAML document.
func leavesOf(prefix string, n *yaml.Node) []string {
	var out []string
	switch {
	case n.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			out = append(out, leavesOf(strings.TrimPrefix(prefix+"."+n.Content[i].Value, "."), n.Content[i+1])...)
		}
	case n.Kind == yaml.SequenceNode && len(n.Content) > 0 && n.Content[0].Kind == yaml.MappingNode:
		for _, item := range n.Content {
			out = append(out, leavesOf(prefix+"[]", item)...)
		}
	default:
		out = []string{prefix}
	}
	return out
}

func sortedSet(s []string) []string {
	slices.Sort(s)
	return slices.Compact(s)
}

func TestExampleHasEveryKeyAndNoOther(t *testing.T) {
	text, err := os.ReadFile("../../../config.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	want, got := sortedSet(leaves("", reflect.TypeFor[Config]())), sortedSet(leavesOf("", doc.Content[0]))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("keys of config.example.yaml (-Config +example):\n%s", diff)
	}
}

// viper takes a key from the environment only where it has a default, be it an empty one.
func TestEveryKeyOfASingleValueIsKnownBeforeTheFileIsRead(t *testing.T) {
	want := sortedSet(leaves("", reflect.TypeFor[Config]()))
	want = slices.DeleteFunc(want, func(k string) bool { return strings.Contains(k, "[]") })
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(Default().values()))); diff != "" {
		t.Errorf("keys with a value (-Config +values):\n%s", diff)
	}
}

// A path that is not marked as one is relative to the working directory, and nothing says so.
func TestEveryKeyThatNamesAFileOfThisMachineIsAPath(t *testing.T) {
	onNodes := []string{"node_bundle_file", "node_cluster_ca_file"}
	var check func(prefix string, at reflect.Type)
	check = func(prefix string, at reflect.Type) {
		for _, f := range reflect.VisibleFields(at) {
			key := f.Tag.Get("mapstructure")
			of := f.Type
			if of.Kind() == reflect.Slice {
				of = of.Elem()
			}
			if of.Kind() == reflect.Struct {
				check(prefix+key+".", of)
				continue
			}
			named := regexp.MustCompile(`^(path|dir|file|.*_files?)$`).MatchString(key) && !slices.Contains(onNodes, key)
			if marked := f.Tag.Get("path") == "yes"; marked != named {
				t.Errorf("%s%s: path tag is there: %t, want %t", prefix, key, marked, named)
			}
		}
	}
	check("", reflect.TypeFor[Config]())
}

func TestPathsAreRelativeToTheFile(t *testing.T) {
	c := Config{Clusters: []Cluster{{ScanFiles: []string{"a", "/b"}, CAChecks: CAChecks{BundleFiles: []BundleCopy{{File: "c"}}}}}}
	if bad := c.resolve("/etc/breakglassd"); len(bad) > 0 {
		t.Fatal(bad)
	}
	got := append(slices.Clone(c.Clusters[0].ScanFiles), c.Clusters[0].CAChecks.BundleFiles[0].File, c.Clusters[0].CAFile, c.Ledger.Path)
	if diff := cmp.Diff([]string{"/etc/breakglassd/a", "/b", "/etc/breakglassd/c", "", ""}, got); diff != "" {
		t.Error(diff)
	}
}

// The dev command starts from the defaults: they must be good ones.
func TestDefaultsAreValid(t *testing.T) {
	missing := []string{"listen.tls_cert_file", "public_urls", "ledger.path", "ledger.key_file", "ledger.origin", "policy_file", "clusters"}
	var got []string
	for _, p := range Default().Validate(false) {
		got = append(got, p.Key)
	}
	if diff := cmp.Diff(missing, got); diff != "" {
		t.Errorf("keys that an empty file lacks (-want +got):\n%s", diff)
	}
}

func TestExampleFitsTheExampleAccessPolicy(t *testing.T) {
	cleanEnv(t)
	cfg, err := Load("../../../config.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Parse("access.example.yaml", policies.AccessExample)
	if err != nil {
		t.Fatal(err)
	}
	if bad := cfg.Fits(p, true); len(bad) > 0 {
		t.Errorf("the two examples do not fit: %q", bad)
	}
	if want, err := filepath.Abs("../../../ledger/ledger.db"); err != nil || !sameFile(cfg.Ledger.Path, want) {
		t.Errorf("ledger.path is %s, want %s: relative to the file", cfg.Ledger.Path, want)
	}
}

func sameFile(a, b string) bool {
	x, err1 := filepath.Abs(a)
	y, err2 := filepath.Abs(b)
	return err1 == nil && err2 == nil && x == y
}

func TestEveryKeyCanComeFromTheEnvironment(t *testing.T) {
	cleanEnv(t)
	want := map[string]string{}
	for key := range Default().values() {
		value := "from-env"
		switch key {
		case "vault.timeout", "vault.sign_timeout":
			value = "7s"
		case "checks.ca_cron", "recertification.cron":
			value = "5 4 * * *"
		case "checks.time_zone", "recertification.time_zone":
			value = "Europe/Paris"
		case "recertification.work_from":
			value = "7"
		case "recertification.work_to":
			value = "17"
		case "sessions.keep":
			value = "48h0m0s"
		case "sessions.grace":
			value = "30s"
		case "slack.enabled":
			value = "false"
		case "listen.address", "health.address", "webhooks.address":
			value = "127.0.0.1:1234"
		case "public_urls":
			value = "https://a.example.com,https://b.example.com"
		case "vault.address":
			value = "https://env.example.com:8200"
		case "vault.auth.method":
			value = "approle"
		case "vault.auth.token_file", "slack.api_url": // must stay empty here
			continue
		case "log.level":
			value = "debug"
		case "log.format":
			value = "text"
		}
		want[key] = value
		t.Setenv("BREAKGLASS_"+strings.ToUpper(strings.ReplaceAll(key, ".", "_")), value)
	}
	cfg, err := Load("testdata/good/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range want {
		v := reflect.ValueOf(*cfg)
		for _, part := range strings.Split(key, ".") {
			for _, f := range reflect.VisibleFields(v.Type()) {
				if f.Tag.Get("mapstructure") == part {
					v = v.FieldByIndex(f.Index)
					break
				}
			}
		}
		got := ""
		switch x := v.Interface().(type) {
		case string:
			got = strings.TrimPrefix(x, "testdata/good/")
		case []string:
			got = strings.Join(x, ",")
		case bool:
			got = map[bool]string{true: "true", false: "false"}[x]
		case int:
			got = strconv.Itoa(x)
		case time.Duration:
			got = x.String()
		}
		if filepath.Base(got) != filepath.Base(value) {
			t.Errorf("%s is %q, want %q from the environment", key, got, value)
		}
	}
}

func TestBadValuesFromTheEnvironmentAreRefused(t *testing.T) {
	for name, value := range map[string]string{"BREAKGLASS_SLACK_ENABLED": "yes", "BREAKGLASS_VAULT_TIMEOUT": "5",
		"BREAKGLASS_LOG_LEVEL": "loud"} {
		t.Run(name, func(t *testing.T) {
			cleanEnv(t)
			t.Setenv(name, value)
			if _, err := Load("testdata/good/full.yaml"); err == nil {
				t.Errorf("%s=%s was taken", name, value)
			}
		})
	}
}

func TestMisspeltEnvironmentIsNoticed(t *testing.T) {
	got := UnknownEnv([]string{"PATH=/bin", "BREAKGLASS_VAULT_ADRESS=x", "BREAKGLASS_VAULT_ADDRESS=x", "BREAKGLASS_CLUSTERS=x"})
	if diff := cmp.Diff([]string{"BREAKGLASS_CLUSTERS", "BREAKGLASS_VAULT_ADRESS"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestCredentialsDirectoryIsFound(t *testing.T) {
	cleanEnv(t)
	t.Setenv("CREDENTIALS_DIRECTORY", "/run/credentials/breakglassd.service")
	text, err := os.ReadFile("testdata/good/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "c.yaml")
	text = bytes.Replace(text, []byte("secret_id_file: secret-id"), []byte("secret_id_file: $CREDENTIALS_DIRECTORY/vault-secret-id"), 1)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := "/run/credentials/breakglassd.service/vault-secret-id"; cfg.Vault.Auth.SecretIDFile != want {
		t.Errorf("secret_id_file is %s, want %s", cfg.Vault.Auth.SecretIDFile, want)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "CREDENTIALS_DIRECTORY") {
		t.Errorf("without the variable: %v, want an error that names it", err)
	}
}

func TestPolicyAndConfigurationMustFit(t *testing.T) {
	p, err := policy.Parse("policy", []byte(bgtest.Policy()))
	if err != nil {
		t.Fatal(err)
	}
	fits := Config{Clusters: []Cluster{{ID: "c1", MaxTTL: time.Hour}}, Slack: Slack{Enabled: true}}
	if bad := fits.Fits(p, true); len(bad) > 0 {
		t.Fatalf("a configuration that fits: %q", bad)
	}
	slackOnly, err := policy.Parse("policy", []byte(strings.Replace(bgtest.Policy(), "each: [security]",
		"each: [security], channels: [slack]", 1)))
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		cfg    Config
		policy *policy.Policy
		want   []string
	}{
		"cluster not in the policy": {Config{Clusters: []Cluster{{ID: "c1", MaxTTL: time.Hour}, {ID: "c2", MaxTTL: time.Hour}}}, p,
			[]string{`clusters[1].id: the access policy knows no cluster "c2"`}},
		"cluster only in the policy": {Config{}, p, []string{`clusters: the access policy has a cluster "c1" that is not here`}},
		"lifetimes": {Config{Clusters: []Cluster{{ID: "c1", MaxTTL: 30 * time.Minute}}}, p,
			slices.Repeat([]string{"clusters[0].vault_max_ttl: 30m0s is less than the 1h0m0s"}, 4)},
		"approvals in Slack only": {Config{Clusters: fits.Clusters}, slackOnly, []string{"slack.enabled: is false, but profile admin"}},
	} {
		got := tc.cfg.Fits(tc.policy, true)
		if len(got) != len(tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
			continue
		}
		for i := range got {
			if !strings.Contains(got[i].String(), tc.want[i]) {
				t.Errorf("%s: %q, want %q", name, got[i], tc.want[i])
			}
		}
	}
	if bad := (&Config{Clusters: []Cluster{{ID: "c1"}}}).Fits(p, false); len(bad) > 0 {
		t.Errorf("without Vault there are no lifetimes to compare: %q", bad)
	}
}

func TestSecretsThatOthersCanReadAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	for mode, ok := range map[os.FileMode]bool{0o600: true, 0o400: true, 0o440: true, 0o640: true, 0o604: false, 0o644: false, 0o620: false,
		0o602: false} {
		if err := os.WriteFile(path, []byte(" canary\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		s, err := ReadSecret("some.key_file", path)
		if shown := fmt.Sprintf("%v %+v %#v %s %q %x", s, s, s, s, s, s); strings.Contains(shown, "canary") ||
			strings.Contains(shown, "63616e617279") {
			t.Errorf("the secret prints as %s", shown)
		}
		if ok != (err == nil) || ok && string(s) != "canary" {
			t.Errorf("mode %04o: error %v", mode, err)
		}
		if err != nil && (!strings.Contains(err.Error(), "some.key_file") || strings.Contains(err.Error(), "canary")) {
			t.Errorf("mode %04o: error %v, want the key and not the secret", mode, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, []byte(" \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSecret("k", path); err == nil {
		t.Error("an empty secret was taken")
	}
}

func FuzzConfigLoader(f *testing.F) {
	for _, pattern := range []string{"testdata/*/*.yaml", "../../../config.example.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, err := Parse("config.yaml", text)
		if err != nil {
			return
		}
		// What was taken is complete: serve need not look again.
		if cfg.Ledger.Path == "" || cfg.PolicyFile == "" || cfg.Vault.Timeout <= 0 || len(cfg.Clusters) == 0 ||
			cfg.Clusters[0].MaxTTL < time.Minute {
			t.Errorf("taken: %+v", cfg)
		}
		if len(cfg.Validate(true)) > 0 {
			t.Error("taken although Validate finds mistakes")
		}
	})
}
