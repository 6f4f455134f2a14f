package recert

import (
	"cmp"
	"io"
	"slices"
	"strings"

	"github.com/breakglassd/breakglass/internal/breakglass"
)

// madeEarlier reports whether a bundle is of the release before reports had the number of their form. That release cannot read a
// campaign whose rules have a number: whoever takes the number out of a report of one of those gets no easier check by it.
func madeEarlier(c *breakglass.Campaign, rendering int) bool {
	return rendering == 0 && c.Opened.Rules == 0
}

// earlierTables are the files of such a bundle that are made again and compared: those that its own release compared. It knew no
// word that was replaced later, and its only outcome was the present one.
func (r *Report) earlierTables() map[string]func(io.Writer) error {
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
