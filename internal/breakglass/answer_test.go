package breakglass_test

import (
	"encoding/json"
	"testing"

	"github.com/breakglassd/breakglass/internal/breakglass"
)

// Ledgers have answers in words: what is written must be what was written by every release before, and be read back as what it means.
func TestAnswersOfAPIServersAreReadBackFromTheLedger(t *testing.T) {
	type is struct{ stillAllows, notAsked, letsIn bool }
	for _, tt := range []struct {
		answer breakglass.Answer
		bytes  string
		want   is
	}{
		{breakglass.StillAllowed("may it get pods?"),
			`{"server":"","no":false,"tries":0,"question":"may it get pods?","problem":"it still lets the certificate in"}`,
			is{stillAllows: true, letsIn: true}},
		{breakglass.WebhookNotAsked(),
			`{"server":"","no":false,"tries":0,"problem":"its deny webhook does not refuse the certificate, ` +
				`and in group mode nothing else can: is it set up there?"}`,
			is{notAsked: true, letsIn: true}},
		{breakglass.Answer{Problem: "it does not answer"}, `{"server":"","no":false,"tries":0,"problem":"it does not answer"}`, is{}},
		{breakglass.Answer{No: true, By: breakglass.RefusedByRBAC, Tries: 1}, `{"server":"","no":true,"by":"rbac","tries":1}`, is{}},
	} {
		b, err := json.Marshal(tt.answer)
		if err != nil || string(b) != tt.bytes {
			t.Errorf("%+v is written as %s, want %s (%v)", tt.answer, b, tt.bytes, err)
		}
		var a breakglass.Answer
		if err := json.Unmarshal([]byte(tt.bytes), &a); err != nil {
			t.Fatal(err)
		}
		if got := (is{a.StillAllows(), a.NotAsked(), a.LetsIn()}); got != tt.want {
			t.Errorf("%s is read as %+v, want %+v", tt.bytes, got, tt.want)
		}
	}
}
