package inventory

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// An effect says what a right leads to; see edges in path.go for what each means.
type effect string

const (
	effectNone           effect = ""
	effectEverything     effect = "everything"
	effectEscalate       effect = "escalate"
	effectBind           effect = "bind"
	effectActAsGroups    effect = "impersonate-groups"
	effectActAsUsers     effect = "impersonate-users"
	effectActAsAccounts  effect = "impersonate-accounts"
	effectCSR            effect = "csr"
	effectToken          effect = "token"
	effectSecrets        effect = "secrets"
	effectRun            effect = "run"
	effectExec           effect = "exec"
	effectNode           effect = "node"
	effectHostVolume     effect = "host-volume"
	effectRewrite        effect = "rewrite"
	effectAWSAuth        effect = "aws-auth"
	maxNeeds                    = 128 // what bits can hold
	systemNamespace             = "kube-system"
	authenticatedGroup          = "system:authenticated"
	unauthenticatedGroup        = "system:unauthenticated"
	anonymousUser               = "system:anonymous"
	mastersGroup                = "system:masters"
)

var effects = []effect{effectNone, effectEverything, effectEscalate, effectBind, effectActAsGroups, effectActAsUsers, effectActAsAccounts,
	effectCSR,
	effectToken, effectSecrets, effectRun, effectExec, effectNode, effectHostVolume, effectRewrite, effectAWSAuth}

// Controls are the controls of audit frameworks that a rule may name: those about access being given, reviewed and kept small.
var Controls = []string{"SOC 2 CC6.1", "SOC 2 CC6.2", "SOC 2 CC6.3", "ISO 27001 A.5.18", "ISO 27001 A.8.2", "PCI DSS 7.2.4", "NIST AC-2",
	"NIST AC-6(7)"}

// A Rule is a right that matters. The fields are explained in policies/recert/rules.yaml.
type Rule struct {
	ID        string
	Can       string
	Text      string
	Severity  Severity
	System    Severity
	Namespace Severity // empty: it does not matter in an ordinary namespace
	Named     Severity // empty: it does not matter for single objects
	Cluster   bool
	Covers    []string
	Controls  []string

	effect effect
	needs  []int // indexes of Rules.needs
}

// Rules are the rights that matter. They are read-only once loaded.
type Rules struct {
	Rules []Rule
	needs []need
}

// A need is what one role can fulfil: any of the verbs on any of the resources of any of the groups.
type need struct {
	PolicyRule
	exact bool
	only  []string
}

// LoadRules reads rules. It reports every mistake, each with its line.
func LoadRules(text []byte) (*Rules, error) {
	doc, err := parseYAML(text)
	if err != nil {
		return nil, fmt.Errorf("reading the rules: %w", err)
	}
	r := &reader{}
	out := &Rules{}
	top := r.object(doc, "controls", "rules")
	controls := r.controls(top.need("controls"))
	list := r.list(top.need("rules"))
	if len(list) == 0 {
		r.wrong(doc, "there are no rules: a scan with none would find nothing and look clean")
	}
	seen := map[string]int{}
	covers := map[string]*yaml.Node{}
	for _, n := range list {
		o := r.object(n, "id", "can", "text", "severity", "system", "namespace", "named", "cluster", "covers", "effect", "controls", "needs")
		rule := Rule{ID: r.text(o.need("id")), Can: r.text(o.need("can")), Text: r.text(o.need("text")), Severity: r.severity(o.need("severity")),
			System: r.severity(o.get("system")), Namespace: r.severity(o.get("namespace")), Named: r.severity(o.get("named")),
			Covers: r.texts(o.get("covers")), Controls: controls, effect: effect(r.text(o.get("effect")))}
		if rule.System == "" {
			rule.System = rule.Severity
		}
		switch first := seen[rule.ID]; {
		case first > 0:
			r.wrong(o.get("id"), "there is a rule %s in line %d already", shown(rule.ID), first)
		case strings.Trim(rule.ID, "abcdefghijklmnopqrstuvwxyz0123456789-") != "":
			r.wrong(o.get("id"), "an id is of a-z, 0-9 and -")
		}
		seen[rule.ID] = n.Line
		covers[rule.ID] = o.get("covers")
		switch text := r.text(o.get("cluster")); text {
		case "true":
			rule.Cluster = true
		case "", "false":
		default:
			r.wrong(o.get("cluster"), "cluster is true or false")
		}
		if !slices.Contains(effects, rule.effect) {
			r.wrong(o.get("effect"), "there is no effect %s; there are %v", shown(string(rule.effect)), effects[1:])
		}
		if o.get("controls") != nil {
			rule.Controls = r.controls(o.get("controls"))
		}
		needs := r.list(o.need("needs"))
		if len(needs) == 0 && o.get("needs") != nil {
			r.wrong(o.get("needs"), "a rule without needs would be met by everybody")
		}
		for _, n := range needs {
			rule.needs = append(rule.needs, len(out.needs))
			out.needs = append(out.needs, r.need(n))
		}
		out.Rules = append(out.Rules, rule)
	}
	for _, rule := range out.Rules {
		for _, id := range rule.Covers {
			if id != "*" && seen[id] == 0 {
				r.wrong(covers[rule.ID], "there is no rule %s to cover", shown(id))
			}
		}
	}
	if len(out.needs) > maxNeeds {
		r.wrong(doc, "%d needs are more than the %d that can be judged at once", len(out.needs), maxNeeds)
	}
	if err := r.err("the rules file"); err != nil {
		return nil, err
	}
	return out, nil
}

func (r *reader) severity(n *yaml.Node) Severity {
	if n == nil {
		return ""
	}
	s, err := ParseSeverity(r.text(n))
	if err != nil {
		r.wrong(n, "%v", err)
	}
	return s
}

func (r *reader) controls(n *yaml.Node) []string {
	out := r.texts(n)
	for _, c := range out {
		if !slices.Contains(Controls, c) {
			r.wrong(n, "%s is none of the controls %s", shown(c), strings.Join(Controls, ", "))
		}
	}
	return out
}

func (r *reader) need(n *yaml.Node) need {
	o := r.object(n, "exact", "only", "verbs", "groups", "resources", "urls")
	out := need{only: r.texts(o.get("only")), exact: r.text(o.get("exact")) == "true", PolicyRule: PolicyRule{Verbs: r.texts(o.need("verbs")),
		APIGroups: r.texts(o.get("groups")), Resources: r.texts(o.get("resources")), NonResourceURLs: r.texts(o.get("urls"))}}
	if (len(out.Resources) == 0 || len(out.APIGroups) == 0) == (len(out.NonResourceURLs) == 0) && o.node != nil {
		r.wrong(n, "a need is about groups and resources, or about urls")
	}
	if !out.exact {
		for _, word := range slices.Concat(out.Verbs, out.APIGroups, out.Resources, out.NonResourceURLs) {
			if strings.Contains(word, "*") {
				r.wrong(n, "a wildcard in a need wants exact: true")
			}
		}
	}
	return out
}

// fulfilledBy reports whether a rule of a role gives what is needed: for all objects, or for those named only.
func (n need) fulfilledBy(p PolicyRule) (all bool, names []string) {
	if len(n.NonResourceURLs) > 0 {
		return n.verb(p) != "" && slices.ContainsFunc(n.NonResourceURLs, func(url string) bool {
			return slices.ContainsFunc(p.NonResourceURLs, func(have string) bool { return have == url || !n.exact && urlCovers(have, url) })
		}), nil
	}
	if len(p.NonResourceURLs) > 0 || n.verb(p) == "" {
		return false, nil
	}
	group := slices.ContainsFunc(n.APIGroups, func(g string) bool {
		return slices.Contains(p.APIGroups, g) || !n.exact && slices.Contains(p.APIGroups, "*")
	})
	if !group {
		return false, nil
	}
	for _, res := range n.Resources {
		if !slices.Contains(p.Resources, res) && (n.exact || !slices.ContainsFunc(p.Resources,
			func(have string) bool { return resourceCovers(have, res) })) {
			continue
		}
		switch {
		case len(p.ResourceNames) == 0:
			return true, nil
		case slices.ContainsFunc(p.ResourceNames, func(name string) bool { return slices.Contains(n.only, name) }):
			return true, nil
		case len(n.only) == 0 && n.nameable(p, res):
			names = append(names, p.ResourceNames...)
		}
	}
	return false, names
}

// verb is a verb that is both needed and given, "" if there is none.
func (n need) verb(p PolicyRule) string {
	for _, v := range n.Verbs {
		if slices.Contains(p.Verbs, v) || !n.exact && slices.Contains(p.Verbs, "*") {
			return v
		}
	}
	return ""
}

// nameable reports whether a right limited to names is worth anything: a request to create an object, or to delete many, has
// no name when it is authorised, so a rule with names never gives it.
func (n need) nameable(p PolicyRule, resource string) bool {
	if strings.Contains(resource, "/") {
		return true
	}
	return slices.ContainsFunc(n.Verbs, func(v string) bool {
		return v != "create" && v != "deletecollection" && (slices.Contains(p.Verbs, v) || slices.Contains(p.Verbs, "*"))
	})
}

// resourceCovers and urlCovers follow the RBAC authorizer: * is all resources, */x the subresource x of all, and a URL may end
// with *.
func resourceCovers(have, want string) bool {
	if have == "*" || have == want {
		return true
	}
	sub, ok := strings.CutPrefix(have, "*/")
	if !ok {
		return false
	}
	_, wanted, found := strings.Cut(want, "/")
	return found && wanted == sub
}

func urlCovers(have, want string) bool {
	if have == "*" || have == want {
		return true
	}
	prefix, ok := strings.CutSuffix(have, "*")
	return ok && strings.HasPrefix(want, prefix)
}

// bits is a set of needs.
type bits [maxNeeds / 64]uint64

func (b *bits) set(i int)     { b[i/64] |= 1 << (i % 64) }
func (b bits) has(i int) bool { return b[i/64]&(1<<(i%64)) != 0 }

func (b *bits) add(c bits) {
	for i := range b {
		b[i] |= c[i]
	}
}

// gives is what a role fulfils.
type gives struct {
	all   bits             // for all objects
	some  bits             // for all objects or for those named
	names map[int][]string // for these objects only, by need
}

func (r *Rules) gives(rules []PolicyRule) gives {
	var out gives
	for i, n := range r.needs {
		for _, p := range rules {
			all, names := n.fulfilledBy(p)
			if all {
				out.all.set(i)
				out.some.set(i)
			} else if len(names) > 0 {
				if out.names == nil {
					out.names = map[int][]string{}
				}
				out.names[i] = append(out.names[i], names...)
				out.some.set(i)
			}
		}
	}
	return out
}
