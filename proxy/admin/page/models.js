// Models switched while the proxy runs: which are, a form to switch and undo, and who did what.

import { byId, el, label, setText } from "./dom.js";
import { moment } from "./format.js";
import { Failed, load } from "./live.js";
import { keepToken, token, tokenField } from "./token.js";
import { named, onLanguage, t } from "./words.js";

const SPANS = ["", "15m", "1h", "2h", "8h", "1d", "7d"]; // as the admin API reads them
const ENTRIES = 20;
const PATH = "/admin/models";

export function startModels() {
  const form = byId("switch");
  const [from, to, lasting] = [byId("switch-model"), byId("switch-to"), byId("switch-for")];
  let enabled = false; // there is a token to act with
  let switches = null; // what is shown
  let entries = null;
  let problem = null; // words, as functions: the language may change
  let said = null;

  tokenField(byId("switch-token"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    set();
  });
  byId("switch-undo-all").addEventListener("click", () => reset(null));
  byId("switches-table").addEventListener("click", ({ target }) => {
    const row = switches[target.dataset?.index];
    if (row) reset(row.model);
  });
  onLanguage(draw);
  draw();
  return { show, choices, reload };

  /** What is switched now, from the proxy's status. */
  function show(data) {
    const now = data.switches ?? [];
    if (JSON.stringify(now) === JSON.stringify(switches)) return; // a button keeps the focus
    const changed = switches !== null;
    switches = now;
    drawSwitches();
    if (changed) reload();
  }

  /** What can be switched, from the whole status. */
  function choices(data) {
    enabled = data.playground?.enabled ?? false;
    form.hidden = !enabled;
    byId("switch-off").hidden = enabled;
    const examples = (data.routes ?? []).map((route) => route.example_model).filter(Boolean);
    const known = [...new Set([...examples, ...(data.models ?? [])])];
    byId("known-models").replaceChildren(...known.map((value) => el("option", { value })));
    drawSwitches();
  }

  /** The latest entries of the audit, asked for anew. */
  async function reload() {
    try {
      entries = (await load(`/admin/audit?limit=${ENTRIES}`)).entries;
    } catch (error) {
      if (!(error instanceof Failed)) throw error;
      entries = null;
    }
    drawAudit();
  }

  async function set() {
    const [model, target] = [from.value.trim(), to.value.trim()];
    const body = { to: target, for: lasting.value || null };
    const done = await act("PUT", `${PATH}/${encodeURIComponent(model)}`, body);
    if (done === null) return;
    const words = { model: label(model), to: label(target) };
    tell(null, () => t(done.warning ? "switch_doubted" : "switch_done", words));
    [from.value, to.value] = ["", ""];
  }

  /** One, or all: the button may go with its row, so the focus has to go elsewhere. */
  async function reset(model) {
    const path = model === null ? PATH : `${PATH}/${encodeURIComponent(model)}`;
    const done = await act("DELETE", path);
    if (done === null) return;
    tell(null, () => t("switch_undone", { count: done.reset }));
    from.focus();
  }

  /** Asks the proxy to do it: its answer, or null when it did not; then the page says why. */
  async function act(method, path, body) {
    if (token() === "") {
      tell(() => t("token_missing"));
      byId("switch-token").focus();
      return null;
    }
    try {
      const answer = await fetch(path, {
        method,
        headers: { Authorization: `Bearer ${token()}`, "Content-Type": "application/json" },
        body: body === undefined ? undefined : JSON.stringify(body),
        cache: "no-store",
      });
      const data = await answer.json().catch(() => ({})); // a 404 or 500 may be plain text
      if (answer.ok) {
        keepToken();
        show((await load(PATH)) ?? {});
        return data;
      }
      const reason = label(data.error?.message ?? answer.statusText, 1000);
      const { status } = answer;
      tell(() => (status === 401 ? t("token_wrong") : t("refused", { status, reason })));
    } catch (error) {
      if (!(error instanceof TypeError) && !(error instanceof Failed)) throw error;
      tell(() => t("unreachable"));
    }
    return null;
  }

  function tell(wrong, right = null) {
    [problem, said] = [wrong, right];
    drawTold();
  }

  // --- drawing ---

  function draw() {
    const chosen = lasting.value;
    const options = SPANS.map((value) => el("option", { value }, named("for", value || "ever")));
    lasting.replaceChildren(...options);
    lasting.value = chosen;
    drawSwitches();
    drawAudit();
    drawTold();
  }

  function drawTold() {
    byId("switch-problem").hidden = problem === null;
    setText(byId("switch-problem"), problem === null ? "" : problem());
    setText(byId("switch-said"), said === null ? "" : said());
  }

  function drawSwitches() {
    const rows = (switches ?? []).map((one, index) => [
      foreign(one.model),
      foreign(one.to),
      one.until === null ? t("for_ever") : moment(one.until),
      foreign(one.by),
      ...(enabled ? [undo(one, index)] : []),
    ]);
    const heads = [t("switch_model"), t("switch_to"), t("switch_until"), t("switch_by")];
    if (enabled) heads.push("");
    drawTable(byId("switches-table"), t("switches_caption"), heads, rows, t("switches_none"));
    byId("switch-undo-all").hidden = rows.length < 2;
  }

  function drawAudit() {
    const rows = (entries ?? []).map((one) => [
      moment(one.at),
      foreign(one.actor),
      named("action", String(one.action).replace(".", "_")) ?? foreign(one.action),
      foreign(one.subject),
    ]);
    const heads = [t("time"), t("switch_by"), t("audit_action"), t("audit_subject")];
    drawTable(byId("audit-table"), t("audit_caption"), heads, rows, t("audit_none"));
  }
}

const foreign = (value) => el("bdi", {}, label(value, 140));

function undo(one, index) {
  const name = t("switch_undo_one", { model: label(one.model, 140) });
  const attributes = { type: "button", class: "small", "data-index": index, "aria-label": name };
  return el("button", attributes, t("switch_undo"));
}

/** A table whose first column names the row; on a phone each cell has its head beside it. */
function drawTable(holder, caption, heads, rows, none) {
  if (rows.length === 0) {
    holder.replaceChildren(el("p", { class: "quiet" }, none));
    return;
  }
  const head = heads.map((word) => el("th", { scope: "col", role: "columnheader" }, word));
  const body = rows.map((cells) =>
    el("tr", { role: "row" }, ...cells.map((content, index) => cell(content, index, heads[index]))),
  );
  holder.replaceChildren(
    el(
      "table",
      { class: "cards", role: "table" },
      el("caption", { class: "unseen" }, caption),
      el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...head)),
      el("tbody", { role: "rowgroup" }, ...body),
    ),
  );
}

function cell(content, index, head) {
  const place = index === 0 ? { scope: "row", role: "rowheader" } : { role: "cell" };
  const inner = el("span", { class: "cell-value" }, content);
  return el(index === 0 ? "th" : "td", { ...place, "data-head": head }, inner);
}
