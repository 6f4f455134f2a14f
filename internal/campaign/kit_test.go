package campaign_test

import "github.com/breakglassd/breakglass/internal/bgtest"

var (
	byKey       = bgtest.ByKey
	wantRefusal = bgtest.WantRefusal
	wantState   = bgtest.WantState
	audit       = bgtest.Audit
)
