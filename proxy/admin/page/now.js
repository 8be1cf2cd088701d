// The figures of the last minute.

import { startCharts } from "./charts.js";
import { byId, setAttribute, setClass, setText } from "./dom.js";
import { count, few, percent, round, seconds } from "./format.js";
import { onLanguage, t } from "./words.js";

export function startNow() {
  const chart = startCharts(byId("charts"));
  let latest = null;
  onLanguage(() => latest !== null && figures(latest));
  return { show };

  function show(data) {
    latest = data;
    figures(data);
    chart(data);
  }
}

function figures(data) {
  const { window: last } = data;
  objective(last);
  setText(byId("first-content-p50"), seconds(last.first_content_p50_s));
  setText(byId("first-content-p95"), seconds(last.first_content_p95_s));
  const late = last.first_content_p95_s !== null && last.first_content_p95_s > last.slo_target_s;
  setClass(byId("first-content-p95"), late ? "bad" : "");
  setText(byId("ttfb-p50"), seconds(last.ttfb_p50_s));
  setText(byId("ttfb-p95"), seconds(last.ttfb_p95_s));
  setText(byId("ttft-p50"), seconds(last.ttft_p50_s));
  setText(byId("rate"), few(last.rate_per_s));
  setText(byId("in-flight"), count(data.in_flight));
  setText(byId("finished"), t("finished", { count: count(data.finished) }));
  setText(byId("errors"), count(last.errors));
  setClass(byId("errors"), last.errors > 0 ? "bad" : "");
}

/** The share of exchanges in time, against the objective: the figure that matters most. */
function objective(last) {
  const { slo_share: share, slo_objective: wanted } = last;
  const target = round(last.slo_target_s);
  const words = { target, objective: percent(wanted), share: percent(share), count: count(last.slo_count) };
  setText(byId("slo-label"), t("slo_label", words));
  const met = share === null ? null : share >= wanted;
  setClass(byId("slo"), `figure-slo ${met === null ? "" : met ? "met" : "missed"}`);
  setText(byId("slo-verdict"), met === null ? "" : t(met ? "slo_met" : "slo_missed"));
  setText(byId("slo-share"), percent(share));
  setText(byId("slo-count"), share === null ? t("slo_none", words) : t("slo_count", words));
  byId("slo-bar").style.width = `${100 * (share ?? 0)}%`;
  byId("slo-mark").style.left = `${100 * wanted}%`;
  const text = share === null ? t("slo_none", words) : t("slo_meter", words);
  setAttribute(byId("slo-meter"), "aria-label", text);
}
