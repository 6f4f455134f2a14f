package vaultca

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
	"golang.org/x/sync/errgroup"

	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/policies"
)

// Check proves that an order for this cluster and group would be signed under exactly what shipped, and by a clock that agrees
// with ours. It reads the role, the issuer, the token, the policy and the time at the same time, so it costs about one round trip. Callers
// that come while others are being answered share the next reading, which begins after they came: a crowd costs Vault no more than one
// caller does, and no caller is answered with what was read before it asked. See breakglass.Signer.
func (c *CA) Check(ctx context.Context, cluster, group string) error {
	r := c.checks.join(cluster+" "+group, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*c.cfg.Timeout) // of everybody who joined, so of nobody
		defer cancel()
		return c.check(ctx, cluster, group)
	})
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return fmt.Errorf("checking what Vault would sign under: %w", ctx.Err())
	}
}

// rounds lets callers of the same key share work. It holds at most one running and one waiting round for each key.
type rounds struct {
	mu      sync.Mutex
	running map[string]*round
	waiting map[string]*round
}

type round struct {
	done chan struct{} // closed when err is set
	err  error
}

// join returns a round that has not begun yet when join is called.
func (q *rounds) join(key string, work func() error) *round {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running[key] != nil {
		if q.waiting[key] == nil {
			q.waiting[key] = &round{done: make(chan struct{})}
		}
		return q.waiting[key]
	}
	r := &round{done: make(chan struct{})}
	q.running[key] = r
	go q.run(key, r, work)
	return r
}

// run carries out a round, and then the ones that gathered meanwhile.
func (q *rounds) run(key string, r *round, work func() error) {
	for r != nil {
		r.err = work()
		close(r.done)
		q.mu.Lock()
		r = q.waiting[key]
		delete(q.waiting, key)
		if r == nil {
			delete(q.running, key)
		} else {
			q.running[key] = r
		}
		q.mu.Unlock()
	}
}

func (c *CA) check(ctx context.Context, cluster, group string) error {
	m, role, err := c.mount(cluster, group)
	if err != nil {
		return err
	}
	s, err := c.token(ctx)
	if err != nil {
		return err
	}
	now, err := c.snapshot(ctx, s, m, role)
	if denied(err) {
		fresh, lerr := c.revived(ctx, s)
		if lerr != nil {
			return lerr
		}
		if fresh != s {
			now, err = c.snapshot(ctx, fresh, m, role)
		}
	}
	if err != nil {
		return err
	}
	return c.judge(now, m, group)
}

// judge says why nothing would be signed under what was read, if anything is wrong with it.
func (c *CA) judge(now snapshot, m Mount, group string) error {
	drift, err := c.drift(now, m, group)
	if err != nil {
		return err
	}
	if now.ahead.Abs() > record.MaxSkew {
		return fmt.Errorf("Vault's clock and this one differ by %s, so that a certificate would not be believed: set both with NTP",
			now.ahead.Abs().Round(time.Second))
	}
	if len(drift) > 0 {
		return fmt.Errorf("Vault would not sign under what shipped: %s; find out who changed it, then run deploy/vault/setup.sh again",
			strings.Join(drift, "; "))
	}
	return nil
}

// snapshot is what decides over a signature, as it is in Vault now.
type snapshot struct {
	common
	role    *answer
	issuers map[string]issuerAnswer // by id: of every pinned issuer
}

// common is the part of a snapshot that is the same for all mounts.
type common struct {
	token, policy *answer
	ahead         time.Duration // of our clock, Vault's; 0 when it does not tell
}

// issuerAnswer is what Vault said about one issuer. An error counts only if the role points there: the other issuer of a
// rotation may have been deleted already, or not have been made yet.
type issuerAnswer struct {
	answer *answer
	err    error
}

// snapshot reads everything at the same time. Health is asked on the signing client, so that the connection for the signature,
// which is never kept for long, is made meanwhile.
func (c *CA) snapshot(ctx context.Context, s *session, m Mount, role string) (snapshot, error) {
	var now snapshot
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		now.common, err = c.common(ctx, s, c.sign)
		return err
	})
	g.Go(func() (err error) {
		now.role, err = c.must(ctx, s, m.Path+"/roles/"+role)
		return err
	})
	g.Go(func() error {
		now.issuers = c.pinnedNow(ctx, s, m)
		return nil
	})
	if err := g.Wait(); err != nil {
		return now, err
	}
	return now, now.issuerError(m)
}

// common reads the token, the policy and the clock.
func (c *CA) common(ctx context.Context, s *session, forHealth *api.Client) (common, error) {
	var now common
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		now.token, err = c.must(ctx, s, "auth/token/lookup-self")
		return err
	})
	g.Go(func() (err error) {
		now.policy, err = c.must(ctx, s, "sys/policies/acl/"+c.cfg.Policy)
		return err
	})
	g.Go(func() error {
		// A standby tells its own time, which is not that of the node that signs.
		if h, err := c.health(ctx, forHealth); err == nil && !h.Standby {
			now.ahead = time.Until(h.ServerTime)
		}
		return nil
	})
	return now, g.Wait()
}

// must reads what has to be there.
func (c *CA) must(ctx context.Context, s *session, path string) (*answer, error) {
	a, err := c.get(ctx, s.token, path)
	switch {
	case absent(err):
		return nil, fmt.Errorf("Vault has no %s: run deploy/vault/setup.sh", path)
	case denied(err):
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return a, err
}

// pinnedNow reads the pinned issuers.
func (c *CA) pinnedNow(ctx context.Context, s *session, m Mount) map[string]issuerAnswer {
	ids := m.pinned()
	read := make([]issuerAnswer, len(ids))
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() { read[i].answer, read[i].err = c.get(ctx, s.token, m.Path+"/issuer/"+id) })
	}
	wg.Wait()
	out := map[string]issuerAnswer{}
	for i, id := range ids {
		out[id] = read[i]
	}
	return out
}

// issuerError is why the issuer that the role points to could not be read.
func (now snapshot) issuerError(m Mount) error {
	id := roleIssuer(now.role.Data, m)
	err := now.issuers[id].err
	if absent(err) {
		return fmt.Errorf("Vault has no %s/issuer/%s: run deploy/vault/setup.sh", m.Path, id)
	}
	return err
}

// roleIssuer is the pinned issuer that a role points to, and if it points to none of them the first one, to which it then is
// compared in vain.
func roleIssuer(role map[string]any, m Mount) string {
	if m.NextIssuerID != "" && role["issuer_ref"] == m.NextIssuerID {
		return m.NextIssuerID
	}
	return m.IssuerID
}

// drift lists every difference between a snapshot and what shipped. The error is for what cannot be compared.
func (c *CA) drift(now snapshot, m Mount, group string) ([]string, error) {
	bad, err := c.roleVerdict(now.role, group, m)
	if err != nil {
		return nil, err
	}
	id := roleIssuer(now.role.Data, m)
	issuer, err := c.issuerDrift(now.issuers[id].answer, m, id, time.Now())
	if err != nil {
		return nil, err
	}
	bad = append(bad, issuer...)
	if got := append(now.token.list("policies"), now.token.list("identity_policies")...); !slices.Equal(got, []string{c.cfg.Policy}) {
		bad = append(bad, fmt.Sprintf("the daemon's token has the policies %q instead of %q alone", got, c.cfg.Policy))
	}
	policy := c.policyVerdict(now.policy)
	bad = append(bad, policy.against(m.Path)...)
	if !policy.allows(m.Path, group) {
		bad = append(bad, fmt.Sprintf("the policy %s does not allow signing for group %q on %s", c.cfg.Policy, group, m.Path))
	}
	return bad, nil
}

// roleVerdict is what roleDrift says about a role. Of one that has not changed since it was good it is not worked out again.
func (c *CA) roleVerdict(role *answer, group string, m Mount) ([]string, error) {
	key := m.Cluster + " " + group
	if good, ok := c.roles.Load(key); ok && role.raw != nil && bytes.Equal(good.([]byte), role.raw) {
		return nil, nil
	}
	bad, _, err := roleDrift(role.Data, group, m)
	if err == nil && len(bad) == 0 {
		c.roles.Store(key, role.raw)
	}
	return bad, err
}

// roleDrift compares a role field by field, and also lists the fields that this release does not know: a newer Vault may have
// more of them, which must not stop issuing but is for Doctor to tell.
func roleDrift(got map[string]any, group string, m Mount) (bad, unknown []string, err error) {
	text, err := policies.VaultRole(group, roleIssuer(got, m), m.MaxTTL)
	if err != nil {
		return nil, nil, err
	}
	return fieldDrift(got, text)
}

// The role fields of one product that the other does not have. OpenBao takes the serial number of a subject from the CSR whatever its
// role says, and then refuses it because allowed_serial_numbers ships empty; Vault is told to take none. Vault knows no bounds for the
// parameters not_before and not_after; the shipped policy refuses them to both.
var (
	ofVault   = []string{"serial_number_source"}
	ofOpenBao = []string{"not_before", "not_before_bound", "not_after_bound"}
)

// isOpenBao reports whether a role was given back by OpenBao. It goes by the role itself, so that no answer to another question decides
// over what is compared: a field may be missing only if all that the other product has in its place are there.
func isOpenBao(role map[string]any) bool {
	has := func(field string) bool { _, ok := role[field]; return ok }
	return slices.ContainsFunc(ofOpenBao, has) && !slices.ContainsFunc(ofVault, has)
}

// fieldDrift is roleDrift for any role, given as what ships.
func fieldDrift(got map[string]any, text []byte) (bad, unknown []string, err error) {
	want := map[string]any{}
	if err := decode(strings.NewReader(string(text)), &want); err != nil {
		return nil, nil, fmt.Errorf("reading the shipped role: %w", err)
	}
	others := ofOpenBao
	if isOpenBao(got) {
		others = ofVault
	}
	for field, w := range want {
		g, present := got[field]
		switch {
		case !present && slices.Contains(others, field):
		case !present:
			bad = append(bad, fmt.Sprintf("role field %s is missing (this Vault is too old, or an OpenBao before 2.3.1)", field))
		case !sameField(w, g):
			bad = append(bad, fmt.Sprintf("role field %s is %s instead of %s", field, brief(g), brief(w)))
		}
	}
	for field := range got {
		if _, known := want[field]; !known {
			unknown = append(unknown, field)
		}
	}
	slices.Sort(bad)
	slices.Sort(unknown)
	return bad, unknown, nil
}

// sameField compares JSON values. A missing list is an empty one.
func sameField(want, got any) bool {
	w, isList := want.([]any)
	if !isList {
		return want == got // json.Number, string and bool compare by what was written
	}
	g, _ := got.([]any)
	return (got == nil || g != nil) && slices.Equal(w, g)
}

func brief(v any) string {
	text, _ := json.Marshal(v)
	return strings.Join(clean([]string{string(text)}), "")
}

// issuerDrift checks the pinned issuer: still there, still the same certificate, able to sign the longest lifetime.
func (c *CA) issuerDrift(a *answer, m Mount, pinned string, now time.Time) ([]string, error) {
	cert, err := oneCertificate(a.text("certificate"))
	if err != nil {
		return nil, fmt.Errorf("the certificate of issuer %s on %s cannot be used: %w", pinned, m.Path, err)
	}
	var bad []string
	if first, _ := c.issuers.LoadOrStore(pinned, cert); !first.(*x509.Certificate).Equal(cert) {
		bad = append(bad, "the pinned issuer has another certificate than when the daemon started")
	}
	if id := a.text("issuer_id"); id != pinned {
		bad = append(bad, fmt.Sprintf("the issuer is %q instead of %q", id, pinned))
	}
	if a.flag("revoked") {
		bad = append(bad, "the issuer is revoked")
	}
	if !slices.Contains(a.list("usage"), "issuing-certificates") {
		bad = append(bad, "the issuer may not issue certificates (its usage was changed)")
	}
	if b := a.text("leaf_not_after_behavior"); b != "err" {
		bad = append(bad, fmt.Sprintf("the issuer's leaf_not_after_behavior is %q instead of \"err\"", b))
	}
	if now.Before(cert.NotBefore) || now.Add(m.MaxTTL).After(cert.NotAfter) {
		bad = append(bad, fmt.Sprintf("the issuer is valid from %s to %s, which is too short for a lifetime of %s: rotate it",
			cert.NotBefore.UTC().Format(time.RFC3339), cert.NotAfter.UTC().Format(time.RFC3339), m.MaxTTL))
	}
	return bad, nil
}

// Issuer returns the certificate of the issuer that the cluster's mount is pinned to; in a rotation, of the one that signs
// for people now.
func (c *CA) Issuer(ctx context.Context, cluster string) (*x509.Certificate, error) {
	m, role, err := c.mount(cluster, "")
	if err != nil {
		return nil, err
	}
	id := m.IssuerID
	if m.NextIssuerID != "" {
		s, err := c.token(ctx)
		if err != nil {
			return nil, err
		}
		a, err := c.get(ctx, s.token, m.Path+"/roles/"+role)
		if err != nil {
			return nil, fmt.Errorf("reading the role %s on %s: %w", role, m.Path, err)
		}
		id = roleIssuer(a.Data, m)
	}
	return c.issuer(ctx, m, id)
}

// Issuers returns the certificates of a cluster's issuers: of both while a rotation goes on. Vault tells them without a credential, so no
// credential is used.
func (c *CA) Issuers(ctx context.Context, cluster string) ([]*x509.Certificate, error) {
	m, _, err := c.mount(cluster, "")
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	for _, id := range m.pinned() {
		a, err := c.get(ctx, "", m.Path+"/issuer/"+id+"/json")
		if err != nil {
			return nil, fmt.Errorf("reading issuer %s on %s: %w", id, m.Path, err)
		}
		cert, err := oneCertificate(a.text("certificate"))
		if err != nil {
			return nil, fmt.Errorf("reading issuer %s on %s: %w", id, m.Path, err)
		}
		out = append(out, cert)
	}
	return out, nil
}

// issuer returns the certificate of one issuer. One that was read before is not read again: it never changes under its id.
func (c *CA) issuer(ctx context.Context, m Mount, id string) (*x509.Certificate, error) {
	if cert, ok := c.issuers.Load(id); ok {
		return cert.(*x509.Certificate), nil
	}
	s, err := c.token(ctx)
	if err != nil {
		return nil, err
	}
	a, err := c.get(ctx, s.token, m.Path+"/issuer/"+id)
	if err != nil {
		return nil, fmt.Errorf("reading issuer %s on %s: %w", id, m.Path, err)
	}
	cert, err := oneCertificate(a.text("certificate"))
	if err != nil {
		return nil, fmt.Errorf("reading issuer %s on %s: %w", id, m.Path, err)
	}
	first, _ := c.issuers.LoadOrStore(id, cert)
	return first.(*x509.Certificate), nil
}

// pinnedIssuers returns the certificates of the pinned issuers, at least one. Of two, Vault may say that one does not exist:
// it has not been made yet, or has been deleted.
func (c *CA) pinnedIssuers(ctx context.Context, m Mount) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	var missing error
	for _, id := range m.pinned() {
		cert, err := c.issuer(ctx, m, id)
		var e *callError
		switch {
		case err == nil:
			out = append(out, cert)
		case errors.As(err, &e) && e.vault && !slices.Contains(e.said, sealed) && !denied(err):
			missing = err
		default:
			return nil, err
		}
	}
	if len(out) == 0 {
		return nil, missing
	}
	return out, nil
}

// ofMount finds the mount and, in sign/ROLE and roles/ROLE, the role that a block which ships for each mount is about.
var ofMount = regexp.MustCompile(`^path "([^"*+]+?)/(?:certs|roles|issuers|issuer/\+|issuer/\+/sign/breakglass-canary|` +
	`config/(?:issuers|acme|auto-tidy)|(?:sign|roles)/(breakglass(?:-[^"*+/]+)?))" `)

// blockPath finds the path of a block as far as it has no wildcard.
var blockPath = regexp.MustCompile(`^path "([^"*+]*)`)

// policyVerdict is how a policy differs from the shipped one, whatever mounts and groups it was made for. One that covers more
// clusters than the daemon is configured for is no difference: a cluster is added in Vault first.
type policyVerdict struct {
	name, text string
	mounts     []policies.VaultMount
	allowed    []string            // the paths that may be signed under
	foreign    map[string][]string // blocks that did not ship, by the mount that they are bounded to; "": bounded to none
	missing    map[string][]string // blocks that shipped and are not there, by the mount that they belong to; "": to none
}

// policyVerdict is what policyDrift says about the daemon's policy. Of one that has not changed it is not worked out again.
func (c *CA) policyVerdict(a *answer) *policyVerdict {
	text := a.text("policy")
	if v := c.policy.Load(); v != nil && v.text == text {
		return v
	}
	var paths []string
	for _, m := range c.cfg.Mounts {
		paths = append(paths, m.Path)
	}
	v := policyDrift(c.cfg.Policy, text, paths...)
	c.policy.Store(v)
	return v
}

// against is what stops signing on a mount. A block that did not ship stops whatever it could be about: its mount if it is about
// one, else everything. A block that is missing can only take a right away, so it stops its own mount; what it takes from the
// token itself fails where it is needed, and Doctor tells it.
func (v *policyVerdict) against(mount string) []string {
	var bad []string
	if all := append(slices.Clone(v.foreign[""]), v.foreign[mount]...); len(all) > 0 {
		bad = append(bad, fmt.Sprintf("the policy %s has what did not ship: %s", v.name, few(all)))
	}
	if gone := v.missing[mount]; len(gone) > 0 {
		bad = append(bad, fmt.Sprintf("the policy %s lacks what shipped: %s", v.name, few(gone)))
	}
	return bad
}

// few names the first blocks of several, each by its path: the message is read by people, on one line.
func few(blocks []string) string {
	const most = 3
	var out []string
	for _, b := range blocks[:min(len(blocks), most)] {
		name, _, _ := strings.Cut(b, " {")
		out = append(out, strings.Join(clean([]string{name}), ""))
	}
	if n := len(blocks) - most; n > 0 {
		out = append(out, fmt.Sprintf("and %d more", n))
	}
	return strings.Join(out, ", ")
}

// allows reports whether the policy has the shipped block for signing for the group on the mount.
func (v *policyVerdict) allows(mount, group string) bool {
	role, err := policies.VaultRoleName(group)
	return err == nil && slices.Contains(v.allowed, mount+"/sign/"+role)
}

// policyDrift compares a policy with the shipped one, block by block. The mounts are those that it should know; others that it
// has blocks for are found.
func policyDrift(name, text string, known ...string) *policyVerdict {
	v := &policyVerdict{name: name, text: text, foreign: map[string][]string{}, missing: map[string][]string{}}
	mountAt := func(path string) int {
		i := slices.IndexFunc(v.mounts, func(p policies.VaultMount) bool { return p.Path == path })
		if i < 0 {
			i, v.mounts = len(v.mounts), append(v.mounts, policies.VaultMount{Path: path})
		}
		return i
	}
	for _, path := range known {
		mountAt(path)
	}
	got := blocks(text)
	for _, b := range got {
		f := ofMount.FindStringSubmatch(b)
		if f == nil {
			continue
		}
		if _, err := policies.VaultPolicy(name, []policies.VaultMount{{Path: f[1]}}); err != nil {
			continue // a name that is not ours: the block is foreign
		}
		i := mountAt(f[1])
		suffix, isGroup := strings.CutPrefix(f[2], "breakglass-")
		if group := "breakglass:" + suffix; isGroup && f[2] != policies.VaultCanaryRole && !slices.Contains(v.mounts[i].Groups, group) {
			if _, err := policies.VaultRoleName(group); err == nil {
				v.mounts[i].Groups = append(v.mounts[i].Groups, group)
			}
		}
	}
	shipped, err := policies.VaultPolicy(name, v.mounts)
	if err != nil { // the name of the policy itself
		v.foreign[""] = []string{err.Error()}
		return v
	}
	want := blocks(shipped)
	for _, b := range got {
		if slices.Contains(want, b) {
			if p := blockPath.FindStringSubmatch(b); p != nil && strings.Contains(p[1], "/sign/") {
				v.allowed = append(v.allowed, p[1])
			}
			continue
		}
		v.put(v.foreign, b)
	}
	for _, b := range want {
		if !slices.Contains(got, b) {
			v.put(v.missing, b)
		}
	}
	return v
}

// put files a block under every mount that its path lies in, and if it lies in none under "".
func (v *policyVerdict) put(into map[string][]string, block string) {
	path := ""
	if p := blockPath.FindStringSubmatch(block); p != nil {
		path = p[1]
	}
	found := false
	for _, m := range v.mounts {
		if strings.HasPrefix(path, m.Path+"/") {
			into[m.Path] = append(into[m.Path], block)
			found = true
		}
	}
	if !found {
		into[""] = append(into[""], block)
	}
}

// blocks cuts a policy into its path blocks, without comment lines and layout. Text that is not a block stays what it is, and
// so differs from everything that shipped.
func blocks(policy string) []string {
	var words []string
	for line := range strings.Lines(policy) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "#") {
			words = append(words, strings.Fields(line)...)
		}
	}
	var out []string
	for i, part := range strings.Split(" "+strings.Join(words, " "), ` path "`) {
		if i > 0 {
			part = `path "` + part
		}
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}
