package vaultca

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/internal/checkup"
	"github.com/breakglassd/breakglass/internal/real"
	"github.com/breakglassd/breakglass/policies"
)

func TestSetupLoadsExactlyWhatShipsAndCanBeRunAgain(t *testing.T) {
	t.Parallel()
	v, err := shared.bins.StartVault(t.Context(), real.VaultOptions{Dir: t.TempDir(), Server: shared.server})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Stop)
	dir := t.TempDir()
	args := []string{"--mount", "pki-a", "--max-ttl", "15m", "--mount", "clusters/b", "--group", group, "--group", "breakglass:read.only",
		"--out", dir}
	first, err := script(v, t.TempDir(), args...)
	if err != nil {
		t.Fatalf("%v\n%s", err, first)
	}
	root, err := v.Client()
	if err != nil {
		t.Fatal(err)
	}
	// Somebody changes things by hand; the second run puts them back.
	for path, data := range map[string]map[string]any{"pki-a/roles/breakglass": {"allow_any_name": true},
		"sys/policies/acl/breakglassd": {"policy": `path "*" { capabilities = ["sudo"] }`}} {
		if _, err := root.Logical().Write(path, data); err != nil {
			t.Fatal(err)
		}
	}
	ca, err := os.ReadFile(filepath.Join(dir, "clusters-b-ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := script(v, t.TempDir(), args...)
	if err != nil {
		t.Fatalf("%v\n%s", err, second)
	}
	if facts := func(s string) string { return s[strings.Index(s, "Put this"):] }; facts(first) != facts(second) {
		t.Errorf("the second run made something else:\n%s\nfirst:\n%s", second, first)
	}
	if again, err := os.ReadFile(filepath.Join(dir, "clusters-b-ca.pem")); err != nil || string(again) != string(ca) {
		t.Errorf("another CA after the second run, error %v", err)
	}
	want, err := policies.VaultPolicy("breakglassd", []policies.VaultMount{{Path: "pki-a"},
		{Path: "clusters/b", Groups: []string{group, "breakglass:read.only"}}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := root.Sys().GetPolicy("breakglassd")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(blocks(got), blocks(want)) {
		t.Errorf("the policy in Vault is not what ships:\n%s", got)
	}
	if v := policyDrift("breakglassd", got); len(v.foreign)+len(v.missing) > 0 {
		t.Errorf("drift right after set-up: %q, %q", v.foreign, v.missing)
	}

	block, _ := pem.Decode(ca)
	if block == nil {
		t.Fatalf("no PEM in %q", ca)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !cert.IsCA || !cert.MaxPathLenZero || cert.PublicKeyAlgorithm != x509.ECDSA || cert.SignatureAlgorithm != x509.ECDSAWithSHA256 ||
		len(cert.Subject.SerialNumber) != 16 {
		t.Errorf("the CA: IsCA %t, path length zero %t, %s, %s, subject %s", cert.IsCA, cert.MaxPathLenZero, cert.PublicKeyAlgorithm,
			cert.SignatureAlgorithm, cert.Subject)
	}
	keys, err := root.Logical().List("pki-a/keys")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(keys.Data["keys"].([]any)); n != 1 {
		t.Errorf("%d CA keys after two runs, want 1", n)
	}
	role, err := root.Logical().Read("auth/approle/role/breakglassd")
	if err != nil {
		t.Fatal(err)
	}
	if role.Data["token_no_default_policy"] != true || len(role.Data["token_policies"].([]any)) != 1 {
		t.Errorf("AppRole: %v", role.Data)
	}
	if !strings.Contains(first, "0 audit devices") {
		t.Errorf("no word about missing audit devices:\n%s", first)
	}
	if strings.Contains(first, v.RootToken) {
		t.Error("the root token is printed")
	}

	// A run for another cluster alone would switch these off, and so would one that forgets a group.
	for _, forgets := range [][]string{{"--mount", "pki-c"}, {"--mount", "pki-a", "--mount", "clusters/b"}} {
		out, err := script(v, t.TempDir(), append(forgets, "--out", dir)...)
		if err == nil || !strings.Contains(out, "would switch them off") || !strings.Contains(out, "clusters/b:"+group) {
			t.Errorf("%q: error %v\n%s", forgets, err, out)
		}
	}
	if still, err := root.Sys().GetPolicy("breakglassd"); err != nil || still != got {
		t.Errorf("a refused run changed the policy, error %v", err)
	}
	if made, _ := root.Logical().Read("sys/mounts/pki-c"); made != nil {
		t.Error("a refused run made a mount")
	}
	if strings.Contains(first+second, "WARNING") {
		t.Errorf("warnings of Vault reach the operator:\n%s\n%s", first, second)
	}
	tidy, err := root.Logical().Read("pki-a/config/auto-tidy")
	if err != nil || tidy.Data["enabled"] != true || tidy.Data["tidy_cert_store"] != true ||
		fmt.Sprint(tidy.Data["safety_buffer"]) != "259200" {
		t.Errorf("auto-tidy: %v, error %v", tidy, err)
	}

	narrow, err := script(v, t.TempDir(), "--mount", "pki-a", "--drop", "clusters/b", "--bound-cidrs", "127.0.0.1/32", "--sign-rate", "50",
		"--out", dir)
	if err != nil {
		t.Fatalf("%v\n%s", err, narrow)
	}
	role, err = root.Logical().Read("auth/approle/role/breakglassd")
	if err != nil {
		t.Fatal(err)
	}
	quota, err := root.Logical().Read("sys/quotas/rate-limit/breakglass-pki-a")
	if err != nil || quota == nil {
		t.Fatalf("no rate limit: %v", err)
	}
	if got := fmt.Sprintln(role.Data["token_bound_cidrs"], role.Data["secret_id_bound_cidrs"], quota.Data["path"],
		quota.Data["rate"]); got != "[127.0.0.1] [127.0.0.1/32] pki-a/sign 50\n" {
		t.Errorf("limits: %s", got)
	}
	withFile, err := script(v, t.TempDir(), "--mount", "pki-a", "--no-approle", "--out", dir)
	if err != nil || !strings.Contains(withFile, "vault token create -orphan -no-default-policy -policy=breakglassd") ||
		strings.Contains(withFile, "role id") {
		t.Errorf("%v\n%s", err, withFile)
	}
}

func TestSetupRefusesWhatItMustNotTouch(t *testing.T) {
	w := sharedWorld(t)
	for path, kind := range map[string]string{"foreign": "pki", "rotating": "pki", "secrets": "kv"} {
		w.write(t, "sys/mounts/"+path, map[string]any{"type": kind})
	}
	w.write(t, "foreign/root/generate/internal", map[string]any{"common_name": "somebody's CA"})
	for _, issuer := range []string{"breakglass-g1", "breakglass-g2"} {
		w.write(t, "rotating/issuers/generate/root/internal", map[string]any{"common_name": issuer, "issuer_name": issuer, "key_type": "ec"})
	}
	for _, tc := range []struct {
		args []string
		says string
	}{
		{[]string{"--mount", "foreign"}, "has a CA already"},
		{[]string{"--mount", "secrets"}, "is a kv engine"},
		{[]string{"--mount", "foreign", "--issuer", "nobody"}, "has no issuer nobody"},
		{[]string{"--mount", "foreign", "--issuer", "default"}, "must be an issuer's name or id"},
		{[]string{"--mount", "rotating"}, "several issuers"},
		{nil, "at least one --mount"},
		{[]string{"--group", group}, "comes first"},
		{[]string{"--mount", "a*"}, "plain path"},
		{[]string{"--mount", "a\"\nb"}, "plain path"},
		{[]string{"--mount", "x", "--mount", "x"}, "given twice"},
		{[]string{"--mount", "x", "--group", "system:masters"}, "must be breakglass:"},
		{[]string{"--mount", "x", "--group", "breakglass:a/b&"}, "must be breakglass:"},
		{[]string{"--mount", "x", "--group", "breakglass:canary"}, "that of the canary"},
		{[]string{"--mount", "x", "--max-ttl", "5s"}, "under a minute"},
		{[]string{"--mount", "x", "--max-ttl", "1 h"}, "must be like"},
		{[]string{"--mount", "x", "--policy", "a b"}, "policy name"},
		{[]string{"--mount", "x", "--files", "/nowhere"}, "is missing"},
		{[]string{"--mount"}, "needs a value"},
		{[]string{"--mount", "x", "--key-bits", "521"}, "must be 256 or 384"},
		{[]string{"--mount", "x", "--drop", "a b"}, "must be a mount"},
		{[]string{"--colour", "red"}, "unknown option"},
	} {
		out, err := script(shared.vault, t.TempDir(), append([]string{"--out", t.TempDir(), "--policy", "never"}, tc.args...)...)
		if err == nil || !strings.Contains(out, tc.says) {
			t.Errorf("%q: error %v, want %q in\n%s", tc.args, err, tc.says, out)
		}
	}
	if p, err := w.root.Sys().GetPolicy("never"); err != nil || p != "" {
		t.Errorf("a refused run wrote a policy (error %v)", err)
	}
}

func TestSetupTakesAnImportedIssuerAndDoctorSaysWhatItIs(t *testing.T) {
	w := sharedWorld(t)
	w.write(t, "sys/mounts/imported", map[string]any{"type": "pki", "config": map[string]any{"max_lease_ttl": "8760h"}})
	w.write(t, "imported/root/generate/internal", map[string]any{"common_name": "kubernetes", "issuer_name": "kubeadm", "key_type": "ec",
		"ttl": "2000h"})
	made := scriptWorld(t, "--mount", "imported", "--issuer", "kubeadm")
	s, err := w.root.Logical().Read("imported/issuer/kubeadm")
	if err != nil {
		t.Fatal(err)
	}
	imported := Mount{Cluster: "old", Path: "imported", IssuerID: s.Data["issuer_id"].(string), MaxTTL: made.mount.MaxTTL}
	c := made.open(t, func(cfg *Config) { cfg.Mounts = append(slices.Clone(cfg.Mounts), imported) })
	o := newOrder(t, "")
	o.Cluster = "old"
	mustSign(t, c, o)
	var codes []string
	for _, f := range c.Doctor(t.Context()) {
		if f.Subject == "imported" && f.Level == checkup.Warn {
			codes = append(codes, f.Code)
		}
	}
	if want := []string{"vault-issuer", "vault-issuer-path"}; !slices.Equal(codes, want) {
		t.Errorf("findings %q, want %q", codes, want)
	}
}

func TestSecretIDGoesIntoAFileThatNobodyPrepared(t *testing.T) {
	dir := t.TempDir()
	secret, elsewhere := filepath.Join(dir, "secret-id"), filepath.Join(dir, "elsewhere")
	for _, name := range []string{secret, elsewhere} {
		if err := os.WriteFile(name, nil, 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, 0o666); err != nil { // whatever the umask
			t.Fatal(err)
		}
	}
	if err := os.Symlink(elsewhere, secret+".new"); err != nil {
		t.Fatal(err)
	}
	n := worlds.Add(1)
	if out, err := script(shared.vault, dir, worldArgs(fmt.Sprintf("pki/bg-%d", n), fmt.Sprintf("breakglassd-%d", n), secret,
		dir)...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(secret)
	if err != nil || info.Mode().Perm() != 0o600 || info.Size() == 0 {
		t.Errorf("the secret id: %v, error %v", info, err)
	}
	if text, err := os.ReadFile(elsewhere); err != nil || len(text) > 0 {
		t.Errorf("the secret id went through a link that was waiting for it: %q, error %v", text, err)
	}
}
