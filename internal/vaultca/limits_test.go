package vaultca

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/real"
	"github.com/breakglassd/breakglass/policies"
)

// A rate limit on the mount turns calls away. Readings wait for their turn, and a signature that is turned away is one that may be
// asked for again: in the end there is one certificate.
func TestARateLimitOnTheMountCostsTimeAndNotTheOrder(t *testing.T) {
	t.Parallel()
	w := worldIn(t, newVault(t, real.VaultOptions{}))
	c := w.open(t)
	mustSign(t, c, newOrder(t, "")) // a login and an issuer that are known, as in a daemon that has run for a while
	for _, rate := range []int{1, 2} {
		w.write(t, "sys/quotas/rate-limit/tight", map[string]any{"path": w.mount.Path, "rate": rate})
		o := newOrder(t, "")
		if err := c.Check(t.Context(), o.Cluster, o.Group); err != nil {
			t.Fatalf("rate %d: Check: %v", rate, err)
		}
		signed := false
		for range 20 {
			_, err := c.Sign(t.Context(), o)
			if signed = err == nil; signed {
				break
			}
			if !errors.Is(err, breakglass.ErrNotSignedNow) {
				t.Fatalf("rate %d: Sign: %v, want ErrNotSignedNow", rate, err)
			}
			wait, busy := tooMany(err)
			if !busy {
				t.Fatalf("rate %d: Sign: %v, want one that says how long to wait", rate, err)
			}
			time.Sleep(wait)
		}
		if _, err := w.root.Logical().Delete("sys/quotas/rate-limit/tight"); err != nil {
			t.Fatal(err)
		}
		if !signed {
			t.Errorf("rate %d: not signed after 20 tries", rate)
		}
		wantFound(t, c, o, 1)
	}
}

func TestRetryAfterIsReadAndBounded(t *testing.T) {
	for header, want := range map[string]time.Duration{"": 0, "2": 2 * time.Second, "0": shortestWait, "86400": longestWait, "-1": 0,
		"Wed, 21 Oct 2037 07:28:00 GMT": 0, "x": 0} {
		if got := retryAfter(header); got != want {
			t.Errorf("Retry-After %q = %s, want %s", header, got, want)
		}
	}
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Retry-After", "7")
		rw.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprint(rw, `{"errors":["request path \"pki\": rate limit quota exceeded"]}`)
	}))
	defer srv.Close()
	w := sharedWorld(t)
	c := w.open(t, func(cfg *Config) { cfg.Address, cfg.CAFile, cfg.Timeout = srv.URL, "", time.Second })
	c.session.Store(newSession("t", time.Hour, time.Hour, true, time.Now()))
	c.issuers.Store(w.mount.IssuerID, testCA(t).Cert)
	_, err := c.Sign(t.Context(), newOrder(t, ""))
	var e interface{ RetryAfter() time.Duration }
	if !errors.Is(err, breakglass.ErrNotSignedNow) || !errors.As(err, &e) {
		t.Fatalf("Sign: %v, want ErrNotSignedNow with how long to wait", err)
	}
	if wait := e.RetryAfter(); wait != 7*time.Second {
		t.Errorf("it says %s, want 7s", wait)
	}
	wantError(t, err, "too many requests", "quota")
}

// counted counts the connections that are made to Vault.
func counted(t *testing.T, v *real.Vault) (addr string, made *atomic.Int64) {
	t.Helper()
	l := mustListen(t)
	made = new(atomic.Int64)
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			made.Add(1)
			out, err := net.Dial("tcp", strings.TrimPrefix(v.Addr, "http://"))
			if err != nil {
				in.Close()
				return
			}
			go pipe(in, out)
			go pipe(out, in)
		}
	}()
	t.Cleanup(func() { l.Close() })
	return "http://" + l.Addr().String(), made
}

func pipe(from, to net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	from.Close()
	to.Close()
}

// The connection for the signature is made while Check reads, not after.
func TestSignFindsItsConnectionMadeByCheck(t *testing.T) {
	v := plainVault(t)
	w := worldIn(t, v)
	addr, made := counted(t, v)
	c := w.open(t, func(cfg *Config) { cfg.Address = addr })
	if err := c.Check(t.Context(), "prod", ""); err != nil {
		t.Fatal(err)
	}
	before := made.Load()
	if _, err := c.Sign(t.Context(), newOrder(t, "")); err != nil {
		t.Fatal(err)
	}
	if n := made.Load() - before; n != 0 {
		t.Errorf("Sign made %d connections after Check", n)
	}
}

func TestCloseGivesTheTokenBack(t *testing.T) {
	w := sharedWorld(t)
	c := w.open(t)
	mustSign(t, c, newOrder(t, ""))
	token := c.session.Load().token
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if status, _ := w.http(t, token, "GET", "auth/token/lookup-self", nil); status != http.StatusForbidden {
		t.Errorf("the token still answers: status %d", status)
	}
	foreign := w.token(t, nil)
	useFile, _ := tokenFile(t, foreign)
	c = w.open(t, useFile)
	mustSign(t, c, newOrder(t, ""))
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if status, text := w.http(t, foreign, "GET", "auth/token/lookup-self", nil); status != http.StatusOK {
		t.Errorf("a token that was only lent is gone: status %d %s", status, text)
	}
}

func TestWrappedSecretsAreSaidToBeWrapped(t *testing.T) {
	w := sharedWorld(t)
	useFile, file := tokenFile(t, `{"token":"hvs.x","wrapped_accessor":"y"}`)
	wantError(t, w.open(t, useFile).Check(t.Context(), "prod", ""), file, "wrap_ttl")
	secret := file + "-id"
	if err := os.WriteFile(secret, []byte("hvs.CAESIJ0000000000000000000000"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantError(t, w.open(t, func(cfg *Config) { cfg.Auth.SecretIDFile = secret }).Check(t.Context(), "prod", ""), secret, "unwrap")
}

// A round of CheckAll reads token, policy and clock once, and of the mounts that were well a quarter.
func TestLookingAroundReadsWhatIsSharedOnceAndMountsInTurn(t *testing.T) {
	v := plainVault(t)
	w := worldIn(t, v)
	address, calls := callsTo(t, v)
	groups := map[string][]string{}
	c := w.open(t, func(cfg *Config) {
		cfg.Address, cfg.Mounts = address, nil
		for i := range 8 {
			m := w.mount
			m.Cluster = fmt.Sprintf("c%d", i)
			cfg.Mounts = append(cfg.Mounts, m)
			groups[m.Cluster] = []string{""}
		}
	})
	look := func(wrong ...string) {
		t.Helper()
		for cluster, err := range c.CheckAll(t.Context(), groups) {
			if (err != nil) != slices.Contains(wrong, cluster) {
				t.Errorf("%s: %v", cluster, err)
			}
		}
	}
	role := w.mount.Path + "/roles/breakglass"
	for round, want := range []int{8, 2, 2, 2, 2} {
		calls()
		look()
		seen := calls()
		if seen["auth/token/lookup-self"] != 1 || seen["sys/policies/acl/"+w.cfg.Policy] != 1 || seen["sys/health"] != 1 ||
			seen[role] != want {
			t.Errorf("round %d: %v, want one reading of each and %d of roles", round, seen, want)
		}
	}
	// What breaks is seen when its turn comes, and from then on each time.
	if _, err := w.root.Logical().Delete(role); err != nil {
		t.Fatal(err)
	}
	bad := func() (n int) {
		for _, err := range c.CheckAll(t.Context(), groups) {
			if err != nil {
				n++
			}
		}
		return n
	}
	for round, want := range []int{2, 4, 5, 6, 7, 7, 8} {
		if n := bad(); n < want-1 {
			t.Errorf("round %d: %d clusters are known not to be signed for, want about %d", round, n, want)
		}
	}
	if n := bad(); n != 8 {
		t.Errorf("%d of 8 clusters are known not to be signed for", n)
	}
	if err := v.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	look(slices.Collect(maps.Keys(groups))...)
}

func TestABlockOfThePolicyStopsOnlyWhatItIsAbout(t *testing.T) {
	text, err := policies.VaultPolicy("p", []policies.VaultMount{{Path: "pki-a"}, {Path: "pki-b", Groups: []string{group}}})
	if err != nil {
		t.Fatal(err)
	}
	without := func(path string) string {
		at := strings.Index(text, `path "`+path+`"`)
		if at < 0 {
			t.Fatalf("no block for %s", path)
		}
		return text[:at] + text[at+strings.Index(text[at:], "\n}\n")+3:]
	}
	for name, tc := range map[string]struct {
		text string
		a, b bool // stopped
	}{
		"what ships":               {text, false, false},
		"a list right is gone":     {without("pki-b/certs"), false, true},
		"the signing path is gone": {without("pki-b/sign/breakglass"), false, true},
		"a group's path is gone":   {without("pki-b/sign/breakglass-cluster-admins"), false, true},
		"a right of the token":     {without("sys/capabilities-self"), false, false},
		"a changed block":          {strings.Replace(text, `path "pki-b/certs" {`, `path "pki-b/certs" { # x`, 1), false, true},
		"one more on a mount":      {text + `path "pki-b/sign-verbatim" { capabilities = ["update"] }`, false, true},
		"a wildcard on a mount":    {text + `path "pki-b/*" { capabilities = ["update"] }`, false, true},
		"a wildcard over mounts":   {text + `path "pki-*" { capabilities = ["update"] }`, true, true},
		"a plus for a mount":       {text + `path "+/sign/breakglass" { capabilities = ["update"] }`, true, true},
		"something else in Vault":  {text + `path "sys/mounts" { capabilities = ["sudo"] }`, true, true},
	} {
		v := policyDrift("p", tc.text, "pki-a", "pki-b")
		if a, b := v.against("pki-a"), v.against("pki-b"); (len(a) > 0) != tc.a || (len(b) > 0) != tc.b {
			t.Errorf("%s: against pki-a %q, against pki-b %q", name, a, b)
		}
		if !tc.a && !v.allows("pki-a", "") || v.allows("pki-a", group) || v.allows("pki-c", "") {
			t.Errorf("%s: allowed is %q", name, v.allowed)
		}
	}
	var foreign strings.Builder
	for i := range 40 {
		fmt.Fprintf(&foreign, "path \"x%d/y\" {\n  capabilities = [\"read\"]\n}\n", i)
	}
	if said := strings.Join(policyDrift("p", text+foreign.String()).against("pki-a"), "; "); len(said) > 200 ||
		!strings.Contains(said, "and 37 more") {
		t.Errorf("%d characters: %s", len(said), said)
	}
}

// Claims that come at one time read a new certificate once, and not each for itself.
func TestFindsAtOneTimeReadEachCertificateOnce(t *testing.T) {
	v := plainVault(t)
	w := worldIn(t, v)
	address, calls := callsTo(t, v)
	c := w.open(t, func(cfg *Config) { cfg.Address = address })
	const certificates, callers = 6, 16
	other := w.open(t) // what a process had signed itself it need not read
	for range certificates {
		mustSign(t, other, newOrder(t, ""))
	}
	var all errgroup.Group
	for range callers {
		all.Go(func() error {
			found, err := c.Find(t.Context(), "prod", "no such name")
			if len(found) > 0 {
				return fmt.Errorf("%d certificates of a name that has none", len(found))
			}
			return err
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	read := 0
	for path, n := range calls() {
		if serial, ok := strings.CutPrefix(path, w.mount.Path+"/cert/"); ok {
			if read++; n != 1 {
				t.Errorf("%s was read %d times", serial, n)
			}
		}
	}
	if read < certificates {
		t.Errorf("%d certificates were read, want %d", read, certificates)
	}
}

// What Vault is asked for one claim does not depend on the machine: five readings, one list, one signature. A certificate that the
// daemon had signed is not read to learn its name.
func TestWhatAClaimAsksOfVault(t *testing.T) {
	v := plainVault(t)
	w := worldIn(t, v)
	address, calls := callsTo(t, v)
	c := w.open(t, func(cfg *Config) { cfg.Address = address })
	claim := func() breakglass.Order {
		t.Helper()
		o := newOrder(t, "")
		var asked errgroup.Group
		asked.Go(func() error { return c.Check(t.Context(), o.Cluster, o.Group) })
		asked.Go(func() error {
			found, err := c.Find(t.Context(), o.Cluster, o.CommonName)
			if len(found) > 0 {
				return fmt.Errorf("%d certificates of a name that was never signed", len(found))
			}
			return err
		})
		if err := asked.Wait(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Sign(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		return o
	}
	claim() // logs in, and reads what the mount came with
	const claims = 5
	calls()
	var last breakglass.Order
	for range claims {
		last = claim()
	}
	want := map[string]int{"auth/token/lookup-self": claims, "sys/policies/acl/" + w.cfg.Policy: claims, "sys/health": claims,
		w.mount.Path + "/roles/breakglass": claims, w.mount.Path + "/issuer/" + w.mount.IssuerID: claims, w.mount.Path + "/certs": claims,
		w.mount.Path + "/sign/breakglass": claims}
	if got := calls(); !maps.Equal(got, want) {
		t.Errorf("%d claims asked %v, want %v", claims, got, want)
	}
	wantFound(t, c, last, 1) // it is known by its name all the same, and read when it is asked for
	// What another one signs is read, once.
	other := w.open(t)
	twin := newOrder(t, "")
	mustSign(t, other, twin)
	calls()
	wantFound(t, c, twin, 1)
	if got := calls(); got[w.mount.Path+"/certs"] != 1 || len(got) != 2 {
		t.Errorf("finding what another one signed asked %v", got)
	}
}

// All readings of a claim are under way at one time, the list among them: a distant Vault costs one round trip, and the signature
// another one.
func TestTheReadingsOfAClaimWaitForNoneOfThem(t *testing.T) {
	v := plainVault(t)
	w := worldIn(t, v)
	m := newMiddle(t, v)
	c := w.open(t, func(cfg *Config) { cfg.Address = m.addr })
	o := newOrder(t, "")
	mustSign(t, c, o)
	wantFound(t, c, o, 1) // and the mount is read
	const readings = 6
	var waiting atomic.Int64
	all := make(chan struct{})
	hold := func() {
		if waiting.Add(1) == readings {
			close(all)
		}
		select {
		case <-all:
		case <-t.Context().Done():
		}
	}
	m.before.Store(&hold)
	next := newOrder(t, "")
	var asked errgroup.Group
	asked.Go(func() error { return c.Check(t.Context(), next.Cluster, next.Group) })
	asked.Go(func() error { _, err := c.Find(t.Context(), next.Cluster, next.CommonName); return err })
	if err := asked.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := waiting.Load(); n != readings {
		t.Errorf("%d readings, want %d", n, readings)
	}
}

// The short way to read a list says what the long way says, or takes none.
func FuzzCutSerials(f *testing.F) {
	for _, s := range []string{`{"data":{"keys":["0a:1b","2c"]},"warnings":null}`, `{"data":{"keys":["0a:1b"]}}`, `{"data":{"keys":[]}}`,
		`{"data":null}`,
		`{"data":{"keys":["a","role"]}}`, `{"data":{"keys":["a",1]}}`, `{"data":{"keys":["a"`, `{"data":{"keys":["a",`, `{"data":{"keys":["a"]`,
		`{"data":{"keys":[ "a"]}}`, `{"data":{"keys":["a" ,"b"]}}`, `{"data":{"keys":["a","b"],"keys":["c"]}}`,
		`{"x":{"keys":["a"]},"data":{"keys":["b"]}}`,
		`{"x":""keys":["a"]","data":{"keys":["b"]}}`, `{"data":{"keys":["a",""]}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var whole, left answer
		rest, serials := cutSerials(body)
		if decode(bytes.NewReader(body), &whole) != nil {
			if decode(bytes.NewReader(rest), &left) == nil {
				t.Fatalf("%q became %q, which can be read", body, rest)
			}
			return
		}
		want, wholeErr := whole.keys()
		if serials == nil {
			if !bytes.Equal(rest, body) {
				t.Fatalf("%q became %q", body, rest)
			}
			return
		}
		if err := decode(bytes.NewReader(rest), &left); err != nil {
			t.Fatalf("%q became %q: %v", body, rest, err)
		}
		keys, err := left.keys()
		if err != nil || len(keys) > 0 {
			return // refused
		}
		got := make([]string, len(serials))
		for i, s := range serials {
			got[i] = string(s)
		}
		if wholeErr != nil || len(want) > 0 && !slices.Equal(got, want) {
			t.Fatalf("%q: %q and %q, want %q (%v)", body, got, keys, want, wholeErr)
		}
	})
}

// callsTo is a way to Vault, and the calls by path since it was last asked for them.
func callsTo(t *testing.T, v *real.Vault) (address string, calls func() map[string]int) {
	t.Helper()
	to, err := url.Parse(v.Addr)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	count := map[string]int{}
	pass := httputil.NewSingleHostReverseProxy(to)
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		count[strings.TrimPrefix(r.URL.Path, "/v1/")]++
		mu.Unlock()
		pass.ServeHTTP(rw, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, func() map[string]int {
		mu.Lock()
		defer mu.Unlock()
		since := count
		count = map[string]int{}
		return since
	}
}
