package recert

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"io"
	"slices"
	"strings"

	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/policy"
)

// madeEarlier reports whether a bundle is of a release whose reports had a former form, and could be of that release: one that gave
// the form no number could not read a campaign whose rules have one, and one that gave it the number 1 could not read a campaign of
// today. A forger who writes a former number into a report of one of those gets no easier check.
func madeEarlier(c *campaign.Campaign, rendering int) bool {
	return rendering == 0 && c.Opened.Rules == 0 || rendering == 1 &&
		!slices.ContainsFunc(c.Items, func(i *campaign.Item) bool { return i.Member != policy.Membership{} || i.Way != nil })
}

// earlierTables are the files of such a bundle that are made again and compared. The first release knew no word that was replaced
// later, and its only outcome was the present one.
func (r *Report) earlierTables(rendering int) map[string]func(io.Writer) error {
	if rendering == 1 {
		return map[string]func(io.Writer) error{fileItems: r.itemsCSV1, fileDecisions: r.DecisionsCSV, fileEmergency: r.EmergencyCSV}
	}
	old := *r
	old.Items = slices.Clone(r.Items)
	for n := range old.Items {
		l := &old.Items[n]
		l.Earlier, l.Outcome = nil, l.Present()
	}
	return map[string]func(io.Writer) error{fileItems: old.earlierItemsCSV, fileDecisions: old.DecisionsCSV, fileEmergency: old.EmergencyCSV}
}

// earlierItemsCSV is ItemsCSV as that release wrote it.
func (r *Report) earlierItemsCSV(w io.Writer) error {
	rows := [][]string{{"id", "topic", "kind", "cluster", "title", "risk", "state", "admin", "outcome", "answered_by", "suspended",
		"escalated", "proved", "since", "evidence", "take_away", "digest"}}
	for n := range r.Items {
		l := &r.Items[n]
		rows = append(rows, []string{l.ID, string(l.Topic), l.Kind, l.Cluster, l.Title, string(l.Risk), string(l.State), yes(l.Admin),
			string(l.Outcome), answeredBy(l), when(l.Suspended), when(l.Escalated), l.Proved,
			when(l.Since), strings.Join(l.Evidence, "; "), cmp.Or(l.TakeAway, l.Advice), l.Digest})
	}
	return writeCSV(w, rows)
}

// itemsCSV1 is ItemsCSV as it was in the form with the number 1.
func (r *Report) itemsCSV1(w io.Writer) error {
	var b bytes.Buffer
	if err := r.ItemsCSV(&b); err != nil {
		return err
	}
	rows, err := csv.NewReader(&b).ReadAll()
	if err != nil {
		return err
	}
	for n := range rows {
		rows[n] = rows[n][:len(rows[n])-2] // covers, suspended_of_it
	}
	out := csv.NewWriter(w) // the cells are safe already
	return out.WriteAll(rows)
}
