package slackbot

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// The bounds of an incoming request.
const (
	maxBody = 256 << 10       // Slack's payloads with a full modal are under 64 KiB
	maxAge  = 5 * time.Minute // Slack's own advice

	// A signature is good for maxAge before and after its time, by the clock. The rest is for a clock that is set back: what was taken
	// before is still known then.
	replayTTL = 2*maxAge + 48*time.Hour
)

// accept reads a request and believes it or not. Slack signs the body and a time, and nothing else: so the query must be
// empty, each header must be there once, and the same signature is taken once, at whichever endpoint it comes first.
func (b *Bot) accept(ctx context.Context, w http.ResponseWriter, r *http.Request, now time.Time) ([]byte, error) {
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		return nil, malformed("the address has a query")
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/x-www-form-urlencoded" ||
		len(r.Header.Values("Content-Type")) != 1 {
		return nil, malformed("the content type is not a form")
	}
	stamp, signature := r.Header.Values("X-Slack-Request-Timestamp"), r.Header.Values("X-Slack-Signature")
	if len(stamp) != 1 || len(signature) != 1 {
		return nil, &problem{http.StatusUnauthorized, OutcomeUnverified, "not exactly one timestamp and one signature"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if tooBig := (*http.MaxBytesError)(nil); errors.As(err, &tooBig) {
		return nil, &problem{http.StatusRequestEntityTooLarge, OutcomeMalformed, "the body is too large"}
	}
	if err != nil {
		return nil, malformed("the body could not be read")
	}
	if err := verify(b.cfg.SigningSecret, stamp[0], signature[0], body, now); err != nil {
		return nil, &problem{http.StatusUnauthorized, OutcomeUnverified, err.Error()}
	}
	seen := sha256.Sum256([]byte(stamp[0] + signature[0]))
	first, err := b.cfg.Ledger.Once(ctx, "slack/seen/"+hex.EncodeToString(seen[:]), now.UTC(), replayTTL)
	if err != nil {
		return nil, fmt.Errorf("looking for a replay: %w", err)
	}
	if !first {
		return nil, &problem{http.StatusConflict, OutcomeReplayed, "this very request was here before"}
	}
	return body, nil
}

// verify checks a v0 signature. Its errors say nothing about the right one.
func verify(secret Secret, stamp, signature string, body []byte, now time.Time) error {
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || strconv.FormatInt(seconds, 10) != stamp {
		return errors.New("the timestamp is not a number of seconds")
	}
	if age := now.Sub(time.Unix(seconds, 0)); age > maxAge || age < -maxAge {
		return errors.New("the timestamp is more than five minutes away from now")
	}
	if len(signature) != len("v0=")+2*sha256.Size || signature[:3] != "v0=" {
		return errors.New("the signature is not of version v0")
	}
	got, err := hex.DecodeString(signature[3:])
	if err != nil || hex.EncodeToString(got) != signature[3:] { // one way to write it: the replay table knows it by its text
		return errors.New("the signature is not in lower-case hexadecimal")
	}
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "v0:%s:", stamp)
	mac.Write(body)
	if !hmac.Equal(got, mac.Sum(nil)) {
		return errors.New("the signature does not fit")
	}
	return nil
}

// form reads a form in which no key comes twice.
func form(body []byte) (url.Values, error) {
	f, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, malformed("the form cannot be read")
	}
	for _, v := range f {
		if len(v) != 1 {
			return nil, malformed("a key of the form comes twice")
		}
	}
	return f, nil
}
