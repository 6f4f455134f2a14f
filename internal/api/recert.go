package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/recert"
	"github.com/breakglassd/breakglass/internal/record"
)

// Campaign is a recertification campaign in short.
type Campaign struct {
	Meta
	ID        string        `json:"id"`
	Opened    time.Time     `json:"opened"`
	Deadline  time.Time     `json:"deadline"`
	Closed    *time.Time    `json:"closed,omitempty"`
	From      time.Time     `json:"from"`
	Until     time.Time     `json:"until"`
	Clusters  []string      `json:"clusters"`
	Reviewers []string      `json:"reviewers"`
	Counts    recert.Counts `json:"counts"`
	ForMe     int           `json:"forMe"`     // items that wait for the caller's answer
	Unsettled int           `json:"unsettled"` // escalated items that still need a decision
}

// UnmarshalJSON refuses a campaign whose id cannot be ours.
func (x *Campaign) UnmarshalJSON(b []byte) error {
	type plain Campaign
	if err := json.Unmarshal(b, (*plain)(x)); err != nil {
		return err
	}
	if !campaign.ValidID(x.ID) {
		return &BadIDError{fmt.Sprintf("%.40q is not a campaign", x.ID)}
	}
	return nil
}

// Campaigns is a list of campaigns, the oldest first.
type Campaigns struct {
	Meta
	Items []Campaign `json:"items"`
}

// CampaignItem is one item of a campaign, with what was said about it.
type CampaignItem struct {
	recert.Line
	ForMe bool `json:"forMe,omitempty"` // it waits for the caller's answer
}

// CampaignItems is a campaign with its items.
type CampaignItems struct {
	Meta
	Campaign Campaign       `json:"campaign"`
	Items    []CampaignItem `json:"items"`
}

// CampaignAnswer is a reviewer's answer on items, as they saw them.
type CampaignAnswer struct {
	Verdict campaign.Verdict  `json:"verdict"`
	Items   []campaign.Judged `json:"items"`
	Reason  string            `json:"reason,omitempty"`
}

// CampaignDone says that things were taken away, or, for reinstate, that one comes back.
type CampaignDone struct {
	Items []string `json:"items"`
	Note  string   `json:"note,omitempty"`
}

// CampaignBundle is an evidence bundle: a .tar.gz file.
type CampaignBundle struct {
	Meta
	ID   string `json:"id"`
	Data []byte `json:"data"`
}

// maxDecided is how many items one call can answer; what is more comes in more calls, so that the body stays within maxBody.
const maxDecided = 250

// recertRoutes are the routes of campaigns.
func (s *server) recertRoutes(person func(string, handler)) {
	if s.cfg.Recert == nil {
		return
	}
	person("GET /v1/recert", s.campaigns)
	person("POST /v1/recert", s.startCampaign)
	person("GET /v1/recert/{id}", s.campaign)
	person("GET /v1/recert/{id}/report", s.campaignReport)
	person("GET /v1/recert/{id}/bundle", s.campaignBundle)
	person("POST /v1/recert/{id}/decide", s.decideItems)
	person("POST /v1/recert/{id}/ack", s.acknowledgeItems)
	person("POST /v1/recert/{id}/reinstate", s.reinstateItem)
	person("POST /v1/recert/{id}/prove", s.proveItems)
}

func (s *server) short(c *call, x *campaign.Campaign) Campaign {
	counts, open := x.Counts()
	out := Campaign{Meta: kind("Campaign"), ID: x.ID, Opened: x.At, Deadline: x.Opened.Deadline, From: x.Opened.From, Until: x.Opened.Until,
		Clusters: x.Opened.Clusters, Reviewers: x.Reviewers(),
		Unsettled: len(x.Unsettled())}
	if x.Closed != nil {
		counts, open = *x.Closed, 0
		out.Closed = &x.ClosedAt
	}
	out.Counts = recert.Counts{Items: len(x.Items), Kept: counts.Kept, Revoked: counts.Revoked, Suspended: counts.Suspended,
		Escalated: counts.Escalated, Open: open}
	now := s.now()
	for _, i := range x.Items {
		if x.Waits(i, c.actor.Person, now) {
			out.ForMe++
		}
	}
	return out
}

func (s *server) campaigns(c *call) (any, error) {
	if err := s.cfg.Campaigns.MayRead(c.Context(), c.actor); err != nil {
		return nil, err
	}
	ids, err := s.cfg.Campaigns.IDs(c.Context())
	if err != nil {
		return nil, err
	}
	const most = 20 // five years of quarters; older ones are shown by name
	out := Campaigns{Meta: kind("Campaigns"), Items: []Campaign{}}
	for _, id := range ids[max(0, len(ids)-most):] {
		x, err := s.cfg.Campaigns.Get(c.Context(), id)
		if err != nil {
			return nil, err
		}
		out.Items = append(out.Items, s.short(c, x))
	}
	return out, nil
}

// shown answers a command with the campaign as it is after it.
func (s *server) shown(c *call, x *campaign.Campaign, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return s.short(c, x), nil
}

func (s *server) startCampaign(c *call) (any, error) {
	if _, err := decode[Empty](c); err != nil {
		return nil, err
	}
	x, err := s.cfg.Recert.Start(c.Context(), &c.actor, time.Time{})
	return s.shown(c, x, err)
}

func (s *server) campaign(c *call) (any, error) {
	r, err := s.cfg.Recert.Report(c.Context(), c.actor, named(c))
	if err != nil {
		return nil, err
	}
	x, err := s.cfg.Campaigns.Get(c.Context(), r.Campaign)
	if err != nil {
		return nil, err
	}
	out := CampaignItems{Meta: kind("CampaignItems"), Campaign: s.short(c, x), Items: []CampaignItem{}}
	now, mine := s.now(), c.URL.Query().Get("for") == "me"
	for n := range r.Items {
		line := CampaignItem{Line: r.Items[n]}
		if i, ok := x.Item(line.ID); ok {
			line.ForMe = x.Waits(i, c.actor.Person, now)
		}
		if !mine || line.ForMe {
			out.Items = append(out.Items, line)
		}
	}
	return out, nil
}

// named is the campaign that a path names; "last" is the last one.
func named(c *call) string { return c.PathValue("id") }

// The forms of a campaign's report, beside those of a session's.
const (
	FormatMarkdown = "md"
	FormatCSV      = "csv"
)

func (s *server) campaignReport(c *call) (any, error) {
	r, err := s.cfg.Recert.Report(c.Context(), c.actor, named(c))
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	switch f := c.URL.Query().Get("format"); f {
	case FormatText, "":
		err = r.Text(&b)
	case FormatHTML:
		err = r.HTML(&b)
	case FormatMarkdown:
		err = r.Markdown(&b)
	case FormatJSON:
		err = r.JSON(&b)
	case FormatCSV:
		err = r.ItemsCSV(&b)
	default:
		return nil, newError(record.ClassInvalid, "format", "ask for text, html, md, json or csv", "there is no report in the form %.20q", f)
	}
	return plain(b.String()), err
}

func (s *server) campaignBundle(c *call) (any, error) {
	b, err := s.cfg.Recert.Export(c.Context(), c.actor, named(c))
	if err != nil {
		return nil, err
	}
	var z bytes.Buffer
	if err := b.TarGz(&z); err != nil {
		return nil, err
	}
	x, err := s.cfg.Campaigns.Get(c.Context(), named(c))
	if err != nil {
		return nil, err
	}
	return CampaignBundle{Meta: kind("CampaignBundle"), ID: x.ID, Data: z.Bytes()}, nil
}

func (s *server) decideItems(c *call) (any, error) {
	in, err := decode[CampaignAnswer](c)
	if err != nil {
		return nil, err
	}
	x, err := s.cfg.Campaigns.Decide(c.Context(), c.actor, named(c), campaign.Answer{Verdict: in.Verdict, Items: in.Items,
		Reason: in.Reason})
	return s.shown(c, x, err)
}

func (s *server) acknowledgeItems(c *call) (any, error) {
	in, err := decode[CampaignDone](c)
	if err != nil {
		return nil, err
	}
	x, err := s.cfg.Campaigns.Acknowledge(c.Context(), c.actor, named(c), in.Items, in.Note)
	return s.shown(c, x, err)
}

func (s *server) reinstateItem(c *call) (any, error) {
	in, err := decode[CampaignDone](c)
	if err != nil {
		return nil, err
	}
	if len(in.Items) != 1 {
		return nil, newError(record.ClassInvalid, "items", "", "one item is given back at a time")
	}
	x, err := s.cfg.Campaigns.Reinstate(c.Context(), c.actor, named(c), in.Items[0], in.Note)
	return s.shown(c, x, err)
}

func (s *server) proveItems(c *call) (any, error) {
	if _, err := decode[Empty](c); err != nil {
		return nil, err
	}
	x, err := s.cfg.Recert.Prove(c.Context(), c.actor, named(c))
	return s.shown(c, x, err)
}

func campaignPath(id string, more string) string {
	if id == "" {
		id = "last"
	}
	return "/v1/recert/" + url.PathEscape(id) + more
}

// Campaigns lists the last campaigns.
func (c *Client) Campaigns(ctx context.Context) (Campaigns, error) {
	return ask[Campaigns](ctx, c, http.MethodGet, "/v1/recert", nil)
}

// StartCampaign scans the clusters, which takes a while, and opens a campaign.
func (c *Client) StartCampaign(ctx context.Context) (Campaign, error) {
	return work[Campaign](ctx, c, http.MethodPost, "/v1/recert", Empty{})
}

// CampaignItems returns a campaign, the last one if id is empty, with its items; with mine only those that wait for the caller.
func (c *Client) CampaignItems(ctx context.Context, id string, mine bool) (CampaignItems, error) {
	q := ""
	if mine {
		q = "?for=me"
	}
	return long[CampaignItems](ctx, c, campaignPath(id, q))
}

// CampaignReport returns a report in one of the forms.
func (c *Client) CampaignReport(ctx context.Context, id, format string) (string, error) {
	return long[string](ctx, c, campaignPath(id, "/report?format="+url.QueryEscape(format)))
}

// WriteCampaignReport writes a report in one of the forms as it comes, however long it is. After an error what was written is not
// all of it.
func (c *Client) WriteCampaignReport(ctx context.Context, id, format string, w io.Writer) error {
	return c.call(ctx, claimTime, http.MethodGet, campaignPath(id, "/report?format="+url.QueryEscape(format)), nil, w)
}

// CampaignBundle returns an evidence bundle.
func (c *Client) CampaignBundle(ctx context.Context, id string) (CampaignBundle, error) {
	return long[CampaignBundle](ctx, c, campaignPath(id, "/bundle"))
}

// DecideItems gives the caller's answer to items, in as many calls as it takes, and returns the campaign after the last. Where that
// is more calls than a sign-in may make at once it waits as the server says: the same answer twice counts once.
func (c *Client) DecideItems(ctx context.Context, id string, answer CampaignAnswer) (out Campaign, err error) {
	for part := range slices.Chunk(answer.Items, maxDecided) {
		for try := 0; ; try++ {
			out, err = work[Campaign](ctx, c, http.MethodPost, campaignPath(id, "/decide"), CampaignAnswer{Verdict: answer.Verdict, Items: part,
				Reason: answer.Reason})
			var e *Error
			if !errors.As(err, &e) || e.Code != "rate" || pause(ctx, try, e.retryAfter) != nil {
				break
			}
		}
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// AcknowledgeItems says that what was revoked has been removed.
func (c *Client) AcknowledgeItems(ctx context.Context, id string, items []string, note string) (Campaign, error) {
	return work[Campaign](ctx, c, http.MethodPost, campaignPath(id, "/ack"), CampaignDone{Items: items, Note: note})
}

// Reinstate says for the caller that a suspended eligibility comes back.
func (c *Client) Reinstate(ctx context.Context, id, item, reason string) (Campaign, error) {
	return work[Campaign](ctx, c, http.MethodPost, campaignPath(id, "/reinstate"), CampaignDone{Items: []string{item}, Note: reason})
}

// ProveItems has the clusters scanned again.
func (c *Client) ProveItems(ctx context.Context, id string) (Campaign, error) {
	return work[Campaign](ctx, c, http.MethodPost, campaignPath(id, "/prove"), Empty{})
}
