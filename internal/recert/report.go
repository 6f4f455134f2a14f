package recert

import (
	"cmp"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/text"
)

// Report is a campaign as it stands at a time, for people and programs: its items with what was said about them, and what the
// snapshot saw. It is made of the ledger and the snapshot alone, so that anybody who has both makes the same one.
type Report struct {
	APIVersion     string            `json:"apiVersion"`
	Kind           string            `json:"kind"`
	Campaign       string            `json:"campaign"`
	AsOf           time.Time         `json:"asOf"`
	Opened         time.Time         `json:"opened"`
	OpenedBy       string            `json:"openedBy"` // a person's id, or "schedule"
	Deadline       time.Time         `json:"deadline"`
	Closed         *time.Time        `json:"closed,omitempty"`
	From           time.Time         `json:"from"`
	Until          time.Time         `json:"until"`
	Previous       string            `json:"previous,omitempty"`
	Clusters       []ClusterLook     `json:"clusters"`
	Reviewers      []string          `json:"reviewers"`
	AdminReviewers int               `json:"adminReviewers"`
	Counts         Counts            `json:"counts"`
	Items          []Line            `json:"items"`
	Grants         []Grant           `json:"grants"`
	Checks         []Check           `json:"checks"`
	PolicyDigest   string            `json:"policyDigest"`
	PolicyChanges  []string          `json:"policyChanges,omitempty"`
	Snapshot       string            `json:"snapshot"` // digest
	Ledger         string            `json:"ledger"`   // origin
	Names          map[string]string `json:"names"`
	Rendering      int               `json:"rendering"` // see rendering
}

// rendering is the number of the form in which a report is written: text for text what every file of a bundle says. A verifier of
// the same number makes them again and compares. It goes up with every change of what a report renders to, as a test reminds.
const rendering = 2

// APIVersion is that of reports in JSON.
const APIVersion = "breakglass.dev/v1"

// Counts is what the items came to. Of a closed campaign it is what was recorded when it closed, and Open is zero. The outcomes of
// the lines add up to it, whatever was said or done since.
type Counts struct {
	Items     int `json:"items"`
	Kept      int `json:"kept"`
	Revoked   int `json:"revoked"`
	Suspended int `json:"suspended"`
	Escalated int `json:"escalated"`
	Open      int `json:"open"`
}

// AddUp reports whether every item came to something.
func (k Counts) AddUp() bool {
	return k.Kept+k.Revoked+k.Suspended+k.Escalated == k.Items && k.Open == 0
}

// Line is one item and what became of it.
type Line struct {
	Item
	Digest       string           `json:"digest"`
	Outcome      campaign.Outcome `json:"outcome"`           // when the campaign closed; of an open one: so far
	Now          campaign.Outcome `json:"now,omitempty"`     // what it has come to since closing, where that is something else
	Need         int              `json:"need"`              // people who must say keep
	Words        []Word           `json:"words"`             // everybody's last word
	Earlier      []Word           `json:"earlier,omitempty"` // words that the same person replaced later
	Suspended    *time.Time       `json:"suspended,omitempty"`
	SuspendedWhy string           `json:"suspendedWhy,omitempty"`
	Held         bool             `json:"held,omitempty"`     // suspended and not given back
	NeedBack     int              `json:"needBack,omitempty"` // people who must say that it comes back; 0: nothing is held
	// Of a place in a team or a way: what exactly the answer is about, by the ledger, and what of it was suspended.
	Covers       []policy.Share `json:"covers,omitempty"`
	Suspends     []policy.Share `json:"suspends,omitempty"`
	Partly       bool           `json:"partly,omitempty"` // a floor, or a later campaign, kept the rest
	Back         []Word         `json:"back,omitempty"`
	Escalated    *time.Time     `json:"escalated,omitempty"`
	EscalatedWhy string         `json:"escalatedWhy,omitempty"`
	Settled      *time.Time     `json:"settled,omitempty"`   // when a later campaign took over what was still owed
	SettledBy    string         `json:"settledBy,omitempty"` // its id
	Acknowledged *Word          `json:"acknowledged,omitempty"`
	Proved       string         `json:"proved,omitempty"` // "gone" or "still there", by the last scan
	ProvedAt     *time.Time     `json:"provedAt,omitempty"`
}

// Word is what a person said.
type Word struct {
	Person  string    `json:"person"`
	Verdict string    `json:"verdict,omitempty"`
	At      time.Time `json:"at"`
	Channel string    `json:"channel"`
	Reason  string    `json:"reason,omitempty"`
}

// NewReport makes the report of a campaign and its snapshot. It refuses a snapshot that is not the campaign's.
func NewReport(c *campaign.Campaign, snap *Snapshot, now time.Time) (*Report, error) {
	if len(snap.Items) != len(c.Items) {
		return nil, fmt.Errorf("the snapshot has %d items, %s has %d", len(snap.Items), c.ID, len(c.Items))
	}
	r := &Report{APIVersion: APIVersion, Kind: "RecertificationReport", Campaign: c.ID, AsOf: now.UTC().Truncate(time.Second),
		Opened: c.At.UTC(), OpenedBy: "schedule", Deadline: c.Opened.Deadline.UTC(), From: c.Opened.From,
		Until: c.Opened.Until, Previous: c.Opened.Previous, Clusters: snap.Clusters, Reviewers: c.Reviewers(),
		AdminReviewers: c.Opened.AdminReviewers, Items: make([]Line, 0, len(c.Items)), Grants: snap.Grants,
		Checks: snap.Checks, PolicyDigest: c.Opened.PolicyDigest, PolicyChanges: snap.PolicyChanges, Snapshot: c.Opened.Snapshot,
		Ledger: snap.Ledger, Names: snap.Names, Rendering: rendering}
	if c.Opened.By != nil {
		r.OpenedBy = c.Opened.By.Person
	}
	counts, open := c.Counts()
	if c.Closed != nil {
		counts, open = *c.Closed, 0
		at := c.ClosedAt.UTC()
		r.Closed = &at
	}
	r.Counts = Counts{Items: len(c.Items), Kept: counts.Kept, Revoked: counts.Revoked, Suspended: counts.Suspended,
		Escalated: counts.Escalated, Open: open}
	for n, i := range c.Items {
		if snap.Items[n].ID != i.ID || snap.Items[n].Digest() != i.Digest {
			return nil, fmt.Errorf("the snapshot says something else about %s than %s was opened with", i.ID, c.ID)
		}
		r.Items = append(r.Items, lineOf(c, i, snap.Items[n]))
	}
	if rows := r.rows(); rows != r.Counts {
		return nil, fmt.Errorf("the items of %s come to %+v, its counts say %+v", c.ID, rows, r.Counts)
	}
	return r, nil
}

// rows counts what the lines say.
func (r *Report) rows() Counts {
	k := Counts{Items: len(r.Items)}
	for _, l := range r.Items {
		switch l.Outcome {
		case campaign.OutcomeKeep:
			k.Kept++
		case campaign.OutcomeRevoke:
			k.Revoked++
		case campaign.OutcomeSuspended:
			k.Suspended++
		case campaign.OutcomeEscalated:
			k.Escalated++
		case campaign.OutcomeNone:
			k.Open++
		}
	}
	return k
}

// Present is what the item comes to now.
func (l *Line) Present() campaign.Outcome { return cmp.Or(l.Now, l.Outcome) }

// done reports whether a reviewer whom the item is not about has said that it was removed. Campaigns of before took anybody's
// word for it.
func (l *Line) done() bool {
	return l.Acknowledged != nil && l.Acknowledged.Person != l.Gives.Person && !slices.Contains(l.Not, l.Acknowledged.Person) &&
		l.Acknowledged.Person != l.Member.Person
}

func lineOf(c *campaign.Campaign, i *campaign.Item, item Item) Line {
	l := Line{Item: item, Digest: i.Digest, Outcome: c.Outcome(i), Need: c.Need(i), Words: []Word{}, SuspendedWhy: i.SuspendedWhy,
		EscalatedWhy: i.EscalatedWhy, Held: i.Held(), Suspended: stamp(i.Suspended), Escalated: stamp(i.Escalated),
		Settled: stamp(i.SettledAt), SettledBy: i.Settled}
	if i.AtClose != "" && i.AtClose != l.Outcome {
		l.Outcome, l.Now = i.AtClose, l.Outcome
	}
	if i.Member != (policy.Membership{}) || i.Way != nil {
		taken := make([]policy.Eligibility, len(i.Taken))
		for n, t := range i.Taken {
			taken[n] = t.Eligibility
		}
		l.Covers, l.Suspends = policy.Shares(i.Covers), policy.Shares(taken)
		l.Partly = len(taken) > 0 && len(taken) < len(i.Covers)
	}
	if i.Held() {
		l.NeedBack = i.NeedBack()
	}
	for _, w := range i.Earlier {
		l.Earlier = append(l.Earlier, wordOf(string(w.Verdict), w.Ending))
	}
	for _, w := range i.Words {
		l.Words = append(l.Words, wordOf(string(w.Verdict), w.Ending))
	}
	for _, w := range i.Back {
		l.Back = append(l.Back, wordOf("", w))
	}
	if i.Acknowledged != nil {
		w := wordOf("", *i.Acknowledged)
		l.Acknowledged = &w
	}
	if !i.Proved.IsZero() {
		l.ProvedAt, l.Proved = stamp(i.Proved), "still there"
		if i.Gone {
			l.Proved = "gone"
		}
	}
	return l
}

func wordOf(verdict string, e record.Ending) Word {
	return Word{Person: e.By.Person, Verdict: verdict, At: e.At.UTC(), Channel: string(e.By.Channel), Reason: e.Reason}
}

func stamp(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// JSON writes the report for programs.
func (r *Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// LeftToDo lists what is left to do now: items without an answer, what was revoked in a cluster and is not proved gone, what was
// revoked elsewhere and nobody but whom it is about says is gone, and what was escalated. What a later campaign came to something
// about is left to that one.
func (r *Report) LeftToDo() []Line {
	return slices.DeleteFunc(slices.Clone(r.Items), func(l Line) bool { return !l.Left() })
}

// Provable reports whether a later look at the cluster can prove the item gone.
func (l *Line) Provable() bool { return l.Object != "" && len(l.Proof) > 0 }

// Left reports whether something is still to be done about the item: no reviewer has answered, or what was revoked is neither proved gone
// nor, where no look at a cluster can prove it, acknowledged.
func (l *Line) Left() bool {
	if l.SettledBy != "" {
		return false
	}
	switch l.Present() {
	case campaign.OutcomeKeep, campaign.OutcomeSuspended:
		return false
	case campaign.OutcomeRevoke:
		settled := l.eligibility() && l.Suspended != nil && !(l.Partly && l.Held) || l.Proved == "gone" || !l.Provable() && l.done() &&
			(l.ProvedAt == nil || l.Acknowledged.At.After(*l.ProvedAt))
		return !settled
	case campaign.OutcomeNone, campaign.OutcomeEscalated:
	}
	return true
}

// Status is how the campaign stands, in a few words.
func (r *Report) Status() string {
	if r.Closed != nil {
		return "closed " + r.Closed.Format(time.DateOnly)
	}
	return fmt.Sprintf("open until %s", r.Deadline.Format("2006-01-02 15:04 MST"))
}

// Summary is the campaign in one line.
func (r *Report) Summary() string {
	k := r.Counts
	s := fmt.Sprintf("%d items: %d kept, %d revoked, %d suspended, %d escalated", k.Items, k.Kept, k.Revoked, k.Suspended, k.Escalated)
	if k.Open > 0 {
		s += fmt.Sprintf(", %d open", k.Open)
	}
	return s
}

// ByTopic is the lines of one topic.
func (r *Report) ByTopic(t Topic) []Line {
	return slices.DeleteFunc(slices.Clone(r.Items), func(l Line) bool { return l.Topic != t })
}

// What says what became of an item, in words.
func (l *Line) What() string {
	s := string(l.Outcome)
	if l.Outcome == campaign.OutcomeNone && l.Need > 1 {
		s += fmt.Sprintf(" (%d of %d)", len(l.Words), l.Need)
	}
	if l.Now != "" {
		s += ", since closing " + string(l.Now)
	}
	switch {
	case l.SettledBy != "":
		s += ", left to " + l.SettledBy
	case l.Partly:
		s += ", suspended in part: too few people would be left for the rest"
	case l.Present() == campaign.OutcomeRevoke && l.Suspended != nil:
		s += ", suspended"
	case l.Escalated != nil && l.EscalatedWhy == campaign.WhyFloor && l.Suspended == nil && l.Present() != campaign.OutcomeKeep:
		s += ", not suspended: too few people would be left"
	}
	if l.Suspended != nil && !l.Held {
		s += ", given back"
	}
	switch {
	case l.Proved != "":
		s += ", " + l.Proved
	case l.done():
		s += ", said to be done, not proved"
	case l.Acknowledged != nil:
		s += ", said to be done only by whom it is about"
	}
	return s
}

// Next is what to do about an item that is in LeftToDo.
func (l *Line) Next() string {
	switch {
	case l.Present() == campaign.OutcomeRevoke && (l.Suspended == nil || l.Partly) && l.eligibility():
		return "make more people eligible, or " + l.Advice
	case l.Present() == campaign.OutcomeRevoke:
		return cmp.Or(l.TakeAway, l.Advice)
	}
	return "answer it: keep or revoke"
}

func writeCSV(w io.Writer, rows [][]string) error {
	c := csv.NewWriter(w)
	for _, row := range rows {
		safe := make([]string, len(row))
		for n, cell := range row {
			safe[n] = text.Cell(cell)
		}
		if err := c.Write(safe); err != nil {
			return err
		}
	}
	c.Flush()
	return c.Error()
}

// ItemsCSV writes one row for each item.
func (r *Report) ItemsCSV(w io.Writer) error {
	rows := [][]string{{"id", "topic", "kind", "cluster", "title", "risk", "state", "admin", "outcome", "since_closing", "answered_by",
		"suspended", "escalated", "proved", "since", "evidence", "take_away", "digest", "covers", "suspended_of_it"}}
	for n := range r.Items {
		l := &r.Items[n]
		rows = append(rows, []string{l.ID, string(l.Topic), l.Kind, strings.Join(l.where(), " "), l.Title, string(l.Risk),
			string(l.State), yes(l.Admin),
			string(l.Outcome), string(l.Now), answeredBy(l), when(l.Suspended), when(l.Escalated), l.Proved,
			when(l.Since), strings.Join(l.Evidence, "; "), cmp.Or(l.TakeAway, l.Advice), l.Digest, sharesOf(l.Covers), sharesOf(l.Suspends)})
	}
	return writeCSV(w, rows)
}

// DecisionsCSV writes one row for everything that was said about an item, also what the same person took back later, and for what
// was done about it; of the proofs, the last.
func (r *Report) DecisionsCSV(w io.Writer) error {
	rows := [][]string{{"time", "item", "what", "by", "channel", "reason", "digest"}}
	for n := range r.Items {
		l := &r.Items[n]
		for _, x := range slices.Concat(l.Earlier, l.Words) {
			rows = append(rows, []string{x.At.Format(time.RFC3339), l.ID, x.Verdict, x.Person, x.Channel, x.Reason, l.Digest})
		}
		if l.Suspended != nil {
			rows = append(rows, []string{when(l.Suspended), l.ID, "suspended", "breakglassd", "", l.SuspendedWhy, l.Digest})
		}
		if l.Escalated != nil {
			rows = append(rows, []string{when(l.Escalated), l.ID, "escalated", "breakglassd", "", l.EscalatedWhy, l.Digest})
		}
		if l.Settled != nil {
			rows = append(rows, []string{when(l.Settled), l.ID, "left to a later campaign", "breakglassd", "", l.SettledBy, l.Digest})
		}
		for _, x := range l.Back {
			rows = append(rows, []string{x.At.Format(time.RFC3339), l.ID, "reinstate", x.Person, x.Channel, x.Reason, l.Digest})
		}
		if x := l.Acknowledged; x != nil {
			rows = append(rows, []string{x.At.Format(time.RFC3339), l.ID, "acknowledged", x.Person, x.Channel, x.Reason, l.Digest})
		}
		if l.ProvedAt != nil {
			rows = append(rows, []string{when(l.ProvedAt), l.ID, l.Proved, "breakglassd", "", "", l.Digest})
		}
	}
	slices.SortStableFunc(rows[1:], func(a, b []string) int { return strings.Compare(a[0], b[0]) })
	return writeCSV(w, rows)
}

// EmergencyCSV writes one row for each request of the period.
func (r *Report) EmergencyCSV(w io.Writer) error {
	rows := [][]string{{"id", "person", "profile", "cluster", "risk", "asked", "reason", "incident", "state", "approvers",
		"seconds_to_approve", "fastest_approval_seconds", "issued", "ended", "ttl_seconds", "used", "done",
		"left_over", "closing_note", "off_hours"}}
	for _, g := range r.Grants {
		var who []string
		fastest := ""
		for n, a := range g.Approvals {
			who = append(who, a.Person+" ("+a.Channel+")")
			if s := strconv.FormatInt(a.Seconds, 10); n == 0 || a.Seconds < atoi(fastest) {
				fastest = s
			}
		}
		took := ""
		if g.Approved != nil {
			took = strconv.FormatInt(*g.Approved, 10)
		}
		rows = append(rows, []string{g.ID, g.Person, g.Profile, g.Cluster, g.Risk, g.Asked.Format(time.RFC3339), g.Reason, g.Incident, g.State,
			strings.Join(who, ", "), took, fastest, when(g.Issued), when(g.Ended),
			strconv.FormatInt(g.TTL, 10), g.Used, g.Done, strconv.Itoa(g.LeftOver), strings.TrimSpace(g.NoteState + " " + g.Note), yes(g.OffHours)})
	}
	return writeCSV(w, rows)
}

func atoi(s string) int64 { n, _ := strconv.ParseInt(s, 10, 64); return n }

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

func when(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func answeredBy(l *Line) string {
	var who []string
	for _, w := range l.Words {
		who = append(who, w.Person+": "+w.Verdict)
	}
	return strings.Join(who, ", ")
}

// Text writes the report for a terminal.
func (r *Report) Text(w io.Writer) error {
	var b strings.Builder
	say := func(format string, args ...any) { // the report may come from another's bundle
		for i, x := range args {
			args[i] = text.Clean(fmt.Sprint(x))
		}
		fmt.Fprintf(&b, format, args...)
	}
	say("%s   %s\n%s\n", r.Campaign, r.Status(), r.Summary())
	if since := r.sinceClosing(); since != "" {
		say("since closing: %s\n", since)
	}
	say("period %s to %s   opened %s by %s   reviewers %s\n", r.From.Format(time.DateOnly), r.Until.Format(time.DateOnly),
		r.Opened.Format(time.DateOnly), r.OpenedBy, strings.Join(r.Reviewers, ", "))
	for _, t := range Topics() {
		lines := r.ByTopic(t)
		if len(lines) == 0 {
			continue
		}
		say("\n%s (%v)\n", t.Title(), len(lines))
		for n := range lines {
			l := &lines[n]
			say("  %-9s %-9s %s\n%22s%s\n", l.State, l.Risk, l.Title, "", l.What())
		}
	}
	if left := r.LeftToDo(); len(left) > 0 {
		say("\nLeft to do (%v)\n", len(left))
		for n := range left {
			l := &left[n]
			say("  %s\n", l.ID)
			for line := range strings.Lines(l.Next()) {
				say("    %s\n", line)
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func sharesOf(list []policy.Share) string {
	words := make([]string, len(list))
	for n, s := range list {
		words[n] = s.String()
	}
	return strings.Join(words, "; ")
}

// Markdown writes the report for a wiki or a ticket.
func (r *Report) Markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Recertification %s\n\n%s. %s.\n\n", r.Campaign, r.Status(), r.Summary())
	fmt.Fprintf(&b, "| | |\n| --- | --- |\n")
	for _, row := range r.facts() {
		fmt.Fprintf(&b, "| %s | %s |\n", row[0], md(row[1]))
	}
	if len(r.PolicyChanges) > 0 {
		fmt.Fprintf(&b, "\n## Changes of the access policy\n\n")
		for _, c := range r.PolicyChanges {
			fmt.Fprintf(&b, "- %s\n", md(c))
		}
	}
	for _, t := range Topics() {
		lines := r.ByTopic(t)
		fmt.Fprintf(&b, "\n## %s\n\n", t.Title())
		if len(lines) == 0 {
			fmt.Fprintf(&b, "Nothing.\n")
			continue
		}
		fmt.Fprintf(&b, "| state | risk | what | evidence | outcome | by |\n| --- | --- | --- | --- | --- | --- |\n")
		for n := range lines {
			l := &lines[n]
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", l.State, l.Risk, md(l.Title), md(strings.Join(l.Evidence, "; ")), md(l.What()),
				md(answeredBy(l)))
		}
	}
	if left := r.LeftToDo(); len(left) > 0 {
		fmt.Fprintf(&b, "\n## Left to do\n\n")
		for n := range left {
			l := &left[n]
			fmt.Fprintf(&b, "- %s: %s\n", md(l.Title), md(l.What()))
			for line := range strings.Lines(l.Next()) {
				fmt.Fprintf(&b, "  `%s`\n", strings.ReplaceAll(text.Clean(line), "`", "'"))
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// facts are the first table of a report.
func (r *Report) facts() [][2]string {
	out := [][2]string{{"period", r.From.Format(time.DateOnly) + " to " + r.Until.Format(time.DateOnly)},
		{"opened", r.Opened.Format(time.RFC3339) + " by " + r.OpenedBy}, {"deadline", r.Deadline.Format(time.RFC3339)}}
	if r.Closed != nil {
		out = append(out, [2]string{"closed", r.Closed.Format(time.RFC3339)})
		if since := r.sinceClosing(); since != "" {
			out = append(out, [2]string{"since closing", since})
		}
	}
	out = append(out, [2]string{"reviewers", strings.Join(r.Reviewers, ", ")})
	if r.Previous != "" {
		out = append(out, [2]string{"compared with", r.Previous})
	}
	for _, c := range r.Clusters {
		s := c.Problem
		if s == "" {
			s = fmt.Sprintf("%s, %s, read at %s as %s; %d expected things not asked about", c.Server, c.Version, c.At.Format(time.RFC3339),
				cmp.Or(c.Collector, "an unknown user"), c.Expected)
		} else {
			s = "not looked at: " + s
		}
		out = append(out, [2]string{"cluster " + c.ID, s})
	}
	return append(out, [2]string{"access policy", r.PolicyDigest}, [2]string{"snapshot", r.Snapshot}, [2]string{"ledger", r.Ledger},
		[2]string{"report made", r.AsOf.Format(time.RFC3339)})
}

// sinceClosing is what items have come to after the counts were recorded, in words; empty: nothing.
func (r *Report) sinceClosing() string {
	n := map[campaign.Outcome]int{}
	for _, l := range r.Items {
		n[l.Now]++
	}
	var parts []string
	for _, o := range []campaign.Outcome{campaign.OutcomeKeep, campaign.OutcomeRevoke, campaign.OutcomeSuspended} {
		if n[o] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[o], o))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return strings.Join(parts, ", ") + "; the counts are those at closing"
}

// md makes a text safe for a cell of a Markdown table: nothing in it is markup.
func md(s string) string {
	var b strings.Builder
	for _, r := range text.Clean(s) {
		if strings.ContainsRune("\\`*_{}[]<>()#+!|~&", r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// severities in the order of a chart, the worst first.
func severities() []inventory.Severity {
	return []inventory.Severity{inventory.Critical, inventory.High, inventory.Medium, inventory.Low, inventory.Info}
}
