package inventory

import (
	"slices"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/controlplane"
	"go.yaml.in/yaml/v3"
)

// A Snapshot is what one collection of one cluster saw. It holds no secret: of Secrets there are names and times, of
// bootstrap tokens what they are good for. It is not one instant: each list has the resource version at which it was read.
type Snapshot struct {
	Cluster   string        `json:"cluster"`
	At        time.Time     `json:"at"`   // UTC, when the collection was begun
	Took      time.Duration `json:"took"` // nanoseconds
	Requests  int           `json:"requests"`
	Bytes     int64         `json:"bytes"`     // read from the API server
	Collector string        `json:"collector"` // the user that the API server knew the collector as; empty if it would not say
	Server    Server        `json:"server"`
	Sources   []Source      `json:"sources"` // what was read, in order

	ClusterRoles    []Role                   `json:"clusterRoles"`
	Roles           []Role                   `json:"roles"`
	ClusterBindings []Binding                `json:"clusterRoleBindings"`
	Bindings        []Binding                `json:"roleBindings"`
	Namespaces      []Namespace              `json:"namespaces"`
	Accounts        []Account                `json:"serviceAccounts"`
	TokenSecrets    []TokenSecret            `json:"tokenSecrets"`
	BootstrapTokens []BootstrapToken         `json:"bootstrapTokens"`
	CSRs            []CSR                    `json:"certificateSigningRequests"`
	Authentication  Authentication           `json:"authentication"`
	Issuer          Issuer                   `json:"issuer"`
	Nodes           []Node                   `json:"nodes"`
	Components      []controlplane.Component `json:"components"`
	KubeProxy       *KubeProxy               `json:"kubeProxy,omitempty"`
	// groups that the ConfigMap aws-auth gives to IAM identities, "arn: group"
	AWSAuth []string `json:"awsAuth,omitempty"`
	// AWSUsers are the user names that aws-auth gives IAM identities, by ARN.
	AWSUsers    map[string]string `json:"awsUsers,omitempty"`
	Kubelets    []Kubelet         `json:"kubelets"`
	Webhooks    []AdmissionHook   `json:"admissionWebhooks"`
	APIServices []APIService      `json:"apiServices"`
	Anonymous   AnonymousProbe    `json:"anonymous"`
	// TrackingSince is the day since when Kubernetes records the use of legacy tokens; empty if it does not or cannot be read.
	TrackingSince string `json:"trackingSince,omitempty"`
	// AuthenticationConfig is the text of the API server's structured authentication configuration where the operator gave it:
	// it is a file on the control plane, and the API does not show it.
	AuthenticationConfig string `json:"authenticationConfig,omitempty"`
}

// Names of sources: what a collection tries to read.
const (
	SourceVersion         = "version"
	SourceSelf            = "self"
	SourceHandshake       = "handshake"
	SourceAnonymous       = "anonymous-probe"
	SourceClusterRoles    = "clusterroles"
	SourceRoles           = "roles"
	SourceClusterBindings = "clusterrolebindings"
	SourceBindings        = "rolebindings"
	SourceNamespaces      = "namespaces"
	SourceAccounts        = "serviceaccounts"
	SourceTokenSecrets    = "secrets/service-account-token"
	SourceBootstrap       = "secrets/bootstrap-token"
	SourceCSRs            = "certificatesigningrequests"
	SourceAuthentication  = "configmaps/extension-apiserver-authentication"
	SourceIssuer          = "openid-configuration"
	SourceNodes           = "nodes"
	SourcePods            = "pods/kube-system"
	SourceKubeProxy       = "configmaps/kube-proxy"
	SourceAWSAuth         = "configmaps/aws-auth"
	SourceTracking        = "configmaps/kube-apiserver-legacy-service-account-token-tracking"
	SourceConfigz         = "nodes/proxy configz"
	SourceMutating        = "mutatingwebhookconfigurations"
	SourceValidating      = "validatingwebhookconfigurations"
	SourceAPIServices     = "apiservices"
)

// A Source is one thing that a collection tried to read.
type Source struct {
	Name            string `json:"name"`
	ResourceVersion string `json:"resourceVersion,omitempty"` // of the list, or of the object
	Count           int    `json:"count"`
	// Missing says why it was not read; empty if it was. Right is the right that would make it readable, as kubectl auth can-i
	// takes it; empty if a right is not what is missing.
	Missing string `json:"missing,omitempty"`
	Right   string `json:"right,omitempty"`
	// None says that it was looked for and is not there.
	None bool `json:"none,omitempty"`
}

// Source is the source with a name; of one that was never tried it says so.
func (s *Snapshot) Source(name string) Source {
	for _, src := range s.Sources {
		if src.Name == name {
			return src
		}
	}
	return Source{Name: name, Missing: "was not collected"}
}

// Read reports whether the named sources were all read, those that are not there included.
func (s *Snapshot) Read(names ...string) bool {
	for _, name := range names {
		if s.Source(name).Missing != "" {
			return false
		}
	}
	return true
}

// awsAuth reports whether the cluster has the ConfigMap aws-auth, or may have: where it could not be read, EKS alone has it.
func (s *Snapshot) awsAuth() bool {
	src := s.Source(SourceAWSAuth)
	return !src.None && (src.Missing == "" || s.EKS())
}

// EKS reports whether the cluster is one of EKS, by what it says of itself.
func (s *Snapshot) EKS() bool {
	return strings.Contains(s.Server.Version, "-eks-") || slices.ContainsFunc(s.Nodes, func(n Node) bool {
		return slices.ContainsFunc(n.Labels, func(l string) bool { return strings.HasPrefix(l, "eks.amazonaws.com/") })
	})
}

// A Server is the API server that answered.
type Server struct {
	Address string `json:"address"`
	Version string `json:"version"` // like "v1.36.3" or "v1.30.4-eks-a737599"
	// SHA-256 of the DER of its serving certificate's issuer, or of the certificate itself if it sent no more
	CAFingerprint string `json:"caFingerprint"`
	// ClientCAs are the subjects of the CAs whose client certificates it takes, as its TLS handshake tells everybody.
	ClientCAs []string `json:"clientCAs,omitempty"`
}

// A Role is a Role or a ClusterRole. The JSON names here and below are those of Kubernetes.
type Role struct {
	Namespace   string            `json:"namespace,omitempty"`
	Name        string            `json:"name"`
	Labels      map[string]string `json:"labels,omitempty"`
	Rules       []PolicyRule      `json:"rules,omitempty"`
	Aggregation []Selector        `json:"aggregation,omitempty"` // each selects ClusterRoles whose rules this one gets
}

// A PolicyRule is some rights, as Kubernetes writes them.
type PolicyRule struct {
	Verbs           []string `json:"verbs" yaml:"verbs"`
	APIGroups       []string `json:"apiGroups,omitempty" yaml:"groups"`
	Resources       []string `json:"resources,omitempty" yaml:"resources"`
	ResourceNames   []string `json:"resourceNames,omitempty" yaml:"names"`
	NonResourceURLs []string `json:"nonResourceURLs,omitempty" yaml:"urls"`
}

// A Selector is a Kubernetes label selector.
type Selector struct {
	MatchLabels      map[string]string `json:"matchLabels,omitempty"`
	MatchExpressions []Requirement     `json:"matchExpressions,omitempty"`
}

// A Requirement is one expression of a label selector.
type Requirement struct {
	Key      string   `json:"key"`
	Operator string   `json:"operator"` // In, NotIn, Exists, DoesNotExist
	Values   []string `json:"values,omitempty"`
}

// A Binding is a RoleBinding or a ClusterRoleBinding.
type Binding struct {
	Namespace string    `json:"namespace,omitempty"`
	Name      string    `json:"name"`
	Created   time.Time `json:"created"`
	RoleKind  string    `json:"roleKind"` // Role or ClusterRole
	RoleName  string    `json:"roleName"`
	Subjects  []Subject `json:"subjects,omitempty"`
	Ours      bool      `json:"ours,omitempty"` // made by this daemon for a grant, and gone when it ends
}

// Ref names the binding.
func (b Binding) Ref() Ref {
	if b.Namespace == "" {
		return Ref{Kind: "ClusterRoleBinding", Name: b.Name}
	}
	return Ref{Kind: "RoleBinding", Namespace: b.Namespace, Name: b.Name}
}

// A Namespace and the Pod Security Standard that it enforces: "privileged", "baseline", "restricted", or empty for none.
type Namespace struct {
	Name    string `json:"name"`
	Enforce string `json:"enforce,omitempty"`
}

// An Account is a service account. Secrets are the token Secrets that it lists, which Kubernetes made before 1.24.
type Account struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Secrets   []string `json:"secrets,omitempty"`
}

// A TokenSecret is a Secret with a service-account token that never expires.
type TokenSecret struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	Account   string    `json:"account"`
	Created   time.Time `json:"created"`
	LastUsed  string    `json:"lastUsed,omitempty"` // a day, as Kubernetes records it; empty if never since it records
	Invalid   string    `json:"invalid,omitempty"`  // the day since when Kubernetes refuses it as unused
}

// A BootstrapToken is a Secret with a token for joining nodes. Its secret half is never kept.
type BootstrapToken struct {
	ID             string     `json:"id"`
	Created        time.Time  `json:"created"`
	Expires        *time.Time `json:"expires,omitempty"`
	Authentication bool       `json:"authentication"` // good for signing in
	Signing        bool       `json:"signing"`        // good for signing cluster-info
	Groups         []string   `json:"groups,omitempty"`
}

// A CSR is a CertificateSigningRequest and, if it was signed, what the certificate says.
type CSR struct {
	Name      string     `json:"name"`
	Created   time.Time  `json:"created"`
	Signer    string     `json:"signer"`
	Requester string     `json:"requester"`
	Subject   string     `json:"subject"` // common name that is asked for
	Groups    []string   `json:"groups,omitempty"`
	Approved  bool       `json:"approved"`
	Denied    bool       `json:"denied"`
	Approval  string     `json:"approval,omitempty"` // reason and message of the approval, and which program wrote it
	Issued    bool       `json:"issued"`
	Expires   *time.Time `json:"expires,omitempty"`
}

// Authentication is what the ConfigMap extension-apiserver-authentication says.
type Authentication struct {
	ClientCAs            []CA     `json:"clientCAs,omitempty"`
	RequestHeaderCAs     []CA     `json:"requestHeaderCAs,omitempty"`
	RequestHeaderNames   []string `json:"requestHeaderNames,omitempty"` // allowed common names; none means all
	RequestHeaderHeaders []string `json:"requestHeaderHeaders,omitempty"`
}

// A CA is a certificate that vouches for others.
type CA struct {
	Subject     string    `json:"subject"`
	Fingerprint string    `json:"fingerprint"` // SHA-256 of the DER, lower hex
	KeyID       string    `json:"keyID"`       // SHA-256 of the public key, lower hex: the same key in another certificate is found by it
	NotBefore   time.Time `json:"notBefore"`
	NotAfter    time.Time `json:"notAfter"`
	Key         string    `json:"key"`       // like "RSA 2048", "ECDSA P-256"
	Signature   string    `json:"signature"` // like "SHA256-RSA"
	IsCA        bool      `json:"isCA"`
}

// An Issuer is what the API server's service account issuer discovery says.
type Issuer struct {
	Issuer  string `json:"issuer,omitempty"`
	JWKSURI string `json:"jwksURI,omitempty"`
}

// A Node is a node of the cluster.
type Node struct {
	Name         string   `json:"name"`
	ProviderID   string   `json:"providerID,omitempty"`
	Kubelet      string   `json:"kubelet"` // version
	ControlPlane bool     `json:"controlPlane,omitempty"`
	Labels       []string `json:"labels,omitempty"` // keys by which managed platforms are told
}

// A KubeProxy is what the ConfigMap kube-system/kube-proxy says.
type KubeProxy struct {
	MetricsBindAddress string `json:"metricsBindAddress"`
	HealthzBindAddress string `json:"healthzBindAddress"`
}

// A Kubelet is the running configuration of one or more nodes' kubelets.
type Kubelet struct {
	Nodes        []string `json:"nodes"`
	Anonymous    bool     `json:"anonymous"`
	Webhook      bool     `json:"webhook"`
	ClientCAFile string   `json:"clientCAFile,omitempty"`
	Mode         string   `json:"mode"` // of authorization: Webhook or AlwaysAllow
	ReadOnlyPort int      `json:"readOnlyPort"`
}

// An AdmissionHook is one webhook of a MutatingWebhookConfiguration or a ValidatingWebhookConfiguration.
type AdmissionHook struct {
	Config        string `json:"config"`
	Name          string `json:"name"`
	Mutating      bool   `json:"mutating"`
	Target        string `json:"target"` // its URL, or "service ns/name"
	FailurePolicy string `json:"failurePolicy"`
	// Everything says that it sees objects of all groups and resources, Secrets that it sees Secrets among others.
	Everything bool `json:"everything"`
	Secrets    bool `json:"secrets"`
}

// targetService begins the target of a webhook that runs in the cluster.
const targetService = "service "

// ServiceTarget is the Target of a webhook that is a service of the cluster.
func ServiceTarget(namespace, name string) string { return targetService + namespace + "/" + name }

// Inside reports whether the webhook runs in the cluster.
func (h AdmissionHook) Inside() bool { return strings.HasPrefix(h.Target, targetService) }

// An APIService is a part of the API that another server answers.
type APIService struct {
	Name     string `json:"name"`
	Service  string `json:"service"`
	Insecure bool   `json:"insecure"` // its serving certificate is not verified
}

// An AnonymousProbe is what the API server answered to requests without a credential: HTTP status codes, 0 if not asked.
// 401 says that anonymous requests are refused, anything else that they have a user.
type AnonymousProbe struct {
	API   int `json:"api"`   // GET /api
	Livez int `json:"livez"` // GET /livez, which a configuration can leave open alone
}

// ParseKubeProxy reads the configuration file of kube-proxy.
func ParseKubeProxy(text []byte) (*KubeProxy, error) {
	var out struct {
		Metrics string `yaml:"metricsBindAddress"`
		Healthz string `yaml:"healthzBindAddress"`
	}
	if err := yaml.Unmarshal(text, &out); err != nil {
		return nil, err
	}
	return &KubeProxy{MetricsBindAddress: out.Metrics, HealthzBindAddress: out.Healthz}, nil
}

// identitySeparator stands between an IAM identity and a group in Snapshot.AWSAuth.
const identitySeparator = ": "

// AWSIdentity takes a line of Snapshot.AWSAuth apart.
func AWSIdentity(line string) (arn, group string) {
	if n := strings.LastIndex(line, identitySeparator); n >= 0 {
		return line[:n], line[n+len(identitySeparator):]
	}
	return line, ""
}

// ParseAWSAuth reads the mapRoles and mapUsers of EKS's ConfigMap aws-auth: one line "arn: group" for each, and the user names
// that it gives, by ARN. Names that are made at sign-in ({{SessionName}}) are left out.
func ParseAWSAuth(texts ...string) (groups []string, users map[string]string, err error) {
	users = map[string]string{}
	for _, text := range texts {
		var entries []struct {
			Role   string   `yaml:"rolearn"`
			User   string   `yaml:"userarn"`
			Name   string   `yaml:"username"`
			Groups []string `yaml:"groups"`
		}
		if err := yaml.Unmarshal([]byte(text), &entries); err != nil {
			return nil, nil, err
		}
		for _, e := range entries {
			for _, g := range e.Groups {
				groups = append(groups, e.Role+e.User+identitySeparator+g)
			}
			if e.Name != "" && !strings.Contains(e.Name, "{{") {
				users[e.Role+e.User] = e.Name
			}
		}
	}
	slices.Sort(groups)
	return slices.Compact(groups), users, nil
}
