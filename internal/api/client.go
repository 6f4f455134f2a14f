package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/retry"
)

// backoff is how long the client waits before it comes back after trouble.
var backoff = retry.Backoff{First: 500 * time.Millisecond, Last: 10 * time.Second}

// The deadlines of the client's calls, and the most that it reads.
const (
	dialTime  = 5 * time.Second
	callTime  = 20 * time.Second
	claimTime = answerTime // the server's longest
	pollGrace = 10 * time.Second
	maxAnswer = 16 << 20  // 90 days of requests
	maxLarge  = 256 << 20 // ten campaigns of the largest cluster that was tried: 15 000 items are about 20 MiB
)

// large marks a result that grows with a campaign, for send: it may be as long as maxLarge.
type large struct{ out any }

// The codes of errors that arise on the client's side, beside the server's.
const (
	CodeUnreachable = "unreachable" // nothing, or nothing readable, came back
	CodeNoKey       = "no-key"      // there is no SSH key to sign in with
	CodeOtherLedger = "other-ledger"
	CodeForged      = "forged-answer" // an answer holds what cannot be ours, such as the name of a file where an id must be
	CodeTooLong     = "too-long"      // the answer is longer than the client takes; none of it is given
)

// CodeLedger is the server's code for a command whose record may or may not have been kept.
const CodeLedger = "ledger"

// Client talks to one server for one person. It signs in by itself when the server wants it. It is not safe for concurrent
// use. Every error is an *Error, or the context's.
type Client struct {
	Server string       // in the form that Address returns
	HTTP   *http.Client // see NewHTTP

	// Keys returns the keys that may prove who the person is. It is called when the server wants a signature.
	Keys func(context.Context) ([]ssh.Signer, error)
	// Ledger is the ledger's origin if it is known already; then a server that names another one gets no signature.
	Ledger string
	// Trust is asked before anything is signed to sign in: an error ends that. It may call what needs no sign-in. It may be nil.
	Trust func(context.Context) error
	// Name is what the person is called on this machine. It stands in the line that a person with an unknown key sends to the operator of
	// the access policy, if the policy could have it as an id.
	Name string
	// SignedIn is the present sign-in, if any. The client replaces it when it signs in again.
	SignedIn SignIn
	// OnTime is told the server's time, to the second, as each answer has it. It may be nil.
	OnTime func(time.Time)
	// OnSignIn is called with each new sign-in. It may be nil.
	OnSignIn func(SignIn)
}

// NewHTTP returns the HTTP client for a server: TLS 1.2 or later, no redirects, and with caPEM no other authority than those
// in it.
func NewHTTP(caPEM []byte) (*http.Client, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if caPEM != nil {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(caPEM) {
			return nil, errors.New("there is no PEM certificate in it")
		}
	}
	return &http.Client{
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: dialTime}).DialContext,
			TLSClientConfig:     conf,
			TLSHandshakeTimeout: dialTime, ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// Temporary reports whether the same call may work in a moment with no change by a person.
func Temporary(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	return e.Code == CodeUnreachable || e.status == http.StatusTooManyRequests || e.status == http.StatusServiceUnavailable
}

// public makes a call that needs no sign-in.
func (c *Client) public(ctx context.Context, method, path string, in, out any) error {
	return patiently(ctx, func() error { return c.send(ctx, callTime, method, path, "", in, out) })
}

// maxTries bounds how often a call is made again that the server had no time for: it says after how long, and on a bad night a whole
// company comes from one address.
const maxTries = 10

func patiently(ctx context.Context, call func() error) error {
	for try := 0; ; try++ {
		err := call()
		var e *Error
		if try == maxTries || !errors.As(err, &e) || e.Code != "rate" || e.retryAfter == 0 || pause(ctx, try, e.retryAfter) != nil {
			return err
		}
	}
}

// call makes a call as the person: it signs in first if the person is not signed in, and once more if the sign-in has ended.
func (c *Client) call(ctx context.Context, limit time.Duration, method, path string, in, out any) error {
	fresh := false
	if c.SignedIn.Token == "" {
		if err := c.SignIn(ctx); err != nil {
			return err
		}
		fresh = true
	}
	err := patiently(ctx, func() error { return c.send(ctx, limit, method, path, c.SignedIn.Token, in, out) })
	var e *Error
	if fresh || !errors.As(err, &e) || e.Class != ClassSignIn {
		return err
	}
	if err := c.SignIn(ctx); err != nil {
		return err
	}
	return c.send(ctx, limit, method, path, c.SignedIn.Token, in, out)
}

// ask is call with a result.
func ask[T any](ctx context.Context, c *Client, method, path string, in any) (T, error) {
	var out T
	err := c.call(ctx, callTime, method, path, in, &out)
	return out, err
}

// work is ask for what keeps the daemon busy: as long as its longest answer takes.
func work[T any](ctx context.Context, c *Client, method, path string, in any) (T, error) {
	var out T
	err := c.call(ctx, claimTime, method, path, in, &out)
	return out, err
}

// long is work for a result that grows with a campaign.
func long[T any](ctx context.Context, c *Client, path string) (T, error) {
	var out T
	err := c.call(ctx, claimTime, http.MethodGet, path, nil, large{&out})
	return out, err
}

// send makes one HTTP call. A *string as out takes the body as it is, and an io.Writer has it written, as much as came; anything
// else is decoded from JSON. What comes back is whole or an error.
func (c *Client) send(ctx context.Context, limit time.Duration, method, path, token string, in, out any) error {
	parent := ctx
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var body io.Reader
	media := "application/json"
	if file, ok := in.(upload); ok {
		body, media = file, "application/octet-stream"
	} else if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encoding a call: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.Server+path, body)
	if err != nil {
		return c.unreachable(err)
	}
	if in != nil {
		req.Header.Set("Content-Type", media)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.HTTP.Do(req)
	if parent.Err() != nil {
		return parent.Err()
	}
	if err != nil {
		return c.unreachable(err)
	}
	defer resp.Body.Close()
	if t, err := http.ParseTime(resp.Header.Get("Date")); err == nil && c.OnTime != nil {
		c.OnTime(t)
	}
	most := int64(maxAnswer)
	if l, ok := out.(large); ok {
		out, most = l.out, maxLarge
	}
	if w, ok := out.(io.Writer); ok && resp.StatusCode == http.StatusOK {
		return c.pour(parent, w, resp.Body)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if parent.Err() != nil {
		return parent.Err()
	}
	if err != nil {
		return c.unreachable(err)
	}
	if int64(len(b)) > most {
		return newError(ClassInternal, CodeTooLong, "ask for less, like fewer days; a report of any length goes to a file with --out",
			"the answer of %s is longer than %d MiB and was not taken", c.Server, most>>20)
	}
	if resp.StatusCode != http.StatusOK {
		return c.refused(resp, b)
	}
	if s, ok := out.(*string); ok {
		*s = string(b)
		return nil
	}
	var meta Meta
	if err := json.Unmarshal(b, &meta); err != nil || meta.APIVersion != Version {
		return c.strange(resp)
	}
	err = json.Unmarshal(b, out)
	if bad := (*BadIDError)(nil); errors.As(err, &bad) {
		return c.forged(bad.What)
	}
	if err != nil {
		return c.strange(resp)
	}
	return nil
}

// forged is the error for an answer that no server of ours gives: it would lead this program elsewhere.
func (c *Client) forged(why string) error {
	return newError(ClassInternal, CodeForged, "nothing was written. Do not use this server; tell the people who run it, and keep this output",
		"%s answers as no breakglass server does: %s", c.Server, why)
}

// pour writes an answer as it comes.
func (c *Client) pour(ctx context.Context, w io.Writer, body io.Reader) error {
	in := bufio.NewReader(body)
	for {
		if _, err := in.Peek(1); err != nil { // what the server did, apart from what the file did
			switch {
			case errors.Is(err, io.EOF):
				return nil
			case ctx.Err() != nil:
				return ctx.Err()
			}
			return c.unreachable(fmt.Errorf("the answer broke off: %w", err))
		}
		if _, err := io.CopyN(w, in, int64(in.Buffered())); err != nil {
			e := newError(ClassInternal, "write", "make room, or write it elsewhere", "the answer could not be written: %v", err)
			e.cause = err
			return e
		}
	}
}

// refused reads the server's error. Gateways answer with pages of their own.
func (c *Client) refused(resp *http.Response, body []byte) error {
	var e Error
	if err := json.Unmarshal(body, &e); err != nil || e.Kind != "Error" || e.Why == "" {
		if s := resp.StatusCode; s == http.StatusBadGateway || s == http.StatusServiceUnavailable || s == http.StatusGatewayTimeout {
			return c.unreachable(fmt.Errorf("a gateway before it answers %s", resp.Status))
		}
		return c.strange(resp)
	}
	e.status = resp.StatusCode
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 && n <= 60 {
		e.retryAfter = time.Duration(n) * time.Second
	}
	return &e
}

func (c *Client) strange(resp *http.Response) error {
	return newError(ClassInternal, "strange-answer", "check the server's address", "%s answers %s, but not as a breakglass server does",
		c.Server, resp.Status)
}

func (c *Client) unreachable(cause error) *Error {
	var u *url.Error
	if errors.As(cause, &u) {
		cause = u.Err
	}
	next := "check the address and the network; the daemon's host knows more: breakglassd doctor"
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	if errors.As(cause, &unknown) || errors.As(cause, &name) {
		next = "give the authority of its certificate with --ca-file, if that is the right server"
	}
	if errors.Is(cause, context.DeadlineExceeded) {
		cause = errors.New("no answer in time")
	}
	e := newError(record.ClassUnavailable, CodeUnreachable, next, "%s cannot be reached: %v", c.Server, cause)
	e.cause = cause
	return e
}

// SignIn signs in with the first of the person's keys that the server knows.
func (c *Client) SignIn(ctx context.Context) error {
	keys, err := c.signers(ctx)
	if err != nil {
		return err
	}
	if c.Trust != nil {
		if err := c.Trust(ctx); err != nil {
			return err
		}
	}
	var ch Challenge
	for part := range slices.Chunk(keys, maxOffered) { // people with an agent full of keys are found too
		offer := ChallengeFor{}
		for _, k := range part {
			offer.Fingerprints = append(offer.Fingerprints, ssh.FingerprintSHA256(k.PublicKey()))
		}
		if err := c.public(ctx, http.MethodPost, "/v1/session/challenge", offer, &ch); err != nil {
			return err
		}
		if len(ch.Known) > 0 {
			break
		}
	}
	if c.Ledger != "" && ch.Ledger != c.Ledger {
		return newError(ClassSignIn, CodeOtherLedger, "ask an operator of the daemon before you go on",
			"%s now has the ledger %q, but it is known to have %q", c.Server, ch.Ledger, c.Ledger)
	}
	// A key that is not enrolled is proven all the same: then the try is on record, and the refusal says what to do.
	signer := keys[0]
	for _, k := range keys {
		if slices.Contains(ch.Known, ssh.FingerprintSHA256(k.PublicKey())) {
			signer = k
			break
		}
	}
	armored, err := sign(signer, SignInNamespace, SignInText(c.Server, ch.Ledger, ch.Challenge))
	if err != nil {
		return err
	}
	in := Proof{PublicKey: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))), Server: c.Server, Challenge: ch.Challenge,
		Signature: armored}
	var ses SignIn
	if err := c.public(ctx, http.MethodPost, "/v1/session", in, &ses); err != nil {
		if e := (*Error)(nil); errors.As(err, &e) && e.Code == "unknown-person" {
			e.Next = "send this line to the operator who keeps the access policy; it belongs under people: " + c.policyLine(in.PublicKey)
		}
		return err
	}
	c.SignedIn = ses
	if c.OnSignIn != nil {
		c.OnSignIn(ses)
	}
	return nil
}

// policyLine is the person's entry in an access policy.
func (c *Client) policyLine(publicKey string) string {
	name := c.Name
	if !policyID().MatchString(name) {
		name = "YOUR-NAME"
	}
	return fmt.Sprintf("- {id: %s, keys: [%q]}", name, publicKey)
}

// policyID is what of the policy's ids can be printed into a line of YAML without quotes.
var policyID = policy.Pattern(`^[a-z][a-z0-9]{0,30}$`)

// signers are the person's plain keys: policies hold no SSH certificates.
func (c *Client) signers(ctx context.Context) ([]ssh.Signer, error) {
	keys, err := c.Keys(ctx)
	if err != nil {
		return nil, err
	}
	var plain []ssh.Signer
	for _, k := range keys {
		// An agent's keys are of a type of its own: what they are their bytes say.
		if key, err := ssh.ParsePublicKey(k.PublicKey().Marshal()); err == nil {
			if cert, ok := key.(*ssh.Certificate); ok {
				k = certifiedKey{k, cert.Key}
			}
		}
		same := func(x ssh.Signer) bool { return bytes.Equal(x.PublicKey().Marshal(), k.PublicKey().Marshal()) }
		if !slices.ContainsFunc(plain, same) {
			plain = append(plain, k)
		}
	}
	keys = plain
	if len(keys) == 0 {
		return nil, newError(ClassSignIn, CodeNoKey, "add one to your ssh-agent (ssh-add), or name it with --identity",
			"there is no SSH key to sign in with")
	}
	return keys, nil
}

// certifiedKey is the plain key of a certificate: the holder of the certificate signs with it.
type certifiedKey struct {
	ssh.Signer
	key ssh.PublicKey
}

func (k certifiedKey) PublicKey() ssh.PublicKey { return k.key }

// SignWithAlgorithm is wanted for RSA keys.
func (k certifiedKey) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	if s, ok := k.Signer.(ssh.AlgorithmSigner); ok {
		return s.SignWithAlgorithm(rand, data, algorithm)
	}
	return k.Sign(rand, data)
}

func sign(signer ssh.Signer, namespace string, message []byte) (string, error) {
	sig, err := sshsig.Sign(bytes.NewReader(message), signer, sshsig.HashSHA512, namespace)
	if errors.Is(err, context.Canceled) {
		return "", err
	}
	if err != nil {
		e := newError(ClassSignIn, "signing", "is it unlocked, plugged in and touched?", "the key %s does not sign: %v",
			ssh.FingerprintSHA256(signer.PublicKey()), err)
		e.cause = err
		return "", e
	}
	if sig.Signature.Format == ssh.KeyAlgoRSA { // an agent that takes no notice of what is asked for, as old ones do
		return "", newError(ClassSignIn, "sha1", "use an agent that signs RSA with SHA-2, as OpenSSH's does since 7.2, or a key of type ed25519",
			"the ssh-agent signs with the RSA key %s by SHA-1 only, which no longer proves anything", ssh.FingerprintSHA256(signer.PublicKey()))
	}
	return string(sshsig.Armor(sig)), nil
}

// Approve signs the request's digest with the key of the sign-in and sends both. The caller has made sure that the digest is that
// of what the person has seen.
func (c *Client) Approve(ctx context.Context, r Request, comment string) (Request, error) {
	armored, err := c.signed(ctx, breakglass.ApprovalNamespace, func(person string) []byte {
		return breakglass.ApprovalText(r.ID, r.Digest, r.TakenBack[person])
	})
	if err != nil {
		return Request{}, err
	}
	return c.about(ctx, http.MethodPost, r.ID, "approve", Consent{Digest: r.Digest, Comment: comment, Signature: armored})
}

// signed signs a text with the key of the sign-in, and signs in first if there is none.
func (c *Client) signed(ctx context.Context, namespace string, text func(person string) []byte) (string, error) {
	if c.SignedIn.Token == "" {
		if err := c.SignIn(ctx); err != nil {
			return "", err
		}
	}
	keys, err := c.signers(ctx)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(keys, func(k ssh.Signer) bool { return ssh.FingerprintSHA256(k.PublicKey()) == c.SignedIn.Key })
	if i < 0 {
		return "", newError(ClassSignIn, CodeNoKey, "add it to your ssh-agent again, or run: breakglass logout",
			"the key you signed in with (%s) is no longer on this machine", c.SignedIn.Key)
	}
	return sign(keys[i], namespace, text(c.SignedIn.Person))
}

func requestPath(id, what string) string {
	p := "/v1/requests/" + url.PathEscape(id)
	if what != "" {
		p += "/" + what
	}
	return p
}

// Request opens a request. After an error with CodeUnreachable it may exist: it is then in the caller's list, with its KeyHash.
func (c *Client) Request(ctx context.Context, in Ask) (Request, error) {
	out, err := ask[Request](ctx, c, http.MethodPost, "/v1/requests", in)
	if err == nil && out.ID == "" {
		err = c.forged("the request has no id")
	}
	return out, err
}

// DryRun says what Request would do.
func (c *Client) DryRun(ctx context.Context, in Ask) (Request, error) {
	return ask[Request](ctx, c, http.MethodPost, "/v1/requests?dryRun=true", in)
}

// Get returns one request by id or unique prefix.
func (c *Client) Get(ctx context.Context, id string) (Request, error) {
	return c.about(ctx, http.MethodGet, id, "", nil)
}

// about makes a call about one request, and takes no answer about another.
func (c *Client) about(ctx context.Context, method, id, what string, in any) (Request, error) {
	out, err := ask[Request](ctx, c, method, requestPath(id, what), in)
	if err == nil {
		err = c.names(id, out.ID)
	}
	return out, err
}

// names refuses an answer about another request than the one that was asked about.
func (c *Client) names(asked, id string) error {
	if breakglass.Names(asked, id) {
		return nil
	}
	return c.forged(fmt.Sprintf("asked about %.40q it talks about %s", asked, id))
}

// History returns everything the ledger holds about a request.
func (c *Client) History(ctx context.Context, id string) (History, error) {
	out, err := ask[History](ctx, c, http.MethodGet, requestPath(id, "history"), nil)
	if err == nil {
		err = c.names(id, out.ID)
	}
	return out, err
}

// List returns all requests of one of the filters.
func (c *Client) List(ctx context.Context, filter string, days int) (Requests, error) {
	return c.Newest(ctx, filter, days, math.MaxInt)
}

// Newest returns the newest requests of one of the filters, at most so many; Next says whether there are older ones. It reads page by
// page: a list of all is longer than an answer may be.
func (c *Client) Newest(ctx context.Context, filter string, days, most int) (Requests, error) {
	q := url.Values{"filter": {filter}, "days": {strconv.Itoa(days)}, "limit": {strconv.Itoa(MaxPage)}}
	var out Requests
	var pages [][]Request
	for n := 0; ; {
		page, err := ask[Requests](ctx, c, http.MethodGet, "/v1/requests?"+q.Encode(), nil)
		if err != nil {
			return page, err
		}
		if before := out.Next; page.Next < 0 || before > 0 && page.Next >= before {
			return Requests{}, c.forged(fmt.Sprintf("a page of a list that ends at entry %d goes on at %d", before, page.Next))
		}
		out.Meta, out.Next = page.Meta, page.Next
		if cut := n + len(page.Items) - most; cut > 0 {
			out.Next = page.Items[cut].LedgerIndex
			page.Items = page.Items[cut:]
		}
		pages = append(pages, page.Items)
		if n += len(page.Items); out.Next == 0 || n >= most {
			break
		}
		q.Set("before", strconv.FormatInt(out.Next, 10))
	}
	out.Items = []Request{}
	for _, p := range slices.Backward(pages) {
		out.Items = append(out.Items, p...)
	}
	return out, nil
}

// Command gives one of the commands deny, withdraw, take-back and revoke.
func (c *Client) Command(ctx context.Context, id, command, reason string) (Request, error) {
	return c.about(ctx, http.MethodPost, id, command, Reason{Reason: reason})
}

// Claim turns an approved request into its certificate. If the answer is lost it asks again with the same key, which gives
// the same certificate, until ctx is done. The claim is signed with the key of the sign-in, once.
func (c *Client) Claim(ctx context.Context, id string, csrPEM []byte) (Delivery, error) {
	in, by := CSR{CSR: string(csrPEM)}, ""
	for try := 0; ; try++ {
		if by == "" || by != c.SignedIn.Key { // another sign-in may have chosen another key
			var err error
			in.Signature, err = c.signed(ctx, breakglass.ClaimNamespace, func(string) []byte { return breakglass.ClaimText(id, csrHash(csrPEM)) })
			if err != nil {
				return Delivery{}, err
			}
			by = c.SignedIn.Key
		}
		var out Delivery
		err := c.call(ctx, claimTime, http.MethodPost, requestPath(id, "claim"), in, &out)
		if e := (*Error)(nil); errors.As(err, &e) && e.Code == "signature" && by != c.SignedIn.Key {
			continue
		}
		var e *Error
		if !errors.As(err, &e) || !slices.Contains([]string{CodeUnreachable, "issuing", "not-now", "stopping", "polls", "rate"}, e.Code) {
			return out, err
		}
		if pause(ctx, try, e.retryAfter) != nil {
			return Delivery{}, err
		}
	}
}

// csrHash is the hex SHA-256 of the DER in a PEM block; what is no such block is refused by the server.
func csrHash(csrPEM []byte) string {
	block, _ := pem.Decode(csrPEM)
	if block == nil {
		return ""
	}
	return breakglass.Fingerprint(block.Bytes)
}

// Follow yields the request each time it has changed since r, until the caller stops or ctx is done. It also yields errors:
// after one that is Temporary it goes on by itself, with growing pauses; any other one is the last.
func (c *Client) Follow(ctx context.Context, r Request) iter.Seq2[Request, error] {
	return func(yield func(Request, error) bool) {
		for try := 0; ; {
			q := url.Values{"wait": {MaxWait.String()}, "after": {strconv.FormatInt(r.Rev, 10)}, "was": {string(r.State)}}
			var next Request
			begin := time.Now()
			err := c.call(ctx, MaxWait+pollGrace, http.MethodGet, requestPath(r.ID, "")+"?"+q.Encode(), nil, &next)
			if err == nil && next.ID != r.ID {
				err = c.forged(fmt.Sprintf("asked about %s it talks about %s", r.ID, next.ID))
			}
			retryAfter := time.Duration(0)
			switch e := (*Error)(nil); {
			case err != nil:
				if !yield(r, err) || !Temporary(err) {
					return
				}
				errors.As(err, &e)
				retryAfter = e.retryAfter
			case next.Rev != r.Rev || next.State != r.State || next.NotTold != r.NotTold:
				r, try = next, 0
				if !yield(r, nil) {
					return
				}
				continue
			case time.Since(begin) > time.Second:
				try = 0
				continue
			} // else it had nothing to say and did not wait: it is about to stop
			if err := pause(ctx, try, retryAfter); err != nil {
				yield(r, err)
				return
			}
			try++
		}
	}
}

// pause sleeps before another try: longer each time, and never the same for two clients, so that they do not all come back
// at once after a restart.
func pause(ctx context.Context, try int, least time.Duration) error {
	d := backoff.Wait(try + 1)
	d = max(d/2+rand.N(d/2), least)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// Whoami says who is signed in.
func (c *Client) Whoami(ctx context.Context) (Person, error) {
	return ask[Person](ctx, c, http.MethodGet, "/v1/whoami", nil)
}

// Profiles lists what the person may ask for or approve.
func (c *Client) Profiles(ctx context.Context) (Profiles, error) {
	return ask[Profiles](ctx, c, http.MethodGet, "/v1/profiles", nil)
}

// Logout ends the sign-in on the server.
func (c *Client) Logout(ctx context.Context) error {
	return c.send(ctx, callTime, http.MethodPost, "/v1/logout", c.SignedIn.Token, Reason{}, &Empty{})
}

// ServerVersion says what runs on the server. It needs no sign-in.
func (c *Client) ServerVersion(ctx context.Context) (ServerVersion, error) {
	var out ServerVersion
	err := c.public(ctx, http.MethodGet, "/v1/version", nil, &out)
	return out, err
}

// LedgerKey returns the public key by which the server's ledger is signed, as the server says. It needs no sign-in.
func (c *Client) LedgerKey(ctx context.Context) (string, error) {
	var out string
	err := c.public(ctx, http.MethodGet, "/v1/ledger/key", nil, &out)
	return strings.TrimSpace(out), err
}

// Checkpoint returns the latest signed checkpoint. It needs no sign-in.
func (c *Client) Checkpoint(ctx context.Context) ([]byte, error) {
	var out string
	err := c.public(ctx, http.MethodGet, "/v1/ledger/checkpoint", nil, &out)
	return []byte(out), err
}

// Consistency returns the proof that the ledger of to entries begins with that of from. It needs no sign-in.
func (c *Client) Consistency(ctx context.Context, from, to int64) ([]tlog.Hash, error) {
	var in Consistency
	if err := c.public(ctx, http.MethodGet, fmt.Sprintf("/v1/ledger/consistency?from=%d&to=%d", from, to), nil, &in); err != nil {
		return nil, err
	}
	out := make([]tlog.Hash, len(in.Hashes))
	for i, h := range in.Hashes {
		if len(h) != tlog.HashSize {
			return nil, newError(ClassInternal, "strange-answer", "", "the server's proof of consistency is malformed")
		}
		copy(out[i][:], h)
	}
	return out, nil
}

// Close gives the closing note of an ended grant.
func (c *Client) Close(ctx context.Context, id, note string) (Request, error) {
	return c.about(ctx, http.MethodPost, id, "close", Note{Note: note})
}

// Acknowledge says that what a grant left behind was seen: seen is the request's SweepDigest. The note may be empty.
func (c *Client) Acknowledge(ctx context.Context, id, seen, note string) (Request, error) {
	return c.about(ctx, http.MethodPost, id, "acknowledge", Note{Note: note, Seen: seen})
}

// Sweep has an ended session looked through again.
func (c *Client) Sweep(ctx context.Context, id string) (Request, error) {
	return work[Request](ctx, c, http.MethodPost, requestPath(id, "sweep"), Reason{})
}

// RevokeAll ends every grant in a cluster.
func (c *Client) RevokeAll(ctx context.Context, cluster, reason string) (Revocations, error) {
	return work[Revocations](ctx, c, http.MethodPost, "/v1/clusters/"+url.PathEscape(cluster)+"/revoke-all", Reason{Reason: reason})
}
