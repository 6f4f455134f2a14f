package residue

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/text"
)

// Ref names one object in a cluster.
type Ref struct {
	Resource  string // Kind.ID
	Namespace string
	Name      string
}

// Object is what a snapshot remembers of one object: who it is, when it was made and changed, a digest of what it says, and
// the traits that rules look at. No contents of Secrets are in it.
type Object struct {
	Namespace string   `json:"n,omitempty"`
	Name      string   `json:"o"`
	UID       string   `json:"u,omitempty"`
	Created   int64    `json:"c,omitempty"` // Unix seconds, by the cluster's clock
	Changed   []int64  `json:"m,omitempty"` // Unix seconds of the last change by each field manager, status aside
	Digest    string   `json:"d,omitempty"`
	Traits    []string `json:"t,omitempty"` // sorted
	Owner     string   `json:"w,omitempty"` // UID of its controller
	// Rules are those of a role that matter, whole, or none and the trait rulesCut.
	Rules []inventory.PolicyRule `json:"r,omitempty"`
}

// has reports whether the object has a trait that begins so.
func (o *Object) has(prefix string) bool { return o != nil && len(o.all(prefix)) > 0 }

// all returns what comes after prefix in each trait that begins so.
func (o *Object) all(prefix string) []string {
	if o == nil {
		return nil
	}
	var out []string
	for _, t := range o.Traits {
		if rest, ok := strings.CutPrefix(t, prefix); ok {
			out = append(out, rest)
		}
	}
	return out
}

// same reports whether two states of an object say the same.
func same(a, b *Object) bool { return a.Digest == b.Digest && slices.Equal(a.but(), b.but()) }

// sameButNode leaves out on which node a pod is: a scheduler puts it there, which leaves no time in the pod.
func sameButNode(a, b *Object) bool {
	return a.Digest == b.Digest && slices.Equal(a.but("node:"), b.but("node:"))
}

// but is the object's traits without those that begin so, and without those of roles and bindings that say what the digest covers:
// another release may say it in other words.
func (o *Object) but(prefixes ...string) []string {
	prefixes = append(prefixes, "power:", "subject:", rulesCut)
	return slices.DeleteFunc(slices.Clone(o.Traits), func(t string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(t, p) })
	})
}

// maxTraits bounds what is remembered of one object: its contents may be made by somebody who wants us to remember much.
const (
	maxTraits   = 40         // of one sort, so that many of one do not hide another
	maxSubjects = 500        // of a binding
	maxTrait    = 200        // bytes
	maxRules    = 16 << 10   // bytes of the rules of a role, as JSON
	rulesCut    = "rulesCut" // the trait of a role whose rules are more than that
	moreTraits  = "and more~"
)

// bounded cuts sorted traits down to so many of each sort, and a digest of the others of it, so that any change still shows.
func bounded(all []string) []string {
	var out, more []string
	sort, n := "", 0
	end := func() {
		if len(more) > 0 {
			out = append(out, sort+":"+moreTraits+digest(more))
		}
		more, n = nil, 0
	}
	for _, t := range all {
		if now, _, _ := strings.Cut(t, ":"); now != sort {
			end()
			sort = now
		}
		most := maxTraits
		if sort == "subject" {
			most = maxSubjects
		}
		if n++; n > most {
			more = append(more, t)
		} else {
			out = append(out, t)
		}
	}
	end()
	slices.Sort(out)
	return out
}

// NewObject reads an object as the API server writes it in JSON, or its metadata alone where the kind says that it tells enough.
// typ is the value of the field selector by which it was found, if by one.
func NewObject(k Kind, raw []byte, typ string) (Object, error) {
	var full map[string]any
	if err := json.Unmarshal(raw, &full); err != nil {
		return Object{}, fmt.Errorf("reading a %s: %w", k.Name, err)
	}
	return fromMap(k, full, typ), nil
}

func fromMap(k Kind, full map[string]any, typ string) Object {
	meta := child(full, "metadata")
	o := Object{Namespace: str(meta, "namespace"), Name: str(meta, "name"), UID: str(meta, "uid"), Created: unix(str(meta,
		"creationTimestamp"))}
	for _, f := range list(meta, "managedFields") {
		if at := unix(str(f, "time")); at != 0 && str(f, "subresource") != "status" && str(f, "subresource") != "scale" &&
			!slices.Contains(o.Changed, at) {
			o.Changed = append(o.Changed, at)
		}
	}
	slices.Sort(o.Changed)
	if len(o.Changed) > 8 {
		o.Changed = o.Changed[len(o.Changed)-8:]
	}
	for _, r := range list(meta, "ownerReferences") {
		if yes, _ := r["controller"].(bool); yes {
			o.Owner = str(r, "uid")
		}
	}
	t := &traits{}
	t.of(k, full, typ)
	if k.Group == rbacGroup {
		o.Rules = t.rules(full)
	}
	slices.Sort(t.list)
	o.Traits = bounded(slices.Compact(t.list))
	o.Digest = contents(k, full)
	return o
}

// contents is a digest of what an object says, without what changes by itself or harmlessly: its metadata and status, the
// number of its replicas, the mark that a restart leaves, and whether a node takes pods.
func contents(k Kind, full map[string]any) string {
	meta := child(full, "metadata")
	if k.Metadata {
		switch k.Resource {
		case "secrets", "configmaps":
			return str(meta, "resourceVersion")
		case "serviceaccounts", "namespaces":
			return "" // the traits say it
		}
		return fmt.Sprint(meta["generation"])
	}
	says := map[string]any{}
	for key, v := range full {
		switch key {
		case "metadata", "status", "apiVersion", "kind":
		default:
			says[key] = v
		}
	}
	spec := child(full, "spec")
	switch k.Resource {
	case "nodes":
		return "" // the traits say it
	case "certificatesigningrequests":
	case "apiservices", "services", "persistentvolumes":
	case "deployments", "daemonsets", "statefulsets", "replicasets", "replicationcontrollers", "jobs", "cronjobs", "pods":
		spec = without(spec, "replicas", "paused", "suspend", "parallelism", "nodeName")
		if template := child(spec, "template"); len(template) > 0 {
			template = without(template)
			tm := without(child(template, "metadata"), "creationTimestamp")
			tm["annotations"] = without(child(tm, "annotations"), restartedAt)
			if len(tm["annotations"].(map[string]any)) == 0 {
				delete(tm, "annotations")
			}
			template["metadata"] = tm
			spec["template"] = template
		}
		says["spec"] = spec
	}
	return digest(says)
}

// restartedAt is the annotation by which kubectl restarts a workload.
const restartedAt = "kubectl.kubernetes.io/restartedAt"

func digest(v any) string {
	raw, err := json.Marshal(v) // sorts the keys of maps
	if err != nil {
		panic("encoding what was decoded from JSON: " + err.Error()) // cannot happen
	}
	return text.SHA256(raw)[:20]
}

type traits struct{ list []string }

func (t *traits) add(prefix string, values ...string) {
	for _, v := range values {
		t.list = append(t.list, trait(prefix+v))
	}
}

// trait is a trait of any length, cut so that no two are the same.
func trait(s string) string {
	if len(s) > maxTrait {
		return s[:maxTrait-24] + "~" + digest(s)
	}
	return s
}

func (t *traits) when(yes bool, trait string) {
	if yes {
		t.list = append(t.list, trait)
	}
}

func (t *traits) of(k Kind, o map[string]any, typ string) {
	meta, spec := child(o, "metadata"), child(o, "spec")
	labels, annotations := child(meta, "labels"), child(meta, "annotations")
	t.when(len(texts(meta["finalizers"])) > 0 && k.Group == rbacGroup, "finalizer")
	switch k.Resource {
	case "clusterrolebindings", "rolebindings":
		t.binding(o)
	case "clusterroles", "roles":
		t.role(o)
	case "serviceaccounts":
		for _, key := range cloudKeys {
			if v := str(annotations, key); v != "" {
				t.add("cloud-role:", key+"="+v)
			}
		}
	case "secrets":
		if typ == "" {
			typ = str(o, "type")
		}
		t.add("type:", typ)
		if sa := str(annotations, "kubernetes.io/service-account.name"); sa != "" {
			t.add("service-account:", sa)
		}
	case "namespaces":
		for key, v := range labels {
			t.add("label:", key+"="+fmt.Sprint(v))
		}
	case "nodes":
		t.node(labels, spec)
	case "pods":
		t.when(annotations["kubernetes.io/config.mirror"] != nil, "static")
		t.pod(spec)
	case "deployments", "daemonsets", "statefulsets", "replicasets", "replicationcontrollers", "jobs":
		t.pod(child(child(spec, "template"), "spec"))
	case "cronjobs":
		t.pod(child(child(child(child(spec, "jobTemplate"), "spec"), "template"), "spec"))
	case "certificatesigningrequests":
		t.add("signer:", str(spec, "signerName"))
		t.add("by:", str(spec, "username"))
		for _, c := range list(child(o, "status"), "conditions") {
			t.when(str(c, "type") == "Approved", "approved")
		}
		t.when(str(child(o, "status"), "certificate") != "", "signed")
	case "persistentvolumes":
		for _, source := range []string{"hostPath", "local"} {
			if path := str(child(spec, source), "path"); path != "" {
				t.add("host-path:", path)
			}
		}
	case "services":
		t.add("external-ip:", texts(spec["externalIPs"])...)
		t.when(str(spec, "type") == "LoadBalancer", "type:LoadBalancer")
		t.when(str(spec, "type") == "NodePort", "type:NodePort")
		if name := str(spec, "externalName"); name != "" {
			t.add("external-name:", name)
		}
	case "endpointslices":
		t.when(!strings.HasPrefix(str(labels, "endpointslice.kubernetes.io/managed-by"), "endpointslice"), "by-hand")
	case "apiservices":
		s := child(spec, "service")
		if str(s, "name") != "" {
			t.add("service:", str(s, "namespace")+"/"+str(s, "name"))
		}
		skip, _ := spec["insecureSkipTLSVerify"].(bool)
		t.when(skip, "insecure")
	}
}

// binding adds the traits of a ClusterRoleBinding or RoleBinding.
func (t *traits) binding(o map[string]any) {
	meta := child(o, "metadata")
	labels := child(meta, "labels")
	ref := child(o, "roleRef")
	t.add("role:", str(ref, "kind")+"/"+str(ref, "name"))
	subjects := list(o, "subjects")
	for _, s := range subjects {
		t.list = append(t.list, subjectTrait(inventory.Subject{Kind: inventory.SubjectKind(str(s, "kind")), Namespace: str(s, "namespace"),
			Name: str(s, "name")}))
	}
	request := str(labels, "breakglass.dev/request")
	t.when(str(labels, "app.kubernetes.io/managed-by") == "breakglassd" && request != "" && str(meta, "name") == "breakglass-"+request &&
		len(subjects) == 1 &&
		str(subjects[0], "kind") == "User" && strings.HasPrefix(str(subjects[0], "name"), "breakglass:") &&
		strings.HasSuffix(str(subjects[0], "name"), ":"+request), "ours")
}

// role adds the traits of a ClusterRole or Role, beside its rules.
func (t *traits) role(o map[string]any) {
	t.when(len(child(o, "aggregationRule")) > 0, "aggregates")
	for key, v := range child(child(o, "metadata"), "labels") {
		if to, ok := strings.CutPrefix(key, aggregateTo); ok && v == "true" {
			t.add("aggregate-to:", to)
		}
	}
}

// node adds the traits of a Node.
func (t *traits) node(labels, spec map[string]any) {
	for key, v := range labels {
		t.add("label:", key+"="+fmt.Sprint(v))
		t.when(key == controlPlane || key == "node-role.kubernetes.io/master", "control-plane")
	}
	for _, taint := range list(spec, "taints") {
		key := str(taint, "key")
		if !strings.HasPrefix(key, "node.kubernetes.io/") && !strings.HasPrefix(key, "node.cloudprovider.kubernetes.io/") {
			t.add("taint:", key+"="+str(taint, "value")+":"+str(taint, "effect"))
		}
	}
}

// aggregateTo begins the labels that make a ClusterRole's rules part of another's.
const aggregateTo = rbacGroup + "/aggregate-to-"

// cloudKeys are the annotations that give a service account rights in a cloud.
var cloudKeys = []string{"eks.amazonaws.com/role-arn", "iam.gke.io/gcp-service-account", "azure.workload.identity/client-id",
	"azure.workload.identity/tenant-id"}

const controlPlane = "node-role.kubernetes.io/control-plane"

// rules are the rules of a role that matter, nil if they are too many to keep.
func (t *traits) rules(role map[string]any) []inventory.PolicyRule {
	var out []inventory.PolicyRule
	for _, r := range list(role, "rules") {
		out = append(out, inventory.PolicyRule{Verbs: texts(r["verbs"]), APIGroups: texts(r["apiGroups"]), Resources: texts(r["resources"]),
			ResourceNames: texts(r["resourceNames"]), NonResourceURLs: texts(r["nonResourceURLs"])})
	}
	out = ruleList().rules.Matter(out)
	if text, err := json.Marshal(out); err != nil || len(text) > maxRules {
		t.list = append(t.list, rulesCut)
		return nil
	}
	return out
}

// pod names what in a pod's spec reaches beyond the pod.
func (t *traits) pod(spec map[string]any) {
	for _, flag := range []string{"hostNetwork", "hostPID", "hostIPC"} {
		yes, _ := spec[flag].(bool)
		t.when(yes, flag)
	}
	for _, v := range list(spec, "volumes") {
		if path := str(child(v, "hostPath"), "path"); path != "" {
			t.add("host-path:", path)
		}
	}
	for _, group := range []string{"containers", "initContainers", "ephemeralContainers"} {
		for _, c := range list(spec, group) {
			security := child(c, "securityContext")
			yes, _ := security["privileged"].(bool)
			t.when(yes, "privileged")
			for _, added := range texts(child(security, "capabilities")["add"]) {
				switch strings.TrimPrefix(added, "CAP_") {
				case "ALL", "SYS_ADMIN", "SYS_PTRACE", "SYS_MODULE", "SYS_RAWIO", "DAC_READ_SEARCH", "DAC_OVERRIDE", "NET_ADMIN", "BPF":
					t.add("capability:", strings.TrimPrefix(added, "CAP_"))
				}
			}
			if group == "ephemeralContainers" {
				t.add("ephemeral:", str(c, "name"))
			}
		}
	}
	if sa := str(spec, "serviceAccountName"); sa != "" {
		t.add("service-account:", sa)
	}
	if node := str(spec, "nodeName"); node != "" {
		t.add("node:", node)
	}
	selects := child(spec, "nodeSelector")[controlPlane] != nil
	for _, tol := range list(spec, "tolerations") {
		key := str(tol, "key")
		selects = selects || key == controlPlane || key == "node-role.kubernetes.io/master" || key == "" && str(tol, "operator") == "Exists"
	}
	if affinity, err := json.Marshal(child(child(spec, "affinity"), "nodeAffinity")); err == nil &&
		strings.Contains(string(affinity), controlPlane) {
		selects = true
	}
	t.when(selects, "control-plane")
}

// The contents are somebody else's JSON: what has another type than expected counts as not there.

func child(m map[string]any, key string) map[string]any {
	out, _ := m[key].(map[string]any)
	return out
}

func str(m map[string]any, key string) string {
	s, _ := m[key].(string)
	return s
}

func list(m map[string]any, key string) []map[string]any {
	items, _ := m[key].([]any)
	var out []map[string]any
	for _, item := range items {
		if o, ok := item.(map[string]any); ok {
			out = append(out, o)
		}
	}
	return out
}

func texts(v any) []string {
	items, _ := v.([]any)
	var out []string
	for _, item := range items {
		if s, ok := item.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// without is a copy of m without some keys.
func without(m map[string]any, keys ...string) map[string]any {
	out := map[string]any{}
	for k, v := range m {
		if !slices.Contains(keys, k) {
			out[k] = v
		}
	}
	return out
}

func unix(s string) int64 {
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return 0
	}
	return at.Unix()
}
