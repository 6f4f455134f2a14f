package doors

import (
	"cmp"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/controlplane"
	"github.com/breakglassd/breakglass/internal/inventory"
)

// An Analysis is the judgement of one snapshot. Everything in it is sorted, the worst first.
type Analysis struct {
	Cluster  string              `json:"cluster"`
	At       time.Time           `json:"at"` // when the snapshot was begun
	Doors    []Door              `json:"doors"`
	Powers   []inventory.Power   `json:"powers"`
	Findings []inventory.Finding `json:"findings"`
	// AdminRoles are the roles that are as good as cluster-admin to their holders: see Judgement.AdminRoles.
	AdminRoles []inventory.Ref `json:"adminRoles,omitempty"`
	// Programs says of each program of the control plane whether its command line was seen wherever it may run.
	Programs []inventory.Source `json:"programs"`
}

// Alarms are the findings that a person must look at.
func (a *Analysis) Alarms() []inventory.Finding {
	var out []inventory.Finding
	for _, f := range a.Findings {
		if f.Alarm() {
			out = append(out, f)
		}
	}
	return out
}

// Door is the door with an id, nil if there is none.
func (a *Analysis) Door(id string) *Door {
	for i := range a.Doors {
		if a.Doors[i].ID == id {
			return &a.Doors[i]
		}
	}
	return nil
}

// Analyse judges a snapshot. It is a pure function of what it is given.
func Analyse(s *inventory.Snapshot, o inventory.Options) *Analysis {
	held := inventory.Judge(s, o)
	a := &Analysis{Cluster: s.Cluster, At: s.At, Powers: held.Powers, Findings: held.Findings, AdminRoles: held.AdminRoles}
	j := &judge{s: s, o: o, rbac: held.RBAC, powers: held.Powers, asked: map[string]bool{}}
	a.Doors = j.doors()
	for _, name := range controlplane.Programs {
		a.Programs = append(a.Programs, inventory.Source{Name: commandLine(name), Count: len(j.components(name)), Missing: j.hidden(name)})
	}
	for _, d := range a.Doors {
		a.Findings = append(a.Findings, d.findings()...)
	}
	a.Findings = inventory.Finish(a.Findings, a.Powers, o)
	return a
}

// judge holds what the judgements of all doors share.
type judge struct {
	s      *inventory.Snapshot
	o      inventory.Options
	rbac   *inventory.RBAC
	powers []inventory.Power // all that the snapshot shows
	places map[[2]string]int // of the items of doors, by the ids of both
	asked  map[string]bool   // ids of doors whose Tellable asks for the manifests of the control plane already
}

// findings are what the items of a door say, and that a door cannot be told, for a reader of findings alone.
func (d Door) findings() []inventory.Finding {
	var out []inventory.Finding
	for _, i := range d.Items {
		f := inventory.Finding{ID: inventory.Digest("door", d.ID, i.ID), Rule: "door/" + d.ID, Severity: i.Risk, Title: i.Title, Text: i.Text,
			Item: i.ID, Controls: inventory.AccessControls, Expected: i.Expected, Why: i.Why, Remove: i.TakeAway}
		if f.Remove == "" {
			f.Next = cmp.Or(i.Advice, d.Advice)
		}
		out = append(out, f)
	}
	if d.State == CannotTell {
		out = append(out, inventory.Finding{ID: inventory.Digest("door", d.ID), Rule: "door/" + d.ID, Severity: inventory.Info,
			Item: "cannot-tell", Title: d.Title +
				": cannot tell",
			Text: "What is behind it was not seen: " + strings.Join(d.Evidence, "; "), Next: d.Tellable, Controls: inventory.AccessControls})
	}
	return out
}
