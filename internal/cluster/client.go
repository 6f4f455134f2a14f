package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/breakglassd/breakglass/internal/text"
)

// The bounds of what one API server can make the daemon hold: it may belong to the intruder whom the daemon is there against.
const (
	maxAnswer  = 16 << 20 // bytes of one answer: a page of bindings is 300 KB
	maxMessage = 600      // characters of an error's text
	maxPages   = 400      // of one list: 200,000 bindings
	maxAgain   = 5        // how often a request is made again that the API server has no place for just now
)

// errTooLarge says that an answer is longer than what was asked to be read.
var errTooLarge = errors.New("the answer is too large")

// errBusy says that a question had to wait too long behind others of ours.
var errBusy = errors.New("the daemon had too many questions at one time")

// get reads a path of this API server with the daemon's credential. An answer that is not a success is the *StatusError that
// client-go would make of it; one of more than most bytes is errTooLarge.
func (t *target) get(ctx context.Context, path, accept string, most int64) ([]byte, error) {
	return t.getWith(ctx, t.http, path, accept, most)
}

func (t *target) getWith(ctx context.Context, client *http.Client, path, accept string, most int64) ([]byte, error) {
	return t.do(ctx, client, http.MethodGet, path, accept, nil, most)
}

// call makes one request and reads the answer, if into is given. in is sent as JSON.
func (t *target) call(ctx context.Context, client *http.Client, limit flowcontrol.RateLimiter, method, path string, in, into any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("writing the request: %w", err)
		}
	}
	for again := 0; ; again++ {
		if err := limit.Wait(ctx); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return errBusy
		}
		answer, err := t.do(ctx, client, method, path, acceptJSON, body, maxAnswer)
		if wait, asked := apierrors.SuggestsClientDelay(err); asked && apierrors.IsTooManyRequests(err) && again < maxAgain {
			select {
			case <-ctx.Done():
				return err
			case <-time.After(min(time.Duration(wait)*time.Second, 5*time.Second)):
				continue
			}
		}
		if err != nil || into == nil {
			return err
		}
		if err := json.Unmarshal(answer, into); err != nil {
			return fmt.Errorf("reading the answer: %w", err)
		}
		return nil
	}
}

func (t *target) do(ctx context.Context, client *http.Client, method, path, accept string, body []byte, most int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(t.rest.Host, "/")+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("User-Agent", t.rest.UserAgent)
	if body != nil {
		req.Header.Set("Content-Type", acceptJSON)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		most = min(most, 1<<20)
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(answer)) > most {
		return nil, errTooLarge
	}
	if resp.StatusCode/100 == 2 {
		return answer, nil
	}
	status := metav1.Status{}
	if json.Unmarshal(answer, &status) != nil || status.Status != metav1.StatusFailure {
		status = metav1.Status{Status: metav1.StatusFailure, Message: "it answers " + resp.Status}
	}
	status.Message = line(status.Message, maxMessage)
	status.Code = int32(resp.StatusCode)
	if status.Reason == "" {
		status.Reason = reasons[resp.StatusCode]
	}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
		if status.Details == nil {
			status.Details = &metav1.StatusDetails{}
		}
		status.Details.RetryAfterSeconds = int32(min(max(seconds, 0), 60))
	}
	return nil, &apierrors.StatusError{ErrStatus: status}
}

// line makes what another machine says fit for a line on a screen or in a record.
func line(s string, most int) string { return text.Line(s, most) }

// reasons are those of answers that do not come from an API server but from what is before it.
var reasons = map[int]metav1.StatusReason{http.StatusUnauthorized: metav1.StatusReasonUnauthorized,
	http.StatusForbidden: metav1.StatusReasonForbidden,
	http.StatusNotFound:  metav1.StatusReasonNotFound, http.StatusGone: metav1.StatusReasonExpired,
	http.StatusTooManyRequests: metav1.StatusReasonTooManyRequests}

// bindings is where ClusterRoleBindings are, or the RoleBindings of a namespace.
type bindings struct {
	t         *target
	namespace string // empty: ClusterRoleBindings
}

// binding is a ClusterRoleBinding or a RoleBinding.
type binding struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Subjects          []rbacv1.Subject `json:"subjects,omitempty"`
	RoleRef           rbacv1.RoleRef   `json:"roleRef"`
}

// where names the object for a person.
func (b *binding) where() string {
	if b.Namespace == "" {
		return "ClusterRoleBinding " + line(b.Name, 100)
	}
	return "RoleBinding " + line(b.Name, 100) + " in namespace " + line(b.Namespace, 63)
}

func (a bindings) path(name string) string {
	path := rbacPath + "clusterrolebindings"
	if a.namespace != "" {
		path = rbacPath + "namespaces/" + a.namespace + "/rolebindings"
	}
	if name != "" {
		path += "/" + name
	}
	return path
}

func (a bindings) create(ctx context.Context, b *binding) error {
	b.TypeMeta = metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "ClusterRoleBinding"}
	if a.namespace != "" {
		b.Kind = "RoleBinding"
	}
	// The answer is read as well: that something in between says 200 is no binding.
	var made binding
	err := a.t.call(ctx, a.t.writes, a.t.few, http.MethodPost, a.path(""), b, &made)
	if err == nil && made.Name != b.Name {
		return errors.New("the answer is not the binding that was to be made: is this an API server?")
	}
	return err
}

func (a bindings) get(ctx context.Context, name string) (*binding, error) {
	var b binding
	err := a.t.call(ctx, a.t.http, a.t.few, http.MethodGet, a.path(name), nil, &b)
	if err == nil && b.Name != name {
		err = errors.New("the answer is not the binding that was asked for: is this an API server?")
	}
	return &b, err
}

// delete deletes exactly what was looked at: not an object that was made after it, nor one that says something else by now.
func (a bindings) delete(ctx context.Context, b *binding) error {
	o := metav1.DeleteOptions{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"},
		Preconditions: &metav1.Preconditions{UID: &b.UID}}
	if !b.ours() { // of ours it does not matter what it says by now
		o.Preconditions.ResourceVersion = &b.ResourceVersion
	}
	return a.t.call(ctx, a.t.writes, a.t.few, http.MethodDelete, a.path(b.Name), o, nil)
}

// role reads what a ClusterRole, or a Role in a namespace, gives.
func (t *target) role(ctx context.Context, namespace, name string) ([]rbacv1.PolicyRule, error) {
	path := rbacPath + "clusterroles/" + name
	if namespace != "" {
		path = rbacPath + "namespaces/" + namespace + "/roles/" + name
	}
	var role struct {
		Rules []rbacv1.PolicyRule `json:"rules"`
	}
	err := t.call(ctx, t.http, t.few, http.MethodGet, path, nil, &role)
	return role.Rules, err
}

// whoAmI asks the API server whom it takes the daemon for.
func (t *target) whoAmI(ctx context.Context) (authenticationv1.UserInfo, error) {
	review := authenticationv1.SelfSubjectReview{TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "SelfSubjectReview"}}
	err := t.call(ctx, t.http, t.few, http.MethodPost, "/apis/authentication.k8s.io/v1/selfsubjectreviews", review, &review)
	if err == nil && review.Status.UserInfo.Username == "" {
		err = errors.New("the answer is not a SelfSubjectReview: is this an API server?")
	}
	return review.Status.UserInfo, err
}

const authorizationPath = "/apis/authorization.k8s.io/v1/"

// mayI asks whether the daemon may do something.
func (t *target) mayI(ctx context.Context, a authorizationv1.ResourceAttributes) (bool, error) {
	review := authorizationv1.SelfSubjectAccessReview{TypeMeta: metav1.TypeMeta{APIVersion: "authorization.k8s.io/v1",
		Kind: "SelfSubjectAccessReview"},
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &a}}
	err := t.call(ctx, t.http, t.many, http.MethodPost, authorizationPath+"selfsubjectaccessreviews", review, &review)
	return review.Status.Allowed, err
}

// myRules lists what the daemon may do in a namespace.
func (t *target) myRules(ctx context.Context, namespace string) ([]authorizationv1.ResourceRule, error) {
	review := authorizationv1.SelfSubjectRulesReview{TypeMeta: metav1.TypeMeta{APIVersion: "authorization.k8s.io/v1",
		Kind: "SelfSubjectRulesReview"},
		Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace}}
	err := t.call(ctx, t.http, t.many, http.MethodPost, authorizationPath+"selfsubjectrulesreviews", review, &review)
	return review.Status.ResourceRules, err
}

// may asks whether a user may do something.
func (t *target) may(ctx context.Context, spec authorizationv1.SubjectAccessReviewSpec) (authorizationv1.SubjectAccessReviewStatus, error) {
	review := authorizationv1.SubjectAccessReview{TypeMeta: metav1.TypeMeta{APIVersion: "authorization.k8s.io/v1",
		Kind: "SubjectAccessReview"}, Spec: spec}
	var answer authorizationv1.SubjectAccessReview
	err := t.call(ctx, t.http, t.many, http.MethodPost, authorizationPath+"subjectaccessreviews", review, &answer)
	if err == nil && answer.Kind != review.Kind {
		err = errors.New("the answer is not a SubjectAccessReview: is this an API server?")
	}
	return answer.Status, err
}
