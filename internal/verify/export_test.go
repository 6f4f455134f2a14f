package verify

import "github.com/breakglassd/breakglass/internal/ledger"

// NewForgetfulAuditor is an Auditor as Audit has it: what is over is read again when a late word comes.
func NewForgetfulAuditor(again func(stream string) ([]ledger.Entry, error)) *Auditor {
	a := NewAuditor()
	a.again = again
	return a
}

// Kept is how many requests an Auditor has in memory.
func (a *Auditor) Kept() int { return len(a.requests) }
