package slackbot

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/slack-go/slack"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/text"
)

// target names the request that a button or form is about, and the digest that the person saw.
type target struct{ id, digest string }

func (t target) String() string { return t.id + ":" + t.digest }

var targetPattern = regexp.MustCompile(`^(bg-[0-9a-z]{4}-[0-9a-z]{3}):([0-9a-f]{64})$`)

func parseTarget(s string) (target, error) {
	m := targetPattern.FindStringSubmatch(s)
	if m == nil {
		return target{}, malformed("the value names no request and digest")
	}
	return target{m[1], m[2]}, nil
}

// id is an object of which only the id matters.
type id struct {
	ID string `json:"id"`
}

// payload is what is read of an interaction. Everything else in it is of no consequence.
type payload struct {
	Type    string `json:"type"`
	AppID   string `json:"api_app_id"`
	Trigger string `json:"trigger_id"`
	Team    *struct {
		ID         string `json:"id"`
		Enterprise string `json:"enterprise_id"`
	} `json:"team"`
	Enterprise *id `json:"enterprise"`
	User       struct {
		ID     string `json:"id"`
		TeamID string `json:"team_id"`
	} `json:"user"`
	Container struct {
		Type    string `json:"type"`
		Channel string `json:"channel_id"`
	} `json:"container"`
	Actions []struct {
		ID    string `json:"action_id"`
		Value string `json:"value"`
	} `json:"actions"`
	View struct {
		ID         string `json:"id"`
		CallbackID string `json:"callback_id"`
		Metadata   string `json:"private_metadata"`
		State      struct {
			Values map[string]map[string]struct {
				Value    string `json:"value"`
				Selected struct {
					Value string `json:"value"`
				} `json:"selected_option"`
			} `json:"values"`
		} `json:"state"`
	} `json:"view"`
}

// field is what was filled in, or chosen, in a block of a form.
func (p *payload) field(block string) string {
	f := p.View.State.Values[block]["value"]
	if f.Selected.Value != "" {
		return f.Selected.Value
	}
	return f.Value
}

// origin is where a payload says that it comes from. What Slack fills in depends on how the app is installed:
//
//	installed for                    team  enterprise                 the person's team
//	a workspace by itself            T…    none                       T…
//	a workspace of an organization   T…    E…, beside or in the team  E…, or T… of any workspace of the person's
//	a whole organization             none  E…                         E… or T…
//	any of these, shared channel     T…    as above                   of a stranger: their own T… or E…
//
// A slash command has no team of the person's: its team is the workspace in which it was typed.
type origin struct {
	team, enterprise string
	user, userTeam   string
}

// ours checks that a signed payload is for this app and comes from a workspace, or the organization, that is believed.
func (b *Bot) ours(app string, from origin) error {
	forbidden := func(detail string) error { return &problem{http.StatusForbidden, OutcomeMalformed, detail} }
	switch {
	case app != b.cfg.AppID:
		return forbidden("it is for another app")
	case from.enterprise != b.cfg.EnterpriseID && b.cfg.EnterpriseID == "":
		return forbidden(fmt.Sprintf("it is from the organization %.40q, and slack.enterprise_id is empty: set it, if that is yours",
			from.enterprise))
	case from.enterprise != b.cfg.EnterpriseID:
		return forbidden(fmt.Sprintf("it is from another enterprise, %.40q", from.enterprise))
	case from.team == "" && b.cfg.EnterpriseID == "":
		return malformed("the payload names no workspace")
	case from.team != "" && !slices.Contains(b.cfg.TeamIDs, from.team):
		return forbidden(fmt.Sprintf("it is from another workspace, %.40q", from.team))
	}
	return nil
}

// actor is who did something in Slack. Its Person is empty for accounts that the access policy does not name. In an organization
// (Enterprise Grid) a user id is one account in all of its workspaces, and the team that Slack names with it says little:
// there an account is known by organization and user, and is recorded as the access policy writes it.
func (b *Bot) actor(from origin) record.Actor {
	acct := record.SlackAccount{Enterprise: from.enterprise, Team: cmp.Or(from.userTeam, from.team), User: from.user}
	if b.cfg.EnterpriseID != "" && (acct.Team == "" || acct.Team == b.cfg.EnterpriseID) {
		acct.Team = cmp.Or(from.team, b.cfg.TeamIDs[0]) // of all the workspaces of the organization, one that an entry can name
	}
	a := record.Actor{Channel: record.ChannelSlack, Slack: &acct}
	if !slices.Contains(b.cfg.TeamIDs, acct.Team) {
		return a // somebody from elsewhere, in a shared channel
	}
	policy := b.cfg.Service.Policy()
	if b.cfg.EnterpriseID != "" {
		var ok bool
		if acct, ok = b.inPolicy(policy, acct); !ok {
			return a
		}
	}
	a.Person, _ = policy.PersonBySlack(acct)
	return a
}

// inPolicy is the account as the access policy writes it, when exactly one person has it there.
func (b *Bot) inPolicy(policy *policy.Policy, acct record.SlackAccount) (record.SlackAccount, bool) {
	found, owner := acct, ""
	for _, p := range policy.People {
		for _, own := range p.Slack {
			if own.User != acct.User || !slices.Contains(b.cfg.TeamIDs, own.Team) || own.Enterprise != "" && own.Enterprise != acct.Enterprise {
				continue
			}
			if owner != "" && owner != p.ID {
				return acct, false // of two people: of nobody
			}
			if owner == "" || own.Team == acct.Team {
				found = own
			}
			owner = p.ID
		}
	}
	return found, owner != ""
}

// admit refuses, and records, accounts that belong to nobody in the access policy.
func (b *Bot) admit(ctx context.Context, a record.Actor, command string) error {
	if a.Person != "" {
		return nil
	}
	err := b.cfg.Service.RecordStranger(ctx, a, command)
	if _, refused := record.AsRefusal(err); refused && !slices.Contains(b.cfg.TeamIDs, a.Slack.Team) {
		return &record.Refusal{Class: record.ClassDenied, Code: "unknown-person", Why: "your Slack account is of the workspace " +
			"" + text.Cut(a.Slack.Team, 40) + ", from which nobody may use this",
			Next: "if it should: slack.team_ids of the configuration names the workspaces whose people may; with an SSH key in the access " +
				"policy use the command line"}
	}
	return err
}

// command answers the slash command. What it returns is shown to the person alone.
func (b *Bot) command(ctx context.Context, body []byte) (any, error) {
	f, err := form(body)
	if err != nil {
		return nil, err
	}
	if f.Has("payload") || f.Get("command") != b.cfg.Command || f.Get("user_id") == "" {
		return nil, malformed("it is not our slash command")
	}
	from := origin{team: f.Get("team_id"), enterprise: f.Get("enterprise_id"), user: f.Get("user_id")}
	if err := b.ours(f.Get("api_app_id"), from); err != nil {
		return nil, err
	}
	m, err := b.obey(ctx, b.actor(from), f)
	if r, ok := record.AsRefusal(err); ok {
		m, err = aside(sentence(r.Error())), nil
	}
	if err != nil || m.text == "" {
		return nil, err
	}
	return map[string]any{"response_type": "ephemeral", "text": m.text, "blocks": m.blocks}, nil
}

// aside is a sentence for one person.
func aside(s string) message {
	return message{text: escape(clipText(s)), blocks: []slack.Block{section("", plain(clipText(s)))}}
}

// obey carries a slash command out. An empty message means that a form was opened.
func (b *Bot) obey(ctx context.Context, a record.Actor, f url.Values) (message, error) {
	// Slack escapes these three characters in what people type.
	text := strings.TrimSpace(strings.NewReplacer("&lt;", "<", "&gt;", ">", "&amp;", "&").Replace(f.Get("text")))
	word, rest, _ := strings.Cut(text, " ")
	v := b.render(time.Now())
	if word == "help" {
		return v.help(), nil
	}
	if err := b.admit(ctx, a, "slash"); err != nil {
		return message{}, err
	}
	switch word {
	case "list", "status":
		if err := b.vet(ctx, a, word); err != nil {
			return message{}, err
		}
		if rest = strings.TrimSpace(rest); word == "list" || rest == "" {
			return b.list(ctx, v)
		}
		r, err := b.cfg.Service.Get(ctx, rest)
		if err != nil {
			return message{}, err
		}
		return message{text: escape(v.summary(r)), blocks: v.facts(r)}, nil
	case "touched":
		if err := b.vet(ctx, a, word); err != nil {
			return message{}, err
		}
		return b.touched(ctx, v)
	case "revoke", "close":
		return b.byName(ctx, a, word, strings.TrimSpace(rest), f.Get("trigger_id"))
	}
	if action := onCard[word]; action != "" && requestPattern.MatchString(strings.TrimSpace(rest)) {
		return b.byName(ctx, a, action, strings.TrimSpace(rest), f.Get("trigger_id"))
	}
	offers := v.policy.Eligible(a.Person)
	if len(offers) == 0 {
		return aside("There is nothing that you may ask for: no profile in the access policy has you among its requesters. To see requests: " +
			b.cfg.Command + " list"), nil
	}
	if err := b.open(ctx, f.Get("trigger_id"), v.ask(offers, parseWish(text, offers))); err != nil {
		return aside("Slack did not open the form (" + err.Error() + "). Try again, or use the command line: breakglass request"), nil
	}
	return message{}, nil
}

// onCard are words of the command line that are buttons in Slack, and the buttons. With a request after them they are meant.
var onCard = map[string]string{"approve": "review", "review": "review", "deny": "deny", "withdraw": "withdraw", "ack": "acknowledge",
	"acknowledge": "acknowledge"}

var requestPattern = regexp.MustCompile(`^bg-[0-9a-z]{4}-?[0-9a-z]{0,3}$`)

// list shows the open requests.
func (b *Bot) list(ctx context.Context, v render) (message, error) {
	all, err := b.cfg.Service.Open(ctx)
	if err != nil {
		return message{}, err
	}
	if len(all) == 0 {
		return aside("Nothing is open: no request waits and no access is live."), nil
	}
	const most = 20 // lines of at most 140 characters fit into one text of 3000
	var lines []string
	for _, r := range slices.Backward(all) {
		if len(lines) == most {
			lines = append(lines, fmt.Sprintf("and %d older ones: breakglass list", len(all)-most))
			break
		}
		lines = append(lines, text.Cut(v.summary(r), 140))
	}
	return message{text: fmt.Sprintf("%d open", len(all)), blocks: []slack.Block{section("", plain(strings.Join(lines, "\n")))}}, nil
}

// byName opens the form that a button would, for a request that somebody named.
func (b *Bot) byName(ctx context.Context, a record.Actor, action, name, trigger string) (message, error) {
	if name == "" {
		return aside("Which one? " + b.cfg.Command + " " + action + " ID. To see the ids: " + b.cfg.Command + " list"), nil
	}
	r, err := b.cfg.Service.Get(ctx, name)
	if err != nil {
		return message{}, err
	}
	err = b.press(ctx, a, action, target{r.ID, r.Digest}, trigger)
	if e := (*apiError)(nil); errors.As(err, &e) {
		return aside("Slack did not open the form (" + err.Error() + "). Try again, or use the command line: " +
			text.Command("breakglass show", nil, r.ID)), nil
	}
	if err == nil && action == "withdraw" { // the only one without a form
		return aside("You have withdrawn " + r.ID + "."), nil
	}
	return message{}, err
}

// touched shows the grants that are not over for people yet: without a closing note, or with something left behind that nobody
// has acknowledged.
func (b *Bot) touched(ctx context.Context, v render) (message, error) {
	open, err := b.cfg.Service.Touched(ctx)
	if err != nil {
		return message{}, err
	}
	left, err := b.cfg.Service.Unacknowledged(ctx)
	if err != nil {
		return message{}, err
	}
	if len(open)+len(left) == 0 {
		return aside("Every cluster is closed: no closing note is missing, and nothing left behind waits to be acknowledged."), nil
	}
	const most = 10 // lines of at most 140 characters for each
	list := func(title string, all []*breakglass.Request, says func(*breakglass.Request) string) []slack.Block {
		if len(all) == 0 {
			return nil
		}
		lines := []string{title}
		for i, r := range all {
			if i == most {
				lines = append(lines, fmt.Sprintf("and %d more: breakglass list", len(all)-i))
				break
			}
			lines = append(lines, text.Cut(r.ID+" · "+r.Ask.By.Person+" · "+r.Ask.Profile+" on "+r.Ask.Cluster+" · "+says(r), 140))
		}
		return []slack.Block{section("", plain(strings.Join(lines, "\n")))}
	}
	blocks := list("Closing note missing:", open, func(r *breakglass.Request) string {
		by := r.CloseBy(v.now)
		switch {
		case by.IsZero():
			return "still " + string(r.State(v.now))
		case v.now.Before(by):
			return "due " + by.UTC().Format("2006-01-02 15:04 UTC")
		}
		return "overdue since " + by.UTC().Format("2006-01-02 15:04 UTC")
	})
	blocks = append(blocks, list("Left behind and not acknowledged:", left, func(r *breakglass.Request) string {
		return count(len(r.Swept.Items)+r.Swept.More, "thing", "things")
	})...)
	return message{text: fmt.Sprintf("%s missing, %d not acknowledged", count(len(open), "closing note", "closing notes"), len(left)),
		blocks: blocks}, nil
}

// interaction answers clicks on buttons and sent forms.
func (b *Bot) interaction(ctx context.Context, body []byte) (any, error) {
	f, err := form(body)
	if err != nil {
		return nil, err
	}
	if len(f) != 1 || !f.Has("payload") {
		return nil, malformed("it is not one payload")
	}
	var p payload
	if err := json.Unmarshal([]byte(f.Get("payload")), &p); err != nil {
		return nil, malformed("the payload is not JSON of the right types")
	}
	if p.User.ID == "" {
		return nil, malformed("the payload names no user")
	}
	from := origin{user: p.User.ID, userTeam: p.User.TeamID}
	if p.Enterprise != nil {
		from.enterprise = p.Enterprise.ID
	}
	if p.Team != nil {
		from.team = p.Team.ID
		if from.enterprise != "" && p.Team.Enterprise != "" && p.Team.Enterprise != from.enterprise {
			return nil, malformed("the payload names two organizations")
		}
		from.enterprise = cmp.Or(from.enterprise, p.Team.Enterprise)
	}
	if err := b.ours(p.AppID, from); err != nil {
		return nil, err
	}
	a := b.actor(from)
	if b.aboutCampaign(&p) {
		return b.campaignInteraction(ctx, a, &p)
	}
	switch p.Type {
	case "block_actions":
		return nil, b.click(ctx, a, &p)
	case "view_submission":
		return b.submit(ctx, a, &p)
	case "view_closed":
		return nil, nil
	}
	return nil, malformed("payloads of this type are not taken")
}

// click carries out a click on a button of a card. A refusal is shown to the person alone.
func (b *Bot) click(ctx context.Context, a record.Actor, p *payload) error {
	if p.Container.Type != "message" || p.Container.Channel == "" || len(p.Actions) != 1 {
		return malformed("it is not one click on a message")
	}
	t, err := parseTarget(p.Actions[0].Value)
	if err != nil {
		return err
	}
	err = b.press(ctx, a, p.Actions[0].ID, t, p.Trigger)
	unreachable := (*apiError)(nil)
	switch r, refused := record.AsRefusal(err); {
	case refused:
		return b.whisper(ctx, p.Container.Channel, p.User.ID, clipText(sentence(r.Error())))
	case errors.As(err, &unreachable):
		return b.whisper(ctx, p.Container.Channel, p.User.ID, "Slack did not open the form ("+err.Error()+
			"). Try again, or use the command line: "+text.Command("breakglass show", nil, t.id))
	}
	return err
}

// press carries out a click: it opens the form that the button is for, or has the service refuse. Error is a refusal, an
// *apiError, or a fault.
func (b *Bot) press(ctx context.Context, a record.Actor, name string, t target, trigger string) error {
	act := actions[name]
	if act.form == nil && act.click == nil {
		return malformed("there is no such button")
	}
	if err := b.admit(ctx, a, name); err != nil {
		return err
	}
	r, err := b.cfg.Service.Get(ctx, t.id)
	if err != nil {
		return err
	}
	if act.click != nil {
		if err := b.vet(ctx, a, name); err != nil {
			return err
		}
		return act.click(ctx, b, a, t)
	}
	v := b.render(time.Now())
	if !act.offered(v, r, a.Person) {
		if err := b.cfg.Service.May(ctx, a, act.may, t.id); err != nil {
			return err
		}
	}
	return b.open(ctx, trigger, act.form(v, r, a.Person))
}

// submit carries out a sent form. The answer closes it, marks what is wrong in it, or shows why it cannot be.
func (b *Bot) submit(ctx context.Context, a record.Actor, p *payload) (any, error) {
	if p.View.CallbackID != formAsk && actions[p.View.CallbackID].send == nil {
		return nil, malformed("there is no such form")
	}
	err := b.admit(ctx, a, p.View.CallbackID)
	if err == nil {
		err = b.vet(ctx, a, p.View.CallbackID)
	}
	if err == nil {
		err = b.decide(ctx, a, p)
	}
	r, refused := record.AsRefusal(err)
	switch {
	case refused:
		return answerRefusal(p.View.CallbackID, r), nil
	case err != nil:
		return nil, err
	}
	return map[string]any{"response_action": "clear"}, nil
}

// decide hands what was filled in to the service.
func (b *Bot) decide(ctx context.Context, a record.Actor, p *payload) error {
	if p.View.CallbackID == formAsk { // the only form that is about no request yet
		return b.request(ctx, a, p)
	}
	t, err := parseTarget(p.View.Metadata)
	if err != nil {
		return err
	}
	return actions[p.View.CallbackID].send(ctx, b, a, t, p)
}

// recorded makes sure that what a person wrote is what was recorded. Somebody may have been quicker: then nothing was recorded of it,
// and the person must not believe that they are on record. The same form sent twice is recorded once, and that is no error.
func (b *Bot) recorded(is *record.Ending, a record.Actor, did, wrote string) error {
	if is == nil || is.By.Person == a.Person && is.Reason == strings.TrimSpace(wrote) {
		return nil
	}
	who := is.By.Person
	if who == a.Person {
		who = "you"
	}
	return &record.Refusal{Class: record.ClassConflict, Code: "already", Why: who + " " + did + " already, at " +
		"" + is.At.UTC().Format("2006-01-02 15:04 UTC") +
		": what you wrote now was not recorded", Next: "if others must know it, write it in the thread of the card"}
}

// lookAgain has a session looked through once more before it is acknowledged. Slack waits for no whole cluster: a look that takes
// longer goes on, and where it finds something else than was acknowledged, that is not acknowledged any more.
func (b *Bot) lookAgain(ctx context.Context, a record.Actor, id string) {
	r, err := b.cfg.Service.Get(ctx, id)
	if err != nil || !r.Unacknowledged() || a.Person == r.Ask.By.Person {
		return // the service says why it takes no acknowledgement
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := b.cfg.Service.Examine(context.WithoutCancel(ctx), a, id); err != nil {
			b.log.Warn("looking again before an acknowledgement", slog.String("request", id), slog.Any("error", err))
		}
	}()
	select {
	case <-done:
	case <-time.After(b.wait.cluster):
	}
}

// revoke revokes, and returns when that is recorded and the cluster has had a moment: Slack waits for no cluster that hangs. What is
// then left to do is done by the service's Run.
func (b *Bot) revoke(ctx context.Context, a record.Actor, id, reason string) error {
	r, err := b.cfg.Service.Get(ctx, id)
	if err != nil {
		return err
	}
	if r.Revoked != nil {
		r, err := b.cfg.Service.Revoke(ctx, a, id, reason)
		if err != nil {
			return err
		}
		return b.recorded(r.Revoked, a, "revoked it", reason)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done, recorded := make(chan error, 1), make(chan struct{})
	go func() {
		_, err := b.cfg.Service.Revoke(ctx, a, r.ID, reason)
		done <- err
	}()
	go func() {
		for now := r; ctx.Err() == nil; {
			next, err := b.cfg.Service.Wait(ctx, r.ID, now.Rev, "")
			if err != nil {
				return // the other one says what is wrong
			}
			if now = next; now.Revoked != nil {
				close(recorded)
				return
			}
		}
	}()
	select {
	case err := <-done:
		return err
	case <-recorded:
	}
	select {
	case err := <-done:
		return err
	case <-time.After(b.wait.cluster):
	}
	cancel()
	return <-done
}

// request opens a request. A form opens one at most: whoever sends it again because the answer was lost gets the same one.
func (b *Bot) request(ctx context.Context, a record.Actor, p *payload) error {
	profile, cluster, ok := strings.Cut(p.field(blockWhat), "/")
	ttl, err := time.ParseDuration(p.field(blockTTL))
	if !ok || err != nil || p.View.ID == "" || len(p.View.ID) > 64 {
		return malformed("the form is not filled in as forms are")
	}
	b.forms.Lock()
	defer b.forms.Unlock()
	key := "slack/form/" + url.PathEscape(p.View.ID)
	sent, err := b.cfg.Ledger.Bookmark(ctx, key)
	if err != nil || sent != nil {
		return err
	}
	r, err := b.cfg.Service.Request(ctx, a, breakglass.Ask{Profile: profile, Cluster: cluster, TTL: ttl, Reason: p.field(blockReason),
		Incident: p.field(blockIncident)})
	if err != nil {
		return err
	}
	return b.cfg.Ledger.SetBookmark(ctx, key, []byte(r.ID))
}

// answerRefusal puts a refusal where it can be corrected, or shows it instead of the form.
func answerRefusal(callback string, r *record.Refusal) any {
	where := map[string]string{"policy/ttl": blockTTL, "policy/reason": blockReason, "policy/incident": blockIncident,
		"policy/cluster": blockWhat}
	switch {
	case callback == formAsk && r.Class == record.ClassPolicy:
		problems := r.Problems
		if len(problems) <= 1 { // the whole sentence, with the next step, has room
			problems = record.Problems{{Code: r.Code, Why: r.Error()}}
		}
		errs := map[string]string{}
		for _, p := range problems {
			block := cmp.Or(where[p.Code], blockWhat)
			if errs[block] != "" {
				errs[block] += " "
			}
			errs[block] += sentence(p.Why)
		}
		return map[string]any{"response_action": "errors", "errors": errs}
	case callback == formAsk:
		return map[string]any{"response_action": "errors", "errors": map[string]string{blockWhat: sentence(r.Error())}}
	case r.Code == "reason" && (callback == formDeny || callback == formRevoke):
		return map[string]any{"response_action": "errors", "errors": map[string]string{blockReason: sentence(r.Error())}}
	case r.Code == "note" && (callback == formSeen || callback == formClose):
		return map[string]any{"response_action": "errors", "errors": map[string]string{blockNote: sentence(r.Error())}}
	case r.Code == "comment" && callback == formApprove:
		return map[string]any{"response_action": "errors", "errors": map[string]string{blockComment: sentence(r.Error())}}
	}
	return map[string]any{"response_action": "update", "view": notice("Not done", sentence(r.Error()))}
}
