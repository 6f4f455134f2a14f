package residue

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Window is the time from when a certificate could first be used until it could not any more.
type Window struct {
	From, Until time.Time
}

// slack is how much the clocks of the cluster and of the daemon may differ, besides the second that Kubernetes rounds down to.
const slack = 5 * time.Second

func (w Window) holds(unix int64) bool {
	return unix >= w.From.Add(-slack).Unix() && unix <= w.Until.Add(slack).Unix()
}

// Op is what was done to an object.
type Op string

// The ops.
const (
	Made    Op = "made"
	Changed Op = "changed"
	Removed Op = "removed"
)

// Change is what differs between two snapshots, or what one of them alone shows to have been made or changed in the window.
type Change struct {
	Op     Op
	Kind   string  // Kind.ID
	Before *Object // nil if it was not there, or if that is not known
	After  *Object // nil if it is not there any more
}

// Ref names what was changed.
func (c Change) Ref() Ref {
	o := c.After
	if o == nil {
		o = c.Before
	}
	return Ref{c.Kind, o.Namespace, o.Name}
}

// Compare lists what was made, changed and removed in the window. Without a snapshot from before, or for kinds that it does not
// hold whole, only the times in the objects tell: what was removed does not show, nor what in an object was changed, nor a change
// whose time was put back.
func Compare(before *Snapshot, after Snapshot, w Window) []Change {
	var out []Change
	// Another version of the API server fills in other defaults: then everything differs, and only the times tell.
	alike := before != nil && before.Server == after.Server
	kinds := slices.Sorted(maps.Keys(after.Objects))
	if before != nil {
		for kind := range before.Objects {
			if _, ok := after.Objects[kind]; !ok {
				kinds = append(kinds, kind)
			}
		}
	}
	for _, kind := range kinds {
		was := map[Ref]*Object{}
		known := before.whole(kind)
		if before != nil {
			for i, o := range before.Objects[kind] {
				was[Ref{kind, o.Namespace, o.Name}] = &before.Objects[kind][i]
			}
		}
		for i := range after.Objects[kind] {
			o := &after.Objects[kind][i]
			r := Ref{kind, o.Namespace, o.Name}
			b := was[r]
			delete(was, r)
			touched := len(o.Changed) == 0 || slices.ContainsFunc(o.Changed, w.holds)
			switch {
			case b != nil && b.UID == o.UID:
				if !sameButNode(b, o) && (touched || alike && !later(o, w, after.Taken)) {
					out = append(out, Change{Op: Changed, Kind: kind, Before: b, After: o})
				}
			case b != nil:
				if !same(b, o) && o.Created <= w.Until.Add(slack).Unix() {
					out = append(out, Change{Op: Made, Kind: kind, Before: b, After: o})
				}
			case known && owned(kind) && o.Created < w.From.Add(-slack).Unix():
				// It was there, as its owner has it, and was left out: now it reaches further.
				out = append(out, Change{Op: Changed, Kind: kind, Before: &Object{Namespace: o.Namespace, Name: o.Name, UID: o.UID, Owner: o.Owner},
					After: o})
			case known && o.Created <= w.Until.Add(slack).Unix() || w.holds(o.Created):
				out = append(out, Change{Op: Made, Kind: kind, After: o})
			case !known && len(o.Changed) > 0 && touched:
				out = append(out, Change{Op: Changed, Kind: kind, After: o})
			}
		}
		if !after.whole(kind) {
			continue
		}
		for _, b := range was {
			out = append(out, Change{Op: Removed, Kind: kind, Before: b})
		}
	}
	slices.SortFunc(out, func(a, b Change) int { return compareRefs(a.Ref(), b.Ref()) })
	return out
}

// later reports whether an object says that it was changed between the end of the window and the snapshot, and so by somebody else.
// Whoever may change an object may also write into it when it was changed: that it differs and says it was changed earlier, never, or
// at a time that is still to come when it is looked at, is no excuse. Who puts a time between the two has one: the audit events tell.
func later(o *Object, w Window, taken time.Time) bool {
	return slices.ContainsFunc(o.Changed, func(at int64) bool {
		return at > w.Until.Add(slack).Unix() && at <= taken.Add(slack).Unix()
	})
}

func compareRefs(a, b Ref) int {
	return cmp.Or(cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

func owned(kind string) bool {
	k, _ := kindOf(kind)
	return k.Owned
}
