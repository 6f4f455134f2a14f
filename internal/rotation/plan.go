package rotation

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/text"
)

// Plan is the way to the next phase, and to that one only: the exact commands, for people to run. The daemon runs none of them.
type Plan struct {
	Cluster string `json:"cluster"`
	Phase   Phase  `json:"phase"`             // where the rotation is
	Next    Phase  `json:"next,omitempty"`    // where the steps lead; empty: there is no step
	Refused string `json:"refused,omitempty"` // why there are no steps; then Steps is empty
	Steps   []Step `json:"steps,omitempty"`
	Undo    []Step `json:"undo,omitempty"` // how to go back from Next
}

// Where the commands of a step are run.
const (
	AtVault  = "vault"   // anywhere, as a Vault administrator: VAULT_ADDR and VAULT_TOKEN
	AtNode   = "node"    // on the control-plane node of the step's address, as root
	AtDaemon = "daemon"  // an edit of breakglassd's configuration, and a restart
	AtClient = "kubectl" // anywhere, as a cluster administrator
)

// Step is one thing to do, and how to see that it worked.
type Step struct {
	At       string   `json:"at"`
	Address  string   `json:"address,omitempty"` // of AtNode
	What     string   `json:"what"`
	Commands []string `json:"commands"`
	Check    string   `json:"check"`
}

// DefaultBundle is the client-CA bundle file that deploy/kube-apiserver makes on each control-plane node.
const DefaultBundle = "/etc/kubernetes/pki/client-ca-bundle.crt"

// PlanOptions say what the commands are to be made for.
type PlanOptions struct {
	Target    Phase    // the phase that an operator wants; another than the next one is refused. Empty: the next one
	Bundle    string   // the bundle file on the nodes. Default DefaultBundle
	Copies    []string // the declared copies of the bundle, on the daemon's host, which change by hand as the nodes do
	ClusterCA string   // the cluster's own client CA on the nodes, which every bundle holds. Default that of kubeadm
}

// order is the phases that one passes through, and in what order.
var order = []Phase{Prepared, TrustedOnAll, Draining, Drained, Residue, Retired, Closed}

// MakePlan says what to do next. It is pure: a report that is old gives a plan for what was then, so it is made from a fresh one.
func MakePlan(r Report, o PlanOptions) Plan {
	if o.Bundle == "" {
		o.Bundle = DefaultBundle
	}
	if o.ClusterCA == "" {
		o.ClusterCA = "/etc/kubernetes/pki/ca.crt"
	}
	p := Plan{Cluster: r.Cluster, Phase: r.Phase}
	b := builder{r: r, o: o}
	b.active, _ = r.Generation(PositionActive)
	b.next, b.hasNext = r.Generation(PositionNext)
	b.old, _ = r.Generation(PositionOld)
	b.plan(&p)
	switch {
	case o.Target == "" || o.Target == p.Next:
	case !slices.Contains(order, o.Target):
		p = Plan{Cluster: r.Cluster, Phase: r.Phase, Refused: fmt.Sprintf("%q is not a phase that can be asked for: it is one of %s", o.Target,
			join(order))}
	case o.Target == r.Phase:
		p = Plan{Cluster: r.Cluster, Phase: r.Phase, Refused: fmt.Sprintf("%s is where it is already: %s", o.Target, r.Why)}
	case p.Refused != "":
		p.Refused = fmt.Sprintf("%s is not possible now: %s", o.Target, p.Refused)
	case p.Next == r.Phase:
		p = Plan{Cluster: r.Cluster, Phase: r.Phase, Refused: fmt.Sprintf("first something has to be put right: the plan without %s says what",
			o.Target)}
	case b.old.ClusterCA != "" && (o.Target == Residue || o.Target == Retired):
		p = Plan{Cluster: r.Cluster, Phase: r.Phase, Refused: fmt.Sprintf("%s is not on this way: %s, so after %s comes %s", o.Target,
			b.stays(b.old), Drained, Closed)}
	default:
		p = Plan{Cluster: r.Cluster, Phase: r.Phase, Refused: fmt.Sprintf("no phase can be skipped: it is %s, and %s comes before %s (%s)",
			r.Phase, p.Next, o.Target, r.Why)}
	}
	return p
}

func join(phases []Phase) string {
	out := make([]string, len(phases))
	for i, p := range phases {
		out[i] = string(p)
	}
	return strings.Join(out, ", ")
}

type builder struct {
	r                 Report
	o                 PlanOptions
	active, next, old Generation
	hasNext           bool
}

func (b builder) plan(p *Plan) {
	refuse := func(format string, args ...any) { p.Refused = fmt.Sprintf(format, args...) }
	// A bundle file that is not usable comes before everything: no change of it is seen, and its API server will not start again.
	if steps, why := b.broken(); (len(steps) > 0 || why != "") && (b.r.Phase != DeletedButCached || b.r.Drained != Yes) {
		p.Next, p.Steps, p.Refused = b.r.Phase, steps, why
		if why != "" {
			p.Next, p.Steps = "", nil
		}
		return
	}
	switch b.r.Phase {
	case NotStarted, Closed:
		if a := count(b.r.Servers, b.active.Name, false); !a.everywhere() {
			p.Next, p.Steps = b.r.Phase, b.trust(b.active, a.refusing)
			return
		}
		p.Next, p.Steps, p.Undo = Prepared, b.prepare(), b.undoPrepare()
	case Prepared, TrustedOnSome:
		p.Next, p.Steps, p.Undo = TrustedOnAll, append(b.pin(b.next), b.trust(b.next, count(b.r.Servers, b.next.Name, false).refusing)...),
			b.untrust(b.next, addresses(b.r.Servers))
	case TrustedOnAll:
		b.move(p, refuse)
	case Active:
		p.Next, p.Steps, p.Undo = Draining, append(b.pin(b.active), b.roles(b.active)...), b.roles(b.old)
	case SwitchedTooEarly:
		b.back(p)
	case Draining:
		if b.r.DrainedAt == nil {
			refuse("%s: wait %s after the roles moved, with the daemon running, and check again", b.r.Why, b.r.MaxTTL+2*time.Minute)
			return
		}
		refuse("certificates of %s are alive until %s: wait until then, and check again", b.old.Name, stamp(*b.r.DrainedAt))
	case Drained, OldRemovedOnSome, DeletedButCached:
		o := count(b.r.Servers, b.old.Name, true)
		if b.r.Drained != Yes { // it left too early
			p.Next, p.Steps = Draining, b.trust(b.old, o.refusing)
			return
		}
		if b.old.ClusterCA != "" {
			p.Next, p.Steps, p.Undo = Closed, b.close(), b.reopen()
			return
		}
		if why := b.mayBeClusterCA(); why != "" {
			refuse("%s", why)
			return
		}
		p.Next, p.Steps, p.Undo = Residue, b.untrust(b.old, o.trusting), b.trust(b.old, addresses(b.r.Servers))
	case Residue:
		p.Next, p.Steps = Retired, b.clean()
	case Retired:
		p.Next, p.Steps, p.Undo = Closed, b.close(), b.reopen()
	case ExpiredCA:
		n := count(b.r.Servers, b.next.Name, false)
		switch {
		case !b.hasNext:
			p.Next, p.Steps = Prepared, b.prepare()
		case n.everywhere():
			b.move(p, refuse)
		case len(n.unknown) > 0 && len(n.refusing) == 0:
			refuse("it is not known whether %s take certificates of %s", strings.Join(n.unknown, ", "), b.next.Name)
		default:
			p.Next, p.Steps = TrustedOnAll, append(b.pin(b.next), b.trust(b.next, n.refusing)...)
		}
	default: // PhaseUnknown
		refuse("the phase is not known, and a step that is right in one phase is an outage in another: %s", strings.Join(b.unseen(""), "; "))
	}
}

// unseen is what could not be seen, of those things whose key begins with one of the prefixes.
func (b builder) unseen(prefixes ...string) []string {
	var out []string
	for _, f := range b.r.Verdicts {
		key, ok := strings.CutPrefix(f.Key, "unseen/")
		if ok && slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(key, p) }) {
			out = append(out, f.What+" (next: "+f.Next+")")
		}
	}
	return out
}

// stays says why a generation is never taken out of a bundle.
func (b builder) stays(g Generation) string {
	return g.Name + " is the cluster's own CA (it is in " + g.ClusterCA + ") and stays in the bundles, because kubelets and the control " +
		"plane sign in by it"
}

// mayBeClusterCA says why it cannot be excluded that the old CA is the cluster's own; empty: it can. Without that CA in its bundles
// a cluster loses its kubelets, so it must be seen that there is another one.
func (b builder) mayBeClusterCA() string {
	if hidden := b.unseen("root-ca", "published", "file/"); len(hidden) > 0 {
		return fmt.Sprintf("before %s leaves the bundles it must be seen that it is not the cluster's own CA: %s", b.old.Name,
			strings.Join(hidden, "; "))
	}
	if !slices.ContainsFunc(b.r.Authorities, func(a Authority) bool { return a.Kind == "client" && !a.Left }) {
		return fmt.Sprintf("the bundles hold no client CA beside the issuers of %s, so one of these is the one that kubelets and the control "+
			"plane sign in by, and it may be %s. Name the cluster's own client CA under ca_checks.client_ca_files, and check again", b.r.Mount,
			b.old.Name)
	}
	return ""
}

func addresses(servers []ServerTrust) []string {
	var out []string
	for _, s := range servers {
		out = append(out, s.Address)
	}
	return out
}

var generationName = regexp.MustCompile(`^breakglass-g([0-9]{1,6})$`)

// following is the name of the generation after all that there are.
func (b builder) following() (name string, n int) {
	n = len(b.r.Generations)
	for _, g := range b.r.Generations {
		if m := generationName.FindStringSubmatch(g.Name); m != nil {
			i, err := strconv.Atoi(m[1])
			if err == nil {
				n = max(n, i)
			}
		}
	}
	return fmt.Sprintf("breakglass-g%d", n+1), n + 1
}

func (b builder) prepare() []Step {
	name, n := b.following()
	life := b.active.NotAfter.Sub(b.active.NotBefore).Truncate(time.Hour)
	if life < 24*time.Hour {
		life = 17520 * time.Hour // two years, as setup.sh
	}
	mount := b.r.Mount
	return []Step{{At: AtVault, What: "Make the next CA, whose key never leaves Vault. Nothing uses it yet", Commands: []string{
		setDefault(mount, b.r.Default),
		// The random serial number is part of the subject, as in setup.sh: a mount that is made again is another CA.
		vault("write", mount+"/issuers/generate/root/internal", fmt.Sprintf("common_name=breakglass-ca %s g%d", mount, n)) +
			` serial_number="$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')" ` + fmt.Sprintf(
			"issuer_name=%s key_type=ec key_bits=%s max_path_length=0 exclude_cn_from_sans=true ttl=%dh", name, b.curve(), int(life.Hours())),
		vault("patch", mount+"/issuer/"+name, "leaf_not_after_behavior=err", "usage=read-only,issuing-certificates,crl-signing,ocsp-signing"),
	}, Check: caCheck(b.r.Cluster) + " says " + string(Prepared)}}
}

// curve is the size of the next CA's key: that of the one that signs, and where it has no such key that of setup.sh.
func (b builder) curve() string {
	if strings.Contains(b.active.Key, "384") {
		return "384"
	}
	return "256"
}

func (b builder) undoPrepare() []Step {
	name, _ := b.following()
	return []Step{{At: AtVault, What: "Take the next CA out of use", Commands: []string{closeIssuer(b.r.Mount, name)},
		Check: caCheck(b.r.Cluster)}}
}

// pin tells the daemon of the issuer that the roles move to, if it does not know it.
func (b builder) pin(g Generation) []Step {
	if g.Pinned {
		return nil
	}
	return []Step{{At: AtDaemon, What: "Let the daemon sign under either issuer, so that issuing goes on when the roles move",
		Commands: []string{
			"# breakglassd's configuration, cluster " + text.Exact(b.r.Cluster) + ":",
			"#   vault_next_issuer_id: " + text.Exact(g.ID),
			"systemctl restart breakglassd",
		}, Check: caCheck(b.r.Cluster) + " shows " + g.Name + " as pinned"}}
}

// pemFile is the file that the commands keep the certificate of a generation in.
func pemFile(g Generation) string { return fileName(g) + ".pem" }

// fileName is the generation's name, if a shell and a file system see nothing but a name in it, and else one of its certificate.
func fileName(g Generation) string {
	if plainName.MatchString(g.Name) {
		return g.Name
	}
	return "ca-" + g.Fingerprint[:min(16, len(g.Fingerprint))]
}

var plainName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$`)

// vault is a command of Vault's program. Each word stands for itself, whatever Vault or a configuration calls its things.
func vault(verb, path string, fields ...string) string {
	return text.Command("vault "+verb, nil, append([]string{path}, fields...)...)
}

func setDefault(mount, issuer string) string {
	return vault("write", mount+"/config/issuers", "default="+issuer, "default_follows_latest_issuer=false")
}

func closeIssuer(mount, issuer string) string {
	return vault("patch", mount+"/issuer/"+issuer, "usage=read-only,crl-signing,ocsp-signing")
}

func caCheck(cluster string) string { return text.Command("breakglass ca check", nil, cluster) }

func caPlan(cluster string) string { return text.Command("breakglass ca plan", nil, cluster) }

// hasCert is a test that a file holds a certificate.
func hasCert(file string) string { return "grep -qs 'BEGIN CERTIFICATE' " + file }

// guarded runs a chain of commands, each only if the one before went well, if a test holds. Otherwise it changes nothing and says why.
func guarded(test, otherwise string, chain ...string) string {
	return "if " + test + "; then " + strings.Join(chain, " && ") + `; else echo "stop, nothing is changed: ` + otherwise + `" >&2; false; fi`
}

// trust appends a generation to the bundles of the addresses, node by node. A bundle that holds nothing would hold only ours
// afterwards, and the cluster's own would be lost with it.
func (b builder) trust(g Generation, at []string) []Step {
	if len(at) == 0 {
		return nil
	}
	steps := []Step{b.fetch(g)}
	for _, address := range at {
		bundle := b.o.Bundle
		steps = append(steps, Step{At: AtNode, Address: address, What: "Append " + g.Name + " to the client-CA bundle of the API server at " +
			address, Commands: []string{
			guarded(hasCert(bundle)+" && "+hasCert(pemFile(g)), bundle+" or "+pemFile(g)+
				" is missing or holds no certificate. A bundle must hold the cluster's own CA before ours is appended",
				"cp -p "+bundle+" "+bundle+".new", "{ echo && cat "+pemFile(g)+"; } >> "+bundle+".new",
				"cp -p "+bundle+" "+bundle+".without-"+fileName(g),
				"mv "+bundle+".new "+bundle),
		}, Check: "within a minute, " + caCheck(b.r.Cluster) + " shows " + g.Name + " as trusted at " + address + ". Go on to the next node " +
			"only then"})
	}
	return append(steps, b.copies(g, true)...)
}

// copies brings the declared copies of the bundles up to date once the nodes are: with a generation, or without it. Each command may be
// run again.
func (b builder) copies(g Generation, with bool) []Step {
	if len(b.o.Copies) == 0 {
		return nil
	}
	what, and := "Remove "+g.Name+" from", ""
	if with {
		what, and = "Append "+g.Name+" to", " && { echo && cat "+pemFile(g)+"; } >> $copy.new"
	}
	s := Step{At: AtDaemon, What: what + " the declared copies of the bundles (ca_checks: bundle_file, bundle_files), once every node " +
		"above is done. Where configuration management writes them, change it there. Until then breakglass ca check " +
		"says bundle-copy, which needs nothing",
		Check: caCheck(b.r.Cluster) + " has no finding bundle-copy"}
	for _, file := range b.o.Copies {
		s.Commands = append(s.Commands, "copy="+text.Quote(file)+"; "+guarded(hasCert(`"$copy"`)+" && "+hasCert(pemFile(g)),
			"the copy or "+pemFile(g)+" is missing or holds no certificate", `cp -p "$copy" "$copy.new"`,
			without+" "+pemFile(g)+` "$copy" > "$copy.new"`+strings.ReplaceAll(and, "$copy.new", `"$copy.new"`), hasCert(`"$copy.new"`),
			`mv "$copy.new" "$copy"`))
	}
	return []Step{s}
}

func (b builder) fetch(g Generation) Step {
	return Step{At: AtVault, What: "Write the certificate of " + g.Name + " to a file, and copy it to each node that is named below",
		Commands: []string{text.Command("vault read -field=certificate", nil, b.r.Mount+"/issuer/"+g.ID) + " > " + pemFile(g)},
		Check:    "openssl x509 -in " + pemFile(g) + " -noout -fingerprint -sha256 prints " + colons(g.Fingerprint)}
}

func colons(hex string) string {
	var out []string
	for i := 0; i+2 <= len(hex); i += 2 {
		out = append(out, strings.ToUpper(hex[i:i+2]))
	}
	return strings.Join(out, ":")
}

// without is a filter that copies the certificates of the second file that the first file does not hold, whatever their layout.
const without = `awk '{ sub(/\r$/, "") } /^-----BEGIN CERTIFICATE-----$/ { on = 1; text = ""; body = "" } ` +
	`on { text = text $0 "\n"; if ($0 !~ /^-----/) body = body $0 } ` +
	`/^-----END CERTIFICATE-----$/ { on = 0; if (NR == FNR) drop[body] = 1; else if (!(body in drop)) printf "%s", text }'`

// rebuild writes the bundle of an address anew whose file is missing or holds nothing, with these generations. The daemon sees the
// declared file, which may be a copy: only the node itself can tell whether its own is gone, so the command looks first.
func (b builder) rebuild(address string, with ...Generation) []Step {
	var steps []Step
	bundle := b.o.Bundle
	have, parts := hasCert(b.o.ClusterCA), "cat "+b.o.ClusterCA
	var names []string
	for _, g := range with {
		steps = append(steps, b.fetch(g))
		have += " && " + hasCert(pemFile(g))
		parts += " && echo && cat " + pemFile(g)
		names = append(names, g.Name)
	}
	return append(steps, Step{At: AtNode, Address: address,
		What: "Write the bundle of the API server at " + address + " anew, with " + strings.Join(names,
			" and ") + ": its declared file, as the daemon sees it, is missing or not usable. If the file on the node is the same, what it loaded " +
			"last " +
			"is in force, " +
			"and it will not start again. The command changes nothing if the file on the node holds certificates; then put the declared copy " +
			"right instead. If it held more than the cluster's own CA and ours, add that",
		Commands: []string{
			guarded("! "+hasCert(bundle), bundle+" holds certificates on this node. If it is good, put the daemon's declared copy right "+
				"(ca_checks). If kube-apiserver cannot load it (its log says so), move it away and run this again",
				guarded(have, b.o.ClusterCA+" or the certificate of one of ours is missing or holds no certificate",
					"{ "+parts+"; } > "+bundle+".new", "chmod 0644 "+bundle+".new", "{ [ ! -e "+bundle+" ] || cp -p "+bundle+" "+bundle+".was; }",
					"mv "+bundle+".new "+bundle)),
		},
		Check: "within a minute, " + caCheck(b.r.Cluster) + " has no finding bundle-file/" + address})
}

// broken is the steps for bundle files that are not usable, which are to hold what is in force; nil if every file is usable. why says why
// that is not known: what is left out of a bundle is lost.
func (b builder) broken() (steps []Step, why string) {
	for _, s := range b.r.Servers {
		if len(s.Cached) == 0 {
			continue
		}
		hidden := b.unseen("vault", "issuers", "issuer/")
		for _, g := range b.r.Generations {
			if s.Trust[g.Name] == Unknown {
				hidden = append(hidden, fmt.Sprintf("whether it takes certificates of %s", g.Name))
			}
		}
		if len(hidden) > 0 {
			return nil, fmt.Sprintf("the bundle of the API server at %s must be written again, and it is not known with what: %s", s.Address,
				strings.Join(hidden, "; "))
		}
		var with []Generation
		for _, g := range b.r.Generations {
			if slices.Contains(s.Cached, g.Name) {
				with = append(with, g)
			}
		}
		if len(with) > 0 {
			steps = append(steps, b.rebuild(s.Address, with...)...)
		}
	}
	return steps, ""
}

// untrust takes a generation out of the bundles of the addresses; never the cluster's own CA, whatever the phase.
func (b builder) untrust(g Generation, at []string) []Step {
	if len(at) == 0 || g.ClusterCA != "" {
		return nil
	}
	steps := []Step{b.fetch(g)}
	for _, address := range at {
		bundle := b.o.Bundle
		if slices.ContainsFunc(b.r.Servers, func(s ServerTrust) bool { return s.Address == address && slices.Contains(s.Cached, g.Name) }) {
			with := []Generation{b.active}
			for _, own := range b.r.Generations {
				if own.ClusterCA != "" && own.ID != b.active.ID {
					with = append(with, own)
				}
			}
			steps = append(steps, b.rebuild(address, with...)...)
			continue
		}
		steps = append(steps, Step{At: AtNode, Address: address, What: "Remove " + g.Name + " from the client-CA bundle of the API server at " +
			address, Commands: []string{ // the copy keeps owner and mode; what cannot be read or written ends the chain before the move
			"cp -p " + bundle + " " + bundle + ".new && " + without + " " + pemFile(g) + " " + bundle + " > " + bundle + ".new && grep -q 'BEGIN " +
				"CERTIFICATE' " + bundle +
				".new && cp -p " + bundle + " " + bundle + ".with-" + fileName(g) + " && mv " + bundle + ".new " + bundle,
		}, Check: "within a minute, " + caCheck(b.r.Cluster) + " shows " + g.Name + " as refused at " + address + ". If it does not, the file " +
			"was not loaded: restart that kube-apiserver"})
	}
	return append(steps, b.copies(g, false)...)
}

// move moves the roles to the next issuer, if it can sign there and the daemon would take it.
func (b builder) move(p *Plan, refuse func(string, ...any)) {
	switch {
	case b.next.ClusterCA != "":
		refuse("%s, and its key is not in Vault alone. Rotate to a CA that Vault makes: remove this one's usage (%s), and ask for the plan "+
			"again", b.stays(b.next), closeIssuer(b.r.Mount, b.next.ID))
	case !b.next.Pinned:
		refuse("the daemon is not pinned to %s, so every claim would be refused from the moment the roles move. First set "+
			"vault_next_issuer_id: %s for the cluster, and restart the daemon", b.next.Name, b.next.ID)
	case !CanSign(b.next.NotBefore, b.next.NotAfter, b.r.At, b.r.MaxTTL):
		refuse("%s is valid from %s to %s, and cannot sign for %s now", b.next.Name, stamp(b.next.NotBefore), stamp(b.next.NotAfter), b.r.MaxTTL)
	default:
		p.Next, p.Steps, p.Undo = Draining, b.roles(b.next), b.roles(b.active)
	}
}

// roles moves every role, and then the default issuer, to an issuer. Each role moves in one step, and each is good before and after.
func (b builder) roles(to Generation) []Step {
	var commands []string
	for _, r := range b.r.Roles {
		commands = append(commands, vault("patch", b.r.Mount+"/roles/"+r.Name, "issuer_ref="+to.ID))
	}
	commands = append(commands, setDefault(b.r.Mount, to.ID))
	return []Step{{At: AtVault, What: "Move every role, and the default issuer, to " + to.Name, Commands: commands,
		Check: caCheck(b.r.Cluster) + " shows " + to.Name + " as active, and its canary passes everywhere"}}
}

// back is the way out of a switch that came too early: back to the old issuer if it is good, and otherwise on.
func (b builder) back(p *Plan) {
	a := count(b.r.Servers, b.active.Name, false)
	o := count(b.r.Servers, b.old.Name, false)
	if o.everywhere() && b.old.Signs && !b.old.Expired && b.old.Pinned {
		p.Next, p.Steps, p.Undo = TrustedOnSome, b.roles(b.old), b.roles(b.active)
		if a.nowhere() {
			p.Next = Prepared
		}
		return
	}
	p.Next, p.Steps = Draining, append(b.pin(b.active), b.trust(b.active, a.refusing)...)
}

func (b builder) clean() []Step {
	return []Step{{At: AtClient, What: "Remove " + b.old.Name + " from the ConfigMap that aggregated API servers read. It is made again at " +
		"once from what the API servers trust now, and could only grow otherwise", Commands: []string{
		"kubectl -n kube-system delete configmap extension-apiserver-authentication",
	}, Check: caCheck(b.r.Cluster) + " says " + string(Retired)},
		{At: AtClient, What: "Restart every aggregated API server (kubectl get apiservices shows them): they keep what they read before. For " +
			"metrics-server:", Commands: []string{
			"kubectl -n kube-system rollout restart deployment/metrics-server",
		}, Check: "kubectl -n kube-system rollout status deployment/metrics-server"}}
}

// reopen undoes close, in Vault.
func (b builder) reopen() []Step {
	return []Step{{At: AtVault, What: "Let " + b.old.Name + " sign again", Commands: []string{
		vault("patch", b.r.Mount+"/issuer/"+b.old.ID, "usage=read-only,issuing-certificates,crl-signing,ocsp-signing")},
		Check: caCheck(b.r.Cluster)}}
}

func (b builder) close() []Step {
	what := "Take from " + b.old.Name + " the right to sign. It stays readable, for verifying old certificates"
	if b.old.ClusterCA != "" {
		what += ". Leave it in the bundles: " + b.stays(b.old)
	}
	return []Step{{At: AtVault, What: what, Commands: []string{
		closeIssuer(b.r.Mount, b.old.ID),
	}, Check: caCheck(b.r.Cluster) + " says " + string(Closed)},
		{At: AtDaemon, What: "Pin the daemon to the one issuer that signs", Commands: []string{
			"# breakglassd's configuration, cluster " + text.Exact(b.r.Cluster) + ":",
			"#   vault_issuer_id: " + text.Exact(b.active.ID),
			"#   (and no vault_next_issuer_id)",
			"systemctl restart breakglassd",
		}, Check: "breakglassd doctor finds nothing wrong"}}
}
