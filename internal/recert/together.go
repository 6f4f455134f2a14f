package recert

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// together puts things of clusters that are the same in several of them into one item each, which one answer is about: the same
// subject with the same rights, the same door in the same state. What differs in anything that is asked about, also in what was
// said about it before, stays apart. Evidence and commands that differ are told cluster by cluster.
func together(items []Item) []Item {
	var out []Item
	var order []string
	same := map[string][]*Item{}
	for n := range items {
		i := &items[n]
		name := i.name()
		if name == "" {
			out = append(out, *i)
			continue
		}
		key := digestOf([]any{name, i.Topic, i.Kind, i.Title, i.Fingerprint, i.Risk, i.State, i.Was, i.Admin, i.Not, i.Object == "", i.Proof,
			i.Grants, i.TakeAway == "", i.Advice, i.Orphan, i.Dormant})
		if same[key] == nil {
			order = append(order, key)
		}
		same[key] = append(same[key], i)
	}
	slices.SortStableFunc(order, func(a, b string) int { // the largest of one name has its plain id
		return cmp.Or(cmp.Compare(len(same[b]), len(same[a])), strings.Compare(same[a][0].Fingerprint, same[b][0].Fingerprint))
	})
	taken := map[string]bool{}
	for _, key := range order {
		group := same[key]
		if len(group) == 1 {
			out = append(out, *group[0])
			continue
		}
		id := "clusters/" + group[0].name()
		if taken[id] {
			id += "/" + key[:16]
		}
		taken[id] = true
		out = append(out, oneOf(id, group))
	}
	return out
}

// name is what a thing of a cluster is called without the cluster; empty: it is not asked about together with others.
func (i *Item) name() string {
	rest, of := strings.CutPrefix(i.ID, "cluster/"+i.Cluster+"/")
	if !of || i.Since != nil || i.Fingerprint == "" || strings.HasPrefix(rest, "unread/") || rest == "not-looked-at" {
		return ""
	}
	return rest
}

// oneOf is one item for the same thing in several clusters.
func oneOf(id string, group []*Item) Item {
	slices.SortFunc(group, func(a, b *Item) int { return strings.Compare(a.Cluster, b.Cluster) })
	one := *group[0]
	one.ID, one.Cluster = id, ""
	for _, i := range group {
		one.Places = append(one.Places, Place{Cluster: i.Cluster, ID: i.ID, Object: i.Object})
	}
	if one.Object != "" {
		one.Object = id
	}
	one.Title += fmt.Sprintf(" on %d clusters", len(group))
	one.Evidence = []string{"one answer is about all of these clusters: " + listOf(one.where())}
	for _, line := range linesOf(group, func(i *Item) []string { return i.Evidence }) {
		if len(line.clusters) < len(group) {
			line.text = strings.Join(line.clusters, ", ") + ": " + line.text
		}
		one.Evidence = append(one.Evidence, line.text)
	}
	var commands []string
	for _, line := range linesOf(group, func(i *Item) []string { return []string{i.TakeAway} }) {
		if line.text != "" {
			commands = append(commands, "# on "+listOf(line.clusters), line.text)
		}
	}
	one.TakeAway = strings.Join(commands, "\n")
	return one
}

// A line is a text and the clusters that it is about.
type line struct {
	text     string
	clusters []string
}

// linesOf lists the texts of several items, each once, in the order in which they come.
func linesOf(group []*Item, texts func(*Item) []string) (out []line) {
	at := map[string]int{}
	for _, i := range group {
		for _, text := range uniqInOrder(texts(i)) {
			n, there := at[text]
			if !there {
				n = len(out)
				at[text], out = n, append(out, line{text: text})
			}
			out[n].clusters = append(out[n].clusters, i.Cluster)
		}
	}
	return out
}

func uniqInOrder(texts []string) (out []string) {
	for _, t := range texts {
		if !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out
}
