package webhook

import (
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"
)

// Memory holds what API servers may still answer by themselves. kube-apiserver remembers "no opinion" for its unauthorizedTTL, and
// lets the same request in again without asking, also when the certificate has been revoked meanwhile. Who has these questions
// can ask each server about them until it has forgotten. A Memory does not survive the process. It is safe for concurrent use.
type Memory struct {
	mu    sync.Mutex // guards asked; held for list operations only
	asked map[string][]question
}

type question struct {
	spec string // JSON of the SubjectAccessReview's spec, byte for byte: kube-apiserver remembers by it
	at   time.Time
}

// The bounds of a Memory.
const (
	rememberFor   = 5 * time.Minute // ten times Kubernetes' default of unauthorizedTTL
	maxQuestions  = 100             // of one user, the last ones: what was asked last is remembered longest
	maxRemembered = 1000            // users; only those with a live grant stay, so there are far fewer
	maxSpec       = 16 << 10        // bytes of one question
)

// NewMemory returns a Memory of nothing.
func NewMemory() *Memory { return &Memory{asked: map[string][]question{}} }

// Recent lists the different questions about a user that were not refused within the last five minutes, the last one first.
func (m *Memory) Recent(user string) []json.RawMessage {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []json.RawMessage
	for _, q := range slices.Backward(m.asked[user]) {
		if time.Since(q.at) < rememberFor {
			out = append(out, json.RawMessage(q.spec))
		}
	}
	return out
}

// note remembers the question of a review's body, which is about to get no opinion.
func (m *Memory) note(user string, body []byte, now time.Time) {
	var q struct{ Spec json.RawMessage }
	if json.Unmarshal(body, &q) != nil || len(q.Spec) > maxSpec {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.asked[user] == nil && len(m.asked) >= maxRemembered {
		maps.DeleteFunc(m.asked, func(_ string, qs []question) bool { return now.Sub(qs[len(qs)-1].at) >= rememberFor })
		if len(m.asked) >= maxRemembered {
			return
		}
	}
	qs := slices.DeleteFunc(m.asked[user], func(o question) bool { return o.spec == string(q.Spec) })
	qs = append(qs, question{string(q.Spec), now})
	m.asked[user] = qs[max(0, len(qs)-maxQuestions):]
}
