package breakglass

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// tracker holds the requests for which something can still happen, as the ledger last had them, so that the clock can be watched, and
// certificates looked up, without reading the ledger. New fills it before anybody can change a request, and each append says what came
// of it: when an append has returned, the tracker has the request after it, or forgot it because nothing can happen any more.
type tracker struct {
	mu     sync.Mutex // guards what follows; held for map operations only
	all    map[string]*tracked
	prints map[string]string               // open requests by their certificate's fingerprint
	people map[string]map[string]bool      // open requests by their requester
	owing  map[string]map[string]time.Time // by person: requests that lack their closing note, open or not, and when it is overdue
	fresh  map[string]bool                 // requests that changed since take
	wake   chan struct{}                   // a token when fresh grew
	looks  int                             // how often look was called
}

// tracked is one request.
type tracked struct {
	request *Request // nil: nothing is known of it, for it is just being made
	open    bool     // and something is left to do
	busy    int      // claims of it in a worker: the worker binds, runOpenRequests keeps out of its way
	// appends under way. Until they have ended a request is not forgotten: one that was faster may have ended it, and what one that
	// is slow brings is older.
	appends int
}

func newTracker() *tracker {
	return &tracker{all: map[string]*tracked{}, prints: map[string]string{}, people: map[string]map[string]bool{},
		owing: map[string]map[string]time.Time{}, fresh: map[string]bool{},
		wake: make(chan struct{}, 1)}
}

// fill adds the open requests, and those that lack their closing note, at the start.
func (t *tracker) fill(requests []*Request) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range requests {
		x := t.at(r.ID)
		t.put(x, r)
		t.drop(r.ID, x)
	}
}

// begin says that a worker is busy with a claim.
func (t *tracker) begin(id string) { t.change(id, func(x *tracked) { x.busy++ }) }

// end says that a worker is through with a claim.
func (t *tracker) end(id string) {
	t.change(id, func(x *tracked) {
		x.busy--
		t.news(id)
	})
}

// appending says that an append to a request begins.
func (t *tracker) appending(id string) { t.change(id, func(x *tracked) { x.appends++ }) }

// appended says that an append has ended, and what the request is after it; nil: nothing was appended.
func (t *tracker) appended(id string, after *Request) {
	t.change(id, func(x *tracked) {
		x.appends--
		if after != nil {
			t.put(x, after)
		}
	})
}

// refresh takes what was read of a request, if that is newer than what is known. It brings no request back: what was read may be from
// before something that ended it.
func (t *tracker) refresh(r *Request) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if x := t.all[r.ID]; x != nil {
		t.put(x, r)
		t.drop(r.ID, x)
	}
}

// forget has a request looked up in the ledger from now on.
func (t *tracker) forget(id string) {
	t.change(id, func(x *tracked) {
		t.close(x)
		x.request = nil
	})
}

func (t *tracker) change(id string, f func(*tracked)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.at(id)
	f(x)
	t.drop(id, x)
}

// What follows is called with mu held.

func (t *tracker) at(id string) *tracked {
	x := t.all[id]
	if x == nil {
		x = &tracked{}
		t.all[id] = x
	}
	return x
}

// drop forgets a request that nothing keeps.
func (t *tracker) drop(id string, x *tracked) {
	if !x.open && x.busy == 0 && x.appends == 0 {
		delete(t.all, id)
	}
}

// put takes the newer of two versions of a request.
func (t *tracker) put(x *tracked, r *Request) {
	if x.request != nil && x.request.Rev >= r.Rev {
		return
	}
	t.close(x)
	x.request, x.open = r, !r.NothingLeft()
	t.news(r.ID)
	owing := t.owing[r.Ask.By.Person]
	if at := r.owesAt(); !at.IsZero() {
		if owing == nil {
			owing = map[string]time.Time{}
			t.owing[r.Ask.By.Person] = owing
		}
		owing[r.ID] = at
	} else if delete(owing, r.ID); len(owing) == 0 {
		delete(t.owing, r.Ask.By.Person)
	}
	if !x.open {
		return
	}
	if r.Issued != nil {
		t.prints[r.Issued.Fingerprint] = r.ID
	}
	of := t.people[r.Ask.By.Person]
	if of == nil {
		of = map[string]bool{}
		t.people[r.Ask.By.Person] = of
	}
	of[r.ID] = true
}

// close takes a request out of the indexes.
func (t *tracker) close(x *tracked) {
	if !x.open {
		return
	}
	x.open = false
	r := x.request
	if r.Issued != nil {
		delete(t.prints, r.Issued.Fingerprint)
	}
	of := t.people[r.Ask.By.Person]
	if delete(of, r.ID); len(of) == 0 {
		delete(t.people, r.Ask.By.Person)
	}
}

// news has runOpenRequests look at a request.
func (t *tracker) news(id string) {
	t.fresh[id] = true
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *tracker) openAt(id string) *Request {
	if x := t.all[id]; x != nil && x.open {
		return x.request
	}
	return nil
}

// What follows reads. The requests are as the ledger last had them; nobody changes them.

// get returns an open request, nil if it is not open.
func (t *tracker) get(id string) *Request {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.openAt(id)
}

// byPrint returns the open request whose certificate has a fingerprint, nil if none has.
func (t *tracker) byPrint(fingerprint string) *Request {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.openAt(t.prints[fingerprint])
}

// live counts a person's requests that have not ended.
func (t *tracker) live(person string, now time.Time) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for id := range t.people[person] {
		if !t.openAt(id).State(now).Terminal() {
			n++
		}
	}
	return n
}

// late lists a person's requests whose closing note is overdue, the one that has been so for the longest first.
func (t *tracker) late(person string, now time.Time) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	owing := t.owing[person]
	var late []string
	for id, at := range owing {
		if !now.Before(at) {
			late = append(late, id)
		}
	}
	slices.SortFunc(late, func(a, b string) int { return cmp.Or(owing[a].Compare(owing[b]), strings.Compare(a, b)) })
	return late
}

// idle lists the open requests that no worker is busy with.
func (t *tracker) idle() []*Request {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]*Request, 0, len(t.all))
	for _, x := range t.all {
		if x.open && x.busy == 0 {
			out = append(out, x.request)
		}
	}
	return out
}

// take lists the requests that changed since the last call, and with all the open ones.
func (t *tracker) take(all bool) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if all {
		for id := range t.all {
			t.fresh[id] = true
		}
	}
	ids := slices.Collect(maps.Keys(t.fresh))
	t.fresh = map[string]bool{}
	return ids
}

// look returns an open request that no worker is busy with, or nil.
func (t *tracker) look(id string) *Request {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.looks++
	if x := t.all[id]; x != nil && x.open && x.busy == 0 {
		return x.request
	}
	return nil
}
