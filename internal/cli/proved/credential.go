package proved

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/text"
)

// CertificateProof is the JSON form of a certificate with the ledger's proof of it: a credential without what is secret.
type CertificateProof struct {
	api.Meta
	Request     api.Request `json:"request"`
	Certificate string      `json:"certificate"` // PEM
	Proof       string      `json:"proof"`
	Issued      []byte      `json:"issued"`

	Entries    []api.Entry `json:"entries,omitempty"`    // of the request: what is said of it, proved
	Checkpoint string      `json:"checkpoint,omitempty"` // that they are proven to be under
}

// ErrNoProof says that a file is not what show --proof or claim -o json prints.
var ErrNoProof = errors.New("it is not what show --proof or claim -o json prints")

// Certificate is what the proof of a certificate proves.
type Certificate struct {
	Issued  breakglass.Issued
	Index   int64
	ID      string // of the request
	Person  string
	Last    int64        // index of the last entry
	Request *api.Request // from proven entries; nil: the file has none, as claim -o json prints it
	Changed []string     // what the file says otherwise
}

// CheckCredential verifies that the ledger of a key holds exactly the certificate of a credential, and compares what the file says
// of the request with what is proved.
func CheckCredential(file []byte, verifier note.Verifier) (Certificate, error) {
	var p Certificate
	var c CertificateProof
	if err := json.Unmarshal(file, &c); err != nil || c.Kind != "Credential" && c.Kind != "CertificateProof" {
		for _, kind := range []string{`"Credential"`, `"CertificateProof"`} {
			if err != nil && bytes.Contains(file, []byte(kind)) {
				return p, fmt.Errorf("it is damaged: %w", err)
			}
		}
		return p, ErrNoProof
	}
	block, _ := pem.Decode([]byte(c.Certificate))
	if block == nil {
		return p, errors.New("there is no certificate in it")
	}
	ev, err := EventIn(c.Issued, c.Request.ID)
	if err != nil {
		return p, err
	}
	var ok bool
	if p.Issued, ok = ev.(breakglass.Issued); !ok || !bytes.Equal(p.Issued.Certificate, block.Bytes) {
		return p, errors.New("its ledger entry is about another certificate")
	}
	proof, err := ledger.ParseProof([]byte(c.Proof))
	if err != nil {
		return p, err
	}
	if err := ledger.VerifyProof(c.Issued, proof, verifier); err != nil {
		return p, err
	}
	p.Index, p.ID = proof.Index, c.Request.ID
	if p.Person, err = holder(p.Issued, p.ID); err != nil {
		return p, err
	}
	if len(c.Entries) == 0 {
		p.Changed = p.compareCertificate(c.Request)
		return p, nil
	}
	entries, err := Entries(api.History{ID: p.ID, Entries: c.Entries, Checkpoint: c.Checkpoint}, verifier)
	if err != nil {
		return p, err
	}
	folded, err := breakglass.Fold(entries, true)
	if err != nil {
		return p, err
	}
	if folded.Issued == nil || folded.IssuedSeq != p.Index {
		return p, errors.New("its entries have another certificate")
	}
	r := api.NewRequest(folded, &policy.Policy{}, c.Request.AsOf)
	p.Request, p.Last = &r, entries[len(entries)-1].Seq
	p.Changed, err = differences(file, r)
	return p, err
}

// holder is the person in a certificate's name.
func holder(x breakglass.Issued, request string) (string, error) {
	cert, err := x509.ParseCertificate(x.Certificate)
	if err != nil {
		return "", err
	}
	person, ok := strings.CutPrefix(strings.TrimSuffix(cert.Subject.CommonName, ":"+request), policy.CommonNamePrefix)
	if !ok || breakglass.CommonName(person, request) != cert.Subject.CommonName {
		return "", fmt.Errorf("its certificate is for %.100q, which is not of %s", cert.Subject.CommonName, request)
	}
	return person, nil
}

// compareCertificate says what a file that has no entries says otherwise than the certificate.
func (p *Certificate) compareCertificate(r api.Request) []string {
	var out []string
	differ := func(what string, said, is any) {
		if !reflect.DeepEqual(said, is) {
			out = append(out, fmt.Sprintf("%s is %.100q and not %.100q", what, fmt.Sprint(is), fmt.Sprint(said)))
		}
	}
	differ("request.ask.by.person", r.Ask.By.Person, p.Person)
	if x := r.Certificate; x != nil {
		differ("request.certificate.commonName", x.CommonName, breakglass.CommonName(p.Person, p.ID))
		differ("request.certificate.serial", x.Serial, p.Issued.Serial)
		differ("request.certificate.fingerprint", x.Fingerprint, p.Issued.Fingerprint)
		differ("request.certificate.notBefore", x.NotBefore.UTC(), p.Issued.NotBefore.UTC())
		differ("request.certificate.notAfter", x.NotAfter.UTC(), p.Issued.NotAfter.UTC())
		differ("request.certificate.ledgerIndex", x.LedgerIndex, p.Index)
	}
	return out
}

// differences says where a file's "request" is not the one that its entries make. What only a server can say is left out: names of
// people, and whether Slack has been told.
func differences(content []byte, is api.Request) ([]string, error) {
	var file struct {
		Request map[string]any `json:"request"`
	}
	if err := json.Unmarshal(content, &file); err != nil {
		return nil, err
	}
	b, err := json.Marshal(is)
	if err != nil {
		return nil, err
	}
	var proved map[string]any
	if err := json.Unmarshal(b, &proved); err != nil {
		return nil, err
	}
	for _, servers := range []string{"names", "notTold"} {
		delete(file.Request, servers)
		delete(proved, servers)
	}
	var out []string
	var walk func(at string, said, is any)
	walk = func(at string, said, is any) {
		a, object := said.(map[string]any)
		b, too := is.(map[string]any)
		x, list := said.([]any)
		y, alike := is.([]any)
		switch {
		case object && too:
			for k := range a { // what it leaves out, perhaps because its release knew less, is not changed; shown is what is proved
				walk(at+"."+k, a[k], b[k])
			}
		case list && alike && len(x) == len(y):
			for i := range x {
				walk(fmt.Sprintf("%s[%d]", at, i), x[i], y[i])
			}
		case !reflect.DeepEqual(said, is):
			words := func(x any) string {
				b, err := json.Marshal(x)
				if err != nil {
					panic(err) // it came from JSON
				}
				return text.Cut(string(b), 100)
			}
			out = append(out, at+" is "+words(is)+" and not "+words(said))
		}
	}
	walk("request", file.Request, proved)
	slices.Sort(out)
	return out, nil
}
