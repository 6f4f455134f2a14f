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
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/schedule"
)

// defaultPeriod is what the first campaign looks back over: a quarter.
const defaultPeriod = 92 * 24 * time.Hour

// Config is what New needs. Domain, Ledger, Signer, Dir and Clusters are required.
type Config struct {
	Domain *breakglass.Service
	Ledger *ledger.Ledger
	Signer note.Signer // the ledger's key: it signs evidence bundles
	// Dir is where snapshots are kept. It belongs to what is backed up with the ledger.
	Dir      string
	Clusters []string
	// Scan looks at a cluster. nil: clusters are not looked at, and each campaign says so.
	Scan func(ctx context.Context, cluster string) (*inventory.Snapshot, *inventory.Analysis, error)
	// Own says what the daemon itself may do: items of TopicOwn, each complete but for State and Fingerprint. It may be nil.
	Own func(ctx context.Context) ([]Item, error)
	// Accounts asks Slack about accounts. It may be nil.
	Accounts func(ctx context.Context, accounts []breakglass.SlackAccount) (map[breakglass.SlackAccount]AccountState, error)
	Hours    Hours // default 8 to 18 UTC
	Log      *slog.Logger
}

// Service opens campaigns and shows them. It is safe for concurrent use.
type Service struct {
	cfg Config

	mu     sync.Mutex           // guards cached
	cached map[string]*Snapshot // by digest: the last one that was read, which is what everybody looks at
}

// New checks the configuration.
func New(cfg Config) (*Service, error) {
	if cfg.Domain == nil || cfg.Ledger == nil || cfg.Signer == nil || cfg.Dir == "" {
		return nil, errors.New("recert: domain, ledger, signer and directory are required")
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
func (s *Service) Start(ctx context.Context, by *breakglass.Actor, due time.Time) (*breakglass.Campaign, error) {
	if err := s.cfg.Domain.MayOpenCampaign(ctx, by); err != nil {
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
	snap, err := s.snapshot(ctx, from, now)
	if err != nil {
		return nil, err
	}
	previous := ""
	if last != nil {
		previous = last.ID
	}
	compareAll(snap, last, lastSnapshot)
	digest, err := save(s.cfg.Dir, snap)
	if err != nil {
		return nil, err
	}
	plan := breakglass.CampaignPlan{Due: due, From: from, Until: now, Clusters: s.cfg.Clusters, Previous: previous, Snapshot: digest}
	for n := range snap.Items {
		plan.Items = append(plan.Items, snap.Items[n].Frozen())
	}
	c, err := s.cfg.Domain.OpenCampaign(ctx, by, plan)
	if err != nil {
		return nil, err
	}
	s.cfg.Log.Info("a recertification campaign is open", slog.String("campaign", c.ID), slog.Int("items", len(c.Items)), slog.Time("deadline", c.Opened.Deadline))
	return c, s.prove(ctx, last, lastSnapshot, snap, digest)
}

// Job is Start for a schedule: the job of schedule.Scheduler.Add. Run again for the same due time it finds its own campaign and
// opens no second one.
func (s *Service) Job(ctx context.Context, due time.Time) error {
	ids, err := s.cfg.Domain.CampaignIDs(ctx)
	if err != nil {
		return err
	}
	if len(ids) > 0 {
		c, err := s.cfg.Domain.Campaign(ctx, ids[len(ids)-1])
		if err != nil || c.Opened.Due.Equal(due) {
			return err
		}
	}
	_, err = s.Start(ctx, nil, due)
	return err
}

// Settings are the keys of the daemon's configuration for recertification.
type Settings struct {
	// Cron is when a campaign opens, five fields: "0 9 1 1,4,7,10 *" is the first morning of each quarter. Empty: only when
	// somebody orders one.
	Cron string `mapstructure:"cron"`
	// Zone is the time zone of Cron and of the working hours, like Europe/Berlin.
	Zone string `mapstructure:"time_zone"`
	// Dir is where snapshots are kept. Back it up with the ledger. Empty: there are no campaigns.
	Dir string `mapstructure:"dir"`
	// WorkFrom and WorkTo are the hours of the day in which a request is no surprise.
	WorkFrom int `mapstructure:"work_from"`
	WorkTo   int `mapstructure:"work_to"`
}

// Check says what is wrong with the settings, each with its key.
func (s Settings) Check() (bad []string) {
	if s.Dir == "" {
		if s.Cron != "" {
			bad = append(bad, "recertification.dir is missing: campaigns need a directory for their snapshots")
		}
		return bad
	}
	if _, err := time.LoadLocation(s.Zone); err != nil || s.Zone == "" {
		bad = append(bad, "recertification.time_zone must name one, like Europe/Berlin or UTC")
	} else if s.Cron != "" {
		if _, err := schedule.Parse(s.Cron, s.Zone); err != nil {
			bad = append(bad, "recertification.cron: "+err.Error())
		}
	}
	if s.WorkFrom < 0 || s.WorkTo > 24 || s.WorkFrom >= s.WorkTo {
		bad = append(bad, "recertification.work_from and work_to must be hours of the day, the first before the second")
	}
	return bad
}

// Hours are the working hours of settings that Check takes.
func (s Settings) Hours() (Hours, error) {
	zone, err := time.LoadLocation(s.Zone)
	if err != nil {
		return Hours{}, fmt.Errorf("recertification.time_zone: %w", err)
	}
	return Hours{Zone: zone, From: s.WorkFrom, To: s.WorkTo}, nil
}

// compareAll sets every item's state from the last campaign in which it was kept.
func compareAll(snap *Snapshot, last *breakglass.Campaign, lastSnapshot *Snapshot) {
	kept := map[string]*Item{}
	if last != nil {
		for n := range lastSnapshot.Items {
			old := &lastSnapshot.Items[n]
			if i, ok := last.Item(old.ID); ok && last.Outcome(i) == breakglass.OutcomeKeep {
				kept[old.ID] = old
			}
		}
	}
	for n := range snap.Items {
		i := &snap.Items[n]
		i.compare(kept[i.ID])
		if kept[i.ID] != nil {
			i.Was = "kept in " + last.ID
		} else if last != nil {
			if old, ok := last.Item(i.ID); ok {
				i.Was = string(last.Outcome(old)) + " in " + last.ID
			}
		}
	}
}

// lastClosed is the last campaign that has ended, with its snapshot; nil if there is none.
func (s *Service) lastClosed(ctx context.Context) (*breakglass.Campaign, *Snapshot, error) {
	ids, err := s.cfg.Domain.CampaignIDs(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, id := range slices.Backward(ids) {
		c, err := s.cfg.Domain.Campaign(ctx, id)
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

// snapshot looks at everything.
func (s *Service) snapshot(ctx context.Context, from, now time.Time) (*Snapshot, error) {
	p := s.cfg.Domain.Policy()
	cp, err := s.cfg.Ledger.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	snap := &Snapshot{Version: 1, From: from, Until: now, PolicyDigest: p.Digest, Ledger: cp.Origin, LedgerSize: cp.Size, LedgerRoot: cp.Root.String(), Names: map[string]string{},
		Clusters: []ClusterLook{}, Items: []Item{}, Grants: []Grant{}, Checks: []Check{}}
	for _, x := range p.People {
		snap.Names[x.ID] = x.Name
	}
	for _, e := range p.Suspensions() {
		snap.Suspended = append(snap.Suspended, e.String())
	}
	f := &facts{policy: p, from: from, now: now, hours: s.cfg.Hours}
	entries, err := s.cfg.Ledger.Stream(ctx, breakglass.PolicyStream)
	if err != nil {
		return nil, err
	}
	if f.history, err = policyHistory(entries); err != nil {
		return nil, err
	}
	for _, v := range f.history {
		if v.at.After(from) {
			snap.PolicyChanges = append(snap.PolicyChanges, v.changes...)
		}
	}
	all, err := s.cfg.Domain.Since(ctx, int(now.Sub(from).Hours()/24)+1)
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		if !r.At.Before(from) {
			f.requests = append(f.requests, r)
		}
	}
	if s.cfg.Accounts != nil {
		var accounts []breakglass.SlackAccount
		for _, x := range p.People {
			accounts = append(accounts, x.Slack...)
		}
		if f.accounts, err = s.cfg.Accounts(ctx, accounts); err != nil {
			s.cfg.Log.Warn("Slack could not be asked about accounts", slog.Any("error", err))
		}
		f.looked = err == nil
	}
	snap.Items = append(snap.Items, f.eligibilityItems()...)
	grants, items := f.emergency()
	snap.Grants, snap.Items = append(snap.Grants, grants...), append(snap.Items, items...)
	if snap.Checks, err = s.checks(ctx, from); err != nil {
		return nil, err
	}
	snap.Items = append(snap.Items, checkItems(snap.Checks, s.cfg.Clusters, from)...)
	snap.Items = append(snap.Items, s.own(ctx)...)
	for _, id := range s.cfg.Clusters {
		look, items := s.look(ctx, id, p)
		snap.Clusters, snap.Items = append(snap.Clusters, look), append(snap.Items, items...)
	}
	sortItems(snap.Items)
	return snap, nil
}

// checks lists the checks of the period.
func (s *Service) checks(ctx context.Context, from time.Time) ([]Check, error) {
	entries, err := s.cfg.Ledger.Stream(ctx, breakglass.CheckStream)
	if err != nil {
		return nil, err
	}
	out := []Check{}
	for _, e := range entries {
		if e.Time.Before(from) {
			continue
		}
		ev, err := breakglass.Decode(e)
		if err != nil {
			return nil, err
		}
		if run, ok := ev.(breakglass.CheckRun); ok && !(run.OK && strings.HasPrefix(run.Check, schedule.CheckPrefix)) {
			out = append(out, Check{Check: run.Check, Cluster: run.Cluster, At: e.Time, OK: run.OK, Verdict: run.Verdict})
		}
	}
	return out, nil
}

// own is what the daemon itself may do; that it cannot be told is an item too.
func (s *Service) own(ctx context.Context) []Item {
	if s.cfg.Own == nil {
		return []Item{unknown(TopicOwn, "own/not-looked-at", "", "what the daemon itself may do was not looked at", "nothing is set up to look at it")}
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

// look scans a cluster.
func (s *Service) look(ctx context.Context, id string, p *breakglass.Policy) (ClusterLook, []Item) {
	look := ClusterLook{ID: id, At: time.Now().UTC()}
	fail := func(why string) (ClusterLook, []Item) {
		look.Problem = why
		i := unknown(TopicDoors, "cluster/"+id+"/not-looked-at", id, "nothing is known about who has power in "+id+" and which doors are open", why)
		i.Admin = true
		return look, []Item{i}
	}
	if s.cfg.Scan == nil {
		return fail("clusters are not looked at here")
	}
	in, judged, err := s.cfg.Scan(ctx, id)
	if err != nil {
		s.cfg.Log.Warn("a cluster could not be looked at", slog.String("cluster", id), slog.Any("error", err))
		return fail(err.Error())
	}
	items, expected := clusterItems(in, judged, p)
	return ClusterLook{ID: id, Server: in.Server.Address, Version: in.Server.Version, CAFingerprint: in.Server.CAFingerprint, Collector: in.Collector, At: in.At, Took: in.Took, Requests: in.Requests,
		Sources: in.Sources, Doors: judged.Doors, Expected: expected}, items
}

func unknown(topic Topic, id, cluster, title, why string) Item {
	return Item{ID: id, Topic: topic, Kind: "unknown", Cluster: cluster, Title: title, Evidence: []string{printable(why)}, Risk: inventory.High, Fingerprint: digestOf(id), Grants: []string{"anything"},
		Advice: "make it readable, and start another campaign"}
}

// prove tells the last campaign what this scan says about things that it revoked. A cluster that was not looked at proves
// nothing.
func (s *Service) prove(ctx context.Context, last *breakglass.Campaign, lastSnapshot, snap *Snapshot, digest string) error {
	if last == nil {
		return nil
	}
	_, err := s.proveBy(ctx, last.ID, lastSnapshot, objectsOf(snap), lookedAt(lastSnapshot.Clusters, snap.Clusters), digest)
	return err
}

func (s *Service) proveBy(ctx context.Context, id string, of *Snapshot, there map[string]bool, looked map[string]bool, digest string) (*breakglass.Campaign, error) {
	clusterOf := map[string]string{}
	for _, i := range of.Items {
		clusterOf[i.Object] = i.Cluster
	}
	return s.cfg.Domain.ProveItems(ctx, id, digest, func(object string) (bool, bool) { return !there[object], looked[clusterOf[object]] })
}

func objectsOf(s *Snapshot) map[string]bool {
	out := map[string]bool{}
	for _, i := range s.Items {
		out[i.Object] = true
	}
	return out
}

// lookedAt says of each cluster whether a later look saw at least what the earlier one did: what it could not read it must not
// take for gone.
func lookedAt(before, after []ClusterLook) map[string]bool {
	out := map[string]bool{}
	for _, is := range after {
		n := slices.IndexFunc(before, func(was ClusterLook) bool { return was.ID == is.ID })
		out[is.ID] = is.Problem == "" && n >= 0 && !slices.ContainsFunc(before[n].Sources, func(src inventory.Source) bool {
			return src.Missing == "" && !slices.ContainsFunc(is.Sources, func(x inventory.Source) bool { return x.Name == src.Name && x.Missing == "" })
		})
	}
	return out
}

// Prove scans the clusters of a campaign again and records which of the things that it revoked are gone.
func (s *Service) Prove(ctx context.Context, a breakglass.Actor, id string) (*breakglass.Campaign, error) {
	if err := s.cfg.Domain.MayRead(ctx, a); err != nil {
		return nil, err
	}
	c, err := s.cfg.Domain.Campaign(ctx, id)
	if err != nil {
		return nil, err
	}
	of, err := s.Snapshot(c)
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	var looks []ClusterLook
	p := s.cfg.Domain.Policy()
	for _, cluster := range c.Opened.Clusters {
		look, items := s.look(ctx, cluster, p)
		looks = append(looks, look)
		for _, i := range items {
			there[i.Object] = true
		}
	}
	return s.proveBy(ctx, c.ID, of, there, lookedAt(of.Clusters, looks), digestOf([]any{c.ID, slices.Sorted(maps.Keys(there)), time.Now().UTC()}))
}

// Snapshot returns what a campaign is about, in words, checked against the digest that the ledger has. Do not modify it.
func (s *Service) Snapshot(c *breakglass.Campaign) (*Snapshot, error) {
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
func (s *Service) Report(ctx context.Context, a breakglass.Actor, id string) (*Report, error) {
	if err := s.cfg.Domain.MayRead(ctx, a); err != nil {
		return nil, err
	}
	c, err := s.cfg.Domain.Campaign(ctx, id)
	if err != nil {
		return nil, err
	}
	snap, err := s.Snapshot(c)
	if err != nil {
		return nil, err
	}
	return NewReport(c, snap, time.Now().UTC())
}
