// One exchange, whole: its stages, its attempts on one axis of time, every field of its log line.

import { byId, el, label } from "./dom.js";
import { clock, round, seconds } from "./format.js";
import { Failed, load } from "./live.js";
import { drawBar, drawTicks, roundUp, stageClass, stageName, ticksFor } from "./stages.js";
import { named, onLanguage, t } from "./words.js";

const SHOWN_APART = new Set(["attempts", "timeline", "stages"]);
const TEXT_LIMIT = 4000;
const LINK = "#exchange=";

/** Where on this page one exchange is shown: a link that others may open too. */
export const linkTo = (id) => LINK + encodeURIComponent(id);

export class Detail {
  #dialog = byId("detail");
  #body = byId("detail-body");
  #id = null;
  #data = null;
  #from = null;
  #target;

  /** Opens at once when the address names an exchange, and whenever it comes to name one. */
  constructor(target) {
    this.#target = target;
    byId("detail-close").addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("click", (event) => {
      if (event.target === this.#dialog) this.#dialog.close(); // beside it
    });
    this.#dialog.addEventListener("close", () => this.#closed());
    window.addEventListener("hashchange", () => this.#follow());
    onLanguage(() => this.#data !== null && this.#draw());
    this.#follow();
  }

  target(seconds) {
    this.#target = seconds;
    if (this.#data !== null) this.#draw();
  }

  /** Loads and shows the exchange; when closed, the focus goes back to `from`. */
  async open(id, from = null) {
    [this.#id, this.#from, this.#data] = [id, from, null];
    if (linked() !== id) history.replaceState(null, "", linkTo(id)); // no step of its own to go back
    this.#body.replaceChildren(el("p", { class: "quiet" }, t("detail_loading")));
    if (!this.#dialog.open) this.#dialog.showModal();
    try {
      const data = await load(`/admin/exchanges/${encodeURIComponent(id)}`);
      if (id !== this.#id) return;
      this.#data = data;
      this.#draw();
    } catch (error) {
      if (!(error instanceof Failed)) throw error;
      if (id !== this.#id) return;
      const reason = `${error.status} ${error.message}`;
      const text = error.status === 404 ? t("detail_gone") : t("detail_failed", { reason });
      this.#body.replaceChildren(el("p", { class: "problem" }, text));
    }
  }

  #follow() {
    const id = linked();
    if (id === null) this.#dialog.close();
    else if (id !== this.#id) this.open(id);
  }

  #closed() {
    [this.#id, this.#data] = [null, null];
    if (linked() !== null) history.replaceState(null, "", location.pathname + location.search);
    this.#from?.focus();
  }

  #draw() {
    const data = this.#data;
    const axis = roundUp(Math.max(data.duration_s ?? 0, ...ends(data), 0.001));
    this.#body.replaceChildren(
      head(data),
      el("h3", {}, t("detail_stages")),
      timeline(data.timeline ?? [], axis, this.#target),
      el("h3", {}, t("detail_attempts")),
      attempts(data.attempts ?? [], axis, this.#target),
      el("h3", {}, t("detail_all")),
      fields(data),
    );
  }
}

/** The id that the address names, or null. */
function linked() {
  const { hash } = location;
  if (!hash.startsWith(LINK) || hash === LINK) return null;
  const id = hash.slice(LINK.length);
  try {
    return decodeURIComponent(id);
  } catch {
    return id; // not written by linkTo
  }
}

const ends = (data) => (data.attempts ?? []).map((one) => (one.start_s ?? 0) + (one.duration_s ?? 0));

function head(data) {
  const facts = [
    [t("outcome"), [data.outcome, data.status].filter((one) => one !== null).join(" ")],
    [t("first_content"), seconds(data.first_content_s)],
    [t("asked_model"), data.requested_model],
    [t("endpoint"), data.endpoint],
  ];
  const list = el("dl", { class: "facts" });
  for (const [name, value] of facts) {
    list.append(el("div", {}, el("dt", {}, name), el("dd", {}, el("bdi", {}, label(value)))));
  }
  const parts = [list];
  if (data.error) parts.push(el("p", { class: "problem", dir: "auto" }, label(data.error, TEXT_LIMIT)));
  return el("div", {}, ...parts);
}

function timeline(stages, axis, target) {
  const rows = stages.map((one) => {
    const parts = [{ name: one.stage, start: one.start_s, length: one.duration_s }];
    const swatch = el("span", { class: `swatch ${stageClass(one.stage)}` });
    return [[swatch, stageName(one.stage)], seconds(one.start_s), seconds(one.duration_s), parts];
  });
  return bars(t("stages_caption"), t("detail_stage"), rows, axis, target);
}

function attempts(made, axis, target) {
  if (made.length === 0) return el("p", { class: "quiet" }, t("detail_no_attempts"));
  const rows = made.map((one, index) => {
    const role = named("role", one.role) ?? label(one.role);
    const what = [`${index + 1}. ${role} · `, el("bdi", {}, `${label(one.endpoint)} / ${label(one.model)}`)];
    const told = [one.status, one.upstream_code, one.protocol].filter((part) => part != null);
    const result = `${t(one.won ? "won" : "lost")} · ${label(one.outcome)} ${told.map((x) => label(x)).join(" ")}`;
    const name = [el("span", {}, ...what), el("small", { class: one.won ? "good" : "quiet" }, result)];
    return [name, seconds(one.start_s), seconds(one.duration_s), attemptSpans(one)];
  });
  return bars(t("attempts_caption"), t("attempt"), rows, axis, target);
}

/** What an attempt waited for, one after the other. Some marks count from the send. */
function attemptSpans(one) {
  const begun = one.start_s ?? 0;
  const end = begun + (one.duration_s ?? 0);
  const sent = one.connect_s === null ? null : begun + one.connect_s;
  const since = (mark) => (sent === null || mark == null ? null : sent + mark);
  const marks = [
    ["admission", begun - (one.waited_s ?? 0), begun],
    ["connect", begun, sent],
    ["upstream_headers", sent, since(one.headers_s)],
    ["first_token", since(one.headers_s), since(one.first_token_s ?? one.first_byte_s)],
    [one.won ? "stream" : "rest", since(one.first_token_s ?? one.first_byte_s), end],
  ];
  const parts = [];
  let at = marks[0][1];
  for (const [name, , until] of marks) {
    if (until === null || until <= at) continue;
    parts.push({ name: until === end && name !== "stream" ? "rest" : name, start: at, length: until - at });
    at = until;
  }
  return parts;
}

/** A table of name, start, length and bar. */
function bars(caption, first, rows, axis, target) {
  const ticks = el("div", { class: "ticks", "aria-hidden": "true" });
  drawTicks(ticks, axis, target, ticksFor(6, 2));
  const heads = [first, t("detail_start"), t("detail_length"), ""].map((word, index) => {
    const cell = el("th", { scope: "col", class: index === 3 ? "bar-cell" : index ? "num" : "" }, word);
    if (index === 3) {
      cell.append(ticks);
      cell.setAttribute("aria-label", t("axis"));
    }
    return cell;
  });
  const body = rows.map(([name, start, length, parts]) => {
    const bar = el("div", { class: "bar" });
    drawBar(bar, { spans: parts, axis, text: t("attempt_bar", { start, length }) });
    const title = el("th", { scope: "row" }, ...name);
    const cells = [el("td", { class: "num" }, start), el("td", { class: "num" }, length)];
    return el("tr", {}, title, ...cells, el("td", { class: "bar-cell" }, bar));
  });
  const table = el(
    "table",
    { class: `bars ${axis < target ? "no-target" : ""}` },
    el("caption", { class: "unseen" }, caption),
    el("thead", {}, el("tr", {}, ...heads)),
    el("tbody", {}, ...body),
  );
  table.style.setProperty("--target-at", `${(100 * target) / axis}%`);
  return table;
}

function fields(data) {
  const rows = Object.entries(data)
    .filter(([name]) => !SHOWN_APART.has(name))
    .map(([name, value]) => {
      const cell = el("td", { dir: "auto" }, label(written(name, value), TEXT_LIMIT));
      return el("tr", {}, el("th", { scope: "row", translate: "no" }, label(name)), cell);
    });
  return el(
    "table",
    { class: "all-fields" },
    el("caption", { class: "unseen" }, t("fields_caption")),
    el("tbody", {}, ...rows),
  );
}

function written(name, value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "boolean") return t(value ? "yes" : "no");
  if (name === "time" && typeof value === "number") return clock(value);
  if (name.endsWith("_s") && typeof value === "number") return value < 0.01 ? seconds(value) : round(value);
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
