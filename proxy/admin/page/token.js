// The operator's token: typed in once, known to every form of the page, kept for this tab only.

const REMEMBERED = "glm-proxy.token";
const fields = [];

/** `field` holds the token from now on, and so does every other such field. */
export function tokenField(field) {
  field.value = remembered();
  fields.push(field);
  field.addEventListener("input", () => {
    for (const other of fields) if (other !== field) other.value = field.value;
  });
}

/** As it was typed in, or an empty text. */
export const token = () => fields[0]?.value.trim() ?? "";

/** It was accepted: a reload of the page need not ask for it. */
export function keepToken() {
  try {
    sessionStorage.setItem(REMEMBERED, token());
  } catch {
    // It is asked for again after a reload.
  }
}

// Storage may be forbidden; then the token is known as long as it stands in its field.
function remembered() {
  try {
    return sessionStorage.getItem(REMEMBERED) ?? "";
  } catch {
    return "";
  }
}
