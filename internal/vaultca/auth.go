package vaultca

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/retry"
)

// session is one token and what is known about its life. It never changes; a renewal makes a new one.
type session struct {
	token   string
	life    time.Duration // as given at login; 0: does not end
	renewAt time.Time     // zero: never
	ends    time.Time     // zero: never
}

// Bounds of the token's upkeep.
const (
	filePoll    = 5 * time.Second // how soon a new token in the file is seen
	loginPause  = time.Second     // between logins that callers ask for
	idleRecheck = time.Minute     // a token that needs no renewal is still looked at
)

// backoff is how long to wait after a failed renewal or login.
var backoff = retry.Backoff{First: time.Second, Last: 30 * time.Second}

// newSession says when to renew: at two thirds of what is left, up to a tenth earlier so that replicas do not come together.
func newSession(token string, life, left time.Duration, renewable bool, now time.Time) *session {
	s := &session{token: token, life: life}
	if left > 0 {
		s.ends = now.Add(left)
	}
	if left > 0 && renewable {
		s.renewAt = now.Add(time.Duration(float64(left) * 2 / 3 * (1 - rand.Float64()/10)))
	}
	return s
}

func (s *session) expired(now time.Time) bool { return !s.ends.IsZero() && !now.Before(s.ends) }

// token returns a token that has not expired, logging in if there is none.
func (c *CA) token(ctx context.Context) (*session, error) {
	if s := c.session.Load(); s != nil && !s.expired(time.Now()) {
		return s, nil
	}
	return c.relogin(ctx, c.session.Load())
}

// relogin replaces the session old. Callers that come together share one login, and after a failed one they share its error
// for a moment, so that no number of them becomes a flood of logins.
func (c *CA) relogin(ctx context.Context, old *session) (*session, error) {
	c.login.Lock()
	defer c.login.Unlock()
	if s := c.session.Load(); s != old && s != nil && !s.expired(time.Now()) {
		return s, nil
	}
	if c.failed != nil && time.Since(c.tried) < loginPause {
		return nil, c.failed
	}
	s, err := c.newToken(ctx, old)
	c.failed, c.tried = err, time.Now()
	if err != nil {
		if ctx.Err() != nil {
			c.failed = nil // the caller gave up, which says nothing about Vault
		}
		return nil, err
	}
	c.session.Store(s)
	c.log.Info("logged in to Vault", slog.String("method", c.cfg.Auth.Method), slog.Duration("ttl", s.life))
	return s, nil
}

func (c *CA) newToken(ctx context.Context, old *session) (*session, error) {
	if c.cfg.Auth.Method == AuthTokenFile {
		token, err := readSecret(c.cfg.Auth.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("reading the Vault token: %w", err)
		}
		if old != nil && old.token == token && old.expired(time.Now()) {
			return nil, fmt.Errorf("the Vault token in %s has expired: put a new one there", c.cfg.Auth.TokenFile)
		}
		return c.lookup(ctx, token)
	}
	secret, err := readSecret(c.cfg.Auth.SecretIDFile)
	if err != nil {
		return nil, fmt.Errorf("reading the AppRole secret id: %w", err)
	}
	c.secret.Store(secret)
	if tokenLike.MatchString(secret) {
		return nil, fmt.Errorf("%s holds a token instead of a secret id: a wrapped secret id must be unwrapped first: vault unwrap "+
			"-field=secret_id", c.cfg.Auth.SecretIDFile)
	}
	a, err := c.call(ctx, c.read, c.cfg.Timeout, "", http.MethodPost, "auth/"+c.cfg.Auth.Mount+"/login",
		map[string]any{"role_id": c.cfg.Auth.RoleID, "secret_id": secret})
	var e *callError
	switch {
	case errors.As(err, &e) && len(e.said) > 0 && e.status >= 400 && e.status < 500:
		return nil, fmt.Errorf("Vault refused the AppRole login (%s): put a new secret id into %s, or correct the role id",
			strings.Join(e.said, "; "), c.cfg.Auth.SecretIDFile)
	case err != nil:
		return nil, fmt.Errorf("logging in to Vault: %w", err)
	case a.Auth == nil || a.Auth.ClientToken == "":
		return nil, fmt.Errorf("logging in to Vault: the answer of auth/%s holds no token: check the mount of the AppRole engine",
			c.cfg.Auth.Mount)
	}
	life := time.Duration(a.Auth.LeaseDuration) * time.Second
	return newSession(a.Auth.ClientToken, life, life, a.Auth.Renewable, time.Now()), nil
}

// lookup asks Vault about a token that somebody else made.
func (c *CA) lookup(ctx context.Context, token string) (*session, error) {
	a, err := c.get(ctx, token, "auth/token/lookup-self")
	if denied(err) {
		return nil, fmt.Errorf("Vault does not accept the token in %s: put a valid one there", c.cfg.Auth.TokenFile)
	}
	if err == nil && slices.Equal(a.list("policies"), []string{"response-wrapping"}) {
		return nil, fmt.Errorf("%s holds a wrapping token, not the token itself: vault unwrap -field=token, and take wrap_ttl out of the sink "+
			"of Vault Agent", c.cfg.Auth.TokenFile)
	}
	if err != nil {
		return nil, fmt.Errorf("looking up the Vault token: %w", err)
	}
	return newSession(token, a.seconds("creation_ttl"), a.seconds("ttl"), a.flag("renewable"), time.Now()), nil
}

// revived is for a caller whose token was denied something: a new session if Vault no longer knows the token, and s itself if
// it does, so that the policy is what denies and no login can cure it.
func (c *CA) revived(ctx context.Context, s *session) (*session, error) {
	if _, err := c.get(ctx, s.token, "auth/token/lookup-self"); !denied(err) {
		return s, nil
	}
	return c.relogin(ctx, s)
}

func readSecret(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	s := strings.TrimSpace(string(text))
	switch {
	case s == "":
		return "", fmt.Errorf("%s is empty", file)
	case strings.HasPrefix(s, "{"):
		return "", fmt.Errorf("%s holds a JSON object instead of the secret itself: Vault Agent writes one when wrap_ttl is set in its sink, "+
			"and `vault unwrap` "+
			"without -field prints one; put the plain secret there", file)
	}
	return s, nil
}

// Run keeps the daemon logged in until ctx ends: it renews the token at two thirds of its life, logs in again when that
// fails or when the token nears its maximum life, and reads the token file again when it changes. While Vault is down it tries
// again with growing pauses. It returns nil.
func (c *CA) Run(ctx context.Context) error {
	failures := 0 // since the last round that was good
	for {
		wait := backoff.Wait(failures)
		if failures == 0 {
			wait = c.untilNext(time.Now())
		} else {
			wait += rand.N(wait / 4) // replicas do not come together
		}
		timer := time.NewTimer(wait)
		refused := false
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-c.kick:
			timer.Stop()
			refused = true
		case <-timer.C:
		}
		if err := c.upkeep(ctx, refused); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			left := slog.Duration("left", 0)
			if s := c.session.Load(); s != nil && !s.ends.IsZero() {
				left = slog.Duration("left", time.Until(s.ends))
			}
			c.log.Error("the Vault token cannot be kept alive", slog.Any("error", err), left)
			failures++
			continue
		}
		failures = 0
	}
}

// untilNext is how long the token can be left alone.
func (c *CA) untilNext(now time.Time) time.Duration {
	s := c.session.Load()
	if s == nil {
		return 0
	}
	wait := idleRecheck
	switch {
	case !s.renewAt.IsZero():
		wait = s.renewAt.Sub(now)
	case !s.ends.IsZero():
		wait = s.ends.Sub(now)
	}
	if c.cfg.Auth.Method == AuthTokenFile {
		wait = min(wait, filePoll)
	}
	return max(wait, 100*time.Millisecond) // whatever lifetime Vault gives, this is not a busy loop
}

// upkeep is one round: whatever the token needs now.
func (c *CA) upkeep(ctx context.Context, refused bool) error {
	s := c.session.Load()
	now := time.Now()
	if s == nil || s.expired(now) {
		_, err := c.relogin(ctx, s)
		return err
	}
	if c.cfg.Auth.Method == AuthTokenFile {
		token, err := readSecret(c.cfg.Auth.TokenFile)
		if err != nil {
			return fmt.Errorf("reading the Vault token: %w", err)
		}
		if token != s.token {
			_, err := c.relogin(ctx, s)
			return err
		}
	}
	if refused {
		_, err := c.revived(ctx, s)
		return err
	}
	if s.renewAt.IsZero() || now.Before(s.renewAt) {
		return nil
	}
	renewed, err := c.renew(ctx, s)
	if err != nil {
		if _, again := c.relogin(ctx, s); again != nil {
			return errors.Join(err, again)
		}
		return nil
	}
	if c.session.CompareAndSwap(s, renewed) && c.cfg.Auth.Method == AuthAppRole && renewed.ends.Sub(now) < s.life/2 {
		// The token has a maximum life and nears it: renewing gives less and less.
		_, err = c.relogin(ctx, renewed)
	}
	return err
}

func (c *CA) renew(ctx context.Context, s *session) (*session, error) {
	a, err := c.call(ctx, c.read, c.cfg.Timeout, s.token, http.MethodPost, "auth/token/renew-self", map[string]any{})
	if err != nil {
		return nil, fmt.Errorf("renewing the Vault token: %w", err)
	}
	if a.Auth == nil || a.Auth.LeaseDuration <= 0 {
		return nil, errors.New("renewing the Vault token: the answer holds no lifetime")
	}
	return newSession(s.token, s.life, time.Duration(a.Auth.LeaseDuration)*time.Second, a.Auth.Renewable, time.Now()), nil
}
