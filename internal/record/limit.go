package record

import (
	"sync"
	"time"
)

// Limiter allows n things per key and period. It is safe for concurrent use.
type Limiter struct {
	mu     sync.Mutex
	n      int
	period time.Duration
	used   map[string][]time.Time
}

// NewLimiter allows n things of each key in a period. It keeps nothing of keys that were not used in the last one.
func NewLimiter(n int, period time.Duration) *Limiter {
	return &Limiter{n: n, period: period, used: map[string][]time.Time{}}
}

// Allow reports whether one more thing of the key is allowed now, and counts it.
func (l *Limiter) Allow(key string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, ts := range l.used {
		for len(ts) > 0 && now.Sub(ts[0]) >= l.period {
			ts = ts[1:]
		}
		if len(ts) == 0 {
			delete(l.used, k)
			continue
		}
		l.used[k] = ts
	}
	if len(l.used[key]) >= l.n {
		return false
	}
	l.used[key] = append(l.used[key], now)
	return true
}
