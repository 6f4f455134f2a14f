package slacksim

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// ErrTimeout is returned when the app did not answer within Config.AckWithin. Slack's client shows operation_timeout.
var ErrTimeout = errors.New("operation_timeout: the app did not answer in time")

// ErrDispatch is returned when the app could not be reached, answered with another status than 200, or answered
// something Slack cannot use. Slack's client shows dispatch_failed or "trouble connecting".
var ErrDispatch = errors.New("dispatch_failed")

// SignedRequest is a request to the app as it goes over the wire. The signature covers the timestamp header and the
// body, nothing else.
type SignedRequest struct {
	URL    string
	Header http.Header
	Body   []byte
}

// Clone returns a copy to vary.
func (r SignedRequest) Clone() SignedRequest {
	return SignedRequest{URL: r.URL, Header: r.Header.Clone(), Body: bytes.Clone(r.Body)}
}

// Response is what the app answered.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// SignWith signs a form body the way Slack does, version v0: HMAC-SHA256 with the app's signing secret over
// "v0:" + timestamp in seconds + ":" + body.
func SignWith(secret, url string, body []byte, at time.Time) SignedRequest {
	timestamp := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = fmt.Fprintf(mac, "v0:%s:%s", timestamp, body) // a hash never fails to write
	return SignedRequest{URL: url, Body: body, Header: http.Header{
		"Content-Type":              {"application/x-www-form-urlencoded"},
		"User-Agent":                {"Slackbot 1.0 (+https://api.slack.com/robots)"},
		"Accept":                    {"application/json,*/*"},
		"X-Slack-Request-Timestamp": {timestamp},
		"X-Slack-Signature":         {"v0=" + hex.EncodeToString(mac.Sum(nil))},
	}}
}

// Sign signs with the app's own secret, at any time of the caller's choice.
func (s *Sim) Sign(url string, body []byte, at time.Time) SignedRequest {
	return SignWith(s.cfg.SigningSecret, url, body, at)
}

// LastRequest returns the last request sent to the app on behalf of a person. It is empty before the first.
func (s *Sim) LastRequest() SignedRequest {
	all := s.Requests()
	if len(all) == 0 {
		return SignedRequest{}
	}
	return all[len(all)-1]
}

// Requests returns every request sent to the app on behalf of a person, oldest first.
func (s *Sim) Requests() []SignedRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]SignedRequest, len(s.sent))
	for i, r := range s.sent {
		all[i] = r.Clone()
	}
	return all
}

// RawSend sends exactly r to the app and returns what it answered, whatever that is. With LastRequest and Sign it
// makes every forged, stale, replayed or misdirected request.
func (s *Sim) RawSend(ctx context.Context, r SignedRequest) (Response, error) {
	if r.URL == "" {
		return Response{}, fmt.Errorf("%w: the app's URL is not set, call SetAppURLs", ErrDispatch)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.AckWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL, bytes.NewReader(r.Body))
	if err != nil {
		return Response{}, fmt.Errorf("%w: %w", ErrDispatch, err)
	}
	req.Header = r.Header.Clone()
	res, err := s.client.Do(req)
	if err != nil {
		return Response{}, wireError(ctx, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil {
		return Response{}, wireError(ctx, err)
	}
	return Response{Status: res.StatusCode, Header: res.Header, Body: body}, nil
}

func wireError(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ErrTimeout
	}
	return fmt.Errorf("%w: %w", ErrDispatch, err)
}

// deliver signs and sends a form on behalf of a person. Any status but 200 is an error, as for Slack.
func (s *Sim) deliver(ctx context.Context, url string, form url.Values) (Response, error) {
	r := s.Sign(url, []byte(form.Encode()), time.Now())
	s.change(func() { s.sent = append(s.sent, r) })
	res, err := s.RawSend(ctx, r)
	if err != nil {
		return res, err
	}
	if res.Status != http.StatusOK {
		return res, fmt.Errorf("%w: the app answered HTTP %d", ErrDispatch, res.Status)
	}
	return res, nil
}

// interact sends an interaction payload.
func (s *Sim) interact(ctx context.Context, payload object) (Response, error) {
	body, err := json.Marshal(payload)
	if err != nil {
		return Response{}, fmt.Errorf("encoding the %s payload: %w", payload["type"], err)
	}
	s.mu.Lock()
	to := s.cfg.InteractivityURL
	s.mu.Unlock()
	return s.deliver(ctx, to, url.Values{"payload": {string(body)}})
}

// payload is what every interaction has in common. mu is held.
func (s *Sim) payload(kind string, u User) object {
	p := object{
		"type": kind, "token": verificationToken, "api_app_id": s.cfg.AppID, "is_enterprise_install": s.cfg.WholeOrganization, "enterprise": nil,
		"team":       object{"id": s.cfg.TeamID, "domain": s.cfg.TeamDomain},
		"user":       object{"id": u.ID, "username": u.Name, "name": u.Name, "team_id": s.userTeam(u)},
		"trigger_id": s.newTrigger(u.ID),
	}
	if s.cfg.EnterpriseID != "" {
		p["enterprise"] = object{"id": s.cfg.EnterpriseID, "name": s.cfg.EnterpriseName}
		p["team"] = object{"id": s.cfg.TeamID, "domain": s.cfg.TeamDomain, "enterprise_id": s.cfg.EnterpriseID,
			"enterprise_name": s.cfg.EnterpriseName}
	}
	if s.cfg.WholeOrganization {
		p["team"] = nil
	}
	return p
}

// userTeam is the team that interactions name with a person: with an organization its id, unless they are of a team of their own.
func (s *Sim) userTeam(u User) string { return cmp.Or(u.TeamID, s.cfg.EnterpriseID, s.cfg.TeamID) }

// install is the id of what the app is installed for.
func (s *Sim) install() string {
	if s.cfg.WholeOrganization {
		return s.cfg.EnterpriseID
	}
	return s.cfg.TeamID
}

// verificationToken is Slack's deprecated way to authenticate; it is still sent, and proves nothing.
const verificationToken = "simulated-verification-token"

// CommandPayload is the form that Slash would send, with a fresh trigger and response_url. text is sent as it is.
func (s *Sim) CommandPayload(user, channel, text string) url.Values {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, _ := s.user(user)
	c, _ := s.channel(channel)
	name := c.Name
	if c.Private && !isDM(c.ID) {
		name = "privategroup" // Slack hides the names of private channels
	}
	form := url.Values{
		"token": {verificationToken}, "team_id": {cmp.Or(u.TeamID, s.cfg.TeamID)}, "team_domain": {s.cfg.TeamDomain},
		"channel_id": {channel}, "channel_name": {name}, "user_id": {user}, "user_name": {u.Name},
		"command": {s.cfg.Command}, "text": {text}, "api_app_id": {s.cfg.AppID},
		"is_enterprise_install": {strconv.FormatBool(s.cfg.WholeOrganization)},
		"response_url":          {s.newHook(hook{channel: channel, user: user})}, "trigger_id": {s.newTrigger(user)},
	}
	if s.cfg.EnterpriseID != "" {
		form.Set("enterprise_id", s.cfg.EnterpriseID)
		form.Set("enterprise_name", s.cfg.EnterpriseName)
	}
	return form
}

// Person is somebody who acts in the workspace.
type Person struct {
	sim     *Sim
	id      string
	channel string
}

// As returns the person with that user id, in the first channel they can see. A wrong id is reported by what the
// person does.
func (s *Sim) As(user string) *Person {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &Person{sim: s, id: user}
	if i := slices.IndexFunc(s.channels, func(c Channel) bool { return c.has(user) }); i >= 0 {
		p.channel = s.channels[i].ID
	}
	return p
}

// In returns the same person with another channel (or their direct message) in front of them.
func (p *Person) In(channel string) *Person { return &Person{sim: p.sim, id: p.id, channel: channel} }

// DMChannel is the id of the person's direct message with the app.
func (p *Person) DMChannel() string { return dmID(p.id) }

// DMs returns the direct message with the app.
func (p *Person) DMs() []Message { return p.sim.Messages(p.DMChannel()) }

// Ephemerals returns everything that only this person sees, Slack's own notices included, oldest first.
func (p *Person) Ephemerals() []Message {
	return p.sim.selectMessages(func(m *Message) bool { return m.EphemeralTo == p.id })
}

// present finds the person and checks that they can see a channel. mu is held.
func (p *Person) present(channel string) (User, error) {
	u, ok := p.sim.user(p.id)
	if !ok {
		return User{}, fmt.Errorf("no user %s in this workspace", p.id)
	}
	if c, ok := p.sim.channel(channel); !ok || !c.has(p.id) {
		return User{}, fmt.Errorf("%s cannot see a channel %q", p.id, channel)
	}
	return u, nil
}

// Say posts a plain message. The app is not told: this workspace sends it no events.
func (p *Person) Say(text string) (Message, error) {
	s := p.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := p.present(p.channel); err != nil {
		return Message{}, err
	}
	return *s.post(Message{Channel: p.channel, User: p.id, Text: s.escape(text)}), nil
}

// Reply is the app's answer to a slash command. Message is what it showed in the channel, if anything.
type Reply struct {
	Response
	Message *Message
}

// Slash types the app's command followed by text. On ErrTimeout and ErrDispatch the person has also been shown the
// notice Slack shows.
func (p *Person) Slash(ctx context.Context, text string) (Reply, error) {
	s := p.sim
	s.mu.Lock()
	_, err := p.present(p.channel)
	to, text := s.cfg.CommandURL, s.escape(text)
	s.mu.Unlock()
	if err != nil {
		return Reply{}, err
	}
	res, err := s.deliver(ctx, to, s.CommandPayload(p.id, p.channel, text))
	reply := Reply{Response: res}
	if err == nil {
		reply.Message, err = s.showReply(p, res)
	}
	if err != nil {
		p.notice(p.channel, s.cfg.Command+" failed with the error "+noticeWord(err))
	}
	return reply, err
}

// showReply shows the body of the answer to a slash command, as text or as JSON according to its content type.
func (s *Sim) showReply(p *Person, res Response) (*Message, error) {
	if len(bytes.TrimSpace(res.Body)) == 0 {
		return nil, nil
	}
	a := args{"text": string(res.Body)}
	if kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type")); kind == "application/json" {
		var fields struct {
			ResponseType string `json:"response_type"`
			Text         string
			Blocks       json.RawMessage
		}
		if err := json.Unmarshal(res.Body, &fields); err != nil {
			return nil, fmt.Errorf("%w: the app's answer is not JSON: %w", ErrDispatch, err)
		}
		a = args{"text": fields.Text, "blocks": string(fields.Blocks), "response_type": fields.ResponseType}
		if fields.Text == "" && fields.Blocks == nil {
			return nil, nil // {} is an acknowledgement
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	text, blocks, refused := content(a)
	if refused != nil {
		return nil, fmt.Errorf("%w: %s %v", ErrDispatch, refused.code, refused.problems)
	}
	m := Message{Channel: p.channel, User: s.cfg.BotUserID, Text: text, Blocks: blocks, EphemeralTo: p.id}
	if a["response_type"] == "in_channel" {
		m.EphemeralTo = ""
	}
	shown := *s.post(m)
	return &shown, nil
}

// notice shows the person a message from Slack itself.
func (p *Person) notice(channel, text string) {
	p.sim.change(func() {
		p.sim.post(Message{Channel: channel, User: slackbot, Text: text, EphemeralTo: p.id})
	})
}

func noticeWord(err error) string {
	if errors.Is(err, ErrTimeout) {
		return `"operation_timeout"`
	}
	return `"dispatch_failed"`
}

// Action is what a person does with one element: clicks a button or chooses values. ViewID, or Channel and TS, say
// where; BlockID is needed only if several elements there share the ActionID. Values are the values of options, or
// the text for other inputs; a button takes none.
type Action struct {
	Channel, TS string
	ViewID      string
	BlockID     string
	ActionID    string
	Values      []string
}

// Click clicks a button of a message and confirms the dialog if it has one.
func (p *Person) Click(ctx context.Context, channel, ts, actionID string) error {
	return p.Act(ctx, Action{Channel: channel, TS: ts, ActionID: actionID})
}

// Act does what a says and tells the app with a block_actions payload. In a view the values are kept as if filled
// in; a plain input without dispatch_action only keeps them, and the app hears of them on submit.
func (p *Person) Act(ctx context.Context, a Action) error {
	payload, err := p.prepare(a)
	if err != nil || payload == nil {
		return err
	}
	_, err = p.sim.interact(ctx, payload)
	if err != nil && a.ViewID == "" {
		p.notice(a.Channel, "This app responded with the error "+noticeWord(err))
	}
	return err
}

// prepare builds the payload of an action, or none when the app is not told of it.
func (p *Person) prepare(a Action) (object, error) {
	s := p.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.ViewID != "" {
		return p.prepareInView(a)
	}
	u, err := p.present(a.Channel)
	if err != nil {
		return nil, err
	}
	m := s.message(a.Channel, a.TS)
	if m == nil || m.EphemeralTo != "" && m.EphemeralTo != p.id {
		return nil, fmt.Errorf("%s sees no message %s in %s", p.id, a.TS, a.Channel)
	}
	e, err := findElement(elementsOf(m.Blocks), a)
	if err != nil {
		return nil, err
	}
	action, err := e.action(a.Values, s.nextTS())
	if err != nil {
		return nil, err
	}
	c, _ := s.channel(a.Channel)
	payload := s.payload("block_actions", u)
	container := object{"type": "message", "message_ts": m.TS, "channel_id": c.ID, "is_ephemeral": m.EphemeralTo != ""}
	if m.ThreadTS != "" {
		container["thread_ts"] = m.ThreadTS
	}
	payload["container"] = container
	payload["channel"] = object{"id": c.ID, "name": c.Name}
	if m.EphemeralTo == "" { // Slack keeps no ephemeral message, so it cannot send one
		payload["message"] = s.messageObject(m)
	}
	values := formValues{}
	values.set(e, a.Values)
	payload["state"] = object{"values": values.state(elementsOf(m.Blocks))}
	payload["actions"] = []object{action}
	payload["response_url"] = s.newHook(hook{channel: c.ID, user: p.id, original: m.TS})
	return payload, nil
}
