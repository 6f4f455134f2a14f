package api

import (
	"context"
	"net/http"
	"net/url"

	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/rotation"
)

// Authorities checks the CAs of clusters.
type Authorities interface {
	// Status is what the last check found.
	Status(ctx context.Context, cluster string) (rotation.Report, error)
	// Check checks now, and records who ordered it.
	Check(ctx context.Context, by record.Actor, cluster string) (rotation.Report, error)
	// Plan checks now and says how to get to the next phase of a rotation; target is empty or the phase that is wanted.
	Plan(ctx context.Context, by record.Actor, cluster, target string) (rotation.Plan, error)
}

// CAReport is what a check of the CAs of a cluster found.
type CAReport struct {
	Meta
	rotation.Report
}

// CAPlan is the way to the next phase of a rotation.
type CAPlan struct {
	Meta
	rotation.Plan
}

func noAuthorities() error {
	return newError(record.ClassUnavailable, "no-ca-checks", "", "this daemon checks no CAs: only Vault can sign canaries")
}

func (s *server) caStatus(c *call) (any, error) {
	if s.cfg.Authorities == nil {
		return nil, noAuthorities()
	}
	r, err := s.cfg.Authorities.Status(c.Context(), c.PathValue("cluster"))
	return CAReport{kind("CAReport"), r}, err
}

func (s *server) caCheck(c *call) (any, error) {
	if s.cfg.Authorities == nil {
		return nil, noAuthorities()
	}
	r, err := s.cfg.Authorities.Check(c.Context(), c.actor, c.PathValue("cluster"))
	return CAReport{kind("CAReport"), r}, err
}

func (s *server) caPlan(c *call) (any, error) {
	if s.cfg.Authorities == nil {
		return nil, noAuthorities()
	}
	p, err := s.cfg.Authorities.Plan(c.Context(), c.actor, c.PathValue("cluster"), c.URL.Query().Get("target"))
	return CAPlan{kind("CAPlan"), p}, err
}

func caPath(cluster, what string) string {
	return "/v1/clusters/" + url.PathEscape(cluster) + "/ca" + what
}

// CAStatus returns what the last check of a cluster's CAs found.
func (c *Client) CAStatus(ctx context.Context, cluster string) (CAReport, error) {
	return work[CAReport](ctx, c, http.MethodGet, caPath(cluster, ""), nil)
}

// CACheck has a cluster's CAs checked now.
func (c *Client) CACheck(ctx context.Context, cluster string) (CAReport, error) {
	return work[CAReport](ctx, c, http.MethodPost, caPath(cluster, "/check"), Reason{})
}

// CAPlan has a cluster's CAs checked now and returns the way to the next phase, or to target.
func (c *Client) CAPlan(ctx context.Context, cluster, target string) (CAPlan, error) {
	return work[CAPlan](ctx, c, http.MethodPost, caPath(cluster, "/plan")+"?target="+url.QueryEscape(target), Reason{})
}
