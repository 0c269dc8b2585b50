/** The texts of the page's language, and how numbers, times and sizes are written in it. */

const all = JSON.parse(document.getElementById("texts").textContent);
/** The page's language, such as `en`. */
export const language = document.documentElement.lang;
const plural = new Intl.PluralRules(language);

/**
 * Return a text; `{name}` in it becomes a value.
 * @param {string} key
 * @param {Object<string, string|number>} [values]
 * @returns {string}
 */
export function t(key, values = {}) {
  const text = all[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

/**
 * Return a text about a number: `KEY.one` or `KEY.other`, with `{n}`.
 * @param {string} key
 * @param {number} n
 * @param {Object<string, string|number>} [values]
 * @returns {string}
 */
export function count(key, n, values = {}) {
  const form = plural.select(n) === "one" ? "one" : "other";
  return t(`${key}.${form}`, { n: number(n), ...values });
}

/**
 * @param {number} value
 * @param {number} [digits] significant ones at most
 * @returns {string}
 */
export function number(value, digits = 15) {
  return value.toLocaleString(language, { maximumSignificantDigits: digits });
}

/**
 * Return a time in words, in its one or two largest units: `2 h 10 min`.
 * @param {number} seconds
 * @returns {string}
 */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return t("time.seconds", { n: whole });
  const minutes = Math.round(whole / 60);
  if (minutes < 60) return t("time.minutes", { n: minutes });
  return t("time.hours", { hours: Math.floor(minutes / 60), minutes: minutes % 60 });
}

/**
 * @param {number} bytes
 * @returns {string}
 */
export function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  let value = bytes;
  while (value >= 1000 && at < units.length - 1) {
    value /= 1000;
    at += 1;
  }
  return `${number(value, 3)} ${units[at]}`;
}
