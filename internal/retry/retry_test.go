package retry_test

import (
	"math"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/retry"
)

func TestWaitDoublesUpToTheLast(t *testing.T) {
	const ms = time.Millisecond
	longest := time.Duration(math.MaxInt64)
	for _, test := range []struct {
		name  string
		b     retry.Backoff
		waits []time.Duration // after no failure, after one, after two, …
	}{
		{"the last is met", retry.Backoff{First: 500 * ms, Last: 2 * time.Second}, []time.Duration{0, 500 * ms, 1000 * ms, 2000 * ms, 2000 * ms}},
		{"the last is no double", retry.Backoff{First: time.Second, Last: 5 * time.Second},
			[]time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second}},
		{"it does not grow", retry.Backoff{First: time.Minute, Last: time.Minute}, []time.Duration{0, time.Minute, time.Minute, time.Minute}},
		{"the shortest", retry.Backoff{First: 1, Last: 3}, []time.Duration{0, 1, 2, 3, 3}},
		{"it does not overflow", retry.Backoff{First: longest/2 + 1, Last: longest}, []time.Duration{0, longest/2 + 1, longest, longest}},
	} {
		for failures, want := range test.waits {
			if got := test.b.Wait(failures); got != want {
				t.Errorf("%s: after %d failures it waits %v, want %v", test.name, failures, got, want)
			}
		}
		for _, failures := range []int{len(test.waits), 100, math.MaxInt} {
			if got := test.b.Wait(failures); got != test.b.Last {
				t.Errorf("%s: after %d failures it waits %v, want %v", test.name, failures, got, test.b.Last)
			}
		}
		if got := test.b.Wait(-1); got != 0 {
			t.Errorf("%s: after -1 failures it waits %v, want not at all", test.name, got)
		}
	}
}
