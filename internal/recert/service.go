package recert

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// defaultPeriod is what the first campaign looks back over: a quarter.
const defaultPeriod = 92 * 24 * time.Hour

// Config is what New needs. Domain, Campaigns, Ledger, Signer, Dir and Clusters are required.
type Config struct {
	Domain    *breakglass.Service
	Campaigns *campaign.Book
	Ledger    *ledger.Ledger
	Signer    note.Signer // the ledger's key: it signs evidence bundles
	// Dir is where snapshots are kept. It belongs to what is backed up with the ledger.
	Dir      string
	Clusters []string
	// Scan looks at a cluster. nil: clusters are not looked at, and each campaign says so.
	Scan func(ctx context.Context, cluster string) (*inventory.Snapshot, *doors.Analysis, error)
	// Own says what the daemon itself may do: items of TopicOwn, each complete but for State and Fingerprint. It may be nil.
	Own func(ctx context.Context) ([]Item, error)
	// Accounts asks Slack about accounts. It may be nil.
	Accounts func(ctx context.Context, accounts []record.SlackAccount) (map[record.SlackAccount]AccountState, error)
	Hours    Hours // default 8 to 18 UTC
	Log      *slog.Logger
}

// looked is the kinds of the entries that say what the daemon looked at by itself.
var looked = record.Join(finding.Kinds, breakglass.Kinds)

// Service opens campaigns and shows them. It is safe for concurrent use.
type Service struct {
	cfg Config

	mu     sync.Mutex           // guards cached
	cached map[string]*Snapshot // by digest: the last one that was read, which is what everybody looks at
}

// New checks the configuration.
func New(cfg Config) (*Service, error) {
	if cfg.Domain == nil || cfg.Campaigns == nil || cfg.Ledger == nil || cfg.Signer == nil || cfg.Dir == "" {
		return nil, errors.New("recert: domain, campaigns, ledger, signer and directory are required")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Hours.Zone == nil {
		cfg.Hours.Zone = time.UTC
	}
	if cfg.Hours.From == 0 && cfg.Hours.To == 0 {
		cfg.Hours.From, cfg.Hours.To = 8, 18
	}
	return &Service{cfg: cfg, cached: map[string]*Snapshot{}}, nil
}

// Start opens a campaign: by is who ordered it, nil when the schedule did, due when the schedule wanted it. A cluster that
// cannot be looked at does not hold it up: that nothing is known of it becomes an item.
func (s *Service) Start(ctx context.Context, by *record.Actor, due time.Time) (*campaign.Campaign, error) {
	if err := s.cfg.Campaigns.MayStart(ctx, by); err != nil {
		return nil, err
	}
	last, lastSnapshot, err := s.lastClosed(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC().Truncate(time.Second)
	from := now.Add(-defaultPeriod)
	if last != nil {
		from = last.Opened.Until
	}
	if !from.Before(now) {
		from = now.Add(-time.Second) // two campaigns within a second
	}
	snap, looks, err := s.snapshot(ctx, from, now, last)
	if err != nil {
		return nil, err
	}
	previous := ""
	if last != nil {
		previous = last.ID
	}
	compareAll(snap, last, lastSnapshot)
	snap.Items = together(snap.Items)
	sortItems(snap.Items)
	digest, err := save(s.cfg.Dir, snap)
	if err != nil {
		return nil, err
	}
	plan := campaign.Plan{Due: due, From: from, Until: now, Clusters: s.cfg.Clusters, Previous: previous, Snapshot: digest}
	for n := range snap.Items {
		plan.Items = append(plan.Items, snap.Items[n].Frozen())
	}
	c, err := s.cfg.Campaigns.Start(ctx, by, plan)
	if err != nil {
		return nil, err
	}
	s.cfg.Log.Info("a recertification campaign is open", slog.String("campaign", c.ID), slog.Int("items", len(c.Items)),
		slog.Time("deadline", c.Opened.Deadline))
	if last == nil {
		return c, nil
	}
	_, err = s.prove(ctx, last.ID, lastSnapshot, looks, digest)
	return c, err
}

// Job is Start for a schedule: the job of schedule.Scheduler.Add. Run again for the same due time it finds its own campaign and
// opens no second one.
func (s *Service) Job(ctx context.Context, due time.Time) error {
	ids, err := s.cfg.Campaigns.IDs(ctx)
	if err != nil {
		return err
	}
	if len(ids) > 0 {
		c, err := s.cfg.Campaigns.Get(ctx, ids[len(ids)-1])
		if err != nil || c.Opened.Due.Equal(due) {
			return err
		}
	}
	_, err = s.Start(ctx, nil, due)
	return err
}

// compareAll sets every item's state from the last campaign in which it was kept.
func compareAll(snap *Snapshot, last *campaign.Campaign, lastSnapshot *Snapshot) {
	kept, had, was := map[string]*Item{}, map[string]bool{}, map[string]*campaign.Item{}
	if last != nil {
		for n := range lastSnapshot.Items {
			old := &lastSnapshot.Items[n]
			i, ok := last.Item(old.ID)
			for _, id := range old.ids() {
				had[id], was[id] = true, i
				if ok && last.Outcome(i) == campaign.OutcomeKeep {
					kept[id] = old
				}
			}
		}
	}
	for n := range snap.Items {
		i := &snap.Items[n]
		if i.Topic == TopicEligibility && !had[i.ID] {
			i.Dormant = false // it may have come yesterday
		}
		i.compare(kept[i.ID])
		if kept[i.ID] != nil {
			i.Was = "kept in " + last.ID
		} else if old := was[i.ID]; old != nil {
			i.Was = string(last.Outcome(old)) + " in " + last.ID
		}
	}
}

// lastClosed is the last campaign that has ended, with its snapshot; nil if there was no such campaign.
func (s *Service) lastClosed(ctx context.Context) (*campaign.Campaign, *Snapshot, error) {
	ids, err := s.cfg.Campaigns.IDs(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, id := range slices.Backward(ids) {
		c, err := s.cfg.Campaigns.Get(ctx, id)
		if err != nil {
			return nil, nil, err
		}
		if c.Closed == nil {
			continue
		}
		snap, err := s.Snapshot(c)
		return c, snap, err
	}
	return nil, nil, nil
}

// snapshot looks at everything. What was said in the last campaign, which may be nil, counts as use of a key or an account.
func (s *Service) snapshot(ctx context.Context, from, now time.Time, last *campaign.Campaign) (*Snapshot, []look, error) {
	p := s.cfg.Domain.Policy()
	cp, err := s.cfg.Ledger.Checkpoint(ctx)
	if err != nil {
		return nil, nil, err
	}
	snap := &Snapshot{Version: snapshotVersion, From: from, Until: now, PolicyDigest: p.Digest, Ledger: cp.Origin, LedgerSize: cp.Size,
		LedgerRoot: cp.Root.String(), Names: map[string]string{},
		Clusters: []ClusterLook{}, Items: []Item{}, Grants: []Grant{}, Checks: []Check{}}
	for _, x := range p.People {
		snap.Names[x.ID] = x.Name
	}
	for _, e := range p.Suspensions() {
		snap.Suspended = append(snap.Suspended, e.String())
	}
	f := &facts{policy: p, from: from, now: now, hours: s.cfg.Hours, last: last, admin: map[string][]inventory.Ref{},
		unread: map[string]bool{}}
	entries, err := s.cfg.Ledger.Stream(ctx, policy.Stream)
	if err != nil {
		return nil, nil, err
	}
	if f.history, err = policyHistory(entries); err != nil {
		return nil, nil, err
	}
	for _, v := range f.history {
		if v.at.After(from) {
			snap.PolicyChanges = append(snap.PolicyChanges, v.changes...)
		}
	}
	// A grant that was asked for before the period may be used in it, or be accounted for in it.
	all, err := s.cfg.Domain.Since(ctx, int((now.Sub(from)+defaultPeriod).Hours()/24)+1)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range all {
		if inPeriod(r, from, now) {
			f.requests = append(f.requests, r)
		}
	}
	if s.cfg.Accounts != nil {
		var accounts []record.SlackAccount
		for _, x := range p.People {
			accounts = append(accounts, x.Slack...)
		}
		actx, cancel := context.WithTimeout(ctx, accountsTime)
		f.accounts, err = s.cfg.Accounts(actx, accounts)
		cancel()
		if err != nil {
			s.cfg.Log.Warn("Slack could not be asked about accounts", slog.Any("error", err))
		}
		f.looked = err == nil
	}
	var looks []look
	for _, id := range s.cfg.Clusters {
		l := s.look(ctx, id, p)
		f.admin[id], f.unread[id] = l.admin, s.cfg.Scan != nil && (l.Problem != "" ||
			doors.Unproven([]string{inventory.SourceClusterRoles, inventory.SourceRoles}, l.Sources, nil) != "")
		looks = append(looks, l)
		snap.Clusters, snap.Items = append(snap.Clusters, l.ClusterLook), append(snap.Items, l.items...)
	}
	snap.Items = append(snap.Items, f.eligibilityItems()...)
	grants, items := f.emergency()
	snap.Grants, snap.Items = append(snap.Grants, grants...), append(snap.Items, items...)
	checks, canaries, err := s.inLedger(ctx, from)
	if err != nil {
		return nil, nil, err
	}
	snap.Checks = checks
	snap.Items = append(snap.Items, checkItems(snap.Checks, s.cfg.Domain.Findings.Open(), s.cfg.Clusters, from)...)
	snap.Items = append(snap.Items, f.receiptItems()...)
	canaries = slices.DeleteFunc(canaries, func(c canary) bool { return c.underWay(now) })
	snap.Items = append(snap.Items, canaryItems(canaries, from)...)
	snap.Items = append(snap.Items, s.own(ctx)...)
	sortItems(snap.Items)
	return snap, looks, nil
}

// inLedger lists the checks of the period, and what became of its canaries, the oldest first. The ledger holds years of both, and
// canaries are in no index: it is read from the first entry of the period on.
func (s *Service) inLedger(ctx context.Context, from time.Time) (checks []Check, canaries []canary, err error) {
	const page = 1000
	at, end := int64(0), s.cfg.Ledger.Size()
	for at < end { // the entries are in the order of time
		middle := at + (end-at)/2
		one, err := s.cfg.Ledger.Entries(ctx, middle, 1)
		if err != nil {
			return nil, nil, err
		}
		if len(one) == 0 || !one[0].Time.Before(from) {
			end = middle
		} else {
			at = middle + 1
		}
	}
	checks = []Check{}
	index := map[string]int{} // of canaries, by stream
	for {
		entries, err := s.cfg.Ledger.Entries(ctx, at, page)
		if err != nil || len(entries) == 0 {
			return checks, canaries, err
		}
		for _, e := range entries {
			if e.Stream != finding.CheckStream && !strings.HasPrefix(e.Stream, breakglass.CanaryStream) {
				continue
			}
			ev, err := looked.Decode(e)
			if err != nil {
				return nil, nil, err
			}
			switch ev := ev.(type) {
			case finding.CheckRun:
				if !ev.OK || !strings.HasPrefix(ev.Check, finding.SchedulePrefix) {
					checks = append(checks, Check{Check: ev.Check, Cluster: ev.Cluster, At: e.Time, OK: ev.OK, Verdict: ev.Verdict, Findings: ev.Findings})
				}
			case breakglass.CanaryOrdered:
				index[e.Stream] = len(canaries)
				canaries = append(canaries, canary{cluster: ev.Cluster, at: e.Time})
			case breakglass.CanaryDone:
				if n, ok := index[e.Stream]; ok {
					canaries[n].done = &ev
				}
			}
		}
		at += int64(len(entries))
	}
}

// own is what the daemon itself may do; that it cannot be told is an item too.
func (s *Service) own(ctx context.Context) []Item {
	if s.cfg.Own == nil {
		return []Item{unknown(TopicOwn, "own/not-looked-at", "", "what the daemon itself may do was not looked at",
			"nothing is set up to look at it")}
	}
	items, err := s.cfg.Own(ctx)
	if err != nil {
		s.cfg.Log.Warn("the daemon's own rights could not be read", slog.Any("error", err))
		items = append(items, unknown(TopicOwn, "own/not-readable", "", "not all that the daemon itself may do could be read", err.Error()))
	}
	for n := range items {
		items[n].Topic = TopicOwn
		items[n].Fingerprint = digestOf([]any{items[n].ID, items[n].Title, items[n].Grants})
	}
	return items
}

// A look is what one look at a cluster saw.
type look struct {
	ClusterLook
	items []Item          // to be answered for
	there map[string]bool // ids of all that is there, also of what is expected and not asked about
	admin []inventory.Ref // roles that are as good as cluster-admin
}

// look scans a cluster.
func (s *Service) look(ctx context.Context, id string, p *policy.Policy) look {
	l := look{ClusterLook: ClusterLook{ID: id, At: time.Now().UTC()}}
	fail := func(why string) look {
		l.Problem = why
		i := unknown(TopicDoors, "cluster/"+id+"/not-looked-at", id, "nothing is known about who has power in "+id+" and which doors are open",
			why)
		i.Admin = true
		l.items = []Item{i}
		return l
	}
	if s.cfg.Scan == nil {
		return fail("clusters are not looked at here")
	}
	in, judged, err := s.cfg.Scan(ctx, id)
	if err != nil {
		s.cfg.Log.Warn("a cluster could not be looked at", slog.String("cluster", id), slog.Any("error", err))
		return fail(err.Error())
	}
	all := doors.Items(in, judged)
	l.items, l.there, l.admin = clusterItems(in, judged, all, p), map[string]bool{}, judged.AdminRoles
	l.ClusterLook = ClusterLook{ID: id, Server: in.Server.Address, Version: in.Server.Version, CAFingerprint: in.Server.CAFingerprint,
		Collector: in.Collector, At: in.At, Took: in.Took, Requests: in.Requests,
		Sources: slices.Concat(in.Sources, judged.Programs), Doors: judged.Doors}
	for _, i := range all {
		if i.Expected {
			l.Expected++
		}
		if !i.Absent {
			l.there[i.ID] = true
		}
	}
	return l
}

func unknown(topic Topic, id, cluster, title, why string) Item {
	return Item{ID: id, Topic: topic, Kind: "unknown", Cluster: cluster, Title: title, Evidence: []string{oneLine(why)},
		Risk: inventory.High, Fingerprint: digestOf(id), Grants: []string{"anything"},
		Advice: "make it readable, and start another campaign"}
}

// accountsTime bounds how long Slack is asked about accounts: its limits must not keep a campaign from opening.
const accountsTime = 30 * time.Second

// prove tells a campaign, of which of is the snapshot, what later looks at its clusters say about things that it revoked. The
// digest is of what they saw.
func (s *Service) prove(ctx context.Context, id string, of *Snapshot, looks []look, digest string) (*campaign.Campaign, error) {
	items := map[string]*Item{}
	for n := range of.Items {
		if i := &of.Items[n]; i.Object != "" {
			items[i.Object] = i
		}
	}
	return s.cfg.Campaigns.Prove(ctx, id, digest, func(object string) (gone, looked bool) {
		i := items[object]
		if i == nil {
			return false, false
		}
		all := true
		for _, at := range i.places() {
			before := slices.IndexFunc(of.Clusters, func(c ClusterLook) bool { return c.ID == at.Cluster })
			after := slices.IndexFunc(looks, func(l look) bool { return l.ID == at.Cluster })
			if before < 0 || after < 0 {
				all = false
				continue
			}
			switch is, told := proof(at.Object, i.Proof, &of.Clusters[before], &looks[after]); {
			case told && !is:
				return false, true // it is there still, wherever else it is gone
			case !told:
				all = false
			}
		}
		return all, all
	})
}

// proof says whether a later look shows that a thing of an earlier one is gone, and whether it can tell at all. What is there is
// there, whatever else was not seen. That something is not there proves nothing where it may have been overlooked: in the later
// look, or in the earlier one, of which things may then have had other ids. Of a certificate nothing proves it, and of an item
// of an earlier release it is not known what would.
func proof(object string, needs []string, before *ClusterLook, after *look) (gone, looked bool) {
	switch {
	case after.Problem != "":
		return false, false
	case after.there[object]:
		return false, true
	case len(needs) == 0 || doors.Unproven(needs, before.Sources, before.Doors) != "" ||
		doors.Unproven(needs, after.Sources, after.Doors) != "":
		return false, false
	}
	return true, true
}

// Prove scans the clusters of a campaign again and records which of the things that it revoked are gone.
func (s *Service) Prove(ctx context.Context, a record.Actor, id string) (*campaign.Campaign, error) {
	if err := s.cfg.Campaigns.MayRead(ctx, a); err != nil {
		return nil, err
	}
	c, err := s.cfg.Campaigns.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	of, err := s.Snapshot(c)
	if err != nil {
		return nil, err
	}
	var looks []look
	var there []string
	p := s.cfg.Domain.Policy()
	for _, cluster := range c.Opened.Clusters {
		l := s.look(ctx, cluster, p)
		looks, there = append(looks, l), slices.AppendSeq(there, maps.Keys(l.there))
	}
	slices.Sort(there)
	return s.prove(ctx, c.ID, of, looks, digestOf([]any{c.ID, there, time.Now().UTC()}))
}

// Snapshot returns what a campaign is about, in words, checked against the digest that the ledger has. Do not modify it.
func (s *Service) Snapshot(c *campaign.Campaign) (*Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if snap := s.cached[c.Opened.Snapshot]; snap != nil {
		return snap, nil
	}
	snap, err := read(s.cfg.Dir, c.Opened.Snapshot)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.ID, err)
	}
	s.cached = map[string]*Snapshot{c.Opened.Snapshot: snap}
	return snap, nil
}

// Report returns a campaign as it is now. Reviewers and responders may see it.
func (s *Service) Report(ctx context.Context, a record.Actor, id string) (*Report, error) {
	if err := s.cfg.Campaigns.MayRead(ctx, a); err != nil {
		return nil, err
	}
	c, err := s.cfg.Campaigns.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	snap, err := s.Snapshot(c)
	if err != nil {
		return nil, err
	}
	return NewReport(c, snap, time.Now().UTC())
}
