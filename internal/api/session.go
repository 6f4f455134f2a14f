package api

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/record"
)

// Sessions makes the reports on what was done with grants.
type Sessions interface {
	// Report returns the report on a grant in one of the formats: the one whose digest the ledger has once the grant is examined,
	// and before that one from the audit events that there are now.
	Report(ctx context.Context, r *breakglass.Request, format string) ([]byte, error)
}

// The formats of a session report.
const (
	FormatJSON = "json" // for an examined grant the very bytes whose digest the ledger has
	FormatText = "text"
	FormatHTML = "html" // one file, without scripts
)

// Importer takes files of audit events.
type Importer interface {
	// Import reads a file as a stream and keeps what is about our certificates. What was kept before an error stays.
	Import(ctx context.Context, cluster, by string, file io.Reader) (ImportResult, error)
}

// ImportResult is what became of a file of audit events.
type ImportResult struct {
	Meta
	Events     int    `json:"events"`     // in it that could be read
	Kept       int    `json:"kept"`       // of our certificates, and new
	Duplicates int    `json:"duplicates"` // of our certificates, and known before
	Dropped    int    `json:"dropped"`    // of our certificates, and beyond what is kept
	Unreadable int    `json:"unreadable"`
	Digest     string `json:"digest"` // hex SHA-256 of the file
}

// Finding is an open finding.
type Finding struct {
	finding.Opened
	Since       time.Time `json:"since"`
	LedgerIndex int64     `json:"ledgerIndex"` // of the last entry about it
}

// Findings lists the open findings, the gravest first.
type Findings struct {
	Meta
	Items []Finding `json:"items"`
}

// Settle says what came of looking into findings.
type Settle struct {
	Key  string `json:"key"`  // of one, or, with a slash at its end, what the keys of all of them begin with
	Seen int64  `json:"seen"` // the greatest ledgerIndex of the findings that were shown: later ones stay open
	Note string `json:"note"`
}

// Settled is how many findings a person has settled.
type Settled struct {
	Meta
	Findings int `json:"findings"`
}

// The bounds of an import.
const (
	maxImport     = 64 << 30 // bytes of a file
	importTime    = 2 * time.Hour
	importsAtOnce = 1 // imports at one time: each keeps a disk and a processor busy
)

// document is an answer that is neither JSON nor plain text.
type document struct {
	media string
	body  []byte
}

func noSessions() error {
	return newError(record.ClassUnavailable, "no-sessions", "give the daemon a place for them (sessions.path in its configuration)",
		"this daemon keeps no sessions")
}

func (s *server) session(c *call) (any, error) {
	format := c.FormValue("format")
	media, ok := map[string]string{"": "application/json", FormatJSON: "application/json", FormatText: "text/plain; charset=utf-8",
		FormatHTML: "text/html; charset=utf-8"}[format]
	if !ok {
		return nil, newError(record.ClassInvalid, "format", "", "the formats are %s, %s and %s", FormatJSON, FormatText, FormatHTML)
	}
	r, err := s.cfg.Service.Get(c.Context(), c.PathValue("id"))
	if err != nil {
		return nil, err
	}
	if s.cfg.Sessions == nil {
		return nil, noSessions()
	}
	if r.Issued == nil {
		return nil, newError(record.ClassConflict, "not-issued", "", "%s gave no certificate: there is no session", r.ID)
	}
	if format == "" {
		format = FormatJSON
	}
	body, err := s.cfg.Sessions.Report(c.Context(), r, format)
	if err != nil {
		return nil, fmt.Errorf("reporting the session of %s: %w", r.ID, err)
	}
	return document{media, body}, nil
}

func (s *server) findings(*call) (any, error) {
	out := Findings{Meta: kind("Findings"), Items: []Finding{}}
	for _, f := range s.cfg.Service.Findings.Open() {
		out.Items = append(out.Items, Finding{Opened: f.Opened, Since: f.Since, LedgerIndex: f.Seq})
	}
	return out, nil
}

func (s *server) settle(c *call) (any, error) {
	in, err := decode[Settle](c)
	if err != nil {
		return nil, err
	}
	n, err := s.cfg.Service.Findings.SettleByHand(c.Context(), c.actor, in.Key, in.Seen, in.Note)
	if err != nil {
		return nil, err
	}
	return Settled{Meta: kind("Settled"), Findings: n}, nil
}

func (s *server) importAudit(c *call) (any, error) {
	cluster := c.PathValue("cluster")
	if err := s.cfg.Service.MayImport(c.Context(), c.actor, cluster); err != nil {
		return nil, err
	}
	if s.cfg.Importer == nil {
		return nil, noSessions()
	}
	select {
	case s.imports <- struct{}{}:
		defer func() { <-s.imports }()
	default:
		return nil, newError(record.ClassUnavailable, "importing", "wait until it is done", "another file is being imported")
	}
	rc := http.NewResponseController(c.w)
	deadline := time.Now().Add(importTime)
	if err := rc.SetReadDeadline(deadline); err != nil {
		return nil, fmt.Errorf("making time for an import: %w", err)
	}
	if err := rc.SetWriteDeadline(deadline.Add(time.Minute)); err != nil {
		return nil, fmt.Errorf("making time for an import: %w", err)
	}
	res, err := s.cfg.Importer.Import(c.Context(), cluster, c.actor.Person, http.MaxBytesReader(c.w, c.Body, maxImport))
	if err != nil {
		if c.Context().Err() != nil {
			return nil, err
		}
		s.cfg.Log.WarnContext(c.Context(), "an import of audit events ended early", slog.String("cluster", cluster), slog.Any("error", err))
		return nil, newError(record.ClassInvalid, "import", "what was read is kept; send the whole file again, and nothing is kept twice",
			"the file could not be read to its end after %d events", res.Events)
	}
	if res.Events == 0 {
		return nil, newError(record.ClassInvalid, "import", "hand in the file of kube-apiserver's --audit-log-path, or EventLists of "+
			"audit.k8s.io/v1, plain or gzip", "there is no audit event in the file (%d unreadable lines)", res.Unreadable)
	}
	if err := s.cfg.Service.Imported(c.Context(), breakglass.AuditImported{By: c.actor, Cluster: cluster, Digest: res.Digest,
		Events: res.Events, Kept: res.Kept}); err != nil {
		return nil, err
	}
	res.Meta = kind("AuditImport")
	return res, nil
}

// Report returns the report on what was done with a grant, in one of the formats.
func (c *Client) Report(ctx context.Context, id, format string) ([]byte, error) {
	var out string
	err := c.call(ctx, claimTime, http.MethodGet, requestPath(id, "session")+"?format="+url.QueryEscape(format), nil, &out)
	return []byte(out), err
}

// Findings lists the open findings.
func (c *Client) Findings(ctx context.Context) (Findings, error) {
	return ask[Findings](ctx, c, http.MethodGet, "/v1/findings", nil)
}

// Settle records what came of looking into findings: the one of that key, or all whose keys begin so if it ends with a slash, up to
// the ledger index seen. It returns how many there were.
func (c *Client) Settle(ctx context.Context, key string, seen int64, note string) (int, error) {
	out, err := ask[Settled](ctx, c, http.MethodPost, "/v1/findings/settle", Settle{Key: key, Seen: seen, Note: note})
	return out.Findings, err
}

// Import hands in a file of audit events of a cluster. It reads file once.
func (c *Client) Import(ctx context.Context, cluster string, file io.Reader) (ImportResult, error) {
	if _, err := c.Whoami(ctx); err != nil { // so that a sign-in that has ended is noticed before the file is read
		return ImportResult{}, err
	}
	var out ImportResult
	err := c.send(ctx, importTime, http.MethodPost, "/v1/clusters/"+url.PathEscape(cluster)+"/audit", c.SignedIn.Token, upload{file}, &out)
	return out, err
}

// upload is a body that is sent as it is.
type upload struct{ io.Reader }
