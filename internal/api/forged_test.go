package api_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/breakglassd/breakglass/internal/api"
)

// Whatever an answer is about, an id in it that is not of our form, or a state that is none, is the end of it.
func TestNoIDOfAnotherFormIsTaken(t *testing.T) {
	const good, bad = "bg-0000-000", "../../home/.docker/config"
	request := func(id string) string {
		return `{"apiVersion":"breakglass/v1","kind":"Request","id":"` + id + `","state":"pending"}`
	}
	calls := map[string]struct {
		body string
		call func(context.Context, *api.Client) error
	}{
		"a request": {request(bad), func(ctx context.Context, c *api.Client) error { _, err := c.Request(ctx, api.Ask{}); return err }},
		"no id": {`{"apiVersion":"breakglass/v1","kind":"RequestPreview","state":"pending"}`, func(ctx context.Context, c *api.Client) error {
			_, err := c.Request(ctx, api.Ask{})
			return err
		}},
		"a list": {`{"apiVersion":"breakglass/v1","kind":"Requests","items":[` + request(good) + "," + request(bad) + `]}`,
			func(ctx context.Context, c *api.Client) error {
				_, err := c.List(ctx, api.FilterAll, 1)
				return err
			}},
		"a list without an end": {`{"apiVersion":"breakglass/v1","kind":"Requests","items":[],"next":5}`,
			func(ctx context.Context, c *api.Client) error {
				_, err := c.List(ctx, api.FilterAll, 1)
				return err
			}},
		"a history": {`{"apiVersion":"breakglass/v1","kind":"History","id":"` + bad + `"}`, func(ctx context.Context,
			c *api.Client) error {
			_, err := c.History(ctx, good)
			return err
		}},
		"a delivery": {`{"apiVersion":"breakglass/v1","kind":"Delivery","request":` + request(bad) + `}`, func(ctx context.Context,
			c *api.Client) error {
			_, err := c.Claim(ctx, good, nil)
			return err
		}},
		"what is left": {`{"apiVersion":"breakglass/v1","kind":"Revocations","left":[{"request":"` + bad + `"}]}`, func(ctx context.Context,
			c *api.Client) error {
			_, err := c.RevokeAll(ctx, "c1", "x")
			return err
		}},
		"a campaign": {`{"apiVersion":"breakglass/v1","kind":"Campaign","id":"campaign-2026-11-28-../x"}`, func(ctx context.Context,
			c *api.Client) error {
			_, err := c.StartCampaign(ctx)
			return err
		}},
		"another request": {request("bg-0000-01y"), func(ctx context.Context, c *api.Client) error { _, err := c.Get(ctx, good); return err }},
		"followed": {request("bg-0000-01y"), func(ctx context.Context, c *api.Client) error {
			for _, err := range c.Follow(ctx, api.Request{ID: good}) {
				return err
			}
			return nil
		}},
		"a state": {strings.Replace(request(good), "pending", "glowing", 1), func(ctx context.Context, c *api.Client) error {
			_,
				err := c.Get(ctx, good)
			return err
		}},
		"whose note is missing": {strings.Replace(request(good), `"state"`, `"ask":{"raised":["$(id)"]},"state"`, 1),
			func(ctx context.Context, c *api.Client) error {
				_, err := c.Get(ctx, good)
				return err
			}},
	}
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range calls {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(x.body)) }))
			defer srv.Close()
			c := &api.Client{Server: srv.URL, HTTP: srv.Client(), SignedIn: api.SignIn{Token: "x", Key: ssh.FingerprintSHA256(key.PublicKey())},
				Keys: func(context.Context) ([]ssh.Signer, error) { return []ssh.Signer{key}, nil }}
			var e *api.Error
			if err := x.call(t.Context(), c); !errors.As(err, &e) || e.Code != api.CodeForged {
				t.Errorf("%s is taken: %v", x.body, err)
			}
		})
	}
	var r api.Request
	if err := json.Unmarshal([]byte(request(good)), &r); err != nil || r.ID != good {
		t.Errorf("a good one: %v", err)
	}
}
