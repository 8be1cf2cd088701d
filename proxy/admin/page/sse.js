// Server-sent events of an answer to POST, which EventSource cannot ask for.

/** Yields {event, data} as they come; `data` is text. Throws what reading the answer throws. */
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const block = new Block();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return; // half an event is no event
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        const whole = block.take(line);
        if (whole !== null) yield whole;
      }
    }
  } finally {
    await reader.cancel().catch(() => {}); // it may have failed already
  }
}

/** Lines become an event at an empty one (the HTML standard, section 9.2.6). */
class Block {
  #event = "message";
  #data = [];

  take(line) {
    if (line === "") {
      const whole = this.#data.length > 0 ? { event: this.#event, data: this.#data.join("\n") } : null;
      [this.#event, this.#data] = ["message", []];
      return whole;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.#event = value;
    else if (field === "data") this.#data.push(value);
    return null;
  }
}
