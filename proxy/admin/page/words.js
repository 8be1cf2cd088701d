// The language of the page: chosen once, remembered, changed by a button.

import en from "./words_en.js";
import zh from "./words_zh.js";

const LANGUAGES = { en: { words: en, tag: "en" }, zh: { words: zh, tag: "zh-CN" } };
const REMEMBERED = "glm-proxy.language";
const changed = [];

let current = "en";

/** The words for a key, with `{name}` filled in. */
export function t(key, values = {}) {
  const text = LANGUAGES[current].words[key];
  if (text === undefined) throw new Error(`no words for ${key}`);
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

/** The words for a key of a family, or the plain value: what a newer proxy may say. */
export function named(family, value) {
  return LANGUAGES[current].words[`${family}_${value}`] ?? null;
}

export const tag = () => LANGUAGES[current].tag;

/** Calls `redraw` whenever the language has changed. */
export function onLanguage(redraw) {
  changed.push(redraw);
}

export function startWords(button) {
  use(remembered() ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en"));
  button.addEventListener("click", () => {
    use(other());
    remember(current);
  });

  function use(language) {
    current = language;
    document.documentElement.lang = LANGUAGES[language].tag;
    const next = LANGUAGES[other()];
    button.textContent = next.words.language;
    button.lang = next.tag;
    fill(document);
    for (const redraw of changed) redraw();
  }
}

const other = () => (current === "en" ? "zh" : "en");

/** Writes the words into everything in `root` that names a key. */
export function fill(root) {
  for (const node of root.querySelectorAll("[data-word]")) {
    const text = t(node.dataset.word);
    if (node.textContent !== text) node.textContent = text;
  }
  for (const node of root.querySelectorAll("[data-word-label]")) {
    node.setAttribute("aria-label", t(node.dataset.wordLabel));
  }
}

// Storage may be forbidden; then the language is the browser's each time.
function remembered() {
  try {
    const language = localStorage.getItem(REMEMBERED);
    return language in LANGUAGES ? language : null;
  } catch {
    return null;
  }
}

function remember(language) {
  try {
    localStorage.setItem(REMEMBERED, language);
  } catch {
    // It lasts as long as the page.
  }
}
