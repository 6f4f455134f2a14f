package breakglass

import (
	"container/heap"
	"time"

	"github.com/breakglassd/breakglass/internal/retry"
)

// backoff is how long to wait before what did not work is tried again.
var backoff = retry.Backoff{First: 500 * time.Millisecond, Last: 30 * time.Second}

// maxExaminations bounds the examinations in one cluster at once: each holds what is in the cluster in memory, twice.
const maxExaminations = 2

// queue is what is under way for open requests, what waits for a place or for another try, and when to look at each request again.
// One goroutine uses it; each task runs in a goroutine of its own.
type queue struct {
	ended     chan outcome // each task that was started sends its outcome once
	running   map[task]bool
	examining map[string]int               // by cluster
	waiting   map[string]map[string]bool   // by cluster: requests whose examination waits for another one to end
	failing   map[string]map[work]*attempt // by request, then by what the task excludes
	alarms    alarms
}

// task is something to do for a request. Two tasks that are equal exclude each other.
type task struct {
	request, cluster string
	exclusion        work
}

// outcome is what became of a task.
type outcome struct {
	task
	err error
}

// attempt is how often a task failed in a row, and when it is tried again.
type attempt struct {
	failures int
	next     time.Time
}

func newQueue() *queue {
	return &queue{ended: make(chan outcome), running: map[task]bool{}, examining: map[string]int{}, waiting: map[string]map[string]bool{},
		failing: map[string]map[work]*attempt{}, alarms: alarms{set: map[string]time.Time{}}}
}

// start has a task done, unless an equal one is under way, there is no place for it, or it failed a moment ago. Then again is when to
// start it again; zero: when done or place names its request.
func (q *queue) start(t task, now time.Time, do func() error) (again time.Time) {
	if q.running[t] {
		return time.Time{}
	}
	if t.exclusion == workExamine && q.examining[t.cluster] >= maxExaminations {
		if q.waiting[t.cluster] == nil {
			q.waiting[t.cluster] = map[string]bool{}
		}
		q.waiting[t.cluster][t.request] = true
		return time.Time{}
	}
	if f := q.failing[t.request][t.exclusion]; f != nil && now.Before(f.next) {
		return f.next
	}
	q.running[t] = true
	if t.exclusion == workExamine {
		q.examining[t.cluster]++
	}
	go func() { q.ended <- outcome{t, do()} }()
	return time.Time{}
}

// done takes an outcome. Its request is to be looked at next, and then those that place names. A task that failed is not started again
// before retry has passed.
func (q *queue) done(o outcome, now time.Time) (retry time.Duration) {
	delete(q.running, o.task)
	if o.exclusion == workExamine {
		q.examining[o.cluster]--
	}
	if o.err == nil {
		delete(q.failing[o.request], o.exclusion)
		return 0
	}
	if q.failing[o.request] == nil {
		q.failing[o.request] = map[work]*attempt{}
	}
	f := q.failing[o.request][o.exclusion]
	if f == nil {
		f = &attempt{}
		q.failing[o.request][o.exclusion] = f
	}
	f.failures++
	wait := backoff.Wait(f.failures)
	f.next = now.Add(wait)
	return wait
}

// place names a request that waits for an examination in a cluster, if there is a place for one now.
func (q *queue) place(cluster string) (request string, ok bool) {
	if q.examining[cluster] >= maxExaminations {
		return "", false
	}
	for id := range q.waiting[cluster] {
		delete(q.waiting[cluster], id)
		return id, true
	}
	return "", false
}

// forget drops what is known of a request for which nothing can be done.
func (q *queue) forget(request string) {
	q.alarms.put(request, time.Time{})
	delete(q.failing, request)
}

// drain waits for what is under way.
func (q *queue) drain() {
	for range q.running {
		<-q.ended
	}
}

// alarms are the requests that wait for the clock, the earliest first. Setting one anew leaves the old one in the heap, where it is
// passed over.
type alarms struct {
	heap alarmHeap
	set  map[string]time.Time
}

// alarm is when to look at a request again.
type alarm struct {
	at      time.Time
	request string
}

type alarmHeap []alarm

func (h alarmHeap) Len() int           { return len(h) }
func (h alarmHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h alarmHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *alarmHeap) Push(x any)        { *h = append(*h, x.(alarm)) }

func (h *alarmHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// put sets the one alarm of a request; the zero time takes it away.
func (a *alarms) put(request string, at time.Time) {
	if at.IsZero() {
		delete(a.set, request)
		return
	}
	if before, ok := a.set[request]; ok && before.Equal(at) {
		return
	}
	a.set[request] = at
	heap.Push(&a.heap, alarm{at, request})
}

// next is when the earliest alarm may be due.
func (a *alarms) next() (time.Time, bool) {
	if len(a.heap) == 0 {
		return time.Time{}, false
	}
	return a.heap[0].at, true
}

// due takes the requests whose time has come.
func (a *alarms) due(now time.Time) []string {
	var out []string
	for len(a.heap) > 0 && !a.heap[0].at.After(now) {
		x := heap.Pop(&a.heap).(alarm)
		if at, ok := a.set[x.request]; ok && at.Equal(x.at) {
			delete(a.set, x.request)
			out = append(out, x.request)
		}
	}
	return out
}
