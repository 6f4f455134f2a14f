// Package slacksim is a Slack workspace in a process: people, channels, direct messages and one installed app.
//
// It speaks Slack's own protocol in both directions, over real HTTP, and knows nothing of the app it hosts:
//
//   - The app calls the Web API under /api/ exactly as it would call slack.com, and is answered with Slack's error
//     codes, limits (ValidateBlocks), short-lived single-use triggers and, on demand, Slack's failures (Fail).
//   - People act: they type a slash command, click a button, fill in and submit a modal. Each act becomes a request
//     to the app, signed like Slack's (Sign), which must be answered within three seconds.
//
// Two kinds of callers act for people. Tests use As and the methods of Person and Modal. The page served under /
// drives the same methods for somebody who tries the app in a browser. What a person can do here is what Slack's
// client would let them do; what an attacker could do is RawSend.
//
// All state is in memory and all methods may be called from any goroutine. The page lets everybody act as anybody,
// so the caller must bind the handler to loopback; requests under another host name are refused, which stops a
// rebound DNS name.
package slacksim

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// User is a person or a bot. The flags are those of users.info; nobody is stopped from acting by a flag, because
// noticing it is the app's work.
type User struct {
	ID       string
	Name     string // handle, as in @alice
	RealName string
	Email    string
	TeamID   string // another team makes it somebody from Slack Connect; empty means Config.TeamID, or the organization if there is one
	TZ       string

	Deleted, IsBot, IsAppUser, IsRestricted, IsUltraRestricted, IsStranger, IsInvitedUser bool
	EmailUnconfirmed, IsAdmin, IsOwner, Has2FA                                            bool

	// Outside makes it somebody of another organization, met in a shared channel. TeamID is their workspace or organization.
	Outside bool
}

// Channel is a channel of the workspace. Direct messages with the app need no Channel: everybody has one, with the
// id "D" followed by their user id without its first letter.
type Channel struct {
	ID, Name   string
	Private    bool
	Archived   bool
	WithoutBot bool     // the app was not invited
	Members    []string // user ids; nil means everybody
}

// UserGroup is a mentionable group such as @security.
type UserGroup struct {
	ID, Handle, Name string
	Users            []string
	Disabled         bool
}

// Config describes a workspace. TeamID, AppID, BotToken, SigningSecret, Command and one user and channel are
// required.
type Config struct {
	TeamID, TeamDomain           string
	EnterpriseID, EnterpriseName string // empty unless the workspace belongs to an Enterprise organization
	WholeOrganization            bool   // the app is installed for the organization; else for the workspace
	AppID, BotID, BotUserID      string
	BotName                      string
	BotToken, SigningSecret      string
	Command                      string // with its slash
	CommandURL, InteractivityURL string // may be set later with SetAppURLs
	URL                          string // how the app reaches this simulator; may be set later with SetURL
	Users                        []User
	Channels                     []Channel
	UserGroups                   []UserGroup

	// Notice is shown as a banner on the page.
	Notice string
	// Client sends the requests to the app. Nil means a client of its own that uses no proxy and follows no redirect.
	Client *http.Client
	// AckWithin is how long the app may take to answer and TriggerLife how long a trigger_id is good for. Zero means
	// three seconds for both, as documented by Slack.
	AckWithin, TriggerLife time.Duration
}

// Message is a copy of a message as it stands.
type Message struct {
	Channel   string
	TS        string // unique in the workspace and its identity: "1700000000.000100"
	ThreadTS  string // the parent's TS when it is a reply
	User      string
	Text      string
	Blocks    json.RawMessage
	Broadcast bool // a reply that is also shown in the channel
	// EphemeralTo is the only user who sees it; empty means that everybody in the channel does.
	EphemeralTo string
	// Edits are the earlier versions, oldest first.
	Edits []Edit
}

// Edit is an earlier version of a message.
type Edit struct {
	Text   string
	Blocks json.RawMessage
}

// AllText returns the text and every text in the blocks, one per line, for tests that ask what a person can read.
func (m Message) AllText() string {
	return strings.Join(append([]string{m.Text}, blockTexts(m.Blocks)...), "\n")
}

// Button is a button of a message. Confirm is the dialog Slack's client shows before it sends the click, if any.
type Button struct {
	BlockID  string   `json:"-"`
	ActionID string   `json:"action_id"`
	Text     Label    `json:"text"`
	Value    string   `json:"value"`
	URL      string   `json:"url"`
	Style    string   `json:"style"`
	Confirm  *Confirm `json:"confirm"`
}

// Confirm is a confirmation dialog.
type Confirm struct {
	Title   Label  `json:"title"`
	Text    Label  `json:"text"`
	Confirm Label  `json:"confirm"`
	Deny    Label  `json:"deny"`
	Style   string `json:"style"`
}

// Label is the text of a text object of Block Kit.
type Label string

// UnmarshalJSON takes the text out of the object.
func (l *Label) UnmarshalJSON(raw []byte) error {
	var part struct{ Text string }
	if err := json.Unmarshal(raw, &part); err != nil {
		return err
	}
	*l = Label(part.Text)
	return nil
}

// Buttons returns the buttons of the message in reading order.
func (m Message) Buttons() []Button {
	var found []Button
	for _, e := range elementsOf(m.Blocks) {
		if e.def["type"] != "button" {
			continue
		}
		b := Button{BlockID: e.blockID}
		raw, _ := json.Marshal(e.def)
		if json.Unmarshal(raw, &b) == nil {
			found = append(found, b)
		}
	}
	return found
}

// Button returns the first button with that action id.
func (m Message) Button(actionID string) (Button, bool) {
	i := slices.IndexFunc(m.Buttons(), func(b Button) bool { return b.ActionID == actionID })
	if i < 0 {
		return Button{}, false
	}
	return m.Buttons()[i], true
}

// object is a JSON object whose shape Slack defines.
type object = map[string]any

type trigger struct {
	user    string
	expires time.Time
	used    bool
}

// hook is a response_url. original is the message whose button was clicked, if that was how it came to be.
type hook struct {
	channel, user string
	original      string
	expires       time.Time
	uses          int
}

// Slack's documented limits of a response_url.
const (
	hookLife = 30 * time.Minute
	hookUses = 5
)

// slackbot is the author of Slack's own notices.
const slackbot = "USLACKBOT"

// Sim is one workspace. Use New.
type Sim struct {
	cfg    Config
	client *http.Client

	// mu guards everything below. It is never held while the app is called or while a caller's function runs.
	mu       sync.Mutex
	rev      int           // counts changes; the page and Wait watch it
	changed  chan struct{} // closed and replaced on every change
	users    []User
	channels []Channel
	groups   []UserGroup
	messages []*Message // every message in order of TS, ephemerals included; deleted ones are gone
	opened   map[string]bool

	scheduled map[string]string // channels by the id of an order to post there later
	triggers  map[string]*trigger
	hooks     map[string]*hook
	stacks    map[string][]*view // open modals by user id, the visible one last
	calls     []Call
	faults    map[string]*Fault
	healed    chan struct{} // closed by Heal, which releases hung calls
	sent      []SignedRequest
	lastTS    int64 // microseconds
	lastID    int
	closed    bool
}

// New returns the workspace cfg describes, or an error that says what cfg lacks.
func New(cfg Config) (*Sim, error) {
	for _, required := range []struct{ name, value string }{
		{"TeamID", cfg.TeamID}, {"AppID", cfg.AppID}, {"BotToken", cfg.BotToken}, {"SigningSecret", cfg.SigningSecret}, {"Command", cfg.Command},
	} {
		if required.value == "" {
			return nil, fmt.Errorf("slack simulator: Config.%s is empty", required.name)
		}
	}
	if len(cfg.Users) == 0 || len(cfg.Channels) == 0 {
		return nil, errors.New("slack simulator: Config needs at least one user and one channel")
	}
	cfg.TeamDomain = cmp.Or(cfg.TeamDomain, "simulated")
	cfg.BotID = cmp.Or(cfg.BotID, "B0SIM")
	cfg.BotUserID = cmp.Or(cfg.BotUserID, "U0SIMBOT")
	cfg.BotName = cmp.Or(cfg.BotName, strings.TrimPrefix(cfg.Command, "/"))
	cfg.AckWithin = cmp.Or(cfg.AckWithin, 3*time.Second)
	cfg.TriggerLife = cmp.Or(cfg.TriggerLife, 3*time.Second)
	s := &Sim{
		cfg:      cfg,
		client:   cfg.Client,
		changed:  make(chan struct{}),
		channels: slices.Clone(cfg.Channels),
		groups:   slices.Clone(cfg.UserGroups),
		users:    append(slices.Clone(cfg.Users), User{ID: cfg.BotUserID, Name: cfg.BotName, RealName: cfg.BotName, IsBot: true}),
		opened:   map[string]bool{},

		scheduled: map[string]string{},
		triggers:  map[string]*trigger{},
		hooks:     map[string]*hook{},
		stacks:    map[string][]*view{},
		faults:    map[string]*Fault{},
		healed:    make(chan struct{}),
	}
	if s.client == nil {
		s.client = &http.Client{
			Transport:     &http.Transport{},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return s, nil
}

// Close releases every call that hangs and every page that waits. The workspace stays readable.
func (s *Sim) Close() {
	s.Heal()
	s.mu.Lock()
	s.closed = true
	s.touch()
	s.mu.Unlock()
	s.client.CloseIdleConnections()
}

// SetURL tells the simulator under which base URL the app reaches it, for the response_url it hands out.
func (s *Sim) SetURL(base string) {
	s.change(func() { s.cfg.URL = strings.TrimSuffix(base, "/") })
}

// SetAppURLs sets where slash commands and interactions are sent.
func (s *Sim) SetAppURLs(command, interactivity string) {
	s.change(func() { s.cfg.CommandURL, s.cfg.InteractivityURL = command, interactivity })
}

// SetUser adds a user or replaces the one with that id.
func (s *Sim) SetUser(u User) {
	s.change(func() { s.users = put(s.users, u, func(x User) bool { return x.ID == u.ID }) })
}

// SetChannel adds a channel or replaces the one with that id.
func (s *Sim) SetChannel(c Channel) {
	s.change(func() { s.channels = put(s.channels, c, func(x Channel) bool { return x.ID == c.ID }) })
}

// SetUserGroup adds a group or replaces the one with that id.
func (s *Sim) SetUserGroup(g UserGroup) {
	s.change(func() { s.groups = put(s.groups, g, func(x UserGroup) bool { return x.ID == g.ID }) })
}

func put[T any](all []T, one T, same func(T) bool) []T {
	if i := slices.IndexFunc(all, same); i >= 0 {
		all[i] = one
		return all
	}
	return append(all, one)
}

// Messages returns what everybody in a channel (or direct message) sees, replies included, oldest first.
func (s *Sim) Messages(channel string) []Message {
	return s.selectMessages(func(m *Message) bool { return m.Channel == channel && m.EphemeralTo == "" })
}

// Thread returns the replies to a message, oldest first.
func (s *Sim) Thread(channel, ts string) []Message {
	return s.selectMessages(func(m *Message) bool { return m.Channel == channel && m.ThreadTS == ts && m.EphemeralTo == "" })
}

// Message returns one message, an ephemeral one too.
func (s *Sim) Message(channel, ts string) (Message, bool) {
	found := s.selectMessages(func(m *Message) bool { return m.Channel == channel && m.TS == ts })
	if len(found) == 0 {
		return Message{}, false
	}
	return found[0], true
}

func (s *Sim) selectMessages(match func(*Message) bool) []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []Message
	for _, m := range s.messages {
		if match(m) {
			c := *m
			c.Edits = slices.Clone(m.Edits)
			found = append(found, c)
		}
	}
	return found
}

// WaitMessage returns the newest message, ephemerals included, that satisfies match, as soon as there is one. match
// sees a message again after each edit.
func (s *Sim) WaitMessage(ctx context.Context, match func(Message) bool) (Message, error) {
	var found Message
	err := s.Wait(ctx, func() bool {
		all := s.selectMessages(func(*Message) bool { return true })
		slices.Reverse(all)
		i := slices.IndexFunc(all, match)
		if i >= 0 {
			found = all[i]
		}
		return i >= 0
	})
	if err != nil {
		return Message{}, fmt.Errorf("waiting for a message: %w", err)
	}
	return found, nil
}

// Wait returns nil once done reports true. done is called at once and after every change, without any lock held.
func (s *Sim) Wait(ctx context.Context, done func() bool) error {
	for {
		s.mu.Lock()
		changed, closed := s.changed, s.closed
		s.mu.Unlock()
		if done() {
			return nil
		}
		if closed {
			return errors.New("the slack simulator is closed")
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// The methods below expect mu to be held.

func (s *Sim) touch() {
	s.rev++
	close(s.changed)
	s.changed = make(chan struct{})
}

// change runs do with mu held and wakes everybody who waits.
func (s *Sim) change(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
	s.touch()
}

// nextTS returns a timestamp that no message and no action had before.
func (s *Sim) nextTS() string {
	s.lastTS = max(time.Now().UnixMicro(), s.lastTS+1)
	return fmt.Sprintf("%d.%06d", s.lastTS/1e6, s.lastTS%1e6)
}

func (s *Sim) nextID(prefix string) string {
	s.lastID++
	return fmt.Sprintf("%s%07X", prefix, s.lastID)
}

func (s *Sim) newBlockID() string { return s.nextID("b") }

func (s *Sim) user(id string) (User, bool) {
	i := slices.IndexFunc(s.users, func(u User) bool { return u.ID == id })
	if i < 0 {
		return User{}, false
	}
	return s.users[i], true
}

// channel finds a channel by id, or a direct message by its id.
func (s *Sim) channel(id string) (Channel, bool) {
	i := slices.IndexFunc(s.channels, func(c Channel) bool { return c.ID == id })
	if i >= 0 {
		return s.channels[i], true
	}
	for _, u := range s.users {
		if id == dmID(u.ID) && u.ID != s.cfg.BotUserID {
			return Channel{ID: id, Name: "directmessage", Private: true, Members: []string{u.ID, s.cfg.BotUserID}}, true
		}
	}
	return Channel{}, false
}

// dmID is the id of the direct message between the app and a user.
func dmID(user string) string { return "D" + strings.TrimPrefix(strings.TrimPrefix(user, "U"), "W") }

func isDM(channel string) bool { return strings.HasPrefix(channel, "D") }

func (c Channel) has(user string) bool { return c.Members == nil || slices.Contains(c.Members, user) }

// message finds a message by its identity.
func (s *Sim) message(channel, ts string) *Message {
	i := slices.IndexFunc(s.messages, func(m *Message) bool { return m.Channel == channel && m.TS == ts })
	if i < 0 {
		return nil
	}
	return s.messages[i]
}

// post adds a message to the workspace. Its blocks have passed validation.
func (s *Sim) post(m Message) *Message {
	m.Blocks, m.TS = completeBlocks(m.Blocks, s.newBlockID), s.nextTS()
	switch parent := s.message(m.Channel, m.ThreadTS); {
	case parent == nil:
		m.ThreadTS = "" // as Slack does when the parent is gone
	case parent.ThreadTS != "":
		m.ThreadTS = parent.ThreadTS // threads have no threads
	}
	if isDM(m.Channel) {
		s.opened[m.Channel] = true
	}
	s.messages = append(s.messages, &m)
	s.touch()
	return &m
}

// edit replaces a message and keeps what it was. Nil blocks leave the blocks, empty ones remove them.
func (s *Sim) edit(m *Message, text string, blocks json.RawMessage) {
	m.Edits = append(m.Edits, Edit{Text: m.Text, Blocks: m.Blocks})
	m.Text = text
	if blocks != nil {
		m.Blocks = completeBlocks(blocks, s.newBlockID)
	}
	s.touch()
}

func (s *Sim) newTrigger(user string) string {
	id := fmt.Sprintf("%d.%d.%s", time.Now().UnixMilli(), len(s.triggers), strings.ToLower(rand.Text()))
	s.triggers[id] = &trigger{user: user, expires: time.Now().Add(s.cfg.TriggerLife)}
	return id
}

func (s *Sim) newHook(h hook) string {
	id := rand.Text()
	h.expires = time.Now().Add(hookLife)
	s.hooks[id] = &h
	return s.cfg.URL + "/response/" + id
}

// escape turns what a person typed into what Slack hands to an app: the three characters of its markup escaped, and
// the names of people and channels resolved, as with should_escape in the app's manifest.
func (s *Sim) escape(typed string) string {
	typed = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(typed)
	return mention.ReplaceAllStringFunc(typed, func(word string) string {
		at := strings.IndexAny(word, "@#")
		name := word[at+1:]
		if word[at] == '#' {
			if i := slices.IndexFunc(s.channels, func(c Channel) bool { return c.Name == name }); i >= 0 {
				return word[:at] + "<#" + s.channels[i].ID + "|" + name + ">"
			}
			return word
		}
		if i := slices.IndexFunc(s.users, func(u User) bool { return u.Name == name }); i >= 0 {
			return word[:at] + "<@" + s.users[i].ID + "|" + name + ">"
		}
		return word
	})
}

var mention = regexp.MustCompile(`(^|\s)[@#][\w.-]*\w`)
