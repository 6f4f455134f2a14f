package slacksim

import (
	"cmp"
	"context"
	"embed"
	"encoding/json"
	"html/template"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed page.html page.css page.js
var pageFiles embed.FS

// pollFor is how long the page's request for news may wait; shorter than any proxy's or browser's patience.
const pollFor = 20 * time.Second

// Handler serves the whole simulator: the Web API under /api/, response_url under /response/, and the page for people
// under / with its JSON endpoints under /sim/.
func (s *Sim) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/api/{method}", s.serveAPI)
	mux.HandleFunc("POST /response/{id}", s.serveHook)

	index := template.Must(template.ParseFS(pageFiles, "page.html"))
	shell := struct{ TeamDomain, Notice, Command string }{s.cfg.TeamDomain, s.cfg.Notice, s.cfg.Command}
	page := http.NewServeMux()
	page.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_ = index.Execute(w, shell) // the template is embedded; only a lost connection can fail here
	})
	page.Handle("GET /sim/page.css", http.StripPrefix("/sim", http.FileServerFS(pageFiles)))
	page.Handle("GET /sim/page.js", http.StripPrefix("/sim", http.FileServerFS(pageFiles)))
	page.HandleFunc("GET /sim/state", s.serveState)
	page.HandleFunc("POST /sim/say", serveAct(s, s.pageSay))
	page.HandleFunc("POST /sim/act", serveAct(s, s.pageAct))
	page.HandleFunc("POST /sim/submit", serveAct(s, s.pageSubmit))
	page.HandleFunc("POST /sim/close", serveAct(s, s.pageClose))
	mux.Handle("/", s.guard(page))
	return mux
}

// guard keeps other web sites away from the page: requests must name a loopback host (or the host of SetURL), so a
// rebound DNS name gets nothing, and writes must come from the page itself.
func (s *Sim) guard(next http.Handler) http.Handler {
	sameOrigin := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri "+
			"'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		if !s.ownHost(r.Host) {
			http.Error(w, "open this page by its loopback address", http.StatusForbidden)
			return
		}
		if r.Method == http.MethodPost {
			// A custom header cannot be sent across origins without a preflight, which nothing here answers.
			if err := sameOrigin.Check(r); err != nil || r.Header.Get("X-Slacksim") != "1" {
				http.Error(w, "this request did not come from the page", http.StatusForbidden)
				return
			}
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Sim) ownHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	own, err := url.Parse(s.cfg.URL)
	return err == nil && own.Host != "" && own.Host == hostport
}

// The types below are the page's JSON.

type pageState struct {
	Rev      int               `json:"rev"`
	Me       string            `json:"me"`
	Bot      string            `json:"bot"`
	People   []pagePerson      `json:"people"`
	Groups   map[string]string `json:"groups"`
	Channels []pageChannel     `json:"channels"`
	Messages []pageMessage     `json:"messages"`
	Modal    *pageModal        `json:"modal"`
}

type pagePerson struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Real  string `json:"real"`
	Bot   bool   `json:"bot"`
	Flags string `json:"flags"` // why an app might refuse this person, in words
}

type pageChannel struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	DM      bool   `json:"dm"`
	Private bool   `json:"private"`
}

type pageMessage struct {
	Channel   string          `json:"channel"`
	TS        string          `json:"ts"`
	Thread    string          `json:"thread"`
	User      string          `json:"user"`
	Text      string          `json:"text"`
	Blocks    json.RawMessage `json:"blocks,omitempty"`
	Ephemeral bool            `json:"ephemeral"`
	Broadcast bool            `json:"broadcast"`
}

type pageModal struct {
	ID      string          `json:"id"`
	Hash    string          `json:"hash"`
	Title   string          `json:"title"`
	Submit  string          `json:"submit"`
	Close   string          `json:"close"`
	Problem string          `json:"problem"`
	Blocks  json.RawMessage `json:"blocks"`
	Values  formValues      `json:"values"`
}

// serveState answers with what one person sees, at once if it is newer than rev, else when it changes.
func (s *Sim) serveState(w http.ResponseWriter, r *http.Request) {
	seen, err := strconv.Atoi(cmp.Or(r.FormValue("rev"), "-1"))
	if err != nil {
		http.Error(w, "rev must be a number", http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), pollFor)
	defer cancel()
	var state pageState
	// Without news in time the page gets the state it has, and asks again.
	_ = s.Wait(ctx, func() bool {
		state = s.stateFor(r.FormValue("as"))
		return state.Rev != seen
	})
	writeJSON(w, http.StatusOK, state)
}

func (s *Sim) stateFor(id string) pageState {
	modal := s.As(id).Modal()
	s.mu.Lock()
	defer s.mu.Unlock()
	state := pageState{Rev: s.rev, Me: id, Bot: s.cfg.BotUserID, Groups: map[string]string{}, Messages: []pageMessage{}}
	for _, u := range s.users {
		state.People = append(state.People, pagePerson{ID: u.ID, Name: u.Name, Real: cmp.Or(u.RealName, u.Name), Bot: u.IsBot, Flags: u.flags()})
	}
	for _, g := range s.groups {
		state.Groups[g.ID] = g.Handle
	}
	for _, c := range s.channels {
		if c.has(id) {
			state.Channels = append(state.Channels, pageChannel{ID: c.ID, Name: c.Name, Private: c.Private})
		}
	}
	state.Channels = append(state.Channels, pageChannel{ID: dmID(id), Name: s.cfg.BotName, DM: true})
	for _, m := range s.messages {
		visible := slices.ContainsFunc(state.Channels, func(c pageChannel) bool { return c.ID == m.Channel })
		if !visible || m.EphemeralTo != "" && m.EphemeralTo != id {
			continue
		}
		state.Messages = append(state.Messages, pageMessage{
			Channel: m.Channel, TS: m.TS, Thread: m.ThreadTS, User: m.User, Text: m.Text, Blocks: m.Blocks,
			Ephemeral: m.EphemeralTo != "", Broadcast: m.Broadcast,
		})
	}
	if modal == nil {
		return state
	}
	if v := s.findView(modal.ID, ""); v != nil {
		state.Modal = &pageModal{
			ID: v.id, Hash: v.hash, Title: modal.Title, Submit: modal.Submit, Close: modal.Close,
			Problem: v.problem, Blocks: v.blocks(), Values: v.values.clone(),
		}
	}
	return state
}

// flags says in words what an app may hold against a person.
func (u User) flags() string {
	for _, f := range []struct {
		set  bool
		word string
	}{
		{u.Deleted, "deactivated"}, {u.IsStranger, "external"}, {u.IsUltraRestricted, "single-channel guest"},
		{u.IsRestricted, "guest"}, {u.IsInvitedUser, "invited"}, {u.IsBot, "bot"},
	} {
		if f.set {
			return f.word
		}
	}
	return ""
}

// pageRequest is what the page posts. Each endpoint uses the fields it needs.
type pageRequest struct {
	As      string      `json:"as"`
	Channel string      `json:"channel"`
	TS      string      `json:"ts"`
	Text    string      `json:"text"`
	View    string      `json:"view"`
	Block   string      `json:"block"`
	Action  string      `json:"action"`
	Values  []string    `json:"values"`
	Inputs  []pageInput `json:"inputs"`
}

type pageInput struct {
	Block  string   `json:"block"`
	Action string   `json:"action"`
	Values []string `json:"values"`
}

// serveAct decodes a post of the page, acts, and answers with an error to show or with errors for a form's inputs.
func serveAct(s *Sim, act func(context.Context, *Person, pageRequest) (map[string]string, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in pageRequest
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			http.Error(w, "the request is not JSON: "+err.Error(), http.StatusBadRequest)
			return
		}
		// The person does not take an act back by closing the tab, so it outlives the request.
		errs, err := act(context.WithoutCancel(r.Context()), s.As(in.As), in)
		answer := object{"ok": err == nil && len(errs) == 0, "errors": errs}
		if err != nil {
			answer["error"] = err.Error()
		}
		writeJSON(w, http.StatusOK, answer)
	}
}

// pageSay is the message box: the app's command, or a plain message. Slack has no other commands here.
func (s *Sim) pageSay(ctx context.Context, p *Person, in pageRequest) (map[string]string, error) {
	p = p.In(in.Channel)
	command, text, _ := strings.Cut(strings.TrimSpace(in.Text), " ")
	switch {
	case command == s.cfg.Command:
		_, err := p.Slash(ctx, text)
		return nil, err
	case command != "" && command[0] == '/':
		p.notice(in.Channel, command+" is not a valid command here. Try "+s.cfg.Command+".")
		return nil, nil
	}
	_, err := p.Say(in.Text)
	return nil, err
}

func (s *Sim) pageAct(ctx context.Context, p *Person, in pageRequest) (map[string]string, error) {
	return nil, p.Act(ctx, Action{Channel: in.Channel, TS: in.TS, ViewID: in.View, BlockID: in.Block, ActionID: in.Action, Values: in.Values})
}

func (s *Sim) pageSubmit(ctx context.Context, p *Person, in pageRequest) (map[string]string, error) {
	m := &Modal{ID: in.View, person: p}
	s.mu.Lock()
	v, err := p.top(in.View)
	for _, input := range in.Inputs {
		if err == nil {
			_, err = v.fill(Action{BlockID: input.Block, ActionID: input.Action, Values: input.Values})
		}
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return m.Send(ctx)
}

func (s *Sim) pageClose(ctx context.Context, p *Person, in pageRequest) (map[string]string, error) {
	return nil, (&Modal{ID: in.View, person: p}).Dismiss(ctx)
}
