package verify_test

import "github.com/breakglassd/breakglass/internal/bgtest"

var (
	byKey      = bgtest.ByKey
	bubbleWith = bgtest.Bubble
	must       = bgtest.Must
	audit      = bgtest.Audit
)
