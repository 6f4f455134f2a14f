package inventory

import (
	"math"
	"slices"
	"strings"

	"github.com/breakglassd/breakglass/internal/text"
)

// The ways to cluster-admin are a graph. Its nodes are subjects and the things below; an edge says that one can become the
// other. They are searched backwards from cluster-admin, once, so that the shortest way of every subject is known after one
// walk over all edges.
type graph struct {
	w     *rbac
	names []string         // of nodes; empty for subjects, whose name is theirs
	nodes map[string]int32 // by name
	edges []edge
	out   [][]int32 // edges, by where they begin
	dist  []int32   // steps to cluster-admin, or unreachable
	next  []int32   // the edge that begins the shortest way, -1 if there is none
	tails map[int32]Path
	// holders are who would hold a ClusterRole that a subject may bind, with what it gives in the place where it can be bound.
	holders  map[int32][]holding
	accounts map[string][]int32 // service accounts that are there, by name
}

type edge struct {
	from, to int32
	holding  int32  // index into the holdings of from; -1: it is so without any right
	how      string // what is done, if the rule's own words do not say it; "" on the way out of a pool
}

// The nodes that are no subjects. A pool stands for many subjects at once, so that the graph stays small; ways are shown
// without them.
const (
	nodeAdmin = "cluster-admin"
	nodeHost  = "root on a node of its choice"
	poolAll   = "pool:"         // + namespace; all service accounts of it, or of all namespaces
	poolToken = "tokens:"       // + namespace; those that have a token Secret
	poolUsers = "users"         // every user that a binding names
	poolCerts = "certificates:" // everybody that a certificate can be for
	holderOf  = "a holder of ClusterRole "
)

func (w *rbac) graph() *graph {
	g := &graph{w: w, nodes: map[string]int32{}, tails: map[int32]Path{}, holders: map[int32][]holding{}, accounts: map[string][]int32{},
		names: make([]string, len(w.subjects))}
	admin := g.node(nodeAdmin)
	if masters, ok := w.index[Subject{Kind: Group, Name: MastersGroup}]; ok {
		g.add(masters, admin, -1, "is allowed everything by the API server itself")
	}
	g.host()
	g.pools()
	for i := range w.subjects {
		sub := w.subjects[i]
		if w.missing(sub) {
			continue // it is not there
		}
		for _, name := range groupsOf(sub) {
			if group, ok := w.index[Subject{Kind: Group, Name: name}]; ok {
				g.add(int32(i), group, -1, "is a member")
			}
		}
		for n, h := range w.holdings[i] {
			g.leads(int32(i), int32(n), h, w.holdings[i])
		}
	}
	g.search(admin)
	return g
}

// node is the node with a name, made if need be.
func (g *graph) node(name string) int32 {
	n, ok := g.nodes[name]
	if !ok {
		n = int32(len(g.names))
		g.nodes[name] = n
		g.names = append(g.names, name)
	}
	return n
}

func (g *graph) add(from, to, holding int32, how string) {
	g.edges = append(g.edges, edge{from: from, to: to, holding: holding, how: how})
}

// host says what root on a node leads to.
func (g *graph) host() {
	host := g.node(nodeHost)
	if !g.w.s.Read(SourceNodes) || slices.ContainsFunc(g.w.s.Nodes, func(n Node) bool { return n.ControlPlane }) {
		g.add(host, g.node(nodeAdmin), -1, "reads the CA key on a control-plane node")
		return
	}
	// The control plane is the platform's. What runs on every node is in kube-system as a rule.
	g.add(host, g.node(poolAll+SystemNamespace), -1, "takes the token of a pod on a node")
}

// pools says who is in the pools.
func (g *graph) pools() {
	everyone := g.node(poolAll)
	tokens := g.node(poolToken)
	users, certs := g.node(poolUsers), g.node(poolCerts)
	secret := map[Subject]bool{}
	for _, t := range g.w.s.TokenSecrets {
		sub := Subject{Kind: ServiceAccount, Namespace: t.Namespace, Name: t.Account}
		secret[sub] = secret[sub] || t.Invalid == ""
	}
	for i, sub := range g.w.subjects {
		switch {
		case sub.Kind == User:
			g.add(users, int32(i), -1, "")
			g.add(certs, int32(i), -1, "")
		case sub.Kind == Group && sub.Name != MastersGroup && sub.Name != AuthenticatedGroup && sub.Name != UnauthenticatedGroup:
			g.add(certs, int32(i), -1, "")
		case sub.Kind == ServiceAccount && !g.w.missing(sub):
			g.accounts[sub.Name] = append(g.accounts[sub.Name], int32(i))
			g.add(everyone, int32(i), -1, "")
			g.add(g.node(poolAll+sub.Namespace), int32(i), -1, "")
			if secret[sub] {
				g.add(tokens, int32(i), -1, "")
				g.add(g.node(poolToken+sub.Namespace), int32(i), -1, "")
			}
		}
	}
}

// leads adds what one holding of node from leads to. all are all its holdings.
func (g *graph) leads(from, n int32, h holding, all []holding) {
	w := g.w
	admin, host := g.node(nodeAdmin), g.node(nodeHost)
	to := func(node int32) { g.add(from, node, n, "") }
	switch w.rules.Rules[h.rule].effect {
	case effectNone:
	case effectEverything, effectEscalate:
		if h.ns == "" {
			to(admin)
			return
		}
		g.accountsOf(from, n, h)
		g.privileged(from, n, h)
	case effectBind:
		switch {
		case h.names == nil && h.ns == "":
			to(admin)
		case h.names == nil: // cluster-admin in one namespace
			g.accountsOf(from, n, h)
			g.privileged(from, n, h)
		default:
			for _, name := range h.names {
				g.bindable(from, n, h.ns, name)
			}
		}
	case effectActAsGroups:
		if w.holds(all, effectActAsUsers, effectActAsAccounts) { // acting as a group needs a user to act as
			g.groups(from, n, h)
		}
	case effectActAsUsers:
		g.users(from, n, h)
	case effectActAsAccounts, effectToken:
		g.accountsOf(from, n, h)
	case effectCSR:
		to(g.node(poolCerts))
		to(g.node(poolAll))
	case effectSecrets:
		g.secrets(from, n, h)
	case effectRun:
		g.accountsOf(from, n, h)
		g.privileged(from, n, h)
	case effectExec:
		if h.names == nil {
			g.accountsOf(from, n, h)
		}
	case effectNode:
		if h.names == nil || slices.ContainsFunc(w.s.Nodes, func(n Node) bool { return n.ControlPlane && slices.Contains(h.names, n.Name) }) {
			to(host)
		} else {
			g.add(from, g.node(poolAll+SystemNamespace), n, "of a pod on the node")
		}
	case effectHostVolume:
		if w.holds(all, effectRun) {
			g.add(from, host, n, "of the control plane's directories, and pods that claim them")
		}
	case effectRewrite:
		g.add(from, admin, n, "and add what it wants to what administrators write")
	case effectAWSAuth:
		to(admin)
	}
}

// holds reports whether one of the holdings has one of the effects.
func (w *rbac) holds(all []holding, effects ...effect) bool {
	return slices.ContainsFunc(all, func(h holding) bool { return slices.Contains(effects, w.rules.Rules[h.rule].effect) })
}

// accountsOf adds the service accounts of the place that the holding is about, or those that it names.
func (g *graph) accountsOf(from, n int32, h holding) {
	if h.names == nil {
		g.add(from, g.node(poolAll+h.ns), n, "")
		return
	}
	for _, name := range h.names {
		for _, i := range g.accounts[name] {
			if h.ns == "" || g.w.subjects[i].Namespace == h.ns {
				g.add(from, i, n, "")
			}
		}
	}
}

// groups adds the groups that the holder may act as.
func (g *graph) groups(from, n int32, h holding) {
	if h.names == nil || slices.Contains(h.names, MastersGroup) {
		g.add(from, g.node(nodeAdmin), n, "of system:masters")
	}
	for _, name := range h.names {
		if i, ok := g.w.index[Subject{Kind: Group, Name: name}]; ok {
			g.add(from, i, n, "")
		}
	}
}

// users adds the users that the holder may act as.
func (g *graph) users(from, n int32, h holding) {
	if h.names == nil {
		g.add(from, g.node(poolUsers), n, "")
		g.add(from, g.node(poolAll), n, "") // a service account is a user too
	}
	for _, name := range h.names {
		if i, ok := g.w.index[Normal(Subject{Kind: User, Name: name})]; ok {
			g.add(from, i, n, "")
		}
	}
}

// privileged adds the way over a node's root, where no Pod Security Standard closes it: a pod may then name its node and mount
// any of its directories.
func (g *graph) privileged(from, n int32, h holding) {
	if h.names != nil {
		return
	}
	for _, ns := range g.w.s.Namespaces {
		if ns.Name == h.ns && (ns.Enforce == "baseline" || ns.Enforce == "restricted") {
			return
		}
	}
	g.add(from, g.node(nodeHost), n, "that mount a node's disk")
}

// secrets adds what the Secrets of the place lead to: tokens of service accounts that never expire, and bootstrap tokens.
func (g *graph) secrets(from, n int32, h holding) {
	w := g.w
	if h.names == nil {
		g.add(from, g.node(poolToken+h.ns), n, "where a token lies")
	}
	for _, t := range w.s.TokenSecrets {
		if slices.Contains(h.names, t.Name) && (h.ns == "" || h.ns == t.Namespace) && t.Invalid == "" {
			if i, ok := w.index[Subject{Kind: ServiceAccount, Namespace: t.Namespace, Name: t.Account}]; ok {
				g.add(from, i, n, "where its token lies")
			}
		}
	}
	if h.ns != "" && h.ns != SystemNamespace {
		return
	}
	for _, t := range w.s.BootstrapTokens {
		if !t.Authentication || h.names != nil && !slices.Contains(h.names, "bootstrap-token-"+t.ID) {
			continue
		}
		for _, name := range append([]string{"system:bootstrappers"}, t.Groups...) {
			if i, ok := w.index[Subject{Kind: Group, Name: name}]; ok {
				g.add(from, i, n, "where a bootstrap token lies")
			}
		}
	}
}

// bindable adds the way over a ClusterRole that may be bound by name.
func (g *graph) bindable(from, n int32, ns, name string) {
	r := g.w.clusterRoles[name]
	if r == nil {
		return
	}
	label := holderOf + text.Name(name)
	if ns != "" {
		label += " in namespace " + text.Name(ns)
	}
	_, known := g.nodes[label]
	node := g.node(label)
	if !known {
		all := g.w.judge([]grant{{role: r}}, ns, nil)
		g.holders[node] = all
		for k, h := range all {
			g.leads(node, int32(k), h, all)
		}
	}
	g.add(from, node, n, "")
}

// unreachable is the distance of what leads nowhere.
const unreachable = math.MaxInt32

// search finds the shortest way from everywhere.
func (g *graph) search(admin int32) {
	into := make([][]int32, len(g.names)) // edges, by where they lead
	g.out = make([][]int32, len(g.names))
	for i, e := range g.edges {
		g.out[e.from] = append(g.out[e.from], int32(i))
		into[e.to] = append(into[e.to], int32(i))
	}
	g.dist, g.next = make([]int32, len(g.names)), make([]int32, len(g.names))
	for i := range g.dist {
		g.dist[i], g.next[i] = unreachable, -1
	}
	g.dist[admin] = 0
	// A pool is no step of its own, so nodes are visited in the order of their distance with two queues.
	for now, later := []int32{admin}, []int32(nil); len(now) > 0 || len(later) > 0; {
		if len(now) == 0 {
			now, later = later, nil
		}
		node := now[0]
		now = now[1:]
		for _, n := range into[node] {
			e := g.edges[n]
			step := int32(1)
			if g.pool(e.from) {
				step = 0
			}
			if g.dist[node]+step >= g.dist[e.from] {
				continue
			}
			g.dist[e.from], g.next[e.from] = g.dist[node]+step, n
			if step == 0 {
				now = append(now, e.from)
			} else {
				later = append(later, e.from)
			}
		}
	}
}

func (g *graph) pool(node int32) bool {
	name := g.names[node]
	return strings.HasPrefix(name, poolAll) || strings.HasPrefix(name, poolToken) || strings.HasPrefix(name, poolCerts) || name == poolUsers
}

// label is how a node is shown.
func (g *graph) label(node int32) string {
	if int(node) < len(g.w.subjects) {
		return g.w.subjects[node].String()
	}
	return g.names[node]
}

// step is the edge as a step: pools that follow are left out.
func (g *graph) step(n int32) (Step, int32) {
	e := g.edges[n]
	s := Step{From: g.label(e.from), Can: e.how}
	if e.holding >= 0 {
		hs := g.holders[e.from]
		if int(e.from) < len(g.w.subjects) {
			hs = g.w.holdings[e.from]
			h := hs[e.holding]
			refs := make([]string, 0, len(h.via))
			for _, b := range h.via[:min(2, len(h.via))] {
				refs = append(refs, g.w.binding(b).Ref().String())
			}
			s.Via = strings.Join(refs, " and ")
		}
		s.Can = g.w.says(hs[e.holding])
		if e.how != "" {
			s.Can += ", " + e.how
		}
	}
	to := e.to
	for g.pool(to) && g.next[to] >= 0 {
		to = g.edges[g.next[to]].to
	}
	s.To = g.label(to)
	return s, to
}

// tail is the shortest way from a node, nil if it is cluster-admin or if there is none.
func (g *graph) tail(node int32) Path {
	if node == g.nodes[nodeAdmin] || g.next[node] < 0 {
		return nil
	}
	p, ok := g.tails[node]
	if !ok {
		s, to := g.step(g.next[node])
		p = append(Path{s}, g.tail(to)...)
		g.tails[node] = p
	}
	return p
}

// says is a holding in words: "can create pods in namespace kube-system".
func (w *rbac) says(h holding) string {
	out := "can " + w.rules.Rules[h.rule].Can
	if h.names != nil {
		shownNames := make([]string, 0, 4)
		for _, n := range h.names[:min(3, len(h.names))] {
			shownNames = append(shownNames, text.Name(n))
		}
		if len(h.names) > 3 {
			shownNames = append(shownNames, "…")
		}
		out += " (only " + strings.Join(shownNames, ", ") + ")"
	}
	if h.ns != "" {
		return out + " in namespace " + text.Name(h.ns)
	}
	return out + " in the whole cluster"
}
