package doors

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/text"
)

// Items are the things of a cluster to recertify, the worst first: every subject with standing power, every item of every door,
// every binding whose subject or role is not there, every default that gives more than what ships. What is expected is among them, and says
// so: a person need not answer for it, and an auditor can see that it was looked at.
func Items(s *inventory.Snapshot, a *Analysis) []Item {
	var out []Item
	add := func(i Item, key ...string) {
		i.Cluster = s.Cluster
		i.ID = strings.Join([]string{s.Cluster, string(i.Kind), inventory.Digest(key...)}, "/")
		i.Fingerprint = i.fingerprint()
		out = append(out, i)
	}
	bindings := map[inventory.Ref]*inventory.Binding{}
	for i := range s.ClusterBindings {
		bindings[s.ClusterBindings[i].Ref()] = &s.ClusterBindings[i]
	}
	for i := range s.Bindings {
		bindings[s.Bindings[i].Ref()] = &s.Bindings[i]
	}
	for _, p := range a.Powers {
		add(subjectItem(p, bindings), p.Subject.String())
	}
	for _, d := range a.Doors {
		add(Item{Kind: ItemDoor, Title: d.Title + ": " + string(d.State), Evidence: d.Evidence, Risk: d.Risk, Grants: []string{string(d.State)},
			Advice:   cmp.Or(d.Tellable, d.Advice),
			Expected: d.State == Absent, Absent: d.State == Absent, Proof: []string{doorProof + d.ID}}, d.ID)
		for _, i := range d.Items {
			add(doorItem(s, d, i), d.ID, i.ID)
		}
	}
	for _, f := range a.Findings {
		kind := ItemBinding
		switch f.Rule {
		case "binding/no-role", "binding/no-account", "binding/not-ours":
		case "defaults/role", "defaults/binding":
			kind = ItemDefault
		default:
			continue
		}
		i := Item{Kind: kind, Title: f.Title, Evidence: []string{f.Text}, Risk: f.Severity, Expected: f.Expected, Why: f.Why,
			Orphan: kind == ItemBinding && f.Rule != "binding/not-ours" && !f.Expected,
			Grants: []string{f.Title}, Admin: f.Severity == inventory.Critical, Proof: rbacProof}
		i.People, i.Groups = aboutWhom(f, bindings)
		if f.Rule == "binding/no-account" {
			i.Proof = append(slices.Clip(rbacProof), inventory.SourceAccounts)
		}
		i.TakeAway, i.Advice = f.Command(), f.Next
		add(i, f.ID)
	}
	slices.SortStableFunc(out, func(x, y Item) int {
		return cmp.Or(cmp.Compare(y.Risk.Rank(), x.Risk.Rank()), cmp.Compare(x.ID, y.ID))
	})
	return out
}

// subjectItem is a subject of RBAC. TakeAway is one line for each of its bindings.
func subjectItem(p inventory.Power, bindings map[inventory.Ref]*inventory.Binding) Item {
	i := Item{Kind: ItemSubject, Title: p.Subject.String(), Risk: p.Severity, Admin: p.Severity == inventory.Critical, Grants: p.Rights,
		Orphan: p.Orphan, Expected: p.Expected, Why: p.Why,
		People: userOf(p.Subject), Groups: groupOf(p.Subject), Proof: rbacProof}
	if slices.ContainsFunc(p.Rights, func(r string) bool { return strings.HasPrefix(r, "aws-auth-write") }) {
		i.Proof = append(slices.Clip(rbacProof), inventory.SourceAWSAuth) // the rule is about clusters that have it
	}
	switch {
	case slices.Contains(p.Rights, "everything"):
		i.Title += " is cluster-admin"
	case p.Path != nil:
		i.Title += " can become cluster-admin"
	default:
		i.Title += " holds " + inventory.Few(p.Rights, 3)
	}
	i.Evidence = append(i.Evidence, "rights: "+strings.Join(p.Rights, ", "))
	if p.Path != nil {
		i.Evidence = append(i.Evidence, "way: "+p.Path.String())
	}
	var commands []string
	for _, ref := range p.Via {
		b := bindings[ref]
		i.Evidence = append(i.Evidence, fmt.Sprintf("%s gives %s %s, made on %s", ref, b.RoleKind, text.Name(b.RoleName), day(b.Created)))
		commands = append(commands, inventory.RemoveSubject(b, p.Subject))
	}
	i.TakeAway = strings.Join(commands, "\n")
	return i
}

func doorItem(s *inventory.Snapshot, d Door, i DoorItem) Item {
	out := Item{Kind: ItemDoor, Title: i.Title, Risk: i.Risk, Grants: i.Grants, Orphan: i.Orphan, Until: i.Until, Used: i.Used,
		Expected: i.Expected, Why: i.Why,
		TakeAway: i.TakeAway, Advice: cmp.Or(i.Advice, d.Advice), Admin: i.Admin ||
			i.Risk == inventory.Critical, People: sortedSet(i.People), Groups: sortedSet(i.Groups),
		Proof: d.proof(i.ID)}
	if i.Text != "" {
		out.Evidence = append(out.Evidence, i.Text)
	}
	out.Evidence = append(out.Evidence, "door: "+d.Title)
	switch d.ID {
	case DoorClientCA:
		out.Kind = ItemCA
		if !s.Read(inventory.SourceAuthentication) {
			out.Proof = nil // told by the handshake, by another id than the one that it has in the ConfigMap
		}
	case DoorCSR:
		if out.Proof == nil { // the others are settings
			out.Kind = ItemCSR
		}
	case DoorSATokens:
		out.Kind = ItemToken
		for _, t := range s.TokenSecrets {
			// Kubernetes writes the day of the last use only once it records use; a token that it has no day for has not been
			// used since then.
			if t.Namespace+"/"+t.Name != i.ID || s.TrackingSince == "" {
				continue
			}
			last := cmp.Or(t.LastUsed, max(s.TrackingSince, day(t.Created)))
			out.Dormant = last < day(s.At.Add(-DormantAfter))
		}
	case DoorBootstrap:
		out.Kind = ItemToken
	}
	return out
}

// fingerprint is a digest of what the item says. Evidence has times and places in it that change by themselves.
func (i Item) fingerprint() string {
	text, err := json.Marshal([]any{i.Kind, i.Title, i.Risk, i.Admin, i.Grants, i.Orphan, i.Until, i.Expected})
	if err != nil {
		panic(err) // strings, times and booleans
	}
	return inventory.Digest(string(text))
}

// userOf is the name of a subject that is a user.
func userOf(s inventory.Subject) []string {
	if s.Kind == inventory.User {
		return []string{s.Name}
	}
	return nil
}

// groupOf is the name of a subject that is a group.
func groupOf(s inventory.Subject) []string {
	if s.Kind == inventory.Group {
		return []string{s.Name}
	}
	return nil
}

// aboutWhom are the users and groups that a finding about a binding or a default role is about: its subject, or else everybody whom
// the binding, or a binding of the role, names.
func aboutWhom(f inventory.Finding, bindings map[inventory.Ref]*inventory.Binding) (users, groups []string) {
	if f.Subject != nil {
		return userOf(*f.Subject), groupOf(*f.Subject)
	}
	names := func(b *inventory.Binding) {
		for _, sub := range b.Subjects {
			users, groups = append(users, userOf(sub)...), append(groups, groupOf(sub)...)
		}
	}
	for _, ref := range f.Via {
		if b := bindings[ref]; b != nil {
			names(b)
			continue
		}
		for _, b := range bindings {
			if b.RoleKind == ref.Kind && b.RoleName == ref.Name && (ref.Kind == "ClusterRole" || b.Namespace == ref.Namespace) {
				names(b)
			}
		}
	}
	return sortedSet(users), sortedSet(groups)
}

// sortedSet is the texts in order, each once, and without the empty one.
func sortedSet(texts []string) []string {
	out := slices.DeleteFunc(slices.Clone(texts), func(t string) bool { return t == "" })
	slices.Sort(out)
	return slices.Compact(out)
}
