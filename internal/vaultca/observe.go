package vaultca

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/breakglassd/breakglass/internal/rotation"
	"github.com/breakglassd/breakglass/policies"
)

// ObserveVault looks at the cluster's mount for the checks of the CAs: every issuer, the roles, the default issuer, the clock, and
// whether a signature would be made now. It changes nothing. What it cannot see is in Unseen, each with its reason; then nothing
// that depends on it may be called good.
func (c *CA) ObserveVault(ctx context.Context, cluster string) rotation.Vault {
	m, _, err := c.mount(cluster, "")
	if err != nil {
		return rotation.Vault{Unseen: []rotation.Unseen{{Key: "vault", What: err.Error(),
			Next: "add the cluster's vault_mount to the configuration"}}}
	}
	v := rotation.Vault{Mount: m.Path, Pinned: m.pinned(), MaxTTL: m.MaxTTL}
	blind := func(key, what string, err error) {
		v.Unseen = append(v.Unseen, rotation.Unseen{Key: key, What: fmt.Sprintf("%s: %s", what, err),
			Next: "run breakglassd doctor: it looks closer"})
	}
	asked := time.Now()
	h, err := c.Health(ctx)
	if err != nil {
		blind("vault", "the break-glass CA in Vault", err)
		return v // everything else would say the same again
	}
	if !h.Standby { // a standby tells its own time
		// Vault tells whole seconds, rounded down: what can be explained by that is no skew.
		now := time.Now()
		switch late := h.ServerTime.Add(time.Second); {
		case late.Before(asked):
			v.Skew = late.Sub(asked)
		case h.ServerTime.After(now):
			v.Skew = h.ServerTime.Sub(now)
		}
	}
	s, err := c.token(ctx)
	if err != nil {
		blind("vault", "the break-glass CA in Vault", err)
		return v
	}
	if _, err := c.get(ctx, s.token, "auth/token/lookup-self"); denied(err) {
		if s, err = c.revived(ctx, s); err != nil {
			blind("vault", "the break-glass CA in Vault", err)
			return v
		}
	}
	ids, err := c.list(ctx, s, m.Path+"/issuers")
	if err != nil {
		blind("issuers", "which issuers "+m.Path+" has", err)
	}
	for _, id := range ids {
		i, err := c.observeIssuer(ctx, s, m, id)
		if err != nil {
			blind("issuer/"+id, "the issuer "+id+" of "+m.Path, err)
			continue
		}
		v.Issuers = append(v.Issuers, i)
	}
	for _, group := range append([]string{""}, m.Groups...) {
		role, err := policies.VaultRoleName(group)
		if err != nil {
			blind("role/"+group, "the role of "+group, err)
			continue
		}
		c.observeRole(ctx, s, m, role, &v, blind)
	}
	c.observeRole(ctx, s, m, policies.VaultCanaryRole, &v, blind)
	if a, err := c.get(ctx, s.token, m.Path+"/config/issuers"); err != nil {
		blind("default-issuer", "the default issuer of "+m.Path, err)
	} else {
		v.Default, v.FollowsLatest = a.text("default"), a.flag("default_follows_latest_issuer")
	}
	v.ReadyToSign = true
	for _, group := range append([]string{""}, m.Groups...) {
		if err := c.Check(ctx, cluster, group); err != nil {
			v.ReadyToSign, v.NotReadyReason = false, cmp.Or(v.NotReadyReason, err.Error())
		}
	}
	return v
}

func (c *CA) observeRole(ctx context.Context, s *session, m Mount, role string, v *rotation.Vault,
	blind func(key, what string, err error)) {
	a, err := c.get(ctx, s.token, m.Path+"/roles/"+role)
	if err != nil {
		blind("role/"+role, "the role "+role+" of "+m.Path, err)
		return
	}
	v.Roles = append(v.Roles, rotation.Role{Name: role, Issuer: a.text("issuer_ref")})
}

func (c *CA) observeIssuer(ctx context.Context, s *session, m Mount, id string) (rotation.Issuer, error) {
	a, err := c.get(ctx, s.token, m.Path+"/issuer/"+id)
	if err != nil {
		return rotation.Issuer{}, err
	}
	cert, err := oneCertificate(a.text("certificate"))
	if err != nil {
		return rotation.Issuer{}, err
	}
	out := rotation.Issuer{ID: id, Name: a.text("issuer_name"), Certificate: cert.Raw, Usage: a.list("usage"), Revoked: a.flag("revoked"),
		LeafNotAfter: a.text("leaf_not_after_behavior"), KeyID: a.text("key_id")}
	slices.Sort(out.Usage)
	for _, text := range a.pems("ca_chain") {
		link, err := oneCertificate(text)
		if err != nil {
			return rotation.Issuer{}, fmt.Errorf("its chain cannot be used: %w", err)
		}
		if !bytes.Equal(link.Raw, cert.Raw) {
			out.Chain = append(out.Chain, link.Raw)
		}
	}
	return out, nil
}
