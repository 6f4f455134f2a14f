package controlplane

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/breakglassd/breakglass/internal/text"
	"go.yaml.in/yaml/v3"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"
)

// programs are the parts of a control plane whose command line says how they can be reached.
var Programs = []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd"}

// wrappers are programs that run the words behind their own flags and add none to them. After others it is not known.
var wrappers = []string{"env", "exec", "nice", "ionice", "nohup", "setsid", "stdbuf", "dumb-init", "tini", "catatonit", "go-runner",
	"hyperkube", "command"}

var shells = []string{"sh", "bash", "dash", "ash", "ksh", "zsh"}

// elsewhere are the flags that name a file with more settings of the same kind as flags. etcd reads nothing but the file.
var elsewhere = map[string][]string{"kube-apiserver": {"openshift-config", "config", "flagfile"},
	"kube-controller-manager": {"openshift-config", "config", "flagfile"},
	"kube-scheduler":          {"flagfile"}, "etcd": {"config-file"}}

// A Component is a program of the control plane and its command line.
type Component struct {
	Name  string `json:"name"`  // kube-apiserver, kube-controller-manager, kube-scheduler, etcd
	Where string `json:"where"` // "pod kube-system/kube-apiserver-cp1 on node cp1", or the file that the operator gave
	// Node is the node whose static pod it is, and Given says that the operator gave it. Of any other pod it is not known that it
	// is the cluster's own: any user who may create pods in kube-system can make one that looks like it.
	Node  string `json:"node,omitempty"`
	Given bool   `json:"given,omitempty"`
	// Flags are by name without dashes; a flag given twice has two values, and one without a value has "true".
	Flags map[string][]string `json:"flags"`
	// Blind says why it may have flags that are not among these: then a flag that is not here proves nothing. Empty if every word
	// of its command line was understood.
	Blind string `json:"blind,omitempty"`
}

// flag is the value of a flag, the last one if it is given more than once, and whether it is given.
func (c Component) Flag(name string) (string, bool) {
	v := c.Flags[name]
	if len(v) == 0 {
		return "", false
	}
	return v[len(v)-1], true
}

// lacks reports whether a flag is known not to be given.
func (c Component) Lacks(name string) bool {
	_, given := c.Flag(name)
	return !given && c.Blind == ""
}

// list is the value of a flag that holds a list.
func (c Component) List(name string) []string {
	var out []string
	for _, v := range c.Flags[name] {
		for _, part := range strings.Split(v, ",") {
			if part = strings.TrimSpace(part); part != "" {
				out = append(out, part)
			}
		}
	}
	return out
}

// on reports whether a boolean flag is on.
func (c Component) On(name string, byDefault bool) bool {
	text, given := c.Flag(name)
	v, err := strconv.ParseBool(text)
	if !given || err != nil {
		return byDefault
	}
	return v
}

// A Container is what matters of a container of a pod.
type Container struct {
	Name    string   `json:"name" yaml:"name"`
	Image   string   `json:"image" yaml:"image"`
	Command []string `json:"command" yaml:"command"`
	Args    []string `json:"args" yaml:"args"`
	Env     []struct {
		Name  string `json:"name" yaml:"name"`
		Value string `json:"value" yaml:"value"`
		From  any    `json:"valueFrom" yaml:"valueFrom"`
	} `json:"env" yaml:"env"`
	EnvFrom []any `json:"envFrom" yaml:"envFrom"`
}

// Components are the programs of a control plane that a container runs: none, or one.
func (c Container) Components(where string) []Component {
	env := environment{values: map[string]string{}, partial: len(c.EnvFrom) > 0}
	for _, e := range c.Env {
		if e.From != nil {
			env.partial = true
			continue
		}
		env.values[e.Name] = e.Value
	}
	why := ""
	var words []string
	for _, w := range slices.Concat(c.Command, c.Args) {
		w = podVariable().ReplaceAllStringFunc(w, func(v string) string {
			if strings.HasPrefix(v, "$$") {
				return v[1:]
			}
			value, ok := env.values[v[2:len(v)-1]]
			if !ok {
				why = "it holds the variable " + v + ", whose value was not seen"
				return v
			}
			return value
		})
		words = append(words, w)
	}
	if image, _, _ := strings.Cut(path.Base(c.Image), ":"); len(c.Command) == 0 && slices.Contains(Programs, image) {
		if len(c.Args) == 0 || slices.Contains(Programs, path.Base(c.Args[0])) {
			words = c.Args
		} else {
			words = append([]string{image}, words...)
		}
		why = "its image says how it begins"
		if len(words) == 0 {
			words = []string{image}
		}
	}
	found := parseWords(words, env, where)
	if found == nil {
		return nil
	}
	found.blind(why)
	return []Component{*found}
}

var podVariable = pattern(`\$?\$\([A-Za-z_][-A-Za-z0-9_.]*\)`)

// An environment is what is known of the variables of a process.
type environment struct {
	values  map[string]string
	partial bool // there are more, or some have other values
}

// ParseCommand reads the words of a command line. ok is false if it runs no part of a control plane.
func ParseCommand(words []string, where string) (c Component, ok bool) {
	found := parseWords(words, environment{}, where)
	if found == nil {
		return Component{}, false
	}
	return *found, true
}

func (c *Component) blind(why string) {
	if c.Blind == "" {
		c.Blind = why
	}
}

// parseWords reads the words of a command line, as a process gets them; nil if it runs no part of a control plane.
func parseWords(words []string, env environment, where string) *Component {
	for len(words) > 0 {
		name := path.Base(words[0])
		switch {
		case slices.Contains(Programs, name):
			return parseFlags(name, words[1:], env, where)
		case slices.Contains(shells, name):
			if script, ok := scriptOf(words[1:]); ok {
				return parseScript(script, env, where)
			}
			return behind(words, env, where)
		case name == "busybox" && len(words) > 1:
			words = words[1:]
		case slices.Contains(wrappers, name):
			rest := words[1:]
			for len(rest) > 0 && (strings.HasPrefix(rest[0], "-") || assignment().MatchString(rest[0]) ||
				strings.Trim(rest[0], "0123456789") == "") {
				if key, value, ok := strings.Cut(rest[0], "="); ok && !strings.HasPrefix(key, "-") {
					env.values = maps.Clone(env.values)
					if env.values == nil {
						env.values = map[string]string{}
					}
					env.values[key] = value
				}
				rest = rest[1:]
			}
			words = rest
		default:
			return behind(words, env, where)
		}
	}
	return nil
}

var assignment = pattern(`^[A-Za-z_][A-Za-z0-9_]*=`)

// behind looks for a program behind words that are not understood. The value of a flag is none: etcdbrctl --data-dir /var/lib/etcd
// does not run etcd.
func behind(words []string, env environment, where string) *Component {
	for i := 1; i < len(words); i++ {
		valueOf := strings.HasPrefix(words[i-1], "-") && !strings.Contains(words[i-1], "=") && words[i-1] != "--"
		if name := path.Base(words[i]); slices.Contains(Programs, name) && !valueOf && !strings.HasPrefix(words[i], "-") {
			c := parseFlags(name, words[i+1:], env, where)
			c.blind(fmt.Sprintf("it is run by %s, which may add flags", text.Name(path.Base(words[0]))))
			return c
		}
	}
	return nil
}

func parseFlags(name string, words []string, env environment, where string) *Component {
	c := &Component{Name: name, Where: where, Flags: map[string][]string{}}
	for k := 0; k < len(words); k++ {
		flag, isFlag := strings.CutPrefix(words[k], "-")
		flag = strings.TrimPrefix(flag, "-")
		if !isFlag || flag == "" {
			c.blind("the word " + text.Name(words[k]) + " in it is no flag")
			continue
		}
		value := "true"
		if name, given, found := strings.Cut(flag, "="); found {
			flag, value = name, given
		} else if k+1 < len(words) && !strings.HasPrefix(words[k+1], "-") {
			value = words[k+1]
			k++
		}
		flag = strings.ReplaceAll(flag, "_", "-")
		c.Flags[flag] = append(c.Flags[flag], value)
	}
	for _, flag := range elsewhere[name] {
		if file, given := c.Flag(flag); given {
			c.blind("more is set in the file " + text.Name(file) + ", which was not given")
		}
	}
	if name != "etcd" {
		return c
	}
	// etcd takes every flag from its environment too; the command line comes first.
	if env.partial {
		c.blind("etcd takes settings from its environment, of which not all was seen")
	}
	for key, value := range env.values {
		flag, ok := strings.CutPrefix(key, "ETCD_")
		flag = strings.ReplaceAll(strings.ToLower(flag), "_", "-")
		if !ok || c.Flags[flag] != nil {
			continue
		}
		c.Flags[flag] = []string{value}
		if flag == "config-file" {
			c.blind("more is set in the file " + text.Name(value) + ", which was not given")
		}
	}
	return c
}

// scriptOf is the script among the words behind a shell's name.
func scriptOf(words []string) (string, bool) {
	for i, w := range words {
		switch {
		case !strings.HasPrefix(w, "-") && !strings.HasPrefix(w, "+"):
			return "", false
		case strings.HasPrefix(w, "-") && !strings.HasPrefix(w, "--") && strings.Contains(w, "c"):
			if i+1 < len(words) {
				return words[i+1], true
			}
			return "", false
		}
	}
	return "", false
}

// parseScript finds the program that a shell script runs, nil if it runs none.
func parseScript(script string, env environment, where string) *Component {
	calls, err := shellCalls(script, env)
	var out *Component
	for _, call := range calls {
		found := parseWords(call.words, env, where)
		if found == nil {
			continue
		}
		found.blind(call.unknown)
		if out != nil { // which of them runs is for the script to say
			out.blind("the script runs it in more than one way")
			continue
		}
		out = found
	}
	if out == nil { // it may be made of variables, or not be understood at all
		for _, name := range Programs {
			if mention(name).MatchString(script) && (err != nil || slices.ContainsFunc(calls, func(c call) bool { return c.unknown != "" })) {
				return &Component{Name: name, Where: where, Flags: map[string][]string{}, Blind: "it is run by a script that was not understood"}
			}
		}
		return nil
	}
	if err != nil {
		out.blind("the script that runs it was not understood: " + err.Error())
	}
	return out
}

// mention is where a program's name stands as a word of its own, which a path may begin.
func mention(name string) *regexp.Regexp {
	return regexp.MustCompile(`(^|[\s"'/;&|(=])` + regexp.QuoteMeta(name) + `($|[\s"';&|)])`)
}

// call is one command of a script.
type call struct {
	words   []string
	unknown string // why not all of its words are known
}

// shellCalls are the commands of a script, in the order in which they stand there, with the variables replaced that are known.
func shellCalls(script string, env environment) ([]call, error) {
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(script), "")
	if file == nil {
		return nil, err
	}
	pairs := make([]string, 0, len(env.values))
	for k, v := range env.values {
		pairs = append(pairs, k+"="+v)
	}
	cfg := &expand.Config{Env: expand.ListEnviron(pairs...), NoUnset: true}
	var out []call
	syntax.Walk(file, func(n syntax.Node) bool {
		x, ok := n.(*syntax.CallExpr)
		if !ok || len(x.Args) == 0 {
			return true
		}
		var one call
		for _, w := range x.Args {
			fields, err := expand.Fields(cfg, w)
			if err != nil {
				var word strings.Builder
				_ = syntax.NewPrinter().Print(&word, w) // a Builder never fails
				one.unknown = "what " + text.Name(word.String()) + " stands for was not seen"
				continue
			}
			one.words = append(one.words, fields...)
		}
		out = append(out, one)
		return true
	})
	return out, err
}

// ParseGiven reads a file about the control plane that an operator gives because the API does not show it: manifests of pods and of
// what makes pods, alone or in lists; a systemd unit; what /proc shows of a process; or a command line for a shell, one word or
// flag on a line or all on one.
func ParseGiven(name string, text []byte) ([]Component, error) {
	where := "the given file " + name
	said := string(text)
	var out []Component
	var err error
	switch {
	case strings.ContainsRune(said, 0):
		if c := parseWords(strings.Split(strings.TrimRight(said, "\x00\n"), "\x00"), environment{}, where); c != nil {
			out = []Component{*c}
		}
	case unitLike().MatchString(said):
		out, err = parseUnit(said, where)
	case manifestLike().MatchString(said):
		out, err = parseManifests(text, where)
	default:
		out, err = parseLines(said, where)
	}
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w: give a pod's manifest, a systemd unit, or a command line", name, err)
	}
	for i := range out {
		out[i].Given = true
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s shows the command line of none of %s: give a pod's manifest, a systemd unit, or a command line", name,
			strings.Join(Programs, ", "))
	}
	return out, nil
}

var (
	manifestLike = pattern(`(?m)^\s*[{\[]|^\s*["']?(kind|apiVersion)["']?\s*:`)
	unitLike     = pattern(`(?m)^\s*(\[Service\]|ExecStart\s*=)`)
)

// podTemplate is every place where Kubernetes' own kinds keep a pod.
type podTemplate struct {
	Containers     []Container `yaml:"containers"`
	InitContainers []Container `yaml:"initContainers"`
	Template       *podObject  `yaml:"template"`
	JobTemplate    *podObject  `yaml:"jobTemplate"`
}

type podObject struct {
	Kind  string      `yaml:"kind"`
	Spec  podTemplate `yaml:"spec"`
	Items []yaml.Node `yaml:"items"`
}

func parseManifests(text []byte, where string) ([]Component, error) {
	var out []Component
	var object func(n *yaml.Node) error
	object = func(n *yaml.Node) error {
		if n.Kind == yaml.SequenceNode {
			for _, item := range n.Content {
				if err := object(item); err != nil {
					return err
				}
			}
			return nil
		}
		var o podObject
		if err := n.Decode(&o); err != nil {
			return err
		}
		for i := range o.Items {
			if err := object(&o.Items[i]); err != nil {
				return err
			}
		}
		for spec := &o.Spec; spec != nil; {
			for _, c := range slices.Concat(spec.Containers, spec.InitContainers) {
				out = append(out, c.Components(where)...)
			}
			next := spec.Template
			if spec.JobTemplate != nil {
				next = spec.JobTemplate
			}
			if next == nil {
				break
			}
			spec = &next.Spec
		}
		return nil
	}
	for d := yaml.NewDecoder(strings.NewReader(string(text))); ; {
		var doc yaml.Node
		err := d.Decode(&doc)
		switch {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return nil, err
		case len(doc.Content) == 0 || doc.Content[0].Kind == yaml.ScalarNode:
			continue // an empty document
		}
		if err := object(doc.Content[0]); err != nil {
			return nil, err
		}
	}
}

// parseUnit reads a systemd unit: see systemd.service(5), "command lines".
func parseUnit(text, where string) ([]Component, error) {
	env := environment{values: map[string]string{}}
	var starts []string
	continued := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if trimmed := strings.TrimSpace(line); strings.HasPrefix(trimmed, "#") || strings.HasPrefix(trimmed, ";") {
			continue
		}
		if rest, more := strings.CutSuffix(line, `\`); more {
			continued += rest + " "
			continue
		}
		line, continued = continued+line, ""
		key, value, ok := strings.Cut(line, "=")
		value = strings.TrimSpace(value)
		switch key = strings.TrimSpace(key); {
		case !ok:
		case key == "Environment":
			words, err := unitWords(value)
			if err != nil {
				return nil, err
			}
			for _, w := range words {
				k, v, _ := strings.Cut(w, "=")
				env.values[k] = v
			}
		case key == "EnvironmentFile", key == "PassEnvironment":
			env.partial = true
		case key == "ExecStart" && value == "":
			starts = nil
		case key == "ExecStart":
			starts = append(starts, strings.TrimLeft(value, "@-:+!|"))
		}
	}
	if continued != "" {
		return nil, errors.New(`its last line ends with \`)
	}
	var out []Component
	for _, start := range starts {
		words, err := unitWords(start)
		if err != nil {
			return nil, err
		}
		unknown := ""
		var all []string
		for _, w := range words {
			expanded, why := unitVariables(w, env)
			unknown = cmp.Or(unknown, why)
			all = append(all, expanded...)
		}
		if c := parseWords(all, env, where); c != nil {
			c.blind(unknown)
			out = append(out, *c)
		}
	}
	return out, nil
}

// unitVariables replaces the variables and specifiers of one word: $NAME alone becomes as many words as its value has.
func unitVariables(w string, env environment) (words []string, unknown string) {
	if strings.HasPrefix(w, "$") && unitName().MatchString(w[1:]) {
		value, ok := env.values[w[1:]]
		if !ok {
			return nil, "what " + text.Name(w) + " stands for was not seen"
		}
		return strings.Fields(value), ""
	}
	w = unitVariable().ReplaceAllStringFunc(w, func(v string) string {
		switch {
		case v == "$$" || v == "%%":
			return v[1:]
		case v[0] == '$':
			if value, ok := env.values[v[2:len(v)-1]]; ok {
				return value
			}
		}
		unknown = "what " + text.Name(v) + " stands for was not seen"
		return v
	})
	return []string{w}, unknown
}

var (
	unitName     = pattern(`^[A-Za-z_][A-Za-z0-9_]*$`)
	unitVariable = pattern(`\$\$|\$\{[A-Za-z_][A-Za-z0-9_]*\}|%%|%[A-Za-z]`)
)

// unitWords splits a line of a unit into words: quotes go around whole words, and a backslash takes the next character as it is.
func unitWords(line string) ([]string, error) {
	var out []string
	var word strings.Builder
	in, quote := false, rune(0)
	escaped := false
	for _, r := range line {
		switch {
		case escaped:
			switch r {
			case 'n':
				r = '\n'
			case 't':
				r = '\t'
			case 's':
				r = ' '
			case '\\', '"', '\'':
			default:
				return nil, fmt.Errorf(`it escapes \%c, which is not read here`, r)
			}
			word.WriteRune(r)
			escaped = false
		case r == '\\':
			escaped, in = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '"' || r == '\'':
			quote, in = r, true
		case r == ' ' || r == '\t':
			if in {
				out = append(out, word.String())
			}
			word.Reset()
			in = false
		default:
			word.WriteRune(r)
			in = true
		}
	}
	if quote != 0 || escaped {
		return nil, errors.New("a quotation mark in it is not closed")
	}
	if in {
		out = append(out, word.String())
	}
	return out, nil
}

// parseLines reads a command line for a shell, and words and flags that stand on lines of their own.
func parseLines(text, where string) ([]Component, error) {
	calls, err := shellCalls(strings.ReplaceAll(text, "\r\n", "\n"), environment{})
	if err != nil {
		return nil, err
	}
	var lines []call
	for _, c := range calls {
		if n := len(lines) - 1; n >= 0 && (len(c.words) == 0 || strings.HasPrefix(c.words[0], "-") || valueless(lines[n].words)) {
			lines[n].words = append(lines[n].words, c.words...)
			lines[n].unknown = cmp.Or(lines[n].unknown, c.unknown)
			continue
		}
		lines = append(lines, c)
	}
	var out []Component
	for _, l := range lines {
		if c := parseWords(l.words, environment{}, where); c != nil {
			c.blind(l.unknown)
			out = append(out, *c)
		}
	}
	return out, nil
}

// valueless reports whether the last word is a flag whose value may stand on the next line.
func valueless(words []string) bool {
	return len(words) > 1 && strings.HasPrefix(words[len(words)-1], "-") && !strings.Contains(words[len(words)-1], "=")
}

// pattern compiles a regular expression at its first use: the command line initialises this package in every command, and needs none.
func pattern(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}
