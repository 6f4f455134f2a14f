package rotation_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/rotation"
	"github.com/breakglassd/breakglass/internal/rotation/metric"
	"github.com/breakglassd/breakglass/policies"
)

var (
	now = time.Date(2026, 11, 22, 3, 15, 0, 0, time.UTC)
	day = 24 * time.Hour
)

// made is a CA, or a certificate from one.
type made struct {
	der  []byte
	cert *x509.Certificate
	key  crypto.Signer
}

type caOptions struct {
	name     string
	from, to time.Time
	key      crypto.Signer
	parent   *made
	leafFor  string // a host: then it is a serving certificate
	pathLen  int    // -1: none
	serial   int64
}

// makeCA makes a CA, good for two years, as its options say otherwise.
func makeCA(t testing.TB, o caOptions) made {
	t.Helper()
	if o.key == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		o.key = key
	}
	if o.from.IsZero() {
		o.from, o.to = now.Add(-10*day), now.Add(720*day)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1000 + o.serial), Subject: pkix.Name{CommonName: o.name}, NotBefore: o.from,
		NotAfter: o.to,
		IsCA:     true, BasicConstraintsValid: true, MaxPathLen: o.pathLen, MaxPathLenZero: o.pathLen == 0, KeyUsage: x509.KeyUsageCertSign}
	if o.leafFor != "" {
		template.IsCA, template.MaxPathLenZero, template.KeyUsage = false, false, x509.KeyUsageDigitalSignature
		template.ExtKeyUsage, template.IPAddresses = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, []net.IP{net.ParseIP(o.leafFor)}
	}
	parent, by := template, o.key
	if o.parent != nil {
		parent, by = o.parent.cert, o.parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, o.key.Public(), by)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return made{der, cert, o.key}
}

const (
	id1 = "11111111-1111-1111-1111-111111111111"
	id2 = "22222222-2222-2222-2222-222222222222"
	id3 = "33333333-3333-3333-3333-333333333333"
)

var signing = []string{"crl-signing", "issuing-certificates", "ocsp-signing", "read-only"}

// kit is what an observation is made from.
type kit struct {
	t                            testing.TB
	g1, g2, cluster, front, leaf made
	o                            rotation.Observation
}

func issuer(id, name string, c made) rotation.Issuer {
	return rotation.Issuer{ID: id, Name: name, Certificate: c.der, Usage: signing, LeafNotAfter: "err", KeyID: "key-" + id}
}

// newKit is a cluster of three API servers where everything is as it should be: one issuer, and nothing to do.
func newKit(t testing.TB) *kit {
	t.Helper()
	k := &kit{t: t, g1: makeCA(t, caOptions{name: "breakglass-ca pki g1", from: now.Add(-100 * day), to: now.Add(630 * day)}),
		g2:      makeCA(t, caOptions{name: "breakglass-ca pki g2", from: now.Add(-1 * day), to: now.Add(729 * day)}),
		cluster: makeCA(t, caOptions{name: "kubernetes", pathLen: -1}), front: makeCA(t, caOptions{name: "front-proxy-ca", pathLen: -1})}
	k.leaf = makeCA(t, caOptions{name: "kube-apiserver", leafFor: "10.0.0.1", parent: &k.cluster})
	zero := time.Duration(0)
	k.o = rotation.Observation{Cluster: "prod", At: now, Vault: rotation.Vault{Mount: "pki",
		Issuers: []rotation.Issuer{issuer(id1, "breakglass-g1", k.g1)}, Default: id1,
		Roles: []rotation.Role{{Name: "breakglass", Issuer: id1}, {Name: "breakglass-admins", Issuer: id1},
			{Name: rotation.CanaryRole, Issuer: id1}}, Pinned: []string{id1}, MaxTTL: time.Hour, ReadyToSign: true},
		View: rotation.View{RootCA: [][]byte{k.cluster.der}, ServiceAccounts: &rotation.ServiceAccounts{Issuer: "https://kubernetes.default.svc",
			Keys: []rotation.Key{{ID: "k1", Type: "RSA", Algorithm: "RS256", Bits: 2048}}},
			Published: &rotation.Published{ClientCAs: [][]byte{k.cluster.der, k.g1.der}, RequestHeader: [][]byte{k.front.der},
				AllowedNames: []string{"front-proxy-client"}},
			Kubeconfigs: []rotation.File{{Name: "people.kubeconfig", CAs: [][]byte{k.cluster.der}}}},
		Known: rotation.Known{LastIssuedUnder: map[string]time.Time{}}}
	for i := range 3 {
		names := [][]byte{k.cluster.cert.RawSubject, k.g1.cert.RawSubject}
		k.o.Servers = append(k.o.Servers, rotation.Server{Address: fmt.Sprintf("10.0.0.%d:6443", i+1), Serving: [][]byte{k.leaf.der}, Skew: &zero,
			Handshakes: []rotation.Handshake{{Version: "1.2", Names: names}, {Version: "1.3", Names: names}}})
	}
	k.canary(id1, true, true, true)
	return k
}

// print is the fingerprint of an issuer's certificate.
func (k *kit) print(id string) string {
	return breakglass.Fingerprint(map[string]made{id1: k.g1, id2: k.g2}[id].der)
}

// canary says which servers take the canary of an issuer, and lists its name there or not.
func (k *kit) canary(id string, taken ...bool) {
	ca := map[string]made{id1: k.g1, id2: k.g2}[id]
	k.o.Canaries = slices.DeleteFunc(k.o.Canaries, func(s rotation.Signing) bool { return s.Issuer == id })
	k.o.Canaries = append(k.o.Canaries, rotation.Signing{Issuer: id, CommonName: "breakglass-canary:prod:x", Fingerprint: "aa"})
	for i, ok := range taken {
		s := &k.o.Servers[i]
		s.Canaries = slices.DeleteFunc(s.Canaries, func(g rotation.Greeting) bool { return g.Issuer == id })
		outcome := rotation.OutcomeRefused
		if ok {
			outcome = rotation.OutcomeAccepted
		}
		s.Canaries = append(s.Canaries, rotation.Greeting{Issuer: id, Outcome: outcome})
		k.lists(i, ca, ok)
	}
}

// lists puts a CA on the list of names of a server, or takes it off.
func (k *kit) lists(server int, ca made, on bool) {
	for h := range k.o.Servers[server].Handshakes {
		hs := &k.o.Servers[server].Handshakes[h]
		hs.Names = slices.DeleteFunc(slices.Clone(hs.Names), func(n []byte) bool { return string(n) == string(ca.cert.RawSubject) })
		if on {
			hs.Names = append(hs.Names, ca.cert.RawSubject)
		}
	}
}

func (k *kit) noCanary(id string) {
	k.o.Canaries = slices.DeleteFunc(k.o.Canaries, func(s rotation.Signing) bool { return s.Issuer == id })
	for i := range k.o.Servers {
		k.o.Servers[i].Canaries = slices.DeleteFunc(k.o.Servers[i].Canaries, func(g rotation.Greeting) bool { return g.Issuer == id })
	}
}

// second makes the second issuer, and roles moves everything to an issuer.
func (k *kit) second(taken ...bool) {
	k.o.Vault.Issuers = append(k.o.Vault.Issuers, issuer(id2, "breakglass-g2", k.g2))
	k.o.Vault.Pinned = []string{id1, id2}
	k.canary(id2, taken...)
}

func (k *kit) roles(id string) {
	for i := range k.o.Vault.Roles {
		k.o.Vault.Roles[i].Issuer = id
	}
	k.o.Vault.Default = id
}

func (k *kit) publish(cas ...made) {
	k.o.Published.ClientCAs = [][]byte{k.cluster.der}
	for _, c := range cas {
		k.o.Published.ClientCAs = append(k.o.Published.ClientCAs, c.der)
	}
}

// signer has the CSR API sign with a CA.
func (k *kit) signer(name string, by made) {
	k.o.Signers = append(k.o.Signers, rotation.Signer{Name: name, Certificate: makeCA(k.t,
		caOptions{name: "system:node:n1", leafFor: "10.0.0.9", parent: &by}).der})
}

func (k *kit) judge() rotation.Report { return rotation.Judge(k.o, rotation.Thresholds{}, now) }

func keys(r rotation.Report, s rotation.Severity) []string {
	var out []string
	for _, f := range r.Verdicts {
		if f.Severity == s {
			out = append(out, f.Key)
		}
	}
	return out
}

func TestNothingToDoIsOK(t *testing.T) {
	r := newKit(t).judge()
	if !r.OK || !r.Complete || r.Phase != rotation.NotStarted || len(r.Verdicts) > 0 {
		t.Errorf("%+v", r.Verdicts)
	}
}

// A cluster whose CSR API signs with its own CA, as kubeadm sets it up: the signer is named, and nothing is wrong.
func TestSignersOfTheCSRAPIAreNamed(t *testing.T) {
	k := newKit(t)
	k.signer("kubernetes.io/kube-apiserver-client-kubelet", k.cluster)
	k.signer("kubernetes.io/kubelet-serving", makeCA(t, caOptions{name: "another", pathLen: -1})) // no API server needs to take it
	r := k.judge()
	if !r.OK || len(r.Verdicts) > 0 {
		t.Errorf("%+v", r.Verdicts)
	}
	i := slices.IndexFunc(r.Authorities, func(a rotation.Authority) bool { return a.Kind == "csr-signer" })
	if i < 0 || r.Authorities[i].Where != "kubernetes.io/kube-apiserver-client-kubelet" ||
		r.Authorities[i].Fingerprint != breakglass.Fingerprint(k.cluster.der) {
		t.Errorf("got %+v, want the signer with the cluster's CA", r.Authorities)
	}
}

func TestWhoSignsIsNotLookedAtWithoutTheRight(t *testing.T) {
	k := newKit(t)
	k.o.NotConfigured = []string{rotation.NotConfiguredSigners}
	r := k.judge()
	if len(r.Verdicts) != 1 || r.Verdicts[0].Key != "not-configured/csr-signers" || !strings.Contains(r.Verdicts[0].Next, "sweep.yaml") {
		t.Errorf("got %+v, want how to have it looked at", r.Verdicts)
	}
}

// TestPhaseFollowsFromTheObservation is the table of phases, without any real component: also of what is hard to make with them.
func TestPhaseFollowsFromTheObservation(t *testing.T) {
	all, none := []bool{true, true, true}, []bool{false, false, false}
	switched := func(k *kit, taken ...bool) {
		k.second(taken...)
		k.roles(id2)
		k.publish(k.g1, k.g2)
	}
	for name, tt := range map[string]struct {
		change func(*kit)
		want   rotation.Phase
	}{
		"one issuer":                          {func(k *kit) {}, rotation.NotStarted},
		"two issuers":                         {func(k *kit) { k.second(none...) }, rotation.Prepared},
		"trusted on some":                     {func(k *kit) { k.second(true, false, false) }, rotation.TrustedOnSome},
		"trusted on all":                      {func(k *kit) { k.second(all...) }, rotation.TrustedOnAll},
		"trusted on all but one that is down": {func(k *kit) { k.second(all...); k.down(2) }, rotation.PhaseUnknown},
		"on one, not on one, one is down":     {func(k *kit) { k.second(true, false, true); k.down(2) }, rotation.TrustedOnSome},
		"prepared, and one is down":           {func(k *kit) { k.second(none...); k.down(2) }, rotation.PhaseUnknown},
		"only listed, without a canary": {func(k *kit) {
			k.second(all...)
			k.noCanary(id2)
		}, rotation.PhaseUnknown},
		"switched too early":                   {func(k *kit) { switched(k, true, true, false) }, rotation.SwitchedTooEarly},
		"switched before any server trusts it": {func(k *kit) { switched(k, none...) }, rotation.SwitchedTooEarly},
		"switched too early, and one is down":  {func(k *kit) { switched(k, true, false, true); k.down(2) }, rotation.SwitchedTooEarly},
		"switched, and one is down":            {func(k *kit) { switched(k, all...); k.down(2) }, rotation.PhaseUnknown},
		"one role moved":                       {func(k *kit) { switched(k, all...); k.o.Vault.Roles[1].Issuer = id1 }, rotation.Active},
		"the canary's role did not move":       {func(k *kit) { switched(k, all...); k.o.Vault.Roles[2].Issuer = id1 }, rotation.Active},
		"the default did not move":             {func(k *kit) { switched(k, all...); k.o.Vault.Default = id1 }, rotation.Active},
		"roles by name": {func(k *kit) {
			switched(k, all...)
			k.o.Vault.Roles[0].Issuer = "breakglass-g2"
			k.o.Vault.Roles[1].Issuer = "default"
		}, rotation.Drained},
		"certificates alive": {func(k *kit) { switched(k, all...); k.o.Known.LastIssuedUnder[k.print(id1)] = now.Add(time.Minute) },
			rotation.Draining},
		"just ended, within the skew": {func(k *kit) {
			switched(k, all...)
			k.o.Known.LastIssuedUnder[k.print(id1)] = now.Add(-30 * time.Second)
		}, rotation.Draining},
		"ended": {func(k *kit) {
			switched(k,
				all...)
			k.o.Known.LastIssuedUnder[k.print(id1)] = now.Add(-time.Minute)
		}, rotation.Drained},
		"one of an unknown issuer is alive": {func(k *kit) { switched(k, all...); k.o.Known.UnknownIssuerUntil = now.Add(time.Minute) },
			rotation.Draining},
		"it is not known": {func(k *kit) { switched(k, all...); k.o.Known = rotation.Known{} }, rotation.Draining},
		"seen to switch a minute ago": {func(k *kit) {
			switched(k, all...)
			k.o.Known = rotation.Known{SwitchSeen: map[string]time.Time{id2: now.Add(-time.Minute)}}
		}, rotation.Draining},
		"seen to switch two hours ago": {func(k *kit) {
			switched(k, all...)
			k.o.Known = rotation.Known{SwitchSeen: map[string]time.Time{id2: now.Add(-2 * time.Hour)}}
		}, rotation.Drained},
		"deleted but cached": {func(k *kit) { switched(k, all...); k.broken(1) }, rotation.DeletedButCached},
		"removed on some":    {func(k *kit) { switched(k, all...); k.canary(id1, true, false, true) }, rotation.OldRemovedOnSome},
		"removed on some, cached on one": {func(k *kit) { switched(k, all...); k.canary(id1, true, false, true); k.broken(0) },
			rotation.DeletedButCached},
		"removed on some, one is down": {func(k *kit) { switched(k, all...); k.canary(id1, true, false, true); k.down(2) },
			rotation.PhaseUnknown},
		"removed, published": {func(k *kit) { switched(k, all...); k.canary(id1, none...) }, rotation.Residue},
		"removed, the ConfigMap is not seen": {func(k *kit) { switched(k, all...); k.canary(id1, none...); k.o.Published = nil },
			rotation.PhaseUnknown},
		"removed": {func(k *kit) { switched(k, all...); k.canary(id1, none...); k.publish(k.g2) }, rotation.Retired},
		"removed, and may not sign": {func(k *kit) {
			switched(k, all...)
			k.canary(id1, none...)
			k.noCanary(id1)
			k.publish(k.g2)
			k.o.Vault.Issuers[0].Usage = []string{"read-only"}
		}, rotation.Closed},
		"may not sign, but is still listed": {func(k *kit) {
			switched(k, all...)
			k.noCanary(id1)
			k.o.Vault.Issuers[0].Usage = []string{"read-only"}
		}, rotation.Drained},
		"the old one deleted in Vault": {func(k *kit) {
			switched(k, all...)
			k.o.Vault.Issuers = k.o.Vault.Issuers[1:]
			k.noCanary(id1)
			for i := range k.o.Servers {
				k.lists(i, k.g1, false)
			}
			k.publish(k.g2)
		}, rotation.NotStarted},
		"the one that signs has ended": {func(k *kit) { k.endG1(); k.second(all...) }, rotation.ExpiredCA},
		"the old one has ended":        {func(k *kit) { k.endG1(); switched(k, all...); k.publish(k.g2) }, rotation.Closed},
		"Vault is not seen": {func(k *kit) {
			k.o.Vault = rotation.Vault{Mount: "pki", Unseen: []rotation.Unseen{{Key: "vault", What: "sealed"}}}
		}, rotation.PhaseUnknown},
		"a role is not seen": {func(k *kit) {
			switched(k, all...)
			k.o.Vault.Roles = k.o.Vault.Roles[:1]
			k.blind("role/breakglass-admins")
		}, rotation.PhaseUnknown},
		"the default issuer is not seen": {func(k *kit) {
			switched(k, all...)
			k.o.Vault.Default = ""
			k.blind("default-issuer")
		}, rotation.PhaseUnknown},
		"the old issuer is not seen": {func(k *kit) {
			switched(k, all...)
			k.o.Vault.Issuers = k.o.Vault.Issuers[1:]
			k.blind("issuer/" + id1)
		}, rotation.PhaseUnknown},
		"the issuer that signs is not seen": {func(k *kit) {
			switched(k, all...)
			k.o.Vault.Issuers = k.o.Vault.Issuers[:1]
			k.blind("issuer/" + id2)
		}, rotation.PhaseUnknown},
		"no issuer is seen": {func(k *kit) { k.o.Vault.Issuers = nil; k.blind("issuers") }, rotation.PhaseUnknown},
		"an issuer cannot be read": {func(k *kit) {
			switched(k, all...)
			k.o.Vault.Issuers[0].Certificate = []byte("x")
		}, rotation.PhaseUnknown},
		"refused by clocks that are apart": {func(k *kit) { k.second(none...); k.o.Vault.Skew = 45 * time.Second }, rotation.PhaseUnknown},
		"the old one refused, without a clock": {func(k *kit) {
			switched(k, all...)
			k.canary(id1, none...)
			k.publish(k.g2)
			for i := range k.o.Servers {
				k.o.Servers[i].Skew = nil
			}
		}, rotation.PhaseUnknown},
		"clocks that are off together": {func(k *kit) {
			k.second(none...)
			k.o.Vault.Skew = 45 * time.Second
			for i := range k.o.Servers {
				k.o.Servers[i].Skew = &k.o.Vault.Skew
			}
		}, rotation.Prepared},
		// A standby of Vault tells its own time. The certificate is from the one that signs.
		"refused before the canary begins": {func(k *kit) {
			k.second(none...)
			k.times(id2, now.Add(10*time.Second), now.Add(80*time.Second), now)
		}, rotation.PhaseUnknown},
		"refused after the canary ended": {func(k *kit) {
			k.second(none...)
			k.times(id2, now.Add(-90*time.Second), now.Add(-time.Second), now)
		}, rotation.PhaseUnknown},
		"refused while the canary is good": {func(k *kit) {
			k.second(none...)
			k.times(id2, now.Add(-30*time.Second), now.Add(time.Minute), now)
		}, rotation.Prepared},
		"no API server is seen":    {func(k *kit) { k.o.Servers = nil }, rotation.PhaseUnknown},
		"all API servers are down": {func(k *kit) { k.down(0); k.down(1); k.down(2) }, rotation.PhaseUnknown},
		"a closed one, and a third": {func(k *kit) {
			switched(k, all...)
			k.canary(id1, none...)
			k.noCanary(id1)
			k.publish(k.g2)
			k.o.Vault.Issuers[0].Usage = []string{"read-only"}
			g3 := makeCA(t, caOptions{name: "breakglass-ca pki g3", from: now.Add(-time.Hour), to: now.Add(700 * day)})
			k.o.Vault.Issuers = append(k.o.Vault.Issuers, issuer(id3, "breakglass-g3", g3))
			for i := range k.o.Servers {
				k.o.Servers[i].Canaries = append(k.o.Servers[i].Canaries, rotation.Greeting{Issuer: id3, Outcome: rotation.OutcomeRefused})
			}
		}, rotation.Prepared},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKit(t)
			tt.change(k)
			r := k.judge()
			if r.Phase != tt.want {
				t.Errorf("got %s (%s), want %s\n%s", r.Phase, r.Why, tt.want, text(t, r))
			}
			if quiet := tt.want == rotation.NotStarted || tt.want == rotation.Closed || tt.want == rotation.Prepared ||
				tt.want == rotation.TrustedOnAll || tt.want == rotation.Draining; !quiet && r.OK {
				t.Errorf("%s is OK:\n%s", r.Phase, text(t, r))
			}
			if r.Phase == rotation.PhaseUnknown && r.Complete {
				t.Error("a phase that cannot be told, and the report is complete")
			}
			// Whatever is seen, the plan has steps or a reason, and never both; and no phase can be skipped to.
			for _, target := range append([]rotation.Phase{"", "nonsense"}, rotation.Phases...) {
				p := rotation.MakePlan(r, rotation.PlanOptions{Target: target})
				if (len(p.Steps) == 0) == (p.Refused == "") {
					t.Errorf("plan for %q: %d steps, refused %q", target, len(p.Steps), p.Refused)
				}
				if len(p.Steps) > 0 && target != "" && p.Next != target {
					t.Errorf("plan for %q leads to %s", target, p.Next)
				}
			}
		})
	}
}

// blind is something of Vault that could not be seen.
func (k *kit) blind(key string) {
	k.o.Vault.Unseen = append(k.o.Vault.Unseen, rotation.Unseen{Key: key, What: key + ": no answer",
		Next: "run breakglassd doctor: it looks closer"})
}

// times is when the canary of an issuer begins and ends, and when it was shown.
func (k *kit) times(id string, from, to, shown time.Time) {
	for i := range k.o.Canaries {
		if k.o.Canaries[i].Issuer == id {
			k.o.Canaries[i].NotBefore, k.o.Canaries[i].NotAfter = from, to
		}
	}
	for i := range k.o.Servers {
		for c := range k.o.Servers[i].Canaries {
			if k.o.Servers[i].Canaries[c].Issuer == id {
				k.o.Servers[i].Canaries[c].At = shown
			}
		}
	}
}

func (k *kit) down(i int) {
	k.o.Servers[i] = rotation.Server{Address: k.o.Servers[i].Address, Error: "connection refused"}
}

func (k *kit) broken(i int) {
	k.o.Servers[i].Declared = &rotation.Declared{File: "bundle.crt", Broken: "there is no such file"}
}

func (k *kit) endG1() {
	k.g1 = makeCA(k.t, caOptions{name: "breakglass-ca pki g1", from: now.Add(-100 * day), to: now.Add(-time.Second)})
	k.o.Vault.Issuers[0].Certificate = k.g1.der
	k.publish(k.g1)
	k.noCanary(id1)
}

// replaceG1 gives the first issuer another certificate, which every server trusts like the one before.
func (k *kit) replaceG1(c made) {
	for i := range k.o.Servers {
		k.lists(i, k.g1, false)
		k.lists(i, c, true)
	}
	k.g1 = c
	k.o.Vault.Issuers[0].Certificate = c.der
	k.publish(c)
}

func TestEveryThingThatIsWrongIsAVerdict(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	for name, tt := range map[string]struct {
		change   func(*kit)
		severity rotation.Severity
		key      string
		complete bool
	}{
		"Vault sealed": {func(k *kit) {
			k.o.Vault = rotation.Vault{Mount: "pki", Unseen: []rotation.Unseen{{Key: "vault", What: "Vault is sealed"}}}
			k.o.Canaries = nil
		}, rotation.Warning, "unseen/vault", false},
		"server unreachable": {func(k *kit) { k.down(1) }, rotation.Critical, "unseen/server/10.0.0.2:6443", false},
		"wrong certificate": {func(k *kit) { k.o.Servers[1].Wrong = "x509: certificate is valid for 10.0.0.9" }, rotation.Critical,
			"unseen/serving/10.0.0.2:6443", false},
		"server tells no time": {func(k *kit) { k.o.Servers[1].Skew = nil }, rotation.Warning, "unseen/clock/10.0.0.2:6443", false},
		"server clock off": {func(k *kit) { d := -2 * time.Minute; k.o.Servers[1].Skew = &d }, rotation.Critical, "clock/10.0.0.2:6443",
			true},
		"clock off explains a refusal": {func(k *kit) {
			d := -2 * time.Minute
			k.o.Servers[1].Skew = &d
			k.canary(id1, true, false, true)
		}, rotation.Warning, "unseen/active-trust/10.0.0.2:6443", false},
		"Vault clock off": {func(k *kit) { k.o.Vault.Skew = 20 * time.Second }, rotation.Warning, "clock/vault", true},
		"active refused": {func(k *kit) { k.canary(id1, true, false, true) }, rotation.Critical, "active-untrusted/10.0.0.2:6443",
			true},
		"canary not signed": {func(k *kit) { k.noCanary(id1); k.o.Canaries = []rotation.Signing{{Issuer: id1, Error: "denied"}} },
			rotation.Critical, "unseen/canary/breakglass-g1", false},
		"canary is something else": {func(k *kit) { k.o.Canaries[0].Wrong, k.o.Canaries[0].Error = true, "it has O=system:masters" },
			rotation.Critical, "unseen/canary/breakglass-g1", false},
		"canary missing": {func(k *kit) { k.noCanary(id1) }, rotation.Critical, "unseen/canary/breakglass-g1", false},
		"canary not answered": {func(k *kit) { k.o.Servers[1].Canaries[0].Outcome = rotation.OutcomeUnreached }, rotation.Critical,
			"unseen/canary/10.0.0.2:6443/breakglass-g1", false},
		"canary is taken for another user": {func(k *kit) { k.o.Servers[1].Canaries[0].Outcome = rotation.OutcomeOther }, rotation.Critical,
			"canary-other/10.0.0.2:6443/breakglass-g1", false},
		"canary unproven": {func(k *kit) { k.o.Servers[1].Canaries[0].Outcome = rotation.OutcomeUnproven }, rotation.Warning,
			"canary-unproven/10.0.0.2:6443", true},
		"name listed, canary refused": {func(k *kit) { k.canary(id1, true, false, true); k.lists(1, k.g1, true) }, rotation.Warning,
			"name-only/10.0.0.2:6443/breakglass-g1", true},
		"canary taken, name missing": {func(k *kit) { k.lists(1, k.g1, false) }, rotation.Warning, "unlisted/10.0.0.2:6443/breakglass-g1", true},
		"drift": {func(k *kit) { k.o.Vault.ReadyToSign, k.o.Vault.NotReadyReason = false, "role field ttl" },
			rotation.Critical, "signer", true},
		"role elsewhere": {func(k *kit) { k.o.Vault.Roles[0].Issuer = "unknown" }, rotation.Critical, "role-issuer/breakglass", true},
		"not pinned": {func(k *kit) { k.second(true, true, true); k.roles(id2); k.o.Vault.Pinned = []string{id1} },
			rotation.Critical, "not-pinned/breakglass-g2", true},
		"pinned to nothing": {func(k *kit) { k.o.Vault.Pinned = append(k.o.Vault.Pinned, id3) }, rotation.Warning, "pinned-missing/" +
			id3, true},
		"default follows":   {func(k *kit) { k.o.Vault.FollowsLatest = true }, rotation.Warning, "default-follows-latest", true},
		"default elsewhere": {func(k *kit) { k.o.Vault.Default = id3 }, rotation.Warning, "default-issuer", true},
		"issuer may not sign": {func(k *kit) { k.o.Vault.Issuers[0].Usage = nil; k.noCanary(id1) }, rotation.Critical,
			"issuer-usage/breakglass-g1", false},
		"issuer without key": {func(k *kit) { k.o.Vault.Issuers[0].KeyID = "" }, rotation.Critical, "issuer-usage/breakglass-g1", true},
		"issuer revoked": {func(k *kit) { k.o.Vault.Issuers[0].Revoked = true }, rotation.Critical, "issuer-usage/breakglass-g1",
			true},
		"leaf behaviour": {func(k *kit) { k.o.Vault.Issuers[0].LeafNotAfter = "permit" }, rotation.Warning,
			"issuer-leaf/breakglass-g1", true},
		"path length": {func(k *kit) { k.replaceG1(makeCA(t, caOptions{name: "breakglass-ca pki g1", pathLen: -1})) },
			rotation.Warning, "issuer-path/breakglass-g1", true},
		"issuer unparsable": {func(k *kit) { k.o.Vault.Issuers[0].Certificate = []byte("x") }, rotation.Critical,
			"unseen/issuer/breakglass-g1", false},
		"issuer not yet valid": {func(k *kit) {
			k.replaceG1(makeCA(t, caOptions{name: "breakglass-ca pki g1", from: now.Add(time.Hour), to: now.Add(700 * day)}))
		}, rotation.Critical, "issuer-future/breakglass-g1", true},
		"issuer ends in 80 days": {func(k *kit) {
			k.replaceG1(makeCA(t, caOptions{name: "breakglass-ca pki g1", from: now.Add(-500 * day), to: now.Add(80 * day)}))
		}, rotation.Info, "issuer-expires/breakglass-g1/90d", true},
		"issuer ends in 20 days": {func(k *kit) {
			k.replaceG1(makeCA(t, caOptions{name: "breakglass-ca pki g1", from: now.Add(-500 * day), to: now.Add(20 * day)}))
		}, rotation.Warning, "issuer-expires/breakglass-g1/30d", true},
		"issuer ends in 3 days": {func(k *kit) {
			k.replaceG1(makeCA(t, caOptions{name: "breakglass-ca pki g1", from: now.Add(-500 * day), to: now.Add(3 * day)}))
		}, rotation.Critical, "issuer-expires/breakglass-g1/7d", true},
		"issuer ends within a lifetime": {func(k *kit) {
			k.replaceG1(makeCA(t, caOptions{name: "breakglass-ca pki g1", from: now.Add(-500 * day), to: now.Add(30 * time.Minute)}))
		}, rotation.Critical, "issuer-expires/breakglass-g1", true},
		"issuer old": {func(k *kit) {
			k.replaceG1(makeCA(t, caOptions{name: "breakglass-ca pki g1", from: now.Add(-800 * day), to: now.Add(800 * day)}))
		}, rotation.Warning, "issuer-age/breakglass-g1", true},
		"issuer RSA-1024": {func(k *kit) { k.replaceG1(makeCA(t, caOptions{name: "breakglass-ca pki g1", key: weak})) }, rotation.Critical,
			"key/break-glass/breakglass-g1", true},
		"same subject": {func(k *kit) {
			k.g2 = makeCA(t, caOptions{name: "breakglass-ca pki g1", from: now.Add(-day), to: now.Add(700 * day)})
			k.second(true, true, true)
		}, rotation.Warning, "issuer-name/breakglass-g2", true},
		"third issuer": {func(k *kit) {
			k.second(true, true, true)
			k.o.Vault.Issuers = append(k.o.Vault.Issuers, issuer(id3, "shadow", makeCA(t,
				caOptions{name: "shadow", from: now.Add(-12 * time.Hour), to: now.Add(50 * day)})))
		}, rotation.Warning, "issuer-extra/breakglass-g2", true},
		"intermediate": {func(k *kit) {
			root := makeCA(t, caOptions{name: "corp root", pathLen: -1})
			k.replaceG1(makeCA(t, caOptions{name: "breakglass-ca pki g1", parent: &root}))
		}, rotation.Info, "intermediate/breakglass-g1", true},
		"external root in the bundle": {func(k *kit) {
			root := makeCA(t, caOptions{name: "corp root", pathLen: -1})
			k.replaceG1(makeCA(t, caOptions{name: "breakglass-ca pki g1", parent: &root}))
			k.o.Vault.Issuers[0].Chain = [][]byte{root.der}
			k.lists(1, k.g1, false)
			k.lists(1, root, true)
		}, rotation.Critical, "external-root/10.0.0.2:6443", true},
		"CSR API signs with ours": {func(k *kit) { k.signer("kubernetes.io/kube-apiserver-client-kubelet", k.g1) },
			rotation.Critical, "csr-signer/breakglass-g1", true},
		"CSR API signs with the request-header CA": {func(k *kit) { k.signer("example.com/x", k.front) }, rotation.Critical,
			"csr-signer/request-header/", true},
		"CSR API signs what no server takes": {func(k *kit) {
			k.signer("kubernetes.io/kube-apiserver-client-kubelet", makeCA(t, caOptions{name: "kubernetes", pathLen: -1}))
		}, rotation.Warning, "csr-signer-untrusted/kubernetes.io/kube-apiserver-client-kubelet", true},
		"CSR API makes what is not a certificate": {func(k *kit) {
			k.o.Signers = []rotation.Signer{{Name: "example.com/x",
				Certificate: []byte("x")}}
		},
			rotation.Warning, "csr-signer-odd/example.com/x", true},
		"our CA is the request-header CA": {func(k *kit) { k.o.Published.RequestHeader = [][]byte{k.g1.der} }, rotation.Critical,
			"shared/request-header/breakglass-g1", true},
		"our CA is the cluster's": {func(k *kit) { k.o.RootCA = [][]byte{k.g1.der, k.cluster.der} }, rotation.Warning,
			"key-outside-vault/breakglass-g1", true},
		"our CA is etcd's": {func(k *kit) {
			k.o.Endpoints = []rotation.Endpoint{{Kind: rotation.KindEtcd, Where: "etcd-ca.crt", CAs: [][]byte{k.g1.der}}}
		}, rotation.Critical, "shared/break-glass-etcd/breakglass-g1", true},
		"the client CA is etcd's": {func(k *kit) {
			k.o.Endpoints = []rotation.Endpoint{{Kind: rotation.KindEtcd, Where: "etcd-ca.crt", CAs: [][]byte{k.cluster.der}}}
		}, rotation.Critical, "shared/client-etcd/", true},
		"kubelets take our certificates": {func(k *kit) {
			k.o.Endpoints = []rotation.Endpoint{{Kind: rotation.KindKubelet, Where: "10.0.0.9:10250", Names: [][]byte{k.g1.cert.RawSubject}}}
		}, rotation.Critical, "shared/kubelet/10.0.0.9:10250", true},
		"etcd says it takes the cluster's client CA": {func(k *kit) {
			k.o.Endpoints = []rotation.Endpoint{{Kind: rotation.KindEtcd, Where: "10.0.0.1:2379", Names: [][]byte{k.cluster.cert.RawSubject}}}
		}, rotation.Critical, "shared/client-etcd/", true},
		"etcd says it takes the request-header CA": {func(k *kit) {
			k.o.Endpoints = []rotation.Endpoint{{Kind: rotation.KindEtcd, Where: "10.0.0.1:2379", Names: [][]byte{k.front.cert.RawSubject}}}
		}, rotation.Critical, "shared/request-header-etcd/", true},
		"kubelets say they take the request-header CA": {func(k *kit) {
			k.o.Endpoints = []rotation.Endpoint{{Kind: rotation.KindKubelet, Where: "10.0.0.9:10250", Names: [][]byte{k.front.cert.RawSubject}}}
		}, rotation.Warning, "shared/request-header-kubelet/", true},
		"the request-header CA is etcd's": {func(k *kit) {
			k.o.Endpoints = []rotation.Endpoint{{Kind: rotation.KindEtcd, Where: "etcd-ca.crt", CAs: [][]byte{k.front.der}}}
		}, rotation.Critical, "shared/request-header-etcd/", true},
		"the root above ours is etcd's": {func(k *kit) {
			root := k.below(true)
			k.o.Endpoints = []rotation.Endpoint{{Kind: rotation.KindEtcd, Where: "etcd-ca.crt", CAs: [][]byte{root.der}}}
		}, rotation.Critical, "shared/break-glass-root-etcd/", true},
		"the root above ours is the kubelets'": {func(k *kit) {
			root := k.below(true)
			k.o.Endpoints = []rotation.Endpoint{{Kind: rotation.KindKubelet, Where: "kubelet-ca.crt", CAs: [][]byte{root.der}}}
		}, rotation.Critical, "shared/break-glass-root-kubelet/", true},
		"the root above ours is the request-header CA": {func(k *kit) {
			root := k.below(true)
			k.o.Published.RequestHeader = [][]byte{root.der}
		}, rotation.Critical, "shared/request-header/", true},
		"kubelets say they take the root above ours": {func(k *kit) {
			root := k.below(true)
			k.o.Endpoints = []rotation.Endpoint{{Kind: rotation.KindKubelet, Where: "10.0.0.9:10250", Names: [][]byte{root.cert.RawSubject}}}
		}, rotation.Critical, "shared/break-glass-root-kubelet/", true},
		"a root that Vault does not know is etcd's": {func(k *kit) {
			root := k.below(false)
			k.o.Endpoints = []rotation.Endpoint{{Kind: rotation.KindEtcd, Where: "etcd-ca.crt", CAs: [][]byte{root.der}}}
		}, rotation.Critical, "shared/break-glass-etcd/breakglass-g1", true},
		"etcd says it takes a root that Vault does not know": {func(k *kit) {
			root := k.below(false)
			k.o.Endpoints = []rotation.Endpoint{{Kind: rotation.KindEtcd, Where: "10.0.0.1:2379", Names: [][]byte{root.cert.RawSubject}}}
		}, rotation.Critical, "shared/break-glass-root-etcd/breakglass-g1", true},
		"the cluster's client CA ends soon":     {func(k *kit) { k.clientCA(20*day, true, true) }, rotation.Warning, "client-ca-expires/", true},
		"the cluster's client CA ends tomorrow": {func(k *kit) { k.clientCA(day, true, true) }, rotation.Critical, "client-ca-expires/", true},
		"the cluster's client CA has ended":     {func(k *kit) { k.clientCA(-day, true, true) }, rotation.Critical, "client-ca-expires/", true},
		"a listed client CA ends tomorrow":      {func(k *kit) { k.clientCA(day, false, true) }, rotation.Critical, "client-ca-expires/", true},
		"an expected client CA ends tomorrow":   {func(k *kit) { k.clientCA(day, true, false) }, rotation.Critical, "client-ca-expires/", true},
		"no allowed names": {func(k *kit) { k.o.Published.AllowedNames = nil }, rotation.Warning, "request-header-names",
			true},
		"request-header CA ended": {func(k *kit) {
			k.o.Published.RequestHeader = [][]byte{makeCA(t, caOptions{name: "f", from: now.Add(-day), to: now}).der}
		}, rotation.Critical, "request-header-expires/", true},
		"unknown client CA":          {func(k *kit) { k.publish(k.g1, k.front) }, rotation.Warning, "client-ca-unknown/", true},
		"left over in the ConfigMap": {func(k *kit) { k.publish(k.g1, k.g2) }, rotation.Warning, "residue/", true},
		"not in the ConfigMap": {func(k *kit) { k.publish(k.g1); k.lists(0, k.g2, true) }, rotation.Warning,
			"client-ca-unpublished/10.0.0.1:6443/CN=breakglass-ca-pki-g2", true},
		"ConfigMap not seen": {func(k *kit) {
			k.o.Published = nil
			k.o.View.Unseen = []rotation.Unseen{{Key: "published", What: "forbidden"}}
		}, rotation.Warning, "unseen/published", false},
		"service account key weak": {func(k *kit) { k.o.ServiceAccounts.Keys[0].Bits = 1024 }, rotation.Critical, "service-account-key/k1", true},
		"service account keys": {func(k *kit) {
			k.o.ServiceAccounts.Keys = append(k.o.ServiceAccounts.Keys, rotation.Key{ID: "k2", Type: "EC", Algorithm: "ES256", Bits: 256})
		}, rotation.Info, "service-account-keys", true},
		"service account algorithm": {func(k *kit) { k.o.ServiceAccounts.Keys[0].Algorithm = "HS256" }, rotation.Warning,
			"service-account-algorithm/k1", true},
		"no service account key": {func(k *kit) { k.o.ServiceAccounts.Keys = nil }, rotation.Warning, "service-account-none", true},
		"serving certificate ends": {func(k *kit) {
			k.o.Servers[0].Serving = [][]byte{makeCA(t, caOptions{name: "s", leafFor: "10.0.0.1", parent: &k.cluster, from: now.Add(-360 * day),
				to: now.Add(5 * day)}).der}
		}, rotation.Critical, "serving-expires/10.0.0.1:6443", true},
		"kubeconfig pins another CA": {func(k *kit) { k.o.Kubeconfigs[0].CAs = [][]byte{k.front.der} }, rotation.Warning,
			"serving-chain/10.0.0.1:6443/people.kubeconfig", true},
		"kubelet signed its certificate": {func(k *kit) {
			k.o.Endpoints = []rotation.Endpoint{{Kind: rotation.KindKubelet, Where: "10.0.0.9:10250",
				Chain: [][]byte{makeCA(t, caOptions{name: "n", leafFor: "10.0.0.9"}).der}}}
		}, rotation.Info, "kubelet-self-signed/10.0.0.9:10250", true},
		"bundle file broken": {func(k *kit) { k.broken(0) }, rotation.Critical, "bundle-file/10.0.0.1:6443", true},
		"bundle file not loaded": {func(k *kit) {
			k.second(false, false, false)
			k.roles(id2)
			k.o.Servers[0].Declared = &rotation.Declared{File: "b", CAs: [][]byte{k.g1.der, k.g2.der}, Modified: now.Add(-time.Hour)}
		}, rotation.Critical, "bundle-not-loaded/10.0.0.1:6443/breakglass-g2", true},
		"the copy is before the node": {func(k *kit) {
			k.second(false, false, false)
			k.o.Servers[0].Declared = &rotation.Declared{File: "b", CAs: [][]byte{k.g1.der, k.g2.der}, Modified: now.Add(-time.Hour)}
		}, rotation.Warning, "bundle-copy/10.0.0.1:6443/breakglass-g2", true},
		"the copy is behind the node": {func(k *kit) {
			k.second(true, true, true)
			k.o.Servers[0].Declared = &rotation.Declared{File: "b", CAs: [][]byte{k.g1.der}, Modified: now.Add(-time.Hour)}
		}, rotation.Warning, "bundle-copy/10.0.0.1:6443/breakglass-g2", true},
		"removal not loaded": {func(k *kit) {
			k.second(true, true, true)
			k.roles(id2)
			k.o.Servers[0].Declared = &rotation.Declared{File: "b", CAs: [][]byte{k.g2.der}, Modified: now.Add(-time.Hour)}
		}, rotation.Warning, "bundle-copy/10.0.0.1:6443/breakglass-g1", true},
		"removed too early": {func(k *kit) {
			k.second(true, true, true)
			k.roles(id2)
			k.o.Known.LastIssuedUnder[k.print(id1)] = now.Add(time.Minute)
			k.canary(id1, true, false, true)
		}, rotation.Critical, "removed-too-early/10.0.0.2:6443", true},
		"one address":         {func(k *kit) { k.o.Servers = k.o.Servers[:1] }, rotation.Info, "single-address", true},
		"etcd not configured": {func(k *kit) { k.o.NotConfigured = []string{"etcd"} }, rotation.Info, "not-configured/etcd", true},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKit(t)
			tt.change(k)
			r := k.judge()
			want := func(key string) bool { return strings.HasPrefix(key, tt.key) }
			if !slices.ContainsFunc(keys(r, tt.severity), want) {
				t.Errorf("no %s finding %s; critical %q, warning %q, info %q", tt.severity, tt.key, keys(r, rotation.Critical),
					keys(r, rotation.Warning), keys(r, rotation.Info))
			}
			if r.Complete != tt.complete {
				t.Errorf("complete is %t, want %t:\n%s", r.Complete, tt.complete, text(t, r))
			}
			if r.OK != (tt.severity == rotation.Info) {
				t.Errorf("OK is %t:\n%s", r.OK, text(t, r))
			}
			for _, f := range r.Verdicts {
				if f.What == "" || f.Where == "" || f.Next == "" && !strings.HasPrefix(f.Key, "unseen/") || strings.Contains(f.Key, " ") {
					t.Errorf("an incomplete finding: %+v", f)
				}
			}
		})
	}
}

// ending is a CA that ends so long from now.
func (k *kit) ending(name string, left time.Duration) made {
	return makeCA(k.t, caOptions{name: name, pathLen: -1, from: now.Add(left - 700*day), to: now.Add(left)})
}

// clientCA gives the cluster a client CA of its own beside the serving one, which the operator expects or not, and the API servers
// list or not.
func (k *kit) clientCA(left time.Duration, expected, listed bool) {
	c := k.ending("cluster-client-ca", left)
	if expected {
		k.o.KnownClientCAs = [][]byte{c.der}
	}
	if listed {
		k.o.Published.ClientCAs = append(k.o.Published.ClientCAs, c.der)
	}
	for i := range k.o.Servers {
		k.lists(i, c, listed)
	}
}

// below puts our CA below a root, which Vault knows or not, and returns that. The bundles hold our CA itself.
func (k *kit) below(known bool) made {
	root := makeCA(k.t, caOptions{name: "corporate root", pathLen: -1})
	k.replaceG1(makeCA(k.t, caOptions{name: "breakglass-ca pki g1", parent: &root}))
	if known {
		k.o.Vault.Issuers[0].Chain = [][]byte{root.der}
	}
	return root
}

// What looks alike and is as it should be, so that operators do not learn to pass over these findings.
func TestWhatIsNotShared(t *testing.T) {
	for name, change := range map[string]func(*kit){
		"API servers list their request-header CA": func(k *kit) {
			for i := range k.o.Servers {
				k.lists(i, k.front, true)
			}
		},
		"kubelets take the cluster's client CA": func(k *kit) {
			k.o.Endpoints = []rotation.Endpoint{{Kind: rotation.KindKubelet, Where: "10.0.0.9:10250", Names: [][]byte{k.cluster.cert.RawSubject}}}
		},
		"etcd has a CA of its own, of the same name": func(k *kit) {
			own := makeCA(k.t, caOptions{name: "kubernetes", pathLen: -1})
			k.o.Endpoints = []rotation.Endpoint{{Kind: rotation.KindEtcd, Where: "10.0.0.1:2379", Names: [][]byte{own.cert.RawSubject}},
				{Kind: rotation.KindEtcd, Where: "etcd-ca.crt", CAs: [][]byte{own.der}}}
		},
		"etcd has a CA of its own": func(k *kit) {
			own := makeCA(k.t, caOptions{name: "etcd-ca", pathLen: -1})
			k.o.Endpoints = []rotation.Endpoint{{Kind: rotation.KindEtcd, Where: "10.0.0.1:2379", Names: [][]byte{own.cert.RawSubject},
				Chain: [][]byte{k.leaf.der, own.der}}}
		},
		"the cluster's client CA is good":                func(k *kit) { k.clientCA(100*day, true, true) },
		"a client CA was renewed, and the old one ends":  func(k *kit) { k.renewedClientCA(day) },
		"a client CA was renewed, and the old one ended": func(k *kit) { k.renewedClientCA(-day) },
		"an old client CA is still in the configuration": func(k *kit) { k.o.KnownClientCAs = [][]byte{k.ending("long gone", -day).der} },
	} {
		k := newKit(t)
		change(k)
		if r := k.judge(); len(keys(r, rotation.Critical))+len(keys(r, rotation.Warning)) > 0 || !r.OK {
			t.Errorf("%s:\n%s", name, text(t, r))
		}
	}
}

func (k *kit) renewedClientCA(left time.Duration) {
	k.clientCA(left, true, true)
	old, err := x509.ParseCertificate(k.o.KnownClientCAs[0])
	must(k.t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(k.t, err)
	again := func(from, to time.Time) []byte {
		return makeCA(k.t, caOptions{name: old.Subject.CommonName, pathLen: -1, key: key, from: from, to: to}).der
	}
	both := [][]byte{again(old.NotBefore, old.NotAfter), again(now.Add(-day), now.Add(700*day))}
	k.o.KnownClientCAs = both
	k.publish(k.g1)
	k.o.Published.ClientCAs = append(k.o.Published.ClientCAs, both...)
}

func TestWhatIsLeftInTheConfigMapMayEnd(t *testing.T) {
	k := newKit(t)
	k.o.Published.ClientCAs = append(k.o.Published.ClientCAs, k.ending("left", -day).der)
	r := k.judge()
	if got := keys(r, rotation.Info); len(got) != 1 || !strings.HasPrefix(got[0], "client-ca-expired/") ||
		len(keys(r, rotation.Critical)) > 0 {
		t.Errorf("info %q, critical %q", got, keys(r, rotation.Critical))
	}
}

// A client CA that ends is also an alert, unless no server takes it.
func TestMetricsTellTheEndOfClientCAsThatAreTaken(t *testing.T) {
	k := newKit(t)
	k.clientCA(day, false, true)
	left := k.ending("left", 2*day)
	k.o.Published.ClientCAs = append(k.o.Published.ClientCAs, left.der)
	ends := map[float64]bool{}
	for _, s := range metric.Samples(k.judge()) {
		if s.Name == metric.NotAfter && s.Labels[1].Value == "client" {
			ends[s.Value] = true
		}
	}
	if !ends[float64(now.Add(day).Unix())] || !ends[float64(k.cluster.cert.NotAfter.Unix())] || ends[float64(left.cert.NotAfter.Unix())] {
		t.Errorf("client CAs end %v", ends)
	}
}

// From a warning to critical, and at each lead time, the key of every end changes: who was told of one is told of the next.
func TestEveryEndIsToldAgainAtItsSteps(t *testing.T) {
	for name, tt := range map[string]struct {
		key string
		set func(k *kit, c made)
	}{
		"serving CA":     {"serving-ca-expires/", func(k *kit, c made) { k.o.RootCA = append(k.o.RootCA, c.der) }},
		"request header": {"request-header-expires/", func(k *kit, c made) { k.o.Published.RequestHeader = [][]byte{c.der} }},
		"root":           {"root-expires/", func(k *kit, c made) { k.o.Vault.Issuers[0].Chain = [][]byte{c.der} }},
		"kubelet": {"kubelet-ca-expires/", func(k *kit, c made) {
			k.o.Endpoints = []rotation.Endpoint{{Kind: rotation.KindKubelet, Where: "f", CAs: [][]byte{c.der}}}
		}},
		"etcd": {"etcd-ca-expires/", func(k *kit, c made) {
			k.o.Endpoints = []rotation.Endpoint{{Kind: rotation.KindEtcd, Where: "f", CAs: [][]byte{c.der}}}
		}},
		"client":  {"client-ca-expires/", func(k *kit, c made) { k.o.KnownClientCAs = [][]byte{c.der} }},
		"serving": {"serving-expires/10.0.0.1:6443", func(k *kit, c made) { k.o.Servers[0].Serving = [][]byte{c.der} }},
		"kubelet serving": {"kubelet-serving-expires/10.0.0.9:10250", func(k *kit, c made) {
			k.o.Endpoints = []rotation.Endpoint{{Kind: rotation.KindKubelet, Where: "10.0.0.9:10250", Chain: [][]byte{c.der}}}
		}},
	} {
		seen := map[string]bool{}
		for _, left := range []time.Duration{20 * day, 6 * day, day} {
			k := newKit(t)
			tt.set(k, k.ending("something that ends", left))
			r := k.judge()
			for _, f := range r.Verdicts {
				if !strings.HasPrefix(f.Key, tt.key) {
					continue
				}
				seen[f.Key] = true
				if !slices.ContainsFunc(r.Authorities, func(a rotation.Authority) bool {
					return a.Worst == f.Severity && a.NotAfter != nil && a.NotAfter.Equal(now.Add(left))
				}) {
					t.Errorf("%s: no authority knows of %s: %+v", name, f.Key, r.Authorities)
				}
			}
		}
		if len(seen) != 3 {
			t.Errorf("%s: three steps have the keys %v", name, seen)
		}
	}
}

// While something of Vault is not seen, nothing is said about what it may be.
func TestWhatIsNotSeenInVaultIsNotAbsent(t *testing.T) {
	for name, change := range map[string]func(*kit){
		"the issuer that signs": func(k *kit) { k.o.Vault.Issuers = k.o.Vault.Issuers[:1]; k.blind("issuer/" + id2) },
		"the old issuer":        func(k *kit) { k.o.Vault.Issuers = k.o.Vault.Issuers[1:]; k.blind("issuer/" + id1) },
		"a role":                func(k *kit) { k.o.Vault.Roles = k.o.Vault.Roles[:1]; k.blind("role/breakglass-admins") },
		"the default":           func(k *kit) { k.o.Vault.Default = ""; k.o.Vault.Roles[0].Issuer = "default"; k.blind("default-issuer") },
		"all issuers":           func(k *kit) { k.o.Vault.Issuers = nil; k.blind("issuers") },
	} {
		k := newKit(t)
		k.second(true, true, true)
		k.roles(id2)
		k.publish(k.g1, k.g2)
		change(k)
		r := k.judge()
		for _, f := range r.Verdicts {
			check, _, _ := strings.Cut(f.Key, "/")
			if slices.Contains([]string{"role-issuer", "pinned-missing", "issuer-extra", "issuer-left", "default-issuer"}, check) {
				t.Errorf("%s not seen: %s", name, f.Key)
			}
		}
		for i := range k.o.Servers { // not even a bundle is written: it could lack what was not seen
			k.broken(i)
		}
		for _, r := range []rotation.Report{r, k.judge()} {
			if p := rotation.MakePlan(r, rotation.PlanOptions{}); r.OK || r.Complete || !strings.Contains(p.Refused, "no answer") &&
				!strings.HasPrefix(name, "a role") && !strings.HasPrefix(name, "the default") {
				t.Errorf("%s not seen: OK %t, complete %t, plan %+v", name, r.OK, r.Complete, p)
			}
		}
	}
}

// A role that is not seen may sign under an issuer that seems to have no part, and the default may be where the roles are.
func TestAnIssuerIsNotSuperfluousWhileARoleIsNotSeen(t *testing.T) {
	for _, seen := range []bool{true, false} {
		k := newKit(t)
		k.second(true, true, true)
		k.o.Vault.Issuers = append(k.o.Vault.Issuers, issuer(id3, "breakglass-g3", makeCA(t,
			caOptions{name: "breakglass-ca pki g3", from: now.Add(-time.Hour), to: now.Add(700 * day)})))
		k.o.Vault.Default = id2
		k.o.Vault.Roles[1].Issuer = id1
		if !seen {
			k.o.Vault.Roles = k.o.Vault.Roles[:1]
			k.blind("role/breakglass-admins")
		}
		said := map[string]bool{}
		for _, f := range k.judge().Verdicts {
			check, _, _ := strings.Cut(f.Key, "/")
			said[check] = true
		}
		for _, check := range []string{"issuer-extra", "issuer-left", "default-issuer"} {
			if said[check] != seen {
				t.Errorf("every role seen: %t; %s is said: %t", seen, check, said[check])
			}
		}
	}
}

func TestBrokenBundleFileComesBeforeEverything(t *testing.T) {
	for _, change := range []func(*kit){func(*kit) {}, func(k *kit) { k.second(true, false, false) }, func(k *kit) {
		k.second(true, true, true)
		k.roles(id2)
		k.o.Known.LastIssuedUnder[k.print(id1)] = now.Add(time.Hour)
	}} {
		k := newKit(t)
		change(k)
		k.broken(0)
		r := k.judge()
		p := rotation.MakePlan(r, rotation.PlanOptions{})
		last := p.Steps[len(p.Steps)-1]
		if r.OK || last.Address != "10.0.0.1:6443" || !strings.Contains(last.What, "will not start again") || p.Next != r.Phase {
			t.Errorf("at %s: %+v", r.Phase, p)
		}
		for _, g := range r.Generations {
			if holds := strings.Contains(last.Commands[0], g.Name+".pem"); holds != (r.Servers[0].Trust[g.Name] == rotation.Trusted) {
				t.Errorf("at %s: the new bundle holds %s: %t, and it is %s there", r.Phase, g.Name, holds, r.Servers[0].Trust[g.Name])
			}
		}
	}
}

// Whatever went wrong on the way: while certificates of the old CA can be alive, no step removes it from a server.
func TestNoPlanRemovesACAWhoseCertificatesAreAlive(t *testing.T) {
	for _, taken := range [][]bool{{true, true, true}, {true, false, true}, {false, true, false}} {
		for broken := -1; broken < 3; broken++ {
			for _, known := range []func(*kit) rotation.Known{
				func(*kit) rotation.Known { return rotation.Known{} },
				func(k *kit) rotation.Known {
					return rotation.Known{LastIssuedUnder: map[string]time.Time{k.print(id1): now.Add(time.Hour)}}
				},
				func(*kit) rotation.Known {
					return rotation.Known{LastIssuedUnder: map[string]time.Time{}, UnknownIssuerUntil: now.Add(time.Hour)}
				},
				func(*kit) rotation.Known {
					return rotation.Known{SwitchSeen: map[string]time.Time{id2: now}}
				},
			} {
				k := newKit(t)
				k.second(true, true, true)
				k.roles(id2)
				k.publish(k.g1, k.g2)
				k.canary(id1, taken...)
				k.o.Known = known(k)
				if broken >= 0 {
					k.broken(broken)
				}
				r := k.judge()
				for _, s := range rotation.MakePlan(r, rotation.PlanOptions{}).Steps {
					if i := slices.IndexFunc(r.Servers, func(x rotation.ServerTrust) bool { return x.Address == s.Address }); s.At == rotation.AtNode &&
						(strings.HasPrefix(s.What, "Take") || taken[i] && !strings.Contains(s.Commands[0], "breakglass-g1.pem")) ||
						s.At == rotation.AtClient {
						t.Errorf("taken %v, broken %d, %s: %s %q", taken, broken, r.Phase, s.What, s.Commands)
					}
				}
			}
		}
	}
}

func TestAuthoritiesKnowTheirWorstVerdict(t *testing.T) {
	k := newKit(t)
	k.broken(0) // about a file, not about the certificate that is served there
	k.replaceG1(makeCA(t, caOptions{name: "breakglass-ca pki g1", from: now.Add(-500 * day), to: now.Add(3 * day)}))
	k.o.Published.RequestHeader = [][]byte{makeCA(t, caOptions{name: "front-proxy-ca", pathLen: -1, from: now.Add(-350 * day),
		to: now.Add(20 * day)}).der}
	want := map[string]rotation.Severity{"break-glass": rotation.Critical, "request-header": rotation.Warning}
	for _, a := range k.judge().Authorities {
		if a.Worst != want[a.Kind] {
			t.Errorf("%s %s: %q, want %q", a.Kind, a.Generation, a.Worst, want[a.Kind])
		}
	}
}

func TestEveryUnseenThingKeepsTheReportFromBeingOK(t *testing.T) {
	k := newKit(t)
	k.o.View.Unseen = []rotation.Unseen{{Key: "jwks", What: "the keys: forbidden", Next: "apply the manifests"}}
	r := k.judge()
	if r.OK || r.Complete || !strings.Contains(text(t, r), "cannot tell: not everything could be seen") {
		t.Errorf("OK %t, complete %t:\n%s", r.OK, r.Complete, text(t, r))
	}
}

func TestReportGoesOverTheWire(t *testing.T) {
	k := newKit(t)
	k.second(true, false, true)
	r := k.judge()
	wire, err := json.Marshal(r)
	must(t, err)
	var back rotation.Report
	must(t, json.Unmarshal(wire, &back))
	if a, b := text(t, r), text(t, back); a != b {
		t.Errorf("after the wire it reads\n%s\nbefore\n%s", b, a)
	}
	if a, b := fmt.Sprint(rotation.MakePlan(r, rotation.PlanOptions{})), fmt.Sprint(rotation.MakePlan(back, rotation.PlanOptions{})); a != b {
		t.Errorf("after the wire the plan is\n%s\nbefore\n%s", b, a)
	}
}

func TestTextIsFitForATerminal(t *testing.T) {
	k := newKit(t)
	k.second(true, false, true)
	k.publish(k.g1, makeCA(t, caOptions{name: "evil\x1b[2J\nlines"}))
	r := k.judge()
	out := text(t, r)
	for _, word := range []string{"prod  trusted-on-some", "breakglass-g2", "10.0.0.2:6443", "refused", "trusted", "next: "} {
		if !strings.Contains(out, word) {
			t.Errorf("no %q in\n%s", word, out)
		}
	}
	if strings.ContainsRune(out, 0x1b) || strings.Contains(out, "\nlines") {
		t.Errorf("control characters in %q", out)
	}
	var b strings.Builder
	must(t, rotation.MakePlan(r, rotation.PlanOptions{}).Text(&b))
	for _, word := range []string{"next trusted-on-all", "[node 10.0.0.2:6443]", "client-ca-bundle.crt",
		"vault read -field=certificate pki/issuer/" + id2, "To go back"} {
		if !strings.Contains(b.String(), word) {
			t.Errorf("no %q in\n%s", word, b.String())
		}
	}
	if strings.Contains(b.String(), "[node 10.0.0.1:6443] Append") {
		t.Errorf("a node that has it is to get it again:\n%s", b.String())
	}
}

// authority counts signatures and refuses them.
type authority struct{ signs *int }

func (a authority) ObserveVault(context.Context, string) rotation.Vault {
	return rotation.Vault{Mount: "pki", Issuers: []rotation.Issuer{{ID: id1, Name: "breakglass-g1", Certificate: lasting, Usage: signing,
		LeafNotAfter: "err", KeyID: "k"}}, Default: id1,
		Roles: []rotation.Role{{Name: "breakglass", Issuer: id1}}, Pinned: []string{id1}, MaxTTL: time.Hour, ReadyToSign: true}
}

func (a authority) SignCanary(context.Context, rotation.Canary) (breakglass.Signed, error) {
	*a.signs++
	return breakglass.Signed{}, fmt.Errorf("%w: not here", breakglass.ErrNotSigned)
}

type viewer struct{}

func (viewer) View(context.Context) rotation.View { return rotation.View{} }

func (viewer) Greet(context.Context, string, tls.Certificate, string) rotation.Greeting {
	return rotation.Greeting{Outcome: rotation.OutcomeUnreached}
}

// lasting is a CA that is good by the real clock.
var lasting []byte

func TestNoCanaryWithoutARecord(t *testing.T) {
	lasting = makeCA(t, caOptions{name: "breakglass-ca pki g1", from: time.Now().Add(-time.Hour), to: time.Now().Add(1000 * day)}).der
	signs, told := 0, 0
	c := rotation.Checker{Cluster: "prod", Vault: authority{&signs}, View: viewer{},
		Ordered: func(_ context.Context, o rotation.Canary) error {
			if told++; !strings.HasPrefix(o.CommonName, "breakglass-canary:prod:") || o.Issuer != id1 || o.SPKI == "" || o.Cluster != "prod" {
				t.Errorf("told of %+v", o)
			}
			return errors.New("the disk is full")
		}}
	r := c.Check(t.Context())
	if signs != 0 || told != 1 || r.OK || r.Complete || !strings.Contains(text(t, r), "the disk is full") {
		t.Errorf("%d signatures, told %d times, OK %t, complete %t:\n%s", signs, told, r.OK, r.Complete, text(t, r))
	}
	done := 0
	c.Ordered = nil
	c.Done = func(_ context.Context, _ rotation.Canary, s rotation.Signing, answers map[string]rotation.Greeting) error {
		if done++; s.Error == "" || s.Wrong || len(answers) != 0 {
			t.Errorf("done with %+v and %v", s, answers)
		}
		return nil
	}
	if c.Check(t.Context()); signs != 1 || done != 1 {
		t.Errorf("%d signatures and %d reports of them, want one each", signs, done)
	}
}

func TestCanaryNames(t *testing.T) {
	for cluster, want := range map[string]string{"prod": "breakglass-canary:prod:abcdefghijkl",
		strings.Repeat("c", 63): "breakglass-canary:" + strings.Repeat("c", 33) + ":abcdefghijkl"} {
		if got := rotation.CanaryName(cluster, "ABCDEFGHIJKLMNOP"); got != want || len(got) > 64 {
			t.Errorf("got %q of %d characters, want %q", got, len(got), want)
		}
	}
	if rotation.CanaryTTL != policies.VaultCanaryTTL || rotation.CanaryRole != policies.VaultCanaryRole {
		t.Error("the canary that is ordered is not the one that Vault's role is for")
	}
}

func TestMetrics(t *testing.T) {
	k := newKit(t)
	k.second(true, false, true)
	got := map[string]float64{}
	for _, s := range metric.Samples(k.judge()) {
		var labels []string
		for i, l := range s.Labels {
			if l.Name != metric.Labels[s.Name][i] {
				t.Errorf("%s has the label %s at %d", s.Name, l.Name, i)
			}
			labels = append(labels, l.Value)
		}
		key := s.Name + " " + strings.Join(labels, " ")
		if _, twice := got[key]; twice {
			t.Errorf("%s is there twice", key)
		}
		got[key] = s.Value
	}
	for key, want := range map[string]float64{
		"breakglass_ca_not_after_seconds prod break-glass breakglass-g1": float64(k.g1.cert.NotAfter.Unix()),
		"breakglass_ca_not_after_seconds prod serving 10.0.0.1:6443":     float64(k.leaf.cert.NotAfter.Unix()),
		"breakglass_ca_check_ok prod":                                    0,
		"breakglass_ca_check_last_success_seconds prod":                  float64(now.Unix()),
		"breakglass_canary_ok prod 10.0.0.1:6443 breakglass-g1":          1,
		"breakglass_ca_trusted prod 10.0.0.1:6443 breakglass-g2":         1,
		"breakglass_ca_trusted prod 10.0.0.2:6443 breakglass-g2":         0,
		"breakglass_ca_phase prod trusted-on-some":                       1,
		"breakglass_ca_phase prod closed":                                0,
		"breakglass_ca_findings prod critical":                           0,
		"breakglass_ca_findings prod warning":                            1,
	} {
		if v, ok := got[key]; !ok || v != want {
			t.Errorf("%s is %v (there: %t), want %v", key, v, ok, want)
		}
	}
	k.down(0)
	for _, s := range metric.Samples(k.judge()) {
		if s.Name == metric.LastSuccess {
			t.Error("a check that could not see everything counts as a success")
		}
		if s.Name == metric.Canary && s.Labels[1].Value == "10.0.0.1:6443" && s.Value != 0 {
			t.Error("the canary of a server that is down is ok")
		}
		if s.Name == metric.Trusted && s.Labels[1].Value == "10.0.0.1:6443" {
			t.Error("the trust of a server that is down is told")
		}
	}
}
