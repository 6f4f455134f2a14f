package cluster

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/policy"
)

var _ breakglass.Prover = (*Clusters)(nil)

// CredentialIDKey is the extra field of a user in which kube-apiserver (since 1.32) names the certificate that signed in, as
// "X509SHA256=" and the lower-case hex SHA-256 of its DER.
const CredentialIDKey = "authentication.kubernetes.io/credential-id"

// authenticated is the group of everybody who has signed in.
const authenticated = "system:authenticated"

// nothing is a question about a kind of object that no cluster has, so that no guard of the deny webhook is about it and no
// role but one with wildcards allows it. Whatever denies it, denies the certificate.
func nothing() authorizationv1.ResourceAttributes {
	return authorizationv1.ResourceAttributes{Verb: "get", Group: "breakglass.dev", Resource: "proofs"}
}

// Ask implements breakglass.Prover with SubjectAccessReviews. In binding mode an API server is asked for something that the
// bound role allows by its rules as that server has them now, in each of the grant's namespaces: a no is therefore never one
// that would have been a no before as well. A denial is believed only if it is about the certificate and not about the
// question, and only from a webhook that answers: with the failure policy Deny one that is down denies everything. It is
// a no only when the server also refuses what it was asked about the certificate before: it remembers for a while that the
// webhook had no opinion, and lets the same request in by that. In group mode nothing but such a denial is a no.
//
// Problem is one of few sentences, the same for the same trouble, so that a caller can tell whether anything is new.
func (c *Clusters) Ask(ctx context.Context, a breakglass.Access) []breakglass.Answer {
	t, err := c.target(a.Cluster)
	if err != nil {
		return []breakglass.Answer{{Server: a.Cluster, Problem: err.Error(), Silent: true}}
	}
	var before []authorizationv1.SubjectAccessReviewSpec
	for _, text := range c.asked(a.User) {
		var spec authorizationv1.SubjectAccessReviewSpec
		if err := json.Unmarshal(text, &spec); err == nil { // else no API server has asked it
			before = append(before, spec)
		}
	}
	answers := make([]breakglass.Answer, len(t.servers))
	var wait, first sync.WaitGroup
	first.Add(len(t.servers))
	all := make(chan struct{}) // closed when each has answered once
	go func() {
		first.Wait()
		close(all)
	}()
	for i, s := range t.servers {
		wait.Go(func() {
			answers[i] = s.askOnce(ctx, a, before, c.log)
			first.Done()
			// An API server that is slow or away costs the others no time: one that lets the certificate in may refuse it a moment later.
			for tries := 2; !answers[i].No && !answers[i].Silent; tries++ {
				select {
				case <-all:
					return
				case <-ctx.Done():
					return
				case <-time.After(askEvery):
				}
				if again := s.askOnce(ctx, a, before, c.log); !again.Silent {
					answers[i] = again
					answers[i].Tries = tries
				}
			}
		})
	}
	wait.Wait()
	c.besides(ctx, t, a.Request, answers)
	return answers
}

// besides looks whether a binding names the certificate that was not made for the grant, once RBAC has said no to what the grant
// gave: what such a binding gives was not asked about. The answers that are proof by RBAC are none then.
func (c *Clusters) besides(ctx context.Context, t *target, request string, answers []breakglass.Answer) {
	if !slices.ContainsFunc(answers, func(a breakglass.Answer) bool { return a.By == breakglass.RefusedByRBAC }) {
		return
	}
	c.mu.Lock()
	said := slices.Clone(c.beside[t.id+"/"+request])
	c.mu.Unlock()
	there := 0
	err := t.anyServer(ctx, func(ctx context.Context, t *target) error {
		there = 0
		return t.find(ctx, url.Values{}, func(page []*binding) {
			for _, o := range page {
				if o.Name != namePrefix+request && o.gives(request) {
					if there++; len(said) < 2*maxBeside {
						said = append(said, o.where()+" to "+o.role()+": still there")
					}
				}
			}
		})
	})
	for i := range answers {
		if answers[i].By != breakglass.RefusedByRBAC {
			continue
		}
		switch {
		case there > 0:
			server := answers[i].Server
			answers[i] = breakglass.StillAllowed(answers[i].Question)
			answers[i].Server = server
		case err != nil:
			answers[i] = breakglass.Answer{Server: answers[i].Server, Question: answers[i].Question, Silent: true,
				Problem: "it refuses what the grant gave, but whether another binding names the certificate cannot be told: the bindings cannot be " +
					"listed"}
		}
		answers[i].Bindings = said
	}
}

// askEvery is how long an API server that lets the certificate in is left alone while another has not answered.
const askEvery = 50 * time.Millisecond

func (t *target) askOnce(ctx context.Context, a breakglass.Access, before []authorizationv1.SubjectAccessReviewSpec,
	log *slog.Logger) breakglass.Answer {
	ctx, cancel := context.WithTimeout(ctx, t.rest.Timeout)
	defer cancel()
	out := t.ask(ctx, a, before, log)
	out.Server, out.At = t.rest.Host, time.Now()
	return out
}

func (t *target) ask(ctx context.Context, a breakglass.Access, before []authorizationv1.SubjectAccessReviewSpec,
	log *slog.Logger) breakglass.Answer {
	trouble := func(err error) breakglass.Answer {
		log.DebugContext(ctx, "an API server gave no proof", slog.String("cluster", t.id), slog.String("server", t.rest.Host),
			slog.String("request", a.Request), slog.Any("error", err))
		return breakglass.Answer{Problem: problem(err), Silent: true}
	}
	var hidden string // with a binding: why there is no proof if the webhook does not say no either
	var said []string
	if a.Rights.Binding() {
		questions, why, err := t.questions(ctx, a.Rights)
		if err != nil {
			return trouble(err)
		}
		denied := 0
		for _, q := range questions {
			status, err := t.review(ctx, a, q)
			switch {
			case err != nil:
				return trouble(err)
			case status.Allowed:
				return breakglass.StillAllowed(words(q))
			case status.Denied:
				denied++
			}
			said = append(said, words(q))
		}
		if len(questions) > 0 && denied == 0 {
			return breakglass.Answer{No: true, By: breakglass.RefusedByRBAC, Question: strings.Join(said, ", and ")}
		}
		hidden = why
		if denied > 0 {
			hidden = "an authorization webhook there refuses the question, which hides what RBAC says, but not the certificate"
		}
	}
	q := nothing()
	status, err := t.review(ctx, a, q)
	switch {
	case err != nil:
		return trouble(err)
	case status.Allowed:
		return breakglass.StillAllowed(words(q))
	case status.Denied && status.EvaluationError != "":
		return breakglass.Answer{Silent: true, Problem: "an authorization webhook there does not work, and until it does everything " +
			"is refused: that proves nothing"}
	case !status.Denied && a.Rights.Binding():
		return breakglass.Answer{Problem: hidden, Silent: true}
	case !status.Denied:
		return breakglass.WebhookNotAsked()
	}
	for _, spec := range before {
		switch status, err := t.reviewSpec(ctx, spec); {
		case err != nil:
			return trouble(err)
		case status.Allowed:
			return breakglass.StillAllowed(wordsOf(spec))
		}
	}
	return breakglass.Answer{No: true, By: breakglass.RefusedByWebhook, Question: words(q)}
}

// words says a question as a person would ask it.
func words(q authorizationv1.ResourceAttributes) string { return "may it " + describe(q) + "?" }

func wordsOf(s authorizationv1.SubjectAccessReviewSpec) string {
	switch p := s.NonResourceAttributes; {
	case s.ResourceAttributes != nil:
		return words(*s.ResourceAttributes)
	case p != nil:
		return "may it " + p.Verb + " " + p.Path + "?"
	}
	return ""
}

// review asks this API server whether the certificate may do what q says.
func (t *target) review(ctx context.Context, a breakglass.Access,
	q authorizationv1.ResourceAttributes) (authorizationv1.SubjectAccessReviewStatus, error) {
	groups := []string{authenticated}
	if a.Rights.Group != "" {
		groups = []string{a.Rights.Group, authenticated}
	}
	spec := authorizationv1.SubjectAccessReviewSpec{User: a.User, Groups: groups, ResourceAttributes: &q}
	if a.Fingerprint != "" {
		spec.Extra = map[string]authorizationv1.ExtraValue{CredentialIDKey: {"X509SHA256=" + strings.ToLower(a.Fingerprint)}}
	}
	return t.reviewSpec(ctx, spec)
}

func (t *target) reviewSpec(ctx context.Context, spec authorizationv1.SubjectAccessReviewSpec) (authorizationv1.SubjectAccessReviewStatus,
	error) {
	status, err := t.may(ctx, spec)
	if err != nil {
		return authorizationv1.SubjectAccessReviewStatus{}, askError{err}
	}
	return status, nil
}

// askError is what went wrong with the question itself, and roleError with reading the role that it comes from.
type askError struct{ error }

func (e askError) Unwrap() error { return e.error }

type roleError struct {
	error
	role string
}

func (e roleError) Unwrap() error { return e.error }

// problem says in one of few sentences why an API server gave no answer.
func problem(err error) string {
	var certificate *tls.CertificateVerificationError
	var role roleError
	var status apierrors.APIStatus
	switch {
	case errors.As(err, &certificate):
		return "it shows a certificate that the CA in the daemon's kubeconfig does not vouch for, or not for this address"
	case apierrors.IsUnauthorized(err):
		return "it does not accept the daemon's credential"
	case apierrors.IsForbidden(err) && errors.As(err, &role):
		return "the daemon may not read " + role.role + ", so it does not know what to ask: apply policies/kubernetes/, and name the role there"
	case apierrors.IsForbidden(err):
		return "the daemon may not ask: apply policies/kubernetes/ (create subjectaccessreviews)"
	case errors.As(err, &status) && status.Status().Code < 500:
		return fmt.Sprintf("it answers with an error: %s", apierrors.ReasonForError(err))
	case errors.Is(err, errBusy):
		return "the daemon had too many questions at one time to ask it all of them"
	}
	return "it does not answer"
}

// questions returns what the rights allow and little else does: one question, or one in each namespace. No question means that
// there is none to ask, and why says so.
func (t *target) questions(ctx context.Context, r policy.Rights) (qs []authorizationv1.ResourceAttributes, why string, err error) {
	namespaces := r.Namespaces
	if len(namespaces) == 0 {
		namespaces = []string{metav1.NamespaceAll}
	}
	var rules []rbacv1.PolicyRule
	name := "ClusterRole " + r.ClusterRole
	if r.Role == "" {
		if rules, err = t.role(ctx, "", r.ClusterRole); err != nil && !apierrors.IsNotFound(err) {
			return nil, "", roleError{err, name}
		}
	}
	for _, ns := range namespaces {
		if r.Role != "" {
			name = "Role " + r.Role + " in namespace " + ns
			if rules, err = t.role(ctx, ns, r.Role); err != nil && !apierrors.IsNotFound(err) {
				return nil, "", roleError{err, name}
			}
		}
		q, ok := question(rules)
		if !ok {
			return nil, name + " is gone or gives nothing now, so there is nothing to ask that it would have allowed", nil
		}
		q.Namespace = ns
		qs = append(qs, q)
	}
	return qs, "", nil
}

// question picks what to ask from the rules of a role: something that the rules allow, that no guard of the deny webhook is
// about if possible, and that as little else as possible allows. Paths that are no resources are never asked for: what there
// is of them, everybody may read.
func question(rules []rbacv1.PolicyRule) (authorizationv1.ResourceAttributes, bool) {
	var best authorizationv1.ResourceAttributes
	most := -1
	for _, rule := range rules {
		name := ""
		if len(rule.ResourceNames) > 0 {
			name = rule.ResourceNames[0]
		}
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					q, score := authorizationv1.ResourceAttributes{Verb: verb, Group: group, Resource: resource, Name: name}, 0
					if q.Verb == rbacv1.VerbAll {
						q.Verb = nothing().Verb
						score += 2
					}
					if q.Group == rbacv1.APIGroupAll {
						q.Group = nothing().Group
						score += 2
					}
					q.Resource, q.Subresource, _ = strings.Cut(resource, "/")
					if q.Resource == rbacv1.ResourceAll {
						q.Resource = nothing().Resource
						score += 2
					}
					if slices.Contains([]string{"get", "list", "watch"}, q.Verb) && q.Subresource == "" && q.Resource != "secrets" {
						score += 10 // no guard is about reading such a thing
					}
					if score > most && !everybodys(q) {
						best, most = q, score
					}
				}
			}
		}
	}
	return best, most >= 0
}

// everybodys reports whether Kubernetes lets everybody do it who has signed in.
func everybodys(q authorizationv1.ResourceAttributes) bool {
	return strings.HasPrefix(q.Resource, "selfsubject")
}

// Ping sends a GET /version that carries a nonce to every configured API server of a cluster at the same time, with the daemon's
// credential, so that an audit event which carries it proves that the server's events arrive. Each server, by its address, has
// a nonce of its own. The answer has the error of each API server, nil if it took the daemon's credential and answered.
func (c *Clusters) Ping(ctx context.Context, cluster string, nonces map[string]string) map[string]error {
	t, err := c.target(cluster)
	if err != nil {
		return map[string]error{cluster: err}
	}
	errs := make([]error, len(t.servers))
	var wait sync.WaitGroup
	for i, s := range t.servers {
		wait.Go(func() {
			_, err := s.get(ctx, "/version?"+url.Values{HeartbeatParameter: {nonces[s.rest.Host]}}.Encode(), "application/json", 1<<20)
			errs[i] = s.explain("sending a heartbeat", err)
		})
	}
	wait.Wait()
	out := map[string]error{}
	for i, s := range t.servers {
		out[s.rest.Host] = errs[i]
	}
	return out
}

// HeartbeatParameter is the query parameter that carries a heartbeat's nonce, as it shows in an audit event's requestURI.
const HeartbeatParameter = "breakglass-heartbeat"
