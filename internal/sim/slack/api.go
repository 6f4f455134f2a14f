package slacksim

import (
	"cmp"
	"encoding/json"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of chat.*: chat.postMessage takes 40,000 characters of text, chat.update 4,000 bytes (Slack counts them after
// escaping), and all texts in the blocks together may have about 12,000 characters.
const (
	postTextLimit   = 40_000
	updateTextLimit = 4_000
	blocksTextLimit = 12_000
)

// maxBody bounds what is read of any request or reply.
const maxBody = 1 << 20

// Call is one Web API call the app made. Args are the arguments as text; an argument sent as JSON is JSON text. The
// token is left out. Outcome is "ok", Slack's error code, or "fault" when a fault without Apply took the call.
type Call struct {
	Method  string
	At      time.Time
	Args    map[string]string
	Outcome string
}

// Calls returns the calls to one method, or to all if method is empty, oldest first. Posts to a response_url are
// listed as "response_url".
func (s *Sim) Calls(method string) []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []Call
	for _, c := range s.calls {
		if method == "" || c.Method == method {
			c.Args = maps.Clone(c.Args)
			found = append(found, c)
		}
	}
	return found
}

// Fault makes a method fail. Exactly one of Status, RetryAfter, Error and Hang says how. With Apply the method does
// its work first, and the fault only hides that from the app: every write to the outside has this pair of failures.
type Fault struct {
	// Times is how many calls fail. Zero means one; negative means all until Heal.
	Times int
	// Holding, if set, lets only calls fail that have this text in one of their arguments.
	Holding string
	Apply   bool
	// Status answers with this HTTP status and a page of HTML, as Slack does when it is in trouble.
	Status int
	// RetryAfter answers 429. Slack sends whole seconds; a fraction is rounded up.
	RetryAfter time.Duration
	// Error answers {"ok":false} with this code.
	Error string
	// Hang does not answer until the caller gives up. Heal and Close end it with HTTP 500.
	Hang bool
}

// Fail makes the next calls of a method fail. The empty method stands for any call without a fault of its own.
func (s *Sim) Fail(method string, f Fault) {
	f.Times = cmp.Or(f.Times, 1)
	s.change(func() { s.faults[method] = &f })
}

// Heal removes all faults and lets hung calls go.
func (s *Sim) Heal() {
	s.change(func() {
		clear(s.faults)
		close(s.healed)
		s.healed = make(chan struct{})
	})
}

// takeFault uses up one failure of the method with these arguments. mu is held.
func (s *Sim) takeFault(method string, args map[string]string) (Fault, bool) {
	for _, key := range []string{method, ""} {
		f, ok := s.faults[key]
		if !ok || !f.takes(args) {
			continue
		}
		if f.Times > 0 {
			f.Times--
		}
		if f.Times == 0 {
			delete(s.faults, key)
		}
		return *f, true
	}
	return Fault{}, false
}

func (f Fault) takes(args map[string]string) bool {
	for _, a := range args {
		if strings.Contains(a, f.Holding) {
			return true
		}
	}
	return f.Holding == ""
}

// show makes the fault visible to the caller.
func (f Fault) show(w http.ResponseWriter, r *http.Request, healed <-chan struct{}) {
	if f.Hang {
		select {
		case <-r.Context().Done():
			return
		case <-healed:
		}
	}
	switch {
	case f.RetryAfter > 0:
		w.Header().Set("Retry-After", strconv.FormatInt(int64((f.RetryAfter+time.Second-1)/time.Second), 10))
		writeJSON(w, http.StatusTooManyRequests, object{"ok": false, "error": "ratelimited"})
	case f.Error != "":
		writeJSON(w, http.StatusOK, object{"ok": false, "error": f.Error})
	default:
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(cmp.Or(f.Status, http.StatusInternalServerError))
		_, _ = io.WriteString(w, "<!DOCTYPE html><title>Server Error | Slack</title>")
	}
}

// withFaults runs work, unless a fault takes the call, and records the call. work runs with mu held.
func (s *Sim) withFaults(w http.ResponseWriter, r *http.Request, method string, args map[string]string,
	work func() (status int, answer object)) {
	s.mu.Lock()
	fault, faulty := s.takeFault(method, args)
	healed := s.healed
	call := Call{Method: method, At: time.Now(), Args: args, Outcome: "fault"}
	var status int
	var answer object
	if !faulty || fault.Apply {
		status, answer = work()
		call.Outcome = "ok"
		if answer["ok"] != true {
			call.Outcome, _ = answer["error"].(string)
		}
	}
	s.calls = append(s.calls, call)
	s.touch()
	s.mu.Unlock()
	if faulty {
		fault.show(w, r, healed)
		return
	}
	writeJSON(w, status, answer)
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the caller went away; it is not our loss
}

// serveAPI answers one Web API call.
func (s *Sim) serveAPI(w http.ResponseWriter, r *http.Request) {
	args, ok := arguments(w, r)
	if !ok {
		writeJSON(w, http.StatusOK, object{"ok": false, "error": "invalid_json"})
		return
	}
	token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !bearer {
		token = args["token"]
	}
	delete(args, "token")
	name := r.PathValue("method")
	s.withFaults(w, r, name, args, func() (int, object) {
		method, known := methods()[name]
		switch {
		case !known:
			return http.StatusOK, object{"ok": false, "error": "unknown_method", "req_method": name}
		case token == "":
			return http.StatusOK, object{"ok": false, "error": "not_authed"}
		case token != s.cfg.BotToken:
			return http.StatusOK, object{"ok": false, "error": "invalid_auth"}
		}
		answer, refused := method(s, args)
		if refused != nil {
			return http.StatusOK, refused.body()
		}
		answer["ok"] = true
		return http.StatusOK, answer
	})
}

// arguments reads the query, a form or a JSON object into one map; nested JSON stays JSON text.
func arguments(w http.ResponseWriter, r *http.Request) (map[string]string, bool) {
	args := map[string]string{}
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if kind == "application/json" {
		var fields map[string]json.RawMessage
		if err := json.NewDecoder(r.Body).Decode(&fields); err != nil {
			return nil, false
		}
		for name, raw := range fields {
			var s string
			if json.Unmarshal(raw, &s) != nil {
				s = string(raw)
			}
			args[name] = s
		}
		return args, true
	}
	if err := r.ParseForm(); err != nil {
		return nil, false
	}
	for name := range r.Form {
		args[name] = r.Form.Get(name)
	}
	return args, true
}

// refusal is Slack saying no: an error code and, for bad blocks, what is wrong with them.
type refusal struct {
	code     string
	problems []string
}

func refuse(code string, problems ...string) *refusal { return &refusal{code, problems} }

func (r *refusal) body() object {
	answer := object{"ok": false, "error": r.code}
	if len(r.problems) > 0 {
		messages := make([]string, len(r.problems))
		for i, problem := range r.problems {
			messages[i] = "[ERROR] " + problem
		}
		answer["errors"] = r.problems
		answer["response_metadata"] = object{"messages": messages}
	}
	return answer
}

type args = map[string]string

// methods are the Web API methods, each called with mu held.
func methods() map[string]func(*Sim, args) (object, *refusal) {
	return map[string]func(*Sim, args) (object, *refusal){
		"auth.test":            (*Sim).authTest,
		"chat.postMessage":     (*Sim).chatPostMessage,
		"chat.scheduleMessage": (*Sim).chatScheduleMessage,

		"chat.deleteScheduledMessage": (*Sim).chatDeleteScheduledMessage,

		"chat.update":           (*Sim).chatUpdate,
		"chat.postEphemeral":    (*Sim).chatPostEphemeral,
		"chat.getPermalink":     (*Sim).chatGetPermalink,
		"conversations.open":    (*Sim).conversationsOpen,
		"conversations.info":    (*Sim).conversationsInfo,
		"users.info":            (*Sim).usersInfo,
		"users.list":            (*Sim).usersList,
		"usergroups.list":       (*Sim).usergroupsList,
		"usergroups.users.list": (*Sim).usergroupsUsersList,
		"views.open":            (*Sim).viewsOpen,
		"views.push":            (*Sim).viewsPush,
		"views.update":          (*Sim).viewsUpdate,
	}
}

func (s *Sim) authTest(args) (object, *refusal) {
	me := object{
		"url": "https://" + s.cfg.TeamDomain + ".slack.com/", "team": s.cfg.TeamDomain, "team_id": s.install(),
		"user": s.cfg.BotName, "user_id": s.cfg.BotUserID, "bot_id": s.cfg.BotID, "is_enterprise_install": s.cfg.WholeOrganization,
	}
	if s.cfg.EnterpriseID != "" {
		me["enterprise_id"] = s.cfg.EnterpriseID
	}
	if s.cfg.WholeOrganization {
		me["team"] = s.cfg.EnterpriseName
	}
	return me, nil
}

// destination finds where the app may post: a channel by id or name, or a person's direct message by the person's id.
func (s *Sim) destination(arg string) (Channel, *refusal) {
	c, ok := s.channel(arg)
	if !ok {
		if i := slices.IndexFunc(s.channels, func(c Channel) bool { return c.Name == strings.TrimPrefix(arg, "#") }); i >= 0 {
			c, ok = s.channels[i], true
		}
	}
	if !ok {
		if _, isUser := s.user(arg); isUser {
			c, ok = s.channel(dmID(arg))
		}
	}
	switch {
	case !ok, c.Private && c.WithoutBot:
		return Channel{}, refuse("channel_not_found")
	case c.WithoutBot:
		return Channel{}, refuse("not_in_channel")
	case c.Archived:
		return Channel{}, refuse("is_archived")
	}
	return c, nil
}

// content reads text and blocks and refuses what Slack would. blocks is nil only when the argument is absent.
func content(a args) (text string, blocks json.RawMessage, _ *refusal) {
	if raw, ok := a["blocks"]; ok && raw != "" && raw != "null" {
		blocks = json.RawMessage(raw)
	}
	var total int
	if blocks != nil {
		if problems := ValidateBlocks(SurfaceMessage, blocks); problems != nil {
			return "", nil, refuse("invalid_blocks", problems...)
		}
		for _, t := range blockTexts(blocks) {
			total += utf8.RuneCountInString(t)
		}
	}
	switch {
	case a["text"] == "" && (blocks == nil || string(blocks) == "[]"):
		return "", nil, refuse("no_text")
	case utf8.RuneCountInString(a["text"]) > postTextLimit:
		return "", nil, refuse("msg_too_long")
	case total > blocksTextLimit:
		return "", nil, refuse("msg_blocks_too_long")
	}
	return a["text"], blocks, nil
}

func (s *Sim) chatPostMessage(a args) (object, *refusal) {
	c, refused := s.destination(a["channel"])
	if refused != nil {
		return nil, refused
	}
	text, blocks, refused := content(a)
	if refused != nil {
		return nil, refused
	}
	m := s.post(Message{
		Channel: c.ID, ThreadTS: a["thread_ts"], Broadcast: a["reply_broadcast"] == "true",
		User: s.cfg.BotUserID, Text: text, Blocks: blocks,
	})
	return object{"channel": c.ID, "ts": m.TS, "message": s.messageObject(m)}, nil
}

// chatScheduleMessage takes the order for a message. Nothing comes of it here: no test waits for tomorrow.
func (s *Sim) chatScheduleMessage(a args) (object, *refusal) {
	c, refused := s.destination(a["channel"])
	if refused != nil {
		return nil, refused
	}
	if _, _, refused := content(a); refused != nil {
		return nil, refused
	}
	at, err := strconv.ParseInt(a["post_at"], 10, 64)
	switch until := time.Until(time.Unix(at, 0)); {
	case err != nil:
		return nil, refuse("invalid_time")
	case until <= 0:
		return nil, refuse("time_in_past")
	case until > scheduleLimit:
		return nil, refuse("time_too_far")
	}
	id := s.nextID("Q")
	s.scheduled[id] = c.ID
	return object{"channel": c.ID, "scheduled_message_id": id, "post_at": at}, nil
}

// scheduleLimit is how far ahead a message can be scheduled.
const scheduleLimit = 120 * 24 * time.Hour

func (s *Sim) chatDeleteScheduledMessage(a args) (object, *refusal) {
	if s.scheduled[a["scheduled_message_id"]] != a["channel"] || a["channel"] == "" {
		return nil, refuse("invalid_scheduled_message_id")
	}
	delete(s.scheduled, a["scheduled_message_id"])
	return object{}, nil
}

// Scheduled is the number of messages that are to be posted later.
func (s *Sim) Scheduled() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.scheduled)
}

func (s *Sim) chatPostEphemeral(a args) (object, *refusal) {
	c, refused := s.destination(a["channel"])
	if refused != nil {
		return nil, refused
	}
	if _, ok := s.user(a["user"]); !ok || !c.has(a["user"]) {
		return nil, refuse("user_not_in_channel")
	}
	text, blocks, refused := content(a)
	if refused != nil {
		return nil, refused
	}
	m := s.post(Message{Channel: c.ID, ThreadTS: a["thread_ts"], User: s.cfg.BotUserID, Text: text, Blocks: blocks, EphemeralTo: a["user"]})
	return object{"message_ts": m.TS}, nil
}

func (s *Sim) chatUpdate(a args) (object, *refusal) {
	// Unlike posting, an update names the channel by its id.
	c, ok := s.channel(a["channel"])
	if !ok {
		return nil, refuse("channel_not_found")
	}
	m := s.message(c.ID, a["ts"])
	if m == nil || m.EphemeralTo != "" {
		return nil, refuse("message_not_found")
	}
	if m.User != s.cfg.BotUserID {
		return nil, refuse("cant_update_message")
	}
	text, blocks, refused := content(a)
	if refused != nil {
		return nil, refused
	}
	if len(text) > updateTextLimit {
		return nil, refuse("msg_too_long")
	}
	s.edit(m, text, blocks)
	return object{"channel": c.ID, "ts": m.TS, "text": m.Text, "message": s.messageObject(m)}, nil
}

func (s *Sim) chatGetPermalink(a args) (object, *refusal) {
	if _, ok := s.channel(a["channel"]); !ok {
		return nil, refuse("channel_not_found")
	}
	m := s.message(a["channel"], a["message_ts"])
	if m == nil {
		return nil, refuse("message_not_found")
	}
	link := "https://" + s.cfg.TeamDomain + ".slack.com/archives/" + m.Channel + "/p" + strings.ReplaceAll(m.TS, ".", "")
	if m.ThreadTS != "" {
		link += "?" + url.Values{"thread_ts": {m.ThreadTS}, "cid": {m.Channel}}.Encode()
	}
	return object{"channel": m.Channel, "permalink": link}, nil
}

// messageObject is a message as Slack puts it into answers and payloads.
func (s *Sim) messageObject(m *Message) object {
	o := object{"type": "message", "user": m.User, "ts": m.TS, "text": m.Text, "team": s.cfg.TeamID}
	if m.User == s.cfg.BotUserID {
		o["bot_id"], o["app_id"] = s.cfg.BotID, s.cfg.AppID
	}
	if m.ThreadTS != "" {
		o["thread_ts"] = m.ThreadTS
	}
	if m.Blocks != nil {
		o["blocks"] = m.Blocks
	}
	if len(m.Edits) > 0 {
		o["edited"] = object{"user": m.User, "ts": m.TS}
	}
	return o
}

func (s *Sim) conversationsOpen(a args) (object, *refusal) {
	id := a["channel"]
	if id == "" {
		users := strings.Split(a["users"], ",")
		u, ok := s.user(users[0])
		switch {
		case a["users"] == "":
			return nil, refuse("users_list_not_supplied")
		case len(users) > 1:
			return nil, refuse("method_not_supported_for_channel_type") // group messages are not simulated
		case !ok:
			return nil, refuse("user_not_found")
		case u.ID == s.cfg.BotUserID || u.IsBot:
			return nil, refuse("cannot_dm_bot")
		case u.Deleted:
			return nil, refuse("user_disabled")
		}
		id = dmID(u.ID)
	}
	c, ok := s.channel(id)
	if !ok || !isDM(id) {
		return nil, refuse("channel_not_found")
	}
	already := s.opened[id]
	s.opened[id] = true
	answer := object{"channel": object{"id": id}, "no_op": already, "already_open": already}
	if a["return_im"] == "true" {
		answer["channel"] = s.channelObject(c)
	}
	return answer, nil
}

func (s *Sim) conversationsInfo(a args) (object, *refusal) {
	c, ok := s.channel(a["channel"])
	if !ok || c.Private && c.WithoutBot {
		return nil, refuse("channel_not_found")
	}
	return object{"channel": s.channelObject(c)}, nil
}

func (s *Sim) channelObject(c Channel) object {
	if isDM(c.ID) {
		return object{"id": c.ID, "is_im": true, "user": c.Members[0], "is_archived": false, "is_open": s.opened[c.ID],
			"context_team_id": s.cfg.TeamID}
	}
	members := len(c.Members)
	if c.Members == nil {
		members = len(s.users)
	}
	return object{
		"id": c.ID, "name": c.Name, "name_normalized": c.Name, "is_channel": !c.Private, "is_group": c.Private, "is_im": false, "is_mpim": false,
		"is_private": c.Private, "is_archived": c.Archived, "is_member": !c.WithoutBot, "num_members": members, "context_team_id": s.cfg.TeamID,
	}
}

func (s *Sim) usersInfo(a args) (object, *refusal) {
	u, ok := s.user(a["user"])
	if !ok {
		return nil, refuse("user_not_found")
	}
	return object{"user": s.userObject(u)}, nil
}

// usersList pages as Slack does; the cursor is the index of the next user.
func (s *Sim) usersList(a args) (object, *refusal) {
	from, err := strconv.Atoi(cmp.Or(a["cursor"], "0"))
	if err != nil || from < 0 || from > len(s.users) {
		return nil, refuse("invalid_cursor")
	}
	limit, err := strconv.Atoi(cmp.Or(a["limit"], "0"))
	if err != nil || limit < 0 || limit > 1000 {
		return nil, refuse("invalid_limit")
	}
	to, next := len(s.users), ""
	if limit > 0 && from+limit < to {
		to = from + limit
		next = strconv.Itoa(to)
	}
	members := []object{}
	for _, u := range s.users[from:to] {
		members = append(members, s.userObject(u))
	}
	return object{"members": members, "cache_ts": time.Now().Unix(), "response_metadata": object{"next_cursor": next}}, nil
}

func (s *Sim) userObject(u User) object {
	team := cmp.Or(u.TeamID, s.cfg.TeamID)
	o := object{
		"id": u.ID, "team_id": team, "name": u.Name, "real_name": u.RealName, "deleted": u.Deleted, "tz": cmp.Or(u.TZ, "Etc/UTC"),
		"profile": object{"real_name": u.RealName, "display_name": u.Name, "email": u.Email, "team": team},
		"is_bot":  u.IsBot, "is_app_user": u.IsAppUser, "is_admin": u.IsAdmin, "is_owner": u.IsOwner,
		"is_restricted": u.IsRestricted, "is_ultra_restricted": u.IsUltraRestricted, "is_stranger": u.IsStranger,
		"is_invited_user": u.IsInvitedUser, "is_email_confirmed": !u.EmailUnconfirmed, "has_2fa": u.Has2FA,
	}
	if s.cfg.EnterpriseID != "" && !u.Outside {
		o["enterprise_user"] = object{"id": u.ID, "enterprise_id": s.cfg.EnterpriseID, "enterprise_name": s.cfg.EnterpriseName,
			"teams": []string{team}}
	}
	return o
}

func (s *Sim) usergroupsList(a args) (object, *refusal) {
	groups := []object{}
	for _, g := range s.groups {
		if g.Disabled && a["include_disabled"] != "true" {
			continue
		}
		o := object{"id": g.ID, "team_id": s.cfg.TeamID, "is_usergroup": true, "handle": g.Handle, "name": g.Name, "user_count": len(g.Users)}
		if a["include_users"] == "true" {
			o["users"] = g.Users
		}
		groups = append(groups, o)
	}
	return object{"usergroups": groups}, nil
}

func (s *Sim) usergroupsUsersList(a args) (object, *refusal) {
	i := slices.IndexFunc(s.groups, func(g UserGroup) bool {
		return g.ID == a["usergroup"] && (!g.Disabled || a["include_disabled"] == "true")
	})
	if i < 0 {
		return nil, refuse("no_such_subteam")
	}
	return object{"users": append([]string{}, s.groups[i].Users...)}, nil
}

// serveHook answers a post to a response_url. There is no token: knowing the URL is the permission.
func (s *Sim) serveHook(w http.ResponseWriter, r *http.Request) {
	a, ok := arguments(w, r)
	if !ok {
		writeJSON(w, http.StatusBadRequest, refuse("invalid_payload").body())
		return
	}
	s.withFaults(w, r, "response_url", a, func() (int, object) {
		h := s.hooks[r.PathValue("id")]
		switch {
		case h == nil:
			return http.StatusNotFound, refuse("invalid_url").body()
		case time.Now().After(h.expires):
			return http.StatusNotFound, refuse("expired_url").body()
		case h.uses >= hookUses:
			return http.StatusNotFound, refuse("used_url").body()
		}
		h.uses++
		if refused := s.respond(h, a); refused != nil {
			return http.StatusBadRequest, refused.body()
		}
		return http.StatusOK, object{"ok": true}
	})
}

// respond does what a post to a response_url asks for.
func (s *Sim) respond(h *hook, a args) *refusal {
	original := s.message(h.channel, h.original)
	if a["delete_original"] == "true" && original != nil {
		s.messages = slices.DeleteFunc(s.messages, func(m *Message) bool { return m == original })
		return nil
	}
	text, blocks, refused := content(a)
	if refused != nil {
		return refused
	}
	if a["replace_original"] == "true" && original != nil {
		if blocks == nil {
			blocks = json.RawMessage("[]") // a replacement is whole
		}
		s.edit(original, text, blocks)
		return nil
	}
	m := Message{Channel: h.channel, ThreadTS: a["thread_ts"], User: s.cfg.BotUserID, Text: text, Blocks: blocks, EphemeralTo: h.user}
	if a["response_type"] == "in_channel" {
		m.EphemeralTo = ""
	}
	s.post(m)
	return nil
}
