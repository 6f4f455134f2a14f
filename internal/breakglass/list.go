package breakglass

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/record"
)

// Get returns one request by id or unique prefix of an open or recent one.
func (s *Service) Get(ctx context.Context, id string) (*Request, error) {
	full, err := s.Resolve(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.load(ctx, full)
}

// The rows of the index by which requests are listed; Index writes them.
var (
	tagOpen           = ledger.Tag{Name: "open", Value: "1"}
	tagTouched        = ledger.Tag{Name: "touched", Value: "1"}
	tagUnacknowledged = ledger.Tag{Name: "unacknowledged", Value: "1"}
)

// made lists the rows of requests that were made in the last so many days.
func (s *Service) made(days int) []ledger.Tag {
	tags := make([]ledger.Tag, 0, days+1)
	for d, now := 0, s.now(); d <= days; d++ {
		tags = append(tags, ledger.Tag{Name: "day", Value: now.AddDate(0, 0, -d).Format(time.DateOnly)})
	}
	return tags
}

// Open returns every request for which something can still happen, oldest first.
func (s *Service) Open(ctx context.Context) ([]*Request, error) { return s.tagged(ctx, tagOpen) }

// Since returns every request made in the last so many days and every open one, oldest first.
func (s *Service) Since(ctx context.Context, days int) ([]*Request, error) {
	return s.tagged(ctx, append(s.made(days), tagOpen)...)
}

// Set is a set of requests that can be read in pages.
type Set int

// The sets of requests.
const (
	SetOpen           Set = iota // as Open
	SetSince                     // as Since
	SetTouched                   // as Touched
	SetUnacknowledged            // as Unacknowledged
)

// Page returns the newest requests of a set that were made before a ledger entry, at most limit of them, oldest first, and says whether
// there are older ones. days is for SetSince. It reads nothing of the others.
func (s *Service) Page(ctx context.Context, set Set, days int, before int64, limit int) (page []*Request, more bool, err error) {
	var tags []ledger.Tag
	switch set {
	case SetOpen:
		tags = []ledger.Tag{tagOpen}
	case SetSince:
		tags = append(s.made(days), tagOpen)
	case SetTouched:
		tags = []ledger.Tag{tagTouched}
	case SetUnacknowledged:
		tags = []ledger.Tag{tagUnacknowledged}
	}
	streams, more, err := s.ledger.Newest(ctx, before, limit, tags...)
	if err != nil {
		return nil, false, fmt.Errorf("reading requests: %w", err)
	}
	page, err = foldAll(streams)
	return page, more, err
}

// tagged reads the requests that have one of the index's rows, oldest first, all in one read transaction.
func (s *Service) tagged(ctx context.Context, tags ...ledger.Tag) ([]*Request, error) {
	streams, _, err := s.ledger.Newest(ctx, math.MaxInt64, math.MaxInt32, tags...)
	if err != nil {
		return nil, fmt.Errorf("reading requests: %w", err)
	}
	return foldAll(streams)
}

func foldAll(streams [][]ledger.Entry) ([]*Request, error) {
	out := make([]*Request, len(streams))
	for i, entries := range streams {
		var err error
		if out[i], err = Fold(entries, false); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// partDays is how far back a part of an id is looked for. Older requests are named in full.
const partDays = 30

// bareID is an id, or a part of one, without what people leave out when they read it to each other.
func bareID(typed string) string {
	bare := strings.ReplaceAll(strings.TrimPrefix(strings.ToLower(strings.TrimSpace(typed)), "bg-"), "-", "")
	if len(bare) == len("bg7k3m9qx") { // else what begins so may be a part of it
		bare = strings.TrimPrefix(bare, "bg")
	}
	return bare
}

// Names reports whether an id as people type it, or a part of it, can stand for a request or a campaign.
func Names(typed, id string) bool {
	return bareID(typed) != "" && strings.Contains(bareID(id), bareID(typed))
}

// Resolve turns an id as people type it (upper case, without "bg-" or hyphens, or a unique part of it) into the whole id.
func (s *Service) Resolve(ctx context.Context, typed string) (string, error) {
	bare := bareID(typed)
	if len(bare) == len("7k3m9qx") {
		if id := "bg-" + bare[:4] + "-" + bare[4:]; ValidID(id) {
			return id, nil
		}
	}
	if len(bare) < 2 || len(bare) > 20 {
		return "", record.Refuse(record.ClassUnknown, "unknown-request", "see: breakglass list", "%q is not a request id", record.Clip(typed, 30))
	}
	recent, err := s.ledger.StreamNames(ctx, append(s.made(partDays), tagOpen)...)
	if err != nil {
		return "", fmt.Errorf("looking up a request: %w", err)
	}
	var begin, within []string
	for _, id := range recent {
		switch {
		case strings.HasPrefix(bareID(id), bare):
			begin = append(begin, id)
		case Names(bare, id):
			within = append(within, id)
		}
	}
	hits := begin
	if len(begin) == 0 {
		hits = within
	}
	switch len(hits) {
	case 1:
		return hits[0], nil
	case 0:
		return "", record.Refuse(record.ClassUnknown, "unknown-request", "see: breakglass list", "there is no request %s", record.Clip(typed, 30))
	}
	return "", record.Refuse(record.ClassUnknown, "ambiguous-request", "write more of it", "%s could be %s", record.Clip(typed, 30),
		record.JoinAnd(hits))
}

// Wait returns the request as soon as its revision is greater than rev or its state differs from the one it had, or when ctx
// is done, whichever is first; then it returns what is. An entry about another request costs a waiter nothing.
func (s *Service) Wait(ctx context.Context, id string, rev int64, was State) (*Request, error) {
	for {
		r, again, err := s.waitOnce(ctx, id, rev, was)
		if !again || err != nil {
			return r, err
		}
	}
}

// waitOnce looks at a request and, if it is as it was, waits for its next entry, its deadline or the end of ctx; then again is true.
func (s *Service) waitOnce(ctx context.Context, id string, rev int64, was State) (r *Request, again bool, err error) {
	news := s.ledger.Listen(id) // before the look, so that nothing is missed
	defer news.Close()
	if r, err = s.load(context.WithoutCancel(ctx), id); err != nil {
		return nil, false, err
	}
	now := s.now()
	if r.Rev > rev || was != "" && r.State(now) != was || ctx.Err() != nil {
		return r, false, nil
	}
	wctx, cancel := ctx, context.CancelFunc(func() {})
	if at := r.Deadline(now); !at.IsZero() {
		wctx, cancel = context.WithTimeout(ctx, at.Sub(now)+time.Millisecond)
	}
	defer cancel()
	if err := news.Wait(wctx); err != nil && wctx.Err() == nil {
		return nil, false, fmt.Errorf("waiting for request %s: %w", id, err)
	}
	return nil, true, nil
}
