package api

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/breakglassd/breakglass/internal/bgtest"
)

func TestStrangersCannotLockEverybodyOut(t *testing.T) {
	_, h, _ := newTestServer(t)
	_, priv, _ := ed25519.GenerateKey(rand.Reader)
	evil, _ := ssh.NewSignerFromKey(priv)
	n := 0
	call := func(path string, in any) (int, []byte) {
		b, _ := json.Marshal(in)
		r := httptest.NewRequest("POST", path, bytes.NewReader(b))
		r.Header.Set("Content-Type", "application/json")
		n++
		r.RemoteAddr = fmt.Sprintf("[2001:db8:0:%x::1]:5555", n/50) // a /48 that anybody gets from a provider
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code, w.Body.Bytes()
	}
	for range 2048 {
		_, b := call("/v1/session/challenge", ChallengeFor{})
		var ch Challenge
		_ = json.Unmarshal(b, &ch)
		call("/v1/session", proof(evil, ch.Challenge))
	}
	e := post(t, h, "", "/v1/session", proof(bgtest.SSHKey("alice"), challengeFrom(t, h)), &SignIn{})
	if e != nil {
		t.Errorf("alice cannot sign in: %s %s: %s", e.Class, e.Code, e.Why)
	}
}

// Strangers and people behind one gateway have buckets of their own.
func TestStrangersBehindTheSameAddressKeepNobodyOut(t *testing.T) {
	_, h, _ := newTestServer(t)
	call := func(method, path string, in any) (int, []byte) {
		b, _ := json.Marshal(in)
		r := httptest.NewRequest(method, path, bytes.NewReader(b))
		r.Header.Set("Content-Type", "application/json")
		r.RemoteAddr = "10.0.0.1:5555"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code, w.Body.Bytes()
	}
	flood := func() (last int) {
		for range 3 * strangerBurst {
			last, _ = call("GET", "/v1/whoami", nil)
			_, _ = call("POST", "/v1/session/challenge", ChallengeFor{Fingerprints: []string{"SHA256:nobody"}})
		}
		return last
	}
	for range 20 {
		if code := flood(); code != 429 {
			t.Fatalf("strangers are not limited: %d", code)
		}
		alice := bgtest.SSHKey("alice")
		code, b := call("POST", "/v1/session/challenge", ChallengeFor{Fingerprints: []string{ssh.FingerprintSHA256(alice.PublicKey())}})
		var ch Challenge
		if err := json.Unmarshal(b, &ch); err != nil || code != 200 {
			t.Fatalf("alice gets no challenge: %d %s", code, b)
		}
		if code, b := call("POST", "/v1/session", proof(alice, ch.Challenge)); code != 200 {
			t.Fatalf("alice cannot sign in: %d %s", code, b)
		}
	}
}
