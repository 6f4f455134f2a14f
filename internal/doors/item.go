package doors

import (
	"slices"
	"time"

	"github.com/breakglassd/breakglass/internal/inventory"
)

// ItemKind is what a recertification item is about.
type ItemKind string

// What can be recertified of a cluster.
const (
	ItemSubject ItemKind = "subject" // a subject of RBAC with standing power
	ItemDoor    ItemKind = "door"    // a door as such, or a setting of one
	ItemBinding ItemKind = "binding" // a binding without a subject or a role that is there
	ItemCSR     ItemKind = "csr"     // a certificate through the CSR API
	ItemToken   ItemKind = "token"   // a service-account token, a bootstrap token
	ItemCA      ItemKind = "ca"      // a CA that may sign client certificates
	ItemDefault ItemKind = "default" // a role or binding of Kubernetes that gives more than what ships
)

// An Item is one thing of a cluster that a reviewer answers for: keep or revoke.
type Item struct {
	ID       string             `json:"id"` // "cluster/kind/hash"; stable over scans
	Cluster  string             `json:"cluster"`
	Kind     ItemKind           `json:"kind"`
	Title    string             `json:"title"`
	Evidence []string           `json:"evidence"` // what was seen and where, line by line
	Risk     inventory.Severity `json:"risk"`
	// Admin says that it is equal to cluster-admin or a way to it: two people must answer.
	Admin bool `json:"admin,omitempty"`
	// People are the users that it is about, as the API server knows them, sorted: no reviewer answers for themselves.
	People []string `json:"people,omitempty"`
	// Groups are the groups that it is about, sorted: their members do not answer for it.
	Groups []string `json:"groups,omitempty"`
	// Grants is what it gives, sorted. Compare calls an item widened that gives something that it did not give before.
	Grants []string `json:"grants,omitempty"`
	// Fingerprint is a digest of what the item says, without times and counts that change by themselves.
	Fingerprint string     `json:"fingerprint"`
	Orphan      bool       `json:"orphan,omitempty"`  // whom or what it is for is gone
	Dormant     bool       `json:"dormant,omitempty"` // known not to have been used for DormantAfter
	Until       *time.Time `json:"until,omitempty"`   // when it ends by itself
	Used        *time.Time `json:"used,omitempty"`    // when it was last seen in use; nil if unknown or never
	Expected    bool       `json:"expected,omitempty"`
	Why         string     `json:"why,omitempty"`
	// TakeAway is the exact shell command that removes it; empty where no kubectl command can, and then Advice says
	// what does.
	TakeAway string `json:"takeAway,omitempty"`
	Advice   string `json:"advice,omitempty"`
	// Proof names what a scan must have seen whole, see Unproven, for the item's absence from it to prove that the item is gone.
	// None: no scan can prove that.
	Proof []string `json:"proof,omitempty"`
	// Absent says of a door as such that it is not there. All other items are there.
	Absent bool `json:"absent,omitempty"`
}

// DormantAfter is how long something must not have been used to be called dormant. It is what Kubernetes takes for unused
// legacy tokens, a year, cut to a quarter: a campaign runs each quarter.
const DormantAfter = 90 * 24 * time.Hour

// A State tells an item from what it was in the last campaign.
type State string

// The states of an item. Only Unchanged and Narrowed items may be confirmed together.
const (
	New       State = "new"       // not there in the last campaign
	Unchanged State = "unchanged" // says the same
	Widened   State = "widened"   // gives more than it did
	Narrowed  State = "narrowed"  // changed, and gives no more than it did
	Orphan    State = "orphan"    // whom or what it is for is gone
	Dormant   State = "dormant"   // not used for long
)

// Compare tells an item from what it was in the last campaign; previous is the zero Item if it was not there. What is gone
// in the current scan has no item: the caller finds it by its id.
func Compare(previous, current Item) State {
	gained := slices.ContainsFunc(current.Grants, func(g string) bool { return !slices.Contains(previous.Grants, g) })
	worse := current.Risk.Rank() > previous.Risk.Rank() || current.Admin && !previous.Admin
	switch {
	case current.Orphan:
		return Orphan
	case previous.ID == "":
		return New
	case gained || worse:
		return Widened
	case current.Dormant:
		return Dormant
	case current.Fingerprint == previous.Fingerprint:
		return Unchanged
	case len(current.Grants) == len(previous.Grants) && current.Risk == previous.Risk:
		return Widened // it says something else, and nothing shows that it is less
	}
	return Narrowed
}
