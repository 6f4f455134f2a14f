package breakglass

import (
	"fmt"
	"time"
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
	return joinAnd(s.People) + " as " + string(s.Part) + " of " + s.Profile + " on " + joinAnd(s.Clusters)
}

// ItemState tells an item of a campaign from what it was when somebody last said keep.
type ItemState string

// The states of an item. Those that are Unchanged or Narrowed may be confirmed together.
const (
	ItemNew       ItemState = "new"       // not there last time, or nobody said keep then
	ItemUnchanged ItemState = "unchanged" // says the same
	ItemWidened   ItemState = "widened"   // gives more than it did
	ItemNarrowed  ItemState = "narrowed"  // changed, and gives no more than it did
	ItemOrphan    ItemState = "orphan"    // whom or what it is for is gone
	ItemDormant   ItemState = "dormant"   // not used for long
)

// Together reports whether items in this state may be confirmed in one go.
func (s ItemState) Together() bool { return s == ItemUnchanged || s == ItemNarrowed }

// FrozenItem is one thing that a campaign asks about, frozen when it opens. What it says in words is in the snapshot, kept
// beside the ledger under the digest in CampaignOpened.
type FrozenItem struct {
	ID     string      `json:"id"`     // stable over campaigns: the same thing has the same id
	Digest string      `json:"digest"` // hex SHA-256 of everything the reviewer is shown about it
	State  ItemState   `json:"state"`
	Admin  bool        `json:"admin,omitempty"`  // equal to cluster-admin or a way to it: AdminReviewers people must say keep
	High   bool        `json:"high,omitempty"`   // a keep needs a reason
	Not    []string    `json:"not,omitempty"`    // who cannot judge it because it is about them; person ids, sorted
	Gives  Eligibility `json:"gives,omitzero"`   // of campaigns of before: one eligibility, which a revoke or silence suspends
	Object string      `json:"object,omitempty"` // id of the thing in a cluster that a later scan can prove gone; empty: not in a cluster

	// A revoke or silence suspends all that a place in a team gives by the ways of the team in the same campaign, and all that a way
	// gives to those who are in the team by the same campaign. An item is about one of Gives, Member and Way, or about nothing that the
	// daemon can take away.
	Member Membership `json:"member,omitzero"`
	Way    *TeamPart  `json:"way,omitempty"`
}

// CampaignOpened begins the review of everything that could let a person into a cluster. The pages of items follow in the same
// append.
type CampaignOpened struct {
	By             *Actor       `json:"by,omitempty"`       // who ordered it; nil: the schedule
	Due            time.Time    `json:"due,omitzero"`       // when the schedule wanted it
	From           time.Time    `json:"from"`               // the period under review
	Until          time.Time    `json:"until"`              // the end of it: when the snapshot was taken
	Clusters       []string     `json:"clusters"`           // sorted
	Previous       string       `json:"previous,omitempty"` // the campaign that items are compared with
	Snapshot       string       `json:"snapshot"`           // hex SHA-256 of the snapshot's bytes
	Items          int          `json:"items"`
	Pages          int          `json:"pages"`          // CampaignItems entries that follow
	Reviewers      []FrozenTeam `json:"reviewers"`      // who may answer
	AdminReviewers int          `json:"adminReviewers"` // people who must say keep to an admin item
	Deadline       time.Time    `json:"deadline"`
	PolicyDigest   string       `json:"policyDigest"`
	Rules          int          `json:"rules,omitempty"` // that it goes by; 0: those of before there was a number
}

// CampaignItems is one page of what a campaign asks about.
type CampaignItems struct {
	First int          `json:"first"` // index of the page's first item
	Items []FrozenItem `json:"items"`
}

// Verdict is what a reviewer says about an item.
type Verdict string

// The verdicts.
const (
	VerdictKeep   Verdict = "keep"
	VerdictRevoke Verdict = "revoke"
)

// Judged is an item as the reviewer saw it.
type Judged struct {
	ID     string `json:"id"`
	Digest string `json:"digest"`
}

// CampaignDecided is one reviewer's word on items. The reason is an erasable text. More than one item at a time can only be
// kept, and only if nothing about them got wider.
type CampaignDecided struct {
	By      Actor    `json:"by"`
	Verdict Verdict  `json:"verdict"`
	Items   []Judged `json:"items"`
}

// CampaignSuspended takes eligibility away until two people give it back: all that the items cover and is not suspended yet, or a
// part of what one item covers, where a floor keeps the rest.
type CampaignSuspended struct {
	Why   string   `json:"why"`            // WhyRevoked or WhyUnanswered
	Items []string `json:"items"`          // ids
	Moot  bool     `json:"moot,omitempty"` // the policy does not have these profiles there any more: no floor holds for them
	Only  []Share  `json:"only,omitempty"` // the part of the one item
}

// CampaignEscalated says loudly what the daemon could not settle.
type CampaignEscalated struct {
	Why   string   `json:"why"`   // WhyUnanswered or WhyFloor
	Items []string `json:"items"` // ids
}

// CampaignSettled takes off an ended campaign what it still owed: a later one came to something about the same eligibility, and
// what was said last holds.
type CampaignSettled struct {
	Campaign string   `json:"campaign"` // id of the later one
	Items    []string `json:"items"`    // ids
}

// Why something is suspended or escalated.
const (
	WhyRevoked    = "revoked"    // a reviewer said revoke
	WhyUnanswered = "unanswered" // the deadline passed
	WhyFloor      = "floor"      // a suspension would leave too few people for an emergency
)

// CampaignReinstated is one person's word that suspended eligibility comes back; it does with the second person's. The reason
// is an erasable text.
type CampaignReinstated struct {
	By    Actor    `json:"by"`
	Items []string `json:"items"` // ids
}

// CampaignReminded says that reviewers were to be reminded.
type CampaignReminded struct {
	Days int `json:"days"` // left until the deadline
	Open int `json:"open"` // items without an answer
}

// CampaignAcknowledged says that what was revoked has been taken away. Whom it is about cannot say so. The note is an erasable
// text. A scan proves it, where it is in a cluster.
type CampaignAcknowledged struct {
	By    Actor    `json:"by"`
	Items []string `json:"items"` // ids
}

// CampaignProved is what a later scan says about things that were revoked.
type CampaignProved struct {
	Snapshot string   `json:"snapshot"` // hex SHA-256 of what the scan saw
	Gone     []string `json:"gone,omitempty"`
	Still    []string `json:"still,omitempty"` // ids of those that are still there
}

// CampaignClosed ends a campaign. The four add up to its items.
type CampaignClosed struct {
	Kept      int `json:"kept"`
	Revoked   int `json:"revoked"`
	Suspended int `json:"suspended"` // without an answer
	Escalated int `json:"escalated"` // without an answer, and not suspended
}

// Kind names the event in the ledger. Kinds are never renamed or reused.
func (CampaignOpened) Kind() string       { return "campaign-opened/v1" }
func (CampaignItems) Kind() string        { return "campaign-items/v2" }
func (CampaignDecided) Kind() string      { return "campaign-decided/v1" }
func (CampaignSuspended) Kind() string    { return "campaign-suspended/v2" }
func (CampaignEscalated) Kind() string    { return "campaign-escalated/v1" }
func (CampaignSettled) Kind() string      { return "campaign-settled/v1" }
func (CampaignReinstated) Kind() string   { return "campaign-reinstated/v1" }
func (CampaignReminded) Kind() string     { return "campaign-reminded/v1" }
func (CampaignAcknowledged) Kind() string { return "campaign-acknowledged/v1" }
func (CampaignProved) Kind() string       { return "campaign-proved/v1" }
func (CampaignClosed) Kind() string       { return "campaign-closed/v1" }

// CampaignStream is how the stream of a campaign begins: its id.
const CampaignStream = "campaign-"

// campaignKinds are the kinds of entries about campaigns.
var campaignKinds = Kinds{
	"campaign-opened/v1":       As[CampaignOpened],
	"campaign-items/v1":        itemsV1,
	"campaign-items/v2":        As[CampaignItems],
	"campaign-decided/v1":      As[CampaignDecided],
	"campaign-suspended/v1":    Older[CampaignSuspended]("only"),
	"campaign-suspended/v2":    As[CampaignSuspended],
	"campaign-escalated/v1":    As[CampaignEscalated],
	"campaign-settled/v1":      As[CampaignSettled],
	"campaign-reinstated/v1":   As[CampaignReinstated],
	"campaign-reminded/v1":     As[CampaignReminded],
	"campaign-acknowledged/v1": As[CampaignAcknowledged],
	"campaign-proved/v1":       As[CampaignProved],
	"campaign-closed/v1":       As[CampaignClosed],
}

// itemsV1 decodes a page of items of before a campaign reviewed places in teams and what teams may do.
func itemsV1(body []byte) (Event, error) {
	ev, err := As[CampaignItems](body)
	if err != nil {
		return nil, err
	}
	page, _ := ev.(CampaignItems)
	for _, i := range page.Items {
		if i.Member != (Membership{}) || i.Way != nil {
			return nil, fmt.Errorf("item %q: member and way came with a later number of this kind", clip(i.ID, 100))
		}
	}
	return ev, nil
}
