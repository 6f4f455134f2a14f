package vaultca

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/checkup"
	"github.com/breakglassd/breakglass/internal/text"
	"github.com/breakglassd/breakglass/policies"
)

// Doctor looks at everything that Check does and at what Check has no time for. It changes nothing in Vault. Lines come in a fixed
// order; a check that passed is a line of level checkup.OK.
func (c *CA) Doctor(ctx context.Context) []checkup.Line {
	d := &doctor{c: c}
	h, err := c.Health(ctx)
	if err != nil {
		d.add(checkup.Error, "vault-health", c.cfg.Address, err.Error())
		return d.out // everything else would say the same again
	}
	d.add(checkup.OK, "vault-health", c.cfg.Address, fmt.Sprintf("%s %s is up", h.Product, h.Version))
	for _, w := range h.Warnings {
		d.add(checkup.Warn, "vault-health", c.cfg.Address, w)
	}
	for _, file := range []string{c.cfg.Auth.SecretIDFile, c.cfg.Auth.TokenFile} {
		if info, err := os.Stat(file); err == nil && info.Mode().Perm()&0o007 != 0 {
			d.add(checkup.Warn, "secret-file", file, "everybody on this machine can read it: chmod 0400 "+file)
		}
	}
	s, err := c.token(ctx)
	if err != nil {
		d.add(checkup.Error, "vault-login", c.cfg.Address, err.Error())
		return d.out
	}
	// Token, policy and clock are the same for all mounts. What cannot be read is said by each role.
	d.common, d.unread = c.common(ctx, s, c.read)
	if d.unread == nil {
		if gone := c.policyVerdict(d.common.policy).missing[""]; len(gone) > 0 {
			d.add(checkup.Warn, "vault-policy", c.cfg.Policy, "the policy lacks what ships for the token itself ("+few(gone)+
				"): run deploy/vault/setup.sh again")
		}
	}
	for _, m := range c.cfg.Mounts {
		d.mount(ctx, s, m)
	}
	d.privileges(ctx, s)
	return d.out
}

type doctor struct {
	c      *CA
	common common
	unread error    // why common is not known
	closed []string // mounts on which the token may do nothing at all
	out    []checkup.Line
}

func (d *doctor) add(level checkup.Level, code, subject, text string) {
	d.out = append(d.out, checkup.Line{Level: level, Code: code, Subject: subject, Text: text})
}

// nothing reports whether Vault denies the token everything that is needed on a mount. One cause, one finding.
func (d *doctor) nothing(ctx context.Context, s *session, m Mount) bool {
	a, err := d.c.call(ctx, d.c.read, d.c.cfg.Timeout, s.token, http.MethodPost, "sys/capabilities-self",
		map[string]any{"paths": []string{m.Path + "/certs", m.Path + "/issuers", m.Path + "/roles/breakglass", m.Path + "/sign/breakglass",
			m.Path + "/config/issuers"}})
	if err != nil {
		return false
	}
	for path := range a.Data {
		if strings.HasPrefix(path, m.Path+"/") && !slices.Equal(a.list(path), []string{"deny"}) {
			return false
		}
	}
	return true
}

func (d *doctor) mount(ctx context.Context, s *session, m Mount) {
	if d.nothing(ctx, s, m) {
		d.closed = append(d.closed, m.Path)
		d.add(checkup.Error, "vault-mount", m.Path, fmt.Sprintf("the token may do nothing at all on %s (cluster %s): is that the mount's name? "+
			"If it is, run deploy/vault/setup.sh with it and all other mounts", m.Path, m.Cluster))
		return
	}
	ours := []string{policies.VaultCanaryRole}
	for _, group := range append([]string{""}, m.Groups...) {
		role, _ := policies.VaultRoleName(group) // Open has checked the groups
		ours = append(ours, role)
		subject := m.Path + "/roles/" + role
		now := snapshot{common: d.common}
		err := d.unread
		if err == nil {
			now.issuers = d.c.pinnedNow(ctx, s, m)
			now.role, err = d.c.must(ctx, s, m.Path+"/roles/"+role)
		}
		if err == nil {
			err = now.issuerError(m)
		}
		if err != nil {
			d.add(checkup.Error, "vault-drift", subject, err.Error())
			continue
		}
		drift, err := d.c.drift(now, m, group)
		if err != nil {
			drift = []string{err.Error()}
		}
		for _, text := range drift {
			d.add(checkup.Error, "vault-drift", subject, text)
		}
		if len(drift) == 0 {
			d.add(checkup.OK, "vault-drift", subject, "role, issuer, token and policy are what shipped")
		}
		if _, unknown, _ := roleDrift(now.role.Data, group, m); len(unknown) > 0 {
			d.add(checkup.Warn, "vault-role-fields", subject, fmt.Sprintf("this Vault has role fields that this release does not compare (%s): "+
				"update breakglassd",
				strings.Join(unknown, ", ")))
		}
	}
	if err := d.c.checkCanary(ctx, s, m); err != nil {
		d.add(checkup.Error, "vault-drift", m.Path+"/roles/"+policies.VaultCanaryRole, err.Error())
	} else {
		d.add(checkup.OK, "vault-drift", m.Path+"/roles/"+policies.VaultCanaryRole, "the role of the canary is what shipped")
	}
	if roles, err := d.c.list(ctx, s, m.Path+"/roles"); err != nil {
		d.add(checkup.Warn, "vault-roles", m.Path, err.Error())
	} else if extra := slices.DeleteFunc(roles, func(r string) bool { return slices.Contains(ours, r) }); len(extra) > 0 {
		d.add(checkup.Warn, "vault-roles", m.Path, fmt.Sprintf("the mount has roles that no profile uses (%s): whoever may use them can make "+
			"certificates that the clusters trust; delete them",
			strings.Join(clean(extra), ", ")))
	}
	d.issuer(ctx, m)
	d.read(ctx, s, m.Path+"/config/acme", func(a *answer) {
		if a.flag("enabled") {
			d.add(checkup.Error, "vault-acme", m.Path, "ACME is enabled, which is a second door to the CA: "+
				text.Command("vault write", nil, m.Path+"/config/acme", "enabled=false"))
		}
	})
	d.read(ctx, s, m.Path+"/config/issuers", func(a *answer) {
		if a.flag("default_follows_latest_issuer") {
			d.add(checkup.Warn, "vault-default-issuer", m.Path, "the default issuer follows the latest one: "+
				text.Command("vault write", nil, m.Path+"/config/issuers", "default="+m.IssuerID, "default_follows_latest_issuer=false"))
		}
	})
	d.read(ctx, s, m.Path+"/config/auto-tidy", func(a *answer) {
		if !a.flag("enabled") || !a.flag("tidy_cert_store") {
			d.add(checkup.Warn, "vault-tidy", m.Path, "certificates that have ended are kept for ever, and every start of the daemon reads all of "+
				"them: run deploy/vault/setup.sh again, which switches "+
				"tidy on")
		} else if a.seconds("safety_buffer") < minSafetyBuffer {
			d.add(checkup.Warn, "vault-tidy", m.Path, fmt.Sprintf("tidy removes certificates %s after they end, before they can be compared with "+
				"the "+
				"ledger: %s",
				a.seconds("safety_buffer"), text.Command("vault write", nil, m.Path+"/config/auto-tidy", "safety_buffer=72h")))
		}
	})
}

// minSafetyBuffer is Vault's own default, and a long weekend: how long expired certificates stay to be found.
const minSafetyBuffer = 72 * time.Hour

func (d *doctor) read(ctx context.Context, s *session, path string, judge func(*answer)) {
	a, err := d.c.get(ctx, s.token, path)
	if err != nil {
		d.add(checkup.Warn, "vault-unread", path, "it could not be checked: "+err.Error())
		return
	}
	judge(a)
}

func (d *doctor) issuer(ctx context.Context, m Mount) {
	cert, err := d.c.Issuer(ctx, m.Cluster)
	if err != nil {
		d.add(checkup.Error, "vault-issuer", m.Path, err.Error())
		return
	}
	left := time.Until(cert.NotAfter)
	level, text := checkup.OK, fmt.Sprintf("issuer %q is valid for %d days", cert.Subject.CommonName, int(left.Hours()/24))
	if left < issuerNotice {
		level, text = checkup.Warn, text+": prepare the next one (breakglass ca plan)"
	}
	d.add(level, "vault-issuer", m.Path, text)
	if !cert.MaxPathLenZero || cert.MaxPathLen != 0 {
		d.add(checkup.Warn, "vault-issuer-path", m.Path, "the issuer may sign CAs below itself (no path length of 0), so one call by a Vault "+
			"administrator makes a CA that clusters trust: replace it by one from setup.sh")
	}
}

// issuerNotice is how long before an issuer's end Doctor begins to warn: time for a rotation that restarts API servers.
const issuerNotice = 90 * 24 * time.Hour

// privileges proves that the token can do what it must and nothing else that matters.
func (d *doctor) privileges(ctx context.Context, s *session) {
	want := map[string]string{"auth/token/lookup-self": "read", "auth/token/renew-self": "update", "sys/policies/acl/" +
		d.c.cfg.Policy: "read"}
	var mayNot []string
	for _, m := range d.c.cfg.Mounts {
		if slices.Contains(d.closed, m.Path) {
			continue
		}
		want[m.Path+"/certs"], want[m.Path+"/issuers"], want[m.Path+"/roles/"+policies.VaultCanaryRole] = "list", "list", "read"
		for _, group := range append([]string{""}, m.Groups...) {
			role, _ := policies.VaultRoleName(group)
			want[m.Path+"/sign/"+role], want[m.Path+"/roles/"+role] = "update", "read"
		}
		for _, id := range m.pinned() {
			want[m.Path+"/issuer/"+id+"/sign/"+policies.VaultCanaryRole] = "update"
			for _, path := range forbiddenPaths(m.Path, id) {
				if !slices.Contains(mayNot, path) {
					mayNot = append(mayNot, path)
				}
			}
		}
	}
	mayNot = append(mayNot, forbiddenEverywhere(d.c.cfg.Policy, d.c.cfg.Auth.Mount)...)
	paths := slices.Clone(mayNot)
	for path := range want {
		paths = append(paths, path)
	}
	a, err := d.c.call(ctx, d.c.read, d.c.cfg.Timeout, s.token, http.MethodPost, "sys/capabilities-self", map[string]any{"paths": paths})
	if err != nil {
		d.add(checkup.Error, "vault-capabilities", d.c.cfg.Policy, err.Error())
		return
	}
	slices.Sort(paths)
	bad := 0
	for _, path := range paths {
		expect, allowed := want[path]
		if !allowed {
			expect = "deny"
		}
		if got := a.list(path); !slices.Equal(got, []string{expect}) {
			bad++
			d.add(checkup.Error, "vault-capabilities", path, fmt.Sprintf("the token has %q there instead of %q: run deploy/vault/setup.sh again, "+
				"and "+
				"find out who changed it", got, expect))
		}
	}
	if bad == 0 {
		d.add(checkup.OK, "vault-capabilities", d.c.cfg.Policy, fmt.Sprintf("the token can do what it must, and none of %d other things",
			len(mayNot)))
	}
}

// forbiddenPaths are the other ways to a certificate, a key, or a change of the rules, on one mount.
func forbiddenPaths(mount, issuer string) []string {
	var out []string
	for _, p := range []string{
		"issue/breakglass", "issue/other", "sign/other", "sign-verbatim", "sign-verbatim/breakglass",
		"issuer/" + issuer + "/sign/breakglass", "issuer/" + issuer + "/issue/breakglass", "issuer/" + issuer + "/issue/breakglass-canary",
		"sign/breakglass-canary", "issue/breakglass-canary", "sign-verbatim/breakglass-canary",
		"issuer/" + issuer + "/sign-verbatim/breakglass-canary", "issuer/" + issuer + "/sign-verbatim",
		"issuer/" + issuer + "/sign-intermediate", "issuer/" + issuer + "/sign-self-issued", "issuer/" + issuer + "/sign-revocation-list",
		"issuer/" + issuer + "/revoke",
		"root", "root/generate/internal", "root/generate/exported", "root/rotate/internal", "root/replace", "root/sign-intermediate",
		"root/sign-self-issued",
		"intermediate/generate/internal", "intermediate/set-signed", "intermediate/cross-sign",
		"issuers/generate/root/internal", "issuers/import/bundle", "config/ca", "config/keys", "config/urls", "config/crl", "config/cluster",
		"keys", "keys/generate/internal", "keys/import", "key/default",
		"roles/other", "cel/roles/other", "cel/sign/other", "cel/issue/other",
		"revoke", "revoke-with-key", "tidy", "tidy-cancel", "crl/rotate", "acme/new-account", "roles/breakglass/acme/new-account",
	} {
		out = append(out, mount+"/"+p)
	}
	return out
}

// forbiddenEverywhere are the ways to more rights.
func forbiddenEverywhere(policy, approle string) []string {
	return []string{
		"sys/policies/acl/other", "sys/policy/" + policy, "sys/mounts", "sys/mounts/other", "sys/remount", "sys/auth", "sys/auth/other",
		"sys/audit", "sys/audit/other",
		"sys/seal", "sys/step-down", "sys/raw/core", "sys/rekey/init", "sys/generate-root/attempt", "sys/plugins/catalog",
		"sys/quotas/rate-limit/other",
		"sys/leases/lookup", "sys/wrapping/wrap", "sys/tools/random", "auth/token/create", "auth/token/create-orphan", "auth/token/lookup",
		"auth/token/accessors",
		"auth/" + approle + "/role/breakglassd", "auth/" + approle + "/role/breakglassd/secret-id",
		"auth/" + approle + "/role/breakglassd/role-id",
		"identity/entity", "cubbyhole/x", "secret/data/x", "transit/keys/x",
	}
}
