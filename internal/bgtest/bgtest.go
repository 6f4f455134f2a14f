// Package bgtest is the test kit: New gives a whole working system, a real service on a real ledger on disk with a certificate
// authority and a cluster in memory, and Check is the one checker of all invariants, to be called after every step that matters.
package bgtest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sync/errgroup"

	"github.com/breakglassd/breakglass/internal/announce"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/ledger/sqlstore"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	memca "github.com/breakglassd/breakglass/internal/sim/ca"
	"github.com/breakglassd/breakglass/internal/verify"
)

// Origin is the ledger's name in tests.
const Origin = "breakglass.test/ledger"

// People are the test policy's people. Alice, bob and dave are in team sre, carol and erin in security; mallory is in no team.
var People = []string{"alice", "bob", "carol", "dave", "erin", "mallory"}

// Policy is the access policy of the kit, for one cluster "c1": profiles admin (binding mode, two approvals, one from security),
// group (group mode), keys (critical: only signed approvals count) and scoped (a role in two namespaces).
func Policy() string {
	var b strings.Builder
	b.WriteString("version: 1\npeople:\n")
	for _, p := range People {
		fmt.Fprintf(&b, "  - {id: %s, name: %s, slack: [{team: T01, user: %s}], keys: [%q]}\n", p, strings.ToUpper(p[:1])+p[1:], SlackUser(p),
			authorized(p))
	}
	b.WriteString(`teams:
  - {id: sre, members: [alice, bob, dave]}
  - {id: security, members: [carol, erin]}
clusters:
  - {id: c1, server: "https://127.0.0.1:6443"}
policy: {reviewedBy: the test}
limits: {openPerPerson: 3, perHour: 20}
profiles:
  - id: admin
    clusters: [c1]
    bind: {clusterRole: cluster-admin}
    ttl: {default: 10m, max: 1h}
    requesters: [sre]
    approvals: {count: 2, from: [sre, security], each: [security]}
    reason: {min: 10}
    incident: {pattern: "^INC-[0-9]+$"}
    risk: high
  - id: group
    clusters: [c1]
    bind: {group: "breakglass:cluster-admins"}
    ttl: {default: 10m, max: 1h}
    requesters: [sre]
    approvals: {count: 2, from: [sre, security]}
    reason: {min: 10}
    risk: high
  - id: keys
    clusters: [c1]
    bind: {clusterRole: cluster-admin}
    ttl: {default: 10m, max: 1h}
    requesters: [sre]
    approvals: {count: 2, from: [sre, security]}
    reason: {min: 10}
    risk: critical
  - id: scoped
    clusters: [c1]
    bind: {role: fixer, namespaces: [default, kube-system]}
    ttl: {default: 10m, max: 1h}
    requesters: [sre]
    approvals: {count: 2, from: [sre, security]}
    reason: {min: 10}
    risk: low
`)
	return b.String()
}

// Guarded is the kit's policy with a team that must agree to its changes: alice, bob and dave.
func Guarded() string {
	return strings.Replace(Policy(), "policy: {reviewedBy: the test}", "policy: {approvers: sre}", 1)
}

// PolicyWord is a person's signature over the access policy that waits, or over the one in force if none waits.
func PolicyWord(st policy.Standing, who string, waive bool) policy.Word {
	w := policy.Word{Entry: st.Entry, Digest: st.Policy.Digest, Base: st.Policy.Digest, Waive: waive}
	if st.Waiting != nil {
		w.Entry, w.Digest = st.WaitingEntry, st.Waiting.Digest
	}
	w.Signature = SignSSH(SSHKey(who), policy.Namespace, policy.Text(w.Entry, w.Digest, w.Base, w.Waive))
	return w
}

// SlackUser is a person's Slack user id in team T01.
func SlackUser(person string) string { return "U0" + strings.ToUpper(person) }

// PrivateKey is a person's private key: the same in every run.
func PrivateKey(person string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("bgtest key of " + person))
	return ed25519.NewKeyFromSeed(seed[:])
}

// SSHKey is a person's SSH key: the same in every run.
func SSHKey(person string) ssh.Signer {
	s, err := ssh.NewSignerFromKey(PrivateKey(person))
	if err != nil {
		panic(err)
	}
	return s
}

func authorized(person string) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(SSHKey(person).PublicKey()))) + " " + person
}

// BySlack and ByKey are a person giving a command by Slack or by the command line.
func BySlack(person string) record.Actor {
	return record.Actor{Person: person, Channel: record.ChannelSlack, Slack: &record.SlackAccount{Team: "T01",
		User: SlackUser(person)}}
}

// ByKey is a person on the command line.
func ByKey(person string) record.Actor {
	return record.Actor{Person: person, Channel: record.ChannelKey, Key: ssh.FingerprintSHA256(SSHKey(person).PublicKey())}
}

// Options change what New builds. The zero value is a system with the kit's policy.
type Options struct {
	Policy string
	Config func(*Config)
	Store  func(ledger.Store) ledger.Store // puts faults between the ledger and its disk
	Log    *slog.Logger
	Beside map[string]announce.Messenger // other messengers beside Told: each has an announcer of its own, as in the daemon
}

// The two halves of a Config.
type (
	Record = record.Config
	Domain = breakglass.Config
)

// Config is what a daemon's domain is made from. Open fills what is missing in Domain.
type Config struct {
	Record
	Domain
}

// Open makes the parts of a daemon's domain, as the daemon does.
func Open(ctx context.Context, cfg Config) (*breakglass.Service, *campaign.Book, error) {
	rec, err := record.Open(ctx, cfg.Record)
	if err != nil {
		return nil, nil, err
	}
	inForce := policy.NewInForce(rec)
	findings, err := finding.Open(ctx, rec, inForce)
	if err != nil {
		return nil, nil, err
	}
	campaigns, err := campaign.Open(ctx, rec, inForce, findings)
	if err != nil {
		return nil, nil, err
	}
	cfg.Domain.Recorder, cfg.Domain.InForce, cfg.Domain.Findings = rec, inForce, findings
	service, err := breakglass.New(ctx, cfg.Domain)
	return service, campaigns, err
}

// Run runs the parts until ctx is done, as the daemon does.
func Run(ctx context.Context, service *breakglass.Service, campaigns *campaign.Book, messengers map[string]announce.Messenger) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return service.Run(ctx) })
	g.Go(func() error { return campaigns.Run(ctx) })
	for name, m := range messengers {
		g.Go(func() error { return announce.Run(ctx, service.Recorder, verify.Kinds(), name, m) })
	}
	return g.Wait()
}

// System is a running system. Its ledger is on disk in Dir and survives Restart; the authority, the cluster and what people
// were told survive too, as they would in reality.
type System struct {
	T         testing.TB
	Dir       string
	Ledger    *ledger.Ledger
	Service   *breakglass.Service
	Campaigns *campaign.Book
	CA        *memca.CA
	Cluster   *Cluster
	Told      *Told
	Verifier  note.Verifier
	VKey      string // the ledger's public key, in note format
	options   Options
	signer    note.Signer
	stop      func() error
	ended     <-chan error
	delivered sync.Map // request id → certificate fingerprint: what left the process, for I2
}

// New builds and starts a system and stops it when the test ends.
func New(t testing.TB, o Options) *System {
	t.Helper()
	ca, err := memca.New("bgtest-ca")
	must(t, err)
	skey, vkey, err := ledger.NewKey(Origin)
	must(t, err)
	s := &System{T: t, Dir: t.TempDir(), CA: ca, Cluster: &Cluster{have: map[string]breakglass.Binding{}}, Told: &Told{}, VKey: vkey,
		options: o}
	s.signer, err = note.NewSigner(skey)
	must(t, err)
	s.Verifier, err = note.NewVerifier(vkey)
	must(t, err)
	must(t, sqlstore.Create(t.Context(), s.Path()))
	s.start()
	t.Cleanup(s.Stop)
	return s
}

// Signer is the ledger's private key.
func (s *System) Signer() note.Signer { return s.signer }

// Path is the ledger's file.
func (s *System) Path() string { return filepath.Join(s.Dir, "ledger.db") }

func (s *System) start() {
	s.T.Helper()
	text := s.options.Policy
	if text == "" {
		text = Policy()
	}
	pol, err := policy.Parse("access.yaml", []byte(text))
	must(s.T, err)
	ctx, cancel := context.WithCancel(context.Background())
	disk, err := sqlstore.Open(ctx, s.Path())
	must(s.T, err)
	store := ledger.Store(disk)
	if s.options.Store != nil {
		store = s.options.Store(store)
	}
	s.Ledger, err = ledger.Open(ctx, store, s.signer, s.Verifier)
	must(s.T, err)
	cfg := Config{Record: Record{Ledger: s.Ledger, Log: s.options.Log},
		Domain: Domain{Policy: pol, Signer: s.CA, Binder: s.Cluster, SignTimeout: 2 * time.Second, BindTimeout: time.Second,
			ReconcileBindingsEvery: time.Second, ClusterCA: func(string) []byte { return s.CA.PEM() }}}
	if s.options.Config != nil {
		s.options.Config(&cfg)
	}
	s.Service, s.Campaigns, err = Open(ctx, cfg)
	must(s.T, err)
	messengers := map[string]announce.Messenger{"told": s.Told}
	maps.Copy(messengers, s.options.Beside)
	done := make(chan error, 1)
	s.ended = done
	go func() { done <- Run(ctx, s.Service, s.Campaigns, messengers) }()
	s.stop = func() error {
		cancel()
		err := <-done
		if cerr := s.Ledger.Close(); err == nil {
			err = cerr
		}
		return err
	}
}

// Stop ends the daemon's part of the system. Stopping twice is fine.
func (s *System) Stop() {
	if s.stop == nil {
		return
	}
	err := s.stop()
	s.stop = nil
	if err != nil {
		s.T.Errorf("stopping: %v", err)
	}
}

// WaitEnd waits until Run ends by itself, and returns why. The ledger is closed then, as by the end of the process.
func (s *System) WaitEnd() error {
	err := <-s.ended
	s.stop = nil
	if cerr := s.Ledger.Close(); cerr != nil {
		s.T.Logf("closing the ledger: %v", cerr)
	}
	return err
}

// Restart stops the daemon's part and starts it again from disk.
func (s *System) Restart() {
	s.T.Helper()
	s.Stop()
	s.start()
}

// RestartWith restarts with another access policy.
func (s *System) RestartWith(pol string) {
	s.T.Helper()
	s.options.Policy = pol
	s.Restart()
}

// RestartAs restarts with another access policy and another configuration, this one time.
func (s *System) RestartAs(pol string, config func(*Config)) {
	s.T.Helper()
	before := s.options.Config
	s.options.Config = func(c *Config) {
		if before != nil {
			before(c)
		}
		config(c)
	}
	s.RestartWith(pol)
	s.options.Config = before
}

// Ask opens a request, or fails the test.
func (s *System) Ask(a record.Actor, profile string) *breakglass.Request {
	s.T.Helper()
	r, err := s.Service.Request(s.T.Context(), a, breakglass.Ask{Profile: profile, Reason: "etcd quorum lost, API 5xx"})
	must(s.T, err)
	return r
}

// Approve approves as shown by r, or fails the test.
func (s *System) Approve(a record.Actor, r *breakglass.Request) *breakglass.Request {
	s.T.Helper()
	after, err := s.Service.Approve(s.T.Context(), a, r.ID, Consent(a, r))
	must(s.T, err)
	return after
}

// Consent is what a person's client sends with an approval of r, signed if it comes by key.
func Consent(a record.Actor, r *breakglass.Request) breakglass.Consent {
	c := breakglass.Consent{Digest: r.Digest}
	if a.Channel == record.ChannelKey {
		c.Signature = SignSSH(SSHKey(a.Person), breakglass.ApprovalNamespace, breakglass.ApprovalText(r.ID, r.Digest, r.TakenBack[a.Person]))
	}
	return c
}

// ClaimSignature is what a person's client sends with a claim.
func ClaimSignature(who, id string, csr []byte) string {
	der := csr
	if block, _ := pem.Decode(csr); block != nil {
		der = block.Bytes
	}
	return SignSSH(SSHKey(who), breakglass.ClaimNamespace, breakglass.ClaimText(id, breakglass.Fingerprint(der)))
}

// SignSSH makes an armored SSHSIG.
func SignSSH(key ssh.Signer, namespace string, text []byte) string {
	sig, err := sshsig.Sign(bytes.NewReader(text), key, sshsig.HashSHA512, namespace)
	if err != nil {
		panic(err)
	}
	return string(sshsig.Armor(sig))
}

// SignPolicy has a person sign the access policy that waits, or the one in force if none waits.
func (s *System) SignPolicy(who string, waive bool) {
	s.T.Helper()
	st, err := s.Service.InForce.Standing(s.T.Context(), ByKey(who))
	must(s.T, err)
	must(s.T, s.Service.InForce.Sign(s.T.Context(), ByKey(who), PolicyWord(st, who, waive)))
}

// Grant is a request approved by carol and bob, or by carol and dave if bob asked.
func (s *System) Grant(who, profile string) *breakglass.Request {
	s.T.Helper()
	r := s.Ask(ByKey(who), profile)
	second := "bob"
	if who == "bob" {
		second = "dave"
	}
	s.Approve(ByKey("carol"), r)
	return s.Approve(ByKey(second), r)
}

// NewCSR makes a P-256 key and its certificate request.
func NewCSR() (*ecdsa.PrivateKey, []byte) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key, CSR(key, &x509.CertificateRequest{})
}

// CSR makes a certificate request from a template.
func CSR(key any, t *x509.CertificateRequest) []byte {
	der, err := x509.CreateCertificateRequest(rand.Reader, t, key)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// Claim claims and remembers what was delivered, for Check.
func (s *System) Claim(who string, id string, csr []byte) (*breakglass.Delivery, error) {
	d, err := s.Service.Claim(s.T.Context(), ByKey(who), id, csr, ClaimSignature(who, id, csr))
	if err == nil {
		print := breakglass.Fingerprint(d.Certificate)
		if before, loaded := s.delivered.LoadOrStore(d.Request.ID, print); loaded && before != print {
			s.T.Errorf("I2: request %s delivered two certificates", d.Request.ID)
		}
	}
	return d, err
}

// WaitState waits until a request is in a state, or fails the test.
func (s *System) WaitState(id string, want breakglass.State) *breakglass.Request {
	s.T.Helper()
	ctx, cancel := context.WithTimeout(s.T.Context(), time.Hour) // of bubble time, or the test's own limit
	defer cancel()
	rev, was := int64(0), breakglass.State("")
	for {
		r, err := s.Service.Wait(ctx, id, rev, was)
		must(s.T, err)
		rev, was = r.Rev, r.State(time.Now())
		if was == want {
			return r
		}
		if ctx.Err() != nil {
			s.T.Fatalf("request %s is %s, waited for %s", id, was, want)
		}
	}
}

// Check fails the test if any invariant does not hold right now: the ledger's bytes, hashes and checkpoint; the replay of every
// entry through the state machine; the index; what the authority signed against what the ledger says; what was delivered.
func (s *System) Check() {
	s.T.Helper()
	CheckLedger(s.T, s.Path(), s.Verifier)
	CheckSigned(s.T, s.Ledger, s.CA.Issued())
	s.delivered.Range(func(id, print any) bool {
		r, err := s.Service.Get(s.T.Context(), id.(string))
		must(s.T, err)
		if r.Issued == nil || r.Issued.Fingerprint != print {
			s.T.Errorf("I5: request %s delivered certificate %s, which its ledger does not have", id, print)
		}
		return true
	})
}

// CheckLedger verifies the ledger file as an auditor would, with nothing but the public key: works beside a running daemon.
func CheckLedger(t testing.TB, path string, v note.Verifier) {
	t.Helper()
	ctx := t.Context()
	store, err := sqlstore.OpenReadOnly(ctx, path)
	must(t, err)
	defer store.Close()
	report, err := ledger.VerifyStore(ctx, store, v)
	must(t, err)
	for _, p := range report.Problems {
		t.Errorf("I9, I11: %s", p)
	}
	l, err := ledger.OpenReadOnly(ctx, store, v)
	must(t, err)
	audit, err := verify.Audit(ctx, l)
	must(t, err)
	for _, p := range audit.Problems {
		t.Errorf("I1-I8, I12: %s", p)
	}
}

// CheckSigned compares everything an authority ever signed with the ledger (I3, I4): at most one certificate for each claim,
// recorded as issued or as an orphan, or made by a claim whose outcome is still open.
func CheckSigned(t testing.TB, l *ledger.Ledger, certs []*x509.Certificate) {
	t.Helper()
	recorded := map[string]bool{} // by DER
	issuing := map[string]bool{}  // by common name
	for from := int64(0); from < l.Size(); {
		entries, err := l.Entries(t.Context(), from, 1000)
		must(t, err)
		for _, e := range entries {
			ev, err := verify.Decode(e)
			must(t, err)
			switch ev := ev.(type) {
			case breakglass.Claimed:
				issuing[ev.CommonName] = true
			case breakglass.Issued:
				recorded[string(ev.Certificate)] = true
				delete(issuing, breakglass.CommonName(personOf(t, l, e.Stream), e.Stream))
			case breakglass.Failed:
				for _, o := range ev.Orphans {
					recorded[string(o)] = true
				}
				delete(issuing, breakglass.CommonName(personOf(t, l, e.Stream), e.Stream))
			}
		}
		from += int64(len(entries))
	}
	names := map[string]bool{}
	for _, c := range certs {
		cn := c.Subject.CommonName
		if names[cn] {
			t.Errorf("I3: %s was signed twice", cn)
		}
		names[cn] = true
		if !recorded[string(c.Raw)] && !issuing[cn] {
			t.Errorf("I4: the ledger does not know certificate %s", cn)
		}
	}
}

func personOf(t testing.TB, l *ledger.Ledger, id string) string {
	t.Helper()
	entries, err := l.Stream(t.Context(), id)
	must(t, err)
	r, err := breakglass.Fold(entries, true)
	must(t, err)
	return r.Ask.By.Person
}

// Cluster is a Binder in memory. Faults are placed with SetBind, SetUnbind and SetBound, at any time.
type Cluster struct {
	mu       sync.Mutex // guards what follows
	have     map[string]breakglass.Binding
	onBind   func(breakglass.Binding) (apply bool, err error)
	onUnbind func(request string) (apply bool, err error)
	onBound  func() error
	able     func(context.Context) error
}

// SetAble has each Able ask f.
func (c *Cluster) SetAble(f func(context.Context) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.able = f
}

// Able implements breakglass.Able.
func (c *Cluster) Able(ctx context.Context, _ string) error {
	c.mu.Lock()
	f := c.able
	c.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(ctx)
}

// SetBind has each Bind ask f: apply says whether it happens, err what is told.
func (c *Cluster) SetBind(f func(breakglass.Binding) (apply bool, err error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onBind = f
}

// SetUnbind is SetBind for Unbind.
func (c *Cluster) SetUnbind(f func(request string) (apply bool, err error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onUnbind = f
}

// SetBound has each Bound fail with what f returns.
func (c *Cluster) SetBound(f func() error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onBound = f
}

// Bind implements breakglass.Binder.
func (c *Cluster) Bind(_ context.Context, b breakglass.Binding) error {
	c.mu.Lock()
	fault := c.onBind
	c.mu.Unlock()
	apply, err := true, error(nil)
	if fault != nil {
		apply, err = fault(b)
	}
	if apply {
		c.Plant(b.Request, &b)
	}
	return err
}

// Unbind implements breakglass.Binder.
func (c *Cluster) Unbind(_ context.Context, _, request string) error {
	c.mu.Lock()
	fault := c.onUnbind
	c.mu.Unlock()
	apply, err := true, error(nil)
	if fault != nil {
		apply, err = fault(request)
	}
	if apply {
		c.Plant(request, nil)
	}
	return err
}

// Bound implements breakglass.Binder.
func (c *Cluster) Bound(context.Context, string) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.onBound != nil {
		if err := c.onBound(); err != nil {
			return nil, err
		}
	}
	return slices.Sorted(maps.Keys(c.have)), nil
}

// Has reports whether a request's binding exists.
func (c *Cluster) Has(request string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.have[request]
	return ok
}

// Binding is a request's binding as it is in the cluster, or the zero one.
func (c *Cluster) Binding(request string) breakglass.Binding {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.have[request]
}

// Plant makes a binding exist, or not exist when b is nil, as somebody else's hand would.
func (c *Cluster) Plant(request string, b *breakglass.Binding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.have, request)
	if b != nil {
		c.have[request] = *b
	}
}

// Told is a Messenger that remembers.
type Told struct {
	mu      sync.Mutex
	notices []announce.Notice
	onTell  func(announce.Notice) error
}

// OnTell has do called with each notice from now on, before it is remembered. It may be called while the service runs.
func (m *Told) OnTell(do func(announce.Notice) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.onTell = do
}

// Tell implements announce.Messenger.
func (m *Told) Tell(_ context.Context, n announce.Notice) error {
	m.mu.Lock()
	do := m.onTell
	m.mu.Unlock()
	if do != nil {
		if err := do(n); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.notices = append(m.notices, n)
	return nil
}

// Kinds lists what was told about a request, in order.
func (m *Told) Kinds(request string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, n := range m.notices {
		if n.Stream == request {
			out = append(out, n.Event.Kind())
		}
	}
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Bubble runs a test of a whole system on fake time, and checks it in the end.
func Bubble(t *testing.T, o Options, f func(t *testing.T, s *System)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := New(t, o)
		f(t, s)
		s.Check()
	})
}

// WantRefusal fails unless err is a Refusal whose code begins with code.
func WantRefusal(t *testing.T, err error, code string) {
	t.Helper()
	r, ok := record.AsRefusal(err)
	if !ok || !strings.HasPrefix(r.Code, code) {
		t.Errorf("got error %v, want a refusal %s", err, code)
	}
}

// WantState fails unless the request is in the state now.
func WantState(t *testing.T, r *breakglass.Request, want breakglass.State) {
	t.Helper()
	if got := r.State(time.Now()); got != want {
		t.Errorf("request is %s, want %s", got, want)
	}
}

// Must fails the test at once on an error.
func Must(t testing.TB, err error) {
	t.Helper()
	must(t, err)
}

// Audit says what could not have happened among entries: see package verify.
func Audit(entries []ledger.Entry) []string {
	a := verify.NewAuditor()
	for _, e := range entries {
		a.Add(e)
	}
	return a.Report().Problems
}
