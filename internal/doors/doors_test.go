package doors

import (
	"slices"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/internal/controlplane"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/google/go-cmp/cmp"
)

// program is the static pod of a program on a control-plane node.
func program(t *testing.T, node string, words ...string) controlplane.Component {
	t.Helper()
	c, ok := controlplane.ParseCommand(words, "pod "+words[0]+" on node "+node)
	if !ok {
		t.Fatalf("%q is no program", words)
	}
	c.Node = node
	return c
}

// apiserver is one that has no door but what flags give it.
func apiserver(t *testing.T, node string, flags ...string) controlplane.Component {
	t.Helper()
	return program(t, node, append([]string{"kube-apiserver", "--anonymous-auth=false", "--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction"}, flags...)...)
}

var twoControlPlanes = []inventory.Node{{Name: "cp1", ControlPlane: true}, {Name: "cp2", ControlPlane: true}}

// without says of a source that it was not read.
func without(s *inventory.Snapshot, name, missing string) *inventory.Snapshot {
	for n := range s.Sources {
		if s.Sources[n].Name == name {
			s.Sources[n].Missing = missing
		}
	}
	return s
}

// none says of a source that it is not there.
func none(s *inventory.Snapshot, name string) *inventory.Snapshot {
	for n := range s.Sources {
		if s.Sources[n].Name == name {
			s.Sources[n].None = true
		}
	}
	return s
}

func itemTitled(t *testing.T, items []Item, title string) Item {
	t.Helper()
	n := slices.IndexFunc(items, func(i Item) bool { return strings.Contains(i.Title, title) })
	if n < 0 {
		t.Fatalf("no item has %q in its title", title)
	}
	return items[n]
}

// For each kind of thing: it is there, and then it is not. What else was not seen, then or now, decides what that proves.
func TestAbsenceIsProofOnlyWhereNothingWasOverlooked(t *testing.T) {
	csrs := []inventory.CSR{{Name: "x", Signer: apiserverClient, Subject: "mallory", Requester: "alice", Approved: true, Issued: true}}
	kubelet := func(anonymous bool, nodes ...string) inventory.Kubelet {
		return inventory.Kubelet{Nodes: nodes, Anonymous: anonymous, Webhook: true, Mode: "Webhook"}
	}
	three := []inventory.Node{{Name: "n1"}, {Name: "n2"}, {Name: "n3"}}
	ca := inventory.CA{Subject: "CN=old", Fingerprint: "f", KeyID: "k", NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(1, 0, 0),
		Key: "RSA 2048", IsCA: true}
	handshake := func(s *inventory.Snapshot) *inventory.Snapshot { s.Server.ClientCAs = []string{"CN=old"}; return s }
	for name, c := range map[string]struct {
		before, after *inventory.Snapshot
		title         string
		proved        bool
	}{
		"a subject of RBAC": {all(&inventory.Snapshot{ClusterRoles: []inventory.Role{clusterRole("r", secretsGet)},
			ClusterBindings: []inventory.Binding{bind("b", "", "r", bob)}}), all(&inventory.Snapshot{}), "user bob", true},
		"a subject, and roles cannot be read any more": {all(&inventory.Snapshot{ClusterRoles: []inventory.Role{clusterRole("r", secretsGet)},
			ClusterBindings: []inventory.Binding{bind("b", "", "r", bob)}}),
			without(all(&inventory.Snapshot{}), inventory.SourceRoles, "forbidden"), "user bob", false},
		"a subject, and Secrets could never be read": {without(all(&inventory.Snapshot{ClusterRoles: []inventory.Role{clusterRole("r",
			secretsGet)},
			ClusterBindings: []inventory.Binding{bind("b", "", "r", bob)}}), inventory.SourceTokenSecrets, "forbidden"),
			without(all(&inventory.Snapshot{}), inventory.SourceTokenSecrets, "forbidden"), "user bob", true},
		"a certificate through the CSR API": {all(&inventory.Snapshot{CSRs: csrs}), all(&inventory.Snapshot{}), "CertificateSigningRequest x",
			false},
		"a token file, and its pod is not listed any more": {all(&inventory.Snapshot{Nodes: twoControlPlanes,
			Components: []controlplane.Component{apiserver(t, "cp1"), apiserver(t, "cp2", "--token-auth-file=t.csv")}}),
			all(&inventory.Snapshot{Nodes: twoControlPlanes, Components: []controlplane.Component{apiserver(t, "cp1")}}),
			"tokens in the file t.csv", false},
		"a token file, and the door is there by another one": {all(&inventory.Snapshot{Nodes: twoControlPlanes,
			Components: []controlplane.Component{apiserver(t, "cp1", "--basic-auth-file=b.csv"), apiserver(t, "cp2", "--token-auth-file=t.csv")}}),
			all(&inventory.Snapshot{Nodes: twoControlPlanes, Components: []controlplane.Component{apiserver(t, "cp1", "--basic-auth-file=b.csv")}}),
			"tokens in the file t.csv", false},
		"a token file, and both API servers are seen without it": {all(&inventory.Snapshot{Nodes: twoControlPlanes,
			Components: []controlplane.Component{apiserver(t, "cp1"), apiserver(t, "cp2", "--token-auth-file=t.csv")}}),
			all(&inventory.Snapshot{Nodes: twoControlPlanes, Components: []controlplane.Component{apiserver(t, "cp1"), apiserver(t, "cp2")}}),
			"tokens in the file t.csv",
			true},
		"an issuer, and its flags became a file that nobody gave": {all(&inventory.Snapshot{Nodes: twoControlPlanes[:1],
			Components: []controlplane.Component{apiserver(t, "cp1", "--oidc-issuer-url=https://idp", "--oidc-groups-claim=g")}}),
			all(&inventory.Snapshot{Nodes: twoControlPlanes[:1], Components: []controlplane.Component{apiserver(t, "cp1",
				"--authentication-config=a.yaml")}}),
			"groups of https://idp", false},
		"a kubelet's setting, and all answered both times": {all(&inventory.Snapshot{Nodes: three,
			Kubelets: []inventory.Kubelet{kubelet(true, "n1", "n2", "n3")}}),
			all(&inventory.Snapshot{Nodes: three, Kubelets: []inventory.Kubelet{kubelet(false, "n1", "n2", "n3")}}),
			"kubelets answer requests without a credential",
			true},
		"a kubelet's setting, one was silent then, and none may be asked now": {without(all(&inventory.Snapshot{Nodes: three,
			Kubelets: []inventory.Kubelet{kubelet(true, "n1", "n2")}}), inventory.SourceConfigz, "1 of 3 kubelets did not answer"),
			without(all(&inventory.Snapshot{Nodes: three}), inventory.SourceConfigz, "the scan may not read it"),
			"kubelets answer requests without a credential",
			false},
		"a kubelet's setting, and one is silent now": {all(&inventory.Snapshot{Nodes: three,
			Kubelets: []inventory.Kubelet{kubelet(true, "n1", "n2", "n3")}}),
			without(all(&inventory.Snapshot{Nodes: three, Kubelets: []inventory.Kubelet{kubelet(false, "n1", "n2")}}), inventory.SourceConfigz,
				"1 of 3 kubelets did not answer"),
			"kubelets answer requests without a credential", false},
		"a CA of the handshake, and the ConfigMap can be read now": {handshake(without(all(&inventory.Snapshot{}),
			inventory.SourceAuthentication, "forbidden")),
			handshake(all(&inventory.Snapshot{Authentication: inventory.Authentication{ClientCAs: []inventory.CA{ca}}})), "a CA named CN=old",
			false},
		"a CA of the ConfigMap": {all(&inventory.Snapshot{Authentication: inventory.Authentication{ClientCAs: []inventory.CA{ca}}}),
			all(&inventory.Snapshot{}), "CA CN=old", true},
		"a token Secret": {all(&inventory.Snapshot{TokenSecrets: []inventory.TokenSecret{{Namespace: "a", Name: "b", Account: "c"}}}),
			all(&inventory.Snapshot{}),
			"Secret a/b", true},
		"a token Secret that only its account names": {without(all(&inventory.Snapshot{Accounts: []inventory.Account{{Namespace: "a", Name: "c",
			Secrets: []string{"b"}}}}), inventory.SourceTokenSecrets, "forbidden"),
			without(all(&inventory.Snapshot{Accounts: []inventory.Account{{Namespace: "a", Name: "c"}}}), inventory.SourceTokenSecrets,
				"forbidden"), "Secret a/b", false},
		"a CA that etcd shares by its file's name": {all(&inventory.Snapshot{Nodes: twoControlPlanes[:1],
			Components: []controlplane.Component{apiserver(t, "cp1", "--client-ca-file=ca.crt"), program(t, "cp1", "etcd", "--client-cert-auth",
				"--trusted-ca-file=ca.crt")}}),
			all(&inventory.Snapshot{Nodes: twoControlPlanes[:1], Components: []controlplane.Component{apiserver(t, "cp1", "--client-ca-file=ca.crt"),
				program(t, "cp1", "etcd", "--client-cert-auth", "--trusted-ca-file=copy.crt")}}), "trust the same CA", false},
		"anonymous requests, and one of two API servers is not seen": {all(&inventory.Snapshot{Nodes: twoControlPlanes,
			Components: []controlplane.Component{apiserver(t, "cp1"), program(t, "cp2", "kube-apiserver")},
			Anonymous:  inventory.AnonymousProbe{API: 401, Livez: 401}}),
			all(&inventory.Snapshot{Nodes: twoControlPlanes, Components: []controlplane.Component{apiserver(t, "cp1")},
				Anonymous: inventory.AnonymousProbe{API: 401, Livez: 401}}),
			"are those of system:anonymous", false},
		"anonymous requests, and both API servers refuse them": {all(&inventory.Snapshot{Nodes: twoControlPlanes,
			Components: []controlplane.Component{apiserver(t, "cp1"), program(t, "cp2", "kube-apiserver")},
			Anonymous:  inventory.AnonymousProbe{API: 401, Livez: 401}}),
			all(&inventory.Snapshot{Nodes: twoControlPlanes, Components: []controlplane.Component{apiserver(t, "cp1"), apiserver(t, "cp2")},
				Anonymous: inventory.AnonymousProbe{API: 401, Livez: 401}}), "are those of system:anonymous", true},
		"a door as such that is shut": {all(&inventory.Snapshot{Nodes: twoControlPlanes[:1],
			Components: []controlplane.Component{apiserver(t, "cp1", "--token-auth-file=t.csv")}}),
			all(&inventory.Snapshot{Nodes: twoControlPlanes[:1], Components: []controlplane.Component{apiserver(t, "cp1")}}),
			"static token file and basic auth: present",
			true},
		"a door as such of which nobody knows": {all(&inventory.Snapshot{Nodes: twoControlPlanes[:1],
			Components: []controlplane.Component{apiserver(t, "cp1", "--token-auth-file=t.csv")}}),
			all(&inventory.Snapshot{Nodes: twoControlPlanes[:1]}), "static token file and basic auth: present", false},
		"an entry of aws-auth, and it cannot be read any more": {all(&inventory.Snapshot{AWSAuth: []string{"arn:aws:iam::1:user/bob: " +
			"system:masters"}}),
			without(all(&inventory.Snapshot{}), inventory.SourceAWSAuth, "forbidden"), "aws-auth maps", false},
	} {
		before, after := judged(t, c.before), judged(t, c.after)
		i := itemTitled(t, Items(c.before, before), c.title)
		if unprovable := strings.HasPrefix(name, "a CA of the handshake") || strings.HasPrefix(name, "a certificate") ||
			strings.HasPrefix(name, "a CA that etcd shares"); unprovable != (len(i.Proof) == 0) {
			t.Errorf("%s: needs %q", name, i.Proof)
		}
		there := slices.ContainsFunc(Items(c.after, after), func(x Item) bool { return x.ID == i.ID && !x.Absent })
		if there && c.proved {
			t.Errorf("%s: it is still there", name)
			continue
		}
		was := Unproven(i.Proof, slices.Concat(c.before.Sources, before.Programs), before.Doors)
		is := Unproven(i.Proof, slices.Concat(c.after.Sources, after.Programs), after.Doors)
		if got := !there && len(i.Proof) > 0 && was == "" && is == ""; got != c.proved {
			t.Errorf("%s: proved gone %t, want %t (needs %q; not whole then %q, now %q)", name, got, c.proved, i.Proof, was, is)
		}
	}
}

func TestWhatIsNotListedAsReadWasNotRead(t *testing.T) {
	for name, c := range map[string]struct {
		sources []inventory.Source
		want    string
	}{
		"read":        {[]inventory.Source{{Name: inventory.SourceRoles}}, ""},
		"none there":  {[]inventory.Source{{Name: inventory.SourceRoles, None: true}}, ""},
		"not allowed": {[]inventory.Source{{Name: inventory.SourceRoles, Missing: "forbidden"}}, inventory.SourceRoles},
		"not listed":  {[]inventory.Source{{Name: inventory.SourceNodes}}, inventory.SourceRoles},
	} {
		if got := Unproven([]string{inventory.SourceRoles}, c.sources, nil); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
	if Unproven([]string{"door/oidc"}, nil, nil) == "" {
		t.Error("a door that nobody looked at is taken for seen")
	}
}

// Everybody whom an item is about is named in it, so that nobody judges their own access.
func TestItemsNameThePeopleWhomTheyAreAbout(t *testing.T) {
	carol := inventory.Subject{Kind: inventory.User, Name: "carol@example.com"}
	s := all(&inventory.Snapshot{
		ClusterRoles: []inventory.Role{clusterRole("as", inventory.PolicyRule{Verbs: []string{"impersonate"}, APIGroups: []string{""},
			Resources: []string{"users"}}), clusterRole("view", star)},
		ClusterBindings: []inventory.Binding{bind("as", "", "as", bob), bind("system:discovery", "", "system:discovery",
			inventory.Subject{Kind: inventory.Group, Name: inventory.AuthenticatedGroup}, bob), bind("empty", "", "nowhere", carol),
			bind("viewers", "", "view", carol), bind("first", "", "cluster-admin", inventory.Subject{Kind: inventory.User,
				Name: "kubernetes-admin"})},
		CSRs:     []inventory.CSR{{Name: "x", Signer: apiserverClient, Subject: "mallory", Requester: "bob", Approved: true, Issued: true}},
		AWSAuth:  []string{"arn:aws:iam::1:user/bob: system:masters", "arn:aws:iam::1:user/c.smith: team"},
		AWSUsers: map[string]string{"arn:aws:iam::1:user/c.smith": "carol"},
	})
	items := Items(s, judged(t, s))
	for title, want := range map[string][]string{
		"user bob may act as others":                           {"bob"},
		"ClusterRoleBinding system:discovery names user bob":   {"bob"},
		"ClusterRoleBinding empty gives ClusterRole nowhere":   {"carol@example.com"},
		"ClusterRole view gives more":                          {"carol@example.com"},
		"ClusterRoleBinding first gives cluster-admin":         {"kubernetes-admin"},
		"CertificateSigningRequest x was signed":               {"bob", "mallory"},
		`aws-auth maps "arn:aws:iam::1:user/bob`:               {"arn:aws:iam::1:user/bob"},
		`aws-auth maps "arn:aws:iam::1:user/c.smith`:           {"arn:aws:iam::1:user/c.smith", "carol"},
		"extension API servers and admission webhooks: absent": nil,
		"user carol@example.com is cluster-admin":              {"carol@example.com"},
	} {
		if got := itemTitled(t, items, title).People; !slices.Equal(got, want) {
			t.Errorf("%s: about %q, want %q", title, got, want)
		}
	}
}

// What is as good as cluster-admin needs two people, also where its risk is not critical.
func TestAdminEquivalentDoorsNeedTwoPeople(t *testing.T) {
	foreign := inventory.CA{Subject: "CN=foreign", Fingerprint: "f", KeyID: "k", NotBefore: now.AddDate(-1, 0, 0),
		NotAfter: now.AddDate(1, 0, 0),
		Key:      "RSA 2048", IsCA: true}
	own := foreign
	own.Subject, own.Fingerprint, own.KeyID = "CN=own", "own", "own"
	s := all(&inventory.Snapshot{
		Nodes: twoControlPlanes[:1],
		Components: []controlplane.Component{apiserver(t, "cp1", "--token-auth-file=t.csv", "--basic-auth-file=b.csv",
			"--oidc-issuer-url=https://idp",
			"--oidc-username-claim=email", "--oidc-groups-claim=g",
			"--authentication-token-webhook-config-file=w", "--authorization-mode=Webhook,ABAC"),
			program(t, "cp1", "etcd", "--listen-client-urls=https://127.0.0.1:2379")},
		ClusterRoles: []inventory.Role{clusterRole("cluster-admin", star)},
		ClusterBindings: []inventory.Binding{bind("first", "", "cluster-admin", inventory.Subject{Kind: inventory.User,
			Name: "kubernetes-admin"}),
			bind("ops", "", "cluster-admin", inventory.Subject{Kind: inventory.Group, Name: "ops"})},
		AWSAuth: []string{"arn:1: system:masters", "arn:2: ops", "arn:3: view"},
		CSRs: []inventory.CSR{{Name: "x", Signer: apiserverClient, Subject: "m", Groups: []string{inventory.MastersGroup},
			Approved: true}},
		Authentication: inventory.Authentication{ClientCAs: []inventory.CA{own, foreign}, RequestHeaderCAs: []inventory.CA{own}},
		Webhooks: []inventory.AdmissionHook{{Config: "c", Name: "all", Mutating: true, Everything: true, Target: "service a/b"},
			{Config: "c", Name: "some", Mutating: true, Target: "service a/b"}},
	})
	s.Server.CAFingerprint = "own"
	items := Items(s, judged(t, s))
	for title, want := range map[string]bool{
		"tokens in the file t.csv": true, "passwords in the file b.csv": true, "groups of https://idp get no prefix": true,
		"user names of https://idp get no prefix": false, "a webhook (w) says": true,
		"a webhook allows what RBAC may not": true, "(ABAC)": true, "etcd asks no client certificate": true,
		"ClusterRoleBinding first gives": true, `maps "arn:1: system:masters`: true, `maps "arn:2: ops`: true,
		`maps "arn:3: view`: false, "CertificateSigningRequest x": true, "CA CN=foreign may sign client": true,
		"every certificate of the proxy's CA": true, "webhook all ": true, "webhook some ": false,
	} {
		if i := itemTitled(t, items, title); i.Admin != want {
			t.Errorf("%s (%s): admin %t, want %t", i.Title, i.Risk, i.Admin, want)
		}
	}
}

func TestDoorsSayWhatTheyCannotTell(t *testing.T) {
	three := []inventory.Node{{Name: "n1"}, {Name: "n2"}, {Name: "n3"}}
	one := []inventory.Kubelet{{Nodes: []string{"n1"}, Webhook: true, Mode: "Webhook"}}
	whole := []inventory.Kubelet{{Nodes: []string{"n1", "n2", "n3"}, Webhook: true, Mode: "Webhook"}}
	etcd := []controlplane.Component{apiserver(t, "cp1"), program(t, "cp1", "etcd", "--client-cert-auth")}
	for name, c := range map[string]struct {
		s        *inventory.Snapshot
		door     string
		state    DoorState
		tellable string // in Tellable; "" is that all was told
		evidence string
	}{
		"kube-proxy without its ConfigMap": {none(all(&inventory.Snapshot{}), inventory.SourceKubeProxy), DoorKubeProxy, CannotTell,
			"--metrics-bind-address",
			"there is no ConfigMap"},
		"kube-proxy with another key": {all(&inventory.Snapshot{}), DoorKubeProxy, CannotTell, "config.conf", "has no config.conf"},
		"kube-proxy on loopback": {all(&inventory.Snapshot{KubeProxy: &inventory.KubeProxy{MetricsBindAddress: "127.0.0.1:10249"}}),
			DoorKubeProxy, Absent,
			"", "metricsBindAddress"},
		"one kubelet of three": {without(all(&inventory.Snapshot{Nodes: three, Kubelets: one}), inventory.SourceConfigz,
			"2 of 3 kubelets did not answer, n2 among them"), DoorKubelet, Present, "/configz", "1 of 3 kubelets answered"},
		"a 403 midway": {without(all(&inventory.Snapshot{Nodes: three, Kubelets: one}), inventory.SourceConfigz, "the scan may not read it"),
			DoorKubelet, Present, "/configz", "1 of 3 kubelets answered"},
		"every kubelet":   {all(&inventory.Snapshot{Nodes: three, Kubelets: whole}), DoorKubelet, Present, "", "configz of 3 nodes"},
		"no legacy token": {all(&inventory.Snapshot{}), DoorSATokens, CannotTell, "serviceaccounts/token in the audit log", "0 Secrets"},
		"a legacy token": {all(&inventory.Snapshot{TokenSecrets: []inventory.TokenSecret{{Namespace: "a", Name: "b"}}}), DoorSATokens, Present,
			"serviceaccounts/token in the audit log", "1 Secrets"},
		"etcd that was seen": {all(&inventory.Snapshot{Nodes: twoControlPlanes[:1], Components: etcd}), DoorEtcd, Present,
			"compare the CA files", "by their files' names alone"},
		"etcd that was not seen": {all(&inventory.Snapshot{}), DoorEtcd, CannotTell, "compare the CA files", "by their files' names alone"},
		"one etcd of two": {all(&inventory.Snapshot{Nodes: twoControlPlanes, Components: etcd}), DoorEtcd, Present, "--given",
			"on 1 control-plane nodes"},
		"a token file on one API server, and one that was not seen": {all(&inventory.Snapshot{Nodes: twoControlPlanes,
			Components: []controlplane.Component{apiserver(t, "cp1", "--token-auth-file=t")}}), DoorStaticTokens, Present, "--given",
			"on 1 control-plane nodes"},
		"a controller manager, and no scheduler": {all(&inventory.Snapshot{Nodes: twoControlPlanes[:1],
			Components: []controlplane.Component{program(t, "cp1", "kube-controller-manager", "--bind-address=127.0.0.1",
				"--use-service-account-credentials")}}), DoorControlPlane, CannotTell, "--given", "command line of kube-scheduler"},
		"an authentication configuration": {all(&inventory.Snapshot{Nodes: twoControlPlanes[:1],
			Components: []controlplane.Component{apiserver(t, "cp1", "--authentication-config=a")}}), DoorOIDC, CannotTell, AuthenticationConfigHow,
			"reads its authentication configuration"},
		"an authorization configuration": {all(&inventory.Snapshot{Nodes: twoControlPlanes[:1],
			Components: []controlplane.Component{apiserver(t, "cp1", "--authorization-config=a")}}), DoorAuthorization, CannotTell,
			"no scan reads it",
			"reads its authorizers"},
	} {
		d := judged(t, c.s).Door(c.door)
		if d.State != c.state || (d.Tellable == "") != (c.tellable == "") || !strings.Contains(d.Tellable, c.tellable) ||
			!strings.Contains(strings.Join(d.Evidence, "; "), c.evidence) {
			t.Errorf("%s: %s, tellable by %q, %q", name, d.State, d.Tellable, d.Evidence)
		}
	}
}

// One API server that takes anonymous requests is enough, whichever it is, and one that was not seen may be it.
func TestAnonymousRequestsAreToldOfEveryAPIServer(t *testing.T) {
	on, off := func(node string) controlplane.Component { return program(t, node, "kube-apiserver") },
		func(node string) controlplane.Component { return apiserver(t, node) }
	refused, unasked := inventory.AnonymousProbe{API: 401, Livez: 401}, inventory.AnonymousProbe{}
	for name, c := range map[string]struct {
		components []controlplane.Component
		probe      inventory.AnonymousProbe
		want       DoorState
	}{
		"the first has it on":                         {[]controlplane.Component{on("cp1"), off("cp2")}, unasked, Present},
		"the last has it on":                          {[]controlplane.Component{off("cp1"), on("cp2")}, unasked, Present},
		"the first has it on, and the other answered": {[]controlplane.Component{on("cp1"), off("cp2")}, refused, Present},
		"neither has":                                 {[]controlplane.Component{off("cp1"), off("cp2")}, unasked, Absent},
		"one was not seen":                            {[]controlplane.Component{off("cp1")}, unasked, CannotTell},
		"one was not seen, and one answered":          {[]controlplane.Component{off("cp1")}, refused, CannotTell},
		"none was seen, and one answered":             {nil, refused, CannotTell},
		"one has a file that may say more": {[]controlplane.Component{off("cp1"), {Name: "kube-apiserver", Node: "cp2",
			Flags: map[string][]string{"authentication-config": {"a"}}}}, unasked, CannotTell},
	} {
		d := judged(t, all(&inventory.Snapshot{Nodes: twoControlPlanes, Components: c.components, Anonymous: c.probe})).Door(DoorAnonymous)
		if d.State != c.want || d.State == CannotTell && d.Tellable == "" || d.State == Absent && d.Tellable != "" {
			t.Errorf("%s: %s, want %s (%q, tellable by %q)", name, d.State, c.want, d.Evidence, d.Tellable)
		}
		if on := slices.ContainsFunc(d.Items, func(i DoorItem) bool { return i.ID == "on" }); on != (c.want == Present) {
			t.Errorf("%s: there is an item for it: %t", name, on)
		}
	}
	if d := judged(t, all(&inventory.Snapshot{Anonymous: refused})).Door(DoorAnonymous); d.State != Absent {
		t.Errorf("the only API server refuses, and the door is %s", d.State)
	}
}

func TestProgramsAreListedWithWhatWasNotSeen(t *testing.T) {
	a := judged(t, all(&inventory.Snapshot{Nodes: twoControlPlanes, Components: []controlplane.Component{apiserver(t, "cp1"),
		apiserver(t, "cp2"),
		program(t, "cp1", "kube-scheduler")}}))
	got := map[string]bool{}
	for _, p := range a.Programs {
		got[p.Name] = p.Missing == ""
	}
	want := map[string]bool{"command line of kube-apiserver": true, "command line of kube-controller-manager": false,
		"command line of kube-scheduler": false, "command line of etcd": false}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("which were seen everywhere (-want +got):\n%s", diff)
	}
}
