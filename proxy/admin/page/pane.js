// One side of the playground: the tokens as they come, and the time of each stage.

import { linkTo } from "./detail.js";
import { el, label, setAttribute, setText } from "./dom.js";
import { count, few, seconds } from "./format.js";
import { t } from "./words.js";

const MOST_TEXT = 200_000; // characters shown; the rest is counted, not shown
const TIMES = ["headers_at", "first_token_at", "first_content_at", "done_at", "token_rate"];
const FACTS = ["tokens_used", "served", "attempts"];
// What upstreams say when there was no key at all; 1001 is GLM's code for it.
const KEY_MISSING = /missing|not received|not provided|required|未收到/i;

export class Pane {
  #way;
  #title;
  #state;
  #note;
  #request;
  #answer;
  #block = null;
  #shown = 0;
  #values = {};
  #names = [];
  run = null;

  constructor(holder, way) {
    this.#way = way;
    this.#title = el("h3", { id: `pane-title-${way}` });
    this.#state = el("p", { class: "pane-state quiet" });
    this.#answer = el("div", { class: "answer", tabindex: "0", role: "group" });
    this.#note = el("p", { class: "notice", hidden: true });
    this.#request = el("a", { class: "mono" });
    const list = el("dl", { class: "times" });
    for (const word of [...TIMES, ...FACTS]) list.append(this.#entry(word));
    list.append(this.#entry("request_id", "wide"));
    this.#values.request_id.replaceChildren(this.#request);
    const parts = [this.#title, this.#state, list, this.#note, this.#answer];
    holder.append(el("section", { class: "pane", id: `pane-${way}`, "aria-labelledby": this.#title.id }, ...parts));
    this.relabel();
  }

  /** Writes words and figures in the language of now; the answer stays as it is. */
  relabel() {
    setText(this.#title, t(`way_${this.#way}`));
    this.#answer.setAttribute("aria-label", t("answer"));
    for (const [node, word] of this.#names) setText(node, t(word));
    this.show();
  }

  /** A new run: {begun, asked, head, first_token, first_content, done, error, …}; `asked` is sent. */
  begin(asked) {
    this.run = { begun: performance.now(), asked, over: false };
    this.#answer.replaceChildren();
    [this.#block, this.#shown] = [null, 0];
    this.show();
  }

  take(event, data) {
    const { run } = this;
    if (event === "head") run.head = data;
    if (event === "delta") this.#delta(data);
    if (event === "done") run.done = data;
    if (event === "error") run.error = data;
    run.latest = data.t_s ?? run.latest;
    this.show();
  }

  /** The run is over; `problem` are words on why, when it did not end by itself. */
  end(problem = null) {
    const { run } = this;
    if (run.over) return;
    run.over = true;
    run.problem = problem;
    if (run.error) this.#tell("problem", inWords(run.error));
    this.show();
  }

  #delta({ kind, text, t_s: at }) {
    const { run } = this;
    run.first_token ??= at;
    if (kind === "content") run.first_content ??= at;
    else run.thought = true;
    run.deltas = (run.deltas ?? 0) + 1;
    this.#shown += text.length;
    if (this.#shown > MOST_TEXT) return;
    if (this.#block?.dataset.kind !== kind) {
      const words = kind === "reasoning" ? t("reasoning_label") : null;
      this.#block = el("p", { class: `text ${kind === "reasoning" ? "reasoning" : ""}`, dir: "auto", "aria-label": words });
      this.#block.dataset.kind = kind;
      this.#answer.append(this.#block);
    }
    const below = this.#answer.scrollHeight - this.#answer.scrollTop - this.#answer.clientHeight;
    this.#block.append(text);
    if (below < 24) this.#answer.scrollTop = this.#answer.scrollHeight; // who reads above stays there
  }

  #tell(name, text) {
    this.#answer.append(el("p", { class: name, dir: "auto" }, text));
  }

  #entry(word, place = null) {
    const name = el("dt");
    this.#names.push([name, word]);
    this.#values[word] = el("dd", {}, "–");
    return el("div", { class: place }, name, this.#values[word]);
  }

  show() {
    const run = this.run ?? {};
    const { head, done } = run;
    const headers = head?.headers ?? {};
    const { input, output } = tokens(done);
    const first = done?.ttft_s ?? run.first_token;
    const values = {
      headers_at: seconds(head?.t_s),
      first_token_at: seconds(first),
      first_content_at: seconds(done?.first_content_s ?? run.first_content),
      done_at: seconds(done?.t_s),
      token_rate: done && output > 1 && done.t_s > first ? few(output / (done.t_s - first)) : "–",
      tokens_used: output === undefined ? "–" : t("tokens_value", { input: count(input), output: count(output) }),
      served: this.#way === "direct" ? sent(run.asked) : served(headers),
      attempts: label(headers["x-glm-proxy-attempts"]),
    };
    for (const [word, value] of Object.entries(values)) setText(this.#values[word], value);
    setText(this.#state, this.#stateText());
    const note = this.run === null ? "" : remark(run);
    this.#note.hidden = note === "";
    setText(this.#note, note);
    this.#showRequest(headers);
  }

  /** Through the proxy it is one of its exchanges, which is kept when it is over. */
  #showRequest({ "x-request-id": id, "x-log-id": log }) {
    setText(this.#request, label(id ?? log));
    const known = this.#way === "proxied" && id && this.run.over;
    setAttribute(this.#request, "href", known ? linkTo(id) : null);
  }

  #stateText() {
    const { run } = this;
    if (run === null) return t("idle_pane");
    if (run.problem) return run.problem();
    if (run.error) return t("finished_with", { reason: label(run.error.code) });
    if (run.done) return t("finished_with", { reason: label(run.done.finish_reason) });
    if (run.over) return t("broken");
    return t(run.first_token === undefined ? "asking" : "answering");
  }
}

function inWords({ status, code, message }) {
  const which = [status, code].filter((part) => part !== null && part !== undefined);
  return `${which.map((part) => label(part)).join(" ")}: ${label(message, 4000)}`;
}

function tokens(done) {
  const usage = done?.usage ?? {};
  return {
    input: usage.prompt_tokens ?? usage.input_tokens,
    output: usage.completion_tokens ?? usage.output_tokens,
  };
}

/** What a newcomer would miss in the figures, in words; mostly nothing. */
function remark(run) {
  if (run.error) return lacksKey(run) ? t("key_missing") : "";
  if (!run.done || run.first_content !== undefined) return "";
  if (!run.thought) return t("no_text");
  const { output } = tokens(run.done);
  const words = output === undefined ? t("no_text_uncounted") : t("no_text_thinking", { count: count(output) });
  return run.done.finish_reason === "length" ? words + t("between") + t("no_text_hint") : words;
}

function lacksKey({ asked, error: { status, code, message } }) {
  return status === 401 && !asked.key && (code === "1001" || KEY_MISSING.test(message ?? ""));
}

const served = (headers) => at(headers["x-glm-proxy-model"], headers["x-glm-proxy-endpoint"]);
const sent = (asked) => at(asked?.model, asked?.endpoint);

function at(...parts) {
  const known = parts.filter(Boolean).map((part) => label(part));
  return known.length > 0 ? known.join(" @ ") : "–";
}
