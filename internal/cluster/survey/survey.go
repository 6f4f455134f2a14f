// Package survey reads once what the inventory of a cluster needs, from one API server. It asks only, and changes nothing.
package survey

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"golang.org/x/sync/errgroup"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/controlplane"
	"github.com/breakglassd/breakglass/internal/inventory"
)

// A Server is one API server, as the daemon reaches it.
type Server struct {
	Cluster string
	Config  *rest.Config // with the daemon's credential
	// WhoAmI asks it whom it takes the daemon for.
	WhoAmI func(context.Context) (user string, err error)
	// ClientCAs asks it for the names of the CAs whose client certificates it takes.
	ClientCAs func(context.Context) ([]string, error)
	// Ours reports whether an object with these labels is the binding of a grant.
	Ours func(labels map[string]string) bool
	// Explain says in an error what was being done, and what the error means.
	Explain func(doing string, err error) error
}

// Options are what a survey cannot read from the API server.
type Options struct {
	// Given are files about the control plane, by name: manifests of static pods or command lines. They add to what pods in
	// kube-system show.
	Given map[string][]byte
	// AuthenticationConfig is the API server's structured authentication configuration, nil if not given.
	AuthenticationConfig []byte
}

const (
	collectTimeout = 30 * time.Second // of each request: a page of 500 large objects takes longer than a binding
	kubeletTimeout = 5 * time.Second  // of each kubelet's answer through the API server
	maxKubelets    = 1000             // asked for their configuration; on larger clusters those of the first thousand nodes
	pageSize       = 500              // objects of a list that are asked for at once
	listTries      = 3                // how often a list is begun anew because its continuation has expired
	maxObject      = 64 << 20         // bytes of one answer
)

// Take makes a snapshot of a cluster. What the daemon's credential may not read is noted in it, with the right that is missing; err is
// not nil only if there is no snapshot, because the cluster does not answer or what was given is not valid. It reads page by page, so
// its memory is what the snapshot holds and one page.
func Take(ctx context.Context, from Server, o Options) (*inventory.Snapshot, error) {
	rc := rest.CopyConfig(from.Config)
	rc.Timeout = collectTimeout
	client, err := rest.HTTPClientFor(rc)
	if err != nil {
		return nil, fmt.Errorf("using the daemon's credential in cluster %s: %w", from.Cluster, err)
	}
	s := &inventory.Snapshot{Cluster: from.Cluster, At: time.Now().UTC().Truncate(time.Second),
		AuthenticationConfig: string(o.AuthenticationConfig)}
	s.Server.Address = rc.Host
	for name, text := range o.Given {
		found, err := controlplane.ParseGiven(name, text)
		if err != nil {
			return nil, fmt.Errorf("reading what was given about cluster %s: %w", from.Cluster, err)
		}
		s.Components = append(s.Components, found...)
	}
	begun := time.Now()
	r := &collector{from: from, client: client, base: strings.TrimSuffix(rc.Host, "/"), s: s}
	if err := r.server(ctx); err != nil {
		return nil, from.Explain("asking for its version", err)
	}
	r.self(ctx)
	r.handshake(ctx)
	r.anonymous(ctx, rc)
	r.rbac(ctx)
	r.credentials(ctx)
	r.configuration(ctx)
	r.nodes(ctx)
	r.extensions(ctx)
	if err := ctx.Err(); err != nil { // what was not reached must not look like what may not be read
		return nil, fmt.Errorf("collecting from cluster %s: %w", from.Cluster, context.Cause(ctx))
	}
	s.Took = time.Since(begun)
	return s, nil
}

// A collector reads from one API server into a snapshot.
type collector struct {
	from   Server
	client *http.Client
	base   string // of URLs, without a slash at the end
	mu     sync.Mutex
	s      *inventory.Snapshot // its counts are guarded by mu while kubelets are asked; all else is one goroutine's
}

// A refusal is an answer other than 200.
type refusal struct {
	status  int
	message string
}

func (r *refusal) Error() string {
	return fmt.Sprintf("the API server answers %d: %s", r.status, r.message)
}

func status(err error) int {
	var r *refusal
	if errors.As(err, &r) {
		return r.status
	}
	return 0
}

// metadataOnly asks for objects without their contents.
const metadataOnly = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

// open makes one request and returns the body of its answer, which the caller closes.
func (r *collector) open(ctx context.Context, path string, query url.Values, accept string) (*http.Response, error) {
	u := r.base + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("User-Agent", r.from.Config.UserAgent)
	r.mu.Lock()
	r.s.Requests++
	r.mu.Unlock()
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		var said metav1.Status
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 16<<10)) // only to say why
		if json.Unmarshal(text, &said) != nil || said.Message == "" {
			said.Message = http.StatusText(resp.StatusCode)
		}
		return nil, &refusal{status: resp.StatusCode, message: said.Message}
	}
	resp.Body = &counted{ReadCloser: resp.Body, r: r}
	return resp, nil
}

// counted counts the bytes that are read.
type counted struct {
	io.ReadCloser
	r *collector
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.r.mu.Lock()
	c.r.s.Bytes += int64(n)
	c.r.mu.Unlock()
	return n, err
}

// get reads one answer as JSON.
func (r *collector) get(ctx context.Context, path string, query url.Values, accept string, into any) error {
	resp, err := r.open(ctx, path, query, accept)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxObject)).Decode(into); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	return nil
}

// note records how reading a source went. right is what would let it be read.
func (r *collector) note(name, resourceVersion string, count int, right string, err error) {
	src := inventory.Source{Name: name, ResourceVersion: resourceVersion, Count: count}
	switch status(err) {
	case 0:
		if err != nil {
			src.Missing = "the API server did not answer: " + err.Error()
		}
	case http.StatusNotFound:
		src.None = true
	case http.StatusForbidden:
		src.Missing, src.Right = "the scan may not read it", right
	default:
		src.Missing = err.Error()
	}
	r.s.Sources = append(r.s.Sources, src)
}

type objectMeta struct {
	Name              string            `json:"name"`
	Namespace         string            `json:"namespace"`
	ResourceVersion   string            `json:"resourceVersion"`
	CreationTimestamp time.Time         `json:"creationTimestamp"`
	Labels            map[string]string `json:"labels"`
}

// annotated is the metadata of objects of which annotations matter, and who wrote what. They can be large.
type annotated struct {
	objectMeta
	Annotations   map[string]string `json:"annotations"`
	ManagedFields []struct {
		Manager     string `json:"manager"`
		Subresource string `json:"subresource"`
	} `json:"managedFields"`
}

// list reads all objects of a kind, page by page, and converts each at once. keep answers false for those that are of no
// interest. The decoder skips all fields that O does not have.
func list[O, T any](ctx context.Context, r *collector, source, path string, query url.Values, accept, right string,
	keep func(O) (T, bool)) []T {
	if query == nil {
		query = url.Values{}
	}
	query.Set("limit", fmt.Sprint(pageSize))
	var out []T
	for try := 1; ; try++ {
		out = nil
		query.Del("continue")
		var version string
		err := func() error {
			for {
				var page struct {
					Metadata struct {
						ResourceVersion string `json:"resourceVersion"`
						Continue        string `json:"continue"`
					} `json:"metadata"`
					Items []O `json:"items"`
				}
				if err := r.get(ctx, path, query, accept, &page); err != nil {
					return err
				}
				version = page.Metadata.ResourceVersion
				for _, o := range page.Items {
					if t, ok := keep(o); ok {
						out = append(out, t)
					}
				}
				if page.Metadata.Continue == "" {
					return nil
				}
				query.Set("continue", page.Metadata.Continue)
			}
		}()
		// The API server forgets after some minutes at which version a list was begun. Then it is begun anew, for what would be
		// read on with is of another version and may leave out what was moved.
		if status(err) == http.StatusGone && try < listTries {
			continue
		}
		if err != nil {
			out = nil
		}
		r.note(source, version, len(out), right, err)
		return out
	}
}

func (r *collector) server(ctx context.Context) error {
	resp, err := r.open(ctx, "/version", nil, "application/json")
	if status(err) != 0 { // it answers, and does not say
		r.note(inventory.SourceVersion, "", 0, "get /version", err)
		return nil
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var v struct {
		GitVersion string `json:"gitVersion"`
	}
	err = json.NewDecoder(io.LimitReader(resp.Body, maxObject)).Decode(&v)
	r.s.Server.Version = v.GitVersion
	if resp.TLS != nil && len(resp.TLS.VerifiedChains) > 0 {
		chain := resp.TLS.VerifiedChains[0]
		r.s.Server.CAFingerprint = breakglass.Fingerprint(chain[len(chain)-1].Raw)
	}
	r.note(inventory.SourceVersion, "", 1, "get /version", err)
	return nil
}

func (r *collector) self(ctx context.Context) {
	r.s.Requests++
	user, err := r.from.WhoAmI(ctx)
	if err == nil {
		r.s.Collector = user
	}
	r.note(inventory.SourceSelf, "", 1, "create selfsubjectreviews.authentication.k8s.io", err)
}

func (r *collector) handshake(ctx context.Context) {
	names, err := r.from.ClientCAs(ctx)
	r.s.Server.ClientCAs = names
	r.note(inventory.SourceHandshake, "", len(names), "", err)
}

// anonymous asks without the credential, to see whether the API server takes such requests at all.
func (r *collector) anonymous(ctx context.Context, rc *rest.Config) {
	client, err := rest.HTTPClientFor(rest.AnonymousClientConfig(rc))
	if err == nil {
		nobody := &collector{from: r.from, client: client, base: r.base, s: &inventory.Snapshot{}}
		for path, code := range map[string]*int{"/api": &r.s.Anonymous.API, "/livez": &r.s.Anonymous.Livez} {
			var resp *http.Response
			resp, err = nobody.open(ctx, path, nil, "application/json")
			r.s.Requests++
			if *code = status(err); *code != 0 {
				err = nil
			}
			if resp != nil {
				*code = resp.StatusCode
				resp.Body.Close()
			}
			if err != nil {
				break
			}
		}
	}
	r.note(inventory.SourceAnonymous, "", 2, "", err)
}

// rbacPath is where the API server has roles and bindings.
const rbacPath = "/apis/rbac.authorization.k8s.io/v1/"

func (r *collector) rbac(ctx context.Context) {
	type roleObject struct {
		Metadata        objectMeta             `json:"metadata"`
		Rules           []inventory.PolicyRule `json:"rules"`
		AggregationRule struct {
			ClusterRoleSelectors []inventory.Selector `json:"clusterRoleSelectors"`
		} `json:"aggregationRule"`
	}
	role := func(o roleObject) (inventory.Role, bool) {
		return inventory.Role{Namespace: o.Metadata.Namespace, Name: o.Metadata.Name, Labels: o.Metadata.Labels, Rules: o.Rules,
			Aggregation: o.AggregationRule.ClusterRoleSelectors}, true
	}
	type bindingObject struct {
		Metadata objectMeta `json:"metadata"`
		RoleRef  struct {
			Kind string `json:"kind"`
			Name string `json:"name"`
		} `json:"roleRef"`
		Subjects []inventory.Subject `json:"subjects"`
	}
	binding := func(o bindingObject) (inventory.Binding, bool) {
		return inventory.Binding{Namespace: o.Metadata.Namespace, Name: o.Metadata.Name, Created: o.Metadata.CreationTimestamp,
			RoleKind: o.RoleRef.Kind, RoleName: o.RoleRef.Name,
			Subjects: o.Subjects, Ours: r.from.Ours(o.Metadata.Labels)}, true
	}
	const all = "application/json"
	right := func(resource string) string { return "list " + resource + ".rbac.authorization.k8s.io" }
	s := r.s
	s.ClusterRoles = list(ctx, r, inventory.SourceClusterRoles, rbacPath+"clusterroles", nil, all, right("clusterroles"), role)
	s.Roles = list(ctx, r, inventory.SourceRoles, rbacPath+"roles", nil, all, right("roles"), role)
	s.ClusterBindings = list(ctx, r, inventory.SourceClusterBindings, rbacPath+"clusterrolebindings", nil, all, right("clusterrolebindings"),
		binding)
	s.Bindings = list(ctx, r, inventory.SourceBindings, rbacPath+"rolebindings", nil, all, right("rolebindings"), binding)
	s.Namespaces = list(ctx, r, inventory.SourceNamespaces, "/api/v1/namespaces", nil, metadataOnly, "list namespaces", func(o struct {
		Metadata objectMeta `json:"metadata"`
	}) (inventory.Namespace, bool) {
		return inventory.Namespace{Name: o.Metadata.Name, Enforce: o.Metadata.Labels["pod-security.kubernetes.io/enforce"]}, true
	})
	s.Accounts = list(ctx, r, inventory.SourceAccounts, "/api/v1/serviceaccounts", nil, all, "list serviceaccounts", func(o struct {
		Metadata objectMeta `json:"metadata"`
		Secrets  []struct {
			Name string `json:"name"`
		} `json:"secrets"`
	}) (inventory.Account, bool) {
		a := inventory.Account{Namespace: o.Metadata.Namespace, Name: o.Metadata.Name}
		for _, secret := range o.Secrets {
			a.Secrets = append(a.Secrets, secret.Name)
		}
		return a, true
	})
}

// credentials reads what people and programs sign in with. Of Secrets it asks for the metadata, of the types that are
// credentials for the API server; but who may list them may read them, whatever is asked for.
func (r *collector) credentials(ctx context.Context) {
	s := r.s
	s.TokenSecrets = list(ctx, r, inventory.SourceTokenSecrets, "/api/v1/secrets",
		url.Values{"fieldSelector": {"type=kubernetes.io/service-account-token"}}, metadataOnly, "list secrets in all namespaces",
		func(o struct {
			Metadata annotated `json:"metadata"`
		}) (inventory.TokenSecret, bool) {
			m := o.Metadata
			return inventory.TokenSecret{Namespace: m.Namespace, Name: m.Name, Account: m.Annotations["kubernetes.io/service-account.name"],
				Created:  m.CreationTimestamp,
				LastUsed: m.Labels["kubernetes.io/legacy-token-last-used"], Invalid: m.Labels["kubernetes.io/legacy-token-invalid-since"]}, true
		})
	// When a bootstrap token ends, and what it is good for, is in the Secret's data next to the token. The decoder keeps those
	// keys only; the secret half is never copied out of the network buffer.
	s.BootstrapTokens = list(ctx, r, inventory.SourceBootstrap, "/api/v1/namespaces/kube-system/secrets",
		url.Values{"fieldSelector": {"type=bootstrap.kubernetes.io/token"}}, "application/json", "list secrets",
		func(o struct {
			Metadata objectMeta `json:"metadata"`
			Data     struct {
				Expiration     []byte `json:"expiration"`
				Authentication []byte `json:"usage-bootstrap-authentication"`
				Signing        []byte `json:"usage-bootstrap-signing"`
				Groups         []byte `json:"auth-extra-groups"`
			} `json:"data"`
		}) (inventory.BootstrapToken, bool) {
			b := inventory.BootstrapToken{ID: strings.TrimPrefix(o.Metadata.Name, "bootstrap-token-"), Created: o.Metadata.CreationTimestamp,
				Authentication: string(o.Data.Authentication) == "true", Signing: string(o.Data.Signing) == "true"}
			if at, err := time.Parse(time.RFC3339, string(o.Data.Expiration)); err == nil {
				b.Expires = &at
			}
			for _, g := range strings.Split(string(o.Data.Groups), ",") {
				if g = strings.TrimSpace(g); g != "" {
					b.Groups = append(b.Groups, g)
				}
			}
			return b, true
		})
	s.CSRs = list(ctx, r, inventory.SourceCSRs, "/apis/certificates.k8s.io/v1/certificatesigningrequests", nil, "application/json",
		"list certificatesigningrequests.certificates.k8s.io", csr)
}

type csrObject struct {
	Metadata annotated `json:"metadata"`
	Spec     struct {
		Request    []byte `json:"request"`
		SignerName string `json:"signerName"`
		Username   string `json:"username"`
	} `json:"spec"`
	Status struct {
		Certificate []byte `json:"certificate"`
		Conditions  []struct {
			Type    string `json:"type"`
			Reason  string `json:"reason"`
			Message string `json:"message"`
		} `json:"conditions"`
	} `json:"status"`
}

func csr(o csrObject) (inventory.CSR, bool) {
	c := inventory.CSR{Name: o.Metadata.Name, Created: o.Metadata.CreationTimestamp, Signer: o.Spec.SignerName, Requester: o.Spec.Username}
	if block, _ := pem.Decode(o.Spec.Request); block != nil {
		if asked, err := x509.ParseCertificateRequest(block.Bytes); err == nil {
			c.Subject, c.Groups = asked.Subject.CommonName, asked.Subject.Organization
		}
	}
	if block, _ := pem.Decode(o.Status.Certificate); block != nil {
		c.Issued = true
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil { // what was signed counts, not what was asked for
			c.Subject, c.Groups, c.Expires = cert.Subject.CommonName, cert.Subject.Organization, &cert.NotAfter
		}
	}
	for _, condition := range o.Status.Conditions {
		switch condition.Type {
		case "Approved":
			c.Approved, c.Approval = true, strings.Trim(condition.Reason+": "+condition.Message, ": ")
			for _, m := range o.Metadata.ManagedFields {
				if m.Subresource == "approval" {
					c.Approval += " (written by " + m.Manager + ")"
				}
			}
		case "Denied", "Failed":
			c.Denied = true
		}
	}
	return c, true
}

// configMap reads the data of a ConfigMap of kube-system; nil if it cannot be read or is not there.
func (r *collector) configMap(ctx context.Context, source, name string) map[string]string {
	var o struct {
		Metadata objectMeta        `json:"metadata"`
		Data     map[string]string `json:"data"`
	}
	err := r.get(ctx, "/api/v1/namespaces/kube-system/configmaps/"+name, nil, "application/json", &o)
	count := 1
	if err != nil {
		count = 0
	}
	r.note(source, o.Metadata.ResourceVersion, count, "get configmaps/"+name+" in kube-system", err)
	return o.Data
}

// spoil says of the source that was noted last that what it holds cannot be understood.
func (r *collector) spoil(err error) {
	if err != nil {
		r.s.Sources[len(r.s.Sources)-1].Missing = "it cannot be understood: " + err.Error()
	}
}

func (r *collector) configuration(ctx context.Context) {
	s := r.s
	auth := r.configMap(ctx, inventory.SourceAuthentication, "extension-apiserver-authentication")
	s.Authentication.ClientCAs = authorities(auth["client-ca-file"])
	s.Authentication.RequestHeaderCAs = authorities(auth["requestheader-client-ca-file"])
	for key, into := range map[string]*[]string{"requestheader-allowed-names": &s.Authentication.RequestHeaderNames,
		"requestheader-username-headers": &s.Authentication.RequestHeaderHeaders} {
		if auth[key] != "" {
			r.spoil(json.Unmarshal([]byte(auth[key]), into))
		}
	}
	s.TrackingSince = r.configMap(ctx, inventory.SourceTracking, "kube-apiserver-legacy-service-account-token-tracking")["since"]
	if text, ok := r.configMap(ctx, inventory.SourceKubeProxy, "kube-proxy")["config.conf"]; ok {
		proxy, err := inventory.ParseKubeProxy([]byte(text))
		s.KubeProxy = proxy
		r.spoil(err)
	}
	if aws := r.configMap(ctx, inventory.SourceAWSAuth, "aws-auth"); aws != nil {
		var err error
		s.AWSAuth, s.AWSUsers, err = inventory.ParseAWSAuth(aws["mapRoles"], aws["mapUsers"])
		r.spoil(err)
	}
	var issuer struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	err := r.get(ctx, "/.well-known/openid-configuration", nil, "application/json", &issuer)
	s.Issuer = inventory.Issuer{Issuer: issuer.Issuer, JWKSURI: issuer.JWKSURI}
	r.note(inventory.SourceIssuer, "", 1, "get /.well-known/openid-configuration", err)
}

// authorities reads a PEM bundle. What is no certificate in it is left out, as the API server leaves it out.
func authorities(bundle string) []inventory.CA {
	var out []inventory.CA
	for rest := []byte(bundle); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			continue
		}
		key := cert.PublicKeyAlgorithm.String()
		switch k := cert.PublicKey.(type) {
		case *rsa.PublicKey:
			key = fmt.Sprintf("RSA %d", k.N.BitLen())
		case *ecdsa.PublicKey:
			key = "ECDSA " + k.Params().Name
		}
		out = append(out, inventory.CA{Subject: DistinguishedName(cert.RawSubject), Fingerprint: breakglass.Fingerprint(cert.Raw),
			KeyID:     breakglass.SPKI(cert.RawSubjectPublicKeyInfo),
			NotBefore: cert.NotBefore, NotAfter: cert.NotAfter, Key: key, Signature: cert.SignatureAlgorithm.String(), IsCA: cert.IsCA})
	}
}

// platformLabels are the beginnings of label keys by which managed platforms mark their nodes.
var platformLabels = []string{"eks.amazonaws.com/", "cloud.google.com/", "kubernetes.azure.com/"}

func (r *collector) nodes(ctx context.Context) {
	s := r.s
	s.Nodes = list(ctx, r, inventory.SourceNodes, "/api/v1/nodes", nil, "application/json", "list nodes", func(o struct {
		Metadata objectMeta `json:"metadata"`
		Spec     struct {
			ProviderID string `json:"providerID"`
		} `json:"spec"`
		Status struct {
			NodeInfo struct {
				KubeletVersion string `json:"kubeletVersion"`
			} `json:"nodeInfo"`
		} `json:"status"`
	}) (inventory.Node, bool) {
		n := inventory.Node{Name: o.Metadata.Name, ProviderID: o.Spec.ProviderID, Kubelet: o.Status.NodeInfo.KubeletVersion}
		for key := range o.Metadata.Labels {
			n.ControlPlane = n.ControlPlane || key == "node-role.kubernetes.io/control-plane" || key == "node-role.kubernetes.io/master"
			if slices.ContainsFunc(platformLabels, func(p string) bool { return strings.HasPrefix(key, p) }) {
				n.Labels = append(n.Labels, key)
			}
		}
		slices.Sort(n.Labels)
		return n, true
	})
	found := list(ctx, r, inventory.SourcePods, "/api/v1/namespaces/kube-system/pods", nil, "application/json", "list pods in kube-system",
		func(o struct {
			Metadata annotated `json:"metadata"`
			Spec     struct {
				NodeName   string                   `json:"nodeName"`
				Containers []controlplane.Container `json:"containers"`
			} `json:"spec"`
		}) ([]controlplane.Component, bool) {
			where, node := "pod kube-system/"+o.Metadata.Name+" on node "+o.Spec.NodeName, o.Spec.NodeName
			if o.Metadata.Annotations["kubernetes.io/config.mirror"] == "" {
				where, node = where+", which is no static pod", ""
			}
			var out []controlplane.Component
			for _, c := range o.Spec.Containers {
				for _, component := range c.Components(where) {
					component.Node = node
					out = append(out, component)
				}
			}
			return out, len(out) > 0
		})
	s.Components = append(s.Components, slices.Concat(found...)...)
	slices.SortFunc(s.Components, func(a, b controlplane.Component) int { return strings.Compare(a.Name+a.Where, b.Name+b.Where) })
	r.kubelets(ctx)
}

// kubelets asks kubelets for their running configuration, through the API server. The first one that may not be asked ends it.
func (r *collector) kubelets(ctx context.Context) {
	type configz struct {
		Config struct {
			Authentication struct {
				X509 struct {
					ClientCAFile string `json:"clientCAFile"`
				} `json:"x509"`
				Webhook struct {
					Enabled bool `json:"enabled"`
				} `json:"webhook"`
				Anonymous struct {
					Enabled bool `json:"enabled"`
				} `json:"anonymous"`
			} `json:"authentication"`
			Authorization struct {
				Mode string `json:"mode"`
			} `json:"authorization"`
			ReadOnlyPort int `json:"readOnlyPort"`
		} `json:"kubeletconfig"`
	}
	s := r.s
	ask := func(ctx context.Context, node string) (configz, error) {
		ctx, cancel := context.WithTimeout(ctx, kubeletTimeout)
		defer cancel()
		var k configz
		return k, r.get(ctx, "/api/v1/nodes/"+url.PathEscape(node)+"/proxy/configz", nil, "application/json", &k)
	}
	var mu sync.Mutex
	seen := map[configz][]string{}
	var silent []string
	var refused error
	asked := s.Nodes[:min(len(s.Nodes), maxKubelets)]
	g, kubeletsCtx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, n := range asked {
		g.Go(func() error {
			k, err := ask(kubeletsCtx, n.Name)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				seen[k] = append(seen[k], n.Name)
			case status(err) == http.StatusForbidden:
				refused = err
				return err // nobody else need be asked
			default:
				silent = append(silent, n.Name)
			}
			return nil
		})
	}
	_ = g.Wait() // its error is refused
	answered := 0
	for k, names := range seen {
		slices.Sort(names)
		answered += len(names)
		c := k.Config
		s.Kubelets = append(s.Kubelets, inventory.Kubelet{Nodes: names, Anonymous: c.Authentication.Anonymous.Enabled,
			Webhook:      c.Authentication.Webhook.Enabled,
			ClientCAFile: c.Authentication.X509.ClientCAFile, Mode: c.Authorization.Mode, ReadOnlyPort: c.ReadOnlyPort})
	}
	slices.SortFunc(s.Kubelets, func(a, b inventory.Kubelet) int { return strings.Compare(a.Nodes[0], b.Nodes[0]) })
	r.note(inventory.SourceConfigz, "", answered, "get nodes/proxy", refused)
	if refused != nil {
		return
	}
	var missing []string
	if len(silent) > 0 {
		slices.Sort(silent)
		missing = append(missing, fmt.Sprintf("%d of %d kubelets did not answer, %s among them", len(silent), len(asked), silent[0]))
	}
	if left := len(s.Nodes) - len(asked); left > 0 {
		missing = append(missing, fmt.Sprintf("%d kubelets were not asked, for the limit is %d", left, maxKubelets))
	}
	s.Sources[len(s.Sources)-1].Missing = strings.Join(missing, "; ")
}

func (r *collector) extensions(ctx context.Context) {
	type hookConfig struct {
		Metadata objectMeta `json:"metadata"`
		Webhooks []struct {
			Name         string `json:"name"`
			ClientConfig struct {
				URL     string `json:"url"`
				Service *struct {
					Namespace string `json:"namespace"`
					Name      string `json:"name"`
				} `json:"service"`
			} `json:"clientConfig"`
			FailurePolicy string `json:"failurePolicy"`
			Rules         []struct {
				APIGroups []string `json:"apiGroups"`
				Resources []string `json:"resources"`
			} `json:"rules"`
		} `json:"webhooks"`
	}
	read := func(source string, mutating bool) {
		configs := list(ctx, r, source, "/apis/admissionregistration.k8s.io/v1/"+source, nil, "application/json", "list "+source+
			".admissionregistration.k8s.io",
			func(o hookConfig) (hookConfig, bool) { return o, true })
		for _, c := range configs {
			for _, w := range c.Webhooks {
				h := inventory.AdmissionHook{Config: c.Metadata.Name, Name: w.Name, Mutating: mutating, Target: w.ClientConfig.URL,
					FailurePolicy: w.FailurePolicy}
				if svc := w.ClientConfig.Service; svc != nil {
					h.Target = inventory.ServiceTarget(svc.Namespace, svc.Name)
				}
				for _, rule := range w.Rules {
					all := slices.Contains(rule.Resources, "*") || slices.Contains(rule.Resources, "*/*")
					h.Everything = h.Everything || all && slices.Contains(rule.APIGroups, "*")
					core := slices.Contains(rule.APIGroups, "") || slices.Contains(rule.APIGroups, "*")
					h.Secrets = h.Secrets || core && (all || slices.Contains(rule.Resources, "secrets"))
				}
				r.s.Webhooks = append(r.s.Webhooks, h)
			}
		}
	}
	read(inventory.SourceMutating, true)
	read(inventory.SourceValidating, false)
	r.s.APIServices = list(ctx, r, inventory.SourceAPIServices, "/apis/apiregistration.k8s.io/v1/apiservices", nil, "application/json",
		"list apiservices.apiregistration.k8s.io", func(o struct {
			Metadata objectMeta `json:"metadata"`
			Spec     struct {
				Service *struct {
					Namespace string `json:"namespace"`
					Name      string `json:"name"`
				} `json:"service"`
				Insecure bool `json:"insecureSkipTLSVerify"`
			} `json:"spec"`
		}) (inventory.APIService, bool) {
			if o.Spec.Service == nil { // the API server's own
				return inventory.APIService{}, false
			}
			return inventory.APIService{Name: o.Metadata.Name, Service: o.Spec.Service.Namespace + "/" + o.Spec.Service.Name,
				Insecure: o.Spec.Insecure}, true
		})
}

// DistinguishedName is the name in a certificate, from its DER, as text.
func DistinguishedName(raw []byte) string {
	var seq pkix.RDNSequence
	if rest, err := asn1.Unmarshal(raw, &seq); err != nil || len(rest) > 0 {
		return "(unreadable)"
	}
	return seq.String()
}
