package api

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"mime"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/recert"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/text"
)

// maxBody bounds a request body. The largest that make sense are a reason of 1000 characters and a CSR of 16 KiB.
const maxBody = 64 << 10

const (
	defaultMaxPolls   = 1024
	maxPollsPerSignIn = 16
	answerTime        = 90 * time.Second // the longest a handler takes: a claim waits for signer and cluster
	maxListDays       = 90
	defaultListDays   = 30
)

// Config is what NewServer needs. Service, Campaigns, Ledger, LedgerKey and URLs are required.
type Config struct {
	Service   *breakglass.Service
	Campaigns *campaign.Book
	Ledger    *ledger.Ledger
	LedgerKey string // the ledger's public key in note format

	// URLs are the addresses under which people reach this server, as scheme://host[:port]. A sign-in that was made for any
	// other address is refused.
	URLs []string

	// Authorities checks the CAs; nil: no CA is checked here.
	Authorities Authorities
	// Recert has the recertification campaigns; nil: there are none here.
	Recert *recert.Service

	// Sessions and Importer are about what was done with grants. Both are nil where no audit events are kept.
	Sessions Sessions
	Importer Importer

	// Untold says why Slack does not show a request that waits for people; empty: it does. Nil where there is no Slack.
	Untold func(ctx context.Context, r *breakglass.Request) string

	Version string
	Log     *slog.Logger
	// MaxPolls bounds the long polls at one time; over it clients are told to come back. Default 1024.
	MaxPolls int
	// Observe is told about every answer: the route's pattern, the status, and how long it took. It may be nil.
	Observe func(route string, status int, took time.Duration)
}

type server struct {
	cfg       Config
	origin    string // of the ledger
	signIns   *signIns
	addresses *addressLimits
	polls     chan struct{} // a token for each long poll
	imports   chan struct{} // a token for each import of audit events
}

// NewServer returns the handler of the API. It sets its own deadline for each answer; the http.Server around it needs
// ReadHeaderTimeout and ReadTimeout, and a BaseContext that ends when the server should stop, which ends long polls.
func NewServer(cfg Config) (http.Handler, error) {
	if cfg.Service == nil || cfg.Campaigns == nil || cfg.Ledger == nil {
		return nil, errors.New("api: service, campaigns and ledger are required")
	}
	verifier, err := note.NewVerifier(cfg.LedgerKey)
	if err != nil {
		return nil, fmt.Errorf("api: ledger key: %w", err)
	}
	if len(cfg.URLs) == 0 {
		return nil, errors.New("api: no address is configured under which people reach the server; without one no person can sign in")
	}
	cfg.URLs = slices.Clone(cfg.URLs)
	for i, u := range cfg.URLs {
		if cfg.URLs[i], err = Address(u); err != nil {
			return nil, err
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxPolls <= 0 {
		cfg.MaxPolls = defaultMaxPolls
	}
	s := &server{cfg: cfg, origin: verifier.Name(), signIns: newSignIns(), addresses: newAddressLimits(),
		polls:   make(chan struct{}, cfg.MaxPolls),
		imports: make(chan struct{}, importsAtOnce)}
	mux := http.NewServeMux()
	public := func(pattern string, h handler) { mux.Handle(pattern, s.adapt(pattern, anybody, h)) }
	person := func(pattern string, h handler) { mux.Handle(pattern, s.adapt(pattern, signedIn, h)) }

	// These two are limited when it is known for which key they are.
	mux.Handle("POST /v1/session/challenge", s.adapt("POST /v1/session/challenge", byKey, s.challenge))
	mux.Handle("POST /v1/session", s.adapt("POST /v1/session", byKey, s.signIn))
	public("GET /v1/version", s.version)
	public("GET /v1/ledger/key", func(*call) (any, error) { return plain(s.cfg.LedgerKey + "\n"), nil })
	public("GET /v1/ledger/checkpoint", s.checkpoint)
	public("GET /v1/ledger/consistency", s.consistency)

	person("POST /v1/logout", s.logout)
	person("GET /v1/whoami", s.whoami)
	person("GET /v1/profiles", s.profiles)
	person("GET /v1/requests", s.list)
	person("POST /v1/requests", s.request)
	person("GET /v1/requests/{id}", s.get)
	person("GET /v1/requests/{id}/history", s.history)
	person("POST /v1/requests/{id}/claim", s.claim)
	person("POST /v1/requests/{id}/approve", s.approve)
	person("POST /v1/requests/{id}/deny", reasoned(s, s.cfg.Service.Deny))
	person("POST /v1/requests/{id}/withdraw", reasoned(s, s.cfg.Service.Withdraw))
	person("POST /v1/requests/{id}/revoke", reasoned(s, s.cfg.Service.Revoke))
	person("POST /v1/requests/{id}/close", s.closeRequest)
	person("POST /v1/requests/{id}/acknowledge", s.acknowledge)
	person("POST /v1/requests/{id}/sweep", reasoned(s, func(ctx context.Context, a record.Actor, id, _ string) (*breakglass.Request,
		error) {
		return s.cfg.Service.Examine(ctx, a, id)
	}))
	person("POST /v1/clusters/{cluster}/revoke-all", s.revokeAll)
	person("GET /v1/requests/{id}/session", s.session)
	person("POST /v1/clusters/{cluster}/audit", s.importAudit)
	person("GET /v1/findings", s.findings)
	person("POST /v1/findings/settle", s.settle)
	person("GET /v1/clusters/{cluster}/ca", s.caStatus)
	person("POST /v1/clusters/{cluster}/ca/check", s.caCheck)
	person("POST /v1/clusters/{cluster}/ca/plan", s.caPlan)
	person("POST /v1/requests/{id}/take-back", reasoned(s, func(ctx context.Context, a record.Actor, id, _ string) (*breakglass.Request,
		error) {
		return s.cfg.Service.TakeBack(ctx, a, id)
	}))
	person("GET /v1/policy", s.policy)
	person("POST /v1/policy/{digest}/approve", s.signPolicy)
	s.recertRoutes(person)
	public("/", func(*call) (any, error) {
		return nil, newError(record.ClassUnknown, "no-such-path", "the client may be newer than the server",
			"there is nothing at this path by this method")
	})
	return mux, nil
}

// Address brings an address to its one form: scheme://host[:port] in lower case, without a default port, path or anything
// else. Plain http is for this machine only.
func Address(raw string) (string, error) {
	u, err := url.Parse(strings.TrimSpace(raw))
	if err != nil || u.Host == "" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		strings.Trim(u.Path, "/") != "" {
		return "", fmt.Errorf("%q is not an address like https://breakglass.example.com:8443", raw)
	}
	scheme, host := strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	switch scheme {
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		if !text.Loopback(u.Hostname()) {
			return "", fmt.Errorf("%q: plain http would show every secret to the network; use https", raw)
		}
		host = strings.TrimSuffix(host, ":80")
	default:
		return "", fmt.Errorf("%q does not begin with https://", raw)
	}
	return scheme + "://" + host, nil
}

// handler answers one call: with a value to be written as JSON, with text, or with an error.
type handler func(*call) (any, error)

// plain is an answer that is not JSON.
type plain string

// call is one HTTP request on its way through a handler.
type call struct {
	*http.Request
	w      http.ResponseWriter
	signIn *signIn // of the signed-in person; nil on public routes
	token  string
	actor  record.Actor
}

// decode reads the JSON body strictly: one document, known fields, the right media type.
func decode[T any](c *call) (T, error) {
	var v T
	if t, _, err := mime.ParseMediaType(c.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return v, newError(record.ClassInvalid, "content-type", "send Content-Type: application/json", "the body must be JSON")
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.Body, maxBody))
	if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
		return v, newError(record.ClassInvalid, "size", "", "the body is longer than %d bytes", maxBody)
	}
	if err != nil {
		return v, newError(record.ClassInvalid, "body", "", "the body could not be read")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return v, newError(record.ClassInvalid, "body", "the client may be newer than the server", "the body is not what this path takes: %v",
			err)
	}
	if _, err := d.Token(); err != io.EOF {
		return v, newError(record.ClassInvalid, "body", "", "there is more than one JSON document in the body")
	}
	return v, nil
}

// adapt is the one way from HTTP to a handler and back: limits, authentication, errors, and the record of both.
func (s *server) adapt(pattern string, who access, h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		id := rand.Text()[:10]
		w.Header().Set("X-Request-Id", id)
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_ = http.NewResponseController(w).SetWriteDeadline(begin.Add(answerTime)) // not every ResponseWriter has deadlines
		c := &call{Request: r, w: w}
		var v any
		err := s.admit(c, who, begin)
		if err == nil {
			v, err = s.run(c, h)
		}
		status := http.StatusOK
		if err != nil {
			e := s.explain(r, id, pattern, err)
			v, status = e, e.status
			if e.retryAfter > 0 {
				w.Header().Set("Retry-After", strconv.Itoa(int(e.retryAfter.Seconds())))
			}
		}
		s.write(w, id, status, v)
		s.say(c, id, pattern, status, v, time.Since(begin))
		if s.cfg.Observe != nil {
			s.cfg.Observe(pattern, status, time.Since(begin))
		}
	})
}

// say writes one line about a call. What signed-in people did not get is of interest on any day; what went well is, for what counts, in
// the ledger, and strangers must not fill the log.
func (s *server) say(c *call, id, pattern string, status int, answer any, took time.Duration) {
	e, failed := answer.(*Error)
	level := slog.LevelDebug
	switch {
	case failed && e.Class == ClassInternal:
		return // explain has said so
	case failed && c.signIn != nil && status != http.StatusTooManyRequests:
		level = slog.LevelInfo
	}
	attrs := []slog.Attr{slog.String("route", pattern), slog.Int("status", status), slog.String("requestId", id), slog.Duration("took", took)}
	if c.signIn != nil {
		attrs = append(attrs, slog.String("person", c.actor.Person))
	}
	if about := c.PathValue("id"); breakglass.ValidID(about) {
		attrs = append(attrs, slog.String("request", about))
	}
	if failed {
		attrs = append(attrs, slog.String("code", e.Code))
	}
	s.cfg.Log.LogAttrs(c.Context(), level, "api request", attrs...)
}

// run calls the handler and turns a panic into an error, so that one bad request ends no other.
func (s *server) run(c *call, h handler) (v any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return h(c)
}

// admit authenticates and limits. A valid sign-in is limited by itself: strangers at the same address cannot use it up.
func (s *server) admit(c *call, who access, now time.Time) error {
	switch who {
	case byKey:
		return nil
	case anybody:
	case signedIn:
		c.token = bearer(c.Header.Get("Authorization"))
		if x, ok := s.signIns.find(c.token, s.cfg.Service.Policy(), now); ok {
			c.signIn, c.actor = x, record.Actor{Person: x.person, Channel: record.ChannelKey, Key: x.key}
			if !x.rate.AllowN(now, 1) {
				return slowDown(newError(record.ClassLimited, "rate", "wait a second", "too many requests"))
			}
			return nil
		}
	}
	if err := s.limit(c, nil, now); err != nil {
		return err
	}
	if who == signedIn {
		return newError(ClassSignIn, "session", "sign in with your SSH key", "you are not signed in, or your sign-in has ended")
	}
	return nil
}

// access is who may call, and by what calls are counted.
type access int

const (
	anybody  access = iota // by address
	byKey                  // the handler counts: by address and known key
	signedIn               // by session
)

// limit counts a call of a stranger: by its address, and by the first of the keys it is for that a person has.
func (s *server) limit(c *call, keys []string, now time.Time) error {
	known := ""
	for _, k := range keys {
		if _, ok := s.cfg.Service.Policy().PersonByKey(k); ok {
			known = k
			break
		}
	}
	if !s.addresses.allow(c.RemoteAddr, known, now) {
		return slowDown(newError(record.ClassLimited, "rate", "wait a second", "too many requests from this address"))
	}
	return nil
}

func slowDown(e *Error) *Error {
	e.retryAfter = 2 * time.Second
	return e
}

// explain turns an error into what the person may know. What is not meant for people is logged here, once.
func (s *server) explain(r *http.Request, id, pattern string, err error) *Error {
	var e *Error
	if refusal, ok := record.AsRefusal(err); ok {
		e = newError(refusal.Class, refusal.Code, refusal.Next, "%s", refusal.Why)
	} else if !errors.As(err, &e) {
		e = newError(ClassInternal, "internal", "look for the request id in the daemon's log", "something is wrong inside the daemon")
		if errors.Is(err, ledger.ErrUnknownOutcome) {
			e = newError(record.ClassUnavailable, CodeLedger, "tell the people who run it to look at its disk and its log; then see what was "+
				"recorded: breakglass list",
				"the daemon cannot write its ledger now, and starts again")
		}
		if r.Context().Err() == nil {
			s.cfg.Log.ErrorContext(r.Context(), "api request failed", slog.String("requestId", id), slog.String("route", pattern),
				slog.Any("error", err))
		}
	}
	e.status, e.RequestID = status(e.Class), id
	return e
}

// status is the HTTP status of a class of errors.
func status(class string) int {
	switch class {
	case string(record.ClassInvalid):
		return http.StatusBadRequest
	case ClassSignIn:
		return http.StatusUnauthorized
	case string(record.ClassDenied):
		return http.StatusForbidden
	case string(record.ClassUnknown):
		return http.StatusNotFound
	case string(record.ClassConflict):
		return http.StatusConflict
	case string(record.ClassExpired):
		return http.StatusGone
	case string(record.ClassPolicy):
		return http.StatusUnprocessableEntity
	case string(record.ClassLimited):
		return http.StatusTooManyRequests
	case string(record.ClassUnavailable):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

func (s *server) write(w http.ResponseWriter, id string, status int, v any) {
	if t, ok := v.(plain); ok {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, string(t)) // the client is gone; it asks again
		return
	}
	if d, ok := v.(document); ok {
		w.Header().Set("Content-Type", d.media)
		// A report holds what others wrote: no script, no request to anywhere, in no frame.
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'")
		_, _ = w.Write(d.body) // as above
		return
	}
	b, err := json.Marshal(v)
	if err != nil {
		s.cfg.Log.Error("encoding an answer", slog.String("requestId", id), slog.Any("error", err))
		status, b = http.StatusInternalServerError, []byte(`{}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // as above
}

// now is the time by which requests are shown: like the domain's, never before the last ledger entry.
func (s *server) now() time.Time {
	now := time.Now().UTC()
	if last := s.cfg.Ledger.LastTime(); last.After(now) {
		return last
	}
	return now
}

func (s *server) render(r *breakglass.Request) Request {
	out := NewRequest(r, s.cfg.Service.Policy(), s.now())
	out.Trouble = s.cfg.Service.Trouble(r)
	return out
}

// waiting renders a request for a requester who waits for approvals.
func (s *server) waiting(ctx context.Context, r *breakglass.Request, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	out := s.render(r)
	if s.cfg.Untold != nil {
		out.NotTold = s.cfg.Untold(ctx, r)
	}
	return out, nil
}

func (s *server) challenge(c *call) (any, error) {
	in, err := decode[ChallengeFor](c)
	if lerr := s.limit(c, in.Fingerprints, time.Now()); lerr != nil {
		return nil, lerr
	}
	if err != nil {
		return nil, err
	}
	if len(in.Fingerprints) > maxOffered {
		return nil, newError(record.ClassInvalid, "fingerprints", "choose one with --identity", "more than %d keys are offered", maxOffered)
	}
	out := Challenge{Meta: kind("Challenge"), Ledger: s.origin, Known: []string{}}
	out.Challenge, out.Expires = s.signIns.challenge(time.Now().UTC())
	for _, f := range in.Fingerprints {
		if _, ok := s.cfg.Service.Policy().PersonByKey(f); ok {
			out.Known = append(out.Known, f)
		}
	}
	return out, nil
}

func (s *server) signIn(c *call) (any, error) {
	in, err := decode[Proof](c)
	key, ok := parsePublicKey(in.PublicKey)
	var of []string
	if ok {
		of = []string{ssh.FingerprintSHA256(key)}
	}
	if lerr := s.limit(c, of, time.Now()); lerr != nil {
		return nil, lerr
	}
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, newError(record.ClassInvalid, "public-key", "", "the public key cannot be read")
	}
	if !slices.Contains(s.cfg.URLs, in.Server) {
		return nil, newError(ClassSignIn, "other-server", "use the address "+s.cfg.URLs[0],
			"this sign-in was made for %.100q, which is not this server", in.Server)
	}
	now := time.Now().UTC()
	if !s.signIns.checkChallenge(in.Challenge, now) {
		return nil, newError(ClassSignIn, "challenge", "sign in again", "the challenge has expired or is not from here")
	}
	if err := record.VerifySSH([]byte(in.Signature), key, SignInNamespace, SignInText(in.Server, s.origin, in.Challenge)); err != nil {
		return nil, newError(ClassSignIn, "signature", "sign in again; a hardware key must be touched", "the signature does not prove the key")
	}
	fingerprint := ssh.FingerprintSHA256(key)
	p := s.cfg.Service.Policy()
	owner, ok := p.PersonByKey(fingerprint)
	if !ok {
		return nil, s.cfg.Service.RecordStranger(c.Context(), record.Actor{Channel: record.ChannelKey, Key: fingerprint}, "sign-in")
	}
	// Only now: what strangers sign must not fill the table.
	if !s.signIns.use(fingerprint, in.Challenge, now) {
		return nil, newError(ClassSignIn, "challenge", "sign in again", "the challenge has been used already")
	}
	person, _ := p.Person(owner)
	token, x := s.signIns.open(owner, fingerprint, now)
	s.cfg.Log.InfoContext(c.Context(), "signed in", slog.String("person", owner), slog.String("key", fingerprint))
	return SignIn{Meta: kind("Session"), Token: token, Person: owner, Name: person.Name, Key: fingerprint, Expires: x.until}, nil
}

func (s *server) logout(c *call) (any, error) {
	s.signIns.close(c.token)
	return Empty{kind("LoggedOut")}, nil
}

func (s *server) whoami(c *call) (any, error) {
	p := s.cfg.Service.Policy()
	out := Person{Meta: kind("Person"), Person: c.actor.Person, Key: c.actor.Key, Teams: []string{}, Expires: c.signIn.until}
	if x, ok := p.Person(c.actor.Person); ok {
		out.Name = x.Name
	}
	for _, t := range p.Teams {
		if slices.Contains(t.Members, c.actor.Person) {
			out.Teams = append(out.Teams, t.ID)
		}
	}
	return out, nil
}

func (s *server) profiles(c *call) (any, error) {
	p := s.cfg.Service.Policy()
	out := Profiles{Meta: kind("Profiles"), Items: []Profile{}}
	for i := range p.Profiles {
		prof := &p.Profiles[i]
		q := p.Freeze(prof)
		x := Profile{ID: prof.ID, Description: prof.Description, Rights: prof.Rights, Mode: mode(prof.Rights), Risk: prof.Risk,
			DefaultTTLSeconds: int64(prof.TTL.Default / time.Second), MaxTTLSeconds: int64(prof.TTL.Max / time.Second), ReasonMin: prof.ReasonMin,
			IncidentRequired: prof.Incident.Required, Quorum: q, Names: map[string]string{},
			MayRequest: p.MayRequest(c.actor.Person, prof), MayApprove: slices.Contains(q.People(), c.actor.Person)}
		if !x.MayRequest && !x.MayApprove {
			continue
		}
		if prof.Incident.Pattern != nil {
			x.IncidentPattern = prof.Incident.Pattern.String()
		}
		for _, id := range prof.Clusters {
			if cl, ok := p.Cluster(id); ok {
				x.Clusters = append(x.Clusters, Cluster{ID: cl.ID, Server: cl.Server})
			}
			e := policy.Eligibility{Person: c.actor.Person, Part: policy.PartRequester, Profile: prof.ID, Cluster: id}
			if x.MayRequest && p.Suspended(e) {
				x.AskSuspended = append(x.AskSuspended, id)
			}
			if e.Part = policy.PartApprover; x.MayApprove && p.Suspended(e) {
				x.ApproveSuspended = append(x.ApproveSuspended, id)
			}
		}
		for _, id := range q.People() {
			if who, ok := p.Person(id); ok {
				x.Names[id] = who.Name
			}
		}
		out.Items = append(out.Items, x)
	}
	return out, nil
}

func (s *server) list(c *call) (any, error) {
	filter, days := c.FormValue("filter"), defaultListDays
	if d := c.FormValue("days"); d != "" {
		n, err := strconv.Atoi(d)
		if err != nil || n < 1 || n > maxListDays {
			return nil, newError(record.ClassInvalid, "days", "", "days is a number from 1 to %d", maxListDays)
		}
		days = n
	}
	me, now := c.actor.Person, s.now()
	var keep func(*breakglass.Request) bool
	switch filter {
	case "", FilterAll:
		keep = func(*breakglass.Request) bool { return true }
	case FilterMine:
		keep = func(r *breakglass.Request) bool { return r.Ask.By.Person == me }
	case FilterActive:
		keep = func(r *breakglass.Request) bool {
			st := r.State(now)
			return st == breakglass.StateActive || st == breakglass.StateIssuing
		}
	case FilterForMe:
		keep = func(r *breakglass.Request) bool {
			mine := func(a policy.Approval) bool { return a.By.Person == me }
			return r.State(now) == breakglass.StatePending && r.Ask.By.Person != me && slices.Contains(r.Ask.Quorum.People(), me) &&
				!slices.ContainsFunc(r.Approvals, mine)
		}
	case FilterTouched, FilterUnacknowledged:
		keep = func(*breakglass.Request) bool { return true } // the service lists exactly these
	default:
		return nil, newError(record.ClassInvalid, "filter", "", "the filters are %s, %s, %s, %s, %s and %s",
			FilterAll, FilterMine, FilterForMe, FilterActive, FilterTouched, FilterUnacknowledged)
	}
	set := breakglass.SetOpen
	switch filter {
	case FilterTouched:
		set = breakglass.SetTouched
	case FilterUnacknowledged:
		set = breakglass.SetUnacknowledged
	case FilterMine, FilterAll, "":
		set = breakglass.SetSince
	}
	limit, before, err := pageOf(c.URL.Query())
	if err != nil {
		return nil, err
	}
	all, more, err := s.cfg.Service.Page(c.Context(), set, days, before, limit)
	if err != nil {
		return nil, err
	}
	out := Requests{Meta: kind("Requests"), Items: []Request{}}
	size := 0
	for i, r := range slices.Backward(all) { // the newest first, until the page is full
		if keep(r) {
			x := NewRequest(r, s.cfg.Service.Policy(), now)
			out.Items = append(out.Items, x)
			if limit <= MaxPage {
				text, err := json.Marshal(x)
				if err != nil {
					return nil, err
				}
				size += len(text)
			}
		}
		if i == 0 && more || i > 0 && size > maxPageBytes {
			out.Next = r.Seq
			break
		}
	}
	slices.Reverse(out.Items)
	return out, nil
}

// maxPageBytes is about how long a page of a list may get. Requests that name large teams are some tens of KiB each, and the client
// takes a few MiB.
const maxPageBytes = 4 << 20

// pageOf reads which page of a list is asked for; without a limit it is all of the list.
func pageOf(q url.Values) (limit int, before int64, err error) {
	limit, before = math.MaxInt32, math.MaxInt64
	bad := newError(record.ClassInvalid, "page", "", "limit is a number from 1 to %d, and before an entry of the ledger", MaxPage)
	if text := q.Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > MaxPage {
			return 0, 0, bad
		}
	}
	if text := q.Get("before"); text != "" {
		if before, err = strconv.ParseInt(text, 10, 64); err != nil || before < 1 {
			return 0, 0, bad
		}
	}
	return limit, before, nil
}

func (s *server) request(c *call) (any, error) {
	in, err := decode[Ask](c)
	if err != nil {
		return nil, err
	}
	if in.TTLSeconds < 0 || in.TTLSeconds > int64(24*time.Hour/time.Second) {
		return nil, newError(record.ClassPolicy, "policy/ttl", "ask for less", "a lifetime of %d seconds is not possible", in.TTLSeconds)
	}
	ask := breakglass.Ask{Profile: in.Profile, Cluster: in.Cluster, TTL: time.Duration(in.TTLSeconds) * time.Second, Reason: in.Reason,
		Incident: in.Incident, KeyHash: in.KeyHash}
	switch dry := c.URL.Query().Get("dryRun"); dry {
	case "":
	case "true":
		fact, err := s.cfg.Service.CheckAsk(c.Context(), c.actor, ask)
		if err != nil {
			return nil, err
		}
		out := s.render(&breakglass.Request{Ask: fact, Reason: strings.TrimSpace(in.Reason)})
		out.Kind = kindPreview
		return out, nil
	default:
		return nil, newError(record.ClassInvalid, "dry-run", "", "dryRun is true or absent")
	}
	r, err := s.cfg.Service.Request(c.Context(), c.actor, ask)
	return s.waiting(c.Context(), r, err)
}

// done renders the request after a command.
func (s *server) done(r *breakglass.Request, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return s.render(r), nil
}

func (s *server) get(c *call) (any, error) {
	id, q := c.PathValue("id"), c.URL.Query()
	if q.Get("wait") == "" {
		r, err := s.cfg.Service.Get(c.Context(), id)
		return s.waiting(c.Context(), r, err)
	}
	wait, err := time.ParseDuration(q.Get("wait"))
	after, err2 := strconv.ParseInt(cmp.Or(q.Get("after"), "0"), 10, 64)
	if err != nil || err2 != nil || wait < 0 {
		return nil, newError(record.ClassInvalid, "wait", "", "wait is a duration like 50s and after a revision")
	}
	done, ok := s.signIns.poll(c.signIn)
	if !ok {
		return nil, slowDown(newError(record.ClassLimited, "polls", "wait in fewer places", "this sign-in waits in %d places already",
			maxPollsPerSignIn))
	}
	defer done()
	select {
	case s.polls <- struct{}{}:
		defer func() { <-s.polls }()
	default:
		return nil, slowDown(newError(record.ClassUnavailable, "polls", "ask again in a few seconds",
			"too many people are waiting at once"))
	}
	full, err := s.cfg.Service.Resolve(c.Context(), id)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(c.Context(), min(wait, MaxWait))
	defer cancel()
	r, err := s.cfg.Service.Wait(ctx, full, after, breakglass.State(q.Get("was")))
	if err != nil {
		return nil, err
	}
	// The policy may have dropped the person meanwhile.
	if _, ok := s.signIns.find(c.token, s.cfg.Service.Policy(), time.Now()); !ok {
		return nil, newError(ClassSignIn, "session", "sign in with your SSH key", "your sign-in has ended")
	}
	return s.waiting(c.Context(), r, nil)
}

func (s *server) history(c *call) (any, error) {
	id, err := s.cfg.Service.Resolve(c.Context(), c.PathValue("id"))
	if err != nil {
		return nil, err
	}
	if _, err := s.cfg.Service.Get(c.Context(), id); err != nil { // says that there is no such request
		return nil, err
	}
	entries, proofs, err := s.cfg.Ledger.ProveStream(c.Context(), id)
	if err != nil {
		return nil, err
	}
	out := History{Meta: kind("History"), ID: id, Entries: []Entry{}}
	for i, e := range entries {
		x := Entry{Index: e.Seq, Number: e.StreamSeq, Kind: e.Kind, Time: e.Time, Event: json.RawMessage(e.Body), Texts: e.Texts,
			Salts: e.Salts, Leaf: e.Leaf, Hashes: [][]byte{}}
		for _, h := range proofs[i].Hashes {
			x.Hashes = append(x.Hashes, h[:])
		}
		out.Entries, out.Checkpoint = append(out.Entries, x), string(proofs[i].Note)
	}
	return out, nil
}

func (s *server) approve(c *call) (any, error) {
	in, err := decode[Consent](c)
	if err != nil {
		return nil, err
	}
	return s.done(s.cfg.Service.Approve(c.Context(), c.actor, c.PathValue("id"), breakglass.Consent{Digest: in.Digest, Comment: in.Comment,
		Signature: in.Signature}))
}

// reasoned is the handler of a command that takes nothing but a reason.
func reasoned(s *server, command func(ctx context.Context, a record.Actor, id, reason string) (*breakglass.Request, error)) handler {
	return func(c *call) (any, error) {
		in, err := decode[Reason](c)
		if err != nil {
			return nil, err
		}
		return s.done(command(c.Context(), c.actor, c.PathValue("id"), in.Reason))
	}
}

func (s *server) claim(c *call) (any, error) {
	in, err := decode[CSR](c)
	if err != nil {
		return nil, err
	}
	asked, err := s.cfg.Service.Get(c.Context(), c.PathValue("id"))
	if err != nil {
		return nil, err
	}
	// Older requests do not say by which authorities their cluster is known.
	ca := s.cfg.Service.ClusterCA(asked.Ask.Cluster)
	if asked.Ask.CAHash != "" && breakglass.CAHash(ca) != asked.Ask.CAHash {
		return nil, newError(record.ClassConflict, "cluster-ca", "open a new request",
			"the authorities by which %s is known have changed since the request was made", asked.Ask.Cluster)
	}
	d, err := s.cfg.Service.Claim(c.Context(), c.actor, c.PathValue("id"), []byte(in.CSR), in.Signature)
	if err != nil {
		return nil, err
	}
	proof, err := d.Proof.MarshalText()
	if err != nil {
		return nil, fmt.Errorf("writing the ledger proof of request %s: %w", d.Request.ID, err)
	}
	out := Delivery{Meta: kind("Delivery"), Request: s.render(d.Request), Certificate: certificatePEM(d.Certificate),
		Chain:   certificatePEM(d.Chain...),
		Cluster: Cluster{ID: d.Request.Ask.Cluster, Server: d.Request.Ask.Server, CA: string(ca), Way: d.Request.Ask.Way}, Issued: d.Issued.Leaf,
		Proof: string(proof), Warning: d.Warning}
	return out, nil
}

func (s *server) version(*call) (any, error) {
	return ServerVersion{Meta: kind("Version"), Version: s.cfg.Version, Ledger: s.origin, Time: time.Now().UTC()}, nil
}

func (s *server) checkpoint(c *call) (any, error) {
	cp, err := s.cfg.Ledger.Checkpoint(c.Context())
	if err != nil {
		return nil, err
	}
	return plain(cp.Note), nil
}

func (s *server) consistency(c *call) (any, error) {
	from, err := strconv.ParseInt(c.FormValue("from"), 10, 64)
	to, err2 := strconv.ParseInt(c.FormValue("to"), 10, 64)
	if err != nil || err2 != nil || from < 0 || to < from {
		return nil, newError(record.ClassInvalid, "sizes", "", "from and to are ledger sizes, from not greater than to")
	}
	proof, err := s.cfg.Ledger.Consistency(c.Context(), from, to)
	if errors.Is(err, ledger.ErrNotFound) {
		return nil, newError(record.ClassUnknown, "size", "", "the ledger has fewer than %d entries", to)
	}
	if err != nil {
		return nil, err
	}
	out := Consistency{Meta: kind("Consistency"), From: from, To: to, Hashes: [][]byte{}}
	for _, h := range proof {
		out.Hashes = append(out.Hashes, h[:])
	}
	return out, nil
}

func (s *server) closeRequest(c *call) (any, error) {
	in, err := decode[Note](c)
	if err != nil {
		return nil, err
	}
	return s.done(s.cfg.Service.Close(c.Context(), c.actor, c.PathValue("id"), in.Note))
}

func (s *server) acknowledge(c *call) (any, error) {
	in, err := decode[Note](c)
	if err != nil {
		return nil, err
	}
	return s.done(s.cfg.Service.Acknowledge(c.Context(), c.actor, c.PathValue("id"), in.Seen, in.Note))
}

func (s *server) revokeAll(c *call) (any, error) {
	in, err := decode[Reason](c)
	if err != nil {
		return nil, err
	}
	got, err := s.cfg.Service.RevokeAll(c.Context(), c.actor, c.PathValue("cluster"), in.Reason)
	if err != nil {
		return nil, err
	}
	out := Revocations{Meta: kind("Revocations"), Revoked: []Request{}, Left: []LeftAlone{}}
	now := s.now()
	for _, r := range got.Revoked {
		out.Revoked = append(out.Revoked, NewRequest(r, s.cfg.Service.Policy(), now))
	}
	for _, l := range got.Left {
		out.Left = append(out.Left, LeftAlone(l))
	}
	return out, nil
}
