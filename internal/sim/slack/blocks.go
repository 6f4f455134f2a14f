package slacksim

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"
)

// Surface is where blocks are shown. Slack's limits differ by surface.
type Surface string

// The three surfaces of Block Kit.
const (
	SurfaceMessage Surface = "message"
	SurfaceModal   Surface = "modal"
	SurfaceHome    Surface = "home"
)

// ValidateBlocks reports everything Slack would refuse in a "blocks" array, in Slack's own words with a JSON
// pointer, for example "must be less than 151 characters [json-pointer:/blocks/0/text/text]". Nil means accepted.
//
// Lengths count runes. It is stricter than Slack where Slack is lenient or undocumented: a field that the
// documentation does not list for a type is refused, because it is a misspelling or would be ignored silently. Block
// and element types that this simulator cannot show are refused as unsupported.
func ValidateBlocks(surface Surface, raw json.RawMessage) []string {
	v := newValidation(surface)
	v.decode("/blocks", raw, v.blocks)
	return v.problems
}

// ValidateView reports everything Slack would refuse in a view, as ValidateBlocks does for its blocks, with pointers
// that start at /view.
func ValidateView(raw json.RawMessage) []string {
	v := newValidation(SurfaceModal)
	v.decode("/view", raw, func(at string, value any) {
		view, _ := value.(map[string]any)
		if view["type"] == string(SurfaceHome) {
			v.surface = SurfaceHome
		}
		v.object(at, value, viewFields(v.surface))
		if v.surface == SurfaceModal && v.hasInput && view["submit"] == nil {
			v.add(at, "missing required field: submit (the view has an input block)")
		}
	})
	return v.problems
}

// field is one row of a table: a field of an object, and what its value must satisfy.
type field struct {
	name     string
	required bool
	check    check
}

// check inspects one value and adds what is wrong with it to the validation.
type check func(v *validation, at string, value any)

type validation struct {
	surface  Surface
	problems []string
	blockIDs map[string]bool
	hasInput bool
	focused  bool
	schemas  map[string][]field
}

func newValidation(surface Surface) *validation {
	return &validation{surface: surface, blockIDs: map[string]bool{}, schemas: schemas()}
}

func (v *validation) decode(at string, raw json.RawMessage, then func(at string, value any)) {
	var value any
	if err := json.Unmarshal(raw, &value); err != nil {
		v.add(at, "invalid JSON: "+err.Error())
		return
	}
	then(at, value)
}

func (v *validation) add(at, problem string) {
	v.problems = append(v.problems, fmt.Sprintf("%s [json-pointer:%s]", problem, at))
}

// The limits below are those of docs.slack.dev/reference/block-kit and /reference/views.

// viewFields is the table for a view. A modal allows 100 blocks and 24 runes in each of its three short texts.
func viewFields(surface Surface) []field {
	fields := []field{
		{"type", true, enum(string(surface))},
		{"blocks", true, func(v *validation, at string, value any) { v.blocks(at, value) }},
		{"private_metadata", false, str(0, 3000)},
		{"callback_id", false, str(0, 255)},
		{"external_id", false, str(0, 255)},
	}
	if surface == SurfaceHome {
		return fields
	}
	return append(fields,
		field{"title", true, plain(24)},
		field{"submit", false, plain(24)},
		field{"close", false, plain(24)},
		field{"clear_on_close", false, boolean},
		field{"notify_on_close", false, boolean},
	)
}

// schemas is the table for every block, element and rich-text part that is supported.
func schemas() map[string][]field {
	actionID := field{"action_id", false, str(1, 255)}
	focus := field{"focus_on_load", false, focusOnLoad}
	placeholder := field{"placeholder", false, plain(150)}
	confirm := field{"confirm", false, confirmDialog}
	labels := field{"accessibility_label", false, str(1, 75)}
	dispatch := field{"dispatch_action_config", false, anything}
	plainOptions := field{"options", false, options(1, 100, false)}
	groups := field{"option_groups", false, optionGroups}
	rtStyle := field{"style", false, anything}

	table := map[string][]field{
		// Blocks.
		"section": {
			{"text", false, text(3000)},
			{"fields", false, list(1, 10, text(2000))},
			{"accessory", false, element("button", "image", "static_select", "multi_static_select", "users_select", "overflow", "checkboxes",
				"radio_buttons", "datepicker", "timepicker")},
			{"expand", false, boolean},
		},
		"divider": {},
		"header":  {{"text", true, plain(150)}, {"level", false, number(1, 4)}},
		"context": {{"elements", true, list(1, 10, textOrImage)}},
		"actions": {{"elements", true, elements(25, "button", "static_select", "multi_static_select", "users_select", "overflow", "checkboxes",
			"radio_buttons", "datepicker", "timepicker")}},
		"input": {
			{"label", true, plain(2000)},
			{"hint", false, plain(2000)},
			{"optional", false, boolean},
			{"dispatch_action", false, boolean},
			{"element", true, element("plain_text_input", "static_select", "multi_static_select", "users_select", "checkboxes", "radio_buttons",
				"datepicker", "timepicker", "number_input", "email_text_input", "url_text_input")},
		},
		"image:block": {
			{"image_url", true, link(3000)},
			{"alt_text", true, str(1, 2000)},
			{"title", false, plain(2000)},
		},
		"markdown":  {{"text", true, str(1, 12000)}},
		"rich_text": {{"elements", true, elements(0, "rich_text_section", "rich_text_list", "rich_text_preformatted", "rich_text_quote")}},

		// Elements.
		"button": {
			{"text", true, plain(75)}, actionID, {"url", false, link(3000)}, {"value", false, str(0, 2000)},
			{"style", false, enum("primary", "danger")}, confirm, labels,
		},
		"image":         {{"image_url", true, link(3000)}, {"alt_text", true, str(1, 2000)}},
		"static_select": {actionID, placeholder, plainOptions, groups, {"initial_option", false, option(false)}, confirm, focus},
		"multi_static_select": {actionID, placeholder, plainOptions, groups, {"initial_options", false, options(1, 100, false)},
			{"max_selected_items", false, number(1, 100)}, confirm, focus},
		"users_select": {actionID, placeholder, {"initial_user", false, str(1, 255)}, confirm, focus},
		"overflow":     {actionID, {"options", true, options(1, 5, false)}, confirm},
		"checkboxes": {actionID, {"options", true, options(1, 10, true)}, {"initial_options", false, options(1, 10, true)}, confirm,
			focus},
		"radio_buttons": {actionID, {"options", true, options(1, 10, true)}, {"initial_option", false, option(true)}, confirm, focus},
		"datepicker":    {actionID, placeholder, {"initial_date", false, str(10, 10)}, confirm, focus},
		"timepicker":    {actionID, placeholder, {"initial_time", false, str(5, 5)}, {"timezone", false, str(1, 255)}, confirm, focus},
		"plain_text_input": {
			actionID, placeholder, {"initial_value", false, str(0, 3000)}, {"multiline", false, boolean},
			{"min_length", false, number(0, 3000)}, {"max_length", false, number(1, 3000)}, dispatch, focus,
		},
		"number_input": {
			actionID, placeholder, {"is_decimal_allowed", true, boolean}, {"initial_value", false, str(1, 255)},
			{"min_value", false, str(1, 255)}, {"max_value", false, str(1, 255)}, dispatch, focus,
		},
		"email_text_input": {actionID, placeholder, {"initial_value", false, str(0, 3000)}, dispatch, focus},
		"url_text_input":   {actionID, placeholder, {"initial_value", false, str(0, 3000)}, dispatch, focus},

		// Rich text.
		"rich_text_section":      {{"elements", true, richTextParts}},
		"rich_text_quote":        {{"elements", true, richTextParts}, {"border", false, number(0, 1)}},
		"rich_text_preformatted": {{"elements", true, richTextParts}, {"border", false, number(0, 1)}, {"language", false, str(1, 255)}},
		"rich_text_list": {
			{"elements", true, elements(0, "rich_text_section")}, {"style", true, enum("bullet", "ordered")},
			{"indent", false, number(0, 8)}, {"offset", false, number(0, 100)}, {"border", false, number(0, 1)},
		},
		"rt:text":      {{"text", true, str(1, 3000)}, rtStyle},
		"rt:link":      {{"url", true, link(3000)}, {"text", false, str(0, 3000)}, {"unsafe", false, boolean}, rtStyle},
		"rt:user":      {{"user_id", true, str(1, 255)}, rtStyle},
		"rt:usergroup": {{"usergroup_id", true, str(1, 255)}, rtStyle},
		"rt:channel":   {{"channel_id", true, str(1, 255)}, rtStyle},
		"rt:emoji":     {{"name", true, str(1, 255)}, {"unicode", false, str(1, 255)}, {"skin_tone", false, number(1, 6)}, rtStyle},
		"rt:broadcast": {{"range", true, enum("here", "channel", "everyone")}, rtStyle},
		"rt:date": {{"timestamp", true, number(0, 1<<53)}, {"format", true, str(1, 3000)}, {"url", false, link(3000)},
			{"fallback", false, str(1, 3000)}, rtStyle},
	}
	for _, block := range []string{"section", "divider", "header", "context", "actions", "input", "image:block", "markdown", "rich_text"} {
		table[block] = append(table[block], field{"block_id", false, blockID})
	}
	return table
}

// blocks checks the array of blocks and what spans blocks: their number and the uniqueness of block ids.
func (v *validation) blocks(at string, value any) {
	limit := 100
	if v.surface == SurfaceMessage {
		limit = 50
	}
	list(0, limit, func(v *validation, at string, value any) {
		block, _ := value.(map[string]any)
		kind, _ := block["type"].(string)
		name := kind
		if kind == "image" {
			name = "image:block"
		}
		if !slices.Contains([]string{"section", "divider", "header", "context", "actions", "input", "image", "markdown", "rich_text"}, kind) ||
			kind == "markdown" && v.surface != SurfaceMessage {
			v.add(at, "unsupported type: "+kind)
			return
		}
		v.object(at, value, v.schemas[name])
		switch kind {
		case "section":
			if block["text"] == nil && block["fields"] == nil {
				v.add(at, "missing required field: text or fields")
			}
		case "input":
			v.hasInput = true
		}
	})(v, at, value)
}

// object checks that every required field is there, every present field is listed, and each satisfies its check.
func (v *validation) object(at string, value any, fields []field) {
	object, ok := value.(map[string]any)
	if !ok {
		v.add(at, "must provide an object")
		return
	}
	known := map[string]bool{"type": true}
	for _, f := range fields {
		known[f.name] = true
		value, ok := object[f.name]
		if !ok || value == nil {
			if f.required {
				v.add(at, "missing required field: "+f.name)
			}
			continue
		}
		f.check(v, at+"/"+f.name, value)
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		if !known[name] {
			v.add(at, "unsupported field: "+name)
		}
	}
}

func str(least, most int) check {
	return func(v *validation, at string, value any) {
		s, ok := value.(string)
		if !ok {
			v.add(at, "must provide a string")
			return
		}
		n := utf8.RuneCountInString(s)
		if n < least {
			v.add(at, fmt.Sprintf("must be more than %d characters", least-1))
		}
		if n > most {
			v.add(at, fmt.Sprintf("must be less than %d characters", most+1))
		}
	}
}

func link(most int) check {
	return func(v *validation, at string, value any) {
		str(1, most)(v, at, value)
		s, _ := value.(string)
		u, err := url.Parse(s)
		if err != nil || u.Scheme == "" || u.Host == "" && u.Opaque == "" {
			v.add(at, "must provide an absolute URL")
		}
	}
}

func number(least, most float64) check {
	return func(v *validation, at string, value any) {
		n, ok := value.(float64)
		if !ok || n < least || n > most {
			v.add(at, fmt.Sprintf("must provide a number from %.0f to %.0f", least, most))
		}
	}
}

func enum(allowed ...string) check {
	return func(v *validation, at string, value any) {
		if s, ok := value.(string); !ok || !slices.Contains(allowed, s) {
			v.add(at, "must be one of: "+strings.Join(allowed, ", "))
		}
	}
}

func boolean(v *validation, at string, value any) {
	if _, ok := value.(bool); !ok {
		v.add(at, "must provide a boolean")
	}
}

// anything accepts fields whose content this simulator neither shows nor depends on.
func anything(*validation, string, any) {}

func focusOnLoad(v *validation, at string, value any) {
	boolean(v, at, value)
	if value != true {
		return
	}
	if v.focused {
		v.add(at, "only one element may have focus_on_load")
	}
	v.focused = true
}

func blockID(v *validation, at string, value any) {
	str(1, 255)(v, at, value)
	id, _ := value.(string)
	if v.blockIDs[id] {
		v.add(at, fmt.Sprintf("block_id %q already exists", id))
	}
	v.blockIDs[id] = true
}

func list(least, most int, each check) check {
	return func(v *validation, at string, value any) {
		items, ok := value.([]any)
		if !ok {
			v.add(at, "must provide an array")
			return
		}
		if len(items) < least {
			v.add(at, fmt.Sprintf("no fewer than %d items allowed", least))
		}
		if most > 0 && len(items) > most {
			v.add(at, fmt.Sprintf("no more than %d items allowed", most))
		}
		for i, item := range items {
			each(v, fmt.Sprintf("%s/%d", at, i), item)
		}
	}
}

// text is a text object of either kind; plain one that must be plain_text.
func text(most int) check  { return textObject(most, "plain_text", "mrkdwn") }
func plain(most int) check { return textObject(most, "plain_text") }

func textObject(most int, kinds ...string) check {
	return func(v *validation, at string, value any) {
		// Slack refuses emoji on mrkdwn and verbatim on plain_text.
		extra := field{"emoji", false, boolean}
		if object, ok := value.(map[string]any); ok && object["type"] == "mrkdwn" {
			extra.name = "verbatim"
		}
		v.object(at, value, []field{{"type", true, enum(kinds...)}, {"text", true, str(1, most)}, extra})
	}
}

func textOrImage(v *validation, at string, value any) {
	if object, ok := value.(map[string]any); ok && object["type"] == "image" {
		element("image")(v, at, value)
		return
	}
	text(3000)(v, at, value)
}

func confirmDialog(v *validation, at string, value any) {
	v.object(at, value, []field{
		{"title", true, plain(100)}, {"text", true, text(300)}, {"confirm", true, plain(30)}, {"deny", true, plain(30)},
		{"style", false, enum("primary", "danger")},
	})
}

// option is one choice. Only checkboxes and radio buttons render mrkdwn in their options.
func option(mrkdwn bool) check {
	label := plain(75)
	if mrkdwn {
		label = text(75)
	}
	return func(v *validation, at string, value any) {
		v.object(at, value, []field{{"text", true, label}, {"value", true, str(1, 150)}, {"description", false, label},
			{"url", false, link(3000)}})
	}
}

func options(least, most int, mrkdwn bool) check { return list(least, most, option(mrkdwn)) }

func optionGroups(v *validation, at string, value any) {
	list(1, 100, func(v *validation, at string, value any) {
		v.object(at, value, []field{{"label", true, plain(75)}, {"options", true, options(1, 100, false)}})
	})(v, at, value)
}

// element checks one element of the types allowed at this place, and what depends on several of its fields.
func element(allowed ...string) check {
	return func(v *validation, at string, value any) {
		object, _ := value.(map[string]any)
		kind, _ := object["type"].(string)
		if !slices.Contains(allowed, kind) {
			v.add(at, "unsupported type: "+kind)
			return
		}
		v.object(at, object, v.schemas[kind])
		if strings.HasSuffix(kind, "static_select") && (object["options"] == nil) == (object["option_groups"] == nil) {
			v.add(at, "must provide exactly one of options and option_groups")
		}
		if least, ok := object["min_length"].(float64); ok {
			if most, ok := object["max_length"].(float64); ok && least > most {
				v.add(at+"/min_length", "must not be more than max_length")
			}
		}
		initial, _ := object["initial_options"].([]any)
		if one := object["initial_option"]; one != nil {
			initial = append(initial, one)
		}
		for _, want := range initial {
			same := func(choice any) bool { return reflect.DeepEqual(choice, want) }
			if !slices.ContainsFunc(choices(object), same) {
				v.add(at, "initial option is not one of the options")
			}
		}
	}
}

// elements checks an array of elements (at most 0 means without a limit) and that their action ids differ.
func elements(most int, allowed ...string) check {
	return func(v *validation, at string, value any) {
		list(1, most, element(allowed...))(v, at, value)
		seen := map[string]bool{}
		items, _ := value.([]any)
		for i, item := range items {
			object, _ := item.(map[string]any)
			id, _ := object["action_id"].(string)
			if id != "" && seen[id] {
				v.add(fmt.Sprintf("%s/%d/action_id", at, i), fmt.Sprintf("action_id %q already exists", id))
			}
			seen[id] = true
		}
	}
}

func richTextParts(v *validation, at string, value any) {
	list(0, 0, func(v *validation, at string, value any) {
		object, _ := value.(map[string]any)
		kind, _ := object["type"].(string)
		fields, ok := v.schemas["rt:"+kind]
		if !ok {
			v.add(at, "unsupported type: "+kind)
			return
		}
		v.object(at, object, fields)
	})(v, at, value)
}

// choices are all options of an element, those in groups included.
func choices(element map[string]any) []any {
	all, _ := element["options"].([]any)
	groups, _ := element["option_groups"].([]any)
	for _, group := range groups {
		g, _ := group.(map[string]any)
		more, _ := g["options"].([]any)
		all = append(all, more...)
	}
	return all
}

// blockTexts returns every text inside blocks in reading order: text objects, rich text, labels and button texts.
func blockTexts(raw json.RawMessage) []string {
	var value any
	if json.Unmarshal(raw, &value) != nil {
		return nil
	}
	var found []string
	var walk func(any)
	walk = func(value any) {
		switch x := value.(type) {
		case []any:
			for _, item := range x {
				walk(item)
			}
		case map[string]any:
			for _, key := range []string{"label", "title", "text", "fields", "elements", "element", "accessory", "hint", "placeholder", "options",
				"option_groups", "description", "alt_text"} {
				if s, ok := x[key].(string); ok {
					found = append(found, s)
					continue
				}
				walk(x[key])
			}
		}
	}
	walk(value)
	return found
}

// completeBlocks gives each block without a block_id and each interactive element without an action_id a generated
// one, as Slack does, so that clicks and form values can be addressed. Nothing, and what is no array of blocks, stays
// as it is; all callers have validated before.
func completeBlocks(raw json.RawMessage, newID func() string) json.RawMessage {
	var blocks []map[string]any
	if json.Unmarshal(raw, &blocks) != nil {
		return raw
	}
	for _, block := range blocks {
		if block["block_id"] == nil {
			block["block_id"] = newID()
		}
		for _, element := range interactive(block) {
			if element["action_id"] == nil {
				element["action_id"] = newID()
			}
		}
	}
	completed, err := json.Marshal(blocks)
	if err != nil {
		return raw
	}
	return completed
}

// interactive are the elements of a block that a person can act on.
func interactive(block map[string]any) []map[string]any {
	var candidates []any
	switch block["type"] {
	case "actions":
		candidates, _ = block["elements"].([]any)
	case "section":
		candidates = []any{block["accessory"]}
	case "input":
		candidates = []any{block["element"]}
	}
	var found []map[string]any
	for _, candidate := range candidates {
		if element, ok := candidate.(map[string]any); ok && element["type"] != "image" {
			found = append(found, element)
		}
	}
	return found
}
