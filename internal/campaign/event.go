package campaign

import (
	"fmt"
	"time"

	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

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
// beside the ledger under the digest in Opened.
type FrozenItem struct {
	ID     string             `json:"id"`     // stable over campaigns: the same thing has the same id
	Digest string             `json:"digest"` // hex SHA-256 of everything the reviewer is shown about it
	State  ItemState          `json:"state"`
	Admin  bool               `json:"admin,omitempty"` // equal to cluster-admin or a way to it: AdminReviewers people must say keep
	High   bool               `json:"high,omitempty"`  // a keep needs a reason
	Not    []string           `json:"not,omitempty"`   // who cannot judge it because it is about them; person ids, sorted
	Gives  policy.Eligibility `json:"gives,omitzero"`  // of campaigns of before: one eligibility, which a revoke or silence suspends
	// id of the thing in a cluster that a later scan can prove gone; empty: not in a cluster
	Object string `json:"object,omitempty"`

	// A revoke or silence suspends all that a place in a team gives by the ways of the team in the same campaign, and all that a way
	// gives to those who are in the team by the same campaign. An item is about one of Gives, Member and Way, or about nothing that the
	// daemon can take away.
	Member policy.Membership `json:"member,omitzero"`
	Way    *policy.TeamPart  `json:"way,omitempty"`
}

// Opened begins the review of everything that could let a person into a cluster. The pages of items follow in the same
// append.
type Opened struct {
	By             *record.Actor       `json:"by,omitempty"`       // who ordered it; nil: the schedule
	Due            time.Time           `json:"due,omitzero"`       // when the schedule wanted it
	From           time.Time           `json:"from"`               // the period under review
	Until          time.Time           `json:"until"`              // the end of it: when the snapshot was taken
	Clusters       []string            `json:"clusters"`           // sorted
	Previous       string              `json:"previous,omitempty"` // the campaign that items are compared with
	Snapshot       string              `json:"snapshot"`           // hex SHA-256 of the snapshot's bytes
	Items          int                 `json:"items"`
	Pages          int                 `json:"pages"`          // entries of Items that follow
	Reviewers      []policy.FrozenTeam `json:"reviewers"`      // who may answer
	AdminReviewers int                 `json:"adminReviewers"` // people who must say keep to an admin item
	Deadline       time.Time           `json:"deadline"`
	PolicyDigest   string              `json:"policyDigest"`
	Rules          int                 `json:"rules,omitempty"` // that it goes by; 0: those of before there was a number
}

// Items is one page of what a campaign asks about.
type Items struct {
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

// Decided is one reviewer's word on items. The reason is an erasable text. More than one item at a time can only be
// kept, and only if nothing about them got wider.
type Decided struct {
	By      record.Actor `json:"by"`
	Verdict Verdict      `json:"verdict"`
	Items   []Judged     `json:"items"`
}

// Suspended takes eligibility away until two people give it back: all that the items cover and is not suspended yet, or a
// part of what one item covers, where a floor keeps the rest.
type Suspended struct {
	Why   string         `json:"why"`            // WhyRevoked or WhyUnanswered
	Items []string       `json:"items"`          // ids
	Moot  bool           `json:"moot,omitempty"` // the policy does not have these profiles there any more: no floor holds for them
	Only  []policy.Share `json:"only,omitempty"` // the part of the one item
}

// Escalated says loudly what the daemon could not settle.
type Escalated struct {
	Why   string   `json:"why"`   // WhyUnanswered or WhyFloor
	Items []string `json:"items"` // ids
}

// Settled takes off an ended campaign what it still owed: a later one came to something about the same eligibility, and
// what was said last holds.
type Settled struct {
	Campaign string   `json:"campaign"` // id of the later one
	Items    []string `json:"items"`    // ids
}

// Why something is suspended or escalated.
const (
	WhyRevoked    = "revoked"    // a reviewer said revoke
	WhyUnanswered = "unanswered" // the deadline passed
	WhyFloor      = "floor"      // a suspension would leave too few people for an emergency
)

// Reinstated is one person's word that suspended eligibility comes back; it does with the second person's. The reason
// is an erasable text.
type Reinstated struct {
	By    record.Actor `json:"by"`
	Items []string     `json:"items"` // ids
}

// Reminded says that reviewers were to be reminded.
type Reminded struct {
	Days int `json:"days"` // left until the deadline
	Open int `json:"open"` // items without an answer
}

// Acknowledged says that what was revoked has been taken away. Whom it is about cannot say so. The note is an erasable
// text. A scan proves it, where it is in a cluster.
type Acknowledged struct {
	By    record.Actor `json:"by"`
	Items []string     `json:"items"` // ids
}

// Proved is what a later scan says about things that were revoked.
type Proved struct {
	Snapshot string   `json:"snapshot"` // hex SHA-256 of what the scan saw
	Gone     []string `json:"gone,omitempty"`
	Still    []string `json:"still,omitempty"` // ids of those that are still there
}

// Closed ends a campaign. The four add up to its items.
type Closed struct {
	Kept      int `json:"kept"`
	Revoked   int `json:"revoked"`
	Suspended int `json:"suspended"` // without an answer
	Escalated int `json:"escalated"` // without an answer, and not suspended
}

// Kind names the event in the ledger. Kinds are never renamed or reused.
func (Opened) Kind() string { return "campaign-opened/v1" }

// Kind is as that of every record.Event.
func (Items) Kind() string { return "campaign-items/v2" }

// Kind is as that of every record.Event.
func (Decided) Kind() string { return "campaign-decided/v1" }

// Kind is as that of every record.Event.
func (Suspended) Kind() string { return "campaign-suspended/v2" }

// Kind is as that of every record.Event.
func (Escalated) Kind() string { return "campaign-escalated/v1" }

// Kind is as that of every record.Event.
func (Settled) Kind() string { return "campaign-settled/v1" }

// Kind is as that of every record.Event.
func (Reinstated) Kind() string { return "campaign-reinstated/v1" }

// Kind is as that of every record.Event.
func (Reminded) Kind() string { return "campaign-reminded/v1" }

// Kind is as that of every record.Event.
func (Acknowledged) Kind() string { return "campaign-acknowledged/v1" }

// Kind is as that of every record.Event.
func (Proved) Kind() string { return "campaign-proved/v1" }

// Kind is as that of every record.Event.
func (Closed) Kind() string { return "campaign-closed/v1" }

// Stream is how the stream of a campaign begins: its id.
const Stream = "campaign-"

// Kinds are the kinds of entries about campaigns.
var Kinds = record.Kinds{
	"campaign-opened/v1":       ruled[Opened](),
	"campaign-items/v1":        itemsV1,
	"campaign-items/v2":        ruled[Items](),
	"campaign-decided/v1":      ruled[Decided](),
	"campaign-suspended/v1":    ruled[Suspended]("only"),
	"campaign-suspended/v2":    ruled[Suspended](),
	"campaign-escalated/v1":    ruled[Escalated](),
	"campaign-settled/v1":      ruled[Settled](),
	"campaign-reinstated/v1":   ruled[Reinstated](),
	"campaign-reminded/v1":     ruled[Reminded](),
	"campaign-acknowledged/v1": ruled[Acknowledged](),
	"campaign-proved/v1":       ruled[Proved](),
	"campaign-closed/v1":       ruled[Closed](),
}

// ruled decodes an event of a campaign, which has a rule; later are the fields that a former number of its kind does not have.
func ruled[E campaignEvent](later ...string) func([]byte) (record.Event, error) {
	if len(later) == 0 {
		return record.As[E]
	}
	return record.Older[E](later...)
}

// itemsV1 decodes a page of items of before a campaign reviewed places in teams and what teams may do.
func itemsV1(body []byte) (record.Event, error) {
	ev, err := record.As[Items](body)
	if err != nil {
		return nil, err
	}
	page, _ := ev.(Items)
	for _, i := range page.Items {
		if i.Member != (policy.Membership{}) || i.Way != nil {
			return nil, fmt.Errorf("item %q: member and way came with a later number of this kind", record.Clip(i.ID, 100))
		}
	}
	return ev, nil
}
