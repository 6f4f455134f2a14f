package campaign

import (
	"slices"
	"time"

	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// IDPattern is what the id of a campaign looks like.
var IDPattern = policy.Pattern(`^campaign-[0-9]{4}-[0-9]{2}-[0-9]{2}-[0-9a-z]{4}$`)

// Standing is where eligibility came to something.
type Standing struct {
	In   *Campaign
	Item *Item
}

// Instead is what a reviewer does who has another word on what was decided here.
func (a Standing) Instead(now time.Time) string {
	switch {
	case a.Item.Held():
		return "it is suspended there, and two people can reinstate it: " + policy.Reinstating([]policy.Holding{{Campaign: a.In.ID,
			Item: a.Item.ID}})
	case a.In.Takes(a.Item, now):
		return "answer it there: breakglass recert review " + a.In.ID
	}
	return "say so in the next one: breakglass recert start"
}

// Copied is a campaign that events can be applied to without changing this one.
func (c *Campaign) Copied() *Campaign {
	after := *c
	return &after
}

// EventsOf makes one event for each idsPerEntry ids.
func EventsOf(ids []string, event func([]string) record.Event) (out []record.Event) {
	for part := range slices.Chunk(ids, idsPerEntry) {
		out = append(out, event(part))
	}
	return out
}
