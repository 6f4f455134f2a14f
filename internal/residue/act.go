package residue

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// Act is one request that a break-glass certificate made, as an API server's audit event of stage ResponseComplete or
// ResponseStarted tells it. Requests that change nothing may be left out.
type Act struct {
	At          time.Time
	Verb        string // create, update, patch, delete, deletecollection, …
	Group       string
	Resource    string
	Subresource string
	Namespace   string
	Name        string // as objectRef has it: empty for a create that lets the API server choose
	Code        int32  // HTTP status; 0 if not known
	DryRun      bool
	As          string // the user that was impersonated; empty for none
	Issued      string // the credential id of a token that was issued
	// Request and Response are the bodies, if the audit policy has them recorded. Nothing of a Secret's or a token's is kept.
	Request, Response json.RawMessage
}

// done reports whether the act changed something.
func (a Act) done() bool {
	return !a.DryRun && (a.Code == 0 || a.Code >= 200 && a.Code < 300) &&
		slices.Contains([]string{"create", "update", "patch", "delete", "deletecollection", "approve", "sign"}, a.Verb)
}

func (a Act) kind() string { return id(a.Group, a.Resource) }

// object is the object as the bodies tell it, whole or only its metadata.
func (a Act) object() map[string]any {
	bodies := []json.RawMessage{a.Response}
	if a.Verb != "patch" {
		bodies = append(bodies, a.Request)
	}
	for _, body := range bodies {
		var o map[string]any
		if json.Unmarshal(body, &o) == nil && str(o, "kind") != "Status" && len(child(o, "metadata")) > 0 {
			return o
		}
	}
	return nil
}

// ref names the object that the act is about. Its name is empty if that is not known.
func (a Act) ref() Ref {
	r := Ref{a.kind(), a.Namespace, a.Name}
	if r.Name == "" && a.Verb == "create" {
		r.Name = str(child(a.object(), "metadata"), "name")
	}
	if r.Resource == "namespaces" {
		r.Namespace = ""
	}
	return r
}

// harmlessPaths are what a patch may touch without anything being left behind.
var harmlessPaths = []string{
	"/spec/template/metadata/annotations/" + restartedAt, "/spec/template/metadata/creationTimestamp",
	"/spec/replicas", "/spec/paused", "/spec/suspend", "/spec/parallelism", "/spec/unschedulable", "/status",
}

// touches lists the paths that a patch may change, and whether that is known. A path that ends where an object is replaced, or
// told to drop what is in it, stands for everything below.
func (a Act) touches() ([]string, bool) {
	if a.Verb != "patch" || len(a.Request) == 0 {
		return nil, false
	}
	var out []string
	// The keys are taken as they are: the API server reads "path" and not "Path", which the decoding of a struct would read as well.
	var steps []map[string]any
	if json.Unmarshal(a.Request, &steps) == nil {
		plain := strings.NewReplacer("~1", "/", "~0", "~")
		for _, s := range steps {
			op, path := str(s, "op"), plain.Replace(str(s, "path"))
			if op == "test" {
				continue
			}
			out = append(out, path)
			if value := child(s, "value"); op != "move" && op != "copy" && len(value) > 0 {
				out = append(out, below(path, value)...)
			}
			if op == "move" { // takes away what it moves
				out = append(out, plain.Replace(str(s, "from")))
			}
		}
		return out, true
	}
	var patch map[string]any
	if json.Unmarshal(a.Request, &patch) != nil {
		return nil, false
	}
	if str(patch, "apiVersion") != "" && str(patch, "kind") != "" {
		return nil, false // a server-side apply, perhaps: it takes away what it does not name
	}
	return below("", patch), true
}

// below lists the paths at which a patch in the form of the object says something. The directives of a strategic merge patch say
// it of the object that they are in: "$patch": "replace" takes away whatever else is there. Only $setElementOrder, which puts a
// list in order, changes nothing that matters.
func below(at string, patch map[string]any) []string {
	var out []string
	for key, v := range patch {
		o, ok := v.(map[string]any)
		list, deletes := strings.CutPrefix(key, "$deleteFromPrimitiveList/")
		switch {
		case strings.HasPrefix(key, "$setElementOrder/"):
		case deletes:
			out = append(out, at+"/"+list)
		case strings.HasPrefix(key, "$"):
			out = append(out, at)
		case ok && len(o) > 0:
			out = append(out, below(at+"/"+key, o)...)
		default:
			out = append(out, at+"/"+key)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// harmless reports whether the act, which was done, leaves nothing behind that anybody must look at.
func (a Act) harmless() bool {
	switch a.Subresource {
	case "":
	case "approval", "status":
		if a.Resource == "certificatesigningrequests" {
			return false
		}
		return true
	case "token", "ephemeralcontainers":
		return false
	default: // scale, exec, attach, portforward, log, eviction, binding, resize, proxy, finalize
		return true
	}
	switch a.Group {
	case "":
		switch a.Resource {
		case "events", "persistentvolumeclaims", "bindings", "resourcequotas", "limitranges", "podtemplates", "componentstatuses", "endpoints":
			return a.Resource != "endpoints" || a.Verb == "delete"
		case "configmaps":
			return a.Namespace != "kube-system" && a.Namespace != "kube-public"
		}
	case "events.k8s.io", "coordination.k8s.io", "policy", "autoscaling", "authorization.k8s.io", "metrics.k8s.io":
		return true
	case "authentication.k8s.io":
		return true
	}
	if strings.HasPrefix(a.Verb, "delete") && !guarding[a.kind()] {
		return true
	}
	paths, known := a.touches()
	if a.Group == "apps" || a.Group == "batch" || a.kind() == "pods" { // whose own labels choose nothing that runs
		paths = slices.DeleteFunc(paths, func(p string) bool {
			return strings.HasPrefix(p, "/metadata/labels/") || strings.HasPrefix(p, "/metadata/annotations/")
		})
	}
	return known && !slices.ContainsFunc(paths, func(p string) bool {
		return !slices.ContainsFunc(harmlessPaths, func(h string) bool { return p == h || strings.HasPrefix(p, h+"/") })
	})
}

// guarding are the kinds whose objects keep people from something, so that their removal opens a door.
var guarding = map[string]bool{
	"networkpolicies.networking.k8s.io":               true,
	"mutatingwebhookconfigurations." + admissionGroup: true, "validatingwebhookconfigurations." + admissionGroup: true,
	"validatingadmissionpolicies." + admissionGroup: true, "validatingadmissionpolicybindings." + admissionGroup: true,
	"mutatingadmissionpolicies." + admissionGroup: true, "mutatingadmissionpolicybindings." + admissionGroup: true,
	"clusterroles." + rbacGroup: true, "clusterrolebindings." + rbacGroup: true, "roles." + rbacGroup: true, "rolebindings." + rbacGroup: true,
	"serviceaccounts": true, "namespaces": true, "flowschemas.flowcontrol.apiserver.k8s.io": true,
}
