// Package finding keeps what people must look at: a check opens a finding, and it ends when the check finds it put right or when a
// responder settles it.
package finding

import (
	"errors"
	"fmt"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/record"
)

// Severity grades findings and what a grant left behind. It is the only scale of the domain.
type Severity string

// The severities.
const (
	Info     Severity = "info"     // to know
	Warning  Severity = "warning"  // to put right in working hours
	Critical Severity = "critical" // to look at now
)

// Rank orders severities: greater is graver. An unknown one is the gravest, so that nothing is passed over.
func (v Severity) Rank() int {
	switch v {
	case Info:
		return 1
	case Warning:
		return 2
	case Critical:
		return 3
	}
	return 4
}

// Opened is something that a check discovered and that people must know. It stays open until an [Over] of the same key; a later Opened
// of the same key says how it has changed.
type Opened struct {
	Key      string   `json:"key"`   // stable: what is wrong where, like "audit-silent/prod/https://10.0.0.1:6443"
	Check    string   `json:"check"` // what found it: "audit", "reconcile", "ca", "recertification"
	Cluster  string   `json:"cluster,omitempty"`
	Request  string   `json:"request,omitempty"` // the request it is about
	Severity Severity `json:"severity"`
	What     string   `json:"what"` // a sentence without a full stop
	Next     string   `json:"next"` // what to do
}

// Over says that a finding is no longer so, or that a responder has settled it: then By is set, and their note is a text of the entry.
type Over struct {
	Key string        `json:"key"`
	How string        `json:"how,omitempty"` // in words
	By  *record.Actor `json:"by,omitempty"`
}

// SchedulePrefix begins the Check of the runs of a scheduled job: the job itself may record what it found under its own name.
const SchedulePrefix = "schedule/"

// CheckRun is the record of one scheduled or ordered check.
type CheckRun struct {
	Check    string        `json:"check"` // "ca", …
	Cluster  string        `json:"cluster,omitempty"`
	By       *record.Actor `json:"by,omitempty"` // who ordered it; nil: the schedule
	Due      time.Time     `json:"due,omitzero"` // when the schedule wanted it
	OK       bool          `json:"ok"`
	Verdict  string        `json:"verdict"`            // a line for people
	Digest   string        `json:"digest,omitempty"`   // hex SHA-256 of the whole report's JSON
	Findings []string      `json:"findings,omitempty"` // keys
}

// Kind is as that of every Event.
func (Opened) Kind() string { return "finding-opened/v1" }

// Kind is as that of every Event.
func (Over) Kind() string { return "finding-over/v1" }

// Kind is as that of every Event.
func (CheckRun) Kind() string { return "check-run/v1" }

// Kinds are the kinds of entries about findings and checks.
var Kinds = record.Kinds{
	"finding-opened/v1": record.As[Opened],
	"finding-over/v1":   record.As[Over],
	"check-run/v1":      record.As[CheckRun],
}

// The streams of findings and of the runs of checks.
const (
	Stream      = "findings"
	CheckStream = "checks"
)

// Finding is an open finding.
type Finding struct {
	Opened
	Since time.Time // of the first entry since it was last over
	Seq   int64     // ledger index of the last entry about it
}

// ErrTooMany is returned for a finding that is not recorded because there are too many, open or in a minute. The check must find it
// again later: a flood must not hide anything for good.
var ErrTooMany = errors.New("too many findings")

// The kinds of findings that tell of what was once done, and that [Book.SettleByHand] takes: no check sees them end.
const (
	AcceptedCritical   = "accepted-critical" // once the time for which it was accepted is over
	UnknownCertificate = "unknown-certificate"
	UnknownName        = "unknown-name"
)

// settledByHand is the kinds of findings that responders settle. Every other finding ends when the check that found it finds it put right.
var settledByHand = []string{AcceptedCritical, UnknownCertificate, UnknownName}

// UnknownNameKey is the key of the finding that an unknown client acted under a name of ours without a certificate of it.
func UnknownNameKey(cluster, name string) string { return UnknownName + "/" + cluster + "/" + name }

// ShadowKey is the key of the finding that a certificate exists, or was used, which the ledger does not know.
func ShadowKey(cluster, fingerprint string) string {
	return UnknownCertificate + "/" + cluster + "/" + fingerprint
}

// State is what entries say about findings: which are open, and which were settled by a responder since they were last open.
type State struct {
	open    map[string]Finding
	settled map[string]bool
}

// NewState is the state before the first entry.
func NewState() State { return State{open: map[string]Finding{}, settled: map[string]bool{}} }

// Apply takes the next entry of [Stream]. An error says why the entry cannot follow; then nothing is changed.
func (s *State) Apply(e ledger.Entry, ev record.Event) error {
	switch ev := ev.(type) {
	case Opened:
		if ev.Key == "" || ev.Severity.Rank() > Critical.Rank() {
			return fmt.Errorf("finding without a key or a known severity")
		}
		since := e.Time
		if before, ok := s.open[ev.Key]; ok {
			since = before.Since
		}
		s.open[ev.Key] = Finding{Opened: ev, Since: since, Seq: e.Seq}
		delete(s.settled, ev.Key)
	case Over:
		if _, ok := s.open[ev.Key]; !ok {
			return fmt.Errorf("finding %q is over but was not open", ev.Key)
		}
		if ev.By != nil && ev.By.Person == "" {
			return fmt.Errorf("finding %q is settled by no person", ev.Key)
		}
		delete(s.open, ev.Key)
		if ev.By != nil {
			s.settled[ev.Key] = true
		}
	default:
		return fmt.Errorf("does not belong to the findings")
	}
	return nil
}
