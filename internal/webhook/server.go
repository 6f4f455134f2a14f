package webhook

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/text"
)

// Secret is text that never prints.
type Secret = text.Secret

// Cluster is one cluster whose API servers may call. Each needs a token or a client name.
type Cluster struct {
	ID string
	// Tokens are the bearer tokens of its API servers, of no other cluster. There are two while one replaces the other: the new one
	// first, and the log says while API servers still use the second.
	Tokens      []Secret
	ClientNames []string       // common names or DNS names of client certificates of its API servers, of no other cluster
	ClientCAs   *x509.CertPool // the CAs that vouch for these names: another cluster's CA vouches for none of them
}

// Lookup finds what the ledger knows; *breakglass.Service is one.
type Lookup interface {
	ByFingerprint(ctx context.Context, fingerprint string) (*breakglass.Request, bool, error)
	ByCommonName(ctx context.Context, commonName string) (*breakglass.Request, bool, error)
}

// Intake takes batches of audit events. When it returns nil the batch is taken for good.
type Intake interface {
	Take(ctx context.Context, cluster string, body []byte) error
}

// Config is what New needs.
type Config struct {
	Clusters   []Cluster
	Lookup     Lookup
	Intake     Intake // nil: there is no audit endpoint
	Overloaded error  // what the intake's error is when it cannot take more now: answered with 429
	Garbage    error  // what the intake's error is when the batch is no good, now and later: answered with 400
	MaxAudit   int64  // bytes of a batch; 0: 32 MiB
	Find       func(context.Context, finding.Opened) error
	Memory     *Memory // of what was not refused; nil: none is kept
	Log        *slog.Logger
	// Observe is told of each answer: the route ("authorize", "audit"), the cluster (empty before it is known), an outcome out of a
	// fixed set, and how long it took. Nil: nobody is told.
	Observe func(route, cluster, outcome string, took time.Duration)
}

// The bounds of one call and of all calls of one cluster. An API server waits 3 s for a decision (deploy/kube-apiserver), and asks
// again in that time if we fail early.
const (
	maxReview     = 256 << 10 // bytes of a SubjectAccessReview: a user may be in many groups
	defaultAudit  = 32 << 20
	readWithin    = time.Second // of a SubjectAccessReview
	decideWithin  = 2 * time.Second
	batchWithin   = 10 * time.Second // to read a batch
	takeWithin    = 15 * time.Second
	findWithin    = 10 * time.Second
	maxReading    = 64 // SubjectAccessReviews of one cluster that are read at one time
	maxDecisions  = 32 // and that are decided
	maxBatches    = 4  // batches of one cluster that are read or taken at one time: they are large
	maxFindings   = 4  // recorded at one time; a certificate that goes on being used is found again
	minTokenBytes = 24 // shorter ones can be guessed
	strangersLog  = time.Minute
)

// The outcomes that Observe is told of.
const (
	OutcomeNoOpinion    = "no-opinion"
	OutcomeDenied       = "denied"
	OutcomeTaken        = "taken"
	OutcomeUnauthorized = "unauthorized"
	OutcomeRejected     = "rejected" // not a question or a batch at all
	OutcomeOverloaded   = "overloaded"
	OutcomeFailed       = "failed"
)

type server struct {
	cfg      Config
	tokens   []token
	names    map[string]string // client name → cluster
	cas      map[string]*x509.CertPool
	lanes    map[string]lanes // by cluster: who holds one cluster's credential holds up no other cluster
	findings chan struct{}
	stranger *seldom
	outgoing map[string]*seldom // by cluster: says that its second token is still in use
}

// lanes are the places of one cluster. Questions are read in places of their own, so that slow bodies take none from those that are
// there.
type lanes struct {
	reading, decisions chan struct{}
	batches            chan struct{}
}

// take takes a place and returns how to give it back, or nil when ctx ends first.
func take(ctx context.Context, places chan struct{}) func() {
	select {
	case places <- struct{}{}:
		return func() { <-places }
	case <-ctx.Done():
		return nil
	}
}

// seldom says what happens often once in a while, with how often it happened.
type seldom struct {
	mu    sync.Mutex
	every time.Duration
	next  time.Time
	held  int
}

// due reports whether to say it now, and how often it was held back before.
func (s *seldom) due(now time.Time) (held int, due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Before(s.next) {
		s.held++
		return 0, false
	}
	held, s.held, s.next = s.held, 0, now.Add(s.every)
	return held, true
}

type token struct {
	sum     [sha256.Size]byte
	cluster string
	second  bool // the one that is being replaced
}

// maxTokens of one cluster: the one in use and the one that replaces it.
const maxTokens = 2

// New returns the handler of
//
//	POST /authorize/{cluster}   a SubjectAccessReview, authorization.k8s.io/v1
//	POST /audit/{cluster}       an EventList, audit.k8s.io/v1
//
// A caller is let in to exactly the cluster whose token or client certificate it has. The listener must be TLS, see [TLSConfig].
func New(cfg Config) (http.Handler, error) {
	s := &server{cfg: cfg, names: map[string]string{}, cas: map[string]*x509.CertPool{}, lanes: map[string]lanes{},
		findings: make(chan struct{}, maxFindings), stranger: &seldom{every: strangersLog}, outgoing: map[string]*seldom{}}
	switch {
	case cfg.Lookup == nil || cfg.Find == nil || cfg.Log == nil:
		return nil, errors.New("webhook: Lookup, Find and Log are needed")
	case cfg.Intake != nil && (cfg.Overloaded == nil || cfg.Garbage == nil):
		return nil, errors.New("webhook: an Intake needs the errors Overloaded and Garbage")
	}
	if cfg.MaxAudit == 0 {
		s.cfg.MaxAudit = defaultAudit
	}
	if cfg.Observe == nil {
		s.cfg.Observe = func(string, string, string, time.Duration) {}
	}
	for _, c := range cfg.Clusters {
		if err := s.admit(c); err != nil {
			return nil, err
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /authorize/{cluster}", s.route("authorize", s.authorize))
	if cfg.Intake != nil {
		mux.HandleFunc("POST /audit/{cluster}", s.route("audit", s.audit))
	}
	return mux, nil
}

// admit notes how the API servers of a cluster sign in, so that one credential is never good for two clusters.
func (s *server) admit(c Cluster) error {
	if c.ID == "" || len(c.Tokens) == 0 && len(c.ClientNames) == 0 {
		return fmt.Errorf("cluster %q: its API servers cannot sign in to the webhooks: give it a webhook_token_file or webhook_client_names",
			c.ID)
	}
	if len(c.Tokens) > maxTokens {
		return fmt.Errorf("cluster %q: its webhook_token_file has %d tokens: it may hold the new one and, below it, the one that it replaces",
			c.ID, len(c.Tokens))
	}
	for n, given := range c.Tokens {
		t := token{sum: sha256.Sum256([]byte(given)), cluster: c.ID, second: n > 0}
		if len(given) < minTokenBytes {
			return fmt.Errorf("cluster %q: its webhook token has fewer than %d characters: make one with `openssl rand -hex 32`", c.ID,
				minTokenBytes)
		}
		if i := slices.IndexFunc(s.tokens, func(o token) bool { return o.sum == t.sum }); i >= 0 {
			return fmt.Errorf("clusters %q and %q have the same webhook token: give each its own", s.tokens[i].cluster, c.ID)
		}
		s.tokens = append(s.tokens, t)
	}
	s.outgoing[c.ID] = &seldom{every: strangersLog}
	if len(c.ClientNames) > 0 && c.ClientCAs == nil {
		return fmt.Errorf("cluster %q: no CA vouches for its webhook client names: give it a webhook_client_ca_file", c.ID)
	}
	s.cas[c.ID] = c.ClientCAs
	s.lanes[c.ID] = lanes{reading: make(chan struct{}, maxReading), decisions: make(chan struct{}, maxDecisions),
		batches: make(chan struct{}, maxBatches)}
	for _, name := range c.ClientNames {
		switch other, taken := s.names[name]; {
		case name == "" || ours(name) || strings.HasPrefix(name, policy.CanaryPrefix):
			return fmt.Errorf("cluster %q: %q cannot be the name of an API server's client certificate", c.ID, name)
		case taken && other != c.ID:
			return fmt.Errorf("clusters %q and %q have the same webhook client name %q: give each its own", other, c.ID, name)
		}
		s.names[name] = c.ID
	}
	return nil
}

// TLSConfig is for the listener of New's handler. getCertificate is asked at each handshake, so that a renewed certificate is
// served without a restart. clientCAs sign the client certificates of API servers; nil: none is accepted. Without tokens nobody
// gets in without such a certificate, and the handshake says so already.
func TLSConfig(getCertificate func() (*tls.Certificate, error), clientCAs *x509.CertPool, tokens bool) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS13, ClientCAs: clientCAs,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return getCertificate() }}
	switch {
	case !tokens:
		c.ClientAuth = tls.RequireAndVerifyClientCert
		if clientCAs == nil {
			c.ClientCAs = x509.NewCertPool() // without one the system's authorities would count
		}
	case clientCAs != nil:
		c.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return c
}

// caller returns the clusters whose API server the caller is.
func (s *server) caller(r *http.Request) []string {
	var of []string
	if header := r.Header.Values("Authorization"); len(header) > 0 {
		// What is said in words counts alone, so that a wrong token is seen as one.
		given, ok := strings.CutPrefix(header[0], "Bearer ")
		sum := sha256.Sum256([]byte(given))
		for _, t := range s.tokens {
			if subtle.ConstantTimeCompare(sum[:], t.sum[:]) == 1 && ok && len(header) == 1 {
				of = append(of, t.cluster)
				if t.second && s.saysSecond(t.cluster) {
					s.cfg.Log.Info("an API server still uses the token that is being replaced: the second of the cluster's webhook_token_file",
						slog.String("cluster", t.cluster), slog.String("remote", r.RemoteAddr))
				}
			}
		}
		return of
	}
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return nil
	}
	leaf := r.TLS.VerifiedChains[0][0]
	for _, name := range append([]string{leaf.Subject.CommonName}, leaf.DNSNames...) {
		if c, ok := s.names[name]; ok && name != "" && s.vouched(c, r.TLS.PeerCertificates) {
			of = append(of, c)
		}
	}
	return of
}

// saysSecond reports whether to say now that a cluster's second token is in use.
func (s *server) saysSecond(cluster string) bool {
	_, due := s.outgoing[cluster].due(time.Now())
	return due
}

// vouched reports whether a cluster's own CAs vouch for a client certificate. The handshake asked whether any cluster's do.
func (s *server) vouched(cluster string, sent []*x509.Certificate) bool {
	options := x509.VerifyOptions{Roots: s.cas[cluster], Intermediates: x509.NewCertPool(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, c := range sent[1:] {
		options.Intermediates.AddCert(c)
	}
	_, err := sent[0].Verify(options)
	return err == nil
}

// route lets callers in and contains what goes wrong. What a stranger is told is the same for every path and cluster.
func (s *server) route(name string, serve func(http.ResponseWriter, *http.Request, string) string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		start, cluster, outcome := time.Now(), "", OutcomeFailed
		log := s.cfg.Log.With(slog.String("route", name), slog.String("remote", r.RemoteAddr))
		defer func() {
			if p := recover(); p != nil {
				log.Error("a webhook call panicked", slog.String("cluster", cluster), slog.Any("panic", p))
				http.Error(w, "internal error", http.StatusInternalServerError)
			}
			s.cfg.Observe(name, cluster, outcome, time.Since(start))
		}()
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		of := s.caller(r)
		switch asked := r.PathValue("cluster"); {
		case len(of) == 0:
			outcome = OutcomeUnauthorized
			if held, due := s.stranger.due(start); due {
				log.Warn("a caller without a credential of an API server was turned away", slog.Int("more_since_the_last_line", held))
			}
			http.Error(w, "unauthorized", http.StatusUnauthorized)
			return
		case !slices.Contains(of, asked):
			outcome = OutcomeUnauthorized
			log.Warn("an API server called for another cluster than its own", slog.Any("caller", of), slog.String("asked", printable(asked)))
			http.Error(w, "forbidden", http.StatusForbidden)
			return
		default:
			cluster = asked
		}
		if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" ||
			r.Header.Get("Content-Encoding") != "" {
			outcome = OutcomeRejected
			http.Error(w, "plain application/json is expected", http.StatusUnsupportedMediaType)
			return
		}
		outcome = serve(w, r, cluster)
	}
}

// overloaded asks the API server to come again, which it does for decisions within its timeout and for batches for a while.
func overloaded(w http.ResponseWriter) string {
	w.Header().Set("Retry-After", "1")
	http.Error(w, "too many calls at one time", http.StatusTooManyRequests)
	return OutcomeOverloaded
}

// read reads a bounded body before the deadline.
func read(w http.ResponseWriter, r *http.Request, limit int64, deadline time.Time) ([]byte, error) {
	if err := http.NewResponseController(w).SetReadDeadline(deadline); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, fmt.Errorf("limiting the time to read: %w", err)
	}
	return io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
}

// unread answers a call whose body could not be read.
func unread(w http.ResponseWriter, err error) string {
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		http.Error(w, fmt.Sprintf("more than %d bytes", tooLarge.Limit), http.StatusRequestEntityTooLarge)
	} else {
		http.Error(w, "the body could not be read", http.StatusBadRequest)
	}
	return OutcomeRejected
}

// The names of what an API server sends.
const (
	reviewVersion = "authorization.k8s.io/v1"
	reviewKind    = "SubjectAccessReview"
)

type review struct {
	APIVersion string  `json:"apiVersion"`
	Kind       string  `json:"kind"`
	Spec       *Spec   `json:"spec,omitempty"`
	Status     *status `json:"status,omitempty"`
}

type status struct {
	Allowed bool   `json:"allowed"` // always false
	Denied  bool   `json:"denied,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

// decodeReview reads the question. A question that says nothing to decide on is an error: the API server's failure policy decides.
func decodeReview(body []byte) (Spec, error) {
	var q review
	if err := json.Unmarshal(body, &q); err != nil {
		return Spec{}, errors.New("the body is not a SubjectAccessReview in JSON")
	}
	switch {
	case q.Kind != reviewKind || q.APIVersion != reviewVersion:
		return Spec{}, errors.New("the body is not a SubjectAccessReview of authorization.k8s.io/v1: set subjectAccessReviewVersion: v1")
	case q.Spec == nil || q.Spec.Resource == nil && q.Spec.Path == nil:
		return Spec{}, errors.New("the SubjectAccessReview asks about nothing")
	}
	return *q.Spec, nil
}

func (s *server) authorize(w http.ResponseWriter, r *http.Request, cluster string) string {
	ctx, cancel := context.WithTimeout(r.Context(), decideWithin)
	defer cancel()
	leave := take(ctx, s.lanes[cluster].reading)
	if leave == nil {
		return overloaded(w)
	}
	body, err := read(w, r, maxReview, time.Now().Add(readWithin))
	leave()
	if err != nil {
		return unread(w, err)
	}
	if leave = take(ctx, s.lanes[cluster].decisions); leave == nil {
		return overloaded(w)
	}
	defer leave()
	spec, err := decodeReview(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return OutcomeRejected
	}
	d, err := s.decide(ctx, spec, cluster)
	if err == nil && !d.Denied && ours(spec.User) && s.cfg.Memory != nil {
		// Noted first and decided after: of a revocation that comes in between, one of the two knows.
		s.cfg.Memory.note(spec.User, body, time.Now())
		d, err = s.decide(ctx, spec, cluster)
	}
	if err != nil {
		s.cfg.Log.Error("no decision: the API server's failurePolicy decides", slog.String("cluster", cluster),
			slog.String("user", printable(spec.User)), slog.Any("error", err))
		http.Error(w, "the ledger cannot be read", http.StatusInternalServerError)
		return OutcomeFailed
	}
	if d.Finding != nil {
		s.find(r.Context(), *d.Finding)
	}
	outcome := OutcomeNoOpinion
	if d.Denied {
		outcome = OutcomeDenied
		level := slog.LevelInfo
		if spec.User == breakglass.ProbeUser { // the daemon asked for this denial itself
			level = slog.LevelDebug
		}
		s.cfg.Log.Log(ctx, level, "denied", slog.String("cluster", cluster), slog.String("user", printable(spec.User)),
			slog.String("reason", d.Reason))
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(review{APIVersion: reviewVersion, Kind: reviewKind,
		Status: &status{Denied: d.Denied, Reason: d.Reason}}); err != nil {
		s.cfg.Log.Warn("a decision did not reach the API server", slog.String("cluster", cluster), slog.Any("error", err))
	}
	return outcome
}

func (s *server) decide(ctx context.Context, spec Spec, cluster string) (Decision, error) {
	f, err := s.facts(ctx, spec, cluster)
	if err != nil {
		return Decision{}, err
	}
	return Decide(spec, f, time.Now()), nil
}

// facts looks up what Decide needs, and nothing for those who are not ours.
func (s *server) facts(ctx context.Context, spec Spec, cluster string) (Facts, error) {
	f := Facts{Cluster: cluster}
	if !spec.ours() {
		return f, nil
	}
	var err error
	if print, how := spec.fingerprint(); how == byPrint {
		if f.Print, f.Known, err = s.cfg.Lookup.ByFingerprint(ctx, print); err != nil {
			return f, err
		}
	}
	if f.Print == nil {
		f.Name, f.NameIsOf, err = s.cfg.Lookup.ByCommonName(ctx, spec.User)
	}
	return f, err
}

// find records a finding without the API server waiting for it: the denial does not depend on it.
func (s *server) find(ctx context.Context, f finding.Opened) {
	log := s.cfg.Log.With(slog.String("finding", f.Key), slog.String("what", f.What))
	select {
	case s.findings <- struct{}{}:
	default:
		log.Error("a finding is not recorded: too many at one time")
		return
	}
	go func() {
		defer func() { <-s.findings }()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), findWithin)
		defer cancel()
		if err := s.cfg.Find(ctx, f); err != nil {
			log.Error("recording a finding", slog.Any("error", err))
		}
	}()
}

func (s *server) audit(w http.ResponseWriter, r *http.Request, cluster string) string {
	select {
	case s.lanes[cluster].batches <- struct{}{}:
		defer func() { <-s.lanes[cluster].batches }()
	default: // batches are large: those that wait would only fill the memory
		return overloaded(w)
	}
	body, err := read(w, r, s.cfg.MaxAudit, time.Now().Add(batchWithin))
	if err != nil {
		return unread(w, err)
	}
	ctx, cancel := context.WithTimeout(r.Context(), takeWithin)
	defer cancel()
	switch err := s.cfg.Intake.Take(ctx, cluster, body); {
	case err == nil:
		w.WriteHeader(http.StatusOK)
		return OutcomeTaken
	case errors.Is(err, s.cfg.Overloaded), errors.Is(err, context.DeadlineExceeded):
		return overloaded(w)
	case errors.Is(err, s.cfg.Garbage):
		s.cfg.Log.Error("a batch of audit events is no good and is lost", slog.String("cluster", cluster), slog.Any("error", err))
		http.Error(w, "not an EventList of audit.k8s.io/v1", http.StatusBadRequest)
		return OutcomeRejected
	default:
		s.cfg.Log.Error("taking audit events", slog.String("cluster", cluster), slog.Any("error", err))
		http.Error(w, "the events were not taken", http.StatusInternalServerError)
		return OutcomeFailed
	}
}
