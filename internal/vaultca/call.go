package vaultca

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/breakglassd/breakglass/internal/text"
)

// answer is what Vault sends with a 2xx status.
type answer struct {
	Data     map[string]any `json:"data"`
	raw      []byte         // Data as it was sent; of readings only
	serials  [][]byte       // the serial numbers that were cut out of Data; of lists only
	Warnings []string       `json:"warnings"`
	Auth     *struct {
		ClientToken   string `json:"client_token"`
		LeaseDuration int64  `json:"lease_duration"`
		Renewable     bool   `json:"renewable"`
	} `json:"auth"`
}

// callError is a call that did not end with a usable answer. Its text is one sentence that holds no secret.
type callError struct {
	status int           // 0: no answer
	vault  bool          // the body was a Vault error object, though perhaps without words
	said   []string      // Vault's own words, cleaned
	sent   bool          // a connection was made, so that Vault may have got the request
	wait   time.Duration // how long Vault asks to be left alone; 0: it does not say
	why    string
}

func (e *callError) Error() string { return e.why }

// RetryAfter is how long Vault asks to be left alone, at most longestWait; 0 when it does not say.
func (e *callError) RetryAfter() time.Duration { return e.wait }

// Bounds of what Vault may ask for when it has had too many requests.
const (
	shortestWait = 250 * time.Millisecond
	usualWait    = time.Second // when it does not say: the interval of Vault's rate limits
	longestWait  = 30 * time.Second
)

// tooMany reports how long to wait before the same call may be answered, if Vault itself said that it had too many requests.
func tooMany(err error) (time.Duration, bool) {
	var e *callError
	if !errors.As(err, &e) || e.status != http.StatusTooManyRequests || len(e.said) == 0 {
		return 0, false
	}
	if e.wait == 0 {
		return usualWait, true
	}
	return e.wait, true
}

// absent reports whether Vault itself, and not something in between, says that there is nothing at this path.
func absent(err error) bool {
	var e *callError
	return errors.As(err, &e) && e.status == http.StatusNotFound && e.vault && len(e.said) == 0
}

// denied reports whether Vault refused the token for this path.
func denied(err error) bool {
	var e *callError
	return errors.As(err, &e) && e.status == http.StatusForbidden && e.vault
}

// call makes one request and reads its answer.
func (c *CA) call(ctx context.Context, client *api.Client, timeout time.Duration, token, method, path string, body any) (*answer, error) {
	req := client.NewRequest(method, "/v1/"+path)
	req.ClientToken = token
	return c.do(ctx, client, timeout, req, body)
}

// get is a call on the reading client.
func (c *CA) get(ctx context.Context, token, path string) (*answer, error) {
	return c.look(ctx, token, http.MethodGet, path)
}

// look reads. Where Vault has had too many requests it waits as long as Vault asks and reads again, as long as Timeout lasts: a
// claim must not fail for the readings that come before its signature.
func (c *CA) look(ctx context.Context, token, method, path string) (*answer, error) {
	last := time.Now().Add(c.cfg.Timeout)
	for {
		a, err := c.call(ctx, c.read, c.cfg.Timeout, token, method, path, nil)
		wait, busy := tooMany(err)
		if !busy || time.Now().Add(wait).After(last) {
			return a, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// do sends a request, exactly once, and reads its answer. Every error is a *callError but for a body that cannot be encoded.
func (c *CA) do(ctx context.Context, client *api.Client, timeout time.Duration, req *api.Request, body any) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if body != nil {
		if err := req.SetJSONBody(body); err != nil {
			return nil, fmt.Errorf("encoding a request to Vault: %w", err)
		}
	}
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }})
	resp, err := client.RawRequestWithContext(ctx, req)
	if resp != nil && resp.Body != nil {
		defer resp.Body.Close()
	}
	if err == nil {
		a := new(answer)
		if resp.StatusCode == http.StatusNoContent {
			return a, nil
		}
		if resp.StatusCode == http.StatusOK && c.decodeAnswer(req, resp.Body, a) == nil {
			return a, nil
		}
		if resp.StatusCode == http.StatusTemporaryRedirect {
			return nil, &callError{status: resp.StatusCode, sent: true, why: "the Vault at " + c.cfg.Address +
				" is a standby that sends its callers elsewhere: use the address of the active node"}
		}
		return nil, &callError{status: resp.StatusCode, sent: true,
			why: fmt.Sprintf("the answer of %s (status %d) is not one of Vault's, or is cut short: "+
				"see what stands between the daemon and Vault", c.cfg.Address, resp.StatusCode)}
	}
	e := &callError{sent: sent.Load()}
	var re *api.ResponseError
	if !errors.As(err, &re) {
		e.why = c.unreachable(err, timeout)
		return nil, e
	}
	e.status = re.StatusCode
	if resp != nil {
		e.wait = retryAfter(resp.Header.Get("Retry-After"))
	}
	if !re.RawError && re.Errors != nil {
		e.vault = true
		secret, _ := c.secret.Load().(string)
		e.said = clean(re.Errors, req.ClientToken, secret)
	}
	e.why = c.refused(re.StatusCode, e.said)
	return nil, e
}

// decodeAnswer is decode for an answer. The data of a reading that are byte for byte those of the last one from the same path are
// not decoded again: they are read before every signature and hardly ever change.
func (c *CA) decodeAnswer(req *api.Request, r io.Reader, a *answer) error {
	if req.Method == "LIST" {
		body, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		body, a.serials = cutSerials(body)
		return decode(bytes.NewReader(body), a)
	}
	if req.Method != http.MethodGet {
		return decode(r, a)
	}
	var body struct {
		answer
		Data json.RawMessage `json:"data"`
	}
	if err := decode(r, &body); err != nil {
		return err
	}
	*a = body.answer
	if len(body.Data) == 0 {
		return nil
	}
	if last, ok := c.bodies.Load(req.URL.Path); ok && bytes.Equal(last.(*answer).raw, body.Data) {
		a.Data, a.raw = last.(*answer).Data, last.(*answer).raw // nobody writes into an answer
		return nil
	}
	if err := decode(bytes.NewReader(body.Data), &a.Data); err != nil {
		return err
	}
	a.raw = body.Data
	if kept := remembered.MatchString(req.URL.Path); kept {
		c.bodies.Store(req.URL.Path, &answer{Data: a.Data, raw: a.raw})
	}
	return nil
}

// remembered are the paths that are read before every signature. There are few of them, unlike those of certificates.
var remembered = regexp.MustCompile(`/(?:roles|issuer|policies/acl)/[^/]+$`)

// retryAfter reads a number of seconds. A date is not taken: Vault sends none, and clocks differ.
func retryAfter(header string) time.Duration {
	n, err := strconv.ParseUint(header, 10, 32)
	if err != nil {
		return 0
	}
	return min(max(time.Duration(n)*time.Second, shortestWait), longestWait)
}

// decode reads exactly one JSON value. Numbers stay as they were written.
func decode(r io.Reader, into any) error {
	d := json.NewDecoder(r)
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows the answer")
	}
	return nil
}

// sealed is Vault's own word, said before a request reaches any engine.
const sealed = "Vault is sealed"

func (c *CA) refused(status int, said []string) string {
	switch {
	case slices.Contains(said, sealed):
		return "Vault is sealed: unseal it (vault operator unseal)"
	case status == http.StatusForbidden && len(said) > 0:
		return "Vault denied it (" + strings.Join(said, "; ") + "): the token or its policy is not the one from setup.sh"
	case status == http.StatusTooManyRequests && len(said) > 0:
		return "Vault has had too many requests (" + strings.Join(said, "; ") + "): a rate limit or a quota there is too low for breakglassd"
	case len(said) > 0:
		return fmt.Sprintf("Vault refused (status %d): %s", status, strings.Join(said, "; "))
	}
	return fmt.Sprintf("%s answered with status %d and no reason: see Vault's log, and what stands between the daemon and Vault",
		c.cfg.Address, status)
}

func (c *CA) unreachable(err error, timeout time.Duration) string {
	var certErr *tls.CertificateVerificationError
	var hostErr x509.HostnameError
	var opErr *url.Error
	switch {
	case errors.As(err, &hostErr):
		return fmt.Sprintf("the server at %s has no certificate for that name: check the address", c.cfg.Address)
	case errors.As(err, &certErr):
		return fmt.Sprintf("the server at %s cannot prove with %s that it is Vault: check the address and the CA file", c.cfg.Address,
			c.cfg.CAFile)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("Vault at %s did not answer within %s: see whether it is up and reachable", c.cfg.Address, timeout)
	case errors.Is(err, context.Canceled):
		return "the call to Vault was given up"
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("nothing listens at %s: start Vault, or correct the address", c.cfg.Address)
	case errors.As(err, &opErr): // without the URL, which the reader knows
		return fmt.Sprintf("the connection to Vault at %s failed: %s", c.cfg.Address, strings.Join(clean([]string{opErr.Err.Error()}), ""))
	}
	return fmt.Sprintf("the answer of %s is cut short", c.cfg.Address)
}

// tokenLike is what Vault's tokens look like: hvs., hvb., hvr., and s. of old.
var tokenLike = regexp.MustCompile(`\b(?:hv[sbr]|s|b)\.[A-Za-z0-9_-]{16,}`)

// redact takes out what is, or looks like, a secret.
func redact(s string, secrets []string) string {
	for _, secret := range secrets {
		if secret != "" {
			s = strings.ReplaceAll(s, secret, "[redacted]")
		}
	}
	return tokenLike.ReplaceAllString(s, "[redacted]")
}

// clean makes words of another program fit to be read by people and logged: short, on one line, no control characters, and
// nothing in it that is or looks like a secret.
func clean(said []string, secrets ...string) []string {
	var out []string
	for _, s := range said[:min(len(said), 5)] {
		// A secret may have been broken up by what cannot be seen.
		if bare := text.Bare(s); redact(bare, secrets) != bare {
			s = redact(bare, secrets)
		}
		s = redact(text.Clean(s), secrets)
		s = strings.TrimPrefix(s, "1 error occurred: * ")
		s = text.Cut(s, 300)
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}

// text and the three below read one field of an answer. A missing or mistyped one is the zero value, which no check accepts.
func (a *answer) text(field string) string {
	s, _ := a.Data[field].(string)
	return s
}

func (a *answer) flag(field string) bool {
	b, _ := a.Data[field].(bool)
	return b
}

func (a *answer) seconds(field string) time.Duration {
	n, _ := a.Data[field].(json.Number)
	s, _ := n.Int64()
	return time.Duration(s) * time.Second
}

func (a *answer) list(field string) []string {
	if s := a.text(field); s != "" {
		return strings.Split(s, ",")
	}
	items, _ := a.Data[field].([]any)
	out := make([]string, 0, len(items))
	for _, it := range items {
		if s, ok := it.(string); ok {
			out = append(out, s)
		}
	}
	return out
}
