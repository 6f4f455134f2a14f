package recert_test

import (
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/recert"
)

// What was revoked is left to do until it is proved gone, or, where no scan can prove it, until somebody else has said so.
func TestWhatWasRevokedIsLeftUntilItIsProvedOrAcknowledged(t *testing.T) {
	by := func(person string) *recert.Word { return &recert.Word{Person: person, At: time.Now()} }
	seen := &[]time.Time{time.Now().Add(-time.Minute)}[0]
	later := &[]time.Time{time.Now().Add(time.Minute)}[0]
	proof := []string{inventory.SourceBindings}
	line := func(edit func(*recert.Line)) recert.Line {
		l := recert.Line{Item: recert.Item{Topic: recert.TopicDoors, Not: []string{"alice"}}, Outcome: campaign.OutcomeRevoke}
		edit(&l)
		return l
	}
	for _, row := range []struct {
		name string
		line recert.Line
		left bool
	}{
		{"an object that is not looked for yet", line(func(l *recert.Line) { l.Object, l.Proof = "RoleBinding ci/old", proof }), true},
		{"an object that is still there", line(func(l *recert.Line) {
			l.Object, l.Proof, l.Proved, l.ProvedAt = "RoleBinding ci/old", proof, "still there", seen
		}), true},
		{"an object that was said to be gone", line(func(l *recert.Line) {
			l.Object, l.Proof, l.Acknowledged = "RoleBinding ci/old", proof,
				by("bob")
		}), true},
		{"an object that is gone", line(func(l *recert.Line) { l.Object, l.Proof, l.Proved = "RoleBinding ci/old", proof, "gone" }), false},
		{"an object of an earlier release", line(func(l *recert.Line) { l.Object = "RoleBinding ci/old" }), true},
		{"an object of an earlier release that was said to be gone",
			line(func(l *recert.Line) { l.Object, l.Acknowledged = "RoleBinding ci/old", by("bob") }), false},
		{"the same, seen before that", line(func(l *recert.Line) {
			l.Object, l.Acknowledged, l.Proved, l.ProvedAt = "RoleBinding ci/old", by("bob"), "still there", seen
		}), false},
		{"the same, seen after that", line(func(l *recert.Line) {
			l.Object, l.Acknowledged, l.Proved, l.ProvedAt = "RoleBinding ci/old", by("bob"), "still there", later
		}), true},
		{"what no scan can prove", line(func(*recert.Line) {}), true},
		{"what no scan can prove, and its owner says it is gone", line(func(l *recert.Line) { l.Acknowledged = by("alice") }), true},
		{"what no scan can prove, and somebody else says it is gone", line(func(l *recert.Line) { l.Acknowledged = by("bob") }), false},
		{"kept", line(func(l *recert.Line) { l.Outcome = campaign.OutcomeKeep }), false},
		{"not answered", line(func(l *recert.Line) { l.Outcome = campaign.OutcomeNone }), true},
		{"settled by a later campaign", line(func(l *recert.Line) { l.SettledBy = "rc-2" }), false},
	} {
		if got := row.line.Left(); got != row.left {
			t.Errorf("%s: left=%v, want %v", row.name, got, row.left)
		}
	}
}
