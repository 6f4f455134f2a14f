package proved

import (
	"cmp"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/cli/machine"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/ledger/sqlstore"
)

// The certificate is of a server ten minutes ahead of this machine; what it says its time is makes up for that.
func TestClockOfThisMachineMayBeOff(t *testing.T) {
	const ahead, life = 10 * time.Minute, 5 * time.Minute
	key, _ := bgtest.NewCSR()
	now := time.Now().Add(ahead)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now, NotAfter: now.Add(life)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	var skew time.Duration // of the server's clock, as far as it is known
	x := Checker{Now: func() time.Time { return time.Now().Add(skew) }}
	tooLate := func() bool {
		return slices.ContainsFunc(x.checkCertificate(cert, &machine.Key{Private: key},
			api.Request{Ask: breakglass.Requested{TTLSeconds: int64(life / time.Second)}}),
			func(bad string) bool { return strings.HasPrefix(bad, "it ends at") })
	}
	if !tooLate() {
		t.Error("a certificate that lives longer than it was asked for is taken")
	}
	skew = ahead
	if tooLate() {
		t.Error("the certificate of a server whose clock is ahead is refused although its time is known")
	}
}

func TestLedgerMustContinueTheOneSeenBefore(t *testing.T) {
	ctx := t.Context()
	skey, vkey, err := ledger.NewKey(bgtest.Origin)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	// Two ledgers of one key: what a rollback or a thief of the key makes.
	open := func(kind string) (l *ledger.Ledger, early, late ledger.Checkpoint) {
		path := filepath.Join(t.TempDir(), "ledger.db")
		if err := sqlstore.Create(ctx, path); err != nil {
			t.Fatal(err)
		}
		store, err := sqlstore.Open(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		if l, err = ledger.Open(ctx, store, signer, verifier); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		for _, cp := range []*ledger.Checkpoint{&early, &late} {
			for range 3 {
				if _, err := l.Append(ctx, time.Now(), "s", ledger.AnyVersion, nil, ledger.Draft{Kind: kind, Body: []byte("{}")}); err != nil {
					t.Fatal(err)
				}
			}
			if *cp, err = l.Checkpoint(ctx); err != nil {
				t.Fatal(err)
			}
		}
		return l, early, late
	}
	mine, early, late := open("one")
	other, otherEarly, otherLate := open("other")
	client := func(l *ledger.Ledger) *api.Client {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			from, _ := strconv.ParseInt(r.FormValue("from"), 10, 64)
			to, _ := strconv.ParseInt(r.FormValue("to"), 10, 64)
			out := api.Consistency{Meta: api.Meta{APIVersion: api.Version}}
			proof, err := l.Consistency(r.Context(), from, to)
			if err != nil {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			for _, h := range proof {
				out.Hashes = append(out.Hashes, h[:])
			}
			_ = json.NewEncoder(w).Encode(out)
		}))
		t.Cleanup(srv.Close)
		return &api.Client{Server: srv.URL, HTTP: srv.Client()}
	}
	for _, c := range []struct {
		name        string
		server      *ledger.Ledger
		before, now ledger.Checkpoint
		good        bool
	}{
		{"it grew", mine, early, late, true},
		{"the same", mine, late, late, true},
		{"another run saw a later one meanwhile", mine, late, early, true},
		{"rewritten and longer", other, early, otherLate, false},
		{"rewritten and as long", other, late, otherLate, false},
		{"rolled back", other, late, otherEarly, false},
	} {
		err := continues(ctx, client(c.server), machine.Server{Checkpoint: string(c.before.Note), Verifier: verifier}, c.now)
		if f, _ := exit.Explain(cmp.Or(err, error(&exit.Error{}))); (err == nil) != c.good || !c.good && f.Exit != exit.Unverified {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func FuzzCredential(f *testing.F) {
	_, vkey, err := ledger.NewKey("fuzz")
	if err != nil {
		f.Fatal(err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"apiVersion":"breakglass/v1","kind":"Credential","certificate":` +
		`"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----","issued":"AA==","proof":""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := CheckCredential(b, v); err == nil {
			t.Error("something nobody signed is proven")
		}
	})
}

func FuzzLeaf(f *testing.F) {
	f.Add([]byte("ledger-leaf v1\nstream bg-7k3m-9qx\nnumber 1\nkind withdrawn/v1\ntime 2026-11-22T03:45:00.000000000Z\n\n" +
		"{\"by\":{\"channel\":\"key\"}}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if ev, err := EventIn(b, "bg-7k3m-9qx"); err == nil && ev == nil {
			t.Error("no event and no error")
		}
	})
}
