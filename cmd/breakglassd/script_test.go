package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/real"
)

func TestMain(m *testing.M) {
	testscript.Main(tests{m}, map[string]func(){"breakglassd": main})
}

// tests are the package's tests with what they leave behind removed.
type tests struct{ *testing.M }

func (m tests) Run() int {
	code := m.M.Run()
	_ = os.RemoveAll(template.dir) // a leftover directory does no harm
	return code
}

// TestScripts runs what an operator types, also on the bad days: testdata/script. Nothing answers at the addresses of Vault,
// the cluster and Slack.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			ca, err := real.NewCA("people")
			if err != nil {
				return err
			}
			cert, key, err := ca.Server("breakglassd")
			if err != nil {
				return err
			}
			for name, text := range map[string]string{
				"tls.crt": string(cert), "tls.key": string(key), "vault-ca.pem": string(ca.CertPEM), "secret-id": "canary-secret-id\n",
				"bot": canaryToken, "signing": canarySigning,
				"access.yaml": bgtest.Policy(),
				"kubeconfig": "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: \"https://127.0.0.1:1\"}}]\n" +
					"users: [{name: u, user: {token: canary-token}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n",
				"config.yaml": `listen: {address: "127.0.0.1:0", tls_cert_file: tls.crt, tls_key_file: tls.key}
health: {address: ""}
ledger: {path: ledger.db, key_file: ledger.key, origin: breakglass.test/scripts}
policy_file: access.yaml
vault: {address: "https://127.0.0.1:1", ca_file: vault-ca.pem, auth: {role_id: r, secret_id_file: secret-id}}
clusters:
  - {id: c1, kubeconfig_file: kubeconfig, vault_mount: pki-c1, vault_issuer_id: 22222222-3333-4444-5555-666666666666, vault_max_ttl: 1h}
`,
			} {
				if err := os.WriteFile(filepath.Join(e.WorkDir, name), []byte(text), 0o600); err != nil {
					return err
				}
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "replace": replace, "waitfor": waitFor, "flip": flip,
		},
	})
}

// exits CODE COMMAND… runs a command and wants exactly that exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARG]...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("exit %s, want %s", got, args[0])
	}
	for _, secret := range []string{"canary", "PRIVATE+KEY"} {
		if strings.Contains(ts.ReadFile("stdout")+ts.ReadFile("stderr"), secret) {
			ts.Fatalf("a secret is in the output")
		}
	}
}

// replace FILE OLD NEW changes a file. \n in NEW is a line break.
func replace(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: replace FILE OLD NEW")
	}
	text := ts.ReadFile(args[0])
	if !strings.Contains(text, args[1]) {
		ts.Fatalf("%s has no %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.ReplaceAll(text, args[1], strings.ReplaceAll(args[2], `\n`, "\n"))), 0o600))
}

// flip FILE TEXT changes one bit of the first occurrence of a text in a binary file.
func flip(ts *testscript.TestScript, neg bool, args []string) {
	data, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	i := bytes.Index(data, []byte(args[1]))
	if i < 0 {
		ts.Fatalf("%s has no %q", args[0], args[1])
	}
	data[i] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o600))
}

// waitfor FILE TEXT waits until a process that runs in the background has written something.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	for range 3000 {
		data, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && bytes.Contains(data, []byte(args[1])) {
			return
		}
		ts.Check(ts.Exec("sleep", "0.02"))
	}
	ts.Fatalf("%s", fmt.Sprintf("%s did not come in %s", args[1], args[0]))
}

// cleanEnv removes what the machine's environment might say to the loader of the configuration.
func cleanEnv(t testing.TB) {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "BREAKGLASS_") && !strings.HasPrefix(name, "BREAKGLASS_TEST_") {
			t.Setenv(name, "")
		}
	}
}
