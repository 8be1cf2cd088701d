// Three small charts of the last ten minutes, drawn by uPlot; each has its figures as text too.

import { el, setText } from "./dom.js";
import { clock, percent, round, seconds, few } from "./format.js";
import { onLanguage, t } from "./words.js";

const HEIGHT = 132;
const NARROWEST = 120;

/** The charts. `title`, series' `name` and `unit` are functions: the language may change. */
function plans(target, objective) {
  return [
    {
      id: "first-content",
      title: () => t("chart_first_content"),
      series: [
        { key: "first_content_p50_s", name: () => t("p50"), colour: "--line-1" },
        { key: "first_content_p95_s", name: () => t("p95"), colour: "--line-2" },
      ],
      unit: seconds,
      tick: round,
      line: target,
      // A single wait of a minute must not press all others flat: it leaves the chart instead.
      range: (most) => [0, Math.max(target * 1.2, Math.min(most * 1.1, target * 4))],
    },
    {
      id: "rate",
      title: () => t("chart_rate"),
      series: [
        { key: "rate_per_s", name: () => t("rate"), colour: "--line-1", fill: true },
        { key: "error_rate", name: () => t("error_rate"), colour: "--line-bad", fill: true },
      ],
      unit: (value) => t("rate_unit", { value: few(value) }),
      tick: few,
      line: null,
      range: (most) => [0, Math.max(0.2, most * 1.15)],
    },
    {
      id: "slo",
      title: () => t("chart_slo", { target: round(target) }),
      series: [{ key: "slo_share", name: () => t("share"), colour: "--line-good", fill: true }],
      unit: percent,
      tick: (value) => percent(value, 0),
      line: objective,
      low: true,
      range: (_, least) => [Math.min(0.5, Math.floor(least * 10) / 10), 1.02],
    },
  ];
}

/** Builds the charts in `holder`; the function it returns shows a history. */
export function startCharts(holder) {
  let charts = [];
  let made = "";
  let latest = null;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const again = () => {
    made = "";
    if (latest !== null) show(latest);
  };
  dark.addEventListener("change", again);
  onLanguage(again);
  new ResizeObserver(() => charts.forEach((chart) => chart.fit())).observe(holder);
  return show;

  function show(data) {
    latest = data;
    const { slo_target_s: target, slo_objective: objective } = data.window;
    const wanted = `${target} ${objective}`;
    if (wanted !== made) {
      charts.forEach((chart) => chart.destroy());
      charts = plans(target, objective).map((plan) => new Chart(holder, plan));
      made = wanted;
    }
    const { history } = data;
    const errors = history.errors.map((n) => (n === null ? null : n / history.step_s));
    charts.forEach((chart) => chart.show({ ...history, error_rate: errors }));
  }
}

class Chart {
  #plan;
  #figure;
  #plot;
  #drawing;
  #values = [];
  #history = null;

  constructor(holder, plan) {
    this.#plan = plan;
    this.#drawing = el("div", { class: "drawing", role: "img", id: `chart-${plan.id}` });
    const caption = el("figcaption", {}, el("b", {}, plan.title()), ...this.#legend());
    this.#figure = el("figure", { class: "chart" }, caption, this.#drawing);
    holder.append(this.#figure);
    this.#plot = new globalThis.uPlot(this.#options(), this.#columns(null), this.#drawing);
  }

  show(history) {
    this.#history = history;
    this.#plot.setData(this.#columns(history));
    this.#drawing.setAttribute("aria-label", this.#inWords());
    this.#tell(null);
  }

  fit() {
    this.#plot.setSize({ width: this.#width(), height: HEIGHT });
  }

  destroy() {
    this.#plot.destroy();
    this.#figure.remove();
  }

  #width() {
    return Math.max(NARROWEST, Math.floor(this.#drawing.clientWidth));
  }

  #columns(history) {
    if (history === null) return [[], ...this.#plan.series.map(() => [])];
    return [history.time, ...this.#plan.series.map(({ key }) => history[key])];
  }

  #legend() {
    return this.#plan.series.map((one, index) => {
      const value = (this.#values[index] = el("output", { class: "num", "aria-live": "off" }, "–"));
      const swatch = el("span", { class: `swatch swatch${one.colour.slice(1)}` });
      return el("span", { class: "series", "aria-hidden": "true" }, swatch, `${one.name()} `, value);
    });
  }

  /** The values at an index of the history; null for the latest there are. */
  #tell(index) {
    this.#plan.series.forEach(({ key }, place) => {
      const values = this.#history?.[key] ?? [];
      const value = index === null ? values.findLast((one) => one !== null) : values[index];
      setText(this.#values[place], this.#plan.unit(value));
    });
  }

  #inWords() {
    const { series, unit, title, low } = this.#plan;
    const told = series.map(({ key, name }) => {
      const values = this.#history[key].filter((one) => one !== null);
      if (values.length === 0) return `${name()}: ${t("chart_empty")}`;
      const now = unit(values.at(-1));
      return low
        ? t("chart_value_low", { name: name(), now, least: unit(Math.min(...values)) })
        : t("chart_value", { name: name(), now, most: unit(Math.max(...values)) });
    });
    return t("chart_now", { title: title(), values: told.join("; ") });
  }

  #options() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = {
      stroke: colour("--quiet"),
      font: "11px system-ui, sans-serif",
      grid: { stroke: colour("--grid"), width: 1 },
      ticks: { show: false },
    };
    return {
      width: this.#width(),
      height: HEIGHT,
      padding: [8, 18, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
      scales: { y: { range: (_, least, most) => this.#plan.range(most ?? 0, least ?? 1) } },
      axes: [
        { ...axis, size: 22, space: 60, values: (_, at) => at.map((one) => clock(one, false)) },
        { ...axis, size: 44, space: 28, values: (_, at) => at.map((one) => this.#plan.tick(one)) },
      ],
      series: [
        {},
        ...this.#plan.series.map((one) => ({
          stroke: colour(one.colour),
          fill: one.fill ? `${colour(one.colour)}26` : undefined,
          width: 1.5,
          points: { size: 3, space: 0, show: lonely },
        })),
      ],
      hooks: {
        setCursor: [(plot) => this.#tell(plot.cursor.idx ?? null)],
        draw: [(plot) => this.#drawLine(plot, colour("--target"))],
      },
    };
  }

  /** The target, as a dashed line over the chart. */
  #drawLine(plot, colour) {
    if (this.#plan.line === null) return;
    const { ctx, bbox } = plot;
    const y = Math.round(plot.valToPos(this.#plan.line, "y", true));
    ctx.save();
    ctx.strokeStyle = colour;
    ctx.lineWidth = devicePixelRatio * 1.5;
    ctx.setLineDash([6 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
    ctx.restore();
  }
}

/** Points are drawn where a line cannot be: few values, with holes between them. */
function lonely(plot, series) {
  return plot.data[series].filter((one) => one !== null).length < 12;
}
