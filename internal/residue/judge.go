package residue

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/text"
)

// How something was found.
const (
	FoundByAudit      = "audit"
	FoundByComparison = "comparison"
	FoundByBoth       = "both"
)

// Whether something is still there.
const (
	ExistsYes     = "yes"
	ExistsUnknown = "unknown"
)

// Look is what became of looking for one object.
type Look struct {
	Known  bool // false: nobody can tell
	Exists bool
	Object *Object // nil if it does not exist, or if it could not be read
}

// Evidence is what Judge decides from.
type Evidence struct {
	Acts    []Act        // of one certificate, in any order
	Changes []Change     // of Compare
	Before  *Snapshot    // nil if there is none
	After   Snapshot     // the same that Changes are from
	Looked  map[Ref]Look // what Unsure asked for

	rights *rights // who may do what after the session; Judge fills it
}

// Unsure lists the objects that acts made, changed or removed and of which the snapshot does not tell whether they exist now, so
// that somebody looks. It lists no more than most of them.
func Unsure(acts []Act, after Snapshot, most int) []Ref {
	var out []Ref
	seen := map[Ref]bool{}
	for _, a := range acts {
		r := a.ref()
		if !a.done() || a.harmless() || r.Name == "" || seen[r] {
			continue
		}
		seen[r] = true
		k, ok := kindOf(r.Resource)
		if !ok || after.find(r) != nil || after.whole(r.Resource) && !k.Owned && k.Types == nil && k.Namespaces == nil {
			continue
		}
		if out = append(out, r); len(out) == most {
			break
		}
	}
	return out
}

// Choose takes no more than most of what Judge found, the gravest first. Within one severity every rule has its turn before any has
// another, so that nobody can hide one thing behind a hundred of another sort. The chosen keep their order.
func Choose(found []breakglass.Residue, most int) []breakglass.Residue {
	if len(found) <= most {
		return found
	}
	type place struct{ grave, turn, at int }
	turns := map[string]int{}
	places := make([]place, len(found))
	for i, r := range found {
		turn := string(r.Severity) + " " + r.Rule
		places[i] = place{r.Severity.Rank(), turns[turn], i}
		turns[turn]++
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(b.grave-a.grave, a.turn-b.turn, a.at-b.at)
	})
	places = places[:most]
	slices.SortFunc(places, func(a, b place) int { return a.at - b.at })
	out := make([]breakglass.Residue, most)
	for i, p := range places {
		out[i] = found[p.at]
	}
	return out
}

// thing is one object and what happened to it.
type thing struct {
	ref     Ref
	kind    Kind
	op      Op
	before  *Object // nil if not known, or not there
	after   *Object // nil if not known, or not there any more
	acts    []Act   // that were done to it
	changed bool    // the comparison shows it
	exists  string
	in      *Evidence
}

// Judge lists what was left behind, the gravest first. Something that is known to be gone is not left behind; something of
// which nobody can tell is, and says so. What only the comparison shows may be anybody's doing.
func Judge(in Evidence) []breakglass.Residue {
	things := map[Ref]*thing{}
	at := func(r Ref) *thing {
		t := things[r]
		if t == nil {
			t = &thing{ref: r, in: &in}
			if t.kind, _ = kindOf(r.Resource); t.kind.Name == "" {
				t.kind = otherKind(r.Resource)
			}
			things[r] = t
		}
		return t
	}
	acts := slices.Clone(in.Acts)
	slices.SortStableFunc(acts, func(a, b Act) int { return a.At.Compare(b.At) })
	as := map[string]int{}
	for _, a := range acts {
		if a.As != "" {
			as[a.As]++
		}
		// Deleting is harmless mostly, and tells that something is gone.
		if a.done() && (!a.harmless() || strings.HasPrefix(a.Verb, "delete") && a.Subresource == "") {
			t := at(a.ref())
			t.acts = append(t.acts, a)
		}
	}
	for _, c := range in.Changes {
		t := at(c.Ref())
		t.changed, t.op, t.before, t.after = true, c.Op, c.Before, c.After
	}
	left := slices.DeleteFunc(slices.Collect(maps.Values(things)), func(t *thing) bool { return !t.settle() })
	in.rights = judgeRights(&in, left)
	var out []breakglass.Residue
	for _, t := range left {
		for _, h := range t.judge() {
			out = append(out, t.residue(h))
		}
	}
	for user, n := range as {
		severity := finding.Warning
		if strings.HasPrefix(user, "system:") {
			severity = finding.Critical
		}
		out = append(out, breakglass.Residue{Rule: "impersonation-used", Severity: severity, Object: "User " + printable(user),
			Found: FoundByAudit, Exists: ExistsUnknown,
			What: fmt.Sprintf("the certificate acted as this user in %d requests, with whatever rights that user has", n)})
	}
	slices.SortFunc(out, func(a, b breakglass.Residue) int {
		return cmp.Or(b.Severity.Rank()-a.Severity.Rank(), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Object, b.Object))
	})
	return out
}

// settle works out what happened to the thing and whether it exists. It reports false if nothing is left to judge.
func (t *thing) settle() bool {
	now, know := t.now()
	if len(t.acts) > 0 {
		created, deleted := false, false
		for _, a := range t.acts {
			switch {
			case a.Subresource != "":
			case a.Verb == "create":
				created, deleted = true, false
			case strings.HasPrefix(a.Verb, "delete"):
				deleted = true
			}
		}
		if !t.changed {
			t.op, t.after = Changed, now
			if t.before = t.in.Before.find(t.ref); t.before != nil && t.op == Changed && now != nil && t.before.UID == now.UID &&
				same(t.before, now) && !t.special() && !t.sub("token") {
				return false // changed, and changed back
			}
			switch {
			case deleted && created && t.ref.Name != "":
				return false // its own, and gone again
			case created:
				t.op = Made
			case deleted:
				t.op = Removed
			}
		}
		if t.after == nil && t.op != Removed {
			for _, a := range t.acts {
				if o := a.object(); o != nil && a.Subresource == "" && t.kind.Resource != "secrets" {
					made := fromMap(t.kind, o, "")
					t.after = &made
				}
			}
		}
	}
	t.exists = ExistsUnknown
	if know {
		t.exists = ExistsYes
		if t.op == Removed {
			return now == nil
		}
		if now == nil {
			t.exists = ExistsUnknown // of what came of it
			return t.special()
		}
	}
	return true
}

// special reports whether what was done outlives the object: a certificate that was approved.
func (t *thing) special() bool { return t.sub("approval") || t.sub("status") }

// now is the object as it is now, and whether anybody knows. An object that exists and could not be read is an empty one.
func (t *thing) now() (*Object, bool) {
	if o := t.in.After.find(t.ref); o != nil {
		return o, true
	}
	if look, ok := t.in.Looked[t.ref]; ok && look.Known {
		switch {
		case !look.Exists:
			return nil, true
		case look.Object != nil:
			return look.Object, true
		}
		return &Object{Namespace: t.ref.Namespace, Name: t.ref.Name}, true
	}
	whole := t.in.After.whole(t.ref.Resource) && !t.kind.Owned && t.kind.Types == nil && t.kind.Namespaces == nil
	return nil, whole && t.ref.Name != ""
}

// sub reports whether a subresource was written to.
func (t *thing) sub(name string) bool {
	return slices.ContainsFunc(t.acts, func(a Act) bool { return a.Subresource == name })
}

// touches reports whether something below a path was, or may have been, changed: by the states of before and after if both
// are known, else by what a patch said, else it may have been.
func (t *thing) touches(path string) bool {
	any := false
	for _, a := range t.acts {
		paths, known := a.touches()
		if !known {
			return true
		}
		any = any || slices.ContainsFunc(paths, func(p string) bool { return strings.HasPrefix(p, path) || strings.HasPrefix(path, p+"/") })
	}
	return any || len(t.acts) == 0
}

// patched lists what comes after prefix in the paths that patches name, where nothing but the patches tells what became of it.
func (t *thing) patched(prefix string) []string {
	var out []string
	for _, a := range t.acts {
		paths, _ := a.touches()
		for _, p := range paths {
			if rest, ok := strings.CutPrefix(p, prefix); ok && t.exists != ExistsYes && !slices.Contains(out, rest) {
				out = append(out, rest)
			}
		}
	}
	return out
}

// gained lists the traits that begin with prefix and that are new, or, when it is not known what was before, all of them.
func (t *thing) gained(prefix string) []string {
	return minus(t.after.all(prefix), t.before.all(prefix))
}

func (t *thing) lost(prefix string) []string { return minus(t.before.all(prefix), t.after.all(prefix)) }

func minus(a, b []string) []string {
	return slices.DeleteFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

// residue writes down what a rule found.
func (t *thing) residue(h hit) breakglass.Residue {
	r := breakglass.Residue{Rule: h.rule, Severity: h.severity, Object: t.object(), Exists: t.exists, Undo: h.undo}
	if h.rule == "token-minted" {
		r.Exists = ExistsUnknown // the account exists; whether the token has ended by now, only who holds it knows
	}
	switch {
	case t.changed && len(t.acts) > 0:
		r.Found = FoundByBoth
	case t.changed:
		r.Found = FoundByComparison
	default:
		r.Found = FoundByAudit
	}
	who := "with this certificate"
	if len(t.acts) == 0 {
		who = "during the session, by whom is not known"
	}
	r.What = printable(fmt.Sprintf("%s %s: %s", h.done, who, h.means))
	return r
}

func (t *thing) object() string {
	name := t.ref.Name
	if name == "" {
		name = "(name not known)"
	}
	if t.ref.Namespace != "" {
		name = t.ref.Namespace + "/" + name
	}
	return printable(t.kind.Name + " " + name)
}

// maxText bounds a text of a residue, in characters.
const maxText = 400

// printable is text that may be shown anywhere: names are chosen by whom the sweep is about.
func printable(s string) string { return text.Line(s, maxText) }
