package vaultca

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/breakglassd/breakglass/internal/breakglass"
)

// findWorkers is how many certificates are read at a time. Vault on two cores is busy with about this many.
const findWorkers = 8

// names remembers the common names of one mount's certificates, because Vault can list only serial numbers and knows no
// order. A certificate never changes, so each is read once in the life of the process.
type names struct {
	mu       sync.Mutex // held for map access only
	bySerial map[string]string
}

// Find returns every certificate on the cluster's mount with this common name. The first call reads all certificates there
// are, later ones only what is new; what a call that ran out of time has read is kept for the next one.
func (c *CA) Find(ctx context.Context, cluster, commonName string) ([]*x509.Certificate, error) {
	m, _, err := c.mount(cluster, "")
	if err != nil {
		return nil, err
	}
	v, _ := c.seen.LoadOrStore(m.Path, &names{bySerial: map[string]string{}})
	cache := v.(*names)
	var found []*x509.Certificate
	err = c.Scan(ctx, cluster, func(serial string) bool {
		cache.mu.Lock()
		defer cache.mu.Unlock()
		name, known := cache.bySerial[serial]
		return !known || name == commonName
	}, func(cert *x509.Certificate) {
		cache.mu.Lock()
		defer cache.mu.Unlock()
		cache.bySerial[breakglass.Serial(cert)] = cert.Subject.CommonName
		if cert.Subject.CommonName == commonName {
			found = append(found, cert)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("looking for the certificate of %s in Vault: %w", commonName, err)
	}
	return found, nil
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
			a, err := c.get(gctx, s.token, m.Path+"/cert/"+serial)
			if absent(err) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("reading certificate %s of %s: %w", serial, m.Path, err)
			}
			cert, err := oneCertificate(a.text("certificate"))
			if err != nil {
				return fmt.Errorf("reading certificate %s of %s: %w", serial, m.Path, err)
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
