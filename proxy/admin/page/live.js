// The stream of live data. While the page is hidden it is closed: nothing is done for nobody.

const SILENCE = 5000; // ms without a status, after which the figures count as old
const PAUSES = [500, 1000, 2000, 4000, 8000]; // ms before each new try

/**
 * Calls `on.state("connecting" | "live" | "stale" | "lost" | "hidden")` when that changes,
 * `on.opened()` at each new connection and `on.status`, `on.exchange`, `on.skipped` with the data.
 */
export class Live {
  #on;
  #source = null;
  #failures = 0;
  #retry = 0;
  #silence = 0;
  #state = "";

  constructor(on) {
    this.#on = on;
    document.addEventListener("visibilitychange", () => this.#look());
    window.addEventListener("pagehide", () => this.#close());
    window.addEventListener("pageshow", () => this.#look());
    window.addEventListener("online", () => this.now());
  }

  /** Connects at once, unless it is connected. */
  now() {
    if (document.hidden || this.#source?.readyState === EventSource.OPEN) return;
    this.#failures = 0;
    this.#open();
  }

  #look() {
    if (document.hidden) {
      this.#close();
      this.#tell("hidden");
    } else if (this.#source === null) {
      this.now();
    }
  }

  #open() {
    this.#close();
    if (this.#state !== "lost") this.#tell("connecting");
    const source = (this.#source = new EventSource("/admin/live"));
    source.addEventListener("open", () => this.#on.opened());
    source.addEventListener("status", (event) => {
      this.#failures = 0;
      this.#tell("live");
      this.#listen();
      this.#on.status(JSON.parse(event.data));
    });
    source.addEventListener("exchange", (event) => this.#on.exchange(JSON.parse(event.data)));
    source.addEventListener("skipped", (event) => this.#on.skipped(JSON.parse(event.data)));
    // The browser would try again by itself, but not after an answer that is an error.
    source.addEventListener("error", () => this.#lost());
    this.#listen();
  }

  /** Waits for the next status. */
  #listen() {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#tell("stale"), SILENCE);
  }

  #lost() {
    this.#close();
    this.#tell("lost");
    const pause = PAUSES[Math.min(this.#failures, PAUSES.length - 1)];
    this.#failures += 1;
    this.#retry = setTimeout(() => this.#open(), pause);
  }

  #close() {
    clearTimeout(this.#retry);
    clearTimeout(this.#silence);
    this.#source?.close();
    this.#source = null;
  }

  #tell(state) {
    if (state === this.#state) return;
    this.#state = state;
    this.#on.state(state);
  }
}

/** GET as JSON. Throws Failed when the answer is none, or is an error. */
export async function load(path) {
  let answer;
  try {
    answer = await fetch(path, { cache: "no-store" });
  } catch {
    throw new Failed(0, "");
  }
  if (!answer.ok) throw new Failed(answer.status, answer.statusText);
  return answer.json();
}

export class Failed extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}
