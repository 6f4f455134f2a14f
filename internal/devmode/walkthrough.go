package devmode

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/ledger/sqlstore"
	slacksim "github.com/breakglassd/breakglass/internal/sim/slack"
	"github.com/breakglassd/breakglass/internal/verify"
)

// Daemon is what the walkthrough needs to know of the running daemon.
type Daemon struct {
	URL       string
	Ledger    string // the database file
	LedgerKey string // the public key, in vkey form
}

// walk is one walkthrough. Its steps use only what people have: the Slack workspace, the HTTP API with an SSH key, and the
// cluster with the certificate.
type walk struct {
	*World
	Daemon
	out      io.Writer
	step     int
	verifier note.Verifier
	alice    credential // what her claim gave
}

// Walkthrough runs the whole main job by itself, as four people would, and narrates it. It returns an error as soon as
// anything is not as it should be: it is a test as much as a demonstration.
func (w *World) Walkthrough(ctx context.Context, d Daemon, out io.Writer) error {
	v, err := note.NewVerifier(d.LedgerKey)
	if err != nil {
		return fmt.Errorf("reading the ledger's public key: %w", err)
	}
	k := &walk{World: w, Daemon: d, out: out, verifier: v}
	start := time.Now()
	id, err := k.slackRequest(ctx)
	if err != nil {
		return fmt.Errorf("step %d: %w", k.step, err)
	}
	for _, step := range []func(context.Context, string) error{k.approvals, k.claimAndUse, k.revoke, k.commandLine, k.verify} {
		if err := step(ctx, id); err != nil {
			return fmt.Errorf("step %d: %w", k.step, err)
		}
	}
	fmt.Fprintf(out, "\nAll of it worked, in %.1f s.\n", time.Since(start).Seconds())
	return nil
}

func (k *walk) title(title string) {
	k.step++
	fmt.Fprintf(k.out, "\n%d. %s\n", k.step, title)
}

func (k *walk) say(format string, args ...any) {
	fmt.Fprintf(k.out, "   %s\n", strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "\n   "))
}

// slackRequest has alice ask in Slack and returns the request's id, read from the ledger's own list.
func (k *walk) slackRequest(ctx context.Context) (string, error) {
	k.title("Alice asks in Slack")
	alice := k.Slack.As(k.Person("alice").Slack)
	if _, err := alice.Slash(ctx, Cluster+" 10m etcd quorum lost, API answers 5xx"); err != nil {
		return "", fmt.Errorf("typing the slash command: %w", err)
	}
	k.say("alice types    /breakglass %s 10m etcd quorum lost, API answers 5xx", Cluster)
	modal, err := alice.WaitModal(ctx)
	if err != nil {
		return "", fmt.Errorf("waiting for the form: %w", err)
	}
	problems, err := modal.Send(ctx)
	if err != nil || len(problems) > 0 {
		return "", fmt.Errorf("sending the form: %v %w", problems, err)
	}
	k.say("a form opens, filled in; she sends it")
	bob := k.client("bob")
	list, err := bob.List(ctx, "all", 1)
	if err != nil || len(list.Items) != 1 {
		return "", fmt.Errorf("looking for the request: %d found: %w", len(list.Items), err)
	}
	r := list.Items[0]
	card, err := k.card(ctx, r.ID)
	if err != nil {
		return "", err
	}
	k.say("the card in #breakglass-approvals says: %s", card.Text)
	k.say("request %s needs %s", r.ID, strings.Join(r.Missing, " and "))
	return r.ID, nil
}

// card waits for the request's card in the approval channel.
func (k *walk) card(ctx context.Context, id string) (slacksim.Message, error) {
	m, err := k.Slack.WaitMessage(ctx, func(m slacksim.Message) bool {
		return m.Channel == Channel && m.ThreadTS == "" && strings.Contains(m.AllText(), id)
	})
	if err != nil {
		return m, fmt.Errorf("waiting for the card of %s in Slack: %w", id, err)
	}
	return m, nil
}

func (k *walk) approvals(ctx context.Context, id string) error {
	k.title("Two other people approve: Carol in Slack, Bob with his SSH key")
	alice := k.client("alice")
	r, err := alice.Get(ctx, id)
	if err != nil {
		return fmt.Errorf("reading the request: %w", err)
	}
	if _, err := alice.Approve(ctx, r, ""); err == nil {
		return errors.New("alice could approve her own request")
	} else {
		k.say("alice tries to approve it herself: refused (%v)", err)
	}
	mallory := k.Slack.As("U06MALLORY")
	card, err := k.card(ctx, id)
	if err != nil {
		return err
	}
	if err := mallory.Click(ctx, Channel, card.TS, "review"); err != nil {
		return fmt.Errorf("mallory clicks review: %w", err)
	}
	said := mallory.Ephemerals()
	if len(said) == 0 {
		return errors.New("mallory, who is not in the policy, was not refused")
	}
	k.say("mallory, who is not in the access policy, clicks Review: %q", strings.TrimSpace(said[len(said)-1].Text))

	carol := k.Slack.As(k.Person("carol").Slack)
	if err := carol.Click(ctx, Channel, card.TS, "review"); err != nil {
		return fmt.Errorf("carol clicks review: %w", err)
	}
	modal, err := carol.WaitModal(ctx)
	if err != nil {
		return fmt.Errorf("waiting for carol's form: %w", err)
	}
	if problems, err := modal.Send(ctx); err != nil || len(problems) > 0 {
		return fmt.Errorf("carol approves: %v %w", problems, err)
	}
	k.say("carol reviews it in Slack and approves")
	bob := k.client("bob")
	r, err = bob.Get(ctx, id)
	if err != nil {
		return fmt.Errorf("reading the request as bob: %w", err)
	}
	if r, err = bob.Approve(ctx, r, "seen on the dashboard too"); err != nil {
		return fmt.Errorf("bob approves: %w", err)
	}
	k.say("bob signs the request's digest with his SSH key (%s)", ssh.FingerprintSHA256(k.Person("bob").Key.PublicKey()))
	if r.State != breakglass.StateApproved {
		return fmt.Errorf("the request is %s, not approved", r.State)
	}
	dm, err := k.Slack.WaitMessage(ctx, func(m slacksim.Message) bool {
		return m.Channel == k.Slack.As(k.Person("alice").Slack).DMChannel() && strings.Contains(m.AllText(), "breakglass claim "+id)
	})
	if err != nil {
		return fmt.Errorf("waiting for the private message to alice: %w", err)
	}
	k.say("alice is told privately: %s", firstLine(dm.AllText()))
	return nil
}

// credential is what a claim gave: usable as it is, and in a kubeconfig.
type credential struct {
	cert tls.Certificate
	leaf *x509.Certificate
}

func (k *walk) claim(ctx context.Context, c *api.Client, id string, key *ecdsa.PrivateKey) (credential, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return credential{}, fmt.Errorf("making a certificate request: %w", err)
	}
	d, err := c.Claim(ctx, id, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	if err != nil {
		return credential{}, fmt.Errorf("claiming: %w", err)
	}
	if d.Warning != "" {
		return credential{}, fmt.Errorf("claiming: %s", d.Warning)
	}
	proof, err := ledger.ParseProof([]byte(d.Proof))
	if err != nil {
		return credential{}, fmt.Errorf("reading the proof: %w", err)
	}
	if err := ledger.VerifyProof(d.Issued, proof, k.verifier); err != nil {
		return credential{}, fmt.Errorf("checking the proof: %w", err)
	}
	block, _ := pem.Decode([]byte(d.Certificate))
	if block == nil {
		return credential{}, errors.New("no certificate came back")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return credential{}, fmt.Errorf("reading the certificate: %w", err)
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return credential{}, errors.New("the certificate is for another key")
	}
	k.say("the certificate: %s, serial %s…, until %s", leaf.Subject, breakglass.Serial(leaf)[:11], leaf.NotAfter.Format("15:04:05 UTC"))
	k.say("its entry is number %d in the ledger; the inclusion proof is good", proof.Index)
	return credential{tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}, leaf}, nil
}

// ask sends one request to the API server with the certificate and nothing else.
func (k *walk) ask(ctx context.Context, c credential, path string) (int, []byte, error) {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(k.ServerCA)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{c.cert}, MinVersion: tls.VersionTLS12}}}
	method, body := http.MethodGet, io.Reader(nil)
	if strings.HasSuffix(path, "selfsubjectreviews") {
		method, body = http.MethodPost, strings.NewReader(`{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`)
	}
	req, err := http.NewRequestWithContext(ctx, method, k.Server+path, body)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("asking the API server: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, text, err
}

// use shows that the certificate works: who it is, and that it may list namespaces.
func (k *walk) use(ctx context.Context, c credential) error {
	code, text, err := k.ask(ctx, c, "/apis/authentication.k8s.io/v1/selfsubjectreviews")
	if err != nil || code != http.StatusCreated {
		return fmt.Errorf("asking who I am: status %d: %s %w", code, text, err)
	}
	var review struct {
		Status struct {
			UserInfo struct {
				Username string
				Extra    map[string][]string
			}
		}
	}
	if err := json.Unmarshal(text, &review); err != nil {
		return fmt.Errorf("reading who I am: %w", err)
	}
	u := review.Status.UserInfo
	want := "X509SHA256=" + breakglass.Fingerprint(c.leaf.Raw)
	if got := u.Extra["authentication.kubernetes.io/credential-id"]; u.Username != c.leaf.Subject.CommonName || len(got) != 1 ||
		got[0] != want {
		return fmt.Errorf("the API server takes the certificate for %s with credential %v, want %s and %s", u.Username, got,
			c.leaf.Subject.CommonName, want)
	}
	k.say("the API server says: you are %s", u.Username)
	for patience := time.Now().Add(10 * time.Second); ; { // a real API server learns of the binding a moment after it was made
		code, text, err = k.ask(ctx, c, "/api/v1/namespaces")
		if err != nil || code != http.StatusForbidden || time.Now().After(patience) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil || code != http.StatusOK {
		return fmt.Errorf("listing namespaces: status %d: %s %w", code, text, err)
	}
	k.say("listing namespaces: allowed")
	return nil
}

func (k *walk) claimAndUse(ctx context.Context, id string) error {
	k.title("Alice's machine makes a key and claims the one certificate")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making a key: %w", err)
	}
	alice := k.client("alice")
	c, err := k.claim(ctx, alice, id, key)
	if err != nil {
		return err
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making another key: %w", err)
	}
	if _, err := k.claim(ctx, alice, id, other); err == nil {
		return errors.New("a second key got a certificate too")
	} else {
		k.say("a second machine tries to claim it too: refused (%v)", errors.Unwrap(err))
	}
	if err := k.use(ctx, c); err != nil {
		return err
	}
	k.alice = c
	_, err = k.Slack.WaitMessage(ctx, func(m slacksim.Message) bool {
		return m.Channel == Channel && m.ThreadTS != "" && strings.Contains(m.AllText(), breakglass.Serial(c.leaf))
	})
	if err != nil {
		return fmt.Errorf("waiting for the serial number in the card's thread: %w", err)
	}
	k.say("the card's thread in Slack names the serial number and the ledger entry")
	return k.kubectl(ctx, c)
}

func (k *walk) revoke(ctx context.Context, id string) error {
	k.title("Carol cuts it off before its time")
	r, err := k.client("carol").Command(ctx, id, "revoke", "the incident is over")
	if err != nil {
		return fmt.Errorf("revoking: %w", err)
	}
	if r.State != breakglass.StateRevoked || r.Certificate == nil || r.Certificate.Bound {
		return fmt.Errorf("after revoking the request is %s with its binding still there", r.State)
	}
	code, _, err := k.ask(ctx, k.alice, "/api/v1/namespaces")
	if err != nil || code != http.StatusForbidden {
		return fmt.Errorf("after revoking, listing namespaces is answered with status %d, want 403: %w", code, err)
	}
	k.say("the binding is gone: the certificate still says who alice is, and the next request is answered 403 Forbidden")
	if r, err = k.until(ctx, "carol", r, func(r api.Request) bool { return r.Receipt != nil && r.Receipt.Final }); err != nil {
		return fmt.Errorf("waiting for the proof of the revocation: %w", err)
	}
	for _, a := range r.Receipt.Answers {
		if !a.No {
			return fmt.Errorf("the API server %s has not refused the revoked certificate: %s", a.Server, a.Problem)
		}
		k.say("the receipt in the ledger: %s refuses it since %d ms after the revocation", a.Server, a.AfterMillis)
	}
	return nil
}

// until follows a request as one person until done.
func (k *walk) until(ctx context.Context, person string, r api.Request, done func(api.Request) bool) (api.Request, error) {
	if done(r) {
		return r, nil
	}
	for next, err := range k.client(person).Follow(ctx, r) {
		if err != nil || done(next) {
			return next, err
		}
	}
	return r, ctx.Err()
}

// commandLine is the second way: a request from the command line whose certificate lives for seconds.
func (k *walk) commandLine(ctx context.Context, _ string) error {
	k.title("Bob asks on the command line, for ten seconds, and watches it end")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making a key: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("encoding a key: %w", err)
	}
	bob := k.client("bob")
	r, err := bob.Request(ctx, api.Ask{Profile: "cluster-admin", TTLSeconds: 10, Reason: "checking that the repair holds",
		KeyHash: breakglass.SPKI(spki)})
	if err != nil {
		return fmt.Errorf("asking: %w", err)
	}
	for _, p := range []string{"alice", "carol"} {
		if _, err := k.client(p).Approve(ctx, r, ""); err != nil {
			return fmt.Errorf("%s approves: %w", p, err)
		}
	}
	k.say("alice and carol approve %s with their SSH keys; no Slack is needed", r.ID)
	c, err := k.claim(ctx, bob, r.ID, key)
	if err != nil {
		return err
	}
	if err := k.use(ctx, c); err != nil {
		return err
	}
	if r, err = bob.Get(ctx, r.ID); err != nil {
		return fmt.Errorf("reading the request: %w", err)
	}
	for next, err := range bob.Follow(ctx, r) {
		if err != nil {
			return fmt.Errorf("waiting for the end: %w", err)
		}
		if next.State == breakglass.StateExpired && !next.Certificate.Bound {
			break
		}
	}
	code, _, err := k.ask(ctx, c, "/api/v1/namespaces")
	if err != nil || code != http.StatusUnauthorized {
		return fmt.Errorf("after its time the certificate is answered with status %d, want 401: %w", code, err)
	}
	k.say("ten seconds later: the API server says 401, and the binding is removed")

	k.title("What was done with it, and what it left behind")
	if r, err = k.until(ctx, "bob", r, func(r api.Request) bool { return r.Session != nil && r.Swept != nil }); err != nil {
		return fmt.Errorf("waiting for the session's report: %w", err)
	}
	if r.Session.Source != breakglass.SourceAudit || r.Session.Events == 0 {
		return fmt.Errorf("the session's report knows of %d audit events", r.Session.Events)
	}
	k.say("the audit events tell: used from %s to %s from %s, reads %d, changes %d, refused %d", r.Session.First.Format(time.TimeOnly),
		r.Session.Last.Format(time.TimeOnly),
		strings.Join(r.Session.From, ", "), r.Session.Reads, r.Session.Writes, r.Session.Refused)
	if len(r.Swept.Items) > 0 {
		return fmt.Errorf("the sweep found %s, and nothing was left behind", r.Swept.Items[0].Object)
	}
	k.say("the sweep finds nothing that outlives the session")
	if r, err = bob.Close(ctx, r.ID, "looked at namespaces, all is well; nothing left to do"); err != nil || r.Touched {
		return fmt.Errorf("closing: still touched %t: %w", r.Touched, err)
	}
	k.say("bob writes his closing note; the cluster does not count as touched by it any more")
	return nil
}

// verify checks the ledger as an auditor would, and shows that a change of one byte is found.
func (k *walk) verify(ctx context.Context, _ string) error {
	k.title("An auditor verifies the ledger with nothing but its public key")
	store, err := sqlstore.OpenReadOnly(ctx, k.Ledger)
	if err != nil {
		return fmt.Errorf("opening the ledger: %w", err)
	}
	defer func() { _ = store.Close() }() // nothing was written
	report, err := ledger.VerifyStore(ctx, store, k.verifier)
	if err != nil {
		return fmt.Errorf("verifying the ledger: %w", err)
	}
	l, err := ledger.OpenReadOnly(ctx, store, k.verifier)
	if err != nil {
		return fmt.Errorf("opening the ledger: %w", err)
	}
	audit, err := verify.Audit(ctx, l)
	if err != nil {
		return fmt.Errorf("replaying the ledger: %w", err)
	}
	if bad := append(report.Problems, audit.Problems...); len(bad) > 0 {
		return fmt.Errorf("the ledger does not verify: %s", strings.Join(bad, "; "))
	}
	if audit.Certificates != 2 || audit.Approvals != 4 || audit.Orphans != 0 {
		return fmt.Errorf("the ledger holds %d certificates, %d approvals and %d orphans, want 2, 4 and 0", audit.Certificates, audit.Approvals,
			audit.Orphans)
	}
	k.say("%d entries, root %s", report.Size, report.Root)
	k.say("every certificate has two approvers besides its requester: %d certificates, %d approvals (%d signed), %d refused commands",
		audit.Certificates, audit.Approvals, audit.Signed, audit.Refusals)

	dir := filepath.Join(k.Dir, "export")
	if err := ledger.Export(ctx, l, dir); err != nil {
		return fmt.Errorf("exporting the ledger: %w", err)
	}
	name, err := changeOneByte(dir)
	if err != nil {
		return err
	}
	if changed, err := ledger.VerifyExport(ctx, dir, k.verifier); err == nil && len(changed.Problems) == 0 {
		return fmt.Errorf("one byte of %s was changed and nobody noticed", name)
	}
	k.say("one changed byte in an exported copy is found")
	return nil
}

// changeOneByte changes the middle byte of an exported entry file.
func changeOneByte(dir string) (string, error) {
	var name string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.Contains(path, "entries") {
			name = path
		}
		return err
	})
	if err != nil || name == "" {
		return "", fmt.Errorf("looking for the exported entries: %w", err)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("reading the exported entries: %w", err)
	}
	text = bytes.Clone(text)
	text[len(text)/2] ^= 1
	if err := os.WriteFile(name, text, 0o600); err != nil {
		return "", fmt.Errorf("changing the exported entries: %w", err)
	}
	return filepath.Base(name), nil
}

// client is the command line of one person.
func (k *walk) client(person string) *api.Client {
	httpClient, err := api.NewHTTP(nil)
	if err != nil {
		panic(err) // without a CA there is nothing to read
	}
	return &api.Client{Server: k.URL, HTTP: httpClient, Keys: func(context.Context) ([]ssh.Signer,
		error) {
		return []ssh.Signer{k.Person(person).Key}, nil
	}}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}
