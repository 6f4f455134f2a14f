package rotation_test

import (
	"bytes"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/rotation"
)

// imported is a cluster whose own CA is the issuer that signs: it was imported into Vault, as the first set-up of many is.
func imported(t *testing.T) *kit {
	k := newKit(t)
	k.replaceG1(k.cluster)
	k.o.Published.ClientCAs = [][]byte{k.cluster.der}
	return k
}

func mustNeverLeave(t *testing.T, k *kit, r rotation.Report) {
	t.Helper()
	for _, target := range append([]rotation.Phase{""}, rotation.Phases...) {
		p := rotation.MakePlan(r, rotation.PlanOptions{Target: target})
		for _, s := range slices.Concat(p.Steps, p.Undo) {
			commands := strings.Join(s.Commands, "\n")
			if strings.HasPrefix(s.What, "Remove breakglass-g1 from the client-CA bundle") || s.At == rotation.AtNode &&
				strings.Contains(commands, "awk") && strings.Contains(commands, "breakglass-g1.pem") {
				t.Errorf("at %s, to %q: the cluster's own CA is to leave a bundle: %s", r.Phase, target, s.What)
			}
		}
	}
	for _, f := range r.Verdicts {
		if check, _, _ := strings.Cut(f.Key, "/"); slices.Contains([]string{"old-trusted", "issuer-left", "residue", "client-ca-unknown"},
			check) {
			t.Errorf("at %s: %s says of the cluster's own CA: %s", r.Phase, f.Key, f.Next)
		}
	}
}

// TestRotatingAwayFromTheClustersOwnCA goes through a whole rotation: it ends with the issuer closed in Vault, and at no point is the
// CA to leave a bundle, because every kubelet would be locked out.
func TestRotatingAwayFromTheClustersOwnCA(t *testing.T) {
	k := imported(t)
	at := func(want rotation.Phase, next rotation.Phase) rotation.Plan {
		t.Helper()
		r := k.judge()
		if r.Phase != want || r.Generations[0].ClusterCA == "" {
			t.Fatalf("got %s (%s), want %s; cluster CA %q\n%s", r.Phase, r.Why, want, r.Generations[0].ClusterCA, text(t, r))
		}
		mustNeverLeave(t, k, r)
		p := rotation.MakePlan(r, rotation.PlanOptions{})
		if p.Next != next || (p.Refused != "") != (next == "") {
			t.Fatalf("at %s: plan %+v, want next %q", r.Phase, p, next)
		}
		return p
	}
	at(rotation.NotStarted, rotation.Prepared)
	if got := keys(k.judge(), rotation.Warning); !slices.Contains(got, "key-outside-vault/breakglass-g1") {
		t.Errorf("nothing says where the key is: %q", got)
	}
	k.second(false, false, false)
	at(rotation.Prepared, rotation.TrustedOnAll)
	k.canary(id2, true, true, true)
	k.publish(k.g2)
	at(rotation.TrustedOnAll, rotation.Draining)
	k.roles(id2)
	k.o.Known.LastIssuedUnder[breakglass.Fingerprint(k.cluster.der)] = now
	at(rotation.Draining, "")
	clear(k.o.Known.LastIssuedUnder)
	p := at(rotation.Drained, rotation.Closed)
	if !strings.Contains(p.Steps[0].Commands[0], "usage=read-only,crl-signing,ocsp-signing") ||
		!strings.Contains(p.Steps[0].What, "kubelets and the control plane sign in by it") {
		t.Errorf("the last step is %+v", p.Steps[0])
	}
	for _, target := range []rotation.Phase{rotation.Residue, rotation.Retired} {
		if p := rotation.MakePlan(k.judge(), rotation.PlanOptions{Target: target}); !strings.Contains(p.Refused, "the cluster's own CA") {
			t.Errorf("to %s: %+v", target, p)
		}
	}
	// One bundle file is gone: what is written anew holds it too.
	k.broken(1)
	p = at(rotation.Drained, rotation.Drained)
	if last := p.Steps[len(p.Steps)-1]; !strings.Contains(last.Commands[0], "breakglass-g1.pem") ||
		!strings.Contains(last.Commands[0], "breakglass-g2.pem") {
		t.Errorf("the bundle that is written anew: %q", last.Commands)
	}
	k.o.Servers[1].Declared = nil
	k.o.Vault.Issuers[0].Usage = []string{"read-only"}
	k.noCanary(id1)
	k.o.Vault.Pinned = []string{id2}
	at(rotation.Closed, rotation.Prepared)
	r := k.judge()
	if !r.OK || r.Generations[0].Position != rotation.PositionClosed || !strings.Contains(r.Why, "stays in the bundles") {
		t.Errorf("at the end:\n%s", text(t, r))
	}
	if i := slices.IndexFunc(r.Verdicts, func(f rotation.Verdict) bool { return f.Key == "key-outside-vault/breakglass-g1" }); i < 0 ||
		r.Verdicts[i].Severity != rotation.Info || !strings.Contains(r.Verdicts[i].What, "can still make a certificate for any user") {
		t.Errorf("nothing says who can still make certificates:\n%s", text(t, r))
	}
	// Kubelets take it, as they must; an etcd that does so is as wrong as before.
	k.o.Endpoints = []rotation.Endpoint{{Kind: rotation.KindKubelet, Where: "10.0.0.9:10250", Names: [][]byte{k.cluster.cert.RawSubject}},
		{Kind: rotation.KindKubelet, Where: "kubelet-ca.crt", CAs: [][]byte{k.cluster.der}}}
	if r := k.judge(); !r.OK {
		t.Errorf("kubelets take the cluster's own CA:\n%s", text(t, r))
	}
	k.o.Endpoints = []rotation.Endpoint{{Kind: rotation.KindEtcd, Where: "10.0.0.1:2379", Names: [][]byte{k.cluster.cert.RawSubject}}}
	if r := k.judge(); len(keys(r, rotation.Critical)) != 1 || !strings.HasPrefix(keys(r, rotation.Critical)[0], "shared/client-etcd/") {
		t.Errorf("etcd takes the cluster's own CA: %q", keys(r, rotation.Critical))
	}
	k.o.Endpoints = nil
	// A role that was left behind would sign under it, or try to: that is not the end.
	k.o.Vault.Roles[1].Issuer = id1
	if r := k.judge(); r.Phase != rotation.Active {
		t.Errorf("with a role left behind it is %s", r.Phase)
	}
}

// The cluster's own CA is told wherever it is seen, and by its key.
func TestTheClustersOwnCAIsRecognised(t *testing.T) {
	for where, change := range map[string]func(k *kit, der []byte){
		"kube-root-ca.crt":  func(k *kit, der []byte) { k.o.RootCA = append(k.o.RootCA, der) },
		"client_ca_files":   func(k *kit, der []byte) { k.o.KnownClientCAs = [][]byte{der} },
		"people.kubeconfig": func(k *kit, der []byte) { k.o.Kubeconfigs[0].CAs = append(k.o.Kubeconfigs[0].CAs, der) },
		"/var/lib/kubelet.crt": func(k *kit, der []byte) {
			k.o.Endpoints = []rotation.Endpoint{{Kind: rotation.KindKubelet, Where: "/var/lib/kubelet.crt", CAs: [][]byte{der}}}
		},
		"": func(k *kit, der []byte) {
			k.o.Endpoints = []rotation.Endpoint{{Kind: rotation.KindEtcd, Where: "etcd.crt", CAs: [][]byte{der}}}
		},
	} {
		k := newKit(t)
		change(k, makeCA(t, caOptions{name: "breakglass-ca pki g1", key: k.g1.key, serial: 7}).der) // renewed: another certificate
		k.second(true, true, true)
		k.roles(id2)
		k.publish(k.g1, k.g2)
		r := k.judge()
		if got := r.Generations[0].ClusterCA; !strings.Contains(got, where) || (got == "") != (where == "") || r.Generations[1].ClusterCA != "" {
			t.Errorf("%q: told as %q and %q", where, got, r.Generations[1].ClusterCA)
		}
		if where != "" {
			mustNeverLeave(t, k, r)
		}
	}
}

// An imported cluster CA is not where a rotation goes to.
func TestNoPlanMovesTheRolesToTheClustersOwnCA(t *testing.T) {
	k := newKit(t)
	k.second(true, true, true)
	k.o.RootCA = append(k.o.RootCA, k.g2.der)
	p := rotation.MakePlan(k.judge(), rotation.PlanOptions{})
	if p.Phase != rotation.TrustedOnAll || !strings.Contains(p.Refused, "Rotate to a CA that Vault makes") {
		t.Errorf("%+v", p)
	}
	k.canary(id2, true, false, true)
	if p := rotation.MakePlan(k.judge(), rotation.PlanOptions{}); p.Phase != rotation.TrustedOnSome || len(p.Undo) > 0 {
		t.Errorf("going back takes it out of the bundles: %+v", p)
	}
	k.canary(id2, true, true, true)
	// Its usage is removed: now it has no part in the rotation, and stays where it is.
	k.o.Vault.Issuers[1].Usage = []string{"read-only"}
	k.noCanary(id2)
	k.publish(k.g1, k.g2)
	r := k.judge()
	mustNeverLeave(t, k, r)
	if p := rotation.MakePlan(r, rotation.PlanOptions{}); r.Phase != rotation.NotStarted || p.Next != rotation.Prepared || !r.OK {
		t.Errorf("%+v\n%s", p, text(t, r))
	}
}

// Whether a CA is the cluster's own must be seen before it is taken out anywhere.
func TestNoPlanRemovesWhatMayBeTheClustersOwnCA(t *testing.T) {
	for says, change := range map[string]func(*kit){
		"": func(*kit) {},
		"the root: forbidden": func(k *kit) {
			k.o.RootCA = nil
			k.o.View.Unseen = []rotation.Unseen{{Key: "root-ca", What: "the root: forbidden"}}
		},
		"half of it": func(k *kit) {
			k.o.Published = nil
			k.o.View.Unseen = []rotation.Unseen{{Key: "published/client-ca-file", What: "half of it"}}
		},
		"no such file": func(k *kit) {
			k.o.View.Unseen = []rotation.Unseen{{Key: "file/ca.pem", What: "no such file"}}
		},
		"no client CA beside": func(k *kit) { k.o.Published.ClientCAs = [][]byte{k.g1.der, k.g2.der} },
	} {
		k := newKit(t)
		k.second(true, true, true)
		k.roles(id2)
		k.publish(k.g1, k.g2)
		change(k)
		r := k.judge()
		p := rotation.MakePlan(r, rotation.PlanOptions{})
		if r.Phase != rotation.Drained || (p.Refused == "") != (says == "") || !strings.Contains(p.Refused, says) {
			t.Errorf("%q: %s, %+v", says, r.Phase, p)
		}
	}
}

// The daemon refuses to issue under an issuer that it is not pinned to: wherever the way leads there, pinning comes first.
func TestThePinComesBeforeTheRolesMove(t *testing.T) {
	for name, change := range map[string]func(*kit){
		"some roles moved": func(k *kit) { k.roles(id2); k.o.Vault.Roles[1].Issuer = id1 },
		"switched too early, and the old one is not usable": func(k *kit) {
			k.roles(id2)
			k.canary(id2, true, false, true)
			k.canary(id1, true, false, true)
		},
		"prepared": func(k *kit) { k.canary(id2, false, false, false) },
	} {
		for _, pinned := range []bool{true, false} {
			k := newKit(t)
			k.second(true, true, true)
			k.publish(k.g1, k.g2)
			change(k)
			if !pinned {
				k.o.Vault.Pinned = []string{id1}
			}
			p := rotation.MakePlan(k.judge(), rotation.PlanOptions{})
			if len(p.Steps) == 0 {
				t.Fatalf("%s: %+v", name, p)
			}
			if first := p.Steps[0]; (first.At == rotation.AtDaemon) == pinned || !pinned &&
				!strings.Contains(strings.Join(first.Commands, "\n"), "vault_next_issuer_id: "+id2) {
				t.Errorf("%s, pinned %t: the first step is %+v", name, pinned, first)
			}
		}
	}
}

// What is left out of a bundle that is written anew is lost.
func TestNoBundleIsRewrittenWhileItsContentIsUnknown(t *testing.T) {
	k := newKit(t)
	k.second(true, true, true)
	k.broken(0)
	k.noCanary(id2)
	for h := range k.o.Servers[0].Handshakes {
		k.o.Servers[0].Handshakes[h].Error = "no answer in time"
	}
	k.o.Servers[0].Canaries = k.o.Servers[0].Canaries[:1] // that of the first issuer, which is taken
	p := rotation.MakePlan(k.judge(), rotation.PlanOptions{})
	if !strings.Contains(p.Refused, "whether it takes certificates of breakglass-g2") {
		t.Errorf("%+v", p)
	}
}

// node is a control-plane node, as far as the commands of a plan see one.
type node struct {
	t   *testing.T
	dir string
}

func (n node) file(name string) string { return filepath.Join(n.dir, name) }

func (n node) put(name string, text []byte) {
	n.t.Helper()
	must(n.t, os.WriteFile(n.file(name), text, 0o640))
}

func (n node) get(name string) string {
	n.t.Helper()
	text, err := os.ReadFile(n.file(name))
	if os.IsNotExist(err) {
		return "(none)"
	}
	must(n.t, err)
	return string(text)
}

// run runs the commands of one step as an operator would paste them, and says whether the last went well.
func (n node) run(s rotation.Step) (out string, ok bool) {
	n.t.Helper()
	cmd := exec.Command("/bin/sh", "-c", strings.Join(s.Commands, "\n"))
	cmd.Dir = n.dir
	text, err := cmd.CombinedOutput()
	return string(text), err == nil
}

func certText(c made) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.der})
}

// step makes the plan for a report and returns its step for the node of an address.
func (n node) step(r rotation.Report, address string) rotation.Step {
	n.t.Helper()
	p := rotation.MakePlan(r, rotation.PlanOptions{Bundle: n.file("bundle.crt"), ClusterCA: n.file("ca.crt")})
	i := slices.IndexFunc(p.Steps, func(s rotation.Step) bool { return s.Address == address })
	if i < 0 {
		n.t.Fatalf("no step for %s: %+v", address, p)
	}
	return p.Steps[i]
}

// TestCommandsForBundlesLoseNothing runs the commands that a plan prints for a node, on what may be there.
func TestCommandsForBundlesLoseNothing(t *testing.T) {
	k := newKit(t)
	ca, g1, g2, other := certText(k.cluster), certText(k.g1), certText(k.g2), certText(k.front)
	all := bytes.Join([][]byte{ca, g1, g2}, []byte("\n"))
	k.second(true, false, true)
	appending := k.judge() // the next CA to the second server
	k.broken(1)
	rebuilding := k.judge() // the second server's bundle, with what it took: the first CA
	k = newKit(t)
	k.second(true, true, true)
	k.roles(id2)
	removing := k.judge()
	for name, tt := range map[string]struct {
		r       rotation.Report
		bundle  []byte // nil: none
		ca, pem []byte // the cluster's own CA, and the certificate that was copied to the node
		ok      bool
		says    string
		want    []byte // nil: as before
	}{
		"append":                  {appending, slices.Concat(ca, g1), ca, g2, true, "", slices.Concat(ca, g1, []byte("\n"), g2)},
		"append to an empty file": {appending, []byte{}, ca, g2, false, "must hold the cluster's own CA", nil},
		"append to no file":       {appending, nil, ca, g2, false, "must hold the cluster's own CA", nil},
		"append to words":         {appending, []byte("see the wiki\n"), ca, g2, false, "must hold the cluster's own CA", nil},
		"append nothing": {appending, slices.Concat(ca, g1), ca, []byte{}, false, "is missing or holds no certificate",
			nil},
		"append what was not copied": {appending, slices.Concat(ca, g1), ca, nil, false, "is missing or holds no certificate", nil},
		"rebuild what is missing":    {rebuilding, nil, ca, g1, true, "", slices.Concat(ca, []byte("\n"), g1)},
		"rebuild what is empty":      {rebuilding, []byte{}, ca, g1, true, "", slices.Concat(ca, []byte("\n"), g1)},
		"rebuild words":              {rebuilding, []byte("x"), ca, g1, true, "", slices.Concat(ca, []byte("\n"), g1)},
		"rebuild what is good": {rebuilding, slices.Concat(ca, g1, other), ca, g1, false, "holds certificates on this node",
			nil},
		"rebuild without the cluster's CA":        {rebuilding, nil, nil, g1, false, "is missing or holds no certificate", nil},
		"rebuild with an empty file for its CA":   {rebuilding, nil, []byte{}, g1, false, "is missing or holds no certificate", nil},
		"rebuild without the certificate of ours": {rebuilding, nil, ca, nil, false, "is missing or holds no certificate", nil},
		"remove":                                     {removing, slices.Concat(all, other), ca, g1, true, "", slices.Concat(ca, g2, other)},
		"remove what was not copied":                 {removing, all, ca, nil, false, "", nil},
		"remove by an empty file":                    {removing, all, ca, []byte{}, false, "", nil},
		"remove from a file that would hold nothing": {removing, g1, ca, g1, false, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			n := node{t, t.TempDir()}
			before := "(none)"
			if tt.bundle != nil {
				n.put("bundle.crt", tt.bundle)
				before = string(tt.bundle)
			}
			if tt.ca != nil {
				n.put("ca.crt", tt.ca)
			}
			s := n.step(tt.r, "10.0.0.2:6443")
			for _, g := range []string{"breakglass-g1.pem", "breakglass-g2.pem"} {
				if tt.pem != nil && strings.Contains(s.Commands[0], g) {
					n.put(g, tt.pem)
				}
			}
			want := before
			if tt.want != nil {
				want = string(tt.want)
			}
			out, ok := n.run(s)
			if got := n.get("bundle.crt"); ok != tt.ok || got != want || !strings.Contains(out, tt.says) {
				t.Errorf("went well: %t, want %t; it says %q\nthe bundle:\n%s\nwant:\n%s\ncommand: %s", ok, tt.ok, out, got, want, s.Commands[0])
			}
			if tt.want == nil || tt.bundle == nil {
				return
			}
			// What was there before is kept.
			copies, err := filepath.Glob(n.file("bundle.crt.*"))
			must(t, err)
			if !slices.ContainsFunc(copies, func(c string) bool { return n.get(filepath.Base(c)) == before }) {
				t.Errorf("no copy of what was there: %q", copies)
			}
		})
	}
}

// The declared copies of the bundles change by hand as the nodes do, and the plan says when and how. Its commands may be run again.
func TestPlanSaysWhenTheDeclaredCopiesChange(t *testing.T) {
	k := newKit(t)
	ca, g1, g2 := certText(k.cluster), certText(k.g1), certText(k.g2)
	k.second(true, false, true)
	appending := k.judge()
	k = newKit(t)
	k.second(true, true, true)
	k.roles(id2)
	removing := k.judge()
	for name, tt := range map[string]struct {
		r         rotation.Report
		pem, name string
		was, want []byte
	}{
		"append": {appending, string(g2), "breakglass-g2.pem", slices.Concat(ca, g1), slices.Concat(ca, g1, []byte("\n"), g2)},
		"remove": {removing, string(g1), "breakglass-g1.pem", slices.Concat(ca, g1, g2), slices.Concat(ca, g2)},
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "it's a copy.pem")
		must(t, os.WriteFile(file, tt.was, 0o640))
		must(t, os.WriteFile(filepath.Join(dir, tt.name), []byte(tt.pem), 0o600))
		p := rotation.MakePlan(tt.r, rotation.PlanOptions{Copies: []string{file}})
		last := p.Steps[len(p.Steps)-1]
		if last.At != rotation.AtDaemon || !strings.Contains(last.What, "once every node above is done") || len(last.Commands) != 1 {
			t.Fatalf("%s: got %+v, want the copy last", name, last)
		}
		for range 2 {
			cmd := exec.Command("sh", "-e", "-c", last.Commands[0])
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", name, err, out)
			}
			if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, tt.want) {
				t.Errorf("%s: got %s (%v), want %s", name, got, err, tt.want)
			}
		}
	}
	prepare := rotation.MakePlan(newKit(t).judge(), rotation.PlanOptions{}).Steps[0].Commands[1]
	if !strings.Contains(prepare, `serial_number="$(od `) || !strings.Contains(prepare, " key_bits=256 ") {
		t.Errorf("got %s, want a subject of its own, and a key as setup.sh makes it", prepare)
	}
}
