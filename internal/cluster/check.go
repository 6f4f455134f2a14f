package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/breakglassd/breakglass/internal/checkup"
	"github.com/breakglassd/breakglass/internal/cluster/survey"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/residue"
	"github.com/breakglassd/breakglass/internal/text"
)

// needs lists what the daemon must be able to do to give these rights, and to prove that they are gone.
func needs(rights []policy.Rights) []authorizationv1.ResourceAttributes {
	out := []authorizationv1.ResourceAttributes{{Verb: "create", Group: authorizationv1.GroupName, Resource: "subjectaccessreviews"}}
	for _, resource := range []string{"clusterrolebindings", "rolebindings"} {
		for _, verb := range []string{"create", "get", "list", "delete"} {
			out = append(out, authorizationv1.ResourceAttributes{Verb: verb, Group: rbacv1.GroupName, Resource: resource})
		}
	}
	add := func(a authorizationv1.ResourceAttributes) {
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	for _, r := range rights {
		if !r.Binding() {
			continue
		}
		a := authorizationv1.ResourceAttributes{Verb: "bind", Group: rbacv1.GroupName, Resource: "clusterroles", Name: r.ClusterRole}
		if r.Role != "" {
			a.Resource, a.Name = "roles", r.Role
		}
		for _, a.Verb = range []string{"bind", "get"} {
			at := a
			if a.Verb == "get" && a.Resource == "clusterroles" || len(r.Namespaces) == 0 {
				add(at)
				continue
			}
			for _, at.Namespace = range r.Namespaces {
				add(at)
			}
		}
	}
	return out
}

// mayHave lists what the daemon can make use of and does not need: what optional/sweep.yaml gives, and listing the Secrets that
// are credentials.
func mayHave() []authorizationv1.ResourceAttributes {
	var out []authorizationv1.ResourceAttributes
	for _, k := range residue.Kinds() {
		for _, verb := range []string{"get", "list"} {
			if verb == "list" || k.Resource != "secrets" { // the sweep lists metadata of Secrets and never gets one
				out = append(out, authorizationv1.ResourceAttributes{Verb: verb, Group: k.Group, Resource: k.Resource})
			}
		}
	}
	return out
}

// Whoami is the name by which a cluster knows the daemon.
func (c *Clusters) Whoami(ctx context.Context, cluster string) (string, error) {
	t, err := c.target(cluster)
	if err != nil {
		return "", err
	}
	me, err := t.whoAmI(ctx)
	if err != nil {
		return "", t.explain("signing in", err)
	}
	return me.Username, nil
}

// CheckRights asks the API server whether the daemon's credential works and can do what it must and nothing more. rights are
// those that the cluster's profiles give. What is more shows in kube-system and in the namespaces that rights name; what an
// authorization webhook would allow does not show.
func (c *Clusters) CheckRights(ctx context.Context, cluster string, rights []policy.Rights) []checkup.Line {
	t, err := c.target(cluster)
	if err != nil {
		return []checkup.Line{{Level: checkup.Error, Text: err.Error(), Next: "add it under clusters"}}
	}
	me, err := t.whoAmI(ctx)
	if err != nil {
		return []checkup.Line{{Level: checkup.Error, Text: t.explain("signing in", err).Error(),
			Next: "nothing can be bound or cut off there until this works"}}
	}
	name, now := me.Username, time.Now().UTC()
	out := []checkup.Line{{Level: checkup.OK, Text: fmt.Sprintf("cluster %s answers at %s and knows the daemon as %s", cluster, t.rest.Host,
		name)}}
	for _, s := range t.servers {
		if s == t {
			continue
		}
		if _, err := s.whoAmI(ctx); err != nil {
			out = append(out, checkup.Line{Level: checkup.Error, Text: s.explain("signing in at "+s.rest.Host, err).Error(),
				Next: "until this works nobody can prove that this API server refuses a revoked certificate"})
		}
	}
	if until, soon := t.ends(now); soon {
		out = append(out, checkup.Line{Level: checkup.Error, Text: fmt.Sprintf("the daemon's credential in cluster %s ends %s (%s): then "+
			"nothing can be bound or cut off "+
			"there",
			cluster, in(until.Sub(now)), until.UTC().Format(time.RFC3339)), Next: t.renewal()})
	}
	if slices.Contains(me.Groups, "system:masters") {
		out = append(out,
			checkup.Line{Level: checkup.Error, Text: fmt.Sprintf("the daemon is in system:masters in cluster %s: it may do everything, and no "+
				"policy limits it", cluster),
				Next: "give it a credential without that group (policies/kubernetes/README.md)"})
	}
	need := needs(rights)
	for _, a := range need {
		allowed, err := t.mayI(ctx, a)
		if err != nil {
			return append(out, checkup.Line{Level: checkup.Error, Text: t.explain("asking what the daemon may do", err).Error(),
				Next: "run doctor again"})
		}
		if !allowed {
			out = append(out, checkup.Line{Level: checkup.Error, Text: fmt.Sprintf("the daemon may not %s in cluster %s", describe(a), cluster),
				Next: "apply policies/kubernetes/, and name the role there"})
		}
	}
	extra, err := t.extra(ctx, need, rights)
	if err != nil {
		return append(out, checkup.Line{Level: checkup.Error, Text: t.explain("asking what else the daemon may do", err).Error(),
			Next: "run doctor again"})
	}
	if n := len(extra); n > 0 {
		what := strings.Join(extra[:min(n, 10)], ", ")
		if n > 10 {
			what += fmt.Sprintf(" and %d more", n-10)
		}
		out = append(out, checkup.Line{Level: checkup.Error, Text: fmt.Sprintf("the daemon may do in cluster %s what it does not need: %s",
			cluster, what),
			Next: fmt.Sprintf("remove that: policies/kubernetes/ is all it needs. `%s` shows it",
				text.Command("kubectl auth can-i --list --namespace=NAMESPACE", []string{"--as=" + name}))})
	}
	if len(out) == 1 {
		out = append(out, checkup.Line{Level: checkup.OK,
			Text: fmt.Sprintf("the daemon's rights in cluster %s are the %d it needs and no others", cluster,
				len(need))})
	}
	return out
}

// CheckGroups finds out whether anything is bound to the groups that group-mode profiles give: a certificate of one that is bound to
// nothing is issued, accepted, and opens nothing.
func (c *Clusters) CheckGroups(ctx context.Context, cluster string, rights []policy.Rights) []checkup.Line {
	t, err := c.target(cluster)
	if err != nil {
		return []checkup.Line{{Level: checkup.Error, Text: err.Error(), Next: "add it under clusters"}}
	}
	bound := map[string]string{} // group → what is bound to it
	for _, r := range rights {
		if r.Group != "" {
			bound[r.Group] = ""
		}
	}
	if len(bound) == 0 {
		return nil
	}
	err = t.find(ctx, url.Values{}, func(page []*binding) {
		for _, o := range page {
			for _, s := range o.Subjects {
				if before, asked := bound[s.Name]; asked && before == "" && s.Kind == rbacv1.GroupKind {
					bound[s.Name] = o.where() + " to " + o.role()
				}
			}
		}
	})
	var out []checkup.Line
	for _, group := range slices.Sorted(maps.Keys(bound)) {
		switch what := bound[group]; {
		case what != "":
			out = append(out, checkup.Line{Level: checkup.OK, Text: fmt.Sprintf("group %s is bound in cluster %s: %s", group, cluster, what)})
		case err != nil:
			out = append(out, checkup.Line{Level: checkup.Error, Text: fmt.Sprintf("whether anything is bound to group %s in cluster %s cannot be "+
				"told: %s", group, cluster,
				t.explain("listing the bindings", err)), Next: "run doctor again"})
		default:
			out = append(out, checkup.Line{Level: checkup.Error, Text: fmt.Sprintf("nothing is bound to group %s in cluster %s: a certificate of "+
				"a profile with this group is "+
				"signed, and opens nothing", group, cluster),
				Next: "bind it by a ClusterRoleBinding, as policies/kubernetes/optional/group-mode.yaml does for its group, or correct the profile's " +
					"group; a cluster that gives it rights by another authorizer than RBAC does not show that here"})
		}
	}
	return out
}

// lifetime is when the daemon's token or certificate began and when it ends; zero times if it does not say, like a token that
// never expires. Files are read again, as client-go reads them.
func (t *target) lifetime() (from, until time.Time) {
	token := t.rest.BearerToken
	if text, err := os.ReadFile(t.rest.BearerTokenFile); err == nil {
		token = string(text)
	}
	// A token is believed about its end only: whether it is good is for the API server to say, and it just did.
	if parts := strings.Split(token, "."); len(parts) == 3 {
		var claims struct{ Iat, Exp int64 }
		if text, err := base64.RawURLEncoding.DecodeString(parts[1]); err == nil && json.Unmarshal(text, &claims) == nil && claims.Exp > 0 {
			return time.Unix(claims.Iat, 0), time.Unix(claims.Exp, 0)
		}
	}
	loaded := rest.CopyConfig(t.rest)
	if token != "" || rest.LoadTLSFiles(loaded) != nil {
		return from, until
	}
	if pair, err := tls.X509KeyPair(loaded.CertData, loaded.KeyData); err == nil {
		return pair.Leaf.NotBefore, pair.Leaf.NotAfter
	}
	return from, until
}

// written reports whether the credential stands in the kubeconfig itself. Nothing renews such a one, and the daemon reads it once.
func (t *target) written() bool {
	if t.rest.BearerTokenFile != "" {
		return false
	}
	return t.rest.BearerToken != "" || t.rest.CertFile == ""
}

// renewal is what to do about a credential that is of no use any more, or soon.
func (t *target) renewal() string {
	if t.written() {
		return "put a new one into its kubeconfig (policies/kubernetes/README.md) and restart breakglassd"
	}
	file := t.rest.BearerTokenFile
	if file == "" {
		file = t.rest.CertFile
	}
	return "put a new one into " + file + " (policies/kubernetes/README.md), or see why what does that does not: it is read again within " +
		"a minute"
}

// ends is when the daemon's credential ends, and whether it has so little time left that a person should act: less than 30 days,
// but of one in a file, which something may renew more often than that, less than a quarter of its life.
func (t *target) ends(now time.Time) (until time.Time, soon bool) {
	from, until := t.lifetime()
	if until.IsZero() {
		return until, false
	}
	enough := 30 * 24 * time.Hour
	if !t.written() {
		enough = min(enough, until.Sub(from)/4)
	}
	return until, until.Sub(now) < enough
}

// in says a time from now for a person.
func in(d time.Duration) string {
	switch {
	case d <= 0:
		return "now"
	case d < 2*time.Hour:
		return fmt.Sprintf("in %d minutes", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("in %d hours", d/time.Hour)
	}
	return fmt.Sprintf("in %d days", d/(24*time.Hour))
}

// CredentialEnds is when the daemon's credential in a cluster ends, zero if it does not say, and whether that is so soon that a person
// should act.
func (c *Clusters) CredentialEnds(cluster string) (until time.Time, soon bool, err error) {
	t, err := c.target(cluster)
	if err != nil {
		return time.Time{}, false, err
	}
	until, soon = t.ends(time.Now())
	return until, soon, nil
}

// Able implements breakglass.Able. A credential that has ended is of no use even while an API server still takes it: what is bound
// with it could not be taken away.
func (c *Clusters) Able(ctx context.Context, cluster string) error {
	t, err := c.target(cluster)
	if err != nil {
		return err
	}
	if _, until := t.lifetime(); !until.IsZero() && !time.Now().Before(until) {
		return fmt.Errorf("the daemon's credential in cluster %s has ended at %s: %s", cluster, until.UTC().Format(time.RFC3339), t.renewal())
	}
	// The cheapest question that needs a good credential: with a bad one it is refused too, although everybody may ask it.
	err = t.anyServer(ctx, func(ctx context.Context, at *target) error {
		_, err := at.get(ctx, "/version", acceptJSON, maxAnswer)
		return err
	})
	if !apierrors.IsUnauthorized(err) {
		return nil // any other answer is one about the question, and silence says nothing
	}
	return t.explain("signing in", err)
}

// extra lists what the daemon may do beyond need, in kube-system and the namespaces of rights.
func (t *target) extra(ctx context.Context, need []authorizationv1.ResourceAttributes, rights []policy.Rights) ([]string, error) {
	known := map[authorizationv1.ResourceAttributes]bool{
		// Kubernetes gives every account, or every service account, these.
		{Verb: "create", Group: "authentication.k8s.io", Resource: "selfsubjectreviews"}:      true,
		{Verb: "create", Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"}: true,
		{Verb: "create", Group: "authorization.k8s.io", Resource: "selfsubjectrulesreviews"}:  true,
		{Verb: "get", Group: "certificates.k8s.io", Resource: "clustertrustbundles"}:          true,
		{Verb: "list", Group: "certificates.k8s.io", Resource: "clustertrustbundles"}:         true,
		{Verb: "watch", Group: "certificates.k8s.io", Resource: "clustertrustbundles"}:        true,
	}
	for _, a := range append(mayHave(), need...) {
		a.Namespace = ""
		known[a] = true
	}
	namespaces := []string{metav1.NamespaceSystem}
	for _, r := range rights {
		namespaces = append(namespaces, r.Namespaces...)
	}
	slices.Sort(namespaces)
	var out []string
	for _, ns := range slices.Compact(namespaces) {
		rules, err := t.myRules(ctx, ns)
		if err != nil {
			return nil, err
		}
		for _, a := range expand(rules) {
			all := a
			all.Name = "" // a right to all of them covers the right to one
			if !known[a] && !known[all] {
				known[a] = true
				out = append(out, describe(a))
			}
		}
	}
	return out, nil
}

// expand writes rules out as single rights: one verb on one resource, or on one object of it.
func expand(rules []authorizationv1.ResourceRule) []authorizationv1.ResourceAttributes {
	var out []authorizationv1.ResourceAttributes
	for _, r := range rules {
		names := r.ResourceNames
		if len(names) == 0 {
			names = []string{""}
		}
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				for _, name := range names {
					for _, verb := range r.Verbs {
						out = append(out, authorizationv1.ResourceAttributes{Group: group, Resource: resource, Name: name, Verb: verb})
					}
				}
			}
		}
	}
	return out
}

// describe says a right as kubectl auth can-i would ask for it.
func describe(a authorizationv1.ResourceAttributes) string {
	what := a.Verb + " " + a.Resource
	if a.Group != "" {
		what += "." + a.Group
	}
	if a.Name != "" {
		what += "/" + a.Name
	}
	if a.Namespace != "" {
		what += " in namespace " + a.Namespace
	}
	return what
}

// TrustsCA reports whether the API server lists the CA among those whose client certificates it takes, as it tells every
// client in the TLS handshake, without any credential. names is everything it lists. The handshake names CAs by their subject
// only: two CAs of the same name look the same here.
func (c *Clusters) TrustsCA(ctx context.Context, cluster string, ca *x509.Certificate) (trusted bool, names []string, err error) {
	t, err := c.target(cluster)
	if err != nil {
		return false, nil, err
	}
	host, err := hostOf(t.rest.Host)
	if err != nil {
		return false, nil, err
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.rest.ServerName}
	if len(t.serverCA) > 0 {
		conf.RootCAs = x509.NewCertPool()
		conf.RootCAs.AppendCertsFromPEM(t.serverCA)
	}
	ctx, cancel := context.WithTimeout(ctx, t.rest.Timeout)
	defer cancel()
	_, raw, err := shake(ctx, t.rest, host, conf)
	if err != nil {
		return false, nil, t.explain("shaking hands", err)
	}
	for _, name := range raw {
		names = append(names, survey.DistinguishedName(name))
		trusted = trusted || string(name) == string(ca.RawSubject)
	}
	return trusted, names, nil
}
