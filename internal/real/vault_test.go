package real_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/internal/bgtest/realtest"
	"github.com/breakglassd/breakglass/internal/real"
	vaultapi "github.com/hashicorp/vault/api"
)

func TestVaultSignsWithItsPKI(t *testing.T) {
	for name, o := range map[string]real.VaultOptions{"TLS": {}, "plain": {Plain: true}} {
		t.Run(name, func(t *testing.T) {
			// None of these may reach the server or the client.
			t.Setenv("VAULT_TOKEN", "another")
			t.Setenv("VAULT_NAMESPACE", "another")
			t.Setenv("VAULT_ADDR", "http://127.0.0.1:1")
			v := realtest.NewVault(t, o)
			client := rootClient(t, v)
			if err := client.Sys().MountWithContext(t.Context(), "pki-bg", &vaultapi.MountInput{Type: "pki"}); err != nil {
				t.Fatal(err)
			}
			write(t, client, "pki-bg/root/generate/internal", map[string]any{"common_name": "a CA", "key_type": "ec", "ttl": "1h"})
			write(t, client, "pki-bg/roles/any", map[string]any{"allow_any_name": true, "enforce_hostnames": false, "key_type": "ec"})
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
			if err != nil {
				t.Fatal(err)
			}
			signed := write(t, client, "pki-bg/sign/any", map[string]any{"common_name": "alice", "ttl": "5m",
				"csr": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))})
			block, _ := pem.Decode([]byte(signed.Data["certificate"].(string)))
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			if cert.Subject.CommonName != "alice" || !key.PublicKey.Equal(cert.PublicKey) {
				t.Errorf("got a certificate for %q, want one for alice with her key", cert.Subject)
			}
			if want := map[bool]string{true: "http://127.0.0.1:", false: "https://127.0.0.1:"}[o.Plain]; !strings.HasPrefix(v.Addr, want) {
				t.Errorf("Addr is %s, want %s…", v.Addr, want)
			}
		})
	}
}

func TestVaultListenerIsVerifiedByItsOwnCAOnly(t *testing.T) {
	v := realtest.NewVault(t, real.VaultOptions{})
	if resp, err := http.Get(v.Addr + "/v1/sys/health"); err == nil {
		resp.Body.Close()
		t.Error("a client that does not know the CA of this Vault trusts it")
	}
}

func TestPersistentVaultSealsUnsealsAndKeepsItsData(t *testing.T) {
	v := realtest.NewVault(t, real.VaultOptions{Persistent: true})
	client := rootClient(t, v)
	const path = "cubbyhole/kept"
	write(t, client, path, map[string]any{"word": "tide"})
	check := func(when string) {
		t.Helper()
		got, err := client.Logical().ReadWithContext(t.Context(), path)
		if err != nil || got == nil || got.Data["word"] != "tide" {
			t.Errorf("%s: got %+v, %v, want what was written", when, got, err)
		}
	}
	checkSealed := func(when string) {
		t.Helper()
		status, err := client.Sys().SealStatusWithContext(t.Context())
		if err != nil || !status.Sealed {
			t.Errorf("%s: got %+v, %v, want sealed", when, status, err)
		}
		if _, err := client.Logical().ReadWithContext(t.Context(), path); err == nil {
			t.Errorf("%s: a sealed Vault reads a secret", when)
		}
	}
	unseal := func() {
		t.Helper()
		if err := v.Unseal(t.Context()); err != nil {
			t.Fatal(err)
		}
	}

	check("at first")
	if err := v.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkSealed("after Seal")
	unseal()
	unseal() // twice does nothing
	check("after Unseal")

	v.Stop()
	if _, err := client.Sys().SealStatusWithContext(t.Context()); err == nil {
		t.Error("a stopped Vault answers")
	}
	if err := v.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkSealed("after Start")
	unseal()
	check("after Start and Unseal")
	if err := v.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("after Restart")
}

func TestVaultInMemoryComesBackAsANewOne(t *testing.T) {
	v := realtest.NewVault(t, real.VaultOptions{})
	if err := rootClient(t, v).SetAddress("http://127.0.0.1:1"); err != nil { // concerns nobody else's client
		t.Fatal(err)
	}
	old := rootClient(t, v)
	write(t, old, "cubbyhole/kept", map[string]any{"word": "tide"})
	if err := v.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := old.Logical().ReadWithContext(t.Context(), "cubbyhole/kept"); err == nil {
		t.Errorf("the old root token reads %+v", got)
	}
	got, err := rootClient(t, v).Logical().ReadWithContext(t.Context(), "cubbyhole/kept")
	if err != nil || got != nil {
		t.Errorf("got %+v, %v, want nothing", got, err)
	}
}

func TestCopyOfAVaultHoldsTheSameAndGoesItsOwnWay(t *testing.T) {
	first := realtest.NewVault(t, real.VaultOptions{Persistent: true})
	write(t, rootClient(t, first), "cubbyhole/kept", map[string]any{"word": "tide"})
	bins := realtest.MustBuild(t, real.VaultServer)
	if v, err := bins.StartVault(t.Context(), real.VaultOptions{Dir: t.TempDir(), CopyOf: first}); err == nil {
		v.Stop()
		t.Error("a Vault is copied while it runs")
	}
	first.Stop()
	a, b := realtest.NewVault(t, real.VaultOptions{CopyOf: first}), realtest.NewVault(t, real.VaultOptions{CopyOf: first, Plain: true})
	write(t, rootClient(t, a), "cubbyhole/kept", map[string]any{"word": "ebb"})
	if err := first.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for v, want := range map[*real.Vault]string{first: "tide", a: "ebb", b: "tide"} {
		got, err := rootClient(t, v).Logical().ReadWithContext(t.Context(), "cubbyhole/kept")
		if err != nil || got == nil || got.Data["word"] != want {
			t.Errorf("got %+v, %v, want %q", got, err, want)
		}
	}
}

func rootClient(t *testing.T, v *real.Vault) *vaultapi.Client {
	t.Helper()
	client, err := v.Client()
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func write(t *testing.T, client *vaultapi.Client, path string, data map[string]any) *vaultapi.Secret {
	t.Helper()
	secret, err := client.Logical().WriteWithContext(t.Context(), path, data)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}
