package exported

import (
	"cmp"
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/cli/terminal"
	"github.com/breakglassd/breakglass/internal/cli/view"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/text"
)

// Reading is the JSON form of what an export says.
type Reading struct {
	api.Meta
	Ledger string    `json:"ledger"`
	Size   int64     `json:"size"`
	AsOf   time.Time `json:"asOf"` // time of the last entry, and what states refer to

	Grants  []api.Request `json:"grants"`
	Reviews []Review      `json:"reviews"`
}

// Review is a campaign in short, and with Items in full.
type Review struct {
	ID        string    `json:"id"`
	Opened    time.Time `json:"opened"`
	From      time.Time `json:"from"`
	Until     time.Time `json:"until"`
	Deadline  time.Time `json:"deadline"`
	Clusters  []string  `json:"clusters"`
	Reviewers []string  `json:"reviewers"` // who could answer
	Total     int       `json:"total"`
	Open      int       `json:"open"` // without an answer
	Kept      int       `json:"kept"`
	Revoked   int       `json:"revoked"`
	Suspended int       `json:"suspended"`
	Escalated int       `json:"escalated"`
	Closed    time.Time `json:"closed,omitzero"`

	Items []Item `json:"items,omitempty"`
}

// Item is one item of a review: who said what, and what followed.
type Item struct {
	ID      string             `json:"id"`
	State   campaign.ItemState `json:"state"`
	Outcome campaign.Outcome   `json:"outcome"`
	Admin   bool               `json:"admin,omitempty"`
	Words   []Answer           `json:"words"`
	// the three things that can follow
	Suspended    time.Time   `json:"suspended,omitzero"`
	Acknowledged *api.Ending `json:"acknowledged,omitempty"`
	Gone         time.Time   `json:"gone,omitzero"` // when a scan proved it
}

// Answer is what one reviewer said about an item.
type Answer struct {
	Verdict campaign.Verdict `json:"verdict"`
	Person  string           `json:"person"`
	At      time.Time        `json:"at"`
	Reason  string           `json:"reason,omitempty"` // empty: none, or erased
}

// CSV writes the grants, or the items of one review that is shown in full, for a spreadsheet.
func (r Reading) CSV(w io.Writer) error {
	if len(r.Grants) == 0 && len(r.Reviews) == 1 && r.Reviews[0].Items != nil {
		return reviewCSV(w, r.Reviews[0])
	}
	return grantsCSV(w, r.Grants)
}

// Text writes a table of the grants and one of the reviews.
func (r Reading) Text(out io.Writer) error {
	if len(r.Grants) > 0 {
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "ID\tWHO\tCLUSTER\tPROFILE\tFROM\tTO\tAPPROVED BY\tENDED\tLEFT BEHIND\tREASON")
		for _, g := range r.Grants {
			x := rowOf(g)
			ended := x.ended
			if x.endedBy != "" {
				ended += " by " + x.endedBy
			}
			fmt.Fprintln(w, terminal.Format("%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s", g.ID, g.Ask.By.Person, g.Ask.Cluster, g.Ask.Profile,
				cmp.Or(x.from, "-"), cmp.Or(x.to, "-"), cmp.Or(strings.Join(x.approvers, ", "), "-"), ended, leftWords(g, x),
				terminal.OneLine(cmp.Or(g.Reason, "(erased)"), 60)))
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if len(r.Reviews) > 0 {
		if len(r.Grants) > 0 {
			fmt.Fprintln(out)
		}
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "REVIEW\tOPENED\tCLUSTERS\tITEMS\tKEPT\tREVOKED\tSUSPENDED\tESCALATED\tOPEN\tCLOSED")
		for _, c := range r.Reviews {
			fmt.Fprintln(w, terminal.Format("%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s", c.ID, view.Stamp(c.Opened), strings.Join(c.Clusters, ","),
				c.Total, c.Kept,
				c.Revoked, c.Suspended, c.Escalated, c.Open, cmp.Or(view.Stamp(c.Closed), "no; due "+view.Stamp(c.Deadline))))
		}
		return w.Flush()
	}
	return nil
}

// Reading is an empty reading of the export.
func (x *Export) Reading(kind string) Reading {
	return Reading{Meta: api.Meta{APIVersion: api.Version, Kind: kind}, Ledger: x.Report.Origin, Size: x.Report.Size, AsOf: x.Last,
		Grants: []api.Request{}, Reviews: []Review{}}
}

// Request is a request as of the export's last entry.
func (x *Export) Request(r *breakglass.Request) api.Request {
	return api.NewRequest(r, &policy.Policy{}, x.Last)
}

// AccessTimes are the first and the last moment at which a request's certificate could be used; not ok: there was none.
func AccessTimes(r *breakglass.Request) (from, to time.Time, ok bool) {
	switch {
	case r.Issued != nil && r.Revoked != nil:
		return r.Issued.NotBefore, r.Revoked.At, true
	case r.Issued != nil:
		return r.Issued.NotBefore, r.Issued.NotAfter, true
	case r.Failed != nil && len(r.Failed.Orphans) > 0: // it exists, and was given to no person
		return r.ClaimedAt, r.FailedAt.Add(r.TTL()), true
	}
	return from, to, false
}

// grantRow is what a list says of a request, in words.
type grantRow struct {
	from, to, ended, endedBy, why string
	approvers                     []string
	critical, left                int
	ackBy, ackNote                string
}

func rowOf(r api.Request) grantRow {
	w := grantRow{ended: string(r.State)}
	for _, x := range r.Approvals {
		w.approvers = append(w.approvers, fmt.Sprintf("%s (%s)", x.Person, view.Channel(x)))
	}
	if x := r.Certificate; x != nil {
		w.from, w.to = view.Stamp(x.NotBefore), view.Stamp(x.NotAfter)
	}
	switch {
	case r.Revoked != nil:
		w.endedBy, w.why = r.Revoked.Person, r.Revoked.Reason
		if r.Certificate != nil {
			w.to = view.Stamp(r.Revoked.At)
		}
	case r.Denied != nil:
		w.endedBy, w.why = r.Denied.Person, r.Denied.Reason
	case r.Withdrawn != nil:
		w.endedBy, w.why = r.Withdrawn.Person, r.Withdrawn.Reason
	case r.Failed != nil:
		w.why = r.Failed.Detail
		if r.Failed.Orphans > 0 {
			w.ended = "signed, never delivered"
		}
	}
	if s := r.Swept; s != nil {
		w.left, w.critical = len(s.Items)+s.More, s.Critical()
	}
	if r.Acknowledged != nil {
		w.ackBy, w.ackNote = r.Acknowledged.Person, r.Acknowledged.Reason
	}
	return w
}

// leftWords is what was left behind, in short.
func leftWords(r api.Request, w grantRow) string {
	switch {
	case r.Certificate == nil:
		return "-"
	case r.Swept == nil:
		return "not looked at"
	case w.left == 0:
		return "nothing found"
	}
	s := fmt.Sprintf("%d, %d critical", w.left, w.critical)
	if w.ackBy != "" {
		return s + ", acknowledged by " + w.ackBy
	}
	return s + ", not acknowledged"
}

// writeCSV writes rows whose cells a spreadsheet takes for text.
func writeCSV(w io.Writer, rows [][]string) error {
	c := csv.NewWriter(w)
	for _, row := range rows {
		for n := range row {
			row[n] = text.Cell(text.Exact(row[n]))
		}
		if err := c.Write(row); err != nil {
			return err
		}
	}
	c.Flush()
	return c.Error()
}

func grantsCSV(w io.Writer, grants []api.Request) error {
	rows := [][]string{{"id", "person", "cluster", "server", "profile", "rights", "risk", "incident", "reason", "requested", "approved_by",
		"from", "to", "state", "ended_by", "end_reason", "serial", "fingerprint", "session", "reads", "changes", "refused", "secrets_read",
		"left_behind", "left_behind_critical", "acknowledged_by", "acknowledged_note", "closing_note", "refused_commands",
		"ledger_entry", "digest"}}
	for _, g := range grants {
		x := rowOf(g)
		row := []string{g.ID, g.Ask.By.Person, g.Ask.Cluster, g.Ask.Server, g.Ask.Profile, g.Ask.Rights.String(), string(g.Ask.Risk),
			g.Ask.Incident, cmp.Or(g.Reason, "(erased)"), view.Stamp(g.RequestedAt), strings.Join(x.approvers, "; "), x.from, x.to, x.ended,
			x.endedBy, x.why}
		if c := g.Certificate; c != nil {
			row = append(row, c.Serial, c.Fingerprint)
		} else {
			row = append(row, "", "")
		}
		if s := g.Session; s != nil && s.Source != breakglass.SourceNone {
			row = append(row, s.Source, strconv.Itoa(s.Reads), strconv.Itoa(s.Writes), strconv.Itoa(s.Refused), strconv.Itoa(s.SecretsRead))
		} else { // what is not known is not none
			row = append(row, "", "", "", "", "")
		}
		if g.Swept != nil {
			row = append(row, strconv.Itoa(x.left), strconv.Itoa(x.critical))
		} else {
			row = append(row, "", "")
		}
		note := ""
		if g.Closed != nil {
			note = cmp.Or(g.Closed.Reason, "(erased)")
		}
		rows = append(rows, append(row, x.ackBy, x.ackNote, note, strconv.Itoa(g.Refusals), strconv.FormatInt(g.LedgerIndex, 10), g.Digest))
	}
	return writeCSV(w, rows)
}

// ReviewOf is what became of a campaign.
func ReviewOf(c *campaign.Campaign, items bool) Review {
	n, open := c.Counts()
	if c.Closed != nil {
		n = *c.Closed
		open = 0
	}
	out := Review{ID: c.ID, Opened: c.At, From: c.Opened.From, Until: c.Opened.Until, Deadline: c.Opened.Deadline,
		Clusters: c.Opened.Clusters, Reviewers: c.Reviewers(), Total: len(c.Items), Open: open, Kept: n.Kept,
		Revoked: n.Revoked, Suspended: n.Suspended, Escalated: n.Escalated, Closed: c.ClosedAt}
	if !items {
		return out
	}
	out.Items = []Item{}
	for _, i := range c.Items {
		x := Item{ID: i.ID, State: i.State, Outcome: cmp.Or(i.AtClose, c.Outcome(i)), Admin: i.Admin, Words: []Answer{}, Suspended: i.Suspended}
		for _, w := range i.Words {
			x.Words = append(x.Words, Answer{w.Verdict, w.By.Person, w.At, w.Reason})
		}
		if e := i.Acknowledged; e != nil {
			x.Acknowledged = &api.Ending{Person: e.By.Person, At: e.At, Reason: e.Reason}
		}
		if i.Gone {
			x.Gone = i.Proved
		}
		out.Items = append(out.Items, x)
	}
	return out
}

// said is who said what about an item.
func (x Item) said() string {
	var out []string
	for _, w := range x.Words {
		s := fmt.Sprintf("%s: %s", w.Person, w.Verdict)
		if w.Reason != "" {
			s += " (" + w.Reason + ")"
		}
		out = append(out, s)
	}
	return strings.Join(out, "; ")
}

// after is what followed an item's outcome.
func (x Item) after() string {
	var out []string
	if !x.Suspended.IsZero() {
		out = append(out, "suspended "+view.Stamp(x.Suspended))
	}
	if e := x.Acknowledged; e != nil {
		out = append(out, "removed, says "+e.Person)
	}
	if !x.Gone.IsZero() {
		out = append(out, "proved gone "+view.Stamp(x.Gone))
	}
	return strings.Join(out, "; ")
}

// Text writes everything about one review.
func (c Review) Text(out io.Writer) error {
	data := func(f string, args ...any) { fmt.Fprint(out, terminal.Format(f, args...)) }
	data("review      %s of %s\nperiod      %s to %s\nopened      %s\n", c.ID, strings.Join(c.Clusters, ", "), view.Stamp(c.From),
		view.Stamp(c.Until),
		view.Stamp(c.Opened))
	data("closed      %s\nreviewers   %s\n", cmp.Or(view.Stamp(c.Closed), "no; due "+view.Stamp(c.Deadline)), strings.Join(c.Reviewers, ", "))
	data("outcome     %d items: %d kept, %d revoked, %d suspended, %d escalated, %d open\n\n", c.Total, c.Kept, c.Revoked, c.Suspended,
		c.Escalated, c.Open)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "OUTCOME\tSTATE\tITEM\tSAID\tAFTERWARDS")
	for _, x := range c.Items {
		fmt.Fprintln(w, terminal.Format("%s\t%s\t%s\t%s\t%s", x.Outcome, x.State, x.ID, terminal.OneLine(x.said(), 100), x.after()))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return nil
}

func reviewCSV(w io.Writer, c Review) error {
	rows := [][]string{{"review", "item", "state", "admin", "outcome", "said", "afterwards"}}
	for _, x := range c.Items {
		rows = append(rows, []string{c.ID, x.ID, string(x.State), strconv.FormatBool(x.Admin), string(x.Outcome), x.said(), x.after()})
	}
	return writeCSV(w, rows)
}
