// The state of the connection, for eyes and for screen readers: told when it changes, not more.

import { byId, setText } from "./dom.js";
import { onLanguage, t } from "./words.js";

const WORDS = {
  connecting: "connecting",
  live: "live",
  stale: "stale",
  lost: "no_connection",
  hidden: "paused_hidden",
};

/** Shows states as they are told; `retry` is called by the button. */
export function startConnection(retry) {
  const line = byId("connection");
  const button = byId("retry");
  let state = "connecting";
  button.addEventListener("click", retry);
  onLanguage(show);
  show();
  return (next) => {
    state = next;
    show();
  };

  function show() {
    line.dataset.state = state;
    setText(line, t(WORDS[state]));
    button.hidden = state !== "lost";
    // What is old is marked as such wherever live data stands.
    document.body.classList.toggle("old", state === "lost" || state === "stale");
  }
}
