package inventory

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/breakglassd/breakglass/internal/text"
)

// A Severity says how much can be done with what was found.
type Severity string

// From nothing to worry about to the whole cluster.
const (
	Info     Severity = "info"     // worth knowing, nothing to do
	Low      Severity = "low"      // needs something else to go wrong first
	Medium   Severity = "medium"   // power over one part, or the loss of one defence
	High     Severity = "high"     // power over much, or one step away from all
	Critical Severity = "critical" // cluster-admin, or the way to it
)

var severities = []Severity{Info, Low, Medium, High, Critical}

// Rank orders severities: 0 for Info up to 4 for Critical, and -1 for anything else.
func (s Severity) Rank() int { return slices.Index(severities, s) }

// AtLeast reports whether s is as severe as t or more.
func (s Severity) AtLeast(t Severity) bool { return s.Rank() >= t.Rank() }

// ParseSeverity reads a severity as people write it.
func ParseSeverity(text string) (Severity, error) {
	if s := Severity(text); s.Rank() >= 0 {
		return s, nil
	}
	return "", fmt.Errorf("there is no severity %q; there are %v", text, severities)
}

func Worst(a, b Severity) Severity {
	if b.Rank() > a.Rank() {
		return b
	}
	return a
}

// SubjectKind is the kind of a subject of RBAC, spelled as Kubernetes spells it.
type SubjectKind string

// The kinds of subjects that Kubernetes knows.
const (
	User           SubjectKind = "User"
	Group          SubjectKind = "Group"
	ServiceAccount SubjectKind = "ServiceAccount"
)

// A Subject is whom a binding names. Namespace is empty but for service accounts.
type Subject struct {
	Kind      SubjectKind `json:"kind"`
	Namespace string      `json:"namespace,omitempty"`
	Name      string      `json:"name"`
}

// String is how the subject is shown to people: "user bob", "service account kube-system/coredns". A name that holds anything
// but plain characters is quoted.
func (s Subject) String() string {
	switch s.Kind {
	case ServiceAccount:
		return "service account " + text.Name(s.Namespace) + "/" + text.Name(s.Name)
	case Group:
		return "group " + text.Name(s.Name)
	case User:
		return "user " + text.Name(s.Name)
	}
	return string(s.Kind) + " " + text.Name(s.Name)
}

// User is the name with which the subject appears to the API server; of a group it is the group's name.
func (s Subject) User() string {
	if s.Kind == ServiceAccount {
		return "system:serviceaccount:" + s.Namespace + ":" + s.Name
	}
	return s.Name
}

// Names that Kubernetes itself gives.
const (
	SystemNamespace      = "kube-system"
	AuthenticatedGroup   = "system:authenticated"
	UnauthenticatedGroup = "system:unauthenticated"
	AnonymousUser        = "system:anonymous"
	MastersGroup         = "system:masters"
)

// A Ref names an object of the cluster. Namespace is empty for those without.
type Ref struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// String is like "ClusterRoleBinding x" or "RoleBinding shop/x".
func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Kind + " " + text.Name(r.Name)
	}
	return r.Kind + " " + text.Name(r.Namespace) + "/" + text.Name(r.Name)
}

// A Step is one move on a way to power.
type Step struct {
	From string `json:"from"`          // who moves: "user bob"
	Via  string `json:"via,omitempty"` // what lets them: "RoleBinding kube-system/x"
	Can  string `json:"can"`           // what they do: "can create pods in namespace kube-system"
	To   string `json:"to"`            // whom or what they then are: "service account kube-system/y", "cluster-admin"
}

// A Path leads from a subject to cluster-admin. It is never empty where it is said to exist.
type Path []Step

// String shows the path on one line, as people read it: "user bob → RoleBinding x → can create pods … → cluster-admin".
func (p Path) String() string {
	out := ""
	for i, s := range p {
		if i == 0 {
			out = s.From
		}
		if s.Via != "" {
			out += " → " + s.Via
		}
		out += " → " + s.Can + " → " + s.To
	}
	return out
}

// A Finding is something that a person should look at: one subject's right, one item of a door, one default that was altered.
type Finding struct {
	ID       string   `json:"id"`   // stable over scans: says the same thing about the same object
	Rule     string   `json:"rule"` // id of the rule, or door/ID, ignore/ID, defaults/ID
	Severity Severity `json:"severity"`
	Title    string   `json:"title"`             // one line, complete
	Text     string   `json:"text"`              // why it matters
	Subject  *Subject `json:"subject,omitempty"` // nil where it is about no subject of RBAC
	Scope    string   `json:"scope,omitempty"`   // "cluster" or a namespace's name; empty where it is about no right
	Via      []Ref    `json:"via,omitempty"`     // the bindings, or the object, that it comes from
	Item     string   `json:"item,omitempty"`    // id of the door's item, where it is about one
	Path     Path     `json:"path,omitempty"`    // to cluster-admin, where this right is the first step of one
	Controls []string `json:"controls,omitempty"`
	// Next is advice on what to do about it. Where a command does it, Command makes it.
	Next string `json:"next,omitempty"`
	// Expected says that every cluster of this kind has it, and Why says where it comes from. It is no alarm.
	Expected bool   `json:"expected,omitempty"`
	Why      string `json:"why,omitempty"`
	// Ignored is the decision to live with it until a day, from the ignore file. It is no alarm.
	Ignored *Ignore `json:"ignored,omitempty"`

	// Remove is the exact shell command that removes what was found, where it was known when the finding was made: see Command.
	Remove string `json:"-"`

	from *Binding // out of which Command removes the subject; nil if no binding is what gives it
}

// Command is the exact shell command that removes what was found; empty where no command does. That of a binding is made when it
// is asked for: a large cluster has very many findings, and most of their commands are never read.
func (f Finding) Command() string {
	switch {
	case f.from == nil:
		return f.Remove
	case f.Subject == nil:
		return Kubectl("delete", f.from.Ref())
	}
	return RemoveSubject(f.from, *f.Subject)
}

// WhatNext is what to do about it in one line: advice, the command, or both.
func (f Finding) WhatNext() string {
	command := f.Command()
	if command == "" {
		return f.Next
	}
	out := strings.TrimPrefix(f.Next+"; remove it with: "+command, "; ")
	if len(f.Via) > 1 {
		out += fmt.Sprintf(" (and %d more of its bindings)", len(f.Via)-1)
	}
	return out
}

// MarshalJSON writes what to do about it whole.
func (f Finding) MarshalJSON() ([]byte, error) {
	type plain Finding
	f.Next = f.WhatNext()
	return json.Marshal(plain(f))
}

// Alarm reports whether a person must look: it is neither expected nor ignored, and more than worth knowing.
func (f Finding) Alarm() bool { return !f.Expected && f.Ignored == nil && f.Severity != Info }

// Exit codes of a scan in a pipeline (--ci). They are those of the CLI: 8 is a check that did not pass.
const (
	ExitClean    = 0
	ExitFindings = 8
)

// ExitCode is what a scan ends with in a pipeline: ExitFindings if there is an alarm of at least the threshold.
func ExitCode(findings []Finding, threshold Severity) int {
	for _, f := range findings {
		if f.Alarm() && f.Severity.AtLeast(threshold) {
			return ExitFindings
		}
	}
	return ExitClean
}

// A Power is one subject of RBAC that holds a right that a rule is about.
type Power struct {
	Subject Subject `json:"subject"`
	// Rights are the rules that it meets, each with where: "secrets-read" is cluster-wide, "secrets-read@shop" in a namespace.
	Rights []string `json:"rights"`
	// Severity is the worst of its rights, and Critical where there is a way to cluster-admin.
	Severity Severity `json:"severity"`
	Path     Path     `json:"path,omitempty"` // the shortest way to cluster-admin, nil if there is none
	Via      []Ref    `json:"via"`            // the bindings that give it the rights
	Expected bool     `json:"expected,omitempty"`
	Why      string   `json:"why,omitempty"`
	Orphan   bool     `json:"orphan,omitempty"` // a service account that does not exist
}
