package inventory

import (
	"slices"
	"strings"

	"github.com/breakglassd/breakglass/internal/strictyaml"
	"github.com/breakglassd/breakglass/internal/text"
)

// An effect says what a right leads to; see edges in path.go for what each means.
type effect string

const (
	effectNone          effect = ""
	effectEverything    effect = "everything"
	effectEscalate      effect = "escalate"
	effectBind          effect = "bind"
	effectActAsGroups   effect = "impersonate-groups"
	effectActAsUsers    effect = "impersonate-users"
	effectActAsAccounts effect = "impersonate-accounts"
	effectCSR           effect = "csr"
	effectToken         effect = "token"
	effectSecrets       effect = "secrets"
	effectRun           effect = "run"
	effectExec          effect = "exec"
	effectNode          effect = "node"
	effectHostVolume    effect = "host-volume"
	effectRewrite       effect = "rewrite"
	effectAWSAuth       effect = "aws-auth"
)

const maxNeeds = 128 // what bits can hold

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
	Rules  []Rule
	groups []string // API groups that were looked at whole
	needs  []need
}

// A need is what one role can fulfil: any of the verbs on any of the resources of any of the groups.
type need struct {
	PolicyRule
	exact bool
	only  []string
}

// LoadRules reads rules. It reports every mistake, each with its line.
func LoadRules(text []byte) (*Rules, error) {
	var r strictyaml.Reader
	out := &Rules{}
	if root, ok := r.Document(text, "the rules file", "a scan without rules would find nothing and look clean"); ok {
		out.read(root)
	}
	if err := r.Err("the rules file"); err != nil {
		return nil, err
	}
	return out, nil
}

func (r *Rules) read(root strictyaml.Value) {
	top, ok := root.Object("controls", "groups", "rules")
	if !ok {
		return
	}
	r.groups = top.Need("groups").Words()
	controls := readControls(top.Need("controls"))
	covers := map[string][]strictyaml.Value{}
	lines := map[string]int{}
	for _, v := range top.Need("rules").List() {
		o, ok := v.Object("id", "can", "text", "severity", "system", "namespace", "named", "cluster", "covers", "effect", "controls", "needs")
		if !ok {
			continue
		}
		rule := Rule{ID: o.Need("id").Word(), Can: o.Need("can").Word(), Text: o.Need("text").Word(),
			Severity: readSeverity(o.Need("severity")), System: readSeverity(o.At("system")), Namespace: readSeverity(o.At("namespace")),
			Named: readSeverity(o.At("named")), Covers: o.At("covers").Words(), Controls: controls, effect: effect(o.At("effect").Word())}
		if rule.System == "" {
			rule.System = rule.Severity
		}
		switch first := lines[rule.ID]; {
		case first > 0:
			o.At("id").Wrong("there is a rule %s in line %d already; give every rule its own id", text.Name(rule.ID), first)
		case strings.Trim(rule.ID, "abcdefghijklmnopqrstuvwxyz0123456789-") != "":
			o.At("id").Wrong("an id is of a-z, 0-9 and -")
		}
		lines[rule.ID] = v.Line()
		covers[rule.ID] = o.At("covers").Items()
		rule.Cluster, _ = o.At("cluster").Boolean()
		if !slices.Contains(effects, rule.effect) {
			o.At("effect").Wrong("there is no effect %s; there are %v", text.Name(string(rule.effect)), effects[1:])
		}
		if o.Has("controls") {
			rule.Controls = readControls(o.At("controls"))
		}
		for _, n := range o.Need("needs").List() { // a rule without needs would be met by everybody: the list is not empty
			rule.needs = append(rule.needs, len(r.needs))
			r.needs = append(r.needs, readNeed(n))
		}
		r.Rules = append(r.Rules, rule)
	}
	for _, rule := range r.Rules {
		for i, id := range rule.Covers {
			if id != "*" && lines[id] == 0 {
				covers[rule.ID][i].Wrong("there is no rule %s to cover", text.Name(id))
			}
		}
	}
	if len(r.needs) > maxNeeds {
		root.Wrong("%d needs are more than the %d that can be judged at once", len(r.needs), maxNeeds)
	}
}

func readSeverity(v strictyaml.Value) Severity {
	if !v.There() {
		return ""
	}
	s, err := ParseSeverity(v.Word())
	if err != nil {
		v.Wrong("%v", err)
	}
	return s
}

func readControls(v strictyaml.Value) []string {
	out := v.Words()
	for _, c := range out {
		if !slices.Contains(Controls, c) {
			v.Wrong("there is no control %s; there are %s", text.Name(c), strings.Join(Controls, ", "))
		}
	}
	return out
}

func readNeed(v strictyaml.Value) need {
	o, ok := v.Object("exact", "only", "verbs", "groups", "resources", "urls")
	if !ok {
		return need{}
	}
	out := need{only: o.At("only").Words(), PolicyRule: PolicyRule{Verbs: o.Need("verbs").Words(), APIGroups: o.At("groups").Words(),
		Resources: o.At("resources").Words(), NonResourceURLs: o.At("urls").Words()}}
	out.exact, _ = o.At("exact").Boolean()
	if (len(out.Resources) == 0 || len(out.APIGroups) == 0) == (len(out.NonResourceURLs) == 0) {
		v.Wrong("a need is about groups and resources, or about urls")
	}
	if !out.exact {
		for _, word := range slices.Concat(out.Verbs, out.APIGroups, out.Resources, out.NonResourceURLs) {
			if strings.Contains(word, "*") {
				v.Wrong("a wildcard in a need wants exact: true")
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

func (b *bits) set(i int) { b[i/64] |= 1 << (i % 64) }

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
