// Package residue finds what a break-glass session left behind: the bindings, tokens, certificates, workloads and settings with
// which somebody could come back after the grant is over. It is told what was done, by the API servers' audit events, and what
// exists before and after, by snapshots; either alone finds much, and both together find more and say who did it. It decides
// only, and talks to nobody.
//
// Harmless, and never reported: what ends with the session or only repairs. Restarting, scaling and deleting workloads, cordoning
// and draining nodes, reading, exec and port-forward, events, leases, ConfigMaps outside of kube-system and kube-public, volume
// claims, budgets and autoscalers, status updates, what was made and is gone again, and what a dry run did.
package residue

import (
	"net/url"
	"slices"
)

// Kind is one kind of object that the sweep knows.
type Kind struct {
	Group    string
	Resource string
	Name     string   // in the singular, as in "ClusterRole"
	Versions []string // of the API group, the preferred one first: an older API server has one of the later ones only
	// Namespaces are those that are looked at; empty means all, or that the kind has none.
	Namespaces []string
	// Metadata says that the metadata tells enough, so that the contents are never read.
	Metadata bool
	// Types are the values of the field selector "type" that are looked at, one list for each.
	Types []string
	// Owned says that there are very many of it, made by controllers, and those that are as their owner has them are left out.
	Owned bool

	clusterWide bool
}

// Path is where the kind is served in one of its versions: a list of all, or of a namespace, or one object.
func (k Kind) Path(version, namespace, name string) string {
	path := "/apis/" + k.Group + "/" + version
	if k.Group == "" {
		path = "/api/" + version
	}
	if namespace != "" && !k.clusterWide {
		path += "/namespaces/" + url.PathEscape(namespace)
	}
	path += "/" + k.Resource
	if name != "" {
		path += "/" + url.PathEscape(name)
	}
	return path
}

// ID names the kind as kubectl does: "pods", "roles.rbac.authorization.k8s.io".
func (k Kind) ID() string { return id(k.Group, k.Resource) }

func id(group, resource string) string {
	if group == "" {
		return resource
	}
	return resource + "." + group
}

// The types of Secrets that are credentials of the cluster itself.
const (
	typeToken     = "kubernetes.io/service-account-token"
	typeBootstrap = "bootstrap.kubernetes.io/token"
)

const (
	rbacGroup      = "rbac.authorization.k8s.io"
	admissionGroup = "admissionregistration.k8s.io"
	csrGroup       = "certificates.k8s.io"
)

var kindList = []Kind{
	{Group: rbacGroup, Resource: "clusterrolebindings", Name: "ClusterRoleBinding", clusterWide: true},
	{Group: rbacGroup, Resource: "rolebindings", Name: "RoleBinding"},
	{Group: rbacGroup, Resource: "clusterroles", Name: "ClusterRole", clusterWide: true},
	{Group: rbacGroup, Resource: "roles", Name: "Role"},
	{Resource: "serviceaccounts", Name: "ServiceAccount", Metadata: true},
	{Resource: "secrets", Name: "Secret", Metadata: true, Types: []string{typeToken, typeBootstrap}},
	{Resource: "configmaps", Name: "ConfigMap", Metadata: true, Namespaces: []string{"kube-system", "kube-public"}},
	{Resource: "namespaces", Name: "Namespace", Metadata: true, clusterWide: true},
	{Resource: "nodes", Name: "Node", clusterWide: true},
	{Resource: "persistentvolumes", Name: "PersistentVolume", clusterWide: true},
	{Resource: "services", Name: "Service"},
	{Group: "discovery.k8s.io", Resource: "endpointslices", Name: "EndpointSlice", Metadata: true},
	{Group: "apps", Resource: "deployments", Name: "Deployment"},
	{Group: "apps", Resource: "daemonsets", Name: "DaemonSet"},
	{Group: "apps", Resource: "statefulsets", Name: "StatefulSet"},
	{Group: "apps", Resource: "replicasets", Name: "ReplicaSet", Owned: true},
	{Resource: "replicationcontrollers", Name: "ReplicationController"},
	{Group: "batch", Resource: "cronjobs", Name: "CronJob"},
	{Group: "batch", Resource: "jobs", Name: "Job", Owned: true},
	{Resource: "pods", Name: "Pod", Owned: true},
	{Group: csrGroup, Resource: "certificatesigningrequests", Name: "CertificateSigningRequest", clusterWide: true},
	{Group: csrGroup, Resource: "clustertrustbundles", Name: "ClusterTrustBundle", Versions: []string{"v1", "v1beta1", "v1alpha1"},
		Metadata: true, clusterWide: true},
	{Group: admissionGroup, Resource: "mutatingwebhookconfigurations", Name: "MutatingWebhookConfiguration", clusterWide: true},
	{Group: admissionGroup, Resource: "validatingwebhookconfigurations", Name: "ValidatingWebhookConfiguration", clusterWide: true},
	{Group: admissionGroup, Resource: "validatingadmissionpolicies", Name: "ValidatingAdmissionPolicy", Versions: []string{"v1", "v1beta1"},
		clusterWide: true},
	{Group: admissionGroup, Resource: "validatingadmissionpolicybindings", Name: "ValidatingAdmissionPolicyBinding",
		Versions: []string{"v1", "v1beta1"}, clusterWide: true},
	{Group: admissionGroup, Resource: "mutatingadmissionpolicies", Name: "MutatingAdmissionPolicy",
		Versions: []string{"v1", "v1beta1", "v1alpha1"}, clusterWide: true},
	{Group: admissionGroup, Resource: "mutatingadmissionpolicybindings", Name: "MutatingAdmissionPolicyBinding",
		Versions: []string{"v1", "v1beta1", "v1alpha1"}, clusterWide: true},
	{Group: "apiregistration.k8s.io", Resource: "apiservices", Name: "APIService", clusterWide: true},
	{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions", Name: "CustomResourceDefinition", Metadata: true,
		clusterWide: true},
	{Group: "networking.k8s.io", Resource: "networkpolicies", Name: "NetworkPolicy"},
	{Group: "networking.k8s.io", Resource: "ingresses", Name: "Ingress"},
	{Group: "node.k8s.io", Resource: "runtimeclasses", Name: "RuntimeClass", clusterWide: true},
	{Group: "scheduling.k8s.io", Resource: "priorityclasses", Name: "PriorityClass", clusterWide: true},
	{Group: "flowcontrol.apiserver.k8s.io", Resource: "flowschemas", Name: "FlowSchema", Versions: []string{"v1", "v1beta3"},
		clusterWide: true},
	{Group: "flowcontrol.apiserver.k8s.io", Resource: "prioritylevelconfigurations", Name: "PriorityLevelConfiguration",
		Versions: []string{"v1", "v1beta3"}, clusterWide: true},
	{Group: "storage.k8s.io", Resource: "storageclasses", Name: "StorageClass", clusterWide: true},
	{Group: "storage.k8s.io", Resource: "csidrivers", Name: "CSIDriver", clusterWide: true},
}

// Kinds returns every kind that is compared, owners before what they own.
func Kinds() []Kind {
	out := slices.Clone(kindList)
	for i := range out {
		if out[i].Versions == nil {
			out[i].Versions = []string{"v1"}
		}
	}
	return out
}

func kindOf(resource string) (Kind, bool) {
	i := slices.IndexFunc(kindList, func(k Kind) bool { return k.ID() == resource })
	if i < 0 {
		return Kind{}, false
	}
	return kindList[i], true
}
