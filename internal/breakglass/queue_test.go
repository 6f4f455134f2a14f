package breakglass

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A bubble's clock stands still while a goroutine runs: what follows is exact.
func TestQueue(t *testing.T) {
	bind, prove := task{"bg-1", "c1", workBind}, task{"bg-1", "c1", workProve}
	for name, test := range map[string]func(t *testing.T, q *queue){
		"what excludes each other is done one after the other": func(t *testing.T, q *queue) {
			block := make(chan struct{})
			did := 0
			wait := func() error { did++; <-block; return nil }
			q.start(bind, time.Now(), wait)
			q.start(bind, time.Now(), wait)
			q.start(prove, time.Now(), func() error { return nil })
			synctest.Wait()
			if did != 1 || len(q.running) != 2 {
				t.Errorf("started %d times, %d under way", did, len(q.running))
			}
			if o := <-q.ended; o.task != prove || q.done(o, time.Now()) != 0 {
				t.Errorf("%+v ended first", o.task)
			}
			close(block)
			if q.done(<-q.ended, time.Now()) != 0 || len(q.running) != 0 {
				t.Errorf("%d under way at the end", len(q.running))
			}
			if q.start(bind, time.Now(), wait); <-q.ended != (outcome{task: bind}) || did != 2 {
				t.Errorf("done %d times after it had ended", did)
			}
		},
		"a failure waits twice as long each time, and one that worked is forgotten": func(t *testing.T, q *queue) {
			fail := func() error { return errors.New("no") }
			for _, want := range []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second,
				16 * time.Second, 30 * time.Second, 30 * time.Second} {
				if again := q.start(bind, time.Now(), fail); !again.IsZero() {
					t.Fatalf("not started before %s", again)
				}
				if got := q.done(<-q.ended, time.Now()); got != want {
					t.Errorf("waits %s, want %s", got, want)
				}
				if again := q.start(bind, time.Now(), fail); !again.Equal(time.Now().Add(want)) {
					t.Errorf("again at %s, want in %s", again, want)
				}
				if again := q.start(prove, time.Now(), func() error { return nil }); !again.IsZero() {
					t.Errorf("what it does not exclude waits until %s", again)
				}
				q.done(<-q.ended, time.Now())
				time.Sleep(want)
			}
			q.start(bind, time.Now(), func() error { return nil })
			q.done(<-q.ended, time.Now())
			q.start(bind, time.Now(), fail)
			if got := q.done(<-q.ended, time.Now()); got != backoff.First {
				t.Errorf("waits %s after it had worked", got)
			}
			q.forget("bg-1")
			if again := q.start(bind, time.Now(), fail); !again.IsZero() {
				t.Errorf("a forgotten request waits until %s", again)
			}
			q.drain()
		},
		"so many examinations in a cluster, and the others when one ends": func(t *testing.T, q *queue) {
			block := make(chan struct{})
			var mu sync.Mutex // guards looked
			looked := map[string]bool{}
			look := func(id string) { mu.Lock(); looked[id] = true; mu.Unlock() }
			examine := func(n int, cluster string) {
				id := fmt.Sprintf("bg-%d", n)
				q.start(task{id, cluster, workExamine}, time.Now(), func() error { look(id); <-block; return nil })
				synctest.Wait()
			}
			for n := range 5 {
				examine(n, "c1")
			}
			examine(9, "c2")
			if len(looked) != maxExaminations+1 || !looked["bg-9"] {
				t.Errorf("examined %v", looked)
			}
			if id, ok := q.place("c1"); ok {
				t.Errorf("a place for %s while all are taken", id)
			}
			close(block)
			for len(q.running) > 0 {
				o := <-q.ended
				q.done(o, time.Now())
				for id, ok := q.place(o.cluster); ok; id, ok = q.place(o.cluster) {
					q.start(task{id, o.cluster, workExamine}, time.Now(), func() error { look(id); return nil })
				}
			}
			if len(looked) != 6 {
				t.Errorf("examined %v", looked)
			}
		},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { test(t, newQueue()) }) })
	}
}
