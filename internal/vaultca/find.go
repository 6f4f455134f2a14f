package vaultca

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
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
// order. A certificate never changes, so each is read once in the life of the process.
type names struct {
	mu     sync.Mutex // held for map access only
	known  map[string]bool
	byName map[string][]string // serial numbers
}

func (n *names) knows(serial string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.known[serial]
}

func (n *names) add(cert *x509.Certificate) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if serial := breakglass.Serial(cert); !n.known[serial] {
		n.known[serial] = true
		n.byName[cert.Subject.CommonName] = append(n.byName[cert.Subject.CommonName], serial)
	}
}

func (n *names) serials(commonName string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.byName[commonName])
}

// Find returns every certificate on the cluster's mount with this common name. The first call reads all certificates there
// are, later ones only what is new; what a reading that failed has read is kept for the next one. Callers that come while others are
// being answered share the next reading, which begins after they came. A caller that does not wait for the end gets an error, and the
// reading goes on.
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
	v, _ := c.seen.LoadOrStore(m.Path, &names{known: map[string]bool{}, byName: map[string][]string{}})
	cache := v.(*names)
	r := c.finds.join(m.Path, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), findTimeout) // of all callers, so of no single one
		defer cancel()
		return c.Scan(ctx, cluster, func(serial string) bool { return !cache.knows(serial) }, cache.add)
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
	for _, serial := range cache.serials(commonName) {
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
	s, err := c.token(ctx)
	if err != nil {
		return err
	}
	serials, err := c.list(ctx, s, m.Path+"/certs")
	if denied(err) {
		if s, err = c.revived(ctx, s); err != nil {
			return err
		}
		serials, err = c.list(ctx, s, m.Path+"/certs")
	}
	if err != nil {
		return fmt.Errorf("listing the certificates of %s: %w", m.Path, err)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(findWorkers)
	for _, serial := range serials {
		if gctx.Err() != nil {
			break
		}
		if !want(serial) {
			continue
		}
		g.Go(func() error {
			cert, err := c.certificate(gctx, s, m.Path, serial)
			if cert == nil || err != nil {
				return err
			}
			visit(cert)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// list is LIST, for which Vault answers 404 when there is nothing. An answer without a list is an error: taken for an empty
// list it would say that a certificate does not exist.
func (c *CA) list(ctx context.Context, s *session, path string) ([]string, error) {
	a, err := c.look(ctx, s.token, "LIST", path)
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	items, ok := a.Data["keys"].([]any)
	keys := a.list("keys")
	if !ok || len(keys) != len(items) {
		return nil, errors.New("the answer of Vault holds no list")
	}
	return keys, nil
}
