// Package retry says how long to wait before something that failed is tried again.
package retry

import "time"

// A Backoff is a wait that doubles from First to Last. First must be positive, and Last no shorter than it.
type Backoff struct{ First, Last time.Duration }

// Wait returns how long to wait after so many failures in a row: not at all after none, First after one, then twice as long after
// each, and never longer than Last.
func (b Backoff) Wait(failures int) time.Duration {
	if failures <= 0 {
		return 0
	}
	wait := b.First
	for range failures - 1 {
		if wait > b.Last/2 {
			return b.Last
		}
		wait *= 2
	}
	return min(wait, b.Last)
}
