// The stages of an exchange, in their order, and a bar that shows them on an axis of time.

import { el, label } from "./dom.js";
import { seconds } from "./format.js";
import { named, t } from "./words.js";

const STAGES = [
  ...["receive", "route", "retry", "admission", "connect", "upstream_headers"],
  ...["first_byte", "first_token", "commit", "reasoning", "stream"],
];
const KNOWN = new Set(STAGES);
const TOLD = 0.0005; // seconds: shorter stages are drawn, and left out of the text

export const stageName = (stage) => named("stage", stage) ?? label(stage);

/** The name of a colour for a stage; one we do not know has the colour of "rest". */
export const stageClass = (stage) => `stage-${KNOWN.has(stage) ? stage : "rest"}`;

/** A list of colour and name, for a legend; the last is the mark of the first content. */
export function legend(list) {
  const stages = STAGES.map((stage) => [`swatch ${stageClass(stage)}`, stageName(stage)]);
  const entries = [...stages, ["swatch swatch-mark", t("first_content")]];
  list.replaceChildren(...entries.map(([name, text]) => el("li", {}, el("span", { class: name }), text)));
}

/** [{name, start, length}] from a summary's `stages`, with what is missing to `total` as "rest". */
export function spans(stages, total) {
  const found = [];
  let at = 0;
  for (const [name, length] of stages ?? []) {
    found.push({ name, start: at, length });
    at += length;
  }
  if (total - at > TOLD) found.push({ name: "rest", start: at, length: total - at });
  return found;
}

/** Draws spans and a marker on an axis of `axis` seconds; replaces what the bar held. */
export function drawBar(bar, { spans: parts, axis, marker = null, text = null }) {
  const pieces = parts.filter(({ start, length }) => length > 0 && start < axis).map(piece);
  if (marker !== null && marker <= axis) {
    const mark = el("i", { class: "mark" });
    mark.style.left = `${(100 * marker) / axis}%`;
    pieces.push(mark);
  }
  if (parts.some(({ start, length }) => start + length > axis * 1.0005)) {
    pieces.push(el("i", { class: "beyond", title: t("beyond") }));
  }
  bar.replaceChildren(...pieces);
  bar.setAttribute("role", "img");
  bar.setAttribute("aria-label", text ?? inWords(parts));

  function piece({ name, start, length }) {
    const segment = el("span", { class: `segment ${stageClass(name)}` });
    segment.style.left = `${(100 * start) / axis}%`;
    segment.style.width = `${(100 * Math.min(length, axis - start)) / axis}%`;
    segment.title = t("bar_stage", { stage: stageName(name), time: seconds(length) });
    return segment;
  }
}

/** What a bar shows, as a sentence. */
export function inWords(parts) {
  const total = parts.reduce((most, { start, length }) => Math.max(most, start + length), 0);
  const told = parts
    .filter(({ length }) => length >= TOLD)
    .map(({ name, length }) => t("bar_stage", { stage: stageName(name), time: seconds(length) }));
  return t("bar", { stages: told.join(", "), total: seconds(total) });
}

const narrow = matchMedia("(max-width: 46rem)");

/** How many ticks have room: on a phone fewer. */
export const ticksFor = (wide, phone) => (narrow.matches ? phone : wide);

const STEPS = [1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10];

/** The next round length of an axis at or above `value` seconds. */
export function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return power * STEPS.find((step) => step * power >= value * 0.9999);
}

const TICKS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300];

/** Draws ticks from 0 to `axis` into `holder`, some `most` of them; the target has its own. */
export function drawTicks(holder, axis, target, most = 6) {
  const step = TICKS.find((one) => axis / one <= most) ?? 600;
  const ticks = [];
  for (let at = 0; at <= axis * 0.94; at += step) {
    if (Math.abs(at - target) > (axis * 0.45) / most) ticks.push(tick(at, "tick"));
  }
  if (target <= axis) ticks.push(tick(target, "tick tick-target"));
  holder.replaceChildren(...ticks);

  function tick(at, name) {
    const text = t("unit_s", { value: Number(at.toFixed(2)) });
    const node = el("span", { class: name }, text);
    node.style.left = `${(100 * at) / axis}%`;
    return node;
  }
}
