package recert

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/text"
)

// Topic is the subject of review that an item belongs to.
type Topic string

// The six subjects of review.
const (
	TopicEligibility Topic = "eligibility" // who may ask and who may approve, their keys and accounts
	TopicOwn         Topic = "own"         // what the daemon itself may do in Vault and in the clusters
	TopicPower       Topic = "power"       // who holds power in a cluster
	TopicDoors       Topic = "doors"       // ways into a cluster
	TopicEmergency   Topic = "emergency"   // emergency access that was used
	TopicChecks      Topic = "checks"      // drills and checks
)

// Topics lists the subjects of review in the order of a report.
func Topics() []Topic {
	return []Topic{TopicEligibility, TopicOwn, TopicPower, TopicDoors, TopicEmergency, TopicChecks}
}

// Title is the topic's heading.
func (t Topic) Title() string {
	switch t {
	case TopicEligibility:
		return "Who may break the glass"
	case TopicOwn:
		return "What the daemon itself may do"
	case TopicPower:
		return "Standing power in the clusters"
	case TopicDoors:
		return "Doors into the clusters"
	case TopicEmergency:
		return "Emergency access that was used"
	case TopicChecks:
		return "Drills and checks"
	}
	return string(t)
}

// Item is one thing under review, with everything that a reviewer is shown about it.
type Item struct {
	ID       string             `json:"id"` // stable over campaigns
	Topic    Topic              `json:"topic"`
	Kind     string             `json:"kind"` // what it is in its topic: "approver", "key", "grant", or an doors.ItemKind
	Cluster  string             `json:"cluster,omitempty"`
	Title    string             `json:"title"`
	Evidence []string           `json:"evidence"`
	Risk     inventory.Severity `json:"risk"`
	State    campaign.ItemState `json:"state"`
	Was      string             `json:"was,omitempty"` // when it was last kept, in words
	Admin    bool               `json:"admin,omitempty"`
	Not      []string           `json:"not,omitempty"`    // people it is about, who cannot judge it; sorted
	Gives    policy.Eligibility `json:"gives,omitzero"`   // of campaigns of before: what a revoke suspends
	Object   string             `json:"object,omitempty"` // id by which the next scan proves it gone
	Proof    []string           `json:"proof,omitempty"`  // what that scan must have seen whole: see doors.Unproven
	Grants   []string           `json:"grants,omitempty"` // what it gives, sorted: more is wider
	TakeAway string             `json:"takeAway,omitempty"`
	Advice   string             `json:"advice,omitempty"`
	Since    *time.Time         `json:"since,omitempty"` // how old it is, where that is known
	Orphan   bool               `json:"orphan,omitempty"`
	Dormant  bool               `json:"dormant,omitempty"`
	// Fingerprint is a digest of what it says without what changes by itself, such as counts and times of use.
	Fingerprint string `json:"fingerprint"`

	// What one answer is about, where that is more than one thing: see breakglass.FrozenItem for the first two.
	Member policy.Membership `json:"member,omitzero"`
	Way    *policy.TeamPart  `json:"way,omitempty"`
	Places []Place           `json:"places,omitempty"` // the same thing in several clusters
}

// Place is where a thing is that is the same in several clusters.
type Place struct {
	Cluster string `json:"cluster"`
	ID      string `json:"id"`               // of the item that it would be by itself
	Object  string `json:"object,omitempty"` // id by which the next scan of the cluster proves it gone
}

// where lists the clusters that the item is about.
func (i *Item) where() []string {
	switch {
	case i.Way != nil:
		return i.Way.Clusters
	case len(i.Places) > 0:
		out := make([]string, len(i.Places))
		for n, p := range i.Places {
			out[n] = p.Cluster
		}
		return out
	case i.Cluster != "":
		return []string{i.Cluster}
	}
	return nil
}

// ids are the ids that the item would have, cluster by cluster; but for several places it is one, its own.
func (i *Item) ids() []string {
	if len(i.Places) == 0 {
		return []string{i.ID}
	}
	out := make([]string, len(i.Places))
	for n, p := range i.Places {
		out[n] = p.ID
	}
	return out
}

// places are where a scan looks for the item.
func (i *Item) places() []Place {
	if len(i.Places) > 0 {
		return i.Places
	}
	return []Place{{Cluster: i.Cluster, ID: i.ID, Object: i.Object}}
}

// eligibility reports whether the daemon itself withdraws what the item gives.
func (i *Item) eligibility() bool {
	return i.Gives.Person != "" || i.Member.Person != "" || i.Way != nil
}

// High reports whether keeping it needs a reason.
func (i *Item) High() bool { return i.Admin || i.Risk.AtLeast(inventory.High) }

// Frozen is the item as the ledger keeps it.
func (i *Item) Frozen() campaign.FrozenItem {
	return campaign.FrozenItem{ID: i.ID, Digest: i.Digest(), State: i.State, Admin: i.Admin, High: i.High(), Not: i.Not, Gives: i.Gives,
		Object: i.Object, Member: i.Member, Way: i.Way}
}

// Digest is the hex SHA-256 of everything the item says. encoding/json writes struct fields in their order, so it is stable.
func (i *Item) Digest() string { return digestOf(i) }

func digestOf(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic("encoding: " + err.Error()) // only plain data types: cannot happen
	}
	return text.SHA256(raw)
}

// compare sets the item's state from what it was when it was last kept; nil if it never was.
func (i *Item) compare(kept *Item) {
	was := doors.Item{}
	if kept != nil {
		was = kept.inventory()
	}
	i.State = campaign.ItemState(doors.Compare(was, i.inventory()))
}

func (i *Item) inventory() doors.Item {
	return doors.Item{ID: i.ID, Risk: i.Risk, Admin: i.Admin, Grants: i.Grants, Fingerprint: i.Fingerprint, Orphan: i.Orphan,
		Dormant: i.Dormant}
}

// snapshotVersion is the number of the form of a snapshot. 1 had no places in teams, no ways, and one item for each cluster.
const snapshotVersion = 2

// Snapshot is everything that a campaign is about, as it was when it opened.
type Snapshot struct {
	Version       int               `json:"version"` // of this form: see snapshotVersion
	From          time.Time         `json:"from"`
	Until         time.Time         `json:"until"`
	PolicyDigest  string            `json:"policyDigest"`
	PolicyChanges []string          `json:"policyChanges,omitempty"` // since From, in words
	Names         map[string]string `json:"names"`                   // of people, by id
	Ledger        string            `json:"ledger"`                  // origin
	LedgerSize    int64             `json:"ledgerSize"`              // entries when it was taken
	LedgerRoot    string            `json:"ledgerRoot"`
	Clusters      []ClusterLook     `json:"clusters"`
	Items         []Item            `json:"items"`
	Grants        []Grant           `json:"grants"`
	Checks        []Check           `json:"checks"`
	Suspended     []string          `json:"suspended,omitempty"` // eligibility that was suspended when it was taken, in words
}

// ClusterLook is how a cluster was looked at.
type ClusterLook struct {
	ID            string             `json:"id"`
	Server        string             `json:"server,omitempty"`
	Version       string             `json:"version,omitempty"`
	CAFingerprint string             `json:"caFingerprint,omitempty"`
	Collector     string             `json:"collector,omitempty"`
	At            time.Time          `json:"at"`
	Took          time.Duration      `json:"took"`
	Requests      int                `json:"requests"`
	Sources       []inventory.Source `json:"sources,omitempty"` // with resource versions and counts
	Doors         []doors.Door       `json:"doors,omitempty"`
	Expected      int                `json:"expected"`          // things that every such cluster has: seen, and not asked about
	Problem       string             `json:"problem,omitempty"` // why it was not looked at
}

// Grant is one use of emergency access in the period.
type Grant struct {
	ID        string     `json:"id"`
	Person    string     `json:"person"`
	Profile   string     `json:"profile"`
	Cluster   string     `json:"cluster"`
	Risk      string     `json:"risk"`
	Reason    string     `json:"reason,omitempty"`
	Incident  string     `json:"incident,omitempty"`
	State     string     `json:"state"`
	Asked     time.Time  `json:"asked"`
	Approvals []Consent  `json:"approvals"`
	Approved  *int64     `json:"approvedSeconds,omitempty"` // from asking to the last approval needed
	Issued    *time.Time `json:"issued,omitempty"`
	Ended     *time.Time `json:"ended,omitempty"`
	TTL       int64      `json:"ttlSeconds"`
	Used      string     `json:"used"`                // "yes", "no" or "unknown"
	Done      string     `json:"done,omitempty"`      // what the session report counted, in words
	LeftOver  int        `json:"leftOver"`            // things that the sweep found
	Note      string     `json:"note,omitempty"`      // closing note
	NoteState string     `json:"noteState,omitempty"` // "written", "missing", "overdue" or empty: none is asked for
	OffHours  bool       `json:"offHours,omitempty"`
}

// Consent is one approval of a Grant.
type Consent struct {
	Person  string `json:"person"`
	Channel string `json:"channel"`
	Seconds int64  `json:"seconds"` // after the request
	Signed  bool   `json:"signed,omitempty"`
}

// Check is one scheduled or ordered check in the period.
type Check struct {
	Check   string    `json:"check"`
	Cluster string    `json:"cluster,omitempty"`
	At      time.Time `json:"at"`
	OK      bool      `json:"ok"`
	Verdict string    `json:"verdict"`
	// Findings are the keys of what it found that people must know.
	Findings []string `json:"findings,omitempty"`
}

// encode is the snapshot's bytes: what its digest is of.
func (s *Snapshot) encode() []byte {
	text, err := json.Marshal(s)
	if err != nil {
		panic("encoding a snapshot: " + err.Error()) // only plain data types: cannot happen
	}
	return text
}

// decodeSnapshot reads a snapshot's bytes strictly and holds them against the digest that the ledger has.
func decodeSnapshot(raw []byte, digest string) (*Snapshot, error) {
	if got := text.SHA256(raw); got != digest {
		return nil, fmt.Errorf("the snapshot has digest %s, the ledger says %s", got, digest)
	}
	var form struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(raw, &form); err == nil && form.Version > snapshotVersion {
		return nil, fmt.Errorf("the snapshot is of version %d, this program reads those up to %d: %w", form.Version, snapshotVersion,
			record.ErrNewerRelease)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	var s Snapshot
	if err := d.Decode(&s); err != nil {
		return nil, fmt.Errorf("reading the snapshot: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("reading the snapshot: bytes after the end")
	}
	if s.Version < 1 {
		return nil, fmt.Errorf("the snapshot is of version %d, which there never was", s.Version)
	}
	return &s, nil
}

// save makes a snapshot durable in a directory, under its digest, and returns that.
func save(dir string, s *Snapshot) (digest string, err error) {
	raw := s.encode()
	digest = text.SHA256(raw)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("making the directory of snapshots: %w", err)
	}
	f, err := os.CreateTemp(dir, "snapshot-*.tmp")
	if err != nil {
		return "", fmt.Errorf("writing a snapshot: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(raw)
	err = cmp.Or(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), snapshotPath(dir, digest))
	}
	if err == nil {
		err = ledger.SyncDir(dir)
	}
	if err != nil {
		return "", fmt.Errorf("writing a snapshot: %w", err)
	}
	return digest, nil
}

func snapshotPath(dir, digest string) string { return filepath.Join(dir, "snapshot-"+digest+".json") }

// read reads the snapshot with a digest from the directory of snapshots.
func read(dir, digest string) (*Snapshot, error) {
	if len(digest) != 64 || strings.Trim(digest, "0123456789abcdef") != "" {
		return nil, fmt.Errorf("%q is no digest", digest)
	}
	raw, err := os.ReadFile(snapshotPath(dir, digest))
	if err != nil {
		return nil, fmt.Errorf("reading the snapshot of a campaign (bring it back from the backup): %w", err)
	}
	return decodeSnapshot(raw, digest)
}

// sortItems brings items into the order of a report: by topic, the worst first.
func sortItems(items []Item) {
	order := map[Topic]int{}
	for n, t := range Topics() {
		order[t] = n
	}
	slices.SortStableFunc(items, func(a, b Item) int {
		return cmp.Or(cmp.Compare(order[a.Topic], order[b.Topic]), cmp.Compare(b.Risk.Rank(), a.Risk.Rank()), cmp.Compare(a.ID, b.ID))
	})
}
