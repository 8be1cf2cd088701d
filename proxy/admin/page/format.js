// Numbers as people read them, in the page's language. Times come in seconds.

import { t, tag } from "./words.js";

const NOTHING = "–";
const known = (value) => typeof value === "number" && Number.isFinite(value);

function digits(value, most, least = 0) {
  const options = { maximumFractionDigits: most, minimumFractionDigits: least };
  return new Intl.NumberFormat(tag(), options).format(value);
}

/** 0.4 ms, 420 ms, 4.21 s, 2 min 5 s */
export function seconds(value) {
  if (!known(value)) return NOTHING;
  const ms = value * 1000;
  if (ms < 9.95) return t("unit_ms", { value: digits(ms, 1) });
  if (ms < 999.5) return t("unit_ms", { value: digits(ms, 0) });
  if (value < 9.995) return t("unit_s", { value: digits(value, 2, 2) });
  if (value < 99.95) return t("unit_s", { value: digits(value, 1, 1) });
  return age(value);
}

/** A round time, such as a target: 5 s. */
export function round(value) {
  return known(value) ? t("unit_s", { value: digits(value, 2) }) : NOTHING;
}

/** 12 s, 2 min 5 s, 3 h 4 min, 2 d 3 h */
export function age(value) {
  if (!known(value)) return NOTHING;
  const s = Math.floor(value);
  const [d, h, min] = [Math.floor(s / 86400), Math.floor(s / 3600), Math.floor(s / 60)];
  if (min === 0) return t("unit_s", { value: s });
  if (h === 0) return t("unit_min", { min, s: s % 60 });
  if (d === 0) return t("unit_h", { h, min: min % 60 });
  return t("unit_d", { d, h: h % 24 });
}

export const count = (value) => (known(value) ? digits(value, 0) : NOTHING);

/** Two or three figures: 0.42, 4.2, 42, 420 */
export function few(value) {
  if (!known(value)) return NOTHING;
  return digits(value, value < 1 ? 2 : value < 10 ? 1 : 0);
}

export function percent(value, most = 1) {
  if (!known(value)) return NOTHING;
  // 99.96 % is not "100 %": a share that is missed never looks met.
  const scale = 100 * 10 ** most;
  const cut = value < 1 ? Math.floor(value * scale + 1e-9) / scale : value;
  const options = { style: "percent", maximumFractionDigits: most };
  return new Intl.NumberFormat(tag(), options).format(cut);
}

/** A moment (unix seconds) as 23 Nov, 14:03 */
export function moment(value) {
  if (!known(value)) return NOTHING;
  const options = { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  return new Intl.DateTimeFormat(tag(), options).format(new Date(value * 1000));
}

/** A moment (unix seconds) as 14:03:21 */
export function clock(value, withSeconds = true) {
  if (!known(value)) return NOTHING;
  const options = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  if (withSeconds) options.second = "2-digit";
  return new Intl.DateTimeFormat(tag(), options).format(new Date(value * 1000));
}
