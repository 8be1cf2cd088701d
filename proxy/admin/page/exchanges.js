// The exchanges that have ended: recent ones as they come, or the slowest, or the failed.

import { Detail } from "./detail.js";
import { byId, setText } from "./dom.js";
import { Failed, load } from "./live.js";
import { legend } from "./stages.js";
import { Waterfall } from "./waterfall.js";
import { onLanguage, t } from "./words.js";

const MOST = 50;
const REFRESH = 2000; // ms between two looks at the slowest and the failed

export function startExchanges() {
  let target = 5;
  const detail = new Detail(target);
  const table = new Waterfall(byId("waterfall"), (id, from) => detail.open(id, from));
  const kinds = [...byId("kinds").querySelectorAll("button")];
  const pause = byId("pause");
  let kind = "recent";
  let shown = [];
  let fresh = []; // newest first; those that came while paused or before the next drawing
  let paused = false;
  let missed = 0;
  let drawing = false;
  let refreshing = 0;

  legend(byId("legend"));
  onLanguage(() => {
    legend(byId("legend"));
    table.relabel();
    draw();
  });
  for (const button of kinds) button.addEventListener("click", () => choose(button.dataset.kind));
  pause.addEventListener("click", () => {
    paused = !paused;
    draw();
    if (!paused && kind !== "recent") reload();
  });
  return { add, reload, skipped, target: aim };

  function add(summary) {
    if (kind !== "recent") {
      refreshing ||= setTimeout(() => {
        refreshing = 0;
        if (!paused) reload();
      }, REFRESH);
      return;
    }
    fresh.unshift(summary);
    fresh.length = Math.min(fresh.length, MOST);
    soon();
  }

  function skipped(count) {
    missed += count;
    soon();
  }

  function aim(seconds) {
    if (seconds === target) return;
    target = seconds;
    detail.target(seconds);
    soon();
  }

  async function reload() {
    const asked = kind;
    try {
      const { exchanges } = await load(`/admin/exchanges?kind=${asked}&limit=${MOST}`);
      if (asked !== kind || (paused && shown.length > 0)) return;
      shown = asked === "recent" ? merged(shown, exchanges) : exchanges.slice(0, MOST);
      missed = 0;
    } catch (error) {
      if (!(error instanceof Failed)) throw error; // the live stream tells of it
    }
    soon();
  }

  function choose(next) {
    kind = next;
    [shown, fresh, paused, missed] = [[], [], false, 0];
    draw();
    reload();
  }

  /** Many may come in a moment: they are drawn together. */
  function soon() {
    if (drawing) return;
    drawing = true;
    requestAnimationFrame(() => {
      drawing = false;
      draw();
    });
  }

  function draw() {
    if (!paused && fresh.length > 0) {
      const known = new Set(fresh.map((one) => one.request_id));
      shown = [...fresh, ...shown.filter((one) => !known.has(one.request_id))].slice(0, MOST);
      fresh = [];
    }
    table.show(shown, target);
    for (const button of kinds) {
      button.setAttribute("aria-pressed", String(button.dataset.kind === kind));
    }
    pause.setAttribute("aria-pressed", String(paused));
    setText(pause, t(paused ? "resume" : "pause"));
    const waiting = paused && fresh.length > 0 ? t("pending", { count: fresh.length }) : "";
    setText(byId("pending"), waiting || (missed > 0 ? t("skipped", { count: missed }) : ""));
  }
}

/** Newest first, each once: some may have come live while the list was on its way. */
function merged(live, listed) {
  const each = new Map([...live, ...listed].map((one) => [one.request_id, one]));
  return [...each.values()].sort((a, b) => b.time - a.time).slice(0, MOST);
}
