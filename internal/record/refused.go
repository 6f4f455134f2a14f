package record

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// Refused records a command that was not allowed, in the stream of what it was about or, without one, in [RefusalStream].
type Refused struct {
	By      Actor  `json:"by"`
	Command string `json:"command"`
	Code    string `json:"code"`
}

// Kind is as that of every Event.
func (Refused) Kind() string { return "refused/v1" }

// RefusalStream is the stream of refused commands that are about no request and no campaign.
const RefusalStream = "refused"

// How refused commands that have no entry of their own are recorded.
const (
	tallyEvery = time.Minute // how often one entry is written for all of them
	maxTally   = 50          // rows of an entry: who, what and why
)

// RefusedMore says how many refused commands have no entry of their own: there was no room in the ledger, or the same person, or people
// without a name, had used up what is recorded one by one. It is written in RefusalStream, one a minute at most.
type RefusedMore struct {
	From    time.Time      `json:"from"`           // when the first of them was refused
	Until   time.Time      `json:"until"`          // and the last
	Refused []RefusedCount `json:"refused"`        // the most frequent first, at most maxTally
	More    int            `json:"more,omitempty"` // commands that have no row
}

// RefusedCount is how often one person or key was refused one command for one reason.
type RefusedCount struct {
	Who     string `json:"who"` // a person's id, or the key or Slack account of an unknown one
	Command string `json:"command"`
	Code    string `json:"code"`
	N       int    `json:"n"`
}

// Kind is as that of every Event.
func (RefusedMore) Kind() string { return "refused-more/v1" }

// Total is how many refused commands an entry is about.
func (r RefusedMore) Total() int {
	n := r.More
	for _, c := range r.Refused {
		n += c.N
	}
	return n
}

// tally counts refused commands until they are recorded together.
type tally struct {
	mu   sync.Mutex // guards all below
	rows map[RefusedCount]int
	more int
	from time.Time
	last time.Time
	all  int64
}

func (t *tally) add(a Actor, command, code string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rows == nil {
		t.rows, t.from = map[RefusedCount]int{}, now
	}
	t.last = now
	t.all++
	row := RefusedCount{Who: whose(a), Command: command, Code: code}
	if _, known := t.rows[row]; !known && len(t.rows) >= maxTally {
		t.more++
		return
	}
	t.rows[row]++
}

// event is what is to be recorded, nil if nothing is.
func (t *tally) event() *RefusedMore {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rows == nil {
		return nil
	}
	ev := &RefusedMore{From: t.from.UTC(), Until: t.last.UTC(), More: t.more}
	for row, n := range t.rows {
		row.N = n
		ev.Refused = append(ev.Refused, row)
	}
	slices.SortFunc(ev.Refused, func(a, b RefusedCount) int {
		return cmp.Or(cmp.Compare(b.N, a.N), cmp.Compare(a.Who, b.Who), cmp.Compare(a.Command, b.Command), cmp.Compare(a.Code, b.Code))
	})
	return ev
}

// recorded takes out what an entry has.
func (t *tally) recorded(ev *RefusedMore) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, row := range ev.Refused {
		n := row.N
		row.N = 0
		if t.rows[row] -= n; t.rows[row] == 0 {
			delete(t.rows, row)
		}
	}
	t.more -= ev.More
	if t.from = t.last; len(t.rows) == 0 && t.more == 0 {
		t.rows = nil
	}
}

// whose names the actor who was refused, also one without a person's id.
func whose(a Actor) string {
	switch {
	case a.Person != "":
		return a.Person
	case a.Key != "":
		return a.Key
	case a.Slack != nil:
		return "slack " + a.Slack.Team + "/" + a.Slack.User
	}
	return "unknown"
}
