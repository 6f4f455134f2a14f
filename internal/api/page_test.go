package api_test

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"testing"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/bgtest"
)

// asking changes what a client asks on its way, and counts the lists.
type asking struct {
	http.RoundTripper
	limit string // of a page; empty: as an earlier client asks
	lists int
}

func (a *asking) RoundTrip(r *http.Request) (*http.Response, error) {
	if q := r.URL.Query(); r.Method == http.MethodGet && q.Has("limit") {
		a.lists++
		q.Set("limit", a.limit)
		if a.limit == "" {
			q.Del("limit")
		}
		r = r.Clone(r.Context())
		r.URL.RawQuery = q.Encode()
	}
	return a.RoundTripper.RoundTrip(r)
}

// TestListIsReadInPages: 90 days of requests are longer than an answer may be.
func TestListIsReadInPages(t *testing.T) {
	d := newDaemon(t)
	var made []string
	for _, who := range []string{"alice", "bob", "dave"} {
		for range 3 {
			made = append(made, d.Ask(bgtest.ByKey(who), "group").ID)
		}
	}
	ids := func(rs api.Requests) (out []string) {
		for _, r := range rs.Items {
			out = append(out, r.ID)
		}
		return out
	}
	for _, tc := range []struct {
		limit, filter string
		most          int
		want          []string
		more          bool
		lists         int
	}{
		{"2", api.FilterAll, math.MaxInt, made, false, 5},
		{"3", api.FilterAll, math.MaxInt, made, false, 3},
		{"9", api.FilterAll, math.MaxInt, made, false, 1},
		{"", api.FilterAll, math.MaxInt, made, false, 1},
		{"2", api.FilterMine, math.MaxInt, made[:3], false, 5}, // pages that hold none of them are passed
		{"2", api.FilterAll, 4, made[5:], true, 2},
		{"2", api.FilterAll, 3, made[6:], true, 2},
		{"", api.FilterAll, 3, made[6:], true, 1},
		{"3", api.FilterAll, 9, made, false, 3},
		{"2", api.FilterTouched, math.MaxInt, nil, false, 1},
	} {
		c := d.as(t, "alice")
		way := &asking{RoundTripper: c.HTTP.Transport, limit: tc.limit}
		c.HTTP.Transport = way
		got, err := c.Newest(t.Context(), tc.filter, 30, tc.most)
		if err != nil || !slices.Equal(ids(got), tc.want) || (got.Next > 0) != tc.more || way.lists != tc.lists || got.Items == nil {
			t.Errorf("%s, at most %d, in pages of %q: got %v, next %d (%v) in %d lists, want %v, more %v, in %d", tc.filter, tc.most, tc.limit,
				ids(got), got.Next, err, way.lists, tc.want, tc.more, tc.lists)
		}
	}
	for _, bad := range []string{"0", "-1", "x", strconv.Itoa(api.MaxPage + 1)} {
		c := d.as(t, "alice")
		c.HTTP.Transport = &asking{RoundTripper: c.HTTP.Transport, limit: bad}
		_, err := c.List(t.Context(), api.FilterAll, 30)
		wantError(t, err, "invalid", "page")
	}
}
