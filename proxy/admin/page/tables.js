// Tables of what is now: running exchanges, candidates, connections. Cells change in place.

import { byId, el, label, setClass, setLabel, setText } from "./dom.js";
import { count, percent, seconds } from "./format.js";
import { named, onLanguage, t } from "./words.js";

const MOST = 50;
const RUNNING = 20;

/** Each column: the words of its head, what a row shows there, and its class. */
const RUNNING_COLUMNS = [
  { word: "asked_model", value: (row) => row.requested_model, foreign: true, head: true },
  { word: "route", value: (row) => row.route, foreign: true },
  { word: "endpoint", value: (row) => row.endpoint, foreign: true },
  { word: "stage", value: (row) => named("stage", row.stage) ?? label(row.stage) },
  { word: "age", value: (row) => seconds(row.age_s), name: "num", bar: (row) => row.age_s },
  { word: "request_id", value: (row) => row.request_id, foreign: true, name: "mono" },
];
const CANDIDATE_COLUMNS = [
  { word: "asked_model", value: (row) => row.model, foreign: true, head: true },
  { word: "endpoint", value: (row) => row.endpoint, foreign: true },
  { word: "route", value: (row) => row.route, foreign: true },
  {
    word: "breaker",
    value: (row) => named("breaker", row.breaker) ?? label(row.breaker),
    dot: (row) => ({ closed: "good", open: "bad", half_open: "fair" })[row.breaker] ?? "",
  },
  { word: "error_share", value: (row) => percent(row.error_rate), name: "num" },
  {
    word: "predicted",
    value: (row, target) =>
      seconds(row.predicted_first_content_s) + (late(row, target) ? " !" : ""),
    name: "num",
    tone: (row, target) => (late(row, target) ? "bad" : ""),
  },
  {
    word: "load",
    value: (row) => `${count(row.in_flight)} / ${row.limit === null ? t("no_limit") : count(row.limit)}`,
    name: "num",
  },
  { word: "waiting", value: (row) => count(row.waiting), name: "num", tone: (row) => some(row.waiting) },
  { word: "resting_keys", value: (row) => count(row.resting_keys), name: "num", tone: (row) => some(row.resting_keys) },
];
const CONNECTION_COLUMNS = [
  { word: "endpoint", value: (row) => row.name, foreign: true, head: true },
  { word: "region", value: (row) => row.region, foreign: true },
  {
    word: "state",
    value: (row) => named("state", row.state) ?? label(row.state),
    dot: (row) => ({ up: "good", down: "bad", connecting: "fair" })[row.state] ?? "",
  },
  { word: "opened", value: (row) => count(row.connections), name: "num" },
  { word: "opening", value: (row) => count(row.opening), name: "num" },
  { word: "idle", value: (row) => count(row.idle), name: "num" },
  { word: "streams", value: (row) => count(row.streams), name: "num" },
  { word: "waiting", value: (row) => count(row.waiting), name: "num", tone: (row) => some(row.waiting) },
  { word: "ping", value: (row) => seconds(row.ping_round_trip_s), name: "num" },
];

const late = (row, target) => (row.predicted_first_content_s ?? 0) > target;
const some = (value) => (value > 0 ? "fair" : "");

/** Whether anything is known of a candidate, or anybody is there. */
const isKnown = (row) =>
  row.breaker !== "closed" ||
  [row.error_rate, row.predicted_first_content_s].some((value) => value !== null) ||
  [row.in_flight, row.waiting, row.resting_keys].some((value) => value > 0);

export function startTables() {
  const running = new Table(byId("running-table"), "running", RUNNING_COLUMNS);
  const candidates = new Table(byId("candidates-table"), "candidates", CANDIDATE_COLUMNS);
  const connections = new Table(byId("connections-table"), "connections", CONNECTION_COLUMNS);
  const more = byId("candidates-more");
  let latest = null;
  let opened = false;
  more.addEventListener("click", () => {
    opened = !opened;
    show(latest);
  });
  onLanguage(() => {
    for (const table of [running, candidates, connections]) table.relabel();
    if (latest !== null) show(latest);
  });
  return { show };

  function show(data) {
    latest = data;
    const target = data.window.slo_target_s;
    running.show(data.running.slice(0, RUNNING), target);
    candidates.show(asked(data.candidates).slice(0, MOST), target);
    connections.show(data.endpoints.slice(0, MOST), target);
  }

  /** Those that were never asked stand behind a count, once there is one that was. */
  function asked(all) {
    const known = all.filter(isKnown);
    const rest = known.length > 0 ? all.filter((row) => !isKnown(row)) : [];
    more.hidden = rest.length === 0;
    more.setAttribute("aria-expanded", String(opened));
    setText(more, t(opened ? "fewer_candidates" : "more_candidates", { count: count(rest.length) }));
    if (rest.length === 0) return all;
    return opened ? [...known, ...rest] : known;
  }
}

/** A table whose rows are written over from one second to the next. */
class Table {
  #name;
  #columns;
  #table = el("table", { class: "cards", role: "table" });
  #body = el("tbody", { role: "rowgroup" });
  #none = el("p", { class: "quiet" });

  constructor(holder, name, columns) {
    this.#name = name;
    this.#columns = columns;
    holder.append(this.#table, this.#none);
    this.relabel();
  }

  relabel() {
    const heads = this.#columns.map(({ word, name }) =>
      el("th", { scope: "col", role: "columnheader", class: name }, t(word)),
    );
    const caption = el("caption", { class: "unseen" }, t(`${this.#name}_caption`));
    const head = el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads));
    this.#body.replaceChildren();
    this.#table.replaceChildren(caption, head, this.#body);
    setText(this.#none, t(`${this.#name}_none`));
    this.#table.hidden = true;
  }

  show(rows, target) {
    while (this.#body.children.length > rows.length) this.#body.lastChild.remove();
    while (this.#body.children.length < rows.length) this.#body.append(this.#row());
    rows.forEach((row, index) => {
      const cells = this.#body.children[index].children;
      this.#columns.forEach((column, place) => write(cells[place], column, row, target));
    });
    this.#table.hidden = rows.length === 0;
    this.#none.hidden = rows.length > 0;
  }

  /** Each cell knows the head of its column: on a phone it stands beside the value. */
  #row() {
    const cells = this.#columns.map(({ word, head, bar }) => {
      const place = head ? { scope: "row", role: "rowheader" } : { role: "cell" };
      const cell = el(head ? "th" : "td", { ...place, "data-head": t(word) });
      if (bar) cell.append(el("span", { class: "age-bar", "aria-hidden": "true" }, el("span")));
      cell.append(el("span", { class: "cell-value" }));
      return cell;
    });
    return el("tr", { role: "row" }, ...cells);
  }
}

function write(cell, column, row, target) {
  const value = column.value(row, target);
  const place = cell.lastChild;
  if (column.foreign) setLabel(place, value);
  else setText(place, value);
  const dot = column.dot ? `dot dot-${column.dot(row)}` : "";
  setClass(place, `cell-value ${dot}`);
  setClass(cell, `${column.name ?? ""} ${column.tone ? column.tone(row, target) : ""}`);
  if (column.bar) {
    const part = Math.min(1, column.bar(row) / target);
    cell.firstChild.firstChild.style.width = `${100 * part}%`;
    setClass(cell.firstChild, `age-bar ${part >= 1 ? "age-over" : ""}`);
  }
}
