package vaultca

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

// Health is what Vault says about itself and our token. A usable Vault may still have warnings.
type Health struct {
	Status     int           // of sys/health
	Product    string        // Vault or OpenBao
	Version    string        // as Vault reports it; empty when it hides it
	Standby    bool          // this node forwards to the active one
	ServerTime time.Time     // Vault's clock, to the second
	TokenTTL   time.Duration // what is left of our token; 0: it does not end, or there is none yet
	Warnings   []string      // sentences with the next step
}

// maxClockDifference is when Health warns. A certificate is not believed beyond record.MaxSkew, so this comes earlier.
const maxClockDifference = 20 * time.Second

// healthQuery fixes the statuses: they can be chosen by the caller, and nobody in between shall choose ours.
func healthQuery() url.Values {
	return url.Values{"activecode": {"200"}, "standbycode": {"429"}, "drsecondarycode": {"472"}, "performancestandbycode": {"473"},
		"haunhealthycode": {"474"}, "uninitcode": {"501"}, "sealedcode": {"503"}, "removedcode": {"530"}}
}

// Health asks Vault how it is. The error says why it cannot be used now, and what to do.
func (c *CA) Health(ctx context.Context) (Health, error) { return c.health(ctx, c.read) }

func (c *CA) health(ctx context.Context, client *api.Client) (Health, error) {
	now := time.Now()
	var h Health
	if s := c.session.Load(); s != nil && !s.ends.IsZero() {
		h.TokenTTL = max(s.ends.Sub(now), 0)
		if h.TokenTTL < s.life/4 { // renewal begins at a third, so it has failed for a while
			h.Warnings = append(h.Warnings, fmt.Sprintf("the daemon's Vault token ends in %s and could not be renewed: see the log for the reason",
				h.TokenTTL.Round(time.Second)))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	req := client.NewRequest(http.MethodGet, "/v1/sys/health")
	req.Params = healthQuery()
	resp, err := client.WithNamespace("").RawRequestWithContext(ctx, req) // sys/health exists in the root namespace only
	if resp == nil {
		return h, &callError{why: c.unreachable(err, c.cfg.Timeout)}
	}
	defer resp.Body.Close()
	h.Status = resp.StatusCode
	var body struct {
		Version       string `json:"version"`
		Enterprise    *bool  `json:"enterprise"`
		ServerTimeUTC int64  `json:"server_time_utc"`
	}
	if err := decode(resp.Body, &body); err != nil || body.ServerTimeUTC == 0 {
		return h, fmt.Errorf("%s does not answer like Vault (status %d): check the address, and what stands between", c.cfg.Address, h.Status)
	}
	h.Version, h.ServerTime = strings.Join(clean([]string{body.Version}), ""), time.Unix(body.ServerTimeUTC, 0).UTC()
	h.Product = "Vault"
	if major, _, _ := strings.Cut(h.Version, "."); body.Enterprise == nil && major != "" && major != "0" && major != "1" {
		h.Product = "OpenBao" // its versions begin with 2.0.0, and every Vault of such a version says whether it is an enterprise's
	}
	usable, standby, sentence := healthOf(h.Status)
	if !usable {
		return h, errors.New(sentence)
	}
	h.Standby = standby
	if d := h.ServerTime.Sub(now).Abs(); d > maxClockDifference {
		h.Warnings = append(h.Warnings, fmt.Sprintf("Vault's clock and this one differ by %s: set both with NTP, or certificates will not be "+
			"believed", d.Round(time.Second)))
	}
	// In OpenBao the role forbids not_after, and Check compares that it does.
	if h.Product == "Vault" && h.Version != "" && !honoursMaxTTL(h.Version) {
		h.Warnings = append(h.Warnings, fmt.Sprintf("Vault %s lets a caller exceed a role's max_ttl with not_after (hashicorp/vault#29928), "+
			"and only the shipped policy "+
			"stands against it: update to 1.19.19, 1.20.13, 1.21.8, 2.0.3 or later", h.Version))
	}
	return h, nil
}

// healthOf says what a status of sys/health means.
func healthOf(status int) (usable, standby bool, sentence string) {
	switch status {
	case 200:
		return true, false, ""
	case 429, 473:
		return true, true, ""
	case 472:
		return false, false, "this Vault is a disaster-recovery secondary and serves nothing: use the primary's address, or promote it"
	case 474:
		return false, false, "this Vault is a standby that has lost its active node: look at the Vault cluster"
	case 501:
		return false, false, "this Vault is not initialised: initialise it (vault operator init), or correct the address"
	case 503:
		return false, false, "Vault is sealed: unseal it (vault operator unseal)"
	case 530:
		return false, false, "this Vault node was removed from its cluster: use another node's address"
	}
	return false, false, fmt.Sprintf("Vault's health is status %d, which is unknown: see Vault's log", status)
}

// honoursMaxTTL reports whether this version of Vault keeps a role's max_ttl whatever the caller sends.
func honoursMaxTTL(version string) bool {
	version, _, _ = strings.Cut(version, "+") // +ent
	version, pre, _ := strings.Cut(version, "-")
	var n [3]int
	for i, part := range strings.SplitN(version, ".", 3) {
		v, err := strconv.Atoi(part)
		if err != nil {
			return false
		}
		n[i] = v
	}
	fixed, listed := map[[2]int]int{{1, 19}: 19, {1, 20}: 13, {1, 21}: 8, {2, 0}: 3}[[2]int{n[0], n[1]}]
	if !listed {
		return n[0] > 2 || n[0] == 2 && n[1] > 0 || n[0] == 1 && n[1] > 21
	}
	return n[2] > fixed || n[2] == fixed && pre == ""
}
