package slacksim

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// stackLimit is how many views Slack stacks in one modal.
const stackLimit = 3

// view is an open modal. def is what the app sent, with block and action ids completed.
type view struct {
	id, hash, user string
	root, previous string
	def            object
	values         formValues
	problem        string // what Slack's client shows above the form after a failed submit
}

func (v *view) blocks() json.RawMessage {
	raw, _ := json.Marshal(v.def["blocks"]) // def came from JSON
	return raw
}

func (v *view) text(field string) string {
	part, _ := v.def[field].(object)
	s, _ := part["text"].(string)
	return s
}

func (v *view) str(field string) string {
	s, _ := v.def[field].(string)
	return s
}

// formElement is an interactive element and the block it is in.
type formElement struct {
	blockID  string
	def      object
	optional bool
	// isInput is true in an input block; dispatches says whether using the element tells the app at once.
	isInput, dispatches bool
}

func (e formElement) kind() string     { s, _ := e.def["type"].(string); return s }
func (e formElement) actionID() string { s, _ := e.def["action_id"].(string); return s }

// elementsOf lists the interactive elements of blocks in reading order.
func elementsOf(raw json.RawMessage) []formElement {
	var blocks []object
	if json.Unmarshal(raw, &blocks) != nil {
		return nil
	}
	var found []formElement
	for _, block := range blocks {
		id, _ := block["block_id"].(string)
		for _, def := range interactive(block) {
			e := formElement{blockID: id, def: def, isInput: block["type"] == "input", optional: block["optional"] == true}
			e.dispatches = !e.isInput || block["dispatch_action"] == true
			found = append(found, e)
		}
	}
	return found
}

func findElement(all []formElement, a Action) (formElement, error) {
	var found []formElement
	for _, e := range all {
		if (a.ActionID == "" || e.actionID() == a.ActionID) && (a.BlockID == "" || e.blockID == a.BlockID) {
			found = append(found, e)
		}
	}
	if len(found) != 1 {
		return formElement{}, fmt.Errorf("%d elements have action_id %q and block_id %q; exactly one must", len(found), a.ActionID, a.BlockID)
	}
	return found[0], nil
}

// value gives the values their place in an action or a state: nil where nothing is chosen.
func (e formElement) value(values []string) (object, error) {
	var chosen []any
	for _, value := range values {
		for _, choice := range choices(e.def) {
			if option, ok := choice.(object); ok && option["value"] == value {
				chosen = append(chosen, option)
				break
			}
		}
	}
	var one, first any
	if len(values) > 0 && values[0] != "" {
		one = values[0]
	}
	if len(chosen) > 0 {
		first = chosen[0]
	}
	o := object{"type": e.kind()}
	single := true
	switch e.kind() {
	case "static_select", "radio_buttons", "overflow":
		o["selected_option"] = first
	case "checkboxes", "multi_static_select":
		o["selected_options"] = append([]any{}, chosen...)
		single = false
	case "datepicker":
		o["selected_date"] = one
	case "timepicker":
		o["selected_time"] = one
	case "users_select":
		o["selected_user"] = one
	case "plain_text_input", "number_input", "email_text_input", "url_text_input":
		o["value"] = one
	default:
		return nil, fmt.Errorf("a %s takes no value", e.kind())
	}
	if single && len(values) > 1 {
		return nil, fmt.Errorf("a %s takes one value, got %d", e.kind(), len(values))
	}
	if (o["selected_options"] != nil || e.hasOptions()) && len(chosen) != len(values) {
		return nil, fmt.Errorf("%q has no such option: %q", e.actionID(), values)
	}
	return o, nil
}

func (e formElement) hasOptions() bool { return len(choices(e.def)) > 0 }

// action is the entry for "actions" in block_actions.
func (e formElement) action(values []string, ts string) (object, error) {
	action := object{}
	if e.kind() == "button" {
		action["type"] = "button"
		for _, field := range []string{"text", "value", "style", "confirm"} {
			if e.def[field] != nil {
				action[field] = e.def[field]
			}
		}
	} else {
		var err error
		if action, err = e.value(values); err != nil {
			return nil, err
		}
	}
	action["action_id"], action["block_id"], action["action_ts"] = e.actionID(), e.blockID, ts
	return action, nil
}

// initial is what the app filled in beforehand.
func (e formElement) initial() []string {
	var values []string
	for _, field := range []string{"initial_value", "initial_date", "initial_time", "initial_user"} {
		if s, ok := e.def[field].(string); ok && s != "" {
			values = append(values, s)
		}
	}
	options, _ := e.def["initial_options"].([]any)
	for _, option := range append([]any{e.def["initial_option"]}, options...) {
		if o, ok := option.(object); ok {
			s, _ := o["value"].(string)
			values = append(values, s)
		}
	}
	return values
}

// formValues are the values of a form by block_id and action_id.
type formValues map[string]map[string][]string

func (f formValues) set(e formElement, values []string) {
	if f[e.blockID] == nil {
		f[e.blockID] = map[string][]string{}
	}
	f[e.blockID][e.actionID()] = slices.Clone(values)
}

func (f formValues) clone() formValues {
	c := formValues{}
	for block, values := range f {
		c[block] = maps.Clone(values)
	}
	return c
}

// state is the "values" object of a payload. Buttons have no state.
func (f formValues) state(elements []formElement) object {
	state := object{}
	for _, e := range elements {
		if e.kind() == "overflow" {
			continue
		}
		value, err := e.value(f[e.blockID][e.actionID()])
		if err != nil {
			continue
		}
		block, ok := state[e.blockID].(object)
		if !ok {
			block = object{}
			state[e.blockID] = block
		}
		block[e.actionID()] = value
	}
	return state
}

// newView makes a view of what the app sent, keeping the values of elements that were there before with the same ids.
// mu is held.
func (s *Sim) newView(raw json.RawMessage, user string, before *view) (*view, *refusal) {
	if problems := ValidateView(raw); problems != nil {
		return nil, refuse("invalid_arguments", problems...)
	}
	v := &view{id: s.nextID("V"), user: user, values: formValues{}}
	v.root = v.id
	if before != nil {
		v.id, v.root, v.previous = before.id, before.root, before.previous
	}
	v.hash = strconv.FormatInt(time.Now().Unix(), 10) + "." + s.nextID("")
	if err := json.Unmarshal(raw, &v.def); err != nil {
		return nil, refuse("invalid_arguments", err.Error())
	}
	if v.def["type"] != string(SurfaceModal) {
		return nil, refuse("invalid_arguments", "must be one of: modal [json-pointer:/view/type]")
	}
	blocks := completeBlocks(v.blocks(), s.newBlockID)
	v.def["blocks"] = blocks
	for _, e := range elementsOf(blocks) {
		values := e.initial()
		if before != nil {
			if kept, ok := before.values[e.blockID][e.actionID()]; ok {
				values = kept
			}
		}
		v.values.set(e, values)
	}
	return v, nil
}

// viewObject is a view as Slack puts it into answers and payloads. mu is held.
func (s *Sim) viewObject(v *view) object {
	o := object{"title": nil, "close": nil, "submit": nil, "callback_id": "", "private_metadata": "", "external_id": "",
		"clear_on_close": false, "notify_on_close": false}
	maps.Copy(o, v.def)
	var previous any
	if v.previous != "" {
		previous = v.previous
	}
	maps.Copy(o, object{
		"id": v.id, "team_id": s.cfg.TeamID, "hash": v.hash, "root_view_id": v.root, "previous_view_id": previous,
		"app_id": s.cfg.AppID, "app_installed_team_id": s.install(), "bot_id": s.cfg.BotID,
		"state": object{"values": v.values.state(elementsOf(v.blocks()))},
	})
	return o
}

// redeem uses up a trigger and returns whose it was.
func (s *Sim) redeem(id string) (string, *refusal) {
	t := s.triggers[id]
	switch {
	case t == nil:
		return "", refuse("invalid_trigger_id")
	case t.used:
		return "", refuse("exchanged_trigger_id")
	case time.Now().After(t.expires):
		return "", refuse("expired_trigger_id")
	}
	t.used = true
	return t.user, nil
}

func (s *Sim) viewsOpen(a args) (object, *refusal) { return s.showNew(a, false) }
func (s *Sim) viewsPush(a args) (object, *refusal) { return s.showNew(a, true) }

func (s *Sim) showNew(a args, push bool) (object, *refusal) {
	v, refused := s.newView(json.RawMessage(a["view"]), "", nil)
	if refused != nil {
		return nil, refused
	}
	if v.str("external_id") != "" && s.findView("", v.str("external_id")) != nil {
		return nil, refuse("duplicate_external_id")
	}
	user, refused := s.redeem(a["trigger_id"])
	if refused != nil {
		return nil, refused
	}
	if !push {
		delete(s.stacks, user)
	}
	if refused := s.stack(user, v, push); refused != nil {
		return nil, refused
	}
	return object{"view": s.viewObject(v)}, nil
}

// stack puts a view on top of what the user has open; needed says that there must be something.
func (s *Sim) stack(user string, v *view, needed bool) *refusal {
	open := s.stacks[user]
	switch {
	case needed && len(open) == 0:
		return refuse("not_found")
	case len(open) >= stackLimit:
		return refuse("push_limit_reached")
	case len(open) > 0:
		v.root, v.previous = open[0].id, open[len(open)-1].id
	}
	v.user = user
	s.stacks[user] = append(open, v)
	s.touch()
	return nil
}

func (s *Sim) viewsUpdate(a args) (object, *refusal) {
	old := s.findView(a["view_id"], a["external_id"])
	if old == nil {
		return nil, refuse("not_found")
	}
	if a["hash"] != "" && a["hash"] != old.hash {
		return nil, refuse("hash_conflict")
	}
	v, refused := s.newView(json.RawMessage(a["view"]), old.user, old)
	if refused != nil {
		return nil, refused
	}
	*old = *v
	s.touch()
	return object{"view": s.viewObject(old)}, nil
}

func (s *Sim) findView(id, external string) *view {
	for _, open := range s.stacks {
		for _, v := range open {
			if id != "" && v.id == id || external != "" && v.str("external_id") == external {
				return v
			}
		}
	}
	return nil
}

// Modal is the view a person has in front of them, as it was when Modal or WaitModal returned it. Its methods act on
// the view as it is now, and fail once it is closed.
type Modal struct {
	ID, Hash, CallbackID, PrivateMetadata string
	Title, Submit, Close                  string // the texts; Submit is empty without a submit button
	Blocks                                json.RawMessage
	Problem                               string // what the client shows above the form after a failed submit
	person                                *Person
}

// Modal returns the modal on top, or nil.
func (p *Person) Modal() *Modal {
	p.sim.mu.Lock()
	defer p.sim.mu.Unlock()
	open := p.sim.stacks[p.id]
	if len(open) == 0 {
		return nil
	}
	v := open[len(open)-1]
	return &Modal{
		ID: v.id, Hash: v.hash, CallbackID: v.str("callback_id"), PrivateMetadata: v.str("private_metadata"),
		Title: v.text("title"), Submit: v.text("submit"), Close: cmp.Or(v.text("close"), "Cancel"),
		Blocks: v.blocks(), Problem: v.problem, person: p,
	}
}

// WaitModal returns the modal on top as soon as there is one.
func (p *Person) WaitModal(ctx context.Context) (*Modal, error) {
	var m *Modal
	if err := p.sim.Wait(ctx, func() bool { m = p.Modal(); return m != nil }); err != nil {
		return nil, fmt.Errorf("waiting for a modal: %w", err)
	}
	return m, nil
}

// AllText returns every text of the modal, one per line.
func (m *Modal) AllText() string {
	return strings.Join(append([]string{m.Title}, append(blockTexts(m.Blocks), m.Submit, m.Close)...), "\n")
}

// top returns the view if it is still the one in front of the person. mu is held.
func (p *Person) top(viewID string) (*view, error) {
	open := p.sim.stacks[p.id]
	if len(open) == 0 || open[len(open)-1].id != viewID {
		return nil, fmt.Errorf("%s does not have the modal %s in front of them", p.id, viewID)
	}
	return open[len(open)-1], nil
}

// Value returns what the input block holds now.
func (m *Modal) Value(blockID string) []string {
	s := m.person.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := m.person.top(m.ID)
	if err != nil {
		return nil
	}
	for _, values := range v.values[blockID] {
		return slices.Clone(values)
	}
	return nil
}

// Fill sets an input block: the text, or the values of the options that shall be chosen. No value empties it. An
// input that dispatches actions is not announced by Fill; use Act for that.
func (m *Modal) Fill(blockID string, values ...string) error {
	s := m.person.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := m.person.top(m.ID)
	if err != nil {
		return err
	}
	_, err = v.fill(Action{BlockID: blockID, Values: values})
	s.touch()
	return err
}

func (v *view) fill(a Action) (formElement, error) {
	e, err := findElement(elementsOf(v.blocks()), a)
	if err != nil {
		return e, err
	}
	if _, err := e.value(a.Values); err != nil {
		return e, err
	}
	v.values.set(e, a.Values)
	return e, nil
}

// Click clicks a button in the modal.
func (m *Modal) Click(ctx context.Context, actionID string) error {
	return m.person.Act(ctx, Action{ViewID: m.ID, ActionID: actionID})
}

// prepareInView is prepare for an element of the modal on top. mu is held.
func (p *Person) prepareInView(a Action) (object, error) {
	s := p.sim
	v, err := p.top(a.ViewID)
	if err != nil {
		return nil, err
	}
	e, err := findElement(elementsOf(v.blocks()), a)
	if err != nil {
		return nil, err
	}
	if e.kind() != "button" {
		if _, err := v.fill(a); err != nil {
			return nil, err
		}
		s.touch()
	}
	if !e.dispatches {
		return nil, nil
	}
	action, err := e.action(a.Values, s.nextTS())
	if err != nil {
		return nil, err
	}
	u, _ := s.user(p.id)
	payload := s.payload("block_actions", u)
	payload["container"] = object{"type": "view", "view_id": v.id}
	payload["view"] = s.viewObject(v)
	payload["actions"] = []object{action}
	return payload, nil
}

// Send submits the modal. Like Slack's client it first checks what needs no app: required inputs and lengths. The
// errors are by block_id, whether they came from the client or from the app; with any, the modal stays open.
func (m *Modal) Send(ctx context.Context) (map[string]string, error) {
	s := m.person.sim
	s.mu.Lock()
	v, err := m.person.top(m.ID)
	var errs map[string]string
	if err == nil {
		errs = v.clientErrors()
	}
	s.mu.Unlock()
	if err != nil || len(errs) > 0 {
		return errs, err
	}
	return m.SendUnchecked(ctx)
}

// clientErrors are the refusals of Slack's own client.
func (v *view) clientErrors() map[string]string {
	errs := map[string]string{}
	for _, e := range elementsOf(v.blocks()) {
		if !e.isInput {
			continue
		}
		values := v.values[e.blockID][e.actionID()]
		text := strings.Join(values, "")
		least, _ := e.def["min_length"].(float64)
		most, limited := e.def["max_length"].(float64)
		selected, limitedSelection := e.def["max_selected_items"].(float64)
		length := float64(utf8.RuneCountInString(text))
		switch {
		case text == "" && !e.optional:
			errs[e.blockID] = "Please complete this required field."
		case text != "" && length < least:
			errs[e.blockID] = fmt.Sprintf("Please enter at least %.0f characters.", least)
		case limited && length > most:
			errs[e.blockID] = fmt.Sprintf("Please enter at most %.0f characters.", most)
		case limitedSelection && float64(len(values)) > selected:
			errs[e.blockID] = fmt.Sprintf("Please select at most %.0f.", selected)
		}
	}
	return errs
}

// trouble is what Slack's client shows when a submission failed.
const trouble = "We had some trouble connecting. Try again?"

// SendUnchecked submits the modal without the client's checks, as a modified client could.
func (m *Modal) SendUnchecked(ctx context.Context) (map[string]string, error) {
	p, s := m.person, m.person.sim
	s.mu.Lock()
	v, err := p.top(m.ID)
	if err == nil && v.def["submit"] == nil {
		err = errors.New("the modal has no submit button")
	}
	if err != nil {
		s.mu.Unlock()
		return nil, err
	}
	u, _ := s.user(p.id)
	payload := s.payload("view_submission", u)
	payload["view"] = s.viewObject(v)
	payload["response_urls"] = []object{}
	s.mu.Unlock()

	res, err := s.interact(ctx, payload)
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs map[string]string
	if err == nil {
		errs, err = s.submitted(p, m.ID, res.Body)
	}
	if still := s.findView(m.ID, ""); still != nil {
		still.problem = ""
		if err != nil {
			still.problem = trouble
		}
	}
	s.touch()
	return errs, err
}

// submitted does what the app answered to a view_submission. mu is held.
func (s *Sim) submitted(p *Person, viewID string, body []byte) (map[string]string, error) {
	var answer struct {
		Action string            `json:"response_action"`
		Errors map[string]string `json:"errors"`
		View   json.RawMessage   `json:"view"`
	}
	if len(bytes.TrimSpace(body)) > 0 {
		if err := json.Unmarshal(body, &answer); err != nil {
			return nil, fmt.Errorf("%w: the answer to view_submission is not JSON: %w", ErrDispatch, err)
		}
	}
	v := s.findView(viewID, "")
	if v == nil {
		return nil, nil // closed meanwhile; nothing is left to change
	}
	switch answer.Action {
	case "":
		s.pop(v)
		return nil, nil
	case "clear":
		delete(s.stacks, p.id)
		return nil, nil
	case "errors":
		for id := range answer.Errors {
			if !slices.ContainsFunc(elementsOf(v.blocks()), func(e formElement) bool { return e.isInput && e.blockID == id }) {
				return nil, fmt.Errorf("%w: errors has %q, which is not the block_id of an input block", ErrDispatch, id)
			}
		}
		if len(answer.Errors) == 0 {
			return nil, fmt.Errorf("%w: response_action errors without errors", ErrDispatch)
		}
		return answer.Errors, nil
	case "update":
		next, refused := s.newView(answer.View, p.id, v)
		if refused != nil {
			return nil, fmt.Errorf("%w: the view to show instead: %v", ErrDispatch, refused.problems)
		}
		*v = *next
		return nil, nil
	case "push":
		next, refused := s.newView(answer.View, p.id, nil)
		if refused == nil {
			refused = s.stack(p.id, next, true)
		}
		if refused != nil {
			return nil, fmt.Errorf("%w: the view to push: %s %v", ErrDispatch, refused.code, refused.problems)
		}
		return nil, nil
	}
	return nil, fmt.Errorf("%w: unknown response_action %q", ErrDispatch, answer.Action)
}

// pop closes one view.
func (s *Sim) pop(v *view) {
	s.stacks[v.user] = slices.DeleteFunc(s.stacks[v.user], func(x *view) bool { return x == v })
}

// Dismiss closes the modal, or all of a stack if the view says clear_on_close, and tells the app if it asked to be told.
func (m *Modal) Dismiss(ctx context.Context) error {
	p, s := m.person, m.person.sim
	s.mu.Lock()
	v, err := p.top(m.ID)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	all := v.def["clear_on_close"] == true
	if all {
		delete(s.stacks, p.id)
	} else {
		s.pop(v)
	}
	s.touch()
	u, _ := s.user(p.id)
	payload := s.payload("view_closed", u)
	delete(payload, "trigger_id")
	payload["view"] = s.viewObject(v)
	payload["is_cleared"] = all
	s.mu.Unlock()
	if v.def["notify_on_close"] != true {
		return nil
	}
	_, err = s.interact(ctx, payload)
	return err
}
