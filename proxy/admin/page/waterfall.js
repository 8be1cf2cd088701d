// A table of exchanges whose last column is an axis of time: one bar of stages for each.

import { el, label, setAttribute, setClass, setLabel, setText } from "./dom.js";
import { clock, seconds } from "./format.js";
import { drawBar, drawTicks, roundUp, spans, ticksFor } from "./stages.js";
import { t } from "./words.js";

const COLUMNS = ["time", "asked_model", "route", "endpoint", "outcome", "first_content", "axis"];
const GOOD = "completed";

/** Rows are kept from one drawing to the next; `open(id)` is called by a click or by Enter. */
export class Waterfall {
  #table;
  #body;
  #ticks;
  #none;
  #rows = new Map();
  #open;

  constructor(holder, open) {
    this.#open = open;
    this.#ticks = el("div", { class: "ticks", "aria-hidden": "true" });
    this.#body = el("tbody", { role: "rowgroup" });
    this.#table = el("table", { class: "waterfall", role: "table" });
    this.#none = el("p", { class: "quiet", "data-word": "no_exchanges" });
    holder.append(this.#table, this.#none);
    this.relabel();
  }

  /** Writes everything anew, in the language of now. */
  relabel() {
    const heads = COLUMNS.map((word) => {
      const name = word === "axis" ? "bar-cell" : `cell-${word}`;
      const head = el("th", { scope: "col", role: "columnheader", class: name }, t(word));
      if (word === "axis") head.append(this.#ticks);
      return head;
    });
    const caption = el("caption", { class: "unseen" }, t("exchanges_caption"));
    const head = el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads));
    this.#table.replaceChildren(caption, head, this.#body);
    this.#none.textContent = t("no_exchanges");
    this.#rows.clear();
    this.#body.replaceChildren();
  }

  /** Shows these summaries in this order. */
  show(summaries, target) {
    const axis = axisOf(summaries, target);
    const shown = new Map();
    const nodes = summaries.map((summary) => {
      const row = this.#rows.get(summary.request_id) ?? this.#row(summary);
      if (row.axis !== axis || row.target !== target) place(row, axis, target);
      shown.set(summary.request_id, row);
      return row.node;
    });
    this.#rows = shown;
    arrange(this.#body, nodes);
    this.#table.style.setProperty("--target-at", `${(100 * target) / axis}%`);
    drawTicks(this.#ticks, axis, target, ticksFor(6, 4));
    this.#table.hidden = summaries.length === 0;
    this.#none.hidden = summaries.length > 0;
  }

  #row(summary) {
    const id = summary.request_id;
    const button = el("button", { type: "button", class: "open" }, clock(summary.time));
    const words = { time: clock(summary.time), model: label(summary.requested_model), outcome: label(summary.outcome) };
    button.setAttribute("aria-label", t("open_exchange", words));
    const bar = el("div", { class: "bar" });
    const first = el("td", { role: "cell", class: "cell-first_content num" });
    const cells = [
      el("td", { role: "cell", class: "cell-time num" }, button),
      el("td", { role: "cell", class: "cell-asked_model" }, ...models(summary)),
      text("route", summary.route),
      text("endpoint", summary.endpoint),
      outcome(summary),
      first,
      el("td", { role: "cell", class: "bar-cell" }, bar),
    ];
    const node = el("tr", { role: "row", "data-id": id }, ...cells);
    node.addEventListener("click", () => this.#open(id, button));
    return { node, bar, first, summary, axis: null, target: null };
  }
}

function place(row, axis, target) {
  const { summary } = row;
  const parts = spans(summary.stages, summary.duration_s ?? 0);
  drawBar(row.bar, { spans: parts, axis, marker: summary.first_content_s });
  const late = summary.first_content_s !== null && summary.first_content_s > target;
  setClass(row.first, `cell-first_content num ${late ? "bad" : ""}`);
  setText(row.first, seconds(summary.first_content_s) + (late ? " !" : ""));
  setAttribute(row.first, "title", late ? t("late") : null);
  Object.assign(row, { axis, target });
}

function text(word, value) {
  const cell = el("td", { role: "cell", class: `cell-${word}` });
  setLabel(cell, value);
  return cell;
}

function models({ requested_model: asked, served_model: served }) {
  const parts = [el("bdi", {}, label(asked))];
  if (served !== null && served !== asked) {
    parts.push(" → ", el("bdi", { class: "served" }, label(served)));
  }
  for (const part of parts) if (part instanceof Element) part.title = part.textContent;
  return parts;
}

function outcome(summary) {
  const good = summary.outcome === GOOD;
  const cell = el("td", { role: "cell", class: `cell-outcome ${good ? "" : "bad"}` });
  const status = summary.status !== null && summary.status !== 200 ? ` ${summary.status}` : "";
  const name = el("bdi", {}, ...breakable(label(summary.outcome) + status));
  const line = el("span", { class: "outcome" }, name);
  cell.append(line);
  if (summary.attempt_count > 1) {
    const words = t("attempts_count", { count: summary.attempt_count });
    line.append(el("span", { class: "badge", title: words, role: "img", "aria-label": words }, `×${summary.attempt_count}`));
  }
  if (summary.error) cell.title = label(summary.error, 1000);
  return cell;
}

/** A code may go on in a new line after each `_`: its end tells it from others. */
function breakable(code) {
  return code.split(/(?<=_)/).flatMap((part, index) => (index > 0 ? [el("wbr"), part] : [part]));
}

/** Long enough for nine of ten first contents and for the target; what is longer is cut off. */
function axisOf(summaries, target) {
  const lengths = summaries
    .map(({ first_content_s: first, duration_s: whole }) => first ?? whole ?? 0)
    .sort((a, b) => a - b);
  const most = lengths[Math.floor(lengths.length * 0.9)] ?? 0;
  return roundUp(Math.max(target * 1.2, most * 1.1));
}

/** Makes `nodes` the children, moving no node that stands right: focus stays where it is. */
function arrange(body, nodes) {
  const wanted = new Set(nodes);
  for (const child of [...body.children]) if (!wanted.has(child)) child.remove();
  let before = body.firstChild;
  for (const node of nodes) {
    if (node === before) before = before.nextSibling;
    else body.insertBefore(node, before);
  }
}
