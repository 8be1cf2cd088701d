// Small helpers for the document. Text from outside only ever becomes a text node.

const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/gu;
const LABEL_LIMIT = 200;

export const byId = (id) => document.getElementById(id);

/** A new element: `el("td", {class: "num", title: "…"}, child, "text")`. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children);
  return node;
}

/** Writes only what differs: a selection in unchanged text survives. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setClass(node, name) {
  if (node.className !== name) node.className = name;
}

export function setAttribute(node, name, value) {
  if (value === null || value === undefined) node.removeAttribute(name);
  else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/** Text from outside as a label: what turns the direction or cannot be seen is spelled out. */
export function label(value, limit = LABEL_LIMIT) {
  if (value === null || value === undefined || value === "") return "–";
  const spelled = String(value).replace(INVISIBLE, spell);
  return spelled.length > limit ? `${spelled.slice(0, limit)}…` : spelled;
}

function spell(character) {
  const code = character.codePointAt(0);
  return code === 10 || code === 9 ? " " : `‹U+${code.toString(16).toUpperCase().padStart(4, "0")}›`;
}

/** Sets a label, with its own direction of writing; a tooltip has what does not fit. */
export function setLabel(node, value) {
  const text = label(value);
  setText(node, text);
  setAttribute(node, "dir", "auto");
  setAttribute(node, "title", text.length > 18 ? label(value, 1000) : null);
}
