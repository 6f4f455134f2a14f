package session

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// Pulse knows which heartbeats came back through the audit stream of each API server. It keeps only what it needs to judge:
// it does not grow with time. Its methods may be called concurrently.
type Pulse struct {
	interval time.Duration
	patience time.Duration

	mu      sync.Mutex
	servers map[string]*beats // by address
}

// beats are the heartbeats of one API server.
type beats struct {
	since time.Time            // it is watched
	seen  time.Time            // when the newest ping that came back was sent; zero: none yet
	sent  map[string]time.Time // that have not come back, by nonce
}

// Alarm says that the audit stream of an API server is silent.
type Alarm struct {
	Server string
	Since  time.Time // the newest heartbeat that came back was sent then, or the watch began
	Pinged bool      // the API server answered heartbeats since: it lives, and its audit stream does not. False: no ping got through
}

// NewPulse makes a Pulse that expects pings every interval and allows each wait for the API server's batch, and margin for
// everything else, to come back.
func NewPulse(interval, wait, margin time.Duration) *Pulse {
	return &Pulse{interval: interval, patience: interval + wait + margin, servers: map[string]*beats{}}
}

// Watch begins to expect heartbeats of an API server. It changes nothing for one that is watched.
func (p *Pulse) Watch(server string, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.servers[server] == nil {
		p.servers[server] = &beats{since: now, sent: map[string]time.Time{}}
	}
}

// Sent notes a ping that is about to be sent to a watched API server: it may come back before the request returns.
func (p *Pulse) Sent(server, nonce string, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.servers[server]
	if b == nil {
		return
	}
	// What has not come back for ten patiences never will; the bound also holds where the clock stands still.
	for n, t := range b.sent {
		if at.Sub(t) > 10*p.patience || len(b.sent) >= 1000 {
			delete(b.sent, n)
		}
	}
	b.sent[nonce] = at
}

// Failed takes back a ping that did not get through.
func (p *Pulse) Failed(server, nonce string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b := p.servers[server]; b != nil {
		delete(b.sent, nonce)
	}
}

// Find returns the API server that a nonce was sent to, and false for a nonce that was never sent or was seen before. It changes
// nothing: an event that is not stored has not been seen.
func (p *Pulse) Find(nonce string) (server string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for server, b := range p.servers {
		if _, ok := b.sent[nonce]; ok {
			return server, true
		}
	}
	return "", false
}

// Heard reports whether any heartbeat of an API server came back since it is watched. Before, that there is no alarm says nothing.
func (p *Pulse) Heard(server string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.servers[server]
	return b != nil && !b.seen.IsZero()
}

// Seen notes a nonce that came through the audit stream, once what came with it is stored. It returns the API server that it was
// sent to, and false for a nonce that was never sent or came back before.
func (p *Pulse) Seen(nonce string) (server string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for server, b := range p.servers {
		if at, ok := b.sent[nonce]; ok {
			delete(b.sent, nonce)
			if at.After(b.seen) {
				b.seen = at
			}
			return server, true
		}
	}
	return "", false
}

// Judge lists the API servers whose audit stream has been silent for longer than it may, by address.
func (p *Pulse) Judge(now time.Time) []Alarm {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Alarm
	for server, b := range p.servers {
		a := Alarm{Server: server, Since: b.since}
		if b.seen.After(a.Since) {
			a.Since = b.seen
		}
		if now.Sub(a.Since) <= p.patience {
			continue
		}
		for _, at := range b.sent {
			a.Pinged = a.Pinged || at.After(a.Since) && now.Sub(at) > p.patience-p.interval
		}
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b Alarm) int { return cmp.Compare(a.Server, b.Server) })
	return out
}
