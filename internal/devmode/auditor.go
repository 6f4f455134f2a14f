package devmode

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	kubesim "github.com/breakglassd/breakglass/internal/sim/kube"
)

// auditor sends what is done in the embedded cluster to the daemon's audit webhook, as kube-apiserver does: in batches of
// audit.k8s.io/v1 events, again until they are taken.
type auditor struct {
	url, token string
	client     *http.Client
	log        *slog.Logger

	mu     sync.Mutex // guards events; held to add or to take them
	events []json.RawMessage
}

// The pace of the auditor. What is beyond maxEvents is dropped, the oldest first, as an API server with a full buffer does.
const (
	auditEvery = 300 * time.Millisecond
	maxEvents  = 10_000
)

func newAuditor(url, token string, ca []byte, log *slog.Logger) *auditor {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &auditor{url: url, token: token, log: log,
		client: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}}
}

// observe is a kubesim.Config.Observe.
func (a *auditor) observe(c kubesim.Call, code int) {
	now := time.Now().UTC().Format("2006-01-02T15:04:05.000000Z07:00")
	user := map[string]any{"username": c.User.Username, "groups": c.User.Groups}
	if len(c.User.Extra) > 0 {
		user["extra"] = c.User.Extra
	}
	e := map[string]any{"kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": rand.Text(),
		"stage":      "ResponseComplete",
		"requestURI": c.URI, "verb": c.Verb, "user": user, "sourceIPs": []string{c.Remote}, "responseStatus": map[string]any{"code": code},
		"requestReceivedTimestamp": now, "stageTimestamp": now}
	if c.Resource != "" {
		e["objectRef"] = map[string]any{"resource": c.Resource, "subresource": c.Subresource, "namespace": c.Namespace, "name": c.Name,
			"apiGroup": c.Group, "apiVersion": c.Version}
	}
	raw, err := json.Marshal(e)
	if err != nil {
		a.log.Error("encoding an audit event", slog.Any("error", err)) // only plain data types: cannot happen
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.events) >= maxEvents {
		a.events = a.events[1:]
	}
	a.events = append(a.events, raw)
}

// run sends until ctx is done.
func (a *auditor) run(ctx context.Context) {
	tick := time.NewTicker(auditEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		a.mu.Lock()
		batch := a.events
		a.events = nil
		a.mu.Unlock()
		if len(batch) == 0 {
			continue
		}
		if err := a.send(ctx, batch); err != nil { // the daemon is not up yet, or has more than enough to do
			a.log.Debug("sending audit events: will try again", slog.Any("error", err))
			a.mu.Lock()
			a.events = append(batch, a.events...)
			a.mu.Unlock()
		}
	}
}

func (a *auditor) send(ctx context.Context, batch []json.RawMessage) error {
	body, err := json.Marshal(map[string]any{"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": map[string]any{},
		"items": batch})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+a.token)
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the audit webhook answers %s", resp.Status)
	}
	return nil
}
