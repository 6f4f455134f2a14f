package campaign

import (
	"testing"
	"time"
)

func TestIDsHaveOneForm(t *testing.T) {
	for range 100 {
		if id := newID(time.Now()); !ValidID(id) {
			t.Errorf("our own campaign %s is refused", id)
		}
	}
	for _, bad := range []string{"", "campaign-", "campaign-2026-13-28-abcd", "campaign-2026-11-28-../x", "campaign-2026-11-28-abcde",
		"2026-11-28-abcd", "last"} {
		if ValidID(bad) {
			t.Errorf("%q is a campaign", bad)
		}
	}
}
