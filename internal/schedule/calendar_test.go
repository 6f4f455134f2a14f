package schedule_test

import (
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/schedule"
)

// What is due when the clock goes back, and how Sunday is written.
func TestCalendar(t *testing.T) {
	for _, c := range []struct {
		spec, zone, from string
		want             []string
	}{
		{"45 1 * * *", "Australia/Lord_Howe", "2026-04-03T20:00:00Z", []string{"2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"}},
		{"17 * * * *", "Europe/Berlin", "2026-10-24T23:30:00Z", []string{"2026-10-25T00:17:00Z", "2026-10-25T01:17:00Z", "2026-10-25T02:17:00Z"}},
		{"30 2 * * *", "Europe/Berlin", "2026-10-24T20:00:00Z", []string{"2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"}},
		{"0 9 * * 7", "UTC", "2026-11-28T00:00:00Z", []string{"2026-11-29T09:00:00Z", "2026-12-06T09:00:00Z"}},
		{"0 9 * * 6-7", "UTC", "2026-11-28T00:00:00Z", []string{"2026-11-28T09:00:00Z", "2026-11-29T09:00:00Z", "2026-12-05T09:00:00Z"}},
	} {
		next, err := schedule.Parse(c.spec, c.zone)
		if err != nil {
			t.Errorf("%s: %v", c.spec, err)
			continue
		}
		at, err := time.Parse(time.RFC3339, c.from)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range c.want {
			if at = next(at); at.UTC().Format(time.RFC3339) != want {
				t.Errorf("%s in %s: %s, want %s", c.spec, c.zone, at.UTC().Format(time.RFC3339), want)
			}
		}
	}
}
