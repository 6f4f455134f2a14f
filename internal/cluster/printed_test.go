package cluster_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/residue"
)

// recorder is an API server that holds nothing: it says which kinds there are, and writes down what it is asked for.
type recorder struct {
	kinds []residue.Kind
	mu    sync.Mutex
	calls []string // "DELETE /api/v1/nodes/x"
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	say := func(v any) { _ = json.NewEncoder(w).Encode(v) }
	var words []string
	for word := range strings.SplitSeq(strings.Trim(req.URL.EscapedPath(), "/"), "/") {
		plain, err := url.PathUnescape(word)
		if err != nil {
			plain = word
		}
		words = append(words, plain)
	}
	group := ""
	switch {
	case slices.Equal(words, []string{"version"}):
		say(obj{"major": "1", "minor": "37", "gitVersion": "v1.37.2"})
		return
	case slices.Equal(words, []string{"api", "v1", "namespaces", "shop"}):
		say(obj{"kind": "Namespace", "apiVersion": "v1", "metadata": obj{"name": "shop"}})
		return
	case len(words) == 1 && words[0] == "api":
		say(obj{"kind": "APIVersions", "versions": []string{"v1"}})
		return
	case len(words) == 1 && words[0] == "apis":
		groups, seen := []obj{}, map[string]bool{"": true}
		for _, k := range r.kinds {
			if !seen[k.Group] {
				seen[k.Group] = true
				version := obj{"groupVersion": k.Group + "/v1", "version": "v1"}
				groups = append(groups, obj{"name": k.Group, "versions": []obj{version}, "preferredVersion": version})
			}
		}
		say(obj{"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
		return
	case len(words) == 2 && words[0] == "api", len(words) == 3 && words[0] == "apis":
		if words[0] == "apis" {
			group = words[1]
		}
		resources := []obj{}
		for _, k := range r.kinds {
			if k.Group == group {
				resources = append(resources, obj{"name": k.Resource, "singularName": strings.ToLower(k.Name), "kind": k.Name,
					"namespaced": strings.Contains(k.Path("v1", "x", ""), "/namespaces/"), "verbs": []string{"create", "delete", "deletecollection",
						"get", "list", "patch", "update", "watch"}})
			}
		}
		say(obj{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": strings.TrimPrefix(group+"/v1", "/"), "resources": resources})
		return
	}
	r.mu.Lock()
	r.calls = append(r.calls, req.Method+" /"+strings.Join(words, "/"))
	r.mu.Unlock()
	w.WriteHeader(http.StatusNotFound)
	say(obj{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404, "message": "there is no " +
		words[len(words)-1], "details": obj{"name": words[len(words)-1]}})
}

// Names that begin with a hyphen, of every object that a command may be about. kubectl must take each for a name, and ask the API
// server for that object and no other.
func TestPrintedCommandsTakeNamesForNames(t *testing.T) {
	commands := map[string]bool{}
	for _, c := range slices.Concat(takeAways(t, "--all"), undos(t, "--all")) {
		commands[c] = true
	}
	if len(commands) < 60 {
		t.Errorf("only %d commands are printed", len(commands))
	}
	runPrinted(t, "--all", commands)
	for _, name := range []string{"--kubeconfig=evil", "-A", "--all=true it's  \u202e"} {
		commands := map[string]bool{}
		for _, c := range takeAways(t, name) {
			commands[c] = true
		}
		runPrinted(t, name, commands)
	}
}

func runPrinted(t *testing.T, name string, commands map[string]bool) {
	t.Helper()
	server := &recorder{kinds: residue.Kinds()}
	listen := httptest.NewServer(server)
	t.Cleanup(listen.Close)
	home := t.TempDir()
	config := filepath.Join(home, "config")
	text, err := json.Marshal(obj{"apiVersion": "v1", "kind": "Config", "current-context": "x", "contexts": []any{obj{"name": "x",
		"context": obj{"cluster": "x", "user": "x"}}},
		"users": []any{obj{"name": "x", "user": obj{"token": "x"}}}, "clusters": []any{obj{"name": "x", "cluster": obj{"server": listen.URL}}}})
	must(t, err)
	must(t, os.WriteFile(config, text, 0o600))
	path := "PATH=" + kubectlDir(t) + ":" + os.Getenv("PATH")
	for command := range commands {
		server.calls = nil
		cmd := exec.CommandContext(t.Context(), "bash", "-c", command)
		cmd.Dir, cmd.Env = home, []string{path, "HOME=" + home, "KUBECONFIG=" + config, "KUBE_EDITOR=true"}
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Errorf("%s: found something: %s", command, out)
		}
		if len(server.calls) == 0 {
			t.Errorf("%s: kubectl asks for nothing: %s", command, out)
		}
		for _, call := range server.calls {
			if !strings.HasSuffix(call, name) {
				t.Errorf("%s: kubectl asks for %s: %s", command, call, out)
			}
		}
	}
}

// takeAways are the commands that the inventory prints about a cluster in which everything has one name.
func takeAways(t *testing.T, name string) []string {
	t.Helper()
	at := time.Date(2026, 11, 28, 3, 0, 0, 0, time.UTC)
	person, other := inventory.Subject{Kind: inventory.User, Name: name}, inventory.Subject{Kind: inventory.User, Name: "other"}
	gone := inventory.Subject{Kind: inventory.ServiceAccount, Namespace: "shop", Name: name}
	star := []inventory.PolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}}}
	bind := func(ns, role string, subjects ...inventory.Subject) inventory.Binding {
		return inventory.Binding{Name: name, Namespace: ns, RoleKind: "ClusterRole", RoleName: role, Subjects: subjects, Created: at}
	}
	s := &inventory.Snapshot{Cluster: "prod", At: at, ClusterRoles: []inventory.Role{{Name: "cluster-admin", Rules: star}, {Name: name,
		Rules: star}},
		TokenSecrets: []inventory.TokenSecret{{Namespace: "shop", Name: name, Account: name}},
		CSRs:         []inventory.CSR{{Name: name, Signer: "kubernetes.io/kube-apiserver-client", Subject: name, Requester: name}},
		APIServices:  []inventory.APIService{{Name: name, Service: "shop/x"}},
		Webhooks: []inventory.AdmissionHook{{Config: name, Name: name, Target: "service shop/x"}, {Config: name, Name: name,
			Target: "service shop/x", Mutating: true}},
		ClusterBindings: []inventory.Binding{bind("", "cluster-admin", person), bind("", "gone", person), bind("", "cluster-admin", person,
			other), bind("", "cluster-admin", gone, other)},
		Bindings: []inventory.Binding{bind("shop", "cluster-admin", person), bind("shop", "gone", person), bind("shop",
			"cluster-admin", person, other)}}
	for _, src := range []string{inventory.SourceClusterRoles, inventory.SourceRoles, inventory.SourceClusterBindings,
		inventory.SourceBindings, inventory.SourceAccounts,
		inventory.SourceTokenSecrets, inventory.SourceCSRs, inventory.SourceMutating, inventory.SourceValidating, inventory.SourceAPIServices} {
		s.Sources = append(s.Sources, inventory.Source{Name: src})
	}
	rules, defaults, err := inventory.Shipped()
	must(t, err)
	a := doors.Analyse(s, inventory.Options{Rules: rules, Defaults: defaults, Now: at, Grants: []string{}})
	var out []string
	for _, i := range doors.Items(s, a) {
		if i.TakeAway != "" {
			out = append(out, strings.Split(i.TakeAway, "\n")...)
		}
	}
	for _, f := range a.Findings {
		if _, command, ok := strings.Cut(f.WhatNext(), "kubectl "); ok && f.Subject == nil && f.Item == "" {
			out = append(out, "kubectl "+command)
		}
	}
	return out
}

// undos are the commands of what a session left behind in a cluster in which everything has one name.
func undos(t *testing.T, name string) []string {
	t.Helper()
	at := time.Date(2026, 11, 28, 3, 0, 0, 0, time.UTC)
	before, after, changed := residue.Snapshot{Taken: at}, residue.Snapshot{Taken: at.Add(2 * time.Hour)},
		residue.Snapshot{Taken: at.Add(2 * time.Hour)}
	add := func(to *residue.Snapshot, k residue.Kind, more obj) {
		meta := obj{"name": name, "uid": "1", "creationTimestamp": "2026-11-28T03:10:00Z", "labels": obj{"x": "1"},
			"managedFields": []any{obj{"time": "2026-11-28T03:20:00Z"}}}
		if strings.Contains(k.Path("v1", "x", ""), "/namespaces/") {
			meta["namespace"] = "shop"
		}
		for key, v := range more {
			meta[key] = v
		}
		text, err := json.Marshal(obj{"metadata": meta, "spec": obj{"taints": meta["taints"]}})
		must(t, err)
		o, err := residue.NewObject(k, text, "")
		must(t, err)
		to.Add(k, o)
	}
	taint := []any{obj{"key": "x", "value": "y", "effect": "NoSchedule"}}
	for _, k := range residue.Kinds() {
		add(&after, k, nil)
		add(&before, k, obj{"labels": obj{"old": "1"}, "taints": taint, "generation": 1, "creationTimestamp": "2026-11-20T03:10:00Z"})
		add(&changed, k, obj{"labels": obj{"new": "1"}, "generation": 2, "creationTimestamp": "2026-11-20T03:10:00Z",
			"finalizers": []string{"x/y"}})
	}
	var out []string
	judge := func(in residue.Evidence) {
		for _, r := range residue.Judge(in) {
			if r.Undo != "" {
				out = append(out, r.Undo)
			}
		}
	}
	window := residue.Window{From: at, Until: at.Add(time.Hour)}
	judge(residue.Evidence{Changes: residue.Compare(nil, after, window), After: after})
	judge(residue.Evidence{Changes: residue.Compare(&before, changed, window), Before: &before, After: changed})
	for _, k := range residue.Kinds() {
		for _, verb := range []string{"create", "update"} {
			a := residue.Act{Verb: verb, Group: k.Group, Resource: k.Resource, Name: name, At: at, Code: 200}
			judge(residue.Evidence{Acts: []residue.Act{a}, After: after})
		}
	}
	return out
}
