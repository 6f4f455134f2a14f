package breakglass

import (
	"slices"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
)

// NothingLeft reports whether nothing is left to do for the request, and no word about it is owed: it leaves the open index.
func (r *Request) NothingLeft() bool {
	switch {
	case r.Bound:
		return false
	case r.Denied != nil || r.Withdrawn != nil || r.Failed != nil:
		return true
	case r.Ended == nil && r.Revoked == nil:
		return false
	case r.Issued == nil || r.Ask.Aftercare == nil:
		return true
	}
	aftercare := r.Ask.Aftercare
	return (r.Revoked == nil || !aftercare.Prove || r.receipted()) && (!aftercare.Examine || r.Swept != nil) &&
		(!r.Touched() || slices.Contains(r.Overdue, OverdueClosing)) &&
		(r.AcknowledgeBy().IsZero() || slices.Contains(r.Overdue, OverdueAcknowledgement))
}

// Index is the request's rows in the rebuildable index. Verification recomputes them from the fold.
func Index(r *Request) []ledger.Tag {
	tags := []ledger.Tag{
		{Name: "day", Value: r.At.Format(time.DateOnly)},
		{Name: "asked", Value: hourOf(r.Ask.By.Person, r.At)},
	}
	if !r.NothingLeft() {
		tags = append(tags, tagOpen, ledger.Tag{Name: "open-by", Value: r.Ask.By.Person})
	}
	if r.Touched() {
		tags = append(tags, tagTouched, ledger.Tag{Name: "touched-by", Value: r.Ask.By.Person})
	}
	if r.Unacknowledged() {
		tags = append(tags, tagUnacknowledged)
	}
	switch {
	case r.Claimed != nil:
		tags = append(tags, ledger.Tag{Name: "spki", Value: r.Claimed.SPKI, Unique: true})
	case r.ClaimKey != "":
		tags = append(tags, ledger.Tag{Name: "spki", Value: r.ClaimKey, Unique: true})
	}
	if r.Issued != nil {
		tags = append(tags, ledger.Tag{Name: "fingerprint", Value: r.Issued.Fingerprint, Unique: true})
	}
	return tags
}

// hourOf is the bucket by which requests per person are counted.
func hourOf(person string, at time.Time) string {
	return person + "/" + at.UTC().Format("2006-01-02T15")
}
