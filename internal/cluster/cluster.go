// Package cluster is one Kubernetes API server, or several of one cluster, as the daemon uses them. It does four things there.
//
// It gives and takes rights: one binding for each grant, made after the certificate is issued and deleted when the grant ends.
// Kubernetes checks no revocation list, so deleting the binding is what cuts one certificate off; the next request of its holder is
// refused. A ClusterRoleBinding, or a RoleBinding in each of the profile's namespaces, is named breakglass-<request> and carries the
// labels below. The daemon touches nothing that does not carry them. What is bound says who it is for and until when, so that
// `kubectl get clusterrolebindings -l app.kubernetes.io/managed-by=breakglassd -o wide` answers an administrator's question.
//
// It proves what each address answers to a certificate: of a grant that ended, and of a canary.
//
// It reads: what is there before and after a session, and, with package survey, what the inventory needs.
//
// It looks at trust: which CAs the cluster takes, and whether the daemon's own access is right.
//
// There is one way to each address, made in this package with what the kubeconfig says; a credential that is renewed on disk is
// followed.
package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/text"
)

// Labels and annotations of what we make.
const (
	ManagedByLabel  = "app.kubernetes.io/managed-by"
	ManagedBy       = "breakglassd"
	RequestLabel    = "breakglass.dev/request"
	LedgerLabel     = "breakglass.dev/ledger"
	UntilAnnotation = "breakglass.dev/until" // RFC 3339; for people: the binding is deleted by the daemon, not by its text
	namePrefix      = "breakglass-"
)

// pageSize is how many objects one list request asks for: what keeps a cluster with very many bindings answering.
const pageSize = 500

// Target is one cluster and the daemon's own credential there.
type Target struct {
	ID         string
	Kubeconfig string         // file; its current context is used. No exec or auth-provider plugins are run
	CAFile     string         // PEM; the CA in people's kubeconfigs. Empty: the one in Kubeconfig
	People     breakglass.Way // how people reach the cluster; see PeopleWay for its form
	// APIServers are the https:// addresses of every API server, past any load balancer. Each must show a certificate for its
	// own host, unless the kubeconfig sets tls-server-name, from the CA that the kubeconfig names. Empty: the kubeconfig's
	// server alone.
	APIServers []string
}

// Config is what Open needs.
type Config struct {
	Targets []Target
	// Timeout is that of each read, proof and probe. Default 5 s. A write has its own, which is longer than the API server's.
	Timeout time.Duration
	// Asked lists the specs of SubjectAccessReviews about a user that the deny webhook did not refuse lately, as JSON, the last one
	// first. An API server whose webhook refuses the user has done so only when it refuses these too: it remembers such answers,
	// and lets requests in by them. Nil: they are not known.
	Asked func(user string) []json.RawMessage
	// Ledger says whose bindings these are, as LedgerID writes it: of two daemons with one cluster, neither may take the other's for
	// garbage. Empty: every binding with a breakglassd's labels counts as ours.
	Ledger string
	Log    *slog.Logger
}

// LedgerID makes of a ledger's public key what fits into a label.
func LedgerID(vkey string) string {
	return text.SHA256([]byte(vkey))[:16]
}

// Clusters is a breakglass.Binder and a breakglass.Prover. It is safe for concurrent use.
type Clusters struct {
	log       *slog.Logger
	ledger    string
	asked     func(user string) []json.RawMessage
	targets   map[string]*target
	writeTime time.Duration

	mu      sync.Mutex          // guards what follows; held for map operations only
	flights map[string]*flight  // writes that are under way, by cluster and request
	beside  map[string][]string // bindings that sessions made for themselves and that were taken away, likewise
}

// target is one cluster at one address.
type target struct {
	id       string
	rest     *rest.Config
	serverCA []byte // PEM; what the daemon trusts, nil for the system's CAs
	peopleCA []byte // PEM; what people's kubeconfigs trust
	people   breakglass.Way
	http     *http.Client // with the daemon's credential
	writes   *http.Client // the same, without a deadline of its own
	// Proofs of many revocations at one time are hundreds of small questions, which must not wait behind each other, nor anything
	// else behind them.
	few, many flowcontrol.RateLimiter

	// Of the kubeconfig's server alone:
	servers []*target // the cluster at each configured address, in the configuration's order
	ways    []*target // the same, with the kubeconfig's server first, whether or not it is configured

	silent atomic.Int64 // when this address last did not answer, in Unix nanoseconds
}

var (
	_ breakglass.Binder    = (*Clusters)(nil)
	_ breakglass.Neighbour = (*Clusters)(nil)
	_ breakglass.Able      = (*Clusters)(nil)
)

// Open reads the credentials of all clusters and reports everything that is wrong with them. It does not talk to a cluster:
// one that is down is no reason not to start.
func Open(cfg Config) (*Clusters, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Asked == nil {
		cfg.Asked = func(string) []json.RawMessage { return nil }
	}
	c := &Clusters{log: cfg.Log, ledger: cfg.Ledger, asked: cfg.Asked, targets: map[string]*target{}, writeTime: writeTime,
		flights: map[string]*flight{}, beside: map[string][]string{}}
	var bad []error
	at := map[string]string{} // address of an API server → cluster
	for _, t := range cfg.Targets {
		opened, err := open(t, cfg.Timeout)
		if err != nil {
			bad = append(bad, fmt.Errorf("cluster %s: %w", t.ID, err))
			continue
		}
		for _, way := range opened.ways {
			address := sameAddress(way.rest.Host)
			if other, taken := at[address]; taken {
				bad = append(bad, fmt.Errorf("clusters %s and %s both name the API server %s: one cluster has one id, or each takes the other's "+
					"grants away", other, t.ID, way.rest.Host))
				break
			}
		}
		for _, way := range opened.ways {
			at[sameAddress(way.rest.Host)] = t.ID
		}
		c.targets[t.ID] = opened
	}
	return c, errors.Join(bad...)
}

func open(t Target, timeout time.Duration) (*target, error) {
	raw, err := clientcmd.LoadFromFile(t.Kubeconfig)
	if err == nil {
		err = clientcmd.ResolveLocalPaths(raw) // files named in a kubeconfig are relative to it, as for kubectl
	}
	if err != nil {
		return nil, fmt.Errorf("reading the daemon's kubeconfig %s: %w", t.Kubeconfig, err)
	}
	rc, err := clientcmd.NewDefaultClientConfig(*raw, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("using the daemon's kubeconfig %s: %w", t.Kubeconfig, err)
	}
	switch {
	case rc.ExecProvider != nil || rc.AuthProvider != nil:
		return nil, fmt.Errorf("the user in %s gets its credential from a plugin, which may need what is broken: use a token or a certificate "+
			"(policies/kubernetes/README.md)", t.Kubeconfig)
	case rc.Impersonate.UserName != "" || rc.Impersonate.UID != "" || len(rc.Impersonate.Groups) > 0 || len(rc.Impersonate.Extra) > 0:
		return nil, fmt.Errorf("the user in %s acts as another (as, as-uid, as-groups or as-user-extra): "+
			"what it may do would be another's rights: give the daemon a credential with rights of its own", t.Kubeconfig)
	case rc.Insecure:
		return nil, fmt.Errorf("%s turns TLS verification off: put the API server's CA in it instead", t.Kubeconfig)
	case !strings.HasPrefix(rc.Host, "https://"):
		return nil, fmt.Errorf("the server %q in %s is not an https:// address: the daemon's credential would travel unprotected", rc.Host,
			t.Kubeconfig)
	}
	if err := PeopleWay(t.People); err != nil {
		return nil, err
	}
	rc.Timeout, rc.UserAgent = timeout, ManagedBy
	// HTTP/2 would put every request on one connection. When that goes silent (a node or a load balancer that died), each
	// request would time out on it for 45 s, until client-go gives it up. With HTTP/1.1 a request that times out takes its
	// connection with it, and the next one dials.
	rc.NextProtos = []string{"http/1.1"}
	rc.ContentType, rc.AcceptContentTypes = "application/json", "application/json"
	loaded := rest.CopyConfig(rc) // rc itself keeps the names of files, so that client-go follows a renewed credential
	if err := rest.LoadTLSFiles(loaded); err != nil {
		return nil, fmt.Errorf("reading the files named in %s: %w", t.Kubeconfig, err)
	}
	peopleCA := loaded.CAData
	if t.CAFile != "" {
		if peopleCA, err = os.ReadFile(t.CAFile); err != nil {
			return nil, fmt.Errorf("reading the cluster's CA: %w", err)
		}
		if !x509.NewCertPool().AppendCertsFromPEM(peopleCA) {
			return nil, fmt.Errorf("there is no PEM certificate in %s", t.CAFile)
		}
	}
	at := func(address string) (*target, error) {
		conf := rest.CopyConfig(rc)
		conf.Host = address
		out := &target{id: t.ID, rest: conf, serverCA: loaded.CAData, peopleCA: peopleCA, people: t.People}
		out.few, out.many = flowcontrol.NewTokenBucketRateLimiter(50, 100), flowcontrol.NewTokenBucketRateLimiter(500, 1000)
		out.http, err = rest.HTTPClientFor(conf)
		if err != nil {
			return nil, fmt.Errorf("using the daemon's kubeconfig %s for %s: %w", t.Kubeconfig, address, err)
		}
		out.writes = &http.Client{Transport: out.http.Transport, CheckRedirect: out.http.CheckRedirect}
		return out, nil
	}
	out, err := at(rc.Host)
	if err != nil {
		return nil, err
	}
	out.ways, out.servers = []*target{out}, []*target{out}
	if len(t.APIServers) > 0 {
		out.servers = nil
	}
	seen := map[string]bool{}
	for _, address := range t.APIServers {
		u, err := url.Parse(address)
		switch {
		case err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
			return nil, fmt.Errorf("the API server address %q is not of the form https://host:port", address)
		case seen[sameAddress(address)]:
			return nil, fmt.Errorf("the API server address %s is configured twice", address)
		}
		seen[sameAddress(address)] = true
		if sameAddress(address) == sameAddress(rc.Host) {
			out.servers = append(out.servers, out)
			continue
		}
		other, err := at(address)
		if err != nil {
			return nil, err
		}
		out.servers, out.ways = append(out.servers, other), append(out.ways, other)
	}
	return out, nil
}

// sameAddress writes an address so that two ways of writing the same one are equal.
func sameAddress(address string) string {
	u, err := url.Parse(strings.ToLower(strings.TrimRight(address, "/")))
	if err != nil {
		return address
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), "443")
	}
	return u.String()
}

// Server is one API server of a cluster and how the daemon reaches it.
type Server struct {
	Address string
	Config  *rest.Config // a copy
}

// Servers returns every configured API server of a cluster, in the configuration's order; without any, the kubeconfig's.
func (c *Clusters) Servers(cluster string) ([]Server, error) {
	t, err := c.target(cluster)
	if err != nil {
		return nil, err
	}
	out := make([]Server, len(t.servers))
	for i, s := range t.servers {
		out[i] = Server{Address: s.rest.Host, Config: rest.CopyConfig(s.rest)}
	}
	return out, nil
}

// silentFor is how long an address that did not answer is tried after the others.
const silentFor = 30 * time.Second

// anyServer does something at the kubeconfig's server or, when that does not answer, at another of the cluster's addresses: a
// dead load balancer must not keep a right alive. What it does must be safe to repeat. The errors of all that were tried are
// returned when none answers. Each address but the last one has its share of the time only; what writes sees for itself whether
// an address answers, and is told which one is the last.
func (t *target) anyServer(ctx context.Context, do func(ctx context.Context, at *target) error) error {
	return t.eachServer(ctx, func(ctx context.Context, at *target, left int) error {
		if left > 1 { // the last one may take all the time that is left
			budget := at.rest.Timeout
			if deadline, ok := ctx.Deadline(); ok {
				budget = min(budget, time.Until(deadline)/time.Duration(left))
			}
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, budget)
			defer cancel()
		}
		return do(ctx, at)
	})
}

// eachServer does something at one address after the other until one answers. left is how many there are, with this one.
func (t *target) eachServer(ctx context.Context, do func(ctx context.Context, at *target, left int) error) error {
	now := time.Now()
	order := slices.Clone(t.ways)
	slices.SortStableFunc(order, func(a, b *target) int { return boolInt(a.wasSilent(now)) - boolInt(b.wasSilent(now)) })
	var bad []error
	for i, at := range order {
		err := do(ctx, at, len(order)-i)
		if err == nil {
			at.silent.Store(0)
			return nil
		}
		if !unanswered(err) {
			return err
		}
		at.silent.Store(time.Now().UnixNano())
		bad = append(bad, err)
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(bad...)
}

func (t *target) wasSilent(now time.Time) bool {
	return now.UnixNano()-t.silent.Load() < int64(silentFor)
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// unanswered reports whether an error says nothing about the question: another API server may answer it.
func unanswered(err error) bool {
	var network net.Error // also what *url.Error is
	var status apierrors.APIStatus
	if errors.As(err, &status) && status.Status().Code >= 500 {
		return refusedBy(err) == "" // else it would be the same at every address
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.EOF) || errors.As(err, &network)
}

// Addresses returns the addresses of a cluster's API servers, in the configuration's order.
func (c *Clusters) Addresses(cluster string) ([]string, error) {
	servers, err := c.Servers(cluster)
	out := make([]string, len(servers))
	for i, s := range servers {
		out[i] = s.Address
	}
	return out, err
}

// CA is the PEM of the CA that people's kubeconfigs trust for the cluster, nil if the system's CAs vouch for it.
func (c *Clusters) CA(cluster string) []byte {
	if t := c.targets[cluster]; t != nil {
		return t.peopleCA
	}
	return nil
}

// Way is how people reach the cluster.
func (c *Clusters) Way(cluster string) breakglass.Way {
	if t := c.targets[cluster]; t != nil {
		return t.people
	}
	return breakglass.Way{}
}

func (c *Clusters) target(cluster string) (*target, error) {
	t := c.targets[cluster]
	if t == nil {
		return nil, fmt.Errorf("cluster %s is not in the daemon's configuration", cluster)
	}
	return t, nil
}

// BindingName is the name of every binding that is made for a request.
func BindingName(request string) string { return namePrefix + request }

// meta is the metadata of everything we make for a request.
func (c *Clusters) meta(b breakglass.Binding) metav1.ObjectMeta {
	labels := map[string]string{ManagedByLabel: ManagedBy, RequestLabel: b.Request}
	if c.ledger != "" {
		labels[LedgerLabel] = c.ledger
	}
	return metav1.ObjectMeta{Name: namePrefix + b.Request, Labels: labels,
		Annotations: map[string]string{UntilAnnotation: b.Until.UTC().Format(time.RFC3339)}}
}

func subjects(b breakglass.Binding) []rbacv1.Subject {
	return []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: b.User}}
}

func roleRef(r policy.Rights) rbacv1.RoleRef {
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
	what, err := json.Marshal(b)
	if err != nil {
		return fmt.Errorf("writing down a binding: %w", err)
	}
	return c.pursue(ctx, t, b.Request, string(what), func(ctx context.Context, t *target) error { return c.bindAt(ctx, t, b) })
}

func (c *Clusters) bindAt(ctx context.Context, t *target, b breakglass.Binding) error {
	want := func() *binding {
		return &binding{ObjectMeta: c.meta(b), Subjects: subjects(b), RoleRef: roleRef(b.Rights)}
	}
	if len(b.Rights.Namespaces) == 0 {
		return t.explain("creating a ClusterRoleBinding", c.ensure(ctx, bindings{t, ""}, want()))
	}
	bad := make([]error, len(b.Rights.Namespaces))
	var wait sync.WaitGroup
	for i, ns := range b.Rights.Namespaces { // one namespace that is gone, or hangs, must not keep people out of the others
		wait.Go(func() {
			if err := c.ensure(ctx, bindings{t, ns}, want()); err != nil {
				bad[i] = t.explain("creating a RoleBinding in namespace "+ns, err)
			}
		})
	}
	wait.Wait()
	return errors.Join(bad...)
}

// bindTries is how often an object that is in the way is replaced before giving up: somebody else then keeps making it.
const bindTries = 3

// ensure makes want exist. An object that has its name already is left alone if it is the same; if it is ours and says
// something else, it is deleted (a roleRef cannot be changed) and made again; somebody else's is never touched.
func (c *Clusters) ensure(ctx context.Context, api bindings, want *binding) error {
	for range bindTries {
		err := api.create(ctx, want)
		if !apierrors.IsAlreadyExists(err) {
			return err
		}
		have, err := api.get(ctx, want.Name)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		if have.oursFor(want.Labels[RequestLabel]) && c.another(have) {
			return fmt.Errorf("an object named %s is there already, made by the breakglassd of another ledger (label %s): one cluster's grants "+
				"belong to one daemon", want.Name, LedgerLabel)
		}
		if !have.oursFor(want.Labels[RequestLabel]) {
			return fmt.Errorf("an object named %s is there already and does not carry our labels: look at who made it and delete it", want.Name)
		}
		until := have.Annotations[UntilAnnotation] == want.Annotations[UntilAnnotation]
		if until && reflect.DeepEqual(have.Subjects, want.Subjects) && have.RoleRef == want.RoleRef && have.DeletionTimestamp == nil {
			return nil
		}
		c.log.WarnContext(ctx, "replacing a binding of ours that says something else", slog.String("name", want.Name),
			slog.String("namespace", api.namespace))
		err = api.delete(ctx, have)
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
	}
	return fmt.Errorf("an object named %s that says something else is there again each time it is deleted: find out who makes it, or which "+
		"finalizer keeps it", want.Name)
}

// ours reports whether the object carries the label of what a breakglassd makes.
func (b *binding) ours() bool { return b.Labels[ManagedByLabel] == ManagedBy }

// another reports whether the object is that of a breakglassd with another ledger. Releases before the label wrote none.
func (c *Clusters) another(b *binding) bool {
	label := b.Labels[LedgerLabel]
	return c.ledger != "" && label != "" && label != c.ledger
}

// oursFor reports whether the object carries the labels of what we make for the request.
func (b *binding) oursFor(request string) bool { return b.ours() && b.Labels[RequestLabel] == request }

// Unbind implements breakglass.Binder. It finds what to delete by label, in every namespace, so that nothing is left over
// whatever the profile said when the binding was made. Then it looks through all bindings: labels can be taken off, a finalizer
// keeps a deleted object in force, and a session can have bound its own certificate to something else. Each would let it be said
// that access is cut off while it is not. What a session bound for itself is deleted, unless somebody else would lose by it.
func (c *Clusters) Unbind(ctx context.Context, cluster, request string) error {
	t, err := c.target(cluster)
	if err != nil {
		return err
	}
	return c.pursue(ctx, t, request, "unbind", func(ctx context.Context, t *target) error { return c.unbind(ctx, t, request) })
}

func (c *Clusters) unbind(ctx context.Context, t *target, request string) error {
	var bad []error
	label := url.Values{"labelSelector": {ManagedByLabel + "=" + ManagedBy + "," + RequestLabel + "=" + request}}
	err := t.find(ctx, label, func(page []*binding) {
		bad = append(bad, t.deleteAll(ctx, slices.DeleteFunc(page, c.another))...)
	})
	if err != nil {
		bad = append(bad, t.explain("listing the bindings of "+request, err))
	}
	if len(bad) > 0 {
		return errors.Join(bad...)
	}
	for range bindTries {
		var beside []*binding
		bad = nil
		err = t.find(ctx, url.Values{}, func(page []*binding) {
			for _, o := range page {
				switch {
				case o.Name == namePrefix+request:
					why := "it does not carry our labels, so we do not touch it: look at who changed it and delete it"
					if c.another(o) {
						why = "the breakglassd of another ledger made it: one cluster's grants belong to one daemon"
					} else if o.oursFor(request) {
						why = fmt.Sprintf("it is still there after it was deleted (finalizers %q): take its finalizers off", o.Finalizers)
					}
					bad = append(bad, fmt.Errorf("%s in cluster %s may still give access: %s", o.where(), t.id, why))
				case !o.gives(request):
				case !o.onlyOurs():
					bad = append(bad, fmt.Errorf("%s in cluster %s %s", o.where(), t.id, besideOthers))
				default:
					beside = append(beside, o)
				}
			}
		})
		if err != nil {
			bad = append(bad, t.explain("looking whether the bindings of "+request+" are gone", err))
		}
		if len(beside) == 0 {
			break
		}
		for _, err := range t.deleteAll(ctx, beside) {
			if !apierrors.IsConflict(err) { // changed meanwhile: looked at again
				return errors.Join(append(bad, err)...)
			}
		}
		for _, o := range beside {
			c.log.ErrorContext(ctx, "took away a binding that a session had made for its own certificate", slog.String("cluster", t.id),
				slog.String("request", request), slog.String("binding", o.where()), slog.String("role", o.role()))
			c.note(t.id, request, o.where()+" to "+o.role()+": taken away")
		}
		bad = append(bad, fmt.Errorf("%s in cluster %s is there again each time it is deleted: find out who makes it", beside[0].where(), t.id))
	}
	return errors.Join(bad...)
}

// besideOthers is said of a binding that names a certificate of ours beside somebody else, and so cannot be deleted.
const besideOthers = "names this certificate, was not made by us, and is about others too: take the certificate's user name off it"

// gives reports whether the binding names the certificate of the request.
func (b *binding) gives(request string) bool {
	return slices.ContainsFunc(b.Subjects, func(s rbacv1.Subject) bool {
		return s.Kind == rbacv1.UserKind && strings.HasPrefix(s.Name, policy.CommonNamePrefix) && strings.HasSuffix(s.Name, ":"+request)
	})
}

// onlyOurs reports whether the binding is about nobody but break-glass certificates: then nobody else loses a right with it.
func (b *binding) onlyOurs() bool {
	return len(b.Subjects) > 0 && !slices.ContainsFunc(b.Subjects, func(s rbacv1.Subject) bool {
		return s.Kind != rbacv1.UserKind || !strings.HasPrefix(s.Name, policy.CommonNamePrefix)
	})
}

// role names what the binding gives for a person.
func (b *binding) role() string { return line(b.RoleRef.Kind, 20) + " " + line(b.RoleRef.Name, 100) }

// note remembers what was taken away beside the bindings of a request, for its receipt.
func (c *Clusters) note(cluster, request, what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := cluster + "/" + request
	if !slices.Contains(c.beside[key], what) && len(c.beside[key]) < maxBeside {
		c.beside[key] = append(c.beside[key], what)
	}
}

// maxBeside bounds what is remembered, and said, about one request.
const maxBeside = 20

// deleteAll deletes bindings, all at the same time: a webhook may take its time for each.
func (t *target) deleteAll(ctx context.Context, all []*binding) []error {
	bad := make([]error, len(all))
	var wait sync.WaitGroup
	for i, o := range all {
		wait.Go(func() {
			if err := (bindings{t, o.Namespace}).delete(ctx, o); err != nil && !apierrors.IsNotFound(err) {
				bad[i] = t.explain("deleting the "+o.where(), err)
			}
		})
	}
	wait.Wait()
	return slices.DeleteFunc(bad, func(err error) bool { return err == nil })
}

// Bound implements breakglass.Binder.
func (c *Clusters) Bound(ctx context.Context, cluster string) ([]string, error) {
	t, err := c.target(cluster)
	if err != nil {
		return nil, err
	}
	var ids []string
	err = c.labelled(ctx, t, func(o *binding) {
		if !c.another(o) {
			ids = append(ids, o.Labels[RequestLabel])
		}
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// Strangers implements breakglass.Neighbour.
func (c *Clusters) Strangers(ctx context.Context, cluster string) ([]breakglass.Stranger, error) {
	t, err := c.target(cluster)
	if err != nil || c.ledger == "" {
		return nil, err
	}
	var out []breakglass.Stranger
	err = c.labelled(ctx, t, func(o *binding) {
		if o.Labels[LedgerLabel] != c.ledger && len(out) < maxStrangers {
			out = append(out, breakglass.Stranger{Request: o.Labels[RequestLabel], Binding: o.where(), Ledger: line(o.Labels[LedgerLabel], 63)})
		}
	})
	return out, err
}

// maxStrangers bounds how many bindings of others are told of.
const maxStrangers = 50

// labelled visits every binding with a breakglassd's labels.
func (c *Clusters) labelled(ctx context.Context, t *target, visit func(*binding)) error {
	var all []*binding
	err := t.anyServer(ctx, func(ctx context.Context, t *target) error {
		all = nil
		err := t.find(ctx, url.Values{"labelSelector": {ManagedByLabel + "=" + ManagedBy + "," + RequestLabel}}, func(page []*binding) {
			all = append(all, page...)
		})
		return t.explain("listing our bindings", err)
	})
	if err != nil {
		return err
	}
	for _, o := range all {
		visit(o)
	}
	return nil
}

// find visits the ClusterRoleBindings, and then the RoleBindings of all namespaces, that the query selects. It visits what it has
// before it asks for more, and goes on to the second kind if the first cannot be listed: a cluster that cannot list one kind
// must still lose the bindings of the other.
func (t *target) find(ctx context.Context, query url.Values, visit func([]*binding)) error {
	var bad []error
	for _, kind := range []string{"ClusterRoleBinding", "RoleBinding"} {
		if err := t.pages(ctx, kind, query, visit); err != nil {
			bad = append(bad, err)
		}
	}
	return errors.Join(bad...)
}

func (t *target) pages(ctx context.Context, kind string, query url.Values, visit func([]*binding)) error {
	query = maps.Clone(query)
	query.Set("limit", strconv.Itoa(pageSize))
	for range maxPages {
		var page struct {
			Kind     string          `json:"kind"`
			Metadata metav1.ListMeta `json:"metadata"`
			Items    []*binding      `json:"items"`
		}
		if err := t.call(ctx, t.http, t.many, http.MethodGet, rbacPath+strings.ToLower(kind)+"s?"+query.Encode(), nil, &page); err != nil {
			return err
		}
		if page.Kind != kind+"List" {
			return fmt.Errorf("the answer is not a list of %ss: is this an API server?", kind)
		}
		if len(page.Items) > pageSize || slices.Contains(page.Items, nil) {
			return fmt.Errorf("the answer is not the page of a list of %ss that was asked for", kind)
		}
		visit(page.Items)
		if page.Metadata.Continue == "" {
			return nil
		}
		query.Set("continue", page.Metadata.Continue)
	}
	return fmt.Errorf("there are more than %d %ss, or the list has no end", maxPages*pageSize, kind)
}

// explain turns an API error into a sentence with the next step. The cause stays wrapped for errors.Is and the log.
func (t *target) explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	next := ""
	var certificate *tls.CertificateVerificationError
	var network net.Error
	var status *apierrors.StatusError
	switch {
	case errors.Is(err, context.Canceled):
	case refusedBy(err) != "":
		next = refusedBy(err)
	case apierrors.IsUnauthorized(err):
		next = "the API server does not accept the daemon's credential: has it expired, or was it taken away? " + t.renewal()
	case apierrors.IsForbidden(err):
		next = "the daemon may not do this: apply policies/kubernetes/, and name the ClusterRole there if its profile is new"
	case apierrors.IsNotFound(err) && errors.As(err, &status) && status.ErrStatus.Details != nil &&
		status.ErrStatus.Details.Kind == "namespaces":
		next = "does the namespace exist?"
	case apierrors.IsNotFound(err): // of a role that the daemon may not bind, the API server wants to know what it gives
		next = "does the role exist? Correct its name in the profile, or create it and name it in policies/kubernetes/"
	case errors.As(err, &certificate):
		next = "the API server at " + t.rest.Host + " shows a certificate that the CA in the daemon's kubeconfig does not vouch for: correct " +
			"the address or the CA there"
	case apierrors.IsTimeout(err), apierrors.IsServerTimeout(err), errors.Is(err, context.DeadlineExceeded), errors.Is(err, io.EOF),
		errors.As(err, &network):
		next = "the API server at " + t.rest.Host + " does not answer: is it up, and is there a way to it?"
	}
	if next == "" {
		return fmt.Errorf("%s in cluster %s: %w", doing, t.id, err)
	}
	return fmt.Errorf("%s in cluster %s: %s (%w)", doing, t.id, next, err)
}
