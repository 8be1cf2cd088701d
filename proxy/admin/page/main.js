// The page: what comes from the proxy goes to the part that shows it.

import { startConnection } from "./connection.js";
import { byId, label, setText } from "./dom.js";
import { startExchanges } from "./exchanges.js";
import { age } from "./format.js";
import { Failed, Live, load } from "./live.js";
import { startModels } from "./models.js";
import { startNow } from "./now.js";
import { startPlayground } from "./playground.js";
import { startTables } from "./tables.js";
import { onLanguage, startWords, t } from "./words.js";

startWords(byId("language"));

const now = startNow();
const tables = startTables();
const exchanges = startExchanges();
const playground = startPlayground();
const models = startModels();
const show = startConnection(() => live.now());
let latest = null;

const live = new Live({
  state: show,
  status,
  opened: () => Promise.all([exchanges.reload(), settings(), models.reload()]),
  exchange: (one) => exchanges.add(one),
  skipped: ({ count }) => exchanges.skipped(count),
});

onLanguage(head);
live.now();

function status(data) {
  const digest = latest?.digest;
  latest = { ...latest, ...data };
  head();
  now.show(data);
  tables.show(data);
  models.show(data);
  exchanges.target(data.window.slo_target_s);
  playground.target(data.window.slo_target_s);
  if (digest !== undefined && data.digest !== digest) settings();
}

/** What does not change from second to second: asked for at each new connection, and when other
 * settings are in use. */
async function settings() {
  let data;
  try {
    data = await load("/admin/status");
  } catch (error) {
    if (error instanceof Failed) return; // the live stream tells of it
    throw error;
  }
  status(data);
  playground.choices(data);
  models.choices(data);
  setText(byId("settings-text"), data.settings ?? t("settings_none"));
}

function head() {
  if (latest === null) return;
  const reasons = (latest.reasons ?? []).map((reason) => label(reason)).join(", ");
  setText(byId("version"), label(latest.version));
  setText(byId("readiness"), latest.ready ? t("ready") : t("not_ready", { reasons }));
  byId("readiness").className = latest.ready ? "good" : "bad";
  setText(byId("uptime"), t("uptime", { time: age(latest.uptime_s) }));
}
