package api_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// newGuarded is a daemon whose access policy two of alice, bob and dave agree to; carol and erin may read it.
func newGuarded(t *testing.T) *daemon {
	t.Helper()
	d := &daemon{System: bgtest.New(t, bgtest.Options{Policy: bgtest.Guarded() + "responders: [security]\n"}), log: &lockedBuffer{}}
	d.serve(t, "127.0.0.1:0")
	return d
}

// reload has the daemon read a change of its policy, which waits.
func (d *daemon) reload(t *testing.T, old, changed string) {
	t.Helper()
	p := must(policy.Parse("access.yaml", []byte(strings.Replace(bgtest.Guarded()+"responders: [security]\n", old, changed, 1))))(t)
	_, err := d.Service.InForce.Set(t.Context(), p)
	if r, is := record.AsRefusal(err); !is || r.Code != policy.CodeWaits {
		t.Fatalf("got %v, want a change that waits", err)
	}
}

// sent is a body for the path of a digest, as somebody sends it.
type sent struct {
	digest string
	body   api.PolicyWord
}

func (d *daemon) word(t *testing.T, who string, waive bool) sent {
	t.Helper()
	st := must(d.Service.InForce.Standing(t.Context(), bgtest.ByKey("alice")))(t)
	w := bgtest.PolicyWord(st, who, waive)
	return sent{w.Digest, api.PolicyWord{Entry: w.Entry, Base: w.Base, Waive: w.Waive, Signature: w.Signature}}
}

// post sends a body to the approval of a policy, and returns the code of the refusal, if it is one.
func (d *daemon) post(t *testing.T, c *api.Client, digest string, body io.Reader) (status int, class, code string) {
	t.Helper()
	req := must(http.NewRequestWithContext(t.Context(), http.MethodPost, d.url+"/v1/policy/"+url.PathEscape(digest)+"/approve", body))(t)
	req.Header.Set("Content-Type", "application/json")
	if c != nil {
		must(c.Whoami(t.Context()))(t)
		req.Header.Set("Authorization", "Bearer "+c.SignedIn.Token)
	}
	resp := must(http.DefaultClient.Do(req))(t)
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return resp.StatusCode, "", ""
	}
	var e api.Error
	if err := json.NewDecoder(resp.Body).Decode(&e); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, e.Class, e.Code
}

func (d *daemon) send(t *testing.T, c *api.Client, s sent) (class, code string) {
	t.Helper()
	body := must(json.Marshal(s.body))(t)
	_, class, code = d.post(t, c, s.digest, bytes.NewReader(body))
	return class, code
}

func TestOnlyTheTeamsOwnFreshSignatureAgreesToAPolicy(t *testing.T) {
	d := newGuarded(t)
	alice, bob, carol, dave := d.as(t, "alice"), d.as(t, "bob"), d.as(t, "carol"), d.as(t, "dave")
	d.reload(t, "members: [carol, erin]", "members: [carol, erin, mallory]")
	good := d.word(t, "alice", false)
	zeros := strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		as   *api.Client
		sent sent
		code string
	}{
		"a digest that nothing has":      {alice, sent{zeros, good.body}, "policy/sign"},
		"the digest of the one in force": {alice, sent{good.body.Base, good.body}, "policy/sign"},
		"a digest of great length":       {alice, sent{strings.Repeat("0", 4000), good.body}, "policy/sign"},
		"another entry": {alice, sent{good.digest, api.PolicyWord{Entry: zeros, Base: good.body.Base,
			Signature: good.body.Signature}}, "policy/sign"},
		"no entry": {alice, sent{good.digest, api.PolicyWord{Base: good.body.Base, Signature: good.body.Signature}},
			"policy/sign"},
		"another policy that it changes": {alice, sent{good.digest, api.PolicyWord{Entry: good.body.Entry, Base: zeros,
			Signature: good.body.Signature}}, "policy/sign"},
		"who is in no team that signs": {carol, d.word(t, "carol", false), "policy/sign"},
		"another person's signature":   {bob, good, "signature"},
		"signed with another's key":    {alice, d.word(t, "bob", false), "signature"},
		"no signature":                 {alice, sent{good.digest, api.PolicyWord{Entry: good.body.Entry, Base: good.body.Base}}, "signature"},
		"waived what was not signed for": {alice, sent{good.digest, api.PolicyWord{Entry: good.body.Entry, Base: good.body.Base, Waive: true,
			Signature: good.body.Signature}}, "signature"},
		"something else than a signature": {alice, sent{good.digest, api.PolicyWord{Entry: good.body.Entry, Base: good.body.Base,
			Signature: strings.Repeat("A", 60<<10)}}, "signature"},
	} {
		if class, code := d.send(t, c.as, c.sent); class != "denied" || code != c.code {
			t.Errorf("%s: got %s %s, want denied %s", name, class, code, c.code)
		}
	}
	if _, class, code := d.post(t, nil, good.digest, strings.NewReader("{}")); class != api.ClassSignIn {
		t.Errorf("without a session: %s %s", class, code)
	}
	_, err := d.as(t, "mallory").Policy(t.Context())
	wantError(t, err, "denied", "policy/read")
	if p := must(carol.Policy(t.Context()))(t); len(p.Waiting.Signed) != 0 || p.Waiting.Digest != good.digest {
		t.Fatalf("waits %+v, want what nobody has signed", p.Waiting)
	}

	// Sent twice it is one voice; sent again for the same change proposed anew it is none.
	for range 2 {
		if _, code := d.send(t, alice, good); code != "" {
			t.Fatalf("alice's word: %s", code)
		}
	}
	if p := must(dave.Policy(t.Context()))(t); !slices.Equal(p.Waiting.Signed, []string{"alice"}) {
		t.Errorf("signed by %q", p.Waiting.Signed)
	}
	d.reload(t, "max: 1h", "max: 2h")
	d.reload(t, "members: [carol, erin]", "members: [carol, erin, mallory]")
	if _, code := d.send(t, alice, good); code != "policy/sign" {
		t.Errorf("replayed for the same change proposed anew: %q", code)
	}
	p := must(bob.Policy(t.Context()))(t)
	if p.Waiting.Digest != good.digest || len(p.Waiting.Signed) != 0 {
		t.Fatalf("waits %+v", p.Waiting)
	}
	must(bob.ApprovePolicy(t.Context(), *p.Waiting, p.InForce.Digest, false))(t)
	if p = must(dave.ApprovePolicy(t.Context(), *p.Waiting, p.InForce.Digest, false))(t); p.InForce.Digest != good.digest || p.Waiting != nil {
		t.Errorf("signed by two, and in force is %s, waiting %v", p.InForce.Digest, p.Waiting)
	}
	if _, code := d.send(t, alice, good); code != "policy/sign" {
		t.Errorf("replayed when it is in force: %q", code)
	}
	d.Check()
}

func TestBodiesOfPolicySignaturesAreBounded(t *testing.T) {
	d := newGuarded(t)
	alice := d.as(t, "alice")
	digest := must(alice.Policy(t.Context()))(t).InForce.Digest
	size := d.Ledger.Size()
	for name, c := range map[string]struct{ body, code string }{
		"too long":           {`{"signature":"` + strings.Repeat("A", 70<<10) + `"}`, "size"},
		"an unknown field":   {`{"entry":"x","approved":true}`, "body"},
		"two documents":      {`{} {}`, "body"},
		"not JSON":           {`entry=x`, "body"},
		"a number for words": {`{"entry":1}`, "body"},
		"nothing":            {``, "body"},
	} {
		if status, class, code := d.post(t, alice, digest, strings.NewReader(c.body)); status != http.StatusBadRequest || class != "invalid" ||
			code != c.code {
			t.Errorf("%s: got %d %s %s, want 400 invalid %s", name, status, class, code, c.code)
		}
	}
	if d.Ledger.Size() != size {
		t.Errorf("%d entries were made of what was not understood", d.Ledger.Size()-size)
	}
}
