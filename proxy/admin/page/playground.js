// The playground: one prompt, through the proxy and past it at the same moment.

import { byId, el, label, setText } from "./dom.js";
import { Pane } from "./pane.js";
import { Race } from "./race.js";
import { events } from "./sse.js";
import { keepToken, token, tokenField } from "./token.js";
import { onLanguage, t } from "./words.js";

const TICK = 100; // ms between two drawings of the race

export function startPlayground() {
  const panes = { proxied: new Pane(byId("panes"), "proxied"), direct: new Pane(byId("panes"), "direct") };
  const race = new Race(panes);
  const form = byId("ask");
  const [send, stop] = [byId("send"), byId("stop")];
  let running = null; // the AbortController of both ways
  let shown = null; // the latest choices
  let problem = null; // words, as a function: the language may change

  tokenField(byId("token"));
  byId("prompt").value = t("prompt_example");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (running === null) ask();
  });
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  stop.addEventListener("click", () => running?.abort());
  onLanguage(() => {
    if (shown !== null) choices(shown);
    Object.values(panes).forEach((pane) => pane.relabel());
    race.draw();
    race.verdict();
    tell(problem);
  });
  busy(false);
  return { choices, target: (seconds) => race.target(seconds) };

  /** What can be asked, from the proxy's status. */
  function choices(data) {
    shown = data;
    const { enabled, reason } = data.playground ?? { enabled: false, reason: null };
    byId("playground-off").hidden = enabled;
    form.hidden = !enabled;
    const why = reason ? t("playground_off", { reason: label(reason, 1000) }) : t("playground_off_plain");
    setText(byId("playground-off"), enabled ? "" : why);
    const routes = (data.routes ?? []).filter((route) => route.example_model);
    const named = routes.map((route) => [
      route.example_model,
      t("route_option", { route: label(route.name, 60), model: label(route.example_model, 60) }),
    ]);
    const models = (data.models ?? []).map((model) => [model, label(model, 80)]);
    fill(byId("model"), [group(t("group_routes"), named), group(t("group_models"), models)]);
    const endpoints = (data.endpoints ?? []).map(({ name }) => option(name, label(name, 80)));
    fill(byId("endpoint"), endpoints);
    fill(byId("direct-model"), [option("", t("same_model")), ...models.map((one) => option(...one))]);
  }

  async function ask() {
    tell(token() === "" ? () => t("token_missing") : null);
    if (token() === "") {
      byId("token").focus();
      return;
    }
    running = new AbortController();
    busy(true);
    setText(byId("verdict"), "");
    const clock = setInterval(() => document.hidden || race.draw(), TICK);
    const { proxied, direct } = bodies();
    try {
      await Promise.all([one("proxied", proxied), one("direct", direct)]);
    } finally {
      clearInterval(clock);
      running = null;
      busy(false);
      race.draw();
      race.verdict();
    }
  }

  /** One way, to its end. Everything that can go wrong is told in its pane. */
  async function one(way, body) {
    const pane = panes[way];
    pane.begin(body);
    try {
      const answer = await fetch("/admin/playground", {
        method: "POST",
        headers: { Authorization: `Bearer ${token()}`, "Content-Type": "application/json" },
        body: JSON.stringify(body),
        signal: running.signal,
        cache: "no-store",
      });
      if (!answer.ok) {
        await refused(pane, answer);
        return;
      }
      keepToken();
      for await (const { event, data } of events(answer)) pane.take(event, JSON.parse(data));
      pane.end();
    } catch (error) {
      if (error.name === "AbortError") pane.end(() => t("stopped"));
      else if (error instanceof TypeError) pane.end(() => t(pane.run.head ? "broken" : "unreachable"));
      else throw error;
    }
  }

  async function refused(pane, answer) {
    const { error } = await answer.json().catch(() => ({})); // a 404 or 500 may be plain text
    const reason = label(error?.message ?? answer.statusText, 1000);
    const { status } = answer;
    const words = () => {
      if (status === 401) return t("token_wrong");
      return status === 403 ? t("not_allowed", { reason }) : t("refused", { status, reason });
    };
    tell(words);
    pane.end(words);
  }

  function bodies() {
    const common = { prompt: byId("prompt").value, model: byId("model").value };
    const most = byId("max-tokens").valueAsNumber;
    if (Number.isInteger(most)) common.max_tokens = most;
    if (byId("thinking").value) common.thinking = byId("thinking").value;
    if (byId("key").value) common.key = byId("key").value;
    const direct = { ...common, way: "direct", endpoint: byId("endpoint").value };
    if (byId("direct-model").value) direct.model = byId("direct-model").value;
    return { proxied: { ...common, way: "proxied" }, direct };
  }

  /** Not `disabled`: a button that has the focus would lose it. */
  function busy(is) {
    send.setAttribute("aria-disabled", String(is));
    stop.setAttribute("aria-disabled", String(!is));
  }

  function tell(words) {
    problem = words;
    const line = byId("ask-problem");
    line.hidden = words === null;
    setText(line, words === null ? "" : words());
  }
}

const option = (value, text) => el("option", { value }, text);

function group(name, options) {
  return el("optgroup", { label: name }, ...options.map((one) => option(...one)));
}

/** New options; what was chosen stays chosen if there still is such a one. */
function fill(select, children) {
  const index = select.selectedIndex;
  const before = select.options[index];
  select.replaceChildren(...children.filter((child) => child.tagName === "OPTION" || child.children.length));
  if (select.options[index]?.value === before?.value && index >= 0) select.selectedIndex = index;
  else if (before && [...select.options].some(({ value }) => value === before.value)) select.value = before.value;
}
