package doors

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/controlplane"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/text"
)

// doors judges every way into the cluster, in the order in which they are shown.
func (j *judge) doors() []Door {
	var out []Door
	for _, d := range []Door{
		j.clientCA(), j.firstUser(), j.csrs(), j.accountTokens(), j.bootstrapTokens(), j.staticTokens(), j.oidc(), j.webhookTokens(),
		j.requestHeader(),
		j.impersonation(), j.anonymous(), j.kubelet(), j.controlPlane(), j.kubeProxy(), j.etcd(), j.authorization(), j.extensions(),
		j.platform(),
	} {
		for _, program := range flagged[d.ID] {
			why := j.hidden(program)
			if why == "" {
				continue
			}
			if d.State == Absent {
				d.State = CannotTell
			}
			if !j.asked[d.ID] {
				j.asked[d.ID] = true
				d.Tellable = strings.TrimSuffix(giveManifest+"; "+d.Tellable, "; ")
			}
			d.saw("%s", why)
		}
		d.Risk = inventory.Info
		for _, i := range d.Items {
			d.Risk = inventory.Worst(d.Risk, i.Risk)
		}
		out = append(out, d)
	}
	return out
}

// flagged are the doors that are absent only if every one of these programs says so on its command line. What an unseen one has
// is not told where another has the door, either.
var flagged = map[string][]string{DoorStaticTokens: {"kube-apiserver"}, DoorOIDC: {"kube-apiserver"}, DoorWebhook: {"kube-apiserver"},
	DoorAuthorization: {"kube-apiserver"},
	DoorControlPlane:  {"kube-controller-manager", "kube-scheduler"}, DoorEtcd: {"etcd"}}

// hidden says why some of the programs of a name may run with a command line that was not seen; empty if all were.
func (j *judge) hidden(program string) string {
	seen, given, blurred := map[string]bool{}, false, ""
	for _, c := range j.components(program) {
		given = given || c.Given
		if c.Blind != "" && (c.Given || c.Node != "") {
			blurred = cmp.Or(blurred, fmt.Sprintf("the command line of %s in %s was not understood whole: %s", program, c.Where, c.Blind))
		}
		if c.Node != "" {
			seen[c.Node] = true
		}
	}
	var blind []string
	for _, n := range j.s.Nodes {
		if n.ControlPlane && !seen[n.Name] {
			blind = append(blind, text.Name(n.Name))
		}
	}
	switch {
	case blurred != "":
		return blurred
	case given: // that there are no others, the operator who gave it answers for
		return ""
	case len(seen) == 0:
		return "no static pod shows the command line of " + program + ", and any user who may create pods there can make one that looks like it"
	case len(blind) > 0:
		return fmt.Sprintf("on %d control-plane nodes no static pod shows the command line of %s: %s", len(blind), program,
			inventory.Few(blind, 3))
	}
	return ""
}

// put adds an item to a door, or where to one that is there already: three API servers with the same flag are one item.
func (j *judge) put(d *Door, where string, i DoorItem) {
	where, i.Title, i.Text = text.Exact(where), text.Exact(i.Title), text.Exact(i.Text) // whatever stands in them
	if n, ok := j.places[[2]string{d.ID, i.ID}]; ok {
		d.Items[n].Text += "; " + where
		return
	}
	if j.places == nil {
		j.places = map[[2]string]int{}
	}
	j.places[[2]string{d.ID, i.ID}] = len(d.Items)
	i.Text = strings.TrimSpace(i.Text + " Seen in: " + where)
	d.Items = append(d.Items, i)
}

func (d *Door) saw(format string, args ...any) {
	d.Evidence = append(d.Evidence, text.Exact(fmt.Sprintf(format, args...)))
}

// lacking is what to say about sources that could not be read.
func (j *judge) lacking(names ...string) (evidence, tellable string) {
	var e, t []string
	for _, name := range names {
		if src := j.s.Source(name); src.Missing != "" {
			e = append(e, name+": "+src.Missing)
			if src.Right != "" {
				t = append(t, src.Right)
			}
		}
	}
	if len(t) > 0 {
		tellable = "give the scan the right to " + strings.Join(t, ", and to ")
	}
	return strings.Join(e, "; "), tellable
}

// components are the programs of a name whose command line is known.
func (j *judge) components(name string) []controlplane.Component {
	var out []controlplane.Component
	for _, c := range j.s.Components {
		if c.Name == name {
			out = append(out, c)
		}
	}
	return out
}

// The keys and flags that texts of tellable parts name; a test holds them against the daemon's.
const (
	GivenHow                = "(scan_files of the cluster in the daemon's configuration, or breakglassd scan --given FILE)"
	AuthenticationConfigHow = "(authentication_config_file of the cluster in the daemon's configuration, or breakglassd scan " +
		"--authentication-config FILE)"
)

const giveManifest = "let the scan read pods in kube-system, if the control plane runs there, or give it the manifests or command lines " +
	"of the control plane " + GivenHow

// unseen is the door of a program whose command line is not known.
func (j *judge) unseen(d Door, program string) Door {
	d.State, d.Tellable = CannotTell, giveManifest
	j.asked[d.ID] = true
	d.saw("no pod in kube-system and no given file shows the command line of %s", program)
	if e, _ := j.lacking(inventory.SourcePods); e != "" {
		d.saw("%s", e)
	}
	return d
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

func (j *judge) clientCA() Door {
	d := Door{ID: DoorClientCA, Title: "X.509 client certificates",
		Advice: "know who holds the key of each CA; remove those that are not needed from --client-ca-file"}
	auth := j.s.Authentication
	if !j.s.Read(inventory.SourceAuthentication) {
		e, t := j.lacking(inventory.SourceAuthentication)
		d.saw("%s", e)
		d.Tellable = t
		if !j.s.Read(inventory.SourceHandshake) {
			d.State = CannotTell
			return d
		}
		d.saw("the TLS handshake names %d CAs, by their subjects alone; those of the authenticating proxy are among them",
			len(j.s.Server.ClientCAs))
		d.State = Absent
		for _, name := range j.s.Server.ClientCAs {
			d.State = Present
			j.put(&d, "the TLS handshake", DoorItem{ID: inventory.Digest("handshake", name), Title: "a CA named " + text.Name(name) +
				" may sign client certificates",
				Risk: inventory.Info})
		}
		return d
	}
	d.saw("ConfigMap kube-system/extension-apiserver-authentication holds %d CAs for client certificates", len(auth.ClientCAs))
	if len(auth.ClientCAs) == 0 {
		d.State = Absent
		return d
	}
	d.State = Present
	theirs := 0
	for _, ca := range auth.ClientCAs {
		if !j.ours(ca) {
			theirs++
		}
	}
	for _, ca := range auth.ClientCAs {
		until := ca.NotAfter
		i := DoorItem{ID: ca.Fingerprint, Title: fmt.Sprintf("CA %s may sign client certificates until %s (%s)", text.Name(ca.Subject),
			day(ca.NotAfter), ca.Key), Risk: inventory.Info,
			Until: &until, Grants: []string{"any user and group by a certificate"},
			Advice: "remove it from the file that --client-ca-file names if it is not needed"}
		switch {
		case j.ours(ca):
			i.Expected, i.Why = true, "is the break-glass CA"
		case ca.Fingerprint == j.s.Server.CAFingerprint || theirs == 1:
			i.Expected, i.Why = true, "is the cluster's own CA"
		default:
			i.Risk, i.Admin, i.Text = inventory.Medium, true, "It is neither the cluster's own CA nor this daemon's: the holder of its key can be "+
				"any user."
		}
		j.caProblems(&i, ca)
		if j.s.Read(inventory.SourceHandshake) && len(j.s.Server.ClientCAs) > 0 && !slices.Contains(j.s.Server.ClientCAs, ca.Subject) {
			i.Risk, i.Expected = inventory.Worst(i.Risk, inventory.Medium), false
			i.Text = strings.TrimSpace(i.Text + " The API server no longer accepts it, but what reads this ConfigMap (scheduler, " +
				"controller manager, extension API servers) may.")
			i.Advice = "delete the ConfigMap, which the API server makes again, and restart the extension API servers"
		}
		j.put(&d, "extension-apiserver-authentication", i)
	}
	return d
}

func (j *judge) ours(ca inventory.CA) bool {
	return slices.Contains(j.o.OurCAs, ca.Fingerprint) || slices.Contains(j.o.OurCAs, ca.KeyID)
}

// caProblems adds what is wrong with a CA as such.
func (j *judge) caProblems(i *DoorItem, ca inventory.CA) {
	add := func(s inventory.Severity, text string) {
		i.Risk, i.Expected = inventory.Worst(i.Risk, s), false
		i.Text = strings.TrimSpace(i.Text + " " + text)
	}
	switch {
	case !j.o.Now.Before(ca.NotAfter):
		add(inventory.Low, "It has expired: it no longer works and can be removed.")
	case ca.NotAfter.Sub(j.o.Now) < 30*24*time.Hour && ca.NotAfter.Sub(ca.NotBefore) > 90*24*time.Hour:
		add(inventory.Medium, "It expires within 30 days: then no certificate of it works.")
	}
	if bits, ok := strings.CutPrefix(ca.Key, "RSA "); ok {
		if n, err := strconv.Atoi(bits); err == nil && n < 2048 {
			add(inventory.High, "Its key is shorter than 2048 bits.")
		}
	}
	if strings.Contains(ca.Signature, "SHA1") || strings.Contains(ca.Signature, "MD5") {
		add(inventory.Low, "It is signed with "+ca.Signature+".")
	}
	if ca.NotAfter.Sub(ca.NotBefore) > 11*365*24*time.Hour {
		add(inventory.Low, "It is valid for more than eleven years; kubeadm's is valid for ten.")
	}
	if !ca.IsCA {
		add(inventory.Medium, "It is not marked as a CA: one certificate is pinned here, and its holder gets in.")
	}
}

// installers are the names that installers give to the first user.
var installers = map[inventory.Subject]string{
	{Kind: inventory.Group, Name: "kubeadm:cluster-admins"}:                        "That is whom kubeadm puts into admin.conf",
	{Kind: inventory.User, Name: "kubernetes-admin"}:                               "The user of kubeadm's admin.conf",
	{Kind: inventory.User, Name: "kubernetes-super-admin"}:                         "The user of kubeadm's super-admin.conf",
	{Kind: inventory.User, Name: "masterclient"}:                                   "The user of AKS local accounts",
	{Kind: inventory.User, Name: "kube-admin"}:                                     "The user of RKE",
	{Kind: inventory.User, Name: "system:admin"}:                                   "The user of k3s and OpenShift installers",
	{Kind: inventory.User, Name: "minikube-user"}:                                  "The user of minikube",
	{Kind: inventory.User, Name: "kubecfg"}:                                        "The user of kops",
	{Kind: inventory.User, Name: "client"}:                                         "The user of GKE client certificates",
	{Kind: inventory.Group, Name: "system:cluster-admins"}:                         "The group of OpenShift's administrators",
	{Kind: inventory.ServiceAccount, Namespace: "kube-system", Name: "admin-user"}: "The account that dashboards are opened with",
}

func (j *judge) firstUser() Door {
	d := Door{ID: DoorFirstUser, Title: "the installer's first user", State: CannotTell,
		Advice: "know where every copy of admin.conf and super-admin.conf is; seal them; once another way is proven, delete the binding",
		Tellable: "a certificate of system:masters needs no binding and leaves no object: look for its use in the audit log, and for the file " +
			"where the cluster was made"}
	if !j.s.Read(inventory.SourceClusterBindings) {
		e, t := j.lacking(inventory.SourceClusterBindings)
		d.saw("%s", e)
		d.Tellable = t + "; " + d.Tellable
		return d
	}
	d.saw("%d ClusterRoleBindings and %d RoleBindings were searched for the names that installers use", len(j.s.ClusterBindings),
		len(j.s.Bindings))
	for _, bindings := range [][]inventory.Binding{j.s.ClusterBindings, j.s.Bindings} {
		for n := range bindings {
			b := &bindings[n]
			for _, s := range b.Subjects {
				why, known := installers[inventory.Normal(s)]
				masters := s.Kind == inventory.Group && s.Name == inventory.MastersGroup && b.Name != "cluster-admin"
				if !known && !masters {
					continue
				}
				i := DoorItem{ID: inventory.Digest(b.Ref().String(), s.String()), Title: fmt.Sprintf("%s gives %s to %s", b.Ref(),
					text.Name(b.RoleName), s),
					Risk: inventory.High, Text: why + ".",
					Grants: []string{b.RoleKind + " " + b.RoleName}, TakeAway: inventory.RemoveSubject(b,
						s), People: userOf(s), Groups: groupOf(s), Admin: b.Namespace == "" &&
						b.RoleName == "cluster-admin"}
				if masters {
					i.Risk, i.Admin, i.Text = inventory.Low, false, "The group has everything without it; a binding suggests that it is in use."
				} else {
					d.State = Present
				}
				if s.Kind == inventory.Group && b.Namespace == "" && b.Name == "kubeadm:cluster-admins" && s.Name == b.Name &&
					b.RoleName == "cluster-admin" {
					i.Expected, i.Why = true, "kubeadm makes it"
				}
				j.put(&d, b.Ref().String(), i)
			}
		}
	}
	return d
}

const apiserverClient = "kubernetes.io/kube-apiserver-client"

func (j *judge) csrs() Door {
	d := Door{ID: DoorCSR, Title: "client certificates through the CSR API",
		Advice: "let reviewers alone approve for " + apiserverClient + "; nothing revokes such a certificate: remove what its " +
			"user and groups are bound to"}
	if j.s.Read(inventory.SourceCSRs) {
		d.saw("%d CertificateSigningRequests are there; Kubernetes deletes them an hour after they were signed, and after a day at the latest",
			len(j.s.CSRs))
	} else {
		e, t := j.lacking(inventory.SourceCSRs)
		d.saw("%s", e)
		d.Tellable = t
	}
	for _, c := range j.s.CSRs {
		kubelets := c.Signer == apiserverClient+"-kubelet"
		byNode := strings.HasPrefix(c.Requester, "system:node:") || strings.HasPrefix(c.Requester, "system:bootstrap:")
		if c.Signer != apiserverClient && (!kubelets || byNode) || c.Denied || c.Expires != nil && !j.o.Now.Before(*c.Expires) {
			continue
		}
		i := DoorItem{ID: c.Name, Until: c.Expires, Risk: inventory.Medium, Grants: []string{"user " + c.Subject},
			Text: fmt.Sprintf("Asked for by %s.", text.Name(c.Requester)), People: []string{c.Subject, c.Requester}, Groups: c.Groups,
			Admin: slices.Contains(c.Groups, inventory.MastersGroup),
			Advice: "it cannot be revoked: remove the bindings of its user and groups, or " +
				"change the CA"}
		subjects := []inventory.Subject{{Kind: inventory.User, Name: c.Subject}}
		for _, g := range c.Groups {
			i.Grants = append(i.Grants, "group "+g)
			subjects = append(subjects, inventory.Subject{Kind: inventory.Group, Name: g})
		}
		slices.Sort(i.Grants)
		for _, p := range j.powers {
			if slices.Contains(subjects, p.Subject) {
				i.Risk = inventory.Worst(i.Risk, p.Severity)
			}
		}
		who := "user " + text.Name(c.Subject)
		if len(c.Groups) > 0 {
			who += " in groups " + text.Name(strings.Join(c.Groups, ", "))
		}
		switch {
		case c.Issued:
			i.Title = fmt.Sprintf("CertificateSigningRequest %s was signed for %s", text.Name(c.Name), who)
			if c.Expires != nil {
				i.Title += " until " + c.Expires.UTC().Format(time.RFC3339)
			}
		case c.Approved:
			i.Title = fmt.Sprintf("CertificateSigningRequest %s is approved for %s", text.Name(c.Name), who)
		default:
			i.Title, i.Risk = fmt.Sprintf("CertificateSigningRequest %s asks for %s", text.Name(c.Name), who), inventory.Low
			i.TakeAway, i.Advice = inventory.Kubectl("certificate deny", inventory.Ref{Name: c.Name}), ""
		}
		if c.Approval != "" {
			i.Text += " Approval says: " + text.Name(c.Approval) + "."
		}
		d.State = Present
		j.put(&d, "CertificateSigningRequest "+text.Name(c.Name), i)
	}
	signs, managers := false, j.components("kube-controller-manager")
	for _, c := range managers {
		_, all := c.Flag("cluster-signing-cert-file")
		_, client := c.Flag("cluster-signing-kube-apiserver-client-cert-file")
		signs = signs || all || client
		if text, ok := c.Flag("cluster-signing-duration"); ok {
			if t, err := time.ParseDuration(text); err == nil && t > 366*24*time.Hour {
				j.put(&d, c.Where, DoorItem{ID: "duration", Title: "certificates through the CSR API may be valid for " + text, Risk: inventory.Medium,
					Advice: "set --cluster-signing-duration to days"})
			}
		}
	}
	var approvers []string
	for _, p := range j.powers {
		if !p.Expected && slices.ContainsFunc(p.Rights, func(r string) bool { return strings.HasPrefix(r, "csr-approve") }) {
			approvers = append(approvers, p.Subject.String())
		}
	}
	d.saw("besides those who may do everything, %d may approve: %s", len(approvers), inventory.Few(approvers, 5))
	switch {
	case d.State == Present:
	case len(managers) > 0 && !signs && j.hidden("kube-controller-manager") == "":
		d.State = Absent
		d.saw("the controller manager has no CA to sign with (%s)", managers[0].Where)
	default:
		d.State = CannotTell
	}
	if d.State != Absent {
		d.Tellable = strings.TrimPrefix(d.Tellable+"; certificates that were signed earlier, and who approved them, are in the audit log only "+
			"(writes to certificatesigningrequests/approval)", "; ")
	}
	return d
}

func (j *judge) accountTokens() Door {
	const bound = "tokens that were asked for (bound tokens, each pod's among them) are in no object: creates of serviceaccounts/token in " +
		"the audit log show them"
	d := Door{ID: DoorSATokens, Title: "service-account tokens", State: CannotTell, Tellable: bound,
		Advice: "delete tokens that never expire; let programs use projected tokens, which end with their pod"}
	powers := map[inventory.Subject]inventory.Severity{}
	for _, p := range j.powers {
		powers[p.Subject] = p.Severity
	}
	if j.s.Read(inventory.SourceTokenSecrets) {
		d.saw("%d Secrets of type kubernetes.io/service-account-token are there", len(j.s.TokenSecrets))
	} else {
		e, t := j.lacking(inventory.SourceTokenSecrets)
		d.saw("%s", e)
		if t != "" {
			d.Tellable = t + ", which is the right to read their contents too: RBAC knows no right to see only that they are there; " + bound
		}
		for _, acc := range j.s.Accounts {
			for _, name := range acc.Secrets {
				d.State = Present
				j.put(&d, "service account "+acc.Namespace+"/"+acc.Name, DoorItem{ID: acc.Namespace + "/" + name, Risk: inventory.Medium,
					Title: fmt.Sprintf("Secret %s/%s may hold a token of service account %s that never expires", text.Name(acc.Namespace), text.Name(name),
						text.Name(acc.Name)),
					TakeAway: inventory.Kubectl("delete", inventory.Ref{Kind: "Secret", Namespace: acc.Namespace, Name: name})})
			}
		}
	}
	if j.s.TrackingSince != "" {
		d.saw("Kubernetes records their use since %s", j.s.TrackingSince)
	}
	for _, t := range j.s.TokenSecrets {
		sub := inventory.Subject{Kind: inventory.ServiceAccount, Namespace: t.Namespace, Name: t.Account}
		i := DoorItem{ID: t.Namespace + "/" + t.Name, Title: fmt.Sprintf("Secret %s/%s is a token of %s that never expires",
			text.Name(t.Namespace),
			text.Name(t.Name), sub),
			Risk: inventory.Worst(inventory.Medium, powers[sub]), Grants: []string{sub.String()},
			TakeAway: inventory.Kubectl("delete", inventory.Ref{Kind: "Secret",
				Namespace: t.Namespace, Name: t.Name}),
			Text: "It was made on " + day(t.Created) + ". A reader of it can use it for ever.", Orphan: j.rbac.Missing(sub)}
		if used, err := time.Parse(time.DateOnly, t.LastUsed); err == nil {
			i.Used = &used
			i.Text += " It was last used on " + t.LastUsed + "."
		}
		if t.Invalid != "" || i.Orphan {
			i.Risk = inventory.Low
			i.Text += " It does not work now."
		}
		d.State = Present
		j.put(&d, "Secret "+t.Namespace+"/"+t.Name, i)
	}
	var makers []string
	for _, p := range j.powers {
		if !p.Expected && slices.ContainsFunc(p.Rights, func(r string) bool { return strings.HasPrefix(r, "token-") }) {
			makers = append(makers, p.Subject.String())
		}
	}
	d.saw("besides those who may do everything, %d may make tokens: %s", len(makers), inventory.Few(makers, 5))
	d.saw("which tokens were asked for, and how long they are valid, is in the audit log only (creates of serviceaccounts/token)")
	for _, c := range j.components("kube-apiserver") {
		if !c.On("service-account-lookup", true) {
			j.put(&d, c.Where, DoorItem{ID: "lookup",
				Title: "tokens of deleted service accounts and Secrets still work (--service-account-lookup=false)", Risk: inventory.High,
				Advice: "remove the flag"})
		}
		if text, ok := c.Flag("service-account-max-token-expiration"); ok {
			if t, err := time.ParseDuration(text); err == nil && t > 366*24*time.Hour {
				j.put(&d, c.Where, DoorItem{ID: "max", Title: "tokens may be asked for that are valid for " + text, Risk: inventory.Medium,
					Advice: "lower --service-account-max-token-expiration"})
			}
		}
		if issuers := c.Flags["service-account-issuer"]; len(issuers) > 1 {
			j.put(&d, c.Where, DoorItem{ID: "issuers", Title: fmt.Sprintf("tokens of %d issuers are accepted: %s", len(issuers),
				strings.Join(issuers, ", ")), Risk: inventory.Low,
				Text:   "All but the first are from before a change and should end.",
				Advice: "remove the old --service-account-issuer once its tokens have expired"})
		}
	}
	if j.s.Issuer.Issuer != "" {
		d.saw("tokens are issued by %s", j.s.Issuer.Issuer)
	}
	return d
}

func (j *judge) bootstrapTokens() Door {
	d := Door{ID: DoorBootstrap, Title: "bootstrap tokens", State: Absent,
		Advice: "delete tokens once the nodes have joined; make them with a lifetime of hours"}
	unseen := j.hidden("kube-apiserver")
	accepts := ""
	for _, c := range j.components("kube-apiserver") {
		if c.On("enable-bootstrap-token-auth", false) {
			accepts = c.Where
		}
	}
	enabled := accepts != "" || unseen != ""
	read := j.s.Read(inventory.SourceBootstrap)
	if read {
		d.saw("%d Secrets of type bootstrap.kubernetes.io/token are in kube-system", len(j.s.BootstrapTokens))
	} else {
		e, t := j.lacking(inventory.SourceBootstrap)
		d.saw("%s", e)
		d.Tellable = t + " in kube-system, which is the right to read the tokens themselves: their lifetime is in the data of the Secret"
	}
	switch {
	case accepts != "":
		d.saw("the API server accepts them (--enable-bootstrap-token-auth in %s)", accepts)
	case unseen != "":
		d.saw("whether the API server accepts them (--enable-bootstrap-token-auth) is not known: %s", unseen)
	default:
		d.saw("no API server accepts them (none has --enable-bootstrap-token-auth)")
		d.Tellable = ""
	}
	if !read && enabled {
		d.State = CannotTell
	}
	for _, t := range j.s.BootstrapTokens {
		i := DoorItem{ID: t.ID, Until: t.Expires, Risk: inventory.Medium, Title: "bootstrap token " + text.Name(t.ID),
			Grants: []string{"system:bootstrappers"},
			TakeAway: inventory.Kubectl("delete", inventory.Ref{Kind: "Secret", Namespace: inventory.SystemNamespace, Name: "bootstrap-token-" +
				t.ID})}
		i.Grants = append(i.Grants, t.Groups...)
		slices.Sort(i.Grants)
		dead := t.Expires != nil && !j.o.Now.Before(*t.Expires)
		switch {
		case dead:
			i.Risk, i.Title = inventory.Info, i.Title+" has expired"
		case !enabled || !t.Authentication:
			i.Risk, i.Title = inventory.Info, i.Title+" is there and cannot be signed in with"
		case t.Expires == nil:
			i.Risk, i.Title = inventory.High, i.Title+" never expires"
			i.Text = "Its holder can have a node's certificate signed, and then read what that node may read."
		case t.Expires.Sub(j.o.Now) > 48*time.Hour:
			i.Title += " is valid until " + day(*t.Expires)
		default:
			i.Risk, i.Title = inventory.Low, i.Title+" is valid until "+t.Expires.UTC().Format(time.RFC3339)
		}
		for _, g := range t.Groups {
			if i.Risk != inventory.Info {
				i.Risk = inventory.Worst(i.Risk, j.rbac.Worst(inventory.Subject{Kind: inventory.Group, Name: g}))
			}
		}
		if i.Risk != inventory.Info {
			d.State = Present
		}
		j.put(&d, "Secret kube-system/bootstrap-token-"+t.ID, i)
	}
	return d
}

func (j *judge) staticTokens() Door {
	d := Door{ID: DoorStaticTokens, Title: "static token file and basic auth", State: Absent,
		Advice: "remove --token-auth-file: its tokens never expire, and taking one back needs a restart of the API server"}
	api := j.components("kube-apiserver")
	if len(api) == 0 {
		return j.unseen(d, "kube-apiserver")
	}
	for _, c := range api {
		d.saw("command line of %s", c.Where)
		if file, ok := c.Flag("token-auth-file"); ok && file != "" {
			d.State = Present
			j.put(&d, c.Where, DoorItem{ID: "token:" + file, Title: "tokens in the file " + text.Name(file) + " sign in as whom the file says",
				Risk:  inventory.High,
				Admin: true, Advice: d.Advice,
				Text: "A writer or reader of the file can be any user in it, system:masters included. Who is in it is not visible from " +
					"outside: review the file."})
		}
		if file, ok := c.Flag("basic-auth-file"); ok && file != "" {
			d.State = Present
			j.put(&d, c.Where, DoorItem{ID: "basic:" + file, Title: "passwords in the file " + text.Name(file) + " sign in as whom the file says",
				Risk: inventory.High, Admin: true, Advice: "remove --basic-auth-file, which Kubernetes 1.19 gave up"})
		}
	}
	return d
}

func (j *judge) oidc() Door {
	d := Door{ID: DoorOIDC, Title: "OIDC and structured authentication", State: Absent,
		Advice: "give the names and groups of each issuer a prefix, so that it cannot name a system: user or group"}
	api := j.components("kube-apiserver")
	config, err := controlplane.ParseAuthentication([]byte(j.s.AuthenticationConfig))
	if len(api) == 0 && j.s.AuthenticationConfig == "" {
		return j.unseen(d, "kube-apiserver")
	}
	for _, c := range api {
		d.saw("command line of %s", c.Where)
		if issuer, ok := c.Flag("oidc-issuer-url"); ok && issuer != "" {
			d.State = Present
			name, named := c.Flag("oidc-username-prefix")
			claim, _ := c.Flag("oidc-username-claim")
			groupsClaim, groups := c.Flag("oidc-groups-claim")
			groupsPrefix, _ := c.Flag("oidc-groups-prefix")
			j.issuer(&d, c.Where, issuer, named && (name == "-" || !controlplane.Guards(name)) || !named && claim == "email" && c.Blind == "",
				groups && groupsClaim != "" && !controlplane.Guards(groupsPrefix) && (groupsPrefix != "" || c.Blind == ""))
		}
		if file, ok := c.Flag("authentication-config"); ok && file != "" && j.s.AuthenticationConfig == "" {
			d.saw("%s reads its authentication configuration from %s, which the API does not show", c.Where, file)
			d.Tellable = "give the scan the file " + file + " " + AuthenticationConfigHow
			if d.State != Present {
				d.State = CannotTell
			}
		}
	}
	if j.s.AuthenticationConfig != "" {
		d.saw("the authentication configuration that was given")
		if err != nil {
			d.State, d.Tellable = CannotTell,
				"give the scan an authentication configuration that can be read "+AuthenticationConfigHow+": "+err.Error()
			return d
		}
		for _, jwt := range config.JWT {
			d.State = Present
			m := jwt.ClaimMappings
			j.issuer(&d, "the authentication configuration", jwt.Issuer.URL, m.Username.Claim != "" && !controlplane.Guards(m.Username.Prefix),
				m.Groups.Claim != "" && !controlplane.Guards(m.Groups.Prefix))
			users, groups := jwt.RefusesSystemNames()
			j.expression(&d, jwt.Issuer.URL, "user names", m.Username, users)
			j.expression(&d, jwt.Issuer.URL, "groups", m.Groups, groups)
		}
		if config.Unknown != "" {
			d.saw("in the authentication configuration that was given, this was not understood: %s", config.Unknown)
			d.Tellable = "read what was not understood in the authentication configuration: " + config.Unknown
			if d.State != Present {
				d.State = CannotTell
			}
		}
	}
	return d
}

// expression judges how an expression makes names of what an issuer writes. One of a form that is not known may make any name.
func (j *judge) expression(d *Door, issuer, what string, c controlplane.Claim, refused bool) {
	prefixed, known := c.Reads()
	if c.Expression == "" || prefixed {
		return
	}
	i := DoorItem{ID: "expression:" + issuer + what, Risk: inventory.High, Admin: what == "groups", Advice: d.Advice,
		Title: fmt.Sprintf("the %s of issuer %s come from the expression %s, which adds no prefix", what, text.Name(issuer),
			text.Name(c.Expression)),
		Text: "What the issuer writes into a token is then taken as it is, system:masters included."}
	if !known {
		i.Title = fmt.Sprintf("the %s of issuer %s come from the expression %s, which a person must read", what, text.Name(issuer),
			text.Name(c.Expression))
		i.Text = "Whether it adds a prefix cannot be told from its form. " +
			"Without one, what the issuer writes is taken as it is, system:masters included."
	}
	if refused {
		i.Risk, i.Admin = inventory.Low, false
		i.Text = "Names that begin with system: are refused by a rule (userValidationRules). " +
			"It can still name a user or group that a binding names."
	}
	j.put(d, "the authentication configuration", i)
}

// issuer adds an issuer of tokens and what is missing in how it is trusted.
func (j *judge) issuer(d *Door, where, issuer string, plainNames, plainGroups bool) {
	j.put(d, where, DoorItem{ID: "issuer:" + issuer, Title: "tokens of " + text.Name(issuer) + " sign in", Risk: inventory.Low,
		Text:   "Its administrators can be any user that it may name.",
		Grants: []string{"users and groups that " + issuer + " names"},
		Advice: "review who administers it, and that it asks for a second factor", Expected: true, Why: "is how people sign in every day"})
	if plainNames {
		j.put(d, where, DoorItem{ID: "names:" + issuer, Title: "user names of " + text.Name(issuer) + " get no prefix", Risk: inventory.Medium,
			Text: "It can name a user that Kubernetes or another issuer knows.", Advice: d.Advice})
	}
	if plainGroups {
		j.put(d, where, DoorItem{ID: "groups:" + issuer, Title: "groups of " + text.Name(issuer) + " get no prefix", Risk: inventory.High,
			Admin: true,
			Text:  "It can put any user into system:masters.", Advice: d.Advice})
	}
}

func (j *judge) webhookTokens() Door {
	d := Door{ID: DoorWebhook, Title: "webhook token authentication", State: Absent,
		Advice: "review who runs the webhook: it says who each caller is"}
	api := j.components("kube-apiserver")
	if len(api) == 0 {
		return j.unseen(d, "kube-apiserver")
	}
	for _, c := range api {
		d.saw("command line of %s", c.Where)
		file, ok := c.Flag("authentication-token-webhook-config-file")
		if !ok || file == "" {
			continue
		}
		d.State = Present
		j.put(&d, c.Where, DoorItem{ID: "webhook:" + file, Title: "a webhook (" + text.Name(file) + ") says whose a token is",
			Risk:   inventory.Medium,
			Admin:  true,
			Grants: []string{"any user and group"}, Advice: d.Advice,
			Text: "Its operators can be any user, system:masters included."})
		if text, ok := c.Flag("authentication-token-webhook-cache-ttl"); ok {
			if t, err := time.ParseDuration(text); err == nil && t > 5*time.Minute {
				j.put(&d, c.Where, DoorItem{ID: "cache", Title: "a token that the webhook takes back works for up to " + text + " more",
					Risk:   inventory.Medium,
					Advice: "lower --authentication-token-webhook-cache-ttl to the default of 2m"})
			}
		}
	}
	return d
}

func (j *judge) requestHeader() Door {
	d := Door{ID: DoorRequestHeader, Title: "authenticating proxy (request header)", State: Absent,
		Advice: "use a CA of its own and name the proxy's certificate in --requestheader-allowed-names"}
	if !j.s.Read(inventory.SourceAuthentication) {
		e, t := j.lacking(inventory.SourceAuthentication)
		d.saw("%s", e)
		d.State, d.Tellable = CannotTell, t
		return d
	}
	auth := j.s.Authentication
	const where = "extension-apiserver-authentication"
	d.saw("ConfigMap kube-system/%s holds %d CAs of the proxy and the allowed names %s", where, len(auth.RequestHeaderCAs),
		strings.Join(auth.RequestHeaderNames, ", "))
	for _, ca := range auth.RequestHeaderCAs {
		d.State = Present
		until := ca.NotAfter
		i := DoorItem{ID: ca.Fingerprint, Title: fmt.Sprintf("a proxy with a certificate of CA %s may say who a request is from",
			text.Name(ca.Subject)), Risk: inventory.Low, Until: &until,
			Grants: []string{"any user and group by a header"}, Expected: true, Why: "is how extension API servers are told who asks",
			Advice: d.Advice}
		j.caProblems(&i, ca)
		j.put(&d, where, i)
		if slices.ContainsFunc(auth.ClientCAs, func(c inventory.CA) bool { return c.KeyID == ca.KeyID }) {
			j.put(&d, where, DoorItem{ID: "shared:" + ca.KeyID, Title: fmt.Sprintf("CA %s signs client certificates too", text.Name(ca.Subject)),
				Risk: inventory.Critical, Advice: d.Advice,
				Text: "The holder of an ordinary client certificate with an allowed name can name any user in a header."})
		}
		if j.ours(ca) {
			j.put(&d, where, DoorItem{ID: "ours:" + ca.KeyID, Title: "the break-glass CA vouches for the authenticating proxy",
				Risk:   inventory.Critical,
				Advice: "remove it from --requestheader-client-ca-file"})
		}
	}
	if d.State == Present && len(auth.RequestHeaderNames) == 0 {
		j.put(&d, where, DoorItem{ID: "any-name", Title: "every certificate of the proxy's CA may say who a request is from",
			Risk:  inventory.High,
			Admin: true, Advice: d.Advice,
			Text: "No allowed names are set (--requestheader-allowed-names)."})
	}
	return d
}

func (j *judge) impersonation() Door {
	d := Door{ID: DoorImpersonation, Title: "impersonation", State: Absent,
		Advice: "let programs impersonate named users and groups only, never all"}
	if !j.s.Read(inventory.SourceClusterRoles, inventory.SourceClusterBindings, inventory.SourceRoles, inventory.SourceBindings) {
		e, t := j.lacking(inventory.SourceClusterRoles, inventory.SourceClusterBindings, inventory.SourceRoles, inventory.SourceBindings)
		d.saw("%s", e)
		d.State, d.Tellable = CannotTell, t
	}
	for _, p := range j.powers {
		var grants []string
		for _, r := range p.Rights {
			if strings.HasPrefix(r, "impersonate-") {
				grants = append(grants, r)
			}
		}
		if len(grants) == 0 {
			continue
		}
		d.State = Present
		j.put(&d, p.Via[0].String(), DoorItem{ID: inventory.Digest(p.Subject.String()), Title: p.Subject.String() + " may act as others: " +
			inventory.Few(grants, 4),
			Risk: p.Severity, Grants: grants,
			Expected: p.Expected, Why: p.Why, Orphan: p.Orphan, People: userOf(p.Subject), Groups: groupOf(p.Subject),
			TakeAway: j.rbac.RemoveRight(p.Subject,
				"impersonate-")})
	}
	d.saw("RBAC was searched for the verb impersonate; who may do everything may impersonate too and is not listed again")
	return d
}

func (j *judge) anonymous() Door {
	d := Door{ID: DoorAnonymous, Title: "anonymous requests", State: CannotTell,
		Advice:   "switch anonymous requests off, or leave open the health checks alone (AuthenticationConfiguration, anonymous.conditions)",
		Tellable: "let the scan reach the API server without a credential, or " + giveManifest}
	probe := j.s.Anonymous
	asked := j.s.Read(inventory.SourceAnonymous) && probe.API != 0
	api := j.components("kube-apiserver")
	f := j.anonymousFlags(&d)
	hidden := j.hidden("kube-apiserver")
	switch {
	case f.on:
		d.State, d.Tellable = Present, map[bool]string{true: giveManifest}[hidden != ""]
	case f.limited:
		d.State, d.Tellable = Present, map[bool]string{true: giveManifest}[hidden != "" || f.unknown]
	case len(api) > 0 && !f.unknown && hidden == "":
		d.State, d.Tellable = Absent, ""
	}
	j.anonymousProbe(&d, f, hidden)
	if d.State == CannotTell && hidden != "" {
		d.saw("%s", hidden)
	}
	if f.on || asked && probe.API != 401 {
		j.put(&d, "the API server", DoorItem{ID: "on", Title: "requests without a credential are those of system:anonymous", Risk: inventory.Low,
			Expected: true, Why: "is the default of Kubernetes", Advice: d.Advice,
			Text: "A mistake in a binding then opens the cluster to any program that reaches it."})
	}
	if d.State == Present && probe.API == 200 {
		j.put(&d, "the answers to requests without a credential", DoorItem{ID: "open", Title: "requests without a credential may read /api",
			Risk: inventory.Medium, Advice: "find the binding or the authorizer that lets them",
			Text: "Without a credential Kubernetes shows its version and health alone."})
	}
	j.anonymousBindings(&d)
	return d
}

// anonymousFlags is what the command lines say about anonymous requests.
type anonymousFlags struct {
	on      bool // by one API server, which is enough
	unknown bool // by one, it cannot be told
	limited bool // by one, to some paths
}

// anonymousFlags reads the command lines of the API servers, and the authentication configuration that was given.
func (j *judge) anonymousFlags(d *Door) (f anonymousFlags) {
	given, err := controlplane.ParseAuthentication([]byte(j.s.AuthenticationConfig))
	if err != nil {
		given = controlplane.Authentication{}
	}
	for _, c := range j.components("kube-apiserver") {
		text, flagged := c.Flag("anonymous-auth")
		config, configured := c.Flag("authentication-config")
		switch {
		case flagged:
			d.saw("--anonymous-auth is %s in %s", text, c.Where)
			f.on = f.on || c.On("anonymous-auth", true)
		case configured && (given.Kind == "" || given.Unknown != ""):
			d.saw("--anonymous-auth is not given in %s; its file %s may say more", c.Where, config)
			f.unknown = true
		case configured && given.Anonymous != nil && !given.Anonymous.Enabled:
			d.saw("the authentication configuration that was given switches them off (anonymous), for %s", c.Where)
		case configured && given.Anonymous != nil && len(given.Anonymous.Conditions) > 0:
			f.limited = true
			i := DoorItem{ID: "limited", Title: "anonymous requests are open for health checks alone", Risk: inventory.Info}
			var paths []string
			for _, p := range given.Anonymous.Conditions {
				paths = append(paths, p.Path)
				if !slices.Contains([]string{"/healthz", "/livez", "/readyz"}, p.Path) {
					i.Risk, i.Title = inventory.Medium, "anonymous requests are open for more than health checks"
				}
			}
			i.Text = "The authentication configuration that was given opens " + strings.Join(paths, ", ") + "."
			j.put(d, c.Where, i)
		case c.Blind != "":
			d.saw("--anonymous-auth was not seen in %s, and not all of its flags were", c.Where)
			f.unknown = true
		default:
			d.saw("--anonymous-auth is not given, which is on, in %s", c.Where)
			f.on = true
		}
	}
	return f
}

// anonymousProbe is what the answer to requests without a credential adds to the flags.
func (j *judge) anonymousProbe(d *Door, f anonymousFlags, hidden string) {
	probe := j.s.Anonymous
	if !j.s.Read(inventory.SourceAnonymous) || probe.API == 0 {
		e, _ := j.lacking(inventory.SourceAnonymous)
		d.saw("the API server was not asked without a credential %s", e)
	} else {
		d.saw("without a credential, GET /api is answered %d and GET /livez %d, by the one API server that was asked", probe.API, probe.Livez)
		several := 0
		for _, n := range j.s.Nodes {
			if n.ControlPlane {
				several++
			}
		}
		switch {
		case probe.API != 401:
			d.State, d.Tellable = Present, ""
		case probe.Livez != 401:
			d.State, d.Tellable = Present, ""
			j.put(d, "the answers to requests without a credential", DoorItem{ID: "limited",
				Title: "anonymous requests are open for health checks alone", Risk: inventory.Info})
		case f.on, f.limited:
		case several > 1 && (hidden != "" || f.unknown): // the answer is that of one of them
			d.Tellable = giveManifest
		default:
			d.State, d.Tellable = Absent, ""
		}
	}
}

// anonymousBindings are the bindings that give something to requests without a credential.
func (j *judge) anonymousBindings(d *Door) {
	shipped := map[string]bool{}
	for _, b := range j.o.Defaults.Bindings() {
		for _, s := range b.Subjects {
			shipped[b.Ref().String()+"|"+s.String()] = true
		}
	}
	for _, bindings := range [][]inventory.Binding{j.s.ClusterBindings, j.s.Bindings} {
		for n := range bindings {
			b := &bindings[n]
			for _, s := range b.Subjects {
				if !(s.Kind == inventory.User && s.Name == inventory.AnonymousUser || s.Kind == inventory.Group &&
					s.Name == inventory.UnauthenticatedGroup) {
					continue
				}
				i := DoorItem{ID: inventory.Digest(b.Ref().String(), s.String()), Title: fmt.Sprintf("%s gives %s to %s", b.Ref(),
					text.Name(b.RoleName), s),
					Risk: inventory.High, Grants: []string{b.RoleKind + " " + b.RoleName},
					TakeAway: inventory.RemoveSubject(b, s)}
				for _, p := range j.powers {
					if p.Subject == inventory.Normal(s) {
						i.Risk = inventory.Worst(i.Risk, p.Severity)
					}
				}
				if shipped[b.Ref().String()+"|"+s.String()] {
					i.Risk, i.Expected, i.Why = inventory.Low, true, "ships with Kubernetes or kubeadm"
				}
				j.put(d, b.Ref().String(), i)
			}
		}
	}
}

func (j *judge) kubelet() Door {
	d := Door{ID: DoorKubelet, Title: "kubelet API", State: CannotTell,
		Advice: "authentication.anonymous.enabled: false, authentication.webhook.enabled: true, authorization.mode: Webhook, readOnlyPort: 0"}
	if len(j.s.Kubelets) == 0 {
		e, t := j.lacking(inventory.SourceNodes, inventory.SourceConfigz)
		if e == "" {
			e = "no node is there to ask"
		}
		d.saw("%s", e)
		d.Tellable = kubeletTellable(t)
		return d
	}
	d.State = Present
	answered := 0
	for _, k := range j.s.Kubelets {
		answered += len(k.Nodes)
	}
	// What one kubelet says is true of it alone.
	if e, t := j.lacking(inventory.SourceNodes, inventory.SourceConfigz); e != "" || answered < len(j.s.Nodes) {
		d.saw("%s", strings.TrimSuffix(fmt.Sprintf("%d of %d kubelets answered; of the others nothing is known: %s", answered, len(j.s.Nodes),
			e), ": "))
		d.Tellable = kubeletTellable(t)
	}
	for _, k := range j.s.Kubelets {
		nodes := inventory.Few(k.Nodes, 3)
		d.saw("configz of %d nodes (%s)", len(k.Nodes), nodes)
		if k.Anonymous {
			j.put(&d, nodes, DoorItem{ID: "anonymous", Title: "kubelets answer requests without a credential",
				Risk: inventory.Worst(inventory.Medium, map[bool]inventory.Severity{true: inventory.Critical,
					false: inventory.High}[k.Mode == "AlwaysAllow"]), Advice: d.Advice,
				Text: "With authorization.mode AlwaysAllow any program that reaches port 10250 runs commands in every pod."})
		}
		if k.Mode != "Webhook" {
			j.put(&d, nodes, DoorItem{ID: "mode", Title: "kubelets allow everything to whoever signs in (authorization.mode " + text.Name(k.Mode) +
				")",
				Risk: inventory.Critical, Advice: d.Advice,
				Text: "Every client certificate of the CA that kubelets trust is good for commands in every pod."})
		}
		if k.ReadOnlyPort != 0 {
			j.put(&d, nodes, DoorItem{ID: "read-only", Title: fmt.Sprintf("kubelets serve port %d without any authentication", k.ReadOnlyPort),
				Risk: inventory.Medium, Advice: d.Advice})
		}
		if !k.Webhook {
			j.put(&d, nodes, DoorItem{ID: "webhook", Title: "kubelets do not ask the API server whose a token is", Risk: inventory.Low,
				Advice: d.Advice})
		}
		if k.ClientCAFile == "" {
			d.saw("no CA of client certificates on %s", nodes)
		} else {
			j.put(&d, nodes, DoorItem{ID: "ca:" + k.ClientCAFile, Title: "kubelets take client certificates of the CA in " +
				text.Name(k.ClientCAFile),
				Risk: inventory.Info, Expected: true, Why: "is how the API server signs in there",
				Text: "If it holds the break-glass CA, a certificate of it is good on nodes too."})
		}
	}
	return d
}

// kubeletTellable is what tells the configuration of kubelets that did not answer; right is what the scan may not do.
func kubeletTellable(right string) string {
	const byHand = "read /configz of each on its node, and compare it with the advice: it cannot be given to the scan"
	if right == "" {
		return byHand
	}
	return right + ", which is also the right to run commands in every pod: give it for the scan only, if at all; or " + byHand
}

func (j *judge) controlPlane() Door {
	d := Door{ID: DoorControlPlane, Title: "controller manager and scheduler", State: Absent,
		Advice: "--bind-address=127.0.0.1, and no path of --authorization-always-allow-paths but health checks"}
	parts := slices.Concat(j.components("kube-controller-manager"), j.components("kube-scheduler"))
	if len(parts) == 0 {
		return j.unseen(d, "kube-controller-manager and kube-scheduler")
	}
	for _, c := range parts {
		d.saw("command line of %s", c.Where)
		if port, ok := c.Flag("port"); ok && port != "0" {
			d.State = Present
			j.put(&d, c.Where, DoorItem{ID: c.Name + ":port", Title: c.Name + " serves port " + text.Name(port) + " without TLS or authentication",
				Risk: inventory.High, Advice: "--port=0"})
		}
		port, ok := c.Flag("secure-port")
		if ok && port == "0" {
			continue
		}
		bind, ok := c.Flag("bind-address")
		if ok && text.Loopback(bind) || !ok && c.Blind != "" {
			continue
		}
		d.State = Present
		if !ok {
			bind = "all addresses, as none is set"
		}
		i := DoorItem{ID: c.Name + ":bind", Title: c.Name + " listens on " + text.Name(bind), Risk: inventory.Low, Advice: d.Advice}
		if c.Lacks("authentication-kubeconfig") {
			i.Risk, i.Text = inventory.Medium, "It does not ask the API server who a request is from (--authentication-kubeconfig is not set)."
		}
		j.put(&d, c.Where, i)
		for _, path := range c.List("authorization-always-allow-paths") {
			if !slices.Contains([]string{"/healthz", "/readyz", "/livez"}, path) {
				j.put(&d, c.Where, DoorItem{ID: c.Name + ":allow:" + path, Title: fmt.Sprintf("%s serves %s to everybody who reaches it", c.Name,
					text.Name(path)), Risk: inventory.Medium, Advice: d.Advice})
			}
		}
	}
	for _, c := range j.components("kube-controller-manager") {
		if !c.On("use-service-account-credentials", c.Blind != "") {
			d.State = Present
			j.put(&d, c.Where, DoorItem{ID: "one-credential", Title: "all controllers share one credential with the rights of them all",
				Risk:   inventory.Low,
				Advice: "--use-service-account-credentials=true"})
		}
	}
	return d
}

func (j *judge) kubeProxy() Door {
	d := Door{ID: DoorKubeProxy, Title: "kube-proxy", State: Absent,
		Advice: "metricsBindAddress on a loopback address: it serves profiles and lets its mode be read without authentication"}
	src := j.s.Source(inventory.SourceKubeProxy)
	switch {
	case src.Missing != "":
		e, t := j.lacking(inventory.SourceKubeProxy)
		d.saw("%s", e)
		d.State, d.Tellable = CannotTell, t
	case j.s.KubeProxy == nil: // it may be configured by flags, by a ConfigMap of another name, or not be there at all
		d.saw("%s", map[bool]string{true: "there is no ConfigMap kube-system/kube-proxy",
			false: "the ConfigMap kube-system/kube-proxy has no config.conf"}[src.None])
		d.State, d.Tellable = CannotTell, "look at --metrics-bind-address of kube-proxy on the nodes, and at the file that its --config names: "+
			"the scan reads config.conf of the ConfigMap kube-system/kube-proxy only"
	default:
		d.saw("ConfigMap kube-system/kube-proxy: metricsBindAddress is %q", j.s.KubeProxy.MetricsBindAddress)
		if addr := j.s.KubeProxy.MetricsBindAddress; addr != "" && !text.Loopback(addr) {
			d.State = Present
			j.put(&d, "ConfigMap kube-system/kube-proxy", DoorItem{ID: "metrics", Title: "kube-proxy serves metrics and profiles on " +
				text.Name(addr) +
				" of every node", Risk: inventory.Medium, Advice: d.Advice})
		}
	}
	return d
}

func (j *judge) etcd() Door {
	d := Door{ID: DoorEtcd, Title: "etcd", State: Present, Advice: "a CA of its own, --client-cert-auth=true, TLS on every address: who " +
		"reaches etcd reads and writes everything, RBAC or not"}
	api, members := j.components("kube-apiserver"), j.components("etcd")
	clientCA := map[string]bool{}
	for _, c := range api {
		if file, ok := c.Flag("client-ca-file"); ok {
			clientCA[file] = true
		}
		for _, server := range c.List("etcd-servers") {
			u, err := url.Parse(server)
			if err == nil && u.Scheme == "http" {
				j.put(&d, c.Where, DoorItem{ID: "plain:" + server, Title: "the API server talks to etcd at " + text.Name(server) + " without TLS",
					Risk: map[bool]inventory.Severity{true: inventory.Medium, false: inventory.Critical}[text.Loopback(u.Host)], Advice: d.Advice,
					Text: "Any program that reaches it reads and writes every object."})
			}
		}
		if file, ok := c.Flag("etcd-cafile"); ok && clientCA[file] {
			j.put(&d, c.Where, DoorItem{ID: "shared:" + file, Title: "etcd and the API server trust the same CA (" + text.Name(file) + ")",
				Risk:   inventory.Critical,
				Advice: d.Advice,
				Text:   "Every client certificate of the cluster may then be good for etcd itself."})
		}
	}
	for _, c := range members {
		d.saw("command line of %s", c.Where)
		if !c.On("client-cert-auth", c.Blind != "") {
			open := !slices.ContainsFunc(c.List("listen-client-urls"), func(s string) bool {
				u, err := url.Parse(s)
				return err != nil ||
					!text.Loopback(u.Host)
			})
			j.put(&d, c.Where, DoorItem{ID: "client-cert-auth", Title: "etcd asks no client certificate (--client-cert-auth)", Admin: true,
				Risk: map[bool]inventory.Severity{true: inventory.High, false: inventory.Critical}[open], Advice: d.Advice})
		}
		if _, ok := c.Flag("peer-trusted-ca-file"); ok && !c.On("peer-client-cert-auth", c.Blind != "") {
			j.put(&d, c.Where, DoorItem{ID: "peer-client-cert-auth", Title: "etcd asks its peers for no certificate (--peer-client-cert-auth)",
				Risk: inventory.High, Advice: d.Advice})
		}
		for _, name := range []string{"auto-tls", "peer-auto-tls"} {
			if c.On(name, false) {
				j.put(&d, c.Where, DoorItem{ID: name, Title: "etcd makes its own certificates (--" + name + "), which nobody can verify",
					Risk:   inventory.High,
					Advice: d.Advice})
			}
		}
		for _, name := range []string{"listen-client-urls", "listen-metrics-urls", "listen-peer-urls"} {
			for _, at := range c.List(name) {
				if u, err := url.Parse(at); err == nil && u.Scheme == "http" && !text.Loopback(u.Host) {
					j.put(&d, c.Where, DoorItem{ID: name + ":" + at, Title: fmt.Sprintf("etcd listens on %s without TLS (--%s)", text.Name(at), name),
						Advice: d.Advice,
						Risk:   map[bool]inventory.Severity{true: inventory.Low, false: inventory.Critical}[name == "listen-metrics-urls"]})
				}
			}
		}
		if file, ok := c.Flag("trusted-ca-file"); ok && clientCA[file] {
			j.put(&d, c.Where, DoorItem{ID: "shared:" + file, Title: "etcd and the API server trust the same CA (" + text.Name(file) + ")",
				Risk:   inventory.Critical,
				Advice: d.Advice,
				Text:   "Every client certificate of the cluster may then be good for etcd itself."})
		}
	}
	const byName = "whether etcd's CA is another one's too: compare the CA files on the control plane, for the scan compares their names, " +
		"and two files with the same CA in them look different"
	if len(members) == 0 {
		d = j.unseen(d, "etcd")
	} else if slices.ContainsFunc(members, func(c controlplane.Component) bool { return c.Blind != "" }) {
		d.State = CannotTell
	}
	if len(d.Items) > 0 {
		d.State = Present
	}
	d.saw("CAs are compared by their files' names alone")
	d.Tellable = strings.TrimPrefix(d.Tellable+"; "+byName, "; ")
	return d
}

func (j *judge) authorization() Door {
	d := Door{ID: DoorAuthorization, Title: "what decides: authorization and admission", State: Absent,
		Advice: "--authorization-mode=Node,RBAC, and NodeRestriction among the admission plugins"}
	api := j.components("kube-apiserver")
	if len(api) == 0 {
		return j.unseen(d, "kube-apiserver")
	}
	for _, c := range api {
		d.saw("command line of %s", c.Where)
		modes := c.List("authorization-mode")
		config, configured := c.Flag("authorization-config")
		switch {
		case configured:
			d.Tellable = "no scan reads it: review the file " + config + " on the control plane, and what its webhooks allow, which they alone " +
				"know"
			d.saw("%s reads its authorizers from %s, which the API does not show", c.Where, config)
			if d.State != Present {
				d.State = CannotTell
			}
		case len(modes) == 0 && c.Blind != "": // how it decides is in what was not seen
		case len(modes) == 0 || slices.Contains(modes, "AlwaysAllow"):
			d.State = Present
			j.put(&d, c.Where, DoorItem{ID: "always-allow", Title: "the API server allows everything to everybody who signs in (AlwaysAllow)",
				Risk: inventory.Critical, Advice: d.Advice})
		}
		if slices.Contains(modes, "ABAC") {
			d.State = Present
			file, _ := c.Flag("authorization-policy-file")
			j.put(&d, c.Where, DoorItem{ID: "abac", Title: "the file " + text.Name(file) + " allows what RBAC may not (ABAC)", Risk: inventory.High,
				Admin:  true,
				Advice: "move its rules to RBAC", Text: "Who it gives what is in no object of the cluster: review the file."})
		}
		if slices.Contains(modes, "Webhook") {
			d.State = Present
			j.put(&d, c.Where, DoorItem{ID: "webhook", Title: "a webhook allows what RBAC may not", Risk: inventory.Medium, Admin: true,
				Advice: "review what it allows: the webhook alone knows", Text: "This inventory lists rights of RBAC only."})
		}
		if port, ok := c.Flag("insecure-port"); ok && port != "0" {
			d.State = Present
			j.put(&d, c.Where, DoorItem{ID: "insecure-port", Title: "the API server serves port " + text.Name(port) + " without authentication",
				Risk: inventory.Critical, Advice: "--insecure-port=0"})
		}
		off, on := c.List("disable-admission-plugins"), c.List("enable-admission-plugins")
		for _, name := range []string{"CertificateSubjectRestriction", "CertificateApproval", "CertificateSigning", "ServiceAccount",
			"PodSecurity", "NodeRestriction", "ValidatingAdmissionPolicy"} {
			if slices.Contains(off, name) {
				d.State = Present
				j.put(&d, c.Where, DoorItem{ID: "off:" + name, Title: "the admission plugin " + name + " is switched off", Risk: inventory.Medium,
					Advice: "remove it from --disable-admission-plugins"})
			}
		}
		if c.Blind == "" && !slices.Contains(on, "NodeRestriction") && !slices.Contains(off, "NodeRestriction") {
			d.State = Present
			j.put(&d, c.Where, DoorItem{ID: "node-restriction", Title: "a node may change other nodes (no NodeRestriction)", Risk: inventory.Medium,
				Advice: "--enable-admission-plugins=NodeRestriction"})
		}
		if slices.Contains(on, "AlwaysAdmit") {
			d.State = Present
			j.put(&d, c.Where, DoorItem{ID: "always-admit", Title: "the admission plugin AlwaysAdmit is on", Risk: inventory.Low,
				Advice: "remove it from --enable-admission-plugins"})
		}
	}
	return d
}

func (j *judge) extensions() Door {
	d := Door{ID: DoorExtensions, Title: "extension API servers and admission webhooks", State: Absent,
		Advice: "review who runs each: it sees what is written, and a mutating one changes it"}
	if !j.s.Read(inventory.SourceAPIServices, inventory.SourceMutating, inventory.SourceValidating) {
		e, t := j.lacking(inventory.SourceAPIServices, inventory.SourceMutating, inventory.SourceValidating)
		d.saw("%s", e)
		d.State, d.Tellable = CannotTell, t
	}
	d.saw("%d API services of other servers and %d admission webhooks are there", len(j.s.APIServices), len(j.s.Webhooks))
	for _, s := range j.s.APIServices {
		d.State = Present
		i := DoorItem{ID: "api:" + s.Name, Title: fmt.Sprintf("service %s answers for the API %s", text.Name(s.Service), text.Name(s.Name)),
			Risk: inventory.Info, TakeAway: inventory.Kubectl("delete", inventory.Ref{Kind: "APIService", Name: s.Name})}
		if s.Insecure {
			i.Risk, i.Text = inventory.High, "Its certificate is not verified: a program on the way can answer in its place."
		}
		j.put(&d, "APIService "+s.Name, i)
	}
	for _, h := range j.s.Webhooks {
		d.State = Present
		kind := map[bool]string{true: "mutatingwebhookconfiguration", false: "validatingwebhookconfiguration"}[h.Mutating]
		i := DoorItem{ID: kind + ":" + h.Config + ":" + h.Name, Title: fmt.Sprintf("webhook %s (%s) sees what is written", text.Name(h.Name),
			text.Name(h.Target)), Risk: inventory.Info, TakeAway: inventory.Kubectl("delete", inventory.Ref{Kind: kind, Name: h.Config})}
		if h.Mutating {
			i.Title = fmt.Sprintf("webhook %s (%s) changes what is written", text.Name(h.Name), text.Name(h.Target))
		}
		if h.Secrets || h.Everything {
			i.Risk = inventory.Worst(i.Risk, inventory.Medium)
			i.Text = "It sees Secrets, or everything."
		}
		if !h.Inside() {
			i.Risk = inventory.Worst(i.Risk, inventory.Medium)
			i.Text = strings.TrimSpace(i.Text + " It runs outside the cluster.")
		}
		i.Admin = h.Mutating && h.Everything // a webhook that changes every write can write a binding
		if h.Mutating && h.Everything && !h.Inside() {
			i.Risk = inventory.High
		}
		j.put(&d, kind+" "+h.Config, i)
	}
	return d
}

func (j *judge) platform() Door {
	d := Door{ID: DoorPlatform, Title: "managed platform", State: Absent,
		Advice: "review the platform's own way in with the platform's own tools"}
	version := j.s.Server.Version
	d.saw("server version %q, %d nodes", version, len(j.s.Nodes))
	label := func(key string) bool {
		return slices.ContainsFunc(j.s.Nodes, func(n inventory.Node) bool {
			return slices.ContainsFunc(n.Labels, func(l string) bool { return strings.HasPrefix(l, key) })
		})
	}
	note := func(platform, id, text, advice string) {
		d.State = Present
		j.put(&d, platform, DoorItem{ID: id, Title: text, Risk: inventory.Info, Expected: true, Why: "is how " + platform + " works",
			Advice: advice})
	}
	switch {
	case j.s.EKS():
		note("EKS", "eks-creator", "EKS gives whoever made the cluster, and everybody with an access entry, rights that are in no binding",
			"review aws eks list-access-entries and who made the cluster")
		note("EKS", "eks-control-plane", "EKS shows no flags of the control plane and takes no client CA: static tokens, webhook and "+
			"control-plane doors cannot be told, and a break-glass CA cannot be added", "use the platform's own break-glass role")
	case strings.Contains(version, "-gke."):
		note("GKE", "gke-iam", "GKE gives people with IAM roles such as container.admin rights that are in no binding",
			"review gcloud projects get-iam-policy")
		note("GKE", "gke-control-plane", "GKE shows no flags of the control plane and takes no client CA; its own client certificate and basic "+
			"authentication must be off (masterAuth)", "review gcloud container clusters describe")
	case label("kubernetes.azure.com/"):
		note("AKS", "aks-local", "AKS gives whoever may list cluster admin credentials the user masterclient in system:masters, unless local "+
			"accounts are disabled", "az aks update --disable-local-accounts, and review who may list credentials")
		note("AKS", "aks-control-plane", "AKS shows no flags of the control plane and takes no client CA; with Azure RBAC rights are in Azure "+
			"and in no binding", "review role assignments of the cluster")
	case !j.s.Read(inventory.SourceNodes) && !j.s.Read(inventory.SourceVersion):
		e, t := j.lacking(inventory.SourceNodes, inventory.SourceVersion)
		d.saw("%s", e)
		d.State, d.Tellable = CannotTell, t
	case !j.s.Read(inventory.SourceNodes):
		_, t := j.lacking(inventory.SourceNodes)
		d.State, d.Tellable = CannotTell, t+": AKS is told by the labels of nodes alone"
	}
	for _, entry := range j.s.AWSAuth {
		d.State = Present
		arn, group := inventory.AWSIdentity(entry)
		i := DoorItem{ID: "aws-auth:" + entry, Title: "ConfigMap aws-auth maps " + text.Name(entry), Risk: inventory.Medium,
			Grants: []string{entry},
			People: []string{arn, j.s.AWSUsers[arn]}, Groups: []string{group},
			Advice: "remove the entry: kubectl edit configmap aws-auth --namespace kube-system"}
		for _, p := range j.powers {
			i.Admin = i.Admin || p.Subject == inventory.Subject{Kind: inventory.Group, Name: group} && p.Severity == inventory.Critical
		}
		if group == inventory.MastersGroup {
			i.Risk, i.Admin, i.Text = inventory.High, true, "A holder of the right to assume it has everything, and no binding says so."
		}
		if group == "system:nodes" || group == "system:bootstrappers" {
			i.Risk, i.Expected, i.Why = inventory.Info, true, "is how nodes join"
		}
		j.put(&d, "ConfigMap kube-system/aws-auth", i)
	}
	return d
}
