package cluster_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/internal/bgtest/realtest"
	"github.com/breakglassd/breakglass/internal/cluster/survey"
	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/real"
)

// obj is a Kubernetes object as JSON writes it.
type obj = map[string]any

func object(apiVersion, kind, ns, name string, fields obj) obj {
	o := obj{"apiVersion": apiVersion, "kind": kind, "metadata": obj{"name": name}}
	if ns != "" {
		o["metadata"] = obj{"name": name, "namespace": ns}
	}
	for k, v := range fields {
		o[k] = v
	}
	return o
}

const rbacV1 = "rbac.authorization.k8s.io/v1"

// can is a rule of a role: verbs and resources are separated by commas, a resource is written group:resource.
func can(verbs, resources string, names ...string) obj {
	var groups, plain []string
	for _, r := range strings.Split(resources, ",") {
		group, resource, found := strings.Cut(r, ":")
		if !found {
			group, resource = "", r
		}
		groups, plain = append(groups, group), append(plain, resource)
	}
	return obj{"verbs": strings.Split(verbs, ","), "apiGroups": groups, "resources": plain, "resourceNames": names}
}

func canURL(verbs string, urls ...string) obj {
	return obj{"verbs": strings.Split(verbs, ","), "nonResourceURLs": urls}
}

// subjectOf reads "user bob", "group x" or "account ns/x".
func subjectOf(text string) obj {
	kind, name, _ := strings.Cut(text, " ")
	switch kind {
	case "account":
		ns, name, _ := strings.Cut(name, "/")
		return obj{"kind": "ServiceAccount", "namespace": ns, "name": name}
	case "group":
		return obj{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": name}
	}
	return obj{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": name}
}

// gives are a role with the rules and a binding of it to the subject, in the whole cluster if ns is empty.
func gives(name, ns, subject string, rules ...obj) []obj {
	role, binding := "ClusterRole", "ClusterRoleBinding"
	if ns != "" {
		role, binding = "Role", "RoleBinding"
	}
	return []obj{
		object(rbacV1, role, ns, name, obj{"rules": rules}),
		object(rbacV1, binding, ns, name, obj{"roleRef": obj{"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": name},
			"subjects": []any{subjectOf(subject)}}),
	}
}

// binds is a binding of a ClusterRole that is there.
func binds(name, ns, role, subject string) []obj {
	kind := "ClusterRoleBinding"
	if ns != "" {
		kind = "RoleBinding"
	}
	return []obj{object(rbacV1, kind, ns, name, obj{"roleRef": obj{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
		"name": role}, "subjects": []any{subjectOf(subject)}})}
}

// pod is a static pod of the control plane with a command line.
func pod(name string, command ...string) []obj {
	return []obj{{"apiVersion": "v1", "kind": "Pod",
		"metadata": obj{"name": name, "namespace": "kube-system", "annotations": obj{"kubernetes.io/config.mirror": "1"}},
		"spec":     obj{"nodeName": "cp1", "containers": []any{obj{"name": "x", "image": "x", "command": command}}}}}
}

// api is an API server that is like kubeadm's but for some flags.
func api(name string, flags ...string) []obj {
	return pod(name, append([]string{"kube-apiserver", "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--enable-bootstrap-token-auth=true"}, flags...)...)
}

func secret(ns, name, kind string, annotations obj, data obj) []obj {
	return []obj{{"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": obj{"name": name, "namespace": ns,
		"annotations": annotations}, "stringData": data}}
}

// apply creates or changes objects with kubectl, as whom the cluster's administrator is.
func apply(t *testing.T, a *real.APIServer, objects ...obj) {
	t.Helper()
	items := make([]any, len(objects))
	for i, o := range objects {
		items[i] = o
	}
	text, err := json.Marshal(obj{"apiVersion": "v1", "kind": "List", "items": items})
	must(t, err)
	path := filepath.Join(t.TempDir(), "objects.json")
	must(t, os.WriteFile(path, text, 0o600))
	realtest.MustKubectl(t, a.AdminKubeconfig(), "apply", "--server-side", "--force-conflicts", "-f", path)
}

// A plant is one risky configuration, and what must be found because of it.
type plant struct {
	kind    string
	objects []obj
	rule    string // of the finding
	says    string // part of its title
	least   inventory.Severity
	path    string // part of its way to cluster-admin; empty: no way is wanted
}

// plants are all kinds in one cluster, next to each other: what one hides from another would show.
func plants() []plant {
	const apps = "apps:deployments"
	var out []plant
	right := func(rule, who, ns, path string, least inventory.Severity, rules ...obj) {
		name := fmt.Sprintf("plant-%d", len(out))
		kind := rule
		if ns != "" {
			kind += " in " + ns
		}
		if strings.Contains(rule, " ") {
			rule, _, _ = strings.Cut(rule, " ")
		}
		out = append(out, plant{kind: kind, objects: gives(name, ns, who, rules...), rule: rule,
			says: strings.Replace(who, "account ", "service account ", 1), least: least, path: path})
	}
	other := func(kind, rule, says string, least inventory.Severity, objects ...[]obj) {
		out = append(out, plant{kind: kind, objects: slices.Concat(objects...), rule: rule, says: says, least: least})
	}

	// RBAC.
	right("everything", "user star", "", "can do everything in the whole cluster → cluster-admin", inventory.Critical, can("*", "*:*"))
	right("everything", "user nsstar", "shop", "reads the CA key", inventory.High, can("*", "*:*"))
	right("all-resources-read", "user reader", "", "", inventory.Critical, can("get,list,watch", "*:*"))
	right("escalate-roles", "user escalator", "", "cluster-admin", inventory.Critical,
		can("escalate,update", "rbac.authorization.k8s.io:clusterroles"))
	right("bind-roles", "user binder", "", "cluster-admin", inventory.Critical, can("bind", "rbac.authorization.k8s.io:clusterroles"),
		can("create", "rbac.authorization.k8s.io:clusterrolebindings"))
	right("bind-roles of one role", "user namedbinder", "", "a holder of ClusterRole cluster-admin", inventory.High,
		can("bind", "rbac.authorization.k8s.io:clusterroles", "cluster-admin"), can("create", "rbac.authorization.k8s.io:clusterrolebindings"))
	right("rbac-write", "user rbacwriter", "", "", inventory.Medium, can("create,patch", "rbac.authorization.k8s.io:rolebindings"))
	right("impersonate-groups", "user grouper", "", "of system:masters", inventory.Critical, can("impersonate", "groups,users"))
	right("impersonate-groups of system:masters", "user mastergrouper", "", "of system:masters", inventory.High,
		can("impersonate", "groups", "system:masters"), can("impersonate", "users", "nobody"))
	right("impersonate-users", "user userer", "", "cluster-admin", inventory.Critical, can("impersonate", "users"))
	right("impersonate-users by name", "user oneuser", "", "user star", inventory.Medium, can("impersonate", "users", "star"))
	right("impersonate-accounts", "user accounter", "kube-system", "service account kube-system/", inventory.Critical,
		can("impersonate", "serviceaccounts"))
	right("impersonate-extra", "user extra", "", "", inventory.Medium, can("impersonate",
		"authentication.k8s.io:userextras/scopes,authentication.k8s.io:uids"))
	right("impersonate-constrained", "user constrained", "", "", inventory.High, can("impersonate:user-info", "authentication.k8s.io:users"))
	right("csr-approve", "user signer", "", "cluster-admin", inventory.Critical, can("create",
		"certificates.k8s.io:certificatesigningrequests"),
		can("update", "certificates.k8s.io:certificatesigningrequests/approval"), can("approve", "certificates.k8s.io:signers",
			"kubernetes.io/kube-apiserver-client"))
	right("csr-approve-others", "user approver", "", "", inventory.High, can("update",
		"certificates.k8s.io:certificatesigningrequests/approval"), can("approve", "certificates.k8s.io:signers", "kubernetes.io/*"))
	right("csr-sign", "user handsigner", "", "", inventory.Medium, can("update", "certificates.k8s.io:certificatesigningrequests/status"),
		can("sign", "certificates.k8s.io:signers"))
	right("trust-bundles-write", "user bundler", "", "", inventory.Medium, can("create", "certificates.k8s.io:clustertrustbundles"))
	right("token-create", "user tokener", "", "cluster-admin", inventory.Critical, can("create", "serviceaccounts/token"))
	right("token-create of one account", "user onetoken", "kube-system", "service account kube-system/clusterrole-aggregation-controller",
		inventory.Medium, can("create", "serviceaccounts/token", "clusterrole-aggregation-controller"))
	right("token-secret", "user secretmaker", "kube-system", "service account kube-system/", inventory.Critical, can("create,get", "secrets"))
	right("secrets-read", "user secretreader", "", "where a token lies", inventory.High, can("get,list", "secrets"))
	right("secrets-read of one", "user onesecret", "shop", "where its token lies", inventory.Low, can("get", "secrets", "robot-token"))
	right("secrets-write", "user secretwriter", "", "", inventory.High, can("update", "secrets"))
	right("pods-create", "user bob", "kube-system", "service account kube-system/clusterrole-aggregation-controller → ClusterRoleBinding "+
		"system:controller:clusterrole-aggregation-controller → can change roles to hold more than it holds itself in the whole cluster → "+
		"cluster-admin", inventory.High, can("create", "pods"))
	right("pods-create", "user poder", "", "cluster-admin", inventory.High, can("create", "pods"))
	right("pods-create", "user nspoder", "shop", "root on a node of its choice → reads the CA key on a control-plane node → cluster-admin",
		inventory.Medium, can("create", "pods"))
	right("workloads-write", "user deployer", "", "cluster-admin", inventory.High, can("create,update", apps))
	right("workloads-write by cron job", "user croner", "kube-system", "cluster-admin", inventory.High, can("patch", "batch:cronjobs"))
	right("pods-change", "user podpatcher", "", "cluster-admin", inventory.High, can("patch", "pods"))
	right("pods-exec", "user execer", "", "cluster-admin", inventory.High, can("create", "pods/exec"))
	right("pods-exec", "user nsexecer", "kube-system", "cluster-admin", inventory.High, can("get", "pods/exec"))
	right("pods-ephemeral", "user debugger", "", "cluster-admin", inventory.High, can("patch", "pods/ephemeralcontainers"))
	right("pods-portforward", "user forwarder", "", "", inventory.Medium, can("create", "pods/portforward"))
	right("nodes-proxy", "user proxier", "", "root on a node", inventory.Critical, can("get", "nodes/proxy"))
	right("nodes-write", "user noder", "", "", inventory.High, can("patch", "nodes"))
	right("pods-bind", "user placer", "", "", inventory.Medium, can("create", "pods/binding"))
	right("volumes-write", "user volumer", "", "root on a node", inventory.High, can("create", "persistentvolumes"), can("create", "pods"))
	right("admission-mutating-write", "user mutator", "", "cluster-admin", inventory.Critical,
		can("create", "admissionregistration.k8s.io:mutatingwebhookconfigurations"))
	right("admission-validating-write", "user validator", "", "", inventory.High, can("delete",
		"admissionregistration.k8s.io:validatingadmissionpolicies"))
	right("apiservices-write", "user redirector", "", "", inventory.High, can("create", "apiregistration.k8s.io:apiservices"))
	right("crds-write", "user definer", "", "", inventory.Medium, can("update", "apiextensions.k8s.io:customresourcedefinitions"))
	right("namespaces-write", "user labeller", "", "", inventory.Medium, can("patch", "namespaces"))
	right("system-config-write", "user configurer", "kube-system", "", inventory.High, can("update", "configmaps"))
	right("aws-auth-write", "user mapper", "kube-system", "cluster-admin", inventory.Critical, can("update", "configmaps", "aws-auth"))
	right("accounts-write", "user accountmaker", "", "", inventory.Low, can("create", "serviceaccounts"))
	right("leases-write-system", "user leader", "kube-system", "", inventory.Low, can("update", "coordination.k8s.io:leases"))
	right("endpoints-write", "user endpointer", "", "", inventory.Medium, can("update", "discovery.k8s.io:endpointslices"))
	right("services-status-write", "user servicer", "", "", inventory.Low, can("patch", "services/status"))
	right("nonresource-all", "user pather", "", "", inventory.Low, canURL("get", "*"))
	right("debug-read", "user profiler", "", "", inventory.Medium, canURL("get", "/debug/pprof/*", "/debug/pprof"))
	right("flow-control-write", "user flower", "", "", inventory.Medium, can("create", "flowcontrol.apiserver.k8s.io:flowschemas"))
	right("runtime-classes-write", "user runner", "", "", inventory.Low, can("create", "node.k8s.io:runtimeclasses"))
	right("scc-use", "user privileged", "shop", "", inventory.High, can("use", "security.openshift.io:securitycontextconstraints"),
		can("create", "pods"))
	right("delete-many", "user deleter", "", "", inventory.Medium, can("delete", "namespaces"))
	right("events-audit-hide", "user hider", "", "", inventory.Low, can("delete", "events"))
	right("secrets-read to everybody", "group system:authenticated", "shop", "", inventory.High, can("get", "secrets"))
	right("pods-exec to nobody", "group system:unauthenticated", "shop", "", inventory.Critical, can("create", "pods/exec"))
	right("token-create by a service account", "account shop/robot", "shop", "", inventory.Medium, can("create", "serviceaccounts/token"))
	other("cluster-admin of a group", "everything", "group on-call can do everything", inventory.Critical,
		binds("oncall", "", "cluster-admin", "group on-call"))
	other("edit through aggregation", "secrets-read", "user aggregated can read Secrets", inventory.High,
		[]obj{{"apiVersion": rbacV1, "kind": "ClusterRole", "metadata": obj{"name": "viewer-plus",
			"labels": obj{"rbac.authorization.k8s.io/aggregate-to-view": "true"}}, "rules": []any{can("get", "secrets")}}},
		binds("aggregated", "", "view", "user aggregated"))
	other("default role altered", "defaults/role", "ClusterRole system:discovery gives more than what ships with Kubernetes: get nodes/proxy",
		inventory.Critical,
		[]obj{object(rbacV1, "ClusterRole", "", "system:discovery",
			obj{"rules": []any{canURL("get", "/api", "/apis"), can("get", "nodes/proxy")}})})
	other("default binding altered", "defaults/binding", "ClusterRoleBinding system:public-info-viewer names user extra-public besides",
		inventory.Low,
		[]obj{object(rbacV1, "ClusterRoleBinding", "", "system:public-info-viewer",
			obj{"roleRef": obj{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:public-info-viewer"},
				"subjects": []any{subjectOf("group system:authenticated"), subjectOf("group system:unauthenticated"),
					subjectOf("user extra-public")}})})
	other("binding of an account that is not there", "binding/no-account", "service account shop/gone, which is not there", inventory.Medium,
		binds("gone", "", "cluster-admin", "account shop/gone"))
	other("binding of a role that is not there", "binding/no-role", "ClusterRole no-such-role, which is not there", inventory.Low,
		binds("norole", "", "no-such-role", "user norole"))

	// Doors.
	other("first user", "door/first-user", "gives cluster-admin to user kubernetes-super-admin", inventory.High,
		binds("super", "", "cluster-admin", "user kubernetes-super-admin"))
	other("legacy token", "door/service-account-tokens", "Secret shop/robot-token is a token of service account shop/robot", inventory.Medium,
		secret("shop", "robot-token", "kubernetes.io/service-account-token", obj{"kubernetes.io/service-account.name": "robot"}, nil))
	other("legacy token of a powerful account", "door/service-account-tokens", "Secret till/boss-token is a token", inventory.Critical,
		[]obj{object("v1", "ServiceAccount", "till", "boss", nil)}, binds("boss", "", "cluster-admin", "account till/boss"),
		secret("till", "boss-token", "kubernetes.io/service-account-token", obj{"kubernetes.io/service-account.name": "boss"}, nil))
	other("bootstrap token without end", "door/bootstrap-tokens", "bootstrap token abcdef never expires", inventory.High,
		secret("kube-system", "bootstrap-token-abcdef", "bootstrap.kubernetes.io/token", nil,
			obj{"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"}))
	other("bootstrap token of a powerful group", "door/bootstrap-tokens", "bootstrap token bbbbbb is valid until 2099", inventory.Critical,
		secret("kube-system", "bootstrap-token-bbbbbb", "bootstrap.kubernetes.io/token", nil,
			obj{"token-id": "bbbbbb", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
				"expiration": "2099-01-01T00:00:00Z", "auth-extra-groups": "system:bootstrappers:boss"}),
		binds("bootboss", "", "cluster-admin", "group system:bootstrappers:boss"))
	other("static token file", "door/static-tokens", "tokens in the file /etc/tokens.csv", inventory.High,
		api("api-static", "--token-auth-file=/etc/tokens.csv"))
	other("basic auth file", "door/static-tokens", "passwords in the file /etc/basic.csv", inventory.High,
		api("api-basic", "--basic-auth-file", "/etc/basic.csv"))
	other("OIDC groups without prefix", "door/oidc", "groups of https://idp.example get no prefix", inventory.High,
		api("api-oidc", "--oidc-issuer-url=https://idp.example", "--oidc-client-id=k", "--oidc-groups-claim=groups"))
	other("OIDC names without prefix", "door/oidc", "user names of https://idp2.example get no prefix", inventory.Medium,
		api("api-oidc2", "--oidc-issuer-url=https://idp2.example", "--oidc-client-id=k", "--oidc-username-prefix=-"))
	other("webhook tokens", "door/webhook-tokens", "a webhook (/etc/webhook.yaml) says whose a token is", inventory.Medium,
		api("api-webhook", "--authentication-token-webhook-config-file=/etc/webhook.yaml"))
	other("webhook tokens cached for long", "door/webhook-tokens", "works for up to 1h0m0s more", inventory.Medium,
		api("api-webhook2", "--authentication-token-webhook-config-file=/etc/webhook.yaml", "--authentication-token-webhook-cache-ttl=1h0m0s"))
	other("token lookup off", "door/service-account-tokens", "tokens of deleted service accounts", inventory.High,
		api("api-lookup", "--service-account-lookup=false"))
	other("tokens of an old issuer", "door/service-account-tokens", "tokens of 2 issuers", inventory.Low,
		api("api-issuers", "--service-account-issuer=https://new", "--service-account-issuer=https://old"))
	other("long tokens", "door/service-account-tokens", "valid for 87600h", inventory.Medium,
		api("api-long", "--service-account-max-token-expiration=87600h"))
	other("AlwaysAllow", "door/authorization", "AlwaysAllow", inventory.Critical, pod("api-allow", "kube-apiserver",
		"--enable-admission-plugins=NodeRestriction", "--authorization-mode=AlwaysAllow"))
	other("ABAC", "door/authorization", "(ABAC)", inventory.High, api("api-abac", "--authorization-mode=Node,ABAC,RBAC",
		"--authorization-policy-file=/etc/abac.jsonl"))
	other("authorization webhook", "door/authorization", "a webhook allows what RBAC may not", inventory.Medium,
		api("api-authz", "--authorization-mode=Webhook,Node,RBAC"))
	other("insecure port", "door/authorization", "serves port 8080 without authentication", inventory.Critical,
		api("api-insecure", "--insecure-port=8080"))
	other("no NodeRestriction", "door/authorization", "no NodeRestriction", inventory.Medium,
		pod("api-nodes", "kube-apiserver", "--authorization-mode=Node,RBAC"))
	other("admission switched off", "door/authorization", "CertificateSubjectRestriction is switched off", inventory.Medium,
		api("api-admission", "--disable-admission-plugins=CertificateSubjectRestriction"))
	other("etcd without TLS", "door/etcd", "talks to etcd at http://192.0.2.7:2379 without TLS", inventory.Critical,
		api("api-etcd", "--etcd-servers=http://192.0.2.7:2379"))
	other("etcd shares the client CA", "door/etcd", "etcd and the API server trust the same CA (/pki/ca.crt)", inventory.Critical,
		api("api-shared", "--client-ca-file=/pki/ca.crt", "--etcd-cafile=/pki/ca.crt"))
	other("etcd without client certificates", "door/etcd", "etcd asks no client certificate", inventory.Critical,
		pod("etcd-open", "etcd", "--listen-client-urls=http://192.0.2.7:2379"))
	other("etcd without TLS for clients", "door/etcd", "etcd listens on http://192.0.2.7:2379 without TLS", inventory.Critical,
		pod("etcd-plain", "/usr/local/bin/etcd", "--listen-client-urls=http://192.0.2.7:2379"))
	other("etcd peers without certificates", "door/etcd", "etcd asks its peers for no certificate", inventory.High,
		pod("etcd-peers", "etcd", "--client-cert-auth", "--peer-trusted-ca-file=/x"))
	other("controller manager on all addresses", "door/control-plane", "kube-controller-manager listens on 0.0.0.0", inventory.Low,
		pod("kcm-open", "kube-controller-manager", "--bind-address=0.0.0.0", "--use-service-account-credentials=true",
			"--authentication-kubeconfig=/x"))
	other("controllers share a credential", "door/control-plane", "all controllers share one credential", inventory.Low,
		pod("kcm-one", "kube-controller-manager", "--bind-address=127.0.0.1"))
	other("long certificates", "door/csr-api", "may be valid for 87600h", inventory.Medium,
		pod("kcm-long", "kube-controller-manager", "--bind-address=127.0.0.1", "--use-service-account-credentials=true",
			"--cluster-signing-duration=87600h", "--cluster-signing-cert-file=/x"))
	other("scheduler serves metrics to everybody", "door/control-plane", "kube-scheduler serves /metrics to everybody", inventory.Medium,
		pod("scheduler-open", "kube-scheduler", "--bind-address=0.0.0.0", "--authorization-always-allow-paths=/healthz,/metrics"))
	other("kube-proxy metrics", "door/kube-proxy", "0.0.0.0:10249", inventory.Medium,
		[]obj{object("v1", "ConfigMap", "kube-system", "kube-proxy", obj{"data": obj{"config.conf": "metricsBindAddress: 0.0.0.0:10249\n"}})})
	other("anonymous binding", "door/anonymous", "RoleBinding shop/anon gives view to user system:anonymous", inventory.High,
		binds("anon", "shop", "view", "user system:anonymous"))
	other("extension API not verified", "door/extensions", "service shop/other answers for the API v1.evil.example", inventory.High,
		[]obj{object("apiregistration.k8s.io/v1", "APIService", "", "v1.evil.example",
			obj{"spec": obj{"group": "evil.example", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100,
				"insecureSkipTLSVerify": true, "service": obj{"namespace": "shop", "name": "other"}}})})
	other("mutating webhook outside the cluster", "door/extensions",
		"webhook all.evil.example (https://evil.example/hook) changes what is written", inventory.High,
		hook("MutatingWebhookConfiguration", "all.evil.example", "*", "nothing-at-all.example", "*"))
	other("validating webhook sees Secrets", "door/extensions", "webhook secrets.evil.example", inventory.Medium,
		hook("ValidatingWebhookConfiguration", "secrets.evil.example", "", "v1", "secrets"))
	other("aws-auth gives system:masters", "door/platform", "arn:aws:iam::1:role/x: system:masters", inventory.High,
		[]obj{object("v1", "ConfigMap", "kube-system", "aws-auth",
			obj{"data": obj{"mapRoles": "- rolearn: arn:aws:iam::1:role/x\n  groups: [system:masters]\n"}})})
	return out
}

// hook is an admission webhook of which no request ever asks: it selects no namespace and no object.
func hook(kind, name, group, version, resource string) []obj {
	return []obj{object("admissionregistration.k8s.io/v1", kind, "", name, obj{"webhooks": []any{obj{
		"name": name, "clientConfig": obj{"url": "https://evil.example/hook"}, "failurePolicy": "Ignore", "sideEffects": "None",
		"admissionReviewVersions": []string{"v1"},
		"objectSelector":          obj{"matchLabels": obj{"nobody": "carries-this"}},
		"rules": []any{obj{"apiGroups": []string{group}, "apiVersions": []string{version}, "operations": []string{"CREATE"},
			"resources": []string{resource}}}}}})}
}

func TestPlantedRisksAreFound(t *testing.T) {
	a := realtest.NewCluster(t, aggregator(t))
	kubeadm(t, a)
	all := plants()
	objects := []obj{object("v1", "Namespace", "", "shop", nil), object("v1", "Namespace", "", "till", nil),
		object("v1", "ServiceAccount", "shop", "robot", nil)}
	for _, p := range all {
		objects = append(objects, p.objects...)
	}
	apply(t, a, objects...)
	s, got := scan(t, a, survey.Options{})
	ids := map[string]string{}
	for _, f := range got.Findings {
		if other, twice := ids[f.ID]; twice {
			t.Errorf("two findings have one id: %s, and %s", other, f.Title)
		}
		ids[f.ID] = f.Title
	}
	for _, i := range doors.Items(s, got) {
		if other, twice := ids[i.ID]; twice {
			t.Errorf("two items have one id: %s, and %s", other, i.Title)
		}
		ids[i.ID] = i.Title
		if !i.Expected && i.TakeAway == "" && i.Advice == "" {
			t.Errorf("nothing says how to take away: %s", i.Title)
		}
	}
	found, kinds := 0, map[string]bool{}
	for _, p := range all {
		kinds[p.kind] = true
		n := slices.IndexFunc(got.Findings, func(f inventory.Finding) bool {
			return f.Alarm() && f.Rule == p.rule && strings.Contains(f.Title, p.says) && f.Severity.AtLeast(p.least) &&
				strings.Contains(f.Path.String(), p.path)
		})
		if n < 0 {
			t.Errorf("%s: not found: want rule %s, a title with %q, at least %s, and a way with %q; of this rule there are:\n%s", p.kind, p.rule,
				p.says, p.least, p.path, ofRule(got, p))
			continue
		}
		found++
	}
	t.Logf("planted risky configurations found: %d of %d (%d kinds)", found, len(all), len(kinds))
	if len(kinds) < 40 || len(kinds) != len(all) {
		t.Errorf("%d kinds were planted in %d plants, want at least 40, and each kind once", len(kinds), len(all))
	}
}

func ofRule(a *doors.Analysis, p plant) string {
	var b strings.Builder
	for _, f := range a.Findings {
		if f.Rule == p.rule && f.Alarm() {
			fmt.Fprintf(&b, "  %s %s (%s)\n", f.Severity, f.Title, f.Path)
		}
	}
	return b.String()
}
