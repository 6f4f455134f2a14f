package main

import (
	"context"
	"io"
	"log/slog"

	"github.com/breakglassd/breakglass/cmd/breakglassd/config"
	"github.com/breakglassd/breakglass/internal/aftercare"
	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/session"
	"github.com/breakglassd/breakglass/internal/session/store"
)

// sessions knows what was done with grants, and speaks the API's words. It is an api.Sessions and an api.Importer.
type sessions struct {
	*aftercare.Examiner
	store *store.Store
}

// The room for audit events of issued certificates: in all, shared evenly by the clusters, and the least that a cluster has.
const (
	sessionsBytes   = 2 << 30
	minClusterBytes = 256 << 20
)

// openSessions opens the database of sessions.
func openSessions(ctx context.Context, cfg *config.Config, clusters *cluster.Clusters, m *metrics, log *slog.Logger) (*sessions, error) {
	if err := makeParent("sessions.path", cfg.Sessions.Path); err != nil {
		return nil, err
	}
	st, err := store.Open(ctx, cfg.Sessions.Path, store.Limits{Bytes: max(sessionsBytes/int64(max(1, len(cfg.Clusters))), minClusterBytes)})
	if err != nil {
		return nil, err
	}
	a := aftercare.Config{Store: st, Path: cfg.Sessions.Path, Keep: cfg.Sessions.Keep, Cluster: clusters, Alive: m.heard, Log: log}
	for _, c := range cfg.Clusters {
		if c.HasWebhook() {
			a.Audited = append(a.Audited, c.ID)
		}
	}
	s := &sessions{Examiner: aftercare.New(a), store: st}
	m.watchIntake(s.Intake().Figures)
	return s, nil
}

// Report implements api.Sessions.
func (s *sessions) Report(ctx context.Context, r *breakglass.Request, format string) ([]byte, error) {
	switch format {
	case api.FormatText:
		return s.Examiner.Report(ctx, r, session.Session.WriteText)
	case api.FormatHTML:
		return s.Examiner.Report(ctx, r, session.Session.WriteHTML)
	}
	return s.Examiner.Report(ctx, r, nil)
}

// Import implements api.Importer.
func (s *sessions) Import(ctx context.Context, clusterID, by string, body io.Reader) (api.ImportResult, error) {
	res, err := s.Intake().Import(ctx, clusterID, by, body)
	return api.ImportResult{Events: res.Events, Kept: res.Kept, Duplicates: res.Duplicates, Dropped: res.Dropped, Unreadable: res.Unreadable,
		Digest: res.Digest}, err
}
