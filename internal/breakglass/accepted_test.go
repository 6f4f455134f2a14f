package breakglass_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/finding"
)

// Who acknowledges something critical says that it may stay, and not that it is gone: it is to be seen until it is.
func TestAcceptedIsNotGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const day = 24 * time.Hour
		e := &examiner{items: evil()}
		s := bgtest.New(t, bgtest.Options{Policy: bgtest.Policy() + careful, Config: func(c *bgtest.Config) {
			c.Examiner, c.HeartbeatEvery, c.ReconcileBindingsEvery, c.Reconcile = e, day, time.Hour, day
		}})
		found := func() *finding.Finding {
			all := s.Service.Findings.Open()
			i := slices.IndexFunc(all, func(f finding.Finding) bool { return strings.HasPrefix(f.Key, "accepted-critical/") })
			if i < 0 {
				return nil
			}
			return &all[i]
		}
		r := active(t, s, "alice")
		time.Sleep(2 * time.Hour)
		r, err := s.Service.Get(t.Context(), r.ID)
		must(t, err)
		if r.Swept == nil || found() != nil {
			t.Fatalf("swept %v, findings %+v, before anybody accepted anything", r.Swept, found())
		}
		_, err = s.Service.Acknowledge(t.Context(), byKey("erin"), r.ID, r.Swept.Digest(), "the vendor needs it until Monday")
		must(t, err)
		until := time.Now().Add(30 * day).UTC().Format(time.DateOnly)
		f := found()
		if f == nil || f.Severity != finding.Warning || f.Request != r.ID || !strings.Contains(f.What, "erin accepted until "+until) ||
			!strings.Contains(f.What, "ClusterRoleBinding evil") || !strings.Contains(f.Next, "breakglass sweep "+r.ID) {
			t.Fatalf("found %+v, want who accepted what, until when, and what to do", f)
		}
		_, err = s.Service.Findings.SettleByHand(t.Context(), byKey("carol"), f.Key, f.Seq, "seen as well, all is fine")
		wantRefusal(t, err, "no-finding")
		// A look that finds the same changes nothing, and a restart neither.
		_, err = s.Service.Examine(t.Context(), byKey("carol"), r.ID)
		must(t, err)
		s.Restart()
		if now := found(); now == nil || now.Seq != f.Seq {
			t.Errorf("looked at again and restarted: %+v", now)
		}
		time.Sleep(31 * day)
		if f = found(); f == nil || f.Severity != finding.Critical || !strings.Contains(f.What, "that time is over") ||
			!strings.Contains(f.Next, "breakglass findings settle "+f.Key) {
			t.Fatalf("when the time is over: %+v", f)
		}
		// For good by a responder's word; something else, or the same once more after it was gone, is a finding again.
		_, err = s.Service.Findings.SettleByHand(t.Context(), byKey("carol"), f.Key, f.Seq, "it belongs to the vendor's operator now")
		must(t, err)
		if _, err = s.Service.Examine(t.Context(), byKey("carol"), r.ID); err != nil || found() != nil {
			t.Errorf("after a responder's word: %+v, %v", found(), err)
		}
		s.Check()
	})
}

func TestAcceptedEndsWhenItIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &examiner{items: evil()}
		s := bgtest.New(t, bgtest.Options{Policy: bgtest.Policy() + careful, Config: func(c *bgtest.Config) { c.Examiner = e }})
		r := active(t, s, "alice")
		time.Sleep(2 * time.Hour)
		r, err := s.Service.Get(t.Context(), r.ID)
		must(t, err)
		_, err = s.Service.Acknowledge(t.Context(), byKey("erin"), r.ID, r.Swept.Digest(), "the vendor needs it until Monday")
		must(t, err)
		key := "accepted-critical/" + r.ID
		if !isOpen(s, key) {
			t.Fatal("it is accepted, and no finding says that it is there")
		}
		// A daemon that ends between the word and its finding has the word on record alone. The next one makes up for it.
		must(t, s.Service.Findings.Close(t.Context(), key, "as if it had never been there"))
		s.Restart()
		synctest.Wait()
		if !isOpen(s, key) {
			t.Error("after a restart no finding says that it is there")
		}
		e.set(func(e *examiner) { e.items = nil })
		_, err = s.Service.Examine(t.Context(), byKey("carol"), r.ID)
		must(t, err)
		if isOpen(s, key) {
			t.Error("it is gone, and still a finding")
		}
		s.Check()
	})
}
