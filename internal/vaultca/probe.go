package vaultca

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// probeWorkers is how many mounts CheckAll looks at together. More would only open connections that wait in Vault.
const probeWorkers = 8

// probeShare says how many of the mounts that were well CheckAll looks at each time: one of so many.
const probeShare = 4

// looked remembers what CheckAll read of each mount.
type looked struct {
	mu    sync.Mutex
	round int
	at    map[string]lookedAt // by cluster
}

type lookedAt struct {
	round  int
	groups string
	now    map[string]snapshot // by group; without what is common
}

// CheckAll is a Check of many clusters with their groups, for one who looks around again and again: each needs token, policy and
// clock, which are read once, and mounts that were well are not all read each time but in turn, a quarter of them, so that Vault's
// audit log is not filled by us. A mount that was not well is always read. The map has an error for each cluster that would not
// be signed for. A claim does not rely on it.
func (c *CA) CheckAll(ctx context.Context, groups map[string][]string) map[string]error {
	out := make(map[string]error, len(groups))
	all := func(err error) map[string]error {
		for cluster := range groups {
			out[cluster] = err
		}
		return out
	}
	s, err := c.token(ctx)
	if err != nil {
		return all(err)
	}
	shared, err := c.common(ctx, s, c.read)
	if denied(err) {
		fresh, lerr := c.revived(ctx, s)
		if lerr != nil {
			return all(lerr)
		}
		if fresh != s {
			s = fresh
			shared, err = c.common(ctx, s, c.read)
		}
	}
	if err != nil {
		return all(err)
	}
	due := c.looked.due(groups)
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(probeWorkers)
	for cluster, of := range groups {
		g.Go(func() error {
			now, err := c.looked.last(cluster), error(nil)
			if slices.Contains(due, cluster) {
				now, err = c.lookAt(ctx, s, cluster, of)
			}
			for _, group := range of {
				if err != nil {
					break
				}
				one := now[group]
				one.common = shared
				err = c.judge(one, c.mounts[cluster], group)
			}
			c.looked.keep(cluster, of, now, err)
			mu.Lock()
			defer mu.Unlock()
			out[cluster] = err
			return nil
		})
	}
	_ = g.Wait() // no function returns an error
	return out
}

// lookAt reads the issuers and the roles of one mount, one after the other.
func (c *CA) lookAt(ctx context.Context, s *session, cluster string, groups []string) (map[string]snapshot, error) {
	m, _, err := c.mount(cluster, "")
	if err != nil {
		return nil, err
	}
	issuers := c.pinnedNow(ctx, s, m)
	out := map[string]snapshot{}
	for _, group := range groups {
		_, role, err := c.mount(cluster, group)
		if err != nil {
			return nil, err
		}
		now := snapshot{issuers: issuers}
		if now.role, err = c.must(ctx, s, m.Path+"/roles/"+role); err != nil {
			return nil, err
		}
		if err := now.issuerError(m); err != nil {
			return nil, err
		}
		out[group] = now
	}
	return out, nil
}

// due says which clusters are read this time: those that were not well or are asked for with other groups than before, and of the
// others the share that was read longest ago.
func (l *looked) due(groups map[string][]string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.round++
	var now, well []string
	for cluster, of := range groups {
		if at, ok := l.at[cluster]; ok && at.groups == strings.Join(of, " ") {
			well = append(well, cluster)
		} else {
			now = append(now, cluster)
		}
	}
	slices.SortFunc(well, func(a, b string) int {
		if d := l.at[a].round - l.at[b].round; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	for i, cluster := range well {
		if i < (len(well)+probeShare-1)/probeShare {
			now = append(now, cluster)
			at := l.at[cluster]
			at.round = l.round
			l.at[cluster] = at
		}
	}
	return now
}

func (l *looked) last(cluster string) map[string]snapshot {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.at[cluster].now
}

// keep remembers a mount that was well and forgets one that was not.
func (l *looked) keep(cluster string, groups []string, now map[string]snapshot, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		delete(l.at, cluster)
		return
	}
	if l.at == nil {
		l.at = map[string]lookedAt{}
	}
	round := l.round
	if at, ok := l.at[cluster]; ok {
		round = at.round
	}
	l.at[cluster] = lookedAt{round: round, groups: strings.Join(groups, " "), now: now}
}

// closeTime is how long Close waits for Vault.
const closeTime = 3 * time.Second

// Close gives the token back that this CA logged in for. A token from a file belongs to whoever put it there. Call it when nothing
// signs any more. It is no error that Vault does not answer: the token ends by itself. It returns nil.
func (c *CA) Close() error {
	s := c.session.Swap(nil)
	if s == nil || c.cfg.Auth.Method != AuthAppRole {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	if _, err := c.call(ctx, c.read, closeTime, s.token, "POST", "auth/token/revoke-self", nil); err != nil {
		c.log.Debug("the Vault token could not be given back; it ends by itself", slog.Any("error", err))
	}
	return nil
}
