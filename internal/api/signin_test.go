package api

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/verify"
)

const home = "https://bg.example.com"

func newTestServer(t testing.TB) (*bgtest.System, http.Handler, *strings.Builder) {
	t.Helper()
	sys, log := bgtest.New(t, bgtest.Options{}), &strings.Builder{}
	h, err := NewServer(Config{Service: sys.Service, Campaigns: sys.Campaigns, Ledger: sys.Ledger, LedgerKey: sys.VKey, URLs: []string{home},
		Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return sys, h, log
}

// post makes one call without a network.
func post(t testing.TB, h http.Handler, token, path string, in, out any) *Error {
	t.Helper()
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, bytes.NewReader(b))
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		e := &Error{}
		if err := json.Unmarshal(w.Body.Bytes(), e); err != nil {
			t.Fatalf("status %d with body %q", w.Code, w.Body)
		}
		return e
	}
	if err := json.Unmarshal(w.Body.Bytes(), out); err != nil {
		t.Fatal(err)
	}
	return nil
}

func challengeFrom(t testing.TB, h http.Handler) string {
	t.Helper()
	var ch Challenge
	if e := post(t, h, "", "/v1/session/challenge", ChallengeFor{}, &ch); e != nil {
		t.Fatal(e)
	}
	return ch.Challenge
}

// proof is a good answer to a challenge.
func proof(key ssh.Signer, challenge string) Proof {
	return Proof{PublicKey: string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(key.PublicKey()))), Server: home, Challenge: challenge,
		Signature: bgtest.SignSSH(key, SignInNamespace, SignInText(home, bgtest.Origin, challenge))}
}

func signInWith(t testing.TB, h http.Handler, person string) SignIn {
	t.Helper()
	var ses SignIn
	if e := post(t, h, "", "/v1/session", proof(bgtest.SSHKey(person), challengeFrom(t, h)), &ses); e != nil {
		t.Fatal(e)
	}
	return ses
}

func TestOnlyAFreshSignatureForThisServerSignsIn(t *testing.T) {
	sys, h, _ := newTestServer(t)
	alice, bob := bgtest.SSHKey("alice"), bgtest.SSHKey("bob")
	stranger, err := ssh.NewSignerFromKey(must(generateKey()))
	if err != nil {
		t.Fatal(err)
	}
	_, otherServer, _ := newTestServer(t)
	for _, c := range []struct {
		name   string
		change func(p *Proof)
		class  string
		code   string
	}{
		{"nothing wrong", func(*Proof) {}, "", ""},
		{"signature of another namespace", func(p *Proof) {
			p.Signature = bgtest.SignSSH(alice, breakglass.ApprovalNamespace, SignInText(home, bgtest.Origin, p.Challenge))
		}, ClassSignIn, "signature"},
		{"made for another server and sent as such", func(p *Proof) {
			p.Server = "https://evil.example.com"
			p.Signature = bgtest.SignSSH(alice, SignInNamespace, SignInText(p.Server, bgtest.Origin, p.Challenge))
		}, ClassSignIn, "other-server"},
		{"made for another server and passed on", func(p *Proof) {
			p.Signature = bgtest.SignSSH(alice, SignInNamespace, SignInText("https://evil.example.com", bgtest.Origin, p.Challenge))
		}, ClassSignIn, "signature"},
		{"made for another ledger", func(p *Proof) {
			p.Signature = bgtest.SignSSH(alice, SignInNamespace, SignInText(home, "evil.example.com/ledger", p.Challenge))
		}, ClassSignIn, "signature"},
		{"challenge of another server", func(p *Proof) { *p = proof(alice, challengeFrom(t, otherServer)) }, ClassSignIn, "challenge"},
		{"challenge made up", func(p *Proof) {
			*p = proof(alice, base64.RawURLEncoding.EncodeToString(make([]byte, challengeSize)))
		}, ClassSignIn, "challenge"},
		{"challenge with its expiry moved", func(p *Proof) {
			b, _ := base64.RawURLEncoding.DecodeString(p.Challenge)
			b[challengeNonce+7]++
			*p = proof(alice, base64.RawURLEncoding.EncodeToString(b))
		}, ClassSignIn, "challenge"},
		{"no challenge", func(p *Proof) { *p = proof(alice, "") }, ClassSignIn, "challenge"},
		{"signature of another challenge", func(p *Proof) { p.Challenge = challengeFrom(t, h) }, ClassSignIn, "signature"},
		{"another person's public key", func(p *Proof) { p.PublicKey = string(ssh.MarshalAuthorizedKey(bob.PublicKey())) }, ClassSignIn,
			"signature"},
		{"another person's signature", func(p *Proof) {
			p.Signature = bgtest.SignSSH(bob, SignInNamespace, SignInText(home, bgtest.Origin, p.Challenge))
		}, ClassSignIn, "signature"},
		{"one bit of the signature turned", func(p *Proof) {
			lines := strings.Split(p.Signature, "\n")
			l := []byte(lines[len(lines)-3])
			l[10] ^= 1
			lines[len(lines)-3] = string(l)
			p.Signature = strings.Join(lines, "\n")
		}, ClassSignIn, "signature"},
		{"no signature", func(p *Proof) { p.Signature = "" }, ClassSignIn, "signature"},
		{"oversize signature", func(p *Proof) { p.Signature = strings.Repeat("A", record.MaxSignature+1) }, ClassSignIn, "signature"},
		{"oversize body", func(p *Proof) { p.Signature = strings.Repeat("A", maxBody) }, "invalid", "size"},
		{"a key that nobody has", func(p *Proof) { *p = proof(stranger, p.Challenge) }, "denied", "unknown-person"},
		{"two public keys", func(p *Proof) { p.PublicKey += "\n" + string(ssh.MarshalAuthorizedKey(bob.PublicKey())) }, "invalid", "public-key"},
		{"a public key with options", func(p *Proof) { p.PublicKey = `command="x" ` + p.PublicKey }, "invalid", "public-key"},
		{"no public key", func(p *Proof) { p.PublicKey = "" }, "invalid", "public-key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := proof(alice, challengeFrom(t, h))
			c.change(&p)
			var ses SignIn
			e := post(t, h, "", "/v1/session", p, &ses)
			if c.class == "" {
				if e != nil || ses.Person != "alice" || len(ses.Token) < 43 {
					t.Fatalf("a good sign-in gives %v, %+v", e, ses)
				}
				if again := post(t, h, "", "/v1/session", p, &ses); again == nil || again.Code != "challenge" {
					t.Errorf("the same challenge again: %v", again)
				}
				return
			}
			if e == nil || e.Class != c.class || e.Code != c.code {
				t.Errorf("got %+v, want class %s code %s", e, c.class, c.code)
			}
			if ses.Token != "" {
				t.Error("there is a token")
			}
		})
	}
	entries, err := sys.Ledger.Stream(t.Context(), record.RefusalStream)
	if err != nil || len(entries) != 1 {
		t.Fatalf("%d refusals are recorded (%v), want the stranger's", len(entries), err)
	}
	ev, err := verify.Decode(entries[0])
	if want := (record.Refused{By: record.Actor{Channel: record.ChannelKey, Key: ssh.FingerprintSHA256(stranger.PublicKey())},
		Command: "sign-in", Code: "unknown-person"}); err != nil || ev != want {
		t.Errorf("recorded %+v, want %+v", ev, want)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestChallengeTellsOnlyWhetherAWholeFingerprintIsKnown(t *testing.T) {
	_, h, _ := newTestServer(t)
	known := ssh.FingerprintSHA256(bgtest.SSHKey("alice").PublicKey())
	var ch Challenge
	if e := post(t, h, "", "/v1/session/challenge", ChallengeFor{Fingerprints: []string{"", "SHA256:", known[:20], known, "alice"}},
		&ch); e != nil {
		t.Fatal(e)
	}
	if len(ch.Known) != 1 || ch.Known[0] != known {
		t.Errorf("known: %v", ch.Known)
	}
	if e := post(t, h, "", "/v1/session/challenge", ChallengeFor{Fingerprints: make([]string, maxOffered+1)}, &ch); e == nil ||
		e.Code != "fingerprints" {
		t.Errorf("a list of %d: %v", maxOffered+1, e)
	}
}

func TestSessionEndsWithThePolicysWord(t *testing.T) {
	sys, h, _ := newTestServer(t)
	pol := bgtest.Policy()
	lines := strings.Split(pol, "\n")
	without := func(person string) string { // as a person
		var out []string
		for _, l := range lines {
			if !strings.HasPrefix(l, "  - {id: "+person+",") {
				out = append(out, strings.NewReplacer(", "+person+"]", "]", ", "+person+",", ",").Replace(l))
			}
		}
		return strings.Join(out, "\n")
	}
	keyOf := func(person string) string {
		return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(bgtest.SSHKey(person).PublicKey()))) + " " + person
	}
	moved := strings.Replace(without("mallory"), keyOf("erin"), keyOf("mallory"), 1) // erin now has what was mallory's key
	for _, c := range []struct{ name, person, policy string }{
		{"the person is gone", "dave", without("dave")},
		{"the key is gone", "erin", strings.Replace(pol, `, keys: ["`+keyOf("erin")+`"]`, "", 1)},
		{"the key is another person's", "mallory", moved},
	} {
		t.Run(c.name, func(t *testing.T) {
			set := func(text string) {
				t.Helper()
				p, err := policy.Parse("access.yaml", []byte(text))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := sys.Service.InForce.Set(t.Context(), p); err != nil {
					t.Fatal(err)
				}
			}
			ses, bystander := signInWith(t, h, c.person), signInWith(t, h, "alice")
			var me Person
			get := func(token string) int { return getJSON(t.Context(), h, "/v1/whoami", token, &me) }
			if code := get(ses.Token); code != http.StatusOK {
				t.Fatalf("before: %d", code)
			}
			set(c.policy)
			if code := get(ses.Token); code != http.StatusUnauthorized {
				t.Errorf("after: %d", code)
			}
			if code := get(bystander.Token); code != http.StatusOK {
				t.Errorf("alice after: %d", code)
			}
			set(pol)
			if code := get(ses.Token); code != http.StatusUnauthorized {
				t.Errorf("a session that ended came back: %d", code)
			}
		})
	}
}

// getJSON makes a GET without a network.
func getJSON(ctx context.Context, h http.Handler, path, token string, out any) int {
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil)
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code == http.StatusOK {
		if err := json.Unmarshal(w.Body.Bytes(), out); err != nil {
			panic(err)
		}
	}
	return w.Code
}

func TestWaitingAnswerIsNotGivenToSomebodyRemovedMeanwhile(t *testing.T) {
	sys, h, _ := newTestServer(t)
	ses := signInWith(t, h, "mallory")
	r := sys.Ask(bgtest.ByKey("alice"), "admin")
	text := bgtest.Policy()
	i := strings.Index(text, "  - {id: mallory")
	p := must(policy.Parse("access.yaml", []byte(text[:i]+text[i+strings.Index(text[i:], "\n")+1:])))
	ctx, cancel := context.WithCancel(t.Context())
	code := make(chan int)
	go func() {
		code <- getJSON(ctx, h, fmt.Sprintf("/v1/requests/%s?wait=50s&after=%d&was=pending", r.ID, r.Rev), ses.Token, &Request{})
	}()
	if _, err := sys.Service.InForce.Set(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	cancel()
	if got := <-code; got != http.StatusUnauthorized {
		t.Errorf("the poll ended with %d", got)
	}
}

func TestLogoutEndsOneSession(t *testing.T) {
	_, h, _ := newTestServer(t)
	one, other := signInWith(t, h, "alice"), signInWith(t, h, "alice")
	if e := post(t, h, one.Token, "/v1/logout", Reason{}, &Empty{}); e != nil {
		t.Fatal(e)
	}
	var me Person
	if code := getJSON(t.Context(), h, "/v1/whoami", one.Token, &me); code != http.StatusUnauthorized {
		t.Errorf("the session that logged out: %d", code)
	}
	if code := getJSON(t.Context(), h, "/v1/whoami", other.Token, &me); code != http.StatusOK {
		t.Errorf("the other one: %d", code)
	}
	for _, token := range []string{"", "x", one.Token + "x"} {
		if code := getJSON(t.Context(), h, "/v1/whoami", token, &me); code != http.StatusUnauthorized {
			t.Errorf("token %q: %d", token, code)
		}
	}
}

func TestSessionsAndChallengesExpire(t *testing.T) {
	sys, _, _ := newTestServer(t)
	p, s, now := sys.Service.Policy(), newSignIns(), time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)
	key := ssh.FingerprintSHA256(bgtest.SSHKey("alice").PublicKey())

	c, until := s.challenge(now)
	if !s.checkChallenge(c, now) || !s.checkChallenge(c, until.Add(-time.Nanosecond)) || s.checkChallenge(c, until) {
		t.Error("a challenge is not good exactly until it expires")
	}
	if until.Sub(now) > challengeLife {
		t.Errorf("a challenge lives %s", until.Sub(now))
	}

	live := func(token string, at time.Time) bool { _, ok := s.find(token, p, at); return ok }
	idle, _ := s.open("alice", key, now)
	if !live(idle, now.Add(signInIdle-1)) || live(idle, now.Add(2*signInIdle)) {
		t.Error("a session does not end by idleness")
	}
	busy, _ := s.open("alice", key, now)
	at := now
	for ; at.Before(now.Add(signInLife)); at = at.Add(time.Minute) {
		if !live(busy, at) {
			t.Fatalf("a busy session ended after %s", at.Sub(now))
		}
	}
	if live(busy, at) {
		t.Error("a busy session outlives its hour")
	}
}

func TestSessionTablesAreBounded(t *testing.T) {
	sys, _, _ := newTestServer(t)
	p, s, now := sys.Service.Policy(), newSignIns(), time.Now()
	key := ssh.FingerprintSHA256(bgtest.SSHKey("alice").PublicKey())
	first, _ := s.open("alice", key, now)
	var last string
	for i := range maxPerKey {
		last, _ = s.open("alice", key, now.Add(time.Duration(i+1)*time.Second))
	}
	if _, ok := s.find(first, p, now); ok || len(s.live) != maxPerKey {
		t.Errorf("%d sessions of one key, the oldest of them alive: %v", len(s.live), ok)
	}
	if _, ok := s.find(last, p, now); !ok {
		t.Error("the newest session made place for nothing")
	}
	for i := range maxSignIns + 10 {
		s.open("x", fmt.Sprint("key ", i), now.Add(time.Minute))
	}
	if len(s.live) > maxSignIns {
		t.Errorf("%d sessions", len(s.live))
	}
	for i := range maxUsed {
		s.use("SHA256:mallory", fmt.Sprint(i), now)
	}
	if s.use("SHA256:mallory", "one more", now) || !s.use("SHA256:mallory", "one more", now.Add(challengeLife)) || len(s.used) != 1 {
		t.Errorf("used challenges are not bounded, or not forgotten: %d", len(s.used))
	}
	for i := range maxUsed {
		s.use("SHA256:mallory", fmt.Sprint("again ", i), now.Add(challengeLife))
	}
	if s.use("SHA256:mallory", "one more still", now.Add(challengeLife)) || !s.use("SHA256:alice", "hers", now.Add(challengeLife)) {
		t.Error("one person's challenges are not bounded, or they use up another's")
	}
	l := newAddressLimits()
	for i := range 5 * maxAddresses {
		l.allow(fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255), "", now)
	}
	if n := len(l.young) + len(l.before); n > 2*maxAddresses {
		t.Errorf("%d addresses are remembered", n)
	}
}

func TestOneHostCannotHideBehindManyAddresses(t *testing.T) {
	l, now := newAddressLimits(), time.Now()
	allowed := 0
	for i := range 1000 {
		if l.allow(fmt.Sprintf("[2001:db8:1:2::%x]:443", i), "", now) {
			allowed++
		}
	}
	if allowed != strangerBurst {
		t.Errorf("%d requests from one /64 were let through", allowed)
	}
	if !l.allow("[2001:db8:1:3::1]:443", "", now) || !l.allow("192.0.2.1:1", "", now) {
		t.Error("somebody else paid for it")
	}
}

func TestEveryClassHasItsStatus(t *testing.T) {
	for class, want := range map[string]int{
		string(record.ClassInvalid): 400, ClassSignIn: 401, string(record.ClassDenied): 403, string(record.ClassUnknown): 404,
		string(record.ClassConflict): 409, string(record.ClassExpired): 410, string(record.ClassPolicy): 422,
		string(record.ClassLimited): 429, string(record.ClassUnavailable): 503, ClassInternal: 500, "something new": 500,
	} {
		if got := status(class); got != want {
			t.Errorf("class %s is %d, want %d", class, got, want)
		}
	}
}

func TestInternalErrorsAreLoggedOnceAndNotTold(t *testing.T) {
	for name, h := range map[string]handler{
		"an error": func(*call) (any, error) { return nil, errors.New("secret detail") },
		"a panic":  func(*call) (any, error) { panic("secret detail") },
	} {
		log := &strings.Builder{}
		s := &server{cfg: Config{Log: slog.New(slog.NewTextHandler(log, nil))}, signIns: newSignIns(), addresses: newAddressLimits()}
		w := httptest.NewRecorder()
		s.adapt("GET /x", anybody, h).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/x", nil))
		var e Error
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || w.Code != 500 || e.Class != ClassInternal || e.RequestID == "" {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
		if strings.Contains(w.Body.String(), "secret") || strings.Count(log.String(), "level=ERROR") != 1 ||
			!strings.Contains(log.String(), "secret detail") || !strings.Contains(log.String(), e.RequestID) {
			t.Errorf("%s: told %s\nlogged %s", name, w.Body, log)
		}
	}
}

func TestLedgerThatCannotBeWrittenIsSaidSo(t *testing.T) {
	log := &strings.Builder{}
	s := &server{cfg: Config{Log: slog.New(slog.NewTextHandler(log, nil))}, signIns: newSignIns(), addresses: newAddressLimits()}
	w := httptest.NewRecorder()
	s.adapt("POST /x", anybody, func(*call) (any, error) {
		return nil, fmt.Errorf("appending: %w: the disk or the database is full", ledger.ErrUnknownOutcome)
	}).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/x", nil))
	var e Error
	if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || w.Code != http.StatusServiceUnavailable || e.Code != "ledger" ||
		!strings.Contains(e.Next, "disk") {
		t.Errorf("told %d %s", w.Code, w.Body)
	}
	if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "is full") ||
		!strings.Contains(log.String(), e.RequestID) {
		t.Errorf("logged %s", log)
	}
}

func FuzzBodies(f *testing.F) {
	_, h, log := newTestServer(f)
	token := signInWith(f, h, "alice").Token
	good, _ := json.Marshal(proof(bgtest.SSHKey("alice"), challengeFrom(f, h)))
	_, csr := bgtest.NewCSR()
	claim, _ := json.Marshal(CSR{CSR: string(csr)})
	paths := []string{"/v1/session/challenge", "/v1/session", "/v1/requests?dryRun=true", "/v1/requests/bg-0000-000/claim",
		"/v1/requests/bg-0000-000/approve", "/v1/requests/7k/deny"}
	for i, b := range []string{`{"fingerprints":["x"]}`, string(good), `{"profile":"admin","reason":"etcd quorum lost","ttlSeconds":60}`,
		string(claim), `{"digest":"x","signature":"y"}`, `{"reason":"no"}`} {
		f.Add(uint8(i), []byte(b))
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		r := httptest.NewRequest(http.MethodPost, paths[int(which)%len(paths)], bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		var e Error
		if w.Code >= 500 || json.Unmarshal(w.Body.Bytes(), &e) != nil || e.APIVersion != Version {
			t.Errorf("%d %s\n%s", w.Code, w.Body, log)
		}
	})
}

func FuzzAnswers(f *testing.F) {
	f.Add(200, []byte(`{"apiVersion":"breakglass/v1","kind":"Request","ask":{"by":{"person":"alice"}},"asOf":"2026-11-22T03:00:00Z"}`))
	f.Add(403, []byte(`{"apiVersion":"breakglass/v1","kind":"Error","class":"denied","code":"x","why":"no"}`))
	f.Add(502, []byte(`<html>`))
	f.Fuzz(func(t *testing.T, code int, body []byte) {
		c := &Client{Server: home, SignedIn: SignIn{Token: "x"}, HTTP: &http.Client{Transport: answer(func() *http.Response {
			w := httptest.NewRecorder()
			w.Body.Write(body)
			resp := w.Result()
			resp.StatusCode = code
			return resp
		})}, Keys: func(context.Context) ([]ssh.Signer, error) { return nil, nil }}
		_, err := c.Get(t.Context(), "bg-0000-000")
		var e *Error
		if (err != nil || code != http.StatusOK) && !errors.As(err, &e) {
			t.Errorf("%d %q: %v", code, body, err)
		}
	})
}

type answer func() *http.Response

func (a answer) RoundTrip(*http.Request) (*http.Response, error) { return a(), nil }

func generateKey() (any, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return key, err
}
