package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/real"
)

// scanned is a directory with a configuration whose clusters are answered by this handler.
func scanned(t *testing.T, clusters ...string) (config string) {
	t.Helper()
	cleanEnv(t)
	// A cluster with nothing in it but one user who may read every Secret: severity high.
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		body, known := map[string]string{
			"/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication": clientCAs,
			"/version": `{"gitVersion":"v1.37.2"}`,
			"/apis/rbac.authorization.k8s.io/v1/clusterroles": `{"items":[{"metadata":{"name":"r"},` +
				`"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["secrets"]}]}]}`,
			"/api/v1/namespaces/kube-system/configmaps/aws-auth": `{"data":` +
				`{"mapUsers":"- {userarn: \"arn:aws:iam::1:user/c.smith\", username: carol, groups: [view]}"}}`,
			"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings": `{"items":[{"metadata":{"name":"b"},` +
				`"roleRef":{"kind":"ClusterRole","name":"r"},"subjects":[{"kind":"User","name":"bob"}]}]}`,
		}[r.URL.Path]
		switch {
		case r.Header.Get("Authorization") == "":
			w.WriteHeader(http.StatusUnauthorized)
			body = `{}`
		case body == "" && strings.Contains(r.URL.Path, "/configmaps/"):
			w.WriteHeader(http.StatusNotFound)
			body = `{}`
		case !known:
			body = `{"items":[]}`
		}
		fmt.Fprint(w, body)
	}))
	t.Cleanup(api.Close)
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})))
	kubeconfig := func(server string) string {
		return "apiVersion: v1\nkind: Config\ncurrent-context: c\n" +
			"clusters: [{name: c, cluster: {server: " + `"` + server + `"` + ", certificate-authority: ca.pem}}]\n" +
			"users: [{name: u, user: {token: t}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n"
	}
	write("up", kubeconfig(api.URL))
	write("down", kubeconfig("https://127.0.0.1:1"))
	text := `listen: {address: "127.0.0.1:0"}
ledger: {path: ledger.db, key_file: ledger.key, origin: breakglass.test/scan}
policy_file: access.yaml
vault: {address: "http://127.0.0.1:1", auth: {role_id: r, secret_id_file: secret-id}}
clusters:
`
	for n, id := range clusters {
		text += fmt.Sprintf("  - {id: c%d, kubeconfig_file: %s, vault_mount: pki, vault_issuer_id: 22222222-3333-4444-5555-666666666666, "+
			"vault_max_ttl: 1h}\n", n+1, id)
	}
	write("config.yaml", text)
	write("secret-id", "x")
	write("access.yaml", bgtest.Policy())
	write("apiserver.yaml", "kind: Pod\nspec:\n  containers:\n  - command: [kube-apiserver, --anonymous-auth=false, "+
		"--authentication-config=authn.yaml, --enable-admission-plugins=NodeRestriction]\n")
	write("notes.txt", "hello")
	write("authn.yaml", "kind: AuthenticationConfiguration\njwt: [{issuer: {url: https://idp.invalid}, claimMappings: {username: {claim: "+
		"sub, prefix: \"idp:\"}}}]\n")
	return filepath.Join(dir, "config.yaml")
}

// clientCAs is what the clusters of scanned say of the CAs that they take; empty: nothing.
var clientCAs string

// Vault tells the break-glass CA without a credential: a scan that reaches it knows our own, and one that does not says so.
func TestScanKnowsOurOwnCA(t *testing.T) {
	ours, err := real.NewCA("breakglass")
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := real.NewCA("kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	said := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	clientCAs = said(map[string]any{"data": map[string]string{"client-ca-file": string(ours.CertPEM) + string(theirs.CertPEM)}})
	t.Cleanup(func() { clientCAs = "" })
	vault := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/pki/issuer/22222222-3333-4444-5555-666666666666/json" || r.Header.Get("X-Vault-Token") != "" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		fmt.Fprint(w, said(map[string]any{"data": map[string]string{"certificate": string(ours.CertPEM)}}))
	}))
	t.Cleanup(vault.Close)
	config := scanned(t, "up")
	why := func() (why, warned string) {
		var out, errOut bytes.Buffer
		if code := run([]string{"scan", "--config", config, "-o", "json"}, &out, &errOut); code != 0 {
			t.Fatalf("exit code %d: %s", code, errOut.String())
		}
		var found struct{ Clusters []doors.Analysis }
		if err := json.Unmarshal(out.Bytes(), &found); err != nil {
			t.Fatal(err)
		}
		for _, i := range found.Clusters[0].Door(doors.DoorClientCA).Items {
			if strings.Contains(i.Title, "breakglass") {
				why = i.Why
			}
		}
		return why, errOut.String()
	}
	if got, warned := why(); got != "" || !strings.Contains(warned, "Vault does not tell the break-glass CA") {
		t.Errorf("without Vault our CA is %q, and the scan says %q", got, warned)
	}
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, bytes.Replace(text, []byte("http://127.0.0.1:1"), []byte(vault.URL), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, warned := why(); got != "is the break-glass CA" || warned != "" {
		t.Errorf("with Vault our CA is %q, and the scan says %q", got, warned)
	}
}

func TestScanEndsWithTheCodeThatAPipelineNeeds(t *testing.T) {
	up, down, both := scanned(t, "up"), scanned(t, "down"), scanned(t, "up", "down")
	near := func(config, name string) string { return filepath.Join(filepath.Dir(config), name) }
	for name, c := range map[string]struct {
		args []string
		want int
		says string // on standard error
	}{
		"without a threshold":               {[]string{"--config", up}, 0, ""},
		"an alarm of the threshold":         {[]string{"--config", up, "--ci", "high"}, exitFindings, "alarms of severity high or more"},
		"an alarm above the threshold":      {[]string{"--config", up, "--ci", "low"}, exitFindings, "alarms of severity low or more"},
		"no alarm of the threshold":         {[]string{"--config", up, "--ci", "critical"}, 0, ""},
		"no such severity":                  {[]string{"--config", up, "--ci", "hihg"}, exitUsage, "--ci"},
		"no such cluster":                   {[]string{"--config", up, "--cluster", "c9"}, exitUsage, `no cluster "c9"`},
		"a cluster that does not answer":    {[]string{"--config", down, "--ci", "low"}, exitUnreachable, "c1"},
		"one of two does not answer":        {[]string{"--config", both, "--ci", "low"}, exitUnreachable, "c2"},
		"the one that answers":              {[]string{"--config", both, "--cluster", "c1", "--ci", "critical"}, 0, ""},
		"a given file that is not there":    {[]string{"--config", up, "--given", "nowhere.yaml"}, exitUsage, "nowhere.yaml"},
		"a given file of whichever cluster": {[]string{"--config", both, "--given", near(up, "apiserver.yaml")}, exitUsage, "--cluster"},
		"a given file that says nothing":    {[]string{"--config", up, "--given", near(up, "notes.txt")}, exitUsage, "give a pod's manifest"},
		"an alarm that only a given file says": {[]string{"--config", up, "--given", near(up, "apiserver.yaml"), "--ci", "critical"},
			exitFindings, "alarms of severity critical"},
	} {
		var out, errOut bytes.Buffer
		if got := run(append([]string{"scan"}, c.args...), &out, &errOut); got != c.want || !strings.Contains(errOut.String(), c.says) {
			t.Errorf("%s: exit code %d, want %d; it says %q, want %q", name, got, c.want, errOut.String(), c.says)
		}
	}
}

// What the texts of doors ask for can be given, by the flag and by the key that they name.
func TestWhatDoorsAskForCanBeGiven(t *testing.T) {
	doorsBy := func(config string, args ...string) map[string]doors.Door {
		t.Helper()
		var out, errOut bytes.Buffer
		if code := run(append([]string{"scan", "--config", config, "-o", "json"}, args...), &out, &errOut); code != 0 {
			t.Fatalf("exit code %d: %s", code, errOut.String())
		}
		var found struct{ Clusters []doors.Analysis }
		if err := json.Unmarshal(out.Bytes(), &found); err != nil {
			t.Fatal(err)
		}
		all := map[string]doors.Door{}
		for _, d := range found.Clusters[0].Doors {
			all[d.ID] = d
		}
		return all
	}
	config := scanned(t, "up")
	dir := filepath.Dir(config)
	manifest, authn := filepath.Join(dir, "apiserver.yaml"), filepath.Join(dir, "authn.yaml")

	none := doorsBy(config)
	if i := none[doors.DoorPlatform].Items; len(i) != 1 || !slices.Equal(i[0].People, []string{"arn:aws:iam::1:user/c.smith", "carol"}) {
		t.Errorf("the entry of aws-auth is %+v, want whom it is about by ARN and by user name", i)
	}
	if d := none[doors.DoorStaticTokens]; d.State != doors.CannotTell || !strings.Contains(d.Tellable, doors.GivenHow) {
		t.Errorf("without a file: %s, tellable by %q", d.State, d.Tellable)
	}
	half := doorsBy(config, "--given", manifest)
	if d := half[doors.DoorStaticTokens]; d.State != doors.Absent {
		t.Errorf("with --given the door is %s (%q)", d.State, d.Evidence)
	}
	if d := half[doors.DoorOIDC]; d.State != doors.CannotTell || !strings.Contains(d.Tellable, doors.AuthenticationConfigHow) {
		t.Errorf("without the authentication configuration: %s, tellable by %q", d.State, d.Tellable)
	}
	byFlags := doorsBy(config, "--given", manifest, "--authentication-config", authn)
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte("vault_mount: pki,"), []byte("vault_mount: pki, scan_files: [apiserver.yaml], "+
		"authentication_config_file: authn.yaml,"), 1)
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for how, got := range map[string]map[string]doors.Door{"flags": byFlags, "keys": doorsBy(config)} {
		if got[doors.DoorStaticTokens].State != doors.Absent || got[doors.DoorOIDC].State != doors.Present {
			t.Errorf("given by %s: static tokens %s, OIDC %s", how, got[doors.DoorStaticTokens].State, got[doors.DoorOIDC].State)
		}
	}
	// The names in the texts are those of the flags and of the keys.
	flags := scanCommand().Flags()
	for _, name := range []string{"given", "authentication-config"} {
		if flags.Lookup(name) == nil || !strings.Contains(doors.GivenHow+doors.AuthenticationConfigHow, "--"+name+" FILE") {
			t.Errorf("the texts and the command do not agree on --%s", name)
		}
	}
	for _, key := range []string{"scan_files", "authentication_config_file"} {
		if !strings.Contains(doors.GivenHow+doors.AuthenticationConfigHow, key+" of the cluster") {
			t.Errorf("the texts do not name the key %s", key)
		}
	}
}
