package slacksim_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	slacksim "github.com/breakglassd/breakglass/internal/sim/slack"
)

// obj and arr keep the tables short.
type obj = map[string]any
type arr = []any

func txt(s string) obj  { return obj{"type": "plain_text", "text": s} }
func mark(s string) obj { return obj{"type": "mrkdwn", "text": s} }

// long is n runes that take three bytes each, so a validator that counted bytes would fail the tables.
func long(n int) string { return strings.Repeat("—", n) }

func many(n int, item func(i int) any) arr {
	items := arr{}
	for i := range n {
		items = append(items, item(i))
	}
	return items
}

func opt(i int) any { return obj{"text": txt("option"), "value": fmt.Sprint("v", i)} }

func with(o obj, name string, value any) obj {
	c := obj{}
	for k, v := range o {
		c[k] = v
	}
	c[name] = value
	return c
}

func button() obj { return obj{"type": "button", "action_id": "a", "text": txt("Go")} }

func actions(elements ...any) obj { return obj{"type": "actions", "elements": elements} }

func input(element obj) obj { return obj{"type": "input", "label": txt("Label"), "element": element} }

func sel(kind string, options int) obj {
	return obj{"type": kind, "action_id": "s", "options": many(options, opt)}
}

func TestEveryLimitHoldsExactly(t *testing.T) {
	textInput := obj{"type": "plain_text_input", "action_id": "p"}
	confirm := obj{"title": txt("t"), "text": txt("t"), "confirm": txt("y"), "deny": txt("n")}
	confirmed := func(field string, n int) obj {
		return actions(with(button(), "confirm", with(confirm, field, txt(long(n)))))
	}
	option := func(field string, value any) obj {
		return input(with(sel("static_select", 1), "options", arr{with(opt(0).(obj), field, value)}))
	}
	url := func(n int) string { return "https://e.example/" + strings.Repeat("x", n-len("https://e.example/")) }
	view := func(field string, value any) obj {
		return with(obj{"type": "modal", "title": txt("T"), "submit": txt("S"), "blocks": arr{}}, field, value)
	}
	blocksOf := func(n int) arr { return many(n, func(int) any { return obj{"type": "divider"} }) }

	// Each row builds something of size n; limit is the greatest size Slack takes. A view is told by its type.
	for _, row := range []struct {
		name    string
		limit   int
		build   func(n int) any
		surface slacksim.Surface
	}{
		{"blocks in a message", 50, func(n int) any { return blocksOf(n) }, slacksim.SurfaceMessage},
		{"blocks in a modal", 100, func(n int) any { return blocksOf(n) }, slacksim.SurfaceModal},
		{"blocks in a home tab", 100, func(n int) any { return blocksOf(n) }, slacksim.SurfaceHome},
		{"section text", 3000, func(n int) any { return obj{"type": "section", "text": mark(long(n))} }, ""},
		{"section fields", 10, func(n int) any { return obj{"type": "section", "fields": many(n, func(int) any { return txt("f") })} }, ""},
		{"section field text", 2000, func(n int) any { return obj{"type": "section", "fields": arr{mark(long(n))}} }, ""},
		{"header", 150, func(n int) any { return obj{"type": "header", "text": txt(long(n))} }, ""},
		{"context elements", 10, func(n int) any {
			return obj{"type": "context", "elements": many(n, func(int) any { return mark("c") })}
		}, ""},
		{"context text", 3000, func(n int) any { return obj{"type": "context", "elements": arr{mark(long(n))}} }, ""},
		{"actions elements", 25, func(n int) any {
			return actions(many(n, func(i int) any { return with(button(), "action_id", fmt.Sprint("a", i)) })...)
		}, ""},
		{"block_id", 255, func(n int) any { return obj{"type": "divider", "block_id": long(n)} }, ""},
		{"action_id", 255, func(n int) any { return actions(with(button(), "action_id", long(n))) }, ""},
		{"button text", 75, func(n int) any { return actions(with(button(), "text", txt(long(n)))) }, ""},
		{"button value", 2000, func(n int) any { return actions(with(button(), "value", long(n))) }, ""},
		{"button url", 3000, func(n int) any { return actions(with(button(), "url", url(n))) }, ""},
		{"button accessibility label", 75, func(n int) any { return actions(with(button(), "accessibility_label", long(n))) }, ""},
		{"confirm title", 100, func(n int) any { return confirmed("title", n) }, ""},
		{"confirm text", 300, func(n int) any { return confirmed("text", n) }, ""},
		{"confirm button", 30, func(n int) any { return confirmed("confirm", n) }, ""},
		{"confirm deny button", 30, func(n int) any { return confirmed("deny", n) }, ""},
		{"checkboxes", 10, func(n int) any { return input(sel("checkboxes", n)) }, ""},
		{"radio buttons", 10, func(n int) any { return input(sel("radio_buttons", n)) }, ""},
		{"overflow", 5, func(n int) any { return actions(sel("overflow", n)) }, ""},
		{"select options", 100, func(n int) any { return input(sel("static_select", n)) }, ""},
		{"multi-select options", 100, func(n int) any { return input(sel("multi_static_select", n)) }, ""},
		{"option groups", 100, func(n int) any {
			return input(obj{"type": "static_select", "option_groups": many(n,
				func(int) any { return obj{"label": txt("g"), "options": arr{opt(0)}} })})
		}, ""},
		{"option group label", 75, func(n int) any {
			return input(obj{"type": "static_select", "option_groups": arr{obj{"label": txt(long(n)), "options": arr{opt(0)}}}})
		}, ""},
		{"select placeholder", 150, func(n int) any { return input(with(sel("static_select", 1), "placeholder", txt(long(n)))) }, ""},
		{"option text", 75, func(n int) any { return option("text", txt(long(n))) }, ""},
		{"option value", 150, func(n int) any { return option("value", long(n)) }, ""},
		{"option description", 75, func(n int) any { return option("description", txt(long(n))) }, ""},
		{"input label", 2000, func(n int) any { return with(input(textInput), "label", txt(long(n))) }, ""},
		{"input hint", 2000, func(n int) any { return with(input(textInput), "hint", txt(long(n))) }, ""},
		{"input placeholder", 150, func(n int) any { return input(with(textInput, "placeholder", txt(long(n)))) }, ""},
		{"input initial value", 3000, func(n int) any { return input(with(textInput, "initial_value", long(n))) }, ""},
		{"input max_length", 3000, func(n int) any { return input(with(textInput, "max_length", n)) }, ""},
		{"input min_length", 3000, func(n int) any { return input(with(textInput, "min_length", n)) }, ""},
		{"image url", 3000, func(n int) any { return obj{"type": "image", "alt_text": "a", "image_url": url(n)} }, ""},
		{"image alt text", 2000, func(n int) any { return obj{"type": "image", "image_url": url(30), "alt_text": long(n)} }, ""},
		{"image title", 2000, func(n int) any {
			return obj{"type": "image", "image_url": url(30), "alt_text": "a", "title": txt(long(n))}
		}, ""},
		{"markdown", 12000, func(n int) any { return obj{"type": "markdown", "text": long(n)} }, ""},
		{"modal title", 24, func(n int) any { return view("title", txt(long(n))) }, ""},
		{"modal submit", 24, func(n int) any { return view("submit", txt(long(n))) }, ""},
		{"modal close", 24, func(n int) any { return view("close", txt(long(n))) }, ""},
		{"private_metadata", 3000, func(n int) any { return view("private_metadata", long(n)) }, ""},
		{"callback_id", 255, func(n int) any { return view("callback_id", long(n)) }, ""},
		{"external_id", 255, func(n int) any { return view("external_id", long(n)) }, ""},
		{"blocks in a view", 100, func(n int) any { return view("blocks", blocksOf(n)) }, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			for n, ok := range map[int]bool{row.limit: true, row.limit + 1: false} {
				if problems := validate(t, row.surface, row.build(n)); (problems == nil) != ok {
					t.Errorf("size %d: got %q, want accepted=%v", n, problems, ok)
				}
			}
		})
	}
}

// validate judges a view, an array of blocks, or one block.
func validate(t *testing.T, surface slacksim.Surface, value any) []string {
	t.Helper()
	if surface == "" {
		surface = slacksim.SurfaceMessage
	}
	switch x := value.(type) {
	case arr:
		return slacksim.ValidateBlocks(surface, mustJSON(t, x))
	case obj:
		if x["type"] == "modal" || x["type"] == "home" {
			return slacksim.ValidateView(mustJSON(t, x))
		}
	}
	return slacksim.ValidateBlocks(surface, mustJSON(t, arr{value}))
}

func TestWhatSlackRefusesIsRefusedWithItsPlace(t *testing.T) {
	section := obj{"type": "section", "text": mark("x")}
	for _, row := range []struct {
		name  string
		value any
		want  string
	}{
		{"not an array", obj{"type": "modal", "title": txt("T"), "blocks": "no"}, "must provide an array [json-pointer:/view/blocks]"},
		{"unknown block", obj{"type": "seciton"}, "unsupported type: seciton [json-pointer:/blocks/0]"},
		{"unknown element", actions(obj{"type": "buton"}), "unsupported type: buton [json-pointer:/blocks/0/elements/0]"},
		{"element in the wrong place", actions(obj{"type": "plain_text_input"}),
			"unsupported type: plain_text_input [json-pointer:/blocks/0/elements/0]"},
		{"button in an input", input(button()), "unsupported type: button [json-pointer:/blocks/0/element]"},
		{"misspelt field", with(section, "bock_id", "x"), "unsupported field: bock_id [json-pointer:/blocks/0]"},
		{"empty section", obj{"type": "section"}, "missing required field: text or fields [json-pointer:/blocks/0]"},
		{"empty text", obj{"type": "section", "text": mark("")}, "must be more than 0 characters [json-pointer:/blocks/0/text/text]"},
		{"no fields", obj{"type": "section", "fields": arr{}}, "no fewer than 1 items allowed [json-pointer:/blocks/0/fields]"},
		{"no elements", actions(arr{}...), "no fewer than 1 items allowed"},
		{"no options", input(sel("static_select", 0)), "no fewer than 1 items allowed"},
		{"text without type", obj{"type": "section", "text": obj{"text": "x"}}, "missing required field: type [json-pointer:/blocks/0/text]"},
		{"mrkdwn in a header", obj{"type": "header", "text": mark("x")}, "must be one of: plain_text [json-pointer:/blocks/0/text/type]"},
		{"mrkdwn in a button", actions(with(button(), "text", mark("x"))), "must be one of: plain_text"},
		{"emoji on mrkdwn", obj{"type": "section", "text": with(mark("x"), "emoji", true)}, "unsupported field: emoji"},
		{"button without text", actions(obj{"type": "button"}), "missing required field: text [json-pointer:/blocks/0/elements/0]"},
		{"button style", actions(with(button(), "style", "scary")), "must be one of: primary, danger"},
		{"relative url", actions(with(button(), "url", "/x")), "must provide an absolute URL"},
		{"confirm without deny", actions(with(button(), "confirm", obj{"title": txt("t"), "text": txt("t"), "confirm": txt("y")})),
			"missing required field: deny"},
		{"block_id twice", arr{with(section, "block_id", "b"), with(section, "block_id", "b")},
			`block_id "b" already exists [json-pointer:/blocks/1/block_id]`},
		{"action_id twice in a block", actions(button(), button()), `action_id "a" already exists [json-pointer:/blocks/0/elements/1/action_id]`},
		{"options and groups", input(with(sel("static_select", 1), "option_groups", arr{obj{"label": txt("g"), "options": arr{opt(0)}}})),
			"must provide exactly one of options and option_groups"},
		{"initial option not offered", input(with(sel("static_select", 1), "initial_option", opt(7))),
			"initial option is not one of the options"},
		{"min over max", input(obj{"type": "plain_text_input", "min_length": 5, "max_length": 4}), "must not be more than max_length"},
		{"two with focus", arr{input(obj{"type": "plain_text_input", "focus_on_load": true}),
			input(obj{"type": "plain_text_input", "focus_on_load": true})}, "only one element may have focus_on_load"},
		{"string for a bool", input(obj{"type": "plain_text_input", "multiline": "yes"}), "must provide a boolean"},
		{"empty rich text", obj{"type": "rich_text", "elements": arr{obj{"type": "rich_text_section",
			"elements": arr{obj{"type": "text", "text": ""}}}}}, "must be more than 0 characters"},
		{"unknown rich text", obj{"type": "rich_text", "elements": arr{obj{"type": "rich_text_table", "elements": arr{}}}},
			"unsupported type: rich_text_table"},
		{"unknown rich text part", obj{"type": "rich_text", "elements": arr{obj{"type": "rich_text_section",
			"elements": arr{obj{"type": "html"}}}}}, "unsupported type: html"},
		{"modal without title", obj{"type": "modal", "blocks": arr{}}, "missing required field: title [json-pointer:/view]"},
		{"input without submit", obj{"type": "modal", "title": txt("T"), "blocks": arr{input(obj{"type": "plain_text_input"})}},
			"missing required field: submit"},
		{"home with title", obj{"type": "home", "title": txt("T"), "blocks": arr{}}, "unsupported field: title"},
		{"view of no kind", obj{"type": "modal", "title": txt("T"), "blocks": arr{obj{"type": "markdown", "text": "x"}}},
			"unsupported type: markdown [json-pointer:/view/blocks/0]"},
	} {
		t.Run(row.name, func(t *testing.T) {
			problems := validate(t, "", row.value)
			if len(problems) == 0 || !strings.Contains(strings.Join(problems, "\n"), row.want) {
				t.Errorf("got %q, want %q", problems, row.want)
			}
		})
	}
	for _, raw := range []string{"", "{", "7", `"x"`, "[1]", `[{"type":"actions","elements":[3]}]`,
		`[{"type":"section","text":3,"fields":{}}]`, "null"} {
		if slacksim.ValidateBlocks(slacksim.SurfaceMessage, json.RawMessage(raw)) == nil {
			t.Errorf("ValidateBlocks(%q) accepted", raw)
		}
	}
}

// The card and the parts of the modal that the design draws are what the app will send.
const designCard = `[
 {"type":"section","block_id":"state","text":{"type":"mrkdwn","text":"*Waiting for security* · 1 of 2 approved · expires <!date^1795356960^{time}|14:16 UTC>"}},
 {"type":"section","block_id":"facts","fields":[{"type":"plain_text","text":"Who\nalice"},{"type":"plain_text","text":"Cluster\nprod-eu-1"}]},
 {"type":"rich_text","block_id":"why","elements":[{"type":"rich_text_quote","elements":[{"type":"text","text":"etcd quorum lost, API 5xx"}]}]},
 {"type":"context","block_id":"who","elements":[{"type":"mrkdwn","text":"✓ <@U0BOB> 14:01 · waiting for <!subteam^S0SEC>"},{"type":"plain_text","text":"words MANGO PISTON 42 · bg-7K3M-9QX"}]},
 {"type":"actions","block_id":"act:r3","elements":[
  {"type":"button","action_id":"review","style":"primary","text":{"type":"plain_text","text":"Review"},"value":"bg-7K3M-9QX:r3","accessibility_label":"Review request bg-7K3M-9QX from alice"},
  {"type":"button","action_id":"deny","style":"danger","text":{"type":"plain_text","text":"Deny"},"value":"bg-7K3M-9QX:r3","confirm":{"title":{"type":"plain_text","text":"Deny this request?"},"text":{"type":"plain_text","text":"You will be asked for a reason."},"confirm":{"type":"plain_text","text":"Deny"},"deny":{"type":"plain_text","text":"Keep"}}}]}]`

func TestTheDesignedCardIsAccepted(t *testing.T) {
	if problems := slacksim.ValidateBlocks(slacksim.SurfaceMessage, json.RawMessage(designCard)); problems != nil {
		t.Errorf("got %q", problems)
	}
}

func FuzzValidateBlocksNeverPanics(f *testing.F) {
	f.Add(designCard)
	f.Add(`[{"type":"input","element":{"type":"checkboxes","options":[null]}}]`)
	f.Add(`[{"type":"section","accessory":{"type":"static_select","option_groups":[{"options":{}}]}}]`)
	f.Fuzz(func(_ *testing.T, raw string) {
		slacksim.ValidateBlocks(slacksim.SurfaceMessage, json.RawMessage(raw))
		slacksim.ValidateView(json.RawMessage(`{"type":"modal","title":{},"blocks":` + raw + `}`))
	})
}
