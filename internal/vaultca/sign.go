package vaultca

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/breakglassd/breakglass/internal/breakglass"
)

// Sign makes at most one signing call. See breakglass.Signer, and the package comment for how errors are sorted.
func (c *CA) Sign(ctx context.Context, o breakglass.Order) (breakglass.Signed, error) {
	m, role, err := c.mount(o.Cluster, o.Group)
	if err == nil && (o.TTL < time.Second || o.TTL%time.Second != 0 || o.TTL > m.MaxTTL) {
		err = fmt.Errorf("a lifetime of %s is not possible: it must be whole seconds and at most %s", o.TTL, m.MaxTTL)
	}
	if err != nil {
		return breakglass.Signed{}, notSigned(err)
	}
	s, err := c.token(ctx)
	if err != nil {
		return breakglass.Signed{}, notSignedNow(err)
	}
	issuers, err := c.pinnedIssuers(ctx, m)
	if err != nil {
		return breakglass.Signed{}, notSignedNow(err)
	}
	return c.order(ctx, s, m.Path, "/sign/"+role, o, issuers)
}

// order makes the one signing call, and remembers what was signed, so that Find need not read it. The answer is said to be from the
// one of the issuers that it names, and if it names none of them from the first. Whether that one really signed it is for
// [breakglass.CheckCertificate] to verify, once.
func (c *CA) order(ctx context.Context, s *session, mount, path string, o breakglass.Order,
	issuers []*x509.Certificate) (breakglass.Signed, error) {
	req := c.sign.NewRequest(http.MethodPost, "/v1/"+mount+path)
	req.ClientToken = s.token
	// Vault's audit log hides what is in the body; a header can be shown (sys/config/auditing/request-headers).
	req.Headers.Set("X-Breakglass-Request", o.Request)
	a, err := c.do(ctx, c.sign, c.cfg.SignTimeout, req, map[string]any{
		"csr":                  string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: o.CSR})),
		"common_name":          o.CommonName,
		"ttl":                  strconv.FormatInt(int64(o.TTL/time.Second), 10),
		"exclude_cn_from_sans": true,
		"format":               "pem",
	})
	if err != nil {
		if denied(err) {
			select {
			case c.kick <- struct{}{}: // let Run find out whether the token is still good
			default:
			}
		}
		err = fmt.Errorf("asking Vault for the certificate of request %s: %w", o.Request, err)
		switch outcome(err) {
		case never:
			err = notSigned(err)
		case notNow:
			err = notSignedNow(err)
		case unknown:
		}
		return breakglass.Signed{}, err
	}
	signed, err := parseSigned(a)
	if err != nil {
		return breakglass.Signed{}, fmt.Errorf("Vault signed for request %s, but %w", o.Request, err)
	}
	signed.Issuer = issuers[0].Raw
	if leaf, err := x509.ParseCertificate(signed.Certificate); err == nil {
		c.names(mount).add(leaf)
		for _, issuer := range issuers {
			if bytes.Equal(leaf.RawIssuer, issuer.RawSubject) && bytes.Equal(leaf.AuthorityKeyId, issuer.SubjectKeyId) {
				signed.Issuer = issuer.Raw
				break
			}
		}
	}
	return signed, nil
}

func notSigned(err error) error { return fmt.Errorf("%w: %w", breakglass.ErrNotSigned, err) }

func notSignedNow(err error) error { return fmt.Errorf("%w: %w", breakglass.ErrNotSignedNow, err) }

// fate is what can have come of a signing call that failed.
type fate int

const (
	unknown fate = iota // a certificate may exist
	never               // none exists, and the same order would be refused again
	notNow              // none exists, and the same order may be answered otherwise later
)

// outcome decides what a failed signing call can have left. It is sure only when Vault itself refused, with a status and in a
// form that it uses before it signs, or when nothing ever reached it.
func outcome(err error) fate {
	var e *callError
	switch {
	case !errors.As(err, &e):
		return unknown
	case !e.sent:
		return notNow
	case len(e.said) == 0: // not Vault's words: a proxy may have replaced an answer that was good
		return unknown
	}
	switch e.status {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusRequestEntityTooLarge:
		return never
	case http.StatusTooManyRequests, 472, 473:
		return notNow
	case http.StatusServiceUnavailable:
		if slices.Equal(e.said, []string{sealed}) {
			return notNow
		}
	}
	return unknown // 500: also said when signing went well and the audit log of the answer did not
}

// parseSigned takes an answer apart. Every oddity is an error, because something was signed that nobody ordered.
func parseSigned(a *answer) (breakglass.Signed, error) {
	if len(a.Warnings) > 0 {
		return breakglass.Signed{}, fmt.Errorf("with a warning, so that the certificate is not what was ordered: %v", clean(a.Warnings))
	}
	leaf, err := oneCertificate(a.text("certificate"))
	if err != nil {
		return breakglass.Signed{}, fmt.Errorf("what came back cannot be used: %w", err)
	}
	signed := breakglass.Signed{Certificate: leaf.Raw}
	for _, text := range a.pems("ca_chain") {
		link, err := oneCertificate(text)
		if err != nil {
			return breakglass.Signed{}, fmt.Errorf("the chain that came back cannot be used: %w", err)
		}
		if !bytes.Equal(link.RawSubject, link.RawIssuer) { // a root is trusted or not, but never sent along
			signed.Chain = append(signed.Chain, link.Raw)
		}
	}
	return signed, nil
}

// pems is a list of PEM texts. Unlike list it keeps what is no text, which then fails to parse.
func (a *answer) pems(field string) []string {
	items, _ := a.Data[field].([]any)
	out := make([]string, len(items))
	for i, it := range items {
		out[i], _ = it.(string)
	}
	return out
}

// oneCertificate parses exactly one certificate in PEM with nothing around it.
func oneCertificate(text string) (*x509.Certificate, error) {
	block, rest := pem.Decode([]byte(text))
	switch {
	case block == nil || block.Type != "CERTIFICATE" || len(block.Headers) > 0:
		return nil, errors.New("it is not a certificate in PEM")
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("something follows the certificate")
	case !bytes.HasPrefix(bytes.TrimSpace([]byte(text)), []byte("-----BEGIN CERTIFICATE-----")):
		return nil, errors.New("something precedes the certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, errors.New("it cannot be parsed as X.509")
	}
	return cert, nil
}
