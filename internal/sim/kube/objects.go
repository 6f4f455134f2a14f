package kubesim

import (
	"fmt"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/breakglassd/breakglass/internal/residue"
)

// DaemonUser is the user that breakglassd dev signs in as, by bearer token.
const DaemonUser = "system:serviceaccount:breakglass:breakglassd"

// bootstrapLabel marks the RBAC objects that the API server makes at its own start, as in a real cluster.
const bootstrapLabel = "kubernetes.io/bootstrapping"

// BinderRules returns what the daemon needs here for its bindings and for the proof that they are gone, and nothing more. It
// is to be allowed to read the roles that it binds besides, as in policies/kubernetes/rbac.yaml.
func BinderRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{rbacv1.GroupName}, Resources: []string{"clusterrolebindings", "rolebindings"},
			Verbs: []string{"create", "get", "list", "delete"}},
		{APIGroups: []string{authorizationv1.GroupName}, Resources: []string{"subjectaccessreviews"}, Verbs: []string{"create"}},
	}
}

// SweepRules returns what lets the daemon see here what a session left behind, like policies/kubernetes/optional/sweep.yaml.
func SweepRules() []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	for _, k := range residue.Kinds() {
		if k.Resource != "secrets" {
			out = append(out, rbacv1.PolicyRule{APIGroups: []string{k.Group}, Resources: []string{k.Resource}, Verbs: []string{"get", "list"}})
		}
	}
	return out
}

// Bindings returns the bindings that exist now, sorted by namespace and name, without those made at the start.
func (s *Server) Bindings() ([]rbacv1.ClusterRoleBinding, []rbacv1.RoleBinding) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var cluster []rbacv1.ClusterRoleBinding
	for o, m := range s.each("clusterrolebindings") {
		if m.GetLabels()[bootstrapLabel] == "" {
			cluster = append(cluster, *o.(*rbacv1.ClusterRoleBinding).DeepCopy())
		}
	}
	var namespaced []rbacv1.RoleBinding
	for o := range s.each("rolebindings") {
		namespaced = append(namespaced, *o.(*rbacv1.RoleBinding).DeepCopy())
	}
	return cluster, namespaced
}

// kind is one kind of object that the endpoint knows: how it is addressed, what may be done to it, how it is printed.
type kind struct {
	gvk        schema.GroupVersionKind
	resource   string
	short      []string
	namespaced bool
	verbs      []string
	columns    []metav1.TableColumnDefinition // none: never served as a table
	cells      func(o runtime.Object, age string) []any
}

func kinds() []kind {
	read, write, review := []string{"get", "list"}, []string{"create", "delete", "get", "list"}, []string{"create"}
	core, rbac := corev1.SchemeGroupVersion, rbacv1.SchemeGroupVersion
	authn, authz := authenticationv1.SchemeGroupVersion, authorizationv1.SchemeGroupVersion
	role := func(ref rbacv1.RoleRef) string { return ref.Kind + "/" + ref.Name }
	created := func(o runtime.Object, _ string) []any {
		m := o.(metav1.Object)
		return []any{m.GetName(), m.GetCreationTimestamp().UTC().Format(time.RFC3339)}
	}
	return []kind{
		{core.WithKind("Namespace"), "namespaces", []string{"ns"}, false, read, columns("Name", "Status", "Age"),
			func(o runtime.Object, age string) []any {
				n := o.(*corev1.Namespace)
				return []any{n.Name, n.Status.Phase, age}
			}},
		{core.WithKind("Node"), "nodes", []string{"no"}, false, read, columns("Name", "Status", "Roles", "Age", "Version"),
			func(o runtime.Object, age string) []any {
				n := o.(*corev1.Node)
				return []any{n.Name, n.Status.Conditions[0].Type, "control-plane", age, n.Status.NodeInfo.KubeletVersion}
			}},
		{core.WithKind("Pod"), "pods", []string{"po"}, true, read, columns("Name", "Ready", "Status", "Restarts", "Age"),
			func(o runtime.Object, age string) []any {
				p := o.(*corev1.Pod)
				state := p.Status.ContainerStatuses[0]
				return []any{p.Name, "0/1", state.State.Waiting.Reason, fmt.Sprint(state.RestartCount), age}
			}},
		{rbac.WithKind("ClusterRole"), "clusterroles", nil, false, write, columns("Name", "Created At"), created},
		{rbac.WithKind("Role"), "roles", nil, true, write, columns("Name", "Created At"), created},
		{rbac.WithKind("ClusterRoleBinding"), "clusterrolebindings", nil, false, write, columns("Name", "Role", "Age"),
			func(o runtime.Object, age string) []any {
				b := o.(*rbacv1.ClusterRoleBinding)
				return []any{b.Name, role(b.RoleRef), age}
			}},
		{rbac.WithKind("RoleBinding"), "rolebindings", nil, true, write, columns("Name", "Role", "Age"),
			func(o runtime.Object, age string) []any {
				b := o.(*rbacv1.RoleBinding)
				return []any{b.Name, role(b.RoleRef), age}
			}},
		{authn.WithKind("SelfSubjectReview"), "selfsubjectreviews", nil, false, review, nil, nil},
		{authz.WithKind("SelfSubjectAccessReview"), "selfsubjectaccessreviews", nil, false, review, nil, nil},
		{authz.WithKind("SelfSubjectRulesReview"), "selfsubjectrulesreviews", nil, false, review, nil, nil},
		{authz.WithKind("SubjectAccessReview"), "subjectaccessreviews", nil, false, review, nil, nil},
	}
}

func columns(names ...string) []metav1.TableColumnDefinition {
	out := make([]metav1.TableColumnDefinition, len(names))
	for i, name := range names {
		out[i] = metav1.TableColumnDefinition{Name: name, Type: "string"}
	}
	out[0].Format = "name"
	return out
}

func (k kind) groupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.gvk.Group, Resource: k.resource}
}

// categories are the words that kubectl get takes for several kinds, as in "kubectl get all".
func (k kind) categories() []string {
	if k.resource == "pods" {
		return []string{"all"}
	}
	return nil
}

// key is where an object of this kind is stored. The path of a cluster-wide object can carry a namespace, its own.
func (k kind) key(namespace, name string) string {
	if !k.namespaced {
		namespace = ""
	}
	return namespace + "/" + name
}

// table prints an object or a list of them as kubectl get shows it. Include is the query parameter includeObject: None,
// Object, or, by default, Metadata.
func (k kind) table(o runtime.Object, include string, now time.Time) *metav1.Table {
	items := []runtime.Object{o}
	out := &metav1.Table{TypeMeta: metav1.TypeMeta{Kind: "Table", APIVersion: metav1.SchemeGroupVersion.String()},
		ColumnDefinitions: k.columns, Rows: []metav1.TableRow{}}
	if list, err := meta.ListAccessor(o); err == nil {
		out.ResourceVersion = list.GetResourceVersion()
		items, _ = meta.ExtractList(o) // its only error is "not a list"
	}
	for _, item := range items {
		m := item.(metav1.Object)
		row := metav1.TableRow{Cells: k.cells(item, duration.HumanDuration(now.Sub(m.GetCreationTimestamp().Time)))}
		switch include {
		case "None":
		case "Object":
			row.Object.Object = item
		default:
			partial := meta.AsPartialObjectMetadata(m)
			partial.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("PartialObjectMetadata"))
			row.Object.Object = partial
		}
		out.Rows = append(out.Rows, row)
	}
	return out
}

// kindAt returns the kind that c addresses; subresources are not known here. A cluster-wide kind is not found under a
// namespace, apart from the namespace itself: rights in a namespace would reach the whole cluster otherwise.
func (s *Server) kindAt(c Call) (kind, bool) {
	at := slices.IndexFunc(s.kinds, func(k kind) bool {
		inPlace := c.Namespace == "" || k.resource == "namespaces" && c.Name == c.Namespace
		if k.namespaced {
			inPlace = c.Namespace != "" || c.Name == ""
		}
		return k.resource == c.Resource && k.gvk.Group == c.Group && k.gvk.Version == c.Version && c.Subresource == "" && inPlace
	})
	if at < 0 {
		return kind{}, false
	}
	return s.kinds[at], true
}

// startObjects returns what the cluster holds at its start, by resource: as much of kube-apiserver's bootstrap RBAC as
// is needed here, the tokens' rights, and a little to look at: a node and a pod that is in trouble.
func startObjects(cfg Config, now time.Time) map[string][]runtime.Object {
	out := map[string][]runtime.Object{}
	add := func(resource, namespace, name string, labels map[string]string, o runtime.Object) {
		m := o.(metav1.Object)
		m.SetNamespace(namespace)
		m.SetName(name)
		m.SetLabels(labels)
		m.SetUID(uuid.NewUUID())
		m.SetCreationTimestamp(metav1.NewTime(now.Truncate(time.Second)))
		out[resource] = append(out[resource], o)
	}
	bootstrap := map[string]string{bootstrapLabel: "rbac-defaults"}
	// grant makes a ClusterRole and, if there are subjects, the ClusterRoleBinding of the same name.
	grant := func(name, subjectKind string, subjects []string, rules ...rbacv1.PolicyRule) {
		add("clusterroles", "", name, bootstrap, &rbacv1.ClusterRole{Rules: rules})
		b := &rbacv1.ClusterRoleBinding{RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name}}
		for _, subject := range subjects {
			b.Subjects = append(b.Subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: subjectKind, Name: subject})
		}
		if len(subjects) > 0 {
			add("clusterrolebindings", "", name, bootstrap, b)
		}
	}
	everything, create, get := []string{"*"}, []string{"create"}, []string{"get"}
	grant("cluster-admin", rbacv1.GroupKind, []string{masters},
		rbacv1.PolicyRule{APIGroups: everything, Resources: everything, Verbs: everything},
		rbacv1.PolicyRule{NonResourceURLs: everything, Verbs: everything})
	grant("system:basic-user", rbacv1.GroupKind, []string{authenticated},
		rbacv1.PolicyRule{APIGroups: []string{authorizationv1.GroupName}, Verbs: create,
			Resources: []string{"selfsubjectaccessreviews", "selfsubjectrulesreviews"}},
		rbacv1.PolicyRule{APIGroups: []string{authenticationv1.GroupName}, Verbs: create, Resources: []string{"selfsubjectreviews"}})
	grant("system:discovery", rbacv1.GroupKind, []string{authenticated}, rbacv1.PolicyRule{Verbs: get, NonResourceURLs: []string{
		"/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/"}})
	grant("system:public-info-viewer", rbacv1.GroupKind, []string{authenticated, unauthenticated},
		rbacv1.PolicyRule{Verbs: get, NonResourceURLs: []string{"/healthz", "/livez", "/readyz", "/version", "/version/"}})
	// The real view role has many more resources; it has no nodes, secrets or RBAC either.
	grant("view", "", nil, rbacv1.PolicyRule{APIGroups: []string{""}, Verbs: []string{"get", "list", "watch"},
		Resources: []string{"namespaces", "pods", "pods/log", "pods/status", "events", "services", "configmaps", "endpoints"}})
	for _, t := range cfg.Tokens {
		if len(t.Rules) > 0 {
			grant(t.User, rbacv1.UserKind, []string{t.User}, t.Rules...)
		}
	}

	for _, name := range append([]string{"default", "kube-system"}, cfg.Namespaces...) {
		add("namespaces", "", name, map[string]string{corev1.LabelMetadataName: name},
			&corev1.Namespace{Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}})
	}
	add("nodes", "", "dev-control-plane", map[string]string{"node-role.kubernetes.io/control-plane": ""}, &corev1.Node{
		Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"}},
			NodeInfo:   corev1.NodeSystemInfo{KubeletVersion: gitVersion},
		},
	})
	add("pods", "default", "checkout-5d8f7c9b4-x2v7k", map[string]string{"app": "checkout"}, &corev1.Pod{
		Spec: corev1.PodSpec{NodeName: "dev-control-plane",
			Containers: []corev1.Container{{Name: "checkout", Image: "registry.example.com/checkout:2026.7"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "checkout", RestartCount: 17,
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}}},
	})
	return out
}
