"use strict";
// The page of the Slack simulator. Everything that came from the app or from a person becomes text nodes; nothing is
// ever parsed as HTML.

const $ = (id) => document.getElementById(id);
const command = document.body.dataset.command;
let state = null;        // what the server last said the current person sees
let drawnModal = "";     // id and hash of the modal on screen
let polling = null;      // AbortController of the running poll
const nodes = new Map(); // place and ts of a message -> {key, node}, so that unchanged messages keep focus and selections
const place = new URLSearchParams(location.hash.slice(1)); // as, in: survive a reload and differ between tabs

// h makes an element. Attributes are set with setAttribute, "on…" with addEventListener; strings become text.
function h(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== ""));
  return node;
}

function toast(text) {
  const node = h("div", { class: "toast" }, text);
  $("toasts").append(node);
  setTimeout(() => node.remove(), 8000);
}

async function post(path, body) {
  try {
    const response = await fetch("/sim/" + path, {
      method: "POST", headers: { "Content-Type": "application/json", "X-Slacksim": "1" }, body: JSON.stringify({ as: place.get("as"), ...body }),
    });
    if (!response.ok) throw new Error(await response.text());
    return await response.json();
  } catch (error) {
    return { ok: false, error: String(error.message || error) };
  }
}

async function poll() {
  if (polling) polling.abort();
  const mine = (polling = new AbortController());
  let rev = -1;
  while (!mine.signal.aborted) {
    try {
      const response = await fetch("/sim/state?" + new URLSearchParams({ as: place.get("as") || "", rev }), { signal: mine.signal });
      if (!response.ok) throw new Error(response.status);
      const next = await response.json();
      if (mine.signal.aborted) return;
      if (!next.people.some((p) => p.id === next.me)) { go({ as: next.people.find((p) => !p.bot).id }); return; }
      if (next.rev === rev) { await pause(250); continue; }
      rev = next.rev;
      state = next;
      draw();
    } catch (error) {
      if (mine.signal.aborted) return;
      if (rev !== -1) toast("The simulator does not answer; trying again.");
      rev = -1;
      await pause(2000);
    }
  }
}
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

// go changes who acts or what is open.
function go(to) {
  for (const [name, value] of Object.entries(to)) place.set(name, value);
  history.replaceState(null, "", "#" + place);
  if (to.as) { nodes.clear(); state = null; poll(); } else draw();
}

// ---- text -------------------------------------------------------------------------------------------------------

const unescape = (text) => text.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");
const person = (id) => state.people.find((p) => p.id === id) || { id, real: id === "USLACKBOT" ? "Slackbot" : id, name: id, bot: true };
const channelName = (id) => (state.channels.find((c) => c.id === id) || { name: id }).name;
const emoji = {
  white_check_mark: "✅", heavy_check_mark: "✔️", x: "❌", warning: "⚠️", rotating_light: "🚨", lock: "🔒", unlock: "🔓", key: "🔑", no_entry: "⛔",
  hourglass: "⌛", hourglass_flowing_sand: "⏳", fire: "🔥", bell: "🔔", eyes: "👀", wave: "👋", information_source: "ℹ️", stop_sign: "🛑", memo: "📝",
  receipt: "🧾", broom: "🧹", mag: "🔍", alarm_clock: "⏰", checkered_flag: "🏁", gear: "⚙️", zzz: "💤", leftwards_arrow_with_hook: "↩️",
  scales: "⚖️", lower_left_fountain_pen: "🖋️", no_entry_sign: "🚫",
};

const markup = /```([\s\S]+?)```\n?|`([^`\n]+)`|<([^<>\n]+)>|(?<![\w*])\*([^*\n]+)\*(?![\w*])|(?<!\w)_([^_\n]+)_(?!\w)|(?<![\w~])~([^~\n]+)~(?![\w~])|:([a-z0-9_+-]+):|(?:^|\n)((?:&gt;[^\n]*(?:\n|$))+)/g;

// mrkdwn turns Slack's markup into nodes.
function mrkdwn(text) {
  const out = [];
  let from = 0;
  for (const m of String(text || "").matchAll(markup)) {
    out.push(plain(text.slice(from, m.index)));
    from = m.index + m[0].length;
    if (m[1] !== undefined) out.push(h("pre", null, unescape(m[1].replace(/^\n|\n$/g, ""))));
    else if (m[2] !== undefined) out.push(h("code", null, unescape(m[2])));
    else if (m[3] !== undefined) out.push(reference(m[3]));
    else if (m[4] !== undefined) out.push(h("strong", null, mrkdwn(m[4])));
    else if (m[5] !== undefined) out.push(h("em", null, mrkdwn(m[5])));
    else if (m[6] !== undefined) out.push(h("s", null, mrkdwn(m[6])));
    else if (m[7] !== undefined) out.push(emoji[m[7]] || m[0]);
    else out.push(h("blockquote", null, mrkdwn(m[8].replace(/^&gt; ?/gm, "").trimEnd())));
  }
  out.push(plain(String(text || "").slice(from)));
  return out;
}

// plain keeps line breaks.
const plain = (text) => unescape(text).split("\n").flatMap((line, i) => (i ? [h("br"), line] : [line]));
const mention = (text) => h("span", { class: "mention" }, text);

// reference is what stands between < and >.
function reference(inner) {
  const [target, label] = [inner.split("|")[0], inner.includes("|") ? inner.slice(inner.indexOf("|") + 1) : ""];
  if (target.startsWith("@")) return mention("@" + person(target.slice(1)).name);
  if (target.startsWith("#")) return mention("#" + channelName(target.slice(1)));
  if (target.startsWith("!subteam^")) return mention("@" + (state.groups[target.split("^")[1]] || label.replace(/^@/, "") || target));
  if (target.startsWith("!date^")) {
    const [, seconds, format, link] = target.split("^");
    return date(Number(seconds), format, link, unescape(label));
  }
  if (target.startsWith("!")) return mention("@" + target.slice(1));
  return anchor(unescape(target), unescape(label || target));
}

function anchor(href, label) {
  if (!/^(https?:|mailto:)/i.test(href)) return label;
  return h("a", { href, target: "_blank", rel: "noopener noreferrer" }, label);
}

function date(seconds, format, link, fallback) {
  const at = new Date(seconds * 1000);
  if (!Number.isFinite(seconds) || isNaN(at)) return fallback || "";
  const as = (options) => new Intl.DateTimeFormat(undefined, options).format(at);
  const days = { date_num: { year: "numeric", month: "2-digit", day: "2-digit" }, date: { dateStyle: "long" }, date_short: { dateStyle: "medium" }, date_long: { dateStyle: "full" } };
  const text = format.replace(/\{(\w+)\}/g, (whole, name) => {
    const day = days[name.replace("_pretty", "")];
    if (day) return as(day);
    if (name === "time") return as({ hour: "2-digit", minute: "2-digit" });
    if (name === "time_secs") return as({ hour: "2-digit", minute: "2-digit", second: "2-digit" });
    return whole;
  });
  const node = h("time", { datetime: at.toISOString(), title: at.toISOString() }, text);
  return link ? h("a", { href: /^https?:/i.test(link) ? link : undefined, target: "_blank", rel: "noopener noreferrer" }, node) : node;
}

// textObject is plain_text or mrkdwn.
function textObject(object) {
  if (!object) return [];
  return object.type === "mrkdwn" ? mrkdwn(object.text) : [h("span", { class: "pre" }, object.text.replace(/:([a-z0-9_+-]+):/g, (whole, name) => emoji[name] || whole))];
}

// ---- blocks -----------------------------------------------------------------------------------------------------

// blockNode draws a block. at says where it is: {channel, ts} of a message or {view, values} of a modal.
function blockNode(block, at) {
  switch (block.type) {
    case "section":
      return h("div", { class: "block section" },
        h("div", null, textObject(block.text), block.fields ? h("div", { class: "fields" }, block.fields.map((f) => h("div", null, textObject(f)))) : null),
        block.accessory ? control(block.accessory, block, at) : null);
    case "header": return h("div", { class: "block headline", role: "heading", "aria-level": "3" }, textObject(block.text));
    case "divider": return h("hr");
    case "context": return h("div", { class: "block context" }, block.elements.map((e) => h("span", null, e.type === "image" ? "[" + e.alt_text + "]" : textObject(e))));
    case "actions": return h("div", { class: "block actions" }, block.elements.map((e) => control(e, block, at)));
    case "image": return h("div", { class: "block context" }, "[" + block.alt_text + "]");
    case "markdown": return h("div", { class: "block pre" }, block.text);
    case "rich_text": return h("div", { class: "block" }, block.elements.map(richText));
    case "input": return field(block, at);
  }
  return h("div", { class: "block context" }, "[" + block.type + "]");
}

function richText(part) {
  const inner = () => part.elements.map(richPart);
  switch (part.type) {
    case "rich_text_section": return h("div", null, inner());
    case "rich_text_quote": return h("blockquote", null, inner());
    case "rich_text_preformatted": return h("pre", null, inner());
    case "rich_text_list": return h(part.style === "ordered" ? "ol" : "ul", null, part.elements.map((e) => h("li", null, e.elements.map(richPart))));
  }
  return null;
}

function richPart(part) {
  let node = "";
  switch (part.type) {
    case "text": node = h("span", { class: "pre" }, part.text); break;
    case "link": node = anchor(part.url, part.text || part.url); break;
    case "user": node = mention("@" + person(part.user_id).name); break;
    case "usergroup": node = mention("@" + (state.groups[part.usergroup_id] || part.usergroup_id)); break;
    case "channel": node = mention("#" + channelName(part.channel_id)); break;
    case "broadcast": node = mention("@" + part.range); break;
    case "emoji": node = emoji[part.name] || ":" + part.name + ":"; break;
    case "date": node = date(part.timestamp, part.format, part.url, part.fallback); break;
  }
  const style = part.style || {};
  if (style.code) node = h("code", null, node);
  if (style.bold) node = h("strong", null, node);
  if (style.italic) node = h("em", null, node);
  if (style.strike) node = h("s", null, node);
  return node;
}

// field is an input block.
function field(block, at) {
  const group = ["checkboxes", "radio_buttons"].includes(block.element.type);
  const id = "f-" + block.block_id;
  const title = [textObject(block.label), block.optional ? h("span", { class: "opt" }, " (optional)") : null];
  return h(group ? "fieldset" : "div", { class: "field", "data-field": block.block_id },
    group ? h("legend", null, title) : h("label", { for: id }, title),
    control(block.element, block, at, id),
    block.hint ? h("span", { class: "hint", id: id + "-hint" }, textObject(block.hint)) : null,
    h("span", { class: "error", id: id + "-error" }));
}

// control is an interactive element. Those with a value carry their ids, for values() below.
function control(element, block, at, id) {
  const mine = { "data-block": block.block_id, "data-action": element.action_id };
  const ids = { block: block.block_id, action: element.action_id };
  const send = (values, from) => confirmed(element.confirm, () => act(at, { ...ids, values }, from));
  const tells = block.type !== "input" || block.dispatch_action;
  const now = at.values && at.values[block.block_id] && at.values[block.block_id][element.action_id];
  const initial = now || (element.initial_options || (element.initial_option ? [element.initial_option] : [])).map((o) => o.value);
  const hint = element.placeholder ? element.placeholder.text : undefined;
  const common = { ...mine, id, "data-focus": element.focus_on_load ? "yes" : undefined, "aria-label": id ? undefined : element.accessibility_label || hint || element.action_id, "aria-describedby": id ? (block.hint ? id + "-hint " : "") + id + "-error" : undefined };
  const changed = (event) => { if (tells) send(read(event.target), event.target); };
  const options = () => (element.options || []).map(optionNode)
    .concat((element.option_groups || []).map((g) => h("optgroup", { label: g.label.text }, g.options.map(optionNode))));
  const optionNode = (o) => { const n = h("option", { value: o.value }, o.text.text); n.selected = initial.includes(o.value); return n; };

  switch (element.type) {
    case "button":
      if (element.url) return anchorButton(element, send);
      return h("button", { ...mine, type: "button", class: "btn " + (element.style || ""), "aria-label": element.accessibility_label, onclick: (e) => send([], e.currentTarget) }, textObject(element.text));
    case "static_select":
      return h("select", { ...common, onchange: changed }, h("option", { value: "" }, hint || "Choose"), options());
    case "multi_static_select":
      return h("select", { ...common, multiple: true, onchange: changed }, options());
    case "users_select":
      return h("select", { ...common, onchange: changed }, h("option", { value: "" }, hint || "Choose a person"),
        state.people.filter((p) => !p.bot).map((p) => { const n = h("option", { value: p.id }, p.real); n.selected = initial.includes(p.id); return n; }));
    case "overflow":
      return h("select", { "aria-label": "More actions", onchange: (e) => { const v = e.target.value; e.target.value = ""; send([v], e.target); } },
        h("option", { value: "" }, "…"), options());
    case "checkboxes":
    case "radio_buttons": {
      const box = h("div", { ...mine, role: id ? undefined : "group", "aria-label": id ? undefined : element.action_id, onchange: () => { if (tells) send(read(box), box); } });
      const name = block.block_id + "/" + element.action_id;
      for (const o of element.options) {
        const input = h("input", { type: element.type === "checkboxes" ? "checkbox" : "radio", name, value: o.value });
        input.checked = initial.includes(o.value);
        box.append(h("label", { class: "choice" }, input, h("span", null, textObject(o.text), o.description ? h("div", { class: "hint" }, textObject(o.description)) : null)));
      }
      return box;
    }
    case "image": return h("span", { class: "context" }, "[" + element.alt_text + "]");
  }
  const type = { datepicker: "date", timepicker: "time", number_input: "number", email_text_input: "email", url_text_input: "url" }[element.type] || "text";
  const input = element.multiline ? h("textarea", { ...common, placeholder: hint }) : h("input", { ...common, type, step: type === "number" ? "any" : undefined, placeholder: hint });
  input.value = initial[0] || "";
  if (tells) input.addEventListener("change", changed);
  return input;
}

function anchorButton(element, send) {
  const node = anchor(element.url, element.text.text);
  if (typeof node === "string") return node;
  node.className = "btn " + (element.style || "");
  node.addEventListener("click", () => send([], node)); // Slack opens the link and tells the app
  return node;
}

// read returns the values of one control.
function read(node) {
  if (node.tagName === "DIV") return [...node.querySelectorAll("input:checked")].map((i) => i.value);
  if (node.multiple) return [...node.selectedOptions].map((o) => o.value);
  return node.value === "" ? [] : [node.value];
}

// values returns everything filled in in the modal.
const values = () => [...$("modal").querySelectorAll("[data-action]:not(button)")]
  .map((node) => ({ block: node.dataset.block, action: node.dataset.action, values: read(node) }));

// confirmed runs then, after asking if the app wants that.
function confirmed(question, then) {
  if (!question) return then();
  const dialog = $("confirm");
  const close = (yes) => { dialog.close(); if (yes) then(); };
  dialog.replaceChildren(h("h2", { id: "confirm-title" }, textObject(question.title)), h("div", { class: "scroll" }, textObject(question.text)),
    h("footer", null, h("button", { type: "button", class: "btn", onclick: () => close(false) }, textObject(question.deny)),
      h("button", { type: "button", class: "btn " + (question.style || "primary"), onclick: () => close(true) }, textObject(question.confirm))));
  dialog.showModal();
}

async function act(at, action, button) {
  button.disabled = true;
  const answer = await post("act", { channel: at.channel, ts: at.ts, view: at.view, ...action });
  button.disabled = false;
  if (answer.error) toast(answer.error);
}

// ---- screen -----------------------------------------------------------------------------------------------------

function avatar(p) {
  const i = state.people.filter((x) => !x.bot).findIndex((x) => x.id === p.id);
  const initials = p.real.split(/\s+/).map((w) => [...w][0]).slice(0, 2).join("").toUpperCase();
  return h("span", { class: "avatar " + (p.bot || i < 0 ? "bot" : "c" + (i % 6)), "aria-hidden": "true" }, initials);
}

function draw() {
  const open = state.channels.find((c) => c.id === place.get("in")) || state.channels[0];
  const me = person(state.me);
  keepFocus($("people"), state.people.filter((p) => !p.bot).map((p) =>
    h("button", { type: "button", "data-key": p.id, "aria-pressed": String(p.id === me.id), onclick: () => go({ as: p.id }) },
      avatar(p), h("span", null, p.real, p.flags ? h("small", null, " (" + p.flags + ")") : null))));
  const row = (c) => {
    const fresh = unread(c, open);
    return h("li", null, h("button", { type: "button", "data-key": c.id, "aria-current": c.id === open.id ? "true" : undefined, class: fresh ? "unread" : undefined, onclick: () => go({ in: c.id }) },
      c.dm ? null : h("span", { class: "mark", "aria-hidden": "true" }, "#"), c.name, c.private ? h("span", { class: "tag" }, "private") : null, fresh ? h("span", { class: "count" }, String(fresh), h("span", { class: "hidden" }, " unread")) : null));
  };
  keepFocus($("channels"), state.channels.filter((c) => !c.dm).map(row));
  keepFocus($("dms"), state.channels.filter((c) => c.dm).map(row));
  $("where").textContent = (open.dm ? "" : "#") + open.name;
  $("text").placeholder = `Message ${open.dm ? "" : "#"}${open.name}, or type ${command}`;
  $("acting").textContent = `You act as ${me.real}. Enter sends.`;
  drawMessages(open);
  drawModal();
}

// keepFocus replaces children without taking the keyboard away from the one with the same data-key.
function keepFocus(parent, children) {
  const key = parent.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  parent.replaceChildren(...children);
  if (key) parent.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
}

// unread counts what came since this person last had the channel open in this tab.
function unread(channel, open) {
  const name = `seen ${state.me} ${channel.id}`;
  const theirs = state.messages.filter((m) => m.channel === channel.id && m.user !== state.me);
  if (channel.id === open.id) sessionStorage.setItem(name, theirs.length ? theirs[theirs.length - 1].ts : "0");
  const seen = sessionStorage.getItem(name) || "0";
  return theirs.filter((m) => m.ts > seen).length;
}

function drawMessages(open) {
  const log = $("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40 || log.dataset.channel !== open.id;
  log.dataset.channel = open.id;
  const here = state.messages.filter((m) => m.channel === open.id);
  const wanted = [];
  for (const m of here.filter((m) => !m.thread || m.broadcast)) {
    wanted.push(messageNode(m, "channel"));
    const replies = here.filter((r) => r.thread === m.ts);
    if (replies.length) wanted.push(threadNode(m, replies));
  }
  if (!wanted.length) wanted.push(h("p", { class: "empty" }, "Nothing here yet."));
  arrange(log, wanted);
  if (atEnd) log.scrollTop = log.scrollHeight;
}

// arrange makes wanted the children of parent. Only what differs is touched, so that a screen reader announces new
// messages only and the focus stays.
function arrange(parent, wanted) {
  wanted.forEach((node, i) => { if (parent.childNodes[i] !== node) parent.insertBefore(node, parent.childNodes[i] || null); });
  while (parent.childNodes.length > wanted.length) parent.lastChild.remove();
}

// messageNode draws a message; where tells apart the two places of a reply that is also shown in the channel.
function messageNode(m, where) {
  const key = JSON.stringify(m);
  const old = nodes.get(where + m.ts);
  if (old && old.key === key) return old.node;
  const p = person(m.user);
  const at = { channel: m.channel, ts: m.ts };
  const node = h("article", { class: m.ephemeral ? "ephemeral" : undefined, "data-ts": m.ts, "aria-label": "Message from " + p.real },
    avatar(p), h("div", null,
      m.ephemeral ? h("div", { class: "only" }, "Only visible to you") : null,
      h("div", { class: "by" }, h("b", null, p.real), p.bot ? h("span", { class: "tag" }, "APP") : null, date(Number(m.ts), "{time}", "", ""), m.broadcast ? h("span", { class: "only" }, "replied to a thread") : null),
      h("div", { class: "body" }, m.blocks && m.blocks.length ? m.blocks.map((b) => blockNode(b, at)) : mrkdwn(m.text))));
  nodes.set(where + m.ts, { key, node });
  return node;
}

function threadNode(parent, replies) {
  const node = nodes.get("replies" + parent.ts)?.node || h("details", { class: "thread", open: true }, h("summary"));
  nodes.set("replies" + parent.ts, { node });
  node.firstChild.textContent = replies.length + (replies.length === 1 ? " reply" : " replies");
  arrange(node, [node.firstChild, ...replies.map((r) => messageNode(r, "thread"))]);
  return node;
}

function drawModal() {
  const dialog = $("modal");
  const modal = state.modal;
  const key = modal ? `${state.me} ${modal.id} ${modal.hash} ${modal.problem}` : "";
  if (key === drawnModal) return;
  // An update keeps what was typed and where the keyboard was.
  const same = modal && dialog.dataset.view === modal.id;
  const typed = same ? values() : [];
  const focus = same && dialog.contains(document.activeElement) ? document.activeElement.dataset : null;
  drawnModal = key;
  if (!modal) {
    dialog.close();
    dialog.replaceChildren();
    delete dialog.dataset.view;
    // The browser gives the focus back, but Chromium leaves the caret in the removed form, so typing would do nothing.
    const back = document.activeElement;
    back.blur();
    back.focus();
    return;
  }
  for (const t of typed) if (modal.values[t.block]) modal.values[t.block][t.action] = t.values;
  dialog.dataset.view = modal.id;
  const at = { view: modal.id, values: modal.values };
  const form = h("form", { novalidate: true, onsubmit: submit },
    h("h2", { id: "modal-title", tabindex: "-1" }, modal.title),
    modal.problem ? h("p", { class: "problem", role: "alert" }, modal.problem) : null,
    h("div", { class: "scroll" }, modal.blocks.map((b) => blockNode(b, at))),
    h("footer", null, h("button", { type: "button", class: "btn", onclick: closeModal }, modal.close),
      modal.submit ? h("button", { class: "btn primary", id: "submit" }, modal.submit) : null));
  dialog.replaceChildren(form);
  if (!dialog.open) dialog.showModal();
  const target = focus && focus.action ? dialog.querySelector(`[data-block="${CSS.escape(focus.block)}"][data-action="${CSS.escape(focus.action)}"]`) : null;
  // As in Slack's client no field is focused that did not ask for it: a long form must be read from its beginning.
  (target || dialog.querySelector("[data-focus]") || $("modal-title")).focus();
}

async function submit(event) {
  event.preventDefault();
  const button = $("submit");
  if (!button) return;
  button.disabled = true;
  const answer = await post("submit", { view: $("modal").dataset.view, inputs: values() });
  button.disabled = false;
  const errors = answer.errors || {};
  let first = null;
  for (const box of $("modal").querySelectorAll("[data-field]")) {
    const text = errors[box.dataset.field] || "";
    box.querySelector(".error").textContent = text;
    const input = box.querySelector("input, select, textarea");
    if (text) input?.setAttribute("aria-invalid", "true"); else input?.removeAttribute("aria-invalid");
    if (text && !first) first = input;
  }
  if (first) first.focus();
  if (answer.error) toast(answer.error);
}

async function closeModal() {
  const answer = await post("close", { view: $("modal").dataset.view });
  if (answer.error) toast(answer.error);
}

$("confirm").addEventListener("close", (event) => event.target.replaceChildren());
$("modal").addEventListener("cancel", (event) => { event.preventDefault(); closeModal(); });
$("composer").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || !state) return;
  $("text").value = "";
  const answer = await post("say", { channel: $("log").dataset.channel, text });
  if (answer.error) toast(answer.error);
  $("log").scrollTop = $("log").scrollHeight;
});

poll();
