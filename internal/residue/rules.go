package residue

import (
	"fmt"
	"slices"
	"strings"

	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/text"
)

// hit is one rule that applies to a thing.
type hit struct {
	rule     string
	severity finding.Severity
	done     string // "was made"
	means    string // why it matters
	undo     string
}

const (
	info     = finding.Info
	warning  = finding.Warning
	critical = finding.Critical
)

// plain are the kinds that need no rule of their own: how grave it is that one was made, changed and removed, and why. An empty
// severity means that it is not worth a word.
var plain = map[string]struct {
	made, changed, removed finding.Severity
	means                  string
}{
	"roles." + rbacGroup: {warning, warning, "",
		"every subject that is bound to it in its namespace has what it gives"},
	"mutatingwebhookconfigurations." + admissionGroup: {critical, critical, critical,
		"such a webhook may rewrite every object that is written, and see it"},
	"validatingwebhookconfigurations." + admissionGroup: {critical, critical, critical,
		"such a webhook sees what is written, and decides what may be"},
	"validatingadmissionpolicies." + admissionGroup:       {warning, critical, critical, "such a policy decides what may be written"},
	"validatingadmissionpolicybindings." + admissionGroup: {warning, critical, critical, "it says where a policy holds"},
	"mutatingadmissionpolicies." + admissionGroup:         {critical, critical, critical, "such a policy rewrites what is written"},
	"mutatingadmissionpolicybindings." + admissionGroup: {critical, critical, critical,
		"it says where a policy rewrites what is written"},
	"apiservices.apiregistration.k8s.io": {critical, critical, "",
		"the API server hands requests, and who makes them, to the service that it names"},
	"customresourcedefinitions.apiextensions.k8s.io": {warning, warning, "",
		"it is part of the API now, and what acts on it may be controlled by it"},
	"clustertrustbundles." + csrGroup:   {critical, critical, "", "workloads trust the CAs that it holds"},
	"runtimeclasses.node.k8s.io":        {warning, warning, "", "pods may be run by another runtime through it"},
	"priorityclasses.scheduling.k8s.io": {warning, warning, "", "pods of a high priority push others off their nodes"},
	"flowschemas.flowcontrol.apiserver.k8s.io": {warning, warning, "",
		"it decides whose requests the API server serves first"},
	"prioritylevelconfigurations.flowcontrol.apiserver.k8s.io": {warning, warning, "", "it decides how many requests the API server serves"},
	"storageclasses.storage.k8s.io": {warning, warning, "",
		"it decides what makes the volumes of workloads, and with which credentials"},
	"csidrivers.storage.k8s.io": {warning, warning, "",
		"such a driver is given the tokens of the pods that use it"},
	"networkpolicies.networking.k8s.io": {info, warning, warning, "it decides what pods can reach each other"},
	"ingresses.networking.k8s.io":       {warning, warning, "", "it lets the outside in"},
}

// ruleNames are the first words of rule ids where the kind's own name is too long for people.
var ruleNames = map[string]string{
	"mutatingwebhookconfigurations." + admissionGroup:   "mutatingwebhook",
	"validatingwebhookconfigurations." + admissionGroup: "validatingwebhook",
	"customresourcedefinitions.apiextensions.k8s.io":    "crd", "certificatesigningrequests." + csrGroup: "csr",
	"prioritylevelconfigurations.flowcontrol.apiserver.k8s.io": "prioritylevel",
}

func otherKind(resource string) Kind {
	name, group, _ := strings.Cut(resource, ".")
	k := Kind{Group: group, Resource: name, Name: resource}
	if resource == "endpoints" {
		k.Name = "Endpoints"
	}
	return k
}

func (t *thing) word() string {
	if w, ok := ruleNames[t.ref.Resource]; ok {
		return w
	}
	return strings.ToLower(t.kind.Name)
}

var opWords = map[Op]string{Made: "created", Changed: "changed", Removed: "removed"}

// hit makes the hit of a rule that is named after the kind and what was done.
func (t *thing) hit(severity finding.Severity, means string) hit {
	return hit{rule: t.word() + "-" + opWords[t.op], severity: severity, done: "it was " + string(t.op), means: means, undo: t.undo()}
}

func (t *thing) named(rule string, severity finding.Severity, means string) hit {
	h := t.hit(severity, means)
	h.rule = rule
	return h
}

// ownObjects are ours: without them the daemon cannot work, or what it may do has no limit.
var ownObjects = map[Ref]bool{
	{"clusterroles." + rbacGroup, "", "breakglassd"}:                           true,
	{"clusterrolebindings." + rbacGroup, "", "breakglassd"}:                    true,
	{"serviceaccounts", "breakglass", "breakglassd"}:                           true,
	{"namespaces", "", "breakglass"}:                                           true,
	{"validatingadmissionpolicies." + admissionGroup, "", "breakglassd"}:       true,
	{"validatingadmissionpolicybindings." + admissionGroup, "", "breakglassd"}: true,
}

func (t *thing) judge() []hit {
	if ownObjects[t.ref] && t.op != Made {
		return []hit{t.named("breakglass-"+opWords[t.op], critical,
			"it belongs to break-glass itself: the daemon may be cut off, or may do more than it should")}
	}
	switch t.ref.Resource {
	case kindClusterBindings, kindBindings:
		return t.binding()
	case kindClusterRoles, kindRoles:
		return t.role()
	case "serviceaccounts":
		return t.serviceAccount()
	case "secrets":
		return t.secret()
	case "configmaps":
		return t.configMap()
	case "namespaces":
		return t.namespace()
	case "nodes":
		return t.node()
	case "persistentvolumes":
		if paths := t.gained("host-path:"); len(paths) > 0 && t.op != Removed {
			return []hit{t.named("persistentvolume-host-path", critical, "a pod that uses it reaches "+strings.Join(paths, ", ")+" on its node")}
		}
		return nil
	case "services":
		return t.service()
	case "endpoints":
		if t.op == Removed {
			return nil
		}
		return []hit{t.named("endpoints-changed", warning, "what a service sends its clients to was written by hand")}
	case "endpointslices.discovery.k8s.io":
		if t.op == Removed || t.after != nil && !t.after.has("by-hand") && len(t.acts) == 0 {
			return nil
		}
		return []hit{t.named("endpointslice-changed", warning, "what a service sends its clients to was written by hand")}
	case "pods":
		return t.pod()
	case "deployments.apps", "daemonsets.apps", "statefulsets.apps", "replicasets.apps", "replicationcontrollers", "jobs.batch",
		"cronjobs.batch":
		return t.workload()
	case "certificatesigningrequests." + csrGroup:
		return t.csr()
	case "apiservices.apiregistration.k8s.io":
		if len(t.acts) == 0 && t.after != nil && !t.after.has("service:") {
			return nil // the API server makes these by itself, one for each group that it serves, and they lead nowhere else
		}
	}
	p, ok := plain[t.ref.Resource]
	if !ok {
		if t.op == Removed {
			return nil
		}
		return []hit{t.named("object-"+opWords[t.op], info, "what acts on such objects is not known here")}
	}
	severity := map[Op]finding.Severity{Made: p.made, Changed: p.changed, Removed: p.removed}[t.op]
	if severity == "" {
		return nil
	}
	if t.op == Removed && t.ref.Namespace != "" && t.in.After.whole("namespaces") &&
		t.in.After.find(Ref{"namespaces", "", t.ref.Namespace}) == nil {
		return nil // it went with its namespace
	}
	return []hit{t.hit(severity, p.means)}
}

func (t *thing) binding() []hit {
	if t.op == Removed {
		return nil // a right less
	}
	ours := t.after.has("ours") && !t.after.has("finalizer")
	if ours && t.op == Made && len(t.acts) == 0 {
		return nil // the grant's own, or another grant's
	}
	if t.op == Made && t.after.has("ours") && t.after.has("finalizer") {
		h := t.named("grant-binding-changed", critical, "it is a break-glass grant's own binding, and a finalizer that somebody put on it "+
			"keeps it from being deleted")
		h.done, h.undo = "it cannot be deleted", kubectlWith("patch", []string{"--type=merge", `--patch={"metadata":{"finalizers":null}}`}, t)
		return []hit{h}
	}
	if t.before.has("ours") && t.op == Changed {
		return []hit{t.named("grant-binding-changed", critical,
			"a break-glass grant's own binding says something else now, or cannot be deleted")}
	}
	role := strings.Join(t.after.all("role:"), "")
	to := t.gained("subject:")
	if t.op == Changed && t.before != nil && len(to) == 0 && !t.after.has("finalizer") {
		return nil // subjects less
	}
	if role == "" {
		return []hit{t.hit(critical, "who is in it has its role's rights, and what they are could not be seen")}
	}
	severity, means := warning, "it gives "+role
	if len(to) > 0 {
		means += " to " + strings.Join(to, ", ")
	}
	known := t.in.rights.roleOf(t.ref.Namespace, role)
	if known != roleKnown {
		means += ", " + known
	}
	gives := t.in.rights.by(t.in.rights.ref(t.ref.Resource, t.after), to)
	if len(gives) > 0 {
		means += ", who " + some(gives)
	}
	if len(gives) > 0 || known == roleUnseen || known == roleCut {
		severity = critical
	}
	return []hit{t.hit(severity, means)}
}

// some joins the first few.
func some(all []string) string {
	out := strings.Join(all[:min(3, len(all))], ", ")
	if len(all) > 3 {
		out += fmt.Sprintf(", and %d more", len(all)-3)
	}
	return out
}

func (t *thing) role() []hit {
	if t.op == Removed {
		return nil
	}
	var out []hit
	if to := t.gained("aggregate-to:"); len(to) > 0 {
		out = append(out, t.named("clusterrole-aggregated", critical, "its rules are part of "+strings.Join(to,
			", ")+" now, and of everybody's who has that"))
	} else if to := t.patched("/metadata/labels/" + aggregateTo); len(to) > 0 {
		out = append(out, t.named("clusterrole-aggregated", critical, "the label was written that makes its rules a part of "+strings.Join(to,
			", ")+", and of everybody's who has that"))
	}
	if t.before != nil && t.before.has("aggregates") && t.after.has("aggregates") && len(t.acts) == 0 {
		return out // the rules of others, filled in
	}
	severity, means := warning, "every subject that is bound to it has what it gives"
	if t.ref.Resource == kindRoles {
		means = "every subject that is bound to it in its namespace has what it gives"
	}
	switch gives := t.in.rights.role(t); {
	case len(gives) > 0:
		severity, means = critical, "every subject that is bound to it "+some(gives)
	case t.after == nil:
		severity, means = critical, means+", and what that is could not be seen"
	case t.after.has(rulesCut):
		severity, means = critical, means+", which is more than can be looked at"
	}
	return append(out, t.hit(severity, means))
}

func (t *thing) serviceAccount() []hit {
	var out []hit
	if t.sub("token") {
		h := t.named("token-minted", warning, "a token of it was issued, which stays good until it ends")
		if why := t.in.rights.account(t.ref.Namespace, t.ref.Name); why != "" {
			h.severity = critical
			h.means += "; " + why
		}
		h.done = "it was used"
		h.undo = kubectl("delete", t) + "   # ends its tokens; then make it again"
		out = append(out, h)
	}
	rest := slices.ContainsFunc(t.acts, func(a Act) bool { return a.Subresource == "" })
	if t.op == Removed || !rest && !t.changed || t.ref.Name == "default" && len(t.acts) == 0 && t.op == Made {
		return out
	}
	if roles := t.gained("cloud-role:"); len(roles) > 0 {
		return append(out, t.named("serviceaccount-cloud-role", critical, "whoever has a token of it has rights in the cloud: "+
			strings.Join(roles, ", ")))
	}
	for _, key := range cloudKeys {
		if len(t.patched("/metadata/annotations/"+key)) > 0 {
			return append(out, t.named("serviceaccount-cloud-role", critical, "whoever has a token of it may have rights in the cloud: "+key+
				" was written"))
		}
	}
	if t.op == Changed && t.before != nil && t.after != nil && same(t.before, t.after) {
		return out
	}
	return append(out, t.hit(warning, "whoever has a token of it is this account"))
}

func (t *thing) secret() []hit {
	if t.op == Removed {
		return nil
	}
	switch {
	case t.after.has("type:" + typeToken):
		return []hit{t.named("legacy-token-secret", critical, "it holds a token that never ends, of the service account "+
			strings.Join(t.after.all("service-account:"), ""))}
	case t.after.has("type:"+typeBootstrap) || t.ref.Namespace == "kube-system" && strings.HasPrefix(t.ref.Name, "bootstrap-token-"):
		return []hit{t.named("bootstrap-token", critical, "with it a new node, or whoever says to be one, joins the cluster")}
	case t.op == Made:
		return []hit{t.hit(info, "what is in it is not looked at")}
	}
	return []hit{t.hit(warning, "credentials in it may be somebody else's now")}
}

func (t *thing) configMap() []hit {
	watched := []string{"aws-auth", "coredns", "coredns-custom", "kubeadm-config", "kubelet-config", "kube-proxy",
		"extension-apiserver-authentication", "cluster-info", "kube-apiserver-legacy-service-account-token-tracking"}
	means := map[string]string{
		"aws-auth":                           "it says which cloud identities are whom in the cluster",
		"coredns":                            "it says what names in the cluster mean",
		"extension-apiserver-authentication": "it says whom aggregated API servers believe",
		"kubeadm-config":                     "it says how API servers are started at the next upgrade",
		"cluster-info":                       "new nodes trust what it says",
	}[t.ref.Name]
	switch {
	case t.op == Removed:
		return nil
	case len(t.acts) == 0 && !slices.Contains(watched[:len(watched)-1], t.ref.Name):
		return nil // controllers keep their notes there
	case means == "":
		return []hit{t.named("system-configmap-"+opWords[t.op], warning, "parts of the cluster itself are configured there")}
	}
	return []hit{t.named("system-configmap-"+opWords[t.op], critical, means)}
}

// enforce is the label of a namespace that names the Pod Security Standard of its pods.
const enforce = "pod-security.kubernetes.io/enforce"

var podSecurity = map[string]int{"privileged": 0, "baseline": 1, "restricted": 2}

func (t *thing) namespace() []hit {
	switch t.op {
	case Removed:
		return nil
	case Made:
		return []hit{t.hit(info, "what is in it was made since")}
	case Changed:
	}
	label := func(o *Object) string { return strings.Join(o.all("label:"+enforce+"="), "") }
	relaxed := t.named("namespace-security-relaxed", critical, "pods in it may do more than before")
	if t.before != nil && t.after != nil {
		if podSecurity[label(t.after)] < podSecurity[label(t.before)] {
			relaxed.undo = kubectl("label --overwrite", t, enforce+"="+label(t.before))
			return []hit{relaxed}
		}
		if len(t.gained("label:")) == 0 && len(t.lost("label:")) == 0 {
			return nil
		}
	} else if len(t.acts) > 0 && t.touches("/metadata/labels/"+enforce) && podSecurity[label(t.after)] < podSecurity["restricted"] {
		return []hit{relaxed}
	} else if len(t.acts) == 0 || !t.touches("/metadata/labels") {
		return nil
	}
	return []hit{t.named("namespace-labelled", warning, "policies and webhooks choose namespaces by their labels")}
}

func (t *thing) node() []hit {
	switch t.op {
	case Removed:
		return nil
	case Made:
		return []hit{t.hit(critical, "pods and their secrets may be sent to it")}
	case Changed:
	}
	var out []hit
	if t.before == nil || t.after == nil {
		if len(t.acts) == 0 {
			return nil // kubelets and controllers write to nodes all the time
		}
		if t.touches("/metadata/labels") {
			out = append(out, t.named("node-labelled", warning, "pods are put on nodes by their labels"))
		}
		if t.touches("/spec/taints") {
			out = append(out, t.named("node-untainted", warning, "pods may be put on it that were kept off, or are kept off now"))
		}
		return out
	}
	if gained, lost := t.gained("label:"), t.lost("label:"); len(gained)+len(lost) > 0 {
		h := t.named("node-labelled", warning, "pods are put on nodes by their labels: "+strings.Join(append(gained, lost...), ", "))
		var back []string
		for _, l := range gained {
			key, _, _ := strings.Cut(l, "=")
			back = append(back, key+"-")
		}
		h.undo = kubectl("label --overwrite", t, append(back, lost...)...)
		out = append(out, h)
	}
	if lost := t.lost("taint:"); len(lost) > 0 {
		h := t.named("node-untainted", critical, "pods may be put on it that were kept off: "+strings.Join(lost, ", "))
		h.undo = kubectl("taint", t, lost...)
		out = append(out, h)
	} else if gained := t.gained("taint:"); len(gained) > 0 {
		h := t.named("node-tainted", info, "pods are kept off it: "+strings.Join(gained, ", "))
		for i := range gained {
			gained[i] += "-"
		}
		h.undo = kubectl("taint", t, gained...)
		out = append(out, h)
	}
	return out
}

func (t *thing) service() []hit {
	if t.op == Removed {
		return nil
	}
	switch {
	case len(t.gained("external-ip:")) > 0:
		return []hit{t.named("service-external-ips", critical, "what the cluster sends to "+strings.Join(t.gained("external-ip:"), ", ")+
			" goes to its pods")}
	case len(t.gained("external-name:")) > 0:
		return []hit{t.named("service-external-name", warning, "who asks for it is sent to "+strings.Join(t.gained("external-name:"), ", "))}
	case len(t.gained("type:")) > 0:
		return []hit{t.named("service-exposed", warning, "it can be reached from outside")}
	case t.op == Changed && t.touches("/spec"):
		return []hit{t.hit(warning, "its clients may be sent to other pods")}
	}
	return nil
}

func (t *thing) pod() []hit {
	if t.op == Removed || t.op == Changed && t.before == nil && len(t.acts) == 0 {
		return nil // kubelets and schedulers change pods all the time
	}
	var out []hit
	add := func(rule string, means string) { out = append(out, t.named(rule, critical, means)) }
	if t.sub("ephemeralcontainers") || t.op == Changed && len(t.gained("ephemeral:")) > 0 {
		add("pod-ephemeral-container", "a container was put into it beside its own: "+strings.Join(t.gained("ephemeral:"), ", "))
	}
	owned := t.after != nil && t.after.Owner != "" && len(t.acts) == 0
	if owned && !(t.in.After.whole("replicasets.apps") && t.in.After.whole("daemonsets.apps") && t.in.After.whole("statefulsets.apps") &&
		t.in.After.whole("jobs.batch")) {
		return out // its owner may be just like it
	}
	if t.after.has("static") {
		add("pod-static", "a node runs it from a file of its own, which no API server can take away")
	}
	if len(t.gained("privileged")) > 0 || len(t.gained("capability:")) > 0 {
		add("pod-privileged", "who is in it is root on its node")
	}
	if paths := t.gained("host-path:"); len(paths) > 0 {
		add("pod-host-path", "it reaches "+strings.Join(paths, ", ")+" on its node")
	}
	if len(t.gained("hostNetwork"))+len(t.gained("hostPID"))+len(t.gained("hostIPC")) > 0 {
		add("pod-host-namespace", "it sees its node's processes or network")
	}
	onMaster := slices.ContainsFunc(t.gained("node:"), func(n string) bool {
		o := t.in.After.find(Ref{"nodes", "",
			n})
		return o.has("control-plane")
	})
	if len(t.gained("control-plane")) > 0 || onMaster {
		add("pod-control-plane", "it runs, or may run, beside the API server and its keys")
	}
	for _, sa := range t.gained("service-account:") {
		if why := t.in.rights.account(t.ref.Namespace, sa); why != "" {
			add("pod-powerful-account", "who is in it is the service account "+sa+": "+why)
		}
	}
	switch {
	case len(out) > 0 || owned:
		return out
	case t.op == Made:
		return []hit{t.hit(info, "nothing made it but a person, and nothing takes it away")}
	case t.touches("/spec"):
		return []hit{t.hit(info, "its containers may be others now")}
	}
	return nil
}

func (t *thing) workload() []hit {
	if t.op == Changed && t.before == nil && len(t.acts) == 0 {
		return nil // a restart and a new image look the same from here
	}
	if t.op == Removed || t.after != nil && t.after.Owner != "" && len(t.acts) == 0 && t.op == Made && t.kind.Owned &&
		!t.in.After.whole("deployments.apps") {
		return nil
	}
	severity, means := warning, "it runs pods, again and again"
	var reach []string
	for _, prefix := range []string{"privileged", "hostNetwork", "hostPID", "hostIPC", "control-plane"} {
		if len(t.gained(prefix)) > 0 {
			reach = append(reach, prefix)
		}
	}
	for _, path := range t.gained("host-path:") {
		reach = append(reach, "the node's "+path)
	}
	for _, c := range t.gained("capability:") {
		reach = append(reach, "capability "+c)
	}
	for _, sa := range t.gained("service-account:") {
		if why := t.in.rights.account(t.ref.Namespace, sa); why != "" {
			reach = append(reach, "the powerful service account "+sa+" ("+why+")")
		}
	}
	if len(reach) > 0 {
		severity, means = critical, "it runs pods that have "+strings.Join(reach, ", ")
	}
	return []hit{t.hit(severity, means)}
}

func (t *thing) csr() []hit {
	if t.op == Removed {
		return nil
	}
	by := strings.Join(t.after.all("by:"), "")
	if len(t.acts) == 0 && (strings.HasPrefix(by, "system:node:") || strings.HasPrefix(by, "system:bootstrap:")) {
		return nil // kubelets renew their certificates
	}
	signer := strings.Join(t.after.all("signer:"), "")
	var out []hit
	if t.sub("approval") || t.after.has("approved") && !t.before.has("approved") && t.exists == ExistsYes {
		out = append(out, t.named("csr-approved", critical, strings.TrimSpace("a certificate from "+signer)+
			" may be signed for it, which nobody can take back before it ends"))
	}
	if t.sub("status") || t.after.has("signed") && !t.before.has("signed") {
		out = append(out, t.named("csr-signed", critical, strings.TrimSpace("a certificate from "+signer)+
			" was signed for it, which nobody can take back before it ends"))
	}
	if len(out) == 0 {
		out = append(out, t.hit(warning, "it waits to be approved"))
	}
	return out
}

// undo is the command that takes away what was done, or shows what to put right.
func (t *thing) undo() string {
	if t.ref.Name == "" {
		return kubectl("get", t)
	}
	switch t.op {
	case Made:
		if t.after.has("finalizer") {
			return kubectl("delete", t) + "   # and take its finalizers off: kubectl edit"
		}
		return kubectl("delete", t)
	case Changed:
		return kubectl("edit", t)
	case Removed:
	}
	return "" // it must be made again, from where it is kept
}

// kubectl is a command about the thing, for a shell. args stand behind its name.
func kubectl(verb string, t *thing, args ...string) string {
	return kubectlWith(verb, nil, t, args...)
}

func kubectlWith(verb string, flags []string, t *thing, args ...string) string {
	if t.ref.Namespace != "" {
		flags = append(flags, "--namespace="+t.ref.Namespace)
	}
	names := []string{t.ref.Resource}
	if t.ref.Name != "" {
		names = append(names, t.ref.Name)
	}
	return text.Command("kubectl "+verb, flags, append(names, args...)...)
}
