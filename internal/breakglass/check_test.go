package breakglass_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	memca "github.com/breakglassd/breakglass/internal/sim/ca"
)

// TestCertificateIsBelievedOnlyFromThePinnedIssuerForTheKeyThatWasOrdered is about what an authority cannot be told to do wrong
// in a template: another key, another issuer, a broken signature.
func TestCertificateIsBelievedOnlyFromThePinnedIssuerForTheKeyThatWasOrdered(t *testing.T) {
	ca, err := memca.New("pinned")
	if err != nil {
		t.Fatal(err)
	}
	other, err := memca.New("pinned") // the same name: only the key tells them apart
	if err != nil {
		t.Fatal(err)
	}
	_, csrPEM := bgtest.NewCSR()
	block, _ := pem.Decode(csrPEM)
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	order := breakglass.Order{Request: "bg-7k3m-9qx", CommonName: "breakglass:alice:bg-7k3m-9qx", CSR: csr.Raw, TTL: 10 * time.Minute}
	sign := func(from *memca.CA) breakglass.Signed {
		s, err := from.Sign(context.Background(), order)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	intent := func() breakglass.Intent {
		return breakglass.Intent{CommonName: order.CommonName, SPKI: breakglass.SPKI(csr.RawSubjectPublicKeyInfo), TTL: order.TTL,
			Issuer: ca.Certificate().Raw, Now: time.Now(), Asked: time.Now()}
	}
	if bad := breakglass.CheckCertificate(sign(ca), intent()); len(bad) > 0 {
		t.Fatalf("a certificate that is as ordered: %q", bad)
	}

	broken := sign(ca)
	broken.Certificate[len(broken.Certificate)-1] ^= 1
	elsewhere := sign(other)
	claimed := elsewhere
	claimed.Issuer = ca.Certificate().Raw
	chained := claimed
	chained.Chain = [][]byte{other.Certificate().Raw}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	forAnother := intent()
	forAnother.SPKI = breakglass.SPKI(spki)
	twice := sign(ca)
	twice.Certificate = append(twice.Certificate, twice.Certificate...)

	for _, tt := range []struct {
		name   string
		signed breakglass.Signed
		in     breakglass.Intent
		want   string
	}{
		{"a broken signature", broken, intent(), "not signed by the pinned issuer"},
		{"another issuer", elsewhere, intent(), "another issuer"},
		{"another issuer that says it is the pinned one", claimed, intent(), "not signed by the pinned issuer"},
		{"another issuer with a chain of its own", chained, intent(), "not signed by the pinned issuer"},
		{"another key", sign(ca), forAnother, "another key"},
		{"two certificates", twice, intent(), "cannot be parsed"},
		{"nothing", breakglass.Signed{Issuer: ca.Certificate().Raw}, intent(), "cannot be parsed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bad := strings.Join(breakglass.CheckCertificate(tt.signed, tt.in), "; ")
			if !strings.Contains(bad, tt.want) {
				t.Errorf("found %q, want something about %q", bad, tt.want)
			}
		})
	}
}
