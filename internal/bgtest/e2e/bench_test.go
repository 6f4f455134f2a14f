package e2e

import (
	"context"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/announce"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/ledger/sqlstore"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/vaultca"
)

// noBinder is a cluster that takes no time, so that what is measured is the claim.
type noBinder struct{}

func (noBinder) Bind(context.Context, breakglass.Binding) error    { return nil }
func (noBinder) Unbind(context.Context, string, string) error      { return nil }
func (noBinder) Bound(context.Context, string) ([]string, error)   { return nil, nil }
func (noBinder) Tell(context.Context, announce.Notice) (err error) { return nil }

// bench is a service on a real ledger and a real Vault, and a raw client of the same Vault role beside it.
type bench struct {
	service *breakglass.Service
	ca      *vaultca.CA
	sign    func(ctx context.Context, name string, csr []byte) error // raw pki/sign
	held    func(ctx context.Context) (int, error)                   // how many certificates the mount holds
}

func newBench(b *testing.B) *bench {
	ctx, cancel := context.WithCancel(context.Background())
	dir := b.TempDir()
	skey, vkey, err := ledger.NewKey("breakglass.test/bench")
	must(b, err)
	signer, err := note.NewSigner(skey)
	must(b, err)
	verifier, err := note.NewVerifier(vkey)
	must(b, err)
	path := filepath.Join(dir, "ledger.db")
	must(b, sqlstore.Create(ctx, path))
	store, err := sqlstore.Open(ctx, path)
	must(b, err)
	l, err := ledger.Open(ctx, store, signer, verifier)
	must(b, err)
	policy, err := policy.Parse("access.yaml", []byte(strings.Replace(bgtest.Policy(), "{openPerPerson: 3, perHour: 20}",
		"{openPerPerson: 100, perHour: 1000}", 1)))
	must(b, err)
	ca, err := vaultca.Open(ctx, vaultca.Config{Address: shared.vault.Addr, CAFile: shared.vault.CACert,
		Auth: vaultca.Auth{Method: vaultca.AuthAppRole, RoleID: shared.roleID, SecretIDFile: filepath.Join(shared.dir, "secret-id")},
		Mounts: []vaultca.Mount{{Cluster: "c1", Path: mount, IssuerID: shared.issuerID, MaxTTL: time.Hour,
			Groups: []string{"breakglass:cluster-admins"}}}})
	must(b, err)
	s, campaigns, err := bgtest.Open(ctx, bgtest.Config{Record: bgtest.Record{Ledger: l},
		Domain: bgtest.Domain{Policy: policy, Signer: ca, Binder: noBinder{}}})
	must(b, err)
	var running sync.WaitGroup
	running.Go(func() { must(b, ca.Run(ctx)) })
	running.Go(func() { must(b, bgtest.Run(ctx, s, campaigns, map[string]announce.Messenger{"none": noBinder{}})) })
	b.Cleanup(func() {
		cancel()
		running.Wait()
		must(b, l.Close())
	})
	client, err := shared.vault.Client()
	must(b, err)
	return &bench{service: s, ca: ca, sign: func(ctx context.Context, name string, csr []byte) error {
		_, err := client.Logical().WriteWithContext(ctx, mount+"/sign/breakglass-cluster-admins",
			map[string]any{"csr": string(csr), "common_name": name, "ttl": "600", "exclude_cn_from_sans": true})
		return err
	}, held: func(ctx context.Context) (int, error) {
		secret, err := client.Logical().ListWithContext(ctx, mount+"/certs")
		if err != nil || secret == nil {
			return 0, err
		}
		keys, _ := secret.Data["keys"].([]any)
		return len(keys), nil
	}}
}

// fill has the mount hold at least so many certificates.
func (x *bench) fill(b *testing.B, want int) {
	b.Helper()
	held, err := x.held(b.Context())
	must(b, err)
	_, csr := bgtest.NewCSR()
	spread(16, max(want-held, 0), func(i int) error {
		return x.sign(b.Context(), fmt.Sprintf("breakglass:fill:%d", i), csr)
	}, b)
}

// grants makes n approved requests in group mode, in turn for the three people who may ask.
func (x *bench) grants(b *testing.B, n int) []*breakglass.Request {
	b.Helper()
	out := make([]*breakglass.Request, n)
	who := []string{"alice", "bob", "dave"}
	for i := range out {
		p := who[i%3]
		r, err := x.service.Request(b.Context(), bgtest.ByKey(p), breakglass.Ask{Profile: "group", Reason: "a benchmark, not an emergency"})
		must(b, err)
		for _, a := range []string{"carol", "erin"} {
			r, err = x.service.Approve(b.Context(), bgtest.BySlack(a), r.ID, breakglass.Consent{Digest: r.Digest})
			must(b, err)
		}
		out[i] = r
	}
	return out
}

// batch is how many grants are prepared at one time: the limits per person bound it.
const batch = 240

// BenchmarkClaim measures a claim, from the CSR to the certificate with its proof, beside the raw signing call on the same Vault
// and role in the same run, in turn, so that both see the same machine. Requests and approvals are made outside the clock, and so is
// the reading of the certificates that raw calls have left in the mount.
func BenchmarkClaim(b *testing.B) {
	for _, certificates := range []int{0, 1_000, 10_000} {
		for _, clients := range []int{1, 16} {
			b.Run(fmt.Sprintf("certificates=%d/clients=%d", certificates, clients), func(b *testing.B) {
				benchmarkClaim(b, certificates, clients)
			})
		}
	}
}

func benchmarkClaim(b *testing.B, certificates, clients int) {
	x := newBench(b)
	x.fill(b, certificates)
	var claims, raws []time.Duration
	var claimTime, rawTime time.Duration
	b.StopTimer()
	for done := 0; done < b.N; {
		n := min(batch, b.N-done)
		grants := x.grants(b, n)
		csrs, signatures := make([][]byte, 2*n), make([]string, n)
		for i := range csrs {
			_, csrs[i] = bgtest.NewCSR()
		}
		for i, r := range grants {
			signatures[i] = bgtest.ClaimSignature(r.Ask.By.Person, r.ID, csrs[i])
		}
		raw, took := spread(clients, n, func(i int) error {
			return x.sign(b.Context(), fmt.Sprintf("breakglass:raw:%d", done+i), csrs[n+i])
		}, b)
		raws, rawTime = append(raws, raw...), rawTime+took
		_, err := x.ca.Find(b.Context(), "c1", "breakglass:nobody")
		must(b, err)
		b.StartTimer()
		claim, took := spread(clients, n, func(i int) error {
			_, err := x.service.Claim(b.Context(), bgtest.ByKey(grants[i].Ask.By.Person), grants[i].ID, csrs[i], signatures[i])
			return err
		}, b)
		b.StopTimer()
		claims, claimTime = append(claims, claim...), claimTime+took
		done += n
		for _, r := range grants { // make room under the limits
			_, err := x.service.Revoke(b.Context(), bgtest.BySlack("carol"), r.ID, "the benchmark goes on")
			must(b, err)
		}
	}
	slices.Sort(claims)
	slices.Sort(raws)
	at := func(d []time.Duration, q float64) float64 {
		return float64(d[int(q*float64(len(d)-1))].Microseconds()) / 1000
	}
	b.ReportMetric(at(claims, 0.5), "claim-p50-ms")
	b.ReportMetric(at(claims, 0.99), "claim-p99-ms")
	b.ReportMetric(at(raws, 0.5), "raw-p50-ms")
	b.ReportMetric(at(raws, 0.99), "raw-p99-ms")
	b.ReportMetric(float64(len(claims))/claimTime.Seconds(), "claims/s")
	b.ReportMetric(float64(len(raws))/rawTime.Seconds(), "raw/s")
	b.ReportMetric(rawTime.Seconds()/claimTime.Seconds(), "of-raw")
}

// spread runs f for 0 to n-1 from so many goroutines and returns how long each took, and all of them.
func spread(clients, n int, f func(int) error, b *testing.B) ([]time.Duration, time.Duration) {
	b.Helper()
	out := make([]time.Duration, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range clients {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				begin := time.Now()
				if err := f(i); err != nil {
					b.Error(err)
					return
				}
				out[i] = time.Since(begin)
			}
		})
	}
	wg.Wait()
	return out, time.Since(start)
}

// TestRawSigningIsWhatTheBenchmarkComparesWith keeps the benchmark's other half honest: it really gives a certificate.
func TestRawSigningIsWhatTheBenchmarkComparesWith(t *testing.T) {
	client, err := shared.vault.Client()
	must(t, err)
	_, csr := bgtest.NewCSR()
	secret, err := client.Logical().WriteWithContext(t.Context(), mount+"/sign/breakglass-cluster-admins",
		map[string]any{"csr": string(csr), "common_name": "breakglass:raw:0", "ttl": "600", "exclude_cn_from_sans": true})
	must(t, err)
	if block, _ := pem.Decode([]byte(secret.Data["certificate"].(string))); block == nil {
		t.Error("no certificate")
	}
}
