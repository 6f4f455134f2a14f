package breakglass

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/text"
)

// MaxCSR bounds a certificate request in PEM. One for a P-384 key is under 1 KiB.
const MaxCSR = 16 << 10

// Backdate is how far before its signing a certificate may begin: the role's not_before_duration.
const Backdate = 30 * time.Second

// ParseCSR reads one PEM certificate request and refuses everything that is not a fresh-looking client key: the only thing
// taken from a CSR is its public key, so nothing else may be asked for in it.
func ParseCSR(text []byte) (*x509.CertificateRequest, error) {
	if len(text) > MaxCSR {
		return nil, record.Refuse(record.ClassInvalid, "csr/size", "", "the certificate request is longer than %d bytes", MaxCSR)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, record.Refuse(record.ClassInvalid, "csr/pem", "send exactly one PEM block of type CERTIFICATE REQUEST",
			"the certificate request cannot be read")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, &record.Refusal{Class: record.ClassInvalid, Code: "csr/parse", Why: "the certificate request is malformed", Cause: err}
	}
	var p record.Problems
	pub, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() && pub.Curve != elliptic.P384() {
		p.Add("csr/key", "make an ECDSA key on P-256 or P-384", "the key is %s", keyName(csr.PublicKeyAlgorithm, csr.PublicKey))
	} else if err := csr.CheckSignature(); err != nil { // only now: checking a huge RSA key would be work for nothing
		p.Add("csr/signature", "", "the request is not signed by its own key")
	}
	if len(csr.Extensions) > 0 || hasAttributes(csr) {
		p.Add("csr/extensions", "leave them out: names and usages come from the approved request", "the certificate request asks for extensions")
	}
	if r, bad := record.AsRefusal(p.Refusal()); bad {
		r.Class = record.ClassInvalid
		return nil, r
	}
	return csr, nil
}

// hasAttributes reports attributes that x509 does not turn into Extensions, such as challenge passwords.
func hasAttributes(csr *x509.CertificateRequest) bool {
	var tbs struct {
		Raw        asn1.RawContent
		Version    int
		Subject    asn1.RawValue
		Key        asn1.RawValue
		Attributes asn1.RawValue `asn1:"optional,tag:0"`
	}
	if _, err := asn1.Unmarshal(csr.RawTBSCertificateRequest, &tbs); err != nil {
		return true
	}
	return len(tbs.Attributes.Bytes) > 0
}

func keyName(alg x509.PublicKeyAlgorithm, key any) string {
	if k, ok := key.(*ecdsa.PublicKey); ok {
		return "ECDSA on " + k.Curve.Params().Name
	}
	return alg.String()
}

// SPKI is the hex SHA-256 of a DER SubjectPublicKeyInfo: how a key is named in the ledger.
func SPKI(der []byte) string {
	return text.SHA256(der)
}

// Fingerprint is the hex SHA-256 of a DER certificate: what kube-apiserver calls X509SHA256.
func Fingerprint(der []byte) string { return SPKI(der) }

// Serial writes a certificate's serial number as Vault and the ledger do: lower-case hex pairs with colons.
func Serial(c *x509.Certificate) string {
	b := c.SerialNumber.Bytes()
	parts := make([]string, len(b))
	for i, x := range b {
		parts[i] = hex.EncodeToString([]byte{x})
	}
	return strings.Join(parts, ":")
}

// Intent is what a certificate must be: all of it, and nothing more.
type Intent struct {
	CommonName string
	Group      string // the one organization; empty: none
	SPKI       string
	TTL        time.Duration
	Issuer     []byte    // DER of the pinned CA certificate
	Now        time.Time // when the answer arrived
	Asked      time.Time // when the order was given
}

// The object identifiers that a certificate of ours may carry, from RFC 5280.
var (
	oidCommonName     = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidOrganization   = asn1.ObjectIdentifier{2, 5, 4, 10}
	allowedExtensions = []string{"2.5.29.14", "2.5.29.35", "2.5.29.15", "2.5.29.37", "2.5.29.19", "1.3.6.1.5.5.7.1.1", "2.5.29.31"}
)

// CheckCertificate compares what the signer sent back with what was ordered and reports every difference, in words; nil means
// that the certificate is exactly the intent. It believes nothing that it can check.
func CheckCertificate(s Signed, in Intent) []string {
	var bad []string
	add := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	c, err := x509.ParseCertificate(s.Certificate)
	if err != nil {
		add("it cannot be parsed as one X.509 certificate")
		return bad
	}
	issuer, err := x509.ParseCertificate(in.Issuer)
	if err != nil {
		add("the pinned issuer cannot be parsed")
		return bad
	}
	bad = append(bad, LintCertificate(c, in.CommonName, in.Group)...)
	if got := SPKI(c.RawSubjectPublicKeyInfo); got != in.SPKI {
		add("it is for another key (%s, ordered for %s)", got, in.SPKI)
	}
	if !bytes.Equal(s.Issuer, in.Issuer) {
		add("it comes from another issuer than the pinned one")
	}
	if err := c.CheckSignatureFrom(issuer); err != nil {
		add("it is not signed by the pinned issuer %q", issuer.Subject.CommonName)
	}
	bad = append(bad, checkTimes(c, issuer, in)...)
	return bad
}

// LintCertificate says everything that is wrong with the names and the usages of a certificate, for anybody who holds it: it
// needs neither issuer nor clock. An empty group means that there must be none.
func LintCertificate(c *x509.Certificate, commonName, group string) []string {
	return append(checkSubject(c, commonName, group), checkUse(c)...)
}

func checkSubject(c *x509.Certificate, commonName, group string) []string {
	var bad []string
	want := []string{"CN=" + commonName}
	if group != "" {
		want = append(want, "O="+group)
	}
	var got []string
	for _, a := range c.Subject.Names {
		v, ok := a.Value.(string)
		switch {
		case !ok:
			v = "(not text)"
		case strings.HasPrefix(v, "system:"):
			bad = append(bad, fmt.Sprintf("its subject has the name %q of Kubernetes itself", v))
		case !printableName(v):
			bad = append(bad, fmt.Sprintf("its subject has odd characters: %q", v))
		}
		switch {
		case a.Type.Equal(oidCommonName):
			got = append(got, "CN="+v)
		case a.Type.Equal(oidOrganization):
			got = append(got, "O="+v)
		default:
			got = append(got, a.Type.String()+"="+v)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) { // "CN=" sorts before "O="
		bad = append(bad, fmt.Sprintf("its subject is %q, ordered %q", got, want))
	}
	if len(commonName) > 64 {
		bad = append(bad, "its common name is longer than 64 characters")
	}
	if len(c.DNSNames)+len(c.EmailAddresses)+len(c.IPAddresses)+len(c.URIs) > 0 {
		bad = append(bad, "it has subject alternative names")
	}
	return bad
}

func printableName(s string) bool {
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune(":._-", r)) {
			return false
		}
	}
	return s != ""
}

func checkUse(c *x509.Certificate) []string {
	var bad []string
	if c.IsCA || c.MaxPathLen > 0 {
		bad = append(bad, "it is a CA certificate")
	}
	if c.KeyUsage != x509.KeyUsageDigitalSignature {
		bad = append(bad, "its key usage is not digitalSignature alone")
	}
	if len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || len(c.UnknownExtKeyUsage) > 0 {
		bad = append(bad, "its extended key usage is not clientAuth alone")
	}
	seen := map[string]bool{}
	for _, e := range c.Extensions {
		id := e.Id.String()
		if !slices.Contains(allowedExtensions, id) {
			bad = append(bad, "it has the unknown extension "+id)
		}
		if seen[id] {
			bad = append(bad, "it has the extension "+id+" twice")
		}
		seen[id] = true
	}
	switch c.SignatureAlgorithm {
	case x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS, x509.PureEd25519:
	default:
		bad = append(bad, "it is signed with "+c.SignatureAlgorithm.String())
	}
	if c.SerialNumber.Sign() <= 0 || c.SerialNumber.BitLen() < 64 {
		bad = append(bad, "its serial number is not a large positive one")
	}
	return bad
}

func checkTimes(c, issuer *x509.Certificate, in Intent) []string {
	var bad []string
	add := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	clock := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	// Vault begins a certificate Backdate before its own now. The clocks are judged by that.
	begin := c.NotBefore.Add(Backdate)
	if begin.Before(in.Asked.Add(-record.MaxSkew)) || begin.After(in.Now.Add(record.MaxSkew)) {
		add("the signer's clock and ours differ by more than %s (it begins %s, here it is %s): set both with NTP", record.MaxSkew,
			clock(c.NotBefore),
			clock(in.Now))
	}
	if c.NotAfter.After(in.Now.Add(in.TTL).Add(record.MaxSkew)) {
		add("it ends %s, later than the grant's %s from now", clock(c.NotAfter), in.TTL)
	}
	if life := c.NotAfter.Sub(c.NotBefore); life > in.TTL+Backdate+time.Second {
		add("it lives %s, ordered %s", life, in.TTL+Backdate)
	}
	if !in.Now.Before(c.NotAfter) {
		add("it has expired already (%s)", clock(c.NotAfter))
	}
	if c.NotAfter.After(issuer.NotAfter) {
		add("it outlives its issuer, which ends %s", clock(issuer.NotAfter))
	}
	return bad
}

// checkIssued compares a recorded certificate with the recorded intent: what verification does for every grant.
func (r *Request) checkIssued(ev Issued) error {
	c, err := x509.ParseCertificate(ev.Certificate)
	if err != nil {
		return fmt.Errorf("its certificate cannot be parsed")
	}
	bad := LintCertificate(c, r.Claimed.CommonName, r.Claimed.Group)
	if SPKI(c.RawSubjectPublicKeyInfo) != r.Claimed.SPKI {
		bad = append(bad, "it is for another key")
	}
	if life := c.NotAfter.Sub(c.NotBefore); life > time.Duration(r.Claimed.TTLSeconds)*time.Second+Backdate+time.Second {
		bad = append(bad, "it lives longer than claimed")
	}
	if Fingerprint(ev.Certificate) != ev.Fingerprint || Serial(c) != ev.Serial || !c.NotAfter.Equal(ev.NotAfter) ||
		!c.NotBefore.Equal(ev.NotBefore) {
		bad = append(bad, "the record does not describe its certificate")
	}
	if len(bad) > 0 {
		return fmt.Errorf("issued certificate: %s", strings.Join(bad, "; "))
	}
	return nil
}
