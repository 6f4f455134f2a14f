package breakglass

import (
	"testing"
)

func TestIDsHaveOneForm(t *testing.T) {
	for range 100 {
		if id := newID(); !ValidID(id) {
			t.Errorf("our own id %s is refused", id)
		}
	}
	for _, bad := range []string{"", "bg-", "bg-0000-00/", "bg-0000-001", "BG-0000-000", "../bg-0000-000", "bg-0000-000\n",
		"campaign-2026-11-28-abcd"} {
		if ValidID(bad) {
			t.Errorf("%q is a request id", bad)
		}
	}
}

func TestPartsOfIDsNameThem(t *testing.T) {
	for typed, want := range map[string]bool{"bg-bg12-345": true, "BG12345": true, "bgbg12345": true, "bg12345": true,
		"12-345": true, "345": true, "bg-": false, "": false, "-": false, "346": false, "bg12346": false, "bg-bg12-3456": false} {
		if Names(typed, "bg-bg12-345") != want {
			t.Errorf("%q: want %v", typed, want)
		}
	}
}
