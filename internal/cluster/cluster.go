// Package cluster gives and takes rights in Kubernetes clusters: one binding for each grant, made after the certificate is
// issued and deleted when it ends. Kubernetes checks no revocation list, so deleting the binding is what cuts one certificate
// off; the next request of its holder is refused.
//
// A ClusterRoleBinding, or a RoleBinding in each of the profile's namespaces, is named breakglass-<request> and carries the
// labels below. The daemon touches nothing that does not carry them. What is bound says who it is for and until when, so that
// `kubectl get clusterrolebindings -l app.kubernetes.io/managed-by=breakglassd -o wide` answers an administrator's question.
package cluster

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	rbacclient "k8s.io/client-go/kubernetes/typed/rbac/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/breakglassd/breakglass/internal/breakglass"
)

// Labels and annotations of what we make.
const (
	ManagedByLabel  = "app.kubernetes.io/managed-by"
	ManagedBy       = "breakglassd"
	RequestLabel    = "breakglass.dev/request"
	UntilAnnotation = "breakglass.dev/until" // RFC 3339; for people: the binding is deleted by the daemon, not by its text
	namePrefix      = "breakglass-"
)

// pageSize is how many objects one list request asks for: what keeps a cluster with very many bindings answering.
const pageSize = 500

// Target is one cluster and the daemon's own credential there.
type Target struct {
	ID         string
	Kubeconfig string // file; its current context is used. No exec or auth-provider plugins are run
	CAFile     string // PEM; the CA in people's kubeconfigs. Empty: the one in Kubeconfig
}

// Config is what Open needs.
type Config struct {
	Targets []Target
	Timeout time.Duration // of each request. Default 5 s
	Log     *slog.Logger
}

// Clusters is a breakglass.Binder. It is safe for concurrent use.
type Clusters struct {
	log     *slog.Logger
	targets map[string]*target
}

type target struct {
	id   string
	rest *rest.Config
	ca   []byte
	rbac rbacclient.RbacV1Interface
	who  authenticationclient.AuthenticationV1Interface
	may  authorizationclient.AuthorizationV1Interface
}

var _ breakglass.Binder = (*Clusters)(nil)

// Open reads the credentials of all clusters and reports everything that is wrong with them. It does not talk to a cluster:
// one that is down is no reason not to start.
func Open(cfg Config) (*Clusters, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Clusters{log: cfg.Log, targets: map[string]*target{}}
	var bad []error
	for _, t := range cfg.Targets {
		opened, err := open(t, cfg.Timeout)
		if err != nil {
			bad = append(bad, fmt.Errorf("cluster %s: %w", t.ID, err))
			continue
		}
		c.targets[t.ID] = opened
	}
	return c, errors.Join(bad...)
}

func open(t Target, timeout time.Duration) (*target, error) {
	text, err := os.ReadFile(t.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading the daemon's kubeconfig: %w", err)
	}
	raw, err := clientcmd.Load(text)
	if err != nil {
		return nil, fmt.Errorf("reading the daemon's kubeconfig %s: %w", t.Kubeconfig, err)
	}
	for name, user := range raw.AuthInfos {
		if user.Exec != nil || user.AuthProvider != nil {
			return nil, fmt.Errorf("user %s in %s gets its credential from a plugin, which may need what is broken: use a token or a certificate (policies/kubernetes/README.md)", name, t.Kubeconfig)
		}
	}
	for _, cl := range raw.Clusters {
		if cl.InsecureSkipTLSVerify {
			return nil, fmt.Errorf("%s turns TLS verification off: put the API server's CA in it instead", t.Kubeconfig)
		}
	}
	rc, err := clientcmd.RESTConfigFromKubeConfig(text)
	if err != nil {
		return nil, fmt.Errorf("using the daemon's kubeconfig %s: %w", t.Kubeconfig, err)
	}
	rc.Timeout, rc.UserAgent = timeout, ManagedBy
	rc.QPS, rc.Burst = 50, 100 // a burst of claims must not wait for client-go's default of 5 a second
	rc.ContentType, rc.AcceptContentTypes = "application/json", "application/json"
	if err := rest.LoadTLSFiles(rc); err != nil {
		return nil, fmt.Errorf("reading the files named in %s: %w", t.Kubeconfig, err)
	}
	out := &target{id: t.ID, rest: rc, ca: rc.CAData}
	if t.CAFile != "" {
		if out.ca, err = os.ReadFile(t.CAFile); err != nil {
			return nil, fmt.Errorf("reading the cluster's CA: %w", err)
		}
		if !x509.NewCertPool().AppendCertsFromPEM(out.ca) {
			return nil, fmt.Errorf("there is no PEM certificate in %s", t.CAFile)
		}
	}
	if out.rbac, err = rbacclient.NewForConfig(rc); err != nil {
		return nil, fmt.Errorf("using the daemon's kubeconfig %s: %w", t.Kubeconfig, err)
	}
	if out.who, err = authenticationclient.NewForConfig(rc); err != nil {
		return nil, fmt.Errorf("using the daemon's kubeconfig %s: %w", t.Kubeconfig, err)
	}
	if out.may, err = authorizationclient.NewForConfig(rc); err != nil {
		return nil, fmt.Errorf("using the daemon's kubeconfig %s: %w", t.Kubeconfig, err)
	}
	return out, nil
}

// CA is the PEM of the CA that people's kubeconfigs trust for the cluster, nil if the system's CAs vouch for it.
func (c *Clusters) CA(cluster string) []byte {
	if t := c.targets[cluster]; t != nil {
		return t.ca
	}
	return nil
}

func (c *Clusters) target(cluster string) (*target, error) {
	t := c.targets[cluster]
	if t == nil {
		return nil, fmt.Errorf("cluster %s is not in the daemon's configuration", cluster)
	}
	return t, nil
}

// meta is the metadata of everything we make for a request.
func meta(b breakglass.Binding) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: namePrefix + b.Request, Labels: map[string]string{ManagedByLabel: ManagedBy, RequestLabel: b.Request},
		Annotations: map[string]string{UntilAnnotation: b.Until.UTC().Format(time.RFC3339)}}
}

func subjects(b breakglass.Binding) []rbacv1.Subject {
	return []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: b.User}}
}

func roleRef(r breakglass.Rights) rbacv1.RoleRef {
	if r.Role != "" {
		return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: r.Role}
	}
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: r.ClusterRole}
}

// Bind implements breakglass.Binder.
func (c *Clusters) Bind(ctx context.Context, b breakglass.Binding) error {
	t, err := c.target(b.Cluster)
	if err != nil {
		return err
	}
	if !b.Rights.Binding() {
		return fmt.Errorf("request %s is in group mode: there is nothing to bind", b.Request)
	}
	if len(b.Rights.Namespaces) == 0 {
		return t.explain("creating a ClusterRoleBinding", t.bindCluster(ctx, b))
	}
	for _, ns := range b.Rights.Namespaces {
		if err := t.bindNamespace(ctx, ns, b); err != nil {
			return t.explain("creating a RoleBinding in namespace "+ns, err)
		}
	}
	return nil
}

func (t *target) bindCluster(ctx context.Context, b breakglass.Binding) error {
	api := t.rbac.ClusterRoleBindings()
	want := &rbacv1.ClusterRoleBinding{ObjectMeta: meta(b), Subjects: subjects(b), RoleRef: roleRef(b.Rights)}
	for try := 0; ; try++ {
		_, err := api.Create(ctx, want, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) || try == bindTries {
			return err
		}
		have, err := api.Get(ctx, want.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		again, err := replace(have.ObjectMeta, b.Request, same(have.Subjects, want.Subjects, have.RoleRef, want.RoleRef), func(o metav1.DeleteOptions) error { return api.Delete(ctx, want.Name, o) })
		if err != nil || !again {
			return err
		}
	}
}

func (t *target) bindNamespace(ctx context.Context, namespace string, b breakglass.Binding) error {
	api := t.rbac.RoleBindings(namespace)
	want := &rbacv1.RoleBinding{ObjectMeta: meta(b), Subjects: subjects(b), RoleRef: roleRef(b.Rights)}
	for try := 0; ; try++ {
		_, err := api.Create(ctx, want, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) || try == bindTries {
			return err
		}
		have, err := api.Get(ctx, want.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		again, err := replace(have.ObjectMeta, b.Request, same(have.Subjects, want.Subjects, have.RoleRef, want.RoleRef), func(o metav1.DeleteOptions) error { return api.Delete(ctx, want.Name, o) })
		if err != nil || !again {
			return err
		}
	}
}

// bindTries is how often an object that is in the way is replaced before giving up: somebody else then keeps making it.
const bindTries = 3

// replace decides about an object that has our name already. If it is the same, nothing is to be done; if it is ours and says
// something else, it is deleted (a roleRef cannot be changed) and made again; somebody else's is never touched.
func replace(have metav1.ObjectMeta, request string, same bool, del func(metav1.DeleteOptions) error) (again bool, err error) {
	if have.Labels[ManagedByLabel] != ManagedBy || have.Labels[RequestLabel] != request {
		return false, fmt.Errorf("an object named %s is there already and does not carry our labels: look at who made it and delete it", have.Name)
	}
	if same {
		return false, nil
	}
	err = del(metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &have.UID}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return false, err
	}
	return true, nil
}

func same(haveS, wantS []rbacv1.Subject, haveR, wantR rbacv1.RoleRef) bool {
	return reflect.DeepEqual(haveS, wantS) && haveR == wantR
}

// Unbind implements breakglass.Binder. It finds what to delete by label, in every namespace, so that nothing is left over
// whatever the profile said when the binding was made.
func (c *Clusters) Unbind(ctx context.Context, cluster, request string) error {
	t, err := c.target(cluster)
	if err != nil {
		return err
	}
	found, err := t.find(ctx, RequestLabel+"="+request)
	if err != nil {
		return t.explain("listing the bindings of "+request, err)
	}
	var bad []error
	for _, o := range found {
		opts := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &o.UID}}
		if o.Namespace == "" {
			err = t.rbac.ClusterRoleBindings().Delete(ctx, o.Name, opts)
		} else {
			err = t.rbac.RoleBindings(o.Namespace).Delete(ctx, o.Name, opts)
		}
		if err != nil && !apierrors.IsNotFound(err) {
			bad = append(bad, t.explain("deleting the binding "+o.Name, err))
		}
	}
	return errors.Join(bad...)
}

// Bound implements breakglass.Binder.
func (c *Clusters) Bound(ctx context.Context, cluster string) ([]string, error) {
	t, err := c.target(cluster)
	if err != nil {
		return nil, err
	}
	found, err := t.find(ctx, RequestLabel)
	if err != nil {
		return nil, t.explain("listing our bindings", err)
	}
	var ids []string
	for _, o := range found {
		ids = append(ids, o.Labels[RequestLabel])
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// find lists the metadata of everything that carries our label and fits the selector, cluster-wide and in all namespaces.
func (t *target) find(ctx context.Context, selector string) ([]metav1.ObjectMeta, error) {
	var out []metav1.ObjectMeta
	opts := metav1.ListOptions{LabelSelector: ManagedByLabel + "=" + ManagedBy + "," + selector, Limit: pageSize}
	for {
		page, err := t.rbac.ClusterRoleBindings().List(ctx, opts)
		if err != nil {
			return nil, err
		}
		for _, o := range page.Items {
			out = append(out, o.ObjectMeta)
		}
		if opts.Continue = page.Continue; opts.Continue == "" {
			break
		}
	}
	for {
		page, err := t.rbac.RoleBindings(metav1.NamespaceAll).List(ctx, opts)
		if err != nil {
			return nil, err
		}
		for _, o := range page.Items {
			out = append(out, o.ObjectMeta)
		}
		if opts.Continue = page.Continue; opts.Continue == "" {
			return out, nil
		}
	}
}

// explain turns an API error into a sentence with the next step. The cause stays wrapped for errors.Is and the log.
func (t *target) explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	next := ""
	var unknown x509.UnknownAuthorityError
	var network net.Error
	switch {
	case apierrors.IsUnauthorized(err):
		next = "the API server does not accept the daemon's credential: has it expired? Make a new one (policies/kubernetes/README.md)"
	case apierrors.IsForbidden(err):
		next = "the daemon may not do this: apply policies/kubernetes/, and name the ClusterRole there if its profile is new"
	case apierrors.IsNotFound(err):
		next = "does the namespace exist?"
	case errors.As(err, &unknown):
		next = "the API server's certificate is not signed by the CA in the daemon's kubeconfig"
	case apierrors.IsTimeout(err), apierrors.IsServerTimeout(err), errors.Is(err, context.DeadlineExceeded), errors.As(err, &network):
		next = "the API server at " + t.rest.Host + " does not answer: is it up, and is there a way to it?"
	}
	if next == "" {
		return fmt.Errorf("%s in cluster %s: %w", doing, t.id, err)
	}
	return fmt.Errorf("%s in cluster %s: %s (%w)", doing, t.id, next, err)
}

// Server is the address that the daemon uses for a cluster.
func (c *Clusters) Server(cluster string) string {
	if t := c.targets[cluster]; t != nil {
		return strings.TrimSuffix(t.rest.Host, "/")
	}
	return ""
}
