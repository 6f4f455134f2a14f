package vaultca

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/checkup"
	"github.com/breakglassd/breakglass/internal/real"
)

// running starts Run and stops it with the test.
func running(t testing.TB, c *CA) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// eventually waits for something that happens without us, for a long time.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 1200 {
		if ok() {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("it did not happen that %s", what)
}

func (w *world) revoke(t testing.TB, token string) {
	t.Helper()
	if err := w.root.Auth().Token().RevokeTree(token); err != nil {
		t.Fatal(err)
	}
}

// renewNow makes it time for Run to renew the token, instead of waiting for two thirds of its life, and returns the session that
// is to be renewed.
func renewNow(c *CA, change ...func(*session)) *session {
	s := *c.session.Load()
	s.renewAt = time.Now()
	for _, f := range change {
		f(&s)
	}
	c.session.Store(&s)
	select {
	case c.kick <- struct{}{}: // Run wakes up
	default:
	}
	return &s
}

func TestRunRenewsBeforeTheTokenEnds(t *testing.T) {
	t.Parallel()
	w := sharedWorld(t)
	c := w.open(t)
	running(t, c)
	eventually(t, "Run logs in", func() bool { return c.session.Load() != nil })
	for range 2 {
		s := renewNow(c)
		eventually(t, "the token is renewed", func() bool { return c.session.Load() != s })
		if now := c.session.Load(); now.token != s.token || !now.ends.After(s.ends) || !now.renewAt.After(s.renewAt) {
			t.Errorf("the token was replaced, or renewed for nothing: it ended at %s, now %s", s.ends, now.ends)
		}
	}
	mustSign(t, c, newOrder(t, ""))
}

// Vault gives less than half of what the login gave: the maximum is near.
func TestRunLogsInAgainWhenTheTokenNearsItsMaximum(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(t, "auth/approle/role/"+w.cfg.Policy, map[string]any{"token_period": 0, "token_ttl": "30m", "token_max_ttl": "30m"})
	c := w.open(t)
	running(t, c)
	eventually(t, "Run logs in", func() bool { return c.session.Load() != nil })
	first := renewNow(c, func(s *session) { s.life = 2 * time.Hour })
	eventually(t, "there is another token", func() bool { return c.session.Load().token != first.token })
	if s := c.session.Load(); s.life > 30*time.Minute || !s.ends.After(first.ends) {
		t.Errorf("the new token lives for %s until %s", s.life, s.ends)
	}
	mustSign(t, c, newOrder(t, ""))
}

func TestARevokedTokenIsReplaced(t *testing.T) {
	t.Run("by Check", func(t *testing.T) {
		w := sharedWorld(t)
		c := w.open(t)
		mustSign(t, c, newOrder(t, ""))
		w.revoke(t, c.session.Load().token)
		mustSign(t, c, newOrder(t, ""))
	})
	t.Run("by Find", func(t *testing.T) {
		w := sharedWorld(t)
		c := w.open(t)
		o := newOrder(t, "")
		mustSign(t, c, o)
		w.revoke(t, c.session.Load().token)
		wantFound(t, c, o, 1)
	})
	t.Run("by Run after Sign", func(t *testing.T) {
		w := sharedWorld(t)
		c := w.open(t)
		o := newOrder(t, "")
		mustSign(t, c, o)
		running(t, c)
		old := c.session.Load().token
		w.revoke(t, old)
		if _, err := c.Sign(t.Context(), newOrder(t, "")); !errors.Is(err, breakglass.ErrNotSigned) {
			t.Errorf("Sign with a revoked token: %v, want ErrNotSigned", err)
		}
		eventually(t, "Run logs in again", func() bool { return c.session.Load().token != old })
		mustSign(t, c, newOrder(t, ""))
	})
}

func TestRefusedSigningDoesNotMakeNewTokens(t *testing.T) {
	w := sharedWorld(t)
	c := w.open(t)
	running(t, c)
	mustSign(t, c, newOrder(t, ""))
	token := c.session.Load().token
	for range 20 {
		o := newOrder(t, "")
		o.CommonName = "system:admin"
		if _, err := c.Sign(t.Context(), o); !errors.Is(err, breakglass.ErrNotSigned) {
			t.Fatal(err)
		}
	}
	mustSign(t, c, newOrder(t, ""))
	if c.session.Load().token != token {
		t.Error("a refusal that was not about the token led to a login")
	}
}

func TestSecretIDCanBeReplacedWhileRunning(t *testing.T) {
	w := newWorld(t)
	c := w.open(t)
	mustSign(t, c, newOrder(t, ""))
	old, err := os.ReadFile(w.cfg.Auth.SecretIDFile)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "auth/approle/role/"+w.cfg.Policy+"/secret-id/destroy", map[string]any{"secret_id": strings.TrimSpace(string(old))})
	w.revoke(t, c.session.Load().token)
	err = c.Check(t.Context(), "prod", "")
	wantError(t, err, "AppRole login", "secret id", w.cfg.Auth.SecretIDFile)
	s, err := w.root.Logical().Write("auth/approle/role/"+w.cfg.Policy+"/secret-id", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.cfg.Auth.SecretIDFile, []byte(s.Data["secret_id"].(string)), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new secret id is used", func() bool { return c.Check(t.Context(), "prod", "") == nil })
	noSecrets(t, w, strings.TrimSpace(string(old)), s.Data["secret_id"].(string))
}

// noSecrets fails if the log holds one of these.
func noSecrets(t testing.TB, w *world, secrets ...string) {
	t.Helper()
	for _, s := range secrets {
		if strings.Contains(w.log.String(), s) {
			t.Errorf("the log holds a secret:\n%s", w.log)
		}
	}
}

func TestTokenFileIsReadAgainWhenItChanges(t *testing.T) {
	t.Parallel()
	w := sharedWorld(t)
	first, second := w.token(t, nil), w.token(t, nil)
	useFile, file := tokenFile(t, first)
	c := w.open(t, useFile)
	running(t, c)
	eventually(t, "the first token is used", func() bool { return c.session.Load() != nil })
	next := filepath.Join(filepath.Dir(file), "next")
	if err := os.WriteFile(next, []byte(second), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, file); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second token is used", func() bool { return c.session.Load().token == second })
	w.revoke(t, first)
	mustSign(t, c, newOrder(t, ""))
}

func TestATokenThatHasEndedIsSaidSo(t *testing.T) {
	w := sharedWorld(t)
	token := w.token(t, map[string]any{"period": nil, "ttl": "10m", "renewable": false})
	useFile, file := tokenFile(t, token)
	c := w.open(t, useFile)
	if err := c.Check(t.Context(), "prod", ""); err != nil {
		t.Fatal(err)
	}
	if s := c.session.Load(); s.ends.IsZero() || !s.renewAt.IsZero() {
		t.Errorf("the session ends at %s and is renewed at %s, want an end and no renewal", s.ends, s.renewAt)
	}
	// By our own clock first, of which Vault is not asked, and then by Vault's word.
	s := *c.session.Load()
	s.ends = time.Now()
	c.session.Store(&s)
	refuses := func(c *CA, says string) {
		t.Helper()
		wantError(t, c.Check(t.Context(), "prod", ""), says)
		if _, err := c.Sign(t.Context(), newOrder(t, "")); !errors.Is(err, breakglass.ErrNotSigned) {
			t.Errorf("Sign without a token: %v, want ErrNotSigned", err)
		}
	}
	refuses(c, "the Vault token in "+file+" has expired: put a new one there")
	w.revoke(t, token)
	refuses(w.open(t, useFile), "Vault does not accept the token in "+file+": put a valid one there")
	noSecrets(t, w, token)
}

func TestASealedVaultSaysSo(t *testing.T) {
	v := newVault(t, real.VaultOptions{})
	w := worldIn(t, v)
	c := w.open(t)
	mustSign(t, c, newOrder(t, ""))
	if err := v.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantError(t, c.Check(t.Context(), "prod", ""), "Vault is sealed: unseal it")
	_, err := c.Health(t.Context())
	wantError(t, err, "Vault is sealed: unseal it")
	if _, err := c.Sign(t.Context(), newOrder(t, "")); !errors.Is(err, breakglass.ErrNotSigned) {
		t.Errorf("Sign on a sealed Vault: %v, want ErrNotSigned", err)
	}
	if _, err := c.Find(t.Context(), "prod", "x"); err == nil {
		t.Error("Find on a sealed Vault says that there is nothing")
	}
	if f := c.Doctor(t.Context()); len(f) != 1 || f[0].Level != checkup.Error {
		t.Errorf("Doctor on a sealed Vault: %+v", f)
	}
	if err := v.Unseal(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it works again", func() bool { return c.Check(t.Context(), "prod", "") == nil })
	v.Stop()
	wantError(t, c.Check(t.Context(), "prod", ""), "nothing listens at "+v.Addr)
	if _, err := c.Sign(t.Context(), newOrder(t, "")); !errors.Is(err, breakglass.ErrNotSigned) {
		t.Errorf("Sign without a Vault: %v, want ErrNotSigned", err)
	}
}

func TestOnlyTheRightVaultIsBelieved(t *testing.T) {
	w := sharedWorld(t)
	other, err := real.NewCA("somebody else")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, other.CertPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	c := w.open(t, func(cfg *Config) { cfg.CAFile = file })
	wantError(t, c.Check(t.Context(), "prod", ""), file, "CA file")
	if _, err := c.Sign(t.Context(), newOrder(t, "")); !errors.Is(err, breakglass.ErrNotSigned) {
		t.Errorf("Sign: %v, want ErrNotSigned", err)
	}
	// The same with a session from before: the signing connection itself is what is refused.
	good := w.open(t)
	mustSign(t, good, newOrder(t, ""))
	c.session.Store(good.session.Load())
	c.issuers.Store(w.mount.IssuerID, mustIssuer(t, good))
	if _, err := c.Sign(t.Context(), newOrder(t, "")); !errors.Is(err, breakglass.ErrNotSigned) {
		t.Errorf("Sign to a server that is not Vault: %v, want ErrNotSigned", err)
	}
}

func TestTheEnvironmentIsNotRead(t *testing.T) {
	w := sharedWorld(t)
	for k, v := range map[string]string{"VAULT_ADDR": "http://192.0.2.1:1", "VAULT_TOKEN": "hvs.not-this-one", "VAULT_NAMESPACE": "elsewhere",
		"VAULT_SKIP_VERIFY": "1",
		"VAULT_MAX_RETRIES": "9", "VAULT_HEADERS": `{"x":"y"}`, "VAULT_WRAP_TTL": "5m", "HTTPS_PROXY": "http://192.0.2.1:1",
		"VAULT_PROXY_ADDR": "http://192.0.2.1:1"} {
		t.Setenv(k, v)
	}
	c := w.open(t)
	mustSign(t, c, newOrder(t, ""))
	if h := c.read.Headers(); len(h) != 1 {
		t.Errorf("headers %v", h)
	}
	if c.read.MaxRetries() != 0 || c.sign.MaxRetries() != 0 {
		t.Error("a client has retries")
	}
}

func TestASlowVaultIsAnUnknownOutcome(t *testing.T) {
	v := plainVault(t)
	w := worldIn(t, v)
	m := newMiddle(t, v)
	patient := w.open(t, func(cfg *Config) { cfg.Address = m.addr })
	mustSign(t, patient, newOrder(t, ""))
	// Only what is held on purpose is asked by one that does not wait for long.
	c := w.open(t, func(cfg *Config) { cfg.Address, cfg.SignTimeout, cfg.Timeout = m.addr, 2*time.Second, 2*time.Second })
	c.session.Store(patient.session.Load())
	c.issuers.Store(w.mount.IssuerID, mustIssuer(t, patient))
	release, signed := make(chan struct{}), make(chan struct{}, 1)
	slow := func(http.ResponseWriter, []byte) { signed <- struct{}{}; <-release }
	m.answer.Store(&slow)
	o := newOrder(t, "")
	before := m.signs.Load()
	_, err := c.Sign(t.Context(), o)
	wantError(t, err, "did not answer within 2s")
	if errors.Is(err, breakglass.ErrNotSigned) {
		t.Error("a slow answer is taken for none")
	}
	if n := m.signs.Load() - before; n != 1 {
		t.Errorf("%d signing calls, want 1", n)
	}
	select {
	case <-signed:
	case <-time.After(time.Minute):
		t.Fatal("Vault has not answered")
	}
	wantFound(t, patient, o, 1)
	wait := func() { <-release }
	m.before.Store(&wait)
	wantError(t, c.Check(t.Context(), "prod", ""), "did not answer within 2s")
	if _, err := c.Find(t.Context(), "prod", o.CommonName); err == nil {
		t.Error("Find says something about a Vault that does not answer")
	}
	close(release)
	m.before.Store(nil)
	m.answer.Store(nil)
	eventually(t, "Vault answers again", func() bool { return c.Check(t.Context(), "prod", "") == nil })
	mustSign(t, patient, newOrder(t, ""))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Sign(ctx, newOrder(t, "")); !errors.Is(err, breakglass.ErrNotSigned) {
		t.Errorf("Sign given up before it began: %v, want ErrNotSigned", err)
	}
}

func TestFailedLoginsAreNotAFlood(t *testing.T) {
	v := plainVault(t)
	w := worldIn(t, v)
	m := newMiddle(t, v)
	c := w.open(t, func(cfg *Config) { cfg.Address, cfg.Auth.RoleID = m.addr, "00000000-0000-0000-0000-000000000000" })
	running(t, c)
	for range 200 {
		if err := c.Check(t.Context(), "prod", ""); err == nil {
			t.Fatal("logged in with a wrong role id")
		}
	}
	if n := m.others.Load(); n > 20 {
		t.Errorf("%d logins were tried at once", n)
	}
}

func mustIssuer(t testing.TB, c *CA) any {
	t.Helper()
	cert, err := c.Issuer(t.Context(), "prod")
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
