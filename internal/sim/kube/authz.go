package kubesim

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
)

// callOf takes a request apart as kube-apiserver's RequestInfo does; the user is left empty.
func callOf(r *http.Request) Call {
	c := Call{Verb: strings.ToLower(r.Method), Path: r.URL.Path}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case len(parts) > 2 && parts[0] == "api":
		c.Version, parts = parts[1], parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		c.Group, c.Version, parts = parts[1], parts[2], parts[3:]
	default:
		return c // not a resource; discovery is among these
	}
	if parts[0] == "namespaces" && len(parts) > 1 {
		c.Namespace = parts[1] // also when the namespace is itself what is asked for
		if len(parts) > 2 && parts[2] != "status" && parts[2] != "finalize" {
			parts = parts[2:]
		}
	}
	c.Resource = parts[0]
	if len(parts) > 1 {
		c.Name = parts[1]
	}
	if len(parts) > 2 {
		c.Subresource = parts[2]
	}
	watch := r.URL.Query().Get("watch")
	switch r.Method {
	case http.MethodPost:
		c.Verb = "create"
	case http.MethodPut:
		c.Verb = "update"
	case http.MethodGet, http.MethodHead:
		switch {
		case watch == "true" || watch == "1":
			c.Verb = "watch"
		case c.Name == "":
			c.Verb = "list"
		default:
			c.Verb = "get"
		}
	case http.MethodDelete:
		if c.Name == "" {
			c.Verb = "deletecollection"
		}
	}
	return c
}

// authorize answers whether c is allowed, and for the record why. system:masters comes before RBAC, as in Kubernetes.
func (s *Server) authorize(c Call) (bool, string) {
	if slices.Contains(c.User.Groups, masters) {
		return true, ""
	}
	allowed, reason := false, ""
	var missing []error
	s.eachRule(c.User, c.Namespace, func(source string, rule rbacv1.PolicyRule, err error) bool {
		if err != nil {
			missing = append(missing, err)
			return true
		}
		if allowed = ruleAllows(rule, c); allowed {
			reason = "RBAC: allowed by " + source
		}
		return !allowed
	})
	if !allowed && len(missing) > 0 {
		reason = fmt.Sprintf("rbac: RBAC: %v", utilerrors.NewAggregate(missing))
	}
	return allowed, reason
}

// eachRule calls visit with every RBAC rule that user has cluster-wide or in namespace, until visit returns false.
// A binding to a role that does not exist is visited with an error.
func (s *Server) eachRule(user authenticationv1.UserInfo, namespace string, visit func(string, rbacv1.PolicyRule, error) bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	binding := func(source, in string, ref rbacv1.RoleRef, subjects []rbacv1.Subject) bool {
		at := slices.IndexFunc(subjects, func(subject rbacv1.Subject) bool { return applies(subject, in, user) })
		if at < 0 {
			return true
		}
		rules, err := s.rulesOf(ref, in)
		if err != nil {
			return visit(source, rbacv1.PolicyRule{}, err)
		}
		source = fmt.Sprintf("%s of %s %q to %s %q", source, ref.Kind, ref.Name, subjects[at].Kind, subjects[at].Name)
		for _, rule := range rules {
			if !visit(source, rule, nil) {
				return false
			}
		}
		return true
	}
	for o := range s.each("clusterrolebindings") {
		b := o.(*rbacv1.ClusterRoleBinding)
		if !binding(fmt.Sprintf("ClusterRoleBinding %q", b.Name), "", b.RoleRef, b.Subjects) {
			return
		}
	}
	for o := range s.each("rolebindings") {
		b := o.(*rbacv1.RoleBinding)
		if b.Namespace != namespace {
			continue
		}
		if !binding(fmt.Sprintf("RoleBinding \"%s/%s\"", b.Name, b.Namespace), namespace, b.RoleRef, b.Subjects) {
			return
		}
	}
}

// rulesOf resolves a roleRef; namespace is where the binding is, empty for a ClusterRoleBinding. s.mu is held.
func (s *Server) rulesOf(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	if ref.Kind == "Role" {
		if role, ok := s.objects["roles"][namespace+"/"+ref.Name].(*rbacv1.Role); ok {
			return role.Rules, nil
		}
		return nil, apierrors.NewNotFound(schema.GroupResource{Group: rbacv1.GroupName, Resource: "role"}, ref.Name)
	}
	if role, ok := s.objects["clusterroles"]["/"+ref.Name].(*rbacv1.ClusterRole); ok {
		return role.Rules, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Group: rbacv1.GroupName, Resource: "clusterrole"}, ref.Name)
}

// applies reports whether subject, in a binding of namespace, means user.
func applies(subject rbacv1.Subject, namespace string, user authenticationv1.UserInfo) bool {
	switch subject.Kind {
	case rbacv1.UserKind:
		return subject.Name == user.Username
	case rbacv1.GroupKind:
		return slices.Contains(user.Groups, subject.Name)
	case rbacv1.ServiceAccountKind:
		if subject.Namespace != "" {
			namespace = subject.Namespace
		}
		return namespace != "" && user.Username == "system:serviceaccount:"+namespace+":"+subject.Name
	}
	return false
}

func ruleAllows(rule rbacv1.PolicyRule, c Call) bool {
	has := func(list []string, wanted ...string) bool {
		return slices.Contains(list, "*") || slices.ContainsFunc(wanted, func(w string) bool { return slices.Contains(list, w) })
	}
	if !has(rule.Verbs, c.Verb) {
		return false
	}
	if c.Resource == "" {
		return slices.ContainsFunc(rule.NonResourceURLs, func(url string) bool {
			prefix, wild := strings.CutSuffix(url, "*")
			return url == c.Path || wild && strings.HasPrefix(c.Path, prefix)
		})
	}
	resources := []string{c.Resource}
	if c.Subresource != "" {
		resources = []string{c.Resource + "/" + c.Subresource, "*/" + c.Subresource}
	}
	return has(rule.APIGroups, c.Group) && has(rule.Resources, resources...) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, c.Name))
}

// forbidden is kube-apiserver's 403, word for word.
func forbidden(c Call, reason string) answer {
	msg := fmt.Sprintf("User %q cannot %s path %q", c.User.Username, c.Verb, c.Path)
	if c.Resource != "" {
		resource, where := c.Resource, "at the cluster scope"
		if c.Subresource != "" {
			resource += "/" + c.Subresource
		}
		if c.Namespace != "" {
			where = fmt.Sprintf("in the namespace %q", c.Namespace)
		}
		msg = fmt.Sprintf("User %q cannot %s resource %q in API group %q %s", c.User.Username, c.Verb, resource, c.Group, where)
	}
	if reason != "" {
		msg += ": " + reason
	}
	return status(apierrors.NewForbidden(schema.GroupResource{Group: c.Group, Resource: c.Resource}, c.Name, errors.New(msg)))
}

// accessReview answers a (Self)SubjectAccessReview: could user do what spec asks?
func (s *Server) accessReview(user authenticationv1.UserInfo, resource *authorizationv1.ResourceAttributes,
	path *authorizationv1.NonResourceAttributes) authorizationv1.SubjectAccessReviewStatus {
	c := Call{User: user}
	if path != nil {
		c.Verb, c.Path = path.Verb, path.Path
	}
	if resource != nil {
		c.Verb, c.Group, c.Version, c.Resource = resource.Verb, resource.Group, resource.Version, resource.Resource
		c.Subresource, c.Namespace, c.Name = resource.Subresource, resource.Namespace, resource.Name
	}
	allowed, reason := s.authorize(c)
	return authorizationv1.SubjectAccessReviewStatus{Allowed: allowed, Reason: reason}
}

// rulesReview lists everything that user may do in namespace.
func (s *Server) rulesReview(user authenticationv1.UserInfo, namespace string) authorizationv1.SubjectRulesReviewStatus {
	out := authorizationv1.SubjectRulesReviewStatus{
		ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{},
	}
	s.eachRule(user, namespace, func(_ string, rule rbacv1.PolicyRule, err error) bool {
		switch {
		case err != nil:
			out.EvaluationError = err.Error()
		case len(rule.NonResourceURLs) > 0:
			out.NonResourceRules = append(out.NonResourceRules, authorizationv1.NonResourceRule{Verbs: rule.Verbs,
				NonResourceURLs: rule.NonResourceURLs})
		default:
			out.ResourceRules = append(out.ResourceRules, authorizationv1.ResourceRule{
				Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames,
			})
		}
		return true
	})
	return out
}
