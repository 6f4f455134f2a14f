package policy

import (
	"github.com/breakglassd/breakglass/internal/record"
)

// Part is what somebody may do about a profile.
type Part string

// The parts.
const (
	PartRequester Part = "requester" // may ask for it
	PartApprover  Part = "approver"  // may agree to it
)

// Eligibility is one person's part in one profile on one cluster: the smallest thing that can be suspended.
type Eligibility struct {
	Person  string `json:"person"`
	Part    Part   `json:"part"`
	Profile string `json:"profile"`
	Cluster string `json:"cluster"`
}

// String is how people read it: "alice as approver of admin on c1".
func (e Eligibility) String() string {
	return e.Person + " as " + string(e.Part) + " of " + e.Profile + " on " + e.Cluster
}

// Membership is one person's place in a team, with all that the team's members may do by it.
type Membership struct {
	Team   string `json:"team"`
	Person string `json:"person"`
}

// TeamPart is what the members of a team may do about a profile: their part in it, on a set of clusters.
type TeamPart struct {
	Team     string   `json:"team"`
	Part     Part     `json:"part"`
	Profile  string   `json:"profile"`
	Clusters []string `json:"clusters"` // sorted
}

// Share is eligibility of many: every one of the people has the part in the profile on every one of the clusters.
type Share struct {
	Part     Part     `json:"part"`
	Profile  string   `json:"profile"`
	People   []string `json:"people"`   // sorted
	Clusters []string `json:"clusters"` // sorted
}

// String is how people read it: "alice and bob as approver of admin on c1 and c2".
func (s Share) String() string {
	return record.JoinAnd(s.People) + " as " + string(s.Part) + " of " + s.Profile + " on " + record.JoinAnd(s.Clusters)
}

// MinAdminReviewers is how many different people at the least must say keep to what equals cluster-admin. It is compiled in too.
const MinAdminReviewers = 2

// Holding is a suspended eligibility, and where it can be given back.
type Holding struct {
	Eligibility
	Campaign, Item string
}
