package policy

import (
	"fmt"
	"slices"
)

// Follow completes the entry of a policy that comes in force after the one that is.
func (st *State) Follow(p *Policy, ev Loaded) Loaded {
	const most = 200
	ev.Digest, ev.Base, ev.Changes = p.Digest, st.Loaded.Digest, Bounded(ev.Changes)
	// What a profile asked for is remembered when it is gone, so that taking it out and putting it back weaker is seen.
	for _, q := range st.Loaded.Quorums {
		if _, there := p.Profile(q.Profile); !there {
			ev.Quorums = append(ev.Quorums, q)
		}
	}
	ev.Quorums = ev.Quorums[max(0, len(ev.Quorums)-most):]
	return ev
}

// Text is the file that the policy was read from.
func (p *Policy) Text() string { return string(p.text) }

// Bounded is what is recorded of changes in words.
func Bounded(changes []string) []string {
	const most, mostBytes = 200, 40 << 10
	size := 0
	for n, c := range changes {
		if size += len(c) + 8; n >= most || size > mostBytes {
			return append(changes[:n:n], fmt.Sprintf("and %d more", len(changes)-n))
		}
	}
	return changes
}

// FrozenTeams is the membership of every team, for the record.
func FrozenTeams(p *Policy) []FrozenTeam {
	out := make([]FrozenTeam, len(p.Teams))
	for i, t := range p.Teams {
		out[i] = FrozenTeam{ID: t.ID, Members: slices.Sorted(slices.Values(t.Members))}
	}
	return out
}

// MayReview reports whether the person is a reviewer by the policy.
func (p *Policy) MayReview(person string) bool {
	return slices.Contains(p.Members(p.Campaign.Reviewers), person)
}

// Left counts the approvers that a recorded policy leaves for a profile with a set suspended, and how many there must be.
func (ev Loaded) Left(e Eligibility, set suspensions) (left, need int) {
	n := slices.IndexFunc(ev.Quorums, func(q ProfileQuorum) bool { return q.Profile == e.Profile })
	if n < 0 || e.Part != PartApprover {
		return 0, 0
	}
	people := map[string]bool{}
	for _, t := range ev.Teams {
		if !slices.Contains(ev.Quorums[n].From, t.ID) && !slices.Contains(ev.Quorums[n].Each, t.ID) {
			continue
		}
		for _, m := range t.Members {
			if !set.has(Eligibility{Person: m, Part: PartApprover, Profile: e.Profile, Cluster: e.Cluster}) {
				people[m] = true
			}
		}
	}
	return len(people), max(ev.Quorums[n].Count, MinQuorum) + 1
}
