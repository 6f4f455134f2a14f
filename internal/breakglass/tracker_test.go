package breakglass

import (
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/record"
)

// TestLateWordBringsNothingBack: two appends of one request come back in the other order. What the later one said counts, also when it
// settled the request: a revoked certificate must not become an active one in memory, for the deny webhook asks there.
func TestLateWordBringsNothingBack(t *testing.T) {
	asked := &Request{ID: "bg-7k3m-9qx", Rev: 1, Ask: Requested{By: record.Actor{Person: "alice"}}}
	active := &Request{ID: asked.ID, Rev: 5, Ask: asked.Ask, Issued: &Issued{Fingerprint: "f00", NotAfter: time.Now().Add(time.Hour)}}
	revoked := &Request{ID: asked.ID, Rev: 6, Ask: asked.Ask, Issued: active.Issued, Revoked: &record.Ending{At: time.Now()}}
	find := func(x *tracker) bool {
		return x.get(asked.ID) != nil || x.byPrint("f00") != nil || x.live("alice", time.Now()) > 0 || len(x.idle()) > 0
	}

	x := newTracker()
	x.appending(asked.ID)
	x.appended(asked.ID, asked)
	x.appending(asked.ID) // issued
	x.appending(asked.ID) // revoked
	x.appended(asked.ID, revoked)
	x.appended(asked.ID, active)
	x.refresh(active) // as somebody has read it before
	if find(x) || len(x.all) > 0 {
		t.Errorf("a revoked grant is found as %+v", x.get(asked.ID))
	}

	x = newTracker()
	x.appending(asked.ID) // asked
	x.appending(asked.ID) // issued, by somebody who read what was asked
	x.appended(asked.ID, active)
	x.appended(asked.ID, asked)
	if x.get(asked.ID) != active || x.byPrint("f00") != active {
		t.Errorf("got %+v, want the newer one", x.get(asked.ID))
	}
	x.appending(asked.ID) // a lost race
	x.appended(asked.ID, nil)
	if x.byPrint("f00") != active {
		t.Error("an append that was refused has the request forgotten")
	}
	x.refresh(revoked)
	if find(x) || len(x.all) > 0 {
		t.Error("what was read to be settled stays open")
	}
}
