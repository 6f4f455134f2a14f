package vaultca

import (
	"context"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/rotation"
	"github.com/breakglassd/breakglass/policies"
)

// SignCanary has one canary signed by the issuer that it names, with one signing call. It first proves that the canary's role
// and the daemon's policy are what shipped. What comes back is compared with the order, so that a certificate that is returned
// is a canary and nothing else. An error that wraps breakglass.ErrNotSigned guarantees that no certificate exists.
func (c *CA) SignCanary(ctx context.Context, o rotation.Canary) (breakglass.Signed, error) {
	m, _, err := c.mount(o.Cluster, "")
	if err == nil && (!strings.HasPrefix(o.CommonName, rotation.CanaryPrefix) || o.TTL != policies.VaultCanaryTTL) {
		err = fmt.Errorf("a canary is named %s… and lives %s", rotation.CanaryPrefix, policies.VaultCanaryTTL)
	}
	if err != nil {
		return breakglass.Signed{}, notSigned(err)
	}
	s, err := c.token(ctx)
	if err != nil {
		return breakglass.Signed{}, notSigned(err)
	}
	if err := c.checkCanary(ctx, s, m); err != nil {
		return breakglass.Signed{}, notSigned(err)
	}
	issuer, err := c.issuer(ctx, m, o.Issuer)
	if err != nil {
		return breakglass.Signed{}, notSigned(err)
	}
	asked := time.Now()
	signed, err := c.order(ctx, s, m.Path, "/issuer/"+o.Issuer+"/sign/"+policies.VaultCanaryRole,
		breakglass.Order{Request: o.CommonName, Cluster: o.Cluster, CommonName: o.CommonName, CSR: o.CSR, TTL: o.TTL},
		[]*x509.Certificate{issuer})
	if err != nil {
		return breakglass.Signed{}, err
	}
	if bad := breakglass.CheckCertificate(signed, breakglass.Intent{CommonName: o.CommonName, SPKI: o.SPKI, TTL: o.TTL, Issuer: issuer.Raw,
		Now: time.Now(), Asked: asked}); len(bad) > 0 {
		return breakglass.Signed{}, fmt.Errorf("Vault signed something else than the canary: %s; find out who changed it",
			strings.Join(bad, "; "))
	}
	return signed, nil
}

// checkCanary proves that the role of the canary and the daemon's policy are what shipped.
func (c *CA) checkCanary(ctx context.Context, s *session, m Mount) error {
	now, err := c.snapshot(ctx, s, m, policies.VaultCanaryRole)
	if err != nil {
		return err
	}
	text, err := policies.VaultCanary(roleIssuer(now.role.Data, m))
	if err != nil {
		return err
	}
	bad, _, err := fieldDrift(now.role.Data, text)
	if err != nil {
		return err
	}
	if bad = append(bad, c.policyVerdict(now.policy).against(m.Path)...); len(bad) > 0 {
		return fmt.Errorf("Vault would not sign a canary under what shipped: %s; find out who changed it, then run deploy/vault/setup.sh again",
			strings.Join(bad, "; "))
	}
	return nil
}
