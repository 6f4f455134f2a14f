package vaultca

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakglassd/breakglass/internal/breakglass"
)

// findWorkers is how many certificates are read at a time. Vault on two cores is busy with about this many.
const findWorkers = 8

// findTimeout is how long one reading of a mount may take: the first one after a start reads every certificate there is, some three
// thousand a second from a Vault on two cores. Each call to Vault has its own deadline besides.
const findTimeout = 5 * time.Minute

// names remembers the common names of one mount's certificates, because Vault can list only serial numbers and knows no
// order. A certificate never changes, so each is read once in the life of the process, and one that this process had signed never.
type names struct {
	mu     sync.Mutex          // held for map access only
	of     map[string]string   // serial number → common name
	byName map[string][]string // common name → serial numbers
}

func newNames() *names { return &names{of: map[string]string{}, byName: map[string][]string{}} }

// names are those of a mount.
func (c *CA) names(mount string) *names {
	if v, ok := c.seen.Load(mount); ok {
		return v.(*names)
	}
	v, _ := c.seen.LoadOrStore(mount, newNames())
	return v.(*names)
}

// unknown are those of the serial numbers that were not read yet.
func (n *names) unknown(listed [][]byte) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for _, serial := range listed {
		if _, known := n.of[string(serial)]; !known {
			out = append(out, string(serial))
		}
	}
	return out
}

func (n *names) add(cert *x509.Certificate) {
	n.mu.Lock()
	defer n.mu.Unlock()
	serial := breakglass.Serial(cert)
	if _, known := n.of[serial]; !known {
		name := strings.Clone(cert.Subject.CommonName)
		n.of[serial] = name
		n.byName[name] = append(n.byName[name], serial)
	}
}

// forget drops what is not listed any more when that is most of what is remembered. It may drop one that is newer than the list:
// that is read again.
func (n *names) forget(listed [][]byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.of) < 2*len(listed)+1000 {
		return
	}
	kept := newNames()
	for _, serial := range listed {
		if name, known := n.of[string(serial)]; known {
			kept.of[string(serial)] = name
			kept.byName[name] = append(kept.byName[name], string(serial))
		}
	}
	n.of, n.byName = kept.of, kept.byName
}

func (n *names) serials(commonName string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.byName[commonName])
}

// Find returns every certificate on the cluster's mount with this common name. Each call goes by a list that Vault made after it came:
// the list is the only index that Vault has, and so the only way to tell that nothing was signed, be it by the daemon whose ledger
// was restored here, by one that runs elsewhere on a copy of the ledger, or by a stranger. What it costs grows with what the mount
// holds, which Vault's tidy bounds. Of what is listed only the certificates that are new to this process are read; what a reading
// that failed has read is kept for the next one. Callers that come while others are being answered share the next reading. A
// caller that does not wait for the end gets an error, and the reading goes on.
func (c *CA) Find(ctx context.Context, cluster, commonName string) ([]*x509.Certificate, error) {
	found, err := c.find(ctx, cluster, commonName)
	if err != nil {
		return nil, fmt.Errorf("looking for the certificate of %s in Vault: %w", commonName, err)
	}
	return found, nil
}

func (c *CA) find(ctx context.Context, cluster, commonName string) ([]*x509.Certificate, error) {
	m, _, err := c.mount(cluster, "")
	if err != nil {
		return nil, err
	}
	known := c.names(m.Path)
	r := c.finds.join(m.Path, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), findTimeout) // of all callers, so of no single one
		defer cancel()
		return c.scan(ctx, m, known.unknown, func(*x509.Certificate) {})
	})
	select {
	case <-r.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if r.err != nil {
		return nil, r.err
	}
	s, err := c.token(ctx)
	if err != nil {
		return nil, err
	}
	var found []*x509.Certificate
	for _, serial := range known.serials(commonName) {
		cert, err := c.certificate(ctx, s, m.Path, serial)
		if err != nil {
			return nil, err
		}
		if cert != nil {
			found = append(found, cert)
		}
	}
	return found, nil
}

// certificate reads one certificate, nil if it is not there: tidy removes those that ended.
func (c *CA) certificate(ctx context.Context, s *session, mount, serial string) (*x509.Certificate, error) {
	a, err := c.get(ctx, s.token, mount+"/cert/"+serial)
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading certificate %s of %s: %w", serial, mount, err)
	}
	cert, err := oneCertificate(a.text("certificate"))
	if err != nil {
		return nil, fmt.Errorf("reading certificate %s of %s: %w", serial, mount, err)
	}
	return cert, nil
}

// Scan visits the certificates on the cluster's mount that want says yes to, given their serial numbers in the form of
// breakglass.Serial. Both functions must be safe for concurrent use. An error means that some were not visited; one that tidy
// removes meanwhile is none.
func (c *CA) Scan(ctx context.Context, cluster string, want func(serial string) bool, visit func(*x509.Certificate)) error {
	m, _, err := c.mount(cluster, "")
	if err != nil {
		return err
	}
	return c.scan(ctx, m, func(listed [][]byte) (out []string) {
		for _, b := range listed {
			if serial := string(b); want(serial) {
				out = append(out, serial)
			}
		}
		return out
	}, visit)
}

// scan visits the certificates that are chosen from the list of those that the mount holds now. What is read is remembered.
func (c *CA) scan(ctx context.Context, m Mount, choose func(listed [][]byte) []string, visit func(*x509.Certificate)) error {
	s, err := c.token(ctx)
	if err != nil {
		return err
	}
	listed, err := c.serials(ctx, s, m.Path+"/certs")
	if denied(err) {
		if s, err = c.revived(ctx, s); err != nil {
			return err
		}
		listed, err = c.serials(ctx, s, m.Path+"/certs")
	}
	if err != nil {
		return fmt.Errorf("listing the certificates of %s: %w", m.Path, err)
	}
	known := c.names(m.Path)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(findWorkers)
	for _, serial := range choose(listed) {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			cert, err := c.certificate(gctx, s, m.Path, serial)
			if cert == nil || err != nil {
				return err
			}
			known.add(cert)
			visit(cert)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	known.forget(listed)
	return ctx.Err()
}

// list is LIST, for which Vault answers 404 when there is nothing. An answer without a list is an error: taken for an empty
// list it would say that a certificate does not exist.
func (c *CA) list(ctx context.Context, s *session, path string) ([]string, error) {
	listed, err := c.serials(ctx, s, path)
	if err != nil || listed == nil {
		return nil, err
	}
	out := make([]string, len(listed))
	for i, key := range listed {
		out[i] = string(key)
	}
	return out, nil
}

// keys is the list of an answer to LIST.
func (a *answer) keys() ([]string, error) {
	items, ok := a.Data["keys"].([]any)
	keys := a.list("keys")
	if !ok || len(keys) != len(items) {
		return nil, errors.New("the answer of Vault holds no list")
	}
	return keys, nil
}

// serials is list for the certificates of a mount, of which there may be thousands. It reads a list of any words: ids of issuers look
// like serial numbers too.
func (c *CA) serials(ctx context.Context, s *session, path string) ([][]byte, error) {
	a, err := c.look(ctx, s.token, "LIST", path)
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	keys, err := a.keys()
	switch {
	case err != nil || a.serials == nil:
	case len(keys) > 0: // what was cut out is another list
		err = errors.New("the answer of Vault holds two lists")
	}
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		a.serials = append(a.serials, []byte(k))
	}
	return a.serials, nil
}

// cutSerials takes a list of serial numbers out of an answer to LIST, as Vault writes one, and leaves an empty list in its place. To
// decode ten thousand of them as JSON takes longer than everything else that is done for a claim here. An answer that looks
// different is left whole.
func cutSerials(body []byte) (rest []byte, serials [][]byte) {
	const before = `"keys":[`
	at := bytes.Index(body, []byte(before+`"`))
	if at < 0 {
		return body, nil
	}
	at += len(before)
	for left := body[at:]; ; {
		serial, after, ok := bytes.Cut(bytes.TrimPrefix(left, []byte{'"'}), []byte{'"'})
		switch {
		case !ok || left[0] != '"' || !isSerial(serial):
			return body, nil
		case bytes.HasPrefix(after, []byte{']'}):
			return slices.Concat(body[:at], after), append(serials, serial)
		case !bytes.HasPrefix(after, []byte{',', '"'}):
			return body, nil
		}
		serials, left = append(serials, serial), after[1:]
	}
}

// isSerial reports whether a word is like a serial number as Vault writes one: 1f:a0:2c.
func isSerial(word []byte) bool {
	for _, b := range word {
		if (b < '0' || b > '9') && (b < 'a' || b > 'f') && b != ':' && b != '-' {
			return false
		}
	}
	return len(word) > 0
}
