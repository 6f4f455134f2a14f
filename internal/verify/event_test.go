package verify

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/record"
)

// Every kind in the table decodes to an event of that kind, or of a later number of it.
func TestEachKindDecodesToItself(t *testing.T) {
	for kind, decode := range kinds {
		ev, err := decode([]byte(`{}`))
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		name, _, _ := strings.Cut(kind, "/")
		now, _, _ := strings.Cut(ev.Kind(), "/")
		if now != name {
			t.Errorf("%s decodes to %s", kind, ev.Kind())
		}
		if _, ok := kinds[ev.Kind()]; !ok {
			t.Errorf("%s is written as %s, which no release reads", kind, ev.Kind())
		}
	}
}

func TestAnEntryOfANewerReleaseIsNoForgery(t *testing.T) {
	for _, kind := range []string{"requested/v999", "unheard-of/v1"} {
		if _, err := Decode(ledger.Entry{Kind: kind, Body: []byte(`{}`)}); !errors.Is(err, record.ErrNewerRelease) {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if _, err := Decode(ledger.Entry{Kind: record.Heartbeat{}.Kind(), Body: []byte(`{"no-such-field":1}`)}); err == nil ||
		errors.Is(err, record.ErrNewerRelease) {
		t.Errorf("an unknown field in a known kind: %v", err)
	}
}

func TestAFormerNumberHasNoLaterFields(t *testing.T) {
	body, err := json.Marshal(record.Heartbeat{Version: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := record.Older[record.Heartbeat]("version")(body); err == nil {
		t.Error("a field that came later is taken in the former number")
	}
	if ev, err := record.Older[record.Heartbeat]("other")(body); err != nil || ev != (record.Heartbeat{Version: "x"}) {
		t.Errorf("%v, %v", ev, err)
	}
}
