// Both ways of the playground on one axis of time, growing while they answer.

import { byId, el, label, setText } from "./dom.js";
import { few, seconds } from "./format.js";
import { drawBar, drawTicks, roundUp, ticksFor } from "./stages.js";
import { t } from "./words.js";

const SAME = 1.05; // ratios up to this are no difference

export class Race {
  #panes;
  #target = 5;
  #holder = byId("race");
  #ticks = el("div", { class: "ticks", "aria-hidden": "true" });
  #rows;

  /** `panes`: {proxied, direct}. */
  constructor(panes) {
    this.#panes = panes;
    this.#rows = Object.keys(panes).map((way) => {
      const name = el("span", { class: "race-name" });
      const bar = el("div", { class: "bar" });
      const time = el("span", { class: "num" });
      return { way, name, bar, time };
    });
    const axis = el("div", { class: "race-row" }, el("span"), this.#ticks, el("span"));
    const rows = this.#rows.map(({ name, bar, time }) => el("div", { class: "race-row" }, name, bar, time));
    this.#holder.append(axis, ...rows);
  }

  target(seconds) {
    this.#target = seconds;
  }

  draw() {
    const runs = this.#rows.map(({ way }) => this.#panes[way].run);
    this.#holder.setAttribute("aria-label", t("race_caption"));
    this.#holder.hidden = runs.every((run) => run === null);
    const lengths = runs.map((run) => (run === null ? 0 : elapsed(run)));
    const axis = roundUp(Math.max(this.#target * 1.2, ...lengths));
    this.#holder.style.setProperty("--target-at", `${(100 * this.#target) / axis}%`);
    drawTicks(this.#ticks, axis, this.#target, ticksFor(6, 3));
    this.#rows.forEach(({ way, name, bar, time }, index) => {
      const run = runs[index];
      setText(name, t(`way_${way}`));
      setText(time, run === null ? "–" : seconds(first(run) ?? null));
      drawBar(bar, { spans: run === null ? [] : parts(run), axis, marker: first(run) ?? null });
    });
  }

  /** What the two say about each other, once both are over. */
  verdict() {
    const { proxied, direct } = this.#panes;
    const both = [proxied.run, direct.run];
    const times = both.every((run) => run?.over) ? comparison(...both) : "";
    const words = times === "" ? [] : [times, models(...both), thinking(...both)];
    setText(byId("verdict"), words.filter(Boolean).join(t("between")));
  }
}

/** Which was sooner; empty when one of them failed before its first content. */
function comparison(proxied, direct) {
  const [one, other] = [first(proxied), first(direct)];
  const words = { proxied: seconds(one), direct: seconds(other) };
  if (one > 0 && other > 0) {
    const times = Math.max(one, other) / Math.min(one, other);
    const word = times < SAME ? "verdict_same" : one < other ? "verdict_sooner" : "verdict_later";
    return t(word, { ...words, times: few(times) });
  }
  if (one > 0 && direct.done) return t("verdict_only_proxied", words);
  return other > 0 && proxied.done ? t("verdict_only_direct", words) : "";
}

/** That another model answered than was asked past the proxy: then it is no race of equals. */
function models(proxied, direct) {
  const served = proxied.head?.headers["x-glm-proxy-model"];
  const [asked, other] = [proxied.asked.model, direct.asked.model];
  if (!served || served === other) return "";
  const words = { served: label(served), asked: label(other) };
  return t(asked === other ? "verdict_instead" : "verdict_models", words);
}

function thinking(proxied, direct) {
  if (Boolean(proxied.thought) === Boolean(direct.thought)) return "";
  return t(proxied.thought ? "verdict_thought_proxied" : "verdict_thought_direct");
}

const first = (run) => run?.done?.first_content_s ?? run?.first_content;

/** Seconds: what the server said last, or the clock here while it is silent. */
function elapsed(run) {
  if (run.over) return run.latest ?? 0;
  return Math.max(run.latest ?? 0, (performance.now() - run.begun) / 1000);
}

function parts(run) {
  const last = first(run) === undefined && run.thought ? "reasoning" : "stream";
  const marks = [
    ["upstream_headers", run.head?.t_s],
    ["first_token", run.done?.ttft_s ?? run.first_token],
    ["reasoning", first(run)],
    [last, run.done?.t_s],
  ];
  const found = [];
  let at = 0;
  for (const [name, mark] of marks) {
    if (mark === undefined || mark === null) continue;
    if (mark > at) found.push({ name, start: at, length: mark - at });
    at = Math.max(at, mark);
  }
  const now = elapsed(run);
  if (now > at) found.push({ name: first(run) === undefined && !run.thought ? "rest" : last, start: at, length: now - at });
  return found;
}
