package kubesim

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/kubernetes/scheme"
)

// gitVersion is what kubectl version shows. The minor version is that of the API server whose behaviour was compared.
const gitVersion = "v1.37.2+breakglassd.dev"

// handle authorises c and serves it.
func (s *Server) handle(c Call, r *http.Request) answer {
	for header := range r.Header {
		if strings.HasPrefix(header, "Impersonate-") {
			return status(apierrors.NewForbidden(schema.GroupResource{Resource: "users"}, r.Header.Get("Impersonate-User"),
				errors.New("the simulated API server of breakglassd dev does not do impersonation")))
		}
	}
	if allowed, reason := s.authorize(c); !allowed {
		return forbidden(c, reason)
	}
	if c.Resource == "" {
		return s.servePath(c)
	}
	k, ok := s.kindAt(c)
	if !ok {
		return refusal(http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")
	}
	asTable, ok := accepts(r.Header.Get("Accept"))
	if !ok {
		return refusal(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable, "only application/json is served here")
	}
	misplaced := c.Verb == "create" && (c.Name != "" || k.namespaced && c.Namespace == "")
	if misplaced || !slices.Contains(k.verbs, c.Verb) {
		return refusal(http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed,
			"the server does not allow this method on the requested resource")
	}
	a, err := s.serveObjects(k, c, r)
	if known := (*apierrors.StatusError)(nil); errors.As(err, &known) {
		return status(known)
	}
	if err != nil {
		return status(apierrors.NewBadRequest(err.Error()))
	}
	if o, ok := a.body.(runtime.Object); ok && asTable && len(k.columns) > 0 && c.Verb != "delete" {
		a.body = k.table(o, r.URL.Query().Get("includeObject"), time.Now())
	}
	return a
}

// accepts reads an Accept header: is JSON wanted at all, and if so, as a table for people? The first form that can be
// served counts; kubectl asks for a table first and the client-go of some tools for protobuf first.
func accepts(header string) (asTable, ok bool) {
	if header == "" {
		return false, true
	}
	for form := range strings.SplitSeq(header, ",") {
		mediaType, params, err := mime.ParseMediaType(form)
		if err != nil || !slices.Contains([]string{"application/json", "application/*", "*/*"}, mediaType) {
			continue
		}
		switch params["as"] {
		case "":
			return false, true
		case "Table":
			if params["g"] == metav1.GroupName && params["v"] == "v1" {
				return true, true
			}
		}
	}
	return false, false
}

// refusal is an answer that is about the request and not about an object.
func refusal(code int32, reason metav1.StatusReason, message string) answer {
	return status(&apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason,
		Message: message, Details: &metav1.StatusDetails{}}})
}

// servePath serves health, version and discovery.
func (s *Server) servePath(c Call) answer {
	switch c.Path {
	case "/healthz", "/livez", "/readyz":
		return answer{http.StatusOK, "ok"}
	case "/version", "/version/":
		return answer{http.StatusOK, version.Info{Major: "1", Minor: "36", GitVersion: gitVersion, Platform: "breakglassd/dev"}}
	case "/api":
		return answer{http.StatusOK, &metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"}}}
	}
	var resources []metav1.APIResource // of the group version that is asked for
	var group *metav1.APIGroup         // the group that is asked for
	all := &metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
	asked := strings.TrimPrefix(strings.TrimPrefix(c.Path, "/apis/"), "/api/")
	for _, k := range s.kinds {
		gv := k.gvk.GroupVersion()
		if asked == gv.String() {
			resources = append(resources, metav1.APIResource{Name: k.resource, SingularName: strings.ToLower(k.gvk.Kind),
				Namespaced: k.namespaced, Kind: k.gvk.Kind, Verbs: k.verbs, ShortNames: k.short, Categories: k.categories()})
		}
		known := slices.ContainsFunc(all.Groups, func(g metav1.APIGroup) bool { return g.Name == gv.Group })
		if gv.Group == "" || known {
			continue
		}
		v := metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version}
		g := metav1.APIGroup{Name: gv.Group, Versions: []metav1.GroupVersionForDiscovery{v}, PreferredVersion: v}
		all.Groups = append(all.Groups, g)
		if asked == g.Name {
			g.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
			group = &g
		}
	}
	switch {
	case c.Path == "/apis":
		return answer{http.StatusOK, all}
	case group != nil:
		return answer{http.StatusOK, group}
	case resources != nil:
		return answer{http.StatusOK, &metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"},
			GroupVersion: asked, APIResources: resources}}
	}
	return answer{http.StatusNotFound, "404 page not found\n"}
}

func (s *Server) serveObjects(k kind, c Call, r *http.Request) (answer, error) {
	switch c.Verb {
	case "create":
		return s.create(k, c, r)
	case "delete":
		return s.delete(k, c, r)
	case "list":
		return s.list(k, c, r)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	o, ok := s.objects[k.resource][k.key(c.Namespace, c.Name)]
	if !ok {
		return answer{}, apierrors.NewNotFound(k.groupResource(), c.Name)
	}
	return answer{http.StatusOK, o}, nil
}

func (s *Server) list(k kind, c Call, r *http.Request) (answer, error) {
	byLabel, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	if err != nil {
		return answer{}, err
	}
	byField, err := fields.ParseSelector(r.URL.Query().Get("fieldSelector"))
	if err != nil {
		return answer{}, err
	}
	empty, err := scheme.Scheme.New(k.gvk)
	if err != nil {
		return answer{}, err
	}
	for _, q := range byField.Requirements() {
		if !selectable(empty).Has(q.Field) {
			return answer{}, fmt.Errorf(`%q is not a known field selector: only "metadata.name", "metadata.namespace"`, q.Field)
		}
	}
	list, err := scheme.Scheme.New(k.gvk.GroupVersion().WithKind(k.gvk.Kind + "List"))
	if err != nil {
		return answer{}, err
	}
	list.GetObjectKind().SetGroupVersionKind(k.gvk.GroupVersion().WithKind(k.gvk.Kind + "List"))

	s.mu.RLock()
	defer s.mu.RUnlock()
	var found []runtime.Object
	for o, m := range s.each(k.resource) {
		if c.Namespace != "" && c.Namespace != m.GetNamespace() {
			continue
		}
		if byLabel.Matches(labels.Set(m.GetLabels())) && byField.Matches(selectable(o)) {
			found = append(found, o)
		}
	}
	if err := meta.SetList(list, found); err != nil {
		return answer{}, err
	}
	list.(metav1.ListInterface).SetResourceVersion(strconv.FormatUint(s.version, 10))
	return answer{http.StatusOK, list}, nil
}

// selectable returns what a field selector can ask about o; of a pod, what kubectl describe node asks for is among it.
func selectable(o runtime.Object) fields.Set {
	m := o.(metav1.Object)
	set := fields.Set{"metadata.name": m.GetName(), "metadata.namespace": m.GetNamespace()}
	if pod, ok := o.(*corev1.Pod); ok {
		set["spec.nodeName"], set["status.phase"] = pod.Spec.NodeName, string(pod.Status.Phase)
	}
	return set
}

// each yields the objects of a resource sorted by namespace and name. s.mu is held.
func (s *Server) each(resource string) func(func(runtime.Object, metav1.Object) bool) {
	return func(yield func(runtime.Object, metav1.Object) bool) {
		for _, key := range slices.Sorted(maps.Keys(s.objects[resource])) {
			if o := s.objects[resource][key]; !yield(o, o.(metav1.Object)) {
				return
			}
		}
	}
}

// create stores a new object, or answers a review, which is created but not kept.
func (s *Server) create(k kind, c Call, r *http.Request) (answer, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return answer{}, fmt.Errorf("reading the request body: %w", err)
	}
	if len(body) == 0 {
		return answer{}, fmt.Errorf("the request has no body, want a %s", k.gvk.Kind)
	}
	o, gvk, err := scheme.Codecs.UniversalDeserializer().Decode(body, &k.gvk, nil)
	if err != nil {
		return answer{}, err
	}
	if *gvk != k.gvk {
		return answer{}, fmt.Errorf("the body is a %s, want a %s", gvk, k.gvk)
	}
	o.GetObjectKind().SetGroupVersionKind(k.gvk)
	switch review := o.(type) {
	case *authenticationv1.SelfSubjectReview:
		review.Status.UserInfo = c.User
		return answer{http.StatusCreated, review}, nil
	case *authorizationv1.SelfSubjectAccessReview:
		review.Status = s.accessReview(c.User, review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes)
		return answer{http.StatusCreated, review}, nil
	case *authorizationv1.SubjectAccessReview:
		user := authenticationv1.UserInfo{Username: review.Spec.User, Groups: review.Spec.Groups}
		review.Status = s.accessReview(user, review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes)
		return answer{http.StatusCreated, review}, nil
	case *authorizationv1.SelfSubjectRulesReview:
		review.Status = s.rulesReview(c.User, review.Spec.Namespace)
		return answer{http.StatusCreated, review}, nil
	}
	return s.store(k, c, o, r.URL.Query().Has("dryRun"))
}

func (s *Server) store(k kind, c Call, o runtime.Object, dryRun bool) (answer, error) {
	m := o.(metav1.Object)
	if k.namespaced && cmp.Or(m.GetNamespace(), c.Namespace) != c.Namespace {
		return answer{}, errors.New("the namespace of the provided object does not match the namespace sent on the request")
	}
	if m.GetName() == "" && m.GetGenerateName() != "" {
		m.SetName(m.GetGenerateName() + rand.String(5))
	}
	if k.namespaced {
		m.SetNamespace(c.Namespace)
	}
	m.SetUID(uuid.NewUUID())
	m.SetCreationTimestamp(metav1.NewTime(time.Now().UTC().Truncate(time.Second)))
	m.SetDeletionTimestamp(nil)
	if wrong := validate(k, o); len(wrong) > 0 {
		return answer{}, apierrors.NewInvalid(k.gvk.GroupKind(), m.GetName(), wrong)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.objects["namespaces"]["/"+c.Namespace]; k.namespaced && !ok {
		return answer{}, apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, c.Namespace)
	}
	if _, ok := s.objects[k.resource][k.key(c.Namespace, m.GetName())]; ok {
		return answer{}, apierrors.NewAlreadyExists(k.groupResource(), m.GetName())
	}
	if !dryRun {
		s.put(k, o)
	}
	return answer{http.StatusCreated, o}, nil
}

// put stores o, which nobody may modify afterwards. s.mu is held, or the server has not started.
func (s *Server) put(k kind, o runtime.Object) {
	s.version++
	o.GetObjectKind().SetGroupVersionKind(k.gvk)
	m := o.(metav1.Object)
	m.SetResourceVersion(strconv.FormatUint(s.version, 10))
	if s.objects[k.resource] == nil {
		s.objects[k.resource] = map[string]runtime.Object{}
	}
	s.objects[k.resource][k.key(m.GetNamespace(), m.GetName())] = o
}

// validate fills in RBAC's defaults and then checks what a real API server would refuse: names, labels, annotations,
// subjects and roleRef.
func validate(k kind, o runtime.Object) field.ErrorList {
	nameOK := func(name string, _ bool) []string { return content.IsPathSegmentName(name) } // a generateName has become a name by now
	wrong := apivalidation.ValidateObjectMetaAccessor(o.(metav1.Object), k.namespaced, nameOK, field.NewPath("metadata"))
	var ref *rbacv1.RoleRef
	var subjects []rbacv1.Subject
	kindsOfRole := []string{"ClusterRole"}
	switch b := o.(type) {
	case *rbacv1.ClusterRoleBinding:
		ref, subjects = &b.RoleRef, b.Subjects
	case *rbacv1.RoleBinding:
		ref, subjects = &b.RoleRef, b.Subjects
		kindsOfRole = append(kindsOfRole, "Role")
	default:
		return wrong
	}
	ref.APIGroup = cmp.Or(ref.APIGroup, rbacv1.GroupName)
	at := field.NewPath("roleRef")
	if ref.APIGroup != rbacv1.GroupName {
		wrong = append(wrong, field.NotSupported(at.Child("apiGroup"), ref.APIGroup, []string{rbacv1.GroupName}))
	}
	if !slices.Contains(kindsOfRole, ref.Kind) {
		wrong = append(wrong, field.NotSupported(at.Child("kind"), ref.Kind, kindsOfRole))
	}
	for i := range subjects {
		subject, at := &subjects[i], field.NewPath("subjects").Index(i)
		group := rbacv1.GroupName
		if subject.Kind == rbacv1.ServiceAccountKind {
			group = ""
		}
		subject.APIGroup = cmp.Or(subject.APIGroup, group)
		switch {
		case subject.Name == "":
			wrong = append(wrong, field.Required(at.Child("name"), ""))
		case !slices.Contains([]string{rbacv1.UserKind, rbacv1.GroupKind, rbacv1.ServiceAccountKind}, subject.Kind):
			wrong = append(wrong, field.NotSupported(at.Child("kind"), subject.Kind,
				[]string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind}))
		case subject.APIGroup != group:
			wrong = append(wrong, field.NotSupported(at.Child("apiGroup"), subject.APIGroup, []string{group}))
		case subject.Kind == rbacv1.ServiceAccountKind && subject.Namespace == "":
			wrong = append(wrong, field.Required(at.Child("namespace"), ""))
		}
	}
	if ref.Name == "" { // kube-apiserver 1.37 looks at it last
		wrong = append(wrong, field.Required(at.Child("name"), ""))
	}
	return wrong
}

func (s *Server) delete(k kind, c Call, r *http.Request) (answer, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return answer{}, fmt.Errorf("reading the request body: %w", err)
	}
	var opts metav1.DeleteOptions
	if len(body) > 0 {
		gvk := schema.GroupVersionKind{Version: "v1", Kind: "DeleteOptions"}
		if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, &gvk, &opts); err != nil {
			return answer{}, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := k.key(c.Namespace, c.Name)
	o, ok := s.objects[k.resource][key]
	if !ok {
		return answer{}, apierrors.NewNotFound(k.groupResource(), c.Name)
	}
	m := o.(metav1.Object)
	if p := opts.Preconditions; p != nil {
		what := schema.GroupResource{Group: k.gvk.Group, Resource: k.gvk.Kind} // sic
		if p.UID != nil && *p.UID != m.GetUID() {
			return answer{}, apierrors.NewConflict(what, c.Name, fmt.Errorf("the UID in the precondition (%s) does not match the UID "+
				"in record (%s). The object might have been deleted and then recreated", *p.UID, m.GetUID()))
		}
		if p.ResourceVersion != nil && *p.ResourceVersion != m.GetResourceVersion() {
			return answer{}, apierrors.NewConflict(what, c.Name, fmt.Errorf("the ResourceVersion in the precondition (%s) does not match "+
				"the ResourceVersion in record (%s). The object might have been modified", *p.ResourceVersion, m.GetResourceVersion()))
		}
	}
	if len(opts.DryRun) == 0 && !r.URL.Query().Has("dryRun") {
		delete(s.objects[k.resource], key)
		s.version++
	}
	return answer{http.StatusOK, &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusSuccess,
		Details:  &metav1.StatusDetails{Name: c.Name, Group: k.gvk.Group, Kind: k.resource, UID: m.GetUID()},
	}}, nil
}
